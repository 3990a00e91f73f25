/*
 * verify_sched.c - the action tables: do they run each body when what it reads is there.
 *
 * Each stage's table is expanded, actions not operations, with a count for each instance of how many microbatches of F, B
 * and W are done. Microbatches go in order, so a count says which. What other stages do is taken as given.
 *
 *   input t            before F of t
 *   F of t             its producers' F of t; the microbatch before in the same slot is done
 *   B of t             its F of t, and B of t of whoever reads its results
 *   W of t             as B; its own B of t, if B hands it something
 *   N, norm, U         all W of the parameter's users; all N; norm
 */
#include "ir/text.h"

#include <inttypes.h>

enum { MAX_STEPS = 1 << 24, MAX_NEST = 8 };

typedef struct Edge {
	uint32_t user, arg, next;
} Edge;

typedef struct Run {
	const Verify *v;
	const Stage *stage;
	uint32_t index;
	const uint32_t *end;      /* [nactions]: where a loop ends */
	uint32_t *done[BK_COUNT]; /* [ninsts]: microbatches done (N, U: times run) */
	uint32_t *readers;        /* [ninsts]: first edge to who reads its results; 0 = none */
	Edge *edges;
	uint32_t *users; /* [nparams]: first edge to who uses it */
	Edge *uses;
	uint32_t inputs, norms, steps;
	Live *live; /* level mem; NULL above, and for programs that only run forward */
	bool ok;
} Run;

static void GV_PRINTF(3, 4) wrong(Run *r, uint32_t action, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	verify_bad(r->v, (Loc){0}, "stage %" PRIu32 ", action %" PRIu32 ": %s", r->index,
		   action, text);
	r->ok = false;
}

static const LayerType *
type_of(const Run *r, uint32_t n)
{
	return &r->v->m->types[r->v->m->insts[n].type];
}

static const char *
inst_str(const Run *r, uint32_t n)
{
	return name_str(r->v->m->names, r->v->m->insts[n].name);
}

static bool
here(const Run *r, uint32_t n)
{
	return n >= r->stage->first && n - r->stage->first < r->stage->count;
}

static bool
has(const Run *r, uint32_t n, BodyKind k)
{
	return type_of(r, n)->body[k] != 0;
}

/* ---- bodies ---- */

static void
run_forward(Run *r, uint32_t action, uint32_t n, uint32_t t)
{
	const Module *m = r->v->m;
	const Instance *x = &m->insts[n];
	uint32_t slots = r->stage->slots;

	for (int a = 0; a < type_of(r, n)->nargs && r->ok; a++) {
		Ref ref = x->args[a];

		if (ref.kind == REF_input && r->inputs <= t)
			wrong(r, action,
			      "F of %s reads an input of microbatch %" PRIu32
			      " before it is fetched",
			      inst_str(r, n), t);
		if (ref.kind == REF_result && here(r, ref.i) && r->done[BK_F][ref.i] <= t)
			wrong(r, action, "F of %s runs before F of %s, whose result it reads",
			      inst_str(r, n), inst_str(r, ref.i));
	}
	if (!slots || t < slots || m->plan.forward_only) return;
	for (int k = BK_B; k <= BK_W && r->ok; k++)
		if (has(r, n, (BodyKind)k) && r->done[k][n] && r->done[k][n] <= t - slots)
			wrong(r, action,
			      "F of %s writes slot %" PRIu32 " for microbatch %" PRIu32
			      ", but %s of microbatch %" PRIu32 " has still to read it",
			      inst_str(r, n), t % slots, t, body_str[k], t - slots);
}

static void
run_backward(Run *r, uint32_t action, BodyKind k, uint32_t n, uint32_t t)
{
	const Module *m = r->v->m;

	if (r->done[BK_F][n] <= t)
		wrong(r, action,
		      "%s of %s runs for microbatch %" PRIu32
		      ", but its F has run for %" PRIu32,
		      body_str[k], inst_str(r, n), t, r->done[BK_F][n]);
	if (k == BK_W && type_of(r, n)->ncarry && has(r, n, BK_B) && r->done[BK_B][n] <= t)
		wrong(r, action, "W of %s runs before its B, which hands it %" PRIu32 " values",
		      inst_str(r, n), type_of(r, n)->ncarry);
	for (uint32_t e = r->readers[n]; e; e = r->edges[e].next) {
		uint32_t u = r->edges[e].user;
		const LayerType *l = type_of(r, u);

		if (!here(r, u) || r->done[BK_B][u] > t || !l->body[BK_B]) continue;
		if (!ir_find_port(&m->bodies[l->body[BK_B]], PORT_dx,
				  (uint16_t)r->edges[e].arg))
			continue;
		wrong(r, action, "%s of %s runs before B of %s, which makes its cotangent",
		      body_str[k], inst_str(r, n), inst_str(r, u));
		return;
	}
}

