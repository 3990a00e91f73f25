/*
 * price_point.c - a kernel's time from measured ones of its family.
 *
 * Exact point: that. Else, among points that differ from the kernel in one extent only: between the nearest below and the
 * nearest above, on the straight line between them. Else the nearest point (least sum of |log| of the ratios of extents;
 * of equals the first), times the ratio of the rooflines of the kernel and of it. Where ranks or threads of the profile
 * are not the plan's, a point counts as much more or less as its roofline does.
 *
 * What was found is remembered by key, so that a search prices a kernel it has seen in the time its key takes.
 */
#include <math.h>
#include <string.h>

#include "passes/price_parts.h"

typedef struct Point {
	KernelKey key;
	uint32_t kind;
	double ns;
	uint8_t from; /* 0: exact, 1: between, 2: scaled */
} Point;

struct PointMemo {
	Point *p; /* open addressing; free: family 0 */
	uint32_t n, cap;
};

/* ---- memory ---- */

static uint64_t
hash_key(const KernelKey *k, uint32_t kind)
{
	uint64_t h = hash_bytes(k->extent, k->n * sizeof *k->extent, k->family);
	return h ^ ((uint64_t)kind << 32 | kind);
}

static bool
same_key(const KernelKey *a, const KernelKey *b)
{
	return a->family == b->family && a->n == b->n &&
	       memcmp(a->extent, b->extent, a->n * sizeof *a->extent) == 0;
}

static Point *
slot_of(const struct PointMemo *x, const KernelKey *k, uint32_t kind)
{
	uint32_t i = (uint32_t)hash_key(k, kind) & (x->cap - 1);
	while (x->p[i].key.family && !(x->p[i].kind == kind && same_key(&x->p[i].key, k)))
		i = (i + 1) & (x->cap - 1);
	return &x->p[i];
}

static Point *
memo_slot(Price *p, const KernelKey *k, uint32_t kind)
{
	struct PointMemo *x = p->points, was;
	if (!x) x = p->points = NEW(p->a, struct PointMemo);
	was = *x;
	if (4 * (x->n + 1) > 3 * x->cap) {
		x->cap = x->cap ? 2 * x->cap : 256;
		x->p = NEW_N(p->a, Point, x->cap);
		for (uint32_t i = 0; i < was.cap; i++)
			if (was.p[i].key.family)
				*slot_of(x, &was.p[i].key, was.p[i].kind) = was.p[i];
	}
	return slot_of(x, k, kind);
}

/* ---- points ---- */

typedef struct Wanted { /* a kernel whose time is looked for */
	Price *p;
	const Module *m;
	const Body *b;
	uint32_t first, kind;
	const KernelKey *key;
	const KeyAxes *axes;
	bool state; /* one extent, its elements */
} Wanted;

/* The roofline of the kernel with the extents of k; below 0: they do not say. */
static double
roofline_at(const Wanted *w, const Device *d, const KernelKey *k)
{
	Price *p = w->p;
	const Op *op = &w->b->ops[w->first];
	uint32_t end;
	Cost c;
	if (w->state || k == w->key) {
		double ratio = w->state ? (double)k->extent[0] / (double)w->key->extent[0] : 1;
		c = price_cost(p, w->m, w->b, w->first, &end, NULL);
		c = (Cost){c.flops * ratio, c.loops * ratio, c.moved * ratio};
		return price_roofline(d, w->m, w->b, op, &c);
	}
	if (w->axes->mixed) return -1;
	if (p->cat < w->m->naxes) {
		p->cat = 2 * w->m->naxes;
		p->at = NEW_N(p->a, int64_t, p->cat);
	}
	for (int i = 0; i < w->axes->n; i++)
		p->at[w->axes->axis[i].i] =
		    w->axes->first[i] ? k->extent[w->axes->number[i]] : 1;
	c = price_cost(p, w->m, w->b, w->first, &end, p->at);
	return price_roofline(d, w->m, w->b, op, &c);
}

/* A point's own time under the plan's ranks and threads. */
static double
time_now(const Wanted *w, const KernelTime *t)
{
	const Device *d = &w->p->cluster->device[w->kind];
	double ns = (double)t->ns;
	if (w->p->as_then) return ns;
	double then = roofline_at(w, &w->p->then, &t->key), now = roofline_at(w, d, &t->key);
	return then > 0 && now > 0 ? ns * now / then : ns;
}

/* The one extent in which they differ; -1: none, -2: several. */
static int
differs(const KernelKey *a, const KernelKey *b)
{
	int at = -1;
	for (int i = 0; i < a->n; i++)
		if (a->extent[i] != b->extent[i]) at = at == -1 ? i : -2;
	return at;
}

static double
between(const Wanted *w, const KernelTime *t, uint32_t n)
{
	for (int k = 0; k < w->key->n; k++) { /* the first extent that has both neighbours */
		const KernelTime *below = NULL, *above = NULL;
		int64_t x = w->key->extent[k];
		for (uint32_t i = 0; i < n; i++) {
			if (differs(&t[i].key, w->key) != k) continue;
			int64_t e = t[i].key.extent[k];
			if (e < x && (!below || e > below->key.extent[k])) below = &t[i];
			if (e > x && (!above || e < above->key.extent[k])) above = &t[i];
		}
		if (!below || !above) continue;
		double lo = (double)below->key.extent[k], hi = (double)above->key.extent[k];
		double part = ((double)x - lo) / (hi - lo);
		return time_now(w, below) * (1 - part) + time_now(w, above) * part;
	}
	return -1;
}

static double
scaled(const Wanted *w, const KernelTime *t, uint32_t n)
{
	const Device *d = &w->p->cluster->device[w->kind];
	const KernelTime *best = NULL;
	double least = 0;
	for (uint32_t i = 0; i < n; i++) {
		double far = 0;
		for (int k = 0; k < w->key->n; k++)
			far +=
			    fabs(log((double)t[i].key.extent[k] / (double)w->key->extent[k]));
		if (!best || far < least) best = &t[i], least = far;
	}
	double here = roofline_at(w, d, w->key), there = roofline_at(w, d, &best->key);
	if (here <= 0 || there <= 0) return -1;
	return time_now(w, best) * here / there;
}

static double
look_up(const Wanted *w, uint8_t *from)
{
	uint32_t n;
	const KernelTime *t = profile_family(w->p->profile, w->key->family, &n);
	const KernelTime *exact = profile_find(w->p->profile, w->key);
	double ns;
	*from = 0;
	if (exact) return time_now(w, exact);
	if (!t || t->key.n != w->key->n) return -1;
	*from = 1;
	if ((ns = between(w, t, n)) >= 0) return ns;
	*from = 2;
	return scaled(w, t, n);
}

double
price_point(Price *p, const Module *m, const Body *b, uint32_t first, uint32_t kind)
{
	KernelKey key;
	KeyAxes axes;
	uint32_t end;
	if (!profile_key_axes(m, b, first, &end, &key, &axes)) return -1;
	Point *x = memo_slot(p, &key, kind);
	if (!x->key.family) {
		Wanted w = {p, m, b, first, kind, &key, &axes, false};
		w.state = op_info[b->ops[first].code].flags & OF_UPD && end == first + 1;
		double ns = look_up(&w, &x->from);
		x->key = key;
		x->kind = kind;
		x->ns = ns;
		p->points->n++;
	}
	if (x->ns >= 0) *(x->from ? &p->sources.between : &p->sources.exact) += 1;
	return x->ns;
}
