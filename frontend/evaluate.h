/* evaluate.h - `galvatronc eval`. Private to frontend/. */
#ifndef GV_EVALUATE_H
#define GV_EVALUATE_H

#include "ir/ir.h"

/* Runs `steps` training steps (level graph: forward passes) and prints a line for each. False after diagnostics. */
bool evaluate(Ctx *c, const Module *m, const EvalOptions *o, const char *data, int64_t steps);

/* Gives `e` the inputs of a step, drawn from the seed: those of `m`, a module of the same program at any level. */
bool evaluate_feed(Ctx *c, const Module *m, Eval *e, uint64_t seed, uint64_t step);

#endif
