/*
 * comm_window.c - communication between the ranks of one node whose arenas lie in shared memory: nothing is copied but the result.
 *
 * A rank publishes where its operand lies, and a counter. An all-reduce: when all have published, every rank sums its
 * slice over all arenas, in rank order, and writes it to all of them; when all have worked it is done: two passes over memory, and
 * the same bits on every rank and every time. Reduce-scatter, all-gather and messages are read by the receiver where they lie.
 *
 * Orders: a counter is stored with release after what it announces, and loaded with acquire before that is read. Descriptors are rings
 * of `depth` > the requests there are: one is written again only after an operation as old, or younger, is complete.
 */
#ifdef GVRT_MPI
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "comm.h"

#define LINE_BYTES 64 /* of a cache: counters that different ranks write are this far apart */

enum { TILE = 2048 /* elements summed at a time */, ALIGN = 2 << 20 };

typedef struct Counter {
	_Alignas(LINE_BYTES) _Atomic uint64_t n;
} Counter;

typedef struct Desc {  /* an operand */
	int64_t at, n; /* bytes from the arena; elements, to be compared */
} Desc;

typedef struct Box { /* messages to one rank in one channel */
	_Alignas(LINE_BYTES) _Atomic uint64_t posted;
	_Alignas(LINE_BYTES) _Atomic uint64_t taken; /* by the receiver */
	int32_t peer, from, to, channel;
} Box;

typedef struct Head { /* where a rank's parts are, bytes from the beginning of its memory */
	int64_t bytes, arena, published, worked, desc, box, place;
	int64_t nboxes, depth, ncomms;
	Counter sum;
	double sums[2][SUM_MAX];
} Head;

typedef struct Incoming { /* the box of a rank that sends to this one */
	int peer, line, box;
	uint64_t begun;
} Incoming;

typedef struct Outgoing {
	int peer, line;
	uint64_t begun;
} Outgoing;

typedef struct Window {
	Head **head; /* [world ranks] */
	Incoming *in;
	Outgoing *out;
	int nin, nout;
} Window;

/* ---- where things are ---- */

static Counter *
published(const Comm *c, int rank, int comm)
{
	Head *h = c->window->head[rank];
	return (Counter *)(void *)((char *)h + h->published) + comm;
}

static Counter *
worked(const Comm *c, int rank, int comm)
{
	Head *h = c->window->head[rank];
	return (Counter *)(void *)((char *)h + h->worked) + comm;
}

static Desc *
desc(const Comm *c, int rank, int comm, uint64_t ticket)
{
	Head *h = c->window->head[rank];
	Desc *d = (Desc *)(void *)((char *)h + h->desc);
	return d + comm * h->depth + (int64_t)(ticket % (uint64_t)h->depth);
}

static Box *
box(const Comm *c, int rank, int i)
{
	Head *h = c->window->head[rank];
	return (Box *)(void *)((char *)h + h->box) + i;
}

/* The place of message `seq` of a box: bytes from the sender's arena. */
static int64_t *
place(const Comm *c, int rank, int i, uint64_t seq)
{
	Head *h = c->window->head[rank];
	int64_t *x = (int64_t *)(void *)((char *)h + h->place);
	return x + i * h->depth + (int64_t)(seq % (uint64_t)h->depth);
}

static void *
arena_of(const Comm *c, int rank, int64_t at)
{
	Head *h = c->window->head[rank];
	return (char *)h + h->arena + at;
}

static int64_t
offset(const Comm *c, const void *x)
{
	int64_t at = (const unsigned char *)x - c->arena;
	if (at < 0 || at > c->p->arena_bytes)
		comm_die(c, "internal error: a buffer outside the arena");
	return at;
}

/* ---- collectives ---- */

static bool
all_reached(const Comm *c, Op *o, bool work)
{
	const Group *g = &c->groups[o->comm];
	for (; o->reached < g->size; o->reached++) {
		int rank = g->rank[o->reached];
		Counter *x = work ? worked(c, rank, o->comm) : published(c, rank, o->comm);
		if (atomic_load_explicit(&x->n, memory_order_acquire) <= o->ticket)
			return false;
	}
	o->reached = 0;
	return true;
}

static real *
operand(const Comm *c, const Op *o, int member)
{
	int rank = c->groups[o->comm].rank[member];
	return arena_of(c, rank, desc(c, rank, o->comm, o->ticket)->at);
}

