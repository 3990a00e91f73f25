/*
 * mem.c - properties of lowering and of the memory plan, over models, microbatches and kinds of
 * recomputation:
 *
 *   no two buffers that are alive at one time overlap: in a body's scratch, and in the arena of
 *   every stage over the whole step, what is being sent and received included; the arena is at most 1.02 x the most bytes alive (models at shapes
 *   where tensors are not dust) the action table does not grow with layers or microbatches
 *   what level mem computes, at its planned bytes, is what level train computes: loss and every
 *   gradient, in double
 */
#include "tests/props/drawn.h"

#include <math.h>

static int checks;
static const char *drawn_plan; /* the one at hand */

static void GV_PRINTF(2, 3) check(bool ok, const char *fmt, ...)
{
	va_list ap;
	checks++;
	if (ok) return;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	if (drawn_plan) fprintf(stderr, "under this plan:\n%s", drawn_plan);
	exit(1);
}

enum { MAX_SET = 12 };

typedef struct Case {
	const char *path;
	const char *set[MAX_SET];
	uint32_t mb;
	Recompute rc;
} Case;

/* ---- compiling ---- */

typedef struct Job {
	Ctx c;
	Module *train, *mem;
} Job;

static Job
compile(const Case *k)
{
	Job j = {{.perm = arena_new(), .tmp = arena_new()}, NULL, NULL};
	FeOptions fe = {.path = k->path, .set = k->set, .host = true};
	PassOptions train = {.verify = true, .stop_after = "optimizer"},
		    all = {.verify = true, .roundtrip = true};
	while (fe.nset < MAX_SET && k->set[fe.nset])
		fe.nset++;
	j.c.names = names_new(j.c.perm);
	j.c.diag = diag_new(j.c.perm, j.c.names, stderr);
	j.c.microbatches = k->mb;
	j.c.recompute = k->rc;
	j.c.recompute_given = true;
	j.c.memory_bytes = INT64_MAX;
	j.mem = fe_load(&j.c, &fe);
	check(j.mem && pass_run_all(&j.c, &j.mem, &train), "%s does not reach level train",
	      k->path);
	j.train = ir_clone(j.mem, j.c.perm);
	check(pass_run_all(&j.c, &j.mem, &all), "%s does not reach level mem", k->path);
	return j;
}

static void
drop(Job *j)
{
	arena_free(j->c.tmp);
	arena_free(j->c.perm);
}

/* ---- bytes at one time ---- */

typedef struct Span {
	int64_t at, end;
	const char *what;
	uint32_t i, mb;
} Span;

/* An instance's frame in a slot: whose it is, and whether it is still to arrive. */
typedef struct Kept {
	bool on, coming;
	uint32_t mb;
} Kept;

/* One rank of a stage, in the middle of its table. */
typedef struct Bytes {
	const Module *m;
	const Memory *x;
	const Stage *stage;
	uint32_t slots;
	char when[120];
	Span s[8192];
	uint32_t n;
	Kept *frame; /* [slots * ninsts] */
	bool *cot;   /* [ncot] */
	bool *input; /* [slots] fetched */
	uint32_t *
	    users; /* [ninsts] of a reshard: 1 + who reads it last when going back; 0: nobody */
	uint32_t *sends;  /* [ninsts] messages that leave from its frame */
	uint32_t *sent;   /* [slots * ninsts] of those, how many have left */
	bool *flying;     /* [ninsts] of a reshard: its cotangent is on its way */
	uint32_t held[2]; /* 1 + whose parameters are in a gather buffer */
	bool coming[2];   /* on their way */
	uint32_t busy[2]; /* 1 + whose gradients are being summed in that buffer */
} Bytes;

static void
add(Bytes *b, const char *what, uint32_t i, uint32_t mb, int64_t at, int64_t bytes)
{
	if (bytes <= 0) return;
	check(b->n < COUNTOF(b->s), "%s: too much is alive", b->when);
	b->s[b->n++] = (Span){at, at + bytes, what, i, mb};
}

static int
by_place(const void *x, const void *y)
{
	const Span *a = x, *b = y;
	return a->at < b->at ? -1 : a->at > b->at;
}

