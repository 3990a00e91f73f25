/*
 * collectives.c - four ranks that check every collective and a few exchanges against plain loops. Values are small whole
 * numbers, so sums are exact. The first difference is one line and exit(3).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gvrt.h"

enum { RANKS = 4, N = 40000, REQUESTS = 6 };
enum {
	IN = 0,
	OUT = N,
	WORK = 2 * N,
	A = 3 * N,
	B = 4 * N,
	C = 5 * N,
	WEIGHT = 6 * N,
	ARENA = 6 * N + 64
};
enum { WORLD, OVER_0, OVER_1 }; /* mesh 0 is 2 x 2 */

static const GvrtStage stages[] = {{0, RANKS}};
static const GvrtMesh meshes[] = {{3, {1, 2, 2}}, {2, {1, 4}}, {3, {1, 4, 1}}};
static const GvrtComm comms[] = {{0, {{0, 0}}}, {1, {{2, 2}}}, {1, {{1, 2}}}};
static const int strides[] = {1, 2, 1}, sizes[] = {4, 2, 2};

static void
differs(GvrtRun *r, const char *what, int64_t i, double have, double want)
{
	fprintf(stderr, "rank %d: %s [%lld] is %g, not %g\n", (int)gv_index(r, 1, 2), what,
		(long long)i, have, want);
	exit(3);
}

static void
expect(GvrtRun *r, const char *what, int64_t i, real have, double want)
{
	if ((double)have != want) differs(r, what, i, (double)have, want);
}

static real *
at(GvrtRun *r, int64_t place)
{
	return (real *)(void *)r->arena + place;
}

static double
value(int64_t rank, int64_t i)
{
	return (double)((i * 31 + rank * 17 + i * rank) % 101);
}

static void
set(GvrtRun *r, int64_t place, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		at(r, place)[i] = (real)value(gv_index(r, 1, 2), i);
}

/* World rank of member j of the group of `rank`. */
static int64_t
member(int comm, int64_t rank, int64_t j)
{
	return rank - rank / strides[comm] % sizes[comm] * strides[comm] + j * strides[comm];
}

static double
summed(int comm, int64_t rank, int64_t i, bool max)
{
	double s = 0;
	for (int64_t j = 0; j < sizes[comm]; j++) {
		double x = value(member(comm, rank, j), i);
		s = max ? (x > s ? x : s) : s + x;
	}
	return s;
}

static void
check_reduce(GvrtRun *r, int comm, int64_t n, bool max)
{
	int64_t me = gv_index(r, 1, 2);
	set(r, A, n);
	gv_all_reduce(r, comm, at(r, A), n, max, "check");
	for (int64_t i = 0; i < n; i++)
		expect(r, max ? "all_reduce max" : "all_reduce", i, at(r, A)[i],
		       summed(comm, me, i, max));
}

static void
check_gather(GvrtRun *r, int comm, int64_t outer, int64_t inner)
{
	int64_t me = gv_index(r, 1, 2);
	set(r, IN, outer * inner);
	gv_all_gather(r, comm, at(r, IN), at(r, OUT), outer, inner, sizeof(real), "check");
	for (int64_t o = 0; o < outer; o++)
		for (int64_t j = 0; j < sizes[comm]; j++)
			for (int64_t i = 0; i < inner; i++)
				expect(r, "all_gather", i,
				       at(r, OUT)[(o * sizes[comm] + j) * inner + i],
				       value(member(comm, me, j), o * inner + i));
}

static void
check_scatter(GvrtRun *r, int comm, int64_t outer, int64_t inner)
{
	int64_t me = gv_index(r, 1, 2), c = me / strides[comm] % sizes[comm], n = sizes[comm];
	set(r, IN, outer * n * inner);
	gv_reduce_scatter(r, comm, at(r, IN), at(r, OUT), at(r, WORK), outer, inner, "check");
	for (int64_t o = 0; o < outer; o++)
		for (int64_t i = 0; i < inner; i++)
			expect(r, "reduce_scatter", i, at(r, OUT)[o * inner + i],
			       summed(comm, me, (o * n + c) * inner + i, false));
}

