/*
 * schedule.c - the order of a step: one action table a stage.
 *
 *   mb N { input; F of every instance; B and W in reverse }  N bodies  norm  U bodies
 *
 * Consecutive turns of the same instances become a loop over layers. A loop is made only where
 * every address its bodies see is affine in the turn (parameters, frames, arguments, cotangents
 * but for their taking turns), which is checked on the layout itself, so that whoever emits it
 * needs the first turn and one stride. A parameter shared by instances has its N and U run
 * once, by its owner.
 */
#include "passes/passes.h"

enum { MAX_PERIOD = 64 };

typedef struct Group { /* `turns` x instances first .. first + period */
	uint32_t first, period, turns;
} Group;

/* What a loop over an instance must keep fixed, and what may step by a constant. */
typedef struct Trace {
	const int64_t *v;
	const bool *steps; /* [n] */
	uint32_t n;
} Trace;

typedef struct Sched {
	Ctx *c;
	Module *m;
	Trace *trace; /* [ninsts] */
	Group *groups;
	uint32_t ngroups, cgroups;
} Sched;

/* ---- traces ---- */

typedef struct TraceBuf {
	Arena *arena;
	int64_t *v;
	bool *steps;
	uint32_t n, cv, cs;
} TraceBuf;

static void
trace(TraceBuf *b, int64_t v, bool steps)
{
	uint32_t n = b->n;
	PUSH(b->arena, b->v, n, b->cv, v);
	PUSH(b->arena, b->steps, b->n, b->cs, steps);
}

/* Where the bytes of a reference are in a slot, arguments handed on followed. */
static int64_t
ref_at(const Module *m, Ref r)
{
	while (r.kind == REF_result) {
		const Instance *n = &m->insts[r.i];
		const LayerType *t = &m->types[n->type];
		if (t->out_at[r.result] >= 0)
			return m->mem[0].slot_at[r.i] + t->out_at[r.result];
		const Body *f = &m->bodies[t->body[BK_F]];
		Val v = ir_find_port(f, PORT_out, r.result)->v;
		Ref from = {0};
		for (uint32_t i = 0; i < f->nports; i++)
			if (f->ports[i].kind == PORT_arg && f->ports[i].v.i == v.i)
				from = n->args[f->ports[i].slot];
		r = from;
	}
	return r.kind == REF_input ? m->mem[0].input_at[r.i] : -1;
}

static void
trace_cot(TraceBuf *b, const Module *m, uint32_t inst, uint16_t result)
{
	if (!m->mem[0].cot_of) return;
	const Cot *cot = &m->mem[0].cot[m->mem[0].cot_of[inst] + result];
	trace(b, cot->at, true);
	trace(b, cot->alt, false);
	trace(b, cot->shared, false);
}

static Trace
trace_inst(Arena *tmp, const Module *m, uint32_t i)
{
	TraceBuf b = {.arena = tmp};
	const Instance *n = &m->insts[i];
	const LayerType *t = &m->types[n->type];
	trace(&b, n->type, false);
	trace(&b, m->mem[0].slot_at[i], true);
	for (uint16_t a = 0; a < t->nargs; a++) {
		Ref r = n->args[a];
		trace(&b, (int64_t)r.kind, false);
		trace(&b, (int64_t)r.result, false);
		trace(&b, (int64_t)r.i, true);
		trace(&b, ref_at(m, r), true);
		if (r.kind == REF_result) trace_cot(&b, m, r.i, r.result);
	}
	for (uint16_t r = 0; r < t->nouts; r++)
		trace_cot(&b, m, i, r);
	for (uint32_t w = 0; w < t->nweights; w++) {
		const Param *p = &m->params[n->params[w]];
		trace(&b, n->params[w], true);
		trace(&b, m->mem[0].param_at[n->params[w]], true);
		trace(&b, p->owner == i, false);
	}
	return (Trace){b.v, b.steps, b.n};
}

/* The same but for what may step. */
static bool
alike(const Trace *a, const Trace *b)
{
	if (a->n != b->n) return false;
	for (uint32_t i = 0; i < a->n; i++)
		if (a->steps[i] != b->steps[i] || (!a->steps[i] && a->v[i] != b->v[i]))
			return false;
	return true;
}

/* Does turn c follow turn b as b followed a? All alike. */
static bool
steps_on(const Trace *a, const Trace *b, const Trace *c)
{
	for (uint32_t i = 0; i < a->n; i++)
		if (c->v[i] - b->v[i] != b->v[i] - a->v[i]) return false;
	return true;
}

/* ---- groups ---- */

/* How many turns of p instances begin at `first` before `end`; 1 if there is no repetition. */
static uint32_t
turns_of(const Sched *s, uint32_t first, uint32_t p, uint32_t end)
{
	uint32_t turns = 1;
	for (; first + (turns + 1) * p <= end; turns++)
		for (uint32_t j = 0; j < p; j++) {
			const Trace *t = &s->trace[first + turns * p + j];
			if (!alike(t - p, t)) return turns;
			if (turns > 1 && !steps_on(t - 2 * p, t - p, t)) return turns;
		}
	return turns;
}

