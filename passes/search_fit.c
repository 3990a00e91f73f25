/*
 * search_fit.c - nothing fits: which stage is tightest, by how much, and the cheapest change that would make it fit.
 *
 * The smallest plan is sought among the branches that may be smallest, by raising all limits alike until the solver has an
 * answer, and laid out. Then changes are tried, each by searching again with it: what the command line forbids, a smaller
 * batch, more ranks; and the memory that would do is the smallest plan's.
 */
#include <inttypes.h>

#include "passes/search.h"

enum { LOOKED_AT = 8, MOST_TIMES = 64 };

/* ---- the smallest plan ---- */

/* Bytes that every layer takes at its least, all over all stages. */
static int64_t
least_bytes(const Search *s, const Leaf *l)
{
	const Classes *classes = search_memo_classes(s->memo);
	uint32_t stages = s->division[l->division].stages;
	double sum = 0;
	for (uint32_t i = 0; i < s->m->ninsts; i++) {
		uint32_t c = classes->of[i];
		int64_t least = INT64_MAX;
		for (uint32_t k = 0; k < stages; k++)
			for (uint32_t j = 0;
			     (!k || l->rows[k] != l->rows[k - 1]) && j < l->rows[k]->ncand[c];
			     j++) {
				const SolveCost *x = &l->rows[k]->cost[c][j];
				if (x->state + x->saved < least) least = x->state + x->saved;
			}
		if (least < INT64_MAX) sum += (double)least;
	}
	return (int64_t)(sum / stages);
}

static bool
smallest_of(Search *s, Leaf *l, Found *out)
{
	int64_t more;
	if (l->state != ST_limited) branch_recompute(s, l);
	if (!branch_least_memory(s, l, &more)) return false;
	Plan p = search_plan(s, l, s->c->perm);
	Found f = search_try(s, &p, false);
	if (f.most >= 0 && (out->most < 0 || f.over < out->over)) *out = f;
	l->over = f.over;
	l->tight = f.tight;
	return f.most >= 0;
}

static void
find_smallest(Search *s, Tree *t, Found *out)
{
	bool *seen = NEW_N(s->a, bool, t->n);
	out->most = -1;
	for (int turn = 0; turn < LOOKED_AT; turn++) {
		Leaf *best = NULL;
		int64_t bytes = INT64_MAX;
		for (uint32_t i = 0; i < t->n; i++) {
			Leaf *l = &t->leaf[i];
			if (seen[i] || !l->rows || l->fate == LF_no_mesh) continue;
			int64_t x = least_bytes(s, l);
			if (x < bytes) best = l, bytes = x;
		}
		if (!best) return;
		seen[best - t->leaf] = true;
		smallest_of(s, best, out);
	}
}

/* ---- what would fit ---- */

typedef struct Try {
	Search s;
	Ctx c;
} Try;

static bool
would_fit(const Search *s, Try *x, uint32_t ranks)
{
	Found f;
	x->s = *s;
	x->s.c = &x->c;
	x->c.diag = diag_new(s->c->tmp, s->c->names, NULL);
	x->c.explain = x->s.explain = false;
	return search_counts(&x->s) && search_quietly(&x->s, ranks, &f) && f.most >= 0 &&
	       f.over <= 0;
}

/* What the command line rules out. */
static bool
try_options(const Search *s, Buf *out)
{
	Try x = {.c = *s->c};
	if (s->c->recompute_given && s->c->recompute != RC_full) {
		x.c.recompute_given = false;
		if (would_fit(s, &x, s->ranks)) {
			buf_puts(out, "it fits without --recompute");
			return true;
		}
		x.c = *s->c;
	}
	struct Given {
		bool given;
		const char *name;
	} given[] = {{s->c->microbatches > 0, "--microbatches"},
		     {s->c->max_zero > 0, "--max-zero"},
		     {s->c->max_tp > 0, "--max-tp"},
		     {s->c->stages > 0, "--stages"},
		     {s->c->schedule_given, "--schedule"}};
	for (uint32_t i = 0; i < COUNTOF(given); i++) {
		if (!given[i].given) continue;
		x.c = *s->c;
		if (i == 0) x.c.microbatches = 0;
		if (i == 1) x.c.max_zero = 0;
		if (i == 2) x.c.max_tp = 0;
		if (i == 3) x.c.stages = 0;
		if (i == 4) x.c.schedule_given = false;
		if (!would_fit(s, &x, s->ranks)) continue;
		buf_printf(out, "it fits without %s", given[i].name);
		return true;
	}
	return false;
}

