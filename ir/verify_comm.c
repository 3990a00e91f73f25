/*
 * verify_comm.c - processes meet: does every message find its other half, every collective all of its group, in time.
 *
 * The machine is the weakest there is. Every message is a rendezvous. Messages of one channel (source, target, kind) and
 * collectives of one communicator are matched in the order in which each side began them, and complete in that order. What
 * an ACT_start begins is posted at once and blocks nobody; a wait, a collective in a body and the norm block until all of
 * theirs is complete. What one process finds complete does not depend on when others run, so one order shows all.
 *
 * Processes are stages where all ranks of a stage run one table: an exchange between two stages is then one message, and
 * collectives within a stage meet by themselves, since every rank gets to them as the others do. Where ranks differ (lists
 * of steps that were edited), processes are ranks, messages are the pieces of an exchange, and groups those of ir_comms.
 */
#include "ir/flow.h"

#include <inttypes.h>

/* What is to be the same on both sides. */
typedef struct Label {
	int what; /* CommKind; 100 + body kind for a collective in a body; 200: the norm */
	uint32_t i, mb, op;
	uint64_t piece; /* of an exchange between ranks: which positions */
	int64_t bytes;
	PrimKind prim;
	uint32_t proc, step;
} Label;

typedef struct Queue {
	Label *l;
	uint32_t n, cap;
} Queue;

/* Messages from one process to another (`group` false), or the collectives of a group of them. */
typedef struct Line {
	bool group;
	uint32_t from, to; /* group: communicator, first member */
	CommKind kind;
	uint32_t size; /* group: of it */
	Queue side[2]; /* sent, received; group: side[0] is what the first to come began */
	uint32_t *member, *at; /* group: [size] who, how many each has begun */
} Line;

typedef struct Part { /* of a request */
	uint32_t line, index;
} Part;

typedef struct Meet {
	Line *line;
	uint32_t n, cap;
} Meet;

/* ---- saying what is wrong ---- */

static void
action_str(const Module *m, const Action *a, Buf *b)
{
	const char *inst =
	    a->inst < m->ninsts ? name_str(m->names, m->insts[a->inst].name) : "?";

	switch (a->kind) {
	case ACT_input: buf_puts(b, "'input'"); break;
	case ACT_norm: buf_puts(b, "'norm'"); return;
	case ACT_body: buf_printf(b, "%s of %s", body_str[a->bk], inst); break;
	case ACT_start:
	case ACT_wait:
		if (a->comm == CK_lend || a->comm == CK_return)
			inst = a->inst < m->nparams
				   ? name_str(m->names, m->params[a->inst].name)
				   : "?";
		buf_printf(b, "'%s %s' of %s", a->kind == ACT_start ? "start" : "wait",
			   comm_str[a->comm], inst);
		break;
	case ACT_mb:
	case ACT_layers:
	case ACT_end:
	case ACT_COUNT: buf_puts(b, "a loop"); return;
	}
	if (a->kind == ACT_body && (a->bk == BK_N || a->bk == BK_U)) return;
	buf_printf(b, " (microbatch %" PRIu32 ")", a->mb);
}

const char *
step_str(const Game *g, const Proc *p, uint32_t step)
{
	Buf b;

	buf_init(&b, g->f.v->tmp);
	if (step < p->steps.n)
		action_str(g->f.m, &p->steps.s[step].a, &b);
	else
		buf_puts(&b, "its end");
	return b.s;
}

bool
game_wrong(Game *g, const Proc *p, const char *fmt, ...)
{
	char text[1200];
	va_list ap;

	if (!g->ok) return false;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	verify_bad(g->f.v, (Loc){0}, "%s %" PRIu32 ", step %" PRIu32 ", %s: %s",
		   g->ranks ? "rank" : "stage", p->index, p->pc, step_str(g, p, p->pc), text);
	g->ok = false;
	return false;
}

/* ---- lines ---- */

static uint32_t
find_line(Game *g, bool group, uint32_t from, uint32_t to, CommKind kind)
{
	Meet *w = g->meet;

	for (uint32_t i = 0; i < w->n; i++) {
		const Line *l = &w->line[i];

		if (l->group == group && l->from == from && l->to == to && l->kind == kind)
			return i;
	}
	PUSH(g->f.v->tmp, w->line, w->n, w->cap,
	     ((Line){.group = group, .from = from, .to = to, .kind = kind}));
	return w->n - 1;
}

