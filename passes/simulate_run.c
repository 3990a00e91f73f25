/*
 * simulate_run.c - processes, event by event.
 *
 * Time goes in nanoseconds, an instant in rounds of three: first what comes to its end then (a body, a communication), next
 * processes go on in their tables, begin communications and bodies, and last those that wait look around. Whoever looks around
 * changes nothing that others see before the next round, so that the order within a round does not matter: ranks that do the
 * same stay together whether they are simulated as one or one by one.
 */
#include "passes/simulate_parts.h"

/* ---- timers ---- */

static bool
earlier(const SimTimer *a, const SimTimer *b)
{
	if (a->at != b->at) return a->at < b->at;
	if (a->round != b->round) return a->round < b->round;
	return a->seq < b->seq;
}

static void
sift_up(SimTimer *t, uint32_t i)
{
	SimTimer x = t[i];
	for (; i && earlier(&x, &t[(i - 1) / 2]); i = (i - 1) / 2)
		t[i] = t[(i - 1) / 2];
	t[i] = x;
}

static void
sift_down(SimTimer *t, uint32_t n, uint32_t i)
{
	SimTimer x = t[i];
	for (uint32_t k = 2 * i + 1; k < n; k = 2 * i + 1) {
		if (k + 1 < n && earlier(&t[k + 1], &t[k])) k++;
		if (!earlier(&t[k], &x)) break;
		t[i] = t[k];
		i = k;
	}
	t[i] = x;
}

/* The next round of a phase, at this instant. */
static uint64_t
next_round(const Sim *s, int phase)
{
	uint64_t k = s->round / 3 + ((uint64_t)phase <= s->round % 3);
	return 3 * k + (uint64_t)phase;
}

void
sim_timer(Sim *s, int64_t at, SimTimer t)
{
	t.at = at;
	t.round = at > s->now ? 0 : next_round(s, 0);
	t.seq = s->seq++;
	PUSH(s->tmp, s->timer, s->ntimers, s->ctimers, t);
	sift_up(s->timer, s->ntimers - 1);
}

void
sim_soon(Sim *s, const Proc *p, int phase)
{
	struct Soon *x = &s->soon[phase - 1];
	if (x->at == x->n) x->at = x->n = 0;
	x->round = next_round(s, phase);
	PUSH(s->tmp, x->proc, x->n, x->cap, (uint32_t)(p - s->proc));
}

static SimTimer
next_timer(Sim *s)
{
	SimTimer t = s->timer[0];
	s->timer[0] = s->timer[--s->ntimers];
	if (s->ntimers) sift_down(s->timer, s->ntimers, 0);
	return t;
}

int64_t
sim_ns(double work, double slow)
{
	double ns = ceil(work * slow - 1e-6); /* dust of rounding is no nanosecond */
	return ns < 4e18 ? ns > 0 ? (int64_t)ns : 0 : INT64_MAX / 2;
}

void
sim_event(Sim *s, const Proc *p, SimStream stream, SimWhat what, uint32_t inst, uint32_t mb,
	  int64_t from, int64_t to)
{
	if (!s->o.record || from == to) return;
	PUSH(s->a, s->r.event, s->r.nevents, s->r.cevents,
	     ((SimEvent){p->stage, p->class, stream, what, inst, mb, from, to}));
}

void
sim_idled(Sim *s, Proc *p)
{
	p->busy[SW_wait] += s->now - p->idle;
	sim_event(s, p, SS_compute, SW_wait, p->now.inst, p->now.mb, p->idle, s->now);
}

/* ---- computing ---- */

/* Communication beside it slows its own computing, not the collectives that are part of it. */
static double
slowness(const Proc *p)
{
	double all = (double)p->compute + (double)p->comm;
	if (p->alone) return 0;
	if (!p->nrunning || all <= 0) return 1;
	return ((double)p->compute * p->d->slow_compute + (double)p->comm) / all;
}

void
sim_speed(Sim *s, Proc *p)
{
	double slow = slowness(p);
	if (p->state != PS_body || slow == p->slow) return;
	if (p->slow > 0) p->left -= (double)(s->now - p->since) / p->slow;
	if (p->left < 0) p->left = 0;
	p->since = s->now;
	p->slow = slow;
	p->version++;
	if (slow > 0)
		sim_timer(s, s->now + sim_ns(p->left, slow),
			  (SimTimer){.what = TM_body,
				     .proc = (uint32_t)(p - s->proc),
				     .version = p->version});
}

