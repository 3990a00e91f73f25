/*
 * ranks.c - which rank has what: coordinates, parts of a tensor, the flats of ZeRO.
 *
 * Input: a module of level plan or below. Nothing here walks the ranks, so that nothing costs more with many.
 */
#include "ir/ir.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

/* ---- where an instance is ---- */

const Strategy *
ir_run_of(const Module *m, uint32_t inst)
{
	for (uint32_t i = 0; i < m->plan.nruns; i++) {
		const Strategy *r = &m->plan.runs[i];

		if (inst >= r->first && inst - r->first < r->count) return r;
	}
	return NULL;
}

uint32_t
ir_stage_of(const Module *m, uint32_t inst)
{
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		const Stage *s = &m->plan.stages[k];

		if (inst >= s->first && inst - s->first < s->count) return k;
	}
	return m->plan.nstages;
}

/* ---- meshes ---- */

unsigned
ir_dp_mask(const Mesh *mesh)
{
	unsigned mask = 0;

	for (int k = 1; mesh && k < mesh->n; k++)
		if (mesh->ax[k].kind == MX_dp && mesh->ax[k].degree > 1) mask |= 1u << k;
	return mask;
}

uint32_t
ir_degree(const Mesh *mesh, unsigned axes)
{
	uint32_t n = 1;

	for (int k = 1; mesh && k < mesh->n; k++)
		if (axes >> k & 1) n *= mesh->ax[k].degree;
	return n;
}

uint32_t
ir_dp_degree(const Mesh *mesh)
{
	return ir_degree(mesh, ir_dp_mask(mesh));
}

unsigned
ir_split(const Type *t)
{
	unsigned mask = 0;

	for (int k = 0; k < t->n; k++)
		for (int j = 0; j < t->ax[k].nshard; j++)
			mask |= 1u << t->ax[k].shard[j];
	return mask;
}

int
ir_zero(const Module *m, uint32_t inst)
{
	const Strategy *r = ir_run_of(m, inst);

	return r && ir_dp_mask(&m->plan.meshes[r->mesh]) ? r->zero : 0;
}

void
ir_coords(const Stage *s, const Mesh *mesh, uint32_t rank, uint32_t coord[MAX_MESH])
{
	uint32_t rest = rank - s->rank;

	memset(coord, 0, MAX_MESH * sizeof(*coord));
	for (int k = mesh ? mesh->n - 1 : 0; k > 0; k--) {
		coord[k] = rest % mesh->ax[k].degree;
		rest /= mesh->ax[k].degree;
	}
}

uint32_t
ir_group_index(const Mesh *mesh, unsigned axes, const uint32_t coord[MAX_MESH])
{
	uint32_t i = 0;

	for (int k = 1; mesh && k < mesh->n; k++)
		if (axes >> k & 1) i = i * mesh->ax[k].degree + coord[k];
	return i;
}

uint32_t
ir_rank_at(const Stage *s, const Mesh *mesh, const uint32_t coord[MAX_MESH])
{
	return s->rank + ir_group_index(mesh, ~0u, coord);
}

void
ir_part(const Module *m, const Mesh *mesh, const Type *t, int k, const uint32_t coord[MAX_MESH],
	int64_t *lo, int64_t *hi)
{
	const AxisUse *u = &t->ax[k];
	int64_t n = ir_extent(m, u->a), at = 0, end = n;

	for (int i = 0; mesh && i < u->nshard; i++) {
		int64_t degree = mesh->ax[u->shard[i]].degree;

		n = n / degree + (n % degree != 0);
		at += n * coord[u->shard[i]];
		if (end > at + n) end = at + n;
	}
	*lo = at;
	*hi = end;
}

const Mesh *
ir_inst_mesh(const Module *m, uint32_t inst)
{
	const LayerType *l = &m->types[m->insts[inst].type];

	for (int k = 0; k < BK_COUNT; k++)
		if (l->body[k]) return ir_mesh(m, &m->bodies[l->body[k]]);
	return NULL;
}

const Mesh *
ir_param_mesh(const Module *m, uint32_t param)
{
	return ir_inst_mesh(m, m->params[param].owner);
}

