/*
 * eval_ops.c - the interpreter's kernels: constants, elementwise ops, re-indexing, communication; and the table of all.
 *
 * Input: a Call with dense tensors of double. Output: unrounded results, each element by the definition in README.md.
 * Invariant: axes are matched by name; the physical order of an operand is nothing but its strides.
 */
#include "ir/eval.h"

#include <math.h>
#include <string.h>

EvalKernel *const eval_kernel[OP_COUNT] = {
#define OP(code, ...) [OP_##code] = eval_##code,
#include "ir/ops.def"
};

void
eval_fail(Call *c, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (c->failed) return;
	c->failed = true;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	diag_error(c->diag, c->op->loc, "'%s': %s", op_info[c->op->code].text, text);
}

/* ---- tensors ---- */

static int64_t
ceil_div(int64_t a, int64_t b)
{
	return b > 0 ? (a + b - 1) / b : a;
}

Tensor
eval_tensor(const Module *m, const Mesh *mesh, const uint32_t *coord, const Type *t)
{
	Tensor x = {.t = *t, .n = 1};

	for (int k = t->n - 1; k >= 0; k--) {
		int64_t full = ir_extent(m, t->ax[k].a), block = full, lo = 0, hi = full;
		for (int s = 0; mesh && s < t->ax[k].nshard; s++) {
			int a = t->ax[k].shard[s];
			block = ceil_div(block, (int64_t)mesh->ax[a].degree);
			lo += block * (int64_t)coord[a];
			if (lo + block < hi) hi = lo + block;
		}
		x.full[k] = full;
		x.ext[k] = block;
		x.start[k] = lo;
		x.end[k] = hi > lo ? hi : lo;
		x.stride[k] = x.n;
		x.n *= block;
	}
	x.hi = x.n;
	return x;
}

int64_t
eval_valid(const Tensor *t)
{
	int64_t n = 1;

	for (int k = 0; k < t->t.n; k++)
		n *= t->end[k] - t->start[k];
	return n;
}

int64_t
eval_overlap(Tensor *dst, const Tensor *src, bool add)
{
	Walk w = {0};

	if (!type_same_axes(&dst->t, &src->t)) return -1;
	for (int k = 0; k < dst->t.n; k++) {
		int j = type_find(&src->t, dst->t.ax[k].a);
		int64_t lo = dst->start[k] > src->start[j] ? dst->start[k] : src->start[j];
		int64_t hi = dst->end[k] < src->end[j] ? dst->end[k] : src->end[j];
		if (hi <= lo) return 0;
		walk_push(&w, dst->t.ax[k].a, hi - lo);
		w.at[0] += (lo - dst->start[k]) * dst->stride[k];
		w.at[1] += (lo - src->start[j]) * src->stride[j];
	}
	walk_over(&w, 0, dst, NULL);
	walk_over(&w, 1, src, NULL);
	while (walk_next(&w))
		for (int64_t i = 0; i < w.len; i++) {
			double *to = &dst->x[w.at[0] + i * w.by[0]],
			       from = src->x[w.at[1] + i * w.by[1]];
			*to = add ? *to + from : from;
		}
	return walk_count(&w);
}

/* To nearest even, as hardware does it. */
static double
round_bf16(double x)
{
	float f = (float)x;
	uint32_t bits;

	if (isnan(f)) return f;
	memcpy(&bits, &f, sizeof bits);
	bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000;
	memcpy(&f, &bits, sizeof f);
	return f;
}

double
eval_round(DType dt, bool wide, double x)
{
	switch (dt) {
	case DT_bool: return x != 0;
	case DT_i32: return fabs(x) < 0x1p62 ? (double)(int32_t)(uint32_t)(int64_t)x : 0;
	case DT_bf16: return wide ? x : round_bf16(x);
	case DT_f32: return wide ? x : (double)(float)x;
	default: return x;
	}
}

/* ---- walks ---- */

