/*
 * exchange.c - which boxes of a tensor this rank sends to whom when it goes from one mesh to another: arithmetic in the
 * coordinates of ranks, done once at start.
 *
 * Two sides that lie alike exchange rank for rank, whatever sums are pending. Else every target rank takes each block of the
 * source that meets its own from one rank that has it: from itself if it has, else from replica (its index in its stage) %
 * (number of replicas). One pair of ranks has at most one box in common.
 */
#include "comm.h"

int64_t
part_block(const GvrtAxis *a, const GvrtMesh *mesh)
{
	int64_t n = a->extent;
	for (int i = 0; i < a->nshard; i++)
		n = (n + mesh->degree[a->shard[i]] - 1) / mesh->degree[a->shard[i]];
	return n;
}

void
part_coords(const GvrtMesh *mesh, int64_t index, int64_t coord[GVRT_MESH])
{
	coord[0] = 0;
	for (int k = mesh->n - 1; k > 0; k--) {
		coord[k] = index % mesh->degree[k];
		index /= mesh->degree[k];
	}
}

int64_t
part_index(const GvrtMesh *mesh, unsigned axes, const int64_t *coord)
{
	int64_t n = 0;
	for (int k = 1; k < mesh->n; k++)
		if (axes >> k & 1) n = n * mesh->degree[k] + coord[k];
	return n;
}

int64_t
part_degree(const GvrtMesh *mesh, unsigned axes)
{
	int64_t n = 1;
	for (int k = 1; k < mesh->n; k++)
		if (axes >> k & 1) n *= mesh->degree[k];
	return n;
}

bool
part_first(const GvrtMesh *mesh, unsigned axes, const int64_t *coord)
{
	for (int k = 1; k < mesh->n; k++)
		if (axes >> k & 1 && coord[k]) return false;
	return true;
}

void
part_range(const GvrtAxis *a, const GvrtMesh *mesh, const int64_t *coord, int64_t *lo,
	   int64_t *hi)
{
	int64_t from = 0, to = a->extent, block = a->extent;
	for (int i = 0; i < a->nshard; i++) {
		int64_t d = mesh->degree[a->shard[i]];
		block = (block + d - 1) / d;
		from += coord[a->shard[i]] * block;
		if (from + block < to) to = from + block;
	}
	*lo = from;
	*hi = to > from ? to : from;
}

/* ---- runs ---- */

/*
 * The elements of a tensor that a rank has, as runs that lie together both in the whole and in the local tensor: trailing
 * axes that are not split are part of a run, the others are counted through.
 */
bool
part_runs(const GvrtPart *x, const GvrtMesh *mesh, const int64_t *coord, int64_t row,
	  PartFn *fn, void *arg)
{
	int64_t lo[GVRT_AXES], hi[GVRT_AXES], at[GVRT_AXES], whole[GVRT_AXES], local[GVRT_AXES];
	int64_t n = 1, m = 1, run = 1, first = 0, here = 0;
	int last = x->naxes - 1, from = row >= 0;
	for (int k = last; k >= 0; k--) {
		part_range(&x->axis[k], mesh, coord, &lo[k], &hi[k]);
		if (k == 0 && row >= 0) {
			if (row < lo[0] || row >= hi[0]) return true;
			here = (row - lo[0]) * m;
			break;
		}
		if (hi[k] <= lo[k]) return true;
		whole[k] = n;
		local[k] = m;
		n *= x->axis[k].extent;
		m *= part_block(&x->axis[k], mesh);
	}
	while (last >= from && hi[last] - lo[last] == part_block(&x->axis[last], mesh) &&
	       part_block(&x->axis[last], mesh) == x->axis[last].extent)
		run *= x->axis[last--].extent;
	if (last >= from) run *= hi[last] - lo[last];
	for (int k = from; k <= last; k++) {
		at[k] = lo[k];
		first += lo[k] * whole[k];
	}
	for (;;) {
		if (!fn(arg, first, here, run)) return false;
		int k = last - 1;
		for (; k >= from; k--) { /* the next in the order of the whole */
			first += whole[k];
			here += local[k];
			if (++at[k] < hi[k]) break;
			first -= (hi[k] - lo[k]) * whole[k];
			here -= (hi[k] - lo[k]) * local[k];
			at[k] = lo[k];
		}
		if (k < from) return true;
	}
}

