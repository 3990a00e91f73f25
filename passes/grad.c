/*
 * grad.c - one gradient rule per op: reverse mode, from the cotangents of an op's results to those of its operands.
 *
 * A rule reads operands and results of F as values of the joint body and appends elementwise ops, dots and sums; partition.c
 * decides afterwards which of F's values are saved and which computed again, so rules use whatever makes the cheapest kernel:
 * y where the result says it all (exp, tanh, sigmoid, relu), x otherwise. Contributions are added in order of appearance.
 * Conventions at ties and kinks are PyTorch's: abs' = 0 and relu' = 0 at 0; min, max, rmin, rmax share evenly among ties.
 *
 * Source: Griewank and Walther, Evaluating Derivatives, 2nd ed., ch. 3; PyTorch's derivatives.yaml for the conventions.
 */
#include "passes/passes.h"

#include <math.h>
#include <string.h>

/* ---- making ops at the place of the op at hand ---- */

static Val
make(Grad *g, OpCode code, const Val *in, int nin, const Attr *attrs, int nattr,
     const Type *want)
{
	OpArgs a = {.code = code,
		    .in = in,
		    .nin = nin,
		    .attrs = attrs,
		    .nattr = nattr,
		    .loc = g->loc,
		    .want = want};

	return ir_emit(g->m, g->b, NULL, &a)->out[0];
}

/* Elementwise op whose result is meant for x: it takes x's order of axes if it has x's axes. */
static Val
ew(Grad *g, OpCode code, const Val *in, int nin, Val x)
{
	Type want = *val_type(g->b, x);
	bool fits = true;

	for (int a = 0; a < want.n && fits; a++) {
		fits = false;
		for (int k = 0; k < nin && !fits; k++)
			fits = type_find(val_type(g->b, in[k]), want.ax[a].a) >= 0;
	}
	for (int k = 0; k < nin && fits; k++) {
		const Type *t = val_type(g->b, in[k]);

		for (int a = 0; a < t->n && fits; a++)
			fits = type_find(&want, t->ax[a].a) >= 0;
	}
	return make(g, code, in, nin, NULL, 0, fits ? &want : NULL);
}

static Val
ew1(Grad *g, OpCode code, Val a, Val x)
{
	return ew(g, code, &a, 1, x);
}

static Val
ew2(Grad *g, OpCode code, Val a, Val b, Val x)
{
	return ew(g, code, (Val[]){a, b}, 2, x);
}

static Val
where(Grad *g, Val c, Val a, Val b, Val x)
{
	return ew(g, OP_where, (Val[]){c, a, b}, 3, x);
}

/* A scalar of x's dtype. */
static Val
num(Grad *g, Val x, double value)
{
	return ir_const(g->m, g->b, val_type(g->b, x)->dt, value, g->loc);
}

static Val
mul(Grad *g, Val a, Val b, Val x)
{
	return ew2(g, OP_mul, a, b, x);
}

static Val
scale(Grad *g, Val a, double by, Val x)
{
	return mul(g, a, num(g, a, by), x);
}

static Val
cast(Grad *g, Val a, DType dt)
{
	Attr to = attr_make_dtype(AK_dtype, dt);
	Type want = *val_type(g->b, a);

	want.dt = dt;
	return make(g, OP_cast, &a, 1, &to, 1, &want);
}

/* ---- cotangents ---- */

static Val
cot(const Grad *g, const Op *op, int r)
{
	return op->out[r].i ? g->cot[op->out[r].i] : NO_VAL;
}

static bool
wanted(const Grad *g, const Op *op, int k)
{
	return g->active[op->in[k].i];
}

/* d summed over the axes that x lacks; in x's order if that leaves x's axes. */
static Val
reduce(Grad *g, Val d, Val x)
{
	const Type *t = val_type(g->b, x), *td = val_type(g->b, d);
	AxisList over = {0};
	Type want = *t;

	for (int k = 0; k < td->n; k++)
		if (type_find(t, td->ax[k].a) < 0) axes_add(&over, td->ax[k].a);
	if (!over.n) return d;
	want.dt = td->dt;
	Attr axes = attr_make_axes(AK_axes, &over);
	return make(g, OP_sum, &d, 1, &axes, 1, td->n - over.n == t->n ? &want : NULL);
}

