/*
 * expr.c - one element of a value as a C expression.
 *
 * value_at() walks from a value down to what is in memory. Elementwise ops become operators and calls; re-indexing ops
 * change the place that is asked for (Env) and cost nothing; values that are needed twice, or would make a line too long,
 * become constants of the innermost loop, and what does not change in it constants of the row.
 */
#include "codegen/nest.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONG = 64 }; /* characters after which an expression gets a name */

typedef Ex ElemFn(Nest *n, const Op *op, const Env *e);

static Ex
ex(const char *s, int prec, uint32_t deps)
{
	return (Ex){s, prec, deps};
}

static const char *
paren(Nest *n, Ex x, int prec)
{
	return x.prec >= prec ? x.s : cg_text(n->c->g->a, "(%s)", x.s);
}

Ex
ex_binary(Nest *n, Ex x, const char *op, int prec, Ex y)
{
	int left = prec >= P_add ? prec : P_add, right = prec >= P_add ? prec + 1 : P_add;

	return ex(cg_text(n->c->g->a, "%s %s %s", paren(n, x, left), op, paren(n, y, right)),
		  prec, x.deps | y.deps);
}

const char *
literal(const Cg *g, DType dt, double x)
{
	char s[40];
	bool single = dt != DT_f64 && !g->f64;

	if (dt == DT_bool) return x != 0 ? "true" : "false";
	if (dt == DT_i32) return cg_text(g->a, "%" PRId64, (int64_t)x);
	if (isnan(x)) return "(real)NAN";
	if (isinf(x)) return x < 0 ? "-(real)INFINITY" : "(real)INFINITY";
	for (int digits = 1; digits <= 17; digits++) {
		snprintf(s, sizeof s, "%.*g", digits, single ? (double)(float)x : x);
		if (single ? strtof(s, NULL) == (float)x : strtod(s, NULL) == x) break;
	}
	return cg_text(g->a, "%s%s%s", s, strpbrk(s, ".e") ? "" : ".0", single ? "f" : "");
}

/* ---- operands ---- */

static DType
in_type(const Nest *n, const Op *op, int k)
{
	return bc_type(n->c, op->in[k])->dt;
}

static bool
is_float(const Nest *n, const Op *op, int k)
{
	return dtype_float(in_type(n, op, k));
}

static Ex
in(Nest *n, const Op *op, int k, const Env *e)
{
	return value_at(n, op->in[k], e);
}

/* An operand as `real`, for operations that are of reals whatever they are given. */
static Ex
in_real(Nest *n, const Op *op, int k, const Env *e)
{
	Ex x = in(n, op, k, e);

	if (is_float(n, op, k)) return x;
	return ex(cg_text(n->c->g->a, "(real)%s", paren(n, x, P_unary)), P_unary, x.deps);
}

/* A line in the scope an expression belongs to: constants of the innermost loop or of the row. */
static const char *
make_const(Nest *n, DType dt, const char *name, Ex x)
{
	bool inner = (x.deps & n->inner) != 0;

	put_line(inner ? &n->body : &n->row, inner ? n->body_depth : n->row_depth,
		 "const %s %s = %s;", cg_ctype(dt), name, x.s);
	return name;
}

/* x as an atom that may be written several times. */
static Ex
atom(Nest *n, DType dt, Ex x)
{
	if (n->probe || x.prec == P_atom || x.prec == P_unary) return x;
	if (n->cond) return ex(cg_text(n->c->g->a, "(%s)", x.s), P_atom, x.deps);
	return ex(make_const(n, dt, scope_take(n->scope, "t"), x), P_atom, x.deps);
}

/* ---- elementwise ---- */

static Ex
call(Nest *n, const char *f, Ex x)
{
	return ex(cg_text(n->c->g->a, "%s(%s)", f, x.s), P_atom, x.deps);
}

static Ex
call2(Nest *n, const char *f, Ex x, Ex y)
{
	return ex(cg_text(n->c->g->a, "%s(%s, %s)", f, x.s, y.s), P_atom, x.deps | y.deps);
}