static void
check_sizes(const Comm *c, const Op *o, int64_t n)
{
	const Group *g = &c->groups[o->comm];
	for (int j = 0; j < g->size; j++) {
		int64_t theirs = desc(c, g->rank[j], o->comm, o->ticket)->n;
		if (theirs != n)
			comm_die(
			    c,
			    "internal error: %s of %lld elements in %s, and rank %d has %lld",
			    op_kind_text[o->kind], (long long)n, o->label, g->rank[j],
			    (long long)theirs);
	}
}

/* acc = x, acc + x, max(acc, x) over a tile */
static void
take(real *restrict acc, const real *restrict x, int64_t n, bool first, bool max)
{
	if (first)
		memcpy(acc, x, (size_t)n * sizeof *acc);
	else if (max)
		for (int64_t i = 0; i < n; i++)
			acc[i] = x[i] > acc[i] ? x[i] : acc[i];
	else
		for (int64_t i = 0; i < n; i++)
			acc[i] += x[i];
}

/* Elements [lo, hi) of the operand, summed in rank order, to every member. */
static void
reduce_slice(const Comm *c, const Op *o, int64_t lo, int64_t hi)
{
	const Group *g = &c->groups[o->comm];
	OMP(omp parallel for schedule(static))
	for (int64_t at = lo; at < hi; at += TILE) {
		real acc[TILE];
		int64_t n = hi - at < TILE ? hi - at : TILE;
		for (int j = 0; j < g->size; j++)
			take(acc, operand(c, o, j) + at, n, j == 0, o->max);
		for (int j = 0; j < g->size; j++)
			memcpy(operand(c, o, j) + at, acc, (size_t)n * sizeof *acc);
	}
}

static void
work_all_reduce(const Comm *c, const Op *o)
{
	const Group *g = &c->groups[o->comm];
	/* Slices are whole cache lines: two ranks do not write one. */
	int64_t unit = LINE_BYTES / (int64_t)sizeof(real);
	int64_t block = ((o->inner + g->size - 1) / g->size + unit - 1) / unit * unit;
	int64_t lo = g->me * block, hi = lo + block;
	if (hi > o->inner) hi = o->inner;
	if (lo < hi) reduce_slice(c, o, lo, hi);
}

static void
work_reduce_scatter(const Comm *c, const Op *o)
{
	const Group *g = &c->groups[o->comm];
	int64_t tiles = (o->inner + TILE - 1) / TILE;
	OMP(omp parallel for schedule(static))
	for (int64_t t = 0; t < o->outer * tiles; t++) {
		real acc[TILE];
		int64_t row = t / tiles, at = t % tiles * TILE;
		int64_t n = o->inner - at < TILE ? o->inner - at : TILE;
		real *out = o->out + row * o->inner + at;
		for (int j = 0; j < g->size; j++)
			take(acc, operand(c, o, j) + (row * g->size + g->me) * o->inner + at, n,
			     j == 0, false);
		take(out, acc, n, !o->add, false);
	}
}

static void
work_all_gather(const Comm *c, const Op *o)
{
	const Group *g = &c->groups[o->comm];
	for (int j = 0; j < g->size; j++) {
		const char *x = (const char *)operand(c, o, j);
		const int64_t block = o->inner * o->elem;
		OMP(omp parallel for schedule(static) if (o->outer > 1))
		for (int64_t i = 0; i < o->outer; i++) {
			char *to = (char *)o->out + (i * g->size + j) * block;
			const char *from = x + i * block;
			if (to != from) memcpy(to, from, (size_t)block);
		}
	}
}

static void
begin_collective(Comm *c, Op *o)
{
	const void *x = o->kind == CO_all_reduce ? o->out : o->in;
	int64_t n = o->kind == CO_all_reduce ? o->inner : o->outer * o->inner;
	*desc(c, c->rank, o->comm, o->ticket) = (Desc){offset(c, x), n};
	atomic_store_explicit(&published(c, c->rank, o->comm)->n, o->ticket + 1,
			      memory_order_release);
}

static bool
test_collective(Comm *c, Op *o)
{
	Group *g = &c->groups[o->comm];
	if (o->phase == 0) {
		if (g->worked != o->ticket || !all_reached(c, o, false)) return false;
		check_sizes(c, o, o->kind == CO_all_reduce ? o->inner : o->outer * o->inner);
		if (o->kind == CO_all_reduce) work_all_reduce(c, o);
		if (o->kind == CO_reduce_scatter) work_reduce_scatter(c, o);
		if (o->kind == CO_all_gather) work_all_gather(c, o);
		g->worked++;
		atomic_store_explicit(&worked(c, c->rank, o->comm)->n, o->ticket + 1,
				      memory_order_release);
		o->phase = 1;
	}
	return all_reached(c, o, true);
}

/* ---- messages ---- */

