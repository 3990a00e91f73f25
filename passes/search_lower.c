/*
 * search_lower.c - layout classes: what the short model (search_small.c) becomes when tp, Megatron-SP and recomputation are
 * given.
 *
 * A lowered body does not say how many ranks dp has or how many microbatches there are: extents are computed from the degrees
 * of its mesh. So one lowering serves all of them; search_layout_set() gives it degrees, and search_cost.c prices it again.
 * Lowered apart is only what has other operations: one microbatch or many, dp or none, a batch that does not divide.
 */
#include <string.h>

#include "passes/search.h"

struct CostMemo {
	Arena *a;
	Module *small;
	Classes classes;
	uint32_t *first; /* [classes] first layer of a class, in `small` */
	Layout **l;
	uint32_t n, cap, lowered, priced;
};

void
search_mesh(const Candidate *c, uint32_t mb, Mesh *out)
{
	*out = (Mesh){.n = 1};
	out->ax[0].kind = MX_mb;
	out->ax[0].degree = mb;
	for (int k = 0; k < 2; k++) {
		bool tp = k != c->tp_outer;
		uint32_t degree = tp ? c->tp : c->dp;
		if (degree < 2) continue;
		out->ax[out->n].kind = tp ? MX_tp : MX_dp;
		out->ax[out->n++].degree = degree;
	}
}

/* n elements in blocks of ranks, rounded up: does the last rank have any? */
bool
search_all_have(int64_t n, int64_t ranks)
{
	return (n + ranks - 1) / ranks * (ranks - 1) < n;
}

/* Does every rank of tp have a part of something, in some layer? If not, ranks are left over. */
static bool
tp_used(const Module *m, uint32_t tp)
{
	if (tp == 1) return true;
	for (uint32_t b = 1; b < m->nbodies; b++)
		for (uint32_t v = 1; v < m->bodies[b].nvals; v++) {
			const Mesh *mesh = ir_mesh(m, &m->bodies[b]);
			const Type *t = &m->bodies[b].vals[v].type;
			for (int k = 0; mesh && k < t->n; k++)
				for (int j = 0; j < t->ax[k].nshard; j++)
					if (mesh->ax[t->ax[k].shard[j]].kind == MX_tp &&
					    search_all_have(ir_extent(m, t->ax[k].a), tp))
						return true;
		}
	return false;
}

CostMemo *
search_memo(const Search *s)
{
	CostMemo *x = NEW(s->a, CostMemo);
	uint32_t *at = NEW_N(s->a, uint32_t, s->m->ninsts);
	x->a = s->a;
	search_classes(s->m, s->a, &x->classes);
	x->small = search_small(s->m, &x->classes, s->a, at);
	x->first = NEW_N(s->a, uint32_t, x->classes.n);
	for (uint32_t k = 0; k < x->classes.n; k++)
		x->first[k] = at[x->classes.first[k]];
	return x;
}

CostMemo *
search_memo_force(const CostMemo *x, uint32_t nlayers, uint32_t layer)
{
	CostMemo *y = arena_dup(x->a, x, sizeof *x);
	uint32_t n = x->classes.n;
	y->classes.of = arena_dup(x->a, x->classes.of, sizeof *x->classes.of * nlayers);
	y->classes.first = NEW_N(x->a, uint32_t, n + 1);
	y->first = NEW_N(x->a, uint32_t, n + 1);
	for (uint32_t k = 0; k < n; k++) {
		y->classes.first[k] = x->classes.first[k];
		y->first[k] = x->first[k];
	}
	y->classes.first[n] = layer;
	y->first[n] = x->first[x->classes.of[layer]];
	y->classes.of[layer] = n;
	y->classes.n = n + 1;
	y->cap = y->n; /* what one adds, the other does not see */
	return y;
}

const Classes *
search_memo_classes(const CostMemo *x)
{
	return &x->classes;
}

uint32_t
search_first(const CostMemo *x, const Layout *l, uint32_t class)
{
	return l->at[x->first[class]];
}

Ref
search_source(const Layout *l, const Layout *in, Ref r)
{
	uint32_t n = 0;
	while (ir_is_reshard(l->m, r.i))
		r = l->m->insts[r.i].args[0];
	while (l->at[n] != r.i)
		n++;
	r.i = in->at[n];
	return r;
}

uint32_t
search_lowered(const CostMemo *x)
{
	return x->lowered;
}

uint32_t *
search_priced(CostMemo *x)
{
	return &x->priced;
}

