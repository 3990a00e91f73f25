/*
 * verify_flow.c - facts the proof of a schedule stands on: where values are, who adds to what.
 *
 * Input: a module of level sched or mem whose bodies and instances were found right. Above level mem every buffer gets
 * bytes of its own, so that the same proof runs on it.
 * A sum is known by its contributions: a number for each, added up, in whatever order they come.
 */
#include "ir/flow.h"

uint64_t
flow_hash(uint64_t what, uint64_t i, uint64_t k, uint64_t mb)
{
	const uint64_t x[] = {what, i, k, mb};

	return hash_bytes(x, sizeof(x), 0) | 1;
}

/* ---- layer types ---- */

/* Where each value's bytes are: a view without a buffer is where its operand is. */
static uint32_t *
find_bases(const Flow *f, const Body *b)
{
	uint32_t *base = NEW_N(f->v->tmp, uint32_t, (size_t)b->nvals + 1);

	for (uint32_t i = 0; i < b->nvals; i++)
		base[i] = i;
	for (uint32_t o = 0; o < b->nops; o++) {
		uint32_t i = b->ops[o].out[0].i;

		if (i && b->vals[i].space == SP_alias && b->ops[o].nin)
			base[i] = base[b->ops[o].in[0].i];
	}
	return base;
}

/* In-ports whose buffers other values take over. */
static bool *
find_spent(const Flow *f, const Body *b)
{
	bool *spent = NEW_N(f->v->tmp, bool, (size_t)b->nports + 1);

	for (uint32_t o = 0; o < b->nops; o++)
		for (int r = 0; r < b->ops[o].nout; r++) {
			uint32_t i = b->ops[o].out[r].i;

			if (!i || !b->vals[i].over.i || b->vals[i].space == SP_local) continue;
			while (b->vals[i].over.i)
				i = b->vals[i].over.i;
			for (uint32_t p = 0; p < b->nports; p++)
				if (port_is_in(b->ports[p].kind) && b->ports[p].v.i == i)
					spent[p] = true;
		}
	return spent;
}

static void
body_facts(const Flow *f, const LayerType *l, TypeFacts *t, BodyKind k)
{
	const Body *b = &f->m->bodies[l->body[k]];

	t->bytes[k] = NEW_N(f->v->tmp, int64_t, (size_t)b->nports + 1);
	for (uint32_t p = 0; p < b->nports; p++)
		t->bytes[k][p] = type_bytes(f->m, val_mesh(f->m, b, b->ports[p].v),
					    val_type(b, b->ports[p].v));
	t->spent[k] = find_spent(f, b);
}

static void
type_facts(const Flow *f, const LayerType *l, TypeFacts *t)
{
	const Body *b = &f->m->bodies[l->body[BK_F]];
	const uint32_t *base = find_bases(f, b);

	*t = (TypeFacts){.out_at = l->out_at, .saved_at = l->saved_at, .carry_at = l->carry_at};
	t->out_val = NEW_N(f->v->tmp, uint32_t, l->nouts + 1);
	t->saved_val = NEW_N(f->v->tmp, uint32_t, l->nsaved + 1);
	t->passes = NEW_N(f->v->tmp, int, l->nouts + 1);
	for (uint32_t p = 0; p < b->nports; p++) {
		const Port *port = &b->ports[p];

		if (port->kind == PORT_save) t->saved_val[port->slot] = base[port->v.i];
		if (port->kind != PORT_out) continue;
		t->out_val[port->slot] = base[port->v.i];
		t->passes[port->slot] = -1;
		for (uint32_t q = 0; q < b->nports; q++)
			if (b->ports[q].kind == PORT_arg && b->ports[q].v.i == port->v.i)
				t->passes[port->slot] = b->ports[q].slot;
	}
	for (int k = 0; k < BK_const; k++)
		if (l->body[k]) body_facts(f, l, t, (BodyKind)k);
}

Ref
flow_origin(const Flow *f, Ref r)
{
	while (r.kind == REF_result) {
		const Instance *n = &f->m->insts[r.i];
		int a = f->type[n->type].passes[r.result];

		if (a < 0) break;
		r = n->args[a];
	}
	return r;
}

/* ---- contributions ---- */

