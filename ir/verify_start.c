/*
 * verify_start.c - communication as its ranks see it in memory: what a start must find, what a wait leaves behind.
 *
 * Between the two what is sent must stay, and what is received, or summed in place, is on its way and nobody's: a list of
 * ranges is held. That messages find their other half is the business of verify_comm.c.
 */
#include "ir/flow.h"

#include <inttypes.h>

/* Holds what it must until the wait; `then` is there after it. */
static bool
hold(Game *g, Proc *p, Request *q, Place x, Content then)
{
	Content flight = {HOLDS_flight, q->id, 0, 0, 0, 0};

	if (x.hi <= x.lo) return true;
	if (x.c.what != HOLDS_nothing && !shadow_holds(g, p, x.lo, x.hi, &x.c, "sends"))
		return false;
	PUSH(g->f.v->tmp, q->held, q->nheld, q->cheld,
	     ((Held){.lo = x.lo, .hi = x.hi, .c = x.c, .then = then}));
	if (then.what == HOLDS_nothing) return true;
	q->held[q->nheld - 1].c = flight;
	return shadow_leave(g, p, x.lo, x.hi, flight);
}

static const Content stays = {.what = HOLDS_nothing}, spent = {.what = HOLDS_spent};

static Place
into(Place x, int64_t shift)
{
	x.c = (Content){.what = HOLDS_nothing};
	x.lo += shift;
	x.hi += shift;
	return x;
}

static int64_t
port_bytes(const Game *g, uint32_t inst, BodyKind k, PortKind kind)
{
	uint32_t type = g->f.m->insts[inst].type;
	const Body *b = &g->f.m->bodies[g->f.m->types[type].body[k]];

	for (uint32_t i = 0; i < b->nports; i++)
		if (b->ports[i].kind == kind) return g->f.type[type].bytes[k][i];
	return 0;
}

static bool
start_fwd(Game *g, Proc *p, const Step *s, Request *q, const Prim *prim)
{
	const Instance *n = &g->f.m->insts[s->a.inst];
	const TypeFacts *t = &g->f.type[n->type];
	Place x;

	if (p->stage == prim->from.stage) {
		uint32_t from = n->args[0].i;

		x = place_arg(g, p, s, n->args[0], port_bytes(g, s->a.inst, BK_F, PORT_arg));
		if (!in_stage(g, p, from) || !hold(g, p, q, x, stays)) return false;
	}
	if (p->stage != prim->to.stage) return true;
	x = place_at(slot_base(g, p, s) + p->x->slot_at[s->a.inst] + t->out_at[0],
		     port_bytes(g, s->a.inst, BK_F, PORT_out), stays);
	p->done[BK_F][s->a.inst]++;
	return hold(
	    g, p, q, into(x, s->shift),
	    (Content){HOLDS_frame, s->a.inst, t->out_val[0], s->a.mb, 0, x.lo + s->shift});
}

static bool
start_bwd(Game *g, Proc *p, const Step *s, Request *q, const Prim *prim)
{
	Ref ref = g->f.m->insts[s->a.inst].args[0];
	uint64_t sum = flow_hash(CONTRIB_dx, s->a.inst, 0, 0);
	Place x;
	Content then;

	if (p->stage == prim->from.stage) {
		x = place_cot(g, p, s, s->a.inst, 0, port_bytes(g, s->a.inst, BK_B, PORT_cot));
		if (!hold(g, p, q, x, stays)) return false;
	}
	if (p->stage != prim->to.stage) return true;
	p->done[BK_B][s->a.inst]++;
	x = place_cot(g, p, s, ref.i, ref.result, port_bytes(g, s->a.inst, BK_B, PORT_dx));
	then = x.c;
	then.sum = sum;
	if (x.lo < 0) return game_wrong(g, p, "brings a cotangent that has no place");
	if (!p->x->cot[p->x->cot_of[ref.i] + ref.result].shared) {
		then.at += s->shift;
		return hold(g, p, q, into(x, s->shift), then);
	}
	if (p->x->back_at[s->a.inst] < 0)
		return game_wrong(g, p, "brings a part of a cotangent that has no place");
	then.sum = sum;
	{
		int64_t to = x.lo, bytes = x.hi - x.lo;

		x = place_at(p->x->cots + p->x->back_at[s->a.inst], bytes, stays);
		if (!hold(g, p, q, into(x, s->shift), then)) return false;
		q->held[q->nheld - 1].add = true;
		q->held[q->nheld - 1].to_lo = to;
	}
	return true;
}

