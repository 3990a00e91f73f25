/*
 * attend_plain.c - attention and its gradient as loops over named axes, for layouts the tiled kernel does not take: keys
 * that are several axes apart in memory, features that are not packed, gradients that are added to a parameter's.
 *
 * One row of scores is held on the stack at a time. The gradient computes scores again from the log sum exp; rows that
 * meet in one gradient are walked in order by one thread.
 */
#include "codegen/attend.h"

#include <inttypes.h>

typedef struct Rows { /* what the loops run over, and names inside them */
	Attend *t;
	CgBody *c;
	Type rows, keys, feat, values;
	Access q, k, v, o, lse, dout, mask, bias;
	const char *key;       /* flat number of the key */
	const char *condition; /* the key is seen; NULL: always */
	const char *site;      /* of dropout; NULL */
	const char *s, *base;
} Rows;

static Type
uses_of(const Type *t, const AxisList *l)
{
	Type r = {.n = 0};

	for (int k = 0; k < l->n; k++)
		r.ax[r.n++] = t->ax[type_find(t, l->a[k])];
	return r;
}

static const char *
var(const Rows *r, Axis a)
{
	return r->c->g->axis_var[a.i];
}

static const char *
take(const Rows *r, const char *name)
{
	return scope_take(r->c->scope, name);
}

static void
line(const Rows *r, int depth, const char *fmt, ...)
{
	va_list ap;
	Buf b;

	buf_init(&b, r->c->g->a);
	va_start(ap, fmt);
	buf_vprintf(&b, fmt, ap);
	va_end(ap);
	put_line(&r->c->text, depth, "%s", b.s);
}

static const char *
flat_key(const Rows *r)
{
	const char *s = var(r, r->keys.ax[0].a);

	for (int k = 1; k < r->keys.n; k++)
		s = cg_text(r->c->g->a, k > 1 ? "((%s) * %s + %s)" : "(%s * %s + %s)", s,
			    cg_size(r->c->g, r->c->mesh, r->keys.ax[k]),
			    var(r, r->keys.ax[k].a));
	return s;
}

/* Band and mask. */
static const char *
seen(const Rows *r)
{
	const Op *op = r->t->op;
	const Attr *query = attr_find(op, AK_query), *lo = attr_find(op, AK_lo),
		   *hi = attr_find(op, AK_hi);
	Buf b;

	buf_init(&b, r->c->g->a);
	if (query && lo)
		buf_printf(&b, "%s - %s >= %" PRId64, r->key, var(r, query->axis), lo->i);
	if (query && hi)
		buf_printf(&b, "%s%s - %s <= %" PRId64, b.n ? " && " : "", r->key,
			   var(r, query->axis), hi->i);
	if (r->t->mask.i)
		buf_printf(&b, "%s%s", b.n ? " && " : "",
			   plain_element(r->c, r->t->mask, &r->mask, NULL, 0));
	return b.n ? b.s : NULL;
}

static bool
begin(Rows *r, Attend *t)
{
	CgBody *c = t->c;
	const Type *q = bc_type(c, t->q), *k = bc_type(c, t->k), *v = bc_type(c, t->v);
	DropPlace d = attend_drop_place(t);

	*r = (Rows){.t = t, .c = c, .site = c->drop[t->op - c->b->ops]};
	for (int j = 0; j < d.axes.n; j++) {
		const Type *from = type_find(q, d.axes.a[j]) >= 0 ? q : k;

		r->rows.ax[r->rows.n++] = from->ax[type_find(from, d.axes.a[j])];
	}
	r->keys = uses_of(k, &t->keys), r->feat = uses_of(q, &t->feat),
	r->values = uses_of(v, &t->values);
	if (!bc_access(c, t->q, &r->q) || !bc_access(c, t->k, &r->k) ||
	    !bc_access(c, t->v, &r->v))
		return false;
	if (t->mask.i && !bc_access(c, t->mask, &r->mask)) return false;
	if (t->bias.i && !bc_access(c, t->bias, &r->bias)) return false;
	if (r->keys.n == 0 || type_count(c->g->m, c->mesh, &r->keys) > ROW_BUFFER_MAX) {
		cg_error(c->g, t->op->loc,
			 "'attention' over %" PRId64
			 " keys in this layout; plain loops hold at most %d",
			 type_count(c->g->m, c->mesh, &r->keys), ROW_BUFFER_MAX);
		return false;
	}
	r->key = flat_key(r);
	r->condition = seen(r);
	if (r->site) c->uses_run = true;
	return true;
}

/* The factor of dropout of the current score. */
static const char *
keep_factor(const Rows *r)
{
	DropPlace d = attend_drop_place(r->t);
	Buf b;

	buf_init(&b, r->c->g->a);
	if (d.base) buf_printf(&b, "%s + ", d.base);
	for (int j = 0; j < d.axes.n; j++)
		buf_printf(&b, "%s * %" PRId64 " + ", var(r, d.axes.a[j]), d.stride[j]);
	return cg_text(r->c->g->a, "gv_drop_at(%s, run->step, (uint64_t)(%s%s))", r->site,
		       b.n ? b.s : "", r->key);
}

