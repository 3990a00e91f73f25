/*
 * comm.c - what is sent to whom: communicators, the collectives and messages of every communication, boxes of an exchange.
 *
 * Input: a module of level spmd or below. Output: descriptions that interpreter, verifier, codegen and manifest share.
 * Nothing but ir_pieces and ir_comm_members grows with the number of ranks.
 */
#include "ir/ir.h"

#include <string.h>

/* ---- groups ---- */

/* The digits of the group over mesh axes `over`; n = 0: one rank. */
static CommGroup
group_over(const Mesh *mesh, unsigned over)
{
	CommGroup g = {0}, back = {0};
	uint32_t stride = 1;

	for (int k = mesh ? mesh->n - 1 : 0; k > 0; stride *= mesh->ax[k--].degree) {
		uint32_t degree = mesh->ax[k].degree;

		if (!(over >> k & 1) || degree == 1) continue;
		if (back.n && back.d[back.n - 1].stride * back.d[back.n - 1].degree == stride)
			back.d[back.n - 1].degree *= degree;
		else
			back.d[back.n++] = (Digit){stride, degree};
	}
	for (int i = back.n; i-- > 0;)
		g.d[g.n++] = back.d[i];
	return g;
}

static bool
same_group(const CommGroup *a, const CommGroup *b)
{
	if (a->n != b->n) return false;
	for (int i = 0; i < a->n; i++)
		if (a->d[i].stride != b->d[i].stride || a->d[i].degree != b->d[i].degree)
			return false;
	return true;
}

/* All ranks there are: the world. */
static bool
is_world(const Module *m, uint32_t stage, const CommGroup *g)
{
	return g->n == 1 && g->d[0].stride == 1 && g->d[0].degree == m->plan.ranks &&
	       m->plan.stages[stage].ranks == m->plan.ranks;
}

static int
find_group(const Module *m, const CommTable *t, uint32_t stage, const CommGroup *g)
{
	if (!g->n) return -1;
	if (is_world(m, stage, g)) return 0;
	for (uint32_t e = 1; e < t->n; e++)
		if (same_group(&t->group[e * t->nstages + stage], g)) return (int)e;
	return -1;
}

/* ---- the table ---- */

typedef struct Maker {
	const Module *m;
	Arena *arena;
	CommTable t;
	uint32_t *have; /* [nstages]: entries a stage has used, the world left out */
	uint32_t cap;   /* entries there is room for */
} Maker;

static void
need(Maker *k, uint32_t stage, const Mesh *mesh, unsigned over)
{
	CommGroup g = group_over(mesh, over);
	uint32_t e;

	if (!g.n || find_group(k->m, &k->t, stage, &g) >= 0) return;
	e = ++k->have[stage];
	if (e >= k->cap) {
		k->t.group = arena_grow(k->arena, k->t.group, (size_t)k->cap * k->t.nstages,
					(size_t)k->cap * 2 * k->t.nstages, sizeof(CommGroup));
		k->cap *= 2;
	}
	if (e >= k->t.n) k->t.n = e + 1;
	k->t.group[e * k->t.nstages + stage] = g;
}

/* What the bodies of a layer type sum and gather over. */
static void
body_needs(Maker *k, uint32_t stage, const Body *b)
{
	for (uint32_t o = 0; o < b->nops; o++)
		if (op_info[b->ops[o].code].flags & OF_COMM && attr_find(&b->ops[o], AK_over))
			need(k, stage, ir_mesh(k->m, b),
			     (unsigned)attr_int(&b->ops[o], AK_over));
}

static void
inst_needs(Maker *k, uint32_t stage, uint32_t inst)
{
	const Module *m = k->m;
	const LayerType *l = &m->types[m->insts[inst].type];
	Flat f = ir_flat(m, k->arena, inst);

	if (!m->plan.forward_only && f.bytes) {
		for (uint32_t i = 0; i < f.nspans; i++)
			need(k, stage, ir_inst_mesh(m, inst), f.span[i].over);
		need(k, stage, ir_inst_mesh(m, inst), f.dp_mask);
	}
	for (uint32_t w = 0; w < l->nweights; w++) {
		const Param *p = &m->params[m->insts[inst].params[w]];

		if (p->borrows && p->owner == inst && !m->plan.forward_only)
			need(k, stage, ir_inst_mesh(m, inst), p->pending & ~1u);
	}
}

