/*
 * codegen.c - emitted programs: the same bytes twice; nothing of the user's text in C unescaped; folders that are not
 * ours are left alone; a program for every stage of a plan, and a manifest of what they send; and, for the shipped models and for layouts no model has, loss and gradients equal to the
 * interpreter's in float64, with the arena NaN to begin with.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codegen/codegen.h"
#include "frontend/frontend.h"
#include "passes/passes.h"

static int checks, failures;
static char folder[] = "/tmp/gv-codegen-XXXXXX";

static void
check(bool ok, const char *name, const char *what)
{
	checks++;
	if (ok) return;
	failures++;
	printf("codegen: FAILED: %s: %s\n", name, what);
}

static Ctx
new_ctx(void)
{
	Ctx c = {.perm = arena_new(), .tmp = arena_new(), .precision = DT_f64};
	c.names = names_new(c.perm);
	c.diag = diag_new(c.perm, c.names, stdout);
	return c;
}

static void
free_ctx(Ctx *c)
{
	arena_free(c->tmp);
	arena_free(c->perm);
}

static const char *
text(Ctx *c, const char *fmt, const char *x)
{
	Buf b;
	buf_init(&b, c->perm);
	buf_printf(&b, fmt, x);
	return b.s;
}

static int
run(const char *command)
{
	int status = system(command);
	return status;
}

/* Removes a file or folder of this test. */
static void
clear(Ctx *c, const char *path)
{
	run(text(c, "rm -rf '%s'", path));
}

/* ---- from text or file to level mem ---- */

typedef struct Case {
	const char *name, *file, *text; /* a model's file, or its text */
	const char *set[16];
	uint32_t microbatches;
	Recompute recompute;
	double tolerance;
} Case;

static Module *
lower(Ctx *c, const Case *x)
{
	FeOptions fe = {.path = x->file ? x->file : x->name,
			.set = x->set,
			.precision = DT_f64,
			.host = true};
	PassOptions po = {0};
	while (fe.nset < 16 && x->set[fe.nset])
		fe.nset++;
	c->microbatches = x->microbatches;
	c->recompute = x->recompute;
	c->recompute_given = !c->plan_path;
	Module *m = x->file ? fe_load(c, &fe) : fe_parse_text(c, &fe, x->text, strlen(x->text));
	return m && pass_run_all(c, &m, &po) ? m : NULL;
}

/* ---- records, as tests/codegen/drive.c has them ---- */

static void
put_record(FILE *f, const char *name, const double *x, uint64_t n)
{
	uint32_t len = (uint32_t)strlen(name);
	fwrite(&len, sizeof len, 1, f);
	fwrite(name, 1, len, f);
	fwrite(&n, sizeof n, 1, f);
	fwrite(x, sizeof *x, n, f);
}

/* A parameter, or its entries one by one where it has an axis of entries. */
static void
put_param(Ctx *c, FILE *f, const Module *m, uint32_t k, const double *x, uint64_t n)
{
	const Param *p = &m->params[k];
	const char *name = name_str(m->names, p->name), *open = strchr(name, '{'),
		   *close = open ? strchr(open, '}') : NULL;
	if (!p->per.i || !close) {
		put_record(f, name, x, n);
		return;
	}
	uint64_t entries = (uint64_t)m->axes[p->per.i].extent;
	for (uint64_t e = 0; e < entries; e++) {
		Buf b;
		buf_init(&b, c->perm);
		buf_printf(&b, "%.*s%d%s", (int)(open - name), name, (int)e, close + 1);
		put_record(f, b.s, x + e * (n / entries), n / entries);
	}
}

