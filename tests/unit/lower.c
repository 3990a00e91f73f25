/*
 * lower.c - what shard, remat, fuse, place, sched and plan leave of small models, piece by
 * piece.
 */
#include "frontend/frontend.h"
#include "ir/text.h"
#include "passes/passes.h"

#include <stdlib.h>
#include <string.h>

static int checks;

#define CHECK(cond)                                                                \
	do {                                                                       \
		checks++;                                                          \
		if (!(cond)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1);                                                   \
		}                                                                  \
	} while (0)

static const char *const mlp = "model mlp\n"
			       "axis batch = 12, seq = 5, embed = 8, ffn = 24, vocab = 11\n"
			       "input tokens[batch seq] : index vocab\n"
			       "input labels[batch seq] : index vocab\n"
			       "layer embedding { param w[vocab embed] as \"w\" = "
			       "normal(0.02); return w[vocab: tokens] }\n"
			       "layer block(x) {\n"
			       "  h = layernorm[embed](x) as \"ln\"\n"
			       "  h = linear[embed -> ffn](h) as \"up\"\n"
			       "  return x + linear[ffn -> embed](h * sigmoid(h)) as \"down\"\n"
			       "}\n"
			       "layer output(x) {\n"
			       "  return mean[batch seq](cross_entropy[vocab](linear[embed -> "
			       "vocab](x) as \"head\", labels))\n"
			       "}\n"
			       "forward { x = embedding(); for i in 0..4 { x = block(x) as "
			       "\"b.{i}\" }; return output(x) }\n";

/* The square of a mean over the batch: cannot be summed over microbatches. */
static const char *const tied = "model tied\n"
				"axis batch = 12, embed = 8\n"
				"input x[batch embed] : float\n"
				"layer all(x) { param w[embed] as \"w\" = normal(1); m = "
				"mean[batch](dot[embed](x, w)); return m * m }\n"
				"forward { return all(x) }\n";

static Ctx
context(FILE *errors)
{
	Ctx c = {.perm = arena_new(), .tmp = arena_new(), .memory_bytes = INT64_MAX};
	c.names = names_new(c.perm);
	c.diag = diag_new(c.perm, c.names, errors);
	return c;
}

static Module *
compile(Ctx *c, const char *text, const char *stop)
{
	FeOptions fe = {.path = "m.gdl", .host = true};
	PassOptions o = {.verify = true, .stop_after = stop};
	Module *m = fe_parse_text(c, &fe, text, strlen(text));
	CHECK(m);
	return pass_run_all(c, &m, &o) ? m : NULL;
}

static void
done(Ctx *c)
{
	arena_free(c->tmp);
	arena_free(c->perm);
}

static const LayerType *
type_named(const Module *m, const char *name)
{
	for (uint32_t i = 0; i < m->ntypes; i++)
		if (strcmp(name_str(m->names, m->types[i].name), name) == 0)
			return &m->types[i];
	CHECK(!"no such layer type");
	return NULL;
}

static const Body *
body_of(const Module *m, const char *type, BodyKind k)
{
	return &m->bodies[type_named(m, type)->body[k]];
}

static uint32_t
count_ops(const Body *b, OpCode code)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < b->nops; i++)
		n += b->ops[i].code == code;
	return n;
}

static const Op *
first_op(const Body *b, OpCode code)
{
	for (uint32_t i = 0; i < b->nops; i++)
		if (b->ops[i].code == code) return &b->ops[i];
	CHECK(!"no such op");
	return NULL;
}

/* ---- shard ---- */

