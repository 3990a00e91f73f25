/*
 * price.c - what a lowered program takes: whose machine it is, bodies, primitives.
 */
#include "passes/price_parts.h"

Price *
price_new(Arena *a, const Cluster *cluster, const Profile *profile, uint32_t ranks,
	  uint32_t threads)
{
	Price *p = NEW(a, Price);
	p->a = a;
	p->cluster = cluster ? cluster : price_host(a, ranks, threads);
	p->profile = profile;
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
	uint32_t n = 1;
	for (int k = 1; mesh && k < mesh->n; k++)
		n *= mesh->ax[k].degree;
	return n;
}

int64_t
price_kernel(Price *p, const Module *m, const Body *b, uint32_t first, uint32_t *end,
	     uint32_t device)
{
	int64_t most = 0;
	uint32_t kinds = price_kinds(p, device, mesh_ranks(ir_mesh(m, b)));
	for (uint32_t k = 0; k < p->cluster->ndevice; k++) {
		int64_t t = kinds >> k & 1 ? price_kernel_on(p, m, b, first, end, k) : 0;
		if (t > most) most = t;
	}
	return most;
}

static int64_t
op_comm(const Price *p, const Module *m, const Body *b, const Op *op, uint32_t device)
{
	const Mesh *mesh = ir_mesh(m, b);
	const Attr *over = attr_find(op, AK_over);
	if (!mesh || !over) return 0;
	static const PrimKind kind[OP_COUNT] = {[OP_all_gather] = PR_all_gather,
						[OP_reduce_scatter] = PR_reduce_scatter,
						[OP_all_to_all] = PR_all_to_all};
	Shape s = price_shape(p, mesh, (unsigned)over->i, device);
	int64_t bytes = type_bytes(m, mesh, val_type(b, op->in[0]));
	if (op->code == OP_all_gather) bytes *= s.ranks;
	return price_collective(p, kind[op->code], bytes, &s);
}

BodyPrice
price_body(Price *p, const Module *m, const Body *b, uint32_t device)
{
	BodyPrice sum = {0};
	for (uint32_t i = 0, end; i < b->nops; i = end) {
		end = i + 1;
		if (op_info[b->ops[i].code].flags & OF_COMM)
			sum.comm += op_comm(p, m, b, &b->ops[i], device);
		else
			sum.compute += price_kernel(p, m, b, i, &end, device);
	}
	return sum;
}

/* ---- primitives ---- */

static int64_t
exchange(const Price *p, const Module *m, const Prim *prim)
{
	int64_t most = 0;
	for (int sending = 0; sending < 2; sending++) {
		const Side *side = sending ? &prim->from : &prim->to;
		const Stage *s = &m->plan.stages[side->stage];
		uint32_t step = 1 + s->ranks / 64;
		for (uint32_t r = s->rank; r < s->rank + s->ranks; r += step) {
			Arena *tmp = arena_new();
			Piece *piece;
			int64_t ns = 0;
			uint32_t n = ir_pieces(m, prim, r, sending, tmp, &piece);
			for (uint32_t i = 0; i < n; i++)
				ns += price_message(p, piece[i].count * dtype_bytes(prim->dt),
						    piece[i].from, piece[i].to, 1);
			if (ns > most) most = ns;
			arena_free(tmp);
		}
	}
	return most;
}

int64_t
price_prim(Price *p, const Module *m, const CommTable *t, uint32_t stage, const Prim *prim)
{
	if (prim->kind == PR_exchange) return exchange(p, m, prim);
	const Stage *st = &m->plan.stages[stage];
	CommGroup world = {.n = 1, .d = {{1, m->plan.ranks}}};
	Shape s = prim->comm == 0
		      ? price_group(p, &world, 0, m->plan.ranks)
		      : price_group(p, &t->group[(uint32_t)prim->comm * t->nstages + stage],
				    st->rank, st->ranks);
	int64_t bytes = prim->count * dtype_bytes(prim->dt);
	if (prim->kind == PR_all_gather) bytes *= s.ranks;
	return price_collective(p, prim->kind, bytes, &s);
}
