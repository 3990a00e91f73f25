/*
 * measure.h - what has to be measured so that every plan for some ranks is priced by measured kernels.
 */
#ifndef GV_MEASURE_H
#define GV_MEASURE_H

#include "ir/cluster.h"
#include "passes/passes.h"

/* The model without layers between like ones: what programs that are timed are made of. requires: LV_train. Stays there. */
Module *measure_short(Ctx *c, Module *m);

/* Prints plans whose programs together run every kernel that plans for c->ranks ranks have and c->profile lacks:
 *
 *   kernels N missing M     of all such plans; that the profile lacks
 *   program I kernels N     then a .plan text, and a line "end"
 *
 * m at LV_train: all plans; at LV_plan: that plan alone. False after diagnostics. */
bool measure_print(Ctx *c, const Module *m, Buf *out);

#endif
