/*
 * kernels.c - the runtime's kernels against plain loops in double: elementwise functions over their whole range, attention
 * forward and backward with grouped queries, bands, masks, biases, caps and dropout, rows and the optimizer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

static long checks, failures;
static const double TOL = sizeof(real) == 8 ? 1e-12 : 2e-5;

static void
close_to(const char *what, double got, double want, double scale)
{
	checks++;
	if (fabs(got - want) <= TOL * (fabs(want) + scale) || (isnan(got) && isnan(want)) ||
	    got == want)
		return;
	if (failures++ < 10) printf("kernels: %s: %.17g, expected %.17g\n", what, got, want);
}

static uint32_t lcg_state = 1;

static double
unit(void) /* in [-1, 1) */
{
	lcg_state = lcg_state * 1664525u + 1013904223u;
	return (double)(lcg_state >> 8) / (1 << 23) - 1;
}

static real *
random_reals(size_t n)
{
	real *x = malloc(n * sizeof *x);
	for (size_t i = 0; i < n; i++)
		x[i] = (real)unit();
	return x;
}

static void
test_functions(void)
{
	for (double x = -110; x < 95; x += 0.0137) {
		const real r = (real)x;
		close_to("exp", (double)gv_exp(r), (double)(real)exp((double)r), 1e-37);
		close_to("tanh", (double)gv_tanh(r), tanh((double)r), 1e-7);
		close_to("sigmoid", (double)gv_sigmoid(r), 1 / (1 + exp(-(double)r)), 1e-30);
		close_to("erf", (double)gv_erf(r / 10), erf((double)(r / 10)), 1e-7);
	}
	close_to("exp inf", (double)gv_exp((real)INFINITY), INFINITY, 0);
	close_to("exp -inf", (double)gv_exp(-(real)INFINITY), 0, 0);
	close_to("exp nan", (double)gv_exp((real)NAN), NAN, 0);
	close_to("tanh inf", (double)gv_tanh((real)INFINITY), 1, 0);
	close_to("tanh nan", (double)gv_tanh((real)NAN), NAN, 0);
}

enum { B = 2, KV = 2, G = 3 };