void
walk_push(Walk *w, Axis a, int64_t extent)
{
	ENSURE(w->n < WALK_AXES, "an index space of more than %d axes", WALK_AXES);
	w->axis[w->n] = a;
	w->ext[w->n++] = extent;
}

static int
walk_find(const Walk *w, Axis a)
{
	for (int k = 0; k < w->n; k++)
		if (w->axis[k].i == a.i) return k;
	return -1;
}

void
walk_axes(Walk *w, const Tensor *t, const AxisList *skip)
{
	for (int k = 0; k < t->t.n; k++) {
		Axis a = t->t.ax[k].a;
		if (walk_find(w, a) < 0 && !(skip && axes_has(skip, a)))
			walk_push(w, a, t->ext[k]);
	}
}

void
walk_stride(Walk *w, int k, Axis a, int64_t stride)
{
	int i = walk_find(w, a);

	ENSURE(i >= 0, "no such axis in the walk");
	w->stride[i][k] = stride;
}

void
walk_over(Walk *w, int k, const Tensor *t, const AxisList *skip)
{
	for (int i = 0; i < w->n; i++) {
		int j = skip && axes_has(skip, w->axis[i]) ? -1 : type_find(&t->t, w->axis[i]);
		if (j >= 0) w->stride[i][k] = t->stride[j];
	}
}

bool
walk_next(Walk *w)
{
	int inner = w->n - 1;

	if (!w->begun) {
		w->begun = true;
		w->len = inner >= 0 ? w->ext[inner] : 1;
		for (int k = 0; inner >= 0 && k < WALK_MAX; k++)
			w->by[k] = w->stride[inner][k];
		return walk_count(w) > 0;
	}
	for (int i = inner - 1; i >= 0; i--) {
		for (int k = 0; k < WALK_MAX; k++)
			w->at[k] += w->stride[i][k];
		if (++w->idx[i] < w->ext[i]) return true;
		for (int k = 0; k < WALK_MAX; k++)
			w->at[k] -= w->stride[i][k] * w->ext[i];
		w->idx[i] = 0;
	}
	return false;
}

int64_t
walk_count(const Walk *w)
{
	int64_t n = 1;

	for (int i = 0; i < w->n; i++)
		n *= w->ext[i];
	return n;
}

/* ---- constants ---- */

void
eval_const(Call *c)
{
	c->out[0].x[0] = attr_num(c->op, AK_value);
}

/* Global positions, also on a shard. */
void
eval_pos(Call *c)
{
	Tensor *y = &c->out[0];

	for (int64_t i = 0; i < y->n; i++)
		y->x[i] = (double)(y->start[0] + i);
}

void
eval_inside(Call *c)
{
	Tensor *y = &c->out[0];

	for (int64_t i = 0; i < y->n; i++)
		y->x[i] = y->start[0] + i < y->end[0];
}

/* ---- elementwise ---- */

static void
unary(Call *c, double (*f)(double))
{
	double *y = c->out[0].x;
	const double *x = c->in[0].x;
	Walk w = {0};

	walk_axes(&w, &c->out[0], NULL);
	walk_over(&w, 0, &c->out[0], NULL);
	walk_over(&w, 1, &c->in[0], NULL);
	while (walk_next(&w))
		for (int64_t i = 0; i < w.len; i++)
			y[w.at[0] + i * w.by[0]] = f(x[w.at[1] + i * w.by[1]]);
}

static void
binary(Call *c, double (*f)(double, double))
{
	double *out = c->out[0].x;
	const double *x = c->in[0].x, *y = c->in[1].x;
	Walk w = {0};

	walk_axes(&w, &c->out[0], NULL);
	walk_over(&w, 0, &c->out[0], NULL);
	walk_over(&w, 1, &c->in[0], NULL);
	walk_over(&w, 2, &c->in[1], NULL);
	while (walk_next(&w))
		for (int64_t i = 0; i < w.len; i++)
			out[w.at[0] + i * w.by[0]] =
			    f(x[w.at[1] + i * w.by[1]], y[w.at[2] + i * w.by[2]]);
}

