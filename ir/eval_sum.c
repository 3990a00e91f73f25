/*
 * eval_sum.c - the interpreter's kernels that sum: reductions, contractions, statistics, attention, the optimizer.
 *
 * Input: a Call. Output: unrounded results; every sum is accumulated in double, in a fixed order. Nothing is clever:
 * attention holds a row of scores, softmax goes over its row three times. Only dot has a layout of its own, for speed.
 */
#include "ir/eval.h"

#include <math.h>
#include <string.h>

/* ---- reductions ---- */

static void
fill(Tensor *y, double value)
{
	for (int64_t i = 0; i < y->n; i++)
		y->x[i] = value;
}

/* The walk over operand 0's axes with the result's place, which stands still along what is reduced. */
static Walk
reduction(const Call *c)
{
	Walk w = {0};

	walk_axes(&w, &c->in[0], NULL);
	walk_over(&w, 0, &c->out[0], NULL);
	walk_over(&w, 1, &c->in[0], NULL);
	return w;
}

void
eval_sum(Call *c)
{
	Walk w = reduction(c);

	while (walk_next(&w))
		for (int64_t i = 0; i < w.len; i++)
			c->out[0].x[w.at[0] + i * w.by[0]] += c->in[0].x[w.at[1] + i * w.by[1]];
}

/* sign 1: the largest, -1: the smallest; NaN wins. */
static void
extreme(Call *c, double sign)
{
	Walk w = reduction(c);

	fill(&c->out[0], -sign * INFINITY);
	while (walk_next(&w))
		for (int64_t i = 0; i < w.len; i++) {
			double *y = &c->out[0].x[w.at[0] + i * w.by[0]],
			       x = c->in[0].x[w.at[1] + i * w.by[1]];
			if (sign * x > sign * *y || isnan(x)) *y = x;
		}
}

void
eval_rmax(Call *c)
{
	extreme(c, 1);
}

void
eval_rmin(Call *c)
{
	extreme(c, -1);
}

/* Offsets of tensor t over the index space of some axes, row-major; 0 along axes it lacks. */
static int64_t *
offsets(Arena *tmp, const Tensor *t, const AxisList *axes, const int64_t *ext)
{
	Walk w = {0};
	int64_t n = 0;

	for (int i = 0; i < axes->n; i++)
		walk_push(&w, axes->a[i], ext[i]);
	walk_over(&w, 0, t, NULL);
	int64_t *at = NEW_N(tmp, int64_t, walk_count(&w) + 1);
	while (walk_next(&w))
		for (int64_t i = 0; i < w.len; i++)
			at[n++] = w.at[0] + i * w.by[0];
	return at;
}

/* A list of axes with their local extents. */
typedef struct Grid {
	AxisList axes;
	int64_t ext[MAX_AXES], n;
} Grid;

/* Adds the axes of t that are neither in `not` nor there already. */
static void
grid_add(Grid *s, const Tensor *t, const AxisList * not, const AxisList *nor)
{
	if (!s->n) s->n = 1;
	for (int k = 0; k < t->t.n; k++) {
		Axis a = t->t.ax[k].a;
		if ((not &&axes_has(not, a)) || (nor && axes_has(nor, a)) ||
		    axes_has(&s->axes, a))
			continue;
		ENSURE(axes_add(&s->axes, a), "an index space of more than %d axes", MAX_AXES);
		s->ext[s->axes.n - 1] = t->ext[k];
		s->n *= t->ext[k];
	}
}

/* The listed axes, whose extents are those of t. */
static Grid
grid_of(const Tensor *t, const AxisList *axes)
{
	Grid s = {.axes = *axes, .n = 1};

	for (int i = 0; i < axes->n; i++) {
		int k = type_find(&t->t, axes->a[i]);
		s.ext[i] = k >= 0 ? t->ext[k] : 1;
		s.n *= s.ext[i];
	}
	return s;
}

static int64_t *
places(Arena *tmp, const Tensor *t, const Grid *s)
{
	return offsets(tmp, t, &s->axes, s->ext);
}

