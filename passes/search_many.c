/*
 * search_many.c - the plan of many ranks: a decision tree whose leaves are dynamic programs, best first.
 *
 *   ranks -> stages (those that divide them) -> microbatches (those that divide the batch) -> meshes dp x tp of a stage's
 *   ranks, Megatron-SP, ZeRO, recomputation (search_table.c) -> candidate for every layer and boundaries (search_dp.c)
 *
 * Every branch (stages, microbatches) has a time that none of its plans is below, and the branch with the least is worked on
 * until that is another one. It begins with the model's arithmetic at this machine's best; then come the layers as they
 * lower, without recomputation, each for itself; the best plan of those, memory left out of account; that of all candidates
 * within the memory. Recomputing is never faster. What the program chooses is lowered, scheduled and laid out, and its arena
 * decides: over the limit, the program runs again with so much less to spend. So no plan is returned as fitting that does
 * not, and the first that fits is the best: nothing else can be below it.
 *
 * --explain says what was done and what each branch was worth when it was left. Ties go to fewer stages, then fewer
 * microbatches.
 */
#include <inttypes.h>

#include "passes/search.h"

enum { SMALLEST = 12 }; /* branches whose smallest plan is sought if nothing fits */

static void GV_PRINTF(2, 3) explain(const Search *s, const char *fmt, ...)
{
	va_list ap;
	if (!s->explain) return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
}

/* ---- the tree ---- */

/* All of the model's products, spread evenly over all ranks. */
static int64_t
arithmetic(const Search *s)
{
	double flops = 0;
	for (uint32_t i = 0; i < s->m->ninsts; i++)
		for (int k = BK_F; k <= BK_W; k++) {
			uint32_t b = s->m->types[s->m->insts[i].type].body[k];
			if (b) flops += cost_body(s->m, &s->m->bodies[b]).flops;
		}
	return (int64_t)(flops / s->ranks / s->machine.flops * 1e9 * (1 - 1e-6));
}

typedef struct Tree {
	Leaf *l;
	uint32_t n, cap;
} Tree;

static void
add_leaves(const Search *s, Tree *t, uint32_t stages, int64_t all)
{
	for (uint32_t i = 0; i < s->nmb; i++) {
		Leaf l = {.s = s, .stages = stages, .mb = s->mb[i]};
		/* stages wait for the first microbatch and for the last */
		l.least = (int64_t)((double)all * (l.mb + stages - 1) / l.mb);
		PUSH(s->c->tmp, t->l, t->n, t->cap, l);
	}
}

static Tree
plant(const Search *s)
{
	Tree t = {0};
	int64_t all = arithmetic(s);
	explain(s,
		"plan: %" PRIu32 " ranks of %" PRIu32
		" thread%s, %s each; roofline %.0f GFLOP/s and %.1f GB/s a rank\n",
		s->ranks, s->machine.threads, s->machine.threads == 1 ? "" : "s",
		search_bytes_str(s, s->limit), s->machine.flops * 1e-9,
		s->machine.bytes * 1e-9);
	for (uint32_t k = 1; k <= s->ranks && k <= s->m->ninsts; k++) {
		if (s->ranks % k == 0)
			add_leaves(s, &t, k, all);
		else
			explain(s,
				"plan: %" PRIu32 " stages: cut: %" PRIu32
				" ranks do not divide by %" PRIu32 "\n",
				k, s->ranks, k);
	}
	if (s->ranks > s->m->ninsts)
		explain(s, "plan: more stages: cut: the model has %" PRIu32 " layers\n",
			s->m->ninsts);
	return t;
}

static Leaf *
least_of(Tree *t)
{
	Leaf *best = NULL;
	for (uint32_t i = 0; i < t->n; i++)
		if (t->l[i].state != ST_done && (!best || t->l[i].least < best->least))
			best = &t->l[i];
	return best;
}

/* What became of the branches that were left. */
static void
explain_rest(const Tree *t, const Search *s, const Leaf *best)
{
	uint32_t left = 0;
	for (uint32_t i = 0; i < t->n; i++) {
		if (t->l[i].state == ST_done) continue;
		left++;
		branch_explain(&t->l[i], "cut: at least %.3f ms a step%s\n",
			       search_ms(t->l[i].least),
			       t->l[i].state == ST_new ? " by arithmetic" : "");
	}
	branch_explain(best, "chosen\n");
	explain(s,
		"plan: %" PRIu32 " branches, %" PRIu32 " of them not to the end; %" PRIu32
		" lowerings of all layers\n",
		t->n, left, search_lowered(s->memo));
}

