/*
 * price_exchange.c - what an exchange between two meshes takes: each rank sends and receives its pieces, all at once.
 *
 * Counted are the bytes a rank sends and receives, inside its node and past it, for the rank that has most of each; what
 * stays in a rank is copied. Stages of up to 64 ranks are counted rank for rank. In larger ones ranks of low, middle and
 * last coordinates along every axis stand for all: blocks are largest at the front, the last may be short, and how the
 * blocks of one mesh meet those of another repeats. What is left to grow with the ranks is the pieces of one rank, so of
 * very large stages fewer are looked at; and a price is remembered.
 *
 * A node's network is shared by those of its devices that send past it: on average over the ranks looked at.
 */
#include <string.h>

#include "passes/price_parts.h"

enum { SAMPLES = 64, FEW = 16, MANY_RANKS = 4096 };

typedef struct Remembered {
	uint64_t hash;
	const char *key;
	size_t n;
	int64_t ns;
} Remembered;

struct ExchangeMemo {
	Remembered *r; /* open addressing; free: key NULL */
	uint32_t n, cap;
};

/* ---- memory ---- */

static Remembered *
slot_of(const struct ExchangeMemo *x, const Buf *key, uint64_t hash)
{
	uint32_t i = (uint32_t)hash & (x->cap - 1);
	while (x->r[i].key && !(x->r[i].hash == hash && x->r[i].n == key->n &&
				memcmp(x->r[i].key, key->s, key->n) == 0))
		i = (i + 1) & (x->cap - 1);
	return &x->r[i];
}

static Remembered *
memo_slot(Price *p, const Buf *key, uint64_t hash)
{
	struct ExchangeMemo *x = p->exchanges, was;
	if (!x) x = p->exchanges = NEW(p->a, struct ExchangeMemo);
	was = *x;
	if (4 * (x->n + 1) > 3 * x->cap) {
		x->cap = x->cap ? 2 * x->cap : 64;
		x->r = NEW_N(p->a, Remembered, x->cap);
		for (uint32_t i = 0; i < was.cap; i++) {
			if (!was.r[i].key) continue;
			uint32_t at = (uint32_t)was.r[i].hash & (x->cap - 1);
			while (x->r[at].key)
				at = (at + 1) & (x->cap - 1);
			x->r[at] = was.r[i];
		}
	}
	return slot_of(x, key, hash);
}

static void
put_side(const Module *m, const Side *s, Buf *out)
{
	for (int k = 0; s->mesh && k < s->mesh->n; k++)
		buf_printf(out, "%u ", s->mesh->ax[k].degree);
	for (int k = 0; k < s->type.n; k++) {
		buf_printf(out, "a%u:%lld", s->type.ax[k].a.i,
			   (long long)ir_extent(m, s->type.ax[k].a));
		for (int j = 0; j < s->type.ax[k].nshard; j++)
			buf_printf(out, ".%u", s->type.ax[k].shard[j]);
	}
	buf_printf(out, "+%u;", s->type.partial);
}

/* All that decides the price. On a cluster of equal nodes it is how far into a node the stages begin, and how far apart. */
static void
put_key(const Price *p, const Module *m, const Prim *x, Buf *out)
{
	const Stage *from = &m->plan.stages[x->from.stage], *to = &m->plan.stages[x->to.stage];
	const Cluster *c = p->cluster;
	bool ends =
	    from->rank + from->ranks >= c->devices || to->rank + to->ranks >= c->devices;
	uint32_t at = c->nrun == 1 && !ends ? from->rank % c->run[0].devices : from->rank;
	buf_printf(out, "%d %u %u %lld %u;", x->dt, at, from->ranks,
		   (long long)to->rank - from->rank, to->ranks);
	put_side(m, &x->from, out);
	put_side(m, &x->to, out);
}

/* ---- who is looked at ---- */

static uint32_t
coordinate(uint32_t k, uint32_t n, uint32_t degree)
{
	if (n >= degree || k + 2 < n) return k;
	return k + 2 == n ? degree / 2 : degree - 1;
}

