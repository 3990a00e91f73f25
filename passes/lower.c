/*
 * lower.c - the lowering library: a layer type and a strategy in, the bodies one rank runs out.
 *
 * shard (mb, dp) -> tp -> pad -> remat -> ports -> fuse, then pack for the cost. The search costs
 * what it returns and spmd links the same object, so a plan's memory is the program's memory.
 * Results are memoised by LowerKey.
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

/* Its result is made by others: it cannot be added to something as it comes. */
static bool
is_received(const Op *op)
{
	return op->code == OP_all_gather || op->code == OP_reduce_scatter;
}

static bool
is_packed(const Module *m, const Body *b, Val v)
{
	const Type *t = val_type(b, v);
	int64_t stride = 1;
	Access x;
	if (!ir_access(m, b, v, &x) && x.base.i != v.i) return false;
	for (int k = t->n - 1; k >= 0; k--) {
		int64_t n = type_extent(m, ir_mesh(m, b), t, k);
		if (n > 1 && x.stride[k] != stride) return false;
		stride *= n;
	}
	return true;
}

/* What is sent lies in one piece: a view with gaps is copied first. */
static void
legal_operands(Module *m, Body *b, Arena *tmp)
{
	for (uint32_t i = 0; i < b->nops; i++) {
		Val x = b->ops[i].nin ? b->ops[i].in[0] : NO_VAL;
		if (!(op_info[b->ops[i].code].flags & OF_COMM) || is_packed(m, b, x)) continue;
		Type t = *val_type(b, x);
		Val y = body_op(m, b, OP_copy, &x, 1, NULL, 0, &t, b->ops[i].loc);
		b->ops[i].in[0] = y;
		body_move(tmp, b, b->nops - 1, i++);
	}
}

/*
 * After this every out-port's value may live in the port's buffer: no in-port is handed on but
 * an argument by `out`; what may be accumulated into (dx, dw) is read by nothing else, has
 * the buffer's axis order, and is not received there.
 */
static void
legal_ports(Module *m, Body *b, const LayerType *t, const Body *f, Arena *tmp)
{
	for (uint32_t i = 0; i < b->nports; i++) {
		Port p = b->ports[i];
		if (port_is_in(p.kind) || p.kind == PORT_norm ||
		    (p.kind >= PORT_w_out && p.kind <= PORT_master_out))
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
			copy |= val_op(b, p.v) && is_received(val_op(b, p.v));
		}
		if (p.kind == PORT_carry_out) /* never two of them in one buffer */
			for (uint32_t j = 0; j < i; j++)
				copy |= b->ports[j].kind == PORT_carry_out &&
					b->ports[j].v.i == p.v.i;
		if (copy) b->ports[i].v = own_copy(m, b, p.v, port_type(t, f, &p));
	}
}

static bool
same_key(const LowerKey *a, const LowerKey *b)
{
	const Strategy *x = &a->strategy, *y = &b->strategy;
	return a->type == b->type && a->pending == b->pending && a->shared == b->shared &&
	       x->mesh == y->mesh && x->zero == y->zero && x->recompute == y->recompute &&
	       x->megatron_sp == y->megatron_sp;
}

static int64_t
sent_bytes(const Module *m, const Body *b)
{
	int64_t n = 0;
	for (uint32_t i = 0; i < b->nops; i++)
		if (op_info[b->ops[i].code].flags & OF_COMM)
			n += type_bytes(m, ir_mesh(m, b), val_type(b, b->ops[i].in[0]));
	return n;
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
		l->sent[k] = sent_bytes(m, body[k]);
		l->scratch[k] = body[k]->scratch_bytes;
	}
	const Mesh *mesh = &m->plan.meshes[l->key.strategy.mesh];
	for (uint32_t i = 0; i < l->layer.nsaved; i++)
		l->saved_bytes += type_bytes(m, mesh, &l->layer.saved[i]);
	for (uint32_t i = 0; i < l->layer.ncarry; i++)
		l->carry_bytes += type_bytes(m, mesh, &l->layer.carry[i]);
}

/* N and U work on what the weights are; under ZeRO, on this rank's range of it. */
static void
shard_state(const Module *m, const Strategy *s, const LayerType *t, Body *b)
{
	const Mesh *mesh = &m->plan.meshes[s->mesh];
	unsigned dp = 0;
	for (int k = 1; s->zero && k < mesh->n; k++)
		if (mesh->ax[k].kind == MX_dp && mesh->ax[k].degree > 1) dp |= 1u << k;
	b->mesh = s->mesh;
	for (uint32_t i = 0; i < b->nports; i++) {
		const Port *p = &b->ports[i];
		Type *v = &b->vals[p->v.i].type;
		if (p->kind == PORT_scalar) continue;
		if (p->kind == PORT_norm) {
			const Type *g = val_type(b, val_op(b, p->v)->in[0]);
			for (int k = 0; k < g->n; k++)
				for (int j = 0; j < g->ax[k].nshard; j++)
					v->partial |= (uint16_t)(1u << g->ax[k].shard[j]);
			v->partial |= (uint16_t)dp;
			continue;
		}
		DType dt = v->dt;
		*v = t->weights[p->slot].type;
		v->dt = dt;
		v->flat = (uint16_t)dp;
	}
}

