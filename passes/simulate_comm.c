/*
 * simulate_comm.c - what every ACT_start begins: primitives, who meets whom in them, what they take, what they share.
 *
 * A communicator of a stage has one TRACK for every set of classes that meet in its groups; an exchange between two stages one
 * for every pair of classes of which one sends to the other. What is on one track goes in the order in which it is begun. A
 * primitive has a PART on each of its tracks, and takes its price on each: Price gives the price of the slowest rank, all its
 * messages together.
 *
 * What a primitive takes of the machine while it runs: inside nodes both directions of its stages' links, between nodes both
 * of the network of all nodes its stages lie on; an exchange takes the outgoing direction of one side and the incoming one of
 * the other. Nodes between whose borders no stage begins or ends are one (an atom): their networks are busy alike.
 */
#include "passes/simulate_parts.h"

static const SimWhat what_of[CK_COUNT] = {
    [CK_fwd] = SW_fwd,   [CK_bwd] = SW_bwd,     [CK_param] = SW_param,
    [CK_grad] = SW_grad, [CK_lend] = SW_borrow, [CK_return] = SW_borrow,
};

/* ---- who exchanges with whom ---- */

/* Does every rank have some of it? The last one along all axes has least. */
static bool
all_have(const Module *m, const Side *side)
{
	uint32_t last[MAX_MESH] = {0};
	int64_t lo, hi;
	for (int k = 1; k < side->mesh->n; k++)
		last[k] = side->mesh->ax[k].degree - 1;
	for (int k = 0; k < side->type.n; k++) {
		ir_part(m, side->mesh, &side->type, k, last, &lo, &hi);
		if (hi <= lo) return false;
	}
	return true;
}

static bool
same_peers(const Peers *p, const Prim *x, const Stage *stage)
{
	return p->own == (x->from.stage == x->to.stage) &&
	       p->nfrom == stage[x->from.stage].ranks && p->nto == stage[x->to.stage].ranks &&
	       ir_mesh_alike(p->from.mesh, x->from.mesh) &&
	       ir_mesh_alike(p->to.mesh, x->to.mesh) &&
	       type_equal(&p->from.type, &x->from.type) && type_equal(&p->to.type, &x->to.type);
}

/* source[] turned round. */
static void
find_targets(Sim *s, Peers *p)
{
	uint32_t *next = NEW_N(s->tmp, uint32_t, p->nfrom + 1);
	p->target_at = NEW_N(s->tmp, uint32_t, p->nfrom + 1);
	p->target = NEW_N(s->tmp, uint32_t, p->source_at[p->nto] + 1);
	for (uint32_t i = 0; i < p->source_at[p->nto]; i++)
		p->target_at[p->source[i] + 1]++;
	for (uint32_t i = 0; i < p->nfrom; i++)
		next[i + 1] = p->target_at[i + 1] += p->target_at[i];
	for (uint32_t t = 0; t < p->nto; t++)
		for (uint32_t i = p->source_at[t]; i < p->source_at[t + 1]; i++)
			p->target[next[p->source[i]]++] = t;
	for (uint32_t i = 0; i < p->nfrom; i++)
		if (p->target_at[i] == p->target_at[i + 1]) p->total = false;
}

static void
find_sources(Sim *s, Peers *p, const Prim *x)
{
	const Stage *from = &s->m->plan.stages[x->from.stage],
		    *to = &s->m->plan.stages[x->to.stage];
	Arena *tmp = arena_new();
	uint32_t cap = 0, n = 0;
	p->source_at = NEW_N(s->tmp, uint32_t, p->nto + 1);
	for (uint32_t t = 0; t < p->nto; t++) {
		Piece *piece;
		uint32_t pieces = ir_pieces(s->m, x, to->rank + t, false, tmp, &piece);
		for (uint32_t i = 0; i < pieces; i++)
			PUSH(s->tmp, p->source, n, cap, piece[i].from - from->rank);
		if (!pieces) p->total = false;
		p->source_at[t + 1] = n;
		if (t % 64 == 63) arena_reset(tmp);
	}
	arena_free(tmp);
	find_targets(s, p);
}

