/*
 * price_kernel.c - what a kernel takes: the roofline of a device.
 */
#include "passes/price_parts.h"

/* On the host contractions and memory-bound loops take turns, so that their times add up; on a GPU the longer counts. */
static double
roofline(const Device *d, const Cost *c)
{
	double flops = d->flops[DT_f32] * d->eff[EF_dot];
	double dots = flops > 0 ? c->flops / flops : 0;
	double bytes = (double)c->moved / (d->bytes * d->eff[EF_bytes]);
	double loops = d->loops > 0 ? c->loops / d->loops : 0;
	if (d->target == TG_host) return (dots + bytes + loops) * 1e9 + d->launch;
	double most = dots > bytes ? dots : bytes;
	return (most > loops ? most : loops) * 1e9 + d->launch;
}

int64_t
price_kernel_on(Price *p, const Module *m, const Body *b, uint32_t first, uint32_t *end,
		uint32_t kind)
{
	if (p->ctouched < b->nvals) {
		p->ctouched = 2 * b->nvals;
		p->touched = NEW_N(p->a, uint32_t, p->ctouched);
		p->stamp = 0;
	}
	Cost c = cost_kernel(m, b, first, end, p->touched, ++p->stamp);
	if (c.flops == 0 && c.loops == 0 && c.moved == 0) return 0;
	p->sources.roofline++;
	return price_round(roofline(&p->cluster->device[kind], &c));
}
