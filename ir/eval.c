/*
 * eval.c - the reference interpreter: what a module of any level means.
 *
 * Input: a verified module, contents of parameters and inputs. Output: loss, reports, gradients, state after an update.
 * It is the oracle that autodiff, partitioning, schedules, memory plans and emitted programs are held against, so it is
 * simple before it is fast: dense tensors of double, one op after the other, values rounded to their type after each.
 *
 *   graph             F of every instance
 *   train, plan       F of every instance, B and W in reverse, then N; U by eval_update
 *   spmd              the same for every microbatch, on every rank of every stage with its shards
 *   sched             the action table, with its slots
 *   mem               the same, every value at its planned bytes
 */
#include "ir/eval.h"

#include <math.h>
#include <string.h>

/* ---- making one ---- */

static Eval *
eval_make(const Module *m, const EvalOptions *o, Diag *d)
{
	Arena *a = arena_new();
	Eval *e = NEW(a, Eval);

	e->arena = a, e->m = m, e->o = *o, e->diag = d;
	e->wide = o->f64;
	e->placed = m->level >= LV_mem;
	return e;
}

/* First values that are drawn, from (seed, name of the file entry, element of it). */
static void
draw_param(const Eval *e, uint32_t param, double *x, int64_t n)
{
	const Param *p = &e->m->params[param];
	const char *name = name_str(e->m->names, p->name), *open = strchr(name, '{'),
		   *close = open ? strchr(open, '}') : NULL;
	int64_t shape[MAX_AXES], entries;
	int ndims;
	Arena *tmp = arena_new();

	entries = ir_param_entries(e->m, param, shape, &ndims);
	for (int64_t i = 0; i < entries; i++) {
		uint64_t key;
		Buf b;

		buf_init(&b, tmp);
		if (p->per.i && close)
			buf_printf(&b, "%.*s%lld%s", (int)(open - name), name, (long long)i,
				   close + 1);
		else
			buf_puts(&b, name);
		key = rng_key(e->o.seed, b.s);
		for (int64_t k = 0; k < n / entries; k++)
			*x++ = p->init == INIT_normal
				   ? p->init_a * rng_normal(key, (uint64_t)k)
				   : p->init_a + (p->init_b - p->init_a) *
						     rng_uniform(key, (uint64_t)k);
	}
	arena_free(tmp);
}

/* First values: drawn, or a constant, or a constant tensor broadcast to the axes. */
static bool
init_param(Eval *e, uint32_t param)
{
	const Module *m = e->m;
	const Param *p = &m->params[param];
	Tensor t = eval_tensor(m, NULL, NULL, &p->type);
	Arena *tmp = arena_new();
	bool ok = true;

	t.x = NEW_N(tmp, double, t.n + 1);
	if (p->init == INIT_value)
		for (int64_t i = 0; i < t.n; i++)
			t.x[i] = p->init_a;
	if (p->init == INIT_normal || p->init == INIT_uniform) draw_param(e, param, t.x, t.n);
	if (p->init == INIT_const) {
		uint32_t k = (uint32_t)p->init_a;
		Tensor table = eval_tensor(m, NULL, NULL, &m->consts[k]);
		uint32_t from = 0; /* the first rank that has it */
		while (from + 1 < e->nranks && !e->ranks[from].consts[k].type)
			from++;
		ok = eval_load(e, &e->ranks[from], &e->ranks[from].consts[k], &table, tmp);
		Walk w = {0};
		walk_axes(&w, &t, NULL);
		walk_over(&w, 0, &t, NULL);
		walk_over(&w, 1, &table, NULL);
		while (ok && walk_next(&w))
			for (int64_t i = 0; i < w.len; i++)
				t.x[w.at[0] + i * w.by[0]] = table.x[w.at[1] + i * w.by[1]];
	}
	ok = ok && eval_set(e, name_str(m->names, p->name), t.x, (size_t)t.n);
	arena_free(tmp);
	return ok;
}

