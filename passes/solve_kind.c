/*
 * solve_kind.c - a solver's problem made small, without losing a plan that might be the best.
 *
 * Groups between which moves cost the same are one group. A candidate that another of its group beats in everything is left
 * out. Stages with equal tables, slots and bytes are of one kind. Spans of equal layers are numbered by their length alone.
 */
#include <string.h>

#include "passes/solve_parts.h"

/* ---- scratch memory ---- */

typedef struct Chunk {
	struct Chunk *next;
	size_t used, cap;
	max_align_t bytes[];
} Chunk;

enum { CHUNK_BYTES = 1 << 16 };

void *
scratch_alloc(Solver *s, size_t bytes)
{
	bytes = (bytes + 15) / 16 * 16;
	Chunk *c = s->chunk;
	while (c && c->cap - c->used < bytes && c->next) {
		c = c->next;
		c->used = 0;
	}
	if (!c || c->cap - c->used < bytes) {
		size_t cap = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
		Chunk *new = arena_alloc(s->a, sizeof *new + cap);
		new->cap = cap;
		if (c)
			c->next = new;
		else
			s->chunks = new;
		c = new;
	}
	s->chunk = c;
	c->used += bytes;
	return (char *)c->bytes + c->used - bytes;
}

void
scratch_reset(Solver *s)
{
	s->chunk = s->chunks;
	if (s->chunk) s->chunk->used = 0;
}

Mark
scratch_mark(const Solver *s)
{
	return (Mark){s->chunk, s->chunk ? s->chunk->used : 0};
}

void
scratch_release(Solver *s, Mark m)
{
	if (!m.chunk) {
		scratch_reset(s);
		return;
	}
	s->chunk = m.chunk;
	s->chunk->used = m.used;
}

/* ---- groups ---- */

static bool
moves_alike(const SolveProblem *p, const SolveTable *t, uint32_t g, uint32_t h)
{
	uint32_t n = t->ngroups;
	for (uint32_t class = 0; class < p->nclasses; class ++) {
		const SolveMove *m = t->move[class];
		const SolveMove *gg = &m[g * n + g];
		for (uint32_t k = 0; k < 3; k++) {
			const SolveMove *o = &m[k == 0   ? g * n + h
						: k == 1 ? h * n + g
							 : h * n + h];
			if (o->time != gg->time || o->saved != gg->saved) return false;
		}
		for (uint32_t o = 0; o < n; o++) {
			if (o == g || o == h) continue;
			const SolveMove *a = &m[g * n + o], *b = &m[h * n + o],
					*c = &m[o * n + g], *d = &m[o * n + h];
			if (a->time != b->time || a->saved != b->saved || c->time != d->time ||
			    c->saved != d->saved)
				return false;
		}
	}
	return true;
}

/* map[group] = a smaller number; returns how many. *rep: of each the first. */
static uint32_t
merge_groups(Solver *s, const SolveTable *t, uint32_t *map, uint32_t *rep)
{
	uint32_t n = 0;
	for (uint32_t g = 0; g < t->ngroups; g++) {
		uint32_t k = 0;
		while (k < n && t->move && !moves_alike(s->p, t, rep[k], g))
			k++;
		if (k == n) rep[n++] = g;
		map[g] = k;
	}
	return n;
}

/* ---- classes ---- */

static bool
beats(const Choice *a, const Choice *b)
{
	return a->t <= b->t && a->once <= b->once && a->bytes <= b->bytes &&
	       a->work <= b->work && a->enter_t <= b->enter_t &&
	       a->enter_bytes <= b->enter_bytes;
}

static Choice
choice_of(const Solver *s, uint32_t stage, uint32_t class, uint32_t k)
{
	const SolveProblem *p = s->p;
	const SolveCost *c = &p->table[stage]->cost[class][k];
	bool enters = stage > 0;
	Choice x = {.t = c->time,
		    .once = c->once,
		    .bytes = solve_bytes(p, stage, class, k),
		    .work = c->work,
		    .enter_t = enters ? c->enter : 0,
		    .enter_bytes = enters ? (int64_t)p->slots[stage] * c->enter_saved : 0,
		    .cand = k};
	if (s->folded) {
		x.t = x.t * p->microbatches + x.once;
		x.once = 0;
	}
	return x;
}

