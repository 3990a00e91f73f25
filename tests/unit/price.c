/*
 * price.c - the price model against what it says of itself: curves at and between their points, groups on the machine and
 * exchanges against a walk over all ranks, keys of kernels that are and are not the same, times from points of a profile,
 * pairs inside a band one by one. A price does not depend on what was priced before.
 */
#include <math.h>

#include "frontend/frontend.h"
#include "passes/price.h"
#include "tests/unit/check.h"

static uint64_t drawn_at;

static uint32_t
drawn(uint32_t n)
{
	return (uint32_t)(rng_uniform(5, drawn_at++) * n);
}

static Ctx
new_ctx(void)
{
	Ctx c = {.perm = arena_new(), .tmp = arena_new(), .memory_bytes = INT64_MAX};
	c.names = names_new(c.perm);
	c.diag = diag_new(c.perm, c.names, stderr);
	return c;
}

static void
free_ctx(Ctx *c)
{
	arena_free(c->tmp);
	arena_free(c->perm);
}

static Cluster *
read_hw(Ctx *c, const char *text)
{
	Name file = name_of(c->names, "test.hw");
	diag_source(c->diag, file, text, strlen(text));
	return cluster_parse(c->perm, c->names, c->diag, file, text, strlen(text));
}

#define GPU                                                         \
	"hw 1\n"                                                    \
	"device g cuda\n"                                           \
	"  memory 80GB\n  flops f32 20T bf16 300T\n  bytes 2TB/s\n" \
	"  loops 10T\n"

/* ---- curves ---- */

static const char curves[] =
    GPU "node 8 x 8 g near 3us 300GB/s far 8us 100GB/s rails 4\n"
	"curve all_reduce g ranks 4 nodes 1 : 1KiB:20us 64KiB:25us 1MiB:60us 64MiB:900us\n"
	"curve all_to_all g ranks 4 nodes 1 stride 2 : 1MiB:50us 2MiB:80us\n"
	"curve all_reduce g ranks 16 nodes 2 : 1MiB:100us 64MiB:2ms\n"
	"curve message g ranks 2 nodes 2 : 1MiB:60us 16MiB:800us\n";

static void
test_curves(void)
{
	Ctx c = new_ctx();
	Cluster *x = read_hw(&c, curves);
	Price *p = price_new(c.perm, x, NULL, 64, 0);
	Shape four = {4, 1, 1, 1, 0, 0}, eight = {8, 1, 1, 1, 0, 0}, two = {16, 2, 1, 1, 0, 0};
	const CollCurve *v = &x->curve[0];
	int64_t last = 0;
	for (uint32_t i = 0; i < v->n; i++)
		CHECK(price_collective(p, PR_all_reduce, v->bytes[i], &four) == v->ns[i],
		      "point %u is exact", i);
	for (int64_t b = 1; b < (int64_t)1 << 34; b += 1 + b / 64) {
		int64_t ns = price_collective(p, PR_all_reduce, b, &four);
		CHECK(ns >= last, "%lld bytes: %lld ns after %lld", (long long)b, (long long)ns,
		      (long long)last);
		last = ns;
	}
	CHECK(price_collective(p, PR_all_reduce, 65 << 19, &four) == 60000 + 840000 / 2,
	      "half way between two points");
	CHECK(price_collective(p, PR_all_reduce, (int64_t)127 << 20, &four) == 900000 + 840000,
	      "beyond the last, as between the last two");
	CHECK(price_collective(p, PR_all_gather, 1 << 20, &four) == 30000, "half of both");
	CHECK(price_collective(p, PR_reduce_scatter, 1 << 20, &four) == 30000, "half of both");
	CHECK(price_collective(p, PR_all_to_all, 1 << 20, &four) == 50000, "another stride");
	/* the same bus bandwidth: 2 * 7/8 past every link instead of 2 * 3/4, and 8 steps more of latency */
	int64_t want = 60000 + (int64_t)(840000.0 * (64 / 63.0) * (7 / 6.0 - 1 / 64.0));
	int64_t have = price_collective(p, PR_all_reduce, (int64_t)64 << 20, &eight);
	CHECK(have > want && have < want + 40000, "bus bandwidth: %lld, about %lld",
	      (long long)have, (long long)want);
	CHECK(price_collective(p, PR_all_reduce, 1 << 20, &two) == 100000, "across nodes");
	two.beside = 8; /* of 4 rails each group takes 4: eight of them share */
	have = price_collective(p, PR_all_reduce, (int64_t)64 << 20, &two);
	CHECK(have > 14000000 && have <= 16000000, "eight side by side: %lld", (long long)have);
	CHECK(price_message(p, 1 << 20, 3, 8, 1) == 60000, "a message across");
	CHECK(price_message(p, 3000000, 0, 1, 1) == 3000 + 3000000 / 240, "a message inside");
	CHECK(price_message(p, 1 << 20, 5, 5, 1) == 0, "nothing to send");
	free_ctx(&c);
}

