/*
 * imported.c - a plan from layer costs that Hetu-Galvatron measured: fills the exact solver's table for every number of
 * stages and microbatches and every way to run embedding and head, and takes the best. No model, no lowering.
 *
 * How the files are read. R: ranks of a stage, t: tensor (tp) or Ulysses (sp) degree, d = R / t, b: samples of a
 * microbatch on a rank, e: bytes of a number (2; 4 with --precision=f32), s: sequence, h: --hidden.
 *
 *   forward    of a layer: measured ms x batch is a line from point to point; a t-th of b samples takes what b / t whole
 *              ones take. Below the smallest batch the first line goes on (never below the share), above the largest the
 *              share of that. Backward: twice. Recomputing: once more.
 *   tp         two all-reduces (or gather and scatter) of b s h e forward, two backward, two more recomputing
 *   sp         four all-to-alls of b s h e / t a rank forward, four backward, four more recomputing
 *   gradients  once a step, beside the last backward: an all-reduce of the parameters (e each; P counts 4) over what holds
 *              them alike: d, with sp d t. ZeRO 2: the same as scatter and gather. ZeRO 3: the scatter alone
 *   weights    ZeRO 3: gathered in front of forward and backward of each microbatch, beside computation
 *   beside     C of communication and X of computation together: max + (overlap_coe - 1) min; without overlap_coe C + X
 *   messages   b s h e / t there and back between stages
 *   moves      between neighbours of different t: what the larger degree's ranks hold, gathered, there and back
 *   ends       layertype_other is half embedding, half head, over their own t; each with one all-reduce of b s h e under tp
 *
 *   state      4 P / tp (16 bytes a parameter: weights 2, gradients 2, the rest 12; with f32 4, 4, 8), of which ZeRO 2 and 3
 *              keep a D-th; gradients stay whole until the last of several microbatches. Ends: model_states, likewise
 *   saved      activation at t x b; recomputed: `checkpoint` x b, / t where the sequence is split
 *   work       of a layer recomputed: its activation; of ZeRO 3: the weights of two layers
 */
#include "passes/imported.h"

#include <inttypes.h>
#include <math.h>

#include "passes/price.h"
#include "passes/solve.h"

#define MB        1048576.0
#define COUNTABLE 4e18 /* ns of a step, bytes of a stage */
enum { MAX_DEGREES = 32, MAX_HEADS = 4 * MAX_DEGREES, MAX_COUNTS = 256 };

typedef struct How { /* a layer, or embedding and head, runs */
	uint32_t t;
	bool sp, zero3, recompute;
	uint32_t group; /* one for each t */
} How;

/* A group of a stage: bits of mesh axes. */
typedef enum Over { OV_d = 1 << 1, OV_t = 1 << 2, OV_all = OV_d | OV_t } Over;

typedef struct Lying {
	uint32_t t, stage;
	Over over;
	Shape shape;
} Lying;

typedef struct Import {
	Ctx *c;
	const GalFiles *f;
	const ImportAsk *ask;
	Price *price;
	const Cluster *cluster;
	Arena *a; /* of one branch */
	uint32_t ranks, layers, seq;
	LayerTime *time; /* [ntypes + 1], embedding and head last */
	int64_t limit;
	double e, weights, gradients; /* bytes of a number; parts of a parameter's 16 bytes */
	/* a branch */
	uint32_t stages, mb, R;
	double samples; /* of a microbatch, on all ranks */
	How how[4 * MAX_DEGREES * 2];
	uint32_t nhow, degree[MAX_DEGREES], ndegrees;
	How head[MAX_HEADS];
	uint32_t nheads;
	bool beyond; /* what 63 bits count */
	Lying *shape;
	uint32_t nshapes, cshapes;
	ImportFound *best;
} Import;

static void GV_PRINTF(2, 3) explain(const Import *x, const char *fmt, ...)
{
	va_list ap;
	if (!x->c->explain) return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
}

/* ---- what was measured ---- */

/* ns of a forward of `samples` samples. */
static double
forward(const Import *x, uint32_t type, double samples)
{
	return layer_time(&x->time[type == GAL_OTHER ? x->ask->ntypes : type], samples);
}