/* ---- boxes ---- */

typedef struct Half { /* one side of an exchange */
	const GvrtStage *stage;
	const GvrtMesh *mesh;
	GvrtAxis axis[GVRT_AXES];
	unsigned split;            /* mesh axes that some axis is split over */
	int64_t stride[GVRT_AXES]; /* of the local tensor, axes in the source's order */
	int64_t count;             /* elements of it */
	bool alike;                /* the other side's ranks hold the same, one for one */
} Half;

typedef struct Box {
	int64_t lo[GVRT_AXES], hi[GVRT_AXES];
} Box;

static Half
half_of(const GvrtProgram *p, const GvrtExchange *x, bool target)
{
	const GvrtSide *s = target ? &x->to : &x->from;
	Half h = {.stage = &p->stage_ranks[s->stage],
		  .mesh = &p->meshes[s->mesh],
		  .split = 0,
		  .count = 1};
	for (int k = 0; k < x->naxes; k++) {
		const uint8_t *shard = target ? x->axis[k].to : x->axis[k].from;
		GvrtAxis *a = &h.axis[k];
		a->extent = x->axis[k].extent;
		a->nshard = target ? x->axis[k].nto : x->axis[k].nfrom;
		memcpy(a->shard, shard, sizeof a->shard);
		for (int i = 0; i < a->nshard; i++)
			h.split |= 1u << shard[i];
	}
	for (int place = x->naxes; place-- > 0;)
		for (int k = 0; k < x->naxes; k++) {
			if ((target ? x->axis[k].place : k) != place) continue;
			h.stride[k] = h.count;
			h.count *= part_block(&h.axis[k], h.mesh);
		}
	return h;
}

/* Ranks of one number hold the same part, and the same share of what is pending. */
static bool
lie_alike(const GvrtProgram *p, const GvrtExchange *x)
{
	const GvrtMesh *a = &p->meshes[x->from.mesh], *b = &p->meshes[x->to.mesh];
	if (a->n != b->n || x->from.partial != x->to.partial) return false;
	for (int k = 1; k < a->n; k++)
		if (a->degree[k] != b->degree[k]) return false;
	for (int k = 0; k < x->naxes; k++)
		if (x->axis[k].place != k || x->axis[k].nfrom != x->axis[k].nto ||
		    memcmp(x->axis[k].from, x->axis[k].to, x->axis[k].nfrom) != 0)
			return false;
	return true;
}

/* The block of rank `index` of the side's stage; false: it is empty. */
static bool
box_of(const Half *h, int naxes, int64_t index, int64_t coord[GVRT_MESH], Box *out)
{
	bool any = true;
	part_coords(h->mesh, index, coord);
	for (int k = 0; k < naxes; k++) {
		part_range(&h->axis[k], h->mesh, coord, &out->lo[k], &out->hi[k]);
		any = any && out->hi[k] > out->lo[k];
	}
	return any;
}

/* Whether rank `from` of the source is the one that rank `to` of the target takes its block from. */
static bool
is_chosen(const Half *a, const Half *b, const int64_t *from, int64_t to)
{
	unsigned rest = ~a->split;
	if (a->alike) return part_index(a->mesh, ~0u, from) == to;
	if (a->stage->rank == b->stage->rank) {
		int64_t own[GVRT_MESH];
		bool has = true;
		part_coords(a->mesh, to, own);
		for (int k = 1; k < a->mesh->n; k++)
			if (a->split >> k & 1 && own[k] != from[k]) has = false;
		if (has) return part_index(a->mesh, ~0u, from) == to;
	}
	return part_index(a->mesh, rest, from) == to % part_degree(a->mesh, rest);
}

/* The part two blocks have in common, as a piece; false: none. */
static bool
meet(const Half *a, const Half *b, const Box *x, const Box *y, int naxes, Piece *out)
{
	*out = (Piece){.count = 1};
	for (int k = 0; k < naxes; k++) {
		int64_t lo = x->lo[k] > y->lo[k] ? x->lo[k] : y->lo[k];
		int64_t hi = x->hi[k] < y->hi[k] ? x->hi[k] : y->hi[k], n = hi - lo;
		if (n <= 0) return false;
		out->src_at += (lo - x->lo[k]) * a->stride[k];
		out->dst_at += (lo - y->lo[k]) * b->stride[k];
		out->count *= n;
		if (n == 1) continue;
		int last = out->naxes - 1;
		if (last >= 0 && out->src[last] == n * a->stride[k] &&
		    out->dst[last] == n * b->stride[k]) {
			out->n[last] *= n;
			out->src[last] = a->stride[k];
			out->dst[last] = b->stride[k];
			continue;
		}
		out->n[out->naxes] = n;
		out->src[out->naxes] = a->stride[k];
		out->dst[out->naxes++] = b->stride[k];
	}
	return true;
}

