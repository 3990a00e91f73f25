/*
 * comm.c - what steps call to communicate, over one table of functions. Programs of one rank never come here.
 *
 * Start: MPI, agreement on the plan, communicators out of the global table, exchange plans, a transport, watching each other.
 * In a step nothing is allocated here, and every wait yields: ranks may outnumber cores.
 */
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>

#include "comm.h"

const char *const op_kind_text[CO_KINDS] = {"all_reduce", "reduce_scatter", "all_gather",
					    "exchange"};

void
comm_die(const Comm *c, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	rt_error("rank %d (stage %d): %s", c->rank, c->stage, text);
	comm_abort(1);
}

/* ---- coordinates ---- */

static void
coords_of(const GvrtRun *r, int mesh, int64_t coord[GVRT_MESH])
{
	struct GvrtState *s = r->state;
	const GvrtProgram *p = s->p;
	part_coords(&p->meshes[mesh], s->at.rank - p->stage_ranks[p->stage].rank, coord);
}

int64_t
gv_coord(const GvrtRun *r, int mesh, int axis)
{
	int64_t coord[GVRT_MESH];
	coords_of(r, mesh, coord);
	return coord[axis];
}

int64_t
gv_index(const GvrtRun *r, int mesh, unsigned axes)
{
	int64_t coord[GVRT_MESH];
	coords_of(r, mesh, coord);
	return part_index(&r->state->p->meshes[mesh], axes, coord);
}

bool
gv_first(const GvrtRun *r, int mesh, unsigned axes)
{
	int64_t coord[GVRT_MESH];
	coords_of(r, mesh, coord);
	return part_first(&r->state->p->meshes[mesh], axes, coord);
}

/* ---- moving operations along ---- */

static Line *
line_of(Comm *c, const Op *o)
{
	return o->kind == CO_exchange ? &c->lines[c->exchanges[o->comm].line]
				      : &c->groups[o->comm].line;
}

/* What the target holds before messages arrive, and what this rank has itself. */
static void
begin_exchange(Comm *c, Op *o)
{
	Exchange *e = &c->exchanges[o->comm];
	int64_t elem = e->x->elem;
	o->arrive = o->work ? (void *)o->work : o->dst;
	if (o->dst && e->zero && (e->receives || !o->work))
		memset(o->arrive, 0, (size_t)(e->dst_count * elem));
	for (int i = 0; i < e->nrecv; i++)
		if (e->recv[i].peer == c->rank)
			exchange_copy(&e->recv[i], elem, o->src, o->arrive);
}

static void
add_arrived(const Exchange *e, const Op *o)
{
	const real *x = o->work;
	real *y = o->dst;
	int64_t n = e->dst_count;
	if (!o->work || !o->dst || !e->receives) return;
	OMP(omp parallel for simd schedule(static))
	for (int64_t i = 0; i < n; i++)
		y[i] += x[i];
}

static bool
advance(Comm *c, Op *o)
{
	if (o->state == OP_QUEUED) {
		Line *l = line_of(c, o);
		if (l->begun != o->ticket) return false;
		l->begun++;
		o->phase = o->reached = o->nmpi = 0;
		if (o->kind == CO_exchange) begin_exchange(c, o);
		c->via->begin(c, o);
		o->state = OP_BEGUN;
	}
	if (o->state == OP_BEGUN) {
		if (!c->via->test(c, o)) return false;
		o->state = OP_DONE;
	}
	return true;
}

static bool
advance_request(Comm *c, Request *q)
{
	while (q->at < q->n && advance(c, &q->op[q->at]))
		q->at++;
	return q->at == q->n;
}

void
comm_move(Comm *c)
{
	for (int i = 0; i < c->nactive; i++)
		advance_request(c, &c->requests[c->active[i]]);
}

