/*
 * search_many.c - the plan of many ranks: a decision tree whose leaves are dynamic programs.
 *
 *   ranks -> stages (those that divide them) -> microbatches (those that divide the batch) -> meshes dp x tp of a stage's
 *   ranks, Megatron-SP, ZeRO, recomputation (search_table.c) -> candidate for every layer and boundaries (search_dp.c)
 *
 * What the program chooses is lowered, scheduled and laid out, and its arena decides: over the limit, the program runs
 * again with so much less to spend. So no plan is returned as fitting that does not. Cut branches say why (--explain).
 * Ties go to fewer stages, then fewer microbatches.
 */
#include <inttypes.h>

#include "passes/search.h"

enum { KEEP = 16, TRIES = 8, SLOWER = 2 };

typedef struct Leaf { /* a branch (stages, microbatches) */
	const Search *s;
	uint32_t stages, mb;
	Table table;
	LayerTable layers;
	Arena *a;
} Leaf;

static void GV_PRINTF(2, 3) explain(const Search *s, const char *fmt, ...)
{
	va_list ap;
	if (!s->explain) return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
}

static const char *
bytes_str(const Search *s, int64_t bytes)
{
	Buf b;
	buf_init(&b, s->c->tmp);
	buf_bytes(&b, bytes);
	return b.s;
}

/* ---- from an assignment to a plan ---- */

static uint32_t
mesh_of(const Leaf *l, Plan *p, const Candidate *k)
{
	Mesh mesh;
	search_mesh(k, &mesh);
	for (uint32_t i = 0; i < p->nmeshes; i++) {
		bool same = p->meshes[i].n == mesh.n;
		for (int j = 1; same && j < mesh.n; j++)
			same = p->meshes[i].ax[j].kind == mesh.ax[j].kind &&
			       p->meshes[i].ax[j].degree == mesh.ax[j].degree;
		if (same) return i;
	}
	mesh.name = name_fmt(l->s->c->names, "m%" PRIu32, p->nmeshes);
	mesh.ax[0].degree = l->mb;
	p->meshes[p->nmeshes] = mesh;
	return p->nmeshes++;
}

static bool
same_run(const Strategy *a, const Strategy *b)
{
	return a->mesh == b->mesh && a->zero == b->zero && a->megatron_sp == b->megatron_sp &&
	       a->recompute == b->recompute;
}

/* Equal layers next to each other in one stage and group may change places at no cost: then runs are few. */
static void
sort_runs(const Leaf *l, Assignment *x)
{
	uint32_t n = l->s->m->ninsts, stage = 0;
	for (uint32_t i = 1; i < n; i++) {
		uint32_t class = l->table.class_of[i], c = x->cand[i], j = i;
		const LayerCost *cost = l->table.cost[class];
		while (stage + 1 < l->stages && i >= x->first[stage + 1])
			stage++;
		for (; j > x->first[stage] && l->table.class_of[j - 1] == class; j--) {
			uint32_t before = x->cand[j - 1];
			if (before <= c || cost[before].group != cost[c].group) break;
			x->cand[j] = before;
		}
		x->cand[j] = c;
	}
}

static Plan
plan_of(const Leaf *l, Assignment *x, Arena *a)
{
	const Search *s = l->s;
	uint32_t n = s->m->ninsts, ranks = s->ranks / l->stages;
	Plan p = {.ranks = s->ranks,
		  .threads = s->c->threads,
		  .microbatches = l->mb,
		  .schedule = l->layers.schedule,
		  .forward_only = s->c->forward_only || s->m->plan.forward_only};
	p.meshes = NEW_N(a, Mesh, l->table.ncand + 1);
	p.meshes[p.nmeshes++] =
	    (Mesh){.name = name_of(s->c->names, "m0"), .n = 1, .ax = {{MX_mb, 0, l->mb}}};
	p.stages = NEW_N(a, Stage, l->stages);
	p.runs = NEW_N(a, Strategy, n);
	sort_runs(l, x);
	for (uint32_t k = 0; k < l->stages; k++) {
		uint32_t end = k + 1 < l->stages ? x->first[k + 1] : n;
		p.stages[p.nstages++] =
		    (Stage){.first = x->first[k],
			    .count = end - x->first[k],
			    .rank = k * ranks,
			    .ranks = ranks,
			    .slots = search_slots(p.schedule, l->stages, k, l->mb)};
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t class = l->table.class_of[i];
		const Candidate *k = &l->table.cand[l->table.of[class][x->cand[i]]];
		Strategy r = {.first = i,
			      .count = 1,
			      .mesh = mesh_of(l, &p, k),
			      .zero = k->zero,
			      .megatron_sp = k->sp,
			      .recompute = k->rc};
		if (p.nruns && same_run(&p.runs[p.nruns - 1], &r))
			p.runs[p.nruns - 1].count++;
		else
			p.runs[p.nruns++] = r;
	}
	return p;
}

