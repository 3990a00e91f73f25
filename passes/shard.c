/*
 * shard.c - which part of every value one microbatch of one data-parallel rank holds.
 *
 * Input: the bodies of one layer type with global types. Output: the same bodies with types
 * local to a mesh whose axis 0 (mb) splits the batch in time and whose dp axes split each
 * microbatch over ranks: `batch@mb.dp` on every value that has the batch axis or an axis made
 * of it, `+mb +dp` on sums over it that the step completes (losses, weight gradients). Linear
 * operations carry a pending sum; a non-linear one on it would need the whole batch at once and
 * is refused at its place, unless only ranks hold parts of it, which an all_reduce adds up. Axes of degree one split nothing. tp.c does the rest of the mesh.
 */
#include "passes/passes.h"

typedef struct Shard {
	Ctx *c;
	Module *m;
	Body *b;
	bool *split;      /* [naxes] */
	AxisUse use;      /* how: over mb, then dp; the axis is filled in */
	unsigned bits;    /* of the mesh axes in `use` */
	int64_t degree;   /* their product */
	uint64_t pending; /* arguments that are sums over the batch */
} Shard;

typedef bool ShardRule(Shard *s, const Op *op, uint32_t at);

static bool
pending(const Shard *s, Val v)
{
	return s->b->vals[v.i].type.partial & s->bits;
}

static void
set_pending(const Shard *s, Val v, bool on)
{
	if (v.i && on) s->b->vals[v.i].type.partial |= (uint16_t)s->bits;
}

static bool
is_split(const Shard *s, const Type *t)
{
	for (int k = 0; k < t->n; k++)
		if (s->split[t->ax[k].a.i]) return true;
	return false;
}

static void
split_type(const Shard *s, Type *t)
{
	for (int k = 0; k < t->n; k++)
		if (s->split[t->ax[k].a.i]) {
			Axis a = t->ax[k].a;
			t->ax[k] = s->use;
			t->ax[k].a = a;
		}
}

static bool
refuse(const Shard *s, Loc at, const char *why)
{
	if (s->c->diag)
		diag_error(
		    s->c->diag, at,
		    "%s: it ties the samples of a batch together, so that the batch cannot be "
		    "split into %lld parts (microbatches and data-parallel ranks)",
		    why, (long long)s->degree);
	return false;
}

/* Axes an op acts over are whole. */
static bool
whole(const Shard *s, const Op *op, const AxisList *l)
{
	for (int i = 0; l && i < l->n; i++)
		if (s->split[l->a[i].i])
			return refuse(s, op->loc, "this works along the batch");
	return true;
}

static bool
whole_axis(const Shard *s, const Op *op, AttrKey key)
{
	const Attr *a = attr_find(op, key);
	if (a && s->split[a->axis.i]) return refuse(s, op->loc, "this works along the batch");
	return true;
}

/* x / degree in front of op `at` stands for the share of one microbatch in the replicated x. */
static Val
share(Shard *s, Val x, uint32_t at)
{
	Body *b = s->b;
	Type t = b->vals[x.i].type, scalar = {.dt = t.dt};
	Loc loc = at < b->nops ? b->ops[at].loc : (Loc){0};
	uint32_t from = b->nops;
	Attr value = attr_make_num(AK_value, 1.0 / (double)s->degree);
	Val k = body_op(s->m, b, OP_const, NULL, 0, &value, 1, &scalar, loc);
	t.partial |= (uint16_t)s->bits;
	Val y = body_op(s->m, b, OP_mul, (Val[]){x, k}, 2, NULL, 0, &t, loc);
	body_move(s->c->tmp, b, from, at);
	return y;
}

/* No operand may be pending. */
static bool
strict(Shard *s, const Op *op, uint32_t at)
{
	(void)at;
	for (int i = 0; i < op->nin; i++)
		if (pending(s, op->in[i]))
			return refuse(s, op->loc, "this is not linear in a sum over the batch");
	return true;
}

