/*
 * search_branch.c - one branch of the tree: a division of the devices into stages, so many microbatches, a schedule.
 *
 * A branch is worked on in steps, each of which finds a better bound for its plans, or its best plan: the states of search.h.
 * Recomputing is never faster, so it is looked at only where memory is short.
 */
#include <inttypes.h>

#include "passes/search.h"

static const double GAP = 0.006; /* how far from its best an answer of the solver may be */

/* Steps of the solver for one answer, and to prove one bound: what it cannot settle by then is left to the gap. */
enum { SOLVE_WORK = 20 * 1000 * 1000, PROVE_WORK = 4 * 1000 * 1000 };

/* All kernels divided without loss, as large as they can be: the first microbatch through the fastest stage, the others spread
 * evenly. A stage is as fast as the slowest of its devices. */
void
branch_begin(const Search *s, Leaf *l)
{
	const Division *d = &s->division[l->division];
	double most = 0, sum = 0;
	for (uint32_t k = 0; k < d->stages; k++) {
		const Spot *x = &s->spot[d->spot[k]];
		double slowest = 0;
		for (uint32_t i = 0; i < s->cluster->ndevice; i++)
			if (x->kinds >> i & 1 && s->alone[i] > slowest) slowest = s->alone[i];
		if (slowest <= 0) return;
		double speed = x->ranks / slowest;
		sum += speed;
		if (speed > most) most = speed;
	}
	l->least = (int64_t)((1 / most + (l->mb - 1) / sum) / l->mb * (1 - 1e-4));
}

void
branch_problem(const Search *s, const Leaf *l, SolveProblem *p)
{
	const Division *d = &s->division[l->division];
	const Classes *k = search_memo_classes(s->memo);
	uint32_t *slots = NEW_N(s->a, uint32_t, d->stages);
	const SolveTable **table = NEW_N(s->a, const SolveTable *, d->stages);
	for (uint32_t i = 0; i < d->stages; i++) {
		slots[i] = search_slots(l->schedule, d->stages, i, l->mb);
		table[i] = &l->rows[i]->table;
	}
	*p = (SolveProblem){.nlayers = s->m->ninsts,
			    .nclasses = k->n,
			    .class_of = k->of,
			    .stages = d->stages,
			    .microbatches = l->mb,
			    .table = table,
			    .slots = slots,
			    .limit = l->limit,
			    .bound = INT64_MAX,
			    .gap = GAP,
			    .work = SOLVE_WORK};
}

/* Fills in times and bytes by the whole tables. */
static bool
branch_evaluate(Leaf *l, const SolveProblem *p)
{
	bool fits = solve_evaluate(p, &l->x);
	int64_t sum = 0, most = 0, once = 0;
	for (uint32_t k = 0; k < p->stages; k++) {
		sum += l->x.stage_time[k];
		if (l->x.stage_time[k] > most) most = l->x.stage_time[k];
		if (l->x.stage_once[k] > once) once = l->x.stage_once[k];
	}
	l->x.time = sum + ((int64_t)p->microbatches - 1) * most + once;
	return fits;
}

/* Prices the moves of an answer. False: they were. */
static bool
price_moves(Search *s, const Leaf *l)
{
	const Division *d = &s->division[l->division];
	const Classes *classes = search_memo_classes(s->memo);
	bool any = false;
	for (uint32_t k = 0; k < d->stages; k++) {
		Rows *r = l->rows[k];
		uint32_t end = k + 1 < d->stages ? l->x.first[k + 1] : s->m->ninsts;
		for (uint32_t i = l->x.first[k] + 1; i < end; i++) {
			uint32_t class = classes->of[i], before = classes->of[i - 1];
			any |= search_rows_move(s, d->spot[k], r, class,
						r->cost[before][l->x.cand[i - 1]].group,
						r->cost[class][l->x.cand[i]].group);
		}
	}
	return any;
}

