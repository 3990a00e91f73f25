/*
 * price_parts.h - what the files of the price model share. Private to passes/price*.c.
 *
 *   price.c        a Price: whose machine, bodies, primitives
 *   price_kernel.c kernels: profile, roofline
 *   price_comm.c   groups on the machine, collectives, messages
 *   price_host.c   the machine at hand, where no file describes one
 */
#ifndef GV_PRICE_PARTS_H
#define GV_PRICE_PARTS_H

#include "passes/price.h"

struct Price {
	Arena *a;
	const Cluster *cluster;
	const Profile *profile;
	PriceSources sources;
	uint32_t *touched, ctouched; /* cost_kernel's, [values of a body] */
	uint32_t stamp;
};

/* price_host.c */
Cluster *price_host(Arena *a, uint32_t ranks, uint32_t threads);

/* price_kernel.c */
/* On a device of kind `kind`. */
int64_t price_kernel_on(Price *p, const Module *m, const Body *b, uint32_t first, uint32_t *end,
			uint32_t kind);

/* price_comm.c */
/* Of the groups with those digits among `size` ranks from device `first` on. */
Shape price_group(const Price *p, const CommGroup *g, uint32_t first, uint32_t size);
/* Bit k: a device of kind k is among `n` from `first` on. */
uint32_t price_kinds(const Price *p, uint32_t first, uint32_t n);

static inline int64_t
price_round(double ns)
{
	return ns < 9e18 ? (int64_t)(ns + 0.5) : INT64_MAX / 4;
}

#endif
