/*
 * price_shape.c - how a group of ranks lies on the machine: on how many nodes, how far apart, who shares their network.
 *
 * On equal nodes, where digits end at a node's edge, that is arithmetic on the digits. Elsewhere the groups are walked, all
 * members of all of them, and the worst counts; ranks in one run of nodes lie like those that begin as far into a node.
 * What was found is remembered.
 */
#include <string.h>

#include "passes/price_parts.h"

typedef struct ShapeKey {
	CommGroup g;
	uint32_t first, size;
} ShapeKey;

typedef struct Known {
	ShapeKey key;
	Shape shape; /* ranks 0: free */
} Known;

struct ShapeMemo {
	Known *k;
	uint32_t n, cap;
};

/* ---- memory ---- */

static uint64_t
hash_key(const ShapeKey *k)
{
	uint64_t h = (uint64_t)k->first << 32 | k->size;
	for (int i = 0; i < k->g.n; i++)
		h = hash_bytes(&k->g.d[i], sizeof k->g.d[i], h);
	return hash_bytes(&h, sizeof h, k->g.n);
}

static bool
same_key(const ShapeKey *a, const ShapeKey *b)
{
	if (a->first != b->first || a->size != b->size || a->g.n != b->g.n) return false;
	for (int i = 0; i < a->g.n; i++)
		if (a->g.d[i].stride != b->g.d[i].stride ||
		    a->g.d[i].degree != b->g.d[i].degree)
			return false;
	return true;
}

static Known *
slot_of(const struct ShapeMemo *x, const ShapeKey *k)
{
	uint32_t i = (uint32_t)hash_key(k) & (x->cap - 1);
	while (x->k[i].shape.ranks && !same_key(&x->k[i].key, k))
		i = (i + 1) & (x->cap - 1);
	return &x->k[i];
}

static Known *
memo_slot(const Price *p, const ShapeKey *k)
{
	struct ShapeMemo *x = p->shapes, was = *x;
	if (4 * (x->n + 1) > 3 * x->cap) {
		x->cap = x->cap ? 2 * x->cap : 64;
		x->k = NEW_N(p->a, Known, x->cap);
		for (uint32_t i = 0; i < was.cap; i++)
			if (was.k[i].shape.ranks) *slot_of(x, &was.k[i].key) = was.k[i];
	}
	return slot_of(x, k);
}

void
price_shapes_new(Price *p)
{
	p->shapes = NEW(p->a, struct ShapeMemo);
}

/* ---- devices ---- */

bool
price_slower(const Device *a, const Device *b)
{
	double x = 0, y = 0;
	for (int k = 0; k < DT_COUNT; k++) {
		if (a->flops[k] > x) x = a->flops[k];
		if (b->flops[k] > y) y = b->flops[k];
	}
	return x < y || (x == y && a->bytes < b->bytes);
}

uint32_t
price_node(const Price *p, uint32_t device, uint32_t *in_node, uint32_t *run)
{
	uint32_t last = p->cluster->devices - 1;
	return cluster_node(p->cluster, device < last ? device : last, in_node, run);
}

uint32_t
price_kinds(const Price *p, uint32_t first, uint32_t n)
{
	const Cluster *c = p->cluster;
	uint32_t bits = 0, at = 0;
	for (uint32_t r = 0; r < c->nrun; r++) {
		uint32_t end = at + c->run[r].nodes * c->run[r].devices;
		if (first < end && first + n > at) bits |= 1u << c->run[r].device;
		at = end;
	}
	return bits ? bits : 1u << c->run[c->nrun - 1].device;
}

/* The run that all of those devices are in, and the device it begins with; false: several. */
static bool
in_one_run(const Cluster *c, uint32_t first, uint32_t n, uint32_t *run, uint32_t *begin)
{
	uint32_t at = 0;
	for (uint32_t r = 0; r < c->nrun; r++) {
		uint32_t end = at + c->run[r].nodes * c->run[r].devices;
		if (first >= at && first < end) {
			*run = r;
			*begin = at;
			return first + n <= end;
		}
		at = end;
	}
	return false;
}

/* ---- groups ---- */

/* Digits that end at a node's edge: false: they do not, in nodes of d devices. */
static bool
by_digits(const CommGroup *g, uint32_t d, Shape *s)
{
	uint32_t inner = 1, stride = 0;
	s->nodes = 1;
	for (int i = g->n - 1; i >= 0; i--) {
		uint32_t step = g->d[i].stride, degree = g->d[i].degree;
		uint64_t span = (uint64_t)step * degree;
		if (step >= d) {
			if (step % d) return false;
			s->nodes *= degree;
			continue;
		}
		if (!stride) stride = step;
		if (span <= d) {
			if (d % span) return false;
			inner *= degree;
		} else {
			if (d % step || span % d) return false;
			inner *= d / step;
			s->nodes *= (uint32_t)(span / d);
		}
	}
	s->ranks = inner * s->nodes;
	s->stride = inner > 1 ? stride : 1;
	return true;
}

