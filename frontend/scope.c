/*
 * scope.c - names and what they stand for, and how errors about them are told.
 * Invariant: a name at the top means one thing; a local name hides no axis (gdl: "Names and values").
 */
#include "frontend/elab.h"

#include <string.h>

/* ---- map: open addressing, grows by rehashing, never shrinks ---- */

static uint32_t
map_slot(const Map *t, Name key)
{
	uint32_t i = (key * 2654435761u) & (t->cap - 1);
	while (t->key[i] && t->key[i] != key)
		i = (i + 1) & (t->cap - 1);
	return i;
}

uint32_t
map_get(const Map *t, Name key)
{
	return t->cap && key ? t->val[map_slot(t, key)] : 0;
}

void
map_put(Arena *a, Map *t, Name key, uint32_t val)
{
	if (2 * (t->n + 1) > t->cap) {
		Map old = *t;
		t->cap = old.cap ? 2 * old.cap : 16;
		t->key = NEW_N(a, Name, t->cap);
		t->val = NEW_N(a, uint32_t, t->cap);
		for (uint32_t i = 0; i < old.cap; i++) {
			if (!old.key[i]) continue;
			uint32_t k = map_slot(t, old.key[i]);
			t->key[k] = old.key[i];
			t->val[k] = old.val[i];
		}
	}
	uint32_t i = map_slot(t, key);
	t->n += t->key[i] == 0;
	t->key[i] = key;
	t->val[i] = val;
}

/* ---- symbols ---- */

Scope *
frame_scope(Frame *f)
{
	return f->caller ? &f->local : &f->src->top;
}

Sym *
scope_find(const Scope *s, Name name)
{
	uint32_t i = map_get(&s->map, name);
	return i && s->sym[i].kind != SY_gone ? &s->sym[i] : NULL;
}

/* The symbol of that name in s, made if there is none; its kind and place are set. */
Sym *
scope_add(Elab *e, Scope *s, Name name, SymKind k, Span at)
{
	uint32_t i = map_get(&s->map, name);
	if (!i) {
		if (!s->n) PUSH(e->arena, s->sym, s->n, s->cap, (Sym){0});
		i = s->n;
		PUSH(e->arena, s->sym, s->n, s->cap, (Sym){0});
		map_put(e->arena, &s->map, name, i);
	}
	s->sym[i] = (Sym){.name = name, .kind = k, .at = at};
	return &s->sym[i];
}

Sym *
lookup(Frame *f, Name name)
{
	Sym *s = f->caller ? scope_find(&f->local, name) : NULL;
	return s ? s : scope_find(&f->src->top, name);
}

static const char *
kind_text(SymKind k)
{
	switch (k) {
	case SY_axis: return "an axis";
	case SY_input: return "an input";
	case SY_param: return "a parameter";
	case SY_def: return "a function";
	case SY_layer: return "a layer";
	default: return "a number";
	}
}

static const char *
article(SymKind k)
{
	return k == SY_value ? "a name for a value" : kind_text(k);
}

bool
may_declare(Elab *e, Frame *f, Name name, Span at, SymKind k)
{
	Sym *s = scope_find(&f->src->top, name);
	if (!s) s = scope_find(frame_scope(f), name);
	if (f->caller) {
		Sym *l = scope_find(&f->local, name);
		/* a body hides what is at the top, but no axis, and no axis hides anything */
		if (l && (l->kind == SY_axis || k == SY_axis))
			s = l;
		else if (s && s->kind != SY_axis && k != SY_axis)
			s = NULL;
	}
	if (!s && f->src == &e->user && k >= SY_def && builtin_find(str(e, name))) {
		fe_error(e, f, at, "'%s' is an operation; a function needs a name of its own",
			 str(e, name));
		return false;
	}
	if (!s) return true;
	bool told = s->kind == SY_axis && k != SY_axis && f->caller
			? fe_error(e, f, at, "'%s' is an axis; a local name hides no axis",
				   str(e, name))
		    : s->kind == k ? fe_error(e, f, at, "'%s' is declared twice", str(e, name))
				   : fe_error(e, f, at, "'%s' is %s; it cannot be %s too",
					      str(e, name), kind_text(s->kind), article(k));
	if (told) fe_note(e, f, s->at, "'%s' is declared here", str(e, name));
	return false;
}

/* ---- errors ---- */

Loc
loc_of(const Elab *e, const Frame *f, Span at)
{
	return f->src == &e->user ? diag_loc(e->ctx->diag, e->user.file, at.lo, at.hi)
				  : f->call;
}

bool
tell_once(Elab *e, Loc at)
{
	for (uint32_t i = 0; i < e->ntold; i++)
		if (e->told[i].line == at.line && e->told[i].col == at.col) return false;
	PUSH(e->arena, e->told, e->ntold, e->ctold, at);
	return true;
}

bool
fe_error(Elab *e, const Frame *f, Span at, const char *fmt, ...)
{
	Loc l = loc_of(e, f, at);
	Buf b;
	va_list ap;
	if (!tell_once(e, l)) return false;
	buf_init(&b, e->arena);
	va_start(ap, fmt);
	buf_vprintf(&b, fmt, ap);
	va_end(ap);
	diag_error(e->ctx->diag, l, "%s", b.s);
	return true;
}

