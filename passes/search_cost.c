/*
 * search_cost.c - what a layer costs a rank, read off its lowered bodies, frames and parameters.
 *
 * A short copy of the model (search_small.c) is lowered and laid out as one stage on one mesh by the functions spmd and mem
 * use. What is read off it depends on how many samples of a microbatch a rank has, on tp and on recomputation, not on the
 * number of stages, microbatches or ranks; so it is remembered, and serves every branch of the tree that comes to the same.
 * What dp and ZeRO change follows from the bytes of a layer's parameters.
 */
#include <string.h>

#include "passes/search.h"

typedef struct Weight {
	int64_t bytes, inner; /* inner: ns to add its gradient up over other axes than dp */
	uint8_t moments;
	bool owned, trained;
} Weight;

typedef struct Arg {
	int64_t bytes;
	bool result, gradient;
} Arg;

/* One layer on one rank. */
struct Measured {
	int64_t time, update; /* ns of F, B, W; of N, U on all of its parameters */
	int64_t saved, work;  /* bytes */
	Weight *weight;
	Arg *arg;
	uint32_t nweights, nargs;
};

/* What lowering depends on. */
typedef struct Key {
	uint32_t tp;
	int64_t samples; /* of a microbatch, of one rank */
	bool sp, uneven, mb, dp;
} Key;

typedef struct Entry {
	Key key;
	uint32_t
	    dp; /* something is added up over dp inside a layer: serves this degree only; 0: any */
	TpMemo tp;
	bool known[RC_full + 1];
	const char *why[RC_full + 1]; /* NULL: it lowers */
	Measured *of[RC_full + 1];    /* [classes] */
} Entry;

struct CostMemo {
	Arena *a;
	Module *small;
	Classes classes;
	uint32_t *first; /* [classes] first layer of a class, in `small` */
	Entry **e;
	uint32_t n, cap;
	uint32_t lowered; /* models */
};

/* ---- reading a lowered layer ---- */

typedef struct Read {
	const Search *s;
	const Module *m;
	const Mesh *mesh;
	uint32_t inst;
} Read;

static uint32_t
body_of(const Read *x, BodyKind k)
{
	return x->m->types[x->m->insts[x->inst].type].body[k];
}

static int64_t
body_time(const Read *x, BodyKind k)
{
	uint32_t b = body_of(x, k);
	return b ? roofline_body(&x->s->machine, x->m, &x->m->bodies[b]) : 0;
}

static Weight
weight_of(const Read *x, uint16_t slot)
{
	const Param *p = &x->m->params[x->m->insts[x->inst].params[slot]];
	Weight w = {.bytes = type_bytes(x->m, x->mesh, &p->type),
		    .owned = p->owner == x->inst,
		    .trained = ir_inst_port(x->m, x->inst, BK_W, PORT_dw, slot)};
	if (!w.owned) return w;
	w.trained = w.trained || ir_inst_port(x->m, x->inst, BK_U, PORT_grad, slot);
	w.moments = (uint8_t)(ir_section_scale(x->m, SEC_m) *
			      ((ir_inst_port(x->m, x->inst, BK_U, PORT_m, slot) != NULL) +
			       (ir_inst_port(x->m, x->inst, BK_U, PORT_v, slot) != NULL) +
			       (ir_inst_port(x->m, x->inst, BK_U, PORT_master, slot) != NULL)));
	for (int k = 1; w.trained && k < x->mesh->n; k++) {
		uint32_t span, size;
		if (x->mesh->ax[k].kind == MX_dp || !(p->pending >> k & 1)) continue;
		size = roofline_group(x->mesh, 1u << k, &span);
		w.inner += roofline_all_reduce(&x->s->machine, w.bytes, size, span);
	}
	return w;
}

static Arg
arg_of(const Read *x, uint16_t a)
{
	const Body *f = &x->m->bodies[body_of(x, BK_F)];
	const Port *p = ir_find_port(f, PORT_arg, a);
	if (!p) return (Arg){0};
	return (Arg){.bytes = type_bytes(x->m, x->mesh, val_type(f, p->v)),
		     .result = x->m->insts[x->inst].args[a].kind == REF_result,
		     .gradient = ir_inst_port(x->m, x->inst, BK_B, PORT_dx, a)};
}