/* The members from `base` on. */
static Shape
walk_group(const Price *p, const CommGroup *g, uint32_t base)
{
	const Cluster *c = p->cluster;
	uint32_t n = 1, at[MAX_MESH] = {0}, before = UINT32_MAX, last = 0, gap = 0;
	Shape s = {.beside = 1};
	for (int i = 0; i < g->n; i++)
		n *= g->d[i].degree;
	s.ranks = n;
	for (uint32_t k = 0; k < n; k++) {
		uint32_t device = base, run, in_node, node;
		for (int i = 0; i < g->n; i++)
			device += at[i] * g->d[i].stride;
		for (int i = g->n - 1; i >= 0 && ++at[i] == g->d[i].degree; i--)
			at[i] = 0;
		node = price_node(p, device, &in_node, &run);
		const NodeRun *r = &c->run[run], *was = &c->run[s.run];
		if (node != before) s.nodes++;
		if (node == before && (!gap || in_node - last < gap)) gap = in_node - last;
		if (!k || price_slower(&c->device[r->device], &c->device[s.device]))
			s.device = r->device;
		if (!k || r->far.bytes < was->far.bytes ||
		    (r->far.bytes == was->far.bytes && r->near.bytes < was->near.bytes))
			s.run = run;
		before = node;
		last = in_node;
	}
	s.stride = gap ? gap : 1;
	return s;
}

/* The more nodes, the slower the devices, the worse. */
static bool
worse(const Price *p, const Shape *a, const Shape *b)
{
	const Device *d = p->cluster->device;
	if (a->nodes != b->nodes) return a->nodes > b->nodes;
	if (a->device != b->device) return price_slower(&d[a->device], &d[b->device]);
	return a->stride > b->stride;
}

static Shape
walk_all(const Price *p, const CommGroup *g, uint32_t first, uint32_t size)
{
	Shape worst = {.ranks = 1, .nodes = 1, .stride = 1, .beside = 1};
	bool any = false;
	for (uint32_t base = 0; base < size; base++) {
		bool begins = true;
		for (int i = 0; i < g->n; i++)
			if (base / g->d[i].stride % g->d[i].degree) begins = false;
		if (!begins) continue;
		Shape s = walk_group(p, g, first + base);
		if (!any || worse(p, &s, &worst)) worst = s;
		any = true;
	}
	return worst;
}

Shape
price_group(const Price *p, const CommGroup *g, uint32_t first, uint32_t size)
{
	const Cluster *c = p->cluster;
	uint32_t run = 0, begin = 0;
	bool one = in_one_run(c, first, size, &run, &begin);
	const NodeRun *r = &c->run[run];
	uint32_t d = r->devices, into = one ? (first - begin) % d : 0;
	Shape s = {.beside = 1, .run = run, .device = r->device};
	if (!g->n) return (Shape){1, 1, 1, 1, s.device, run};
	if (!one || into || !by_digits(g, d, &s)) {
		ShapeKey key = {*g, one ? begin + into : first, size};
		Known *k = memo_slot(p, &key);
		if (!k->shape.ranks) {
			*k = (Known){key, walk_all(p, g, key.first, size)};
			p->shapes->n++;
		}
		s = k->shape;
	}
	if (s.nodes > 1) {
		uint32_t per = (s.ranks + s.nodes - 1) / s.nodes;
		uint32_t here = size < c->run[s.run].devices ? size : c->run[s.run].devices;
		s.beside = here / per > 1 ? here / per : 1;
	}
	return s;
}

Shape
price_shape(const Price *p, const Mesh *mesh, unsigned over, uint32_t first)
{
	CommGroup g = {0};
	uint32_t size = 1;
	for (int k = 1; k < mesh->n; k++)
		size *= mesh->ax[k].degree;
	for (uint32_t k = 1, stride = size; k < mesh->n; k++) {
		stride /= mesh->ax[k].degree;
		if (!(over >> k & 1) || mesh->ax[k].degree == 1) continue;
		Digit *was = g.n ? &g.d[g.n - 1] : NULL;
		if (was && was->stride == stride * mesh->ax[k].degree)
			*was = (Digit){stride, was->degree * mesh->ax[k].degree};
		else
			g.d[g.n++] = (Digit){stride, mesh->ax[k].degree};
	}
	return price_group(p, &g, first, size);
}
