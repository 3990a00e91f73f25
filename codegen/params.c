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
	int64_t stride;
} Row;

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
	const char *name = name_str(g->m->names, p->name), *open = strchr(name, '{'),
		   *close = open ? strchr(open, '}') : NULL;
	Row r = {.prefix = name, .repeat = 1};

	if (!p->per.i || !open || !close) return r;
	r.prefix = cg_text(g->a, "%.*s", (int)(open - name), name);
	r.suffix = close + 1;
	r.by = 1;
	r.repeat = (uint32_t)g->m->axes[p->per.i].extent;
	r.stride = type_bytes(g->m, NULL, &p->type) / r.repeat;
	return r;
}

static bool
alike(const Cg *g, uint32_t a, uint32_t b)
{
	const Param *x = &g->m->params[a], *y = &g->m->params[b];
	int64_t sx[MAX_AXES], sy[MAX_AXES];
	int nx, ny;

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

	for (uint32_t k = 0; k < g->m->nparams; k++)
		if (strcmp(name_str(g->m->names, g->m->params[k].name), name) == 0) return k;
	return -1;
}

/* The longest row that begins with a parameter: tries every number in its name and a few strides of it. */
static Row
longest_row(const Cg *g, uint32_t param, const bool *taken)
{
	const int64_t *at = g->mem->param_at;
	const char *name = name_str(g->m->names, g->m->params[param].name);
	Row best = entries_of(g, param);

	if (g->m->params[param].per.i) return best;
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

				if (next < 0 || taken[next] || !alike(g, param, (uint32_t)next))
					break;
				if (r.repeat == 1) r.stride = at[next] - at[param];
				if (at[next] != at[param] + (int64_t)r.repeat * r.stride) break;
			}
			if (r.repeat > best.repeat) best = r;
		}
	}
	return best;
}

static void
put_param(const Cg *g, Buf *out, uint32_t param, const Row *r)
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
	if (p->init == INIT_const)
		a = (double)(g->mem->consts + g->mem->const_at[(uint32_t)p->init_a]);
	buf_puts(out, "\t{.prefix = ");
	put_cstring(out, r->prefix);
	if (r->suffix) {
		buf_puts(out, ", .suffix = ");
		put_cstring(out, r->suffix);
		buf_printf(out, ", .first = %u, .by = %u, .repeat = %u, .stride = %" PRId64,
			   r->first, r->by, r->repeat, r->stride);
	} else {
		buf_puts(out, ", .repeat = 1");
	}
	buf_printf(out, ",\n\t .at = %" PRId64 ", .count = %" PRId64 ", .ndims = %d, .dims = {",
		   g->mem->param_at[param], count, ndims);
	for (int k = 0; k < ndims || k == 0; k++)
		buf_printf(out, "%s%" PRId64, k ? ", " : "", ndims ? shape[k] : 0);
	buf_printf(out, "},\n\t .init = %s, .a = ", init[p->init]);
	put_number(out, a);
	buf_puts(out, ", .b = ");
	if (p->init ==
	    INIT_const) /* a tensor holds all entries of `per`, one after the other */
		put_number(out, p->per.i ? (double)r->stride : 0);
	else
		put_number(out, p->init_b);
	buf_puts(out, ", .decay = ");
	put_number(out, p->decay);
	buf_puts(out, ", .lr = ");
	put_number(out, p->lr);
	buf_puts(out, "},\n");
}

static bool
put_params(const Cg *g, Buf *out)
{
	const Module *m = g->m;
	bool *taken = NEW_N(g->a, bool, m->nparams + 1);

	if (!m->nparams) return false;
	buf_puts(out, "\nstatic const GvrtParam params[] = {\n");
	for (uint32_t k = 0; k < m->nparams; k++) {
		Row r;

		if (taken[k]) continue;
		r = longest_row(g, k, taken);
		for (uint32_t j = 0; !m->params[k].per.i && r.suffix && j < r.repeat; j++)
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
		const Input *x = &m->inputs[k];
		int batch = type_find(&x->type, m->batch);

		if (batch != 0)
			cg_error(
			    g, x->loc,
			    "input '%s' must have 'batch' as its first axis on the host target",
			    name_str(m->names, x->name));
		buf_puts(out, "\t{.name = ");
		put_cstring(out, name_str(m->names, x->name));
		buf_printf(out,
			   ", .per_sample = %" PRId64 ", .at = %" PRId64
			   ", .kind = %s, .range = %" PRId64 "},\n",
			   type_count(m, NULL, &x->type) / m->axes[m->batch.i].extent,
			   g->mem->input_at[k],
			   x->type.dt == DT_i32    ? "GVRT_I32"
			   : x->type.dt == DT_bool ? "GVRT_BOOL"
						   : "GVRT_REAL",
			   x->range.i ? m->axes[x->range.i].extent : 0);
	}
	buf_puts(out, "};\n");
	return true;
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
		Where w = where_ref(g, m->reports[k].ref);

		ENSURE(w.in == IN_slot, "a report is kept by no frame");
		buf_printf(out, "%s%" PRId64, k ? ", " : "", w.at);
	}
	buf_puts(out, "};\n");
	return true;
}

