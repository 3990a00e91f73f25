/*
 * verify_step.c - one step of a process: is what it reads there; what does it leave behind.
 *
 * A body's scratch is spoilt first, so that what it reads may not lie there; then its in-ports are looked at, then its
 * out-ports are written: nothing of those lies over what is read, unless a value takes over that very buffer. A process begins
 * with its parameters and constants in place, and ends with every body run and every parameter updated.
 */
#include "ir/flow.h"

#include <inttypes.h>

/* ---- bodies ---- */

static Section
state_section(PortKind k)
{
	return k == PORT_m || k == PORT_m_out             ? SEC_m
	       : k == PORT_v || k == PORT_v_out           ? SEC_v
	       : k == PORT_master || k == PORT_master_out ? SEC_master
							  : SEC_param;
}

static What
state_holds(PortKind k)
{
	static const What holds[SEC_COUNT] = {HOLDS_param, HOLDS_grad, HOLDS_m, HOLDS_v,
					      HOLDS_master};
	return holds[state_section(k)];
}

/* What an in-port reads. */
static Place
in_place(const Game *g, const Proc *p, const Step *s, uint32_t port)
{
	const Flow *f = &g->f;
	const Instance *n = &f->m->insts[s->a.inst];
	const LayerType *l = &f->m->types[n->type];
	const TypeFacts *t = &f->type[n->type];
	const Port *q = &f->m->bodies[l->body[s->a.bk]].ports[port];
	int64_t bytes = t->bytes[s->a.bk][port];
	bool mine = q->kind >= PORT_weight && q->slot < l->nweights &&
		    f->m->params[n->params[q->slot]].owner == s->a.inst;

	switch (q->kind) {
	case PORT_arg: return place_arg(g, p, s, n->args[q->slot], bytes);
	case PORT_const:
		return place_at(p->x->consts + p->x->const_at[q->slot], bytes,
				(Content){HOLDS_const, q->slot, 0, 0, 0, 0});
	case PORT_saved:
		if (t->saved_at[q->slot] < 0) break;
		return place_at(
		    slot_base(g, p, s) + p->x->slot_at[s->a.inst] + t->saved_at[q->slot], bytes,
		    (Content){HOLDS_frame, s->a.inst, t->saved_val[q->slot], s->a.mb, 0, 0});
	case PORT_cot: return place_cot(g, p, s, s->a.inst, q->slot, bytes);
	case PORT_carry: return place_carry(g, p, s, q->slot, bytes);
	case PORT_weight:
		if (s->a.bk != BK_U) return place_weight(g, p, n->params[q->slot]);
		if (!mine) break;
		return place_state(g, p, n->params[q->slot], SEC_param,
				   param_zero(g, n->params[q->slot]) > 0,
				   param_content(g, HOLDS_param, n->params[q->slot], 0));
	case PORT_grad:
		if (!mine) break;
		return place_state(g, p, n->params[q->slot], SEC_grad,
				   param_zero(g, n->params[q->slot]) > 0,
				   grad_content(g, n->params[q->slot]));
	case PORT_m:
	case PORT_v:
	case PORT_master:
		if (!mine) break;
		return place_state(
		    g, p, n->params[q->slot], state_section(q->kind),
		    param_zero(g, n->params[q->slot]) > 0,
		    param_content(g, state_holds(q->kind), n->params[q->slot], 0));
	default: break;
	}
	return (Place){0};
}

/* A cotangent that nobody contributes to is zeros, or the loss's one: whoever reads it puts it there. */
static bool
made_by_reader(Game *g, Proc *p, const Step *s, const Port *q, const Place *x)
{
	if (q->kind != PORT_cot || x->lo < 0 || g->f.cot_uses[g->f.res0[s->a.inst] + q->slot])
		return true;
	return shadow_leave(g, p, x->lo, x->hi, x->c);
}

static bool
read_ports(Game *g, Proc *p, const Step *s, const Body *b)
{
	for (uint32_t i = 0; i < b->nports && g->ok; i++) {
		Place x;

		p->in[i].lo = p->in[i].hi = 0;
		if (!port_is_in(b->ports[i].kind)) continue;
		x = in_place(g, p, s, i);
		if (x.hi <= x.lo) continue;
		if (!made_by_reader(g, p, s, &b->ports[i], &x) ||
		    !shadow_holds(g, p, x.lo, x.hi, &x.c, "reads"))
			return false;
		p->in[i].lo = x.lo;
		p->in[i].hi = x.hi;
		p->in[i].val = b->ports[i].v.i;
	}
	return g->ok;
}

