/*
 * json.c - fuzzes the readers of Galvatron's files: any text is refused with a diagnostic, or means something.
 *
 * Input: JSON; or, if the first byte is 's', JSON from the second on that is a strategy for a model made here. Measurements
 * become a machine whose .hw reads back, and a plan from the costs of its layers, which reads back as a strategy.
 */
#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"
#include "passes/imported.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static const char model[] = "model rows\n"
			    "layers = 4\n"
			    "axis batch = 16, embed = 4\n"
			    "input x[batch embed] : float\n"
			    "layer first(x) { return rmsnorm[embed](x) as \"n\" }\n"
			    "layer block(x) { return x + rmsnorm[embed](x) as \"n\" }\n"
			    "layer last(x) { return mean[batch embed](x * x) }\n"
			    "forward { h = first(x) as \"first\"; for i in 0..layers { h = "
			    "block(h) as \"h.{i}\" }; return "
			    "last(h) }\n"
			    "train { optimizer = adamw(lr = 1e-3); precision = f32 }\n";

static bool
same_text(const Buf *a, const Buf *b)
{
	return a->n == b->n && memcmp(a->s, b->s, a->n) == 0;
}

/* An accepted strategy is said again in the same words, twice. */
static void
fuzz_strategy(Ctx *c, const char *text, size_t n)
{
	const FeOptions o = {.path = "rows.gdl", .host = true};
	Module *m = fe_parse_text(c, &o, model, sizeof(model) - 1);
	if (!m) abort();
	m->level = LV_spmd; /* where a plan may hold what is not lowered yet */
	if (!gal_plan_parse(m, c->diag, name_of(c->names, "s.json"), text, n, 8)) {
		if (!diag_errors(c->diag)) abort();
		return;
	}
	GalPlan p, q;
	Buf one, two;
	buf_init(&one, c->perm);
	buf_init(&two, c->perm);
	if (!gal_plan_of(m, c->diag, c->perm, &p)) abort();
	gal_plan_print(&p, &one);
	if (!gal_plan_parse(m, c->diag, name_of(c->names, "again.json"), one.s, one.n, 0) ||
	    !gal_plan_of(m, c->diag, c->perm, &q))
		abort();
	gal_plan_print(&q, &two);
	if (!same_text(&one, &two)) abort();
}

static void
check_hw(Ctx *c, const Cluster *x)
{
	Buf one, two;
	Name again = name_of(c->names, "again.hw");
	buf_init(&one, c->perm);
	buf_init(&two, c->perm);
	cluster_print(x, c->names, &one);
	diag_source(c->diag, again, one.s, one.n);
	const Cluster *y = cluster_parse(c->perm, c->names, c->diag, again, one.s, one.n);
	if (!y) abort();
	cluster_print(y, c->names, &two);
	if (!same_text(&one, &two)) abort();
}

static void
fuzz_files(Ctx *c, const char *text, size_t n)
{
	static const uint32_t layers[] = {2, 1};
	GalFiles *f = gal_files(c->perm, c->names, c->diag);
	Device d = {.name = name_of(c->names, "d"),
		    .target = TG_cuda,
		    .memory = (int64_t)1 << 33,
		    .flops = {[DT_f32] = 1e12},
		    .bytes = 1e12,
		    .loops = 1e12};
	ImportAsk ask = {.layers = layers, .batch = 8, .hidden = 64};
	ImportFound found;
	for (int k = 0; k < EF_COUNT; k++)
		d.eff[k] = hw_eff[k].value;
	if (!gal_files_add(f, name_of(c->names, "x_2nodes_2gpus_per_node.json"), text, n)) {
		if (!diag_errors(c->diag)) abort();
		return;
	}
	const Cluster *x = gal_cluster(f, &d);
	if (!x) {
		if (!diag_errors(c->diag)) abort();
		return;
	}
	check_hw(c, x);
	ask.ntypes = 1 + (f->nmemory > 1);
	if (!imported_plan(c, f, x, &ask, &found)) {
		if (!diag_errors(c->diag)) abort();
		return;
	}
	GalPlan p;
	Buf b;
	buf_init(&b, c->perm);
	gal_plan_print(&found.plan, &b);
	if (!gal_plan_read(c->perm, c->names, c->diag, name_of(c->names, "p.json"), b.s, b.n, 0,
			   &p))
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	static FILE *nowhere;
	if (!nowhere) nowhere = fopen("/dev/null", "w");
	Ctx c = {.perm = arena_new(), .tmp = arena_new()};
	c.names = names_new(c.perm);
	c.diag = diag_new(c.perm, c.names, nowhere);
	if (n && bytes[0] == 's')
		fuzz_strategy(&c, (const char *)bytes + 1, n - 1);
	else
		fuzz_files(&c, (const char *)bytes, n);
	arena_free(c.tmp);
	arena_free(c.perm);
	return 0;
}
