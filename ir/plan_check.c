/*
 * plan_check.c - does a plan fit its module; and the plan in a few lines for people.
 *
 * Input: a plan in memory, from text or from a pass. Output: diagnostics with the numbers that conflict.
 * Rules: every layer in one run and in one stage; ranks likewise; the degrees of a run's mesh multiply to the ranks of its
 * stage; microbatches divide the batch, and no rank is left without a sample.
 */
#include "ir/text.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct Check {
	const Module *m;
	const Plan *p;
	const PlanText *places; /* NULL: from no text */
	Diag *d;
	const char *who;
	bool ok;
} Check;

static void GV_PRINTF(3, 4) wrong(Check *c, Loc at, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	diag_error(c->d, at, "%s%s%s", c->who, c->who[0] ? ": " : "", text);
	c->ok = false;
}

static Loc
head_at(const Check *c)
{
	return c->places ? c->places->head : (Loc){0};
}

static Loc
place(const Check *c, const Loc *at, uint32_t i)
{
	return c->places && at && at[i].line ? at[i] : head_at(c);
}

static const char *
mesh_name(const Check *c, uint32_t i)
{
	return name_str(c->m->names, c->p->meshes[i].name);
}

/* Ranks of a mesh: the product of all degrees but mb's; 0 if more than anyone has. */
static uint64_t
mesh_ranks(const Mesh *mesh)
{
	uint64_t n = 1;

	for (int k = 1; k < mesh->n && n; k++)
		n = n * mesh->ax[k].degree > MAX_RANKS ? 0 : n * mesh->ax[k].degree;
	return n;
}

/* Numbers, words and handles in their range: what the other checks stand on. */
static void
check_ranges(Check *c)
{
	const Plan *p = c->p;

	if (p->ranks < 1 || p->ranks > MAX_RANKS)
		wrong(c, head_at(c), "%" PRIu32 " ranks; there may be 1 to %d", p->ranks,
		      MAX_RANKS);
	if (p->microbatches < 1 || p->microbatches > MAX_MB)
		wrong(c, head_at(c), "%" PRIu32 " microbatches; there may be 1 to %d",
		      p->microbatches, MAX_MB);
	if (p->schedule != SCH_gpipe && p->schedule != SCH_1f1b)
		wrong(c, head_at(c), "schedule %d", p->schedule);
	if (!p->nmeshes || p->meshes[0].n != 1)
		wrong(c, head_at(c), "mesh 0 must be the one of a single rank: mb alone");
	for (uint32_t i = 0; i < p->nruns; i++) {
		const Strategy *r = &p->runs[i];

		if (r->mesh >= p->nmeshes)
			wrong(c, place(c, c->places ? c->places->run_at : NULL, i),
			      "mesh %" PRIu32 " of %" PRIu32, r->mesh, p->nmeshes);
		if (r->zero > 3 || (unsigned)r->recompute > RC_full)
			wrong(c, place(c, c->places ? c->places->run_at : NULL, i),
			      "zero %u, recompute %d", r->zero, r->recompute);
	}
}

static void
check_mesh(Check *c, uint32_t i)
{
	const Mesh *mesh = &c->p->meshes[i];
	Loc at = place(c, c->places ? c->places->mesh_at : NULL, i);

	if (mesh->n < 1 || mesh->n > MAX_MESH || mesh->ax[0].kind != MX_mb ||
	    mesh->ax[0].degree != c->p->microbatches) {
		wrong(c, at, "axis 0 of mesh '%s' must be mb of degree %" PRIu32,
		      mesh_name(c, i), c->p->microbatches);
		return;
	}
	for (int k = 1; k < mesh->n; k++) {
		if (mesh->ax[k].kind <= MX_mb || mesh->ax[k].kind >= MX_COUNT ||
		    !mesh->ax[k].degree)
			wrong(c, at, "axis %d of mesh '%s' is of kind %d and degree %" PRIu32,
			      k, mesh_name(c, i), mesh->ax[k].kind, mesh->ax[k].degree);
		for (int j = 1; j < k; j++)
			if (mesh->ax[j].kind == mesh->ax[k].kind &&
			    mesh->ax[j].sub == mesh->ax[k].sub)
				wrong(c, at, "axes %d and %d of mesh '%s' have one name", j, k,
				      mesh_name(c, i));
	}
	for (uint32_t j = 0; j < i; j++)
		if (c->p->meshes[j].name == mesh->name)
			wrong(c, at, "two meshes are called '%s'", mesh_name(c, i));
}