static void
cot_facts(Flow *f)
{
	const Module *m = f->m;
	uint32_t n = 0;

	f->res0 = NEW_N(f->v->tmp, uint32_t, (size_t)m->ninsts + 1);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		f->res0[i] = n;
		n += m->types[m->insts[i].type].nouts;
	}
	f->cot_sum = NEW_N(f->v->tmp, uint64_t, (size_t)n + 1);
	f->cot_uses = NEW_N(f->v->tmp, uint32_t, (size_t)n + 1);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		const LayerType *l = &m->types[m->insts[i].type];

		for (uint32_t a = 0; a < l->nargs; a++) {
			Ref ref = m->insts[i].args[a];

			if (ref.kind != REF_result || !ir_type_port(m, l, BK_B, PORT_dx, a))
				continue;
			f->cot_sum[f->res0[ref.i] + ref.result] +=
			    flow_hash(CONTRIB_dx, i, a, 0);
			f->cot_uses[f->res0[ref.i] + ref.result]++;
		}
	}
}

/* Who has a W that adds to each parameter's gradient. */
static void
user_facts(Flow *f)
{
	const Module *m = f->m;
	uint32_t n = 0;

	f->user0 = NEW_N(f->v->tmp, uint32_t, (size_t)m->nparams + 2);
	for (int fill = 0; fill < 2; fill++) {
		if (fill) {
			for (uint32_t p = 0; p < m->nparams; p++)
				f->user0[p + 1] += f->user0[p];
			n = f->user0[m->nparams];
			f->users = arena_alloc(f->v->tmp, sizeof(*f->users) * ((size_t)n + 1));
		}
		for (uint32_t i = m->ninsts; i-- > 0;) {
			const LayerType *l = &m->types[m->insts[i].type];

			for (uint32_t w = 0; w < l->nweights; w++) {
				uint32_t p = m->insts[i].params[w];

				if (!ir_type_port(m, l, BK_W, PORT_dw, w)) continue;
				if (fill) {
					f->users[--f->user0[p + 1]].inst = i;
					f->users[f->user0[p + 1]].slot = w;
				} else {
					f->user0[p + 1]++;
				}
			}
		}
	}
	/* What was counted down is where each begins: shifted by one. */
	for (uint32_t p = 0; p < m->nparams; p++)
		f->user0[p] = f->user0[p + 1];
	f->user0[m->nparams] = n;
}

uint64_t
flow_part_sum(const Flow *f, uint32_t param, uint32_t mb)
{
	uint64_t sum = 0;

	for (uint32_t u = f->user0[param]; u < f->user0[param + 1]; u++)
		sum += flow_hash(CONTRIB_dw, f->users[u].inst, f->users[u].slot, mb);
	return sum;
}

uint64_t
flow_returns(const Flow *f, uint32_t param)
{
	uint64_t sum = 0;

	for (uint32_t q = 0; q < f->m->nparams; q++)
		if (f->m->params[q].borrows == param + 1 && f->user0[q] < f->user0[q + 1])
			sum += flow_hash(CONTRIB_return, q, 0, 0);
	return sum;
}

uint64_t
flow_grad_sum(const Flow *f, uint32_t param)
{
	uint64_t sum = flow_returns(f, param);

	for (uint32_t t = 0; t < f->m->plan.microbatches; t++)
		sum += flow_part_sum(f, param, t);
	return sum;
}

/* ---- inputs, flats ---- */

/* An input's bytes on a rank, as the bodies that read it take it. */
static void
input_facts(Flow *f)
{
	const Module *m = f->m;

	f->input_bytes = NEW_N(f->v->tmp, int64_t, (size_t)m->ninputs + 1);
	for (uint32_t n = 0; n < m->ninsts; n++) {
		const Body *b = &m->bodies[m->types[m->insts[n].type].body[BK_F]];

		for (uint32_t p = 0; p < b->nports; p++) {
			Ref ref;
			int64_t bytes;

			if (b->ports[p].kind != PORT_arg) continue;
			ref = m->insts[n].args[b->ports[p].slot];
			if (ref.kind != REF_input) continue;
			bytes = f->type[m->insts[n].type].bytes[BK_F][p];
			if (bytes > f->input_bytes[ref.i]) f->input_bytes[ref.i] = bytes;
		}
	}
}