/* What a body makes lies over nothing it reads, unless it takes over that buffer; nor in its scratch. */
static bool
clear_of(Game *g, Proc *p, const Step *s, const Body *b, uint32_t port, const Place *x)
{
	uint32_t root = b->ports[port].v.i;
	int64_t scratch = p->x->scratch;

	while (b->vals[root].over.i)
		root = b->vals[root].over.i;
	for (uint32_t i = 0; i < b->nports; i++) {
		if (p->in[i].hi <= x->lo || x->hi <= p->in[i].lo || p->in[i].val == root)
			continue;
		if (s->a.bk == BK_U && p->in[i].lo == x->lo && p->in[i].hi == x->hi) continue;
		return game_wrong(g, p, "makes %s over '%%%s', which it reads",
				  content_str(g, &x->c), val_str(g->f.m, b, b->ports[i].v));
	}
	if (g->f.m->level >= LV_mem && x->lo < scratch + b->scratch_bytes && x->hi > scratch)
		return game_wrong(g, p, "makes %s in its scratch", content_str(g, &x->c));
	return true;
}

static bool
write_dx(Game *g, Proc *p, const Step *s, const Body *b, uint32_t port, int64_t bytes)
{
	uint32_t a = b->ports[port].slot;
	Ref ref = g->f.m->insts[s->a.inst].args[a];
	Place x;

	if (ref.kind != REF_result || !in_stage(g, p, ref.i)) return true;
	x = place_cot(g, p, s, ref.i, ref.result, bytes);
	if (x.lo < 0) return true; /* nobody wants it */
	return clear_of(g, p, s, b, port, &x) &&
	       shadow_add(g, p, x.lo, x.hi, x.c, flow_hash(CONTRIB_dx, s->a.inst, a, 0), true);
}

static bool
write_dw(Game *g, Proc *p, const Step *s, const Body *b, uint32_t port)
{
	uint32_t slot = b->ports[port].slot, param = g->f.m->insts[s->a.inst].params[slot];
	uint64_t sum = flow_hash(CONTRIB_dw, s->a.inst, slot, s->a.mb);
	Content c = {HOLDS_grad, param, 0, 0, 0, 0};
	bool part = param_zero(g, param) >= 2;
	Place x;

	if (part) {
		c = (Content){HOLDS_part, param, 0, s->a.mb, 0, 0};
		x = place_buffer(g, p, param, true, c);
	} else {
		x = place_state(g, p, param, SEC_grad, false, c);
	}
	return clear_of(g, p, s, b, port, &x) && shadow_add(g, p, x.lo, x.hi, x.c, sum, part);
}

static bool
write_port(Game *g, Proc *p, const Step *s, const Body *b, uint32_t port)
{
	const Flow *f = &g->f;
	const Instance *n = &f->m->insts[s->a.inst];
	const TypeFacts *t = &f->type[n->type];
	const Port *q = &b->ports[port];
	int64_t bytes = t->bytes[s->a.bk][port];
	int64_t frame = slot_base(g, p, s) + p->x->slot_at[s->a.inst];
	Place x = {0};

	switch (q->kind) {
	case PORT_out:
		if (t->out_at[q->slot] < 0) return true;
		x = place_at(
		    frame + t->out_at[q->slot], bytes,
		    (Content){HOLDS_frame, s->a.inst, t->out_val[q->slot], s->a.mb, 0, 0});
		break;
	case PORT_save:
		if (t->saved_at[q->slot] < 0) return true;
		x = place_at(
		    frame + t->saved_at[q->slot], bytes,
		    (Content){HOLDS_frame, s->a.inst, t->saved_val[q->slot], s->a.mb, 0, 0});
		break;
	case PORT_carry_out: x = place_carry(g, p, s, q->slot, bytes); break;
	case PORT_dx: return write_dx(g, p, s, b, port, bytes);
	case PORT_dw: return write_dw(g, p, s, b, port);
	case PORT_w_out:
	case PORT_m_out:
	case PORT_v_out:
	case PORT_master_out: {
		Section sec = state_section(q->kind);
		What what = state_holds(q->kind);
		uint32_t param = n->params[q->slot];

		if (f->m->params[param].owner != s->a.inst) return true;
		x = place_state(g, p, param, sec, param_zero(g, param) > 0,
				param_content(g, what, param, 1));
		break;
	}
	default: return true;
	}
	return clear_of(g, p, s, b, port, &x) && shadow_leave(g, p, x.lo, x.hi, x.c);
}