/* All that is between the first and the last byte of a flat, or a range of it, is on its way. */
static bool
hold_flat(Game *g, Proc *p, Request *q, int64_t lo, int64_t bytes)
{
	return hold(g, p, q, place_at(lo, bytes, stays), spent);
}

static bool
start_param(Game *g, Proc *p, const Step *s, Request *q)
{
	const Flat *f = g->f.flat[s->a.inst];
	uint32_t parity = s->a.inst % 2;
	int64_t lo;

	if (!f || !in_stage(g, p, s->a.inst))
		return game_wrong(g, p, "there is no flat to gather");
	if (s->shift) return game_wrong(g, p, "gathers %" PRId64 " bytes off", s->shift);
	for (uint32_t i = 0; i < f->n; i++) {
		Content c = param_content(g, HOLDS_param, f->param[i],
					  param_version(g, p, f->param[i]));
		Place x = place_state(g, p, f->param[i], SEC_param, true, c);

		if (f->zero == 3 ? !hold(g, p, q, x, stays)
				 : !shadow_holds(g, p, x.lo, x.hi, &x.c, "gathers"))
			return false;
	}
	lo = f->zero == 3 ? p->x->gather + parity * p->x->gather_bytes
			  : p->x->sec[SEC_param] + p->x->flat_at[SEC_param][s->a.inst];
	if (!hold_flat(g, p, q, lo, f->bytes)) return false;
	for (uint32_t i = 0; i < f->n; i++) {
		Content c = param_content(g, HOLDS_param, f->param[i],
					  param_version(g, p, f->param[i]));

		c.at = lo + f->at[i];
		PUSH(g->f.v->tmp, q->held, q->nheld, q->cheld,
		     ((Held){.lo = lo + f->at[i],
			     .hi = lo + f->at[i] + f->size[i],
			     .c = {HOLDS_spent, 0, 0, 0, 0, 0},
			     .then = c}));
	}
	return true;
}

/* ZeRO 0, 1: in place, after the last microbatch. */
static bool
start_grad_once(Game *g, Proc *p, const Step *s, Request *q, const Flat *f)
{
	int64_t lo = p->x->sec[SEC_grad] + p->x->flat_at[SEC_grad][s->a.inst];

	for (uint32_t i = 0; i < f->n; i++) {
		Content c = {HOLDS_grad, f->param[i], 0, 0, flow_grad_sum(&g->f, f->param[i]),
			     0};
		Place x = place_state(g, p, f->param[i], SEC_grad, false, c);

		if (!shadow_holds(g, p, x.lo, x.hi, &x.c, "sums")) return false;
	}
	if (!hold_flat(g, p, q, lo, f->bytes)) return false;
	for (uint32_t i = 0; i < f->n; i++) {
		Content c = grad_content(g, f->param[i]);
		Place x = place_state(g, p, f->param[i], SEC_grad, f->zero > 0, c);

		if (x.hi <= x.lo) continue;
		PUSH(g->f.v->tmp, q->held, q->nheld, q->cheld,
		     ((Held){.lo = x.lo, .hi = x.hi, .c = spent, .then = x.c}));
	}
	return true;
}

/* ZeRO 2, 3: of every microbatch, added to this rank's range. */
static bool
start_grad_each(Game *g, Proc *p, const Step *s, Request *q, const Flat *f)
{
	int64_t lo = p->x->dwork + s->a.inst % 2 * p->x->dwork_bytes;

	for (uint32_t i = 0; i < f->n; i++) {
		uint32_t w = f->param[i];
		Content c = {HOLDS_part, w, 0, s->a.mb, flow_part_sum(&g->f, w, s->a.mb), 0};
		Place x;

		if (s->a.mb + 1 == g->f.m->plan.microbatches) c.sum += flow_returns(&g->f, w);
		x = place_buffer(g, p, w, true, c);
		if (g->f.user0[w] == g->f.user0[w + 1] && !flow_returns(&g->f, w)) continue;
		if (!shadow_holds(g, p, x.lo, x.hi, &x.c, "sums")) return false;
	}
	if (!hold_flat(g, p, q, lo, f->bytes)) return false;
	for (uint32_t i = 0; i < f->n; i++) {
		uint32_t w = f->param[i];
		Content c = {HOLDS_reduced, w, 0, 0, 0, 0};
		Place x = place_state(g, p, w, SEC_grad, true, c);

		if (x.hi <= x.lo) continue;
		c = p->shadow.e[shadow_find(&p->shadow, x.lo)].c;
		x.c.sum = c.sum;
		if (!content_equal(&x.c, &c)) x.c.sum = 0;
		c = x.c;
		c.sum +=
		    flow_hash(CONTRIB_reduced, flow_part_sum(&g->f, w, s->a.mb), s->a.mb, 0);
		if (!hold(g, p, q, x, c)) return false;
	}
	return true;
}