/* Linear in the first operand; the others are whole. */
static bool
linear(Shard *s, const Op *op, uint32_t at)
{
	(void)at;
	for (int i = 1; i < op->nin; i++)
		if (pending(s, op->in[i]))
			return refuse(s, op->loc, "this is not linear in a sum over the batch");
	if (!pending(s, op->in[0])) return true;
	const Type *t = val_type(s->b, op->out[0]);
	if (is_split(s, t) || !dtype_float(t->dt))
		return refuse(s, op->loc, "this needs the whole of a sum over the batch");
	set_pending(s, op->out[0], true);
	return true;
}

/* Linear in operands lo.. together: all pending, or the others give their share. */
static bool
sum_of(Shard *s, const Op *op, uint32_t at, int lo)
{
	bool any = false;
	for (int i = 0; i < op->nin; i++) {
		if (i < lo && pending(s, op->in[i]))
			return refuse(s, op->loc, "this is not linear in a sum over the batch");
		any |= pending(s, op->in[i]);
	}
	if (!any) return true;
	if (is_split(s, val_type(s->b, op->out[0])))
		return refuse(s, op->loc, "this needs the whole of a sum over the batch");
	set_pending(s, op->out[0], true);
	for (int i = lo; i < op->nin; i++) { /* share() moves the op two places on */
		Val x = s->b->ops[at].in[i];
		if (pending(s, x)) continue;
		Val y = share(s, x, at);
		at += 2;
		s->b->ops[at].in[i] = y;
	}
	return true;
}

static bool
shard_sum_of(Shard *s, const Op *op, uint32_t at)
{
	return sum_of(s, op, at, 0);
}

static bool
shard_where(Shard *s, const Op *op, uint32_t at)
{
	return sum_of(s, op, at, 1);
}

static bool
shard_mul(Shard *s, const Op *op, uint32_t at)
{
	(void)at;
	bool x = pending(s, op->in[0]), y = pending(s, op->in[1]);
	if (!x && !y) return true;
	if ((x && y) || is_split(s, val_type(s->b, op->out[0])))
		return refuse(s, op->loc, "this multiplies a sum over the batch");
	set_pending(s, op->out[0], true);
	return true;
}

static bool
shard_view(Shard *s, const Op *op, uint32_t at)
{
	const AxisList *from = attr_axes(op, AK_from), *to = attr_axes(op, AK_to);
	for (int i = 0; i < from->n; i++)
		if (s->split[from->a[i].i] && (i || !s->split[to->a[0].i]))
			return refuse(s, op->loc,
				      "this view puts the batch inside another axis");
	for (int i = 0; i < to->n; i++)
		if (s->split[to->a[i].i] && (i || !s->split[from->a[0].i]))
			return refuse(s, op->loc,
				      "this view puts the batch inside another axis");
	return linear(s, op, at);
}

static bool
shard_along(Shard *s, const Op *op, uint32_t at)
{
	return whole_axis(s, op, AK_axis) && linear(s, op, at);
}

static bool
shard_concat(Shard *s, const Op *op, uint32_t at)
{
	return whole(s, op, attr_axes(op, AK_from)) && sum_of(s, op, at, 0);
}

static bool
shard_gather(Shard *s, const Op *op, uint32_t at)
{
	return whole(s, op, attr_axes(op, AK_axes)) && linear(s, op, at);
}

/* A result without a split axis that an operand has is a sum over it. */
static void
pend_lost(Shard *s, const Op *op)
{
	bool split = false;
	for (int i = 0; i < op->nin; i++)
		split |= is_split(s, val_type(s->b, op->in[i]));
	for (int r = 0; split && r < op->nout; r++)
		if (op->out[r].i && !is_split(s, val_type(s->b, op->out[r])))
			set_pending(s, op->out[r], true);
}

static bool
shard_scatter_add(Shard *s, const Op *op, uint32_t at)
{
	if (!whole(s, op, attr_axes(op, AK_axes)) || !linear(s, op, at)) return false;
	pend_lost(s, op);
	return true;
}