/* d on the axes of x that it lacks. */
static Val
spread(Grad *g, Val d, Val x)
{
	Type want = *val_type(g->b, x);
	const Type *td = val_type(g->b, d);
	AxisList more = {0};

	for (int k = 0; k < want.n; k++)
		if (type_find(td, want.ax[k].a) < 0) axes_add(&more, want.ax[k].a);
	if (!more.n) return d;
	want.dt = td->dt;
	Attr axes = attr_make_axes(AK_axes, &more);
	return make(g, OP_broadcast, &d, 1, &axes, 1, &want);
}

void
cot_add(Grad *g, Val x, Val d)
{
	if (!d.i || !g->active[x.i]) return;
	d = spread(g, reduce(g, d, x), x);
	if (val_type(g->b, d)->dt != val_type(g->b, x)->dt)
		d = cast(g, d, val_type(g->b, x)->dt);
	if (!type_equal(val_type(g->b, d), val_type(g->b, x))) {
		Type want = *val_type(g->b, x);

		d = make(g, OP_copy, &d, 1, NULL, 0, &want);
	}
	g->cot[x.i] = g->cot[x.i].i ? ew2(g, OP_add, g->cot[x.i], d, x) : d;
}

/* ---- elementwise, one operand ---- */

#define X(op)   ((op)->in[0])
#define Y(op)   ((op)->in[1])
#define OUT(op) ((op)->out[0])

static void
grad_neg(Grad *g, const Op *op, Val dy)
{
	cot_add(g, X(op), ew1(g, OP_neg, dy, X(op)));
}

static void
grad_exp(Grad *g, const Op *op, Val dy)
{
	cot_add(g, X(op), mul(g, dy, OUT(op), X(op)));
}

static void
grad_log(Grad *g, const Op *op, Val dy)
{
	cot_add(g, X(op), ew2(g, OP_div, dy, X(op), X(op)));
}

static void
grad_sqrt(Grad *g, const Op *op, Val dy)
{
	cot_add(g, X(op), ew2(g, OP_div, scale(g, dy, 0.5, X(op)), OUT(op), X(op)));
}

static void
grad_sin(Grad *g, const Op *op, Val dy)
{
	cot_add(g, X(op), mul(g, dy, ew1(g, OP_cos, X(op), X(op)), X(op)));
}

static void
grad_cos(Grad *g, const Op *op, Val dy)
{
	Val x = X(op);

	cot_add(g, x, ew1(g, OP_neg, mul(g, dy, ew1(g, OP_sin, x, x), x), x));
}

static void
grad_tanh(Grad *g, const Op *op, Val dy)
{
	Val x = X(op), y = OUT(op);

	cot_add(g, x, mul(g, dy, ew2(g, OP_sub, num(g, y, 1), mul(g, y, y, x), x), x));
}

/* erf' = 2 / sqrt(pi) exp(-x^2) */
static void
grad_erf(Grad *g, const Op *op, Val dy)
{
	Val x = X(op), e = ew1(g, OP_exp, ew1(g, OP_neg, mul(g, x, x, x), x), x);

	cot_add(g, x, mul(g, dy, scale(g, e, 2 / sqrt(acos(-1)), x), x));
}

static void
grad_sigmoid(Grad *g, const Op *op, Val dy)
{
	Val x = X(op), y = OUT(op);

	cot_add(g, x, mul(g, dy, mul(g, y, ew2(g, OP_sub, num(g, y, 1), y, x), x), x));
}

static void
grad_relu(Grad *g, const Op *op, Val dy)
{
	Val y = OUT(op);

	cot_add(g, X(op),
		where(g, ew2(g, OP_lt, num(g, y, 0), y, y), dy, num(g, dy, 0), X(op)));
}