CommTable
ir_comms(const Module *m, Arena *a)
{
	Maker k = {.m = m, .arena = a, .cap = 8};
	bool *seen = NEW_N(a, bool, m->ntypes + 1);

	k.t = (CommTable){1, m->plan.nstages, NULL};
	k.t.group = NEW_N(a, CommGroup, (size_t)k.cap * (m->plan.nstages + 1));
	k.have = NEW_N(a, uint32_t, m->plan.nstages + 1);
	for (uint32_t s = 0; s < m->plan.nstages; s++) {
		const Stage *stage = &m->plan.stages[s];

		memset(seen, 0, m->ntypes * sizeof(*seen));
		for (uint32_t i = stage->first; i - stage->first < stage->count; i++) {
			const LayerType *l = &m->types[m->insts[i].type];

			for (int b = 0; b < BK_COUNT && !seen[m->insts[i].type]; b++)
				if (l->body[b]) body_needs(&k, s, &m->bodies[l->body[b]]);
			seen[m->insts[i].type] = true;
			inst_needs(&k, s, i);
		}
	}
	return k.t;
}

int
ir_comm_find(const Module *m, const CommTable *t, uint32_t stage, const Mesh *mesh,
	     unsigned over)
{
	CommGroup g = group_over(mesh, over);

	return find_group(m, t, stage, &g);
}

uint32_t
ir_comm_size(const Module *m, const CommTable *t, int comm, uint32_t stage)
{
	uint32_t n = 1;

	if (comm <= 0) return comm ? 1 : m->plan.ranks;
	for (int i = 0; i < t->group[(uint32_t)comm * t->nstages + stage].n; i++)
		n *= t->group[(uint32_t)comm * t->nstages + stage].d[i].degree;
	return n;
}

static uint32_t
stage_of_rank(const Module *m, uint32_t rank)
{
	uint32_t s = 0;

	while (s + 1 < m->plan.nstages && m->plan.stages[s + 1].rank <= rank)
		s++;
	return s;
}

uint32_t
ir_comm_members(const Module *m, const CommTable *t, int comm, uint32_t rank, uint32_t *member)
{
	uint32_t stage = stage_of_rank(m, rank), n = ir_comm_size(m, t, comm, stage), me = 0;
	uint32_t base = rank, local = rank - m->plan.stages[stage].rank;
	const CommGroup *g = comm > 0 ? &t->group[(uint32_t)comm * t->nstages + stage] : NULL;

	for (int i = 0; g && i < g->n; i++)
		base -= local / g->d[i].stride % g->d[i].degree * g->d[i].stride;
	if (comm == 0) base = 0;
	for (uint32_t k = 0; k < n; k++) {
		uint32_t rest = k, at = base;

		for (int i = g ? g->n - 1 : -1; i >= 0; i--) {
			at += rest % g->d[i].degree * g->d[i].stride;
			rest /= g->d[i].degree;
		}
		member[k] = g ? at : base + k;
		if (member[k] == rank) me = k;
	}
	return me;
}

/* ---- prims ---- */

bool
ir_op_prim(const Module *m, const CommTable *t, uint32_t stage, const Body *b, const Op *op,
	   Prim *out)
{
	static const PrimKind kind[OP_COUNT] = {[OP_all_reduce] = PR_all_reduce,
						[OP_all_gather] = PR_all_gather,
						[OP_reduce_scatter] = PR_reduce_scatter,
						[OP_all_to_all] = PR_all_to_all};
	const Type *x;

	if (!(op_info[op->code].flags & OF_COMM) || op->code == OP_reshard) return false;
	x = val_type(b, op->in[0]);
	*out = (Prim){.kind = kind[op->code], .dt = x->dt};
	out->comm = ir_comm_find(m, t, stage, ir_mesh(m, b), (unsigned)attr_int(op, AK_over));
	out->max = op->code == OP_all_reduce && attr_int_or(op, AK_max, 0) != 0;
	out->count = type_count(m, ir_mesh(m, b), x);
	return out->comm >= 0;
}

bool
ir_norm_prim(const Module *m, Prim *out)
{
	*out = (Prim){
	    .kind = PR_all_reduce, .comm = 0, .dt = DT_f64, .count = 3 + (int64_t)m->nreports};
	return m->plan.ranks > 1;
}

/* The value a port of a body names. */
static const Type *
port_type(const Body *b, PortKind kind)
{
	for (uint32_t p = 0; p < b->nports; p++)
		if (b->ports[p].kind == kind) return val_type(b, b->ports[p].v);
	return NULL;
}

