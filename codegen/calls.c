/*
 * calls.c - ops that are alone: what becomes a call of the runtime, and plain loops for layouts it does not take.
 *
 * Also the table of the host target: how every op of ops.def is printed as a statement.
 */
#include "codegen/cg.h"

#include <inttypes.h>

/* Whether the axes of `list` (all of t's that count) collapse into one of stride *stride. */
static bool
collapses(CgBody *c, const Type *t, const int64_t *strides, const AxisList *list,
	  int64_t *extent, int64_t *stride)
{
	*extent = 1;
	*stride = 0;
	for (int k = list->n - 1; k >= 0; k--) {
		int at = type_find(t, list->a[k]);
		int64_t n;

		if (at < 0) return false;
		n = bc_extent(c, t, at);
		if (n == 1) continue;
		if (*extent == 1)
			*stride = strides[at];
		else if (strides[at] != *stride * *extent)
			return false;
		*extent *= n;
	}
	return true;
}

/* The product of the sizes of some axes of t. */
static const char *
count_of(CgBody *c, const Type *t, const AxisList *list)
{
	Type p = {.n = 0};

	for (int k = 0; k < list->n; k++)
		p.ax[p.n++] = t->ax[type_find(t, list->a[k])];
	return cg_count(c->g, c->mesh, &p);
}

/* A value as rows of n contiguous elements `ld` apart, rows in the order of `rows`. */
static bool
is_rows(CgBody *c, Val v, const Access *x, const AxisList *rows, const AxisList *acted,
	int64_t *ld)
{
	const Type *t = bc_type(c, v);
	int64_t n, one, r;

	if (!collapses(c, t, x->stride, acted, &n, &one) || (n > 1 && one != 1)) return false;
	if (!collapses(c, t, x->stride, rows, &r, ld)) return false;
	if (r == 1) *ld = n;
	return *ld >= n;
}

/* A value with one entry a row, packed. */
static bool
is_per_row(CgBody *c, Val v, const Access *x, const AxisList *rows)
{
	int64_t r, stride;

	return bc_type(c, v)->n == rows->n &&
	       collapses(c, bc_type(c, v), x->stride, rows, &r, &stride) &&
	       (r == 1 || stride == 1);
}

static bool
result_access(CgBody *c, Val v, Access *x)
{
	*x = (Access){.base = v};
	if (v.i) bc_strides(c, bc_type(c, v), x->stride);
	return true;
}

static bool
operands(CgBody *c, const Op *op, Access *x)
{
	for (int k = 0; k < op->nin; k++)
		if (!bc_access(c, op->in[k], &x[k])) {
			cg_error(c->g, op->loc, "an operand of '%s' has no place in memory",
				 op_info[op->code].text);
			return false;
		}
	return true;
}

/* A plain place for a result that a call overwrites. What is accumulated is not made by such calls. */
static const Sink *
plain(CgBody *c, const Op *op, int k)
{
	const Sink *to;

	if (!op->out[k].i) return NULL;
	to = bc_sink(c, op->out[k], 0);
	if (to && to->mode != STORE_set)
		cg_error(c->g, op->loc,
			 "a result of '%s' is added to a buffer directly; the host target "
			 "cannot do that yet",
			 op_info[op->code].text);
	return to;
}

static const char *
ptr_or_null(const Sink *to)
{
	return to ? to->ptr : "NULL";
}

static void
copy_results(CgBody *c, const Op *op)
{
	for (int k = 0; k < op->nout; k++)
		if (op->out[k].i) bc_copy_rest(c, op->out[k]);
}

static void
store(CgBody *c, int depth, const Sink *to, const char *place, const char *x)
{
	if (!to) return;
	put_line(&c->text, depth, to->mode == STORE_add ? "%s += %s;" : "%s = %s;", place, x);
}

/* ---- softmax, cross_entropy ---- */

/* Maximum and sum of exponentials over `acted` at the current row, as constants top and sum. */
static void
put_lse(CgBody *c, const Type *t, const char *x, const AxisList *rows, int depth,
	const char *top, const char *sum)
{
	int n;

	put_line(&c->text, depth, "real %s = -(real)INFINITY;", top);
	n = plain_open(c, t, rows, depth, false);
	put_line(&c->text, depth + n, "%s = %s > %s ? %s : %s;", top, x, top, x, top);
	plain_close(c, depth, n);
	put_line(&c->text, depth, "double %s = 0;", sum);
	n = plain_open(c, t, rows, depth, false);
	put_line(&c->text, depth + n, "%s += gv_exp(%s - %s);", sum, x, top);
	plain_close(c, depth, n);
}

