/*
 * rig.c - a program that measures a machine: what products, memory and loops reach, and how long the runtime's collectives and
 * messages take. gvprof builds it like an emitted program, of as many ranks as are measured, and reads its lines:
 *
 *   flops RATE | bytes RATE | loops RATE      of one rank while all compute, the slowest of them
 *   curve KIND RANKS STRIDE BYTES NS          median of the slowest rank's
 *   step NS                                   of an empty step
 *
 * RIG_RANKS, RIG_STAGES (2: messages between the halves), RIG_STAGE, RIG_THREADS, RIG_NS (how long a point is measured) and the
 * table RIG_GROUPS come from the including file.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels.h"

enum {
	MAX_BYTES = 64 << 20,
	ARENA = 4 * MAX_BYTES + 4096,
	MIN_BYTES = 256,
	SIZES = 10, /* 256 bytes, then each four times the one before */
	REPS_MAX = 31,
	TOO_LONG = 4, /* times the time for a point: longer messages are left out */
	PER_STAGE = RIG_RANKS / RIG_STAGES
};

static const GvrtStage stages[] = {{0, PER_STAGE}, {PER_STAGE, PER_STAGE}};
static const GvrtMesh meshes[] = {{2, {1, PER_STAGE}}};

/* Groups of ranks that differ in one digit: {stride, degree}; the world is the first. */
static const GvrtComm comms[] = {{0, {{0, 0}}}, RIG_GROUPS};
enum { NCOMMS = sizeof comms / sizeof *comms };

static int64_t
now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static real *
at(GvrtRun *r, int64_t bytes)
{
	return (real *)(void *)(r->arena + bytes);
}

