/*
 * place.c - where the values of one body live.
 *
 * Input: a body whose kernels are numbered. Output: the space of every value, offsets in
 * scratch, the height and the most bytes alive at once. A kernel is one step of time. A buffer
 * lives from the step that writes it to the last step that reads it, through views as well.
 * Out-ports are written where they are: their values have no buffer of ours.
 *
 * A result may take over the buffer of an operand that dies in the same kernel (`over`), if
 * every read of it is at the place that is written, and if neither a later walk over the row
 * nor a value computed after it reads the operand again. Buffers the caller needs no more (what
 * F saved, cotangents, carries: `spare`) may be taken over like our own: so the gradient of the
 * logits sits in the logits. The other way round, an operand that dies in the kernel that makes
 * the value of an out-port may be computed in the port's buffer: it is SP_port with no port of
 * its own, and the value takes it over. Sums over ranks are taken in place likewise.
 *
 * Invariant: no two buffers that are alive in one step overlap.
 */
#include <string.h>

#include "passes/passes.h"

typedef struct Place {
	Ctx *c;
	const Module *m;
	Body *b;
	/* [nvals] in-ports whose buffers may be overwritten after their last reading; or NULL */
	const bool *spare;
	uint32_t *step;  /* [nops] ops of one kernel share a step */
	uint32_t *root;  /* [nvals] whose buffer the value is in, after take-overs */
	uint32_t *last;  /* [nvals] of a root: last step that reads it */
	uint32_t *first; /* [nvals] of a root: step that writes it */
	int *level;      /* [nvals] walks over the row that must be over before */
	bool *reach;     /* [nvals] depends on the operand looked at */
} Place;

/* ---- spaces ---- */

/* Ops that read scalars as literals: loops of ours, not library calls. */
static bool
reads_literals(const Op *op)
{
	int flags = op_info[op->code].flags;
	return flags & (OF_EW | OF_VIEW) || op->code == OP_sum || op->code == OP_rmax ||
	       op->code == OP_rmin;
}

/* Is `v` read only inside kernel `k`? */
static bool
only_in_kernel(const Body *b, Val v, uint32_t k)
{
	for (uint32_t i = 0; i < b->nops; i++)
		for (int j = 0; b->ops[i].kernel != k && j < b->ops[i].nin; j++)
			if (b->ops[i].in[j].i == v.i) return false;
	return true;
}

/* A scalar that only loops read, through views or not. */
static bool
is_literal(const Module *m, const Body *b, Val v)
{
	if (b->ops[b->vals[v.i].def - 1].code != OP_const) return false;
	for (uint32_t i = 0; i < b->nops; i++) {
		const Op *op = &b->ops[i];
		for (int j = 0; !reads_literals(op) && j < op->nin; j++) {
			Access a;
			if (op->in[j].i == v.i) return false;
			if (ir_access(m, b, op->in[j], &a) && a.base.i == v.i) return false;
		}
	}
	return true;
}

/* Only sampling wants it: no frame has room for it, so it stays in scratch until the body ends. */
static bool
is_logits_only(const Body *b, Val v)
{
	bool logits = false;
	for (uint32_t i = 0; i < b->nports; i++) {
		if (b->ports[i].v.i != v.i) continue;
		if (b->ports[i].kind != PORT_logits) return false;
		logits = true;
	}
	return logits;
}

static Space
space_of(const Module *m, const Body *b, Val v)
{
	const ValDef *d = &b->vals[v.i];
	if (d->def && is_logits_only(b, v)) return SP_scratch;
	if (!d->def || body_is_out(b, v)) return SP_port;
	const Op *op = &b->ops[d->def - 1];
	if (op->code == OP_const && is_literal(m, b, v)) return SP_local;
	if (op->kernel && only_in_kernel(b, v, op->kernel)) return SP_local;
	Access a;
	if (op_info[op->code].flags & OF_VIEW && ir_access(m, b, v, &a) && a.base.i != v.i)
		return SP_alias;
	return SP_scratch;
}

/* The value whose buffer a read of v touches, before take-overs. */
static Val
base_of(const Place *p, Val v)
{
	Access a;
	if (p->b->vals[v.i].space == SP_alias && ir_access(p->m, p->b, v, &a)) return a.base;
	return v;
}

