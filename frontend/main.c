/*
 * main.c - the driver, and the only file that knows all four parts of the compiler. Read this first:
 *
 *   load     GDL through the front end, or a dump of any level
 *   passes   graph -> train -> plan -> spmd -> sched -> mem (passes/pipeline.c holds the list)
 *   codegen  one C source per stage, a Makefile, a manifest
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codegen/codegen.h"
#include "frontend/check.h"
#include "frontend/evaluate.h"
#include "frontend/frontend.h"
#include "frontend/import.h"
#include "frontend/options.h"
#include "frontend/sweep.h"
#include "ir/cluster.h"
#include "ir/galvatron.h"
#include "ir/ir.h"
#include "passes/imported.h"
#include "passes/measure.h"
#include "passes/passes.h"
#include "passes/report.h"
#include "passes/solve_file.h"
#include "passes/simulate.h"

#ifndef GV_VERSION
#define GV_VERSION "0.1"
#endif

enum { MOST_RANKS = 1 << 20 };

static int
bad_value(const char *option, const char *value, const char *known)
{
	fprintf(stderr, "galvatronc: %s=%s: expected %s\n", option, value, known);
	return 2;
}

/* Options that passes need, checked. Returns -1 to go on, else the exit status. */
static int
fill_ctx(Ctx *c, const Options *o)
{
	int64_t n;
	if (o->precision) {
		c->precision = dtype_parse(o->precision);
		if (!dtype_float(c->precision))
			return bad_value("--precision", o->precision, "f32, f64 or bf16");
	}
	if (o->recompute) {
		int k = 0;
		while (k < 3 && strcmp(recompute_str[k], o->recompute) != 0)
			k++;
		if (k == 3)
			return bad_value("--recompute", o->recompute,
					 "none, selective or full");
		c->recompute = (Recompute)k;
		c->recompute_given = true;
	}
	if (o->microbatches) {
		if (!parse_whole(o->microbatches, 1, 1 << 30, &n))
			return bad_value("--microbatches", o->microbatches,
					 "a whole number from 1");
		c->microbatches = (uint32_t)n;
	}
	if (o->threads) {
		if (!parse_whole(o->threads, 1, 4096, &n))
			return bad_value("--threads", o->threads,
					 "a whole number from 1 to 4096");
		c->threads = (uint32_t)n;
	}
	if (o->ranks && strcmp(o->ranks, "auto") == 0) {
		c->ranks_auto = true;
	} else if (o->ranks) {
		if (!parse_whole(o->ranks, 1, MOST_RANKS, &n))
			return bad_value("--ranks", o->ranks,
					 "auto or a whole number from 1 to 1048576");
		c->ranks = (uint32_t)n;
	}
	if (o->max_tp) {
		if (!parse_whole(o->max_tp, 1, MOST_RANKS, &n))
			return bad_value("--max-tp", o->max_tp, "a whole number from 1");
		c->max_tp = (uint32_t)n;
	}
	if (o->max_zero) {
		if (!parse_whole(o->max_zero, 0, 3, &n))
			return bad_value("--max-zero", o->max_zero,
					 "a whole number from 0 to 3");
		c->max_zero = (uint8_t)(n + 1);
	}
	if (o->stages) {
		if (!parse_whole(o->stages, 1, MOST_RANKS, &n))
			return bad_value("--stages", o->stages, "a whole number from 1");
		c->stages = (uint32_t)n;
	}
	if (o->schedule) {
		int k = 0;
		while (k < 2 && strcmp(schedule_str[k], o->schedule) != 0)
			k++;
		if (k == 2) return bad_value("--schedule", o->schedule, "gpipe or 1f1b");
		c->schedule = (Schedule)k;
		c->schedule_given = true;
	}
	if (o->memory && !parse_bytes(o->memory, &c->memory_bytes))
		return bad_value("--memory", o->memory, "a size such as 512M, 2.5GiB or 80GB");
	if (o->target && strcmp(o->target, "host") != 0 && strcmp(o->target, "cuda") != 0)
		return bad_value("--target", o->target, "host or cuda");
	c->forward_only = o->forward;
	c->plan_path = o->plan;
	return -1;
}

