/*
 * price_layer.c - bodies of layers that were measured whole: by another tool, that timed a layer's forward by samples.
 *
 * What a body does of the layer's products, as a part of what its whole batch takes, says how many samples that is: a rank
 * with half of the samples and one with half of every sample do as much. Their forward takes what that many samples took;
 * B and W as much longer as they have more products, recomputed ones included. Bodies without products (updates, norms,
 * an embedding) are priced kernel by kernel, as everything is that such a tool does not know.
 */
#include <string.h>

#include "passes/price_parts.h"

/* FLOP of its products: a rank's, or with all extents whole. */
static double
products(Price *p, const Module *m, const Body *b, const int64_t *at)
{
	double sum = 0;
	for (uint32_t i = 0, end; i < b->nops; i = end) {
		end = i + 1;
		if (op_info[b->ops[i].code].flags & OF_COMM) continue;
		sum += price_cost(p, m, b, i, &end, at).flops;
	}
	return sum;
}

/* The forward of the layer that b is a body of; NULL. */
static const Body *
forward_of(const Module *m, const Body *b)
{
	for (uint32_t i = 0; i < m->ntypes; i++) {
		const uint32_t *body = m->types[i].body;
		if (body[b->kind] && &m->bodies[body[b->kind]] == b)
			return body[BK_F] ? &m->bodies[body[BK_F]] : NULL;
	}
	return NULL;
}

double
price_layer(Price *p, const Module *m, const Body *b, uint32_t kind)
{
	const Profile *f = p->profile;
	const Device *d = &p->cluster->device[kind];
	if (!f || !f->nlayer || b->kind > BK_W || !m->batch.i) return -1;
	if (f->device && d->name && f->device != d->name) return -1;
	const char *name =
	    name_str(m->names, b->name); /* "block" of "block.2.z1": of the GDL file */
	const LayerTime *l = profile_layer(f, name, strcspn(name, "."), m->names);
	const Body *forward = l ? forward_of(m, b) : NULL;
	if (!forward) return -1;
	Arena *tmp = arena_new();
	int64_t *whole = NEW_N(tmp, int64_t, m->naxes + 1);
	for (uint32_t i = 1; i < m->naxes; i++)
		whole[i] = m->axes[i].extent;
	double all = products(p, m, b, whole), first = products(p, m, forward, whole);
	arena_free(tmp);
	if (all <= 0 || first <= 0) return -1;
	double samples = (double)ir_extent(m, m->batch) * products(p, m, b, NULL) / all;
	p->sources.between++;
	return layer_time(l, samples) * all / first;
}