/* In its turn, and in its stage. */
static bool
in_turn(Game *g, Proc *p, const Step *s)
{
	const Module *m = g->f.m;
	BodyKind k = s->a.bk;
	uint32_t n = s->a.inst, *done, t = k == BK_N || k == BK_U ? 0 : s->a.mb;

	if (!in_stage(g, p, n))
		return game_wrong(g, p, "instance %" PRIu32 " is not in this stage", n);
	if ((unsigned)k >= BK_const || !m->types[m->insts[n].type].body[k])
		return game_wrong(g, p, "%s has no body %s",
				  name_str(m->names, m->insts[n].name),
				  (unsigned)k < BK_COUNT ? body_str[k] : "?");
	if (ir_is_reshard(m, n))
		return game_wrong(g, p,
				  "a body between two meshes is run by 'start' and 'wait'");
	done = &p->done[k][n];
	if (t >= m->plan.microbatches || *done != t)
		return game_wrong(g, p,
				  "runs for microbatch %" PRIu32 ", but its next is %" PRIu32,
				  t, *done);
	if (k == BK_U && m->types[m->insts[n].type].body[BK_N] && !p->norms)
		return game_wrong(g, p, "runs before 'norm'");
	++*done;
	return true;
}

bool
proc_body(Game *g, Proc *p, const Step *s)
{
	const Module *m = g->f.m;
	const TypeFacts *t;
	const Body *b;

	if (!in_turn(g, p, s)) return false;
	t = &g->f.type[m->insts[s->a.inst].type];
	b = &m->bodies[m->types[m->insts[s->a.inst].type].body[s->a.bk]];
	if (m->level >= LV_mem &&
	    !shadow_leave(g, p, p->x->scratch, p->x->scratch + b->scratch_bytes,
			  (Content){.what = HOLDS_scratch}))
		return false;
	if (!read_ports(g, p, s, b)) return false;
	for (uint32_t i = 0; i < b->nports; i++)
		if (t->spent[s->a.bk][i])
			shadow_leave(g, p, p->in[i].lo, p->in[i].hi,
				     (Content){.what = HOLDS_spent});
	for (uint32_t i = 0; i < b->nports && g->ok; i++)
		if (!port_is_in(b->ports[i].kind)) write_port(g, p, s, b, i);
	return g->ok;
}

/* ---- inputs, norm ---- */

/* A slot begins another microbatch: all that is left of the one before is gone, what has come for this one stays. */
static void
spoil_slot(Game *g, Proc *p, const Step *s)
{
	const Module *m = g->f.m;
	int64_t lo = slot_base(g, p, s), hi = lo + p->x->slot_bytes;

	while (lo < hi && g->ok) {
		const Extent *e = &p->shadow.e[shadow_find(&p->shadow, lo)];
		int64_t end = e->hi < hi ? e->hi : hi;
		bool comes = e->c.what == HOLDS_flight ||
			     (e->c.what == HOLDS_frame && e->c.mb == s->a.mb &&
			      ir_is_reshard(m, e->c.i));

		if (!comes && e->c.what != HOLDS_nothing)
			shadow_leave(g, p, lo, end, (Content){.what = HOLDS_nothing});
		lo = end;
	}
}

static bool
is_held(const Proc *p, const Extent *e)
{
	for (uint32_t i = 0; i < p->nopen; i++)
		for (uint32_t k = 0; k < p->open[i].nheld; k++)
			if (p->open[i].held[k].lo <= e->lo && e->hi <= p->open[i].held[k].hi)
				return true;
	return false;
}