static bool
start_grad(Game *g, Proc *p, const Step *s, Request *q)
{
	const Flat *f = g->f.flat[s->a.inst];

	if (!f || !in_stage(g, p, s->a.inst))
		return game_wrong(g, p, "there is no flat to sum");
	if (s->shift) return game_wrong(g, p, "sums %" PRId64 " bytes off", s->shift);
	return f->zero >= 2 ? start_grad_each(g, p, s, q, f) : start_grad_once(g, p, s, q, f);
}

static bool
start_lend(Game *g, Proc *p, const Step *s, Request *q, const Prim *prim)
{
	uint32_t owner = g->f.owner[s->a.inst];
	Content c = param_content(g, HOLDS_param, owner, 1);

	if (p->stage == prim->from.stage) {
		Place x = param_zero(g, owner) == 3
			      ? place_buffer(g, p, owner, false, c)
			      : place_state(g, p, owner, SEC_param, false, c);

		if (!hold(g, p, q, x, stays)) return false;
	}
	if (p->stage != prim->to.stage) return true;
	{
		Place x = place_state(g, p, s->a.inst, SEC_param, false, c);

		c = x.c;
		c.at += s->shift;
		return hold(g, p, q, into(x, s->shift), c);
	}
}

static bool
start_return(Game *g, Proc *p, const Step *s, Request *q, const Prim *prim)
{
	uint32_t owner = g->f.owner[s->a.inst];

	if (p->stage == prim->from.stage) {
		Content c = {HOLDS_grad, s->a.inst, 0, 0, flow_grad_sum(&g->f, s->a.inst), 0};
		Place x = place_state(g, p, s->a.inst, SEC_grad, false, c);

		if (!hold(g, p, q, x, spent)) return false;
	}
	if (p->stage == prim->to.stage) {
		bool part = param_zero(g, owner) >= 2;
		Content c = {part ? HOLDS_part : HOLDS_grad,
			     owner,
			     0,
			     part ? s->a.mb : 0,
			     flow_hash(CONTRIB_return, s->a.inst, 0, 0),
			     0};
		Place to = part ? place_buffer(g, p, owner, true, c)
				: place_state(g, p, owner, SEC_grad, false, c);
		Place x = place_at(p->x->scratch, to.hi - to.lo, stays);

		if (!hold(g, p, q, into(x, s->shift), to.c)) return false;
		q->held[q->nheld - 1].add = true;
		q->held[q->nheld - 1].to_lo = to.lo;
	}
	return true;
}

bool
proc_start(Game *g, Proc *p, const Step *s, Request *q)
{
	Prim prim[MAX_PRIMS];
	uint32_t n = ir_prims(g->f.m, &g->f.comms, p->stage, s->a.comm, s->a.inst, prim);

	if (!n) return game_wrong(g, p, "has nothing to do in this stage");
	switch (s->a.comm) {
	case CK_fwd: return start_fwd(g, p, s, q, &prim[0]);
	case CK_bwd: return start_bwd(g, p, s, q, &prim[0]);
	case CK_param: return start_param(g, p, s, q);
	case CK_grad: return start_grad(g, p, s, q);
	case CK_lend: return start_lend(g, p, s, q, &prim[n - 1]);
	case CK_return: return start_return(g, p, s, q, &prim[n - 1]);
	case CK_COUNT: break;
	}
	return false;
}

/* All has been sent and received: what was held is free, what was on its way is there. */
bool
proc_finish(Game *g, Proc *p, Request *q)
{
	for (uint32_t i = 0; i < q->nheld && g->ok; i++) {
		const Held *h = &q->held[i];

		if (!shadow_holds(g, p, h->lo, h->hi, &h->c,
				  h->c.what == HOLDS_flight ? "was to find" : "sent"))
			return false;
		if (h->then.what == HOLDS_nothing) continue;
		if (h->add) {
			Content to = h->then;

			to.sum = 0;
			shadow_leave(g, p, h->lo, h->hi, spent);
			shadow_add(g, p, h->to_lo, h->to_lo + (h->hi - h->lo), to, h->then.sum,
				   h->then.what != HOLDS_grad);
		} else {
			shadow_leave(g, p, h->lo, h->hi, h->then);
		}
	}
	return g->ok;
}