/* The branches with the least bytes first, until no other can be below. */
static void
search_smallest(const Search *s, Tree *t, Found *out)
{
	explain(s, "plan: nothing fits; the smallest?\n");
	for (int turn = 0; turn < SMALLEST; turn++) {
		Leaf *least = NULL;
		int64_t bytes = INT64_MAX;
		for (uint32_t i = 0; i < t->n; i++) {
			Leaf *l = &t->l[i];
			if (!l->table.ncand || l->wide < 0 || branch_bytes(l) >= bytes)
				continue;
			least = l;
			bytes = branch_bytes(l);
		}
		if (!least || (out->arena >= 0 && bytes >= out->arena)) return;
		least->wide = -1; /* seen */
		if (branch_take(out, branch_smallest(least))) return;
	}
}

/* Whether anything lowers. */
static bool
search_tree(const Search *s, Found *out)
{
	Tree t = plant(s);
	Leaf *l = NULL;
	bool lowers = false, found = false;
	*out = (Found){.arena = -1};
	while (!found && (l = least_of(&t)))
		found = branch_refine(l, out);
	for (uint32_t i = 0; i < t.n; i++)
		lowers |= t.l[i].table.ncand > 0;
	if (found) {
		l->state = ST_done;
		explain_rest(&t, s, l);
	} else if (lowers) {
		search_smallest(s, &t, out);
	}
	for (uint32_t i = 0; i < t.n; i++)
		if (t.l[i].a) arena_free(t.l[i].a);
	return lowers;
}

/* Can this many ranks be used at all: by some stages and a mesh that lowers? */
static bool
usable(const Search *s, uint32_t ranks)
{
	Search t = *s;
	bool yes = false;
	t.ranks = ranks;
	t.explain = false;
	for (uint32_t k = 1; !yes && k <= ranks && k <= s->m->ninsts; k++) {
		if (ranks % k) continue;
		Arena *a = arena_new();
		Table table;
		search_table(&t, a, k, s->mb[0], RC_none, RC_none, &table);
		yes = table.ncand > 0;
		arena_free(a);
	}
	return yes;
}

/* A model that does not split into these microbatches on one rank either: spmd will say so, at its place. */
static bool
refuse_batch(const Search *s, Found *out)
{
	Mesh mesh = {.n = 1};
	Strategy r = {.recompute = RC_none};
	Plan p = search_uniform(s, s->c->perm, s->mb[0], &mesh, &r);
	if (search_arena(s, &p, NULL) >= 0) return false;
	*out = (Found){.plan = p, .arena = -1};
	return true;
}

/* Nothing uses all ranks: which counts near this one are used by something? */
static void
report_left_over(const Search *s)
{
	Buf b;
	uint32_t below[6], n = 0, above = s->ranks;
	buf_init(&b, s->c->tmp);
	for (uint32_t r = s->ranks; --r && n < COUNTOF(below) && s->ranks - r < 64;)
		if (r == 1 || usable(s, r)) below[n++] = r;
	uint32_t half = 1;
	while (half <= s->ranks / 2)
		half *= 2;
	for (; !n && half; half /= 2)
		if (half < s->ranks && (half == 1 || usable(s, half))) below[n++] = half;
	while (n--)
		buf_printf(&b, " %" PRIu32, below[n]);
	while (++above <= s->ranks + 16)
		if (usable(s, above)) {
			buf_printf(&b, " %" PRIu32, above);
			break;
		}
	diag_error(s->c->diag, (Loc){0},
		   "no plan uses all %" PRIu32
		   " ranks: no stages and degrees of dp and tp that divide them fit the model "
		   "(--explain says why); usable are%s",
		   s->ranks, b.s);
}

bool
search_many(const Search *s, Found *out)
{
	bool lowers = search_tree(s, out);
	if (out->arena >= 0) return true;
	if (!lowers && refuse_batch(s, out)) return true;
	report_left_over(s);
	return false;
}
