/*
 * price_comm.c - groups of ranks as they lie on the machine, and what collectives and messages take there.
 */
#include <math.h>
#include <string.h>

#include "passes/price_parts.h"

/* ---- where a group lies ---- */

/* Fewer floating-point operations a second, at its best; of equals the first. */
static bool
slower(const Device *a, const Device *b)
{
	double x = 0, y = 0;
	for (int k = 0; k < DT_COUNT; k++) {
		if (a->flops[k] > x) x = a->flops[k];
		if (b->flops[k] > y) y = b->flops[k];
	}
	return x < y || (x == y && a->bytes < b->bytes);
}

uint32_t
price_kinds(const Price *p, uint32_t first, uint32_t n)
{
	uint32_t bits = 0, at = 0;
	for (uint32_t r = 0; r < p->cluster->nrun; r++) {
		const NodeRun *x = &p->cluster->run[r];
		uint32_t end = at + x->nodes * x->devices;
		if (first < end && first + n > at) bits |= 1u << x->device;
		at = end;
	}
	return bits;
}

/* A device past the last one is on a node like the last: plans for more ranks than there are have been refused before. */
static uint32_t
node_of(const Price *p, uint32_t device, uint32_t *in_node, uint32_t *run)
{
	uint32_t last = p->cluster->devices - 1;
	return cluster_node(p->cluster, device < last ? device : last, in_node, run);
}

/* One group: the members from `base` on. */
static Shape
shape_at(const Price *p, const CommGroup *g, uint32_t base)
{
	const Cluster *c = p->cluster;
	uint32_t n = 1, at[MAX_MESH] = {0}, before = UINT32_MAX, last = 0;
	Shape s = {.ranks = 1, .stride = 1, .beside = 1};
	for (int i = 0; i < g->n; i++)
		n *= g->d[i].degree;
	s.ranks = n;
	for (uint32_t k = 0; k < n; k++) {
		uint32_t device = base, run, in_node, node;
		for (int i = 0; i < g->n; i++)
			device += at[i] * g->d[i].stride;
		for (int i = g->n - 1; i >= 0 && ++at[i] == g->d[i].degree; i--)
			at[i] = 0;
		node = node_of(p, device, &in_node, &run);
		const NodeRun *r = &c->run[run], *was = &c->run[s.run];
		if (node != before) s.nodes++;
		if (node == before && s.stride == 1 && in_node > last + 1)
			s.stride = in_node - last;
		if (!k || slower(&c->device[r->device], &c->device[s.device]))
			s.device = r->device;
		if (!k || r->far.bytes < was->far.bytes ||
		    (r->far.bytes == was->far.bytes && r->near.bytes < was->near.bytes))
			s.run = run;
		before = node;
		last = in_node;
	}
	return s;
}

/* The more nodes, the worse. */
static bool
worse(const Shape *a, const Shape *b)
{
	if (a->nodes != b->nodes) return a->nodes > b->nodes;
	if (a->device != b->device) return a->device > b->device;
	return a->stride > b->stride;
}

Shape
price_group(const Price *p, const CommGroup *g, uint32_t first, uint32_t size)
{
	Shape worst = {.ranks = 1, .nodes = 1, .stride = 1, .beside = 1};
	uint32_t n = 1;
	bool any = false;
	for (int i = 0; i < g->n; i++)
		n *= g->d[i].degree;
	for (uint32_t base = 0; base < size; base++) {
		bool begins = true;
		for (int i = 0; i < g->n; i++)
			if (base / g->d[i].stride % g->d[i].degree) begins = false;
		if (!begins) continue;
		Shape s = shape_at(p, g, first + base);
		if (!any || worse(&s, &worst)) worst = s;
		any = true;
	}
	if (worst.nodes > 1) {
		const NodeRun *r = &p->cluster->run[worst.run];
		uint32_t per = (worst.ranks + worst.nodes - 1) / worst.nodes;
		uint32_t here = size < r->devices ? size : r->devices;
		worst.beside = here / per > 1 ? here / per : 1;
	}
	return worst;
}

Shape
price_shape(const Price *p, const Mesh *mesh, unsigned over, uint32_t first)
{
	CommGroup g = {0};
	uint32_t size = 1;
	for (int k = 1; k < mesh->n; k++)
		size *= mesh->ax[k].degree;
	for (uint32_t k = 1, stride = size; k < mesh->n; k++) {
		stride /= mesh->ax[k].degree;
		if (over >> k & 1 && mesh->ax[k].degree > 1)
			g.d[g.n++] = (Digit){stride, mesh->ax[k].degree};
	}
	return price_group(p, &g, first, size);
}

/* ---- collectives over links ---- */

/* Of a group: ns before a step, bytes/s of a member (near) and of all its members on a node together (far). */
typedef struct Lines {
	double near_ns, near, far_ns, far;
	double n, nodes, per; /* members; nodes; members of a node */
} Lines;

