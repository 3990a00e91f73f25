/*
 * verify_body.c - one body: SSA, ports, operations, types.
 * Invariants: a value is defined once, before its uses; an operation is as its line in ops.def says; its results have the
 * types that ir_infer finds, up to the order of axes; a body has the ports and operations of its kind and level.
 */
#include "ir/text.h"

#include <inttypes.h>
#include <stdlib.h>

#define P(kind) (1u << PORT_##kind)
/* The ports a body of each kind may have. */
static const unsigned allowed_ports[BK_COUNT] = {
    [BK_F] = P(arg) | P(weight) | P(const) | P(out) | P(save) | P(logits),
    [BK_B] = P(arg) | P(weight) | P(const) | P(saved) | P(cot) | P(dx) | P(carry_out),
    [BK_W] = P(arg) | P(weight) | P(const) | P(saved) | P(cot) | P(carry) | P(dw),
    [BK_N] = P(grad) | P(norm),
    [BK_U] = P(weight) | P(grad) | P(m) | P(v) | P(master) | P(scalar) | P(w_out) | P(m_out) |
	     P(v_out) | P(master_out),
    [BK_const] = P(out),
};
#undef P

const char *
verify_body_str(const Verify *v, const Body *b)
{
	Buf s;

	buf_init(&s, v->tmp);
	buf_printf(&s, "body %" PRIu32 " (%s of %s)", (uint32_t)(b - v->m->bodies),
		   (unsigned)b->kind < BK_COUNT ? body_str[b->kind] : "?",
		   name_str(v->m->names, b->name));
	return s.s;
}

/* The head of a message: the body and the operation's number and text. */
static const char *
op_str(const Verify *v, const Body *b, uint32_t o)
{
	Buf s;

	buf_init(&s, v->tmp);
	buf_printf(&s, "%s: operation %" PRIu32 " '", verify_body_str(v, b), o);
	ir_print_op(v->m, b, &b->ops[o], &s);
	buf_putc(&s, '\'');
	return s.s;
}

/* A name for an operation whose fields are not to be trusted. */
static const char *
raw_op_str(const Verify *v, const Body *b, uint32_t o)
{
	Buf s;

	buf_init(&s, v->tmp);
	buf_printf(&s, "%s: operation %" PRIu32, verify_body_str(v, b), o);
	if (b->ops[o].code > OP_none && b->ops[o].code < OP_COUNT)
		buf_printf(&s, " '%s'", op_info[b->ops[o].code].text);
	return s.s;
}

/* ---- values ---- */

static bool
verify_vals(const Verify *v, const Body *b, const bool *defined)
{
	Name top = 0;
	bool *seen, ok = true;

	for (uint32_t i = 1; i < b->nvals; i++)
		if (defined[i] && b->vals[i].name > top) top = b->vals[i].name;
	seen = NEW_N(v->tmp, bool, (size_t)top + 1);
	for (uint32_t i = 1; i < b->nvals; i++) {
		const ValDef *d = &b->vals[i];
		Loc at = d->def && d->def <= b->nops ? b->ops[d->def - 1].loc : (Loc){0};
		Buf what;

		if (!defined[i]) continue;
		buf_init(&what, v->tmp);
		buf_printf(&what, "%s: '%%%s'", verify_body_str(v, b),
			   name_str(v->m->names, d->name));
		if (!d->name || seen[d->name]) {
			verify_bad(v, at, "%s: value %" PRIu32 " has the name of another",
				   what.s, i);
			ok = false;
		}
		seen[d->name] = true;
		ok = verify_type(v, &d->type, val_mesh(v->m, b, (Val){i}), at, what.s) && ok;
		if (d->type.flat && b->kind != BK_N && b->kind != BK_U) {
			verify_bad(v, at, "%s: a range of the flat axis in a body %s", what.s,
				   body_str[b->kind]);
			ok = false;
		}
	}
	return ok;
}

/* ---- ports ---- */

static int
by_value(const void *x, const void *y)
{
	uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;

	return (a > b) - (a < b);
}

