/*
 * kernels.h - what an emitted host program computes with and what does not depend on a model: vector mathematics, GEMM
 * through a BLAS, blocked attention, cross-entropy, embedding rows, the optimizer. Included by emitted sources only;
 * `real` is float, or double with GVRT_F64. Loops are OpenMP over independent rows with a static schedule and
 * sums run in a fixed order, so a program gives the same bits every time for a given number of threads.
 */
#ifndef GVRT_KERNELS_H
#define GVRT_KERNELS_H

#include <math.h>

#include "gvrt.h"

/* ---- Elementwise functions of one real, for emitted `omp simd` loops: straight-line, so that they vectorise. ----
 * Float: polynomials after range reduction (Cody & Waite 1980), at most 2 ulp for exp, 1e-7 absolute for tanh, sigmoid
 * and erf. Double goes to the C library: it serves proofs, not speed. NaN and infinity behave as in the C library. */
#ifdef GVRT_F64
#define GV_M(name) name
#else
#define GV_M(name) name##f
#endif

static inline real
gv_exp(real x)
{
#ifdef GVRT_F64
	return exp(x);
#else
	const float k = rintf(x * 1.44269504088896341f);
	const float r =
	    fmaf(k, 2.12194440e-4f, fmaf(k, -0.693359375f, x)); /* x - k ln 2, in two parts */
	float p = 1.f / 5040;
	p = fmaf(p, r, 1.f / 720);
	p = fmaf(p, r, 1.f / 120);
	p = fmaf(p, r, 1.f / 24);
	p = fmaf(p, r, 1.f / 6);
	p = fmaf(p, r, 0.5f);
	p = fmaf(p, r, 1.f);
	p = fmaf(p, r, 1.f);
	/* 2^k in two halves, so that the ends of the range neither overflow early nor lose denormals */
	const float kc = !(k >= -250.f) ? -250.f : k > 250.f ? 250.f : k; /* NaN: in p */
	const int32_t k0 = (int32_t)kc, k1 = k0 / 2, k2 = k0 - k1;
	union {
		int32_t i;
		float f;
	} s1 = {(k1 + 127) << 23}, s2 = {(k2 + 127) << 23};
	const float y = p * s1.f * s2.f;
	return x > 88.8f    ? (float)INFINITY
	       : x < -104.f ? 0.f
			    : y; /* false for NaN, which p carries */
#endif
}

static inline real
gv_log(real x)
{
	return GV_M(log)(x);
}

static inline real
gv_sigmoid(real x)
{
	return 1 / (1 + gv_exp(-x));
}

static inline real
gv_tanh(real x)
{
#ifdef GVRT_F64
	return tanh(x);
#else
	const float a = fabsf(x), z = x * x;
	/* near 0 the quotient below cancels: odd Taylor series, 1.5e-8 at 0.55 */
	float p = 21844.f / 6081075;
	p = fmaf(p, -z, 1382.f / 155925);
	p = fmaf(p, -z, 62.f / 2835);
	p = fmaf(p, -z, 17.f / 315);
	p = fmaf(p, -z, 2.f / 15);
	p = fmaf(p, -z, 1.f / 3);
	const float small = x - x * z * p;
	const float big = copysignf(1.f - 2.f / (gv_exp(2.f * a) + 1.f), x);
	return a < 0.4f ? small : big;
#endif
}

static inline real
gv_erf(real x)
{
#ifdef GVRT_F64
	return erf(x);
#else
	/* Abramowitz & Stegun 7.1.26 refined to a ninth-degree fit of erfc(a) exp(a^2) in t = 1 / (1 + a / 2) (fractional
	 * error 1.2e-7); near 0, where 1 - erfc cancels, the Taylor series. */
	const float a = fabsf(x), z = x * x, t = 1.f / (1.f + 0.5f * a);
	float q = 0.17087277f;
	q = fmaf(q, t, -0.82215223f);
	q = fmaf(q, t, 1.48851587f);
	q = fmaf(q, t, -1.13520398f);
	q = fmaf(q, t, 0.27886807f);
	q = fmaf(q, t, -0.18628806f);
	q = fmaf(q, t, 0.09678418f);
	q = fmaf(q, t, 0.37409196f);
	q = fmaf(q, t, 1.00002368f);
	q = fmaf(q, t, -1.26551223f);
	const float big = copysignf(1.f - t * gv_exp(q - z), x);
	float p = 1.f / 9360;
	p = fmaf(p, -z, 1.f / 1320);
	p = fmaf(p, -z, 1.f / 216);
	p = fmaf(p, -z, 1.f / 42);
	p = fmaf(p, -z, 1.f / 10);
	p = fmaf(p, -z, 1.f / 3);
	const float small = 1.12837916709551257f * (x - x * z * p);
	return a < 0.6f ? small : big;
#endif
}

