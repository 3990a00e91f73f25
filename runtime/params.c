/*
 * params.c - the parameter table: names, which elements of a parameter this rank has, and first values drawn from (seed,
 * name, element) alone: the same under every plan and number of threads.
 */
#include <stdlib.h>

#include "gvrt_int.h"

void
param_name(const GvrtParam *q, uint32_t i, char name[RT_NAME])
{
	if (q->suffix)
		snprintf(name, RT_NAME, "%s%llu%s", q->prefix,
			 (unsigned long long)q->first + (unsigned long long)i * q->by,
			 q->suffix);
	else
		snprintf(name, RT_NAME, "%s", q->prefix);
}

int64_t
params_count(const GvrtProgram *p)
{
	int64_t n = 0;
	for (size_t k = 0; k < p->nparams; k++)
		if (!p->params[k].borrowed)
			n += p->params[k].count * param_repeat(&p->params[k]);
	return n;
}

/* ---- which elements ---- */

/* Runs of one tensor, as part_runs is told them, on their way to a caller who wants addresses. */
typedef struct Walk {
	real *at;       /* of the local tensor's element 0 */
	int64_t lo, hi; /* of its elements, what is here */
	RunFn *fn;
	void *arg;
} Walk;

static bool
clip(void *arg, int64_t first, int64_t local, int64_t n)
{
	const Walk *w = arg;
	int64_t lo = local > w->lo ? local : w->lo;
	int64_t hi = local + n < w->hi ? local + n : w->hi;
	return lo >= hi || w->fn(w->arg, first + lo - local, hi - lo, w->at + lo);
}

static int64_t
section_at(const GvrtProgram *p, GvrtSection s)
{
	return s == GVRT_PARAM  ? p->param
	       : s == GVRT_GRAD ? p->grad
	       : s == GVRT_M    ? p->m
				: p->v;
}

/* Whether this rank is the first of those that have the same elements. */
static bool
is_owner(const GvrtPart *x, const GvrtMesh *mesh, const int64_t *coord, bool ranged)
{
	unsigned has = ranged ? x->over : 0;
	for (int k = 0; k < x->naxes; k++)
		for (int i = 0; i < x->axis[k].nshard; i++)
			has |= 1u << x->axis[k].shard[i];
	return part_first(mesh, ~has, coord);
}

static bool
whole_runs(const GvrtRun *r, const GvrtParam *q, uint32_t i, GvrtSection s, bool owned,
	   RunFn *fn, void *arg)
{
	const struct GvrtState *state = r->state;
	const GvrtProgram *p = state->p;
	if (q->elsewhere) return true;
	if (owned && p->stage_ranks && state->at.rank != p->stage_ranks[p->stage].rank)
		return true;
	return fn(arg, 0, q->count,
		  (real *)(void *)(r->arena + section_at(p, s) + q->at + i * q->stride));
}

bool
param_runs(const GvrtRun *r, const GvrtParam *q, uint32_t i, GvrtSection s, bool owned,
	   RunFn *fn, void *arg)
{
	const struct GvrtState *state = r->state;
	const GvrtProgram *p = state->p;
	const GvrtPart *x = q->part;
	if (section_at(p, s) < 0) return true;
	if (!x) return whole_runs(r, q, i, s, owned, fn, arg);
	if (x->at[s] < 0) return true;
	const GvrtMesh *mesh = &p->meshes[x->mesh];
	int64_t coord[GVRT_MESH], at = section_at(p, s) + x->at[s];
	bool split = x->split >> s & 1;
	/* What a reduce-scatter leaves in a whole gradient is right in this rank's range only. */
	bool ranged = split || (s == GVRT_GRAD && x->split >> GVRT_M & 1);
	Walk w = {.lo = INT64_MIN / 2, .hi = INT64_MAX, .fn = fn, .arg = arg};
	part_coords(mesh, state->at.rank - p->stage_ranks[p->stage].rank, coord);
	if (owned && !is_owner(x, mesh, coord, ranged)) return true;
	if (!q->per) at += i * x->stride[s];
	if (ranged) {
		int64_t bytes = x->flat_bytes / part_degree(mesh, x->over);
		int64_t from = part_index(mesh, x->over, coord) * bytes - x->flat_at;
		w.lo = from / (int64_t)sizeof(real);
		w.hi = (from + bytes) / (int64_t)sizeof(real);
		if (split) at -= from;
	}
	w.at = (real *)(uintptr_t)((uintptr_t)r->arena + (uintptr_t)at);
	return part_runs(x, mesh, coord, q->per ? (int64_t)i : -1, clip, &w);
}

