/*
 * search_dp.c - dynamic programming over layers, candidates and stage boundaries, on a table of integers.
 *
 * Input: what every layer costs under every candidate (ns, bytes). Output: a candidate for every layer and the first
 * layer of every stage, for the least
 *
 *   sum of t + (microbatches - 1) * max of t + max of once
 *
 * over the stages, where t is a microbatch's time through a stage and `once` what a step costs beside its microbatches;
 * no stage's memory (state + slots * saved + the most work of one layer) is above the limit. Knows nothing of the IR.
 *
 * Two levels. SPANS: for layers i .. j of one stage, the Pareto frontier of (t, once, bytes, work), grown layer by layer.
 * Spans inside a run of equal layers depend on their length only and are made once. CUTS: for a stage that ends at layer
 * j, the frontier of (sum, max, once) over where it began. With `keep` = 0 nothing is thinned and the optimum is exact;
 * else a frontier keeps that many points, the fastest and the smallest among them, and equal layers in a row share a group. Ties go to the lower index.
 *
 * With a bound, whatever cannot be part of a plan below it is left out at once: the layers outside a span or behind a cut
 * take at least what the fastest candidate takes, and the slowest stage at least the mean. That leaves a narrow band of
 * boundaries, so that the time it takes hardly grows with the number of stages. It is exact.
 */
#include <stdlib.h>
#include <string.h>

#include "passes/passes.h"

typedef struct Point Point;
struct Point {
	int64_t t, once, bytes, work;
	int64_t score;     /* of a step if all stages were alike */
	const Point *prev; /* without its last layer */
	uint32_t group, cand;
	uint32_t number; /* in order of making: breaks ties */
	bool roomy;      /* fits whatever its stage takes up yet: its bytes do not matter */
};

typedef struct Close { /* a span as a stage: what it needs no longer matters */
	int64_t t, once;
	const Point *p;
} Close;

typedef struct Span {
	bool made, closed;
	Point *p; /* as by_score() says */
	uint32_t n, cap;
	Close *stage; /* frontier: rising t, falling once */
	uint32_t nstage;
} Span;

typedef struct Cut Cut;
struct Cut { /* stages 0 .. s, the last of which ends before layer j */
	int64_t sum, max, once;
	const Cut *prev;
	const Point *stage;
	uint32_t first;
};

typedef struct CutList {
	Cut *c;
	uint32_t n, cap;
} CutList;

typedef struct Dp {
	const LayerTable *t;
	Arena *a;
	uint32_t *run_end; /* [nlayers] end of the run of equal layers a layer is in */
	int64_t *most; /* [nlayers + 1] the most bytes layers i .. can take, work included */
	Span *runs, *spans; /* of the stage at hand: [layer of a run's begin][length]; [i][j] */
	int64_t slots;
	int64_t *least_t,
	    *least_once; /* [nlayers + 1] of the fastest candidates of layers 0 .. */
	int64_t slowest,
	    enter; /* of those, the slowest; the least any candidate takes to enter */
} Dp;

