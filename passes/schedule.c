/*
 * schedule.c - the order of a step: one action table a stage, all ranks of which run it.
 *
 *   mb w     { F }                       1F1B: w microbatches are ahead of the first backward part
 *   mb M - w { F of t + w; B of t }      GPipe: w = M
 *   mb w     { B of t + M - w }
 *   N bodies, norm, U bodies
 *
 * F stands for: fetch inputs; forward bodies in order. B for: B and W bodies in reverse. Turns that differ (the first, which
 * has no messages of the one before to wait for; the last, in which sums of gradients start layer by layer) are loops of
 * one turn. Communication starts as early and is waited for as late as its buffers allow:
 *
 *   value received     posted at the head of F (of the F before, if a slot is to spare), waited for where its reshard stands
 *   value sent         posted as it is made, waited for at the end of B of its microbatch, when its slot is free (forward
 *                      only: before the slot is used again)
 *   cotangent received posted at the head of the turn, waited for in front of the B that reads it
 *   cotangent sent     posted after the last B that adds to it, waited for before the first that adds to it in the next turn
 *   parameters gathered (ZeRO 3)      one layer ahead; those of the last layers of F serve the first of B
 *   gradients summed (ZeRO 0, 1)      after W of the last microbatch, waited for in front of N
 *   gradients summed (ZeRO 2, 3)      after every W, waited for when their buffer is wanted again
 *   parameters gathered (ZeRO 1, 2)   after U, waited for at the end
 *   borrowed parameters               gradients return before their owner's are summed; values are lent after U
 *
 * No table can deadlock on the weakest machine. Starts do not block, so a wait ends if the other side gets to its start. With
 * S stages and K >= S give F of microbatch j in stage s the time 2 K (j - w) + s, and B of j the time 2 K j + K + S - s, where w
 * is how far F of stage s is ahead. Every stage runs its parts in the order of these times, and each wait in a part needs a
 * start in a part of an earlier time: values come from a lower stage, whose w is no less; cotangents and gradients of what is
 * borrowed from a higher one; a sent value was awaited since F of its microbatch, a sent cotangent since the end of B of the
 * microbatch but one before. Messages of a channel are started in one order on both sides: by microbatch, then values as they
 * are made, cotangents as their last contribution is, gradients by falling and values of borrowed parameters by rising owner.
 * Everything else is among ranks that run one table.
 */
#include "passes/passes.h"

typedef struct Sched {
	Ctx *c;
	Module *m;
	const Memory *x; /* of the stage, as mem will lay it out */
	Roll *roll;
	const Stage *stage;
	uint32_t k, ahead; /* how far in advance values are received */
	StageMoves move;
	ActList list; /* of the part at hand */
	uint32_t held
	    [2]; /* 1 + the instance whose flat is in, or on its way to, that gather buffer; 0: none */
	uint32_t busy[2]; /* 1 + the instance whose gradients are being summed in that buffer */
} Sched;

/* ---- the list at hand ---- */

static void
put(Sched *s, Action a)
{
	PUSH(s->c->tmp, s->list.a, s->list.n, s->list.cap, a);
}

static void
put_start(Sched *s, CommKind k, uint32_t id, uint32_t mb)
{
	put(s, (Action){.kind = ACT_start, .comm = k, .inst = id, .mb = mb});
}

static void
put_wait(Sched *s, CommKind k, uint32_t id, uint32_t mb)
{
	put(s, (Action){.kind = ACT_wait, .comm = k, .inst = id, .mb = mb});
}

static void
put_both(Sched *s, CommKind k, uint32_t id, uint32_t mb)
{
	put_start(s, k, id, mb);
	put_wait(s, k, id, mb);
}

static bool
has_body(const Module *m, uint32_t inst, BodyKind bk)
{
	return m->types[m->insts[inst].type].body[bk] != 0;
}

static void
put_body(Sched *s, BodyKind bk, uint32_t inst, uint32_t mb)
{
	if (has_body(s->m, inst, bk))
		put(s, (Action){.kind = ACT_body, .bk = bk, .inst = inst, .mb = mb});
}