void
emit_softmax(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];
	const AxisList *acted = attr_axes(op, AK_axes);
	const Type *t = bc_type(c, op->in[0]);
	AxisList rows = axes_except(t, acted);
	Access x, y;
	int64_t ldx, ldy;
	const Sink *to;
	int n;

	if (!operands(c, op, &x) || !result_access(c, op->out[0], &y) ||
	    !(to = plain(c, op, 0)))
		return;
	if (is_rows(c, op->in[0], &x, &rows, acted, &ldx) &&
	    is_rows(c, op->out[0], &y, &rows, acted, &ldy)) {
		bc_line(c, "gv_softmax(%s, %s, %s, %s, %s, %s);", count_of(c, t, &rows),
			count_of(c, t, acted), bc_pointer(c, &x),
			cg_stride(c->g, c->mesh, bc_type(c, x.base), ldx), to->ptr,
			cg_stride(c->g, c->mesh, bc_type(c, op->out[0]), ldy));
	} else {
		const char *top = scope_take(c->scope, "top"),
			   *sum = scope_take(c->scope, "sum");
		const char *at = plain_element(c, op->in[0], &x, NULL, 0);
		int inner;

		n = plain_open(c, t, acted, c->depth, true);
		put_lse(c, t, at, &rows, c->depth + n, top, sum);
		inner = plain_open(c, t, &rows, c->depth + n, false);
		put_line(&c->text, c->depth + n + inner, "%s = gv_exp(%s - %s) / (real)%s;",
			 plain_target(c, op->out[0], to, NULL, 0), at, top, sum);
		plain_close(c, c->depth, n + inner);
	}
	copy_results(c, op);
}

void
emit_cross_entropy(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];
	AxisList acted = {.n = 1, .a = {attr_axis(op, AK_axis)}}, rows;
	const Type *t = bc_type(c, op->in[0]);
	Access x[2], loss, lse;
	const Sink *to[2];
	int64_t ld;

	rows = axes_except(t, &acted);
	if (!operands(c, op, x)) return;
	for (int j = 0; j < 2; j++)
		to[j] = plain(c, op, j);
	if (c->g->failed) return;
	result_access(c, op->out[0], &loss);
	result_access(c, op->out[1], &lse);
	if (is_rows(c, op->in[0], &x[0], &rows, &acted, &ld) &&
	    is_per_row(c, op->in[1], &x[1], &rows) && to[0] &&
	    is_per_row(c, op->out[0], &loss, &rows) &&
	    (!to[1] || is_per_row(c, op->out[1], &lse, &rows))) {
		bc_line(c, "gv_cross_entropy(%s, %s, %s, %s, %s, %s, %s);",
			count_of(c, t, &rows), count_of(c, t, &acted), bc_pointer(c, &x[0]),
			cg_stride(c->g, c->mesh, bc_type(c, x[0].base), ld),
			bc_pointer(c, &x[1]), to[0]->ptr, ptr_or_null(to[1]));
	} else {
		const char *top = scope_take(c->scope, "top"),
			   *sum = scope_take(c->scope, "sum"), *l = scope_take(c->scope, "lse");
		Place label = {acted.a[0], plain_element(c, op->in[1], &x[1], NULL, 0)};
		int n = plain_open(c, t, &acted, c->depth, true), d = c->depth + n;

		put_lse(c, t, plain_element(c, op->in[0], &x[0], NULL, 0), &rows, d, top, sum);
		put_line(&c->text, d, "const real %s = %s + (real)log(%s);", l, top, sum);
		if (to[0])
			store(c, d, to[0], plain_target(c, op->out[0], to[0], NULL, 0),
			      cg_text(c->g->a, "%s - %s", l,
				      plain_element(c, op->in[0], &x[0], &label, 1)));
		if (to[1]) store(c, d, to[1], plain_target(c, op->out[1], to[1], NULL, 0), l);
		plain_close(c, c->depth, n);
	}
	copy_results(c, op);
}

/* ---- topk ---- */

