/*
 * schedule.c - what the order of calls means for buffers that several calls write.
 *
 * Gradients need no zeroing: the first call that contributes to a parameter's gradient in the first microbatch stores,
 * every other adds (with ZeRO 2 and 3 a gradient is of one microbatch, so the first of each stores). A cotangent with
 * several uses is zeroed before its first contribution; one nobody contributes to is zero, but that of the loss is one.
 * All this is read off what happens to the first microbatch, expanded here and nowhere else.
 */
#include "codegen/cg.h"

#include <string.h>

static const Body *
body_of(const Cg *g, uint32_t inst, BodyKind bk)
{
	return &g->m->bodies[g->m->types[g->m->insts[inst].type].body[bk]];
}

void
cg_ordinals(Cg *g)
{
	const Module *m = g->m;

	g->ordinal = NEW_N(g->a, uint32_t, m->ninsts);
	g->type_insts = NEW_N(g->a, uint32_t, m->ntypes);
	g->insts_of = NEW_N(g->a, uint32_t *, m->ntypes);
	for (uint32_t n = g->stage->first; n - g->stage->first < g->stage->count; n++)
		g->ordinal[n] = g->type_insts[m->insts[n].type]++;
	for (uint32_t l = 0; l < m->ntypes; l++)
		g->insts_of[l] = NEW_N(g->a, uint32_t, g->type_insts[l]);
	for (uint32_t n = g->stage->first; n - g->stage->first < g->stage->count; n++)
		g->insts_of[m->insts[n].type][g->ordinal[n]] = n;
}

/* One action in one turn of the loop over layers around it. Its other microbatches go the way of the first. */
static void
expand_action(Cg *g, const Action *x, uint32_t turn)
{
	const Module *m = g->m;
	Call c = {x->kind, x->comm, x->bk,
		  (uint32_t)((int64_t)x->inst + (int64_t)turn * x->stride)};

	if (x->kind == ACT_body) {
		ENSURE(c.inst < m->ninsts, "an action of no instance");
		g->called[m->types[m->insts[c.inst].type].body[c.bk]] = true;
	} else if ((x->kind != ACT_start && x->kind != ACT_wait) || x->comm != CK_bwd) {
		return;
	}
	if (x->mb == 0) PUSH(g->a, g->calls, g->ncalls, g->ccalls, c);
}

static void
expand_calls(Cg *g)
{
	const Stage *s = g->stage;
	const Action *act = g->m->actions + s->action;

	g->called = NEW_N(g->a, bool, g->m->nbodies);
	if (g->m->const_body) g->called[g->m->const_body] = true;
	for (uint32_t k = 0; k < s->nactions; k++) {
		uint32_t end = k;

		if (act[k].kind != ACT_layers) {
			expand_action(g, &act[k], 0);
			continue;
		}
		while (act[end].kind != ACT_end)
			end++;
		for (uint32_t t = 0; t < act[k].count; t++)
			for (uint32_t j = k + 1; j < end; j++)
				expand_action(g, &act[j], t);
		k = end;
	}
}

/* Ports in the order their values are computed: two slots of one call may be one parameter. */
static void
order_ports(const Body *b, uint32_t *order)
{
	for (uint32_t p = 0; p < b->nports; p++) {
		uint32_t at = p;

		for (; at > 0 &&
		       b->vals[b->ports[order[at - 1]].v.i].def > b->vals[b->ports[p].v.i].def;
		     at--)
			order[at] = order[at - 1];
		order[at] = p;
	}
}

/* What is known while the calls of the first microbatch are walked. */
typedef struct Seen {
	bool *param; /* [nparams] something contributed to its gradient */
	bool *cot;   /* [ncot] something wrote or read it */
} Seen;

/* The first to read or write a cotangent: what it must be before. */
static uint8_t
first_touch(Cg *g, Seen *s, Ref r, bool writes)
{
	const Module *m = g->m;
	Ref loss = m->nreports ? m->reports[0].ref : (Ref){0};
	uint32_t k;

	if (r.kind != REF_result) return PREPARE_nothing;
	k = cot_index(g, r);
	if (s->cot[k]) return PREPARE_nothing;
	s->cot[k] = true;
	if (writes) return g->mem->cot[k].shared ? PREPARE_zero : PREPARE_nothing;
	return loss.kind == REF_result && loss.i == r.i && loss.result == r.result
		   ? PREPARE_one
		   : PREPARE_zero;
}

static void
late_ports(Cg *g, Seen *s, const Call *c)
{
	const Instance *n = &g->m->insts[c->inst];
	const Body *b = body_of(g, c->inst, c->bk);
	uint32_t *order = NEW_N(g->a, uint32_t, b->nports + 1), at = c->inst * BK_COUNT + c->bk;

	g->late[at] = NEW_N(g->a, bool, b->nports);
	g->prepare[at] = NEW_N(g->a, uint8_t, b->nports);
	order_ports(b, order);
	for (uint32_t j = 0; j < b->nports; j++) {
		uint32_t p = order[j];
		const Port *port = &b->ports[p];

		if (port->kind == PORT_dw) {
			g->late[at][p] = s->param[n->params[port->slot]];
			s->param[n->params[port->slot]] = true;
		}
		if (port->kind == PORT_cot)
			g->prepare[at][p] =
			    first_touch(g, s, (Ref){REF_result, c->inst, port->slot}, false);
		if (port->kind == PORT_dx)
			g->prepare[at][p] = first_touch(g, s, n->args[port->slot], true);
	}
}

