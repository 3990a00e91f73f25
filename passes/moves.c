/*
 * moves.c - what passes between meshes and stages: reshards and borrowed parameters with an end in a stage, each kind in the
 * order in which its messages are started.
 *
 * Input: a module of level spmd. The orders are the same on both sides of a channel (see schedule.c): values as they are made,
 * cotangents as their last contribution is, gradients by falling and values of borrowed parameters by rising owner.
 */
#include <stdlib.h>

#include "passes/passes.h"

typedef struct Find {
	const Module *m;
	Arena *tmp;
	uint32_t k; /* the stage */
	StageMoves out;
} Find;

/* Who adds to the cotangent of a reshard's result. */
static void
find_contributors(const Module *m, Move *v)
{
	const Stage *s = &m->plan.stages[v->to];
	v->low = v->high = v->id;
	for (uint32_t i = v->id + 1; i < s->first + s->count; i++)
		for (uint16_t a = 0; a < m->types[m->insts[i].type].nargs; a++) {
			Ref r = m->insts[i].args[a];
			if (r.kind != REF_result || r.i != v->id ||
			    !ir_inst_port(m, i, BK_B, PORT_dx, a))
				continue;
			if (v->low == v->id) v->low = i;
			v->high = i;
		}
}

/* Values, as they are made. Within a channel this is the order of messages. */
static int
by_producer(const void *x, const void *y)
{
	const Move *a = x, *b = y;
	if (a->producer != b->producer) return a->producer < b->producer ? -1 : 1;
	if (a->result != b->result) return a->result < b->result ? -1 : 1;
	return (a->id > b->id) - (a->id < b->id);
}

/* Cotangents, as their last contribution is made. */
static int
by_low(const void *x, const void *y)
{
	const Move *a = x, *b = y;
	if (a->low != b->low) return a->low > b->low ? -1 : 1;
	return (a->id > b->id) - (a->id < b->id);
}

static int
by_lending(const void *x, const void *y)
{
	const Move *a = x, *b = y;
	if (a->late != b->late) return a->late ? 1 : -1;
	return by_producer(x, y);
}

static int
by_returning(const void *x, const void *y)
{
	const Move *a = x, *b = y;
	if (a->producer != b->producer) return a->producer > b->producer ? -1 : 1;
	return (a->id > b->id) - (a->id < b->id);
}

static void
put_move(const Find *s, Moves *v, Move x)
{
	if (x.from != s->k && x.to != s->k) return;
	PUSH(s->tmp, v->v, v->n, v->cap, x);
}

static void
sort_moves(Moves *v, int (*by)(const void *, const void *))
{
	if (v->n) qsort(v->v, v->n, sizeof *v->v, by);
}

static void
find_reshards(Find *s)
{
	const Module *m = s->m;
	for (uint32_t i = 0; i < m->ninsts; i++) {
		Ref r = ir_is_reshard(m, i) ? m->insts[i].args[0] : (Ref){0};
		if (r.kind != REF_result) continue;
		Move v = {.id = i,
			  .from = ir_stage_of(m, r.i),
			  .to = ir_stage_of(m, i),
			  .producer = r.i,
			  .result = r.result};
		v.back = !m->plan.forward_only && ir_inst_port(m, i, BK_B, PORT_dx, 0);
		find_contributors(m, &v);
		put_move(s, &s->out.made, v);
		if (v.back) put_move(s, &s->out.back, v);
	}
	sort_moves(&s->out.made, by_producer);
	sort_moves(&s->out.back, by_low);
}

/* The first instance of its stage whose W adds to a borrowed parameter's gradient: the last to do so. */
static bool
first_adds(const Module *m, uint32_t param, const Stage *s, uint32_t *first)
{
	for (uint32_t i = s->first; i < s->first + s->count; i++)
		for (uint32_t w = 0; w < m->types[m->insts[i].type].nweights; w++)
			if (m->insts[i].params[w] == param &&
			    ir_inst_port(m, i, BK_W, PORT_dw, w))
				return *first = i, true;
	return false;
}

static void
find_borrowed(Find *s)
{
	const Module *m = s->m;
	for (uint32_t p = 0; !m->plan.forward_only && p < m->nparams; p++) {
		if (!m->params[p].borrows || !m->params[p].trained) continue;
		uint32_t owner = m->params[m->params[p].borrows - 1].owner;
		Move v = {.id = p,
			  .from = ir_stage_of(m, owner),
			  .to = ir_stage_of(m, m->params[p].owner),
			  .producer = owner,
			  .late = ir_zero(m, owner) > 0};
		v.back = first_adds(m, p, &m->plan.stages[v.to], &v.low);
		put_move(s, &s->out.lent, v);
		if (v.back) put_move(s, &s->out.returned, v);
	}
	sort_moves(&s->out.lent, by_lending);
	sort_moves(&s->out.returned, by_returning);
}

StageMoves
moves_of_stage(const Module *m, uint32_t stage, Arena *tmp)
{
	Find s = {.m = m, .tmp = tmp, .k = stage};
	find_reshards(&s);
	find_borrowed(&s);
	return s.out;
}