static uint32_t
reshard_prim(const Module *m, uint32_t stage, CommKind kind, uint32_t inst, Prim *out)
{
	const LayerType *l = &m->types[m->insts[inst].type];
	const Body *b = &m->bodies[l->body[kind == CK_fwd ? BK_F : BK_B]];
	const Ref *ref = m->insts[inst].args;
	Side near = {.stage = ir_stage_of(m, inst), .mesh = ir_mesh(m, b)}, far = {0};
	const Type *x = port_type(b, kind == CK_fwd ? PORT_arg : PORT_dx);
	const Type *y = port_type(b, kind == CK_fwd ? PORT_out : PORT_cot);

	if (!l->reshard || !b->from || !x || !y || ref->kind != REF_result) return 0;
	far = (Side){
	    .stage = ir_stage_of(m, ref->i), .mesh = &m->plan.meshes[b->from - 1], .type = *x};
	near.type = *y;
	if (stage != near.stage && stage != far.stage) return 0;
	*out = (Prim){.kind = PR_exchange,
		      .comm = -1,
		      .dt = x->dt,
		      .channel = kind,
		      .from = kind == CK_fwd ? far : near,
		      .to = kind == CK_fwd ? near : far};
	if (kind == CK_bwd) {
		const Memory *x_mem = m->level >= LV_mem ? &m->mem[far.stage] : NULL;

		out->add = x_mem && x_mem->cot &&
			   x_mem->cot[x_mem->cot_of[ref->i] + ref->result].shared;
	}
	return 1;
}

static uint32_t
flat_prims(const Module *m, const CommTable *t, uint32_t stage, CommKind kind, uint32_t inst,
	   Prim *out)
{
	Arena *tmp = arena_new();
	Flat f = ir_flat(m, tmp, inst);
	const Mesh *mesh = ir_inst_mesh(m, inst);
	int comm = ir_comm_find(m, t, stage, mesh, f.dp_mask), width = dtype_bytes(f.dt);
	uint32_t n = 0;

	for (uint32_t i = 0; kind == CK_grad && i < f.nspans && n + 1 < MAX_PRIMS; i++) {
		int over = ir_comm_find(m, t, stage, mesh, f.span[i].over);

		if (over < 0) continue;
		out[n++] = (Prim){.kind = PR_all_reduce,
				  .comm = over,
				  .dt = f.dt,
				  .count = f.span[i].bytes / width,
				  .at = f.span[i].at};
	}
	if (f.bytes && comm >= 0 && kind == CK_grad)
		out[n++] = (Prim){.kind = f.zero ? PR_reduce_scatter : PR_all_reduce,
				  .comm = comm,
				  .dt = f.dt,
				  .add = f.zero >= 2,
				  .count = f.bytes / width};
	if (f.bytes && comm >= 0 && kind == CK_param && f.zero)
		out[n++] = (Prim){.kind = PR_all_gather,
				  .comm = comm,
				  .dt = f.dt,
				  .count = f.bytes / f.dp / width};
	arena_free(tmp);
	return n;
}

static uint32_t
borrow_prims(const Module *m, const CommTable *t, uint32_t stage, CommKind kind, uint32_t param,
	     Prim *out)
{
	const Param *p = &m->params[param], *o;
	Side copy = {ir_stage_of(m, p->owner), ir_param_mesh(m, param), p->type}, owner;
	uint32_t n = 0;

	if (!p->borrows) return 0;
	o = &m->params[p->borrows - 1];
	owner = (Side){ir_stage_of(m, o->owner), ir_param_mesh(m, p->borrows - 1), o->type};
	if (stage != copy.stage && stage != owner.stage) return 0;
	if (kind == CK_return && stage == copy.stage) {
		int comm = ir_comm_find(m, t, stage, copy.mesh, p->pending & ~1u);

		if (comm >= 0)
			out[n++] = (Prim){.kind = PR_all_reduce,
					  .comm = comm,
					  .dt = p->type.dt,
					  .count = type_count(m, copy.mesh, &p->type)};
	}
	if (kind == CK_return) owner.type.partial = o->pending & (uint16_t)~1u;
	out[n++] = (Prim){.kind = PR_exchange,
			  .comm = -1,
			  .dt = p->type.dt,
			  .add = kind == CK_return,
			  .channel = kind,
			  .from = kind == CK_lend ? owner : copy,
			  .to = kind == CK_lend ? copy : owner};
	return n;
}

