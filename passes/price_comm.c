/*
 * price_comm.c - what collectives and messages take.
 *
 * A measured curve of the very group (kind, devices, ranks, nodes, stride) counts. Where only another kind was measured on
 * it, that: all_gather and reduce_scatter take half of an all_reduce, which takes both. Else a curve of a group that lies
 * alike (inside a node, or as many members a node) with another number of ranks, at the same bus bandwidth: bytes past
 * every link, 2 (n - 1) / n of an all_reduce's and (n - 1) / n of the others'. Else the links: a ring, two trees, or layers
 * (inside the nodes, then across them, one member of each node with its likes, then inside again), whichever is least.
 *
 * A curve is straight between its points; beyond the last it goes on as between the last two; below the first it goes
 * down to the latency the links have, at no bytes. Curves were measured with a node's network to themselves: groups
 * beside each other share it, and what is not latency takes as many times as long.
 *
 * Ranks of one host share a window of memory: an all_reduce is three passes over it at the window's speed (add up a part of
 * all buffers, write it, read the others'), the rest two.
 */
#include <math.h>

#include "passes/price_parts.h"

/* Of a group: ns before a step, bytes/s of a member (near) and of all its members on a node together (far). */
typedef struct Lines {
	double near_ns, near, far_ns, far;
	double n, nodes, per; /* members; nodes; members of a node */
	double share;         /* how many times what a node's network gives it is wanted */
} Lines;

static double
or_else(double bytes, double other)
{
	return bytes > 0 ? bytes : other > 0 ? other : 1;
}

static Lines
lines_of(const Price *p, const Shape *s)
{
	const Device *d = &p->cluster->device[s->device];
	const NodeRun *r = &p->cluster->run[s->run];
	double rails = r->rails, per = ceil((double)s->ranks / s->nodes);
	double lanes = per < rails ? per : rails, wanted = lanes * s->beside;
	double near = or_else(r->near.bytes, r->far.bytes), far = or_else(r->far.bytes, near);
	Lines l = {.near_ns = r->near.ns,
		   .near = near * d->eff[EF_near],
		   .far_ns = r->far.ns,
		   .far = far * d->eff[EF_far] / rails * lanes,
		   .n = s->ranks,
		   .nodes = s->nodes,
		   .per = per,
		   .share = wanted > rails ? wanted / rails : 1};
	l.far /= l.share;
	return l;
}

/* ---- over links ---- */

/* The slower of what a ring or tree of all members goes along: a member's own line, its node's. */
static double
slowest(const Lines *l)
{
	if (l->nodes == 1) return l->near;
	return l->far < l->near || l->per == 1 ? l->far : l->near;
}

/* A ring sends (n - 1) / n of the bytes past every link, `passes` times. */
static double
ring(const Lines *l, double passes, double bytes)
{
	double part = (l->n - 1) / l->n * bytes, far = l->nodes > 1 ? l->nodes : 0;
	double ns = (far * l->far_ns + (l->n - far) * l->near_ns) / l->n;
	return passes * ((l->n - 1) * ns + part / slowest(l) * 1e9);
}

/* Two trees, each with half of the bytes: up and down. */
static double
tree(const Lines *l, double bytes)
{
	double steps = ceil(log2(l->per)) * l->near_ns + ceil(log2(l->nodes)) * l->far_ns;
	return 2 * steps + 2 * bytes / slowest(l) * 1e9;
}

/* Everybody sends everybody else a part. */
static double
to_all(const Lines *l, double bytes)
{
	double away = (l->n - l->per) / l->n, here = (l->per - 1) / l->n;
	double near = (l->per - 1) * l->near_ns + here * bytes / l->near * 1e9;
	double far = (l->n - l->per) * l->far_ns + away * bytes * l->per / l->far * 1e9;
	return l->nodes > 1 && far > near ? far : near;
}

static double
window(const Lines *l, PrimKind kind, double bytes)
{
	double passes = kind == PR_all_reduce ? 3 : 2;
	return passes * bytes / l->near * 1e9 + 2 * l->near_ns;
}

static double collective(const Price *p, PrimKind kind, double bytes, const Shape *s);

static double
layers(const Price *p, PrimKind kind, double bytes, const Shape *s)
{
	uint32_t per = (s->ranks + s->nodes - 1) / s->nodes;
	Shape in = *s, across = *s;
	in.ranks = per;
	in.nodes = in.beside = 1;
	across.ranks = s->nodes;
	across.stride = 1;
	across.beside = s->beside * per;
	double ns = collective(p, kind, bytes / per, &across);
	if (kind != PR_all_reduce) return ns + collective(p, kind, bytes, &in);
	return ns + collective(p, PR_reduce_scatter, bytes, &in) +
	       collective(p, PR_all_gather, bytes, &in);
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
	if (l.nodes > 1 && l.per > 1) best = fmin(best, layers(p, kind, bytes, s));
	return best;
}

/* ---- along curves ---- */

