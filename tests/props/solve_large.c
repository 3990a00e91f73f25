/*
 * solve_large.c - the solver where brute force cannot follow: drawn problems of tens of layers with everything in them (several
 * classes, tables, heads, moves, work, what arrives). The plan is as good as it says and fits, the bound is within 2 %, a
 * second call gives the same, a plan for more memory is no worse, and none is found below the bound.
 *
 * usage: solve_large [PROBLEMS [LAYERS STAGES CANDIDATES GROUPS HEADS]]    larger ones, by hand; prints each
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "passes/solve.h"

enum { PROBLEMS = 60, CLASSES = 4 };

typedef struct Size {
	uint32_t layers, stages, cand, groups, heads;
} Size;

static uint64_t seed;

static int64_t
draw(int64_t lo, int64_t hi)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return lo + (int64_t)((seed >> 33) % (uint64_t)(hi - lo + 1));
}

static SolveCost *
draw_class(Arena *a, const Size *z, bool works, bool enters)
{
	SolveCost *c = NEW_N(a, SolveCost, z->cand);
	int64_t base = draw(1000000, 8000000), state = draw(1, 40), saved = draw(1, 60);
	for (uint32_t k = 0; k < z->cand; k++) {
		int64_t less = draw(0, 100); /* slower by so much, and smaller */
		c[k] = (SolveCost){
		    .group = (uint32_t)draw(0, z->groups - 1),
		    .time = base * (100 + less * less / 150 + draw(0, 10)) / 100 + draw(0, 999),
		    .once = draw(0, 3) ? draw(0, base / 3) : 0,
		    .state = state * (130 - less) * 10000 + draw(0, 99999),
		    .saved = saved * (110 - less) * 10000 + draw(0, 99999),
		    .work = works ? draw(1, 5) * 4000000 : 0,
		    .enter = enters ? draw(0, base / 20) : 0,
		    .enter_saved = enters ? draw(0, 300000) : 0};
	}
	return c;
}

static SolveTable *
draw_table(Arena *a, const Size *z)
{
	SolveTable *t = NEW(a, SolveTable);
	uint32_t *ncand = NEW_N(a, uint32_t, CLASSES);
	SolveCost **cost = NEW_N(a, SolveCost *, CLASSES);
	const SolveMove **move = NEW_N(a, const SolveMove *, CLASSES);
	bool works = draw(0, 1), enters = draw(0, 1);
	for (uint32_t c = 0; c < CLASSES; c++) {
		SolveMove *m = NEW_N(a, SolveMove, z->groups * z->groups);
		for (uint32_t i = 0; i < z->groups * z->groups; i++)
			if (i / z->groups != i % z->groups)
				m[i] = (SolveMove){draw(10000, 600000), draw(0, 100000)};
		move[c] = m;
		cost[c] = draw_class(a, z, works, enters);
		ncand[c] = z->cand;
	}
	*t = (SolveTable){.ngroups = z->groups,
			  .ncand = ncand,
			  .cost = cost,
			  .move = draw(0, 3) ? move : NULL};
	return t;
}

static void
draw_heads(Arena *a, SolveProblem *p)
{
	SolveHead *head = NEW_N(a, SolveHead, p->nheads + 1);
	for (uint32_t h = 0; h < p->nheads; h++) {
		int64_t *time = NEW_N(a, int64_t, 2 * p->stages), *bytes = time + p->stages;
		for (uint32_t s = 0; s < p->stages; s++) {
			bool has = s == 0 || s + 1 == p->stages;
			time[s] = has ? draw(500000, 4000000) : 0;
			bytes[s] = has ? draw(1, 30) * 1000000 : 0;
		}
		head[h] = (SolveHead){time, bytes};
	}
	p->head = head;
}

/* What stages may take: between the smallest and the fastest candidates. */
static void
draw_limits(Arena *a, SolveProblem *p, const SolveTable *t)
{
	int64_t *limit = NEW_N(a, int64_t, p->stages);
	int64_t share = draw(15, 80);
	for (uint32_t s = 0; s < p->stages; s++) {
		int64_t sum = 0;
		for (uint32_t l = 0; l < p->nlayers; l++) {
			uint32_t class = p->class_of[l];
			int64_t small = INT64_MAX, large = 0;
			for (uint32_t k = 0; k < t->ncand[class]; k++) {
				const SolveCost *c = &t->cost[class][k];
				int64_t bytes = c->state + p->slots[s] * c->saved;
				if (bytes < small) small = bytes;
				if (bytes > large) large = bytes;
			}
			sum += small + (large - small) / 100 * share;
		}
		limit[s] = sum / p->stages + 45000000;
	}
	p->limit = limit;
}

