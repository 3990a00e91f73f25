/*
 * solve.c - the exact solver: see solve.h. Evaluation of plans, a quick bound, and the search.
 *
 * SPANS: for layers i .. j of one stage, the Pareto frontier of (t, once, bytes, work), grown layer by layer. CUTS: for a
 * stage that ends at layer j, the frontier of (sum, max, once) over where it began. What cannot be part of a plan below the
 * bound is left out at once: layers elsewhere take at least what their fastest candidates take.
 */
#include <stdlib.h>
#include <string.h>

#include "passes/solve.h"

typedef struct Point Point;
struct Point {
	int64_t t, once, bytes, work;
	const Point *prev;
	uint32_t group, cand;
};

typedef struct Span {
	Point *p;
	uint32_t n, cap;
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
	const SolveProblem *p;
	Arena *a;
	const SolveHead *head;
	int64_t *least;      /* [nlayers + 1] of the fastest candidates of layers 0 .. */
	int64_t *head_least; /* [stages + 1] the head's times of stages 0 .. */
	int64_t bound;
	uint32_t stage;
} Dp;

static int64_t
larger(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static int64_t
bytes_of(const SolveProblem *p, uint32_t stage, uint32_t class, uint32_t k)
{
	const SolveTable *t = p->table[stage];
	const SolveCost *c = &t->cost[class][k];
	return t->bytes ? t->bytes[class][(size_t)k * p->stages + stage]
			: c->state + (int64_t)p->slots[stage] * c->saved;
}

/* ---- evaluation ---- */

/* One stage of a plan. False: over the limit. */
static bool
evaluate_stage(const SolveProblem *p, SolveAnswer *x, uint32_t s)
{
	const SolveTable *t = p->table[s];
	uint32_t end = s + 1 < p->stages ? x->first[s + 1] : p->nlayers, group = 0;
	int64_t time = 0, once = 0, bytes = 0, work = 0;
	if (p->nheads) {
		time = p->head[x->head].time[s];
		bytes = p->head[x->head].bytes[s];
	}
	for (uint32_t i = x->first[s]; i < end; i++) {
		uint32_t class = p->class_of[i];
		const SolveCost *c = &t->cost[class][x->cand[i]];
		time += c->time;
		once += c->once;
		bytes += bytes_of(p, s, class, x->cand[i]);
		work = larger(work, c->work);
		if (i > x->first[s] && t->move) {
			const SolveMove *m = &t->move[class][group * t->ngroups + c->group];
			time += m->time;
			bytes += (int64_t)p->slots[s] * m->saved;
		} else if (i == x->first[s] && s) {
			time += c->enter;
			bytes += (int64_t)p->slots[s] * c->enter_saved;
		}
		group = c->group;
	}
	x->stage_time[s] = time;
	x->stage_once[s] = once;
	x->stage_bytes[s] = bytes + work;
	return bytes + work <= p->limit[s];
}

bool
solve_evaluate(const SolveProblem *p, SolveAnswer *x)
{
	int64_t sum = 0, max = 0, once = 0;
	bool fits = true;
	for (uint32_t s = 0; s < p->stages; s++) {
		fits &= evaluate_stage(p, x, s);
		sum += x->stage_time[s];
		max = larger(max, x->stage_time[s]);
		once = larger(once, x->stage_once[s]);
	}
	x->time = x->least = sum + ((int64_t)p->microbatches - 1) * max + once;
	return fits;
}

/* ---- bounds ---- */

/* The least time of every layer under any table. False: a layer fits nowhere. */
static bool
find_least(Dp *d)
{
	const SolveProblem *p = d->p;
	d->least = NEW_N(d->a, int64_t, p->nlayers + 1);
	for (uint32_t i = 0; i < p->nlayers; i++) {
		int64_t least = INT64_MAX;
		uint32_t class = p->class_of[i];
		for (uint32_t s = 0; s < p->stages; s++)
			for (uint32_t k = 0; k < p->table[s]->ncand[class]; k++) {
				const SolveCost *c = &p->table[s]->cost[class][k];
				if (bytes_of(p, s, class, k) + c->work > p->limit[s]) continue;
				if (c->time < least) least = c->time;
			}
		if (least == INT64_MAX) return false;
		d->least[i + 1] = d->least[i] + least;
	}
	return true;
}

static void
set_head(Dp *d, uint32_t h)
{
	const SolveProblem *p = d->p;
	d->head = p->nheads ? &p->head[h] : NULL;
	d->head_least = NEW_N(d->a, int64_t, p->stages + 1);
	for (uint32_t s = 0; s < p->stages; s++)
		d->head_least[s + 1] = d->head_least[s] + (d->head ? d->head->time[s] : 0);
}

static int64_t
time_of(const Dp *d, int64_t sum, int64_t max, int64_t once)
{
	return sum + ((int64_t)d->p->microbatches - 1) * max + once;
}

/* What follows behind layer j in stages s .. makes of a cut at least this. */
static int64_t
least_after(const Dp *d, uint32_t j, uint32_t s, int64_t sum, int64_t max, int64_t once)
{
	uint32_t left = d->p->stages - s;
	int64_t rest = d->least[d->p->nlayers] - d->least[j] + d->head_least[d->p->stages] -
		       d->head_least[s];
	if (left) max = larger(max, rest / left);
	return time_of(d, sum + rest, max, once);
}

int64_t
solve_least(Arena *a, const SolveProblem *p)
{
	Dp d = {.p = p, .a = a};
	int64_t best = INT64_MAX;
	if (!p->nlayers || !p->stages || p->stages > p->nlayers || !find_least(&d))
		return INT64_MAX;
	for (uint32_t h = 0; h < p->nheads || h == 0; h++) {
		set_head(&d, h);
		int64_t now = least_after(&d, 0, 0, 0, 0, 0);
		if (now < best) best = now;
	}
	return best;
}

/* ---- spans ---- */

static bool
beats(const Point *a, const Point *b)
{
	return a->group == b->group && a->t <= b->t && a->once <= b->once &&
	       a->bytes <= b->bytes && a->work <= b->work;
}

static void
add_point(Dp *d, Span *s, Point q)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < s->n; i++)
		if (beats(&s->p[i], &q)) return;
	for (uint32_t i = 0; i < s->n; i++)
		if (!beats(&q, &s->p[i])) s->p[kept++] = s->p[i];
	s->n = kept;
	PUSH(d->a, s->p, s->n, s->cap, q);
}

