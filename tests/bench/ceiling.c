/*
 * ceiling.c - what this machine can do, for the same thread count, in the same run as a benchmark:
 * the GEMM rate of the program's BLAS at a large training shape, and the copy bandwidth.
 */
#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

char *openblas_get_corename(void);

static double
now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int
main(void)
{
	enum { M = 1024, N = 3072, K = 768, COPY = 32 << 20 };
	float *a = malloc(sizeof(float) * M * K), *b = malloc(sizeof(float) * N * K),
	      *c = malloc(sizeof(float) * M * N);
	float *x = malloc(sizeof(float) * COPY), *y = malloc(sizeof(float) * COPY);
	if (!a || !b || !c || !x || !y) return 1;
	for (int i = 0; i < M * K; i++)
		a[i] = (float)rand() / (float)RAND_MAX - 0.5f;
	for (int i = 0; i < N * K; i++)
		b[i] = (float)rand() / (float)RAND_MAX - 0.5f;
#pragma omp parallel for
	for (int i = 0; i < COPY; i++)
		x[i] = y[i] = (float)i;
	double gemm = 1e9, copy = 1e9;
	for (int r = 0; r < 12; r++) {
		double t = now();
		cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, M, N, K, 1, a, K, b, K, 0,
			    c, N);
		t = now() - t;
		if (t < gemm) gemm = t;
		t = now();
#pragma omp parallel for
		for (int i = 0; i < COPY; i++)
			y[i] = x[i];
		t = now() - t;
		if (t < copy) copy = t;
	}
	printf("%.1f %.1f %s %d\n", 2.0 * M * N * K / gemm * 1e-9,
	       2.0 * sizeof(float) * COPY / copy * 1e-9, openblas_get_corename(),
	       omp_get_max_threads());
	return 0;
}
