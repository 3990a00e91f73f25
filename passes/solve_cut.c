/*
 * solve_cut.c - where stages begin, under one head.
 *
 * Stages meet in  sum t + (microbatches - 1) * max t + max once  only, so a plan of the first stages is worth (sum, max,
 * once), and a frontier of those is kept for every stage and layer it may end at; what the stages behind take at least is
 * known beforehand, and what can no longer come out under the time looked for is dropped.
 *
 * What a stage takes is at first only bounded from below (solve_price.c). The best plan by these bounds is found, the spans
 * in it are solved (solve_span.c), and that again until the best plan has solved spans only: most spans never are. A span is
 * solved for no more than what can be part of a plan under the time looked for, wherever it may lie.
 */
#include <math.h>
#include <string.h>

#include "passes/solve_parts.h"

enum { NONE = UINT32_MAX, MOST_CUTS = 2048 };

typedef struct Cut { /* stages 0 .. s, the last of which ends before layer j */
	int64_t sum, max, once;
	uint32_t prev; /* of the stage before, in the list of `first` */
	uint32_t first;
	uint32_t point; /* of its span; NONE: bounds */
} Cut;

typedef struct CutList {
	Cut *c;
	uint32_t n, cap;
} CutList;

typedef struct
    Side { /* what stages before or behind a boundary take at least, each by itself: [stage][layer] */
	int64_t *sum, *max, *once;
} Side;

struct Cutting {
	Solver *s;
	Arena *a;
	uint32_t head;
	int64_t *time, *limit; /* [stages] of the head; what it leaves */
	uint32_t *like;        /* [stages] the first stage that is the same */
	int64_t **t;           /* [stages][npairs] at least, head included; FAR: impossible */
	int64_t **once;        /* [stages][npairs] */
	int64_t enough;        /* some stage's once is at least that */
	Side before, behind;
	int64_t side_steps, side_work; /* to find them takes so many; when it was done */
	int64_t least;
	Span ***span;  /* [stages][npairs] under the time looked for */
	CutList *cuts; /* [stages][n + 1] */
	int64_t loss;
};

static size_t
at(const Cutting *c, uint32_t stage, uint32_t layer)
{
	return (size_t)stage * (c->s->n + 1) + layer;
}

static int64_t
step_time(const Cutting *c, int64_t sum, int64_t max, int64_t once)
{
	if (sum >= FAR || max >= FAR || once >= FAR) return FAR;
	return sum + (c->s->mb - 1) * max + once;
}

/* ---- bounds ---- */

static void
bound_stage(Cutting *c, uint32_t stage)
{
	Solver *s = c->s;
	const Kind *k = &s->kind[s->kind_of[stage]];
	int64_t *t = c->t[stage];
	double limit = (double)c->limit[stage];
	for (uint32_t x = 0; x < s->npairs; x++) {
		double left = limit - (double)k->least_work[x], best = 0;
		t[x] = FAR;
		if (!(k->least_bytes[x] <= left)) continue;
		for (uint32_t i = 0; i < k->nprice; i++) {
			double b = k->least[(size_t)i * s->npairs + x] - k->price[i] * left;
			if (b > best) best = b;
		}
		t[x] = far_add((int64_t)(best * (1 - 1e-12)), c->time[stage]);
	}
}

/* Stages that are the same share what is known of them. */
static void
bound_stages(Cutting *c)
{
	Solver *s = c->s;
	for (uint32_t i = 0; i < s->stages; i++) {
		uint32_t k = 0;
		while (k < i && (c->like[k] != k || s->kind_of[k] != s->kind_of[i] ||
				 c->limit[k] != c->limit[i] || c->time[k] != c->time[i]))
			k++;
		c->like[i] = k;
		if (k == i) {
			c->t[i] = NEW_N(c->a, int64_t, s->npairs);
			c->once[i] = arena_dup(c->a, s->kind[s->kind_of[i]].least_once,
					       sizeof(int64_t) * s->npairs);
			bound_stage(c, i);
		}
		c->t[i] = c->t[k];
		c->once[i] = c->once[k];
	}
}

/* The layers at which stage `stage` may begin: *from .. *to; behind the last stage, the end. */
static void
may_begin(const Solver *s, uint32_t stage, uint32_t *from, uint32_t *to)
{
	*from = stage == s->stages ? s->n : stage;
	*to = stage == 0 ? 0 : s->n - (s->stages - stage);
}

