/*
 * ranks.c - the interpreter on several ranks: one model under plans with stages, meshes, ZeRO and microbatches, at every
 * level and in hostile orders, against one rank; then programs of one rank edited on purpose, which must be seen.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "passes/passes.h"

static int checks, failures;

typedef struct Test {
	const char *name;
	Arena *arena, *tmp;
	Names *names;
	FILE *said;
	Diag *diag;
	Ctx c;
} Test;

static void
check(const char *test, bool ok, const char *what)
{
	checks++;
	if (ok) return;
	failures++;
	printf("ranks: %s: FAILED: %s\n", test, what);
}

static Test
open_test(const char *name)
{
	Test t = {.name = name, .arena = arena_new(), .tmp = arena_new(), .said = tmpfile()};

	t.names = names_new(t.arena);
	t.diag = diag_new(t.arena, t.names, t.said);
	t.c = (Ctx){.perm = t.arena, .tmp = t.tmp, .names = t.names, .diag = t.diag};
	return t;
}

static void
close_test(Test *t)
{
	fclose(t->said);
	arena_free(t->tmp);
	arena_free(t->arena);
}

static void
show_said(const Test *t)
{
	char line[512];

	rewind(t->said);
	while (fgets(line, sizeof line, t->said))
		printf("ranks: %s: %s", t->name, line);
	fseek(t->said, 0, SEEK_END);
}

static bool
has_said(const Test *t, const char *what)
{
	char line[512];
	bool found = false;

	rewind(t->said);
	while (fgets(line, sizeof line, t->said))
		found |= strstr(line, what) != NULL;
	fseek(t->said, 0, SEEK_END);
	return found;
}

/* ---- the model: an embedding tied to the head, three layers with a product that tp splits; odd sizes ---- */

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

/* The model under a plan, as far as pass `to`; NULL after a failure. */
static Module *
make(Test *t, const char *plan, const char *to)
{
	PassOptions o = {.stop_after = to};
	Module *m =
	    ir_parse(t->arena, t->names, t->diag, name_of(t->names, "t"), model, strlen(model));
	bool ok = m && pass_autodiff(&t->c, m) && pass_optimizer(&t->c, m) &&
		  plan_parse(m, t->diag, name_of(t->names, "plan"), plan, strlen(plan));

	if (ok) m->level = LV_plan;
	ok = ok && pass_run_all(&t->c, &m, &o);
	check(t->name, ok, "does not lower");
	if (!ok) show_said(t);
	return ok ? m : NULL;
}

/* ---- results ---- */

enum { STEPS = 3, MAX_RESULTS = 4096 };

typedef struct Results {
	double x[MAX_RESULTS];
	size_t n;
} Results;

static void
keep(Results *r, const double *x, size_t n)
{
	for (size_t i = 0; i < n && r->n < MAX_RESULTS; i++)
		r->x[r->n++] = x[i];
}