static bool
try_batch(const Search *s, Buf *out)
{
	for (int64_t batch = s->batch / 2; batch >= 1 && s->m->batch.i; batch /= 2) {
		Try x = {.c = *s->c};
		Search y = *s;
		Module *m = ir_clone(s->m, s->a);
		m->axes[m->batch.i].extent = batch;
		y.m = m;
		y.batch = batch;
		if (!would_fit(&y, &x, s->ranks)) continue;
		buf_printf(out, "a batch of %" PRId64 " fits, instead of %" PRId64, batch,
			   s->batch);
		return true;
	}
	return false;
}

static bool
try_ranks(const Search *s, Buf *out)
{
	uint32_t most = s->c->cluster ? s->c->cluster->devices : UINT32_MAX;
	for (uint32_t k = 2; k <= MOST_TIMES && s->ranks <= most / k && s->ranks <= 1u << 14;
	     k *= 2) {
		Try x = {.c = *s->c};
		if (!would_fit(s, &x, s->ranks * k)) continue;
		buf_printf(out, "%" PRIu32 " ranks fit", s->ranks * k);
		return true;
	}
	return false;
}

/* ---- what is said ---- */

static Recompute
most_recomputed(const Plan *p)
{
	Recompute rc = RC_none;
	for (uint32_t i = 0; i < p->nruns; i++)
		if (p->runs[i].recompute > rc) rc = p->runs[i].recompute;
	return rc;
}

static void
put_shape(const Search *s, const Found *f, Buf *out)
{
	uint32_t mb = f->plan.microbatches;
	if (s->ranks > 1)
		buf_printf(out, " a rank (%" PRIu32 " stage%s, ", f->plan.nstages,
			   f->plan.nstages == 1 ? "" : "s");
	else
		buf_puts(out, " (");
	buf_printf(out, "%" PRIu32 " microbatch%s, recompute %s)", mb, mb == 1 ? "" : "es",
		   recompute_str[most_recomputed(&f->plan)]);
}

/* A size that does when it is typed as it is printed: rounded up, in two decimals. */
static const char *
at_least(const Search *s, int64_t bytes)
{
	int64_t unit = 1024;
	while (bytes / unit >= 1024)
		unit *= 1024;
	return search_bytes_str(s, bytes < 1024 ? bytes : bytes + unit / 200);
}

/* Some device has no byte left beside what its context and communicators take: says so. */
static bool
note_taken(const Search *s)
{
	for (uint32_t i = 0; i < s->cluster->nrun; i++) {
		const Device *d = &s->cluster->device[s->cluster->run[i].device];
		int64_t taken = d->reserved + d->comm_bytes,
			have = s->memory > 0 ? s->memory : d->memory;
		if (have > taken) continue;
		diag_note(
		    s->c->diag, (Loc){0},
		    "context, libraries and a communicator take %s of a device '%s' to begin "
		    "with, all of its %s",
		    search_bytes_str(s, taken), name_str(s->c->names, d->name),
		    search_bytes_str(s, have));
		return true;
	}
	return false;
}

