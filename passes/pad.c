/*
 * pad.c - uneven axes: what lies behind the end of the last shards must add nothing.
 *
 * An axis whose extent its shards do not divide is held in blocks of equal size, the last ones partly or wholly padding.
 * Padding holds whatever the ops make of it; it is finite, and nobody looks at it but ops that add up, or take the greatest,
 * over the axis. In front of those goes `where(inside, x, neutral)`, unless the padding of x is known to be zero:
 * weights are zero there from the start and stay so, since their gradients are; so are cotangents, since every body makes
 * them so. Zero is carried through the ops that keep it.
 *
 * Input: bodies with their final layouts. Output: the same with masks. Values of a body are looked at in one pass: `zero` has
 * a bit for each padded axis.
 */
#include "passes/passes.h"

enum { MAX_PADDED = 32 };

typedef struct Pad {
	Ctx *c;
	Module *m;
	const Mesh *mesh;
	const Body *src;
	Body *dst;
	Val *map; /* [src's nvals] */
	uint32_t *
	    zero; /* [dst's values so far, grown] bit k: zero in the padding of padded axis k */
	uint32_t nzero, czero;
	struct {
		Axis a;
		AxisUse use;
	} axis[MAX_PADDED];
	uint32_t naxes;
	uint32_t *saved, *carry; /* [slot] bits of the types' slots */
} Pad;

/* ---- padded axes ---- */

static bool
is_padded(const Pad *p, const AxisUse *u)
{
	int64_t n = ir_extent(p->m, u->a);
	for (int i = 0; i < u->nshard; i++) {
		int64_t degree = p->mesh->ax[u->shard[i]].degree;
		if (n % degree) return true;
		n /= degree;
	}
	return false;
}

/* Number of the padded axis of a type's k-th use; -1. */
static int
padded(Pad *p, const AxisUse *u)
{
	if (!u->nshard || !is_padded(p, u)) return -1;
	for (uint32_t k = 0; k < p->naxes; k++)
		if (p->axis[k].a.i == u->a.i) return (int)k;
	ENSURE(p->naxes < MAX_PADDED, "more than %d uneven axes", MAX_PADDED);
	p->axis[p->naxes].a = u->a;
	p->axis[p->naxes].use = *u;
	return (int)p->naxes++;
}

/* Bits of all padded axes of a type. */
static uint32_t
bits_of(Pad *p, const Type *t)
{
	uint32_t bits = 0;
	for (int k = 0; k < t->n; k++) {
		int i = padded(p, &t->ax[k]);
		if (i >= 0) bits |= UINT32_C(1) << i;
	}
	return bits;
}

static uint32_t
bits_in(Pad *p, const Type *t, const AxisList *l)
{
	uint32_t bits = 0;
	for (int k = 0; k < t->n; k++) {
		int i = axes_has(l, t->ax[k].a) ? padded(p, &t->ax[k]) : -1;
		if (i >= 0) bits |= UINT32_C(1) << i;
	}
	return bits;
}

/* ---- what is zero ---- */

static uint32_t
zero_of(const Pad *p, Val v)
{
	return v.i < p->nzero ? p->zero[v.i] : 0;
}

static void
set_zero(Pad *p, Val v, uint32_t bits)
{
	while (p->nzero <= v.i)
		PUSH(p->c->tmp, p->zero, p->nzero, p->czero, 0u);
	p->zero[v.i] = bits;
}

static bool
is_zero_const(const Body *b, Val v)
{
	const Op *op = val_op(b, v);
	return op && op->code == OP_const && attr_num(op, AK_value) == 0;
}

/* Zero wherever all operands that matter are; an operand without the axis counts only if it is zero itself. */
static uint32_t
zero_all(Pad *p, const Op *op, int first)
{
	uint32_t bits = ~UINT32_C(0);
	for (int k = first; k < op->nin; k++)
		if (!is_zero_const(p->dst, op->in[k])) bits &= zero_of(p, op->in[k]);
	return bits;
}