/* `s` += layer l after each point of `before`; NULL: as the stage's first layer. */
static void
extend(Dp *d, Span *s, const Span *before, uint32_t l)
{
	const SolveProblem *p = d->p;
	const SolveTable *t = p->table[d->stage];
	uint32_t class = p->class_of[l];
	int64_t slots = p->slots[d->stage];
	Point begin = {0};
	if (d->head)
		begin =
		    (Point){.t = d->head->time[d->stage], .bytes = d->head->bytes[d->stage]};
	for (uint32_t b = 0; b < (before ? before->n : 1); b++) {
		const Point *from = before ? &before->p[b] : &begin;
		for (uint32_t k = 0; k < t->ncand[class]; k++) {
			const SolveCost *c = &t->cost[class][k];
			SolveMove m = {0};
			if (before && t->move)
				m = t->move[class][from->group * t->ngroups + c->group];
			else if (!before && d->stage)
				m = (SolveMove){c->enter, c->enter_saved};
			Point q = {.t = from->t + c->time + m.time,
				   .once = from->once + c->once,
				   .bytes = from->bytes + bytes_of(p, d->stage, class, k) +
					    slots * m.saved,
				   .work = larger(from->work, c->work),
				   .prev = before ? from : NULL,
				   .group = c->group,
				   .cand = k};
			if (q.bytes + q.work > p->limit[d->stage]) continue;
			if (time_of(d, q.t, q.t, q.once) >= d->bound) continue;
			add_point(d, s, q);
		}
	}
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

/* `out` += the stage at hand with layers i .. j after each of `before` (NULL: it is the first). */
static void
add_stage(Dp *d, CutList *out, const CutList *before, const Span *span, uint32_t i, uint32_t j)
{
	for (uint32_t b = 0; b < (before ? before->n : 1); b++)
		for (uint32_t k = 0; k < span->n; k++) {
			const Cut none = {0}, *prev = before ? &before->c[b] : NULL;
			const Cut *p = prev ? prev : &none;
			const Point *q = &span->p[k];
			Cut c = {.sum = p->sum + q->t,
				 .max = larger(p->max, q->t),
				 .once = larger(p->once, q->once),
				 .prev = prev,
				 .stage = q,
				 .first = i};
			if (least_after(d, j, d->stage + 1, c.sum, c.max, c.once) < d->bound)
				add_cut(d, out, c);
		}
}

/* The cuts of the stage at hand, given those of the stage before. */
static CutList *
cut_stage(Dp *d, const CutList *at, uint32_t fixed)
{
	uint32_t n = d->p->nlayers, k = d->stage, left = d->p->stages - 1 - k;
	CutList *now = NEW_N(d->a, CutList, n + 1);
	for (uint32_t i = k; i < n && (k || i == 0); i++) {
		if (k && !at[i].n) continue;
		Span *before = NULL;
		for (uint32_t j = i + 1; j + left <= n && (!fixed || j - i <= fixed); j++) {
			Span *s = NEW(d->a, Span);
			extend(d, s, before, j - 1);
			if (!s->n) break;
			if ((!fixed || j - i == fixed) && (left || j == n))
				add_stage(d, &now[j], k ? &at[i] : NULL, s, i, j);
			before = s;
		}
	}
	return now;
}

static void
read_back(const Dp *d, const Cut *c, uint32_t head, Arena *a, SolveAnswer *out)
{
	const SolveProblem *p = d->p;
	uint32_t end = p->nlayers;
	out->head = head;
	out->first = NEW_N(a, uint32_t, p->stages);
	out->cand = NEW_N(a, uint32_t, p->nlayers);
	out->stage_time = NEW_N(a, int64_t, p->stages);
	out->stage_once = NEW_N(a, int64_t, p->stages);
	out->stage_bytes = NEW_N(a, int64_t, p->stages);
	for (uint32_t k = p->stages; k-- > 0; c = c->prev) {
		out->first[k] = c->first;
		for (const Point *q = c->stage; q; q = q->prev)
			out->cand[--end] = q->cand;
		ENSURE(end == c->first, "a stage lost layers");
	}
}

bool
solve(Arena *a, const SolveProblem *p, SolveAnswer *out)
{
	uint32_t n = p->nlayers;
	bool found = false;
	if (!n || !p->stages || p->stages > n) return false;
	Dp d = {.p = p, .a = arena_new(), .bound = p->bound};
	for (uint32_t h = 0; (h < p->nheads || h == 0) && find_least(&d); h++) {
		CutList *at = NULL;
		set_head(&d, h);
		for (d.stage = 0; d.stage < p->stages; d.stage++)
			at = cut_stage(&d, at, p->partition ? p->partition[d.stage] : 0);
		const Cut *best = NULL;
		for (uint32_t i = 0; i < at[n].n; i++) {
			const Cut *c = &at[n].c[i];
			if (!best || time_of(&d, c->sum, c->max, c->once) <
					 time_of(&d, best->sum, best->max, best->once))
				best = c;
		}
		if (!best || time_of(&d, best->sum, best->max, best->once) >= d.bound) continue;
		found = true;
		d.bound = time_of(&d, best->sum, best->max, best->once);
		read_back(&d, best, h, a, out);
	}
	arena_free(d.a);
	if (found) ENSURE(solve_evaluate(p, out) && out->time == d.bound, "a plan changed");
	return found;
}
