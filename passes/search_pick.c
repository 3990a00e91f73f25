/*
 * search_pick.c - which meshes the solver mixes in a branch.
 *
 * On a thousand ranks there are dozens of meshes, and the solver's work grows with the square of those it may mix. It gets
 * the few that are best in some respect: a mesh is scored by what all layers take under their best candidates of it, memory
 * counted at four prices from nothing to dear; of each price the best are kept. What that leaves out shows in the gap: the
 * bound is made with all of them.
 */
#include <stdlib.h>

#include "passes/search.h"

enum { ALL = 8, BEST = 3, PRICES = 4 }; /* up to ALL groups nothing is left out */

typedef struct Part { /* of one Rows */
	const Rows *rows;
	SolveTable table;
	uint32_t *ncand, **of; /* [classes]; candidates of rows */
	SolveCost **cost;
	SolveMove **move;
	uint32_t *group; /* [table.ngroups] of rows */
} Part;

struct Pick {
	Part *part;
	uint32_t nparts, nclasses;
	const SolveTable **table; /* [stages] */
};

/* What all layers take in their best candidates of every group, once a step shared out, bytes at `price`; below 0: it has none
 * for some class. */
static void
score(const SolveProblem *p, const Rows *r, uint32_t slots, const uint32_t *count, double price,
      double *out, double *least)
{
	uint32_t g = r->table.ngroups;
	double once = 1.0 / (p->microbatches + p->stages - 1.0);
	for (uint32_t i = 0; i < g; i++)
		out[i] = 0;
	for (uint32_t c = 0; c < p->nclasses; c++) {
		for (uint32_t i = 0; i < g; i++)
			least[i] = -1;
		for (uint32_t k = 0; k < r->ncand[c]; k++) {
			const SolveCost *x = &r->cost[c][k];
			double y =
			    (double)x->time + once * (double)x->once +
			    price * ((double)x->state + (double)slots * (double)x->saved);
			if (least[x->group] < 0 || y < least[x->group]) least[x->group] = y;
		}
		for (uint32_t i = 0; i < g; i++)
			out[i] = least[i] < 0 || out[i] < 0 ? -1 : out[i] + count[c] * least[i];
	}
}

/* Marks the best groups; not those that have nothing for some class. Ties go to the lower index. */
static void
mark_best(const double *of, uint32_t g, bool *in)
{
	for (uint32_t i = 0; i < g; i++) {
		uint32_t before = 0; /* how many are better */
		for (uint32_t j = 0; j < g; j++)
			before += of[j] >= 0 && (of[j] < of[i] || (of[j] == of[i] && j < i));
		if (of[i] >= 0 && before < BEST) in[i] = true;
	}
}

static void
copy_costs(Arena *a, const Rows *r, const uint32_t *number, uint32_t nclasses, WorkRange level,
	   Part *x)
{
	x->ncand = NEW_N(a, uint32_t, nclasses);
	x->of = NEW_N(a, uint32_t *, nclasses);
	x->cost = NEW_N(a, SolveCost *, nclasses);
	for (uint32_t c = 0; c < nclasses; c++) {
		uint32_t n = 0;
		x->of[c] = NEW_N(a, uint32_t, r->ncand[c]);
		x->cost[c] = NEW_N(a, SolveCost, r->ncand[c]);
		for (uint32_t k = 0; k < r->ncand[c]; k++) {
			if (!number[r->cost[c][k].group] || r->cost[c][k].work > level.most)
				continue;
			x->cost[c][n] = r->cost[c][k];
			x->cost[c][n].work -=
			    r->cost[c][k].work < level.least ? r->cost[c][k].work : level.least;
			x->cost[c][n].group = number[r->cost[c][k].group] - 1;
			x->of[c][n++] = k;
		}
		x->ncand[c] = n;
	}
}

