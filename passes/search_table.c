/*
 * search_table.c - the candidates of one branch of the tree (stages, microbatches) and what every layer costs under each.
 *
 * Output: a table for search_dp. Candidates are every mesh dp x tp of a stage's ranks, with and without Megatron-SP, ways to
 * recompute and levels of ZeRO. search_cost.c says what a layer costs under one. A mesh that does not lower is cut, with the
 * diagnostic as reason; a candidate no better in anything than another of its mesh is cut as dominated.
 */
#include <inttypes.h>

#include "passes/search.h"

static void
say(const Search *s, const Candidate *c, const char *rest)
{
	if (!s->explain) return;
	printf("plan:     dp %" PRIu32 " tp %" PRIu32 "%s: %s\n", c->dp, c->tp,
	       c->sp ? " sp" : "", rest);
}

/* No better than `b`, a candidate of its group, in anything. */
static bool
dominated(const LayerCost *a, const LayerCost *b)
{
	return a->group == b->group && b->time <= a->time && b->enter <= a->enter &&
	       b->once <= a->once && b->state <= a->state && b->saved <= a->saved &&
	       b->enter_saved <= a->enter_saved && b->work <= a->work;
}

static void
add_cost(Table *t, uint32_t class, LayerCost c, uint32_t cand)
{
	uint32_t *n = &t->count[class], kept = 0;
	LayerCost *row = t->cost[class];
	for (uint32_t k = 0; k < *n; k++)
		if (dominated(&c, &row[k])) return;
	for (uint32_t k = 0; k < *n; k++) {
		if (dominated(&row[k], &c)) continue;
		t->of[class][kept] = t->of[class][k];
		row[kept++] = row[k];
	}
	row[kept] = c;
	t->of[class][kept++] = cand;
	*n = kept;
}

static void
explain_cost(const Search *s, const Table *t, uint32_t class, const LayerCost *c,
	     const Candidate *k)
{
	Buf b;
	if (!s->explain) return;
	buf_init(&b, s->c->tmp);
	const char *name =
	    name_str(s->m->names, s->m->types[s->m->insts[t->classes->first[class]].type].name);
	buf_printf(&b, "%s zero %u recompute %s: %.3f ms a microbatch, %.3f ms once, ", name,
		   k->zero, recompute_str[k->rc], (double)c->time * 1e-6,
		   (double)c->once * 1e-6);
	buf_bytes(&b, c->state);
	buf_puts(&b, " of state, ");
	buf_bytes(&b, c->saved);
	buf_puts(&b, " a slot, ");
	buf_bytes(&b, c->work);
	buf_puts(&b, " of work");
	say(s, k, b.s);
}

/* One lowering, all levels of ZeRO. */
static void
add_lowered(const Search *s, Table *t, const Measured *x, Candidate c, bool cut)
{
	bool forward = s->c->forward_only || s->m->plan.forward_only;
	uint8_t top = c.dp > 1 && !forward ? 3 : 0;
	for (uint8_t zero = 0; zero <= top; zero++) {
		c.zero = zero;
		t->cand[t->ncand] = c;
		for (uint32_t k = 0; k < t->classes->n; k++) {
			LayerCost cost = search_cost(s, x, k, &c, cut);
			if (c.rc >= t->said) explain_cost(s, t, k, &cost, &c);
			add_cost(t, k, cost, t->ncand);
		}
		t->ncand++;
	}
}

/* Why a mesh is not even tried; NULL: it is. */
static const char *
cut_early(const Search *s, const Candidate *c, uint32_t mb)
{
	Buf b;
	int64_t samples = (s->m->batch.i ? ir_extent(s->m, s->m->batch) : 1) / mb, longest = 0;
	buf_init(&b, s->c->tmp);
	for (uint32_t i = 1; i < s->m->naxes; i++)
		if (s->m->axes[i].extent > longest) longest = s->m->axes[i].extent;
	if (c->dp > samples)
		buf_printf(&b, "cut: a microbatch has %" PRId64 " sample%s", samples,
			   samples == 1 ? "" : "s");
	else if (!search_all_have(samples, c->dp))
		buf_printf(&b,
			   "cut: of %" PRId64 " samples in a microbatch the last rank has none",
			   samples);
	else if (c->tp > longest)
		buf_printf(&b, "cut: no axis has more than %" PRId64 " elements", longest);
	else
		return NULL;
	return b.s;
}

static void
add_mesh(const Search *s, Table *t, Candidate c, uint32_t stages, uint32_t mb, Recompute top)
{
	Recompute from = s->c->recompute_given ? s->c->recompute : RC_none;
	const char *why = cut_early(s, &c, mb);
	Buf b;
	if (why) {
		if (!t->said) say(s, &c, why);
		return;
	}
	for (Recompute rc = from; rc <= (s->c->recompute_given ? from : top); rc++) {
		c.rc = rc;
		const Measured *x = search_measure(s, &c, mb, &why);
		if (x) {
			add_lowered(s, t, x, c, stages > 1);
			continue;
		}
		buf_init(&b, s->c->tmp);
		buf_printf(&b, "cut: %s", why);
		if (rc >= t->said) say(s, &c, b.s);
		return;
	}
}

void
search_table(const Search *s, Arena *a, uint32_t stages, uint32_t mb, Recompute top,
	     Recompute said, Table *t)
{
	uint32_t ranks = s->ranks / stages, most = 0, group = 0;
	*t = (Table){.classes = search_memo_classes(s->memo), .said = said};
	for (uint32_t tp = 1; tp <= ranks; tp++)
		if (ranks % tp == 0) most += 2 * 3 * 4;
	t->cand = NEW_N(a, Candidate, most);
	t->count = NEW_N(a, uint32_t, t->classes->n);
	t->cost = NEW_N(a, LayerCost *, t->classes->n);
	t->of = NEW_N(a, uint32_t *, t->classes->n);
	for (uint32_t k = 0; k < t->classes->n; k++) {
		t->cost[k] = NEW_N(a, LayerCost, most);
		t->of[k] = NEW_N(a, uint32_t, most);
	}
	for (uint32_t tp = 1; tp <= ranks; tp++)
		for (int sp = 0; sp <= (tp > 1) && ranks % tp == 0; sp++)
			add_mesh(
			    s, t,
			    (Candidate){.dp = ranks / tp, .tp = tp, .sp = sp, .group = group++},
			    stages, mb, top);
}
