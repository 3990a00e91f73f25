/*
 * layout.c - the arena of every stage: sections, frames of instances, buffers of cotangents and of
 * what is sent.
 *
 *   param | grad | m | v | const | slots x (inputs, frames) | cots | gather | dwork | work
 *
 * A stage has room for its own instances, and for the parameters and inputs they use. Work is what the running body has: its scratch, and above it, from B to W, what B hands to W
 * (carry), so that the section is as high as the neediest type. A frame holds what F saves,
 * then what it returns. Results come last, so that a layer finds its argument at a fixed
 * distance below its own frame whoever made it, and loops over layers stay loops over
 * addresses. With one slot, frames behind the last one that is sent or received are a stack: those of the last instances (the logits, for
 * one) are gone when earlier layers run B, and may lie in the work section above what they need
 * themselves; how many of them, is chosen for the lowest arena. Cotangents used once, by the
 * next instance, take turns in two buffers; what is sent or received has a buffer of its own.
 *
 * Parameters whose gradients are summed over ranks lie in flats (ir_flat), behind those that are
 * not: what is updated here, what is borrowed, what is frozen. So one offset serves in every
 * section that has the parameter, and a section has no holes.
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

/* ---- one stage ---- */

typedef struct Lay {
	Ctx *c;
	Module *m;
	uint32_t k;
	const Stage *s;
	Memory *x;
} Lay;

static bool
in_stage(const Lay *l, uint32_t inst)
{
	return inst >= l->s->first && inst - l->s->first < l->s->count;
}

static int64_t *
all_none(Arena *a, uint32_t n)
{
	int64_t *at = NEW_N(a, int64_t, n + 1);
	for (uint32_t i = 0; i < n; i++)
		at[i] = -1;
	return at;
}

/* ---- cotangents ---- */

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
			if (r.kind != REF_result || !ir_inst_port(m, i, BK_B, PORT_dx, a))
				continue;
			use[cot_of[r.i] + r.result].n++;
			use[cot_of[r.i] + r.result].by = i;
		}
	return use;
}

/* Does the cotangent take turns with its neighbours in two buffers? What is sent waits for who receives it. */
static bool
takes_turns(const Module *m, const Use *u, uint32_t inst)
{
	return u->n == 1 && u->by == inst + 1 && !ir_is_reshard(m, inst) &&
	       !ir_is_reshard(m, u->by);
}

static int64_t
cot_bytes(const Module *m, uint32_t inst, uint16_t r)
{
	const Body *f = &m->bodies[m->types[m->insts[inst].type].body[BK_F]];
	const Port *out = ir_find_port(f, PORT_out, r);
	return out ? type_bytes(m, ir_mesh(m, f), val_type(f, out->v)) : 0;
}

/* Cotangents that arrive to be added to others. */
static void
layout_back(const Lay *l, int64_t *top)
{
	const Module *m = l->m;
	for (uint32_t i = 0; i < m->ninsts; i++) {
		Ref r = ir_is_reshard(m, i) ? m->insts[i].args[0] : (Ref){0};
		if (r.kind != REF_result || !in_stage(l, r.i) ||
		    !ir_inst_port(m, i, BK_B, PORT_dx, 0) ||
		    !l->x->cot[l->x->cot_of[r.i] + r.result].shared)
			continue;
		l->x->back_at[i] = take(top, cot_bytes(m, r.i, r.result));
	}
}

