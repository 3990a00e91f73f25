/*
 * arith.c - elementwise operations: the types operands meet in, and what is known of the range of their results.
 * Ranges are intervals; they are what proves an index to lie in its axis.
 */
#include "frontend/elab.h"

#include <math.h>

/* ---- classes of operands ---- */

Class
class_of(const Elab *e, Value v)
{
	DType dt = type_of(e, v).dt;
	return dt == DT_bool ? C_bool : dt == DT_i32 ? C_int : C_float;
}

const char *
class_text(const Elab *e, Value v)
{
	static const char *const text[] = {"bool", "int", "float"};
	return text[class_of(e, v)];
}

/* ---- intervals ---- */

static double
min4(const double *v)
{
	return fmin(fmin(v[0], v[1]), fmin(v[2], v[3]));
}

static double
max4(const double *v)
{
	return fmax(fmax(v[0], v[1]), fmax(v[2], v[3]));
}

void
bound_corners(Value *r, double a, double b, double c, double d)
{
	double v[4] = {a, b, c, d};
	for (int i = 0; i < 4; i++)
		if (isnan(v[i])) return;
	set_bounds(r, min4(v), max4(v));
}

static void
bound_mod(Value *r, Value x, Value y, bool whole)
{
	if (y.lo <= 0) return;
	if (x.lo >= 0 && x.hi < y.lo)
		set_bounds(r, x.lo, x.hi);
	else
		set_bounds(r, 0, whole ? y.hi - 1 : y.hi);
}

/* What x op y can be, if it can be said; else r is left as it is. */
static void
bound_binary(Value *r, OpCode op, Value x, Value y, bool whole)
{
	switch (op) {
	case OP_add: set_bounds(r, x.lo + y.lo, x.hi + y.hi); break;
	case OP_sub: set_bounds(r, x.lo - y.hi, x.hi - y.lo); break;
	case OP_mul:
		bound_corners(r, x.lo * y.lo, x.lo * y.hi, x.hi * y.lo, x.hi * y.hi);
		break;
	case OP_div:
		if (y.lo > 0 || y.hi < 0)
			bound_corners(r, x.lo / y.lo, x.lo / y.hi, x.hi / y.lo, x.hi / y.hi);
		break;
	case OP_floordiv:
		if (y.lo > 0 || y.hi < 0)
			bound_corners(r, floor(x.lo / y.lo), floor(x.lo / y.hi),
				      floor(x.hi / y.lo), floor(x.hi / y.hi));
		break;
	case OP_mod: bound_mod(r, x, y, whole); break;
	case OP_pow:
		if (x.lo > 0)
			bound_corners(r, pow(x.lo, y.lo), pow(x.lo, y.hi), pow(x.hi, y.lo),
				      pow(x.hi, y.hi));
		break;
	case OP_min: set_bounds(r, fmin(x.lo, y.lo), fmin(x.hi, y.hi)); break;
	case OP_max: set_bounds(r, fmax(x.lo, y.lo), fmax(x.hi, y.hi)); break;
	case OP_lt: set_bounds(r, x.hi < y.lo, x.lo < y.hi); break;
	case OP_le: set_bounds(r, x.hi <= y.lo, x.lo <= y.hi); break;
	case OP_eq:
		set_bounds(r, x.lo == x.hi && y.lo == y.hi && x.lo == y.lo,
			   x.lo <= y.hi && y.lo <= x.hi);
		break;
	case OP_ne:
		set_bounds(r, x.hi < y.lo || y.hi < x.lo,
			   !(x.lo == x.hi && y.lo == y.hi && x.lo == y.lo));
		break;
	case OP_and: set_bounds(r, fmin(x.lo, y.lo), fmin(x.hi, y.hi)); break;
	case OP_or: set_bounds(r, fmax(x.lo, y.lo), fmax(x.hi, y.hi)); break;
	default: break;
	}
}

