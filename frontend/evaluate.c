/*
 * evaluate.c - `galvatronc eval`: runs a module of any level in the interpreter and prints loss and gradient norm of every step.
 *
 * Inputs: with --data, `tokens` and `labels` are windows of a text file's bytes, window w of step t being sample w = t * batch + i
 * in file order (the runtime's --order sequential); every other input, and all of them without --data, are drawn from the seed.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "frontend/evaluate.h"

typedef struct Feed {
	const Module *m;
	Eval *eval;
	const unsigned char *text; /* NULL: drawn */
	size_t bytes;
	uint64_t seed;
} Feed;

static bool
named(const Module *m, const Input *in, const char *name)
{
	return strcmp(name_str(m->names, in->name), name) == 0;
}

/* Windows of the text: element (sample, position) of tokens, or of what follows when `next`. */
static bool
fill_text(const Feed *f, Diag *d, const Input *in, uint64_t step, int64_t next, double *x,
	  int64_t n)
{
	const int64_t batch = ir_extent(f->m, f->m->batch), seq = n / batch;
	const int64_t windows = ((int64_t)f->bytes - 1) / seq,
		      range = in->range.i ? ir_extent(f->m, in->range) : 256;
	if (windows < 1) {
		diag_error(
		    d, (Loc){0},
		    "the data has %zu bytes, one sample takes %lld and the byte that follows",
		    f->bytes, (long long)seq);
		return false;
	}
	for (int64_t i = 0; i < n; i++) {
		const int64_t sample =
		    (int64_t)((step * (uint64_t)batch + (uint64_t)(i / seq)) %
			      (uint64_t)windows);
		x[i] = f->text[sample * seq + i % seq + next];
		if (x[i] < range) continue;
		diag_error(d, in->loc, "byte %d in the data, but '%s' holds indices below %lld",
			   (int)x[i], name_str(f->m->names, in->name), (long long)range);
		return false;
	}
	return true;
}

static void
fill_drawn(const Feed *f, const Input *in, uint64_t step, double *x, int64_t n)
{
	const uint64_t key = rng_key(f->seed + step, name_str(f->m->names, in->name));
	for (int64_t i = 0; i < n; i++) {
		if (in->range.i)
			x[i] = floor(rng_uniform(key, (uint64_t)i) *
				     (double)ir_extent(f->m, in->range));
		else if (in->type.dt == DT_bool)
			x[i] = rng_uniform(key, (uint64_t)i) < 0.75;
		else if (dtype_float(in->type.dt))
			x[i] = rng_normal(key, (uint64_t)i);
		else
			x[i] = floor(rng_uniform(key, (uint64_t)i) * 16);
	}
}

static bool
feed_step(const Feed *f, Ctx *c, uint64_t step)
{
	for (uint32_t k = 0; k < f->m->ninputs; k++) {
		const Input *in = &f->m->inputs[k];
		const int64_t n = type_count(f->m, NULL, &in->type);
		double *x = NEW_N(c->tmp, double, n);
		const bool tokens = named(f->m, in, "tokens"),
			   labels = named(f->m, in, "labels");
		if (f->text && (tokens || labels)) {
			if (!fill_text(f, c->diag, in, step, labels, x, n)) return false;
		} else {
			fill_drawn(f, in, step, x, n);
		}
		if (!eval_set(f->eval, name_str(f->m->names, in->name), x, (size_t)n))
			return false;
	}
	return true;
}

bool
evaluate_feed(Ctx *c, const Module *m, Eval *e, uint64_t seed, uint64_t step)
{
	Feed f = {.m = m, .eval = e, .seed = seed};
	return feed_step(&f, c, step);
}

static void
print_reports(const Module *m, const Eval *e)
{
	for (uint32_t r = 1; r < m->nreports; r++) {
		const double *x;
		if (eval_get(e, name_str(m->names, m->reports[r].name), &x) == 1)
			printf(" %s %.17g", name_str(m->names, m->reports[r].name), x[0]);
	}
}

bool
evaluate(Ctx *c, const Module *m, const EvalOptions *o, const char *data, int64_t steps)
{
	Feed f = {.m = m, .seed = o->seed};
	if (data) {
		f.text =
		    (const unsigned char *)file_read(c->perm, data, (size_t)1 << 32, &f.bytes);
		if (!f.text) {
			diag_error(c->diag, (Loc){0}, "cannot read '%s': %s", data,
				   strerror(errno));
			return false;
		}
	}
	f.eval = eval_new(m, o, c->diag);
	if (!f.eval) return false;
	const bool trains = m->level >= LV_train && !m->plan.forward_only && !c->forward_only;
	bool ok = true;
	for (int64_t t = 0; ok && t < steps; t++) {
		double loss = NAN, norm = NAN;
		ok = feed_step(&f, c, (uint64_t)t) && eval_run(f.eval, &loss) &&
		     (!trains || eval_update(f.eval, (uint64_t)t, &norm));
		arena_reset(c->tmp);
		if (!ok) break;
		printf("step %lld loss %.17g", (long long)t, loss);
		if (trains) printf(" norm %.17g", norm);
		print_reports(m, f.eval);
		putchar('\n');
	}
	eval_free(f.eval);
	return ok;
}