/* ---- time ---- */

static void
find_steps(Place *p)
{
	Body *b = p->b;
	uint32_t n = 0;
	for (uint32_t i = 0; i < b->nops; i++) {
		if (i && !(b->ops[i].kernel && b->ops[i].kernel == b->ops[i - 1].kernel)) n++;
		p->step[i] = n;
	}
	for (uint32_t v = 1; v < b->nvals; v++) {
		p->root[v] = v;
		p->first[v] = p->last[v] = b->vals[v].def ? p->step[b->vals[v].def - 1] : 0;
	}
	for (uint32_t i = 0; i < b->nops; i++)
		for (int j = 0; j < b->ops[i].nin; j++) {
			uint32_t v = base_of(p, b->ops[i].in[j]).i;
			if (p->last[v] < p->step[i]) p->last[v] = p->step[i];
		}
	for (uint32_t v = 1; v < b->nvals; v++)
		if (is_logits_only(b, (Val){v})) p->last[v] = UINT32_MAX;
}

/* A reduction ends a walk over the row; centred moments take two. */
static void
find_levels(Place *p)
{
	for (uint32_t i = 0; i < p->b->nops; i++) {
		const Op *op = &p->b->ops[i];
		int level = 0;
		for (int j = 0; j < op->nin; j++) {
			const Op *from = val_op(p->b, op->in[j]);
			bool inside = from && op->kernel && from->kernel == op->kernel;
			if (inside && p->level[op->in[j].i] > level)
				level = p->level[op->in[j].i];
		}
		if (op_info[op->code].flags & OF_RED) level += op->code == OP_moments ? 2 : 1;
		for (int r = 0; r < op->nout; r++)
			p->level[op->out[r].i] = level;
	}
}

/* ---- taking over ---- */

/* Is operand v read at the very place of its buffer where a value of type t is written? */
static bool
same_place(const Place *p, Val v, const Type *t)
{
	const Mesh *mesh = ir_mesh(p->m, p->b);
	Access a;
	if (!ir_access(p->m, p->b, v, &a) || a.offset != 0) return false;
	const Type *tv = val_type(p->b, v);
	int64_t stride = 1;
	if (tv->n != t->n) return false;
	for (int k = t->n; k-- > 0;) {
		int j = type_find(tv, t->ax[k].a);
		int64_t extent = type_extent(p->m, mesh, t, k);
		if (j < 0 || (extent > 1 && a.stride[j] != stride)) return false;
		stride *= extent;
	}
	return true;
}

/* Marks what in the kernel of op `at` depends on buffer x otherwise than through y. */
static void
mark_reach(Place *p, uint32_t lo, uint32_t hi, uint32_t x, Val y)
{
	memset(p->reach, 0, sizeof *p->reach * p->b->nvals);
	for (uint32_t i = lo; i < hi; i++) {
		const Op *op = &p->b->ops[i];
		bool on = false;
		for (int j = 0; j < op->nin; j++)
			on |= p->reach[op->in[j].i] || p->root[base_of(p, op->in[j]).i] == x;
		for (int r = 0; on && r < op->nout; r++)
			if (op->out[r].i && op->out[r].i != y.i) p->reach[op->out[r].i] = true;
	}
}

/* Ops that may write where they read: element by element, or a sum over ranks. */
static bool
is_in_place(const Op *op)
{
	return op_info[op->code].flags & OF_EW || op->code == OP_all_reduce;
}

/* May y, a result of op `at` in ops lo..hi (one step), be written into the buffer x? */
static bool
may_take(Place *p, uint32_t lo, uint32_t hi, uint32_t at, Val y, uint32_t x)
{
	const Body *b = p->b;
	const Mesh *mesh = ir_mesh(p->m, b);
	const Type *t = val_type(b, y);
	const Type *tx = &b->vals[x].type;
	if (p->last[x] != p->step[at] || (b->vals[x].def && p->first[x] == p->step[at]))
		return false;
	if (type_bytes(p->m, mesh, tx) != type_bytes(p->m, mesh, t) ||
	    dtype_bytes(tx->dt) != dtype_bytes(t->dt))
		return false;
	for (uint32_t i = lo; i < hi; i++)
		for (int j = 0; j < b->ops[i].nin; j++) {
			Val v = b->ops[i].in[j];
			if (p->root[base_of(p, v).i] != x) continue;
			if (!is_in_place(&b->ops[i]) &&
			    !(b->ops[i].kernel && op_info[b->ops[i].code].flags & OF_RED))
				return false;
			if (!same_place(p, v, t)) return false;
		}
	mark_reach(p, lo, hi, x, y);
	for (uint32_t i = lo; i < hi; i++)
		for (int r = 0; r < b->ops[i].nout; r++) {
			Val z = b->ops[i].out[r];
			if (!z.i || !p->reach[z.i]) continue;
			if (p->level[z.i] > p->level[y.i] ||
			    (i > at && p->level[z.i] == p->level[y.i]))
				return false;
		}
	return true;
}