/* No kind and slot twice. */
static bool
verify_slots(const Verify *v, const Body *b)
{
	uint32_t *keys = NEW_N(v->tmp, uint32_t, (size_t)b->nports + 1);

	for (uint32_t i = 0; i < b->nports; i++)
		keys[i] = (uint32_t)b->ports[i].kind << 16 | b->ports[i].slot;
	qsort(keys, b->nports, sizeof(*keys), by_value);
	for (uint32_t i = 1; i < b->nports; i++) {
		if (keys[i] != keys[i - 1]) continue;
		verify_bad(v, (Loc){0}, "%s: two ports '%s %" PRIu32 "'", verify_body_str(v, b),
			   port_str[keys[i] >> 16], keys[i] & 0xFFFF);
		return false;
	}
	return true;
}

static bool
verify_port(const Verify *v, const Body *b, uint32_t i, bool *defined)
{
	const Port *p = &b->ports[i];

	if ((unsigned)p->kind >= PORT_COUNT || p->v.i == 0 || p->v.i >= b->nvals) {
		verify_bad(v, (Loc){0},
			   "%s: port %" PRIu32 " is of kind %d with value %" PRIu32
			   " of %" PRIu32,
			   verify_body_str(v, b), i, (int)p->kind, p->v.i, b->nvals);
		return false;
	}
	if (!(allowed_ports[b->kind] >> p->kind & 1)) {
		verify_bad(v, (Loc){0}, "%s: a port '%s' in a body of kind %s",
			   verify_body_str(v, b), port_str[p->kind], body_str[b->kind]);
		return false;
	}
	if (!port_is_in(p->kind)) return true;
	if (defined[p->v.i] || b->vals[p->v.i].def != 0) {
		verify_bad(v, (Loc){0}, "%s: port '%s %u' defines '%%%s' a second time",
			   verify_body_str(v, b), port_str[p->kind], p->slot,
			   name_str(v->m->names, b->vals[p->v.i].name));
		return false;
	}
	defined[p->v.i] = true;
	return true;
}

static bool
verify_ports(const Verify *v, const Body *b, bool *defined)
{
	for (uint32_t i = 0; i < b->nports; i++)
		if (!verify_port(v, b, i, defined)) return false;
	return verify_slots(v, b);
}

/* ---- operations ---- */

/* Attributes: the keys of ops.def in its order, those not optional all there. */
static bool
verify_attrs(const Verify *v, const Body *b, uint32_t o)
{
	const Op *op = &b->ops[o];
	const OpInfo *info = &op_info[op->code];
	int n = 0;

	for (size_t k = 0; k < COUNTOF(info->attrs) && info->attrs[k].key; k++) {
		bool have = n < op->nattr && op->attrs[n].key == info->attrs[k].key;

		if (!have && !info->attrs[k].optional) {
			verify_bad(v, op->loc, "%s has no attribute '%s' in its place",
				   raw_op_str(v, b, o), attr_info[info->attrs[k].key].text);
			return false;
		}
		n += have;
	}
	if (n != op->nattr)
		verify_bad(v, op->loc, "%s has %d attributes, of which %d are its own",
			   raw_op_str(v, b, o), op->nattr, n);
	return n == op->nattr;
}

static bool
axis_ok(const Verify *v, Axis a)
{
	return a.i > 0 && a.i < v->m->naxes;
}

/* Handles inside attributes. */
static bool
verify_attr_values(const Verify *v, const Body *b, uint32_t o)
{
	const Op *op = &b->ops[o];
	const Mesh *mesh = ir_mesh(v->m, b);
	bool ok = true;

	for (int i = 0; i < op->nattr && ok; i++) {
		const Attr *a = &op->attrs[i];

		switch (attr_info[a->key].kind) {
		case AT_axis: ok = axis_ok(v, a->axis); break;
		case AT_axes:
			ok = a->axes.n <= MAX_AXES;
			for (int k = 0; ok && k < a->axes.n; k++)
				ok = axis_ok(v, a->axes.a[k]);
			break;
		case AT_dtype: ok = a->i > DT_none && a->i < DT_COUNT; break;
		case AT_mesh: ok = mesh && a->i > 0 && !(a->i >> mesh->n) && !(a->i & 1); break;
		case AT_num:
		case AT_int: break;
		}
		if (!ok)
			verify_bad(v, op->loc,
				   "%s: the value of attribute '%s' is out of range",
				   raw_op_str(v, b, o), attr_info[a->key].text);
	}
	return ok;
}

