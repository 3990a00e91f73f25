/*
 * simplify.c - makes a body say the same with less: LV_graph -> LV_graph, and any straight-line body of level train.
 *
 * Every op of the old body is placed into a new one, in order: operands are mapped, broadcasts that the op makes anyway are
 * stripped, scalar constants folded, exact identities applied, `normalize` expanded, and what is already there reused
 * (common subexpressions). Then dead code goes.
 *
 * Invariant: a value is only ever replaced by one of exactly its type, order of axes included; so the types of later ops
 * hold without inference. "Exact" means equal in real arithmetic and never less accurate in floating point: x + 0 is x,
 * x / 8 is x * 0.125, but x * 0 stays (it may be NaN), and nothing is reassociated. New ops keep the place of their cause.
 */
#include "passes/passes.h"

#include <math.h>
#include <string.h>

typedef struct Simplify {
	Module *m;
	Body *b;        /* the new body */
	bool keep_stop; /* `stop` matters until the body has been differentiated */
	Name hint;      /* what the op at hand was called: what replaces it is called alike */
	Arena *tmp;
	uint32_t *head, *next; /* chains of ops with one hash: 1 + index of op */
	uint32_t mask, cnext;
} Simplify;

static Val place1(Simplify *s, Op *op, const Type *t, Name hint);

/* ---- constants ---- */

static bool
const_value(const Body *b, Val v, double *x)
{
	const Op *op = val_op(b, v);

	if (!op || op->code != OP_const) return false;
	*x = attr_num(op, AK_value);
	return true;
}

static bool
is_const(const Body *b, Val v, double want)
{
	double x;

	return const_value(b, v, &x) && x == want;
}

static bool
fold1(OpCode code, double x, DType to, double *y)
{
	switch (code) {
	case OP_neg: *y = -x; return true;
	case OP_exp: *y = exp(x); return true;
	case OP_log: *y = log(x); return true;
	case OP_sqrt: *y = sqrt(x); return true;
	case OP_sin: *y = sin(x); return true;
	case OP_cos: *y = cos(x); return true;
	case OP_tanh: *y = tanh(x); return true;
	case OP_erf: *y = erf(x); return true;
	case OP_sigmoid: *y = 1 / (1 + exp(-x)); return true;
	case OP_relu: *y = x > 0 ? x : 0; return true;
	case OP_abs: *y = fabs(x); return true;
	case OP_not: *y = !x; return true;
	case OP_stop:
	case OP_copy: *y = x; return true;
	case OP_cast: *y = to == DT_bool ? x != 0 : dtype_float(to) ? x : trunc(x); return true;
	default: return false;
	}
}

static bool
fold2(OpCode code, double x, double y, bool whole, double *z)
{
	switch (code) {
	case OP_add: *z = x + y; return true;
	case OP_sub: *z = x - y; return true;
	case OP_mul: *z = x * y; return true;
	case OP_div: *z = x / y; return !whole;
	case OP_floordiv: *z = floor(x / y); return y != 0;
	case OP_mod: *z = x - y * floor(x / y); return y != 0;
	case OP_pow: *z = pow(x, y); return true;
	case OP_min: *z = x < y ? x : y; return x == x && y == y;
	case OP_max: *z = x > y ? x : y; return x == x && y == y;
	case OP_lt: *z = x < y; return true;
	case OP_le: *z = x <= y; return true;
	case OP_eq: *z = x == y; return true;
	case OP_ne: *z = x != y; return true;
	case OP_and: *z = x != 0 && y != 0; return true;
	case OP_or: *z = x != 0 || y != 0; return true;
	default: return false;
	}
}

