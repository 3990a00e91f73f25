/*
 * emit.c - text of the program: lines, named sizes, the header comment, and the order of sections.
 *
 * Input: a module at level mem. Output: one C source. Sections are printed into buffers of their own and joined at the
 * end in a fixed order: header, sizes, memory, bodies, addresses and actions, tables, main. No date, host or path.
 */
#include "codegen/cg.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- lines ---- */

char *
cg_text(Arena *a, const char *fmt, ...)
{
	Buf b;
	va_list ap;

	buf_init(&b, a);
	va_start(ap, fmt);
	buf_vprintf(&b, fmt, ap);
	va_end(ap);
	if (!b.s) buf_puts(&b, "");
	return b.s;
}

/* Where to break `s` so that at most `room` columns stay before: outside quotes, after a comma if one is late enough,
 * else after a sum's operator, else after any operator, else at any space; 0: nowhere. */
static size_t
break_at(const char *s, size_t room)
{
	size_t at[4] = {
	    0}; /* the last space after: a comma, + or - or a condition's, another operator, anything */
	bool quoted = false;
	int inside = 0; /* an index */

	for (size_t k = 0; s[k] && k < room; k++) {
		if (s[k] == '\\' && quoted && s[k + 1]) {
			k++;
			continue;
		}
		if (s[k] == '"') quoted = !quoted;
		if (!quoted) inside += (s[k] == '[') - (s[k] == ']');
		if (s[k] != ' ' || quoted || k <= 8) continue;
		at[3] = k;
		if (inside > 0) continue;
		if (strchr("*/=<>&|", s[k - 1])) at[2] = k;
		if (strchr("+-?:", s[k - 1])) at[1] = k;
		if (s[k - 1] == ',') at[0] = k;
	}
	for (int k = 0; k < 3; k++)
		if (at[k] > room / 3) return at[k];
	return at[3];
}

void
put_line(Buf *b, int depth, const char *fmt, ...)
{
	Buf t;
	va_list ap;
	const char *s;
	size_t indent = (size_t)depth * 8;

	buf_init(&t, b->arena);
	va_start(ap, fmt);
	buf_vprintf(&t, fmt, ap);
	va_end(ap);
	s = t.s ? t.s : "";
	if (!*s) {
		buf_putc(b, '\n');
		return;
	}
	for (bool first = true;; first = false) {
		size_t room = LINE > indent + 20 ? LINE - indent : 20, cut = 0;

		for (int k = 0; k < depth; k++)
			buf_putc(b, '\t');
		if (!first) {
			buf_puts(b, "    ");
			room -= 4;
		}
		if (strlen(s) > room && *s != '#') cut = break_at(s, room);
		if (!cut) break;
		for (size_t k = 0; k < cut; k++)
			buf_putc(b, s[k]);
		buf_putc(b, '\n');
		s += cut + 1;
	}
	buf_puts(b, s);
	buf_putc(b, '\n');
}

void
cg_error(Cg *g, Loc at, const char *fmt, ...)
{
	va_list ap;
	Buf b;

	buf_init(&b, g->a);
	va_start(ap, fmt);
	buf_vprintf(&b, fmt, ap);
	va_end(ap);
	diag_error(g->ctx->diag, at, "%s", b.s);
	g->failed = true;
}

/* ---- sizes ---- */

/* "batch_mb_dp": an axis and what splits it. */
static const char *
split_name(const Cg *g, const Mesh *mesh, AxisUse u, const char *text)
{
	for (int k = 0; k < u.nshard; k++) {
		const char *by = mesh_kind_str[mesh->ax[u.shard[k]].kind];

		if (mesh->ax[u.shard[k]].degree > 1) text = cg_text(g->a, "%s_%s", text, by);
	}
	return text;
}

const char *
cg_size(Cg *g, const Mesh *mesh, AxisUse u)
{
	const Module *m = g->m;
	Type t = {.dt = DT_f32, .n = 1, .ax = {u}};
	int64_t extent = type_extent(m, mesh, &t, 0);
	const char *text = name_str(m->names, m->axes[u.a.i].name);
	Size s = {.a = u.a, .extent = extent};

	for (uint32_t k = 0; k < g->nsizes; k++)
		if (g->sizes[k].a.i == u.a.i && g->sizes[k].extent == extent)
			return g->sizes[k].name;
	if (extent != m->axes[u.a.i].extent) text = split_name(g, mesh, u, text);
	s.name = scope_take_upper(g->file, text);
	PUSH(g->a, g->sizes, g->nsizes, g->csizes, s);
	return s.name;
}

