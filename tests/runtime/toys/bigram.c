/*
 * bigram.c - a GvrtProgram written by hand: what an emitted stage looks like to the runtime, small enough to check by eye.
 *
 * logits[row] = table[token] + bias.0 + bias.1 + bias.2, the biases behind a dropout of one half; mean cross-entropy
 * over the step; AdamW with clipping. Four microbatches of two samples, two slots.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gvrt.h"

enum { VOCAB = 256, SEQ = 16, ROWS = 2, MICRO = 4, BIASES = 3, SLOTS = 2 };
enum { TABLE = VOCAB * VOCAB, COUNT = TABLE + BIASES * VOCAB };

#define R          ((int64_t)sizeof(real))
#define STATE      (COUNT * R)
#define SLOT_BYTES (2 * ROWS * SEQ * 4 + 64 + ROWS * SEQ * VOCAB * R + ROWS * SEQ * 4)
#define TOKENS     0
#define LABELS     (ROWS * SEQ * 4)
#define LOSS       (2 * ROWS * SEQ * 4)
#define LOGITS     (LOSS + 64)
#define SLOT_AT    (4 * STATE)
#define CONST_AT   (SLOT_AT + SLOTS * SLOT_BYTES)

static real *
at(GvrtRun *r, int64_t place)
{
	return (real *)(void *)(r->arena + place);
}

static real
keep(GvrtRun *r, uint64_t key, int64_t mb, int64_t row, int64_t v)
{
	if (!r->train) return 1;
	return gvrt_bits(key, r->step, (uint64_t)((mb * ROWS * SEQ + row) * VOCAB + v)) <
		       0x80000000u
		   ? 0
		   : 2;
}

static void
forward_slot(GvrtRun *r, int64_t mb)
{
	unsigned char *slot = r->arena + SLOT_AT + mb % SLOTS * SLOT_BYTES;
	const int32_t *token = (const int32_t *)(void *)(slot + TOKENS),
		      *label = (const int32_t *)(void *)(slot + LABELS);
	const real *w = at(r, 0), *bias = w + TABLE;
	real *logits = (real *)(void *)(slot + LOGITS);
	uint64_t key = gvrt_key(r->seed, "bias");
	double loss = 0;
	for (int64_t row = 0; row < ROWS * SEQ; row++) {
		real *y = logits + row * VOCAB;
		double sum = 0;
		for (int64_t v = 0; v < VOCAB; v++) {
			y[v] = w[token[row] * VOCAB + v] +
			       (bias[v] + bias[VOCAB + v] + bias[2 * VOCAB + v]) *
				   keep(r, key, mb, row, v);
			sum += exp((double)y[v]);
		}
		loss += log(sum) - (double)y[label[row]];
	}
	*(real *)(void *)(slot + LOSS) = (real)(loss / (ROWS * SEQ * MICRO));
}

static void
forward(GvrtRun *r)
{
	forward_slot(r, 0);
}

static void
backward(GvrtRun *r, int64_t mb)
{
	unsigned char *slot = r->arena + SLOT_AT + mb % SLOTS * SLOT_BYTES;
	const int32_t *token = (const int32_t *)(void *)(slot + TOKENS),
		      *label = (const int32_t *)(void *)(slot + LABELS);
	const real *logits = (const real *)(void *)(slot + LOGITS);
	real *g = at(r, STATE);
	uint64_t key = gvrt_key(r->seed, "bias");
	for (int64_t row = 0; row < ROWS * SEQ; row++) {
		const real *y = logits + row * VOCAB;
		double sum = 0;
		for (int64_t v = 0; v < VOCAB; v++)
			sum += exp((double)y[v]);
		for (int64_t v = 0; v < VOCAB; v++) {
			real d = (real)((exp((double)y[v]) / sum - (v == label[row])) /
					(ROWS * SEQ * MICRO));
			g[token[row] * VOCAB + v] += d;
			for (int64_t b = 0; b < BIASES; b++)
				g[TABLE + b * VOCAB + v] += d * keep(r, key, mb, row, v);
		}
	}
}

static void
step(GvrtRun *r)
{
	real *g = at(r, STATE);
	memset(g, 0, STATE);
	for (int64_t mb = 0; mb < MICRO; mb++) {
		gvrt_input(r, mb);
		forward_slot(r, mb);
		gvrt_report(r, mb);
		backward(r, mb);
		GV_DEAD(r->arena + SLOT_AT + mb % SLOTS * SLOT_BYTES + LOGITS,
			ROWS * SEQ * VOCAB * R);
	}
	for (int64_t i = 0; i < COUNT; i++)
		r->sumsq += (double)g[i] * (double)g[i];
	gvrt_norm(r);
	if (getenv("TOY_CRAWL")) { /* leaves time for a signal */
		struct timespec {
			long s, ns;
		} t = {0, 3000000};
		int nanosleep(const struct timespec *, struct timespec *);
		nanosleep(&t, NULL);
	}
}