static Ex
elem_const(Nest *n, const Op *op, const Env *e)
{
	const char *s = literal(n->c->g, bc_type(n->c, op->out[0])->dt, attr_num(op, AK_value));

	(void)e;
	return ex(s, s[0] == '-' ? P_unary : P_atom, 0);
}

/* The index along an axis in the whole tensor: microbatches split the batch in time, ranks split any. */
static Lin
global_index(Nest *n, const Type *t, int k, const Lin *at)
{
	const char *start = bc_start(n->c, t->ax[k], 0);
	Lin x = *at;

	x.mb += bc_by_mb(n->c, t->ax[k]);
	if (start) lin_term(&x, start, 1, 0);
	return x;
}

static Ex
elem_pos(Nest *n, const Op *op, const Env *e)
{
	const Type *t = bc_type(n->c, op->out[0]);
	Lin x = global_index(n, t, 0, env_at(e, attr_axis(op, AK_axis)));

	if (x.mb) n->c->uses_mb = true;
	return ex(cg_text(n->c->g->a, "(int32_t)%s", lin_alone(n, &x)), P_unary, x.deps);
}

/* Behind every split that is uneven, the block it splits ends before its last parts do. */
static Ex
elem_inside(Nest *n, const Op *op, const Env *e)
{
	const Type *t = bc_type(n->c, op->out[0]);
	AxisUse u = t->ax[0], block = u;
	uint32_t deps = 0, conditions = 0;
	Buf b;

	buf_init(&b, n->c->g->a);
	for (int k = 0; n->c->mesh && k < u.nshard; k++) {
		Type outer = {.dt = DT_bool, .n = 1};
		const char *start;
		Lin at = *env_at(e, u.a);

		outer.ax[0] = block;
		outer.ax[0].nshard = (uint8_t)k;
		if (bc_extent(n->c, &outer, 0) % n->c->mesh->ax[u.shard[k]].degree == 0)
			continue;
		start = bc_start(n->c, u, k);
		if (start) lin_term(&at, start, 1, 0);
		buf_printf(&b, conditions++ ? " & (%s < %s)" : "(%s < %s)", lin_alone(n, &at),
			   cg_size(n->c->g, n->c->mesh, outer.ax[0]));
		deps |= at.deps;
	}
	if (!b.n) return ex("true", P_atom, 0);
	return ex(conditions > 1 ? cg_text(n->c->g->a, "(%s)", b.s) : b.s, P_atom, deps);
}

#define CALL(op_name, f)                                              \
	static Ex elem_##op_name(Nest *n, const Op *op, const Env *e) \
	{                                                             \
		return call(n, f, in_real(n, op, 0, e));              \
	}
CALL(exp, "gv_exp")
CALL(log, "gv_log")
CALL(sqrt, "gv_sqrt")
CALL(sin, "gv_sin")
CALL(cos, "gv_cos")
CALL(tanh, "gv_tanh")
CALL(erf, "gv_erf")
CALL(sigmoid, "gv_sigmoid")

static Ex
elem_neg(Nest *n, const Op *op, const Env *e)
{
	Ex x = in(n, op, 0, e);

	return ex(cg_text(n->c->g->a, "-%s", paren(n, x, P_atom)), P_unary, x.deps);
}

static Ex
elem_not(Nest *n, const Op *op, const Env *e)
{
	Ex x = in(n, op, 0, e);

	return ex(cg_text(n->c->g->a, "!%s", paren(n, x, P_atom)), P_unary, x.deps);
}

static Ex
select_text(Nest *n, const char *condition, Ex x, Ex y)
{
	return ex(cg_text(n->c->g->a, "%s ? %s : %s", condition, paren(n, x, P_logic),
			  paren(n, y, P_logic)),
		  P_cond, x.deps | y.deps);
}

static Ex
elem_relu(Nest *n, const Op *op, const Env *e)
{
	DType dt = in_type(n, op, 0);
	Ex x = atom(n, dt, in(n, op, 0, e)), zero = ex("0", P_atom, 0);

	return select_text(n, cg_text(n->c->g->a, "%s < 0", x.s), zero, x); /* a NaN stays */
}

