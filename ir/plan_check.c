/*
 * plan_check.c - does a plan fit its module; and the plan in a few lines for people.
 *
 * Input: a plan in memory, from text or from a pass. Output: diagnostics with the numbers that conflict.
 * Rules: every layer in one run and in one stage; ranks likewise; the degrees of a run's mesh multiply to the ranks of its
 * stage; ZeRO has a dp to split over, megatron_sp a tp; microbatches divide the batch, and dp is not more than a
 * microbatch's samples (blocks are rounded up, so the last ranks may have fewer, or none).
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

/* Says more at a second place, if the plan is from text. */
static void GV_PRINTF(3, 4) also(Check *c, Loc at, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	if (!c->places || !at.line) return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	diag_note(c->d, at, "%s", text);
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

/* What is still to be lowered must be what lowering knows. */
static void
check_kinds(Check *c, const Mesh *mesh, Loc at)
{
	const char *name = name_str(c->m->names, mesh->name);
	int n[MX_COUNT] = {0};

	for (int k = 0; k < mesh->n; k++) {
		MeshKind kind = mesh->ax[k].kind;

		if (kind > MX_tp)
			wrong(
			    c, at,
			    "mesh '%s' has an axis %s, which splits nothing yet; dp splits the "
			    "batch, tp layers",
			    name, mesh_kind_str[kind]);
		/* the batch is split over mb as well */
		if (mesh->ax[k].degree > 1) n[kind == MX_mb ? MX_dp : kind]++;
	}
	for (int kind = MX_dp; kind <= MX_tp; kind++)
		if (n[kind] > MAX_SHARD)
			wrong(c, at,
			      "mesh '%s' splits one axis of a tensor %d times by %s, and %d is "
			      "the "
			      "most; write one axis with the product of their degrees",
			      name, n[kind], kind == MX_dp ? "mb and dp" : "tp", MAX_SHARD);
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
	if (c->m->level <= LV_plan) check_kinds(c, mesh, at);
}

/* The k-th piece begins where the one before ended. */
static bool
follows(Check *c, Loc at, const char *what, uint32_t want, uint32_t first, uint32_t count)
{
	char before[60] = "";

	if (want)
		snprintf(before, sizeof(before), ", the line before ends with %" PRIu32,
			 want - 1);
	if (first > want && first - want == 1)
		wrong(c, at, "%s %" PRIu32 " is left out: this begins with %" PRIu32 "%s", what,
		      want, first, before);
	else if (first > want)
		wrong(c, at,
		      "%ss %" PRIu32 "-%" PRIu32 " are left out: this begins with %" PRIu32
		      "%s",
		      what, want, first - 1, first, before);
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
	if (!have && want)
		wrong(c, at,
		      "%ss 0-%" PRIu32 " are left out: no line says where they run, like "
		      "'layers 0-%" PRIu32 " mesh %s'",
		      what, want - 1, want - 1, mesh_name(c, c->p->nmeshes - 1));
	else if (have < want && want - have == 1)
		wrong(c, at,
		      "%s %" PRIu32 " is left out: there are %" PRIu32
		      ", and this last line ends with %" PRIu32,
		      what, have, want, have - 1);
	else if (have < want)
		wrong(c, at,
		      "%ss %" PRIu32 "-%" PRIu32 " are left out: there are %" PRIu32
		      ", and this last line ends with %" PRIu32,
		      what, have, want - 1, want, have - 1);
	else if (have > want && want == 1)
		wrong(c, at, "the last %s here is %" PRIu32 ", but there is only 0", what,
		      have - 1);
	else if (have > want)
		wrong(c, at, "the last %s here is %" PRIu32 ", but there are only 0-%" PRIu32,
		      what, have - 1, want - 1);
}

/* Stages without ranks have equal shares; here that did not work out. */
static bool
check_shares(Check *c)
{
	const Plan *p = c->p;
	uint32_t without = 0, k = 0;

	for (uint32_t i = 0; i < p->nstages; i++)
		without += !p->stages[i].ranks;
	if (!without) return true;
	while (p->stages[k].ranks)
		k++;
	if (without < p->nstages)
		wrong(c, place(c, c->places ? c->places->stage_at : NULL, k),
		      "stage %" PRIu32 " has no ranks, but other stages have: give them to all "
		      "stages or to none",
		      k);
	else
		wrong(c, head_at(c),
		      "%" PRIu32 " ranks have no equal shares in %" PRIu32
		      " stages; give each stage its 'ranks', or plan for %" PRIu32
		      " or %" PRIu32,
		      p->ranks, p->nstages, p->ranks / p->nstages * p->nstages,
		      (p->ranks / p->nstages + 1) * p->nstages);
	return false;
}

static void
check_stages(Check *c)
{
	const Plan *p = c->p;
	uint32_t layer = 0, rank = 0;
	Loc at = head_at(c);

	if (!check_shares(c)) return;

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
			wrong(c, at,
			      "%" PRIu32 " slots, but only %" PRIu32
			      " microbatches; leave 'slots' out for as many as the schedule "
			      "needs",
			      s->slots, p->microbatches);
	}
	ends(c, at, "layer", layer, c->m->ninsts);
	if (!c->m->ninsts) return;
	ends(c, at, "rank", rank, p->ranks);
	if (rank != p->ranks)
		also(c, head_at(c),
		     "the stages have %" PRIu32 " ranks together; 'ranks %" PRIu32
		     "' would fit, or %s ranks for a stage",
		     rank, rank, rank < p->ranks ? "more" : "fewer");
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

/* One degree that could change, so that all multiply to `ranks`: "dp:4 or tp:2"; "" if none can. */
static const char *
other_degrees(const Mesh *mesh, uint64_t n, uint32_t ranks, char *text, size_t size)
{
	size_t len = 0;

	text[0] = '\0';
	for (int k = 1; k < mesh->n && n && len < size; k++) {
		uint64_t rest = n / mesh->ax[k].degree;
		int sub = 0;

		for (int j = 1; j < mesh->n; j++)
			sub += mesh->ax[j].kind == mesh->ax[k].kind;
		if (ranks % rest) continue;
		len += (size_t)snprintf(text + len, size - len, "%s%s", len ? " or " : "",
					mesh_kind_str[mesh->ax[k].kind]);
		if (sub > 1 && len < size)
			len += (size_t)snprintf(text + len, size - len, ".%u", mesh->ax[k].sub);
		if (len < size)
			len +=
			    (size_t)snprintf(text + len, size - len, ":%" PRIu64, ranks / rest);
	}
	return text;
}

static void
wrong_degrees(Check *c, uint32_t run, uint32_t stage, uint64_t n)
{
	const Stage *s = &c->p->stages[stage];
	uint32_t i = c->p->runs[run].mesh;
	const Mesh *mesh = &c->p->meshes[i];
	char text[200];

	if (n)
		wrong(c, place(c, c->places ? c->places->run_at : NULL, run),
		      "the degrees of mesh '%s' multiply to %" PRIu64 ", but stage %" PRIu32
		      " has %" PRIu32 " rank%s",
		      mesh_name(c, i), n, stage, s->ranks, s->ranks == 1 ? "" : "s");
	else
		wrong(c, place(c, c->places ? c->places->run_at : NULL, run),
		      "the degrees of mesh '%s' multiply to more than %d ranks",
		      mesh_name(c, i), MAX_RANKS);
	if (!c->places) return;
	other_degrees(mesh, n, s->ranks, text, sizeof(text));
	if (c->p->runs[run].first < s->first ||
	    c->p->runs[run].first + c->p->runs[run].count > s->first + s->count)
		also(c, place(c, c->places->stage_at, stage),
		     "stage %" PRIu32 " has some of these layers only; where the ranks change, "
		     "another 'layers' line begins",
		     stage);
	if (mesh->n == 1)
		also(c, place(c, c->places->run_at, run),
		     "'%s' is the mesh of a single rank; %" PRIu32
		     " ranks take one like 'mesh m1 = dp:%" PRIu32 "'",
		     mesh_name(c, i), s->ranks, s->ranks);
	else if (text[0])
		also(c, c->places->mesh_at[i], "%s would make %" PRIu32, text, s->ranks);
	else
		also(c, c->places->mesh_at[i],
		     "no one degree can be changed to make %" PRIu32 " of it", s->ranks);
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
			wrong_degrees(c, i, k, n);
			break;
		}
	}
}