/* Rows of operand 0: what `axes` leaves, and the axes themselves. */
typedef struct Rows {
	Grid outer, inner;
	int64_t *x_row, *x_in; /* x[x_row[r] + x_in[i]] */
} Rows;

static Rows
rows_of(Call *c, const AxisList *axes)
{
	Rows r = {.inner = grid_of(&c->in[0], axes)};

	grid_add(&r.outer, &c->in[0], axes, NULL);
	if (!r.outer.n) r.outer.n = 1;
	r.x_row = places(c->tmp, &c->in[0], &r.outer);
	r.x_in = places(c->tmp, &c->in[0], &r.inner);
	return r;
}

void
eval_softmax(Call *c)
{
	Rows r = rows_of(c, attr_axes(c->op, AK_axes));
	int64_t *y_row = places(c->tmp, &c->out[0], &r.outer),
		*y_in = places(c->tmp, &c->out[0], &r.inner);

	for (int64_t k = 0; k < r.outer.n; k++) {
		const double *x = c->in[0].x + r.x_row[k];
		double *y = c->out[0].x + y_row[k], top = -INFINITY, sum = 0;
		for (int64_t i = 0; i < r.inner.n; i++)
			top = fmax(top, x[r.x_in[i]]);
		for (int64_t i = 0; i < r.inner.n; i++)
			sum += y[y_in[i]] = exp(x[r.x_in[i]] - top);
		for (int64_t i = 0; i < r.inner.n; i++)
			y[y_in[i]] /= sum;
	}
}

/* Mean (0 if not centred) and 1 / sqrt(biased variance about it + eps) of a row. */
static void
statistics(const Call *c, const Rows *r, int64_t row, double *mean, double *rstd)
{
	const double *x = c->in[0].x + r->x_row[row];
	double n = (double)r->inner.n, sum = 0, squares = 0;

	for (int64_t i = 0; i < r->inner.n; i++)
		sum += x[r->x_in[i]];
	*mean = attr_int(c->op, AK_center) ? sum / n : 0;
	for (int64_t i = 0; i < r->inner.n; i++) {
		double d = x[r->x_in[i]] - *mean;
		squares += d * d;
	}
	*rstd = 1 / sqrt(squares / n + attr_num(c->op, AK_eps));
}

void
eval_normalize(Call *c)
{
	Rows r = rows_of(c, attr_axes(c->op, AK_axes));
	int64_t *y_row = places(c->tmp, &c->out[0], &r.outer),
		*y_in = places(c->tmp, &c->out[0], &r.inner);

	for (int64_t k = 0; k < r.outer.n; k++) {
		double mean, rstd;
		statistics(c, &r, k, &mean, &rstd);
		for (int64_t i = 0; i < r.inner.n; i++)
			c->out[0].x[y_row[k] + y_in[i]] =
			    (c->in[0].x[r.x_row[k] + r.x_in[i]] - mean) * rstd;
	}
}

void
eval_moments(Call *c)
{
	Rows r = rows_of(c, attr_axes(c->op, AK_axes));

	for (int k = 0; k < 2; k++) {
		if (!c->out[k].x) continue;
		int64_t *y_row = places(c->tmp, &c->out[k], &r.outer);
		for (int64_t i = 0; i < r.outer.n; i++) {
			double mean, rstd;
			statistics(c, &r, i, &mean, &rstd);
			c->out[k].x[y_row[i]] = k ? rstd : mean;
		}
	}
}

/* Selection by repeated maximum; NaN counts as the smallest, ties go to the lower number. */
void
eval_topk(Call *c)
{
	AxisList along = {.n = 1, .a = {attr_axis(c->op, AK_axis)}};
	Axis to = attr_axes(c->op, AK_to)->a[0];
	Rows r = rows_of(c, &along);
	bool *taken = NEW_N(c->tmp, bool, r.inner.n);

	for (int k = 0; k < 2; k++) {
		if (!c->out[k].x) continue;
		Tensor *y = &c->out[k];
		int at = type_find(&y->t, to);
		int64_t *y_row = places(c->tmp, y, &r.outer);
		for (int64_t row = 0; row < r.outer.n; row++) {
			const double *x = c->in[0].x + r.x_row[row];
			memset(taken, 0, (size_t)r.inner.n * sizeof *taken);
			for (int64_t j = 0; j < y->ext[at] && j < r.inner.n; j++) {
				int64_t best = -1;
				for (int64_t i = 0; i < r.inner.n; i++) {
					double have = best < 0 ? 0 : x[r.x_in[best]],
					       x_i = x[r.x_in[i]];
					if (!taken[i] && (best < 0 || x_i > have ||
							  (isnan(have) && !isnan(x_i))))
						best = i;
				}
				taken[best] = true;
				y->x[y_row[row] + j * y->stride[at]] =
				    k ? (double)best : x[r.x_in[best]];
			}
		}
	}
}

