/*
 * attention.c - the attention operation: its axes, and masks.
 *
 * A mask is taken apart at `and`. What compares pos[key] with pos[query] plus a constant narrows the band
 * lo <= pos[key] - pos[query] <= hi, which is an attribute and costs nothing; the rest stays a bool operand.
 */
#include "frontend/elab.h"

#include <math.h>

typedef struct Band {
	Axis query;
	bool has_lo, has_hi;
	double lo, hi;
} Band;

/* The const op behind v: of a value in the body, through the port it was read by. NULL: not a constant. */
static bool
as_const(const Elab *e, Value v, Val *out)
{
	if (v.kind == V_const) {
		*out = v.v;
		return true;
	}
	for (uint32_t i = 0; i < e->body.nports; i++) {
		const Port *p = &e->body.ports[i];
		if (p->kind != PORT_const || p->v.i != v.v.i) continue;
		*out = e->slot_val[p->slot];
		return true;
	}
	return false;
}

/* Narrows the band by the comparison v, if it is one between a key and a query position. */
static bool
narrow(const Elab *e, Val v, Axis key, const AxisList *queries, Band *band)
{
	const Op *op = val_op(&e->konst, v);
	Affine x, y;
	if (!op || (op->code != OP_lt && op->code != OP_le && op->code != OP_eq)) return false;
	if (!affine_of(e, op->in[0], &x) || !affine_of(e, op->in[1], &y)) return false;
	/* x - y as sign * (pos[key] - pos[query]) + c */
	double sign = 0, c = x.c0 - y.c0;
	Axis query = NO_AXIS;
	AxisList seen = {0};
	for (int side = 0; side < 2; side++) {
		const Affine *s = side ? &y : &x;
		for (int i = 0; i < s->n; i++)
			axes_add(&seen, s->a[i]);
	}
	if (seen.n != 2 || !axes_has(&seen, key)) return false;
	if (!is_whole(c) || fabs(c) > FE_MAX_EXTENT) return false;
	for (int k = 0; k < 2; k++) {
		double coef = 0;
		for (int i = 0; i < x.n; i++)
			if (x.a[i].i == seen.a[k].i) coef += x.c[i];
		for (int i = 0; i < y.n; i++)
			if (y.a[i].i == seen.a[k].i) coef -= y.c[i];
		if (seen.a[k].i == key.i) {
			if (sign != 0 && sign != coef) return false;
			sign = coef;
		} else {
			if (sign != 0 && sign != -coef) return false;
			sign = -coef;
			query = seen.a[k];
		}
	}
	if ((sign != 1 && sign != -1) || !axes_has(queries, query)) return false;
	if (band->query.i && band->query.i != query.i) return false;
	band->query = query;
	/* sign * d + c < 0, <= 0 or == 0 */
	double edge = op->code == OP_lt ? -c - 1 : -c; /* sign * d <= edge */
	bool both = op->code == OP_eq;
	if (sign > 0 || both) {
		double hi = sign > 0 ? edge : -edge;
		band->hi = band->has_hi ? fmin(band->hi, hi) : hi;
		band->has_hi = true;
	}
	if (sign < 0 || both) {
		double lo = sign < 0 ? -edge : edge;
		band->lo = band->has_lo ? fmax(band->lo, lo) : lo;
		band->has_lo = true;
	}
	return true;
}

/* Splits v at `and`; what narrows the band is dropped, the rest is joined in *rest. False after a diagnostic. */
static bool
split_mask(Elab *e, Frame *f, Span at, Value v, Axis key, const AxisList *queries, Band *band,
	   Value *rest, int depth)
{
	Val k;
	const Op *op = val_op(body_of(e, v), v.v);
	if (as_const(e, v, &k)) {
		v = tensor_value(e, k, true);
		op = val_op(&e->konst, k);
	}
	if (op && op->code == OP_and && depth < 64) {
		Value x = tensor_value(e, op->in[0], v.kind == V_const),
		      y = tensor_value(e, op->in[1], v.kind == V_const);
		return split_mask(e, f, at, x, key, queries, band, rest, depth + 1) &&
		       split_mask(e, f, at, y, key, queries, band, rest, depth + 1);
	}
	if (v.kind == V_const && key.i && narrow(e, v.v, key, queries, band)) return true;
	*rest = rest->kind == V_number ? v : emit2(e, f, at, OP_and, *rest, v, DT_bool);
	return rest->kind != V_poison;
}

/* mentions an axis outside of pos[...] */
static const Node *
names_extent(Frame *f, const Node *n)
{
	const Node *r;
	if (!n) return NULL;
	if (n->kind == N_name) {
		Sym *s = lookup(f, n->name);
		return s && s->kind == SY_axis ? n : NULL;
	}
	if (n->kind < N_neg || n->kind > N_or) return NULL;
	r = names_extent(f, n->a);
	return r ? r : names_extent(f, n->b);
}

