/*
 * simulate.c - the simulator against what can be worked out by hand: pipelines, gradients beside computing, shared networks,
 * mutual slow-down, a slow stage; and its trace, read back.
 *
 * Prices are made up: of bodies by layer and kind, of communication by kind, so that times are sums one can see.
 */
#include "passes/simulate.h"
#include "tests/props/drawn.h"
#include "tests/unit/check.h"

/* ---- made-up prices ---- */

typedef struct Made {
	SimPrices x;
	Cluster cluster;
	Device device;
	NodeRun run;
	int64_t block[BK_COUNT], other[BK_COUNT]; /* a block's body; another's */
	int64_t grad, only; /* all_reduce; of that many elements alone, 0: any */
	int64_t gather, message, norm;
} Made;

static BodyPrice
made_body(void *arg, const Module *m, const Body *b, uint32_t kind)
{
	const Made *x = arg;
	(void)kind;
	bool block = strcmp(name_str(m->names, b->name), "block") == 0;
	return (BodyPrice){.compute = block ? x->block[b->kind] : x->other[b->kind]};
}

static int64_t
made_prim(void *arg, const Module *m, const CommTable *t, uint32_t stage, const Prim *p)
{
	const Made *x = arg;
	(void)m, (void)t, (void)stage;
	if (p->kind == PR_exchange) return x->message;
	if (p->comm == 0 && p->dt == DT_f64) return x->norm;
	if (p->kind == PR_all_reduce) return x->only && p->count != x->only ? 0 : x->grad;
	return x->gather;
}

/* Nodes of `per` devices, beside whose computing communication goes on without harm. */
static Made
made(uint32_t per)
{
	Made x = {.device = {.slow_compute = 1, .slow_comm = 1}};
	x.device.eff[EF_overlap] = 1;
	x.run = (NodeRun){.nodes = 64, .devices = per};
	return x;
}

static SimResult
simulated(Ctx *c, const Module *m, Made *x, bool record, Arena *a)
{
	x->cluster = (Cluster){.device = &x->device,
			       .ndevice = 1,
			       .run = &x->run,
			       .nrun = 1,
			       .nodes = x->run.nodes,
			       .devices = x->run.nodes * x->run.devices};
	x->x =
	    (SimPrices){.arg = x, .cluster = &x->cluster, .body = made_body, .prim = made_prim};
	return simulate(c, m, NULL, &(SimOptions){.record = record, .prices = &x->x}, a);
}

/* ---- plans ---- */

typedef struct Case {
	Ctx c;
	Arena *a;
	Module *m;
} Case;

/* gpt.gdl cut into stages of `blocks[k]` blocks, `dp` ranks each; the ends of the model lie with the first and last. */
static Case
cut(const uint32_t *blocks, uint32_t stages, uint32_t dp, uint32_t mbs, const char *schedule,
    int zero)
{
	Case x = {.a = arena_new()};
	char layers[32], batch[32];
	const char *set[] = {layers, batch};
	uint32_t all = 0, at = 0;
	Buf b;
	for (uint32_t k = 0; k < stages; k++)
		all += blocks[k];
	snprintf(layers, sizeof layers, "layers=%u", all);
	snprintf(batch, sizeof batch, "batch=%u", mbs * dp);
	buf_init(&b, x.a);
	buf_printf(&b, "plan 1\nranks %u threads 1 microbatches %u schedule %s\nmesh m0 = mb\n",
		   stages * dp, mbs, schedule);
	if (dp > 1) buf_printf(&b, "mesh m1 = dp:%u\n", dp);
	for (uint32_t k = 0; k < stages; k++) {
		uint32_t n = blocks[k] + (k == 0) + (k + 1 == stages);
		buf_printf(&b, "stage %u layers %u-%u ranks %u-%u\n", k, at, at + n - 1, k * dp,
			   k * dp + dp - 1);
		at += n;
	}
	buf_printf(&b, "layers 0-%u mesh m%d zero %d recompute none\n", all + 1, dp > 1, zero);
	x.m = compile_under(&x.c, "tests/models/gpt.gdl", set, 2, b.s, false);
	return x;
}

static void
drop(Case *x)
{
	drop_compiled(&x->c);
	arena_free(x->a);
}

/* ---- pipelines ---- */

/* Equal stages and free communication: (m + p - 1) (F + B), whatever the schedule, whoever moves the messages. A cotangent
 * leaves before the W of the block that made it, which for all stages but the first is so much less to wait for. */
