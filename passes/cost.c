/*
 * cost.c - what an op costs: floating-point operations of contractions, elementwise work, bytes moved.
 *
 * One rule per op, indexed by code: a new op without a rule does not compile. Costs are of the
 * local tensors of the body's mesh, so that they are exact for one rank and one microbatch.
 * Nothing here estimates: flops are counted (banded attention by the pairs inside the band),
 * bytes are those of operands and results.
 */
#include "passes/passes.h"

/* Whose ops are counted, and how long their axes are: as the mesh says, or `at`, by axis. */
typedef struct Local {
	const Module *m;
	const Body *b;
	const Mesh *mesh;
	const int64_t *at;
} Local;

typedef double FlopsRule(const Local *l, const Op *op);

static double
extent_of(const Local *l, const Type *t, int k)
{
	return l->at ? (double)l->at[t->ax[k].a.i] : (double)type_extent(l->m, l->mesh, t, k);
}

/* Elements; of state of which a rank has a range (ZeRO), that range. */
static double
count_of(const Local *l, const Type *t)
{
	double n = 1;
	for (int k = 0; k < t->n; k++)
		n *= extent_of(l, t, k);
	return t->flat ? n / ir_degree(l->mesh, t->flat) : n;
}

static double
bytes_of(const Local *l, const Type *t)
{
	return count_of(l, t) * dtype_bytes(t->dt);
}

static double
flops_none(const Local *l, const Op *op)
{
	(void)l, (void)op;
	return 0;
}

/* Elements of the union of the axes of two types. */
static double
union_count(const Local *l, const Type *x, const Type *y)
{
	double n = count_of(l, x);
	for (int k = 0; k < y->n; k++)
		if (type_find(x, y->ax[k].a) < 0) n *= extent_of(l, y, k);
	return n;
}

static double
flops_dot(const Local *l, const Op *op)
{
	return 2 * union_count(l, val_type(l->b, op->in[0]), val_type(l->b, op->in[1]));
}

/* Sum of min(i, k) for i in 0 .. n, i < n; k >= 0. */
static double
ramp(double n, double k)
{
	if (n <= 0) return 0;
	return n <= k ? n * (n - 1) / 2 : k * (k - 1) / 2 + (n - k) * k;
}

/* Pairs of query i < q and key j < k with j <= i + hi: query i has i + hi + 1 keys, or none, or all. */
static double
pairs_below(double q, double k, double hi)
{
	return ramp(q + hi + 1, k) - ramp(hi + 1, k);
}

/* Pairs (query, key) with lo <= key - query <= hi among q queries and k keys. */
static double
band_pairs(double q, double k, const Op *op)
{
	const Attr *lo = attr_find(op, AK_lo), *hi = attr_find(op, AK_hi);
	double to = hi ? pairs_below(q, k, (double)hi->i) : q * k;
	double from = lo ? pairs_below(q, k, (double)lo->i - 1) : 0;
	return to > from ? to - from : 0;
}

/* Scores an attention looks at, over all carried axes. */
static double
attention_scores(const Local *l, const Op *op)
{
	const Type *q = val_type(l->b, op->in[0]), *k = val_type(l->b, op->in[1]);
	const AxisList *feat = attr_axes(op, AK_feat), *keys = attr_axes(op, AK_keys);
	const Attr *query = attr_find(op, AK_query);
	double n = union_count(l, q, k);
	for (int i = 0; i < feat->n; i++)
		n /= extent_of(l, q, type_find(q, feat->a[i]));
	if (!query || keys->n != 1) return n;
	double nq = extent_of(l, q, type_find(q, query->axis));
	double nk = extent_of(l, k, type_find(k, keys->a[0]));
	return n / (nq * nk) * band_pairs(nq, nk, op);
}

