/*
 * choose.c - which axes of a layer tp splits.
 *
 * Candidates are the axes that live inside the layer: those of no argument or result, together with whatever views make of
 * them. Every subset is tried: the bodies are sharded under it, and of those that work and share the arithmetic best the
 * cheapest is taken, by what the price model says of one rank's kernels and collectives (price.h) on the machine at hand
 * or --cluster's, and by the weights left whole. Nothing here knows an architecture: that heads and ffn are split and vocab
 * where there is one comes out of it.
 *
 * What is priced is not fused yet and stands at the front of the machine, since the same choice must come out wherever a
 * stage with such a mesh is. Rooflines only: a profile knows no kernels before they are fused, and launches are as many
 * whatever is split.
 *
 * With several tp axes in a mesh, a class may be split over some of them: grouped queries over two, keys and values over one
 * (`kv@tp.0 group@tp.1`).
 *
 * An axis may be split unevenly unless something needs its blocks whole: a view that splits or merges it, or attention.
 */
#include <math.h>
#include <string.h>

#include "passes/price.h"

enum { MAX_CLASSES = 5, MAX_OPTIONS = 1 << 3, MAX_TRIES = 256 };
enum { WHOLE = 4, ABOUT = 16 }; /* best_of() */

typedef struct Choose {
	Ctx *c;
	Module *m;
	const LowerKey *key;
	Body *const *body;
	Price *price;
	uint32_t *class; /* [naxes] axes that views tie together share one */
	bool *outer;     /* [class] at the layer's edge, or tied to it */
	bool *whole;     /* [class] must divide */
	int64_t *weight; /* [class] elements of weights with it */
	const Mesh *mesh;
	unsigned bits;  /* its tp axes */
	int64_t degree; /* of all of them */
} Choose;

typedef struct Tried {       /* a choice, for one rank */
	int64_t time, bytes; /* bytes: of its weights */
	double flops;        /* of its contractions */
} Tried;

/* A class and the sets of tp axes it may be split over, the largest first and none last. */
typedef struct Candidate {
	uint32_t class, n;
	uint16_t bits[MAX_OPTIONS];
} Candidate;

static uint32_t
find(const Choose *x, uint32_t a)
{
	while (x->class[a] != a)
		a = x->class[a];
	return a;
}

static void
unite(Choose *x, Axis a, Axis b)
{
	uint32_t i = find(x, a.i), j = find(x, b.i);
	if (i != j) x->class[i > j ? i : j] = i < j ? i : j;
}

/* ---- classes ---- */

static void
tie_views(Choose *x)
{
	for (int k = BK_F; k <= BK_W; k++)
		for (uint32_t i = 0; x->body[k] && i < x->body[k]->nops; i++) {
			const Op *op = &x->body[k]->ops[i];
			if (op->code != OP_view) continue;
			unite(x, attr_axes(op, AK_from)->a[0], attr_axes(op, AK_to)->a[0]);
		}
}

static void
mark(const Choose *x, bool *at, const Type *t)
{
	for (int k = 0; k < t->n; k++)
		at[find(x, t->ax[k].a.i)] = true;
}

static void
mark_list(const Choose *x, const AxisList *l)
{
	for (int k = 0; k < l->n; k++)
		x->whole[find(x, l->a[k].i)] = true;
}

static void
look_at(Choose *x)
{
	for (int k = BK_F; k <= BK_W; k++) {
		const Body *b = x->body[k];
		for (uint32_t i = 0; b && i < b->nports; i++) {
			const Port *p = &b->ports[i];
			if (p->kind == PORT_arg || p->kind == PORT_out)
				mark(x, x->outer, val_type(b, p->v));
		}
		for (uint32_t i = 0; b && i < b->nops; i++) {
			const Op *op = &b->ops[i];
			if (op->code == OP_attention)
				for (int j = 0; j < 3; j++)
					mark(x, x->whole, val_type(b, op->in[j]));
			if (op->code != OP_view) continue;
			if (attr_axes(op, AK_from)->n > 1 || attr_axes(op, AK_to)->n > 1) {
				mark_list(x, attr_axes(op, AK_from));
				mark_list(x, attr_axes(op, AK_to));
			}
		}
	}
	x->outer[find(x, x->m->batch.i)] = true;
	const LayerType *t = &x->m->types[x->key->type];
	for (uint32_t w = 0; w < t->nweights; w++) {
		bool *in = NEW_N(x->c->tmp, bool, x->m->naxes);
		mark(x, in, &t->weights[w].type);
		for (uint32_t a = 1; a < x->m->naxes; a++)
			if (in[a]) x->weight[a] += type_count(x->m, NULL, &t->weights[w].type);
	}
}

