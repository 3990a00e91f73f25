/*
 * host.c - the functions around the bodies: one per body that knows the addresses of its instances, and the action
 * functions consts(), forward(), step() and update(), whose loops are those of the schedule.
 */
#include "codegen/cg.h"

#include <inttypes.h>
#include <string.h>

/* What a body has, gathered before it is printed. */
typedef struct Wrapper {
	Cg *g;
	const CgBody *c;
	uint32_t type, n; /* layer type; instances of it. The const body: n = 1 */
	bool uses_i, uses_mb;
	Buf before, args;
} Wrapper;

static uint32_t
inst_of(const Wrapper *w, uint32_t k)
{
	return w->c->l ? w->g->insts_of[w->type][k] : 0;
}

static void
arg(Wrapper *w, const char *text)
{
	if (w->args.n) buf_puts(&w->args, ",\n");
	buf_puts(&w->args, "\t    ");
	buf_puts(&w->args, text);
}

/* The address of a port, with what it holds for a comment. */
static void
port_arg(Wrapper *w, uint32_t p)
{
	const Port *port = &w->c->b->ports[p];
	const char *ctype = cg_ctype(bc_type(w->c, port->v)->dt), *what = w->c->port_param[p];
	Where *where = NEW_N(w->g->a, Where, w->n);
	const char *text;

	for (uint32_t k = 0; k < w->n; k++)
		where[k] = where_port(w->g, inst_of(w, k), w->c->b, port);
	text = address_text(w->g, ctype, where, w->n,
			    cg_text(w->g->a, "%s_%s_at", w->g->body_name[w->c->index], what),
			    &w->uses_i);
	if (strstr(text, "SLOT(mb)") && w->g->m->plan.stages[0].slots > 1) w->uses_mb = true;
	arg(w, cg_text(w->g->a, "/* %s */ %s", what, text));
}

static const char *
flag_text(Wrapper *w, uint32_t p)
{
	const PortMode *mode = &w->g->modes[w->c->index][p];
	bool *x = NEW_N(w->g->a, bool, w->n);
	const char *late;

	ENSURE(mode->own_flag, "a flag of its own");
	for (uint32_t k = 0; k < w->n; k++) {
		uint32_t inst = inst_of(w, k);
		const bool *l = w->g->late[inst * BK_COUNT + w->c->b->kind];

		if (w->c->b->ports[p].kind == PORT_dw) {
			x[k] = l && l[p];
		} else {
			Ref r = w->g->m->insts[inst].args[w->c->b->ports[p].slot];

			x[k] = r.kind == REF_result &&
			       w->g->m->mem[0].cot[cot_index(w->g, r)].shared;
		}
	}
	late = seq_condition(w->g, x, w->n, cg_text(w->g->a, "%s_late", w->c->port_param[p]),
			     &w->uses_i);
	if (w->c->b->ports[p].kind != PORT_dw || w->g->m->plan.microbatches <= 1) return late;
	w->uses_mb = true;
	return cg_text(w->g->a, "mb > 0 || %s", late);
}

/* Cotangents that must be zero, or one, before the body reads or adds to them. */
static void
prepare_port(Wrapper *w, uint32_t p)
{
	const Port *port = &w->c->b->ports[p];
	const Type *t = bc_type(w->c, port->v);

	if (!w->c->l) return;
	for (int what = PREPARE_zero; what <= PREPARE_one; what++) {
		bool *x = NEW_N(w->g->a, bool, w->n), any = false;
		Where *where = NEW_N(w->g->a, Where, w->n);
		const char *condition, *at;
		int depth = 1;

		for (uint32_t k = 0; k < w->n; k++) {
			const uint8_t *prepare =
			    w->g->prepare[inst_of(w, k) * BK_COUNT + w->c->b->kind];

			x[k] = prepare && prepare[p] == what;
			any |= x[k];
			where[k] = where_port(w->g, inst_of(w, k), w->c->b, port);
		}
		if (!any) continue;
		condition = seq_condition(w->g, x, w->n, "prepare", &w->uses_i);
		at = address_text(w->g, cg_ctype(t->dt), where, w->n, "cot_at", &w->uses_i);
		if (strcmp(condition, "true") != 0)
			put_line(&w->before, depth++, "if (%s)", condition);
		if (what == PREPARE_one)
			put_line(&w->before, depth,
				 "*%s = 1; /* the gradient of the loss by itself */", at);
		else
			put_line(&w->before, depth, "memset(%s, 0, %" PRId64 ");", at,
				 type_bytes(w->g->m, w->c->mesh, t));
	}
}

/* ---- names and rates of instances, for dropout ---- */

