/*
 * simulate.c - properties of the simulator, over models, plans, machines and prices drawn at random:
 *
 *   ranks that do the same, simulated as one, give what all of them give one by one: every time, to the nanosecond
 *   what a rank does one after the other is its time: computing, norm and waiting together (on the host communication too)
 *   no less than the longest stage computes; not less with dearer links, once nothing slows down what runs beside it
 *   memory alive over time stays below the arena, and its peak is what level mem computes
 *   the same step twice is the same bytes
 */
#include "passes/simulate.h"
#include "tests/props/drawn.h"

static uint32_t checks;
static const char *plan = "";

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

/* ---- machines and prices ---- */

typedef struct Drawn {
	Cluster c;
	Device kind[2];
	NodeRun run[3];
	uint64_t salt;
	double links; /* all communication takes so much longer */
} Drawn;

static uint64_t
draw(const Drawn *x, uint64_t what, uint64_t i, uint64_t k)
{
	uint64_t in[4] = {x->salt, what, i, k};
	return hash_bytes(in, sizeof in, 0);
}

static BodyPrice
draw_body(void *arg, const Module *m, const Body *b, uint32_t kind)
{
	const Drawn *x = arg;
	BodyPrice p = {.compute = (int64_t)(draw(x, 1, (uint64_t)(b - m->bodies), kind) % 900)};
	for (uint32_t i = 0; i < b->nops; i++)
		if (op_info[b->ops[i].code].flags & OF_COMM && attr_find(&b->ops[i], AK_over))
			p.comm += (int64_t)(x->links * (double)(draw(x, 2, i, 0) % 90));
	return p;
}

static int64_t
draw_prim(void *arg, const Module *m, const CommTable *t, uint32_t stage, const Prim *prim)
{
	const Drawn *x = arg;
	(void)m, (void)t;
	uint64_t most = draw(x, 3, 0, 0) % 3 ? 100 : 1000;
	return (int64_t)(x->links * (double)(draw(x, 4 + (uint64_t)prim->kind, stage,
						  (uint64_t)prim->count) %
					     most));
}

/* `turns`: a host; `plain`: nothing slows down what runs beside it. */
static Drawn
draw_machine(uint64_t salt, bool turns, bool plain)
{
	Drawn x = {.salt = salt, .links = 1};
	uint32_t per = 1 + (uint32_t)(draw(&x, 10, 0, 0) % 5);
	bool kinds = draw(&x, 11, 0, 0) % 3 == 0;
	for (int k = 0; k < 2; k++) {
		Device *d = &x.kind[k];
		double slow = (double)(draw(&x, 12, 0, 0) % 5) / 10;
		d->slow_compute = turns ? 0 : plain ? 1 : 1 + slow;
		d->slow_comm = turns ? 0 : plain ? 1 : 1 + 2 * slow;
		for (int e = 0; e < EF_COUNT; e++)
			d->eff[e] = hw_eff[e].value;
		if (!plain && draw(&x, 13, 0, 0) % 3 == 0) d->eff[EF_overlap] = 0.6;
	}
	x.run[0] = (NodeRun){.nodes = 1, .device = 0, .devices = 1 + per / 2};
	x.run[1] = (NodeRun){.nodes = 2, .device = kinds, .devices = per};
	x.run[2] = (NodeRun){.nodes = 64, .device = 0, .devices = per};
	x.c = (Cluster){.ndevice = 2, .nrun = 3};
	return x;
}

static SimResult
simulated(Ctx *c, const Module *m, Drawn *x, bool all, bool record, Arena *a)
{
	x->c.device = x->kind;
	x->c.run = x->run;
	x->c.devices = x->c.nodes = 0;
	for (int i = 0; i < 3; i++) {
		x->c.nodes += x->run[i].nodes;
		x->c.devices += x->run[i].nodes * x->run[i].devices;
	}
	SimPrices prices = {.arg = x, .cluster = &x->c, .body = draw_body, .prim = draw_prim};
	SimOptions o = {.all_ranks = all, .record = record, .prices = &prices};
	return simulate(c, m, NULL, &o, a);
}

/* ---- properties ---- */

static void
check_equal(const Module *m, const SimResult *x, const SimResult *all)
{
	CHECK(x->step == all->step, "%lld ns, rank by rank %lld", (long long)x->step,
	      (long long)all->step);
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		const SimStage *s = &x->stage[k], *t = &all->stage[k];
		CHECK(s->ranks == m->plan.stages[k].ranks && t->classes == s->ranks,
		      "stage %u: %u ranks", k, s->ranks);
		CHECK(s->end == t->end, "stage %u ends at %lld, rank by rank at %lld", k,
		      (long long)s->end, (long long)t->end);
		for (int w = 0; w < SW_COUNT; w++)
			CHECK(s->busy[w] == t->busy[w],
			      "stage %u: %s takes %lld, rank by rank %lld", k, sim_what_str[w],
			      (long long)s->busy[w], (long long)t->busy[w]);
	}
}