static double
along(const CollCurve *v, double bytes, double latency)
{
	uint32_t i = 0, last = v->n - 1;
	double b0 = (double)v->bytes[0], t0 = (double)v->ns[0];
	if (bytes <= b0) {
		double from = latency < t0 ? latency : t0;
		return from + (t0 - from) * bytes / b0;
	}
	while (i < last && (double)v->bytes[i + 1] < bytes)
		i++;
	if (i == last && i) i--;
	b0 = (double)v->bytes[i];
	t0 = (double)v->ns[i];
	if (!last) return t0 * bytes / b0;
	double b1 = (double)v->bytes[i + 1], t1 = (double)v->ns[i + 1];
	if (bytes > b1 && t1 <= t0) return t1 * bytes / b1; /* noise at the end: bandwidth */
	return t0 + (t1 - t0) * (bytes - b0) / (b1 - b0);
}

/* Bytes past every link, of one byte. */
static double
traffic(PrimKind kind, double n)
{
	return (kind == PR_all_reduce ? 2 : 1) * (n - 1) / n;
}

/* The curve of a group that lies like it, of the number of ranks that is nearest, the stride that is; NULL. */
static const CollCurve *
nearest(const Price *p, PrimKind kind, const Shape *s, bool exact)
{
	const Cluster *c = p->cluster;
	const CollCurve *best = NULL;
	double least = 0;
	for (uint32_t i = 0; i < c->ncurve; i++) {
		const CollCurve *v = &c->curve[i];
		bool alike = v->nodes == 1 ? s->nodes == 1
					   : s->nodes > 1 && (uint64_t)v->ranks * s->nodes ==
								 (uint64_t)s->ranks * v->nodes;
		if (v->kind != kind || v->device != s->device || !alike) continue;
		if (exact && (v->ranks != s->ranks || v->nodes != s->nodes)) continue;
		double far = fabs(log2((double)v->ranks / s->ranks)) * 64 +
			     fabs(log2((double)v->stride / s->stride));
		if (!best || far < least) best = v, least = far;
	}
	return best;
}

/* On that curve; below 0: there is none. */
static double
measured(const Price *p, PrimKind kind, double bytes, const Shape *s, bool exact)
{
	const CollCurve *v = nearest(p, kind, s, exact);
	if (!v) return -1;
	double mine = over_links(p, kind, 0, s), ns;
	if (v->ranks == s->ranks) {
		ns = along(v, bytes, mine);
	} else {
		Shape was = *s;
		was.ranks = v->ranks;
		was.nodes = v->nodes;
		double its = over_links(p, kind, 0, &was);
		double part = traffic(kind, s->ranks) / traffic(kind, v->ranks);
		ns = along(v, bytes * part, its) + mine - its;
	}
	double latency = mine < ns ? mine : ns;
	return latency + (ns - latency) * lines_of(p, s).share;
}

/* Of that kind, or of what it is made of; below 0: no curve. */
static double
by_curve(const Price *p, PrimKind kind, double bytes, const Shape *s, bool exact)
{
	double ns = measured(p, kind, bytes, s, exact), other;
	if (ns >= 0 || kind == PR_all_to_all) return ns;
	if (kind != PR_all_reduce) {
		ns = measured(p, PR_all_reduce, bytes, s, exact) / 2;
		if (ns >= 0) return ns;
		return measured(p, kind == PR_all_gather ? PR_reduce_scatter : PR_all_gather,
				bytes, s, exact);
	}
	ns = measured(p, PR_reduce_scatter, bytes, s, exact);
	other = measured(p, PR_all_gather, bytes, s, exact);
	if (ns < 0 && other < 0) return -1;
	return (ns < 0 ? other : ns) + (other < 0 ? ns : other);
}

static double
collective(const Price *p, PrimKind kind, double bytes, const Shape *s)
{
	if (s->ranks < 2) return 0;
	double ns = by_curve(p, kind, bytes, s, true);
	if (ns < 0) ns = by_curve(p, kind, bytes, s, false);
	return ns < 0 ? over_links(p, kind, bytes, s) : ns;
}

int64_t
price_collective(const Price *p, PrimKind kind, int64_t bytes, const Shape *s)
{
	if (s->ranks < 2 || bytes <= 0) return 0;
	return price_round(collective(p, kind, (double)bytes, s) /
			   p->cluster->device[s->device].eff[EF_collective]);
}

/* ---- messages ---- */

int64_t
price_message(const Price *p, int64_t bytes, uint32_t from, uint32_t to, uint32_t beside)
{
	const Cluster *c = p->cluster;
	uint32_t x, y, rx, ry;
	bool same = price_node(p, from, &x, &rx) == price_node(p, to, &y, &ry);
	const NodeRun *r = &c->run[rx], *q = &c->run[ry];
	if (from == to || bytes <= 0) return 0;
	if (q->far.bytes / q->rails < r->far.bytes / r->rails) r = q;
	Shape s = {.ranks = 2,
		   .nodes = same ? 1 : 2,
		   .stride = same ? (x > y ? x - y : y - x) : 1,
		   .beside = same || !beside ? 1 : beside,
		   .device = r->device,
		   .run = (uint32_t)(r - c->run)};
	if (!s.stride) s.stride = 1; /* past the last device */
	Lines l = lines_of(p, &s);
	double latency = same ? l.near_ns : l.far_ns;
	const CollCurve *v = nearest(p, PR_exchange, &s, true);
	if (v) {
		double ns = along(v, (double)bytes, latency);
		if (latency > ns) latency = ns;
		return price_round(latency + (ns - latency) * l.share);
	}
	double passes = same && c->device[s.device].target == TG_host ? 2 : 1;
	return price_round(latency + passes * (double)bytes / (same ? l.near : l.far) * 1e9);
}
