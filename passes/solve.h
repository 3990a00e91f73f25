/*
 * solve.h - the exact solver: a strategy for every layer, stage boundaries, under the memory of every stage. Knows nothing of the
 * IR: plan search and `galvatronc --solve` fill the same table.
 *
 * For stage i with layers l, chosen candidates k(l) and head E:
 *
 *   t_i = head.time[i] + sum time + sum of moves between neighbours + enter of its first layer (i > 0)
 *   o_i = sum once
 *   M_i = head.bytes[i] + sum (state + slots_i * saved) + slots_i * (what moves and enter save) + max work  <=  limit_i
 *   minimise  sum_i t_i + (microbatches - 1) * max_i t_i + max_i o_i
 *
 * All quantities are integers >= 0; the unit of time is the caller's. Ties go to the lower index: deterministic.
 */
#ifndef GV_SOLVE_H
#define GV_SOLVE_H

#include "ir/base.h"

/* One layer class under one candidate, on the stages that use this cost table. Candidates of one group share mesh and layout. */
typedef struct SolveCost {
	uint32_t group;
	int64_t time, once;
	int64_t state, saved, work; /* bytes */
	int64_t enter,
	    enter_saved; /* as first layer of a stage but the first one: what arrives, a microbatch; bytes a slot */
} SolveCost;

/* What lies between two neighbours of one stage. */
typedef struct SolveMove {
	int64_t time, saved;
} SolveMove;

/* What stages of one kind (devices, ranks) cost. */
typedef struct SolveTable {
	uint32_t ngroups;
	const uint32_t *ncand;  /* [nclasses] */
	SolveCost *const *cost; /* [nclasses][ncand] */
	const SolveMove *const *
	    move; /* [nclasses of the second layer][ngroups * ngroups], from * ngroups + to; NULL: nothing moves */
	const int64_t *const *
	    bytes; /* NULL, or [nclasses][ncand * stages]: state + slots * saved given outright for every stage, cand * stages + stage; state and saved are then ignored */
} SolveTable;

typedef struct SolveHead {           /* one is chosen */
	const int64_t *time, *bytes; /* [stages] */
} SolveHead;

typedef struct SolveProblem {
	uint32_t nlayers, nclasses, stages, microbatches;
	const uint32_t *class_of;       /* [nlayers] */
	const SolveTable *const *table; /* [stages] equal pointers: equal stages */
	const uint32_t *slots;          /* [stages] microbatches in flight */
	const int64_t *limit;           /* [stages] bytes */
	const SolveHead *head;
	uint32_t nheads;           /* 0: none to choose, nothing added */
	const uint32_t *partition; /* [stages] layers of each; NULL: free, at least one each */
	int64_t bound;             /* only plans below this; INT64_MAX */
	double gap;                /* may stop when proven within this of the best; 0: exact */
	int64_t
	    work; /* steps of some nanoseconds, after which it is less thorough; 0: its own limit */
} SolveProblem;

typedef struct SolveAnswer {
	int64_t time, least; /* of the plan; no plan takes less than `least` */
	int64_t work;        /* steps it took, whether or not there is an answer */
	uint32_t head;
	uint32_t *first;                                /* [stages] layer */
	uint32_t *cand;                                 /* [nlayers] */
	int64_t *stage_time, *stage_once, *stage_bytes; /* [stages] */
} SolveAnswer;

/* False: nothing was found below the bound; out->least then says how much of that is proven: no plan takes less. Answers live in a. */
bool solve(Arena *a, const SolveProblem *p, SolveAnswer *out);
/* No plan takes less, found quickly (memory priced, not enforced); INT64_MAX: none fits. */
int64_t solve_least(Arena *a, const SolveProblem *p);
/* Evaluates a given plan by the definition above (ignoring out->time, least): fills times and bytes. False: over a limit. */
bool solve_evaluate(const SolveProblem *p, SolveAnswer *x);

#endif