/* ---- dot ---- */

/* c[m, n] = a[m, k] b[k, n], all dense; four terms at a time, since loads are what it costs. */
static void
gemm(int64_t m, int64_t n, int64_t k, const double *a, const double *b, double *restrict y)
{
	for (int64_t i = 0; i < m; i++, a += k, y += n) {
		int64_t l = 0;
		for (; l + 4 <= k; l += 4) {
			const double *b0 = b + l * n, *b1 = b0 + n, *b2 = b1 + n, *b3 = b2 + n;
			double a0 = a[l], a1 = a[l + 1], a2 = a[l + 2], a3 = a[l + 3];
			for (int64_t j = 0; j < n; j++)
				y[j] += a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j];
		}
		for (; l < k; l++)
			for (int64_t j = 0; j < n; j++)
				y[j] += a[l] * b[l * n + j];
	}
}

/* The axes of list s followed by those of t: as one space. */
static Grid
joined(const Grid *s, const Grid *t)
{
	Grid r = *s;

	for (int i = 0; i < t->axes.n; i++) {
		ENSURE(r.axes.n < MAX_AXES, "an index space of more than %d axes", MAX_AXES);
		r.axes.a[r.axes.n] = t->axes.a[i];
		r.ext[r.axes.n++] = t->ext[i];
	}
	r.n = s->n * t->n;
	return r;
}

/* x in the order (batch, s, t), dense. */
static double *
arranged(Call *c, const Tensor *x, const Grid *batch, const Grid *s, const Grid *t)
{
	Grid st = joined(s, t);
	int64_t *at_b = places(c->tmp, x, batch), *at = places(c->tmp, x, &st);
	double *y = NEW_N(c->tmp, double, batch->n *st.n), *p = y;

	for (int64_t i = 0; i < batch->n; i++)
		for (int64_t j = 0; j < st.n; j++)
			*p++ = x->x[at_b[i] + at[j]];
	return y;
}

/* Axes fall into four groups: summed; of both (batch); of x only (rows); of y only (columns). */
void
eval_dot(Call *c)
{
	const Tensor *x = &c->in[0], *y = &c->in[1];
	const AxisList *axes = attr_axes(c->op, AK_axes);
	AxisList of_x = axes_of(&x->t), of_y = axes_of(&y->t);
	Grid sum = grid_of(x, axes), rows = {.n = 1}, cols = {.n = 1}, batch = {.n = 1},
	     all = {.n = 1};

	grid_add(&rows, x, axes, &of_y);
	grid_add(&cols, y, axes, &of_x);
	grid_add(&all, x, axes, &rows.axes);
	batch = all;
	double *a = arranged(c, x, &batch, &rows, &sum),
	       *b = arranged(c, y, &batch, &sum, &cols);
	double *r = NEW_N(c->tmp, double, rows.n *cols.n);
	Grid rc = joined(&rows, &cols);
	int64_t *at_b = places(c->tmp, &c->out[0], &batch),
		*at = places(c->tmp, &c->out[0], &rc);
	for (int64_t i = 0; i < batch.n; i++) {
		memset(r, 0, (size_t)(rc.n) * sizeof *r);
		gemm(rows.n, cols.n, sum.n, a + i * rows.n * sum.n, b + i * sum.n * cols.n, r);
		for (int64_t j = 0; j < rc.n; j++)
			c->out[0].x[at_b[i] + at[j]] = r[j];
	}
}

