/*
 * explain_facts.c - the numbers behind every explanation, read off a plan's lowered program and its simulated step.
 *
 * Input: LV_mem. The step of a stage is cut where an event begins or ends; each piece goes to what the rank computes, else to
 * the traffic it waits for, else it is bubble, so that the parts sum to the step exactly.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "passes/explain.h"

const char *const part_str[PT_COUNT] = {
    "forward",           "backward",      "weight gradients",
    "layer collectives", "gradient sync", "transfers",
    "tied weights",      "optimizer",     "bubble",
};
const char *const mem_kind_str[MK_COUNT] = {
    "parameters",
    "gradients",
    "optimizer moments",
    "constants",
    "activations in flight",
    "cotangents",
    "ZeRO buffers",
    "work",
    "communicators",
    "reserved",
};

/* ---- numbers for people ---- */

void
facts_ns(Buf *out, int64_t ns)
{
	static const char *const unit[] = {"ns", "us", "ms", "s"};
	double x = (double)ns;
	size_t k = 0;
	while ((x >= 999.5 || x <= -999.5) && k + 1 < COUNTOF(unit)) {
		x /= 1000;
		k++;
	}
	double size = x < 0 ? -x : x;
	buf_printf(out, "%.*f %s",
		   k == 0 || size >= 99.95 ? 0
		   : size >= 9.995         ? 1
					   : 2,
		   x, unit[k]);
}

void
facts_strategy(const Module *m, const Strategy *r, Buf *out)
{
	const Mesh *mesh = &m->plan.meshes[r->mesh];
	const char *gap = "";
	for (int k = 1; k < mesh->n; k++) {
		buf_printf(out, "%s%s %" PRIu32, gap, mesh_kind_str[mesh->ax[k].kind],
			   mesh->ax[k].degree);
		gap = ", ";
	}
	if (mesh->n <= 1) buf_puts(out, "one rank"), gap = ", ";
	if (r->zero) buf_printf(out, "%szero %u", gap, r->zero);
	if (r->recompute) buf_printf(out, ", recompute %s", recompute_str[r->recompute]);
	if (r->megatron_sp) buf_puts(out, ", Megatron-SP");
}

static uint32_t
inst_of(const Facts *f, uint32_t layer)
{
	return f->model == f->m ? f->layer[layer] : layer;
}

const char *
facts_type(const Facts *f, uint32_t layer)
{
	return name_str(f->m->names,
			f->model->types[f->model->insts[inst_of(f, layer)].type].name);
}

const char *
facts_layer(const Facts *f, uint32_t layer)
{
	return name_str(f->m->names, f->model->insts[inst_of(f, layer)].name);
}

bool
facts_same_type(const Facts *f, uint32_t a, uint32_t b)
{
	return f->model->insts[inst_of(f, a)].type == f->model->insts[inst_of(f, b)].type;
}

/* ---- time ---- */

static Part
part_of(SimWhat what)
{
	static const Part part[SW_COUNT] = {
	    [SW_F] = PT_forward,     [SW_B] = PT_backward,  [SW_W] = PT_weights,
	    [SW_update] = PT_update, [SW_tp] = PT_tp,       [SW_fwd] = PT_pp,
	    [SW_bwd] = PT_pp,        [SW_param] = PT_dp,    [SW_grad] = PT_dp,
	    [SW_borrow] = PT_tied,   [SW_norm] = PT_update, [SW_wait] = PT_bubble,
	};
	return part[what];
}

typedef struct Edge { /* an event begins (+1) or ends (-1) */
	int64_t at;
	uint8_t stream;
	Part part;
	int by;
} Edge;

static int
by_time(const void *a, const void *b)
{
	const Edge *x = a, *y = b;
	return (x->at > y->at) - (x->at < y->at);
}

/* The part that a moment belongs to, by how many events of each part are under way on each stream. */
static Part
part_now(uint32_t now[SS_COUNT][PT_COUNT])
{
	for (int s = 0; s < SS_COUNT; s++)
		for (int p = 0; p < PT_bubble; p++)
			if (now[s][p]) return (Part)p;
	return PT_bubble;
}

/* Events are sorted by stage and class: finds those of the class of every stage that ends last. */
static void
find_events(Facts *f)
{
	const SimResult *r = &f->sim;
	for (uint32_t i = 0, end; i < r->nevents; i = end) {
		const SimEvent *e = &r->event[i];
		StageFacts *s = &f->stage[e->stage];
		int64_t last = 0, before = -1;
		for (end = i; end < r->nevents && r->event[end].stage == e->stage &&
			      r->event[end].class == e->class;
		     end++)
			if (r->event[end].to > last) last = r->event[end].to;
		for (uint32_t k = 0; k < s->nevents; k++)
			if (s->event[k].to > before) before = s->event[k].to;
		if (last <= before) continue;
		s->event = e;
		s->nevents = end - i;
	}
}

