/*
 * simulate_flow.c - communication that moves by itself, beside computing: devices.
 *
 * A communication runs from when all have begun it and the one before it on its track is complete. Alone it takes its price.
 * What it takes of the machine (a direction of the links inside a node, or of the nodes' network) it shares in equal parts with the other primitives
 * that run there, however many groups each has: a price counts its own groups already. While a member computes, the
 * device's slow_comm is added, and the member's computing takes slow_compute. Of a communication, the part that the device cannot overlap (1 -
 * eff overlap) comes first and stops the computing of its members.
 */
#include "passes/simulate_parts.h"

static double
part_beside(const Sim *s, const Meeting *x)
{
	double least = 1;
	for (uint32_t i = 0; i < x->part->track->n; i++) {
		double part = s->proc[x->part->track->proc[i]].d->eff[EF_overlap];
		if (part < least) least = part;
	}
	return least < 0 ? 0 : least;
}

static double
slow_of(const Sim *s, const Meeting *x)
{
	uint32_t most = 1;
	double beside = 1;
	for (uint32_t i = 0; i < x->part->use->nres; i++) {
		uint32_t uses = s->res[x->part->use->res[i]].uses;
		if (uses > most) most = uses;
	}
	for (uint32_t i = 0; !x->only && i < x->part->track->n; i++) {
		const Proc *p = &s->proc[x->part->track->proc[i]];
		double all = (double)p->compute + (double)p->comm, slow;
		if (p->state != PS_body || all <= 0) continue;
		slow = ((double)p->compute * p->d->slow_comm + (double)p->comm) / all;
		if (slow > beside) beside = slow;
	}
	return most * beside;
}

static void
set_slow(Sim *s, Meeting *x)
{
	double slow = slow_of(s, x), did = (double)(s->now - x->since) / x->slow;
	if (slow == x->slow) return;
	if (x->slow > 0) {
		x->left = x->left > did ? x->left - did : 0;
		x->alone = x->alone > did ? x->alone - did : 0;
	}
	x->since = s->now;
	x->slow = slow;
	x->version++;
	sim_timer(s, s->now + sim_ns(x->only ? x->alone : x->left, slow),
		  (SimTimer){.what = TM_meeting, .meeting = x, .version = x->version});
}

static void
add_running(Sim *s, Meeting ***list, uint32_t *n, uint32_t *cap, Meeting *x)
{
	PUSH(s->tmp, *list, *n, *cap, x);
}

static void
drop_running(Meeting **list, uint32_t *n, const Meeting *x)
{
	uint32_t i = 0;
	while (list[i] != x)
		i++;
	list[i] = list[--*n];
}

/* One more or less of its uses runs. */
static void
share(Sim *s, const Meeting *x, bool begins)
{
	Use *u = x->part->use;
	if (x->number >= u->crunning) {
		uint32_t cap = 2 * x->number + 8;
		u->running =
		    arena_grow(s->tmp, u->running, u->crunning, cap, sizeof(*u->running));
		u->crunning = cap;
	}
	uint32_t *parts = &u->running[x->number];
	bool turns = begins ? (*parts)++ == 0 : --*parts == 0;
	for (uint32_t i = 0; turns && i < u->nres; i++) {
		Resource *r = &s->res[u->res[i]];
		r->uses += begins ? 1 : -1u;
	}
	for (uint32_t i = 0; turns && i < u->nres; i++) {
		Resource *r = &s->res[u->res[i]];
		for (uint32_t k = 0; k < r->n; k++)
			set_slow(s, r->running[k]);
	}
}

static void
set_alone(Sim *s, const Meeting *x, bool on)
{
	for (uint32_t i = 0; i < x->part->track->n; i++) {
		Proc *p = &s->proc[x->part->track->proc[i]];
		p->alone += on ? 1 : -1u;
		sim_speed(s, p);
	}
}

void
flow_begin(Sim *s, Meeting *x)
{
	const Use *u = x->part->use;
	x->left = (double)u->ns;
	x->alone = (double)u->ns * (1 - part_beside(s, x));
	x->only = x->alone > 0;
	x->since = s->now;
	x->slow = -1;
	for (uint32_t i = 0; i < u->nres; i++) {
		Resource *r = &s->res[u->res[i]];
		add_running(s, &r->running, &r->n, &r->cap, x);
	}
	for (uint32_t i = 0; i < x->part->track->n; i++) {
		Proc *p = &s->proc[x->part->track->proc[i]];
		add_running(s, &p->running, &p->nrunning, &p->crunning, x);
		if (!x->request[i]->running++) x->request[i]->since = s->now;
		sim_speed(s, p);
	}
	if (x->only) set_alone(s, x, true);
	share(s, x, true);
	set_slow(s, x);
}

static void
flow_end(Sim *s, Meeting *x)
{
	const Use *u = x->part->use;
	x->version++;
	for (uint32_t i = 0; i < u->nres; i++) {
		Resource *r = &s->res[u->res[i]];
		drop_running(r->running, &r->n, x);
	}
	for (uint32_t i = 0; i < x->part->track->n; i++) {
		Proc *p = &s->proc[x->part->track->proc[i]];
		drop_running(p->running, &p->nrunning, x);
		Request *q = x->request[i];
		if (!--q->running) {
			p->busy[u->what] += s->now - q->since;
			sim_event(s, p, u->stream, u->what, u->inst, x->mb, q->since, s->now);
		}
		sim_speed(s, p);
	}
	share(s, x, false);
	sim_complete(s, x);
}

/* A part of it has come to its end. */
void
flow_timer(Sim *s, Meeting *x)
{
	if (!x->only) {
		flow_end(s, x);
		return;
	}
	x->left -= (double)(s->now - x->since) / x->slow;
	if (x->left < 0) x->left = 0;
	x->alone = 0;
	x->only = false;
	x->since = s->now;
	x->slow = -1;
	set_alone(s, x, false);
	set_slow(s, x);
}

void
flow_computes(Sim *s, Proc *p)
{
	for (uint32_t i = 0; i < p->nrunning; i++)
		set_slow(s, p->running[i]);
}