/* Adds to the choices of a group, which are the last `n` of c; in order of time. Returns how many now. */
static uint32_t
add_choice(Choice *c, uint32_t n, Choice x)
{
	uint32_t kept = 0, at;
	for (uint32_t i = 0; i < n; i++)
		if (beats(&c[i], &x)) return n;
	for (uint32_t i = 0; i < n; i++)
		if (!beats(&x, &c[i])) c[kept++] = c[i];
	for (at = kept; at && c[at - 1].t > x.t; at--)
		c[at] = c[at - 1];
	c[at] = x;
	return kept + 1;
}

static void
view_moves(Solver *s, const Kind *k, uint32_t class, const uint32_t *rep, View *v)
{
	const SolveTable *t = k->table;
	uint32_t g = k->ngroups;
	if (!t->move) return;
	int64_t slots = s->p->slots[k->stage], times = s->folded ? s->p->microbatches : 1;
	bool any = false;
	v->move_t = NEW_N(s->a, int64_t, g * g);
	v->move_bytes = NEW_N(s->a, int64_t, g * g);
	for (uint32_t x = 0; x < g; x++)
		for (uint32_t y = 0; y < g; y++) {
			const SolveMove *m = &t->move[class][rep[x] * t->ngroups + rep[y]];
			v->move_t[x * g + y] = m->time * times;
			v->move_bytes[x * g + y] = slots * m->saved;
			any |= m->time || m->saved;
		}
	if (!any) v->move_t = v->move_bytes = NULL;
}

static void
view_extremes(const Kind *k, View *v)
{
	int64_t move_t = 0, move_bytes = 0;
	for (uint32_t i = 0; v->move_t && i < k->ngroups * k->ngroups; i++) {
		move_t = larger(move_t, v->move_t[i]);
		move_bytes = larger(move_bytes, v->move_bytes[i]);
	}
	v->least_once = v->least_work = v->n ? FAR : 0;
	for (uint32_t i = 0; i < v->n; i++) {
		const Choice *c = &v->c[i];
		v->most_t = larger(v->most_t, c->t + larger(move_t, c->enter_t));
		v->most_bytes =
		    larger(v->most_bytes, c->bytes + larger(move_bytes, c->enter_bytes));
		v->most_once = larger(v->most_once, c->once);
		v->most_work = larger(v->most_work, c->work);
		if (c->once < v->least_once) v->least_once = c->once;
		if (c->work < v->least_work) v->least_work = c->work;
	}
}

/* What candidates of a class are worth on stages of a kind; those that do not fit by themselves are left out. */
static void
view_class(Solver *s, Kind *k, uint32_t class, const uint32_t *map, const uint32_t *rep,
	   int64_t limit)
{
	View *v = &k->view[class];
	const SolveTable *t = k->table;
	uint32_t n = t->ncand[class];
	v->c = NEW_N(s->a, Choice, n ? n : 1);
	v->begin = NEW_N(s->a, uint32_t, k->ngroups + 1);
	v->group = NEW_N(s->a, uint32_t, k->ngroups);
	for (uint32_t g = 0; g < k->ngroups; g++) {
		uint32_t in = 0;
		for (uint32_t i = 0; i < n; i++) {
			if (map[t->cost[class][i].group] != g) continue;
			Choice x = choice_of(s, k->stage, class, i);
			if (x.bytes + x.work > limit) continue;
			in = add_choice(v->c + v->n, in, x);
			k->enters |= x.enter_t || x.enter_bytes;
		}
		v->n += in;
		v->begin[g + 1] = v->n;
		if (in) v->group[v->ngroups++] = g;
	}
	view_moves(s, k, class, rep, v);
	view_extremes(k, v);
}

/* ---- kinds ---- */

static bool
stages_alike(const Solver *s, uint32_t x, uint32_t y)
{
	const SolveProblem *p = s->p;
	const SolveTable *t = p->table[x];
	if (t != p->table[y] || p->slots[x] != p->slots[y] || p->limit[x] != p->limit[y])
		return false;
	bool enters = false;
	for (uint32_t class = 0; class < p->nclasses; class ++)
		for (uint32_t k = 0; k < t->ncand[class]; k++) {
			const SolveCost *c = &t->cost[class][k];
			enters |= c->enter || c->enter_saved;
			const int64_t *b =
			    t->bytes ? t->bytes[class] + (size_t)k * p->stages : NULL;
			if (b && b[x] != b[y]) return false;
		}
	return !enters || (x && y);
}

