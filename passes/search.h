/*
 * search.h - what the files of the plan search share. Private to passes/search*.c.
 *
 *   search.c        the pass: options, how many ranks, what is printed
 *   search_space.c  orders of nodes, divisions of the devices into stages, spots
 *   search_small.c  equal layers; the short model that is lowered
 *   search_lower.c  layout classes: the short model lowered, once for all degrees of dp and microbatches
 *   search_cost.c   what a layer costs on a spot: read off those under other degrees
 *   search_move.c   what moves between two meshes of one stage
 *   search_table.c  candidates on a spot and what every layer costs under each: a SolveTable
 *   search_tree.c   branches, best first
 *   search_branch.c one branch: bounds, and its best plan that fits
 *   search_pick.c   which meshes the solver mixes in a branch; levels of memory
 *   search_bound.c  a time that no plan of a branch is below
 *   search_plan.c   from an answer of the solver to a plan; lowered, laid out, simulated
 *   search_fit.c    nothing fits: what would
 *   search_again.c  solved again with one thing changed
 *   search_given.c  --plan
 */
#ifndef GV_SEARCH_H
#define GV_SEARCH_H

#include "passes/price.h"
#include "passes/search_log.h"
#include "passes/solve.h"

enum { MAX_SEGS = 6 };

/* ---- search_space.c ---- */

typedef struct Order { /* the cluster's nodes as ranks are counted through them */
	const uint32_t *nodes;
	uint32_t nnodes; /* 0: the file's order */
	const Cluster *cluster;
	Price *price;
} Order;

/* Devices side by side that a stage may lie on: all that its prices depend on. Stages on equal spots share their tables. */
typedef struct Spot {
	uint32_t order, first, ranks; /* first: device of one of the stages that lie so */
	struct Seg {
		uint32_t run, devices, nodes;
	} seg[MAX_SEGS]; /* of its nodes: how many in a row with so many devices of it */
	uint32_t nsegs;  /* MAX_SEGS + 1: too many to tell */
	uint32_t before; /* ranks of the stage before; 0: it is the first */
	bool near;       /* that one ends on the node where this one begins */
	bool last;       /* no stage follows */
	bool alone;      /* the only stage */
	uint32_t kinds;  /* bit k: it has devices of kind k */
	int64_t
	    memory; /* bytes a rank may use, of the device with the least: without what is reserved */
	uint32_t device;    /* that kind */
	struct Rows **rows; /* search_table.c: what was made for it */
	uint32_t nrows, crows;
	uint32_t place; /* the first spot on devices like these, whatever lies beside it */
} Spot;

typedef struct Division {
	uint32_t order, stages;
	const uint32_t *ranks; /* [stages] */
	const uint32_t *spot;  /* [stages] */
} Division;

typedef struct Search {
	Ctx *c;
	const Module *m;
	Arena *a; /* lives as long as the log */
	uint32_t ranks;
	const Cluster *cluster;
	int64_t memory; /* --memory; 0: what the devices have */
	bool explain, trains;
	Order *order;
	uint32_t norders, corders;
	Spot *spot;
	uint32_t nspots, cspots;
	Division *division;
	uint32_t ndivisions, cdivisions;
	uint32_t *mb; /* usable counts of microbatches, rising */
	uint32_t nmb, cmb;
	int64_t batch; /* samples of a step; 1: the model has none */
	int64_t work;  /* steps the solver took so far */

	struct CostMemo *memo;
	uint32_t
	    *probe; /* [cluster->ndevice] a spot of one such device; UINT32_MAX: none is used */
	double
	    *alone; /* [cluster->ndevice] ns of a step's kernels, if one such device did all */
} Search;

/* Fills order, spot, division. */
void search_space(Search *s);
uint32_t search_slots(Schedule schedule, uint32_t stages, uint32_t k, uint32_t microbatches);

/* ---- search_small.c ---- */

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

/* ---- search_lower.c ---- */

typedef LogCandidate Candidate;
typedef struct CostMemo CostMemo;

/* The short model under one layout: laid out, degrees of mb and dp set at will. */
typedef struct Layout {
	uint32_t tp;
	bool tp_outer, sp, uneven, mb, dp; /* uneven: of the batch; mb, dp: more than one */
	Recompute rc;
	const char *why; /* it does not lower; NULL */
	Module *m;       /* LV_spmd */
	uint32_t
	    *at; /* [layers of the short model] instance in m, which has reshards as well */
	TpMemo *tpm;
	Mesh *mesh;
	struct Sized **sized; /* search_cost.c */
	uint32_t nsized, csized;
} Layout;