/* What may stand in a body of this kind at this level. */
static bool
verify_op_place(const Verify *v, const Body *b, uint32_t o)
{
	const Op *op = &b->ops[o];
	unsigned flags = op_info[op->code].flags;
	const char *why = NULL;

	if (op->code == OP_normalize && v->m->level >= LV_train)
		why = "is expanded before level train";
	else if (flags & OF_UPD && b->kind != BK_N && b->kind != BK_U)
		why = "belongs in a body N or U";
	else if (flags & OF_COMM && v->m->level < LV_spmd)
		why = "belongs to level spmd and below";
	else if ((op->code == OP_reshard) != (b->from != 0))
		why = b->from ? "in a body between two meshes, where 'reshard' is alone"
			      : "belongs in a body between two meshes";
	else if (op->kernel && v->m->level < LV_spmd)
		why = "has a kernel, which belongs to level spmd and below";
	else if (op->kernel > b->nkernels)
		why = "has a kernel beyond the body's last";
	if (why) verify_bad(v, op->loc, "%s %s", raw_op_str(v, b, o), why);
	return !why;
}

/* Operands are defined above, results here. */
static bool
verify_op_vals(const Verify *v, const Body *b, uint32_t o, bool *defined)
{
	const Op *op = &b->ops[o];

	for (int i = 0; i < op->nin; i++) {
		if (op->in[i].i < b->nvals && defined[op->in[i].i]) continue;
		verify_bad(v, op->loc,
			   "%s: operand %d ('%%%s', value %" PRIu32 ") is not defined above",
			   raw_op_str(v, b, o), i,
			   op->in[i].i < b->nvals
			       ? name_str(v->m->names, b->vals[op->in[i].i].name)
			       : "",
			   op->in[i].i);
		return false;
	}
	for (int i = 0; i < op->nout; i++) {
		uint32_t r = op->out[i].i;

		if (r == 0) continue;
		if (r < b->nvals && !defined[r] && b->vals[r].def == o + 1 &&
		    b->vals[r].result == i) {
			defined[r] = true;
			continue;
		}
		verify_bad(v, op->loc, "%s: result %d is value %" PRIu32 " of %" PRIu32 ", %s",
			   raw_op_str(v, b, o), i, r, b->nvals,
			   r < b->nvals && defined[r] ? "which is defined twice"
						      : "which says it is defined elsewhere");
		return false;
	}
	return true;
}

static bool
verify_op(const Verify *v, const Body *b, uint32_t o, bool *defined)
{
	const Op *op = &b->ops[o];
	const OpInfo *info;

	if (op->code <= OP_none || op->code >= OP_COUNT) {
		verify_bad(v, op->loc, "%s is of no kind (%d)", raw_op_str(v, b, o),
			   (int)op->code);
		return false;
	}
	info = &op_info[op->code];
	if (op->nin < info->min_in || op->nin > info->max_in || op->nout != info->nout) {
		verify_bad(v, op->loc,
			   "%s has %d operands and %d results; it takes %d to %d and makes %d",
			   raw_op_str(v, b, o), op->nin, op->nout, info->min_in, info->max_in,
			   info->nout);
		return false;
	}
	return verify_attrs(v, b, o) && verify_attr_values(v, b, o) &&
	       verify_op_place(v, b, o) && verify_op_vals(v, b, o, defined);
}

/* ---- types of results ---- */

/* Equal but for the order of axes. */
static bool
type_fits(const Type *a, const Type *b)
{
	if (a->dt != b->dt || a->partial != b->partial || a->flat != b->flat ||
	    !type_same_axes(a, b))
		return false;
	for (int k = 0; k < a->n; k++) {
		const AxisUse *x = &a->ax[k], *y = &b->ax[type_find(b, x->a)];

		if (x->nshard != y->nshard) return false;
		for (int j = 0; j < x->nshard; j++)
			if (x->shard[j] != y->shard[j]) return false;
	}
	return true;
}