/* Exchanges of one shape share what is found out. */
static const Peers *
peers_of(Sim *s, const Prim *x)
{
	const Stage *stage = s->m->plan.stages;
	for (uint32_t i = 0; i < s->npeers; i++)
		if (same_peers(s->peers[i], x, stage)) return s->peers[i];
	Peers *p = NEW(s->tmp, Peers);
	*p = (Peers){.from = x->from,
		     .to = x->to,
		     .nfrom = stage[x->from.stage].ranks,
		     .nto = stage[x->to.stage].ranks,
		     .own = x->from.stage == x->to.stage,
		     .total = true};
	p->alike = ir_sides_alike(x) && all_have(s->m, &x->from);
	if (!p->alike) find_sources(s, p, x);
	PUSH(s->tmp, s->peers, s->npeers, s->cpeers, p);
	return p;
}

/* ---- starts ---- */

static Start **
start_slot(const Sim *s, CommKind k, uint32_t inst)
{
	return &s->start[((size_t)k * s->most + inst) * 2];
}

Start *
sim_start_of(const Sim *s, uint32_t stage, CommKind k, uint32_t inst)
{
	Start **x = start_slot(s, k, inst);
	for (int i = 0; i < 2; i++)
		if (x[i] && x[i]->stage == stage) return x[i];
	ICE("stage %u waits for %s %u, which it does not start", stage, comm_str[k], inst);
}

static struct Channel *
channel_of(Sim *s, const Prim *x)
{
	uint32_t from = x->from.stage, to = x->to.stage;
	for (uint32_t i = 0; i < s->nchannels; i++) {
		struct Channel *c = &s->channel[i];
		if (c->from == from && c->to == to && c->kind == x->channel) return c;
	}
	struct Channel c = {.from = from, .to = to, .kind = x->channel};
	c.line[0] = s->stage[from].nlines++;
	c.line[1] = from == to ? c.line[0] : s->stage[to].nlines++;
	PUSH(s->tmp, s->channel, s->nchannels, s->cchannels, c);
	return &s->channel[s->nchannels - 1];
}

static void
add_start(Sim *s, uint32_t stage, CommKind k, uint32_t inst)
{
	Start **x = start_slot(s, k, inst), *t;
	Prim prim[MAX_PRIMS];
	if ((x[0] && x[0]->stage == stage) || x[1]) return;
	t = NEW(s->tmp, Start);
	*t = (Start){.stage = stage, .inst = inst, .kind = k};
	t->n = ir_prims(s->m, &s->comms, stage, k, inst, prim);
	t->prim = arena_dup(s->tmp, prim, sizeof(*prim) * (t->n + 1));
	for (uint32_t i = 0; i < t->n; i++) {
		const Prim *q = &t->prim[i];
		t->line[i] = (uint32_t)q->comm;
		if (q->kind != PR_exchange) continue;
		t->peers[i] = peers_of(s, q);
		t->line[i] = channel_of(s, q)->line[q->from.stage != stage];
	}
	x[x[0] != NULL] = t;
	PUSH(s->tmp, s->starts, s->nstarts, s->cstarts, t);
}

/* Every communication that some table begins. */
void
sim_starts(Sim *s)
{
	const Module *m = s->m;
	s->most = (m->ninsts > m->nparams ? m->ninsts : m->nparams) + 1;
	s->start = NEW_N(s->tmp, Start *, (size_t)CK_COUNT * s->most * 2);
	for (uint32_t k = 0; k < m->plan.nstages; k++)
		s->stage[k].nlines = s->comms.n;
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		const Stage *st = &m->plan.stages[k];
		uint32_t turns = 1;
		for (uint32_t i = 0; i < st->nactions; i++) {
			const Action *a = &m->actions[st->action + i];
			if (a->kind == ACT_layers) turns = a->count;
			if (a->kind == ACT_end) turns = 1;
			for (uint32_t t = 0; a->kind == ACT_start && t < turns; t++)
				add_start(
				    s, k, a->comm,
				    (uint32_t)((int64_t)a->inst + (int64_t)t * a->stride));
		}
	}
}

/* ---- where stages lie ---- */

static void
find_nodes(Sim *s)
{
	const Plan *plan = &s->m->plan;
	uint32_t ranks = plan->ranks, r = 0, node = 0;
	s->node = NEW_N(s->tmp, uint32_t, ranks + 1);
	for (uint32_t i = 0; i < s->cluster->nrun; i++) {
		const NodeRun *run = &s->cluster->run[i];
		for (uint32_t n = 0; n < run->nodes; n++, node++)
			for (uint32_t d = 0; d < run->devices && r < ranks; d++)
				s->node[r++] = node;
	}
	while (r < ranks)
		s->node[r++] = node - 1;
}

