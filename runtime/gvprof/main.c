/*
 * main.c - gvprof: measures the machine at hand, and the kernels that plans for a model need on it.
 *
 *   gvprof MODEL.gdl --ranks 2 -o machine      writes machine.hw and machine.prof, for galvatronc --cluster, --profile
 *
 * What was measured before, by the same programs on the same processor, is kept; a run that is interrupted is gone on with.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gvprof.h"

static const Target targets[] = {
    {"host", host_kernels, host_machine},
};

/* ---- the command line ---- */

typedef struct Row {
	const char *name, *arg, *help;
} Row;

static const Row rows[] = {
    {"-o", "NAME", "writes NAME.hw and NAME.prof; of several counts of ranks, NAME-1.hw, ..."},
    {"--ranks", "N,..", "ranks side by side (default: as many as cores)"},
    {"--threads", "N", "threads of each (default: its share of the cores)"},
    {"--set", "NAME=VALUE", "as galvatronc's; may be repeated"},
    {"--precision", "TYPE", "as galvatronc's"},
    {"--plan", "FILE",
     "measures what this plan needs, in its own program; may be repeated "
     "(default: what any plan needs)"},
    {"--seconds", "S", "of each program's steps (default 2)"},
    {"--transport", "NAME", "window or mpi, between ranks (default: the fastest there is)"},
    {"--nodes", "N", "that --mpirun spreads the ranks over, one after the other (default 1)"},
    {"--mpirun", "COMMAND", "starts the ranks: words, before -np N PROGRAM"},
    {"--galvatronc", "FILE", "the compiler (default: the one beside gvprof)"},
    {"--target", "NAME", "host; the default"},
    {"--machine", NULL, "the machine alone: NAME.hw"},
    {"--again", NULL, "measures all anew"},
    {"--keep", NULL, "leaves the programs in NAME.work"},
    {"--quiet", NULL, "no progress"},
    {"--help", NULL, "this text"},
};

static void
help(void)
{
	printf("usage: gvprof MODEL.gdl -o NAME [options]\n\n"
	       "Measures this machine and the kernels that plans for the model need on it.\n\n"
	       "options:\n");
	for (size_t k = 0; k < GP_COUNTOF(rows); k++)
		printf("  %-22s %s\n",
		       text("%s%s%s", rows[k].name,
			    rows[k].arg ? "=" + (rows[k].name[1] != '-') : "",
			    rows[k].arg ? rows[k].arg : ""),
		       rows[k].help);
}

static _Noreturn void
usage(const char *what, const char *arg)
{
	fprintf(stderr, "gvprof: %s '%s'; --help lists what there is\n", what, arg);
	exit(2);
}

typedef struct Args {
	Options o;
	const char *ranks, *threads, *seconds, *nodes, *target;
	bool quiet, help;
} Args;

static int
whole(const char *option, const char *s, int lo, int hi)
{
	char *end;
	long n = strtol(s, &end, 10);
	if (*s < '0' || *s > '9' || (*end && *end != ',') || n < lo || n > hi) {
		fprintf(stderr, "gvprof: %s=%s: expected a whole number from %d to %d\n",
			option, s, lo, hi);
		exit(2);
	}
	return (int)n;
}

static void
take(Args *a, const char *name, const char *value)
{
	Options *o = &a->o;
	const struct {
		const char *name;
		const char **at;
	} texts[] = {{"-o", &o->out},
		     {"--ranks", &a->ranks},
		     {"--threads", &a->threads},
		     {"--precision", &o->precision},
		     {"--seconds", &a->seconds},
		     {"--transport", &o->transport},
		     {"--nodes", &a->nodes},
		     {"--mpirun", &o->mpirun},
		     {"--galvatronc", &o->galvatronc},
		     {"--target", &a->target}};
	for (size_t k = 0; k < GP_COUNTOF(texts); k++)
		if (!strcmp(name, texts[k].name)) *texts[k].at = value;
	if (!strcmp(name, "--set") && o->nset == (int)GP_COUNTOF(o->set))
		usage("too many values with", name);
	if (!strcmp(name, "--plan") && o->nplan == (int)GP_COUNTOF(o->plan))
		usage("too many values with", name);
	if (!strcmp(name, "--set")) o->set[o->nset++] = value;
	if (!strcmp(name, "--plan")) o->plan[o->nplan++] = value;
	if (!strcmp(name, "--again")) o->again = true;
	if (!strcmp(name, "--machine")) o->machine_only = true;
	if (!strcmp(name, "--keep")) o->keep = true;
	if (!strcmp(name, "--quiet")) a->quiet = true;
	if (!strcmp(name, "--help")) a->help = true;
}

static void
parse(Args *a, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *eq = strchr(argv[i], '=');
		if (argv[i][0] != '-') {
			if (a->o.model) usage("more than one model:", argv[i]);
			a->o.model = argv[i];
			continue;
		}
		size_t len = eq && argv[i][1] == '-' ? (size_t)(eq - argv[i]) : strlen(argv[i]),
		       k = 0;
		while (k < GP_COUNTOF(rows) && (strlen(rows[k].name) != len ||
						strncmp(rows[k].name, argv[i], len) != 0))
			k++;
		if (k == GP_COUNTOF(rows)) usage("unknown option", argv[i]);
		if (!rows[k].arg && eq) usage("no value is taken by", argv[i]);
		if (rows[k].arg && !argv[i][len] && i + 1 == argc)
			usage("a value is missing after", argv[i]);
		take(a, rows[k].name,
		     !rows[k].arg   ? ""
		     : argv[i][len] ? argv[i] + len + 1
				    : argv[++i]);
	}
}

/* ---- commands ---- */

