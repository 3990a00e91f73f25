/*
 * verify.c - what must hold of a module at its level: tables and layer types. Bodies, instances, gradients, schedule and
 * memory have files of their own.
 *
 * Input: any module whose indices may be wrong, since a pass may have made it. Output: diagnostics, each prefixed by who
 * made the module, at the place of the operation in the model's source.
 * Checks that stand on others (gradients, schedule, memory) run only where those found nothing.
 */
#include "ir/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void
verify_bad(const Verify *v, Loc at, const char *fmt, ...)
{
	char text[2000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	diag_error(v->d, at, "%s%s%s", v->who ? v->who : "", v->who && v->who[0] ? ": " : "",
		   text);
}

static const char *
str(const Verify *v, Name name)
{
	return name_str(v->m->names, name);
}

/* A type as text, for messages. */
const char *
verify_type_str(const Verify *v, const Mesh *mesh, const Type *t)
{
	Buf b;

	buf_init(&b, v->tmp);
	ir_print_type(v->m, mesh, t, &b);
	return b.s;
}

/* ---- types ---- */

static bool
verify_use(const Verify *v, const AxisUse *u, const Mesh *mesh, unsigned *used, Loc at,
	   const char *what)
{
	if (u->a.i == 0 || u->a.i >= v->m->naxes) {
		verify_bad(v, at, "%s: axis %u of %" PRIu32, what, u->a.i, v->m->naxes);
		return false;
	}
	if (u->nshard > MAX_SHARD || (u->nshard && v->m->level < LV_spmd)) {
		verify_bad(v, at, "%s: axis '%s' is split %u times at level %s", what,
			   ir_axis_str(v->m, u->a), u->nshard, level_str[v->m->level]);
		return false;
	}
	for (int j = 0; j < u->nshard; j++) {
		unsigned k = u->shard[j];

		if (k >= MAX_MESH || (mesh && k >= mesh->n)) {
			verify_bad(v, at, "%s: axis '%s' is split over mesh axis %u of %d",
				   what, ir_axis_str(v->m, u->a), k, mesh ? mesh->n : MAX_MESH);
			return false;
		}
		if (*used >> k & 1) {
			verify_bad(v, at, "%s: mesh axis %u is used twice", what, k);
			return false;
		}
		*used |= 1u << k;
	}
	return true;
}

/* Axes exist and are distinct, mesh axes too, and the size is one we can count with. */
bool
verify_type(const Verify *v, const Type *t, const Mesh *mesh, Loc at, const char *what)
{
	unsigned used = 0;
	int64_t elems = 1;

	if (t->dt <= DT_none || t->dt >= DT_COUNT || t->n > MAX_AXES) {
		verify_bad(v, at, "%s: element type %d, %d axes", what, (int)t->dt, t->n);
		return false;
	}
	for (int k = 0; k < t->n; k++) {
		int64_t extent;

		if (!verify_use(v, &t->ax[k], mesh, &used, at, what)) return false;
		if (type_find(t, t->ax[k].a) != k) {
			verify_bad(v, at, "%s: axis '%s' occurs twice", what,
				   ir_axis_str(v->m, t->ax[k].a));
			return false;
		}
		extent = ir_extent(v->m, t->ax[k].a);
		if (extent > MAX_ELEMS / elems) {
			verify_bad(v, at, "%s: more than %" PRId64 " elements", what,
				   MAX_ELEMS);
			return false;
		}
		elems *= extent;
	}
	if (t->flat && (v->m->level < LV_spmd || t->flat & 1 || t->flat & (used | t->partial) ||
			(mesh && t->flat & ~ir_dp_mask(mesh)))) {
		verify_bad(v, at, "%s: a range of the flat axis over mesh axes 0x%x cannot be",
			   what, t->flat);
		return false;
	}
	if (!t->partial) return true;
	if (v->m->level < LV_spmd || t->partial & used || (mesh && t->partial >> mesh->n) ||
	    !dtype_float(t->dt)) {
		verify_bad(v, at, "%s: the sum pending over mesh axes 0x%x cannot be", what,
			   t->partial);
		return false;
	}
	return true;
}

/* The same data type and axes in the same order; how they are split is not looked at. */
bool
verify_same_layout(const Type *a, const Type *b)
{
	if (a->dt != b->dt || a->n != b->n) return false;
	for (int k = 0; k < a->n; k++)
		if (a->ax[k].a.i != b->ax[k].a.i) return false;
	return true;
}

/* ... which is: the same splits, too. Sums pending and ranges of the flat are not looked at. */
static bool
same_shards(const Type *a, const Type *b)
{
	if (!verify_same_layout(a, b)) return false;
	for (int k = 0; k < a->n; k++)
		if (a->ax[k].nshard != b->ax[k].nshard ||
		    memcmp(a->ax[k].shard, b->ax[k].shard, a->ax[k].nshard) != 0)
			return false;
	return true;
}

/* ---- tables ---- */

static void
verify_axes(const Verify *v)
{
	const Module *m = v->m;
	Name top = 0;
	bool *seen;

	for (uint32_t i = 1; i < m->naxes; i++)
		if (m->axes[i].name > top) top = m->axes[i].name;
	seen = NEW_N(v->tmp, bool, (size_t)top + 1);
	for (uint32_t i = 1; i < m->naxes; i++) {
		const AxisDef *a = &m->axes[i];

		if (!a->name || seen[a->name])
			verify_bad(v, a->loc, "axis %" PRIu32 ": a second '%s'", i,
				   str(v, a->name));
		if (a->extent < 1 || a->extent > MAX_EXTENT)
			verify_bad(v, a->loc, "axis '%s' has extent %" PRId64, str(v, a->name),
				   a->extent);
		seen[a->name] = true;
	}
	if (m->batch.i >= m->naxes || (m->level >= LV_plan && !m->batch.i))
		verify_bad(v, (Loc){0}, "batch is axis %u of %" PRIu32, m->batch.i, m->naxes);
}

/* Another layout of an input, from level spmd on; false if its mesh is none. */
static bool
verify_input_layout(const Verify *v, uint32_t i)
{
	const Module *m = v->m;
	const Input *in = &m->inputs[i];

	if (m->level >= LV_spmd ? in->mesh >= m->plan.nmeshes : in->mesh || in->of) {
		verify_bad(v, in->loc, "input '%s' is a layout in mesh %" PRIu32 " of %" PRIu32,
			   str(v, in->name), in->mesh, m->plan.nmeshes);
		return false;
	}
	if (in->type.partial || in->type.flat)
		verify_bad(v, in->loc, "input '%s' is a sum that is pending", str(v, in->name));
	if (in->of && (in->of > i || m->inputs[in->of - 1].of ||
		       m->inputs[in->of - 1].range.i != in->range.i ||
		       !verify_same_layout(&m->inputs[in->of - 1].type, &in->type)))
		verify_bad(v, in->loc,
			   "input '%s' is another layout of input %" PRIu32
			   ", which is not of its type",
			   str(v, in->name), in->of - 1);
	return true;
}

static void
verify_inputs(const Verify *v)
{
	const Module *m = v->m;

	for (uint32_t i = 0; i < m->ninputs; i++) {
		const Input *in = &m->inputs[i];
		const Mesh *mesh = m->level >= LV_spmd ? &m->plan.meshes[in->mesh] : NULL;

		for (uint32_t j = 0; j < i; j++)
			if (m->inputs[j].name == in->name)
				verify_bad(v, in->loc, "two inputs are called '%s'",
					   str(v, in->name));
		if (!verify_input_layout(v, i)) continue;
		if (!verify_type(v, &in->type, mesh, in->loc, str(v, in->name))) continue;
		if (m->batch.i && type_find(&in->type, m->batch) < 0)
			verify_bad(v, in->loc, "input '%s' has no axis '%s', the samples",
				   str(v, in->name), ir_axis_str(m, m->batch));
		if (in->range.i >= m->naxes || (in->range.i && in->type.dt != DT_i32))
			verify_bad(v, in->loc,
				   "input '%s' is of type %s, but a number of an axis",
				   str(v, in->name), dtype_str(in->type.dt));
	}
	for (uint32_t i = 0; i < m->nconsts; i++)
		verify_type(v, &m->consts[i], NULL, (Loc){0}, "a constant");
}

static void
verify_param(const Verify *v, const Param *p)
{
	const Module *m = v->m;
	const char *name = str(v, p->name);
	int axes = p->per.i != 0;

	if (!verify_type(v, &p->type, NULL, p->loc, name)) return;
	for (int k = 0; k < p->ndims && k < MAX_AXES; k++)
		axes += p->dims[k];
	if (p->ndims > MAX_AXES || axes != p->type.n)
		verify_bad(v, p->loc,
			   "parameter '%s': its dimensions group %d axes, its type has %d",
			   name, axes, p->type.n);
	if (p->per.i && (p->type.n == 0 || p->type.ax[0].a.i != p->per.i))
		verify_bad(v, p->loc, "parameter '%s': the axis after 'per' is not its first",
			   name);
	if (!dtype_float(p->type.dt))
		verify_bad(v, p->loc, "parameter '%s' is of type %s", name,
			   dtype_str(p->type.dt));
	if ((unsigned)p->init > INIT_const)
		verify_bad(v, p->loc, "parameter '%s': initial value of kind %d", name,
			   (int)p->init);
	if (p->init == INIT_const && !(p->init_a >= 0 && p->init_a < m->nconsts))
		verify_bad(v, p->loc, "parameter '%s' begins as constant %g of %" PRIu32, name,
			   p->init_a, m->nconsts);
	if (p->borrows && (p->borrows > m->nparams || m->params[p->borrows - 1].borrows ||
			   !verify_same_layout(&p->type, &m->params[p->borrows - 1].type) ||
			   m->level < LV_spmd))
		verify_bad(v, p->loc,
			   "parameter '%s' is a copy of parameter %" PRIu32
			   ", which is not of its type or a copy itself",
			   name, p->borrows - 1);
	if (p->type.partial || p->type.flat || p->pending & 1 ||
	    (m->level < LV_spmd && (p->pending || p->trained)))
		verify_bad(v, p->loc, "parameter '%s': pending over mesh axes 0x%x at level %s",
			   name, p->pending | p->type.partial, level_str[m->level]);
	if (p->owner >= m->ninsts)
		verify_bad(v, p->loc,
			   "parameter '%s' belongs to instance %" PRIu32 " of %" PRIu32, name,
			   p->owner, m->ninsts);
}

static void
verify_params(const Verify *v)
{
	const Module *m = v->m;
	Name top = 0;
	bool *seen;

	for (uint32_t i = 0; i < m->nparams; i++)
		if (m->params[i].name > top) top = m->params[i].name;
	seen = NEW_N(v->tmp, bool, (size_t)top + 1);
	for (uint32_t i = 0; i < m->nparams; i++) {
		const Param *p = &m->params[i];

		if (seen[p->name])
			verify_bad(v, p->loc, "two parameters are called '%s'",
				   str(v, p->name));
		seen[p->name] = true;
		if ((p->type.dt == DT_bf16) != (m->params[0].type.dt == DT_bf16))
			verify_bad(v, p->loc, "parameter '%s' is %s, but '%s' is %s",
				   str(v, p->name), dtype_str(p->type.dt),
				   str(v, m->params[0].name), dtype_str(m->params[0].type.dt));
		verify_param(v, p);
	}
}

static void
verify_train(const Verify *v)
{
	const Train *t = &v->m->train;

	if ((unsigned)t->opt > OPT_sgd || (unsigned)t->rate > RATE_inverse_sqrt)
		verify_bad(v, (Loc){0}, "optimizer %d, rate %d", (int)t->opt, (int)t->rate);
	if (!(t->beta1 >= 0 && t->beta1 < 1) || !(t->beta2 >= 0 && t->beta2 < 1))
		verify_bad(v, (Loc){0}, "beta1 is %g and beta2 %g; both are in [0, 1)",
			   t->beta1, t->beta2);
	if (!(t->clip >= 0)) verify_bad(v, (Loc){0}, "clip is %g", t->clip);
	if (t->precision != DT_none && !dtype_float(t->precision))
		verify_bad(v, (Loc){0}, "precision %d", (int)t->precision);
}

/* ---- layer types ---- */

typedef struct TypePorts {
	const Verify *v;
	const LayerType *l;
	const Body *b, *f;
} TypePorts;

typedef enum Match { MATCH_axes, MATCH_shards, MATCH_all } Match;

/* Is `slot` one of n? */
static bool
slot_in(const TypePorts *q, const Port *p, uint32_t n)
{
	if (p->slot < n) return true;
	verify_bad(q->v, (Loc){0}, "%s: '%s %u', but the layer type has %" PRIu32 " of these",
		   verify_body_str(q->v, q->b), port_str[p->kind], p->slot, n);
	return false;
}

static void
port_type(const TypePorts *q, const Port *p, const Type *want, Match match)
{
	const Type *have = &q->b->vals[p->v.i].type;
	const Mesh *mesh = val_mesh(q->v->m, q->b, p->v);

	if (match == MATCH_all      ? type_equal(have, want)
	    : match == MATCH_shards ? same_shards(have, want)
				    : verify_same_layout(have, want))
		return;
	verify_bad(q->v, (Loc){0}, "%s: '%s %u' is %s, but it should be %s",
		   verify_body_str(q->v, q->b), port_str[p->kind], p->slot,
		   verify_type_str(q->v, mesh, have), verify_type_str(q->v, mesh, want));
}

/* The type of a port of F; NULL if F has no such port. */
static const Type *
forward_type(const TypePorts *q, PortKind kind, uint16_t slot)
{
	const Port *p = q->f ? ir_find_port(q->f, kind, slot) : NULL;

	return p ? &q->f->vals[p->v.i].type : NULL;
}

static void
verify_port(const TypePorts *q, const Port *p)
{
	const Module *m = q->v->m;
	const LayerType *l = q->l;
	const Type scalar = {.dt = q->b->vals[p->v.i].type.dt}, *t;
	Type state;

	switch (p->kind) {
	case PORT_arg:
		if (!slot_in(q, p, l->nargs)) break;
		t = forward_type(q, PORT_arg, p->slot);
		if (t) port_type(q, p, t, MATCH_all);
		break;
	case PORT_weight:
	case PORT_w_out:
		if (slot_in(q, p, l->nweights))
			port_type(q, p, &l->weights[p->slot].type,
				  q->b->kind == BK_U ? MATCH_shards : MATCH_all);
		break;
	case PORT_const:
		if (slot_in(q, p, m->nconsts)) port_type(q, p, &m->consts[p->slot], MATCH_axes);
		break;
	case PORT_saved:
	case PORT_save:
		if (slot_in(q, p, l->nsaved)) port_type(q, p, &l->saved[p->slot], MATCH_all);
		break;
	case PORT_carry:
	case PORT_carry_out:
		if (slot_in(q, p, l->ncarry)) port_type(q, p, &l->carry[p->slot], MATCH_all);
		break;
	case PORT_out: slot_in(q, p, l->nouts); break;
	case PORT_cot:
		if (!slot_in(q, p, l->nouts)) break;
		t = forward_type(q, PORT_out, p->slot);
		if (t) port_type(q, p, t, MATCH_shards);
		break;
	case PORT_dx:
		if (!slot_in(q, p, l->nargs)) break;
		t = forward_type(q, PORT_arg, p->slot);
		if (t) port_type(q, p, t, MATCH_shards);
		break;
	case PORT_grad:
	case PORT_dw:
		if (slot_in(q, p, l->nweights))
			port_type(q, p, &l->weights[p->slot].type, MATCH_shards);
		break;
	case PORT_m:
	case PORT_v:
	case PORT_master:
	case PORT_m_out:
	case PORT_v_out:
	case PORT_master_out:
		if (!slot_in(q, p, l->nweights)) break;
		state = ir_state_type(&l->weights[p->slot].type);
		port_type(q, p, &state, MATCH_shards);
		break;
	case PORT_scalar:
		if (slot_in(q, p, 4)) port_type(q, p, &scalar, MATCH_axes);
		break;
	case PORT_norm: port_type(q, p, &(Type){.dt = DT_f64}, MATCH_axes); break;
	case PORT_logits:
	case PORT_COUNT: break;
	}
}

/* Ports 0 .. n of a kind are all there. */
static void
all_ports(const TypePorts *q, PortKind kind, uint32_t n)
{
	uint32_t have = 0;

	for (uint32_t p = 0; p < q->b->nports; p++)
		have += q->b->ports[p].kind == kind;
	if (have != n)
		verify_bad(q->v, (Loc){0}, "%s: %" PRIu32 " ports '%s' of %" PRIu32,
			   verify_body_str(q->v, q->b), have, port_str[kind], n);
}

static void
verify_type_body(const Verify *v, const LayerType *l, BodyKind k)
{
	TypePorts q = {v, l, NULL, NULL};

	if (l->body[k] >= v->m->nbodies || v->m->bodies[l->body[k]].kind != k ||
	    k == BK_const) {
		verify_bad(v, (Loc){0},
			   "layer type '%s': its body %s is %" PRIu32 " of %" PRIu32,
			   str(v, l->name), body_str[k], l->body[k], v->m->nbodies);
		return;
	}
	q.b = &v->m->bodies[l->body[k]];
	if (l->body[BK_F] && l->body[BK_F] < v->m->nbodies) q.f = &v->m->bodies[l->body[BK_F]];
	if (q.b->name != l->name)
		verify_bad(v, (Loc){0}, "%s belongs to the layer type '%s'",
			   verify_body_str(v, q.b), str(v, l->name));
	for (uint32_t p = 0; p < q.b->nports; p++)
		verify_port(&q, &q.b->ports[p]);
	if (k == BK_F) {
		all_ports(&q, PORT_out, l->nouts);
		all_ports(&q, PORT_save, l->nsaved);
	}
	if (k == BK_B) all_ports(&q, PORT_carry_out, l->ncarry);
}

/* A reshard: F and, if there is a gradient, B are one operation each, of one argument and one result. */
static void
verify_reshard_type(const Verify *v, const LayerType *l)
{
	for (int k = 0; k < BK_COUNT; k++) {
		const Body *b = &v->m->bodies[l->body[k]];

		if (!l->body[k] ||
		    ((b->from != 0) == l->reshard &&
		     (!l->reshard || (k <= BK_B && b->nports == 2 && b->nops == 1))))
			continue;
		verify_bad(v, (Loc){0}, "%s: %s", verify_body_str(v, b),
			   l->reshard ? "of a reshard, but not one operation between two meshes"
				      : "between two meshes, but its layer type is no reshard");
	}
	if (l->reshard && (l->nargs != 1 || l->nouts != 1 || l->nweights || l->nsaved ||
			   l->ncarry || v->m->level < LV_spmd))
		verify_bad(v, (Loc){0},
			   "layer type '%s' is a reshard of %u arguments at level %s",
			   str(v, l->name), l->nargs, level_str[v->m->level]);
}

/* Slots of rates the operations draw with. */
static void
verify_rates(const Verify *v, const LayerType *l, const Body *b)
{
	for (uint32_t o = 0; o < b->nops; o++) {
		int64_t slot, least = b->ops[o].code == OP_dropout ? 0 : -1;

		if (!attr_find(&b->ops[o], AK_rate)) continue;
		slot = attr_int(&b->ops[o], AK_rate);
		if (slot < least || slot >= l->nrates)
			verify_bad(v, b->ops[o].loc, "%s: '%s' has rate %" PRId64 " of %u",
				   verify_body_str(v, b), op_info[b->ops[o].code].text, slot,
				   l->nrates);
	}
}

static void
verify_layer_type(const Verify *v, uint32_t index)
{
	const LayerType *l = &v->m->types[index];
	const Mesh *mesh = NULL;

	for (uint32_t j = 0; j < index; j++)
		if (v->m->types[j].name == l->name)
			verify_bad(v, (Loc){0}, "two layer types are called '%s'",
				   str(v, l->name));
	if (!l->body[BK_F]) {
		verify_bad(v, (Loc){0}, "layer type '%s' has no forward body", str(v, l->name));
		return;
	}
	for (int k = 0; k < BK_COUNT; k++)
		if (l->body[k] >= v->m->nbodies) return verify_type_body(v, l, (BodyKind)k);
	mesh = text_type_mesh(v->m, l);
	for (uint32_t w = 0; w < l->nweights; w++)
		if (!verify_type(v, &l->weights[w].type, mesh, (Loc){0},
				 str(v, l->weights[w].name)))
			return;
	for (uint32_t s = 0; s < l->nsaved; s++)
		if (!verify_type(v, &l->saved[s], mesh, (Loc){0}, "a saved value")) return;
	for (uint32_t c = 0; c < l->ncarry; c++)
		if (!verify_type(v, &l->carry[c], mesh, (Loc){0}, "a carried value")) return;
	for (int k = 0; k < BK_COUNT; k++) {
		if (!l->body[k]) continue;
		if (k > BK_F && v->m->level < LV_train)
			verify_bad(v, (Loc){0}, "layer type '%s' has a body %s at level %s",
				   str(v, l->name), body_str[k], level_str[v->m->level]);
		verify_type_body(v, l, (BodyKind)k);
		verify_rates(v, l, &v->m->bodies[l->body[k]]);
	}
	verify_reshard_type(v, l);
}

/* The constants: one body makes each once. */
static void
verify_consts(const Verify *v)
{
	const Module *m = v->m;
	TypePorts q = {v, NULL, NULL, NULL};

	for (uint32_t b = 1; b < m->nbodies; b++)
		if (m->bodies[b].kind == BK_const && b != m->const_body)
			verify_bad(v, (Loc){0},
				   "body %" PRIu32
				   " makes constants, but so does body %" PRIu32,
				   b, m->const_body);
	if (m->const_body >= m->nbodies || (m->nconsts && !m->const_body)) {
		verify_bad(v, (Loc){0},
			   "%" PRIu32 " constants are made by body %" PRIu32 " of %" PRIu32,
			   m->nconsts, m->const_body, m->nbodies);
		return;
	}
	if (!m->const_body) return;
	q.b = &m->bodies[m->const_body];
	all_ports(&q, PORT_out, m->nconsts);
	for (uint32_t p = 0; p < q.b->nports; p++)
		if (q.b->ports[p].kind == PORT_out && slot_in(&q, &q.b->ports[p], m->nconsts))
			port_type(&q, &q.b->ports[p], &m->consts[q.b->ports[p].slot],
				  MATCH_axes);
}

/* ---- all ---- */

bool
ir_verify(const Module *m, Diag *d, const char *who)
{
	Verify v = {m, d, who, arena_new()};
	int errors = diag_errors(d);

	if ((unsigned)m->level >= LV_COUNT) verify_bad(&v, (Loc){0}, "level %d", (int)m->level);
	verify_axes(&v);
	if (diag_errors(d) == errors && m->level >= LV_plan)
		plan_check(m, &m->plan, NULL, d, who);
	if (diag_errors(d) == errors) {
		verify_inputs(&v);
		verify_params(&v);
		verify_train(&v);
	}
	if (diag_errors(d) == errors)
		for (uint32_t b = 1; b < m->nbodies && !diag_stop(d); b++)
			verify_body(&v, b);
	if (diag_errors(d) == errors) {
		for (uint32_t l = 0; l < m->ntypes && !diag_stop(d); l++)
			verify_layer_type(&v, l);
		verify_consts(&v);
	}
	if (diag_errors(d) == errors) verify_instances(&v);
	if (diag_errors(d) == errors && m->level >= LV_train) verify_gradients(&v);
	if (diag_errors(d) == errors && m->level >= LV_mem) {
		for (uint32_t b = 1; b < m->nbodies && !diag_stop(d); b++)
			verify_body_memory(&v, b);
		verify_memory(&v);
	}
	if (diag_errors(d) == errors && m->level >= LV_sched) verify_actions(&v);
	arena_free(v.tmp);
	return diag_errors(d) == errors;
}