static int
by_number(const void *x, const void *y)
{
	const uint32_t *a = x, *b = y;
	return (*a > *b) - (*a < *b);
}

static void
find_atoms(Sim *s)
{
	const Plan *plan = &s->m->plan;
	uint32_t *border = NEW_N(s->tmp, uint32_t, 2 * plan->nstages + 1), n = 0, atoms = 0;
	for (uint32_t k = 0; k < plan->nstages; k++) {
		const Stage *st = &plan->stages[k];
		border[n++] = s->node[st->rank];
		border[n++] = s->node[st->rank + st->ranks - 1] + 1;
	}
	qsort(border, n, sizeof(*border), by_number);
	for (uint32_t i = 0; i < n; i++)
		if (!i || border[i] != border[i - 1]) border[atoms++] = border[i];
	for (uint32_t k = 0; k < plan->nstages; k++) {
		const Stage *st = &plan->stages[k];
		StageInfo *x = &s->stage[k];
		while (border[x->atom] < s->node[st->rank])
			x->atom++;
		while (border[x->atom + x->atoms] <= s->node[st->rank + st->ranks - 1])
			x->atoms++;
	}
	s->nres = 2 * (plan->nstages + atoms);
	s->res = NEW_N(s->tmp, Resource, s->nres + 1);
}

/* ---- tracks ---- */

/* The track of a set of classes; makes it. */
static Track *
track_of(Sim *s, Track ***list, uint32_t *n, uint32_t *cap, const uint32_t *proc,
	 uint32_t members)
{
	for (uint32_t i = 0; i < *n; i++) {
		const Track *t = (*list)[i];
		if (t->n == members && memcmp(t->proc, proc, sizeof(*proc) * members) == 0)
			return (*list)[i];
	}
	Track *t = NEW(s->tmp, Track);
	*t = (Track){.n = members, .proc = arena_dup(s->tmp, proc, sizeof(*proc) * members)};
	PUSH(s->tmp, *list, *n, *cap, t);
	return t;
}

/* Sorted, each once; how many. A group may be large and of few classes. */
static uint32_t
as_set(Sim *s, uint32_t *proc, uint32_t n)
{
	uint32_t k = 0;
	if (!s->seen) s->seen = NEW_N(s->tmp, uint32_t, s->nprocs + 1);
	s->sets++;
	for (uint32_t i = 0; i < n; i++) {
		if (s->seen[proc[i]] == s->sets) continue;
		s->seen[proc[i]] = s->sets;
		proc[k++] = proc[i];
	}
	if (k) qsort(proc, k, sizeof(*proc), by_number);
	return k;
}

static bool
group_far(const Sim *s, uint32_t stage, uint32_t comm)
{
	const Stage *st = &s->m->plan.stages[stage];
	const CommGroup *g = &s->comms.group[comm * s->comms.nstages + stage];
	uint32_t span = 0;
	if (!comm) return s->node[0] != s->node[s->m->plan.ranks - 1];
	for (int i = 0; i < g->n; i++)
		span += (g->d[i].degree - 1) * g->d[i].stride;
	for (uint32_t i = 0; i + span < st->ranks; i++) {
		bool base = true;
		for (int d = 0; d < g->n; d++)
			base &= i / g->d[d].stride % g->d[d].degree == 0;
		if (base && s->node[st->rank + i] != s->node[st->rank + i + span]) return true;
	}
	return false;
}

/* Which classes meet in the groups of a communicator. */
static struct Groups *
groups_of(Sim *s, uint32_t stage, uint32_t comm)
{
	StageInfo *x = &s->stage[stage];
	struct Groups *g = &x->groups[comm];
	uint32_t cap = 0;
	if (g->track) return g;
	g->far = group_far(s, stage, comm);
	for (uint32_t i = 0; i < x->nprocs; i++) {
		uint32_t n = 1, *member = &(uint32_t){x->proc};
		if (s->coarse) {
			n = x->nprocs;
			member = NEW_N(s->tmp, uint32_t, n);
			for (uint32_t k = 0; k < n; k++)
				member[k] = x->proc + k;
		} else if (x->nprocs > 1) {
			n = ir_comm_size(s->m, &s->comms, (int)comm, stage);
			member = NEW_N(s->tmp, uint32_t, n);
			ir_comm_members(s->m, &s->comms, (int)comm, s->proc[x->proc + i].rank,
					member);
			for (uint32_t k = 0; k < n; k++)
				member[k] = s->class_of[member[k]];
			n = as_set(s, member, n);
		}
		track_of(s, &g->track, &g->n, &cap, member, n);
	}
	return g;
}