/* Without curves: more bytes, more ranks, more nodes, more groups beside each other never take less. */
static void
test_links(void)
{
	Ctx c = new_ctx();
	Cluster *x =
	    read_hw(&c, GPU "node 64 x 8 g near 3us 300GB/s far 8us 100GB/s rails 4\n");
	Price *p = price_new(c.perm, x, NULL, 512, 0);
	for (int k = PR_all_reduce; k <= PR_all_to_all; k++) {
		int64_t inside = 0;
		for (uint32_t n = 2; n <= 8; n *= 2) {
			Shape s = {n, 1, 1, 1, 0, 0};
			int64_t ns = price_collective(p, (PrimKind)k, 1 << 26, &s);
			CHECK(ns > inside, "kind %d on %u ranks", k, n);
			inside = ns;
		}
		int64_t last = inside;
		for (uint32_t n = 2; n <= 64; n *= 2) {
			Shape s = {8 * n, n, 1, 1, 0, 0};
			int64_t ns = price_collective(p, (PrimKind)k, 1 << 26, &s), bytes = 0;
			CHECK(ns > last, "kind %d on %u nodes", k, n);
			last = ns;
			for (int64_t b = 1; b < 1 << 30; b *= 3) {
				int64_t t = price_collective(p, (PrimKind)k, b, &s);
				CHECK(t >= bytes, "kind %d, %lld bytes", k, (long long)b);
				bytes = t;
			}
			Shape one = {n, n, 1, 1, 0, 0}, all = {n, n, 1, 8, 0, 0};
			CHECK(price_collective(p, (PrimKind)k, 1 << 26, &one) <
				  price_collective(p, (PrimKind)k, 1 << 26, &all),
			      "kind %d: the network is shared", k);
		}
	}
	free_ctx(&c);
}

/* ---- groups ---- */

/* The most nodes a group over the axes touches, and the most members it has on one, group by group. */
static void
walk_groups(const Cluster *c, const Mesh *mesh, unsigned over, uint32_t first, uint32_t *nodes,
	    uint32_t *kinds)
{
	Stage st = {.rank = first, .ranks = ir_degree(mesh, ~0u)};
	*nodes = *kinds = 0;
	for (uint32_t base = first; base < first + st.ranks; base++) {
		uint32_t n = 0, before = UINT32_MAX;
		for (uint32_t r = first; r < first + st.ranks; r++) { /* members rise */
			uint32_t a[MAX_MESH], b[MAX_MESH], run;
			bool in = true;
			ir_coords(&st, mesh, base, a);
			ir_coords(&st, mesh, r, b);
			for (int k = 1; k < mesh->n; k++)
				in &= (over >> k & 1) || a[k] == b[k];
			if (!in) continue;
			uint32_t node = cluster_node(c, r, NULL, &run);
			n += node != before;
			before = node;
			*kinds |= 1u << c->run[run].device;
		}
		if (n > *nodes) *nodes = n;
	}
}

