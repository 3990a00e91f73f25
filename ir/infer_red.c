/*
 * infer_red.c - result types of reductions, contractions, statistics, attention and its gradient.
 */
#include "ir/infer.h"

#include <inttypes.h>

/* t without `axes`; the mesh axes they were split over as a pending sum. */
static void
reduce(Type *t, const AxisList *axes)
{
	for (int i = 0; i < axes->n; i++) {
		int k = type_find(t, axes->a[i]);

		t->partial |= (uint16_t)inf_use_shards(&t->ax[k]);
		type_remove(t, axes->a[i]);
	}
}

bool
infer_sum(Infer *x)
{
	const AxisList *axes = attr_axes(x->op, AK_axes);

	if (!inf_number(x, 0) || !inf_distinct(x, axes) ||
	    !inf_has_axes(x, x->in[0], axes, "the operand"))
		return false;
	x->out[0] = *x->in[0];
	x->out[0].dt = inf_to_float(x, x->in[0]->dt);
	reduce(&x->out[0], axes);
	return true;
}

/* Operand 0 has the axes, at least one, and is not pending. */
static bool
over_axes(Infer *x, const AxisList *axes)
{
	if (!axes->n) return inf_fail(x, "over no axis");
	return inf_number(x, 0) && inf_distinct(x, axes) &&
	       inf_has_axes(x, x->in[0], axes, "the operand") && inf_settled(x, 0, 1);
}

/* ... and has them whole. */
static bool
jointly(Infer *x, const AxisList *axes)
{
	return over_axes(x, axes) && inf_whole_axes(x, x->in[0], axes);
}

/* Of a split axis, each rank's own: pending, until all_reduce {max=1}. */
static bool
extremum(Infer *x)
{
	const AxisList *axes = attr_axes(x->op, AK_axes);

	if (!over_axes(x, axes)) return false;
	x->out[0] = *x->in[0];
	reduce(&x->out[0], axes);
	return true;
}

bool
infer_rmax(Infer *x)
{
	return extremum(x);
}

bool
infer_rmin(Infer *x)
{
	return extremum(x);
}

/* Linear in either factor alone. */
bool
infer_dot(Infer *x)
{
	const AxisList *axes = attr_axes(x->op, AK_axes);
	Type *t = &x->out[0];

	if (!inf_number(x, 0) || !inf_number(x, 1) || !inf_distinct(x, axes)) return false;
	if (!inf_has_axes(x, x->in[0], axes, "the first operand") ||
	    !inf_has_axes(x, x->in[1], axes, "the second operand"))
		return false;
	if (x->in[0]->partial && !inf_settled(x, 1, 1)) return false;
	t->dt = inf_product_dtype(x, x->in[0]->dt, x->in[1]->dt);
	t->partial = x->in[0]->partial | x->in[1]->partial;

	/* The union, summed axes included, may have more axes than a tensor: join what stays, match what goes. */
	Type summed = {0};
	for (int k = 0; k < 2; k++)
		for (int i = 0; i < x->in[k]->n; i++) {
			const AxisUse *u = &x->in[k]->ax[i];

			if (!inf_join(x, axes_has(axes, u->a) ? &summed : t, u)) return false;
		}
	for (int i = 0; i < summed.n; i++)
		t->partial |= (uint16_t)inf_use_shards(&summed.ax[i]);
	return true;
}

static bool
keep_type(Infer *x)
{
	if (!jointly(x, attr_axes(x->op, AK_axes))) return false;
	x->out[0] = *x->in[0];
	x->out[0].dt = inf_to_float(x, x->in[0]->dt);
	return true;
}

bool
infer_softmax(Infer *x)
{
	return keep_type(x);
}

bool
infer_normalize(Infer *x)
{
	return keep_type(x);
}

bool
infer_moments(Infer *x)
{
	const AxisList *axes = attr_axes(x->op, AK_axes);

	if (!jointly(x, axes)) return false;
	x->out[0] = *x->in[0];
	x->out[0].dt = inf_stat_float(x, x->in[0]->dt);
	reduce(&x->out[0], axes);
	x->out[1] = x->out[0];
	return true;
}