/* Fills x->cot and x->back_at, offsets from x->cots; returns the bytes of the section. */
static int64_t
layout_cots(const Lay *l)
{
	const Module *m = l->m;
	Memory *x = l->x;
	uint32_t first = l->s->first, end = first + l->s->count;
	x->cot_of = NEW_N(m->arena, uint32_t, m->ninsts);
	x->ncot = 0;
	for (uint32_t i = 0; i < m->ninsts; i++) {
		x->cot_of[i] = x->ncot;
		x->ncot += m->types[m->insts[i].type].nouts;
	}
	x->cot = NEW_N(m->arena, Cot, x->ncot);
	for (uint32_t i = 0; i < m->ninsts; i++)
		for (uint16_t r = 0; r < m->types[m->insts[i].type].nouts; r++)
			x->cot[x->cot_of[i] + r].at = in_stage(l, i) ? 0 : -1;
	Use *use = count_uses(l->c, m, x->cot_of, x->ncot);
	int64_t pair = 0,
		top = 0; /* one of the two shared buffers; buffers of their own above them */
	for (int own = 0; own < 2; own++) {
		if (own) top = 2 * pair;
		for (uint32_t i = first; i < end; i++) {
			int64_t in_pair = 0;
			for (uint16_t r = 0; r < m->types[m->insts[i].type].nouts; r++) {
				uint32_t k = x->cot_of[i] + r;
				bool read = ir_inst_port(m, i, BK_B, PORT_cot, r) ||
					    ir_inst_port(m, i, BK_W, PORT_cot, r);
				bool turns = takes_turns(m, &use[k], i);
				if (!use[k].n && !read) continue;
				if (turns == own) continue;
				Cot *cot = &x->cot[k];
				cot->at = take(turns ? &in_pair : &top, cot_bytes(m, i, r));
				cot->shared = use[k].n != 1;
			}
			if (in_pair > pair) pair = in_pair;
		}
	}
	for (uint32_t i = first; i < end; i++)
		for (uint16_t r = 0; r < m->types[m->insts[i].type].nouts; r++) {
			uint32_t k = x->cot_of[i] + r;
			if (takes_turns(m, &use[k], i)) x->cot[k].alt = pair;
		}
	layout_back(l, &top);
	return top;
}

/* ---- state ---- */

static bool
any_port(const Module *m, PortKind kind)
{
	for (uint32_t b = 1; b < m->nbodies; b++)
		for (uint32_t i = 0; i < m->bodies[b].nports; i++)
			if (m->bodies[b].ports[i].kind == kind) return true;
	return false;
}

/* What lies in front of the flats, in this order, and how many of the sections have it. */
typedef enum Kept { KEPT_updated, KEPT_borrowed, KEPT_frozen, KEPT_COUNT } Kept;

static Kept
kept_as(const Module *m, const Param *p)
{
	if (m->plan.ranks == 1) return KEPT_updated; /* all alike, in the order of the table */
	if (p->borrows) return KEPT_borrowed;
	return p->trained ? KEPT_updated : KEPT_frozen;
}

static bool
section_has(Section s, Kept k)
{
	return s == SEC_param || k == KEPT_updated || (s == SEC_grad && k == KEPT_borrowed);
}

/* Flats of instances whose gradients are summed over ranks; bytes so far of every section in top[]. */
static void
layout_flats(const Lay *l, int64_t top[SEC_COUNT])
{
	Memory *x = l->x;
	for (uint32_t i = l->s->first; i < l->s->first + l->s->count; i++) {
		Flat f = ir_flat(l->m, l->c->tmp, i);
		if (!f.bytes || (f.dp == 1 && !f.nspans)) continue;
		x->flat_bytes[i] = f.bytes;
		for (uint32_t p = 0; p < f.n; p++) {
			x->param_at[f.param[p]] = f.at[p];
			x->in_flat[f.param[p]] = true;
		}
		for (int s = 0; s < SEC_COUNT; s++)
			x->flat_at[s][i] =
			    take(&top[s], ir_section_scale(l->m, (Section)s) * f.bytes /
					      (ir_flat_split(f.zero, (Section)s) ? f.dp : 1));
		if (f.zero == 3 && f.bytes > x->gather_bytes) x->gather_bytes = f.bytes;
		if (f.zero >= 2 && f.bytes > x->dwork_bytes) x->dwork_bytes = f.bytes;
	}
}

static void
layout_params(const Lay *l, int64_t top[SEC_COUNT])
{
	const Module *m = l->m;
	Memory *x = l->x;
	bool *flat = NEW_N(l->c->tmp, bool, m->nparams + 1);
	for (uint32_t i = l->s->first; i < l->s->first + l->s->count; i++) {
		Flat f = ir_flat(m, l->c->tmp, i);
		for (uint32_t p = 0; p < f.n; p++)
			flat[f.param[p]] = f.dp > 1 || f.nspans;
	}
	for (int kept = 0; kept < KEPT_COUNT; kept++)
		for (uint32_t i = 0; i < m->nparams; i++) {
			const Param *p = &m->params[i];
			if (flat[i] || !in_stage(l, p->owner) || kept_as(m, p) != (Kept)kept)
				continue;
			x->param_at[i] =
			    take(&top[SEC_param], type_bytes(m, ir_param_mesh(m, i), &p->type));
			for (int s = SEC_grad; s < SEC_COUNT; s++)
				if (section_has((Section)s, (Kept)kept))
					top[s] =
					    ir_section_scale(m, (Section)s) * top[SEC_param];
		}
	layout_flats(l, top);
}

