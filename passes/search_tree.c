/*
 * search_tree.c - branches, the one that may be best first.
 *
 *   order of nodes -> division into stages -> microbatches -> (search_branch.c) meshes, ZeRO, recomputation for every layer
 *
 * Every branch has a time that none of its plans is below: at first the model's arithmetic, then what its layers take as
 * they lower, each for itself, then what the solver proves. The branch with the least is worked on until that is no longer
 * below what was found. So most branches are never lowered. Ties go to the branch that was made first: the file's order of
 * nodes, fewer stages, fewer microbatches.
 */
#include "passes/search.h"

static const double GAP = 0.018;   /* what is proven of the best, as a part of it */
static const double WIDEST = 0.15; /* ... if the best by simulation is that much slower */
/* Steps of the solver that proving may take: some nanoseconds each. */
enum { WORK_BASE = 40 * 1000 * 1000, WORK_RANK = 18 * 1000 };
static const double WINDOW =
    0.03; /* plans so much slower by the table may be simulated as well */

/* ---- the heap of open branches ---- */

static bool
before(const Tree *t, uint32_t a, uint32_t b)
{
	const Leaf *x = &t->leaf[a], *y = &t->leaf[b];
	return x->least != y->least ? x->least < y->least : a < b;
}

static void
sift_down(Tree *t, uint32_t i)
{
	uint32_t x = t->heap[i];
	for (uint32_t k; (k = 2 * i + 1) < t->nheap; i = k) {
		if (k + 1 < t->nheap && before(t, t->heap[k + 1], t->heap[k])) k++;
		if (!before(t, t->heap[k], x)) break;
		t->heap[i] = t->heap[k];
		t->heap[k] = x;
	}
	t->heap[i] = x;
}

static void
push(Tree *t, uint32_t leaf)
{
	uint32_t i = t->nheap++;
	for (; i && before(t, leaf, t->heap[(i - 1) / 2]); i = (i - 1) / 2)
		t->heap[i] = t->heap[(i - 1) / 2];
	t->heap[i] = leaf;
}

static uint32_t
pop(Tree *t)
{
	uint32_t top = t->heap[0];
	t->heap[0] = t->heap[--t->nheap];
	if (t->nheap) sift_down(t, 0);
	return top;
}

/* ---- growing ---- */

void
search_tree_plant(Search *s, Tree *t)
{
	*t = (Tree){0};
	Schedule schedule = s->c->schedule_given ? s->c->schedule : SCH_1f1b;
	for (uint32_t i = 0; i < s->ndivisions; i++)
		for (uint32_t j = 0; j < s->nmb; j++) {
			Leaf l = {.division = i,
				  .mb = s->mb[j],
				  .number = t->n,
				  .schedule = schedule};
			branch_begin(s, &l);
			PUSH(s->a, t->leaf, t->n, t->cap, l);
		}
	t->heap = NEW_N(s->a, uint32_t, t->n + 1);
	for (uint32_t i = 0; i < t->n; i++)
		t->heap[t->nheap++] = i;
	for (uint32_t i = t->nheap / 2; i-- > 0;)
		sift_down(t, i);
}

static void
add_solved(Search *s, Tree *t, uint32_t leaf)
{
	PUSH(s->a, t->solved, t->nsolved, t->csolved, leaf);
	for (uint32_t i = t->nsolved - 1; i; i--) {
		uint32_t a = t->solved[i - 1];
		if (t->leaf[a].time <= t->leaf[leaf].time) break;
		t->solved[i - 1] = leaf;
		t->solved[i] = a;
	}
}

/* Plans from here on are of no interest. */
static int64_t
cutoff(const Tree *t, uint32_t keep)
{
	if (!t->nsolved) return INT64_MAX;
	int64_t best = t->leaf[t->solved[0]].time,
		near = best + (int64_t)((double)best * WINDOW),
		wide = best + (int64_t)((double)best * WIDEST);
	if (t->near > near) near = t->near < wide ? t->near : wide;
	if (t->nsolved < keep) return near;
	int64_t last = t->leaf[t->solved[keep - 1]].time;
	return last < near ? last : near;
}

void
search_tree_grow(Search *s, Tree *t, uint32_t keep)
{
	while (t->nheap) {
		int64_t bound = cutoff(t, keep);
		Leaf *l = &t->leaf[t->heap[0]];
		if (l->least >= bound) break;
		branch_refine(s, l, bound);
		uint32_t x = pop(t);
		if (l->state == ST_solved)
			add_solved(s, t, x);
		else if (l->state != ST_done)
			push(t, x);
	}
}

static void
remove_solved(Tree *t, uint32_t leaf)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < t->nsolved; i++)
		if (t->solved[i] != leaf) t->solved[kept++] = t->solved[i];
	t->nsolved = kept;
}

/* Of the branches not seen, the one that may be best. t->n: none is left. */
static uint32_t
least_unseen(const Tree *t, const bool *seen)
{
	uint32_t best = t->n;
	for (uint32_t i = 0; i < t->n; i++) {
		const Leaf *l = &t->leaf[i];
		if (!seen[i] && l->state != ST_new && l->fate != LF_no_mesh &&
		    l->fate != LF_memory && (best == t->n || before(t, i, best)))
			best = i;
	}
	return best;
}

/* Shows that no plan is better than the best by more than GAP, if that is so, those first that may be best. More ranks are worth
 * more work; what it does not come to, the gap shows. */
void
search_tree_prove(Search *s, Tree *t)
{
	bool *seen = NEW_N(s->a, bool, t->n);
	int64_t most = s->work + WORK_BASE + (int64_t)s->ranks * WORK_RANK;
	for (uint32_t i; t->nsolved && s->work < most && (i = least_unseen(t, seen)) < t->n;) {
		int64_t best = t->leaf[t->solved[0]].time,
			goal = (int64_t)((double)best / (1 + GAP));
		Leaf *l = &t->leaf[i];
		if (l->least >= goal) break;
		seen[i] = true;
		branch_prove(s, l, goal);
	}
	t->least = INT64_MAX;
	for (uint32_t i = 0; i < t->n; i++)
		if (t->leaf[i].fate != LF_no_mesh && t->leaf[i].fate != LF_memory &&
		    t->leaf[i].least < t->least)
			t->least = t->leaf[i].least;
}

void
search_tree(Search *s, uint32_t keep, Tree *t)
{
	search_tree_plant(s, t);
	search_tree_grow(s, t, keep);
}

/* The best by simulation is slower than the table said: what the table puts below that may be better. False: nothing new. */
bool
search_tree_widen(Search *s, Tree *t, int64_t simulated, uint32_t keep)
{
	uint32_t n = t->nsolved;
	if (simulated <= cutoff(t, keep) || n >= keep) return false;
	t->near = simulated;
	int64_t near = cutoff(t, keep);
	for (uint32_t i = 0; i < t->n; i++) {
		Leaf *l = &t->leaf[i];
		if (l->state != ST_done || l->fate != LF_bound || l->least >= near) continue;
		l->state = l->bounded ? ST_limited : ST_table;
		push(t, i);
	}
	search_tree_grow(s, t, keep);
	return t->nsolved > n;
}

void
search_tree_again(Search *s, Tree *t, uint32_t leaf, uint32_t keep)
{
	remove_solved(t, leaf);
	if (t->leaf[leaf].state != ST_done) push(t, leaf);
	search_tree_grow(s, t, keep);
}
