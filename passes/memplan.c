/*
 * memplan.c - offsets of everything, and how many bytes are alive at most.
 *
 * Input: LV_sched. Output: LV_mem: packed bodies, frames, sections, and for every stage
 * Memory.live_bytes from a walk over its action table with loops expanded. The arena of a rank is
 * Memory.arena_bytes, to the byte.
 *
 * Alive are: state, constants and inputs always; a frame from its F to the last body that reads it,
 * or until what was sent from it has left; cotangents from their first contribution, or from when
 * they may arrive, until they are used or have left; what is gathered until its microbatch is
 * through; a flat of gradients from its W until it is summed; scratch and carries with their body.
 */
#include "passes/passes.h"

typedef struct MemWalk {
	const Module *m;
	const Stage *stage;
	const Memory *x;
	uint32_t slots;
	int64_t base; /* state, constants, inputs: alive all the time */
	int64_t now;  /* of the rest, but for what the running body has */
	int64_t most;
	bool *cot_alive;  /* [ncot] */
	uint32_t *frames; /* [ninsts] how many of an instance are alive */
	uint32_t *sends;  /* [ninsts] reshards in other stages that take its results */
	uint32_t
	    *left; /* [ninsts] of those, how many have been waited for in this microbatch */
	uint32_t *
	    last_user; /* [ninsts] of a reshard: 1 + the reader whose backward bodies are the last; 0: nobody */
	int64_t gather[2], dwork[2]; /* alive of these buffers */
} Walk;