/* The product of the sizes of t's axes from k on, leaving out ones; "1" if none is left. */
static const char *
size_product(Cg *g, const Mesh *mesh, const Type *t, int k)
{
	Buf b;

	buf_init(&b, g->a);
	for (; k < t->n; k++) {
		if (type_extent(g->m, mesh, t, k) == 1) continue;
		if (b.n) buf_puts(&b, " * ");
		buf_puts(&b, cg_size(g, mesh, t->ax[k]));
	}
	return b.n ? b.s : "1";
}

const char *
cg_stride(Cg *g, const Mesh *mesh, const Type *t, int64_t n)
{
	int64_t product[MAX_AXES + 1], best = 1, c;
	int at = t->n;

	product[t->n] = 1;
	for (int k = t->n - 1; k >= 0; k--)
		product[k] = product[k + 1] * type_extent(g->m, mesh, t, k);
	for (int k = t->n - 1; k >= 0; k--) {
		if (product[k] <= 0 || n % product[k] != 0 || product[k] <= best) continue;
		if (product[k] > (n < 0 ? -n : n)) continue;
		best = product[k];
		at = k;
	}
	c = n / best;
	if (best == 1) return cg_text(g->a, "%" PRId64, n);
	if (c == 1)
		return cg_text(g->a, n > INT32_MAX ? "(int64_t)%s" : "%s",
			       size_product(g, mesh, t, at));
	return cg_text(g->a,
		       c > INT32_MAX || n > INT32_MAX || n < -INT32_MAX ? "INT64_C(%" PRId64
									  ") * %s"
									: "%" PRId64 " * %s",
		       c, size_product(g, mesh, t, at));
}

const char *
cg_view_stride(Cg *g, const Mesh *mesh, const Type *base, const Type *view, int64_t n)
{
	const char *s = cg_stride(g, mesh, base, n), *v;

	if (n == 1 || s[0] < '0' || s[0] > '9') return s;
	v = cg_stride(g, mesh, view, n);
	return v[0] >= '0' && v[0] <= '9' ? s : v;
}

const char *
cg_count(Cg *g, const Mesh *mesh, const Type *t)
{
	const char *p = size_product(g, mesh, t, 0);

	/* enumerators are int: a large product needs one wide factor */
	return type_count(g->m, mesh, t) > INT32_MAX ? cg_text(g->a, "(int64_t)%s", p) : p;
}

const char *
cg_ctype(DType dt)
{
	switch (dt) {
	case DT_bool: return "bool";
	case DT_i32: return "int32_t";
	case DT_f64: return "double";
	default: return "real";
	}
}

/* ---- names of the file ---- */

/* One letter where no value goes by it, else the axis' own name. */
static void
name_axes(Cg *g)
{
	const Module *m = g->m;
	Scope *values = scope_new(g->a, NULL);

	for (uint32_t b = 1; b < m->nbodies; b++)
		for (uint32_t v = 1; v < m->bodies[b].nvals; v++)
			scope_mark(values, name_str(m->names, m->bodies[b].vals[v].name));

	g->axis_var = NEW_N(g->a, const char *, m->naxes);
	for (uint32_t k = 1; k < m->naxes; k++) {
		const char *s = name_str(m->names, m->axes[k].name);
		char letter[2] = {s[0] >= 'A' && s[0] <= 'Z' ? (char)(s[0] - 'A' + 'a') : s[0],
				  '\0'};
		const char *v = scope_has(values, letter) ? "" : scope_take(g->file, letter);

		if (strlen(v) != 1)
			v = scope_take(g->file,
				       scope_has(values, s) ? cg_text(g->a, "%s_at", s) : s);
		g->axis_var[k] = v;
	}
}

static const char *const body_suffix[BK_COUNT] = {"F", "B", "W", "N", "U", "consts"};

static void
name_bodies(Cg *g)
{
	const Module *m = g->m;

	g->type_name = NEW_N(g->a, const char *, m->ntypes);
	g->body_name = NEW_N(g->a, const char *, m->nbodies);
	for (uint32_t l = 0; l < m->ntypes; l++) {
		if (!g->type_insts[l]) continue;
		g->type_name[l] = scope_take(g->file, name_str(m->names, m->types[l].name));
		for (int k = 0; k < BK_COUNT; k++) {
			uint32_t b = m->types[l].body[k];

			if (b)
				g->body_name[b] =
				    scope_take(g->file, cg_text(g->a, "%s_%s", g->type_name[l],
								body_suffix[k]));
		}
	}
	if (m->const_body) g->body_name[m->const_body] = scope_take(g->file, "make_consts");
}

