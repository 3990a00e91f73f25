/*
 * remat.c - recomputation: what F does not save, B computes again and hands to W.
 */
#include "passes/passes.h"

void
remat_type(Ctx *c, Module *m, Recompute mode, LayerType *t, Body *body[BK_COUNT])
{
	(void)c, (void)m, (void)mode, (void)t, (void)body;
}