static bool
shard_sum(Shard *s, const Op *op, uint32_t at)
{
	if (!linear(s, op, at)) return false;
	pend_lost(s, op);
	return true;
}

static bool
shard_dot(Shard *s, const Op *op, uint32_t at)
{
	if (!shard_mul(s, op, at)) return false;
	if (pending(s, op->out[0]) &&
	    (is_split(s, val_type(s->b, op->in[0])) || is_split(s, val_type(s->b, op->in[1]))))
		return refuse(s, op->loc, "this multiplies a sum over the batch");
	pend_lost(s, op);
	return true;
}

static bool
shard_over(Shard *s, const Op *op, uint32_t at)
{
	return whole(s, op, attr_axes(op, AK_axes)) && strict(s, op, at);
}

static bool
shard_one(Shard *s, const Op *op, uint32_t at)
{
	return whole_axis(s, op, AK_axis) && strict(s, op, at);
}

static bool
shard_attention(Shard *s, const Op *op, uint32_t at)
{
	if (!whole(s, op, attr_axes(op, AK_keys)) || !whole(s, op, attr_axes(op, AK_feat)) ||
	    !whole_axis(s, op, AK_query) || !strict(s, op, at))
		return false;
	pend_lost(s, op);
	return true;
}

#define shard_const          strict
#define shard_pos            strict
#define shard_inside         strict
#define shard_neg            linear
#define shard_exp            strict
#define shard_log            strict
#define shard_sqrt           strict
#define shard_sin            strict
#define shard_cos            strict
#define shard_tanh           strict
#define shard_erf            strict
#define shard_sigmoid        strict
#define shard_relu           strict
#define shard_abs            strict
#define shard_not            strict
#define shard_cast           linear
#define shard_stop           linear
#define shard_copy           linear
#define shard_broadcast      linear
#define shard_add            shard_sum_of
#define shard_sub            shard_sum_of
#define shard_div            linear
#define shard_floordiv       strict
#define shard_mod            strict
#define shard_pow            strict
#define shard_min            strict
#define shard_max            strict
#define shard_lt             strict
#define shard_le             strict
#define shard_eq             strict
#define shard_ne             strict
#define shard_and            strict
#define shard_or             strict
#define shard_dropout        linear
#define shard_slice          shard_along
#define shard_unslice        shard_along
#define shard_roll           shard_along
#define shard_rmax           shard_over
#define shard_rmin           shard_over
#define shard_softmax        shard_over
#define shard_normalize      shard_over
#define shard_moments        shard_over
#define shard_topk           shard_one
#define shard_cross_entropy  shard_one
#define shard_attention_grad shard_attention
#define shard_sumsq          strict
#define shard_adamw          strict
#define shard_sgd            strict
#define shard_all_reduce     strict
#define shard_all_gather     strict
#define shard_reduce_scatter strict
#define shard_all_to_all     strict
#define shard_part           strict
#define shard_reshard        strict

static ShardRule *const shard_rule[OP_COUNT] = {
    [OP_none] = strict,
#define OP(code, ...) [OP_##code] = shard_##code,
#include "ir/ops.def"
};

/* The batch and every axis a view makes with the batch outermost; false if one does not
 * divide. */
static bool
find_split(Shard *s, Body *const body[BK_COUNT])
{
	s->split = NEW_N(s->c->tmp, bool, s->m->naxes);
	s->split[s->m->batch.i] = true;
	for (bool more = true; more;) {
		more = false;
		for (int k = 0; k < BK_COUNT; k++)
			for (uint32_t i = 0; body[k] && i < body[k]->nops; i++) {
				const Op *op = &body[k]->ops[i];
				if (op->code != OP_view) continue;
				Axis from = attr_axes(op, AK_from)->a[0],
				     to = attr_axes(op, AK_to)->a[0];
				if (!s->split[from.i] || s->split[to.i]) continue;
				s->split[to.i] = more = true;
				if (ir_extent(s->m, to) % s->degree)
					return refuse(s, op->loc,
						      "this splits the batch otherwise");
			}
	}
	return true;
}

