/*
 * plan.c - fuzzes plans: whatever a .plan file says of a small model is refused with a diagnostic, or compiles.
 *
 * Input: the text of a plan; or, if the first byte is 'd', decisions from which a plan is built that is mostly right, so
 * that what lies behind plan_check is reached: stages, meshes of several axes, uneven splits, ZeRO, both schedules.
 * An accepted plan prints as text that reads back and prints the same. Then spmd, sched and mem, the verifier after each;
 * spmd may refuse (a loss that ties samples together, Megatron-SP on an odd axis), nothing after it may.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"
#include "passes/passes.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* Odd and even axes, attention, dropout, a tied head, a mask that is an input, a last layer that takes two arguments. */
static const char model[] =
    "model gpt\n"
    "layers = 4\n"
    "axis batch = 12, seq = 24, vocab = 13, embed = 8, heads = 4, head = embed / heads, ffn = "
    "5\n"
    "axis keys = seq\n"
    "input tokens[batch seq] : index vocab\n"
    "input labels[batch seq] : index vocab\n"
    "param wte[vocab embed] as \"wte\" = normal(0.02)\n"
    "layer embedding { return wte[vocab: tokens] }\n"
    "layer block(x) {\n"
    "  h = layernorm[embed](x) as \"ln_1\"\n"
    "  q = linear[embed -> heads head](h) as \"q\"\n"
    "  k = linear[embed -> heads head](h) as \"k\"\n"
    "  a = attention[keys, head](q, k[seq -> keys], k[seq -> keys], mask = causal[seq, keys], "
    "drop = 0.1)\n"
    "  x = x + linear[heads head -> embed](a) as \"o\"\n"
    "  h = linear[embed -> ffn](layernorm[embed](x) as \"ln_2\") as \"up\"\n"
    "  return x + dropout(linear[ffn -> embed](h * sigmoid(h)) as \"down\", 0.1)\n"
    "}\n"
    "layer output(x, first) {\n"
    "  logits = dot[embed](layernorm[embed](x + first) as \"ln_f\", wte)\n"
    "  return mean[batch seq](cross_entropy[vocab](logits, labels))\n"
    "}\n"
    "forward { first = embedding(); x = first; for i in 0..layers { x = block(x) as \"h.{i}\" "
    "}; return output(x, first) }\n"
    "train { optimizer = adamw(lr = 1e-3); clip = 1; precision = f32 }\n";
enum { BATCH = 12, LAYERS = 6 };

/* ---- a plan from decisions ---- */

typedef struct Draw {
	const uint8_t *at, *end;
} Draw;

/* 0 .. n-1; 0 when the decisions have run out. */
static uint32_t
drawn(Draw *d, uint32_t n)
{
	return d->at < d->end ? *d->at++ % n : 0;
}

/* Axes whose degrees multiply to n, in any order and number, of dp not more than `samples`. Bit 0: dp, bit 1: tp. */
static unsigned
draw_mesh(Draw *d, uint32_t index, uint32_t n, uint32_t samples, Buf *out)
{
	static const char *const kinds[] = {"dp", "tp"};
	unsigned has = 0;
	buf_printf(out, "mesh m%" PRIu32 " =", index);
	for (uint32_t k = 0; n > 1 || k == 0; k++) {
		uint32_t degree = k == 3 ? n : 1 + drawn(d, n), kind;
		while (n % degree)
			degree++;
		kind = degree > samples || drawn(d, 2);
		if (!kind) samples /= degree;
		has |= 1u << kind;
		buf_printf(out, " %s.%" PRIu32 ":%" PRIu32, kinds[kind], k, degree);
		n /= degree;
	}
	buf_putc(out, '\n');
	return has;
}

/* A run of n layers in a mesh, with what such a mesh can do; now and then with what it cannot. */
static void
draw_run(Draw *d, uint32_t mesh, unsigned has, uint32_t first, uint32_t n, Buf *out)
{
	uint32_t zero = drawn(d, 4), recompute = drawn(d, 3), sp = drawn(d, 2);
	if (drawn(d, 64) != 1) {
		if (!(has & 1)) zero = 0;
		if (!(has & 2)) sp = 0;
	}
	buf_printf(out,
		   "layers %" PRIu32 "-%" PRIu32 " mesh m%" PRIu32 " zero %" PRIu32
		   " recompute %s%s\n",
		   first, first + n - 1, mesh, zero, recompute_str[recompute],
		   sp ? " megatron_sp" : "");
}

