/*
 * search_again.c - what the search saw, left for others, and the search taken up again with one thing changed.
 */
#include <string.h>

#include "passes/search.h"

const char *const log_fate_str[LF_COUNT] = {"bound",  "no mesh",   "memory",
					    "solved", "simulated", "chosen"};

typedef struct SearchState {
	Search s;
	Tree t;
} SearchState;

/* ---- the log ---- */

static void
log_answer(const Search *s, const Leaf *l, LogBranch *b)
{
	const Division *d = &s->division[l->division];
	const Classes *k = search_memo_classes(s->memo);
	LogTable *table = NEW_N(s->a, LogTable, d->stages);
	uint32_t *of = NEW_N(s->a, uint32_t, d->stages);
	for (uint32_t i = 0; i < d->stages; i++) {
		uint32_t j = 0;
		if (!l->rows[i]) continue; /* a stage before it has no mesh */
		while (j < b->ntables && table[j].cost != l->rows[i]->log.cost)
			j++;
		if (j == b->ntables) table[b->ntables++] = l->rows[i]->log;
		of[i] = j;
	}
	b->table = table;
	b->table_of = of;
	if (l->state != ST_solved) return;
	SolveAnswer *x = arena_dup(s->a, &l->x, sizeof l->x);
	x->cand = NEW_N(s->a, uint32_t, s->m->ninsts);
	for (uint32_t i = 0, stage = 0; i < s->m->ninsts; i++) {
		while (stage + 1 < d->stages && i >= l->x.first[stage + 1])
			stage++;
		x->cand[i] = l->rows[stage]->of[k->of[i]][l->x.cand[i]];
	}
	b->answer = x;
}

static LogBranch
log_branch(const Search *s, const Leaf *l)
{
	const Division *d = &s->division[l->division];
	const Order *o = &s->order[d->order];
	LogBranch b = {.stages = d->stages,
		       .microbatches = l->mb,
		       .schedule = l->schedule,
		       .ranks = d->ranks,
		       .nodes = o->nnodes ? o->nodes : NULL,
		       .nnodes = o->nnodes,
		       .fate = l->fate,
		       .least = l->least,
		       .time = l->state == ST_solved ? l->time : INT64_MAX,
		       .over = l->over,
		       .tight = l->tight,
		       .why = l->why};
	if (l->rows) log_answer(s, l, &b);
	return b;
}

static void
log_finalists(SearchLog *g, Arena *a, const Found *f, uint32_t n)
{
	g->finalist = NEW_N(a, LogFinalist, n + 1);
	g->chosen = n ? 0 : UINT32_MAX;
	for (uint32_t i = 0; i < n; i++) { /* by time; the chosen is the first of its equals */
		LogFinalist x = {.plan = f[i].plan,
				 .branch = f[i].leaf,
				 .table_time = f[i].table,
				 .time = f[i].time,
				 .arena = f[i].arena,
				 .rank_bytes = f[i].bytes,
				 .fits = f[i].over <= 0};
		uint32_t j = i;
		for (; j && g->finalist[j - 1].time > x.time; j--)
			g->finalist[j] = g->finalist[j - 1];
		g->finalist[j] = x;
	}
	g->nfinalists = n;
}

void
search_log(Search *s, Tree *t, const Found *f, uint32_t n, uint32_t best)
{
	SearchLog *g = NEW(s->a, SearchLog);
	const Classes *k = search_memo_classes(s->memo);
	g->ranks = s->ranks;
	g->threads = s->c->threads;
	g->cluster = s->cluster;
	g->limit = NEW_N(s->a, int64_t, s->cluster->ndevice);
	for (uint32_t i = 0; i < s->cluster->ndevice; i++)
		g->limit[i] = s->memory > 0 ? s->memory : s->cluster->device[i].memory;
	g->nlayers = s->m->ninsts;
	g->nclasses = k->n;
	g->class_of = k->of;
	g->class_first = k->first;
	if (n) t->leaf[f[best].leaf].fate = LF_chosen;
	g->branch = NEW_N(s->a, LogBranch, t->n);
	g->nbranches = t->n;
	for (uint32_t i = 0; i < t->n; i++)
		g->branch[i] = log_branch(s, &t->leaf[i]);
	log_finalists(g, s->a, f, n);
	g->least = t->least;
	if (n && t->least > 0 && t->least < INT64_MAX)
		g->gap = (double)(t->leaf[t->solved[0]].time - t->least) / (double)t->least;
	if (g->gap < 0) g->gap = 0;
	g->lowered = search_lowered(s->memo);
	g->priced = *search_priced(s->memo);
	g->state = NEW(s->a, SearchState);
	g->state->s = *s;
	g->state->t = *t;
	s->c->log = g;
}

