/*
 * report_tried.c - what else there was: the plans that were simulated, the branches and why each was left, what layers cost
 * under every candidate; and where the costs come from.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "passes/report.h"

enum { FEW = 10, MANY = 200, CLASSES = 6, DOTS = 400 };

static void
cell(Buf *out, const char *class)
{
	buf_printf(out, "<td%s%s>", *class ? " class=" : "", class);
}

/* A time, and what it sorts by. */
static void
time_cell(Buf *out, int64_t ns)
{
	if (ns <= 0 || ns == INT64_MAX) {
		buf_puts(out, "<td data-v=9e18>–</td>");
		return;
	}
	buf_printf(out, "<td data-v=%" PRId64 ">", ns);
	html_ns(out, ns);
	buf_puts(out, "</td>");
}

/* ---- finalists ---- */

static void
plan_words(const Facts *f, const Plan *p, Buf *out)
{
	Module m = *f->m;
	Buf b;
	m.plan = *p;
	for (uint32_t i = 0; i < p->nruns && i < 3; i++) {
		buf_init(&b, f->c->tmp);
		facts_strategy(&m, &p->runs[i], &b);
		if (i) buf_puts(out, "; ");
		html_text(out, b.s);
	}
	if (p->nruns > 3) buf_printf(out, "; and %" PRIu32 " more", p->nruns - 3);
}

static void
finalists(const Facts *f, Buf *out)
{
	const SearchLog *log = f->log;
	if (!log->nfinalists) return;
	buf_puts(out,
		 "<h3>Plans that were simulated</h3>\n<div class=scroll><table "
		 "class=sort>\n<thead><tr><th>stages</th><th>microbatches</th><th>schedule</"
		 "th><th>by table</th><th>simulated</th><th>a rank needs</th><th "
		 "class=l>fits</th><th class=l>strategies</th></tr></thead>\n<tbody>\n");
	for (uint32_t i = 0; i < log->nfinalists && i < FEW; i++) {
		const LogFinalist *x = &log->finalist[i];
		int64_t most = 0;
		for (uint32_t k = 0; x->rank_bytes && k < x->plan.nstages; k++)
			if (x->rank_bytes[k] > most) most = x->rank_bytes[k];
		buf_printf(out, "<tr%s><td>%" PRIu32 "</td><td>%" PRIu32 "</td><td>%s</td>",
			   i == log->chosen ? " class=chosen" : "", x->plan.nstages,
			   x->plan.microbatches, schedule_str[x->plan.schedule]);
		time_cell(out, x->table_time);
		time_cell(out, x->time);
		buf_printf(out, "<td data-v=%" PRId64 ">", most);
		html_bytes(out, most);
		buf_printf(out, "</td><td class=l>%s</td><td class=\"l wrap\">",
			   i == log->chosen ? "chosen"
			   : x->fits        ? "yes"
					    : "no");
		plan_words(f, &x->plan, out);
		buf_puts(out, "</td></tr>\n");
	}
	buf_puts(out, "</tbody></table></div>\n");
	if (log->nfinalists > FEW)
		buf_printf(out, "<p class=note>and %" PRIu32 " more</p>\n",
			   log->nfinalists - FEW);
}

/* ---- branches ---- */

static int64_t
known(const LogBranch *b)
{
	return b->time > 0 && b->time != INT64_MAX ? b->time : b->least;
}

static void
branch_row(const Facts *f, const BranchFacts *x, int64_t from, int64_t to, Buf *out)
{
	const LogBranch *b = x->b;
	const int64_t time = b->time == INT64_MAX ? 0 : b->time, lo = b->least,
		      hi = time > lo ? time : lo;
	buf_printf(out, "<tr%s><td>%" PRIu32 "</td><td>%" PRIu32 "</td><td>%s</td><td>%s</td>",
		   b->fate == LF_chosen ? " class=chosen" : "", b->stages, b->microbatches,
		   schedule_str[b->schedule], b->tp_outer ? "across" : "side by side");
	time_cell(out, b->least);
	time_cell(out, b->time);
	/* from its bound to its best plan; a branch that was left has a bound only */
	buf_puts(out, "<td class=span>");
	if (lo > 0 && lo < to) {
		buf_puts(out, "<div><i style=\"left:");
		html_width(out, lo > from ? lo - from : 0, to - from);
		buf_puts(out, ";width:");
		html_width(out, (hi < to ? hi : to) - lo, to - from);
		buf_printf(out, "\"%s></i></div>", time ? "" : " class=bound");
	}
	buf_printf(out, "</td><td class=\"l wrap\">%s", facts_fate(f, b));
	if (b->why && *b->why) {
		buf_puts(out, ": ");
		html_text(out, b->why);
	}
	if (x->n > 1) buf_printf(out, " (%" PRIu32 " placements)", x->n);
	buf_puts(out, "</td></tr>\n");
}