/* ---- first values ---- */

typedef struct Fill {
	const GvrtParam *q;
	uint64_t key;
	const real *table;
} Fill;

/* Normal values come in pairs, elements 2j and 2j + 1: one thread makes both. */
static void
fill_normal(real *w, int64_t first, int64_t n, uint64_t key, double std)
{
	OMP(omp parallel for schedule(static))
	for (int64_t j = first / 2; j < (first + n + 1) / 2; j++) {
		double pair[2];
		rt_normal_pair(key, (uint64_t)j, pair);
		for (int64_t k = 0; k < 2; k++) {
			int64_t i = 2 * j + k - first;
			if (i >= 0 && i < n) w[i] = (real)(std * pair[k]);
		}
	}
}

RT_EXACT static double
between(double low, double high, double u)
{
	return low + (high - low) * u;
}

static bool
fill(void *arg, int64_t first, int64_t n, real *w)
{
	const Fill *f = arg;
	const GvrtParam *q = f->q;
	switch (q->init) {
	case GVRT_VALUE:
		OMP(omp parallel for schedule(static))
		for (int64_t i = 0; i < n; i++)
			w[i] = (real)q->a;
		break;
	case GVRT_NORMAL: fill_normal(w, first, n, f->key, q->a); break;
	case GVRT_UNIFORM:
		OMP(omp parallel for schedule(static))
		for (int64_t i = 0; i < n; i++)
			w[i] = (real)between(q->a, q->b,
					     rt_uniform(f->key, (uint64_t)(first + i)));
		break;
	case GVRT_TABLE: memcpy(w, f->table + first, (size_t)n * sizeof(real)); break;
	}
	return true;
}

void
params_init(GvrtRun *r, const GvrtProgram *p)
{
	for (size_t k = 0; k < p->nparams; k++) {
		const GvrtParam *q = &p->params[k];
		for (uint32_t i = 0; i < param_repeat(q) && !q->elsewhere; i++) {
			char name[RT_NAME];
			Fill f = {.q = q};
			param_name(q, i, name);
			f.key = gvrt_key(r->seed, name);
			if (q->init == GVRT_TABLE)
				f.table =
				    (const real *)(const void *)(r->arena + (int64_t)q->a +
								 i * (int64_t)q->b);
			param_runs(r, q, i, GVRT_PARAM, false, fill, &f);
		}
	}
}

/* ---- the entries of a checkpoint ---- */

static int
by_name(const void *a, const void *b)
{
	return strcmp(((const ParamEntry *)a)->name, ((const ParamEntry *)b)->name);
}

ParamTable
params_table(const GvrtProgram *p, Pool *pool)
{
	ParamTable t = {.n = 0};
	size_t n = 0;
	for (size_t k = 0; k < p->nparams; k++)
		if (!p->params[k].borrowed) n += param_repeat(&p->params[k]);
	t.entry = POOL_N(pool, ParamEntry, n + 1);
	for (size_t k = 0; k < p->nparams; k++) {
		const GvrtParam *q = &p->params[k];
		for (uint32_t i = 0; i < param_repeat(q) && !q->borrowed; i++) {
			char name[RT_NAME];
			param_name(q, i, name);
			char *copy = pool_alloc(pool, strlen(name) + 1);
			memcpy(copy, name, strlen(name));
			t.entry[t.n++] = (ParamEntry){copy, q, i};
		}
	}
	qsort(t.entry, t.n, sizeof *t.entry, by_name);
	return t;
}
