/*
 * optimizer.c - what happens once a step: bodies N (squares of the gradients) and U (update) of every layer type.
 *
 * A parameter is updated, and its gradient counted in the norm, by the instance that owns it. A body serves all instances of
 * its type, so they must agree, slot by slot, on what is owned and trained and on the factors of decay and rate; a type whose
 * instances differ is split: the later kinds become copies of the type, "block.2", in order of their first instance.
 *
 * Input: LV_train with `train` as given or by default. Output: LV_train with N and U. Invariant: a parameter that has a
 * gradient and is not frozen (lr 0) is updated by exactly one body; one without a gradient is left alone.
 */
#include "passes/passes.h"

#include <string.h>

/* What the bodies need to know of one weight slot of an instance. */
typedef struct SlotKey {
	bool mine; /* owned here and trained */
	double decay, lr;
} SlotKey;

/* Parameters that some W body makes a gradient for. */
static bool *
find_trained(Ctx *c, const Module *m)
{
	bool *trained = NEW_N(c->tmp, bool, m->nparams + 1);

	for (uint32_t n = 0; n < m->ninsts; n++) {
		const LayerType *l = &m->types[m->insts[n].type];

		for (uint32_t k = 0; k < l->nweights && l->body[BK_W]; k++) {
			uint32_t p = m->insts[n].params[k];

			if (m->params[p].lr != 0 &&
			    ir_find_port(&m->bodies[l->body[BK_W]], PORT_dw, (uint16_t)k))
				trained[p] = true;
		}
	}
	return trained;
}

static SlotKey
slot_key(const Module *m, const bool *trained, uint32_t inst, uint32_t k)
{
	uint32_t i = m->insts[inst].params[k];
	const Param *p = &m->params[i];
	SlotKey key = {.mine = p->owner == inst && trained[i]};

	/* one instance may name a parameter twice: its first slot has it */
	for (uint32_t j = 0; j < k; j++)
		if (m->insts[inst].params[j] == i) key.mine = false;
	if (key.mine) key.decay = p->decay, key.lr = p->lr;
	return key;
}

static bool
same_slots(const Module *m, const bool *trained, uint32_t a, uint32_t b)
{
	for (uint32_t k = 0; k < m->types[m->insts[a].type].nweights; k++) {
		SlotKey x = slot_key(m, trained, a, k), y = slot_key(m, trained, b, k);

		if (x.mine != y.mine || x.decay != y.decay || x.lr != y.lr) return false;
	}
	return true;
}

/* ---- splitting types ---- */

static bool
type_named(const Module *m, Name name)
{
	for (uint32_t i = 0; i < m->ntypes; i++)
		if (m->types[i].name == name) return true;
	return false;
}

static Name
fresh_name(const Module *m, Name base)
{
	for (uint32_t i = 2;; i++) {
		Name name = name_fmt(m->names, "%s.%u", name_str(m->names, base), i);

		if (!type_named(m, name)) return name;
	}
}

/* A body of its own with the same ops, so that later passes may change one and not the other. */
static uint32_t
clone_body(Ctx *c, Module *m, uint32_t from, Name name)
{
	Body *b = &m->bodies[from], made = ir_body(name, b->kind);
	Val *map = NEW_N(c->tmp, Val, b->nvals);

	made.mesh = b->mesh;
	for (uint32_t i = 0; i < b->nports; i++) {
		const Port *p = &b->ports[i];

		if (port_is_in(p->kind))
			map[p->v.i] = ir_port(m, &made, p->kind, p->slot, b->vals[p->v.i].name,
					      b->vals[p->v.i].type);
	}
	for (uint32_t i = 0; i < b->nops; i++)
		copy_op(m, &made, b, &b->ops[i], map);
	for (uint32_t i = 0; i < b->nports; i++) {
		const Port *p = &b->ports[i];

		if (!port_is_in(p->kind)) ir_out(m, &made, p->kind, p->slot, map[p->v.i]);
	}
	return ir_add_body(m, made);
}

static uint32_t
clone_type(Ctx *c, Module *m, uint32_t from)
{
	LayerType made = m->types[from];

	made.name = fresh_name(m, made.name);
	made.saved = arena_dup(m->arena, made.saved, made.nsaved * sizeof *made.saved);
	made.carry = arena_dup(m->arena, made.carry, made.ncarry * sizeof *made.carry);
	for (int k = 0; k < BK_COUNT; k++)
		if (made.body[k]) made.body[k] = clone_body(c, m, made.body[k], made.name);
	PUSH(m->arena, m->types, m->ntypes, m->ctypes, made);
	return m->ntypes - 1;
}

/* Afterwards the instances of a type agree about every slot. Returns each type's first instance; ninsts: it has none. */
static uint32_t *
split_types(Ctx *c, Module *m, const bool *trained)
{
	uint32_t *leader = NULL, n = 0, cap = 0;
	uint32_t *kin = NULL, nkin = 0,
		 ckin = 0; /* [type] the next type split off the same one; 0: none */

	for (uint32_t t = 0; t < m->ntypes; t++) {
		PUSH(c->tmp, leader, n, cap, m->ninsts);
		PUSH(c->tmp, kin, nkin, ckin, 0u);
	}
	for (uint32_t i = 0; i < m->ninsts; i++) {
		uint32_t origin = m->insts[i].type, t = origin;

		while (leader[t] < m->ninsts && !same_slots(m, trained, leader[t], i)) {
			if (!kin[t]) {
				kin[t] = clone_type(c, m, origin);
				PUSH(c->tmp, leader, n, cap, m->ninsts);
				PUSH(c->tmp, kin, nkin, ckin, 0u);
			}
			t = kin[t];
		}
		if (leader[t] == m->ninsts) leader[t] = i;
		m->insts[i].type = t;
	}
	return leader;
}

