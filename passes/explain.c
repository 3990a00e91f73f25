/*
 * explain.c - --explain: why the plan is as it is, in text.
 *
 * What the time went to and what binds are read off the simulated step; what else there was, off the log of the search.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "passes/explain.h"

enum {
	FEW = 10,
	FORCED = 12
}; /* branches told, and candidates solved again, without being asked for all */

/* ---- the summary ---- */

static void
put_head(const Facts *f, Buf *out)
{
	const Plan *p = &f->m->plan;
	buf_puts(out, "step    ");
	facts_ns(out, f->sim.step);
	buf_printf(out,
		   " for %" PRId64 " sample%s on %" PRIu32 " rank%s: %" PRIu32
		   " stage%s, %" PRIu32 " microbatch%s",
		   f->samples, f->samples == 1 ? "" : "s", p->ranks, p->ranks == 1 ? "" : "s",
		   p->nstages, p->nstages == 1 ? "" : "s", p->microbatches,
		   p->microbatches == 1 ? "" : "es");
	if (p->nstages > 1) buf_printf(out, ", %s", schedule_str[p->schedule]);
	buf_putc(out, '\n');
}

static void
put_time(const Facts *f, Buf *out)
{
	const StageFacts *s = &f->stage[f->slowest];
	buf_printf(out, "time    of stage %" PRIu32 ", which has the most to do:\n",
		   f->slowest);
	for (int i = 0; i < PT_COUNT; i++) {
		if (!s->part[i]) continue;
		Buf b;
		buf_init(&b, f->c->tmp);
		facts_ns(&b, s->part[i]);
		buf_printf(out, "        %-18s %9s %5.1f %%\n", part_str[i], b.s,
			   100 * (double)s->part[i] / (double)f->sim.step);
	}
}

static void
put_binds(const Facts *f, Buf *out)
{
	const StageFacts *s = &f->stage[f->tightest];
	buf_puts(out, "binds   ");
	facts_binds(f, out);
	buf_printf(out, "; memory of stage %" PRIu32 ": ", f->tightest);
	buf_bytes(out, s->rank_bytes);
	buf_puts(out, " of ");
	buf_bytes(out, s->limit);
	if (s->rank_bytes > s->limit) buf_puts(out, ", MORE THAN THERE IS");
	buf_puts(out, "\nmemory  ");
	const char *gap = "";
	for (int i = 0; i < MK_COUNT; i++) {
		if (!s->mem[i]) continue;
		buf_printf(out, "%s%s ", gap, mem_kind_str[i]);
		buf_bytes(out, s->mem[i]);
		gap = ", ";
	}
	buf_putc(out, '\n');
}

static void
put_bound(const Facts *f, Buf *out)
{
	const SearchLog *log = f->log;
	if (facts_chosen_time(f) < 0) return;
	buf_puts(out, "bound   by the tables no plan takes less than ");
	facts_ns(out, log->least);
	buf_puts(out, "; the chosen one takes ");
	facts_ns(out, facts_chosen_time(f));
	buf_printf(out, " by them (gap %.2f %%), ", 100 * log->gap);
	facts_ns(out, log->finalist[log->chosen].time);
	buf_puts(out, " simulated\n");
}

static void
put_saving(Buf *out, const char *what, int64_t saved)
{
	if (saved < 0) return;
	buf_printf(out, "        %-30s ", what);
	if (saved)
		facts_ns(out, saved);
	else
		buf_puts(out, "nothing");
	buf_putc(out, '\n');
}

static void
put_worth(const Facts *f, Buf *out)
{
	const Worth w = f->worth;
	if (w.memory < 0 && w.near < 0 && w.far < 0) return;
	buf_printf(out, "worth   what one more would save of a step%s:\n",
		   w.anew ? ", planned anew" : ", the plan as it is");
	put_saving(out, "GiB of memory a rank", w.memory);
	put_saving(out, "GB/s between devices of a node", w.near);
	put_saving(out, "GB/s between nodes", w.far);
}