static void
test_shapes(void)
{
	static const char *const machines[] = {
	    GPU "node 16 x 8 g near 3us 300GB/s far 8us 100GB/s\n",
	    GPU "node 30 x 6 g near 3us 300GB/s far 8us 100GB/s\n",
	    GPU "node 3 x 4 g near 3us 300GB/s far 8us 100GB/s\n"
		"node 2 x 7 g near 3us 300GB/s far 8us 50GB/s\n"
		"node 40 x 2 g near 3us 300GB/s far 8us 100GB/s\n"};
	for (int turn = 0; turn < 600; turn++) {
		Ctx c = new_ctx();
		Cluster *x = read_hw(&c, machines[turn % 3]);
		Price *p = price_new(c.perm, x, NULL, x->devices, 0);
		Mesh mesh = {.n = 1};
		uint32_t ranks = 1, first, nodes, kinds, n = 1;
		for (uint32_t k = 1 + drawn(3); k > 0; k--) {
			uint32_t d = 1 + drawn(6);
			if (ranks * d > 64) break;
			mesh.ax[mesh.n++].degree = d;
			ranks *= d;
		}
		first = drawn(2) ? drawn(x->devices - ranks + 1)
				 : drawn((x->devices - ranks) / 8 + 1) * 8;
		unsigned over = drawn(1u << mesh.n) & ~1u;
		for (int again = 0; again < 2; again++) { /* and as it is remembered */
			Shape s = price_shape(p, &mesh, over, first);
			walk_groups(x, &mesh, over, first, &nodes, &kinds);
			n = ir_degree(&mesh, over);
			CHECK(s.ranks == n && s.nodes == nodes,
			      "turn %d: %u ranks on %u nodes, not %u on %u", turn, s.ranks,
			      s.nodes, n, nodes);
			CHECK(s.stride >= 1 && s.beside >= 1, "turn %d", turn);
		}
		free_ctx(&c);
	}
}

/* ---- exchanges ---- */

typedef struct Two { /* stages side by side, or one */
	Module *m;
	Axis a, b;
	Stage stage[2];
	Mesh mesh[2];
} Two;

static void
draw_side(Two *w, int k, uint32_t most, bool pending, Type *t)
{
	Mesh *mesh = &w->mesh[k];
	uint32_t ranks = 1;
	*mesh = (Mesh){.n = 1, .ax = {{MX_mb, 0, 1}}};
	for (int n = 1 + (int)drawn(3); n > 0; n--) {
		uint32_t degree = 1 + drawn(9);
		if (ranks * degree > most) continue;
		mesh->ax[mesh->n].kind = MX_tp;
		mesh->ax[mesh->n].sub = (uint8_t)mesh->n;
		mesh->ax[mesh->n++].degree = degree;
		ranks *= degree;
	}
	*t = (Type){.dt = DT_f32, .n = 2, .ax = {{.a = w->a}, {.a = w->b}}};
	for (int i = 1; i < mesh->n; i++) {
		uint32_t to = drawn(4);
		if (to < 2 && t->ax[to].nshard < MAX_SHARD)
			t->ax[to].shard[t->ax[to].nshard++] = (uint8_t)i;
		else if (to == 2 && pending)
			t->partial |= (uint16_t)(1u << i);
	}
	w->stage[k].ranks = ranks;
}

/* Bytes that the busiest rank of a side sends or receives past its node, and within. */
static void
busiest(const Two *w, const Cluster *c, const Prim *p, bool sending, int64_t *near,
	int64_t *far)
{
	const Stage *s = &w->stage[sending ? p->from.stage : p->to.stage];
	Arena *a = arena_new();
	*near = *far = 0;
	for (uint32_t r = s->rank; r < s->rank + s->ranks; r++) {
		Piece *piece;
		int64_t in = 0, past = 0;
		uint32_t n = ir_pieces(w->m, p, r, sending, a, &piece);
		for (uint32_t i = 0; i < n; i++) {
			uint32_t x = cluster_node(c, piece[i].from, NULL, NULL);
			uint32_t y = cluster_node(c, piece[i].to, NULL, NULL);
			if (piece[i].from == piece[i].to) continue;
			*(x == y ? &in : &past) += piece[i].count * 4;
		}
		if (in > *near) *near = in;
		if (past > *far) *far = past;
	}
	arena_free(a);
}