/* The text of a file, registered for diagnostics; NULL after one. */
static const char *
read_source(Ctx *c, const char *path, size_t most, Name *file, size_t *n)
{
	const char *text = file_read(c->perm, path, most, n);
	if (!text) {
		diag_error(c->diag, (Loc){0}, "cannot read '%s': %s", path, strerror(errno));
		return NULL;
	}
	*file = name_of(c->names, base_name(path));
	diag_source(c->diag, *file, text, *n);
	return text;
}

/* --cluster and --profile. False after diagnostics. */
static bool
load_machine(Ctx *c, const Options *o)
{
	const size_t most = (size_t)64 << 20;
	const char *text;
	Name file;
	size_t n;
	if (o->cluster) {
		if (!(text = read_source(c, o->cluster, most, &file, &n))) return false;
		const Cluster *x = cluster_parse(c->perm, c->names, c->diag, file, text, n);
		if (!x) return false;
		if (c->ranks > x->devices) {
			diag_error(c->diag, (Loc){0},
				   "--ranks %" PRIu32 " on a cluster of %" PRIu32
				   " device%s (%s)",
				   c->ranks, x->devices, x->devices == 1 ? "" : "s",
				   base_name(o->cluster));
			return false;
		}
		if (!c->ranks && !c->ranks_auto && !c->plan_path)
			c->ranks = x->devices < MOST_RANKS ? x->devices : MOST_RANKS;
		const bool host = cluster_device(x, 0)->target == TG_host;
		if (o->target && host != (strcmp(o->target, "host") == 0)) {
			diag_error(c->diag, (Loc){0},
				   "--target %s on a cluster of %s devices (%s)", o->target,
				   host ? "host" : "cuda", base_name(o->cluster));
			return false;
		}
		c->cluster = x;
	}
	if (o->profile) {
		if (!(text = read_source(c, o->profile, most, &file, &n))) return false;
		c->profile = profile_parse(c->perm, c->names, c->diag, file, text, n);
		if (!c->profile) return false;
	}
	return true;
}

/* What the programs run on: the cluster's devices, else what --target says. */
static bool
on_host(const Ctx *c, const Options *o)
{
	if (c->cluster) return cluster_device(c->cluster, 0)->target == TG_host;
	return !o->target || strcmp(o->target, "host") == 0;
}

/* The module of o->file: elaborated GDL, or a dump. NULL after diagnostics. */
static Module *
load(Ctx *c, const Options *o)
{
	if (!ends_with(o->file, ".gir")) {
		const FeOptions fe = {.path = o->file,
				      .set = (const char *const *)o->set,
				      .nset = o->nset,
				      .precision = c->precision,
				      .host = on_host(c, o)};
		return fe_load(c, &fe);
	}
	size_t n;
	Name file;
	const char *text = read_source(c, o->file, (size_t)1 << 30, &file, &n);
	if (!text) return NULL;
	if (o->nset) {
		diag_error(c->diag, (Loc){0},
			   "--set changes a GDL file; the extents of a dump are fixed");
		return NULL;
	}
	Module *m = ir_parse(c->perm, c->names, c->diag, file, text, n);
	if (!m || !ir_verify(m, c->diag, base_name(o->file))) return NULL;
	Buf why;
	buf_init(&why, c->tmp);
	if (m->level < LV_plan || !c->cluster || cluster_has(c->cluster, &m->plan, &why))
		return m;
	diag_error(c->diag, (Loc){0}, "%s: %s", base_name(o->file), why.s);
	return NULL;
}

