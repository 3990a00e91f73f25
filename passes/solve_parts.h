/*
 * solve_parts.h - what the files of the solver share. Private to passes/solve*.c.
 *
 *   solve.c        the exported functions; heads, best bound first; how far above the bound to look
 *   solve_kind.c   the problem made small: stages that cost the same, candidates worth a look, groups that move alike
 *   solve_price.c  lower bounds: memory is priced instead of limited
 *   solve_span.c   all that is worth doing with the layers of one stage, by labels, pruned with those bounds
 *   solve_cut.c    boundaries: stages by their bounds first, by their spans where that matters
 *   solve_file.c   the text form
 *
 * One stage alone is a case of its own: then microbatches * t + once is all that counts, and the problem is taken as one
 * whose time that is, with one microbatch and no once ("folded").
 *
 * FAR stands for "impossible"; far_add() keeps sums of it there. Times below the answer's are "looked for under `under`":
 * a plan that takes `under` or more is as good as none.
 */
#ifndef GV_SOLVE_PARTS_H
#define GV_SOLVE_PARTS_H

#include "passes/solve.h"

#define FAR (INT64_MAX / 4)

static inline int64_t
far_add(int64_t a, int64_t b)
{
	return a >= FAR || b >= FAR || a + b >= FAR ? FAR : a + b;
}

static inline int64_t
larger(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* ---- solve_kind.c ---- */

typedef struct Choice { /* a candidate as the stages of a kind see it */
	int64_t t, once, bytes, work;
	int64_t enter_t, enter_bytes;
	uint32_t cand;
} Choice;

typedef struct View { /* a class on the stages of a kind */
	Choice *c;
	uint32_t n;
	uint32_t *begin;              /* [ngroups + 1] choices of a group lie together */
	uint32_t *group;              /* the groups that have any ... */
	uint32_t ngroups;             /* ... and how many */
	int64_t *move_t, *move_bytes; /* [ngroups of the kind, squared]; NULL: nothing moves */
	int64_t most_t, most_once, most_bytes, most_work; /* what moves and enters included */
	int64_t least_once, least_work;
} View;

typedef struct Kind { /* stages that cost the same */
	const SolveTable *table;
	uint32_t stage; /* the first of them */
	uint32_t ngroups;
	bool enters;   /* its first layer costs something to arrive */
	View *view;    /* [nclasses] */
	double *price; /* [nprice] of a byte */
	uint32_t nprice;
	double *least;                    /* [nprice][npairs] of t + price * bytes */
	double *least_bytes;              /* [npairs] */
	int64_t *least_once, *least_work; /* [npairs] */
} Kind;

typedef struct
    Pair { /* layers i .. j of one stage; equal layers are shifted to where their run begins */
	uint32_t i, j;
} Pair;

enum { NO_PAIR = UINT32_MAX };

typedef struct Solver {
	const SolveProblem *p;
	Arena *a;                     /* of the whole call */
	struct Chunk *chunks, *chunk; /* scratch: all of it, and where it is in use up to */
	uint32_t n, stages;
	int64_t mb; /* microbatches */
	bool folded;
	uint32_t *run_first, *run_end; /* [n] of the run of equal layers */
	uint32_t *pair;                /* [n][widest + 1] number of layers i .. i + len */
	uint32_t widest;               /* most layers of a stage */
	Pair *pairs;
	uint32_t npairs, cpairs;
	Kind *kind;
	uint32_t nkinds;
	uint32_t *kind_of; /* [stages] */
	uint32_t
	    beam; /* not 0: so many of a layer, those that look best; then nothing is proven */
	uint32_t labels;         /* most of a layer, before they are thinned */
	int64_t work, most_work; /* steps taken; after so many it ends with what it has */
} Solver;

/* Memory that is not zeroed, until the next scratch_reset(): it is used again and again, and only grows. */
void *scratch_alloc(Solver *s, size_t bytes);
void scratch_reset(Solver *s);
typedef struct Mark {
	struct Chunk *chunk;
	size_t used;
} Mark;
Mark scratch_mark(const Solver *s);
void scratch_release(Solver *s, Mark m); /* what was taken since */
#define SCRATCH(s, T, n) ((T *)scratch_alloc(s, sizeof(T) * (size_t)(n)))

/* False: some layer fits nowhere. */
bool solver_init(Solver *s, Arena *a, const SolveProblem *p);

static inline uint32_t
pair_of(const Solver *s, uint32_t i, uint32_t j)
{
	return j - i > s->widest ? NO_PAIR : s->pair[(size_t)i * (s->widest + 1) + (j - i)];
}

/* ---- solve_price.c ---- */

/* A weighted sum of t and once, and how much of it may be. */
typedef struct Weights {
	double t, once;
	double most;
} Weights;

/* Weighted time + price * bytes at least, of what follows: rest[(l - i) * ngroups + group of layer l - 1]; at l = i, [0]. */
typedef struct Priced {
	Weights w;
	double price;
	double *rest;
} Priced;

void price_tables(Solver *s);
/* The price with the best bound for layers i .. j in `limit` bytes, of which they need `least`; w is given. In scratch memory. */
void price_span(Solver *s, const Kind *k, uint32_t i, uint32_t j, int64_t limit, double least,
		Priced *out);
/* rest of bytes alone, as above. */
double *price_bytes(Solver *s, const Kind *k, uint32_t i, uint32_t j);

/* ---- solve_span.c ---- */

typedef struct Point {   /* a way to run a span: no other is faster without more once */
	int64_t t, once; /* less what was lost by thinning */
} Point;

typedef struct Span {
	bool done;
	uint32_t n, layers;
	Point *p;       /* rising t, falling once */
	uint16_t *cand; /* [n][layers] */
} Span;

enum { MAX_WEIGHTS = 3, MAX_POINTS = 1024 };

/* Everything below the weights' limits that fits, in arena a; `enough`: less once than that is no better. */
void span_solve(Solver *s, const Kind *k, uint32_t i, uint32_t j, int64_t limit,
		const Weights *w, uint32_t nw, int64_t enough, Arena *a, Span *out);

/* ---- solve_cut.c ---- */

typedef struct Cutting Cutting;

/* The problem under one head (if any). Bounds only: cheap. */
Cutting *cut_new(Solver *s, uint32_t head);
void cut_free(Cutting *c);
/* No plan takes less; FAR: none fits. */
int64_t cut_least(const Cutting *c);
/* Once: the best plan below *under, into *out (if it is better), and *under becomes its time, less what the gap allows.
 * Returns what no plan under this head takes less than. */
int64_t cut_search(Cutting *c, int64_t *under, SolveAnswer *out, bool *found);

/* ---- solve.c ---- */
int64_t within_gap(const SolveProblem *p, int64_t time);
int64_t solve_bytes(const SolveProblem *p, uint32_t stage, uint32_t class, uint32_t cand);

#endif
