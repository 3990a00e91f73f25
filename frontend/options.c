/*
 * options.c - the command line: one table of options, from which parsing, --help and the checks come.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/options.h"

/* OPT_may: the value may be left out, and is joined by '=' if it is there. */
typedef enum OptType { OPT_flag, OPT_text, OPT_list, OPT_may } OptType;

typedef struct OptDef {
	const char *name, *arg; /* arg NULL: a flag */
	OptType type;
	size_t at; /* in Options */
	const char *help;
} OptDef;

#define TEXT(field) OPT_text, offsetof(Options, field)
#define FLAG(field) OPT_flag, offsetof(Options, field)

static const OptDef defs[] = {
    {"-o", "DIR", TEXT(out),
     "write the programs there: DIR/Makefile, DIR/src, and after make DIR/stage_*"},
    {"--target", "NAME", TEXT(target),
     "host (C, BLAS, OpenMP; the default) or cuda (plans only); with --cluster, its devices'"},
    {"--set", "NAME=VALUE", OPT_list, offsetof(Options, set),
     "set a top-level axis or number; may be repeated"},
    {"--sweep", "NAME=A..B", TEXT(sweep),
     "plan for every value of an axis or number (A..B:STEP; at most 32) and take the best"},
    {"--precision", "TYPE", TEXT(precision),
     "f32, f64 or bf16, over the model's own; bf16 means f32 on the host"},
    {"--microbatches", "N", TEXT(microbatches),
     "split the batch of a step in N; default: the fewest that fit"},
    {"--recompute", "MODE", TEXT(recompute),
     "none, selective or full; default: the least that fits"},
    {"--memory", "BYTES", TEXT(memory),
     "a rank's memory, as in 512M or 16GiB; default: its share of 80 % of this machine's"},
    {"--ranks", "N", TEXT(ranks),
     "plan for N ranks; auto: as many of this machine's cores as pay; default: 1"},
    {"--schedule", "NAME", TEXT(schedule),
     "gpipe or 1f1b, the order of microbatches in a pipeline; default: 1f1b"},
    {"--max-tp", "N", TEXT(max_tp),
     "no layer split over more than N ranks by tensor parallelism"},
    {"--max-zero", "N", TEXT(max_zero), "no ZeRO above level N (0 to 3)"},
    {"--stages", "N", TEXT(stages), "so many stages of a pipeline; default: as many as pay"},
    {"--threads", "N", TEXT(threads), "threads of one rank; default: all the cores it may use"},
    {"--forward", NULL, FLAG(forward),
     "a program without gradients: validation loss and sampling only"},
    {"--solve", "FILE", TEXT(solve),
     "solve a table of layers x strategies by itself and print the best plan; see "
     "passes/README.md"},
    {"--plan", "FILE", TEXT(plan),
     "use this plan (or strategy of Galvatron's), checked, instead of searching for one"},
    {"--cluster", "FILE", TEXT(cluster),
     "plan for the machine this .hw file describes, all of its devices unless --ranks; "
     "default: "
     "this machine, by a roofline"},
    {"--profile", "FILE", TEXT(profile),
     "take the times of kernels from this .prof file where it has them"},
    {"--instrument", NULL, FLAG(instrument),
     "programs that time their kernels; gvprof asks for it"},
    {"--short", NULL, FLAG(shorten), "leave out layers between like ones: for profiles"},
    {"--emit", "WHAT", TEXT(emit),
     "print ast, plan (a file for --plan), strategy-json (the plan as Galvatron writes "
     "it), measure (plans that gvprof runs), the program at level graph, train, plan-ir, "
     "spmd, sched, mem or gir (as far as it went), or cost (what a step is predicted to "
     "take), and stop"},
    {"--trace", "FILE", TEXT(trace),
     "write a simulated step there, a Chrome trace (JSON) of every stage"},
    {"--stop-after", "PASS", TEXT(stop_after), "stop there; with --emit=gir print the module"},
    {"-d", "PASS,..", TEXT(dump),
     "print the module after these passes (all: every one) on stderr"},
    {"--dump-dir", "DIR", TEXT(dump_dir), "write DIR/NN-pass.gir after every pass"},
    {"--roundtrip", NULL, FLAG(roundtrip),
     "print, parse and go on with the re-read module after every pass"},
    {"--time", NULL, FLAG(time), "time and memory of every pass on stderr"},
    {"--print-passes", NULL, FLAG(print_passes), "list the passes and their levels"},
    {"--explain", "WHAT", OPT_may, offsetof(Options, explain),
     "say why the plan is as it is; all: every branch; LAYER: its other strategies; "
     "LAYER:tp=4,zero=3: what that would cost"},
    {"--report", "FILE", TEXT(report),
     "write the plan, its step and what else was tried as one page of HTML"},
    {"--quiet", NULL, FLAG(quiet), "no summary"},
    {"--data", "FILE", TEXT(data),
     "eval: a text whose bytes are the tokens; default: inputs drawn from the seed"},
    {"--steps", "N", TEXT(steps), "eval: training steps; default 1"},
    {"--seed", "N", TEXT(seed), "eval: over the model's own"},
    {"--order", "N", TEXT(order),
     "eval: an adversarial order of ranks and messages, drawn from N"},
    {"--device", "KIND", TEXT(device),
     "import: the machine's devices: a .hw file that has one kind, or its lines, ';' between"},
    {"--layers", "N,..", TEXT(layers), "import: plan a model of N layers (of each layer type)"},
    {"--batch", "N", TEXT(batch), "import: ... with N samples a step"},
    {"--hidden", "N", TEXT(hidden),
     "import: ... between whose layers N numbers a position pass"},
    {"--seq", "N", TEXT(seq), "import: ... of N positions; default: those measured"},
    {"--map", "LAYER=TYPE,..", TEXT(map),
     "import: a .prof of measured layers, by the names they have in a model: "
     "block=layertype_0"},
    {"--help", NULL, FLAG(help), "this text"},
    {"--version", NULL, FLAG(version), "the version"},
};

