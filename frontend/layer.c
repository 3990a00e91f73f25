/*
 * layer.c - layer calls: from a call in `forward` to an instance of a layer type, and what is done at the very end.
 *
 * Every call elaborates its body. If the body is equal to that of an earlier type of the same layer, in structure and
 * in its weights' types and factors, the instance is of that type and the new body is dropped. Names, rates and which
 * parameters are read may differ: they are in the instance.
 */
#include "frontend/elab.h"

#include <math.h>
#include <string.h>

/* ---- what a layer reads from outside ---- */

static Value
add_arg(Elab *e, Frame *f, Span at, Ref ref, Type t, Name hint)
{
	if (e->nargs >= MAX_SLOTS - 1) {
		fe_error(e, f, at, "a layer with more than %d arguments", MAX_SLOTS - 1);
		return poison();
	}
	Val v = ir_port(e->m, &e->body, PORT_arg, (uint16_t)e->nargs, hint, t);
	PUSH(e->arena, e->args, e->nargs, e->cargs, ref);
	return tensor_value(e, v, false);
}

/* An input's value: what is known of its range, floats in the model's precision. */
static Value
input_value(Elab *e, Frame *f, Span at, Value v, const Input *in)
{
	v.range = in->range;
	if (in->range.i) set_bounds(&v, 0, (double)ir_extent(e->m, in->range) - 1);
	return v.kind == V_tensor && dtype_float(in->type.dt) ? cast(e, f, at, v, e->model) : v;
}

Value
read_input(Elab *e, Frame *f, Span at, uint32_t input)
{
	const Input *in = &e->m->inputs[input];
	Ref ref = {REF_input, input, 0};
	if (!e->body_open) {
		if (!f->caller) {
			fe_error(e, f, at,
				 "'%s' is an input; inputs are read in layers and 'forward'",
				 str(e, in->name));
			return poison();
		}
		ValueRef *r = NEW(e->arena, ValueRef);
		Value v = {.kind = V_ref, .ref = r};
		forget_bounds(&v);
		v.range = in->range;
		*r = (ValueRef){.ref = ref, .type = in->type, .value = v};
		return v;
	}
	uint32_t known = map_get(&e->input_of, input + 1);
	if (known) return input_value(e, f, at, tensor_value(e, (Val){known}, false), in);
	Value v = add_arg(e, f, at, ref, in->type, in->name);
	if (v.kind == V_poison) return v;
	map_put(e->arena, &e->input_of, input + 1, v.v.i);
	return input_value(e, f, at, v, in);
}

Value
read_ref(Elab *e, Span at, const ValueRef *r)
{
	if (r->base) {
		Value x = read_ref(e, at, r->base);
		return x.kind == V_poison
			   ? x
			   : index_tensor(e, r->frame, r->subs, r->at, x, r->given);
	}
	Name hint = r->ref.kind == REF_input ? e->m->inputs[r->ref.i].name : 0;
	Value v = add_arg(e, &e->top, at, r->ref, r->type, hint);
	if (v.kind == V_poison) return v;
	if (r->ref.kind == REF_input)
		return input_value(e, &e->top, at, v, &e->m->inputs[r->ref.i]);
	v.range = r->value.range;
	set_bounds(&v, r->value.lo, r->value.hi);
	return v;
}

/* ---- one body ---- */

static void
open_body(Elab *e, Name name)
{
	e->body = ir_body(name, BK_F);
	e->body_open = true;
	e->hint = e->local_of = e->input_of = (Map){0};
	e->weights = NULL;
	e->args = NULL;
	e->rates = NULL;
	e->nweights = e->cweights = e->nargs = e->cargs = e->nrates = e->crates = 0;
}

static void
name_values(Elab *e, Body *b)
{
	Map seen = {0};
	for (uint32_t v = 1; v < b->nvals; v++) {
		Name base = b->vals[v].name, name = base;
		uint32_t k = map_get(&seen, base);
		while (map_get(&seen, name))
			name = name_fmt(e->ctx->names, "%s.%u", str(e, base), ++k);
		if (k) map_put(e->arena, &seen, base, k);
		map_put(e->arena, &seen, name, 1);
		b->vals[v].name = name;
	}
	b->index = NULL;
	b->cindex = b->nindex = 0;
}

/* Values are called after the variables they were bound to, else after their op; then names are made unique.
 * Deletes what no result depends on; arguments and weights that nobody reads lose their slots. */
