/*
 * comm_mpi.c - communication over MPI, of which it needs version 3.1: communicators by MPI_Comm_split in the order of the
 * global table, non-blocking collectives and messages, waits that test and yield. Strided blocks are data types.
 *
 * Calls of MPI_Comm_split are the entries of the table and nothing else; steps use these communicators and, for messages, tags
 * that are channels; the runtime's own talk goes over others.
 *
 * GVRT_SYNC_SEND=1 sends synchronously: what only works because a library buffers shows up as a hang in tests.
 */
#ifdef GVRT_MPI
#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdlib.h>

#include "comm.h"

enum { CHUNK = 1 << 30, CHUNKS = 8, TYPES = 512 };

#ifdef GVRT_F64
#define REAL MPI_DOUBLE
#else
#define REAL MPI_FLOAT
#endif

typedef struct Strided { /* a member's blocks in the result of an all-gather */
	int64_t outer, inner;
	int size, elem;
	MPI_Datatype type;
} Strided;

typedef struct Mpi {
	MPI_Comm world, messages, node;
	Strided strided[TYPES];
	int nstrided;
} Mpi;

static MPI_Comm
comm_of(const Comm *c, int group)
{
	return *(MPI_Comm *)c->groups[group].mpi;
}

static int
small(const Comm *c, int64_t n, const char *label)
{
	if (n > INT_MAX)
		comm_die(c, "%s: %lld elements are more than MPI counts", label, (long long)n);
	return (int)n;
}

/* ---- starting ---- */

bool
mpi_start(Comm *c, Pool *pool, Err *e)
{
	Mpi *m = POOL_N(pool, Mpi, 1);
	int got, size, rank;
	MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &got);
	MPI_Comm_dup(MPI_COMM_WORLD, &m->world);
	MPI_Comm_size(m->world, &size);
	MPI_Comm_rank(m->world, &rank);
	c->mpi = m;
	if (size != c->size || rank != c->rank)
		return rt_fail(e,
			       "MPI says rank %d of %d, and the environment %d of %d: start "
			       "with the mpirun of the MPI that the program is linked with",
			       rank, size, c->rank, c->size);
	MPI_Comm_dup(m->world, &m->messages);
	MPI_Comm_split_type(m->world, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &m->node);
	MPI_Comm_size(m->node, &c->node_size);
	c->node = POOL_N(pool, int, c->node_size);
	MPI_Allgather(&c->rank, 1, MPI_INT, c->node, 1, MPI_INT, m->node);
	MPI_Allreduce(&c->p->arena_bytes, &c->node_bytes, 1, MPI_INT64_T, MPI_SUM, m->node);
	return true;
}

static MPI_Datatype
piece_type(const Piece *q, const int64_t *stride, int64_t elem)
{
	MPI_Datatype t, next;
	int last = q->naxes - 1;
	bool dense = last >= 0 && stride[last] == 1;
	MPI_Type_contiguous((int)elem, MPI_BYTE, &t);
	if (dense) {
		MPI_Type_contiguous((int)q->n[last], t, &next);
		MPI_Type_free(&t);
		t = next;
	}
	for (int k = dense ? last - 1 : last; k >= 0; k--) {
		MPI_Type_create_hvector((int)q->n[k], 1, (MPI_Aint)(stride[k] * elem), t,
					&next);
		MPI_Type_free(&t);
		t = next;
	}
	MPI_Type_commit(&t);
	return t;
}

