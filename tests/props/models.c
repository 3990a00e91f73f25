/*
 * models.c - every shipped model at tiny extents: gradients against central differences of its loss, in double; and
 * simplify and autodiff leave the loss alone.
 */
#include "frontend/frontend.h"
#include "passes/passes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct Model {
	const char *path;
	const char *set[12];
} models[] = {
    {"models/gpt2.gdl", {"batch=2", "seq=5", "vocab=11", "embed=6", "heads=2", "layers=2"}},
    {"models/llama3.gdl",
     {"batch=2", "seq=5", "vocab=11", "embed=6", "kv=2", "group=2", "head=4", "ffn=5",
      "layers=2"}},
    {"models/mixtral.gdl",
     {"batch=2", "seq=4", "vocab=11", "embed=8", "kv=2", "group=2", "head=4", "ffn=6",
      "expert=4", "layers=2"}},
    {"models/t5.gdl",
     {"batch=2", "source=5", "seq=4", "vocab=11", "embed=8", "heads=2", "head=4", "ffn=6",
      "layers=2"}},
    {"models/bert.gdl",
     {"batch=2", "seq=6", "vocab=11", "embed=8", "heads=2", "layers=2", "pick=2"}},
    {"models/vit.gdl",
     {"batch=2", "height=8", "width=8", "py=4", "px=4", "class=5", "embed=8", "heads=2",
      "layers=2"}},
    {"models/swin.gdl",
     {"batch=1", "height=64", "width=64", "window_size=2", "c1=6", "n1=3", "class=5"}},
};

enum {
	PROBES = 3
}; /* entries looked at of each parameter; one where there are many parameters */

static void
fail(const char *model, const char *what)
{
	printf("models: %s: %s\n", model, what);
	exit(1);
}

/* Some legal content, the same for both. */
static void
set_inputs(const Module *m, Arena *a, Eval *x, Eval *y, const char *model)
{
	for (uint32_t i = 0; i < m->ninputs; i++) {
		const Input *in = &m->inputs[i];
		int64_t n = type_count(m, NULL, &in->type),
			range = in->range.i ? ir_extent(m, in->range) : 2;
		double *v = NEW_N(a, double, n);

		for (int64_t j = 0; j < n; j++)
			v[j] = dtype_float(in->type.dt) ? sin(1.7 * (double)j)
							: (double)((j * 7 + j * j + i) % range);
		if (!eval_set(x, name_str(m->names, in->name), v, (size_t)n) ||
		    !eval_set(y, name_str(m->names, in->name), v, (size_t)n))
			fail(model, "input");
	}
}

static double
loss_with(Eval *e, const char *name, double *x, size_t n, size_t i, double at)
{
	double keep = x[i], loss = NAN;

	x[i] = at;
	if (!eval_set(e, name, x, n) || !eval_run(e, &loss)) fail(name, "eval_run");
	x[i] = keep;
	return loss;
}

static int
compare(const Module *m, Arena *a, Eval *whole, Eval *trained, const char *model)
{
	double loss, again, h = 1e-5;
	size_t probes = m->nparams > 100 ? 1 : PROBES;
	int checked = 0;

	if (!eval_run(trained, &loss) || !eval_run(whole, &again)) fail(model, "eval_run");
	if (!(fabs(loss - again) <= 1e-12 * fabs(again)))
		fail(model, "autodiff changed the loss");
	for (uint32_t p = 0; p < m->nparams; p++) {
		const char *name = name_str(m->names, m->params[p].name);
		const double *g, *x;
		char key[300];
		double top = 0;

		snprintf(key, sizeof key, "grad:%s", name);
		size_t n = eval_get(whole, name, &x);
		if (!n || eval_get(trained, key, &g) != n) fail(model, key);
		double *y = arena_dup(a, x, n * sizeof *x);
		for (size_t i = 0; i < n; i++)
			top = fmax(top, fabs(g[i]));
		for (size_t k = 0; k < probes; k++, checked++) {
			size_t i = (k * 7919 + p * 31) % n;
			double d = (loss_with(whole, name, y, n, i, y[i] + h) -
				    loss_with(whole, name, y, n, i, y[i] - h)) /
				   (2 * h);

			if (fabs(g[i] - d) <= 1e-5 * fmax(fabs(d), 1e-2 * top) + 1e-9) continue;
			printf("models: %s: d %s[%zu] is %.12g, by differences %.12g\n", model,
			       name, i, g[i], d);
			exit(1);
		}
		eval_set(whole, name, y, n);
	}
	return checked;
}

static int
run(const struct Model *k)
{
	Arena *perm = arena_new(), *tmp = arena_new();
	Names *names = names_new(perm);
	Ctx c = {
	    .perm = perm, .tmp = tmp, .names = names, .diag = diag_new(perm, names, stdout)};
	FeOptions o = {.path = k->path, .set = k->set, .precision = DT_f64, .host = true};
	EvalOptions eo = {.f64 = true, .seed = 1, .ranks = 1};

	while (k->set[o.nset])
		o.nset++;
	Module *whole = fe_load(&c, &o);
	if (!whole) fail(k->path, "does not load");
	Module *m = ir_clone(whole, perm);
	if (!pass_simplify(&c, m) || !pass_autodiff(&c, m) || !pass_optimizer(&c, m) ||
	    !ir_verify(m, c.diag, "optimizer"))
		fail(k->path, "passes");
	Eval *a = eval_new(whole, &eo, c.diag), *b = eval_new(m, &eo, c.diag);
	if (!a || !b) fail(k->path, "eval_new");
	set_inputs(m, perm, a, b, k->path);
	int checked = compare(m, perm, a, b, k->path);

	eval_free(a);
	eval_free(b);
	arena_free(tmp);
	arena_free(perm);
	return checked;
}

int
main(void)
{
	int checked = 0;

	for (size_t i = 0; i < COUNTOF(models); i++)
		checked += run(&models[i]);
	printf("models: %d checks ok\n", checked);
	return 0;
}
