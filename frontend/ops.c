/*
 * ops.c - GDL's operations: one row of `builtins` each, with what they take, and how they become ops.
 * Elementwise arithmetic is in arith.c, attention in attention.c.
 */
#include "frontend/elab.h"

#include <math.h>
#include <string.h>

struct Builtin {
	const char *name;
	const char *sig; /* groups: "K,D"; "?A": may be left out; "": none */
	Formal formals[8];
	void (*run)(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out);
	OpCode op;
};

bool
need_axes(Elab *e, Frame *f, const Call *c, int arg, const char *verb, const AxisList *axes)
{
	Type t = type_of(e, c->arg[arg]);
	for (int i = 0; i < axes->n; i++) {
		if (type_find(&t, axes->a[i]) >= 0) continue;
		if (c->arg[arg].kind == V_number)
			fe_error(e, f, c->at, "'%s' %s '%s', but '%s' is a number",
				 str(e, c->name), verb, ir_axis_str(e->m, axes->a[i]),
				 text_of(e, f, c->arg_at[arg]));
		else
			fe_error(e, f, c->at, "'%s' %s '%s', which '%s' has not: %s",
				 str(e, c->name), verb, ir_axis_str(e->m, axes->a[i]),
				 text_of(e, f, c->arg_at[arg]), type_axes_text(e, &t));
		return false;
	}
	return true;
}

static bool
one_axis(Elab *e, Frame *f, const Call *c, int group, Axis *out)
{
	*out = c->group[group].a[0];
	if (c->group[group].n == 1) return true;
	fe_error(e, f, c->at, "'%s' takes one axis here, not %d: '%s'", str(e, c->name),
		 c->group[group].n, axes_text(e, &c->group[group]));
	return false;
}

static bool
tensors(Elab *e, Frame *f, Call *c, int first, int count)
{
	for (int i = first; i < first + count; i++)
		if (!in_body(e, f, c->arg_at[i], &c->arg[i])) return false;
	return true;
}

static void
one(Values *out, Value v)
{
	out->n = 1;
	out->v[0] = v;
}

static void
run_unary(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	one(out, elementwise1(e, f, c->at, b->op, c->arg[0]));
}

static void
run_minmax(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	Value x = c->arg[0], y = c->arg[1];
	if (x.kind == V_number && y.kind == V_number && !x.is_bool && !y.is_bool)
		one(out, number(b->op == OP_min ? fmin(x.num, y.num) : fmax(x.num, y.num)));
	else
		one(out, elementwise2(e, f, c->at, b->name, b->op, x, y));
}

static void
run_where(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	Value cond = c->arg[0], x = c->arg[1], y = c->arg[2], in[3] = {cond, x, y}, r;
	(void)b;
	if (cond.kind == V_number && x.kind == V_number && y.kind == V_number &&
	    x.is_bool == y.is_bool) {
		one(out, cond.num != 0 ? x : y);
		return;
	}
	if (!tensors(e, f, c, 0, 3)) return;
	Class cx = class_of(e, x), cy = class_of(e, y);
	if (class_of(e, cond) != C_bool || (cx == C_bool) != (cy == C_bool)) {
		fe_error(
		    e, f, c->at,
		    "'where' chooses by a bool between alike things, but has %s, %s and %s",
		    class_text(e, cond), class_text(e, x), class_text(e, y));
		return;
	}
	DType dt = cx == C_bool                 ? DT_bool
		   : cx == C_int && cy == C_int ? DT_i32
						: float_type(e, in + 1, 2);
	in[1] = cast(e, f, c->at, x, dt);
	in[2] = cast(e, f, c->at, y, dt);
	if (!emit(e, f, c->at, &(EmitArgs){.code = OP_where, .in = in, .nin = 3}, &r, 1))
		return;
	set_bounds(&r, fmin(x.lo, y.lo), fmax(x.hi, y.hi));
	if (x.range.i == y.range.i) r.range = x.range;
	one(out, r);
}

static void
run_convert(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	Value x = c->arg[0];
	char to = b->name[0];
	if (x.kind == V_number) {
		one(out, number(to == 'i' ? trunc(x.num) : x.num));
		return;
	}
	if (!tensors(e, f, c, 0, 1)) return;
	Class cl = class_of(e, x);
	if (to == 'i' && cl == C_int) {
		one(out, x);
		return;
	}
	DType dt = to == 'i' ? DT_i32 : !strcmp(b->name, "f32") ? e->high : e->model;
	if (!strcmp(b->name, "bf16") && e->model != DT_f64 && !e->opt->host) dt = DT_bf16;
	if (x.kind == V_const && to != 'i' && to != 'b') dt = e->high;
	one(out, check_int(e, f, c->at, cast(e, f, c->at, x, dt)));
}

