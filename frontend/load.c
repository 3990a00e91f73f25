/*
 * load.c - the front end's entry points, and the top of a file: what is declared there, in which order it is looked at,
 * and --set.
 */
#include "frontend/elab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

extern const char fe_prelude[];

/* ---- --set name=value ---- */

static const char *
set_for(const Elab *e, Name name, int *which)
{
	const char *s = str(e, name);
	size_t n = strlen(s);
	for (int i = e->opt->nset; i-- > 0;) { /* the last one counts */
		if (strncmp(e->opt->set[i], s, n) || e->opt->set[i][n] != '=') continue;
		*which = i;
		return e->opt->set[i] + n + 1;
	}
	return NULL;
}

bool
set_value(Elab *e, Name name, Value *out)
{
	int which;
	const char *s = set_for(e, name, &which);
	char *end;
	if (!s) return false;
	for (int i = 0; i < e->opt->nset; i++)
		if (!strncmp(e->opt->set[i], e->opt->set[which],
			     (size_t)(s - e->opt->set[which])))
			e->set_used[i] = true;
	if (!strcmp(s, "true") || !strcmp(s, "false")) {
		*out = boolean(*s == 't');
		return true;
	}
	double x = strtod(s, &end);
	bool plain = *s && strspn(s, "0123456789.eE+-") == strlen(s);
	if (plain && !*end && x < 1e300 && x > -1e300) {
		*out = number(x);
		return true;
	}
	diag_error(e->ctx->diag, (Loc){0}, "--set %s: '%s' is no number", e->opt->set[which],
		   s);
	*out = poison();
	return true;
}

static void
check_sets(Elab *e)
{
	Name *near = NULL;
	uint32_t n = 0, cap = 0;
	for (uint32_t i = 1; i < e->user.top.n; i++) {
		const Sym *s = &e->user.top.sym[i];
		bool settable =
		    s->kind == SY_axis || (s->kind == SY_value && s->value.kind == V_number);
		if (settable) PUSH(e->arena, near, n, cap, s->name);
	}
	for (int i = 0; i < e->opt->nset; i++) {
		if (e->set_used[i]) continue;
		const char *s = e->opt->set[i], *eq = strchr(s, '=');
		if (!eq || eq == s) {
			diag_error(e->ctx->diag, (Loc){0}, "--set %s: write --set name=value",
				   s);
			continue;
		}
		Name best = closest(e, name_of_n(e->ctx->names, s, (size_t)(eq - s)), near, n);
		if (best)
			diag_error(e->ctx->diag, (Loc){0},
				   "--set %s: %s has no axis or number '%.*s' at its top; did "
				   "you mean '%s'?",
				   s, str(e, e->user.file), (int)(eq - s), s, str(e, best));
		else
			diag_error(e->ctx->diag, (Loc){0},
				   "--set %s: %s has no axis or number '%.*s' at its top", s,
				   str(e, e->user.file), (int)(eq - s), s);
	}
}

/* ---- items ---- */

static void
declare_function(Elab *e, Source *src, const Node *n)
{
	Frame top = {.src = src};
	Frame *f = src == &e->user ? &e->top : &top;
	if (!may_declare(e, f, n->name, n->name_at, n->kind == N_def ? SY_def : SY_layer))
		return;
	for (const Node *s = n->a; s; s = s->next)
		if (s->kind == N_at || (s->a && s->a->next) || (s->b && s->b->next))
			fe_error(e, f, s->at,
				 "in a signature one name stands for each group of axes, as in "
				 "f[I -> O]");
	Sym *s =
	    scope_add(e, &src->top, n->name, n->kind == N_def ? SY_def : SY_layer, n->name_at);
	s->node = n;
}

static void
single(Elab *e, const Node **slot, const Node *n, const char *what)
{
	if (!*slot) {
		*slot = n;
		return;
	}
	if (fe_error(e, &e->top, n->at, "a file has one '%s'", what))
		fe_note(e, &e->top, (*slot)->at, "the first is here");
}

