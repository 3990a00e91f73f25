/*
 * infer.c - result types: the table of rules, and what they share. The rules are in infer_ew.c (elementwise),
 * infer_view.c (re-indexing), infer_red.c (reductions, contractions, attention) and infer_state.c (once a step,
 * communication).
 *
 * Layout is part of a type, so an illegal reshard is a type error:
 *   - operands' axes of one name are split alike, and a mesh axis splits one axis of a value at most;
 *   - an op that acts along an axis needs it whole, except sum and dot: they leave a sum pending over its mesh axes;
 *   - a pending sum passes through linear ops only. That 0 + pending is pending is the one thing known of values.
 */
#include "ir/infer.h"

#include <inttypes.h>
#include <string.h>

static const int64_t max_elements = INT64_C(1) << 56;

/* ---- words ---- */

bool
inf_fail(const Infer *x, const char *fmt, ...)
{
	Buf s;
	va_list ap;

	buf_init(&s, x->m->arena);
	va_start(ap, fmt);
	buf_vprintf(&s, fmt, ap);
	va_end(ap);
	if (!x->d)
		ICE("'%s' in body '%s': %s", op_info[x->op->code].text,
		    name_str(x->m->names, x->b->name), s.s);
	diag_error(x->d, x->op->loc, "'%s': %s", op_info[x->op->code].text, s.s);
	return false;
}

const char *
inf_axis_str(const Infer *x, Axis a)
{
	return ir_axis_str(x->m, a);
}

static void
put_mesh_axis(const Infer *x, Buf *s, int k)
{
	const Mesh *mesh = ir_mesh(x->m, x->b);

	if (mesh && k < mesh->n)
		buf_puts(s, mesh_kind_str[mesh->ax[k].kind]);
	else
		buf_printf(s, "%d", k);
}

const char *
inf_axes_str(const Infer *x, const Type *t)
{
	Buf s;

	buf_init(&s, x->m->arena);
	buf_putc(&s, '[');
	for (int i = 0; i < t->n; i++) {
		buf_printf(&s, "%s%s", i ? " " : "", inf_axis_str(x, t->ax[i].a));
		for (int k = 0; k < t->ax[i].nshard; k++) {
			buf_putc(&s, k ? '.' : '@');
			put_mesh_axis(x, &s, t->ax[i].shard[k]);
		}
	}
	for (int k = 0; k < 16; k++) {
		if (!(t->partial >> k & 1)) continue;
		buf_puts(&s, " +");
		put_mesh_axis(x, &s, k);
	}
	buf_putc(&s, ']');
	return s.s;
}

const char *
inf_mesh_str(const Infer *x, unsigned bits)
{
	Buf s;

	buf_init(&s, x->m->arena);
	for (int k = 0; k < 16; k++) {
		if (!(bits >> k & 1)) continue;
		if (s.n) buf_putc(&s, ' ');
		put_mesh_axis(x, &s, k);
	}
	return s.n ? s.s : "nothing";
}

unsigned
inf_use_shards(const AxisUse *u)
{
	unsigned bits = 0;

	for (int i = 0; i < u->nshard; i++)
		bits |= 1u << u->shard[i];
	return bits;
}

/* ---- axes ---- */

AxisList
inf_one_axis(Axis a)
{
	return (AxisList){.n = 1, .a = {a}};
}

bool
inf_has_axis(const Infer *x, const Type *t, Axis a, const char *what)
{
	if (type_find(t, a) >= 0) return true;
	return inf_fail(x, "%s has no axis '%s' (extent %" PRId64 "), only %s", what,
			inf_axis_str(x, a), ir_extent(x->m, a), inf_axes_str(x, t));
}

bool
inf_has_axes(const Infer *x, const Type *t, const AxisList *l, const char *what)
{
	for (int i = 0; i < l->n; i++)
		if (!inf_has_axis(x, t, l->a[i], what)) return false;
	return true;
}

bool
inf_lacks_axis(const Infer *x, const Type *t, Axis a, const char *what)
{
	if (type_find(t, a) < 0) return true;
	return inf_fail(x, "%s has the axis '%s' already: %s", what, inf_axis_str(x, a),
			inf_axes_str(x, t));
}

