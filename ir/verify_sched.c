/*
 * verify_sched.c - the action tables, and lists of steps: does all that runs find what it reads, and end.
 *
 * A table is first looked at as it stands: loops nest, what they run is there. Then it is spelled out (actions, not
 * operations) and run on the shadow of an arena (flow.h): the real one at level mem, above it one in which every buffer
 * has bytes of its own.
 */
#include "ir/flow.h"

#include <inttypes.h>

enum { MAX_STEPS = 1 << 24, MAX_NEST = 8 };

typedef struct Table {
	const Verify *v;
	const Stage *stage;
	uint32_t index, steps;
	bool ok;
} Table;

static bool GV_PRINTF(3, 4) wrong(Table *t, uint32_t action, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	verify_bad(t->v, (Loc){0}, "stage %" PRIu32 ", action %" PRIu32 ": %s", t->index,
		   action, text);
	return t->ok = false;
}

/* ---- a table as it stands ---- */

static bool
loop_ok(Table *t, uint32_t i, uint32_t depth)
{
	const Module *m = t->v->m;
	const Action *a = &m->actions[t->stage->action + i];

	if (depth == MAX_NEST) return wrong(t, i, "more than %d loops in each other", MAX_NEST);
	if (a->kind == ACT_mb && depth)
		return wrong(t, i, "a loop over microbatches inside another loop");
	if (a->kind == ACT_mb && a->count > m->plan.microbatches)
		return wrong(t, i, "%" PRIu32 " microbatches; the plan has %" PRIu32, a->count,
			     m->plan.microbatches);
	if (i + 1 < t->stage->nactions && a[1].kind == ACT_end)
		return wrong(t, i, "an empty loop");
	return true;
}

static bool
kind_ok(Table *t, uint32_t i)
{
	const Action *a = &t->v->m->actions[t->stage->action + i];

	if ((unsigned)a->kind >= ACT_COUNT || (unsigned)a->bk >= BK_COUNT ||
	    (unsigned)a->comm >= CK_COUNT)
		return wrong(t, i, "an action of kind %d", (int)a->kind);
	return true;
}

/* Loops match their ends; all of it together is not more than we look at. */
static bool
table_ok(Table *t)
{
	const Module *m = t->v->m;
	uint64_t turns[MAX_NEST + 1] = {1}, steps = 0;
	uint32_t open[MAX_NEST + 1] = {0}, depth = 0;

	for (uint32_t i = 0; i < t->stage->nactions; i++) {
		const Action *a = &m->actions[t->stage->action + i];

		if (!kind_ok(t, i)) return false;
		if (a->kind == ACT_mb || a->kind == ACT_layers) {
			if (!loop_ok(t, i, depth)) return false;
			open[depth] = i;
			turns[depth + 1] = turns[depth] * a->count;
			depth++;
		} else if (a->kind == ACT_end) {
			if (!depth) return wrong(t, i, "the end of no loop");
			depth--;
		} else {
			steps += turns[depth];
		}
		if (steps > MAX_STEPS || turns[depth] > MAX_STEPS)
			return wrong(t, i, "more than %d steps", MAX_STEPS);
	}
	return depth ? wrong(t, open[depth - 1], "a loop without an end") : true;
}

/* ---- running them ---- */

static void
set_proc(Game *g, uint32_t i, uint32_t stage, uint32_t rank, Steps steps)
{
	g->proc[i] = (Proc){
	    .index = i, .stage = stage, .rank = rank, .x = &g->f.mem[stage], .steps = steps};
}

void
verify_actions(const Verify *v)
{
	const Module *m = v->m;
	Game g = {.ok = true, .n = m->plan.nstages};

	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		Table t = {v, &m->plan.stages[k], k, 0, true};

		if ((uint64_t)t.stage->action + t.stage->nactions > m->nactions) {
			wrong(&t, 0, "actions %" PRIu32 " + %" PRIu32 " of %" PRIu32,
			      t.stage->action, t.stage->nactions, m->nactions);
			return;
		}
		if (!table_ok(&t)) return;
	}
	flow_facts(&g.f, v);
	g.proc = NEW_N(v->tmp, Proc, (size_t)g.n + 1);
	for (uint32_t k = 0; k < g.n; k++)
		set_proc(&g, k, k, m->plan.stages[k].rank, ir_expand(m, k, v->tmp));
	meet_run(&g);
}

/* Making a communicator takes all ranks, in one order: the world's own is there. */
static bool
comms_ok(const Game *g, const Steps *ranks)
{
	for (uint32_t r = 0; r < g->n; r++) {
		const Steps *s = &ranks[r];
		uint32_t n = s->comms ? s->ncomms : g->f.comms.n - 1;

		for (uint32_t k = 0; k < n || k + 1 < g->f.comms.n; k++) {
			uint32_t made = k >= n ? 0 : s->comms ? s->comms[k] : k + 1;

			if (made == k + 1 && k + 1 < g->f.comms.n) continue;
			verify_bad(g->f.v, (Loc){0},
				   "rank %" PRIu32 " makes communicator %" PRIu32
				   " where all others make %" PRIu32,
				   r, made, k + 1);
			return false;
		}
	}
	return true;
}

bool
ir_verify_expanded(const Module *m, const Steps *ranks, uint32_t n, Diag *d)
{
	Verify v = {m, d, "", arena_new()};
	Game g = {.ok = true, .n = n, .ranks = true};
	int errors = diag_errors(d);

	if (n != m->plan.ranks || m->level < LV_sched) {
		verify_bad(&v, (Loc){0},
			   "steps of %" PRIu32 " ranks of %" PRIu32 ", at level %s", n,
			   m->plan.ranks, level_str[m->level]);
	} else {
		flow_facts(&g.f, &v);
		g.proc = NEW_N(v.tmp, Proc, (size_t)n + 1);
		for (uint32_t k = 0; k < m->plan.nstages; k++) {
			const Stage *s = &m->plan.stages[k];

			for (uint32_t r = s->rank; r < s->rank + s->ranks; r++)
				set_proc(&g, r, k, r, ranks[r]);
		}
		if (comms_ok(&g, ranks)) meet_run(&g);
	}
	arena_free(v.tmp);
	return diag_errors(d) == errors;
}
