/*
 * schedule.c - what the order of calls means for buffers that several calls write.
 *
 * Gradients need no zeroing: the first call that contributes to a parameter's gradient in the first microbatch stores,
 * every other adds. A cotangent with several uses is zeroed before its first contribution; one nobody contributes to is
 * zero, but that of the loss is one. All this is read off the schedule of one microbatch, expanded here and nowhere else.
 */
#include "codegen/cg.h"

#include <string.h>

static const Body *
body_of(const Cg *g, uint32_t inst, BodyKind bk)
{
	return &g->m->bodies[g->m->types[g->m->insts[inst].type].body[bk]];
}

static void
count_ordinals(Cg *g)
{
	const Module *m = g->m;

	g->ordinal = NEW_N(g->a, uint32_t, m->ninsts);
	g->type_insts = NEW_N(g->a, uint32_t, m->ntypes);
	g->insts_of = NEW_N(g->a, uint32_t *, m->ntypes);
	for (uint32_t n = 0; n < m->ninsts; n++)
		g->ordinal[n] = g->type_insts[m->insts[n].type]++;
	for (uint32_t l = 0; l < m->ntypes; l++)
		g->insts_of[l] = NEW_N(g->a, uint32_t, g->type_insts[l]);
	for (uint32_t n = 0; n < m->ninsts; n++)
		g->insts_of[m->insts[n].type][g->ordinal[n]] = n;
}

static void
expand_calls(Cg *g)
{
	const Module *m = g->m;
	const Stage *s = &m->plan.stages[0];

	g->called = NEW_N(g->a, bool, m->nbodies);
	if (m->const_body) g->called[m->const_body] = true;
	for (uint32_t k = 0; k < s->nactions; k++) {
		const Action *a = &m->actions[s->action + k];
		uint32_t turns = 1, end = k + 1;

		if (a->kind == ACT_layers) {
			turns = a->count;
			while (end < s->nactions && m->actions[s->action + end].kind != ACT_end)
				end++;
			k++;
		} else if (a->kind != ACT_body) {
			continue;
		}
		for (uint32_t t = 0; t < turns; t++)
			for (uint32_t j = k; j < end; j++) {
				const Action *x = &m->actions[s->action + j];
				Call c = {(uint32_t)((int64_t)x->inst + (int64_t)t * x->stride),
					  x->bk};

				ENSURE(x->kind == ACT_body && c.inst < m->ninsts,
				       "a loop over layers holds something else than bodies");
				PUSH(g->a, g->calls, g->ncalls, g->ccalls, c);
				g->called[m->types[m->insts[c.inst].type].body[c.bk]] = true;
			}
		k = end > k ? end - (a->kind == ACT_body) : k;
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

static void
find_late(Cg *g)
{
	const Module *m = g->m;
	bool *param = NEW_N(g->a, bool, m->nparams + 1),
	     *cot = NEW_N(g->a, bool, m->mem[0].ncot + 1);
	Ref loss = m->nreports ? m->reports[0].ref : (Ref){0};

	g->late = NEW_N(g->a, bool *, m->ninsts *BK_COUNT);
	g->prepare = NEW_N(g->a, uint8_t *, m->ninsts * BK_COUNT);
	for (uint32_t k = 0; k < g->ncalls; k++) {
		const Call *c = &g->calls[k];
		const Instance *n = &m->insts[c->inst];
		const Body *b = body_of(g, c->inst, c->bk);
		uint32_t *order = NEW_N(g->a, uint32_t, b->nports + 1),
			 at = c->inst * BK_COUNT + c->bk;

		g->late[at] = NEW_N(g->a, bool, b->nports);
		g->prepare[at] = NEW_N(g->a, uint8_t, b->nports);
		order_ports(b, order);
		for (uint32_t j = 0; j < b->nports; j++) {
			uint32_t p = order[j];
			const Port *port = &b->ports[p];
			Ref r = {REF_result, c->inst, port->slot};

			if (port->kind == PORT_dw) {
				g->late[at][p] = param[n->params[port->slot]];
				param[n->params[port->slot]] = true;
			}
			if (port->kind == PORT_dx) r = n->args[port->slot];
			if ((port->kind != PORT_cot && port->kind != PORT_dx) ||
			    r.kind != REF_result || cot[cot_index(g, r)])
				continue;
			cot[cot_index(g, r)] = true;
			if (port->kind == PORT_dx)
				g->prepare[at][p] = m->mem[0].cot[cot_index(g, r)].shared
							? PREPARE_zero
							: PREPARE_nothing;
			else
				g->prepare[at][p] = loss.kind == REF_result && loss.i == r.i &&
							    loss.result == r.result
							? PREPARE_one
							: PREPARE_zero;
		}
	}
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
		shared += r.kind == REF_result && g->m->mem[0].cot[cot_index(g, r)].shared;
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
	uint32_t late = 0, n = 0;

	for (uint32_t k = 0; k < g->type_insts[type]; k++) {
		const bool *x = g->late[g->insts_of[type][k] * BK_COUNT + bk];

		if (!x) continue;
		n++;
		late += x[p];
	}
	if (late == n && n) {
		mode->mode = STORE_add;
	} else if (late) {
		*mode = (PortMode){STORE_flag, true};
	} else {
		mode->mode = g->m->plan.microbatches > 1 ? STORE_flag : STORE_set;
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

	count_ordinals(g);
	expand_calls(g);
	find_late(g);
	g->modes = NEW_N(g->a, PortMode *, m->nbodies);
	for (uint32_t l = 0; l < m->ntypes; l++)
		for (int k = 0; k < BK_COUNT; k++)
			if (m->types[l].body[k])
				find_modes(g, l, (BodyKind)k, m->types[l].body[k]);
	if (m->const_body) find_modes(g, 0, BK_const, m->const_body);
	for (uint32_t b = 1; b < m->nbodies; b++)
		if (!g->called[b]) g->body_name[b] = NULL;
}