void
sim_compute(Sim *s, Proc *p, int64_t compute, int64_t comm)
{
	p->state = PS_body;
	p->compute = compute;
	p->comm = comm;
	p->left = (double)compute + (double)comm;
	p->from = p->since = s->now;
	p->slow = -1; /* none yet */
	flow_computes(s, p);
	sim_speed(s, p);
}

static void
end_body(Sim *s, Proc *p)
{
	static const SimWhat what[BK_COUNT] = {SW_F, SW_B, SW_W, SW_update, SW_update};
	const Action *a = &p->now;
	int64_t took = s->now - p->from, all = p->compute + p->comm, tp = 0;
	if (p->comm)
		tp = took == all ? p->comm
				 : (int64_t)((double)took * (double)p->comm / (double)all);
	SimWhat own = a->kind == ACT_norm    ? SW_norm
		      : a->kind == ACT_input ? SW_input
					     : what[a->bk];
	if (a->kind == ACT_norm) tp = 0;
	p->busy[own] += took - tp;
	p->busy[SW_tp] += tp;
	sim_event(s, p, SS_compute, own, a->inst, a->mb, p->from, s->now - tp);
	sim_event(s, p, SS_compute, SW_tp, a->inst, a->mb, s->now - tp, s->now);
	p->state = PS_runs;
	flow_computes(s, p);
	if (a->kind != ACT_input) sim_memory(s, p, a, false);
	sim_soon(s, p, 1);
}

/* ---- gates ---- */

static void
pass_gate(Sim *s, Proc *p)
{
	p->free = true;
	if (s->turns) {
		turn_wake(s, p);
		return;
	}
	sim_idled(s, p);
	sim_compute(s, p, p->gate->compute, p->gate->comm);
}

/* Goes on when all are here. */
static void
come(Sim *s, Proc *p, Gate *g)
{
	p->gate = g;
	p->state = PS_gate;
	p->idle = s->now;
	p->blocked = !s->turns;
	p->free = false;
	if (s->turns) turn_look(s, p);
	if (++g->here < g->n) return;
	g->here = 0;
	for (uint32_t i = 0; i < g->n; i++)
		pass_gate(s, &s->proc[g->proc[i]]);
}

static void
begin_body(Sim *s, Proc *p)
{
	const Action *a = &p->now;
	uint32_t body = s->m->types[s->m->insts[a->inst].type].body[a->bk];
	BodyPrice x = sim_price_body(s, p, body);
	sim_memory(s, p, a, true);
	if (x.comm && (s->turns || s->stage[p->stage].nprocs > 1)) {
		come(s, p, sim_gate(s, p, body));
		return;
	}
	sim_compute(s, p, x.compute, x.comm);
}

/* ---- requests ---- */

static Request *
new_request(Sim *s, Start *t, uint32_t mb)
{
	Request *q = t->spare;
	Meeting **meet;
	if (q) {
		t->spare = q->also;
		meet = q->meet;
	} else {
		q = NEW(s->tmp, Request);
		meet = NEW_N(s->tmp, Meeting *, t->most + 1);
	}
	*q = (Request){.start = t, .mb = mb, .meet = meet};
	return q;
}

/* The meeting number `n` of a part; the first of its members makes it. */
static Meeting *
meeting_of(Sim *s, Part *part, uint32_t n, uint32_t mb)
{
	if (n < part->n) return part->number[n];
	Meeting *x = part->spare;
	uint32_t version = 0;
	Request **request;
	if (x) {
		part->spare = x->next;
		version = x->version;
		request = x->request;
	} else {
		x = NEW(s->tmp, Meeting);
		request = NEW_N(s->tmp, Request *, part->track->n);
	}
	*x = (Meeting){
	    .part = part, .number = n, .mb = mb, .version = version, .request = request};
	PUSH(s->tmp, part->number, part->n, part->cap, x);
	Track *t = part->track;
	if (t->head)
		t->last->next = x;
	else
		t->head = x;
	t->last = x;
	return x;
}