/* A constant for an op whose operands are all scalar constants, computed in double; whole numbers must stay in range. */
static Val
fold(Simplify *s, const Op *op, const Type *t)
{
	double x[3], z;
	bool ok = false;

	if (t->n || !op->nin || op->nin > 3) return NO_VAL;
	for (int k = 0; k < op->nin; k++)
		if (!const_value(s->b, op->in[k], &x[k])) return NO_VAL;
	if (op->code == OP_stop && s->keep_stop) return NO_VAL;
	if (op->nin == 1) ok = fold1(op->code, x[0], t->dt, &z);
	if (op->nin == 2) ok = fold2(op->code, x[0], x[1], t->dt == DT_i32, &z);
	if (op->nin == 3 && op->code == OP_where) ok = true, z = x[0] != 0 ? x[1] : x[2];
	if (!ok || !isfinite(z)) return NO_VAL;
	if (t->dt == DT_i32 && (z != trunc(z) || fabs(z) > INT32_MAX)) return NO_VAL;

	Attr value = attr_make_num(AK_value, z);
	Op c = {.code = OP_const, .nout = 1, .nattr = 1, .attrs = &value, .loc = op->loc};
	return place1(s, &c, t, 0);
}

/* ---- small makers ---- */

static Val
scalar(Simplify *s, DType dt, double x, Loc loc)
{
	Attr value = attr_make_num(AK_value, x);
	Op c = {.code = OP_const, .nout = 1, .nattr = 1, .attrs = &value, .loc = loc};
	Type t = {.dt = dt};

	return place1(s, &c, &t, 0);
}

static Val
make1(Simplify *s, OpCode code, Val x, const Type *t, Loc loc)
{
	Op op = {.code = code, .nin = 1, .nout = 1, .in = &x, .loc = loc};

	return place1(s, &op, t, 0);
}

static Val
make2(Simplify *s, OpCode code, Val x, Val y, const Type *t, Loc loc)
{
	Val in[2] = {x, y};
	Op op = {.code = code, .nin = 2, .nout = 1, .in = in, .loc = loc};

	return place1(s, &op, t, 0);
}

static Val
rename_axis(Simplify *s, Val x, Axis from, Axis to, const Type *t, Loc loc)
{
	AxisList f = {.n = 1, .a = {from}}, o = {.n = 1, .a = {to}};
	Attr attrs[2] = {attr_make_axes(AK_from, &f), attr_make_axes(AK_to, &o)};
	Op op = {.code = OP_view,
		 .nin = 1,
		 .nout = 1,
		 .nattr = 2,
		 .in = &x,
		 .attrs = attrs,
		 .loc = loc};

	return place1(s, &op, t, 0);
}

/* x if it can stand for a value of type t. */
static Val
same(const Simplify *s, Val x, const Type *t)
{
	return type_equal(val_type(s->b, x), t) ? x : NO_VAL;
}

static bool
axis_lists_equal(const AxisList *a, const AxisList *b)
{
	if (a->n != b->n) return false;
	for (int k = 0; k < a->n; k++)
		if (a->a[k].i != b->a[k].i) return false;
	return true;
}

/* The operand of v's op if that has the given code. */
static Val
operand_of(const Body *b, Val v, OpCode code)
{
	const Op *op = val_op(b, v);

	return op && op->code == code ? op->in[0] : NO_VAL;
}

/* ---- identities ---- */

static Val
identity_pow(Simplify *s, const Op *op, const Type *t)
{
	Val x = op->in[0];
	double p;

	if (!dtype_float(t->dt) || !const_value(s->b, op->in[1], &p)) return NO_VAL;
	if (!type_same_axes(val_type(s->b, x), t)) return NO_VAL;
	if (p == 1) return same(s, x, t);
	if (p == 2) return make2(s, OP_mul, x, x, t, op->loc);
	if (p == 3) return make2(s, OP_mul, make2(s, OP_mul, x, x, t, op->loc), x, t, op->loc);
	if (p == 0.5) return make1(s, OP_sqrt, x, t, op->loc);
	if (p == -1) return make2(s, OP_div, scalar(s, t->dt, 1, op->loc), x, t, op->loc);
	if (p == -0.5)
		return make2(s, OP_div, scalar(s, t->dt, 1, op->loc),
			     make1(s, OP_sqrt, x, t, op->loc), t, op->loc);
	return NO_VAL;
}

