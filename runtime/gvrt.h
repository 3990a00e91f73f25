/*
 * gvrt.h - the whole interface between an emitted program and its runtime.
 *
 * An emitted stage is one C source: tables that describe it (GvrtProgram), one function per body, and one function per
 * action list. gvrt_main() does the rest: arguments, environment, arena, data, checkpoints, progress. The runtime knows
 * no model; the program knows no file. No memory is allocated after the first step.
 *
 * A program of one rank leaves everything about ranks zero, and needs no MPI. Programs of several ranks are one executable
 * for each pipeline stage; what is marked [same] below is the same in all of them, which the runtime checks as it starts.
 * All extents are elements, all offsets bytes. Mesh axes are numbered as in the plan: 0 is `mb` and has degree 1 here,
 * because everything is seen one microbatch at a time; a mask has bit k for mesh axis k.
 */
#ifndef GVRT_H
#define GVRT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A field and what it means stay on one line. */
/* clang-format off */

#define GVRT_ABI 2

#ifdef GVRT_F64
typedef double real; /* the program's arithmetic: --precision f64 */
#else
typedef float real;
#endif

enum { GVRT_AXES = 12, GVRT_MESH = 8, GVRT_SHARD = 3 };

/* ---- ranks ---- */
typedef struct GvrtStage { int32_t rank, ranks; } GvrtStage; /* its first rank, and how many */

/* An ordered factorisation of a stage's ranks: the last axis runs fastest. */
typedef struct GvrtMesh {
	uint8_t n;
	int32_t degree[GVRT_MESH]; /* [0] = 1 */
} GvrtMesh;

/* One entry of the global table of communicators, as this stage has it: the members of a group differ in these digits of
 * (rank - stage.rank) only. n = 0: this stage takes no part. Entry 0 is the world, its digits are not read. */
typedef struct GvrtComm {
	uint8_t n;
	struct { int32_t stride, degree; } digit[GVRT_MESH]; /* outermost (largest stride) first */
} GvrtComm;

/* One axis of a tensor and the mesh axes it is split over, outermost first: ceil blocks, so a local tensor always has
 * ceil(ceil(extent / d0) / d1) elements along it, and what is past the end of the last blocks is padding. */
typedef struct GvrtAxis {
	int64_t extent; /* of the whole axis; of `batch`: of one microbatch */
	uint8_t nshard, shard[GVRT_SHARD];
} GvrtAxis;

typedef enum GvrtSection { GVRT_PARAM, GVRT_GRAD, GVRT_M, GVRT_V, GVRT_SECTIONS } GvrtSection;

/* Which part of a tensor a rank has, and where. `at` and `stride` stand in for those of GvrtParam. */
typedef struct GvrtPart {
	int32_t mesh;   /* into GvrtProgram.meshes */
	uint8_t naxes;  /* storage axes in order: the product of their extents is GvrtParam.count */
	GvrtAxis axis[GVRT_AXES];
	/* Of a parameter only. In a section that is not split: `at` = where the local tensor begins, relative to the section. In a split one: where
	 * this rank's range of the FLAT begins: bytes [c, c + 1) * flat_bytes / d of it, for the c-th of the d ranks along
	 * the mesh axes `over`; the local tensor is bytes flat_at .. of the flat. A section it has not: -1. */
	int64_t at[GVRT_SECTIONS], stride[GVRT_SECTIONS]; /* stride: from one parameter of a repeated row to the next */
	uint8_t split;      /* bit s: section s is split; GVRT_M's is set from ZeRO 1 on, whether or not there are moments */
	uint16_t over;
	int64_t flat_at, flat_bytes; /* the same for all of a repeated row */
} GvrtPart;

/* A parameter, or `repeat` of them: names are prefix + (first + i * by) + suffix, offsets at + i * stride.
 * With several stages every program lists every parameter that has a checkpoint entry: [same] names, shapes, first values. How
 * rows are grouped and ordered is free. A copy that another stage or mesh uses (a borrowed one) is a row of its own under the
 * name of the parameter it copies. */
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
	/* several ranks */
	const GvrtPart *part; /* NULL: this rank has all of it, at `at` of every section */
	bool elsewhere;       /* other stages have it: part is NULL, `at` and `a` of a TABLE are not read */
	bool borrowed;        /* a copy: first values and resumed ones like any, but no moments and no checkpoint entry */
	bool per;             /* entries i = 0 .. of a `per` parameter are the rows of axis 0 of ONE tensor of the part's shape: stride is not read, count is of one entry */
} GvrtParam;