static void
report(const Search *s, const Found *f, bool error)
{
	void (*say)(Diag *, Loc, const char *, ...) = error ? diag_error : diag_warn;
	Buf b, change;
	int64_t params = 0;
	buf_init(&b, s->c->tmp);
	buf_init(&change, s->c->tmp);
	for (uint32_t i = 0; i < s->m->nparams; i++)
		params += type_bytes(s->m, NULL, &s->m->params[i].type);
	buf_bytes(&b, f->bytes[f->tight]);
	put_shape(s, f, &b);
	buf_puts(&b, ", of ");
	buf_bytes(&b, f->bytes[f->tight] - f->over);
	if (f->plan.nstages > 1) buf_printf(&b, ", in stage %" PRIu32, f->tight);
	buf_puts(&b, "; over by ");
	buf_bytes(&b, f->over);
	say(s->c->diag, (Loc){0},
	    "no plan fits the memory: the smallest takes %s; the parameters alone take %s, and "
	    "their gradients and each of the optimizer's moments as much again",
	    b.s, search_bytes_str(s, params));
	if (note_taken(s))
		change.n = 0; /* nothing but memory helps */
	else if (!try_options(s, &change) && !try_batch(s, &change))
		try_ranks(s, &change);
	diag_note(s->c->diag, (Loc){0}, "%s%s%s of memory a rank would do",
		  change.n ? change.s : "", change.n ? "; else " : "",
		  at_least(s, f->bytes[f->tight]));
}

/* ---- nothing fits, or nothing lowers ---- */

/* A model that does not split into these microbatches on one rank either: spmd will say so, at its place. */
static bool
refuse_batch(const Search *s, Found *out)
{
	Mesh mesh;
	search_mesh(&(Candidate){.dp = 1, .tp = 1}, s->mb[0], &mesh);
	Strategy r = {.recompute = RC_none};
	Plan p = search_uniform(s, s->c->perm, s->mb[0], &mesh, &r);
	Found f = search_try(s, &p, false);
	if (f.most >= 0) return false;
	*out = (Found){.plan = p, .most = -1};
	return true;
}

/* Can this many ranks be used at all? */
static bool
usable(const Search *s, uint32_t ranks)
{
	Try x = {.c = *s->c, .s = *s};
	x.s.c = &x.c;
	x.c.diag = diag_new(s->c->tmp, s->c->names, NULL);
	x.s.explain = false;
	return search_lowers(&x.s, ranks);
}

/* Nothing uses all ranks: which counts near this one are used by something? */
static void
report_left_over(const Search *s)
{
	Buf b;
	uint32_t below[6], n = 0, above = s->ranks;
	buf_init(&b, s->c->tmp);
	for (uint32_t r = s->ranks; --r && n < COUNTOF(below) && s->ranks - r < 64;)
		if (r == 1 || usable(s, r)) below[n++] = r;
	uint32_t half = 1;
	while (half <= s->ranks / 2)
		half *= 2;
	for (; !n && half; half /= 2)
		if (half < s->ranks && (half == 1 || usable(s, half))) below[n++] = half;
	while (n--)
		buf_printf(&b, " %" PRIu32, below[n]);
	while (++above <= s->ranks + 16)
		if (usable(s, above)) {
			buf_printf(&b, " %" PRIu32, above);
			break;
		}
	diag_error(s->c->diag, (Loc){0},
		   "no plan uses all %" PRIu32
		   " ranks: no stages and degrees of dp and tp that divide them fit the model "
		   "(--explain says why); usable are%s",
		   s->ranks, b.s);
}

bool
search_fit(Search *s, Tree *t, Found *out)
{
	bool lowers = false;
	*out = (Found){.most = -1};
	for (uint32_t i = 0; i < t->n; i++)
		lowers |= t->leaf[i].rows && t->leaf[i].fate != LF_no_mesh;
	if (lowers) find_smallest(s, t, out);
	if (out->most >= 0) {
		/* a limit that nobody gave is this machine's: programs are also made for others */
		bool error = s->memory > 0 || s->c->cluster;
		report(s, out, error);
		return !error;
	}
	if (refuse_batch(s, out)) return true;
	report_left_over(s);
	return false;
}