static bool
within_scores(Elab *e, Frame *f, const Call *c, int arg, const AxisList *scores)
{
	Type t = type_of(e, c->arg[arg]);
	for (int i = 0; i < t.n; i++) {
		if (axes_has(scores, t.ax[i].a)) continue;
		fe_error(e, f, c->arg_at[arg],
			 "the %s has the axis '%s', but the scores have [%s]",
			 arg == 3 ? "mask" : "bias", ir_axis_str(e->m, t.ax[i].a),
			 axes_text(e, scores));
		return false;
	}
	return true;
}

/* The mask: narrows the band, and leaves in *mask what is to be an operand (a number: none). */
static bool
read_mask(Elab *e, Frame *f, Call *c, const AxisList *queries, const AxisList *scores,
	  Band *band, Value *mask)
{
	Value v = c->arg[3];
	const Node *n = c->arg_node[3];
	*mask = boolean(true);
	if (v.kind == V_number) {
		const Node *extent = n ? names_extent(f, n) : NULL;
		if (extent) {
			fe_error(e, f, n->at,
				 "the mask '%s' compares extents; pos[%s] is the tensor of "
				 "positions",
				 text_of(e, f, n->at), str(e, extent->name));
			return false;
		}
		if (v.num != 0 && v.is_bool) return true;
		fe_error(e, f, c->arg_at[3],
			 v.is_bool ? "the mask lets nobody look at anything"
				   : "a mask is bool: true where a key may be looked at");
		return false;
	}
	if (!in_body(e, f, c->arg_at[3], &v)) return false;
	if (type_of(e, v).dt != DT_bool) {
		fe_error(e, f, c->arg_at[3],
			 "a mask is bool: true where a key may be looked at; what is added is "
			 "'bias'");
		return false;
	}
	if (!within_scores(e, f, c, 3, scores)) return false;
	if (v.kind == V_const && v.lo == 1) return true;
	Axis key = c->group[0].n == 1 ? c->group[0].a[0] : NO_AXIS;
	return split_mask(e, f, c->arg_at[3], v, key, queries, band, mask, 0);
}

static const char *
other_name(const Elab *e, Axis a)
{
	for (uint32_t i = 1; i < e->m->naxes; i++)
		if (i != a.i && e->m->axes[i].extent == ir_extent(e->m, a))
			return ir_axis_str(e->m, (Axis){(uint16_t)i});
	return "keys";
}

static bool
keys_not_in_query(Elab *e, Frame *f, const Call *c)
{
	Type q = type_of(e, c->arg[0]);
	for (int i = 0; i < c->group[0].n; i++) {
		Axis a = c->group[0].a[i];
		if (type_find(&q, a) < 0) continue;
		const char *name = ir_axis_str(e->m, a);
		bool told =
		    fe_error(e, f, c->at,
			     "'attention' looks along axis '%s', but the query has it too: %s",
			     name, type_axes_text(e, &q));
		const Node *n = c->arg_node[0];
		Sym *s = n && n->kind == N_name ? lookup(f, n->name) : NULL;
		const Node *k = c->arg_node[1];
		if (told && s)
			fe_note(e, f, s->at,
				"'%s' is defined here; keys go by another name: %s[%s -> %s]",
				str(e, s->name), k && k->kind == N_name ? str(e, k->name) : "k",
				name, other_name(e, a));
		return false;
	}
	return true;
}

static bool
attention_operands(Elab *e, Frame *f, Call *c)
{
	for (int i = 0; i < 3; i++) {
		if (!in_body(e, f, c->arg_at[i], &c->arg[i])) return false;
		if (type_of(e, c->arg[i]).dt == DT_bool) {
			fe_error(e, f, c->arg_at[i],
				 "'attention' of a bool; float(b) makes it 0 and 1");
			return false;
		}
	}
	return keys_not_in_query(e, f, c) &&
	       need_axes(e, f, c, 1, "looks along", &c->group[0]) &&
	       need_axes(e, f, c, 2, "looks along", &c->group[0]) &&
	       need_axes(e, f, c, 0, "compares along", &c->group[1]) &&
	       need_axes(e, f, c, 1, "compares along", &c->group[1]);
}

static bool
attention_numbers(Elab *e, Frame *f, Call *c, double *scale, double *cap)
{
	if (c->arg[5].kind == V_number) {
		*scale = c->arg[5].num;
	} else if (c->arg_node[5]) {
		return any_number(e, f, c->arg_at[5], c->arg[5], "'scale'", scale);
	} else {
		double d = 1;
		for (int i = 0; i < c->group[1].n; i++)
			d *= (double)ir_extent(e->m, c->group[1].a[i]);
		*scale = pow(d, -0.5);
	}
	if (!any_number(e, f, c->arg_at[6], c->arg[6], "'cap'", cap)) return false;
	if (*cap >= 0) return true;
	fe_error(e, f, c->arg_at[6], "'cap' is at least 0, but this is %s", num_text(e, *cap));
	return false;
}