static Ex
elem_abs(Nest *n, const Op *op, const Env *e)
{
	DType dt = in_type(n, op, 0);
	Ex x = in(n, op, 0, e), minus;

	if (dtype_float(dt)) return call(n, n->c->g->f64 ? "fabs" : "fabsf", x);
	x = atom(n, dt, x);
	minus = ex(cg_text(n->c->g->a, "-%s", x.s), P_unary, x.deps);
	return select_text(n, cg_text(n->c->g->a, "%s < 0", x.s), minus, x);
}

static Ex
elem_cast(Nest *n, const Op *op, const Env *e)
{
	DType to = bc_type(n->c, op->out[0])->dt, from = in_type(n, op, 0);
	Ex x = in(n, op, 0, e);

	if (to == from ||
	    (dtype_float(to) && dtype_float(from) && to != DT_f64 && from != DT_f64))
		return x;
	if (to == DT_bool)
		return ex(cg_text(n->c->g->a, "%s != 0", paren(n, x, P_add)), P_compare,
			  x.deps);
	return ex(cg_text(n->c->g->a, "(%s)%s", cg_ctype(to), paren(n, x, P_unary)), P_unary,
		  x.deps);
}

static Ex
elem_same(Nest *n, const Op *op, const Env *e)
{
	return in(n, op, 0, e);
}
#define elem_stop      elem_same
#define elem_copy      elem_same
#define elem_broadcast elem_same

#define BINARY(op_name, symbol, prec, operand)                              \
	static Ex elem_##op_name(Nest *n, const Op *op, const Env *e)       \
	{                                                                   \
		Ex x = operand(n, op, 0, e);                                \
		return ex_binary(n, x, symbol, prec, operand(n, op, 1, e)); \
	}
BINARY(add, "+", P_add, in)
BINARY(sub, "-", P_add, in)
BINARY(mul, "*", P_mul, in)
BINARY(div, "/", P_mul, in_real)
BINARY(lt, "<", P_compare, in)
BINARY(le, "<=", P_compare, in)
BINARY(eq, "==", P_compare, in)
BINARY(ne, "!=", P_compare, in)
/* bools are 0 or 1: the bitwise operators do not branch */
BINARY(and, "&", P_logic, in)
BINARY(or, "|", P_logic, in)

static Ex
whole_or_real(Nest *n, const Op *op, const Env *e, const char *whole, const char *of_reals)
{
	Ex x;

	if (!dtype_float(bc_type(n->c, op->out[0])->dt)) {
		x = in(n, op, 0, e);
		return call2(n, whole, x, in(n, op, 1, e));
	}
	x = in_real(n, op, 0, e);
	return call2(n, of_reals, x, in_real(n, op, 1, e));
}

static Ex
elem_floordiv(Nest *n, const Op *op, const Env *e)
{
	return whole_or_real(n, op, e, "gv_ifloordiv", "gv_floordiv");
}

static Ex
elem_mod(Nest *n, const Op *op, const Env *e)
{
	return whole_or_real(n, op, e, "gv_imod", "gv_mod");
}

/* Small whole powers are products, exact as the library's to rounding and vectorisable. */
static Ex
elem_pow(Nest *n, const Op *op, const Env *e)
{
	const Op *p = val_op(n->c->b, op->in[1]);
	Ex x = in_real(n, op, 0, e);

	if (p && p->code == OP_const) {
		double v = attr_num(p, AK_value);

		if (v == 1) return x;
		if (v == 0.5) return call(n, "gv_sqrt", x);
		if (v == 2 || v == 3) {
			x = atom(n, DT_f32, x);
			return ex(cg_text(n->c->g->a, v == 2 ? "%s * %s" : "%s * %s * %s", x.s,
					  x.s, x.s),
				  P_mul, x.deps);
		}
	}
	return call2(n, "gv_pow", x, in_real(n, op, 1, e));
}

static Ex
pick(Nest *n, const Op *op, const Env *e, const char *less)
{
	DType dt = bc_type(n->c, op->out[0])->dt;
	Ex x = atom(n, dt, in(n, op, 0, e)), y = atom(n, dt, in(n, op, 1, e));
	Ex r = select_text(n, cg_text(n->c->g->a, "%s %s %s", x.s, less, y.s), x, y);

	r.deps = x.deps | y.deps;
	return r;
}