/* The level that --emit names; LV_COUNT: it names none, -1: as far as it goes. */
static int
emit_level(const Options *o)
{
	if (!o->emit || strcmp(o->emit, "gir") == 0) return -1;
	if (strcmp(o->emit, "cost") == 0) return LV_mem;
	if (strcmp(o->emit, "plan-ir") == 0 || strcmp(o->emit, "strategy-json") == 0)
		return LV_plan;
	if (strcmp(o->emit, "measure") == 0) return o->plan ? LV_plan : LV_train;
	int level = 0;
	while (level < LV_COUNT && strcmp(level_str[level], o->emit) != 0)
		level++;
	return level;
}

/* Runs what is left to do up to the end, --stop-after or the level of --emit. False after diagnostics. */
static bool
run_passes(Ctx *c, const Options *o, Module **m, int level)
{
	PassOptions po = {.dump = o->dump,
			  .dump_dir = o->dump_dir,
			  .stop_after = o->stop_after,
			  .roundtrip = o->roundtrip,
			  .verify = true,
			  .unproven = o->emit ? strcmp(o->emit, "cost") == 0
					      : !o->out && (o->report || o->explain),
			  .time = o->time,
			  .explain = o->explain != NULL};
	if (level >= 0 && !o->stop_after) {
		if ((int)(*m)->level > level) {
			diag_error(c->diag, (Loc){0}, "'%s' is at level %s, past %s",
				   base_name(o->file), level_str[(*m)->level], o->emit);
			return false;
		}
		size_t n;
		const Pass *passes = pass_list(&n);
		if ((int)(*m)->level == level && ends_with(o->file, ".gir"))
			return true; /* a dump already is what its level holds */
		for (size_t i = 0; i < n; i++)
			if ((int)passes[i].out == level) po.stop_after = passes[i].name;
	}
	return pass_run_all(c, m, &po);
}

/* What a step is predicted to take. */
typedef struct Predicted {
	Price *price;
	SimResult step;
} Predicted;

/* Simulates a step; writes --trace. False after diagnostics. */
static bool
predict(Ctx *c, const Options *o, Module *m, Predicted *out)
{
	if (m->level < LV_mem) {
		diag_error(c->diag, (Loc){0},
			   "--trace takes a program of level mem, this is %s",
			   level_str[m->level]);
		return false;
	}
	out->step = sim_predict(c, m, o->trace != NULL, c->perm, &out->price);
	if (!o->trace) return true;
	Buf b;
	buf_init(&b, c->tmp);
	sim_trace(m, &out->step, &b);
	if (file_write(o->trace, b.s, b.n)) return true;
	diag_error(c->diag, (Loc){0}, "cannot write %s: %s", o->trace, strerror(errno));
	return false;
}

static void
print_cost(Ctx *c, const Module *m, const Predicted *x)
{
	Buf b;
	buf_init(&b, c->tmp);
	sim_cost(m, &x->step, x->price, &b);
	fwrite(b.s, 1, b.n, stdout);
}

static void
print_summary(const Ctx *c, const Module *m, const char *dir, const Predicted *x)
{
	Buf b;
	buf_init(&b, c->tmp);
	buf_puts(&b, name_str(m->names, m->model));
	buf_puts(&b, ": ");
	buf_count(&b, ir_param_count(m));
	buf_puts(&b, " parameters\n");
	if (c->bf16_as_f32)
		buf_puts(&b, "note    the model says bf16; on the host that is f32\n");
	if (c->why) buf_printf(&b, "ranks   a step is predicted to take %s\n", c->why);
	plan_summary(m, &b);
	sim_summary(m, &x->step, x->price, &b);
	if (m->plan.ranks > 1)
		buf_printf(&b, "now:  make -C %s && mpirun -np %" PRIu32 " %s/stage_* --help\n",
			   dir, m->plan.ranks, dir);
	else
		buf_printf(&b, "now:  make -C %s && %s/stage_0 --help\n", dir, dir);
	fputs(b.s, stdout);
}

