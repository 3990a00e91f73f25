/*
 * params.c - the parameter table: names of repeated parameters, and first values drawn from (seed, name, element) alone.
 */
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
		n += p->params[k].count * param_repeat(&p->params[k]);
	return n;
}

int64_t
params_entries(const GvrtProgram *p)
{
	int64_t n = 0;
	for (size_t k = 0; k < p->nparams; k++)
		n += param_repeat(&p->params[k]);
	return n;
}

/* Normal values come in pairs, elements 2j and 2j + 1: one thread makes both. */
static void
fill_normal(real *w, int64_t n, uint64_t key, double std)
{
	OMP(omp parallel for schedule(static))
	for (int64_t j = 0; j < (n + 1) / 2; j++) {
		double pair[2];
		rt_normal_pair(key, (uint64_t)j, pair);
		w[2 * j] = (real)(std * pair[0]);
		if (2 * j + 1 < n) w[2 * j + 1] = (real)(std * pair[1]);
	}
}

RT_EXACT static double
between(double low, double high, double u)
{
	return low + (high - low) * u;
}

static void
fill_uniform(real *w, int64_t n, uint64_t key, double low, double high)
{
	OMP(omp parallel for schedule(static))
	for (int64_t i = 0; i < n; i++)
		w[i] = (real)between(low, high, rt_uniform(key, (uint64_t)i));
}

static void
fill_value(real *w, int64_t n, double value)
{
	OMP(omp parallel for schedule(static))
	for (int64_t i = 0; i < n; i++)
		w[i] = (real)value;
}

void
params_init(GvrtRun *r, const GvrtProgram *p)
{
	for (size_t k = 0; k < p->nparams; k++) {
		const GvrtParam *q = &p->params[k];
		for (uint32_t i = 0; i < param_repeat(q); i++) {
			char name[RT_NAME];
			param_name(q, i, name);
			real *w = (real *)(void *)(r->arena + p->param + q->at + i * q->stride);
			uint64_t key = gvrt_key(r->seed, name);
			switch (q->init) {
			case GVRT_VALUE: fill_value(w, q->count, q->a); break;
			case GVRT_NORMAL: fill_normal(w, q->count, key, q->a); break;
			case GVRT_UNIFORM: fill_uniform(w, q->count, key, q->a, q->b); break;
			case GVRT_TABLE:
				memcpy(w, r->arena + (int64_t)q->a + i * (int64_t)q->b,
				       (size_t)q->count * sizeof(real));
				break;
			}
		}
	}
}