static bool
make_consts(Eval *e)
{
	const Module *m = e->m;

	if (!m->const_body) return true;
	const Body *b = &m->bodies[m->const_body];
	for (uint32_t i = 0; i < e->nranks; i++) {
		Rank *r = &e->ranks[i];
		Place *ports = NEW_N(r->body, Place, b->nports);
		for (uint32_t p = 0; p < b->nports; p++)
			ports[p] = r->consts[b->ports[p].slot];
		r->pc = r->end; /* nothing but this body */
		if (!eval_begin(e, r, b, m->ninsts, ports, false)) return false;
	}
	return eval_ranks(e);
}

/* Global room for what cross_entropy reads, if some F gives it out. */
static bool
make_logits(Eval *e)
{
	const Module *m = e->m;

	for (uint32_t i = 0; i < m->ninsts; i++) {
		const Body *f = &m->bodies[m->types[m->insts[i].type].body[BK_F]];
		const Port *p = ir_find_port(f, PORT_logits, 0);
		if (!p || e->logits.x) continue;
		e->logits_type = *val_type(f, p->v);
		e->logits = eval_tensor(m, NULL, NULL, &e->logits_type);
		e->logits.x = eval_doubles(e, e->arena, e->logits.n);
		if (!e->logits.x) return false;
	}
	return true;
}

Eval *
eval_new(const Module *m, const EvalOptions *o, Diag *d)
{
	Eval *e = eval_make(m, o, d);
	uint32_t planned = m->level >= LV_spmd && m->plan.ranks ? m->plan.ranks : 1;

	e->nranks = planned;
	e->input = NEW_N(e->arena, double *, m->ninputs);
	e->fetch = NEW_N(e->arena, double *, SEC_COUNT * m->nparams);
	e->report = NEW_N(e->arena, double, m->nreports);
	if (m->level >= LV_spmd && o->ranks && o->ranks != planned) {
		diag_error(d, (Loc){0}, "%u ranks were asked for, but the plan has %u",
			   o->ranks, planned);
		eval_free(e);
		return NULL;
	}
	bool ok = eval_setup(e) && make_logits(e) && make_consts(e);
	for (uint32_t i = 0; ok && i < m->nparams; i++)
		ok = m->params[i].borrows || init_param(e, i);
	if (ok) return e;
	eval_free(e);
	return NULL;
}

void
eval_free(Eval *e)
{
	if (!e) return;
	for (uint32_t i = 0; e->ranks && i < e->nranks; i++) {
		eval_forget(&e->ranks[i]);
		if (e->ranks[i].body) arena_free(e->ranks[i].body);
		if (e->ranks[i].op) arena_free(e->ranks[i].op);
	}
	arena_free(e->arena);
}

/* ---- values in and out ---- */

static int64_t
find_param(const Eval *e, const char *name)
{
	for (uint32_t i = 0; i < e->m->nparams; i++)
		if (!strcmp(name_str(e->m->names, e->m->params[i].name), name)) return i;
	return -1;
}

static bool
store_rounded(Eval *e, Rank *r, const Place *p, Tensor *part)
{
	part->t.dt = p->type->dt;
	for (int64_t k = 0; k < part->n; k++)
		part->x[k] = eval_round(part->t.dt, e->wide, part->x[k]);
	return eval_store(e, r, p, part);
}

/* Every rank that has some of it, or a copy, gets its part; of a weight in bf16 the master copy, too. */
static bool
set_param(Eval *e, uint32_t param, const Tensor *all)
{
	const Param *params = e->m->params;

	for (uint32_t n = 0; n < e->nranks * e->m->nparams; n++) {
		Rank *r = &e->ranks[n / e->m->nparams];
		uint32_t i = n % e->m->nparams, coord[MAX_MESH];
		const Place *p = &r->weight[i];
		if ((i != param && params[i].borrows != param + 1) || !p->type) continue;
		if (e->staged && e->flats[params[i].owner].zero == 3 &&
		    r->state[SEC_param][i].ranged)
			p = &r->state[SEC_param][i];
		eval_coords(r, p->mesh, 0, coord);
		Tensor part = eval_tensor(e->m, p->mesh, coord, p->type);
		part.x = NEW_N(r->op, double, part.n + 1);
		eval_overlap(&part, all, false);
		bool ok = r->state[SEC_master][i].type
			      ? store_rounded(e, r, &r->state[SEC_master][i], &part)
			      : true;
		ok = ok && store_rounded(e, r, p, &part);
		arena_reset(r->op);
		if (!ok) return false;
	}
	return true;
}

