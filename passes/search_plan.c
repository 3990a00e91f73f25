/*
 * search_plan.c - from an answer of the solver to a plan, and what that plan really is: lowered, scheduled and laid out by the
 * functions that spmd, sched and mem use, its arena read off, a step of it simulated.
 */
#include <inttypes.h>
#include <string.h>

#include "passes/search.h"
#include "passes/simulate.h"

/* ---- a plan ---- */

Plan
search_uniform(const Search *s, Arena *a, uint32_t mb, const Mesh *mesh, const Strategy *r)
{
	Plan p = {.ranks = 1,
		  .threads = s->c->threads,
		  .microbatches = mb,
		  .schedule = SCH_1f1b,
		  .forward_only = s->c->forward_only || s->m->plan.forward_only};
	p.meshes = NEW_N(a, Mesh, 2);
	p.nmeshes = mesh->n > 1 ? 2 : 1;
	search_mesh(&(Candidate){.dp = 1, .tp = 1}, mb, &p.meshes[0]);
	if (mesh->n > 1) p.meshes[1] = *mesh;
	for (uint32_t i = 0; i < p.nmeshes; i++)
		p.meshes[i].name = name_fmt(s->c->names, "m%" PRIu32, i);
	for (int k = 1; k < mesh->n; k++)
		p.ranks *= mesh->ax[k].degree;
	p.runs = NEW_N(a, Strategy, 2);
	p.runs[0] = *r;
	p.runs[0].first = 0;
	p.runs[0].count = s->m->ninsts;
	p.runs[0].mesh = p.nmeshes - 1;
	p.nruns = 1;
	p.stages = NEW(a, Stage);
	p.nstages = 1;
	p.stages[0] = (Stage){.count = s->m->ninsts, .ranks = p.ranks, .slots = 1};
	return p;
}

static uint32_t
mesh_of(const Search *s, Plan *p, const Candidate *k, uint32_t mb)
{
	Mesh mesh;
	search_mesh(k, mb, &mesh);
	for (uint32_t i = 0; i < p->nmeshes; i++)
		if (ir_mesh_alike(&p->meshes[i], &mesh)) return i;
	mesh.name = name_fmt(s->c->names, "m%" PRIu32, p->nmeshes);
	p->meshes[p->nmeshes] = mesh;
	return p->nmeshes++;
}

static bool
same_run(const Strategy *a, const Strategy *b)
{
	return a->mesh == b->mesh && a->zero == b->zero && a->megatron_sp == b->megatron_sp &&
	       a->recompute == b->recompute;
}

/* Equal layers next to each other in one stage and group may change places at no cost: then runs are few. */
static void
sort_runs(const Search *s, const Leaf *l)
{
	const Classes *classes = search_memo_classes(s->memo);
	uint32_t n = s->m->ninsts, stage = 0, stages = s->division[l->division].stages;
	for (uint32_t i = 1; i < n; i++) {
		uint32_t class = classes->of[i], c = l->x.cand[i], j = i;
		while (stage + 1 < stages && i >= l->x.first[stage + 1])
			stage++;
		const SolveCost *cost = l->rows[stage]->cost[class];
		for (; j > l->x.first[stage] && classes->of[j - 1] == class; j--) {
			uint32_t prev = l->x.cand[j - 1];
			if (prev <= c || cost[prev].group != cost[c].group) break;
			l->x.cand[j] = prev;
		}
		l->x.cand[j] = c;
	}
}

static void
add_stage(const Search *s, const Leaf *l, Plan *p, uint32_t k)
{
	const Division *d = &s->division[l->division];
	const Classes *classes = search_memo_classes(s->memo);
	const Rows *r = l->rows[k];
	uint32_t end = k + 1 < d->stages ? l->x.first[k + 1] : s->m->ninsts;
	for (uint32_t i = l->x.first[k]; i < end; i++) {
		const Candidate *x = &r->log.cand[r->of[classes->of[i]][l->x.cand[i]]];
		Strategy y = {.first = i,
			      .count = 1,
			      .mesh = mesh_of(s, p, x, l->mb),
			      .zero = x->zero,
			      .megatron_sp = x->sp,
			      .recompute = x->rc};
		if (p->nruns && same_run(&p->runs[p->nruns - 1], &y))
			p->runs[p->nruns - 1].count++;
		else
			p->runs[p->nruns++] = y;
	}
	p->stages[k] = (Stage){.first = l->x.first[k],
			       .count = end - l->x.first[k],
			       .rank = k ? p->stages[k - 1].rank + p->stages[k - 1].ranks : 0,
			       .ranks = d->ranks[k],
			       .slots = search_slots(p->schedule, d->stages, k, l->mb)};
}