/* ---- once more, with one thing changed ---- */

/* The rows with a class more: that of the one layer, whose only candidate is number `k`. */
static Rows *
forced_rows(const Search *s, const Rows *r, uint32_t class, uint32_t k)
{
	uint32_t n = search_memo_classes(s->memo)->n, all = n + 1;
	Rows *x = arena_dup(s->a, r, sizeof *r);
	LogCost **log = NEW_N(s->a, LogCost *, all);
	x->cost = NEW_N(s->a, SolveCost *, all);
	x->of = NEW_N(s->a, uint32_t *, all);
	x->ncand = NEW_N(s->a, uint32_t, all);
	for (uint32_t c = 0; c < n; c++) {
		x->cost[c] = r->cost[c];
		x->of[c] = r->of[c];
		x->ncand[c] = r->ncand[c];
		log[c] = r->log.cost[c];
	}
	log[n] = log[class];
	x->ncand[n] = k < r->log.ncand;
	x->cost[n] = NEW(s->a, SolveCost);
	x->of[n] = NEW(s->a, uint32_t);
	if (x->ncand[n]) x->cost[n][0] = r->log.cost[class][k].cost;
	x->of[n][0] = k;
	x->log.cost = log;
	x->table.cost = x->cost;
	x->table.ncand = x->ncand;
	if (!r->move) return x;
	x->move = NEW_N(s->a, SolveMove *, all);
	x->exact = NEW_N(s->a, bool *, all);
	for (uint32_t c = 0; c < all; c++) {
		x->move[c] = r->move[c < n ? c : class];
		x->exact[c] = r->exact[c < n ? c : class];
	}
	x->table.move = (const SolveMove *const *)x->move;
	return x;
}

static bool
same_candidate(const Candidate *a, const Candidate *b)
{
	return a->dp == b->dp && a->tp == b->tp && a->sp == b->sp && a->zero == b->zero &&
	       a->rc == b->rc && (a->tp_outer == b->tp_outer || a->dp == 1 || a->tp == 1);
}

/* The layer takes that candidate, in whatever stage has it. False and *why: none does. */
static bool
force(Search *s, Leaf *l, uint32_t layer, const Candidate *want, const char **why)
{
	const Classes *was = search_memo_classes(s->memo);
	uint32_t stages = s->division[l->division].stages, class = was->of[layer];
	Rows **rows = NEW_N(s->a, Rows *, stages);
	bool any = false;
	*why = "no stage has a mesh like that";
	for (uint32_t i = 0; i < stages; i++) {
		const Rows *r = l->rows[i];
		uint32_t k = 0;
		while (k < r->log.ncand && !same_candidate(&r->log.cand[k], want))
			k++;
		any |= k < r->log.ncand;
		for (uint32_t j = 0; j < r->log.ncut; j++)
			if (r->log.cut[j].cand.tp == want->tp &&
			    r->log.cut[j].cand.sp == want->sp)
				*why = r->log.cut[j].why;
		for (uint32_t j = 0; j < i && !rows[i]; j++)
			if (l->rows[j] == r) rows[i] = rows[j];
		if (!rows[i]) rows[i] = forced_rows(s, r, class, k);
	}
	l->rows = rows;
	s->memo = search_memo_force(s->memo, s->m->ninsts, layer);
	return any;
}