/* Ranks of the side that stand for all, each once. */
static uint32_t
pick_ranks(const Module *m, const Side *s, uint32_t out[SAMPLES])
{
	static const uint32_t many[MAX_MESH + 1] = {1, SAMPLES, 8, 4, 2, 2, 2, 1, 1},
					      few[MAX_MESH + 1] = {1, FEW, 4, 2, 2, 1, 1, 1, 1};
	const Stage *st = &m->plan.stages[s->stage];
	uint32_t n = 0, count[MAX_MESH] = {1}, k[MAX_MESH] = {0}, coord[MAX_MESH] = {0};
	const uint32_t *per = st->ranks > MANY_RANKS ? few : many;
	int long_axes = 0, i;
	if (st->ranks <= SAMPLES || !s->mesh) {
		while (n < st->ranks && n < SAMPLES)
			out[n] = st->rank + n, n++;
		return n;
	}
	for (i = 1; i < s->mesh->n; i++)
		long_axes += s->mesh->ax[i].degree > 1;
	for (i = 1; i < s->mesh->n; i++) {
		uint32_t degree = s->mesh->ax[i].degree;
		count[i] = degree < per[long_axes] ? degree : per[long_axes];
	}
	do {
		for (i = 1; i < s->mesh->n; i++)
			coord[i] = coordinate(k[i], count[i], s->mesh->ax[i].degree);
		out[n++] = ir_rank_at(st, s->mesh, coord);
		for (i = s->mesh->n - 1; i > 0 && ++k[i] == count[i]; i--)
			k[i] = 0;
	} while (i > 0 && n < SAMPLES);
	return n;
}

/* ---- what they send ---- */

typedef struct Most { /* bytes of the rank that has most, and whom it has them with */
	int64_t bytes;
	uint32_t from, to;
} Most;

typedef struct Flow {
	Most near, far;
	int64_t kept;    /* most that stays in a rank */
	int64_t far_sum; /* of the ranks looked at */
	uint32_t sampled;
} Flow;

static void
more(Most *m, int64_t bytes, const Piece *x)
{
	if (bytes > m->bytes) *m = (Most){bytes, x->from, x->to};
}

static void
look_at(const Price *p, const Module *m, const Prim *prim, uint32_t rank, bool sending, Flow *f)
{
	Arena *tmp = arena_new();
	Piece *piece, near = {0}, far = {0};
	uint32_t n = ir_pieces(m, prim, rank, sending, tmp, &piece);
	int64_t in = 0, past = 0, kept = 0;
	for (uint32_t i = 0; i < n; i++) {
		int64_t bytes = piece[i].count * dtype_bytes(prim->dt);
		if (piece[i].from == piece[i].to) {
			kept += bytes;
		} else if (price_node(p, piece[i].from, NULL, NULL) ==
			   price_node(p, piece[i].to, NULL, NULL)) {
			in += bytes;
			near = piece[i];
		} else {
			past += bytes;
			far = piece[i];
		}
	}
	more(&f->near, in, &near);
	more(&f->far, past, &far);
	if (kept > f->kept) f->kept = kept;
	f->far_sum += past;
	f->sampled++;
	arena_free(tmp);
}

/* Devices of the node that send past it, if each sent as much as the one that sends most. */
static uint32_t
beside(const Price *p, const Module *m, const Side *s, const Flow *f)
{
	uint32_t run, ranks = m->plan.stages[s->stage].ranks;
	price_node(p, m->plan.stages[s->stage].rank, NULL, &run);
	uint32_t d = p->cluster->run[run].devices;
	double here = ranks < d ? ranks : d;
	double n = here * (double)f->far_sum / f->sampled / (double)f->far.bytes;
	return n > 1 ? (uint32_t)(n + 0.999) : 1;
}

static int64_t
flow_time(const Price *p, const Module *m, const Side *s, const Flow *f)
{
	const Device *d =
	    cluster_device(p->cluster, m->plan.stages[s->stage].rank < p->cluster->devices
					   ? m->plan.stages[s->stage].rank
					   : p->cluster->devices - 1);
	int64_t near = price_message(p, f->near.bytes, f->near.from, f->near.to, 1), far = 0;
	int64_t copy = price_round(2 * (double)f->kept / (d->bytes * d->eff[EF_bytes]) * 1e9);
	if (f->far.bytes)
		far =
		    price_message(p, f->far.bytes, f->far.from, f->far.to, beside(p, m, s, f));
	return copy + (near > far ? near : far);
}

static int64_t
exchange(const Price *p, const Module *m, const Prim *x)
{
	uint32_t rank[SAMPLES];
	int64_t most = 0;
	for (int sending = 0; sending < 2; sending++) {
		const Side *s = sending ? &x->from : &x->to;
		Flow f = {0};
		uint32_t n = pick_ranks(m, s, rank);
		for (uint32_t i = 0; i < n; i++)
			look_at(p, m, x, rank[i], sending, &f);
		int64_t ns = flow_time(p, m, s, &f);
		if (ns > most) most = ns;
	}
	return most;
}

int64_t
price_exchange(Price *p, const Module *m, const Prim *x)
{
	Arena *tmp = arena_new();
	Buf key;
	buf_init(&key, tmp);
	put_key(p, m, x, &key);
	uint64_t hash = hash_bytes(key.s, key.n, 0);
	Remembered *r = memo_slot(p, &key, hash);
	if (!r->key) {
		int64_t ns = exchange(p, m, x);
		*r = (Remembered){hash, arena_dup(p->a, key.s, key.n), key.n, ns};
		p->exchanges->n++;
	}
	arena_free(tmp);
	return r->ns;
}