/* Ends a part of the table. */
static void
flush(Sched *s, bool from_end)
{
	roll_actions(s->roll, s->m, &s->list, from_end);
	s->list.n = 0;
}

/* ---- ZeRO 3: parameters gathered one layer ahead ---- */

typedef struct Gather {
	uint32_t *user, n,
	    at; /* instances that need theirs in this part, in order; who is next */
	uint32_t
	    ready[2]; /* 1 + whose flat was in that buffer before the part began; 0: nobody's */
} Gather;

/* Does the body read parameters of the instance's own flat? */
static bool
reads_flat(const Sched *s, uint32_t inst, BodyKind bk)
{
	const Instance *n = &s->m->insts[inst];
	for (uint32_t w = 0; w < s->m->types[n->type].nweights; w++)
		if (s->x->in_flat[n->params[w]] && ir_inst_port(s->m, inst, bk, PORT_weight, w))
			return true;
	return false;
}

static bool
gathers(const Sched *s, uint32_t inst, bool back)
{
	if (!s->x->flat_bytes[inst] || ir_zero(s->m, inst) < 3) return false;
	return back ? reads_flat(s, inst, BK_B) || reads_flat(s, inst, BK_W)
		    : reads_flat(s, inst, BK_F);
}

static Gather
find_gathers(const Sched *s, bool back)
{
	Gather g = {.user = NEW_N(s->c->tmp, uint32_t, s->stage->count + 1),
		    .ready = {s->held[0], s->held[1]}};
	for (uint32_t i = 0; i < s->stage->count; i++) {
		uint32_t inst = s->stage->first + (back ? s->stage->count - 1 - i : i);
		if (gathers(s, inst, back)) g.user[g.n++] = inst;
	}
	return g;
}

/* The next one's parameters, if their buffer is not that of `now` (1 + instance; 0: all are free). */
static void
gather_ahead(Sched *s, Gather *g, uint32_t now, uint32_t mb)
{
	if (g->at >= g->n) return;
	uint32_t next = g->user[g->at], b = next % 2;
	if (s->held[b] == next + 1 || (now && (now - 1) % 2 == b)) return;
	put_start(s, CK_param, next, mb);
	s->held[b] = next + 1;
	g->ready[b] = 0;
}

/* In front of the bodies of an instance. */
static void
gather_begin(Sched *s, Gather *g, uint32_t inst, uint32_t mb)
{
	if (g->at >= g->n || g->user[g->at] != inst) return;
	if (g->ready[inst % 2] != inst + 1) put_wait(s, CK_param, inst, mb);
	g->at++;
	gather_ahead(s, g, inst + 1, mb);
}

/* ---- forward ---- */

/* Values whose producer is `inst` leave for other meshes. */
static void
send_values(Sched *s, uint32_t inst, uint32_t mb)
{
	for (uint32_t i = 0; i < s->move.made.n; i++)
		if (s->move.made.v[i].producer == inst && s->move.made.v[i].from == s->k)
			put_start(s, CK_fwd, s->move.made.v[i].id, mb);
}

static void
post_values(Sched *s, uint32_t mb)
{
	for (uint32_t i = 0; i < s->move.made.n; i++)
		if (s->move.made.v[i].to == s->k && s->move.made.v[i].from != s->k)
			put_start(s, CK_fwd, s->move.made.v[i].id, mb);
}

/* Until values of a microbatch have left for other stages. */
static void
wait_sent(Sched *s, uint32_t mb)
{
	for (uint32_t i = 0; i < s->move.made.n; i++)
		if (s->move.made.v[i].from == s->k && s->move.made.v[i].to != s->k)
			put_wait(s, CK_fwd, s->move.made.v[i].id, mb);
}

typedef struct Part { /* of a turn, for one microbatch */
	uint32_t mb;
	bool first, last; /* microbatch of the step */
	bool full;        /* forward only: the slot was in use before */
} Part;

