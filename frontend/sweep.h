/*
 * sweep.h - --sweep: the best value of a top-level axis or number, by planning for each. Private to frontend/main.c and sweep.c.
 */
#ifndef GV_SWEEP_H
#define GV_SWEEP_H

#include "frontend/options.h"

enum { SWEEP_VALUES = 32 }; /* tried at most */

/* A module, loaded with the options and planned; a context's own. NULL after diagnostics. *ns: a step, predicted; *bytes: of
 * the rank that needs most; *limit: what it may use. */
typedef const Module *SweepPlan(Ctx *c, const Options *o, int64_t *ns, int64_t *bytes,
				int64_t *limit);

/* Plans for every value of o->sweep, prints what came of it, and sets the best. Returns -1 to go on, else the exit status. */
int sweep(Ctx *c, Options *o, SweepPlan *plan);

#endif
