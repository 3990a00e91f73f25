/*
 * sched.c - properties of action tables, over models and plans drawn at random:
 *
 *   on the weakest machine every table runs to its end: a message is a rendezvous, those of a channel (source stage, target
 *   stage, kind) complete in the order in which they were started, a wait blocks
 *   both sides of a channel start the same messages in the same order
 *   what is started is waited for once, and nothing twice at a time
 *   tables grow neither with microbatches nor with layers
 *
 * The machine here knows stages, not ranks (the ranks of a stage run one table), and nothing of buffers: those are mem.c's.
 */
#include "tests/props/drawn.h"

static uint32_t checks;

#define CHECK(cond, ...)                                                           \
	do {                                                                       \
		checks++;                                                          \
		if (!(cond)) {                                                     \
			fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond); \
			fprintf(stderr, __VA_ARGS__);                              \
			fprintf(stderr, "\nunder this plan:\n%s", plan);           \
			exit(1);                                                   \
		}                                                                  \
	} while (0)

static const char *plan = "";

/* What of a table is left to run. */
typedef struct Events {
	Action *s;
	uint32_t n, at;
} Events;

/* ---- the weakest machine ---- */

typedef struct Queue { /* one side of a channel */
	Action *s;
	uint32_t n, cap;
} Queue;

typedef struct Weakest {
	Arena *a;
	const Module *m;
	uint32_t n; /* stages */
	Events *steps;
	Queue *queue;  /* [from][to][kind][side]: 0 the source's, 1 the target's */
	Action **open; /* [stage] started, not waited for */
	uint32_t *nopen;
} Weakest;

static Queue *
side_of(const Weakest *x, uint32_t from, uint32_t to, CommKind k, int side)
{
	return &x->queue[((from * x->n + to) * CK_COUNT + k) * 2 + (uint32_t)side];
}

/* False: the ranks of one stage among themselves. */
static bool
channel_of(const Weakest *x, const Action *s, uint32_t *from, uint32_t *to)
{
	const Module *m = x->m;
	uint32_t near, far;
	if (s->comm == CK_param || s->comm == CK_grad) return false;
	if (s->comm == CK_fwd || s->comm == CK_bwd) {
		near = ir_stage_of(m, s->inst),
		far = ir_stage_of(m, m->insts[s->inst].args[0].i);
	} else {
		const Param *p = &m->params[s->inst];
		near = ir_stage_of(m, p->owner),
		far = ir_stage_of(m, m->params[p->borrows - 1].owner);
	}
	bool out = s->comm == CK_fwd || s->comm == CK_lend;
	*from = out ? far : near;
	*to = out ? near : far;
	return near != far;
}

static void
start(Weakest *x, uint32_t k, const Action *s)
{
	uint32_t from, to;
	for (uint32_t i = 0; i < x->nopen[k]; i++)
		CHECK(x->open[k][i].comm != s->comm || x->open[k][i].inst != s->inst ||
			  x->open[k][i].mb != s->mb,
		      "stage %u starts %s %u twice", k, comm_str[s->comm], s->inst);
	x->open[k][x->nopen[k]++] = *s;
	if (!channel_of(x, s, &from, &to)) return;
	CHECK(from == k || to == k, "stage %u starts %s %u, which is not its own", k,
	      comm_str[s->comm], s->inst);
	Queue *q = side_of(x, from, to, s->comm, to == k),
	      *o = side_of(x, from, to, s->comm, from == k);
	PUSH(x->a, q->s, q->n, q->cap, *s);
	if (o->n >= q->n)
		CHECK(o->s[q->n - 1].inst == s->inst && o->s[q->n - 1].mb == s->mb,
		      "message %u from stage %u to %u is %s %u of microbatch %u for stage %u, "
		      "but %u of %u for the other",
		      q->n - 1, from, to, comm_str[s->comm], s->inst, s->mb, k,
		      o->s[q->n - 1].inst, o->s[q->n - 1].mb);
}

/* Has it come to an end? */
static bool
complete(const Weakest *x, uint32_t k, const Action *s)
{
	uint32_t from, to, at = 0;
	if (!channel_of(x, s, &from, &to)) return true;
	const Queue *q = side_of(x, from, to, s->comm, to == k),
		    *o = side_of(x, from, to, s->comm, from == k);
	while (q->s[at].inst != s->inst || q->s[at].mb != s->mb)
		at++;
	return at < o->n;
}

static bool
wait_for(Weakest *x, uint32_t k, const Action *s)
{
	uint32_t i = 0;
	while (i < x->nopen[k] && (x->open[k][i].comm != s->comm ||
				   x->open[k][i].inst != s->inst || x->open[k][i].mb != s->mb))
		i++;
	CHECK(i < x->nopen[k], "stage %u waits for %s %u of microbatch %u, which is not begun",
	      k, comm_str[s->comm], s->inst, s->mb);
	if (!complete(x, k, s)) return false;
	x->open[k][i] = x->open[k][--x->nopen[k]];
	return true;
}

