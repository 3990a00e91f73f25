/*
 * main.c - gvrt_main: from the arguments to the exit status. Read this first.
 *
 * 0: done; 1: the machine or a file failed; 2: the command line is wrong; 128 + n: stopped by signal n.
 */
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "gvrt_int.h"

/* First values: of the constants, then of the parameters, from a checkpoint, a file, or the seed. */
static bool
first_values(GvrtRun *r, struct GvrtState *s)
{
	const GvrtProgram *p = s->p;
	const Options *o = s->o;
	if (p->consts) p->consts(r);
	if (o->init) return checkpoint_init(&s->pool, r, p, o->init, &s->err);
	if (!o->resume) {
		params_init(r, p);
		return true;
	}
	Resumed from;
	if (!checkpoint_load(&s->checkpoint, &s->pool, r, p, o->resume, &from, &s->err))
		return false;
	if (o->has_seed && from.seed != r->seed)
		return rt_fail(
		    &s->err,
		    "%s was made with --seed %llu: a run goes on with the seed it began with",
		    o->resume, (unsigned long long)from.seed);
	r->step = from.step;
	r->seed = from.seed;
	s->shift = from.samples - (int64_t)from.step * p->microbatch * p->microbatches;
	return true;
}

/* Opened before the arena is: a bad file is the most frequent mistake. */
static bool
open_data(struct GvrtState *s, uint64_t seed)
{
	const Options *o = s->o;
	const GvrtProgram *p = s->p;
	DataFormat format = (DataFormat)o->format;
	if (p->ninputs == 0) return true;
	if (o->data &&
	    !source_open(&s->train, &s->pool, p, o->data, format, o->order == 0, seed, &s->err))
		return false;
	return !o->val_data ||
	       source_open(&s->val, &s->pool, p, o->val_data, format, false, seed, &s->err);
}

static bool
start(GvrtRun *r, struct GvrtState *s)
{
	const GvrtProgram *p = s->p;
	const Options *o = s->o;
	r->seed = (uint64_t)o->seed;
	s->sums = POOL_N(&s->pool, double, p->nreports + 1);
	s->eval = POOL_N(&s->pool, double, p->nreports + 1);
	progress_open(&s->progress, p, o);
	if (!open_data(s, r->seed)) return false;
	if (!checkpoint_start(&s->checkpoint, &s->pool, o->checkpoint, p, &s->err))
		return false;
	r->arena = arena_map(p->arena_bytes, &s->err);
	if (!r->arena) return false;
	if (!o->quiet && o->steps > 0)
		s->progress.peak = progress_peak(r->arena, p->arena_bytes);
	if (!first_values(r, s)) return false;
	s->train.key = gvrt_key(r->seed, "data"); /* a resumed run goes on with its own seed */
	progress_header(&s->progress, p, &s->at, s->train.path ? &s->train : &s->val);
	return true;
}

static int
run(struct GvrtState *s)
{
	const Options *o = s->o;
	Sampler sampler;
	GvrtRun r = {
	    .seed = 0, .train = true, .scale = 1, .threads = s->at.threads, .state = s};
#ifdef _OPENMP
	omp_set_num_threads(s->at.threads);
#endif
	bool ok = start(&r, s);
	bool bytes = (s->train.path && s->train.bytes) || (s->val.path && s->val.bytes);
	if (!ok || (o->sample && !sample_start(&sampler, &s->pool, s->p, o, bytes, &s->err))) {
		rt_error("%s", s->err.text);
		return 1;
	}
	pool_seal(&s->pool);
	train_signals();
	int status = train_loop(&r, (uint64_t)o->steps);
	if (status == 0 && o->sample) sample_run(&sampler, &r, s->p, o);
	return status;
}

int
gvrt_main(int argc, char **argv, const GvrtProgram *p)
{
	Options o;
	struct GvrtState s = {.p = p, .o = &o};
	int npaths = launch_paths(argc, argv);
	if (options_switch("GVRT_HELP", false)) {
		options_environment();
		return 0;
	}
	bool ok = p->abi == GVRT_ABI || rt_fail(&s.err,
						"%s is emitted for interface %d of the "
						"runtime, and this one has %d: build it again",
						p->model, p->abi, GVRT_ABI);
	ok = ok && options_parse(&o, argc - 1 - npaths, argv + 1 + npaths, p, &s.err);
	if (ok && o.help) {
		options_help(p);
		return 0;
	}
	if (!ok || !launch(&s.at, npaths, argv + 1, argv, &o, p, &s.err)) {
		rt_error("%s", s.err.text);
		return 2;
	}
	gvrt_poison = options_switch("GVRT_POISON", false);
	return run(&s);
}