/* Between meshes: the same axes, in the same order; what is sent is whole but for the microbatches. */
static bool
verify_reshard(const Verify *v, const Body *b, uint32_t o)
{
	const Op *op = &b->ops[o];
	const Type *x = &b->vals[op->in[0].i].type, *y = NULL;
	bool same;

	if (!op->out[0].i) return true;
	y = &b->vals[op->out[0].i].type;
	same = x->dt == y->dt && x->n == y->n;
	for (int k = 0; same && k < x->n; k++)
		same = x->ax[k].a.i == y->ax[k].a.i;
	if (!same) verify_bad(v, op->loc, "%s changes more than the layout", op_str(v, b, o));
	if (!(x->partial & ~1u) && (x->partial & 1) == (y->partial & 1)) return same;
	if (b->from && type_equal(x, y) && /* rank for rank */
	    ir_mesh_alike(&v->m->plan.meshes[b->from - 1], &v->m->plan.meshes[b->mesh]))
		return same;
	verify_bad(v, op->loc, "%s sends a sum that is pending", op_str(v, b, o));
	return false;
}

/* False after the first that does not fit: what reads it would not either. */
static bool
verify_inferred(const Verify *v, const Body *b, uint32_t o)
{
	const Op *op = &b->ops[o];
	Type want[MAX_OUT];

	if (op->code == OP_reshard) return verify_reshard(v, b, o);
	if (!ir_infer(v->m, b, op, v->d, want)) {
		diag_note(v->d, op->loc, "in %s", op_str(v, b, o));
		return false;
	}
	for (int i = 0; i < op->nout; i++) {
		Buf s;

		if (!op->out[i].i) continue;
		if (i == 0 ? ir_fits(op, &want[0], &b->vals[op->out[0].i].type)
			   : type_fits(&b->vals[op->out[i].i].type, &want[i]))
			continue;
		buf_init(&s, v->tmp);
		ir_print_type(v->m, ir_mesh(v->m, b), &want[i], &s);
		verify_bad(v, op->loc, "%s: its operands make result %d %s", op_str(v, b, o), i,
			   s.s);
		return false;
	}
	return true;
}

/* ---- all of a body ---- */

static bool
verify_out_ports(const Verify *v, const Body *b, const bool *defined)
{
	for (uint32_t i = 0; i < b->nports; i++) {
		const Port *p = &b->ports[i];

		if (port_is_in(p->kind) || defined[p->v.i]) continue;
		verify_bad(v, (Loc){0},
			   "%s: port '%s %u' gives out value %" PRIu32
			   ", which nothing defines",
			   verify_body_str(v, b), port_str[p->kind], p->slot, p->v.i);
		return false;
	}
	return true;
}

void
verify_body(const Verify *v, uint32_t index)
{
	const Module *m = v->m;
	const Body *b = &m->bodies[index];
	bool *defined = NEW_N(v->tmp, bool, (size_t)b->nvals + 1);
	bool ok;

	if ((unsigned)b->kind >= BK_COUNT ||
	    (m->level >= LV_spmd ? b->mesh >= m->plan.nmeshes : b->mesh)) {
		verify_bad(v, (Loc){0}, "body %" PRIu32 " is of kind %d on mesh %" PRIu32,
			   index, (int)b->kind, b->mesh);
		return;
	}
	if (m->level >= LV_spmd ? b->from > m->plan.nmeshes : b->from) {
		verify_bad(v, (Loc){0}, "%s: from mesh %" PRIu32 " of %" PRIu32,
			   verify_body_str(v, b), b->from - 1, m->plan.nmeshes);
		return;
	}
	if (m->level < LV_train && b->kind != BK_F && b->kind != BK_const)
		verify_bad(v, (Loc){0}, "%s: there is none at level graph",
			   verify_body_str(v, b));
	if (!verify_ports(v, b, defined)) return;
	for (uint32_t o = 0; o < b->nops; o++)
		if (diag_stop(v->d) || !verify_op(v, b, o, defined)) return;
	ok = verify_out_ports(v, b, defined);
	if (!verify_vals(v, b, defined) || !ok) return;
	for (uint32_t o = 0; o < b->nops; o++)
		if (!verify_inferred(v, b, o)) return;
}
