/*
 * attention.c - exact attention in tiles: no [queries keys] matrix exists, only BQ x BK scores on the stack.
 * Forward: online softmax (Milakov & Gimelshein 2018; Dao 2022, FlashAttention). Backward: scores are recomputed from the
 * saved log sum exp (Dao 2022, section 3.1; delta = rowsum(dO * O)). The products of tiles are BLAS calls of one thread;
 * threads share the carried axes. Bands (causal, sliding window) skip the tiles they hide.
 */
#include <string.h>

#include "kernels.h"

enum { BQ = 64, BK = 256 };

typedef struct Cell { /* one index of the carried axes */
	const real *q, *k, *v, *o, *dout;
	real *out, *lse, *dq, *dk, *dv, *dbias;
	const unsigned char *mask;
	const real *bias;
	uint64_t drop;
} Cell;

static int64_t
min64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t
max64(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* First and one past the last key that queries [q0, q1) may see. */
static int64_t
key_first(const GvAttention *t, int64_t q0)
{
	return t->lo == INT64_MIN ? 0 : min64(t->sk, max64(0, q0 + t->lo));
}

static int64_t
key_end(const GvAttention *t, int64_t q1)
{
	return t->hi == INT64_MAX ? t->sk : max64(0, min64(t->sk, q1 + t->hi));
}

/* Keys of tile [k0, k0 + nk) that query `row` may see by the band: [*a, *b) relative to k0. */
static void
band(const GvAttention *t, int64_t row, int64_t k0, int64_t nk, int64_t *a, int64_t *b)
{
	*a = t->lo == INT64_MIN ? 0 : min64(nk, max64(0, row + t->lo - k0));
	*b = t->hi == INT64_MAX ? nk : max64(*a, min64(nk, row + t->hi + 1 - k0));
}

/* Finishes a tile of raw products in place: scale, cap, bias, mask, band. Hidden entries become -inf. */
static void
finish_scores(const GvAttention *t, const Cell *c, int64_t q0, int64_t nq, int64_t k0,
	      int64_t nk, real *s)
{
	for (int64_t i = 0; i < nq; i++) {
		real *restrict row = s + i * BK;
		int64_t a, b;
		band(t, q0 + i, k0, nk, &a, &b);
		for (int64_t j = 0; j < a; j++)
			row[j] = -(real)INFINITY;
		for (int64_t j = b; j < nk; j++)
			row[j] = -(real)INFINITY;
#pragma omp simd
		for (int64_t j = a; j < b; j++)
			row[j] *= t->scale;
		if (t->cap != 0)
#pragma omp simd
			for (int64_t j = a; j < b; j++)
				row[j] = t->cap * gv_tanh(row[j] / t->cap);
		if (c->bias) {
			const real *bias = c->bias + (q0 + i) * t->bias_q + k0 * t->bias_k;
			for (int64_t j = a; j < b; j++)
				row[j] += bias[j * t->bias_k];
		}
		if (c->mask) {
			const unsigned char *mask =
			    c->mask + (q0 + i) * t->mask_q + k0 * t->mask_k;
			for (int64_t j = a; j < b; j++)
				if (!mask[j * t->mask_k]) row[j] = -(real)INFINITY;
		}
	}
}

static uint64_t
drop_index(const GvAttention *t, const Cell *c, int64_t query, int64_t key)
{
	return c->drop + (uint64_t)(query * t->drop_q + key);
}

/* One block of queries, all its keys. */
static void
forward_block(const GvAttention *t, const Cell *c, int64_t q0, int64_t nq)
{
	_Alignas(64) real s[BQ * BK];
	real top[BQ], sum[BQ];
	const int64_t k_end = key_end(t, q0 + nq);
	for (int64_t i = 0; i < nq; i++) {
		top[i] = -(real)INFINITY;
		sum[i] = 0;
		memset(c->out + (q0 + i) * t->o_row, 0, (size_t)t->dv * sizeof(real));
	}
	for (int64_t k0 = key_first(t, q0); k0 < k_end; k0 += BK) {
		const int64_t nk = min64(BK, k_end - k0);
		gv_gemm(false, true, nq, nk, t->d, c->q + q0 * t->q_row, t->q_row,
			c->k + k0 * t->k_row, t->k_row, 0, s, BK);
		finish_scores(t, c, q0, nq, k0, nk, s);
		for (int64_t i = 0; i < nq; i++) {
			real *restrict row = s + i * BK, *restrict o =
							     c->out + (q0 + i) * t->o_row;
			real m = top[i], l = 0;
#pragma omp simd reduction(max : m)
			for (int64_t j = 0; j < nk; j++)
				m = row[j] > m ? row[j] : m;
			const real base = m == -(real)INFINITY
					      ? 0
					      : m; /* nothing seen yet: all weights are 0 */
#pragma omp simd reduction(+ : l)
			for (int64_t j = 0; j < nk; j++) {
				row[j] = gv_exp(row[j] - base);
				l += row[j];
			}
			if (t->threshold)
				for (int64_t j = 0; j < nk; j++)
					row[j] *= gv_drop(t->key, t->step,
							  drop_index(t, c, q0 + i, k0 + j),
							  t->threshold, t->inv_keep);
			const real fade = gv_exp(top[i] - base);
			sum[i] = sum[i] * fade + l;
			top[i] = m;
			if (fade != 1)
#pragma omp simd
				for (int64_t j = 0; j < t->dv; j++)
					o[j] *= fade;
		}
		gv_gemm(false, false, nq, t->dv, nk, s, BK, c->v + k0 * t->v_row, t->v_row, 1,
			c->out + q0 * t->o_row, t->o_row);
	}
	for (int64_t i = 0; i < nq; i++) {
		real *restrict o = c->out + (q0 + i) * t->o_row;
		const real inv = sum[i] > 0 ? 1 / sum[i] : 0;
#pragma omp simd
		for (int64_t j = 0; j < t->dv; j++)
			o[j] *= inv;
		if (c->lse)
			c->lse[(q0 + i) * t->lse_row] =
			    sum[i] > 0 ? top[i] + gv_log(sum[i]) : -(real)INFINITY;
	}
}

/* ds (in dp) and the probabilities that multiply v (in s) of one tile, from finished scores and dp = dO V^T. */
static void
grad_tile(const GvAttention *t, const Cell *c, int64_t q0, int64_t nq, int64_t k0, int64_t nk,
	  const real *delta, real *s, real *dp)
{
	for (int64_t i = 0; i < nq; i++) {
		real *restrict row = s + i * BK, *restrict d = dp + i * BK;
		const real l = c->lse[(q0 + i) * t->lse_row],
			   base = l == -(real)INFINITY ? 0 : l;
		real *db = c->dbias ? c->dbias + (q0 + i) * t->bias_q + k0 * t->bias_k : NULL;
		for (int64_t j = 0; t->threshold && j < nk; j++)
			d[j] *= gv_drop(t->key, t->step, drop_index(t, c, q0 + i, k0 + j),
					t->threshold, t->inv_keep);
		if (t->cap != 0 || db || t->threshold) { /* the general case, entry by entry */
			for (int64_t j = 0; j < nk; j++) {
				const real p = gv_exp(row[j] - base);
				real ds = p * (d[j] - delta[i]);
				if (db) db[j * t->bias_k] += ds;
				if (t->cap != 0 && p > 0) {
					const real raw =
					    c->bias ? row[j] - c->bias[(q0 + i) * t->bias_q +
								       (k0 + j) * t->bias_k]
						    : row[j];
					ds *= 1 - raw / t->cap * (raw / t->cap);
				}
				d[j] = ds * t->scale;
				row[j] = p * (t->threshold
						  ? gv_drop(t->key, t->step,
							    drop_index(t, c, q0 + i, k0 + j),
							    t->threshold, t->inv_keep)
						  : 1);
			}
		} else {
#pragma omp simd
			for (int64_t j = 0; j < nk; j++) {
				row[j] = gv_exp(row[j] - base);
				d[j] = row[j] * (d[j] - delta[i]) * t->scale;
			}
		}
	}
}

static void
backward_block(const GvAttention *t, const Cell *c, int64_t q0, int64_t nq)
{
	_Alignas(64) real s[BQ * BK], dp[BQ * BK];
	real delta[BQ];
	const int64_t k_end = key_end(t, q0 + nq);
	const GvAttentionGrad *g = t->grad;
	const int64_t dout_row = g ? g->dout_row : t->o_row, dq_row = g ? g->dq_row : t->q_row,
		      dk_row = g ? g->dk_row : t->k_row, dv_row = g ? g->dv_row : t->v_row;
	const real *q = c->q + q0 * t->q_row, *dout = c->dout + q0 * dout_row;
	for (int64_t i = 0; i < nq; i++) {
		const real *restrict o = c->o + (q0 + i) * t->o_row, *restrict d =
									 dout + i * dout_row;
		real x = 0;
#pragma omp simd reduction(+ : x)
		for (int64_t j = 0; j < t->dv; j++)
			x += o[j] * d[j];
		delta[i] = x;
	}
	for (int64_t k0 = key_first(t, q0); k0 < k_end; k0 += BK) {
		const int64_t nk = min64(BK, k_end - k0);
		const real *k = c->k + k0 * t->k_row, *v = c->v + k0 * t->v_row;
		gv_gemm(false, true, nq, nk, t->d, q, t->q_row, k, t->k_row, 0, s, BK);
		finish_scores(t, c, q0, nq, k0, nk, s);
		gv_gemm(false, true, nq, nk, t->dv, dout, dout_row, v, t->v_row, 0, dp, BK);
		grad_tile(t, c, q0, nq, k0, nk, delta, s, dp);
		gv_gemm(true, false, nk, t->dv, nq, s, BK, dout, dout_row, 1,
			c->dv + k0 * dv_row, dv_row);
		gv_gemm(false, false, nq, t->d, nk, dp, BK, k, t->k_row, 1, c->dq + q0 * dq_row,
			dq_row);
		gv_gemm(true, false, nk, t->d, nq, dp, BK, q, t->q_row, 1, c->dk + k0 * dk_row,
			dk_row);
	}
}

typedef struct Operands {
	const real *q, *k, *v, *o, *dout;
	real *out, *lse, *dq, *dk, *dv, *dbias;
} Operands;

/* Carried axes with a gradient to sum over (an operand lacks them) are walked in order by one thread; the others are shared. */
static bool
axis_is_shared(const GvAttention *t, int a)
{
	return t->q[a] == 0 || t->k[a] == 0 || t->v[a] == 0;
}

static Cell
cell_at(const GvAttention *t, const Operands *x, const int64_t *index)
{
	const GvAttentionGrad *g = t->grad;
	int64_t q = 0, k = 0, v = 0, o = 0, lse = 0, mask = 0, bias = 0, drop = t->drop_base;
	int64_t dout = 0, dq = 0, dk = 0, dv = 0;
	for (int a = 0; a < t->nouter; a++) {
		q += index[a] * t->q[a];
		k += index[a] * t->k[a];
		v += index[a] * t->v[a];
		o += index[a] * t->o[a];
		dout += index[a] * (g ? g->dout[a] : t->o[a]);
		dq += index[a] * (g ? g->dq[a] : t->q[a]);
		dk += index[a] * (g ? g->dk[a] : t->k[a]);
		dv += index[a] * (g ? g->dv[a] : t->v[a]);
		lse += index[a] * t->lse[a];
		mask += index[a] * t->mask_outer[a];
		bias += index[a] * t->bias_outer[a];
		drop += index[a] * t->drop_outer[a];
	}
	return (Cell){
	    .q = x->q + q,
	    .k = x->k + k,
	    .v = x->v + v,
	    .o = x->o ? x->o + o : NULL,
	    .dout = x->dout ? x->dout + dout : NULL,
	    .out = x->out ? x->out + o : NULL,
	    .lse = x->lse ? x->lse + lse : NULL,
	    .dq = x->dq ? x->dq + dq : NULL,
	    .dk = x->dk ? x->dk + dk : NULL,
	    .dv = x->dv ? x->dv + dv : NULL,
	    .dbias = x->dbias ? x->dbias + bias : NULL,
	    .mask = t->mask ? t->mask + mask : NULL,
	    .bias = t->bias ? t->bias + bias : NULL,
	    .drop = (uint64_t)drop,
	};
}

/* Splits a flat number into the indices of the carried axes whose sharedness is `shared`; false: only counts them. */
static int64_t
spread(const GvAttention *t, bool shared, int64_t n, int64_t *index)
{
	int64_t count = 1;
	for (int a = t->nouter - 1; a >= 0; a--) {
		if (axis_is_shared(t, a) != shared) continue;
		if (index) {
			index[a] = n % t->extent[a];
			n /= t->extent[a];
		}
		count *= t->extent[a];
	}
	return count;
}

void
gv_attention(const GvAttention *t, const real *q, const real *k, const real *v, real *o,
	     real *lse)
{
	const Operands x = {.q = q, .k = k, .v = v, .out = o, .lse = lse};
	const int64_t shared = spread(t, true, 0, NULL),
		      cells = spread(t, false, 0, NULL) * shared;
	const int64_t blocks = (t->sq + BQ - 1) / BQ;
	/* Later blocks of a causal band cost more: dealing them out one by one keeps the threads even. */
#pragma omp parallel for schedule(static, 1)
	for (int64_t n = 0; n < cells * blocks; n++) {
		int64_t index[8] = {0};
		spread(t, true, n / blocks % shared, index);
		spread(t, false, n / blocks / shared, index);
		const Cell c = cell_at(t, &x, index);
		const int64_t q0 = (n % blocks) * BQ;
		forward_block(t, &c, q0, min64(BQ, t->sq - q0));
	}
}

/* Zeroes rows of n features: the sums below start from nothing. */
static void
zero_rows(real *x, int64_t rows, int64_t row, int64_t n)
{
	for (int64_t i = 0; i < rows; i++)
		memset(x + i * row, 0, (size_t)n * sizeof(real));
}

static void
zero_bias(const GvAttention *t, real *dbias)
{
	int64_t cells = 1;
	for (int a = 0; a < t->nouter; a++)
		cells *= t->extent[a];
	for (int64_t n = 0; n < cells; n++) {
		int64_t at = 0, rest = n;
		for (int a = t->nouter - 1; a >= 0; a--) {
			at += rest % t->extent[a] * t->bias_outer[a];
			rest /= t->extent[a];
		}
		for (int64_t i = 0; i < t->sq; i++)
			for (int64_t j = 0; j < t->sk; j++)
				dbias[at + i * t->bias_q + j * t->bias_k] = 0;
	}
}

void
gv_attention_grad(const GvAttention *t, const real *q, const real *k, const real *v,
		  const real *o, const real *lse, const real *dout, real *dq, real *dk,
		  real *dv, real *dbias)
{
	const Operands x = {.q = q,
			    .k = k,
			    .v = v,
			    .o = o,
			    .dout = dout,
			    .lse = (real *)(uintptr_t)lse,
			    .dq = dq,
			    .dk = dk,
			    .dv = dv,
			    .dbias = dbias};
	const GvAttentionGrad *g = t->grad;
	const int64_t shared = spread(t, true, 0, NULL), cells = spread(t, false, 0, NULL);
	if (dbias) zero_bias(t, dbias);
		/* A bias lacks carried axes as a rule, so its gradient is summed by one thread, in order. */
#pragma omp parallel for schedule(static) if (!dbias)
	for (int64_t n = 0; n < cells; n++) {
		int64_t index[8] = {0};
		spread(t, false, n, index);
		for (int64_t s = 0; s < shared; s++) {
			spread(t, true, s, index);
			const Cell c = cell_at(t, &x, index);
			zero_rows(c.dq, t->sq, g ? g->dq_row : t->q_row, t->d);
			zero_rows(c.dk, t->sk, g ? g->dk_row : t->k_row, t->d);
			zero_rows(c.dv, t->sk, g ? g->dv_row : t->v_row, t->dv);
		}
		for (int64_t s = 0; s < shared; s++) {
			spread(t, true, s, index);
			const Cell c = cell_at(t, &x, index);
			for (int64_t q0 = 0; q0 < t->sq; q0 += BQ)
				backward_block(t, &c, q0, min64(BQ, t->sq - q0));
		}
	}
}