/* Above level mem carries have a place in the slot that nobody writes on the way forward. Cut out when the slot begins,
 * one after the other, they leave the extents of many slots where they are; later each would move all that follow. */
static void
cut_carries(Game *g, Proc *p, const Step *s)
{
	const Module *m = g->f.m;
	const Stage *k = &m->plan.stages[p->stage];

	for (uint32_t i = k->first; i < k->first + k->count; i++) {
		const LayerType *l = &m->types[m->insts[i].type];
		const TypeFacts *t = &g->f.type[m->insts[i].type];
		int64_t frame = slot_base(g, p, s) + p->x->slot_at[i];

		for (uint32_t c = 0; c < l->ncarry; c++) {
			int64_t lo = frame + t->carry_at[c];

			shadow_leave(g, p, lo,
				     lo + type_bytes(m, text_type_mesh(m, l), &l->carry[c]),
				     (Content){.what = HOLDS_nothing});
		}
	}
}

/* ... its cotangents too, but for those that are being sent. They lie between `cots` and the slots, or behind both. */
static void
spoil_cots(Game *g, Proc *p, const Step *s)
{
	uint32_t slots = g->f.m->plan.stages[p->stage].slots, n = slots ? slots : 1;
	int64_t end = p->x->slots > p->x->cots ? p->x->slots : p->x->arena_bytes;

	if (p->x->cots < 0) return;
	for (uint32_t i = shadow_find(&p->shadow, p->x->cots);
	     i < p->shadow.n && p->shadow.e[i].lo < end; i++) {
		Extent *e = &p->shadow.e[i];

		if (e->c.what == HOLDS_cot && e->c.mb != s->a.mb &&
		    e->c.mb % n == s->a.mb % n && !is_held(p, e))
			e->c = (Content){.what = HOLDS_nothing};
	}
}

bool
proc_input(Game *g, Proc *p, const Step *s)
{
	const Module *m = g->f.m;

	if (p->inputs != s->a.mb || p->inputs >= m->plan.microbatches)
		return game_wrong(g, p, "of microbatch %" PRIu32 " after %" PRIu32 " of them",
				  s->a.mb, p->inputs);
	p->inputs++;
	spoil_slot(g, p, s);
	if (m->level < LV_mem) cut_carries(g, p, s);
	spoil_cots(g, p, s);
	for (uint32_t i = 0; i < m->ninputs && g->ok; i++) {
		Place x = place_at(slot_base(g, p, s) + p->x->input_at[i], g->f.input_bytes[i],
				   (Content){HOLDS_input, i, 0, s->a.mb, 0, 0});

		if (p->x->input_at[i] >= 0) shadow_leave(g, p, x.lo, x.hi, x.c);
	}
	return g->ok;
}

bool
proc_norm(Game *g, Proc *p)
{
	const Module *m = g->f.m;

	const Stage *s = &m->plan.stages[p->stage];

	if (p->norms++) return game_wrong(g, p, "comes a second time");
	for (uint32_t n = s->first; n < s->first + s->count; n++)
		for (int k = BK_F; k <= BK_W; k++)
			if (p->done[k][n] && p->done[k][n] != m->plan.microbatches)
				return game_wrong(
				    g, p, "comes before %s of %s (microbatch %" PRIu32 ")",
				    body_str[k], name_str(m->names, m->insts[n].name),
				    p->done[k][n]);
	for (uint32_t i = 0; i < m->nparams; i++) {
		const Param *q = &m->params[i];

		if (q->borrows || !in_stage(g, p, q->owner) || p->done[BK_N][q->owner] ||
		    !m->types[m->insts[q->owner].type].body[BK_N])
			continue;
		return game_wrong(g, p, "comes before N of %s",
				  name_str(m->names, m->insts[q->owner].name));
	}
	return true;
}

/* ---- begin and end ---- */