static void
side_clear(Cutting *c, Side *x)
{
	size_t cells = at(c, c->s->stages + 1, 0);
	if (!x->sum) x->sum = NEW_N(c->a, int64_t, 3 * cells);
	x->max = x->sum + cells;
	x->once = x->max + cells;
	for (size_t i = 0; i < 3 * cells; i++)
		x->sum[i] = FAR;
}

/* The spans of stage k from layer i on: they end at *from .. *to. */
static void
may_end(const Solver *s, uint32_t k, uint32_t i, uint32_t *from, uint32_t *to)
{
	may_begin(s, k + 1, from, to);
	if (*from <= i) *from = i + 1;
	if (*to > i + s->widest) *to = i + s->widest;
}

static void
find_behind(Cutting *c)
{
	Solver *s = c->s;
	Side *b = &c->behind;
	side_clear(c, b);
	size_t end = at(c, s->stages, s->n);
	b->sum[end] = b->max[end] = b->once[end] = 0;
	c->side_steps = 0;
	for (uint32_t k = s->stages; k-- > 0;) {
		const int64_t *t = c->t[k], *once = c->once[k];
		uint32_t i, last, j, to;
		may_begin(s, k, &i, &last);
		for (; i <= last; i++) {
			const uint32_t *pair = s->pair + (size_t)i * (s->widest + 1);
			int64_t sum = FAR, max = FAR, most_once = FAR;
			may_end(s, k, i, &j, &to);
			c->side_steps += to >= j ? to - j + 1 : 0;
			for (; j <= to; j++) {
				uint32_t x = pair[j - i];
				size_t rest = at(c, k + 1, j);
				if (x == NO_PAIR || b->sum[rest] >= FAR || t[x] >= FAR)
					continue;
				int64_t new_sum = b->sum[rest] + t[x];
				int64_t new_max = larger(b->max[rest], t[x]);
				int64_t new_once = larger(b->once[rest], once[x]);
				sum = new_sum < sum ? new_sum : sum;
				max = new_max < max ? new_max : max;
				most_once = new_once < most_once ? new_once : most_once;
			}
			b->sum[at(c, k, i)] = sum;
			b->max[at(c, k, i)] = max;
			b->once[at(c, k, i)] = most_once;
		}
	}
	c->least = step_time(c, b->sum[0], b->max[0], b->once[0]);
	c->enough = b->once[0];
}

static void
find_before(Cutting *c)
{
	Solver *s = c->s;
	Side *f = &c->before;
	side_clear(c, f);
	f->sum[0] = f->max[0] = f->once[0] = 0;
	for (uint32_t k = 0; k < s->stages; k++) {
		const int64_t *t = c->t[k], *once = c->once[k];
		uint32_t i, last, j, to;
		may_begin(s, k, &i, &last);
		for (; i <= last; i++) {
			const uint32_t *pair = s->pair + (size_t)i * (s->widest + 1);
			size_t from = at(c, k, i);
			int64_t sum = f->sum[from], max = f->max[from],
				most_once = f->once[from];
			if (sum >= FAR) continue;
			may_end(s, k, i, &j, &to);
			for (; j <= to; j++) {
				uint32_t x = pair[j - i];
				size_t then = at(c, k + 1, j);
				if (x == NO_PAIR || t[x] >= FAR) continue;
				int64_t new_sum = sum + t[x], new_max = larger(max, t[x]);
				int64_t new_once = larger(most_once, once[x]);
				if (new_sum < f->sum[then]) f->sum[then] = new_sum;
				if (new_max < f->max[then]) f->max[then] = new_max;
				if (new_once < f->once[then]) f->once[then] = new_once;
			}
		}
	}
}

static void
find_sides(Cutting *c)
{
	find_behind(c);
	find_before(c);
	c->side_work = c->s->work;
}

Cutting *
cut_new(Solver *s, uint32_t head)
{
	const SolveProblem *p = s->p;
	Arena *a = arena_new();
	Cutting *c = NEW(a, Cutting);
	c->a = a;
	c->s = s;
	c->head = head;
	c->time = NEW_N(c->a, int64_t, s->stages);
	c->limit = NEW_N(c->a, int64_t, s->stages);
	c->like = NEW_N(c->a, uint32_t, s->stages);
	c->t = NEW_N(c->a, int64_t *, s->stages);
	c->once = NEW_N(c->a, int64_t *, s->stages);
	for (uint32_t i = 0; i < s->stages; i++) {
		c->limit[i] = p->limit[i] - (p->nheads ? p->head[head].bytes[i] : 0);
		c->time[i] = p->nheads ? p->head[head].time[i] : 0;
		if (s->folded) c->time[i] *= p->microbatches;
	}
	bound_stages(c);
	find_behind(c);
	return c;
}

