/*
 * tp.c - the part of a layer that each rank of tp computes: which axes are split, and the collectives that takes.
 *
 * Input: the bodies of one layer type, sharded over mb and dp (shard.c). Output: the same function with the axes in a set S
 * split over tp (`heads@tp`; with two tp axes, each over either or both: `kv@tp.0 group@tp.1`), S being axes that live inside the layer, and a collective wherever a value is needed otherwise
 * than it is there. A contraction over an axis of S leaves a sum pending (`+tp`); it is resolved where a value that is not
 * linear in it reads it, at the latest at the edge of the layer: so a column-parallel and a row-parallel product pair up by
 * themselves (Shoeybi et al., "Megatron-LM", 2019, section 3). With megatron_sp what has no axis of S is split along the axis
 * attention looks along, and the collectives become all_gather and reduce_scatter (Korthikanti et al., "Reducing activation
 * recomputation in large transformer models", 2022, section 4.2).
 *
 * A value has up to three forms: as its op leaves it, whole, and split along seq. Each is made once, where it is first
 * wanted. Gradients of weights may leave the layer pending: they are summed once a step.
 *
 * Cross-entropy over a split axis becomes the maximum, the sum and the picked entry of each rank's part, reduced: three
 * scalars a row instead of a row of logits.
 */
#include <string.h>

#include "passes/passes.h"

typedef struct Form {
	Val as_is, whole, seq;
} Form;

typedef struct Tp {
	Ctx *c;
	Module *m;
	const TpChoice *s;
	AxisUse use; /* over all tp axes, outermost first */
	unsigned bits;
	const Body *src;
	Body *dst;
	Form *form; /* [src's nvals] */
	LayerType *t;
	const Type *args, *outs; /* [nargs], [nouts] layouts at the layer's edge */
	uint64_t shared;         /* weights whose gradients must not be left pending */
	Diag *quiet;             /* what inference says of a choice of S that does not work */
	bool failed;
} Tp;

/* ---- types ---- */

static bool
inner(const Tp *p, Axis a)
{
	return a.i < p->s->naxes && p->s->inner[a.i];
}

static int
count_inner(const Tp *p, const Type *t)
{
	int n = 0;
	for (int k = 0; k < t->n; k++)
		n += inner(p, t->ax[k].a);
	return n;
}

static bool
has_seq(const Tp *p, const Type *t)
{
	return p->s->seq.i && type_find(t, p->s->seq) >= 0;
}

static bool
seq_split(const Tp *p, const Type *t)
{
	int k = p->s->seq.i ? type_find(t, p->s->seq) : -1;
	return k >= 0 && t->ax[k].nshard > 0;
}

/* Over those tp axes that are in `bits`. */
static void
split_over(const Tp *p, Type *t, int k, unsigned bits)
{
	AxisUse u = {.a = t->ax[k].a};
	for (int i = 0; i < p->use.nshard; i++)
		if (bits >> p->use.shard[i] & 1) u.shard[u.nshard++] = p->use.shard[i];
	t->ax[k] = u;
}

static void
split_axis(const Tp *p, Type *t, int k)
{
	split_over(p, t, k, p->bits);
}

static void
split_inner(const Tp *p, Type *t)
{
	for (int k = 0; k < t->n; k++)
		if (inner(p, t->ax[k].a)) split_over(p, t, k, p->s->inner[t->ax[k].a.i]);
}

/* The layout at a layer's edge. */
static Type
edge_type(const Tp *p, const Type *t)
{
	Type e = *t;
	if (p->s->sp && has_seq(p, &e) && !count_inner(p, &e))
		split_axis(p, &e, type_find(&e, p->s->seq));
	return e;
}

/* ---- appending ---- */

static void
fail(Tp *p)
{
	p->failed = true;
}