static void
check_sums(const Module *m, const SimResult *x, bool turns)
{
	int64_t longest = 0;
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		const SimStage *s = &x->stage[k];
		int64_t sum = 0, computes = 0;
		for (int w = 0; w < SW_COUNT; w++) {
			bool beside = w >= SW_fwd && w <= SW_borrow;
			if (turns || !beside) sum += s->busy[w];
			if (w <= SW_tp) computes += s->busy[w];
		}
		CHECK(sum == s->end, "stage %u does %lld of %lld ns", k, (long long)sum,
		      (long long)s->end);
		if (computes > longest) longest = computes;
	}
	CHECK(x->step >= longest, "a step of %lld, one stage computes %lld", (long long)x->step,
	      (long long)longest);
}

static void
check_memory(const Module *m, const SimResult *x)
{
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		const SimStage *s = &x->stage[k];
		const Memory *mem = &m->mem[k];
		CHECK(s->arena == mem->arena_bytes && s->peak <= s->arena, "stage %u: %lld", k,
		      (long long)s->peak);
		CHECK(s->peak == mem->live_bytes || m->const_body,
		      "stage %u: %lld bytes at most, level mem says %lld", k,
		      (long long)s->peak, (long long)mem->live_bytes);
		for (uint32_t i = 1; i < s->npoints; i++)
			CHECK(s->when[i] >= s->when[i - 1] && s->when[i] <= s->end,
			      "stage %u: memory out of time", k);
	}
}

static void
check_bytes(const SimResult *x, const SimResult *y)
{
	CHECK(x->nevents == y->nevents && x->steps == y->steps, "%u events, then %u",
	      x->nevents, y->nevents);
	for (uint32_t i = 0; i < x->nevents; i++)
		CHECK(memcmp(&x->event[i], &y->event[i], sizeof(SimEvent)) == 0,
		      "event %u is another", i);
	for (uint32_t i = 1; i < x->nevents; i++) {
		const SimEvent *e = &x->event[i], *d = e - 1;
		if (e->stage != d->stage || e->class != d->class) continue;
		CHECK(e->from >= d->from, "events out of order");
		CHECK(e->stream != SS_compute || d->stream != SS_compute || e->from >= d->to,
		      "a rank does two things at a time");
	}
}

static uint32_t split; /* stages of several classes */

static void
check_plan(Ctx *c, const Module *m, uint64_t salt)
{
	for (int turns = 0; turns < 2; turns++) {
		Arena *a = arena_new();
		Drawn x = draw_machine(salt + (uint64_t)turns, turns, salt % 4 == 0);
		SimResult one = simulated(c, m, &x, false, true, a);
		SimResult all = simulated(c, m, &x, true, false, a);
		SimResult again = simulated(c, m, &x, false, true, a);
		for (uint32_t k = 0; k < m->plan.nstages; k++)
			split += one.stage[k].classes > 1 &&
				 one.stage[k].classes < one.stage[k].ranks;
		check_equal(m, &one, &all);
		check_sums(m, &one, turns);
		check_memory(m, &one);
		check_bytes(&one, &again);
		if (salt % 4 == 0 && !turns) {
			x.links = 0.5;
			SimResult fast = simulated(c, m, &x, false, false, a);
			CHECK(fast.step <= one.step,
			      "%lld with twice the bandwidth, after %lld", (long long)fast.step,
			      (long long)one.step);
		}
		arena_free(a);
	}
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
	uint32_t plans = 0;
	for (size_t i = 0; i < COUNTOF(model); i++)
		for (uint32_t p = 0; p < model[i].plans; p++) {
			Arena *a = arena_new();
			Draw d = {.key = rng_key(i, "simulate"),
				  .at = (uint64_t)p << 20,
				  .layers = model[i].layers,
				  .most_stages = 6,
				  .most_ranks = p % 2 ? 6 : 4,
				  .tp = p % 3 == 0 && i == 0};
			Ctx c;
			sscanf(model[i].set[0], "batch=%u", &d.batch);
			plan = draw_plan(a, &d);
			Module *m =
			    compile_under(&c, model[i].path, model[i].set, 2, plan, p % 8 == 7);
			CHECK(m, "no program");
			check_plan(&c, m, i << 16 | p);
			plans++;
			drop_compiled(&c);
			arena_free(a);
		}
	CHECK(split > 20, "only %u stages have several classes of several ranks", split);
	printf("%u checks on %u plans, %u stages of several classes\n", checks, plans, split);
	return 0;
}