static const GalMemory *
memory_of(const Import *x, uint32_t type)
{
	const GalMemory *found = NULL;
	for (uint32_t i = 0; i < x->f->nmemory; i++) {
		const GalMemory *m = &x->f->memory[i];
		if (m->type == type && m->seq == x->seq && (!found || (m->sp && !found->sp)))
			found = m;
	}
	return found;
}

static const GalOther *
other_of(const Import *x, GalWhere where)
{
	const GalOther *found = NULL;
	for (uint32_t i = 0; i < x->f->nother; i++) {
		const GalOther *m = &x->f->other[i];
		if (m->where == where && m->seq == x->seq && (!found || (m->sp && !found->sp)))
			found = m;
	}
	return found;
}

/* MB at a degree; negative: not measured. */
static double
at_degree(const GalDegrees *d, uint32_t degree)
{
	for (uint32_t i = 0; i < d->n; i++)
		if (d->of[i].degree == degree) return d->of[i].mb;
	return -1;
}

/* ---- communication ---- */

/* Where a group of stage k lies; remembered. */
static const Shape *
shape_of(Import *x, uint32_t t, Over over, uint32_t k)
{
	for (uint32_t i = 0; i < x->nshapes; i++) {
		const Lying *l = &x->shape[i];
		if (l->t == t && l->over == over && l->stage == k) return &l->shape;
	}
	Mesh mesh = {.n = 3};
	mesh.ax[0].kind = MX_mb;
	mesh.ax[0].degree = x->mb;
	mesh.ax[1].kind = MX_dp;
	mesh.ax[1].degree = x->R / t;
	mesh.ax[2].kind = MX_tp;
	mesh.ax[2].degree = t;
	Shape s = price_shape(x->price, &mesh, over, k * x->R);
	PUSH(x->a, x->shape, x->nshapes, x->cshapes, ((Lying){t, k, over, s}));
	return &x->shape[x->nshapes - 1].shape;
}

/* A collective of t consecutive ranks, of the d of each place among them, or of all of a stage: the worst stage's. */
static double
collective(Import *x, PrimKind kind, double bytes, uint32_t t, Over over)
{
	uint32_t gpus = x->cluster->run[0].devices;
	bool alike = x->cluster->nrun == 1 && (gpus % x->R == 0 || x->R % gpus == 0);
	int64_t most = 0;
	for (uint32_t k = 0; k < (alike ? 1 : x->stages); k++) {
		int64_t ns =
		    price_collective(x->price, kind, (int64_t)bytes, shape_of(x, t, over, k));
		if (ns > most) most = ns;
	}
	return (double)most;
}

/* Whether rank r of stage k - 1 and of stage k ever lie on different nodes. */
static bool
crosses(const Import *x, uint32_t k)
{
	for (uint32_t r = 0; k && r < x->R; r++)
		if (cluster_node(x->cluster, (k - 1) * x->R + r, NULL, NULL) !=
		    cluster_node(x->cluster, k * x->R + r, NULL, NULL))
			return true;
	return false;
}

/* From stage k - 1 to k, all its ranks at once. */
static double
message(const Import *x, double bytes, uint32_t k)
{
	uint32_t gpus = x->cluster->run[0].devices, beside = x->R < gpus ? x->R : gpus;
	int64_t most = 0;
	for (uint32_t r = 0; r < x->R; r++) {
		int64_t ns = price_message(x->price, (int64_t)fmin(bytes, COUNTABLE),
					   (k - 1) * x->R + r, k * x->R + r, beside);
		if (ns > most) most = ns;
	}
	return (double)most;
}

static double
beside(const Import *x, double compute, double comm)
{
	double k = x->cluster->device[x->cluster->run[0].device].slow_compute;
	if (k < 1) return compute + comm;
	return fmax(compute, comm) + (k - 1) * fmin(compute, comm);
}

/* Bytes that pass between layers, of `samples` samples. */
static double
between(const Import *x, double samples)
{
	return samples * x->seq * x->ask->hidden * x->e;
}