static bool
set_input(Eval *e, uint32_t input, const double *x, int64_t n)
{
	const Input *in = &e->m->inputs[input];
	double range = in->range.i ? (double)ir_extent(e->m, in->range) : INFINITY;

	for (int64_t i = 0; i < n; i++)
		if (in->range.i && !(x[i] >= 0 && x[i] < range)) {
			diag_error(e->diag, in->loc,
				   "input '%s' holds %.17g at %lld, its range is 0 to %.0f",
				   name_str(e->m->names, in->name), x[i], (long long)i,
				   range - 1);
			return false;
		}
	if (!e->input[input]) e->input[input] = eval_doubles(e, e->arena, n);
	if (!e->input[input]) return false;
	for (int64_t i = 0; i < n; i++)
		e->input[input][i] = eval_round(in->type.dt, e->wide, x[i]);
	return true;
}

bool
eval_set(Eval *e, const char *name, const double *x, size_t n)
{
	const Module *m = e->m;
	int64_t k = find_param(e, name);

	if (k >= 0) {
		Tensor all = eval_tensor(m, NULL, NULL, &m->params[k].type);
		if ((size_t)all.n != n) return false;
		all.x = arena_dup(e->ranks[0].body, x, n * sizeof *x);
		bool ok = set_param(e, (uint32_t)k, &all);
		arena_reset(e->ranks[0].body);
		return ok;
	}
	for (uint32_t i = 0; i < m->ninputs; i++)
		if (!strcmp(name_str(m->names, m->inputs[i].name), name))
			return (size_t)type_count(m, NULL, &m->inputs[i].type) == n &&
			       set_input(e, i, x, (int64_t)n);
	return false;
}

/* A rank's part of a section of a parameter: where all of it should be right after a step, that is what is read. */
static Place
get_place(const Eval *e, const Rank *r, uint32_t param, Section s)
{
	const Place *p = &r->state[s][param];

	if (s == SEC_param && p->ranged && e->flats[e->m->params[param].owner].zero < 3)
		p = &r->weight[param];
	return *p;
}

/* NaN where a rank has something else than those before it: what several ranks have must be the same. */
static void
mark_differing(Tensor *all, const Tensor *part, Arena *tmp)
{
	Tensor have = *part, mark = *part;

	have.x = NEW_N(tmp, double, have.n + 1);
	mark.x = NEW_N(tmp, double, mark.n + 1);
	eval_overlap(&have, all, false);
	for (int64_t i = 0; i < have.n; i++)
		if (!(fabs(have.x[i] - part->x[i]) <= 1e-9 * fabs(part->x[i]) + 1e-12))
			mark.x[i] = NAN;
	eval_overlap(all, &mark, true);
}

/* The whole of a parameter's section, from all ranks that have a part, of several that have the same one from the first. */
static size_t
get_param(Eval *e, uint32_t param, Section s, const double **x)
{
	const Module *m = e->m;
	Tensor all = eval_tensor(m, NULL, NULL, &m->params[param].type);
	double **to = &e->fetch[(uint32_t)s * m->nparams + param];
	bool found = false;

	if (!*to) *to = eval_doubles(e, e->arena, all.n);
	if (!*to) return 0;
	all.x = *to;
	memset(all.x, 0, (size_t)all.n * sizeof *all.x);
	for (uint32_t i = 0; i < e->nranks; i++) {
		Rank *r = &e->ranks[i];
		const Place p = get_place(e, r, param, s);
		uint32_t coord[MAX_MESH];
		if (!p.type) continue;
		Type held = *p.type;
		found = true;
		eval_coords(r, p.mesh, 0, coord);
		if (p.ranged) held.flat = (uint16_t)ir_dp_mask(p.mesh);
		Tensor part = eval_tensor(m, p.mesh, coord, p.type);
		bool ok = eval_load(e, r, &p, &part, r->op);
		if (ok && eval_counts(p.mesh, coord, &held)) eval_overlap(&all, &part, true);
		if (ok && !p.ranged) mark_differing(&all, &part, r->op);
		arena_reset(r->op);
		if (!ok) return 0;
	}
	*x = all.x;
	return found ? (size_t)all.n : 0;
}

