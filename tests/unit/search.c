/*
 * search.c - the plan search against exhaustive search on small clusters, fast and slow devices mixed; bounds that hold;
 * the same search once more with one thing changed.
 *
 * Exhaustive: every order of nodes, every division of the devices, every count of microbatches, solved to the end with all
 * meshes and all moves priced. By the tables, as the solver does.
 */
#include <string.h>

#include "frontend/frontend.h"
#include "passes/search.h"
#include "tests/unit/check.h"

/* One node of four fast devices, one of four slow ones; bytes of each. */
static const char *const two_kinds =
    "hw 1\n"
    "cluster two\n"
    "device fast cuda sm_90\n"
    "  memory %s reserved 1MiB communicator 4KiB\n"
    "  flops f32 40GFLOP/s\n  bytes 60GB/s\n  loops 100G/s\n  launch 1us\n"
    "device slow cuda sm_80\n"
    "  memory %s reserved 1MiB communicator 4KiB\n"
    "  flops f32 10GFLOP/s\n  bytes 20GB/s\n  loops 30G/s\n  launch 1us\n"
    "node 1 x %d fast near 1us 20GB/s far 3us 5GB/s\n"
    "node 1 x %d slow near 1us 10GB/s far 3us 5GB/s\n";

typedef struct Case {
	Ctx c;
	Module *m;
	char text[1024];
} Case;

/* A model at level train, on that cluster. */
static void
start(Case *x, const char *model, const char *const *set, int nset, const char *fast,
      const char *slow, int each)
{
	FeOptions fe = {.path = model, .set = set, .nset = nset, .host = false};
	memset(x, 0, sizeof *x);
	x->c.perm = arena_new();
	x->c.tmp = arena_new();
	x->c.names = names_new(x->c.perm);
	x->c.diag = diag_new(x->c.perm, x->c.names, stderr);
	x->m = fe_load(&x->c, &fe);
	CHECK(x->m, " ");
	CHECK(pass_run_all(&x->c, &x->m,
			   &(PassOptions){.stop_after = "optimizer", .verify = true}),
	      " ");
	if (!fast) return;
	snprintf(x->text, sizeof x->text, two_kinds, fast, slow, each, each);
	x->c.cluster = cluster_parse(x->c.perm, x->c.names, x->c.diag,
				     name_of(x->c.names, "two.hw"), x->text, strlen(x->text));
	CHECK(x->c.cluster, " ");
}

static void
end(Case *x)
{
	arena_free(x->c.tmp);
	arena_free(x->c.perm);
}

static void
price_all_moves(Search *s, const Leaf *l)
{
	uint32_t n = search_memo_classes(s->memo)->n;
	for (uint32_t k = 0; k < s->division[l->division].stages; k++) {
		Rows *r = l->rows[k];
		for (uint32_t c = 0; r->move && c < n; c++)
			for (uint32_t i = 0; i < r->table.ngroups * r->table.ngroups; i++)
				search_rows_move(s, s->division[l->division].spot[k], r, c,
						 i / r->table.ngroups, i % r->table.ngroups);
	}
}

/* The best by the tables of all there is; and whether bounds held everywhere. */
static int64_t
exhaust(Case *x, uint32_t *branches, bool *held)
{
	Search s = {.c = &x->c,
		    .m = ir_clone(x->m, x->c.perm),
		    .a = x->c.perm,
		    .trains = true,
		    .batch = ir_extent(x->m, x->m->batch),
		    .ranks = x->c.cluster->devices};
	Tree t;
	int64_t best = INT64_MAX;
	for (uint32_t n = 1; n <= s.batch; n++)
		if (s.batch % n == 0) PUSH(s.a, s.mb, s.nmb, s.cmb, n);
	search_begin(&s, NULL);
	search_tree_plant(&s, &t);
	*branches = t.n;
	*held = true;
	for (uint32_t i = 0; i < t.n; i++) {
		Leaf *l = &t.leaf[i];
		int64_t arithmetic = l->least;
		SolveProblem p;
		SolveAnswer y;
		WorkRange level[MAX_LEVELS];
		if (!branch_open(&s, l)) continue;
		price_all_moves(&s, l);
		branch_problem(&s, l, &p);
		p.gap = 0;
		if (!solve(s.a, &p, &y)) continue;
		uint32_t n = search_levels(l, &p, level);
		*held &= arithmetic <= y.time && l->least <= y.time &&
			 search_bound(l, &p, level, n) <= y.time;
		if (y.time < best) best = y.time;
	}
	return best;
}

