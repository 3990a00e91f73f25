/*
 * search_space.c - what there is to choose from above the layers: orders of the cluster's nodes, divisions of the devices into
 * stages.
 *
 * An order puts runs of equal nodes one after the other in another sequence: all sequences of up to four runs, else the
 * file's, fastest first, slowest first. A division gives every stage devices side by side: as many each; with a few devices
 * all ways to divide them; with several runs also every run by itself into stages as alike as can be. What a stage costs
 * depends on its SPOT only; stages on equal spots share what is known.
 */
#include <string.h>

#include "passes/search.h"

enum {
	ALL_WAYS = 10,  /* devices up to which every division is tried */
	ALMOST = 64,    /* ... divisions into stages that differ by one device */
	MAX_RUNS = 4,   /* runs of nodes of which all orders are tried */
	MOST = 1 << 14, /* divisions of one order into runs of stages */
};

/* ---- orders ---- */

static void
add_order(Search *s, const uint32_t *run, uint32_t nruns)
{
	const Cluster *c = s->cluster;
	Order o = {.cluster = c};
	uint32_t *nodes = NEW_N(s->a, uint32_t, c->nodes), n = 0;
	bool same = true;
	for (uint32_t i = 0; i < nruns; i++) {
		uint32_t first = 0;
		same &= run[i] == i;
		for (uint32_t r = 0; r < run[i]; r++)
			first += c->run[r].nodes;
		for (uint32_t k = 0; k < c->run[run[i]].nodes; k++)
			nodes[n++] = first + k;
	}
	if (!same) {
		o.nodes = nodes;
		o.nnodes = n;
		o.cluster = cluster_order(c, s->a, nodes, n);
	}
	o.price = price_new(s->a, o.cluster, s->c->profile, s->ranks, s->c->threads);
	PUSH(s->a, s->order, s->norders, s->corders, o);
}

/* FLOP/s at its best, of any dtype: no product is faster. */
static double
peak(const Device *d)
{
	double most = 0;
	for (int k = 0; k < DT_COUNT; k++)
		if (d->flops[k] > most) most = d->flops[k];
	return most;
}

static void
permute(Search *s, uint32_t *run, uint32_t n, uint32_t at)
{
	if (at == n) {
		add_order(s, run, n);
		return;
	}
	for (uint32_t i = at; i < n;
	     i++) { /* rotations, so that the file's order is the first */
		uint32_t x = run[i];
		memmove(run + at + 1, run + at, sizeof *run * (i - at));
		run[at] = x;
		permute(s, run, n, at + 1);
		memmove(run + at, run + at + 1, sizeof *run * (i - at));
		run[i] = x;
	}
}

static void
by_speed(const Cluster *c, uint32_t *run, bool rising)
{
	for (uint32_t i = 1; i < c->nrun; i++)
		for (uint32_t j = i; j; j--) {
			double a = peak(&c->device[c->run[run[j - 1]].device]),
			       b = peak(&c->device[c->run[run[j]].device]);
			if (rising ? a <= b : a >= b) break;
			uint32_t x = run[j];
			run[j] = run[j - 1];
			run[j - 1] = x;
		}
}

static void
find_orders(Search *s)
{
	const Cluster *c = s->cluster;
	uint32_t *run = NEW_N(s->a, uint32_t, c->nrun);
	for (uint32_t i = 0; i < c->nrun; i++)
		run[i] = i;
	if (c->nrun <= MAX_RUNS) {
		permute(s, run, c->nrun, 0);
		return;
	}
	add_order(s, run, c->nrun);
	for (int rising = 0; rising < 2; rising++) {
		by_speed(c, run, rising);
		add_order(s, run, c->nrun);
	}
}

/* ---- spots ---- */

/* The device, or one like the last: plans for more ranks than there are devices are refused before. */
static uint32_t
device_at(const Cluster *c, uint32_t i)
{
	return i < c->devices ? i : c->devices - 1;
}

static void
add_device(const Search *s, const Order *o, Spot *x, uint32_t kind)
{
	const Device *d = &o->cluster->device[kind];
	int64_t memory = s->memory > 0 ? s->memory : d->memory;
	memory = memory == INT64_MAX ? memory : memory - d->reserved - d->comm_bytes;
	if (!x->ranks || memory < x->memory) {
		x->memory = memory;
		x->device = kind;
	}
	x->kinds |= 1u << kind;
}

static Spot
look_at(const Search *s, uint32_t order, uint32_t first, uint32_t ranks, uint32_t before,
	bool last)
{
	const Order *o = &s->order[order];
	Spot x = {.order = order, .first = first, .before = before, .last = last};
	for (uint32_t at = first, end = first + ranks; at < end;) {
		uint32_t in, run;
		cluster_node(o->cluster, device_at(o->cluster, at), &in, &run);
		uint32_t n = o->cluster->run[run].devices - in;
		if (n > end - at) n = end - at;
		if (at == first) x.near = before && in > 0;
		add_device(s, o, &x, o->cluster->run[run].device);
		x.ranks += n;
		at += n;
		struct Seg *prev = x.nsegs && x.nsegs <= MAX_SEGS ? &x.seg[x.nsegs - 1] : NULL;
		if (prev && prev->run == run && prev->devices == n)
			prev->nodes++;
		else if (x.nsegs < MAX_SEGS)
			x.seg[x.nsegs++] = (struct Seg){run, n, 1};
		else
			x.nsegs = MAX_SEGS + 1;
	}
	x.alone = last && !before;
	return x;
}

