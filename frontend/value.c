/*
 * value.c - tensors: appending ops, the types operands meet in, constants and how they come into a body.
 *
 * An op whose operands are all constants goes to the module's const body, equal ones once; any other goes to the body
 * that is being made, and reads constants through `localise`. Constants are computed in f32 (f64) and take on the
 * precision of what they meet, as numbers do.
 */
#include "frontend/elab.h"

#include <math.h>
#include <string.h>

const Body *
body_of(const Elab *e, Value v)
{
	return v.kind == V_const ? &e->konst : &e->body;
}

bool
is_tensor(Value v)
{
	return v.kind == V_tensor || v.kind == V_const;
}

Type
type_of(const Elab *e, Value v)
{
	if (is_tensor(v)) return *val_type(body_of(e, v), v.v);
	if (v.kind == V_ref) return v.ref->type;
	return (Type){.dt = v.is_bool ? DT_bool : is_whole(v.num) ? DT_i32 : e->high};
}

void
set_bounds(Value *v, double lo, double hi)
{
	v->lo = isnan(lo) ? -INFINITY : lo;
	v->hi = isnan(hi) ? INFINITY : hi;
}

void
forget_bounds(Value *v)
{
	v->range = NO_AXIS;
	set_bounds(v, -INFINITY, INFINITY);
}

Value
tensor_value(const Elab *e, Val v, bool konst)
{
	Value x = {.kind = konst ? V_const : V_tensor, .v = v};
	forget_bounds(&x);
	if (type_of(e, x).dt == DT_bool) set_bounds(&x, 0, 1);
	return x;
}

bool
in_body(Elab *e, Frame *f, Span at, Value *v)
{
	if (v->kind == V_poison) return false;
	if (v->kind == V_init) {
		fe_error(e, f, at, "'%s' is a way to draw numbers, not a tensor",
			 text_of(e, f, at));
		return false;
	}
	if (v->kind != V_ref) return true;
	fe_error(e, f, at,
		 "'forward' calls layers and computes numbers; compute '%s' in a layer",
		 text_of(e, f, at));
	return false;
}

/* ---- equal constants are made once ---- */

static uint64_t
hash_attr(uint64_t h, const Attr *a)
{
	h = hash_bytes(&a->key, sizeof a->key, h);
	switch (attr_info[a->key].kind) {
	case AT_axes: return hash_bytes(a->axes.a, sizeof(Axis) * a->axes.n, h + a->axes.n);
	case AT_axis: return hash_bytes(&a->axis, sizeof a->axis, h);
	case AT_num: return hash_bytes(&a->num, sizeof a->num, h);
	default: return hash_bytes(&a->i, sizeof a->i, h);
	}
}

static bool
same_attr(const Attr *a, const Attr *b)
{
	if (a->key != b->key) return false;
	switch (attr_info[a->key].kind) {
	case AT_axes:
		return a->axes.n == b->axes.n &&
		       !memcmp(a->axes.a, b->axes.a, sizeof(Axis) * a->axes.n);
	case AT_axis: return a->axis.i == b->axis.i;
	case AT_num: return !memcmp(&a->num, &b->num, sizeof a->num);
	default: return a->i == b->i;
	}
}

static const Op *
find_const_op(const Elab *e, const OpArgs *o, Name *key)
{
	uint64_t h = hash_bytes(&o->code, sizeof o->code, 7);
	if (o->nin) h = hash_bytes(o->in, sizeof(Val) * (size_t)o->nin, h);
	for (int i = 0; i < o->nattr; i++)
		h = hash_attr(h, &o->attrs[i]);
	if (o->want) h += (uint64_t)o->want->dt;
	*key = (Name)(h ^ (h >> 32)) | 1;
	uint32_t at = map_get(&e->konst_ops, *key);
	if (!at) return NULL;
	const Op *op = &e->konst.ops[at - 1];
	if (op->code != o->code || op->nin != o->nin || op->nattr != o->nattr) return NULL;
	if (o->nin && memcmp(op->in, o->in, sizeof(Val) * (size_t)o->nin)) return NULL;
	for (int i = 0; i < o->nattr; i++)
		if (!same_attr(&op->attrs[i], &o->attrs[i])) return NULL;
	if (o->want && !type_equal(o->want, val_type(&e->konst, op->out[0]))) return NULL;
	return op;
}