/* Buffers for what is handed out belong to the interpreter, whence the cast; contents of the module do not change. */
size_t
eval_get(const Eval *e, const char *name, const double **x)
{
	static const struct {
		const char *prefix;
		Section section;
	} sections[] = {
	    {"grad:", SEC_grad}, {"m:", SEC_m}, {"v:", SEC_v}, {"master:", SEC_master}};
	Eval *own = (Eval *)(uintptr_t)e;
	int64_t k = find_param(e, name);

	if (k >= 0) return get_param(own, (uint32_t)k, SEC_param, x);
	for (size_t i = 0; i < COUNTOF(sections); i++) {
		size_t len = strlen(sections[i].prefix);
		if (strncmp(name, sections[i].prefix, len)) continue;
		k = find_param(e, name + len);
		if (k >= 0) return get_param(own, (uint32_t)k, sections[i].section, x);
	}
	for (uint32_t i = 0; i < e->m->nreports; i++)
		if (!strcmp(name_str(e->m->names, e->m->reports[i].name), name))
			return *x = &e->report[i], 1;
	if (!strcmp(name, "logits") && e->logits.x)
		return *x = e->logits.x, (size_t)e->logits.n;
	return 0;
}

/* ---- a step ---- */

/* The action after which a step's gradients and norm are done: the first norm outside all loops; the end without one. */
static uint32_t
norm_at(const Rank *r, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if ((r->steps ? r->steps[i].a.kind : r->acts[i].kind) == ACT_norm) return i + 1;
	return n;
}

static uint32_t
program_length(const Eval *e, const Rank *r)
{
	if (e->o.program) return e->o.program[r->id].n;
	return e->m->level >= LV_sched && e->staged ? e->m->plan.stages[r->stage].nactions
						    : e->nown[r->stage];
}

/* Actions [0, norm] of every rank, or those after. What is begun before the norm may be waited for after it. */
static bool
run_part(Eval *e, bool update)
{
	bool ends = update;

	for (uint32_t i = 0; i < e->nranks; i++) {
		Rank *r = &e->ranks[i];
		uint32_t n = program_length(e, r), split = norm_at(r, n);
		r->pc = update ? split : 0;
		r->end = update ? n : split;
		ends |= split == n;
		r->nloops = 0, r->turn = 0;
		r->wait = NULL;
		r->f = (Frame){0};
		if (!update) eval_forget(r);
		arena_reset(r->body);
		arena_reset(r->op);
	}
	return eval_ranks(e) && (!ends || eval_left(e));
}

bool
eval_run(Eval *e, double *loss)
{
	double sumsq = 0;

	eval_reset(e);
	if (!run_part(e, false)) return false;
	memset(e->report, 0, e->m->nreports * sizeof *e->report);
	for (uint32_t i = 0; i < e->nranks; i++) {
		for (uint32_t k = 0; k < e->m->nreports; k++)
			e->report[k] += e->ranks[i].report[k];
		sumsq += e->ranks[i].sumsq;
	}
	e->norm = sqrt(sumsq);
	if (loss) *loss = e->m->nreports ? e->report[0] : 0;
	return true;
}

