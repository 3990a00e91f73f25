/*
 * explain_if.c - what a step would take with one thing changed: a layer's strategy, the memory, the network.
 *
 *   --explain=block.3                            every other value of one of its choices
 *   --explain=block.3:tp=4,zero=3,recompute=full this strategy
 *
 * A layer is named as the model names it, or by its number. The plan with that layer changed and all else as it is is lowered and
 * simulated like any other. A GiB or a GB/s more: the plan is made anew for that machine, and its step simulated.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "passes/explain.h"

enum { ANEW = 256 }; /* ranks up to which a plan is made anew three times without being asked */

/* ---- another machine ---- */

/* What the best plan for a context takes; -1: none fits. */
static int64_t
planned(const Facts *f, const Ctx *with)
{
	Arena *a = arena_new();
	Ctx c = *with;
	DiffStep x = {0};
	c.perm = a;
	c.tmp = arena_new();
	c.diag = diag_new(a, c.names, NULL);
	c.explain = false;
	c.ranks = f->m->plan.ranks;
	c.ranks_auto = false;
	Module *m = ir_clone(f->model, a);
	m->level = LV_train;
	m->plan = (Plan){.forward_only = f->model->plan.forward_only};
	const bool ok = pass_plan(&c, m) && diff_measure(&c, m, &m->plan, a, &x) && x.over <= 0;
	arena_free(c.tmp);
	arena_free(a);
	return ok ? x.time : -1;
}

/* What it saves to have another context: the plan as it is, or made anew if it was searched for. */
static int64_t
saves(const Facts *f, const Ctx *c, bool again)
{
	DiffStep x = {0};
	Arena *a = arena_new();
	int64_t best =
	    diff_measure((Ctx *)c, f->model, &f->model->plan, a, &x) ? x.time : f->sim.step;
	const int64_t anew = again ? planned(f, c) : -1;
	arena_free(a);
	if (anew >= 0 && anew < best) best = anew;
	return best < f->sim.step ? f->sim.step - best : 0;
}

/* The machine with so much more of everything. */
static const Cluster *
faster(const Facts *f, Arena *a, double near, double far)
{
	const Cluster *from = f->c->cluster ? f->c->cluster : f->cluster;
	Cluster *x = arena_dup(a, from, sizeof *from);
	x->run = arena_dup(a, from->run, sizeof *from->run * from->nrun);
	for (uint32_t r = 0; r < x->nrun; r++) {
		x->run[r].near.bytes += near;
		if (x->run[r].far.bytes > 0) x->run[r].far.bytes += far;
	}
	return x;
}

Worth
explain_worth(const Facts *f)
{
	Worth w = {-1, -1, -1, !f->c->plan_path && f->m->plan.ranks <= ANEW};
	Ctx c = *f->c;
	Arena *a = arena_new();
	if (f->model == f->m) return w; /* no plan to go on from */
	if (w.anew) {
		c.memory_bytes = f->stage[f->tightest].limit + ((int64_t)1 << 30);
		w.memory = saves(f, &c, w.anew);
		c.memory_bytes = f->c->memory_bytes;
	}
	/* measured curves say nothing of links that are faster */
	if (!f->cluster->ncurve && f->m->plan.ranks > 1) {
		c.cluster = faster(f, a, 1e9, 0);
		w.near = saves(f, &c, w.anew);
		c.cluster = faster(f, a, 0, 1e9);
		if (f->cluster->nodes > 1) w.far = saves(f, &c, w.anew);
	}
	arena_free(a);
	return w;
}

/* ---- a layer ---- */

/* "block.3" or "4"; nlayers: there is none. */
static uint32_t
find_layer(const Facts *f, const char *s, size_t len)
{
	for (uint32_t l = 0; l < f->nlayers; l++) {
		const char *name = facts_layer(f, l);
		if (strlen(name) == len && memcmp(name, s, len) == 0) return l;
	}
	uint64_t l = 0;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9' || l > f->nlayers) return f->nlayers;
		l = 10 * l + (uint64_t)(s[i] - '0');
	}
	return len && l < f->nlayers ? (uint32_t)l : f->nlayers;
}

typedef struct Wanted {
	LogCandidate c; /* group is not used */
	bool dp, tp;    /* said */
} Wanted;

