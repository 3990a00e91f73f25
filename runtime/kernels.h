/*
 * kernels.h - what an emitted host program computes with and what does not depend on a model: vector mathematics, GEMM
 * through a BLAS, blocked attention, cross-entropy, embedding rows, the optimizer. Included by emitted sources only;
 * `real` is float, or double with GVRT_F64. Loops are OpenMP over independent rows with a static schedule and
 * sums run in a fixed order, so a program gives the same bits every time for a given number of threads.
 */
#ifndef GVRT_KERNELS_H
#define GVRT_KERNELS_H

#include "gvrt.h"

/* Vectorisable elementwise functions of one real, used inside emitted `omp simd` loops. */
static inline real gv_exp(real x);
static inline real gv_log(real x);
static inline real gv_tanh(real x);
static inline real gv_erf(real x);
static inline real gv_sigmoid(real x);
static inline real gv_sin(real x);
static inline real gv_cos(real x);
static inline real gv_pow(real x, real y);
static inline real gv_floordiv(real x, real y);
static inline real gv_mod(real x, real y);
static inline int32_t gv_ifloordiv(int32_t x, int32_t y);
static inline int32_t gv_imod(int32_t x, int32_t y);
/* Keep-or-drop factor of a dropout site at a logical place: 0 or inv_keep. */
static inline real gv_drop(uint64_t key, uint64_t step, uint64_t index, uint32_t threshold, real inv_keep);

/* c [m n] = op(a) [m k] op(b) [k n] + beta c, row-major; beta is 0 or 1. May be called inside a parallel region. */
void gv_gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const real *a, int64_t lda,
    const real *b, int64_t ldb, real beta, real *c, int64_t ldc);

/* y[row] = log sum exp of x[row, 0..n); loss[row] = y[row] - x[row, label[row]]. x rows are ldx apart. */
void gv_cross_entropy(int64_t rows, int64_t n, const real *x, int64_t ldx, const int32_t *label,
    real *loss, real *lse);
/* Row softmax over n contiguous entries. */
void gv_softmax(int64_t rows, int64_t n, const real *x, int64_t ldx, real *y, int64_t ldy);

/* y[i, 0..n) = table[index[i], 0..n) */
void gv_gather_rows(int64_t rows, int64_t n, const real *table, int64_t ld, const int32_t *index, real *y, int64_t ldy);
/* grad[index[i], 0..n) += dy[i, 0..n), in ascending i for every entry, whatever the number of threads (columns are split). */
void gv_scatter_rows(int64_t rows, int64_t n, real *grad, int64_t ld, const int32_t *index, const real *dy, int64_t lddy);

/* Attention over `nouter` carried axes (batch, heads, groups...). Strides are in elements; an operand that lacks a
 * carried axis has stride 0 there (grouped queries: k and v over `group`), and its gradient is summed over it. The
 * feature stride is 1. Never stores a [sq sk] matrix. */
typedef struct GvAttention {
	int nouter;
	int64_t extent[8];
	int64_t q[8], k[8], v[8], o[8], lse[8]; /* strides of the carried axes */
	int64_t sq, sk, d, dv;                  /* queries, keys, features of q and k, of v and o */
	int64_t q_row, k_row, v_row, o_row, lse_row;
	int64_t lo, hi;                         /* lo <= key - query <= hi; INT64_MIN / INT64_MAX: open */
	real scale, cap;                        /* cap 0: none */
	const unsigned char *mask;              /* bool, NULL: none; strides 0 where it lacks an axis */
	const real *bias;                       /* NULL: none */
	int64_t mask_outer[8], mask_q, mask_k, bias_outer[8], bias_q, bias_k;
	uint64_t key, step;                     /* dropout of probabilities; logical place = drop_base + sum of index * drop_outer + query * drop_q + key */
	uint32_t threshold;                     /* of gv_bits; 0: none */
	real inv_keep;
	int64_t drop_outer[8], drop_q, drop_base;
} GvAttention;
void gv_attention(const GvAttention *t, const real *q, const real *k, const real *v, real *o, real *lse);
/* dq, dk, dv are overwritten, laid out as q, k, v; dbias (NULL: not wanted), laid out as bias, is overwritten. */
void gv_attention_grad(const GvAttention *t, const real *q, const real *k, const real *v, const real *o,
    const real *lse, const real *dout, real *dq, real *dk, real *dv, real *dbias);

/* Sum of squares in double, in a fixed order. */
double gv_sumsq(const real *g, int64_t n);
/* AdamW over n contiguous elements; see the op in ir/README.md for the formula. rate and decay hold the parameter's factors. */
void gv_adamw(real *w, const real *g, real *m, real *v, int64_t n, double rate, double scale, double c1,
    double c2, double beta1, double beta2, double eps, double decay);
void gv_sgd(real *w, const real *g, real *m, int64_t n, double rate, double scale, double momentum, double decay);

#endif