/* Parameters and the state beside them; a section that the optimizer does not have is -1. */
static int64_t
layout_state(const Lay *l)
{
	Module *m = l->m;
	Memory *x = l->x;
	int64_t top = 0;
	bool train = !m->plan.forward_only;
	const bool has[SEC_COUNT] = {true, train, train && any_port(m, PORT_m),
				     train && any_port(m, PORT_v),
				     train && any_port(m, PORT_master)};
	x->param_at = all_none(m->arena, m->nparams);
	x->in_flat = NEW_N(m->arena, bool, m->nparams + 1);
	x->flat_bytes = NEW_N(m->arena, int64_t, m->ninsts + 1);
	for (int s = 0; s < SEC_COUNT; s++)
		x->flat_at[s] = all_none(m->arena, m->ninsts);
	layout_params(l, x->sec_bytes);
	for (int s = 0; s < SEC_COUNT; s++) {
		if (!has[s]) x->sec_bytes[s] = 0;
		x->sec[s] = has[s] ? take(&top, x->sec_bytes[s]) : -1;
		for (uint32_t i = 0; !has[s] && i < m->ninsts; i++)
			x->flat_at[s][i] = -1;
	}
	x->consts = top;
	x->const_at = NEW_N(m->arena, int64_t, m->nconsts);
	int64_t in_consts = 0;
	for (uint32_t i = 0; i < m->nconsts; i++)
		x->const_at[i] = take(&in_consts, type_bytes(m, NULL, &m->consts[i]));
	return top + in_consts;
}

/* ---- inputs ---- */

/* Inputs hold the rows of one microbatch. */
static int64_t
input_bytes(const Module *m, const Input *in)
{
	int64_t bytes = type_bytes(m, &m->plan.meshes[in->mesh], &in->type);
	int k = type_find(&in->type, m->batch);
	return k >= 0 && !in->type.ax[k].nshard ? bytes / m->plan.microbatches : bytes;
}

/* A program of one stage has room for all. */
static void
layout_inputs(const Lay *l)
{
	const Module *m = l->m;
	bool *read = NEW_N(l->c->tmp, bool, m->ninputs + 1);
	for (uint32_t i = l->s->first; i < l->s->first + l->s->count; i++)
		for (uint16_t a = 0; a < m->types[m->insts[i].type].nargs; a++)
			if (m->insts[i].args[a].kind == REF_input)
				read[m->insts[i].args[a].i] = true;
	l->x->input_at = all_none(m->arena, m->ninputs);
	for (uint32_t i = 0; i < m->ninputs; i++)
		if (read[i] || m->plan.nstages == 1)
			l->x->input_at[i] =
			    take(&l->x->slot_bytes, input_bytes(m, &m->inputs[i]));
}

/* ---- frames and work ---- */

