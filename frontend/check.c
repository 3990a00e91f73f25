/*
 * check.c - `galvatronc check FILE.gdl --plan P`: is the program that this plan makes of this model the same program?
 *
 * A copy of the user's model is made small, the plan is fitted to it, and both run two steps in the interpreter in
 * float64: the module at level train on one rank, and what the plan makes of it on all its ranks, in order and in an
 * adversarial order. Loss and all parameters must agree.
 *
 * What is made smaller: the numbers and axes the file gives as literals, by --set. First those that change how many
 * layers there are: the fewest with which every piece of the plan (a run's layers of one type in one stage) still has
 * one. Then microbatches and the batch, then the other extents, each to the least with which the small model still
 * elaborates and lowers under the plan. Where an extent divides by a degree of the plan its small one does too, and
 * where it does not, its small one does not: padding stays padding. Nothing is assumed of names but `batch`.
 */
#include "frontend/check.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "frontend/evaluate.h"

enum { STEPS = 2, MAX_SET = 96, TRIALS = 48 };
static const double TOLERANCE = 1e-9;

typedef struct Check {
	Ctx *c;
	const Module *m; /* the user's, with its plan */
	const FeOptions *fe;
	const CheckPasses *passes;
	FeNumber *number; /* may change */
	int64_t *small;   /* [nnumbers] */
	uint32_t nnumbers;
	uint32_t microbatches;
	int64_t size; /* of the small model so far */
	char set[MAX_SET][160];
	const char *sets[MAX_SET];
} Check;

/* A compilation of its own, silent. */
static void
ctx_open(Ctx *t, const Ctx *c)
{
	*t = (Ctx){.perm = arena_new(),
		   .tmp = arena_new(),
		   .precision = DT_f64,
		   .threads = c->threads,
		   .forward_only = c->forward_only};
	t->names = names_new(t->perm);
	t->diag = diag_new(t->perm, t->names, NULL);
}

static void
ctx_close(Ctx *t)
{
	arena_free(t->tmp);
	arena_free(t->perm);
}

/* ---- the small model ---- */

/* The user's --set first; the last one counts. */
static int
sets_of(Check *k)
{
	int n = 0;
	for (; n < k->fe->nset && n < MAX_SET; n++)
		k->sets[n] = k->fe->set[n];
	for (uint32_t i = 0; i < k->nnumbers && n < MAX_SET; i++) {
		if (k->small[i] == k->number[i].value) continue;
		snprintf(k->set[n], sizeof k->set[n], "%s=%" PRId64,
			 name_str(k->c->names, k->number[i].name), k->small[i]);
		k->sets[n] = k->set[n];
		n++;
	}
	return n;
}

static Module *
load_small(Check *k, Ctx *t)
{
	FeOptions fe = *k->fe;
	fe.nset = sets_of(k);
	fe.set = k->sets;
	fe.precision = DT_f64;
	return fe_load(t, &fe);
}

/* ---- the plan of the small model ---- */

typedef struct Part { /* consecutive layers of one type, one run, one stage */
	const char *type;
	uint32_t count, run, stage;
} Part;

static const char *
type_name(const Module *m, uint32_t inst)
{
	return name_str(m->names, m->types[m->insts[inst].type].name);
}

/* The pieces of the plan; without it, of the layers' types alone. */
static Part *
pieces_of(const Module *m, const Plan *p, Arena *a, uint32_t *n)
{
	Part *out = NEW_N(a, Part, m->ninsts + 1);
	uint32_t run = 0, stage = 0;
	*n = 0;
	for (uint32_t i = 0; i < m->ninsts; i++) {
		while (p && i >= p->runs[run].first + p->runs[run].count)
			run++;
		while (p && i >= p->stages[stage].first + p->stages[stage].count)
			stage++;
		Part x = {type_name(m, i), 1, run, stage};
		Part *last = *n ? &out[*n - 1] : NULL;
		if (last && !strcmp(last->type, x.type) && last->run == run &&
		    last->stage == stage)
			last->count++;
		else
			out[(*n)++] = x;
	}
	return out;
}

/* Deals the layers of the small model to the pieces of the plan; counts are changed. False: it has not a layer for each. */
static bool
deal(Part *piece, uint32_t n, const Part *have, uint32_t nhave)
{
	uint32_t at = 0;
	for (uint32_t h = 0; h < nhave; h++) {
		uint32_t from = at, left = have[h].count;
		while (at < n && !strcmp(piece[at].type, have[h].type))
			at++;
		if (at == from || left < at - from) return false;
		left -= at - from;
		for (uint32_t i = from; i < at;
		     i++) { /* one each, the rest to the first that had more */
			uint32_t more = piece[i].count - 1 < left ? piece[i].count - 1 : left;
			if (i + 1 == at) more = left;
			piece[i].count = 1 + more;
			left -= more;
		}
	}
	return at == n;
}