/* Moves are guessed until they are in an answer; then they are priced, and the solver is asked again. */
static bool
solve_level(Search *s, Leaf *l, Pick *pick, SolveProblem *p)
{
	do {
		p->table = pick_tables(pick);
		bool found = solve(s->a, p, &l->x);
		s->work += l->x.work;
		if (!found) return false;
		pick_answer(s, l, pick);
	} while (price_moves(s, l));
	return true;
}

typedef struct Ask {
	const SolveProblem *all;
	const WorkRange *level;
	uint32_t nlevels;
} Ask;

typedef struct Proof { /* of an Ask */
	bool whole;    /* it holds for all groups */
	int64_t least; /* no plan takes less */
} Proof;

/* The solver gets the groups that may matter (search_pick.c), and one level of memory after the other, that which may be best
 * first. False: nothing was found below the bound. */
static bool
solve_levels(Search *s, Leaf *l, const Ask *q, Proof *proof)
{
	int64_t least[MAX_LEVELS];
	bool found = false;
	SolveAnswer best = {.time = q->all->bound};
	*proof = (Proof){.whole = true, .least = q->all->bound};
	for (uint32_t i = 0; i < q->nlevels; i++)
		least[i] = search_bound(l, q->all, &q->level[i], 1);
	for (uint32_t turn = 0; turn < q->nlevels; turn++) {
		SolveProblem p;
		uint32_t i = 0;
		for (uint32_t k = 1; k < q->nlevels; k++)
			if (least[k] < least[i]) i = k;
		if (least[i] >= best.time) break;
		least[i] = INT64_MAX;
		Pick *pick = search_pick(s, l, q->all, q->level[i], false, &p);
		proof->whole &= pick_whole(pick);
		p.bound = best.time;
		bool better = solve_level(s, l, pick, &p);
		if (l->x.least < proof->least) proof->least = l->x.least;
		if (!better) continue;
		best = l->x;
		found = true;
	}
	l->x = best;
	if (best.time < proof->least) proof->least = best.time;
	l->x.least = proof->least;
	if (found) ENSURE(branch_evaluate(l, q->all), "a plan of a level does not fit");
	return found;
}

static void
finish(Leaf *l, LogFate fate, const char *why)
{
	l->fate = fate;
	l->state = ST_done;
	l->why = why;
}

/* Tables of all stages. False: some stage has no mesh. */
static bool
make_rows(Search *s, Leaf *l, Recompute top, bool packed)
{
	const Division *d = &s->division[l->division];
	for (uint32_t i = 0; i < d->stages; i++) {
		l->rows[i] = search_rows(s, d->spot[i], l->mb, top, packed);
		if (l->rows[i]->log.ncand) continue;
		finish(l, LF_no_mesh,
		       l->rows[i]->log.ncut ? l->rows[i]->log.cut[0].why : "no mesh");
		return false;
	}
	return true;
}

static void
raise_least(Leaf *l, int64_t least)
{
	if (least > l->least) l->least = least;
}

static void
to_table(Search *s, Leaf *l)
{
	const Division *d = &s->division[l->division];
	l->rows = NEW_N(s->a, Rows *, d->stages);
	l->limit = NEW_N(s->a, int64_t, d->stages);
	for (uint32_t i = 0; i < d->stages; i++)
		l->limit[i] = s->spot[d->spot[i]].memory;
	if (!make_rows(s, l, RC_none, false)) return;
	SolveProblem p;
	branch_problem(s, l, &p);
	int64_t least = search_bound(l, &p, NULL, 0);
	l->state = ST_table;
	if (least == INT64_MAX)
		finish(l, LF_no_mesh, "a layer has no mesh");
	else
		raise_least(l, least);
}

void
branch_recompute(Search *s, Leaf *l)
{
	l->state = ST_limited;
	l->bounded = false;
	make_rows(s, l, s->trains ? RC_full : RC_none, true);
}

static void
solved(Leaf *l)
{
	l->state = ST_solved;
	l->fate = LF_solved;
	l->time = l->x.time;
}