bool
mpi_lines(Comm *c, Pool *pool, Err *e)
{
	size_t ncomms = c->p->ncomms > 0 ? c->p->ncomms : 1;
	size_t requests = CHUNKS;
	for (size_t k = 0; k < ncomms; k++) {
		MPI_Comm *out = POOL_N(pool, MPI_Comm, 1);
		Group *g = &c->groups[k];
		bool member = k == 0 || g->size > 1;
		MPI_Comm_split(c->mpi->world, member ? g->rank[0] : MPI_UNDEFINED, c->rank,
			       out);
		g->mpi = out;
	}
	for (size_t k = 0; k < c->p->nexchanges; k++) {
		Exchange *x = &c->exchanges[k];
		for (int side = 0; side < 2; side++)
			for (int i = 0; i < (side ? x->nrecv : x->nsend); i++) {
				Piece *q = side ? &x->recv[i] : &x->send[i];
				const int64_t *stride = side ? q->dst : q->src;
				for (int a = 0; a < q->naxes; a++)
					if (q->n[a] > INT_MAX)
						return rt_fail(e,
							       "%s: more elements than MPI "
							       "counts",
							       x->x->label);
				MPI_Datatype *t = POOL_N(pool, MPI_Datatype, 1);
				*t = piece_type(q, stride, x->x->elem);
				q->mpi = t;
			}
		size_t n = (size_t)(x->nsend + x->nrecv);
		if (n > requests) requests = n;
	}
	for (size_t k = 0; k <= c->p->nrequests; k++)
		for (int i = 0; i < OPS_OF_REQUEST; i++)
			c->requests[k].op[i].mpi = POOL_N(pool, MPI_Request, requests);
	return true;
}

void
mpi_stop(Comm *c)
{
	(void)c;
	MPI_Finalize();
}

void
mpi_abort(int status)
{
	int on = 0;
	MPI_Initialized(&on);
	if (on) MPI_Abort(MPI_COMM_WORLD, status);
	_Exit(status);
}

bool
mpi_same(Comm *c, int64_t x)
{
	int64_t both[2] = {x, -x};
	MPI_Allreduce(MPI_IN_PLACE, both, 2, MPI_INT64_T, MPI_MIN, c->mpi->world);
	return both[0] == -both[1];
}

void
mpi_node_gather(Comm *c, const void *mine, size_t bytes, void *all)
{
	MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, c->mpi->node);
}

void
mpi_sum(Comm *c, double *x, int n, bool step)
{
	MPI_Comm comm = step ? comm_of(c, 0) : c->mpi->world;
	MPI_Request q;
	int done = 0;
	if (n == 0)
		MPI_Ibarrier(comm, &q);
	else
		MPI_Iallreduce(MPI_IN_PLACE, x, n, MPI_DOUBLE, MPI_SUM, comm, &q);
	for (;;) {
		MPI_Test(&q, &done, MPI_STATUS_IGNORE);
		if (done) return;
		comm_move(c);
		sched_yield();
	}
}

/* ---- operations ---- */

static void
begin_all_reduce(Comm *c, Op *o, MPI_Request *q)
{
	if (o->inner > (int64_t)CHUNK * CHUNKS) small(c, INT64_MAX, o->label);
	for (int64_t at = 0; at < o->inner; at += CHUNK) {
		int n = (int)(o->inner - at < CHUNK ? o->inner - at : CHUNK);
		MPI_Iallreduce(MPI_IN_PLACE, o->out + at, n, REAL, o->max ? MPI_MAX : MPI_SUM,
			       comm_of(c, o->comm), &q[o->nmpi++]);
	}
}

/* [outer][members][inner] -> [members][outer][inner], so that what one member gets is in one piece. */
static void
pack(const Op *o, int size)
{
	for (int64_t i = 0; i < o->outer; i++)
		for (int64_t j = 0; j < size; j++)
			memcpy(o->work + (j * o->outer + i) * o->inner,
			       o->in + (i * size + j) * o->inner,
			       (size_t)o->inner * sizeof(real));
}

static void
begin_reduce_scatter(Comm *c, Op *o, MPI_Request *q)
{
	int n = small(c, o->outer * o->inner, o->label);
	MPI_Comm comm = comm_of(c, o->comm);
	if (o->outer > 1) {
		pack(o, c->groups[o->comm].size);
		MPI_Ireduce_scatter_block(o->work, o->out, n, REAL, MPI_SUM, comm, q);
	} else if (o->work == o->in) { /* it may be overwritten: what is received begins it */
		MPI_Ireduce_scatter_block(MPI_IN_PLACE, o->work, n, REAL, MPI_SUM, comm, q);
	} else {
		MPI_Ireduce_scatter_block(o->in, o->out, n, REAL, MPI_SUM, comm, q);
	}
	o->nmpi = 1;
}

/* What is only moved has a type of its size. */
static MPI_Datatype
element_type(int elem)
{
	return elem == sizeof(real) ? REAL : elem == 4 ? MPI_INT32_T : MPI_BYTE;
}

