/*
 * params.c - the tables that describe a program to its runtime: parameters, inputs, reports, memory, GvrtProgram.
 *
 * Parameters of like instances are one line: their names differ in a running number, their offsets by a stride.
 */
#include "codegen/cg.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

typedef struct Row {                 /* one line of the table */
	const char *prefix, *suffix; /* suffix NULL: one entry */
	uint32_t first, by, repeat;
	int64_t stride[SEC_COUNT];
} Row;

/* Where a rank of the stage has a parameter; all -1: another stage has it. */
typedef struct Kept {
	int64_t at[SEC_COUNT];
	uint8_t split;
} Kept;

/* A double as C has it. */
static void
put_number(Buf *out, double x)
{
	if (isnan(x))
		buf_puts(out, "NAN");
	else if (isinf(x))
		buf_puts(out, x < 0 ? "-INFINITY" : "INFINITY");
	else
		buf_double(out, x);
}

/* ---- parameters ---- */

/* The entries of a parameter: itself, or one per index of its `per` axis. */
static Row
entries_of(const Cg *g, uint32_t param)
{
	const Param *p = &g->m->params[param];
	const Param *called = p->borrows ? &g->m->params[p->borrows - 1] : p;
	const char *name = name_str(g->m->names, called->name), *open = strchr(name, '{'),
		   *close = open ? strchr(open, '}') : NULL;
	Row r = {.prefix = name, .repeat = 1};

	if (!p->per.i || !open || !close) return r;
	r.prefix = cg_text(g->a, "%.*s", (int)(open - name), name);
	r.suffix = close + 1;
	r.by = 1;
	r.repeat = (uint32_t)g->m->axes[p->per.i].extent;
	for (int s = 0; s < SEC_COUNT; s++)
		r.stride[s] = type_bytes(g->m, NULL, &p->type) / r.repeat;
	return r;
}

static Kept
kept(const Cg *g, uint32_t param)
{
	const Memory *mem = g->mem;
	const Param *p = &g->m->params[param];
	bool flat = cg_in_flat(g, param), here = cg_is_here(g, p->owner);
	Kept k = {.split = 0};

	for (int s = 0; s < SEC_COUNT; s++) {
		bool has = s == SEC_param || p->trained || g->m->plan.ranks == 1;

		if ((s == SEC_m || s == SEC_v) && p->borrows) has = false;
		k.at[s] = -1;
		if (!has || !here || mem->sec[s] < 0) continue;
		k.at[s] = mem->param_at[param];
		if (!flat) continue;
		if (ir_flat_split(ir_zero(g->m, p->owner), (Section)s)) {
			k.split |= (uint8_t)(1u << s);
			k.at[s] = mem->flat_at[s][p->owner];
		} else {
			k.at[s] += mem->flat_at[s][p->owner];
		}
	}
	return k;
}

/* The same place in two flats of one size, or in none. */
static bool
same_flat(const Cg *g, uint32_t a, uint32_t b)
{
	const Memory *mem = g->mem;

	if (cg_in_flat(g, a) != cg_in_flat(g, b)) return false;
	return !cg_in_flat(g, a) || (mem->param_at[a] == mem->param_at[b] &&
				     mem->flat_bytes[g->m->params[a].owner] ==
					 mem->flat_bytes[g->m->params[b].owner]);
}