static Ex
elem_min(Nest *n, const Op *op, const Env *e)
{
	return pick(n, op, e, "<");
}

static Ex
elem_max(Nest *n, const Op *op, const Env *e)
{
	return pick(n, op, e, ">");
}

static Ex
elem_where(Nest *n, const Op *op, const Env *e)
{
	Ex c = in(n, op, 0, e), x = in(n, op, 1, e), y = in(n, op, 2, e);
	Ex r = select_text(n, paren(n, c, P_logic), x, y);

	r.deps |= c.deps;
	return r;
}

/* Row-major place of an element among `axes` of the whole tensor. */
static Lin
logical_place(Nest *n, const Op *op, const Env *e)
{
	const AxisList *axes = attr_axes(op, AK_axes);
	const Type *t = bc_type(n->c, op->out[0]);
	Lin x = lin_const(0);
	int64_t stride = 1;

	for (int k = axes->n - 1; k >= 0; k--) {
		int at = type_find(t, axes->a[k]);
		Lin index;

		ENSURE(at >= 0, "dropout draws along an axis its operand lacks");
		index = global_index(n, t, at, env_at(e, axes->a[k]));
		lin_add(&x, &index, stride);
		stride *= n->c->g->m->axes[axes->a[k].i].extent;
	}
	for (int k = 0; k < n->naxes; k++)
		if (n->extent[k] == 1) x.k[k] = 0;
	if (n->probe) PUSH(n->c->g->a, n->seen, n->nseen, n->cseen, x);
	return x;
}

static Ex
elem_dropout(Nest *n, const Op *op, const Env *e)
{
	const char *site = n->c->drop[op - n->c->b->ops];
	Ex x = in(n, op, 0, e), place;
	Lin at;

	if (!site) return x;
	at = logical_place(n, op, e);
	n->c->uses_run = true;
	place = lin_text(n, &at, bc_type(n->c, op->out[0]), NULL);
	place =
	    ex(cg_text(n->c->g->a, "gv_drop_at(%s, run->step, (uint64_t)(%s))", site, place.s),
	       P_atom, at.deps);
	return ex_binary(n, x, "*", P_mul, place);
}

/* ---- re-indexing: the same element of the operand, at another place ---- */

/* text / d or text % d as an index that depends on what x does; constants are folded. */
static Lin
divide(Nest *n, const Lin *x, int64_t d, bool rest)
{
	Lin q = lin_const(0);

	if (lin_is_const(x)) return lin_const(rest ? x->c % d : x->c / d);
	if (d == 1) return rest ? lin_const(0) : *x;
	lin_term(
	    &q,
	    cg_text(n->c->g->a, "(%s %c %" PRId64 ")", lin_alone(n, x), rest ? '%' : '/', d), 1,
	    x->deps);
	return q;
}

/* from and to multiply to the same: the flat index of `to` is split over `from`. */
static Ex
elem_view(Nest *n, const Op *op, const Env *e)
{
	const AxisList *from = attr_axes(op, AK_from), *to = attr_axes(op, AK_to);
	const Type *tx = bc_type(n->c, op->in[0]), *ty = bc_type(n->c, op->out[0]);
	Env inner = *e;
	Lin flat = lin_const(0), at[MAX_AXES];
	int64_t stride = 1;

	for (int k = to->n - 1; k >= 0; k--) {
		lin_add(&flat, env_at(e, to->a[k]), stride);
		stride *= bc_extent(n->c, ty, type_find(ty, to->a[k]));
		env_drop(&inner, to->a[k]);
	}
	for (int k = from->n - 1; k >= 0; k--) {
		int64_t extent = bc_extent(n->c, tx, type_find(tx, from->a[k]));

		at[k] = k == 0 ? flat : divide(n, &flat, extent, true);
		if (k) flat = divide(n, &flat, extent, false);
	}
	for (int k = 0; k < from->n; k++)
		env_set(&inner, from->a[k], &at[k]);
	return in(n, op, 0, &inner);
}

