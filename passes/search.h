/*
 * search.h - what the files of the plan search share. Private to passes/search*.c.
 *
 *   search.c        the pass: options, how many ranks, what fits
 *   search_one.c    one rank: microbatches and recomputation
 *   search_many.c   many ranks: the decision tree
 *   search_table.c  candidates of a branch and what each layer costs under them, read off lowered modules
 *   search_dp.c     the dynamic program over that table
 *   search_given.c  --plan
 */
#ifndef GV_SEARCH_H
#define GV_SEARCH_H

#include "passes/passes.h"

typedef struct Search {
	Ctx *c;
	const Module *m;
	uint32_t ranks;
	int64_t limit; /* bytes of one rank */
	bool explain;
	Machine machine;
	uint32_t *mb; /* usable counts of microbatches, rising */
	uint32_t nmb, cmb;
} Search;

/* A plan, and what is known of it. Lives in c->perm. */
typedef struct Found {
	Plan plan;
	int64_t time;  /* ns of a step */
	int64_t arena; /* bytes of the largest stage, laid out; -1: it does not lower */
	bool fits;
} Found;

/* search.c */

/* Lowers and lays out a copy of the module under a plan. NULL if it does not lower: then *why says it. In the arena given. */
Module *search_lower(const Search *s, const Plan *p, Arena *a, const char **why);
/* Arena of the largest stage; -1 and *why (in c->tmp; NULL allowed) if the plan does not lower. */
int64_t search_arena(const Search *s, const Plan *p, const char **why);
/* A plan of one stage and one run, on `mesh` (mb left out; n = 1: one rank). */
Plan search_uniform(const Search *s, Arena *a, uint32_t mb, const Mesh *mesh,
		    const Strategy *r);

/* search_one.c */
Found search_one(const Search *s);

/* search_many.c */

/* The best plan for s->ranks > 1 ranks. False after a diagnostic. */
bool search_many(const Search *s, Found *out);

/* search_table.c */

typedef struct Candidate { /* a strategy for a layer; index in Tree order */
	uint32_t dp, tp;
	bool sp;
	uint8_t zero;
	Recompute rc;
	uint32_t group; /* one for each (dp, tp, sp) */
} Candidate;

typedef struct Table {
	Candidate *cand; /* [ncand] all candidates that lower */
	uint32_t ncand, ccand;
	uint32_t *rep;      /* [nclasses] first layer of the class */
	LayerCost **cost;   /* [nclasses] what is not dominated ... */
	uint32_t **of;      /* [nclasses] ... and which candidate it is */
	uint32_t *count;    /* [nclasses] */
	uint32_t *class_of; /* [ninsts] */
	uint32_t nclasses;
} Table;

/* All candidates of a branch that recompute up to `top`. Says on stdout what was cut and why. In arena a. */
void search_table(const Search *s, Arena *a, uint32_t stages, uint32_t mb, Recompute top,
		  Table *out);
/* Time of a step of a plan with one stage, lowered. */
int64_t search_time(const Search *s, const Module *lowered);
void search_mesh(const Candidate *c, Mesh *out); /* mb left out of account: degree 0 */

/* search_given.c */
bool search_given(Ctx *c, Module *m);

#endif