/* All members have begun it. */
static void
met(Sim *s, Meeting *x)
{
	const Track *t = x->part->track;
	if (!s->turns) {
		if (t->head == x) flow_begin(s, x);
		return;
	}
	for (uint32_t i = 0; i < t->n; i++) {
		Request *q = x->request[i];
		const Role *r = &q->role[q->at];
		Proc *p = &s->proc[t->proc[i]];
		for (uint32_t k = 0; k < r->n; k++)
			if (q->meet[k] == x && r->part[k].works && ++q->ready == q->shares)
				PUSH(s->tmp, p->ready, p->nready, p->cready, q);
		turn_wake(s, p);
	}
}

static bool
its_turn(const Proc *p, const Request *q)
{
	return !q->begun && q->at < q->start->n &&
	       p->line[q->start->line[q->at]].begun == q->ticket[q->at];
}

static void
begin_prim(Sim *s, Proc *p, Request *q)
{
	Role *r = &q->start->role[p->class * q->start->n + q->at];
	p->line[q->start->line[q->at]].begun++;
	p->behind--;
	q->begun = true;
	q->left = r->n;
	q->ready = q->shares = 0;
	for (uint32_t i = 0; i < r->n; i++)
		q->shares += r->part[i].works;
	for (uint32_t i = 0; i < r->n; i++) {
		struct RolePart *x = &r->part[i];
		Meeting *y = q->meet[i] = meeting_of(s, x->part, x->times++, q->mb);
		y->request[x->member] = q;
		if (++y->begun == x->part->track->n) met(s, y);
	}
	if (q->left) return;
	q->begun = false; /* nothing of it is ours */
	if (++q->at < q->start->n) p->behind++;
}

bool
sim_may_begin(const Proc *p)
{
	if (!p->behind) return false;
	for (const Request *q = p->first; q; q = q->next)
		if (its_turn(p, q)) return true;
	return false;
}

void
sim_begin(Sim *s, Proc *p)
{
	for (bool moved = true; moved && p->behind;) {
		moved = false;
		for (Request *q = p->first; q; q = q->next)
			while (its_turn(p, q)) {
				begin_prim(s, p, q);
				moved = true;
			}
	}
}

static void
begin_start(Sim *s, Proc *p)
{
	const Action *a = &p->now;
	Start *t = sim_start_of(s, p->stage, a->comm, a->inst);
	Request *q = new_request(s, t, a->mb);
	struct Open *open = &t->open[p->class];
	q->age = p->requests++;
	q->role = &t->role[p->class * t->n];
	q->before = p->last;
	if (p->last)
		p->last->next = q;
	else
		p->first = q;
	p->last = q;
	if (open->first)
		open->last->also = q;
	else
		open->first = q;
	open->last = q;
	for (uint32_t i = 0; i < t->n; i++)
		q->ticket[i] = p->line[t->line[i]].tickets++;
	if (t->n) p->behind++;
	while (its_turn(p, q))
		begin_prim(s, p, q);
	sim_begin(s, p);
}

/* A primitive of a request is complete. */
static void
prim_done(Sim *s, Proc *p, Request *q)
{
	q->begun = false;
	if (++q->at < q->start->n) p->behind++;
	if (s->turns) {
		turn_wake(s, p);
		return;
	}
	sim_begin(s, p);
	if (p->state == PS_waits && p->waits == q && q->at == q->start->n) {
		sim_idled(s, p);
		p->state = PS_runs;
		sim_waited(s, p);
		sim_soon(s, p, 1);
	}
}

void
sim_complete(Sim *s, Meeting *x)
{
	Part *part = x->part;
	Track *t = part->track;
	part->number[x->number] = NULL;
	if (!s->turns) {
		t->head = x->next;
		if (t->head && t->head->begun == t->n) flow_begin(s, t->head);
	} else { /* of a track they may end in any order */
		Meeting **y = &t->head, *last = NULL;
		while (*y != x) {
			last = *y;
			y = &(*y)->next;
		}
		*y = x->next;
		if (t->last == x) t->last = last;
	}
	for (uint32_t i = 0; i < t->n; i++)
		if (!--x->request[i]->left) prim_done(s, &s->proc[t->proc[i]], x->request[i]);
	x->next = part->spare;
	part->spare = x;
}

