/*
 * galvatron.h - Hetu-Galvatron's files: its strategies of layers (here), in and out.
 *
 * What a file says is held in a struct with a field for every field of the file; nothing is assumed that is not written.
 * Units of the files: MB = 2^20 bytes, ms.
 */
#ifndef GV_GALVATRON_H
#define GV_GALVATRON_H

#include "ir/cluster.h"
#include "ir/json.h"

/* A field and what it means stay on one line. */
/* clang-format off */

/* ---- galvatron_plan.c: a strategy for every layer ---- */

/* Of a layer: its ranks are split (data parallel, context parallel, tp) from the outside in; strided: tp outermost. */
typedef struct GalLayer {
	uint32_t tp, cp;
	bool consecutive; /* tp_consecutive_flags */
	bool zero3;       /* dp_types_enc */
	bool ulysses;     /* use_sp: the tp ranks split the sequence, not the weights */
	bool checkpoint;  /* recompute all of it */
} GalLayer;

typedef struct GalPlan {
	uint32_t stages, world, chunks;
	int64_t batch;
	uint32_t nlayers; /* without embedding and head */
	GalLayer *layer;
	uint32_t *division; /* [stages] layers of each */
	Schedule schedule;
	bool zero2; /* default_dp_type; else ddp */
	uint32_t vtp, vcp; /* of embedding and head */
	bool vsp, vzero3;
} GalPlan;

/* Reads a strategy file. `ranks`: what --ranks says, 0: nothing; where the file has no world_size. False after diagnostics. */
bool gal_plan_read(Arena *a, Names *n, Diag *d, Name file, const char *text, size_t len, uint32_t ranks, GalPlan *out);
void gal_plan_print(const GalPlan *p, Buf *out);
/* The strategy file as the plan of a module, checked like a .plan. False after diagnostics. */
bool gal_plan_parse(Module *m, Diag *d, Name file, const char *text, size_t len, uint32_t ranks);
/* The plan of a module as a strategy file says it. False after diagnostics: what it cannot say. */
bool gal_plan_of(const Module *m, Diag *d, Arena *a, GalPlan *out);

#endif
