/*
 * stmt.c - expressions and statements, in execution order; loops are unrolled, conditions decided.
 */
#include "frontend/elab.h"

#include <string.h>

/* ---- expressions ---- */

static Value
eval_name(Elab *e, Frame *f, const Node *n)
{
	Sym *s = lookup(f, n->name);
	double extent = 1;
	if (!s) {
		if (builtin_find(str(e, n->name)) || scope_find(&e->prelude.top, n->name))
			fe_error(e, f, n->at, "'%s' is a function; call it: %s(...)",
				 str(e, n->name), str(e, n->name));
		else
			fe_unknown(e, f, n->at, n->name, false);
		return poison();
	}
	if (s->poison) return poison();
	switch (s->kind) {
	case SY_axis:
		for (int i = 0; i < s->axes.n; i++)
			extent *= (double)ir_extent(e->m, s->axes.a[i]);
		return number(extent);
	case SY_value:
		return s->value.kind == V_ref && e->body_open ? read_ref(e, n->at, s->value.ref)
							      : s->value;
	case SY_input: return read_input(e, f, n->at, s->index);
	case SY_param: return read_shared(e, f, n->at, s->index);
	default:
		fe_error(e, f, n->at, "'%s' is a %s; call it: %s(...)", str(e, n->name),
			 s->kind == SY_layer ? "layer" : "function", str(e, n->name));
		return poison();
	}
}

/* In `forward` a tensor is in no body: the index is evaluated now and applied in the layer that receives it. */
static Value
index_ref(Elab *e, Frame *f, const Node *n, Value x)
{
	ValueRef *r = NEW(e->arena, ValueRef);
	Value *given = NULL;
	uint32_t count = 0, cap = 0;
	for (const Node *s = n->b; s; s = s->next) {
		if (s->kind != N_at) continue;
		Value i = eval(e, f, s->a);
		if (i.kind == V_poison) return i;
		PUSH(e->arena, given, count, cap, i);
	}
	*r = (ValueRef){.ref = x.ref->ref, .type = x.ref->type, .value = x, .base = x.ref};
	r->subs = n->b;
	r->given = given;
	r->at = n->at;
	r->frame = arena_dup(e->arena, f, sizeof *f); /* a function's is gone by then */
	x.ref = r;
	return x;
}

static Value
eval_index(Elab *e, Frame *f, const Node *n)
{
	Value x = eval(e, f, n->a);
	if (x.kind == V_poison) return x;
	if (x.kind == V_ref) return index_ref(e, f, n, x);
	if (!is_tensor(x)) {
		fe_error(e, f, n->a->at, "'%s' is %s; it has no axes to index",
			 text_of(e, f, n->a->at),
			 x.kind == V_init ? "a way to draw numbers" : "a number");
		return poison();
	}
	return index_tensor(e, f, n->b, n->at, x, NULL);
}

/* The name before brackets or parentheses is that of a function: not of a value that hides one. */
static bool
names_function(Elab *e, Frame *f, const Node *n)
{
	Sym *s = lookup(f, n->kind == N_call ? n->name : n->a->name);
	(void)e;
	return n->kind == N_call ||
	       (n->a->kind == N_name && (!s || s->kind == SY_def || s->kind == SY_layer));
}

static Sym *
find_function(Elab *e, Frame *f, Name name)
{
	Sym *s = scope_find(&f->src->top, name);
	if (s && (s->kind == SY_def || s->kind == SY_layer)) return s;
	s = scope_find(&e->prelude.top, name);
	return s;
}

static void
eval_call(Elab *e, Frame *f, const Node *n, Name bound_to, Values *out)
{
	Call c;
	call_of(n, &c);
	Sym *s = find_function(e, f, c.name);
	const Builtin *b = builtin_find(str(e, c.name));
	if (s && s->kind == SY_layer) {
		call_layer(e, f, &c, s, out);
	} else if (s) {
		call_def(e, f, &c, s, bound_to, out);
	} else if (b) {
		builtin_call(e, f, &c, b, out);
	} else {
		Sym *v = lookup(f, c.name);
		if (v && n->kind == N_call)
			fe_error(e, f, c.at, "'%s' is no function; it cannot be called",
				 str(e, c.name));
		else
			fe_unknown(e, f, c.at, c.name, true);
	}
}