static void
update(GvrtRun *r)
{
	real *w = at(r, 0), *g = at(r, STATE), *m = at(r, 2 * STATE), *v = at(r, 3 * STATE);
	for (int64_t i = 0; i < COUNT; i++) {
		double d = (double)g[i] * r->scale;
		m[i] = (real)(0.9 * (double)m[i] + 0.1 * d);
		v[i] = (real)(0.99 * (double)v[i] + 0.01 * d * d);
		w[i] = (real)((double)w[i] - r->lr * ((double)m[i] / r->c1) /
						 (sqrt((double)v[i] / r->c2) + 1e-8));
	}
}

static void
consts(GvrtRun *r)
{
	for (int64_t i = 0; i < VOCAB; i++)
		at(r, CONST_AT)[i] = (real)i / VOCAB;
}

static const GvrtParam params[] = {
    {"table",
     NULL,
     0,
     0,
     0,
     0,
     0,
     TABLE,
     2,
     {VOCAB, VOCAB},
     GVRT_NORMAL,
     0.02,
     0,
     1,
     1,
     NULL,
     false,
     false,
     false},
    {"bias.",
     ".value",
     0,
     1,
     BIASES - 1,
     TABLE *R,
     VOCAB *R,
     VOCAB,
     1,
     {VOCAB},
     GVRT_UNIFORM,
     -0.1,
     0.1,
     0,
     1,
     NULL,
     false,
     false,
     false},
    {"last \"bias\"",
     NULL,
     0,
     0,
     0,
     (TABLE + (BIASES - 1) * VOCAB) * R,
     0,
     VOCAB,
     1,
     {VOCAB},
     GVRT_TABLE,
     CONST_AT,
     0,
     0,
     1,
     NULL,
     false,
     false,
     false},
};
static const GvrtInput inputs[] = {
    {"tokens", SEQ, TOKENS, GVRT_I32, VOCAB, NULL},
    {"labels", SEQ, LABELS, GVRT_I32, VOCAB, NULL},
};
static const char *const reports[] = {"loss"};
static const int64_t report_at[] = {LOSS};
static const GvrtMemLine memory[] = {{"state", 4 * STATE}, {"slots", SLOTS *SLOT_BYTES}};

static const GvrtProgram program = {
    .abi = GVRT_ABI,
    .model = "bigram",
    .source = "bigram.gdl",
    .plan_hash = 0x1234,
    .ranks = 1,
    .stage = 0,
    .stages = 1,
    .arena_bytes = CONST_AT + VOCAB * R,
    .param = 0,
    .grad = STATE,
    .m = 2 * STATE,
    .v = 3 * STATE,
    .microbatch = ROWS,
    .microbatches = MICRO,
    .params = params,
    .nparams = 3,
    .inputs = inputs,
    .ninputs = 2,
    .slots = SLOT_AT,
    .slot_bytes = SLOT_BYTES,
    .nslots = SLOTS,
    .reports = reports,
    .report_at = report_at,
    .nreports = 1,
    .logits_at = LOGITS,
    .logits_cols = VOCAB,
    .logits_ld = VOCAB,
    .seq = SEQ,
    .train = {GVRT_ADAMW, GVRT_COSINE, 0.01, 5, 100, 0.001, 1, 0.9, 0.99, 7},
    .flops = 6e6,
    .consts = consts,
    .forward = forward,
    .step = step,
    .update = update,
    .memory = memory,
    .nmemory = 2,
};

int
main(int argc, char **argv)
{
	return gvrt_main(argc, argv, &program);
}