static Ex
elem_slice(Nest *n, const Op *op, const Env *e)
{
	Axis axis = attr_axis(op, AK_axis);
	const Attr *to = attr_find(op, AK_to);
	Env inner = *e;
	Lin at = lin_const(attr_int(op, AK_start));

	if (to && to->axes.n) {
		lin_add(&at, env_at(e, to->axes.a[0]), attr_int(op, AK_step));
		env_drop(&inner, to->axes.a[0]);
	}
	env_set(&inner, axis, &at);
	return in(n, op, 0, &inner);
}

/* (condition) ? value : 0, where the value may not be looked at unless the condition holds. */
static Ex
guarded(Nest *n, const char *condition, uint32_t deps, const Op *op, int k, const Env *e)
{
	Ex x;

	n->cond++;
	x = in(n, op, k, e);
	n->cond--;
	return ex(cg_text(n->c->g->a, "%s ? %s : 0", condition, paren(n, x, P_logic)), P_cond,
		  x.deps | deps);
}

static Ex
elem_unslice(Nest *n, const Op *op, const Env *e)
{
	Axis axis = attr_axis(op, AK_axis);
	const Attr *from = attr_find(op, AK_from);
	int64_t start = attr_int(op, AK_start), step = attr_int(op, AK_step), extent;
	const Type *tx = bc_type(n->c, op->in[0]);
	const Lin at = *env_at(e, axis);
	Env inner = *e;
	Lin j = lin_const(0);
	const char *text, *condition;

	env_drop(&inner, axis);
	text = lin_alone(n, &at);
	if (!from || !from->axes.n)
		return guarded(n, cg_text(n->c->g->a, "%s == %" PRId64, text, start), at.deps,
			       op, 0, &inner);
	extent = bc_extent(n->c, tx, type_find(tx, from->axes.a[0]));
	if (step == 1 || step == -1) {
		lin_add(&j, &at, step);
		j.c -= start * step;
		condition = start == 0 && step == 1
				? cg_text(n->c->g->a, "%s < %" PRId64, text, extent)
				: cg_text(n->c->g->a, "%s >= %" PRId64 " && %s <= %" PRId64,
					  text, step > 0 ? start : start - extent + 1, text,
					  step > 0 ? start + extent - 1 : start);
	} else {
		int64_t lo = step > 0 ? start : start + step * (extent - 1),
			hi = step > 0 ? start + step * (extent - 1) : start;

		condition = cg_text(n->c->g->a,
				    "%s >= %" PRId64 " && %s <= %" PRId64 " && (%s - %" PRId64
				    ") %% %" PRId64 " == 0",
				    text, lo, text, hi, text, start, step < 0 ? -step : step);
		lin_term(&j,
			 cg_text(n->c->g->a, "((%s - %" PRId64 ") / %" PRId64 ")", text, start,
				 step),
			 1, at.deps);
	}
	env_set(&inner, from->axes.a[0], &j);
	return guarded(n, condition, at.deps, op, 0, &inner);
}

static Ex
elem_roll(Nest *n, const Op *op, const Env *e)
{
	Axis axis = attr_axis(op, AK_axis);
	const Type *t = bc_type(n->c, op->in[0]);
	int64_t extent = bc_extent(n->c, t, type_find(t, axis)),
		shift = attr_int(op, AK_shift) % extent;
	Lin at = *env_at(e, axis);
	Env inner = *e;

	at.c += shift < 0 ? shift + extent : shift;
	at = divide(n, &at, extent, true);
	env_set(&inner, axis, &at);
	return in(n, op, 0, &inner);
}

static Ex
elem_concat(Nest *n, const Op *op, const Env *e)
{
	const AxisList *from = attr_axes(op, AK_from);
	Axis to = attr_axes(op, AK_to)->a[0];
	const Type *tx = bc_type(n->c, op->in[0]);
	int64_t first = bc_extent(n->c, tx, type_find(tx, from->a[0]));
	Lin at = *env_at(e, to);
	const char *text = lin_alone(n, &at);
	Env inner = *e;
	Ex x, y;

	env_drop(&inner, to);
	n->cond++;
	env_set(&inner, from->a[0], &at);
	x = in(n, op, 0, &inner);
	env_drop(&inner, from->a[0]);
	at.c -= first;
	env_set(&inner, from->a[1], &at);
	y = in(n, op, 1, &inner);
	n->cond--;
	x = select_text(n, cg_text(n->c->g->a, "%s < %" PRId64, text, first), x, y);
	x.deps |= at.deps;
	return x;
}