/* The most a layer needs while one of its bodies runs, cotangents of its results included. */
static int64_t
work_of(const Read *x)
{
	const LayerType *t = &x->m->types[x->m->insts[x->inst].type];
	const Body *f = &x->m->bodies[t->body[BK_F]];
	int64_t most = 0, cots = 0;
	for (int k = 0; k < BK_COUNT; k++) {
		uint32_t b = body_of(x, (BodyKind)k);
		int64_t bytes = (b ? x->m->bodies[b].scratch_bytes : 0) +
				(k == BK_B || k == BK_W ? t->carry_frame : 0);
		if (bytes > most) most = bytes;
	}
	for (uint16_t r = 0; r < t->nouts; r++) {
		const Port *p = ir_find_port(f, PORT_out, r);
		if (p && ir_inst_port(x->m, x->inst, BK_B, PORT_cot, r))
			cots += type_bytes(x->m, x->mesh, val_type(f, p->v));
	}
	return most + 2 * cots;
}

static Measured
measure(const Read *x, Arena *a)
{
	const LayerType *t = &x->m->types[x->m->insts[x->inst].type];
	Measured y = {.saved = t->slot_frame,
		      .work = work_of(x),
		      .nweights = t->nweights,
		      .nargs = t->nargs};
	y.weight = NEW_N(a, Weight, t->nweights);
	y.arg = NEW_N(a, Arg, t->nargs);
	for (uint16_t w = 0; w < t->nweights; w++)
		y.weight[w] = weight_of(x, w);
	for (uint16_t k = 0; k < t->nargs; k++)
		y.arg[k] = arg_of(x, k);
	y.time = body_time(x, BK_F) + body_time(x, BK_B) + body_time(x, BK_W);
	y.update = body_time(x, BK_U) + body_time(x, BK_N);
	return y;
}

/* ---- what dp, ZeRO and stages make of it ---- */

typedef struct Costing {
	const Search *s;
	uint32_t dp, span; /* of a dp group */
	uint8_t zero;
	bool cut; /* several stages: parameters of other layers may be elsewhere */
} Costing;

/* A rank's share of something ZeRO splits from level z on. */
static int64_t
share(const Costing *x, uint8_t z, int64_t bytes)
{
	return x->zero >= z ? (bytes + x->dp - 1) / x->dp : bytes;
}

/* Parameters, gradients and moments a layer owns; copies of those it borrows. Returns the bytes of its flat. */
static int64_t
weights_cost(const Costing *x, const Measured *y, LayerCost *c)
{
	const Machine *machine = &x->s->machine;
	int64_t flat = 0;
	for (uint32_t k = 0; k < y->nweights; k++) {
		const Weight *w = &y->weight[k];
		if (!w->owned) { /* in another stage: a copy, lent and returned */
			if (!x->cut) continue;
			c->state += w->trained ? 2 * w->bytes : w->bytes;
			c->once += roofline_message(machine, w->bytes, false);
			if (w->trained)
				c->once +=
				    roofline_message(machine, w->bytes, false) +
				    roofline_all_reduce(machine, w->bytes, x->dp, x->span);
			continue;
		}
		if (!w->trained) {
			c->state += w->bytes;
			continue;
		}
		flat += w->bytes;
		c->state += share(x, 3, w->bytes) + share(x, 2, w->bytes) +
			    w->moments * share(x, 1, w->bytes);
		c->once += w->inner;
	}
	return flat;
}

/* What the flat of a layer sends, by ZeRO level: gradients once or every microbatch, parameters back. */
static void
zero_cost(const Costing *x, int64_t flat, LayerCost *c)
{
	if (x->dp < 2 || !flat) return;
	const Machine *y = &x->s->machine;
	int64_t gather = roofline_gather(y, flat, x->dp, x->span);
	if (x->zero == 0) c->once += roofline_all_reduce(y, flat, x->dp, x->span);
	if (x->zero == 1) c->once += gather;
	if (x->zero >= 2) c->time += gather; /* reduce_scatter */
	if (x->zero == 1 || x->zero == 2) c->once += gather;
	if (x->zero == 3) c->time += 2 * gather; /* before F, and before B and W */
	if (x->zero >= 2) c->work += 2 * flat;
	if (x->zero == 3) c->work += 2 * flat;
}

