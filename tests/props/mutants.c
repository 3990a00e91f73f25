/*
 * mutants.c - does the verifier see what does harm? Plans are drawn, and in the steps of ONE rank something is dropped,
 * exchanged, moved, sent to another peer, made longer, received elsewhere, or done in another slot. The interpreter, in
 * hostile orders, says whether that does harm: other numbers, a deadlock, a message that does not fit. What does must be
 * refused; what was not edited must not.
 *
 *   build/tests/props/mutants [plans [first]]
 */
#include "tests/props/drawn.h"
#include "tests/unit/check.h"
#include "tests/unit/steps.h"

enum { STEPS = 2, ORDERS = 4, EDITS = 40 };

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

static bool
run_steps(Test *t, const EvalOptions *o, Results *r)
{
	return run_toy(t->m, t->c.diag, o, STEPS, false, r);
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
	Steps *all = spelled_out(t->m, t->c.perm);
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
	t->m = lowered(&t->c, toy, text, "mem");
	if (t->m) {
		Steps *all = spelled_out(t->m, t->c.perm);
		EvalOptions o = {.f64 = true, .seed = 3, .train = true};
		bool ok = ir_verify_expanded(t->m, all, t->m->plan.ranks, t->c.diag);

		n->plans++;
		if (!run_steps(t, &o, &t->right) || harmful(t, all))
			printf("mutants: plan %u goes wrong as it is\n%s", number, text);
		if (!ok) {
			n->false_alarms++;
			printf("mutants: plan %u is refused as it is\n%s", number, text);
			show_said(t->said, "mutants");
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