/* One pass that keeps the best so far in falling order; an equal one that comes later goes behind. */
void
emit_topk(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];
	Axis axis = attr_axis(op, AK_axis), to_axis = attr_axes(op, AK_to)->a[0];
	AxisList acted = {.n = 1, .a = {axis}}, rows;
	const Type *t = bc_type(c, op->in[0]), *out = bc_type(c, op->out[op->out[0].i ? 0 : 1]);
	const char *a = c->g->axis_var[axis.i], *j = c->g->axis_var[to_axis.i];
	const char *best = scope_take(c->scope, "best"), *which = scope_take(c->scope, "which"),
		   *x = scope_take(c->scope, "x");
	const char *kept, *at = scope_take(c->scope, "at");
	const Sink *to[2];
	Access in;
	int n, d;

	if (!operands(c, op, &in)) return;
	for (int r = 0; r < 2; r++)
		to[r] = plain(c, op, r);
	if (c->g->failed) return;
	rows = axes_except(t, &acted);
	kept = cg_size(c->g, c->mesh, out->ax[type_find(out, to_axis)]);
	if (bc_extent(c, out, type_find(out, to_axis)) > ROW_BUFFER_MAX) {
		cg_error(c->g, op->loc,
			 "'topk' keeps %" PRId64 " entries a row; at most %d can be",
			 bc_extent(c, out, type_find(out, to_axis)), ROW_BUFFER_MAX);
		return;
	}
	n = plain_open(c, t, &acted, c->depth, true);
	if (!n) bc_line(c, "{");
	d = c->depth + (n ? n : 1);
	put_line(&c->text, d, "%s %s[%s];", cg_ctype(t->dt), best, kept);
	put_line(&c->text, d, "int32_t %s[%s] = {0};", which, kept);
	plain_open(c, t, &rows, d, false);
	put_line(&c->text, d + 1, "const %s %s = %s;", cg_ctype(t->dt), x,
		 plain_element(c, op->in[0], &in, NULL, 0));
	put_line(&c->text, d + 1, "int64_t %s = %s < %s ? %s : %s;", at, a, kept, a, kept);
	put_line(&c->text, d + 1, "for (; %s > 0 && %s > %s[%s - 1]; %s--) {", at, x, best, at,
		 at);
	put_line(&c->text, d + 2, "if (%s == %s) continue;", at, kept);
	put_line(&c->text, d + 2, "%s[%s] = %s[%s - 1];", best, at, best, at);
	put_line(&c->text, d + 2, "%s[%s] = %s[%s - 1];", which, at, which, at);
	put_line(&c->text, d + 1, "}");
	put_line(&c->text, d + 1, "if (%s == %s) continue;", at, kept);
	put_line(&c->text, d + 1, "%s[%s] = %s;", best, at, x);
	put_line(&c->text, d + 1, "%s[%s] = (int32_t)%s;", which, at, a);
	put_line(&c->text, d, "}");
	put_line(&c->text, d, "for (int64_t %s = 0; %s < %s; %s++) {", j, j, kept, j);
	for (int r = 0; r < 2; r++)
		if (to[r])
			store(c, d + 1, to[r], plain_target(c, op->out[r], to[r], NULL, 0),
			      cg_text(c->g->a, "%s[%s]", r ? which : best, j));
	put_line(&c->text, d, "}");
	plain_close(c, c->depth, n ? n : 1);
	copy_results(c, op);
}

/* ---- scatter_add ---- */

/* Rows of a table, picked by one index: what the embedding's gradient is. */
static bool
scatter_rows(CgBody *c, const Op *op, const Access *x, const Sink *to)
{
	const AxisList *axes = attr_axes(op, AK_axes);
	const Type *dy = bc_type(c, op->in[0]), *out = bc_type(c, op->out[0]),
		   *index = bc_type(c, op->in[1]);
	AxisList rows = axes_of(index), cols;
	const char *start;
	Access y;
	int64_t ldx, ldy;

	if (axes->n != 1 || op->nin != 2 || out->dt == DT_i32) return false;
	for (int k = 0; k < rows.n; k++)
		if (type_find(out, rows.a[k]) >= 0) return false;
	cols = axes_except(out, axes);
	if (cols.n == 0 || dy->n != rows.n + cols.n) return false;
	result_access(c, op->out[0], &y);
	if (!is_rows(c, op->in[0], &x[0], &rows, &cols, &ldx) ||
	    !is_rows(c, op->out[0], &y, axes, &cols, &ldy))
		return false;
	if (!is_per_row(c, op->in[1], &x[1], &rows)) return false;
	start = bc_start(c, out->ax[type_find(out, axes->a[0])], 0);
	bc_line(c, "gv_scatter_%s(%s, %s, %s, %s, %s%s, %s, %s);", start ? "part" : "rows",
		count_of(c, index, &rows), count_of(c, out, &cols), to->ptr,
		cg_stride(c->g, c->mesh, out, ldy),
		start ? cg_text(c->g->a, "%s, %s, ", start, count_of(c, out, axes)) : "",
		bc_pointer(c, &x[1]), bc_pointer(c, &x[0]),
		cg_stride(c->g, c->mesh, bc_type(c, x[0].base), ldx));
	return true;
}