CostMemo *search_memo(const Search *s);
const Classes *search_memo_classes(const CostMemo *x);
/* A copy in which that layer is a class of its own, the last. */
CostMemo *search_memo_force(const CostMemo *x, uint32_t nlayers, uint32_t layer);
/* Instance of a class's first layer in l->m. */
uint32_t search_first(const CostMemo *x, const Layout *l, uint32_t class);
/* The layer's result that `r` of l->m is, behind reshards; its instance counted as in in->m. */
Ref search_source(const Layout *l, const Layout *in, Ref r);
/* NULL and *why: it does not lower. */
Layout *search_layout(const Search *s, const Candidate *c, uint32_t mb, const char **why);
void search_layout_set(const Search *s, Layout *l, uint32_t dp, uint32_t mb);
bool search_all_have(int64_t n, int64_t ranks); /* of n elements in equal blocks, every rank */
void search_mesh(const Candidate *c, uint32_t mb, Mesh *out);
uint32_t search_lowered(const CostMemo *x);
uint32_t *search_priced(
    CostMemo *x); /* how often the short model got a price: counted in search_cost.c */

/* ---- search_cost.c ---- */

/* Of every class; `packed`: with frames and scratch, which takes packing. NULL and *why: it does not lower. Times only, until search_sized(). */
typedef struct Measured Measured;
const Measured *search_measure(const Search *s, const Spot *spot, const Candidate *c,
			       uint32_t mb, bool bytes, const char **why);
/* ns of its F, B and W without collectives. */
int64_t search_computes(const Measured *x, uint32_t class);
/* Are the layers of a class one, the last of all: whose B follows its F at once? */
bool search_runs_last(const Search *s, uint32_t class);
LogCost search_cost(const Search *s, const Spot *spot, const Measured *x, uint32_t class,
		    const Candidate *c, int64_t arrival);
/* The least it may take to move its arguments into this layout; the bytes a slot are exact. */
SolveMove search_cost_move(const Search *s, const Spot *spot, const Measured *x,
			   uint32_t class);

/* ---- search_move.c ---- */

SolveMove search_move(const Search *s, const Spot *spot, uint32_t class, const Candidate *from,
		      const Candidate *to, uint32_t mb);

/* arrival: of search_arrival(), 0: rank for rank. */
/* What the arguments of a stage's first layer take to come from a stage of other size, whose mesh has the same tp if it can; below 0:
 * that has none. */
int64_t search_arrival(const Search *s, const Spot *spot, uint32_t class, const Candidate *to,
		       uint32_t mb);

/* ---- search_table.c ---- */

/* What a SolveTable is made of. Candidates dominated in their class and group are left out of it. */
typedef struct Rows Rows;
struct Rows {
	uint32_t mb;
	Recompute top;
	bool packed; /* frames and scratch are in its costs; else nothing is */
	LogTable log;
	SolveTable table;
	SolveCost **cost;
	uint32_t **of; /* [classes][table.ncand] the candidate, in log.cand */
	uint32_t *ncand;
	SolveMove **move;        /* guessed; where `exact`, as priced */
	bool **exact;            /* [classes][groups * groups] */
	const Candidate **group; /* [groups] one of it */
};

Rows *search_rows(Search *s, uint32_t spot, uint32_t mb, Recompute top, bool packed);
/* Prices a move. False: it was. */
bool search_rows_move(Search *s, uint32_t spot, Rows *r, uint32_t class, uint32_t from,
		      uint32_t to);

/* ---- search_pick.c ---- */

typedef struct Pick Pick; /* tables of a branch with the groups that may matter */

/* ---- search_branch.c ---- */

/* How far a branch has come; in the order of branch_refine(). */
typedef enum State {
	ST_new,
	ST_table,   /* bounded by layers each for itself, without memory and recomputation */
	ST_fast,    /* which is its fastest plan, whatever it takes? */
	ST_limited, /* with recomputation: which is the fastest within the memory? */
	ST_solved,  /* `x` fits by the table */
	ST_done
} State;

typedef struct Leaf { /* a branch */
	uint32_t division, mb, number;
	Schedule schedule;
	State state;
	LogFate fate;
	int64_t least; /* none of its plans takes less; ns */
	const char *why;
	/* from ST_table on */
	Rows **rows;    /* [stages] */
	int64_t *limit; /* [stages] bytes to spend */
	int64_t time;   /* of x */
	SolveAnswer x;
	bool tried; /* lowered: a finalist */
	uint32_t tries;
	bool bounded; /* ST_limited: by all candidates within the memory */
	int64_t over;
	uint32_t tight;
} Leaf;

typedef struct Tree {
	Leaf *leaf;
	uint32_t n, cap;
	uint32_t *heap, nheap;              /* open ones, the least first */
	uint32_t *solved, nsolved, csolved; /* by time */
	int64_t least;                      /* of the space */
	int64_t
	    near; /* plans up to here by the table are of interest; 0: those near the best */
} Tree;

