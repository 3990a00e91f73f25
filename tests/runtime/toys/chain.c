/*
 * chain.c - a pipeline of STAGES stages, one rank each but two in the last, that hand the tokens of a sample on. The last holds the
 * logits, split over its two ranks: after token t comes t + 1. The loss is the number of stages a token came through.
 */
#include <string.h>

#include "gvrt.h"

#ifndef STAGES
#define STAGES 12
#endif
enum {
	RANKS = STAGES + 1,
	SEQ = 8,
	VOCAB = 101,
	LAST = STAGE == STAGES - 1,
	TP = LAST ? 2 : 1,
	COLS = LAST ? (VOCAB + 1) / 2 : VOCAB
};
enum {
	BYTES = sizeof(real),
	TOKENS = 128,
	HERE = 256,
	LOSS = 512,
	LOGITS = 576,
	ARENA = LOGITS + SEQ * COLS * BYTES
};

static void
forward(GvrtRun *r)
{
	real *x = (real *)(void *)(r->arena + HERE), *y = (real *)(void *)(r->arena + LOGITS);
	const int32_t *token = (const int32_t *)(void *)(r->arena + TOKENS);
	if (STAGE == 0)
		for (int i = 0; i < SEQ; i++)
			x[i] = (real)token[i];
	if (STAGE > 0) gv_start_exchange(r, 0, 0, NULL, x, NULL), gv_wait(r, 0);
	if (!LAST) gv_start_exchange(r, 1, STAGE > 0, x, NULL, NULL), gv_wait(r, 1);
	if (!LAST) return;
	int64_t first = gv_coord(r, 1, 1) * COLS;
	for (int i = 0; i < SEQ; i++)
		for (int64_t v = 0; v < COLS; v++)
			y[i * COLS + v] = first + v == (int64_t)x[i] + 1;
	*(real *)(void *)(r->arena + LOSS) = STAGES;
}

static void
step(GvrtRun *r)
{
	gvrt_input(r, 0);
	forward(r);
	gvrt_report(r, 0);
	gvrt_norm(r);
}

static void
update(GvrtRun *r)
{
	(void)r;
}

static const GvrtStage stages[] = {
#define ONE(n)                             \
	{                                  \
		n, n == STAGES - 1 ? 2 : 1 \
	}
    ONE(0), ONE(1), ONE(2), ONE(3), ONE(4),  ONE(5),
    ONE(6), ONE(7), ONE(8), ONE(9), ONE(10), ONE(11),
};
static const GvrtMesh meshes[] = {{2, {1, 1}}, {2, {1, 2}}};
static const GvrtComm comms[] = {{0, {{0, 0}}}};
#define HAND(source, last)                                                                \
	{                                                                                 \
		.label = "tokens", .from = {source, 0, 0}, .to = {(source) + 1, last, 0}, \
		.naxes = 1, .axis = {{SEQ, 0, {0}, 0, {0}, 0}}, .elem = sizeof(real)      \
	}
static const GvrtExchange exchanges[] = {
#if STAGE > 0
    HAND(STAGE - 1, LAST),
#endif
#if STAGE < STAGES - 1
    HAND(STAGE, STAGE == STAGES - 2),
#endif
};
static const GvrtParam params[] = {
    {.prefix = "w",
     .count = 1,
     .ndims = 1,
     .dims = {1},
     .init = GVRT_VALUE,
     .lr = 1,
     .elsewhere = STAGE > 0},
};
static const GvrtInput inputs[] = {{"tokens", SEQ, STAGE ? -1 : TOKENS, GVRT_I32, VOCAB, NULL}};
static const char *const reports[] = {"loss"};
static const int64_t report_at[] = {LAST ? LOSS : -1};
static const GvrtReport report_on[] = {{1, 1 << 1}};
static const GvrtPart logits = {
    .mesh = 1, .naxes = 3, .axis = {{1, 0, {0}}, {SEQ, 0, {0}}, {VOCAB, 1, {1}}}};

static const GvrtProgram program = {
    .abi = GVRT_ABI,
    .model = "chain",
    .source = "chain.gdl",
    .plan_hash = 9,
    .ranks = RANKS,
    .stage = STAGE,
    .stages = STAGES,
    .arena_bytes = ARENA,
    .m = -1,
    .v = -1,
    .microbatch = 1,
    .microbatches = 1,
    .params = params,
    .nparams = 1,
    .inputs = inputs,
    .ninputs = 1,
    .nslots = 1,
    .reports = reports,
    .report_at = report_at,
    .nreports = 1,
    .logits_at = LAST ? LOGITS : GVRT_ELSEWHERE,
    .logits_cols = COLS,
    .logits_ld = COLS,
    .logits_part = LAST ? &logits : NULL,
    .logits_all = VOCAB,
    .seq = SEQ,
    .train = {.opt = GVRT_SGD, .rate = GVRT_CONST, .steps = 3},
    .forward = forward,
    .step = step,
    .update = update,
    .stage_ranks = stages,
    .meshes = meshes,
    .nmeshes = 2,
    .comms = comms,
    .ncomms = 1,
    .exchanges = exchanges,
    .nexchanges = sizeof exchanges / sizeof *exchanges,
    .nrequests = 2,
    .report_on = report_on,
};

int
main(int argc, char **argv)
{
	return gvrt_main(argc, argv, &program);
}