/* Made at the first step that needs it, and kept. */
static MPI_Datatype
strided_type(Comm *c, int64_t outer, int64_t inner, int size, int elem, const char *label)
{
	Mpi *m = c->mpi;
	MPI_Datatype vector, type;
	for (int i = 0; i < m->nstrided; i++) {
		const Strided *s = &m->strided[i];
		if (s->outer == outer && s->inner == inner && s->size == size &&
		    s->elem == elem)
			return s->type;
	}
	MPI_Type_vector(small(c, outer, label), small(c, inner, label),
			small(c, inner * size, label), element_type(elem), &vector);
	MPI_Type_create_resized(vector, 0, (MPI_Aint)(inner * elem), &type);
	MPI_Type_commit(&type);
	MPI_Type_free(&vector);
	if (m->nstrided == TYPES) comm_die(c, "%s: too many shapes are gathered", label);
	m->strided[m->nstrided++] = (Strided){outer, inner, size, elem, type};
	return type;
}

static void
begin_all_gather(Comm *c, Op *o, MPI_Request *q)
{
	const Group *g = &c->groups[o->comm];
	int n = small(c, o->outer * o->inner, o->label);
	MPI_Comm comm = comm_of(c, o->comm);
	bool in_place = (const char *)o->in == (char *)o->out + (int64_t)g->me * n * o->elem;
	MPI_Datatype one = element_type(o->elem);
	if (o->outer > 1) {
		MPI_Datatype type =
		    strided_type(c, o->outer, o->inner, g->size, o->elem, o->label);
		MPI_Iallgather(o->in, n, one, o->out, 1, type, comm, q);
	} else if (in_place) {
		MPI_Iallgather(MPI_IN_PLACE, 0, one, o->out, n, one, comm, q);
	} else {
		MPI_Iallgather(o->in, n, one, o->out, n, one, comm, q);
	}
	o->nmpi = 1;
}

static void
begin_messages(Comm *c, Op *o, MPI_Request *q)
{
	const Exchange *e = &c->exchanges[o->comm];
	int64_t elem = e->x->elem;
	for (int i = 0; i < e->nrecv; i++) {
		const Piece *x = &e->recv[i];
		if (x->peer == c->rank) continue;
		MPI_Irecv((char *)o->arrive + x->dst_at * elem, 1, *(MPI_Datatype *)x->mpi,
			  x->peer, e->x->channel, c->mpi->messages, &q[o->nmpi++]);
	}
	for (int i = 0; i < e->nsend; i++) {
		const Piece *x = &e->send[i];
		const char *from = (const char *)o->src + x->src_at * elem;
		(c->sync_send ? MPI_Issend : MPI_Isend)(from, 1, *(MPI_Datatype *)x->mpi,
							x->peer, e->x->channel,
							c->mpi->messages, &q[o->nmpi++]);
	}
}

static void
begin(Comm *c, Op *o)
{
	MPI_Request *q = o->mpi;
	switch (o->kind) {
	case CO_all_reduce: begin_all_reduce(c, o, q); break;
	case CO_reduce_scatter: begin_reduce_scatter(c, o, q); break;
	case CO_all_gather: begin_all_gather(c, o, q); break;
	case CO_exchange: begin_messages(c, o, q); break;
	case CO_KINDS: break;
	}
}

static bool
test(Comm *c, Op *o)
{
	int done = 0;
	int64_t n = o->outer * o->inner;
	(void)c;
	MPI_Testall(o->nmpi, o->mpi, &done, MPI_STATUSES_IGNORE);
	if (!done) return false;
	/* The result of a reduce-scatter in place begins its operand. */
	if (o->kind != CO_reduce_scatter || o->work != o->in || o->outer > 1) return true;
	if (o->add)
		for (int64_t i = 0; i < n; i++)
			o->out[i] += o->work[i];
	else if (o->out != o->work)
		memmove(o->out, o->work, (size_t)n * sizeof(real));
	return true;
}

const Transport comm_via_mpi = {false, begin, test, mpi_sum};
#else
typedef int comm_mpi_is_not_built;
#endif