static void
test_shard(void)
{
	Ctx c = context(stderr);
	c.microbatches = 3;
	Module *m = compile(&c, mlp, "spmd");
	const Body *f = body_of(m, "block", BK_F), *w = body_of(m, "block", BK_W),
		   *out = body_of(m, "output", BK_F);
	const Type *x = val_type(f, ir_find_port(f, PORT_arg, 0)->v);
	CHECK(x->ax[type_find(x, m->batch)].nshard == 1 &&
	      x->ax[type_find(x, m->batch)].shard[0] == 0);
	CHECK(type_extent(m, ir_mesh(m, f), x, type_find(x, m->batch)) == 4);
	for (uint32_t i = 0; i < w->nports; i++)
		if (w->ports[i].kind == PORT_dw)
			CHECK(val_type(w, w->ports[i].v)->partial == 1);
	CHECK(val_type(out, ir_find_port(out, PORT_out, 0)->v)->partial == 1);
	CHECK(val_type(f, ir_find_port(f, PORT_weight, 0)->v)->partial == 0);
	done(&c);

	c = context(stderr); /* whole: no marks */
	c.microbatches = 1;
	m = compile(&c, mlp, "spmd");
	f = body_of(m, "block", BK_F);
	x = val_type(f, ir_find_port(f, PORT_arg, 0)->v);
	CHECK(x->ax[type_find(x, m->batch)].nshard == 0);
	done(&c);

	FILE *null = fopen("/dev/null", "w");
	c = context(null);
	c.microbatches = 2;
	CHECK(!compile(&c, tied, "spmd") && diag_errors(c.diag) == 1);
	done(&c);
	c = context(stderr); /* the search finds the one count that works */
	CHECK(compile(&c, tied, NULL)->plan.microbatches == 1);
	done(&c);
	fclose(null);
}

/* ---- fuse, place ---- */

/* Kernels are contiguous, numbered from 1, hold only elementwise ops, views and reductions,
 * and one set of reduced axes. */
static void
check_kernels(const Body *b)
{
	uint32_t last = 0, top = 0;
	const AxisList *c = NULL;
	for (uint32_t i = 0; i < b->nops; i++) {
		const Op *op = &b->ops[i];
		if (op->kernel != last) c = NULL;
		if (op->kernel && op->kernel != last) CHECK(op->kernel == ++top);
		last = op->kernel;
		if (!op->kernel) continue;
		bool red = op->code == OP_sum || op->code == OP_moments ||
			   op->code == OP_rmax || op->code == OP_rmin;
		CHECK(red || op_info[op->code].flags & (OF_EW | OF_VIEW));
		if (!red) continue;
		const AxisList *axes = attr_axes(op, AK_axes);
		if (c) CHECK(c->n == axes->n);
		for (int k = 0; c && k < c->n; k++)
			CHECK(axes_has(axes, c->a[k]));
		c = axes;
	}
	CHECK(top == b->nkernels);
}

static void
test_fuse(void)
{
	Ctx c = context(stderr);
	c.microbatches = 1;
	Module *m = compile(&c, mlp, NULL);
	for (uint32_t i = 1; i < m->nbodies; i++)
		check_kernels(&m->bodies[i]);
	const Body *f = body_of(m, "block", BK_F);
	CHECK(f->nkernels == 3); /* the norm; bias and activation; bias and residual */
	uint32_t norm = first_op(f, OP_moments)->kernel;
	CHECK(norm && first_op(f, OP_sigmoid)->kernel &&
	      first_op(f, OP_sigmoid)->kernel != norm);
	for (uint32_t i = 0; i < f->nops;
	     i++) { /* between the ops of a kernel nothing goes through memory */
		const Op *op = &f->ops[i];
		if (op->kernel != norm) continue;
		const ValDef *v = &f->vals[op->out[0].i];
		CHECK(v->space == SP_local || v->space == SP_port);
	}
	const Body *w = body_of(
	    m, "block", BK_W); /* gain and bias of the norm: one pass down the columns */
	uint32_t columns = 0;
	for (uint32_t i = 0; i < w->nops; i++)
		columns += w->ops[i].code == OP_sum && w->ops[i].kernel;
	CHECK(columns == 2);
	const Body *b =
	    body_of(m, "output", BK_B); /* the gradient of the logits lies in the logits */
	const LayerType *t = type_named(m, "output");
	bool over = false;
	for (uint32_t i = 0; i < t->ncarry; i++)
		over |= t->carry_at[i] < 0;
	CHECK(over && b->scratch_bytes <= 256);
	done(&c);
}

/* ---- remat ---- */

static int64_t
saved_bytes(const Module *m, const char *type)
{
	const LayerType *t = type_named(m, type);
	int64_t n = 0;
	for (uint32_t i = 0; i < t->nsaved; i++)
		n += type_bytes(m, NULL, &t->saved[i]);
	return n;
}