/* ---- cross entropy ---- */

/* in[1] is the label; a label on another rank contributes nothing. */
void
eval_cross_entropy(Call *c)
{
	Axis along = attr_axis(c->op, AK_axis);
	AxisList axes = {.n = 1, .a = {along}};
	Rows r = rows_of(c, &axes);
	Grid outer = r.outer; /* a label may have axes that the logits lack */
	int64_t unit = r.inner.n > 1 ? r.x_in[1] : 0;

	grid_add(&outer, &c->in[1], &axes, NULL);
	int64_t *x_row = places(c->tmp, &c->in[0], &outer),
		*label = places(c->tmp, &c->in[1], &outer);
	int64_t *loss = c->out[0].x ? places(c->tmp, &c->out[0], &outer) : NULL;
	int64_t *lse = c->out[1].x ? places(c->tmp, &c->out[1], &outer) : NULL;
	for (int64_t k = 0; k < outer.n && !c->failed; k++) {
		const double *x = c->in[0].x + x_row[k];
		double top = -INFINITY, sum = 0, total;
		for (int64_t i = 0; i < r.inner.n; i++)
			top = fmax(top, x[r.x_in[i]]);
		for (int64_t i = 0; i < r.inner.n; i++)
			sum += exp(x[r.x_in[i]] - top);
		total = top + log(sum);
		if (lse) c->out[1].x[lse[k]] = total;
		int64_t i = eval_index(c, &c->in[0], along, c->in[1].x[label[k]]);
		if (loss) c->out[0].x[loss[k]] = i < 0 ? total : total - x[i * unit];
	}
}

/* ---- attention ---- */

/* One attention: its operands by name and where each index of the score's space lies in them. */
typedef struct Attention {
	Call *c;
	const Tensor *q, *k, *v, *mask, *bias;
	Grid rows, keys, feat,
	    values; /* of the scores without keys; summed over; features of scores; of results */
	int64_t *q_row, *k_row, *v_row, *mask_row, *bias_row;
	int64_t *k_key, *v_key, *mask_key, *bias_key;
	int64_t *q_feat, *k_feat, *v_value;
	int64_t *query; /* [rows] position of the query, for the band */
	int64_t key_start;
	uint64_t *drop_row; /* [rows] logical place of key 0 */
	uint64_t *drop_key;
	bool band, has_lo, has_hi;
	int64_t lo, hi;
	double scale, cap;
	double *s, *p; /* [keys] capped scores without bias; probabilities */
} Attention;

/* Logical places: the query's axes without feat, then what only k has, then keys; in global extents. */
static void
attention_drop(Attention *t)
{
	Tensor draws = {.n = 1}; /* offsets in it are logical places */
	Grid all = joined(&t->rows, &t->keys);
	uint64_t place = 1, base = 0;

	draws.t.n = all.axes.n;
	for (int i = all.axes.n - 1; i >= 0; i--) {
		const Tensor *from =
		    type_find(&t->q->t, all.axes.a[i]) >= 0 && i < t->rows.axes.n ? t->q : t->k;
		int k = type_find(&from->t, all.axes.a[i]);
		draws.t.ax[i].a = all.axes.a[i];
		draws.stride[i] = (int64_t)place;
		base += (uint64_t)from->start[k] * place;
		place *= (uint64_t)from->full[k];
	}
	int64_t *row = places(t->c->tmp, &draws, &t->rows),
		*key = places(t->c->tmp, &draws, &t->keys);
	t->drop_row = NEW_N(t->c->tmp, uint64_t, t->rows.n + 1);
	t->drop_key = NEW_N(t->c->tmp, uint64_t, t->keys.n + 1);
	for (int64_t i = 0; i < t->rows.n; i++)
		t->drop_row[i] = base + (uint64_t)row[i];
	for (int64_t i = 0; i < t->keys.n; i++)
		t->drop_key[i] = (uint64_t)key[i];
}