/* Random parameters and inputs, to the interpreter and to a file. */
static void
set_values(Ctx *c, Eval *e, const Module *m, FILE *f)
{
	uint64_t key = rng_key(7, "codegen");
	for (uint32_t k = 0; k < m->nparams; k++) {
		uint64_t n = (uint64_t)type_count(m, NULL, &m->params[k].type);
		double *x = NEW_N(c->perm, double, n);
		for (uint64_t i = 0; i < n; i++)
			x[i] = 0.3 * rng_normal(key + k, i) +
			       (m->params[k].init == INIT_value ? m->params[k].init_a : 0);
		eval_set(e, name_str(m->names, m->params[k].name), x, n);
		put_param(c, f, m, k, x, n);
	}
	for (uint32_t k = 0; k < m->ninputs; k++) {
		const Input *in = &m->inputs[k];
		uint64_t n = (uint64_t)type_count(m, NULL, &in->type);
		double *x = NEW_N(c->perm, double, n),
		       range = in->range.i ? (double)m->axes[in->range.i].extent : 2;
		for (uint64_t i = 0; i < n; i++)
			x[i] = dtype_float(in->type.dt)
				   ? rng_normal(key - k - 1, i)
				   : floor(range * rng_uniform(key - k - 1, i));
		eval_set(e, name_str(m->names, in->name), x, n);
		put_record(f, name_str(m->names, in->name), x, n);
	}
}

/* Every record of the program against the interpreter. A gradient is compared by its norm: one that is zero but for rounding counts little. */
static void
compare(Ctx *c, const Case *x, const Module *m, const Eval *e, const char *path)
{
	size_t n;
	char *s = file_read(c->perm, path, (size_t)1 << 30, &n), *end = s ? s + n : NULL;
	double all = 0, off = 0, worst = 0, part = 0;
	uint32_t seen = 0;
	check(s != NULL, x->name, "the program wrote no results");
	for (uint32_t k = 0; k < m->nparams; k++) {
		const double *g;
		size_t count =
		    eval_get(e, text(c, "grad:%s", name_str(m->names, m->params[k].name)), &g);
		for (size_t i = 0; i < count; i++)
			all += g[i] * g[i];
	}
	for (uint32_t k = 0; s && k < m->nreports; k++) {
		const double *want;
		double got = NAN;
		uint32_t len;
		memcpy(&len, s, 4);
		memcpy(&got, s + 4 + len + 8, 8);
		if (eval_get(e, name_str(m->names, m->reports[k].name), &want) == 1)
			check(fabs(got - *want) <= x->tolerance * fabs(*want), x->name,
			      "a report differs");
		s += 4 + len + 16;
	}
	/* gradients come in the table's order: like layers are next to each other */
	while (s && s < end) {
		uint32_t len;
		uint64_t count;
		char name[256] = "";
		const double *g = NULL;
		memcpy(&len, s, 4);
		memcpy(name, s + 4, len < 255 ? len : 255);
		memcpy(&count, s + 4 + len, 8);
		s += 12 + len;
		if (eval_get(e, name, &g) !=
		    count) { /* one entry of a parameter that has many */
			for (uint32_t k = 0; k < m->nparams; k++) {
				const char *p = name_str(m->names, m->params[k].name),
					   *open = strchr(p, '{'),
					   *close = open ? strchr(open, '}') : NULL;
				size_t before = open ? (size_t)(open - p) : 0;
				if (!m->params[k].per.i || !close ||
				    strncmp(name + 5, p, before) != 0)
					continue;
				char *rest;
				unsigned long entry = strtoul(name + 5 + before, &rest, 10);
				if (strcmp(rest, close + 1) != 0) continue;
				if (eval_get(e, text(c, "grad:%s", p), &g)) g += entry * count;
			}
		}
		check(g != NULL, x->name, name);
		off = part = 0;
		for (uint64_t i = 0; g && i < count; i++) {
			double d;
			memcpy(&d, s + 8 * i, 8);
			off += (d - g[i]) * (d - g[i]);
			part += g[i] * g[i];
		}
		double scale = fmax(sqrt(part), 1e-3 * sqrt(all));
		if (!(sqrt(off) <= x->tolerance * scale))
			printf("codegen: %s: %s is off by %g of %g\n", x->name, name, sqrt(off),
			       scale);
		check(sqrt(off) <= x->tolerance * scale, x->name, "a gradient differs");
		if (sqrt(off) / scale > worst) worst = sqrt(off) / scale;
		seen++;
		s += 8 * count;
	}
	check(seen >= m->nparams, x->name, "gradients are missing");
}

