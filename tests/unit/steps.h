/*
 * steps.h - programs of ranks that are spelled out and edited, and the model whose results show whether that did harm; for tests
 * of the interpreter on several ranks and of the verifier.
 */
#ifndef GV_TESTS_STEPS_H
#define GV_TESTS_STEPS_H

#include "passes/passes.h"

#include <math.h>
#include <string.h>

/* An embedding tied to the head, three layers with a product that tp splits; odd sizes. */
static const char toy[] =
    "gir 1 graph\nmodel t source \"t\" hash 0x0000000000000000\n"
    "axis batch = 12\naxis vocab = 7\naxis e = 4\naxis f = 5\nbatch batch\n"
    "input t i32[batch] range vocab\n"
    "param 0 \"w\" f64[vocab e] dims 1 1 init normal 0.5 decay 1 lr 1 owner 0\n"
    "param 1 \"a.u\" f64[e f] dims 1 1 init normal 0.5 decay 1 lr 1 owner 1\n"
    "param 2 \"a.b\" f64[e] dims 1 init normal 0.5 decay 0 lr 1 owner 1\n"
    "param 3 \"b.u\" f64[e f] dims 1 1 init normal 0.5 decay 1 lr 1 owner 2\n"
    "param 4 \"b.b\" f64[e] dims 1 init normal 0.5 decay 0 lr 1 owner 2\n"
    "param 5 \"c.u\" f64[e f] dims 1 1 init normal 0.5 decay 1 lr 1 owner 3\n"
    "param 6 \"c.b\" f64[e] dims 1 init normal 0.5 decay 0 lr 1 owner 3\n"
    "train adamw rate const 0.1 0 0 0 beta1 0.9 beta2 0.95 eps 1e-08 decay 0.1 momentum 0 clip "
    "0.5 precision f64 seed 3\n"
    "body 1 first F {\n arg 0 %t : i32[batch]\n weight 0 %w : f64[vocab e]\n"
    " %x = gather %w %t {axes=[vocab]} : f64[batch e]\n out 0 %x\n}\n"
    "body 2 mid F {\n arg 0 %x : f64[batch e]\n weight 0 %u : f64[e f]\n weight 1 %b : f64[e]\n"
    " %h = dot %x %u {axes=[e]} : f64[batch f]\n %g = tanh %h : f64[batch f]\n"
    " %o = dot %g %u {axes=[f]} : f64[batch e]\n %p = add %o %b : f64[batch e]\n"
    " %y = add %x %p : f64[batch e]\n out 0 %y\n}\n"
    "body 3 last F {\n arg 0 %x : f64[batch e]\n arg 1 %t : i32[batch]\n weight 0 %w : "
    "f64[vocab e]\n"
    " %l = dot %x %w {axes=[e]} : f64[batch vocab]\n"
    " %c, _ = cross_entropy %l %t {axis=vocab} : f64[batch]\n"
    " %s = sum %c {axes=[batch]} : f64[]\n out 0 %s\n}\n"
    "type first args 1 outs 1 rates 0 {\n body F 1\n weight \"w\" : f64[vocab e]\n}\n"
    "type mid args 1 outs 1 rates 0 {\n body F 2\n weight \"u\" : f64[e f]\n weight \"b\" : "
    "f64[e]\n}\n"
    "type last args 2 outs 1 rates 0 {\n body F 3\n weight \"w\" : f64[vocab e]\n}\n"
    "inst 0 first \"first\" path \"\" args t params 0 rates\n"
    "inst 1 mid \"a\" path \"a\" args 0.0 params 1 2 rates\n"
    "inst 2 mid \"b\" path \"b\" args 1.0 params 3 4 rates\n"
    "inst 3 mid \"c\" path \"c\" args 2.0 params 5 6 rates\n"
    "inst 4 last \"last\" path \"\" args 3.0 t params 0 rates\n"
    "report \"loss\" 4.0\n";