static void
check_uniform(void)
{
	static const uint32_t equal[8] = {2, 2, 2, 2, 2, 2, 2, 2};
	for (uint32_t p = 1; p <= 8; p += p < 4 ? 1 : 2)
		for (uint32_t mbs = 1; mbs <= 12; mbs += 1 + mbs / 3)
			for (int s = 0; s < 2; s++) {
				Case x = cut(equal, p, 1, mbs, s ? "1f1b" : "gpipe", 0);
				for (int k = 0; k < 4; k++) {
					Made y = made(8);
					y.device.slow_compute = k < 2;
					y.block[BK_F] = 7;
					y.block[BK_B] = 13;
					y.block[BK_W] = k % 2 ? 5 : 0;
					SimResult r = simulated(&x.c, x.m, &y, false, x.a);
					int64_t w = y.block[BK_W], n = mbs + p - 1;
					int64_t want = n * 2 * (7 + 13 + w) - (p - 1) * w;
					CHECK(r.step == want,
					      "%u stages, %u microbatches: %lld, not %lld", p,
					      mbs, (long long)r.step, (long long)want);
				}
				drop(&x);
			}
}

/* The slow stage does all its work; before and after it there is the first F, the last B and W. */
static void
check_slow_middle(void)
{
	static const uint32_t blocks[4] = {1, 3, 1, 1};
	for (int s = 0; s < 2; s++) {
		Case x = cut(blocks, 4, 1, 16, s ? "1f1b" : "gpipe", 0);
		Made y = made(8);
		y.block[BK_F] = 10;
		y.block[BK_B] = 12;
		y.block[BK_W] = 8;
		SimResult r = simulated(&x.c, x.m, &y, false, x.a);
		int64_t least = 10 + 16 * 3 * 30 - 8 + 20;
		CHECK(r.step >= least && r.step <= least + 2 * 3 * 30, "%lld, at least %lld",
		      (long long)r.step, (long long)least);
		CHECK(r.stage[1].busy[SW_wait] < r.stage[2].busy[SW_wait],
		      "it waits for others");
		drop(&x);
	}
}

/* Messages take their time on the way there and back once, where the pipeline fills and drains. */
static void
check_messages(void)
{
	static const uint32_t two[2] = {1, 1};
	Case x = cut(two, 2, 1, 1, "1f1b", 0);
	Made y = made(8);
	y.block[BK_F] = 100;
	y.block[BK_B] = 200;
	y.message = 30;
	SimResult r = simulated(&x.c, x.m, &y, false, x.a);
	/* the tied embedding's gradient returns and its values are lent: two messages more */
	CHECK(r.step == 4 * 30 + 2 * 300, "%lld", (long long)r.step);
	drop(&x);
}

/* ---- gradients of data parallelism ---- */

/* One stage: gradients are summed as W gives them, one after the other; N waits for each in that order. */
static int64_t
by_hand(const Made *y, uint32_t blocks, uint32_t mbs, bool beside)
{
	int64_t f = y->other[BK_F] * 2 + y->block[BK_F] * blocks;
	int64_t b = y->other[BK_B] + y->block[BK_B] * blocks,
		w = y->other[BK_W] * 2 + y->block[BK_W] * blocks;
	int64_t t = f * mbs + (b + w) * (mbs - 1), done = 0, sum[64];
	uint32_t n = blocks + 2;
	for (uint32_t i = 0; i < n; i++) { /* from the last layer on; the first has no B */
		bool end = i == 0 || i + 1 == n;
		if (i + 1 < n) t += end ? y->other[BK_B] : y->block[BK_B];
		t += end ? y->other[BK_W] : y->block[BK_W];
		done = (done > t && beside ? done : t) + y->grad;
		if (!beside) t = done;
		sum[i] = done;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (sum[i] > t) t = sum[i];
		t += i == 0 || i + 1 == n ? y->other[BK_N] : y->block[BK_N];
	}
	return t + y->norm + 2 * y->other[BK_U] + blocks * y->block[BK_U];
}