/* One of "dp=4", "tp=2", "zero=3", "recompute=full", "sp", "sp=0". */
static bool
read_key(const char *s, size_t len, Wanted *w)
{
	const char *eq = memchr(s, '=', len), *v = eq ? eq + 1 : s + len;
	const size_t k = (size_t)(eq ? eq - s : (ptrdiff_t)len), n = len - (size_t)(v - s);
	const bool number = n > 0 && n < 9 && strspn(v, "0123456789") >= n;
	const uint32_t x = number ? (uint32_t)strtoul(v, NULL, 10) : 0;
	if (k == 2 && memcmp(s, "sp", 2) == 0 && (!eq || (number && x <= 1))) {
		w->c.sp = !eq || x;
		return true;
	}
	if (k == 9 && memcmp(s, "recompute", 9) == 0)
		for (int i = 0; i < 3; i++)
			if (strlen(recompute_str[i]) == n &&
			    memcmp(recompute_str[i], v, n) == 0) {
				w->c.rc = (Recompute)i;
				return true;
			}
	if (!number) return false;
	if (k == 4 && memcmp(s, "zero", 4) == 0 && x <= 3) {
		w->c.zero = (uint8_t)x;
		return true;
	}
	if (!x || k != 2 || (memcmp(s, "dp", 2) != 0 && memcmp(s, "tp", 2) != 0)) return false;
	if (s[0] == 'd')
		w->c.dp = x, w->dp = true;
	else
		w->c.tp = x, w->tp = true;
	return true;
}

/* What is not said stays as it is; of dp and tp, the other one follows, so that all ranks of the stage are used. */
static bool
read_wanted(const Facts *f, const char *s, uint32_t ranks, Wanted *w)
{
	for (const char *end; *s; s = *end ? end + 1 : end) {
		end = s + strcspn(s, ",");
		if (read_key(s, (size_t)(end - s), w)) continue;
		diag_error(f->c->diag, (Loc){0},
			   "--explain: '%.*s' is no dp=N, tp=N, zero=0..3, "
			   "recompute=none|selective|full or sp=0|1",
			   (int)(end - s), s);
		return false;
	}
	if (w->dp && !w->tp && ranks % w->c.dp == 0) w->c.tp = ranks / w->c.dp;
	if (w->tp && !w->dp && ranks % w->c.tp == 0) w->c.dp = ranks / w->c.tp;
	if (w->c.tp == 1 && w->tp) w->c.sp = false;
	return true;
}

static LogCandidate
choice_of(const Facts *f, uint32_t layer)
{
	const Strategy *r = ir_run_of(f->model, layer);
	const Mesh *mesh = &f->model->plan.meshes[r->mesh];
	LogCandidate x = {
	    .dp = 1, .tp = 1, .sp = r->megatron_sp, .zero = r->zero, .rc = r->recompute};
	for (int k = 1; k < mesh->n; k++) {
		if (mesh->ax[k].kind == MX_dp) x.dp *= mesh->ax[k].degree;
		if (mesh->ax[k].kind == MX_tp) x.tp *= mesh->ax[k].degree;
	}
	return x;
}

static bool
same_choice(const LogCandidate *x, const LogCandidate *y)
{
	return x->dp == y->dp && x->tp == y->tp && x->sp == y->sp && x->zero == y->zero &&
	       x->rc == y->rc;
}

/* The plan's mesh where the degrees are the layer's own, so that the order of its axes stays; else dp outside, tp inside. */
static uint32_t
mesh_for(const Facts *f, Plan *p, const Strategy *r, const LogCandidate *now,
	 const LogCandidate *x)
{
	if (x->dp == now->dp && x->tp == now->tp) return r->mesh;
	Mesh mesh = {.name = name_fmt(f->m->names, "m%" PRIu32, p->nmeshes),
		     .n = 1,
		     .ax = {{MX_mb, 0, p->microbatches}}};
	if (x->dp > 1) mesh.ax[mesh.n].kind = MX_dp, mesh.ax[mesh.n++].degree = x->dp;
	if (x->tp > 1) mesh.ax[mesh.n].kind = MX_tp, mesh.ax[mesh.n++].degree = x->tp;
	p->meshes[p->nmeshes] = mesh;
	return p->nmeshes++;
}

/* The plan, but for one layer. */
static Plan
plan_with(const Facts *f, uint32_t layer, const LogCandidate *now, const LogCandidate *x,
	  Arena *a)
{
	Plan p = f->model->plan;
	const Mesh *meshes = p.meshes;
	const Strategy *runs = p.runs;
	const uint32_t n = p.nruns;
	p.meshes = NEW_N(a, Mesh, p.nmeshes + 1);
	memcpy(p.meshes, meshes, sizeof *meshes * p.nmeshes);
	p.runs = NEW_N(a, Strategy, n + 2);
	p.nruns = 0;
	for (uint32_t i = 0; i < n; i++) {
		Strategy r = runs[i], one = r;
		if (layer < r.first || layer - r.first >= r.count) {
			p.runs[p.nruns++] = r;
			continue;
		}
		one.first = layer;
		one.count = 1;
		one.mesh = mesh_for(f, &p, &r, now, x);
		one.zero = x->zero;
		one.recompute = x->rc;
		one.megatron_sp = x->sp;
		if (layer > r.first)
			p.runs[p.nruns] = r, p.runs[p.nruns++].count = layer - r.first;
		p.runs[p.nruns++] = one;
		r.count -= layer + 1 - r.first;
		r.first = layer + 1;
		if (r.count) p.runs[p.nruns++] = r;
	}
	return p;
}

