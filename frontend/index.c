/*
 * index.c - what stands in a tensor's brackets: gathers, renames, splits and merges.
 *
 * An index that is affine in one position is a slice, (pos[a] + s) % a is a roll, a number takes one entry; anything
 * else is a gather. Every index is proven to lie in its axis by interval arithmetic (Value.lo, hi).
 */
#include "frontend/elab.h"

#include <math.h>

/* ---- affine forms ---- */

static bool
affine_add(Affine *x, const Affine *y, double sign)
{
	x->c0 += sign * y->c0;
	for (int i = 0; i < y->n; i++) {
		int k = 0;
		while (k < x->n && x->a[k].i != y->a[i].i)
			k++;
		if (k == (int)COUNTOF(x->a)) return false;
		if (k == x->n) {
			x->n++;
			x->a[k] = y->a[i];
			x->c[k] = 0;
		}
		x->c[k] += sign * y->c[i];
		if (x->c[k] == 0) {
			x->n--;
			x->a[k] = x->a[x->n];
			x->c[k] = x->c[x->n];
		}
	}
	return true;
}

static void
affine_scale(Affine *x, double by)
{
	x->c0 *= by;
	for (int i = 0; i < x->n; i++)
		x->c[i] *= by;
	if (by == 0) x->n = 0;
}

static bool
affine(const Elab *e, Val v, Affine *out, int depth)
{
	const Op *op = val_op(&e->konst, v);
	Affine y;
	*out = (Affine){0};
	if (!op || depth > 64) return false;
	switch (op->code) {
	case OP_const: out->c0 = attr_num(op, AK_value); return true;
	case OP_pos:
		*out = (Affine){.n = 1, .a = {attr_axis(op, AK_axis)}, .c = {1}};
		return true;
	case OP_cast: /* of an integer to a float is exact */
		return val_type(&e->konst, op->in[0])->dt == DT_i32 &&
		       affine(e, op->in[0], out, depth + 1);
	case OP_neg:
		if (!affine(e, op->in[0], out, depth + 1)) return false;
		affine_scale(out, -1);
		return true;
	case OP_add:
	case OP_sub:
		return affine(e, op->in[0], out, depth + 1) &&
		       affine(e, op->in[1], &y, depth + 1) &&
		       affine_add(out, &y, op->code == OP_add ? 1 : -1);
	case OP_mul:
		if (!affine(e, op->in[0], out, depth + 1) ||
		    !affine(e, op->in[1], &y, depth + 1))
			return false;
		if (out->n && y.n) return false;
		if (y.n) {
			Affine t = y;
			y = *out;
			*out = t;
		}
		affine_scale(out, y.c0);
		return true;
	default: return false;
	}
}

bool
affine_of(const Elab *e, Val konst, Affine *out)
{
	return affine(e, konst, out, 0);
}

/* v is (pos[b] + shift) % n. */
static bool
is_roll(const Elab *e, Value idx, int64_t n, Axis *b, int64_t *shift)
{
	Affine x, m;
	const Op *op = idx.kind == V_const ? val_op(&e->konst, idx.v) : NULL;
	if (!op || op->code != OP_mod || !affine_of(e, op->in[0], &x) ||
	    !affine_of(e, op->in[1], &m))
		return false;
	if (m.n || m.c0 != (double)n || x.n != 1 || x.c[0] != 1 || fabs(x.c0) > FE_MAX_EXTENT)
		return false;
	if (ir_extent(e->m, x.a[0]) != n) return false;
	*b = x.a[0];
	*shift = (int64_t)(x.c0 - (double)n * floor(x.c0 / (double)n));
	return true;
}

/* ---- views ---- */

static Value
view(Elab *e, Frame *f, Span at, Value x, const AxisList *from, const AxisList *to)
{
	Value r;
	Attr attrs[2] = {attr_make_axes(AK_from, from), attr_make_axes(AK_to, to)};
	if (from->n == 1 && to->n == 1 && from->a[0].i == to->a[0].i) return x;
	if (!emit(e, f, at,
		  &(EmitArgs){.code = OP_view, .in = &x, .nin = 1, .attrs = attrs, .nattr = 2},
		  &r, 1))
		return poison();
	r.range = x.range;
	set_bounds(&r, x.lo, x.hi);
	return r;
}

Value
rename_axis(Elab *e, Frame *f, Span at, Value x, Axis from, Axis to)
{
	AxisList a = {1, {from}}, b = {1, {to}};
	return view(e, f, at, x, &a, &b);
}