/* Several in flight on one communicator, one request that is a chain, waited for in another order. */
static void
check_flight(GvrtRun *r, int64_t n)
{
	int64_t me = gv_index(r, 1, 2), c = me / 2;
	set(r, A, n);
	set(r, B, 2 * n);
	set(r, C, n);
	memset(at(r, OUT), 0, (size_t)n * sizeof(real));
	gv_start_all_reduce(r, 0, OVER_1, at(r, A), n, "first over 1");
	gv_start_all_reduce(r, 0, OVER_0, at(r, A), n, "then over 0");
	gv_start_reduce_scatter(r, 1, OVER_0, at(r, B), at(r, OUT), n, true, "scatter");
	gv_start_all_gather(r, 2, OVER_0, at(r, C), at(r, WORK), n, "gather");
	check_reduce(r, OVER_1, 0, false);
	gv_wait(r, 2);
	gv_wait(r, 0);
	gv_wait(r, 1);
	for (int64_t i = 0; i < n; i++) {
		expect(r, "chain", i, at(r, A)[i], summed(WORLD, me, i, false));
		expect(r, "scatter", i, at(r, OUT)[i], summed(OVER_0, me, c * n + i, false));
		for (int64_t j = 0; j < 2; j++)
			expect(r, "gather", i, at(r, WORK)[j * n + i],
			       value(member(OVER_0, me, j), i));
	}
	/* in place */
	set(r, B, 2 * n);
	memcpy(at(r, C) + c * n, at(r, A), (size_t)n * sizeof(real));
	gv_start_reduce_scatter(r, 3, OVER_0, at(r, B), at(r, B) + c * n, n, false, "in place");
	gv_start_all_gather(r, 4, OVER_0, at(r, C) + c * n, at(r, C), n, "in place");
	gv_wait(r, 3);
	gv_wait(r, 4);
	for (int64_t i = 0; i < n; i++) {
		expect(r, "scatter in place", i, at(r, B)[c * n + i],
		       summed(OVER_0, me, c * n + i, false));
		for (int64_t j = 0; j < 2; j++)
			expect(r, "gather in place", i, at(r, C)[j * n + i],
			       summed(WORLD, me, i, false));
	}
}

/* ---- exchanges: a tensor of 5 x 6 whose element (a, b) is 10 a + b + 1 ---- */

enum { ROWS = 5, COLS = 6 };

static const GvrtExchange exchanges[] = {
    /* rows@0 cols@1 -> rows over all four, cols first in memory */
    {.label = "turn",
     .from = {0, 0, 0},
     .to = {0, 1, 0},
     .naxes = 2,
     .axis = {{ROWS, 1, {1}, 1, {1}, 1}, {COLS, 1, {2}, 0, {0}, 0}},
     .elem = sizeof(real),
     .channel = 0},
    /* rows over all four -> whole, but only on those that are first along mesh axis 2 of mesh 0; added */
    {.label = "back",
     .from = {0, 1, 0},
     .to = {0, 0, 1 << 2},
     .naxes = 2,
     .axis = {{ROWS, 1, {1}, 0, {0}, 0}, {COLS, 0, {0}, 0, {0}, 1}},
     .elem = sizeof(real),
     .channel = 1},
    /* whole -> cols over all four */
    {.label = "split",
     .from = {0, 0, 0},
     .to = {0, 1, 0},
     .naxes = 2,
     .axis = {{ROWS, 0, {0}, 0, {0}, 0}, {COLS, 0, {0}, 1, {1}, 1}},
     .elem = sizeof(real),
     .channel = 0},
};

static double
element(int64_t a, int64_t b)
{
	return a < ROWS && b < COLS ? (double)(10 * a + b + 1) : 0;
}