/* Clipping as torch.nn.utils.clip_grad_norm_ does it; t counts from 0, the bias corrections from 1. */
bool
eval_update(Eval *e, uint64_t t, double *norm)
{
	const Train *s = &e->m->train;

	if (e->m->level < LV_train || e->m->plan.forward_only) {
		diag_error(e->diag, (Loc){0},
			   "a module of level '%s' that only runs forward cannot be updated",
			   level_str[e->m->level]);
		return false;
	}
	e->scalars[0] = train_rate(s, t);
	e->scalars[1] = s->clip > 0 ? fmin(1, s->clip / (e->norm + 1e-6)) : 1;
	e->scalars[2] = 1 - pow(s->beta1, (double)(t + 1));
	e->scalars[3] = 1 - pow(s->beta2, (double)(t + 1));
	if (norm) *norm = e->norm;
	if (!run_part(e, true)) return false;
	e->step = t + 1;
	return true;
}

/* ---- one body ---- */

/* Rates and the name of a dropout site come from the first instance whose type has the body. */
static void
borrow_instance(const Module *m, const Body *b, Rank *r)
{
	for (uint32_t i = 0; i < m->ninsts; i++) {
		const LayerType *l = &m->types[m->insts[i].type];
		for (int k = 0; k < BK_COUNT; k++) {
			if (!l->body[k] || &m->bodies[l->body[k]] != b) continue;
			r->f.rates = m->insts[i].rates, r->f.nrates = l->nrates;
			r->f.site = name_str(m->names, m->insts[i].name);
			return;
		}
	}
	r->f.site = name_str(m->names, b->name);
}

/* One microbatch on all ranks. */
static bool
run_body(Eval *e, const Body *b, Place *ports, uint32_t mb)
{
	for (uint32_t i = 0; i < e->nranks; i++) {
		Rank *r = &e->ranks[i];
		r->pc = r->end = 0;
		r->mb = mb;
		borrow_instance(e->m, b, r);
		if (!eval_begin(e, r, b, e->m->ninsts, ports, true)) return false;
	}
	return eval_ranks(e);
}

/* in[p] and out[p] are whole tensors whatever the mesh: shards and microbatches are cut out and put together here. */
bool
eval_body(const Module *m, const Body *b, const EvalOptions *o, const double *const *in,
	  double **out, Arena *a, Diag *d)
{
	Eval *e = eval_make(m, o, d);
	const Mesh *mesh = ir_mesh(m, b);
	Place *ports = NEW_N(e->arena, Place, b->nports);
	uint32_t ranks = 1, nin = 0, nout = 0, nmb = mesh && mesh->n ? mesh->ax[0].degree : 1;
	bool ok = eval_setup(e);

	for (uint32_t i = 0; ok && i < b->nports; i++) {
		const Type *t = val_type(b, b->ports[i].v);
		int64_t n = type_count(m, NULL, t);
		double *x = port_is_in(b->ports[i].kind) ? eval_doubles(e, e->arena, n)
							 : eval_doubles(e, a, n);
		ports[i] = (Place){.x = x, .type = t};
		ok = x != NULL;
		if (!ok) break;
		if (!port_is_in(b->ports[i].kind))
			out[nout++] = x;
		else
			for (int64_t k = 0; k < n; k++)
				x[k] = eval_round(t->dt, e->wide, in[nin][k]);
		nin += port_is_in(b->ports[i].kind);
	}
	for (int k = 1; mesh && k < mesh->n; k++)
		ranks *= mesh->ax[k].degree;
	if (o->ranks && o->ranks != ranks) {
		diag_error(d, (Loc){0}, "%u ranks were asked for, but the body runs on %u",
			   o->ranks, ranks);
		ok = false;
	}
	e->ranks = NEW_N(e->arena, Rank, ranks);
	e->nranks = ranks;
	for (uint32_t i = 0; ok && i < ranks; i++) {
		e->ranks[i].ranks = ranks, e->ranks[i].slots = 1;
		ok = eval_add_rank(e, &e->ranks[i], i, b->scratch_bytes);
	}
	for (uint32_t mb = 0; ok && mb < nmb; mb++)
		ok = run_body(e, b, ports, mb);
	eval_free(e);
	return ok;
}
