/*
 * simulate_trace.c - a simulated step as a Chrome trace: the JSON array that chrome://tracing and Perfetto read.
 *
 * A process for every stage, a thread for every stream of each of its classes, a counter for the bytes alive. At most
 * MAX_EVENTS bars: what begins after the last that has room is left out, and the trace says so where it ends.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "passes/simulate.h"

enum { MAX_EVENTS = 200000 };

static const char *const stream_str[SS_COUNT] = {"computes", "collectives", "exchanges"};

typedef struct Trace {
	const Module *m;
	const SimResult *r;
	Buf *out;
	bool any;
	int64_t until; /* what begins later is left out */
} Trace;

/* Begins an object. */
static void
object(Trace *t)
{
	buf_puts(t->out, t->any ? ",\n{" : "[\n{");
	t->any = true;
}

static void
quoted(Buf *out, const char *s)
{
	buf_putc(out, '"');
	for (; *s; s++) {
		if ((unsigned char)*s < 0x20)
			buf_printf(out, "\\u%04x", *s);
		else if (*s == '"' || *s == '\\')
			buf_printf(out, "\\%c", *s);
		else
			buf_putc(out, *s);
	}
	buf_putc(out, '"');
}

/* Microseconds, exactly. */
static void
micros(Buf *out, const char *key, int64_t ns)
{
	buf_printf(out, ",\"%s\":%" PRId64 ".%03d", key, ns / 1000, (int)(ns % 1000));
}

static uint32_t
thread_of(const SimEvent *e)
{
	return e->class * SS_COUNT + e->stream;
}

static void
put_name(Trace *t, const char *what, uint32_t pid, const uint32_t *tid, const char *name)
{
	object(t);
	buf_printf(t->out, "\"name\":\"%s\",\"ph\":\"M\",\"pid\":%" PRIu32, what, pid);
	if (tid) buf_printf(t->out, ",\"tid\":%" PRIu32, *tid);
	buf_puts(t->out, ",\"args\":{\"name\":");
	quoted(t->out, name);
	buf_puts(t->out, "}}");
}

static void
put_names(Trace *t)
{
	char name[80];
	for (uint32_t k = 0; k < t->m->plan.nstages; k++) {
		const Stage *s = &t->m->plan.stages[k];
		snprintf(name, sizeof(name), "stage %" PRIu32 ": ranks %" PRIu32 "-%" PRIu32, k,
			 s->rank, s->rank + s->ranks - 1);
		put_name(t, "process_name", k, NULL, name);
		for (uint32_t c = 0; c < t->r->stage[k].classes; c++)
			for (uint32_t i = 0; i < SS_COUNT; i++) {
				uint32_t tid = c * SS_COUNT + i;
				if (t->r->stage[k].classes > 1)
					snprintf(name, sizeof(name), "%s (class %" PRIu32 ")",
						 stream_str[i], c);
				else
					snprintf(name, sizeof(name), "%s", stream_str[i]);
				put_name(t, "thread_name", k, &tid, name);
			}
	}
}

/* What it is about: an instance or a parameter. */
static const char *
subject(const Module *m, const SimEvent *e)
{
	if (e->what == SW_norm) return "";
	if (e->what == SW_borrow)
		return e->inst < m->nparams ? name_str(m->names, m->params[e->inst].name) : "";
	return e->inst < m->ninsts ? name_str(m->names, m->insts[e->inst].name) : "";
}

static void
put_event(Trace *t, const SimEvent *e)
{
	char name[200];
	snprintf(name, sizeof(name), "%s %s", sim_what_str[e->what],
		 e->what == SW_wait ? "" : subject(t->m, e));
	object(t);
	buf_puts(t->out, "\"name\":");
	quoted(t->out, name);
	buf_printf(t->out, ",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":%" PRIu32 ",\"tid\":%" PRIu32,
		   sim_what_str[e->what], e->stage, thread_of(e));
	micros(t->out, "ts", e->from);
	micros(t->out, "dur", e->to - e->from);
	buf_printf(t->out, ",\"args\":{\"microbatch\":%" PRIu32 "}}", e->mb);
}

static void
put_memory(Trace *t, uint32_t stage)
{
	const SimStage *s = &t->r->stage[stage];
	for (uint32_t i = 0; i < s->npoints && s->when[i] <= t->until; i++) {
		/* of several at one time the most counts */
		int64_t most = s->bytes[i];
		while (i + 1 < s->npoints && s->when[i + 1] == s->when[i])
			if (s->bytes[++i] > most) most = s->bytes[i];
		object(t);
		buf_printf(t->out, "\"name\":\"memory\",\"ph\":\"C\",\"pid\":%" PRIu32, stage);
		micros(t->out, "ts", s->when[i]);
		buf_printf(t->out, ",\"args\":{\"bytes\":%" PRId64 "}}", most);
	}
}

static int
by_time(const void *x, const void *y)
{
	const int64_t *a = x, *b = y;
	return (*a > *b) - (*a < *b);
}

/* Until when there is room for all. */
static int64_t
last_time(const SimResult *r)
{
	if (r->nevents <= MAX_EVENTS) return INT64_MAX;
	Arena *tmp = arena_new();
	int64_t *from = NEW_N(tmp, int64_t, r->nevents);
	for (uint32_t i = 0; i < r->nevents; i++)
		from[i] = r->event[i].from;
	qsort(from, r->nevents, sizeof(*from), by_time);
	int64_t until = from[MAX_EVENTS] - 1;
	arena_free(tmp);
	return until;
}

void
sim_trace(const Module *m, const SimResult *r, Buf *out)
{
	Trace t = {.m = m, .r = r, .out = out, .until = last_time(r)};
	uint32_t left = 0;
	put_names(&t);
	for (uint32_t i = 0; i < r->nevents; i++) {
		if (r->event[i].from <= t.until)
			put_event(&t, &r->event[i]);
		else
			left++;
	}
	for (uint32_t k = 0; k < m->plan.nstages; k++)
		put_memory(&t, k);
	if (left) {
		object(&t);
		buf_printf(
		    out,
		    "\"name\":\"%" PRIu32
		    " later bars are left out\",\"ph\":\"i\",\"s\":\"g\",\"pid\":0,\"tid\":0",
		    left);
		micros(out, "ts", t.until);
		buf_puts(out, "}");
	}
	buf_puts(out, "\n]\n");
}