static void
grad_abs(Grad *g, const Op *op, Val dy)
{
	Val x = X(op), zero = num(g, x, 0);
	Val down = where(g, ew2(g, OP_lt, x, zero, x), ew1(g, OP_neg, dy, x), num(g, dy, 0), x);

	cot_add(g, x, where(g, ew2(g, OP_lt, zero, x, x), dy, down, x));
}

static void
grad_cast(Grad *g, const Op *op, Val dy)
{
	cot_add(g, X(op), dy);
}

/* identities as far as gradients go: cot_add sums over what was added */
#define grad_copy      grad_cast
#define grad_broadcast grad_cast

static void
grad_stop(Grad *g, const Op *op, Val dy)
{
	(void)g, (void)op, (void)dy;
}

/* ---- elementwise, two and three operands ---- */

static void
grad_add(Grad *g, const Op *op, Val dy)
{
	cot_add(g, X(op), dy);
	cot_add(g, Y(op), dy);
}

static void
grad_sub(Grad *g, const Op *op, Val dy)
{
	cot_add(g, X(op), dy);
	if (!wanted(g, op, 1)) return;
	/* first the sum, then the sign: the smaller tensor */
	cot_add(g, Y(op), ew1(g, OP_neg, reduce(g, dy, Y(op)), Y(op)));
}

static void
grad_mul(Grad *g, const Op *op, Val dy)
{
	if (wanted(g, op, 0)) cot_add(g, X(op), mul(g, dy, Y(op), X(op)));
	if (wanted(g, op, 1)) cot_add(g, Y(op), mul(g, dy, X(op), Y(op)));
}

/* z = x / y: dx = dz / y, dy = -(dz / y) z */
static void
grad_div(Grad *g, const Op *op, Val dz)
{
	Val q = ew2(g, OP_div, dz, Y(op), OUT(op));

	cot_add(g, X(op), q);
	if (!wanted(g, op, 1)) return;
	cot_add(g, Y(op), ew1(g, OP_neg, reduce(g, mul(g, q, OUT(op), Y(op)), Y(op)), Y(op)));
}

/* x - y floor(x / y), the floor constant between its jumps */
static void
grad_mod(Grad *g, const Op *op, Val dz)
{
	cot_add(g, X(op), dz);
	if (!wanted(g, op, 1)) return;
	Val q = ew2(g, OP_floordiv, X(op), Y(op), OUT(op));
	cot_add(g, Y(op), ew1(g, OP_neg, mul(g, dz, q, Y(op)), Y(op)));
}

/* z = x^p: dx = dz p x^(p-1), zero where p is; dp = dz z log x, zero where x is */
static void
grad_pow(Grad *g, const Op *op, Val dz)
{
	Val x = X(op), p = Y(op), z = OUT(op);
	const Op *c = val_op(g->b, p);
	bool number = c && c->code == OP_const;

	if (wanted(g, op, 0)) {
		Val less = number ? num(g, p, attr_num(c, AK_value) - 1)
				  : ew2(g, OP_sub, p, num(g, p, 1), p);
		Val d = mul(g, dz, mul(g, p, ew2(g, OP_pow, x, less, z), z), z);

		if (!number)
			d = where(g, ew2(g, OP_eq, p, num(g, p, 0), p), num(g, d, 0), d, z);
		cot_add(g, x, d);
	}
	if (!wanted(g, op, 1)) return;
	Val d = mul(g, dz, mul(g, z, ew1(g, OP_log, x, x), z), z);
	cot_add(g, p, where(g, ew2(g, OP_eq, z, num(g, z, 0), z), num(g, d, 0), d, z));
}

/* The winner takes the cotangent; at a tie each has half. */
static void
grad_choice(Grad *g, const Op *op, Val dz)
{
	Val tie = ew2(g, OP_eq, X(op), Y(op), OUT(op)), half = scale(g, dz, 0.5, OUT(op)),
	    zero = num(g, dz, 0);
	bool is_min = op->code == OP_min;

	for (int k = 0; k < 2; k++) {
		if (!wanted(g, op, k)) continue;
		Val me = op->in[k], other = op->in[1 - k];
		Val won = is_min ? ew2(g, OP_lt, me, other, OUT(op))
				 : ew2(g, OP_lt, other, me, OUT(op));

		cot_add(g, me, where(g, tie, half, where(g, won, dz, zero, OUT(op)), me));
	}
}
#define grad_min grad_choice
#define grad_max grad_choice

