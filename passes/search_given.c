/*
 * search_given.c - the plan that --plan says, instead of a search.
 *
 * Input: LV_train and a .plan file, or a strategy of Galvatron's: JSON, which begins with a brace. Output: LV_plan. ir/plan.c
 * and ir/galvatron_plan.c read and check it against the module; here it is held against the command line.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ir/cluster.h"
#include "ir/galvatron.h"
#include "passes/search.h"

enum { MAX_PLAN_BYTES = 16 << 20 };

static const char *
threads_str(uint32_t threads, char *text, size_t size)
{
	if (!threads) return "all";
	snprintf(text, size, "%" PRIu32, threads);
	return text;
}

/* A limit that was given holds for a plan that was given. One that does not lower is refused later, at its place. */
static bool
check_memory(Ctx *c, const Module *m, Name file)
{
	if (c->memory_bytes <= 0) return true;
	Arena *a = arena_new();
	const char *why;
	Search s = {.c = c, .m = m, .a = a, .ranks = m->plan.ranks};
	Module *laid = search_lower(&s, &m->plan, a, &why);
	int64_t arena = laid ? layout_arena(laid) : -1;
	arena_free(a);
	if (arena <= c->memory_bytes) return true;
	Buf need, have;
	buf_init(&need, c->tmp);
	buf_init(&have, c->tmp);
	buf_bytes(&need, arena);
	buf_bytes(&have, c->memory_bytes);
	diag_error(c->diag, (Loc){.file = file, .line = 1, .col = 1, .len = 1},
		   "this plan takes %s a rank, --memory says %s; more microbatches, zero or "
		   "recompute take less",
		   need.s, have.s);
	return false;
}

/* --max-tp, --max-zero */
static void
check_most(Ctx *c, const Plan *p)
{
	for (uint32_t i = 0; i < p->nruns; i++) {
		const Strategy *r = &p->runs[i];
		const Mesh *mesh = &p->meshes[r->mesh];
		uint64_t tp = 1;
		for (int k = 1; k < mesh->n; k++)
			if (mesh->ax[k].kind == MX_tp) tp *= mesh->ax[k].degree;
		if (c->max_tp && tp > c->max_tp)
			diag_error(c->diag, r->loc,
				   "these layers have tp %" PRIu64 ", --max-tp says %" PRIu32,
				   tp, c->max_tp);
		if (c->max_zero && r->zero >= c->max_zero)
			diag_error(c->diag, r->loc,
				   "these layers have zero %u, --max-zero says %" PRIu32,
				   r->zero, c->max_zero - 1);
	}
}

/* The command line may ask for what the plan says, not for something else. */
static bool
check_options(Ctx *c, const Plan *p, Name file)
{
	Loc at = {.file = file, .line = 1, .col = 1, .len = 1};
	char text[16];
	int before = diag_errors(c->diag);
	if (c->ranks && c->ranks != p->ranks)
		diag_error(c->diag, at,
			   "this plan is for %" PRIu32 " ranks, --ranks says %" PRIu32,
			   p->ranks, c->ranks);
	Buf why;
	buf_init(&why, c->tmp);
	if (c->cluster && !cluster_has(c->cluster, p, &why))
		diag_error(c->diag, at, "%s", why.s);
	if (c->microbatches && c->microbatches != p->microbatches)
		diag_error(c->diag, at,
			   "this plan has %" PRIu32
			   " microbatches, --microbatches says %" PRIu32,
			   p->microbatches, c->microbatches);
	if (c->schedule_given && c->schedule != p->schedule)
		diag_error(c->diag, at, "the schedule of this plan is %s, --schedule says %s",
			   schedule_str[p->schedule], schedule_str[c->schedule]);
	if (c->stages && c->stages != p->nstages)
		diag_error(c->diag, at,
			   "this plan has %" PRIu32 " stage%s, --stages says %" PRIu32,
			   p->nstages, p->nstages == 1 ? "" : "s", c->stages);
	check_most(c, p);
	if (c->threads && c->threads != p->threads)
		diag_error(c->diag, at, "this plan has threads %s, --threads says %" PRIu32,
			   threads_str(p->threads, text, sizeof(text)), c->threads);
	for (uint32_t i = 0; c->recompute_given && i < p->nruns; i++)
		if (p->runs[i].recompute != c->recompute)
			diag_error(c->diag, p->runs[i].loc,
				   "these layers recompute %s, --recompute says %s",
				   recompute_str[p->runs[i].recompute],
				   recompute_str[c->recompute]);
	return diag_errors(c->diag) == before;
}

static bool
parse_plan(Ctx *c, Module *m, Name file, const char *text, size_t n)
{
	if (text[strspn(text, " \t\r\n")] == '{')
		return gal_plan_parse(m, c->diag, file, text, n, c->ranks);
	return plan_parse(m, c->diag, file, text, n);
}

bool
search_given(Ctx *c, Module *m)
{
	size_t n;
	Name file = name_of(c->names, c->plan_path);
	char *text = file_read(m->arena, c->plan_path, MAX_PLAN_BYTES, &n);
	if (!text) {
		diag_error(c->diag, (Loc){0}, "cannot read the plan %s: %s", c->plan_path,
			   strerror(errno));
		return false;
	}
	if (!parse_plan(c, m, file, text, n) || !check_options(c, &m->plan, file)) return false;
	m->plan.forward_only |= c->forward_only;
	if (!check_memory(c, m, file)) return false;
	m->level = LV_plan;
	return true;
}