/* A body and its copy grow apart: a copy does not look for names among values that only the original has. */
static void
test_copy(void)
{
	Ctx c = context(stderr);
	Module *m = compile(&c, mlp, "optimizer");
	Body a = body_copy(m->arena, body_of(m, "embedding", BK_F)), b;
	Type t = *val_type(&a, (Val){1});
	Name hint = name_of(c.names, "fresh");
	ir_val(m, &a, hint, t);
	b = body_copy(m->arena, &a);
	for (int i = 0; i < 9; i++)
		ir_val(m, &a, hint, t);
	CHECK(a.index && a.index != b.index);
	ir_val(m, &b, name_of(c.names, "fresh.5"), t);
	CHECK(strcmp(name_str(c.names, b.vals[b.nvals - 1].name), "fresh.5") == 0);
	done(&c);
}

static void
test_remat(void)
{
	int64_t saved[3];
	uint32_t dots[3], sigmoids[3];
	for (int rc = RC_none; rc <= RC_full; rc++) {
		Ctx c = context(stderr);
		c.microbatches = 1;
		c.recompute = (Recompute)rc;
		c.recompute_given = true;
		Module *m = compile(&c, mlp, "spmd");
		saved[rc] = saved_bytes(m, "block");
		dots[rc] = count_ops(body_of(m, "block", BK_B), OP_dot);
		sigmoids[rc] = count_ops(body_of(m, "block", BK_F), OP_sigmoid);
		CHECK(saved_bytes(m, "output") >
		      0); /* the last layer's B follows at once: nothing to gain */
		CHECK(type_named(m, "block")->flops[BK_F] == 2.0 * 2 * 12 * 5 * 8 * 24);
		done(&c);
	}
	CHECK(saved[RC_full] == 0 && saved[RC_selective] < saved[RC_none] &&
	      saved[RC_selective] > 0);
	CHECK(dots[RC_selective] == dots[RC_none] && dots[RC_full] > dots[RC_none]);
	CHECK(sigmoids[RC_none] == 1 && sigmoids[RC_full] == 1);
}

/* ---- the library ---- */

static void
test_memo(void)
{
	Ctx c = context(stderr);
	c.microbatches = 2;
	Module *m = compile(&c, mlp, "plan");
	LowerMemo memo = {0};
	m->level = LV_spmd;
	LowerKey key = {.type = m->insts[1].type, .strategy = m->plan.runs[0]};
	LowerKey again = {.type = m->insts[2].type, .strategy = key.strategy}, other = key;
	other.strategy.recompute = RC_full;
	Lowered *a = lower_type(&c, m, &memo, &key);
	CHECK(a && lower_type(&c, m, &memo, &again) == a);
	Lowered *b = lower_type(&c, m, &memo, &other);
	CHECK(b && b != a && b->flops[BK_B] > a->flops[BK_B] &&
	      b->saved_bytes < a->saved_bytes);
	CHECK(a->flops[BK_F] == 2.0 * 2 * 6 * 5 * 8 * 24 && a->moved[BK_F] > 0);
	done(&c);
}

/* ---- plan ---- */

static void
test_plan(void)
{
	Ctx c = context(stderr);
	Module *m = compile(&c, mlp, NULL);
	CHECK(m->plan.microbatches == 1 && m->plan.runs[0].recompute == RC_none);
	int64_t whole = m->mem[0].arena_bytes;
	done(&c);

	c = context(
	    stderr); /* a little less memory: two microbatches, nothing computed again */
	c.memory_bytes = whole - 64;
	m = compile(&c, mlp, NULL);
	CHECK(m->plan.microbatches == 2 && m->plan.runs[0].recompute == RC_none &&
	      m->mem[0].arena_bytes <= whole - 64);
	done(&c);

	FILE *null = fopen("/dev/null", "w");
	c = context(null); /* nothing fits what was asked for */
	c.memory_bytes = 1;
	CHECK(!compile(&c, mlp, NULL) && diag_errors(c.diag) == 1);
	done(&c);
	c = context(null);
	c.microbatches = 5;
	CHECK(!compile(&c, mlp, NULL) && diag_errors(c.diag) == 1);
	done(&c);
	fclose(null);
}

/* ---- schedule ---- */

