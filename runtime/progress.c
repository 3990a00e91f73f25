/*
 * progress.c - what a run says while it trains: in place on a terminal, line by line otherwise, JSON lines on request.
 *
 * A step is counted when it is done: "step 1" shows the loss of the first weights. Utilisation is the model's FLOPs
 * over the time, against a product timed on this machine at start; recomputation earns nothing.
 */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "gvrt_int.h"

/* Weak: a program without a product links no BLAS, and reports no utilisation. */
extern void gv_gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const real *a,
		    int64_t lda, const real *b, int64_t ldb, real beta, real *c, int64_t ldc)
    __attribute__((weak));

double
progress_peak(unsigned char *scratch, int64_t bytes)
{
	const char *given = getenv("GVRT_PEAK");
	if (given && *given) return strtod(given, NULL);
	int64_t n = 768;
	while (n >= 192 && 3 * n * n * (int64_t)sizeof(real) > bytes)
		n -= 64;
	if (n < 192 || !gv_gemm) return 0;
	real *a = (real *)(void *)scratch, *b = a + n * n, *c = b + n * n;
	for (int64_t i = 0; i < 2 * n * n; i++)
		a[i] = (real)(i % 7) * (real)0.125;
	gv_gemm(false, true, n, n, n, a, n, b, n, 0, c, n); /* wakes the threads up */
	double best = 0, end = rt_now() + 0.05;
	for (double t = rt_now(); t < end;) {
		gv_gemm(false, true, n, n, n, a, n, b, n, 0, c, n);
		double now = rt_now(),
		       rate = now > t ? 2.0 * (double)n * (double)n * (double)n / (now - t) : 0;
		if (rate > best) best = rate;
		t = now;
	}
	memset(scratch, 0, (size_t)(3 * n * n) * sizeof(real));
	return best;
}

/* A line being put together. */
typedef struct Line {
	char s[2048];
	size_t n;
} Line;

static void RT_PRINTF(2, 3) add(Line *l, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(l->s + l->n, sizeof l->s - l->n, fmt, ap);
	va_end(ap);
	if (n > 0) l->n += (size_t)n < sizeof l->s - l->n ? (size_t)n : sizeof l->s - l->n - 1;
}

/* A JSON number that reads back bit-equal; JSON has no NaN. */
static void
add_number(Line *l, const char *key, double x)
{
	if (isfinite(x))
		add(l, ",\"%s\":%.17g", key, x);
	else
		add(l, ",\"%s\":null", key);
}

static void
add_string(Line *l, const char *s)
{
	add(l, "\"");
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '"' || c == '\\')
			add(l, "\\%c", c);
		else if (c < 0x20)
			add(l, "\\u%04x", c);
		else
			add(l, "%c", c);
	}
	add(l, "\"");
}

static void
add_reports(Line *l, const double *reports, double scale, const GvrtProgram *p)
{
	add_number(l, "loss", p->nreports ? reports[0] * scale : 0);
	if (p->nreports < 2) return;
	add(l, ",\"reports\":{");
	for (size_t i = 0; i < p->nreports; i++) {
		double x = reports[i] * scale;
		if (i) add(l, ",");
		add_string(l, p->reports[i]);
		if (isfinite(x))
			add(l, ":%.17g", x);
		else
			add(l, ":null");
	}
	add(l, "}");
}

static void
end_line(Line *l)
{
	if (l->n > sizeof l->s - 2) l->n = sizeof l->s - 2;
	l->s[l->n++] = '\n';
	rt_out(l->s, l->n);
}

void
progress_open(Progress *g, const GvrtProgram *p, const Options *o)
{
	int64_t batch = p->microbatch * p->microbatches;
	*g = (Progress){.json = o->json, .quiet = o->quiet, .every = o->log_every};
	/* Launchers give ranks a terminal of their own, and may write to a file what comes out of it. */
	bool tty = p->ranks > 1 ? options_switch("GVRT_TTY", false) : isatty(STDOUT_FILENO);
	g->tty = tty && !o->json && !o->quiet;
	g->tokens = (double)(p->seq > 0 ? batch * p->seq : batch);
	g->unit = p->seq > 0 ? "tok" : "samples";
}

void
progress_header(const Progress *g, const GvrtProgram *p, const Place *at, const Source *data,
		const Comm *comm)
{
	const char *core = launch_core();
	Line l = {.n = 0};
	if (g->quiet) return;
	if (launch_better_core())
		rt_note("OpenBLAS runs its %s kernels as OPENBLAS_CORETYPE says; %s would be "
			"about twice as fast here",
			core, launch_better_core());
	if (g->json) {
		add(&l, "{\"event\":\"start\",\"model\":");
		add_string(&l, p->model);
		add(&l,
		    ",\"parameters\":%lld,\"plan\":\"%016llx\",\"ranks\":%d,\"threads\":%d,"
		    "\"arena\":%lld,\"core\":",
		    (long long)params_count(p), (unsigned long long)p->plan_hash, p->ranks,
		    at->threads, (long long)p->arena_bytes);
		if (core)
			add_string(&l, core);
		else
			add(&l, "null");
		add_number(&l, "peak", g->peak);
		if (comm)
			add(&l, ",\"stages\":%d,\"transport\":\"%s\"", p->stages,
			    comm_shares(comm) ? "window" : "mpi");
		add(&l, "}");
		end_line(&l);
		return;
	}
	add(&l,
	    "%s from %s: %s parameters, %s arithmetic; plan %016llx, %d rank%s, %d thread%s",
	    p->model, p->source, rt_count(params_count(p)).s,
	    sizeof(real) == 8 ? "float64" : "float32", (unsigned long long)p->plan_hash,
	    p->ranks, p->ranks == 1 ? "" : "s", at->threads, at->threads == 1 ? "" : "s");
	if (comm)
		add(&l, " each, %d stage%s, %s", p->stages, p->stages == 1 ? "" : "s",
		    comm_shares(comm) ? "sharing memory" : "over MPI");
	if (core) add(&l, ", OpenBLAS for %s", core);
	if (g->peak > 0)
		add(&l, " (%.0f GFLOP/s in a product timed for 50 ms)", g->peak * 1e-9);
	add(&l, "\narena %s%s", rt_bytes(p->arena_bytes).s, comm ? " (rank 0)" : "");
	for (size_t i = 0; i < p->nmemory; i++)
		add(&l, "%s%s %s", i ? ", " : ": ", p->memory[i].what,
		    rt_bytes(p->memory[i].bytes).s);
	if (data && data->path) {
		add(&l, "\ndata %s: %s samples", data->path, rt_count(data->samples).s);
		if (data->tokens)
			add(&l, " of %lld in %s tokens", (long long)p->seq,
			    rt_count(data->tokens).s);
		add(&l, "; a step takes %lld", (long long)(p->microbatch * p->microbatches));
	}
	end_line(&l);
}