static void
grad_where(Grad *g, const Op *op, Val dz)
{
	Val zero = num(g, dz, 0);

	if (wanted(g, op, 1)) cot_add(g, op->in[1], where(g, op->in[0], dz, zero, op->in[1]));
	if (wanted(g, op, 2)) cot_add(g, op->in[2], where(g, op->in[0], zero, dz, op->in[2]));
}

/* The same draws: the site's key and the places are the same. */
static void
grad_dropout(Grad *g, const Op *op, Val dy)
{
	cot_add(g, X(op),
		make(g, OP_dropout, &dy, 1, op->attrs, op->nattr, val_type(g->b, X(op))));
}

/* ---- re-indexing: each op's adjoint ---- */

static void
grad_view(Grad *g, const Op *op, Val dy)
{
	Attr attrs[2] = {attr_make_axes(AK_from, attr_axes(op, AK_to)),
			 attr_make_axes(AK_to, attr_axes(op, AK_from))};

	cot_add(g, X(op), make(g, OP_view, &dy, 1, attrs, 2, val_type(g->b, X(op))));
}

/* slice <-> unslice: `to` of one is `from` of the other */
static void
adjoint_slice(Grad *g, const Op *op, Val dy, OpCode code, AttrKey mine, AttrKey its)
{
	const Attr *other = attr_find(op, mine);
	Attr attrs[4];
	int n = 0;

	attrs[n++] = attr_make_axis(AK_axis, attr_axis(op, AK_axis));
	if (other) attrs[n++] = attr_make_axes(its, &other->axes);
	attrs[n++] = attr_make_int(AK_start, attr_int(op, AK_start));
	attrs[n++] = attr_make_int(AK_step, attr_int(op, AK_step));
	cot_add(g, X(op), make(g, code, &dy, 1, attrs, n, val_type(g->b, X(op))));
}

static void
grad_slice(Grad *g, const Op *op, Val dy)
{
	adjoint_slice(g, op, dy, OP_unslice, AK_to, AK_from);
}

static void
grad_unslice(Grad *g, const Op *op, Val dy)
{
	adjoint_slice(g, op, dy, OP_slice, AK_from, AK_to);
}

static void
grad_roll(Grad *g, const Op *op, Val dy)
{
	Axis a = attr_axis(op, AK_axis);
	int64_t n = ir_extent(g->m, a), shift = ((-attr_int(op, AK_shift)) % n + n) % n;
	Attr attrs[2] = {attr_make_axis(AK_axis, a), attr_make_int(AK_shift, shift)};

	cot_add(g, X(op), make(g, OP_roll, &dy, 1, attrs, 2, val_type(g->b, dy)));
}

static void
grad_concat(Grad *g, const Op *op, Val dz)
{
	const AxisList *from = attr_axes(op, AK_from), *to = attr_axes(op, AK_to);
	int64_t start = 0;

	for (int k = 0; k < 2; k++) {
		AxisList part = {.n = 1, .a = {from->a[k]}};
		Attr attrs[4] = {attr_make_axis(AK_axis, to->a[0]),
				 attr_make_axes(AK_to, &part), attr_make_int(AK_start, start),
				 attr_make_int(AK_step, 1)};

		if (wanted(g, op, k))
			cot_add(g, op->in[k], make(g, OP_slice, &dz, 1, attrs, 4, NULL));
		start += ir_extent(g->m, from->a[k]);
	}
}

/* dx = scatter_add(dy, indices) on exactly the axes of x */
static void
grad_gather(Grad *g, const Op *op, Val dy)
{
	AxisList along = axes_of(val_type(g->b, X(op)));
	Attr attrs[2] = {*attr_find(op, AK_axes), attr_make_axes(AK_along, &along)};
	Val in[8] = {dy};

	for (int k = 1; k < op->nin; k++)
		in[k] = op->in[k];
	cot_add(g, X(op), make(g, OP_scatter_add, in, op->nin, attrs, 2, NULL));
}