/* Names of instances as prefix, number, suffix with the number's sequence; false: they do not follow one. */
static bool
common_name(Wrapper *w, const char **prefix, const char **suffix, const char **number)
{
	const Module *m = w->g->m;
	const char *first = name_str(m->names, m->insts[inst_of(w, 0)].name);
	size_t len = strlen(first);

	for (size_t k = 0; k < len; k++) {
		size_t end = k;
		int64_t *x = NEW_N(w->g->a, int64_t, w->n);
		bool ok = first[k] >= '0' && first[k] <= '9' &&
			  !(k && first[k - 1] >= '0' && first[k - 1] <= '9');

		while (ok && first[end] >= '0' && first[end] <= '9')
			end++;
		for (uint32_t j = 0; ok && j < w->n; j++) {
			const char *s = name_str(m->names, m->insts[inst_of(w, j)].name);
			size_t at = k;

			ok = strncmp(s, first, k) == 0 && s[at] >= '0' && s[at] <= '9' &&
			     !(s[at] == '0' && s[at + 1] >= '0' && s[at + 1] <= '9');
			for (; ok && s[at] >= '0' && s[at] <= '9' && at - k < 9; at++)
				x[j] = x[j] * 10 + (s[at] - '0');
			ok = ok && strcmp(s + at, first + end) == 0;
		}
		if (!ok) continue;
		*prefix = cg_text(w->g->a, "%.*s", (int)k, first);
		*suffix = first + end;
		*number = seq_expr(w->g, x, w->n, "number", &w->uses_i);
		return true;
	}
	return false;
}

static const char *
quoted(const Cg *g, const char *s)
{
	Buf b;

	buf_init(&b, g->a);
	put_cstring(&b, s);
	return b.s;
}

static void
name_arg(Wrapper *w)
{
	const Module *m = w->g->m;
	const char *prefix, *suffix, *number, *table;

	if (w->n == 1) {
		arg(w, quoted(w->g, name_str(m->names, m->insts[inst_of(w, 0)].name)));
		return;
	}
	if (common_name(w, &prefix, &suffix, &number)) {
		put_line(&w->before, 1, "char name[%zu];",
			 strlen(prefix) + strlen(suffix) + 24);
		put_line(&w->before, 1,
			 "snprintf(name, sizeof name, \"%%s%%\" PRId64 \"%%s\", %s, "
			 "(int64_t)(%s), %s);",
			 quoted(w->g, prefix), number, quoted(w->g, suffix));
		arg(w, "name");
		return;
	}
	table = scope_take(w->g->file, cg_text(w->g->a, "%s_names", w->g->type_name[w->type]));
	buf_printf(&w->g->tables, "static const char *const %s[%u] = {\n", table, w->n);
	for (uint32_t k = 0; k < w->n; k++)
		buf_printf(&w->g->tables, "\t%s,\n",
			   quoted(w->g, name_str(m->names, m->insts[inst_of(w, k)].name)));
	buf_puts(&w->g->tables, "};\n");
	w->uses_i = true;
	arg(w, cg_text(w->g->a, "%s[i]", table));
}

/* One row of rates if all instances have the same. */
static void
rate_arg(Wrapper *w)
{
	const Module *m = w->g->m;
	const LayerType *l = w->c->l;
	bool same = true;
	const char *name = w->g->rates_name[w->type];

	for (uint32_t k = 1; k < w->n; k++)
		same &= memcmp(m->insts[inst_of(w, k)].rates, m->insts[inst_of(w, 0)].rates,
			       l->nrates * sizeof(double)) == 0;
	if (!name) {
		name = w->g->rates_name[w->type] = scope_take(
		    w->g->file, cg_text(w->g->a, "%s_rates", w->g->type_name[w->type]));
		buf_printf(&w->g->tables, "static const double %s[%u][%u] = {\n", name,
			   same ? 1 : w->n, l->nrates);
		for (uint32_t k = 0; k < (same ? 1 : w->n); k++) {
			buf_puts(&w->g->tables, "\t{");
			for (uint16_t r = 0; r < l->nrates; r++) {
				if (r) buf_puts(&w->g->tables, ", ");
				buf_double(&w->g->tables, m->insts[inst_of(w, k)].rates[r]);
			}
			buf_puts(&w->g->tables, "},\n");
		}
		buf_puts(&w->g->tables, "};\n");
	}
	if (!same) w->uses_i = true;
	arg(w, cg_text(w->g->a, "%s[%s]", name, same ? "0" : "i"));
}

/* ---- the wrapper ---- */

static const char *const body_doc[BK_COUNT] = {
    "forward",
    "gradients of the arguments",
    "gradients of the weights",
    "squares of the gradients",
    "update",
    "constant tensors",
};