static int64_t
degree_of(const Mesh *mesh, unsigned bits)
{
	int64_t n = 1;
	for (int k = 1; k < mesh->n; k++)
		if (bits >> k & 1) n *= mesh->ax[k].degree;
	return n;
}

/* May the class be split over those tp axes? */
static bool
may_split(const Choose *x, uint32_t class, unsigned bits)
{
	int64_t degree = degree_of(x->mesh, bits);
	if (ir_extent(x->m, (Axis){(uint16_t) class}) < degree) return false;
	for (uint32_t a = 1; x->whole[class] && a < x->m->naxes; a++)
		if (find(x, a) == class && ir_extent(x->m, (Axis){(uint16_t)a}) % degree)
			return false;
	return true;
}

/* Subsets of the tp axes, from all of them down. */
static Candidate
options_of(const Choose *x, uint32_t class, bool some)
{
	Candidate c = {.class = class};
	for (unsigned bits = x->bits; bits; bits = (bits - 1) & x->bits) {
		if (bits != x->bits && !some) continue;
		if (may_split(x, class, bits) && c.n + 1 < MAX_OPTIONS)
			c.bits[c.n++] = (uint16_t)bits;
	}
	if (c.n) c.bits[c.n++] = 0;
	return c;
}

/* Classes worth trying; the heaviest if there are too many. */
static uint32_t
candidates(const Choose *x, Candidate out[MAX_CLASSES], bool some)
{
	uint32_t n = 0;
	bool *seen = NEW_N(x->c->tmp, bool, x->m->naxes);
	for (int k = BK_F; k <= BK_W; k++)
		for (uint32_t v = 1; x->body[k] && v < x->body[k]->nvals; v++)
			mark(x, seen, &x->body[k]->vals[v].type);
	for (uint32_t a = 1; a < x->m->naxes; a++) {
		if (!seen[a] || find(x, a) != a || x->outer[a] || !x->weight[a]) continue;
		Candidate c = options_of(x, a, some);
		if (!c.n) continue;
		if (n < MAX_CLASSES) {
			out[n++] = c;
			continue;
		}
		uint32_t least = 0;
		for (uint32_t k = 1; k < n; k++)
			if (x->weight[out[k].class] < x->weight[out[least].class]) least = k;
		if (x->weight[a] <= x->weight[out[least].class]) continue;
		memmove(out + least, out + least + 1, sizeof *out * (n - least - 1));
		out[n - 1] = c;
	}
	return n;
}

static uint32_t
count_tries(const Candidate *c, uint32_t n)
{
	uint32_t tries = 1;
	for (uint32_t k = 0; k < n; k++)
		tries *= c[k].n;
	return tries;
}

/* ---- cost ---- */

/* Weight, gradient and two moments, read and written once a step: their bytes, seven times. */
enum { TOUCHED = 7 };

/* Once a step. A weight that other layers use as well is whole here and split there, or the other way round, only at the
 * cost of a gather and of a reduction of its gradient; that it is split there, as an output's is, is assumed. */
static int64_t
update_time(const Choose *x, const LayerType *t)
{
	const Device *d = cluster_device(price_cluster(x->price), 0);
	Shape s = price_shape(x->price, x->mesh, x->bits, 0);
	double bytes = 0;
	int64_t moved = 0;
	for (uint32_t w = 0; w < t->nweights; w++) {
		int64_t mine = type_bytes(x->m, x->mesh, &t->weights[w].type);
		bytes += (double)mine;
		if (w >= 64 || !(x->key->shared >> w & 1) || ir_split(&t->weights[w].type))
			continue;
		moved += price_collective(x->price, PR_all_gather, mine, &s) +
			 price_collective(x->price, PR_reduce_scatter, mine, &s);
	}
	return moved + (int64_t)(TOUCHED * bytes / (d->bytes * d->eff[EF_bytes]) * 1e9);
}

