/*
 * search_log.h - what the plan search saw: kept for --explain, --report, `diff` and prices of one thing changed.
 *
 * pass_plan leaves one in Ctx.log, in Ctx.perm; it is never freed. Nothing in it is needed to go on compiling. Times are ns,
 * memory bytes. Layers are counted as the model has them before reshards are instances (Module.insts at level plan).
 *
 *   branch     a part of the space: stages on their devices, microbatches, schedule, order of mesh axes
 *   table      what every class of layers costs under every candidate, on one kind of stage of a branch
 *   finalist   a plan that was lowered, scheduled and simulated
 */
#ifndef GV_SEARCH_LOG_H
#define GV_SEARCH_LOG_H

#include "ir/cluster.h"
#include "passes/solve.h"

/* ORDER LogFate: what became of a branch. */
typedef enum LogFate {
	LF_bound,     /* left: none of its plans can be below the best */
	LF_no_mesh,   /* no mesh lowers; `why` */
	LF_memory,    /* nothing fits; `over`, `tight` */
	LF_solved,    /* its best plan is known */
	LF_simulated, /* ... and was among the finalists */
	LF_chosen,
	LF_COUNT
} LogFate;
extern const char *const log_fate_str[LF_COUNT];

typedef struct LogCandidate { /* a strategy of a layer */
	uint32_t dp, tp;
	bool tp_outer; /* tp groups reach across, dp groups lie side by side */
	bool sp;
	uint8_t zero;
	Recompute rc;
	uint32_t group; /* those with one mesh and layout: between them nothing moves */
} LogCandidate;

/* What a SolveCost is made of. time = F + B + W + inside + zero; once = update + sync + gather + lend. */
typedef struct LogCost {
	SolveCost cost;
	int64_t forward, backward,
	    weights;    /* computing: bodies F, B, W; recomputation is in B */
	int64_t inside; /* collectives inside bodies */
	int64_t zero;   /* of a microbatch: gradients reduced (2, 3), parameters gathered (3) */
	int64_t update, sync, gather,
	    lend; /* once: N and U; gradients summed; parameters gathered; tied weights there and back */
	int64_t param, grad, moments, borrowed; /* of state */
	int64_t frame, inputs;                  /* of saved: frames; inputs of the model */
	int64_t scratch, cots, buffers; /* of work: bodies; cotangents; ZeRO's buffers */
	const char *dominated; /* NULL: it was offered to the solver; else why it was not */
} LogCost;

typedef struct LogTable {
	uint32_t first, ranks; /* of the first stage with it: device, how many */
	uint32_t ncand;
	const LogCandidate *cand; /* [ncand] all of the branch that lower */
	LogCost *const *cost;     /* [classes][ncand] */
	uint32_t ncut;
	struct LogCut {
		LogCandidate cand;
		const char *why;
	} * cut; /* meshes that do not lower, options that forbid them */
} LogTable;

typedef struct LogBranch {
	uint32_t stages, microbatches;
	Schedule schedule;
	bool tp_outer;
	const uint32_t *ranks; /* [stages] */
	const uint32_t *nodes; /* [nnodes] order of the cluster's nodes; NULL: the file's */
	uint32_t nnodes;
	LogFate fate;
	int64_t least; /* none of its plans takes less, by the table */
	int64_t time;  /* of its best by the table; INT64_MAX: not known */
	int64_t over;  /* LF_memory: bytes too many in the tightest stage at the least */
	uint32_t tight;
	const char *why; /* one line for people */
	/* once it was worked on, else NULL: */
	const LogTable *table;    /* [ntables] */
	const uint32_t *table_of; /* [stages] */
	uint32_t ntables;
	const SolveAnswer *answer; /* candidates are numbers in table_of's table */
} LogBranch;

typedef struct LogFinalist {
	Plan plan;
	uint32_t branch;
	int64_t table_time; /* what the solver said */
	int64_t time;       /* simulated */
	int64_t *arena,
	    *rank_bytes; /* [stages] laid out; with what is reserved and communicators take */
	bool fits;
} LogFinalist;

typedef struct SearchLog {
	uint32_t ranks, threads;
	const Cluster *cluster; /* the guessed one, without --cluster */
	int64_t *limit; /* [cluster->ndevice] bytes a rank may use in all, by kind of device */
	uint32_t nlayers, nclasses;
	const uint32_t *class_of, *class_first; /* [nlayers]; [nclasses] layer */
	LogBranch *branch;
	uint32_t nbranches;
	LogFinalist *finalist; /* in the order of their simulated times */
	uint32_t nfinalists;
	uint32_t chosen; /* finalist; UINT32_MAX: none, a plan was given or does not fit */
	int64_t least;   /* no plan of the space takes less, by the table */
	double gap;      /* (the best table time - least) / least */
	uint32_t lowered, priced;  /* bodies lowered, and priced under some degrees */
	struct SearchState *state; /* private to search*.c: what search_again goes on from */
} SearchLog;

/* One thing changed. Everything zero (layer: UINT32_MAX): nothing is. */
typedef struct SearchChange {
	uint32_t
	    layer; /* this one takes `cand` (its group is looked up); UINT32_MAX: none is forced */
	LogCandidate cand;
	int64_t more_memory;        /* bytes, of every rank */
	double more_near, more_far; /* bytes/s, of every link */
	bool everywhere;            /* search all branches again, not only the chosen one */
} SearchChange;

typedef struct SearchAgain {
	bool fits;    /* else `over`, `tight`, `why`: what is violated, by how much */
	int64_t time; /* by the table, as LogFinalist.table_time */
	int64_t over;
	uint32_t tight;
	const char *why;
	const LogBranch *branch; /* with its answer */
} SearchAgain;

/* Solves again with that changed. False: the log holds no search (a given plan). Deterministic; lives as long as the log. */
bool search_again(Ctx *c, const SearchLog *log, const SearchChange *x, Arena *a,
		  SearchAgain *out);

#endif