static void
wait_for(Comm *c, int request)
{
	Request *q = &c->requests[request];
	int i = 0, k = 0;
	double begun = rt_now();
	if (q->n == 0) return;
	while (q->at < q->n) {
		watch_label(q->op[q->at].label);
		comm_move(c);
		if (q->at < q->n) sched_yield();
	}
	watch_label(NULL);
	/* not before: until then the target is the program's, and its sums have one order */
	for (int j = 0; j < q->n; j++)
		if (q->op[j].kind == CO_exchange)
			add_arrived(&c->exchanges[q->op[j].comm], &q->op[j]);
	for (; i < c->nactive; i++)
		if (c->active[i] != request) c->active[k++] = c->active[i];
	c->nactive = k;
	q->n = q->at = 0;
	c->waited += rt_now() - begun;
}

static Op *
new_op(Comm *c, int request, OpKind kind, int comm, const char *label)
{
	Request *q = &c->requests[request];
	if (request < 0 || request > (int)c->p->nrequests || q->n == OPS_OF_REQUEST)
		comm_die(c, "internal error: request %d of %s", request, label);
	if (q->n == 0) c->active[c->nactive++] = request;
	Op *o = &q->op[q->n];
	*o = (Op){.kind = kind, .comm = comm, .label = label, .mpi = o->mpi, .seq = o->seq};
	o->ticket = line_of(c, o)->tickets++;
	return o;
}

static void
count(Comm *c, const Op *o, int64_t elements)
{
	Traffic *t = &c->groups[o->comm].sent[o->kind];
	t->calls++;
	t->bytes += (uint64_t)elements * (o->elem ? (uint64_t)o->elem : sizeof(real));
}

static Comm *
comm_of(GvrtRun *r)
{
	return r->state->comm;
}

static void
started(Comm *c, int request)
{
	c->requests[request].n++;
	comm_move(c);
}

static void
start_all_reduce(Comm *c, int request, int comm, real *x, int64_t n, bool max,
		 const char *label)
{
	Op *o = new_op(c, request, CO_all_reduce, comm, label);
	o->out = x;
	o->inner = n;
	o->max = max;
	count(c, o, n);
	started(c, request);
}

/* `outer` times a block of `inner` from or to every rank of the group. */
static Op *
new_blocks(Comm *c, int request, OpKind kind, int comm, const void *in, void *out,
	   int64_t outer, int64_t inner, const char *label)
{
	Op *o = new_op(c, request, kind, comm, label);
	o->in = in;
	o->out = out;
	o->outer = outer;
	o->inner = inner;
	return o;
}

static void
start_reduce_scatter(Comm *c, int request, int comm, const real *in, real *out, real *work,
		     int64_t outer, int64_t inner, bool add, const char *label)
{
	Op *o = new_blocks(c, request, CO_reduce_scatter, comm, in, out, outer, inner, label);
	o->work = work;
	o->add = add;
	count(c, o, outer * inner * c->groups[comm].size);
	started(c, request);
}

static void
start_all_gather(Comm *c, int request, int comm, const void *in, void *out, int64_t outer,
		 int64_t inner, int elem, const char *label)
{
	Op *o = new_blocks(c, request, CO_all_gather, comm, in, out, outer, inner, label);
	o->elem = elem;
	count(c, o, outer * inner);
	started(c, request);
}

/* ---- the interface ---- */

void
gv_start_all_reduce(GvrtRun *r, int request, int comm, real *x, int64_t n, const char *label)
{
	start_all_reduce(comm_of(r), request, comm, x, n, false, label);
}

void
gv_start_reduce_scatter(GvrtRun *r, int request, int comm, real *in, real *out, int64_t n,
			bool add, const char *label)
{
	start_reduce_scatter(comm_of(r), request, comm, in, out, in, 1, n, add, label);
}

void
gv_start_all_gather(GvrtRun *r, int request, int comm, const real *in, real *out, int64_t n,
		    const char *label)
{
	start_all_gather(comm_of(r), request, comm, in, out, 1, n, sizeof(real), label);
}

void
gv_start_exchange(GvrtRun *r, int request, int exchange, const void *src, void *dst, void *work)
{
	Comm *c = comm_of(r);
	Exchange *e = &c->exchanges[exchange];
	Op *o = new_op(c, request, CO_exchange, exchange, e->x->label);
	o->src = src;
	o->dst = dst;
	o->work = work;
	for (int i = 0; i < e->nsend; i++) {
		e->sent.calls++;
		e->sent.bytes += (uint64_t)(e->send[i].count * e->x->elem);
	}
	started(c, request);
}