static int
find_sends(Piece *out, const Half *a, const Half *b, const GvrtExchange *x, int rank)
{
	int64_t me = rank - a->stage->rank, mine[GVRT_MESH], coord[GVRT_MESH];
	int n = 0;
	Box own, theirs;
	if (me < 0 || me >= a->stage->ranks || !box_of(a, x->naxes, me, mine, &own)) return 0;
	for (int64_t t = 0; t < b->stage->ranks; t++) {
		Piece q;
		if (b->stage->rank + t == rank || !box_of(b, x->naxes, t, coord, &theirs) ||
		    (!b->alike && !part_first(b->mesh, x->to.partial, coord)) ||
		    !is_chosen(a, b, mine, t) || !meet(a, b, &own, &theirs, x->naxes, &q))
			continue;
		q.peer = (int)(b->stage->rank + t);
		if (out) out[n] = q;
		n++;
	}
	return n;
}

static int
find_receives(Piece *out, const Half *a, const Half *b, const GvrtExchange *x, int rank)
{
	int64_t me = rank - b->stage->rank, coord[GVRT_MESH];
	int n = 0;
	Box own, theirs;
	if (me < 0 || me >= b->stage->ranks || !box_of(b, x->naxes, me, coord, &own) ||
	    (!b->alike && !part_first(b->mesh, x->to.partial, coord)))
		return 0;
	for (int64_t s = 0; s < a->stage->ranks; s++) {
		Piece q;
		if (!box_of(a, x->naxes, s, coord, &theirs) || !is_chosen(a, b, coord, me) ||
		    !meet(a, b, &theirs, &own, x->naxes, &q))
			continue;
		q.peer = (int)(a->stage->rank + s);
		if (out) out[n] = q;
		n++;
	}
	return n;
}

void
exchange_plan(Exchange *e, Pool *pool, const GvrtProgram *p, int rank)
{
	const GvrtExchange *x = e->x;
	Half a = half_of(p, x, false), b = half_of(p, x, true);
	int64_t got = 0, me = rank - b.stage->rank, coord[GVRT_MESH];
	a.alike = b.alike = lie_alike(p, x);
	e->nsend = find_sends(NULL, &a, &b, x, rank);
	e->nrecv = find_receives(NULL, &a, &b, x, rank);
	e->send = POOL_N(pool, Piece, e->nsend + 1);
	e->recv = POOL_N(pool, Piece, e->nrecv + 1);
	find_sends(e->send, &a, &b, x, rank);
	find_receives(e->recv, &a, &b, x, rank);
	for (int i = 0; i < e->nrecv; i++)
		got += e->recv[i].count;
	e->dst_count = b.count;
	e->zero = got < b.count;
	if (me < 0 || me >= b.stage->ranks) return;
	part_coords(b.mesh, me, coord);
	e->receives = b.alike || part_first(b.mesh, x->to.partial, coord);
}

/* ---- copies ---- */

static void
copy_axes(const Piece *q, int axis, int64_t elem, const char *src, char *dst)
{
	if (axis == q->naxes) {
		memcpy(dst, src, (size_t)elem);
		return;
	}
	int64_t n = q->n[axis], s = q->src[axis] * elem, d = q->dst[axis] * elem;
	if (axis == q->naxes - 1 && s == elem && d == elem) {
		memcpy(dst, src, (size_t)(n * elem));
		return;
	}
	for (int64_t i = 0; i < n; i++)
		copy_axes(q, axis + 1, elem, src + i * s, dst + i * d);
}

void
exchange_copy(const Piece *q, int64_t elem, const void *src, void *dst)
{
	copy_axes(q, 0, elem, (const char *)src + q->src_at * elem,
		  (char *)dst + q->dst_at * elem);
}