/* With several stages every program lists every input [same]. One that is read in several layouts is several rows of
 * one name. */
typedef struct GvrtInput {
	const char *name;
	int64_t per_sample; /* elements of one sample in one microbatch row, over all ranks */
	int64_t at;         /* bytes in a slot; -1: this stage does not read it */
	enum { GVRT_I32, GVRT_REAL, GVRT_BOOL } kind;
	int64_t range;      /* tokens must be below; 0: any */
	const GvrtPart *part; /* NULL: all of it. Axis 0 is `batch`; the slot holds the local tensor, padding zero */
} GvrtInput;

/* Where a report is counted: on the ranks of this stage whose coordinate is 0 along the mesh axes `first`. */
typedef struct GvrtReport {
	int32_t mesh;
	uint16_t first;
} GvrtReport;

/* ---- exchanges: one tensor from the ranks of one mesh to those of another, or of the same ----
 * Sides that lie alike (degrees, shards, partial) exchange rank for rank. Else each rank of `to` receives every element of its block once, from the rank that has it: from itself if it does; else from
 * replica number (its index in its stage) % (number of replicas), numbered in order of rank. Messages of one channel between two ranks
 * keep their order. What a rank does not receive (padding; ranks that are not first along `partial`) becomes zero, unless the exchange adds. */
typedef struct GvrtSide {
	int32_t stage, mesh;
	uint16_t partial; /* mesh axes a sum is pending over; of `to`: only ranks with coordinate 0 along these receive */
} GvrtSide;

typedef struct GvrtExchange { /* [same] in the two stages, but for its place in the table */
	const char *label;
	GvrtSide from, to;
	uint8_t naxes;
	struct {
		int64_t extent;
		uint8_t nfrom, from[GVRT_SHARD], nto, to[GVRT_SHARD];
		uint8_t place; /* of this axis among those of the target; axes are in the source's order */
	} axis[GVRT_AXES];
	int32_t elem;    /* bytes of an element */
	int32_t channel; /* a number from 0: messages (from.stage, to.stage, channel) keep their order */
} GvrtExchange;

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

/* What a program made with --instrument times: sums of the step at hand. `what`: a kernel as profiles name it, or '#' and a word. */
typedef struct GvrtMeter { const char *what; int64_t ns, calls; } GvrtMeter;

typedef struct GvrtMemLine { const char *what; int64_t bytes; } GvrtMemLine;

typedef struct GvrtProgram {
	int abi;
	const char *model, *source;
	uint64_t plan_hash;
	int ranks, stage, stages;
	int threads; /* 0: all the cores this process may use */
	int64_t arena_bytes;
	int64_t param, grad, m, v; /* sections; grad < 0 in forward-only programs; v < 0 without second moments */
	int64_t microbatch, microbatches;       /* samples each, per step */
	const GvrtParam *params; size_t nparams;
	const GvrtInput *inputs; size_t ninputs;
	int64_t slots, slot_bytes, nslots;
	const char *const *reports; const int64_t *report_at; size_t nreports; /* [0] is the loss: real scalars in slot 0, summed over microbatches */
	int64_t logits_at, logits_cols, logits_ld; /* bytes in a slot frame; -1: none. row = sample * seq + position */
	int64_t seq;                                  /* positions of one sample: of the input `tokens`; 0 if there is none */
	GvrtTrain train;
	double flops; /* model FLOPs of one step on this rank: forward and backward, without recomputation */
	void (*consts)(GvrtRun *);           /* makes the constant tensors */
	void (*forward)(GvrtRun *);          /* one microbatch, inputs in slot 0: losses and logits (dropout as run->train) */
	void (*step)(GvrtRun *);             /* forward and backward of all microbatches, norm */
	void (*update)(GvrtRun *);
	const GvrtMemLine *memory; size_t nmemory;
	/* several ranks; `ranks` is [same], `plan_hash` is, `arena_bytes` and everything `_at` is this stage's */
	const GvrtStage *stage_ranks;                     /* [stages], [same] */
	const GvrtMesh *meshes; size_t nmeshes;
	const GvrtComm *comms; size_t ncomms;             /* [same] number in all stages */
	const GvrtExchange *exchanges; size_t nexchanges; /* those this stage takes part in, either side */
	size_t nrequests;                                 /* requests are 0 .. nrequests */
	const GvrtReport *report_on;                      /* [nreports]; NULL: every report, on every rank. report_at < 0: not of this stage */
	const GvrtPart *logits_part;                      /* axes batch, [seq,] vocabulary, of one microbatch; NULL: all of them. logits_cols, logits_ld are local; see logits_all */
	int64_t logits_all;                               /* columns over all ranks; 0: logits_cols. [same], as is whether there are logits: a stage without has logits_at = GVRT_ELSEWHERE */
	GvrtMeter *meters; size_t nmeters;                /* none in ordinary programs */
} GvrtProgram;