static void
put_memory(const Cg *g, Buf *out)
{
	const Memory *mem = g->mem;
	const int64_t state = mem->sec_bytes[SEC_param];
	int64_t slots = mem->slot_bytes * (g->stage->slots ? g->stage->slots : 1);
	const struct {
		const char *what;
		int64_t bytes;
	} rows[] = {
	    {"parameters", state},
	    {"gradients", mem->sec[SEC_grad] < 0 ? 0 : state},
	    {"first moments", mem->sec[SEC_m] < 0 ? 0 : state},
	    {"second moments", mem->sec[SEC_v] < 0 ? 0 : state},
	    {"constants", mem->slots - mem->consts},
	    {"microbatches in flight", slots},
	    {"cotangents", mem->carry - mem->cots},
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

/* Floating-point operations of a step: forward and backward of every instance, what is computed twice counted once. */
static double
step_flops(const Cg *g)
{
	const Module *m = g->m;
	double sum = 0;

	for (uint32_t n = 0; n < m->ninsts; n++) {
		const double *f = m->types[m->insts[n].type].flops;

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

static void
put_logits(const Cg *g, Buf *out)
{
	const Type *t = NULL;
	const Mesh *mesh = NULL;
	int64_t at = where_logits(g, &t, &mesh), cols, rows;

	if (at < 0 || !t || t->n == 0) {
		buf_puts(out, "\t.logits_at = -1,\n");
		return;
	}
	cols = type_extent(g->m, mesh, t, t->n - 1);
	rows = type_count(g->m, mesh, t) / cols;
	buf_printf(out,
		   "\t.logits_at = %" PRId64 ", .logits_rows = %" PRId64
		   ", .logits_cols = %" PRId64 ", .logits_ld = %" PRId64 ",\n",
		   at, rows, cols, cols);
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
	bool params, inputs, reports;

	buf_puts(out, "\n/* ---- tables ---- */\n");
	params = put_params(g, out), inputs = put_inputs(g, out), reports = put_reports(g, out);
	put_memory(g, out);
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
		   "),\n\t.ranks = 1, .stage = 0, .stages = 1, .threads = %u,\n",
		   g->shared->hash, m->plan.threads);
	buf_printf(out,
		   "\t.arena_bytes = GV_ARENA,\n\t.param = GV_PARAMS, .grad = %s, .m = %s, .v "
		   "= %s, .state_bytes = %" PRId64 ",\n",
		   mem->sec[SEC_grad] < 0 ? "-1" : "GV_GRADS",
		   mem->sec[SEC_m] < 0 ? "-1" : "GV_MOMENT1",
		   mem->sec[SEC_v] < 0 ? "-1" : "GV_MOMENT2", mem->sec_bytes[SEC_param]);
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
	put_logits(g, out);
	buf_printf(out, "\t.seq = %" PRId64 ",\n", positions(m));
	put_train(g, out);
	buf_puts(out, "\t.flops = ");
	put_number(out, step_flops(g));
	buf_puts(out, ",\n");
	if (m->const_body) buf_puts(out, "\t.consts = consts,\n");
	buf_puts(out, "\t.forward = forward,\n");
	if (!m->plan.forward_only) buf_puts(out, "\t.step = step,\n\t.update = update,\n");
	buf_puts(out, "\t.memory = memory, .nmemory = sizeof memory / sizeof *memory,\n};\n");
	buf_puts(out, "\nint\nmain(int argc, char **argv)\n{\n\treturn gvrt_main(argc, argv, "
		      "&program);\n}\n");
}
