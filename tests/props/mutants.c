/*
 * mutants.c - does the verifier see what does harm? Plans are drawn, and in the steps of ONE rank something is dropped,
 * exchanged, moved, sent to another peer, made longer, received elsewhere, or done in another slot. The interpreter, in
 * hostile orders, says whether that does harm: other numbers, a deadlock, a message that does not fit. What does must be
 * refused; what was not edited must not.
 *
 *   build/tests/props/mutants [plans [first]]
 */
#include <math.h>

#include "tests/props/drawn.h"

enum { STEPS = 2, ORDERS = 4, MAX_RESULTS = 4096, EDITS = 40 };

static const char model[] =
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

typedef struct Results {
	double x[MAX_RESULTS];
	size_t n;
} Results;

typedef struct Test {
	Ctx c;
	FILE *said;
	Module *m;
	Results right;
	Draw d;
} Test;

typedef struct Counts {
	uint32_t plans, mutants, harmful, missed, refused_harmless, false_alarms;
} Counts;

/* ---- a plan ---- */

static bool
make(Test *t, const char *plan)
{
	PassOptions o = {.stop_after = "mem"};
	Names *n = t->c.names;

	t->m = ir_parse(t->c.perm, n, t->c.diag, name_of(n, "t"), model, strlen(model));
	if (!t->m || !pass_autodiff(&t->c, t->m) || !pass_optimizer(&t->c, t->m) ||
	    !plan_parse(t->m, t->c.diag, name_of(n, "plan"), plan, strlen(plan)))
		return false;
	t->m->level = LV_plan;
	return pass_run_all(&t->c, &t->m, &o);
}

static void
keep(Results *r, const double *x, size_t n)
{
	for (size_t i = 0; i < n && r->n < MAX_RESULTS; i++)
		r->x[r->n++] = x[i];
}

static bool
run_steps(Test *t, const EvalOptions *o, Results *r)
{
	static const char *const prefix[] = {"", "m:", "v:"};
	Eval *e = eval_new(t->m, o, t->c.diag);
	bool ok = e != NULL;

	r->n = 0;
	for (uint64_t step = 0; ok && step < STEPS; step++) {
		double tokens[12], loss = 0, norm = 0;

		for (int i = 0; i < 12; i++)
			tokens[i] = (double)((i * i + 3 * (int)step) % 7);
		ok = eval_set(e, "t", tokens, 12) && eval_run(e, &loss) &&
		     eval_update(e, step, &norm);
		keep(r, &loss, 1);
		keep(r, &norm, 1);
	}
	for (uint32_t p = 0; ok && p < t->m->nparams; p++)
		for (size_t k = 0; k < COUNTOF(prefix); k++) {
			const char *name = name_str(t->c.names, t->m->params[p].name);
			const double *x;
			size_t n;

			if (t->m->params[p].borrows) continue;
			name =
			    name_str(t->c.names, name_fmt(t->c.names, "%s%s", prefix[k], name));
			n = eval_get(e, name, &x);
			keep(r, x, n);
		}
	if (e) eval_free(e);
	return ok;
}

static bool
same_results(const Results *a, const Results *b)
{
	for (size_t i = 0; i < a->n; i++)
		if (!(fabs(a->x[i] - b->x[i]) <= 1e-11 * fmax(1, fabs(b->x[i])))) return false;
	return a->n == b->n;
}

static void
show_said(const Test *t)
{
	char line[512];

	fflush(t->said);
	rewind(t->said);
	if (fgets(line, sizeof(line), t->said)) fputs(line, stdout);
}

/* What was said is forgotten. */
static void
quiet(Test *t)
{
	rewind(t->said);
	t->c.diag = diag_new(t->c.perm, t->c.names, t->said);
}

static bool
harmful(Test *t, const Steps *program)
{
	for (uint32_t order = 0; order < ORDERS; order++) {
		EvalOptions o = {.f64 = true,
				 .seed = 3,
				 .train = true,
				 .adversarial = true,
				 .order_seed = order,
				 .program = program};
		Results r;
		bool ok = run_steps(t, &o, &r);

		quiet(t);
		if (!ok || !same_results(&r, &t->right)) return true;
	}
	return false;
}

/* ---- edits ---- */

static void
cut(Steps *s, uint32_t at)
{
	memmove(&s->s[at], &s->s[at + 1], (s->n - at - 1) * sizeof(*s->s));
	s->n--;
}

static void
move(Steps *s, uint32_t from, uint32_t to)
{
	Step x = s->s[from];

	for (; from < to; from++)
		s->s[from] = s->s[from + 1];
	for (; from > to; from--)
		s->s[from] = s->s[from - 1];
	s->s[to] = x;
}