/* Samples of a microbatch that t ranks have together. */
static double
share(const Import *x, uint32_t t)
{
	return x->samples * t / x->R;
}

/* ---- costs ---- */

/* What is kept of `bytes` of state, D ranks holding the parameters alike. */
static double
kept(const Import *x, double bytes, bool zero3, uint32_t D)
{
	double whole = x->mb > 1 ? x->gradients : 0; /* gradients until they are summed */
	if (D == 1) return bytes;
	if (!zero3) whole += x->weights;
	return bytes * (whole + (1 - whole) / D);
}

typedef struct Parts {
	double time, once, state, saved, work;
} Parts;

/* Gradients, and under ZeRO 3 weights, of n numbers beside a forward and a backward of so many ns. */
static void
synchronise(Import *x, const How *h, double n, double fwd, double bwd, Parts *out)
{
	Over over = h->sp ? OV_all : OV_d;
	uint32_t D = h->sp ? x->R : x->R / h->t;
	double gather = 0;
	if (h->zero3 && D > 1) gather = collective(x, PR_all_gather, n * x->e, h->t, over);
	double back = beside(x, bwd, gather), sum = 0;
	if (D > 1)
		sum = collective(x, h->zero3 ? PR_reduce_scatter : PR_all_reduce, n * x->e,
				 h->t, over);
	out->time += beside(x, fwd, gather) + back;
	out->once += beside(x, bwd, gather + sum) - back;
}

static Parts
layer(Import *x, uint32_t type, const How *h)
{
	const GalMemory *m = memory_of(x, type);
	Parts p = {0};
	double b = share(x, h->t), fwd = forward(x, type, b / h->t),
	       times = h->recompute ? 3 : 2;
	double parameters = m->parameters * MB / 4 / (h->sp ? 1 : h->t);
	double act = at_degree(&m->activation, h->t) * MB * b;
	uint32_t D = h->sp ? x->R : x->R / h->t;
	synchronise(x, h, parameters, fwd, (h->recompute ? 3 : 2) * fwd, &p);
	if (h->t > 1 && h->sp)
		p.time +=
		    times * 4 * collective(x, PR_all_to_all, between(x, b) / h->t, h->t, OV_t);
	else if (h->t > 1)
		p.time += times * 2 * collective(x, PR_all_reduce, between(x, b), h->t, OV_t);
	p.state = kept(x, 16 * parameters, h->zero3, D);
	p.saved = act;
	if (h->recompute) {
		p.saved = m->checkpoint * MB * b / (h->sp || m->sp ? h->t : 1);
		p.work = act;
	}
	if (h->zero3 && D > 1) p.work += 2 * parameters * x->e;
	return p;
}

/* Changing from ranks in groups of t to groups of u, there and back. */
static double
move(Import *x, uint32_t t, uint32_t u)
{
	uint32_t g = t, v = u;
	while (v) {
		uint32_t rest = g % v;
		g = v;
		v = rest;
	}
	uint32_t together = t / g * u;
	if (t == u) return 0;
	return 2 * collective(x, PR_all_gather, between(x, share(x, together)), together, OV_t);
}

/* Embedding (first), head (last), or both, beside a layer that runs as `l`. */
static Parts
ends(Import *x, const How *h, bool first, bool last, uint32_t t)
{
	Parts p = {0};
	double b = share(x, h->t);
	double fwd = forward(x, GAL_OTHER, b / h->t) / 2 * (first + last);
	bool whole = x->stages == 1;
	const GalOther *m = other_of(x, whole ? GAL_off : first ? GAL_first : GAL_last);
	double state = at_degree(&m->states, h->sp ? 1 : h->t) * MB,
	       act = at_degree(&m->activation, h->t) * MB * b;
	uint32_t D = h->sp ? x->R : x->R / h->t;
	if (whole && !first) state = act = 0; /* the first layer has it all */
	synchronise(x, h, state / 16, fwd, 2 * fwd, &p);
	if (h->t > 1 && !h->sp)
		p.time +=
		    (first + last) * collective(x, PR_all_reduce, between(x, b), h->t, OV_t);
	p.time += (first + last) * move(x, h->t, t);
	p.state = kept(x, state, h->zero3, D);
	p.saved = act;
	if (h->zero3 && D > 1) p.work = state / 16 * x->e;
	return p;
}