/* ---- header ---- */

static void
put_header(const Cg *g, Buf *out)
{
	const Module *m = g->m;
	const Memory *mem = g->mem;
	const struct {
		const char *what;
		int64_t bytes;
	} rows[] = {
	    {"parameters", cg_section_bytes(g, SEC_param)},
	    {"gradients", cg_section_bytes(g, SEC_grad)},
	    {"first moments", cg_section_bytes(g, SEC_m)},
	    {"second moments", cg_section_bytes(g, SEC_v)},
	    {"constants", mem->slots - mem->consts},
	    {"microbatches in flight", mem->slot_bytes * (int64_t)g->stage->slots},
	    {"gathered parameters", 2 * mem->gather_bytes},
	    {"unreduced gradients", 2 * mem->dwork_bytes},
	    {"whole arena", mem->arena_bytes},
	};

	buf_printf(out, "/*\n * stage_%u.c - model ", g->k);
	put_comment(out, name_str(m->names, m->model));
	buf_printf(out, ", stage %u of %u, ", g->k, m->plan.nstages);
	if (g->stage->ranks > 1)
		buf_printf(out, "ranks %u to %u", g->stage->rank,
			   g->stage->rank + g->stage->ranks - 1);
	else if (m->plan.ranks > 1)
		buf_printf(out, "rank %u", g->stage->rank);
	else
		buf_puts(out, "one rank");
	buf_puts(out, ". Made by galvatronc: do not edit.\n *\n * source ");
	put_comment(out, name_str(m->names, m->source));
	buf_printf(out, " (hash %016" PRIx64 "), plan hash %016" PRIx64 ", ", m->source_hash,
		   g->shared->hash);
	buf_count(out, ir_param_count(m));
	buf_puts(out, " parameters\n *\n * memory\n");
	for (size_t k = 0; k < COUNTOF(rows); k++) {
		Buf n;

		if (!rows[k].bytes) continue;
		buf_init(&n, g->a);
		buf_count(&n, rows[k].bytes);
		buf_printf(out, " *   %-24s %16s bytes\n", rows[k].what, n.s);
	}
	buf_puts(out, " *\n * contents\n *   sizes, memory      extents of the axes; sections "
		      "of the arena\n");
	for (uint32_t l = 0; l < m->ntypes; l++)
		if (g->type_insts[l] && !m->types[l].reshard)
			buf_printf(out,
				   " *   %-18s its bodies, and the addresses each instance "
				   "gives them\n",
				   g->type_name[l]);
	buf_puts(out, " *   actions            consts, forward, step, update\n *   tables      "
		      "       parameters, inputs, the program\n */\n");
}

static void
put_sizes(const Cg *g, Buf *out)
{
	const Module *m = g->m;
	const Memory *mem = g->mem;
	const Stage *s = g->stage;
	const struct {
		const char *name;
		int64_t at;
	} sections[] = {
	    {"GV_PARAMS", mem->sec[SEC_param]},
	    {"GV_GRADS", mem->sec[SEC_grad]},
	    {"GV_MOMENT1", mem->sec[SEC_m]},
	    {"GV_MOMENT2", mem->sec[SEC_v]},
	    {"GV_CONSTS", mem->consts},
	    {"GV_SLOTS", mem->slots},
	    {"GV_SLOT_BYTES", mem->slot_bytes},
	    {"GV_COTS", mem->cots},
	    {"GV_GATHER", mem->gather_bytes ? mem->gather : -1},
	    {"GV_DWORK", mem->dwork_bytes ? mem->dwork : -1},
	    {"GV_CARRY", mem->carry},
	    {"GV_SCRATCH", mem->scratch},
	    {"GV_ARENA", mem->arena_bytes},
	};

	buf_puts(out, "\n/* ---- sizes ---- */\n\nenum {\n");
	for (uint32_t k = 0; k < g->nsizes; k++)
		buf_printf(out, "\t%s = %" PRId64 ",\n", g->sizes[k].name, g->sizes[k].extent);
	buf_printf(out, "\tGV_MICROBATCHES = %u,\n\tGV_NSLOTS = %u,\n};\n",
		   m->plan.microbatches ? m->plan.microbatches : 1,
		   s && s->slots ? s->slots : 1);
	buf_puts(out, "\n/* ---- memory: sections of the arena, in bytes ---- */\n\n");
	for (size_t k = 0; k < COUNTOF(sections); k++)
		if (sections[k].at >= 0)
			buf_printf(out, "#define %-14s INT64_C(%" PRId64 ")\n",
				   sections[k].name, sections[k].at);
	buf_puts(out, "\n#define AT(type, offset) ((type *)(run->arena + (offset)))\n");
	if (s && s->slots > 1)
		buf_puts(out,
			 "#define SLOT(mb) (GV_SLOTS + (mb) % GV_NSLOTS * GV_SLOT_BYTES)\n");
}

