/*
 * search.c - the plan: how many microbatches, what is recomputed; or what --plan says.
 *
 * Input: LV_train. Output: LV_plan. Today's space: one rank, one stage, mesh m0 = mb. The
 * choice is the fewest microbatches whose arena fits the memory limit, without recomputation if
 * any does, else selective, else full: more microbatches cost less than computing again. Memory
 * is not estimated: every candidate is lowered and laid out by the functions that spmd and mem
 * use, on a copy, and the arena is read off. Deterministic: the limit is the only thing asked
 * of the machine.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "passes/passes.h"

enum { MAX_PLAN_BYTES = 16 << 20 };

typedef struct Choice {
	uint32_t mb;
	Recompute rc;
	int64_t arena; /* bytes; -1: it does not lower */
} Choice;

typedef struct Search {
	Ctx *c;
	const Module *m;
	int64_t limit;
	bool explain;
	uint32_t *mb; /* usable counts of microbatches, rising */
	uint32_t nmb, cmb;
} Search;

/* ---- one plan ---- */

/*
 * Nothing is recomputed in the last layer: its B follows its F at once, so that saving nothing
 * frees nothing. It is left out of the run unless other instances share its type.
 */
static uint32_t
recomputed(const Module *m, Recompute rc)
{
	bool alone = rc != RC_none && m->ninsts > 1;
	for (uint32_t i = 0; i + 1 < m->ninsts; i++)
		alone &= m->insts[i].type != m->insts[m->ninsts - 1].type;
	return alone ? m->ninsts - 1 : m->ninsts;
}

static void
set_plan(Ctx *c, Module *m, uint32_t mb, Recompute rc)
{
	Plan *p = &m->plan;
	uint32_t first = recomputed(m, rc);
	*p = (Plan){.ranks = 1,
		    .threads = c->threads,
		    .microbatches = mb,
		    .schedule = SCH_1f1b,
		    .forward_only = c->forward_only};
	p->meshes = NEW(m->arena, Mesh);
	p->nmeshes = 1;
	p->meshes[0] = (Mesh){.name = name_of(m->names, "m0"), .n = 1};
	p->meshes[0].ax[0].kind = MX_mb;
	p->meshes[0].ax[0].degree = mb;
	p->runs = NEW_N(m->arena, Strategy, 2);
	p->runs[p->nruns++] = (Strategy){.first = 0, .count = first, .recompute = rc};
	if (first < m->ninsts)
		p->runs[p->nruns++] = (Strategy){.first = first, .count = m->ninsts - first};
	p->stages = NEW(m->arena, Stage);
	p->nstages = 1;
	p->stages[0] = (Stage){.first = 0, .count = m->ninsts, .ranks = 1, .slots = 1};
	m->level = LV_plan;
}

/* Lowers a copy under the plan; bytes of its arena, -1 if it does not lower. Says nothing. */
static int64_t
arena_of(const Search *s, uint32_t mb, Recompute rc)
{
	Ctx c = *s->c;
	c.tmp = c.perm = arena_new();
	c.diag = NULL;
	Module *m = ir_clone(s->m, c.tmp);
	LowerMemo memo = {0};
	int64_t bytes = -1;
	set_plan(&c, m, mb, rc);
	if (lower_link(&c, m, &memo)) {
		layout_module(&c, m);
		bytes = layout_arena(m);
	}
	arena_free(c.tmp);
	return bytes;
}

static Choice
try(const Search *s, uint32_t mb, Recompute rc)
{
	Choice t = {mb, rc, arena_of(s, mb, rc)};
	if (!s->explain) return t;
	Buf b;
	buf_init(&b, s->c->tmp);
	buf_printf(&b, "plan: microbatches %" PRIu32 " recompute %s: ", mb, recompute_str[rc]);
	if (t.arena < 0)
		buf_puts(&b, "the model ties the samples of a batch together");
	else
		buf_bytes(&b, t.arena);
	if (t.arena > s->limit) {
		buf_puts(&b, ", over by ");
		buf_bytes(&b, t.arena - s->limit);
	}
	printf("%s\n", b.s);
	return t;
}

