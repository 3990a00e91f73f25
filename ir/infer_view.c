/*
 * infer_view.c - result types of ops that re-index: view, slice, unslice, roll, concat, gather, scatter_add.
 * All are linear in the tensor they re-index and keep its dtype. An axis that an op cuts, turns or indexes is whole on
 * every rank; an axis that view splits or merges may be split where the blocks stay blocks.
 */
#include "ir/infer.h"

#include <inttypes.h>

static bool
extents(const Infer *x, const AxisList *l, int64_t *n)
{
	*n = 1;
	for (int i = 0; i < l->n; i++)
		if (__builtin_mul_overflow(*n, ir_extent(x->m, l->a[i]), n))
			return inf_fail(x, "extents multiply beyond 2^63");
	return true;
}

/* How many blocks a use is split into; 1 where the mesh is not known. */
static int64_t
blocks(const Infer *x, const AxisUse *u)
{
	const Mesh *mesh = ir_mesh(x->m, x->b);
	int64_t n = 1;

	for (int i = 0; mesh && i < u->nshard; i++)
		if (u->shard[i] < mesh->n) n *= mesh->ax[u->shard[i]].degree;
	return n;
}

/* What the outermost of several axes is split over, all of them together are, if the split falls between its indices. */
static bool
even(const Infer *x, const AxisUse *u, Axis outer)
{
	int64_t n = blocks(x, u), extent = ir_extent(x->m, outer);

	if (extent % n == 0) return true;
	return inf_fail(
	    x, "'%s' has extent %" PRId64 ", not divisible by the %" PRId64 " blocks of '%s'",
	    inf_axis_str(x, outer), extent, n, inf_axis_str(x, u->a));
}

static bool
view_shards(const Infer *x, const AxisList *from, const AxisList *to, AxisUse *uses)
{
	const Type *t = x->in[0];
	AxisUse outer = t->ax[type_find(t, from->a[0])];

	for (int i = 1; i < from->n; i++)
		if (!inf_whole_axis(x, t, from->a[i])) return false;
	if (outer.nshard && (from->n > 1 || to->n > 1) &&
	    !even(x, &outer, from->n > 1 ? from->a[0] : to->a[0]))
		return false;
	for (int i = 0; i < to->n; i++)
		uses[i] = (AxisUse){.a = to->a[i]};
	outer.a = to->a[0];
	uses[0] = outer;
	return true;
}

bool
infer_view(Infer *x)
{
	const AxisList *from = attr_axes(x->op, AK_from), *to = attr_axes(x->op, AK_to);
	AxisUse uses[MAX_AXES];
	int64_t n, k;

	if (!from->n || !to->n || (from->n > 1 && to->n > 1))
		return inf_fail(x, "of %d axes as %d; one of the two must be one axis", from->n,
				to->n);
	if (!inf_distinct(x, from) || !inf_distinct(x, to) ||
	    !inf_has_axes(x, x->in[0], from, "the operand"))
		return false;
	if (!extents(x, from, &n) || !extents(x, to, &k)) return false;
	if (n != k) {
		Type a = {.n = from->n}, b = {.n = to->n};

		for (int i = 0; i < from->n; i++)
			a.ax[i].a = from->a[i];
		for (int i = 0; i < to->n; i++)
			b.ax[i].a = to->a[i];
		return inf_fail(x, "%s has %" PRId64 " entries, %s has %" PRId64,
				inf_axes_str(x, &a), n, inf_axes_str(x, &b), k);
	}
	x->out[0] = *x->in[0];
	return view_shards(x, from, to, uses) &&
	       inf_replace_axes(x, &x->out[0], from, uses, to->n);
}

