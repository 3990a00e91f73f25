/*
 * search_table.c - the candidates on one spot and what every layer costs under each.
 *
 * Output: a SolveTable. Candidates are every mesh dp x tp of the spot's ranks, in either order where the machine makes a
 * difference, with and without Megatron-SP, ways to recompute and levels of ZeRO. A mesh that does not lower is cut, with
 * the diagnostic as reason; a candidate no better in anything than another of its mesh is not offered to the solver.
 */
#include <inttypes.h>

#include "passes/search.h"

typedef struct Making {
	Search *s;
	const Spot *spot;
	Rows *r;
	uint32_t mb, ngroups, most, ccut;
	Candidate *cand;
	LogCost **cost;   /* [classes][most] */
	int64_t *arrival; /* [classes] of the mesh at hand, from a stage of other size */
	struct LogCut *cut;
} Making;

/* No better than `b`, a candidate of its group, in anything. */
static bool
dominated(const SolveCost *a, const SolveCost *b)
{
	return a->group == b->group && b->time <= a->time && b->enter <= a->enter &&
	       b->once <= a->once && b->state <= a->state && b->saved <= a->saved &&
	       b->enter_saved <= a->enter_saved && b->work <= a->work;
}

static const char *text(const Making *k, const char *fmt, ...) GV_PRINTF(2, 3);

static const char *
text(const Making *k, const char *fmt, ...)
{
	Buf b;
	va_list ap;
	char line[160];
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	buf_init(&b, k->s->a);
	buf_puts(&b, line);
	return b.s;
}

static void
cut(Making *k, const Candidate *c, const char *why)
{
	struct LogCut x = {*c, why};
	PUSH(k->s->a, k->cut, k->r->log.ncut, k->ccut, x);
}

/* Why a mesh is not even tried; NULL: it is. */
static const char *
cut_early(const Making *k, const Candidate *c)
{
	const Search *s = k->s;
	int64_t samples = s->batch / k->mb, longest = 0;
	for (uint32_t i = 1; i < s->m->naxes; i++)
		if (s->m->axes[i].extent > longest) longest = s->m->axes[i].extent;
	if (s->c->max_tp && c->tp > s->c->max_tp) return "--max-tp";
	if (c->dp > samples)
		return text(k, "a microbatch has %" PRId64 " sample%s", samples,
			    samples == 1 ? "" : "s");
	if (!search_all_have(samples, c->dp))
		return text(k, "of %" PRId64 " samples in a microbatch the last rank has none",
			    samples);
	if (c->tp > longest)
		return text(k, "no axis has more than %" PRId64 " elements", longest);
	return NULL;
}

/* One lowering, all levels of ZeRO. */
static void
add_lowered(Making *k, const Measured *x, Candidate c)
{
	const Search *s = k->s;
	uint32_t n = search_memo_classes(s->memo)->n;
	const Spot *spot = k->spot;
	bool other = spot->before && spot->before != spot->ranks;
	uint8_t top = c.dp > 1 && s->trains ? 3 : 0;
	if (s->c->max_zero && top > s->c->max_zero - 1) top = (uint8_t)(s->c->max_zero - 1);
	for (uint32_t i = 0; i < n; i++) /* what is recomputed does not matter */
		k->arrival[i] = !other ? 0
				: c.rc == RC_none || s->c->recompute_given
				    ? search_arrival(s, spot, i, &c, k->mb)
				    : k->arrival[i];
	for (uint8_t zero = 0; zero <= top; zero++) {
		c.zero = zero;
		k->cand[k->r->log.ncand] = c;
		for (uint32_t i = 0; i < n; i++)
			k->cost[i][k->r->log.ncand] =
			    search_cost(s, spot, x, i, &c, k->arrival[i]);
		k->r->log.ncand++;
	}
}

static void
add_mesh(Making *k, Candidate c, Recompute top)
{
	const Search *s = k->s;
	Recompute from = RC_none;
	const char *why = cut_early(k, &c);
	bool any = false;
	if (s->c->recompute_given) top = s->c->recompute;
	for (Recompute rc = from; rc <= top && !why; rc++) {
		if (s->c->recompute_given && rc != RC_none && rc != top) continue;
		c.rc = rc;
		const Measured *x = search_measure(s, k->spot, &c, k->mb, k->r->packed, &why);
		if (!x) break;
		c.group = k->ngroups;
		any = true;
		add_lowered(k, x, c);
	}
	k->ngroups += any;
	if (why) cut(k, &c, why);
}

/* On several nodes, or where its devices are not alike, it matters which axis runs fastest. */
static bool
order_matters(const Spot *x)
{
	return x->nsegs > 1 || x->seg[0].nodes > 1;
}

static uint32_t
count_most(const Spot *x)
{
	uint32_t n = 0;
	for (uint32_t tp = 1; tp <= x->ranks; tp++)
		if (x->ranks % tp == 0) n += 2 * 2 * 3 * 4;
	return n;
}

static void
add_meshes(Making *k, Recompute top)
{
	uint32_t ranks = k->spot->ranks;
	for (uint32_t tp = 1; tp <= ranks; tp++) {
		if (ranks % tp) continue;
		bool both = tp > 1 && tp < ranks && order_matters(k->spot);
		for (int sp = 0; sp <= (tp > 1); sp++)
			for (int outer = 0; outer <= both; outer++)
				add_mesh(k,
					 (Candidate){.dp = ranks / tp,
						     .tp = tp,
						     .sp = sp,
						     .tp_outer = outer},
					 top);
	}
}

