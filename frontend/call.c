/*
 * call.c - calls: brackets against signatures, arguments against formals, and entering functions.
 *
 * A function is inlined: each call elaborates its body in a frame of its own, whose path is where its parameters get
 * their names. Prelude functions see the prelude only, and what goes wrong in one is told at the user's call.
 */
#include "frontend/elab.h"

#include <string.h>

void
call_of(const Node *n, Call *c)
{
	*c = (Call){.node = n};
	if (n->kind == N_call) {
		c->name = n->name;
		c->at = n->name_at;
		c->subs = n->a;
		c->args = n->b;
		c->tail = n->c;
	} else {
		c->name = n->a->name;
		c->at = n->a->at;
		c->subs = n->b;
	}
}

/* ---- brackets ---- */

/* One character for each group and separator: "a,a>a". */
static const char *
shape(Elab *e, const Node *subs)
{
	Buf b;
	buf_init(&b, e->arena);
	buf_puts(&b, "");
	for (const Node *s = subs; s; s = s->next)
		buf_printf(&b, "%s%s", s == subs ? "" : ",", s->kind == N_to ? "a>a" : "a");
	return b.s;
}

static bool
same_shape(const char *given, const char *sig)
{
	if (strlen(given) != strlen(sig)) return false;
	for (size_t i = 1; given[i - 1] && given[i]; i += 2)
		if (given[i] != sig[i]) return false;
	return true;
}

/* "K, D" of "K,D" */
static const char *
pretty(Elab *e, const char *sig)
{
	Buf b;
	buf_init(&b, e->arena);
	for (const char *p = sig; *p; p++)
		if (*p == ',')
			buf_puts(&b, ", ");
		else if (*p == '>')
			buf_puts(&b, " -> ");
		else
			buf_putc(&b, *p);
	return b.s;
}

const char *
signature_text(Elab *e, const Node *decl)
{
	Buf b;
	buf_init(&b, e->arena);
	buf_puts(&b, str(e, decl->name));
	for (const Node *s = decl->a; s; s = s->next) {
		buf_puts(&b, s == decl->a ? "[" : ", ");
		buf_puts(&b, s->a ? str(e, s->a->name) : "");
		if (s->kind == N_to) buf_printf(&b, " -> %s", str(e, s->b->name));
	}
	if (decl->a) buf_putc(&b, ']');
	return b.s;
}

bool
match_groups(Elab *e, Frame *f, Call *c, const char *sig, const char *shown)
{
	bool optional = *sig == '?';
	sig += optional;
	for (const Node *s = c->subs; s; s = s->next) {
		if (s->kind != N_at) continue;
		fe_error(e, f, s->at, "the brackets of '%s' hold axes; '%s' indexes a tensor",
			 str(e, c->name), text_of(e, f, s->at));
		return false;
	}
	if (!c->subs) {
		if (optional || !*sig) return true;
		if (strchr(shown, '['))
			fe_error(e, f, c->at, "'%s' needs its axes in brackets: %s",
				 str(e, c->name), shown);
		else
			fe_error(e, f, c->at, "'%s' needs its axes in brackets: %s[%s]",
				 str(e, c->name), shown, pretty(e, sig));
		return false;
	}
	if (!*sig) {
		fe_error(e, f, c->at, "'%s' takes no axes", str(e, c->name));
		return false;
	}
	if (!same_shape(shape(e, c->subs), sig)) {
		Span at = {c->subs->at.lo, c->subs->last->at.hi};
		if (strchr(shown, '['))
			fe_error(e, f, c->at, "'%s' is declared as %s, but called with [%s]",
				 str(e, c->name), shown, text_of(e, f, at));
		else
			fe_error(e, f, c->at, "'%s' is %s[%s], but called with [%s]",
				 str(e, c->name), shown, pretty(e, sig), text_of(e, f, at));
		return false;
	}
	for (const Node *s = c->subs; s; s = s->next)
		for (int side = 0; side < (s->kind == N_to ? 2 : 1); side++) {
			if (c->ngroups == FE_MAX_GROUPS) {
				fe_error(e, f, c->at, "more than %d groups of axes",
					 FE_MAX_GROUPS);
				return false;
			}
			if (!names_axes(e, f, side ? s->b : s->a, &c->group[c->ngroups++]))
				return false;
		}
	return true;
}

/* ---- arguments ---- */

static int
formal_index(const Name *names, int n, Name name)
{
	for (int i = 0; i < n; i++)
		if (names[i] == name) return i;
	return -1;
}