/* Which out-port names the value, if only one does. */
static const Port *
only_port(const Body *b, Val v)
{
	const Port *p = NULL;
	for (uint32_t i = 0; i < b->nports; i++) {
		if (port_is_in(b->ports[i].kind) || b->ports[i].v.i != v.i) continue;
		if (p) return NULL;
		p = &b->ports[i];
	}
	return p;
}

static bool
is_saved_port(const Body *b, uint32_t v)
{
	for (uint32_t i = 0; i < b->nports; i++)
		if (b->ports[i].kind == PORT_saved && b->ports[i].v.i == v) return true;
	return false;
}

/* Our own buffers and spare ones for scratch values; what F saved for what B hands to W. */
static bool
is_candidate(const Place *p, Val y, uint32_t x)
{
	const Body *b = p->b;
	bool spare = p->spare && p->spare[x] && !b->vals[x].def &&
		     val_type(b, y)->n > 0; /* a scalar is not worth it */
	if (b->vals[y.i].space == SP_scratch) return b->vals[x].space == SP_scratch || spare;
	const Port *out = only_port(b, y);
	return out && out->kind == PORT_carry_out && spare && is_saved_port(b, x);
}

static void
take_over(Place *p, uint32_t lo, uint32_t hi, uint32_t at, Val y)
{
	const Body *b = p->b;
	if (b->vals[y.i].space != SP_scratch && !body_is_out(b, y)) return;
	for (uint32_t i = lo; i < hi; i++)
		for (int j = 0; j < b->ops[i].nin; j++) {
			Val v = base_of(p, b->ops[i].in[j]);
			uint32_t x = p->root[v.i];
			if (x == y.i || !is_candidate(p, y, x) ||
			    !may_take(p, lo, hi, at, y, x))
				continue;
			p->b->vals[y.i].over = v;
			if (b->vals[x].space == SP_port) p->b->vals[y.i].space = SP_port;
			p->root[y.i] = x;
			if (p->last[y.i] > p->last[x]) p->last[x] = p->last[y.i];
			if (body_is_out(b, y))
				p->last[x] = UINT32_MAX; /* the caller reads it */
			return;
		}
}

/* Does the caller see nothing but the last value of the buffer of y? Not where results are
 * added (dx, dw). */
static bool
is_plain_out(const Body *b, Val y)
{
	for (uint32_t i = 0; i < b->nports; i++) {
		PortKind k = b->ports[i].kind;
		if (b->ports[i].v.i != y.i) continue;
		if (k != PORT_out && k != PORT_save && k != PORT_logits && k != PORT_carry_out)
			return false;
	}
	return true;
}

/* An operand of y that could have the buffer of y's port from the start (a product before
 * its bias is added). */
static void
settle_in_port(Place *p, uint32_t lo, uint32_t hi, uint32_t at, Val y)
{
	Body *b = p->b;
	if (b->vals[y.i].space != SP_port || b->vals[y.i].over.i || !is_plain_out(b, y)) return;
	for (uint32_t i = lo; i < hi;
	     i++) /* a later walk over the row had better read y than make it again */
		if (p->level[b->ops[i].out[0].i] > p->level[y.i]) return;
	for (uint32_t i = lo; i < hi; i++)
		for (int j = 0; j < b->ops[i].nin; j++) {
			uint32_t x = base_of(p, b->ops[i].in[j]).i;
			const ValDef *d = &b->vals[x];
			if (d->space != SP_scratch || d->over.i || p->root[x] != x ||
			    !may_take(p, lo, hi, at, y, x))
				continue;
			b->vals[x].space = SP_port;
			b->vals[y.i].over = (Val){x};
			return;
		}
}

