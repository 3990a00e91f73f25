/*
 * parse_body.c - text to module: bodies, their ports and operations.
 *
 * Output: a body in which every operand is defined above its use, names of values are unique, and every operation has as
 * many operands, results and attributes as ops.def says, each attribute of its kind.
 */
#include "ir/text.h"

#include <inttypes.h>
#include <string.h>

enum { MAX_IN = 8, MAX_ATTRS = 14 };

/* ---- values ---- */

static uint32_t
find_val(const Parser *p, Name name)
{
	if (name >= p->nfound || p->vals[name].body != p->m->nbodies) return 0;
	return p->vals[name].v;
}

/* A name of a value, after "%". */
static bool
val_name(Parser *p, Name *out)
{
	return scan_punct(&p->s, '%') && scan_name(&p->s, "a value's name", out);
}

/* A value that must be there. */
static bool
parse_val(Parser *p, Val *out)
{
	Scan before = p->s;
	Name name;

	if (!val_name(p, &name)) return false;
	out->i = find_val(p, name);
	return out->i || parse_missing(p, HOLE_val, before, "'%%%s' is not defined above",
				       name_str(p->m->names, name));
}

/* A name that is not taken yet. */
static bool
parse_new_name(Parser *p, Name *out)
{
	Scan before = p->s;

	if (!val_name(p, out)) return false;
	if (!find_val(p, *out)) return true;
	p->s = before;
	return scan_fail(&p->s, "a second value '%%%s' in this body",
			 name_str(p->m->names, *out));
}

static bool
define(Parser *p, Body *b, const ValDef *d, Val *out)
{
	if (b->nvals >= MAX_COUNT) return scan_fail(&p->s, "more than %d values", MAX_COUNT);
	if (d->name >= p->nfound) {
		uint32_t n = d->name * 2 + 64;

		p->vals = arena_grow(p->tmp, p->vals, p->nfound, n, sizeof(*p->vals));
		p->nfound = n;
	}
	if (b->nvals == 0)
		PUSH(p->m->arena, b->vals, b->nvals, b->cvals, (ValDef){0}); /* none */
	p->vals[d->name].body = p->m->nbodies;
	p->vals[d->name].v = b->nvals;
	*out = (Val){b->nvals};
	PUSH(p->m->arena, b->vals, b->nvals, b->cvals, *d);
	return true;
}

/* type [ "@" space [ "+" offset ] ] [ "over" value ] */
static bool
parse_def(Parser *p, const Mesh *mesh, ValDef *d)
{
	static const char *const spaces[SP_COUNT] = {NULL, "port", "scratch", "local", "alias"};
	int space;

	if (!parse_type(p, mesh, &d->type)) return false;
	if (!scan_try(&p->s, '@')) return true;
	if (p->m->level < LV_mem) {
		return scan_fail(&p->s,
				 "a value has a space from level mem on; this is level %s",
				 level_str[p->m->level]);
	}
	if (!scan_pick_to(&p->s, WORDS("space", spaces), &space)) return false;
	d->space = (Space)space;
	if (d->space == SP_scratch &&
	    (!scan_punct(&p->s, '+') ||
	     !scan_int(&p->s, "the offset", 0, MAX_OFFSET, &d->offset)))
		return false;
	return !scan_try_key(&p->s, "over") || parse_val(p, &d->over);
}

/* ---- attributes ---- */

static bool
parse_axis_list(Parser *p, AxisList *out)
{
	*out = (AxisList){0};
	if (!scan_punct(&p->s, '[')) return false;
	while (!scan_try(&p->s, ']')) {
		Scan before = p->s;
		Axis a;

		if (!parse_axis(p, &a)) return false;
		if (axes_has(out, a)) {
			p->s = before;
			return scan_fail(&p->s, "axis '%s' occurs twice in this list",
					 ir_axis_str(p->m, a));
		}
		if (!axes_add(out, a)) return scan_fail(&p->s, "more than %d axes", MAX_AXES);
	}
	return true;
}

static bool
parse_mesh_set(Parser *p, const Mesh *mesh, int64_t *out)
{
	*out = 0;
	if (!scan_punct(&p->s, '[')) return false;
	while (!scan_try(&p->s, ']')) {
		uint8_t n = 0, k;

		if (!scan_mesh_axes(&p->s, mesh, 1, &n, &k)) return false;
		*out |= (int64_t)1 << k;
	}
	return true;
}