static void
branch_table(const Facts *f, const BranchFacts *b, uint32_t n, int64_t from, int64_t to,
	     Buf *out)
{
	buf_puts(out,
		 "<div class=scroll><table "
		 "class=sort>\n<thead><tr><th>stages</th><th>microbatches</th><th>schedule</"
		 "th><th>tp groups</th><th>at least</th><th>best plan</th><th "
		 "class=span></th><th class=l>what became of it</th></tr></thead>\n<tbody>\n");
	for (uint32_t i = 0; i < n; i++)
		branch_row(f, &b[i], from, to, out);
	buf_puts(out, "</tbody></table></div>\n");
}

static void
branches(const Facts *f, Buf *out)
{
	Arena *tmp = arena_new();
	uint32_t n;
	const BranchFacts *b = facts_branches(f, tmp, &n);
	int64_t from = INT64_MAX, to = 0;
	const uint32_t few = n < FEW ? n : FEW, many = n < MANY ? n : MANY;
	for (uint32_t i = 0; i < few; i++) {
		const int64_t hi = known(b[i].b);
		if (b[i].b->least > 0 && b[i].b->least < from) from = b[i].b->least;
		if (hi > to && hi != INT64_MAX) to = hi;
	}
	if (from > to) from = 0;
	from -= (to - from) / 20;
	to += (to - from) / 20 + 1;
	buf_puts(
	    out,
	    "<h3>Branches of the search</h3>\n<p class=note>Stages, microbatches and schedule "
	    "fix a branch. Its bound is what none of its plans is below; a branch whose bound "
	    "is above the best plan is left without looking further.</p>\n");
	branch_table(f, b, few, from, to, out);
	if (many > few) {
		buf_printf(out, "<details><summary>%" PRIu32 " more</summary>\n", many - few);
		branch_table(f, b + few, many - few, from, to, out);
		buf_puts(out, "</details>\n");
	}
	if (many < n) {
		buf_puts(out, "<p class=note>and ");
		buf_count(out, n - many);
		buf_puts(out, " more branches; --explain=all prints them</p>\n");
	}
	arena_free(tmp);
}

/* Strategies that were no candidates, and why. */
static void
cuts(const LogTable *t, Buf *out)
{
	if (!t->ncut) return;
	buf_printf(out,
		   "<details><summary>%" PRIu32 " strateg%s cut</summary>\n<ul class=plain>\n",
		   t->ncut, t->ncut == 1 ? "y" : "ies");
	for (uint32_t i = 0; i < t->ncut && i < MANY; i++) {
		buf_puts(out, "<li>");
		facts_candidate(&t->cut[i].cand, out);
		buf_puts(out, ": ");
		html_text(out, t->cut[i].why);
		buf_puts(out, "</li>\n");
	}
	buf_puts(out, "</ul></details>\n");
}

/* ---- candidates of a class of layers: time against memory ---- */

typedef struct Cloud {
	const LogTable *t;
	uint32_t class, chosen; /* candidate; ncand: none */
	uint32_t slots;
	int64_t max_time, max_bytes;
} Cloud;

static int64_t
bytes_of(const SolveCost *c, uint32_t slots)
{
	return c->state + slots * c->saved + c->work;
}

static void
dot(const Cloud *x, uint32_t k, Buf *out)
{
	const LogCost *c = &x->t->cost[x->class][k];
	const int64_t bytes = bytes_of(&c->cost, x->slots);
	buf_puts(out, "<circle cx=");
	html_width(out, bytes * 92 / 100 + x->max_bytes / 25, x->max_bytes);
	buf_puts(out, " cy=");
	html_width(out, x->max_time - c->cost.time * 84 / 100 - x->max_time / 25, x->max_time);
	buf_printf(out, " r=%d class=%s><title>", k == x->chosen ? 6 : 3,
		   k == x->chosen ? "in"
		   : c->dominated ? "no"
				  : "yes");
	facts_candidate(&x->t->cand[k], out);
	buf_puts(out, ": ");
	html_ns(out, c->cost.time);
	buf_puts(out, ", ");
	html_bytes(out, bytes);
	buf_puts(out, "</title></circle>\n");
}