/* Parameters whose gradients ranks sum are in flats. */
static void
flat_facts(Flow *f)
{
	const Module *m = f->m;

	f->flat = NEW_N(f->v->tmp, Flat *, (size_t)m->ninsts + 1);
	f->owner = NEW_N(f->v->tmp, uint32_t, (size_t)m->nparams + 1);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		Flat flat = ir_flat(m, f->v->tmp, i);

		if (flat.bytes && (flat.dp > 1 || flat.nspans))
			f->flat[i] = arena_dup(f->v->tmp, &flat, sizeof(flat));
	}
	for (uint32_t p = 0; p < m->nparams; p++)
		f->owner[p] = m->params[p].borrows ? m->params[p].borrows - 1 : p;
}

/* ---- above level mem: every buffer by itself ---- */

static int64_t
take(int64_t *top, int64_t bytes)
{
	int64_t at = *top;

	*top += bytes;
	return at;
}

static void
own_types(Flow *f)
{
	const Module *m = f->m;

	for (uint32_t i = 0; i < m->ntypes; i++) {
		const LayerType *l = &m->types[i];
		const Body *b = &m->bodies[l->body[BK_F]];
		TypeFacts *t = &f->type[i];
		int64_t *out_at = NEW_N(f->v->tmp, int64_t, l->nouts + 1);
		int64_t *saved_at = NEW_N(f->v->tmp, int64_t, l->nsaved + 1);
		int64_t *carry_at = NEW_N(f->v->tmp, int64_t, l->ncarry + 1), top = 0;
		int64_t *at = NEW_N(f->v->tmp, int64_t, b->nvals + 1);

		for (uint32_t p = 0; p < b->nports; p++) {
			const Port *port = &b->ports[p];

			if (port->kind != PORT_out && port->kind != PORT_save) continue;
			if (!at[port->v.i]) at[port->v.i] = 1 + take(&top, t->bytes[BK_F][p]);
			if (port->kind == PORT_save) saved_at[port->slot] = at[port->v.i] - 1;
			if (port->kind == PORT_out)
				out_at[port->slot] =
				    t->passes[port->slot] < 0 ? at[port->v.i] - 1 : -1;
		}
		for (uint32_t c = 0; c < l->ncarry; c++)
			carry_at[c] =
			    take(&top, type_bytes(m, text_type_mesh(m, l), &l->carry[c]));
		t->out_at = out_at;
		t->saved_at = saved_at;
		t->carry_at = carry_at;
	}
}

/* Bytes of the frame that own_types made, carried values included. */
static int64_t
own_frame(const Flow *f, uint32_t type)
{
	const LayerType *l = &f->m->types[type];
	const Body *b = &f->m->bodies[l->body[BK_F]];
	int64_t top = 0;

	for (uint32_t p = 0; p < b->nports; p++)
		if (b->ports[p].kind == PORT_out || b->ports[p].kind == PORT_save)
			top += f->type[type].bytes[BK_F][p];
	for (uint32_t c = 0; c < l->ncarry; c++)
		top += type_bytes(f->m, text_type_mesh(f->m, l), &l->carry[c]);
	return top;
}

static void
own_params(const Flow *f, Memory *x, int64_t *top)
{
	const Module *m = f->m;
	int64_t each = 0;

	for (uint32_t p = 0; p < m->nparams; p++) {
		const Flat *flat = f->flat[m->params[p].owner];

		for (uint32_t k = 0; flat && k < flat->n; k++)
			if (flat->param[k] == p) {
				x->param_at[p] = flat->at[k];
				x->in_flat[p] = true;
			}
		if (!x->in_flat[p])
			x->param_at[p] =
			    take(&each, type_bytes(m, ir_param_mesh(m, p), &m->params[p].type));
	}
	for (uint32_t i = 0; i < m->ninsts; i++) {
		if (!f->flat[i]) continue;
		x->flat_bytes[i] = f->flat[i]->bytes;
		for (int s = 0; s < SEC_COUNT; s++)
			x->flat_at[s][i] = ir_section_scale(m, (Section)s) * each;
		each += f->flat[i]->bytes;
		if (f->flat[i]->bytes > x->gather_bytes) x->gather_bytes = f->flat[i]->bytes;
	}
	for (int s = 0; s < SEC_COUNT; s++) {
		const int64_t scale = ir_section_scale(m, (Section)s);

		x->sec[s] = -1;
		if (s == SEC_master && scale == 1) continue;
		x->sec[s] = take(top, x->sec_bytes[s] = scale * each);
	}
	x->dwork_bytes = x->gather_bytes;
	x->gather = take(top, 2 * x->gather_bytes);
	x->dwork = take(top, 2 * x->dwork_bytes);
}

