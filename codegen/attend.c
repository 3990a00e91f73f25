/*
 * attend.c - attention and its gradient as calls of the runtime's tiled kernels.
 *
 * The kernel knows one axis of queries, one of keys, features of unit stride, and up to eight carried axes with any
 * strides. Which axes are which follows from names: the scores have those of q and k without the features, and what v
 * has beside them is its own features. An axis only q has (queries, and groups that share keys) is the queries' if a
 * band compares its positions, else the longest such. A layout the kernel does not take is printed as plain loops.
 */
#include "codegen/attend.h"

#include <inttypes.h>

static AxisList
without(const Type *t, const AxisList *a, const AxisList *b)
{
	AxisList l = {0};

	for (int k = 0; k < t->n; k++)
		if (!(a && axes_has(a, t->ax[k].a)) && !(b && axes_has(b, t->ax[k].a)))
			axes_add(&l, t->ax[k].a);
	return l;
}

static const Type *
type_of(const Attend *t, Val v)
{
	return bc_type(t->c, v);
}

/* Sorts the axes. */
static void
find_roles(Attend *t)
{
	const Type *q = type_of(t, t->q), *k = type_of(t, t->k);
	const Attr *query = attr_find(t->op, AK_query);
	AxisList rows, only_k;
	int64_t longest = 0;

	t->keys = *attr_axes(t->op, AK_keys);
	t->feat = *attr_axes(t->op, AK_feat);
	rows = without(q, &t->feat, &t->keys);
	only_k = without(k, &t->feat, &t->keys);
	for (int j = 0; j < only_k.n; j++)
		axes_add(&rows, only_k.a[j]);
	t->values = without(type_of(t, t->v), &rows, &t->keys);
	if (query)
		t->query = query->axis;
	else
		for (int j = 0; j < rows.n; j++) {
			int at = type_find(q, rows.a[j]);

			if (at < 0 || type_find(k, rows.a[j]) >= 0 ||
			    type_find(type_of(t, t->v), rows.a[j]) >= 0)
				continue;
			if (bc_extent(t->c, q, at) > longest)
				longest = bc_extent(t->c, q, at), t->query = rows.a[j];
		}
	for (int j = 0; j < rows.n; j++) {
		int at = type_find(q, rows.a[j]);

		if (rows.a[j].i == t->query.i) continue;
		t->outer_types.ax[t->outer_types.n++] =
		    at >= 0 ? q->ax[at] : k->ax[type_find(k, rows.a[j])];
		axes_add(&t->outer, rows.a[j]);
	}
	if (t->query.i && (type_find(q, t->query) < 0 || type_find(k, t->query) >= 0))
		t->misfit = true;
	if (t->outer.n > MAX_OUTER) t->misfit = true;
}

/* ---- text of the descriptor ---- */

/* Stride and extent of a group of axes taken as one; a value that lacks them all has stride 0. */
static int64_t
joint_stride(Attend *t, Val v, const Access *x, const AxisList *list)
{
	const Type *type = type_of(t, v);
	int64_t stride = 0, extent = 1;
	int found = 0;

	for (int k = list->n - 1; k >= 0; k--) {
		int at = type_find(type, list->a[k]);
		int64_t n;

		if (at < 0) continue;
		found++;
		n = bc_extent(t->c, type, at);
		if (n == 1) continue;
		if (extent == 1)
			stride = x->stride[at];
		else if (x->stride[at] != stride * extent)
			t->misfit = true;
		extent *= n;
	}
	if (found && found != list->n) t->misfit = true;
	return stride;
}

static const char *
list_size(const Attend *t, Val v, const AxisList *list)
{
	Type p = {.n = 0};

	for (int k = 0; k < list->n; k++)
		p.ax[p.n++] = type_of(t, v)->ax[type_find(type_of(t, v), list->a[k])];
	return cg_count(t->c->g, t->c->mesh, &p);
}

static const char *
stride_text(const Attend *t, Val base, int64_t n)
{
	return cg_stride(t->c->g, t->c->mesh, type_of(t, base), n);
}

static const char *
outer_strides(Attend *t, Val v, const Access *x)
{
	Buf b;

	buf_init(&b, t->c->g->a);
	for (int k = 0; k < t->outer.n; k++) {
		int at = type_find(type_of(t, v), t->outer.a[k]);

		buf_printf(&b, "%s%s", k ? ", " : "",
			   at < 0 || bc_extent(t->c, type_of(t, v), at) == 1
			       ? "0"
			       : stride_text(t, x->base, x->stride[at]));
	}
	return b.n ? b.s : "0";
}

