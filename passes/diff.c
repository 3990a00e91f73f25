/*
 * diff.c - `galvatronc diff`: from plan a to plan b by one difference at a time, and what each costs.
 *
 * The order is fixed: threads, microbatches, schedule, order of nodes, stages with their ranks, and then, for every run of layers
 * that differ, its mesh, ZeRO level, recomputation, Megatron-SP; last the slots of stages. A plan on the way is lowered by the
 * passes and simulated; where it does not lower (a mesh that no longer fits, an axis that is in the way), its difference is
 * taken together with the next. So the costs add up to what b takes more than a, exactly.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "passes/explain.h"

/* ORDER What: the order of the changes. */
typedef enum What {
	WH_threads,
	WH_microbatches,
	WH_schedule,
	WH_nodes,
	WH_stages,
	WH_mesh,
	WH_zero,
	WH_rc,
	WH_sp,
	WH_slots,
	WH_COUNT
} What;

typedef struct Draft { /* a plan, a strategy for each layer */
	Plan p;        /* but for meshes and runs */
	Mesh *mesh;    /* [layers] axis 0 left out of account */
	Strategy *s;   /* [layers] */
} Draft;

typedef struct Way {
	Ctx *c;
	const Module *m;
	Arena *a;
	Draft now, to;
	Diff *out;
} Way;

/* ---- drafts ---- */

static Draft
draft_of(const Way *w, const Plan *p)
{
	const uint32_t n = w->m->ninsts;
	Draft d = {.p = *p, .mesh = NEW_N(w->a, Mesh, n), .s = NEW_N(w->a, Strategy, n)};
	d.p.stages = arena_dup(w->a, p->stages, sizeof *p->stages * p->nstages);
	for (uint32_t i = 0; i < p->nruns; i++)
		for (uint32_t k = 0; k < p->runs[i].count && p->runs[i].first + k < n; k++) {
			d.s[p->runs[i].first + k] = p->runs[i];
			d.mesh[p->runs[i].first + k] = p->meshes[p->runs[i].mesh];
		}
	return d;
}

static uint32_t
stage_of(const Plan *p, uint32_t layer)
{
	uint32_t k = 0;
	while (k + 1 < p->nstages && layer >= p->stages[k + 1].first)
		k++;
	return k;
}

/* But for microbatches, which are of the plan. */
static bool
same_mesh(const Mesh *x, const Mesh *y)
{
	if (x->n != y->n) return false;
	for (int k = 1; k < x->n; k++)
		if (x->ax[k].kind != y->ax[k].kind || x->ax[k].degree != y->ax[k].degree)
			return false;
	return true;
}

static uint32_t
mesh_in(const Way *w, Plan *p, uint32_t *cap, const Mesh *mesh)
{
	Mesh x = *mesh;
	for (uint32_t i = 0; i < p->nmeshes; i++)
		if (same_mesh(&p->meshes[i], mesh)) return i;
	x.name = name_fmt(w->c->names, "m%" PRIu32, p->nmeshes);
	x.ax[0].kind = MX_mb;
	x.ax[0].degree = p->microbatches;
	PUSH(w->a, p->meshes, p->nmeshes, *cap, x);
	return p->nmeshes - 1;
}

static Plan
plan_of(const Way *w, const Draft *d)
{
	Plan p = d->p;
	uint32_t cmesh = 0, crun = 0;
	const Mesh one = {.n = 1};
	p.stages =
	    arena_dup(w->a, p.stages, sizeof *p.stages * p.nstages); /* lowering changes them */
	p.meshes = NULL;
	p.runs = NULL;
	p.nmeshes = p.nruns = 0;
	p.time = p.memory = 0;
	mesh_in(w, &p, &cmesh, &one);
	for (uint32_t l = 0; l < w->m->ninsts; l++) {
		Strategy s = d->s[l];
		const Strategy *last = p.nruns ? &p.runs[p.nruns - 1] : NULL;
		s.mesh = mesh_in(w, &p, &cmesh, &d->mesh[l]);
		s.first = l;
		s.count = 1;
		if (last && last->mesh == s.mesh && last->zero == s.zero &&
		    last->recompute == s.recompute && last->megatron_sp == s.megatron_sp &&
		    stage_of(&p, l) == stage_of(&p, l - 1))
			p.runs[p.nruns - 1].count++;
		else
			PUSH(w->a, p.runs, p.nruns, crun, s);
	}
	return p;
}