/* One case: q [B SQ KV G D], k [B SK KV D], v [B SK KV DV]; everything recomputed by loops in double. */
static void
test_attention(int64_t sq, int64_t sk, int64_t d, int64_t dv, int64_t lo, int64_t hi,
	       bool masked, bool biased, double cap, double rate)
{
	const size_t nq = (size_t)(B * sq * KV * G * d), nk = (size_t)(B * sk * KV * d),
		     nv = (size_t)(B * sk * KV * dv), no = (size_t)(B * sq * KV * G * dv),
		     nl = (size_t)(B * sq * KV * G);
	real *q = random_reals(nq), *k = random_reals(nk), *v = random_reals(nv),
	     *dout = random_reals(no);
	real *o = random_reals(no), *lse = random_reals(nl), *dq = random_reals(nq),
	     *dk = random_reals(nk), *dvv = random_reals(nv),
	     *bias = random_reals((size_t)(KV * G * sq * sk)),
	     *dbias = random_reals((size_t)(KV * G * sq * sk));
	unsigned char *mask = malloc((size_t)(B * sk));
	for (int64_t i = 0; i < B * sk; i++)
		mask[i] = unit() > -0.5;
	GvAttention t = {
	    .nouter = 3,
	    .extent = {B, KV, G},
	    .q = {sq * KV * G * d, G * d, d},
	    .k = {sk * KV * d, d, 0},
	    .v = {sk * KV * dv, dv, 0},
	    .o = {sq * KV * G * dv, G * dv, dv},
	    .lse = {sq * KV * G, G, 1},
	    .sq = sq,
	    .sk = sk,
	    .d = d,
	    .dv = dv,
	    .q_row = KV * G * d,
	    .k_row = KV * d,
	    .v_row = KV * dv,
	    .o_row = KV * G * dv,
	    .lse_row = KV * G,
	    .lo = lo,
	    .hi = hi,
	    .scale = (real)0.3,
	    .cap = (real)cap,
	    .mask = masked ? mask : NULL,
	    .mask_outer = {sk, 0, 0},
	    .mask_k = 1,
	    .bias = biased ? bias : NULL,
	    .bias_outer = {0, G * sq * sk, sq * sk},
	    .bias_q = sk,
	    .bias_k = 1,
	    .key = 77,
	    .step = 5,
	    .threshold = (uint32_t)(rate * 4294967296.0),
	    .inv_keep = (real)(1 / (1 - rate)),
	    .drop_outer = {sq * KV * G * sk, G * sk, sk},
	    .drop_q = KV * G * sk,
	};
	gv_attention(&t, q, k, v, o, lse);
	gv_attention_grad(&t, q, k, v, o, lse, dout, dq, dk, dvv, biased ? dbias : NULL);

	double *rq = calloc(nq, 8), *rk = calloc(nk, 8), *rv = calloc(nv, 8),
	       *rb = calloc((size_t)(KV * G * sq * sk), 8);
	double *s = malloc((size_t)sk * 8), *keep = malloc((size_t)sk * 8),
	       *raw = malloc((size_t)sk * 8);
	for (int64_t b = 0; b < B; b++)
		for (int64_t h = 0; h < KV; h++)
			for (int64_t g = 0; g < G; g++)
				for (int64_t i = 0; i < sq; i++) {
					const real *qi = q + b * t.q[0] + h * t.q[1] +
							 g * t.q[2] + i * t.q_row;
					const int64_t at_o =
					    b * t.o[0] + h * t.o[1] + g * t.o[2] + i * t.o_row;
					const int64_t at_b =
					    h * t.bias_outer[1] + g * t.bias_outer[2] + i * sk;
					double top = -INFINITY, sum = 0, delta = 0;
					for (int64_t j = 0; j < sk; j++) {
						s[j] = 0;
						for (int64_t e = 0; e < d; e++)
							s[j] +=
							    (double)qi[e] *
							    (double)k[b * t.k[0] + h * t.k[1] +
								      j * t.k_row + e];
						s[j] *= (double)t.scale;
						if (cap != 0) s[j] = cap * tanh(s[j] / cap);
						raw[j] = s[j];
						if (biased) s[j] += (double)bias[at_b + j];
						const bool seen =
						    (lo == INT64_MIN || j - i >= lo) &&
						    (hi == INT64_MAX || j - i <= hi);
						if (!seen || (masked && !mask[b * sk + j]))
							s[j] = -INFINITY;
						if (s[j] > top) top = s[j];
						keep[j] =
						    t.threshold
							? (double)gv_drop(
							      77, 5,
							      (uint64_t)(b * t.drop_outer[0] +
									 h * t.drop_outer[1] +
									 g * t.drop_outer[2] +
									 i * t.drop_q + j),
							      t.threshold, t.inv_keep)
							: 1;
					}
					for (int64_t j = 0; j < sk; j++)
						sum += s[j] =
						    s[j] == -INFINITY ? 0 : exp(s[j] - top);
					for (int64_t e = 0; e < dv; e++) {
						double x = 0;
						for (int64_t j = 0; j < sk; j++)
							x += (sum > 0 ? s[j] / sum : 0) *
							     keep[j] *
							     (double)v[b * t.v[0] + h * t.v[1] +
								       j * t.v_row + e];
						close_to("attention", (double)o[at_o + e], x,
							 1);
						delta += x * (double)dout[at_o + e];
					}
					for (int64_t j = 0; j < sk; j++) {
						const double p = sum > 0 ? s[j] / sum : 0;
						const int64_t at_k = b * t.k[0] + h * t.k[1] +
								     j * t.k_row,
							      at_v = b * t.v[0] + h * t.v[1] +
								     j * t.v_row;
						double dp = 0;
						for (int64_t e = 0; e < dv; e++) {
							dp += (double)dout[at_o + e] *
							      (double)v[at_v + e];
							rv[at_v + e] += p * keep[j] *
									(double)dout[at_o + e];
						}
						double ds = p * (dp * keep[j] - delta);
						rb[at_b + j] += ds;
						if (cap != 0)
							ds *= 1 - raw[j] / cap * (raw[j] / cap);
						ds *= (double)t.scale;
						for (int64_t e = 0; e < d; e++) {
							rq[qi - q + e] +=
							    ds * (double)k[at_k + e];
							rk[at_k + e] += ds * (double)qi[e];
						}
					}
				}
	for (size_t i = 0; i < nq; i++)
		close_to("dq", (double)dq[i], rq[i], 1);
	for (size_t i = 0; i < nk; i++)
		close_to("dk", (double)dk[i], rk[i], 3);
	for (size_t i = 0; i < nv; i++)
		close_to("dv", (double)dvv[i], rv[i], 3);
	for (int64_t i = 0; biased && i < KV * G * sq * sk; i++)
		close_to("dbias", (double)dbias[i], rb[i], 1);
	void *all[] = {q,     k,    v,  dout, o,  lse, dq, dk,   dvv, bias,
		       dbias, mask, rq, rk,   rv, rb,  s,  keep, raw};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		free(all[i]);
}