/* What this rank has not is zero: the sum over the ranks that share the axis is what was asked for. */
static Ex
elem_gather(Nest *n, const Op *op, const Env *e)
{
	const AxisList *axes = attr_axes(op, AK_axes);
	const Type *table = bc_type(n->c, op->in[0]);
	Env inner = *e;
	uint32_t deps = 0;
	Buf inside;

	buf_init(&inside, n->c->g->a);
	for (int k = 0; k < axes->n; k++) {
		AxisUse u = table->ax[type_find(table, axes->a[k])];
		const char *start = bc_start(n->c, u, 0);
		Ex x = in(n, op, 1 + k, e);
		Lin at = lin_const(0);

		lin_term(&at, cg_text(n->c->g->a, "(int64_t)%s", paren(n, x, P_unary)), 1,
			 x.deps);
		if (start) {
			lin_term(&at, start, -1, 0);
			buf_printf(&inside, "%s(uint64_t)%s < %s", inside.n ? " && " : "",
				   lin_alone(n, &at), cg_size(n->c->g, n->c->mesh, u));
			deps |= x.deps;
		}
		env_set(&inner, axes->a[k], &at);
	}
	if (inside.n) return guarded(n, inside.s, deps, op, 0, &inner);
	return in(n, op, 0, &inner);
}

/* This rank's part along an axis; what would lie past the end is zero. */
static Ex
elem_part(Nest *n, const Op *op, const Env *e)
{
	Axis axis = attr_axis(op, AK_axis);
	const Type *tx = bc_type(n->c, op->in[0]), *ty = bc_type(n->c, op->out[0]);
	AxisUse whole = tx->ax[type_find(tx, axis)], part = ty->ax[type_find(ty, axis)];
	int64_t extent = bc_extent(n->c, tx, type_find(tx, axis)),
		of = bc_extent(n->c, ty, type_find(ty, axis));
	const char *start = bc_start(n->c, part, whole.nshard);
	Lin at = *env_at(e, axis);
	Env inner = *e;

	if (start) lin_term(&at, start, 1, 0);
	env_set(&inner, axis, &at);
	if (!start || of * ir_degree(n->c->mesh, (unsigned)attr_int(op, AK_over)) == extent)
		return in(n, op, 0, &inner);
	return guarded(n,
		       cg_text(n->c->g->a, "%s < %s", lin_alone(n, &at),
			       cg_size(n->c->g, n->c->mesh, whole)),
		       at.deps, op, 0, &inner);
}

/* Ops with no expression of one element are called or looped over by themselves. */
#define NONE(reason)        NULL
#define elem_scatter_add    NONE("its own loop: several elements meet in one")
#define elem_sum            NONE("a reduction: kernel.c")
#define elem_rmax           NONE("a reduction: kernel.c")
#define elem_rmin           NONE("a reduction: kernel.c")
#define elem_moments        NONE("a reduction: kernel.c")
#define elem_dot            NONE("contract.c")
#define elem_softmax        NONE("calls.c")
#define elem_normalize      NONE("gone since level graph")
#define elem_topk           NONE("calls.c")
#define elem_cross_entropy  NONE("calls.c")
#define elem_attention      NONE("attend.c")
#define elem_attention_grad NONE("attend.c")
#define elem_sumsq          NONE("calls.c")
#define elem_adamw          NONE("calls.c")
#define elem_sgd            NONE("calls.c")
#define elem_all_reduce     NONE("collective.c")
#define elem_all_gather     NONE("collective.c")
#define elem_reduce_scatter NONE("collective.c")
#define elem_all_to_all     NONE("collective.c")
#define elem_reshard        NONE("comm.c")

static ElemFn *const elem_host[OP_COUNT] = {
#define OP(code, ...) [OP_##code] = elem_##code,
#include "ir/ops.def"
};

/* ---- values ---- */