/* --recompute says nothing of the layer that is run last: its B follows its F at once, so that saving nothing frees nothing. */
static Recompute
asked_for(const Search *s, uint32_t class)
{
	return search_runs_last(s, class) ? RC_none : s->c->recompute;
}

/* What is offered to the solver, of one class. */
static void
offer(Making *k, uint32_t class)
{
	Rows *r = k->r;
	uint32_t n = 0;
	for (uint32_t i = 0; i < r->log.ncand; i++) {
		LogCost *c = &k->cost[class][i];
		if (k->s->c->recompute_given && k->cand[i].rc != asked_for(k->s, class))
			c->dominated = "--recompute";
		for (uint32_t j = 0; j < n && !c->dominated; j++)
			if (dominated(&c->cost, &r->cost[class][j]))
				c->dominated = "no better in anything than another of its mesh";
		if (c->dominated) continue;
		uint32_t kept = 0;
		for (uint32_t j = 0; j < n; j++) {
			if (dominated(&r->cost[class][j], &c->cost)) {
				k->cost[class][r->of[class][j]].dominated =
				    "no better in anything than another of its mesh";
				continue;
			}
			r->cost[class][kept] = r->cost[class][j];
			r->of[class][kept++] = r->of[class][j];
		}
		r->cost[class][kept] = c->cost;
		r->of[class][kept++] = i;
		n = kept;
	}
	r->ncand[class] = n;
}

/* Moves between groups, guessed. */
static void
add_moves(Making *k)
{
	uint32_t g = k->ngroups, n = search_memo_classes(k->s->memo)->n;
	Rows *r = k->r;
	r->move = NEW_N(k->s->a, SolveMove *, n);
	r->exact = NEW_N(k->s->a, bool *, n);
	r->group = NEW_N(k->s->a, const Candidate *, g);
	for (uint32_t i = r->log.ncand; i-- > 0;)
		r->group[k->cand[i].group] = &k->cand[i];
	for (uint32_t i = 0; i < n; i++) {
		r->move[i] = NEW_N(k->s->a, SolveMove, (size_t)g * g);
		r->exact[i] = NEW_N(k->s->a, bool, (size_t)g *g);
		for (uint32_t y = 0; y < g; y++) {
			const char *why;
			const Measured *m =
			    search_measure(k->s, k->spot, r->group[y], k->mb, true, &why);
			SolveMove least = search_cost_move(k->s, k->spot, m, i);
			for (uint32_t x = 0; x < g; x++)
				if (x != y) r->move[i][x * g + y] = least;
		}
	}
	r->table.move = (const SolveMove *const *)r->move;
}

bool
search_rows_move(Search *s, uint32_t spot, Rows *r, uint32_t class, uint32_t from, uint32_t to)
{
	uint32_t i = from * r->table.ngroups + to;
	if (from == to || r->exact[class][i]) return false;
	SolveMove x =
	    search_move(s, &s->spot[spot], class, r->group[from], r->group[to], r->mb);
	r->exact[class][i] = true;
	r->move[class][i].time = x.time;
	return true;
}

static Rows *
make(Search *s, uint32_t spot, uint32_t mb, Recompute top, bool packed)
{
	uint32_t n = search_memo_classes(s->memo)->n;
	Rows *r = NEW(s->a, Rows);
	Making k = {.s = s, .spot = &s->spot[spot], .r = r, .mb = mb};
	*r = (Rows){.mb = mb, .top = top, .packed = packed};
	k.most = count_most(k.spot);
	k.arrival = NEW_N(s->a, int64_t, n);
	k.cand = NEW_N(s->a, Candidate, k.most);
	k.cost = NEW_N(s->a, LogCost *, n);
	r->cost = NEW_N(s->a, SolveCost *, n);
	r->of = NEW_N(s->a, uint32_t *, n);
	r->ncand = NEW_N(s->a, uint32_t, n);
	for (uint32_t i = 0; i < n; i++)
		k.cost[i] = NEW_N(s->a, LogCost, k.most);
	add_meshes(&k, top);
	for (uint32_t i = 0; i < n; i++) {
		r->cost[i] = NEW_N(s->a, SolveCost, r->log.ncand);
		r->of[i] = NEW_N(s->a, uint32_t, r->log.ncand);
		offer(&k, i);
	}
	if (k.ngroups > 1) add_moves(&k);
	r->table.ngroups = k.ngroups;
	r->table.ncand = r->ncand;
	r->table.cost = r->cost;
	r->log.first = k.spot->first;
	r->log.ranks = k.spot->ranks;
	r->log.cand = k.cand;
	r->log.cost = k.cost;
	r->log.cut = k.cut;
	return r;
}

Rows *
search_rows(Search *s, uint32_t spot, uint32_t mb, Recompute top, bool packed)
{
	Spot *x = &s->spot[spot];
	for (uint32_t i = 0; i < x->nrows; i++)
		if (x->rows[i]->mb == mb && x->rows[i]->top == top &&
		    x->rows[i]->packed == packed)
			return x->rows[i];
	Rows *r = make(s, spot, mb, top, packed);
	PUSH(s->a, x->rows, x->nrows, x->crows, r);
	return r;
}