/* ---- the other order of axes ---- */

static unsigned
swap_bits(unsigned x)
{
	return (x & ~6u) | (x >> 1 & 1) << 2 | (x >> 2 & 1) << 1;
}

static void
swap_type(Type *t)
{
	t->partial = (uint16_t)swap_bits(t->partial);
	t->flat = (uint16_t)swap_bits(t->flat);
	for (int k = 0; k < t->n; k++)
		for (int j = 0; j < t->ax[k].nshard; j++) {
			uint8_t *x = &t->ax[k].shard[j];
			*x = *x == 1 ? 2 : *x == 2 ? 1 : *x;
		}
}

static void
swap_body(Body *b)
{
	for (uint32_t v = 1; v < b->nvals; v++)
		swap_type(&b->vals[v].type);
	for (uint32_t i = 0; i < b->nops; i++)
		for (int k = 0; k < b->ops[i].nattr; k++) {
			Attr *x = &b->ops[i].attrs[k];
			if (attr_info[x->key].kind == AT_mesh) x->i = swap_bits((unsigned)x->i);
		}
}

/* A copy on a mesh whose axes 1 and 2 have changed places. */
static Module *
swap_axes(const Module *from, Arena *a)
{
	Module *m = ir_clone(from, a);
	Mesh *mesh = &m->plan.meshes[m->plan.nmeshes - 1], was = *mesh;
	mesh->ax[1] = was.ax[2];
	mesh->ax[2] = was.ax[1];
	for (uint32_t b = 1; b < m->nbodies; b++)
		if (m->bodies[b].mesh == m->plan.nmeshes - 1) swap_body(&m->bodies[b]);
	for (uint32_t t = 0; t < m->ntypes; t++) {
		LayerType *x = &m->types[t];
		for (uint32_t i = 0; i < x->nweights; i++)
			swap_type(&x->weights[i].type);
		for (uint32_t i = 0; i < x->nsaved; i++)
			swap_type(&x->saved[i]);
		for (uint32_t i = 0; i < x->ncarry; i++)
			swap_type(&x->carry[i]);
	}
	for (uint32_t p = 0; p < m->nparams; p++) {
		swap_type(&m->params[p].type);
		m->params[p].pending = (uint16_t)swap_bits(m->params[p].pending);
	}
	for (uint32_t i = 0; i < m->ninputs; i++)
		swap_type(&m->inputs[i].type);
	return m;
}

/* ---- layouts ---- */

static bool
alike_but_rc(const Layout *a, const Layout *b)
{
	return a->tp == b->tp && a->tp_outer == b->tp_outer && a->sp == b->sp &&
	       a->uneven == b->uneven && a->mb == b->mb && a->dp == b->dp;
}

/* The short model as a plan of one stage on the candidate's mesh. */
static Plan
plan_of(const Search *s, Arena *a, const Module *m, const Candidate *c, uint32_t mb)
{
	Plan p = {.ranks = c->dp * c->tp,
		  .threads = s->c->threads,
		  .microbatches = mb,
		  .schedule = SCH_1f1b,
		  .forward_only = !s->trains};
	p.meshes = NEW_N(a, Mesh, 2);
	search_mesh(&(Candidate){.dp = 1, .tp = 1}, mb, &p.meshes[0]);
	search_mesh(c, mb, &p.meshes[1]);
	p.nmeshes = p.meshes[1].n > 1 ? 2 : 1;
	for (uint32_t i = 0; i < p.nmeshes; i++)
		p.meshes[i].name = name_of(m->names, i ? "m1" : "m0");
	p.runs = NEW(a, Strategy);
	p.runs[0] = (Strategy){.count = m->ninsts,
			       .mesh = p.nmeshes - 1,
			       .megatron_sp = c->sp,
			       .recompute = c->rc};
	p.nruns = 1;
	p.stages = NEW(a, Stage);
	p.stages[0] = (Stage){.count = m->ninsts, .ranks = p.ranks, .slots = 1};
	p.nstages = 1;
	return p;
}

/* Where a value is wanted in two layouts on one mesh (what Megatron-SP splits, looked at by another stack), there are reshards
 * between the layers. */
static uint32_t *
layers_at(const Module *m, Arena *a)
{
	uint32_t *at = NEW_N(a, uint32_t, m->ninsts), n = 0;
	for (uint32_t i = 0; i < m->ninsts; i++)
		if (!ir_is_reshard(m, i)) at[n++] = i;
	return at;
}

