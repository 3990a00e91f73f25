/*
 * roll.c - actions in a row become loops over layers.
 *
 * Input: a list of actions as they are to happen, and the module laid out as mem will do it. Output: the same actions at
 * the end of Module.actions, consecutive turns of like actions as one loop. A loop is made only where every address its
 * actions see is affine in the turn (parameters, frames, arguments, cotangents but for their taking turns, flats), so
 * that whoever emits it needs the first turn and one stride for each action.
 */
#include "passes/passes.h"

enum { MAX_PERIOD = 512 };

typedef struct Group { /* `turns` x actions first .. first + period */
	uint32_t first, period, turns;
} Group;

/* What a loop over an action must keep fixed, and what may step by a constant. */
typedef struct Trace {
	int64_t *v;
	bool *steps; /* [n] */
	uint32_t n, cv, cs;
	bool alone; /* never in a loop */
} Trace;

struct Roll {
	Ctx *c;
	const Module *m; /* laid out */
	const Memory *x; /* of the stage */
	uint32_t stage;
	Trace **inst; /* [ninsts] of bodies; NULL: not made yet */
	Trace **comm; /* [ninsts * CK_COUNT] */
	Trace other;  /* of what is in no loop */
};

/* ---- traces ---- */

static void
trace(const Roll *r, Trace *t, int64_t v, bool steps)
{
	uint32_t n = t->n;
	PUSH(r->c->tmp, t->v, n, t->cv, v);
	PUSH(r->c->tmp, t->steps, t->n, t->cs, steps);
}

/* Where the bytes of a reference are in a slot, arguments handed on followed. */
static int64_t
ref_at(const Roll *s, Ref r)
{
	const Module *m = s->m;
	while (r.kind == REF_result && ir_stage_of(m, r.i) == s->stage) {
		const Instance *n = &m->insts[r.i];
		const LayerType *t = &m->types[n->type];
		if (t->out_at[r.result] >= 0) return s->x->slot_at[r.i] + t->out_at[r.result];
		const Body *f = &m->bodies[t->body[BK_F]];
		Val v = ir_find_port(f, PORT_out, r.result)->v;
		Ref from = {0};
		for (uint32_t i = 0; i < f->nports; i++)
			if (f->ports[i].kind == PORT_arg && f->ports[i].v.i == v.i)
				from = n->args[f->ports[i].slot];
		r = from;
	}
	return r.kind == REF_input ? s->x->input_at[r.i] : -1;
}

static void
trace_cot(const Roll *s, Trace *t, uint32_t inst, uint16_t result)
{
	if (!s->x->cot_of) return;
	const Cot *cot = &s->x->cot[s->x->cot_of[inst] + result];
	trace(s, t, cot->at, true);
	trace(s, t, cot->alt, false);
	trace(s, t, cot->shared, false);
}

static void
trace_flat(const Roll *s, Trace *t, uint32_t inst)
{
	trace(s, t, s->x->flat_bytes[inst], false);
	trace(s, t, ir_zero(s->m, inst), false);
	for (int k = 0; k < SEC_COUNT; k++)
		trace(s, t, s->x->flat_at[k][inst], true);
}

static void
trace_param(const Roll *s, Trace *t, uint32_t param, uint32_t inst)
{
	const Param *p = &s->m->params[param];
	trace(s, t, param, true);
	trace(s, t, s->x->param_at[param], true);
	trace(s, t, s->x->in_flat[param], false);
	trace(s, t, p->owner == inst, false);
	trace(s, t, p->borrows != 0, false);
	trace(s, t, p->pending, false);
	if (s->x->in_flat[param]) trace_flat(s, t, p->owner);
}

static void
trace_inst(const Roll *s, Trace *b, uint32_t i)
{
	const Module *m = s->m;
	const Instance *n = &m->insts[i];
	const LayerType *t = &m->types[n->type];
	trace(s, b, n->type, false);
	trace(s, b, s->x->slot_at[i], true);
	for (uint16_t a = 0; a < t->nargs; a++) {
		Ref r = n->args[a];
		trace(s, b, (int64_t)r.kind, false);
		trace(s, b, (int64_t)r.result, false);
		trace(s, b, (int64_t)r.i, true);
		trace(s, b, ref_at(s, r), true);
		if (r.kind == REF_result) trace_cot(s, b, r.i, r.result);
	}
	for (uint16_t r = 0; r < t->nouts; r++)
		trace_cot(s, b, i, r);
	for (uint32_t w = 0; w < t->nweights; w++)
		trace_param(s, b, n->params[w], i);
	trace_flat(s, b, i);
}

/* A reshard is traced from both ends. */
static void
trace_reshard(const Roll *s, Trace *b, uint32_t i)
{
	const Module *m = s->m;
	Ref r = m->insts[i].args[0];
	bool made = r.kind == REF_result;
	trace_inst(s, b, i);
	trace(s, b, ir_stage_of(m, i), false);
	trace(s, b, made ? (int64_t)ir_stage_of(m, r.i) : -1, false);
	trace(s, b, made ? (int64_t)m->insts[r.i].type : -1, false);
	trace(s, b, s->x->back_at[i], true);
}

