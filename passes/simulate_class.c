/*
 * simulate_class.c - ranks that do the same are one process.
 *
 * Ranks of a stage run one table and differ in their device and in whom they meet. Two of them are in one class if they have
 * devices of one kind, meet members of the same classes in every communicator, and send to and receive from ranks of the
 * same classes in every exchange: then, starting together, they stay together, whatever the table. Classes are the coarsest
 * partition of that kind: from stages and kinds of devices on, they are split until nothing changes. Where a stage has devices
 * of one kind and everybody takes part in every exchange there is nothing to split, and no rank is looked at.
 *
 * `all_ranks`: every rank is a class.
 *
 * Where an exchange deals what few ranks send to many in turns, that may tell nearly all ranks apart. Past MAX_CLASSES a stage's
 * ranks on devices of one kind are one class after all, and who takes no part in an exchange waits for it like the others: a
 * step is then at most a little longer than it would be.
 */
#include "passes/simulate_parts.h"

enum { MAX_CLASSES = 16, MORE_CLASSES = 256 }; /* a stage; beside those */

typedef struct Refine {
	Sim *s;
	uint32_t n;      /* labels */
	uint32_t *label; /* [ranks] */
	uint64_t *sign;  /* [ranks] what a rank sees */
	uint32_t *seen;  /* [ranks] of a label: the number of the set it is in */
	uint32_t sets;
	uint32_t *member; /* [ranks] room */
	uint32_t *slot;   /* [nslots] 1 + label */
	uint64_t *key;
	uint32_t nslots;
} Refine;

static uint64_t
stir(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
	return x ^ x >> 31;
}

static uint64_t
mix(uint64_t x, uint64_t y)
{
	return stir(stir(x + UINT64_C(0x9E3779B97F4A7C15)) + y);
}

/* Numbers signatures in the order of ranks. */
static void
relabel(Refine *x)
{
	uint32_t ranks = x->s->m->plan.ranks;
	for (uint32_t i = 0; i < x->nslots; i++)
		x->slot[i] = 0;
	x->n = 0;
	for (uint32_t r = 0; r < ranks; r++) {
		uint32_t i = (uint32_t)x->sign[r] & (x->nslots - 1);
		while (x->slot[i] && x->key[i] != x->sign[r])
			i = (i + 1) & (x->nslots - 1);
		if (!x->slot[i]) {
			x->slot[i] = ++x->n;
			x->key[i] = x->sign[r];
		}
		x->label[r] = x->slot[i] - 1;
	}
}

/* Of a set of labels, each counted once. */
static uint64_t
add_label(Refine *x, uint64_t set, uint32_t rank)
{
	uint32_t l = x->label[rank];
	if (x->seen[l] == x->sets) return set;
	x->seen[l] = x->sets;
	return set + mix(l, 1);
}

static bool
is_base(const CommGroup *g, uint32_t local)
{
	for (int i = 0; i < g->n; i++)
		if (local / g->d[i].stride % g->d[i].degree) return false;
	return true;
}

static void
see_groups(Refine *x, uint32_t stage, uint32_t comm)
{
	const Module *m = x->s->m;
	const Stage *k = &m->plan.stages[stage];
	const CommGroup *g = &x->s->comms.group[comm * x->s->comms.nstages + stage];
	if (!g->n) return;
	for (uint32_t i = 0; i < k->ranks; i++) {
		if (!is_base(g, i)) continue;
		uint32_t n = ir_comm_size(m, &x->s->comms, (int)comm, stage);
		uint64_t set = 0;
		ir_comm_members(m, &x->s->comms, (int)comm, k->rank + i, x->member);
		x->sets++;
		for (uint32_t j = 0; j < n; j++)
			set = add_label(x, set, x->member[j]);
		for (uint32_t j = 0; j < n; j++)
			x->sign[x->member[j]] = mix(x->sign[x->member[j]], set);
	}
}

/* What one side sees of the other. */
static void
see_side(Refine *x, const Peers *p, bool sending)
{
	const Stage *stage = x->s->m->plan.stages;
	uint32_t from = stage[p->from.stage].rank, to = stage[p->to.stage].rank;
	uint32_t mine = sending ? from : to, other = sending ? to : from;
	const uint32_t *peer = sending ? p->target : p->source,
		       *at = sending ? p->target_at : p->source_at;
	for (uint32_t i = 0; i < (sending ? p->nfrom : p->nto); i++) {
		uint64_t set = 0;
		x->sets++;
		if (p->alike) set = add_label(x, set, other + i);
		for (uint32_t j = p->alike ? 0 : at[i]; j < (p->alike ? 0 : at[i + 1]); j++)
			set = add_label(x, set, other + peer[j]);
		x->sign[mine + i] = mix(x->sign[mine + i], set + sending);
	}
}