static bool
program(Ctx *c, const Module *m, const Shared *shared, uint32_t stage, Buf *out)
{
	Cg g = {.ctx = c,
		.m = m,
		.shared = shared,
		.k = stage,
		.stage = &m->plan.stages[stage],
		.mem = &m->mem[stage],
		.a = c->tmp ? c->tmp : c->perm};
	Buf tables;

	g.f64 = m->train.precision == DT_f64 || c->precision == DT_f64;
	g.file = scope_new(g.a, NULL);
	buf_init(&g.bodies, g.a);
	buf_init(&g.tables, g.a);
	buf_init(&g.actions, g.a);
	buf_init(&tables, g.a);
	g.body = NEW_N(g.a, CgBody, m->nbodies);
	cg_ordinals(&g);
	name_bodies(&g);
	name_axes(&g);
	cg_schedule(&g);
	for (uint32_t b = 1; b < m->nbodies && !g.failed; b++)
		if (g.body_name[b]) cg_body(&g, b);
	if (g.failed) return false;
	cg_actions(&g);
	cg_tables(&g, &tables);
	if (g.failed) return false;

	put_header(&g, out);
	buf_puts(out, "#include <inttypes.h>\n#include <math.h>\n#include <stdio.h>\n#include "
		      "<string.h>\n\n#include \"kernels.h\"\n\n");
	buf_puts(out,
		 "_Static_assert(GVRT_ABI == 2, \"made for version 2 of the runtime\");\n");
	buf_printf(out, "_Static_assert(sizeof(real) == %d, \"made for --precision %s\");\n",
		   g.f64 ? 8 : 4, g.f64 ? "f64" : "f32");
	put_sizes(&g, out);
	cg_meters(&g, out);
	if (g.bodies.n) buf_puts(out, g.bodies.s);
	if (g.tables.n) {
		buf_puts(out, "\n/* ---- numbers per instance that follow no rule ---- */\n\n");
		buf_puts(out, g.tables.s);
	}
	if (g.actions.n) buf_puts(out, g.actions.s);
	buf_puts(out, tables.s);
	return !g.failed;
}

typedef struct Named {
	const char *name;
	uint32_t param;
} Named;

static int
compare_names(const void *a, const void *b)
{
	return strcmp(((const Named *)a)->name, ((const Named *)b)->name);
}

/* Parameters by their names, for whoever looks them up. */
static uint32_t *
by_name(Ctx *c, const Module *m)
{
	Named *x = arena_alloc(c->perm, sizeof *x * (m->nparams + 1));
	uint32_t *out = NEW_N(c->perm, uint32_t, m->nparams + 1);

	for (uint32_t k = 0; k < m->nparams; k++)
		x[k] = (Named){name_str(m->names, m->params[k].name), k};
	qsort(x, m->nparams, sizeof *x, compare_names);
	for (uint32_t k = 0; k < m->nparams; k++)
		out[k] = x[k].param;
	return out;
}

/* What all stages share. */
static Shared
share(Ctx *c, const Module *m, bool metered)
{
	ENSURE(m->level == LV_mem, "codegen wants level mem, not %s", level_str[m->level]);
	return (Shared){.comms = ir_comms(m, c->perm),
			.hash = ir_hash(m),
			.by_name = by_name(c, m),
			.metered = metered};
}

bool
cg_program(Ctx *c, const Module *m, uint32_t stage, Buf *out)
{
	const Shared shared = share(c, m, false);

	return program(c, m, &shared, stage, out);
}

bool
cg_emit(Ctx *c, const Module *m, const CgOptions *o)
{
	const Shared shared = share(c, m, o->metered);
	Buf *programs = NEW_N(c->perm, Buf, m->plan.nstages), traffic;

	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		buf_init(&programs[k], c->perm);
		if (!program(c, m, &shared, k, &programs[k])) return false;
	}
	buf_init(&traffic, c->perm);
	if (m->plan.ranks > 1) cg_traffic(c, m, &shared.comms, &traffic);
	return cg_write(c, m, o, programs, &traffic);
}