/* Appends an op; result types are inferred, and keep the order of `like` (NULL: as inferred). */
static Val
emit(Tp *p, OpCode code, const Val *in, int nin, const Attr *attrs, int nattr, const Type *like,
     Loc loc)
{
	Body *b = p->dst;
	Op op = {.code = code, .nin = (uint8_t)nin, .nattr = (uint8_t)nattr, .loc = loc};
	Type t[MAX_OUT], out[MAX_OUT] = {0};
	if (p->failed) return in ? in[0] : NO_VAL;
	op.nout = op_info[code].nout;
	op.in = arena_dup(p->m->arena, in, sizeof *in * (size_t)nin);
	op.attrs = arena_dup(p->m->arena, attrs, sizeof *attrs * (size_t)nattr);
	if (!ir_infer(p->m, b, &op, p->quiet, t)) {
		fail(p);
		return in ? in[0] : NO_VAL;
	}
	for (int r = 0; r < op.nout; r++)
		out[r] = t[r];
	if (like) {
		out[0] = *like;
		out[0].partial = t[0].partial;
	}
	return body_op(p->m, b, code, in, nin, attrs, nattr, out, loc);
}

static Val
collective(Tp *p, OpCode code, Val v, unsigned over, Axis axis)
{
	const Op *from = val_op(p->dst, v);
	Loc loc = from ? from->loc : (Loc){0};
	Attr attrs[2] = {{.key = AK_over, .i = over}, {.key = AK_axis, .axis = axis}};
	return emit(p, code, &v, 1, attrs, code == OP_all_reduce ? 1 : 2, NULL, loc);
}

/* The innermost tp axis first; in the order of splitting, the outermost. */
static Val
each_axis(Tp *p, OpCode code, Val v, Axis axis, bool outermost_first)
{
	for (int k = 0; k < p->use.nshard; k++) {
		int j = outermost_first ? k : p->use.nshard - 1 - k;
		v = collective(p, code, v, 1u << p->use.shard[j], axis);
	}
	return v;
}

/* ---- forms ---- */

static Val
as_is(const Tp *p, Val v)
{
	return p->form[v.i].as_is;
}

static unsigned
pending(const Tp *p, Val v)
{
	return val_type(p->dst, as_is(p, v))->partial & p->bits;
}

static Val
get_whole(Tp *p, Val v)
{
	Form *f = &p->form[v.i];
	const Type *t = val_type(p->dst, f->as_is);
	if (f->whole.i) return f->whole;
	f->whole = f->as_is;
	if (t->partial & p->bits)
		f->whole =
		    collective(p, OP_all_reduce, f->as_is, t->partial & p->bits, NO_AXIS);
	else if (seq_split(p, t))
		f->whole = each_axis(p, OP_all_gather, f->as_is, p->s->seq, false);
	return f->whole;
}

static Val
get_seq(Tp *p, Val v)
{
	Form *f = &p->form[v.i];
	const Type *t = val_type(p->dst, f->as_is);
	const Op *op = val_op(p->dst, f->as_is);
	if (!has_seq(p, t)) return get_whole(p, v);
	if (f->seq.i) return f->seq;
	if (seq_split(p, t)) return f->seq = f->as_is;
	if (t->partial & p->bits)
		f->seq = each_axis(p, OP_reduce_scatter, f->as_is, p->s->seq, true);
	else if (op && op->code == OP_pos) {
		Type split = edge_type(p, t);
		f->seq = body_op(p->m, p->dst, OP_pos, NULL, 0, op->attrs, op->nattr, &split,
				 op->loc);
	} else
		f->seq = each_axis(p, OP_part, f->as_is, p->s->seq, true);
	return f->seq;
}

/* How a value leaves the layer or is kept for the other bodies. */
static Val
get_edge(Tp *p, Val v)
{
	const Type *t = val_type(p->dst, as_is(p, v));
	if (count_inner(p, t)) return get_whole(p, v); /* but for its shards */
	return p->s->sp ? get_seq(p, v) : get_whole(p, v);
}

/* ---- ops ---- */

static bool
in_list(const Attr *a, bool (*is)(const Tp *, Axis), const Tp *p)
{
	if (!a) return false;
	if (attr_info[a->key].kind == AT_axis) return is(p, a->axis);
	for (int k = 0; k < a->axes.n; k++)
		if (is(p, a->axes.a[k])) return true;
	return false;
}

static bool
is_seq(const Tp *p, Axis a)
{
	return p->s->seq.i && a.i == p->s->seq.i;
}

