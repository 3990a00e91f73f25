/*
 * autodiff.c - reverse-mode differentiation: LV_graph -> LV_train.
 *
 * Layer by layer type, never across: the cotangents of a layer's results come in, those of its arguments and the gradients
 * of its weights go out. First two fixpoints over the instances say, per layer type, which arguments get a cotangent (they
 * depend on something trained) and which results have one (the loss depends on them); then each F body is continued by
 * its gradient, op by op from the last to the first (grad.c), and the joint body is split (partition.c).
 *
 * A type serves all its instances, so the sets are unions over them: an instance may make a cotangent nobody asked for (its
 * argument is an input: dropped), or want one nobody made (its result does not reach the loss: zero).
 * Invariant: F computes what it did; only PORT_save and second results appear. Every op made keeps the place of its cause.
 */
#include "passes/passes.h"

#include <string.h>

typedef struct TypeInfo {
	bool *arg;    /* [nargs] depends on something trained, in some instance */
	bool *dx;     /* [nargs] and the loss depends on it: B gives its cotangent */
	bool *weight; /* [nweights] trained in some instance */
	bool *out;    /* [nouts] depends on something trained */
	bool *
	    cot; /* [nouts] the loss depends on it, in some instance: B and W are given its cotangent */
	bool *active; /* [F's nvals] */
} TypeInfo;

/* ---- what depends on what ---- */

static bool
conducts(const Body *b, const Op *op, int k)
{
	return op->code != OP_stop && dtype_float(val_type(b, op->in[k])->dt);
}

/* Marks the float values of F that depend on active arguments and trained weights; true if a result became active. */
static bool
flow_forward(const Module *m, const LayerType *l, TypeInfo *t)
{
	const Body *f = &m->bodies[l->body[BK_F]];
	bool more = false;

	for (uint32_t i = 0; i < f->nports; i++) {
		const Port *p = &f->ports[i];

		if (p->kind == PORT_arg || p->kind == PORT_weight)
			t->active[p->v.i] = dtype_float(val_type(f, p->v)->dt) &&
					    (p->kind == PORT_arg ? t->arg : t->weight)[p->slot];
	}
	for (uint32_t i = 0; i < f->nops; i++) {
		const Op *op = &f->ops[i];
		bool on = false;

		for (int k = 0; k < op->nin; k++)
			on |= conducts(f, op, k) && t->active[op->in[k].i];
		for (int r = 0; r < op->nout; r++)
			if (op->out[r].i)
				t->active[op->out[r].i] =
				    on && dtype_float(val_type(f, op->out[r])->dt);
	}
	for (uint32_t i = 0; i < f->nports; i++) {
		const Port *p = &f->ports[i];

		if (p->kind != PORT_out || !t->active[p->v.i] || t->out[p->slot]) continue;
		t->out[p->slot] = more = true;
	}
	return more;
}

/* Marks the arguments that results with a cotangent depend on; true if one was added. */
static bool
flow_backward(const Module *m, const LayerType *l, TypeInfo *t, Arena *tmp)
{
	const Body *f = &m->bodies[l->body[BK_F]];
	bool *live = NEW_N(tmp, bool, f->nvals), more = false;

	for (uint32_t i = 0; i < f->nports; i++) {
		const Port *p = &f->ports[i];

		if (p->kind == PORT_out && t->cot[p->slot] && t->active[p->v.i])
			live[p->v.i] = true;
	}
	for (uint32_t i = f->nops; i-- > 0;) {
		const Op *op = &f->ops[i];
		bool on = false;

		for (int r = 0; r < op->nout; r++)
			on |= op->out[r].i && live[op->out[r].i];
		for (int k = 0; k < op->nin && on; k++)
			if (conducts(f, op, k) && t->active[op->in[k].i])
				live[op->in[k].i] = true;
	}
	for (uint32_t i = 0; i < f->nports; i++) {
		const Port *p = &f->ports[i];

		if (p->kind != PORT_arg || !live[p->v.i] || t->dx[p->slot]) continue;
		t->dx[p->slot] = more = true;
	}
	return more;
}

