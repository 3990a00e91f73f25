/*
 * module.c - the op tables, and building and walking bodies.
 *
 * Invariants kept here: handle 0 is none, so every table indexed by a handle starts with an empty entry; a value's
 * name is unique in its body; an op's attributes are in the order of its OpInfo; types are what infer.c says.
 */
#include "ir/ir.h"

#include <string.h>

/* ---- tables ---- */

#define EW        OF_EW
#define VIEW      OF_VIEW
#define RED       OF_RED
#define CONST     OF_CONST
#define RNG       OF_RNG
#define COMM      OF_COMM
#define UPD       OF_UPD
#define MUST(key) {AK_##key, false},
#define MAY(key)  {AK_##key, true},
#define NO_ATTRS
#define OP(code, text, min_in, max_in, nout, flags, attrs) \
	[OP_##code] = {text, min_in, max_in, nout, flags, {attrs{AK_none, false}}},
const OpInfo op_info[OP_COUNT] = {
    [OP_none] = {"none", 0, 0, 0, 0, {{AK_none, false}}},
#include "ir/ops.def"
};

#define ATTR(key, kind) [AK_##key] = {#key, AT_##kind},
const struct AttrInfo attr_info[AK_COUNT] = {
    [AK_none] = {"none", AT_int},
#include "ir/attrs.def"
};

const char *const comm_str[CK_COUNT] = {"fwd", "bwd", "param", "grad", "lend", "return"};
const char *const level_str[LV_COUNT] = {"graph", "train", "plan", "spmd", "sched", "mem"};
const char *const port_str[PORT_COUNT] = {
    [PORT_arg] = "arg",       [PORT_weight] = "weight",
    [PORT_const] = "const",   [PORT_saved] = "saved",
    [PORT_cot] = "cot",       [PORT_carry] = "carry",
    [PORT_grad] = "grad",     [PORT_m] = "m",
    [PORT_v] = "v",           [PORT_scalar] = "scalar",
    [PORT_out] = "out",       [PORT_save] = "save",
    [PORT_dx] = "dx",         [PORT_carry_out] = "carry_out",
    [PORT_dw] = "dw",         [PORT_norm] = "norm",
    [PORT_w_out] = "w_out",   [PORT_m_out] = "m_out",
    [PORT_v_out] = "v_out",   [PORT_logits] = "logits",
    [PORT_master] = "master", [PORT_master_out] = "master_out",
};
const char *const body_str[BK_COUNT] = {"F", "B", "W", "N", "U", "const"};
const char *const mesh_kind_str[MX_COUNT] = {"mb", "dp", "tp", "cp", "sp", "ep"};
const char *const recompute_str[3] = {"none", "selective", "full"};
const char *const schedule_str[2] = {"gpipe", "1f1b"};

/* ORDER PortKind */
bool
port_is_in(PortKind k)
{
	return k < PORT_out;
}

/* ---- modules and bodies ---- */

Module *
ir_module(Arena *a, Names *n)
{
	Module *m = NEW(a, Module);

	m->arena = a;
	m->names = n;
	PUSH(a, m->axes, m->naxes, m->caxes, (AxisDef){0});
	PUSH(a, m->bodies, m->nbodies, m->cbodies, (Body){0});
	return m;
}

Body
ir_body(Name name, BodyKind kind)
{
	return (Body){.name = name, .kind = kind};
}

uint32_t
ir_add_body(Module *m, Body b)
{
	PUSH(m->arena, m->bodies, m->nbodies, m->cbodies, b);
	return m->nbodies - 1;
}

const Mesh *
ir_mesh(const Module *m, const Body *b)
{
	if (m->level < LV_spmd || b->mesh >= m->plan.nmeshes) return NULL;
	return &m->plan.meshes[b->mesh];
}

/* ---- values: Body.index finds a value by its name, so that making names unique stays cheap in long bodies ---- */

/* The slot of the index that holds a value called `name`, or the free one where it belongs. */
static uint32_t *
index_slot(const Body *b, Name name)
{
	uint32_t mask = b->cindex - 1;

	for (uint32_t i = name * 2654435769u & mask;; i = (i + 1) & mask) {
		uint32_t v = b->index[i];

		if (!v || b->vals[v].name == name) return &b->index[i];
	}
}

/* Brings the index up to date with vals; whoever renumbers values leaves another count behind, or clears `index`. */
static void
index_values(Module *m, Body *b)
{
	if (!b->index || b->nindex > b->nvals || b->nvals >= b->cindex / 2) {
		b->cindex = b->cindex ? b->cindex : 64;
		while (b->nvals >= b->cindex / 2)
			b->cindex *= 2;
		b->index = NEW_N(m->arena, uint32_t, b->cindex);
		b->nindex = 1;
	}
	for (; b->nindex < b->nvals; b->nindex++)
		*index_slot(b, b->vals[b->nindex].name) = b->nindex;
}

static Name
numbered(Module *m, Name hint, uint32_t k)
{
	return name_fmt(m->names, "%s.%u", name_str(m->names, hint), k);
}

/* hint, or hint.k for a free k: found by doubling, then halving, since the numbers taken are mostly 2 .. k - 1. */
static Name
unique_name(Module *m, const Body *b, Name hint)
{
	uint32_t taken = 1, free_k = 2;

	if (!*index_slot(b, hint)) return hint;
	while (*index_slot(b, numbered(m, hint, free_k))) {
		taken = free_k;
		free_k *= 2;
	}
	while (free_k - taken > 1) {
		uint32_t mid = taken + (free_k - taken) / 2;

		if (*index_slot(b, numbered(m, hint, mid)))
			taken = mid;
		else
			free_k = mid;
	}
	return numbered(m, hint, free_k);
}

Val
ir_val(Module *m, Body *b, Name hint, Type t)
{
	ValDef v = {.type = t};

	if (b->nvals == 0) PUSH(m->arena, b->vals, b->nvals, b->cvals, (ValDef){0});
	index_values(m, b);
	v.name = unique_name(m, b, hint ? hint : name_of(m->names, "v"));
	PUSH(m->arena, b->vals, b->nvals, b->cvals, v);
	return (Val){b->nvals - 1};
}

Val
ir_port(Module *m, Body *b, PortKind kind, uint16_t slot, Name hint, Type t)
{
	Val v;

	ENSURE(port_is_in(kind), "'%s' is not an in-port", port_str[kind]);
	v = ir_val(m, b, hint ? hint : name_of(m->names, port_str[kind]), t);
	PUSH(m->arena, b->ports, b->nports, b->cports, ((Port){kind, slot, v}));
	return v;
}

void
ir_out(Module *m, Body *b, PortKind kind, uint16_t slot, Val v)
{
	ENSURE(!port_is_in(kind), "'%s' is not an out-port", port_str[kind]);
	ENSURE(v.i && v.i < b->nvals, "'%s' of value %u of %u", port_str[kind], v.i, b->nvals);
	PUSH(m->arena, b->ports, b->nports, b->cports, ((Port){kind, slot, v}));
}

Port *
ir_find_port(const Body *b, PortKind kind, uint16_t slot)
{
	for (uint32_t i = 0; i < b->nports; i++)
		if (b->ports[i].kind == kind && b->ports[i].slot == slot) return &b->ports[i];
	return NULL;
}

Port *
ir_type_port(const Module *m, const LayerType *l, BodyKind k, PortKind kind, uint32_t slot)
{
	return l->body[k] ? ir_find_port(&m->bodies[l->body[k]], kind, (uint16_t)slot) : NULL;
}

Port *
ir_inst_port(const Module *m, uint32_t inst, BodyKind k, PortKind kind, uint32_t slot)
{
	return ir_type_port(m, &m->types[m->insts[inst].type], k, kind, slot);
}

bool
ir_is_reshard(const Module *m, uint32_t inst)
{
	return m->types[m->insts[inst].type].reshard;
}

const Type *
val_type(const Body *b, Val v)
{
	ENSURE(v.i && v.i < b->nvals, "value %u of %u", v.i, b->nvals);
	return &b->vals[v.i].type;
}

const char *
val_str(const Module *m, const Body *b, Val v)
{
	ENSURE(v.i < b->nvals, "value %u of %u", v.i, b->nvals);
	return v.i ? name_str(m->names, b->vals[v.i].name) : "_";
}

const Op *
val_op(const Body *b, Val v)
{
	ENSURE(v.i && v.i < b->nvals, "value %u of %u", v.i, b->nvals);
	return b->vals[v.i].def ? &b->ops[b->vals[v.i].def - 1] : NULL;
}

/* ---- attributes ---- */

/* Place of a key in the printing order of an op's attributes; keys the op does not know come last. */
static int
attr_rank(OpCode code, AttrKey k)
{
	const OpInfo *info = &op_info[code];
	int i = 0;

	while (info->attrs[i].key != AK_none && info->attrs[i].key != k)
		i++;
	return i;
}

/* Insertion sort: stable, and no op has more than a dozen. */
static Attr *
sorted_attrs(Arena *a, OpCode code, const Attr *attrs, int n)
{
	Attr *out = arena_dup(a, attrs, sizeof(*attrs) * (size_t)n);

	for (int i = 1; i < n; i++) {
		Attr x = out[i];
		int k = i;

		for (; k > 0 && attr_rank(code, out[k - 1].key) > attr_rank(code, x.key); k--)
			out[k] = out[k - 1];
		out[k] = x;
	}
	return out;
}

Attr
attr_make_num(AttrKey k, double v)
{
	return (Attr){.key = k, .num = v};
}

Attr
attr_make_int(AttrKey k, int64_t v)
{
	return (Attr){.key = k, .i = v};
}

Attr
attr_make_axis(AttrKey k, Axis a)
{
	return (Attr){.key = k, .axis = a};
}

Attr
attr_make_axes(AttrKey k, const AxisList *l)
{
	return (Attr){.key = k, .axes = *l};
}

Attr
attr_make_dtype(AttrKey k, DType dt)
{
	return (Attr){.key = k, .i = dt};
}

const Attr *
attr_find(const Op *op, AttrKey k)
{
	for (int i = 0; i < op->nattr; i++)
		if (op->attrs[i].key == k) return &op->attrs[i];
	return NULL;
}

static const Attr *
attr_must(const Op *op, AttrKey k)
{
	const Attr *a = attr_find(op, k);

	ENSURE(a, "'%s' without %s", op_info[op->code].text, attr_info[k].text);
	return a;
}

double
attr_num(const Op *op, AttrKey k)
{
	return attr_must(op, k)->num;
}

int64_t
attr_int(const Op *op, AttrKey k)
{
	return attr_must(op, k)->i;
}

int64_t
attr_int_or(const Op *op, AttrKey k, int64_t fallback)
{
	const Attr *a = attr_find(op, k);

	return a ? a->i : fallback;
}

Axis
attr_axis(const Op *op, AttrKey k)
{
	return attr_must(op, k)->axis;
}

const AxisList *
attr_axes(const Op *op, AttrKey k)
{
	return &attr_must(op, k)->axes;
}

/* ---- emitting ---- */

/* The type a caller wants for the first result: its order of axes (and shards of axes the op makes, and the type of a
 * constant) are taken, the rest is inferred. */
static bool
take_wanted(const Op *op, Diag *d, const Type *want, Type *t)
{
	Type w = *want;

	if (op->code != OP_const) w.dt = t->dt;
	w.partial = t->partial;
	if (ir_fits(op, t, &w)) {
		*t = w;
		return true;
	}
	if (!d) ICE("'%s' cannot have the type asked for", op_info[op->code].text);
	diag_error(d, op->loc, "'%s' cannot have the type asked for", op_info[op->code].text);
	return false;
}

Op *
ir_emit(Module *m, Body *b, Diag *d, const OpArgs *args)
{
	const OpInfo *info = &op_info[args->code];
	Op op = {.code = args->code, .nout = info->nout, .loc = args->loc};
	Type types[MAX_OUT];

	ENSURE(args->nin <= UINT8_MAX && args->nattr <= UINT8_MAX,
	       "'%s' of %d operands, %d attributes", info->text, args->nin, args->nattr);
	op.nin = (uint8_t)args->nin;
	op.nattr = (uint8_t)args->nattr;
	op.in = arena_dup(m->arena, args->in, sizeof(*args->in) * op.nin);
	op.attrs = sorted_attrs(m->arena, op.code, args->attrs, op.nattr);
	if (!ir_infer(m, b, &op, d, types)) return NULL;
	if (args->want && !take_wanted(&op, d, args->want, &types[0])) return NULL;

	for (int i = 0; i < op.nout; i++) {
		Name hint = args->hint ? args->hint : name_of(m->names, info->text);

		if (types[i].dt == DT_none) continue; /* dbias where there is no bias */
		op.out[i] = ir_val(m, b, hint, types[i]);
		b->vals[op.out[i].i].def = b->nops + 1;
		b->vals[op.out[i].i].result = (uint8_t)i;
	}
	PUSH(m->arena, b->ops, b->nops, b->cops, op);
	return &b->ops[b->nops - 1];
}

static Val
emit1(Module *m, Body *b, OpCode code, const Val *in, int nin, const Attr *attr,
      const Type *want, Loc loc)
{
	OpArgs args = {.code = code,
		       .in = in,
		       .nin = nin,
		       .attrs = attr,
		       .nattr = attr != NULL,
		       .loc = loc,
		       .want = want};

	return ir_emit(m, b, NULL, &args)->out[0];
}

Val
ir_op1(Module *m, Body *b, OpCode code, Val x, Loc loc)
{
	return emit1(m, b, code, &x, 1, NULL, NULL, loc);
}

Val
ir_op2(Module *m, Body *b, OpCode code, Val x, Val y, Loc loc)
{
	return emit1(m, b, code, (Val[]){x, y}, 2, NULL, NULL, loc);
}

Val
ir_const(Module *m, Body *b, DType dt, double value, Loc loc)
{
	Attr attr = attr_make_num(AK_value, value);
	Type want = {.dt = dt};

	return emit1(m, b, OP_const, NULL, 0, &attr, &want, loc);
}

/* The sum over no axes is x itself. */
Val
ir_sum(Module *m, Body *b, Val x, const AxisList *axes, Loc loc)
{
	Attr attr = attr_make_axes(AK_axes, axes);

	return axes->n ? emit1(m, b, OP_sum, &x, 1, &attr, NULL, loc) : x;
}

Val
ir_dot(Module *m, Body *b, Val x, Val y, const AxisList *axes, const Type *want, Loc loc)
{
	Attr attr = attr_make_axes(AK_axes, axes);

	return emit1(m, b, OP_dot, (Val[]){x, y}, 2, &attr, want, loc);
}