static void
lower(const Search *s, Layout *l, const Candidate *c, uint32_t mb)
{
	CostMemo *x = s->memo;
	Ctx ctx = *s->c;
	Arena *tmp = arena_new();
	ctx.tmp = tmp;
	ctx.perm = x->a;
	ctx.diag = diag_new(tmp, ctx.names, NULL);
	Module *m = ir_clone(x->small, x->a);
	LowerMemo memo = {.tp = l->tpm};
	m->plan = plan_of(s, x->a, m, c, mb);
	m->level = LV_plan;
	x->lowered++;
	if (!lower_link(&ctx, m, &memo)) {
		const char *why = diag_first(ctx.diag);
		l->why = arena_dup(x->a, why, strlen(why) + 1);
	} else if (!tp_used(m, c->tp)) {
		l->why = "tp splits no axis so that every rank has a part";
	} else {
		layout_module(&ctx, m);
		l->m = m;
		l->at = layers_at(m, x->a);
		l->mesh = &m->plan.meshes[m->plan.nmeshes - 1];
	}
	arena_free(tmp);
}

/* The degrees it is lowered with: more than one of each, few samples to a rank, if that has the same operations. */
static void
representative(const Search *s, Candidate *c, uint32_t *mb)
{
	uint32_t dp = c->dp > 1 ? c->dp : 2;
	if (s->batch / *mb % c->dp != 0 || s->batch % dp != 0 || s->batch / dp < 2) return;
	*mb = (uint32_t)(s->batch / dp);
	c->dp = dp;
}

static Layout *
find_layout(const CostMemo *x, Layout *want)
{
	for (uint32_t i = 0; i < x->n; i++) {
		Layout *y = x->l[i];
		if (y->tp == want->tp && y->sp == want->sp) want->tpm = y->tpm;
		if (!alike_but_rc(y, want)) continue;
		if (y->rc == want->rc) return y;
	}
	return NULL;
}

static Layout *
make_layout(const Search *s, Layout *want, const Candidate *c, uint32_t mb)
{
	CostMemo *x = s->memo;
	Layout *l = arena_dup(x->a, want, sizeof *want);
	if (!l->tpm) {
		l->tpm = NEW(x->a, TpMemo);
		l->tpm->a = x->a;
	}
	PUSH(x->a, x->l, x->n, x->cap, l);
	if (c->tp_outer) { /* the same operations, axes the other way round */
		Candidate inner = *c;
		inner.tp_outer = false;
		const char *why;
		const Layout *y = search_layout(s, &inner, mb, &why);
		if (!y) {
			l->why = why;
		} else {
			l->m = swap_axes(y->m, x->a);
			l->mesh = &l->m->plan.meshes[l->m->plan.nmeshes - 1];
			l->at = y->at;
		}
	} else {
		lower(s, l, c, mb);
	}
	return l;
}

static Layout *
layout_as(const Search *s, const Candidate *c, bool uneven, const Candidate *as, uint32_t mb)
{
	Layout want = {.tp = c->tp,
		       .tp_outer = c->tp_outer,
		       .sp = c->sp,
		       .uneven = uneven,
		       .mb = mb > 1,
		       .dp = as->dp > 1,
		       .rc = c->rc};
	Layout *l = find_layout(s->memo, &want);
	return l ? l : make_layout(s, &want, as, mb);
}

Layout *
search_layout(const Search *s, const Candidate *c, uint32_t mb, const char **why)
{
	Candidate as = *c;
	uint32_t as_mb = mb;
	bool uneven = s->batch / mb % c->dp != 0;
	representative(s, &as, &as_mb);
	Layout *l = layout_as(s, c, uneven, &as, as_mb);
	if (l->why && (c->dp == 1 || mb == 1)) /* what ties samples together may do with one */
		l = layout_as(s, c, uneven, c, mb);
	*why = l->why;
	return l->why ? NULL : l;
}

void
search_layout_set(const Search *s, Layout *l, uint32_t dp, uint32_t mb)
{
	Plan *p = &l->m->plan;
	(void)s;
	p->microbatches = mb;
	p->ranks = p->stages[0].ranks = dp * l->tp;
	for (uint32_t i = 0; i < p->nmeshes; i++)
		p->meshes[i].ax[0].degree = mb;
	for (int k = 1; k < l->mesh->n; k++)
		if (l->mesh->ax[k].kind == MX_dp) l->mesh->ax[k].degree = dp;
}