static uint32_t
zero_result(Pad *p, const Op *op)
{
	const Val *in = op->in;
	switch (op->code) {
	case OP_neg:
	case OP_copy:
	case OP_stop:
	case OP_cast:
	case OP_sqrt:
	case OP_sin:
	case OP_tanh:
	case OP_erf:
	case OP_relu:
	case OP_abs:
	case OP_broadcast:
	case OP_dropout:
	case OP_div:
	case OP_slice:
	case OP_unslice:
	case OP_roll:
	case OP_sum:
	case OP_gather:
	case OP_part:
	case OP_all_reduce:
	case OP_all_gather:
	case OP_reduce_scatter:
	case OP_view: return zero_of(p, in[0]);
	case OP_mul:
	case OP_dot: return zero_of(p, in[0]) | zero_of(p, in[1]);
	case OP_add:
	case OP_sub:
	case OP_concat: return zero_all(p, op, 0);
	case OP_where: return zero_all(p, op, 1);
	case OP_attention_grad: return zero_of(p, in[5]);
	case OP_scatter_add: { /* labels point at no padding */
		uint32_t bits = zero_of(p, in[0]);
		const Type *t = val_type(p->dst, op->out[0]);
		return bits | bits_in(p, t, attr_axes(op, AK_axes));
	}
	default: return 0;
	}
}

/* ---- masks ---- */

static Val
mask_axis(Pad *p, Val v, int k, double neutral, Loc loc)
{
	Module *m = p->m;
	Body *b = p->dst;
	Type t = *val_type(b, v), cond = {.dt = DT_bool, .n = 1, .ax = {p->axis[k].use}},
	     scalar = {.dt = t.dt};
	Attr axis = attr_make_axis(AK_axis, p->axis[k].a),
	     value = attr_make_num(AK_value, neutral);
	Val in = body_op(m, b, OP_inside, NULL, 0, &axis, 1, &cond, loc);
	Val other = body_op(m, b, OP_const, NULL, 0, &value, 1, &scalar, loc);
	Val y = body_op(m, b, OP_where, (Val[]){in, v, other}, 3, NULL, 0, &t, loc);
	set_zero(p, y, zero_of(p, v) | (neutral == 0 ? UINT32_C(1) << k : 0));
	return y;
}

static Val
mask(Pad *p, Val v, uint32_t bits, double neutral, Loc loc)
{
	for (uint32_t k = 0; k < p->naxes; k++)
		if (bits >> k & 1) v = mask_axis(p, v, (int)k, neutral, loc);
	return v;
}

/* ---- ops ---- */

static bool
is_ew(const Body *b, Val v)
{
	const Op *op = val_op(b, v);
	return op && op_info[op->code].flags & OF_EW;
}

/* Axes of any operand that no wanted result has: they are added over. */
static uint32_t
lost(Pad *p, const Op *op)
{
	uint32_t bits = 0;
	for (int k = 0; k < op->nin; k++) {
		const Type *t = val_type(p->dst, op->in[k]);
		for (int i = 0; i < t->n; i++) {
			bool gone = false;
			for (int r = 0; r < op->nout; r++)
				gone |= op->out[r].i &&
					type_find(val_type(p->src, op->out[r]), t->ax[i].a) < 0;
			int at = gone ? padded(p, &t->ax[i]) : -1;
			if (at >= 0) bits |= UINT32_C(1) << at;
		}
	}
	return bits;
}

static double
least(DType dt)
{
	return dt == DT_f64 ? -1e300 : dt == DT_i32 ? -2147483647.0 : -3e38;
}

/* Masks operands of `op` (in the new body) where it adds up over padding. */
static void
guard(Pad *p, Op *op)
{
	const Type *x = op->nin ? val_type(p->dst, op->in[0]) : NULL;
	uint32_t bits;
	switch (op->code) {
	case OP_sum:
		bits = bits_in(p, x, attr_axes(op, AK_axes)) & ~zero_of(p, op->in[0]);
		op->in[0] = mask(p, op->in[0], bits, 0, op->loc);
		break;
	case OP_rmax:
	case OP_rmin:
		bits = bits_in(p, x, attr_axes(op, AK_axes));
		op->in[0] = mask(p, op->in[0], bits,
				 op->code == OP_rmax ? least(x->dt) : -least(x->dt), op->loc);
		break;
	case OP_dot: {
		bits = bits_in(p, x, attr_axes(op, AK_axes)) & ~zero_of(p, op->in[0]) &
		       ~zero_of(p, op->in[1]);
		int64_t n0 = type_count(p->m, p->mesh, x),
			n1 = type_count(p->m, p->mesh, val_type(p->dst, op->in[1]));
		bool e0 = is_ew(p->dst, op->in[0]), e1 = is_ew(p->dst, op->in[1]);
		int k = e0 != e1 ? e1 : n1 < n0;
		op->in[k] = mask(p, op->in[k], bits, 0, op->loc);
		break;
	}
	case OP_scatter_add:
		bits = lost(p, op) & bits_of(p, x) & ~zero_of(p, op->in[0]);
		op->in[0] = mask(p, op->in[0], bits, 0, op->loc);
		break;
	case OP_attention_grad:
		bits = lost(p, op) & bits_of(p, val_type(p->dst, op->in[5])) &
		       ~zero_of(p, op->in[5]);
		op->in[5] = mask(p, op->in[5], bits, 0, op->loc);
		break;
	default: break;
	}
}

