/*
 * solve.c - the exact solver: see solve.h; solve_parts.h says how it is made.
 *
 * Heads are tried in order of their bounds. How long the best plan takes is not known, but a search for plans below a given
 * time is the cheaper the closer that is: so it is looked for little above the bound first, then further.
 */
#include <string.h>

#include "passes/solve_parts.h"

enum { FIRST_LABELS = 1 << 12, MORE_LABELS = 1 << 13, BEAM = 64 };
#define FIRST_WORK ((int64_t)200 * 1000 * 1000) /* steps of some nanoseconds */
#define MORE_WORK  ((int64_t)1000 * 1000 * 1000)
#define GOOD_GAP   0.001 /* if it took no more than FIRST_WORK to get there */
#define ANY_GAP    0.02

int64_t
solve_bytes(const SolveProblem *p, uint32_t stage, uint32_t class, uint32_t k)
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
		bytes += solve_bytes(p, s, class, x->cand[i]);
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
	x->time = sum + ((int64_t)p->microbatches - 1) * max + once;
	return fits;
}

/* ---- bounds ---- */

static bool
makes_sense(const SolveProblem *p)
{
	uint64_t layers = 0;
	if (!p->nlayers || !p->stages || p->stages > p->nlayers) return false;
	for (uint32_t s = 0; p->partition && s < p->stages; s++) {
		if (!p->partition[s]) return false;
		layers += p->partition[s];
	}
	return !p->partition || layers == p->nlayers;
}

typedef struct Head {
	uint32_t head;
	int64_t least;
} Head;

/* The bounds of all heads, the best first. Returns how many can fit. */
static uint32_t
bound_heads(Solver *s, Head *h)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < s->p->nheads || i == 0; i++) {
		Cutting *c = cut_new(s, i);
		Head x = {i, cut_least(c)};
		cut_free(c);
		if (x.least >= FAR) continue;
		uint32_t at = n++;
		for (; at && h[at - 1].least > x.least; at--)
			h[at] = h[at - 1];
		h[at] = x;
	}
	return n;
}

/* Fills h; returns how many heads can fit. */
static uint32_t
begin(Solver *s, Arena *a, const SolveProblem *p, Head **h)
{
	*h = NEW_N(a, Head, p->nheads + 1);
	if (!makes_sense(p) || !solver_init(s, a, p)) return 0;
	price_tables(s);
	return bound_heads(s, *h);
}

int64_t
solve_least(Arena *a, const SolveProblem *p)
{
	Arena *own = arena_new();
	Solver s;
	Head *h;
	(void)a;
	uint32_t n = begin(&s, own, p, &h);
	int64_t least = n ? h[0].least : INT64_MAX;
	arena_free(own);
	return least;
}

/* ---- the search ---- */

/* A plan must take less than this to matter, given one that takes `time`. */
int64_t
within_gap(const SolveProblem *p, int64_t time)
{
	int64_t less = (int64_t)((double)time * p->gap);
	return less > 0 && less < time ? time - less : time;
}

/* A time that no plan exceeds. */
static int64_t
most_time(const Solver *s)
{
	int64_t sum = 0, once = 0, head = 0;
	for (uint32_t i = 0; i < s->n; i++) {
		int64_t t = 0, o = 0;
		for (uint32_t k = 0; k < s->nkinds; k++) {
			t = larger(t, s->kind[k].view[s->p->class_of[i]].most_t);
			o = larger(o, s->kind[k].view[s->p->class_of[i]].most_once);
		}
		sum = far_add(sum, t);
		once = far_add(once, o);
	}
	for (uint32_t h = 0; h < s->p->nheads; h++) {
		int64_t t = 0;
		for (uint32_t k = 0; k < s->stages; k++)
			t = far_add(t, s->p->head[h].time[k]);
		head = larger(head, s->folded ? t * s->p->microbatches : t);
	}
	sum = far_add(sum, head);
	return sum >= FAR / s->mb ? FAR - 1 : far_add(sum * s->mb, once);
}

static int64_t
least_of(const Head *h, uint32_t n)
{
	int64_t least = FAR;
	for (uint32_t i = 0; i < n; i++)
		if (h[i].least < least) least = h[i].least;
	return least;
}

