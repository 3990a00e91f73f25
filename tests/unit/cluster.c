/*
 * cluster.c - .hw and .prof: what is read is what is printed, quantities to the bit; devices counted through nodes; nodes in
 * another order; times found.
 */
#include <math.h>

#include "ir/cluster.h"
#include "ir/text.h"
#include "tests/unit/check.h"

static uint64_t drawn_at;

static uint32_t
drawn(uint32_t n)
{
	return (uint32_t)(rng_uniform(11, drawn_at++) * n);
}

typedef struct World {
	Arena *a;
	Names *names;
	Diag *diag;
} World;

static World
world_new(FILE *said)
{
	World w = {.a = arena_new()};
	w.names = names_new(w.a);
	w.diag = diag_new(w.a, w.names, said);
	return w;
}

static Cluster *
read_hw(World *w, const char *text)
{
	Name file = name_of(w->names, "test.hw");
	diag_source(w->diag, file, text, strlen(text));
	return cluster_parse(w->a, w->names, w->diag, file, text, strlen(text));
}

static const char two_kinds[] =
    "hw 1\n"
    "cluster two # a comment\n"
    "device fast cuda sm_90\n"
    "  memory 80GB reserved 1GiB communicator 4MiB\n"
    "  flops bf16 989TFLOP/s f32 67T\n"
    "  bytes 3.35TB/s\n"
    "  loops 33.5T/s\n"
    "device slow cuda\n"
    "  memory 40GiB\n"
    "  flops f32 19.5e12\n"
    "  bytes 1555GB/s\n"
    "  loops 9.75T\n"
    "  launch 2.5us\n"
    "  efficiency dot 0.75 step 0\n"
    "  overlap compute 1.25 communication 1.5\n"
    "node 2 x 3 fast near 3us 450GB/s far 8us 100GB/s rails 4\n"
    "node 1 x 5 slow near 3us 300GB/s far 8us 25GB/s\n"
    "node 3 x 1 fast far 8us 100GB/s\n"
    "curve all_reduce slow ranks 4 nodes 1 : 1KiB:10us 1MiB:92.5us 3MiB:250us\n"
    "curve message fast ranks 2 nodes 2 stride 1 : 1MB:1ms\n";

static void
test_read(void)
{
	World w = world_new(stderr);
	Cluster *c = read_hw(&w, two_kinds);
	CHECK(c != NULL, "it is read");
	if (!c) return;
	CHECK(c->nodes == 6 && c->devices == 14, "%u nodes, %u devices", c->nodes, c->devices);
	CHECK(c->device[0].memory == 80000000000 && c->device[0].reserved == 1 << 30 &&
		  c->device[0].comm_bytes == 4 << 20,
	      "memory");
	CHECK(c->device[0].flops[DT_bf16] == 989e12 && c->device[0].flops[DT_f32] == 67e12,
	      "FLOP/s");
	CHECK(c->device[1].flops[DT_f32] == 19.5e12 && c->device[1].launch == 2500 &&
		  c->device[1].eff[EF_dot] == 0.75 &&
		  c->device[1].eff[EF_near] == hw_eff[EF_near].value &&
		  c->device[1].slow_comm == 1.5,
	      "the second kind");
	CHECK(c->run[0].rails == 4 && c->run[0].far.bytes == 100e9 && c->run[0].near.ns == 3000,
	      "links");
	CHECK(c->ncurve == 2 && c->curve[0].n == 3 && c->curve[0].bytes[1] == 1 << 20 &&
		  c->curve[0].ns[1] == 92500 && c->curve[1].kind == PR_exchange,
	      "curves");
	arena_free(w.a);
}

static void
test_round_trip(void)
{
	World w = world_new(stderr);
	Buf first, second;
	buf_init(&first, w.a);
	buf_init(&second, w.a);
	cluster_print(read_hw(&w, two_kinds), w.names, &first);
	Cluster *c = read_hw(&w, first.s);
	CHECK(c != NULL, "what is printed is read");
	if (!c) return;
	cluster_print(c, w.names, &second);
	CHECK(strcmp(first.s, second.s) == 0, "and prints the same:\n%s\n%s", first.s,
	      second.s);
	arena_free(w.a);
}

