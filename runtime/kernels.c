/*
 * kernels.c - the model-independent kernels of host programs: GEMM, cross-entropy, softmax, embedding rows, optimizer.
 * Compiled once per program with its `real`. Every loop over rows is split statically over the threads and every sum
 * has one fixed order, so results do not change between runs with the same number of threads; those of
 * gv_scatter_rows, gv_cross_entropy, gv_softmax and the optimizer do not depend on the number of threads at all.
 */
#include "kernels.h"

#include <cblas.h>
#include <omp.h>
#include <string.h>

#ifdef GVRT_F64
#define GEMM cblas_dgemm
#else
#define GEMM cblas_sgemm
#endif

/* A product split over threads: a grid of rows x cols blocks of c. */
typedef struct Grid {
	int rows, cols;
} Grid;

/* The grid that packs least: every row of blocks packs b again, every column a. */
static Grid
gemm_grid(int threads, int64_t m, int64_t n)
{
	Grid best = {1, threads};
	for (int rows = 1; rows <= threads; rows++)
		if (threads % rows == 0 &&
		    rows * n + threads / rows * m < best.rows * n + best.cols * m)
			best = (Grid){rows, threads / rows};
	return best;
}

/* Start of part k of n elements in `parts`, at a multiple of what kernels of a BLAS like. */
static int64_t
part_start(int64_t n, int parts, int k)
{
	enum { UNIT = 16 };
	const int64_t units = (n + UNIT - 1) / UNIT, at = units * k / parts * UNIT;
	return at < n ? at : n;
}

/* c = a b + beta c, row by row: for the few small shapes below. */
static void
small_product(int64_t m, int64_t n, int64_t k, const real *a, int64_t lda, const real *b,
	      int64_t ldb, real beta, real *c, int64_t ldc)
{
	for (int64_t i = 0; i < m; i++) {
		real *restrict row = c + i * ldc;
		if (beta == 0) memset(row, 0, (size_t)n * sizeof *row);
		for (int64_t p = 0; p < k; p++) {
			const real x = a[i * lda + p], *restrict from = b + p * ldb;
#pragma omp simd
			for (int64_t j = 0; j < n; j++)
				row[j] += x * from[j];
		}
	}
}

/* OpenBLAS 0.3.21 has kernels for small products without transposes that call malloc for ragged edges, and a step must
 * not allocate. Found by counting over all shapes: a row left over 4, or columns left over one vector, up to half of it. */
static bool
blas_allocates(bool ta, bool tb, int64_t m, int64_t n, int64_t k)
{
	enum { LANES = 64 / sizeof(real) };
	return !ta && !tb && m * n * k <= 1000000 &&
	       (m % 4 != 0 || (n % LANES != 0 && n % LANES <= LANES / 2));
}

static void
product(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const real *a, int64_t lda,
	const real *b, int64_t ldb, real beta, real *c, int64_t ldc)
{
	if (blas_allocates(ta, tb, m, n, k))
		small_product(m, n, k, a, lda, b, ldb, beta, c, ldc);
	else
		GEMM(CblasRowMajor, ta ? CblasTrans : CblasNoTrans,
		     tb ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, 1, a, (int)lda, b,
		     (int)ldb, beta, c, (int)ldc);
}

/* The BLAS is always called by one thread: its own threading allocates memory at every call, and with it results would
 * depend on the number of threads. */
void
gv_gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const real *a, int64_t lda,
	const real *b, int64_t ldb, real beta, real *c, int64_t ldc)
{
	const int threads = omp_in_parallel() || m * n * k < 65536 ? 1 : omp_get_max_threads();
	const Grid g = gemm_grid(threads, m, n);
#pragma omp parallel for schedule(static) if (threads > 1)
	for (int block = 0; block < g.rows * g.cols; block++) {
		const int i = block / g.cols, j = block % g.cols;
		const int64_t m0 = part_start(m, g.rows, i), m1 = part_start(m, g.rows, i + 1);
		const int64_t n0 = part_start(n, g.cols, j), n1 = part_start(n, g.cols, j + 1);
		if (m0 == m1 || n0 == n1) continue;
		product(ta, tb, m1 - m0, n1 - n0, k, a + m0 * (ta ? 1 : lda), lda,
			b + n0 * (tb ? ldb : 1), ldb, beta, c + m0 * ldc + n0, ldc);
	}
}

/* max of x[0..n) */
static real
row_max(const real *x, int64_t n)
{
	real m = x[0];
#pragma omp simd reduction(max : m)
	for (int64_t i = 0; i < n; i++)
		m = x[i] > m ? x[i] : m;
	return m;
}

/* log sum exp of x[0..n), in blocks so that float sums stay accurate on long rows */
static real
row_lse(const real *x, int64_t n)
{
	const real m = row_max(x, n);
	double sum = 0;
	for (int64_t i = 0; i < n; i += 1024) {
		const int64_t end = n < i + 1024 ? n : i + 1024;
		real s = 0;
#pragma omp simd reduction(+ : s)
		for (int64_t j = i; j < end; j++)
			s += gv_exp(x[j] - m);
		sum += (double)s;
	}
	return m + (real)log(sum);
}

