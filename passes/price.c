/*
 * price.c - what a lowered program takes: whose machine it is, bodies, primitives.
 */
#include "passes/price_parts.h"

/* Is a device as fast as another one? Equal inputs give equal numbers. */
static bool
as_fast(const Device *a, const Device *b)
{
	for (int k = 0; k < DT_COUNT; k++)
		if (a->flops[k] != b->flops[k]) return false;
	return a->bytes == b->bytes && a->loops == b->loops;
}

/* What the profile's device was when it was measured. */
static void
set_then(Price *p, const Cluster *given)
{
	const Profile *f = p->profile;
	const Cluster *c = given ? price_share(p->a, given, f->ranks, f->threads)
				 : price_host(p->a, f->ranks, f->threads);
	uint32_t kind = 0;
	while (kind + 1 < c->ndevice && f->device && c->device[kind].name != f->device)
		kind++;
	p->then = c->device[kind];
	p->as_then = as_fast(&p->then, &p->cluster->device[kind]);
}

Price *
price_new(Arena *a, const Cluster *cluster, const Profile *profile, uint32_t ranks,
	  uint32_t threads)
{
	Price *p = NEW(a, Price);
	p->a = a;
	p->cluster =
	    cluster ? price_share(a, cluster, ranks, threads) : price_host(a, ranks, threads);
	p->profile = profile;
	price_shapes_new(p);
	if (profile) set_then(p, cluster);
	return p;
}

const Cluster *
price_cluster(const Price *p)
{
	return p->cluster;
}

PriceSources
price_sources(const Price *p)
{
	return p->sources;
}

/* ---- bodies ---- */

static uint32_t
mesh_ranks(const Mesh *mesh)
{
	return ir_degree(mesh, ~0u);
}

int64_t
price_kernel(Price *p, const Module *m, const Body *b, uint32_t first, uint32_t *end,
	     uint32_t device)
{
	int64_t most = 0;
	uint32_t kinds = price_kinds(p, device, mesh_ranks(ir_mesh(m, b)));
	for (uint32_t k = 0; kinds >> k; k++) {
		int64_t t = kinds >> k & 1 ? price_kernel_on(p, m, b, first, end, k) : 0;
		if (t > most) most = t;
	}
	return most;
}

static int64_t
op_comm(const Price *p, const Module *m, const Body *b, const Op *op, uint32_t device)
{
	static const PrimKind kind[OP_COUNT] = {[OP_all_gather] = PR_all_gather,
						[OP_reduce_scatter] = PR_reduce_scatter,
						[OP_all_to_all] = PR_all_to_all};
	const Mesh *mesh = ir_mesh(m, b);
	const Attr *over = attr_find(op, AK_over);
	if (!mesh || !over || !(op_info[op->code].flags & OF_COMM)) return 0;
	Shape s = price_shape(p, mesh, (unsigned)over->i, device);
	int64_t bytes = type_bytes(m, mesh, val_type(b, op->in[0]));
	if (op->code == OP_all_gather) bytes *= s.ranks;
	return price_collective(p, kind[op->code], bytes, &s);
}

/* An update's kernels run over all parameters at once: those of one operation are one launch. */
static bool
same_launch(const Body *b, uint32_t i)
{
	if (b->kind != BK_N && b->kind != BK_U) return false;
	for (uint32_t j = 0; j < i; j++)
		if (b->ops[j].code == b->ops[i].code) return true;
	return false;
}

/* The host issues kernels and collectives ahead of the device: a body takes the longer of all launches and all that is launched. */
BodyPrice
price_body_on(Price *p, const Module *m, const Body *b, uint32_t device, uint32_t kind)
{
	const Device *d = &p->cluster->device[kind];
	BodyPrice sum = {0};
	uint32_t launches = 0;
	double whole = price_layer(p, m, b, kind); /* launches and all */
	for (uint32_t i = 0, end; i < b->nops; i = end) {
		int64_t comm = op_comm(p, m, b, &b->ops[i], device), compute = 0;
		end = i + 1;
		if (whole < 0 && !(op_info[b->ops[i].code].flags & OF_COMM))
			compute = price_kernel_on(p, m, b, i, &end, kind);
		launches += (compute > 0 || comm > 0) && !same_launch(b, i);
		sum.compute += compute;
		sum.comm += comm;
	}
	if (whole >= 0) return (BodyPrice){price_round(whole), sum.comm};
	int64_t idle = price_round(launches * d->launch) - sum.compute - sum.comm;
	if (idle > 0) sum.compute += idle;
	return sum;
}

BodyPrice
price_body(Price *p, const Module *m, const Body *b, uint32_t device)
{
	BodyPrice most = {0};
	uint32_t kinds = price_kinds(p, device, mesh_ranks(ir_mesh(m, b)));
	for (uint32_t k = 0; kinds >> k; k++) {
		if (!(kinds >> k & 1)) continue;
		BodyPrice x = price_body_on(p, m, b, device, k);
		if (x.compute + x.comm > most.compute + most.comm) most = x;
	}
	return most;
}

/* ---- primitives ---- */

int64_t
price_prim(Price *p, const Module *m, const CommTable *t, uint32_t stage, const Prim *prim)
{
	if (prim->kind == PR_exchange) return price_exchange(p, m, prim);
	const Stage *st = &m->plan.stages[stage];
	CommGroup world = {.n = m->plan.ranks > 1, .d = {{1, m->plan.ranks}}};
	if (prim->comm < 0) return 0;
	Shape s = prim->comm == 0
		      ? price_group(p, &world, 0, m->plan.ranks)
		      : price_group(p, &t->group[(uint32_t)prim->comm * t->nstages + stage],
				    st->rank, st->ranks);
	int64_t bytes = prim->count * dtype_bytes(prim->dt);
	if (prim->kind == PR_all_gather) bytes *= s.ranks;
	return price_collective(p, prim->kind, bytes, &s);
}
