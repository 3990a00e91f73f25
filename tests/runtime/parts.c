/*
 * parts.c - the arithmetic of ranks against definitions: which elements a rank has of a split tensor, who answers for them,
 * and who sends which box to whom. Random meshes and extents, no communication: all ranks are played one after the other.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"

enum { ROUNDS = 4000, MOST = 4096 };

static uint64_t draws;

static int
draw(int n) /* 0 .. n - 1 */
{
	return (int)(rt_philox(7, 0, draws++).r[0] % (uint32_t)n);
}

static void
fail(const char *what, int64_t i)
{
	printf("parts: %s at %lld, draw %llu\n", what, (long long)i, (unsigned long long)draws);
	exit(1);
}

static GvrtMesh
draw_mesh(void)
{
	GvrtMesh m = {(uint8_t)(1 + draw(4)), {1}};
	for (int k = 1; k < m.n; k++)
		m.degree[k] = 1 + draw(3);
	return m;
}

/* Up to three axes, some split over mesh axes that no other is split over; returns those used. */
static unsigned
draw_axes(const GvrtMesh *m, int naxes, GvrtAxis *axis, const int64_t *extent)
{
	unsigned used = 0;
	for (int k = 0; k < naxes; k++) {
		axis[k] = (GvrtAxis){extent[k], 0, {0}};
		for (int s = 1; s < m->n && axis[k].nshard < GVRT_SHARD; s++) {
			int mesh_axis = 1 + draw(m->n - 1);
			if (used >> mesh_axis & 1 || draw(2)) continue;
			used |= 1u << mesh_axis;
			axis[k].shard[axis[k].nshard++] = (uint8_t)mesh_axis;
		}
	}
	return used;
}

static int64_t
ranks_of(const GvrtMesh *m)
{
	return part_degree(m, ~0u);
}

/* Position of a local index along an axis, by the definition of ceil blocks; -1: padding. */
static int64_t
position(const GvrtAxis *a, const GvrtMesh *m, const int64_t *coord, int64_t i)
{
	int64_t block[GVRT_SHARD + 1] = {a->extent}, at = i;
	for (int s = 0; s < a->nshard; s++)
		block[s + 1] = (block[s] + m->degree[a->shard[s]] - 1) / m->degree[a->shard[s]];
	for (int s = a->nshard - 1; s >= 0; s--) {
		at += coord[a->shard[s]] * block[s + 1];
		if (at >= block[s]) return -1;
	}
	return at;
}

/* Global element of local element i of a tensor whose axes lie in this order; -1: padding. */
static int64_t
global_of(const GvrtAxis *axis, int naxes, const GvrtMesh *m, const int64_t *coord, int64_t i)
{
	int64_t out = 0, unit = 1;
	for (int k = naxes - 1; k >= 0; k--) {
		int64_t n = part_block(&axis[k], m), at = position(&axis[k], m, coord, i % n);
		if (at < 0) return -1;
		out += at * unit;
		unit *= axis[k].extent;
		i /= n;
	}
	return out;
}

/* ---- parts of parameters ---- */

static int seen[MOST];
static GvrtRun run;

static bool
see(void *arg, int64_t first, int64_t n, real *at)
{
	const GvrtParam *q = arg;
	for (int64_t i = 0; i < n; i++) {
		if (first + i < 0 || first + i >= q->count)
			fail("an element out of range", first);
		seen[first + i]++;
		if (at[i] != (real)(first + i + 1)) fail("an element elsewhere", first + i);
	}
	return true;
}

/* What rank `local` has of entry i in the parameter section, made by definition. */
static void
make_arena(const GvrtProgram *p, const GvrtParam *q, uint32_t entry, int64_t local, real *arena)
{
	const GvrtPart *x = q->part;
	const GvrtMesh *m = &p->meshes[0];
	int64_t coord[GVRT_MESH], count = 1, row = 1;
	int64_t d = part_degree(m, x->over), F = x->flat_bytes / (int64_t)sizeof(real);
	part_coords(m, local, coord);
	for (int k = 0; k < x->naxes; k++)
		count *= part_block(&x->axis[k], m);
	for (int k = 1; k < x->naxes; k++)
		row *= x->axis[k].extent;
	int64_t lo = x->split & 1 ? part_index(m, x->over, coord) * (F / d) : 0;
	int64_t hi = x->split & 1 ? lo + F / d : F;
	for (int64_t i = 0; i < count; i++) {
		int64_t at = x->flat_at / (int64_t)sizeof(real) + i;
		int64_t g = global_of(x->axis, x->naxes, m, coord, i);
		if (at < lo || at >= hi || g < 0) continue;
		if (q->per && g / row != (int64_t)entry) continue;
		arena[at - lo] = (real)((q->per ? g % row : g) + 1);
	}
}