static Val
identity_sum(Simplify *s, const Op *op, const Type *t)
{
	Val x = op->in[0], y;
	const Body *b = s->b;

	switch (op->code) {
	case OP_add:
		if (is_const(b, op->in[1], 0)) return same(s, x, t);
		if (is_const(b, x, 0)) return same(s, op->in[1], t);
		if ((y = operand_of(b, op->in[1], OP_neg)).i)
			return make2(s, OP_sub, x, y, t, op->loc);
		if ((y = operand_of(b, x, OP_neg)).i)
			return make2(s, OP_sub, op->in[1], y, t, op->loc);
		return NO_VAL;
	case OP_sub:
		if (is_const(b, op->in[1], 0)) return same(s, x, t);
		if ((y = operand_of(b, op->in[1], OP_neg)).i)
			return make2(s, OP_add, x, y, t, op->loc);
		if (is_const(b, x, 0) && type_same_axes(val_type(b, op->in[1]), t))
			return make1(s, OP_neg, op->in[1], t, op->loc);
		return NO_VAL;
	default: return NO_VAL;
	}
}

static Val
identity_product(Simplify *s, const Op *op, const Type *t)
{
	const Body *b = s->b;
	int e;
	double c;

	if (op->code == OP_mul) {
		for (int k = 0; k < 2; k++) {
			Val other = op->in[1 - k];

			if (is_const(b, op->in[k], 1)) return same(s, other, t);
			if (is_const(b, op->in[k], -1) && type_same_axes(val_type(b, other), t))
				return make1(s, OP_neg, other, t, op->loc);
		}
		return NO_VAL;
	}
	if (!dtype_float(t->dt) || !const_value(b, op->in[1], &c)) return NO_VAL;
	if (c == 1) return same(s, op->in[0], t);
	if (c != 0 && isfinite(c) && fabs(frexp(c, &e)) == 0.5 && e > -100 && e < 100)
		return make2(s, OP_mul, op->in[0], scalar(s, t->dt, 1 / c, op->loc), t,
			     op->loc);
	return NO_VAL;
}

static Val
identity_logic(Simplify *s, const Op *op, const Type *t)
{
	const Body *b = s->b;
	bool conj = op->code == OP_and;
	double c;
	Val x;

	switch (op->code) {
	case OP_not: return (x = operand_of(b, op->in[0], OP_not)).i ? same(s, x, t) : NO_VAL;
	case OP_and:
	case OP_or:
		if (op->in[0].i == op->in[1].i) return same(s, op->in[0], t);
		for (int k = 0; k < 2; k++) {
			if (!const_value(b, op->in[k], &c)) continue;
			return same(s, (c != 0) == conj ? op->in[1 - k] : op->in[k], t);
		}
		return NO_VAL;
	case OP_where:
		if (op->in[1].i == op->in[2].i) return same(s, op->in[1], t);
		if (const_value(b, op->in[0], &c)) return same(s, op->in[c != 0 ? 1 : 2], t);
		return NO_VAL;
	case OP_min:
	case OP_max: return op->in[0].i == op->in[1].i ? same(s, op->in[0], t) : NO_VAL;
	default: return NO_VAL;
	}
}

/* Between floats, to a wider type and back is nothing; from and to one type neither. */
static Val
identity_cast(Simplify *s, const Op *op, const Type *t)
{
	Val x = op->in[0], y = operand_of(s->b, x, OP_cast);

	if (same(s, x, t).i) return x;
	if (!y.i || !same(s, y, t).i) return NO_VAL;

	DType mid = val_type(s->b, x)->dt;
	return dtype_float(mid) && dtype_float(t->dt) && dtype_bytes(mid) >= dtype_bytes(t->dt)
		   ? y
		   : NO_VAL;
}

static Val
identity_view(Simplify *s, const Op *op, const Type *t)
{
	const AxisList *from = attr_axes(op, AK_from), *to = attr_axes(op, AK_to);
	const Op *in = val_op(s->b, op->in[0]);

	if (axis_lists_equal(from, to)) return same(s, op->in[0], t);
	if (!in || in->code != OP_view) return NO_VAL;

	const AxisList *from0 = attr_axes(in, AK_from), *to0 = attr_axes(in, AK_to);
	Val x = in->in[0];

	if (!axis_lists_equal(to0, from)) return NO_VAL;
	if (axis_lists_equal(from0, to)) return same(s, x, t);
	if (from0->n == 1 && from->n == 1 && to->n == 1)
		return rename_axis(s, x, from0->a[0], to->a[0], t, op->loc);
	return NO_VAL;
}