/* In two rounds: where a result takes over what is there, and where an operand moves to
 * where the result will be. */
static void
take_over_all(Place *p)
{
	Body *b = p->b;
	for (int round = 0; round < 2; round++)
		for (uint32_t lo = 0, hi; lo < b->nops; lo = hi) {
			for (hi = lo + 1; hi < b->nops && p->step[hi] == p->step[lo]; hi++)
				continue;
			for (uint32_t i = lo; i < hi; i++) {
				Val y = b->ops[i].out[0];
				if (!is_in_place(&b->ops[i]) || !y.i) continue;
				(round ? settle_in_port : take_over)(p, lo, hi, i, y);
			}
		}
}

/* ---- one body ---- */

/*
 * Sets space, offset and over of every value, and scratch_bytes and live_bytes of the body.
 * requires: kernels contiguous.
 */
void
pack_body(Ctx *c, const Module *m, Body *b, const bool *spare)
{
	uint32_t n = 0, nv = b->nvals;
	Place p = {c,
		   m,
		   b,
		   spare,
		   NEW_N(c->tmp, uint32_t, b->nops + 1),
		   NEW_N(c->tmp, uint32_t, nv),
		   NEW_N(c->tmp, uint32_t, nv),
		   NEW_N(c->tmp, uint32_t, nv),
		   NEW_N(c->tmp, int, nv),
		   NEW_N(c->tmp, bool, nv)};
	uint32_t *item = NEW_N(c->tmp, uint32_t, nv);
	PackItem *items = NEW_N(c->tmp, PackItem, nv);
	for (uint32_t v = 1; v < nv; v++) {
		ValDef *d = &b->vals[v];
		d->space = SP_none, d->offset = 0, d->over = NO_VAL;
	}
	for (uint32_t v = 1; v < nv; v++)
		b->vals[v].space = space_of(m, b, (Val){v});
	find_steps(&p);
	find_levels(&p);
	take_over_all(&p);
	for (uint32_t v = 1; v < nv; v++) {
		const ValDef *d = &b->vals[v];
		if (d->space != SP_scratch || p.root[v] != v) continue;
		items[n] = (PackItem){p.first[v], p.last[v],
				      type_bytes(m, ir_mesh(m, b), &d->type), 0};
		item[v] = n++;
	}
	b->scratch_bytes = pack_items(c->tmp, items, n);
	b->live_bytes = pack_live(items, n);
	for (uint32_t v = 1; v < nv; v++)
		if (b->vals[v].space == SP_scratch)
			b->vals[v].offset = items[item[p.root[v]]].at;
}

/* Is saved slot s something else than F's own: a result, or what sampling reads? */
static bool
saved_is_result(const Body *f, uint16_t slot)
{
	const Port *save = ir_find_port(f, PORT_save, slot);
	for (uint32_t i = 0; save && i < f->nports; i++)
		if (f->ports[i].kind == PORT_out && f->ports[i].v.i == save->v.i) return true;
	return !save;
}

/*
 * Packs all bodies of a type. B may overwrite what W does not read: what F saved and is no
 * result, cotangents. W may overwrite all three. requires: LV_spmd.
 */
void
pack_bodies(Ctx *c, const Module *m, Body *const body[BK_COUNT])
{
	for (int k = 0; k < BK_COUNT; k++) {
		Body *b = body[k];
		if (!b) continue;
		bool *spare = NEW_N(c->tmp, bool, b->nvals);
		for (uint32_t i = 0; i < b->nports; i++) {
			const Port *q = &b->ports[i];
			bool ours = q->kind == PORT_saved || q->kind == PORT_cot ||
				    q->kind == PORT_carry;
			bool later = k == BK_B && body[BK_W] &&
				     ir_find_port(body[BK_W], q->kind, q->slot);
			bool result =
			    q->kind == PORT_saved && saved_is_result(body[BK_F], q->slot);
			spare[q->v.i] = (k == BK_B || k == BK_W) && ours && !later && !result;
		}
		pack_body(c, m, b, spare);
	}
}