/* Both sides begin the same. */
static bool
agree(Game *g, const Proc *p, const Label *a, const Label *b, bool group)
{
	const Proc *q = &g->proc[a->proc];

	if (a->what == b->what && a->i == b->i && a->mb == b->mb && a->op == b->op &&
	    a->prim == b->prim && a->piece == b->piece && a->bytes == b->bytes)
		return true;
	if (a->bytes != b->bytes && a->what == b->what && a->i == b->i && a->mb == b->mb &&
	    a->op == b->op)
		return game_wrong(g, p,
				  "of %" PRId64 " bytes, but %s %" PRIu32 " has %" PRId64
				  " in its step %" PRIu32,
				  b->bytes, g->ranks ? "rank" : "stage", q->index, a->bytes,
				  a->step);
	return game_wrong(g, p, "%s %s of %s %" PRIu32 " (step %" PRIu32 ")",
			  group ? "is in a group with" : "meets", step_str(g, q, a->step),
			  g->ranks ? "rank" : "stage", q->index, a->step);
}

static bool
post_message(Game *g, Proc *p, Request *q, uint32_t from, uint32_t to, bool sending,
	     const Label *l)
{
	uint32_t line = find_line(g, false, from, to, q->kind);
	Line *w = &g->meet->line[line];
	Queue *mine = &w->side[!sending];
	const Queue *other = &w->side[sending];

	PUSH(g->f.v->tmp, mine->l, mine->n, mine->cap, *l);
	PUSH(g->f.v->tmp, q->part, q->nparts, q->cparts, ((Part){line, mine->n - 1}));
	return mine->n > other->n || agree(g, p, &other->l[mine->n - 1], l, false);
}

/* A collective of a group whose first member is member[0]. */
static bool
post_group(Game *g, Proc *p, Request *q, uint32_t comm, const uint32_t *member, uint32_t size,
	   const Label *l)
{
	uint32_t line = find_line(g, true, comm, member[0], CK_fwd), k = 0, index;
	Line *w = &g->meet->line[line];

	if (!w->size) {
		w->size = size;
		w->member = arena_dup(g->f.v->tmp, member, sizeof(*member) * size);
		w->at = NEW_N(g->f.v->tmp, uint32_t, size);
	}
	while (k < size && w->member[k] != p->index)
		k++;
	if (k == size) return game_wrong(g, p, "is begun in a group it is not in");
	index = w->at[k]++;
	PUSH(g->f.v->tmp, q->part, q->nparts, q->cparts, ((Part){line, index}));
	if (index < w->side[0].n) return agree(g, p, &w->side[0].l[index], l, true);
	PUSH(g->f.v->tmp, w->side[0].l, w->side[0].n, w->side[0].cap, *l);
	return true;
}

static bool
complete(const Game *g, const Request *q)
{
	for (uint32_t i = 0; i < q->nparts; i++) {
		const Line *w = &g->meet->line[q->part[i].line];
		uint32_t index = q->part[i].index;

		if (!w->group && (index >= w->side[0].n || index >= w->side[1].n)) return false;
		for (uint32_t k = 0; w->group && k < w->size; k++)
			if (w->at[k] <= index) return false;
	}
	return true;
}

/* ---- what a step posts ---- */

static uint32_t
moved(const Game *g, uint32_t rank, int32_t by)
{
	const Module *m = g->f.m;
	uint32_t k = 0;

	while (k + 1 < m->plan.nstages && m->plan.stages[k + 1].rank <= rank)
		k++;
	{
		int64_t n = m->plan.stages[k].ranks, at = rank - m->plan.stages[k].rank;

		return m->plan.stages[k].rank + (uint32_t)(((at + by) % n + n) % n);
	}
}

static bool
post_collective(Game *g, Proc *p, Request *q, const Prim *prim, int32_t peer, const Label *l)
{
	uint32_t stage = p->stage, n, *member;

	if (!g->ranks && prim->comm > 0) return true; /* all ranks of the stage are there */
	if (!g->ranks) {
		member = NEW_N(g->f.v->tmp, uint32_t, g->n);
		for (uint32_t i = 0; i < g->n; i++)
			member[i] = i;
		return post_group(g, p, q, 0, member, g->n, l);
	}
	n = ir_comm_size(g->f.m, &g->f.comms, prim->comm, stage);
	member = NEW_N(g->f.v->tmp, uint32_t, n + 1);
	ir_comm_members(g->f.m, &g->f.comms, prim->comm, moved(g, p->rank, peer), member);
	return post_group(g, p, q, (uint32_t)prim->comm, member, n, l);
}