void
gv_wait(GvrtRun *r, int request)
{
	if (comm_of(r)) wait_for(comm_of(r), request);
}

void
gv_all_reduce(GvrtRun *r, int comm, real *x, int64_t n, bool max, const char *label)
{
	Comm *c = comm_of(r);
	start_all_reduce(c, (int)c->p->nrequests, comm, x, n, max, label);
	wait_for(c, (int)c->p->nrequests);
}

void
gv_all_gather(GvrtRun *r, int comm, const void *in, void *out, int64_t outer, int64_t inner,
	      int elem, const char *label)
{
	Comm *c = comm_of(r);
	start_all_gather(c, (int)c->p->nrequests, comm, in, out, outer, inner, elem, label);
	wait_for(c, (int)c->p->nrequests);
}

void
gv_reduce_scatter(GvrtRun *r, int comm, const real *in, real *out, real *work, int64_t outer,
		  int64_t inner, const char *label)
{
	Comm *c = comm_of(r);
	start_reduce_scatter(c, (int)c->p->nrequests, comm, in, out, work, outer, inner, false,
			     label);
	wait_for(c, (int)c->p->nrequests);
}

/* ---- among the runtime's own: the world ---- */

static void
sum_parts(Comm *c, double *x, int n, bool step)
{
	for (int at = 0; at < n || at == 0; at += SUM_MAX) {
		c->via->sum(c, x + at, n - at < SUM_MAX ? n - at : SUM_MAX, step);
		c->sums++;
	}
}

void
comm_sum(Comm *c, double *x, int n)
{
	if (c) sum_parts(c, x, n, false);
}

void
comm_norm(Comm *c, double *x, int n)
{
	if (!c) return;
	watch_label("norm");
	c->groups[0].sent[CO_all_reduce].calls++;
	c->groups[0].sent[CO_all_reduce].bytes += (uint64_t)n * sizeof(double);
	double begun = rt_now();
	sum_parts(c, x, n, true);
	c->waited += rt_now() - begun;
	watch_label(NULL);
}

double
comm_waited(Comm *c)
{
	double seconds = c ? c->waited : 0;
	if (c) c->waited = 0;
	return seconds;
}

bool
comm_shares(const Comm *c)
{
	return c->via->shares;
}

void
comm_barrier(Comm *c)
{
	comm_sum(c, NULL, 0);
}

int
comm_first(Comm *c, bool mine)
{
	double x[2] = {0, 0};
	if (!c) return mine ? 0 : -1;
	/* Everyone's number is a power of two's place in blocks of 32 ranks: sums of them are exact. */
	for (int base = 0; base < c->size; base += 32) {
		x[0] = mine && c->rank >= base && c->rank < base + 32
			   ? (double)(UINT64_C(1) << (c->rank - base))
			   : 0;
		comm_sum(c, x, 1);
		uint64_t bits = (uint64_t)x[0];
		for (int i = 0; i < 32; i++)
			if (bits >> i & 1) return base + i;
	}
	return -1;
}

bool
comm_agree(Comm *c, bool ok, Err *e)
{
	int first = comm_first(c, !ok);
	if (first < 0) return true;
	if (c && first != c->rank) e->text[0] = 0; /* one rank says why */
	return false;
}

/* ---- traffic ---- */

void
comm_mark(Comm *c)
{
	if (!c) return;
	for (size_t k = 0; k < c->p->ncomms; k++)
		memset(c->groups[k].sent, 0, sizeof c->groups[k].sent);
	for (size_t k = 0; k < c->p->nexchanges; k++)
		c->exchanges[k].sent = (Traffic){0, 0};
}