static void
bound_unary(Value *r, OpCode op, Value x)
{
	switch (op) {
	case OP_neg: set_bounds(r, -x.hi, -x.lo); break;
	case OP_exp: set_bounds(r, exp(x.lo), exp(x.hi)); break;
	case OP_log:
		set_bounds(r, x.lo > 0 ? log(x.lo) : -INFINITY,
			   x.hi > 0 ? log(x.hi) : INFINITY);
		break;
	case OP_sqrt:
		set_bounds(r, x.lo > 0 ? sqrt(x.lo) : 0, x.hi > 0 ? sqrt(x.hi) : INFINITY);
		break;
	case OP_sin:
	case OP_cos:
	case OP_tanh:
	case OP_erf: set_bounds(r, -1, 1); break;
	case OP_sigmoid: set_bounds(r, 0, 1); break;
	case OP_relu: set_bounds(r, fmax(x.lo, 0), fmax(x.hi, 0)); break;
	case OP_abs:
		set_bounds(r,
			   x.lo > 0   ? x.lo
			   : x.hi < 0 ? -x.hi
				      : 0,
			   fmax(fabs(x.lo), fabs(x.hi)));
		break;
	case OP_not: set_bounds(r, 1 - x.hi, 1 - x.lo); break;
	default: break;
	}
}

/* ---- elementwise ---- */

/* An int result that could not be held is an error, where its range is known. */
Value
check_int(Elab *e, Frame *f, Span at, Value r)
{
	if (r.kind == V_poison || type_of(e, r).dt != DT_i32 || !isfinite(r.lo) ||
	    !isfinite(r.hi))
		return r;
	if (r.lo >= -FE_MAX_EXTENT && r.hi <= FE_MAX_EXTENT) return r;
	fe_error(e, f, at,
		 "'%s' runs from %s to %s, more than an int holds; float(x) goes further",
		 text_of(e, f, at), num_text(e, r.lo), num_text(e, r.hi));
	return poison();
}

bool
needs_numbers(Elab *e, Frame *f, Span at, const char *op, Value x)
{
	if (class_of(e, x) != C_bool) return true;
	fe_error(e, f, at, "'%s' on a bool; float(b) makes it 0 and 1, where(b, x, y) chooses",
		 op);
	return false;
}

/* x op y on numbers; of integers it is an integer, except for / and ^. */
Value
elementwise2(Elab *e, Frame *f, Span at, const char *text, OpCode op, Value x, Value y)
{
	Value in[2] = {x, y};
	if (!in_body(e, f, at, &x) || !in_body(e, f, at, &y)) return poison();
	if (!needs_numbers(e, f, at, text, x) || !needs_numbers(e, f, at, text, y))
		return poison();
	bool whole =
	    class_of(e, x) == C_int && class_of(e, y) == C_int && op != OP_div && op != OP_pow;
	if ((op == OP_div || op == OP_floordiv || op == OP_mod) && y.kind == V_number &&
	    y.num == 0) {
		fe_error(e, f, at, "division by zero: '%s'", text_of(e, f, at));
		return poison();
	}
	Value r = emit2(e, f, at, op, x, y, whole ? DT_i32 : float_type(e, in, 2));
	if (r.kind == V_poison) return r;
	bound_binary(&r, op, x, y, whole);
	return check_int(e, f, at, r);
}

static Value
compare(Elab *e, Frame *f, Span at, NodeKind k, Value x, Value y)
{
	OpCode op = k == N_lt || k == N_gt   ? OP_lt
		    : k == N_le || k == N_ge ? OP_le
		    : k == N_eq              ? OP_eq
					     : OP_ne;
	if (k == N_gt || k == N_ge) {
		Value t = x;
		x = y;
		y = t;
	}
	Class cx = class_of(e, x), cy = class_of(e, y);
	bool order = op == OP_lt || op == OP_le;
	if ((cx == C_bool) != (cy == C_bool) || (order && cx == C_bool)) {
		fe_error(e, f, at, "'%s' compares %s with %s", ast_operator(k),
			 class_text(e, x), class_text(e, y));
		return poison();
	}
	Value in[2] = {x, y};
	DType dt = cx == C_bool                 ? DT_bool
		   : cx == C_int && cy == C_int ? DT_i32
						: float_type(e, in, 2);
	Value r = emit2(e, f, at, op, x, y, dt);
	if (r.kind != V_poison) bound_binary(&r, op, x, y, false);
	return r;
}