static int64_t
most(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static int64_t
time_of(const Dp *d, int64_t sum, int64_t max, int64_t once)
{
	return sum + ((int64_t)d->t->microbatches - 1) * max + once;
}

/* ---- bounds ---- */

/* The least t and once of every layer, each for itself. False: a layer does not fit by itself. */
static bool
find_least(Dp *d)
{
	const LayerTable *t = d->t;
	d->least_t = NEW_N(d->a, int64_t, t->nlayers + 1);
	d->least_once = NEW_N(d->a, int64_t, t->nlayers + 1);
	d->enter = INT64_MAX;
	for (uint32_t i = 0; i < t->nlayers; i++) {
		int64_t least = INT64_MAX, once = INT64_MAX;
		for (uint32_t k = 0; k < t->ncand[t->class_of[i]]; k++) {
			const LayerCost *c = &t->cost[t->class_of[i]][k];
			if (c->state + c->saved + c->work > t->limit) continue;
			if (c->time < least) least = c->time;
			if (c->once < once) once = c->once;
			if (i && c->enter < d->enter) d->enter = c->enter;
		}
		if (least == INT64_MAX) return false;
		d->least_t[i + 1] = d->least_t[i] + least;
		d->least_once[i + 1] = d->least_once[i] + once;
		d->slowest = most(d->slowest, least);
	}
	if (d->enter == INT64_MAX) d->enter = 0;
	return true;
}

/* A plan one of whose stages has layers i .. j takes no less if that stage takes t and once. */
static int64_t
least_with(const Dp *d, uint32_t i, uint32_t j, int64_t t, int64_t once)
{
	uint32_t n = d->t->nlayers, stages = d->t->stages;
	int64_t more = most(0, t - d->enter - (d->least_t[j] - d->least_t[i]));
	int64_t sum = d->least_t[n] + (stages - 1) * d->enter + more;
	int64_t all = d->least_once[n] - (d->least_once[j] - d->least_once[i]) + once;
	return time_of(d, sum, most(most(t, d->slowest), sum / stages),
		       most(once, all / stages));
}

/* What follows behind layer j in `left` stages makes of a cut at least this. */
static int64_t
least_after(const Dp *d, uint32_t j, uint32_t left, int64_t sum, int64_t max, int64_t once)
{
	uint32_t n = d->t->nlayers;
	if (!left) return time_of(d, sum, max, once);
	int64_t rest = d->least_t[n] - d->least_t[j] + left * d->enter;
	int64_t later = (d->least_once[n] - d->least_once[j]) / left;
	return time_of(d, sum + rest, most(max, rest / left), most(once, later));
}

int64_t
search_least(Arena *a, const LayerTable *t)
{
	Dp d = {.t = t, .a = a};
	if (!t->nlayers || !t->stages || t->stages > t->nlayers || !find_least(&d))
		return INT64_MAX;
	return least_with(&d, 0, 0, 0, 0);
}

/* ---- spans ---- */

/* a is as good as b in everything. With one stage the score is the objective; what surely fits, fits whatever its bytes. */
static bool
beats(const Dp *d, const Point *a, const Point *b)
{
	if (a->group != b->group || a->score > b->score) return false;
	if (d->t->stages > 1 && (a->t > b->t || a->once > b->once)) return false;
	return a->roomy || (a->bytes <= b->bytes && a->work <= b->work);
}

/* By group, then score: whatever beats a point comes before it, but for ties. A total order. */
static int
by_score(const void *x, const void *y)
{
	const Point *a = x, *b = y;
	if (a->group != b->group) return a->group < b->group ? -1 : 1;
	if (a->score != b->score) return a->score < b->score ? -1 : 1;
	if (a->t != b->t) return a->t < b->t ? -1 : 1;
	if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1;
	if (a->work != b->work) return a->work < b->work ? -1 : 1;
	return a->number < b->number ? -1 : a->number > b->number;
}

/* Sorts, and leaves the frontier. */
static void
frontier(const Dp *d, Span *s)
{
	uint32_t kept = 0, group = 0; /* where the group at hand begins */
	if (s->n) qsort(s->p, s->n, sizeof *s->p, by_score);
	for (uint32_t i = 0; i < s->n; i++) {
		Point p = s->p[i];
		bool beaten = false;
		if (kept && s->p[kept - 1].group != p.group) group = kept;
		for (uint32_t k = group; k < kept && !beaten; k++)
			beaten = beats(d, &s->p[k], &p);
		if (!beaten) s->p[kept++] = p;
	}
	s->n = kept;
}

/* Of each group at most `keep` points: evenly in their order, and the one that needs least memory. */
static void
thin(const Dp *d, Span *s)
{
	uint32_t keep = d->t->keep, out = 0;
	for (uint32_t from = 0, to; keep && from < s->n; from = to) {
		uint32_t least = from;
		for (to = from; to < s->n && s->p[to].group == s->p[from].group; to++)
			if (s->p[to].bytes + s->p[to].work <
			    s->p[least].bytes + s->p[least].work)
				least = to;
		uint32_t n = to - from, next = 0;
		for (uint32_t k = 0; k < n; k++) {
			bool even = n <= keep || k == (uint32_t)((uint64_t)next * n / keep);
			next += even;
			if (even || from + k == least) s->p[out++] = s->p[from + k];
		}
	}
	if (keep) s->n = out;
}

/* `s` = layers i .. j: the points of `before` (NULL: none, a stage begins) and one layer more; `rest`: the most bytes that may follow. */
static void
extend(Dp *d, Span *s, const Span *before, uint32_t i, uint32_t j, int64_t rest)
{
	uint32_t class = d->t->class_of[j - 1];
	bool alike = before && class == d->t->class_of[j - 2];
	static const Point begin = {.group = UINT32_MAX};
	uint32_t n = before ? before->n : 1;
	int64_t turns = (int64_t)d->t->microbatches + d->t->stages - 1;
	s->made = true;
	for (uint32_t b = 0; b < n; b++) {
		const Point *p = before ? &before->p[b] : &begin;
		for (uint32_t k = 0; k < d->t->ncand[class]; k++) {
			const LayerCost *c = &d->t->cost[class][k];
			bool enters = c->group != p->group;
			if (enters && alike && d->t->keep) continue;
			Point q = {.t = p->t + c->time + (enters ? c->enter : 0),
				   .once = p->once + c->once,
				   .bytes =
				       p->bytes + c->state +
				       d->slots * (c->saved + (enters ? c->enter_saved : 0)),
				   .work = c->work > p->work ? c->work : p->work,
				   .prev = before ? p : NULL,
				   .group = c->group,
				   .cand = k,
				   .number = s->n};
			if (q.bytes + q.work > d->t->limit) continue;
			if (least_with(d, i, j, q.t, q.once) >= d->t->bound) continue;
			q.score = turns * q.t + q.once;
			q.roomy = q.bytes + rest <= d->t->limit;
			PUSH(d->a, s->p, s->n, s->cap, q);
		}
	}
	frontier(d, s);
	thin(d, s);
}

/* Layers i .. j of one stage. The points it grew from must not move any more: spans are grown in rising order of j. */
static Span *
span(Dp *d, uint32_t i, uint32_t j)
{
	uint32_t n = d->t->nlayers, end = d->run_end[i], first = end;
	while (first && d->t->class_of[first - 1] == d->t->class_of[i])
		first--; /* the run's first layer stands for all of it */
	Span *s = j <= end ? &d->runs[(size_t)first * (n + 1) + (j - i)]
			   : &d->spans[(size_t)i * (n + 1) + j];
	if (s->made) return s;
	const Span *before = j - i > 1 ? span(d, i, j - 1) : NULL;
	if (before && !before->n)
		s->made = true; /* nothing fits: nor does more */
	else
		extend(d, s, before, i, j, d->most[j <= end ? first + (j - i) : j]);
	return s;
}

static int
by_time(const void *x, const void *y)
{
	const Close *a = x, *b = y;
	if (a->t != b->t) return a->t < b->t ? -1 : 1;
	if (a->once != b->once) return a->once < b->once ? -1 : 1;
	return a->p < b->p ? -1 : a->p > b->p;
}

/* The frontier of a span in t and once alone. Its points do not move any more. */
static const Span *
stage_of(Dp *d, uint32_t i, uint32_t j)
{
	Span *s = span(d, i, j);
	uint32_t kept = 0;
	if (s->closed || !s->n) return s;
	s->closed = true;
	s->stage = NEW_N(d->a, Close, s->n);
	for (uint32_t k = 0; k < s->n; k++)
		s->stage[k] = (Close){s->p[k].t, s->p[k].once, &s->p[k]};
	qsort(s->stage, s->n, sizeof *s->stage, by_time);
	for (uint32_t k = 0; k < s->n; k++)
		if (!kept || s->stage[k].once < s->stage[kept - 1].once)
			s->stage[kept++] = s->stage[k];
	s->nstage = kept;
	return s;
}

/* ---- cuts ---- */

static bool
cut_beats(const Cut *a, const Cut *b)
{
	return a->sum <= b->sum && a->max <= b->max && a->once <= b->once;
}

static void
add_cut(Dp *d, CutList *l, Cut c)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < l->n; i++)
		if (cut_beats(&l->c[i], &c)) return;
	for (uint32_t i = 0; i < l->n; i++)
		if (!cut_beats(&c, &l->c[i])) l->c[kept++] = l->c[i];
	l->n = kept;
	PUSH(d->a, l->c, l->n, l->cap, c);
}

