/*
 * points.c - times of kernels: what programs write, and .prof, the form galvatronc reads (ir/README.md).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gvprof.h"

static Point *
point_of(Points *x, const char *family, const char *extents)
{
	for (size_t k = 0; k < x->n; k++)
		if (!strcmp(x->p[k].family, family) && !strcmp(x->p[k].extents, extents))
			return &x->p[k];
	if (x->n == x->cap) {
		x->cap = x->cap ? 2 * x->cap : 256;
		x->p = grow(x->p, x->cap * sizeof *x->p);
	}
	x->p[x->n] = (Point){.family = text("%s", family), .extents = text("%s", extents)};
	return &x->p[x->n++];
}

/* ---- .prof ---- */

static const char key_line[] = "gvprof key %016" PRIx64;

/* The text between the quotes that a line begins with, unescaped in place. */
static char *
unquote(char *s)
{
	char *to = s, *from = s + 1;
	if (*s != '"') return NULL;
	for (; *from && *from != '"'; from++) {
		if (*from == '\\' && from[1]) from++;
		*to++ = *from;
	}
	*to = 0;
	return s;
}

static double
unit_of(const char *s)
{
	static const struct {
		const char *name;
		double ns;
	} units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
	for (size_t k = 0; k < GP_COUNTOF(units); k++)
		if (!strncmp(s, units[k].name, strlen(units[k].name))) return units[k].ns;
	return 1;
}

/* "1024 768 : 1.5ms spread 0.01 runs 12" */
static void
read_time(Points *x, const char *family, char *s)
{
	char *colon = strchr(s, ':'), *end, *word;
	if (!colon || !family) return;
	char *rest = colon + 1;
	while (colon > s && colon[-1] == ' ')
		colon--;
	*colon = 0;
	Point *p = point_of(x, family, s);
	double value = strtod(rest, &end);
	while (*end == ' ')
		end++;
	p->ns = value * unit_of(end);
	p->spread = (word = strstr(end, "spread ")) ? strtod(word + 7, NULL) : 0;
	p->runs = (word = strstr(end, "runs ")) ? strtoll(word + 5, NULL, 10) : 1;
}

bool
points_read(Points *x, const char *path, uint64_t key)
{
	char *s = read_text(path), *family = NULL, *mine = text(key_line, key);
	bool ours = false, same = false;
	if (!s) return false;
	Lines l = {s};
	for (char *line; (line = next_line(&l));) {
		if (!strncmp(line, "provenance ", 11)) {
			char *what = unquote(line + 11);
			ours = ours || (what && !strncmp(what, "gvprof key ", 11));
			same = same || (what && !strcmp(what, mine));
		} else if (!strncmp(line, "family ", 7)) {
			family = unquote(line + 7);
		} else if (!strncmp(line, "time ", 5)) {
			read_time(x, family, line + 5);
		}
	}
	if (!ours) fail("%s was not written by gvprof: give another name with -o", path);
	if (!same) *x = (Points){0};
	return same;
}

static int
compare(const void *a, const void *b)
{
	const Point *x = a, *y = b;
	int c = strcmp(x->family, y->family);
	return c ? c : strcmp(x->extents, y->extents);
}

static void
put_quoted(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\') fputc('\\', f);
		fputc(*s, f);
	}
	fputs("\"\n", f);
}

void
points_write(const Points *x, const char *path, const Options *o, uint64_t key)
{
	char *s, **line;
	size_t n, nlines;
	FILE *f = open_memstream(&s, &n);
	if (!f) fail("out of memory");
	fprintf(f, "prof 1\ndevice core\nranks %d threads %d\nprovenance ", o->ranks,
		o->threads);
	put_quoted(f, text(key_line, key));
	provenance(o, &line, &nlines);
	for (size_t k = 0; k < nlines; k++) {
		fputs("provenance ", f);
		put_quoted(f, line[k]);
	}
	qsort(x->p, x->n, sizeof *x->p, compare);
	for (size_t k = 0; k < x->n; k++) {
		const Point *p = &x->p[k];
		if (!k || strcmp(p->family, x->p[k - 1].family) != 0) {
			fputs("\nfamily ", f);
			put_quoted(f, p->family);
		}
		fprintf(f, "time %s%s: %.0fns", p->extents, *p->extents ? " " : "",
			p->ns > 1 ? p->ns : 1);
		if (p->spread > 0) fprintf(f, " spread %.4g", p->spread);
		fprintf(f, " runs %" PRId64 "\n", p->runs);
	}
	fclose(f);
	write_text(path, s);
	free(s);
}

/* ---- what programs write ---- */

typedef struct Meter {
	char *what;
	double ns, spread; /* sums over ranks */
	int64_t calls, runs;
	int ranks;
} Meter;

typedef struct Meters {
	Meter *m;
	size_t n, cap;
} Meters;

static Meter *
meter_of(Meters *x, const char *what)
{
	for (size_t k = 0; k < x->n; k++)
		if (!strcmp(x->m[k].what, what)) return &x->m[k];
	if (x->n == x->cap) {
		x->cap = x->cap ? 2 * x->cap : 256;
		x->m = grow(x->m, x->cap * sizeof *x->m);
	}
	x->m[x->n] = (Meter){.what = text("%s", what)};
	return &x->m[x->n++];
}

/* "CALLS NS SPREAD RUNS WHAT" after a header of two lines, "end" at the end. */
static void
read_meters(Meters *x, const char *path, double *step)
{
	char *s = read_text(path), *line;
	Lines l = {s};
	bool whole = false;
	if (!s || !(line = next_line(&l)) || strcmp(line, "meters 1") != 0)
		fail("%s: a program that times itself did not write it", path);
	while ((line = next_line(&l))) {
		long long calls, runs;
		double ns, spread;
		int at;
		char *word = strstr(line, "step_ns ");
		if (!strncmp(line, "ranks ", 6) && word) *step += strtod(word + 8, NULL);
		if (!strcmp(line, "end")) whole = true;
		if (sscanf(line, "%lld %lf %lf %lld %n", &calls, &ns, &spread, &runs, &at) != 4)
			continue;
		Meter *m = meter_of(x, line + at);
		m->ns += ns;
		m->spread += spread;
		m->calls += calls;
		m->runs += runs;
		m->ranks++;
	}
	if (!whole) fail("%s: cut off", path);
}

/* Communication has prices of its own; what else is not a kernel counts as the step's. */
static bool
is_rest(const char *what)
{
	return !strcmp(what, "#body") || !strcmp(what, "#input") || !strcmp(what, "#report") ||
	       !strcmp(what, "#step");
}

void
points_merge(Points *x, const char *file, int ranks, double *step_ns, double *rest_ns)
{
	Meters m = {0};
	*step_ns = *rest_ns = 0;
	for (int r = 0; r < ranks; r++)
		read_meters(&m, text("%s.%d", file, r), step_ns);
	*step_ns /= ranks;
	for (size_t k = 0; k < m.n; k++) {
		Meter *y = &m.m[k];
		char *bar = strrchr(y->what, '|');
		if (is_rest(y->what)) *rest_ns += y->ns / y->ranks * (double)y->calls / ranks;
		if (y->what[0] == '#' || !bar) continue;
		char *extents = bar + 1 + strspn(bar + 1, " ");
		while (bar > y->what && bar[-1] == ' ')
			bar--;
		*bar = 0;
		Point *p = point_of(x, y->what, extents);
		p->ns = y->ns / y->ranks;
		p->spread = y->spread / y->ranks;
		p->runs = y->runs;
	}
}