static bool
post_exchange(Game *g, Proc *p, Request *q, const Prim *prim, const Step *s, Label l)
{
	l.bytes = 0;
	if (!g->ranks) {
		if (prim->from.stage == prim->to.stage) return true;
		return post_message(g, p, q, prim->from.stage, prim->to.stage,
				    p->stage == prim->from.stage, &l);
	}
	for (int sending = 0; sending < 2; sending++) {
		Piece *x;
		uint32_t n = ir_pieces(g->f.m, prim, p->rank, sending, g->f.v->tmp, &x);

		for (uint32_t i = 0; i < n; i++) {
			if (x[i].from == x[i].to) continue;
			l.bytes = (x[i].count + s->resize) * dtype_bytes(prim->dt);
			l.piece = hash_bytes(x[i].lo, sizeof(x[i].lo), 0) ^
				  hash_bytes(x[i].hi, sizeof(x[i].hi), 1);
			if (sending)
				x[i].to = moved(g, x[i].to, s->peer);
			else
				x[i].from = moved(g, x[i].from, s->peer);
			if (!post_message(g, p, q, x[i].from, x[i].to, sending, &l))
				return false;
		}
	}
	return true;
}

static bool
post_start(Game *g, Proc *p, const Step *s, Request *q)
{
	Prim prim[MAX_PRIMS];
	uint32_t n = ir_prims(g->f.m, &g->f.comms, p->stage, s->a.comm, s->a.inst, prim);

	for (uint32_t i = 0; i < n; i++) {
		Label l = {.what = (int)s->a.comm,
			   .i = s->a.inst,
			   .mb = s->a.mb,
			   .op = i,
			   .prim = prim[i].kind,
			   .proc = p->index,
			   .step = p->pc};

		l.bytes = (prim[i].count + s->resize) * dtype_bytes(prim[i].dt);
		if (s->a.comm == CK_return) l.op = prim[i].kind == PR_exchange;
		if (prim[i].kind == PR_exchange
			? !post_exchange(g, p, q, &prim[i], s, l)
			: !post_collective(g, p, q, &prim[i], s->peer, &l))
			return false;
	}
	return true;
}

/* ---- steps ---- */

typedef enum Went { WENT_on, WENT_nowhere, WENT_wrong } Went;

static Went
step_start(Game *g, Proc *p, const Step *s)
{
	Request q = {.kind = s->a.comm,
		     .i = s->a.inst,
		     .mb = s->a.mb,
		     .id = ++p->requests,
		     .step = p->pc};

	for (uint32_t i = 0; i < p->nopen; i++)
		if (p->open[i].kind == q.kind && p->open[i].i == q.i && p->open[i].mb == q.mb)
			return game_wrong(g, p, "is begun a second time"), WENT_wrong;
	if (!proc_start(g, p, s, &q) || !post_start(g, p, s, &q)) return WENT_wrong;
	PUSH(g->f.v->tmp, p->open, p->nopen, p->copen, q);
	return WENT_on;
}

static Went
step_wait(Game *g, Proc *p, const Step *s)
{
	uint32_t i = 0;

	while (i < p->nopen && (p->open[i].kind != s->a.comm || p->open[i].i != s->a.inst ||
				p->open[i].mb != s->a.mb))
		i++;
	if (i == p->nopen) return game_wrong(g, p, "waits for what was not begun"), WENT_wrong;
	if (!complete(g, &p->open[i])) return WENT_nowhere;
	if (!proc_finish(g, p, &p->open[i])) return WENT_wrong;
	p->open[i] = p->open[--p->nopen];
	return WENT_on;
}

/* Posts a collective that blocks, once; then looks whether all are there. */
static Went
meet_now(Game *g, Proc *p, const Prim *prim, const Label *l)
{
	if (!p->posted) {
		p->now = (Request){.step = p->pc};
		if (!post_collective(g, p, &p->now, prim, 0, l)) return WENT_wrong;
		p->posted = true;
	}
	if (!complete(g, &p->now)) return WENT_nowhere;
	p->posted = false;
	return WENT_on;
}

