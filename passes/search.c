/*
 * search.c - the plan: how many ranks, stages, meshes, microbatches, what is recomputed; or what --plan says.
 *
 * Input: LV_train. Output: LV_plan. Memory is not estimated: what is chosen was lowered and laid out by the functions that
 * spmd and mem use, on a copy, and its arena read off. Deterministic: how many cores and how much memory it has are the
 * only things asked of the machine, and only where no option says.
 */
#include <inttypes.h>
#include <unistd.h>

#include "passes/search.h"

enum {
	AUTO_RANKS = 8
}; /* all counts up to here are tried by --ranks auto, then powers of two */

/* ---- one plan, lowered ---- */

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
	p.meshes[0] = (Mesh){.n = 1};
	if (mesh->n > 1) p.meshes[1] = *mesh;
	for (uint32_t i = 0; i < p.nmeshes; i++) {
		p.meshes[i].name = name_fmt(s->c->names, "m%" PRIu32, i);
		p.meshes[i].ax[0].kind = MX_mb;
		p.meshes[i].ax[0].degree = mb;
	}
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
	p.stages[0] = (Stage){.first = 0, .count = s->m->ninsts, .ranks = p.ranks, .slots = 1};
	return p;
}

Module *
search_lower(const Search *s, const Plan *p, Arena *a, TpMemo *tp, const char **why)
{
	Ctx c = *s->c;
	c.tmp = c.perm = a;
	c.diag = diag_new(a, c.names, NULL);
	Module *m = ir_clone(s->m, a);
	LowerMemo memo = {.tp = tp};
	m->plan = *p;
	m->plan.meshes = arena_dup(a, p->meshes, sizeof *p->meshes * p->nmeshes);
	m->plan.runs = arena_dup(a, p->runs, sizeof *p->runs * p->nruns);
	m->plan.stages = arena_dup(a, p->stages, sizeof *p->stages * p->nstages);
	m->level = LV_plan;
	if (!lower_link(&c, m, &memo) || (p->nstages > 1 && !pass_sched(&c, m))) {
		if (why) *why = diag_first(c.diag);
		return NULL;
	}
	layout_module(&c, m);
	return m;
}