static bool
fits(const Search *s, const Choice *t)
{
	return t->arena >= 0 && t->arena <= s->limit;
}

/* ---- the search ---- */

/* The fewest microbatches that fit under rc, or the count with the smallest arena. More
 * microbatches never need more. */
static Choice
search_mb(const Search *s, Recompute rc)
{
	uint32_t lo = 0, hi = s->nmb - 1;
	Choice least = try(s, s->mb[lo], rc);
	if (fits(s, &least) || lo == hi) return least;
	Choice best = try(s, s->mb[hi], rc);
	if (best.arena < 0) return least;
	if (!fits(s, &best)) return best;
	while (hi - lo > 1) { /* lo does not fit, hi does */
		uint32_t mid = lo + (hi - lo) / 2;
		Choice t = try(s, s->mb[mid], rc);
		if (fits(s, &t))
			best = t, hi = mid;
		else
			lo = mid;
	}
	return best;
}

static Choice
search(const Search *s)
{
	bool once = s->c->recompute_given || s->m->plan.forward_only || s->c->forward_only;
	Choice best = search_mb(s, s->c->recompute_given ? s->c->recompute : RC_none);
	for (int rc = RC_selective; !once && rc <= RC_full && !fits(s, &best); rc++) {
		Choice t = search_mb(s, (Recompute)rc);
		if (t.arena >= 0 && (best.arena < 0 || t.arena < best.arena)) best = t;
	}
	return best;
}

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

/* 80 % of the memory of this machine, if nobody gave a limit. */
static int64_t
memory_limit(const Ctx *c)
{
	if (c->memory_bytes > 0) return c->memory_bytes;
	long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
	if (pages <= 0 || bytes <= 0) return INT64_MAX;
	return (int64_t)pages / 10 * 8 * (int64_t)bytes;
}

/* Nothing fits. A limit that was given is an error; this machine's own is a warning, since programs are also made for
 * other machines. Returns whether to go on. */
static bool
report_too_large(const Search *s, const Choice *t)
{
	void (*say)(Diag *, Loc, const char *, ...) =
	    s->c->memory_bytes > 0 ? diag_error : diag_warn;
	Buf need, have, state;
	Buf *all[] = {&need, &have, &state};
	for (size_t i = 0; i < COUNTOF(all); i++)
		buf_init(all[i], s->c->tmp);
	int64_t params = 0;
	for (uint32_t i = 0; i < s->m->nparams; i++)
		params += type_bytes(s->m, NULL, &s->m->params[i].type);
	buf_bytes(&need, t->arena);
	buf_bytes(&have, s->limit);
	buf_bytes(&state, params);
	say(s->c->diag, (Loc){0},
	    "no plan fits the memory: the smallest takes %s (%" PRIu32
	    " microbatch%s, recompute %s), of %s; the parameters alone take %s, and their "
	    "gradients and "
	    "each of the optimizer's moments as much again",
	    need.s, t->mb, t->mb == 1 ? "" : "es", recompute_str[t->rc], have.s, state.s);
	return s->c->memory_bytes <= 0;
}

/* ---- a given plan ---- */

static bool
read_plan(Ctx *c, Module *m)
{
	size_t n;
	Name file = name_of(c->names, c->plan_path);
	char *text = file_read(m->arena, c->plan_path, MAX_PLAN_BYTES, &n);
	if (!text) {
		diag_error(c->diag, (Loc){0}, "cannot read the plan %s: %s", c->plan_path,
			   strerror(errno));
		return false;
	}
	if (!plan_parse(m, c->diag, file, text, n)) return false;
	m->plan.forward_only |= c->forward_only;
	m->level = LV_plan;
	return true;
}

bool
pass_plan(Ctx *c, Module *m)
{
	if (c->plan_path) return read_plan(c, m);
	Search s = {.c = c, .m = m, .limit = memory_limit(c), .explain = c->explain};
	if (!usable_counts(&s)) return false;
	Choice best = search(&s);
	if (best.arena > s.limit && !report_too_large(&s, &best)) return false;
	set_plan(c, m, best.mb,
		 best.rc); /* one that does not lower is refused by spmd, at its place */
	return true;
}