/* Loss and norm of every step; gradients, parameters and moments of all. */
static bool
run_steps(Test *t, const Module *m, const EvalOptions *o, Results *r)
{
	static const char *const prefix[] = {"grad:", "", "m:", "v:"};
	Eval *e = eval_new(m, o, t->diag);
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
		for (uint32_t p = 0; ok && p < m->nparams; p++)
			for (size_t k = 0; k < COUNTOF(prefix); k++) {
				Name name = name_fmt(t->names, "%s%s", prefix[k],
						     name_str(t->names, m->params[p].name));
				const double *x;
				if (m->params[p].borrows) continue;
				size_t n = eval_get(e, name_str(t->names, name), &x);
				ok = ok && n > 0;
				keep(r, x, n);
			}
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

static Results one; /* of one rank */

static void
run_one(void)
{
	Test t = open_test("one rank");
	Module *m =
	    make(&t,
		 "plan 1\nranks 1 threads all microbatches 1 schedule 1f1b\nmesh m0 = mb\n"
		 "stage 0 layers 0-4 ranks 0\nlayers 0-4 mesh m0\n",
		 "mem");
	EvalOptions o = {.f64 = true, .seed = 3, .train = true};

	if (m) check(t.name, run_steps(&t, m, &o, &one) && one.n > 100, "does not run");
	close_test(&t);
}

/* ---- plans ---- */

#define HEAD(ranks, mb, schedule) \
	"plan 1\nranks " ranks " threads all microbatches " mb " schedule " schedule "\n"

#define PIPELINE                                                                    \
	HEAD("5", "3", "1f1b")                                                      \
	"mesh m0 = mb\nmesh m1 = dp:2\nmesh m2 = tp:2\n"                            \
	"stage 0 layers 0-1 ranks 0-1\nstage 1 layers 2 ranks 2-3\n"                \
	"stage 2 layers 3-4 ranks 4\nlayers 0-1 mesh m1 zero 2\nlayers 2 mesh m2\n" \
	"layers 3-4 mesh m0\n"

#define ZERO(z)                                                        \
	HEAD("3", "2", "gpipe")                                        \
	"mesh m0 = mb\nmesh m1 = dp:3\nstage 0 layers 0-4 ranks 0-2\n" \
	"layers 0-4 mesh m1 zero " z "\n"

#define MESHES(z)                                                       \
	HEAD("4", "2", "1f1b")                                          \
	"mesh m0 = mb\nmesh m1 = tp:2 dp:2\nmesh m2 = dp:4\n"           \
	"stage 0 layers 0-4 ranks 0-3\nlayers 0-2 mesh m1 zero " z "\n" \
	"layers 3-4 mesh m2 zero " z "\n"

#define UNEQUAL                                                        \
	HEAD("6", "2", "gpipe")                                        \
	"mesh m0 = mb\nmesh m1 = dp:2 tp:2\nmesh m2 = tp:2\n"          \
	"stage 0 layers 0-2 ranks 0-3\nstage 1 layers 3-4 ranks 4-5\n" \
	"layers 0-2 mesh m1 zero 3\nlayers 3-4 mesh m2\n"

static void
run_plan(const char *name, const char *plan)
{
	static const char *const to[] = {"spmd", "sched", "mem"};

	for (size_t k = 0; k < COUNTOF(to); k++) {
		Test t = open_test(name);
		Module *m = make(&t, plan, to[k]);
		for (uint32_t order = 0; m && order < 4; order++) {
			EvalOptions o = {.f64 = true,
					 .seed = 3,
					 .train = true,
					 .adversarial = order > 0,
					 .order_seed = order};
			Results r;
			bool ok = run_steps(&t, m, &o, &r);
			if (!ok) show_said(&t);
			check(name, ok, to[k]);
			if (ok) check(name, same_results(&r, &one), to[k]);
		}
		close_test(&t);
	}
}

/* ---- edited programs ---- */

typedef enum Fate { RIGHT, WRONG, REFUSED } Fate;

/* The worst that happens in some hostile orders when rank `rank` runs `edited`. */
static Fate
fate(Test *t, const Module *m, uint32_t rank, Steps edited)
{
	Steps *program = NEW_N(t->arena, Steps, m->plan.ranks);
	Fate worst = RIGHT;

	for (uint32_t k = 0; k < m->plan.nstages; k++)
		for (uint32_t i = 0; i < m->plan.stages[k].ranks; i++)
			program[m->plan.stages[k].rank + i] = ir_expand(m, k, t->arena);
	if (edited.s) program[rank] = edited;
	for (uint32_t order = 0; order < 6 && worst == RIGHT; order++) {
		EvalOptions o = {.f64 = true,
				 .seed = 3,
				 .train = true,
				 .adversarial = true,
				 .order_seed = order,
				 .program = program};
		Results r;
		if (!run_steps(t, m, &o, &r))
			worst = REFUSED;
		else if (!same_results(&r, &one))
			worst = WRONG;
	}
	return worst;
}

/* The `nth` action of that kind; n if there is none. */
static uint32_t
find(const Steps *s, ActKind kind, CommKind comm, uint32_t nth)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->s[i].a.kind == kind && (kind == ACT_body || s->s[i].a.comm == comm) &&
		    !nth--)
			return i;
	return s->n;
}