static void
check_param(void)
{
	static real arena[2 * MOST];
	GvrtMesh mesh = draw_mesh();
	int64_t extent[3] = {1 + draw(7), 1 + draw(7), 1 + draw(7)}, count = 1, local = 1;
	GvrtPart part = {.naxes = (uint8_t)(1 + draw(3))};
	unsigned used = draw_axes(&mesh, part.naxes, part.axis, extent);
	GvrtStage stage = {0, (int32_t)ranks_of(&mesh)};
	GvrtParam q = {.prefix = "w", .suffix = "", .repeat = 1, .part = &part};
	GvrtProgram p = {.stage_ranks = &stage, .meshes = &mesh, .nmeshes = 1, .stages = 1};
	struct GvrtState state = {.p = &p};
	for (int k = 0; k < part.naxes; k++) {
		count *= extent[k];
		local *= part_block(&part.axis[k], &mesh);
	}
	q.per = part.naxes > 1 && draw(3) == 0;
	q.repeat = q.per ? (uint32_t)extent[0] : 1;
	q.count = q.per ? count / extent[0] : count;
	part.split = (uint8_t)draw(2);
	part.over = (uint16_t)(~used & (unsigned)draw(1 << GVRT_MESH) & ~1u);
	int64_t d = part_degree(&mesh, part.over), pad = 64 / (int64_t)sizeof(real);
	part.flat_at = draw(3) * 64;
	int64_t flat =
	    (local + part.flat_at / (int64_t)sizeof(real) + pad * d - 1) / (pad * d) * pad * d;
	part.flat_bytes = flat * (int64_t)sizeof(real);
	part.at[0] = part.split ? 0 : part.flat_at;
	if (flat > 2 * MOST) return;
	run = (GvrtRun){.arena = (unsigned char *)arena, .state = &state};
	for (uint32_t i = 0; i < q.repeat; i++) {
		memset(seen, 0, sizeof seen);
		for (int r = 0; r < stage.ranks; r++) {
			memset(arena, 0, sizeof arena);
			state.at.rank = r;
			make_arena(&p, &q, i, r, arena);
			param_runs(&run, &q, i, GVRT_PARAM, true, see, &q);
		}
		for (int64_t e = 0; e < q.count; e++)
			if (seen[e] != 1)
				fail("an element nobody, or more than one, answers for", e);
	}
}

/* ---- exchanges ---- */

/* The source a rank must take a block from, by the definition in gvrt.h. */
static int64_t
source_by_definition(const GvrtExchange *x, const GvrtProgram *p, const GvrtAxis *axis,
		     int64_t block_of, int64_t to)
{
	const GvrtMesh *m = &p->meshes[x->from.mesh];
	int64_t replica[MOST], n = 0, want[GVRT_MESH], have[GVRT_MESH];
	part_coords(m, block_of, want);
	for (int64_t r = 0; r < p->stage_ranks[x->from.stage].ranks; r++) {
		bool same = true;
		part_coords(m, r, have);
		for (int k = 0; k < x->naxes; k++)
			for (int s = 0; s < axis[k].nshard; s++)
				same = same && have[axis[k].shard[s]] == want[axis[k].shard[s]];
		if (!same) continue;
		if (x->from.stage == x->to.stage && r == to) return r;
		replica[n++] = r;
	}
	return replica[to % n];
}

static Exchange *
plan_all(const GvrtExchange *x, const GvrtProgram *p, Pool *pool, int ranks)
{
	Exchange *e = POOL_N(pool, Exchange, ranks);
	for (int r = 0; r < ranks; r++) {
		e[r].x = x;
		exchange_plan(&e[r], pool, p, r);
	}
	return e;
}

/* Every piece received is sent, once, and as large. */
static void
check_pairs(const Exchange *e, int ranks)
{
	int sent = 0, received = 0;
	for (int r = 0; r < ranks; r++) {
		sent += e[r].nsend;
		for (int i = 0; i < e[r].nrecv; i++) {
			int from = e[r].recv[i].peer, found = 0;
			if (from == r) continue;
			received++;
			for (int j = 0; j < e[from].nsend; j++)
				found += e[from].send[j].peer == r &&
					 e[from].send[j].count == e[r].recv[i].count;
			if (found != 1) fail("a piece that is not sent", r);
		}
	}
	if (sent != received) fail("pieces sent and received", sent - received);
}

