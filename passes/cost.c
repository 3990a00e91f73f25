/*
 * cost.c - what an op costs: floating-point operations of contractions, elementwise work, bytes moved.
 *
 * One rule per op, indexed by code: a new op without a rule does not compile. Costs are of the
 * local tensors of the body's mesh, so that they are exact for one rank and one microbatch.
 * Nothing here estimates: flops are counted (banded attention by the pairs inside the band),
 * bytes are those of operands and results.
 */
#include "passes/passes.h"

typedef double FlopsRule(const Module *m, const Body *b, const Op *op);

static double
flops_none(const Module *m, const Body *b, const Op *op)
{
	(void)m, (void)b, (void)op;
	return 0;
}

/* Elements of the union of the axes of two types. */
static double
union_count(const Module *m, const Mesh *mesh, const Type *x, const Type *y)
{
	double n = (double)type_count(m, mesh, x);
	for (int k = 0; k < y->n; k++)
		if (type_find(x, y->ax[k].a) < 0) n *= (double)type_extent(m, mesh, y, k);
	return n;
}

static double
flops_dot(const Module *m, const Body *b, const Op *op)
{
	return 2 *
	       union_count(m, ir_mesh(m, b), val_type(b, op->in[0]), val_type(b, op->in[1]));
}

/* Pairs (query, key) with lo <= key - query <= hi among q queries and k keys. */
static double
band_pairs(int64_t q, int64_t k, const Op *op)
{
	const Attr *lo = attr_find(op, AK_lo), *hi = attr_find(op, AK_hi);
	if (!lo && !hi) return (double)q * (double)k;
	double pairs = 0;
	for (int64_t i = 0; i < q; i++) {
		int64_t from = lo && i + lo->i > 0 ? i + lo->i : 0;
		int64_t to = hi && i + hi->i < k - 1 ? i + hi->i : k - 1;
		if (to >= from) pairs += (double)(to - from + 1);
	}
	return pairs;
}

/* Scores an attention looks at, over all carried axes. */
static double
attention_scores(const Module *m, const Body *b, const Op *op)
{
	const Mesh *mesh = ir_mesh(m, b);
	const Type *q = val_type(b, op->in[0]), *k = val_type(b, op->in[1]);
	const AxisList *feat = attr_axes(op, AK_feat), *keys = attr_axes(op, AK_keys);
	const Attr *query = attr_find(op, AK_query);
	double n = union_count(m, mesh, q, k);
	for (int i = 0; i < feat->n; i++)
		n /= (double)type_extent(m, mesh, q, type_find(q, feat->a[i]));
	if (!query || keys->n != 1) return n;
	int64_t nq = type_extent(m, mesh, q, type_find(q, query->axis));
	int64_t nk = type_extent(m, mesh, k, type_find(k, keys->a[0]));
	return n / ((double)nq * (double)nk) * band_pairs(nq, nk, op);
}

static double
feature_count(const Module *m, const Body *b, const Op *op)
{
	const Type *q = val_type(b, op->in[0]);
	const AxisList *feat = attr_axes(op, AK_feat);
	double n = 1;
	for (int i = 0; i < feat->n; i++)
		n *= (double)type_extent(m, ir_mesh(m, b), q, type_find(q, feat->a[i]));
	return n;
}

/* Axes of v that are neither keys nor carried are its features; without attributes for them
 * we count what q lacks. */
static double
value_count(const Module *m, const Body *b, const Op *op)
{
	const Type *v = val_type(b, op->in[2]), *k = val_type(b, op->in[1]),
		   *q = val_type(b, op->in[0]);
	const AxisList *feat = attr_axes(op, AK_feat);
	double n = 1;
	for (int i = 0; i < v->n; i++) {
		Axis a = v->ax[i].a;
		bool own = axes_has(feat, a) || (type_find(k, a) < 0 && type_find(q, a) < 0);
		if (own) n *= (double)type_extent(m, ir_mesh(m, b), v, i);
	}
	return n;
}

static double
flops_attention(const Module *m, const Body *b, const Op *op)
{
	return 2 * attention_scores(m, b, op) *
	       (feature_count(m, b, op) + value_count(m, b, op));
}

/* dq, dk, dv and the two products they come from; the scores are made again, which is
 * recomputation, not the model's. */
static double
flops_attention_grad(const Module *m, const Body *b, const Op *op)
{
	return 2 * flops_attention(m, b, op);
}