static void
split_step(const SimResult *r, StageFacts *f, Arena *tmp)
{
	uint32_t n = 0, now[SS_COUNT][PT_COUNT] = {{0}};
	int64_t at = 0;
	Edge *edge = NEW_N(tmp, Edge, 2 * f->nevents + 1);
	for (uint32_t i = 0; i < f->nevents; i++) {
		const SimEvent *e = &f->event[i];
		if (e->what == SW_wait) continue;
		edge[n++] = (Edge){e->from, (uint8_t)e->stream, part_of(e->what), 1};
		edge[n++] = (Edge){e->to, (uint8_t)e->stream, part_of(e->what), -1};
	}
	qsort(edge, n, sizeof *edge, by_time);
	for (uint32_t i = 0; i < n; i++) {
		f->part[part_now(now)] += edge[i].at - at;
		at = edge[i].at;
		now[edge[i].stream][edge[i].part] += (uint32_t)edge[i].by;
	}
	f->part[PT_bubble] += r->step - at;
	f->busy = r->step - f->part[PT_bubble] - f->part[PT_pp];
}

/* ---- memory ---- */

/* Communicators that the ranks of a stage are in. */
static uint32_t
comms_of(const CommTable *t, uint32_t stage)
{
	uint32_t n = 1; /* the world */
	for (uint32_t e = 1; e < t->n; e++)
		n += t->group[e * t->nstages + stage].n > 0;
	return n;
}

static void
split_memory(const Facts *f, const CommTable *comms, uint32_t k)
{
	const Memory *x = &f->m->mem[k];
	StageFacts *s = &f->stage[k];
	int64_t *to = s->mem;
	to[MK_param] = x->sec_bytes[SEC_param];
	to[MK_grad] = x->sec[SEC_grad] < 0 ? 0 : x->sec_bytes[SEC_grad];
	if (x->sec[SEC_m] >= 0) to[MK_moments] = x->consts - x->sec[SEC_m];
	to[MK_slots] = x->cots - x->slots;
	to[MK_buffers] = 2 * (x->gather_bytes + x->dwork_bytes);
	to[MK_cots] = x->carry - x->cots - to[MK_buffers];
	to[MK_work] = x->arena_bytes - x->carry;
	to[MK_const] = x->slots - x->consts;
	if (f->m->plan.ranks > 1) to[MK_comms] = comms_of(comms, k) * s->device->comm_bytes;
	to[MK_reserved] = s->device->reserved;
	for (int i = 0; i < MK_COUNT; i++)
		s->rank_bytes += to[i];
	/* rounding up between sections */
	to[MK_work] += x->arena_bytes + to[MK_comms] + to[MK_reserved] - s->rank_bytes;
	s->rank_bytes = x->arena_bytes + to[MK_comms] + to[MK_reserved];
	s->limit = f->c->memory_bytes > 0 ? f->c->memory_bytes : s->device->memory;
}

/* ---- traffic ---- */

typedef struct Sent {
	const Module *m;
	const CommTable *comms;
	uint32_t stage;
	Arena *tmp;
	int64_t bytes;
} Sent;

static void
add_prim(Sent *s, const Prim *p, int64_t times)
{
	Piece *piece;
	if (p->kind != PR_exchange) {
		s->bytes += times * p->count * dtype_bytes(p->dt);
		return;
	}
	if (p->from.stage != s->stage) return;
	const uint32_t n =
	    ir_pieces(s->m, p, s->m->plan.stages[s->stage].rank, true, s->tmp, &piece);
	for (uint32_t k = 0; k < n; k++)
		if (piece[k].from != piece[k].to)
			s->bytes += times * piece[k].count * dtype_bytes(p->dt);
}

static void
add_action(Sent *s, const Action *a, uint32_t inst, int64_t times)
{
	const Module *m = s->m;
	Prim p[MAX_PRIMS];
	if (a->kind == ACT_body) {
		const Body *b = &m->bodies[m->types[m->insts[inst].type].body[a->bk]];
		for (uint32_t k = 0; k < b->nops; k++)
			if (ir_op_prim(m, s->comms, s->stage, b, &b->ops[k], p))
				add_prim(s, p, times);
	}
	if (a->kind == ACT_norm && ir_norm_prim(m, p)) add_prim(s, p, times);
	if (a->kind != ACT_start) return;
	const uint32_t n = ir_prims(m, s->comms, s->stage, a->comm, inst, p);
	for (uint32_t k = 0; k < n; k++)
		add_prim(s, &p[k], times);
}