/* ---- one plan ---- */

bool
diff_measure(Ctx *with, const Module *model, const Plan *p, Arena *perm, DiffStep *out)
{
	Arena *a = arena_new();
	Ctx c = *with;
	c.perm = a;
	c.tmp = arena_new();
	c.diag = diag_new(a, c.names, NULL);
	Module *m = ir_clone(model, a);
	m->plan = *p;
	m->plan.meshes = arena_dup(a, p->meshes, sizeof *p->meshes * p->nmeshes);
	m->plan.runs = arena_dup(a, p->runs, sizeof *p->runs * p->nruns);
	m->plan.stages = arena_dup(a, p->stages, sizeof *p->stages * p->nstages);
	m->level = LV_plan;
	const bool ok = ir_verify(m, c.diag, "diff") &&
			pass_run_all(&c, &m, &(PassOptions){.verify = true, .unproven = true});
	if (ok) {
		const Facts *f = facts_new(&c, m, NULL, NULL, a);
		out->time = f->sim.step;
		out->tight = f->tightest;
		out->over = f->stage[f->tightest].rank_bytes - f->stage[f->tightest].limit;
		out->rank_bytes = NEW_N(perm, int64_t, m->plan.nstages);
		for (uint32_t k = 0; k < m->plan.nstages; k++) {
			out->rank_bytes[k] = f->stage[k].rank_bytes;
			if (f->stage[k].rank_bytes > out->memory)
				out->memory = f->stage[k].rank_bytes;
			if (f->stage[k].sent > out->sent) out->sent = f->stage[k].sent;
		}
	} else {
		const char *why = diag_first(c.diag);
		if (strncmp(why, "diff: ", 6) == 0) why += 6;
		out->why = arena_dup(perm, why, strlen(why) + 1);
	}
	arena_free(c.tmp);
	arena_free(a);
	return ok;
}

static void
took(Way *w, const char *what)
{
	DiffStep s = {.what = what};
	const Plan p = plan_of(w, &w->now);
	diff_measure(w->c, w->m, &p, w->a, &s);
	PUSH(w->a, w->out->step, w->out->n, w->out->cap, s);
}

/* ---- the changes ---- */

static bool
same_nodes(const Plan *x, const Plan *y)
{
	return x->nnodes == y->nnodes &&
	       (!x->nnodes || memcmp(x->nodes, y->nodes, sizeof *x->nodes * x->nnodes) == 0);
}

static bool
same_stages(const Plan *x, const Plan *y)
{
	if (x->nstages != y->nstages || x->ranks != y->ranks) return false;
	for (uint32_t k = 0; k < x->nstages; k++)
		if (x->stages[k].first != y->stages[k].first ||
		    x->stages[k].count != y->stages[k].count ||
		    x->stages[k].rank != y->stages[k].rank ||
		    x->stages[k].ranks != y->stages[k].ranks)
			return false;
	return true;
}

static const char *
threads_text(const Plan *p, Arena *a)
{
	Buf b;
	buf_init(&b, a);
	if (!p->threads) return "all";
	buf_printf(&b, "%" PRIu32, p->threads);
	return b.s;
}

/* "4 of 3-3-3-5 layers on 8 ranks" */
static void
stages_text(const Plan *p, Buf *out)
{
	buf_printf(out, "%" PRIu32 " of ", p->nstages);
	for (uint32_t k = 0; k < p->nstages; k++) {
		if (k == 8 && p->nstages > 10) {
			buf_puts(out, "-...");
			break;
		}
		buf_printf(out, "%s%" PRIu32, k ? "-" : "", p->stages[k].count);
	}
	buf_printf(out, " layers on %" PRIu32 " ranks", p->ranks);
}

