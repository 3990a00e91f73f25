/*
 * address.c - where in the arena the ports of an instance are, from the tables of level mem.
 *
 * A body knows none of this; the wrapper around it (host.c) passes addresses. Results that are an argument handed on
 * and saved values kept by another buffer are followed to the buffer that holds them.
 */
#include "codegen/cg.h"

#include <inttypes.h>

bool
cg_is_here(const Cg *g, uint32_t inst)
{
	return inst - g->stage->first < g->stage->count;
}

bool
cg_in_flat(const Cg *g, uint32_t param)
{
	return g->mem->in_flat && g->mem->in_flat[param];
}

bool
cg_in_dwork(const Cg *g, uint32_t param)
{
	return cg_in_flat(g, param) &&
	       ir_flat_split(ir_zero(g->m, g->m->params[param].owner), SEC_grad);
}

/* Sections have their own sizes only where ZeRO splits some of them. */
int64_t
cg_section_bytes(const Cg *g, Section sec)
{
	const Memory *mem = g->mem;

	if (mem->sec[sec] < 0) return 0;
	return mem->sec_bytes[mem->sec_bytes[sec] ? sec : SEC_param];
}

static const Area area_of[SEC_COUNT] = {
    [SEC_param] = IN_param, [SEC_grad] = IN_grad, [SEC_m] = IN_m, [SEC_v] = IN_v};

Where
where_flat(const Cg *g, uint32_t inst, Section sec)
{
	return (Where){area_of[sec], g->mem->flat_at[sec][inst]};
}

/* Weights that are gathered, and gradients of one microbatch, take turns in a pair of buffers. */
Where
where_param(const Cg *g, uint32_t param, Section sec)
{
	const Memory *mem = g->mem;
	uint32_t owner = g->m->params[param].owner;
	int64_t at = mem->param_at[param], turn = owner % 2;

	if (!cg_in_flat(g, param)) return (Where){area_of[sec], at};
	if (!ir_flat_split(ir_zero(g->m, owner), sec)) {
		at += mem->flat_at[sec][owner];
		return (Where){area_of[sec], at};
	}
	if (sec == SEC_param) return (Where){IN_gather, turn * mem->gather_bytes + at};
	ENSURE(sec == SEC_grad, "the moments of a parameter are nowhere whole");
	return (Where){IN_dwork, turn * mem->dwork_bytes + at};
}

static const Body *
forward_of(const Cg *g, uint32_t inst)
{
	const LayerType *l = &g->m->types[g->m->insts[inst].type];

	ENSURE(l->body[BK_F], "an instance without a forward body");
	return &g->m->bodies[l->body[BK_F]];
}

/* The buffer of an in-port that F hands on as a result or saves without a copy. */
static Where
where_passed(const Cg *g, uint32_t inst, PortKind kind, uint16_t slot)
{
	const Body *f = forward_of(g, inst);
	const Port *out = ir_find_port(f, kind, slot);
	Access x;

	ENSURE(out, "%s %u has no port", port_str[kind], slot);
	x.base = out->v;
	if (f->vals[out->v.i].def)
		ENSURE(ir_access(g->m, f, out->v, &x) && x.offset == 0,
		       "a result is kept by no buffer");
	for (uint32_t p = 0; p < f->nports; p++)
		if (port_is_in(f->ports[p].kind) && f->ports[p].v.i == x.base.i)
			return where_port(g, inst, f, &f->ports[p]);
	ICE("a result is kept by no buffer");
}

Where
where_ref(const Cg *g, Ref r)
{
	const Memory *mem = g->mem;

	if (r.kind == REF_none) return (Where){IN_none, 0};
	if (r.kind == REF_input) return (Where){IN_slot, mem->input_at[r.i]};
	const LayerType *l = &g->m->types[g->m->insts[r.i].type];

	if (l->out_at[r.result] < 0) return where_passed(g, r.i, PORT_out, r.result);
	return (Where){IN_slot, mem->slot_at[r.i] + l->out_at[r.result]};
}

uint32_t
cot_index(const Cg *g, Ref r)
{
	return g->mem->cot_of[r.i] + r.result;
}

Where
where_cot(const Cg *g, Ref r)
{
	const Cot *c;

	if (r.kind != REF_result || !g->mem->cot_of) return (Where){IN_none, 0};
	c = &g->mem->cot[cot_index(g, r)];
	return (Where){IN_cots, c->at + (r.i & 1 ? c->alt : 0)};
}

Ref
spare_cot(const Cg *g, uint32_t type, uint16_t slot)
{
	for (uint32_t k = 0; k < g->type_insts[type]; k++) {
		Ref r = g->m->insts[g->insts_of[type][k]].args[slot];

		if (r.kind == REF_result && g->mem->cot[cot_index(g, r)].alt) return r;
	}
	return (Ref){0};
}

/* An instance whose argument is an input drops that gradient: it goes to the buffer of the pair whose turn it would be. */
static Where
where_dx(const Cg *g, uint32_t inst, uint16_t slot)
{
	Ref r = g->m->insts[inst].args[slot];
	const Cot *c;

	if (r.kind == REF_result) return where_cot(g, r);
	r = spare_cot(g, g->m->insts[inst].type, slot);
	if (r.kind != REF_result) return (Where){IN_none, 0};
	c = &g->mem->cot[cot_index(g, r)];
	return (Where){IN_cots, c->at + (inst & 1 ? 0 : c->alt)};
}

static Where
where_saved(const Cg *g, uint32_t inst, uint16_t slot)
{
	const LayerType *l = &g->m->types[g->m->insts[inst].type];

	if (l->saved_at[slot] < 0) return where_passed(g, inst, PORT_save, slot);
	return (Where){IN_slot, g->mem->slot_at[inst] + l->saved_at[slot]};
}