/* start + step j lies in 0 .. extent of axis for j in 0 .. count, and no place is met twice. */
static bool
in_range(const Infer *x, Axis axis, int64_t count)
{
	int64_t start = attr_int(x->op, AK_start), step = attr_int(x->op, AK_step), last;
	int64_t extent = ir_extent(x->m, axis);

	if (step == 0 && count > 1)
		return inf_fail(x, "a step of 0 along '%s'", inf_axis_str(x, axis));
	if (__builtin_mul_overflow(step, count > 0 ? count - 1 : 0, &last) ||
	    __builtin_add_overflow(start, last, &last))
		return inf_fail(x, "start %" PRId64 " and step %" PRId64 " leave the axis '%s'",
				start, step, inf_axis_str(x, axis));
	if (count == 0 || (start >= 0 && start < extent && last >= 0 && last < extent))
		return true;
	return inf_fail(x, "runs from %" PRId64 " to %" PRId64 ", but '%s' ends at %" PRId64,
			start, last, inf_axis_str(x, axis), extent - 1);
}

/* The one axis of an optional list; NO_AXIS if absent. */
static bool
single(const Infer *x, AttrKey key, Axis *a)
{
	const Attr *attr = attr_find(x->op, key);

	*a = NO_AXIS;
	if (!attr) return true;
	if (attr->axes.n != 1)
		return inf_fail(x, "%s must be one axis, not %d", attr_info[key].text,
				attr->axes.n);
	*a = attr->axes.a[0];
	return true;
}

bool
infer_slice(Infer *x)
{
	Axis axis = attr_axis(x->op, AK_axis), to;
	AxisList gone = inf_one_axis(axis);

	if (!single(x, AK_to, &to) || !inf_has_axis(x, x->in[0], axis, "the operand") ||
	    !inf_whole_axis(x, x->in[0], axis))
		return false;
	if (!in_range(x, axis, to.i ? ir_extent(x->m, to) : 1)) return false;
	x->out[0] = *x->in[0];
	return inf_replace_axes(x, &x->out[0], &gone, &(AxisUse){.a = to}, to.i != 0);
}

/* A new axis (without `from`) stands outermost, so that the entry that is not zero is contiguous. */
bool
infer_unslice(Infer *x)
{
	Axis axis = attr_axis(x->op, AK_axis), from;
	AxisUse made = {.a = axis};

	if (!single(x, AK_from, &from)) return false;
	if (!in_range(x, axis, from.i ? ir_extent(x->m, from) : 1)) return false;
	if (from.i) {
		AxisList gone = inf_one_axis(from);

		if (!inf_has_axis(x, x->in[0], from, "the operand") ||
		    !inf_whole_axis(x, x->in[0], from))
			return false;
		x->out[0] = *x->in[0];
		return inf_replace_axes(x, &x->out[0], &gone, &made, 1);
	}
	if (!inf_lacks_axis(x, x->in[0], axis, "the operand")) return false;
	x->out[0] = (Type){.dt = x->in[0]->dt, .partial = x->in[0]->partial};
	return inf_join(x, &x->out[0], &made) && inf_join_all(x, &x->out[0], x->in[0]);
}

bool
infer_roll(Infer *x)
{
	Axis axis = attr_axis(x->op, AK_axis);

	x->out[0] = *x->in[0];
	return inf_has_axis(x, x->in[0], axis, "the operand") &&
	       inf_whole_axis(x, x->in[0], axis);
}

/* Each operand with its own axis renamed to the one made; the rest is matched or broadcast. */
bool
infer_concat(Infer *x)
{
	const AxisList *from = attr_axes(x->op, AK_from), *to = attr_axes(x->op, AK_to);
	Type part[2];
	const Type *parts[2] = {&part[0], &part[1]};
	int64_t sum;

	if (from->n != 2 || to->n != 1)
		return inf_fail(x, "of %d axes as %d; it takes two to one", from->n, to->n);
	if (__builtin_add_overflow(ir_extent(x->m, from->a[0]), ir_extent(x->m, from->a[1]),
				   &sum) ||
	    sum != ir_extent(x->m, to->a[0]))
		return inf_fail(x,
				"'%s' and '%s' have %" PRId64 " + %" PRId64
				" entries, '%s' has %" PRId64,
				inf_axis_str(x, from->a[0]), inf_axis_str(x, from->a[1]),
				ir_extent(x->m, from->a[0]), ir_extent(x->m, from->a[1]),
				inf_axis_str(x, to->a[0]), ir_extent(x->m, to->a[0]));
	for (int k = 0; k < 2; k++) {
		AxisList gone = inf_one_axis(from->a[k]);

		if (!inf_has_axis(x, x->in[k], from->a[k],
				  k ? "the second operand" : "the first operand"))
			return false;
		if (from->a[!k].i != from->a[k].i && type_find(x->in[k], from->a[!k]) >= 0)
			return inf_fail(x, "operand %d has both '%s' and '%s'", k + 1,
					inf_axis_str(x, from->a[0]),
					inf_axis_str(x, from->a[1]));
		if (!inf_whole_axis(x, x->in[k], from->a[k])) return false;
		part[k] = *x->in[k];
		if (!inf_replace_axes(x, &part[k], &gone, &(AxisUse){.a = to->a[0]}, 1))
			return false;
	}
	return inf_promote(x, 0, 2, &x->out[0].dt) && inf_unite(x, parts, 2, &x->out[0]) &&
	       inf_like_terms(x, 0, 2, &x->out[0].partial);
}