static int
compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double
median(double *x, int n)
{
	qsort(x, (size_t)n, sizeof *x, compare);
	return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static bool
is_first(const GvrtRun *r)
{
	return RIG_STAGE == 0 && (RIG_RANKS == 1 || gv_coord(r, 0, 1) == 0);
}

/* The greatest of all ranks; all have it. */
static double
slowest(GvrtRun *r, double x)
{
	real *y = at(r, 4 * (int64_t)MAX_BYTES);
	if (RIG_RANKS == 1) return x;
	*y = (real)x;
	gv_all_reduce(r, 0, y, 1, true, "slowest");
	return (double)*y;
}

/* ---- what a rank computes ---- */

typedef void Work(GvrtRun *r);

enum { PRODUCT = 1024, LOOP = 16384, LOOP_OPS = 8 };

static void
product(GvrtRun *r)
{
	real *a = at(r, 0), *b = a + PRODUCT * PRODUCT, *c = b + PRODUCT * PRODUCT;
	gv_gemm(false, false, PRODUCT, PRODUCT, PRODUCT, a, PRODUCT, b, PRODUCT, 0, c, PRODUCT);
}

/* Two operands and a result far larger than caches, each counted once. */
static void
triad(GvrtRun *r)
{
	const int64_t n = MAX_BYTES / (int64_t)sizeof(real);
	const real *restrict x = at(r, 0), *restrict y = at(r, MAX_BYTES);
	real *restrict z = at(r, 2 * (int64_t)MAX_BYTES);
#pragma omp parallel for simd schedule(static)
	for (int64_t i = 0; i < n; i++)
		z[i] = x[i] + (real)0.5 * y[i];
}

/* Simple operations on what the first cache holds, all threads together. */
static void
loop(GvrtRun *r)
{
#pragma omp parallel
	{
#ifdef _OPENMP
		real *x = at(r, omp_get_thread_num() * (int64_t)LOOP);
#else
		real *x = at(r, 0);
#endif
		const int64_t n = LOOP / (int64_t)sizeof(real);
		for (int turn = 0; turn < 256; turn++) {
#pragma omp simd
			for (int64_t i = 0; i < n; i++) {
				real v = x[i];
				v = v * (real)0.5 + (real)1;
				v = v < (real)0 ? -v : v;
				v = (v - (real)0.25) * (real)0.75 + v;
				v = v * v;
				x[i] = v;
			}
		}
	}
}

/* `amount` a second, of a rank while all do the same. */
static double
rate(GvrtRun *r, Work *work, double amount)
{
	double t[REPS_MAX];
	int n = 0;
	int64_t begun = now();
	work(r);
	do {
		slowest(r, 0);
		int64_t from = now();
		work(r);
		t[n++] = slowest(r, (double)(now() - from));
	} while (n < REPS_MAX && slowest(r, (double)(now() - begun)) < 2 * RIG_NS);
	return amount / median(t, n) * 1e9;
}

static void
measure_rates(GvrtRun *r)
{
	double threads = r->threads;
	double f = rate(r, product, 2.0 * PRODUCT * PRODUCT * PRODUCT);
	memset(r->arena, 0, 4 * (size_t)MAX_BYTES);
	double b = rate(r, triad, 3.0 * MAX_BYTES);
	double l = rate(r, loop, LOOP_OPS * 256.0 * (LOOP / (double)sizeof(real)) * threads);
	if (is_first(r)) printf("flops %.6g\nbytes %.6g\nloops %.6g\n", f, b, l);
}

/* ---- collectives ---- */

typedef struct Coll {
	const char *name;
	int comm, ranks, stride;
	int64_t bytes; /* as curves count them */
} Coll;

enum { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, KINDS };
static const char *const kind_name[KINDS] = {"all_reduce", "reduce_scatter", "all_gather"};

static void
collective(GvrtRun *r, int kind, const Coll *c)
{
	const int64_t all = c->bytes / (int64_t)sizeof(real), part = all / c->ranks;
	real *x = at(r, 0), *y = at(r, MAX_BYTES), *z = at(r, 2 * (int64_t)MAX_BYTES);
	if (kind == ALL_REDUCE)
		gv_all_reduce(r, c->comm, x, all, false, "all_reduce");
	else if (kind == REDUCE_SCATTER)
		gv_reduce_scatter(r, c->comm, x, y, z, 1, part, "reduce_scatter");
	else
		gv_all_gather(r, c->comm, x, y, 1, part, sizeof(real), "all_gather");
}

/* The operand has just been written by its rank, as it is in a step. */
static void
prepare(GvrtRun *r, int64_t bytes)
{
	real *x = at(r, 0);
	const int64_t n = bytes / (int64_t)sizeof(real);
#pragma omp parallel for simd schedule(static)
	for (int64_t i = 0; i < n; i++)
		x[i] = (real)(i & 7);
}

/* False: longer ones would take too long. */
static bool
measure_collective(GvrtRun *r, int kind, const Coll *c)
{
	double t[REPS_MAX];
	int n = 0;
	int64_t begun = now();
	collective(r, kind, c);
	do {
		prepare(r, c->bytes);
		slowest(r, 0); /* all are here */
		int64_t from = now();
		collective(r, kind, c);
		t[n++] = slowest(r, (double)(now() - from));
	} while (n < REPS_MAX && slowest(r, (double)(now() - begun)) < RIG_NS);
	double ns = median(t, n);
	if (is_first(r))
		printf("curve %s %d %d %" PRId64 " %.0f\n", kind_name[kind], c->ranks,
		       c->stride, c->bytes, ns);
	return slowest(r, ns) < TOO_LONG * RIG_NS;
}

static void
measure_collectives(GvrtRun *r)
{
	for (int k = 0; k < NCOMMS; k++) {
		const int ranks = k ? comms[k].digit[0].degree : RIG_RANKS;
		const int stride = k ? comms[k].digit[0].stride : 1;
		for (int kind = 0; kind < KINDS; kind++)
			for (int64_t b = MIN_BYTES, go = 1; go && b <= MAX_BYTES; b *= 4) {
				Coll c = {kind_name[kind], k, ranks, stride, 0};
				/* whole elements for everyone */
				int64_t unit = ranks * (int64_t)sizeof(real);
				c.bytes = (b + unit - 1) / unit * unit;
				go = c.bytes <= MAX_BYTES && measure_collective(r, kind, &c);
			}
	}
}

/* ---- messages ---- */

#if RIG_STAGES == 2
#define HALF(n, from_stage, to_stage, number)                                                  \
	{                                                                                      \
		.label = "message", .from = {from_stage, 0, 0}, .to = {to_stage, 0, 0},        \
		.naxes = 1, .axis = {{.extent = (n)}}, .elem = sizeof(real), .channel = number \
	}
#define BOTH(k)                                                              \
	HALF((MIN_BYTES << 2 * (k)) / (int64_t)sizeof(real), 0, 1, 2 * (k)), \
	    HALF((MIN_BYTES << 2 * (k)) / (int64_t)sizeof(real), 1, 0, 2 * (k) + 1)
static const GvrtExchange exchanges[] = {BOTH(0), BOTH(1), BOTH(2), BOTH(3), BOTH(4),
					 BOTH(5), BOTH(6), BOTH(7), BOTH(8)};
enum { NEXCHANGES = sizeof exchanges / sizeof *exchanges };

/* There and back. */
static void
round_trip(GvrtRun *r, int k)
{
	for (int back = 0; back < 2; back++) {
		bool sends = (RIG_STAGE == 0) == !back;
		gv_start_exchange(r, 0, 2 * k + back, sends ? at(r, 0) : NULL,
				  sends ? NULL : at(r, MAX_BYTES), NULL);
		gv_wait(r, 0);
	}
}

static void
measure_messages(GvrtRun *r)
{
	for (int k = 0; k < NEXCHANGES / 2; k++) {
		double t[REPS_MAX];
		int n = 0;
		int64_t begun = now(), bytes = MIN_BYTES << 2 * k;
		round_trip(r, k);
		do {
			prepare(r, bytes);
			slowest(r, 0);
			int64_t from = now();
			round_trip(r, k);
			t[n++] = slowest(r, (double)(now() - from)) / 2;
		} while (n < REPS_MAX && slowest(r, (double)(now() - begun)) < RIG_NS);
		double ns = median(t, n);
		if (is_first(r))
			printf("curve message 2 %d %" PRId64 " %.0f\n", PER_STAGE, bytes, ns);
		if (slowest(r, ns) >= TOO_LONG * RIG_NS) break;
	}
}
#endif

/* ---- the program ---- */

static void
step(GvrtRun *r)
{
#if RIG_STAGES == 2
	measure_messages(r);
#else
	measure_rates(r);
	if (RIG_RANKS > 1) measure_collectives(r);
#endif
	fflush(stdout);
	gvrt_norm(r);
}

static void
nothing(GvrtRun *r)
{
	(void)r;
}

static const GvrtProgram program = {
    .abi = GVRT_ABI,
    .model = "rig",
    .source = "gvprof",
    .plan_hash = UINT64_C(0x6776707266) + RIG_STAGES,
    .ranks = RIG_RANKS,
    .stage = RIG_STAGE,
    .stages = RIG_STAGES,
    .threads = RIG_THREADS,
    .arena_bytes = ARENA,
    .m = -1,
    .v = -1,
    .microbatch = 1,
    .microbatches = 1,
    .logits_at = -1,
    .forward = nothing,
    .step = step,
    .update = nothing,
    .stage_ranks = stages,
    .meshes = meshes,
    .nmeshes = 1,
    .comms = comms,
    .ncomms = NCOMMS,
#if RIG_STAGES == 2
    .exchanges = exchanges,
    .nexchanges = NEXCHANGES,
    .nrequests = 1,
#endif
};

int
main(int argc, char **argv)
{
	return gvrt_main(argc, argv, &program);
}