/* x ^ y; small whole powers are products. */
static Value
power(Elab *e, Frame *f, Span at, Value x, Value y)
{
	if (y.kind != V_number || y.is_bool || !needs_numbers(e, f, at, "^", x))
		return elementwise2(e, f, at, "^", OP_pow, x, y);
	DType dt = float_type(e, &x, 1);
	Value f1 = cast(e, f, at, x, dt), sq, r;
	if (y.num == 1) return f1;
	if (y.num == 0.5 || y.num == -0.5) {
		r = emit1(e, f, at, OP_sqrt, f1);
		if (r.kind != V_poison) bound_unary(&r, OP_sqrt, x);
		return y.num > 0 ? r : elementwise2(e, f, at, "^", OP_div, number(1), r);
	}
	if (y.num == -1) return elementwise2(e, f, at, "^", OP_div, number(1), f1);
	if (y.num != 2 && y.num != 3 && y.num != 4)
		return elementwise2(e, f, at, "^", OP_pow, x, y);
	sq = emit2(e, f, at, OP_mul, f1, f1, dt);
	if (sq.kind == V_poison) return sq;
	double a = x.lo * x.lo, b = x.hi * x.hi;
	if (isfinite(a) && isfinite(b))
		set_bounds(&sq, x.lo > 0 || x.hi < 0 ? fmin(a, b) : 0, fmax(a, b));
	if (y.num == 2) return sq;
	return elementwise2(e, f, at, "^", OP_mul, sq, y.num == 3 ? f1 : sq);
}

Value
arithmetic(Elab *e, Frame *f, Span at, NodeKind k, Value x, Value y)
{
	static const OpCode code[] = {
	    [N_add] = OP_add, [N_sub] = OP_sub,           [N_mul] = OP_mul,
	    [N_div] = OP_div, [N_floordiv] = OP_floordiv, [N_mod] = OP_mod};
	if (k == N_pow) return power(e, f, at, x, y);
	return elementwise2(e, f, at, ast_operator(k), code[k], x, y);
}

static Value
logic(Elab *e, Frame *f, Span at, const char *text, OpCode op, Value x, Value y)
{
	Value bad = class_of(e, x) != C_bool ? x : y;
	if (class_of(e, bad) != C_bool) {
		fe_error(e, f, at, "'%s' needs bool, but has %s", text, class_text(e, bad));
		return poison();
	}
	Value r = emit2(e, f, at, op, x, y, DT_bool);
	if (r.kind != V_poison) bound_binary(&r, op, x, y, false);
	return r;
}

Value
binary(Elab *e, Frame *f, const Node *n, Value x, Value y)
{
	if (x.kind == V_number && y.kind == V_number) return number_binary(e, f, n, x, y);
	if (!in_body(e, f, x.kind == V_ref ? n->at : n->a->at, &x) ||
	    !in_body(e, f, y.kind == V_ref ? n->at : n->b->at, &y))
		return poison();
	if (n->kind == N_and || n->kind == N_or)
		return logic(e, f, n->at, ast_operator(n->kind),
			     n->kind == N_and ? OP_and : OP_or, x, y);
	if (n->kind >= N_lt && n->kind <= N_ne) return compare(e, f, n->at, n->kind, x, y);
	return arithmetic(e, f, n->at, n->kind, x, y);
}

/* -x, exp(x), ...: on integers neg and abs stay so. */
Value
elementwise1(Elab *e, Frame *f, Span at, OpCode op, Value x)
{
	if (x.kind == V_number && !x.is_bool && op != OP_not)
		return number_function(e, f, at, op, x.num);
	if (!in_body(e, f, at, &x)) return poison();
	if (op == OP_not) {
		if (x.kind == V_number && x.is_bool) return boolean(x.num == 0);
		if (class_of(e, x) != C_bool) {
			fe_error(e, f, at, "'not' needs bool, but has %s", class_text(e, x));
			return poison();
		}
	} else if (!needs_numbers(e, f, at, op_info[op].text, x)) {
		return poison();
	}
	bool keeps =
	    op == OP_not || ((op == OP_neg || op == OP_abs) && class_of(e, x) == C_int);
	Value r = emit1(e, f, at, op, keeps ? x : cast(e, f, at, x, float_type(e, &x, 1)));
	if (r.kind != V_poison) bound_unary(&r, op, x);
	return r;
}

Value
unary(Elab *e, Frame *f, const Node *n, Value x)
{
	return elementwise1(e, f, n->at, n->kind == N_neg ? OP_neg : OP_not, x);
}