/* State that a body sees a range of: where what the rank has of the flat begins. */
static Where
where_state(const Cg *g, uint32_t param, Section sec, const Body *b, const Port *p)
{
	if (b->vals[p->v.i].type.flat) return where_flat(g, g->m->params[param].owner, sec);
	return where_param(g, param, sec);
}

Where
where_port(const Cg *g, uint32_t inst, const Body *b, const Port *p)
{
	const Module *m = g->m;
	const Memory *mem = g->mem;
	const Instance *n = &m->insts[inst];
	const LayerType *l = &m->types[n->type];

	if (b->kind == BK_const) return (Where){IN_consts, mem->const_at[p->slot]};
	switch (p->kind) {
	case PORT_arg: return where_ref(g, n->args[p->slot]);
	case PORT_const: return (Where){IN_consts, mem->const_at[p->slot]};
	case PORT_weight:
	case PORT_w_out: return where_state(g, n->params[p->slot], SEC_param, b, p);
	case PORT_grad:
	case PORT_dw: return where_state(g, n->params[p->slot], SEC_grad, b, p);
	case PORT_m:
	case PORT_m_out: return where_state(g, n->params[p->slot], SEC_m, b, p);
	case PORT_v:
	case PORT_v_out: return where_state(g, n->params[p->slot], SEC_v, b, p);
	case PORT_saved:
	case PORT_save: return where_saved(g, inst, p->slot);
	case PORT_out: return where_ref(g, (Ref){REF_result, inst, p->slot});
	case PORT_cot: return where_cot(g, (Ref){REF_result, inst, p->slot});
	case PORT_dx: return where_dx(g, inst, p->slot);
	case PORT_carry:
	case PORT_carry_out:
		if (l->carry_at[p->slot] < 0)
			return where_saved(g, inst, (uint16_t)(-1 - l->carry_at[p->slot]));
		return (Where){IN_carry, l->carry_at[p->slot]};
	default: return (Where){IN_none, 0};
	}
}

/* The value sampling reads: a port of its own names it; else it is what cross_entropy is given. */
static Val
logits_of(const Body *f)
{
	const Port *p = ir_find_port(f, PORT_logits, 0);

	if (p) return p->v;
	for (uint32_t k = 0; k < f->nops; k++)
		if (f->ops[k].code == OP_cross_entropy) return f->ops[k].in[0];
	return NO_VAL;
}

int64_t
where_logits(const Cg *g, const Type **type, const Mesh **mesh)
{
	const Module *m = g->m;

	for (uint32_t inst = m->ninsts; inst-- > 0;) {
		const Body *f = forward_of(g, inst);
		Val v = logits_of(f);

		if (!v.i || !cg_is_here(g, inst)) continue;
		*type = &f->vals[v.i].type;
		*mesh = ir_mesh(m, f);
		for (uint32_t p = 0; p < f->nports; p++) {
			Where w;

			if (f->ports[p].v.i != v.i ||
			    (f->ports[p].kind != PORT_save && f->ports[p].kind != PORT_out))
				continue;
			w = where_port(g, inst, f, &f->ports[p]);
			return w.in == IN_slot ? w.at : -1;
		}
		if (f->vals[v.i].space == SP_scratch)
			return g->mem->scratch + f->vals[v.i].offset - g->mem->slots;
		return -1;
	}
	return -1;
}

/* ---- text ---- */

static const char *const section_name[] = {
    [IN_param] = "GV_PARAMS", [IN_grad] = "GV_GRADS",    [IN_m] = "GV_MOMENT1",
    [IN_v] = "GV_MOMENT2",    [IN_consts] = "GV_CONSTS", [IN_slot] = "SLOT(mb)",
    [IN_cots] = "GV_COTS",    [IN_gather] = "GV_GATHER", [IN_dwork] = "GV_DWORK",
    [IN_carry] = "GV_CARRY",  [IN_work] = "GV_SCRATCH",
};

static int64_t
section_start(const Cg *g, Area s)
{
	const Memory *mem = g->mem;
	const int64_t at[] = {[IN_none] = 0,
			      [IN_param] = mem->sec[SEC_param],
			      [IN_grad] = mem->sec[SEC_grad],
			      [IN_m] = mem->sec[SEC_m],
			      [IN_v] = mem->sec[SEC_v],
			      [IN_consts] = mem->consts,
			      [IN_slot] = mem->slots,
			      [IN_cots] = mem->cots,
			      [IN_gather] = mem->gather,
			      [IN_dwork] = mem->dwork,
			      [IN_carry] = mem->carry,
			      [IN_work] = mem->scratch};

	return at[s];
}

const char *
address_text(Cg *g, const char *ctype, const Where *where, uint32_t n, const char *hint,
	     bool *varies)
{
	int64_t *at = NEW_N(g->a, int64_t, n);
	bool one = true;
	const char *x;
	Area in = where[0].in;

	for (uint32_t k = 0; k < n; k++) {
		at[k] = where[k].at;
		one &= where[k].in == in;
	}
	if (!one) { /* in several sections: count from the start of the arena */
		for (uint32_t k = 0; k < n; k++) {
			ENSURE(where[k].in != IN_slot || g->stage->slots <= 1,
			       "an address is in a slot or not by turns");
			at[k] += section_start(g, where[k].in);
		}
		return cg_text(g->a, "AT(%s, %s)", ctype, seq_expr(g, at, n, hint, varies));
	}
	if (in == IN_none) return "NULL";
	x = seq_expr(g, at, n, hint, varies);
	return cg_text(g->a, x[0] == '0' && !x[1] ? "AT(%s, %s)" : "AT(%s, %s + %s)", ctype,
		       in == IN_slot && g->stage->slots <= 1 ? "GV_SLOTS" : section_name[in],
		       x);
}