/* The score of the current row and key as `s`; `raw` is it without bias. */
static void
put_score(const Rows *r, int depth, const char *s, const char *raw)
{
	const Cg *g = r->c->g;
	const char *dot = take(r, "dot"), *cap = literal(g, DT_f32, attr_num(r->t->op, AK_cap));
	const char *scale = literal(g, DT_f32, attr_num(r->t->op, AK_scale));
	int n;

	line(r, depth, "double %s = 0;", dot);
	n = plain_open(r->c, &r->feat, NULL, depth, false);
	line(r, depth + n, "%s += %s * %s;", dot, plain_element(r->c, r->t->q, &r->q, NULL, 0),
	     plain_element(r->c, r->t->k, &r->k, NULL, 0));
	plain_close(r->c, depth, n);
	if (attr_num(r->t->op, AK_cap) != 0)
		line(r, depth, "const real %s = %s * gv_tanh((real)%s * %s / %s);", raw, cap,
		     dot, scale, cap);
	else
		line(r, depth, "const real %s = (real)%s * %s;", raw, dot, scale);
	line(r, depth, r->t->bias.i ? "const real %s = %s + %s;" : "const real %s = %s;", s,
	     raw, r->t->bias.i ? plain_element(r->c, r->t->bias, &r->bias, NULL, 0) : "");
}

static void
store_at(const Rows *r, int depth, Val v, const char *x)
{
	const Sink *to = v.i ? bc_sink(r->c, v, 0) : NULL;

	if (to)
		line(r, depth, to->mode == STORE_set ? "%s = %s;" : "%s += %s;",
		     plain_target(r->c, v, to, NULL, 0), x);
}

void
attend_plain(Attend *t)
{
	Rows r;
	CgBody *c = t->c;
	const char *score, *top, *sum, *inv, *base, *s, *raw, *o, *keys;
	int d, n;

	if (!begin(&r, t)) return;
	score = take(&r, "score"), top = take(&r, "top"), sum = take(&r, "sum"),
	inv = take(&r, "inv"), base = take(&r, "base");
	s = take(&r, "s"), raw = take(&r, "raw"), o = take(&r, "o_sum");
	keys = cg_count(c->g, c->mesh, &r.keys);
	n = plain_open(c, &r.rows, NULL, c->depth, true);
	if (!n) bc_line(c, "{");
	d = c->depth + (n ? n : 1);
	line(&r, d, "real %s[%s], %s = -(real)INFINITY;", score, keys, top);
	int inner = plain_open(c, &r.keys, NULL, d, false), at = d + inner;

	line(&r, at, "%s[%s] = -(real)INFINITY;", score, r.key);
	if (r.condition) line(&r, at, "if (!(%s)) continue;", r.condition);
	put_score(&r, at, s, raw);
	line(&r, at, "%s[%s] = %s;", score, r.key, s);
	line(&r, at, "%s = %s > %s ? %s : %s;", top, s, top, s, top);
	plain_close(c, d, inner);
	line(&r, d,
	     "const real %s = %s == -(real)INFINITY ? 0 : %s; /* no key is seen: all weights "
	     "are 0 */",
	     base, top, top);
	line(&r, d, "double %s = 0;", sum);
	inner = plain_open(c, &r.keys, NULL, d, false);
	line(&r, at, "%s[%s] = gv_exp(%s[%s] - %s);", score, r.key, score, r.key, base);
	line(&r, at, "%s += %s[%s];", sum, score, r.key);
	if (r.site) line(&r, at, "%s[%s] *= %s;", score, r.key, keep_factor(&r));
	plain_close(c, d, inner);
	line(&r, d, "const real %s = %s > 0 ? (real)(1 / %s) : 0;", inv, sum, sum);
	store_at(
	    &r, d, t->lse,
	    cg_text(c->g->a, "%s > 0 ? %s + (real)log(%s) : -(real)INFINITY", sum, base, sum));
	int w = plain_open(c, &r.values, NULL, d, false);

	line(&r, d + w, "double %s = 0;", o);
	inner = plain_open(c, &r.keys, NULL, d + w, false);
	line(&r, d + w + inner, "%s += %s[%s] * %s;", o, score, r.key,
	     plain_element(c, t->v, &r.v, NULL, 0));
	plain_close(c, d + w, inner);
	store_at(&r, d + w, t->o, cg_text(c->g->a, "(real)%s * %s", o, inv));
	plain_close(c, d, w);
	plain_close(c, c->depth, n ? n : 1);
}

/* Axes of the rows along which no two rows meet in a gradient. */
static AxisList
rows_apart(const Rows *r)
{
	const Val results[] = {r->t->dq, r->t->dk, r->t->dv, r->t->dbias};
	AxisList l = {0};

	for (int k = 0; k < r->rows.n; k++) {
		bool apart = true;

		for (size_t j = 0; j < COUNTOF(results); j++)
			if (results[j].i &&
			    type_find(bc_type(r->c, results[j]), r->rows.ax[k].a) < 0)
				apart = false;
		if (apart) axes_add(&l, r->rows.ax[k].a);
	}
	return l;
}

