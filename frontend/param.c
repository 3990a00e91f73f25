/*
 * param.c - parameters: who owns them, their names, types, first values, and reading them.
 *
 * A parameter declared in a body belongs to the instance (or call) that declares it; one declared at the top comes into
 * being when the first instance names it, and belongs to that one. Names are made at the end, when it is known what
 * the instances are called.
 */
#include "frontend/elab.h"

#include <string.h>

Value
make_init(InitKind k, double a, double b)
{
	return (Value){.kind = V_init, .init = k, .init_a = a, .init_b = b};
}

/* ---- declaration ---- */

/* The axes of `param w[O (dy dx)]`: the type in declared order, `per` outermost, and how many make a file dimension. */
static bool
param_type(Elab *e, Frame *f, const Node *n, Param *p)
{
	AxisList all = {0};
	bool twice = false;
	Buf shown;
	buf_init(&shown, e->arena);
	p->type.dt = e->kept;
	if (f->per.i) {
		type_push(&p->type, (AxisUse){.a = f->per});
		axes_add(&all, f->per);
		buf_puts(&shown, ir_axis_str(e->m, f->per));
	}
	for (const Node *d = n->a; d; d = d->next) {
		AxisList dim;
		if (!names_axes(e, f, d->a, &dim)) return false;
		if (all.n + dim.n > MAX_AXES || p->ndims == MAX_AXES) {
			fe_error(e, f, n->name_at, "parameter '%s' has more than %d axes",
				 str(e, n->name), MAX_AXES);
			return false;
		}
		p->dims[p->ndims++] = dim.n;
		for (int i = 0; i < dim.n; i++) {
			buf_printf(&shown, "%s%s", shown.n ? " " : "",
				   ir_axis_str(e->m, dim.a[i]));
			if (axes_has(&all, dim.a[i])) {
				twice = true;
				continue;
			}
			axes_add(&all, dim.a[i]);
			type_push(&p->type, (AxisUse){.a = dim.a[i]});
		}
	}
	if (!twice) return true;
	Axis a = all.a[all.n - 1];
	fe_error(e, f, n->name_at,
		 "parameter '%s' has an axis twice: [%s]; note: axis other = %s, then y[other "
		 "-> %s]",
		 str(e, n->name), shown.s, ir_axis_str(e->m, a), ir_axis_str(e->m, a));
	return false;
}

/* A constant tensor as first value: with exactly the parameter's axes, in its order. */
static bool
init_const(Elab *e, Frame *f, Span at, Value v, Param *p)
{
	Type t = type_of(e, v);
	AxisList missing = {0};
	Value r = v;
	if (t.dt == DT_bool) {
		fe_error(e, f, at,
			 "a first value is a number; float(b) makes 0 and 1 of a bool");
		return false;
	}
	for (int i = 0; i < t.n; i++) {
		if (type_find(&p->type, t.ax[i].a) >= 0) continue;
		fe_error(e, f, at,
			 "the first value has the axis '%s', the parameter has not: %s",
			 ir_axis_str(e->m, t.ax[i].a), type_axes_text(e, &p->type));
		return false;
	}
	for (int i = 0; i < p->type.n; i++)
		if (type_find(&t, p->type.ax[i].a) < 0) axes_add(&missing, p->type.ax[i].a);
	r = cast(e, f, at, r, e->kept);
	if (r.kind == V_poison) return false;
	t = type_of(e, r);
	Attr axes = attr_make_axes(AK_axes, &missing);
	EmitArgs a = {.code = missing.n ? OP_broadcast : OP_copy,
		      .in = &v,
		      .nin = 1,
		      .attrs = &axes,
		      .nattr = missing.n > 0,
		      .want = &p->type};
	v = r;
	if (!type_equal(&t, &p->type) && !emit(e, f, at, &a, &r, 1)) return false;
	p->init = INIT_const;
	p->init_a = (double)const_slot(e, r.v);
	return true;
}

static bool
param_init(Elab *e, Frame *f, const Node *n, Param *p)
{
	Value v = eval(e, f, n->b);
	switch (v.kind) {
	case V_poison: return false;
	case V_number:
		if (v.is_bool) {
			fe_error(e, f, n->b->at,
				 "a first value is a number, not true or false");
			return false;
		}
		p->init = INIT_value;
		p->init_a = v.num;
		return true;
	case V_init:
		p->init = v.init;
		p->init_a = v.init_a;
		p->init_b = v.init_b;
		return true;
	case V_const: return init_const(e, f, n->b->at, v, p);
	default:
		fe_error(e, f, n->b->at,
			 "a first value is known when compiled: a number, a constant tensor, "
			 "normal(std) or uniform(low, high)");
		return false;
	}
}