static int64_t
query_stride(const Attend *t, Val v, const Access *x)
{
	int at = t->query.i ? type_find(type_of(t, v), t->query) : -1;

	return at < 0 ? 0 : x->stride[at];
}

static void
field(Attend *t, const char *fmt, ...)
{
	va_list ap;
	Buf b;

	buf_init(&b, t->c->g->a);
	va_start(ap, fmt);
	buf_vprintf(&b, fmt, ap);
	va_end(ap);
	put_line(&t->c->text, t->c->depth + 2, "%s", b.s);
}

/* A matrix operand: strides of the carried axes, and of its rows (queries or keys); features must be packed. */
static void
matrix_field(Attend *t, const char *name, Val v, const Access *x, bool by_key,
	     const AxisList *features)
{
	int64_t row = by_key ? joint_stride(t, v, x, &t->keys) : query_stride(t, v, x);
	int64_t one = joint_stride(t, v, x, features), n = 1;

	for (int k = 0; k < features->n; k++) {
		int at = type_find(type_of(t, v), features->a[k]);

		if (at >= 0) n *= bc_extent(t->c, type_of(t, v), at);
	}
	if (n > 1 && one != 1) t->misfit = true;
	if (row < n) row = n; /* one row: any leading dimension does */
	field(t, ".%s = {%s}, .%s_row = %s,", name, outer_strides(t, v, x), name,
	      stride_text(t, x->base, row));
}

/* A mask or bias over any axes of the scores. */
static void
term_field(Attend *t, const char *name, Val v, const Access *x, const char *pointer)
{
	field(t, ".%s = %s, .%s_outer = {%s}, .%s_q = %s, .%s_k = %s,", name, pointer, name,
	      outer_strides(t, v, x), name, stride_text(t, x->base, query_stride(t, v, x)),
	      name, stride_text(t, x->base, joint_stride(t, v, x, &t->keys)));
}

DropPlace
attend_drop_place(const Attend *t)
{
	const Module *m = t->c->g->m;
	const Type *q = type_of(t, t->q), *k = type_of(t, t->k);
	AxisList only_k = without(k, &t->feat, &t->keys);
	DropPlace d = {.axes = without(q, &t->feat, &t->keys)};
	bool drops = t->c->drop[t->op - t->c->b->ops] != NULL;
	int64_t place = 1, by_mb = 0;
	Buf base;

	buf_init(&base, t->c->g->a);
	for (int j = 0; j < only_k.n; j++)
		axes_add(&d.axes, only_k.a[j]);
	for (int j = 0; j < t->keys.n; j++)
		place *= m->axes[t->keys.a[j].i].extent;
	for (int j = d.axes.n - 1; j >= 0; j--) {
		const Type *from = type_find(q, d.axes.a[j]) >= 0 ? q : k;
		AxisUse u = from->ax[type_find(from, d.axes.a[j])];
		const char *start = drops ? bc_start(t->c, u, 0) : NULL;

		d.stride[j] = place;
		if (drops) by_mb += place * bc_by_mb(t->c, u);
		if (start) buf_printf(&base, " + %s * %" PRId64, start, place);
		place *= m->axes[d.axes.a[j].i].extent;
	}
	if (by_mb) t->c->uses_mb = true;
	if (by_mb)
		d.base = cg_text(t->c->g->a, "mb * %" PRId64 "%s", by_mb, base.n ? base.s : "");
	else if (base.n)
		d.base = base.s + 3;
	return d;
}

static void
drop_fields(Attend *t, const char *site)
{
	DropPlace d = attend_drop_place(t);
	int64_t by_query = 0;
	Buf b;

	buf_init(&b, t->c->g->a);
	for (int o = 0; o < t->outer.n; o++)
		for (int j = 0; j < d.axes.n; j++)
			if (t->outer.a[o].i == d.axes.a[j].i)
				buf_printf(&b, "%s%" PRId64, o ? ", " : "", d.stride[j]);
	for (int j = 0; j < d.axes.n; j++)
		if (d.axes.a[j].i == t->query.i) by_query = d.stride[j];
	field(t,
	      ".key = %s.key, .step = run->step, .threshold = %s.threshold, .inv_keep = "
	      "%s.inv_keep,",
	      site, site, site);
	field(t, ".drop_outer = {%s}, .drop_q = %" PRId64 ", .drop_base = %s,", b.n ? b.s : "0",
	      by_query, d.base ? d.base : "0");
	t->c->uses_run = true;
}

