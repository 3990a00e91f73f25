/*
 * galvatron_hw.c - a machine out of Hetu-Galvatron's hardware files.
 *
 * Input: what galvatron_read.c read. Output: a Cluster of N nodes x G devices, whose every number was measured or follows
 * from one, each said in its provenance:
 *
 *   all_reduce, all_to_all   times by message where a table has them, else a line of the bus bandwidth B: a group of n
 *                            takes 2 (n - 1) / n bytes / B
 *   message                  a line of p2p's bandwidth
 *   near                     rate: the fastest group in a node; time before the first byte: where the line through the
 *                            two smallest messages of the group of two meets 0 bytes, for each of its two steps
 *   far                      what all groups across nodes together send out of a node, the most of it; one device's share
 *                            of it is what one group of one device a node reached (rails = G)
 *
 * Not measured, and not here: all_gather and reduce_scatter, which prices take as half an all_reduce.
 * Groups that are not consecutive have members W / n apart, all of them running at once.
 */
#include "ir/galvatron.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define MB 1048576.0
enum {
	LINE_FROM = 1 << 20,
	LINE_TO = 1 << 30
}; /* bytes at which a bandwidth becomes two points */

typedef struct Make {
	const GalFiles *f;
	Cluster *c;
	uint32_t nodes, gpus;
	GalFrom largest; /* the file that says so */
	uint32_t ccurve, cprovenance;
	NodeRun *run;
} Make;

static void GV_PRINTF(2, 3) say(Make *k, const char *fmt, ...)
{
	Buf b;
	va_list ap;

	buf_init(&b, k->f->arena);
	va_start(ap, fmt);
	buf_vprintf(&b, fmt, ap);
	va_end(ap);
	PUSH(k->f->arena, k->c->provenance, k->c->nprovenance, k->cprovenance,
	     name_of(k->f->names, b.s));
}

/* Something is not there: a warning now, a line for whoever reads the .hw. */
static void GV_PRINTF(2, 3) missing(Make *k, const char *fmt, ...)
{
	Buf b;
	va_list ap;

	buf_init(&b, k->f->arena);
	va_start(ap, fmt);
	buf_vprintf(&b, fmt, ap);
	va_end(ap);
	diag_warn(k->f->diag, (Loc){0}, "%s", b.s);
	say(k, "missing: %s", b.s);
}

static const char *
file_str(const Make *k, Name file)
{
	const char *s = name_str(k->f->names, file), *slash = strrchr(s, '/');

	return slash ? slash + 1 : s;
}

/* ---- the shape of the machine ---- */

static bool
take_shape(Make *k, const GalFrom *from)
{
	if (!from->nodes) {
		diag_error(k->f->diag, (Loc){.file = from->file},
			   "for which machine? the name of such a file ends in "
			   "_Nnodes_Ggpus_per_node.json");
		return false;
	}
	if (k->gpus && k->gpus != from->gpus) {
		diag_error(k->f->diag, (Loc){.file = from->file},
			   "nodes of %" PRIu32 " devices; %s says %" PRIu32, from->gpus,
			   file_str(k, k->largest.file), k->gpus);
		return false;
	}
	if (from->nodes > k->nodes) {
		k->nodes = from->nodes;
		k->largest = *from;
	}
	k->gpus = from->gpus;
	return true;
}

static bool
shape(Make *k)
{
	const GalFiles *f = k->f;
	bool ok = true;

	for (uint32_t i = 0; ok && i < f->nall_reduce; i++)
		ok = take_shape(k, &f->all_reduce[i].from);
	for (uint32_t i = 0; ok && i < f->np2p; i++)
		ok = take_shape(k, &f->p2p[i].from);
	for (uint32_t i = 0; ok && i < f->ntable; i++)
		ok = take_shape(k, &f->table[i].from);
	if (ok && !k->nodes)
		diag_error(f->diag, (Loc){0},
			   "no file says what the machine is: allreduce_bandwidth_*, "
			   "p2p_bandwidth_* or sp_time_*_Nnodes_Ggpus_per_node.json");
	return ok && k->nodes;
}