/* Does the op need such an axis whole: it looks along it, cuts, turns or renames it? */
static bool
acts_on(const Tp *p, const Op *op, bool (*is)(const Tp *, Axis))
{
	switch (op->code) {
	case OP_view: /* a mesh axis follows the outermost axis from one side to the other */
		for (int s = 0; s < 2; s++) {
			const AxisList *l = attr_axes(op, s ? AK_to : AK_from);
			for (int k = is == inner; k < l->n; k++)
				if (is(p, l->a[k])) return true;
			if (is == inner &&
			    is(p, l->a[0]) != is(p, attr_axes(op, s ? AK_from : AK_to)->a[0]))
				return true;
		}
		return false;
	case OP_slice:
	case OP_unslice:
	case OP_roll:
	case OP_topk:
	case OP_concat:
		return in_list(attr_find(op, AK_axis), is, p) ||
		       in_list(attr_find(op, AK_from), is, p) ||
		       in_list(attr_find(op, AK_to), is, p);
	case OP_softmax:
	case OP_normalize:
	case OP_moments:
	case OP_rmax:
	case OP_rmin: return in_list(attr_find(op, AK_axes), is, p);
	case OP_gather:
	case OP_scatter_add: return is == is_seq && in_list(attr_find(op, AK_axes), is, p);
	case OP_cross_entropy: return is == is_seq && in_list(attr_find(op, AK_axis), is, p);
	case OP_attention:
	case OP_attention_grad:
		return in_list(attr_find(op, AK_keys), is, p) ||
		       in_list(attr_find(op, AK_feat), is, p) ||
		       in_list(attr_find(op, AK_query), is, p) || is == is_seq;
	default: return false;
	}
}

/* Is the op linear in all operands that are pending, and cheaper before the sum than after? */
static bool
carries(const Tp *p, const Op *op)
{
	unsigned all = op->nin ? pending(p, op->in[0]) : 0;
	if (!all) return false;
	switch (op->code) {
	case OP_add:
	case OP_sub: return pending(p, op->in[1]) == all;
	case OP_neg:
	case OP_copy:
	case OP_stop:
	case OP_view:
	case OP_slice:
	case OP_roll:
	case OP_sum: return true;
	case OP_cast: return dtype_float((DType)attr_int(op, AK_dtype));
	default: return false;
	}
}

/* The operand's reference in the new body, in the form the op takes it. */
typedef enum Want { WANT_as_is, WANT_whole, WANT_seq, WANT_inner } Want;

static Want
want_of(const Tp *p, const Op *op)
{
	int inside = 0;
	bool seq = false;
	for (int k = 0; k < op->nin; k++) {
		const Type *t = val_type(p->src, op->in[k]);
		inside += count_inner(p, t);
		seq |= has_seq(p, t);
	}
	for (int r = 0; r < op->nout; r++) {
		if (!op->out[r].i) continue;
		inside += count_inner(p, val_type(p->src, op->out[r]));
		seq |= has_seq(p, val_type(p->src, op->out[r]));
	}
	if (inside) return WANT_inner;
	if (carries(p, op)) return WANT_as_is;
	if (p->s->sp && seq && !acts_on(p, op, is_seq)) return WANT_seq;
	return WANT_whole;
}

static Val
take(Tp *p, Val v, Want how)
{
	switch (how) {
	case WANT_as_is: return as_is(p, v);
	case WANT_seq: return get_seq(p, v);
	case WANT_inner: /* split axes stay split; what is pending over other tp axes is summed */
	case WANT_whole: break;
	}
	return get_whole(p, v);
}

/* Result r of an op as it will be typed; pending sums are what inference says. */
static Type
result_type(const Tp *p, const Op *op, int r, Want how, const Type *inferred)
{
	Type t = *val_type(p->src, op->out[r]);
	split_inner(p, &t);
	if (how == WANT_seq && has_seq(p, &t)) split_axis(p, &t, type_find(&t, p->s->seq));
	if (how == WANT_as_is && seq_split(p, inferred))
		split_axis(p, &t, type_find(&t, p->s->seq));
	t.partial = (uint16_t)((t.partial & ~p->bits) | (inferred->partial & p->bits));
	return t;
}