static void
run_stop(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	Value x = c->arg[0];
	(void)b;
	if (x.kind == V_number || x.kind == V_const) {
		one(out, x);
		return;
	}
	Value r = emit1(e, f, c->at, OP_stop, x);
	if (r.kind != V_poison) {
		r.range = x.range;
		set_bounds(&r, x.lo, x.hi);
	}
	one(out, r);
}

static void
run_pos(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	Axis a;
	Value r;
	(void)b;
	if (!one_axis(e, f, c, 0, &a)) return;
	Attr axis = attr_make_axis(AK_axis, a);
	if (!emit(e, f, c->at, &(EmitArgs){.code = OP_pos, .attrs = &axis, .nattr = 1}, &r, 1))
		return;
	r.range = a;
	set_bounds(&r, 0, (double)ir_extent(e->m, a) - 1);
	one(out, r);
}

/* sum, mean, max, min over axes. A mean is a sum divided by the number of elements of the whole tensor. */
static void
run_reduce(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	bool mean = !strcmp(b->name, "mean");
	double n = 1;
	Value r;
	if (!tensors(e, f, c, 0, 1) || !need_axes(e, f, c, 0, "acts over axis", &c->group[0]))
		return;
	Value x = c->arg[0];
	if (!needs_numbers(e, f, c->at, b->name, x)) return;
	for (int i = 0; i < c->group[0].n; i++)
		n *= (double)ir_extent(e->m, c->group[0].a[i]);
	Attr axes = attr_make_axes(AK_axes, &c->group[0]);
	if (mean) x = cast(e, f, c->at, x, float_type(e, &x, 1));
	if (!emit(e, f, c->at,
		  &(EmitArgs){.code = b->op, .in = &x, .nin = 1, .attrs = &axes, .nattr = 1},
		  &r, 1))
		return;
	if (b->op == OP_sum)
		bound_corners(&r, x.lo * n, x.hi * n, x.lo * n, x.hi * n);
	else
		set_bounds(&r, x.lo, x.hi);
	one(out, mean ? arithmetic(e, f, c->at, N_mul, r, number(1 / n))
		      : check_int(e, f, c->at, r));
}

/* In which a dot is computed: the model's precision, unless all its arguments are better. */
static DType
dot_type(const Elab *e, const Value *v, int n)
{
	DType worst = DT_none, best = float_type(e, v, n);
	for (int i = 0; i < n; i++) {
		if (v[i].kind != V_tensor) continue;
		DType dt = type_of(e, v[i]).dt;
		if (dtype_float(dt) && (!worst || dt < worst)) worst = dt;
	}
	return worst ? worst : best;
}

static bool
floats(Elab *e, Frame *f, Call *c, int n)
{
	if (!tensors(e, f, c, 0, n)) return false;
	for (int i = 0; i < n; i++)
		if (!needs_numbers(e, f, c->arg_at[i], str(e, c->name), c->arg[i]))
			return false;
	return true;
}

static void
run_dot(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	Value r;
	(void)b;
	if (!floats(e, f, c, 2)) return;
	if (!need_axes(e, f, c, 0, "sums over", &c->group[0]) ||
	    !need_axes(e, f, c, 1, "sums over", &c->group[0]))
		return;
	Attr axes = attr_make_axes(AK_axes, &c->group[0]);
	EmitArgs a = {.code = OP_dot,
		      .in = c->arg,
		      .nin = 2,
		      .attrs = &axes,
		      .nattr = 1,
		      .dt = dot_type(e, c->arg, 2),
		      .ncast = 2};
	if (emit(e, f, c->at, &a, &r, 1)) one(out, r);
}

