/*
 * gvrt.h - the whole interface between an emitted program and its runtime.
 *
 * An emitted stage is one C source: tables that describe it (GvrtProgram), one function per body, and one function per
 * action list. gvrt_main() does the rest: arguments, environment, arena, data, checkpoints, progress. The runtime knows
 * no model; the program knows no file. No memory is allocated after the first step.
 */
#ifndef GVRT_H
#define GVRT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A field and what it means stay on one line. */
/* clang-format off */

#define GVRT_ABI 1

#ifdef GVRT_F64
typedef double real; /* the program's arithmetic: --precision f64 */
#else
typedef float real;
#endif

/* A parameter, or `repeat` of them: names are prefix + (first + i * by) + suffix, offsets at + i * stride. */
typedef struct GvrtParam {
	const char *prefix, *suffix; /* suffix NULL: one parameter named prefix */
	uint32_t first, by, repeat;
	int64_t at, stride; /* bytes, relative to each state section */
	int64_t count;      /* elements of one */
	uint8_t ndims;      /* of the checkpoint entry; at most 12 */
	int64_t dims[12];
	enum { GVRT_VALUE, GVRT_NORMAL, GVRT_UNIFORM, GVRT_TABLE } init;
	double a, b;        /* value | std | low, high; TABLE: a = byte offset of the constant tensor, b = from one entry to the next */
	double decay, lr;   /* factors on the optimizer's settings; lr 0: frozen */
} GvrtParam;

typedef struct GvrtInput {
	const char *name;
	int64_t per_sample; /* elements of one sample in one microbatch row */
	int64_t at;         /* bytes in a slot */
	enum { GVRT_I32, GVRT_REAL, GVRT_BOOL } kind;
	int64_t range;      /* tokens must be below; 0: any */
} GvrtInput;

typedef struct GvrtTrain { /* defaults of the run-time flags */
	enum { GVRT_ADAMW, GVRT_SGD } opt;
	enum { GVRT_CONST, GVRT_COSINE, GVRT_LINEAR_DECAY, GVRT_INVERSE_SQRT } rate;
	double peak, warmup, steps, floor, clip, beta1, beta2;
	uint64_t seed;
} GvrtTrain;

/* What emitted functions see while a step runs. */
typedef struct GvrtRun {
	unsigned char *arena;
	uint64_t step, seed;
	bool train;        /* false: dropout off */
	double lr, scale;  /* of this step; scale is set by gvrt_norm */
	double c1, c2;     /* 1 - beta^t */
	double sumsq;      /* N bodies add to it */
	double norm;       /* gradient norm before clipping */
	int threads;
	struct GvrtState *state; /* private */
} GvrtRun;

typedef struct GvrtMemLine { const char *what; int64_t bytes; } GvrtMemLine;

typedef struct GvrtProgram {
	int abi;
	const char *model, *source;
	uint64_t plan_hash;
	int ranks, stage, stages;
	int threads; /* 0: all the cores this process may use */
	int64_t arena_bytes;
	int64_t param, grad, m, v, state_bytes; /* sections; grad < 0 in forward-only programs; v < 0 without second moments */
	int64_t microbatch, microbatches;       /* samples each, per step */
	const GvrtParam *params; size_t nparams;
	const GvrtInput *inputs; size_t ninputs;
	int64_t slots, slot_bytes, nslots;
	const char *const *reports; const int64_t *report_at; size_t nreports; /* [0] is the loss: real scalars in slot 0, summed over microbatches */
	int64_t logits_at, logits_rows, logits_cols, logits_ld; /* bytes in a slot frame; -1: none. row = sample * seq + position */
	int64_t seq;                                  /* positions of one sample: of the input `tokens`; 0 if there is none */
	GvrtTrain train;
	double flops; /* model FLOPs of one step: forward and backward, without recomputation */
	void (*consts)(GvrtRun *);           /* makes the constant tensors */
	void (*forward)(GvrtRun *);          /* one microbatch, inputs in slot 0: losses and logits (dropout as run->train) */
	void (*step)(GvrtRun *);             /* forward and backward of all microbatches, norm */
	void (*update)(GvrtRun *);
	const GvrtMemLine *memory; size_t nmemory;
} GvrtProgram;

int gvrt_main(int argc, char **argv, const GvrtProgram *p);

/* ---- called from step() ---- */
/* Brings microbatch mb of the current step into slot (mb mod nslots). */
void gvrt_input(GvrtRun *r, int64_t mb);
/* Adds the slot's report scalars to the step's sums. */
void gvrt_report(GvrtRun *r, int64_t mb);
/* All N bodies ran: norm = sqrt(sumsq); scale = clip and the loss is finite. */
void gvrt_norm(GvrtRun *r);
/* GVRT_POISON=1: fills a dead buffer with NaN; compiled to a test of one flag. */
extern bool gvrt_poison;
void gvrt_fill_nan(void *p, int64_t bytes);
#define GV_DEAD(p, bytes)                                                                          \
	do {                                                                                       \
		if (gvrt_poison) gvrt_fill_nan(p, bytes);                                          \
	} while (0)

/* ---- rng.c: the same bits on every plan ---- */
uint64_t gvrt_key(uint64_t seed, const char *name);
uint32_t gvrt_bits(uint64_t key, uint64_t step, uint64_t index);

#endif