bool
match_args(Elab *e, Frame *f, Call *c, const Name *names, int n)
{
	int place = 0;
	bool named = false;
	c->nargs = n;
	for (int i = 0; i < n; i++) {
		c->arg_node[i] = NULL;
		c->arg_at[i] = c->at;
	}
	for (const Node *a = c->args; a; a = a->next) {
		int i = a->name ? formal_index(names, n, a->name) : place++;
		if (!a->name && named) {
			fe_error(e, f, a->at,
				 "an argument without a name after one with a name");
			return false;
		}
		if (!a->name && i >= n) {
			fe_error(e, f, a->at, "'%s' takes %d argument%s, this is one more",
				 str(e, c->name), n, n == 1 ? "" : "s");
			return false;
		}
		if (i < 0) {
			Name best = closest(e, a->name, names, (uint32_t)n);
			if (best)
				fe_error(e, f, a->name_at,
					 "'%s' has no argument '%s'; did you mean '%s'?",
					 str(e, c->name), str(e, a->name), str(e, best));
			else
				fe_error(e, f, a->name_at, "'%s' has no argument '%s'",
					 str(e, c->name), str(e, a->name));
			return false;
		}
		if (c->arg_node[i]) {
			fe_error(e, f, a->at, "argument '%s' is given twice", str(e, names[i]));
			return false;
		}
		named = named || a->name;
		c->arg_node[i] = a->a;
		c->arg_at[i] = a->a->at;
	}
	return true;
}

bool
bind_formals(Elab *e, Frame *f, Call *c, const Formal *formals, int n)
{
	Name names[FE_MAX_ARGS] = {0};
	for (int i = 0; i < n; i++)
		names[i] = name_of(e->ctx->names, formals[i].name);
	if (!match_args(e, f, c, names, n)) return false;
	for (int i = 0; i < n; i++) {
		if (c->arg_node[i]) {
			c->arg[i] = eval(e, f, c->arg_node[i]);
		} else if (formals[i].kind == F_required) {
			fe_error(e, f, c->at, "'%s' lacks its argument '%s'", str(e, c->name),
				 formals[i].name);
			return false;
		} else {
			c->arg[i] = formals[i].kind == F_computed ? poison()
				    : formals[i].kind == F_bool ? boolean(formals[i].value != 0)
								: number(formals[i].value);
		}
	}
	return true;
}

bool
call_prepare(Elab *e, Frame *f, Call *c, Sym *sym)
{
	Name names[FE_MAX_ARGS];
	const Node *decl = sym->node;
	int n = 0;
	for (const Node *a = decl->b; a; a = a->next) {
		if (n == FE_MAX_ARGS) {
			fe_error(e, f, c->at, "'%s' has more than %d arguments",
				 str(e, c->name), FE_MAX_ARGS);
			return false;
		}
		names[n++] = a->name;
	}
	if (!match_groups(e, f, c, shape(e, decl->a), signature_text(e, decl))) return false;
	if (!match_args(e, f, c, names, n)) return false;
	n = 0;
	for (const Node *a = decl->b; a; a = a->next, n++) {
		if (!c->arg_node[n] && !a->a) {
			bool told = fe_error(e, f, c->at, "'%s' lacks its argument '%s'",
					     str(e, c->name), str(e, a->name));
			if (told && sym->at.hi && scope_find(&e->user.top, sym->name) == sym)
				diag_note(e->ctx->diag,
					  diag_loc(e->ctx->diag, e->user.file, sym->at.lo,
						   sym->at.hi),
					  "'%s' is declared here", str(e, c->name));
			return false;
		}
		if (c->arg_node[n]) c->arg[n] = eval(e, f, c->arg_node[n]);
	}
	return true;
}

/* Groups and arguments become names of the callee. Defaults are evaluated there, in order. */
bool
call_bind(Elab *e, Frame *caller, Frame *callee, Call *c, Sym *sym)
{
	const Node *decl = sym->node;
	int k = 0;
	bool user = scope_find(&e->user.top, sym->name) == sym;
	callee->caller = caller;
	callee->src = user ? &e->user : &e->prelude;
	callee->decl = decl;
	callee->call = caller->src == &e->user ? loc_of(e, caller, c->at) : caller->call;
	callee->depth = caller->depth + 1;
	for (const Node *s = decl->a; s; s = s->next)
		for (int side = 0; side < (s->kind == N_to ? 2 : 1); side++) {
			const Node *name = side ? s->b : s->a;
			if (!may_declare(e, callee, name->name, name->at, SY_axis))
				return false;
			scope_add(e, &callee->local, name->name, SY_axis, name->at)->axes =
			    c->group[k++];
		}
	k = 0;
	for (const Node *a = decl->b; a; a = a->next, k++) {
		Value v = c->arg_node[k] ? c->arg[k] : eval(e, callee, a->a);
		if (v.kind == V_ref && e->body_open) v = read_ref(e, c->arg_at[k], v.ref);
		if (!may_declare(e, callee, a->name, a->name_at, SY_value)) return false;
		Sym *s = scope_add(e, &callee->local, a->name, SY_value, a->name_at);
		s->value = v;
		if (v.kind == V_tensor && decl->kind == N_layer)
			map_put(e->arena, &e->hint, v.v.i, a->name);
	}
	return true;
}

/* ---- names of parameters ---- */

Name
join_path(Elab *e, Name prefix, Name part)
{
	if (!*str(e, prefix)) return part;
	if (!*str(e, part)) return prefix;
	return name_fmt(e->ctx->names, "%s.%s", str(e, prefix), str(e, part));
}