static int64_t
moved_bytes(const Rows *r, uint32_t class, const Candidate *from, const Candidate *to)
{
	if (from->group == to->group || !r->move) return 0;
	return r->move[class][from->group * r->table.ngroups + to->group].saved;
}

/* Memory as if there were no end of it. */
static void
without_limit(const Search *s, SolveProblem *p)
{
	int64_t *all = NEW_N(s->a, int64_t, p->stages);
	for (uint32_t i = 0; i < p->stages; i++)
		all[i] = INT64_MAX / 4;
	p->limit = all;
}

/* What the stages of an answer take, frames and scratch of the candidates it has. */
static void
real_bytes(Search *s, Leaf *l, const SolveProblem *p)
{
	const Division *d = &s->division[l->division];
	const char *why;
	for (uint32_t k = 0; k < p->stages; k++) {
		const Rows *r = l->rows[k];
		const Spot *spot = &s->spot[d->spot[k]];
		uint32_t end = k + 1 < p->stages ? l->x.first[k + 1] : p->nlayers,
			 last = UINT32_MAX;
		int64_t bytes = 0, work = 0, entered = 0;
		LogCost c = {0};
		for (uint32_t i = l->x.first[k]; i < end; i++) {
			uint32_t class = p->class_of[i], cand = r->of[class][l->x.cand[i]];
			const Candidate *x = &r->log.cand[cand];
			if (i == l->x.first[k] || p->class_of[i - 1] != class || cand != last)
				c = search_cost(s, spot,
						search_measure(s, spot, x, l->mb, true, &why),
						class, x, 0);
			if (i == l->x.first[k] && k)
				entered = c.cost.enter_saved;
			else if (i > l->x.first[k])
				entered = moved_bytes(r, class, &r->log.cand[last], x);
			bytes += c.cost.state + p->slots[k] * (c.cost.saved + entered);
			if (c.cost.work > work) work = c.cost.work;
			last = cand;
		}
		l->x.stage_bytes[k] = bytes + work;
	}
}

/* The fastest plan, and whether it fits as it happens. */
static void
try_fast(Search *s, Leaf *l, int64_t bound)
{
	static const WorkRange any = {0, INT64_MAX};
	SolveProblem p;
	bool fits = true;
	Proof proof;
	branch_problem(s, l, &p);
	without_limit(s, &p);
	p.bound = bound;
	if (!solve_levels(s, l, &(Ask){&p, &any, 1}, &proof)) {
		if (proof.whole) raise_least(l, proof.least);
		finish(l, LF_bound, NULL);
		return;
	}
	real_bytes(s, l, &p);
	for (uint32_t i = 0; i < p.stages; i++)
		fits &= l->x.stage_bytes[i] <= l->limit[i];
	if (fits)
		solved(l);
	else
		branch_recompute(s, l);
}

/* The fastest plan within the memory. */
static void
try_limited(Search *s, Leaf *l, int64_t bound)
{
	SolveProblem p;
	WorkRange level[MAX_LEVELS];
	Proof proof;
	branch_problem(s, l, &p);
	uint32_t n = search_levels(l, &p, level);
	if (!l->bounded) {
		int64_t least = search_bound(l, &p, level, n);
		if (least == INT64_MAX) {
			finish(l, LF_memory, "over memory");
			return;
		}
		l->bounded = true;
		if (least > l->least) { /* another branch may be better */
			l->least = least;
			return;
		}
	}
	p.bound = bound;
	if (solve_levels(s, l, &(Ask){&p, level, n}, &proof)) {
		solved(l);
		return;
	}
	finish(l, bound == INT64_MAX ? LF_memory : LF_bound,
	       bound == INT64_MAX ? "over memory" : NULL);
	if (proof.whole) raise_least(l, proof.least);
}