static void
check_exchange(void)
{
	static real source[MOST], target[MOST];
	Pool pool = {0};
	GvrtMesh mesh[2] = {draw_mesh(), draw_mesh()};
	bool one_stage = draw(2) && ranks_of(&mesh[0]) == ranks_of(&mesh[1]);
	GvrtStage stage[2] = {{0, (int32_t)ranks_of(&mesh[0])},
			      {(int32_t)ranks_of(&mesh[0]), (int32_t)ranks_of(&mesh[1])}};
	int ranks = stage[0].ranks + (one_stage ? 0 : stage[1].ranks), n = 1 + draw(3);
	int64_t extent[3] = {1 + draw(6), 1 + draw(6), 1 + draw(6)};
	GvrtAxis a[3], b[3], turned[3];
	unsigned used;
	unsigned used_a = draw_axes(&mesh[0], n, a, extent);
	used = draw_axes(&mesh[1], n, b, extent);
	GvrtExchange x = {.label = "x",
			  .from = {0, 0, 0},
			  .to = {one_stage ? 0 : 1, 1, 0},
			  .naxes = (uint8_t)n,
			  .elem = sizeof(real)};
	bool alike = draw(4) == 0;
	int turn = draw(n);
	if (alike) {
		mesh[1] = mesh[0];
		stage[1].ranks = stage[0].ranks;
		ranks = stage[0].ranks * (one_stage ? 1 : 2);
		memcpy(b, a, sizeof b);
		turn = 0;
	}
	for (int k = 0; k < n; k++) {
		x.axis[k].extent = extent[k];
		x.axis[k].nfrom = a[k].nshard;
		x.axis[k].nto = b[k].nshard;
		memcpy(x.axis[k].from, a[k].shard, GVRT_SHARD);
		memcpy(x.axis[k].to, b[k].shard, GVRT_SHARD);
		x.axis[k].place = (uint8_t)((k + turn) % n);
		turned[x.axis[k].place] = b[k];
	}
	used = alike ? used_a : used;
	x.to.partial = (uint16_t)(~used & (unsigned)draw(1 << GVRT_MESH) & ~1u);
	if (alike) x.from.partial = x.to.partial;
	/* by chance, too */
	alike = alike || (!turn && !x.to.partial && mesh[0].n == mesh[1].n &&
			  !memcmp(mesh[0].degree, mesh[1].degree, sizeof mesh[0].degree) &&
			  !memcmp(a, b, (size_t)n * sizeof *a));
	GvrtProgram p = {
	    .stage_ranks = stage, .meshes = mesh, .nmeshes = 2, .stages = one_stage ? 1 : 2};
	Exchange *e = plan_all(&x, &p, &pool, ranks);
	check_pairs(e, ranks);
	int base = one_stage ? 0 : stage[0].ranks;
	for (int64_t t = 0; t < stage[one_stage ? 0 : 1].ranks; t++) {
		const Exchange *mine = &e[base + t];
		int64_t to[GVRT_MESH], from[GVRT_MESH];
		bool padded = false;
		part_coords(&mesh[1], t, to);
		bool first = alike || part_first(&mesh[1], x.to.partial, to);
		memset(target, 0, sizeof target);
		for (int i = 0; i < mine->nrecv; i++) {
			int64_t r = mine->recv[i].peer, count = 1;
			part_coords(&mesh[0], r, from);
			if ((alike ? t : source_by_definition(&x, &p, a, r, t)) != r)
				fail("another replica", t);
			for (int k = 0; k < n; k++)
				count *= part_block(&a[k], &mesh[0]);
			for (int64_t j = 0; j < count; j++)
				source[j] = (real)(global_of(a, n, &mesh[0], from, j) + 1);
			exchange_copy(&mine->recv[i], sizeof(real), source, target);
		}
		for (int64_t j = 0; j < mine->dst_count; j++) {
			int64_t in_turn = global_of(turned, n, &mesh[1], to, j), g = 0;
			int64_t at[3] = {0};
			for (int k = n - 1; k >= 0 && in_turn >= 0; k--) {
				at[k] = in_turn % turned[k].extent;
				in_turn /= turned[k].extent;
			}
			for (int k = 0; k < n; k++)
				g = g * extent[k] + at[x.axis[k].place];
			padded = padded || in_turn < 0;
			if (target[j] != (in_turn < 0 || !first ? 0 : (real)(g + 1)))
				fail("an element arrived wrong", j);
		}
		if (mine->zero != (padded || !first) || mine->receives != first)
			fail("what stays zero", t);
	}
	pool_free(&pool);
}

int
main(void)
{
	for (int i = 0; i < ROUNDS; i++) {
		check_param();
		check_exchange();
	}
	printf("parts: %d parameters and %d exchanges ok\n", ROUNDS, ROUNDS);
	return 0;
}
