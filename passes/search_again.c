/*
 * search_again.c - what the search saw, left for others, and the search taken up again with one thing changed.
 */
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
log_finalists(SearchLog *g, Arena *a, const Found *f, uint32_t n, uint32_t best)
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
	(void)best;
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
	log_finalists(g, s->a, f, n, best);
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

bool
search_again(Ctx *c, const SearchLog *log, const SearchChange *x, Arena *a, SearchAgain *out)
{
	(void)c, (void)log, (void)x, (void)a, (void)out;
	return false;
}