static Ex
load(Nest *n, Val v, const Access *x, const Env *e)
{
	const Type *t = bc_type(n->c, v), *base = bc_type(n->c, x->base);
	Lin at = nest_address(n, t, x->stride, x->offset, e);
	const char *p = bc_pointer(n->c, &(Access){.base = x->base});
	const char *place;
	Ex r;

	if (n->probe) return ex("?", P_atom, at.deps);
	place = index_text(n, &at, base, t);
	r = ex(cg_text(n->c->g->a, "%s[%s]", p, place), P_atom, at.deps);
	if (n->cond || (at.deps & n->inner) || n->inner == 0) return r;
	/* it does not change in the innermost loop */
	return ex(make_const(n, t->dt, scope_take(n->scope, cg_text(n->c->g->a, "%s_i", p)), r),
		  P_atom, r.deps);
}

/* A name for what is used twice or is long. */
static Ex
name_it(Nest *n, Val v, Ex x)
{
	bool in_row = (x.deps & n->inner) == 0;
	bool twice = n->uses && n->uses[n->pass][v.i] > 1;

	if (n->direct == v.i && !twice && !in_row && !n->row_buffer[v.i]) return x;
	if (x.prec == P_atom && (!twice || strlen(x.s) < 12)) return x;
	if (x.prec == P_unary && !strchr(x.s, '[') && strlen(x.s) < 12) return x;
	if (!twice && !in_row && strlen(x.s) < LONG && !n->row_buffer[v.i]) return x;
	x.s = make_const(n, bc_type(n->c, v)->dt, bc_elem(n->c, v), x);
	x.prec = P_atom;
	return x;
}

static Ex
compute(Nest *n, Val v, const Env *e, bool keep)
{
	const Op *op = val_op(n->c->b, v);
	Ex r;

	if (!op || !elem_host[op->code] || n->work++ > MAX_WORK || n->depth >= MAX_DEPTH) {
		nest_error(n,
			   !op || !elem_host[op->code]
			       ? "'%s' is read in a loop nest, but nothing there computes it"
			       : "'%s' takes too many operations to compute in one loop nest",
			   val_str(n->c->g->m, n->c->b, v));
		return ex("0", P_atom, 0);
	}
	n->depth += op_info[op->code].flags & OF_VIEW
			? 40
			: 1; /* a re-indexing keeps an Env on the stack */
	r = elem_host[op->code](n, op, e);
	n->depth -= op_info[op->code].flags & OF_VIEW ? 40 : 1;
	return keep && op->code != OP_const ? name_it(n, v, r) : r;
}

/* One element of v at the place e, in terms of what is in memory or has a name already. */
Ex
value_at(Nest *n, Val v, const Env *e)
{
	bool here = e == &n->id, keep = here && !n->cond && !n->probe;
	const Op *op = val_op(n->c->b, v);
	uint32_t deps = nest_mask(n, bc_type(n->c, v));
	Access x;
	Ex r;

	if (n->c->scalar_port[v.i]) return ex(n->c->val[v.i].name, P_atom, 0);
	if (here && n->row_memo[v.i]) return ex(n->row_memo[v.i], P_atom, deps);
	if (here && n->memo[v.i]) return ex(n->memo[v.i], P_atom, deps);
	if (n->probe && n->inside[v.i] && is_reduction(op)) return ex("?", P_atom, deps);
	if ((!n->inside[v.i] || n->stored[v.i]) && bc_access(n->c, v, &x)) {
		r = load(n, v, &x, e);
		if (keep && r.deps & n->inner && n->uses && n->uses[n->pass][v.i] > 1)
			r = ex(make_const(n, bc_type(n->c, v)->dt, bc_elem(n->c, v), r), P_atom,
			       r.deps);
	} else {
		r = compute(n, v, e, keep);
	}
	if (n->probe && here && !n->cond) n->memo[v.i] = "?"; /* seen */
	if (keep && op && op->code == OP_const) return r;
	if (keep && r.prec == P_atom) {
		if (r.deps & n->inner)
			n->memo[v.i] = r.s;
		else
			n->row_memo[v.i] = r.s;
	}
	return r;
}