char *
out_path(const Options *o, const char *suffix)
{
	return o->several ? text("%s-%d%s", o->out, o->ranks, suffix)
			  : text("%s%s", o->out, suffix);
}

Command
compiler(const Options *o, const char *log)
{
	Command c = {.log = log};
	add(&c, o->galvatronc);
	return c;
}

Command
launcher(const Options *o)
{
	Command c = {0};
	if (o->ranks == 1) return c;
	for (char *s = text("%s", o->mpirun); *s;) {
		size_t n = strcspn(s, " ");
		if (n) add(&c, text("%.*s", (int)n, s));
		s += n + (s[n] == ' ');
	}
	add(&c, "-np");
	add(&c, text("%d", o->ranks));
	return c;
}

static int
cores(void)
{
	cpu_set_t set;
	return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static void
make_tree(const Options *o, const char *dir, const char *stages)
{
	Command c = {.out = text("%s/make.out", dir), .log = text("%s/make.log", dir)};
	add(&c, "make");
	add(&c, "-s");
	add(&c, text("-j%d", cores()));
	add(&c, "-C");
	add(&c, dir);
	if (stages && o->ranks > 1) add(&c, text("STAGES=%s", stages));
	run(&c, text("building the programs in %s", dir));
}

static void
copy_tree(const char *from, const char *to)
{
	Command c = {0};
	add(&c, "cp");
	add(&c, "-rp");
	add(&c, from);
	add(&c, to);
	run(&c, "cp");
}

void
build(const Options *o, const char *work, const char *dir, const char *stages)
{
	char *shared = text("%s/objects", work), *own = text("%s/obj", dir);
	if (exists(shared) && !exists(own)) copy_tree(shared, own);
	make_tree(o, dir, stages);
	if (exists(shared)) return;
	copy_tree(own, shared);
	for (int k = 0; k < o->ranks; k++)
		remove(text("%s/stage_%d.o", shared, k));
}

void
add_programs(Command *c, const char *dir)
{
	for (int k = 0;; k++) {
		char *path = text("%s/stage_%d", dir, k);
		if (!exists(path)) return;
		add(c, path);
	}
}

/* What Open MPI wants for root, for more ranks than cores, and for ranks that place their own threads. */
static void
environment(const Options *o)
{
	static const char *const set[][2] = {
	    {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
	    {"OMPI_MCA_hwloc_base_binding_policy", "none"},
	    {"PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"},
	    {"PRTE_MCA_hwloc_default_binding_policy", "none"}};
	static const char *const root[] = {
	    "OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
	    "PRTE_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM"};
	for (size_t k = 0; k < GP_COUNTOF(set); k++)
		setenv(set[k][0], set[k][1], 0);
	for (size_t k = 0; k < GP_COUNTOF(root) && getuid() == 0; k++)
		setenv(root[k], "1", 0);
	if (o->transport) setenv("GVRT_TRANSPORT", o->transport, 1);
}

/* The folder that gvprof is in. */
static char *
own_folder(void)
{
	static char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	if (n <= 0) fail("cannot tell where gvprof is");
	path[n] = 0;
	*strrchr(path, '/') = 0;
	return path;
}

static void
measure(Options *o, const Target *t, const char *ranks)
{
	char *work = text("%s.work", o->out);
	bool was_there = exists(work), ours = exists(text("%s/.gvprof", work));
	if (was_there && !ours) fail("%s is there and gvprof did not make it", work);
	make_dir(work);
	lock(text("%s/.gvprof", work));
	for (const char *s = ranks; s; s = strchr(s, ',') ? strchr(s, ',') + 1 : NULL) {
		o->ranks = whole("--ranks", s, 1, 4096);
		int share = cores() * o->nodes / o->ranks;
		o->threads = o->threads_given ? o->threads_given : share > 1 ? share : 1;
		if (o->ranks % o->nodes)
			fail("%d ranks do not divide into %d nodes", o->ranks, o->nodes);
		char *dir = text("%s/%d", work, o->ranks);
		make_dir(dir);
		uint64_t key = machine_key(o, dir);
		t->machine(o, dir, key);
		if (!o->machine_only) t->kernels(o, dir, key);
	}
	if (!o->keep) remove_tree(work);
}

int
main(int argc, char **argv)
{
	Args a = {.o = {.seconds = 2, .nodes = 1}};
	Options *o = &a.o;
	const Target *t = NULL;
	parse(&a, argc, argv);
	if (a.help) {
		help();
		return 0;
	}
	if (!o->model) usage("which model?", "MODEL.gdl");
	if (!o->out) usage("where to?", "-o NAME");
	for (size_t k = 0; k < GP_COUNTOF(targets); k++)
		if (!a.target || !strcmp(a.target, targets[k].name)) t = &targets[k];
	if (!t) {
		fprintf(stderr, "gvprof: --target=%s: expected host\n", a.target);
		return 2;
	}
	if (a.threads) o->threads_given = whole("--threads", a.threads, 1, 4096);
	if (a.nodes) o->nodes = whole("--nodes", a.nodes, 1, 4096);
	if (a.seconds) o->seconds = strtod(a.seconds, NULL);
	if (!(o->seconds > 0 && o->seconds < 1e6))
		usage("--seconds takes a time, not", a.seconds);
	if (!o->galvatronc) o->galvatronc = text("%s/galvatronc", own_folder());
	if (!o->mpirun) o->mpirun = "mpirun";
	o->mpirun_program = text("%.*s", (int)strcspn(o->mpirun, " "), o->mpirun);
	if (a.quiet) say_nothing();
	environment(o);
	o->several = a.ranks && strchr(a.ranks, ',');
	measure(o, t, a.ranks ? a.ranks : text("%d", cores()));
	return 0;
}