/* Not below what the busiest rank takes alone; not beyond all of its node's ranks sending as much. */
static void
test_exchanges(uint32_t most, double slack)
{
	for (int turn = 0; turn < 250; turn++) {
		Ctx c = new_ctx();
		Cluster *x = read_hw(
		    &c, GPU "node 256 x 8 g near 3us 300GB/s far 8us 100GB/s rails 8\n");
		Price *p = price_new(c.perm, x, NULL, x->devices, 0);
		Two w = {.m = ir_module(c.perm, c.names)};
		uint32_t same = drawn(2);
		Prim q = {.kind = PR_exchange, .dt = DT_f32, .comm = -1};
		w.a = ir_axis(w.m, name_of(c.names, "a"), 1 + drawn(4000), (Loc){0});
		w.b = ir_axis(w.m, name_of(c.names, "b"), 1 + drawn(4000), (Loc){0});
		do {
			draw_side(&w, 0, most, false, &q.from.type);
			draw_side(&w, 1, most, true, &q.to.type);
		} while (same && w.stage[0].ranks != w.stage[1].ranks);
		w.stage[0].rank = drawn(20);
		w.stage[1].rank = w.stage[0].rank + (same ? 0 : w.stage[0].ranks);
		q.from.mesh = &w.mesh[0];
		q.to.mesh = &w.mesh[1];
		q.to.stage = !same;
		w.m->level = LV_spmd;
		w.m->plan.stages = w.stage;
		w.m->plan.nstages = same ? 1 : 2;
		int64_t ns = price_prim(p, w.m, NULL, 0, &q), least = 0, bound = 0;
		CHECK(ns == price_prim(p, w.m, NULL, 0, &q), "as it is remembered");
		for (int sending = 0; sending < 2; sending++) {
			int64_t near, far, t;
			busiest(&w, x, &q, sending, &near, &far);
			t = price_message(p, near, 0, 1, 1);
			if (price_message(p, far, 0, 8, 1) > t)
				t = price_message(p, far, 0, 8, 1);
			if (t > least) least = t;
			t = price_message(p, near, 0, 1, 1) + price_message(p, far, 0, 8, 8);
			if (t > bound) bound = t;
		}
		bound +=
		    2 * type_bytes(w.m, &w.mesh[1], &q.to.type) * 1000 / (2000 * 85 / 100) +
		    2 * type_bytes(w.m, &w.mesh[0], &q.from.type) * 1000 / (2000 * 85 / 100) +
		    2;
		CHECK((double)ns >= (double)least * (1 - slack) && ns <= bound,
		      "turn %d: %lld ns, not in %lld .. %lld", turn, (long long)ns,
		      (long long)least, (long long)bound);
		free_ctx(&c);
	}
}

/* ---- kernels ---- */

static const char model[] =
    "model m\n"
    "axis batch = 4, SEQ = 16, VOCAB = 29, EMBED = 16, heads = 2, head = EMBED / heads, FFN = "
    "40\n"
    "axis keys = SEQ\n"
    "input tokens[batch SEQ] : index VOCAB\n"
    "input labels[batch SEQ] : index VOCAB\n"
    "param wte[VOCAB EMBED] as \"wte\" = normal(0.02)\n"
    "layer embedding { return wte[VOCAB: tokens] }\n"
    "layer block(x) {\n"
    "  h = layernorm[EMBED](x) as \"ln_1\"\n"
    "  q = linear[EMBED -> heads head](h) as \"q\"\n"
    "  k = linear[EMBED -> heads head](h) as \"k\"\n"
    "  a = attention[keys, head](q, k[SEQ -> keys], k[SEQ -> keys], mask = causal[SEQ, keys])\n"
    "  x = x + linear[heads head -> EMBED](a) as \"o\"\n"
    "  h = linear[EMBED -> FFN](layernorm[EMBED](x) as \"ln_2\") as \"up\"\n"
    "  return x + linear[FFN -> EMBED](h * sigmoid(h)) as \"down\"\n"
    "}\n"
    "layer output(x) {\n"
    "  logits = dot[EMBED](layernorm[EMBED](x) as \"ln_f\", wte)\n"
    "  return mean[batch SEQ](cross_entropy[VOCAB](logits, labels))\n"
    "}\n"
    "forward { return output(block(block(embedding()) as \"a\") as \"b\") }\n"
    "train { optimizer = adamw(lr = 1e-3); precision = f32 }\n";