void
progress_start(Progress *g, uint64_t first, uint64_t last)
{
	g->first = g->shown_step = first;
	g->last = last;
	g->begun = g->shown = rt_now();
}

static void
step_json(const Progress *g, const GvrtRun *r, const double *reports, const GvrtProgram *p,
	  double speed, double used, double left)
{
	Line l = {.n = 0};
	add(&l, "{\"step\":%llu", (unsigned long long)(r->step + 1));
	add_reports(&l, reports, 1, p);
	add_number(&l, "norm", r->norm);
	add_number(&l, "lr", r->lr);
	add(&l, ",\"seconds\":%.6g,\"%s_per_s\":%.6g,", g->tokens / speed,
	    p->seq > 0 ? "tokens" : "samples", speed);
	add(&l, used > 0 ? "\"mfu\":%.4f" : "\"mfu\":null", used);
	if (p->ranks > 1)
		add(&l, ",\"waited\":%.6g", g->waited / (double)(r->step + 1 - g->shown_step));
	add(&l, ",\"seconds_left\":%.1f}", left);
	end_line(&l);
}

static void
step_text(Progress *g, const GvrtRun *r, const double *reports, const GvrtProgram *p,
	  double speed, double used, double left)
{
	Line l = {.n = 0};
	uint64_t done = r->step + 1;
	if (g->tty) add(&l, "\r");
	add(&l, "step %llu/%llu", (unsigned long long)done, (unsigned long long)g->last);
	if (p->nreports) add(&l, "  loss %.4f", reports[0]);
	for (size_t i = 1; i < p->nreports; i++)
		add(&l, "  %.24s %.4g", p->reports[i], reports[i]);
	add(&l, "  norm %.3g  lr %.3g  %s %s/s", r->norm, r->lr, rt_count((int64_t)speed).s,
	    g->unit);
	if (used > 0) add(&l, "  MFU %.0f%%", 100 * used);
	if (done < g->last) add(&l, "  %s left", rt_duration(left).s);
	if (!g->tty) {
		end_line(&l);
		return;
	}
	add(&l, "\033[K");
	rt_out(l.s, l.n);
	g->open = true;
	if (done == g->last) progress_break(g);
}

void
progress_step(Progress *g, const GvrtRun *r, const double *reports, const GvrtProgram *p)
{
	uint64_t done = r->step + 1;
	bool edge = done == g->first + 1 || done == g->last;
	if (g->quiet) return;
	double now = rt_now();
	/* A terminal is redrawn ten times a second, whatever the steps do. */
	if (!edge && (g->tty ? now - g->shown < 0.1 : done % (uint64_t)g->every != 0)) return;
	double elapsed = now - g->shown > 1e-9 ? now - g->shown : 1e-9;
	double per = elapsed / (double)(done - g->shown_step);
	double mean = (now - g->begun) / (double)(done - g->first);
	double left = mean * (double)(g->last - done);
	double used = g->peak > 0 ? g->flops / per / g->peak : 0;
	(g->json ? step_json(g, r, reports, p, g->tokens / per, used, left)
		 : step_text(g, r, reports, p, g->tokens / per, used, left));
	g->shown = now;
	g->shown_step = done;
	g->waited = 0;
}

void
progress_break(Progress *g)
{
	if (g->open) rt_out("\n", 1);
	g->open = false;
}

void
progress_eval(Progress *g, uint64_t step, const double *reports, int64_t batches,
	      const GvrtProgram *p)
{
	Line l = {.n = 0};
	double scale = 1 / (double)batches;
	progress_break(g);
	if (g->json) {
		add(&l, "{\"event\":\"eval\",\"step\":%llu,\"batches\":%lld",
		    (unsigned long long)step, (long long)batches);
		add_reports(&l, reports, scale, p);
		add(&l, "}");
	} else {
		add(&l, "step %llu  validation", (unsigned long long)step);
		for (size_t i = 0; i < p->nreports; i++)
			add(&l, "  %.24s %.4f", i ? p->reports[i] : "loss", reports[i] * scale);
		add(&l, "  (%lld batch%s)", (long long)batches, batches == 1 ? "" : "es");
	}
	end_line(&l);
}

void
progress_event(Progress *g, const char *event, uint64_t step, const char *path)
{
	Line l = {.n = 0};
	if (g->quiet) return;
	progress_break(g);
	if (g->json) {
		add(&l, "{\"event\":\"%s\",\"step\":%llu,\"path\":", event,
		    (unsigned long long)step);
		add_string(&l, path);
		add(&l, "}");
	} else {
		add(&l, "step %llu  %s %s", (unsigned long long)step, event, path);
	}
	end_line(&l);
}