static bool
parse_dtype(Parser *p, int64_t *out)
{
	Scan before = p->s;
	const char *word;
	char text[8] = "";
	int len;

	if (!scan_word(&p->s, "an element type", &word, &len)) return false;
	if (len < (int)sizeof(text)) memcpy(text, word, (size_t)len);
	*out = dtype_parse(text);
	if (*out != DT_none) return true;
	p->s = before;
	return scan_fail(&p->s, "no element type '%.*s'; known are bool, i32, bf16, f32, f64",
			 len > 60 ? 60 : len, word);
}

static bool
parse_attr_value(Parser *p, const Mesh *mesh, Attr *a)
{
	const char *key = attr_info[a->key].text;

	switch (attr_info[a->key].kind) {
	case AT_num: return scan_num(&p->s, key, &a->num);
	case AT_int: return scan_int(&p->s, key, INT64_MIN, INT64_MAX, &a->i);
	case AT_axis: return parse_axis(p, &a->axis);
	case AT_axes: return parse_axis_list(p, &a->axes);
	case AT_dtype: return parse_dtype(p, &a->i);
	case AT_mesh: return parse_mesh_set(p, mesh, &a->i);
	}
	return false;
}

/* One "key=value"; into slot k of `attrs`, which the op's table says. */
static bool
parse_attr(Parser *p, const OpInfo *info, const Mesh *mesh, Attr *attrs, Op *op)
{
	const char *keys[MAX_ATTRS + 1];
	Scan before = p->s;
	int k, n = 0;

	for (; n < MAX_ATTRS && info->attrs[n].key; n++)
		keys[n] = attr_info[info->attrs[n].key].text;
	keys[n] = "kernel"; /* which every operation may have */
	k = scan_pick(&p->s, &(Words){"attribute", keys, n + 1});
	if (k < 0 || !scan_punct(&p->s, '=')) return false;
	if (k == n ? op->kernel != 0 : attrs[k].key != AK_none)
		return scan_fail(&before, "attribute '%s' is given twice", keys[k]);
	if (k == n) return scan_u32(&p->s, "the kernel", 1, MAX_COUNT, &op->kernel);
	attrs[k].key = info->attrs[k].key;
	return parse_attr_value(p, mesh, &attrs[k]);
}

/* [ "{" { key "=" value } "}" ]; what is not optional must be there. */
static bool
parse_attrs(Parser *p, const OpInfo *info, const Mesh *mesh, Op *op)
{
	Attr attrs[MAX_ATTRS] = {{0}};
	Scan before = p->s;
	Attr *out;

	if (scan_try(&p->s, '{'))
		while (!scan_try(&p->s, '}'))
			if (!parse_attr(p, info, mesh, attrs, op)) return false;
	out = NEW_N(p->m->arena, Attr, MAX_ATTRS);
	for (int k = 0; k < MAX_ATTRS && info->attrs[k].key; k++) {
		if (attrs[k].key) {
			out[op->nattr++] = attrs[k];
		} else if (!info->attrs[k].optional) {
			p->s = before;
			return scan_fail(&p->s, "'%s' needs the attribute '%s'", info->text,
					 attr_info[info->attrs[k].key].text);
		}
	}
	op->attrs = out;
	return true;
}

/* ---- operations ---- */

static OpCode
op_named(const char *word, int len)
{
	for (int c = OP_none + 1; c < OP_COUNT; c++)
		if ((int)strlen(op_info[c].text) == len &&
		    !memcmp(op_info[c].text, word, (size_t)len))
			return (OpCode)c;
	return OP_none;
}

/* { "_" | value }: names of results; 0 for one that is not wanted. */
static bool
parse_results(Parser *p, Name *names, int *n)
{
	*n = 0;
	do {
		Scan before = p->s;

		if (*n == MAX_OUT) return scan_fail(&p->s, "more than %d results", MAX_OUT);
		names[*n] = 0;
		if (!scan_try_key(&p->s, "_") && !parse_new_name(p, &names[*n])) return false;
		for (int i = 0; i < *n; i++) {
			if (!names[i] || names[i] != names[*n]) continue;
			p->s = before;
			return scan_fail(&p->s, "'%%%s' names two results",
					 name_str(p->m->names, names[i]));
		}
		++*n;
	} while (scan_try(&p->s, ','));
	return scan_punct(&p->s, '=');
}