bool
lower_shard(Ctx *c, Module *m, const LowerKey *key, const TpChoice *s, LayerType *t,
	    Body *body[BK_COUNT])
{
	*t = m->types[key->type];
	t->weights = arena_dup(m->arena, t->weights, sizeof *t->weights * t->nweights);
	t->saved = arena_dup(m->arena, t->saved, sizeof *t->saved * t->nsaved);
	t->carry = arena_dup(m->arena, t->carry, sizeof *t->carry * t->ncarry);
	if (!shard_type(c, m, key->strategy.mesh, key->type, key->pending, t, body))
		return false;
	if (!tp_type(c, m, key->strategy.mesh, s, key->shared, t, body)) return false;
	pad_type(c, m, key->strategy.mesh, t, body);
	return true;
}

/* As if one sample were all a rank has and tp the only axis: what tp splits depends on nothing else, so that a layer under a
 * strategy is the same in every plan, and the search may price what it has lowered under other degrees. Where samples are
 * tied together there is no such thing as one: then it is chosen on the mesh as it is. */
static bool
choose_for_one(Ctx *c, Module *m, const LowerKey *key, TpChoice *out)
{
	Mesh *mesh = &m->plan.meshes[key->strategy.mesh], was = *mesh;
	if (m->batch.i) mesh->ax[0].degree = (uint32_t)ir_extent(m, m->batch);
	for (int k = 1; k < mesh->n; k++)
		if (mesh->ax[k].kind == MX_dp) mesh->ax[k].degree = 1;
	bool ok = choose_tp(c, m, key, out);
	*mesh = was;
	return ok && (out->works || choose_tp(c, m, key, out));
}

/* The choice, made once for all keys that differ in ZeRO and recomputation only. */
static bool
chosen_tp(Ctx *c, Module *m, TpMemo *memo, const LowerKey *key, TpChoice *out)
{
	LowerKey k = *key;
	k.strategy.zero = 0;
	k.strategy.recompute = RC_none;
	for (uint32_t i = 0; memo && i < memo->n; i++)
		if (same_key(&memo->c[i].key, &k)) {
			*out = memo->c[i].choice;
			return true;
		}
	if (!choose_for_one(c, m, &k, out)) return false;
	if (!memo) return true;
	struct TpChosen x = {k, *out};
	x.choice.inner = arena_dup(memo->a, out->inner, sizeof *out->inner * out->naxes);
	PUSH(memo->a, memo->c, memo->n, memo->cap, x);
	return true;
}

static Lowered *
lower_new(Ctx *c, Module *m, TpMemo *memo, const LowerKey *key)
{
	Lowered *l = NEW(m->arena, Lowered);
	Body *body[BK_COUNT] = {0};
	LayerType *t = &l->layer;
	l->key = *key;
	if (!chosen_tp(c, m, memo, key, &l->tp)) return NULL;
	for (int k = 0; k < BK_COUNT; k++) {
		uint32_t b = m->types[key->type].body[k];
		if (!b) continue;
		l->has[k] = true;
		l->body[k] = body_copy(m->arena, &m->bodies[b]);
		body[k] = &l->body[k];
	}
	if (!lower_shard(c, m, key, &l->tp, t, body)) return NULL;
	for (int k = BK_N; k <= BK_U; k++)
		if (body[k]) shard_state(m, &key->strategy, t, body[k]);
	for (int k = 0; k < BK_COUNT; k++)
		t->flops[k] = body[k] ? cost_body(m, body[k]).flops : 0;
	remat_type(c, m, key->strategy.recompute, t, body);
	for (int k = 0; k < BK_COUNT; k++) {
		if (!body[k]) continue;
		legal_operands(m, body[k], c->tmp);
		legal_ports(m, body[k], t, body[BK_F], c->tmp);
		fuse_body(c, m, body[k]);
	}
	count_cost(c, m, l);
	return l;
}

Lowered *
lower_type(Ctx *c, Module *m, LowerMemo *memo, const LowerKey *key)
{
	Level level = m->level;
	for (uint32_t i = 0; i < memo->n; i++)
		if (same_key(&memo->l[i]->key, key)) return memo->l[i];
	m->level = LV_spmd; /* extents are local from here on */
	Lowered *l = lower_new(c, m, memo->tp, key);
	m->level = level;
	if (l) PUSH(m->arena, memo->l, memo->n, memo->cap, l);
	return l;
}