static void
make_kind(Solver *s, Kind *k, uint32_t stage)
{
	const SolveTable *t = s->p->table[stage];
	uint32_t *map = NEW_N(s->a, uint32_t, t->ngroups),
		 *rep = NEW_N(s->a, uint32_t, t->ngroups);
	k->table = t;
	k->stage = stage;
	k->ngroups = merge_groups(s, t, map, rep);
	k->view = NEW_N(s->a, View, s->p->nclasses);
	for (uint32_t class = 0; class < s->p->nclasses; class ++)
		view_class(s, k, class, map, rep, s->p->limit[stage]);
}

static void
find_kinds(Solver *s)
{
	s->kind = NEW_N(s->a, Kind, s->stages);
	s->kind_of = NEW_N(s->a, uint32_t, s->stages);
	for (uint32_t i = 0; i < s->stages; i++) {
		uint32_t k = s->nkinds;
		while (k && !stages_alike(s, s->kind[k - 1].stage, i))
			k--;
		if (!k) make_kind(s, &s->kind[s->nkinds++], i);
		s->kind_of[i] = k ? k - 1 : s->nkinds - 1;
	}
}

/* ---- spans ---- */

static void
find_runs(Solver *s)
{
	const uint32_t *of = s->p->class_of;
	s->run_first = NEW_N(s->a, uint32_t, s->n);
	s->run_end = NEW_N(s->a, uint32_t, s->n);
	for (uint32_t i = 0; i < s->n; i++)
		s->run_first[i] = i && of[i] == of[i - 1] ? s->run_first[i - 1] : i;
	for (uint32_t i = s->n; i-- > 0;)
		s->run_end[i] = i + 1 < s->n && of[i] == of[i + 1] ? s->run_end[i + 1] : i + 1;
}

static void
add_pair(Solver *s, uint32_t i, uint32_t j)
{
	uint32_t first = j <= s->run_end[i] ? s->run_first[i] : i, end = first + (j - i);
	uint32_t *at = &s->pair[(size_t)first * (s->widest + 1) + (j - i)];
	if (*at == NO_PAIR) {
		*at = s->npairs;
		PUSH(s->a, s->pairs, s->npairs, s->cpairs, ((Pair){first, end}));
	}
	s->pair[(size_t)i * (s->widest + 1) + (j - i)] = *at;
}

/* Numbers the spans that a plan can have. */
static void
find_pairs(Solver *s)
{
	const uint32_t *fixed = s->p->partition;
	s->widest = s->n - s->stages + 1;
	size_t bytes = sizeof *s->pair * s->n * (s->widest + 1);
	s->pair = arena_alloc(s->a, bytes);
	memset(s->pair, 0xff, bytes);
	if (fixed) {
		for (uint32_t k = 0, i = 0; k < s->stages; i += fixed[k++])
			add_pair(s, i, i + fixed[k]);
		return;
	}
	for (uint32_t i = 0; i < s->n; i++)
		for (uint32_t j = i + 1; j <= s->n && j - i <= s->widest; j++) {
			if (i == 0 && j + s->stages - 1 > s->n) continue;
			if (s->stages == 1 && j - i < s->n) continue;
			add_pair(s, i, j);
		}
}

bool
solver_init(Solver *s, Arena *a, const SolveProblem *p)
{
	*s = (Solver){.p = p,
		      .a = a,
		      .n = p->nlayers,
		      .stages = p->stages,
		      .mb = p->stages == 1 ? 1 : p->microbatches,
		      .folded = p->stages == 1};
	find_runs(s);
	find_kinds(s);
	for (uint32_t i = 0; i < s->n; i++) {
		bool fits = false;
		for (uint32_t k = 0; k < s->nkinds; k++)
			fits |= s->kind[k].view[p->class_of[i]].n > 0;
		if (!fits) return false;
	}
	find_pairs(s);
	return true;
}
