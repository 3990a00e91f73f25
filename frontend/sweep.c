/*
 * sweep.c - --sweep NAME=A..B[:STEP]: elaborates the model for each value, as --set does, plans it, and compares what a
 * second of the plan trains.
 *
 * At most SWEEP_VALUES values: all of them if they are so few; else both ends, powers of two, three times those, then
 * multiples of ever smaller powers of two. What does not divide or does not fit is listed with its reason.
 */
#include "frontend/sweep.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Point {
	int64_t value;
	int64_t ns, bytes;
	double rate;      /* samples or tokens a second */
	const char *plan; /* in a phrase */
	const char *why;  /* there is none */
} Point;

typedef struct Sweep {
	Ctx *c;
	const char *name;
	int name_len;
	Point point[SWEEP_VALUES];
	int n;
	bool tokens;
	FILE *out;
} Sweep;

/* ---- which values ---- */

static int
bad(const char *s, const char *what)
{
	fprintf(stderr, "galvatronc: --sweep=%s: %s\n", s, what);
	return 2;
}

static bool
has(const Sweep *s, int64_t value)
{
	for (int i = 0; i < s->n; i++)
		if (s->point[i].value == value) return true;
	return false;
}

typedef struct Range {
	int64_t lo, hi, step;
} Range;

static void
take(Sweep *s, const Range *r, int64_t value)
{
	if (s->n == SWEEP_VALUES || value < r->lo || value > r->hi ||
	    (value - r->lo) % r->step || has(s, value))
		return;
	s->point[s->n++].value = value;
}

static int
by_value(const void *a, const void *b)
{
	const Point *x = a, *y = b;
	return x->value < y->value ? -1 : x->value > y->value;
}

static void
choose(Sweep *s, const Range *r)
{
	int64_t top = 1;
	take(s, r, r->lo);
	if ((r->hi - r->lo) / r->step < SWEEP_VALUES) {
		for (int64_t v = r->lo; v <= r->hi; v += r->step)
			take(s, r, v);
		return;
	}
	take(s, r, r->hi);
	for (; top <= r->hi; top *= 2)
		take(s, r, top);
	for (int64_t v = 3; v <= r->hi; v *= 2)
		take(s, r, v);
	for (int64_t by = top / 2; by && s->n < SWEEP_VALUES; by /= 2)
		for (int64_t v = (r->lo + by - 1) / by * by; v <= r->hi && s->n < SWEEP_VALUES;
		     v += by)
			take(s, r, v);
	qsort(s->point, (size_t)s->n, sizeof *s->point, by_value);
}

/* A whole number from 1; *s behind it. */
static bool
number(const char **s, int64_t *out)
{
	char *end;
	const long long v = **s >= '0' && **s <= '9' ? strtoll(*s, &end, 10) : 0;
	if (v < 1 || v > (int64_t)1 << 40) return false;
	*out = v;
	*s = end;
	return true;
}

/* NAME=A..B[:STEP] */
static int
parse(Sweep *s, const char *text)
{
	static const char form[] =
	    "expected NAME=A..B or NAME=A..B:STEP, whole numbers from 1, as "
	    "in batch=8..512:8";
	Range r = {.step = 1};
	const char *at = strchr(text, '=');
	if (!at || at == text) return bad(text, form);
	s->name = text;
	s->name_len = (int)(at++ - text);
	if (!number(&at, &r.lo) || strncmp(at, "..", 2) != 0) return bad(text, form);
	at += 2;
	if (!number(&at, &r.hi) || (*at == ':' && (at++, !number(&at, &r.step))) || *at)
		return bad(text, form);
	if (r.lo > r.hi) return bad(text, "the range is empty: it ends before it begins");
	choose(s, &r);
	return -1;
}

/* ---- one value ---- */

/* Elements of a step that an index input has beside the batch: the tokens of a sample. 1: samples are what is counted. */
static int64_t
tokens_of(const Module *m)
{
	for (uint32_t i = 0; i < m->ninputs; i++) {
		const Input *in = &m->inputs[i];
		if (!in->range.i || in->type.n != 2) continue;
		for (int k = 0; k < 2; k++)
			if (in->type.ax[k].a.i == m->batch.i)
				return ir_extent(m, in->type.ax[1 - k].a);
	}
	return 1;
}

/* "2 stages, 8 microbatches; dp:2 tp:2 zero 1": of the strategy that most layers have. */
static void
print_phrase(const Module *m, Buf *out)
{
	const Plan *p = &m->plan;
	uint32_t most = 0;
	for (uint32_t i = 1; i < p->nruns; i++)
		if (p->runs[i].count > p->runs[most].count) most = i;
	const Strategy *s = &p->runs[most];
	const Mesh *mesh = &p->meshes[s->mesh];
	buf_printf(out, "%" PRIu32 " stage%s, %" PRIu32 " microbatch%s", p->nstages,
		   p->nstages == 1 ? "" : "s", p->microbatches,
		   p->microbatches == 1 ? "" : "es");
	for (int k = 1; k < mesh->n; k++)
		buf_printf(out, "%s%s:%" PRIu32, k == 1 ? "; " : " ",
			   mesh_kind_str[mesh->ax[k].kind], mesh->ax[k].degree);
	if (s->zero) buf_printf(out, " zero %u", s->zero);
	if (s->megatron_sp) buf_puts(out, " megatron_sp");
	if (s->recompute) buf_printf(out, "; recompute %s", recompute_str[s->recompute]);
	if (s->count < m->ninsts) buf_puts(out, " (most layers)");
}