/* ---- what there is to choose from ---- */

static bool
measured_all_to_all(const Import *x, uint32_t t)
{
	for (uint32_t i = 0; i < x->cluster->ncurve; i++)
		if (x->cluster->curve[i].kind == PR_all_to_all &&
		    x->cluster->curve[i].ranks == t)
			return true;
	return false;
}

/* Whole samples on every rank; a degree that was asked for. */
static bool
usable(const Import *x, uint32_t t)
{
	double b = share(x, t);
	return x->R % t == 0 && b == floor(b) && (!x->c->max_tp || t <= x->c->max_tp);
}

/* Whether memory was measured at this degree for all layer types. */
static bool
layers_have(const Import *x, uint32_t t, bool recompute)
{
	for (uint32_t k = 0; k < x->ask->ntypes; k++) {
		const GalMemory *m = memory_of(x, k);
		if (at_degree(&m->activation, t) < 0 || (recompute && m->checkpoint <= 0))
			return false;
	}
	return true;
}

static bool
ends_have(const Import *x, uint32_t t, bool sp)
{
	for (int w = x->stages == 1 ? GAL_off : GAL_first;
	     w <= (x->stages == 1 ? GAL_off : GAL_last); w++) {
		const GalOther *m = other_of(x, (GalWhere)w);
		if (at_degree(&m->states, sp ? 1 : t) < 0 || at_degree(&m->activation, t) < 0)
			return false;
	}
	return true;
}

static bool
wants_recompute(const Import *x, bool recompute)
{
	return !x->c->recompute_given || recompute == (x->c->recompute == RC_full);
}

/* Degrees, candidates of layers, ways to run the ends; all of the branch. */
static void
choices(Import *x)
{
	x->nhow = x->ndegrees = x->nheads = 0;
	for (uint32_t t = 1; t <= x->R && x->ndegrees < MAX_DEGREES; t++) {
		if (!usable(x, t)) continue;
		bool layers = layers_have(x, t, false);
		for (int sp = 0; sp < (t > 1 && measured_all_to_all(x, t) ? 2 : 1); sp++)
			for (int z = 0; z < ((sp ? x->R : x->R / t) > 1 ? 2 : 1); z++) {
				How h = {.t = t, .sp = sp, .zero3 = z, .group = x->ndegrees};
				if (ends_have(x, t, sp)) x->head[x->nheads++] = h;
				for (int r = 0; layers && r < 2; r++) {
					h.recompute = r;
					if (wants_recompute(x, r) &&
					    (!r || layers_have(x, t, true)))
						x->how[x->nhow++] = h;
				}
			}
		if (layers) x->degree[x->ndegrees++] = t;
	}
}

/* ---- the table ---- */

/* Layers of one class cost the same: a type, and whether embedding or head is with it. */
static uint32_t
class_at(const Import *x, uint32_t i, bool *first, bool *last, uint32_t *type)
{
	uint32_t end = 0;
	*first = i == 0;
	*last = i + 1 == x->layers;
	for (*type = 0; (end += x->ask->layers[*type]) <= i; ++*type)
		continue;
	return *type * 4 + *first + 2u * *last;
}

static SolveCost
solve_cost(Import *x, const Parts *p, uint32_t group, double enter)
{
	double times = (double)x->layers * ((double)x->mb + 1), bytes = p->state + p->work;
	if ((p->time + p->once + enter) * times > COUNTABLE ||
	    (bytes + p->saved * x->mb) * x->layers > COUNTABLE) {
		x->beyond = true;
		return (SolveCost){.group = group};
	}
	return (SolveCost){.group = group,
			   .time = (int64_t)nearbyint(p->time),
			   .once = (int64_t)nearbyint(p->once),
			   .state = (int64_t)ceil(p->state),
			   .saved = (int64_t)ceil(p->saved),
			   .work = (int64_t)ceil(p->work),
			   .enter = (int64_t)nearbyint(enter)};
}