static double
feature_count(const Local *l, const Op *op)
{
	const Type *q = val_type(l->b, op->in[0]);
	const AxisList *feat = attr_axes(op, AK_feat);
	double n = 1;
	for (int i = 0; i < feat->n; i++)
		n *= extent_of(l, q, type_find(q, feat->a[i]));
	return n;
}

/* Axes of v that are neither keys nor carried are its features; without attributes for them
 * we count what q lacks. */
static double
value_count(const Local *l, const Op *op)
{
	const Type *v = val_type(l->b, op->in[2]), *k = val_type(l->b, op->in[1]),
		   *q = val_type(l->b, op->in[0]);
	const AxisList *feat = attr_axes(op, AK_feat);
	double n = 1;
	for (int i = 0; i < v->n; i++) {
		Axis a = v->ax[i].a;
		bool own = axes_has(feat, a) || (type_find(k, a) < 0 && type_find(q, a) < 0);
		if (own) n *= extent_of(l, v, i);
	}
	return n;
}

static double
flops_attention(const Local *l, const Op *op)
{
	return 2 * attention_scores(l, op) * (feature_count(l, op) + value_count(l, op));
}

/* dq, dk, dv and the two products they come from; the scores are made again, which is
 * recomputation, not the model's. */
static double
flops_attention_grad(const Local *l, const Op *op)
{
	return 2 * flops_attention(l, op);
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
loops_of(const Local *l, const Op *op)
{
	enum { DEAR = 10 };
	if (!(op_info[op->code].flags & (OF_EW | OF_RNG))) return 0;
	double n = count_of(l, val_type(l->b, op->out[0]));
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

/* touched[v] == stamp: this kernel has read or made v. Of what it gathers from, an op reads no more than it makes. */
static double
moved_by(const Local *l, const Op *op, uint32_t *touched, uint32_t stamp)
{
	const ValDef *vals = l->b->vals;
	double moved = 0;
	for (int i = 0; i < op->nin; i++) {
		uint32_t v = op->in[i].i;
		bool again = op->kernel && touched[v] == stamp;
		touched[v] = stamp;
		if (again || vals[v].space == SP_local) continue;
		double bytes = bytes_of(l, &vals[v].type);
		double made = bytes_of(l, &vals[op->out[0].i].type);
		moved += op->code == OP_gather && i == 0 && made < bytes ? made : bytes;
	}
	for (int r = 0; r < op->nout; r++) {
		const ValDef *v = &vals[op->out[r].i];
		touched[op->out[r].i] = stamp;
		if (op->out[r].i && v->space != SP_local && v->space != SP_alias)
			moved += bytes_of(l, &v->type);
	}
	return moved;
}

/* Views and literals; in a body that is not packed yet, what mostly is one. */
static bool
runs_nothing(const Body *b, const Op *op)
{
	Space space = b->vals[op->out[0].i].space;
	bool literal = op->code == OP_const, view = op->code == OP_view || op->code == OP_slice;
	return space == SP_alias || (literal && space == SP_local) ||
	       (space == SP_none && (literal || view));
}

/* A kernel reads what several of its ops share once, and does not read what it made. */
Cost
cost_kernel(const Module *m, const Body *b, uint32_t first, uint32_t *end, uint32_t *touched,
	    uint32_t stamp, const int64_t *at)
{
	Local l = {m, b, ir_mesh(m, b), at};
	Cost c = {0};
	uint32_t i = first, kernel = b->ops[first].kernel;
	do {
		const Op *op = &b->ops[i++];
		if (runs_nothing(b, op)) continue;
		c.flops += flops_rule[op->code](&l, op);
		c.loops += loops_of(&l, op);
		c.moved += moved_by(&l, op, touched, stamp);
	} while (kernel && i < b->nops && b->ops[i].kernel == kernel);
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
		Cost c = cost_kernel(m, b, i, &end, touched, ++stamp, NULL);
		sum.flops += c.flops;
		sum.loops += c.loops;
		sum.moved += c.moved;
	}
	arena_free(a);
	return sum;
}