bool
names_axes(Elab *e, Frame *f, const Node *names, AxisList *out)
{
	*out = (AxisList){0};
	for (const Node *n = names; n; n = n->next) {
		Sym *s = lookup(f, n->name);
		if (!s) {
			fe_unknown(e, f, n->at, n->name, false);
			return false;
		}
		if (s->kind != SY_axis) {
			if (fe_error(e, f, n->at, "'%s' is not an axis", str(e, n->name)))
				fe_note(e, f, s->at, "'%s' is defined here", str(e, n->name));
			return false;
		}
		if (s->poison) return false;
		for (int i = 0; i < s->axes.n; i++) {
			if (axes_has(out, s->axes.a[i])) {
				fe_error(e, f, n->at, "axis '%s' stands here twice",
					 ir_axis_str(e->m, s->axes.a[i]));
				return false;
			}
			if (!axes_add(out, s->axes.a[i])) {
				fe_error(e, f, n->at, "more than %d axes", MAX_AXES);
				return false;
			}
		}
	}
	return true;
}

static double
product(const Elab *e, const AxisList *l)
{
	double p = 1;
	for (int i = 0; i < l->n; i++)
		p *= (double)ir_extent(e->m, l->a[i]);
	return p;
}

/* "3 * 4 = 12", or "8" for one axis */
static const char *
extents_text(const Elab *e, const AxisList *l)
{
	Buf b;
	buf_init(&b, e->arena);
	for (int i = 0; i < l->n; i++)
		buf_printf(&b, "%s%lld", i ? " * " : "", (long long)ir_extent(e->m, l->a[i]));
	if (l->n > 1) buf_printf(&b, " = %s", num_text(e, product(e, l)));
	return b.s;
}

static bool
in_type(const Elab *e, Value x, Axis a)
{
	Type t = type_of(e, x);
	return type_find(&t, a) >= 0;
}

/* Both sides of every `from -> to`, checked against x. */
static bool
read_views(Elab *e, Frame *f, const Node *subs, Value x, AxisList *from, AxisList *to,
	   const Node **node, int *n)
{
	AxisList all = {0};
	Type t = type_of(e, x);
	*n = 0;
	for (const Node *s = subs; s; s = s->next) {
		if (s->kind != N_to) continue;
		if (*n == MAX_AXES) {
			fe_error(e, f, s->at, "more than %d renames at once", MAX_AXES);
			return false;
		}
		AxisList *a = &from[*n], *b = &to[*n];
		if (!names_axes(e, f, s->a, a) || !names_axes(e, f, s->b, b)) return false;
		for (int i = 0; i < a->n; i++) {
			if (type_find(&t, a->a[i]) < 0 || axes_has(&all, a->a[i])) {
				fe_error(e, f, s->at, "there is no axis '%s' to rename in %s",
					 ir_axis_str(e->m, a->a[i]), type_axes_text(e, &t));
				return false;
			}
			axes_add(&all, a->a[i]);
		}
		if (product(e, a) != product(e, b)) {
			fe_error(e, f, s->at, "'%s' is %s, but '%s' is %s", axes_text(e, a),
				 extents_text(e, a), axes_text(e, b), extents_text(e, b));
			return false;
		}
		node[(*n)++] = s;
	}
	for (int k = 0; k < *n; k++)
		for (int i = 0; i < to[k].n; i++) {
			bool twice =
			    type_find(&t, to[k].a[i]) >= 0 && !axes_has(&all, to[k].a[i]);
			for (int j = 0; j < k; j++)
				twice = twice || axes_has(&to[j], to[k].a[i]);
			if (!twice) continue;
			fe_error(e, f, node[k]->at, "%s has the axis '%s' already",
				 type_axes_text(e, &t), ir_axis_str(e->m, to[k].a[i]));
			return false;
		}
	return true;
}