static bool
param_factors(Elab *e, Frame *f, const Node *n, Param *p)
{
	p->decay = p->lr = 1;
	for (const Node *a = n->c; a; a = a->next) {
		const char *name = str(e, a->name);
		double *to = !strcmp(name, "decay") ? &p->decay
			     : !strcmp(name, "lr")  ? &p->lr
						    : NULL;
		if (!to) {
			fe_error(e, f, a->name_at,
				 "a parameter has no option '%s'; there are 'decay' and 'lr'",
				 name);
			return false;
		}
		if (!any_number(e, f, a->a->at, eval(e, f, a->a), "this factor", to))
			return false;
		if (*to < 0) {
			fe_error(e, f, a->a->at, "'%s' is a factor, at least 0, but this is %s",
				 name, num_text(e, *to));
			return false;
		}
	}
	return true;
}

static bool
param_name(Elab *e, Frame *f, const Node *n, Param *p, Name *local)
{
	Name part = n->name;
	if (n->has_text && !expand_name(e, f, n->name_at, n->text, &part)) return false;
	*local = join_path(e, f->path, part);
	/* `{axis}` in the name: one file entry for each index */
	if (f->per.i && strstr(str(e, *local),
			       name_str(e->ctx->names, name_fmt(e->ctx->names, "{%s}",
								ir_axis_str(e->m, f->per)))))
		p->per = f->per;
	if (f->per.i && !p->per.i) {
		if (p->ndims == MAX_AXES) return false;
		memmove(p->dims + 1, p->dims, p->ndims);
		p->dims[0] = 1;
		p->ndims++;
	}
	return true;
}

static bool
param_size(Elab *e, Frame *f, const Node *n, const Param *p)
{
	double count = 1;
	for (int i = 0; i < p->type.n; i++)
		count *= (double)ir_extent(e->m, p->type.ax[i].a);
	if (count <= (double)FE_MAX_ELEMENTS) return true;
	fe_error(e, f, n->name_at, "parameter '%s' has %.3g elements, more than %.3g",
		 str(e, n->name), count, (double)FE_MAX_ELEMENTS);
	return false;
}

/* ---- reading ---- */

static uint32_t
add_param(Elab *e, const Param *p, Name local, bool shared)
{
	Owned o = {local, e->m->ninsts, shared};
	PUSH(e->arena, e->m->params, e->m->nparams, e->m->cparams, *p);
	PUSH(e->arena, e->owned, e->nowned, e->cowned, o);
	e->m->params[e->m->nparams - 1].owner = e->m->ninsts;
	return e->m->nparams - 1;
}

/* "attn.q.weight" as the name of a value: dots and identifier characters. */
static Name
value_name(Elab *e, Name local)
{
	Buf b;
	buf_init(&b, e->arena);
	buf_puts(&b, "");
	for (const char *s = str(e, local); *s; s++) {
		bool word = (*s >= '0' && *s <= '9') ||
			    ((*s | 32) >= 'a' && (*s | 32) <= 'z') || *s == '_';
		if (!b.n && !((*s | 32) >= 'a' && (*s | 32) <= 'z')) buf_putc(&b, 'w');
		buf_putc(&b, word || *s == '.' ? *s : '_');
	}
	return name_of(e->ctx->names, b.s);
}

/* The parameter in the model's precision: a weight of the layer type that is being made. */
static Value
add_weight(Elab *e, Frame *f, Span at, uint32_t param, Name local)
{
	if (e->nweights >= MAX_SLOTS - 1) {
		fe_error(e, f, at, "a layer with more than %d parameters", MAX_SLOTS - 1);
		return poison();
	}
	Val v = ir_port(e->m, &e->body, PORT_weight, (uint16_t)e->nweights,
			value_name(e, local), e->m->params[param].type);
	Value x = cast(e, f, at, tensor_value(e, v, false), e->model);
	Weight w = {param, local, x.v};
	PUSH(e->arena, e->weights, e->nweights, e->cweights, w);
	return x;
}