/* Costs of every class under every candidate, before the ends; of a stage that is entered at boundary `k`. */
static SolveCost *
class_costs(Import *x, const How *head, uint32_t i, uint32_t k)
{
	bool first, last;
	uint32_t type;
	class_at(x, i, &first, &last, &type);
	SolveCost *out = NEW_N(x->a, SolveCost, x->nhow);
	for (uint32_t h = 0; h < x->nhow; h++) {
		Parts p = layer(x, type, &x->how[h]);
		double bytes = between(x, share(x, x->how[h].t)) / x->how[h].t;
		if (first || last) {
			Parts e = ends(x, head, first, last, x->how[h].t);
			p.time += e.time;
			p.once += e.once;
			p.state += e.state;
			p.saved += e.saved;
			p.work = fmax(p.work, e.work);
		}
		out[h] = solve_cost(x, &p, x->how[h].group, k ? 2 * message(x, bytes, k) : 0);
	}
	return out;
}

/* A table whose stages are entered through boundary k; `from`: one of another boundary, whose moves are the same. */
static SolveTable *
table(Import *x, const How *head, uint32_t k, const SolveTable *from)
{
	uint32_t n = x->ask->ntypes * 4, g = x->ndegrees;
	SolveTable *t = NEW(x->a, SolveTable);
	uint32_t *ncand = NEW_N(x->a, uint32_t, n);
	SolveCost **cost = NEW_N(x->a, SolveCost *, n);
	const SolveMove **moves = NEW_N(x->a, const SolveMove *, n);
	bool first, last;
	uint32_t type;
	for (uint32_t i = 0; i < x->layers; i++) {
		uint32_t class = class_at(x, i, &first, &last, &type);
		if (cost[class]) continue;
		cost[class] = class_costs(x, head, i, k);
		ncand[class] = x->nhow;
	}
	SolveMove *m = NEW_N(x->a, SolveMove, g * g);
	for (uint32_t i = 0; !from && i < g * g; i++)
		m[i].time = (int64_t)nearbyint(
		    fmin(move(x, x->degree[i / g], x->degree[i % g]), COUNTABLE));
	for (uint32_t i = 0; !from && i < g * g; i++)
		if ((double)m[i].time * x->layers * ((double)x->mb + 1) > COUNTABLE)
			x->beyond = true;
	for (uint32_t i = 0; i < n; i++)
		moves[i] = from ? from->move[0] : m;
	*t = (SolveTable){.ngroups = g, .ncand = ncand, .cost = cost, .move = moves};
	return t;
}

/* ---- branches ---- */

static uint32_t
slots(const Import *x, uint32_t k)
{
	uint32_t deep = x->stages - k;
	if (x->c->schedule_given && x->c->schedule == SCH_gpipe) return x->mb;
	return deep < x->mb ? deep : x->mb;
}

static void
keep(Import *x, const How *head, const SolveAnswer *s)
{
	ImportFound *f = x->best;
	Arena *a = x->c->perm;
	GalPlan *p = &f->plan;
	*p = (GalPlan){.stages = x->stages,
		       .world = x->ranks,
		       .chunks = x->mb,
		       .batch = x->ask->batch,
		       .nlayers = x->layers,
		       .schedule = x->c->schedule_given ? x->c->schedule : SCH_1f1b,
		       .zero2 = true,
		       .vtp = head->t,
		       .vcp = 1,
		       .vsp = head->sp,
		       .vzero3 = head->zero3};
	p->layer = NEW_N(a, GalLayer, x->layers);
	p->division = NEW_N(a, uint32_t, x->stages);
	for (uint32_t i = 0; i < x->layers; i++) {
		const How *h = &x->how[s->cand[i]];
		p->layer[i] = (GalLayer){.tp = h->t,
					 .cp = 1,
					 .consecutive = true,
					 .zero3 = h->zero3,
					 .ulysses = h->sp,
					 .checkpoint = h->recompute};
	}
	for (uint32_t k = 0; k < x->stages; k++)
		p->division[k] =
		    (k + 1 < x->stages ? s->first[k + 1] : x->layers) - s->first[k];
	f->time = s->time;
	f->least = s->least;
	f->stage_time = arena_dup(a, s->stage_time, sizeof *s->stage_time * x->stages);
	f->stage_once = arena_dup(a, s->stage_once, sizeof *s->stage_once * x->stages);
	f->stage_bytes = arena_dup(a, s->stage_bytes, sizeof *s->stage_bytes * x->stages);
}