/* "float", "index vocab", ... */
static bool
input_type(Elab *e, const Node *n, Input *in)
{
	const char *type = str(e, n->b->name);
	Frame *f = &e->top;
	if (!strcmp(type, "index")) {
		AxisList range;
		if (!n->c) {
			fe_error(e, f, n->b->at, "'index' of which axis? write index vocab");
			return false;
		}
		if (!names_axes(e, f, n->c, &range) || range.n != 1) return false;
		in->range = range.a[0];
		in->type.dt = DT_i32;
		return true;
	}
	in->type.dt = !strcmp(type, "float")  ? e->high
		      : !strcmp(type, "bool") ? DT_bool
		      : !strcmp(type, "int")  ? DT_i32
					      : DT_none;
	if (!in->type.dt || n->c) {
		fe_error(e, f, n->b->at,
			 "an input is float, bool, int or index of an axis, not '%s%s%s'", type,
			 n->c ? " " : "", n->c ? str(e, n->c->name) : "");
		return false;
	}
	return true;
}

static void
declare_input(Elab *e, const Node *n)
{
	Input in = {.name = n->name, .loc = loc_of(e, &e->top, n->name_at)};
	AxisList axes;
	Name batch = name_of(e->ctx->names, "batch");
	bool ok = names_axes(e, &e->top, n->a, &axes) && input_type(e, n, &in);
	double count = 1;
	if (!may_declare(e, &e->top, n->name, n->name_at, SY_input)) return;
	if (ok) {
		Sym *b = scope_find(&e->user.top, batch);
		for (int i = 0; i < axes.n; i++) {
			type_push(&in.type, (AxisUse){.a = axes.a[i]});
			count *= (double)ir_extent(e->m, axes.a[i]);
		}
		if (!b || b->kind != SY_axis) {
			fe_error(e, &e->top, n->name_at,
				 "there is no axis 'batch', the samples of one step");
			ok = false;
		} else if (!b->poison && !axes_has(&axes, b->axes.a[0])) {
			fe_error(e, &e->top, n->name_at,
				 "input '%s' lacks the axis 'batch': %s", str(e, n->name),
				 type_axes_text(e, &in.type));
			ok = false;
		} else if (count > (double)FE_MAX_ELEMENTS) {
			fe_error(e, &e->top, n->name_at,
				 "input '%s' has %.3g elements, more than %.3g",
				 str(e, n->name), count, (double)FE_MAX_ELEMENTS);
			ok = false;
		}
	}
	Sym *s = scope_add(e, &e->user.top, n->name, SY_input, n->name_at);
	s->poison = !ok;
	s->index = e->m->ninputs;
	PUSH(e->m->arena, e->m->inputs, e->m->ninputs, e->m->cinputs, in);
}

/* Functions first: they may be declared in any order. Then everything else in the order it stands there. */
static void
elab_items(Elab *e)
{
	for (const Node *n = e->prelude.items; n; n = n->next)
		declare_function(e, &e->prelude, n);
	for (const Node *n = e->user.items; n; n = n->next) {
		switch (n->kind) {
		case N_def:
		case N_layer: declare_function(e, &e->user, n); break;
		case N_model: single(e, &e->model_item, n, "model"); break;
		case N_forward: single(e, &e->forward, n, "forward"); break;
		case N_train: single(e, &e->train, n, "train"); break;
		default: break;
		}
	}
	e->model = train_dtype(e, e->train ? e->train->c : NULL, "precision");
	if (e->opt->precision) e->model = e->opt->precision;
	e->ctx->bf16_as_f32 = e->opt->host && e->model == DT_bf16;
	if (e->ctx->bf16_as_f32) e->model = DT_f32;
	e->high = e->model == DT_f64 ? DT_f64 : DT_f32;
	e->kept = e->model == DT_bf16 ? train_dtype(e, e->train ? e->train->c : NULL, "weights")
				      : e->high;
	for (const Node *n = e->user.items; n; n = n->next) {
		if (n->kind == N_input) {
			declare_input(e, n);
		} else if (n->kind >= N_axis && n->kind <= N_for) {
			Node alone = *n;
			alone.next = NULL;
			e->top.returned = false;
			exec_block(e, &e->top, &alone);
		}
	}
	check_sets(e);
	Sym *batch = scope_find(&e->user.top, name_of(e->ctx->names, "batch"));
	if (batch && batch->kind == SY_axis && !batch->poison) e->m->batch = batch->axes.a[0];
}

