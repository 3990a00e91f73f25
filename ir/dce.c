/*
 * dce.c - uses of values, and deleting what nobody reads.
 */
#include "ir/ir.h"

uint32_t *
body_uses(const Body *b, Arena *a)
{
	uint32_t *uses = NEW_N(a, uint32_t, b->nvals ? b->nvals : 1);

	for (uint32_t i = 0; i < b->nops; i++)
		for (int k = 0; k < b->ops[i].nin; k++)
			uses[b->ops[i].in[k].i]++;
	for (uint32_t i = 0; i < b->nports; i++)
		if (!port_is_in(b->ports[i].kind)) uses[b->ports[i].v.i]++;
	return uses;
}

static bool
op_live(const Op *op, const bool *live)
{
	for (int k = 0; k < op->nout; k++)
		if (live[op->out[k].i]) return true;
	return false;
}

/* live[v]: an out-port depends on v. One walk backwards, since every op stands after what it reads. */
static bool *
live_values(const Module *m, const Body *b)
{
	bool *live = NEW_N(m->arena, bool, b->nvals ? b->nvals : 1);

	for (uint32_t i = 0; i < b->nports; i++)
		if (!port_is_in(b->ports[i].kind)) live[b->ports[i].v.i] = true;
	for (uint32_t i = b->nops; i-- > 0;)
		if (op_live(&b->ops[i], live)) {
			for (int k = 0; k < b->ops[i].nin; k++)
				live[b->ops[i].in[k].i] = true;
			/* room the op works in: nobody reads it, and it must be there */
			if (b->ops[i].code == OP_reduce_scatter)
				live[b->ops[i].out[1].i] = true;
		}
	live[0] = false;
	return live;
}

/* Moves what stays to the front of the tables; at[v] becomes the new number of v, 0 if it goes. */
static void
compact(Body *b, const bool *live, uint32_t *at)
{
	uint32_t nvals = 1, nops = 0, nports = 0;

	for (uint32_t v = 1; v < b->nvals; v++) {
		if (!live[v]) continue;
		at[v] = nvals;
		b->vals[nvals++] = b->vals[v];
	}
	b->nvals = nvals;
	for (uint32_t v = 1; v < nvals; v++)
		b->vals[v].over.i = at[b->vals[v].over.i];

	for (uint32_t i = 0; i < b->nops; i++) {
		Op op = b->ops[i];

		if (!op_live(&op, live)) continue;
		for (int k = 0; k < op.nin; k++)
			op.in[k].i = at[op.in[k].i];
		for (int k = 0; k < op.nout; k++) {
			op.out[k].i = at[op.out[k].i];
			if (op.out[k].i) b->vals[op.out[k].i].def = nops + 1;
		}
		b->ops[nops++] = op;
	}
	b->nops = nops;

	for (uint32_t i = 0; i < b->nports; i++) {
		Port p = b->ports[i];

		if (!live[p.v.i]) continue;
		p.v.i = at[p.v.i];
		b->ports[nports++] = p;
	}
	b->nports = nports;
}

bool
body_dce(Module *m, Body *b)
{
	bool *live = live_values(m, b);
	uint32_t dead = 0;

	for (uint32_t v = 1; v < b->nvals; v++)
		dead += !live[v];
	for (uint32_t i = 0; i < b->nops; i++)
		dead += !op_live(&b->ops[i], live);
	if (!dead) return false;
	compact(b, live, NEW_N(m->arena, uint32_t, b->nvals));
	b->index = NULL; /* values have new numbers */
	b->cindex = b->nindex = 0;
	return true;
}