static void
test_sched(void)
{
	Ctx c = context(stderr);
	c.microbatches = 3;
	Module *m = compile(&c, mlp, "sched");
	uint32_t loops = 0, backwards = 0;
	for (uint32_t i = 0; i < m->nactions; i++) {
		loops += m->actions[i].kind == ACT_layers && m->actions[i].count == 4;
		backwards += m->actions[i].kind == ACT_body && m->actions[i].stride == -1;
	}
	CHECK(loops == 4 && backwards == 2); /* F; B and W; N; U */
	CHECK(m->actions[0].kind == ACT_mb && m->actions[0].count == 3 &&
	      m->actions[1].kind == ACT_input);
	done(&c);
}

/* Level sched under a plan. */
static Module *
compile_plan(Ctx *c, const char *plan)
{
	PassOptions o = {.verify = true, .stop_after = "sched"};
	Module *m = compile(c, mlp, "optimizer");
	CHECK(m && plan_parse(m, c->diag, name_of(c->names, "m.plan"), plan, strlen(plan)));
	m->level = LV_plan;
	CHECK(pass_run_all(c, &m, &o));
	return m;
}

/* A stage's table on one line. */
static char *
table(Ctx *c, const Module *m, uint32_t stage)
{
	Buf b;
	char what[24];
	buf_init(&b, c->perm);
	print_actions(m, &b);
	snprintf(what, sizeof what, "actions %u {", stage);
	char *s = strstr(b.s, what) + strlen(what), *end = strstr(s, "\n}"), *to = s;
	*end = 0;
	for (const char *from = s; *from; from++)
		if ((*from != '\n' && *from != ' ') || (to > s && to[-1] != ' '))
			*to++ = *from == '\n' ? ' ' : *from;
	*to = 0;
	return s;
}

static void
test_pipeline(void)
{
	static const char *const plan =
	    "plan 1\nranks 2 threads 1 microbatches 4 schedule %s\nmesh m0 = mb\n"
	    "stage 0 layers 0-2 ranks 0\nstage 1 layers 3-5 ranks 1%s\n"
	    "layers 0-5 mesh m0 zero 0 recompute none\n";
	static const char *const first =
	    "mb 1 { input F 0 F 1 F 2 start fwd 3 } mb 3 { start bwd 3 input mb 1 F 0 "
	    "mb 1 F 1 mb 1 F 2 mb 1 start fwd 3 mb 1 wait bwd 3 B 2 W 2 B 1 W 1 W 0 "
	    "wait fwd 3 } mb 1 { start bwd 3 mb 3 wait bwd 3 mb 3 B 2 mb 3 W 2 mb 3 B 1 "
	    "mb 3 W 1 mb 3 W 0 mb 3 wait fwd 3 mb 3 } N 0 N 1 N 2 norm U 0 U 1 U 2";
	static const char *const second =
	    "mb 1 { input start fwd 3 wait fwd 3 F 4 F 5 F 6 B 6 W 6 B 5 W 5 B 4 start "
	    "bwd 3 W 4 } mb 2 { input mb 1 start fwd 3 mb 1 wait fwd 3 mb 1 F 4 mb 1 F "
	    "5 mb 1 F 6 mb 1 B 6 mb 1 W 6 mb 1 B 5 mb 1 W 5 mb 1 wait bwd 3 B 4 mb 1 "
	    "start bwd 3 mb 1 W 4 mb 1 } mb 1 { input mb 3 start fwd 3 mb 3 wait fwd 3 "
	    "mb 3 F 4 mb 3 F 5 mb 3 F 6 mb 3 B 6 mb 3 W 6 mb 3 B 5 mb 3 W 5 mb 3 wait "
	    "bwd 3 mb 2 B 4 mb 3 start bwd 3 mb 3 W 4 mb 3 wait bwd 3 mb 3 } N 4 N 5 N "
	    "6 norm U 4 U 5 U 6";
	char text[400];
	Ctx c = context(stderr);
	snprintf(text, sizeof text, plan, "1f1b", "");
	Module *m = compile_plan(&c, text);
	CHECK(m->plan.stages[0].slots == 2 && m->plan.stages[1].slots == 1);
	CHECK(strcmp(table(&c, m, 0), first) == 0);
	CHECK(strcmp(table(&c, m, 1), second) == 0);
	done(&c);

	c = context(stderr); /* a slot to spare: values come one microbatch early */
	snprintf(text, sizeof text, plan, "1f1b", " slots 2");
	m = compile_plan(&c, text);
	CHECK(strstr(table(&c, m, 1), "mb 1 { input start fwd 3 start fwd 3 mb 1 wait fwd 3 "));
	done(&c);

	c = context(stderr); /* all forward, then all backward */
	snprintf(text, sizeof text, plan, "gpipe", "");
	m = compile_plan(&c, text);
	CHECK(m->plan.stages[0].slots == 4 && m->plan.stages[1].slots == 4);
	CHECK(strstr(table(&c, m, 0), "mb 4 { input F 0 F 1 F 2 start fwd 3 } "
				      "mb 4 { start bwd 3 wait bwd 3 B 2 W 2 B 1 "));
	done(&c);
}