/* The best plan of these stages and microbatches with embedding and head run like this; whether it is the best so far. */
static bool
solve_head(Import *x, const How *head)
{
	SolveProblem p = {.nlayers = x->layers,
			  .nclasses = x->ask->ntypes * 4,
			  .stages = x->stages,
			  .microbatches = x->mb,
			  .bound = x->best->time};
	uint32_t *class_of = NEW_N(x->a, uint32_t, x->layers),
		 *in = NEW_N(x->a, uint32_t, x->stages);
	const SolveTable **of = NEW_N(x->a, const SolveTable *, x->stages);
	int64_t *limit = NEW_N(x->a, int64_t, x->stages);
	const SolveTable *of_kind[2] = {NULL, NULL}; /* entered within a node, from another */
	bool first, last;
	uint32_t type;
	for (uint32_t i = 0; i < x->layers; i++)
		class_of[i] = class_at(x, i, &first, &last, &type);
	for (uint32_t k = 0; k < x->stages; k++) {
		uint32_t at = k || x->stages == 1 ? k : 1; /* nobody enters stage 0 */
		int kind = crosses(x, at);
		if (!of_kind[kind]) of_kind[kind] = table(x, head, at, of_kind[!kind]);
		of[k] = of_kind[kind];
		in[k] = slots(x, k);
		limit[k] = x->limit;
	}
	p.class_of = class_of;
	p.table = of;
	p.slots = in;
	p.limit = limit;
	SolveAnswer s;
	if (x->beyond) return false;
	x->best->problems++;
	if (!solve(x->a, &p, &s) || s.time >= x->best->time) return false;
	keep(x, head, &s);
	return true;
}

static void
branch(Import *x, uint32_t stages, uint32_t mb)
{
	x->stages = stages;
	x->mb = mb;
	x->R = x->ranks / stages;
	x->samples = (double)x->ask->batch / mb;
	x->a = arena_new();
	x->shape = NULL;
	x->nshapes = x->cshapes = 0;
	x->beyond = false;
	choices(x);
	bool better = false;
	for (uint32_t h = 0; x->nhow && h < x->nheads; h++)
		better |= solve_head(x, &x->head[h]);
	explain(x, "plan: %" PRIu32 " stage%s, %" PRIu32 " microbatch%s: ", stages,
		stages == 1 ? "" : "s", mb, mb == 1 ? "" : "es");
	if (!x->nhow || !x->nheads)
		explain(x, "cut: no degree that was measured gives every rank whole samples\n");
	else if (x->beyond)
		explain(x, "cut: takes longer, or more, than is counted here\n");
	else if (better)
		explain(x, "%.3f ms, the best so far\n", (double)x->best->time * 1e-6);
	else
		explain(x, "cut: nothing that fits takes less than %.3f ms\n",
			x->best->time == INT64_MAX ? INFINITY : (double)x->best->time * 1e-6);
	arena_free(x->a);
}

/* ---- what was asked ---- */

static bool
need(const Import *x, bool there, const char *what, const char *where)
{
	if (there) return true;
	diag_error(x->c->diag, (Loc){0}, "%s at sequence %" PRIu32 "; %s", what, x->seq, where);
	return false;
}