static void
grad_scatter_add(Grad *g, const Op *op, Val dy)
{
	Val in[8] = {dy};

	for (int k = 1; k < op->nin; k++)
		in[k] = op->in[k];
	cot_add(g, X(op), make(g, OP_gather, in, op->nin, attr_find(op, AK_axes), 1, NULL));
}

/* ---- reductions and contractions ---- */

static void
grad_sum(Grad *g, const Op *op, Val dy)
{
	cot_add(g, X(op), dy);
}

/* Shared evenly among the entries that are the extreme. */
static void
grad_extreme(Grad *g, const Op *op, Val dy)
{
	Val x = X(op), hit = ew2(g, OP_eq, x, OUT(op), x);
	Val count = ir_sum(g->m, g->b, cast(g, hit, val_type(g->b, x)->dt),
			   attr_axes(op, AK_axes), g->loc);

	cot_add(g, x, where(g, hit, ew2(g, OP_div, dy, count, dy), num(g, dy, 0), x));
}
#define grad_rmax grad_extreme
#define grad_rmin grad_extreme

/* dx = dz y summed over the axes that x lacks: all of them are y's and were carried into z */
static void
grad_dot(Grad *g, const Op *op, Val dz)
{
	for (int k = 0; k < 2; k++) {
		Val me = op->in[k], other = op->in[1 - k];
		const Type *t = val_type(g->b, me), *to = val_type(g->b, other);
		AxisList over = {0};

		if (!wanted(g, op, k)) continue;
		for (int a = 0; a < to->n; a++)
			if (type_find(t, to->ax[a].a) < 0) axes_add(&over, to->ax[a].a);
		Type want = *t;
		want.dt = val_type(g->b, dz)->dt;
		cot_add(g, me,
			over.n ? ir_dot(g->m, g->b, dz, other, &over, &want, g->loc)
			       : mul(g, dz, other, me));
	}
}

/* dx = y (dy - sum(dy y)) */
static void
grad_softmax(Grad *g, const Op *op, Val dy)
{
	Val x = X(op), y = OUT(op);
	Val s = ir_sum(g->m, g->b, mul(g, dy, y, x), attr_axes(op, AK_axes), g->loc);

	cot_add(g, x, mul(g, y, ew2(g, OP_sub, dy, s, x), x));
}

/* mean' = 1 / n; rstd' = -rstd^3 (x - mean) / n: the mean's own derivative drops out of the variance */
static void
grad_moments(Grad *g, const Op *op, Val dmean)
{
	Val x = X(op), rstd = op->out[1], drstd = cot(g, op, 1);
	const AxisList *axes = attr_axes(op, AK_axes);
	bool center = attr_int(op, AK_center) != 0;
	double n = 1;

	for (int k = 0; k < axes->n; k++)
		n *= (double)ir_extent(g->m, axes->a[k]);
	if (drstd.i) {
		/* per row; the product over the row is one multiply-add an entry */
		Val k = mul(g, mul(g, drstd, rstd, rstd), mul(g, rstd, rstd, rstd), rstd);
		Val c = center ? ew2(g, OP_sub, x, op->out[0], x) : x;

		cot_add(g, x, mul(g, c, scale(g, k, -1 / n, rstd), x));
	}
	if (dmean.i && center) cot_add(g, x, scale(g, dmean, 1 / n, dmean));
}

/* The values came from the places their numbers tell. */
static void
grad_topk(Grad *g, const Op *op, Val dy)
{
	Axis a = attr_axis(op, AK_axis);
	AxisList at = {.n = 1, .a = {a}}, along = axes_of(val_type(g->b, X(op)));
	Attr attrs[2] = {attr_make_axes(AK_axes, &at), attr_make_axes(AK_along, &along)};
	Val in[2] = {dy, op->out[1]};

	if (dy.i) cot_add(g, X(op), make(g, OP_scatter_add, in, 2, attrs, 2, NULL));
}