/* Where a group of a file lies. False after a diagnostic: not in that machine. */
typedef struct Place {
	uint32_t nodes, stride, beside; /* beside: groups like it that leave the same node */
} Place;

static bool
place(Make *k, const GalFrom *from, uint32_t n, bool consecutive, Place *out)
{
	uint32_t world = from->nodes * from->gpus;
	uint32_t step = consecutive || !n || n > world ? 1 : world / n;
	uint32_t per = step >= from->gpus ? 1 : from->gpus / step;

	if (!n || n > world || world % n || (per < n && (from->gpus % step || n % per))) {
		diag_error(k->f->diag, (Loc){.file = from->file},
			   "a group of %" PRIu32 "%s has no equal parts on %" PRIu32
			   " x %" PRIu32 " devices",
			   n, consecutive ? "" : " with gaps", from->nodes, from->gpus);
		return false;
	}
	if (per > n) per = n;
	*out = (Place){.nodes = n / per,
		       .stride = per > 1 ? step : 1,
		       .beside = n > per ? from->gpus / per : 1};
	return true;
}

/* ---- curves ---- */

static CollCurve *
find_curve(const Make *k, PrimKind kind, uint32_t ranks, uint32_t nodes, uint32_t stride)
{
	for (uint32_t i = 0; i < k->c->ncurve; i++) {
		CollCurve *v = &k->c->curve[i];

		if (v->kind == kind && v->ranks == ranks && v->nodes == nodes &&
		    v->stride == stride)
			return v;
	}
	return NULL;
}

/* NULL: there is one already, and the first counts. */
static CollCurve *
new_curve(Make *k, PrimKind kind, uint32_t ranks, const Place *at, uint32_t n)
{
	Arena *a = k->f->arena;
	CollCurve v = {.kind = kind,
		       .ranks = ranks,
		       .nodes = at->nodes,
		       .stride = at->stride,
		       .bytes = NEW_N(a, int64_t, n),
		       .ns = NEW_N(a, int64_t, n)};

	if (find_curve(k, kind, ranks, at->nodes, at->stride)) return NULL;
	PUSH(a, k->c->curve, k->c->ncurve, k->ccurve, v);
	return &k->c->curve[k->c->ncurve - 1];
}

static void
add_point(CollCurve *v, double bytes, double ns)
{
	int64_t t = (int64_t)nearbyint(fmin(ns, 9e18));

	v->bytes[v->n] = (int64_t)bytes;
	v->ns[v->n++] = t < 1 ? 1 : t;
}

/* `passes` times the bytes at so many MB/ms. */
static void
add_line(CollCurve *v, double passes, double rate)
{
	add_point(v, LINE_FROM, passes * LINE_FROM / (rate * MB) * 1e6);
	add_point(v, LINE_TO, passes * LINE_TO / (rate * MB) * 1e6);
}

static double
ring_passes(uint32_t n)
{
	return 2.0 * (n - 1) / n;
}

static bool
tables(Make *k)
{
	const GalFiles *f = k->f;

	for (uint32_t i = 0; i < f->ntable; i++) {
		const GalTable *t = &f->table[i];
		Place at;
		CollCurve *v;

		if (!place(k, &t->from, t->ranks, true, &at)) return false;
		v = new_curve(k, t->kind, t->ranks, &at, t->n);
		for (uint32_t p = 0; v && p < t->n; p++)
			add_point(v, t->point[p].mb * MB, t->point[p].ms * 1e6);
	}
	return true;
}

static bool
bandwidths(Make *k)
{
	const GalFiles *f = k->f;

	for (uint32_t i = 0; i < f->nall_reduce; i++) {
		const GalRate *r = &f->all_reduce[i];
		Place at;
		CollCurve *v;

		if (!place(k, &r->from, r->ranks, r->consecutive, &at)) return false;
		v = new_curve(k, PR_all_reduce, r->ranks, &at, 2);
		if (v) add_line(v, ring_passes(r->ranks), r->rate);
	}
	return true;
}