/* No plan takes less, `bound` at most: as if layers could change meshes for nothing. */
static int64_t
least_merged(Search *s, Leaf *l, const SolveProblem *all, const WorkRange *level, uint32_t n)
{
	int64_t least = all->bound;
	for (uint32_t i = 0; i < n; i++) {
		SolveProblem p;
		SolveAnswer x;
		int64_t bound = search_bound(l, all, &level[i], 1);
		if (bound >= least) continue;
		search_pick(s, l, all, level[i], true, &p);
		p.bound = least;
		p.work = PROVE_WORK;
		solve(s->a, &p, &x);
		s->work += x.work;
		if (x.least < bound) x.least = bound;
		if (x.least < least) least = x.least;
	}
	return least;
}

/* Recomputing takes no less time than not to: if nothing is below the bound though memory had no end, it need not be looked at. */
void
branch_prove(Search *s, Leaf *l, int64_t bound)
{
	static const WorkRange any = {0, INT64_MAX};
	WorkRange level[MAX_LEVELS];
	SolveProblem p;
	Rows **rows = l->rows;
	if (!rows || l->fate == LF_no_mesh) return;
	l->rows = arena_dup(s->a, rows, sizeof *rows * s->division[l->division].stages);
	make_rows(s, l, RC_none, false);
	branch_problem(s, l, &p);
	without_limit(s, &p);
	p.bound = bound;
	int64_t least = search_bound(l, &p, NULL, 0);
	if (least < bound) least = least_merged(s, l, &p, &any, 1);
	if (least < bound) {
		make_rows(s, l, s->trains ? RC_full : RC_none, true);
		branch_problem(s, l, &p);
		p.bound = bound;
		uint32_t n = search_levels(l, &p, level);
		int64_t x = search_bound(l, &p, level, n);
		if (x < bound) x = least_merged(s, l, &p, level, n);
		if (x > least) least = x;
	}
	raise_least(l, least < bound ? least : bound);
	l->rows = rows;
}

bool
branch_open(Search *s, Leaf *l)
{
	l->state = ST_new;
	to_table(s, l);
	if (l->state == ST_done) return false;
	branch_recompute(s, l);
	return l->state != ST_done;
}

bool
branch_best(Search *s, Leaf *l)
{
	SolveProblem p;
	WorkRange level[MAX_LEVELS];
	Proof proof;
	branch_problem(s, l, &p);
	uint32_t n = search_levels(l, &p, level);
	if (!solve_levels(s, l, &(Ask){&p, level, n}, &proof)) return false;
	solved(l);
	return true;
}

/* The branch's answer with all limits raised by `more`. */
static bool
fits_with(Search *s, Leaf *l, int64_t more)
{
	uint32_t stages = s->division[l->division].stages;
	int64_t *was = l->limit;
	l->limit = NEW_N(s->a, int64_t, stages);
	for (uint32_t k = 0; k < stages; k++)
		l->limit[k] = was[k] + more;
	bool fits = branch_fits(s, l);
	l->limit = was;
	return fits;
}

bool
branch_least_memory(Search *s, Leaf *l, int64_t *more)
{
	int64_t lo = 0, hi = 1 << 20;
	while (hi < INT64_MAX / 8 && !fits_with(s, l, hi))
		lo = hi, hi *= 2;
	while (hi - lo > hi / 64) {
		int64_t mid = lo + (hi - lo) / 2;
		if (fits_with(s, l, mid))
			hi = mid;
		else
			lo = mid;
	}
	*more = hi;
	return fits_with(s, l, hi);
}

bool
branch_fits(Search *s, Leaf *l)
{
	SolveProblem p;
	WorkRange level[MAX_LEVELS];
	Proof proof;
	branch_problem(s, l, &p);
	p.gap = 1;
	uint32_t n = search_levels(l, &p, level);
	return solve_levels(s, l, &(Ask){&p, level, n}, &proof);
}

void
branch_refine(Search *s, Leaf *l, int64_t bound)
{
	switch (l->state) {
	case ST_new: to_table(s, l); break;
	case ST_table: try_fast(s, l, bound); break;
	case ST_limited: try_limited(s, l, bound); break;
	default: ICE("a branch that is done");
	}
}