/* ---- a leaf ---- */

static bool
better(const Found *a, const Found *b)
{
	if (b->arena < 0 || a->fits != b->fits) return b->arena < 0 || a->fits;
	return a->fits ? a->time < b->time : a->arena < b->arena;
}

static bool
solve(Leaf *l, int64_t limit, Assignment *out)
{
	l->layers.limit = limit;
	return search_dp(l->a, &l->layers, out);
}

/* The fastest plan whose real arena fits, or the last one tried. False: none in sight of the limit. */
static bool
settle(Leaf *l, Found *out)
{
	const Search *s = l->s;
	int64_t limit = s->limit;
	*out = (Found){.arena = -1};
	for (int t = 0; t < TRIES && limit > 0; t++) {
		Assignment x;
		const char *why = NULL;
		if (!solve(l, limit, &x)) break;
		Plan p = plan_of(l, &x, s->c->perm);
		int64_t arena = search_arena(s, &p, &why);
		if (arena < 0) {
			explain(s, "plan:     cut: %s\n", why);
			return false;
		}
		if (out->arena < 0 || arena < out->arena)
			*out = (Found){p, x.time, arena, arena <= s->limit};
		if (out->fits) return true;
		explain(s, "plan:     %.3f ms a step, %s a rank: over by %s\n",
			(double)x.time * 1e-6, bytes_str(s, arena),
			bytes_str(s, arena - s->limit));
		int64_t less = arena - s->limit, least = limit / 256;
		limit -= less > least ? less : least;
	}
	return out->arena >= 0;
}

/* Nothing fits by the table: the smallest it can do, within 2 %, laid out. */
static bool
smallest(Leaf *l, Found *out)
{
	const Search *s = l->s;
	int64_t lo = s->limit, hi = s->limit;
	Assignment x;
	for (int t = 0; t < 40 && hi < INT64_MAX / 4; t++, hi *= 2)
		if (solve(l, hi, &x)) break;
	if (!solve(l, hi, &x)) return false;
	while (hi - lo > hi / 50) {
		int64_t mid = lo + (hi - lo) / 2;
		if (solve(l, mid, &x))
			hi = mid;
		else
			lo = mid;
	}
	solve(l, hi, &x);
	Plan p = plan_of(l, &x, s->c->perm);
	int64_t arena = search_arena(s, &p, NULL);
	if (arena < 0) return false;
	*out = (Found){p, x.time, arena, arena <= s->limit};
	return true;
}

/* Even if every layer took the least it can and boundaries fell anywhere, would a stage be over the limit? */
static bool
hopeless(const Leaf *l)
{
	int64_t sum = 0;
	for (uint32_t i = 0; i < l->s->m->ninsts; i++) {
		uint32_t class = l->table.class_of[i];
		int64_t least = INT64_MAX;
		for (uint32_t k = 0; k < l->table.count[class]; k++) {
			const LayerCost *c = &l->table.cost[class][k];
			if (c->state + c->saved < least) least = c->state + c->saved;
		}
		sum += least / l->stages;
	}
	return sum > l->s->limit;
}

/* The fastest plan, memory left out of account, if it fits all the same. */
static bool
roomy(Leaf *l, Found *out)
{
	Assignment x;
	if (!solve(l, INT64_MAX, &x)) return false;
	Plan p = plan_of(l, &x, l->s->c->perm);
	int64_t arena = search_arena(l->s, &p, NULL);
	*out = (Found){p, x.time, arena, arena >= 0 && arena <= l->s->limit};
	return out->fits;
}

/* small: the least memory is wanted if nothing fits. */
static bool
solve_leaf(Leaf *l, bool small, Found *out)
{
	Found least;
	bool found = !hopeless(l) && settle(l, out);
	if (!small || (found && out->fits)) return found;
	if (!smallest(l, &least)) return found;
	if (!found || better(&least, out)) *out = least;
	return true;
}