bool
inf_distinct(const Infer *x, const AxisList *l)
{
	for (int i = 0; i < l->n; i++)
		for (int k = 0; k < i; k++)
			if (l->a[i].i == l->a[k].i)
				return inf_fail(x, "the axis '%s' twice",
						inf_axis_str(x, l->a[i]));
	return true;
}

bool
inf_whole_axis(const Infer *x, const Type *t, Axis a)
{
	int k = type_find(t, a);

	if (k < 0 || t->ax[k].nshard == 0) return true;
	return inf_fail(x, "acts along '%s' (extent %" PRId64 "), which is split over %s: %s",
			inf_axis_str(x, a), ir_extent(x->m, a),
			inf_mesh_str(x, inf_use_shards(&t->ax[k])), inf_axes_str(x, t));
}

bool
inf_whole_axes(const Infer *x, const Type *t, const AxisList *l)
{
	for (int i = 0; i < l->n; i++)
		if (!inf_whole_axis(x, t, l->a[i])) return false;
	return true;
}

bool
inf_join(const Infer *x, Type *t, const AxisUse *u)
{
	int k = type_find(t, u->a);

	if (k < 0) {
		if (t->n == MAX_AXES)
			return inf_fail(x, "a tensor of more than %d axes", MAX_AXES);
		type_push(t, *u);
		return true;
	}
	if (t->ax[k].nshard == u->nshard && memcmp(t->ax[k].shard, u->shard, u->nshard) == 0)
		return true;
	return inf_fail(
	    x, "one operand has '%s' (extent %" PRId64 ") split over %s, another over %s",
	    inf_axis_str(x, u->a), ir_extent(x->m, u->a),
	    inf_mesh_str(x, inf_use_shards(&t->ax[k])), inf_mesh_str(x, inf_use_shards(u)));
}

bool
inf_join_all(const Infer *x, Type *t, const Type *with)
{
	for (int i = 0; i < with->n; i++)
		if (!inf_join(x, t, &with->ax[i])) return false;
	return true;
}

bool
inf_unite(const Infer *x, const Type *const *in, int n, Type *t)
{
	int most = 0;

	for (int k = 1; k < n; k++)
		if (in[k]->n > in[most]->n) most = k;
	t->n = 0;
	if (n && !inf_join_all(x, t, in[most])) return false;
	for (int k = 0; k < n; k++)
		if (!inf_join_all(x, t, in[k])) return false;
	return true;
}

bool
inf_replace_axes(const Infer *x, Type *t, const AxisList *from, const AxisUse *to, int nto)
{
	Type r = *t;
	bool placed = false;

	r.n = 0;
	for (int i = 0; i <= t->n; i++) {
		bool goes = i < t->n && axes_has(from, t->ax[i].a);

		if ((goes || i == t->n) && !placed) {
			for (int k = 0; k < nto; k++) {
				if (!inf_lacks_axis(x, &r, to[k].a, "the result")) return false;
				if (!inf_join(x, &r, &to[k])) return false;
			}
			placed = true;
		}
		if (i == t->n || goes) continue;
		if (!inf_lacks_axis(x, &r, t->ax[i].a, "the result")) return false;
		if (!inf_join(x, &r, &t->ax[i])) return false;
	}
	*t = r;
	return true;
}

/* ---- data types ---- */

/* Not bf16: a position has more bits than that. */
DType
inf_model_float(const Module *m)
{
	return m->train.precision == DT_f64 ? DT_f64 : DT_f32;
}

DType
inf_to_float(const Infer *x, DType dt)
{
	return dtype_float(dt) ? dt : inf_model_float(x->m);
}

DType
inf_stat_float(const Infer *x, DType dt)
{
	return dt == DT_bf16 ? DT_f32 : inf_to_float(x, dt);
}

bool
inf_number(const Infer *x, int k)
{
	if (x->in[k]->dt != DT_bool) return true;
	return inf_fail(x, "operand %d is bool; numbers are wanted", k + 1);
}

