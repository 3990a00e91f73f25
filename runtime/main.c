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
	if (o->data && !source_open(&s->train, &s->pool, p, o->data, format, o->order == 0,
				    seed, s->at.rank, &s->err))
		return false;
	return !o->val_data || source_open(&s->val, &s->pool, p, o->val_data, format, false,
					   seed, s->at.rank, &s->err);
}

/* Ranks that resumed have resumed from one checkpoint. */
static bool
same_step(GvrtRun *r, struct GvrtState *s)
{
	double x[1] = {(double)r->step};
	comm_sum(s->comm, x, 1);
	return x[0] == (double)r->step * (s->comm ? s->at.size : 1) ||
	       rt_fail(&s->err, "%s: rank %d goes on from step %llu, and others from another",
		       s->o->resume, s->at.rank, (unsigned long long)r->step);
}

/* What the ranks' machines can do, and what a step costs, together. */
static void
measure(GvrtRun *r, struct GvrtState *s)
{
	double x[2] = {0, s->p->flops};
	if (!s->o->quiet && s->o->steps > 0) x[0] = progress_peak(r->arena, s->p->arena_bytes);
	if (getenv("GVRT_PEAK") && s->at.rank > 0) x[0] = 0; /* it is of all together */
	comm_sum(s->comm, x, 2);
	s->progress.peak = x[0];
	s->progress.flops = x[1];
}

/* Every part ends with whether all ranks could do it. */
static bool
start(GvrtRun *r, struct GvrtState *s)
{
	const GvrtProgram *p = s->p;
	const Options *o = s->o;
	Err *e = &s->err;
	r->seed = (uint64_t)o->seed;
	s->sums = POOL_N(&s->pool, double, p->nreports + 1);
	s->eval = POOL_N(&s->pool, double, p->nreports + 1);
	s->norm = POOL_N(&s->pool, double, p->nreports + 3);
	progress_open(&s->progress, p, o);
	bool ok = open_data(s, r->seed) &&
		  checkpoint_start(&s->checkpoint, &s->pool, o->checkpoint, p, e);
	if (!comm_agree(s->comm, ok, e)) return false;
	r->arena = s->comm ? comm_arena(s->comm, &s->pool, e)
			   : arena_map(p->arena_bytes, p->arena_bytes, e);
	if (!comm_agree(s->comm, r->arena != NULL, e)) return false;
	measure(r, s);
	if (!comm_agree(s->comm, first_values(r, s), e)) return false;
	if (!comm_agree(s->comm, same_step(r, s), e)) return false;
	s->train.key = gvrt_key(r->seed, "data"); /* a resumed run goes on with its own seed */
	progress_header(&s->progress, p, &s->at, s->train.path ? &s->train : &s->val, s->comm);
	return true;
}

static int
run_ranks(struct GvrtState *s)
{
	const Options *o = s->o;
	Sampler sampler;
	GvrtRun r = {
	    .seed = 0, .train = true, .scale = 1, .threads = s->at.threads, .state = s};
	bool ok = start(&r, s);
	bool bytes = (s->train.path && s->train.bytes) || (s->val.path && s->val.bytes);
	if (ok && o->sample)
		ok = comm_agree(s->comm,
				sample_start(&sampler, &s->pool, s->p, o, bytes, &s->err),
				&s->err);
	if (!ok) {
		train_complain(s);
		return 1;
	}
	meters_start(&s->meters, &s->pool, s->p);
	pool_seal(&s->pool);
	train_signals(s->at.size);
	int status = train_loop(&r, (uint64_t)o->steps);
	if (status == 0 && o->sample) sample_run(&sampler, &r, s->p, o);
	return status;
}

static int
run(struct GvrtState *s)
{
#ifdef _OPENMP
	omp_set_num_threads(s->at.threads);
#endif
	log_rank(s->at.rank);
	if (s->p->ranks > 1) {
		s->comm = comm_start(&s->pool, s->p, &s->at, &s->err);
		if (!s->comm) return launch_refuse(&s->at, &s->err);
	}
	int status = run_ranks(s);
	comm_stop(s->comm);
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
	bool ok = launch_rank(&s.at, &s.err) &&
		  (p->abi == GVRT_ABI || rt_fail(&s.err,
						 "%s is emitted for interface %d of the "
						 "runtime, and this one has %d: build it again",
						 p->model, p->abi, GVRT_ABI));
	ok = ok && options_parse(&o, argc - 1 - npaths, argv + 1 + npaths, p, &s.err);
	if (ok && o.help) {
		if (s.at.rank == 0) options_help(p);
		return 0;
	}
	if (!ok || !launch(&s.at, npaths, argv + 1, argv, &o, p, &s.err))
		return launch_refuse(&s.at, &s.err);
	gvrt_poison = options_switch("GVRT_POISON", false);
	return run(&s);
}
