/*
 * meter.c - programs made with --instrument: how long each of their kernels takes, in place.
 *
 * A mark ends what ran since the mark before, so the times of a step add up to the step. Of every step the mean of a kernel's
 * calls is kept (they find their operands in different caches, and what counts is their sum), and in the end the mean over the
 * quarter of the steps whose length is nearest to the median: disturbed steps are left out whole, so what kernels take still
 * adds up to a step, which medians of their own would not.
 */
#include <stdlib.h>
#include <time.h>

#include "gvrt_int.h"

static int64_t last_mark;

static int64_t
clock_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void
gvrt_mark_more(GvrtMeter *m)
{
	int64_t now = clock_ns();
	m->ns += now - last_mark;
	last_mark = now;
}

void
gvrt_mark(GvrtMeter *m)
{
	gvrt_mark_more(m);
	m->calls++;
}

void
meters_start(Meters *x, Pool *pool, const GvrtProgram *p)
{
	if (!p->nmeters) return;
	x->mean = POOL_N(pool, double, p->nmeters *METER_STEPS);
	x->calls = POOL_N(pool, int64_t, p->nmeters);
	x->step = POOL_N(pool, double, METER_STEPS);
}

void
meters_begin(Meters *x, const GvrtProgram *p)
{
	if (!p->nmeters) return;
	for (size_t k = 0; k < p->nmeters; k++)
		p->meters[k].ns = p->meters[k].calls = 0;
	x->begun = last_mark = clock_ns();
}

void
meters_end(Meters *x, const GvrtProgram *p, uint64_t done)
{
	if (!p->nmeters || done <= METER_WARM) return;
	uint64_t at = x->steps++ % METER_STEPS;
	x->step[at] = (double)(clock_ns() - x->begun);
	for (size_t k = 0; k < p->nmeters; k++) {
		const GvrtMeter *m = &p->meters[k];
		x->calls[k] = m->calls;
		x->mean[k * METER_STEPS + at] = m->calls ? (double)m->ns / (double)m->calls : 0;
	}
}

uint64_t
meters_last(const Meters *x, Comm *comm, const GvrtProgram *p, uint64_t step, uint64_t last)
{
	const char *seconds = getenv("GVRT_METER_SECONDS");
	double n[1] = {0};
	if (!p->nmeters || !seconds || !x->steps) return last;
	if (p->stage == 0)
		n[0] = strtod(seconds, NULL) * 1e9 / (x->step[0] > 1 ? x->step[0] : 1);
	comm_sum(comm, n, 1); /* the ranks of the first stage, on average */
	n[0] /= p->stage_ranks ? p->stage_ranks[0].ranks : 1;
	if (!(n[0] > METER_LEAST)) n[0] = METER_LEAST;
	return n[0] < (double)(last - step) ? step + (uint64_t)n[0] : last;
}

static int
compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static size_t
kept(const Meters *x)
{
	return x->steps < METER_STEPS ? (size_t)x->steps : METER_STEPS;
}

/* The mean of a value over the steps of middle length, and how far its quartiles over all are apart in parts of it. */
static double
middle(const Meters *x, const double *of, double *spread)
{
	double v[METER_STEPS], sum = 0;
	size_t n = kept(x), used = 0;
	memcpy(v, x->step, n * sizeof *v);
	qsort(v, n, sizeof *v, compare);
	double lo = v[3 * n / 8], hi = v[n - 1 - 3 * n / 8];
	for (size_t k = 0; k < n; k++)
		if (x->step[k] >= lo && x->step[k] <= hi) sum += of[k], used++;
	sum /= (double)used;
	memcpy(v, of, n * sizeof *v);
	qsort(v, n, sizeof *v, compare);
	*spread = sum > 0 ? (v[n - 1 - n / 4] - v[n / 4]) / sum : 0;
	return sum;
}

/* What a step of this rank is made of, the dearest first, for people. */
static void
show(const Meters *x, const GvrtProgram *p)
{
	double spread, step = middle(x, x->step, &spread), before = 1e300;
	size_t before_at = 0;
	rt_outf("a step of %.3f ms:\n", step * 1e-6);
	for (int line = 0; line < 24; line++) {
		double most = -1;
		size_t at = 0;
		for (size_t k = 0; k < p->nmeters; k++) {
			double t =
			    middle(x, x->mean + k * METER_STEPS, &spread) * (double)x->calls[k];
			bool shown = t > before || (t == before && k <= before_at);
			if (!shown && t > most) most = t, at = k;
		}
		if (most <= 0) break;
		rt_outf("%6.2f %%  %6lld x %12.0f ns  %s\n", 100 * most / step,
			(long long)x->calls[at], most / (double)x->calls[at],
			p->meters[at].what);
		before = most, before_at = at;
	}
}

bool
meters_write(const Meters *x, const GvrtProgram *p, const Place *at, bool people, Err *e)
{
	const char *name = getenv("GVRT_METERS");
	char path[RT_PATH];
	double spread;
	if (!p->nmeters || !x->steps) return true;
	if (!name || !*name) {
		if (at->rank == 0 && people) show(x, p);
		return true;
	}
	snprintf(path, sizeof path, "%s.%d", name, at->rank);
	FILE *f = fopen(path, "w");
	if (!f) return rt_fail(e, "cannot write %s", path);
	double step = middle(x, x->step, &spread);
	fprintf(f, "meters 1\nranks %d threads %d steps %llu step_ns %.0f spread %.4f\n",
		p->ranks, at->threads, (unsigned long long)x->steps, step, spread);
	for (size_t k = 0; k < p->nmeters; k++) {
		double ns = middle(x, x->mean + k * METER_STEPS, &spread);
		if (!x->calls[k]) continue;
		fprintf(f, "%lld %.1f %.4f %lld %s\n", (long long)x->calls[k], ns, spread,
			(long long)x->calls[k] * (long long)x->steps, p->meters[k].what);
	}
	fputs("end\n", f);
	return fclose(f) == 0 || rt_fail(e, "cannot write %s", path);
}
