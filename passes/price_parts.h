/*
 * price_parts.h - what the files of the price model share. Private to passes/price*.c.
 *
 *   price.c          a Price: whose machine, bodies, primitives
 *   price_host.c     the machine at hand; how ranks share a host
 *   price_kernel.c   kernels: the roofline
 *   price_point.c    kernels: measured points
 *   price_layer.c    bodies of layers that were measured whole
 *   price_shape.c    groups on the machine
 *   price_comm.c     collectives, messages
 *   price_exchange.c exchanges between meshes
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
	int64_t *at; /* cost_kernel's, [axes of a module] */
	uint32_t cat;
	Device then;  /* the profile's kind as it was measured: its threads */
	bool as_then; /* ... which is as it is priced */
	struct PointMemo *points;
	struct ShapeMemo *shapes;
	struct ExchangeMemo *exchanges;
};

/* price_host.c */
/* The machine at hand as `ranks` ranks of `threads` threads share it; 0: all it has. */
Cluster *price_host(Arena *a, uint32_t ranks, uint32_t threads);
/* A described one, likewise: devices of a host are shares of its cores. */
Cluster *price_share(Arena *a, const Cluster *c, uint32_t ranks, uint32_t threads);
/* A host device of `cores` cores as it is with `threads` of them at work. */
void price_threads(Device *d, double threads);

/* price_kernel.c */
/* On a device of kind `kind`; 0: nothing runs. */
int64_t price_kernel_on(Price *p, const Module *m, const Body *b, uint32_t first, uint32_t *end,
			uint32_t kind);
/* ns, of a kernel that begins with `op`. */
double price_roofline(const Device *d, const Module *m, const Body *b, const Op *op,
		      const Cost *c);
/* What its ops cost, extents given by axis or NULL. */
Cost price_cost(Price *p, const Module *m, const Body *b, uint32_t first, uint32_t *end,
		const int64_t *at);

/* price_point.c */
/* From the profile, which is of this kind; below 0: the family is not in it.  */
double price_point(Price *p, const Module *m, const Body *b, uint32_t first, uint32_t kind);

/* price_layer.c */
/* All kernels of a body, from the time of its layer's forward; below 0: there is none. */
double price_layer(Price *p, const Module *m, const Body *b, uint32_t kind);

/* price_shape.c */
void price_shapes_new(Price *p);
/* Of the groups with those digits among `size` ranks from device `first` on. */
Shape price_group(const Price *p, const CommGroup *g, uint32_t first, uint32_t size);
/* Bit k: a device of kind k is among `n` from `first` on. */
uint32_t price_kinds(const Price *p, uint32_t first, uint32_t n);
/* Fewer floating-point operations a second, at its best; of equals, fewer bytes. */
bool price_slower(const Device *a, const Device *b);
/* As cluster_node(); devices past the last are on its node: plans for more ranks than there are were refused before. */
uint32_t price_node(const Price *p, uint32_t device, uint32_t *in_node, uint32_t *run);

/* price_exchange.c */
int64_t price_exchange(Price *p, const Module *m, const Prim *x);

/* Rounded once; what no number holds is a very long time. */
static inline int64_t
price_round(double ns)
{
	return ns < 9e18 ? (int64_t)(ns + 0.5) : INT64_MAX / 4;
}

#endif