/* galvatronc eval. Returns the exit status. */
static int
interpret(Ctx *c, const Options *o, const Module *m)
{
	int64_t steps = 1, seed = (int64_t)m->train.seed, order = 0;
	if (o->steps && !parse_whole(o->steps, 1, 1000000, &steps))
		return bad_value("--steps", o->steps, "a whole number from 1");
	if (o->seed && !parse_whole(o->seed, 0, INT64_MAX, &seed))
		return bad_value("--seed", o->seed, "a whole number from 0");
	if (o->order && !parse_whole(o->order, 0, UINT32_MAX, &order))
		return bad_value("--order", o->order, "a whole number from 0");
	const EvalOptions eo = {
	    .f64 = m->train.precision == DT_f64 || c->precision == DT_f64,
	    .seed = (uint64_t)seed,
	    .train = true,
	    .ranks = m->level >= LV_plan ? m->plan.ranks : 1,
	    .adversarial = o->order != NULL,
	    .order_seed = (uint32_t)order,
	};
	return evaluate(c, m, &eo, o->data, steps) ? 0 : 1;
}

static bool
passes_to(Ctx *c, Module **m, const char *pass)
{
	return pass_run_all(c, m, &(PassOptions){.stop_after = pass, .verify = true});
}

static bool
check_train(Ctx *c, Module **m)
{
	return passes_to(c, m, "optimizer");
}

static bool
check_rest(Ctx *c, Module **m, bool to_memory)
{
	return passes_to(c, m, to_memory ? NULL : "spmd");
}

/* galvatronc check: m is at level plan. Returns the exit status. */
static int
check(Ctx *c, const Options *o, const Module *m)
{
	static const CheckPasses passes = {check_train, check_rest};
	const FeOptions fe = {.path = o->file,
			      .set = (const char *const *)o->set,
			      .nset = o->nset,
			      .host = on_host(c, o)};
	return check_plan(c, m, &fe, &passes, o->explain != NULL);
}

/* --emit=strategy-json. Returns the exit status. */
static int
emit_strategy(Ctx *c, const Module *m)
{
	Buf b;
	GalPlan p;
	if (!gal_plan_of(m, c->diag, c->tmp, &p)) return 1;
	buf_init(&b, c->tmp);
	gal_plan_print(&p, &b);
	fwrite(b.s, 1, b.n, stdout);
	return 0;
}

/* galvatronc import: a .hw, or a plan from layer costs. Returns the exit status. */
static int
import(Ctx *c, const Options *o)
{
	Imported in;
	ImportFound found;
	Buf text, summary;
	int status = import_read(c, o, &in);
	c->explain = o->explain != NULL;
	if (status >= 0) return status;
	buf_init(&text, c->perm);
	if (in.profile) {
		profile_print(in.profile, c->names, &text);
		return import_write(o, &text);
	}
	if (!in.plans) {
		cluster_print(in.cluster, c->names, &text);
		return import_write(o, &text);
	}
	const bool json = o->emit && strcmp(o->emit, "strategy-json") == 0;
	if (o->emit && !json) return bad_value("--emit", o->emit, "strategy-json");
	const ImportAsk ask = {.layers = in.layers,
			       .ntypes = in.ntypes,
			       .batch = in.batch,
			       .hidden = in.hidden,
			       .seq = in.seq};
	if (!imported_plan(c, in.files, in.cluster, &ask, &found)) return 1;
	buf_init(&summary, c->perm);
	imported_summary(&found, &summary);
	if (!o->quiet && (!json || o->out)) fputs(summary.s, stdout);
	if (!json && !o->out) return 0;
	gal_plan_print(&found.plan, &text);
	return import_write(o, &text);
}

/* What a rank may use, if nobody says: as the plan pass has it. */
static int64_t
memory_of_rank(const Ctx *c, const Module *m)
{
	if (c->memory_bytes > 0 || c->cluster) return INT64_MAX; /* the search refused */
	const uint32_t cores = price_cores(), ranks = m->plan.ranks;
	return (int64_t)sysconf(_SC_PHYS_PAGES) / 10 * 8 * (int64_t)sysconf(_SC_PAGESIZE) /
	       (ranks < cores ? ranks : cores);
}