/* What comes in: arguments and what F left are split; weights and constants are whole. */
static bool
in_ports(Shard *s, const LayerType *t, const Body *f)
{
	for (uint32_t i = 0; i < s->b->nports; i++) {
		const Port *p = &s->b->ports[i];
		if (!port_is_in(p->kind)) continue;
		Type *type = &s->b->vals[p->v.i].type;
		if ((p->kind == PORT_weight || p->kind == PORT_const) && is_split(s, type))
			return refuse(s, (Loc){0},
				      p->kind == PORT_weight ? "a parameter has the axis batch"
							     : "a constant has the axis batch");
		if (p->kind == PORT_arg && p->slot < 64)
			set_pending(s, p->v, s->pending >> p->slot & 1);
		if (p->kind == PORT_saved) *type = t->saved[p->slot];
		if (p->kind == PORT_carry) *type = t->carry[p->slot];
		if (p->kind == PORT_cot &&
		    f) { /* whole where the primal is pending, and the other way round */
			const Port *out = ir_find_port(f, PORT_out, p->slot);
			bool part = out && f->vals[out->v.i].type.partial & s->bits;
			set_pending(s, p->v, !is_split(s, type) && !part);
		}
	}
	return true;
}

/* Gradients of what is whole are pending; a gradient that does not depend on the batch gives
 * its share. Gradients of what is pending are whole. */
static bool
out_ports(Shard *s, LayerType *t, const Body *f)
{
	for (uint32_t i = 0; i < s->b->nports; i++) {
		Port *p = &s->b->ports[i];
		bool want = p->kind == PORT_dw;
		if (p->kind == PORT_dx && f) {
			const Port *arg = ir_find_port(f, PORT_arg, p->slot);
			bool part = arg && f->vals[arg->v.i].type.partial & s->bits;
			want = arg && !part && !is_split(s, &f->vals[arg->v.i].type);
			if (part && pending(s, p->v))
				return refuse(s, val_op(s->b, p->v)->loc,
					      "this is not linear in a sum over the batch");
		}
		if (want && !pending(s, p->v)) p->v = share(s, p->v, s->b->nops);
		if (p->kind == PORT_save) t->saved[p->slot] = *val_type(s->b, p->v);
		if (p->kind == PORT_carry_out) t->carry[p->slot] = *val_type(s->b, p->v);
	}
	return true;
}

/* Sums in front of op `at` what of its operands is pending: over ranks, which a collective can do; never over microbatches,
 * which are not there at once. Returns whether anything was. */
static bool
settle(Shard *s, uint32_t at)
{
	Body *b = s->b;
	uint32_t from = b->nops, n = 0;
	if (s->bits & 1) return false;
	for (int i = 0; i < b->ops[at].nin; i++) {
		Val x = b->ops[at].in[i];
		if (!pending(s, x)) continue;
		Type t = *val_type(b, x);
		t.partial &= (uint16_t)~s->bits;
		Attr over = {.key = AK_over, .i = s->bits};
		Val y = body_op(s->m, b, OP_all_reduce, &x, 1, &over, 1, &t, b->ops[at].loc);
		for (int j = 0; j < b->ops[at].nin; j++)
			if (b->ops[at].in[j].i == x.i) b->ops[at].in[j] = y;
		n++;
	}
	for (int r = 0; n && r < b->ops[at].nout; r++)
		b->vals[b->ops[at].out[r].i].type.partial &= (uint16_t)~s->bits;
	body_move(s->c->tmp, b, from, at);
	return n > 0;
}