void
cut_free(Cutting *c)
{
	Arena *a = c->a;
	arena_free(a);
}

int64_t
cut_least(const Cutting *c)
{
	return c->least;
}

/* ---- spans ---- */

/* Lowers the weights' limits' opposites: what else a plan takes that has this span as stage k from layer i on. */
static void
others(const Cutting *c, uint32_t k, uint32_t i, uint32_t j, int64_t *a, int64_t *b, int64_t *d)
{
	size_t f = at(c, k, i), r = at(c, k + 1, j);
	if (c->before.sum[f] >= FAR || c->behind.sum[r] >= FAR) return;
	int64_t sum = c->before.sum[f] + c->behind.sum[r];
	int64_t max = larger(c->before.max[f], c->behind.max[r]);
	int64_t once = larger(c->before.once[f], c->behind.once[r]);
	int64_t more = step_time(c, sum, max, 0);
	if (sum < *a) *a = sum;
	if (more < *b) *b = more;
	if (more + once < *d) *d = more + once;
}

static Span *
solve_pair(Cutting *c, uint32_t k, uint32_t x, int64_t under)
{
	Solver *s = c->s;
	int64_t a = FAR, b = FAR, d = FAR; /* the least over all places it may have */
	Pair pair = s->pairs[x];
	uint32_t len = pair.j - pair.i;
	for (uint32_t stage = k; stage < s->stages; stage++) {
		if (c->like[stage] != k) continue;
		for (uint32_t i = pair.i; i + len <= s->run_end[pair.i] || i == pair.i; i++)
			if (pair_of(s, i, i + len) == x)
				others(c, stage, i, i + len, &a, &b, &d);
	}
	Span *out = NEW(c->a, Span);
	double left = (double)(under - 1), head = (double)c->time[k], m = (double)s->mb;
	Weights w[MAX_WEIGHTS] = {
	    {m, 1, left - (double)a - m * head},
	    {1, 1, left - (double)b - head},
	    {1, 0, left - (double)d - head},
	};
	bool one = s->mb == 1 && s->folded;
	if (a < FAR)
		span_solve(s, &s->kind[s->kind_of[k]], pair.i, pair.j, c->limit[k], w,
			   one ? 1 : MAX_WEIGHTS, c->enough, c->a, out);
	out->done = true;
	return out;
}

/* ---- cuts ---- */

static bool
cut_beats(const Cut *a, const Cut *b, int64_t slack)
{
	return a->sum <= b->sum + slack && a->max <= b->max + slack &&
	       a->once <= b->once + slack;
}

/* `slack`: what is that much better at most is left out. */
static void
add_cut(Cutting *c, CutList *l, Cut x, int64_t slack)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < l->n; i++)
		if (cut_beats(&l->c[i], &x, slack)) return;
	for (uint32_t i = 0; i < l->n; i++)
		if (!cut_beats(&x, &l->c[i], 0)) l->c[kept++] = l->c[i];
	l->n = kept;
	if (l->n == l->cap) {
		uint32_t cap = l->cap ? 2 * l->cap : 8;
		Cut *now = SCRATCH(c->s, Cut, cap);
		if (l->n) memcpy(now, l->c, l->n * sizeof *now);
		l->c = now;
		l->cap = cap;
	}
	l->c[l->n++] = x;
	c->s->work += l->n;
}