/* lo <= pos[key] - pos[query] <= hi; an absent bound is open. */
static void
attention_band(Attention *t)
{
	const Op *op = t->c->op;
	const Attr *query = attr_find(op, AK_query), *lo = attr_find(op, AK_lo),
		   *hi = attr_find(op, AK_hi);

	t->band = query != NULL;
	if (!query) return;
	t->has_lo = lo != NULL, t->has_hi = hi != NULL;
	t->lo = lo ? lo->i : 0, t->hi = hi ? hi->i : 0;
	int k = type_find(&t->q->t, query->axis);
	Tensor along = {.n = 1, .t = {.n = 1}, .stride = {1}};
	along.t.ax[0].a = query->axis;
	t->query = places(t->c->tmp, &along, &t->rows);
	for (int64_t i = 0; i < t->rows.n; i++)
		t->query[i] += k >= 0 ? t->q->start[k] : 0;
	int j = type_find(&t->k->t, t->keys.axes.a[0]);
	t->key_start = j >= 0 ? t->k->start[j] : 0;
}

/* `extra`: the first operand after q, k, v and what the gradient reads. */
static void
attention_begin(Attention *t, Call *c, int extra)
{
	const AxisList *keys = attr_axes(c->op, AK_keys), *feat = attr_axes(c->op, AK_feat);
	Arena *tmp = c->tmp;

	*t = (Attention){.c = c,
			 .q = &c->in[0],
			 .k = &c->in[1],
			 .v = &c->in[2],
			 .rows = {.n = 1},
			 .values = {.n = 1}};
	if (attr_int_or(c->op, AK_mask, 0)) t->mask = &c->in[extra++];
	if (attr_int_or(c->op, AK_bias, 0)) t->bias = &c->in[extra];
	t->scale = attr_num(c->op, AK_scale), t->cap = attr_num(c->op, AK_cap);
	t->keys = grid_of(t->k, keys), t->feat = grid_of(t->q, feat);
	grid_add(&t->rows, t->q, feat, keys);
	grid_add(&t->rows, t->k, feat, keys);
	grid_add(&t->values, t->v, &t->rows.axes, keys);
	t->q_row = places(tmp, t->q, &t->rows), t->k_row = places(tmp, t->k, &t->rows);
	t->v_row = places(tmp, t->v, &t->rows);
	t->k_key = places(tmp, t->k, &t->keys), t->v_key = places(tmp, t->v, &t->keys);
	t->q_feat = places(tmp, t->q, &t->feat), t->k_feat = places(tmp, t->k, &t->feat);
	t->v_value = places(tmp, t->v, &t->values);
	if (t->mask)
		t->mask_row = places(tmp, t->mask, &t->rows),
		t->mask_key = places(tmp, t->mask, &t->keys);
	if (t->bias)
		t->bias_row = places(tmp, t->bias, &t->rows),
		t->bias_key = places(tmp, t->bias, &t->keys);
	t->s = NEW_N(tmp, double, t->keys.n + 1), t->p = NEW_N(tmp, double, t->keys.n + 1);
	attention_drop(t);
	attention_band(t);
}

static bool
attends(const Attention *t, int64_t row, int64_t key)
{
	if (t->mask && t->mask->x[t->mask_row[row] + t->mask_key[key]] == 0) return false;
	if (!t->band) return true;
	int64_t ahead = t->key_start + key - t->query[row];
	return !(t->has_lo && ahead < t->lo) && !(t->has_hi && ahead > t->hi);
}

/* Capped scores of a row in t->s, probabilities in t->p; returns the log sum exp of the scores with bias (-inf: none). */
static double
attention_row(const Attention *t, int64_t row)
{
	double top = -INFINITY, sum = 0;

	for (int64_t j = 0; j < t->keys.n; j++) {
		const double *q = t->q->x + t->q_row[row],
			     *k = t->k->x + t->k_row[row] + t->k_key[j];
		double s = 0;
		t->p[j] = -INFINITY;
		if (!attends(t, row, j)) continue;
		for (int64_t i = 0; i < t->feat.n; i++)
			s += q[t->q_feat[i]] * k[t->k_feat[i]];
		s *= t->scale;
		if (t->cap != 0) s = t->cap * tanh(s / t->cap);
		t->s[j] = s;
		t->p[j] = s + (t->bias ? t->bias->x[t->bias_row[row] + t->bias_key[j]] : 0);
		if (t->p[j] > top || isnan(t->p[j])) top = t->p[j];
	}
	for (int64_t j = 0; j < t->keys.n; j++) {
		t->p[j] = t->p[j] == -INFINITY ? 0 : exp(t->p[j] - top);
		sum += t->p[j];
	}
	for (int64_t j = 0; j < t->keys.n && sum != 0; j++)
		t->p[j] /= sum;
	return sum != 0 ? top + log(sum) : -INFINITY;
}