/* The model with other names for its axes, laid out for one rank. */
static Module *
compiled(Ctx *c, const char *seq, const char *embed, const char *ffn, const char *vocab,
	 DType precision)
{
	const char *const from[] = {"SEQ", "EMBED", "FFN", "VOCAB"};
	const char *const to[] = {seq, embed, ffn, vocab};
	Buf b;
	buf_init(&b, c->perm);
	for (const char *s = model; *s;) {
		size_t k = 0;
		while (k < COUNTOF(from) && strncmp(s, from[k], strlen(from[k])) != 0)
			k++;
		if (k < COUNTOF(from)) {
			buf_puts(&b, to[k]);
			s += strlen(from[k]);
		} else {
			buf_putc(&b, *s++);
		}
	}
	const FeOptions fe = {.path = "m.gdl", .precision = precision, .host = true};
	c->precision = precision;
	Module *m = fe_parse_text(c, &fe, b.s, b.n);
	if (!m || !pass_run_all(c, &m, &(PassOptions){.verify = true})) return NULL;
	return m;
}

typedef struct Kernels {
	const Body *body[256];
	uint32_t first[256], n;
	KernelKey key[256];
} Kernels;

static void
list_kernels(const Module *m, Kernels *k)
{
	*k = (Kernels){0};
	for (uint32_t b = 1; b < m->nbodies; b++)
		for (uint32_t i = 0, end; i < m->bodies[b].nops && k->n < 256; i = end) {
			k->body[k->n] = &m->bodies[b];
			k->first[k->n] = i;
			if (profile_key(m, &m->bodies[b], i, &end, &k->key[k->n])) k->n++;
		}
}

static void
test_keys(void)
{
	static Kernels x, y, z;
	Ctx c = new_ctx();
	Module *m = compiled(&c, "seq", "embed", "ffn", "vocab", DT_none);
	Module *n = compiled(&c, "zeit", "breite", "mitte", "woerter", DT_none);
	Module *d = compiled(&c, "seq", "embed", "ffn", "vocab", DT_f64);
	CHECK(m && n && d, "they compile");
	if (!m || !n || !d) return;
	list_kernels(m, &x);
	list_kernels(n, &y);
	list_kernels(d, &z);
	CHECK(x.n == y.n && x.n == z.n && x.n > 40, "%u, %u, %u kernels", x.n, y.n, z.n);
	for (uint32_t i = 0; i < x.n; i++) {
		CHECK(x.key[i].family == y.key[i].family && x.key[i].n == y.key[i].n &&
			  memcmp(x.key[i].extent, y.key[i].extent, sizeof x.key[i].extent) == 0,
		      "axes of other names: '%s' and '%s'", name_str(c.names, x.key[i].family),
		      name_str(c.names, y.key[i].family));
		for (uint32_t j = 0; j < z.n; j++)
			CHECK(x.key[i].family != z.key[j].family, "double precision: '%s'",
			      name_str(c.names, x.key[i].family));
	}
	bool rows = false,
	     columns = false; /* weights that lie the other way are another family */
	for (uint32_t i = 0; i < x.n; i++) {
		const char *f = name_str(c.names, x.key[i].family);
		rows |= strcmp(f, "dot f32[0 1] f32[1 2] -> f32[0 2]") == 0;
		columns |= strcmp(f, "dot f32[0 1] f32[2 1] -> f32[0 2]") == 0;
	}
	CHECK(rows && columns, "products by how their operands lie");
	free_ctx(&c);
}

