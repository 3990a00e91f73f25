/*
 * memplan.c - offsets of everything, and how many bytes are alive at most.
 *
 * Input: LV_sched. Output: LV_mem: packed bodies, frames, sections, Memory.live_bytes from a
 * walk over the action table with loops expanded. The arena of a rank is Memory.arena_bytes, to
 * the byte.
 */
#include "passes/passes.h"

typedef struct Walk {
	Ctx *c;
	const Module *m;
	int64_t base;   /* state, constants, inputs: alive all the time */
	int64_t frames; /* of instances between their F and their last B or W */
	int64_t cots;   /* buffers that hold or gather a cotangent */
	int64_t most;
	bool *cot_alive; /* [ncot] */
} Walk;

static int64_t
aligned(int64_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

static int64_t
result_bytes(const Module *m, uint32_t inst, uint16_t r)
{
	const Body *f = &m->bodies[m->types[m->insts[inst].type].body[BK_F]];
	const Port *out = ir_find_port(f, PORT_out, r);
	return out ? aligned(type_bytes(m, ir_mesh(m, f), val_type(f, out->v))) : 0;
}

static void
set_alive(Walk *w, uint32_t inst, uint16_t r, bool on)
{
	uint32_t k = w->m->mem[0].cot_of[inst] + r;
	if (w->cot_alive[k] == on) return;
	w->cot_alive[k] = on;
	w->cots += on ? result_bytes(w->m, inst, r) : -result_bytes(w->m, inst, r);
}

/* Cotangents a body writes, before it runs; those of its own results, after its instance's
 * last body. */
static void
cots_begin(Walk *w, uint32_t inst, const Body *b)
{
	for (uint32_t i = 0; i < b->nports; i++) {
		const Port *p = &b->ports[i];
		if (p->kind == PORT_cot) set_alive(w, inst, p->slot, true);
		if (p->kind != PORT_dx) continue;
		Ref r = w->m->insts[inst].args[p->slot];
		if (r.kind == REF_result) set_alive(w, r.i, r.result, true);
	}
}

static void
run_body(Walk *w, BodyKind bk, uint32_t inst)
{
	const LayerType *t = &w->m->types[w->m->insts[inst].type];
	const Body *b = &w->m->bodies[t->body[bk]];
	bool back = bk == BK_B || bk == BK_W;
	if (bk == BK_F) w->frames += t->slot_frame;
	if (back) cots_begin(w, inst, b);
	int64_t live =
	    w->base + w->frames + w->cots + b->live_bytes + (back ? t->carry_frame : 0);
	if (live > w->most) w->most = live;
	bool last = bk == BK_W || (bk == BK_B && !t->body[BK_W]);
	if (!last || w->m->plan.forward_only) return;
	w->frames -= t->slot_frame;
	for (uint16_t r = 0; r < t->nouts; r++)
		set_alive(w, inst, r, false);
}

/* One microbatch suffices: every turn of that loop is the same. */
static void
walk(Walk *w, const Action *a, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (a[i].kind == ACT_body) run_body(w, a[i].bk, a[i].inst);
		if (a[i].kind != ACT_layers) continue;
		uint32_t end = i + 1;
		while (a[end].kind != ACT_end)
			end++;
		for (uint32_t turn = 0; turn < a[i].count; turn++)
			for (uint32_t j = i + 1; j < end; j++)
				run_body(w, a[j].bk,
					 (uint32_t)((int64_t)a[j].inst +
						    (int64_t)turn * a[j].stride));
		i = end;
	}
}

static int64_t
live_bytes(Ctx *c, const Module *m)
{
	const Memory *x = &m->mem[0];
	Walk w = {.c = c, .m = m, .cot_alive = NEW_N(c->tmp, bool, x->ncot)};
	w.base = x->slots;
	for (uint32_t i = 0; i < m->ninputs; i++) {
		Type t = m->inputs[i].type;
		int64_t bytes = type_bytes(m, NULL, &t);
		w.base += aligned(type_find(&t, m->batch) >= 0 ? bytes / m->plan.microbatches
							       : bytes);
	}
	for (uint32_t k = 0; k < m->plan.nstages; k++)
		walk(&w, m->actions + m->plan.stages[k].action, m->plan.stages[k].nactions);
	if (m->const_body) {
		int64_t once = x->slots + m->bodies[m->const_body].live_bytes;
		if (once > w.most) w.most = once;
	}
	return w.most;
}

bool
pass_mem(Ctx *c, Module *m)
{
	layout_module(c, m);
	m->mem[0].live_bytes = live_bytes(c, m);
	m->level = LV_mem;
	return true;
}