/* A value of --sweep: the model, planned and laid out; no proof of what will be compiled again. */
static const Module *
plan_value(Ctx *c, const Options *o, int64_t *ns, int64_t *bytes, int64_t *limit)
{
	Price *price;
	Module *m = load(c, o);
	if (!m || !pass_run_all(c, &m, &(PassOptions){.verify = true, .unproven = true}))
		return NULL;
	*ns = sim_predict(c, m, false, c->perm, &price).step;
	*bytes = m->plan.memory > 0 ? m->plan.memory : layout_arena(m);
	*limit = memory_of_rank(c, m);
	return m;
}

/* --explain, --report. `model` is m at level plan; m itself stays at its level. False after diagnostics. */
static bool
tell(Ctx *c, const Options *o, const Module *m, const Module *model)
{
	Module *whole = ir_clone(m, c->perm);
	if (m->level < LV_mem &&
	    !pass_run_all(c, &whole, &(PassOptions){.verify = true, .unproven = true}))
		return false;
	Facts *f = facts_new(c, whole, model, c->log, c->perm);
	if (o->report || !*o->explain || strcmp(o->explain, "all") == 0)
		f->worth = explain_worth(f);
	if (o->explain) {
		Buf b;
		buf_init(&b, c->perm);
		if (!explain_print(f, o->explain, &b)) return false;
		fputs(b.s, stdout);
	}
	return !o->report || report_write(f, o->report);
}

/* As run_passes; with something to tell, keeps the module at level plan as well. */
static bool
run_and_tell(Ctx *c, const Options *o, Module **m, int level)
{
	Module *model = NULL;
	const bool asked = (o->report || o->explain) && o->command == CMD_compile;
	if (asked && !o->stop_after && (level < 0 || level >= LV_plan) &&
	    (*m)->level <= LV_plan) {
		if (!run_passes(c, o, m, LV_plan)) return false;
		model = ir_clone(*m, c->perm);
	}
	if (level != LV_plan || !model)
		if (!run_passes(c, o, m, level)) return false;
	return !asked || (*m)->level < LV_plan || tell(c, o, *m, model);
}

/* The plan of a file, checked against the model. False after diagnostics. */
static bool
given_plan(Ctx *c, const Module *m, const char *path, Plan *out)
{
	Ctx with = *c;
	Module *x = ir_clone(m, c->perm);
	with.plan_path = path;
	if (!pass_plan(&with, x)) return false;
	*out = x->plan;
	return true;
}

/* galvatronc diff. Returns the exit status. */
static int
compare(Ctx *c, Options *o)
{
	Diff d;
	Plan plan[2];
	Buf b;
	if (!o->file && !(o->file = diff_model(c, o->files[0]))) return 1;
	c->plan_path = o->files[0]; /* how many ranks there are, a plan says */
	Module *m = load_machine(c, o) ? load(c, o) : NULL;
	if (!m || !passes_to(c, &m, "optimizer")) return 1;
	for (int i = 0; i < 2; i++)
		if (!given_plan(c, m, o->files[i], &plan[i])) return 1;
	if (!diff_plans(c, m, &plan[0], &plan[1], c->perm, &d)) return 1;
	buf_init(&b, c->perm);
	diff_print(&d, o->files[0], o->files[1], &b);
	fputs(b.s, stdout);
	return 0;
}