/* Prices do not depend on what was priced before. */
static void
test_order(void)
{
	Ctx c = new_ctx();
	Module *m = compiled(&c, "seq", "embed", "ffn", "vocab", DT_none);
	Price *p = price_new(c.perm, NULL, NULL, 1, 1),
	      *q = price_new(c.perm, NULL, NULL, 1, 1);
	int64_t ns[64];
	if (!m) return;
	for (uint32_t b = 1; b < m->nbodies; b++)
		ns[b] = price_body(p, m, &m->bodies[b], 0).compute;
	for (uint32_t b = m->nbodies; b-- > 1;)
		CHECK(price_body(q, m, &m->bodies[b], 0).compute == ns[b] &&
			  price_body(p, m, &m->bodies[b], 0).compute == ns[b],
		      "body %u", b);
	free_ctx(&c);
}

static const KernelKey *
find_key(const Ctx *c, const Kernels *k, const char *family, uint32_t *at)
{
	for (*at = 0; *at < k->n; ++*at)
		if (strcmp(name_str(c->names, k->key[*at].family), family) == 0)
			return &k->key[*at];
	return NULL;
}

static void
add_time(Ctx *c, Profile *f, const KernelKey *k, int axis, int64_t extent, int64_t ns)
{
	KernelTime t = {.key = *k, .ns = ns, .runs = 1};
	if (axis >= 0) t.key.extent[axis] = extent;
	profile_add(f, c->perm, &t);
}

static void
test_points(void)
{
	static Kernels k;
	Ctx c = new_ctx();
	Module *m = compiled(&c, "seq", "embed", "ffn", "vocab", DT_none);
	Profile f = {.ranks = 1, .threads = 1}, g = f, h = f, s = f;
	uint32_t at, end;
	if (!m) return;
	list_kernels(m, &k);
	const KernelKey *key = find_key(&c, &k, "dot f32[0 1] f32[1 2] -> f32[0 2]", &at);
	CHECK(key && key->n == 3, "a product");
	if (!key) return;
	add_time(&c, &f, key, -1, 0, 777);
	add_time(&c, &f, key, 0, key->extent[0] * 2, 9999);
	Price *p = price_new(c.perm, NULL, &f, 1, 1);
	CHECK(price_kernel(p, m, k.body[at], k.first[at], &end, 0) == 777, "exact");
	CHECK(price_sources(p).exact == 1 && price_sources(p).roofline == 0, "is counted");
	add_time(&c, &g, key, 0, key->extent[0] / 2, 1000);
	add_time(&c, &g, key, 0, key->extent[0] * 2, 4000);
	p = price_new(c.perm, NULL, &g, 1, 1);
	CHECK(price_kernel(p, m, k.body[at], k.first[at], &end, 0) == 2000,
	      "a third of the way between two: %lld",
	      (long long)price_kernel(p, m, k.body[at], k.first[at], &end, 0));
	CHECK(price_sources(p).between == 1, "is counted");
	/* one point, half as long: about half the time of this one, by rooflines that are nearly proportional */
	add_time(&c, &h, key, 0, key->extent[0] / 2, 100000);
	p = price_new(c.perm, NULL, &h, 1, 1);
	int64_t ns = price_kernel(p, m, k.body[at], k.first[at], &end, 0);
	CHECK(ns > 150000 && ns <= 200000, "scaled: %lld", (long long)ns);
	/* state is one extent: twice the elements, twice the time */
	key = find_key(&c, &k, "adamw f32", &at);
	CHECK(key && key->n == 1, "state");
	if (!key) return;
	add_time(&c, &s, key, 0, key->extent[0] * 2, 5000);
	p = price_new(c.perm, NULL, &s, 1, 1);
	CHECK(price_kernel(p, m, k.body[at], k.first[at], &end, 0) == 2500, "scaled state");
	/* a profile of another device says nothing */
	f.device = name_of(c.names, "other");
	Cluster *x = read_hw(&c, GPU "node 1 x 1 g\n");
	p = price_new(c.perm, x, &f, 1, 1);
	for (at = 0; at < k.n; at++)
		price_kernel(p, m, k.body[at], k.first[at], &end, 0);
	CHECK(price_sources(p).exact == 0 && price_sources(p).roofline == k.n,
	      "not this device's: %llu of %u by roofline",
	      (unsigned long long)price_sources(p).roofline, k.n);
	free_ctx(&c);
}