static void
put_wrapper(Cg *g, uint32_t body, Buf *out)
{
	CgBody *c = &g->body[body];
	Wrapper w = {.g = g, .c = c, .n = 1};
	bool *emits = &g->wraps_i[body];

	if (c->l) {
		w.type = (uint32_t)(c->l - g->m->types);
		w.n = g->type_insts[w.type];
	}
	buf_init(&w.before, g->a);
	buf_init(&w.args, g->a);
	for (uint32_t p = 0; p < c->b->nports; p++)
		if (c->b->ports[p].kind == PORT_cot || c->b->ports[p].kind == PORT_dx)
			prepare_port(&w, p);
	if (c->uses_run) arg(&w, "run");
	if (c->uses_mb) arg(&w, "mb");
	if (c->uses_rng) name_arg(&w), rate_arg(&w);
	if (c->uses_add) arg(&w, "mb > 0");
	w.uses_mb |= c->uses_mb || c->uses_add;
	for (uint32_t p = 0; p < c->b->nports; p++) {
		if (!c->port_used[p]) continue;
		port_arg(&w, p);
		if (c->port_flag[p] && g->modes[body][p].own_flag) arg(&w, flag_text(&w, p));
	}
	if (c->uses_scratch) arg(&w, "AT(unsigned char, GV_SCRATCH)");
	*emits = w.uses_i;
	g->wraps_mb[body] = w.uses_mb;
	g->wrapper_name[body] =
	    scope_take(g->file, cg_text(g->a, "run_%s", g->body_name[body]));

	buf_printf(out, "\n/* %s", c->l ? "" : "constants: ");
	if (c->l) put_comment(out, name_str(g->m->names, c->l->name));
	if (w.n > 1) buf_puts(out, " i");
	buf_printf(out, "%s%s */\nstatic void\n", c->l ? ": " : "", body_doc[c->b->kind]);
	put_line(out, 0, "%s(GvrtRun *run%s%s)", g->wrapper_name[body],
		 w.uses_mb ? ", int64_t mb" : "", w.uses_i ? ", int64_t i" : "");
	buf_puts(out, "{\n");
	if (!w.args.n || (!strstr(w.args.s, "run") && !strstr(w.args.s, "AT(") && !w.before.n))
		buf_puts(out, "\t(void)run;\n");
	if (w.before.n) buf_puts(out, w.before.s);
	if (w.args.n)
		buf_printf(out, "\t%s(\n%s);\n}\n", g->body_name[body], w.args.s);
	else
		buf_printf(out, "\t%s();\n}\n", g->body_name[body]);
}

/* ---- actions ---- */

static void
put_call(const Cg *g, Buf *b, int depth, const Action *a, const char *loop, uint32_t turns)
{
	const Module *m = g->m;
	uint32_t type = m->insts[a->inst].type, body = m->types[type].body[a->bk];
	int64_t first = g->ordinal[a->inst], step = 0;
	Buf i;

	if (loop && turns > 1)
		step = (int64_t)g->ordinal[(uint32_t)((int64_t)a->inst + a->stride)] - first;
	buf_init(&i, g->a);
	if (step < 0)
		first += step * (int64_t)(turns - 1), step = -step; /* the loop runs down */
	if (step == 1 && first == 0)
		buf_puts(&i, loop);
	else if (step)
		buf_printf(&i, step == 1 ? "%s + %" PRId64 : "%s * %" PRId64, loop,
			   step == 1 ? first : step);
	if (step > 1 && first) buf_printf(&i, " + %" PRId64, first);
	if (!step) buf_printf(&i, "%" PRId64, first);
	put_line(b, depth, "%s(run%s%s%s);", g->wrapper_name[body],
		 g->wraps_mb[body] ? ", mb" : "", g->wraps_i[body] ? ", " : "",
		 g->wraps_i[body] ? i.s : "");
}

static bool
is_kind(const Action *a, const bool *kinds)
{
	return a->kind == ACT_body && kinds[a->bk];
}

/* Actions [from, to) that are bodies of the kinds wanted, with their loops over layers; returns whether there was one. */
static bool
put_actions(const Cg *g, Buf *b, int depth, uint32_t from, uint32_t to, const bool *kinds)
{
	const Action *act = g->m->actions + g->m->plan.stages[0].action;
	bool any = false;

	for (uint32_t k = from; k < to; k++) {
		uint32_t end = k + 1;
		bool wanted = false;

		if (is_kind(&act[k], kinds)) {
			put_call(g, b, depth, &act[k], NULL, 1);
			any = true;
		}
		if (act[k].kind != ACT_layers) continue;
		while (act[end].kind != ACT_end)
			wanted |= is_kind(&act[end++], kinds);
		if (wanted) {
			bool down = act[k + 1].stride < 0;
			bool uses_loop = false;

			for (uint32_t j = k + 1; j < end; j++)
				uses_loop |= is_kind(&act[j], kinds);
			if (down)
				put_line(b, depth, "for (int64_t i = %u; i >= 0; i--)%s",
					 act[k].count - 1, end - k > 2 ? " {" : "");
			else
				put_line(b, depth, "for (int64_t i = 0; i < %u; i++)%s",
					 act[k].count, end - k > 2 ? " {" : "");
			for (uint32_t j = k + 1; j < end; j++)
				if (is_kind(&act[j], kinds))
					put_call(g, b, depth + 1, &act[j], "i", act[k].count);
			if (end - k > 2) put_line(b, depth, "}");
			any = uses_loop;
		}
		k = end;
	}
	return any;
}