/* Arguments from elsewhere arrive in a slot, their cotangents go back. */
static void
enter_cost(const Costing *x, const Measured *y, LayerCost *c)
{
	const Machine *machine = &x->s->machine;
	bool near = x->s->ranks <= machine->ranks;
	for (uint32_t k = 0; k < y->nargs; k++) {
		const Arg *a = &y->arg[k];
		if (!a->bytes) continue;
		if (!a->result) {
			c->saved += a->bytes;
			continue;
		}
		c->enter += roofline_message(machine, a->bytes, near);
		c->enter_saved += a->bytes;
		if (!a->gradient) continue;
		c->enter += roofline_message(machine, a->bytes, near);
		c->work += a->bytes;
	}
}

static LayerCost
layer_cost(const Costing *x, const Measured *y)
{
	LayerCost c = {.time = y->time, .saved = y->saved, .work = y->work};
	int64_t flat = weights_cost(x, y, &c);
	c.once += share(x, 1, y->update);
	zero_cost(x, flat, &c);
	enter_cost(x, y, &c);
	return c;
}

static Costing
costing(const Search *s, const Mesh *mesh, uint8_t zero, bool cut)
{
	unsigned dp = 0;
	Costing x = {.s = s, .zero = zero, .cut = cut};
	for (int k = 1; k < mesh->n; k++)
		if (mesh->ax[k].kind == MX_dp) dp |= 1u << k;
	x.dp = roofline_group(mesh, dp, &x.span);
	return x;
}

LayerCost
search_cost(const Search *s, const Measured *of, uint32_t class, const Candidate *k, bool cut)
{
	Mesh mesh;
	search_mesh(k, &mesh);
	Costing x = costing(s, &mesh, k->zero, cut);
	LayerCost c = layer_cost(&x, &of[class]);
	c.group = k->group;
	return c;
}

int64_t
search_time(const Search *s, const Module *m)
{
	int64_t mb = 0, once = 0;
	for (uint32_t r = 0; r < m->plan.nruns; r++) {
		const Strategy *run = &m->plan.runs[r];
		const Mesh *mesh = &m->plan.meshes[run->mesh];
		Costing x = costing(s, mesh, run->zero, false);
		for (uint32_t i = run->first; i < run->first + run->count; i++) {
			Measured y = measure(&(Read){s, m, mesh, i}, s->c->tmp);
			LayerCost c = layer_cost(&x, &y);
			mb += c.time;
			once += c.once;
		}
	}
	return m->plan.microbatches * mb + once;
}

/* ---- lowering, once ---- */

void
search_mesh(const Candidate *c, Mesh *out)
{
	*out = (Mesh){.n = 1};
	out->ax[0].kind = MX_mb;
	if (c->dp > 1) {
		out->ax[out->n].kind = MX_dp;
		out->ax[out->n++].degree = c->dp;
	}
	if (c->tp > 1) {
		out->ax[out->n].kind = MX_tp;
		out->ax[out->n++].degree = c->tp;
	}
}

/* n elements in blocks of ranks, rounded up: does the last rank have any? */
bool
search_all_have(int64_t n, int64_t ranks)
{
	return (n + ranks - 1) / ranks * (ranks - 1) < n;
}

/* Does every rank of tp have a part of something, in some layer? If not, ranks are left over. */
static bool
tp_used(const Module *m, uint32_t tp)
{
	if (tp == 1) return true;
	for (uint32_t b = 1; b < m->nbodies; b++)
		for (uint32_t v = 1; v < m->bodies[b].nvals; v++) {
			const Mesh *mesh = ir_mesh(m, &m->bodies[b]);
			const Type *t = &m->bodies[b].vals[v].type;
			for (int k = 0; mesh && k < t->n; k++)
				for (int j = 0; j < t->ax[k].nshard; j++)
					if (mesh->ax[t->ax[k].shard[j]].kind == MX_tp &&
					    search_all_have(ir_extent(m, t->ax[k].a), tp))
						return true;
		}
	return false;
}