/* Candidates of all groups as if they were of one: those no better in anything than another. */
static void
drop_dominated(Part *x, uint32_t class)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < x->ncand[class]; i++) {
		const SolveCost *a = &x->cost[class][i];
		bool beaten = false;
		for (uint32_t j = 0; j < x->ncand[class] && !beaten; j++) {
			const SolveCost *b = &x->cost[class][j];
			bool equal = j > i;
			if (j == i || b->time > a->time || b->once > a->once ||
			    b->state > a->state || b->saved > a->saved || b->work > a->work ||
			    b->enter > a->enter || b->enter_saved > a->enter_saved)
				continue;
			equal &= b->time == a->time && b->once == a->once &&
				 b->state == a->state && b->saved == a->saved &&
				 b->work == a->work && b->enter == a->enter &&
				 b->enter_saved == a->enter_saved;
			beaten = !equal;
		}
		if (!beaten) x->of[class][n] = i, n++;
	}
	for (uint32_t i = 0; i < n; i++) { /* rising, so that nothing is overwritten unread */
		uint32_t from = x->of[class][i];
		x->cost[class][i] = x->cost[class][from];
	}
	x->ncand[class] = n;
}

static Part
make_part(const Search *s, const SolveProblem *p, const Rows *r, uint32_t stage,
	  const uint32_t *count, WorkRange level, bool merged)
{
	uint32_t g = r->table.ngroups, n = 0;
	Part x = {.rows = r};
	bool *in = NEW_N(s->a, bool, g);
	double *of = NEW_N(s->a, double, g), *least = NEW_N(s->a, double, g);
	uint32_t *number = NEW_N(s->a, uint32_t, g); /* 1 + new */
	x.group = NEW_N(s->a, uint32_t, g);
	int64_t fastest = 0;
	for (uint32_t c = 0; c < p->nclasses; c++) {
		int64_t t = INT64_MAX;
		for (uint32_t k = 0; k < r->ncand[c]; k++)
			if (r->cost[c][k].time < t) t = r->cost[c][k].time;
		if (t < INT64_MAX) fastest += count[c] * t;
	}
	double room = (double)p->limit[stage] * p->stages;
	for (int k = 0; k < PRICES; k++) { /* all of the memory is worth so much of the time */
		static const double worth[PRICES] = {0, 0.1, 1, 10};
		score(p, r, p->slots[stage], count, worth[k] * (double)fastest / room, of,
		      least);
		mark_best(of, g, in);
	}
	for (uint32_t i = 0; i < g; i++)
		if (merged) {
			number[i] = n = 1;
		} else if (in[i] || g <= ALL) {
			x.group[n] = i;
			number[i] = ++n;
		}
	copy_costs(s->a, r, number, p->nclasses, level, &x);
	for (uint32_t c = 0; merged && c < p->nclasses; c++)
		drop_dominated(&x, c);
	x.table = (SolveTable){.ngroups = n, .ncand = x.ncand, .cost = x.cost};
	if (n < 2) return x;
	x.move = NEW_N(s->a, SolveMove *, p->nclasses);
	for (uint32_t c = 0; c < p->nclasses; c++)
		x.move[c] = NEW_N(s->a, SolveMove, (size_t)n * n);
	return x;
}

Pick *
search_pick(const Search *s, const Leaf *l, const SolveProblem *p, WorkRange level, bool merged,
	    SolveProblem *out)
{
	Pick *x = NEW(s->a, Pick);
	uint32_t *count = NEW_N(s->a, uint32_t, p->nclasses),
		 *of = NEW_N(s->a, uint32_t, p->stages);
	for (uint32_t i = 0; i < p->nlayers; i++)
		count[p->class_of[i]]++;
	x->nclasses = p->nclasses;
	x->part = NEW_N(s->a, Part, p->stages);
	for (uint32_t k = 0; k < p->stages; k++) {
		uint32_t j = 0;
		while (j < x->nparts && x->part[j].rows != l->rows[k])
			j++;
		if (j == x->nparts)
			x->part[x->nparts++] =
			    make_part(s, p, l->rows[k], k, count, level, merged);
		of[k] = j;
	}
	x->table = NEW_N(s->a, const SolveTable *, p->stages);
	for (uint32_t k = 0; k < p->stages; k++)
		x->table[k] = &x->part[of[k]].table;
	int64_t *limit = NEW_N(s->a, int64_t, p->stages);
	for (uint32_t k = 0; k < p->stages; k++)
		limit[k] = p->limit[k] - level.least;
	*out = *p;
	out->limit = limit;
	out->table = x->table;
	return x;
}