static int64_t
cut_time(const Dp *d, const Cut *c)
{
	return time_of(d, c->sum, c->max, c->once);
}

/* At most `keep` cuts: the best as they stand. */
static void
thin_cuts(const Dp *d, CutList *l)
{
	for (uint32_t i = 1; i < l->n; i++) {
		Cut c = l->c[i];
		uint32_t j = i;
		for (; j && cut_time(d, &c) < cut_time(d, &l->c[j - 1]); j--)
			l->c[j] = l->c[j - 1];
		l->c[j] = c;
	}
	if (d->t->keep && l->n > d->t->keep) l->n = d->t->keep;
}

/* `out` += a stage of layers i .. j, `left` stages behind it, after each of `before` (NULL: the first stage). */
static void
add_stage(Dp *d, CutList *out, const CutList *before, uint32_t i, uint32_t j, uint32_t left)
{
	int64_t least = d->least_t[j] - d->least_t[i];
	uint32_t n = before ? before->n : 1;
	for (uint32_t b = 0; b < n; b++) {
		Cut none = {0}, *prev = before ? &before->c[b] : NULL;
		const Cut *p = prev ? prev : &none;
		if (least_after(d, j, left, p->sum + least, most(p->max, least), p->once) >=
		    d->t->bound)
			continue; /* before the span is made */
		const Span *s = stage_of(d, i, j);
		for (uint32_t k = 0; k < s->nstage; k++) {
			const Close *q = &s->stage[k];
			Cut c = {.sum = p->sum + q->t,
				 .max = most(p->max, q->t),
				 .once = most(p->once, q->once),
				 .prev = prev,
				 .stage = q->p,
				 .first = i};
			if (least_after(d, j, left, c.sum, c.max, c.once) < d->t->bound)
				add_cut(d, out, c);
		}
	}
}