static void
draw_plan(Draw *d, Arena *a, Buf *out)
{
	static const uint8_t sizes[] = {1, 2, 3, 4, 5, 6, 8, 12}; /* ranks of a stage */
	uint32_t mbs = 1 + drawn(d, BATCH), layer = 0, rank = 0, mesh = 0;
	bool gpipe = drawn(d, 2);
	Buf head, stages, runs;
	buf_init(&head, a);
	buf_init(&stages, a);
	buf_init(&runs, a);
	while (BATCH % mbs)
		mbs++;
	for (uint32_t s = 0; layer < LAYERS; s++) {
		uint32_t count = 1 + drawn(d, LAYERS - layer),
			 ranks = sizes[drawn(d, COUNTOF(sizes))];
		buf_printf(&stages,
			   "stage %" PRIu32 " layers %" PRIu32 "-%" PRIu32 " ranks %" PRIu32
			   "-%" PRIu32,
			   s, layer, layer + count - 1, rank, rank + ranks - 1);
		if (drawn(d, 3) == 1) buf_printf(&stages, " slots %" PRIu32, 1 + drawn(d, mbs));
		buf_putc(&stages, '\n');
		for (uint32_t end = layer + count, n; layer < end; layer += n) {
			n = 1 + drawn(d, end - layer);
			unsigned has = draw_mesh(d, ++mesh, ranks, BATCH / mbs, &head);
			draw_run(d, mesh, has, layer, n, &runs);
		}
		rank += ranks;
	}
	buf_printf(out, "plan 1\nranks %" PRIu32 " microbatches %" PRIu32 " schedule %s\n",
		   rank, mbs, schedule_str[!gpipe]);
	buf_puts(out, head.s);
	buf_puts(out, stages.s);
	buf_puts(out, runs.s);
}

/* ---- through the compiler ---- */

static Ctx
context(FILE *errors)
{
	Ctx c = {.perm = arena_new(), .tmp = arena_new(), .memory_bytes = INT64_MAX};
	c.names = names_new(c.perm);
	c.diag = diag_new(c.perm, c.names, errors);
	return c;
}

/* The model at level train, as text: made once. */
static const Buf *
trained(void)
{
	static Ctx c; /* never freed */
	static Buf text;
	if (text.n) return &text;
	c = context(stderr);
	const FeOptions fe = {.path = "model.gdl", .host = true};
	const PassOptions o = {.verify = true, .stop_after = "optimizer"};
	Module *m = fe_parse_text(&c, &fe, model, sizeof(model) - 1);
	buf_init(&text, c.perm);
	if (!m || !pass_run_all(&c, &m, &o)) abort();
	ir_print(m, &text);
	return &text;
}

static void
print_and_read(Ctx *c, Module *m)
{
	Buf first, second;
	buf_init(&first, c->perm);
	buf_init(&second, c->perm);
	plan_print(m, &first);
	if (!plan_parse(m, c->diag, name_of(c->names, "again.plan"), first.s, first.n)) abort();
	plan_print(m, &second);
	if (first.n != second.n || memcmp(first.s, second.s, first.n) != 0) abort();
}

static void
compile(Ctx *c, Module *m, const char *text, size_t n)
{
	const PassOptions spmd = {.verify = true, .stop_after = "spmd"},
			  rest = {.verify = true};
	if (!plan_parse(m, c->diag, name_of(c->names, "fuzz.plan"), text, n)) {
		if (!diag_errors(c->diag)) abort();
		return;
	}
	print_and_read(c, m);
	m->level = LV_plan;
	if (!ir_verify(m, c->diag, "fuzz")) abort();
	if (!pass_run_all(c, &m, &spmd)) {
		if (!diag_errors(c->diag)) abort();
		return;
	}
	if (!pass_run_all(c, &m, &rest)) abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	const Buf *train = trained();
	Ctx c = context(NULL);
	Module *m = ir_parse(c.perm, c.names, c.diag, name_of(c.names, "model.gir"), train->s,
			     train->n);
	if (!m) abort();
	if (n && bytes[0] == 'd') {
		Draw d = {bytes + 1, bytes + n};
		Buf text;
		buf_init(&text, c.perm);
		draw_plan(&d, c.perm, &text);
		compile(&c, m, text.s, text.n);
	} else {
		compile(&c, m, (const char *)bytes, n);
	}
	arena_free(c.tmp);
	arena_free(c.perm);
	return 0;
}