bool
infer_topk(Infer *x)
{
	const AxisList *to = attr_axes(x->op, AK_to);
	AxisList axis = inf_one_axis(attr_axis(x->op, AK_axis));

	if (!jointly(x, &axis)) return false;
	if (to->n != 1) return inf_fail(x, "to must be one axis, not %d", to->n);
	if (ir_extent(x->m, to->a[0]) > ir_extent(x->m, axis.a[0]))
		return inf_fail(x, "the first %" PRId64 " ('%s') of %" PRId64 " ('%s')",
				ir_extent(x->m, to->a[0]), inf_axis_str(x, to->a[0]),
				ir_extent(x->m, axis.a[0]), inf_axis_str(x, axis.a[0]));
	x->out[0] = *x->in[0];
	if (!inf_replace_axes(x, &x->out[0], &axis, &(AxisUse){.a = to->a[0]}, 1)) return false;
	x->out[1] = x->out[0];
	x->out[1].dt = DT_i32;
	return true;
}

bool
infer_cross_entropy(Infer *x)
{
	AxisList axis = inf_one_axis(attr_axis(x->op, AK_axis));
	Type rows;

	if (!jointly(x, &axis) || !inf_whole_number(x, 1) || !inf_settled(x, 1, 1))
		return false;
	if (!inf_lacks_axis(x, x->in[1], axis.a[0], "the label")) return false;
	rows = *x->in[0];
	reduce(&rows, &axis);
	const Type *parts[2] = {&rows, x->in[1]};
	if (!inf_unite(x, parts, 2, &x->out[0])) return false;
	x->out[0].dt = inf_stat_float(x, x->in[0]->dt);
	x->out[1] = x->out[0];
	return true;
}

/* ---- attention ---- */

typedef struct Attention {
	const AxisList *keys, *feat;
	Type rows;      /* scores without keys */
	Type scores;    /* axes of q and k without feat */
	Type out;       /* rows and the axes of v */
	int mask, bias; /* operand numbers; 0 = none */
} Attention;

/* Where mask and bias stand behind `first` operands. */
static bool
extras(Infer *x, int first, Attention *t)
{
	int n = first;

	if (attr_int_or(x->op, AK_mask, 0)) t->mask = n++;
	if (attr_int_or(x->op, AK_bias, 0)) t->bias = n++;
	if (n != x->op->nin)
		return inf_fail(x, "%d operands, but mask and bias make %d", x->op->nin, n);
	if (t->mask && !inf_boolean(x, t->mask)) return false;
	return !t->bias || inf_number(x, t->bias);
}

/* Bounds on pos[key] - pos[query] want one key axis and a query axis that q has. */
static bool
band(Infer *x, const Attention *t)
{
	const Attr *query = attr_find(x->op, AK_query);
	const Attr *lo = attr_find(x->op, AK_lo), *hi = attr_find(x->op, AK_hi);

	if (!query)
		return !lo && !hi ? true
				  : inf_fail(x, "bounds on positions, but no query axis");
	if (t->keys->n != 1)
		return inf_fail(x, "bounds on positions want one key axis, not %d", t->keys->n);
	if (lo && hi && lo->i > hi->i)
		return inf_fail(x, "lo %" PRId64 " is above hi %" PRId64, lo->i, hi->i);
	return inf_has_axis(x, &t->rows, query->axis, "the query");
}

static bool
attention_axes(Infer *x, int first_extra, Attention *t)
{
	const Type *q = x->in[0], *k = x->in[1], *v = x->in[2];
	Type most = *q;

	t->keys = attr_axes(x->op, AK_keys);
	t->feat = attr_axes(x->op, AK_feat);
	if (!t->keys->n || !t->feat->n) return inf_fail(x, "needs key axes and feature axes");
	if (!inf_distinct(x, t->keys) || !inf_distinct(x, t->feat)) return false;
	for (int i = 0; i < 3; i++)
		if (!inf_number(x, i) || !inf_whole_axes(x, x->in[i], t->keys)) return false;
	if (!inf_has_axes(x, q, t->feat, "the query") ||
	    !inf_has_axes(x, k, t->feat, "the key"))
		return false;
	if (!inf_has_axes(x, k, t->keys, "the key") ||
	    !inf_has_axes(x, v, t->keys, "the value"))
		return false;
	for (int i = 0; i < t->keys->n; i++)
		if (!inf_lacks_axis(x, q, t->keys->a[i], "the query")) return false;
	if (!inf_whole_axes(x, q, t->feat) || !inf_whole_axes(x, k, t->feat) ||
	    !extras(x, first_extra, t))
		return false;

	for (int i = 0; i < t->feat->n; i++)
		type_remove(&most, t->feat->a[i]);
	for (int i = 0; i < k->n; i++)
		if (!axes_has(t->feat, k->ax[i].a) && !axes_has(t->keys, k->ax[i].a) &&
		    !inf_join(x, &most, &k->ax[i]))
			return false;
	t->rows = most;
	for (int i = 0; i < t->keys->n; i++)
		if (!inf_join(x, &most, &(AxisUse){.a = t->keys->a[i]})) return false;
	t->scores = most;

	/* The order of q where feat becomes the value's; then what else there is. */
	t->out = (Type){0};
	for (int i = 0; i < q->n; i++)
		if ((type_find(&t->rows, q->ax[i].a) >= 0 || type_find(v, q->ax[i].a) >= 0) &&
		    !inf_join(x, &t->out, &q->ax[i]))
			return false;
	if (!inf_join_all(x, &t->out, &t->rows)) return false;
	for (int i = 0; i < v->n; i++)
		if (!axes_has(t->keys, v->ax[i].a) && !inf_join(x, &t->out, &v->ax[i]))
			return false;
	return band(x, t);
}