static void
run_norm_body(Run *r, uint32_t action, uint32_t n)
{
	const Instance *x = &r->v->m->insts[n];

	for (uint32_t w = 0; w < type_of(r, n)->nweights; w++)
		for (uint32_t e = r->users[x->params[w]]; e; e = r->uses[e].next) {
			uint32_t u = r->uses[e].user;

			if (!here(r, u) || !has(r, u, BK_W) ||
			    r->done[BK_W][u] == r->v->m->plan.microbatches)
				continue;
			wrong(
			    r, action,
			    "N of %s runs before the last W of %s, which adds to its gradient",
			    inst_str(r, n), inst_str(r, u));
			return;
		}
}

static void
run_body(Run *r, uint32_t action, uint32_t n, uint32_t t)
{
	BodyKind k = r->v->m->actions[r->stage->action + action].bk;
	bool once = k == BK_N || k == BK_U;

	if (!here(r, n)) {
		wrong(r, action,
		      "instance %" PRIu32 " is not in this stage (%" PRIu32 "-%" PRIu32 ")", n,
		      r->stage->first, r->stage->first + r->stage->count - 1);
		return;
	}
	if ((unsigned)k >= BK_const || !has(r, n, k)) {
		wrong(r, action, "%s has no body %s", inst_str(r, n),
		      (unsigned)k < BK_COUNT ? body_str[k] : "?");
		return;
	}
	if (r->done[k][n] != (once ? 0 : t)) {
		wrong(r, action,
		      "%s of %s runs for microbatch %" PRIu32 ", but its next is %" PRIu32,
		      body_str[k], inst_str(r, n), t, r->done[k][n]);
		return;
	}
	if (k == BK_F) run_forward(r, action, n, t);
	if (k == BK_B || k == BK_W) run_backward(r, action, k, n, t);
	if (k == BK_N) run_norm_body(r, action, n);
	if (k == BK_U && has(r, n, BK_N) && !r->norms)
		wrong(r, action, "U of %s runs before 'norm'", inst_str(r, n));
	r->done[k][n]++;
	if (r->ok && r->live) r->ok = live_body(r->live, action, k, n, t);
}

static void
run_norm(Run *r, uint32_t action)
{
	if (r->norms++) wrong(r, action, "a second 'norm'");
	for (uint32_t i = 0; i < r->v->m->nparams; i++) {
		uint32_t n = r->v->m->params[i].owner;

		if (!here(r, n) || !has(r, n, BK_N) || r->done[BK_N][n]) continue;
		wrong(r, action, "'norm' comes before N of %s", inst_str(r, n));
		return;
	}
}

/* ---- loops ---- */

typedef struct Turn {
	bool in_mb;
	uint32_t mb, layer; /* turns of the innermost loops */
	int depth;
} Turn;

static void run_range(Run *r, uint32_t from, uint32_t to, Turn turn);

static void
run_loop(Run *r, uint32_t i, Turn turn)
{
	const Module *m = r->v->m;
	const Action *a = &m->actions[r->stage->action + i];

	if (turn.depth++ == MAX_NEST) {
		wrong(r, i, "more than %d loops in each other", MAX_NEST);
		return;
	}
	if (a->kind == ACT_mb && (turn.in_mb || turn.depth > 1)) {
		wrong(r, i, "a loop over microbatches inside another loop");
		return;
	}
	if (a->kind == ACT_mb && a->count > m->plan.microbatches) {
		wrong(r, i, "%" PRIu32 " microbatches; the plan has %" PRIu32, a->count,
		      m->plan.microbatches);
		return;
	}
	if (r->end[i] == i + 1) wrong(r, i, "an empty loop");
	for (uint32_t k = 0; k < a->count && r->ok; k++) {
		if (a->kind == ACT_mb) {
			turn.in_mb = true;
			turn.mb = k;
		} else {
			turn.layer = k;
		}
		run_range(r, i + 1, r->end[i], turn);
	}
}

static void
run_range(Run *r, uint32_t from, uint32_t to, Turn turn)
{
	const Module *m = r->v->m;

	for (uint32_t i = from; i < to && r->ok; i++) {
		const Action *a = &m->actions[r->stage->action + i];
		int64_t n = a->inst + (int64_t)turn.layer * a->stride;

		if (++r->steps > MAX_STEPS) {
			wrong(r, i, "more than %d steps", MAX_STEPS);
			return;
		}
		switch (a->kind) {
		case ACT_mb:
		case ACT_layers:
			run_loop(r, i, turn);
			i = r->end[i];
			break;
		case ACT_input:
			if (r->inputs != turn.mb)
				wrong(r, i,
				      "'input' of microbatch %" PRIu32 " after %" PRIu32
				      " of them",
				      turn.mb, r->inputs);
			r->inputs++;
			if (r->ok && r->live) r->ok = live_input(r->live, i, turn.mb);
			break;
		case ACT_norm: run_norm(r, i); break;
		case ACT_body:
			if (n < 0 || n >= m->ninsts)
				wrong(r, i,
				      "turn %" PRIu32 " runs instance %" PRId64 " of %" PRIu32,
				      turn.layer, n, m->ninsts);
			else
				run_body(r, i, (uint32_t)n, turn.mb);
			break;
		case ACT_start:
		case ACT_wait:
		case ACT_end:
		case ACT_COUNT: break;
		}
	}
}