static void
put_forward(Sched *s, const Part *p)
{
	uint32_t mbs = s->m->plan.microbatches, slots = s->stage->slots;
	Gather g = find_gathers(s, false);
	if (p->full) wait_sent(s, p->mb - slots);
	put(s, (Action){.kind = ACT_input, .mb = p->mb});
	if (p->first || !s->ahead) post_values(s, p->mb);
	if (s->ahead && !p->last) post_values(s, p->mb + 1);
	gather_ahead(s, &g, 0, p->mb);
	for (uint32_t i = s->stage->first; i < s->stage->first + s->stage->count; i++) {
		gather_begin(s, &g, i, p->mb);
		if (ir_is_reshard(s->m, i))
			put_wait(s, CK_fwd, i, p->mb);
		else
			put_body(s, BK_F, i, p->mb);
		send_values(s, i, p->mb);
		gather_ahead(s, &g, 0, p->mb);
	}
	if (s->m->plan.forward_only && p->last)
		for (uint32_t i = mbs > slots ? mbs - slots : 0; i < mbs; i++)
			wait_sent(s, i);
	flush(s, false);
}

/* ---- backward ---- */

/* Makes room for cotangents that come from other stages. */
static void
post_cotangents(Sched *s, uint32_t mb)
{
	for (uint32_t i = 0; i < s->move.back.n; i++)
		if (s->move.back.v[i].from == s->k && s->move.back.v[i].to != s->k)
			put_start(s, CK_bwd, s->move.back.v[i].id, mb);
	flush(s, false);
}

/* Cotangents of what `inst` gave to other meshes. */
static void
wait_cotangents(Sched *s, uint32_t inst, uint32_t mb)
{
	for (uint32_t i = 0; i < s->move.back.n; i++)
		if (s->move.back.v[i].from == s->k && s->move.back.v[i].producer == inst)
			put_wait(s, CK_bwd, s->move.back.v[i].id, mb);
}

/* Those to which `inst` makes the last contribution. */
static void
send_cotangents(Sched *s, uint32_t inst, uint32_t mb)
{
	for (uint32_t i = 0; i < s->move.back.n; i++)
		if (s->move.back.v[i].to == s->k && s->move.back.v[i].low == inst)
			put_start(s, CK_bwd, s->move.back.v[i].id, mb);
}

/* Those to which `inst` makes the first (NULL: any) have left for other stages. */
static void
wait_returned(Sched *s, const uint32_t *inst, uint32_t mb)
{
	for (uint32_t i = 0; i < s->move.back.n; i++)
		if (s->move.back.v[i].to == s->k && s->move.back.v[i].from != s->k &&
		    (!inst || s->move.back.v[i].high == *inst))
			put_wait(s, CK_bwd, s->move.back.v[i].id, mb);
}

/* The gradients of what is borrowed from other stages, as soon as `inst` has added to them, in the channel's order. */
static void
send_gradients(Sched *s, uint32_t inst, uint32_t mb)
{
	for (uint32_t i = 0; i < s->move.returned.n; i++) {
		const Move *v = &s->move.returned.v[i];
		bool mine = v->to == s->k && v->from != s->k, now = v->low == inst;
		for (uint32_t j = 0; mine && j < i; j++) { /* those in front hold it up */
			const Move *u = &s->move.returned.v[j];
			if (u->to != s->k || u->from != v->from) continue;
			if (u->low < inst) mine = false;
			if (u->low == inst) now = true;
		}
		if (mine && now && v->low >= inst) put_start(s, CK_return, v->id, mb);
	}
}

/* Those of what others borrowed from `inst`. Nothing else may happen where they arrive. */
static void
add_returned(Sched *s, uint32_t inst, uint32_t mb)
{
	for (uint32_t i = 0; i < s->move.returned.n; i++)
		if (s->move.returned.v[i].from == s->k &&
		    s->move.returned.v[i].producer == inst)
			put_both(s, CK_return, s->move.returned.v[i].id, mb);
}