/* Microbatches in flight in stage k. */
uint32_t
search_slots(Schedule schedule, uint32_t stages, uint32_t k, uint32_t microbatches)
{
	uint32_t slots = schedule == SCH_gpipe ? microbatches : stages - k;
	return slots < microbatches ? slots : microbatches;
}

/* What layers i .. take at most under the worst candidates, with the most work of any layer. */
static void
find_most(Dp *d)
{
	uint32_t n = d->t->nlayers;
	int64_t work = 0;
	d->most = NEW_N(d->a, int64_t, n + 1);
	for (uint32_t i = n; i-- > 0;) {
		uint32_t class = d->t->class_of[i];
		int64_t worst = 0;
		for (uint32_t k = 0; k < d->t->ncand[class]; k++) {
			const LayerCost *c = &d->t->cost[class][k];
			worst = most(worst, c->state + d->slots * (c->saved + c->enter_saved));
			work = most(work, c->work);
		}
		d->most[i] = d->most[i + 1] + worst;
	}
	for (uint32_t i = 0; i <= n; i++)
		d->most[i] += work;
}

static void
find_runs(Dp *d)
{
	uint32_t n = d->t->nlayers;
	d->run_end = NEW_N(d->a, uint32_t, n);
	for (uint32_t i = n; i-- > 0;)
		d->run_end[i] = i + 1 < n && d->t->class_of[i] == d->t->class_of[i + 1]
				    ? d->run_end[i + 1]
				    : i + 1;
}

static void
read_back(const Dp *d, const Cut *c, Arena *a, Assignment *out)
{
	uint32_t end = d->t->nlayers;
	out->time = cut_time(d, c);
	out->once = c->once;
	out->most = c->max;
	out->first = NEW_N(a, uint32_t, d->t->stages);
	out->bytes = NEW_N(a, int64_t, d->t->stages);
	out->cand = NEW_N(a, uint32_t, d->t->nlayers);
	for (uint32_t k = d->t->stages; k-- > 0; c = c->prev) {
		out->first[k] = c->first;
		out->bytes[k] = c->stage->bytes + c->stage->work;
		for (const Point *p = c->stage; p; p = p->prev)
			out->cand[--end] = p->cand;
		ENSURE(end == c->first, "a stage lost layers");
	}
}

/* The cuts of stage k, given those of the stage before. */
static CutList *
cut_stage(Dp *d, uint32_t k, CutList *at)
{
	uint32_t n = d->t->nlayers, left = d->t->stages - 1 - k;
	CutList *now = NEW_N(d->a, CutList, n + 1);
	for (uint32_t j = left ? k + 1 : n; j + left <= n; j++) {
		for (uint32_t i = k; i < j && (k || i == 0); i++)
			if (!k || at[i].n) add_stage(d, &now[j], k ? &at[i] : NULL, i, j, left);
		thin_cuts(d, &now[j]);
	}
	return now;
}

bool
search_dp(Arena *a, const LayerTable *t, Assignment *out)
{
	uint32_t n = t->nlayers;
	size_t bytes = sizeof(Span) * (n + 1) * (n + 1);
	if (!n || !t->stages || t->stages > n) return false;
	Dp d = {.t = t, .a = arena_new()};
	CutList *at = NULL; /* [j] of the stage before */
	bool found = find_least(&d);
	find_runs(&d);
	d.runs = arena_alloc(d.a, bytes);
	d.spans = arena_alloc(d.a, bytes);
	for (uint32_t k = 0; found && k < t->stages; k++) {
		int64_t slots = search_slots(t->schedule, t->stages, k, t->microbatches);
		if (k && slots != d.slots) {
			memset(d.runs, 0, bytes);
			memset(d.spans, 0, bytes);
		}
		if (slots != d.slots) {
			d.slots = slots;
			find_most(&d);
		}
		at = cut_stage(&d, k, at);
	}
	found = found && at[n].n;
	if (found) read_back(&d, &at[n].c[0], a, out);
	arena_free(d.a);
	return found;
}
