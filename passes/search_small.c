/*
 * search_small.c - a copy of a model with runs of equal layers made short: what a layer costs is read off this one.
 *
 * Left out is a layer between two of its class that only hands on what the one before gave it: its results go to the next
 * layer alone, its parameters are its own. So every class keeps its first layer, and what is shared stays shared.
 */
#include "passes/search.h"

/* Layers of one type that own the same of their weights and take arguments of the same kind cost the same. */
static bool
same_class(const Module *m, uint32_t i, uint32_t j)
{
	const Instance *a = &m->insts[i], *b = &m->insts[j];
	if (a->type != b->type) return false;
	for (uint16_t k = 0; k < m->types[a->type].nargs; k++)
		if (a->args[k].kind != b->args[k].kind) return false;
	for (uint32_t w = 0; w < m->types[a->type].nweights; w++)
		if ((m->params[a->params[w]].owner == i) !=
		    (m->params[b->params[w]].owner == j))
			return false;
	return true;
}

void
search_classes(const Module *m, Arena *a, Classes *out)
{
	*out = (Classes){.of = NEW_N(a, uint32_t, m->ninsts),
			 .first = NEW_N(a, uint32_t, m->ninsts)};
	for (uint32_t i = 0; i < m->ninsts; i++) {
		uint32_t k = 0;
		while (k < out->n && !same_class(m, i, out->first[k]))
			k++;
		if (k == out->n) out->first[out->n++] = i;
		out->of[i] = k;
	}
}

/* ---- who may be left out ---- */

static bool
is_result_of(Ref r, uint32_t i)
{
	return r.kind == REF_result && r.i == i;
}

/* Layer i + 1 takes from i what i takes from i - 1. */
static bool
hands_on(const Module *m, uint32_t i)
{
	const Instance *n = &m->insts[i], *next = n + 1;
	for (uint16_t a = 0; a < m->types[n->type].nargs; a++)
		if (is_result_of(next->args[a], i) &&
		    !(is_result_of(n->args[a], i - 1) &&
		      n->args[a].result == next->args[a].result))
			return false;
	return true;
}

/* [ninsts]: something but the next layer reads its results, or shares its parameters. */
static bool *
find_shared(const Module *m, Arena *a)
{
	bool *shared = NEW_N(a, bool, m->ninsts);
	uint32_t *user = NEW_N(a, uint32_t, m->nparams); /* 1 + the instance */
	for (uint32_t i = 0; i < m->ninsts; i++) {
		const Instance *n = &m->insts[i];
		for (uint16_t k = 0; k < m->types[n->type].nargs; k++)
			if (n->args[k].kind == REF_result && n->args[k].i + 1 < i)
				shared[n->args[k].i] = true;
		for (uint32_t w = 0; w < m->types[n->type].nweights; w++) {
			uint32_t *u = &user[n->params[w]];
			if (*u || m->params[n->params[w]].owner != i) {
				shared[i] = true;
				if (*u) shared[*u - 1] = true;
			}
			*u = 1 + i;
		}
	}
	for (uint32_t r = 0; r < m->nreports; r++)
		if (m->reports[r].ref.kind == REF_result) shared[m->reports[r].ref.i] = true;
	return shared;
}

/* ---- the copy ---- */

/* Parameters of instances that are left, numbered anew. */
static void
keep_params(Module *m, Arena *a, const uint32_t *at)
{
	uint32_t *now = NEW_N(a, uint32_t, m->nparams), n = 0; /* 1 + new number */
	for (uint32_t i = 0; i < m->ninsts; i++)
		for (uint32_t w = 0; w < m->types[m->insts[i].type].nweights; w++)
			now[m->insts[i].params[w]] = 1;
	for (uint32_t p = 0; p < m->nparams; p++) {
		if (!now[p]) continue;
		m->params[n] = m->params[p];
		m->params[n].owner = at[m->params[p].owner];
		now[p] = ++n;
	}
	m->nparams = n;
	for (uint32_t i = 0; i < m->ninsts; i++)
		for (uint32_t w = 0; w < m->types[m->insts[i].type].nweights; w++)
			m->insts[i].params[w] = now[m->insts[i].params[w]] - 1;
}

Module *
search_small(const Module *from, const Classes *classes, Arena *a, uint32_t *at)
{
	return search_short(from, classes, a, at, 2);
}

/* Is layer i at least number `n` of equal ones in a row, counted from 0, and not the last? */
static bool
is_between(const Module *m, const Classes *c, uint32_t i, uint32_t n)
{
	if (i < n || i + 1 >= m->ninsts || c->of[i + 1] != c->of[i]) return false;
	for (uint32_t k = 1; k <= n; k++)
		if (c->of[i - k] != c->of[i]) return false;
	return true;
}

Module *
search_short(const Module *from, const Classes *classes, Arena *a, uint32_t *at, uint32_t keep)
{
	Module *m = ir_clone(from, a);
	bool *shared = find_shared(from, a);
	uint32_t n = 0;
	for (uint32_t i = 0; i < from->ninsts; i++) {
		Instance *x = &m->insts[i];
		bool between = is_between(from, classes, i, keep - 1);
		if (between && !shared[i] && hands_on(from, i)) {
			at[i] = at[i - 1]; /* who reads its results reads those */
			continue;
		}
		at[i] = n;
		for (uint16_t k = 0; k < m->types[x->type].nargs; k++)
			if (x->args[k].kind == REF_result) x->args[k].i = at[x->args[k].i];
		m->insts[n++] = *x;
	}
	m->ninsts = n;
	for (uint32_t r = 0; r < m->nreports; r++)
		if (m->reports[r].ref.kind == REF_result)
			m->reports[r].ref.i = at[m->reports[r].ref.i];
	keep_params(m, a, at);
	return m;
}