/* ---- uses ---- */

static void
add_res(Sim *s, Use *u, uint32_t stage, bool in)
{
	const StageInfo *x = &s->stage[stage];
	uint32_t first = u->far ? s->m->plan.nstages + x->atom : stage;
	uint32_t n = u->far ? x->atoms : 1;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id = 2 * (first + i) + in;
		bool has = false;
		for (uint32_t k = 0; k < u->nres; k++)
			has |= u->res[k] == id;
		if (!has) u->res[u->nres++] = id;
	}
}

static void
use_collective(Sim *s, Use *u, uint32_t stage, const Prim *prim)
{
	const struct Groups *g = groups_of(s, stage, (uint32_t)prim->comm);
	u->stream = SS_collective;
	u->far = g->far;
	u->res = NEW_N(s->tmp, uint32_t, 2 * s->stage[stage].atoms + 2);
	add_res(s, u, stage, false);
	add_res(s, u, stage, true);
	u->nparts = g->n;
	u->part = NEW_N(s->tmp, Part, g->n);
	for (uint32_t i = 0; i < g->n; i++)
		u->part[i] = (Part){.use = u, .track = g->track[i], .workers = g->track[i]->n};
}

static bool
exchange_far(const Sim *s, const Prim *x, const Peers *p)
{
	const uint32_t *from = s->node + s->m->plan.stages[x->from.stage].rank,
		       *to = s->node + s->m->plan.stages[x->to.stage].rank;
	for (uint32_t t = 0; t < p->nto; t++) {
		if (p->alike && from[t] != to[t]) return true;
		for (uint32_t i = p->alike ? 0 : p->source_at[t];
		     !p->alike && i < p->source_at[t + 1]; i++)
			if (from[p->source[i]] != to[t]) return true;
	}
	return false;
}

/* The classes that send to the ranks of a class: to its first, who stands for all, or to any. */
static uint32_t
sources_of(Sim *s, const Prim *x, const Peers *p, const Proc *to, uint32_t **out)
{
	uint32_t first = s->m->plan.stages[x->from.stage].rank, n = 0, cap = 0;
	uint32_t base = s->m->plan.stages[x->to.stage].rank;
	uint32_t end = s->coarse ? p->nto : to->rank - base + 1;
	*out = NULL;
	for (uint32_t t = to->rank - base; t < end; t++) {
		if (&s->proc[s->class_of[base + t]] != to) continue;
		uint32_t lo = p->alike ? 0 : p->source_at[t],
			 hi = p->alike ? 1 : p->source_at[t + 1];
		for (uint32_t i = lo; i < hi; i++)
			PUSH(s->tmp, *out, n, cap,
			     s->class_of[first + (p->alike ? t : p->source[i])]);
		n = as_set(s, *out, n);
	}
	return n;
}

static void
use_exchange(Sim *s, Use *u, const Prim *x, const Peers *p)
{
	struct Channel *c = channel_of(s, x);
	const StageInfo *from = &s->stage[x->from.stage], *to = &s->stage[x->to.stage];
	uint32_t cap = 0;
	u->stream = SS_exchange;
	u->far = exchange_far(s, x, p);
	u->res = NEW_N(s->tmp, uint32_t, from->atoms + to->atoms + 2);
	add_res(s, u, x->from.stage, false);
	add_res(s, u, x->to.stage, true);
	for (uint32_t i = 0; i < to->nprocs; i++) {
		uint32_t *source, n = sources_of(s, x, p, &s->proc[to->proc + i], &source);
		for (uint32_t k = 0; k < n; k++) {
			uint32_t pair[2] = {source[k], to->proc + i};
			uint32_t members = pair[0] == pair[1] ? 1 : 2;
			Part part = {.use = u, .workers = u->far ? members : 1};
			part.track = track_of(s, &c->track, &c->n, &c->cap, pair, members);
			PUSH(s->tmp, u->part, u->nparts, cap, part);
		}
	}
}

/* An exchange of two stages is one. */
static Use *
other_use(const Sim *s, const Start *t)
{
	Start **x = start_slot(s, t->kind, t->inst), *o = x[x[0] == t];
	for (uint32_t i = 0; o && o != t && i < o->n; i++)
		if (o->prim[i].kind == PR_exchange && o->use[i]) return o->use[i];
	return NULL;
}

