/*
 * explain.h - what a plan is, in numbers: the facts that --explain, `galvatronc diff` and --report say, each read off the
 * program the plan lowers to, its simulated step and the log of the search. Nothing here decides anything.
 */
#ifndef GV_EXPLAIN_H
#define GV_EXPLAIN_H

#include "passes/search_log.h"
#include "passes/simulate.h"

/* ORDER Part: what every nanosecond of a stage's step went to. Traffic counts where nothing computed beside it. */
typedef enum Part {
	PT_forward,
	PT_backward, /* B: cotangents, and what is computed again */
	PT_weights,  /* W: gradients of the weights */
	PT_tp,       /* collectives inside layers */
	PT_dp,       /* gradients summed, parameters gathered */
	PT_pp,       /* between stages and meshes, while it is on its way */
	PT_tied,     /* borrowed parameters and their gradients */
	PT_update,   /* optimizer, norm of the gradients */
	PT_bubble,   /* nothing to do */
	PT_COUNT
} Part;
extern const char *const part_str[PT_COUNT];

/* ORDER MemKind: what a rank's memory holds. */
typedef enum MemKind {
	MK_param,
	MK_grad,
	MK_moments,
	MK_const,
	MK_slots,   /* activations and inputs of the microbatches in flight */
	MK_cots,    /* cotangents */
	MK_buffers, /* ZeRO's: gathered parameters, gradients not yet summed */
	MK_work,    /* scratch of the running body, carries */
	MK_comms,   /* communicators */
	MK_reserved,
	MK_COUNT
} MemKind;
extern const char *const mem_kind_str[MK_COUNT];

typedef struct StageFacts {
	int64_t part[PT_COUNT]; /* ns; sums to the step */
	int64_t mem[MK_COUNT];  /* bytes; sums to rank_bytes */
	int64_t rank_bytes, limit;
	int64_t sent; /* bytes its first rank gives to collectives and messages, a step */
	int64_t busy; /* of the step: neither bubble nor waiting for another stage */
	const SimEvent *event; /* [nevents] of those of its ranks that end last, by begin */
	uint32_t nevents;
	const Device *device;
} StageFacts;

/* What one thing more would save, ns a step, planned anew; < 0: not known. */
typedef struct Worth {
	int64_t memory;    /* a GiB of every rank */
	int64_t near, far; /* a GB/s of every link inside nodes, of every node's network */
	bool anew;         /* the plan was made anew for each; else it is as it is */
} Worth;
typedef struct Facts {
	Ctx *c;
	const Module *m; /* LV_mem */
	const Module *
	    model; /* LV_plan: layers and types as the model names them; a dump that is past that: m */
	const Cluster *cluster;
	Price *price;
	SimResult sim;
	const SearchLog *log;     /* NULL: the plan was given */
	StageFacts *stage;        /* [nstages] */
	uint32_t slowest;         /* stage with the most to do */
	uint32_t tightest;        /* stage with the least memory left */
	uint32_t nlayers, *layer; /* [nlayers] the instance of each layer: reshards are none */
	int64_t samples, params;
	double flops,
	    peak;    /* of the model, a step; of all ranks' devices, a second (0: not known) */
	Worth worth; /* all -1 until explain_worth() is put there */
} Facts;

/* Simulates a step. requires: LV_mem; of the same plan at LV_plan, or NULL. */
Facts *facts_new(Ctx *c, const Module *m, const Module *model, const SearchLog *log, Arena *a);
/* The name of the type of a layer, and its own. */
const char *facts_type(const Facts *f, uint32_t layer);
const char *facts_layer(const Facts *f, uint32_t layer);
bool facts_same_type(const Facts *f, uint32_t a, uint32_t b); /* two layers */
/* How a run of layers is split, for people: "dp 8, tp 2, zero 1, recompute full, sequence parallel". */
void facts_strategy(const Module *m, const Strategy *r, Buf *out);
/* "1.84 s", "812 ms", "12.3 us": three digits. */
void facts_ns(Buf *out, int64_t ns);
/* The stage and which of its memory, time or traffic the step hangs on, as a phrase: "the arithmetic of stage 1". */
void facts_binds(const Facts *f, Buf *out);

/* Branches of the search that differ in their ranks' places only. */
typedef struct BranchFacts {
	const LogBranch *b;
	uint32_t n;
} BranchFacts;
/* [*n] the chosen one first, then by what is known of their best plan. */
BranchFacts *facts_branches(const Facts *f, Arena *a, uint32_t *n);
/* "dp 4, tp 2, Megatron-SP, zero 1, recompute full" */
void facts_candidate(const LogCandidate *x, Buf *out);
/* The candidate a layer has in the plan, of the table of its stage; NULL: the plan was not searched for. */
const LogCandidate *facts_chosen(const Facts *f, uint32_t layer, const LogTable **table);

/* Time of the chosen plan by the tables; -1: nothing was searched. */
int64_t facts_chosen_time(const Facts *f);
const char *facts_fate(const Facts *f, const LogBranch *b); /* for people */

/* ---- explain.c, explain_if.c ---- */

Worth explain_worth(const Facts *f);
/* --explain: `what` is "" or "all", or a layer and what it should have instead: "block.3", "7:tp=4,zero=3,recompute=full,sp".
 * False after a diagnostic. */
bool explain_layer(const Facts *f, const char *what, Buf *out); /* the part about layers */
bool explain_print(const Facts *f, const char *what, Buf *out);

/* ---- diff.c ---- */

/* Plan a after some of what makes it b was changed, in a fixed order. */
typedef struct DiffStep {
	const char *what; /* "" : a itself */
	const char *
	    why; /* NULL; else it does not lower by itself, for this reason, and the next step has it too */
	int64_t time, memory,
	    sent;     /* of the step; of the rank that needs most; that sends most */
	int64_t over; /* bytes over the limit in stage `tight`, the tightest */
	uint32_t tight;
	int64_t *rank_bytes; /* [stages] */
} DiffStep;

typedef struct Diff {
	DiffStep *step; /* [n] the first is a, the last b */
	uint32_t n, cap;
} Diff;

/* Lowers and simulates a plan of a model (LV_train or LV_plan). False, with the reason (in perm), if it does not lower. */
bool diff_measure(Ctx *c, const Module *model, const Plan *p, Arena *perm, DiffStep *out);
/* What each difference costs: every plan on the way is lowered and simulated. requires: LV_train; plans checked against it.
 * False after a diagnostic: a or b does not lower. */
bool diff_plans(Ctx *c, const Module *m, const Plan *a, const Plan *b, Arena *arena, Diff *out);
/* The model's file, as the plan's second line names it: beside the plan, else in the current directory. NULL after a diagnostic. */
const char *diff_model(Ctx *c, const char *plan_path);
void diff_print(const Diff *d, const char *a, const char *b, Buf *out);

#endif