static bool
alike(const Cg *g, uint32_t a, uint32_t b)
{
	const Param *x = &g->m->params[a], *y = &g->m->params[b];
	bool here = cg_is_here(g, x->owner), many = g->m->plan.ranks > 1;
	int64_t sx[MAX_AXES], sy[MAX_AXES];
	int nx, ny;

	if (here != cg_is_here(g, y->owner)) return false;
	if (here && many &&
	    (ir_param_mesh(g->m, a) != ir_param_mesh(g->m, b) ||
	     !type_equal(&x->type, &y->type) || !same_flat(g, a, b) ||
	     kept(g, a).split != kept(g, b).split))
		return false;
	ir_param_entries(g->m, a, sx, &nx);
	ir_param_entries(g->m, b, sy, &ny);
	return !x->per.i && !y->per.i && nx == ny &&
	       memcmp(sx, sy, (size_t)nx * sizeof *sx) == 0 && x->init == y->init &&
	       x->init_a == y->init_a && x->init_b == y->init_b && x->decay == y->decay &&
	       x->lr == y->lr;
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The parameter called prefix + number + suffix; -1. */
static int64_t
find_param(const Cg *g, const char *prefix, uint32_t number, const char *suffix)
{
	const char *name = cg_text(g->a, "%s%u%s", prefix, number, suffix);
	uint32_t lo = 0, hi = g->m->nparams;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2, k = g->shared->by_name[mid];
		int order = strcmp(name_str(g->m->names, g->m->params[k].name), name);

		if (order == 0) return k;
		if (order < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return -1;
}

/* Whether the n-th parameter of a row lies a whole number of its strides behind the first. */
static bool
in_step(const Kept *first, const Kept *next, Row *r)
{
	for (int s = 0; s < SEC_COUNT; s++) {
		int64_t d = next->at[s] - first->at[s];

		if (r->repeat == 1) r->stride[s] = d;
		if (d != (int64_t)r->repeat * r->stride[s]) return false;
		if ((next->at[s] < 0) != (first->at[s] < 0)) return false;
	}
	return true;
}

/* The longest row that begins with a parameter: tries every number in its name and a few strides of it. */
static Row
longest_row(const Cg *g, uint32_t param, const bool *taken)
{
	const Kept at = kept(g, param);
	const char *name = name_str(g->m->names, g->m->params[param].name);
	Row best = entries_of(g, param);

	if (g->m->params[param].per.i || g->m->params[param].borrows) return best;
	for (size_t k = 0; name[k]; k++) {
		uint32_t number = 0;
		size_t end = k;

		if (!is_digit(name[k]) || (k && is_digit(name[k - 1])) ||
		    (name[k] == '0' && is_digit(name[k + 1])))
			continue;
		for (; is_digit(name[end]) && end - k < 8; end++)
			number = number * 10 + (uint32_t)(name[end] - '0');
		if (is_digit(name[end])) continue;
		for (uint32_t by = 1; by <= 4; by++) {
			Row r = {.prefix = cg_text(g->a, "%.*s", (int)k, name),
				 .suffix = name + end,
				 .first = number,
				 .by = by,
				 .repeat = 1};

			for (;; r.repeat++) {
				int64_t next =
				    find_param(g, r.prefix, number + r.repeat * by, r.suffix);
				Kept there;

				if (next < 0 || taken[next] || !alike(g, param, (uint32_t)next))
					break;
				there = kept(g, (uint32_t)next);
				if (!in_step(&at, &there, &r)) break;
			}
			if (r.repeat > best.repeat) best = r;
		}
	}
	return best;
}

/* ---- parts ---- */

/* The axes of a tensor as its ranks split them, one microbatch at a time. */
static void
put_axes(const Cg *g, Buf *out, const Mesh *mesh, const Type *t)
{
	buf_printf(out, ".mesh = %u, .naxes = %u",
		   mesh ? (uint32_t)(mesh - g->m->plan.meshes) : 0, t->n);
	if (t->n) buf_puts(out, ", .axis = {");
	for (int k = 0; k < t->n; k++) {
		const AxisUse *u = &t->ax[k];
		int n = 0;

		buf_printf(out, "%s{%" PRId64, k ? ", " : "", cg_microbatch_extent(g->m, *u));
		for (int s = 0; s < u->nshard; s++)
			n += u->shard[s] != 0;
		if (n) buf_printf(out, ", %d, {", n);
		for (int s = 0, first = 1; s < u->nshard; s++) {
			if (u->shard[s] == 0) continue;
			buf_printf(out, "%s%u", first ? "" : ", ", u->shard[s]);
			first = 0;
		}
		buf_puts(out, n ? "}}" : "}");
	}
	if (t->n) buf_puts(out, "}");
}

static void
put_four(Buf *out, const char *name, const int64_t x[SEC_COUNT])
{
	buf_printf(out, ".%s = {", name);
	for (int s = 0; s <= SEC_v; s++) /* programs of the host have no other */
		buf_printf(out, "%s%" PRId64, s ? ", " : "", x[s]);
	buf_puts(out, "}");
}

/* The part a rank has of a parameter, as a row of g->parts; the number of the row. */
static uint32_t
put_part(Cg *g, uint32_t param, const Row *r)
{
	const Param *p = &g->m->params[param];
	const Mesh *mesh = ir_param_mesh(g->m, param);
	const Kept k = kept(g, param);

	buf_puts(&g->parts, "\t{");
	put_axes(g, &g->parts, mesh, &p->type);
	buf_puts(&g->parts, ",\n\t ");
	put_four(&g->parts, "at", k.at);
	if (r->repeat > 1) {
		buf_puts(&g->parts, ", ");
		put_four(&g->parts, "stride", r->stride);
	}
	if (k.split)
		buf_printf(&g->parts,
			   ",\n\t .split = %u, .over = %u, .flat_at = %" PRId64
			   ", .flat_bytes = %" PRId64,
			   k.split, ir_dp_mask(mesh), g->mem->param_at[param],
			   g->mem->flat_bytes[p->owner]);
	buf_puts(&g->parts, "},\n");
	return g->nparts++;
}

/* The part a rank has of an input or of the logits. */
static uint32_t
put_rows_part(Cg *g, const Mesh *mesh, const Type *t)
{
	buf_puts(&g->parts, "\t{");
	put_axes(g, &g->parts, mesh, t);
	buf_puts(&g->parts, "},\n");
	return g->nparts++;
}

static void
put_param(Cg *g, Buf *out, uint32_t param, const Row *r)
{
	static const char *const init[] = {"GVRT_VALUE", "GVRT_NORMAL", "GVRT_UNIFORM",
					   "GVRT_TABLE"};
	const Module *m = g->m;
	const Param *p = &m->params[param];
	int64_t shape[MAX_AXES] = {0}, count = type_count(m, NULL, &p->type);
	int ndims;
	double a = p->init_a;

	ir_param_entries(m, param, shape, &ndims);
	if (p->per.i) count /= m->axes[p->per.i].extent;
	if (p->init == INIT_const && cg_is_here(g, p->owner))
		a = (double)(g->mem->consts + g->mem->const_at[(uint32_t)p->init_a]);
	buf_puts(out, "\t{.prefix = ");
	put_cstring(out, r->prefix);
	if (r->suffix) {
		buf_puts(out, ", .suffix = ");
		put_cstring(out, r->suffix);
		buf_printf(out, ", .first = %u, .by = %u, .repeat = %u, .stride = %" PRId64,
			   r->first, r->by, r->repeat, r->stride[SEC_param]);
	} else {
		buf_puts(out, ", .repeat = 1");
	}
	buf_printf(out, ",\n\t .at = %" PRId64 ", .count = %" PRId64 ", .ndims = %d, .dims = {",
		   kept(g, param).at[SEC_param] < 0 ? 0 : kept(g, param).at[SEC_param], count,
		   ndims);
	for (int k = 0; k < ndims || k == 0; k++)
		buf_printf(out, "%s%" PRId64, k ? ", " : "", ndims ? shape[k] : 0);
	buf_printf(out, "},\n\t .init = %s, .a = ", init[p->init]);
	put_number(out, a);
	buf_puts(out, ", .b = ");
	if (p->init ==
	    INIT_const) /* a tensor holds all entries of `per`, one after the other */
		put_number(out, p->per.i ? (double)r->stride[SEC_param] : 0);
	else
		put_number(out, p->init_b);
	buf_puts(out, ", .decay = ");
	put_number(out, p->decay);
	buf_puts(out, ", .lr = ");
	put_number(out, p->lr);
	if (m->plan.ranks > 1 && cg_is_here(g, p->owner))
		buf_printf(out, ",\n\t .part = &parts[%u]", put_part(g, param, r));
	if (!cg_is_here(g, p->owner)) buf_puts(out, ", .elsewhere = true");
	if (p->borrows) buf_puts(out, ", .borrowed = true");
	if (p->per.i && m->plan.ranks > 1) buf_puts(out, ", .per = true");
	buf_puts(out, "},\n");
}

static bool
put_params(Cg *g, Buf *out)
{
	const Module *m = g->m;
	bool *taken = NEW_N(g->a, bool, m->nparams + 1);

	if (!m->nparams) return false;
	buf_puts(out, "\nstatic const GvrtParam params[] = {\n");
	for (uint32_t k = 0; k < m->nparams; k++) {
		Row r;

		if (taken[k]) continue;
		if (m->params[k].borrows && !cg_is_here(g, m->params[k].owner))
			continue; /* another stage's copy */
		r = longest_row(g, k, taken);
		for (uint32_t j = 0;
		     !m->params[k].per.i && !m->params[k].borrows && r.suffix && j < r.repeat;
		     j++)
			taken[find_param(g, r.prefix, r.first + j * r.by, r.suffix)] = true;
		taken[k] = true;
		put_param(g, out, k, &r);
	}
	buf_puts(out, "};\n");
	return true;
}

/* ---- inputs, reports, memory ---- */

static bool
put_inputs(Cg *g, Buf *out)
{
	const Module *m = g->m;

	if (!m->ninputs) return false;
	buf_puts(out, "\nstatic const GvrtInput inputs[] = {\n");
	for (uint32_t k = 0; k < m->ninputs; k++) {
		const Input *x = &m->inputs[k], *called = x->of ? &m->inputs[x->of - 1] : x;
		int batch = type_find(&x->type, m->batch);

		if (batch != 0)
			cg_error(
			    g, x->loc,
			    "input '%s' must have 'batch' as its first axis on the host target",
			    name_str(m->names, x->name));
		buf_puts(out, "\t{.name = ");
		put_cstring(out, name_str(m->names, called->name));
		buf_printf(out,
			   ", .per_sample = %" PRId64 ", .at = %" PRId64
			   ", .kind = %s, .range = %" PRId64,
			   type_count(m, NULL, &x->type) / m->axes[m->batch.i].extent,
			   g->mem->input_at[k],
			   x->type.dt == DT_i32    ? "GVRT_I32"
			   : x->type.dt == DT_bool ? "GVRT_BOOL"
						   : "GVRT_REAL",
			   x->range.i ? m->axes[x->range.i].extent : 0);
		if (m->plan.ranks > 1 && g->mem->input_at[k] >= 0)
			buf_printf(out, ", .part = &parts[%u]",
				   put_rows_part(g, &m->plan.meshes[x->mesh], &x->type));
		buf_puts(out, "},\n");
	}
	buf_puts(out, "};\n");
	return true;
}

/* A report that several ranks have the same of is counted on one of them. */
static void
put_report_ranks(const Cg *g, Buf *out)
{
	const Module *m = g->m;

	buf_puts(out, "static const GvrtReport report_on[] = {");
	for (uint32_t k = 0; k < m->nreports; k++) {
		Ref ref = m->reports[k].ref;
		const Body *f;
		const Port *p = NULL;

		if (ref.kind == REF_result) {
			f = &m->bodies[m->types[m->insts[ref.i].type].body[BK_F]];
			p = ir_find_port(f, PORT_out, ref.result);
		}
		if (p)
			buf_printf(out, "%s{%u, %u}", k ? ", " : "", f->mesh,
				   cg_replicas(ir_mesh(m, f), &f->vals[p->v.i].type));
		else
			buf_printf(out, "%s{0, 0}", k ? ", " : "");
	}
	buf_puts(out, "};\n");
}

static bool
put_reports(const Cg *g, Buf *out)
{
	const Module *m = g->m;

	if (!m->nreports) return false;
	buf_puts(out, "\nstatic const char *const reports[] = {");
	for (uint32_t k = 0; k < m->nreports; k++) {
		if (k) buf_puts(out, ", ");
		put_cstring(out, name_str(m->names, m->reports[k].name));
	}
	buf_puts(out, "};\nstatic const int64_t report_at[] = {");
	for (uint32_t k = 0; k < m->nreports; k++) {
		Ref ref = m->reports[k].ref;
		bool here = ref.kind != REF_result || cg_is_here(g, ref.i);
		Where w = here ? where_ref(g, ref) : (Where){IN_slot, -1};

		ENSURE(w.in == IN_slot, "a report is kept by no frame");
		buf_printf(out, "%s%" PRId64, k ? ", " : "", w.at);
	}
	buf_puts(out, "};\n");
	if (m->plan.ranks > 1) put_report_ranks(g, out);
	return true;
}

static void
put_memory(const Cg *g, Buf *out)
{
	const Memory *mem = g->mem;
	int64_t slots = mem->slot_bytes * (g->stage->slots ? g->stage->slots : 1);
	const struct {
		const char *what;
		int64_t bytes;
	} rows[] = {
	    {"parameters", cg_section_bytes(g, SEC_param)},
	    {"gradients", cg_section_bytes(g, SEC_grad)},
	    {"first moments", cg_section_bytes(g, SEC_m)},
	    {"second moments", cg_section_bytes(g, SEC_v)},
	    {"constants", mem->slots - mem->consts},
	    {"microbatches in flight", slots},
	    {"cotangents", mem->carry - mem->cots - 2 * (mem->gather_bytes + mem->dwork_bytes)},
	    {"gathered parameters", 2 * mem->gather_bytes},
	    {"unreduced gradients", 2 * mem->dwork_bytes},
	    {"between B and W", mem->scratch - mem->carry},
	    {"scratch", mem->arena_bytes - mem->scratch},
	};

	buf_puts(out, "\nstatic const GvrtMemLine memory[] = {\n");
	for (size_t k = 0; k < COUNTOF(rows); k++)
		if (rows[k].bytes)
			buf_printf(out, "\t{\"%s\", %" PRId64 "},\n", rows[k].what,
				   rows[k].bytes);
	buf_puts(out, "};\n");
}

/* Floating-point operations of a step on one rank of the stage: forward and backward of its instances, what is computed twice counted once. */
static double
step_flops(const Cg *g)
{
	const Module *m = g->m;
	double sum = 0;

	for (uint32_t n = 0; n < m->ninsts; n++) {
		const double *f = m->types[m->insts[n].type].flops;

		if (ir_stage_of(m, n) == g->k)
			sum += m->plan.forward_only ? f[BK_F] : 3 * f[BK_F];
	}
	return sum * (m->plan.microbatches ? m->plan.microbatches : 1);
}

/* ---- the program ---- */

static void
put_train(const Cg *g, Buf *out)
{
	static const char *const rate[] = {"GVRT_CONST", "GVRT_COSINE", "GVRT_LINEAR_DECAY",
					   "GVRT_INVERSE_SQRT"};
	const Train *t = &g->m->train;
	const struct {
		const char *name;
		double x;
	} fields[] = {
	    {"peak", t->peak}, {"warmup", t->warmup}, {"steps", t->steps}, {"floor", t->floor},
	    {"clip", t->clip}, {"beta1", t->beta1},   {"beta2", t->beta2},
	};

	buf_printf(out, "\t.train = {.opt = %s, .rate = %s",
		   t->opt == OPT_adamw ? "GVRT_ADAMW" : "GVRT_SGD", rate[t->rate]);
	for (size_t k = 0; k < COUNTOF(fields); k++) {
		buf_printf(out, ",\n\t\t.%s = ", fields[k].name);
		put_number(out, fields[k].x);
	}
	buf_printf(out, ",\n\t\t.seed = UINT64_C(%" PRIu64 ")},\n", t->seed);
}

/* The stage with the logits; -1: nothing is left to sample from. */
static int64_t
logits_stage(const Cg *g, const Type **t)
{
	for (uint32_t k = g->m->plan.nstages; k-- > 0;) {
		const Mesh *mesh;
		Cg there = *g;

		there.k = k;
		there.stage = &g->m->plan.stages[k];
		there.mem = &g->m->mem[k];
		if (where_logits(&there, t, &mesh) >= 0 && (*t)->n) return k;
	}
	return -1;
}

static void
put_logits(Cg *g, Buf *out)
{
	const Type *t = NULL;
	const Mesh *mesh = NULL;
	int64_t at = where_logits(g, &t, &mesh), cols, stage = logits_stage(g, &t);

	if (stage < 0 || stage != g->k) {
		buf_printf(out, "\t.logits_at = %s,\n", stage < 0 ? "-1" : "GVRT_ELSEWHERE");
		if (stage >= 0)
			buf_printf(out, "\t.logits_all = %" PRId64 ",\n",
				   g->m->axes[t->ax[t->n - 1].a.i].extent);
		return;
	}
	at = where_logits(g, &t, &mesh);
	cols = type_extent(g->m, mesh, t, t->n - 1);
	buf_printf(out,
		   "\t.logits_at = %" PRId64 ", .logits_cols = %" PRId64
		   ", .logits_ld = %" PRId64 ",\n",
		   at, cols, cols);
	if (g->m->plan.ranks > 1)
		buf_printf(out, "\t.logits_part = &parts[%u], .logits_all = %" PRId64 ",\n",
			   put_rows_part(g, mesh, t), g->m->axes[t->ax[t->n - 1].a.i].extent);
}

/* ---- ranks ---- */

static void
put_ranks(const Cg *g, Buf *out)
{
	const Module *m = g->m;
	const CommTable *t = &g->shared->comms;

	buf_puts(out, "\nstatic const GvrtStage stage_ranks[] = {");
	for (uint32_t k = 0; k < m->plan.nstages; k++)
		buf_printf(out, "%s{%u, %u}", k ? ", " : "", m->plan.stages[k].rank,
			   m->plan.stages[k].ranks);
	buf_puts(out, "};\n\nstatic const GvrtMesh meshes[] = {\n");
	for (uint32_t k = 0; k < m->plan.nmeshes; k++) {
		const Mesh *x = &m->plan.meshes[k];

		buf_printf(out, "\t{%u, {1", x->n);
		for (int a = 1; a < x->n; a++)
			buf_printf(out, ", %u", x->ax[a].degree);
		buf_puts(out, "}},");
		for (int a = 1; a < x->n; a++)
			buf_printf(out, "%s%s %u", a > 1 ? ", " : " /* ",
				   mesh_kind_str[x->ax[a].kind], a);
		buf_puts(out, x->n > 1 ? " */\n" : "\n");
	}
	buf_puts(out,
		 "};\n\n/* Groups of ranks that differ in these digits only: {stride, degree}. "
		 "The first is the world. */\nstatic const GvrtComm comms[] = {\n\t{0},\n");
	for (uint32_t e = 1; e < t->n; e++) {
		const CommGroup *x = &t->group[e * t->nstages + g->k];

		buf_printf(out, "\t{%u", x->n);
		for (int d = 0; d < x->n; d++)
			buf_printf(out, "%s{%u, %u}", d ? ", " : ", {", x->d[d].stride,
				   x->d[d].degree);
		buf_puts(out, x->n ? "}},\n" : "},\n");
	}
	buf_puts(out, "};\n");
}

static void
put_ranks_fields(const Cg *g, Buf *out, bool exchanges)
{
	buf_puts(
	    out,
	    "\t.stage_ranks = stage_ranks,\n\t.meshes = meshes, .nmeshes = sizeof meshes / "
	    "sizeof *meshes,\n\t.comms = comms, .ncomms = sizeof comms / sizeof *comms,\n");
	if (exchanges)
		buf_puts(out,
			 "\t.exchanges = exchanges, .nexchanges = sizeof exchanges / sizeof "
			 "*exchanges,\n");
	buf_printf(out, "\t.nrequests = %" PRId64 ",\n", g->nrequests);
	if (g->m->nreports) buf_puts(out, "\t.report_on = report_on,\n");
}

/* Positions of one sample of the input called tokens; 0 if there is none. */
static int64_t
positions(const Module *m)
{
	for (uint32_t k = 0; k < m->ninputs; k++)
		if (strcmp(name_str(m->names, m->inputs[k].name), "tokens") == 0)
			return type_count(m, NULL, &m->inputs[k].type) /
			       m->axes[m->batch.i].extent;
	return 0;
}

void
cg_tables(Cg *g, Buf *out)
{
	const Module *m = g->m;
	const Memory *mem = g->mem;
	int64_t mbs = m->plan.microbatches ? m->plan.microbatches : 1,
		batch = m->batch.i ? m->axes[m->batch.i].extent : 1;
	bool params, inputs, reports, exchanges = false, many = m->plan.ranks > 1;
	Buf rows, logits;

	buf_init(&rows, g->a);
	buf_init(&logits, g->a);
	buf_init(&g->parts, g->a);
	buf_puts(out, "\n/* ---- tables ---- */\n");
	if (many) put_ranks(g, out), exchanges = cg_exchanges(g, out);
	params = put_params(g, &rows), inputs = put_inputs(g, &rows),
	reports = put_reports(g, &rows);
	put_memory(g, &rows);
	put_logits(g, &logits);
	if (g->nparts)
		buf_printf(
		    out,
		    "\n/* What a rank has of a tensor: its axes as {extent, split over mesh "
		    "axes}. */\nstatic const GvrtPart parts[] = {\n%s};\n",
		    g->parts.s);
	buf_puts(out, rows.s);
	if (batch % mbs)
		cg_error(g, (Loc){0},
			 "a batch of %" PRId64 " does not split into %" PRId64 " microbatches",
			 batch, mbs);
	buf_puts(out,
		 "\nstatic const GvrtProgram program = {\n\t.abi = GVRT_ABI,\n\t.model = ");
	put_cstring(out, name_str(m->names, m->model));
	buf_puts(out, ",\n\t.source = ");
	put_cstring(out, name_str(m->names, m->source));
	buf_printf(out,
		   ",\n\t.plan_hash = UINT64_C(0x%016" PRIx64
		   "),\n\t.ranks = %u, .stage = %u, .stages = %u, .threads = %u,\n",
		   g->shared->hash, m->plan.ranks, g->k, m->plan.nstages, m->plan.threads);
	buf_printf(out,
		   "\t.arena_bytes = GV_ARENA,\n\t.param = GV_PARAMS, .grad = %s, .m = %s, .v "
		   "= %s,\n",
		   mem->sec[SEC_grad] < 0 ? "-1" : "GV_GRADS",
		   mem->sec[SEC_m] < 0 ? "-1" : "GV_MOMENT1",
		   mem->sec[SEC_v] < 0 ? "-1" : "GV_MOMENT2");
	buf_printf(out, "\t.microbatch = %" PRId64 ", .microbatches = GV_MICROBATCHES,\n",
		   batch / mbs);
	if (params)
		buf_puts(out,
			 "\t.params = params, .nparams = sizeof params / sizeof *params,\n");
	if (inputs)
		buf_puts(out,
			 "\t.inputs = inputs, .ninputs = sizeof inputs / sizeof *inputs,\n");
	buf_puts(out,
		 "\t.slots = GV_SLOTS, .slot_bytes = GV_SLOT_BYTES, .nslots = GV_NSLOTS,\n");
	if (reports)
		buf_puts(out, "\t.reports = reports, .report_at = report_at, .nreports = "
			      "sizeof report_at / sizeof *report_at,\n");
	buf_puts(out, logits.s);
	buf_printf(out, "\t.seq = %" PRId64 ",\n", positions(m));
	put_train(g, out);
	buf_puts(out, "\t.flops = ");
	put_number(out, step_flops(g));
	buf_puts(out, ",\n");
	if (cg_has_consts(g)) buf_puts(out, "\t.consts = consts,\n");
	buf_puts(out, "\t.forward = forward,\n");
	if (!m->plan.forward_only) buf_puts(out, "\t.step = step,\n\t.update = update,\n");
	if (many) put_ranks_fields(g, out, exchanges);
	if (g->nmeters) buf_printf(out, "\t.meters = gv_meters, .nmeters = %u,\n", g->nmeters);
	buf_puts(out, "\t.memory = memory, .nmemory = sizeof memory / sizeof *memory,\n};\n");
	buf_puts(out, "\nint\nmain(int argc, char **argv)\n{\n\treturn gvrt_main(argc, argv, "
		      "&program);\n}\n");
}