/* All renames happen at once: an axis whose name is also made new steps aside first. */
static Value
index_views(Elab *e, Frame *f, const Node *subs, Span at, Value x)
{
	AxisList from[MAX_AXES], to[MAX_AXES];
	const Node *node[MAX_AXES];
	int n;
	if (!read_views(e, f, subs, x, from, to, node, &n)) return poison();
	for (int k = 0; k < n; k++)
		for (int i = 0; i < from[k].n; i++) {
			Axis a = from[k].a[i];
			bool taken = false,
			     same = from[k].n == 1 && to[k].n == 1 && to[k].a[0].i == a.i;
			for (int j = 0; j < n; j++)
				taken = taken || axes_has(&to[j], a);
			if (!taken || same) continue;
			const Node *decl = node[k]->a;
			for (int j = 0; j < i && decl->next; j++)
				decl = decl->next;
			Axis aside =
			    own_axis(e, decl, "aside", ir_extent(e->m, a), loc_of(e, f, at));
			if (!aside.i) return poison();
			x = rename_axis(e, f, at, x, a, aside);
			from[k].a[i] = aside;
		}
	for (int k = 0; k < n && x.kind != V_poison; k++) {
		if (from[k].n > 1 && to[k].n > 1) {
			AxisList flat = {
			    1,
			    {own_axis(e, node[k], "flat", (int64_t)product(e, &from[k]),
				      loc_of(e, f, at))}};
			if (!flat.a[0].i) return poison();
			x = view(e, f, node[k]->at, x, &from[k], &flat);
			from[k] = flat;
		}
		x = view(e, f, node[k]->at, x, &from[k], &to[k]);
	}
	return x;
}

/* ---- gathers ---- */

/* The index is proven to lie in axis a. */
static bool
in_range(Elab *e, Frame *f, Span at, Axis a, Value idx)
{
	double last = (double)ir_extent(e->m, a) - 1;
	const char *name = ir_axis_str(e->m, a);
	if (idx.kind == V_poison) return false;
	DType dt = type_of(e, idx).dt;
	if (idx.range.i == a.i) return true;
	if (dt != DT_i32 || idx.is_bool) {
		fe_error(e, f, at, "the index along '%s' is %s, not a whole number", name,
			 dt == DT_bool          ? "bool"
			 : idx.kind == V_number ? num_text(e, idx.num)
						: "float");
	} else if (idx.lo >= 0 && idx.hi <= last) {
		return true;
	} else if (idx.kind == V_number) {
		fe_error(e, f, at, "the index along '%s' is %s, but the axis runs from 0 to %s",
			 name, num_text(e, idx.num), num_text(e, last));
	} else if (!isfinite(idx.lo) || !isfinite(idx.hi)) {
		fe_error(e, f, at,
			 "nothing bounds the index along '%s'; it must be of type 'index %s'",
			 name, name);
	} else if (idx.lo < 0) {
		fe_error(e, f, at,
			 "the index along '%s' runs from %s to %s, but the axis begins at 0",
			 name, num_text(e, idx.lo), num_text(e, idx.hi));
	} else {
		fe_error(e, f, at,
			 "the index along '%s' runs from %s to %s, but the axis ends at %s",
			 name, num_text(e, idx.lo), num_text(e, idx.hi), num_text(e, last));
	}
	return false;
}

/* x[a: start + step * pos[b]]; b none: one entry. */
static Value
slice(Elab *e, Frame *f, Span at, Value x, Axis a, Axis b, int64_t start, int64_t by)
{
	Attr attrs[4];
	int n = 0;
	Value r;
	if (b.i && start == 0 && by == 1 && ir_extent(e->m, a) == ir_extent(e->m, b))
		return rename_axis(e, f, at, x, a, b);
	attrs[n++] = attr_make_axis(AK_axis, a);
	if (b.i) attrs[n++] = attr_make_axes(AK_to, &(AxisList){1, {b}});
	attrs[n++] = attr_make_int(AK_start, start);
	attrs[n++] = attr_make_int(AK_step, by);
	if (!emit(e, f, at,
		  &(EmitArgs){.code = OP_slice, .in = &x, .nin = 1, .attrs = attrs, .nattr = n},
		  &r, 1))
		return poison();
	r.range = x.range;
	set_bounds(&r, x.lo, x.hi);
	return r;
}