/* A model under a plan, as far as pass `to`; NULL after diagnostics. */
static inline Module *
lowered(Ctx *c, const char *model, const char *plan, const char *to)
{
	PassOptions o = {.stop_after = to};
	Module *m =
	    ir_parse(c->perm, c->names, c->diag, name_of(c->names, "t"), model, strlen(model));

	if (!m || !pass_autodiff(c, m) || !pass_optimizer(c, m) ||
	    !plan_parse(m, c->diag, name_of(c->names, "plan"), plan, strlen(plan)))
		return NULL;
	m->level = LV_plan;
	return pass_run_all(c, &m, &o) ? m : NULL;
}

/* ---- what the toy computes ---- */

enum { MAX_RESULTS = 4096 };

typedef struct Results {
	double x[MAX_RESULTS];
	size_t n;
} Results;

static inline void
keep(Results *r, const double *x, size_t n)
{
	for (size_t i = 0; i < n && r->n < MAX_RESULTS; i++)
		r->x[r->n++] = x[i];
}

/* Gradients (if `grads`), values and moments of all parameters. */
static inline bool
keep_state(Eval *e, const Module *m, bool grads, Results *r)
{
	static const char *const prefix[] = {"grad:", "", "m:", "v:"};
	bool ok = true;

	for (uint32_t p = 0; ok && p < m->nparams; p++)
		for (size_t k = !grads; k < COUNTOF(prefix); k++) {
			Name name = name_fmt(m->names, "%s%s", prefix[k],
					     name_str(m->names, m->params[p].name));
			const double *x;
			size_t n;

			if (m->params[p].borrows) continue;
			n = eval_get(e, name_str(m->names, name), &x);
			ok = ok && n > 0;
			keep(r, x, n);
		}
	return ok;
}

/* Loss, norm and state after each step. */
static inline bool
run_toy(const Module *m, Diag *d, const EvalOptions *o, uint32_t steps, bool grads, Results *r)
{
	Eval *e = eval_new(m, o, d);
	bool ok = e != NULL;

	r->n = 0;
	for (uint32_t step = 0; ok && step < steps; step++) {
		double tokens[12], loss = 0, norm = 0;

		for (int i = 0; i < 12; i++)
			tokens[i] = (double)((i * i + 3 * (int)step) % 7);
		ok = eval_set(e, "t", tokens, 12) && eval_run(e, &loss) &&
		     eval_update(e, step, &norm);
		keep(r, &loss, 1);
		keep(r, &norm, 1);
		ok = ok && keep_state(e, m, grads, r);
	}
	if (e) eval_free(e);
	return ok;
}

static inline bool
same_results(const Results *a, const Results *b)
{
	for (size_t i = 0; i < a->n; i++)
		if (!(fabs(a->x[i] - b->x[i]) <= 1e-11 * fmax(1, fabs(b->x[i])))) return false;
	return a->n == b->n;
}

/* ---- edits ---- */

/* A list of steps for every rank. */
static inline Steps *
spelled_out(const Module *m, Arena *a)
{
	const Plan *p = &m->plan;
	Steps *all = NEW_N(a, Steps, p->ranks);

	for (uint32_t k = 0; k < p->nstages; k++)
		for (uint32_t r = 0; r < p->stages[k].ranks; r++)
			all[p->stages[k].rank + r] = ir_expand(m, k, a);
	return all;
}

/* The `nth` action of that kind; n if there is none. */
static inline uint32_t
find(const Steps *s, ActKind kind, CommKind comm, uint32_t nth)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->s[i].a.kind == kind && (kind == ACT_body || s->s[i].a.comm == comm) &&
		    !nth--)
			return i;
	return s->n;
}

static inline void
cut(Steps *s, uint32_t at)
{
	memmove(&s->s[at], &s->s[at + 1], (s->n - at - 1) * sizeof(*s->s));
	s->n--;
}

/* The step at `from` goes to `to`. */
static inline void
move(Steps *s, uint32_t from, uint32_t to)
{
	Step x = s->s[from];

	for (; from < to; from++)
		s->s[from] = s->s[from + 1];
	for (; from > to; from--)
		s->s[from] = s->s[from - 1];
	s->s[to] = x;
}

#endif