/* "kind communicator calls bytes", and "exchange FROM TO CHANNEL messages bytes" of what is sent, of the last step. */
bool
comm_traffic(const Comm *c, Err *e)
{
	const char *name = getenv("GVRT_TRAFFIC");
	char path[RT_PATH];
	if (!c || !name || !*name) return true;
	snprintf(path, sizeof path, "%s.%d", name, c->rank);
	FILE *f = fopen(path, "w");
	if (!f) return rt_fail(e, "cannot write %s", path);
	for (size_t k = 0; k < c->p->ncomms; k++)
		for (int kind = 0; kind < CO_exchange; kind++) {
			const Traffic *t = &c->groups[k].sent[kind];
			if (t->calls)
				fprintf(f, "%s %zu %llu %llu\n", op_kind_text[kind], k,
					(unsigned long long)t->calls,
					(unsigned long long)t->bytes);
		}
	for (int line = 0; line < c->nlines; line++) {
		const GvrtExchange *x = NULL;
		Traffic t = {0, 0};
		for (size_t k = 0; k < c->p->nexchanges; k++) {
			if (c->exchanges[k].line != line) continue;
			x = c->exchanges[k].x;
			t.calls += c->exchanges[k].sent.calls;
			t.bytes += c->exchanges[k].sent.bytes;
		}
		if (x && t.calls)
			fprintf(f, "exchange %d %d %d %llu %llu\n", x->from.stage, x->to.stage,
				x->channel, (unsigned long long)t.calls,
				(unsigned long long)t.bytes);
	}
	return fclose(f) == 0 || rt_fail(e, "cannot write %s", path);
}

/* ---- start and stop ---- */

#ifdef GVRT_MPI

/* The group of this rank in entry k of the global table. */
static void
make_group(Group *g, Pool *pool, const GvrtProgram *p, size_t k, int rank)
{
	const GvrtComm *x = &p->comms[k];
	int local = rank - p->stage_ranks[p->stage].rank, base = rank;
	g->size = 1;
	for (int i = 0; k > 0 && i < x->n; i++) {
		g->size *= x->digit[i].degree;
		base -= local / x->digit[i].stride % x->digit[i].degree * x->digit[i].stride;
	}
	if (k == 0) g->size = p->ranks, base = 0;
	g->rank = POOL_N(pool, int, g->size);
	for (int j = 0; j < g->size; j++) {
		int rest = j, at = base;
		for (int i = x->n - 1; k > 0 && i >= 0; i--) {
			at += rest % x->digit[i].degree * x->digit[i].stride;
			rest /= x->digit[i].degree;
		}
		g->rank[j] = k ? at : j;
		if (g->rank[j] == rank) g->me = j;
	}
}

static void
make_exchanges(Comm *c, Pool *pool)
{
	const GvrtProgram *p = c->p;
	c->exchanges = POOL_N(pool, Exchange, p->nexchanges + 1);
	c->lines = POOL_N(pool, Line, p->nexchanges + 1);
	for (size_t k = 0; k < p->nexchanges; k++) {
		Exchange *e = &c->exchanges[k];
		e->x = &p->exchanges[k];
		e->line = -1;
		for (size_t j = 0; j < k && e->line < 0; j++) {
			const GvrtExchange *y = c->exchanges[j].x;
			if (y->channel == e->x->channel && y->from.stage == e->x->from.stage &&
			    y->to.stage == e->x->to.stage)
				e->line = c->exchanges[j].line;
		}
		if (e->line < 0) e->line = c->nlines++;
		exchange_plan(e, pool, p, c->rank);
	}
}

static Request *
make_requests(const Comm *c, Pool *pool)
{
	Request *q = POOL_N(pool, Request, c->p->nrequests + 1);
	int most = 0;
	for (size_t k = 0; k < c->p->nexchanges; k++) {
		int n = c->exchanges[k].nsend + c->exchanges[k].nrecv;
		if (n > most) most = n;
	}
	for (size_t k = 0; k <= c->p->nrequests; k++)
		for (int i = 0; i < OPS_OF_REQUEST; i++)
			q[k].op[i].seq = POOL_N(pool, uint64_t, most + 1);
	return q;
}