static void
cloud(const Facts *f, Cloud *x, Buf *out)
{
	const uint32_t layer = f->log->class_first[x->class];
	uint32_t drawn = 0;
	for (uint32_t k = 0; k < x->t->ncand; k++) {
		const SolveCost *c = &x->t->cost[x->class][k].cost;
		if (c->time > x->max_time) x->max_time = c->time;
		if (bytes_of(c, x->slots) > x->max_bytes) x->max_bytes = bytes_of(c, x->slots);
	}
	if (!x->max_time || !x->max_bytes) return;
	buf_puts(out, "<figure class=cloud><figcaption><b>");
	html_text(out, layer < f->nlayers ? facts_type(f, layer) : "");
	buf_puts(out, "</b> ");
	if (x->chosen < x->t->ncand) {
		facts_candidate(&x->t->cand[x->chosen], out);
		buf_puts(out, ": ");
		html_ns(out, x->t->cost[x->class][x->chosen].cost.time);
	}
	buf_puts(out, "</figcaption><svg height=170 role=img aria-label=\"time of each "
		      "candidate against its memory\">\n<text x=6 y=12>time, up to ");
	html_ns(out, x->max_time);
	buf_puts(out, "</text>\n");
	for (int pass = 0; pass < 3; pass++) /* the chosen one on top */
		for (uint32_t k = 0; k < x->t->ncand && drawn < DOTS; k++) {
			const int layer_of = k == x->chosen                      ? 2
					     : x->t->cost[x->class][k].dominated ? 0
										 : 1;
			if (layer_of != pass) continue;
			dot(x, k, out);
			drawn++;
		}
	buf_puts(out, "</svg><p class=ends><span>0</span><span>memory, up to ");
	html_bytes(out, x->max_bytes);
	buf_puts(out, "</span></p></figure>\n");
}

static void
clouds(const Facts *f, Buf *out)
{
	const SearchLog *log = f->log;
	const LogTable *t;
	if (!log->nlayers || !facts_chosen(f, 0, &t)) return;
	buf_puts(out, "<h3>Ways to split a layer, in the branch chosen</h3>\n<p "
		      "class=note>Time of a microbatch (up) against the memory of a rank "
		      "(right). Filled: offered to the solver; hollow: something else is "
		      "better in both; large: chosen.</p>\n<div class=clouds>\n");
	for (uint32_t k = 0; k < log->nclasses && k < CLASSES; k++) {
		const uint32_t layer = log->class_first[k];
		const LogCandidate *chosen = facts_chosen(f, layer, &t);
		const uint32_t stage = ir_stage_of(f->m, f->layer[layer]);
		if (!chosen || stage >= f->m->plan.nstages) continue;
		Cloud x = {.t = t,
			   .class = k,
			   .slots = f->m->plan.stages[stage].slots,
			   .chosen = (uint32_t)(chosen - t->cand)};
		if (!x.slots) x.slots = 1;
		cloud(f, &x, out);
	}
	buf_puts(out, "</div>\n");
	cuts(t, out);
}

/* ---- one thing more ---- */

static void
worth_item(Buf *out, const char *what, int64_t saved)
{
	if (saved < 0) return;
	buf_puts(out, "<li><span>one more ");
	buf_puts(out, what);
	buf_puts(out, "</span><b>");
	if (saved) {
		buf_puts(out, "−");
		html_ns(out, saved);
	} else {
		buf_puts(out, "nothing");
	}
	buf_puts(out, "</b></li>\n");
}

void
report_worth(const Facts *f, Buf *out)
{
	const Worth w = f->worth;
	if (w.memory < 0 && w.near < 0 && w.far < 0) return;
	html_section(out, "worth", "What would help",
		     w.anew ? "What a step would save, planned anew."
			    : "What a step would save, the plan as it is.");
	buf_puts(out, "<ul class=worth>\n");
	worth_item(out, "GiB of memory a rank", w.memory);
	worth_item(out, "GB/s between devices of a node", w.near);
	worth_item(out, "GB/s between nodes", w.far);
	buf_puts(out, "</ul>\n</section>\n");
}