static void
check_dp(void)
{
	static const uint32_t five[1] = {5};
	static const int64_t grads[] = {0, 3, 40, 90, 1000};
	for (size_t i = 0; i < COUNTOF(grads); i++)
		for (uint32_t mbs = 1; mbs <= 3; mbs += 2) {
			Case x = cut(five, 1, 2, mbs, "1f1b", 0);
			Made y = made(8);
			for (int k = BK_F; k <= BK_U; k++) {
				y.block[k] = 11 * (k + 2);
				y.other[k] = 5 * (k + 1);
			}
			y.grad = grads[i];
			y.norm = 17;
			SimResult r = simulated(&x.c, x.m, &y, false, x.a);
			int64_t want = by_hand(&y, 5, mbs, true);
			CHECK(r.step == want, "gradients of %lld: %lld, not %lld",
			      (long long)y.grad, (long long)r.step, (long long)want);
			CHECK(r.stage[0].classes == 1 && r.stage[0].ranks == 2, "%u classes",
			      r.stage[0].classes);
			y.device.eff[EF_overlap] = 0;
			r = simulated(&x.c, x.m, &y, false, x.a);
			want = by_hand(&y, 5, mbs, false);
			CHECK(r.step == want, "nothing overlaps: %lld, not %lld",
			      (long long)r.step, (long long)want);
			y.device.slow_compute = 0; /* a host */
			r = simulated(&x.c, x.m, &y, false, x.a);
			CHECK(r.step == want, "a host: %lld, not %lld", (long long)r.step,
			      (long long)want);
			drop(&x);
		}
}

/* While the last layer's gradients are summed the others compute: both take longer, by as much as the device says. */
static void
check_slow_down(void)
{
	static const uint32_t five[1] = {5};
	Case x = cut(five, 1, 2, 1, "1f1b", 0);
	Made y = made(8);
	Arena *tmp = arena_new();
	y.block[BK_F] = 1000;
	y.block[BK_B] = 1500;
	y.block[BK_W] = 500;
	Flat f = ir_flat(x.m, tmp, x.m->ninsts - 1);
	y.only = f.bytes / dtype_bytes(f.dt);
	y.grad = 4000;
	y.device.slow_compute = 1.25;
	y.device.slow_comm = 1.5;
	SimResult r = simulated(&x.c, x.m, &y, false, x.a);
	/* summed for 6000 ns, in which 4800 of the 10000 ns of B and W are computed */
	CHECK(r.step == 5000 + 6000 + (10000 - 4800), "%lld", (long long)r.step);
	CHECK(r.stage[0].busy[SW_grad] == 6000, "%lld", (long long)r.stage[0].busy[SW_grad]);
	y.device.eff[EF_overlap] = 0.5; /* 2000 alone, then 2000 in 3000 */
	r = simulated(&x.c, x.m, &y, false, x.a);
	CHECK(r.step == 5000 + 2000 + 3000 + (10000 - 2400), "%lld", (long long)r.step);
	arena_free(tmp);
	drop(&x);
}

/* Two stages that sum gradients across one node's network at the same time share it. */
static void
check_shared(void)
{
	static const uint32_t two[2] = {2, 2};
	Case x = cut(two, 2, 4, 1, "1f1b", 0);
	int64_t step[3];
	for (uint32_t per = 2; per <= 4; per++) {
		Made y = made(per);
		y.grad = 1000;
		step[per - 2] = simulated(&x.c, x.m, &y, false, x.a).step;
	}
	/* per node 2: two nodes a stage; 3: the second node is shared; 4: no network */
	CHECK(step[0] == step[2], "%lld and %lld", (long long)step[0], (long long)step[2]);
	CHECK(step[1] > step[0] * 3 / 2, "%lld, alone %lld", (long long)step[1],
	      (long long)step[0]);
	drop(&x);
}

/* ---- real prices ---- */

static const char machine[] =
    "hw 1\ncluster t\ndevice g cuda sm_90\n  memory 80GB\n"
    "  flops bf16 989TFLOP/s f32 67TFLOP/s\n  bytes 3.35TB/s\n  loops 33.5T/s\n"
    "  launch 4us\n  overlap compute 1 communication 1\n"
    "node 8 x 2 g near 3us %dGB/s far 8us %dGB/s\n";