/* All ranks notice alike; rank 0 says it. */
static bool
agree_on_plan(Comm *c, uint64_t hash, Err *e)
{
	if (mpi_same(c, (int64_t)(hash >> 1))) return true;
	rt_fail(e, "the stages of this run are not of one plan: build all of them again");
	if (c->rank) e->text[0] = 0;
	return false;
}

static uint64_t
hash_more(uint64_t h, const void *bytes, size_t n)
{
	const unsigned char *s = bytes;
	for (size_t i = 0; i < n; i++)
		h = (h ^ s[i]) * 0x100000001B3;
	return h;
}

/* What is [same] in all programs. */
static uint64_t
hash_of(const GvrtProgram *p)
{
	uint64_t h = 0xCBF29CE484222325;
	int64_t x[] = {GVRT_ABI,
		       p->ranks,
		       p->stages,
		       p->microbatch,
		       p->microbatches,
		       (int64_t)p->ncomms,
		       (int64_t)p->nreports,
		       p->seq,
		       p->step != NULL,
		       (int64_t)sizeof(real),
		       (int64_t)p->plan_hash};
	h = hash_more(h, x, sizeof x);
	return hash_more(h, p->model, strlen(p->model));
}

/* The arena: shared where that can be, else of this process alone. */
static bool
choose(Comm *c, Pool *pool, Err *e)
{
	const char *want = getenv("GVRT_TRANSPORT");
	Err why = {""};
	if (want && *want && strcmp(want, "mpi") != 0 && strcmp(want, "window") != 0)
		return rt_fail(e, "GVRT_TRANSPORT is mpi or window, not \"%s\"", want);
	c->via = &comm_via_mpi;
	if (!want || strcmp(want, "mpi") != 0) {
		c->arena = window_start(c, pool, &why);
		if (c->arena) {
			c->via = &comm_via_window;
			return true;
		}
		if (c->rank == 0)
			rt_note("the ranks do not share their memory (%s): going on over MPI",
				why.text);
	}
	c->arena = arena_map(c->p->arena_bytes, c->node_bytes, e);
	return c->arena != NULL;
}

Comm *
comm_start(Pool *pool, const GvrtProgram *p, const Place *at, Err *e)
{
	Comm *c = POOL_N(pool, Comm, 1);
	c->p = p;
	c->rank = at->rank;
	c->size = at->size;
	c->stage = p->stage;
	c->sync_send = options_switch("GVRT_SYNC_SEND", false);
	if (!mpi_start(c, pool, e)) return NULL;
	if (!agree_on_plan(c, hash_of(p), e)) return NULL;
	c->groups = POOL_N(pool, Group, p->ncomms + 1);
	for (size_t k = 0; k < p->ncomms || k == 0; k++)
		make_group(&c->groups[k], pool, p, k, c->rank);
	make_exchanges(c, pool);
	c->requests = make_requests(c, pool);
	c->active = POOL_N(pool, int, p->nrequests + 2);
	if (!mpi_lines(c, pool, e)) return NULL;
	c->via = &comm_via_mpi;
	if (!watch_start(c, pool, e) && c->rank == 0)
		rt_note("the ranks cannot watch each other: %s", e->text);
	return c;
}

unsigned char *
comm_arena(Comm *c, Pool *pool, Err *e)
{
	return choose(c, pool, e) ? c->arena : NULL;
}

void
comm_stop(Comm *c)
{
	if (!c) return;
	comm_barrier(c); /* nobody's memory goes while others may read it */
	watch_stop(c);
	mpi_stop(c);
}

void
comm_abort(int status)
{
	mpi_abort(status);
}

#else

Comm *
comm_start(Pool *pool, const GvrtProgram *p, const Place *at, Err *e)
{
	(void)pool, (void)at;
	rt_fail(e, "a program of %d ranks that was built without MPI (GVRT_MPI)", p->ranks);
	return NULL;
}

unsigned char *
comm_arena(Comm *c, Pool *pool, Err *e)
{
	(void)c, (void)pool, (void)e;
	return NULL;
}

void
comm_stop(Comm *c)
{
	(void)c;
}

void
comm_abort(int status)
{
	exit(status);
}

void
watch_label(const char *label)
{
	(void)label;
}

#endif