/* A launch is issued ahead: it shows where kernels are shorter. Updates launch once for all parameters. */
static void
test_launches(void)
{
	Ctx c = new_ctx();
	Module *m = compiled(&c, "seq", "embed", "ffn", "vocab", DT_none);
	static Kernels k;
	Cluster *x = read_hw(&c, GPU "node 1 x 1 g\n"),
		*y = read_hw(&c, GPU "launch 1ms\nnode 1 x 1 g\n");
	if (!m) return;
	list_kernels(m, &k);
	Price *p = price_new(c.perm, x, NULL, 1, 0), *q = price_new(c.perm, y, NULL, 1, 0);
	for (uint32_t b = 1; b < m->nbodies; b++) {
		int64_t sum = 0, n = 0;
		bool once = m->bodies[b].kind == BK_N || m->bodies[b].kind == BK_U;
		for (uint32_t i = 0; i < k.n; i++) {
			uint32_t end;
			if (k.body[i] != &m->bodies[b]) continue;
			sum += price_kernel(p, m, k.body[i], k.first[i], &end, 0);
			n += !once || n == 0;
		}
		CHECK(price_body(p, m, &m->bodies[b], 0).compute == sum, "body %u: kernels", b);
		CHECK(price_body(q, m, &m->bodies[b], 0).compute == n * 1000000,
		      "body %u: launches", b);
	}
	free_ctx(&c);
}

/* ---- bands ---- */

static void
test_bands(void)
{
	for (int turn = 0; turn < 500; turn++) {
		Ctx c = new_ctx();
		int q = 1 + (int)drawn(20), k = 1 + (int)drawn(20);
		int lo = (int)drawn(50) - 25, hi = lo + (int)drawn(30), which = (int)drawn(4);
		Buf b;
		buf_init(&b, c.perm);
		buf_printf(&b,
			   "gir 1 graph\nmodel m source \"m.gdl\" hash 0x1\naxis batch = 1\n"
			   "axis q = %d\naxis k = %d\naxis f = 3\naxis g = 5\nbatch batch\n"
			   "input x f32[batch q f]\ninput y f32[batch k f]\n"
			   "input z f32[batch k g]\nbody a F {\n"
			   "  arg 0 %%x : f32[batch q f]\n  arg 1 %%y : f32[batch k f]\n"
			   "  arg 2 %%z : f32[batch k g]\n"
			   "  %%o, _ = attention %%x %%y %%z {keys=[k] feat=[f] scale=1 cap=0 "
			   "rate=-1 key=0 query=q",
			   q, k);
		if (which & 1) buf_printf(&b, " lo=%d", lo);
		if (which & 2) buf_printf(&b, " hi=%d", hi);
		buf_puts(&b, "} : f32[batch q g]\n  %s = sum %o {axes=[batch q g]} : f32[]\n"
			     "  out 0 %s\n}\n"
			     "type a args 3 outs 1 rates 0 {\n  body F 1\n}\n"
			     "inst 0 a \"a\" path \"\" args x y z params rates\n"
			     "report \"loss\" 0.0\n");
		Module *m =
		    ir_parse(c.perm, c.names, c.diag, name_of(c.names, "m.gir"), b.s, b.n);
		double pairs = 0;
		for (int i = 0; i < q; i++)
			for (int j = 0; j < k; j++)
				pairs += (!(which & 1) || j - i >= lo) &&
					 (!(which & 2) || j - i <= hi);
		CHECK(m && cost_body(m, &m->bodies[1]).flops == 2 * pairs * (3 + 5),
		      "%d queries, %d keys, %d: %d .. %d: %g FLOP, not %g", q, k, which, lo, hi,
		      m ? cost_body(m, &m->bodies[1]).flops : -1, 2 * pairs * 8);
		free_ctx(&c);
	}
}

int
main(void)
{
	test_curves();
	test_links();
	test_shapes();
	test_exchanges(64, 0);
	test_exchanges(700, 0.02);
	test_keys();
	test_order();
	test_points();
	test_launches();
	test_bands();
	return checked("price");
}