bool
inf_boolean(const Infer *x, int k)
{
	if (x->in[k]->dt == DT_bool) return true;
	return inf_fail(x, "operand %d is %s; bool is wanted", k + 1, dtype_str(x->in[k]->dt));
}

bool
inf_whole_number(const Infer *x, int k)
{
	if (x->in[k]->dt == DT_i32) return true;
	return inf_fail(x, "operand %d is %s; i32 is wanted", k + 1, dtype_str(x->in[k]->dt));
}

/* A whole number beside a float becomes that float; of two floats the wider holds. ORDER DType. */
bool
inf_promote(const Infer *x, int first, int n, DType *dt)
{
	*dt = x->in[first]->dt;
	for (int k = first; k < first + n; k++) {
		DType other = x->in[k]->dt;

		if ((other == DT_bool) != (*dt == DT_bool))
			return inf_fail(x, "operands are %s and %s", dtype_str(*dt),
					dtype_str(other));
		if (other > *dt) *dt = other;
	}
	return true;
}

DType
inf_product_dtype(const Infer *x, DType a, DType b)
{
	DType wide = inf_to_float(x, a > b ? a : b);

	return wide == DT_f32 && (a == DT_bf16 || b == DT_bf16) ? DT_bf16 : wide;
}

/* ---- pending sums ---- */

bool
inf_settled(const Infer *x, int first, int n)
{
	for (int k = first; k < first + n; k++)
		if (x->in[k]->partial)
			return inf_fail(x,
					"operand %d is a sum still pending over %s, and this "
					"is not linear in it: %s",
					k + 1, inf_mesh_str(x, x->in[k]->partial),
					inf_axes_str(x, x->in[k]));
	return true;
}

/* Whether a value is a constant zero, looked at through what keeps it one. */
static bool
is_zero(const Body *b, Val v)
{
	const Op *op = val_op(b, v);

	for (int depth = 0; op && depth < 8; depth++) {
		if (op->code == OP_const) return attr_num(op, AK_value) == 0;
		if (op->code != OP_broadcast && op->code != OP_cast) return false;
		op = val_op(b, op->in[0]);
	}
	return false;
}

bool
inf_like_terms(const Infer *x, int first, int n, uint16_t *partial)
{
	int ref = -1;

	*partial = 0;
	for (int k = first; k < first + n; k++) {
		if (is_zero(x->b, x->op->in[k])) continue;
		if (ref < 0) {
			ref = k;
			*partial = x->in[k]->partial;
		} else if (x->in[k]->partial != *partial) {
			return inf_fail(
			    x, "operand %d is a sum pending over %s, operand %d over %s",
			    ref + 1, inf_mesh_str(x, *partial), k + 1,
			    inf_mesh_str(x, x->in[k]->partial));
		}
	}
	return true;
}

/* ---- the table ---- */

typedef bool Rule(Infer *x);

#define OP(code, ...) [OP_##code] = infer_##code,
static Rule *const rules[OP_COUNT] = {
#include "ir/ops.def"
};

static bool
attr_in_range(const Infer *x, const Attr *a)
{
	const char *text = attr_info[a->key].text;
	AttrKind kind = attr_info[a->key].kind;

	if (kind == AT_axis && (!a->axis.i || a->axis.i >= x->m->naxes))
		return inf_fail(x, "%s is no axis", text);
	if (kind == AT_dtype && (a->i <= DT_none || a->i >= DT_COUNT))
		return inf_fail(x, "%s is no data type", text);
	if (kind == AT_mesh && (a->i <= 0 || a->i >> MAX_MESH))
		return inf_fail(x, "%s is no list of mesh axes", text);
	if (kind != AT_axes) return true;
	if (a->axes.n > MAX_AXES)
		return inf_fail(x, "%s lists more than %d axes", text, MAX_AXES);
	for (int i = 0; i < a->axes.n; i++)
		if (!a->axes.a[i].i || a->axes.a[i].i >= x->m->naxes)
			return inf_fail(x, "%s lists no axis", text);
	return true;
}