static void
answer_new(Arena *a, const SolveProblem *p, SolveAnswer *out)
{
	*out = (SolveAnswer){0};
	out->first = NEW_N(a, uint32_t, p->stages);
	out->cand = NEW_N(a, uint32_t, p->nlayers);
	out->stage_time = NEW_N(a, int64_t, p->stages);
	out->stage_once = NEW_N(a, int64_t, p->stages);
	out->stage_bytes = NEW_N(a, int64_t, p->stages);
}

/* Looks for plans below `under` under every head whose bound is; h's bounds rise. */
static void
try_heads(Solver *s, Head *h, uint32_t n, int64_t under, SolveAnswer *out, bool *found)
{
	for (uint32_t i = 0; i < n; i++) {
		if (h[i].least >= under) continue;
		if (*found && s->work > s->most_work) break;
		Cutting *c = cut_new(s, h[i].head);
		h[i].least = larger(h[i].least, cut_search(c, &under, out, found));
		cut_free(c);
	}
}

/* How far the answer may be above the bound, as a part of it. */
static double
gap_of(const SolveAnswer *x)
{
	return x->time > 0 ? (double)(x->time - x->least) / (double)x->time : 0;
}

/* Something good to begin with, under the most promising heads: an upper bound for what follows. */
static void
try_beam(Solver *s, const Head *h, uint32_t n, int64_t bound, SolveAnswer *out, bool *found)
{
	s->beam = BEAM;
	for (int64_t part = 32; part > 0 && !*found; part /= 16)
		for (uint32_t i = 0; i < n && i < 2 && !*found; i++) {
			int64_t under = far_add(h[i].least, h[i].least / part);
			if (under > bound) under = bound;
			Cutting *c = cut_new(s, h[i].head);
			cut_search(c, &under, out, found);
			cut_free(c);
		}
	s->beam = 0;
}

/* From little above the bound on. False: no plan is below `bound`. */
static bool
search(Solver *s, Head *h, uint32_t n, int64_t bound, SolveAnswer *out)
{
	int64_t end = most_time(s) + 1, least = least_of(h, n);
	int64_t step = larger(least / 2048, (int64_t)((double)least * s->p->gap)) + 1;
	bool found = false, tried = false;
	if (bound < end) end = bound;
	out->time = bound;
	while (least < end && !(found && s->work > s->most_work)) {
		bool near = found || end - least < least / 64;
		int64_t under = near ? end : far_add(least, step), was = least;
		if (under > end) under = end;
		try_heads(s, h, n, under, out, &found);
		least = least_of(h, n);
		if (least == was && under == end) break; /* too much was thinned */
		if (!found && !tried && least < end) {
			try_beam(s, h, n, end, out, &found);
			tried = true;
		}
		if (found) end = within_gap(s->p, out->time);
		step = far_add(step, 3 * step);
	}
	out->least = least < out->time ? least : out->time;
	return found;
}

static double
larger_gap(double a, double b)
{
	return a > b ? a : b;
}

/* Once more with more labels, for plans better than the one found. */
static void
refine(Solver *s, Arena *a, Head *h, uint32_t n, SolveAnswer *out)
{
	SolveAnswer x;
	bool found = false;
	answer_new(a, s->p, &x);
	x.time = out->time;
	try_heads(s, h, n, within_gap(s->p, out->time), &x, &found);
	int64_t least = least_of(h, n);
	if (found) *out = x;
	out->least = least < out->time ? least : out->time;
}

bool
solve(Arena *a, const SolveProblem *p, SolveAnswer *out)
{
	Arena *own = arena_new();
	Solver s;
	Head *h;
	uint32_t n = begin(&s, own, p, &h);
	int64_t work = p->work ? p->work : FIRST_WORK;
	bool found = false;
	out->least = p->bound;
	if (n && h[0].least < p->bound) {
		answer_new(a, p, out);
		s.labels = FIRST_LABELS;
		s.most_work = s.work + work;
		found = search(&s, h, n, p->bound, out);
		s.labels = MORE_LABELS;
		s.most_work = s.work + (!p->work && gap_of(out) > ANY_GAP ? MORE_WORK : work);
		if (found && gap_of(out) > larger_gap(p->gap, GOOD_GAP))
			refine(&s, a, h, n, out);
	}
	out->work = s.work;
	if (found) ENSURE(solve_evaluate(p, out), "a plan does not fit");
	arena_free(own);
	return found;
}