void
fe_note(Elab *e, const Frame *f, Span at, const char *fmt, ...)
{
	Buf b;
	va_list ap;
	buf_init(&b, e->arena);
	va_start(ap, fmt);
	buf_vprintf(&b, fmt, ap);
	va_end(ap);
	diag_note(e->ctx->diag, loc_of(e, f, at), "%s", b.s);
}

bool
step(Elab *e, const Frame *f, Span at)
{
	if (e->over || diag_stop(e->ctx->diag)) return false;
	if (++e->steps <= FE_MAX_STEPS) return true;
	fe_error(e, f, at, "the program is too large: more than %d steps of elaboration",
		 FE_MAX_STEPS);
	e->over = true;
	return false;
}

bool
nest(Elab *e, const Frame *f, Span at)
{
	if (++e->nest <= FE_MAX_NEST) return true;
	if (!e->over)
		fe_error(e, f, at, "expressions and calls are more than %d levels deep",
			 FE_MAX_NEST);
	e->over = true;
	return false;
}

/* Edits between two short names; `most` + 1 if there are more. */
static int
edit_distance(const char *a, const char *b, int most)
{
	enum { LEN = 40 };
	int row[LEN + 1], na = (int)strnlen(a, LEN + 1), nb = (int)strnlen(b, LEN + 1);
	if (na > LEN || nb > LEN) return most + 1;
	for (int j = 0; j <= nb; j++)
		row[j] = j;
	for (int i = 1; i <= na; i++) {
		int diagonal = row[0];
		row[0] = i;
		for (int j = 1; j <= nb; j++) {
			int best = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			if (row[j] + 1 < best) best = row[j] + 1;
			if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[nb];
}

Name
closest(Elab *e, Name name, const Name *candidates, uint32_t n)
{
	const char *s = str(e, name);
	size_t len = strlen(s);
	int best = len <= 3 ? 1 : 2;
	Name found = 0;
	best++;
	for (uint32_t i = 0; i < n; i++) {
		int d = edit_distance(s, str(e, candidates[i]), best);
		if (d < best && (size_t)d < len) {
			best = d;
			found = candidates[i];
		}
	}
	return found;
}

void
fe_unknown(Elab *e, const Frame *f, Span at, Name name, bool function)
{
	Name *near = NULL;
	uint32_t n = 0, cap = 0;
	const Scope *scopes[] = {&f->local, &f->src->top, &e->prelude.top};
	for (size_t k = 0; k < (function ? 3u : 2u); k++)
		for (uint32_t i = 1; i < scopes[k]->n; i++) {
			const Sym *s = &scopes[k]->sym[i];
			bool callable = s->kind == SY_def || s->kind == SY_layer;
			if (s->kind != SY_gone && callable == function)
				PUSH(e->ctx->tmp, near, n, cap, s->name);
		}
	if (function) {
		const char *ops[128];
		uint32_t nops = builtin_names(ops, COUNTOF(ops));
		for (uint32_t i = 0; i < nops; i++)
			PUSH(e->ctx->tmp, near, n, cap, name_of(e->ctx->names, ops[i]));
	}
	Name best = closest(e, name, near, n);
	const char *what = function ? "function or operation" : "name";
	if (best)
		fe_error(e, f, at, "there is no %s '%s'; did you mean '%s'?", what,
			 str(e, name), str(e, best));
	else
		fe_error(e, f, at, "there is no %s '%s'", what, str(e, name));
}

/* ---- text for messages ---- */

const char *
str(const Elab *e, Name n)
{
	return name_str(e->ctx->names, n);
}

/* The source between `at`, blanks and newlines as one blank, cut at 60 characters. */
const char *
text_of(const Elab *e, const Frame *f, Span at)
{
	enum { SHOWN = 60 };
	Buf b;
	bool blank = false;
	buf_init(&b, e->arena);
	buf_puts(&b, "");
	for (size_t i = at.lo; i < at.hi && i < f->src->len; i++) {
		char c = f->src->text[i];
		if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
			blank = true;
			continue;
		}
		if (b.n > SHOWN) {
			buf_puts(&b, " ...");
			break;
		}
		if (blank && b.n) buf_putc(&b, ' ');
		blank = false;
		buf_putc(&b, c);
	}
	return b.s;
}

const char *
axes_text(const Elab *e, const AxisList *l)
{
	Buf b;
	buf_init(&b, e->arena);
	buf_puts(&b, "");
	for (int i = 0; i < l->n; i++)
		buf_printf(&b, "%s%s", i ? " " : "", ir_axis_str(e->m, l->a[i]));
	return b.s;
}

const char *
type_axes_text(const Elab *e, const Type *t)
{
	AxisList l = axes_of(t);
	Buf b;
	buf_init(&b, e->arena);
	buf_printf(&b, "[%s]", axes_text(e, &l));
	return b.s;
}

const char *
num_text(const Elab *e, double x)
{
	Buf b;
	buf_init(&b, e->arena);
	if (is_whole(x) && x < 1e15 && x > -1e15)
		buf_printf(&b, "%lld", (long long)x);
	else
		buf_double(&b, x);
	return b.s;
}