static void
disjoint(Bytes *b)
{
	qsort(b->s, b->n, sizeof *b->s, by_place);
	for (uint32_t i = 0; i < b->n; i++)
		check(b->s[i].at >= 0 && b->s[i].end <= b->x->arena_bytes,
		      "%s: %s %u lies outside the arena", b->when, b->s[i].what, b->s[i].i);
	for (uint32_t i = 1; i < b->n; i++)
		check(b->s[i - 1].end <= b->s[i].at,
		      "%s: %s %u of microbatch %u and %s %u of %u overlap", b->when,
		      b->s[i - 1].what, b->s[i - 1].i, b->s[i - 1].mb, b->s[i].what, b->s[i].i,
		      b->s[i].mb);
}

static bool
here(const Bytes *b, uint32_t inst)
{
	return inst >= b->stage->first && inst - b->stage->first < b->stage->count;
}

static const LayerType *
type_of(const Module *m, uint32_t inst)
{
	return &m->types[m->insts[inst].type];
}

static int64_t
port_bytes(const Module *m, uint32_t inst, BodyKind bk, PortKind kind, uint16_t slot)
{
	uint32_t body = type_of(m, inst)->body[bk];
	const Port *p = body ? ir_find_port(&m->bodies[body], kind, slot) : NULL;
	return p ? type_bytes(m, val_mesh(m, &m->bodies[body], p->v),
			      val_type(&m->bodies[body], p->v))
		 : 0;
}

static Kept *
frame_of(const Bytes *b, uint32_t inst, uint32_t mb)
{
	return &b->frame[mb % b->slots * b->m->ninsts + inst];
}

/* Sections that live as long as the program, and every instance's frame between its F and
 * its last body. */
static void
add_lasting(Bytes *b)
{
	const Module *m = b->m;
	const Memory *x = b->x;
	b->n = 0;
	for (uint32_t k = 0; k < SEC_COUNT; k++)
		if (x->sec[k] >= 0) add(b, "state", k, 0, x->sec[k], x->sec_bytes[k]);
	for (uint32_t i = 0; i < m->nconsts; i++)
		add(b, "const", i, 0, x->consts + x->const_at[i],
		    type_bytes(m, NULL, &m->consts[i]));
	for (uint32_t k = 0; k < b->slots; k++) {
		int64_t slot = x->slots + k * x->slot_bytes;
		for (uint32_t i = 0; i < m->ninputs; i++)
			if (b->input[k] && x->input_at[i] >= 0)
				add(b, "input", i, k, slot + x->input_at[i],
				    type_bytes(m, &m->plan.meshes[m->inputs[i].mesh],
					       &m->inputs[i].type));
		for (uint32_t i = 0; i < m->ninsts; i++)
			if (b->frame[k * m->ninsts + i].on)
				add(b, "frame", i, b->frame[k * m->ninsts + i].mb,
				    slot + x->slot_at[i], type_of(m, i)->slot_frame);
	}
	for (uint32_t i = b->stage->first; x->cot && i < b->stage->first + b->stage->count; i++)
		for (uint16_t r = 0; r < type_of(m, i)->nouts; r++) {
			const Cot *c = &x->cot[x->cot_of[i] + r];
			if (b->cot[x->cot_of[i] + r])
				add(b, "cot", i, 0, x->cots + c->at + (i & 1 ? c->alt : 0),
				    port_bytes(m, i, BK_F, PORT_out, r));
		}
	for (uint32_t i = 0; i < m->ninsts; i++)
		if (x->back_at[i] >= 0 && b->flying[i])
			add(b, "cot that arrives", i, 0, x->cots + x->back_at[i],
			    port_bytes(m, i, BK_B, PORT_dx, 0));
	for (uint32_t k = 0; k < 2; k++) {
		if (b->held[k])
			add(b, "parameters of", b->held[k] - 1, 0,
			    x->gather + k * x->gather_bytes, x->flat_bytes[b->held[k] - 1]);
		if (b->busy[k])
			add(b, "gradients of", b->busy[k] - 1, 0, x->dwork + k * x->dwork_bytes,
			    x->flat_bytes[b->busy[k] - 1]);
	}
}