/* ---- bodies ---- */

static void
norm_slot(Module *m, Body *b, uint16_t slot, const TypeWeight *w)
{
	Val g = ir_port(m, b, PORT_grad, slot,
			name_fmt(m->names, "g.%s", name_str(m->names, w->name)), w->type);

	ir_out(m, b, PORT_norm, slot, ir_op1(m, b, OP_sumsq, g, (Loc){0}));
}

static Val
scalar_port(Module *m, Body *b, uint16_t slot, const char *name)
{
	Port *p = ir_find_port(b, PORT_scalar, slot);

	return p ? p->v
		 : ir_port(m, b, PORT_scalar, slot, name_of(m->names, name),
			   (Type){.dt = DT_f64});
}

/* AdamW or SGD of one weight; the attributes hold the settings times the parameter's factors. Of a weight in bf16 the master
 * copy is updated, then rounded. */
static void
update_slot(Module *m, Body *b, uint16_t slot, const TypeWeight *w, SlotKey key)
{
	const bool half = w->type.dt == DT_bf16;
	const Type state = ir_state_type(&w->type);
	const PortKind from[4] = {half ? PORT_master : PORT_weight, PORT_grad, PORT_m, PORT_v};
	const PortKind to[3] = {half ? PORT_master_out : PORT_w_out, PORT_m_out, PORT_v_out};
	static const char *const prefix[4] = {"", "g.", "m.", "v."};
	static const char *const scalars[4] = {"rate", "scale", "c1", "c2"};
	const Train *t = &m->train;
	bool adamw = t->opt == OPT_adamw;
	int nstate = adamw ? 4 : 3, nscalar = adamw ? 4 : 2, n = 0;
	Val in[8], out[MAX_OUT];
	Attr attrs[5];

	for (int k = 0; k < nstate; k++)
		in[n++] =
		    ir_port(m, b, from[k], slot,
			    name_fmt(m->names, "%s%s", prefix[k], name_str(m->names, w->name)),
			    k == 1 ? w->type : state);
	for (int k = 0; k < nscalar; k++)
		in[n++] = scalar_port(m, b, (uint16_t)k, scalars[k]);
	OpArgs a = {.code = adamw ? OP_adamw : OP_sgd,
		    .in = in,
		    .nin = n,
		    .attrs = attrs,
		    .hint = w->name};
	if (adamw) {
		attrs[a.nattr++] = attr_make_num(AK_beta1, t->beta1);
		attrs[a.nattr++] = attr_make_num(AK_beta2, t->beta2);
		attrs[a.nattr++] = attr_make_num(AK_eps, t->eps);
	} else {
		attrs[a.nattr++] = attr_make_num(AK_momentum, t->momentum);
	}
	attrs[a.nattr++] = attr_make_num(AK_decay, t->decay * key.decay);
	attrs[a.nattr++] = attr_make_num(AK_lr, key.lr);
	memcpy(out, ir_emit(m, b, NULL, &a)->out, sizeof out);
	for (int k = 0; k < nstate - 1; k++)
		ir_out(m, b, to[k], slot, out[k]);
	if (!half) return;
	const Attr dt = attr_make_dtype(AK_dtype, DT_bf16);
	const OpArgs cast = {
	    .code = OP_cast, .in = out, .nin = 1, .attrs = &dt, .nattr = 1, .hint = w->name};
	ir_out(m, b, PORT_w_out, slot, ir_emit(m, b, NULL, &cast)->out[0]);
}

/* N and U of a type, whose slots are all as in its first instance. */
static void
make_bodies(Module *m, uint32_t type, const bool *trained, uint32_t leader)
{
	LayerType *l = &m->types[type];
	Body norm = ir_body(l->name, BK_N), update = ir_body(l->name, BK_U);

	for (uint32_t k = 0; k < l->nweights; k++) {
		SlotKey key = slot_key(m, trained, leader, k);

		if (!key.mine) continue;
		norm_slot(m, &norm, (uint16_t)k, &l->weights[k]);
		update_slot(m, &update, (uint16_t)k, &l->weights[k], key);
	}
	if (!norm.nops) return;
	uint32_t made_n = ir_add_body(m, norm), made_u = ir_add_body(m, update);
	l->body[BK_N] = made_n;
	l->body[BK_U] = made_u;
}

bool
pass_optimizer(Ctx *c, Module *m)
{
	if (c->forward_only) return true;
	for (uint32_t t = 0; t < m->ntypes; t++) /* resumed from a dump of this level */
		if (m->types[t].body[BK_U]) return true;

	bool *trained = find_trained(c, m);
	uint32_t *leader = split_types(c, m, trained);

	for (uint32_t t = 0; t < m->ntypes; t++)
		if (leader[t] < m->ninsts) make_bodies(m, t, trained, leader[t]);
	return true;
}
