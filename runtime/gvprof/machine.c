/*
 * machine.c - the host as a cluster of devices that are its share of the cores: what products, memory and loops reach, and curves of the
 * runtime's own collectives and messages, all ranks at work. rig.c is the program; here it is built, run, and its lines become a .hw.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gvprof.h"

typedef struct Curve {
	char *kind;
	int ranks, stride, n;
	int64_t bytes[32];
	double ns[32];
} Curve;

typedef struct Rig { /* what it printed */
	double flops, bytes, loops, reserved;
	char *blas;
	Curve c[128];
	int ncurves;
} Rig;

static void
curve_point(Rig *x, const char *kind, int ranks, int stride, int64_t bytes, double ns)
{
	int k = 0;
	while (k < x->ncurves && (strcmp(x->c[k].kind, kind) != 0 || x->c[k].ranks != ranks ||
				  x->c[k].stride != stride))
		k++;
	if (k == (int)GP_COUNTOF(x->c)) return;
	if (k == x->ncurves)
		x->c[x->ncurves++] =
		    (Curve){.kind = text("%s", kind), .ranks = ranks, .stride = stride};
	Curve *c = &x->c[k];
	if (c->n == (int)GP_COUNTOF(c->bytes)) return;
	c->bytes[c->n] = bytes;
	c->ns[c->n++] = ns;
	/* what takes longer than a longer one was disturbed */
	for (int i = c->n - 1; i > 0 && c->ns[i - 1] > c->ns[i]; i--)
		c->ns[i - 1] = c->ns[i];
}

static void
read_rig(Rig *x, char *s)
{
	Lines l = {s};
	for (char *line; (line = next_line(&l));) {
		char kind[32];
		int ranks, stride;
		long long bytes;
		double v;
		if (sscanf(line, "flops %lf", &v) == 1) x->flops = v;
		if (sscanf(line, "bytes %lf", &v) == 1) x->bytes = v;
		if (sscanf(line, "loops %lf", &v) == 1) x->loops = v;
		if (sscanf(line, "reserved %lf", &v) == 1) x->reserved = v;
		if (!strncmp(line, "blas ", 5)) x->blas = text("%s", line + 5);
		if (sscanf(line, "curve %31s %d %d %lld %lf", kind, &ranks, &stride, &bytes,
			   &v) == 5)
			curve_point(x, kind, ranks, stride, bytes, v);
	}
}

/* Groups of ranks inside the world: consecutive ones, and ones that are as far apart as can be. */
static char *
groups(int ranks)
{
	char *s = text("%s", "");
	for (int g = 2; g < ranks; g++) {
		if (ranks % g) continue;
		s = text("%s{1, {{1, %d}}}, ", s, g);
		s = text("%s{1, {{%d, %d}}}, ", s, ranks / g, g);
	}
	return s;
}

static void
write_stage(const char *dir, const Options *o, int ranks, int stages, int stage)
{
	write_text(
	    text("%s/src/stage_%d.c", dir, stage),
	    text("#define RIG_RANKS   %d\n#define RIG_STAGES  %d\n#define RIG_STAGE   %d\n"
		 "#define RIG_THREADS %d\n#define RIG_NS      %.0f\n#define RIG_GROUPS  %s\n"
		 "#include \"gvprof/rig.c\"\n",
		 ranks, stages, stage, o->threads, o->seconds / 8 * 1e9,
		 stages == 1 ? groups(ranks) : ""));
}