/* The k-th piece begins where the one before ended. */
static bool
follows(Check *c, Loc at, const char *what, uint32_t want, uint32_t first, uint32_t count)
{
	if (first > want && first - want == 1)
		wrong(c, at, "%s %" PRIu32 " is left out: this begins with %" PRIu32, what,
		      want, first);
	else if (first > want)
		wrong(c, at,
		      "%ss %" PRIu32 "-%" PRIu32 " are left out: this begins with %" PRIu32,
		      what, want, first - 1, first);
	else if (first < want)
		wrong(c, at, "%s %" PRIu32 " comes twice: the line before ends with %" PRIu32,
		      what, first, want - 1);
	else if (!count)
		wrong(c, at, "no %s here", what);
	else
		return true;
	return false;
}

static void
ends(Check *c, Loc at, const char *what, uint32_t have, uint32_t want)
{
	if (have < want)
		wrong(c, at, "%ss %" PRIu32 "-%" PRIu32 " are left out: there are %" PRIu32,
		      what, have, want - 1, want);
	else if (have > want)
		wrong(c, at, "the last %s here is %" PRIu32 ", but there are only %" PRIu32,
		      what, have - 1, want);
}

static void
check_stages(Check *c)
{
	const Plan *p = c->p;
	uint32_t layer = 0, rank = 0;
	Loc at = head_at(c);

	for (uint32_t k = 0; k < p->nstages; k++) {
		const Stage *s = &p->stages[k];

		at = place(c, c->places ? c->places->stage_at : NULL, k);
		if (!follows(c, at, "layer", layer, s->first, s->count) ||
		    !follows(c, at, "rank", rank, s->rank, s->ranks))
			return;
		layer = s->first + s->count;
		rank = s->rank + s->ranks;
		if (layer > c->m->ninsts || rank > p->ranks) break;
		if (s->slots > p->microbatches)
			wrong(c, at, "%" PRIu32 " slots, but only %" PRIu32 " microbatches",
			      s->slots, p->microbatches);
	}
	ends(c, at, "layer", layer, c->m->ninsts);
	if (c->m->ninsts) ends(c, at, "rank", rank, p->ranks);
}

static void
check_runs(Check *c)
{
	const Plan *p = c->p;
	uint32_t layer = 0;
	Loc at = head_at(c);

	for (uint32_t i = 0; i < p->nruns; i++) {
		const Strategy *r = &p->runs[i];

		at = place(c, c->places ? c->places->run_at : NULL, i);
		if (!follows(c, at, "layer", layer, r->first, r->count)) return;
		layer = r->first + r->count;
		if (layer > c->m->ninsts) break;
	}
	ends(c, at, "layer", layer, c->m->ninsts);
}

/* Degrees multiply to the ranks of every stage the run has layers in. */
static void
check_degrees(Check *c)
{
	const Plan *p = c->p;

	for (uint32_t i = 0; i < p->nruns; i++) {
		const Strategy *r = &p->runs[i];
		uint64_t n = mesh_ranks(&p->meshes[r->mesh]);

		for (uint32_t k = 0; k < p->nstages; k++) {
			const Stage *s = &p->stages[k];

			if (s->first >= r->first + r->count || r->first >= s->first + s->count)
				continue;
			if (n == s->ranks) continue;
			wrong(c, place(c, c->places ? c->places->run_at : NULL, i),
			      "the degrees of mesh '%s' multiply to %" PRIu64
			      ", but stage %" PRIu32 " has %" PRIu32 " ranks",
			      mesh_name(c, r->mesh), n, k, s->ranks);
			break;
		}
	}
}

