/*
 * simulate_turn.c - communication that ranks do themselves, with the cores they compute with: the host (slow_compute 0).
 *
 * As runtime/comm.c has it: a start says what is there and moves along all that is open, once, without waiting; who waits (for a
 * request, in a collective of a body, for the norm) moves all that is open, by age, until what is waited for is complete; who computes
 * moves nothing. Once all have begun it, each member of a collective has its share of the work to do, and
 * so has who receives a message (between nodes, who sends it as well). A share takes the price, since a price is the
 * time in which all of them do theirs side by side. It is complete when all shares are done.
 */
#include "passes/simulate_parts.h"

void
turn_look(Sim *s, Proc *p)
{
	p->look = 0;
	p->partly = false;
	p->blocked = false;
	sim_soon(s, p, 2);
}

/* Something has changed. */
void
turn_wake(Sim *s, Proc *p)
{
	if (!p->blocked) return;
	sim_idled(s, p);
	turn_look(s, p);
}

/* The oldest that is not older than what it looks at. */
static Request *
oldest(const Proc *p)
{
	Request *best = NULL;
	for (uint32_t i = 0; i < p->nready; i++) {
		Request *q = p->ready[i];
		if (q->age >= p->look && (!best || q->age < best->age)) best = q;
	}
	return best;
}

/* The next request with a share to do; after the last the first again, for who waits. */
static Request *
find_work(Proc *p)
{
	Request *q = oldest(p);
	if (q || !p->partly || p->now.kind == ACT_start) return q;
	if (p->now.kind == ACT_wait ? p->waits->at == p->waits->start->n : p->free) return NULL;
	p->partly = false;
	p->look = 0;
	return oldest(p);
}

void
turn_pass(Sim *s, Proc *p)
{
	Request *q = find_work(p);
	if (q) {
		p->state = PS_works;
		p->works = q;
		p->from = s->now;
		sim_timer(s, s->now + q->start->use[q->at]->ns,
			  (SimTimer){.what = TM_work, .proc = (uint32_t)(p - s->proc)});
		return;
	}
	if (sim_may_begin(p)) {
		sim_timer(s, s->now,
			  (SimTimer){.what = TM_begin, .proc = (uint32_t)(p - s->proc)});
		return;
	}
	if (p->now.kind == ACT_start || (p->now.kind == ACT_wait && sim_waited(s, p))) {
		sim_soon(s, p, 1);
	} else if (p->now.kind != ACT_wait && p->free) {
		sim_compute(s, p, p->gate->compute, p->gate->comm);
	} else {
		p->blocked = true;
		p->idle = s->now;
	}
}

void
turn_worked(Sim *s, Proc *p)
{
	Request *q = p->works;
	const Use *u = q->start->use[q->at];
	const Role *r = &q->role[q->at];
	p->busy[u->what] += s->now - p->from;
	sim_event(s, p, u->stream, u->what, u->inst, q->mb, p->from, s->now);
	p->state = p->now.kind == ACT_wait    ? PS_waits
		   : p->now.kind == ACT_start ? PS_runs
					      : PS_gate;
	p->look = q->age + 1;
	p->partly = true;
	sim_soon(s, p, 2);
	uint32_t at = 0;
	while (p->ready[at] != q)
		at++;
	p->ready[at] = p->ready[--p->nready];
	for (uint32_t i = 0; i < r->n; i++) {
		if (!r->part[i].works) continue;
		Meeting *x = q->meet[i];
		if (++x->worked == x->part->workers) sim_complete(s, x);
	}
}