/* A NaN operand gives NaN wherever a choice is made, so that poison is never hidden. */
#define UNARY(name, value)               \
	static double f_##name(double x) \
	{                                \
		return value;            \
	}                                \
	void eval_##name(Call *c)        \
	{                                \
		unary(c, f_##name);      \
	}
#define BINARY(name, value)                        \
	static double f_##name(double x, double y) \
	{                                          \
		return value;                      \
	}                                          \
	void eval_##name(Call *c)                  \
	{                                          \
		binary(c, f_##name);               \
	}

UNARY(neg, -x)
UNARY(exp, exp(x))
UNARY(log, log(x))
UNARY(sqrt, sqrt(x))
UNARY(sin, sin(x))
UNARY(cos, cos(x))
UNARY(tanh, tanh(x))
UNARY(erf, erf(x))
UNARY(sigmoid, 1 / (1 + exp(-x)))
UNARY(relu, x < 0 ? 0 : x)
UNARY(abs, fabs(x))
UNARY(not, x == 0)
UNARY(stop, x)
UNARY(copy, x)
UNARY(broadcast, x) /* strides do it */

BINARY(add, x + y)
BINARY(sub, x - y)
BINARY(mul, x *y)
BINARY(div, x / y)
BINARY(pow, pow(x, y))
BINARY(min, x < y || isnan(x) ? x : y)
BINARY(max, x > y || isnan(x) ? x : y)
BINARY(lt, x < y)
BINARY(le, x <= y)
BINARY(eq, x == y)
BINARY(ne, x != y)
BINARY(and, x != 0 && y != 0)
BINARY(or, x != 0 || y != 0)

/* The quotient is rounded to the type before it is rounded down, as programs do it. */
static double
quotient(const Call *c, double x, double y)
{
	DType dt = c->out[0].t.dt;

	if (dt == DT_i32) return y != 0 ? floor(x / y) : 0;
	return floor(eval_round(dt, c->wide, x / y));
}

/* floordiv, or mod: what floordiv leaves. */
static void
divide_down(Call *c, bool rest)
{
	const double *x = c->in[0].x, *y = c->in[1].x;
	Walk w = {0};

	walk_axes(&w, &c->out[0], NULL);
	walk_over(&w, 0, &c->out[0], NULL);
	walk_over(&w, 1, &c->in[0], NULL);
	walk_over(&w, 2, &c->in[1], NULL);
	while (walk_next(&w))
		for (int64_t i = 0; i < w.len; i++) {
			double a = x[w.at[1] + i * w.by[1]], b = y[w.at[2] + i * w.by[2]],
			       q = quotient(c, a, b);
			c->out[0].x[w.at[0] + i * w.by[0]] = rest ? a - b * q : q;
		}
}

void
eval_floordiv(Call *c)
{
	divide_down(c, false);
}

void
eval_mod(Call *c)
{
	divide_down(c, true);
}

void
eval_cast(Call *c)
{
	unary(c, c->out[0].t.dt == DT_i32 ? trunc : f_copy);
}

void
eval_where(Call *c)
{
	Walk w = {0};

	walk_axes(&w, &c->out[0], NULL);
	walk_over(&w, 0, &c->out[0], NULL);
	for (int k = 0; k < 3; k++)
		walk_over(&w, 1 + k, &c->in[k], NULL);
	while (walk_next(&w))
		for (int64_t i = 0; i < w.len; i++) {
			int k = c->in[0].x[w.at[1] + i * w.by[1]] != 0 ? 1 : 2;
			c->out[0].x[w.at[0] + i * w.by[0]] =
			    c->in[k].x[w.at[1 + k] + i * w.by[1 + k]];
		}
}

double
eval_drop(const Call *c, uint64_t place)
{
	if (c->rate <= 0) return 1;
	if (rng_bits(c->key, c->step, place) < c->rate * 4294967296.0) return 0;
	return 1 / (1 - c->rate);
}

/* One draw per global index of `axes`, row-major in the listed order. */
void
eval_dropout(Call *c)
{
	const AxisList *axes = attr_axes(c->op, AK_axes);
	const Tensor *x = &c->in[0];
	Tensor *y = &c->out[0];
	Walk w = {0};
	int64_t place = 1;

	walk_axes(&w, y, NULL);
	walk_over(&w, 0, y, NULL);
	walk_over(&w, 1, x, NULL);
	for (int i = axes->n - 1; i >= 0;
	     i--) { /* operand 2 of the walk is the logical place */
		int k = type_find(&y->t, axes->a[i]);
		walk_stride(&w, 2, axes->a[i], place);
		w.at[2] += y->start[k] * place;
		place *= y->full[k];
	}
	while (walk_next(&w))
		for (int64_t i = 0; i < w.len; i++)
			y->x[w.at[0] + i * w.by[0]] =
			    x->x[w.at[1] + i * w.by[1]] *
			    eval_drop(c, (uint64_t)(w.at[2] + i * w.by[2]));
}

/* ---- re-indexing ---- */

/* y[place 0 of the walk] = x[place 1], as set up so far; axes of the walk both have are matched. */
static void
move(Walk *w, Tensor *y, const Tensor *x)
{
	while (walk_next(w))
		for (int64_t i = 0; i < w->len; i++)
			y->x[w->at[0] + i * w->by[0]] = x->x[w->at[1] + i * w->by[1]];
}

static int64_t
stride_of(const Tensor *t, Axis a)
{
	int k = type_find(&t->t, a);

	return k >= 0 ? t->stride[k] : 0;
}

static int64_t
extent_of(const Tensor *t, Axis a)
{
	int k = type_find(&t->t, a);

	return k >= 0 ? t->ext[k] : 1;
}

/* Walks the finer side of the regrouping: its axes count off the coarse axis, the last one fastest. */
void
eval_view(Call *c)
{
	const AxisList *from = attr_axes(c->op, AK_from), *to = attr_axes(c->op, AK_to);
	Tensor *x = &c->in[0], *y = &c->out[0];
	bool split = from->n == 1;
	const Tensor *fine = split ? y : x, *coarse = split ? x : y;
	const AxisList *many = split ? to : from;
	Axis one = split ? from->a[0] : to->a[0];
	int kf = split ? 0 : 1, kc = 1 - kf;
	int64_t unit = stride_of(coarse, one), inside = 1;
	Walk w = {0};

	walk_axes(&w, fine, NULL);
	walk_over(&w, kf, fine, NULL);
	walk_over(&w, kc, coarse, many); /* an axis made may bear the name of one that goes */
	for (int i = many->n - 1; i >= 0; i--) {
		walk_stride(&w, kc, many->a[i], unit * inside);
		inside *= extent_of(fine, many->a[i]);
	}
	if (inside != extent_of(coarse, one)) {
		eval_fail(c, "%lld entries cannot be viewed as %lld",
			  (long long)extent_of(x, one), (long long)inside);
		return;
	}
	move(&w, y, x);
}

/* slice and unslice: `whole` at start + step j, `part` at j; the walk is over part. */
static void
cut(Call *c, int kw, Tensor *whole, Tensor *part, AttrKey key)
{
	Axis axis = attr_axis(c->op, AK_axis);
	const AxisList *made = attr_find(c->op, key) ? attr_axes(c->op, key) : NULL;
	int64_t start = attr_int(c->op, AK_start), step = attr_int(c->op, AK_step);
	int64_t unit = stride_of(whole, axis), n = made ? extent_of(part, made->a[0]) : 1;
	int64_t last = start + (n - 1) * step;
	AxisList gone = {.n = 1, .a = {axis}};
	Walk w = {0};

	if (start < 0 || last < 0 || start >= extent_of(whole, axis) ||
	    last >= extent_of(whole, axis)) {
		eval_fail(c, "positions %lld to %lld of an axis of %lld", (long long)start,
			  (long long)last, (long long)extent_of(whole, axis));
		return;
	}
	walk_axes(&w, part, NULL);
	walk_over(&w, 1 - kw, part, NULL);
	walk_over(&w, kw, whole, &gone);
	if (made) walk_stride(&w, kw, made->a[0], unit * step);
	w.at[kw] = unit * start;
	move(&w, &c->out[0], &c->in[0]);
}

void
eval_slice(Call *c)
{
	cut(c, 1, &c->in[0], &c->out[0], AK_to);
}

void
eval_unslice(Call *c)
{
	cut(c, 0, &c->out[0], &c->in[0], AK_from);
}

void
eval_roll(Call *c)
{
	Axis axis = attr_axis(c->op, AK_axis);
	Tensor *x = &c->in[0], *y = &c->out[0];
	int64_t n = extent_of(x, axis), shift = n ? attr_int(c->op, AK_shift) % n : 0;
	AxisList skip = {.n = 1, .a = {axis}};

	if (shift < 0) shift += n;
	for (int64_t i = 0; i < n; i++) {
		Walk w = {0};
		walk_axes(&w, y, &skip);
		walk_over(&w, 0, y, NULL);
		walk_over(&w, 1, x, NULL);
		w.at[0] = i * stride_of(y, axis);
		w.at[1] = (i + shift) % n * stride_of(x, axis);
		move(&w, y, x);
	}
}

void
eval_concat(Call *c)
{
	const AxisList *from = attr_axes(c->op, AK_from);
	AxisList made = {.n = 1, .a = {attr_axes(c->op, AK_to)->a[0]}};
	Tensor *y = &c->out[0];
	int64_t begin = 0;

	for (int k = 0; k < 2; k++) {
		const Tensor *x = &c->in[k];
		Walk w = {0};
		walk_axes(&w, y, &made);
		walk_over(&w, 0, y, NULL);
		walk_over(&w, 1, x, &(AxisList){.n = 1, .a = {from->a[k]}});
		walk_push(&w, made.a[0], extent_of(x, from->a[k]));
		w.stride[w.n - 1][0] = stride_of(y, made.a[0]);
		w.stride[w.n - 1][1] = stride_of(x, from->a[k]);
		w.at[0] = begin * stride_of(y, made.a[0]);
		move(&w, y, x);
		begin += extent_of(x, from->a[k]);
	}
}

int64_t
eval_index(Call *c, const Tensor *x, Axis a, double i)
{
	int k = type_find(&x->t, a);

	if (!(i >= 0 && i < (double)x->full[k])) {
		eval_fail(c, "index %.17g along '%s', which ends at %lld", i,
			  ir_axis_str(c->m, a), (long long)x->full[k] - 1);
		return -1;
	}
	return (int64_t)i >= x->start[k] && (int64_t)i < x->end[k] ? (int64_t)i - x->start[k]
								   : -1;
}

/* What the indices in[1..] say at at[0..], as an offset along `axes` of t; -1: on another rank. */
static int64_t
pointed(Call *c, const Tensor *t, const AxisList *axes, const int64_t *at)
{
	int64_t offset = 0;

	for (int k = 0; k < axes->n; k++) {
		int64_t i = eval_index(c, t, axes->a[k], c->in[1 + k].x[at[k]]);
		if (i < 0) return -1;
		offset += i * stride_of(t, axes->a[k]);
	}
	return offset;
}

/* gather and scatter_add are one walk over (values, table, indices); entries of a table on other ranks count as zero. */
static void
gather_walk(Call *c, Tensor *values, Tensor *table, const AxisList *axes, bool scatter)
{
	enum { MAX_INDEX = CALL_IN - 1 };
	Walk w = {0}, wi[2] = {{0}};
	int n = axes->n;

	walk_axes(&w, values, NULL);
	for (int k = 0; k < n; k++)
		walk_axes(&w, &c->in[1 + k], NULL);
	wi[0] = wi[1] = w; /* four more operands, moving in step */
	walk_over(&w, 0, values, NULL);
	walk_over(&w, 1, table, axes);
	for (int k = 0; k < n; k++)
		walk_over(&wi[k / WALK_MAX], k % WALK_MAX, &c->in[1 + k], NULL);
	while (walk_next(&w) && !c->failed) {
		walk_next(&wi[0]);
		walk_next(&wi[1]);
		for (int64_t i = 0; i < w.len; i++) {
			int64_t at[MAX_INDEX];
			for (int k = 0; k < n; k++) {
				const Walk *v = &wi[k / WALK_MAX];
				at[k] = v->at[k % WALK_MAX] + i * v->by[k % WALK_MAX];
			}
			int64_t offset = pointed(c, table, axes, at);
			if (offset < 0) continue;
			double *value = &values->x[w.at[0] + i * w.by[0]];
			double *entry = &table->x[w.at[1] + i * w.by[1] + offset];
			if (scatter)
				*entry += *value;
			else
				*value = *entry;
		}
	}
}

void
eval_gather(Call *c)
{
	gather_walk(c, &c->out[0], &c->in[0], attr_axes(c->op, AK_axes), false);
}

void
eval_scatter_add(Call *c)
{
	gather_walk(c, &c->in[0], &c->out[0], attr_axes(c->op, AK_axes), true);
}

/* ---- communication ---- */

/* Padding along axes the collective is not about is carried along, as whoever moves whole blocks does. */
static void
with_padding(const Call *c, Tensor *x, Tensor *y)
{
	const Attr *along = attr_find(c->op, AK_axis), *to = attr_find(c->op, AK_to);

	for (int k = 0; k < x->t.n; k++) {
		int j = type_find(&y->t, x->t.ax[k].a);
		if (along && along->axis.i == x->t.ax[k].a.i) continue;
		if (to && axes_has(&to->axes, x->t.ax[k].a)) continue;
		if (j < 0 || x->start[k] != y->start[j] || x->ext[k] != y->ext[j]) continue;
		x->end[k] = x->start[k] + x->ext[k];
		y->end[j] = y->start[j] + y->ext[j];
	}
}

/* Every collective is this: a rank holds part of the logical result, and takes it from those who have it. Where a sum
 * is pending all that overlaps is added, in the order of ranks; elsewhere it is copied. */
static void
collect(Call *c, bool add)
{
	int64_t taken = 0;

	for (uint32_t p = 0; p < c->npeer; p++) {
		Tensor to = c->out[0], from = c->peer[p];
		if (c->op->code != OP_reshard) with_padding(c, &to, &from);
		int64_t n = eval_overlap(&to, &from, add);
		taken = n < 0 || taken < 0 ? -1 : taken + n;
	}
	if (taken < eval_valid(&c->out[0]))
		eval_fail(c, "the group does not hold what this rank is to have");
}

/* NaN wins. */
static void
greatest(Call *c)
{
	for (uint32_t p = 0; p < c->npeer; p++)
		for (int64_t i = 0; i < c->out[0].n; i++) {
			double *y = &c->out[0].x[i], x = c->peer[p].x[i];
			if (p == 0 || x > *y || isnan(x)) *y = x;
		}
}

void
eval_all_reduce(Call *c)
{
	if (attr_int_or(c->op, AK_max, 0))
		greatest(c);
	else
		collect(c, true);
}

void
eval_all_gather(Call *c)
{
	collect(c, false);
}

void
eval_reduce_scatter(Call *c)
{
	collect(c, true);
}

void
eval_all_to_all(Call *c)
{
	collect(c, false);
}

/* A rank's own part of what it has the whole of. */
void
eval_part(Call *c)
{
	Tensor to = c->out[0], from = c->in[0];

	with_padding(c, &to, &from);
	eval_overlap(&to, &from, false);
}

void
eval_reshard(Call *c)
{
	collect(c, false);
}
