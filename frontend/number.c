/*
 * number.c - arithmetic that is done when compiling: extents, loop bounds, rates, conditions.
 * Numbers are doubles; whether one is an integer is a question about its value, not about how it was written.
 */
#include "frontend/elab.h"

#include <math.h>

Value
number(double x)
{
	return (Value){.kind = V_number, .num = x, .lo = x, .hi = x};
}

Value
boolean(bool x)
{
	Value v = number(x);
	v.is_bool = true;
	return v;
}

Value
poison(void)
{
	return (Value){.kind = V_poison};
}

bool
is_whole(double x)
{
	return isfinite(x) && floor(x) == x;
}

/* The value of x op y; NAN where it has none. */
static double
compute(NodeKind k, double x, double y)
{
	switch (k) {
	case N_add: return x + y;
	case N_sub: return x - y;
	case N_mul: return x * y;
	case N_div: return y == 0 ? NAN : x / y;
	case N_floordiv: return y == 0 ? NAN : floor(x / y);
	case N_mod: return y == 0 ? NAN : x - y * floor(x / y);
	case N_pow: return pow(x, y);
	case N_lt: return x < y;
	case N_gt: return x > y;
	case N_le: return x <= y;
	case N_ge: return x >= y;
	case N_eq: return x == y;
	case N_ne: return x != y;
	case N_and: return x != 0 && y != 0;
	case N_or: return x != 0 || y != 0;
	default: ICE("no operator %d", (int)k);
	}
}

Value
number_binary(Elab *e, Frame *f, const Node *n, Value x, Value y)
{
	NodeKind k = n->kind;
	bool logic = k == N_and || k == N_or, compares = k >= N_lt && k <= N_ne;
	if (logic && !(x.is_bool && y.is_bool)) {
		fe_error(e, f, x.is_bool ? n->b->at : n->a->at,
			 "'%s' needs true or false, but '%s' is the number %s", ast_operator(k),
			 text_of(e, f, x.is_bool ? n->b->at : n->a->at),
			 num_text(e, x.is_bool ? y.num : x.num));
		return poison();
	}
	if (!logic && (x.is_bool || y.is_bool) &&
	    !((k == N_eq || k == N_ne) && x.is_bool && y.is_bool)) {
		fe_error(e, f, x.is_bool ? n->a->at : n->b->at,
			 "no arithmetic on true and false: '%s'", text_of(e, f, n->at));
		return poison();
	}
	double r = compute(k, x.num, y.num);
	if (!isfinite(r) && y.num == 0 && (k == N_div || k == N_floordiv || k == N_mod)) {
		fe_error(e, f, n->at, "division by zero: '%s' is %s %s 0", text_of(e, f, n->at),
			 num_text(e, x.num), ast_operator(k));
		return poison();
	}
	if (!isfinite(r)) {
		fe_error(e, f, n->at, "'%s' is no finite number", text_of(e, f, n->at));
		return poison();
	}
	return logic || compares ? boolean(r != 0) : number(r);
}

Value
number_function(Elab *e, Frame *f, Span at, OpCode code, double x)
{
	double r;
	switch (code) {
	case OP_neg: r = -x; break;
	case OP_exp: r = exp(x); break;
	case OP_log: r = log(x); break;
	case OP_sqrt: r = sqrt(x); break;
	case OP_sin: r = sin(x); break;
	case OP_cos: r = cos(x); break;
	case OP_tanh: r = tanh(x); break;
	case OP_erf: r = erf(x); break;
	case OP_sigmoid: r = 1 / (1 + exp(-x)); break;
	case OP_relu: r = x > 0 ? x : 0; break;
	case OP_abs: r = fabs(x); break;
	default: ICE("no function of numbers: %s", op_info[code].text);
	}
	if (isfinite(r)) return number(r);
	fe_error(e, f, at, "'%s' of %s is no finite number", op_info[code].text,
		 num_text(e, x));
	return poison();
}

bool
any_number(Elab *e, Frame *f, Span at, Value v, const char *what, double *out)
{
	if (v.kind == V_poison) return false;
	if (v.kind != V_number) {
		fe_error(e, f, at, "%s is a number known when compiled, but '%s' is a %s", what,
			 text_of(e, f, at),
			 v.kind == V_init ? "way to draw numbers" : "tensor");
		return false;
	}
	*out = v.num;
	return true;
}

bool
whole_number(Elab *e, Frame *f, const Node *n, Value v, const char *what, double lo, double hi,
	     double *out)
{
	if (!any_number(e, f, n->at, v, what, out)) return false;
	const char *text = text_of(e, f, n->at);
	if (v.is_bool) {
		fe_error(e, f, n->at, "%s is a number, but '%s' is %s", what, text,
			 v.num != 0 ? "true" : "false");
		return false;
	}
	if (!is_whole(*out)) {
		Value a = n->kind == N_div ? eval(e, f, n->a) : poison();
		Value b = n->kind == N_div ? eval(e, f, n->b) : poison();
		if (a.kind == V_number && b.kind == V_number)
			fe_error(e, f, n->at, "'%s' is %s / %s, which is not whole", text,
				 num_text(e, a.num), num_text(e, b.num));
		else if (n->kind == N_number)
			fe_error(e, f, n->at, "%s is whole, but this is %s", what,
				 num_text(e, *out));
		else
			fe_error(e, f, n->at, "'%s' is %s, which is not whole", text,
				 num_text(e, *out));
		return false;
	}
	if (*out < lo || *out > hi) {
		fe_error(e, f, n->at, "%s lies in %s..%s, but '%s' is %s", what,
			 num_text(e, lo), num_text(e, hi), text, num_text(e, *out));
		return false;
	}
	return true;
}