typedef struct Stack {
	int64_t *frame, *work; /* [n], of the stage's instances */
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

/* The first instance of the stage from which on frames come and go as a stack, and nothing but bodies writes into
 * work: what is sent, received or returned while others work lies before it. */
static uint32_t
stack_begins(const Lay *l)
{
	const Module *m = l->m;
	uint32_t begin = 0, first = l->s->first;
	for (uint32_t i = 0; i < m->ninsts; i++) {
		Ref r = ir_is_reshard(m, i) ? m->insts[i].args[0] : (Ref){0};
		if (ir_is_reshard(m, i) && in_stage(l, i) && begin < i - first + 1)
			begin = i - first + 1;
		if (r.kind == REF_result && in_stage(l, r.i) && begin < r.i - first + 1)
			begin = r.i - first + 1;
	}
	for (uint32_t i = 0; i < m->nparams; i++) {
		uint32_t from = m->params[i].borrows, owner;
		if (!from--) continue;
		owner = m->params[from].owner;
		if (in_stage(l, owner) && begin < owner - first + 1) begin = owner - first + 1;
	}
	return begin;
}

/* The first instance of the tail: where types change, for the lowest height; the shortest
 * tail of equals. */
static uint32_t
choose_tail(const Lay *l, const Stack *s, int64_t *height, int64_t *above)
{
	const Instance *inst = l->m->insts + l->s->first;
	uint32_t best = s->n;
	bool stack = !l->m->plan.forward_only && l->s->slots <= 1;
	uint32_t begin = stack_begins(l);
	*height = stack_height(s, best, above);
	for (uint32_t i = s->n; stack && i-- > 1 && i >= begin;) {
		int64_t a, h;
		if (inst[i].type == inst[i - 1].type) continue;
		h = stack_height(s, i, &a);
		if (h < *height) *height = h, *above = a, best = i;
	}
	return best;
}

/* Most bytes of a gradient that comes back from a borrower: it arrives where bodies work. */
static int64_t
most_returned(const Lay *l)
{
	const Module *m = l->m;
	int64_t most = 0;
	for (uint32_t i = 0; !m->plan.forward_only && i < m->nparams; i++) {
		uint32_t from = m->params[i].borrows;
		if (!from-- || !in_stage(l, m->params[from].owner)) continue;
		int64_t bytes =
		    aligned(type_bytes(m, ir_param_mesh(m, from), &m->params[from].type));
		if (bytes > most) most = bytes;
	}
	return most;
}

/* The buffers of ZeRO: two of each, so that one is on its way while the other is used. */
static void
layout_zero(Memory *x, int64_t *top)
{
	x->gather = x->gather_bytes ? take(top, 2 * x->gather_bytes) : -1;
	x->dwork = x->dwork_bytes ? take(top, 2 * x->dwork_bytes) : -1;
}

/* requires: packed bodies, frames. Sets everything of the stage's Memory but live_bytes. */
static void
layout_stage(const Lay *l)
{
	Module *m = l->m;
	Memory *x = l->x;
	uint32_t n = l->s->count, slots = l->s->slots ? l->s->slots : 1;
	Stack s = {NEW_N(l->c->tmp, int64_t, n + 1), NEW_N(l->c->tmp, int64_t, n + 1), n};
	int64_t top = layout_state(l), height, above;
	for (uint32_t i = 0; i < n; i++) {
		const LayerType *t = &m->types[m->insts[l->s->first + i].type];
		s.frame[i] = t->slot_frame;
		s.work[i] = work_of(m, t);
	}
	uint32_t tail = choose_tail(l, &s, &height, &above);
	x->slot_at = all_none(m->arena, m->ninsts);
	x->back_at = all_none(m->arena, m->ninsts);
	layout_inputs(l);
	int64_t inputs = x->slot_bytes;
	for (uint32_t i = 0; i < tail; i++)
		x->slot_at[l->s->first + i] = take(&x->slot_bytes, s.frame[i]);
	x->slots = take(&top, x->slot_bytes * slots);
	x->cots = top;
	if (!m->plan.forward_only) top += layout_cots(l);
	layout_zero(x, &top);
	x->carry = x->scratch = top;
	int64_t at = x->scratch + above - x->slots;
	for (uint32_t i = tail; i < n; i++)
		x->slot_at[l->s->first + i] = take(&at, s.frame[i]);
	int64_t work = height - (x->slot_bytes - inputs), back = most_returned(l),
		once = m->const_body ? m->bodies[m->const_body].scratch_bytes : 0;
	if (back > work) work = back;
	x->arena_bytes = x->scratch + (work > once ? work : once);
}

void
layout_types(Ctx *c, Module *m)
{
	for (uint32_t l = 0; l < m->ntypes; l++) {
		LayerType *t = &m->types[l];
		Body *body[BK_COUNT] = {0};
		for (int k = 0; k < BK_COUNT; k++)
			if (t->body[k]) body[k] = &m->bodies[t->body[k]];
		pack_bodies(c, m, body);
		frame_of_type(c, m, t);
	}
}

void
layout_module(Ctx *c, Module *m)
{
	layout_types(c, m);
	if (m->const_body) pack_body(c, m, &m->bodies[m->const_body], NULL);
	m->mem = NEW_N(m->arena, Memory, m->plan.nstages);
	for (uint32_t k = 0; k < m->plan.nstages; k++)
		layout_stage(&(Lay){c, m, k, &m->plan.stages[k], &m->mem[k]});
}

int64_t
layout_inputs_bytes(const Module *m, uint32_t stage)
{
	int64_t bytes = 0;
	for (uint32_t i = 0; i < m->ninputs; i++)
		if (m->mem[stage].input_at[i] >= 0)
			bytes += aligned(input_bytes(m, &m->inputs[i]));
	return bytes;
}

int64_t
layout_arena(const Module *m)
{
	int64_t most = 0;
	for (uint32_t k = 0; k < m->plan.nstages; k++)
		if (m->mem[k].arena_bytes > most) most = m->mem[k].arena_bytes;
	return most;
}