static void
wait_busy(Sched *s, uint32_t b, uint32_t mb)
{
	if (s->busy[b]) put_wait(s, CK_grad, s->busy[b] - 1, mb);
	s->busy[b] = 0;
}

/* W, and what becomes of its gradients. */
static void
put_weights(Sched *s, uint32_t inst, const Part *p)
{
	int zero = ir_zero(s->m, inst);
	bool flat = s->x->flat_bytes[inst] != 0, each = flat && zero >= 2;
	if (each) wait_busy(s, inst % 2, p->mb);
	put_body(s, BK_W, inst, p->mb);
	if (p->last) {
		send_gradients(s, inst, p->mb);
		add_returned(s, inst, p->mb);
	}
	if (each || (flat && p->last)) put_start(s, CK_grad, inst, p->mb);
	if (each) s->busy[inst % 2] = inst + 1;
}

static void
put_backward(Sched *s, const Part *p)
{
	Gather g = find_gathers(s, true);
	uint32_t order = 0; /* the buffer that was filled last */
	gather_ahead(s, &g, 0, p->mb);
	for (uint32_t i = s->stage->first + s->stage->count; i-- > s->stage->first;) {
		wait_cotangents(s, i, p->mb);
		if (!p->first) wait_returned(s, &i, p->mb - 1);
		gather_begin(s, &g, i, p->mb);
		if (!ir_is_reshard(s->m, i)) put_body(s, BK_B, i, p->mb);
		send_cotangents(s, i, p->mb);
		if (!ir_is_reshard(s->m, i)) put_weights(s, i, p);
		gather_ahead(s, &g, 0, p->mb);
		if (s->busy[i % 2] == i + 1) order = i % 2;
	}
	wait_sent(s, p->mb);
	if (p->last) wait_returned(s, NULL, p->mb);
	wait_busy(s, !order, p->mb);
	wait_busy(s, order, p->mb);
	flush(s, true);
}

/* ---- turns ---- */

typedef struct Turn {
	bool forward, backward;
	Part f, b;
} Turn;

static Part
part(const Sched *s, uint32_t mb)
{
	return (Part){.mb = mb,
		      .first = mb == 0,
		      .last = mb + 1 == s->m->plan.microbatches,
		      .full = s->m->plan.forward_only && mb >= s->stage->slots};
}

/* What makes a turn another than its neighbours, if the stage has that. */
static uint32_t
signature(const Sched *s, const Turn *t)
{
	bool values_in = false, values_out = false, cots_in = false,
	     ends = s->move.returned.n > 0;
	for (uint32_t i = 0; i < s->move.made.n; i++) {
		bool moves = s->move.made.v[i].to != s->move.made.v[i].from;
		values_in |= moves && s->move.made.v[i].to == s->k;
		values_out |= moves && s->move.made.v[i].from == s->k;
		cots_in |= moves && s->move.made.v[i].to == s->k && s->move.made.v[i].back;
	}
	for (uint32_t i = s->stage->first; i < s->stage->first + s->stage->count; i++)
		ends |= s->x->flat_bytes[i] && ir_zero(s->m, i) < 2;
	uint32_t f = 0, b = 0;
	if (s->ahead && values_in) f |= (uint32_t)t->f.first | (uint32_t)t->f.last << 1;
	if (values_out && s->m->plan.forward_only)
		f |= (uint32_t)t->f.last << 1 | (uint32_t)t->f.full << 2;
	if (cots_in) b |= (uint32_t)t->b.first | (uint32_t)t->b.last << 1;
	if (ends) b |= (uint32_t)t->b.last << 1;
	return (t->forward ? 1 | f << 2 : 0) | (t->backward ? 2 | b << 5 : 0);
}

/* Which is turn n of a stage that is `w` microbatches ahead, of all mbs + w. */
static Turn
turn_at(const Sched *s, uint32_t n, uint32_t w)
{
	Turn t = {.forward = n < s->m->plan.microbatches,
		  .backward = !s->m->plan.forward_only && n >= w};
	if (t.forward) t.f = part(s, n);
	if (t.backward) t.b = part(s, n - w);
	return t;
}