/* Gives `m`, at level train, the user's plan, fitted. False: it has too few layers. */
static bool
fit_plan(const Check *k, Module *m)
{
	const Plan *p = &k->m->plan;
	Plan q = *p;
	uint32_t n, nhave, at = 0;
	Part *piece = pieces_of(k->m, p, m->arena, &n);
	Part *have = pieces_of(m, NULL, m->arena, &nhave);
	if (!deal(piece, n, have, nhave)) return false;
	q.microbatches = k->microbatches;
	q.meshes = arena_dup(m->arena, p->meshes, sizeof *p->meshes * p->nmeshes);
	q.runs = arena_dup(m->arena, p->runs, sizeof *p->runs * p->nruns);
	q.stages = arena_dup(m->arena, p->stages, sizeof *p->stages * p->nstages);
	for (uint32_t i = 0; i < q.nmeshes; i++) {
		q.meshes[i].name = name_of(m->names, name_str(k->m->names, p->meshes[i].name));
		q.meshes[i].ax[0].degree = q.microbatches;
	}
	for (uint32_t i = 0; i < q.nruns; i++) {
		q.runs[i].count = 0;
		q.runs[i].loc = (Loc){0};
	}
	for (uint32_t i = 0; i < q.nstages; i++) {
		q.stages[i].count = 0;
		if (q.stages[i].slots > q.microbatches) q.stages[i].slots = q.microbatches;
	}
	for (uint32_t i = 0; i < n; at += piece[i++].count) {
		Strategy *r = &q.runs[piece[i].run];
		Stage *s = &q.stages[piece[i].stage];
		if (!r->count) r->first = at;
		if (!s->count) s->first = at;
		r->count += piece[i].count;
		s->count += piece[i].count;
	}
	m->plan = q;
	return true;
}

/* The small model at level plan, under the plan; NULL: it is none. */
static Module *
plan_small(Check *k, Ctx *t)
{
	Module *m = load_small(k, t);
	if (!m || !k->passes->train(t, &m) || !fit_plan(k, m)) return NULL;
	m->level = LV_plan;
	return ir_verify(m, t->diag, "check") ? m : NULL;
}

/* Elements of all values of a forward pass: what there is to compute. */
static int64_t
size_of(const Module *m)
{
	int64_t n = 0;
	for (uint32_t i = 0; i < m->ninsts; i++) {
		const Body *f = &m->bodies[m->types[m->insts[i].type].body[BK_F]];
		for (uint32_t v = 1; v < f->nvals; v++)
			n += type_count(m, NULL, &f->vals[v].type);
	}
	return n;
}

/* Whether the small model lowers under the plan, and is no larger than before: a smaller divisor makes others larger. */
static bool
lowers(Check *k)
{
	Ctx t;
	ctx_open(&t, k->c);
	Module *m = plan_small(k, &t);
	int64_t size = m ? size_of(m) : INT64_MAX;
	bool ok = m && size <= k->size && k->passes->rest(&t, &m, false);
	if (ok) k->size = size;
	ctx_close(&t);
	return ok;
}

/* ---- shrinking ---- */

static bool
is_batch(const Check *k, uint32_t i)
{
	return strcmp(name_str(k->c->names, k->number[i].name), "batch") == 0;
}

/* How many layers the small model has; 0: it is none. */
static uint32_t
layers_with(Check *k)
{
	Ctx t;
	ctx_open(&t, k->c);
	Module *m = load_small(k, &t);
	uint32_t n = m ? m->ninsts : 0;
	ctx_close(&t);
	return n;
}

/* Whether number i says how often layers are repeated; then it takes the least value that leaves a layer for each piece. */
static bool
shrink_layers(Check *k, uint32_t i)
{
	int64_t full = k->small[i];
	uint32_t n = layers_with(k), less;
	k->small[i] = full - 1;
	less = layers_with(k);
	k->small[i] = full;
	if (!less || less >= n) return false;
	for (int64_t v = 1; v < full; v++) {
		Ctx t;
		ctx_open(&t, k->c);
		k->small[i] = v;
		Module *m = load_small(k, &t);
		bool ok = m && k->passes->train(&t, &m) && fit_plan(k, m);
		ctx_close(&t);
		if (ok) return true;
	}
	k->small[i] = full;
	return true;
}