/* The index as a slice or roll; false if it is neither, or if its axis is matched with another. */
static bool
index_view(Elab *e, Frame *f, Span at, Value *x, Axis a, Value idx, const AxisList *others)
{
	Affine af;
	Axis b;
	int64_t shift;
	if (idx.kind == V_number) {
		*x = slice(e, f, at, *x, a, NO_AXIS, (int64_t)idx.num, 1);
		return true;
	}
	if (idx.kind != V_const) return false;
	if (is_roll(e, idx, ir_extent(e->m, a), &b, &shift)) {
		if (b.i != a.i && (in_type(e, *x, b) || axes_has(others, b))) return false;
		if (shift) {
			Attr attrs[2] = {attr_make_axis(AK_axis, a),
					 attr_make_int(AK_shift, shift)};
			Value r, in = *x;
			emit(e, f, at,
			     &(EmitArgs){.code = OP_roll,
					 .in = &in,
					 .nin = 1,
					 .attrs = attrs,
					 .nattr = 2},
			     &r, 1);
			if (r.kind != V_poison) {
				r.range = x->range;
				set_bounds(&r, x->lo, x->hi);
			}
			*x = r;
		}
		if (b.i != a.i && x->kind != V_poison) *x = rename_axis(e, f, at, *x, a, b);
		return true;
	}
	Type t = type_of(e, idx);
	if (!affine_of(e, idx.v, &af) || af.n > 1 || t.n != af.n) return false;
	if (fabs(af.c0) > FE_MAX_EXTENT || (af.n && fabs(af.c[0]) > FE_MAX_EXTENT))
		return false;
	b = af.n ? af.a[0] : NO_AXIS;
	if (af.n && b.i != a.i && (in_type(e, *x, b) || axes_has(others, b))) return false;
	if (af.n && b.i == a.i && axes_has(others, b)) return false;
	*x = slice(e, f, at, *x, a, b, (int64_t)af.c0, af.n ? (int64_t)af.c[0] : 1);
	return true;
}

Value
index_at(Elab *e, Frame *f, Span at, Value x, const AxisList *axes, const Value *idx,
	 const Span *idx_at)
{
	Value in[1 + MAX_AXES], r;
	AxisList left = {0};
	int nin = 1;
	for (int k = 0; k < axes->n; k++)
		if (!in_range(e, f, idx_at[k], axes->a[k], idx[k])) return poison();
	for (int k = 0; k < axes->n; k++) {
		AxisList others = {0}; /* axes the other indices have or look along */
		for (int j = 0; j < axes->n; j++) {
			if (j == k) continue;
			Type t = type_of(e, idx[j]);
			for (int i = 0; i < t.n; i++)
				axes_add(&others, t.ax[i].a);
			axes_add(&others, axes->a[j]);
		}
		if (index_view(e, f, at, &x, axes->a[k], idx[k], &others)) {
			if (x.kind == V_poison) return x;
			continue;
		}
		axes_add(&left, axes->a[k]);
		in[nin++] = idx[k];
	}
	if (!left.n) return x;
	if (nin > op_info[OP_gather].max_in) {
		fe_error(e, f, at, "more than %d indices at once",
			 op_info[OP_gather].max_in - 1);
		return poison();
	}
	in[0] = x;
	Attr along = attr_make_axes(AK_axes, &left);
	if (!emit(e, f, at,
		  &(EmitArgs){
		      .code = OP_gather, .in = in, .nin = nin, .attrs = &along, .nattr = 1},
		  &r, 1))
		return poison();
	r.range = x.range;
	set_bounds(&r, x.lo, x.hi);
	return r;
}

Value
index_tensor(Elab *e, Frame *f, const Node *subs, Span at, Value x, const Value *given)
{
	AxisList axes = {0}, one;
	Value idx[MAX_AXES];
	Span idx_at[MAX_AXES];
	Type t = type_of(e, x);
	for (const Node *s = subs; s; s = s->next) {
		if (s->kind == N_axes) {
			fe_error(e, f, s->at,
				 "a tensor is indexed as t[a: i] or viewed as t[a -> b]; '%s' "
				 "is neither",
				 text_of(e, f, s->at));
			return poison();
		}
		if (s->kind != N_at) continue;
		Node name = {.kind = N_name, .name = s->name, .at = s->name_at};
		if (!names_axes(e, f, &name, &one)) return poison();
		if (one.n != 1) {
			fe_error(e, f, s->name_at,
				 "'%s' stands for %d axes; an index goes along one",
				 str(e, s->name), one.n);
			return poison();
		}
		if (type_find(&t, one.a[0]) < 0 || axes_has(&axes, one.a[0])) {
			fe_error(e, f, s->name_at, "there is no axis '%s' to index in %s",
				 str(e, s->name), type_axes_text(e, &t));
			return poison();
		}
		Value i = given ? *given++ : eval(e, f, s->a);
		if (i.kind == V_ref && e->body_open) i = read_ref(e, at, i.ref);
		if (!in_body(e, f, s->a->at, &i)) return poison();
		idx_at[axes.n] = s->a->at;
		idx[axes.n] = i;
		axes_add(&axes, one.a[0]);
	}
	if (axes.n) x = index_at(e, f, at, x, &axes, idx, idx_at);
	return x.kind == V_poison ? x : index_views(e, f, subs, at, x);
}