static void
cut(Steps *s, uint32_t at)
{
	memmove(&s->s[at], &s->s[at + 1], (s->n - at - 1) * sizeof *s->s);
	s->n--;
}

/* The action at `from` goes to `to`. */
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

static void
test_edits(void)
{
	Test t = open_test("edited");
	Module *m = make(&t, PIPELINE, "mem");
	Steps s;

	if (!m) return;
	check(t.name, fate(&t, m, 0, (Steps){.n = 0}) == RIGHT,
	      "spelt out, it is another program");
	s = ir_expand(m, 1, t.arena); /* a wait left out */
	cut(&s, find(&s, ACT_wait, CK_fwd, 0));
	check(t.name, fate(&t, m, 2, s) == REFUSED, "a dropped wait");
	check(t.name, has_said(&t, "without having waited for 'fwd"), "who did not wait");
	s = ir_expand(m, 1, t.arena); /* a start left out */
	cut(&s, find(&s, ACT_start, CK_fwd, 0));
	check(t.name, fate(&t, m, 2, s) == REFUSED, "a dropped start");
	check(t.name, has_said(&t, "which has not been started"), "what was not started");
	s = ir_expand(m, 1, t.arena); /* a receive left out: the sender waits for ever */
	cut(&s, find(&s, ACT_start, CK_fwd, 0));
	cut(&s, find(&s, ACT_wait, CK_fwd, 0));
	check(t.name, fate(&t, m, 2, s) != RIGHT, "a dropped receive");
	s = ir_expand(m, 1, t.arena);
	s.s[find(&s, ACT_start, CK_fwd, 0)].resize = 1;
	check(t.name, fate(&t, m, 2, s) == REFUSED, "a longer message");
	check(t.name, has_said(&t, "deadlock: rank"), "nobody is said to wait");
	s = ir_expand(m, 0, t.arena); /* both receivers are sent the same: no harm */
	s.s[find(&s, ACT_start, CK_fwd, 0)].peer = 1;
	check(t.name, fate(&t, m, 0, s) == RIGHT, "two messages that are alike, exchanged");
	s = ir_expand(m, 1, t.arena); /* the other half of the batch wants another's */
	s.s[find(&s, ACT_start, CK_bwd, 1)].peer = 1;
	check(t.name, fate(&t, m, 2, s) == REFUSED, "another peer");
	s = ir_expand(m, 1, t.arena); /* read before it has come */
	uint32_t body = find(&s, ACT_body, CK_fwd, 0), wait = find(&s, ACT_wait, CK_fwd, 0);
	check(t.name, wait < body, "the receive is waited for before it is read");
	move(&s, wait, body);
	check(t.name, fate(&t, m, 2, s) == WRONG, "read before it is complete");
	s = ir_expand(m, 0, t.arena); /* gradients given away before they are made */
	uint32_t grad = find(&s, ACT_start, CK_grad, 0);
	move(&s, grad, grad - 1);
	check(t.name, fate(&t, m, 1, s) == WRONG, "reduced before it is made");
	close_test(&t);
}

int
main(void)
{
	run_one();
	run_plan("pipeline of three unequal stages", PIPELINE);
	run_plan("two stages, four ranks and two", UNEQUAL);
	run_plan("ZeRO 0 on three ranks", ZERO("0"));
	run_plan("ZeRO 1 on three ranks", ZERO("1"));
	run_plan("ZeRO 2 on three ranks", ZERO("2"));
	run_plan("ZeRO 3 on three ranks", ZERO("3"));
	run_plan("two meshes, ZeRO 0", MESHES("0"));
	run_plan("two meshes, ZeRO 1", MESHES("1"));
	run_plan("two meshes, ZeRO 2", MESHES("2"));
	run_plan("two meshes, ZeRO 3", MESHES("3"));
	test_edits();
	if (failures) return 1;
	printf("ranks: %d checks ok\n", checks);
	return 0;
}