/* Adds stage k with layers i .. j behind cut number b of the list at i. */
static void
add_stage(Cutting *c, CutList *out, uint32_t k, uint32_t i, uint32_t j, uint32_t b,
	  int64_t under, int64_t slack)
{
	const Cut *p = &c->cuts[at(c, k, i)].c[b];
	uint32_t x = pair_of(c->s, i, j), like = c->like[k];
	size_t rest = at(c, k + 1, j);
	const Span *span = c->span[like] ? c->span[like][x] : NULL;
	int64_t t = c->t[k][x], once = c->once[k][x];
	for (uint32_t q = 0; q < (span ? span->n : 1); q++) {
		if (span) {
			t = span->p[q].t + c->time[k];
			once = span->p[q].once;
		}
		Cut y = {.sum = far_add(p->sum, t),
			 .max = larger(p->max, t),
			 .once = larger(p->once, once),
			 .prev = b,
			 .first = i,
			 .point = span ? q : NONE};
		if (step_time(c, far_add(y.sum, c->behind.sum[rest]),
			      larger(y.max, c->behind.max[rest]),
			      larger(y.once, c->behind.once[rest])) < under)
			add_cut(c, out, y, slack);
	}
}

/* All cuts of stage k. */
static void
cut_stage(Cutting *c, uint32_t k, int64_t under)
{
	Solver *s = c->s;
	int64_t slack = 0;
	for (uint32_t j = k + 1; j <= s->n; j++) {
		CutList *out = &c->cuts[at(c, k + 1, j)];
		*out = (CutList){0};
		if (c->behind.sum[at(c, k + 1, j)] >= FAR) continue;
		for (uint32_t i = j > s->widest ? j - s->widest : 0; i < j; i++) {
			const CutList *from = &c->cuts[at(c, k, i)];
			if (!from->n || pair_of(s, i, j) == NO_PAIR) continue;
			for (uint32_t b = 0; b < from->n; b++)
				add_stage(c, out, k, i, j, b, under, slack);
			if (out->n > MOST_CUTS) slack = slack ? 2 * slack : 1 + under / 1000000;
		}
	}
	c->loss += slack;
}

/* The best plan by what is known, under `under`: first[], span and point of every stage. Its time, or FAR. */
static int64_t
best_cut(Cutting *c, int64_t under, uint32_t *first, uint32_t *point)
{
	Solver *s = c->s;
	scratch_reset(s);
	memset(c->cuts, 0, sizeof *c->cuts * (s->n + 1));
	c->loss = 0;
	c->cuts[0].c = SCRATCH(s, Cut, 1);
	c->cuts[0].c[0] = (Cut){0};
	c->cuts[0].n = 1;
	for (uint32_t k = 0; k < s->stages; k++)
		cut_stage(c, k, under);
	const CutList *l = &c->cuts[at(c, s->stages, s->n)];
	const Cut *best = NULL;
	int64_t least = FAR;
	for (uint32_t i = 0; i < l->n; i++) {
		int64_t t = step_time(c, l->c[i].sum, l->c[i].max, l->c[i].once);
		if (t >= least) continue;
		least = t;
		best = &l->c[i];
	}
	for (uint32_t k = s->stages; best && k-- > 0;) {
		first[k] = best->first;
		point[k] = best->point;
		best = k ? &c->cuts[at(c, k, best->first)].c[best->prev] : NULL;
	}
	return least;
}

/* ---- plans ---- */

static Span *
span_at(const Cutting *c, uint32_t k, const uint32_t *first)
{
	uint32_t end = k + 1 < c->s->stages ? first[k + 1] : c->s->n;
	uint32_t x = pair_of(c->s, first[k], end), like = c->like[k];
	return c->span[like] ? c->span[like][x] : NULL;
}

/* The plan these points make, if it is better than *out. */
static void
take_plan(Cutting *c, const uint32_t *first, const uint32_t *point, SolveAnswer *out,
	  bool *found)
{
	Solver *s = c->s;
	SolveAnswer x = *out;
	x.head = c->head;
	x.first = SCRATCH(s, uint32_t, s->stages);
	x.cand = SCRATCH(s, uint32_t, s->n);
	x.stage_time = SCRATCH(s, int64_t, s->stages);
	x.stage_once = SCRATCH(s, int64_t, s->stages);
	x.stage_bytes = SCRATCH(s, int64_t, s->stages);
	for (uint32_t k = 0; k < s->stages; k++) {
		const Span *span = span_at(c, k, first);
		x.first[k] = first[k];
		for (uint32_t l = 0; l < span->layers; l++)
			x.cand[first[k] + l] = span->cand[(size_t)point[k] * span->layers + l];
	}
	ENSURE(solve_evaluate(s->p, &x), "a span does not fit");
	if (x.time >= out->time) return;
	*found = true;
	out->time = x.time;
	out->head = x.head;
	memcpy(out->first, x.first, s->stages * sizeof *x.first);
	memcpy(out->cand, x.cand, s->n * sizeof *x.cand);
}