static void
against_exhaustive(const char *fast, const char *slow, int each, const char *layers)
{
	Case x, y;
	char set[32];
	snprintf(set, sizeof set, "layers=%s", layers);
	const char *const sets[] = {set};
	uint32_t branches;
	bool held;
	start(&x, "tests/models/gpt.gdl", sets, 1, fast, slow, each);
	start(&y, "tests/models/gpt.gdl", sets, 1, fast, slow, each);
	int64_t best = exhaust(&x, &branches, &held);
	CHECK(pass_plan(&y.c, y.m), " ");
	const SearchLog *g = y.c.log;
	int64_t found = INT64_MAX;
	for (uint32_t i = 0; i < g->nfinalists; i++)
		if (g->finalist[i].table_time < found) found = g->finalist[i].table_time;
	printf("%s + %s, %d + %d devices, %s layers: %u branches, best %.3f ms, found %.3f ms, "
	       "%u stages\n",
	       fast, slow, each, each, layers, branches, (double)best * 1e-6,
	       (double)found * 1e-6, y.m->plan.nstages);
	CHECK(held, " ");
	CHECK(g->nfinalists > 0, " ");
	CHECK((double)found <= 1.01 * (double)best, " ");
	CHECK(g->least <= found, " ");
	CHECK(g->gap <= 0.02, " ");
	for (uint32_t i = 0; i < g->nfinalists; i++)
		CHECK(g->finalist[i].time >= y.m->plan.time, " ");
	end(&x);
	end(&y);
}

/* Slow devices get fewer layers, or the batch. */
static void
test_unequal(void)
{
	against_exhaustive("1GiB", "1GiB", 2, "3");
	against_exhaustive("1GiB", "1GiB", 4, "6");
	against_exhaustive("3MiB", "1600KiB", 4, "6");
	against_exhaustive("1700KiB", "4MiB", 4, "4");
}

/* Whatever order its nodes are in, a cluster is as good. */
static void
test_again(void)
{
	Case x;
	SearchAgain y;
	start(&x, "tests/models/gpt.gdl", NULL, 0, "3MiB", "2MiB", 2);
	CHECK(pass_plan(&x.c, x.m), " ");
	const SearchLog *g = x.c.log;
	const LogFinalist *f = &g->finalist[g->chosen];
	SearchChange none = {.layer = UINT32_MAX};
	CHECK(search_again(&x.c, g, &none, x.c.tmp, &y), " ");
	CHECK(y.fits, " ");
	CHECK((double)y.time <= 1.02 * (double)f->table_time, " ");
	SearchChange more = {.layer = UINT32_MAX, .more_memory = 1 << 30};
	SearchAgain z;
	CHECK(search_again(&x.c, g, &more, x.c.tmp, &z), " ");
	CHECK(z.fits && (double)z.time <= 1.005 * (double)y.time, " ");
	SearchChange less = {.layer = UINT32_MAX, .more_memory = -(1 << 20)};
	CHECK(search_again(&x.c, g, &less, x.c.tmp, &z), " ");
	CHECK(!z.fits && z.over > 0 && z.why, " ");
	SearchChange links = {.layer = UINT32_MAX, .more_far = 1e12, .more_near = 1e12};
	CHECK(search_again(&x.c, g, &links, x.c.tmp, &z), " ");
	CHECK(z.fits && z.time <= y.time, " ");
	SearchChange all = {.layer = UINT32_MAX, .more_far = 1e12, .everywhere = true};
	CHECK(search_again(&x.c, g, &all, x.c.tmp, &z), " ");
	CHECK(z.fits && (double)z.time <= 1.02 * (double)y.time, " ");
	/* every candidate of the first layer's stage, forced: none is faster than the best by more than the gap */
	const LogBranch *b = &g->branch[f->branch];
	const LogTable *t = &b->table[b->table_of[0]];
	uint32_t fit = 0;
	for (uint32_t k = 0; k < t->ncand; k++) {
		SearchChange forced = {.layer = 0, .cand = t->cand[k]};
		CHECK(search_again(&x.c, g, &forced, x.c.tmp, &z), " ");
		fit += z.fits;
		CHECK(!z.fits || (double)z.time >= 0.98 * (double)y.time, " ");
		if (!z.fits) continue;
		const LogTable *now = &z.branch->table[z.branch->table_of[0]];
		const LogCandidate *got = &now->cand[z.branch->answer->cand[0]];
		CHECK(got->dp == forced.cand.dp && got->tp == forced.cand.tp &&
			  got->zero == forced.cand.zero && got->rc == forced.cand.rc,
		      " ");
	}
	CHECK(fit > 1, " ");
	end(&x);
}

int
main(void)
{
	test_unequal();
	test_again();
	return checked("search");
}