/* Both fixpoints. A chain of instances of one type needs one round a type, not one an instance. */
static void
find_flow(Ctx *c, const Module *m, TypeInfo *info)
{
	bool more = true;

	for (uint32_t l = 0; l < m->ntypes; l++)
		flow_forward(m, &m->types[l], &info[l]);
	while (more) {
		more = false;
		for (uint32_t n = 0; n < m->ninsts; n++) {
			const Instance *inst = &m->insts[n];
			TypeInfo *t = &info[inst->type];
			bool changed = false;

			for (uint32_t k = 0; k < m->types[inst->type].nargs; k++) {
				Ref r = inst->args[k];

				if (r.kind != REF_result || t->arg[k] ||
				    !info[m->insts[r.i].type].out[r.result])
					continue;
				t->arg[k] = changed = true;
			}
			if (changed) more |= flow_forward(m, &m->types[inst->type], t) || true;
		}
	}
	if (m->nreports && m->reports[0].ref.kind == REF_result)
		info[m->insts[m->reports[0].ref.i].type].cot[m->reports[0].ref.result] = true;
	for (uint32_t l = 0; l < m->ntypes; l++)
		flow_backward(m, &m->types[l], &info[l], c->tmp);
	for (more = true; more;) {
		more = false;
		for (uint32_t n = m->ninsts; n-- > 0;) {
			const Instance *inst = &m->insts[n];
			const TypeInfo *t = &info[inst->type];

			for (uint32_t k = 0; k < m->types[inst->type].nargs; k++) {
				Ref r = inst->args[k];

				if (r.kind != REF_result || !t->dx[k]) continue;
				TypeInfo *from = &info[m->insts[r.i].type];
				if (from->cot[r.result] || !from->out[r.result]) continue;
				from->cot[r.result] = more = true;
				flow_backward(m, &m->types[m->insts[r.i].type], from, c->tmp);
			}
		}
	}
}

static TypeInfo *
make_info(Ctx *c, const Module *m)
{
	TypeInfo *info = NEW_N(c->tmp, TypeInfo, m->ntypes + 1);

	for (uint32_t i = 0; i < m->ntypes; i++) {
		const LayerType *l = &m->types[i];

		info[i] = (TypeInfo){
		    .arg = NEW_N(c->tmp, bool, l->nargs + 1),
		    .dx = NEW_N(c->tmp, bool, l->nargs + 1),
		    .weight = NEW_N(c->tmp, bool, l->nweights + 1),
		    .out = NEW_N(c->tmp, bool, l->nouts + 1),
		    .cot = NEW_N(c->tmp, bool, l->nouts + 1),
		    .active = NEW_N(c->tmp, bool, m->bodies[l->body[BK_F]].nvals),
		};
	}
	for (uint32_t n = 0; n < m->ninsts; n++) {
		const Instance *inst = &m->insts[n];

		for (uint32_t k = 0; k < m->types[inst->type].nweights; k++)
			if (m->params[inst->params[k]].lr != 0)
				info[inst->type].weight[k] = true;
	}
	return info;
}

/* ---- one body ---- */

/* Gives every op all its results (log-sum-exps, means): gradients read them. What stays unread goes with the dead code. */
static void
complete_results(Module *m, Body *f)
{
	for (uint32_t i = 0; i < f->nops; i++) {
		Op *op = &f->ops[i];
		Type t[MAX_OUT];

		if (op->nout == 1) continue;
		ENSURE(ir_infer(m, f, op, NULL, t), "'%s' is ill-typed",
		       op_info[op->code].text);
		for (int r = 0; r < op->nout; r++) {
			if (op->out[r].i || t[r].dt == DT_none) continue;
			op->out[r] = ir_val(
			    m, f, name_fmt(m->names, "%s.%d", op_info[op->code].text, r), t[r]);
			f->vals[op->out[r].i].def = i + 1;
			f->vals[op->out[r].i].result = (uint8_t)r;
		}
	}
}