/* A folder with the Makefile of an emitted program of so many ranks, and the rig in place of its sources. */
static void
run_rig(const Options *o, const char *work, int ranks, int stages, Rig *x)
{
	char *dir = text("%s/rig_%d_%d", work, ranks, stages), *names = text("%s", "");
	Options at = *o;
	at.ranks = ranks;
	program_folder(&at, work, dir);
	for (int k = 0; k < stages; k++) {
		write_stage(dir, o, ranks, stages, k);
		names = text("%s%sstage_%d", names, k ? " " : "", k);
	}
	build(&at, work, dir, names);
	Command c = launcher(&at);
	c.out = text("%s/rig", work);
	c.log = text("%s/log", work);
	add_programs(&c, dir);
	add(&c, "--quiet");
	add(&c, "--steps");
	add(&c, "1");
	run(&c, "measuring the machine");
	read_rig(x, read_text(c.out));
}

/* ---- provenance ---- */

static char *
cpu_model(void)
{
	char *s = read_text("/proc/cpuinfo");
	Lines l = {s};
	for (char *line; (line = next_line(&l));) {
		char *colon = strchr(line, ':');
		if (!strncmp(line, "model name", 10) && colon)
			return colon + 1 + strspn(colon + 1, " ");
	}
	return "unknown processor";
}

static char *
first_line(const char *program, const char *work)
{
	Command c = {.out = text("%s/version", work), .log = text("%s/log", work)};
	add(&c, program);
	add(&c, "--version");
	run(&c, program);
	Lines l = {read_text(c.out)};
	char *line = next_line(&l);
	return line ? line : "";
}

uint64_t
machine_key(const Options *o, const char *work)
{
	char *cc = getenv("CC"), *s;
	uint64_t h = 0xCBF29CE484222325;
	h = hash_file(h, o->galvatronc);
	h = hash_dir(h, RUNTIME_DIR);
	h = hash_dir(h, RUNTIME_DIR "/gvprof");
	s = text("%s\n%s\n%d %d %d %s\n", first_line(cc && *cc ? cc : "gcc", work), cpu_model(),
		 o->ranks, o->threads, o->nodes, o->transport ? o->transport : "");
	return hash_bytes(h, s, strlen(s));
}

/* Lines `provenance "..."` of a .hw, but for the key. */
void
provenance(const Options *o, char ***line, size_t *n)
{
	char *s = read_text(out_path(o, ".hw"));
	Lines l = {s};
	*line = NULL;
	*n = 0;
	for (char *p; s && (p = next_line(&l));) {
		size_t len = strlen(p);
		if (strncmp(p, "provenance \"", 12) != 0 || !strncmp(p + 12, "gvprof key", 10))
			continue;
		*line = grow(*line, (*n + 1) * sizeof **line);
		(*line)[(*n)++] = text("%.*s", (int)len - 13, p + 12);
	}
}

/* ---- .hw ---- */

static char *
without_quotes(char *s)
{
	for (char *c = s; *c; c++)
		if (*c == '"' || *c == '\\') *c = '\'';
	return s;
}

static void
put_provenance(FILE *f, const Options *o, const char *work, const Rig *x, uint64_t key)
{
	char *cc = getenv("CC"), date[32];
	time_t now = time(NULL);
	strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
	fprintf(f, "provenance \"gvprof key %016" PRIx64 "\"\n", key);
	fprintf(f, "provenance \"%s, %ld cores\"\n", without_quotes(cpu_model()),
		sysconf(_SC_NPROCESSORS_ONLN));
	fprintf(f, "provenance \"%s\"\n",
		without_quotes(first_line(cc && *cc ? cc : "gcc", work)));
	if (x->blas) fprintf(f, "provenance \"%s\"\n", without_quotes(x->blas));
	if (o->ranks > 1)
		fprintf(f, "provenance \"%s\"\n",
			without_quotes(first_line(o->mpirun_program, work)));
	fprintf(f, "provenance \"%s\"\n", date);
}