bool
ir_mesh_alike(const Mesh *x, const Mesh *y)
{
	if (x == y || !x || !y || x->n != y->n) return x == y;
	for (int k = 1; k < x->n; k++)
		if (x->ax[k].kind != y->ax[k].kind || x->ax[k].degree != y->ax[k].degree)
			return false;
	return true;
}

const Mesh *
val_mesh(const Module *m, const Body *b, Val v)
{
	bool given = b->vals[v.i].def == 0;

	if (m->level < LV_spmd || !b->from || b->from > m->plan.nmeshes) return ir_mesh(m, b);
	return (b->kind == BK_F) == given ? &m->plan.meshes[b->from - 1] : ir_mesh(m, b);
}

/* ---- flats ---- */

typedef struct Member {
	uint32_t param;
	unsigned pending, over;
} Member;

/* Most pending first, so that what is more than dp is in front. */
static int
by_pending(const void *x, const void *y)
{
	const Member *a = x, *b = y;
	int na = __builtin_popcount(a->pending), nb = __builtin_popcount(b->pending);

	if (na != nb) return na > nb ? -1 : 1;
	if (a->pending != b->pending) return a->pending < b->pending ? -1 : 1;
	return (a->param > b->param) - (a->param < b->param);
}

/* The trained parameters `inst` owns, each once. */
static uint32_t
find_members(const Module *m, uint32_t inst, unsigned dp, Member *out)
{
	const Instance *n = &m->insts[inst];
	uint32_t count = 0;

	for (uint32_t w = 0; w < m->types[n->type].nweights; w++) {
		const Param *p = &m->params[n->params[w]];
		uint32_t k = 0;

		if (p->owner != inst || !p->trained || p->borrows) continue;
		while (k < count && out[k].param != n->params[w])
			k++;
		if (k == count)
			out[count++] =
			    (Member){n->params[w], p->pending, p->pending & ~(dp | 1u)};
	}
	qsort(out, count, sizeof(*out), by_pending);
	return count;
}

static int64_t
round_up(int64_t x, int64_t to)
{
	return (x + to - 1) / to * to;
}

Flat
ir_flat(const Module *m, Arena *a, uint32_t inst)
{
	const Mesh *mesh = ir_inst_mesh(m, inst);
	uint32_t nweights = m->types[m->insts[inst].type].nweights;
	Flat f = {
	    .dp = ir_dp_degree(mesh), .dp_mask = ir_dp_mask(mesh), .zero = ir_zero(m, inst)};
	Member *member = NEW_N(a, Member, nweights + 1);

	f.n = find_members(m, inst, f.dp_mask, member);
	f.param = NEW_N(a, uint32_t, f.n + 1);
	f.at = NEW_N(a, int64_t, f.n + 1);
	f.size = NEW_N(a, int64_t, f.n + 1);
	f.span = NEW_N(a, FlatSpan, f.n + 1);
	for (uint32_t i = 0; i < f.n; i++) {
		const Type *t = &m->params[member[i].param].type;

		f.param[i] = member[i].param;
		f.at[i] = f.bytes;
		f.size[i] = type_bytes(m, mesh, t);
		f.bytes = round_up(f.bytes + f.size[i], ALIGN);
		f.dt = t->dt;
		if (!member[i].over) continue;
		if (!f.nspans || f.span[f.nspans - 1].over != member[i].over)
			f.span[f.nspans++] = (FlatSpan){member[i].over, f.at[i], 0};
		f.span[f.nspans - 1].bytes = f.at[i] + f.size[i] - f.span[f.nspans - 1].at;
	}
	f.bytes = round_up(f.bytes, (int64_t)ALIGN * f.dp);
	return f;
}

Type
ir_state_type(const Type *weight)
{
	Type t = *weight;
	if (t.dt == DT_bf16) t.dt = DT_f32;
	return t;
}

int64_t
ir_section_scale(const Module *m, Section s)
{
	return s >= SEC_m && m->nparams && m->params[0].type.dt == DT_bf16 ? 2 : 1;
}

bool
ir_flat_split(int zero, Section s)
{
	return s == SEC_param ? zero == 3 : s == SEC_grad ? zero >= 2 : zero >= 1;
}
