/*
 * imported.h - planning from imported layer costs: what another tool measured of a model's layers, without the model.
 */
#ifndef GV_IMPORTED_H
#define GV_IMPORTED_H

#include "ir/galvatron.h"
#include "passes/passes.h"

typedef struct ImportAsk {
	const uint32_t *layers; /* [ntypes] of each layer type, in this order */
	uint32_t ntypes;
	int64_t batch;
	uint32_t
	    hidden; /* numbers of what passes between layers, for each position; 0: not said */
	uint32_t seq; /* 0: the one that was measured */
} ImportAsk;

typedef struct ImportFound {
	GalPlan plan;
	int64_t time,
	    least; /* ns of a step; of the plan's stages and microbatches none takes less */
	int64_t *stage_time, *stage_once, *stage_bytes; /* [stages] */
	int64_t limit;
	uint32_t problems; /* solved */
} ImportFound;

/* The best plan by those costs. Reads ranks, memory, microbatches, schedule, recompute, max_tp, precision and explain of
 * the context. False after diagnostics. */
bool imported_plan(Ctx *c, const GalFiles *f, const Cluster *x, const ImportAsk *ask,
		   ImportFound *out);
/* A few lines for people. */
void imported_summary(const ImportFound *f, Buf *out);

#endif