/* The points of solved spans that make the best plan with these boundaries: in no stage is more than `once` needed. */
static void
best_points(Cutting *c, const uint32_t *first, uint32_t *point, SolveAnswer *out, bool *found)
{
	Solver *s = c->s;
	int64_t least = FAR;
	uint32_t *now = SCRATCH(s, uint32_t, s->stages);
	for (uint32_t k = 0; k < s->stages; k++)
		now[k] = 0;
	for (;;) { /* the fastest with less and less once */
		int64_t sum = 0, max = 0, once = 0;
		for (uint32_t k = 0; k < s->stages; k++) {
			const Point *p = &span_at(c, k, first)->p[now[k]];
			sum += p->t + c->time[k];
			max = larger(max, p->t + c->time[k]);
			once = larger(once, p->once);
		}
		int64_t t = step_time(c, sum, max, once);
		if (t < least) {
			least = t;
			memcpy(point, now, s->stages * sizeof *now);
		}
		for (uint32_t k = 0; k < s->stages; k++) {
			const Span *span = span_at(c, k, first);
			if (span->p[now[k]].once < once) continue;
			if (now[k] + 1 == span->n) {
				take_plan(c, first, point, out, found);
				return;
			}
			now[k]++;
		}
	}
}

/* The stage of a plan whose span is not solved and takes longest; s->stages: none. */
static uint32_t
next_span(const Cutting *c, const uint32_t *first)
{
	const Solver *s = c->s;
	uint32_t next = s->stages;
	int64_t longest = -1;
	for (uint32_t k = 0; k < s->stages; k++) {
		uint32_t end = k + 1 < s->stages ? first[k + 1] : s->n;
		int64_t t = c->t[k][pair_of(s, first[k], end)];
		if (span_at(c, k, first) || t <= longest) continue;
		longest = t;
		next = k;
	}
	return next;
}

/* Solves the spans of a plan that are not, each for what the others leave it; false: all were. *empty: one has nothing to offer,
 * and the rest was left alone. */
static bool
solve_spans(Cutting *c, const uint32_t *first, int64_t under, bool *empty)
{
	Solver *s = c->s;
	bool any = false;
	*empty = false;
	for (uint32_t k; !*empty && (k = next_span(c, first)) < s->stages; any = true) {
		uint32_t end = k + 1 < s->stages ? first[k + 1] : s->n, like = c->like[k];
		uint32_t x = pair_of(s, first[k], end);
		if (!c->span[like]) c->span[like] = NEW_N(c->a, Span *, s->npairs);
		const Span *span = c->span[like][x] = solve_pair(c, like, x, under);
		*empty = !span->n;
		c->t[like][x] = *empty ? FAR : larger(c->t[like][x], span->p[0].t + c->time[k]);
		if (!*empty)
			c->once[like][x] = larger(c->once[like][x], span->p[span->n - 1].once);
		if (s->work - c->side_work > c->side_steps) find_sides(c); /* pays */
	}
	return any;
}

int64_t
cut_search(Cutting *c, int64_t *under, SolveAnswer *out, bool *found)
{
	Solver *s = c->s;
	uint32_t *first = NEW_N(c->a, uint32_t, s->stages),
		 *point = NEW_N(c->a, uint32_t, s->stages);
	c->span = NEW_N(c->a, Span **, s->stages);
	c->cuts = NEW_N(c->a, CutList, at(c, s->stages + 1, 0));
	find_before(c);
	c->side_work = s->work;
	int64_t least = c->least;
	for (;;) {
		int64_t now = best_cut(c, *under, first, point);
		int64_t lost = (s->mb + 1) * c->loss;
		if (now >= FAR) return larger(least, *under - lost);
		least = larger(least, now - lost);
		bool empty;
		if (!solve_spans(c, first, *under, &empty)) {
			best_points(c, first, point, out, found);
			if (*found && within_gap(s->p, out->time) < *under)
				*under = within_gap(s->p, out->time);
			return least;
		}
		if (!empty) best_points(c, first, point, out, found);
		if (*found && within_gap(s->p, out->time) < *under)
			*under = within_gap(s->p, out->time);
		if (least >= *under) return least;
		if (*found && s->work > s->most_work) return least;
	}
}