/* The layouts of one op's results; what it needs whole is summed if it can be. */
static bool
shard_op(Shard *s, uint32_t *at)
{
	Ctx *c = s->c, quiet = *c;
	uint32_t before = s->b->nops;
	Op op = s->b->ops[*at]; /* a rule may insert in front of it */
	quiet.diag = NULL;
	s->c = &quiet;
	bool ok = shard_rule[op.code](s, &op, *at);
	s->c = c;
	if (!ok && settle(s, *at)) {
		*at += s->b->nops - before;
		before = s->b->nops;
		op = s->b->ops[*at];
		ok = shard_rule[op.code](s, &op, *at);
	} else if (!ok) {
		shard_rule[op.code](s, &op, *at); /* says why */
	}
	*at += s->b->nops - before;
	return ok;
}

static bool
shard_body(Shard *s, LayerType *t, const Body *f)
{
	Body *b = s->b;
	for (uint32_t v = 1; v < b->nvals; v++)
		split_type(s, &b->vals[v].type);
	if (!in_ports(s, t, f)) return false;
	for (uint32_t i = 0; i < b->nops; i++)
		if (!shard_op(s, &i)) return false;
	return out_ports(s, t, f);
}

/* A report is summed over microbatches, so one that does not depend on the batch gives its
 * share, and so does its cotangent. */
static void
share_reports(Shard *s, Body *body[BK_COUNT], uint16_t slot)
{
	Port *out = ir_find_port(body[BK_F], PORT_out, slot);
	s->b = body[BK_F];
	if (!out || pending(s, out->v) || is_split(s, val_type(s->b, out->v))) return;
	Val y = share(s, out->v, s->b->nops);
	ir_find_port(s->b, PORT_out, slot)->v = y;
	for (int k = BK_B; k <= BK_W; k++) {
		Port *cot = body[k] ? ir_find_port(body[k], PORT_cot, slot) : NULL;
		if (!cot) continue;
		s->b = body[k];
		Val x = cot->v, part = share(s, x, 0);
		for (uint32_t i = 2; i < s->b->nops; i++)
			for (int j = 0; j < s->b->ops[i].nin; j++)
				if (s->b->ops[i].in[j].i == x.i) s->b->ops[i].in[j] = part;
	}
}

/* Is result `slot` of an instance of `type` reported? */
static bool
reported(const Module *m, uint32_t type, uint16_t slot)
{
	for (uint32_t i = 0; i < m->nreports; i++) {
		Ref r = m->reports[i].ref;
		if (r.kind == REF_result && m->insts[r.i].type == type && r.result == slot)
			return true;
	}
	return false;
}

/*
 * Writes the value types of the bodies of one layer type under a mesh; body[k] may be NULL.
 * False after a diagnostic. requires: the degree of mb divides the batch; that of dp may not. t->saved and t->carry
 * are followed.
 */
bool
shard_type(Ctx *c, Module *m, uint32_t mesh, uint32_t type, uint64_t pending, LayerType *t,
	   Body *body[BK_COUNT])
{
	Shard s = {.c = c, .m = m, .degree = 1, .pending = pending};
	const Mesh *over = &m->plan.meshes[mesh];
	for (int k = 0; k < BK_COUNT; k++)
		if (body[k]) body[k]->mesh = mesh;
	for (int k = 0; k < over->n; k++) {
		if ((over->ax[k].kind != MX_mb && over->ax[k].kind != MX_dp) ||
		    over->ax[k].degree <= 1)
			continue;
		if (s.use.nshard == MAX_SHARD)
			return refuse(&s, (Loc){0}, "the mesh has too many axes of kind dp");
		s.use.shard[s.use.nshard++] = (uint8_t)k;
		s.bits |= 1u << k;
		s.degree *= over->ax[k].degree;
	}
	if (s.degree <= 1) return true;
	if (!find_split(&s, body)) return false;
	for (int k = BK_F; k <= BK_W; k++) {
		s.b = body[k];
		if (body[k] && !shard_body(&s, t, k == BK_F ? NULL : body[BK_F])) return false;
		if (k != BK_F || !body[k]) continue;
		for (uint16_t r = 0; r < t->nouts; r++) {
			if (!reported(m, type, r)) continue;
			s.b = body[k];
			share_reports(&s, body, r);
		}
	}
	return true;
}
