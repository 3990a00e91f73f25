/*
 * price_kernel.c - what a kernel takes: from the profile where it has the family, else from the roofline of a device.
 *
 * Host: contractions, memory-bound loops and elementwise work take turns, so that their times add up. A GPU does them side
 * by side, so that the longest counts. A contraction reaches a part of the peak of its operands' type, eff.dot or
 * eff.attention; one of f FLOP reaches f / (f + dot_half) of that: it has to fill the device. A GPU loads 16 bytes at once: rows
 * that do not begin there leave eff.ragged of its speed (a vocabulary of 50257 is the known case).
 */
#include "passes/price_parts.h"

/* Two matrix products of the forward pass become five of the backward: the scores are made again. cost.c counts four. */
static const double SCORES_AGAIN = 1.25;

static double
peak_of(const Device *d, DType dt)
{
	return d->flops[dt] > 0 ? d->flops[dt] : d->flops[DT_f32];
}

/* Narrower operands count, where the two differ the wider. */
static DType
operand_type(const Body *b, const Op *op)
{
	DType dt = DT_none;
	for (int i = 0; i < op->nin && i < 2; i++)
		if (dtype_float(val_type(b, op->in[i])->dt) &&
		    (dt == DT_none ||
		     dtype_bytes(val_type(b, op->in[i])->dt) > dtype_bytes(dt)))
			dt = val_type(b, op->in[i])->dt;
	return dt;
}

/* Are there rows that do not begin at a multiple of 16 bytes? */
static bool
is_ragged(const Module *m, const Body *b, const Op *op)
{
	enum { WIDE = 16 };
	const Mesh *mesh = ir_mesh(m, b);
	const Val v[3] = {op->in[0], op->in[1], op->out[0]};
	for (int i = 0; i < 3; i++) {
		const Type *t = val_type(b, v[i]);
		if (t->n && type_extent(m, mesh, t, t->n - 1) * dtype_bytes(t->dt) % WIDE)
			return true;
	}
	return false;
}

static double
contraction(const Device *d, const Module *m, const Body *b, const Op *op, double flops)
{
	double peak = peak_of(d, operand_type(b, op));
	if (flops <= 0 || peak <= 0) return 0;
	if (op->code == OP_attention_grad) flops *= SCORES_AGAIN;
	if (op->code != OP_dot) return flops / (peak * d->eff[EF_attention]);
	if (d->target == TG_cuda && is_ragged(m, b, op)) peak *= d->eff[EF_ragged];
	return (flops + d->eff[EF_dot_half]) / (peak * d->eff[EF_dot]);
}

double
price_roofline(const Device *d, const Module *m, const Body *b, const Op *op, const Cost *c)
{
	double dots = contraction(d, m, b, op, c->flops);
	double bytes = d->bytes > 0 ? c->moved / (d->bytes * d->eff[EF_bytes]) : 0;
	double loops = d->loops > 0 ? c->loops / d->loops : 0;
	if (d->target == TG_host) return (dots + bytes + loops) * 1e9;
	double most = dots > bytes ? dots : bytes;
	return (most > loops ? most : loops) * 1e9;
}

Cost
price_cost(Price *p, const Module *m, const Body *b, uint32_t first, uint32_t *end,
	   const int64_t *at)
{
	if (p->ctouched < b->nvals || p->stamp == UINT32_MAX) {
		p->ctouched = 2 * b->nvals;
		p->touched = NEW_N(p->a, uint32_t, p->ctouched);
		p->stamp = 0;
	}
	return cost_kernel(m, b, first, end, p->touched, ++p->stamp, at);
}

int64_t
price_kernel_on(Price *p, const Module *m, const Body *b, uint32_t first, uint32_t *end,
		uint32_t kind)
{
	const Device *d = &p->cluster->device[kind];
	if (b->ops[first].code == OP_reshard) return *end = first + 1, 0;
	Cost c = price_cost(p, m, b, first, end, NULL);
	if (c.flops == 0 && c.loops == 0 && c.moved == 0) return 0;
	double ns = -1;
	if (p->profile && (!p->profile->device || !d->name || p->profile->device == d->name))
		ns = price_point(p, m, b, first, kind);
	if (ns < 0) {
		ns = price_roofline(d, m, b, &b->ops[first], &c);
		p->sources.roofline++;
	}
	return price_round(ns > 1 ? ns : 1);
}
