/*
 * layout.c - the arena: sections, frames of instances, buffers of cotangents.
 *
 *   param | grad | m | v | const | slots x (inputs, frames) | cots | work
 *
 * Work is what the running body has: its scratch, and above it, from B to W, what B hands to W
 * (carry), so that the section is as high as the neediest type. A frame holds what F saves,
 * then what it returns. Results come last, so that a layer finds its argument at a fixed
 * distance below its own frame whoever made it, and loops over layers stay loops over
 * addresses. With one slot, frames are a stack: those of the last instances (the logits, for
 * one) are gone when earlier layers run B, and may lie in the work section above what they need
 * themselves; how many of them, is chosen for the lowest arena. Cotangents used once, by the
 * next instance, take turns in two buffers.
 */
#include "passes/passes.h"

enum { ALIGN = 64 };

static int64_t
aligned(int64_t bytes)
{
	return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Gives `bytes` at *top. */
static int64_t
take(int64_t *top, int64_t bytes)
{
	int64_t at = *top;
	*top += aligned(bytes);
	return at;
}

/* ---- frames ---- */

/* Most scratch that bodies lo..hi of a type need. */
static int64_t
most_scratch(const Module *m, const LayerType *t, int lo, int hi)
{
	int64_t most = 0;
	for (int k = lo; k <= hi; k++)
		if (t->body[k] && m->bodies[t->body[k]].scratch_bytes > most)
			most = m->bodies[t->body[k]].scratch_bytes;
	return most;
}

/* What the bodies of a type need of the work section. */
static int64_t
work_of(const Module *m, const LayerType *t)
{
	int64_t back = most_scratch(m, t, BK_B, BK_W) + t->carry_frame,
		any = most_scratch(m, t, 0, BK_COUNT - 1);
	return back > any ? back : any;
}

static bool
is_result(const Body *f, Val v)
{
	for (uint32_t i = 0; i < f->nports; i++)
		if (f->ports[i].kind == PORT_out && f->ports[i].v.i == v.i) return true;
	return false;
}

/* The saved slot whose buffer B writes carry `slot` over; -1: a buffer of its own. */
static int
carry_in_saved(const Module *m, const LayerType *t, uint16_t slot)
{
	if (!t->body[BK_B]) return -1;
	const Body *b = &m->bodies[t->body[BK_B]];
	const Port *out = ir_find_port(b, PORT_carry_out, slot);
	Val v = out ? b->vals[out->v.i].over : NO_VAL;
	while (v.i && b->vals[v.i].over.i)
		v = b->vals[v.i].over;
	for (uint32_t i = 0; v.i && i < b->nports; i++)
		if (b->ports[i].kind == PORT_saved && b->ports[i].v.i == v.i)
			return b->ports[i].slot;
	return -1;
}

/* Saved values, then results; a saved result is one buffer. */
static void
frame_of_type(Ctx *c, Module *m, LayerType *t)
{
	const Body *f = &m->bodies[t->body[BK_F]];
	const Mesh *mesh = ir_mesh(m, f);
	int64_t *at = NEW_N(c->tmp, int64_t, f->nvals); /* 1 + offset */
	t->slot_frame = 0;
	t->out_at = NEW_N(m->arena, int64_t, t->nouts);
	t->saved_at = NEW_N(m->arena, int64_t, t->nsaved);
	t->carry_at = NEW_N(m->arena, int64_t, t->ncarry);
	for (int results = 0; results < 2; results++)
		for (uint32_t i = 0; i < f->nports; i++) {
			const Port *p = &f->ports[i];
			if ((p->kind != PORT_save && p->kind != PORT_out) ||
			    is_result(f, p->v) != results)
				continue;
			if (!at[p->v.i] && !body_passed(f, p->v))
				at[p->v.i] = 1 + take(&t->slot_frame,
						      type_bytes(m, mesh, val_type(f, p->v)));
		}
	for (uint32_t i = 0; i < f->nports; i++) { /* an argument handed on has at 0, so -1 */
		const Port *p = &f->ports[i];
		if (p->kind == PORT_out) t->out_at[p->slot] = at[p->v.i] - 1;
		if (p->kind == PORT_save) t->saved_at[p->slot] = at[p->v.i] - 1;
	}
	t->carry_frame = 0;
	int64_t below = most_scratch(m, t, BK_B, BK_W);
	for (uint32_t i = 0; i < t->ncarry; i++) {
		int saved = carry_in_saved(m, t, (uint16_t)i);
		t->carry_at[i] = saved >= 0 ? -1 - saved
					    : below + take(&t->carry_frame,
							   type_bytes(m, mesh, &t->carry[i]));
	}
}

/* ---- cotangents ---- */

static bool
has_port(const Module *m, uint32_t inst, BodyKind bk, PortKind kind, uint16_t slot)
{
	uint32_t b = m->types[m->insts[inst].type].body[bk];
	return b && ir_find_port(&m->bodies[b], kind, slot);
}

typedef struct Use {
	uint32_t n, by; /* how many instances give a contribution; the last of them */
} Use;

static Use *
count_uses(Ctx *c, const Module *m, const uint32_t *cot_of, uint32_t ncot)
{
	Use *use = NEW_N(c->tmp, Use, ncot);
	for (uint32_t i = 0; i < m->ninsts; i++)
		for (uint16_t a = 0; a < m->types[m->insts[i].type].nargs; a++) {
			Ref r = m->insts[i].args[a];
			if (r.kind != REF_result || !has_port(m, i, BK_B, PORT_dx, a)) continue;
			use[cot_of[r.i] + r.result].n++;
			use[cot_of[r.i] + r.result].by = i;
		}
	return use;
}

static int64_t
cot_bytes(const Module *m, uint32_t inst, uint16_t r)
{
	const Body *f = &m->bodies[m->types[m->insts[inst].type].body[BK_F]];
	const Port *out = ir_find_port(f, PORT_out, r);
	return out ? type_bytes(m, ir_mesh(m, f), val_type(f, out->v)) : 0;
}

/* Fills m->mem[0].cot, offsets from m->mem[0].cots; returns the bytes of the section. */
static int64_t
layout_cots(Ctx *c, Module *m)
{
	Memory *x = &m->mem[0];
	x->cot_of = NEW_N(m->arena, uint32_t, m->ninsts);
	x->ncot = 0;
	for (uint32_t i = 0; i < m->ninsts; i++) {
		x->cot_of[i] = x->ncot;
		x->ncot += m->types[m->insts[i].type].nouts;
	}
	x->cot = NEW_N(m->arena, Cot, x->ncot);
	Use *use = count_uses(c, m, x->cot_of, x->ncot);
	int64_t pair = 0,
		top = 0; /* one of the two shared buffers; buffers of their own above them */
	for (int own = 0; own < 2; own++) {
		if (own) top = 2 * pair;
		for (uint32_t i = 0; i < m->ninsts; i++) {
			int64_t in_pair = 0;
			for (uint16_t r = 0; r < m->types[m->insts[i].type].nouts; r++) {
				uint32_t k = x->cot_of[i] + r;
				bool read = has_port(m, i, BK_B, PORT_cot, r) ||
					    has_port(m, i, BK_W, PORT_cot, r);
				bool turns = use[k].n == 1 && use[k].by == i + 1;
				if (!use[k].n && !read) continue;
				if (turns == own) continue;
				Cot *cot = &x->cot[k];
				cot->at = take(turns ? &in_pair : &top, cot_bytes(m, i, r));
				cot->shared = use[k].n != 1;
			}
			if (in_pair > pair) pair = in_pair;
		}
	}
	for (uint32_t i = 0; i < m->ninsts; i++)
		for (uint16_t r = 0; r < m->types[m->insts[i].type].nouts; r++) {
			uint32_t k = x->cot_of[i] + r;
			if (use[k].n == 1 && use[k].by == i + 1) x->cot[k].alt = pair;
		}
	return top;
}

/* ---- sections ---- */

static bool
any_port(const Module *m, PortKind kind)
{
	for (uint32_t b = 1; b < m->nbodies; b++)
		for (uint32_t i = 0; i < m->bodies[b].nports; i++)
			if (m->bodies[b].ports[i].kind == kind) return true;
	return false;
}

/* Parameters and the state beside them: four sections of one layout; a section that the
 * optimizer does not have is -1. */
static int64_t
layout_state(Module *m)
{
	Memory *x = &m->mem[0];
	int64_t top = 0;
	x->param_at = NEW_N(m->arena, int64_t, m->nparams);
	x->sec_bytes[SEC_param] = 0;
	for (uint32_t i = 0; i < m->nparams; i++)
		x->param_at[i] =
		    take(&x->sec_bytes[SEC_param], type_bytes(m, NULL, &m->params[i].type));
	x->sec[SEC_param] = take(&top, x->sec_bytes[SEC_param]);
	bool train = !m->plan.forward_only;
	x->sec[SEC_grad] = train ? take(&top, x->sec_bytes[SEC_param]) : -1;
	x->sec[SEC_m] = train && any_port(m, PORT_m) ? take(&top, x->sec_bytes[SEC_param]) : -1;
	x->sec[SEC_v] = train && any_port(m, PORT_v) ? take(&top, x->sec_bytes[SEC_param]) : -1;
	x->consts = top;
	x->const_at = NEW_N(m->arena, int64_t, m->nconsts);
	int64_t in_consts = 0;
	for (uint32_t i = 0; i < m->nconsts; i++)
		x->const_at[i] = take(&in_consts, type_bytes(m, NULL, &m->consts[i]));
	return top + in_consts;
}

/* Inputs hold the rows of one microbatch. */
static int64_t
input_bytes(const Module *m, const Input *in)
{
	Type t = in->type;
	int64_t bytes = type_bytes(m, NULL, &t);
	return type_find(&t, m->batch) >= 0 ? bytes / m->plan.microbatches : bytes;
}

/* ---- frames and work ---- */

typedef struct Stack {
	int64_t *frame, *work; /* [ninsts] */
	uint32_t n;
} Stack;

/* Height of frames and work if instances `tail`.. have their frames in the work section,
 * above what they need. */
static int64_t
stack_height(const Stack *s, uint32_t tail, int64_t *above)
{
	int64_t low = 0, high = 0, head_work = 0;
	*above = 0;
	for (uint32_t i = 0; i < s->n; i++) {
		if (i < tail)
			low += s->frame[i];
		else
			high += s->frame[i];
		int64_t *most = i < tail ? &head_work : above;
		if (s->work[i] > *most) *most = s->work[i];
	}
	int64_t tail_work = *above + high;
	return low + (head_work > tail_work ? head_work : tail_work);
}

/* The first instance of the tail: where types change, for the lowest height; the shortest
 * tail of equals. */
static uint32_t
choose_tail(const Module *m, const Stack *s, int64_t *height, int64_t *above)
{
	uint32_t best = s->n;
	bool stack =
	    !m->plan.forward_only && m->plan.nstages == 1 && m->plan.stages[0].slots == 1;
	*height = stack_height(s, best, above);
	for (uint32_t i = s->n; stack && i-- > 1;) {
		int64_t a, h;
		if (m->insts[i].type == m->insts[i - 1].type) continue;
		h = stack_height(s, i, &a);
		if (h < *height) *height = h, *above = a, best = i;
	}
	return best;
}

/* requires: packed bodies, frames. Sets everything of m->mem but live_bytes. */
static void
layout_sections(Ctx *c, Module *m)
{
	m->mem = NEW_N(m->arena, Memory, m->plan.nstages);
	Memory *x = &m->mem[0];
	Stack s = {NEW_N(c->tmp, int64_t, m->ninsts), NEW_N(c->tmp, int64_t, m->ninsts),
		   m->ninsts};
	uint32_t slots =
	    m->plan.nstages && m->plan.stages[0].slots ? m->plan.stages[0].slots : 1;
	int64_t top, height, above;
	*x = (Memory){0};
	top = layout_state(m);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		const LayerType *t = &m->types[m->insts[i].type];
		s.frame[i] = t->slot_frame;
		s.work[i] = work_of(m, t);
	}
	uint32_t tail = choose_tail(m, &s, &height, &above);
	x->input_at = NEW_N(m->arena, int64_t, m->ninputs);
	x->slot_at = NEW_N(m->arena, int64_t, m->ninsts);
	for (uint32_t i = 0; i < m->ninputs; i++)
		x->input_at[i] = take(&x->slot_bytes, input_bytes(m, &m->inputs[i]));
	int64_t inputs = x->slot_bytes;
	for (uint32_t i = 0; i < tail; i++)
		x->slot_at[i] = take(&x->slot_bytes, s.frame[i]);
	x->slots = take(&top, x->slot_bytes * slots);
	x->cots = top;
	if (!m->plan.forward_only) top += layout_cots(c, m);
	x->carry = x->scratch = top;
	int64_t at = x->scratch + above - x->slots;
	for (uint32_t i = tail; i < m->ninsts; i++)
		x->slot_at[i] = take(&at, s.frame[i]);
	int64_t work = height - (x->slot_bytes - inputs),
		once = m->const_body ? m->bodies[m->const_body].scratch_bytes : 0;
	x->arena_bytes = x->scratch + (work > once ? work : once);
}

void
layout_module(Ctx *c, Module *m)
{
	for (uint32_t l = 0; l < m->ntypes; l++) {
		LayerType *t = &m->types[l];
		Body *body[BK_COUNT] = {0};
		for (int k = 0; k < BK_COUNT; k++)
			if (t->body[k]) body[k] = &m->bodies[t->body[k]];
		pack_bodies(c, m, body);
		frame_of_type(c, m, t);
	}
	if (m->const_body) pack_body(c, m, &m->bodies[m->const_body], NULL);
	layout_sections(c, m);
}