/* Operands and attributes are what ops.def says: as many, each key once, in order. */
static bool
well_formed(Infer *x)
{
	const Op *op = x->op;
	const OpInfo *info = &op_info[op->code];
	int k = 0;

	if (op->nin < info->min_in || op->nin > info->max_in)
		return inf_fail(x, "%d operands; %d to %d are wanted", op->nin, info->min_in,
				info->max_in);
	for (int i = 0; i < op->nin; i++) {
		if (!op->in[i].i || op->in[i].i >= x->b->nvals)
			return inf_fail(x, "operand %d is no value", i + 1);
		x->in[i] = &x->b->vals[op->in[i].i].type;
	}
	for (int i = 0; info->attrs[i].key != AK_none; i++) {
		if (k < op->nattr && op->attrs[k].key == info->attrs[i].key) {
			if (!attr_in_range(x, &op->attrs[k++])) return false;
		} else if (!info->attrs[i].optional) {
			return inf_fail(x, "without %s", attr_info[info->attrs[i].key].text);
		}
	}
	if (k == op->nattr) return true;
	if (op->attrs[k].key <= AK_none || op->attrs[k].key >= AK_COUNT)
		return inf_fail(x, "an unknown attribute");
	return inf_fail(x, "takes no %s", attr_info[op->attrs[k].key].text);
}

/* A mesh axis splits one axis of a result or is pending in it, not both; and a result has a size. */
static bool
well_laid(const Infer *x, const Type *t)
{
	unsigned seen = t->partial;
	int64_t count = 1;

	for (int i = 0; i < t->n; i++) {
		unsigned bits = inf_use_shards(&t->ax[i]);

		if (seen & bits)
			return inf_fail(x, "the result uses mesh axis %s twice: %s",
					inf_mesh_str(x, seen & bits), inf_axes_str(x, t));
		seen |= bits;
		if (__builtin_mul_overflow(count, ir_extent(x->m, t->ax[i].a), &count) ||
		    count > max_elements)
			return inf_fail(x, "the result has more than 2^56 elements: %s",
					inf_axes_str(x, t));
	}
	return true;
}

bool
ir_infer(const Module *m, const Body *b, const Op *op, Diag *d, Type out[MAX_OUT])
{
	Infer x = {.m = m, .b = b, .op = op, .d = d, .out = out};

	ENSURE(op->code > OP_none && op->code < OP_COUNT, "op code %d", op->code);
	memset(out, 0, sizeof(Type) * MAX_OUT);
	if (!well_formed(&x) || !rules[op->code](&x)) return false;
	for (int i = 0; i < op_info[op->code].nout; i++)
		if (!well_laid(&x, &out[i])) return false;
	return true;
}

/* ---- what a type may differ in from the inferred one ---- */

/* x / degree on each of `degree` ranks is a pending sum of x: the one way a whole value becomes one. */
static bool
may_share(const Op *op)
{
	return op->code == OP_mul || op->code == OP_div;
}

/* State is updated in place, and a collective moves blocks: their order is the operand's. scatter_add is told its own. */
static bool
order_is_free(const Op *op)
{
	return !(op_info[op->code].flags & (OF_UPD | OF_COMM)) && op->code != OP_scatter_add &&
	       op->code != OP_attention_grad;
}

static bool
makes_axis(const Op *op, Axis a)
{
	if (op->code == OP_pos || op->code == OP_inside) return true;
	if (op->code == OP_scatter_add) return axes_has(attr_axes(op, AK_axes), a);
	return op->code == OP_broadcast && axes_has(attr_axes(op, AK_axes), a);
}

bool
ir_fits(const Op *op, const Type *t, const Type *have)
{
	if (t->dt != have->dt && op->code != OP_const) return false;
	if (t->n != have->n || (t->partial & ~have->partial) || t->flat != have->flat)
		return false;
	if (t->partial != have->partial && !may_share(op)) return false;
	for (int i = 0; i < have->n; i++) {
		const AxisUse *h = &have->ax[i];
		int k = type_find(t, h->a);

		if (k < 0 || type_find(have, h->a) != i || (k != i && !order_is_free(op)))
			return false;
		if (makes_axis(op, h->a)) continue;
		if (h->nshard != t->ax[k].nshard ||
		    memcmp(h->shard, t->ax[k].shard, h->nshard) != 0)
			return false;
	}
	return true;
}
