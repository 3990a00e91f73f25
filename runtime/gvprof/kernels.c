/*
 * kernels.c - times of kernels on the host: galvatronc says which few programs have among them all kernels that plans need and
 * that nobody measured yet, emits them with marks between the kernels, and each is run as it would be in earnest: all ranks, with
 * their communication, in their own memory. After every program the profile is written, so an interrupt loses one at most.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gvprof.h"

typedef struct Job { /* a program to be run */
	char *plan, *dir;
	bool whole; /* of the whole model, not the short one */
	int kernels;
} Job;

/* What tp splits depends on the prices: what was measured so far is what programs are made with, and what they are is asked again
 * until nothing new comes up. */
enum { ROUNDS = 5 };

typedef struct Jobs {
	const char *cluster, *profile; /* made with; NULL: there is none yet */
	Job *j;
	int n, cap;
	int kernels, missing;
} Jobs;

typedef struct Rests { /* what steps took besides kernels and communication */
	double *ns;
	size_t n;
} Rests;

/* galvatronc with the model and what is common to all calls. */
static Command
compile(const Options *o, const char *work, const char *cluster, const char *profile,
	bool whole)
{
	Command c = compiler(o, text("%s/log", work));
	add(&c, o->model);
	for (int i = 0; i < o->nset; i++) {
		add(&c, "--set");
		add(&c, o->set[i]);
	}
	if (o->precision) add(&c, text("--precision=%s", o->precision));
	if (!whole) add(&c, "--short");
	if (cluster) add(&c, text("--cluster=%s", cluster));
	if (profile) add(&c, text("--profile=%s", profile));
	return c;
}

static void
add_job(Jobs *x, const char *work, char *plan, int kernels, bool whole)
{
	if (x->n == x->cap) {
		x->cap = x->cap ? 2 * x->cap : 16;
		x->j = grow(x->j, (size_t)x->cap * sizeof *x->j);
	}
	x->j[x->n] = (Job){plan, text("%s/program_%d", work, x->n), whole, kernels};
	x->n++;
}

/* What --emit=measure printed: plans, each written to a file. */
static void
read_jobs(Jobs *x, const char *work, char *s, const char *given)
{
	Lines l = {s};
	char *line, *plan = NULL;
	int kernels = 0, all, missing;
	while ((line = next_line(&l))) {
		if (sscanf(line, "kernels %d missing %d", &all, &missing) == 2) {
			x->kernels += all;
			x->missing += missing;
		} else if (sscanf(line, "program %*d kernels %d", &kernels) == 1) {
			plan = text("%s", "");
		} else if (!strcmp(line, "end")) {
			char *path = text("%s/%d.plan", work, x->n);
			if (!given) write_text(path, plan);
			add_job(x, work, given ? text("%s", given) : path, kernels,
				given != NULL);
			plan = NULL;
		} else if (plan) {
			plan = text("%s%s\n", plan, line);
		}
	}
}

static void
ask(const Options *o, const char *work, const char *plan, Jobs *x)
{
	Command c = compile(o, work, x->cluster, x->profile, plan != NULL);
	c.out = text("%s/measure", work);
	add(&c, "--emit=measure");
	if (plan) add(&c, text("--plan=%s", plan));
	add(&c, text("--ranks=%d", o->ranks));
	add(&c, text("--threads=%d", o->threads));
	run(&c, "asking galvatronc which kernels there are");
	read_jobs(x, work, read_text(c.out), plan);
}

static void
emit(const Options *o, const char *work, const Jobs *x, const Job *j, bool timed)
{
	Command c = compile(o, work, x->cluster, x->profile, j->whole);
	add(&c, text("--plan=%s", j->plan));
	if (timed) add(&c, "--instrument");
	add(&c, "--quiet");
	add(&c, "-o");
	add(&c, j->dir);
	run(&c, "emitting a program that times itself");
}

void
program_folder(const Options *o, const char *work, const char *dir)
{
	Jobs x = {0};
	ask(o, work, NULL, &x);
	if (!x.n) fail("no plan for %d ranks has a kernel", o->ranks);
	Job j = {.plan = x.j[0].plan, .dir = text("%s", dir)};
	emit(o, work, &x, &j, false);
}

/* Runs a program and takes what it measured. */
static void
measure(const Options *o, const char *work, const Job *j, Points *points, double *step,
	double *rest)
{
	char *file = text("%s/meters", work);
	Command c = launcher(o);
	c.out = text("%s/out", work);
	c.log = text("%s/log", work);
	setenv("GVRT_METERS", file, 1);
	setenv("GVRT_METER_SECONDS", text("%g", o->seconds), 1);
	add_programs(&c, j->dir);
	add(&c, "--quiet");
	add(&c, "--steps");
	add(&c, "1000");
	run(&c, text("running %s", j->plan));
	points_merge(points, file, o->ranks, step, rest);
}

static void
prepare(const Options *o, const char *work, const Jobs *x)
{
	double begun = seconds();
	for (int k = 0; k < x->n; k++) {
		emit(o, work, x, &x->j[k], true);
		build(o, work, x->j[k].dir, NULL);
		say("  built %d of %d programs, %s left", k + 1, x->n,
		    duration((seconds() - begun) / (k + 1) * (x->n - k - 1)));
	}
}

static int
compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Measures what is missing; false: nothing is. */
static bool
one_round(const Options *o, const char *work, const char *path, uint64_t key, Points *points,
	  Rests *rests)
{
	Jobs x = {.cluster = out_path(o, ".hw"), .profile = points->n ? path : NULL};
	for (int k = 0; k < o->nplan; k++)
		ask(o, work, o->plan[k], &x);
	if (!o->nplan) ask(o, work, NULL, &x);
	say("%d rank%s of %d thread%s: %d kernels, %d to be measured by %d program%s", o->ranks,
	    o->ranks > 1 ? "s" : "", o->threads, o->threads > 1 ? "s" : "", x.kernels,
	    x.missing, x.n, x.n == 1 ? "" : "s");
	if (!x.n) return false;
	prepare(o, work, &x);
	double begun = seconds();
	for (int k = 0; k < x.n; k++) {
		double step, rest;
		measure(o, work, &x.j[k], points, &step, &rest);
		rests->ns = grow(rests->ns, (rests->n + 1) * sizeof *rests->ns);
		rests->ns[rests->n++] = rest;
		points_write(points, path, o, key);
		say("  ran %d of %d: %d kernels more, a step of %.2f ms with %.3f ms between "
		    "kernels, %s left",
		    k + 1, x.n, x.j[k].kernels, step * 1e-6, rest * 1e-6,
		    duration((seconds() - begun) / (k + 1) * (x.n - k - 1)));
	}
	say("wrote %s: %zu kernels", path, points->n);
	return true;
}

void
host_kernels(const Options *o, const char *work, uint64_t key)
{
	char *path = out_path(o, ".prof");
	Points points = {0};
	Rests rests = {0};
	bool kept = points_read(&points, path, key);
	if (!kept || o->again) points = (Points){0};
	for (int k = 0; k < ROUNDS && one_round(o, work, path, key, &points, &rests); k++)
		continue;
	if (!rests.n) return;
	qsort(rests.ns, rests.n, sizeof *rests.ns, compare);
	machine_step(o, rests.ns[rests.n / 2]);
}