static int64_t
aligned(int64_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

static const LayerType *
type_of(const Walk *w, uint32_t inst)
{
	return &w->m->types[w->m->insts[inst].type];
}

static bool
here(const Walk *w, uint32_t inst)
{
	return inst >= w->stage->first && inst - w->stage->first < w->stage->count;
}

static int64_t
result_bytes(const Module *m, uint32_t inst, uint16_t r)
{
	const Body *f = &m->bodies[m->types[m->insts[inst].type].body[BK_F]];
	const Port *out = ir_find_port(f, PORT_out, r);
	return out ? aligned(type_bytes(m, ir_mesh(m, f), val_type(f, out->v))) : 0;
}

static void
note(Walk *w, int64_t more)
{
	int64_t live = w->base + w->now + more;
	if (live > w->most) w->most = live;
}

/* ---- frames and cotangents ---- */

static void
frame_begin(Walk *w, uint32_t inst)
{
	if (w->frames[inst] == w->slots) return;
	w->frames[inst]++;
	w->now += type_of(w, inst)->slot_frame;
}

static void
frame_end(Walk *w, uint32_t inst)
{
	if (!w->frames[inst]) return;
	w->frames[inst]--;
	w->now -= type_of(w, inst)->slot_frame;
}

static void
set_alive(Walk *w, uint32_t inst, uint16_t r, bool on)
{
	if (!here(w, inst)) return;
	uint32_t k = w->x->cot_of[inst] + r;
	if (w->cot_alive[k] == on) return;
	w->cot_alive[k] = on;
	w->now += on ? result_bytes(w->m, inst, r) : -result_bytes(w->m, inst, r);
}

static void
cots_end(Walk *w, uint32_t inst)
{
	for (uint16_t r = 0; r < type_of(w, inst)->nouts; r++)
		set_alive(w, inst, r, false);
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

/* ---- actions ---- */

static void
begin_flat(Walk *w, int64_t buffer[2], uint32_t inst)
{
	w->now += w->x->flat_bytes[inst] - buffer[inst % 2];
	buffer[inst % 2] = w->x->flat_bytes[inst];
}

static void
end_flat(Walk *w, int64_t buffer[2], uint32_t b)
{
	w->now -= buffer[b];
	buffer[b] = 0;
}

static void
run_body(Walk *w, BodyKind bk, uint32_t inst)
{
	const LayerType *t = type_of(w, inst);
	const Body *b = &w->m->bodies[t->body[bk]];
	bool back = bk == BK_B || bk == BK_W;
	if (bk == BK_F) frame_begin(w, inst);
	if (back) cots_begin(w, inst, b);
	if (bk == BK_W && w->x->flat_bytes[inst] && ir_zero(w->m, inst) >= 2)
		begin_flat(w, w->dwork, inst);
	note(w, b->live_bytes + (back ? t->carry_frame : 0));
	bool last = bk == BK_W || (bk == BK_B && !t->body[BK_W]);
	if (!last || w->m->plan.forward_only) return;
	if (!w->sends[inst]) frame_end(w, inst);
	for (uint32_t i = w->stage->first; i < inst; i++)
		if (w->last_user[i] == inst + 1) frame_end(w, i);
	cots_end(w, inst);
}

static void
run_fwd(Walk *w, bool start, uint32_t inst)
{
	Ref r = w->m->insts[inst].args[0];
	if (start && here(w, inst)) frame_begin(w, inst);
	if (start || here(w, inst) || ++w->left[r.i] < w->sends[r.i]) return;
	w->left[r.i] = 0;
	if (!w->m->plan.forward_only) frame_end(w, r.i);
}

static void
run_bwd(Walk *w, bool start, uint32_t inst)
{
	Ref r = w->m->insts[inst].args[0];
	bool waits = w->x->back_at[inst] >= 0;
	int64_t back = waits ? result_bytes(w->m, r.i, r.result) : 0;
	if (start && here(w, inst)) set_alive(w, inst, 0, true);
	if (here(w, r.i)) {
		w->now += start ? back : 0;
		if (start != waits) set_alive(w, r.i, r.result, true);
		note(w, 0);
		w->now -= start ? 0 : back;
	}
	if (!start && here(w, inst)) cots_end(w, inst);
}

static void
run_comm(Walk *w, bool start, CommKind k, uint32_t i)
{
	const Module *m = w->m;
	if (k == CK_fwd) run_fwd(w, start, i);
	if (k == CK_bwd) run_bwd(w, start, i);
	if (k == CK_param && start && ir_zero(m, i) == 3) begin_flat(w, w->gather, i);
	if (k == CK_grad && !start && ir_zero(m, i) >= 2) end_flat(w, w->dwork, i % 2);
	if (k == CK_return && start) {
		uint32_t from = m->params[i].borrows - 1;
		if (here(w, m->params[from].owner))
			note(w, aligned(type_bytes(m, ir_param_mesh(m, from),
						   &m->params[from].type)));
	}
	note(w, 0);
}

static void walk(Walk *w, uint32_t lo, uint32_t hi, uint32_t turn);

/* What was gathered, what nobody reads back, cotangents nobody wants. */
static void
end_turn(Walk *w)
{
	for (uint32_t k = 0; k < 2; k++)
		end_flat(w, w->gather, k);
	for (uint32_t i = w->stage->first; i < w->stage->first + w->stage->count; i++) {
		const LayerType *t = type_of(w, i);
		while (w->m->plan.forward_only && w->frames[i])
			frame_end(w, i);
		if (w->x->cot && !t->body[BK_B] && !t->body[BK_W]) cots_end(w, i);
	}
}

/* Of microbatches that go and come two turns suffice: later ones are the same. */
static void
run_loop(Walk *w, uint32_t lo, uint32_t hi, const Action *loop)
{
	const Action *a = w->m->actions + w->stage->action;
	bool f = false, b = w->m->plan.forward_only;
	uint32_t turns = loop->count;
	for (uint32_t i = lo; i < hi; i++) {
		f |= a[i].kind == ACT_body && a[i].bk == BK_F;
		b |= a[i].kind == ACT_body && (a[i].bk == BK_B || a[i].bk == BK_W);
	}
	if (loop->kind == ACT_mb && f && b && turns > w->slots + 1) turns = w->slots + 1;
	for (uint32_t t = 0; t < turns; t++) {
		walk(w, lo, hi, loop->kind == ACT_layers ? t : 0);
		if (loop->kind == ACT_mb) end_turn(w);
	}
}

static void
walk(Walk *w, uint32_t lo, uint32_t hi, uint32_t turn)
{
	const Action *a = w->m->actions + w->stage->action;
	for (uint32_t i = lo; i < hi; i++) {
		uint32_t inst = (uint32_t)((int64_t)a[i].inst + (int64_t)turn * a[i].stride);
		if (a[i].kind == ACT_body) run_body(w, a[i].bk, inst);
		if (a[i].kind == ACT_start || a[i].kind == ACT_wait)
			run_comm(w, a[i].kind == ACT_start, a[i].comm, inst);
		if (a[i].kind != ACT_layers && a[i].kind != ACT_mb) continue;
		uint32_t end = i + 1;
		for (uint32_t depth = 1; depth; end++)
			depth += (a[end].kind == ACT_layers || a[end].kind == ACT_mb) -
				 (a[end].kind == ACT_end);
		run_loop(w, i + 1, end - 1, &a[i]);
		i = end - 1;
	}
}

/* ---- a stage ---- */

static void
find_readers(Walk *w)
{
	const Module *m = w->m;
	for (uint32_t i = m->ninsts; i-- > 0;) {
		const LayerType *t = type_of(w, i);
		for (uint16_t a = 0; a < t->nargs; a++) {
			Ref r = m->insts[i].args[a];
			if (r.kind != REF_result) continue;
			if (t->reshard && here(w, r.i) && !here(w, i)) w->sends[r.i]++;
			if (type_of(w, r.i)->reshard && here(w, i) &&
			    (t->body[BK_B] || t->body[BK_W]))
				w->last_user[r.i] = i + 1;
		}
	}
}

MemWalk *
mem_walk(const Module *m, uint32_t stage, Arena *tmp)
{
	const Memory *x = &m->mem[stage];
	uint32_t n = m->ninsts + 1;
	Walk *w = NEW(tmp, Walk);
	*w = (Walk){.m = m, .stage = &m->plan.stages[stage], .x = x};
	w->slots = w->stage->slots ? w->stage->slots : 1;
	w->cot_alive = NEW_N(tmp, bool, x->ncot + 1);
	w->frames = NEW_N(tmp, uint32_t, n);
	w->sends = NEW_N(tmp, uint32_t, n);
	w->left = NEW_N(tmp, uint32_t, n);
	w->last_user = NEW_N(tmp, uint32_t, n);
	find_readers(w);
	w->base = x->slots + layout_inputs_bytes(m, stage) * w->slots;
	return w;
}

int64_t
mem_walk_action(MemWalk *w, const Action *a, int64_t *during)
{
	w->most = 0;
	if (a->kind == ACT_body) run_body(w, a->bk, a->inst);
	if (a->kind == ACT_start || a->kind == ACT_wait)
		run_comm(w, a->kind == ACT_start, a->comm, a->inst);
	if (a->kind == ACT_end) end_turn(w);
	note(w, 0);
	*during = w->most;
	return w->base + w->now;
}

static int64_t
live_bytes(Ctx *c, const Module *m, uint32_t stage)
{
	Walk *w = mem_walk(m, stage, c->tmp);
	walk(w, 0, w->stage->nactions, 0);
	if (m->const_body) {
		int64_t once = m->mem[stage].slots + m->bodies[m->const_body].live_bytes;
		if (once > w->most) w->most = once;
	}
	return w->most;
}

bool
pass_mem(Ctx *c, Module *m)
{
	layout_module(c, m);
	for (uint32_t k = 0; k < m->plan.nstages; k++)
		m->mem[k].live_bytes = live_bytes(c, m, k);
	m->level = LV_mem;
	return true;
}
