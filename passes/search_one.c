/*
 * search_one.c - the plan of one rank: how many microbatches, what is recomputed.
 *
 * Input: LV_train. Output: the fewest microbatches whose arena fits the memory limit, without recomputation if any does,
 * else selective, else full: more microbatches cost less than computing again. Every candidate is lowered and laid out
 * on a copy, and the arena is read off.
 */
#include <inttypes.h>

#include "passes/search.h"

typedef struct Choice {
	uint32_t mb;
	Recompute rc;
	int64_t arena; /* bytes; -1: it does not lower */
} Choice;

/*
 * Nothing is recomputed in the last layer: its B follows its F at once, so that saving nothing
 * frees nothing. It is left out of the run unless other instances share its type.
 */
static uint32_t
recomputed(const Module *m, Recompute rc)
{
	bool alone = rc != RC_none && m->ninsts > 1;
	for (uint32_t i = 0; i + 1 < m->ninsts; i++)
		alone &= m->insts[i].type != m->insts[m->ninsts - 1].type;
	return alone ? m->ninsts - 1 : m->ninsts;
}

static Plan
plan_of(const Search *s, Arena *a, uint32_t mb, Recompute rc)
{
	uint32_t first = recomputed(s->m, rc);
	Mesh one = {.n = 1};
	Plan p = search_uniform(s, a, mb, &one, &(Strategy){.recompute = rc});
	p.runs[0].count = first;
	if (first < s->m->ninsts)
		p.runs[p.nruns++] = (Strategy){.first = first, .count = s->m->ninsts - first};
	if (s->c->schedule_given) p.schedule = s->c->schedule;
	p.stages[0].slots = search_slots(p.schedule, 1, 0, mb);
	return p;
}

static Choice
try(const Search *s, uint32_t mb, Recompute rc)
{
	Arena *a = arena_new();
	Plan p = plan_of(s, a, mb, rc);
	Choice t = {mb, rc, search_arena(s, &p, NULL)};
	arena_free(a);
	if (!s->explain) return t;
	Buf b;
	buf_init(&b, s->c->tmp);
	buf_printf(&b, "plan: microbatches %" PRIu32 " recompute %s: ", mb, recompute_str[rc]);
	if (t.arena < 0)
		buf_puts(&b, "the model ties the samples of a batch together");
	else
		buf_bytes(&b, t.arena);
	if (t.arena > s->limit) {
		buf_puts(&b, ", over by ");
		buf_bytes(&b, t.arena - s->limit);
	}
	printf("%s\n", b.s);
	return t;
}

static bool
fits(const Search *s, const Choice *t)
{
	return t->arena >= 0 && t->arena <= s->limit;
}

/* The fewest microbatches that fit under rc, or the count with the smallest arena. More
 * microbatches never need more. */
static Choice
search_mb(const Search *s, Recompute rc)
{
	uint32_t lo = 0, hi = s->nmb - 1;
	Choice least = try(s, s->mb[lo], rc);
	if (fits(s, &least) || lo == hi) return least;
	Choice best = try(s, s->mb[hi], rc);
	if (best.arena < 0) return least;
	if (!fits(s, &best)) return best;
	while (hi - lo > 1) { /* lo does not fit, hi does */
		uint32_t mid = lo + (hi - lo) / 2;
		Choice t = try(s, s->mb[mid], rc);
		if (fits(s, &t))
			best = t, hi = mid;
		else
			lo = mid;
	}
	return best;
}

Found
search_one(const Search *s)
{
	bool once = s->c->recompute_given || s->m->plan.forward_only || s->c->forward_only;
	Choice best = search_mb(s, s->c->recompute_given ? s->c->recompute : RC_none);
	for (int rc = RC_selective; !once && rc <= RC_full && !fits(s, &best); rc++) {
		Choice t = search_mb(s, (Recompute)rc);
		if (t.arena >= 0 && (best.arena < 0 || t.arena < best.arena)) best = t;
	}
	return (Found){.plan = plan_of(s, s->c->perm, best.mb, best.rc),
		       .arena = best.arena,
		       .fits = fits(s, &best)};
}