static void
leaf_init(Leaf *l, const Search *s, uint32_t stages, uint32_t mb, Recompute top)
{
	*l = (Leaf){.s = s, .stages = stages, .mb = mb, .a = arena_new()};
	search_table(s, l->a, stages, mb, top, &l->table);
	l->layers = (LayerTable){.nlayers = s->m->ninsts,
				 .nclasses = l->table.nclasses,
				 .class_of = l->table.class_of,
				 .ncand = l->table.count,
				 .cost = l->table.cost,
				 .stages = stages,
				 .microbatches = mb,
				 .schedule = s->c->schedule_given ? s->c->schedule : SCH_1f1b,
				 .bound = INT64_MAX,
				 .keep = KEEP};
}

/* A branch. Recomputing is never faster: if the best without any, memory left out of account, fits, it is the best. */
static bool
search_leaf(const Search *s, uint32_t stages, uint32_t mb, bool small, Found *out, bool *lowers)
{
	Leaf l;
	bool train = !s->c->forward_only && !s->m->plan.forward_only;
	leaf_init(&l, s, stages, mb, RC_none);
	*lowers |= l.table.ncand > 0;
	bool found = l.table.ncand && !small && !hopeless(&l) && roomy(&l, out);
	if (found && train && !s->c->recompute_given)
		explain(s, "plan:     recompute selective, full: cut: all fits without\n");
	bool more = !found && l.table.ncand;
	if (more && train) {
		arena_free(l.a);
		leaf_init(&l, s, stages, mb, RC_full);
	}
	if (more) found = solve_leaf(&l, small, out);
	if (!found && l.table.ncand) explain(s, "plan:     cut: over memory\n");
	arena_free(l.a);
	return found;
}

/* ---- the tree ---- */

/* Microbatches of a number of stages, rising, until SLOWER in a row are slower than the best of them that fits. */
static bool
search_stages(const Search *s, uint32_t stages, bool small, Found *best)
{
	Found mine = {.arena = -1};
	bool lowers = false;
	int slower = 0;
	explain(s, "plan: %" PRIu32 " stage%s of %" PRIu32 " rank%s\n", stages,
		stages == 1 ? "" : "s", s->ranks / stages, s->ranks == stages ? "" : "s");
	for (uint32_t i = 0; i < s->nmb && slower < SLOWER; i++) {
		Found f = {.arena = -1};
		explain(s, "plan:   %" PRIu32 " microbatch%s\n", s->mb[i],
			s->mb[i] == 1 ? "" : "es");
		bool found = search_leaf(s, stages, s->mb[i], small, &f, &lowers);
		if (found)
			explain(s, "plan:     -> %.3f ms a step, %s a rank%s%s\n",
				(double)f.time * 1e-6, bytes_str(s, f.arena),
				f.fits ? "" : ": over by ",
				f.fits ? "" : bytes_str(s, f.arena - s->limit));
		slower = found && mine.fits && f.time >= mine.time ? slower + 1 : 0;
		if (found && better(&f, &mine)) mine = f;
	}
	if (slower == SLOWER) explain(s, "plan:   cut: more microbatches are slower\n");
	if (mine.arena >= 0 && better(&mine, best)) *best = mine;
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
		search_table(&t, a, k, s->mb[0], RC_none, &table);
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

/* All numbers of stages. Whether anything lowers. */
static bool
search_tree(const Search *s, bool small, Found *out)
{
	bool lowers = false;
	*out = (Found){.arena = -1};
	explain(s,
		"plan: %" PRIu32 " ranks of %" PRIu32
		" thread%s, %s each; roofline %.0f GFLOP/s and %.1f GB/s a rank\n",
		s->ranks, s->machine.threads, s->machine.threads == 1 ? "" : "s",
		bytes_str(s, s->limit), s->machine.flops * 1e-9, s->machine.bytes * 1e-9);
	for (uint32_t k = 1; k <= s->ranks && k <= s->m->ninsts; k++) {
		if (s->ranks % k) {
			explain(s,
				"plan: %" PRIu32 " stages: cut: %" PRIu32
				" ranks do not divide by %" PRIu32 "\n",
				k, s->ranks, k);
			continue;
		}
		lowers |= search_stages(s, k, small, out);
	}
	if (s->ranks > s->m->ninsts)
		explain(s, "plan: more stages: cut: the model has %" PRIu32 " layers\n",
			s->m->ninsts);
	return lowers;
}

bool
search_many(const Search *s, Found *out)
{
	bool lowers = search_tree(s, false, out);
	if (lowers && !out->fits) {
		explain(s, "plan: nothing fits; the smallest?\n");
		search_tree(s, true, out);
	}
	if (out->arena >= 0) return true;
	if (!lowers && refuse_batch(s, out)) return true;
	report_left_over(s);
	return false;
}