static uint32_t
degree_of(const Mesh *mesh)
{
	uint32_t n = 1;
	for (int k = 1; k < mesh->n; k++)
		n *= mesh->ax[k].degree;
	return n;
}

static bool
has_axis(const Mesh *mesh, MeshKind kind)
{
	for (int k = 1; k < mesh->n; k++)
		if (mesh->ax[k].kind == kind && mesh->ax[k].degree > 1) return true;
	return false;
}

/* Gives a layer b's mesh, and b's ZeRO and Megatron-SP where its own make no sense on it. */
static void
set_mesh(Way *w, uint32_t l)
{
	Strategy *s = &w->now.s[l];
	w->now.mesh[l] = w->to.mesh[l];
	if (s->zero && !has_axis(&w->now.mesh[l], MX_dp)) s->zero = w->to.s[l].zero;
	if (s->megatron_sp && !has_axis(&w->now.mesh[l], MX_tp))
		s->megatron_sp = w->to.s[l].megatron_sp;
}

/* Layers keep their mesh where it still has as many ranks as their stage. */
static void
change_stages(Way *w, Buf *what)
{
	buf_puts(what, "stages: ");
	stages_text(&w->now.p, what);
	buf_puts(what, " -> ");
	stages_text(&w->to.p, what);
	w->now.p.ranks = w->to.p.ranks;
	w->now.p.nstages = w->to.p.nstages;
	w->now.p.stages = arena_dup(w->a, w->to.p.stages, sizeof(Stage) * w->to.p.nstages);
	uint32_t others = 0; /* microbatches in flight come with the stages */
	for (uint32_t l = 0; l < w->m->ninsts; l++)
		if (degree_of(&w->now.mesh[l]) !=
		    w->now.p.stages[stage_of(&w->now.p, l)].ranks) {
			set_mesh(w, l);
			others++;
		}
	if (others)
		buf_printf(
		    what, " (with the meshes of %" PRIu32 " layers, which do not fit any more)",
		    others);
}

/* How many microbatches are in flight goes with how many there are and in which order: b's, or as many as are needed. */
static void
take_slots(Way *w)
{
	Plan *p = &w->now.p;
	for (uint32_t k = 0; k < p->nstages; k++)
		p->stages[k].slots = same_stages(p, &w->to.p) ? w->to.p.stages[k].slots : 0;
}

static void
change_plan(Way *w, What what)
{
	Plan *p = &w->now.p;
	const Plan *to = &w->to.p;
	Buf b;
	buf_init(&b, w->a);
	if (what == WH_threads && p->threads != to->threads) {
		buf_printf(&b, "threads: %s -> %s", threads_text(p, w->a),
			   threads_text(to, w->a));
		p->threads = to->threads;
	} else if (what == WH_microbatches && p->microbatches != to->microbatches) {
		buf_printf(&b, "microbatches: %" PRIu32 " -> %" PRIu32, p->microbatches,
			   to->microbatches);
		p->microbatches = to->microbatches;
		take_slots(w);
	} else if (what == WH_schedule && p->schedule != to->schedule) {
		buf_printf(&b, "schedule: %s -> %s", schedule_str[p->schedule],
			   schedule_str[to->schedule]);
		p->schedule = to->schedule;
		take_slots(w);
	} else if (what == WH_nodes && !same_nodes(p, to)) {
		buf_puts(&b, "order of the nodes");
		p->nodes = to->nodes;
		p->nnodes = to->nnodes;
	} else if (what == WH_stages && !same_stages(p, to)) {
		change_stages(w, &b);
	} else if (what == WH_slots) {
		for (uint32_t k = 0; k < p->nstages; k++)
			if (p->stages[k].slots != to->stages[k].slots) {
				buf_printf(&b, "%s %" PRIu32 ": %" PRIu32 " -> %" PRIu32,
					   b.n ? "," : "microbatches in flight of stage", k,
					   p->stages[k].slots, to->stages[k].slots);
				p->stages[k].slots = to->stages[k].slots;
			}
	}
	if (b.n) took(w, b.s);
}