Value
read_shared(Elab *e, Frame *f, Span at, uint32_t shared)
{
	Shared *s = &e->shared[shared];
	if (!e->body_open) {
		fe_error(e, f, at, "'%s' is a parameter; parameters are read in layers",
			 text_of(e, f, at));
		return poison();
	}
	if (!s->index) s->index = 1 + add_param(e, &s->p, s->local, true);
	for (uint32_t i = 0; i < e->nweights; i++)
		if (e->weights[i].param == s->index - 1)
			return tensor_value(e, e->weights[i].v, false);
	return add_weight(e, f, at, s->index - 1, s->local);
}

void
declare_param(Elab *e, Frame *f, const Node *n)
{
	Param p = {.loc = loc_of(e, f, n->name_at)};
	Name local = 0;
	bool top = !f->caller, ok = false;
	if (!top && !e->body_open) {
		fe_error(e, f, n->name_at,
			 "'forward' owns no parameters; declare '%s' at the top or in a layer",
			 str(e, n->name));
	} else {
		ok = param_type(e, f, n, &p) && param_size(e, f, n, &p) &&
		     param_init(e, f, n, &p) && param_factors(e, f, n, &p) &&
		     param_name(e, f, n, &p, &local);
	}
	if (!may_declare(e, f, n->name, n->name_at, top ? SY_param : SY_value)) return;
	Value v = poison();
	if (ok && !top) {
		v = add_weight(e, f, n->name_at, add_param(e, &p, local, false), local);
		if (f->per_index && v.kind != V_poison) {
			AxisList axis = {1, {f->per}};
			v = index_at(e, f, n->name_at, v, &axis, &f->per_at, &n->name_at);
		}
	}
	Sym *s = scope_add(e, frame_scope(f), n->name, top ? SY_param : SY_value, n->name_at);
	s->value = v;
	s->poison = top && !ok;
	if (top) {
		Shared sh = {.p = p, .local = local};
		s->index = e->nshared;
		PUSH(e->arena, e->shared, e->nshared, e->cshared, sh);
	}
}

/* ---- names, at the end ---- */

static void
note_first(Elab *e, const Loc *first, const Loc *second)
{
	if (first->line != second->line || first->col != second->col)
		diag_note(e->ctx->diag, *first, "the first is this one");
	else
		diag_note(e->ctx->diag, (Loc){0},
			  "it is made more than once here; a number in the name tells them "
			  "apart: as \"{i}\"");
}

/* The full name is new, and there is one. */
static void
check_name(Elab *e, Map *seen, const Param *p, uint32_t index)
{
	uint32_t other = map_get(seen, p->name);
	if (!*str(e, p->name)) {
		diag_error(e->ctx->diag, p->loc,
			   "this parameter has an empty name; give it one with 'as'");
	} else if (!other) {
		map_put(e->arena, seen, p->name, index + 1);
	} else if (tell_once(e, p->loc)) {
		diag_error(e->ctx->diag, p->loc,
			   "two parameters are called '%s'; tell them apart with 'as'",
			   str(e, p->name));
		note_first(e, &e->m->params[other - 1].loc, &p->loc);
	}
}

static void
warn_unread(Elab *e, const Param *p, Name name)
{
	if (!tell_once(e, p->loc)) return;
	diag_warn(e->ctx->diag, p->loc, "parameter '%s' is never read; it is left out",
		  str(e, name));
}

/* Full names; parameters nobody reads are left out, with a warning. */
void
finish_params(Elab *e, const uint32_t *user)
{
	Module *m = e->m;
	Map seen = {0};
	uint32_t *moved = NEW_N(e->arena, uint32_t, m->nparams + 1), n = 0;
	for (uint32_t i = 0; i < e->nshared; i++)
		if (!e->shared[i].index) warn_unread(e, &e->shared[i].p, e->shared[i].local);
	for (uint32_t i = 0; i < m->nparams; i++) {
		Param *p = &m->params[i];
		const Owned *o = &e->owned[i];
		p->name = o->shared ? o->local : join_path(e, m->insts[o->inst].path, o->local);
		if (!user[i]) {
			warn_unread(e, p, p->name);
			continue;
		}
		p->owner = user[i] - 1;
		check_name(e, &seen, p, n);
		moved[i] = n;
		m->params[n++] = *p;
	}
	m->nparams = n;
	for (uint32_t i = 0; i < m->ninsts; i++)
		for (uint32_t k = 0; k < m->types[m->insts[i].type].nweights; k++)
			m->insts[i].params[k] = moved[m->insts[i].params[k]];
}
