/*
 * infer_ew.c - result types of constants and elementwise ops.
 * Whole numbers stay whole under + - * // % min max abs neg where; any other arithmetic makes them floats.
 */
#include "ir/infer.h"

#include <inttypes.h>

/* ---- constants ---- */

/* Of any dtype: the value's type says which (ir_fits). */
bool
infer_const(Infer *x)
{
	x->out[0] = (Type){.dt = DT_f32};
	return true;
}

bool
infer_pos(Infer *x)
{
	Axis a = attr_axis(x->op, AK_axis);

	if (ir_extent(x->m, a) > INT32_MAX)
		return inf_fail(x, "'%s' has %" PRId64 " positions, more than an i32 counts",
				inf_axis_str(x, a), ir_extent(x->m, a));
	x->out[0] = (Type){.dt = DT_i32};
	type_push(&x->out[0], (AxisUse){.a = a});
	return true;
}

bool
infer_inside(Infer *x)
{
	x->out[0] = (Type){.dt = DT_bool};
	type_push(&x->out[0], (AxisUse){.a = attr_axis(x->op, AK_axis)});
	return true;
}

/* ---- one operand ---- */

/* The same number in another place or form: any dtype, linear. */
static bool
same(Infer *x)
{
	x->out[0] = *x->in[0];
	return true;
}

static bool
float1(Infer *x)
{
	x->out[0] = *x->in[0];
	x->out[0].dt = inf_to_float(x, x->in[0]->dt);
	return inf_number(x, 0) && inf_settled(x, 0, 1);
}

#define SHARED(code, rule)          \
	bool infer_##code(Infer *x) \
	{                           \
		return rule(x);     \
	}

SHARED(stop, same)
SHARED(copy, same)
SHARED(exp, float1)
SHARED(log, float1)
SHARED(sqrt, float1)
SHARED(sin, float1)
SHARED(cos, float1)
SHARED(tanh, float1)
SHARED(erf, float1)
SHARED(sigmoid, float1)
SHARED(relu, float1)

bool
infer_neg(Infer *x)
{
	return inf_number(x, 0) && same(x);
}

bool
infer_abs(Infer *x)
{
	return inf_number(x, 0) && inf_settled(x, 0, 1) && same(x);
}

bool
infer_not(Infer *x)
{
	return inf_boolean(x, 0) && same(x);
}

/* Linear between floats, up to rounding. */
bool
infer_cast(Infer *x)
{
	x->out[0] = *x->in[0];
	x->out[0].dt = (DType)attr_int(x->op, AK_dtype);
	return dtype_float(x->out[0].dt) || inf_settled(x, 0, 1);
}

/* The new axes stand outermost: what is repeated stays contiguous. */
bool
infer_broadcast(Infer *x)
{
	const AxisList *axes = attr_axes(x->op, AK_axes);
	Type t = {.dt = x->in[0]->dt, .partial = x->in[0]->partial};

	if (!inf_distinct(x, axes)) return false;
	for (int i = 0; i < axes->n; i++) {
		if (!inf_lacks_axis(x, x->in[0], axes->a[i], "the operand")) return false;
		if (!inf_join(x, &t, &(AxisUse){.a = axes->a[i]})) return false;
	}
	x->out[0] = t;
	return inf_join_all(x, &x->out[0], x->in[0]);
}

bool
infer_dropout(Infer *x)
{
	const AxisList *axes = attr_axes(x->op, AK_axes);

	x->out[0] = *x->in[0];
	x->out[0].dt = inf_to_float(x, x->in[0]->dt);
	return inf_number(x, 0) && inf_distinct(x, axes) &&
	       inf_has_axes(x, x->in[0], axes, "the operand");
}

/* ---- two and three operands ---- */

static bool
numbers2(Infer *x)
{
	Type *t = &x->out[0];

	return inf_number(x, 0) && inf_number(x, 1) && inf_promote(x, 0, 2, &t->dt) &&
	       inf_unite(x, x->in, 2, t);
}

/* Whole numbers stay whole. */
static bool
arith2(Infer *x)
{
	return numbers2(x) && inf_settled(x, 0, 2);
}

SHARED(floordiv, arith2)
SHARED(mod, arith2)
SHARED(min, arith2)
SHARED(max, arith2)

static bool
terms2(Infer *x)
{
	return numbers2(x) && inf_like_terms(x, 0, 2, &x->out[0].partial);
}

SHARED(add, terms2)
SHARED(sub, terms2)

/* Linear in either factor alone. */
bool
infer_mul(Infer *x)
{
	if (!numbers2(x)) return false;
	if (x->in[0]->partial && !inf_settled(x, 1, 1)) return false;
	x->out[0].partial = x->in[0]->partial | x->in[1]->partial;
	return true;
}

bool
infer_div(Infer *x)
{
	if (!numbers2(x) || !inf_settled(x, 1, 1)) return false;
	x->out[0].dt = inf_to_float(x, x->out[0].dt);
	x->out[0].partial = x->in[0]->partial;
	return true;
}

bool
infer_pow(Infer *x)
{
	if (!arith2(x)) return false;
	x->out[0].dt = inf_to_float(x, x->out[0].dt);
	return true;
}

static bool
compare(Infer *x)
{
	if (!arith2(x)) return false;
	x->out[0].dt = DT_bool;
	return true;
}

SHARED(lt, compare)
SHARED(le, compare)

/* Truth values may be compared too, with each other. */
static bool
equality(Infer *x)
{
	DType dt;

	x->out[0].dt = DT_bool;
	return inf_promote(x, 0, 2, &dt) && inf_unite(x, x->in, 2, &x->out[0]) &&
	       inf_settled(x, 0, 2);
}

SHARED(eq, equality)
SHARED(ne, equality)

static bool
logic2(Infer *x)
{
	x->out[0].dt = DT_bool;
	return inf_boolean(x, 0) && inf_boolean(x, 1) && inf_unite(x, x->in, 2, &x->out[0]);
}

SHARED(and, logic2)
SHARED(or, logic2)

/* Linear in the branches together. */
bool
infer_where(Infer *x)
{
	Type *t = &x->out[0];

	return inf_boolean(x, 0) && inf_promote(x, 1, 2, &t->dt) && inf_unite(x, x->in, 3, t) &&
	       inf_like_terms(x, 1, 2, &t->partial);
}