static const char *
bound(const Attend *t, AttrKey key, const char *open)
{
	const Attr *a = attr_find(t->op, key);

	return a ? cg_text(t->c->g->a, "%" PRId64, a->i) : open;
}

static Access
contiguous(const Attend *t, Val v)
{
	Access x = {.base = v};

	bc_strides(t->c, type_of(t, v), x.stride);
	return x;
}

static const char *
operand(Attend *t, Val v, Access *x)
{
	if (!bc_access(t->c, v, x)) {
		cg_error(t->c->g, t->op->loc,
			 "an operand of 'attention' has no place in memory");
		return "NULL";
	}
	return bc_pointer(t->c, x);
}

/* Prints the descriptor; the caller closes the block it opens. */
static void
put_descriptor(Attend *t, const Access *q, const Access *k, const Access *v, const Access *o,
	       const Access *lse)
{
	CgBody *c = t->c;
	const char *site = c->drop[t->op - c->b->ops];
	Access x;

	t->name = scope_take(scope_new(c->g->a, c->scope), "attention");
	bc_line(c, "{");
	put_line(&c->text, c->depth + 1, "const GvAttention %s = {", t->name);
	if (t->outer.n) {
		Buf b;

		buf_init(&b, c->g->a);
		for (int j = 0; j < t->outer.n; j++)
			buf_printf(&b, "%s%s", j ? ", " : "",
				   cg_size(c->g, c->mesh, t->outer_types.ax[j]));
		field(t, ".nouter = %d, .extent = {%s},", t->outer.n, b.s);
	}
	field(t, ".sq = %s, .sk = %s, .d = %s, .dv = %s,",
	      t->query.i ? cg_size(c->g, c->mesh,
				   type_of(t, t->q)->ax[type_find(type_of(t, t->q), t->query)])
			 : "1",
	      list_size(t, t->k, &t->keys), list_size(t, t->q, &t->feat),
	      list_size(t, t->v, &t->values));
	matrix_field(t, "q", t->q, q, false, &t->feat);
	matrix_field(t, "k", t->k, k, true, &t->feat);
	matrix_field(t, "v", t->v, v, true, &t->values);
	matrix_field(t, "o", t->o, o, false, &t->values);
	if (lse)
		field(t, ".lse = {%s}, .lse_row = %s,", outer_strides(t, t->lse, lse),
		      stride_text(t, lse->base, query_stride(t, t->lse, lse)));
	field(t, ".lo = %s, .hi = %s,", bound(t, AK_lo, "INT64_MIN"),
	      bound(t, AK_hi, "INT64_MAX"));
	field(t, ".scale = %s, .cap = %s,", literal(c->g, DT_f32, attr_num(t->op, AK_scale)),
	      literal(c->g, DT_f32, attr_num(t->op, AK_cap)));
	if (t->mask.i) {
		const char *p = operand(t, t->mask, &x);

		term_field(t, "mask", t->mask, &x,
			   cg_text(c->g->a, "(const unsigned char *)(%s)", p));
	}
	if (t->bias.i) {
		const char *p = operand(t, t->bias, &x);

		term_field(t, "bias", t->bias, &x, p);
	}
	if (site) drop_fields(t, site);
}

static void
optional_operands(Attend *t, int at)
{
	if (attr_int_or(t->op, AK_mask, 0)) t->mask = t->op->in[at++];
	if (attr_int_or(t->op, AK_bias, 0)) t->bias = t->op->in[at];
}

static const Sink *
plain(Attend *t, Val v)
{
	const Sink *to = v.i ? bc_sink(t->c, v, 0) : NULL;

	if (to && to->mode != STORE_set) t->misfit = true;
	return to;
}

/* Takes back what was printed since `from`. */
static void
unprint(CgBody *c, size_t from)
{
	c->text.n = from;
	if (c->text.s) c->text.s[from] = '\0';
}