static void
test_rows(void)
{
	enum { ROWS = 37, N = 5003 };
	real *x = random_reals(ROWS * N), *y = random_reals(ROWS * N);
	real loss[ROWS], lse[ROWS];
	int32_t label[ROWS];
	for (int r = 0; r < ROWS; r++)
		label[r] = (r * 131) % N;
	gv_cross_entropy(ROWS, N, x, N, label, loss, lse);
	gv_softmax(ROWS, N, x, N, y, N);
	for (int r = 0; r < ROWS; r++) {
		double s = 0;
		for (int i = 0; i < N; i++)
			s += exp((double)x[r * N + i]);
		close_to("lse", (double)lse[r], log(s), 0);
		close_to("loss", (double)loss[r], log(s) - (double)x[r * N + label[r]], 0);
		for (int i = 0; i < N; i += 97)
			close_to("softmax", (double)y[r * N + i], exp((double)x[r * N + i]) / s,
				 1e-6);
	}
	double want = 0;
	for (int i = 0; i < ROWS * N; i++)
		want += (double)x[i] * (double)x[i];
	close_to("sumsq", gv_sumsq(x, ROWS * N), want, 0);
	/* repeated tokens */
	int32_t index[ROWS];
	for (int r = 0; r < ROWS; r++)
		index[r] = r % 3;
	enum { W = 100 };
	real *grad = calloc(3 * W, sizeof *grad);
	gv_scatter_rows(ROWS, W, grad, W, index, x, N);
	for (int t = 0; t < 3; t++)
		for (int i = 0; i < W; i++) {
			double s = 0;
			for (int r = t; r < ROWS; r += 3)
				s += (double)x[r * N + i];
			close_to("scatter", (double)grad[t * W + i], s, 1);
		}
	free(x), free(y), free(grad);
}

int
main(void)
{
	const int64_t open_lo = INT64_MIN, open_hi = INT64_MAX;
	test_functions();
	test_rows();
	test_attention(5, 5, 4, 4, open_lo, 0, false, false, 0, 0);
	test_attention(130, 130, 16, 16, open_lo, 0, false, false, 0, 0);
	test_attention(70, 300, 8, 24, open_lo, open_hi, false, false, 0, 0);
	test_attention(129, 129, 8, 8, -40, 0, false, false, 0, 0);
	test_attention(67, 90, 8, 8, open_lo, open_hi, true, false, 0, 0);
	test_attention(49, 49, 8, 8, open_lo, open_hi, true, true, 0, 0);
	test_attention(33, 47, 8, 8, -3, 9, false, true, 1.5, 0);
	test_attention(66, 270, 8, 8, open_lo, 5, false, false, 0, 0.25);
	printf("kernels%s: %ld checks %s\n", sizeof(real) == 8 ? " (f64)" : "", checks,
	       failures ? "FAILED" : "ok");
	return failures != 0;
}
