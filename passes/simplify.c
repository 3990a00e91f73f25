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

#include <string.h>

/* Reads what an operand was broadcast from where the op (elementwise, or a dot that carries those axes) broadcasts anyway. */
static void
strip_broadcasts(Simplify *s, Op *op, const Type *t)
{
	bool ew = op_info[op->code].flags & OF_EW, dot = op->code == OP_dot;

	if ((!ew && !dot) || op->nin < 2) return;
	for (int k = 0; k < op->nin; k++) {
		const Op *made = val_op(s->b, op->in[k]);
		bool ok = made && made->code == OP_broadcast;
		Val x = ok ? made->in[0] : NO_VAL;

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
	case AT_axes: return simplify_same_axes(&a->axes, &b->axes);
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
Val
simplify_place(Simplify *s, Op *op, const Type *t, Name hint)
{
	Type types[MAX_OUT];
	Val out[MAX_OUT], v;

	if (!t) {
		ENSURE(ir_infer(s->m, s->b, op, NULL, types), "simplify made an ill-typed op");
		t = &types[0];
	}
	strip_broadcasts(s, op, t);
	if ((v = simplify_rules(s, op, t)).i) return v;
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
	Type wide =
	    *val_type(s->b, x); /* statistics are wider than bf16, and so is what they touch */
	if (types[1].dt > wide.dt) wide.dt = types[1].dt;
	if (center) {
		Val in[2] = {x, out[0]};
		Op sub = {.code = OP_sub, .nin = 2, .nout = 1, .in = in, .loc = op->loc};

		x = simplify_place(s, &sub, &wide, name_of(s->m->names, "centered"));
	}
	Val in[2] = {x, out[1]};
	Op mul = {.code = OP_mul, .nin = 2, .nout = 1, .in = in, .loc = op->loc};
	if (wide.dt == t->dt) return simplify_place(s, &mul, t, hint);
	wide = *t;
	wide.dt = types[1].dt;
	Val y = simplify_place(s, &mul, &wide, hint);
	const Attr to = attr_make_dtype(AK_dtype, t->dt);
	Op cast = {.code = OP_cast, .nin = 1, .nout = 1, .nattr = 1, .in = &y, .loc = op->loc};
	cast.attrs = (Attr *)&to;
	return simplify_place(s, &cast, t, hint);
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
		out[0] = simplify_place(s, &made, &t[0], hint[0]);
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