static const Trace *
trace_of(Roll *s, const Action *a)
{
	Trace **t = NULL;
	bool body = a->kind == ACT_body, comm = a->kind == ACT_start || a->kind == ACT_wait;
	if (body) t = &s->inst[a->inst];
	if (comm && a->comm != CK_lend && a->comm != CK_return)
		t = &s->comm[(size_t)a->inst * CK_COUNT + a->comm];
	if (!t) return &s->other;
	if (*t) return *t;
	*t = NEW(s->c->tmp, Trace);
	if (comm && (a->comm == CK_fwd || a->comm == CK_bwd))
		trace_reshard(s, *t, a->inst);
	else
		trace_inst(s, *t, a->inst);
	return *t;
}

/* ---- groups ---- */

typedef struct Line { /* actions in the order in which groups are sought */
	const Action **a;
	const Trace **t;
	uint32_t n;
} Line;

/* The same but for what may step. */
static bool
alike(const Line *l, uint32_t i, uint32_t j)
{
	const Action *a = l->a[i], *b = l->a[j];
	const Trace *s = l->t[i], *t = l->t[j];
	if (s->alone || t->alone || a->kind != b->kind || a->mb != b->mb) return false;
	if (a->kind == ACT_body ? a->bk != b->bk : a->comm != b->comm) return false;
	if (s->n != t->n) return false;
	for (uint32_t k = 0; k < s->n; k++)
		if (s->steps[k] != t->steps[k] || (!s->steps[k] && s->v[k] != t->v[k]))
			return false;
	return true;
}

/* Does k follow j as j followed i? All alike. */
static bool
steps_on(const Line *l, uint32_t i, uint32_t j, uint32_t k)
{
	const Trace *a = l->t[i], *b = l->t[j], *c = l->t[k];
	if (l->a[k]->inst - l->a[j]->inst != l->a[j]->inst - l->a[i]->inst) return false;
	for (uint32_t v = 0; v < a->n; v++)
		if (c->v[v] - b->v[v] != b->v[v] - a->v[v]) return false;
	return true;
}

/* How many turns of p actions begin at `first`; 1 if there is no repetition. */
static uint32_t
turns_of(const Line *l, uint32_t first, uint32_t p)
{
	uint32_t turns = 1;
	for (; first + (turns + 1) * p <= l->n; turns++)
		for (uint32_t j = 0; j < p; j++) {
			uint32_t t = first + turns * p + j;
			if (!alike(l, t - p, t)) return turns;
			if (turns > 1 && !steps_on(l, t - 2 * p, t - p, t)) return turns;
		}
	return turns;
}

/* A loop around communication alone must make the table shorter. */
static bool
pays(const Line *l, const Group *g)
{
	if (g->turns < 2) return false;
	for (uint32_t i = 0; i < g->period; i++)
		if (l->a[g->first + i]->kind == ACT_body) return true;
	return g->turns * g->period > g->period + 2;
}

/* Greedy: the period that covers most, the shortest of equals. */
static Group
next_group(const Line *l, uint32_t first)
{
	Group best = {first, 1, 1};
	for (uint32_t p = 1; p <= MAX_PERIOD && first + 2 * p <= l->n; p++) {
		Group g = {first, p, turns_of(l, first, p)};
		if (g.turns * p > best.turns * best.period && pays(l, &g)) best = g;
	}
	return best;
}

/* ---- the table ---- */

Roll *
roll_new(Ctx *c, const Module *laid, uint32_t stage)
{
	Roll *r = NEW(c->tmp, Roll);
	*r = (Roll){.c = c, .m = laid, .x = &laid->mem[stage], .stage = stage};
	r->inst = NEW_N(c->tmp, Trace *, laid->ninsts + 1);
	r->comm = NEW_N(c->tmp, Trace *, (size_t)laid->ninsts * CK_COUNT + 1);
	r->other.alone = true;
	return r;
}

/* Actions at .. at + period of the list, `turns` times. */
static void
put_group(Module *m, const ActList *l, uint32_t at, uint32_t period, uint32_t turns)
{
	Action loop = {.kind = ACT_layers, .count = turns}, end = {.kind = ACT_end};
	if (turns > 1) PUSH(m->arena, m->actions, m->nactions, m->cactions, loop);
	for (uint32_t i = at; i < at + period; i++) {
		Action a = l->a[i];
		if (turns > 1) a.stride = (int32_t)((int64_t)l->a[i + period].inst - a.inst);
		PUSH(m->arena, m->actions, m->nactions, m->cactions, a);
	}
	if (turns > 1) PUSH(m->arena, m->actions, m->nactions, m->cactions, end);
}

void
roll_actions(Roll *r, Module *m, const ActList *list, bool from_end)
{
	uint32_t n = list->n, ngroups = 0, cgroups = 0;
	Line l = {NEW_N(r->c->tmp, const Action *, n + 1),
		  NEW_N(r->c->tmp, const Trace *, n + 1), n};
	Group *group = NULL;
	for (uint32_t i = 0; i < n; i++) {
		l.a[i] = &list->a[from_end ? n - 1 - i : i];
		l.t[i] = trace_of(r, l.a[i]);
	}
	for (uint32_t at = 0; at < n;
	     at += group[ngroups - 1].period * group[ngroups - 1].turns)
		PUSH(r->c->tmp, group, ngroups, cgroups, next_group(&l, at));
	for (uint32_t k = 0; k < ngroups; k++) {
		const Group *g = &group[from_end ? ngroups - 1 - k : k];
		uint32_t at = from_end ? n - g->first - g->period * g->turns : g->first;
		put_group(m, list, at, g->period, g->turns);
	}
}
