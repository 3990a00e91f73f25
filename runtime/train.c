/*
 * train.c - the step loop, and what emitted steps call back for: input, reports, the norm.
 *
 * A callback cannot return an error through emitted code: it notes the first one in the state, and the loop stops
 * before the update, so the weights are still those of the last good step.
 */
#include <math.h>

#include "gvrt_int.h"

bool gvrt_poison;

void
gvrt_fill_nan(void *p, int64_t bytes)
{
	memset(p, 0xFF, (size_t)bytes); /* NaN as float and as double, -1 as an index */
}

/* ---- signals ---- */

static volatile sig_atomic_t stop_signal;

static void
on_signal(int sig)
{
	stop_signal = sig;
}

void
train_signals(int ranks)
{
	/* A second one kills at once. */
	struct sigaction a = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
	sigaction(SIGTERM, &a, NULL);
	sigaction(SIGINT, &a, NULL);
	/* What mpirun passes on to all ranks without ending them. */
	if (ranks > 1) sigaction(SIGUSR1, &a, NULL);
}

/* ---- what steps call ---- */

unsigned char *
train_slot(const GvrtRun *r, const GvrtProgram *p, int64_t mb)
{
	return r->arena + p->slots + (p->nslots > 0 ? mb % p->nslots : 0) * p->slot_bytes;
}

void
train_blank(unsigned char *slot, const GvrtProgram *p)
{
	for (size_t i = 0; i < p->ninputs; i++)
		input_blank(p, &p->inputs[i], slot);
}

static void
add_reports(const GvrtRun *r, const GvrtProgram *p, int64_t mb, double *sums)
{
	const unsigned char *slot = train_slot(r, p, mb);
	for (size_t i = 0; i < p->nreports; i++) {
		const GvrtReport *on = p->report_on ? &p->report_on[i] : NULL;
		if (p->report_at[i] < 0 || (on && !gv_first(r, on->mesh, on->first))) continue;
		sums[i] += (double)*(const real *)(const void *)(slot + p->report_at[i]);
	}
}

/* Samples first .. of a source into a slot. On a mistake the state is failed, and the slot holds something harmless: a step goes
 * on to where all ranks hear of it. */
static void
fetch(GvrtRun *r, const Source *data, unsigned char *slot, int64_t first)
{
	struct GvrtState *s = r->state;
	if (!data->path) {
		input_draw(s->p, slot, (uint64_t)first);
		return;
	}
	if (!s->failed && source_rows(data, slot, first, &s->err)) return;
	s->failed = true;
	train_blank(slot, s->p);
}

void
gvrt_input(GvrtRun *r, int64_t mb)
{
	struct GvrtState *s = r->state;
	const GvrtProgram *p = s->p;
	unsigned char *slot = train_slot(r, p, mb);
	if (p->ninputs == 0) return;
	fetch(r, &s->train, slot,
	      s->shift + ((int64_t)r->step * p->microbatches + mb) * p->microbatch);
}

void
gvrt_report(GvrtRun *r, int64_t mb)
{
	add_reports(r, r->state->p, mb, r->state->sums);
}

/* What ranks tell each other with the norm, as counts in one double: told to terminate, interrupted, failed. */
static const double said_term = 1, said_int = 0x1p20, said_failed = 0x1p40;

static void
hear(struct GvrtState *s, double said)
{
	bool failed = said >= said_failed;
	said = fmod(said, said_failed);
	if (said > 0) s->stop = said >= said_int ? SIGINT : SIGTERM;
	if (failed && !s->failed) s->err.text[0] = 0; /* the rank that failed says why */
	s->failed = failed;
}

/* Sum of squares, what ranks have to say, how long they stood in waits, and reports, over all ranks. */
static void
share(GvrtRun *r)
{
	struct GvrtState *s = r->state;
	size_t n = s->p->nreports;
	int sig = stop_signal;
	s->norm[0] = r->sumsq;
	s->norm[1] = (sig == SIGINT ? said_int
		      : sig         ? said_term
				    : 0) +
		     (s->failed ? said_failed : 0);
	s->norm[2] = comm_waited(s->comm);
	memcpy(s->norm + 3, s->sums, n * sizeof *s->sums);
	comm_norm(s->comm, s->norm, (int)n + 3);
	r->sumsq = s->norm[0];
	memcpy(s->sums, s->norm + 3, n * sizeof *s->sums);
	s->progress.waited += s->norm[2] / s->at.size;
	hear(s, s->norm[1]);
}

void
gvrt_norm(GvrtRun *r)
{
	struct GvrtState *s = r->state;
	share(r);
	double clip = s->p->train.clip, loss = s->p->nreports ? s->sums[0] : 0;
	r->norm = sqrt(r->sumsq);
	r->scale = clip > 0 && r->norm + 1e-6 > clip ? clip / (r->norm + 1e-6) : 1;
	if (s->failed || (isfinite(loss) && isfinite(r->norm))) return;
	s->failed = true;
	rt_fail(&s->err,
		"step %llu: the loss is %g and the gradients' norm %g: training cannot go on; "
		"the weights are those before this step",
		(unsigned long long)r->step + 1, loss, r->norm);
}

/* ---- the loop ---- */

static void
begin_step(GvrtRun *r, const GvrtProgram *p, const GvrtTrain *t)
{
	double n = (double)r->step + 1;
	r->lr = rt_rate(t, r->step);
	r->c1 = 1 - pow(t->beta1, n);
	r->c2 = 1 - pow(t->beta2, n);
	r->scale = 1;
	r->sumsq = r->norm = 0;
	r->train = true;
	memset(r->state->sums, 0, p->nreports * sizeof(double));
}

