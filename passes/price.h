/*
 * price.h - what a lowered program takes: the one source of times of search, simulator, explanations and reports.
 *
 * A price is read off bodies, primitives and flats of a lowered module, never off formulas of a model. Kernels: from a
 * profile (exact point, else nearest points of the family scaled by the roofline), else from the roofline of the device.
 * Collectives and messages: from the cluster's curves, else from its links. All times are ns, integers, rounded once.
 * Devices are counted as the plan does: a plan with `nodes` is priced on cluster_order()'s cluster.
 */
#ifndef GV_PRICE_H
#define GV_PRICE_H

#include "ir/cluster.h"
#include "passes/passes.h"

typedef struct Price Price;

/* For plans on a cluster (NULL: the machine at hand shared by `ranks` ranks of `threads` threads, more ranks on nodes like it);
 * profile may be NULL. Lives in arena a; remembers what it priced. */
Price *price_new(Arena *a, const Cluster *cluster, const Profile *profile, uint32_t ranks,
		 uint32_t threads);
const Cluster *price_cluster(const Price *p);
uint32_t price_cores(void); /* of the machine at hand that this process may use */
/* How many kernels were priced by a profile's own point, from others of its family, by roofline. */
typedef struct PriceSources {
	uint64_t exact, between, roofline;
} PriceSources;
PriceSources price_sources(const Price *p);

/* A group of ranks as it lies on the machine. */
typedef struct Shape {
	uint32_t ranks, nodes; /* nodes: how many it touches */
	uint32_t stride;       /* devices between members on one node */
	uint32_t beside; /* groups like it that use the same node's network at once; >= 1 */
	uint32_t device; /* the slowest kind in it */
	uint32_t run;    /* of the nodes it touches, the one with the slowest links */
} Shape;
/* Of the groups over mesh axes `over` of a mesh whose first rank is on device `first`: the worst of them. */
Shape price_shape(const Price *p, const Mesh *mesh, unsigned over, uint32_t first);

/* bytes as CollCurve says. */
int64_t price_collective(const Price *p, PrimKind kind, int64_t bytes, const Shape *s);
/* A message from device to device; `beside`: as many others use the nodes' network at once. */
int64_t price_message(const Price *p, int64_t bytes, uint32_t from, uint32_t to,
		      uint32_t beside);

typedef struct BodyPrice {
	int64_t compute, comm;
} BodyPrice; /* one after the other, unless the device overlaps */
/* `device`: of the first rank of the body's mesh; the slowest kind among its ranks counts. */
BodyPrice price_body(Price *p, const Module *m, const Body *b, uint32_t device);
/* ... computing on a device of that kind. */
BodyPrice price_body_on(Price *p, const Module *m, const Body *b, uint32_t device,
			uint32_t kind);
/* The kernel that op `first` begins, without launching anything else; *end as profile_key. */
int64_t price_kernel(Price *p, const Module *m, const Body *b, uint32_t first, uint32_t *end,
		     uint32_t device);
/* A primitive of ir_prims, for the slowest rank of the stage (an exchange: of both sides). */
int64_t price_prim(Price *p, const Module *m, const CommTable *t, uint32_t stage,
		   const Prim *prim);

#endif