/* A copy of F that can grow: same numbers of values and ops; in-ports only. */
static Body
joint_body(Module *m, const Body *f)
{
	Body b = *f;

	b.cvals = b.nvals;
	b.cops = b.nops;
	b.vals = arena_dup(m->arena, f->vals, f->nvals * sizeof *f->vals);
	b.ops = arena_dup(m->arena, f->ops, f->nops * sizeof *f->ops);
	b.ports = NULL;
	b.nports = b.cports = 0;
	b.index = NULL;
	b.nindex = b.cindex = 0;
	for (uint32_t i = 0; i < f->nports; i++)
		if (port_is_in(f->ports[i].kind))
			PUSH(m->arena, b.ports, b.nports, b.cports, f->ports[i]);
	return b;
}

static Name
cot_name(const Module *m, const Body *b, Val v)
{
	return name_fmt(m->names, "d%s", name_str(m->names, b->vals[v.i].name));
}

/* Starts with the cotangents of F's results; a value that is several results gets their sum. */
static void
seed(Grad *g, const Body *f, const TypeInfo *t)
{
	for (uint32_t i = 0; i < f->nports; i++) {
		const Port *p = &f->ports[i];

		if (p->kind != PORT_out || !t->cot[p->slot] || !t->active[p->v.i]) continue;
		cot_add(g, p->v,
			ir_port(g->m, g->b, PORT_cot, p->slot, cot_name(g->m, g->b, p->v),
				*val_type(g->b, p->v)));
	}
}

/* Runs the rules from the last op to the first. False after diagnostics. */
static bool
reverse(Grad *g)
{
	bool ok = true;

	for (uint32_t i = g->nfops; i-- > 0;) {
		const Op op = g->b->ops[i]; /* the array moves */
		bool has = false, on = false;

		for (int r = 0; r < op.nout; r++)
			has |= op.out[r].i && g->cot[op.out[r].i].i;
		for (int k = 0; k < op.nin; k++)
			on |= g->active[op.in[k].i];
		if (has && on) ok &= grad_apply(g, &op);
	}
	return ok;
}

static bool
differentiate(Ctx *c, Module *m, uint32_t type, const TypeInfo *t)
{
	LayerType *l = &m->types[type];
	Body *f = &m->bodies[l->body[BK_F]];
	uint32_t known = f->nvals;

	complete_results(m, f);
	bool *active = arena_grow(c->tmp, t->active, known, f->nvals, sizeof *active);
	for (uint32_t i = 0; i < f->nops; i++) /* new results are as active as the op */
		for (int r = 0; r < f->ops[i].nout; r++)
			for (int k = 0; k < f->ops[i].nin && f->ops[i].out[r].i >= known; k++)
				active[f->ops[i].out[r].i] |=
				    dtype_float(val_type(f, f->ops[i].out[r])->dt) &&
				    conducts(f, &f->ops[i], k) && active[f->ops[i].in[k].i];

	Body b = joint_body(m, f);
	Grad g = {.c = c,
		  .m = m,
		  .b = &b,
		  .nf = f->nvals,
		  .nfops = f->nops,
		  .active = active,
		  .cot = NEW_N(c->tmp, Val, f->nvals)};
	Val *dx = NEW_N(c->tmp, Val, l->nargs + 1), *dw = NEW_N(c->tmp, Val, l->nweights + 1);

	seed(&g, f, t);
	if (!reverse(&g)) return false;
	for (uint32_t i = 0; i < f->nports; i++) {
		const Port *p = &f->ports[i];

		if (p->kind == PORT_arg && t->dx[p->slot]) dx[p->slot] = g.cot[p->v.i];
		if (p->kind == PORT_weight && t->weight[p->slot]) dw[p->slot] = g.cot[p->v.i];
	}
	for (uint32_t v = 1; v < g.nf; v++) /* names for people: the cotangent of %h is %dh */
		if (g.cot[v].i && val_op(&b, g.cot[v]))
			b.vals[g.cot[v].i].name = cot_name(m, &b, (Val){v});

	Joint j = {.g = &g, .type = type, .dx = dx, .dw = dw};
	partition_body(c, m, &j);
	return true;
}

bool
pass_autodiff(Ctx *c, Module *m)
{
	bool ok = true;

	m->level = LV_train;
	if (c->forward_only) return true;

	TypeInfo *info = make_info(c, m);
	find_flow(c, m, info);
	for (uint32_t l = 0; l < m->ntypes && !diag_stop(c->diag); l++)
		ok &= differentiate(c, m, l, &info[l]);
	return ok;
}