static void
numerics(const Case *x)
{
	Ctx c = new_ctx();
	Module *m = lower(&c, x);
	check(m != NULL, x->name, "does not reach level mem");
	const char *dir = text(&c, "%s/program", folder), *in = text(&c, "%s/in", folder),
		   *out = text(&c, "%s/out", folder);
	Buf once, twice;
	buf_init(&once, c.perm);
	buf_init(&twice, c.perm);
	clear(&c, dir);
	if (m && cg_program(&c, m, 0, &once) && cg_program(&c, m, 0, &twice)) {
		check(once.n == twice.n && memcmp(once.s, twice.s, once.n) == 0, x->name,
		      "emitted twice, different bytes");
		check(cg_emit(&c, m, &(CgOptions){.dir = dir, .runtime_dir = "runtime"}),
		      x->name, "is not written");
		Eval *e =
		    eval_new(m,
			     &(EvalOptions){
				 .f64 = true, .seed = m->train.seed, .train = true, .ranks = 1},
			     c.diag);
		FILE *f = fopen(in, "wb");
		double loss;
		check(e && f, x->name, "cannot be interpreted");
		if (e && f) {
			set_values(&c, e, m, f);
			fclose(f);
			check(eval_run(e, &loss), x->name, "the interpreter fails");
			Buf cmd;
			buf_init(&cmd, c.perm);
			buf_printf(
			    &cmd,
			    "${CC:-gcc} -std=gnu11 -O1 -fopenmp -fno-strict-aliasing -Wall "
			    "-Wextra -Werror -DGVRT_F64 -Iruntime "
			    "$(ls -d /usr/include/*/openblas-openmp 2>/dev/null | sed "
			    "'s/^/-I/') -o %s/run %s/src/stage_0.c tests/codegen/drive.c "
			    "runtime/kernels.c runtime/attention.c runtime/rng.c -lopenblas "
			    "-lm && %s/run %s %s",
			    folder, dir, folder, in, out);
			unlink(out);
			check(run(cmd.s) == 0, x->name,
			      "the emitted program does not compile or run");
			compare(&c, x, m, e, out);
		}
		eval_free(e);
	} else {
		check(false, x->name, "is not emitted");
	}
	free_ctx(&c);
}

/* ---- hostile text ---- */

/* Names the grammar would never let through, as a dump might hold them. */
static void
hostile(void)
{
	static const char *const bad[] = {
	    "a*/b", "\"); system(\"x", "x\\\n#error", "%s%n", "int", "\?\?/", "", "0"};
	const Case x = {.name = "hostile", .file = "tests/codegen/odd.gdl"};
	Ctx c = new_ctx();
	Module *m = lower(&c, &x);
	Buf out;
	const char *file = text(&c, "%s/hostile.c", folder);
	check(m != NULL, x.name, "does not reach level mem");
	if (!m) return;
	m->model = name_of(c.names, "*/ #error \\\n\"");
	m->source = name_of(c.names, "/* \" */ \n \\ \?\?/");
	for (uint32_t k = 1; k < m->naxes; k++)
		m->axes[k].name = name_of(c.names, bad[k % COUNTOF(bad)]);
	for (uint32_t k = 0; k < m->nparams; k++)
		m->params[k].name = name_of(c.names, bad[k % COUNTOF(bad)]);
	for (uint32_t k = 0; k < m->ninsts; k++)
		m->insts[k].name = name_of(c.names, bad[k % COUNTOF(bad)]);
	for (uint32_t k = 0; k < m->ntypes; k++)
		m->types[k].name = name_of(c.names, bad[k % COUNTOF(bad)]);
	for (uint32_t b = 1; b < m->nbodies; b++)
		for (uint32_t v = 1; v < m->bodies[b].nvals; v++)
			m->bodies[b].vals[v].name = name_of(c.names, bad[v % COUNTOF(bad)]);
	for (uint32_t k = 0; k < m->ninputs; k++)
		m->inputs[k].name = name_of(c.names, bad[k % COUNTOF(bad)]);
	buf_init(&out, c.perm);
	check(cg_program(&c, m, 0, &out), x.name, "is not emitted");
	check(out.s && file_write(file, out.s, out.n), x.name, "is not written");
	check(run(text(&c,
		       "${CC:-gcc} -std=gnu11 -fopenmp -Wall -Wextra -Werror -DGVRT_F64 "
		       "-Iruntime -fsyntax-only '%s'",
		       file)) == 0,
	      x.name, "what was emitted does not compile");
	free_ctx(&c);
}