/* The scratch and the carries of the running body. */
static void
add_running(Bytes *b, uint32_t inst, BodyKind bk)
{
	const Module *m = b->m;
	const LayerType *t = type_of(m, inst);
	const Body *body = &m->bodies[t->body[bk]];
	add(b, "scratch", inst, 0, b->x->scratch, body->scratch_bytes);
	for (uint32_t i = 0; (bk == BK_B || bk == BK_W) && i < t->ncarry; i++)
		if (t->carry_at[i] >= 0)
			add(b, "carry", i, 0, b->x->carry + t->carry_at[i],
			    type_bytes(m, ir_mesh(m, body), &t->carry[i]));
}

/* ---- what bodies find and leave ---- */

static void
mark_cots(Bytes *b, uint32_t inst, BodyKind bk)
{
	const Module *m = b->m;
	const LayerType *t = type_of(m, inst);
	for (uint16_t r = 0; r < t->nouts; r++)
		if (port_bytes(m, inst, bk, PORT_cot, r)) b->cot[b->x->cot_of[inst] + r] = true;
	for (uint16_t a = 0; a < t->nargs; a++) {
		Ref ref = m->insts[inst].args[a];
		if (ref.kind != REF_result || !port_bytes(m, inst, bk, PORT_dx, a)) continue;
		b->cot[b->x->cot_of[ref.i] + ref.result] = true;
		check(!b->flying[ref.i], "%s: adds to the cotangent of %u, which is being sent",
		      b->when, ref.i);
	}
	for (uint32_t i = 0; i < m->ninsts; i++)
		check(!type_of(m, i)->reshard || m->insts[i].args[0].i != inst || !b->flying[i],
		      "%s: the cotangent that %u sends is still to come", b->when, i);
}

/* A frame begins: nobody reads what was there before. */
static void
begin_frame(Bytes *b, uint32_t inst, uint32_t mb)
{
	const LayerType *t = type_of(b->m, inst);
	Kept *k = frame_of(b, inst, mb);
	bool ends = t->body[BK_B] || t->body[BK_W] || b->sends[inst] || b->users[inst];
	check(!k->on || (!ends && k->mb < mb) || b->m->plan.forward_only,
	      "%s: slot %u still holds microbatch %u", b->when, mb % b->slots, k->mb);
	*k = (Kept){.on = true, .mb = mb};
	b->sent[mb % b->slots * b->m->ninsts + inst] = 0;
}

static void
end_frame(Bytes *b, uint32_t inst, uint32_t mb)
{
	Kept *k = frame_of(b, inst, mb);
	check(!k->on || k->mb == mb, "%s: the frame of %u holds microbatch %u", b->when, inst,
	      k->mb);
	k->on = false;
}

/* The arguments are there, and of the microbatch meant. */
static void
check_args(Bytes *b, uint32_t inst, BodyKind bk, uint32_t mb)
{
	const Module *m = b->m;
	for (uint16_t a = 0; a < type_of(m, inst)->nargs; a++) {
		Ref r = m->insts[inst].args[a];
		if (r.kind != REF_result || !port_bytes(m, inst, bk, PORT_arg, a)) continue;
		const Kept *k = frame_of(b, r.i, mb);
		check(type_of(m, r.i)->out_at[r.result] < 0 || (k->on && k->mb == mb),
		      "%s: reads a result of %u, which is not there", b->when, r.i);
		check(!k->coming, "%s: reads a result of %u, which is still to come", b->when,
		      r.i);
	}
	for (uint32_t w = 0; w < type_of(m, inst)->nweights; w++) {
		uint32_t p = m->insts[inst].params[w], k = m->params[p].owner % 2;
		if (!b->x->in_flat[p] || bk > BK_W) continue;
		if (ir_zero(m, m->params[p].owner) == 3 &&
		    port_bytes(m, inst, bk, PORT_weight, (uint16_t)w))
			check(b->held[k] == m->params[p].owner + 1 && !b->coming[k],
			      "%s: reads parameters that are not gathered", b->when);
	}
}

