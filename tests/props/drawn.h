/*
 * drawn.h - plans drawn at random for a model, and a model compiled under one; for the tests of schedules and memory.
 *
 * Deterministic in the number drawn. Stages, meshes per run, ZeRO levels, recomputation, slots, both schedules.
 */
#ifndef GV_TESTS_DRAWN_H
#define GV_TESTS_DRAWN_H

#include "frontend/frontend.h"
#include "passes/passes.h"

#include <stdlib.h>
#include <string.h>

typedef struct Draw {
	uint64_t key, at;
	uint32_t layers, batch;
	uint32_t most_stages, most_ranks; /* of one stage */
	bool tp;
} Draw;

static inline uint32_t
drawn(Draw *d, uint32_t n)
{
	return (uint32_t)(rng_uniform(d->key, d->at++) * n);
}

static inline void
draw_stages(Draw *d, uint32_t stages, uint32_t mbs, Buf *head, Buf *meshes, Buf *runs)
{
	uint32_t per = d->batch / mbs, rank = 0, layer = 0, mesh = 0;
	for (uint32_t s = 0; s < stages; s++) {
		uint32_t rest = d->layers - layer - (stages - s - 1), ranks;
		uint32_t count = s + 1 == stages ? rest : 1 + drawn(d, rest);
		do
			ranks = 1 + drawn(d, d->most_ranks);
		while (!d->tp && per % ranks);
		buf_printf(head, "stage %u layers %u-%u ranks %u-%u", s, layer,
			   layer + count - 1, rank, rank + ranks - 1);
		uint32_t slots = 1 + drawn(d, mbs);
		if (drawn(d, 3) == 0) buf_printf(head, " slots %u", slots);
		buf_putc(head, '\n');
		for (uint32_t end = layer + count; layer < end;) {
			uint32_t n = drawn(d, 2) ? end - layer : 1 + drawn(d, end - layer);
			uint32_t dp = ranks, zero = 0, rc = drawn(d, 3);
			while (ranks % dp || per % dp)
				dp--;
			uint32_t tp = ranks / dp;
			if (ranks > 1) {
				buf_printf(meshes, "mesh m%u =", ++mesh);
				if (dp > 1) buf_printf(meshes, " dp:%u", dp);
				if (tp > 1) buf_printf(meshes, " tp:%u", tp);
				buf_putc(meshes, '\n');
			}
			if (dp > 1) zero = drawn(d, 4);
			buf_printf(runs, "layers %u-%u mesh m%u zero %u recompute %s\n", layer,
				   layer + n - 1, ranks > 1 ? mesh : 0, zero,
				   recompute_str[rc]);
			layer += n;
		}
		rank += ranks;
	}
	buf_printf(meshes, "ranks %u ", rank);
}

/* The text of plan number `n`. */
static inline char *
draw_plan(Arena *a, Draw *d)
{
	Buf all, head, meshes, runs;
	Buf *each[] = {&all, &head, &meshes, &runs};
	uint32_t mbs, most = d->most_stages < d->layers ? d->most_stages : d->layers;
	for (size_t i = 0; i < COUNTOF(each); i++)
		buf_init(each[i], a);
	do
		mbs = 1 + drawn(d, d->batch);
	while (d->batch % mbs);
	draw_stages(d, 1 + drawn(d, most), mbs, &head, &meshes, &runs);
	char *ranks = strstr(meshes.s, "ranks ");
	buf_printf(&all, "plan 1\n%s threads 1 microbatches %u schedule %s\nmesh m0 = mb\n",
		   ranks, mbs, drawn(d, 3) ? "1f1b" : "gpipe");
	buf_printf(&all, "%.*s%s%s", (int)(ranks - meshes.s), meshes.s, head.s, runs.s);
	return all.s;
}

/* A model under a plan, at level mem; NULL after diagnostics. */
static inline Module *
compile_under(Ctx *c, const char *path, const char *const *set, uint32_t nset, const char *plan,
	      bool forward_only)
{
	FeOptions fe = {.path = path, .set = set, .nset = nset, .host = true};
	PassOptions train = {.verify = true, .stop_after = "optimizer"}, all = {.verify = true};
	*c = (Ctx){.perm = arena_new(), .tmp = arena_new(), .memory_bytes = INT64_MAX};
	c->names = names_new(c->perm);
	c->diag = diag_new(c->perm, c->names, stderr);
	c->forward_only = forward_only;
	Module *m = fe_load(c, &fe);
	if (!m) return NULL;
	m->plan.forward_only = forward_only;
	if (!pass_run_all(c, &m, &train)) return NULL;
	if (!plan_parse(m, c->diag, name_of(c->names, "drawn.plan"), plan, strlen(plan)))
		return NULL;
	m->plan.forward_only |= forward_only;
	m->level = LV_plan;
	return pass_run_all(c, &m, &all) ? m : NULL;
}

static inline void
drop_compiled(Ctx *c)
{
	arena_free(c->tmp);
	arena_free(c->perm);
}

#endif