static void
act(Module *m, ActKind kind, uint32_t count)
{
	PUSH(m->arena, m->actions, m->nactions, m->cactions,
	     ((Action){.kind = kind, .count = count}));
}

/* How many microbatches F is ahead of B. */
static uint32_t
lead(const Module *m, uint32_t stage)
{
	uint32_t mbs = m->plan.microbatches, after = m->plan.nstages - 1 - stage;
	if (m->plan.forward_only || m->plan.nstages == 1) return 0;
	if (m->plan.schedule == SCH_gpipe) return mbs;
	return after < mbs ? after : mbs - 1;
}

static void
put_turns(Sched *s)
{
	uint32_t w = lead(s->m, s->k), end = s->m->plan.microbatches, next;
	if (!s->m->plan.forward_only) end += w;
	for (uint32_t n = 0; n < end; n = next) {
		Turn t = turn_at(s, n, w);
		for (next = n + 1; next < end; next++) {
			Turn u = turn_at(s, next, w);
			if (signature(s, &u) != signature(s, &t)) break;
		}
		act(s->m, ACT_mb, next - n);
		s->held[0] = s->held[1] = 0;
		if (t.backward) post_cotangents(s, t.b.mb);
		if (t.forward) put_forward(s, &t.f);
		if (t.backward) put_backward(s, &t.b);
		act(s->m, ACT_end, 0);
	}
}

/* ---- after the last microbatch ---- */

/* N and U run for owners only. */
static bool
updates(const Sched *s, uint32_t inst, BodyKind bk)
{
	const Module *m = s->m;
	const Instance *n = &m->insts[inst];
	bool owns = false, others = false;
	if (!has_body(m, inst, bk)) return false;
	const Body *b = &m->bodies[m->types[n->type].body[bk]];
	for (uint32_t i = 0; i < b->nports; i++) {
		if (b->ports[i].kind != PORT_grad) continue;
		const Param *p = &m->params[n->params[b->ports[i].slot]];
		bool own = p->owner == inst && !p->borrows;
		owns |= own;
		others |= !own;
	}
	ENSURE(!(owns && others), "'%s' updates parameters of which it owns only some",
	       name_str(m->names, n->name));
	return owns;
}

static bool
sums_late(const Sched *s, uint32_t inst)
{
	return s->x->flat_bytes[inst] && ir_zero(s->m, inst) < 2;
}

/* In the order in which gradients are there: from the last layer on, if they are summed over ranks. */
static void
put_norms(Sched *s)
{
	uint32_t n = s->stage->count, end = s->stage->first + n;
	bool late = false;
	for (uint32_t i = s->stage->first; i < end; i++)
		late |= sums_late(s, i);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t inst = late ? end - 1 - i : s->stage->first + i;
		if (sums_late(s, inst)) put_wait(s, CK_grad, inst, s->m->plan.microbatches - 1);
		if (updates(s, inst, BK_N)) put_body(s, BK_N, inst, 0);
	}
	flush(s, late);
	act(s->m, ACT_norm, 0);
}

/* The copies other stages gave gradients back for: both ends have been through by now. And room for new values. */
static void
put_borrowed(Sched *s)
{
	for (uint32_t i = 0; i < s->move.returned.n; i++)
		if (s->move.returned.v[i].to == s->k && s->move.returned.v[i].from != s->k)
			put_wait(s, CK_return, s->move.returned.v[i].id,
				 s->m->plan.microbatches - 1);
	for (uint32_t i = 0; i < s->move.lent.n; i++)
		if (s->move.lent.v[i].to == s->k && s->move.lent.v[i].from != s->k)
			put_start(s, CK_lend, s->move.lent.v[i].id, 0);
	flush(s, false);
}

static bool
lends(const Sched *s, uint32_t inst)
{
	bool any = false;
	for (uint32_t i = 0; i < s->move.lent.n; i++)
		any |= s->move.lent.v[i].from == s->k && s->move.lent.v[i].producer == inst;
	return any;
}