static void
add_role(Sim *s, Start *t, uint32_t prim, Part *part, uint32_t member, bool works)
{
	const StageInfo *x = &s->stage[t->stage];
	uint32_t proc = part->track->proc[member];
	if (proc < x->proc || proc - x->proc >= x->nprocs) return;
	Role *r = &t->role[(proc - x->proc) * t->n + prim];
	PUSH(s->tmp, r->part, r->n, r->cap,
	     ((struct RolePart){.part = part, .member = member, .works = works}));
	if (r->n > t->most) t->most = r->n;
}

static void
find_use(Sim *s, Start *t, uint32_t i)
{
	const Prim *q = &t->prim[i];
	Use *u = q->kind == PR_exchange ? other_use(s, t) : NULL;
	if (!u) {
		u = NEW(s->tmp, Use);
		*u = (Use){.what = what_of[t->kind], .inst = t->inst};
		u->ns = sim_price_prim(s, t->stage, q);
		if (q->kind == PR_exchange)
			use_exchange(s, u, q, t->peers[i]);
		else
			use_collective(s, u, t->stage, q);
	}
	t->use[i] = u;
	for (uint32_t k = 0; k < u->nparts; k++)
		for (uint32_t j = 0; j < u->part[k].track->n; j++)
			add_role(s, t, i, &u->part[k], j,
				 q->kind != PR_exchange || u->far ||
				     j + 1 == u->part[k].track->n);
}

/* requires: classes */
void
sim_tracks(Sim *s)
{
	find_nodes(s);
	find_atoms(s);
	for (uint32_t k = 0; k < s->m->plan.nstages; k++)
		s->stage[k].groups = NEW_N(s->tmp, struct Groups, s->comms.n);
	for (uint32_t i = 0; i < s->nstarts; i++) {
		Start *t = s->starts[i];
		uint32_t classes = s->stage[t->stage].nprocs;
		t->role = NEW_N(s->tmp, Role, (size_t)classes * t->n + 1);
		t->open = NEW_N(s->tmp, struct Open, classes);
		for (uint32_t k = 0; k < t->n; k++)
			find_use(s, t, k);
	}
}

/* ---- bodies of which collectives are a part ---- */

static void
join(uint32_t *root, uint32_t a, uint32_t b)
{
	while (root[a] != a)
		a = root[a];
	while (root[b] != b)
		b = root[b];
	root[a > b ? a : b] = a > b ? b : a;
}

/* Classes that meet in the collectives of a body begin it together. */
static void
find_gates(Sim *s, uint32_t stage, const Body *b, Gate **gate)
{
	StageInfo *x = &s->stage[stage];
	uint32_t *root = NEW_N(s->tmp, uint32_t, x->nprocs);
	for (uint32_t i = 0; i < x->nprocs; i++)
		root[i] = i;
	for (uint32_t o = 0; o < b->nops; o++) {
		Prim prim;
		if (!ir_op_prim(s->m, &s->comms, stage, b, &b->ops[o], &prim)) continue;
		const struct Groups *g = groups_of(s, stage, (uint32_t)prim.comm);
		for (uint32_t k = 0; k < g->n; k++)
			for (uint32_t i = 1; i < g->track[k]->n; i++)
				join(root, g->track[k]->proc[0] - x->proc,
				     g->track[k]->proc[i] - x->proc);
	}
	for (uint32_t i = 0; i < x->nprocs; i++) {
		uint32_t r = i;
		while (root[r] != r)
			r = root[r];
		if (r == i) {
			gate[i] = NEW(s->tmp, Gate);
			gate[i]->proc = NEW_N(s->tmp, uint32_t, x->nprocs);
		}
		gate[i] = gate[r];
		gate[i]->proc[gate[i]->n++] = x->proc + i;
	}
}

Gate *
sim_gate(Sim *s, const Proc *p, uint32_t body)
{
	StageInfo *x = &s->stage[p->stage];
	if (!x->gate) x->gate = NEW_N(s->tmp, Gate *, (size_t)s->m->nbodies * x->nprocs);
	Gate **g = &x->gate[(size_t)body * x->nprocs];
	if (!g[0]) {
		find_gates(s, p->stage, &s->m->bodies[body], g);
		for (uint32_t i = 0; i < x->nprocs; i++) {
			BodyPrice b = sim_price_body(s, &s->proc[x->proc + i], body);
			if (b.compute > g[i]->compute) g[i]->compute = b.compute;
			if (b.comm > g[i]->comm) g[i]->comm = b.comm;
		}
	}
	return g[p->class];
}