/* ---- forward ---- */

static Name
report_name(Elab *e, Name name, int i)
{
	Name n = i == 0 ? name_of(e->ctx->names, "loss")
		 : name ? name
			: name_fmt(e->ctx->names, "report.%d", i);
	Name base = n;
	for (unsigned k = 2;; k++) {
		bool taken = false;
		for (uint32_t j = 0; j < e->m->nreports; j++)
			taken = taken || e->m->reports[j].name == n;
		if (!taken) return n;
		n = name_fmt(e->ctx->names, "%s.%u", str(e, base), k);
	}
}

static void
elab_forward(Elab *e)
{
	Frame f = {.caller = &e->top, .src = &e->user, .depth = 1};
	if (!e->forward) {
		diag_error(e->ctx->diag, (Loc){e->user.file, 1, 1, 1},
			   "there is no 'forward': which layers make the loss?");
		return;
	}
	f.decl = e->forward;
	exec_block(e, &f, e->forward->c);
	if (e->over) return;
	if (!f.returned) {
		fe_error(e, &f, e->forward->at, "'forward' returns no loss");
		return;
	}
	for (int i = 0; i < f.result.n; i++) {
		Value v = f.result.v[i];
		const char *what = i ? "what 'forward' reports" : "the loss";
		if (v.kind == V_poison) return;
		if (v.kind != V_ref || v.ref->ref.kind != REF_result || v.ref->base) {
			fe_error(e, &f, f.return_at,
				 "%s is a result of a layer, but this is %s", what,
				 v.kind == V_number ? "a number"
				 : v.kind == V_ref  ? v.ref->base ? "indexed" : "an input"
						    : "a constant");
			return;
		}
		if (v.ref->type.n || !dtype_float(v.ref->type.dt)) {
			if (v.ref->type.n)
				fe_error(e, &f, f.return_at,
					 "%s has no axes, but this has %s; sum or mean takes "
					 "them away",
					 what, type_axes_text(e, &v.ref->type));
			else
				fe_error(e, &f, f.return_at, "%s is float, but this is %s",
					 what, dtype_str(v.ref->type.dt));
			return;
		}
		Report r = {report_name(e, f.result.name[i], i), v.ref->ref};
		PUSH(e->m->arena, e->m->reports, e->m->nreports, e->m->creports, r);
	}
}

/* ---- entry points ---- */

static bool
parse_source(Ctx *c, Source *s, Name file, const char *text, size_t n)
{
	Parse *p = NEW(c->perm, Parse);
	p->arena = c->perm;
	p->names = c->names;
	p->diag = c->diag;
	p->file = file;
	p->text = text;
	p->len = n;
	diag_source(c->diag, file, text, n);
	bool ok = ast_parse(p);
	*s = (Source){.file = file, .text = text, .len = n, .items = p->items};
	return ok;
}

static const char *
basename_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

/* "gpt2" of "gpt2.gdl", for files that do not say. */
static Name
model_name(Elab *e)
{
	const char *s = str(e, e->user.file);
	size_t n = 0;
	if (e->model_item) return e->model_item->name;
	while ((s[n] | 32) >= 'a' && (s[n] | 32) <= 'z')
		n++;
	return n ? name_of_n(e->ctx->names, s, n) : name_of(e->ctx->names, "model");
}