static bool
parse_opcode(Parser *p, Op *op, int nresults)
{
	Scan before = p->s;
	const char *word;
	int len;

	if (!scan_word(&p->s, "an operation", &word, &len)) return false;
	op->code = op_named(word, len);
	if (op->code == OP_none) {
		p->s = before;
		return scan_fail(&p->s, "no operation '%.*s'", len > 60 ? 60 : len, word);
	}
	op->nout = op_info[op->code].nout;
	if (nresults == op->nout) return true;
	p->s = before;
	return scan_fail(&p->s,
			 "'%s' has %d results, but %d are named ('_' for one not wanted)",
			 op_info[op->code].text, op->nout, nresults);
}

static bool
parse_operands(Parser *p, Op *op)
{
	const OpInfo *info = &op_info[op->code];
	Scan before = p->s;
	Val in[MAX_IN];

	while (scan_peek(&p->s) == '%') {
		if (op->nin == MAX_IN) return scan_fail(&p->s, "more than %d operands", MAX_IN);
		if (!parse_val(p, &in[op->nin++])) return false;
	}
	if (op->nin < info->min_in || op->nin > info->max_in) {
		p->s = before;
		if (info->min_in == info->max_in)
			return scan_fail(&p->s, "'%s' takes %d operands, not %d", info->text,
					 info->min_in, op->nin);
		return scan_fail(&p->s, "'%s' takes %d to %d operands, not %d", info->text,
				 info->min_in, info->max_in, op->nin);
	}
	op->in = arena_dup(p->m->arena, in, sizeof(Val) * op->nin);
	return true;
}

/* What ports (far = F) or results (far = B) of a body are in terms of: of a reshard, F takes and B makes what is the
 * producer's. */
static const Mesh *
body_mesh(const Module *m, const Body *b, BodyKind far)
{
	if (b->from && b->kind == far) return &m->plan.meshes[b->from - 1];
	return ir_mesh(m, b);
}

/* results "=" op { operand } [attributes] [ ":" type { "," type } ] [place] */
static bool
parse_op(Parser *p, Body *b)
{
	const Mesh *mesh = ir_mesh(p->m, b), *made = body_mesh(p->m, b, BK_B);
	Name names[MAX_OUT];
	ValDef defs[MAX_OUT];
	Op op = {0};
	int n, wanted = 0;

	if (!parse_results(p, names, &n) || !parse_opcode(p, &op, n) ||
	    !parse_operands(p, &op) || !parse_attrs(p, &op_info[op.code], mesh, &op))
		return false;
	for (int i = 0; i < n; i++) {
		defs[i] = (ValDef){.name = names[i], .def = b->nops + 1, .result = (uint8_t)i};
		if (!names[i]) continue;
		if (!scan_punct(&p->s, wanted++ ? ',' : ':') || !parse_def(p, made, &defs[i]))
			return false;
	}
	if (!scan_place(&p->s, &op.loc) || !scan_done(&p->s)) return false;
	if (b->nops >= MAX_COUNT) return scan_fail(&p->s, "more than %d operations", MAX_COUNT);
	if (op.kernel > b->nkernels)
		return scan_fail(&p->s, "kernel %" PRIu32 " of %" PRIu32, op.kernel,
				 b->nkernels);
	for (int i = 0; i < n; i++)
		if (names[i] && !define(p, b, &defs[i], &op.out[i])) return false;
	PUSH(p->m->arena, b->ops, b->nops, b->cops, op);
	return true;
}

/* ---- ports and bodies ---- */