static void
see_exchanges(Refine *x)
{
	const Sim *s = x->s;
	for (uint32_t i = 0; i < s->nstarts; i++)
		for (uint32_t k = 0; k < s->starts[i]->n; k++) {
			const Start *t = s->starts[i];
			if (t->prim[k].kind != PR_exchange || t->prim[k].from.stage != t->stage)
				continue;
			Peers p = *t->peers[k];
			p.from.stage = t->prim[k].from.stage;
			p.to.stage = t->prim[k].to.stage;
			see_side(x, &p, true);
			see_side(x, &p, false);
		}
}

/* Splits labels until ranks of one label see the same. False: into too many. */
static bool
refine(Refine *x)
{
	const Sim *s = x->s;
	for (uint32_t before = 0; before != x->n;) {
		if (x->n > MAX_CLASSES * s->m->plan.nstages + MORE_CLASSES) return false;
		before = x->n;
		for (uint32_t r = 0; r < s->m->plan.ranks; r++)
			x->sign[r] = mix(x->label[r], 0);
		for (uint32_t k = 0; k < s->m->plan.nstages; k++)
			for (uint32_t c = 1; c < s->comms.n; c++)
				see_groups(x, k, c);
		see_exchanges(x);
		relabel(x);
	}
	return true;
}

static bool
all_take_part(const Sim *s)
{
	for (uint32_t i = 0; i < s->nstarts; i++)
		for (uint32_t k = 0; k < s->starts[i]->n; k++)
			if (s->starts[i]->peers[k] && !s->starts[i]->peers[k]->total)
				return false;
	return true;
}

static void
make_procs(Sim *s, const uint32_t *kind, uint32_t n)
{
	const Plan *plan = &s->m->plan;
	s->proc = NEW_N(s->tmp, Proc, n + 1);
	s->nprocs = n;
	for (uint32_t k = 0; k < plan->nstages; k++) {
		const Stage *st = &plan->stages[k];
		StageInfo *x = &s->stage[k];
		x->proc = s->class_of[st->rank];
		for (uint32_t r = st->rank; r < st->rank + st->ranks; r++) {
			Proc *p = &s->proc[s->class_of[r]];
			if (p->ranks++) continue;
			*p = (Proc){.stage = k,
				    .class = x->nprocs++,
				    .rank = r,
				    .ranks = 1,
				    .device = kind[r],
				    .d = &s->cluster->device[kind[r]],
				    .cursor = cursor_of(s->m, k)};
			p->line = NEW_N(s->tmp, Line, x->nlines + 1);
		}
	}
}

/* requires: starts, and lines of every stage */
void
sim_classes(Sim *s)
{
	const Plan *plan = &s->m->plan;
	uint32_t ranks = plan->ranks;
	uint32_t *kind = NEW_N(s->tmp, uint32_t, ranks);
	Refine x = {.s = s, .nslots = 16};
	while (x.nslots < 2 * ranks)
		x.nslots *= 2;
	x.label = NEW_N(s->tmp, uint32_t, ranks);
	x.sign = NEW_N(s->tmp, uint64_t, ranks);
	x.seen = NEW_N(s->tmp, uint32_t, ranks);
	x.member = NEW_N(s->tmp, uint32_t, ranks);
	x.slot = NEW_N(s->tmp, uint32_t, x.nslots);
	x.key = NEW_N(s->tmp, uint64_t, x.nslots);
	for (uint32_t k = 0; k < plan->nstages; k++)
		for (uint32_t i = 0; i < plan->stages[k].ranks; i++) {
			uint32_t r = plan->stages[k].rank + i, last = s->cluster->devices - 1,
				 in_node, run;
			cluster_node(s->cluster, r < last ? r : last, &in_node, &run);
			kind[r] = s->cluster->run[run].device;
			x.sign[r] = mix(s->o.all_ranks ? r : k, kind[r]);
		}
	relabel(&x);
	if (!s->o.all_ranks && (x.n > plan->nstages || !all_take_part(s)) && !refine(&x)) {
		s->coarse = true;
		for (uint32_t k = 0; k < plan->nstages; k++)
			for (uint32_t i = 0; i < plan->stages[k].ranks; i++)
				x.sign[plan->stages[k].rank + i] =
				    mix(k, kind[plan->stages[k].rank + i]);
		relabel(&x);
	}
	s->class_of = x.label;
	make_procs(s, kind, x.n);
}