/* What a layer has of one kind, for people. */
static const char *
value_text(const Way *w, const Draft *d, uint32_t layer, What what)
{
	static const char *const zero[] = {"0", "1", "2", "3"};
	Buf b;
	if (what == WH_zero) return zero[d->s[layer].zero & 3];
	if (what == WH_rc) return recompute_str[d->s[layer].recompute];
	if (what == WH_sp) return d->s[layer].megatron_sp ? "on" : "off";
	buf_init(&b, w->a);
	for (int k = 1; k < d->mesh[layer].n; k++)
		buf_printf(&b, "%s%s:%" PRIu32, k > 1 ? " " : "",
			   mesh_kind_str[d->mesh[layer].ax[k].kind],
			   d->mesh[layer].ax[k].degree);
	return b.n ? b.s : "one rank";
}

static bool
differs(const Way *w, uint32_t l, What what)
{
	const Strategy *x = &w->now.s[l], *y = &w->to.s[l];
	if (what == WH_zero) return x->zero != y->zero;
	if (what == WH_rc) return x->recompute != y->recompute;
	if (what == WH_sp) return x->megatron_sp != y->megatron_sp;
	return !same_mesh(&w->now.mesh[l], &w->to.mesh[l]);
}

static void
set_layer(Way *w, uint32_t l, What what)
{
	if (what == WH_zero) w->now.s[l].zero = w->to.s[l].zero;
	if (what == WH_rc) w->now.s[l].recompute = w->to.s[l].recompute;
	if (what == WH_sp) w->now.s[l].megatron_sp = w->to.s[l].megatron_sp;
	if (what == WH_mesh) set_mesh(w, l);
}

/* Runs of layers that go from one value to one other, in turn. */
static void
change_layers(Way *w, What what)
{
	static const char *const name[WH_COUNT] = {[WH_mesh] = "mesh",
						   [WH_zero] = "zero",
						   [WH_rc] = "recompute",
						   [WH_sp] = "Megatron-SP"};
	for (uint32_t l = 0, end; l < w->m->ninsts; l = end) {
		end = l + 1;
		if (!differs(w, l, what)) continue;
		const char *from = value_text(w, &w->now, l, what),
			   *to = value_text(w, &w->to, l, what);
		while (end < w->m->ninsts && differs(w, end, what) &&
		       strcmp(value_text(w, &w->now, end, what), from) == 0 &&
		       strcmp(value_text(w, &w->to, end, what), to) == 0)
			end++;
		Buf b;
		buf_init(&b, w->a);
		buf_printf(&b, "layer%s %" PRIu32, end - l > 1 ? "s" : "", l);
		if (end - l > 1) buf_printf(&b, "-%" PRIu32, end - 1);
		buf_printf(&b, ": %s %s -> %s", name[what], from, to);
		for (uint32_t k = l; k < end; k++)
			set_layer(w, k, what);
		took(w, b.s);
	}
}

bool
diff_plans(Ctx *c, const Module *m, const Plan *a, const Plan *b, Arena *arena, Diff *out)
{
	Way w = {.c = c, .m = m, .a = arena, .out = out};
	*out = (Diff){0};
	w.now = draft_of(&w, a);
	w.to = draft_of(&w, b);
	took(&w, "");
	for (int k = 0; k < WH_COUNT && !out->step[0].why; k++)
		if (k >= WH_mesh && k <= WH_sp)
			change_layers(&w, (What)k);
		else
			change_plan(&w, (What)k);
	const DiffStep *last = &out->step[out->n - 1];
	if (!last->why) return true;
	diag_error(c->diag, (Loc){0}, "the %s plan does not lower: %s",
		   out->step[0].why ? "first" : "second", last->why);
	return false;
}