/* Device by device, as a person would count. */
static void
test_counting(void)
{
	static const uint32_t node[] = {0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 4, 5};
	static const uint32_t in_node[] = {0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 0, 0, 0};
	static const uint32_t order[] = {2, 5, 0, 3};
	World w = world_new(stderr);
	Cluster *c = read_hw(&w, two_kinds), *x;
	for (uint32_t i = 0; i < c->devices; i++) {
		uint32_t in, run, n = cluster_node(c, i, &in, &run);
		CHECK(n == node[i] && in == in_node[i], "device %u: node %u, %u", i, n, in);
		CHECK(cluster_device(c, i) == &c->device[n == 2], "kind of device %u", i);
	}
	x = cluster_order(c, w.a, order, COUNTOF(order));
	CHECK(x->nodes == 4 && x->devices == 5 + 1 + 3 + 1, "%u devices", x->devices);
	CHECK(x->nrun == 4 && x->run[0].devices == 5 && x->run[2].devices == 3, "their order");
	CHECK(cluster_device(x, 4) == &c->device[1] && cluster_device(x, 5) == &c->device[0],
	      "kinds follow");
	x = cluster_order(c, w.a, (const uint32_t[]){1, 0}, 2);
	CHECK(x->nrun == 1 && x->run[0].nodes == 2 && x->devices == 6,
	      "equal nodes are one run");
	x = cluster_order(c, w.a, NULL, 0);
	CHECK(x->devices == c->devices, "no order: the file's");
	Buf why;
	uint32_t bad[] = {0, 6}, good[] = {2, 0};
	buf_init(&why, w.a);
	CHECK(cluster_has(c, &(Plan){.ranks = 14}, &why), "all devices");
	CHECK(!cluster_has(c, &(Plan){.ranks = 15}, &why), "one more");
	CHECK(!cluster_has(c, &(Plan){.ranks = 1, .nodes = bad, .nnodes = 2}, &why),
	      "no node 6");
	CHECK(cluster_has(c, &(Plan){.ranks = 8, .nodes = good, .nnodes = 2}, &why), "5 and 3");
	CHECK(!cluster_has(c, &(Plan){.ranks = 9, .nodes = good, .nnodes = 2}, &why), "no 9");
	arena_free(w.a);
}

/* Any quantity reads back as what it was. */
static void
test_quantities(void)
{
	World w = world_new(stderr);
	Name file = name_of(w.names, "it");
	Arena *tmp = arena_new();
	for (int i = 0; i < 20000; i++) {
		double x = exp2(rng_uniform(3, drawn_at++) * 44 - 4), back = 0;
		int64_t bytes = (int64_t)x << drawn(1 + (uint32_t)(i % 9)), read = 0;
		if (i % 3 == 0) x = nearbyint(x) * 1e3;
		Scan s;
		Buf b;
		buf_init(&b, tmp);
		if (i % 3) {
			(i % 3 == 1 ? text_rate(&b, x, "B") : text_time(&b, x));
		} else {
			text_bytes(&b, bytes);
		}
		scan_init(&s, w.names, w.diag, file, b.s, b.n);
		scan_line(&s);
		bool ok = i % 3 == 0   ? scan_bytes(&s, "it", &read)
			  : i % 3 == 1 ? scan_rate(&s, "it", "B", &back)
				       : scan_time(&s, "it", &back);
		CHECK(ok && (i % 3 ? back == x : read == bytes), "'%s' is %.17g and %lld", b.s,
		      x, (long long)bytes);
		arena_reset(tmp);
	}
	arena_free(tmp);
	arena_free(w.a);
}

/* ---- profiles ---- */

static void
test_profile(void)
{
	World w = world_new(stderr);
	Profile p = {.device = name_of(w.names, "host"), .ranks = 2, .threads = 1};
	Name family[] = {name_of(w.names, "dot f32[0 1] f32[1 2] -> f32[0 2]"),
			 name_of(w.names, "adamw f32")};
	Buf text, again;
	for (int i = 0; i < 300; i++) {
		KernelTime t = {.key = {.family = family[i % 2], .n = i % 2 ? 1 : 3},
				.ns = 1 + drawn(1000000),
				.spread = drawn(2) ? 0 : rng_uniform(1, drawn_at++),
				.runs = 1 + drawn(20)};
		for (int k = 0; k < t.key.n; k++)
			t.key.extent[k] = 1 + drawn(12);
		profile_add(&p, w.a, &t);
		const KernelTime *found = profile_find(&p, &t.key);
		CHECK(found && found->ns == t.ns, "the latest time of a key");
	}
	for (uint32_t i = 1; i < p.n; i++)
		CHECK(memcmp(&p.time[i - 1].key, &p.time[i].key, sizeof p.time[i].key) != 0,
		      "a key once");
	buf_init(&text, w.a);
	buf_init(&again, w.a);
	profile_print(&p, w.names, &text);
	Name file = name_of(w.names, "test.prof");
	diag_source(w.diag, file, text.s, text.n);
	Profile *q = profile_parse(w.a, w.names, w.diag, file, text.s, text.n);
	CHECK(q && q->n == p.n && q->ranks == 2 && q->device == p.device, "reads back");
	if (!q) return;
	for (uint32_t i = 0; i < p.n; i++) {
		const KernelTime *t = profile_find(q, &p.time[i].key);
		CHECK(t && t->ns == p.time[i].ns && t->spread == p.time[i].spread &&
			  t->runs == p.time[i].runs,
		      "time %u", i);
	}
	profile_print(q, w.names, &again);
	CHECK(strcmp(text.s, again.s) == 0, "prints the same");
	arena_free(w.a);
}

int
main(void)
{
	test_read();
	test_round_trip();
	test_counting();
	test_quantities();
	test_profile();
	return checked("cluster");
}