/* The branch again, of a search for another machine. NULL: there is none like it. */
static Leaf *
same_branch(const Search *s, Tree *t, const Search *was, const Leaf *l)
{
	const Division *d = &was->division[l->division];
	for (uint32_t i = 0; i < t->n; i++) {
		const Division *e = &s->division[t->leaf[i].division];
		if (t->leaf[i].mb == l->mb && e->order == d->order && e->stages == d->stages &&
		    memcmp(e->ranks, d->ranks, sizeof *d->ranks * d->stages) == 0)
			return &t->leaf[i];
	}
	return NULL;
}

/* Links that are so much faster. */
static const Cluster *
faster(const Search *s, const SearchChange *x)
{
	Cluster *c = arena_dup(s->a, s->cluster, sizeof *s->cluster);
	c->run = arena_dup(s->a, c->run, sizeof *c->run * c->nrun);
	for (uint32_t i = 0; i < c->nrun; i++) {
		c->run[i].near.bytes += x->more_near;
		c->run[i].far.bytes += x->more_far;
	}
	return c;
}

/* Nothing fits: the stage that is furthest over, and by how much, when all limits are raised until something does. */
static void
say_over(Search *s, Leaf *l, SearchAgain *out)
{
	uint32_t stages = s->division[l->division].stages;
	if (!branch_least_memory(s, l, &out->over)) return;
	int64_t most = INT64_MIN;
	for (uint32_t k = 0; k < stages; k++)
		if (l->x.stage_bytes[k] - l->limit[k] > most) {
			most = l->x.stage_bytes[k] - l->limit[k];
			out->tight = k;
		}
	out->over = most;
}

static const Leaf *
chosen_leaf(const SearchLog *log)
{
	if (!log || !log->state || log->chosen >= log->nfinalists) return NULL;
	return &log->state->t.leaf[log->finalist[log->chosen].branch];
}

bool
search_again(Ctx *c, const SearchLog *log, const SearchChange *x, Arena *a, SearchAgain *out)
{
	const Leaf *was = chosen_leaf(log);
	Ctx quiet = *c;
	if (!was) return false;
	Search s = log->state->s;
	Tree t = log->state->t;
	Leaf *l = arena_dup(a, was, sizeof *was);
	*out = (SearchAgain){0};
	quiet.tmp = a;
	quiet.diag = diag_new(a, c->names, NULL);
	s.c = &quiet;
	s.explain = false;
	if (x->more_memory && s.memory > 0) s.memory += x->more_memory;
	if (x->more_near > 0 || x->more_far > 0 || x->everywhere) {
		search_begin(&s,
			     x->more_near > 0 || x->more_far > 0 ? faster(&s, x) : s.cluster);
		for (uint32_t i = 0; i < s.nspots && log->state->s.memory <= 0; i++)
			s.spot[i].memory += x->more_memory;
		search_tree_plant(&s, &t);
		if (x->everywhere && x->layer == UINT32_MAX) {
			search_tree_grow(&s, &t, 1);
			l = t.nsolved ? &t.leaf[t.solved[0]] : NULL;
		} else {
			l = same_branch(&s, &t, &log->state->s, was);
		}
		if (!l) return true;
	}
	if (!l->rows || l->state != ST_solved || !x->everywhere) {
		if (!branch_open(&s, l)) {
			out->why = l->why;
			return true;
		}
		if (x->more_near <= 0 && x->more_far <= 0 && !x->everywhere)
			for (uint32_t k = 0; k < s.division[l->division].stages; k++)
				l->limit[k] = was->limit[k] + x->more_memory;
		if (x->layer != UINT32_MAX && !force(&s, l, x->layer, &x->cand, &out->why))
			return true;
		out->fits = branch_best(&s, l);
	} else {
		out->fits = true;
	}
	if (out->fits) {
		out->time = l->time;
		out->why = NULL;
	} else {
		out->why = "over memory";
		say_over(&s, l, out);
	}
	LogBranch *b = NEW(a, LogBranch);
	*b = log_branch(&s, l);
	out->branch = b;
	return true;
}