Module *
fe_parse_text(Ctx *c, const FeOptions *o, const char *text, size_t n)
{
	Elab *e = NEW(c->perm, Elab);
	Name file = name_of(c->names, basename_of(o->path));
	int before = diag_errors(c->diag);
	uint64_t hash = hash_bytes(text, n, 1);
	if (!parse_source(c, &e->prelude, name_of(c->names, "prelude"), fe_prelude,
			  strlen(fe_prelude)))
		ICE("the prelude does not parse");
	bool parsed = parse_source(c, &e->user, file, text, n);
	if (!parsed) return NULL;
	e->ctx = c;
	e->opt = o;
	e->arena = c->perm;
	e->m = ir_module(c->perm, c->names);
	e->konst = ir_body(name_of(c->names, "const"), BK_const);
	e->set_used = NEW_N(c->perm, bool, o->nset + 1);
	e->top = (Frame){.src = &e->user};
	default_train(&e->m->train);
	elab_items(e);
	if (e->train) elab_train(e, &e->top, e->train->c);
	e->m->train.precision = e->model;
	elab_forward(e);
	for (int i = 0; i < o->nset; i++)
		hash = hash_bytes(o->set[i], strlen(o->set[i]) + 1, hash);
	e->m->level = LV_graph;
	e->m->model = model_name(e);
	e->m->source = file;
	e->m->source_hash = hash;
	if (diag_errors(c->diag) == before) finish_module(e);
	return diag_errors(c->diag) == before ? e->m : NULL;
}

static char *
read_text(Ctx *c, const char *path, size_t *n)
{
	char *text = file_read(c->perm, path, FE_MAX_TEXT, n);
	if (!text && errno == EFBIG)
		diag_error(c->diag, (Loc){0}, "%s: the file has more than %d bytes", path,
			   FE_MAX_TEXT);
	else if (!text)
		diag_error(c->diag, (Loc){0}, "%s: %s", path, strerror(errno));
	return text;
}

Module *
fe_load(Ctx *c, const FeOptions *o)
{
	size_t n;
	char *text = read_text(c, o->path, &n);
	return text ? fe_parse_text(c, o, text, n) : NULL;
}

/* name = literal, unless --set gives it. */
static void
add_number(Ctx *c, const FeOptions *o, Name name, const Node *value, FeNumber **out,
	   uint32_t *n, uint32_t *cap)
{
	const char *s = name_str(c->names, name);
	size_t len = strlen(s);
	double x = value->kind == N_number ? value->num : 0;
	for (int i = 0; i < o->nset; i++)
		if (!strncmp(o->set[i], s, len) && o->set[i][len] == '=')
			x = strtod(o->set[i] + len + 1, NULL);
	if (x < 2 || x > 9007199254740991.0 || x != (double)(int64_t)x) return;
	PUSH(c->perm, *out, *n, *cap, ((FeNumber){name, (int64_t)x}));
}

bool
fe_numbers(Ctx *c, const FeOptions *o, FeNumber **out, uint32_t *n)
{
	size_t len;
	uint32_t cap = 0;
	Source s;
	char *text = read_text(c, o->path, &len);
	*out = NULL;
	*n = 0;
	if (!text || !parse_source(c, &s, name_of(c->names, basename_of(o->path)), text, len))
		return false;
	for (const Node *i = s.items; i; i = i->next) {
		if (i->kind == N_axis)
			for (const Node *a = i->a; a; a = a->next)
				add_number(c, o, a->name, a->a, out, n, &cap);
		if (i->kind == N_bind && !i->a->next)
			add_number(c, o, i->a->name, i->b, out, n, &cap);
	}
	return true;
}

bool
fe_dump_ast(Ctx *c, const char *path, FILE *out)
{
	size_t n;
	char *text = read_text(c, path, &n);
	Source s;
	Buf b;
	if (!text || !parse_source(c, &s, name_of(c->names, basename_of(path)), text, n))
		return false;
	buf_init(&b, c->perm);
	buf_puts(&b, "");
	ast_dump(c->names, s.items, 0, &b);
	return fwrite(b.s, 1, b.n, out) == b.n;
}
