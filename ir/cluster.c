/*
 * cluster.c - the machine a plan is for: counting through its devices, the order a plan gives its nodes.
 */
#include <inttypes.h>
#include <string.h>

#include "ir/cluster.h"

const struct EffInfo hw_eff[EF_COUNT] = {
#define EFF(name, value, part, doc) [EF_##name] = {#name, value, part, doc},
#include "ir/eff.def"
};

uint32_t
cluster_node(const Cluster *c, uint32_t device, uint32_t *in_node, uint32_t *run)
{
	uint32_t node = 0, at = device;
	for (uint32_t r = 0; r < c->nrun; r++) {
		const NodeRun *x = &c->run[r];
		if (at < x->nodes * x->devices) {
			if (in_node) *in_node = at % x->devices;
			if (run) *run = r;
			return node + at / x->devices;
		}
		at -= x->nodes * x->devices;
		node += x->nodes;
	}
	ICE("device %u of %u", device, c->devices);
}

const Device *
cluster_device(const Cluster *c, uint32_t device)
{
	uint32_t run;
	cluster_node(c, device, NULL, &run);
	return &c->device[c->run[run].device];
}

static bool
same_run(const NodeRun *a, const NodeRun *b)
{
	return a->device == b->device && a->devices == b->devices && a->rails == b->rails &&
	       a->near.ns == b->near.ns && a->near.bytes == b->near.bytes &&
	       a->far.ns == b->far.ns && a->far.bytes == b->far.bytes;
}

/* The run that node i is in. */
static const NodeRun *
run_of_node(const Cluster *c, uint32_t node)
{
	uint32_t r = 0;
	while (r < c->nrun && node >= c->run[r].nodes)
		node -= c->run[r++].nodes;
	ENSURE(r < c->nrun, "no such node");
	return &c->run[r];
}

/* requires: every node < c->nodes, none twice. Nodes that are not named are left out. */
Cluster *
cluster_order(const Cluster *c, Arena *a, const uint32_t *nodes, uint32_t n)
{
	Cluster *x = arena_dup(a, c, sizeof *c);
	uint32_t cap = 0;
	if (!n) return x;
	x->run = NULL;
	x->nrun = x->nodes = x->devices = 0;
	for (uint32_t i = 0; i < n; i++) {
		NodeRun r = *run_of_node(c, nodes[i]);
		r.nodes = 1;
		if (x->nrun && same_run(&x->run[x->nrun - 1], &r))
			x->run[x->nrun - 1].nodes++;
		else
			PUSH(a, x->run, x->nrun, cap, r);
		x->nodes++;
		x->devices += r.devices;
	}
	return x;
}

bool
cluster_has(const Cluster *c, const Plan *p, Buf *why)
{
	uint64_t devices = p->nnodes ? 0 : c->devices;
	for (uint32_t i = 0; i < p->nnodes; i++) {
		if (p->nodes[i] >= c->nodes) {
			buf_printf(why,
				   "node %" PRIu32 " is not in the cluster, whose nodes are 0 "
				   "to %" PRIu32,
				   p->nodes[i], c->nodes - 1);
			return false;
		}
		devices += run_of_node(c, p->nodes[i])->devices;
	}
	if (p->ranks <= devices) return true;
	buf_printf(why,
		   "this plan is for %" PRIu32 " ranks, the cluster%s %" PRIu64 " device%s",
		   p->ranks, p->nnodes ? "'s nodes it names have" : " has", devices,
		   devices == 1 ? "" : "s");
	return false;
}