/* mask and bias are tensors over axes of the scores. */
static bool
over_scores(Infer *x, const Attention *t, int k)
{
	Type scores = t->scores;
	AxisList have = axes_of(x->in[k]);

	for (int i = 0; i < have.n; i++)
		if (!inf_has_axis(x, &t->scores, have.a[i], "the scores: their tensor"))
			return false;
	return inf_join_all(x, &scores, x->in[k]);
}

static bool
attention_dtype(Infer *x, DType *dt)
{
	*dt = inf_product_dtype(x, inf_product_dtype(x, x->in[0]->dt, x->in[1]->dt),
				x->in[2]->dt);
	return true;
}

bool
infer_attention(Infer *x)
{
	Attention t = {0};

	if (!inf_settled(x, 0, x->op->nin) || !attention_axes(x, 3, &t)) return false;
	if (t.mask && !over_scores(x, &t, t.mask)) return false;
	if (t.bias && !over_scores(x, &t, t.bias)) return false;
	x->out[0] = t.out;
	x->out[0].partial = 0;
	attention_dtype(x, &x->out[0].dt);
	x->out[1] = t.rows;
	x->out[1].partial = 0;
	x->out[1].dt = inf_stat_float(x, x->out[0].dt);
	return true;
}

/* The cotangent of an operand: its type, and a pending sum over the mesh axes of what it lacks and was broadcast to. */
static void
cotangent(Infer *x, const Attention *t, int k, int result)
{
	const Type *joint[2] = {&t->scores, &t->out};
	unsigned all = 0, own = 0;
	Type *r = &x->out[result];

	for (int j = 0; j < 2; j++)
		for (int i = 0; i < joint[j]->n; i++)
			all |= inf_use_shards(&joint[j]->ax[i]);
	for (int i = 0; i < x->in[k]->n; i++)
		own |= inf_use_shards(&x->in[k]->ax[i]);
	*r = *x->in[k];
	r->dt = inf_to_float(x, r->dt);
	r->partial = (uint16_t)(all & ~own);
}

bool
infer_attention_grad(Infer *x)
{
	Attention t = {0};

	if (!inf_settled(x, 0, x->op->nin) || !attention_axes(x, 6, &t)) return false;
	if (t.mask && !over_scores(x, &t, t.mask)) return false;
	if (t.bias && !over_scores(x, &t, t.bias)) return false;
	if (!type_same_axes(x->in[3], &t.out))
		return inf_fail(x, "o is %s, but the output has %s", inf_axes_str(x, x->in[3]),
				inf_axes_str(x, &t.out));
	if (!type_same_axes(x->in[4], &t.rows))
		return inf_fail(x, "lse is %s, but the scores have the rows %s",
				inf_axes_str(x, x->in[4]), inf_axes_str(x, &t.rows));
	if (!type_same_axes(x->in[5], &t.out))
		return inf_fail(x, "do is %s, but the output has %s", inf_axes_str(x, x->in[5]),
				inf_axes_str(x, &t.out));
	for (int k = 0; k < 3; k++)
		cotangent(x, &t, k, k);
	if (t.bias) cotangent(x, &t, t.bias, 3);
	return true;
}