/* In the order of dy's memory, so that sums have one order; shared out only along axes whose sums never meet. */
static void
scatter_plain(CgBody *c, const Op *op, const Access *x, const Sink *to)
{
	const AxisList *axes = attr_axes(op, AK_axes);
	const Type *dy = bc_type(c, op->in[0]), *out = bc_type(c, op->out[0]);
	Place places[MAX_AXES];
	AxisList apart = {0};
	Buf inside; /* the condition that this rank has the place */
	int n = 0, outer = 0;

	for (int k = 0; k < dy->n; k++)
		if (type_find(out, dy->ax[k].a) >= 0 && !axes_has(axes, dy->ax[k].a))
			axes_add(&apart, dy->ax[k].a);
	buf_init(&inside, c->g->a);
	for (int k = 0; k < axes->n; k++) {
		AxisUse u = out->ax[type_find(out, axes->a[k])];
		const char *start = bc_start(c, u, 0);
		const char *at = cg_text(c->g->a, "(int64_t)%s",
					 plain_element(c, op->in[1 + k], &x[1 + k], NULL, 0));

		if (start) {
			at = cg_text(c->g->a, "(%s - %s)", at, start);
			buf_printf(&inside, "%s(uint64_t)%s < %s", inside.n ? " && " : "", at,
				   cg_size(c->g, c->mesh, u));
		}
		places[k] = (Place){axes->a[k], at};
	}
	if (apart.n) {
		AxisList rest = axes_except(dy, &apart);

		outer = plain_open(c, dy, &rest, c->depth, true);
	}
	n = plain_open(c, dy, &apart, c->depth + outer, false);
	put_line(&c->text, c->depth + outer + n, "%s%s%s%s += %s;", inside.n ? "if (" : "",
		 inside.n ? inside.s : "", inside.n ? ") " : "",
		 plain_target(c, op->out[0], to, places, axes->n),
		 plain_element(c, op->in[0], &x[0], NULL, 0));
	plain_close(c, c->depth, outer + n);
}

void
emit_scatter(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];
	Access x[6];
	const Sink *to;

	if (!operands(c, op, x)) return;
	for (uint32_t turn = 0; (to = bc_sink(c, op->out[0], turn)); turn++) {
		plain_zero(c, op->out[0], to);
		if (!scatter_rows(c, op, x, to)) scatter_plain(c, op, x, to);
	}
	copy_results(c, op);
}

/* ---- once a step ---- */

static const char *
scalar(CgBody *c, Val v)
{
	Access x;

	if (c->scalar_port[v.i]) {
		c->uses_run = true;
		return c->val[v.i].name;
	}
	if (val_op(c->b, v) && val_op(c->b, v)->code == OP_const)
		return literal(c->g, DT_f64, attr_num(val_op(c->b, v), AK_value));
	if (!bc_access(c, v, &x)) ICE("a scalar of the optimizer has no place in memory");
	return cg_text(c->g->a, "%s[%" PRId64 "]", bc_pointer(c, &(Access){.base = x.base}),
		       x.offset);
}

/* Elements of a parameter, gradient or moment that this rank works on. */
static const char *
state_count(CgBody *c, Val v)
{
	return c->count[v.i] ? c->count[v.i] : cg_count(c->g, c->mesh, bc_type(c, v));
}

void
emit_sumsq(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];
	Access x;
	const Sink *to;

	if (!operands(c, op, &x)) return;
	for (uint32_t turn = 0; (to = bc_sink(c, op->out[0], turn)); turn++) {
		if (!to->ptr) c->uses_run = true;
		bc_line(c, "%s %s gv_sumsq(%s, %s);",
			to->ptr ? cg_text(c->g->a, "*%s", to->ptr) : "run->sumsq",
			to->mode == STORE_add ? "+=" : "=", bc_pointer(c, &x),
			state_count(c, op->in[0]));
	}
	copy_results(c, op);
}

static const char *
times(const Cg *g, const char *x, double factor)
{
	return factor == 1 ? x : cg_text(g->a, "%s * %s", x, literal(g, DT_f64, factor));
}