static int
rising(const void *x, const void *y)
{
	int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
	return a < b ? -1 : a > b;
}

/* What candidates work in, rising; the least that every class can do with is the first. */
static uint32_t
all_works(const Leaf *l, const SolveProblem *p, Arena *tmp, int64_t **out)
{
	uint32_t n = 0, cap = 0, kept = 0;
	int64_t lo = 0;
	for (uint32_t c = 0; c < p->nclasses; c++) {
		int64_t least = INT64_MAX;
		for (uint32_t s = 0; s < p->stages; s++) {
			const Rows *r = l->rows[s];
			for (uint32_t k = 0; (!s || r != l->rows[s - 1]) && k < r->ncand[c];
			     k++) {
				if (r->cost[c][k].work < least) least = r->cost[c][k].work;
				PUSH(tmp, *out, n, cap, r->cost[c][k].work);
			}
		}
		if (least < INT64_MAX && least > lo) lo = least;
	}
	PUSH(tmp, *out, n, cap, lo);
	qsort(*out, n, sizeof **out, rising);
	for (uint32_t i = 0; i < n; i++)
		if ((*out)[i] >= lo && (!kept || (*out)[i] > (*out)[kept - 1]))
			(*out)[kept++] = (*out)[i];
	return kept;
}

uint32_t
search_levels(const Leaf *l, const SolveProblem *p, WorkRange level[MAX_LEVELS])
{
	Arena *tmp = arena_new();
	int64_t *work = NULL, room = INT64_MAX;
	uint32_t n = 0, all = all_works(l, p, tmp, &work);
	for (uint32_t s = 0; s < p->stages; s++)
		if (p->limit[s] < room) room = p->limit[s];
	for (int64_t step = room / 512; !n; step *= 2) { /* as narrow as there is room for */
		for (uint32_t i = 0; i < all && work[i] <= room; i++) {
			if (n && work[i] - level[n - 1].least <= step) {
				level[n - 1].most = work[i];
				continue;
			}
			if (n == MAX_LEVELS) {
				n = 0;
				break;
			}
			level[n++] = (WorkRange){work[i], work[i]};
		}
		if (!all || work[0] > room) break;
	}
	arena_free(tmp);
	return n;
}

bool
pick_whole(const Pick *x)
{
	for (uint32_t i = 0; i < x->nparts; i++)
		if (x->part[i].table.ngroups < x->part[i].rows->table.ngroups) return false;
	return true;
}

const SolveTable *const *
pick_tables(Pick *x)
{
	for (uint32_t i = 0; i < x->nparts; i++) {
		Part *y = &x->part[i];
		uint32_t n = y->table.ngroups, all = y->rows->table.ngroups;
		for (uint32_t c = 0; y->move && c < x->nclasses; c++)
			for (uint32_t k = 0; k < n * n; k++)
				y->move[c][k] =
				    y->rows->move[c][y->group[k / n] * all + y->group[k % n]];
		y->table.move = (const SolveMove *const *)y->move;
	}
	return x->table;
}

void
pick_answer(const Search *s, Leaf *l, const Pick *x)
{
	const Classes *classes = search_memo_classes(s->memo);
	uint32_t stages = s->division[l->division].stages;
	for (uint32_t i = 0, k = 0; i < s->m->ninsts; i++) {
		while (k + 1 < stages && i >= l->x.first[k + 1])
			k++;
		const Part *y = &x->part[0];
		while (y->rows != l->rows[k])
			y++;
		l->x.cand[i] = y->of[classes->of[i]][l->x.cand[i]];
	}
}
