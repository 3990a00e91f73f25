/*
 * solve.c - microseconds of the solver on problems as the plan search asks them: a first and a last layer and equal ones
 * between, few candidates, many stages, memory that binds. Printed: solve() without a bound and within 0.1 %, solve() for
 * plans below the best (there are none), solve_least(). CPU time, the median of several.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "passes/solve.h"

enum {
	MAX_LAYERS = 256,
	MAX_STAGES = 64,
	CLASSES = 3,
	MAX_CAND = 24,
	MAX_GROUPS = 8,
	RUNS = 9
};

static uint64_t seed = 1;

static int64_t
draw(int64_t lo, int64_t hi)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return lo + (int64_t)((seed >> 33) % (uint64_t)(hi - lo + 1));
}

typedef struct Shape {
	const char *name;
	uint32_t layers, stages, microbatches, cand, groups;
	int tight; /* percent of what the fastest plan takes */
} Shape;

static const Shape shapes[] = {
    {"32 layers, 1 stage", 32, 1, 8, 12, 4, 60},
    {"32 layers, 4 stages", 32, 4, 8, 12, 4, 60},
    {"48 layers, 8 stages", 48, 8, 16, 9, 3, 60},
    {"64 layers, 8 stages", 64, 8, 32, 9, 3, 70},
    {"64 layers, 16 stages", 64, 16, 32, 6, 2, 60},
    {"64 layers, 16, roomy", 64, 16, 32, 6, 2, 200},
    {"64 layers, 64 stages", 64, 64, 64, 3, 1, 60},
    {"98 layers, 8 stages", 98, 8, 64, 16, 5, 60},
    {"98 layers, 32 stages", 98, 32, 96, 12, 4, 60},
    {"98 layers, 64 stages", 98, 64, 128, 12, 4, 60},
    {"98 layers, 64, roomy", 98, 64, 128, 12, 4, 200},
};

typedef struct Problem {
	SolveProblem p;
	SolveTable table;
	const SolveTable *tables[MAX_STAGES];
	uint32_t class_of[MAX_LAYERS], ncand[CLASSES], slots[MAX_STAGES];
	int64_t limit[MAX_STAGES];
	SolveCost cost[CLASSES][MAX_CAND], *rows[CLASSES];
	SolveMove move[MAX_GROUPS * MAX_GROUPS];
	const SolveMove *moves[CLASSES];
} Problem;

/* Groups are meshes; in a group candidates recompute more and more, or shard their state. */
static void
fill(Problem *x, const Shape *h)
{
	memset(x, 0, sizeof *x);
	seed = h->layers * 131 + h->stages;
	int64_t fastest = 0;
	for (uint32_t c = 0; c < CLASSES; c++) {
		int64_t base = draw(3000000, 9000000), saved = draw(100, 400) << 20;
		x->rows[c] = x->cost[c];
		x->ncand[c] = h->cand;
		x->moves[c] = x->move;
		for (uint32_t k = 0; k < h->cand; k++) {
			int64_t group = k % h->groups, less = k / h->groups;
			x->cost[c][k] =
			    (SolveCost){.group = (uint32_t)group,
					.time = base * (100 + 4 * group + 11 * less) / 100 +
						draw(0, 100000),
					.once = draw(100000, 2000000),
					.state = (draw(200, 220) << 20) / (1 + group),
					.saved = saved / (1 + 3 * less) / (1 + group % 2),
					.work = draw(1, 4) << 26,
					.enter = draw(100000, 300000),
					.enter_saved = 4 << 20};
		}
		fastest += x->cost[c][0].state;
	}
	for (uint32_t m = 0; m < h->groups * h->groups; m++)
		if (m / h->groups != m % h->groups)
			x->move[m] = (SolveMove){draw(100000, 900000), 4 << 20};
	x->table = (SolveTable){
	    .ngroups = h->groups, .ncand = x->ncand, .cost = x->rows, .move = x->moves};
	x->p = (SolveProblem){.nlayers = h->layers,
			      .nclasses = CLASSES,
			      .stages = h->stages,
			      .microbatches = h->microbatches,
			      .class_of = x->class_of,
			      .table = x->tables,
			      .slots = x->slots,
			      .limit = x->limit,
			      .bound = INT64_MAX};
	for (uint32_t l = 0; l < h->layers; l++)
		x->class_of[l] = l == 0 ? 0 : l + 1 == h->layers ? 2 : 1;
	int64_t middle = 0;
	for (uint32_t s = 0; s < h->stages; s++) {
		uint32_t left = h->stages - s;
		x->tables[s] = &x->table;
		x->slots[s] = left < h->microbatches ? left : h->microbatches;
		middle = (int64_t)(h->stages + 1) / 2;
	}
	const SolveCost *c = &x->cost[1][0];
	int64_t each = (c->state + middle * c->saved) * h->layers / h->stages;
	for (uint32_t s = 0; s < h->stages; s++)
		x->limit[s] = each / 100 * h->tight + ((int64_t)1 << 29);
}

static double
now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int
by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

enum What { EXACT, NEAR, BELOW, LEAST, WHATS };

/* Microseconds; *out as the last run left it. */
static double
timed(SolveProblem *p, enum What what, SolveAnswer *out, bool *found)
{
	double us[RUNS];
	SolveAnswer best = *out;
	p->gap = what == NEAR ? 0.001 : 0;
	p->bound = what == BELOW && *found ? best.least : INT64_MAX;
	for (int i = 0; i < RUNS; i++) {
		Arena *a = arena_new();
		SolveAnswer x;
		double from = now_us();
		bool ok;
		if (what == LEAST)
			ok = solve_least(a, p) < INT64_MAX;
		else
			ok = solve(a, p, &x);
		us[i] = now_us() - from;
		if (what == EXACT) *found = ok;
		if (what == EXACT && ok) best.time = x.time, best.least = x.least;
		arena_free(a);
	}
	*out = best;
	qsort(us, RUNS, sizeof *us, by_size);
	return us[RUNS / 2];
}

int
main(void)
{
	static Problem x;
	printf("%-22s %9s %9s %9s %9s   %s\n", "microseconds", "exact", "0.1 %", "none below",
	       "least", "ns");
	for (size_t i = 0; i < COUNTOF(shapes); i++) {
		SolveAnswer best = {0};
		bool found = false;
		double us[WHATS];
		fill(&x, &shapes[i]);
		for (int w = 0; w < WHATS; w++)
			us[w] = timed(&x.p, (enum What)w, &best, &found);
		printf("%-22s %9.0f %9.0f %9.0f %9.0f   ", shapes[i].name, us[EXACT], us[NEAR],
		       us[BELOW], us[LEAST]);
		if (found)
			printf("%" PRId64 " (gap %.4f %%)\n", best.time,
			       100.0 * (double)(best.time - best.least) / (double)best.time);
		else
			puts("infeasible");
	}
	return 0;
}