static void
eval_node(Elab *e, Frame *f, const Node *n, Name bound_to, Values *out)
{
	if (n->kind == N_call || (n->kind == N_index && names_function(e, f, n))) {
		eval_call(e, f, n, bound_to, out);
		return;
	}
	switch (n->kind) {
	case N_error: return;
	case N_number: out->v[0] = number(n->num); return;
	case N_bool: out->v[0] = boolean(n->num != 0); return;
	case N_name:
		out->v[0] = eval_name(e, f, n);
		out->name[0] = n->name;
		return;
	case N_index: out->v[0] = eval_index(e, f, n); return;
	case N_neg:
	case N_not: {
		Value x = eval(e, f, n->a);
		out->v[0] = x.kind == V_poison ? x : unary(e, f, n, x);
		return;
	}
	default: {
		Value x = eval(e, f, n->a), y = eval(e, f, n->b);
		if (x.kind != V_poison && y.kind != V_poison) out->v[0] = binary(e, f, n, x, y);
	}
	}
}

void
eval_many(Elab *e, Frame *f, const Node *n, Name bound_to, Values *out)
{
	*out = (Values){.n = 1};
	if (!step(e, f, n->at)) return;
	if (nest(e, f, n->at)) eval_node(e, f, n, bound_to, out);
	e->nest--;
}

Value
eval(Elab *e, Frame *f, const Node *n)
{
	Values v;
	eval_many(e, f, n, 0, &v);
	if (v.n == 1) return v.v[0];
	fe_error(e, f, n->at, "'%s' gives %d values where one is wanted", text_of(e, f, n->at),
		 v.n);
	return poison();
}

/* ---- statements ---- */

void
declare_axis(Elab *e, Frame *f, const Node *n)
{
	for (const Node *a = n->a; a; a = a->next) {
		double extent = 0;
		Value v, set;
		bool ok;
		if (!f->caller && set_value(e, a->name, &set)) {
			Node literal = *a->a;
			literal.kind = N_number;
			ok = whole_number(e, f, &literal, set, "an extent", 1, FE_MAX_EXTENT,
					  &extent);
			if (!ok)
				diag_note(e->ctx->diag, (Loc){0}, "'%s' is %s by --set",
					  str(e, a->name), num_text(e, set.num));
		} else {
			v = eval(e, f, a->a);
			ok =
			    whole_number(e, f, a->a, v, "an extent", 1, FE_MAX_EXTENT, &extent);
		}
		if (!may_declare(e, f, a->name, a->name_at, SY_axis)) continue;
		Loc at = loc_of(e, f, a->name_at);
		Axis axis = ok ? own_axis(e, a, str(e, a->name), (int64_t)extent, at) : NO_AXIS;
		Sym *s = scope_add(e, frame_scope(f), a->name, SY_axis, a->name_at);
		s->poison = !axis.i;
		s->axes = (AxisList){axis.i != 0, {axis}};
		if (f->caller && axis.i) PUSH(e->arena, f->own, f->nown, f->cown, axis);
	}
}

static void
exec_bind(Elab *e, Frame *f, const Node *n)
{
	Values v;
	int k = 0, count = 0;
	for (const Node *a = n->a; a; a = a->next)
		count++;
	eval_many(e, f, n->b, count == 1 ? n->a->name : 0, &v);
	bool bad = false;
	for (int i = 0; i < v.n; i++)
		bad = bad || (v.n != count && v.v[i].kind == V_poison);
	if (!bad && v.n != count) {
		fe_error(e, f, n->at, "%d name%s for %d value%s", count, count == 1 ? "" : "s",
			 v.n, v.n == 1 ? "" : "s");
		bad = true;
	}
	for (const Node *a = n->a; a; a = a->next, k++) {
		Value x = bad ? poison() : v.v[k], set;
		if (!may_declare(e, f, a->name, a->at, SY_value)) continue;
		if (!f->caller && set_value(e, a->name, &set)) x = set;
		Sym *s = scope_add(e, frame_scope(f), a->name, SY_value, a->at);
		s->value = x;
		if (x.kind == V_tensor && f->src == &e->user && n->b->kind != N_name &&
		    val_op(&e->body, x.v))
			map_put(e->arena, &e->hint, x.v.i, a->name);
	}
}