static void
check_exchange(GvrtRun *r)
{
	int64_t me = gv_index(r, 1, 2), c0 = me / 2, c1 = me % 2;
	for (int64_t a = 0; a < 3; a++)
		for (int64_t b = 0; b < 3; b++)
			at(r, IN)[a * 3 + b] = (real)element(c0 * 3 + a, c1 * 3 + b);
	for (int64_t a = 0; a < ROWS; a++)
		for (int64_t b = 0; b < COLS; b++)
			at(r, A)[a * COLS + b] = (real)element(a, b);
	for (int64_t i = 0; i < 12; i++)
		at(r, OUT)[i] = -1;
	gv_start_exchange(r, 0, 0, at(r, IN), at(r, OUT), NULL);
	gv_start_exchange(r, 5, 2, at(r, A), at(r, B), NULL);
	gv_wait(r, 5);
	gv_wait(r, 0);
	for (int64_t a = 0; a < 2; a++)
		for (int64_t b = 0; b < COLS; b++)
			expect(r, "turn", a * COLS + b, at(r, OUT)[b * 2 + a],
			       element(me * 2 + a, b));
	for (int64_t a = 0; a < ROWS; a++)
		for (int64_t b = 0; b < 2; b++)
			expect(r, "split", a * 2 + b, at(r, B)[a * 2 + b],
			       element(a, me * 2 + b));
	for (int64_t a = 0; a < 2; a++)
		for (int64_t b = 0; b < COLS; b++)
			at(r, IN)[a * COLS + b] = (real)element(me * 2 + a, b);
	for (int64_t i = 0; i < ROWS * COLS; i++)
		at(r, C)[i] = 1000;
	gv_start_exchange(r, 1, 1, at(r, IN), at(r, C), at(r, WORK));
	gv_wait(r, 1);
	for (int64_t a = 0; a < ROWS; a++)
		for (int64_t b = 0; b < COLS; b++)
			expect(r, "back", a * COLS + b, at(r, C)[a * COLS + b],
			       1000 + (c1 ? 0 : element(a, b)));
}

static void
step(GvrtRun *r)
{
	static const int64_t n[] = {1, 2, 3, 63, 1000, N / 4};
	for (size_t k = 0; k < sizeof n / sizeof *n; k++) {
		for (int comm = WORLD; comm <= OVER_1; comm++) {
			check_reduce(r, comm, n[k], false);
			check_reduce(r, comm, n[k], true);
			check_gather(r, comm, 1, n[k]);
			check_scatter(r, comm, 1, n[k]);
			if (n[k] < 1000) check_gather(r, comm, 7, n[k]);
			if (n[k] < 1000) check_scatter(r, comm, 7, n[k]);
		}
		check_flight(r, n[k]);
	}
	for (int i = 0; i < 20; i++)
		check_exchange(r);
	gvrt_norm(r);
}

static void
update(GvrtRun *r)
{
	(void)r;
}

static const GvrtParam params[] = {
    {.prefix = "w", .count = 1, .ndims = 1, .dims = {1}, .init = GVRT_VALUE, .lr = 1},
};

static const GvrtProgram program = {
    .abi = GVRT_ABI,
    .model = "collectives",
    .source = "collectives.gdl",
    .plan_hash = 5,
    .ranks = RANKS,
    .stages = 1,
    .arena_bytes = ARENA * (int64_t)sizeof(real),
    .param = WEIGHT * (int64_t)sizeof(real),
    .m = -1,
    .v = -1,
    .microbatch = 1,
    .microbatches = 1,
    .params = params,
    .nparams = 1,
    .logits_at = -1,
    .train = {.opt = GVRT_SGD, .rate = GVRT_CONST, .steps = 3},
    .step = step,
    .update = update,
    .stage_ranks = stages,
    .meshes = meshes,
    .nmeshes = 3,
    .comms = comms,
    .ncomms = 3,
    .exchanges = exchanges,
    .nexchanges = 3,
    .nrequests = REQUESTS,
};

int
main(int argc, char **argv)
{
	return gvrt_main(argc, argv, &program);
}