/* What the first rank of a stage sends in a step: its table, loops multiplied. */
static int64_t
sent_by(const Module *m, const CommTable *comms, uint32_t stage)
{
	const Stage *at = &m->plan.stages[stage];
	const Action *act = m->actions + at->action;
	Sent s = {m, comms, stage, arena_new(), 0};
	int64_t mbs = 1;
	uint32_t turns = 1;
	bool in_layers = false;
	for (uint32_t k = 0; k < at->nactions; k++) {
		if (act[k].kind == ACT_mb) mbs = act[k].count;
		if (act[k].kind == ACT_layers) turns = act[k].count, in_layers = true;
		if (act[k].kind == ACT_end && !in_layers) mbs = 1;
		if (act[k].kind == ACT_end && in_layers) turns = 1, in_layers = false;
		for (uint32_t j = 0; j < turns; j++)
			add_action(
			    &s, &act[k],
			    (uint32_t)((int64_t)act[k].inst + (int64_t)j * act[k].stride), mbs);
		arena_reset(s.tmp);
	}
	arena_free(s.tmp);
	return s.bytes;
}

/* ---- the whole ---- */

/* Products of the model in a step, what is computed again left out. */
static double
model_flops(const Module *m)
{
	double sum = 0;
	for (uint32_t i = 0; i < m->ninsts; i++) {
		if (ir_is_reshard(m, i)) continue;
		const LayerType *t = &m->types[m->insts[i].type];
		const uint32_t stage = ir_stage_of(m, i);
		if (stage >= m->plan.nstages) continue;
		for (int k = BK_F; k <= BK_W; k++)
			sum += t->flops[k] * m->plan.microbatches * m->plan.stages[stage].ranks;
	}
	return sum;
}

static double
peak_flops(const Facts *f)
{
	const DType dt = f->c->precision ? f->c->precision : f->m->train.precision;
	double sum = 0;
	for (uint32_t k = 0; k < f->m->plan.nstages; k++) {
		const Device *d = f->stage[k].device;
		sum += (d->flops[dt] > 0 ? d->flops[dt] : d->flops[DT_f32]) *
		       f->m->plan.stages[k].ranks;
	}
	return sum;
}

static void
find_layers(Facts *f, Arena *a)
{
	f->layer = NEW_N(a, uint32_t, f->m->ninsts + 1);
	for (uint32_t i = 0; i < f->m->ninsts; i++)
		if (!ir_is_reshard(f->m, i)) f->layer[f->nlayers++] = i;
}

Facts *
facts_new(Ctx *c, const Module *m, const Module *model, const SearchLog *log, Arena *a)
{
	Facts *f = NEW(a, Facts);
	const Plan *p = &m->plan;
	Arena *tmp = arena_new();
	const Cluster *cluster = c->cluster;
	if (cluster && p->nnodes) cluster = cluster_order(cluster, a, p->nodes, p->nnodes);
	*f = (Facts){.c = c,
		     .m = m,
		     .model = model ? model : m,
		     .log = log,
		     .params = ir_param_count(m)};
	f->price = price_new(a, cluster, c->profile, p->ranks, p->threads);
	f->cluster = price_cluster(f->price);
	f->sim = simulate(c, m, f->price, &(SimOptions){.record = true}, a);
	f->stage = NEW_N(a, StageFacts, p->nstages);
	f->samples = m->batch.i ? ir_extent(m, m->batch) : 1;
	find_layers(f, a);
	const CommTable comms = ir_comms(m, a);
	find_events(f);
	for (uint32_t k = 0; k < p->nstages; k++) {
		StageFacts *s = &f->stage[k];
		s->device = cluster_device(f->cluster, p->stages[k].rank);
		split_step(&f->sim, s, tmp);
		arena_reset(tmp);
		split_memory(f, &comms, k);
		if (p->ranks > 1) s->sent = sent_by(m, &comms, k);
		if (s->busy > f->stage[f->slowest].busy) f->slowest = k;
		if (s->limit - s->rank_bytes <
		    f->stage[f->tightest].limit - f->stage[f->tightest].rank_bytes)
			f->tightest = k;
	}
	f->worth = (Worth){-1, -1, -1, false};
	f->flops = model_flops(m);
	f->peak = peak_flops(f);
	arena_free(tmp);
	return f;
}