/* The two ends of a cotangent's way between meshes, where they are in this stage. */
static void
late_reshard(Cg *g, Seen *s, const Call *c)
{
	Ref from = g->m->insts[c->inst].args[0];

	if (c->kind == ACT_start && cg_is_here(g, c->inst))
		g->prepare_bwd[c->inst] =
		    first_touch(g, s, (Ref){REF_result, c->inst, 0}, false);
	if (c->kind == ACT_wait && cg_is_here(g, from.i))
		g->prepare_back[c->inst] = first_touch(g, s, from, true);
}

static void
find_late(Cg *g)
{
	const Module *m = g->m;
	Seen s = {NEW_N(g->a, bool, m->nparams + 1), NEW_N(g->a, bool, g->mem->ncot + 1)};

	g->late = NEW_N(g->a, bool *, m->ninsts *BK_COUNT);
	g->prepare = NEW_N(g->a, uint8_t *, m->ninsts * BK_COUNT);
	g->prepare_bwd = NEW_N(g->a, uint8_t, m->ninsts);
	g->prepare_back = NEW_N(g->a, uint8_t, m->ninsts);
	for (uint32_t k = 0; k < g->ncalls; k++)
		if (g->calls[k].kind == ACT_body)
			late_ports(g, &s, &g->calls[k]);
		else
			late_reshard(g, &s, &g->calls[k]);
	g->contributes = s.param;
}

/* ---- modes ---- */

static bool
written_by_earlier(const Body *b, uint32_t p)
{
	for (uint32_t q = 0; q < b->nports; q++) {
		PortKind k = b->ports[q].kind;

		if (q == p || b->ports[q].v.i != b->ports[p].v.i) continue;
		if (k == PORT_out && b->ports[p].kind == PORT_save) return true;
		if (q < p && k == b->ports[p].kind && (k == PORT_out || k == PORT_save))
			return true;
	}
	return false;
}

/* How many instances of the body's type are of a kind: none, some, all. */
static void
dx_mode(Cg *g, uint32_t type, const Port *port, PortMode *mode)
{
	uint32_t shared = 0, inputs = 0, n = g->type_insts[type];

	for (uint32_t k = 0; k < n; k++) {
		Ref r = g->m->insts[g->insts_of[type][k]].args[port->slot];

		inputs += r.kind != REF_result;
		shared += r.kind == REF_result && g->mem->cot[cot_index(g, r)].shared;
	}
	if (inputs == n) return; /* an input has no gradient */
	if (inputs && spare_cot(g, type, port->slot).kind == REF_none)
		cg_error(g, g->m->insts[g->insts_of[type][0]].loc,
			 "some calls of '%s' take an input where others take a result; the "
			 "host target cannot tell them apart yet",
			 name_str(g->m->names, g->m->types[type].name));
	mode->mode = shared == 0 ? STORE_set : shared == n ? STORE_add : STORE_flag;
	mode->own_flag = mode->mode == STORE_flag;
}

static void
dw_mode(const Cg *g, uint32_t type, BodyKind bk, uint32_t p, PortMode *mode)
{
	uint32_t late = 0, each = 0, n = 0;
	uint16_t slot = g->m->bodies[g->m->types[type].body[bk]].ports[p].slot;

	for (uint32_t k = 0; k < g->type_insts[type]; k++) {
		uint32_t inst = g->insts_of[type][k];
		const bool *x = g->late[inst * BK_COUNT + bk];

		if (!x) continue;
		n++;
		late += x[p];
		each += cg_in_dwork(g, g->m->insts[inst].params[slot]);
	}
	if (late == n && n) {
		mode->mode = STORE_add;
	} else if (late || (each && each < n)) {
		*mode = (PortMode){STORE_flag, true};
	} else {
		mode->mode = g->m->plan.microbatches > 1 && !each ? STORE_flag : STORE_set;
	}
}

static void
find_modes(Cg *g, uint32_t type, BodyKind bk, uint32_t body)
{
	const Module *m = g->m;
	const Body *b = &m->bodies[body];
	const LayerType *l = bk == BK_const ? NULL : &m->types[type];

	g->modes[body] = NEW_N(g->a, PortMode, b->nports);
	for (uint32_t p = 0; p < b->nports; p++) {
		const Port *port = &b->ports[p];
		PortMode *mode = &g->modes[body][p];

		mode->mode = STORE_none;
		switch (port->kind) {
		case PORT_out:
			if (!l || (l->out_at[port->slot] >= 0 && !written_by_earlier(b, p)))
				mode->mode = STORE_set;
			break;
		case PORT_save:
			if (l->saved_at[port->slot] >= 0 && !written_by_earlier(b, p))
				mode->mode = STORE_set;
			break;
		case PORT_carry_out: mode->mode = STORE_set; break;
		case PORT_norm: mode->mode = STORE_add; break;
		case PORT_dx: dx_mode(g, type, port, mode); break;
		case PORT_dw: dw_mode(g, type, bk, p, mode); break;
		default: break;
		}
	}
}

void
cg_schedule(Cg *g)
{
	const Module *m = g->m;

	expand_calls(g);
	find_late(g);
	g->modes = NEW_N(g->a, PortMode *, m->nbodies);
	for (uint32_t l = 0; l < m->ntypes; l++)
		for (int k = 0; k < BK_COUNT; k++)
			if (g->called[m->types[l].body[k]] && m->types[l].body[k])
				find_modes(g, l, (BodyKind)k, m->types[l].body[k]);
	if (m->const_body) find_modes(g, 0, BK_const, m->const_body);
	for (uint32_t b = 1; b < m->nbodies; b++)
		if (!g->called[b]) g->body_name[b] = NULL;
}
