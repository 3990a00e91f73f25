/*
 * lower.c - the lowering library: a layer type and a strategy in, the bodies one rank runs out.
 *
 * shard -> remat -> ports -> fuse, then pack for the cost. The search costs what it returns and
 * spmd links the same object, so a plan's memory is the program's memory. Results are memoised
 * by (type, strategy, degree of mb).
 */
#include "passes/passes.h"

/* The order of axes the buffer behind an out-port has; NULL: the value's own. */
static const Type *
port_type(const LayerType *t, const Body *f, const Port *p)
{
	if (p->kind == PORT_dw) return &t->weights[p->slot].type;
	if (p->kind != PORT_dx || !f) return NULL;
	const Port *arg = ir_find_port(f, PORT_arg, p->slot);
	return arg ? val_type(f, arg->v) : NULL;
}

static bool
same_order(const Type *x, const Type *y)
{
	if (x->n != y->n) return false;
	for (int k = 0; k < x->n; k++)
		if (x->ax[k].a.i != y->ax[k].a.i) return false;
	return true;
}

/* A value of its own for port p: copy, in the axis order of `want`. */
static Val
own_copy(Module *m, Body *b, Val v, const Type *want)
{
	Type t = *val_type(b, v);
	for (int k = 0; want && k < t.n; k++)
		t.ax[k] = val_type(b, v)->ax[type_find(val_type(b, v), want->ax[k].a)];
	const Op *op = val_op(b, v);
	return body_op(m, b, OP_copy, &v, 1, NULL, 0, &t, op ? op->loc : (Loc){0});
}

/*
 * After this every out-port's value may live in the port's buffer: no in-port is handed on but
 * an argument by `out`; what may be accumulated into (dx, dw) is read by nothing else and has
 * the buffer's axis order.
 */
static void
legal_ports(Module *m, Body *b, const LayerType *t, const Body *f, Arena *tmp)
{
	for (uint32_t i = 0; i < b->nports; i++) {
		Port p = b->ports[i];
		if (port_is_in(p.kind) || p.kind == PORT_norm ||
		    (p.kind >= PORT_w_out && p.kind <= PORT_v_out))
			continue;
		uint32_t *uses = body_uses(b, tmp); /* grows with every copy */
		const Port *from = NULL;
		for (uint32_t j = 0; j < b->nports; j++)
			if (port_is_in(b->ports[j].kind) && b->ports[j].v.i == p.v.i)
				from = &b->ports[j];
		bool copy = from && !(p.kind == PORT_out && from->kind == PORT_arg);
		if (p.kind == PORT_dx || p.kind == PORT_dw) {
			const Type *want = port_type(t, f, &p);
			copy |=
			    uses[p.v.i] > 1 || (want && !same_order(want, val_type(b, p.v)));
		}
		if (p.kind == PORT_carry_out) /* never two of them in one buffer */
			for (uint32_t j = 0; j < i; j++)
				copy |= b->ports[j].kind == PORT_carry_out &&
					b->ports[j].v.i == p.v.i;
		if (copy) b->ports[i].v = own_copy(m, b, p.v, port_type(t, f, &p));
	}
}

static bool
same_strategy(const Strategy *a, const Strategy *b)
{
	return a->mesh == b->mesh && a->zero == b->zero && a->recompute == b->recompute;
}

static void
count_cost(Ctx *c, Module *m, Lowered *l)
{
	Body copy[BK_COUNT], *body[BK_COUNT] = {0};
	for (int k = 0; k < BK_COUNT; k++) {
		if (!l->has[k]) continue;
		copy[k] = body_copy(c->tmp, &l->body[k]);
		body[k] = &copy[k];
	}
	pack_bodies(c, m, body);
	for (int k = 0; k < BK_COUNT; k++) {
		if (!body[k]) continue;
		Cost cost = cost_body(m, body[k]);
		l->flops[k] = cost.flops;
		l->moved[k] = cost.moved;
		l->scratch[k] = body[k]->scratch_bytes;
	}
	const Mesh *mesh = &m->plan.meshes[l->strategy.mesh];
	for (uint32_t i = 0; i < l->layer.nsaved; i++)
		l->saved_bytes += type_bytes(m, mesh, &l->layer.saved[i]);
	for (uint32_t i = 0; i < l->layer.ncarry; i++)
		l->carry_bytes += type_bytes(m, mesh, &l->layer.carry[i]);
}

static Lowered *
lower_new(Ctx *c, Module *m, uint32_t type, uint64_t pending, const Strategy *s)
{
	Lowered *l = NEW(m->arena, Lowered);
	Body *body[BK_COUNT] = {0};
	l->type = type;
	l->pending = pending;
	l->strategy = *s;
	l->layer = m->types[type];
	LayerType *t = &l->layer;
	t->saved = arena_dup(m->arena, t->saved, sizeof *t->saved * t->nsaved);
	t->carry = arena_dup(m->arena, t->carry, sizeof *t->carry * t->ncarry);
	for (int k = 0; k < BK_COUNT; k++) {
		if (!t->body[k]) continue;
		l->has[k] = true;
		l->body[k] = body_copy(m->arena, &m->bodies[t->body[k]]);
		body[k] = &l->body[k];
	}
	if (!shard_type(c, m, s->mesh, type, pending, t, body)) return NULL;
	for (int k = 0; k < BK_COUNT; k++)
		t->flops[k] = body[k] ? cost_body(m, body[k]).flops : 0;
	remat_type(c, m, s->recompute, t, body);
	for (int k = 0; k < BK_COUNT; k++) {
		if (!body[k]) continue;
		legal_ports(m, body[k], t, body[BK_F], c->tmp);
		fuse_body(c, m, body[k]);
	}
	count_cost(c, m, l);
	return l;
}

