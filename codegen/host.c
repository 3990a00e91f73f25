/*
 * host.c - the functions around the bodies: one per body that knows the addresses of its instances.
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
	Scope *scope;
	const char **range; /* [weights] the GvRange of each; NULL: none yet */
	const char
	    *share; /* this rank's number among those that share a flat; NULL: none yet */
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

/* ---- ranges of state ---- */

static uint32_t
param_of(const Wrapper *w, uint32_t k, uint32_t p)
{
	return w->g->m->insts[inst_of(w, k)].params[w->c->b->ports[p].slot];
}

/* The range of a weight that this rank has, as a constant of the wrapper; shared by its gradient and moments. */
static const char *
range_of(Wrapper *w, uint32_t p)
{
	const Port *port = &w->c->b->ports[p];
	const Type *t = bc_type(w->c, port->v);
	int64_t *part = NEW_N(w->g->a, int64_t, w->n), *at = NEW_N(w->g->a, int64_t, w->n);
	const char **name = &w->range[port->slot];

	if (*name) return *name;
	for (uint32_t k = 0; k < w->n; k++) {
		uint32_t param = param_of(w, k, p);

		part[k] = w->g->mem->flat_bytes[w->g->m->params[param].owner] /
			  ir_dp_degree(w->c->mesh);
		at[k] = w->g->mem->param_at[param];
	}
	if (!w->share) {
		w->share = scope_take(w->scope, "share");
		put_line(&w->before, 1, "const int64_t %s = gv_index(run, %u, %u);", w->share,
			 w->c->b->mesh, t->flat);
	}
	*name = scope_take(w->scope, cg_text(w->g->a, "%s_range", w->c->port_param[p]));
	put_line(&w->before, 1, "const GvRange %s = gv_range(%s, %s, %s, %s);", *name, w->share,
		 seq_expr(w->g, part, w->n, "flat_part", &w->uses_i),
		 seq_expr(w->g, at, w->n, "in_flat", &w->uses_i),
		 cg_count(w->g, w->c->mesh, t));
	return *name;
}

static Section
section_of(PortKind k)
{
	switch (k) {
	case PORT_grad: return SEC_grad;
	case PORT_m:
	case PORT_m_out: return SEC_m;
	case PORT_v:
	case PORT_v_out: return SEC_v;
	default: return SEC_param;
	}
}

/* The address of a range, from that of what the rank has of the flat: in a section that is split, and in one that is not. */
static const char *
range_address(Wrapper *w, uint32_t p, const char *flat)
{
	const char *range = range_of(w, p), *split;
	bool *x = NEW_N(w->g->a, bool, w->n);

	for (uint32_t k = 0; k < w->n; k++)
		x[k] = ir_flat_split(ir_zero(w->g->m, w->g->m->params[param_of(w, k, p)].owner),
				     section_of(w->c->b->ports[p].kind));
	split = seq_condition(w->g, x, w->n, "is_split", &w->uses_i);
	if (strcmp(split, "true") == 0)
		split = cg_text(w->g->a, "%s.in_part", range);
	else if (strcmp(split, "false") == 0)
		split = cg_text(w->g->a, "%s.in_flat", range);
	else
		split = cg_text(w->g->a, "(%s ? %s.in_part : %s.in_flat)", split, range, range);
	return cg_text(w->g->a, "%.*s + %s)", (int)strlen(flat) - 1, flat, split);
}

/* How many elements of a weight or gradient this rank works on; a square counts on one of those that have it. */
static const char *
count_text(Wrapper *w, uint32_t p)
{
	const Port *port = &w->c->b->ports[p];
	const Type *t = bc_type(w->c, port->v);
	const char *n =
	    t->flat ? cg_text(w->g->a, "%s.n", range_of(w, p)) : cg_count(w->g, w->c->mesh, t);
	unsigned replicas = cg_replicas(w->c->mesh, t);

	if (w->c->b->kind != BK_N || !replicas) return n;
	return cg_text(w->g->a, "gv_first(run, %u, %u) ? %s : 0", w->c->b->mesh, replicas, n);
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
	if (strstr(text, "SLOT(mb)") && w->g->stage->slots > 1) w->uses_mb = true;
	if (bc_type(w->c, port->v)->flat) text = range_address(w, p, text);
	arg(w, cg_text(w->g->a, "/* %s */ %s", what, text));
}

/* Whether a gradient is added: in later microbatches too, unless it is of one microbatch. */
static const char *
accumulates(Wrapper *w, uint32_t p, const char *late)
{
	bool *over = NEW_N(w->g->a, bool, w->n);
	const char *text;

	for (uint32_t k = 0; k < w->n; k++) {
		const Instance *n = &w->g->m->insts[inst_of(w, k)];

		over[k] = !cg_in_dwork(w->g, n->params[w->c->b->ports[p].slot]);
	}
	text = seq_condition(w->g, over, w->n, "accumulates", &w->uses_i);
	if (strcmp(text, "false") == 0) return late;
	w->uses_mb = true;
	if (strcmp(text, "true") == 0) return cg_text(w->g->a, "mb > 0 || %s", late);
	return cg_text(w->g->a, "(mb > 0 && (%s)) || %s", text, late);
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

			x[k] =
			    r.kind == REF_result && w->g->mem->cot[cot_index(w->g, r)].shared;
		}
	}
	late = seq_condition(w->g, x, w->n, cg_text(w->g->a, "%s_late", w->c->port_param[p]),
			     &w->uses_i);
	if (w->c->b->ports[p].kind != PORT_dw || w->g->m->plan.microbatches <= 1) return late;
	return accumulates(w, p, late);
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

void
cg_wrapper(Cg *g, uint32_t body, Buf *out)
{
	CgBody *c = &g->body[body];
	Wrapper w = {.g = g, .c = c, .n = 1};
	bool *emits = &g->wraps_i[body];

	if (c->l) {
		w.type = (uint32_t)(c->l - g->m->types);
		w.n = g->type_insts[w.type];
	}
	w.scope = scope_new(g->a, g->file);
	w.range = NEW_N(g->a, const char *, c->l ? c->l->nweights + 1 : 1);
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
		if (c->count[c->b->ports[p].v.i] && port_is_in(c->b->ports[p].kind))
			arg(&w, count_text(&w, p));
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
