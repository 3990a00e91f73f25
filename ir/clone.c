/*
 * clone.c - a deep copy of a module into another arena, and what is counted over its parameters.
 * The copy shares only the names. A field of Module that points needs a line here.
 */
#include "ir/ir.h"

#include <string.h>

#define DUP(p, n) ((p) ? arena_dup(a, p, sizeof(*(p)) * (size_t)(n)) : NULL)

static void
clone_body(Body *b, Arena *a)
{
	b->ports = DUP(b->ports, b->nports);
	b->cports = b->nports;
	b->vals = DUP(b->vals, b->nvals);
	b->cvals = b->nvals;
	b->ops = DUP(b->ops, b->nops);
	b->cops = b->nops;
	b->index = NULL;
	b->nindex = b->cindex = 0;
	for (uint32_t i = 0; i < b->nops; i++) {
		b->ops[i].in = DUP(b->ops[i].in, b->ops[i].nin);
		b->ops[i].attrs = DUP(b->ops[i].attrs, b->ops[i].nattr);
	}
}

static void
clone_type(LayerType *l, Arena *a)
{
	l->weights = DUP(l->weights, l->nweights);
	l->saved = DUP(l->saved, l->nsaved);
	l->carry = DUP(l->carry, l->ncarry);
	l->out_at = DUP(l->out_at, l->nouts);
	l->saved_at = DUP(l->saved_at, l->nsaved);
	l->carry_at = DUP(l->carry_at, l->ncarry);
}

static void
clone_instance(Instance *n, const LayerType *l, Arena *a)
{
	n->args = DUP(n->args, l->nargs);
	n->params = DUP(n->params, l->nweights);
	n->rates = DUP(n->rates, l->nrates);
}

static void
clone_plan(Plan *p, Arena *a)
{
	p->meshes = DUP(p->meshes, p->nmeshes);
	p->runs = DUP(p->runs, p->nruns);
	p->nodes = DUP(p->nodes, p->nnodes);
	p->stages = DUP(p->stages, p->nstages);
}

static void
clone_memory(Memory *mem, const Module *m, Arena *a)
{
	mem->flat_bytes = DUP(mem->flat_bytes, m->ninsts);
	for (int k = 0; k < SEC_COUNT; k++)
		mem->flat_at[k] = DUP(mem->flat_at[k], m->ninsts);
	mem->param_at = DUP(mem->param_at, m->nparams);
	mem->in_flat = DUP(mem->in_flat, m->nparams);
	mem->const_at = DUP(mem->const_at, m->nconsts);
	mem->input_at = DUP(mem->input_at, m->ninputs);
	mem->slot_at = DUP(mem->slot_at, m->ninsts);
	mem->back_at = DUP(mem->back_at, m->ninsts);
	mem->cot_of = DUP(mem->cot_of, m->ninsts);
	mem->cot = DUP(mem->cot, mem->ncot);
}

Module *
ir_clone(const Module *from, Arena *a)
{
	Module *m = arena_dup(a, from, sizeof(*from));

	m->arena = a;
	m->axes = DUP(m->axes, m->naxes);
	m->inputs = DUP(m->inputs, m->ninputs);
	m->params = DUP(m->params, m->nparams);
	m->consts = DUP(m->consts, m->nconsts);
	m->bodies = DUP(m->bodies, m->nbodies);
	m->types = DUP(m->types, m->ntypes);
	m->insts = DUP(m->insts, m->ninsts);
	m->reports = DUP(m->reports, m->nreports);
	m->actions = DUP(m->actions, m->nactions);
	m->caxes = m->naxes;
	m->cinputs = m->ninputs;
	m->cparams = m->nparams;
	m->cconsts = m->nconsts;
	m->cbodies = m->nbodies;
	m->ctypes = m->ntypes;
	m->cinsts = m->ninsts;
	m->creports = m->nreports;
	m->cactions = m->nactions;
	for (uint32_t i = 1; i < m->nbodies; i++)
		clone_body(&m->bodies[i], a);
	for (uint32_t i = 0; i < m->ntypes; i++)
		clone_type(&m->types[i], a);
	for (uint32_t i = 0; i < m->ninsts; i++)
		clone_instance(&m->insts[i], &m->types[m->insts[i].type], a);
	clone_plan(&m->plan, a);
	m->mem = m->level >= LV_mem || m->mem ? DUP(m->mem, m->plan.nstages) : NULL;
	for (uint32_t k = 0; m->mem && k < m->plan.nstages; k++)
		clone_memory(&m->mem[k], m, a);
	return m;
}

int64_t
ir_param_count(const Module *m)
{
	int64_t n = 0;

	for (uint32_t i = 0; i < m->nparams; i++)
		if (!m->params[i].borrows &&
		    __builtin_add_overflow(n, type_count(m, NULL, &m->params[i].type), &n))
			return INT64_MAX;
	return n;
}

/* One entry per index of `per` where the name has a place for it ("experts.{expert}.w1"); else one, with that axis
 * as its first dimension. shape has room for MAX_AXES. */
int64_t
ir_param_entries(const Module *m, uint32_t param, int64_t *shape, int *ndims)
{
	const Param *p = &m->params[param];
	bool apart = p->per.i && strchr(name_str(m->names, p->name), '{');
	int k = p->per.i != 0;

	*ndims = 0;
	if (p->per.i && !apart) shape[(*ndims)++] = ir_extent(m, p->per);
	for (int d = 0; d < p->ndims; d++) {
		int64_t n = 1;

		for (int i = 0; i < p->dims[d] && k < p->type.n; i++, k++)
			if (__builtin_mul_overflow(n, ir_extent(m, p->type.ax[k].a), &n))
				n = INT64_MAX;
		shape[(*ndims)++] = n;
	}
	return apart ? ir_extent(m, p->per) : 1;
}
