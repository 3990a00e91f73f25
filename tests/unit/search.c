/*
 * search.c - the dynamic program of the plan search against brute force: small tables drawn at random, every boundary,
 * every candidate tried.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "passes/passes.h"

enum { MAX_L = 6, MAX_C = 4, MAX_K = 3 };

static uint64_t rng = 1;

static uint32_t
draw(uint32_t n)
{
	rng = rng * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(rng >> 33) % n;
}

typedef struct Brute {
	const LayerTable *t;
	uint32_t first[MAX_K + 1], cand[MAX_L];
	int64_t best;
} Brute;

/* Time of the assignment at hand; -1: a stage is over memory. */
static int64_t
time_of(const Brute *b)
{
	const LayerTable *t = b->t;
	int64_t sum = 0, max = 0, once = 0;
	for (uint32_t k = 0; k < t->stages; k++) {
		int64_t at = 0, step = 0, bytes = 0, work = 0;
		int64_t slots = search_slots(t->schedule, t->stages, k, t->microbatches);
		uint32_t group = UINT32_MAX;
		for (uint32_t i = b->first[k]; i < b->first[k + 1]; i++) {
			const LayerCost *c = &t->cost[t->class_of[i]][b->cand[i]];
			bool enters = c->group != group;
			at += c->time + (enters ? c->enter : 0);
			step += c->once;
			bytes += c->state + slots * (c->saved + (enters ? c->enter_saved : 0));
			if (c->work > work) work = c->work;
			group = c->group;
		}
		if (bytes + work > t->limit) return -1;
		sum += at;
		if (at > max) max = at;
		if (step > once) once = step;
	}
	return sum + (t->microbatches - 1) * max + once;
}

static void
try_candidates(Brute *b, uint32_t layer)
{
	const LayerTable *t = b->t;
	if (layer == t->nlayers) {
		int64_t now = time_of(b);
		if (now >= 0 && now < b->best) b->best = now;
		return;
	}
	for (b->cand[layer] = 0; b->cand[layer] < t->ncand[t->class_of[layer]];
	     b->cand[layer]++)
		try_candidates(b, layer + 1);
}

static void
try_cuts(Brute *b, uint32_t stage)
{
	const LayerTable *t = b->t;
	if (stage == t->stages) {
		b->first[stage] = t->nlayers;
		if (b->first[stage] > b->first[stage - 1]) try_candidates(b, 0);
		return;
	}
	for (uint32_t i = b->first[stage - 1] + 1; i < t->nlayers; i++) {
		b->first[stage] = i;
		try_cuts(b, stage + 1);
	}
}

typedef struct Case {
	LayerTable t;
	uint32_t class_of[MAX_L], ncand[MAX_L];
	LayerCost cost[MAX_L][MAX_C], *rows[MAX_L];
} Case;

static void
draw_case(Case *x)
{
	LayerTable *t = &x->t;
	*t = (LayerTable){.nlayers = 1 + draw(5),
			  .nclasses = 1 + draw(3),
			  .class_of = x->class_of,
			  .ncand = x->ncand,
			  .cost = x->rows,
			  .microbatches = 1 + draw(6),
			  .schedule = (Schedule)draw(2),
			  .bound = INT64_MAX};
	t->stages = 1 + draw(t->nlayers < MAX_K ? t->nlayers : MAX_K);
	t->limit = 20 + draw(40 * t->nlayers);
	for (uint32_t i = 0; i < t->nlayers; i++)
		x->class_of[i] =
		    i && draw(2) ? x->class_of[i - 1] : draw(t->nclasses); /* runs are likely */
	for (uint32_t k = 0; k < t->nclasses; k++) {
		x->rows[k] = x->cost[k];
		x->ncand[k] = 1 + draw(MAX_C);
		for (uint32_t c = 0; c < x->ncand[k]; c++)
			x->cost[k][c] = (LayerCost){.group = draw(3),
						    .time = 1 + draw(30),
						    .enter = draw(10),
						    .once = draw(40),
						    .state = draw(15),
						    .saved = draw(15),
						    .enter_saved = draw(5),
						    .work = draw(15)};
	}
}

static int
check_case(uint32_t number, bool *feasible)
{
	Case x;
	Arena *a = arena_new();
	Assignment got;
	draw_case(&x);
	Brute b = {.t = &x.t, .best = INT64_MAX};
	try_cuts(&b, 1);
	*feasible = b.best != INT64_MAX;
	bool found = search_dp(a, &x.t, &got);
	int bad = 0;
	if (found != *feasible) {
		printf("case %u: %s, brute force %s\n", number, found ? "found" : "nothing",
		       *feasible ? "found" : "nothing");
		bad = 1;
	} else if (found) {
		memcpy(b.first, got.first, sizeof *got.first * x.t.stages);
		b.first[x.t.stages] = x.t.nlayers;
		memcpy(b.cand, got.cand, sizeof *got.cand * x.t.nlayers);
		int64_t real = time_of(&b);
		if (real != got.time || got.time != b.best) {
			printf("case %u: says %lld, is %lld, best %lld\n", number,
			       (long long)got.time, (long long)real, (long long)b.best);
			bad = 1;
		}
		Assignment none;
		x.t.bound = got.time; /* nothing is below the best */
		if (search_dp(a, &x.t, &none)) {
			printf("case %u: beats its own best\n", number);
			bad = 1;
		}
		x.t.bound = b.best + 1; /* a bound hides nothing below it */
		if (!search_dp(a, &x.t, &none) || none.time != b.best) {
			printf("case %u: the best is not found just below the bound\n", number);
			bad = 1;
		}
		if (search_least(a, &x.t) > b.best) {
			printf("case %u: the best is below what search_least says\n", number);
			bad = 1;
		}
		x.t.bound = INT64_MAX;
		x.t.keep = 2; /* thinned: never better, never over memory */
		if (search_dp(a, &x.t, &none)) {
			memcpy(b.first, none.first, sizeof *none.first * x.t.stages);
			memcpy(b.cand, none.cand, sizeof *none.cand * x.t.nlayers);
			if (time_of(&b) != none.time || none.time < b.best) {
				printf("case %u: thinned says %lld, is %lld, best %lld\n",
				       number, (long long)none.time, (long long)time_of(&b),
				       (long long)b.best);
				bad = 1;
			}
		}
	}
	arena_free(a);
	return bad;
}

int
main(void)
{
	uint32_t cases = 4000, feasible = 0;
	int bad = 0;
	for (uint32_t i = 0; i < cases; i++) {
		bool ok;
		bad += check_case(i, &ok);
		feasible += ok;
	}
	printf("%u tables, %u of them feasible, %d wrong\n", cases, feasible, bad);
	if (feasible < cases / 3 || feasible > cases - cases / 20) {
		puts("the tables test one side only");
		return 1;
	}
	return bad != 0;
}