/* Greedy from the left: the period that covers most, the shortest of equals. */
static void
find_groups(Sched *s, uint32_t first, uint32_t end)
{
	while (first < end) {
		Group best = {first, 1, 1};
		for (uint32_t p = 1; p <= MAX_PERIOD && first + 2 * p <= end; p++) {
			uint32_t turns = turns_of(s, first, p, end);
			if (turns > 1 && turns * p > best.turns * best.period)
				best = (Group){first, p, turns};
		}
		PUSH(s->c->tmp, s->groups, s->ngroups, s->cgroups, best);
		first += best.period * best.turns;
	}
}

/* ---- the table ---- */

static void
act(Module *m, ActKind kind, uint32_t count)
{
	PUSH(m->arena, m->actions, m->nactions, m->cactions,
	     ((Action){.kind = kind, .count = count}));
}

/* A body of an instance, if its type has one. N and U run for owners only. */
static void
act_body(Module *m, BodyKind bk, uint32_t inst, int32_t stride)
{
	const Instance *n = &m->insts[inst];
	uint32_t body = m->types[n->type].body[bk];
	if (!body) return;
	bool once = bk == BK_N || bk == BK_U, owns = false, borrows = false;
	const Body *b = &m->bodies[body];
	for (uint32_t i = 0; once && i < b->nports; i++) {
		if (b->ports[i].kind != PORT_grad) continue;
		bool own = m->params[n->params[b->ports[i].slot]].owner == inst;
		owns |= own;
		borrows |= !own;
	}
	ENSURE(!(owns && borrows), "'%s' updates parameters of which it owns only some",
	       name_str(m->names, n->name));
	if (once && !owns) return;
	Action a = {.kind = ACT_body, .bk = bk, .inst = inst, .stride = stride};
	PUSH(m->arena, m->actions, m->nactions, m->cactions, a);
}

/* Body kinds `bks` of a group, forward or in reverse. A loop around nothing is dropped. */
static void
act_group(Module *m, const Group *g, const BodyKind *bks, int nbk, bool reverse)
{
	uint32_t start = m->nactions, last = g->first + (g->turns - 1) * g->period;
	if (g->turns > 1) act(m, ACT_layers, g->turns);
	uint32_t inside = m->nactions;
	int32_t stride = g->turns > 1 ? (int32_t)g->period : 0;
	for (uint32_t j = 0; j < g->period; j++)
		for (int k = 0; k < nbk; k++) {
			if (reverse)
				act_body(m, bks[k], last + g->period - 1 - j, -stride);
			else
				act_body(m, bks[k], g->first + j, stride);
		}
	if (m->nactions == inside)
		m->nactions = start;
	else if (g->turns > 1)
		act(m, ACT_end, 0);
}

static void
act_all(Sched *s, const BodyKind *bks, int nbk, bool reverse)
{
	for (uint32_t g = 0; g < s->ngroups; g++)
		act_group(s->m, &s->groups[reverse ? s->ngroups - 1 - g : g], bks, nbk,
			  reverse);
}

static void
schedule_stage(Sched *s, Stage *k)
{
	static const BodyKind f[] = {BK_F}, bw[] = {BK_B, BK_W}, n[] = {BK_N}, u[] = {BK_U};
	Module *m = s->m;
	uint32_t end = k->first + k->count;
	find_groups(s, k->first, end);
	k->action = m->nactions;
	act(m, ACT_mb, m->plan.microbatches);
	act(m, ACT_input, 0);
	act_all(s, f, 1, false);
	if (!m->plan.forward_only) act_all(s, bw, 2, true);
	act(m, ACT_end, 0);
	if (!m->plan.forward_only) {
		act_all(s, n, 1, false);
		act(m, ACT_norm, 0);
		act_all(s, u, 1, false);
	}
	k->nactions = m->nactions - k->action;
}

/* requires: LV_spmd. Loops are found on a copy of the module that is laid out as mem will do
 * it. */
bool
pass_sched(Ctx *c, Module *m)
{
	Module *laid = ir_clone(m, c->tmp);
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		Stage *s = &m->plan.stages[k];
		if (!s->slots) s->slots = 1; /* F and B of a microbatch follow each other */
		laid->plan.stages[k].slots = s->slots;
	}
	layout_module(c, laid);
	Sched s = {.c = c, .m = m, .trace = NEW_N(c->tmp, Trace, m->ninsts)};
	for (uint32_t i = 0; i < m->ninsts; i++)
		s.trace[i] = trace_inst(c->tmp, laid, i);
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		s.ngroups = 0;
		schedule_stage(&s, &m->plan.stages[k]);
	}
	m->level = LV_sched;
	return true;
}