/* The loop over microbatches that begins at action k: input, forward bodies, reports, the rest. */
static void
put_microbatches(const Cg *g, Buf *b, uint32_t k, uint32_t end)
{
	static const bool all[BK_COUNT] = {true, true, true, true, true, false};
	const Action *act = g->m->actions + g->m->plan.stages[0].action;
	uint32_t split = k + 1;

	for (uint32_t j = k + 1; j < end;
	     j++) { /* past the last forward body, and the end of its loop */
		uint32_t close = j;

		if (act[j].kind != ACT_body || act[j].bk != BK_F) continue;
		while (close + 1 < end && act[j].stride && act[close].kind != ACT_end)
			close++;
		split = close + 1;
	}
	put_line(b, 1, "for (int64_t mb = 0; mb < GV_MICROBATCHES; mb++) {");
	for (uint32_t j = k + 1; j < end; j++)
		if (act[j].kind == ACT_input) put_line(b, 2, "gvrt_input(run, mb);");
	put_actions(g, b, 2, k + 1, split, all);
	if (split > k + 1 && g->m->nreports) put_line(b, 2, "gvrt_report(run, mb);");
	put_actions(g, b, 2, split, end, all);
	put_line(b, 1, "}");
}

static void
begin(Buf *b, const char *comment, const char *name)
{
	buf_printf(b, "\n/* %s */\nstatic void\n%s(GvrtRun *run)\n{\n", comment, name);
}

void
cg_actions(Cg *g)
{
	static const bool only_f[BK_COUNT] = {[BK_F] = true};
	static const bool all[BK_COUNT] = {true, true, true, true, true, false};
	const Module *m = g->m;
	const Stage *s = &m->plan.stages[0];
	const Action *act = m->actions + s->action;
	Buf *b = &g->actions;
	uint32_t norm = s->nactions;

	g->wraps_i = NEW_N(g->a, bool, m->nbodies);
	g->wraps_mb = NEW_N(g->a, bool, m->nbodies);
	g->wrapper_name = NEW_N(g->a, const char *, m->nbodies);
	g->rates_name = NEW_N(g->a, const char *, m->ntypes);
	buf_puts(b, "\n/* ---- bodies at the addresses of their instances ---- */\n");
	for (uint32_t k = 1; k < m->nbodies; k++)
		if (g->body_name[k]) put_wrapper(g, k, b);
	for (uint32_t k = 0; k < s->nactions; k++)
		if (act[k].kind == ACT_norm) norm = k;

	buf_puts(b, "\n/* ---- actions ---- */\n");
	if (m->const_body) {
		begin(b, "Makes the constant tensors, once.", "consts");
		put_line(b, 1, "%s(run);", g->wrapper_name[m->const_body]);
		buf_puts(b, "}\n");
	}
	begin(b, "One microbatch forward: its inputs are in slot 0.", "forward");
	put_line(b, 1, "const int64_t mb = 0;");
	put_line(b, 1, "(void)mb;");
	put_actions(g, b, 1, 0, s->nactions, only_f);
	buf_puts(b, "}\n");
	if (m->plan.forward_only) return;
	begin(b, "Forward and backward of all microbatches; then the norm of the gradients.",
	      "step");
	for (uint32_t k = 0; k < norm; k++) {
		uint32_t end = k;

		if (act[k].kind != ACT_mb) {
			uint32_t from = k;

			while (k + 1 < norm && act[k + 1].kind != ACT_mb)
				k++;
			put_actions(g, b, 1, from, k + 1, all);
			continue;
		}
		for (int open = 1; open;) {
			end++;
			open += act[end].kind == ACT_layers || act[end].kind == ACT_mb;
			open -= act[end].kind == ACT_end;
		}
		put_microbatches(g, b, k, end);
		k = end;
	}
	put_line(b, 1, "gvrt_norm(run);");
	buf_puts(b, "}\n");
	begin(b, "The optimizer.", "update");
	if (!put_actions(g, b, 1, norm < s->nactions ? norm + 1 : norm, s->nactions, all))
		put_line(b, 1, "(void)run;");
	buf_puts(b, "}\n");
}