/* Does v divide by the degrees of `kind` in every mesh as `full` does? At least one each is asked for. */
static bool
divides_alike(const Check *k, MeshKind kind, int64_t v, int64_t full)
{
	const Plan *p = &k->m->plan;
	for (uint32_t i = 0; i < p->nmeshes; i++) {
		int64_t all = 1;
		for (int j = 1; j < p->meshes[i].n; j++) {
			int64_t d = p->meshes[i].ax[j].degree;
			if (p->meshes[i].ax[j].kind != kind) continue;
			if ((v % d == 0) != (full % d == 0)) return false;
			all *= d;
		}
		if ((v % all == 0) != (full % all == 0)) return false;
		if (kind == MX_dp && v < all) return false;
	}
	return true;
}

/* Enough microbatches for all phases of the schedule, of as few samples as the plan splits. */
static void
shrink_batch(Check *k)
{
	const Plan *p = &k->m->plan;
	uint32_t enough = p->nstages + 1;
	for (uint32_t i = 0; i < k->nnumbers; i++) {
		if (!is_batch(k, i) || k->number[i].value % p->microbatches) continue;
		int64_t full = k->number[i].value / p->microbatches, v = full > 1 ? 2 : 1;
		k->microbatches = p->microbatches < enough ? p->microbatches : enough;
		while (v < full && !divides_alike(k, MX_dp, v, full))
			v++;
		k->small[i] = v * k->microbatches;
		if (lowers(k)) return;
		k->small[i] = k->number[i].value;
		k->microbatches = p->microbatches;
	}
}

static void
shrink_extent(Check *k, uint32_t i)
{
	int64_t full = k->small[i];
	int trials = 0;
	for (int64_t v = full >= 16 ? 4 : 2; v < full && trials < TRIALS; v++) {
		if (!divides_alike(k, MX_tp, v, full)) continue;
		k->small[i] = v;
		if (lowers(k)) return;
		trials++;
	}
	k->small[i] = full;
}

static bool
shrink(Check *k)
{
	if (!fe_numbers(k->c, k->fe, &k->number, &k->nnumbers)) return false;
	bool *repeats = NEW_N(k->c->perm, bool, k->nnumbers + 1);
	k->small = NEW_N(k->c->perm, int64_t, k->nnumbers + 1);
	for (uint32_t i = 0; i < k->nnumbers; i++)
		k->small[i] = k->number[i].value;
	for (uint32_t i = 0; i < k->nnumbers; i++)
		repeats[i] = !is_batch(k, i) && shrink_layers(k, i);
	shrink_batch(k);
	if (!lowers(k)) return true; /* said later */
	for (int64_t before = 0, turn = 0; before != k->size && turn < 3; turn++) {
		before = k->size;
		for (uint32_t i = 0; i < k->nnumbers; i++)
			if (!repeats[i] && !is_batch(k, i)) shrink_extent(k, i);
	}
	return true;
}

static void
print_shrunk(const Check *k)
{
	const Plan *p = &k->m->plan;
	const char *gap = "";
	printf("check   %s on %" PRIu32 " rank%s in %" PRIu32 " stage%s; made small: ",
	       name_str(k->m->names, k->m->model), p->ranks, p->ranks == 1 ? "" : "s",
	       p->nstages, p->nstages == 1 ? "" : "s");
	for (uint32_t i = 0; i < k->nnumbers; i++) {
		if (k->small[i] == k->number[i].value) continue;
		printf("%s%s %" PRId64 " -> %" PRId64, gap,
		       name_str(k->c->names, k->number[i].name), k->number[i].value,
		       k->small[i]);
		gap = ", ";
	}
	if (k->microbatches != p->microbatches) {
		printf("%smicrobatches %" PRIu32 " -> %" PRIu32, gap, p->microbatches,
		       k->microbatches);
		gap = ", ";
	}
	puts(*gap ? "" : "nothing");
	fflush(stdout); /* running many ranks takes a while */
}

/* ---- running and comparing ---- */

typedef struct Result {
	double loss[STEPS];
	double **param; /* [nparams] of the train level */
	size_t *count;
} Result;