int64_t
search_arena(const Search *s, const Plan *p, const char **why)
{
	Arena *a = arena_new();
	const char *reason = "";
	TpMemo tp = {.a = a};
	Module *m = search_lower(s, p, a, &tp, &reason);
	int64_t most = m ? layout_arena(m) : -1;
	if (!m && why) {
		Buf b;
		buf_init(&b, s->c->tmp);
		buf_puts(&b, reason);
		*why = b.s;
	}
	arena_free(a);
	return most;
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

/* ---- what there is to choose from ---- */

/* Counts that divide the batch; only the one asked for, if one is. False after a diagnostic. */
static bool
usable_counts(Search *s)
{
	Ctx *c = s->c;
	int64_t batch = s->m->batch.i ? ir_extent(s->m, s->m->batch) : 1;
	for (int64_t n = 1; n <= batch && n <= UINT16_MAX; n++)
		if (batch % n == 0) PUSH(c->tmp, s->mb, s->nmb, s->cmb, (uint32_t)n);
	if (!c->microbatches) return true;
	if (batch % c->microbatches == 0) {
		s->mb[0] = c->microbatches;
		s->nmb = 1;
		return true;
	}
	Buf b;
	buf_init(&b, c->tmp);
	for (uint32_t i = 0; i < s->nmb; i++) {
		if (i == 12 && s->nmb > 14) buf_puts(&b, " ...");
		if (i < 12 || s->nmb <= 14 || i + 1 == s->nmb)
			buf_printf(&b, " %" PRIu32, s->mb[i]);
	}
	diag_error(c->diag, (Loc){0},
		   "a batch of %" PRId64 " does not divide into %" PRIu32
		   " microbatches; usable are%s",
		   batch, c->microbatches, b.s);
	return false;
}

/* 80 % of the memory of this machine, shared by the ranks on it, if nobody gave a limit. */
static int64_t
memory_limit(const Ctx *c, uint32_t ranks)
{
	if (c->memory_bytes > 0) return c->memory_bytes;
	long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
	if (pages <= 0 || bytes <= 0) return INT64_MAX;
	return (int64_t)pages / 10 * 8 * (int64_t)bytes / ranks;
}

/* Nothing fits. A limit that was given is an error; this machine's own is a warning, since programs are also made for
 * other machines. Returns whether to go on. */
static bool
report_too_large(const Search *s, const Found *f)
{
	void (*say)(Diag *, Loc, const char *, ...) =
	    s->c->memory_bytes > 0 ? diag_error : diag_warn;
	Buf need, have, state, shape;
	Buf *all[] = {&need, &have, &state, &shape};
	for (size_t i = 0; i < COUNTOF(all); i++)
		buf_init(all[i], s->c->tmp);
	int64_t params = 0;
	uint32_t mb = f->plan.microbatches;
	Recompute rc = RC_none; /* the most anywhere */
	for (uint32_t i = 0; i < f->plan.nruns; i++)
		if (f->plan.runs[i].recompute > rc) rc = f->plan.runs[i].recompute;
	for (uint32_t i = 0; i < s->m->nparams; i++)
		params += type_bytes(s->m, NULL, &s->m->params[i].type);
	buf_bytes(&need, f->arena);
	buf_bytes(&have, s->limit);
	buf_bytes(&state, params);
	if (s->ranks > 1)
		buf_printf(&shape, " a rank (%" PRIu32 " stage%s, ", f->plan.nstages,
			   f->plan.nstages == 1 ? "" : "s");
	else
		buf_puts(&shape, " (");
	say(s->c->diag, (Loc){0},
	    "no plan fits the memory: the smallest takes %s%s%" PRIu32
	    " microbatch%s, recompute %s), of %s; the parameters alone take %s, and their "
	    "gradients and "
	    "each of the optimizer's moments as much again",
	    need.s, shape.s, mb, mb == 1 ? "" : "es", recompute_str[rc], have.s, state.s);
	return s->c->memory_bytes <= 0;
}

/* ---- the pass ---- */

/* The best plan for a number of ranks. False after a diagnostic. */
static bool
search(Search *s, uint32_t ranks, Found *out)
{
	s->ranks = ranks;
	s->limit = memory_limit(s->c, ranks < roofline_cores() ? ranks : roofline_cores());
	s->machine = roofline_machine(ranks, s->c->threads);
	if (ranks > 1) s->memo = search_memo(s);
	if (ranks > 1) return search_many(s, out);
	*out = search_one(s);
	return true;
}

/* Time of a step of a plan for one rank. */
static int64_t
time_of_one(const Search *s, const Plan *p)
{
	Arena *a = arena_new();
	Module *m = search_lower(s, p, a, NULL, NULL);
	int64_t t = m ? search_time(s, m) : INT64_MAX;
	arena_free(a);
	return t;
}

/* Of 1 .. all cores the count whose plan fits and is fastest; fewer if equal. Says which and why. */
static bool
search_auto(Search *s, Found *best)
{
	Buf b;
	uint32_t cores = roofline_cores(), one = 0;
	buf_init(&b, s->c->perm);
	for (uint32_t n = 1; n <= cores; n = n < AUTO_RANKS ? n + 1 : 2 * n) {
		Found f;
		Ctx quiet = *s->c;
		Search t = *s;
		quiet.diag = diag_new(s->c->tmp, s->c->names, NULL);
		t.c = &quiet;
		if (!search(&t, n, &f) || f.arena < 0) continue;
		if (n == 1) f.time = time_of_one(&t, &f.plan);
		buf_printf(&b, "%s%" PRIu32 " rank%s %.3g ms%s", one++ ? ", " : "", n,
			   n == 1 ? "" : "s", (double)f.time * 1e-6,
			   f.fits ? "" : " (does not fit)");
		bool better = n == 1 || (f.fits && (!best->fits || f.time < best->time));
		if (better) {
			*best = f;
			s->ranks = t.ranks;
			s->limit = t.limit;
		}
	}
	buf_printf(&b, ": %" PRIu32 " chosen, of %" PRIu32 " core%s", s->ranks, cores,
		   cores == 1 ? "" : "s");
	s->c->why = b.s;
	if (s->explain) printf("plan: a step is predicted to take %s\n", b.s);
	return one > 0 || search(s, 1, best);
}

bool
pass_plan(Ctx *c, Module *m)
{
	if (c->plan_path) return search_given(c, m);
	Search s = {.c = c, .m = m, .explain = c->explain};
	Found best = {0};
	if (!usable_counts(&s)) return false;
	if (!(c->ranks_auto ? search_auto(&s, &best)
			    : search(&s, c->ranks ? c->ranks : 1, &best)))
		return false;
	if (best.arena > s.limit && !report_too_large(&s, &best)) return false;
	m->plan = best.plan;
	m->level = LV_plan; /* one that does not lower is refused by spmd, at its place */
	return true;
}