/* ---- folders ---- */

static bool
exists(Ctx *c, const char *dir, const char *file)
{
	struct stat st;
	Buf b;
	buf_init(&b, c->perm);
	buf_printf(&b, "%s/%s", dir, file);
	return stat(b.s, &st) == 0;
}

static void
put_file(Ctx *c, const char *dir, const char *file, const char *what)
{
	Buf b;
	buf_init(&b, c->perm);
	buf_printf(&b, "%s/%s", dir, file);
	check(file_write(b.s, what, strlen(what)), b.s, "cannot be written");
}

static void
folders(void)
{
	const Case x = {.name = "folders", .file = "tests/models/gpt.gdl"};
	Ctx c = new_ctx();
	Module *m = lower(&c, &x);
	const char *dir = text(&c, "%s/folder", folder);
	const CgOptions o = {.dir = dir, .runtime_dir = "runtime"};
	clear(&c, dir);
	check(m && cg_emit(&c, m, &o), x.name, "is not written");
	if (!m) return;
	put_file(&c, dir, "mine", "not the compiler's\n");
	put_file(&c, dir, "src/stage_7.c", "of a plan with more stages\n");
	put_file(&c, folder, "outside", "keep\n");
	put_file(&c, dir, "src/manifest",
		 "galvatronc manifest "
		 "1\nMakefile\nsrc/stage_7.c\nsrc/manifest\n../outside\n/etc/none\n");
	check(cg_emit(&c, m, &o), x.name, "is not written again");
	check(exists(&c, dir, "mine"), x.name, "a file of the user's was removed");
	check(!exists(&c, dir, "src/stage_7.c"), x.name,
	      "a file of the old manifest is still there");
	check(exists(&c, folder, "outside"), x.name, "a manifest reached outside its folder");
	check(exists(&c, dir, "src/stage_0.c") && exists(&c, dir, "Makefile"), x.name,
	      "files are missing");

	const char *other = text(&c, "%s/other", folder);
	clear(&c, other);
	check(dir_make(other), x.name, "cannot make a folder");
	put_file(&c, other, "precious", "data\n");
	FILE *null = fopen("/dev/null", "w");
	c.diag = diag_new(c.perm, c.names, null);
	check(!cg_emit(&c, m, &(CgOptions){.dir = other, .runtime_dir = "runtime"}), x.name,
	      "a folder of the user's was written to");
	check(diag_errors(c.diag) == 1, x.name, "not one error");
	check(!exists(&c, other, "Makefile"), x.name, "a folder of the user's was written to");
	fclose(null);
	free_ctx(&c);
}

/* ---- plans of several ranks: what they compute is tests/e2e/plans.sh ---- */

typedef struct Planned {
	const char *name, *file, *plan;
	uint32_t stages;
} Planned;

