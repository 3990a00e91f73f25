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

enum {
	KEEP = 16,
	TRIES = 8,
	WIDEST =
	    8, /* the bound of a program rises by 1/64, 1/32 ... so many times; then there is none */
	SMALLEST = 16 /* branches whose smallest plan is sought if nothing fits */
};

/* How far a branch has come; ORDER is that of refine(). */
typedef enum State {
	ST_new,
	ST_fast,    /* there is a table, without recomputation: which is its fastest plan? */
	ST_fits,    /* ... does that fit, as it happens? */
	ST_limited, /* a table of all candidates: which is the fastest plan within the limit? */
	ST_laid,    /* ... does it fit, laid out? */
	ST_done
} State;

typedef struct Leaf { /* a branch (stages, microbatches) */
	const Search *s;
	uint32_t stages, mb;
	State state;
	int64_t least; /* none of its plans takes less; ns */
	int64_t limit; /* bytes to spend */
	int wide, tries;
	const char *cut; /* why, if it is */
	Table table;
	LayerTable layers;
	Assignment x;
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
		uint32_t class = l->table.classes->of[i], c = x->cand[i], j = i;
		const LayerCost *cost = l->table.cost[class];
		while (stage + 1 < l->stages && i >= x->first[stage + 1])
			stage++;
		for (; j > x->first[stage] && l->table.classes->of[j - 1] == class; j--) {
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
		uint32_t class = l->table.classes->of[i];
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

/* ---- a branch ---- */

static void GV_PRINTF(2, 3) explain_leaf(const Leaf *l, const char *fmt, ...)
{
	va_list ap;
	if (!l->s->explain) return;
	printf("plan:   %" PRIu32 " stage%s, %" PRIu32 " microbatch%s: ", l->stages,
	       l->stages == 1 ? "" : "s", l->mb, l->mb == 1 ? "" : "es");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
}

static double
ms(int64_t ns)
{
	return (double)ns * 1e-6;
}

static void
cut(Leaf *l, const char *why)
{
	l->cut = why;
	l->state = ST_done;
	explain_leaf(l, "cut: %s\n", why);
}

static bool
trains(const Search *s)
{
	return !s->c->forward_only && !s->m->plan.forward_only;
}

static void
make_table(Leaf *l, Recompute top, Recompute said)
{
	const Search *s = l->s;
	if (!l->a) l->a = arena_new();
	search_table(s, l->a, l->stages, l->mb, top, said, &l->table);
	l->layers = (LayerTable){.nlayers = s->m->ninsts,
				 .nclasses = l->table.classes->n,
				 .class_of = l->table.classes->of,
				 .ncand = l->table.count,
				 .cost = l->table.cost,
				 .stages = l->stages,
				 .microbatches = l->mb,
				 .schedule = s->c->schedule_given ? s->c->schedule : SCH_1f1b,
				 .limit = INT64_MAX,
				 .bound = INT64_MAX,
				 .keep = KEEP};
}

static void
raise(Leaf *l, int64_t least)
{
	if (least > l->least) l->least = least;
}

/* The best plan of the table within a limit, or a better bound. Returns whether there is an answer; .time 0: nothing fits. */
static bool
solve_some(Leaf *l, int64_t limit)
{
	int64_t step = l->least >> 6 << (l->wide < WIDEST ? l->wide : 0);
	l->layers.limit = limit;
	l->layers.bound = l->wide++ < WIDEST ? l->least + step + 1 : INT64_MAX;
	if (search_dp(l->a, &l->layers, &l->x)) {
		raise(l, l->x.time);
		return true;
	}
	l->x = (Assignment){0};
	if (l->layers.bound == INT64_MAX) return true;
	raise(l, l->layers.bound);
	return false;
}

static bool
solve(Leaf *l, int64_t limit, Assignment *out)
{
	l->layers.limit = limit;
	l->layers.bound = INT64_MAX;
	return search_dp(l->a, &l->layers, out);
}

/* Bytes of all layers at their least, and of no more than one microbatch in flight, over all stages. */
static int64_t
least_bytes(const Leaf *l)
{
	int64_t sum = 0;
	for (uint32_t i = 0; i < l->s->m->ninsts; i++) {
		uint32_t class = l->table.classes->of[i];
		int64_t least = INT64_MAX;
		for (uint32_t k = 0; k < l->table.count[class]; k++) {
			const LayerCost *c = &l->table.cost[class][k];
			if (c->state + c->saved < least) least = c->state + c->saved;
		}
		sum += least / l->stages;
	}
	return sum;
}

static int64_t
most_bytes(const Leaf *l)
{
	int64_t most = 0;
	for (uint32_t k = 0; k < l->stages; k++)
		if (l->x.bytes[k] > most) most = l->x.bytes[k];
	return most;
}

/* Lowers, schedules and lays out what the program chose. */
static Found
lay_out(const Leaf *l, Assignment *x)
{
	const char *why = NULL;
	Plan p = plan_of(l, x, l->s->c->perm);
	int64_t arena = search_arena(l->s, &p, &why);
	if (arena < 0)
		explain_leaf(l, "%.3f ms a step: cut: %s\n", ms(x->time), why);
	else if (arena > l->s->limit)
		explain_leaf(l, "%.3f ms a step, %s a rank: over by %s\n", ms(x->time),
			     bytes_str(l->s, arena), bytes_str(l->s, arena - l->s->limit));
	else
		explain_leaf(l, "%.3f ms a step, %s a rank\n", ms(x->time),
			     bytes_str(l->s, arena));
	return (Found){p, x->time, arena, arena >= 0 && arena <= l->s->limit};
}

/* The one that fits, else the smallest. */
static bool
take(Found *out, Found f)
{
	if (f.fits || (f.arena >= 0 && (out->arena < 0 || f.arena < out->arena))) *out = f;
	return f.fits;
}

static void
to_limited(Leaf *l)
{
	const Search *s = l->s;
	if (trains(s) && !s->c->recompute_given) make_table(l, RC_full, RC_selective);
	l->state = ST_limited;
	l->limit = s->limit;
	l->wide = 0;
	if (least_bytes(l) > l->limit)
		cut(l, "over memory");
	else
		raise(l, search_least(s->c->tmp, &l->layers));
}

/* What the table says is near the truth: far over the limit, nothing need be laid out. */
static Found
lay_out_fast(Leaf *l)
{
	int64_t bytes = most_bytes(l);
	if (bytes / 3 * 2 <= l->s->limit) return lay_out(l, &l->x);
	explain_leaf(l, "%.3f ms a step if there were %s a rank\n", ms(l->x.time),
		     bytes_str(l->s, bytes));
	return (Found){.arena = -1};
}

/* Over the limit by so much: next time, there is so much less to spend. */
static void
tighten(Leaf *l, const Found *f)
{
	int64_t less = f->arena - l->s->limit;
	if (less < l->limit / 256) less = l->limit / 256;
	l->state = ST_limited;
	l->limit -= less;
	l->wide = 0;
	if (f->arena < 0 || l->limit <= 0 || ++l->tries == TRIES)
		cut(l, "over memory, laid out");
}

static void
begin(Leaf *l)
{
	explain_leaf(l, "at least %.3f ms a step by arithmetic\n", ms(l->least));
	make_table(l, RC_none, RC_none);
	l->state = ST_fast;
	if (l->table.ncand)
		raise(l, search_least(l->s->c->tmp, &l->layers));
	else
		cut(l, "no mesh");
}

/* One step further. Returns whether *out is a plan that fits. */
static bool
refine(Leaf *l, Found *out)
{
	Found f = {.arena = -1};
	switch (l->state) {
	case ST_new: begin(l); break;
	case ST_fast:
		if (solve_some(l, INT64_MAX)) l->state = ST_fits;
		break;
	case ST_fits:
		f = lay_out_fast(l);
		if (!f.fits) to_limited(l);
		break;
	case ST_limited:
		if (!solve_some(l, l->limit)) break;
		l->state = ST_laid;
		if (!l->x.time) cut(l, "over memory");
		break;
	case ST_laid:
		f = lay_out(l, &l->x);
		if (!f.fits) tighten(l, &f);
		break;
	case ST_done: ICE("a branch that is done");
	}
	return take(out, f);
}

/* Nothing fits by the table: the smallest it can do, within 2 %, laid out. */
static Found
smallest(Leaf *l)
{
	int64_t lo = l->s->limit, hi = lo;
	Assignment x;
	for (int t = 0; t < 40 && hi < INT64_MAX / 4; t++, hi *= 2)
		if (solve(l, hi, &x)) break;
	if (!solve(l, hi, &x)) return (Found){.arena = -1};
	while (hi - lo > hi / 50) {
		int64_t mid = lo + (hi - lo) / 2;
		if (solve(l, mid, &x))
			hi = mid;
		else
			lo = mid;
	}
	solve(l, hi, &x);
	return lay_out(l, &x);
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
		bytes_str(s, s->limit), s->machine.flops * 1e-9, s->machine.bytes * 1e-9);
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
explain_rest(const Tree *t, const Search *s)
{
	uint32_t left = 0;
	for (uint32_t i = 0; i < t->n; i++) {
		if (t->l[i].state == ST_done) continue;
		left++;
		explain_leaf(&t->l[i], "cut: at least %.3f ms a step%s\n", ms(t->l[i].least),
			     t->l[i].state == ST_new ? " by arithmetic" : "");
	}
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
			if (!l->table.ncand || l->wide < 0 || least_bytes(l) >= bytes) continue;
			least = l;
			bytes = least_bytes(l);
		}
		if (!least || (out->arena >= 0 && bytes >= out->arena)) return;
		least->wide = -1; /* seen */
		if (take(out, smallest(least))) return;
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
		found = refine(l, out);
	for (uint32_t i = 0; i < t.n; i++)
		lowers |= t.l[i].table.ncand > 0;
	if (found) {
		l->state = ST_done;
		explain_rest(&t, s);
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