/* Something to some step; the name of what. */
static const char *
edit(Draw *d, Steps *s, uint32_t *at)
{
	static const int64_t shifts[] = {-64, 64, 128, 8, -8, 1024};
	uint32_t other;
	Step *x;

	*at = drawn(d, s->n);
	x = &s->s[*at];
	other = *at + 1 + drawn(d, 6);
	switch (drawn(d, 7)) {
	case 0: cut(s, *at); return "drop";
	case 1:
		if (other >= s->n) return NULL;
		{
			Step y = s->s[other];

			s->s[other] = *x;
			*x = y;
		}
		return "exchange";
	case 2:
		if (other >= s->n) return NULL;
		move(s, *at, other);
		return "later";
	case 3:
		if (other >= s->n) return NULL;
		move(s, other, *at);
		return "earlier";
	case 4:
		if (x->a.kind != ACT_start) return NULL;
		if (drawn(d, 2))
			x->peer = 1 + (int32_t)drawn(d, 2);
		else
			x->resize = (int32_t)drawn(d, 5) - 2;
		return x->peer ? "peer" : x->resize ? "resize" : NULL;
	case 5:
		if (x->a.kind != ACT_start) return NULL;
		x->shift = shifts[drawn(d, COUNTOF(shifts))];
		return "shift";
	default:
		if (x->a.kind != ACT_start && x->a.kind != ACT_body && x->a.kind != ACT_input)
			return NULL;
		x->slot = 1;
		return "slot";
	}
}

static Steps *
spelled_out(const Test *t)
{
	const Plan *p = &t->m->plan;
	Steps *all = NEW_N(t->c.perm, Steps, p->ranks);

	for (uint32_t k = 0; k < p->nstages; k++)
		for (uint32_t r = 0; r < p->stages[k].ranks; r++)
			all[p->stages[k].rank + r] = ir_expand(t->m, k, t->c.perm);
	return all;
}

static void
show_step(const Module *m, const Step *s, uint32_t i)
{
	const Action *a = &s->a;
	const char *name = a->kind == ACT_input || a->kind == ACT_norm ? ""
			   : a->kind != ACT_body && a->comm >= CK_lend
			       ? name_str(m->names, m->params[a->inst].name)
			       : name_str(m->names, m->insts[a->inst].name);
	const char *what = a->kind == ACT_body    ? body_str[a->bk]
			   : a->kind == ACT_start ? "start"
			   : a->kind == ACT_wait  ? "wait"
			   : a->kind == ACT_norm  ? "norm"
						  : "input";

	printf("  %3u %s %s %s mb %u", i, what,
	       a->kind == ACT_start || a->kind == ACT_wait ? comm_str[a->comm] : "", name,
	       a->mb);
	if (s->peer || s->resize || s->slot || s->shift)
		printf("  (peer %d, %d elements, slot %d, shift %lld)", s->peer, s->resize,
		       s->slot, (long long)s->shift);
	putchar('\n');
}

static void
mutant(Test *t, uint32_t plan, const char *text, Counts *n)
{
	Steps *all = spelled_out(t);
	uint32_t rank = drawn(&t->d, t->m->plan.ranks), at;
	const char *what = edit(&t->d, &all[rank], &at);
	bool accepted, harm;

	if (!what) return;
	accepted = ir_verify_expanded(t->m, all, t->m->plan.ranks, t->c.diag);
	quiet(t);
	harm = harmful(t, all);
	n->mutants++;
	n->harmful += harm;
	n->refused_harmless += !harm && !accepted;
	if (!harm || !accepted) return;
	n->missed++;
	printf("mutants: plan %u: '%s' at step %u of rank %u does harm and is not refused\n%s",
	       plan, what, at, rank, text);
	for (uint32_t i = at < 2 ? 0 : at - 2; i < at + 9 && i < all[rank].n; i++)
		show_step(t->m, &all[rank].s[i], i);
}

static void
one_plan(uint32_t number, Counts *n)
{
	Test *t = calloc(1, sizeof(*t));
	const char *text;

	t->said = tmpfile();
	t->c = (Ctx){.perm = arena_new(), .tmp = arena_new(), .memory_bytes = INT64_MAX};
	t->c.names = names_new(t->c.perm);
	quiet(t);
	t->d = (Draw){.key = number,
		      .layers = 5,
		      .batch = 12,
		      .most_stages = 3,
		      .most_ranks = 3,
		      .tp = number % 2};
	text = draw_plan(t->c.perm, &t->d);
	if (make(t, text)) {
		Steps *all = spelled_out(t);
		EvalOptions o = {.f64 = true, .seed = 3, .train = true};
		bool ok = ir_verify_expanded(t->m, all, t->m->plan.ranks, t->c.diag);

		n->plans++;
		if (!run_steps(t, &o, &t->right) || harmful(t, all))
			printf("mutants: plan %u goes wrong as it is\n%s", number, text);
		if (!ok) {
			n->false_alarms++;
			printf("mutants: plan %u is refused as it is\n%s", number, text);
			show_said(t);
		}
		for (uint32_t k = 0; k < EDITS; k++)
			mutant(t, number, text, n);
	}
	fclose(t->said);
	arena_free(t->c.tmp);
	arena_free(t->c.perm);
	free(t);
}

int
main(int argc, char **argv)
{
	uint32_t plans = argc > 1 ? (uint32_t)atoi(argv[1]) : 40;
	uint32_t first = argc > 2 ? (uint32_t)atoi(argv[2]) : 1;
	Counts n = {0};

	for (uint32_t i = 0; i < plans; i++)
		one_plan(first + i, &n);
	printf("mutants: %u plans, %u mutants, %u harmful of which %u missed; %u harmless "
	       "refused; %u plans refused as they are\n",
	       n.plans, n.mutants, n.harmful, n.missed, n.refused_harmless, n.false_alarms);
	return n.missed || n.false_alarms || !n.harmful;
}