/* ---- a stage ---- */

/* Matches loops with their ends. */
static bool
match_loops(Run *r, uint32_t *end)
{
	const Module *m = r->v->m;
	uint32_t *open = NEW_N(r->v->tmp, uint32_t, r->stage->nactions + 1);
	uint32_t depth = 0;

	for (uint32_t i = 0; i < r->stage->nactions; i++) {
		const Action *a = &m->actions[r->stage->action + i];

		if ((unsigned)a->kind >= ACT_COUNT) {
			wrong(r, i, "an action of kind %d", (int)a->kind);
			return false;
		}
		if (a->kind == ACT_mb || a->kind == ACT_layers) open[depth++] = i;
		if (a->kind != ACT_end) continue;
		if (!depth) {
			wrong(r, i, "the end of no loop");
			return false;
		}
		end[open[--depth]] = i;
	}
	if (depth) wrong(r, open[depth - 1], "a loop without an end");
	return !depth;
}

/* Who reads each result, who uses each parameter. */
static void
find_users(Run *r)
{
	const Module *m = r->v->m;
	uint32_t ne = 0, ce = 0, nu = 0, cu = 0;

	r->readers = NEW_N(r->v->tmp, uint32_t, m->ninsts + 1);
	r->users = NEW_N(r->v->tmp, uint32_t, m->nparams + 1);
	PUSH(r->v->tmp, r->edges, ne, ce, ((Edge){0}));
	PUSH(r->v->tmp, r->uses, nu, cu, ((Edge){0}));
	for (uint32_t n = 0; n < m->ninsts; n++) {
		const Instance *x = &m->insts[n];

		for (uint32_t a = 0; a < type_of(r, n)->nargs; a++) {
			if (x->args[a].kind != REF_result) continue;
			PUSH(r->v->tmp, r->edges, ne, ce,
			     ((Edge){n, a, r->readers[x->args[a].i]}));
			r->readers[x->args[a].i] = ne - 1;
		}
		for (uint32_t w = 0; w < type_of(r, n)->nweights; w++) {
			PUSH(r->v->tmp, r->uses, nu, cu,
			     ((Edge){n, w, r->users[x->params[w]]}));
			r->users[x->params[w]] = nu - 1;
		}
	}
}

/* What must have run by the end of the step. */
static void
verify_end(Run *r)
{
	const Module *m = r->v->m;
	uint32_t last = r->stage->nactions, mb = m->plan.microbatches;
	bool *owns = NEW_N(r->v->tmp, bool, m->ninsts + 1);

	for (uint32_t p = 0; p < m->nparams; p++)
		owns[m->params[p].owner] |= m->params[p].lr != 0;
	for (uint32_t i = 0; i < r->stage->count && r->ok; i++) {
		uint32_t n = r->stage->first + i;

		if (r->done[BK_F][n] != mb)
			wrong(r, last,
			      "F of %s ran for %" PRIu32 " of %" PRIu32 " microbatches",
			      inst_str(r, n), r->done[BK_F][n], mb);
		if (m->plan.forward_only) continue;
		for (int k = BK_B; k <= BK_W; k++)
			if (r->done[k][n] && r->done[k][n] != mb)
				wrong(r, last,
				      "%s of %s ran for %" PRIu32 " of %" PRIu32
				      " microbatches",
				      body_str[k], inst_str(r, n), r->done[k][n], mb);
		if (has(r, n, BK_U) && r->done[BK_U][n] != owns[n])
			wrong(r, last, "U of %s, which owns %s, ran %" PRIu32 " times",
			      inst_str(r, n), owns[n] ? "parameters" : "no trainable parameter",
			      r->done[BK_U][n]);
	}
}

static void
verify_stage(const Verify *v, uint32_t k)
{
	const Module *m = v->m;
	Run r = {.v = v, .stage = &m->plan.stages[k], .index = k, .ok = true};
	uint32_t *end;

	if ((uint64_t)r.stage->action + r.stage->nactions > m->nactions) {
		verify_bad(v, (Loc){0},
			   "stage %" PRIu32 ": actions %" PRIu32 " + %" PRIu32 " of %" PRIu32,
			   k, r.stage->action, r.stage->nactions, m->nactions);
		return;
	}
	end = NEW_N(v->tmp, uint32_t, r.stage->nactions + 1);
	if (!match_loops(&r, end)) return;
	r.end = end;
	for (int b = 0; b < BK_COUNT; b++)
		r.done[b] = NEW_N(v->tmp, uint32_t, m->ninsts + 1);
	find_users(&r);
	if (m->level >= LV_mem && !m->plan.forward_only) r.live = live_new(v, r.stage);
	run_range(&r, 0, r.stage->nactions, (Turn){0});
	if (r.ok) verify_end(&r);
}

void
verify_actions(const Verify *v)
{
	for (uint32_t k = 0; k < v->m->plan.nstages && !diag_stop(v->d); k++)
		verify_stage(v, k);
}