/* A slice or unslice of all of an axis is a renaming, or a slice that turns it round. */
static Val
identity_slice(Simplify *s, const Op *op, const Type *t)
{
	bool un = op->code == OP_unslice;
	const Attr *other = attr_find(op, un ? AK_from : AK_to);
	const Op *in = val_op(s->b, op->in[0]);
	int64_t start = attr_int(op, AK_start), step = attr_int(op, AK_step);
	Axis a = attr_axis(op, AK_axis);

	if (!un && in && in->code == OP_unslice && attr_axis(in, AK_axis).i == a.i &&
	    attr_int(in, AK_start) == start && attr_int(in, AK_step) == step) {
		const Attr *from = attr_find(in, AK_from);

		if (!from == !other && same(s, in->in[0], t).i) return in->in[0];
	}
	if (!other || other->axes.n != 1) return NO_VAL;

	Axis o = other->axes.a[0], src = un ? o : a, dst = un ? a : o;
	int64_t n = ir_extent(s->m, a);

	if (ir_extent(s->m, o) != n) return NO_VAL;
	if (start == 0 && step == 1)
		return src.i == dst.i ? same(s, op->in[0], t)
				      : rename_axis(s, op->in[0], src, dst, t, op->loc);
	if (un && start == n - 1 && step == -1) {
		Val x = op->in[0];
		AxisList l = {.n = 1, .a = {dst}};
		Attr attrs[4] = {attr_make_axis(AK_axis, src), attr_make_axes(AK_to, &l),
				 attr_make_int(AK_start, start), attr_make_int(AK_step, step)};
		Op turn = {.code = OP_slice,
			   .nin = 1,
			   .nout = 1,
			   .nattr = 4,
			   .in = &x,
			   .attrs = attrs,
			   .loc = op->loc};

		return place1(s, &turn, t, 0);
	}
	return NO_VAL;
}

static Val
identity_roll(Simplify *s, const Op *op, const Type *t)
{
	Axis a = attr_axis(op, AK_axis);
	const Op *in = val_op(s->b, op->in[0]);
	int64_t n = ir_extent(s->m, a), shift = attr_int(op, AK_shift) % n;

	if (shift < 0) shift += n;
	if (shift == 0) return same(s, op->in[0], t);
	if (!in || in->code != OP_roll || attr_axis(in, AK_axis).i != a.i) return NO_VAL;

	Val x = in->in[0];
	Attr attrs[2] = {attr_make_axis(AK_axis, a),
			 attr_make_int(AK_shift, (attr_int(in, AK_shift) % n + n + shift) % n)};
	Op both = {.code = OP_roll,
		   .nin = 1,
		   .nout = 1,
		   .nattr = 2,
		   .in = &x,
		   .attrs = attrs,
		   .loc = op->loc};
	return place1(s, &both, t, 0);
}

/* The sum of n equal entries is n times one of them. */
static Val
identity_reduce(Simplify *s, const Op *op, const Type *t)
{
	const Op *in = val_op(s->b, op->in[0]);
	const AxisList *over = attr_axes(op, AK_axes);
	int64_t n = 1;

	if (over->n == 0) return same(s, op->in[0], t);
	if (!in || in->code != OP_broadcast) return NO_VAL;

	const Type *x = val_type(s->b, in->in[0]);
	if (!type_same_axes(x, t)) return NO_VAL; /* exactly the axes that were added */
	for (int k = 0; k < over->n; k++)
		n *= ir_extent(s->m, over->a[k]);
	if (op->code == OP_sum)
		return make2(s, OP_mul, in->in[0], scalar(s, t->dt, (double)n, op->loc), t,
			     op->loc);
	return same(s, in->in[0], t);
}