static void
exec_return(Elab *e, Frame *f, const Node *n)
{
	Values *r = &f->result;
	f->returned = true;
	f->return_at = n->at;
	if (!f->caller) {
		fe_error(e, f, n->at, "'return' stands in a function, a layer or 'forward'");
		return;
	}
	if (!n->a->next) {
		eval_many(e, f, n->a, 0, r);
		return;
	}
	for (const Node *x = n->a; x; x = x->next) {
		if (r->n == FE_MAX_VALUES) {
			fe_error(e, f, x->at, "more than %d results", FE_MAX_VALUES);
			return;
		}
		r->name[r->n] = x->kind == N_name ? x->name : 0;
		r->v[r->n++] = eval(e, f, x);
	}
}

static void
exec_if(Elab *e, Frame *f, const Node *n)
{
	Value c = eval(e, f, n->a);
	if (c.kind == V_poison) { /* what would have been returned is not known */
		f->returned = true;
		f->result = (Values){.n = 1};
	} else if (c.kind == V_number) {
		exec_block(e, f, c.num != 0 ? n->b : n->c);
	} else {
		fe_error(e, f, n->a->at,
			 "'if' is decided when compiled, but its condition is a tensor; use "
			 "where(c, a, b)");
		f->returned = true;
		f->result = (Values){.n = 1};
	}
}

static void
exec_for(Elab *e, Frame *f, const Node *n)
{
	double lo, hi;
	if (!whole_number(e, f, n->a, eval(e, f, n->a), "a loop bound", -FE_MAX_EXTENT,
			  FE_MAX_EXTENT, &lo))
		return;
	if (!whole_number(e, f, n->b, eval(e, f, n->b), "a loop bound", -FE_MAX_EXTENT,
			  FE_MAX_EXTENT, &hi))
		return;
	if (hi - lo > FE_MAX_TURNS) {
		fe_error(e, f, n->b->at, "a loop of %s turns, more than %d",
			 num_text(e, hi - lo), FE_MAX_TURNS);
		return;
	}
	if (!may_declare(e, f, n->name, n->name_at, SY_value)) return;
	Scope *scope = frame_scope(f);
	for (double i = lo; i < hi && !f->returned && step(e, f, n->at); i++) {
		Sym *s = scope_add(e, scope, n->name, SY_value, n->name_at);
		s->value = number(i);
		uint32_t first = scope->n;
		exec_block(e, f, n->c);
		for (uint32_t k = first; k < scope->n; k++) /* its axes belong to one turn */
			if (scope->sym[k].kind == SY_axis) scope->sym[k].kind = SY_gone;
	}
	Sym *s = scope_find(scope, n->name);
	if (s) s->kind = SY_gone;
}

void
exec_block(Elab *e, Frame *f, const Node *stmts)
{
	if (!stmts) return;
	if (!nest(e, f, stmts->at)) stmts = NULL;
	for (const Node *n = stmts; n && !f->returned; n = n->next) {
		if (!step(e, f, n->at)) break;
		switch (n->kind) {
		case N_axis: declare_axis(e, f, n); break;
		case N_bind: exec_bind(e, f, n); break;
		case N_param: declare_param(e, f, n); break;
		case N_return:
			exec_return(e, f, n);
			if (n->next)
				fe_error(e, f, n->next->at,
					 "nothing after 'return' is reached");
			break;
		case N_if: exec_if(e, f, n); break;
		case N_for: exec_for(e, f, n); break;
		default: ICE("statement %d", (int)n->kind);
		}
	}
	e->nest--;
}

void
check_results(Elab *e, Frame *f)
{
	for (int i = 0; i < f->result.n; i++) {
		Value *v = &f->result.v[i];
		if (!is_tensor(*v)) continue;
		Type t = type_of(e, *v);
		for (uint32_t k = 0; k < f->nown; k++) {
			if (type_find(&t, f->own[k]) < 0) continue;
			fe_error(
			    e, f, f->return_at,
			    "the result %s has the axis '%s', which exists in this body only",
			    type_axes_text(e, &t), ir_axis_str(e->m, f->own[k]));
			*v = poison();
			break;
		}
	}
}