/* kind slot value [ ":" type ] */
static bool
parse_port(Parser *p, Body *b)
{
	ValDef d = {0};
	Port port = {0};
	Scan before;
	uint32_t slot;
	int kind;

	if (!scan_pick_to(&p->s, &(Words){"port or operation", port_str, PORT_COUNT}, &kind))
		return false;
	port.kind = (PortKind)kind;
	before = p->s;
	if (!scan_u32(&p->s, "the slot", 0, MAX_SLOTS - 1, &slot)) return false;
	port.slot = (uint16_t)slot;
	for (uint32_t i = 0; i < b->nports && b->nports < MAX_PORT; i++)
		if (b->ports[i].kind == port.kind && b->ports[i].slot == port.slot)
			return scan_fail(&before, "a second '%s %u' in this body",
					 port_str[kind], port.slot);
	if (port_is_in(port.kind)) {
		if (!parse_new_name(p, &d.name) || !scan_punct(&p->s, ':') ||
		    !parse_def(p, body_mesh(p->m, b, BK_F), &d) || !scan_done(&p->s) ||
		    !define(p, b, &d, &port.v))
			return false;
	} else if (!parse_val(p, &port.v) || !scan_done(&p->s)) {
		return false;
	}
	if (b->nports >= MAX_COUNT) return scan_fail(&p->s, "more than %d ports", MAX_COUNT);
	PUSH(p->m->arena, b->ports, b->nports, b->cports, port);
	return true;
}

static bool
body_line(Parser *p, void *into)
{
	Body *b = into;
	char c = scan_peek(&p->s);

	if (c == '%' || c == '_') return parse_op(p, b);
	return parse_port(p, b);
}

static bool
parse_mesh_name(Parser *p, uint32_t *out)
{
	const Module *m = p->m;
	Scan before = p->s;
	Name name;

	if (!scan_name(&p->s, "a mesh", &name)) return false;
	for (*out = 0; *out < m->plan.nmeshes; ++*out)
		if (m->plan.meshes[*out].name == name) return true;
	return parse_missing(p, HOLE_mesh, before, "no mesh '%s' above",
			     name_str(m->names, name));
}

/* [ "mesh" name [ "from" name ] ]: required from level spmd on, where types are sharded over it. */
static bool
parse_body_mesh(Parser *p, Body *b)
{
	const Module *m = p->m;
	Scan before = p->s;

	if (m->level < LV_spmd) {
		if (!scan_try_key(&p->s, "mesh")) return true;
		return scan_fail(&before,
				 "a body has a mesh from level spmd on; this is level %s",
				 level_str[m->level]);
	}
	if (!scan_key(&p->s, "mesh") || !parse_mesh_name(p, &b->mesh)) return false;
	if (!scan_try_key(&p->s, "from")) return true;
	if (!parse_mesh_name(p, &b->from)) return false;
	b->from++;
	return true;
}

/* body [number] name kind [mesh [from]] [kernels] [scratch live] "{" */
bool
parse_body(Parser *p)
{
	Module *m = p->m;
	Scan before = p->s;
	Body b;
	Name name;
	uint32_t index = m->nbodies, nkernels = 0;
	int64_t scratch = 0, live = 0;
	unsigned holes;
	int kind;

	if (scan_peek(&p->s) >= '0' && scan_peek(&p->s) <= '9') {
		if (!scan_u32(&p->s, "body", 1, MAX_COUNT, &index)) return false;
		if (index != m->nbodies)
			return parse_missing(p, HOLE_body, before,
					     "this is body %" PRIu32 ", not %" PRIu32,
					     m->nbodies, index);
	}
	if (!scan_name(&p->s, "the body's name", &name) ||
	    !scan_pick_to(&p->s, &(Words){"kind of body", body_str, BK_COUNT}, &kind))
		return false;
	b = ir_body(name, (BodyKind)kind);
	if (!parse_body_mesh(p, &b)) return false;
	if (scan_try_key(&p->s, "kernels") &&
	    !scan_u32(&p->s, "the number of kernels", 1, MAX_COUNT, &nkernels))
		return false;
	if (scan_try_key(&p->s, "scratch") &&
	    (!scan_int(&p->s, "the scratch", 0, MAX_OFFSET, &scratch) ||
	     !scan_key(&p->s, "live") ||
	     !scan_int(&p->s, "the live bytes", 0, MAX_OFFSET, &live)))
		return false;
	b.nkernels = nkernels;
	b.scratch_bytes = scratch;
	b.live_bytes = live;
	if (!scan_punct(&p->s, '{') || !scan_done(&p->s)) return false;
	holes = p->holes;
	p->holes &= ~(unsigned)HOLE_val;
	if (!parse_block(p, body_line, &b, HOLE_val)) return false;
	p->holes = (p->holes & ~(unsigned)HOLE_val) | (holes & (unsigned)HOLE_val);
	if (m->nbodies >= MAX_COUNT) return scan_fail(&p->s, "more than %d bodies", MAX_COUNT);
	ir_add_body(m, b);
	return true;
}