/* A value that equals the op's result, or none; operands are values of the new body. */
static Val
identity(Simplify *s, const Op *op, const Type *t)
{
	switch (op->code) {
	case OP_add:
	case OP_sub: return identity_sum(s, op, t);
	case OP_mul:
	case OP_div: return identity_product(s, op, t);
	case OP_pow: return identity_pow(s, op, t);
	case OP_not:
	case OP_and:
	case OP_or:
	case OP_where:
	case OP_min:
	case OP_max: return identity_logic(s, op, t);
	case OP_neg: {
		Val x = operand_of(s->b, op->in[0], OP_neg);
		return x.i ? same(s, x, t) : NO_VAL;
	}
	case OP_cast: return identity_cast(s, op, t);
	case OP_stop: return s->keep_stop ? NO_VAL : same(s, op->in[0], t);
	case OP_copy:
	case OP_broadcast: return same(s, op->in[0], t);
	case OP_view: return identity_view(s, op, t);
	case OP_slice:
	case OP_unslice: return identity_slice(s, op, t);
	case OP_roll: return identity_roll(s, op, t);
	case OP_sum:
	case OP_rmax:
	case OP_rmin: return identity_reduce(s, op, t);
	default: return NO_VAL;
	}
}

/* Reads what an operand was broadcast from where the op (elementwise, or a dot that carries those axes) broadcasts anyway. */
static void
strip_broadcasts(Simplify *s, Op *op, const Type *t)
{
	bool ew = op_info[op->code].flags & OF_EW, dot = op->code == OP_dot;

	if ((!ew && !dot) || op->nin < 2) return;
	for (int k = 0; k < op->nin; k++) {
		Val x = operand_of(s->b, op->in[k], OP_broadcast);
		bool ok = x.i != 0;

		for (int a = 0; ok && a < (dot ? attr_axes(op, AK_axes)->n : 0); a++)
			ok = type_find(val_type(s->b, x), attr_axes(op, AK_axes)->a[a]) >= 0;
		for (int a = 0; ok && a < t->n; a++) {
			ok = type_find(val_type(s->b, x), t->ax[a].a) >= 0;
			for (int j = 0; j < op->nin && !ok; j++)
				ok = j != k &&
				     type_find(val_type(s->b, op->in[j]), t->ax[a].a) >= 0;
		}
		if (ok) op->in[k] = x;
	}
}

/* ---- common subexpressions ---- */

static bool
commutes(OpCode code)
{
	return code == OP_add || code == OP_mul || code == OP_min || code == OP_max ||
	       code == OP_eq || code == OP_ne || code == OP_and || code == OP_or;
}

static uint64_t
op_hash(const Op *op, const Type *t)
{
	uint32_t in[2] = {op->nin ? op->in[0].i : 0, op->nin > 1 ? op->in[1].i : 0};

	if (commutes(op->code) && in[0] > in[1]) in[0] = op->in[1].i, in[1] = op->in[0].i;
	uint32_t key[6] = {op->code, op->nin, in[0], in[1], t->dt, t->n};
	uint64_t h = hash_bytes(key, sizeof key, 0);

	for (int k = 2; k < op->nin; k++)
		h = hash_bytes(&op->in[k].i, sizeof(uint32_t), h);
	for (int k = 0; k < op->nattr; k++) {
		const Attr *a = &op->attrs[k];

		if (attr_info[a->key].kind == AT_num) h = hash_bytes(&a->num, sizeof a->num, h);
		if (attr_info[a->key].kind == AT_int) h = hash_bytes(&a->i, sizeof a->i, h);
		if (attr_info[a->key].kind == AT_axis)
			h = hash_bytes(&a->axis.i, sizeof a->axis.i, h);
	}
	return h;
}

static bool
attr_equal(const Attr *a, const Attr *b)
{
	if (a->key != b->key) return false;
	switch (attr_info[a->key].kind) {
	case AT_num: return memcmp(&a->num, &b->num, sizeof a->num) == 0;
	case AT_axis: return a->axis.i == b->axis.i;
	case AT_axes: return axis_lists_equal(&a->axes, &b->axes);
	default: return a->i == b->i;
	}
}

