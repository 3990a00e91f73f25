/*
 * ranks.c - the interpreter on several ranks: one model under plans with stages, meshes, ZeRO and microbatches, at every
 * level and in hostile orders, against one rank; then programs of one rank edited on purpose, which must be seen.
 */
#include "tests/unit/check.h"
#include "tests/unit/steps.h"

enum { STEPS = 3 };

typedef struct Test {
	const char *name;
	Arena *arena, *tmp;
	Names *names;
	FILE *said;
	Diag *diag;
	Ctx c;
} Test;

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

static Module *
make(Test *t, const char *plan, const char *to)
{
	Module *m = lowered(&t->c, toy, plan, to);

	check(t->name, m != NULL, "does not lower");
	if (!m) show_said(t->said, t->name);
	return m;
}

static bool
run_steps(Test *t, const Module *m, const EvalOptions *o, Results *r)
{
	return run_toy(m, t->diag, o, STEPS, true, r);
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
			if (!ok) show_said(t.said, name);
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
	Steps *program = spelled_out(m, t->arena);
	Fate worst = RIGHT;

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
	check(t.name, has_said(t.said, "without having waited for 'fwd"), "who did not wait");
	s = ir_expand(m, 1, t.arena); /* a start left out */
	cut(&s, find(&s, ACT_start, CK_fwd, 0));
	check(t.name, fate(&t, m, 2, s) == REFUSED, "a dropped start");
	check(t.name, has_said(t.said, "which has not been started"), "what was not started");
	s = ir_expand(m, 1, t.arena); /* a receive left out: the sender waits for ever */
	cut(&s, find(&s, ACT_start, CK_fwd, 0));
	cut(&s, find(&s, ACT_wait, CK_fwd, 0));
	check(t.name, fate(&t, m, 2, s) != RIGHT, "a dropped receive");
	s = ir_expand(m, 1, t.arena);
	s.s[find(&s, ACT_start, CK_fwd, 0)].resize = 1;
	check(t.name, fate(&t, m, 2, s) == REFUSED, "a longer message");
	check(t.name, has_said(t.said, "deadlock: rank"), "nobody is said to wait");
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
	return checked("ranks");
}
