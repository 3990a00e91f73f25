/*
 * search.c - the plan: how many ranks, stages, meshes, microbatches, what is recomputed; or what --plan says.
 *
 * Input: LV_train. Output: LV_plan, and Ctx.log: what was seen. The tree (search_tree.c) gives the best plans by the table, which
 * are lowered, laid out and simulated; the fastest that fits is taken. A plan over the limit when laid out makes the solver run again with
 * so much less to spend, so that none is returned as fitting that does not. Deterministic: how many cores and how much
 * memory it has are the only things asked of the machine, and only where no option or file says.
 */
#include <inttypes.h>

#include "passes/search.h"

enum {
	AUTO_RANKS =
	    8,     /* all counts up to here are tried by --ranks auto, then powers of two */
	KEEP = 6,  /* plans that are lowered and simulated */
	TRIES = 8, /* times a branch may turn out over the limit when laid out */
};

/* ---- what there is to choose from ---- */

/* Counts that divide the batch; only the one asked for, if one is. False after a diagnostic. */
bool
search_counts(Search *s)
{
	Ctx *c = s->c;
	int64_t batch = s->m->batch.i ? ir_extent(s->m, s->m->batch) : 1;
	s->mb = NULL;
	s->nmb = s->cmb = 0;
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

/* ---- the best plans, laid out ---- */

/* Over the limit by so much: next time there is so much less to spend. */
static void
tighten(Search *s, Leaf *l, const Found *f)
{
	const Division *d = &s->division[l->division];
	for (uint32_t k = 0; f->most >= 0 && k < d->stages; k++) {
		int64_t room = s->spot[d->spot[k]].memory, less = f->arena[k] - room;
		if (less <= 0) continue;
		if (less < room / 256) less = room / 256;
		l->limit[k] -= less;
	}
	l->over = f->over;
	l->tight = f->tight;
	if (f->most < 0 || ++l->tries == TRIES) {
		l->state = ST_done;
		l->fate = f->most < 0 ? LF_no_mesh : LF_memory;
		l->why = f->most < 0 ? f->why : "over memory, laid out";
	} else {
		branch_recompute(s, l);
	}
}

typedef struct Finals {
	Found *f;
	uint32_t n, cap, best;
} Finals;

/* Tries what the tree found until the best KEEP are known for what they are. */
static void
settle(Search *s, Tree *t, uint32_t keep, Finals *out)
{
	for (uint32_t i = 0; i < t->nsolved && i < keep;) {
		Leaf *l = &t->leaf[t->solved[i]];
		if (l->tried) {
			i++;
			continue;
		}
		Plan p = search_plan(s, l, s->c->perm);
		Found f = search_try(s, &p, true);
		f.leaf = t->solved[i];
		if (f.most >= 0 && f.over <= 0) {
			l->tried = true;
			l->fate = LF_simulated;
			PUSH(s->a, out->f, out->n, out->cap, f);
			continue;
		}
		tighten(s, l, &f);
		search_tree_again(s, t, f.leaf, keep);
		i = 0;
	}
	for (uint32_t i = 1; i < out->n; i++) /* of equals the one the table likes better */
		if (out->f[i].time < out->f[out->best].time) out->best = i;
}

/* ---- the pass ---- */

/* What all kernels of a step take on one device of every kind, if it did the whole batch at once: as they are lowered, or, where one rank
 * cannot have it, products at the device's best. */
static void
measure_alone(Search *s)
{
	const Classes *k = search_memo_classes(s->memo);
	const Candidate one = {.dp = 1, .tp = 1};
	s->alone = NEW_N(s->a, double, s->cluster->ndevice);
	for (uint32_t d = 0; d < s->cluster->ndevice; d++) {
		const char *why;
		if (s->probe[d] == UINT32_MAX) continue;
		const Measured *x =
		    search_measure(s, &s->spot[s->probe[d]], &one, 1, false, &why);
		for (uint32_t i = 0; x && i < s->m->ninsts; i++)
			s->alone[d] += (double)search_computes(x, k->of[i]);
	}
}

void
search_begin(Search *s, const Cluster *cluster)
{
	s->order = NULL;
	s->spot = NULL;
	s->division = NULL;
	s->norders = s->corders = s->nspots = s->cspots = s->ndivisions = s->cdivisions = 0;
	s->cluster = cluster ? cluster : s->c->cluster;
	if (!s->cluster)
		s->cluster =
		    price_cluster(price_new(s->a, NULL, NULL, s->ranks, s->c->threads));
	s->memo = search_memo(s);
	search_space(s);
	measure_alone(s);
}

static void
begin(Search *s, uint32_t ranks)
{
	s->ranks = ranks;
	search_begin(s, NULL);
}

bool
search_quietly(Search *s, uint32_t ranks, Found *out)
{
	Tree t;
	Finals all = {0};
	begin(s, ranks);
	search_tree(s, 1, &t);
	settle(s, &t, 1, &all);
	if (all.n) *out = all.f[all.best];
	return all.n > 0;
}

bool
search_lowers(Search *s, uint32_t ranks)
{
	begin(s, ranks);
	for (uint32_t i = 0; i < s->nspots; i++)
		if (search_rows(s, i, s->mb[0], RC_none, false)->log.ncand) return true;
	return false;
}

/* The best plan for a number of ranks. False after a diagnostic. */
static bool
search(Search *s, uint32_t ranks, Found *out)
{
	Tree t;
	Finals all = {0};
	begin(s, ranks);
	search_tree(s, KEEP, &t);
	settle(s, &t, KEEP, &all);
	while (all.n && search_tree_widen(s, &t, all.f[all.best].time, KEEP))
		settle(s, &t, KEEP, &all);
	search_tree_prove(s, &t);
	search_log(s, &t, all.f, all.n, all.best);
	if (!all.n) return search_fit(s, &t, out);
	*out = all.f[all.best];
	return true;
}

/* Of 1 .. all cores the count whose plan is fastest; fewer if equal. Says which and why. */
static bool
search_auto(Search *s, Found *best)
{
	Buf b;
	uint32_t most = s->c->cluster ? s->c->cluster->devices : price_cores(), one = 0;
	buf_init(&b, s->c->perm);
	for (uint32_t n = 1; n <= most; n = n < AUTO_RANKS ? n + 1 : 2 * n) {
		Found f;
		Ctx quiet = *s->c;
		Search t = *s;
		quiet.diag = diag_new(s->c->tmp, s->c->names, NULL);
		t.c = &quiet;
		if (!search(&t, n, &f) || f.most < 0) continue;
		buf_printf(&b, "%s%" PRIu32 " rank%s %.3g ms%s", one++ ? ", " : "", n,
			   n == 1 ? "" : "s", (double)f.time * 1e-6,
			   f.over <= 0 ? "" : " (does not fit)");
		if (one > 1 && (f.over > 0 || (best->over <= 0 && f.time >= best->time)))
			continue;
		*best = f;
		s->ranks = n;
		s->c->log = quiet.log;
	}
	buf_printf(&b, ": %" PRIu32 " chosen, of %" PRIu32 " %s%s", s->ranks, most,
		   s->c->cluster ? "device" : "core", most == 1 ? "" : "s");
	s->c->why = b.s;
	if (s->explain) printf("plan: a step is predicted to take %s\n", b.s);
	return one > 0 || search(s, 1, best);
}

/* --ranks, else all devices of --cluster, else one. 0 after a diagnostic. */
static uint32_t
count_ranks(const Ctx *c)
{
	uint32_t most = c->cluster ? c->cluster->devices : UINT32_MAX, n = c->ranks ? c->ranks
									   : c->cluster ? most
											: 1;
	if (n <= most) return n;
	diag_error(c->diag, (Loc){0},
		   "--ranks says %" PRIu32 ", the cluster has %" PRIu32 " device%s", n, most,
		   most == 1 ? "" : "s");
	return 0;
}

/* A stage has a rank and a layer at least. */
static bool
usable_stages(const Ctx *c, const Module *m, uint32_t ranks)
{
	if (c->stages <= ranks && c->stages <= m->ninsts) return true;
	diag_error(
	    c->diag, (Loc){0},
	    "--stages %" PRIu32 ": every stage takes a rank and a layer; there %s %" PRIu32
	    " rank%s and %" PRIu32 " layers",
	    c->stages, ranks == 1 ? "is" : "are", ranks, ranks == 1 ? "" : "s", m->ninsts);
	return false;
}

bool
pass_plan(Ctx *c, Module *m)
{
	if (c->plan_path) return search_given(c, m);
	Search s = {.c = c,
		    .m = ir_clone(m, c->perm),
		    .a = c->perm,
		    .memory = c->memory_bytes,
		    .explain = c->explain,
		    .trains = !c->forward_only && !m->plan.forward_only,
		    .batch = m->batch.i ? ir_extent(m, m->batch) : 1};
	Found best = {0};
	if (!search_counts(&s)) return false;
	uint32_t ranks = c->ranks_auto ? 1 : count_ranks(c);
	if (!ranks || (!c->ranks_auto && !usable_stages(c, m, ranks))) return false;
	if (!(c->ranks_auto ? search_auto(&s, &best) : search(&s, ranks, &best))) return false;
	m->plan = best.plan;
	m->plan.time = best.time;
	m->plan.memory = best.most > 0 ? best.most : 0;
	if (c->log && c->log->least < INT64_MAX) m->plan.least = c->log->least;
	if (c->cluster) m->plan.cluster = c->cluster->name;
	m->level = LV_plan; /* one that does not lower is refused by spmd, at its place */
	return true;
}