/* Runs a stage until it blocks. Returns whether it got on. */
static bool
run_stage(Weakest *x, uint32_t k)
{
	Events *t = &x->steps[k];
	uint32_t from = t->at;
	for (; t->at < t->n && t->s[t->at].kind != ACT_norm; t->at++) {
		const Action *s = &t->s[t->at];
		if (s->kind == ACT_start) start(x, k, s);
		if (s->kind == ACT_wait && !wait_for(x, k, s)) break;
	}
	return t->at > from;
}

/* All stages stand before their norm: it is one collective. */
static bool
pass_norm(Weakest *x)
{
	for (uint32_t k = 0; k < x->n; k++)
		if (x->steps[k].at == x->steps[k].n ||
		    x->steps[k].s[x->steps[k].at].kind != ACT_norm)
			return false;
	for (uint32_t k = 0; k < x->n; k++)
		x->steps[k].at++;
	return true;
}

static void
check_run(const Module *m)
{
	Weakest x = {.a = arena_new(), .m = m, .n = m->plan.nstages};
	bool moved = true;
	x.steps = NEW_N(x.a, Events, x.n);
	x.queue = NEW_N(x.a, Queue, (size_t)x.n * x.n * CK_COUNT * 2);
	x.open = NEW_N(x.a, Action *, x.n);
	x.nopen = NEW_N(x.a, uint32_t, x.n);
	for (uint32_t k = 0; k < x.n; k++) {
		Steps all = ir_expand(m, k, x.a);
		x.steps[k] = (Events){NEW_N(x.a, Action, all.n + 1), all.n, 0};
		for (uint32_t i = 0; i < all.n; i++)
			x.steps[k].s[i] = all.s[i].a;
		x.open[k] = NEW_N(x.a, Action, x.steps[k].n + 1);
	}
	while (moved) {
		moved = false;
		for (uint32_t k = 0; k < x.n; k++)
			moved |= run_stage(&x, k);
		moved |= pass_norm(&x);
	}
	for (uint32_t k = 0; k < x.n; k++) {
		const Events *t = &x.steps[k];
		CHECK(t->at == t->n, "deadlock: stage %u stands before %s of %s %u, mb %u", k,
		      t->s[t->at].kind == ACT_norm ? "norm" : "the wait",
		      comm_str[t->s[t->at].comm], t->s[t->at].inst, t->s[t->at].mb);
		CHECK(!x.nopen[k], "stage %u does not wait for %u messages", k, x.nopen[k]);
	}
	arena_free(x.a);
}

/* ---- sizes ---- */

static uint32_t
actions_of(const char *layers, const char *batch, const char *text)
{
	const char *set[] = {layers, batch};
	Ctx c;
	plan = text;
	Module *m = compile_under(&c, "tests/models/gpt.gdl", set, 2, text, false);
	CHECK(m, "no program");
	uint32_t n = m->nactions;
	drop_compiled(&c);
	return n;
}

/* Twice the layers, four times the microbatches: the same tables. */
static void
check_growth(const char *schedule, int zero)
{
	char text[2][600];
	uint32_t n[2];
	for (int big = 0; big < 2; big++) {
		int half = big ? 13 : 7, all = big ? 26 : 14;
		snprintf(text[big], sizeof text[big],
			 "plan 1\nranks 4 threads 1 microbatches %d schedule %s\nmesh m0 = mb\n"
			 "mesh m1 = dp:2\nstage 0 layers 0-%d ranks 0-1\n"
			 "stage 1 layers %d-%d ranks 2-3\n"
			 "layers 0-%d mesh m1 zero %d recompute none\n",
			 big ? 32 : 8, schedule, half - 1, half, all - 1, all - 1, zero);
		n[big] = actions_of(big ? "layers=24" : "layers=12", "batch=64", text[big]);
	}
	CHECK(n[0] == n[1], "%s zero %d: %u actions, then %u", schedule, zero, n[0], n[1]);
}

int
main(void)
{
	static const struct {
		const char *path, *set[2];
		uint32_t layers, plans;
	} model[] = {
	    {"tests/models/gpt.gdl", {"batch=12", "layers=8"}, 10, 60},
	    {"tests/models/llama.gdl", {"batch=8", "layers=6"}, 8, 30},
	    {"tests/models/zoo/skips.gdl", {"batch=12", "seq=5"}, 5, 30},
	    {"tests/models/zoo/whisper.gdl", {"batch=6", "seq=5"}, 7, 30},
	};
	for (size_t i = 0; i < COUNTOF(model); i++)
		for (uint32_t p = 0; p < model[i].plans; p++) {
			Arena *a = arena_new();
			Draw d = {.key = rng_key(i, "sched"),
				  .at = (uint64_t)p << 20,
				  .layers = model[i].layers,
				  .most_stages = 10,
				  .most_ranks = p % 2 ? 1 : 4};
			Ctx c;
			sscanf(model[i].set[0], "batch=%u", &d.batch);
			plan = draw_plan(a, &d);
			Module *m =
			    compile_under(&c, model[i].path, model[i].set, 2, plan, p % 8 == 7);
			CHECK(m, "no program");
			check_run(m);
			drop_compiled(&c);
			arena_free(a);
		}
	for (int zero = 0; zero < 4; zero++) {
		check_growth("1f1b", zero);
		check_growth("gpipe", zero);
	}
	printf("sched: %u checks ok\n", checks);
	return 0;
}