void
eval_attention(Call *c)
{
	Attention t;
	Tensor *o = &c->out[0], *lse = &c->out[1];

	attention_begin(&t, c, 3);
	int64_t *o_row = o->x ? places(c->tmp, o, &t.rows) : NULL,
		*o_value = o->x ? places(c->tmp, o, &t.values) : NULL;
	int64_t *lse_row = lse->x ? places(c->tmp, lse, &t.rows) : NULL;
	for (int64_t row = 0; row < t.rows.n; row++) {
		double total = attention_row(&t, row);
		if (lse->x) lse->x[lse_row[row]] = total;
		for (int64_t j = 0; o->x && j < t.keys.n; j++) {
			double p = t.p[j];
			if (p == 0) continue;
			p *= eval_drop(c, t.drop_row[row] + t.drop_key[j]);
			const double *v = t.v->x + t.v_row[row] + t.v_key[j];
			for (int64_t i = 0; i < t.values.n; i++)
				o->x[o_row[row] + o_value[i]] += p * v[t.v_value[i]];
		}
	}
}

/* With p = softmax(s), drop factor m, o = sum (p m) v: dp = m (do . v), ds = p (dp - sum p dp), and so on to q and k. */
static void
attention_grad_row(const Attention *t, int64_t row, const double *dout, const int64_t *d_value,
		   double *dp)
{
	Call *c = t->c;
	double *dq = c->out[0].x, *dk = c->out[1].x, *dv = c->out[2].x, *db = c->out[3].x,
	       mean = 0;

	for (int64_t j = 0; j < t->keys.n; j++) {
		dp[j] = 0;
		if (t->p[j] == 0) continue;
		double m = eval_drop(c, t->drop_row[row] + t->drop_key[j]);
		int64_t v = t->v_row[row] + t->v_key[j];
		for (int64_t i = 0; i < t->values.n; i++) {
			dp[j] += m * dout[d_value[i]] * t->v->x[v + t->v_value[i]];
			if (dv) dv[v + t->v_value[i]] += t->p[j] * m * dout[d_value[i]];
		}
		mean += t->p[j] * dp[j];
	}
	for (int64_t j = 0; j < t->keys.n; j++) {
		if (t->p[j] == 0) continue;
		double ds = t->p[j] * (dp[j] - mean);
		if (db) db[t->bias_row[row] + t->bias_key[j]] += ds;
		if (t->cap != 0) ds *= 1 - t->s[j] / t->cap * (t->s[j] / t->cap);
		ds *= t->scale;
		int64_t q = t->q_row[row], k = t->k_row[row] + t->k_key[j];
		for (int64_t i = 0; i < t->feat.n; i++) {
			if (dq) dq[q + t->q_feat[i]] += ds * t->k->x[k + t->k_feat[i]];
			if (dk) dk[k + t->k_feat[i]] += ds * t->q->x[q + t->q_feat[i]];
		}
	}
}

/* Whether a gradient lies in memory as its operand does. */
static bool
laid_out_as(const Tensor *dx, const Tensor *x)
{
	if (!dx->x) return true;
	if (dx->t.n != x->t.n) return false;
	for (int k = 0; k < x->t.n; k++)
		if (dx->t.ax[k].a.i != x->t.ax[k].a.i) return false;
	return true;
}

