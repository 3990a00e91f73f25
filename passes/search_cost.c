/*
 * search_cost.c - what a layer costs a rank on a spot: read off its lowered bodies, frames and parameters, priced by price.h.
 *
 * Times depend on the samples a rank has of a microbatch, on the mesh and on where it lies; bytes on the samples and the
 * layout alone. Both are remembered. What ZeRO changes follows from the bytes of a layer's parameters.
 */
#include "passes/search.h"

enum { ALIGN = 64 };

typedef struct Weight {
	int64_t bytes;
	unsigned inner; /* mesh axes but dp that its gradient is pending over */
	uint8_t moments;
	bool owned, trained;
} Weight;

typedef struct Arg {
	int64_t bytes;
	bool result, gradient;
} Arg;

/* Bytes of one layer on one rank. */
typedef struct Bytes {
	int64_t frame, scratch, cots;
	bool packed; /* frame and scratch are known */
	Weight *weight;
	Arg *arg;
	uint32_t nweights, nargs;
} Bytes;

typedef struct Times {
	BodyPrice body[BK_COUNT];
} Times;

struct Measured {
	Layout *layout;
	const struct Sized *sized;
	int64_t samples;
	uint32_t dp, kinds;     /* of devices, as Spot */
	const Cluster *cluster; /* whose runs the shapes speak of */
	Shape over_dp, over_tp;
	Times *of; /* [classes] */
	uint32_t mb;
};

/* A layout with so many samples to a rank. */
struct Sized {
	int64_t samples;
	Bytes *of; /* [classes]; NULL: not yet */
	Measured **m;
	uint32_t n, cap;
};