static void
put_curves(FILE *f, const Options *o, const Rig *x)
{
	for (int k = 0; k < x->ncurves; k++) {
		const Curve *c = &x->c[k];
		/* ranks fill one node after the other */
		int per = o->ranks / o->nodes, nodes = 1;
		if (c->ranks * c->stride > per) nodes = c->stride >= per ? c->ranks : o->nodes;
		if (!strcmp(c->kind, "message")) nodes = o->nodes > 1 ? 2 : 1;
		fprintf(f, "curve %s core ranks %d nodes %d stride %d :", c->kind, c->ranks,
			nodes, nodes > 1 || c->ranks == 2 ? 1 : c->stride);
		for (int i = 0; i < c->n; i++)
			fprintf(f, " %" PRId64 ":%.0fns", c->bytes[i], c->ns[i]);
		fputc('\n', f);
	}
}

/* Latency and rate of a message. */
static void
put_node(FILE *f, const Options *o, const Rig *x)
{
	fprintf(f, "\nnode %d x %d core", o->nodes, o->ranks / o->nodes);
	for (int k = 0; k < x->ncurves; k++) {
		const Curve *c = &x->c[k];
		if (strcmp(c->kind, "message") != 0 || c->n < 2) continue;
		double ns = c->ns[0], all = c->ns[c->n - 1];
		double rate = (double)c->bytes[c->n - 1] / (all > ns ? all - ns : 1) * 1e9;
		bool far = o->nodes > 1;
		if (!far || o->ranks > o->nodes) fprintf(f, " near %.0fns %.4gB/s", ns, rate);
		if (far) fprintf(f, " far %.0fns %.4gB/s", ns, rate);
	}
	fputc('\n', f);
}

static void
write_hw(const Options *o, const char *work, const Rig *x, uint64_t key)
{
	char *s;
	size_t n;
	FILE *f = open_memstream(&s, &n);
	long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
	if (!f) fail("out of memory");
	fputs("hw 1\ncluster host\n", f);
	put_provenance(f, o, work, x, key);
	fprintf(f, "\ndevice core host cores %d\n  memory %" PRId64, o->threads,
		(int64_t)pages / 10 * 8 * page / (o->ranks / o->nodes));
	if (x->reserved > 0) fprintf(f, " reserved %.0f", x->reserved);
	fprintf(f,
		"\n  flops f32 %.4gFLOP/s\n  bytes %.4gB/s\n  loops %.4g/s\n"
		"  efficiency bytes 1\n  efficiency near 1\n  efficiency far 1\n",
		x->flops, x->bytes, x->loops);
	put_node(f, o, x);
	put_curves(f, o, x);
	fclose(f);
	write_text(out_path(o, ".hw"), s);
	free(s);
}

/* The line of what a step takes besides kernels and communication, in the place of the one there was. */
void
machine_step(const Options *o, double ns)
{
	char *path = out_path(o, ".hw"), *s = read_text(path), *out = text("%s", "");
	Lines l = {s};
	if (!s) return;
	for (char *line; (line = next_line(&l));) {
		if (strncmp(line, "  efficiency step ", 18) != 0)
			out = text("%s%s\n", out, line);
		if (!strncmp(line, "  loops ", 8))
			out = text("%s  efficiency step %.0f\n", out, ns);
	}
	write_text(path, out);
}

static bool
is_measured(const char *path, uint64_t key)
{
	char *s = read_text(path);
	if (!s) return false;
	if (!strstr(s, "provenance \"gvprof key "))
		fail("%s was not written by gvprof: give another name with -o", path);
	return strstr(s, text("provenance \"gvprof key %016" PRIx64 "\"", key)) != NULL;
}

void
host_machine(const Options *o, const char *work, uint64_t key)
{
	char *path = out_path(o, ".hw");
	Rig x = {0};
	if (is_measured(path, key) && !o->again) return;
	run_rig(o, work, o->ranks, 1, &x);
	if (o->ranks > 1) run_rig(o, work, o->ranks / 2 * 2, 2, &x);
	write_hw(o, work, &x, key);
	say("%s: %.1f GFLOP/s, %.1f GB/s a rank, %d curves", path, x.flops * 1e-9,
	    x.bytes * 1e-9, x.ncurves);
}