static void
begin_messages(Comm *c, Op *o)
{
	Window *w = c->window;
	const Exchange *e = &c->exchanges[o->comm];
	for (int i = 0; i < e->nrecv; i++)
		o->seq[i] = e->recv[i].peer == c->rank ? 0 : ++w->in[e->recv[i].box].begun;
	for (int i = 0; i < e->nsend; i++) {
		int k = e->send[i].box;
		uint64_t seq = o->seq[e->nrecv + i] = ++w->out[k].begun;
		*place(c, c->rank, k, seq) = offset(c, o->src);
		atomic_store_explicit(&box(c, c->rank, k)->posted, seq, memory_order_release);
	}
}

/* Takes a message that has been posted, if those before it are taken. */
static bool
receive(const Comm *c, const Op *o, const Piece *q, int64_t elem, uint64_t seq)
{
	const Incoming *in = &c->window->in[q->box];
	Box *b = box(c, in->peer, in->box);
	if (atomic_load_explicit(&b->posted, memory_order_acquire) < seq ||
	    atomic_load_explicit(&b->taken, memory_order_relaxed) + 1 != seq)
		return false;
	int64_t at = *place(c, in->peer, in->box, seq);
	exchange_copy(q, elem, arena_of(c, in->peer, at), o->arrive);
	atomic_store_explicit(&b->taken, seq, memory_order_release);
	return true;
}

static bool
test_messages(Comm *c, Op *o)
{
	const Exchange *e = &c->exchanges[o->comm];
	bool all = true;
	for (int i = 0; i < e->nrecv; i++) {
		if (o->seq[i] && receive(c, o, &e->recv[i], e->x->elem, o->seq[i]))
			o->seq[i] = 0;
		all = all && !o->seq[i];
	}
	for (int i = 0; i < e->nsend && all; i++) {
		Box *b = box(c, c->rank, e->send[i].box);
		all = atomic_load_explicit(&b->taken, memory_order_acquire) >=
		      o->seq[e->nrecv + i];
	}
	return all;
}

/* ---- the table ---- */

static void
begin(Comm *c, Op *o)
{
	if (o->kind == CO_exchange)
		begin_messages(c, o);
	else
		begin_collective(c, o);
}

static bool
test(Comm *c, Op *o)
{
	return o->kind == CO_exchange ? test_messages(c, o) : test_collective(c, o);
}

/* Two areas take turns: a rank is at most one call ahead of the others. */
static void
sum(Comm *c, double *x, int n, bool step)
{
	(void)step;
	Head **head = c->window->head;
	uint64_t call = c->sums;
	for (int i = 0; i < n; i++)
		head[c->rank]->sums[call % 2][i] = x[i];
	atomic_store_explicit(&head[c->rank]->sum.n, call + 1, memory_order_release);
	for (int j = 0; j < c->size; j++)
		while (atomic_load_explicit(&head[j]->sum.n, memory_order_acquire) <= call) {
			comm_move(c);
			sched_yield();
		}
	for (int i = 0; i < n; i++) {
		double s = 0;
		for (int j = 0; j < c->size; j++)
			s += head[j]->sums[call % 2][i];
		x[i] = s;
	}
}

const Transport comm_via_window = {true, begin, test, sum};

/* ---- starting ---- */

static int64_t
up(int64_t n, int64_t unit)
{
	return (n + unit - 1) / unit * unit;
}

/* Boxes this rank sends from, one for each (line, peer), and those it receives from. */
static void
number_boxes(Comm *c, Window *w)
{
	for (size_t k = 0; k < c->p->nexchanges; k++) {
		Exchange *e = &c->exchanges[k];
		for (int i = 0; i < e->nsend; i++) {
			int j = 0;
			while (j < w->nout &&
			       (w->out[j].line != e->line || w->out[j].peer != e->send[i].peer))
				j++;
			e->send[i].box = j;
			w->out[j].line = e->line;
			w->out[j].peer = e->send[i].peer;
			if (j == w->nout) w->nout++;
		}
		for (int i = 0; i < e->nrecv; i++) {
			int j = 0;
			if (e->recv[i].peer == c->rank) continue;
			while (j < w->nin &&
			       (w->in[j].line != e->line || w->in[j].peer != e->recv[i].peer))
				j++;
			e->recv[i].box = j;
			w->in[j].line = e->line;
			w->in[j].peer = e->recv[i].peer;
			if (j == w->nin) w->nin++;
		}
	}
}

static const GvrtExchange *
line_exchange(const Comm *c, int line)
{
	size_t k = 0;
	while (c->exchanges[k].line != line)
		k++;
	return c->exchanges[k].x;
}

