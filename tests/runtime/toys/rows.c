/*
 * rows.c - a GvrtProgram by hand whose inputs are not tokens: a linear classifier of float rows with a mask, by SGD with
 * momentum. With -DFORWARD it has no training step, as `galvatronc --forward` makes them. Two samples, two microbatches.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "gvrt.h"

enum { FEATURES = 4, CLASSES = 3, ROWS = 2, MICRO = 2, COUNT = CLASSES * FEATURES };

#define R      ((int64_t)sizeof(real))
#define STATE  (COUNT * R)
#define IMAGE  0
#define LABEL  (ROWS * FEATURES * R)
#define VALID  (LABEL + ROWS * 4)
#define LOSS   (VALID + 8)
#define HITS   (LOSS + R)
#define LOGITS (HITS + R)
#define SLOT   (LOGITS + ROWS * CLASSES * R)

static real *
at(GvrtRun *r, int64_t place)
{
	return (real *)(void *)(r->arena + place);
}

static void
forward(GvrtRun *r)
{
	unsigned char *slot = r->arena + 3 * STATE;
	const real *w = at(r, 0), *x = at(r, 3 * STATE + IMAGE);
	const int32_t *label = (const int32_t *)(void *)(slot + LABEL);
	real *y = at(r, 3 * STATE + LOGITS);
	double loss = 0, hits = 0;
	for (int row = 0; row < ROWS; row++, y += CLASSES) {
		double sum = 0;
		int best = 0;
		for (int c = 0; c < CLASSES; c++) {
			y[c] = 0;
			for (int f = 0; f < FEATURES; f++)
				y[c] += w[c * FEATURES + f] * x[row * FEATURES + f];
			sum += exp((double)y[c]);
			if (y[c] > y[best]) best = c;
		}
		if (!slot[VALID + row]) continue;
		loss += log(sum) - (double)y[label[row]];
		hits += best == label[row];
	}
	*at(r, 3 * STATE + LOSS) = (real)(loss / (ROWS * MICRO));
	*at(r, 3 * STATE + HITS) = (real)hits;
}

#ifndef FORWARD
static void
step(GvrtRun *r)
{
	unsigned char *slot = r->arena + 3 * STATE;
	real *g = at(r, STATE);
	memset(g, 0, STATE);
	for (int64_t mb = 0; mb < MICRO; mb++) {
		gvrt_input(r, mb);
		forward(r);
		gvrt_report(r, mb);
		const real *y = at(r, 3 * STATE + LOGITS), *x = at(r, 3 * STATE + IMAGE);
		const int32_t *label = (const int32_t *)(void *)(slot + LABEL);
		for (int row = 0; row < ROWS; row++, y += CLASSES) {
			double sum = 0;
			for (int c = 0; c < CLASSES; c++)
				sum += exp((double)y[c]);
			for (int i = 0; slot[VALID + row] && i < COUNT; i++)
				g[i] += (real)((exp((double)y[i / FEATURES]) / sum -
						(i / FEATURES == label[row])) /
					       (ROWS * MICRO)) *
					x[row * FEATURES + i % FEATURES];
		}
	}
	for (int i = 0; i < COUNT; i++)
		r->sumsq += (double)g[i] * (double)g[i];
	gvrt_norm(r);
}

static void
update(GvrtRun *r)
{
	real *w = at(r, 0), *g = at(r, STATE), *m = at(r, 2 * STATE);
	for (int i = 0; i < COUNT; i++) {
		m[i] = (real)(0.9 * (double)m[i] + r->scale * (double)g[i]);
		w[i] = (real)((double)w[i] - r->lr * (double)m[i]);
	}
}
#endif

static const GvrtParam params[] = {
    {"w",
     NULL,
     0,
     0,
     0,
     0,
     0,
     COUNT,
     2,
     {CLASSES, FEATURES},
     GVRT_VALUE,
     0.25,
     0,
     0,
     1,
     NULL,
     false,
     false,
     false},
};
static const GvrtInput inputs[] = {
    {"image", FEATURES, IMAGE, GVRT_REAL, 0, NULL},
    {"label", 1, LABEL, GVRT_I32, CLASSES, NULL},
    {"valid", 1, VALID, GVRT_BOOL, 0, NULL},
};
static const char *const reports[] = {"loss", "hits"};
static const int64_t report_at[] = {LOSS, HITS};

static const GvrtProgram program = {
    .abi = GVRT_ABI,
    .model = "rows",
    .source = "rows.gdl",
    .plan_hash = 0x77,
    .ranks = 1,
    .stages = 1,
    .arena_bytes = 3 * STATE + SLOT,
    .param = 0,
    .v = -1,
#ifdef FORWARD
    .grad = -1,
    .m = -1,
#else
    .grad = STATE,
    .m = 2 * STATE,
    .step = step,
    .update = update,
#endif
    .microbatch = ROWS,
    .microbatches = MICRO,
    .params = params,
    .nparams = 1,
    .inputs = inputs,
    .ninputs = 3,
    .slots = 3 * STATE,
    .slot_bytes = SLOT,
    .nslots = 1,
    .reports = reports,
    .report_at = report_at,
    .nreports = 2,
    .logits_at = -1,
    .train =
	{.opt = GVRT_SGD, .rate = GVRT_CONST, .peak = 0.1, .steps = 10, .clip = 0, .seed = 1},
    .flops = 100,
    .forward = forward,
};

int
main(int argc, char **argv)
{
	return gvrt_main(argc, argv, &program);
}
