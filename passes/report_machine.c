/*
 * report_machine.c - the machine as the plan counts it: a box for each node, a cell for each device in the colour of its
 * stage. Nodes in a row that look alike are one box with a count, where there are many.
 */
#include <inttypes.h>
#include <string.h>

#include "passes/report.h"

enum {
	DRAWN = 32,
	BOXES = 96,
	ACROSS = 16
}; /* nodes drawn one by one; boxes at most; devices in a row */

typedef struct NodeAt {
	uint32_t node, first, run; /* number, its first device, its run */
} NodeAt;

/* nstages: no rank has it. */
static uint32_t
stage_of(const Plan *p, uint32_t device)
{
	uint32_t lo = 0, hi = p->nstages;
	while (lo < hi) {
		const uint32_t k = (lo + hi) / 2;
		if (device >= p->stages[k].rank + p->stages[k].ranks)
			lo = k + 1;
		else
			hi = k;
	}
	return lo;
}

static bool
alike(const Facts *f, const NodeAt *x, const NodeAt *y)
{
	if (x->run != y->run) return false;
	for (uint32_t i = 0; i < f->cluster->run[x->run].devices; i++)
		if (stage_of(&f->m->plan, x->first + i) != stage_of(&f->m->plan, y->first + i))
			return false;
	return true;
}

static void
cells(const Facts *f, const NodeAt *x, bool folded, Buf *out)
{
	const Plan *p = &f->m->plan;
	const uint32_t n = f->cluster->run[x->run].devices;
	const uint32_t across = n <= 4 ? n : n <= 8 ? (n + 1) / 2 : n <= 64 ? 8 : ACROSS;
	buf_printf(out, "<div class=devices style=\"--n:%" PRIu32 "\">", across);
	for (uint32_t i = 0; i < n; i++) {
		const uint32_t device = x->first + i, stage = stage_of(p, device);
		if (stage == p->nstages) {
			buf_puts(out, "<i class=idle title=\"no rank\"></i>");
			continue;
		}
		buf_printf(out, "<i class=s%" PRIu32 " title=\"", stage);
		if (!folded) buf_printf(out, "rank %" PRIu32 ", ", device);
		buf_printf(out, "stage %" PRIu32 "\">%" PRIu32 "</i>", stage, stage);
	}
	buf_puts(out, "</div>");
}

static void
box(const Facts *f, const NodeAt *x, uint32_t count, Buf *out)
{
	buf_printf(out, "<figure class=node><figcaption>node%s ", count > 1 ? "s" : "");
	html_range(out, x->node, count);
	if (count > 1) buf_printf(out, "<b>×%" PRIu32 "</b>", count);
	buf_puts(out, "</figcaption>");
	cells(f, x, count > 1, out);
	buf_puts(out, "</figure>\n");
}

/* Nodes are counted through: the first one whose devices have no rank. */
static uint32_t
used_nodes(const Facts *f)
{
	return cluster_node(f->cluster, f->m->plan.ranks - 1, NULL, NULL) + 1;
}

static void
boxes(const Facts *f, Buf *out)
{
	const Cluster *c = f->cluster;
	const uint32_t used = used_nodes(f);
	NodeAt begin = {0}, at = {0};
	uint32_t count = 0, drawn = 0;
	buf_puts(out, "<div class=nodes>\n");
	for (uint32_t r = 0; r < c->nrun; r++)
		for (uint32_t i = 0; i < c->run[r].nodes; i++) {
			const bool apart = used <= DRAWN && begin.node < used;
			at.run = r;
			if (count && (apart || !alike(f, &begin, &at))) {
				if (drawn++ < BOXES) box(f, &begin, count, out);
				count = 0;
			}
			if (!count++) begin = at;
			at.node++;
			at.first += c->run[r].devices;
		}
	if (count && drawn++ < BOXES) box(f, &begin, count, out);
	if (drawn > BOXES)
		buf_printf(out, "<p class=note>and %" PRIu32 " more like these</p>\n",
			   drawn - BOXES);
	buf_puts(out, "</div>\n");
}

static void
bandwidth(Buf *out, double bytes)
{
	if (bytes >= 1e12)
		buf_printf(out, "%.3g TB/s", bytes * 1e-12);
	else
		buf_printf(out, "%.3g GB/s", bytes * 1e-9);
}

/* "8 nodes of 8 × A100 80.00 GiB; 300 GB/s between devices, 25 GB/s a node" */
static void
machine_text(const Facts *f, Buf *out)
{
	const Cluster *c = f->cluster;
	const uint32_t used = used_nodes(f);
	for (uint32_t r = 0; r < c->nrun; r++) {
		const NodeRun *x = &c->run[r];
		buf_puts(out, "<p class=note>");
		html_plural(out, x->nodes, "node");
		buf_printf(out, " of %" PRIu32 " × <b>", x->devices);
		const char *name = c->device[x->device].name
				       ? name_str(f->c->names, c->device[x->device].name)
				       : "";
		html_text(out, *name ? name : "this machine's cores");
		buf_puts(out, "</b>, ");
		html_bytes(out, c->device[x->device].memory);
		if (x->devices > 1) {
			buf_puts(out, " each; ");
			bandwidth(out, x->near.bytes);
			buf_puts(out, " between devices");
		}
		if (c->nodes > 1 && x->far.bytes > 0) {
			buf_puts(out, "; ");
			bandwidth(out, x->far.bytes);
			buf_puts(out, " from a node to the others");
		}
		if (used < c->nodes && c->nrun == 1)
			buf_printf(out, "; the plan takes %" PRIu32 " of them", used);
		buf_puts(out, "</p>\n");
	}
}

static void
stage_list(const Facts *f, Buf *out)
{
	const Plan *p = &f->m->plan;
	const bool many = p->nstages > 16;
	if (many) {
		buf_puts(out, "<details><summary>");
		html_plural(out, p->nstages, "stage");
		buf_puts(out, "</summary>");
	}
	buf_puts(out, "<ul class=stages>\n");
	for (uint32_t k = 0; k < p->nstages; k++) {
		uint32_t lo = f->nlayers, n = 0;
		for (uint32_t l = 0; l < f->nlayers; l++)
			if (f->layer[l] >= p->stages[k].first &&
			    f->layer[l] - p->stages[k].first < p->stages[k].count) {
				if (!n++) lo = l;
			}
		buf_printf(out, "<li><i class=s%" PRIu32 ">%" PRIu32 "</i><span>layer%s ", k, k,
			   n == 1 ? "" : "s");
		html_range(out, lo, n);
		buf_printf(out, " on rank%s ", p->stages[k].ranks == 1 ? "" : "s");
		html_range(out, p->stages[k].rank, p->stages[k].ranks);
		buf_puts(out, "</span></li>\n");
	}
	buf_puts(out, many ? "</ul></details>\n" : "</ul>\n");
}

void
report_machine(const Facts *f, Buf *out)
{
	html_section(out, "machine", "Machine and stages", "");
	machine_text(f, out);
	boxes(f, out);
	stage_list(f, out);
	buf_puts(out, "</section>\n");
}
