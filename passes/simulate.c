/*
 * simulate.c - a step from begin to end: what is simulated, and what came of it.
 *
 * Input: a module of level sched, and prices. Output: when every stage is done, what it did and when, memory alive over time
 * (level mem). What is simulated is a process for every class of ranks (simulate_class.c), so that time and memory do not
 * grow with dp or tp; actions are spelled out one at a time, operations never. README.md says what is modelled and what is not.
 */
#include "passes/simulate_parts.h"

const char *const sim_what_str[SW_COUNT] = {"F",    "B",     "W",     "update", "tp",
					    "fwd",  "bwd",   "param", "grad",   "borrow",
					    "norm", "input", "wait"};

/* ---- walking a table ---- */

Cursor
cursor_of(const Module *m, uint32_t stage)
{
	const Stage *s = &m->plan.stages[stage];
	return (Cursor){.a = m->actions + s->action, .n = s->nactions};
}

/* Past a loop without turns. */
static void
skip_loop(Cursor *c)
{
	for (uint32_t depth = 1; depth; c->at++)
		depth += (c->a[c->at].kind == ACT_mb || c->a[c->at].kind == ACT_layers) -
			 (c->a[c->at].kind == ACT_end);
}

/* Is it the end of a turn over microbatches? */
static bool
end_turn(Cursor *c)
{
	struct CursorLoop *l = &c->loop[c->depth - 1];
	if (++l->turn < l->count)
		c->at = l->begin;
	else
		c->depth--;
	if (l->kind == ACT_mb) c->mb = l->turn < l->count ? l->turn : 0;
	return l->kind == ACT_mb;
}

bool
cursor_next(Cursor *c, Action *out)
{
	while (c->at < c->n) {
		const Action *a = &c->a[c->at++];
		if (a->kind == ACT_mb || a->kind == ACT_layers) {
			if (!a->count) {
				skip_loop(c);
				continue;
			}
			ENSURE(c->depth < MAX_NEST, "loops are nested too deeply");
			c->loop[c->depth++] = (struct CursorLoop){c->at, 0, a->count, a->kind};
			continue;
		}
		*out = *a;
		if (a->kind == ACT_end) {
			if (end_turn(c)) return true;
			continue;
		}
		out->mb += c->mb;
		if (c->depth && c->loop[c->depth - 1].kind == ACT_layers)
			out->inst = (uint32_t)((int64_t)a->inst +
					       (int64_t)c->loop[c->depth - 1].turn * a->stride);
		return true;
	}
	return false;
}

/* ---- prices ---- */

int64_t
sim_price_prim(Sim *s, uint32_t stage, const Prim *prim)
{
	const SimPrices *x = s->o.prices;
	int64_t ns = x ? x->prim(x->arg, s->m, &s->comms, stage, prim)
		       : price_prim(s->p, s->m, &s->comms, stage, prim);
	return ns > 0 ? ns : 0;
}

/* What does not depend on when: once for every body, stage and kind of device. */
BodyPrice
sim_price_body(Sim *s, const Proc *p, uint32_t body)
{
	StageInfo *k = &s->stage[p->stage];
	const SimPrices *x = s->o.prices;
	const Body *b = &s->m->bodies[body];
	uint32_t kinds = s->cluster->ndevice;
	if (!k->price) {
		k->price = NEW_N(s->tmp, BodyPrice, (size_t)s->m->nbodies * kinds);
		for (uint32_t i = 0; i < s->m->nbodies * kinds; i++)
			k->price[i].compute = -1;
	}
	BodyPrice *y = &k->price[body * kinds + p->device];
	if (y->compute >= 0) return *y;
	*y = x ? x->body(x->arg, s->m, b, p->device)
	       : price_body_on(s->p, s->m, b, s->m->plan.stages[p->stage].rank, p->device);
	return *y;
}

/* ---- memory ---- */

static void
add_point(Sim *s, uint32_t stage, int64_t bytes)
{
	SimStage *r = &s->r.stage[stage];
	uint32_t n = r->npoints, *cap = &s->cpoints[stage];
	if (bytes > r->peak) r->peak = bytes;
	if (n && r->bytes[n - 1] == bytes) return;
	if (n == *cap) {
		*cap = n ? 2 * n : 64;
		r->when = arena_grow(s->a, r->when, n, *cap, sizeof(*r->when));
		r->bytes = arena_grow(s->a, r->bytes, n, *cap, sizeof(*r->bytes));
	}
	r->when[n] = s->now;
	r->bytes[n] = bytes;
	r->npoints++;
}