static Head
lay_out(const Comm *c, const Window *w)
{
	Head h = {.depth = (int64_t)c->p->nrequests + 2,
		  .ncomms = (int64_t)c->p->ncomms + 1,
		  .nboxes = w->nout};
	int64_t at = up(sizeof h, LINE_BYTES);
	h.published = at;
	at += h.ncomms * (int64_t)sizeof(Counter);
	h.worked = at;
	at += h.ncomms * (int64_t)sizeof(Counter);
	h.box = at;
	at += h.nboxes * (int64_t)sizeof(Box);
	h.desc = at;
	at += h.ncomms * h.depth * (int64_t)sizeof(Desc);
	h.place = at;
	at += h.nboxes * h.depth * (int64_t)sizeof(int64_t);
	h.arena = up(at, ALIGN);
	h.bytes = h.arena + up(c->p->arena_bytes, 4096);
	return h;
}

/* The peers' boxes that this rank receives from, by what they say of themselves. */
static void
find_boxes(const Comm *c, Window *w)
{
	for (int i = 0; i < w->nin; i++) {
		const GvrtExchange *x = line_exchange(c, w->in[i].line);
		int64_t n = w->head[w->in[i].peer]->nboxes;
		int k = 0;
		for (; k < n; k++) {
			const Box *b = box(c, w->in[i].peer, k);
			if (b->peer == c->rank && b->from == x->from.stage &&
			    b->to == x->to.stage && b->channel == x->channel)
				break;
		}
		if (k == n)
			comm_die(c, "internal error: rank %d does not send %s", w->in[i].peer,
				 x->label);
		w->in[i].box = k;
	}
}

typedef struct Card {
	int32_t pid, fd;
	int64_t bytes;
	uint64_t hash;
} Card;

/* The memory of this rank, made and described; NULL. */
static Head *
make_own(Comm *c, Window *w, Card *mine, Err *e)
{
	Head h = lay_out(c, w);
	*mine = (Card){(int32_t)getpid(), share_make("gvrt-arena", h.bytes, e), h.bytes,
		       c->p->plan_hash + (uint64_t)c->rank};
	Head *own = mine->fd >= 0 ? share_map(mine->pid, mine->fd, h.bytes, e) : NULL;
	if (!own) return NULL;
	arena_touch((unsigned char *)own + h.arena, c->p->arena_bytes);
	*own = h;
	w->head[c->rank] = own;
	for (int i = 0; i < w->nout; i++) {
		const GvrtExchange *x = line_exchange(c, w->out[i].line);
		Box *b = box(c, c->rank, i);
		b->peer = w->out[i].peer;
		b->from = x->from.stage;
		b->to = x->to.stage;
		b->channel = x->channel;
	}
	return own;
}

unsigned char *
window_start(Comm *c, Pool *pool, Err *e)
{
	Window *w = c->window = POOL_N(pool, Window, 1);
	Card mine = {0, -1, 0, 0}, *all = POOL_N(pool, Card, c->node_size);
	int64_t pieces = 0;
	bool ok = true;
	if (!mpi_same(c, c->node_size) || c->node_size != c->size) {
		rt_fail(e, "they are on several machines");
		return NULL;
	}
	for (size_t k = 0; k < c->p->nexchanges; k++)
		pieces += c->exchanges[k].nsend + c->exchanges[k].nrecv;
	w->head = POOL_N(pool, Head *, c->size);
	w->in = POOL_N(pool, Incoming, pieces + 1);
	w->out = POOL_N(pool, Outgoing, pieces + 1);
	number_boxes(c, w);
	ok = arena_fits(c->p->arena_bytes, c->node_bytes, e);
	/* all have looked before one takes */
	if (!mpi_same(c, ok) || !ok) {
		if (ok) rt_fail(e, "there is too little memory");
		return NULL;
	}
	ok = make_own(c, w, &mine, e) != NULL;
	mpi_node_gather(c, &mine, sizeof mine, all);
	for (int i = 0; i < c->size && ok; i++) {
		if (i == c->rank) continue;
		w->head[i] = share_map(all[i].pid, all[i].fd, all[i].bytes, e);
		ok = w->head[i] != NULL;
	}
	bool same = mpi_same(c, ok) && ok;
	if (mine.fd >= 0) close(mine.fd);
	if (!same) {
		if (ok) rt_fail(e, "a rank could not reach the memory of another");
		return NULL;
	}
	c->arena = (unsigned char *)w->head[c->rank] + w->head[c->rank]->arena;
	find_boxes(c, w);
	c->sums = 0;
	return c->arena;
}
#else
typedef int comm_window_is_not_built;
#endif