void
options_help(FILE *f)
{
	fputs("usage: galvatronc FILE.gdl -o DIR [options]     plan and emit the training "
	      "programs\n"
	      "       galvatronc FILE.gdl --emit=LEVEL         print the program at a level\n"
	      "       galvatronc FILE.gir ...                  go on from a dump of any level\n"
	      "       galvatronc eval FILE [options]           run it in the "
	      "interpreter\n"
	      "       galvatronc check FILE.gdl --plan P       a small copy under the plan "
	      "against one rank\n"
	      "       galvatronc import FILE.json ... -o F.hw  a machine that Galvatron "
	      "measured\n"
	      "       galvatronc import FILE.json ... --layers=N --batch=N   a plan from its "
	      "layers' costs\n"
	      "       galvatronc diff [FILE.gdl] A.plan B.plan what differs, and what each "
	      "difference costs\n"
	      "       galvatronc --solve FILE                  the search alone, on a table"
	      "\n\noptions:\n",
	      f);
	for (size_t i = 0; i < COUNTOF(defs); i++) {
		char left[40];
		const bool may = defs[i].type == OPT_may;
		snprintf(left, sizeof left, "%s%s%s%s", defs[i].name,
			 !defs[i].arg             ? ""
			 : may                    ? "[="
			 : defs[i].name[1] == '-' ? "="
						  : " ",
			 defs[i].arg ? defs[i].arg : "", may ? "]" : "");
		fprintf(f, "  %-22s %s\n", left, defs[i].help);
	}
}

static const OptDef *
find(const char *arg, size_t len)
{
	for (size_t i = 0; i < COUNTOF(defs); i++)
		if (strlen(defs[i].name) == len && memcmp(defs[i].name, arg, len) == 0)
			return &defs[i];
	return NULL;
}

static int
usage(const char *what, const char *arg)
{
	fprintf(stderr, "galvatronc: %s '%s'; --help lists what there is\n", what, arg);
	return 2;
}