/* "+1.20 ms a step, +3.00 MiB" of a rank of its stage, or what is violated. */
static void
put_instead(const Facts *f, uint32_t layer, const LogCandidate *now, const LogCandidate *x,
	    Buf *out)
{
	Arena *a = arena_new();
	DiffStep s = {0};
	Buf words;
	const Plan p = plan_with(f, layer, now, x, a);
	buf_init(&words, a);
	facts_candidate(x, &words);
	buf_printf(out, "        %-46s ", words.s);
	if (!diff_measure(f->c, f->model, &p, a, &s)) {
		buf_printf(out, "cannot be: %s\n", s.why);
	} else {
		const uint32_t stage = ir_stage_of(f->model, layer);
		const int64_t time = s.time - f->sim.step,
			      bytes = s.rank_bytes[stage] - f->stage[stage].rank_bytes;
		if (time > 0) buf_putc(out, '+');
		if (time)
			facts_ns(out, time);
		else
			buf_puts(out, "as fast");
		if (time && f->sim.step)
			buf_printf(out, " a step (%+.2f %%)",
				   100 * (double)time / (double)f->sim.step);
		if (bytes) buf_puts(out, bytes > 0 ? ", +" : ", ");
		if (bytes) buf_bytes(out, bytes);
		if (s.over > 0) {
			buf_printf(out, "; does not fit: stage %" PRIu32 " is over by ",
				   s.tight);
			buf_bytes(out, s.over);
		}
		buf_putc(out, '\n');
	}
	arena_free(a);
}

/* Each of its choices changed alone: degrees, then Megatron-SP, ZeRO, recomputation. */
static void
put_others(const Facts *f, uint32_t layer, const LogCandidate *now, Buf *out)
{
	const uint32_t ranks = now->dp * now->tp;
	for (uint32_t tp = 1; tp <= ranks; tp++) {
		LogCandidate x = *now;
		if (ranks % tp || tp == now->tp) continue;
		x.tp = tp;
		x.dp = ranks / tp;
		x.sp &= tp > 1;
		if (x.dp == 1) x.zero = 0;
		put_instead(f, layer, now, &x, out);
	}
	for (int k = 0; k < 2 + 4 + 3; k++) {
		LogCandidate x = *now;
		if (k < 2)
			x.sp = k == 1;
		else if (k < 6)
			x.zero = (uint8_t)(k - 2);
		else
			x.rc = (Recompute)(k - 6);
		if (same_choice(&x, now) || (x.sp && x.tp == 1) || (x.zero && x.dp == 1))
			continue;
		put_instead(f, layer, now, &x, out);
	}
}

bool
explain_layer(const Facts *f, const char *what, Buf *out)
{
	/* a name may hold a colon: the longest that is a layer's */
	size_t len = strlen(what);
	uint32_t layer = find_layer(f, what, len);
	while (layer == f->nlayers && len) {
		while (len && what[--len] != ':')
			continue;
		if (len) layer = find_layer(f, what, len);
	}
	if (layer == f->nlayers || f->model == f->m) {
		diag_error(f->c->diag, (Loc){0},
			   layer == f->nlayers
			       ? "--explain=%s: there is no such layer; layers are 0-%" PRIu32
				 ", the first is '%s', the last '%s'"
			       : "--explain=%s: this takes a model, not a dump past level plan "
				 "(layers 0-%" PRIu32 ", '%s' to '%s')",
			   what, f->nlayers - 1, facts_layer(f, 0),
			   facts_layer(f, f->nlayers - 1));
		return false;
	}
	const LogCandidate now = choice_of(f, layer);
	buf_printf(out, "layer   %" PRIu32 " '%s', a %s: ", layer, facts_layer(f, layer),
		   facts_type(f, layer));
	facts_candidate(&now, out);
	buf_puts(out, "; instead, all else as it is:\n");
	if (!what[len]) {
		put_others(f, layer, &now, out);
		return true;
	}
	Wanted w = {.c = now};
	if (!read_wanted(f, what + len + 1, now.dp * now.tp, &w)) return false;
	put_instead(f, layer, &now, &w.c, out);
	return true;
}