/* ---- the log ---- */

const char *
facts_fate(const Facts *f, const LogBranch *b)
{
	static const char *const text[LF_COUNT] = {
	    [LF_bound] = "not better by its bound", [LF_no_mesh] = "no mesh",
	    [LF_memory] = "does not fit",           [LF_solved] = "solved",
	    [LF_simulated] = "simulated",           [LF_chosen] = "chosen",
	};
	/* the search may stop before all bounds are above what it has */
	if (b->fate == LF_bound && b->least < facts_chosen_time(f)) return "not looked into";
	return text[b->fate];
}

int64_t
facts_chosen_time(const Facts *f)
{
	const SearchLog *log = f->log;
	return log && log->chosen < log->nfinalists ? log->finalist[log->chosen].table_time
						    : -1;
}

static int64_t
known(const LogBranch *b)
{
	return b->time > 0 && b->time != INT64_MAX ? b->time : b->least;
}

static int
by_known(const void *x, const void *y)
{
	const LogBranch *a = *(const LogBranch *const *)x, *b = *(const LogBranch *const *)y;
	if ((a->fate == LF_chosen) != (b->fate == LF_chosen))
		return a->fate == LF_chosen ? -1 : 1;
	if (known(a) != known(b)) return known(a) < known(b) ? -1 : 1;
	return a < b ? -1 : a > b;
}

static bool
alike(const LogBranch *x, const LogBranch *y)
{
	return x->stages == y->stages && x->microbatches == y->microbatches &&
	       x->schedule == y->schedule && x->tp_outer == y->tp_outer && x->fate == y->fate &&
	       x->least == y->least && x->time == y->time &&
	       strcmp(x->why ? x->why : "", y->why ? y->why : "") == 0;
}

BranchFacts *
facts_branches(const Facts *f, Arena *a, uint32_t *n)
{
	const uint32_t all = f->log->nbranches;
	const LogBranch **b = NEW_N(a, const LogBranch *, all + 1);
	BranchFacts *x = NEW_N(a, BranchFacts, all + 1);
	*n = 0;
	for (uint32_t i = 0; i < all; i++)
		b[i] = &f->log->branch[i];
	qsort(b, all, sizeof(const LogBranch *), by_known);
	for (uint32_t i = 0; i < all; i++) {
		if (!*n || !alike(x[*n - 1].b, b[i])) x[(*n)++].b = b[i];
		x[*n - 1].n++;
	}
	return x;
}

void
facts_candidate(const LogCandidate *x, Buf *out)
{
	buf_printf(out, "dp %" PRIu32 ", tp %" PRIu32, x->dp, x->tp);
	if (x->tp_outer) buf_puts(out, " across");
	if (x->sp) buf_puts(out, ", Megatron-SP");
	if (x->zero) buf_printf(out, ", zero %u", x->zero);
	if (x->rc) buf_printf(out, ", recompute %s", recompute_str[x->rc]);
}

const LogCandidate *
facts_chosen(const Facts *f, uint32_t layer, const LogTable **table)
{
	if (!f->log || f->log->chosen >= f->log->nfinalists || layer >= f->log->nlayers)
		return NULL;
	const LogBranch *b = &f->log->branch[f->log->finalist[f->log->chosen].branch];
	if (!b->answer || !b->ntables) return NULL;
	uint32_t stage = 0;
	while (stage + 1 < b->stages && b->answer->first[stage + 1] <= layer)
		stage++;
	const LogTable *t = &b->table[b->table_of ? b->table_of[stage] : 0];
	if (table) *table = t;
	return b->answer->cand[layer] < t->ncand ? &t->cand[b->answer->cand[layer]] : NULL;
}

void
facts_binds(const Facts *f, Buf *out)
{
	const StageFacts *s = &f->stage[f->slowest];
	const int64_t *p = s->part;
	const int64_t compute = p[PT_forward] + p[PT_backward] + p[PT_weights] + p[PT_update],
		      traffic = p[PT_tp] + p[PT_dp] + p[PT_tied] + p[PT_pp];
	if (compute >= traffic && compute >= p[PT_bubble])
		buf_puts(out, "the arithmetic");
	else if (traffic >= p[PT_bubble])
		buf_puts(out, "the traffic");
	else
		buf_puts(out, "the idle time");
	if (f->m->plan.nstages > 1) buf_printf(out, " of stage %" PRIu32, f->slowest);
}
