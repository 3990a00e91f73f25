/*
 * search.c - the plan: how many microbatches, what is recomputed.
 */
#include "passes/passes.h"

bool
pass_plan(Ctx *c, Module *m)
{
	Plan *p = &m->plan;
	*p = (Plan){.ranks = 1, .threads = c->threads, .microbatches = c->microbatches ? c->microbatches : 1,
	    .schedule = SCH_1f1b, .forward_only = c->forward_only};
	p->meshes = NEW(m->arena, Mesh);
	p->nmeshes = 1;
	p->meshes[0] = (Mesh){.name = name_of(m->names, "m0"), .n = 1};
	p->meshes[0].ax[0].kind = MX_mb;
	p->meshes[0].ax[0].degree = p->microbatches;
	p->runs = NEW(m->arena, Strategy);
	p->nruns = 1;
	p->runs[0] = (Strategy){.first = 0, .count = m->ninsts, .recompute = c->recompute};
	p->stages = NEW(m->arena, Stage);
	p->nstages = 1;
	p->stages[0] = (Stage){.first = 0, .count = m->ninsts, .ranks = 1, .slots = 1};
	m->level = LV_plan;
	return true;
}
