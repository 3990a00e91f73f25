/*
 * simplify_rules.c - the rules of simplify.c: an op, its operands placed already, and perhaps a value that equals its result.
 *
 * Scalar constants are folded in double. Identities are exact; each returns a value of exactly the op's type, one that is
 * there or one made by simplify_place (which tries the rules on it again), or none.
 */
#include "passes/passes.h"

#include <math.h>

/* ---- constants ---- */

static bool
const_value(const Body *b, Val v, double *x)
{
	const Op *op = val_op(b, v);

	if (!op || op->code != OP_const) return false;
	*x = attr_num(op, AK_value);
	return true;
}

static bool
is_const(const Body *b, Val v, double want)
{
	double x;

	return const_value(b, v, &x) && x == want;
}

static bool
fold1(OpCode code, double x, DType to, double *y)
{
	switch (code) {
	case OP_neg: *y = -x; return true;
	case OP_exp: *y = exp(x); return true;
	case OP_log: *y = log(x); return true;
	case OP_sqrt: *y = sqrt(x); return true;
	case OP_sin: *y = sin(x); return true;
	case OP_cos: *y = cos(x); return true;
	case OP_tanh: *y = tanh(x); return true;
	case OP_erf: *y = erf(x); return true;
	case OP_sigmoid: *y = 1 / (1 + exp(-x)); return true;
	case OP_relu: *y = x > 0 ? x : 0; return true;
	case OP_abs: *y = fabs(x); return true;
	case OP_not: *y = !x; return true;
	case OP_stop:
	case OP_copy: *y = x; return true;
	case OP_cast: *y = to == DT_bool ? x != 0 : dtype_float(to) ? x : trunc(x); return true;
	default: return false;
	}
}

static bool
fold2(OpCode code, double x, double y, bool whole, double *z)
{
	switch (code) {
	case OP_add: *z = x + y; return true;
	case OP_sub: *z = x - y; return true;
	case OP_mul: *z = x * y; return true;
	case OP_div: *z = x / y; return !whole;
	case OP_floordiv: *z = floor(x / y); return y != 0;
	case OP_mod: *z = x - y * floor(x / y); return y != 0;
	case OP_pow: *z = pow(x, y); return true;
	case OP_min: *z = x < y ? x : y; return x == x && y == y;
	case OP_max: *z = x > y ? x : y; return x == x && y == y;
	case OP_lt: *z = x < y; return true;
	case OP_le: *z = x <= y; return true;
	case OP_eq: *z = x == y; return true;
	case OP_ne: *z = x != y; return true;
	case OP_and: *z = x != 0 && y != 0; return true;
	case OP_or: *z = x != 0 || y != 0; return true;
	default: return false;
	}
}

/* A constant for an op whose operands are all scalar constants, computed in double; whole numbers must stay in range. */
static Val
fold(Simplify *s, const Op *op, const Type *t)
{
	double x[3], z;
	bool ok = false;

	if (t->n || !op->nin || op->nin > 3) return NO_VAL;
	for (int k = 0; k < op->nin; k++)
		if (!const_value(s->b, op->in[k], &x[k])) return NO_VAL;
	if (op->code == OP_stop && s->keep_stop) return NO_VAL;
	if (op->nin == 1) ok = fold1(op->code, x[0], t->dt, &z);
	if (op->nin == 2) ok = fold2(op->code, x[0], x[1], t->dt == DT_i32, &z);
	if (op->nin == 3 && op->code == OP_where) ok = true, z = x[0] != 0 ? x[1] : x[2];
	if (!ok || !isfinite(z)) return NO_VAL;
	if (t->dt == DT_i32 && (z != trunc(z) || fabs(z) > INT32_MAX)) return NO_VAL;

	Attr value = attr_make_num(AK_value, z);
	Op c = {.code = OP_const, .nout = 1, .nattr = 1, .attrs = &value, .loc = op->loc};
	return simplify_place(s, &c, t, 0);
}

/* ---- small makers ---- */

static Val
scalar(Simplify *s, DType dt, double x, Loc loc)
{
	Attr value = attr_make_num(AK_value, x);
	Op c = {.code = OP_const, .nout = 1, .nattr = 1, .attrs = &value, .loc = loc};
	Type t = {.dt = dt};

	return simplify_place(s, &c, &t, 0);
}

static Val
make1(Simplify *s, OpCode code, Val x, const Type *t, Loc loc)
{
	Op op = {.code = code, .nin = 1, .nout = 1, .in = &x, .loc = loc};

	return simplify_place(s, &op, t, 0);
}

static Val
make2(Simplify *s, OpCode code, Val x, Val y, const Type *t, Loc loc)
{
	Val in[2] = {x, y};
	Op op = {.code = code, .nin = 2, .nout = 1, .in = in, .loc = loc};

	return simplify_place(s, &op, t, 0);
}