/* All ranks of a stage have the same memory; the first class stands for all. */
void
sim_memory(Sim *s, const Proc *p, const Action *a, bool begins)
{
	if (!s->walk || p->class) return;
	MemWalk *w = s->walk[p->stage];
	if (a->kind == ACT_body && !begins) {
		add_point(s, p->stage, s->after[p->stage]);
		return;
	}
	int64_t during, after = mem_walk_action(w, a, &during);
	add_point(s, p->stage, during);
	s->after[p->stage] = after;
	if (a->kind != ACT_body) add_point(s, p->stage, after);
}

/* ---- a step ---- */

static void
add_norm(Sim *s)
{
	Prim prim;
	if (!ir_norm_prim(s->m, &prim)) return;
	s->norm.n = s->nprocs;
	s->norm.proc = NEW_N(s->tmp, uint32_t, s->nprocs);
	for (uint32_t i = 0; i < s->nprocs; i++)
		s->norm.proc[i] = i;
	s->norm.comm = sim_price_prim(s, 0, &prim);
}

/* Where ranks communicate themselves anywhere, all do. */
static bool
takes_turns(const Sim *s)
{
	for (uint32_t i = 0; i < s->nprocs; i++)
		if (s->proc[i].d->slow_compute <= 0) return true;
	return false;
}

static int
by_begin(const void *x, const void *y)
{
	const SimEvent *a = x, *b = y;
	if (a->stage != b->stage) return a->stage < b->stage ? -1 : 1;
	if (a->class != b->class) return a->class < b->class ? -1 : 1;
	if (a->from != b->from) return a->from < b->from ? -1 : 1;
	if (a->stream != b->stream) return a->stream < b->stream ? -1 : 1;
	if (a->to != b->to) return a->to < b->to ? -1 : 1;
	if (a->what != b->what) return a->what < b->what ? -1 : 1;
	if (a->inst != b->inst) return a->inst < b->inst ? -1 : 1;
	return (a->mb > b->mb) - (a->mb < b->mb);
}

static void
collect(Sim *s)
{
	double more = 0;
	for (uint32_t i = 0; i < s->nprocs; i++) {
		const Proc *p = &s->proc[i];
		SimStage *r = &s->r.stage[p->stage];
		if (p->d->eff[EF_step] > more) more = p->d->eff[EF_step];
		if (p->end > s->r.step) s->r.step = p->end;
		r->ranks += p->ranks;
		if (r->classes++ && p->end <= r->end) continue;
		r->end = p->end;
		memcpy(r->busy, p->busy, sizeof(r->busy));
	}
	s->r.step += sim_ns(more, 1);
	for (uint32_t k = 0; s->m->level >= LV_mem && k < s->m->plan.nstages; k++) {
		SimStage *r = &s->r.stage[k];
		r->arena = s->m->mem[k].arena_bytes;
		if (!s->o.record) r->peak = s->m->mem[k].live_bytes;
	}
	if (s->r.nevents) qsort(s->r.event, s->r.nevents, sizeof(*s->r.event), by_begin);
}

static void
follow_memory(Sim *s)
{
	uint32_t n = s->m->plan.nstages;
	if (s->m->level < LV_mem || !s->o.record) return;
	s->walk = NEW_N(s->tmp, MemWalk *, n);
	s->cpoints = NEW_N(s->tmp, uint32_t, n);
	s->after = NEW_N(s->tmp, int64_t, n);
	for (uint32_t k = 0; k < n; k++)
		s->walk[k] = mem_walk(s->m, k, s->tmp);
}

/* requires: LV_sched, verified */
SimResult
simulate(Ctx *c, const Module *m, Price *p, const SimOptions *o, Arena *a)
{
	static const SimOptions none = {0};
	Sim s = {.c = c, .m = m, .p = p, .o = o ? *o : none, .a = a, .tmp = arena_new()};
	uint32_t n = m->plan.nstages;
	s.cluster = s.o.prices ? s.o.prices->cluster : price_cluster(p);
	s.comms = ir_comms(m, s.tmp);
	s.stage = NEW_N(s.tmp, StageInfo, n + 1);
	s.r.stage = NEW_N(a, SimStage, n + 1);
	sim_starts(&s);
	sim_classes(&s);
	sim_tracks(&s);
	s.turns = takes_turns(&s);
	add_norm(&s);
	follow_memory(&s);
	sim_run(&s);
	collect(&s);
	arena_free(s.tmp);
	return s.r;
}

SimResult
sim_predict(Ctx *c, Module *m, bool record, Arena *a, Price **price)
{
	const Plan *plan = &m->plan;
	const Cluster *x = c->cluster && plan->nnodes
			       ? cluster_order(c->cluster, a, plan->nodes, plan->nnodes)
			       : c->cluster;
	*price = price_new(a, x, c->profile, plan->ranks, plan->threads);
	SimResult r = simulate(c, m, *price, &(SimOptions){.record = record}, a);
	m->plan.time = r.step;
	return r;
}