static void
run_softmax(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	Value r;
	if (!floats(e, f, c, 1) || !need_axes(e, f, c, 0, "acts over axis", &c->group[0]))
		return;
	Attr attrs[3] = {attr_make_axes(AK_axes, &c->group[0])};
	int n = 1;
	if (b->op == OP_normalize) {
		double eps, center;
		if (!any_number(e, f, c->arg_at[1], c->arg[1], "'eps'", &eps)) return;
		if (!any_number(e, f, c->arg_at[2], c->arg[2], "'center'", &center)) return;
		if (eps < 0) {
			fe_error(e, f, c->arg_at[1], "'eps' is at least 0, but this is %s",
				 num_text(e, eps));
			return;
		}
		attrs[n++] = attr_make_num(AK_eps, eps);
		attrs[n++] = attr_make_int(AK_center, center != 0);
	}
	EmitArgs a = {.code = b->op,
		      .in = c->arg,
		      .nin = 1,
		      .attrs = attrs,
		      .nattr = n,
		      .dt = float_type(e, c->arg, 1),
		      .ncast = 1};
	if (!emit(e, f, c->at, &a, &r, 1)) return;
	if (b->op == OP_softmax) set_bounds(&r, 0, 1);
	one(out, r);
}

bool
rate_number(Elab *e, Frame *f, Span at, Value v, double *out)
{
	if (!any_number(e, f, at, v, "a rate", out)) return false;
	if (!v.is_bool && *out >= 0 && *out < 1) return true;
	fe_error(e, f, at, "a dropout rate is at least 0 and less than 1, this is %s",
		 v.is_bool ? "a bool" : num_text(e, *out));
	return false;
}

/* A rate is no part of the body, so that layers which differ in rates only are of one type. */
uint32_t
rate_slot(Elab *e, double rate)
{
	PUSH(e->arena, e->rates, e->nrates, e->crates, rate);
	return e->nrates - 1;
}

static void
run_dropout(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	double rate;
	Value r;
	(void)b;
	if (!floats(e, f, c, 1) || !rate_number(e, f, c->arg_at[1], c->arg[1], &rate)) return;
	Value x = c->arg[0];
	x = cast(e, f, c->at, x, float_type(e, &x, 1));
	if (x.kind == V_poison) return;
	Type t = type_of(e, x);
	AxisList axes = c->ngroups ? c->group[0] : axes_of(&t);
	if (!need_axes(e, f, c, 0, "draws along", &axes)) return;
	uint32_t slot = e->body_open ? rate_slot(e, rate) : 0;
	Attr attrs[3] = {attr_make_axes(AK_axes, &axes), attr_make_int(AK_rate, slot),
			 attr_make_int(AK_key, slot)};
	EmitArgs a = {
	    .code = OP_dropout, .in = &x, .nin = 1, .attrs = attrs, .nattr = 3, .here = true};
	if (emit(e, f, c->at, &a, &r, 1)) one(out, r);
}

static void
run_topk(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	Axis from, to;
	Value r[2];
	if (!floats(e, f, c, 1) || !one_axis(e, f, c, 0, &from) || !one_axis(e, f, c, 1, &to))
		return;
	if (!need_axes(e, f, c, 0, "looks along", &c->group[0])) return;
	if (ir_extent(e->m, to) > ir_extent(e->m, from)) {
		fe_error(e, f, c->at, "'%s' takes %lld of '%s', which has %lld", b->name,
			 (long long)ir_extent(e->m, to), ir_axis_str(e->m, from),
			 (long long)ir_extent(e->m, from));
		return;
	}
	Attr attrs[2] = {attr_make_axis(AK_axis, from), attr_make_axes(AK_to, &c->group[1])};
	EmitArgs a = {.code = OP_topk, .in = c->arg, .nin = 1, .attrs = attrs, .nattr = 2};
	if (!emit(e, f, c->at, &a, r, 2)) return;
	set_bounds(&r[0], c->arg[0].lo, c->arg[0].hi);
	r[1].range = from;
	set_bounds(&r[1], 0, (double)ir_extent(e->m, from) - 1);
	out->n = 2;
	out->v[0] = r[0];
	out->v[1] = r[1];
}