/* Bytes that lines "... send|recv FROM TO CHANNEL calls C bytes B" of the manifest list for every rank of a line, summed. */
static long long
messages(const char *traffic, const char *way)
{
	long long sum = 0;
	for (const char *s = traffic; s; s = strchr(s, '\n') ? strchr(s, '\n') + 1 : NULL) {
		char kind[32];
		int first, last, n = 0;
		long long calls, bytes;
		if (sscanf(s, "stage %*d ranks %d-%d %31s %*d %*d %*d calls %lld bytes %lld%n",
			   &first, &last, kind, &calls, &bytes, &n) == 5 &&
		    n && strcmp(kind, way) == 0)
			sum += bytes * (last - first + 1);
	}
	return sum;
}

static void
stages(const Planned *x)
{
	const Case plain = {.name = x->name, .file = x->file};
	Ctx c = new_ctx();
	const char *plan = text(&c, "%s/plan", folder), *dir = text(&c, "%s/stages", folder);
	const CgOptions o = {.dir = dir, .runtime_dir = "runtime"};
	size_t n;
	clear(&c, dir);
	check(file_write(plan, x->plan, strlen(x->plan)), x->name, "has no plan");
	c.plan_path = plan;
	Module *m = lower(&c, &plain);
	check(m && m->plan.nstages == x->stages, x->name, "does not reach level mem");
	check(m && cg_emit(&c, m, &o), x->name, "is not emitted");
	for (uint32_t k = 0; m && k < x->stages; k++) {
		Buf again, path;
		buf_init(&again, c.perm);
		buf_init(&path, c.perm);
		buf_printf(&path, "%s/src/stage_%u.c", dir, k);
		const char *s = file_read(c.perm, path.s, (size_t)1 << 24, &n);
		check(s && cg_program(&c, m, k, &again) && again.n == n &&
			  memcmp(again.s, s, n) == 0,
		      x->name, "emitted twice, different bytes");
		check(
		    run(text(&c,
			     "${CC:-gcc} -std=gnu11 -fopenmp -Wall -Wextra -Werror -DGVRT_F64 "
			     "-Iruntime -fsyntax-only '%s'",
			     path.s)) == 0,
		    x->name, "a stage does not compile");
	}
	const char *traffic =
	    file_read(c.perm, text(&c, "%s/src/traffic", dir), (size_t)1 << 20, &n);
	check(traffic != NULL, x->name, "there is no manifest of traffic");
	if (traffic) {
		check(messages(traffic, "send") == messages(traffic, "recv"), x->name,
		      "what is sent is not what is received");
		check((messages(traffic, "send") > 0) == (x->stages > 1), x->name,
		      "messages are not those of stages");
	}

	c.plan_path = NULL; /* one rank in the same folder: the stages of before go */
	m = lower(&c, &plain);
	check(m && cg_emit(&c, m, &o), x->name, "is not emitted for one rank");
	check(!exists(&c, dir, "src/stage_1.c") && !exists(&c, dir, "src/traffic"), x->name,
	      "files of more ranks are still there");
	free_ctx(&c);
}