static Lines
lines_of(const Price *p, const Shape *s)
{
	const Device *d = &p->cluster->device[s->device];
	const NodeRun *r = &p->cluster->run[s->run];
	double rails = r->rails, per = ceil((double)s->ranks / s->nodes);
	double lanes = per < rails ? per : rails, wanted = lanes * s->beside;
	Lines l = {.near_ns = r->near.ns,
		   .near = r->near.bytes * d->eff[EF_near],
		   .far_ns = r->far.ns,
		   .far = r->far.bytes * d->eff[EF_far] / rails * lanes,
		   .n = s->ranks,
		   .nodes = s->nodes,
		   .per = per};
	if (wanted > rails) l.far *= rails / wanted;
	return l;
}

/* A ring sends (n - 1) / n of the bytes past every link, `passes` times. */
static double
ring(const Lines *l, double passes, double bytes)
{
	double part = (l->n - 1) / l->n * bytes, steps = passes * (l->n - 1);
	if (l->nodes == 1) return steps * l->near_ns + passes * part / l->near * 1e9;
	double slow = l->far < l->near || l->per == 1 ? l->far : l->near;
	double ns = (l->nodes * l->far_ns + (l->n - l->nodes) * l->near_ns) / l->n;
	return steps * ns + passes * part / slow * 1e9;
}

/* Two trees, each with half of the bytes: up and down. */
static double
tree(const Lines *l, double bytes)
{
	double slow = l->nodes > 1 && (l->far < l->near || l->per == 1) ? l->far : l->near;
	double steps = l->nodes > 1 ? ceil(log2(l->nodes)) * l->far_ns +
					  (l->per > 1 ? ceil(log2(l->per)) * l->near_ns : 0)
				    : ceil(log2(l->n)) * l->near_ns;
	return 2 * steps + 2 * bytes / slow * 1e9;
}

/* The node's own sum first, then every member its part across nodes, then back. */
static double
layered(const Lines *l, double bytes, bool sum)
{
	Lines in = *l, across = *l;
	in.n = l->per;
	in.nodes = 1;
	across.n = l->nodes;
	across.per = 1;
	across.far = l->far / l->per; /* its members side by side */
	double part = bytes / l->per;
	if (!sum) return ring(&in, 1, bytes) + ring(&across, 1, part);
	double up = ring(&across, 2, part), other = tree(&across, part);
	return 2 * ring(&in, 1, bytes) + (up < other ? up : other);
}

/* Everybody sends everybody else a part. */
static double
to_all(const Lines *l, double bytes)
{
	double away = (l->n - l->per) / l->n, here = (l->per - 1) / l->n;
	double near = (l->per - 1) * l->near_ns + here * bytes / l->near * 1e9;
	if (l->nodes == 1) return near;
	double far = (l->n - l->per) * l->far_ns + away * bytes * l->per / l->far * 1e9;
	return near > far ? near : far;
}

/* In a shared window each rank adds up its part of all buffers, then reads the other parts. */
static double
window(const Lines *l, PrimKind kind, double bytes)
{
	double passes = kind == PR_all_reduce ? 3 : 2;
	return passes * bytes / l->near * 1e9 + 2 * l->near_ns;
}

static double
over_links(const Price *p, PrimKind kind, double bytes, const Shape *s)
{
	Lines l = lines_of(p, s);
	if (s->nodes == 1 && p->cluster->device[s->device].target == TG_host)
		return window(&l, kind, bytes);
	if (kind == PR_all_to_all) return to_all(&l, bytes);
	double best = ring(&l, kind == PR_all_reduce ? 2 : 1, bytes);
	if (kind == PR_all_reduce) best = fmin(best, tree(&l, bytes));
	if (l.nodes > 1 && l.per > 1)
		best = fmin(best, layered(&l, bytes, kind == PR_all_reduce));
	return best;
}

int64_t
price_collective(const Price *p, PrimKind kind, int64_t bytes, const Shape *s)
{
	if (s->ranks < 2 || bytes <= 0) return 0;
	return price_round(over_links(p, kind, (double)bytes, s));
}

/* ---- messages ---- */

int64_t
price_message(const Price *p, int64_t bytes, uint32_t from, uint32_t to, uint32_t beside)
{
	uint32_t x, y, rx, ry;
	bool same = node_of(p, from, &x, &rx) == node_of(p, to, &y, &ry);
	const NodeRun *r = &p->cluster->run[rx], *q = &p->cluster->run[ry];
	const Device *d = &p->cluster->device[r->device];
	double b = (double)bytes;
	if (from == to || bytes <= 0) return 0;
	if (same && d->target == TG_host)
		return price_round(2 * b / (r->near.bytes * d->eff[EF_near]) * 1e9 +
				   r->near.ns);
	if (same) return price_round(b / (r->near.bytes * d->eff[EF_near]) * 1e9 + r->near.ns);
	if (q->far.bytes / q->rails < r->far.bytes / r->rails) r = q;
	double share = beside > r->rails ? (double)beside / r->rails : 1;
	double rail = r->far.bytes * d->eff[EF_far] / r->rails;
	return price_round(b * share / rail * 1e9 + r->far.ns);
}