uint32_t
ir_prims(const Module *m, const CommTable *t, uint32_t stage, CommKind kind, uint32_t i,
	 Prim out[MAX_PRIMS])
{
	switch (kind) {
	case CK_fwd:
	case CK_bwd: return reshard_prim(m, stage, kind, i, out);
	case CK_param:
	case CK_grad: return flat_prims(m, t, stage, kind, i, out);
	case CK_lend:
	case CK_return: return borrow_prims(m, t, stage, kind, i, out);
	case CK_COUNT: break;
	}
	return 0;
}

/* ---- pieces of an exchange ---- */

typedef struct Box {
	int64_t lo[MAX_AXES], hi[MAX_AXES];
} Box;

static void
box_of(const Module *m, const Side *s, const uint32_t *coord, Box *out)
{
	for (int k = 0; k < s->type.n; k++)
		ir_part(m, s->mesh, &s->type, k, coord, &out->lo[k], &out->hi[k]);
}

/* Elements both have; what they share goes to `out`. Axis k of `a` is the one of that name in the other. */
static int64_t
box_meet(const Side *a, const Box *x, const Side *b, const Box *y, Piece *out)
{
	int64_t n = 1;

	for (int k = 0; k < a->type.n; k++) {
		int j = type_find(&b->type, a->type.ax[k].a);
		int64_t lo = x->lo[k], hi = x->hi[k];

		if (j >= 0 && y->lo[j] > lo) lo = y->lo[j];
		if (j >= 0 && y->hi[j] < hi) hi = y->hi[j];
		out->lo[k] = lo;
		out->hi[k] = hi;
		n = hi > lo ? n * (hi - lo) : 0;
	}
	return out->count = n;
}

/* Is a coordinate where the other side's sharding may overlap? Steps over the shards of one axis at a time. */
static bool
axis_meets(const Module *m, const Side *s, int k, const uint32_t *coord, const Side *b,
	   const Box *y)
{
	int j = type_find(&b->type, s->type.ax[k].a);
	int64_t lo, hi;

	ir_part(m, s->mesh, &s->type, k, coord, &lo, &hi);
	return hi > lo && (j < 0 || (lo < y->hi[j] && y->lo[j] < hi));
}

typedef struct Walk {
	const Module *m;
	const Prim *p;
	const Side *s; /* whose blocks are walked */
	const Side *o; /* the other side, of which `rank` is one */
	const Box *box;
	uint32_t rank;
	bool sending;
	uint32_t coord[MAX_MESH]; /* in s */
	Arena *a;
	Piece *out;
	uint32_t n, cap;
} Walk;

/* Which rank that has a block of the source sends it to rank `to`: itself, else replicas take turns by the receiver. */
static uint32_t
source_of(const Module *m, const Prim *p, const uint32_t *block, uint32_t to)
{
	const Side *s = &p->from;
	unsigned split = ir_split(&s->type);
	uint32_t coord[MAX_MESH], turn;
	bool own = s->stage == p->to.stage;

	if (own) {
		ir_coords(&m->plan.stages[s->stage], s->mesh, to, coord);
		for (int k = 1; s->mesh && k < s->mesh->n; k++)
			if (split >> k & 1 && coord[k] != block[k]) own = false;
	}
	if (own) return to;
	turn = (to - m->plan.stages[p->to.stage].rank) % ir_degree(s->mesh, ~split);
	memcpy(coord, block, sizeof(coord));
	for (int k = s->mesh ? s->mesh->n - 1 : 0; k > 0; k--) {
		if (split >> k & 1) continue;
		coord[k] = turn % s->mesh->ax[k].degree;
		turn /= s->mesh->ax[k].degree;
	}
	return ir_rank_at(&m->plan.stages[s->stage], s->mesh, coord);
}

/* w->coord is a block of the side walked: of the source, or (sending) of one of the targets. */
static void
add_piece(Walk *w)
{
	Box mine;
	Piece x = {0};

	box_of(w->m, w->s, w->coord, &mine);
	if (w->sending) {
		uint32_t block[MAX_MESH];

		x.from = w->rank;
		x.to = ir_rank_at(&w->m->plan.stages[w->s->stage], w->s->mesh, w->coord);
		ir_coords(&w->m->plan.stages[w->o->stage], w->o->mesh, w->rank, block);
		if (!box_meet(w->o, w->box, w->s, &mine, &x) ||
		    source_of(w->m, w->p, block, x.to) != w->rank)
			return;
	} else {
		if (!box_meet(w->s, &mine, w->o, w->box, &x)) return;
		x.to = w->rank;
		x.from = source_of(w->m, w->p, w->coord, w->rank);
	}
	PUSH(w->a, w->out, w->n, w->cap, x);
}