static Val
rename_axis(Simplify *s, Val x, Axis from, Axis to, const Type *t, Loc loc)
{
	AxisList f = {.n = 1, .a = {from}}, o = {.n = 1, .a = {to}};
	Attr attrs[2] = {attr_make_axes(AK_from, &f), attr_make_axes(AK_to, &o)};
	Op op = {.code = OP_view,
		 .nin = 1,
		 .nout = 1,
		 .nattr = 2,
		 .in = &x,
		 .attrs = attrs,
		 .loc = loc};

	return simplify_place(s, &op, t, 0);
}

/* x if it can stand for a value of type t. */
static Val
same(const Simplify *s, Val x, const Type *t)
{
	return type_equal(val_type(s->b, x), t) ? x : NO_VAL;
}

bool
simplify_same_axes(const AxisList *a, const AxisList *b)
{
	if (a->n != b->n) return false;
	for (int k = 0; k < a->n; k++)
		if (a->a[k].i != b->a[k].i) return false;
	return true;
}

/* The operand of v's op if that has the given code. */
static Val
operand_of(const Body *b, Val v, OpCode code)
{
	const Op *op = val_op(b, v);

	return op && op->code == code ? op->in[0] : NO_VAL;
}

/* ---- identities ---- */

static Val
identity_pow(Simplify *s, const Op *op, const Type *t)
{
	Val x = op->in[0];
	double p;

	if (!dtype_float(t->dt) || !const_value(s->b, op->in[1], &p)) return NO_VAL;
	if (!type_same_axes(val_type(s->b, x), t)) return NO_VAL;
	if (p == 1) return same(s, x, t);
	if (p == 2) return make2(s, OP_mul, x, x, t, op->loc);
	if (p == 3) return make2(s, OP_mul, make2(s, OP_mul, x, x, t, op->loc), x, t, op->loc);
	if (p == 0.5) return make1(s, OP_sqrt, x, t, op->loc);
	if (p == -1) return make2(s, OP_div, scalar(s, t->dt, 1, op->loc), x, t, op->loc);
	if (p == -0.5)
		return make2(s, OP_div, scalar(s, t->dt, 1, op->loc),
			     make1(s, OP_sqrt, x, t, op->loc), t, op->loc);
	return NO_VAL;
}

/* Two pieces that cover an axis one after the other: what splitting it leaves in the gradient is a concatenation. */
static Val
identity_pieces(Simplify *s, const Op *op, const Type *t)
{
	const Op *p[2] = {val_op(s->b, op->in[0]), val_op(s->b, op->in[1])};
	const Attr *from[2];

	for (int k = 0; k < 2; k++) {
		if (!p[k] || p[k]->code != OP_unslice || attr_int(p[k], AK_step) != 1)
			return NO_VAL;
		from[k] = attr_find(p[k], AK_from);
		if (!from[k] || from[k]->axes.n != 1) return NO_VAL;
	}
	int first = attr_int(p[0], AK_start) == 0 ? 0 : 1;
	Axis a = attr_axis(p[0], AK_axis), x = from[first]->axes.a[0],
	     y = from[1 - first]->axes.a[0];
	int64_t n = ir_extent(s->m, x);

	if (attr_axis(p[1], AK_axis).i != a.i || x.i == y.i || x.i == a.i || y.i == a.i)
		return NO_VAL;
	if (attr_int(p[first], AK_start) != 0 || attr_int(p[1 - first], AK_start) != n ||
	    n + ir_extent(s->m, y) != ir_extent(s->m, a))
		return NO_VAL;
	for (int k = 0; k < 2; k++)
		if (!type_same_axes(val_type(s->b, op->in[k]), t)) return NO_VAL;

	AxisList parts = {.n = 2, .a = {x, y}}, whole = {.n = 1, .a = {a}};
	Attr attrs[2] = {attr_make_axes(AK_from, &parts), attr_make_axes(AK_to, &whole)};
	Val in[2] = {p[first]->in[0], p[1 - first]->in[0]};
	Op cat = {.code = OP_concat,
		  .nin = 2,
		  .nout = 1,
		  .nattr = 2,
		  .in = in,
		  .attrs = attrs,
		  .loc = op->loc};
	return simplify_place(s, &cat, t, 0);
}