static void
run_concat(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	Axis x, y, z;
	Value r;
	(void)b;
	if (!tensors(e, f, c, 0, 2)) return;
	if (!one_axis(e, f, c, 0, &x) || !one_axis(e, f, c, 1, &y) || !one_axis(e, f, c, 2, &z))
		return;
	if (!need_axes(e, f, c, 0, "goes along", &c->group[0]) ||
	    !need_axes(e, f, c, 1, "goes along", &c->group[1]))
		return;
	int64_t nx = ir_extent(e->m, x), ny = ir_extent(e->m, y), nz = ir_extent(e->m, z);
	if (nx + ny != nz) {
		fe_error(e, f, c->at,
			 "'%s' and '%s' together are %lld + %lld = %lld, but '%s' is %lld",
			 ir_axis_str(e->m, x), ir_axis_str(e->m, y), (long long)nx,
			 (long long)ny, (long long)(nx + ny), ir_axis_str(e->m, z),
			 (long long)nz);
		return;
	}
	Class cx = class_of(e, c->arg[0]), cy = class_of(e, c->arg[1]);
	if ((cx == C_bool) != (cy == C_bool)) {
		fe_error(e, f, c->at, "'concat' joins alike things, but has %s and %s",
			 class_text(e, c->arg[0]), class_text(e, c->arg[1]));
		return;
	}
	DType dt = cx == C_bool                 ? DT_bool
		   : cx == C_int && cy == C_int ? DT_i32
						: float_type(e, c->arg, 2);
	AxisList from = {2, {x, y}};
	Attr attrs[2] = {attr_make_axes(AK_from, &from), attr_make_axes(AK_to, &c->group[2])};
	EmitArgs a = {.code = OP_concat,
		      .in = c->arg,
		      .nin = 2,
		      .attrs = attrs,
		      .nattr = 2,
		      .dt = dt,
		      .ncast = 2};
	if (!emit(e, f, c->at, &a, &r, 1)) return;
	set_bounds(&r, fmin(c->arg[0].lo, c->arg[1].lo), fmax(c->arg[0].hi, c->arg[1].hi));
	one(out, r);
}

/* The label is of type `index a`, or an int that is proven to lie in a; it has not the axis itself. */
static bool
check_label(Elab *e, Frame *f, const Call *c, Axis a)
{
	Value label = c->arg[1];
	Type t = type_of(e, label);
	const char *name = ir_axis_str(e->m, a);
	bool fits = label.range.i == a.i ||
		    (label.lo >= 0 && label.hi <= (double)ir_extent(e->m, a) - 1);
	if (class_of(e, label) == C_int && fits) {
		if (type_find(&t, a) < 0) return true;
		fe_error(e, f, c->arg_at[1], "the label has the axis '%s' itself: %s", name,
			 type_axes_text(e, &t));
	} else if (label.range.i) {
		fe_error(
		    e, f, c->arg_at[1],
		    "'cross_entropy' looks along '%s', but its label is of type 'index %s'",
		    name, ir_axis_str(e->m, label.range));
	} else {
		fe_error(
		    e, f, c->arg_at[1],
		    "'cross_entropy' looks along '%s': its label must be of type 'index %s'",
		    name, name);
	}
	return false;
}

static void
run_cross_entropy(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	Axis a;
	Value r;
	(void)b;
	if (!tensors(e, f, c, 0, 2) || !one_axis(e, f, c, 0, &a)) return;
	if (!need_axes(e, f, c, 0, "looks along", &c->group[0])) return;
	if (!needs_numbers(e, f, c->arg_at[0], "cross_entropy", c->arg[0])) return;
	if (!check_label(e, f, c, a)) return;
	Value in[2] = {cast(e, f, c->at, c->arg[0], float_type(e, c->arg, 1)), c->arg[1]};
	Attr axis = attr_make_axis(AK_axis, a);
	EmitArgs args = {
	    .code = OP_cross_entropy, .in = in, .nin = 2, .attrs = &axis, .nattr = 1};
	if (emit(e, f, c->at, &args, &r, 1)) one(out, r);
}

static void
run_init(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	double x = 0, y = 0;
	bool normal = !strcmp(b->name, "normal");
	if (!any_number(e, f, c->arg_at[0], c->arg[0], normal ? "'std'" : "'low'", &x)) return;
	if (!normal && !any_number(e, f, c->arg_at[1], c->arg[1], "'high'", &y)) return;
	if (normal ? x < 0 : x > y) {
		if (normal)
			fe_error(e, f, c->at, "'normal' with a standard deviation of %s",
				 num_text(e, x));
		else
			fe_error(e, f, c->at, "'uniform' from %s to %s", num_text(e, x),
				 num_text(e, y));
		return;
	}
	one(out, make_init(normal ? INIT_normal : INIT_uniform, x, y));
}

static void
run_attention(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	(void)b;
	op_attention(e, f, c, out);
}