/* ns of one rank: a microbatch, and an update. */
static int64_t
time_of(const Choose *x, const LayerType *t, Body *const body[BK_COUNT])
{
	int64_t sum = update_time(x, t);
	for (int k = BK_F; k <= BK_W; k++) {
		if (!body[k]) continue;
		sum += price_body(x->price, x->m, body[k], 0).comm;
		for (uint32_t i = 0, end; i < body[k]->nops; i = end) {
			end = i + 1;
			if (!(op_info[body[k]->ops[i].code].flags & OF_COMM))
				sum += price_kernel(x->price, x->m, body[k], i, &end, 0);
		}
	}
	return sum;
}

static int64_t
weight_bytes(const Module *m, const Mesh *mesh, const LayerType *t)
{
	int64_t bytes = 0;
	for (uint32_t w = 0; w < t->nweights; w++)
		bytes += type_bytes(m, mesh, &t->weights[w].type);
	return bytes;
}

/* Under a choice; time below 0: it does not work. */
static Tried
try(const Choose *x, const TpChoice *s)
{
	Ctx c = *x->c;
	LayerType t;
	Body copy[BK_COUNT], *body[BK_COUNT] = {0};
	c.diag = NULL;
	for (int k = BK_F; k <= BK_W; k++) {
		if (!x->body[k]) continue;
		copy[k] = body_copy(x->m->arena, x->body[k]);
		body[k] = &copy[k];
	}
	if (!lower_shard(&c, x->m, x->key, s, &t, body)) return (Tried){.time = -1};
	Tried y = {time_of(x, &t, body), weight_bytes(x->m, x->mesh, &t), 0};
	for (int k = BK_F; k <= BK_W; k++)
		if (body[k]) y.flops += cost_body(x->m, body[k]).flops;
	return y;
}

/* ---- Megatron-SP ---- */

/* Axes of queries that are neither features nor the batch nor the keys' own. */
static bool
is_query_axis(const Module *m, const Body *b, const Op *op, Axis a)
{
	const Attr *query = attr_find(op, AK_query);
	const Type *k = val_type(b, op->in[1]);
	if (query) return query->axis.i == a.i;
	return type_find(val_type(b, op->in[0]), a) >= 0 && type_find(k, a) < 0 &&
	       !axes_has(attr_axes(op, AK_feat), a) && a.i != m->batch.i;
}

/* The axis at this layer's edge that some attention of the model looks along. */
static Axis
seq_axis(const Choose *x)
{
	const Module *m = x->m;
	for (uint32_t a = 1; a < m->naxes; a++) {
		Axis axis = {(uint16_t)a};
		bool edge = false;
		for (uint32_t i = 0; i < x->body[BK_F]->nports; i++) {
			const Port *p = &x->body[BK_F]->ports[i];
			edge |= (p->kind == PORT_arg || p->kind == PORT_out) &&
				type_find(val_type(x->body[BK_F], p->v), axis) >= 0;
		}
		for (uint32_t b = 1; edge && b < m->nbodies; b++)
			for (uint32_t i = 0; i < m->bodies[b].nops; i++)
				if (m->bodies[b].ops[i].code == OP_attention &&
				    is_query_axis(m, &m->bodies[b], &m->bodies[b].ops[i], axis))
					return axis;
	}
	return NO_AXIS;
}

static bool
choose_seq(const Choose *x, TpChoice *s)
{
	Axis seq = seq_axis(x);
	const LayerType *t = &x->m->types[x->key->type];
	if (!seq.i) return true; /* nothing to split here */
	if (ir_extent(x->m, seq) % x->degree == 0) {
		s->sp = true;
		s->seq = seq;
		return true;
	}
	if (x->c->diag)
		diag_error(
		    x->c->diag, x->key->strategy.loc,
		    "megatron_sp splits the axis '%s' of layer '%s' over tp, and its extent "
		    "%lld is not divisible by %lld; leave it out, or choose another tp",
		    ir_axis_str(x->m, seq), name_str(x->m->names, t->name),
		    (long long)ir_extent(x->m, seq), (long long)x->degree);
	return false;
}

