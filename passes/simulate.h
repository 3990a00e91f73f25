/*
 * simulate.h - a step of a scheduled program, event by event.
 *
 * What runs is Module.actions, the table the programs run: bodies on a rank's compute stream; collectives and exchanges on
 * its communication streams, begun by ACT_start, each when all its members have begun it and its link is free, done at
 * ACT_wait. Ranks of a stage that do the same on equal devices are one (a class); `all_ranks` simulates every rank by itself.
 * Times come from passes/price.h.
 */
#ifndef GV_SIMULATE_H
#define GV_SIMULATE_H

#include "passes/price.h"

typedef enum SimStream { SS_compute, SS_collective, SS_exchange, SS_COUNT } SimStream;
/* ORDER SimWhat */
typedef enum SimWhat {
	SW_F,
	SW_B,
	SW_W,
	SW_update,
	SW_tp,
	SW_fwd,
	SW_bwd,
	SW_param,
	SW_grad,
	SW_borrow,
	SW_norm,
	SW_input, /* what a microbatch takes beside its operations: eff.turn */
	SW_wait,
	SW_COUNT
} SimWhat;
extern const char *const sim_what_str[SW_COUNT];

typedef struct SimEvent { /* something a rank of a class did from .. to */
	uint32_t stage, class;
	SimStream stream;
	SimWhat
	    what; /* SW_tp: collectives inside bodies; SW_wait: idle until something arrived */
	uint32_t inst, mb;
	int64_t from, to; /* ns since the step began */
} SimEvent;

typedef struct SimStage {
	uint32_t ranks, classes;
	int64_t busy[SW_COUNT]; /* ns, of the class that ends last */
	int64_t end;            /* when it has done its step */
	int64_t peak, arena;    /* bytes: most alive; laid out (level mem) */
	uint32_t npoints;       /* memory alive over time: steps */
	int64_t *when, *bytes;
} SimStage;

typedef struct SimResult {
	int64_t step;    /* ns */
	SimStage *stage; /* [plan.nstages] */
	SimEvent *event; /* with `record`: by stage, class, begin */
	uint32_t nevents, cevents;
	uint64_t steps; /* actions run */
} SimResult;

/* Prices of one's own, for tests. */
typedef struct SimPrices {
	void *arg;
	const Cluster *cluster;
	BodyPrice (*body)(void *arg, const Module *m, const Body *b, uint32_t kind);
	int64_t (*prim)(void *arg, const Module *m, const CommTable *t, uint32_t stage,
			const Prim *prim);
} SimPrices;

typedef struct SimOptions {
	bool all_ranks, record;
	const SimPrices *prices; /* NULL: Price's */
} SimOptions;

/* requires: LV_sched (memory curves: LV_mem). Never hangs: a table that cannot end is an ICE after the verifier. */
SimResult simulate(Ctx *c, const Module *m, Price *p, const SimOptions *o, Arena *a);
/* With prices of the context's machine, which it makes; sets the plan's predicted time. */
SimResult sim_predict(Ctx *c, Module *m, bool record, Arena *a, Price **price);
/* Chrome trace (JSON array format of chrome://tracing, Perfetto): process = stage, thread = stream; memory as counters. */
void sim_trace(const Module *m, const SimResult *r, Buf *out);
/* For scripts, as `key value`: step_ns first; one line a stage; how many kernels were measured. requires: LV_mem */
void sim_cost(const Module *m, const SimResult *r, const Price *p, Buf *out);
/* For people, a line: what a step takes, and the stage with most to do. */
void sim_summary(const Module *m, const SimResult *r, const Price *p, Buf *out);
/* Bytes that a rank of a stage takes in all: the arena, what its device reserves, communicators. requires: LV_mem */
int64_t sim_rank_bytes(const Module *m, const Price *p, uint32_t stage);

#endif