/* Of what a reshard takes. */
static int64_t
arg_bytes(const Flow *f, uint32_t inst)
{
	uint32_t type = f->m->insts[inst].type;
	const Body *b = &f->m->bodies[f->m->types[type].body[BK_F]];

	for (uint32_t p = 0; p < b->nports; p++)
		if (b->ports[p].kind == PORT_arg) return f->type[type].bytes[BK_F][p];
	return 0;
}

static void
own_cots(const Flow *f, Memory *x, int64_t *top)
{
	const Module *m = f->m;

	x->cots = 0;
	x->cot_of = f->res0;
	for (uint32_t i = 0; i < m->ninsts; i++)
		x->ncot += m->types[m->insts[i].type].nouts;
	x->cot = NEW_N(f->v->tmp, Cot, (size_t)x->ncot + 1);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		const LayerType *l = &m->types[m->insts[i].type];
		const Body *b = &m->bodies[l->body[BK_F]];

		for (uint32_t p = 0; p < b->nports; p++) {
			uint32_t k = f->res0[i] + b->ports[p].slot;

			if (b->ports[p].kind != PORT_out) continue;
			x->cot[k].at = take(top, f->type[m->insts[i].type].bytes[BK_F][p]);
			x->cot[k].shared = f->cot_uses[k] != 1;
		}
		x->back_at[i] = -1;
	}
	for (uint32_t i = 0; i < m->ninsts; i++) {
		Ref r = m->insts[i].args ? m->insts[i].args[0] : (Ref){0};

		if (ir_is_reshard(m, i) && r.kind == REF_result &&
		    x->cot[f->res0[r.i] + r.result].shared)
			x->back_at[i] = take(top, arg_bytes(f, i));
	}
}

static void
own_memory(const Flow *f, const Stage *s, Memory *x)
{
	const Module *m = f->m;
	Arena *a = f->v->tmp;
	int64_t top = 0, most = 0;

	*x = (Memory){.flat_bytes = NEW_N(a, int64_t, m->ninsts + 1),
		      .param_at = NEW_N(a, int64_t, m->nparams + 1),
		      .in_flat = NEW_N(a, bool, m->nparams + 1),
		      .const_at = NEW_N(a, int64_t, m->nconsts + 1),
		      .input_at = NEW_N(a, int64_t, m->ninputs + 1),
		      .slot_at = NEW_N(a, int64_t, m->ninsts + 1),
		      .back_at = NEW_N(a, int64_t, m->ninsts + 1)};
	for (int k = 0; k < SEC_COUNT; k++)
		x->flat_at[k] = NEW_N(a, int64_t, m->ninsts + 1);
	own_params(f, x, &top);
	for (uint32_t i = 0; i < m->nconsts; i++)
		x->const_at[i] = take(&top, type_bytes(m, NULL, &m->consts[i]));
	own_cots(f, x, &top);
	for (uint32_t i = 0; i < m->ninputs; i++)
		x->input_at[i] = take(&x->slot_bytes, f->input_bytes[i]);
	for (uint32_t i = s->first; i < s->first + s->count; i++)
		x->slot_at[i] = take(&x->slot_bytes, own_frame(f, m->insts[i].type));
	x->slots = take(&top, x->slot_bytes * (s->slots ? s->slots : 1));
	for (uint32_t p = 0; p < m->nparams; p++) {
		int64_t bytes = type_bytes(m, ir_param_mesh(m, p), &m->params[p].type);

		if (bytes > most) most = bytes;
	}
	x->scratch = take(&top, most);
	x->carry = -1; /* in the frame */
	x->arena_bytes = top;
}

void
flow_facts(Flow *f, const Verify *v)
{
	const Module *m = v->m;

	*f = (Flow){.v = v, .m = m, .comms = ir_comms(m, v->tmp), .mem = m->mem};
	f->type = NEW_N(v->tmp, TypeFacts, (size_t)m->ntypes + 1);
	for (uint32_t i = 0; i < m->ntypes; i++)
		type_facts(f, &m->types[i], &f->type[i]);
	cot_facts(f);
	user_facts(f);
	input_facts(f);
	flat_facts(f);
	if (m->level < LV_mem) {
		Memory *mem = NEW_N(v->tmp, Memory, (size_t)m->plan.nstages + 1);

		own_types(f);
		for (uint32_t k = 0; k < m->plan.nstages; k++)
			own_memory(f, &m->plan.stages[k], &mem[k]);
		f->mem = mem;
	}
}