static bool
mesh_has(const Mesh *mesh, MeshKind kind)
{
	for (int k = 1; k < mesh->n; k++)
		if (mesh->ax[k].kind == kind) return true;
	return false;
}

/* What a strategy asks of its mesh. */
static void
check_strategies(Check *c)
{
	for (uint32_t i = 0; i < c->p->nruns; i++) {
		const Strategy *r = &c->p->runs[i];
		const Mesh *mesh = &c->p->meshes[r->mesh];
		Loc at = place(c, c->places ? c->places->run_at : NULL, i);

		if (r->zero && !mesh_has(mesh, MX_dp))
			wrong(c, at,
			      "zero %u splits over dp, but mesh '%s' has none; say zero 0, or "
			      "give the mesh a dp",
			      r->zero, mesh_name(c, r->mesh));
		if (r->megatron_sp && !mesh_has(mesh, MX_tp))
			wrong(
			    c, at,
			    "megatron_sp splits over tp, but mesh '%s' has none; leave it out, "
			    "or give the mesh a tp",
			    mesh_name(c, r->mesh));
	}
}

static const char *
more_str(uint32_t more, char *text, size_t size)
{
	snprintf(text, size, " or %" PRIu32, more);
	return text;
}

static void
wrong_dp(Check *c, uint32_t mesh, int64_t batch, int64_t dp)
{
	int64_t less = batch / dp;
	char text[60] = "";

	while (less > 1 && batch % less)
		less--;
	if (less) snprintf(text, sizeof(text), ", or microbatches %" PRId64, less);
	wrong(c, place(c, c->places ? c->places->mesh_at : NULL, mesh),
	      "mesh '%s' splits a microbatch of %" PRId64 " samples over dp = %" PRId64
	      "; dp may be %" PRId64 " at most%s",
	      mesh_name(c, mesh), batch / c->p->microbatches, dp, batch / c->p->microbatches,
	      text);
}