/* search_pick.c */
/* What is kept for a layer while it runs is the most of any: so many bytes, more than `least` or as many. */
typedef struct WorkRange {
	int64_t least, most;
} WorkRange;
enum { MAX_LEVELS = 32 };
/* Levels that together are all there is. */
uint32_t search_levels(const Leaf *l, const SolveProblem *p, WorkRange level[MAX_LEVELS]);
/* For plans of a level: `out` is the problem without what all of them work in. merged: of one group are all, and nothing moves: no plan
 * takes less than the best of that; its answer is no plan. */
Pick *search_pick(const Search *s, const Leaf *l, const SolveProblem *p, WorkRange level,
		  bool merged, SolveProblem *out);
bool pick_whole(const Pick *x);                            /* nothing was left out */
const SolveTable *const *pick_tables(Pick *x);             /* moves as they are priced now */
void pick_answer(const Search *s, Leaf *l, const Pick *x); /* candidates of the whole tables */

/* search_bound.c */
/* No plan takes less; level NULL: whatever memory it takes; no level: there is none. */
int64_t search_bound(const Leaf *l, const SolveProblem *p, const WorkRange *level,
		     uint32_t nlevels);

void branch_begin(const Search *s, Leaf *l); /* a bound by arithmetic */
/* One step further; `bound`: only plans below count. */
void branch_refine(Search *s, Leaf *l, int64_t bound);
/* Looks at recomputation as well, from now on. */
void branch_recompute(Search *s, Leaf *l);
/* Any plan within l->limit, by the table? Then it is l->x. requires: rows. */
bool branch_fits(Search *s, Leaf *l);
/* All tables, limits of the spots: ready for branch_best(). False: no mesh. */
bool branch_open(Search *s, Leaf *l);
/* The best plan within l->limit, by the table: l->x, l->time. False: nothing fits. */
bool branch_best(Search *s, Leaf *l);
/* By how much all limits must rise until something fits; then l->x does. False: nothing would. */
bool branch_least_memory(Search *s, Leaf *l, int64_t *more);
/* Raises what no plan is below, to `bound` at most, with all meshes. */
void branch_prove(Search *s, Leaf *l, int64_t bound);
void branch_problem(const Search *s, const Leaf *l, SolveProblem *p);

/* ---- search_tree.c ---- */

void search_tree_plant(Search *s, Tree *out); /* all branches, none worked on */
void search_tree_grow(Search *s, Tree *t, uint32_t keep);
/* Works on the branches until the best plan is known, and as many as `keep` near it. */
void search_tree(Search *s, uint32_t keep, Tree *out);
/* Proves how near the best is to what there is. */
void search_tree_prove(Search *s, Tree *t);
bool search_tree_widen(Search *s, Tree *t, int64_t simulated, uint32_t keep);
/* Goes on after branch `leaf` was tightened. */
void search_tree_again(Search *s, Tree *t, uint32_t leaf, uint32_t keep);

/* ---- search_plan.c ---- */

/* A plan, and what is known of it. */
typedef struct Found {
	Plan plan;
	uint32_t leaf;
	int64_t table, time; /* ns of a step: by the solver, simulated */
	int64_t *arena,
	    *bytes;   /* [stages] laid out; with what is reserved and communicators take */
	int64_t most; /* bytes; -1: it does not lower */
	int64_t over; /* bytes too many, of the stage `tight`; <= 0: it fits */
	uint32_t tight;
	const char *why;
} Found;

/* A plan of one stage and one run, on `mesh` (of degree mb in mb; n = 1: one rank). */
Plan search_uniform(const Search *s, Arena *a, uint32_t mb, const Mesh *mesh,
		    const Strategy *r);
Plan search_plan(const Search *s, const Leaf *l, Arena *a);
/* Lowers, schedules and lays out a copy of the module under a plan, and simulates it. */
Found search_try(const Search *s, const Plan *p, bool simulated);
Module *search_lower(const Search *s, const Plan *p, Arena *a, const char **why);
const char *search_bytes_str(const Search *s, int64_t bytes);
double search_ms(int64_t ns);

/* ---- search.c ---- */

/* Space, prices and memory of costs for s->ranks ranks on a cluster; NULL: as the command line says. */
void search_begin(Search *s, const Cluster *cluster);

/* Fills mb: counts that divide the batch; only the one asked for, if one is. False after a diagnostic. */
bool search_counts(Search *s);
/* The best plan for a number of ranks, without a word. False: nothing fits. */
bool search_quietly(Search *s, uint32_t ranks, Found *out);
/* Does any plan lower for that many? */
bool search_lowers(Search *s, uint32_t ranks);

/* ---- search_fit.c ---- */

/* Nothing fits: says what is tightest and what would fit, and gives the smallest plan. False: that was an error. */
bool search_fit(Search *s, Tree *t, Found *out);

/* ---- search_again.c ---- */

/* Leaves what was seen in Ctx.log. */
void search_log(Search *s, Tree *t, const Found *f, uint32_t n, uint32_t best);

/* ---- search_given.c ---- */
bool search_given(Ctx *c, Module *m);

#endif