static const char *
too_large(Ctx *c, int64_t bytes, int64_t limit)
{
	Buf b;
	buf_init(&b, c->perm);
	buf_puts(&b, "does not fit: ");
	buf_bytes(&b, bytes);
	buf_puts(&b, " a rank, of ");
	buf_bytes(&b, limit);
	return b.s;
}

static const char *
text_in(Arena *a, const char *s)
{
	return arena_dup(a, s, strlen(s) + 1);
}

static void
try_value(Sweep *s, const Options *o, SweepPlan *plan, Point *x)
{
	Ctx c = *s->c;
	Options with = *o;
	Buf phrase, set;
	int64_t limit = INT64_MAX;
	c.perm = arena_new();
	c.tmp = arena_new();
	c.diag = diag_new(c.perm, c.names, NULL);
	c.explain = false;
	buf_init(&set, c.perm);
	buf_printf(&set, "%.*s=%" PRId64, s->name_len, s->name, x->value);
	with.set[with.nset++] = set.s;
	with.explain = false;
	const Module *m = plan(&c, &with, &x->ns, &x->bytes, &limit);
	if (!m) {
		x->why = text_in(s->c->perm, diag_first(c.diag));
	} else if (x->bytes > limit) {
		x->why = too_large(s->c, x->bytes, limit);
	} else {
		int64_t tokens = tokens_of(m), batch = m->batch.i ? ir_extent(m, m->batch) : 1;
		s->tokens |= tokens > 1;
		x->rate =
		    (double)batch * (double)tokens / (double)(x->ns > 0 ? x->ns : 1) * 1e9;
		buf_init(&phrase, s->c->perm);
		print_phrase(m, &phrase);
		x->plan = phrase.s;
	}
	arena_free(c.tmp);
	arena_free(c.perm);
}

/* ---- what came of it ---- */

static void
print_row(const Sweep *s, const Point *x, const Point *best)
{
	Buf b;
	buf_init(&b, s->c->tmp);
	if (x->why) {
		fprintf(s->out, "  %*" PRId64 "  %s\n", s->name_len > 8 ? s->name_len : 8,
			x->value, x->why);
		return;
	}
	buf_bytes(&b, x->bytes);
	fprintf(s->out, "%c %*" PRId64 " %11.3f %13.1f %12s  %s\n",
		x == best                      ? '*'
		: x->rate >= 0.98 * best->rate ? '~'
					       : ' ',
		s->name_len > 8 ? s->name_len : 8, x->value, (double)x->ns * 1e-6, x->rate, b.s,
		x->plan);
}

static void
print_table(const Sweep *s, const Point *best)
{
	fprintf(s->out, "  %*.*s     step ms  %s a rank  plan\n",
		s->name_len > 8 ? s->name_len : 8, s->name_len, s->name,
		s->tokens ? "    tokens/s      " : "   samples/s      ");
	for (int i = 0; i < s->n; i++)
		print_row(s, &s->point[i], best);
	if (best)
		fprintf(s->out,
			"sweep   best is %.*s=%" PRId64
			" (*); ~ is within 2 %% of it; times are "
			"predicted\n",
			s->name_len, s->name, best->value);
}

static int
refuse(const Sweep *s)
{
	diag_error(s->c->diag, (Loc){0}, "--sweep: no value of %.*s has a plan", s->name_len,
		   s->name);
	return 1;
}

static int
check(const Options *o, const Sweep *s)
{
	for (int i = 0; i < o->nset; i++)
		if (!strncmp(o->set[i], s->name, (size_t)s->name_len + 1))
			return bad(o->sweep, "--set gives it a value too");
	if (o->plan) return bad(o->sweep, "it searches a plan for every value; --plan has one");
	if (o->nset == (int)COUNTOF(o->set))
		return bad(o->sweep, "64 values with --set already");
	return -1;
}

int
sweep(Ctx *c, Options *o, SweepPlan *plan)
{
	Sweep *s = NEW(c->perm, Sweep);
	const Point *best = NULL;
	Buf b;
	int status;
	s->c = c;
	s->out = o->emit ? stderr : stdout;
	if ((status = parse(s, o->sweep)) >= 0 || (status = check(o, s)) >= 0) return status;
	for (int i = 0; i < s->n; i++) {
		if (isatty(STDERR_FILENO))
			fprintf(stderr, "\rsweep   %d of %d: %.*s=%" PRId64 " ", i + 1, s->n,
				s->name_len, s->name, s->point[i].value);
		try_value(s, o, plan, &s->point[i]);
	}
	if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
	for (int i = 0; i < s->n; i++) /* of equals the first */
		if (!s->point[i].why && (!best || s->point[i].rate > best->rate))
			best = &s->point[i];
	print_table(s, best);
	if (!best) return refuse(s);
	buf_init(&b, c->perm);
	buf_printf(&b, "%.*s=%" PRId64, s->name_len, s->name, best->value);
	o->set[o->nset++] = b.s;
	return -1;
}