/* `waited`: at once, since the values are in a buffer that is wanted again. */
static void
put_lent(Sched *s, uint32_t inst, bool waited)
{
	for (uint32_t i = 0; i < s->move.lent.n; i++) {
		if (s->move.lent.v[i].from != s->k || s->move.lent.v[i].producer != inst)
			continue;
		put_start(s, CK_lend, s->move.lent.v[i].id, 0);
		if (waited) put_wait(s, CK_lend, s->move.lent.v[i].id, 0);
	}
}

static void
put_updates(Sched *s)
{
	uint32_t first = s->stage->first, end = first + s->stage->count;
	for (uint32_t i = first; i < end; i++) {
		int zero = s->x->flat_bytes[i] ? ir_zero(s->m, i) : 0;
		if (updates(s, i, BK_U)) put_body(s, BK_U, i, 0);
		if (zero == 1 || zero == 2) put_start(s, CK_param, i, 0);
		if (!ir_zero(s->m, i)) put_lent(s, i, false);
	}
	flush(s, false);
	for (uint32_t i = first; i < end; i++) {
		int zero = s->x->flat_bytes[i] ? ir_zero(s->m, i) : 0;
		if (zero == 1 || zero == 2) put_wait(s, CK_param, i, 0);
		if (zero == 3 && lends(s, i)) put_both(s, CK_param, i, 0);
		if (ir_zero(s->m, i)) put_lent(s, i, zero == 3);
	}
	for (uint32_t i = 0; i < s->move.lent.n; i++) {
		const Move *v = &s->move.lent.v[i];
		bool waited = v->from == s->k && ir_zero(s->m, v->producer) == 3;
		if (!waited) put_wait(s, CK_lend, v->id, 0);
	}
	flush(s, false);
}

/* ---- a stage ---- */

/* A flat that is split has room for the contributions of one instance at a time. */
static void
check_shared(const Sched *s)
{
	const Module *m = s->m;
	for (uint32_t i = s->stage->first; i < s->stage->first + s->stage->count; i++)
		for (uint32_t w = 0; w < m->types[m->insts[i].type].nweights; w++) {
			uint32_t p = m->insts[i].params[w], owner = m->params[p].owner;
			ENSURE(
			    owner == i || !s->x->in_flat[p] || ir_zero(m, owner) < 2,
			    "'%s' shares '%s', whose gradients are split, without borrowing it",
			    name_str(m->names, m->insts[i].name),
			    name_str(m->names, m->params[p].name));
		}
}

static void
schedule_stage(Ctx *c, Module *m, const Module *laid, uint32_t k)
{
	Stage *stage = &m->plan.stages[k];
	uint32_t least = sched_slots(m, k);
	Sched s = {.c = c, .m = m, .x = &laid->mem[k], .stage = stage, .k = k};
	s.roll = roll_new(c, laid, k);
	s.ahead = stage->slots > least || (m->plan.schedule == SCH_gpipe && least > 1);
	s.move = moves_of_stage(m, k, c->tmp);
	check_shared(&s);
	stage->action = m->nactions;
	put_turns(&s);
	if (!m->plan.forward_only) {
		put_norms(&s);
		put_borrowed(&s);
		put_updates(&s);
	}
	stage->nactions = m->nactions - stage->action;
}

uint32_t
sched_slots(const Module *m, uint32_t stage)
{
	uint32_t w = lead(m, stage), mbs = m->plan.microbatches;
	return w < mbs ? w + 1 : mbs;
}

/* requires: LV_spmd. Loops are found on a copy of the module that is laid out as mem will do
 * it. */
bool
pass_sched(Ctx *c, Module *m)
{
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		Stage *s = &m->plan.stages[k];
		if (s->slots < sched_slots(m, k)) s->slots = sched_slots(m, k);
	}
	Module *laid = ir_clone(m, c->tmp);
	layout_module(c, laid);
	for (uint32_t k = 0; k < m->plan.nstages; k++)
		schedule_stage(c, m, laid, k);
	m->level = LV_sched;
	return true;
}