static void
close_body(Elab *e)
{
	Body *b = &e->body;
	uint32_t *arg = NEW_N(e->arena, uint32_t, e->nargs + 1),
		 *weight = NEW_N(e->arena, uint32_t, e->nweights + 1), n = 0;
	for (uint32_t v = 1; v < b->nvals; v++) {
		Name hint = map_get(&e->hint, v);
		const Op *op = val_op(b, (Val){v});
		if (hint || op)
			b->vals[v].name =
			    hint ? hint : name_of(e->ctx->names, op_info[op->code].text);
	}
	body_dce(e->m, b);
	name_values(e, b);
	for (uint32_t i = 0; i < b->nports; i++) {
		if (b->ports[i].kind == PORT_arg) arg[b->ports[i].slot] = 1;
		if (b->ports[i].kind == PORT_weight) weight[b->ports[i].slot] = 1;
	}
	for (uint32_t i = 0; i < e->nargs; i++)
		if (arg[i]) {
			e->args[n] = e->args[i];
			arg[i] = n++;
		}
	e->nargs = n;
	n = 0;
	for (uint32_t i = 0; i < e->nweights; i++)
		if (weight[i]) {
			e->weights[n] = e->weights[i];
			weight[i] = n++;
		}
	e->nweights = n;
	for (uint32_t i = 0; i < b->nports; i++) {
		Port *p = &b->ports[i];
		if (p->kind == PORT_arg) p->slot = (uint16_t)arg[p->slot];
		if (p->kind == PORT_weight) p->slot = (uint16_t)weight[p->slot];
	}
	e->body_open = false;
}

static bool
same_weights(const Elab *e, const LayerType *t, const Instance *first)
{
	if (t->nweights != e->nweights) return false;
	for (uint32_t i = 0; i < t->nweights; i++) {
		const Param *p = &e->m->params[first->params[i]],
			    *q = &e->m->params[e->weights[i].param];
		if (!type_equal(&p->type, &q->type) || p->decay != q->decay || p->lr != q->lr)
			return false;
	}
	return true;
}

/* The layer type of the body just made: an earlier one that is alike, or a new one. */
static uint32_t
layer_type(Elab *e, Name layer, int nouts)
{
	Module *m = e->m;
	uint32_t same = 0;
	for (uint32_t i = 0; i < m->ntypes; i++) {
		const LayerType *t = &m->types[i];
		if (e->made[i].layer != layer) continue;
		same++;
		if (t->nargs == e->nargs && t->nouts == nouts && t->nrates == e->nrates &&
		    same_weights(e, t, &m->insts[e->made[i].inst]) &&
		    ir_body_equal(m, &m->bodies[t->body[BK_F]], &e->body))
			return i;
	}
	LayerType t = {.name =
			   same ? name_fmt(m->names, "%s.%u", str(e, layer), same + 1) : layer,
		       .nargs = (uint16_t)e->nargs,
		       .nouts = (uint16_t)nouts,
		       .nrates = (uint16_t)e->nrates,
		       .nweights = e->nweights,
		       .weights = NEW_N(m->arena, TypeWeight, e->nweights + 1)};
	for (uint32_t i = 0; i < e->nweights; i++)
		t.weights[i] =
		    (TypeWeight){e->weights[i].local, m->params[e->weights[i].param].type};
	e->body.name = t.name;
	t.body[BK_F] = ir_add_body(m, e->body);
	Made made = {layer, m->ninsts};
	PUSH(e->arena, e->made, e->nmade, e->cmade, made);
	PUSH(m->arena, m->types, m->ntypes, m->ctypes, t);
	return m->ntypes - 1;
}

/* Tensors become results of the instance; numbers stay numbers. */
static int
layer_results(Elab *e, Loc at, Values *r)
{
	int nouts = 0;
	for (int i = 0; i < r->n; i++) {
		Value v = r->v[i];
		if (!is_tensor(v)) continue;
		if (v.kind == V_const) v.v = localise(e, v, at);
		ir_out(e->m, &e->body, PORT_out, (uint16_t)nouts, v.v);
		ValueRef *ref = NEW(e->arena, ValueRef);
		r->v[i].kind = V_ref;
		r->v[i].ref = ref;
		*ref = (ValueRef){.ref = {REF_result, e->m->ninsts, (uint16_t)nouts++},
				  .type = *val_type(&e->body, v.v),
				  .value = r->v[i]};
	}
	return nouts;
}

static void
add_instance(Elab *e, const Call *c, Name layer, Name path, Loc at, int nouts)
{
	Module *m = e->m;
	Instance n = {.name = layer, .path = path, .loc = at};
	n.type = layer_type(e, layer, nouts);
	n.args = NEW_N(m->arena, Ref, e->nargs + 1);
	for (uint32_t i = 0; i < e->nargs; i++)
		n.args[i] = e->args[i];
	n.params = NEW_N(m->arena, uint32_t, e->nweights + 1);
	n.rates = arena_dup(m->arena, e->rates, sizeof(double) * e->nrates);
	for (uint32_t i = 0; i < e->nweights; i++)
		n.params[i] = e->weights[i].param;
	Called called = {layer, c->tail && c->tail->has_text};
	PUSH(e->arena, e->called, e->ncalled, e->ccalled, called);
	PUSH(m->arena, m->insts, m->ninsts, m->cinsts, n);
}