/* What ZeRO gathers and sums, beside the bodies of other layers. */
static void
test_zero(void)
{
	static const char *const plan =
	    "plan 1\nranks 2 threads 1 microbatches 2 schedule 1f1b\nmesh m0 = mb\n"
	    "mesh m1 = dp:2\nstage 0 layers 0-5 ranks 0-1\n"
	    "layers 0-5 mesh m1 zero %d recompute none\n";
	static const char *const want[] = {
	    "W 5 mb 1 start grad 5 mb 1 layers 4 { B 4 -1 mb 1 W 4 -1 mb 1 start grad 4 -1 mb "
	    "1 } "
	    "W 0 mb 1 start grad 0 mb 1 } wait grad 5 mb 1 N 5 layers 4 { wait grad 4 -1 mb 1 ",
	    " norm U 0 start param 0 layers 4 { U 1 +1 start param 1 +1 } U 5 start param 5 "
	    "wait param 0 layers 4 { wait param 1 +1 } wait param 5",
	    "start grad 5 B 4 W 4 start grad 4 B 3 wait grad 5 W 3 start grad 3 "
	    "layers 2 { B 2 -1 wait grad 4 -1 W 2 -1 start grad 2 -1 } wait grad 2 W 0 ",
	    "mb 2 { input start param 0 wait param 0 start param 1 F 0 layers 3 { wait param 1 "
	    "+1 "
	    "start param 2 +1 F 1 +1 } wait param 4 start param 5 F 4 wait param 5 F 5 B 5 W 5 "
	    "start grad 5 start param 3 B 4 W 4 start grad 4 wait param 3 start param 2 B 3 "};
	for (int zero = 0; zero < 4; zero++) {
		char text[400];
		Ctx c = context(stderr);
		snprintf(text, sizeof text, plan, zero);
		Module *m = compile_plan(&c, text);
		CHECK(strstr(table(&c, m, 0), want[zero]));
		done(&c);
	}
}

/* ---- pack ---- */

static void
test_pack(void)
{
	Arena *a = arena_new();
	PackItem items[40];
	uint64_t key = rng_key(3, "pack");
	for (uint64_t round = 0; round < 200; round++) {
		uint32_t n = 2 + (uint32_t)(rng_uniform(key, round) * 38);
		for (uint64_t i = 0; i < n; i++) {
			uint64_t at = round * 1000 + i * 4;
			uint32_t first = (uint32_t)(rng_uniform(key, at) * 30),
				 len = (uint32_t)(rng_uniform(key, at + 1) * 8);
			items[i] =
			    (PackItem){first, first + len,
				       64 * (1 + (int64_t)(rng_uniform(key, at + 2) * 50)), -1};
		}
		int64_t height = pack_items(a, items, n), live = pack_live(items, n);
		CHECK(height >= live && height <= live + live / 2);
		for (uint32_t i = 0; i < n; i++) {
			CHECK(items[i].at >= 0 && items[i].at % 64 == 0 &&
			      items[i].at + items[i].bytes <= height);
			for (uint32_t j = 0; j < i; j++)
				CHECK(items[i].last < items[j].first ||
				      items[j].last < items[i].first ||
				      items[i].at + items[i].bytes <= items[j].at ||
				      items[j].at + items[j].bytes <= items[i].at);
		}
	}
	arena_free(a);
}

int
main(void)
{
	test_shard();
	test_fuse();
	test_copy();
	test_remat();
	test_memo();
	test_plan();
	test_sched();
	test_pipeline();
	test_zero();
	test_pack();
	printf("lower: %d checks ok\n", checks);
	return 0;
}