static void
check_batch(Check *c)
{
	const Plan *p = c->p;
	int64_t batch;

	if (!c->m->batch.i) return;
	batch = ir_extent(c->m, c->m->batch);
	if (batch % p->microbatches) {
		wrong(c, head_at(c),
		      "a batch of %" PRId64 " is not divisible by %" PRIu32 " microbatches",
		      batch, p->microbatches);
		return;
	}
	for (uint32_t i = 0; i < p->nmeshes; i++) {
		int64_t dp = 1;

		for (int k = 1; k < p->meshes[i].n; k++)
			if (p->meshes[i].ax[k].kind == MX_dp && dp <= batch)
				dp *= p->meshes[i].ax[k].degree;
		if (dp > batch / p->microbatches)
			wrong(c, place(c, c->places ? c->places->mesh_at : NULL, i),
			      "mesh '%s' splits a microbatch of %" PRId64
			      " samples over dp = %" PRId64,
			      mesh_name(c, i), batch / p->microbatches, dp);
	}
}

bool
plan_check(const Module *m, const Plan *plan, const PlanText *places, Diag *d, const char *who)
{
	Check c = {m, plan, places, d, who, true};

	check_ranges(&c);
	for (uint32_t i = 0; c.ok && i < plan->nmeshes; i++)
		check_mesh(&c, i);
	if (!c.ok) return false;
	check_stages(&c);
	check_runs(&c);
	if (c.ok) check_degrees(&c);
	check_batch(&c);
	return c.ok;
}

/* ---- for people ---- */

static void
summary_memory(const Module *m, Buf *out)
{
	const Memory *x = &m->mem[0];
	const struct {
		const char *what;
		int64_t from, to;
	} part[] = {
	    {"parameters", x->sec[SEC_param], x->sec[SEC_param] + x->sec_bytes[SEC_param]},
	    {"gradients", x->sec[SEC_grad],
	     x->sec[SEC_grad] < 0 ? -1 : x->sec[SEC_grad] + x->sec_bytes[SEC_param]},
	    {"optimizer", x->sec[SEC_m], x->sec[SEC_m] < 0 ? -1 : x->consts},
	    {"constants", x->consts, x->slots},
	    {"activations", x->slots, x->cots},
	    {"cotangents", x->cots, x->carry},
	    {"carried", x->carry, x->scratch},
	    {"scratch", x->scratch, x->arena_bytes},
	};
	const char *gap = "";

	buf_puts(out, "memory  ");
	buf_bytes(out, x->arena_bytes);
	buf_puts(out, " a rank: ");
	for (size_t i = 0; i < COUNTOF(part); i++) {
		if (part[i].to <= part[i].from) continue;
		buf_printf(out, "%s%s ", gap, part[i].what);
		buf_bytes(out, part[i].to - part[i].from);
		gap = ", ";
	}
	buf_puts(out, "\n        ");
	buf_bytes(out, x->live_bytes);
	buf_puts(out, " of it alive at once at most");
	if (x->live_bytes > 0)
		buf_printf(out, " (height %.3f of that)",
			   (double)x->arena_bytes / (double)x->live_bytes);
	buf_putc(out, '\n');
}

void
plan_summary(const Module *m, Buf *out)
{
	const Plan *p = &m->plan;

	buf_printf(out, "plan    %" PRIu32 " rank%s", p->ranks, p->ranks == 1 ? "" : "s");
	if (p->threads)
		buf_printf(out, " of %" PRIu32 " thread%s", p->threads,
			   p->threads == 1 ? "" : "s");
	else
		buf_puts(out, " with all cores");
	buf_printf(out, ", %" PRIu32 " stage%s, ", p->nstages, p->nstages == 1 ? "" : "s");
	buf_count(out, p->microbatches);
	buf_printf(out, " microbatch%s", p->microbatches == 1 ? "" : "es");
	if (m->batch.i && p->microbatches) {
		buf_puts(out, " of ");
		buf_count(out, ir_extent(m, m->batch) / p->microbatches);
		buf_puts(out, ir_extent(m, m->batch) == (int64_t)p->microbatches ? " sample"
										 : " samples");
	}
	buf_printf(out, ", %s%s\n", schedule_str[p->schedule],
		   p->forward_only ? ", forward only" : "");
	for (uint32_t i = 0; i < p->nruns; i++) {
		const Strategy *r = &p->runs[i];

		buf_puts(out, "layers  ");
		text_range(out, r->first, r->count);
		buf_printf(out, " on mesh %s, zero %u, recompute %s\n",
			   name_str(m->names, p->meshes[r->mesh].name), r->zero,
			   recompute_str[r->recompute]);
	}
	if (m->level >= LV_mem) summary_memory(m, out);
}