static inline real
gv_sin(real x)
{
	return GV_M(sin)(x);
}

static inline real
gv_cos(real x)
{
	return GV_M(cos)(x);
}

static inline real
gv_pow(real x, real y)
{
	return GV_M(pow)(x, y);
}

static inline real
gv_sqrt(real x)
{
	return GV_M(sqrt)(x);
}

static inline real
gv_floordiv(real x, real y)
{
	return GV_M(floor)(x / y);
}

static inline real
gv_mod(real x, real y)
{
	return x - y * GV_M(floor)(x / y);
}

static inline int32_t
gv_ifloordiv(int32_t x, int32_t y)
{
	const int32_t q = x / y;
	return q - (x % y != 0 && (x < 0) != (y < 0));
}

static inline int32_t
gv_imod(int32_t x, int32_t y)
{
	return x - y * gv_ifloordiv(x, y);
}

/* Keep-or-drop factor of a dropout site at a logical place: 0 or inv_keep. Philox4x32-10 (Salmon et al. 2011), the same
 * bits as gvrt_bits(); here for inlining, so that loops over consecutive places vectorise. */
static inline real
gv_drop(uint64_t key, uint64_t step, uint64_t index, uint32_t threshold, real inv_keep)
{
	uint32_t c0 = (uint32_t)(index >> 2), c1 = (uint32_t)(index >> 34), c2 = (uint32_t)step,
		 c3 = (uint32_t)(step >> 32);
	uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
	for (int i = 0; i < 10; i++) {
		const uint64_t p = (uint64_t)0xD2511F53u * c0, q = (uint64_t)0xCD9E8D57u * c2;
		c0 = (uint32_t)(q >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)q;
		c2 = (uint32_t)(p >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	const uint32_t lane = (uint32_t)index & 3;
	const uint32_t bits = lane == 0 ? c0 : lane == 1 ? c1 : lane == 2 ? c2 : c3;
	return bits < threshold ? 0 : inv_keep;
}

/* A dropout site of an instance in the current step: what gv_drop() needs but the place. */
typedef struct GvDrop {
	uint64_t key;
	uint32_t threshold; /* 0: nothing is dropped */
	real inv_keep;
} GvDrop;

static inline GvDrop
gv_drop_site(const GvrtRun *run, uint64_t site, const char *instance, double rate)
{
	GvDrop d = {0, 0, 1};
	if (!run->train || rate <= 0) return d;
	d.key = gvrt_key(run->seed ^ site, instance);
	d.threshold = rate >= 1 ? UINT32_MAX : (uint32_t)ceil(rate * 4294967296.0);
	d.inv_keep = (real)(1 / (1 - rate));
	return d;
}

static inline real
gv_drop_at(GvDrop d, uint64_t step, uint64_t index)
{
	return d.threshold ? gv_drop(d.key, step, index, d.threshold, d.inv_keep) : 1;
}

/* c [m n] = op(a) [m k] op(b) [k n] + beta c, row-major; beta is 0 or 1. May be called inside a parallel region. */
void gv_gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const real *a, int64_t lda,
	     const real *b, int64_t ldb, real beta, real *c, int64_t ldc);

/* y[row] = log sum exp of x[row, 0..n); loss[row] = y[row] - x[row, label[row]]. x rows are ldx apart. */
void gv_cross_entropy(int64_t rows, int64_t n, const real *x, int64_t ldx, const int32_t *label,
		      real *loss, real *lse);
/* Row softmax over n contiguous entries. */
void gv_softmax(int64_t rows, int64_t n, const real *x, int64_t ldx, real *y, int64_t ldy);

/* grad[index[i], 0..n) += dy[i, 0..n), in ascending i for every entry, whatever the number of threads (columns are split). */
void gv_scatter_rows(int64_t rows, int64_t n, real *grad, int64_t ld, const int32_t *index,
		     const real *dy, int64_t lddy);

/* The same where grad holds the entries first .. first + count only; what points elsewhere is dropped. */
void gv_scatter_part(int64_t rows, int64_t n, real *grad, int64_t ld, int64_t first,
		     int64_t count, const int32_t *index, const real *dy, int64_t lddy);

/* Attention over `nouter` carried axes (batch, heads, groups...). Strides are in elements; an operand that lacks a
 * carried axis has stride 0 there (grouped queries: k and v over `group`), and its gradient is summed over it. The
 * feature stride is 1. Never stores a [sq sk] matrix. */
typedef struct GvAttention {
	int nouter;
	int64_t extent[8];
	int64_t q[8], k[8], v[8], o[8], lse[8]; /* strides of the carried axes */
	int64_t sq, sk, d, dv; /* queries, keys, features of q and k, of v and o */
	int64_t q_row, k_row, v_row, o_row, lse_row;
	int64_t lo, hi;            /* lo <= key - query <= hi; INT64_MIN / INT64_MAX: open */
	real scale, cap;           /* cap 0: none */
	const unsigned char *mask; /* bool, NULL: none; strides 0 where it lacks an axis */
	const real *bias;          /* NULL: none */
	int64_t mask_outer[8], mask_q, mask_k, bias_outer[8], bias_q, bias_k;
	uint64_t key,
	    step; /* dropout of probabilities; logical place = drop_base + sum of index * drop_outer + query * drop_q + key */
	uint32_t threshold; /* of gv_bits; 0: none */
	real inv_keep;
	int64_t drop_outer[8], drop_q, drop_base;
	const struct GvAttentionGrad
	    *grad; /* gv_attention_grad: NULL: dout is laid out as o; dq, dk, dv as q, k, v */
} GvAttention;

/* Strides of the gradients where they differ from what they are gradients of (q, k, v are often views of one packed
 * tensor). Carried axes an operand lacks have stride 0 here too. */
typedef struct GvAttentionGrad {
	int64_t dout[8], dq[8], dk[8], dv[8];
	int64_t dout_row, dq_row, dk_row, dv_row;
} GvAttentionGrad;
void gv_attention(const GvAttention *t, const real *q, const real *k, const real *v, real *o,
		  real *lse);
/* dq, dk, dv are overwritten, laid out as q, k, v or as t->grad says; dbias (NULL: not wanted), laid out as bias, is overwritten. */
void gv_attention_grad(const GvAttention *t, const real *q, const real *k, const real *v,
		       const real *o, const real *lse, const real *dout, real *dq, real *dk,
		       real *dv, real *dbias);

/* What a rank has of a tensor in a flat that is split over ranks, rank c having bytes c * part and up. */
typedef struct GvRange {
	int64_t in_flat,
	    in_part; /* bytes: where it begins in the whole flat, and in this rank's part */
	int64_t n;   /* elements; 0: nothing of it is here */
} GvRange;

static inline GvRange
gv_range(int64_t c, int64_t part, int64_t at, int64_t count)
{
	const int64_t size = (int64_t)sizeof(real), lo = c * part, hi = lo + part;
	const int64_t from = at > lo ? at : lo,
		      to = at + count * size < hi ? at + count * size : hi;
	if (to <= from) return (GvRange){lo, 0, 0};
	return (GvRange){from, from - lo, (to - from) / size};
}

/* Sum of squares in double, in a fixed order. */
double gv_sumsq(const real *g, int64_t n);
/* AdamW over n contiguous elements; see the op in ir/README.md for the formula. rate and decay hold the parameter's factors. */
void gv_adamw(real *w, const real *g, real *m, real *v, int64_t n, double rate, double scale,
	      double c1, double c2, double beta1, double beta2, double eps, double decay);
void gv_sgd(real *w, const real *g, real *m, int64_t n, double rate, double scale,
	    double momentum, double decay);

#endif