/* clang-format off */
#define ARG(n)    {.name = n}
#define NUM(n, x) {.name = n, .kind = F_number, .value = x}
#define BOOL(n)   {.name = n, .kind = F_bool, .value = 1}
#define MAYBE(n)  {.name = n, .kind = F_computed}
#define UNARY(n)  {.name = #n, .sig = "", .formals = {ARG("x")}, .run = run_unary, .op = OP_##n}
static const Builtin builtins[] = {
    UNARY(exp), UNARY(log), UNARY(sqrt), UNARY(sin), UNARY(cos), UNARY(tanh), UNARY(erf), UNARY(sigmoid), UNARY(relu), UNARY(abs),
    {"min", "", {ARG("x"), ARG("y")}, run_minmax, OP_min},
    {"max", "", {ARG("x"), ARG("y")}, run_minmax, OP_max},
    {"min", "A", {ARG("x")}, run_reduce, OP_rmin},
    {"max", "A", {ARG("x")}, run_reduce, OP_rmax},
    {"sum", "A", {ARG("x")}, run_reduce, OP_sum},
    {"mean", "A", {ARG("x")}, run_reduce, OP_sum},
    {"where", "", {ARG("c"), ARG("x"), ARG("y")}, run_where, OP_where},
    {"float", "", {ARG("x")}, run_convert, OP_cast},
    {"int", "", {ARG("x")}, run_convert, OP_cast},
    {"f32", "", {ARG("x")}, run_convert, OP_cast},
    {"bf16", "", {ARG("x")}, run_convert, OP_cast},
    {"stop", "", {ARG("x")}, run_stop, OP_stop},
    {"pos", "a", {{.name = NULL}}, run_pos, OP_pos},
    {"dot", "A", {ARG("x"), ARG("y")}, run_dot, OP_dot},
    {"softmax", "A", {ARG("x")}, run_softmax, OP_softmax},
    {"normalize", "A", {ARG("x"), NUM("eps", 1e-5), BOOL("center")}, run_softmax, OP_normalize},
    {"dropout", "?A", {ARG("x"), ARG("rate")}, run_dropout, OP_dropout},
    {"topk", "a>k", {ARG("x")}, run_topk, OP_topk},
    {"concat", "a,b>c", {ARG("x"), ARG("y")}, run_concat, OP_concat},
    {"cross_entropy", "a", {ARG("x"), ARG("label")}, run_cross_entropy, OP_cross_entropy},
    {"attention", "K,D",
        {ARG("q"), ARG("k"), ARG("v"), BOOL("mask"), NUM("bias", 0), MAYBE("scale"), NUM("cap", 0), MAYBE("drop")},
        run_attention, OP_attention},
    {"normal", "", {ARG("std")}, run_init, OP_none},
    {"uniform", "", {ARG("low"), ARG("high")}, run_init, OP_none},
};
/* clang-format on */

const Builtin *
builtin_find(const char *name)
{
	for (size_t i = 0; i < COUNTOF(builtins); i++)
		if (!strcmp(builtins[i].name, name)) return &builtins[i];
	return NULL;
}

uint32_t
builtin_names(const char **names, uint32_t max)
{
	uint32_t n = 0;
	for (size_t i = 0; i < COUNTOF(builtins) && n < max; i++)
		names[n++] = builtins[i].name;
	return n;
}

void
builtin_call(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out)
{
	int n = 0;
	one(out, poison());
	if (c->subs && !*b->sig && b + 1 < builtins + COUNTOF(builtins)) {
		for (const Builtin *o = b + 1; o < builtins + COUNTOF(builtins);
		     o++) /* max[a](x) beside max(x, y) */
			if (!strcmp(o->name, b->name)) b = o;
	}
	if (c->tail) {
		fe_error(e, f, c->tail->at, "'%s' has no parameters to %s", b->name,
			 c->tail->name ? "multiply" : "name");
		return;
	}
	if (!match_groups(e, f, c, b->sig, b->name)) return;
	while (n < (int)COUNTOF(b->formals) && b->formals[n].name)
		n++;
	if (!bind_formals(e, f, c, b->formals, n)) return;
	for (int i = 0; i < n; i++)
		if (c->arg[i].kind == V_poison &&
		    !(b->formals[i].kind == F_computed && !c->arg_node[i]))
			return;
	b->run(e, f, c, b, out);
}