Plan
search_plan(const Search *s, const Leaf *l, Arena *a)
{
	const Division *d = &s->division[l->division];
	const Order *o = &s->order[d->order];
	uint32_t n = s->m->ninsts, most = 1;
	Plan p = {.ranks = s->ranks,
		  .threads = s->c->threads,
		  .microbatches = l->mb,
		  .schedule = l->schedule,
		  .forward_only = !s->trains,
		  .nstages = d->stages,
		  .nodes = arena_dup(a, o->nodes, sizeof *o->nodes * o->nnodes),
		  .nnodes = o->nnodes,
		  .time = l->x.time};
	for (uint32_t k = 0; k < d->stages; k++)
		most += l->rows[k]->table.ngroups;
	p.meshes = NEW_N(a, Mesh, most);
	search_mesh(&(Candidate){.dp = 1, .tp = 1}, l->mb, &p.meshes[p.nmeshes++]);
	p.meshes[0].name = name_of(s->c->names, "m0");
	p.stages = NEW_N(a, Stage, d->stages);
	p.runs = NEW_N(a, Strategy, n);
	sort_runs(s, l);
	for (uint32_t k = 0; k < d->stages; k++)
		add_stage(s, l, &p, k);
	return p;
}

/* ---- what it really is ---- */

static Plan
copy_plan(const Plan *p, Arena *a)
{
	Plan x = *p;
	x.meshes = arena_dup(a, p->meshes, sizeof *p->meshes * p->nmeshes);
	x.runs = arena_dup(a, p->runs, sizeof *p->runs * p->nruns);
	x.stages = arena_dup(a, p->stages, sizeof *p->stages * p->nstages);
	return x;
}

Module *
search_lower(const Search *s, const Plan *p, Arena *a, const char **why)
{
	Ctx c = *s->c;
	c.tmp = c.perm = a;
	c.diag = diag_new(a, c.names, NULL);
	Module *m = ir_clone(s->m, a);
	LowerMemo memo = {0};
	m->plan = copy_plan(p, a);
	m->level = LV_plan;
	if (!lower_link(&c, m, &memo) || !pass_sched(&c, m)) {
		*why = diag_first(c.diag);
		return NULL;
	}
	layout_module(&c, m);
	return m;
}

/* Communicators a stage is in, the world among them. */
static uint32_t
communicators(const CommTable *t, uint32_t stage)
{
	uint32_t n = 1;
	for (uint32_t e = 1; e < t->n; e++)
		n += t->group[e * t->nstages + stage].n > 0;
	return n;
}

/* The device of a stage that leaves least beside what it takes itself. */
static const Device *
tightest(const Search *s, const Cluster *c, const Stage *x, uint32_t comms, int64_t *room)
{
	const Device *best = NULL;
	for (uint32_t r = x->rank; r < x->rank + x->ranks;) {
		uint32_t in, run, at = r < c->devices ? r : c->devices - 1;
		cluster_node(c, at, &in, &run);
		const Device *d = &c->device[c->run[run].device];
		int64_t memory = s->memory > 0 ? s->memory : d->memory;
		if (memory < INT64_MAX) memory -= d->reserved + comms * d->comm_bytes;
		if (!best || memory < *room) {
			best = d;
			*room = memory;
		}
		r += c->run[run].devices - in;
	}
	return best;
}

static void
read_memory(const Search *s, const Module *m, const Cluster *c, Found *f)
{
	Arena *tmp = arena_new();
	CommTable t = ir_comms(m, tmp);
	uint32_t n = m->plan.nstages;
	f->arena = NEW_N(s->a, int64_t, n);
	f->bytes = NEW_N(s->a, int64_t, n);
	f->over = INT64_MIN;
	for (uint32_t k = 0; k < n; k++) {
		uint32_t comms = communicators(&t, k);
		int64_t room = 0;
		const Device *d = tightest(s, c, &m->plan.stages[k], comms, &room);
		f->arena[k] = m->mem[k].arena_bytes;
		f->bytes[k] = f->arena[k] + d->reserved + comms * d->comm_bytes;
		if (f->bytes[k] > f->most) f->most = f->bytes[k];
		if (f->arena[k] - room <= f->over) continue;
		f->over = f->arena[k] - room;
		f->tight = k;
	}
	arena_free(tmp);
}

Found
search_try(const Search *s, const Plan *p, bool simulated)
{
	Arena *a = arena_new();
	const char *why = "";
	Found f = {.plan = *p, .table = p->time, .time = p->time, .most = -1};
	const Cluster *cluster = s->cluster;
	Price *price = s->order ? s->order[0].price : NULL;
	for (uint32_t i = 0; i < s->norders; i++)
		if (s->order[i].nnodes == p->nnodes &&
		    (!p->nnodes ||
		     memcmp(s->order[i].nodes, p->nodes, sizeof *p->nodes * p->nnodes) == 0)) {
			cluster = s->order[i].cluster;
			price = s->order[i].price;
		}
	Module *m = search_lower(s, p, a, &why);
	if (m) {
		f.most = 0;
		read_memory(s, m, cluster, &f);
		f.plan.memory = f.most;
		if (simulated && f.over <= 0) {
			Ctx c = *s->c;
			c.tmp = c.perm = a;
			f.time = simulate(&c, m, price, &(SimOptions){0}, a).step;
		}
	} else {
		f.why = arena_dup(s->a, why, strlen(why) + 1);
	}
	arena_free(a);
	return f;
}

const char *
search_bytes_str(const Search *s, int64_t bytes)
{
	Buf b;
	buf_init(&b, s->c->tmp);
	buf_bytes(&b, bytes);
	return b.s;
}

double
search_ms(int64_t ns)
{
	return (double)ns * 1e-6;
}