/* q k v o lse do [mask] [bias] -> dq dk dv [dbias]. The probabilities are computed anew; o and lse are not needed. */
void
eval_attention_grad(Call *c)
{
	Attention t;
	Tensor result[MAX_OUT];
	const Tensor *dout = &c->in[5];

	attention_begin(&t, c, 6);
	const Tensor *like[MAX_OUT] = {t.q, t.k, t.v, t.bias};
	memcpy(result, c->out, sizeof result);
	for (int i = 0; i < MAX_OUT;
	     i++) { /* made in the operand's layout, then brought into the result's */
		if (!like[i] || laid_out_as(&c->out[i], like[i])) continue;
		c->out[i] = *like[i];
		c->out[i].x = NEW_N(c->tmp, double, like[i]->n + 1);
	}
	if (!t.bias) c->out[3].x = NULL;
	int64_t *d_row = places(c->tmp, dout, &t.rows),
		*d_value = places(c->tmp, dout, &t.values);
	double *dp = NEW_N(c->tmp, double, t.keys.n + 1);
	for (int64_t row = 0; row < t.rows.n; row++) {
		attention_row(&t, row);
		attention_grad_row(&t, row, dout->x + d_row[row], d_value, dp);
	}
	for (int i = 0; i < MAX_OUT; i++)
		if (result[i].x && c->out[i].x != result[i].x && c->out[i].x)
			eval_overlap(&result[i], &c->out[i], false);
	memcpy(c->out, result, sizeof result);
}

/* ---- once a step ---- */

void
eval_sumsq(Call *c)
{
	const Tensor *x = &c->in[0];
	Walk w = {0};
	double sum = 0;

	for (int k = 0; k < x->t.n; k++) { /* padding is no gradient */
		walk_push(&w, x->t.ax[k].a, x->end[k] - x->start[k]);
		w.stride[k][0] = x->stride[k];
	}
	while (walk_next(&w))
		for (int64_t i = 0; i < w.len; i++) {
			double g = x->x[w.at[0] + i * w.by[0]];
			sum += g * g;
		}
	c->out[0].x[0] = sum;
}

static double
scalar(const Call *c, int k)
{
	return c->in[k].x[0];
}

/* The tensors of an update have one layout: gradient and moments are made like the weight. */
static bool
same_layout(Call *c, int n)
{
	for (int k = 1; k < n; k++)
		if (!laid_out_as(&c->in[k], &c->in[0]) || c->in[k].n != c->in[0].n) {
			eval_fail(c, "operand %d is not laid out as the weight", k);
			return false;
		}
	return true;
}

void
eval_adamw(Call *c)
{
	const double *w = c->in[0].x, *g = c->in[1].x, *m = c->in[2].x, *v = c->in[3].x;
	double rate = scalar(c, 4) * attr_num(c->op, AK_lr), scale = scalar(c, 5),
	       c1 = scalar(c, 6), c2 = scalar(c, 7);
	double b1 = attr_num(c->op, AK_beta1), b2 = attr_num(c->op, AK_beta2),
	       eps = attr_num(c->op, AK_eps);
	double decay = attr_num(c->op, AK_decay);

	if (!same_layout(c, 4)) return;
	for (int64_t i = 0; i < c->in[0].n; i++) {
		double gi = g[i] * scale, mi = b1 * m[i] + (1 - b1) * gi,
		       vi = b2 * v[i] + (1 - b2) * gi * gi;
		double step = mi / c1 / (sqrt(vi / c2) + eps) + decay * w[i];
		if (c->out[0].x) c->out[0].x[i] = w[i] - rate * step;
		if (c->out[1].x) c->out[1].x[i] = mi;
		if (c->out[2].x) c->out[2].x[i] = vi;
	}
}

void
eval_sgd(Call *c)
{
	const double *w = c->in[0].x, *g = c->in[1].x, *m = c->in[2].x;
	double rate = scalar(c, 3) * attr_num(c->op, AK_lr), scale = scalar(c, 4);
	double momentum = attr_num(c->op, AK_momentum), decay = attr_num(c->op, AK_decay);

	if (!same_layout(c, 3)) return;
	for (int64_t i = 0; i < c->in[0].n; i++) {
		double mi = momentum * m[i] + g[i] * scale + decay * w[i];
		if (c->out[0].x) c->out[0].x[i] = w[i] - rate * mi;
		if (c->out[1].x) c->out[1].x[i] = mi;
	}
}