/* ---- emission ---- */

static bool
small_enough(Elab *e, Frame *f, Span at, const Type *t)
{
	double count = 1;
	for (int k = 0; k < t->n; k++)
		count *= (double)ir_extent(e->m, t->ax[k].a);
	if (count <= (double)FE_MAX_ELEMENTS) return true;
	fe_error(e, f, at, "a tensor %s would have %.3g elements, more than %.3g",
		 type_axes_text(e, t), count, (double)FE_MAX_ELEMENTS);
	return false;
}

/* Operands as tensors of the dtypes asked for. */
static bool
operands(Elab *e, Frame *f, Span at, const EmitArgs *a, Value *in)
{
	for (int i = 0; i < a->nin; i++) {
		in[i] = a->in[i];
		if (!in_body(e, f, at, &in[i])) return false;
		DType dt = a->dt && i < a->ncast ? a->dt : type_of(e, in[i]).dt;
		in[i] = cast(e, f, at, in[i], dt);
		if (in[i].kind == V_poison) return false;
	}
	return true;
}

bool
emit(Elab *e, Frame *f, Span at, const EmitArgs *a, Value *out, int nout)
{
	Value in[8];
	Val vals[8];
	bool konst = !a->here;
	Name key = 0;
	Loc loc = loc_of(e, f, at);

	for (int i = 0; i < nout; i++)
		out[i] = poison();
	if (!step(e, f, at) || !operands(e, f, at, a, in)) return false;
	for (int i = 0; i < a->nin; i++)
		konst = konst && in[i].kind == V_const;
	if (!konst && !e->body_open) {
		fe_error(e, f, at,
			 "'forward' calls layers and computes numbers; compute '%s' in a layer",
			 text_of(e, f, at));
		return false;
	}
	for (int i = 0; i < a->nin; i++)
		vals[i] = !konst && in[i].kind == V_const ? localise(e, in[i], loc) : in[i].v;
	Body *body = konst ? &e->konst : &e->body;
	OpArgs o = {.code = a->code,
		    .in = vals,
		    .nin = a->nin,
		    .attrs = a->attrs,
		    .nattr = a->nattr,
		    .loc = loc,
		    .want = a->want,
		    .hint = name_of(e->ctx->names, op_info[a->code].text)};
	const Op *op = konst ? find_const_op(e, &o, &key) : NULL;
	if (!op) {
		op = ir_emit(e->m, body, e->ctx->diag, &o);
		if (op && konst) map_put(e->arena, &e->konst_ops, key, e->konst.nops);
	}
	if (!op) return false;
	for (int i = 0; i < nout; i++) {
		if (!small_enough(e, f, at, val_type(body, op->out[i]))) return false;
		out[i] = tensor_value(e, op->out[i], konst);
	}
	return true;
}

Value
emit1(Elab *e, Frame *f, Span at, OpCode code, Value x)
{
	Value r;
	emit(e, f, at, &(EmitArgs){.code = code, .in = &x, .nin = 1}, &r, 1);
	return r;
}

Value
emit2(Elab *e, Frame *f, Span at, OpCode code, Value x, Value y, DType dt)
{
	Value r, in[2] = {x, y};
	emit(e, f, at, &(EmitArgs){.code = code, .in = in, .nin = 2, .dt = dt, .ncast = 2}, &r,
	     1);
	return r;
}

Value
constant(Elab *e, double x, DType dt)
{
	Attr value = attr_make_num(AK_value, x);
	Type t = {.dt = dt};
	OpArgs o = {.code = OP_const,
		    .attrs = &value,
		    .nattr = 1,
		    .want = &t,
		    .hint = name_of(e->ctx->names, "c")};
	Name key;
	const Op *op = find_const_op(e, &o, &key);
	Val v = op ? op->out[0] : ir_const(e->m, &e->konst, dt, x, (Loc){0});
	if (!op) map_put(e->arena, &e->konst_ops, key, e->konst.nops);
	Value r = {.kind = V_const, .v = v, .lo = x, .hi = x};
	return r;
}

