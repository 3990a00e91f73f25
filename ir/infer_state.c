/*
 * infer_state.c - result types of what runs once a step (squares, optimizers) and of communication.
 */
#include "ir/infer.h"

/* ---- once a step ---- */

/* A rank squares what it has; over the mesh axes the tensor is split over, that is a pending sum. */
bool
infer_sumsq(Infer *x)
{
	x->out[0] = (Type){.dt = DT_f64, .partial = x->in[0]->flat};
	for (int i = 0; i < x->in[0]->n; i++)
		x->out[0].partial |= (uint16_t)inf_use_shards(&x->in[0]->ax[i]);
	x->out[0].partial |= x->in[0]->flat;
	return inf_number(x, 0) && inf_settled(x, 0, 1);
}

/* Operands 0 .. n - 1 lie alike, axis by axis; the rest are scalars. The first, and those from the third on, are
 * results again, in place. */
static bool
update(Infer *x, int n)
{
	int r = 0;

	if (!inf_settled(x, 0, x->op->nin)) return false;
	for (int k = 0; k < x->op->nin; k++) {
		Type like = *x->in[0];

		like.dt = x->in[k]->dt;
		if (!dtype_float(like.dt))
			return inf_fail(x, "operand %d is %s; floats are wanted", k + 1,
					dtype_str(like.dt));
		if (k >= n && x->in[k]->n)
			return inf_fail(x, "operand %d has axes %s; a scalar is wanted", k + 1,
					inf_axes_str(x, x->in[k]));
		if (k < n && !type_equal(x->in[k], &like))
			return inf_fail(x, "operand %d is %s, but the weight is %s", k + 1,
					inf_axes_str(x, x->in[k]), inf_axes_str(x, x->in[0]));
		if (k < n && k != 1) x->out[r++] = *x->in[k];
	}
	return true;
}

bool
infer_adamw(Infer *x)
{
	return update(x, 4);
}

bool
infer_sgd(Infer *x)
{
	return update(x, 3);
}

/* ---- communication ---- */

/* The one mesh axis of `over`. */
static bool
one_mesh_axis(const Infer *x, uint8_t *k)
{
	unsigned bits = (unsigned)attr_int(x->op, AK_over);

	if (bits & (bits - 1))
		return inf_fail(x, "over one mesh axis at a time, not %s",
				inf_mesh_str(x, bits));
	*k = (uint8_t)__builtin_ctz(bits);
	return true;
}

bool
infer_all_reduce(Infer *x)
{
	unsigned bits = (unsigned)attr_int(x->op, AK_over);

	if (bits & ~(unsigned)x->in[0]->partial)
		return inf_fail(x, "over %s, but the operand's sum is pending over %s",
				inf_mesh_str(x, bits), inf_mesh_str(x, x->in[0]->partial));
	x->out[0] = *x->in[0];
	x->out[0].partial &= (uint16_t)~bits;
	return true;
}

/* Drops the innermost split of `axis`, which must be k. */
static bool
drop_shard(Infer *x, Type *t, Axis axis, uint8_t k)
{
	AxisUse *u;

	if (!inf_has_axis(x, t, axis, "the operand")) return false;
	u = &t->ax[type_find(t, axis)];
	if (u->nshard == 0 || u->shard[u->nshard - 1] != k)
		return inf_fail(x, "'%s' is not split over %s innermost: %s",
				inf_axis_str(x, axis), inf_mesh_str(x, 1u << k),
				inf_axes_str(x, t));
	u->shard[--u->nshard] = 0;
	return true;
}

static bool
add_shard(Infer *x, Type *t, Axis axis, uint8_t k)
{
	AxisUse *u;

	if (!inf_has_axis(x, t, axis, "the operand")) return false;
	u = &t->ax[type_find(t, axis)];
	if (u->nshard == MAX_SHARD)
		return inf_fail(x, "'%s' is split over %d mesh axes already",
				inf_axis_str(x, axis), MAX_SHARD);
	u->shard[u->nshard++] = k;
	return true;
}

bool
infer_all_gather(Infer *x)
{
	uint8_t k;

	x->out[0] = *x->in[0];
	return one_mesh_axis(x, &k) && drop_shard(x, &x->out[0], attr_axis(x->op, AK_axis), k);
}

bool
infer_reduce_scatter(Infer *x)
{
	uint8_t k;

	x->out[0] = *x->in[0];
	if (!one_mesh_axis(x, &k)) return false;
	if (!(x->in[0]->partial >> k & 1))
		return inf_fail(x, "over %s, but the operand's sum is pending over %s",
				inf_mesh_str(x, 1u << k), inf_mesh_str(x, x->in[0]->partial));
	x->out[0].partial &= (uint16_t) ~(1u << k);
	x->out[1] = *x->in[0];
	return add_shard(x, &x->out[0], attr_axis(x->op, AK_axis), k);
}

bool
infer_all_to_all(Infer *x)
{
	const AxisList *to = attr_axes(x->op, AK_to);
	uint8_t k;

	x->out[0] = *x->in[0];
	if (to->n != 1) return inf_fail(x, "to must be one axis, not %d", to->n);
	return one_mesh_axis(x, &k) &&
	       drop_shard(x, &x->out[0], attr_axis(x->op, AK_axis), k) &&
	       add_shard(x, &x->out[0], to->a[0], k);
}

bool
infer_part(Infer *x)
{
	uint8_t k;

	x->out[0] = *x->in[0];
	return one_mesh_axis(x, &k) && inf_settled(x, 0, 1) &&
	       add_shard(x, &x->out[0], attr_axis(x->op, AK_axis), k);
}

/* Its result's layout is another mesh's: the verifier compares the axes. */
bool
infer_reshard(Infer *x)
{
	x->out[0] = *x->in[0];
	return true;
}