static Went
step_norm(Game *g, Proc *p)
{
	Label l = {.what = 200, .proc = p->index, .step = p->pc};
	Prim prim;

	if (!p->posted && !proc_norm(g, p)) return WENT_wrong;
	if (!ir_norm_prim(g->f.m, &prim) || (!g->ranks && g->n == 1)) return WENT_on;
	l.bytes = prim.count * dtype_bytes(prim.dt);
	return meet_now(g, p, &prim, &l);
}

/* The collectives of a body, one by one, then what it does to memory. */
static Went
step_body(Game *g, Proc *p, const Step *s)
{
	const Module *m = g->f.m;
	uint32_t type = s->a.inst < m->ninsts ? m->insts[s->a.inst].type : 0;
	const Body *b = s->a.inst < m->ninsts && (unsigned)s->a.bk < BK_COUNT
			    ? &m->bodies[m->types[type].body[s->a.bk]]
			    : NULL;

	for (; g->ranks && b && p->op < b->nops; p->op++) {
		Label l = {.what = 100 + (int)s->a.bk,
			   .i = s->a.inst,
			   .mb = s->a.mb,
			   .op = p->op,
			   .proc = p->index,
			   .step = p->pc};
		Prim prim;
		Went went;

		if (!ir_op_prim(m, &g->f.comms, p->stage, b, &b->ops[p->op], &prim)) continue;
		l.prim = prim.kind;
		l.bytes = prim.count * dtype_bytes(prim.dt);
		went = meet_now(g, p, &prim, &l);
		if (went != WENT_on) return went;
	}
	p->op = 0;
	return proc_body(g, p, s) ? WENT_on : WENT_wrong;
}

static Went
step(Game *g, Proc *p)
{
	const Module *m = g->f.m;
	const Step *s = &p->steps.s[p->pc];
	bool param = s->a.comm == CK_lend || s->a.comm == CK_return;

	if (s->a.kind != ACT_input && s->a.kind != ACT_norm &&
	    s->a.inst >= (s->a.kind != ACT_body && param ? m->nparams : m->ninsts))
		return game_wrong(g, p, "of number %" PRIu32 ", which is none", s->a.inst),
		       WENT_wrong;
	switch (s->a.kind) {
	case ACT_input: return proc_input(g, p, s) ? WENT_on : WENT_wrong;
	case ACT_body: return step_body(g, p, s);
	case ACT_start: return step_start(g, p, s);
	case ACT_wait: return step_wait(g, p, s);
	case ACT_norm: return step_norm(g, p);
	case ACT_mb:
	case ACT_layers:
	case ACT_end:
	case ACT_COUNT: break;
	}
	return WENT_on;
}

/* ---- all of them ---- */

/* Who stands where, if nobody can go on. */
static void
stuck(Game *g)
{
	Buf b;
	const Proc *first = NULL;
	uint32_t said = 0;

	buf_init(&b, g->f.v->tmp);
	for (uint32_t i = 0; i < g->n; i++) {
		const Proc *p = &g->proc[i];

		if (p->pc >= p->steps.n) continue;
		if (!first) {
			first = p;
			continue;
		}
		if (said++ == 3) break;
		buf_printf(&b, "; %s %" PRIu32 " in %s (step %" PRIu32 ")",
			   g->ranks ? "rank" : "stage", p->index, step_str(g, p, p->pc), p->pc);
	}
	if (first)
		game_wrong(g, first, "waits for ever%s", b.n ? b.s : ": nobody else is left");
}

bool
meet_run(Game *g)
{
	bool moving = true;

	g->meet = NEW(g->f.v->tmp, Meet);
	for (uint32_t i = 0; i < g->n && g->ok; i++)
		proc_begin(g, &g->proc[i]);
	while (moving && g->ok) {
		moving = false;
		for (uint32_t i = 0; i < g->n && g->ok; i++) {
			Proc *p = &g->proc[i];
			uint32_t pc = p->pc,
				 op = p->op; /* a body goes on from collective to collective */
			bool posted = p->posted;

			while (g->ok && p->pc < p->steps.n && step(g, p) == WENT_on)
				p->pc++;
			moving |= p->pc != pc || p->op != op || p->posted != posted;
		}
	}
	if (g->ok) stuck(g);
	for (uint32_t i = 0; i < g->n && g->ok; i++)
		proc_end(g, &g->proc[i]);
	return g->ok;
}