void
call_layer(Elab *e, Frame *f, Call *c, Sym *sym, Values *out)
{
	Frame callee = {0};
	Name path = 0;
	*out = (Values){.n = 1};
	if (e->body_open || !f->caller) {
		fe_error(e, f, c->at, "'%s' is a layer; layers are called from 'forward' only",
			 str(e, c->name));
		return;
	}
	if (c->tail && c->tail->name) {
		fe_error(e, f, c->tail->name_at,
			 "'per' multiplies the parameters of a function, not of a layer");
		return;
	}
	if (c->tail && c->tail->has_text &&
	    !expand_name(e, f, c->tail->at, c->tail->text, &path))
		return;
	if (e->m->ninsts >= MAX_SLOTS) {
		fe_error(e, f, c->at, "more than %d layers", MAX_SLOTS);
		return;
	}
	if (!call_prepare(e, f, c, sym)) return;
	for (int i = 0; i < c->nargs; i++)
		if (c->arg_node[i] && c->arg[i].kind == V_poison) return;

	Loc at = loc_of(e, f, c->at);
	int errors = diag_errors(e->ctx->diag);
	open_body(e, c->name);
	if (call_bind(e, f, &callee, c, sym)) {
		exec_block(e, &callee, sym->node->c);
		if (!callee.returned && !e->over)
			fe_error(e, f, c->at, "'%s' returns nothing", str(e, c->name));
		check_results(e, &callee);
	}
	if (e->over || !callee.returned || diag_errors(e->ctx->diag) != errors) {
		e->body_open = false;
		return;
	}
	for (int i = 0; i < callee.result.n; i++)
		if (callee.result.v[i].kind ==
		    V_poison) { /* its error was told at an earlier instance */
			e->body_open = false;
			return;
		}
	*out = callee.result;
	int nouts = layer_results(e, at, out);
	close_body(e);
	add_instance(e, c, c->name, path, at, nouts);
}

/* ---- the end ---- */

/* "block.0" where there are several, "embedding" where there is one; without `as` that is the path, too. */
static void
name_instances(Elab *e)
{
	Map count = {0}, next = {0};
	for (uint32_t i = 0; i < e->ncalled; i++)
		map_put(e->arena, &count, e->called[i].layer,
			map_get(&count, e->called[i].layer) + 1);
	for (uint32_t i = 0; i < e->ncalled; i++) {
		Name layer = e->called[i].layer;
		Instance *n = &e->m->insts[i];
		uint32_t k = map_get(&next, layer);
		map_put(e->arena, &next, layer, k + 1);
		n->name = map_get(&count, layer) > 1
			      ? name_fmt(e->ctx->names, "%s.%u", str(e, layer), k)
			      : layer;
		if (!e->called[i].has_path) n->path = n->name;
	}
}

/* Constants nobody reads any more lose their slots; the rest become results of the const body. */
static void
finish_consts(Elab *e)
{
	Module *m = e->m;
	uint32_t *slot = NEW_N(e->arena, uint32_t, m->nconsts + 1), n = 0;
	for (uint32_t i = 1; i < m->nbodies; i++)
		for (uint32_t k = 0; k < m->bodies[i].nports; k++)
			if (m->bodies[i].ports[k].kind == PORT_const)
				slot[m->bodies[i].ports[k].slot] = 1;
	for (uint32_t i = 0; i < m->nparams; i++)
		if (m->params[i].init == INIT_const) slot[(size_t)m->params[i].init_a] = 1;
	for (uint32_t i = 0; i < m->nconsts; i++) {
		if (!slot[i]) continue;
		m->consts[n] = m->consts[i];
		ir_out(m, &e->konst, PORT_out, (uint16_t)n, e->slot_val[i]);
		slot[i] = n++;
	}
	m->nconsts = n;
	for (uint32_t i = 1; i < m->nbodies; i++)
		for (uint32_t k = 0; k < m->bodies[i].nports; k++) {
			Port *p = &m->bodies[i].ports[k];
			if (p->kind == PORT_const) p->slot = (uint16_t)slot[p->slot];
		}
	for (uint32_t i = 0; i < m->nparams; i++)
		if (m->params[i].init == INIT_const)
			m->params[i].init_a = slot[(size_t)m->params[i].init_a];
	if (!n) return;
	body_dce(m, &e->konst);
	name_values(e, &e->konst);
	m->const_body = ir_add_body(m, e->konst);
}

/* What the last cross_entropy over an input's range reads is kept for sampling. */
static void
mark_logits(Elab *e)
{
	Module *m = e->m;
	for (uint32_t i = m->ninsts; i-- > 0;) {
		Body *b = &m->bodies[m->types[m->insts[i].type].body[BK_F]];
		for (uint32_t k = b->nops; k-- > 0;) {
			if (b->ops[k].code != OP_cross_entropy) continue;
			for (uint32_t j = 0; j < m->ninputs; j++)
				if (m->inputs[j].range.i == attr_axis(&b->ops[k], AK_axis).i) {
					ir_out(m, b, PORT_logits, 0, b->ops[k].in[0]);
					return;
				}
		}
	}
}

void
finish_module(Elab *e)
{
	uint32_t *user = NEW_N(e->arena, uint32_t, e->m->nparams + 1);
	for (uint32_t i = 0; i < e->m->ninsts; i++)
		for (uint32_t k = 0; k < e->m->types[e->m->insts[i].type].nweights; k++) {
			uint32_t p = e->m->insts[i].params[k];
			if (!user[p]) user[p] = i + 1;
		}
	name_instances(e);
	finish_params(e, user);
	finish_consts(e);
	mark_logits(e);
}