static bool
op_same(const Op *a, const Op *b)
{
	if (a->code != b->code || a->nin != b->nin || a->nattr != b->nattr) return false;
	for (int k = 0; k < a->nattr; k++)
		if (!attr_equal(&a->attrs[k], &b->attrs[k])) return false;
	if (commutes(a->code) && a->in[0].i == b->in[1].i && a->in[1].i == b->in[0].i)
		return true;
	for (int k = 0; k < a->nin; k++)
		if (a->in[k].i != b->in[k].i) return false;
	return true;
}

/* The op of the new body that computes what `op` does, with results of the same types; NULL. */
static Op *
find_same(Simplify *s, const Op *op, const Type *t, uint64_t h)
{
	for (uint32_t i = s->head[h & s->mask]; i; i = s->next[i]) {
		Op *old = &s->b->ops[i - 1];
		bool ok = op_same(old, op);

		for (int r = 0; ok && r < op->nout; r++)
			ok = !old->out[r].i || type_equal(val_type(s->b, old->out[r]), &t[r]);
		if (ok) return old;
	}
	return NULL;
}

/* ---- placing ---- */

/* The op itself: reused if it is there, else appended. wanted: bit r = result r has a reader. */
static void
place_as_is(Simplify *s, const Op *op, const Type *t, const Name *hint, unsigned wanted,
	    Val *out)
{
	uint64_t h = op_hash(op, t);
	Op *old = find_same(s, op, t, h);

	if (!old) {
		Op made = *op;

		made.in = arena_dup(s->m->arena, op->in, op->nin * sizeof *op->in);
		made.attrs = arena_dup(s->m->arena, op->attrs, op->nattr * sizeof *op->attrs);
		memset(made.out, 0, sizeof made.out);
		PUSH(s->m->arena, s->b->ops, s->b->nops, s->b->cops, made);
		old = &s->b->ops[s->b->nops - 1];
		if (s->b->nops >= s->cnext) {
			s->next = arena_grow(s->tmp, s->next, s->cnext, 2 * (size_t)s->cnext,
					     sizeof *s->next);
			s->cnext *= 2;
		}
		s->next[s->b->nops] = s->head[h & s->mask];
		s->head[h & s->mask] = s->b->nops;
	}
	uint32_t def = 1 + (uint32_t)(old - s->b->ops);

	for (int r = 0; r < op->nout; r++) {
		if (!old->out[r].i && wanted >> r & 1) {
			old->out[r] = ir_val(s->m, s->b, hint[r], t[r]);
			s->b->vals[old->out[r].i].def = def;
			s->b->vals[old->out[r].i].result = (uint8_t)r;
		}
		out[r] = old->out[r];
	}
}

/* Places an op with one result, of type t (NULL: as inferred). May change op's operands, which must not be the arena's. */
static Val
place1(Simplify *s, Op *op, const Type *t, Name hint)
{
	Type types[MAX_OUT];
	Val out[MAX_OUT], v;

	if (!t) {
		ENSURE(ir_infer(s->m, s->b, op, NULL, types), "simplify made an ill-typed op");
		t = &types[0];
	}
	strip_broadcasts(s, op, t);
	if ((op_info[op->code].flags & OF_EW) && (v = fold(s, op, t)).i) return v;
	if ((v = identity(s, op, t)).i) return v;
	if (!hint && op->code != OP_const) hint = s->hint;
	if (!hint) hint = name_of(s->m->names, op_info[op->code].text);
	place_as_is(s, op, t, &hint, 1, out);
	return out[0];
}