/* State is updated in place: the out-ports are the buffers of w, m and v. */
void
emit_adamw(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];
	const Cg *g = c->g;
	Access x[8];

	for (int j = 0; j < 4; j++)
		if (!bc_access(c, op->in[j], &x[j]))
			ICE("the optimizer's state has no place in memory");
	bc_line(c, "gv_adamw(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s);",
		bc_pointer(c, &x[0]), bc_pointer(c, &x[1]), bc_pointer(c, &x[2]),
		bc_pointer(c, &x[3]), state_count(c, op->in[0]),
		times(g, scalar(c, op->in[4]), attr_num(op, AK_lr)), scalar(c, op->in[5]),
		scalar(c, op->in[6]), scalar(c, op->in[7]),
		literal(g, DT_f64, attr_num(op, AK_beta1)),
		literal(g, DT_f64, attr_num(op, AK_beta2)),
		literal(g, DT_f64, attr_num(op, AK_eps)),
		literal(g, DT_f64, attr_num(op, AK_decay)));
}

void
emit_sgd(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];
	const Cg *g = c->g;
	Access x[3];

	for (int j = 0; j < 3; j++)
		if (!bc_access(c, op->in[j], &x[j]))
			ICE("the optimizer's state has no place in memory");
	bc_line(c, "gv_sgd(%s, %s, %s, %s, %s, %s, %s, %s);", bc_pointer(c, &x[0]),
		bc_pointer(c, &x[1]), bc_pointer(c, &x[2]), state_count(c, op->in[0]),
		times(g, scalar(c, op->in[3]), attr_num(op, AK_lr)), scalar(c, op->in[4]),
		literal(g, DT_f64, attr_num(op, AK_momentum)),
		literal(g, DT_f64, attr_num(op, AK_decay)));
}

/* ---- the table of the host target ---- */

void
emit_alone(CgBody *c, uint32_t k)
{
	emit_kernel(c, &k, 1);
}

void
emit_refused(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];

	cg_error(c->g, op->loc, "the host target cannot print '%s' yet",
		 op_info[op->code].text);
}

/* One line an op; a missing one does not compile. */
#define emit_host_const          emit_alone
#define emit_host_pos            emit_alone
#define emit_host_inside         emit_alone
#define emit_host_neg            emit_alone
#define emit_host_exp            emit_alone
#define emit_host_log            emit_alone
#define emit_host_sqrt           emit_alone
#define emit_host_sin            emit_alone
#define emit_host_cos            emit_alone
#define emit_host_tanh           emit_alone
#define emit_host_erf            emit_alone
#define emit_host_sigmoid        emit_alone
#define emit_host_relu           emit_alone
#define emit_host_abs            emit_alone
#define emit_host_not            emit_alone
#define emit_host_cast           emit_alone
#define emit_host_stop           emit_alone
#define emit_host_copy           emit_alone
#define emit_host_broadcast      emit_alone
#define emit_host_add            emit_alone
#define emit_host_sub            emit_alone
#define emit_host_mul            emit_alone
#define emit_host_div            emit_alone
#define emit_host_floordiv       emit_alone
#define emit_host_mod            emit_alone
#define emit_host_pow            emit_alone
#define emit_host_min            emit_alone
#define emit_host_max            emit_alone
#define emit_host_lt             emit_alone
#define emit_host_le             emit_alone
#define emit_host_eq             emit_alone
#define emit_host_ne             emit_alone
#define emit_host_and            emit_alone
#define emit_host_or             emit_alone
#define emit_host_where          emit_alone
#define emit_host_dropout        emit_alone
#define emit_host_view           emit_alone
#define emit_host_slice          emit_alone
#define emit_host_unslice        emit_alone
#define emit_host_roll           emit_alone
#define emit_host_concat         emit_alone
#define emit_host_gather         emit_alone
#define emit_host_scatter_add    emit_scatter
#define emit_host_sum            emit_alone
#define emit_host_rmax           emit_alone
#define emit_host_rmin           emit_alone
#define emit_host_dot            emit_dot
#define emit_host_softmax        emit_softmax
#define emit_host_normalize      emit_refused /* gone since level graph */
#define emit_host_moments        emit_alone
#define emit_host_topk           emit_topk
#define emit_host_cross_entropy  emit_cross_entropy
#define emit_host_attention      emit_attention
#define emit_host_attention_grad emit_attention_grad
#define emit_host_sumsq          emit_sumsq
#define emit_host_adamw          emit_adamw
#define emit_host_sgd            emit_sgd
#define emit_host_all_reduce     emit_all_reduce
#define emit_host_all_gather     emit_all_gather
#define emit_host_reduce_scatter emit_reduce_scatter
#define emit_host_all_to_all     emit_refused
#define emit_host_part           emit_alone
#define emit_host_reshard        emit_refused /* its body is never run: comm.c */

EmitOp *const emit_host[OP_COUNT] = {
#define OP(code, ...) [OP_##code] = emit_host_##code,
#include "ir/ops.def"
};