static GvrtTrain
settings(const GvrtProgram *p, const Options *o)
{
	GvrtTrain t = p->train;
	if (o->lr >= 0) t.peak = o->lr;
	if (o->warmup >= 0) t.warmup = (double)o->warmup;
	if (o->decay_steps > 0) t.steps = (double)o->decay_steps;
	return t;
}

static bool
save(GvrtRun *r)
{
	struct GvrtState *s = r->state;
	const GvrtProgram *p = s->p;
	char path[RT_PATH];
	int64_t samples = s->shift + (int64_t)r->step * p->microbatch * p->microbatches;
	if (!checkpoint_save(&s->checkpoint, r, p, samples, &s->err)) return false;
	snprintf(path, sizeof path, "%s/step-%llu", s->checkpoint.dir,
		 (unsigned long long)r->step);
	progress_event(&s->progress, "checkpoint", r->step, path);
	return true;
}

/* --dump-grads: written aside and renamed, like everything a reader may be waiting for. */
static bool
dump_grads(const GvrtRun *r)
{
	struct GvrtState *s = r->state;
	StSection grad = {"", GVRT_GRAD};
	StAbout about[] = {{"format", "pt", 0}, {"step", NULL, r->step}};
	char aside[RT_PATH];
	snprintf(aside, sizeof aside, "%s.tmp", s->o->dump_grads);
	if (!st_write(r, &s->checkpoint.table, aside, &grad, 1, about, RT_COUNTOF(about),
		      s->checkpoint.header, s->checkpoint.cap, &s->err))
		return false;
	bool ok = s->at.rank != 0 || rename(aside, s->o->dump_grads) == 0 ||
		  rt_fail(&s->err, "cannot write %s", s->o->dump_grads);
	return comm_agree(s->comm, ok, &s->err);
}

/* Mean loss over whole batches in order: sums into state->eval, returns batches done; -1: err. */
static int64_t
train_eval(GvrtRun *r, const Source *data, int64_t batches)
{
	struct GvrtState *s = r->state;
	const GvrtProgram *p = s->p;
	int64_t all = data->samples / (p->microbatch * p->microbatches);
	if (batches > all) batches = all;
	memset(s->eval, 0, p->nreports * sizeof(double));
	r->train = false;
	for (int64_t i = 0; i < batches * p->microbatches; i++) {
		fetch(r, data, train_slot(r, p, 0), i * p->microbatch);
		p->forward(r);
		add_reports(r, p, 0, s->eval);
		if (s->failed && !s->comm) break;
	}
	r->train = true;
	comm_sum(s->comm, s->eval, (int)p->nreports);
	bool ok = !s->failed;
	s->failed = false;
	return comm_agree(s->comm, ok, &s->err) ? batches : -1;
}

static bool
validate(GvrtRun *r)
{
	struct GvrtState *s = r->state;
	double *sums = s->eval;
	int64_t batches = train_eval(r, &s->val, s->o->eval_batches);
	if (batches > 0) progress_eval(&s->progress, r->step, sums, batches, s->p);
	return batches > 0;
}

/* What follows an update: r->step is the number of steps done. */
static bool
after_step(GvrtRun *r, uint64_t last)
{
	struct GvrtState *s = r->state;
	const Options *o = s->o;
	s->checkpoint.current = false;
	if (o->save_every && r->step % (uint64_t)o->save_every == 0 && !save(r)) return false;
	return !o->eval_every || r->step % (uint64_t)o->eval_every != 0 || r->step == last ||
	       validate(r);
}

/* The state at the end, and the exit status. */
static int
finish(GvrtRun *r)
{
	struct GvrtState *s = r->state;
	int sig = s->stop;
	progress_break(&s->progress);
	if (!comm_agree(
		s->comm,
		meters_write(&s->meters, s->p, &s->at, !s->o->json && !s->o->quiet, &s->err),
		&s->err))
		return 1;
	if (s->checkpoint.dir && !s->checkpoint.current && !save(r)) return 1;
	if (sig) {
		rt_note("stopped by %s after step %llu%s", sig == SIGINT ? "SIGINT" : "SIGTERM",
			(unsigned long long)r->step,
			s->checkpoint.dir ? "" : ", without a checkpoint");
		/* Nothing is lost after a checkpoint; a shell's loop must still see the interrupt. */
		return sig == SIGTERM && s->checkpoint.dir ? 0 : 128 + sig;
	}
	return !s->val.path || validate(r) ? 0 : 1;
}

void
train_complain(struct GvrtState *s)
{
	if (comm_first(s->comm, s->err.text[0] != 0) == s->at.rank) rt_error("%s", s->err.text);
}

int
train_loop(GvrtRun *r, uint64_t last)
{
	struct GvrtState *s = r->state;
	const GvrtProgram *p = s->p;
	const GvrtTrain t = settings(p, s->o);
	const uint64_t first = r->step;
	bool ok = true;
	progress_start(&s->progress, first, last);
	if (!s->comm) s->stop = stop_signal;
	while (ok && r->step < last && !s->stop) {
		meters_begin(&s->meters, p);
		begin_step(r, p, &t);
		comm_mark(s->comm);
		p->step(r);
		ok = !s->failed && (!s->o->dump_grads || r->step > first || dump_grads(r));
		if (!ok) break;
		p->update(r);
		progress_step(&s->progress, r, s->sums, p);
		r->step++;
		meters_end(&s->meters, p, r->step - first);
		if (r->step == first + METER_WARM + 1)
			last = meters_last(&s->meters, s->comm, p, r->step, last);
		if (r->step == last)
			ok = comm_agree(s->comm, comm_traffic(s->comm, &s->err), &s->err);
		ok = ok && after_step(r, last);
		if (!s->comm) s->stop = stop_signal;
	}
	int status = ok ? finish(r) : 1;
	progress_break(&s->progress);
	if (status == 1) train_complain(s);
	return status;
}