static void
copy_one(Tp *p, const Op *op)
{
	Body *b = p->dst;
	Want how = want_of(p, op);
	Op made = *op;
	Type t[MAX_OUT];
	made.in = NEW_N(p->m->arena, Val, op->nin);
	made.attrs = arena_dup(p->m->arena, op->attrs, sizeof *op->attrs * op->nattr);
	for (int k = 0; k < op->nin; k++)
		made.in[k] = take(p, op->in[k], how);
	if (p->failed) return;
	if (acts_on(p, op, inner)) {
		fail(p);
		return;
	}
	if (!ir_infer(p->m, b, &made, p->quiet, t)) {
		fail(p);
		return;
	}
	for (int r = 0; r < op->nout; r++) {
		if (!op->out[r].i) continue;
		Type want = result_type(p, op, r, how, &t[r]);
		if (r == 0 && !ir_fits(&made, &t[r], &want))
			fail(p); /* indices that are whole constants, say */
		unsigned used = want.partial;
		for (int k = 0; k < want.n; k++)
			for (int j = 0; j < want.ax[k].nshard; j++) {
				unsigned bit = 1u << want.ax[k].shard[j];
				if (used & bit) fail(p); /* one mesh axis, two uses */
				used |= bit;
			}
		made.out[r] = ir_val(p->m, b, p->src->vals[op->out[r].i].name, want);
		b->vals[made.out[r].i].def = b->nops + 1;
		b->vals[made.out[r].i].result = (uint8_t)r;
		p->form[op->out[r].i] = (Form){.as_is = made.out[r]};
	}
	PUSH(p->m->arena, b->ops, b->nops, b->cops, made);
}

/* ---- cross-entropy ---- */

static Val
emit1(Tp *p, OpCode code, Val x, Loc loc)
{
	return emit(p, code, &x, 1, NULL, 0, NULL, loc);
}

static Val
emit2(Tp *p, OpCode code, Val x, Val y, Loc loc)
{
	return emit(p, code, (Val[]){x, y}, 2, NULL, 0, NULL, loc);
}

static Val
reduced(Tp *p, OpCode code, Val x, const AxisList *axes, Loc loc)
{
	Attr a = attr_make_axes(AK_axes, axes);
	return emit(p, code, &x, 1, &a, 1, NULL, loc);
}

static Val
summed(Tp *p, Val x, unsigned over)
{
	return collective(p, OP_all_reduce, x, over, NO_AXIS);
}

/* m = max x; lse = m + log sum exp(x - m); loss = lse - x[label]. */
static void
split_cross_entropy(Tp *p, const Op *op)
{
	AxisList axis = {.n = 1, .a = {attr_axis(op, AK_axis)}};
	Val x = get_whole(p, op->in[0]), label = get_whole(p, op->in[1]);
	unsigned axis_bits = p->s->inner[axis.a[0].i];
	DType dt = val_type(p->src, op->out[0].i ? op->out[0] : op->out[1])->dt;
	Attr over[2] = {{.key = AK_over, .i = axis_bits}, {.key = AK_max, .i = 1}};
	Loc loc = op->loc;

	if (val_type(p->dst, x)->dt != dt) {
		Attr to = attr_make_dtype(AK_dtype, dt);
		x = emit(p, OP_cast, &x, 1, &to, 1, NULL, loc);
	}
	Val most = reduced(p, OP_rmax, x, &axis, loc);
	most = emit(p, OP_all_reduce, &most, 1, over, 2, NULL, loc);
	Val e = emit1(p, OP_exp, emit2(p, OP_sub, x, most, loc), loc);
	Val sum = summed(p, reduced(p, OP_sum, e, &axis, loc), axis_bits);
	Val lse = emit2(p, OP_add, emit1(p, OP_log, sum, loc), most, loc);
	Attr at = attr_make_axes(AK_axes, &axis);
	Val picked =
	    summed(p, emit(p, OP_gather, (Val[]){x, label}, 2, &at, 1, NULL, loc), axis_bits);
	if (p->failed) return;
	for (int r = 0; r < 2; r++) {
		if (!op->out[r].i) continue;
		Type t = *val_type(p->src, op->out[r]);
		Val in[2] = {lse, picked};
		Val v = r ? lse : body_op(p->m, p->dst, OP_sub, in, 2, NULL, 0, &t, loc);
		p->form[op->out[r].i] = (Form){.as_is = v};
	}
}

/* ---- bodies ---- */