/* What one score adds to the gradients: p is its probability, keep its dropout factor. */
static void
put_score_grad(Rows *r, int depth, const char *p, const char *raw, const char *delta)
{
	Attend *t = r->t;
	CgBody *c = r->c;
	const char *keep = "1", *dp = take(r, "dp"), *ds = take(r, "ds"), *dr = take(r, "dr");
	const char *scale = literal(c->g, DT_f32, attr_num(t->op, AK_scale)),
		   *cap = literal(c->g, DT_f32, attr_num(t->op, AK_cap));
	const Sink *to;
	int n;

	if (r->site) {
		keep = take(r, "keep");
		line(r, depth, "const real %s = %s;", keep, keep_factor(r));
	}
	line(r, depth, "double %s = 0;", dp);
	n = plain_open(c, &r->values, NULL, depth, false);
	line(r, depth + n, "%s += %s * %s;", dp, plain_element(c, t->dout, &r->dout, NULL, 0),
	     plain_element(c, t->v, &r->v, NULL, 0));
	if ((to = t->dv.i ? bc_sink(c, t->dv, 0) : NULL))
		line(r, depth + n, "%s += %s * %s * %s;", plain_target(c, t->dv, to, NULL, 0),
		     p, keep, plain_element(c, t->dout, &r->dout, NULL, 0));
	plain_close(c, depth, n);
	line(r, depth, "const real %s = %s * (real)(%s * %s - %s);", ds, p, dp, keep, delta);
	if ((to = t->dbias.i ? bc_sink(c, t->dbias, 0) : NULL))
		line(r, depth, "%s += %s;", plain_target(c, t->dbias, to, NULL, 0), ds);
	if (attr_num(t->op, AK_cap) != 0)
		line(r, depth, "const real %s = %s * %s * (1 - %s / %s * (%s / %s));", dr, ds,
		     scale, raw, cap, raw, cap);
	else
		line(r, depth, "const real %s = %s * %s;", dr, ds, scale);
	n = plain_open(c, &r->feat, NULL, depth, false);
	if ((to = t->dq.i ? bc_sink(c, t->dq, 0) : NULL))
		line(r, depth + n, "%s += %s * %s;", plain_target(c, t->dq, to, NULL, 0), dr,
		     plain_element(c, t->k, &r->k, NULL, 0));
	if ((to = t->dk.i ? bc_sink(c, t->dk, 0) : NULL))
		line(r, depth + n, "%s += %s * %s;", plain_target(c, t->dk, to, NULL, 0), dr,
		     plain_element(c, t->q, &r->q, NULL, 0));
	plain_close(c, depth, n);
}

void
attend_plain_grad(Attend *t)
{
	const Val results[] = {t->dq, t->dk, t->dv, t->dbias};
	Rows r;
	CgBody *c = t->c;
	const char *delta, *base, *s, *raw, *p;
	AxisList apart, rest;
	int d, n;

	if (!begin(&r, t)) return;
	if (!bc_access(c, t->o, &r.o) || !bc_access(c, t->lse, &r.lse) ||
	    !bc_access(c, t->dout, &r.dout))
		return;
	for (size_t k = 0; k < COUNTOF(results); k++)
		if (results[k].i && bc_sink(c, results[k], 0))
			plain_zero(c, results[k], bc_sink(c, results[k], 0));
	apart = rows_apart(&r), rest = axes_except(&r.rows, &apart);
	n = plain_open(c, &r.rows, &rest, c->depth, true);
	n += plain_open(c, &r.rows, &apart, c->depth + n, false);
	if (!n) bc_line(c, "{");
	d = c->depth + (n ? n : 1);
	delta = take(&r, "delta"), base = take(&r, "base"), s = take(&r, "s"),
	raw = take(&r, "raw"), p = take(&r, "prob");
	line(&r, d, "const real %s = %s == -(real)INFINITY ? 0 : %s;", base,
	     plain_element(c, t->lse, &r.lse, NULL, 0),
	     plain_element(c, t->lse, &r.lse, NULL, 0));
	line(&r, d, "double %s = 0;", delta);
	int w = plain_open(c, &r.values, NULL, d, false);

	line(&r, d + w, "%s += %s * %s;", delta, plain_element(c, t->o, &r.o, NULL, 0),
	     plain_element(c, t->dout, &r.dout, NULL, 0));
	plain_close(c, d, w);
	int inner = plain_open(c, &r.keys, NULL, d, false), at = d + inner;

	if (r.condition) line(&r, at, "if (!(%s)) continue;", r.condition);
	put_score(&r, at, s, raw);
	line(&r, at, "const real %s = gv_exp(%s - %s);", p, s, base);
	put_score_grad(&r, at, p, raw, delta);
	plain_close(c, d, inner);
	plain_close(c, c->depth, n ? n : 1);
}