void
emit_attention(CgBody *c, uint32_t n)
{
	const Op *op = &c->b->ops[n];
	Attend t = {.c = c,
		    .op = op,
		    .q = op->in[0],
		    .k = op->in[1],
		    .v = op->in[2],
		    .o = op->out[0],
		    .lse = op->out[1]};
	Access q, k, v, o, lse;
	const char *pq, *pk, *pv;
	const Sink *to_o, *to_lse;

	size_t start = c->text.n;

	optional_operands(&t, 3);
	if (!t.o.i) return;
	find_roles(&t);
	pq = operand(&t, t.q, &q), pk = operand(&t, t.k, &k), pv = operand(&t, t.v, &v);
	to_o = plain(&t, t.o), to_lse = plain(&t, t.lse);
	if (c->g->failed) return;
	o = contiguous(&t, t.o);
	if (t.lse.i) lse = contiguous(&t, t.lse);
	if (!t.misfit) put_descriptor(&t, &q, &k, &v, &o, to_lse ? &lse : NULL);
	if (t.misfit) {
		unprint(c, start);
		attend_plain(&t);
	} else {
		put_line(&c->text, c->depth + 1, "};");
		put_line(&c->text, c->depth + 1, "gv_attention(&%s, %s, %s, %s, %s, %s);",
			 t.name, pq, pk, pv, to_o->ptr, to_lse ? to_lse->ptr : "NULL");
		bc_line(c, "}");
	}
	for (int j = 0; j < op->nout; j++)
		if (op->out[j].i) bc_copy_rest(c, op->out[j]);
}

/* The kernel takes the gradient of the bias to lie as the bias does. */
static void
check_bias_layout(Attend *t)
{
	Access bias, d = contiguous(t, t->dbias);
	const Type *tb = type_of(t, t->bias), *td = type_of(t, t->dbias);

	if (!bc_access(t->c, t->bias, &bias)) return; /* said elsewhere */
	for (int k = 0; k < tb->n; k++) {
		int at = type_find(td, tb->ax[k].a);

		if (at < 0 || (bc_extent(t->c, tb, k) > 1 && bias.stride[k] != d.stride[at]))
			t->misfit = true;
	}
}

void
emit_attention_grad(CgBody *c, uint32_t n)
{
	const Op *op = &c->b->ops[n];
	Attend t = {.c = c,
		    .op = op,
		    .q = op->in[0],
		    .k = op->in[1],
		    .v = op->in[2],
		    .o = op->in[3],
		    .lse = op->in[4],
		    .dout = op->in[5],
		    .dq = op->out[0],
		    .dk = op->out[1],
		    .dv = op->out[2],
		    .dbias = op->out[3]};
	Access q, k, v, o, lse, dout, x;
	const char *pq, *pk, *pv, *po, *pl, *pd;
	const Sink *to[4];

	size_t start = c->text.n;

	optional_operands(&t, 6);
	find_roles(&t);
	pq = operand(&t, t.q, &q), pk = operand(&t, t.k, &k), pv = operand(&t, t.v, &v);
	po = operand(&t, t.o, &o), pl = operand(&t, t.lse, &lse),
	pd = operand(&t, t.dout, &dout);
	for (int j = 0; j < 4; j++)
		to[j] = plain(&t, op->out[j]);
	if (c->g->failed) return;
	if (t.dbias.i && to[3]) check_bias_layout(&t);
	for (int j = 0; j < 4; j++)
		if (to[j] && to[j]->mode != STORE_set && bc_sink(c, op->out[j], 1))
			cg_error(c->g, op->loc,
				 "a gradient of 'attention' is added to two buffers; the host "
				 "target cannot do that yet");
	if (!to[0] || !to[1] || !to[2]) t.misfit = true; /* the kernel makes all three */
	if (!t.misfit) {
		put_descriptor(&t, &q, &k, &v, &o, &lse);
		field(&t, ".grad = &(const GvAttentionGrad){");
		matrix_field(&t, "dout", t.dout, &dout, false, &t.values);
		x = contiguous(&t, t.dq);
		matrix_field(&t, "dq", t.dq, &x, false, &t.feat);
		x = contiguous(&t, t.dk);
		matrix_field(&t, "dk", t.dk, &x, true, &t.feat);
		x = contiguous(&t, t.dv);
		matrix_field(&t, "dv", t.dv, &x, true, &t.values);
		field(&t, "},");
	}
	if (t.misfit) {
		unprint(c, start);
		attend_plain_grad(&t);
	} else {
		put_line(&c->text, c->depth + 1, "};");
		put_line(&c->text, c->depth + 1,
			 "gv_attention_grad(&%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s);",
			 t.name, pq, pk, pv, po, pl, pd, to[0]->ptr, to[1]->ptr, to[2]->ptr,
			 to[3] ? to[3]->ptr : "NULL");
		bc_line(c, "}");
	}
	for (int j = 0; j < op->nout; j++)
		if (op->out[j].i) bc_copy_rest(c, op->out[j]);
}