static void
copy_guarded(Pad *p, const Op *from)
{
	Op op = *from;
	Body *b = p->dst;
	op.in = NEW_N(p->m->arena, Val, from->nin);
	op.attrs = arena_dup(p->m->arena, from->attrs, sizeof *op.attrs * from->nattr);
	for (int k = 0; k < from->nin; k++)
		op.in[k] = p->map[from->in[k].i];
	guard(p, &op);
	for (int r = 0; r < from->nout; r++) {
		const ValDef *d = &p->src->vals[from->out[r].i];
		if (!from->out[r].i) continue;
		op.out[r] = ir_val(p->m, b, d->name, d->type);
		b->vals[op.out[r].i].def = b->nops + 1;
		b->vals[op.out[r].i].result = (uint8_t)r;
		p->map[from->out[r].i] = op.out[r];
	}
	PUSH(p->m->arena, b->ops, b->nops, b->cops, op);
	uint32_t bits = zero_result(p, &op);
	for (int r = 0; r < op.nout; r++)
		if (op.out[r].i)
			set_zero(p, op.out[r], bits & bits_of(p, val_type(b, op.out[r])));
}

static uint32_t
zero_in(Pad *p, const Port *q, const Type *t)
{
	switch (q->kind) {
	case PORT_weight:
	case PORT_cot: return bits_of(p, t);
	case PORT_saved: return p->saved[q->slot];
	case PORT_carry: return p->carry[q->slot];
	default: return 0;
	}
}

static void
out_port(Pad *p, const Port *q)
{
	Val v = p->map[q->v.i];
	const Type *t = val_type(p->dst, v);
	if (q->kind == PORT_dx || q->kind == PORT_dw) {
		const Op *op = val_op(p->dst, v);
		v = mask(p, v, bits_of(p, t) & ~zero_of(p, v), 0, op ? op->loc : (Loc){0});
	}
	if (q->kind == PORT_save) p->saved[q->slot] = zero_of(p, v);
	if (q->kind == PORT_carry_out) p->carry[q->slot] = zero_of(p, v);
	ir_out(p->m, p->dst, q->kind, q->slot, v);
}

static Body
pad_body(Pad *p, const Body *src)
{
	Body dst = ir_body(src->name, src->kind);
	p->src = src, p->dst = &dst;
	p->map = NEW_N(p->c->tmp, Val, src->nvals);
	p->zero = NULL, p->nzero = p->czero = 0;
	dst.mesh = src->mesh;
	for (uint32_t i = 0; i < src->nports; i++) {
		const Port *q = &src->ports[i];
		const ValDef *d = &src->vals[q->v.i];
		if (!port_is_in(q->kind)) continue;
		Val v = p->map[q->v.i] =
		    ir_port(p->m, &dst, q->kind, q->slot, d->name, d->type);
		set_zero(p, v, zero_in(p, q, &d->type));
	}
	for (uint32_t i = 0; i < src->nops; i++)
		copy_guarded(p, &src->ops[i]);
	for (uint32_t i = 0; i < src->nports; i++)
		if (!port_is_in(src->ports[i].kind)) out_port(p, &src->ports[i]);
	return dst;
}

static bool
any_padding(Pad *p, Body *const body[BK_COUNT])
{
	for (int k = BK_F; k <= BK_W; k++)
		for (uint32_t v = 1; body[k] && v < body[k]->nvals; v++)
			for (int i = 0; i < body[k]->vals[v].type.n; i++)
				if (is_padded(p, &body[k]->vals[v].type.ax[i])) return true;
	return false;
}

/* body[k] may be NULL. */
void
pad_type(Ctx *c, Module *m, uint32_t mesh, const LayerType *t, Body *body[BK_COUNT])
{
	Pad p = {.c = c, .m = m, .mesh = &m->plan.meshes[mesh]};
	if (!any_padding(&p, body)) return;
	p.saved = NEW_N(c->tmp, uint32_t, t->nsaved);
	p.carry = NEW_N(c->tmp, uint32_t, t->ncarry);
	for (int k = BK_F; k <= BK_W; k++)
		if (body[k]) *body[k] = pad_body(&p, body[k]);
}