static int
store(Options *o, const OptDef *d, const char *value)
{
	if (d->type == OPT_list) {
		if (o->nset == (int)COUNTOF(o->set))
			return usage("more than 64 values with", d->name);
		o->set[o->nset++] = value;
	} else {
		const char **at = (const char **)((char *)o + d->at);
		if (*at) return usage("given twice:", d->name);
		*at = value;
	}
	return -1;
}

/* The model's file may stand before the two plans: then o->file is that, else NULL. */
static int
diff_files(Options *o)
{
	if (o->nfiles != 2 && o->nfiles != 3) {
		fputs("galvatronc: diff compares two plans: galvatronc diff [MODEL.gdl] A.plan "
		      "B.plan\n",
		      stderr);
		return 2;
	}
	o->file = o->nfiles == 3 ? o->files[0] : NULL;
	if (o->nfiles == 3) {
		o->files[0] = o->files[1];
		o->files[1] = o->files[2];
	}
	return -1;
}

int
options_parse(Options *o, int argc, char **argv)
{
	int status;
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i], *eq = strchr(arg, '=');
		if (arg[0] != '-' || !arg[1]) {
			if (i == 1 && strcmp(arg, "eval") == 0)
				o->command = CMD_eval;
			else if (i == 1 && strcmp(arg, "check") == 0)
				o->command = CMD_check;
			else if (i == 1 && strcmp(arg, "import") == 0)
				o->command = CMD_import;
			else if (i == 1 && strcmp(arg, "diff") == 0)
				o->command = CMD_diff;
			else if (o->command >= CMD_import && o->nfiles == COUNTOF(o->files))
				return usage("more than 64 files:", arg);
			else if (o->command >= CMD_import)
				o->file = o->files[o->nfiles++] = arg;
			else if (o->file)
				return usage("more than one file:", arg);
			else
				o->file = arg;
			continue;
		}
		const bool joined = eq && arg[1] == '-';
		const OptDef *d = find(arg, joined ? (size_t)(eq - arg) : strlen(arg));
		if (!d) return usage("unknown option", arg);
		if (d->type == OPT_flag) {
			if (joined) return usage("this option takes no value:", arg);
			*(bool *)((char *)o + d->at) = true;
			continue;
		}
		if (d->type == OPT_may) {
			if ((status = store(o, d, joined ? eq + 1 : "")) >= 0) return status;
			continue;
		}
		if (!joined && i + 1 == argc) return usage("a value is missing after", arg);
		if ((status = store(o, d, joined ? eq + 1 : argv[++i])) >= 0) return status;
	}
	if (o->command == CMD_diff && !o->help) return diff_files(o);
	if (o->solve && o->file) return usage("more than one file:", o->file);
	if (!o->file && !o->solve && !o->help && !o->version && !o->print_passes) {
		fputs("galvatronc: no input file; --help shows how\n", stderr);
		return 2;
	}
	return -1;
}

const char *
base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

bool
ends_with(const char *s, const char *end)
{
	const size_t n = strlen(s), k = strlen(end);
	return n >= k && strcmp(s + n - k, end) == 0;
}

bool
parse_whole(const char *s, int64_t lo, int64_t hi, int64_t *value)
{
	char *end;
	errno = 0;
	const long long v = strtoll(s, &end, 10);
	if (errno || end == s || *end || v < lo || v > hi) return false;
	*value = v;
	return true;
}

bool
parse_bytes(const char *s, int64_t *bytes)
{
	static const char units[] = "KMGT";
	char *end;
	const double v = strtod(s, &end);
	double unit = 1;
	if (end == s || !(v > 0)) return false;
	const char *u = *end ? strchr(units, *end) : NULL;
	if (u) {
		const bool decimal =
		    end[1] == 'B'; /* 80GB is 80e9; 80G and 80GiB are 80 * 2^30 */
		unit = pow(decimal ? 1000 : 1024, (double)(u - units + 1));
		end += decimal ? 2 : strncmp(end + 1, "iB", 2) == 0 ? 3 : 1;
	} else if (*end == 'B') {
		end++;
	}
	if (*end || v * unit > 9e18) return false;
	*bytes = (int64_t)(v * unit);
	return true;
}