static int64_t
aligned(int64_t bytes)
{
	return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* ---- reading a lowered layer ---- */

typedef struct Read {
	const Module *m;
	const Mesh *mesh;
	uint32_t inst;
} Read;

static uint32_t
body_of(const Read *x, BodyKind k)
{
	return x->m->types[x->m->insts[x->inst].type].body[k];
}

static Weight
weight_of(const Read *x, uint16_t slot)
{
	const Param *p = &x->m->params[x->m->insts[x->inst].params[slot]];
	Weight w = {.bytes = aligned(type_bytes(x->m, x->mesh, &p->type)),
		    .owned = p->owner == x->inst,
		    .trained = ir_inst_port(x->m, x->inst, BK_W, PORT_dw, slot)};
	if (!w.owned) return w;
	w.trained = w.trained || ir_inst_port(x->m, x->inst, BK_U, PORT_grad, slot);
	w.moments = (uint8_t)(ir_section_scale(x->m, SEC_m) *
			      ((ir_inst_port(x->m, x->inst, BK_U, PORT_m, slot) != NULL) +
			       (ir_inst_port(x->m, x->inst, BK_U, PORT_v, slot) != NULL) +
			       (ir_inst_port(x->m, x->inst, BK_U, PORT_master, slot) != NULL)));
	for (int k = 1; w.trained && k < x->mesh->n; k++) /* whatever degree dp has now */
		if (x->mesh->ax[k].kind != MX_dp) w.inner |= p->pending & 1u << k;
	return w;
}

static Arg
arg_of(const Read *x, uint16_t a)
{
	const Body *f = &x->m->bodies[body_of(x, BK_F)];
	const Port *p = ir_find_port(f, PORT_arg, a);
	if (!p) return (Arg){0};
	return (Arg){.bytes = aligned(type_bytes(x->m, x->mesh, val_type(f, p->v))),
		     .result = x->m->insts[x->inst].args[a].kind == REF_result,
		     .gradient = ir_inst_port(x->m, x->inst, BK_B, PORT_dx, a)};
}

/* The most a layer needs while one of its bodies runs. requires: packed. */
static int64_t
scratch_of(const Read *x)
{
	const LayerType *t = &x->m->types[x->m->insts[x->inst].type];
	int64_t most = 0;
	for (int k = 0; k < BK_COUNT; k++) {
		uint32_t b = body_of(x, (BodyKind)k);
		int64_t bytes = (b ? x->m->bodies[b].scratch_bytes : 0) +
				(k == BK_B || k == BK_W ? t->carry_frame : 0);
		if (bytes > most) most = bytes;
	}
	return most;
}

/* Cotangents of its results. */
static int64_t
cots_of(const Read *x)
{
	const LayerType *t = &x->m->types[x->m->insts[x->inst].type];
	const Body *f = &x->m->bodies[t->body[BK_F]];
	int64_t sum = 0;
	for (uint16_t r = 0; r < t->nouts; r++) {
		const Port *p = ir_find_port(f, PORT_out, r);
		if (p && ir_inst_port(x->m, x->inst, BK_B, PORT_cot, r))
			sum += aligned(type_bytes(x->m, x->mesh, val_type(f, p->v)));
	}
	return sum;
}

static Bytes
bytes_of(const Read *x, Arena *a)
{
	const LayerType *t = &x->m->types[x->m->insts[x->inst].type];
	Bytes y = {.cots = cots_of(x), .nweights = t->nweights, .nargs = t->nargs};
	y.weight = NEW_N(a, Weight, t->nweights);
	y.arg = NEW_N(a, Arg, t->nargs);
	for (uint16_t w = 0; w < t->nweights; w++)
		y.weight[w] = weight_of(x, w);
	for (uint16_t k = 0; k < t->nargs; k++)
		y.arg[k] = arg_of(x, k);
	return y;
}

/* ---- remembering ---- */

static struct Sized *
sized_of(const Search *s, Layout *l, int64_t samples)
{
	for (uint32_t i = 0; i < l->nsized; i++)
		if (l->sized[i]->samples == samples) return l->sized[i];
	struct Sized *x = NEW(s->a, struct Sized);
	x->samples = samples;
	PUSH(s->a, l->sized, l->nsized, l->csized, x);
	return x;
}

static void
read_bytes(const Search *s, const Layout *l, struct Sized *x)
{
	const Classes *classes = search_memo_classes(s->memo);
	x->of = NEW_N(s->a, Bytes, classes->n);
	for (uint32_t k = 0; k < classes->n; k++)
		x->of[k] = bytes_of(&(Read){l->m, l->mesh, search_first(s->memo, l, k)}, s->a);
}

/* Frames and scratch: bodies are packed for these extents. */
static void
read_packed(const Search *s, const Layout *l, struct Sized *x)
{
	const Classes *classes = search_memo_classes(s->memo);
	Ctx c = *s->c;
	Arena *tmp = arena_new();
	Module m = *l->m;
	c.tmp = m.arena = tmp;
	m.types = arena_dup(tmp, m.types, sizeof *m.types * m.ntypes);
	layout_types(&c, &m);
	for (uint32_t k = 0; k < classes->n; k++) {
		Read r = {&m, l->mesh, search_first(s->memo, l, k)};
		x->of[k].frame = m.types[m.insts[r.inst].type].slot_frame;
		x->of[k].scratch = scratch_of(&r);
		x->of[k].packed = true;
	}
	arena_free(tmp);
}

static void
read_times(const Search *s, const Spot *spot, Layout *l, Measured *x)
{
	const Classes *classes = search_memo_classes(s->memo);
	Price *price = s->order[spot->order].price;
	x->of = NEW_N(s->a, Times, classes->n);
	for (uint32_t k = 0; k < classes->n; k++) {
		Read r = {l->m, l->mesh, search_first(s->memo, l, k)};
		for (int b = 0; b < BK_COUNT; b++)
			if (body_of(&r, (BodyKind)b))
				x->of[k].body[b] = price_body(
				    price, l->m, &l->m->bodies[body_of(&r, (BodyKind)b)],
				    spot->first);
	}
}

/* Groups that lie alike, on nodes with like links: of two orders of one cluster, too. */
static bool
same_shape(const Cluster *c, const Shape *a, const Cluster *d, const Shape *b)
{
	const NodeRun *x = &c->run[a->run], *y = &d->run[b->run];
	return a->ranks == b->ranks && a->nodes == b->nodes && a->stride == b->stride &&
	       a->beside == b->beside && a->device == b->device && x->device == y->device &&
	       x->near.ns == y->near.ns && x->near.bytes == y->near.bytes &&
	       x->far.ns == y->far.ns && x->far.bytes == y->far.bytes && x->rails == y->rails;
}

static bool
same_measure(const Measured *a, const Measured *b)
{
	return a->dp == b->dp && a->kinds == b->kinds &&
	       same_shape(a->cluster, &a->over_dp, b->cluster, &b->over_dp) &&
	       same_shape(a->cluster, &a->over_tp, b->cluster, &b->over_tp);
}

const Measured *
search_measure(const Search *s, const Spot *spot, const Candidate *c, uint32_t mb, bool packed,
	       const char **why)
{
	Layout *l = search_layout(s, c, mb, why);
	const Order *o = &s->order[spot->order];
	if (!l) return NULL;
	int64_t n = s->batch / mb, samples = (n + c->dp - 1) / c->dp;
	struct Sized *z = sized_of(s, l, samples);
	Measured want = {.layout = l,
			 .sized = z,
			 .samples = samples,
			 .dp = c->dp,
			 .kinds = spot->kinds,
			 .cluster = o->cluster,
			 .mb = mb},
		 *x = NULL;
	search_layout_set(s, l, c->dp, mb);
	unsigned dp = ir_dp_mask(l->mesh), all = (1u << l->mesh->n) - 2;
	want.over_dp = price_shape(o->price, l->mesh, dp, spot->first);
	want.over_tp = price_shape(o->price, l->mesh, all & ~dp, spot->first);
	for (uint32_t i = 0; i < z->n && !x; i++)
		if (same_measure(z->m[i], &want)) x = z->m[i];
	if (!x) {
		x = arena_dup(s->a, &want, sizeof want);
		read_times(s, spot, l, x);
		++*search_priced(s->memo);
		PUSH(s->a, z->m, z->n, z->cap, x);
	}
	if (!z->of) read_bytes(s, l, z);
	if (packed && !z->of[0].packed) read_packed(s, l, z);
	x->mb = mb;
	return x;
}

/* ---- what dp, ZeRO and stages make of it ---- */

typedef struct Costing {
	const Search *s;
	const Spot *spot;
	const Measured *x;
	const Bytes *y;
	const Price *price;
	const Device *device;
	const Candidate *c;
	int64_t backward; /* of the layer, computing: what may hide the sum of its gradients */
	int64_t forward;
	int64_t arrival;
	Shape over_dp;
} Costing;

/* A rank's share of something ZeRO splits from level z on. */
static int64_t
share(const Costing *x, uint8_t z, int64_t bytes)
{
	return x->c->zero >= z ? (bytes + x->c->dp - 1) / x->c->dp : bytes;
}

/* What a communication adds to `beside` ns of computation that it may run beside: both are slower as long as both run. */
static int64_t
exposed(const Costing *x, int64_t comm, int64_t beside)
{
	const Device *d = x->device;
	if (d->slow_comm < 1 || d->slow_compute < 1) return comm;
	double early = d->eff[EF_overlap] * (double)comm, late = (double)comm - early;
	double slow = early * d->slow_comm, compute = (double)beside * d->slow_compute;
	double adds = slow <= compute
			  ? slow * (1 - 1 / d->slow_compute)
			  : compute - (double)beside + early - compute / d->slow_comm;
	return (int64_t)(late + adds);
}

static int64_t
over_dp(const Costing *x, PrimKind kind, int64_t bytes)
{
	return price_collective(x->price, kind, bytes, &x->over_dp);
}

/* Ranks of the stage on the node that sends: they share its network. */
static uint32_t
beside(const Spot *spot)
{
	uint32_t n = spot->nsegs && spot->nsegs <= MAX_SEGS ? spot->seg[0].devices : 1;
	return n < spot->ranks ? n : spot->ranks;
}

/* A parameter of a layer in another stage: a copy, lent and returned. */
static void
borrow(const Costing *x, const Weight *w, LogCost *c)
{
	if (x->spot->alone) return;
	uint32_t from = x->spot->first ? 0 : x->spot->ranks, to = x->spot->first;
	int64_t there = price_message(x->price, w->bytes, from, to, beside(x->spot));
	c->borrowed += w->trained ? 2 * w->bytes : w->bytes;
	c->lend += there;
	if (w->trained) c->lend += there + over_dp(x, PR_all_reduce, w->bytes);
}

/* Parameters, gradients and moments a layer owns; copies of those it borrows. Returns the bytes of its flat. */
static int64_t
weights_cost(const Costing *x, LogCost *c)
{
	int64_t flat = 0;
	for (uint32_t k = 0; k < x->y->nweights; k++) {
		const Weight *w = &x->y->weight[k];
		if (!w->owned) {
			borrow(x, w, c);
			continue;
		}
		if (!w->trained) {
			c->param += w->bytes;
			continue;
		}
		flat += w->bytes;
		c->param += share(x, 3, w->bytes);
		c->grad += share(x, 2, w->bytes);
		c->moments += w->moments * share(x, 1, w->bytes);
		if (!w->inner) continue;
		Shape s = price_shape(x->price, x->x->layout->mesh, w->inner, x->spot->first);
		c->sync += price_collective(x->price, PR_all_reduce, w->bytes, &s);
	}
	return flat;
}

/* What the flat of a layer sends, by ZeRO level: gradients once or every microbatch, parameters back. */
static void
zero_cost(const Costing *x, int64_t flat, LogCost *c)
{
	uint8_t zero = x->c->zero;
	if (x->c->dp < 2 || !flat) return;
	int64_t gather = over_dp(x, PR_all_gather, flat);
	int64_t scatter = zero ? over_dp(x, PR_reduce_scatter, flat) : 0;
	if (zero == 0) c->sync += over_dp(x, PR_all_reduce, flat);
	if (zero == 1) c->sync += scatter;
	c->sync = exposed(x, c->sync, x->backward);
	if (zero == 1 || zero == 2) c->gather += gather;
	if (zero == 2) c->zero += exposed(x, scatter, x->backward);
	if (zero == 3)
		c->zero +=
		    exposed(x, gather, x->forward) + exposed(x, gather + scatter, x->backward);
	if (zero >= 2) c->buffers += 2 * flat;
	if (zero == 3) c->buffers += 2 * flat;
}

/* Arguments from the stage before arrive in a slot, their cotangents go back: rank for rank if both have as many. */
static void
enter_cost(const Costing *x, LogCost *c)
{
	const Spot *s = x->spot;
	uint32_t from = s->before ? s->first - s->before : s->first, to = s->first;
	for (uint32_t k = 0; k < x->y->nargs; k++) {
		const Arg *a = &x->y->arg[k];
		if (!a->bytes) continue;
		if (!a->result) {
			c->inputs += a->bytes;
			continue;
		}
		if (!s->before) continue;
		int64_t there = price_message(x->price, a->bytes, from, to, beside(s));
		c->cost.enter += a->gradient ? 2 * there : there;
		c->cost.enter_saved += a->bytes;
		if (a->gradient) c->cots += a->bytes;
	}
	if (c->cost.enter && x->arrival > c->cost.enter) c->cost.enter = x->arrival;
}

int64_t
search_computes(const Measured *x, uint32_t class)
{
	const BodyPrice *b = x->of[class].body;
	return b[BK_F].compute + b[BK_B].compute + b[BK_W].compute;
}

static int64_t
compute(const Measured *x, uint32_t class, BodyKind k)
{
	return x->of[class].body[k].compute;
}

static void
body_costs(const Costing *x, uint32_t class, LogCost *c)
{
	const BodyPrice *b = x->x->of[class].body;
	c->forward = b[BK_F].compute;
	c->backward = b[BK_B].compute;
	c->weights = b[BK_W].compute;
	c->inside = b[BK_F].comm + b[BK_B].comm + b[BK_W].comm;
	c->update =
	    share(x, 1, b[BK_U].compute + b[BK_N].compute) + b[BK_U].comm + b[BK_N].comm;
}

bool
search_runs_last(const Search *s, uint32_t class)
{
	const Classes *k = search_memo_classes(s->memo);
	return s->trains && k->of[s->m->ninsts - 1] == class &&
	       k->first[class] == s->m->ninsts - 1 && s->m->ninsts > 1;
}

/* Does the last stage hold one microbatch at a time? */
static bool
one_slot(const Search *s, uint32_t mb)
{
	return mb == 1 || !s->c->schedule_given || s->c->schedule != SCH_gpipe;
}

LogCost
search_cost(const Search *s, const Spot *spot, const Measured *m, uint32_t class,
	    const Candidate *c, int64_t arrival)
{
	const Order *o = &s->order[spot->order];
	LogCost r = {0};
	Costing x = {.s = s,
		     .spot = spot,
		     .x = m,
		     .y = &m->sized->of[class],
		     .price = o->price,
		     .device = &o->cluster->device[spot->device],
		     .c = c,
		     .backward = compute(m, class, BK_B) + compute(m, class, BK_W),
		     .forward = compute(m, class, BK_F),
		     .arrival = arrival};
	search_layout_set(s, m->layout, c->dp, m->mb); /* shapes are of its mesh */
	x.over_dp =
	    price_shape(o->price, m->layout->mesh, ir_dp_mask(m->layout->mesh), spot->first);
	r.cots = 2 * x.y->cots;
	r.frame = x.y->frame;
	r.scratch = x.y->scratch;
	body_costs(&x, class, &r);
	zero_cost(&x, weights_cost(&x, &r), &r);
	enter_cost(&x, &r);
	r.cost.group = c->group;
	r.cost.time = r.forward + r.backward + r.weights + r.inside + r.zero;
	r.cost.once = r.update + r.sync + r.gather + r.lend;
	r.cost.state = r.param + r.grad + r.moments + r.borrowed;
	r.cost.saved = r.frame + r.inputs;
	r.cost.work =
	    r.scratch + r.cots + r.buffers + x.device->comm_bytes * ((c->dp > 1) + (c->tp > 1));
	if (search_runs_last(s, class) &&
	    one_slot(s, m->mb)) { /* its frame lies in what others work in (layout.c) */
		r.cost.work += r.frame;
		r.cost.saved -= r.frame;
	}
	return r;
}

/* As if all of it were there already, and copied. */
SolveMove
search_cost_move(const Search *s, const Spot *spot, const Measured *x, uint32_t class)
{
	const Bytes *y = &x->sized->of[class];
	const Device *d = &s->order[spot->order].cluster->device[spot->device];
	SolveMove out = {0};
	for (uint32_t k = 0; k < y->nargs; k++) {
		if (!y->arg[k].result) continue;
		out.saved += y->arg[k].bytes;
		out.time += (int64_t)((y->arg[k].gradient ? 4e9 : 2e9) *
				      (double)y->arg[k].bytes / d->bytes);
	}
	return out;
}