static void
put_finalists(const Facts *f, Buf *out)
{
	const SearchLog *log = f->log;
	for (uint32_t i = 0; log && i < log->nfinalists; i++) {
		const LogFinalist *x = &log->finalist[i];
		buf_printf(out, "%s %" PRIu32 " stage%s, %" PRIu32 " microbatch%s: ",
			   i ? "       " : "plans  ", x->plan.nstages,
			   x->plan.nstages == 1 ? "" : "s", x->plan.microbatches,
			   x->plan.microbatches == 1 ? "" : "es");
		facts_ns(out, x->time);
		buf_puts(out, " simulated, ");
		facts_ns(out, x->table_time);
		buf_printf(out, " by table%s%s\n", x->fits ? "" : ", does not fit",
			   i == log->chosen ? ", chosen" : "");
	}
}

static void
put_branch(const Facts *f, const BranchFacts *x, Buf *out)
{
	const LogBranch *b = x->b;
	buf_printf(out,
		   "        %" PRIu32 " stage%s, %" PRIu32 " microbatch%s, %s%s: ", b->stages,
		   b->stages == 1 ? "" : "s", b->microbatches, b->microbatches == 1 ? "" : "es",
		   schedule_str[b->schedule], b->tp_outer ? ", tp across" : "");
	if (b->time > 0 && b->time != INT64_MAX) {
		facts_ns(out, b->time);
	} else {
		buf_puts(out, "at least ");
		facts_ns(out, b->least);
	}
	buf_printf(out, ", %s", facts_fate(f, b));
	if (b->why && *b->why) buf_printf(out, ": %s", b->why);
	if (x->n > 1) buf_printf(out, " (%" PRIu32 " placements)", x->n);
	buf_putc(out, '\n');
}

static void
put_branches(const Facts *f, bool all, Buf *out)
{
	if (!f->log || !f->log->nbranches) return;
	uint32_t n;
	const BranchFacts *b = facts_branches(f, f->c->tmp, &n);
	const uint32_t said = all || n < FEW ? n : FEW;
	buf_printf(
	    out, "tree    %" PRIu32 " branch%s, %" PRIu32 " lowerings, %" PRIu32 " priced%s\n",
	    f->log->nbranches, f->log->nbranches == 1 ? "" : "es", f->log->lowered,
	    f->log->priced, said < n ? "; the first are" : "");
	for (uint32_t i = 0; i < said; i++)
		put_branch(f, &b[i], out);
	if (said < n)
		buf_printf(out, "        and %" PRIu32 " more (--explain=all)\n", n - said);
}

/* Strategies that were no candidates, in the branch chosen. */
static void
put_cuts(const Facts *f, bool all, Buf *out)
{
	const LogTable *t = NULL;
	if (!f->log || !f->log->nlayers || !facts_chosen(f, 0, &t) || !t->ncut) return;
	const uint32_t said = all || t->ncut < FEW ? t->ncut : FEW;
	buf_printf(out, "cut     %" PRIu32 " strateg%s of the chosen branch\n", t->ncut,
		   t->ncut == 1 ? "y" : "ies");
	for (uint32_t i = 0; i < said; i++) {
		buf_puts(out, "        ");
		facts_candidate(&t->cut[i].cand, out);
		buf_printf(out, ": %s\n", t->cut[i].why);
	}
	if (said < t->ncut)
		buf_printf(out, "        and %" PRIu32 " more (--explain=all)\n",
			   t->ncut - said);
}

bool
explain_print(const Facts *f, const char *what, Buf *out)
{
	const bool all = strcmp(what, "all") == 0;
	if (*what && !all) return explain_layer(f, what, out);
	put_head(f, out);
	put_time(f, out);
	put_binds(f, out);
	put_bound(f, out);
	put_worth(f, out);
	put_finalists(f, out);
	put_branches(f, all, out);
	put_cuts(f, all, out);
	return true;
}