static SolveProblem *
draw_problem(Arena *a, const Size *z)
{
	SolveProblem *p = NEW(a, SolveProblem);
	*p = (SolveProblem){.nlayers = z->layers,
			    .stages = z->stages,
			    .nheads = z->heads,
			    .nclasses = CLASSES,
			    .microbatches = (uint32_t)draw(1, 40),
			    .bound = INT64_MAX};
	uint32_t *class_of = NEW_N(a, uint32_t, p->nlayers),
		 *slots = NEW_N(a, uint32_t, p->stages);
	const SolveTable **table = NEW_N(a, const SolveTable *, p->stages);
	SolveTable *one = draw_table(a, z), *other = draw(0, 3) ? one : draw_table(a, z);
	for (uint32_t l = 0; l < p->nlayers; l++)
		class_of[l] = l && draw(0, p->nlayers / 3) ? class_of[l - 1]
							   : (uint32_t)draw(0, CLASSES - 1);
	for (uint32_t s = 0; s < p->stages; s++) {
		table[s] = s < p->stages / 2 ? one : other;
		slots[s] = p->stages - s < p->microbatches ? p->stages - s : p->microbatches;
	}
	p->class_of = class_of;
	p->slots = slots;
	p->table = table;
	draw_limits(a, p, one);
	draw_heads(a, p);
	return p;
}

static int
wrong(uint32_t number, const char *what, int64_t is, int64_t other)
{
	printf("problem %" PRIu32 ": %s: %" PRId64 ", %" PRId64 "\n", number, what, is, other);
	return 1;
}

static int
check_problem(Arena *a, uint32_t number, SolveProblem *p, double *gap, bool *found)
{
	SolveAnswer x, y;
	int64_t least = solve_least(a, p);
	*gap = 0;
	*found = solve(a, p, &x);
	if (!*found) return 0;
	int64_t time = x.time;
	*gap = (double)(time - x.least) / (double)time;
	if (!solve_evaluate(p, &x) || x.time != time)
		return wrong(number, "time", time, x.time);
	if (x.least > time || least > time) return wrong(number, "bound", x.least, least);
	if (*gap > 0.02) return wrong(number, "far above the bound", time, x.least);
	if (!solve(a, p, &y) || y.time != time || y.least != x.least ||
	    memcmp(x.cand, y.cand, sizeof *x.cand * p->nlayers) != 0)
		return wrong(number, "another plan the second time", time, y.time);
	p->bound = x.least;
	if (solve(a, p, &y)) return wrong(number, "a plan below the bound", y.time, x.least);
	p->bound = INT64_MAX;
	for (uint32_t s = 0; s < p->stages; s++)
		((int64_t *)p->limit)[s] += p->limit[s] / 5;
	if (!solve(a, p, &y) || y.least > time)
		return wrong(number, "more memory", y.least, time);
	return 0;
}

int
main(int argc, char **argv)
{
	uint32_t n = argc > 1 ? (uint32_t)atoi(argv[1]) : PROBLEMS, feasible = 0;
	int bad = 0;
	double worst = 0;
	for (uint32_t i = 0; i < n; i++) {
		Arena *a = arena_new();
		seed = i * 7919 + 17;
		Size z = {.layers = (uint32_t)draw(8, 40),
			  .stages = (uint32_t)draw(1, 6),
			  .cand = (uint32_t)draw(2, 16),
			  .groups = (uint32_t)draw(1, 5),
			  .heads = (uint32_t)draw(0, 4)};
		for (int k = 2; k < argc && k < 7; k++)
			(&z.layers)[k - 2] = (uint32_t)atoi(argv[k]);
		SolveProblem *p = draw_problem(a, &z);
		double gap;
		bool found;
		clock_t from = clock();
		bad += check_problem(a, i, p, &gap, &found);
		if (argc > 1)
			printf("%" PRIu32 ": %" PRIu32 " layers, %" PRIu32
			       " stages: %s, gap %.4f %%, %.3f s\n",
			       i, p->nlayers, p->stages, found ? "found" : "infeasible",
			       100 * gap, (double)(clock() - from) / CLOCKS_PER_SEC);
		feasible += found;
		if (gap > worst) worst = gap;
		arena_free(a);
	}
	printf("%" PRIu32 " problems, %" PRIu32 " with a plan, largest gap %.4f %%, %d wrong\n",
	       n, feasible, 100 * worst, bad);
	return bad != 0 || feasible < n / 2;
}