static Val
identity_sum(Simplify *s, const Op *op, const Type *t)
{
	Val x = op->in[0], y;
	const Body *b = s->b;

	switch (op->code) {
	case OP_add:
		if (is_const(b, op->in[1], 0)) return same(s, x, t);
		if (is_const(b, x, 0)) return same(s, op->in[1], t);
		if ((y = operand_of(b, op->in[1], OP_neg)).i)
			return make2(s, OP_sub, x, y, t, op->loc);
		if ((y = operand_of(b, x, OP_neg)).i)
			return make2(s, OP_sub, op->in[1], y, t, op->loc);
		return identity_pieces(s, op, t);
	case OP_sub:
		if (is_const(b, op->in[1], 0)) return same(s, x, t);
		if ((y = operand_of(b, op->in[1], OP_neg)).i)
			return make2(s, OP_add, x, y, t, op->loc);
		if (is_const(b, x, 0) && type_same_axes(val_type(b, op->in[1]), t))
			return make1(s, OP_neg, op->in[1], t, op->loc);
		return NO_VAL;
	default: return NO_VAL;
	}
}

static Val
identity_product(Simplify *s, const Op *op, const Type *t)
{
	const Body *b = s->b;
	int e;
	double c;

	if (op->code == OP_mul) {
		for (int k = 0; k < 2; k++) {
			Val other = op->in[1 - k];

			if (is_const(b, op->in[k], 1)) return same(s, other, t);
			if (is_const(b, op->in[k], -1) && type_same_axes(val_type(b, other), t))
				return make1(s, OP_neg, other, t, op->loc);
		}
		return NO_VAL;
	}
	if (!dtype_float(t->dt) || !const_value(b, op->in[1], &c)) return NO_VAL;
	if (c == 1) return same(s, op->in[0], t);
	if (c != 0 && isfinite(c) && fabs(frexp(c, &e)) == 0.5 && e > -100 && e < 100)
		return make2(s, OP_mul, op->in[0], scalar(s, t->dt, 1 / c, op->loc), t,
			     op->loc);
	return NO_VAL;
}

static Val
identity_logic(Simplify *s, const Op *op, const Type *t)
{
	const Body *b = s->b;
	bool conj = op->code == OP_and;
	double c;
	Val x;

	switch (op->code) {
	case OP_not: return (x = operand_of(b, op->in[0], OP_not)).i ? same(s, x, t) : NO_VAL;
	case OP_and:
	case OP_or:
		if (op->in[0].i == op->in[1].i) return same(s, op->in[0], t);
		for (int k = 0; k < 2; k++) {
			if (!const_value(b, op->in[k], &c)) continue;
			return same(s, (c != 0) == conj ? op->in[1 - k] : op->in[k], t);
		}
		return NO_VAL;
	case OP_where:
		if (op->in[1].i == op->in[2].i) return same(s, op->in[1], t);
		if (const_value(b, op->in[0], &c)) return same(s, op->in[c != 0 ? 1 : 2], t);
		return NO_VAL;
	case OP_min:
	case OP_max: return op->in[0].i == op->in[1].i ? same(s, op->in[0], t) : NO_VAL;
	default: return NO_VAL;
	}
}

/* Between floats, to a wider type and back is nothing; from and to one type neither. */
static Val
identity_cast(Simplify *s, const Op *op, const Type *t)
{
	Val x = op->in[0], y = operand_of(s->b, x, OP_cast);

	if (same(s, x, t).i) return x;
	if (!y.i || !same(s, y, t).i) return NO_VAL;

	DType mid = val_type(s->b, x)->dt;
	return dtype_float(mid) && dtype_float(t->dt) && dtype_bytes(mid) >= dtype_bytes(t->dt)
		   ? y
		   : NO_VAL;
}

static Val
identity_view(Simplify *s, const Op *op, const Type *t)
{
	const AxisList *from = attr_axes(op, AK_from), *to = attr_axes(op, AK_to);
	const Op *in = val_op(s->b, op->in[0]);

	if (simplify_same_axes(from, to)) return same(s, op->in[0], t);
	if (!in || in->code != OP_view) return NO_VAL;

	const AxisList *from0 = attr_axes(in, AK_from), *to0 = attr_axes(in, AK_to);
	Val x = in->in[0];

	if (!simplify_same_axes(to0, from)) return NO_VAL;
	if (simplify_same_axes(from0, to)) return same(s, x, t);
	if (from0->n == 1 && from->n == 1 && to->n == 1)
		return rename_axis(s, x, from0->a[0], to->a[0], t, op->loc);
	return NO_VAL;
}