static bool
brace(Elab *e, Frame *f, Span at, Name name, Buf *b)
{
	Sym *s = lookup(f, name);
	if (s && s->kind == SY_axis && s->axes.n == 1 && f->per.i &&
	    s->axes.a[0].i == f->per.i) {
		buf_printf(b, "{%s}", ir_axis_str(e->m, f->per));
		return true;
	}
	if (s && s->kind == SY_value && s->value.kind == V_poison) return false;
	if (s && s->kind == SY_value && s->value.kind == V_number) {
		buf_puts(b, num_text(e, s->value.num));
		return true;
	}
	if (!s)
		fe_error(e, f, at, "there is no number '%s' to put into this name",
			 str(e, name));
	else if (s->kind == SY_axis)
		fe_error(e, f, at, "'{%s}' names an axis; that is for calls 'per %s'",
			 str(e, name), str(e, name));
	else
		fe_error(e, f, at, "'{%s}' in a name is a number, but '%s' is none",
			 str(e, name), str(e, name));
	return false;
}

bool
expand_name(Elab *e, Frame *f, Span at, Name text, Name *out)
{
	const char *s = str(e, text);
	Buf b;
	buf_init(&b, e->arena);
	buf_puts(&b, "");
	for (; *s; s++) {
		unsigned char ch = (unsigned char)*s;
		if (ch == '{') {
			size_t n = strcspn(s + 1, "{}");
			if (s[1 + n] != '}' || !n) {
				fe_error(e, f, at,
					 "this '{' has no '}', or nothing in between");
				return false;
			}
			if (!brace(e, f, at, name_of_n(e->ctx->names, s + 1, n), &b))
				return false;
			s += n + 1;
			continue;
		}
		if (!(ch >= '0' && ch <= '9') && !((ch | 32) >= 'a' && (ch | 32) <= 'z') &&
		    !strchr("_.-/:", ch)) {
			if (ch > ' ' && ch < 127)
				fe_error(e, f, at,
					 "'%c' cannot stand in the name of a parameter", ch);
			else
				fe_error(e, f, at,
					 "byte 0x%02x cannot stand in the name of a parameter",
					 ch);
			return false;
		}
		buf_putc(&b, (char)ch);
	}
	if (b.n > FE_MAX_NAME) {
		fe_error(e, f, at, "the name of a parameter has more than %d characters",
			 FE_MAX_NAME);
		return false;
	}
	*out = name_of(e->ctx->names, b.s);
	return true;
}

/* ---- functions ---- */

/* `per a: i`: the axis and index that the callee's parameters get. */
static bool
call_per(Elab *e, Frame *f, const Call *c, Frame *callee)
{
	callee->per = f->per;
	callee->per_index = f->per_index;
	callee->per_at = f->per_at;
	if (!c->tail || !c->tail->name) return true;
	Node name = {.kind = N_name, .name = c->tail->name, .at = c->tail->name_at};
	AxisList axis;
	if (!names_axes(e, f, &name, &axis)) return false;
	if (axis.n != 1) {
		fe_error(e, f, name.at, "'per' takes one axis, '%s' stands for %d",
			 str(e, name.name), axis.n);
		return false;
	}
	if (f->per.i) {
		fe_error(e, f, name.at, "'per %s' inside 'per %s'",
			 ir_axis_str(e->m, axis.a[0]), ir_axis_str(e->m, f->per));
		return false;
	}
	callee->per = axis.a[0];
	callee->per_index = c->tail->a != NULL;
	if (!c->tail->a) return true;
	callee->per_at = eval(e, f, c->tail->a);
	return callee->per_at.kind != V_poison;
}

void
call_def(Elab *e, Frame *f, Call *c, Sym *sym, Name bound_to, Values *out)
{
	Frame callee = {0};
	Name part = bound_to ? bound_to : c->name;
	out->n = 1;
	out->v[0] = poison();
	if (sym->seen_call) {
		fe_error(e, f, c->at, "'%s' calls itself; GDL has no recursion",
			 str(e, c->name));
		return;
	}
	if (f->depth >= FE_MAX_CALLS) {
		fe_error(e, f, c->at, "more than %d functions inside functions", FE_MAX_CALLS);
		return;
	}
	if (!call_prepare(e, f, c, sym) || !call_per(e, f, c, &callee)) return;
	if (c->tail && c->tail->has_text) {
		Frame as = *f; /* `{expert}` may stand in the name of the call it belongs to */
		as.per = callee.per;
		if (!expand_name(e, &as, c->tail->at, c->tail->text, &part)) return;
	}
	callee.path = join_path(e, f->path, part);
	if (strlen(str(e, callee.path)) > FE_MAX_NAME) {
		fe_error(e, f, c->at, "the path of a parameter has more than %d characters",
			 FE_MAX_NAME);
		return;
	}
	sym->seen_call = true;
	if (call_bind(e, f, &callee, c, sym)) {
		exec_block(e, &callee, sym->node->c);
		if (!callee.returned && !e->over)
			fe_error(e, f, c->at, "'%s' returns nothing", str(e, c->name));
		check_results(e, &callee);
		if (callee.returned) *out = callee.result;
	}
	sym->seen_call = false;
}
