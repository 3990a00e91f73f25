/*
 * search_branch.c - one branch of the tree: so many stages, so many microbatches.
 *
 * A branch is worked on in steps, each of which finds a better bound for its plans or a plan: the states of search.h. The
 * program is given a bound just above what is known, which rises when there is nothing below it, so that a branch that turns
 * out slow costs little. What it chooses is lowered, scheduled and laid out as the plan it is.
 */
#include <inttypes.h>

#include "passes/search.h"

enum {
	KEEP = 16,
	TRIES = 8,
	WIDEST =
	    8, /* the bound of a program rises by 1/64, 1/32 ... so many times; then there is none */
	SLOWEST =
	    8 /* times the fastest candidates: what still counts where the smallest is sought */
};

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

void
branch_explain(const Leaf *l, const char *fmt, ...)
{
	va_list ap;
	if (!l->s->explain) return;
	printf("plan:   %" PRIu32 " stage%s, %" PRIu32 " microbatch%s: ", l->stages,
	       l->stages == 1 ? "" : "s", l->mb, l->mb == 1 ? "" : "es");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
}

static void
cut(Leaf *l, const char *why)
{
	l->cut = why;
	l->state = ST_done;
	branch_explain(l, "cut: %s\n", why);
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
raise_least(Leaf *l, int64_t least)
{
	if (least > l->least) l->least = least;
}

/* The best plan of the table within a limit, or a better bound. Returns whether there is an answer; x.first NULL: nothing fits. */
static bool
solve_some(Leaf *l, int64_t limit)
{
	int64_t step = l->least >> 6 << (l->wide < WIDEST ? l->wide : 0);
	l->layers.limit = limit;
	l->layers.bound = l->wide++ < WIDEST ? l->least + step + 1 : INT64_MAX;
	if (search_dp(l->a, &l->layers, &l->x)) {
		raise_least(l, l->x.time);
		return true;
	}
	l->x = (Assignment){0};
	if (l->layers.bound == INT64_MAX) return true;
	raise_least(l, l->layers.bound);
	return false;
}

static bool
solve(Leaf *l, int64_t limit, Assignment *out)
{
	l->layers.limit = limit;
	return search_dp(l->a, &l->layers, out);
}

/* Bytes of all layers at their least, and of no more than one microbatch in flight, over all stages. */
int64_t
branch_bytes(const Leaf *l)
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
		branch_explain(l, "%.3f ms a step: cut: %s\n", search_ms(x->time), why);
	else if (arena > l->s->limit)
		branch_explain(l, "%.3f ms a step, %s a rank: over by %s\n", search_ms(x->time),
			       search_bytes_str(l->s, arena),
			       search_bytes_str(l->s, arena - l->s->limit));
	else
		branch_explain(l, "%.3f ms a step, %s a rank\n", search_ms(x->time),
			       search_bytes_str(l->s, arena));
	return (Found){p, x->time, arena, arena >= 0 && arena <= l->s->limit};
}

/* The one that fits, else the smallest. */
bool
branch_take(Found *out, Found f)
{
	if (f.fits || (f.arena >= 0 && (out->arena < 0 || f.arena < out->arena))) *out = f;
	return f.fits;
}

/* What the table says is near the truth: far over the limit, nothing need be laid out. */
static Found
lay_out_fast(Leaf *l)
{
	int64_t bytes = most_bytes(l);
	if (bytes / 3 * 2 <= l->s->limit) return lay_out(l, &l->x);
	branch_explain(l, "%.3f ms a step if there were %s a rank\n", search_ms(l->x.time),
		       search_bytes_str(l->s, bytes));
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
		cut(l, f->arena < 0 ? "what is chosen does not lower as a whole"
				    : "over memory, laid out");
}

static void
to_limited(Leaf *l)
{
	const Search *s = l->s;
	if (trains(s) && !s->c->recompute_given) make_table(l, RC_full, RC_selective);
	l->state = ST_limited;
	l->limit = s->limit;
	l->wide = 0;
	if (branch_bytes(l) > l->limit)
		cut(l, "over memory");
	else
		raise_least(l, search_least(s->c->tmp, &l->layers));
}

static void
begin(Leaf *l)
{
	branch_explain(l, "at least %.3f ms a step by arithmetic\n", search_ms(l->least));
	make_table(l, RC_none, RC_none);
	l->state = ST_fast;
	if (!l->table.ncand)
		cut(l, "no mesh");
	else if (branch_bytes(l) > l->s->limit)
		to_limited(l);
	else
		raise_least(l, search_least(l->s->c->tmp, &l->layers));
}

/* One step further. Returns whether *out is a plan that fits. */
bool
branch_refine(Leaf *l, Found *out)
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
		if (!l->x.first) cut(l, "over memory");
		break;
	case ST_laid:
		f = lay_out(l, &l->x);
		if (!f.fits) tighten(l, &f);
		break;
	case ST_done: ICE("a branch that is done");
	}
	return branch_take(out, f);
}

/* A limit that is enough, by doubling; 0: none is, below the bound. */
static int64_t
enough(Leaf *l, int64_t bound, Assignment *x)
{
	int64_t limit = l->s->limit;
	l->layers.bound = bound;
	for (; limit < INT64_MAX / 4; limit *= 2)
		if (solve(l, limit, x)) return limit;
	return 0;
}

/* Nothing fits by the table: the smallest it can do, within 2 %, laid out; of plans not all too slow, if there are any. */
Found
branch_smallest(Leaf *l)
{
	Assignment x;
	l->layers.limit = INT64_MAX;
	int64_t least = search_least(l->s->c->tmp, &l->layers), lo = l->s->limit, hi = 0;
	if (least < INT64_MAX / SLOWEST) hi = enough(l, SLOWEST * least, &x);
	if (!hi) hi = enough(l, INT64_MAX, &x);
	if (!hi) return (Found){.arena = -1};
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