/* ---- which model ---- */

const char *
diff_model(Ctx *c, const char *plan_path)
{
	size_t n;
	Buf b;
	const char *text = file_read(c->perm, plan_path, (size_t)16 << 20, &n);
	if (!text) {
		diag_error(c->diag, (Loc){0}, "cannot read the plan %s: %s", plan_path,
			   strerror(errno));
		return NULL;
	}
	const char *line = strstr(text, "\nmodel "),
		   *end = line ? strchr(line + 1, '\n') : NULL,
		   *source = line ? strstr(line, " source \"") : NULL;
	if (!source || (end && source > end)) {
		diag_error(c->diag, (Loc){0},
			   "%s does not say which file its model is in; give that first: "
			   "galvatronc diff MODEL.gdl A B",
			   plan_path);
		return NULL;
	}
	source += strlen(" source \"");
	const size_t len = strcspn(source, "\"\n");
	const char *slash = strrchr(plan_path, '/');
	buf_init(&b, c->perm);
	buf_printf(&b, "%.*s%.*s", slash ? (int)(slash + 1 - plan_path) : 0, plan_path,
		   (int)len, source);
	if (access(b.s, R_OK) == 0) return b.s;
	const char *beside = b.s;
	buf_init(&b, c->perm);
	buf_printf(&b, "%.*s", (int)len, source);
	if (access(b.s, R_OK) == 0) return b.s;
	diag_error(c->diag, (Loc){0},
		   "the model of %s is neither %s nor in this directory; give its file first: "
		   "galvatronc diff MODEL.gdl A B",
		   plan_path, beside);
	return NULL;
}

/* ---- for people ---- */

static void
signed_ns(Buf *out, int64_t ns)
{
	if (ns > 0) buf_putc(out, '+');
	if (ns)
		facts_ns(out, ns);
	else
		buf_putc(out, '=');
}

static void
signed_bytes(Buf *out, int64_t bytes)
{
	if (bytes > 0) buf_putc(out, '+');
	if (bytes)
		buf_bytes(out, bytes);
	else
		buf_putc(out, '=');
}

/* Three columns, flush right, then what they are of. */
static void
row(Buf *out, Arena *tmp, int64_t time, int64_t memory, int64_t sent, bool delta,
    const char *what)
{
	Buf b[3];
	for (int i = 0; i < 3; i++)
		buf_init(&b[i], tmp);
	if (delta) {
		signed_ns(&b[0], time);
		signed_bytes(&b[1], memory);
		signed_bytes(&b[2], sent);
	} else {
		facts_ns(&b[0], time);
		buf_bytes(&b[1], memory);
		buf_bytes(&b[2], sent);
	}
	buf_printf(out, "%11s %13s %13s  %s\n", b[0].s, b[1].s, b[2].s, what);
}

void
diff_print(const Diff *d, const char *a, const char *b, Buf *out)
{
	Arena *tmp = arena_new();
	const DiffStep *first = &d->step[0], *last = &d->step[d->n - 1], *before = first;
	buf_printf(out, "%11s %13s %13s\n", "step", "memory", "traffic");
	row(out, tmp, first->time, first->memory, first->sent, false, a);
	for (uint32_t i = 1; i < d->n; i++) {
		const DiffStep *s = &d->step[i];
		if (s->why) {
			buf_printf(out, "%41s%s\n%41s  (not by itself: %s; with the next)\n",
				   "", s->what, "", s->why);
			continue;
		}
		row(out, tmp, s->time - before->time, s->memory - before->memory,
		    s->sent - before->sent, true, s->what);
		before = s;
	}
	if (d->n == 1) {
		buf_puts(out, "nothing differs\n");
	} else {
		row(out, tmp, last->time, last->memory, last->sent, false, b);
		row(out, tmp, last->time - first->time, last->memory - first->memory,
		    last->sent - first->sent, true, "in all");
	}
	arena_free(tmp);
}