static void
give_in(Tp *p, const Port *q)
{
	const ValDef *d = &p->src->vals[q->v.i];
	Type t = d->type;
	uint16_t data = t.partial;
	switch (q->kind) {
	case PORT_arg:
	case PORT_cot: t = edge_type(p, &t); break;
	case PORT_weight: split_inner(p, &t); break;
	case PORT_saved: t = p->t->saved[q->slot]; break;
	case PORT_carry: t = p->t->carry[q->slot]; break;
	default: break;
	}
	if (q->kind == PORT_arg || q->kind == PORT_cot) t.partial = data;
	Val v = ir_port(p->m, p->dst, q->kind, q->slot, d->name, t);
	p->form[q->v.i] = (Form){.as_is = v};
}

/* The gradient of a weight: of its layout, and pending only where nobody else adds to it. */
static Val
weight_gradient(Tp *p, const Port *q)
{
	Val v = as_is(p, q->v);
	const Type *t = val_type(p->dst, v);
	bool shared = q->slot >= 64 || p->shared >> q->slot & 1;
	if (seq_split(p, t) || (shared && t->partial & p->bits)) return get_whole(p, q->v);
	return v;
}

static void
give_out(Tp *p, const Port *q)
{
	Val v;
	switch (q->kind) {
	case PORT_logits: v = pending(p, q->v) ? get_edge(p, q->v) : as_is(p, q->v); break;
	case PORT_dw: v = weight_gradient(p, q); break;
	default: v = get_edge(p, q->v); break;
	}
	if (p->failed) return;
	ir_out(p->m, p->dst, q->kind, q->slot, v);
	if (q->kind == PORT_save) p->t->saved[q->slot] = *val_type(p->dst, v);
	if (q->kind == PORT_carry_out) p->t->carry[q->slot] = *val_type(p->dst, v);
}

/* Does some value have two axes that one tp axis splits? */
static bool
too_many(const Tp *p, const Body *b)
{
	for (uint32_t v = 1; v < b->nvals; v++) {
		unsigned seen = 0;
		const Type *t = &b->vals[v].type;
		for (int k = 0; k < t->n; k++) {
			unsigned bits = inner(p, t->ax[k].a) ? p->s->inner[t->ax[k].a.i] : 0;
			if (seen & bits) return true;
			seen |= bits;
		}
	}
	return false;
}

static void
split_body(Tp *p, const Body *src, Body *dst)
{
	p->src = src, p->dst = dst;
	p->form = NEW_N(p->c->tmp, Form, src->nvals);
	dst->mesh = src->mesh;
	if (too_many(p, src)) fail(p);
	for (uint32_t i = 0; i < src->nports && !p->failed; i++)
		if (port_is_in(src->ports[i].kind)) give_in(p, &src->ports[i]);
	for (uint32_t i = 0; i < src->nops && !p->failed; i++) {
		const Op *op = &src->ops[i];
		if (op->code == OP_cross_entropy && inner(p, attr_axis(op, AK_axis)))
			split_cross_entropy(p, op);
		else
			copy_one(p, op);
	}
	for (uint32_t i = 0; i < src->nports && !p->failed; i++)
		if (!port_is_in(src->ports[i].kind)) give_out(p, &src->ports[i]);
	body_sort_ports(dst);
}

bool
tp_type(Ctx *c, Module *m, uint32_t mesh, const TpChoice *s, uint64_t shared, LayerType *t,
	Body *body[BK_COUNT])
{
	const Mesh *over = &m->plan.meshes[mesh];
	Tp p = {.c = c, .m = m, .s = s, .t = t, .shared = shared};
	for (int k = 1; k < over->n; k++) {
		if (over->ax[k].kind != MX_tp || over->ax[k].degree <= 1) continue;
		if (p.use.nshard == MAX_SHARD) return false;
		p.use.shard[p.use.nshard++] = (uint8_t)k;
		p.bits |= 1u << k;
	}
	if (!p.bits) return true;
	p.quiet = diag_new(c->tmp, m->names, NULL);
	for (uint32_t k = 0; k < t->nweights; k++)
		split_inner(&p, &t->weights[k].type);
	for (int k = BK_F; k <= BK_W && !p.failed; k++) {
		if (!body[k]) continue;
		Body dst = ir_body(body[k]->name, body[k]->kind);
		split_body(&p, body[k], &dst);
		*body[k] = dst;
		if (!p.failed) body_dce(m, body[k]);
	}
	return !p.failed;
}