#define GVRT_ELSEWHERE (-2)

int gvrt_main(int argc, char **argv, const GvrtProgram *p);

/* ---- called from step() ---- */
/* Brings microbatch mb of the current step into slot (mb mod nslots). */
void gvrt_input(GvrtRun *r, int64_t mb);
/* Adds the slot's report scalars to the step's sums, those that are counted here. */
void gvrt_report(GvrtRun *r, int64_t mb);
/* All N bodies ran: norm = sqrt(sumsq); scale = clip and the loss is finite. With several ranks: one all-reduce over the world
 * of 3 + nreports doubles (sumsq, whether someone was told to stop, seconds in waits, the reports). */
void gvrt_norm(GvrtRun *r);

/* ---- comm.c: communication; only programs of several ranks call these ----
 * Labels name the place in the model, for errors and traces. A failure of the transport ends the job with one line; so
 * none of these returns an error. Buffers lie in the arena. Collectives are called by all members of a communicator in the same
 * order, starts included; a rank that waits yields its core, and moves everything else along that it has started. */
int64_t gv_coord(const GvrtRun *run, int mesh, int axis);       /* of this rank */
int64_t gv_index(const GvrtRun *run, int mesh, unsigned axes);  /* its number along several mesh axes together, the last fastest: the c of a flat's range */
bool gv_first(const GvrtRun *run, int mesh, unsigned axes);     /* all coordinates along them are 0 */

/* In place: x[n] becomes the sum (or the greatest) over the members, the same bits on all. */
void gv_all_reduce(GvrtRun *run, int comm, real *x, int64_t n, bool max, const char *label);
/* in[outer][inner] of every member -> out[outer][members][inner], elements of `elem` bytes. in and out do not overlap. */
void gv_all_gather(GvrtRun *run, int comm, const void *in, void *out, int64_t outer, int64_t inner, int elem, const char *label);
/* in[outer][members][inner], summed over the members -> out[outer][inner]. work: outer * members * inner elements. */
void gv_reduce_scatter(GvrtRun *run, int comm, const real *in, real *out, real *work, int64_t outer, int64_t inner, const char *label);

/* Started now, complete after gv_wait. Several may be started on one request: each begins when the one before is complete, and the wait is
 * for all (gradients: first over tp, then over dp). At most 8 on one; after the wait the request is free again. */
void gv_start_all_reduce(GvrtRun *run, int request, int comm, real *x, int64_t n, const char *label);
/* in[members][n] summed -> out[n]; add: added to what out holds. `in` is overwritten with anything; out may be this rank's range of `in`. */
void gv_start_reduce_scatter(GvrtRun *run, int request, int comm, real *in, real *out, int64_t n, bool add, const char *label);
/* in[n] of every member -> out[members][n]; in may be this rank's range of out. */
void gv_start_all_gather(GvrtRun *run, int request, int comm, const real *in, real *out, int64_t n, const char *label);
/* src: the local tensor of a rank of `from` (else NULL); dst: of a rank of `to` (else NULL). work NULL: dst is overwritten. Otherwise what
 * arrives lies in work, which is as large as dst, and the wait adds it to dst (elements are `real`). */
void gv_start_exchange(GvrtRun *run, int request, int exchange, const void *src, void *dst, void *work);
void gv_wait(GvrtRun *run, int request);
/* GVRT_POISON=1: fills a dead buffer with NaN; compiled to a test of one flag. */
extern bool gvrt_poison;
void gvrt_fill_nan(void *p, int64_t bytes);
#define GV_DEAD(p, bytes)                                                                          \
	do {                                                                                       \
		if (gvrt_poison) gvrt_fill_nan(p, bytes);                                          \
	} while (0)

/* ---- meter.c: what ran since the last mark was this; `more`: of the call that was marked last ---- */
void gvrt_mark(GvrtMeter *m);
void gvrt_mark_more(GvrtMeter *m);

/* ---- rng.c: the same bits on every plan ---- */
uint64_t gvrt_key(uint64_t seed, const char *name);
uint32_t gvrt_bits(uint64_t key, uint64_t step, uint64_t index);

#endif