int
main(void)
{
	static const Planned plans[] = {
	    {"tensor parallel", "tests/models/gpt.gdl",
	     "plan 1\nmodel gpt\nranks 2 microbatches 2 schedule 1f1b\nmesh m1 = tp:2\n"
	     "stage 0 layers 0-4 ranks 0-1\nlayers 0-4 mesh m1 zero 0 recompute selective\n",
	     1},
	    {"data parallel", "tests/models/llama.gdl",
	     "plan 1\nmodel llama\nranks 3 microbatches 1 schedule 1f1b\nmesh m1 = dp:3\n"
	     "stage 0 layers 0-4 ranks 0-2\nlayers 0-4 mesh m1 zero 3 recompute full\n",
	     1},
	    {"stages", "tests/models/gpt.gdl",
	     "plan 1\nmodel gpt\nranks 7 microbatches 3 schedule 1f1b\nmesh m1 = dp:2\n"
	     "mesh m2 = tp:2 dp:2\nstage 0 layers 0-1 ranks 0-1\nstage 1 layers 2-3 ranks 2-5\n"
	     "stage 2 layers 4 ranks 6\nlayers 0-1 mesh m1 zero 2 recompute none\n"
	     "layers 2-3 mesh m2 zero 1 recompute none\nlayers 4 mesh m0 zero 0 recompute "
	     "none\n",
	     3},
	};
	static const Case cases[] = {
	    {.name = "odd", .file = "tests/codegen/odd.gdl", .tolerance = 1e-10},
	    {.name = "mlp", .file = "tests/codegen/mlp.gdl", .tolerance = 1e-10},
	    {.name = "mlp in microbatches",
	     .file = "tests/codegen/mlp.gdl",
	     .microbatches = 2,
	     .tolerance = 1e-10},
	    {.name = "gpt",
	     .file = "tests/models/gpt.gdl",
	     .microbatches = 3,
	     .tolerance = 1e-10},
	    {.name = "llama",
	     .file = "tests/models/llama.gdl",
	     .recompute = RC_full,
	     .tolerance = 1e-10},
	    {.name = "gpt2",
	     .file = "models/gpt2.gdl",
	     .microbatches = 2,
	     .recompute = RC_selective,
	     .tolerance = 1e-10,
	     .set = {"batch=4", "seq=9", "vocab=50", "embed=24", "heads=3", "layers=3"}},
	    {.name = "bert",
	     .file = "models/bert.gdl",
	     .tolerance = 1e-10,
	     .set = {"batch=2", "seq=8", "vocab=100", "embed=24", "heads=3", "layers=2",
		     "pick=3"}},
	    {.name = "vit",
	     .file = "models/vit.gdl",
	     .tolerance = 1e-10,
	     .set = {"batch=2", "height=8", "width=8", "py=4", "px=4", "class=10", "embed=24",
		     "heads=3", "layers=2"}},
	    {.name = "swin",
	     .file = "models/swin.gdl",
	     .tolerance = 1e-10,
	     .set = {"batch=2", "height=32", "width=32", "py=2", "px=2", "class=10", "c1=8",
		     "n1=1", "n2=2", "n3=2", "n4=4", "window_size=2"}},
	    {.name = "sums down columns that take over an operand",
	     .file = "tests/models/zoo/mamba.gdl",
	     .recompute = RC_selective,
	     .tolerance = 1e-10},
	    {.name = "attention", .file = "tests/codegen/attention.gdl", .tolerance = 1e-10},
	    {.name = "attention in microbatches",
	     .file = "tests/codegen/attention.gdl",
	     .microbatches = 2,
	     .tolerance = 1e-10},
	    {.name = "mixtral",
	     .file = "models/mixtral.gdl",
	     .tolerance = 1e-10,
	     .set = {"batch=2", "seq=6", "vocab=100", "embed=16", "kv=2", "group=2", "head=4",
		     "ffn=24", "expert=4", "layers=2"}},
	    {.name = "t5",
	     .file = "models/t5.gdl",
	     .tolerance = 1e-10,
	     .set = {"batch=2", "seq=6", "source=7", "vocab=100", "embed=24", "heads=3",
		     "head=8", "ffn=40", "bucket=8", "layers=2"}},
	};
	if (!mkdtemp(folder)) {
		perror(folder);
		return 1;
	}
	folders();
	hostile();
	for (size_t k = 0; k < COUNTOF(plans); k++)
		stages(&plans[k]);
	for (size_t k = 0; k < COUNTOF(cases); k++)
		numerics(&cases[k]);
	Ctx c = new_ctx();
	clear(&c, folder);
	free_ctx(&c);
	printf("codegen: %d checks %s\n", checks, failures ? "FAILED" : "ok");
	return failures != 0;
}