/* normalize: (x - mean) * rstd, with the statistics from `moments`; without the subtraction if it is not centred. */
static Val
expand_normalize(Simplify *s, const Op *op, const Type *t, Name hint)
{
	Val x = op->in[0], out[MAX_OUT] = {{0}};
	bool center = attr_int(op, AK_center) != 0;
	Op stats = {.code = OP_moments,
		    .nin = 1,
		    .nout = 2,
		    .nattr = op->nattr,
		    .in = &x,
		    .attrs = op->attrs,
		    .loc = op->loc};
	Name names[2] = {name_of(s->m->names, "mean"), name_of(s->m->names, "rstd")};
	Type types[MAX_OUT];

	ENSURE(ir_infer(s->m, s->b, &stats, NULL, types), "moments does not fit normalize");
	place_as_is(s, &stats, types, names, center ? 3 : 2, out);
	if (center) {
		Val in[2] = {x, out[0]};
		Op sub = {.code = OP_sub, .nin = 2, .nout = 1, .in = in, .loc = op->loc};

		x = place1(s, &sub, val_type(s->b, x), name_of(s->m->names, "centered"));
	}
	Val in[2] = {x, out[1]};
	Op mul = {.code = OP_mul, .nin = 2, .nout = 1, .in = in, .loc = op->loc};
	return place1(s, &mul, t, hint);
}

/* Places one op of the old body and records what its results became. */
static void
place(Simplify *s, const Body *old, const Op *op, Val *map)
{
	Op made = *op;
	Val in[8], out[MAX_OUT] = {{0}};
	Type t[MAX_OUT];
	Name hint[MAX_OUT] = {0};
	unsigned wanted = 0;

	ENSURE(op->nin <= COUNTOF(in), "%u operands", op->nin);
	for (int k = 0; k < op->nin; k++)
		in[k] = map[op->in[k].i];
	made.in = in;
	for (int r = 0; r < op->nout; r++) {
		if (!op->out[r].i) continue;
		t[r] = old->vals[op->out[r].i].type;
		hint[r] = old->vals[op->out[r].i].name;
		wanted |= 1u << r;
	}
	if (!wanted) return;
	s->hint = hint[0];
	if (op->code == OP_normalize) {
		out[0] = expand_normalize(s, &made, &t[0], hint[0]);
	} else if (op_info[op->code].nout == 1) {
		out[0] = place1(s, &made, &t[0], hint[0]);
	} else {
		/* types of results nobody wants: what inference says, so that equal ops compare equal */
		Type all[MAX_OUT];

		ENSURE(ir_infer(s->m, s->b, &made, NULL, all), "'%s' is ill-typed",
		       op_info[op->code].text);
		for (int r = 0; r < op->nout; r++)
			if (!(wanted >> r & 1)) t[r] = all[r];
		place_as_is(s, &made, t, hint, wanted, out);
	}
	for (int r = 0; r < op->nout; r++)
		if (op->out[r].i) map[op->out[r].i] = out[r];
}

void
simplify_body(Module *m, Body *b, Arena *tmp, bool keep_stop)
{
	Body made = ir_body(b->name, b->kind);
	Val *map = NEW_N(tmp, Val, b->nvals + 1);
	uint32_t buckets = 64;

	while (buckets < b->nops)
		buckets *= 2;
	made.mesh = b->mesh;
	Simplify s = {
	    .m = m,
	    .b = &made,
	    .keep_stop = keep_stop,
	    .tmp = tmp,
	    .mask = buckets - 1,
	    .head = NEW_N(tmp, uint32_t, buckets),
	    .next = NEW_N(tmp, uint32_t, 64),
	    .cnext = 64,
	};

	for (uint32_t i = 0; i < b->nports; i++) {
		const Port *p = &b->ports[i];

		if (port_is_in(p->kind))
			map[p->v.i] = ir_port(m, &made, p->kind, p->slot, b->vals[p->v.i].name,
					      b->vals[p->v.i].type);
	}
	for (uint32_t i = 0; i < b->nops; i++)
		place(&s, b, &b->ops[i], map);
	for (uint32_t i = 0; i < b->nports; i++) {
		const Port *p = &b->ports[i];

		if (!port_is_in(p->kind)) ir_out(m, &made, p->kind, p->slot, map[p->v.i]);
	}
	*b = made;
	body_dce(m, b);
}

bool
pass_simplify(Ctx *c, Module *m)
{
	for (uint32_t i = 1; i < m->nbodies; i++)
		simplify_body(m, &m->bodies[i], c->tmp, true);
	return true;
}