/* Targets that have one block differ in what the type does not split over; a pending sum is received by the first. */
static void
walk_replicas(Walk *w, int k, unsigned fixed)
{
	if (!w->s->mesh || k >= w->s->mesh->n) {
		add_piece(w);
		return;
	}
	if (fixed >> k & 1) {
		walk_replicas(w, k + 1, fixed);
		return;
	}
	for (uint32_t c = 0; c < w->s->mesh->ax[k].degree; c++) {
		w->coord[k] = c;
		walk_replicas(w, k + 1, fixed);
	}
	w->coord[k] = 0;
}

/* Coordinates [lo, hi) along shard `j` of an axis whose blocks may meet what the other side has of it: the rest is skipped. */
static void
meeting_range(const Walk *w, int axis, int j, uint32_t *lo, uint32_t *hi)
{
	const AxisUse *u = &w->s->type.ax[axis];
	int o = type_find(&w->o->type, u->a);
	int64_t n = ir_extent(w->m, u->a), at = 0;

	*lo = 0;
	*hi = u->shard[j] ? w->s->mesh->ax[u->shard[j]].degree : 1;
	if (o < 0 || !u->shard[j]) return;
	for (int i = 0; i <= j; i++) {
		int64_t degree = w->s->mesh->ax[u->shard[i]].degree;

		n = n / degree + (n % degree != 0);
		if (i < j) at += n * w->coord[u->shard[i]];
	}
	if (w->box->hi[o] <= at) {
		*hi = 0;
		return;
	}
	if (w->box->lo[o] > at) *lo = (uint32_t)((w->box->lo[o] - at) / n);
	if ((w->box->hi[o] - 1 - at) / n + 1 < *hi)
		*hi = (uint32_t)((w->box->hi[o] - 1 - at) / n + 1);
}

/* Coordinates along the shards of axis `axis` from its `j`-th on, then the axes after it. */
static void
walk_blocks(Walk *w, int axis, int j)
{
	const AxisUse *u;
	unsigned k;
	uint32_t lo, hi;

	if (axis == w->s->type.n) {
		walk_replicas(w, 1,
			      w->sending ? ir_split(&w->s->type) | w->s->type.partial : ~0u);
		return;
	}
	u = &w->s->type.ax[axis];
	if (j == u->nshard) {
		if (axis_meets(w->m, w->s, axis, w->coord, w->o, w->box))
			walk_blocks(w, axis + 1, 0);
		return;
	}
	k = u->shard[j];
	meeting_range(w, axis, j, &lo, &hi);
	for (uint32_t c = lo; c < hi; c++) {
		w->coord[k] = c;
		walk_blocks(w, axis, j + 1);
	}
	w->coord[k] = 0;
}

bool
ir_sides_alike(const Prim *p)
{
	const Mesh *x = p->from.mesh, *y = p->to.mesh;

	if (!type_equal(&p->from.type, &p->to.type) || !x || !y || x->n != y->n) return false;
	for (int k = 1; k < x->n; k++)
		if (x->ax[k].degree != y->ax[k].degree) return false;
	return true;
}

uint32_t
ir_pieces(const Module *m, const Prim *p, uint32_t rank, bool sending, Arena *a, Piece **out)
{
	const Side *me = sending ? &p->from : &p->to;
	const Stage *s = &m->plan.stages[me->stage];
	uint32_t coord[MAX_MESH];
	Box box;
	Walk w = {.m = m,
		  .p = p,
		  .s = sending ? &p->to : &p->from,
		  .o = me,
		  .box = &box,
		  .rank = rank,
		  .sending = sending,
		  .a = a};

	*out = NULL;
	if (rank < s->rank || rank - s->rank >= s->ranks) return 0;
	ir_coords(s, me->mesh, rank, coord);
	if (ir_sides_alike(p)) {
		Piece x = {.from = m->plan.stages[p->from.stage].rank + rank - s->rank,
			   .to = m->plan.stages[p->to.stage].rank + rank - s->rank};

		box_of(m, me, coord, &box);
		if (!box_meet(me, &box, me, &box, &x)) return 0;
		PUSH(a, w.out, w.n, w.cap, x);
		*out = w.out;
		return w.n;
	}
	for (int k = 1; !sending && me->mesh && k < me->mesh->n; k++)
		if (me->type.partial >> k & 1 && coord[k]) return 0;
	box_of(m, me, coord, &box);
	for (int k = 0; k < me->type.n; k++)
		if (box.hi[k] <= box.lo[k]) return 0;
	walk_blocks(&w, 0, 0);
	*out = w.out;
	return w.n;
}