/* d logits = softmax (dloss + dlse) - onehot dloss, elementwise, so that it can run in place over the logits */
static void
grad_cross_entropy(Grad *g, const Op *op, Val dloss)
{
	Val x = X(op), lse = op->out[1], dlse = cot(g, op, 1);
	Val p = ew1(g, OP_exp, ew2(g, OP_sub, x, lse, x), x);

	if (dloss.i) {
		Attr axis = attr_make_axis(AK_axis, attr_axis(op, AK_axis));
		Val hit = ew2(g, OP_eq, make(g, OP_pos, NULL, 0, &axis, 1, NULL), op->in[1], x);
		Val onehot = where(g, hit, num(g, x, 1), num(g, x, 0), x);

		cot_add(g, x, mul(g, ew2(g, OP_sub, p, onehot, x), dloss, x));
	}
	if (dlse.i) cot_add(g, x, mul(g, p, dlse, x));
}

/* q k v o lse do [mask] [bias] -> dq dk dv dbias, all at once */
static void
grad_attention(Grad *g, const Op *op, Val dy)
{
	Val in[8] = {op->in[0], op->in[1], op->in[2], op->out[0], op->out[1], dy}, d[MAX_OUT];
	bool bias = attr_int_or(op, AK_bias, 0) != 0;

	if (!dy.i) return;
	for (int k = 3; k < op->nin; k++)
		in[k + 3] = op->in[k];
	OpArgs a = {.code = OP_attention_grad,
		    .in = in,
		    .nin = op->nin + 3,
		    .attrs = op->attrs,
		    .nattr = op->nattr,
		    .loc = g->loc};
	memcpy(d, ir_emit(g->m, g->b, NULL, &a)->out, sizeof d);
	for (int k = 0; k < 3; k++)
		cot_add(g, op->in[k], d[k]);
	if (bias) cot_add(g, op->in[op->nin - 1], d[3]);
}

/* ---- the table ---- */

/* A rule is a function and no reason, or no function and the reason. */
#define NONE(reason)        NULL, reason

#define grad_const          NONE("it has no operand")
#define grad_pos            NONE("it has no operand")
#define grad_inside         NONE("padding comes after differentiation")
#define grad_not            NONE("its result is bool")
#define grad_floordiv       NONE("it is constant between its jumps; stop() says so")
#define grad_lt             NONE("its result is bool")
#define grad_le             NONE("its result is bool")
#define grad_eq             NONE("its result is bool")
#define grad_ne             NONE("its result is bool")
#define grad_and            NONE("its result is bool")
#define grad_or             NONE("its result is bool")
#define grad_normalize      NONE("simplify expands it first")
#define grad_attention_grad NONE("it is a gradient already")
#define grad_sumsq          NONE("it belongs to the update")
#define grad_adamw          NONE("it belongs to the update")
#define grad_sgd            NONE("it belongs to the update")
#define grad_all_reduce     NONE("communication comes after differentiation")
#define grad_all_gather     NONE("communication comes after differentiation")
#define grad_reduce_scatter NONE("communication comes after differentiation")
#define grad_all_to_all     NONE("communication comes after differentiation")
#define grad_part           NONE("communication comes after differentiation")
#define grad_reshard        NONE("communication comes after differentiation")

/* dy is the cotangent of the first result; a rule of an op with more looks at the others itself. */
static const struct GradRule {
	void (*rule)(Grad *g, const Op *op, Val dy);
	const char *none;
} grad_rule[OP_COUNT] = {
#define OP(code, ...) [OP_##code] = {grad_##code},
#include "ir/ops.def"
};

bool
grad_apply(Grad *g, const Op *op)
{
	const struct GradRule *r = &grad_rule[op->code];

	g->loc = op->loc;
	if (!r->rule) {
		diag_error(g->c->diag, op->loc, "'%s' cannot be differentiated yet: %s",
			   op_info[op->code].text, r->none);
		return false;
	}
	if (op->code == OP_attention && cot(g, op, 1).i) {
		diag_error(g->c->diag, op->loc,
			   "'attention' cannot be differentiated yet: through its log sum exp");
		return false;
	}
	r->rule(g, op, cot(g, op, 0));
	return true;
}
