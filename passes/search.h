/*
 * search.h - what the files of the plan search share. Private to passes/search*.c.
 *
 *   search.c        the pass: options, how many ranks, what fits
 *   search_one.c    one rank: microbatches and recomputation
 *   search_many.c   many ranks: the decision tree
 *   search_branch.c one branch of it: bounds, and the best plan that fits
 *   search_table.c  candidates of a branch and what each layer costs under them
 *   search_cost.c   what a layer costs, read off lowered modules, once
 *   search_small.c  equal layers; the short model that is lowered for that
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
	struct CostMemo *memo;
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
Module *search_lower(const Search *s, const Plan *p, Arena *a, TpMemo *tp, const char **why);
/* Arena of the largest stage; -1 and *why (in c->tmp; NULL allowed) if the plan does not lower. */
int64_t search_arena(const Search *s, const Plan *p, const char **why);
/* A plan of one stage and one run, on `mesh` (mb left out; n = 1: one rank). */
Plan search_uniform(const Search *s, Arena *a, uint32_t mb, const Mesh *mesh,
		    const Strategy *r);

const char *search_bytes_str(const Search *s, int64_t bytes);
double search_ms(int64_t ns);

/* search_one.c */
Found search_one(const Search *s);

/* search_many.c */

/* The best plan for s->ranks > 1 ranks. False after a diagnostic. */
bool search_many(const Search *s, Found *out);

/* search_small.c */

typedef struct Classes { /* of layers that cost the same */
	uint32_t *of;    /* [layers] */
	uint32_t *first; /* [n] layer */
	uint32_t n;
} Classes;

void search_classes(const Module *m, Arena *a, Classes *out);
/* A copy without most of the layers that repeat; at[old] is where a layer, or one like it, went. */
Module *search_small(const Module *m, const Classes *classes, Arena *a, uint32_t *at);

/* The same; `keep` >= 2 of equal layers in a row stay. */
Module *search_short(const Module *m, const Classes *classes, Arena *a, uint32_t *at,
		     uint32_t keep);

/* search_cost.c */

typedef struct Candidate { /* a strategy for a layer; index in Tree order */
	uint32_t dp, tp;
	bool sp;
	uint8_t zero;
	Recompute rc;
	uint32_t group; /* one for each (dp, tp, sp) */
} Candidate;

typedef struct CostMemo CostMemo;
typedef struct Measured Measured;
CostMemo *search_memo(const Search *s); /* in c->tmp; for one number of ranks */
const Classes *search_memo_classes(const CostMemo *x);
uint32_t search_lowered(const CostMemo *x); /* how many times it was lowered so far */
/* Of every class, before ZeRO (c->zero is not looked at). NULL and *why: it does not lower. */
const Measured *search_measure(const Search *s, const Candidate *c, uint32_t mb,
			       const char **why);
/* `cut`: in several stages. */
LayerCost search_cost(const Search *s, const Measured *of, uint32_t class, const Candidate *c,
		      bool cut);
/* Time of a step of a plan with one stage, lowered. */
int64_t search_time(const Search *s, const Module *lowered);
void search_mesh(const Candidate *c, Mesh *out); /* mb left out of account: degree 0 */
bool search_all_have(int64_t n, int64_t ranks);  /* of n elements in equal blocks, every rank */

/* search_table.c */

typedef struct Table {
	Candidate *cand; /* [ncand] all candidates that lower */
	uint32_t ncand;
	const Classes *classes;
	LayerCost **cost; /* [classes] what is not dominated ... */
	uint32_t **of;    /* [classes] ... and which candidate it is */
	uint32_t *count;  /* [classes] */
	Recompute said;   /* what recomputes less was explained before */
} Table;

/* All candidates of a branch that recompute up to `top`. Says on stdout what they cost, from `said` on, and what was cut and
 * why. In arena a. */
void search_table(const Search *s, Arena *a, uint32_t stages, uint32_t mb, Recompute top,
		  Recompute said, Table *out);

/* search_branch.c */

/* How far a branch has come; in the order of branch_refine(). */
typedef enum State {
	ST_new,
	ST_fast,    /* there is a table, without recomputation: which is its fastest plan? */
	ST_fits,    /* ... does that fit, as it happens? */
	ST_limited, /* a table of all candidates: which is the fastest plan within the limit? */
	ST_laid,    /* ... does it fit, laid out? */
	ST_done
} State;

typedef struct Leaf { /* a branch (stages, microbatches) */
	const Search *s;
	uint32_t stages, mb;
	State state;
	int64_t least; /* none of its plans takes less; ns */
	int64_t limit; /* bytes to spend */
	int wide, tries;
	const char *cut; /* why, if it is */
	Table table;
	LayerTable layers;
	Assignment x;
	Arena *a;
} Leaf;

void branch_explain(const Leaf *l, const char *fmt, ...) GV_PRINTF(2, 3);
/* One step further. Returns whether *out is a plan that fits; else it is the smallest laid out so far, if any is. */
bool branch_refine(Leaf *l, Found *out);
/* Bytes of a rank that no plan of the branch is below. requires: a table. */
int64_t branch_bytes(const Leaf *l);
/* About the smallest plan. .arena -1: none lowers. */
Found branch_smallest(Leaf *l);
/* Makes *out the better of the two; whether `f` fits. */
bool branch_take(Found *out, Found f);

/* search_given.c */
bool search_given(Ctx *c, Module *m);

#endif