/* Loads, runs the passes, and prints, evaluates or emits. Returns the exit status. */
static int
run(Ctx *c, const Options *o)
{
	if (o->emit && strcmp(o->emit, "ast") == 0)
		return fe_dump_ast(c, o->file, stdout) ? 0 : 1;
	const int level = o->command == CMD_check ? LV_plan : emit_level(o);
	if (o->command == CMD_check && ends_with(o->file, ".gir")) {
		fputs("galvatronc: check makes the model smaller, which takes its GDL file\n",
		      stderr);
		return 2;
	}
	if (level == LV_COUNT)
		return bad_value(
		    "--emit", o->emit,
		    "ast, graph, train, plan, plan-ir, strategy-json, measure, spmd, sched, "
		    "mem, gir or cost");
	if (!o->emit && !o->out && !o->trace && !o->sweep && !o->report && !o->explain &&
	    o->command == CMD_compile && !o->stop_after) {
		fprintf(stderr, "galvatronc: where to? -o DIR writes the programs, "
				"--emit=plan or --emit=LEVEL prints one\n");
		return 2;
	}
	if (!load_machine(c, o)) return 1;
	Options swept = *o;
	if (o->sweep) {
		const int status = sweep(c, &swept, plan_value);
		if (status >= 0) return status;
		if (!o->out && !o->emit && !o->trace) return 0;
		o = &swept;
	}
	Module *m = load(c, o);
	if (!m) return 1;
	if (o->shorten) {
		if (m->level > LV_train) {
			diag_error(c->diag, (Loc){0}, "--short: '%s' has a plan already",
				   base_name(o->file));
			return 1;
		}
		if (!passes_to(c, &m, "optimizer")) return 1;
		m = measure_short(c, m);
	}
	if (!run_and_tell(c, o, &m, level)) return 1;
	if (o->command == CMD_eval) return interpret(c, o, m);
	if (o->command == CMD_check) return check(c, o, m);
	if (o->emit && strcmp(o->emit, "strategy-json") == 0) return emit_strategy(c, m);
	Predicted x;
	const bool cost = o->emit && strcmp(o->emit, "cost") == 0;
	if ((cost || o->trace) && !predict(c, o, m, &x)) return 1;
	if (cost) {
		print_cost(c, m, &x);
		return 0;
	}
	if (o->emit) {
		Buf b;
		buf_init(&b, c->tmp);
		if (strcmp(o->emit, "plan") == 0)
			plan_print(m, &b);
		else if (strcmp(o->emit, "measure") != 0)
			ir_print(m, &b);
		else if (!measure_print(c, m, &b))
			return 1;
		fwrite(b.s, 1, b.n, stdout);
		return 0;
	}
	if (!o->out) return 0;                                 /* --stop-after alone */
	if (!on_host(c, o) || m->train.precision == DT_bf16) { /* a dump may hold bf16 */
		diag_error(c->diag, (Loc){0},
			   "emitting CUDA programs is not in this release; --emit=plan, "
			   "--explain, --report work");
		return 1;
	}
	const CgOptions cg = {.dir = o->out, .metered = o->instrument};
	if (!cg_emit(c, m, &cg)) return 1;
	if (o->quiet) return 0;
	if (!o->trace && !predict(c, o, m, &x)) return 1;
	print_summary(c, m, o->out, &x);
	return 0;
}

int
main(int argc, char **argv)
{
	Options o = {0};
	int status = options_parse(&o, argc, argv);
	if (status >= 0) return status;
	if (o.help) {
		options_help(stdout);
		return 0;
	}
	if (o.version) {
		puts("galvatronc " GV_VERSION);
		return 0;
	}
	if (o.solve) return solve_file(o.solve);
	if (o.print_passes) {
		pass_print_list(stdout);
		return 0;
	}
	Ctx c = {.perm = arena_new(), .tmp = arena_new()};
	c.names = names_new(c.perm);
	c.diag = diag_new(c.perm, c.names, stderr);
	status = fill_ctx(&c, &o);
	if (status < 0)
		status = o.command == CMD_import ? import(&c, &o)
			 : o.command == CMD_diff ? compare(&c, &o)
						 : run(&c, &o);
	if (fflush(stdout) != 0 && status == 0) {
		fprintf(stderr, "galvatronc: writing the output: %s\n", strerror(errno));
		status = 1;
	}
	arena_free(c.tmp);
	arena_free(c.perm);
	return status;
}