/* One body in the order of the table. */
static void
step(Bytes *b, uint32_t inst, BodyKind bk, uint32_t mb)
{
	const LayerType *t = type_of(b->m, inst);
	bool summed = b->x->flat_bytes[inst] && ir_zero(b->m, inst) >= 2;
	if (bk == BK_F) begin_frame(b, inst, mb);
	if (bk == BK_B || bk == BK_W) mark_cots(b, inst, bk);
	check_args(b, inst, bk, mb);
	if (bk == BK_W && summed) {
		check(!b->busy[inst % 2], "%s: the buffer of its gradients is being summed",
		      b->when);
		b->busy[inst % 2] = inst + 1;
	}
	add_lasting(b);
	add_running(b, inst, bk);
	disjoint(b);
	if (bk != BK_W && (bk != BK_B || t->body[BK_W])) return;
	if (!b->sends[inst]) end_frame(b, inst, mb);
	for (uint32_t i = b->stage->first; i < inst; i++)
		if (b->users[i] == inst + 1) end_frame(b, i, mb);
	for (uint16_t r = 0; r < t->nouts; r++)
		b->cot[b->x->cot_of[inst] + r] = false;
}

/* ---- communication ---- */

static void
move_value(Bytes *b, bool start, uint32_t inst, uint32_t mb)
{
	uint32_t from = b->m->insts[inst].args[0].i;
	if (here(b, inst)) {
		if (start) begin_frame(b, inst, mb);
		frame_of(b, inst, mb)->coming = start;
	} else if (!start && ++b->sent[mb % b->slots * b->m->ninsts + from] == b->sends[from]) {
		end_frame(b, from, mb);
	}
}

static void
move_cotangent(Bytes *b, bool start, uint32_t inst)
{
	const Module *m = b->m;
	Ref r = m->insts[inst].args[0];
	b->flying[inst] = start;
	if (here(b, inst) && start) b->cot[b->x->cot_of[inst]] = true;
	if (here(b, inst) && !start) b->cot[b->x->cot_of[inst]] = false;
	if (here(b, r.i) && (b->x->back_at[inst] < 0 || !start))
		b->cot[b->x->cot_of[r.i] + r.result] = true;
}

static void
communicate(Bytes *b, const Action *a)
{
	const Module *m = b->m;
	bool start = a->kind == ACT_start;
	uint32_t k = a->inst % 2, from;
	if (a->comm == CK_fwd) move_value(b, start, a->inst, a->mb);
	if (a->comm == CK_bwd) move_cotangent(b, start, a->inst);
	if (a->comm == CK_param && ir_zero(m, a->inst) == 3) {
		b->held[k] = a->inst + 1;
		b->coming[k] = start;
	}
	if (a->comm == CK_grad && ir_zero(m, a->inst) >= 2) {
		check(b->busy[k] == a->inst + 1, "%s: sums what is not there", b->when);
		if (!start) b->busy[k] = 0;
	}
	add_lasting(b);
	if (a->comm == CK_return) {
		from = m->params[a->inst].borrows - 1;
		if (here(b, m->params[from].owner))
			add(b, "a gradient that returns", from, 0, b->x->scratch,
			    type_bytes(m, ir_param_mesh(m, from), &m->params[from].type));
	}
	disjoint(b);
}

/* ---- a stage ---- */

static void
find_moves(Bytes *b)
{
	const Module *m = b->m;
	for (uint32_t i = m->ninsts; i-- > 0;)
		for (uint16_t a = 0; a < type_of(m, i)->nargs; a++) {
			Ref r = m->insts[i].args[a];
			if (r.kind != REF_result) continue;
			if (type_of(m, i)->reshard && here(b, r.i) && !here(b, i))
				b->sends[r.i]++;
			if (here(b, i) && type_of(m, r.i)->reshard &&
			    (type_of(m, i)->body[BK_B] || type_of(m, i)->body[BK_W]))
				b->users[r.i] = i + 1;
		}
}