static bool
check_measured(Import *x)
{
	bool ok = true;
	x->time = NEW_N(x->c->perm, LayerTime, x->ask->ntypes + 1);
	for (uint32_t k = 0; k < x->ask->ntypes; k++) {
		Buf b;
		buf_init(&b, x->c->tmp);
		buf_printf(&b, "layer type %" PRIu32 " has no time", k);
		ok &= need(x, gal_layer_time(x->f, k, x->seq, &x->time[k]), b.s,
			   "computation_profiling_* has layertype_N_bszB_seqS");
		buf_init(&b, x->c->tmp);
		buf_printf(&b, "layer type %" PRIu32 " has no memory", k);
		ok &= need(x, memory_of(x, k), b.s, "memory_profiling_* has layertype_N_sp");
	}
	ok &= need(x, gal_layer_time(x->f, GAL_OTHER, x->seq, &x->time[x->ask->ntypes]),
		   "embedding and head have no time",
		   "computation_profiling_* has layertype_other_bszB_seqS");
	ok &= need(x, other_of(x, GAL_off) || (other_of(x, GAL_first) && other_of(x, GAL_last)),
		   "embedding and head have no memory",
		   "memory_profiling_* has other_memory_pp_off_sp");
	if (x->ranks > 1 && !x->ask->hidden) {
		diag_error(x->c->diag, (Loc){0},
			   "how wide is what passes between layers? these files do not say; "
			   "--hidden does");
		ok = false;
	}
	return ok;
}

static bool
find_limit(Import *x)
{
	const Device *d = &x->cluster->device[x->cluster->run[0].device];
	x->limit = x->c->memory_bytes > 0 ? x->c->memory_bytes : d->memory - d->reserved;
	if (x->limit > 0) return true;
	diag_error(x->c->diag, (Loc){0},
		   "how much memory has a device? these files do not say; --memory or --device "
		   "does");
	return false;
}

static bool
may_have_stages(const Import *x, uint32_t stages)
{
	if (x->ranks % stages || stages > x->layers) return false;
	return stages == 1 ? other_of(x, GAL_off) != NULL
			   : other_of(x, GAL_first) && other_of(x, GAL_last);
}

/* All numbers of stages and microbatches. */
static bool
branches(Import *x)
{
	int64_t batch = x->ask->batch;
	for (uint32_t stages = 1; stages <= x->ranks && stages <= x->layers; stages++) {
		if (!may_have_stages(x, stages)) continue;
		for (int64_t mb = 1, n = 0; mb <= batch && n < MAX_COUNTS; mb++) {
			if (batch % mb || (x->c->microbatches && mb != x->c->microbatches))
				continue;
			branch(x, stages, (uint32_t)mb);
			n++;
		}
	}
	return x->best->time < INT64_MAX;
}

/* Whether anything fits so much. */
static bool
fits(const Import *x, int64_t limit)
{
	Import y = *x;
	Ctx quiet = *x->c;
	ImportFound found = {.time = INT64_MAX};
	quiet.explain = false;
	y.c = &quiet;
	y.limit = limit;
	y.best = &found;
	return branches(&y);
}

/* Bytes that would do, to a hundredth; 0: none would. */
static int64_t
enough(const Import *x)
{
	int64_t no = x->limit, yes = no;
	while (yes < INT64_MAX / 4 && (yes == no || !fits(x, yes)))
		no = yes, yes *= 2;
	if (yes >= INT64_MAX / 4) return 0;
	while (yes - no > yes / 100) {
		int64_t mid = no + (yes - no) / 2;
		if (fits(x, mid))
			yes = mid;
		else
			no = mid;
	}
	return yes;
}

static bool
refuse(const Import *x)
{
	Buf have, need;
	int64_t bytes = enough(x);
	buf_init(&have, x->c->tmp);
	buf_init(&need, x->c->tmp);
	buf_bytes(&have, x->limit);
	buf_bytes(&need, bytes);
	diag_error(x->c->diag, (Loc){0},
		   "no plan for %" PRIu32 " rank%s and a batch of %" PRId64
		   " fits %s a device; %s%s (--explain says what was tried)",
		   x->ranks, x->ranks == 1 ? "" : "s", x->ask->batch, have.s,
		   bytes ? need.s : "no memory would be enough",
		   bytes ? " would be enough" : "");
	return false;
}

static bool
check_ranks(const Import *x)
{
	if (x->ranks <= x->cluster->devices) return true;
	diag_error(x->c->diag, (Loc){0},
		   "--ranks %" PRIu32 " on a machine of %" PRIu32 " devices", x->ranks,
		   x->cluster->devices);
	return false;
}