/* In which q, k, v are read: the model's precision, unless all are better. */
static DType
attention_type(const Elab *e, const Value *v)
{
	DType worst = DT_none;
	for (int i = 0; i < 3; i++) {
		DType dt = v[i].kind == V_tensor ? type_of(e, v[i]).dt : DT_none;
		if (dtype_float(dt) && (!worst || dt < worst)) worst = dt;
	}
	return worst ? worst : e->model;
}

/* The axes of the queries, and of the scores: those of q and k without D. */
static bool
score_axes(Elab *e, Frame *f, const Call *c, AxisList *queries, AxisList *scores)
{
	*queries = *scores = (AxisList){0};
	for (int i = 0; i < 2; i++) {
		Type t = type_of(e, c->arg[i]);
		for (int k = 0; k < t.n; k++) {
			Axis a = t.ax[k].a;
			if (axes_has(&c->group[1], a)) continue;
			if (i == 0) axes_add(queries, a);
			if (axes_add(scores, a) || axes_has(scores, a)) continue;
			fe_error(e, f, c->at, "the scores would have more than %d axes",
				 MAX_AXES);
			return false;
		}
	}
	return true;
}

/* A number added to all scores changes nothing; a tensor is an operand. */
static bool
read_bias(Elab *e, Frame *f, Call *c, const AxisList *scores)
{
	Value *bias = &c->arg[4];
	if (bias->kind == V_number) return true;
	if (!in_body(e, f, c->arg_at[4], bias) || !within_scores(e, f, c, 4, scores))
		return false;
	if (type_of(e, *bias).dt != DT_bool) return true;
	fe_error(e, f, c->arg_at[4], "a bias is added to the scores; a bool is a 'mask'");
	return false;
}

static int
attention_attrs(const Call *c, double scale, double cap, int64_t rate, const Band *band,
		Attr *out)
{
	int n = 0;
	out[n++] = attr_make_axes(AK_keys, &c->group[0]);
	out[n++] = attr_make_axes(AK_feat, &c->group[1]);
	out[n++] = attr_make_num(AK_scale, scale);
	out[n++] = attr_make_num(AK_cap, cap);
	out[n++] = attr_make_int(AK_rate, rate);
	out[n++] = attr_make_int(AK_key, rate < 0 ? 0 : rate);
	if (band->query.i) out[n++] = attr_make_axis(AK_query, band->query);
	if (band->has_lo) out[n++] = attr_make_int(AK_lo, (int64_t)band->lo);
	if (band->has_hi) out[n++] = attr_make_int(AK_hi, (int64_t)band->hi);
	return n;
}

void
op_attention(Elab *e, Frame *f, Call *c, Values *out)
{
	double scale, cap, rate = 0;
	Band band = {0};
	Value mask, in[5], r;
	AxisList queries, scores;
	Attr attrs[11];
	bool drops = c->arg_node[7] != NULL;

	if (!attention_operands(e, f, c) || !attention_numbers(e, f, c, &scale, &cap)) return;
	if (!score_axes(e, f, c, &queries, &scores)) return;
	if (!read_mask(e, f, c, &queries, &scores, &band, &mask)) return;
	if (!read_bias(e, f, c, &scores)) return;
	if (drops && !rate_number(e, f, c->arg_at[7], c->arg[7], &rate)) return;

	/* no slot for a rate that was not given: without dropout there is less to do */
	int64_t slot = drops && e->body_open ? (int64_t)rate_slot(e, rate) : -1;
	int nin = 3, n = attention_attrs(c, scale, cap, slot, &band, attrs);
	DType dt = attention_type(e, c->arg);
	for (int i = 0; i < 3; i++)
		in[i] = c->arg[i];
	if (mask.kind != V_number) {
		in[nin++] = mask;
		attrs[n++] = attr_make_int(AK_mask, 1);
	}
	if (c->arg[4].kind != V_number) {
		in[nin++] = cast(e, f, c->arg_at[4], c->arg[4], dt);
		attrs[n++] = attr_make_int(AK_bias, 1);
	}
	EmitArgs a = {.code = OP_attention,
		      .in = in,
		      .nin = nin,
		      .attrs = attrs,
		      .nattr = n,
		      .dt = dt,
		      .ncast = 3,
		      .here = slot >= 0};
	if (!emit(e, f, c->at, &a, &r, 1)) return;
	out->n = 1;
	out->v[0] = r;
}