static void
check_stage(const Module *m, uint32_t k)
{
	Bytes *b = calloc(1, sizeof *b);
	Arena *a = arena_new();
	Steps all = ir_expand(m, k, a);
	uint32_t n = m->ninsts + 1;
	b->m = m, b->x = &m->mem[k], b->stage = &m->plan.stages[k];
	b->slots = b->stage->slots ? b->stage->slots : 1;
	b->frame = NEW_N(a, Kept, (size_t)n * b->slots);
	b->sent = NEW_N(a, uint32_t, (size_t)n * b->slots);
	b->cot = NEW_N(a, bool, b->x->ncot + 1);
	b->input = NEW_N(a, bool, b->slots);
	b->users = NEW_N(a, uint32_t, n);
	b->sends = NEW_N(a, uint32_t, n);
	b->flying = NEW_N(a, bool, n);
	find_moves(b);
	for (uint32_t i = 0; i < all.n; i++) {
		const Action *x = &all.s[i].a;
		snprintf(b->when, sizeof b->when, "stage %u: %s %u of microbatch %u", k,
			 x->kind == ACT_body ? body_str[x->bk] : comm_str[x->comm], x->inst,
			 x->mb);
		if (x->kind == ACT_input) b->input[x->mb % b->slots] = true;
		if (x->kind == ACT_body) step(b, x->inst, x->bk, x->mb);
		if (x->kind == ACT_start || x->kind == ACT_wait) communicate(b, x);
		if (x->kind == ACT_norm) b->held[0] = b->held[1] = 0;
	}
	for (uint32_t i = 0; i < m->ninsts * b->slots && !m->plan.forward_only; i++) {
		const LayerType *t = type_of(m, i % m->ninsts);
		check(!b->frame[i].on || (!t->body[BK_B] && !t->body[BK_W]),
		      "stage %u: the frame of %u is never done with", k, i % m->ninsts);
	}
	arena_free(a);
	free(b);
}

/* ---- a body's scratch: alive from the kernel that writes it to the last that reads it,
 * views and take-overs followed ---- */

static uint32_t
owner_of(const Module *m, const Body *b, Val v)
{
	Access a;
	while (b->vals[v.i].space == SP_alias && ir_access(m, b, v, &a) && a.base.i != v.i)
		v = a.base;
	while (b->vals[v.i].over.i) {
		v = b->vals[v.i].over;
		while (b->vals[v.i].space == SP_alias && ir_access(m, b, v, &a) &&
		       a.base.i != v.i)
			v = a.base;
	}
	return v.i;
}

static void
check_body(const Module *m, const Body *b)
{
	uint32_t *first = calloc(b->nvals + 1, sizeof *first),
		 *last = calloc(b->nvals + 1, sizeof *last);
	uint32_t *step_of = calloc(b->nops + 1, sizeof *step_of), n = 1;
	for (uint32_t i = 0; i < b->nops; i++) {
		n += i && !(b->ops[i].kernel && b->ops[i].kernel == b->ops[i - 1].kernel);
		step_of[i] = n;
	}
	for (uint32_t i = 0; i < b->nops; i++) {
		for (int k = 0; k < b->ops[i].nin; k++)
			last[owner_of(m, b, b->ops[i].in[k])] = step_of[i];
		for (int k = 0; k < b->ops[i].nout; k++) {
			uint32_t v = b->ops[i].out[k].i, o = v ? owner_of(m, b, (Val){v}) : 0;
			if (!v || b->vals[v].space != SP_scratch) continue;
			if (!first[o]) first[o] = step_of[i];
			if (last[o] < step_of[i]) last[o] = step_of[i];
		}
	}
	for (uint32_t i = 1; i < b->nvals; i++) {
		const ValDef *x = &b->vals[i];
		if (x->space != SP_scratch || !first[i]) continue;
		int64_t xe = x->offset + type_bytes(m, ir_mesh(m, b), &x->type);
		check(x->offset % 64 == 0 && xe <= b->scratch_bytes, "%s lies outside scratch",
		      val_str(m, b, (Val){i}));
		for (uint32_t j = 1; j < i; j++) {
			const ValDef *y = &b->vals[j];
			if (y->space != SP_scratch || !first[j] || last[i] < first[j] ||
			    last[j] < first[i])
				continue;
			int64_t ye = y->offset + type_bytes(m, ir_mesh(m, b), &y->type);
			check(xe <= y->offset || ye <= x->offset,
			      "%s of %s: %%%s and %%%s overlap", body_str[b->kind],
			      name_str(m->names, b->name), val_str(m, b, (Val){i}),
			      val_str(m, b, (Val){j}));
		}
	}
	free(first);
	free(last);
	free(step_of);
}