static void
check_batch(Check *c)
{
	const Plan *p = c->p;
	char text[32];
	int64_t batch;

	if (!c->m->batch.i) return;
	batch = ir_extent(c->m, c->m->batch);
	if (batch % p->microbatches) {
		uint32_t less = p->microbatches, more = p->microbatches;

		while (batch % less)
			less--;
		while (more < batch && batch % more)
			more++;
		wrong(c, head_at(c),
		      "a batch of %" PRId64 " is not divisible by %" PRIu32
		      " microbatches; by %" PRIu32 "%s it is",
		      batch, p->microbatches, less,
		      batch % more || more > MAX_MB ? "" : more_str(more, text, sizeof(text)));
		return;
	}
	for (uint32_t i = 0; i < p->nmeshes; i++) {
		int64_t dp = 1;

		for (int k = 1; k < p->meshes[i].n; k++)
			if (p->meshes[i].ax[k].kind == MX_dp && dp <= batch)
				dp *= p->meshes[i].ax[k].degree;
		if (dp > batch / p->microbatches) wrong_dp(c, i, batch, dp);
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
	if (c.ok) check_strategies(&c);
	check_batch(&c);
	return c.ok;
}

/* ---- for people ---- */

static void
summary_memory(const Memory *x, Buf *out)
{
	const struct {
		const char *what;
		int64_t from, to;
	} part[] = {
	    {"parameters", x->sec[SEC_param], x->sec[SEC_param] + x->sec_bytes[SEC_param]},
	    {"gradients", x->sec[SEC_grad],
	     x->sec[SEC_grad] < 0 ? -1 : x->sec[SEC_grad] + x->sec_bytes[SEC_grad]},
	    {"optimizer", x->sec[SEC_m], x->sec[SEC_m] < 0 ? -1 : x->consts},
	    {"constants", x->consts, x->slots},
	    {"activations", x->slots, x->cots},
	    {"cotangents", x->cots,
	     x->gather >= 0 && x->gather_bytes ? x->gather
	     : x->dwork >= 0 && x->dwork_bytes ? x->dwork
					       : x->carry},
	    {"gathered parameters", x->gather,
	     x->gather_bytes ? x->gather + 2 * x->gather_bytes : -1},
	    {"unreduced gradients", x->dwork,
	     x->dwork_bytes ? x->dwork + 2 * x->dwork_bytes : -1},
	    {"carried", x->carry, x->scratch},
	    {"scratch", x->scratch, x->arena_bytes},
	};
	const char *gap = "";

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

static void
summary_run(const Module *m, const Strategy *r, Buf *out)
{
	const Mesh *mesh = &m->plan.meshes[r->mesh];
	uint32_t first = r->first, count = r->count;

	plan_layers(m, &first, &count);
	if (!count) return; /* reshards only */
	buf_puts(out, "layers  ");
	text_range(out, first, count);
	buf_printf(out, " on mesh %s", name_str(m->names, mesh->name));
	for (int k = 1; k < mesh->n; k++) {
		buf_puts(out, k == 1 ? " (" : " ");
		text_mesh_axis(out, mesh, k);
		buf_printf(out, ":%" PRIu32 "%s", mesh->ax[k].degree,
			   k + 1 == mesh->n ? ")" : "");
	}
	buf_printf(out, ", zero %u, recompute %s%s\n", r->zero, recompute_str[r->recompute],
		   r->megatron_sp ? ", megatron_sp" : "");
}

static void
summary_stage(const Module *m, uint32_t k, Buf *out)
{
	const Stage *s = &m->plan.stages[k];
	uint32_t first = s->first, count = s->count;

	plan_layers(m, &first, &count);
	buf_printf(out, "stage   %" PRIu32 ": layers ", k);
	text_range(out, first, count);
	buf_puts(out, s->ranks == 1 ? " on rank " : " on ranks ");
	text_range(out, s->rank, s->ranks);
	if (s->slots)
		buf_printf(out, ", %" PRIu32 " microbatch%s in flight", s->slots,
			   s->slots == 1 ? "" : "es");
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
	for (uint32_t i = 0; i < p->nruns; i++)
		summary_run(m, &p->runs[i], out);
	for (uint32_t k = 0; k < p->nstages; k++) {
		if (p->nstages > 1) summary_stage(m, k, out);
		if (m->level < LV_mem) continue;
		buf_puts(out, p->nstages > 1 ? "        " : "memory  ");
		summary_memory(&m->mem[k], out);
	}
}