void
gv_cross_entropy(int64_t rows, int64_t n, const real *x, int64_t ldx, const int32_t *label,
		 real *loss, real *lse)
{
#pragma omp parallel for schedule(static)
	for (int64_t r = 0; r < rows; r++) {
		const real y = row_lse(x + r * ldx, n);
		if (lse) lse[r] = y;
		if (loss) loss[r] = y - x[r * ldx + label[r]];
	}
}

void
gv_softmax(int64_t rows, int64_t n, const real *x, int64_t ldx, real *y, int64_t ldy)
{
#pragma omp parallel for schedule(static)
	for (int64_t r = 0; r < rows; r++) {
		const real *restrict xr = x + r * ldx;
		real *restrict yr = y + r * ldy;
		const real l = row_lse(xr, n);
#pragma omp simd
		for (int64_t i = 0; i < n; i++)
			yr[i] = gv_exp(xr[i] - l);
	}
}

void
gv_scatter_rows(int64_t rows, int64_t n, real *grad, int64_t ld, const int32_t *index,
		const real *dy, int64_t lddy)
{
	enum { COLS = 64 };
	const int64_t blocks = (n + COLS - 1) / COLS;
	/* Each thread owns columns, so repeated tokens add in ascending row order. */
#pragma omp parallel for schedule(static)
	for (int64_t b = 0; b < blocks; b++) {
		const int64_t lo = b * COLS, hi = n < lo + COLS ? n : lo + COLS;
		for (int64_t r = 0; r < rows; r++) {
			real *restrict dst = grad + index[r] * ld;
			const real *restrict src = dy + r * lddy;
			for (int64_t i = lo; i < hi; i++)
				dst[i] += src[i];
		}
	}
}

void
gv_scatter_part(int64_t rows, int64_t n, real *grad, int64_t ld, int64_t first, int64_t count,
		const int32_t *index, const real *dy, int64_t lddy)
{
	enum { COLS = 64 };
	const int64_t blocks = (n + COLS - 1) / COLS;
#pragma omp parallel for schedule(static)
	for (int64_t b = 0; b < blocks; b++) {
		const int64_t lo = b * COLS, hi = n < lo + COLS ? n : lo + COLS;
		for (int64_t r = 0; r < rows; r++) {
			const int64_t at = index[r] - first;
			if (at < 0 || at >= count) continue;
			real *restrict dst = grad + at * ld;
			const real *restrict src = dy + r * lddy;
			for (int64_t i = lo; i < hi; i++)
				dst[i] += src[i];
		}
	}
}

double
gv_sumsq(const real *g, int64_t n)
{
	enum { CHUNKS = 256, BLOCK = 4096 };
	double part[CHUNKS], sum = 0;
	const int64_t per = (n + CHUNKS - 1) / CHUNKS;
	/* The chunks do not depend on the number of threads and are added in order. */
#pragma omp parallel for schedule(static) if (n > 65536)
	for (int64_t c = 0; c < CHUNKS; c++) {
		const int64_t end = n < (c + 1) * per ? n : (c + 1) * per;
		part[c] = 0;
		for (int64_t i = c * per; i < end; i += BLOCK) {
			const int64_t stop = end < i + BLOCK ? end : i + BLOCK;
			real s = 0;
#pragma omp simd reduction(+ : s)
			for (int64_t j = i; j < stop; j++)
				s += g[j] * g[j];
			part[c] += (double)s;
		}
	}
	for (int64_t c = 0; c < CHUNKS; c++)
		sum += part[c];
	return sum;
}

void
gv_adamw(real *restrict w, const real *restrict g, real *restrict m, real *restrict v,
	 int64_t n, double rate, double scale, double c1, double c2, double beta1, double beta2,
	 double eps, double decay)
{
	const real keep = (real)(1 - rate * decay), step = (real)(rate / c1),
		   root = (real)(1 / sqrt(c2));
	const real b1 = (real)beta1, b2 = (real)beta2, a1 = (real)(1 - beta1),
		   a2 = (real)(1 - beta2);
	const real e = (real)eps, s = (real)scale;
#pragma omp parallel for simd schedule(static)
	for (int64_t i = 0; i < n; i++) {
		const real gi = g[i] * s;
		const real mi = b1 * m[i] + a1 * gi, vi = b2 * v[i] + a2 * gi * gi;
		m[i] = mi;
		v[i] = vi;
		w[i] = w[i] * keep - step * mi / (gv_sqrt(vi) * root + e);
	}
}

void
gv_sgd(real *restrict w, const real *restrict g, real *restrict m, int64_t n, double rate,
       double scale, double momentum, double decay)
{
	const real lr = (real)rate, s = (real)scale, mu = (real)momentum, d = (real)decay;
#pragma omp parallel for simd schedule(static)
	for (int64_t i = 0; i < n; i++) {
		const real mi = mu * m[i] + (g[i] * s + d * w[i]);
		m[i] = mi;
		w[i] -= lr * mi;
	}
}