/* ---- values ---- */

static double
random_at(uint64_t key, uint64_t i)
{
	return rng_uniform(key, i);
}

static Eval *
evaluate(const Module *m, Diag *d, double *loss)
{
	EvalOptions o = {.f64 = true, .seed = 7, .train = true, .ranks = 1};
	Eval *e = eval_new(m, &o, d);
	check(e, "no interpreter");
	for (uint32_t i = 0; i < m->ninputs; i++) {
		const Input *in = &m->inputs[i];
		int64_t n = type_count(m, NULL, &in->type);
		double *x = calloc((size_t)n, sizeof *x),
		       range = in->range.i ? (double)ir_extent(m, in->range) : 2;
		for (int64_t k = 0; k < n; k++) {
			x[k] =
			    random_at(rng_key(1, name_str(m->names, in->name)), (uint64_t)k) *
			    range;
			if (in->type.dt == DT_i32 || in->type.dt == DT_bool) x[k] = floor(x[k]);
		}
		check(eval_set(e, name_str(m->names, in->name), x, (size_t)n), "input %s",
		      name_str(m->names, in->name));
		free(x);
	}
	check(eval_run(e, loss), "the interpreter gave up");
	return e;
}

static void
check_values(Job *j, const Case *k)
{
	double want, have;
	Eval *a = evaluate(j->train, j->c.diag, &want), *b = evaluate(j->mem, j->c.diag, &have);
	check(fabs(want - have) <= 1e-12 * fabs(want), "%s mb %u rc %d: loss %.17g, not %.17g",
	      k->path, k->mb, (int)k->rc, have, want);
	for (uint32_t p = 0; p < j->train->nparams; p++) {
		char name[512];
		const double *x, *y;
		double d = 0, n = 0;
		snprintf(name, sizeof name, "grad:%s",
			 name_str(j->c.names, j->train->params[p].name));
		size_t nx = eval_get(a, name, &x), ny = eval_get(b, name, &y);
		check(nx == ny && nx > 0, "%s: %zu and %zu entries", name, nx, ny);
		for (size_t i = 0; i < nx; i++)
			d += (x[i] - y[i]) * (x[i] - y[i]), n += x[i] * x[i];
		check(sqrt(d) <= 1e-12 * (sqrt(n) + 1e-6),
		      "%s mb %u rc %d: %s differs by %g of %g", k->path, k->mb, (int)k->rc,
		      name, sqrt(d), sqrt(n));
	}
	eval_free(a);
	eval_free(b);
}

/* ---- all of it ---- */

/* Plans of many ranks and stages, drawn. */
static void
run_drawn(const char *path, const char *const *set, uint32_t layers, uint32_t batch,
	  uint32_t plans)
{
	for (uint32_t p = 0; p < plans; p++) {
		Arena *a = arena_new();
		Ctx c;
		Draw d = {.key = rng_key(layers, "mem"),
			  .at = (uint64_t)p << 20,
			  .layers = layers,
			  .batch = batch,
			  .most_stages = 1 + p % 5,
			  .most_ranks = p % 3 ? 4 : 1};
		char *text = draw_plan(a, &d);
		Module *m = compile_under(&c, path, set, 2, text, p % 10 == 9);
		drawn_plan = text;
		check(m, "no program");
		for (uint32_t k = 0; k < m->plan.nstages; k++) {
			check_stage(m, k);
			check(m->mem[k].live_bytes <= m->mem[k].arena_bytes,
			      "stage %u: more is alive than there is room for", k);
		}
		drop_compiled(&c);
		arena_free(a);
	}
	drawn_plan = NULL;
}