Value
cast(Elab *e, Frame *f, Span at, Value x, DType dt)
{
	if (x.kind == V_number) {
		if (dt == DT_i32 && fabs(x.num) > FE_MAX_EXTENT) {
			fe_error(e, f, at,
				 "%s is more than an int holds; float(x) goes further",
				 num_text(e, x.num));
			return poison();
		}
		return constant(e, x.num, dt);
	}
	if (!is_tensor(x) || type_of(e, x).dt == dt) return x;
	Attr to = attr_make_dtype(AK_dtype, dt);
	Value r;
	if (!emit(e, f, at,
		  &(EmitArgs){.code = OP_cast, .in = &x, .nin = 1, .attrs = &to, .nattr = 1},
		  &r, 1))
		return poison();
	bool rounds = dt == DT_i32;
	set_bounds(&r, rounds ? trunc(x.lo) : x.lo, rounds ? trunc(x.hi) : x.hi);
	return r;
}

/* What tensors of floats have settles it; else integers meet in the model's precision, and constants in the best. */
DType
float_type(const Elab *e, const Value *v, int n)
{
	DType best = DT_none;
	bool tensor = false;
	for (int i = 0; i < n; i++) {
		if (v[i].kind != V_tensor) continue;
		DType dt = type_of(e, v[i]).dt;
		tensor = true;
		if (dtype_float(dt) && dt > best) best = dt;
	}
	return best ? best : tensor ? e->model : e->high;
}

/* ---- constants ---- */

uint32_t
const_slot(Elab *e, Val v)
{
	uint32_t slot = map_get(&e->slots, v.i);
	if (slot) return slot - 1;
	if (e->m->nconsts >= MAX_SLOTS - 1) {
		if (!e->over)
			diag_error(e->ctx->diag, (Loc){0}, "more than %d constant tensors",
				   MAX_SLOTS - 1);
		e->over = true;
		return 0;
	}
	PUSH(e->arena, e->m->consts, e->m->nconsts, e->m->cconsts, *val_type(&e->konst, v));
	PUSH(e->arena, e->slot_val, e->nslot_val, e->cslot_val, v);
	slot = e->m->nconsts;
	map_put(e->arena, &e->slots, v.i, slot);
	return slot - 1;
}

/* A scalar literal and bare positions are made where they are read; anything else is read from a constant tensor. */
Val
localise(Elab *e, Value x, Loc at)
{
	uint32_t known = map_get(&e->local_of, x.v.i);
	if (known) return (Val){known};
	const Op *op = val_op(&e->konst, x.v);
	Type t = *val_type(&e->konst, x.v);
	Val v;
	if (op->code == OP_const) {
		v = ir_const(e->m, &e->body, t.dt, attr_num(op, AK_value), at);
	} else if (op->code == OP_pos) {
		OpArgs o = {.code = OP_pos,
			    .attrs = op->attrs,
			    .nattr = op->nattr,
			    .loc = at,
			    .hint = name_of(e->ctx->names, "pos")};
		v = ir_emit(e->m, &e->body, NULL, &o)->out[0];
	} else {
		uint32_t slot = const_slot(e, x.v);
		v = ir_port(e->m, &e->body, PORT_const, (uint16_t)slot,
			    name_of(e->ctx->names, op_info[op->code].text), t);
	}
	map_put(e->arena, &e->local_of, x.v.i, v.i);
	return v;
}

/* The axis that a declaration makes: one for each extent it comes out with, so that every turn of a loop and every
 * instance of a layer has the same. Declarations elsewhere that chose the same name get another axis. */
Axis
own_axis(Elab *e, const Node *decl, const char *name, int64_t extent, Loc at)
{
	Name n = name_of(e->ctx->names, name);
	for (uint32_t i = 0; i < e->nown; i++)
		if (e->own[i].decl == decl && e->own[i].extent == extent) return e->own[i].a;
	if (e->m->naxes >= FE_MAX_AXES) {
		diag_error(e->ctx->diag, at, "more than %d axes", FE_MAX_AXES);
		e->over = true;
		return NO_AXIS;
	}
	for (unsigned k = 2; ir_axis_find(e->m, n).i; k++)
		n = name_fmt(e->ctx->names, "%s.%u", name, k);
	OwnAxis o = {decl, extent, ir_axis(e->m, n, extent, at)};
	PUSH(e->arena, e->own, e->nown, e->cown, o);
	return o.a;
}