/* The same devices, or some like them: what runs there takes as long. */
static bool
same_place(const Spot *a, const Spot *b)
{
	if (a->order != b->order || a->ranks != b->ranks || a->nsegs != b->nsegs) return false;
	if (a->nsegs > MAX_SEGS) return a->first == b->first;
	return memcmp(a->seg, b->seg, sizeof *a->seg * a->nsegs) == 0;
}

static uint32_t
find_spot(Search *s, Spot x)
{
	x.place = s->nspots;
	for (uint32_t i = s->nspots; i-- > 0;) {
		const Spot *y = &s->spot[i];
		if (!same_place(y, &x)) continue;
		x.place = y->place;
		if (x.before == y->before && x.near == y->near && x.last == y->last) return i;
	}
	PUSH(s->a, s->spot, s->nspots, s->cspots, x);
	return s->nspots - 1;
}

/* ---- divisions ---- */

static bool
has_division(const Search *s, uint32_t order, const uint32_t *ranks, uint32_t n)
{
	for (uint32_t i = s->ndivisions; i-- > 0 && s->division[i].order == order;)
		if (s->division[i].stages == n &&
		    memcmp(s->division[i].ranks, ranks, sizeof *ranks * n) == 0)
			return true;
	return false;
}

static void
add_division(Search *s, uint32_t order, const uint32_t *ranks, uint32_t n)
{
	uint32_t *spot = NEW_N(s->a, uint32_t, n), first = 0;
	for (uint32_t k = 0; k < n; first += ranks[k++])
		spot[k] = find_spot(
		    s, look_at(s, order, first, ranks[k], k ? ranks[k - 1] : 0, k + 1 == n));
	Division d = {order, n, arena_dup(s->a, ranks, sizeof *ranks * n), spot};
	PUSH(s->a, s->division, s->ndivisions, s->cdivisions, d);
}

/* n devices in k parts that differ by one at most, the larger ones first, or last. */
static void
alike(uint32_t *ranks, uint32_t n, uint32_t k, bool larger_last)
{
	for (uint32_t i = 0; i < k; i++) {
		uint32_t place = larger_last ? k - 1 - i : i;
		ranks[i] = n / k + (place < n % k);
	}
}

static uint32_t
most_stages(const Search *s, uint32_t n)
{
	return n < s->m->ninsts ? n : s->m->ninsts;
}

static bool
wanted(const Search *s, uint32_t stages)
{
	return !s->c->stages || stages == s->c->stages;
}

/* Every composition of the devices, those with fewer stages first. */
static void
all_ways(Search *s, uint32_t order, uint32_t *ranks, uint32_t k, uint32_t at, uint32_t left)
{
	if (at + 1 == k) {
		ranks[at] = left;
		if (!has_division(s, order, ranks, k)) add_division(s, order, ranks, k);
		return;
	}
	for (uint32_t n = 1; n + (k - 1 - at) <= left; n++) {
		ranks[at] = n;
		all_ways(s, order, ranks, k, at + 1, left - n);
	}
}

/* Every run of nodes by itself in some number of stages; `at`: stages so far. */
static void
by_runs(Search *s, uint32_t order, uint32_t *ranks, uint32_t run, uint32_t left, uint32_t at,
	uint32_t from)
{
	const Cluster *c = s->order[order].cluster;
	uint32_t n = c->run[run].nodes * c->run[run].devices;
	if (n > left) n = left;
	for (uint32_t k = 1; k <= n && at + k <= s->m->ninsts; k++) {
		if (n % k && n > ALMOST) continue;
		if (s->ndivisions - from >= MOST) return;
		alike(ranks + at, n, k, false);
		if (n < left)
			by_runs(s, order, ranks, run + 1, left - n, at + k, from);
		else if (wanted(s, at + k) && !has_division(s, order, ranks, at + k))
			add_division(s, order, ranks, at + k);
	}
}

static void
divide(Search *s, uint32_t order)
{
	uint32_t n = s->ranks, from = s->ndivisions, most = most_stages(s, n);
	uint32_t *ranks = NEW_N(s->a, uint32_t, s->m->ninsts + 1);
	for (uint32_t k = 1; k <= most; k++) {
		if (!wanted(s, k)) continue;
		for (int last = 0; last <= (n % k != 0); last++) {
			if (n % k && n > ALMOST) break;
			alike(ranks, n, k, last);
			add_division(s, order, ranks, k);
		}
		if (n <= ALL_WAYS) all_ways(s, order, ranks, k, 0, n);
	}
	if (s->order[order].cluster->nrun > 1) by_runs(s, order, ranks, 0, n, 0, from);
}

/* A spot of one device of every kind, to see what the whole model takes there. */
static void
find_probes(Search *s)
{
	const Cluster *c = s->order[0].cluster;
	s->probe = NEW_N(s->a, uint32_t, c->ndevice);
	for (uint32_t k = 0; k < c->ndevice; k++) {
		uint32_t first = 0, r = 0;
		for (; r < c->nrun && c->run[r].device != k; r++)
			first += c->run[r].nodes * c->run[r].devices;
		s->probe[k] =
		    r < c->nrun ? find_spot(s, look_at(s, 0, first, 1, 0, true)) : UINT32_MAX;
	}
}

void
search_space(Search *s)
{
	find_orders(s);
	find_probes(s);
	for (uint32_t i = 0; i < s->norders; i++)
		divide(s, i);
}

/* Microbatches in flight in stage k. */
uint32_t
search_slots(Schedule schedule, uint32_t stages, uint32_t k, uint32_t microbatches)
{
	uint32_t slots = schedule == SCH_gpipe ? microbatches : stages - k;
	return slots < microbatches ? slots : microbatches;
}