/* ---- the choice ---- */

/* Choice number `t`: digit k says which option of class k; number 0 splits as much as possible. */
static void
set_choice(const Choose *x, const Candidate *c, uint32_t n, uint32_t t, TpChoice *out)
{
	for (uint32_t a = 1; a < x->m->naxes; a++)
		out->inner[a] = 0;
	for (uint32_t k = 0; k < n; t /= c[k++].n)
		for (uint32_t a = 1; a < x->m->naxes; a++)
			if (find(x, a) == c[k].class) out->inner[a] = c[k].bits[t % c[k].n];
}

/* tp is there to share the arithmetic: of the choices that leave a rank about the least of it, the one that costs least,
 * of equals the first, which also stands for none at all: whoever lowers it says why. Weights left whole are what plans
 * run out of memory with: all of them whole would count as another WHOLE-th of the time. */
static uint32_t
best_of(const Tried *t, uint32_t n, int64_t whole)
{
	double least = 0, flops = INFINITY;
	uint32_t best = n;
	for (uint32_t i = 0; i < n; i++)
		if (t[i].time >= 0 && t[i].flops < flops) flops = t[i].flops;
	for (uint32_t i = 0; i < n; i++) {
		if (t[i].time < 0 || t[i].flops > flops + flops / ABOUT) continue;
		double part = whole ? (double)t[i].bytes / (double)whole : 0;
		double cost = (double)t[i].time * (1 + part / WHOLE);
		if (best == n || cost < least) best = i, least = cost;
	}
	return best < n ? best : 0;
}

bool
choose_tp(Ctx *c, Module *m, const LowerKey *key, TpChoice *out)
{
	Body *body[BK_COUNT] = {0};
	Candidate class[MAX_CLASSES];
	Choose x = {.c = c, .m = m, .key = key, .body = body};
	x.mesh = &m->plan.meshes[key->strategy.mesh];
	for (int k = 1; k < x.mesh->n; k++)
		if (x.mesh->ax[k].kind == MX_tp && x.mesh->ax[k].degree > 1) x.bits |= 1u << k;
	x.degree = degree_of(x.mesh, x.bits);
	*out = (TpChoice){.inner = NEW_N(m->arena, uint16_t, m->naxes), .naxes = m->naxes};
	if (x.degree <= 1) return true;
	for (int k = 0; k < BK_COUNT; k++)
		if (m->types[key->type].body[k])
			body[k] = &m->bodies[m->types[key->type].body[k]];
	x.class = NEW_N(c->tmp, uint32_t, m->naxes);
	x.outer = NEW_N(c->tmp, bool, m->naxes);
	x.whole = NEW_N(c->tmp, bool, m->naxes);
	x.weight = NEW_N(c->tmp, int64_t, m->naxes);
	for (uint32_t a = 0; a < m->naxes; a++)
		x.class[a] = a;
	x.price = price_new(c->tmp, c->cluster, NULL, ir_degree(x.mesh, ~0u), m->plan.threads);
	tie_views(&x);
	look_at(&x);
	if (key->strategy.megatron_sp && !choose_seq(&x, out)) return false;
	uint32_t n = candidates(&x, class, true);
	if (count_tries(class, n) > MAX_TRIES) n = candidates(&x, class, false);
	out->able = n > 0;
	Tried tried[MAX_TRIES];
	uint32_t tries = count_tries(class, n);
	for (uint32_t t = 0; t < tries; t++) {
		set_choice(&x, class, n, t, out);
		tried[t] = try(&x, out);
	}
	uint32_t best = best_of(tried, tries, weight_bytes(m, NULL, &m->types[key->type]));
	set_choice(&x, class, n, best, out);
	out->works = tried[best].time >= 0;
	return true;
}