/* Neighbouring stages are W / p devices apart. Within a node that is the stride; across nodes only where all are: else the
 * rate is that of the few that cross. */
static bool
messages(Make *k)
{
	const GalFiles *f = k->f;

	for (uint32_t i = 0; i < f->np2p; i++) {
		const GalRate *r = &f->p2p[i];
		uint32_t world = r->from.nodes * r->from.gpus;
		Place at = {.nodes = r->from.nodes > 1 ? 2 : 1, .stride = 1};
		CollCurve *v;

		if (r->ranks > world || world % r->ranks) {
			diag_error(f->diag, (Loc){.file = r->from.file},
				   "%" PRIu32 " stages have no equal parts of %" PRIu32
				   " devices",
				   r->ranks, world);
			return false;
		}
		if (at.nodes == 1) at.stride = world / r->ranks;
		if (at.nodes == 2 && r->ranks != r->from.nodes) continue;
		v = new_curve(k, PR_exchange, 2, &at, 2);
		if (v) add_line(v, 1, r->rate);
	}
	return true;
}

/* ---- links ---- */

static void
near_link(Make *k)
{
	const GalFiles *f = k->f;
	double best = 0, ns = 0;
	Place at;

	for (uint32_t i = 0; i < k->c->ncurve; i++) {
		const CollCurve *v = &k->c->curve[i];
		double passes = v->kind == PR_all_reduce ? ring_passes(v->ranks) : 1;

		if (v->nodes > 1 || (v->kind != PR_all_reduce && v->kind != PR_exchange))
			continue;
		best =
		    fmax(best, passes * (double)v->bytes[v->n - 1] / (double)v->ns[v->n - 1]);
	}
	for (uint32_t i = 0; i < f->ntable; i++) {
		const GalTable *t = &f->table[i];

		if (t->kind != PR_all_reduce || t->ranks != 2 || t->n < 2 ||
		    !place(k, &t->from, 2, true, &at) || at.nodes > 1)
			continue;
		const struct GalPoint *p = t->point;
		double slope = (p[1].ms - p[0].ms) / (p[1].mb - p[0].mb);

		ns = fmax(0, (p[0].ms - slope * p[0].mb) / 2) * 1e6;
	}
	k->run->near = (Link){nearbyint(ns), nearbyint(best * 1e9)};
	if (best > 0)
		say(k, "near: the fastest group in a node; %s",
		    ns > 0 ? "before the first byte, what messages of no size would take by "
			     "sp_time"
			   : "the time before the first byte was not measured and is 0");
}

static void
far_link(Make *k)
{
	const GalFiles *f = k->f;
	double best = 0, p2p = 0;
	Place at;

	for (uint32_t i = 0; i < f->nall_reduce; i++) {
		const GalRate *r = &f->all_reduce[i];

		if (place(k, &r->from, r->ranks, r->consecutive, &at) && at.nodes > 1)
			best = fmax(best, r->rate * at.beside);
	}
	for (uint32_t i = 0; i < f->np2p; i++) {
		const GalRate *r = &f->p2p[i];

		if (r->from.nodes > 1 && r->ranks == r->from.nodes) p2p = r->rate * k->gpus;
	}
	if (best <= 0) best = p2p;
	k->run->far = (Link){0, nearbyint(best * MB * 1e3)};
	k->run->rails = k->gpus;
	if (best > 0)
		say(k, "far: what all groups across nodes send out of a node together, at its "
		       "most; a device's share by itself; the time before the first byte was "
		       "not measured and is 0");
}

/* ---- what is missing ---- */