/* ---- waiting ---- */

static void
drop_request(Proc *p, Request *q)
{
	struct Open *open = &q->start->open[p->class];
	Request **x = &open->first, *last = NULL;
	while (*x != q) {
		last = *x;
		x = &(*x)->also;
	}
	*x = q->also;
	if (open->last == q) open->last = last;
	if (q->before)
		q->before->next = q->next;
	else
		p->first = q->next;
	if (q->next)
		q->next->before = q->before;
	else
		p->last = q->before;
	q->also = q->start->spare;
	q->start->spare = q;
}

bool
sim_waited(Sim *s, Proc *p)
{
	Request *q = p->waits;
	if (q->at < q->start->n) return false;
	drop_request(p, q);
	p->waits = NULL;
	sim_memory(s, p, &p->now, false);
	return true;
}

/* False: it waits. */
static bool
begin_wait(Sim *s, Proc *p)
{
	const Action *a = &p->now;
	Request *q = sim_start_of(s, p->stage, a->comm, a->inst)->open[p->class].first;
	while (q && q->mb != a->mb)
		q = q->also;
	ENSURE(q, "stage %u waits for what it has not begun", p->stage);
	p->waits = q;
	if (sim_waited(s, p)) return true;
	p->state = PS_waits;
	p->idle = s->now;
	p->blocked = !s->turns;
	if (s->turns) turn_look(s, p);
	return false;
}

/* ---- tables ---- */

static void
run(Sim *s, Proc *p)
{
	p->state = PS_runs;
	while (cursor_next(&p->cursor, &p->now)) {
		const Action *a = &p->now;
		s->r.steps++;
		switch (a->kind) {
		case ACT_body: begin_body(s, p); return;
		case ACT_start:
			begin_start(s, p);
			sim_memory(s, p, a, false);
			if (!s->turns) break;
			turn_look(s, p);
			return;
		case ACT_wait:
			if (!begin_wait(s, p)) return;
			break;
		case ACT_norm:
			if (!s->norm.n) break;
			come(s, p, &s->norm);
			return;
		case ACT_end: sim_memory(s, p, a, false); break;
		case ACT_input:
			if (p->d->eff[EF_turn] <= 0) break;
			sim_compute(s, p, sim_ns(p->d->eff[EF_turn], 1), 0);
			return;
		case ACT_mb:
		case ACT_layers:
		case ACT_COUNT: break;
		}
	}
	p->state = PS_done;
	p->end = s->now;
}

static void
handle(Sim *s, const SimTimer *t)
{
	Proc *p = &s->proc[t->proc];
	switch (t->what) {
	case TM_meeting:
		if (t->meeting->version == t->version) flow_timer(s, t->meeting);
		break;
	case TM_body:
		if (p->version == t->version) end_body(s, p);
		break;
	case TM_work: turn_worked(s, p); break;
	case TM_begin:
		sim_begin(s, p);
		turn_look(s, p);
		break;
	}
}

/* Whoever is next at this instant, before any timer. */
static bool
next_soon(Sim *s)
{
	const SimTimer *t = s->ntimers ? &s->timer[0] : NULL;
	int best = -1;
	for (int i = 0; i < 2; i++) {
		const struct Soon *x = &s->soon[i];
		if (x->at < x->n && (best < 0 || x->round < s->soon[best].round)) best = i;
	}
	if (best < 0) return false;
	struct Soon *x = &s->soon[best];
	if (t && t->at == s->now && t->round < x->round) return false;
	s->round = x->round;
	Proc *p = &s->proc[x->proc[x->at++]];
	if (best)
		turn_pass(s, p);
	else
		run(s, p);
	return true;
}

void
sim_run(Sim *s)
{
	for (uint32_t i = 0; i < s->nprocs; i++)
		sim_soon(s, &s->proc[i], 1);
	for (;;) {
		if (next_soon(s)) continue;
		if (!s->ntimers) break;
		SimTimer t = next_timer(s);
		s->now = t.at;
		s->round = t.round;
		handle(s, &t);
	}
	for (uint32_t i = 0; i < s->nprocs; i++)
		ENSURE(s->proc[i].state == PS_done,
		       "stage %u stands still after the proof that it does not",
		       s->proc[i].stage);
}