/* Is anything added up over dp inside a layer? */
static bool
sends_over_dp(const Module *m)
{
	for (uint32_t b = 1; b < m->nbodies; b++)
		for (uint32_t i = 0; i < m->bodies[b].nops; i++) {
			const Mesh *mesh = ir_mesh(m, &m->bodies[b]);
			const Op *op = &m->bodies[b].ops[i];
			const Attr *over = attr_find(op, AK_over);
			if (!mesh || !over || !(op_info[op->code].flags & OF_COMM)) continue;
			for (int k = 1; k < mesh->n; k++)
				if (over->i >> k & 1 && mesh->ax[k].kind == MX_dp) return true;
		}
	return false;
}

CostMemo *
search_memo(const Search *s)
{
	Arena *a = s->c->tmp;
	CostMemo *x = NEW(a, CostMemo);
	uint32_t *at = NEW_N(a, uint32_t, s->m->ninsts);
	x->a = a;
	search_classes(s->m, a, &x->classes);
	x->small = search_small(s->m, &x->classes, a, at);
	x->first = NEW_N(a, uint32_t, x->classes.n);
	for (uint32_t k = 0; k < x->classes.n; k++)
		x->first[k] = at[x->classes.first[k]];
	return x;
}

const Classes *
search_memo_classes(const CostMemo *x)
{
	return &x->classes;
}

uint32_t
search_lowered(const CostMemo *x)
{
	return x->lowered;
}

static bool
same_lowering(const Key *a, const Key *b)
{
	return a->tp == b->tp && a->samples == b->samples && a->sp == b->sp &&
	       a->uneven == b->uneven && a->mb == b->mb && a->dp == b->dp;
}

static Entry *
find_entry(const Search *s, const Candidate *c, uint32_t mb)
{
	CostMemo *x = s->memo;
	int64_t n = (s->m->batch.i ? ir_extent(s->m, s->m->batch) : 1) / mb;
	Key key = {c->tp, (n + c->dp - 1) / c->dp, c->sp, n % c->dp != 0, mb > 1, c->dp > 1};
	for (uint32_t i = 0; i < x->n; i++)
		if (same_lowering(&x->e[i]->key, &key) &&
		    (!x->e[i]->dp || x->e[i]->dp == c->dp))
			return x->e[i];
	Entry *e = NEW(x->a, Entry);
	e->key = key;
	e->tp.a = x->a;
	PUSH(x->a, x->e, x->n, x->cap, e);
	return e;
}

static void
lower_entry(const Search *s, Entry *e, const Candidate *c, uint32_t mb)
{
	CostMemo *x = s->memo;
	Arena *a = arena_new();
	Search small = *s;
	const char *why = NULL;
	Mesh mesh;
	Strategy run = {.recompute = c->rc, .megatron_sp = c->sp};
	small.m = x->small;
	search_mesh(c, &mesh);
	Plan p = search_uniform(&small, a, mb, &mesh, &run);
	Module *m = search_lower(&small, &p, a, &e->tp, &why);
	x->lowered++;
	if (m && !tp_used(m, c->tp)) {
		m = NULL;
		why = "tp splits no axis so that every rank has a part";
	}
	e->known[c->rc] = true;
	if (!m) {
		e->why[c->rc] = arena_dup(x->a, why, strlen(why) + 1);
	} else {
		const Mesh *on = &m->plan.meshes[m->plan.runs[0].mesh];
		if (sends_over_dp(m)) e->dp = c->dp;
		e->of[c->rc] = NEW_N(x->a, Measured, x->classes.n);
		for (uint32_t k = 0; k < x->classes.n; k++)
			e->of[c->rc][k] = measure(&(Read){s, m, on, x->first[k]}, x->a);
	}
	arena_free(a);
}

const Measured *
search_measure(const Search *s, const Candidate *c, uint32_t mb, const char **why)
{
	Entry *e = find_entry(s, c, mb);
	if (!e->known[c->rc]) lower_entry(s, e, c, mb);
	*why = e->why[c->rc];
	return e->of[c->rc];
}
