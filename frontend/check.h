/* check.h - `galvatronc check`. Private to frontend/. */
#ifndef GV_CHECK_H
#define GV_CHECK_H

#include "frontend/frontend.h"

/* What main.c, which alone knows the passes, does for it. Ctx's are those of small copies; false or NULL: diagnostics. */
typedef struct CheckPasses {
	bool (*train)(Ctx *c, Module **m);                /* graph -> train */
	bool (*rest)(Ctx *c, Module **m, bool to_memory); /* plan -> spmd, or to the end */
} CheckPasses;

/* Compares a small copy of `m` (LV_plan, of file fe->path) under its plan with one rank, in the interpreter. 0: equal; 1. */
int check_plan(Ctx *c, const Module *m, const FeOptions *fe, const CheckPasses *passes,
	       bool explain);

#endif