static void
run(const Case *k, bool values, bool tight)
{
	Job j = compile(k);
	const Module *m = j.mem;
	for (uint32_t b = 1; b < m->nbodies; b++)
		check_body(m, &m->bodies[b]);
	for (uint32_t i = 0; i < m->plan.nstages; i++)
		check_stage(m, i);
	double ratio = (double)m->mem[0].arena_bytes / (double)m->mem[0].live_bytes;
	check(ratio >= 1 && (!tight || ratio <= 1.02),
	      "%s mb %u rc %d: arena %.4f x what is alive", k->path, k->mb, (int)k->rc, ratio);
	if (values) check_values(&j, k);
	drop(&j);
}

static uint32_t
actions_with(const char *layers, uint32_t mb)
{
	Case k = {"models/gpt2.gdl", {"batch=8", "seq=16", layers}, mb, RC_none};
	Job j = compile(&k);
	uint32_t n = j.mem->nactions;
	drop(&j);
	return n;
}

int
main(void)
{
	static const char *const tiny[] = {"tests/models/gpt.gdl", "tests/models/llama.gdl"};
	static const char *const shipped[] = {"models/gpt2.gdl", "models/llama3.gdl",
					      "models/demo.gdl"};
	static const uint32_t split[] = {1, 2, 4};
	/* every shipped model in small; mb: up to how many microbatches it can be split */
	static const Case small[] = {
	    {"models/gpt2.gdl",
	     {"batch=4", "seq=5", "embed=12", "heads=3", "vocab=29", "layers=2"},
	     2,
	     RC_none},
	    {"models/bert.gdl",
	     {"batch=2", "seq=8", "vocab=31", "embed=12", "heads=3", "layers=2", "pick=3"},
	     1,
	     RC_none},
	    {"models/vit.gdl",
	     {"batch=2", "height=8", "width=8", "py=4", "px=4", "class=10", "embed=12",
	      "heads=3", "layers=2"},
	     2,
	     RC_none},
	    {"models/swin.gdl",
	     {"batch=2", "height=32", "width=32", "py=2", "px=2", "class=10", "c1=8", "n1=1",
	      "n2=2", "n3=2", "n4=4", "window_size=2"},
	     2,
	     RC_none},
	    {"models/mixtral.gdl",
	     {"batch=2", "seq=6", "vocab=23", "embed=16", "kv=2", "group=2", "head=4", "ffn=24",
	      "expert=4", "layers=2"},
	     1,
	     RC_none},
	    {"models/t5.gdl",
	     {"batch=2", "seq=6", "source=7", "vocab=23", "embed=12", "heads=3", "head=4",
	      "ffn=20", "bucket=8", "layers=2"},
	     1,
	     RC_none},
	};
	for (size_t i = 0; i < COUNTOF(tiny); i++)
		for (uint32_t mb = 1; mb <= 6; mb++)
			for (int rc = RC_none; rc <= RC_full && 6 % mb == 0; rc++)
				run(&(Case){tiny[i], {0}, mb, (Recompute)rc}, true, false);
	for (size_t i = 0; i < COUNTOF(small);
	     i++) /* with dropout, which draws the same again */
		for (uint32_t mb = 1; mb <= small[i].mb; mb++)
			for (int rc = RC_none; rc <= RC_full; rc++) {
				Case k = small[i];
				k.mb = mb, k.rc = (Recompute)rc;
				run(&k, true, false);
			}
	for (size_t i = 0; i < COUNTOF(shipped); i++)
		for (size_t n = 0; n < COUNTOF(split); n++)
			for (int rc = RC_none; rc <= RC_full; rc++)
				run(&(Case){shipped[i], {"batch=8"}, split[n], (Recompute)rc},
				    false, true);
	run_drawn("tests/models/gpt.gdl", (const char *const[]){"batch=12", "layers=4"}, 6, 12,
		  100);
	run_drawn("tests/models/llama.gdl", (const char *const[]){"batch=8", "layers=3"}, 5, 8,
		  50);
	run_drawn("tests/models/zoo/whisper.gdl", (const char *const[]){"batch=6", "seq=5"}, 7,
		  6, 50);
	run_drawn("tests/models/zoo/skips.gdl", (const char *const[]){"batch=12", "seq=5"}, 5,
		  12, 50);
	check(actions_with("layers=2", 1) == actions_with("layers=48", 8),
	      "the action table grows");
	printf("mem: %d checks ok\n", checks);
	return 0;
}
