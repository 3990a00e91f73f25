/*
 * profile.c - .prof: measured times of kernels, read, printed, found. README.md has the grammar.
 *
 * Input: any bytes, not trusted. One diagnostic a line. Times are kept sorted by family and extents, so that those of one
 * family are neighbours; a key has one time.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/cluster.h"
#include "ir/text.h"

enum {
	MAX_TIMES = 1 << 20,
	MAX_LINES = 1 << 8,
	MAX_LAYERS = 1 << 8,
	MAX_LAYER_TIMES = 1 << 10
};

/* ---- order ---- */

static int
compare_keys(const KernelKey *a, const KernelKey *b)
{
	if (a->family != b->family) return a->family < b->family ? -1 : 1;
	if (a->n != b->n) return a->n < b->n ? -1 : 1;
	for (int i = 0; i < a->n; i++)
		if (a->extent[i] != b->extent[i]) return a->extent[i] < b->extent[i] ? -1 : 1;
	return 0;
}

/* The first time whose key is not below k. */
static uint32_t
place_of(const Profile *p, const KernelKey *k)
{
	uint32_t lo = 0, hi = p->n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (compare_keys(&p->time[mid].key, k) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const KernelTime *
profile_find(const Profile *p, const KernelKey *k)
{
	uint32_t i = place_of(p, k);
	return i < p->n && compare_keys(&p->time[i].key, k) == 0 ? &p->time[i] : NULL;
}

const KernelTime *
profile_family(const Profile *p, Name family, uint32_t *n)
{
	uint32_t i = place_of(p, &(KernelKey){.family = family}), end = i;
	while (end < p->n && p->time[end].key.family == family)
		end++;
	*n = end - i;
	return *n ? &p->time[i] : NULL;
}

void
profile_add(Profile *p, Arena *a, const KernelTime *t)
{
	uint32_t i = place_of(p, &t->key);
	if (i < p->n && compare_keys(&p->time[i].key, &t->key) == 0) {
		p->time[i] = *t;
		return;
	}
	PUSH(a, p->time, p->n, p->cap, *t);
	memmove(p->time + i + 1, p->time + i, sizeof *p->time * (p->n - 1 - i));
	p->time[i] = *t;
}

const LayerTime *
profile_layer(const Profile *p, const char *layer, size_t len, const Names *n)
{
	for (uint32_t i = 0; i < p->nlayer; i++) {
		const char *s = name_str(n, p->layer[i].layer);
		if (strlen(s) == len && !memcmp(s, layer, len)) return &p->layer[i];
	}
	return NULL;
}

double
layer_time(const LayerTime *l, double samples)
{
	uint32_t last = l->n - 1, i = 0;
	double first = (double)l->ns[0] / (double)l->samples[0];
	if (samples >= (double)l->samples[last])
		return (double)l->ns[last] / (double)l->samples[last] * samples;
	while (i + 2 < l->n && (double)l->samples[i + 1] <= samples)
		i++;
	if (!last) return first * samples;
	double s0 = (double)l->samples[i], s1 = (double)l->samples[i + 1];
	double t0 = (double)l->ns[i], t1 = (double)l->ns[i + 1];
	double t = t0 + (t1 - t0) * (samples - s0) / (s1 - s0);
	return samples < s0 ? fmax(t, first * samples) : t;
}

/* ---- reading ---- */

typedef struct Prof {
	Scan s;
	Arena *a;
	Profile *p;
	Name family;
	Loc device_at, ranks_at, *at; /* [p->n] parallel to the times until they are sorted */
	uint32_t nat, cat, cprovenance;
} Prof;

static bool
once(Prof *x, Scan at, const char *what, Loc *where)
{
	if (where->line) {
		scan_fail(&at, "%s twice", what);
		diag_note(x->s.diag, *where, "given here before");
		return false;
	}
	*where = scan_loc(&at);
	return true;
}

static bool
ranks_line(Prof *x, Scan at)
{
	return once(x, at, "ranks and threads", &x->ranks_at) &&
	       scan_u32(&x->s, "the number of ranks", 1, 1 << 16, &x->p->ranks) &&
	       scan_key(&x->s, "threads") &&
	       scan_u32(&x->s, "the number of threads", 1, 1 << 16, &x->p->threads);
}

static bool
extents(Prof *x, KernelKey *k)
{
	while (scan_peek(&x->s) != ':') {
		Scan at = x->s;
		int64_t e;
		if (!scan_int(&x->s, "an extent", 1, MAX_EXTENT, &e)) return false;
		if (k->n == COUNTOF(k->extent))
			return scan_fail(&at, "more than %d extents", (int)COUNTOF(k->extent));
		k->extent[k->n++] = e;
	}
	return true;
}

static bool
time_line(Prof *x, Scan at)
{
	KernelTime t = {.key.family = x->family, .runs = 1};
	Scan value;
	double ns;
	if (!x->family)
		return scan_fail(&at, "a time of which family? a family line comes first");
	if (!extents(x, &t.key) || !scan_punct(&x->s, ':')) return false;
	value = x->s;
	if (!scan_time(&x->s, "the time of the kernel", &ns)) return false;
	if (ns < 1) return scan_fail(&value, "a kernel that takes less than 1 ns");
	t.ns = (int64_t)nearbyint(ns);
	if (scan_try_key(&x->s, "spread")) {
		value = x->s;
		if (!scan_num(&x->s, "the spread", &t.spread)) return false;
		if (!(t.spread >= 0 && t.spread <= 1e6))
			return scan_fail(
			    &value, "the spread is the interquartile range over the median, "
				    "not below 0");
	}
	if (scan_try_key(&x->s, "runs") &&
	    !scan_u32(&x->s, "the number of runs", 1, UINT32_MAX, &t.runs))
		return false;
	if (x->p->n == MAX_TIMES) return scan_fail(&at, "more than %d times", MAX_TIMES);
	PUSH(x->a, x->p->time, x->p->n, x->p->cap, t);
	PUSH(x->a, x->at, x->nat, x->cat, scan_loc(&at));
	return true;
}

/* layer NAME : SAMPLES:TIME ... */
static bool
layer_line(Prof *x)
{
	Profile *p = x->p;
	Scan at = x->s;
	LayerTime l = {0};
	if (!scan_name(&x->s, "a layer of the model", &l.layer)) return false;
	for (uint32_t i = 0; i < p->nlayer; i++)
		if (p->layer[i].layer == l.layer) return scan_fail(&at, "this layer twice");
	if (p->nlayer == MAX_LAYERS) return scan_fail(&at, "more than %d layers", MAX_LAYERS);
	if (!scan_punct(&x->s, ':')) return false;
	l.samples = NEW_N(x->a, int64_t, MAX_LAYER_TIMES);
	l.ns = NEW_N(x->a, int64_t, MAX_LAYER_TIMES);
	do {
		double ns;
		at = x->s;
		if (l.n == MAX_LAYER_TIMES)
			return scan_fail(&at, "more than %d times", MAX_LAYER_TIMES);
		if (!scan_int(&x->s, "a number of samples", 1, 1 << 24, &l.samples[l.n]) ||
		    !scan_punct(&x->s, ':'))
			return false;
		if (l.n && l.samples[l.n] <= l.samples[l.n - 1])
			return scan_fail(&at, "times of a layer go by rising samples");
		at = x->s;
		if (!scan_time(&x->s, "the time of a forward", &ns)) return false;
		if (ns < 1) return scan_fail(&at, "a layer that takes less than 1 ns");
		l.ns[l.n++] = (int64_t)nearbyint(ns);
	} while (!scan_at_end(&x->s));
	PUSH(x->a, p->layer, p->nlayer, p->clayer, l);
	return true;
}

static bool
line(Prof *x)
{
	static const char *const words[] = {"time",  "family",     "device",
					    "ranks", "provenance", "layer"};
	enum { L_time, L_family, L_device, L_ranks, L_provenance, L_layer };
	Scan at = x->s;
	Name text;
	int which;
	if (!scan_pick_to(&x->s, WORDS("line", words), &which)) return false;
	switch (which) {
	case L_time: return time_line(x, at);
	case L_family:
		at = x->s;
		if (!scan_string(&x->s, "a quoted family", &x->family)) return false;
		return x->family || scan_fail(&at, "a family without a name");
	case L_device:
		return once(x, at, "the device", &x->device_at) &&
		       scan_name(&x->s, "the device it was measured on", &x->p->device);
	case L_ranks: return ranks_line(x, at);
	case L_layer: return layer_line(x);
	default: break;
	}
	if (!scan_string(&x->s, "a quoted text", &text)) return false;
	if (x->p->nprovenance == MAX_LINES)
		return scan_fail(&at, "more than %d lines of provenance", MAX_LINES);
	PUSH(x->a, x->p->provenance, x->p->nprovenance, x->cprovenance, text);
	return true;
}

/* A time and where it stands, for sorting. */
typedef struct Placed {
	KernelTime t;
	Loc at;
} Placed;

static int
compare_placed(const void *a, const void *b)
{
	const Placed *x = a, *y = b;
	int c = compare_keys(&x->t.key, &y->t.key);
	return c ? c : x->at.line < y->at.line ? -1 : x->at.line > y->at.line;
}

static void
sort_times(Prof *x)
{
	Placed *all = NEW_N(x->a, Placed, x->p->n);
	for (uint32_t i = 0; i < x->p->n; i++)
		all[i] = (Placed){x->p->time[i], x->at[i]};
	qsort(all, x->p->n, sizeof *all, compare_placed);
	for (uint32_t i = 0; i < x->p->n; i++) {
		const Placed *was = i ? &all[i - 1] : NULL;
		x->p->time[i] = all[i].t;
		if (was && was->t.key.family == all[i].t.key.family &&
		    compare_keys(&was->t.key, &all[i].t.key) == 0) {
			diag_error(x->s.diag, all[i].at, "the time of this kernel twice");
			diag_note(x->s.diag, was->at, "given here before");
		} else if (was && was->t.key.family == all[i].t.key.family &&
			   was->t.key.n != all[i].t.key.n) {
			diag_error(x->s.diag, all[i].at,
				   "%d extents in a family whose kernels have %d",
				   all[i].t.key.n, was->t.key.n);
			diag_note(x->s.diag, was->at, "as here");
		}
	}
}

Profile *
profile_parse(Arena *a, Names *n, Diag *d, Name file, const char *text, size_t len)
{
	Prof *x = NEW(a, Prof);
	int before = diag_errors(d);
	x->a = a;
	x->p = NEW(a, Profile);
	x->p->file = file;
	x->p->ranks = x->p->threads = 1;
	scan_init(&x->s, n, d, file, text, len);
	if (!scan_line(&x->s))
		scan_fail(&x->s, "a profile begins with the line `prof 1`");
	else if (scan_key(&x->s, "prof") &&
		 scan_int(&x->s, "the version of the format", 1, 1, &(int64_t){0}) &&
		 scan_done(&x->s))
		while (!diag_stop(d) && scan_line(&x->s))
			if (line(x)) scan_done(&x->s);
	if (diag_errors(d) == before) sort_times(x);
	return diag_errors(d) == before ? x->p : NULL;
}

/* ---- printing ---- */

typedef struct Group { /* times of one family */
	const char *family;
	uint32_t first, n;
} Group;

static int
compare_groups(const void *a, const void *b)
{
	return strcmp(((const Group *)a)->family, ((const Group *)b)->family);
}

static void
print_time(const KernelTime *t, Buf *out)
{
	buf_puts(out, "time");
	for (int i = 0; i < t->key.n; i++)
		buf_printf(out, " %" PRId64, t->key.extent[i]);
	buf_puts(out, " : ");
	text_time(out, (double)t->ns);
	if (t->spread) {
		buf_puts(out, " spread ");
		buf_double(out, t->spread);
	}
	if (t->runs != 1) buf_printf(out, " runs %" PRIu32, t->runs);
	buf_putc(out, '\n');
}

/* Families in the order of their text, which does not depend on what else was named. */
void
profile_print(const Profile *p, const Names *n, Buf *out)
{
	Group *g = NEW_N(out->arena, Group, p->n);
	uint32_t groups = 0;
	buf_puts(out, "prof 1\n");
	if (p->device) {
		buf_puts(out, "device ");
		text_name(out, name_str(n, p->device));
		buf_putc(out, '\n');
	}
	buf_printf(out, "ranks %" PRIu32 " threads %" PRIu32 "\n", p->ranks, p->threads);
	for (uint32_t i = 0; i < p->nprovenance; i++) {
		buf_puts(out, "provenance ");
		text_quoted(out, name_str(n, p->provenance[i]));
		buf_putc(out, '\n');
	}
	for (uint32_t i = 0; i < p->nlayer; i++) {
		const LayerTime *l = &p->layer[i];
		buf_puts(out, "layer ");
		text_name(out, name_str(n, l->layer));
		buf_puts(out, " :");
		for (uint32_t k = 0; k < l->n; k++) {
			buf_printf(out, " %" PRId64 ":", l->samples[k]);
			text_time(out, (double)l->ns[k]);
		}
		buf_putc(out, '\n');
	}
	for (uint32_t i = 0; i < p->n; i++) {
		if (i && p->time[i].key.family == p->time[i - 1].key.family)
			g[groups - 1].n++;
		else
			g[groups++] = (Group){name_str(n, p->time[i].key.family), i, 1};
	}
	qsort(g, groups, sizeof *g, compare_groups);
	for (uint32_t k = 0; k < groups; k++) {
		buf_puts(out, "\nfamily ");
		text_quoted(out, g[k].family);
		buf_putc(out, '\n');
		for (uint32_t i = g[k].first; i < g[k].first + g[k].n; i++)
			print_time(&p->time[i], out);
	}
}