static void
check_bandwidth(void)
{
	static const uint32_t blocks[3] = {2, 3, 2};
	for (int zero = 0; zero < 4; zero++) {
		Case x = cut(blocks, 3, 4, 6, "1f1b", zero);
		int64_t before[2] = {INT64_MAX, INT64_MAX};
		for (int speed = 1; speed <= 1024; speed *= 2)
			for (int far = 0; far < 2; far++) {
				char text[1024];
				snprintf(text, sizeof text, machine, far ? 400 : speed,
					 far ? speed : 100);
				Cluster *hw = cluster_parse(x.a, x.c.names, x.c.diag, 0, text,
							    strlen(text));
				CHECK(hw, "the machine does not read");
				if (!hw) return;
				Price *p = price_new(x.a, hw, NULL, 12, 1);
				int64_t step = simulate(&x.c, x.m, p, NULL, x.a).step;
				CHECK(step <= before[far], "zero %d, %d GB/s: %lld after %lld",
				      zero, speed, (long long)step, (long long)before[far]);
				before[far] = step;
			}
		drop(&x);
	}
}

/* ---- traces ---- */

typedef struct Json {
	const char *s;
	uint32_t objects;
} Json;

static bool value(Json *j);

static void
blanks(Json *j)
{
	while (*j->s == ' ' || *j->s == '\n')
		j->s++;
}

static bool
text_of(Json *j)
{
	if (*j->s++ != '"') return false;
	for (; *j->s && *j->s != '"'; j->s++)
		if ((unsigned char)*j->s < 0x20 || (*j->s == '\\' && !*++j->s)) return false;
	return *j->s++ == '"';
}

static bool
list_of(Json *j, char end, bool keys)
{
	j->s++;
	for (blanks(j); *j->s != end; blanks(j)) {
		if (keys && (!text_of(j) || *j->s++ != ':')) return false;
		if (!value(j)) return false;
		blanks(j);
		if (*j->s != ',' && *j->s != end) return false;
		if (*j->s == ',') j->s++;
	}
	j->s++;
	return true;
}

static bool
value(Json *j)
{
	char *end;
	blanks(j);
	if (*j->s == '[') return list_of(j, ']', false);
	if (*j->s == '{') return j->objects++, list_of(j, '}', true);
	if (*j->s == '"') return text_of(j);
	strtod(j->s, &end);
	bool ok = end > j->s;
	j->s = end;
	return ok;
}

static void
check_trace(void)
{
	static const uint32_t blocks[3] = {2, 1, 2};
	Case x = cut(blocks, 3, 2, 4, "1f1b", 1);
	Made y = made(2);
	Buf one, two;
	for (int k = BK_F; k <= BK_U; k++)
		y.block[k] = y.other[k] = 1001;
	y.grad = y.gather = y.message = y.norm = 333;
	SimResult r = simulated(&x.c, x.m, &y, true, x.a);
	buf_init(&one, x.a);
	buf_init(&two, x.a);
	sim_trace(x.m, &r, &one);
	r = simulated(&x.c, x.m, &y, true, x.a);
	sim_trace(x.m, &r, &two);
	CHECK(one.n == two.n && memcmp(one.s, two.s, one.n) == 0, "another trace");
	Json j = {.s = one.s};
	bool ok = value(&j);
	blanks(&j);
	CHECK(ok && !*j.s, "no JSON: %.40s", j.s);
	CHECK(j.objects > r.nevents, "%u objects of %u events", j.objects, r.nevents);
	CHECK(strstr(one.s, "\"stage 2: ranks 4-5\"") && strstr(one.s, "\"B block.3\"") &&
		  strstr(one.s, "\"memory\"") && strstr(one.s, "\"dur\":1.001"),
	      "something is missing");
	for (uint32_t k = 0; k < 3; k++)
		CHECK(r.stage[k].npoints > 8 && r.stage[k].peak <= r.stage[k].arena, "stage %u",
		      k);
	/* what does not fit is left out, and said */
	uint32_t many = 250000;
	SimEvent *e = NEW_N(x.a, SimEvent, many);
	for (uint32_t i = 0; i < many; i++)
		e[i] = (SimEvent){.what = SW_F, .from = i, .to = i + 1};
	r.event = e;
	r.nevents = many;
	buf_init(&two, x.a);
	sim_trace(x.m, &r, &two);
	j = (Json){.s = two.s};
	ok = value(&j);
	CHECK(ok && strstr(two.s, "50000 later bars are left out"), "a trace without bound");
	drop(&x);
}

int
main(void)
{
	check_uniform();
	check_slow_middle();
	check_messages();
	check_dp();
	check_slow_down();
	check_shared();
	check_bandwidth();
	check_trace();
	return checked("simulate");
}