static void
begin_params(Game *g, Proc *p)
{
	const Module *m = g->f.m;

	for (uint32_t i = 0; i < m->nparams && g->ok; i++) {
		const Param *q = &m->params[i];
		const What what[SEC_COUNT] = {HOLDS_param, HOLDS_grad, HOLDS_m, HOLDS_v,
					      HOLDS_master};
		bool each = param_zero(g, i) >= 2;

		if (!in_stage(g, p, q->owner)) continue;
		for (int s = 0; s < SEC_COUNT; s++) {
			Content c =
			    s == SEC_grad
				? (Content){each ? HOLDS_reduced : HOLDS_grad, i, 0, 0, 0, 0}
				: param_content(g, what[s], i, 0);
			Place x;

			if (p->x->sec[s] < 0 || (s >= SEC_m && (q->borrows || !q->trained)) ||
			    (s == SEC_grad && g->f.user0[i] == g->f.user0[i + 1] &&
			     !q->trained))
				continue;
			x = place_state(g, p, i, (Section)s, false, c);
			shadow_leave(g, p, x.lo, x.hi, x.c);
		}
	}
}

void
proc_begin(Game *g, Proc *p)
{
	const Module *m = g->f.m;
	uint32_t most = 0;

	p->shadow = (Shadow){.arena = g->f.v->tmp};
	PUSH(g->f.v->tmp, p->shadow.e, p->shadow.n, p->shadow.cap,
	     ((Extent){.lo = INT64_MIN, .hi = INT64_MAX}));
	for (int k = 0; k < BK_COUNT; k++)
		p->done[k] = NEW_N(g->f.v->tmp, uint32_t, (size_t)m->ninsts + 1);
	for (uint32_t b = 1; b < m->nbodies; b++)
		if (m->bodies[b].nports > most) most = m->bodies[b].nports;
	p->in = arena_alloc(g->f.v->tmp, sizeof(*p->in) * ((size_t)most + 1));
	begin_params(g, p);
	for (uint32_t i = 0; i < m->nconsts && g->ok; i++) {
		Place x = place_at(p->x->consts + p->x->const_at[i],
				   type_bytes(m, NULL, &m->consts[i]),
				   (Content){HOLDS_const, i, 0, 0, 0, 0});

		if (p->x->const_at[i] >= 0) shadow_leave(g, p, x.lo, x.hi, x.c);
	}
}

/* All microbatches of all bodies. */
static bool
end_bodies(Game *g, Proc *p)
{
	const Module *m = g->f.m;
	const Stage *s = &m->plan.stages[p->stage];
	bool *owns = NEW_N(g->f.v->tmp, bool, (size_t)m->ninsts + 1);

	for (uint32_t i = 0; i < m->nparams; i++)
		owns[m->params[i].owner] |=
		    !m->params[i].borrows &&
		    (m->level >= LV_spmd && m->plan.ranks > 1 ? m->params[i].trained
							      : m->params[i].lr != 0);
	for (uint32_t n = s->first; n < s->first + s->count; n++) {
		const LayerType *l = &m->types[m->insts[n].type];

		for (int k = BK_F; k <= BK_U; k++) {
			uint32_t want = k == BK_U   ? owns[n]
					: k == BK_N ? p->done[k][n]
						    : m->plan.microbatches;

			if (!l->body[k] || (l->reshard && k > BK_F) ||
			    (m->plan.forward_only && k != BK_F) || p->done[k][n] == want ||
			    (k != BK_F && k != BK_U && !p->done[k][n]))
				continue;
			return game_wrong(g, p, "%s of %s ran for %" PRIu32 " of %" PRIu32 "%s",
					  body_str[k], name_str(m->names, m->insts[n].name),
					  p->done[k][n], want,
					  k == BK_U ? "" : " microbatches");
		}
	}
	return true;
}

/* The next step finds the new values everywhere. */
static bool
end_params(Game *g, Proc *p)
{
	const Module *m = g->f.m;

	for (uint32_t i = 0; i < m->nparams; i++) {
		Place x;

		if (!in_stage(g, p, m->params[i].owner)) continue;
		x = place_state(g, p, i, SEC_param, false,
				param_content(g, HOLDS_param, i, m->params[i].trained));
		if (!shadow_holds(g, p, x.lo, x.hi, &x.c, "should end with")) return false;
	}
	return true;
}

bool
proc_end(Game *g, Proc *p)
{
	const Module *m = g->f.m;

	if (p->nopen)
		return game_wrong(g, p, "%s is never waited for",
				  step_str(g, p, p->open[0].step));
	if (!end_bodies(g, p)) return false;
	return m->plan.forward_only || end_params(g, p);
}