static void
say_missing(Make *k)
{
	const GalFiles *f = k->f;
	bool across = false;

	for (uint32_t i = 0; i < f->ntable; i++)
		across |= f->table[i].from.nodes == k->nodes;
	if (!across)
		missing(
		    k,
		    "sp_time_%" PRIu32 "nodes_%" PRIu32
		    "gpus_per_node.json: times by message size and all-to-alls of groups%s; "
		    "%s",
		    k->nodes, k->gpus, k->nodes > 1 ? " across nodes" : "",
		    f->nall_reduce ? "all-reduces are lines of allreduce_bandwidth, "
				     "all-to-alls go by the links"
				   : "they go by the links");
	if (!f->nall_reduce)
		missing(
		    k,
		    "allreduce_bandwidth_%" PRIu32 "nodes_%" PRIu32
		    "gpus_per_node.json: all-reduces of groups that are not consecutive; they "
		    "go by the links",
		    k->nodes, k->gpus);
	if (!f->np2p)
		missing(k,
			"p2p_bandwidth_%" PRIu32 "nodes_%" PRIu32
			"gpus_per_node.json: messages between stages; they go by the links",
			k->nodes, k->gpus);
	if (f->overlap <= 0)
		missing(k,
			"overlap_coefficient.json: how much computing and communication slow "
			"each other down; they take turns here");
}

static bool
links_there(Make *k)
{
	bool near = k->gpus == 1 || k->run->near.bytes > 0,
	     far = k->nodes == 1 || k->run->far.bytes > 0;

	if (!near)
		diag_error(
		    k->f->diag, (Loc){0},
		    "no group inside a node was measured: allreduce_bandwidth_* or sp_time_* "
		    "of 1 node has them");
	if (!far)
		diag_error(k->f->diag, (Loc){0},
			   "no group across nodes was measured: allreduce_bandwidth_%" PRIu32
			   "nodes_%" PRIu32 "gpus_per_node.json has them",
			   k->nodes, k->gpus);
	return near && far;
}

/* A bandwidth that is not that of the table beside it: both are the authors', the table counts. */
static void
say_differing(Make *k)
{
	const GalFiles *f = k->f;

	for (uint32_t i = 0; i < f->nall_reduce; i++) {
		const GalRate *r = &f->all_reduce[i];
		Place at;

		if (!r->consecutive || !place(k, &r->from, r->ranks, true, &at) || at.nodes > 1)
			continue;
		for (uint32_t j = 0; j < f->ntable; j++) {
			const GalTable *t = &f->table[j];
			const struct GalPoint *p = &t->point[t->n - 1];

			if (t->kind != PR_all_reduce || t->ranks != r->ranks) continue;
			say(k,
			    "%s: %" PRIu32
			    " consecutive ranks reach %.4g MB/ms; not used, %s has "
			    "times by size (%.4g MB/ms at %" PRIu32 " MB)",
			    file_str(k, r->from.file), r->ranks, r->rate,
			    file_str(k, t->from.file), ring_passes(t->ranks) * p->mb / p->ms,
			    p->mb);
			break;
		}
	}
}

Cluster *
gal_cluster(const GalFiles *f, const Device *kind)
{
	Make k = {.f = f, .c = NEW(f->arena, Cluster)};
	Cluster *c = k.c;

	if (!shape(&k)) return NULL;
	c->name = name_fmt(f->names, "galvatron_%" PRIu32 "x%" PRIu32, k.nodes, k.gpus);
	c->device = arena_dup(f->arena, kind, sizeof *kind);
	c->ndevice = 1;
	/* the links below are what was reached, not what a data sheet says */
	c->device[0].eff[EF_near] = c->device[0].eff[EF_far] = 1;
	c->device[0].slow_compute = c->device[0].slow_comm = f->overlap;
	c->run = k.run = NEW(f->arena, NodeRun);
	c->nrun = 1;
	*k.run = (NodeRun){.nodes = k.nodes, .devices = k.gpus, .rails = 1};
	c->nodes = k.nodes;
	c->devices = k.nodes * k.gpus;
	for (uint32_t i = 0; i < f->nfile; i++)
		say(&k, "imported: %s (Hetu-Galvatron; MB = 2^20 bytes, ms)",
		    file_str(&k, f->file[i]));
	if (!tables(&k) || !bandwidths(&k) || !messages(&k)) return NULL;
	say(&k, "all_gather, reduce_scatter: not measured; half an all_reduce, as everywhere");
	if (k.gpus > 1) near_link(&k);
	if (k.nodes > 1) far_link(&k);
	say_differing(&k);
	say_missing(&k);
	return links_there(&k) ? c : NULL;
}