/* A slice or unslice of all of an axis is a renaming, or a slice that turns it round. */
static Val
identity_slice(Simplify *s, const Op *op, const Type *t)
{
	bool un = op->code == OP_unslice;
	const Attr *other = attr_find(op, un ? AK_from : AK_to);
	const Op *in = val_op(s->b, op->in[0]);
	int64_t start = attr_int(op, AK_start), step = attr_int(op, AK_step);
	Axis a = attr_axis(op, AK_axis);

	if (!un && in && in->code == OP_unslice && attr_axis(in, AK_axis).i == a.i &&
	    attr_int(in, AK_start) == start && attr_int(in, AK_step) == step) {
		const Attr *from = attr_find(in, AK_from);

		if (!from == !other && same(s, in->in[0], t).i) return in->in[0];
	}
	if (!other || other->axes.n != 1) return NO_VAL;

	Axis o = other->axes.a[0], src = un ? o : a, dst = un ? a : o;
	int64_t n = ir_extent(s->m, a);

	if (ir_extent(s->m, o) != n) return NO_VAL;
	if (start == 0 && step == 1)
		return src.i == dst.i ? same(s, op->in[0], t)
				      : rename_axis(s, op->in[0], src, dst, t, op->loc);
	if (un && start == n - 1 && step == -1) {
		Val x = op->in[0];
		AxisList l = {.n = 1, .a = {dst}};
		Attr attrs[4] = {attr_make_axis(AK_axis, src), attr_make_axes(AK_to, &l),
				 attr_make_int(AK_start, start), attr_make_int(AK_step, step)};
		Op turn = {.code = OP_slice,
			   .nin = 1,
			   .nout = 1,
			   .nattr = 4,
			   .in = &x,
			   .attrs = attrs,
			   .loc = op->loc};

		return simplify_place(s, &turn, t, 0);
	}
	return NO_VAL;
}

static Val
identity_roll(Simplify *s, const Op *op, const Type *t)
{
	Axis a = attr_axis(op, AK_axis);
	const Op *in = val_op(s->b, op->in[0]);
	int64_t n = ir_extent(s->m, a), shift = attr_int(op, AK_shift) % n;

	if (shift < 0) shift += n;
	if (shift == 0) return same(s, op->in[0], t);
	if (!in || in->code != OP_roll || attr_axis(in, AK_axis).i != a.i) return NO_VAL;

	Val x = in->in[0];
	Attr attrs[2] = {attr_make_axis(AK_axis, a),
			 attr_make_int(AK_shift, (attr_int(in, AK_shift) % n + n + shift) % n)};
	Op both = {.code = OP_roll,
		   .nin = 1,
		   .nout = 1,
		   .nattr = 2,
		   .in = &x,
		   .attrs = attrs,
		   .loc = op->loc};
	return simplify_place(s, &both, t, 0);
}

/* The sum of n equal entries is n times one of them. */
static Val
identity_reduce(Simplify *s, const Op *op, const Type *t)
{
	const Op *in = val_op(s->b, op->in[0]);
	const AxisList *over = attr_axes(op, AK_axes);
	int64_t n = 1;

	if (over->n == 0) return same(s, op->in[0], t);
	if (!in || in->code != OP_broadcast) return NO_VAL;

	const Type *x = val_type(s->b, in->in[0]);
	if (!type_same_axes(x, t)) return NO_VAL; /* exactly the axes that were added */
	for (int k = 0; k < over->n; k++)
		n *= ir_extent(s->m, over->a[k]);
	if (op->code == OP_sum)
		return make2(s, OP_mul, in->in[0], scalar(s, t->dt, (double)n, op->loc), t,
			     op->loc);
	return same(s, in->in[0], t);
}

/* A value that equals the op's result, or none; operands are values of the new body. */
static Val
identity(Simplify *s, const Op *op, const Type *t)
{
	switch (op->code) {
	case OP_add:
	case OP_sub: return identity_sum(s, op, t);
	case OP_mul:
	case OP_div: return identity_product(s, op, t);
	case OP_pow: return identity_pow(s, op, t);
	case OP_not:
	case OP_and:
	case OP_or:
	case OP_where:
	case OP_min:
	case OP_max: return identity_logic(s, op, t);
	case OP_neg: {
		Val x = operand_of(s->b, op->in[0], OP_neg);
		return x.i ? same(s, x, t) : NO_VAL;
	}
	case OP_cast: return identity_cast(s, op, t);
	case OP_stop: return s->keep_stop ? NO_VAL : same(s, op->in[0], t);
	case OP_copy:
	case OP_broadcast: return same(s, op->in[0], t);
	case OP_view: return identity_view(s, op, t);
	case OP_slice:
	case OP_unslice: return identity_slice(s, op, t);
	case OP_roll: return identity_roll(s, op, t);
	case OP_sum:
	case OP_rmax:
	case OP_rmin: return identity_reduce(s, op, t);
	default: return NO_VAL;
	}
}

Val
simplify_rules(Simplify *s, const Op *op, const Type *t)
{
	Val v = NO_VAL;

	if (op_info[op->code].flags & OF_EW) v = fold(s, op, t);
	return v.i ? v : identity(s, op, t);
}