#define flops_const          flops_none
#define flops_pos            flops_none
#define flops_inside         flops_none
#define flops_neg            flops_none
#define flops_exp            flops_none
#define flops_log            flops_none
#define flops_sqrt           flops_none
#define flops_sin            flops_none
#define flops_cos            flops_none
#define flops_tanh           flops_none
#define flops_erf            flops_none
#define flops_sigmoid        flops_none
#define flops_relu           flops_none
#define flops_abs            flops_none
#define flops_not            flops_none
#define flops_cast           flops_none
#define flops_stop           flops_none
#define flops_copy           flops_none
#define flops_broadcast      flops_none
#define flops_add            flops_none
#define flops_sub            flops_none
#define flops_mul            flops_none
#define flops_div            flops_none
#define flops_floordiv       flops_none
#define flops_mod            flops_none
#define flops_pow            flops_none
#define flops_min            flops_none
#define flops_max            flops_none
#define flops_lt             flops_none
#define flops_le             flops_none
#define flops_eq             flops_none
#define flops_ne             flops_none
#define flops_and            flops_none
#define flops_or             flops_none
#define flops_where          flops_none
#define flops_dropout        flops_none
#define flops_view           flops_none
#define flops_slice          flops_none
#define flops_unslice        flops_none
#define flops_roll           flops_none
#define flops_concat         flops_none
#define flops_gather         flops_none
#define flops_scatter_add    flops_none
#define flops_sum            flops_none
#define flops_rmax           flops_none
#define flops_rmin           flops_none
#define flops_softmax        flops_none
#define flops_normalize      flops_none
#define flops_moments        flops_none
#define flops_topk           flops_none
#define flops_cross_entropy  flops_none
#define flops_sumsq          flops_none
#define flops_adamw          flops_none
#define flops_sgd            flops_none
#define flops_all_reduce     flops_none
#define flops_all_gather     flops_none
#define flops_reduce_scatter flops_none
#define flops_all_to_all     flops_none
#define flops_part           flops_none
#define flops_reshard        flops_none

static FlopsRule *const flops_rule[OP_COUNT] = {
    [OP_none] = flops_none,
#define OP(code, ...) [OP_##code] = flops_##code,
#include "ir/ops.def"
};

/* Elementwise operations in simple ones: what calls exp or draws random numbers is about ten of them. */
static double
loops_of(const Module *m, const Body *b, const Op *op)
{
	enum { DEAR = 10 };
	if (!(op_info[op->code].flags & (OF_EW | OF_RNG))) return 0;
	double n = (double)type_count(m, ir_mesh(m, b), val_type(b, op->out[0]));
	switch (op->code) {
	case OP_exp:
	case OP_log:
	case OP_sin:
	case OP_cos:
	case OP_tanh:
	case OP_erf:
	case OP_sigmoid:
	case OP_pow:
	case OP_dropout: return n * DEAR;
	default: return n;
	}
}

/* touched[v] == stamp: this kernel has read or made v. */
static void
count_op(const Module *m, const Body *b, const Op *op, uint32_t *touched, uint32_t stamp,
	 Cost *c)
{
	const Mesh *mesh = ir_mesh(m, b);
	c->flops += flops_rule[op->code](m, b, op);
	c->loops += loops_of(m, b, op);
	for (int i = 0; i < op->nin; i++) {
		uint32_t v = op->in[i].i;
		bool again = op->kernel && touched[v] == stamp;
		touched[v] = stamp;
		if (!again && b->vals[v].space != SP_local)
			c->moved += type_bytes(m, mesh, &b->vals[v].type);
	}
	for (int r = 0; r < op->nout; r++) {
		const ValDef *v = &b->vals[op->out[r].i];
		touched[op->out[r].i] = stamp;
		if (op->out[r].i && v->space != SP_local && v->space != SP_alias)
			c->moved += type_bytes(m, mesh, &v->type);
	}
}

/* A kernel reads what several of its ops share once, and does not read what it made. */
Cost
cost_kernel(const Module *m, const Body *b, uint32_t first, uint32_t *end, uint32_t *touched,
	    uint32_t stamp)
{
	Cost c = {0};
	uint32_t i = first, kernel = b->ops[first].kernel;
	do
		count_op(m, b, &b->ops[i++], touched, stamp, &c);
	while (kernel && i < b->nops && b->ops[i].kernel == kernel);
	*end = i;
	return c;
}

Cost
cost_body(const Module *m, const Body *b)
{
	Arena *a = arena_new();
	uint32_t *touched = NEW_N(a, uint32_t, b->nvals), stamp = 0;
	Cost sum = {0};
	for (uint32_t i = 0, end; i < b->nops; i = end) {
		end = i + 1;
		if (op_info[b->ops[i].code].flags & OF_COMM) continue;
		Cost c = cost_kernel(m, b, i, &end, touched, ++stamp);
		sum.flops += c.flops;
		sum.loops += c.loops;
		sum.moved += c.moved;
	}
	arena_free(a);
	return sum;
}