Lowered *
lower_type(Ctx *c, Module *m, LowerMemo *memo, uint32_t type, uint64_t pending,
	   const Strategy *s)
{
	for (uint32_t i = 0; i < memo->n; i++)
		if (memo->l[i]->type == type && memo->l[i]->pending == pending &&
		    same_strategy(&memo->l[i]->strategy, s))
			return memo->l[i];
	Lowered *l = lower_new(c, m, type, pending, s);
	if (l) PUSH(m->arena, memo->l, memo->n, memo->cap, l);
	return l;
}

/* Puts a lowered type in the place of its source, or beside it if that is taken by another
 * strategy. */
static uint32_t
link_type(Module *m, const Lowered *l, bool first)
{
	LayerType t = l->layer;
	if (!first) {
		t.name = name_fmt(m->names, "%s.%s", name_str(m->names, t.name),
				  recompute_str[l->strategy.recompute]);
		if (l->pending)
			t.name = name_fmt(m->names, "%s.p%llx", name_str(m->names, t.name),
					  (unsigned long long)l->pending);
		if (l->strategy.mesh)
			t.name = name_fmt(m->names, "%s.m%u", name_str(m->names, t.name),
					  l->strategy.mesh);
	}
	for (int k = 0; k < BK_COUNT; k++) {
		if (!l->has[k]) continue;
		Body b = l->body[k];
		b.name = t.name;
		if (first)
			m->bodies[t.body[k]] = b;
		else
			t.body[k] = ir_add_body(m, b);
	}
	if (first) {
		m->types[l->type] = t;
		return l->type;
	}
	PUSH(m->arena, m->types, m->ntypes, m->ctypes, t);
	return m->ntypes - 1;
}

/* Which arguments of an instance are sums over the batch; of[]: the lowered objects of those before it. */
static bool
pending_args(Ctx *c, const Module *m, const LowerMemo *memo, const uint32_t *of,
	     const Instance *n, uint64_t *pending)
{
	*pending = 0;
	for (uint16_t a = 0; a < m->types[n->type].nargs; a++) {
		if (n->args[a].kind != REF_result) continue;
		const Lowered *from = memo->l[of[n->args[a].i]];
		const Port *out = ir_find_port(&from->body[BK_F], PORT_out, n->args[a].result);
		if (!out || !val_type(&from->body[BK_F], out->v)->partial) continue;
		*pending |= UINT64_C(1) << (a & 63);
		if (a < 64) continue;
		if (c->diag)
			diag_error(
			    c->diag, n->loc,
			    "'%s' is given a sum over the batch behind 64 arguments: the "
			    "batch cannot be split into microbatches",
			    name_str(m->names, n->name));
		return false;
	}
	return true;
}

bool
lower_link(Ctx *c, Module *m, LowerMemo *memo)
{
	uint32_t ntypes = m->ntypes, nbodies = m->nbodies;
	uint32_t *of =
	    NEW_N(c->tmp, uint32_t, m->ninsts); /* which lowered object an instance calls */
	m->level = LV_spmd;                     /* extents are local from here on */
	for (uint32_t r = 0; r < m->plan.nruns; r++) {
		const Strategy *s = &m->plan.runs[r];
		for (uint32_t i = s->first; i < s->first + s->count && i < m->ninsts; i++) {
			uint64_t pending;
			if (!pending_args(c, m, memo, of, &m->insts[i], &pending)) return false;
			Lowered *l = lower_type(c, m, memo, m->insts[i].type, pending, s);
			if (!l) return false;
			while (memo->l[of[i]] != l)
				of[i]++;
		}
	}
	ENSURE(m->ntypes == ntypes && m->nbodies == nbodies, "lowering added bodies");
	uint32_t *linked = NEW_N(c->tmp, uint32_t, memo->n + 1); /* 1 + type it became */
	bool *taken = NEW_N(c->tmp, bool, ntypes + 1);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		const Lowered *l = memo->l[of[i]];
		if (!linked[of[i]]) linked[of[i]] = 1 + link_type(m, l, !taken[l->type]);
		taken[l->type] = true;
		m->insts[i].type = linked[of[i]] - 1;
	}
	if (m->const_body) fuse_body(c, m, &m->bodies[m->const_body]);
	return true;
}

/* requires: LV_plan. */
bool
pass_spmd(Ctx *c, Module *m)
{
	LowerMemo memo = {0};
	return lower_link(c, m, &memo);
}
