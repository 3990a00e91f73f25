/*
 * access.c - views as strides.
 *
 * A chain of view, slice and broadcast over a value with a buffer is that buffer read with other strides. Steps of a
 * slice may be negative; a merge is a stride only where its axes lie like one (stride[i] = extent[i + 1] stride[i + 1]).
 * A chain is cut at every MAX_CHAIN-th view, counted from its base, which then has a buffer of its own: so the answer for
 * one value never contradicts the answer for another, and needs no more than a fixed stack.
 */
#include "ir/ir.h"

enum { MAX_CHAIN = 64 };

/* The op that v re-indexes by, or NULL where v holds its own bytes. */
static const Op *
view_op(const Body *b, Val v)
{
	const Op *op = val_op(b, v);
	Space space = b->vals[v.i].space;

	if (!op || space == SP_scratch || space == SP_port) return NULL;
	return op->code == OP_view || op->code == OP_slice || op->code == OP_broadcast ? op
										       : NULL;
}

/* How many views v stands above its base. */
static uint32_t
chain_depth(const Body *b, Val v)
{
	uint32_t depth = 0;

	for (const Op *op; (op = view_op(b, v)); v = op->in[0])
		depth++;
	return depth;
}

/* v as its own buffer: row-major in type order. */
static void
own(const Module *m, const Body *b, Val v, Access *out)
{
	const Type *t = val_type(b, v);
	const Mesh *mesh = ir_mesh(m, b);
	int64_t stride = 1;

	*out = (Access){.base = v};
	for (int k = t->n - 1; k >= 0; k--) {
		out->stride[k] = stride;
		if (__builtin_mul_overflow(stride, type_extent(m, mesh, t, k), &stride))
			stride = 0; /* never allocated */
	}
}

/* Stride of x along axis a. */
static int64_t
stride_of(const Type *t, const Access *x, Axis a)
{
	return x->stride[type_find(t, a)];
}

/* The stride of the axes `from` of x as one; axes of one entry lie anyhow. */
static bool
merged(const Module *m, const Mesh *mesh, const Type *t, const Access *x, const AxisList *from,
       int64_t *stride)
{
	int64_t want = 0;
	bool any = false;

	*stride = 0;
	for (int i = from->n - 1; i >= 0; i--) {
		int k = type_find(t, from->a[i]);
		int64_t n = type_extent(m, mesh, t, k);

		if (n == 1) continue;
		if (any && x->stride[k] != want) return false;
		if (!any) *stride = x->stride[k];
		any = true;
		if (__builtin_mul_overflow(x->stride[k], n, &want)) return false;
	}
	return true;
}

static bool
through_view(const Module *m, const Body *b, const Op *op, const Access *x, Access *out)
{
	const AxisList *from = attr_axes(op, AK_from), *to = attr_axes(op, AK_to);
	const Type *t = val_type(b, op->in[0]), *r = val_type(b, op->out[0]);
	const Mesh *mesh = ir_mesh(m, b);
	int64_t inner;

	if (!merged(m, mesh, t, x, from, &inner)) return false;
	for (int i = to->n - 1; i >= 0; i--) {
		int k = type_find(r, to->a[i]);

		out->stride[k] = inner;
		if (i && __builtin_mul_overflow(inner, type_extent(m, mesh, r, k), &inner))
			return false;
	}
	for (int k = 0; k < r->n; k++)
		if (!axes_has(to, r->ax[k].a)) out->stride[k] = stride_of(t, x, r->ax[k].a);
	return true;
}

static bool
through_slice(const Body *b, const Op *op, const Access *x, Access *out)
{
	const Type *t = val_type(b, op->in[0]), *r = val_type(b, op->out[0]);
	const Attr *to = attr_find(op, AK_to);
	int64_t along = stride_of(t, x, attr_axis(op, AK_axis)), skip, step;

	if (__builtin_mul_overflow(attr_int(op, AK_start), along, &skip) ||
	    __builtin_mul_overflow(attr_int(op, AK_step), along, &step) ||
	    __builtin_add_overflow(x->offset, skip, &out->offset))
		return false;
	for (int k = 0; k < r->n; k++) {
		bool made = to && to->axes.a[0].i == r->ax[k].a.i;

		out->stride[k] = made ? step : stride_of(t, x, r->ax[k].a);
	}
	return true;
}

static void
through_broadcast(const Body *b, const Op *op, const Access *x, Access *out)
{
	const Type *t = val_type(b, op->in[0]), *r = val_type(b, op->out[0]);

	for (int k = 0; k < r->n; k++)
		out->stride[k] = type_find(t, r->ax[k].a) < 0 ? 0 : stride_of(t, x, r->ax[k].a);
}

/* x, the access of the operand, becomes the access of the view; false where it has none. */
static bool
step(const Module *m, const Body *b, const Op *op, Access *x)
{
	Access out = {.base = x->base, .offset = x->offset};
	bool ok = true;

	if (op->code == OP_view) ok = through_view(m, b, op, x, &out);
	if (op->code == OP_slice) ok = through_slice(b, op, x, &out);
	if (op->code == OP_broadcast) through_broadcast(b, op, x, &out);
	*x = out;
	return ok;
}

/* Where the answer is false, *out is still how to read v from the buffer it must then have. */
bool
ir_access(const Module *m, const Body *b, Val v, Access *out)
{
	const Op *chain[MAX_CHAIN];
	uint32_t depth = chain_depth(b, v);
	Val base = v;
	int n = 0;
	bool ok = true;

	own(m, b, v, out);
	if (depth == 0) {
		Space space = b->vals[v.i].space;

		return !val_op(b, v) || space == SP_scratch || space == SP_port;
	}
	if (depth % MAX_CHAIN == 0) return false;
	for (; depth % MAX_CHAIN; depth--) {
		chain[n++] = view_op(b, base);
		base = chain[n - 1]->in[0];
	}
	own(m, b, base, out);
	while (n-- > 0) {
		ok = step(m, b, chain[n], out);
		if (!ok) own(m, b, chain[n]->out[0], out);
	}
	return ok;
}