void
report_tried(const Facts *f, Buf *out)
{
	html_section(out, "tried", "What else was considered", "");
	if (!f->log || !f->log->nbranches) {
		buf_puts(
		    out,
		    "<p class=note>Nothing: this plan was not searched for.</p>\n</section>\n");
		return;
	}
	buf_puts(out, "<p class=note>");
	buf_count(out, f->log->nbranches);
	buf_puts(out, " branches, ");
	html_plural(out, f->log->lowered, "body");
	buf_puts(out, " lowered; by the tables no plan takes less than <b>");
	html_ns(out, f->log->least);
	buf_puts(out, "</b>, and the one chosen is within <b>");
	html_percent(out, f->log->gap);
	buf_puts(out, "</b> of that.</p>\n");
	finalists(f, out);
	clouds(f, out);
	branches(f, out);
	buf_puts(out, "</section>\n");
}

/* ---- where the costs come from ---- */

static void
provenance(const Facts *f, const Name *line, uint32_t n, Buf *out)
{
	for (uint32_t i = 0; i < n; i++) {
		buf_puts(out, "<li>");
		html_text(out, name_str(f->c->names, line[i]));
		buf_puts(out, "</li>\n");
	}
}

static void
efficiencies(const Facts *f, Buf *out)
{
	buf_puts(out, "<details><summary>Efficiency constants</summary>\n<div "
		      "class=scroll><table>\n<thead><tr><th class=l>constant</th>");
	for (uint32_t k = 0; k < f->cluster->ndevice; k++) {
		buf_puts(out, "<th>");
		html_text(out, f->cluster->device[k].name
				   ? name_str(f->c->names, f->cluster->device[k].name)
				   : "this machine");
		buf_puts(out, "</th>");
	}
	buf_puts(out, "<th class=l>meaning</th></tr></thead>\n<tbody>\n");
	for (int e = 0; e < EF_COUNT; e++) {
		buf_printf(out, "<tr><td class=l>%s</td>", hw_eff[e].name);
		for (uint32_t k = 0; k < f->cluster->ndevice; k++) {
			cell(out, "");
			buf_double(out, f->cluster->device[k].eff[e]);
			buf_puts(out, "</td>");
		}
		buf_puts(out, "<td class=\"l wrap\">");
		html_text(out, hw_eff[e].doc);
		buf_puts(out, "</td></tr>\n");
	}
	buf_puts(out, "</tbody></table></div></details>\n");
}

void
report_sources(const Facts *f, Buf *out)
{
	const Cluster *c = f->cluster;
	const PriceSources s = price_sources(f->price);
	html_section(out, "sources", "Where the costs come from", "");
	buf_puts(out, "<ul class=plain>\n<li>Machine: ");
	if (c->guessed) {
		buf_puts(out,
			 "a documented roofline of the machine at hand, <b>not measured</b>");
	} else {
		buf_puts(out, "<b>");
		html_text(out, name_str(f->c->names, c->file));
		buf_printf(out, "</b>, with %" PRIu32 " measured curve%s of collectives",
			   c->ncurve, c->ncurve == 1 ? "" : "s");
	}
	buf_puts(out, "</li>\n");
	provenance(f, c->provenance, c->nprovenance, out);
	buf_puts(out, "<li>Kernels: ");
	buf_count(out, (int64_t)s.exact);
	buf_puts(out, " at a measured point, ");
	buf_count(out, (int64_t)s.between);
	buf_puts(out, " between measured points, ");
	buf_count(out, (int64_t)s.roofline);
	buf_puts(out, " by roofline</li>\n");
	if (f->c->profile) {
		buf_puts(out, "<li>Profile: <b>");
		html_text(out, name_str(f->c->names, f->c->profile->file));
		buf_puts(out, "</b></li>\n");
		provenance(f, f->c->profile->provenance, f->c->profile->nprovenance, out);
	}
	buf_puts(out, "</ul>\n");
	efficiencies(f, out);
	buf_puts(out, "</section>\n");
}