/* ---- gather and its adjoint ---- */

/* The axes of all indices together; one index for each axis of `axes`. */
static bool
indices(Infer *x, const AxisList *axes, Type *t)
{
	t->n = 0;
	if (axes->n != x->op->nin - 1)
		return inf_fail(x, "%d axes, but %d indices", axes->n, x->op->nin - 1);
	for (int k = 1; k < x->op->nin; k++)
		if (!inf_whole_number(x, k) || !inf_settled(x, k, 1) ||
		    !inf_join_all(x, t, x->in[k]))
			return false;
	return inf_distinct(x, axes);
}

/* The axes that the indices bring stand where the first gathered one stood. Of an axis that is split, a rank gives what it
 * has and zero elsewhere: a pending sum. */
bool
infer_gather(Infer *x)
{
	const AxisList *axes = attr_axes(x->op, AK_axes);
	AxisUse brought[MAX_AXES];
	Type idx, kept = *x->in[0];
	int n = 0;

	if (!indices(x, axes, &idx) || !inf_has_axes(x, x->in[0], axes, "the operand"))
		return false;
	unsigned split = 0;
	for (int i = 0; i < axes->n; i++) {
		split |= inf_use_shards(&kept.ax[type_find(&kept, axes->a[i])]);
		type_remove(&kept, axes->a[i]);
	}
	for (int i = 0; i < idx.n; i++) {
		if (type_find(&kept, idx.ax[i].a) < 0)
			brought[n++] = idx.ax[i];
		else if (!inf_join(x, &kept, &idx.ax[i])) /* matched: split alike */
			return false;
	}
	x->out[0] = *x->in[0];
	x->out[0].partial |= (uint16_t)split;
	return inf_replace_axes(x, &x->out[0], axes, brought, n);
}

/* Axes of dy and the indices that the result lacks are summed over; so is one the indices bring under the name of an
 * indexed axis (x[h: i[h]]). */
bool
infer_scatter_add(Infer *x)
{
	const AxisList *axes = attr_axes(x->op, AK_axes), *along = attr_axes(x->op, AK_along);
	Type idx, joint = *x->in[0], *t = &x->out[0];

	if (!inf_number(x, 0) || !indices(x, axes, &idx) || !inf_join_all(x, &joint, &idx) ||
	    !inf_distinct(x, along))
		return false;
	*t = (Type){.dt = x->in[0]->dt, .partial = x->in[0]->partial};
	for (int i = 0; i < axes->n; i++)
		if (!axes_has(along, axes->a[i]))
			return inf_fail(x, "along lacks the axis '%s'",
					inf_axis_str(x, axes->a[i]));
	for (int i = 0; i < along->n; i++) {
		AxisUse u = {.a = along->a[i]};

		if (!axes_has(axes, u.a)) {
			if (!inf_has_axis(x, &joint, u.a,
					  "neither the operand nor an index: it"))
				return false;
			u = joint.ax[type_find(&joint, u.a)];
		}
		if (!inf_join(x, t, &u)) return false;
	}
	for (int i = 0; i < joint.n; i++)
		if (axes_has(axes, joint.ax[i].a) || !axes_has(along, joint.ax[i].a))
			t->partial |= (uint16_t)inf_use_shards(&joint.ax[i]);
	return true;
}