bool
imported_plan(Ctx *c, const GalFiles *f, const Cluster *cluster, const ImportAsk *ask,
	      ImportFound *out)
{
	bool f32 = c->precision == DT_f32;
	Import x = {.c = c,
		    .f = f,
		    .ask = ask,
		    .cluster = cluster,
		    .ranks = c->ranks ? c->ranks : cluster->devices,
		    .e = f32 ? 4 : 2,
		    .weights = f32 ? 0.25 : 0.125,
		    .gradients = f32 ? 0.25 : 0.125,
		    .best = out};
	*out = (ImportFound){.time = INT64_MAX};
	for (uint32_t k = 0; k < ask->ntypes; k++)
		x.layers += ask->layers[k];
	if (!gal_seq(f, ask->seq, &x.seq) || !check_measured(&x) || !check_ranks(&x) ||
	    !find_limit(&x))
		return false;
	x.price = price_new(c->perm, cluster, NULL, x.ranks, 1);
	out->limit = x.limit;
	return branches(&x) || refuse(&x);
}

/* ---- for people ---- */

static void
print_how(const GalPlan *p, const GalLayer *l, Buf *out)
{
	uint32_t d = p->world / p->stages / l->tp, D = l->ulysses ? d * l->tp : d;
	if (d > 1) buf_printf(out, " dp:%" PRIu32, d);
	if (l->tp > 1) buf_printf(out, " %s:%" PRIu32, l->ulysses ? "sp" : "tp", l->tp);
	if (d == 1 && l->tp == 1) buf_puts(out, " one rank");
	if (D > 1) buf_printf(out, " zero %d", l->zero3 ? 3 : p->zero2 ? 2 : 0);
	if (l->checkpoint) buf_puts(out, " recompute");
	buf_putc(out, '\n');
}

static bool
alike(const GalLayer *a, const GalLayer *b)
{
	return a->tp == b->tp && a->zero3 == b->zero3 && a->ulysses == b->ulysses &&
	       a->checkpoint == b->checkpoint;
}

void
imported_summary(const ImportFound *f, Buf *out)
{
	const GalPlan *p = &f->plan;
	const GalLayer head = {.tp = p->vtp, .zero3 = p->vzero3, .ulysses = p->vsp};
	buf_printf(
	    out,
	    "step    %.3f ms, %.2f samples/s (no plan of these stages and microbatches takes "
	    "less than %.3f ms)\n",
	    (double)f->time * 1e-6, (double)p->batch / (double)f->time * 1e9,
	    (double)f->least * 1e-6);
	buf_printf(out,
		   "plan    %" PRIu32 " rank%s, %" PRIu32 " stage%s, %" PRIu32
		   " microbatch%s of %g samples, %s\n",
		   p->world, p->world == 1 ? "" : "s", p->stages, p->stages == 1 ? "" : "s",
		   p->chunks, p->chunks == 1 ? "" : "es", (double)p->batch / p->chunks,
		   schedule_str[p->schedule]);
	for (uint32_t i = 0, n; i < p->nlayers; i += n) {
		for (n = 1; i + n < p->nlayers && alike(&p->layer[i], &p->layer[i + n]); n++)
			continue;
		buf_printf(out, "layers  %" PRIu32 "-%" PRIu32 ":", i, i + n - 1);
		print_how(p, &p->layer[i], out);
	}
	buf_puts(out, "ends    embedding, head:");
	print_how(p, &head, out);
	for (uint32_t k = 0, at = 0; k < p->stages; at += p->division[k++]) {
		buf_printf(out,
			   "stage   %" PRIu32 ": layers %" PRIu32 "-%" PRIu32
			   ", %.3f ms a microbatch, %.3f ms once, ",
			   k, at, at + p->division[k] - 1, (double)f->stage_time[k] * 1e-6,
			   (double)f->stage_once[k] * 1e-6);
		buf_bytes(out, f->stage_bytes[k]);
		buf_puts(out, " of ");
		buf_bytes(out, f->limit);
		buf_putc(out, '\n');
	}
}