/* STEPS steps of `m`; `train` names its inputs and parameters. False after a diagnostic. */
static bool
run_steps(Ctx *t, const Module *m, const Module *train, const EvalOptions *o, Result *out)
{
	double norm;
	Eval *e = eval_new(m, o, t->diag);
	bool ok = e != NULL;
	for (uint64_t s = 0; ok && s < STEPS; s++)
		ok = evaluate_feed(t, train, e, o->seed, s) && eval_run(e, &out->loss[s]) &&
		     (t->forward_only || eval_update(e, s, &norm));
	out->param = NEW_N(t->perm, double *, train->nparams);
	out->count = NEW_N(t->perm, size_t, train->nparams);
	for (uint32_t p = 0; ok && p < train->nparams; p++) {
		const double *x;
		out->count[p] = eval_get(e, name_str(train->names, train->params[p].name), &x);
		out->param[p] = arena_dup(t->perm, x, sizeof *x * out->count[p]);
	}
	if (e) eval_free(e);
	return ok;
}

static double
off(double x, double y)
{
	double d = fabs(x - y), m = fabs(x);
	if (!(d == d)) return INFINITY;
	return m > 0 ? d / m : d;
}

/* ||x - y|| and ||x|| of a parameter, squared. */
static void
distance(const Result *a, const Result *b, uint32_t p, double *d2, double *x2)
{
	*d2 = a->count[p] == b->count[p] ? 0 : INFINITY;
	*x2 = 0;
	for (size_t i = 0; i < a->count[p] && *d2 < INFINITY; i++) {
		double x = a->param[p][i], d = x - b->param[p][i];
		*d2 = d == d ? *d2 + d * d : INFINITY;
		*x2 += x * x;
	}
}

/* Prints how far `b` is from `a`. Whether they agree. */
static bool
compare(const Module *train, const Result *a, const Result *b, const char *order)
{
	double loss = 0, d2 = 0, x2 = 0, worst = -1;
	uint32_t which = 0;
	for (int s = 0; s < STEPS; s++)
		loss = fmax(loss, off(a->loss[s], b->loss[s]));
	for (uint32_t p = 0; p < train->nparams; p++) {
		double d, x;
		distance(a, b, p, &d, &x);
		double far = sqrt(d) / (sqrt(x) + 1e-300);
		if (far > worst) worst = far, which = p;
		d2 += d;
		x2 += x;
	}
	double params = x2 > 0 ? sqrt(d2 / x2) : sqrt(d2);
	bool same = loss <= TOLERANCE && params <= TOLERANCE;
	printf("%-7s %s: loss %.17g, off by %.2g; parameters after %d steps off by %.2g",
	       same ? "PASS" : "FAIL", order, b->loss[STEPS - 1], loss, STEPS, params);
	if (worst >= 0)
		printf(" (most %s, %.2g)", name_str(train->names, train->params[which].name),
		       worst);
	putchar('\n');
	return same;
}

static int
fail(const Check *k, const Ctx *t, const char *what)
{
	diag_error(k->c->diag, (Loc){0}, "the small copy of the model %s: %s", what,
		   diag_first(t->diag));
	return 1;
}

static int
compare_runs(Check *k, bool show)
{
	static const char *const order[] = {"in order", "in an adversarial order"};
	Ctx one, many;
	Result a, b;
	int status = 0;
	ctx_open(&one, k->c);
	ctx_open(&many, k->c);
	Module *train = load_small(k, &one), *m = plan_small(k, &many);
	EvalOptions o = {.f64 = true, .seed = 1, .train = true, .ranks = 1};
	if (m && show) {
		Buf text;
		buf_init(&text, many.perm);
		plan_print(m, &text);
		fputs(text.s, stdout);
	}
	if (!train || !k->passes->train(&one, &train) || !m ||
	    !k->passes->rest(&many, &m, true))
		status = fail(k, &many, "does not compile under the plan");
	else if (!run_steps(&one, train, train, &o, &a))
		status = fail(k, &one, "does not run on one rank");
	for (int i = 0; !status && i < 2; i++) {
		o.ranks = m->plan.ranks;
		o.adversarial = i == 1;
		o.order_seed = 1;
		if (!run_steps(&many, m, train, &o, &b))
			return fail(k, &many, "does not run under the plan");
		status |= !compare(train, &a, &b, order[i]);
	}
	ctx_close(&many);
	ctx_close(&one);
	return status;
}

int
check_plan(Ctx *c, const Module *m, const FeOptions *fe, const CheckPasses *passes,
	   bool explain)
{
	Check *k = NEW(c->perm, Check);
	*k = (Check){
	    .c = c, .m = m, .fe = fe, .passes = passes, .microbatches = m->plan.microbatches};
	k->size = INT64_MAX;
	if (!shrink(k)) return 1;
	print_shrunk(k);
	return compare_runs(k, explain);
}
