/*
 * text.c - tests of the text form: modules built by hand at every level go through print and parse; every field that is
 * changed shows in ir_equal, in the text, and in what is read back; plans by hand; the verifier on what no text can say.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ir/ir.h"
#include "tests/unit/check.h"

/* Names, an arena, and diagnostics into a string. */
typedef struct World {
	Arena *arena;
	Names *names;
	Diag *diag;
	FILE *out;
	char *said;
	size_t n;
} World;

static World
world_new(void)
{
	World w = {.arena = arena_new()};

	w.names = names_new(w.arena);
	w.out = tmpfile();
	w.diag = diag_new(w.arena, w.names, w.out);
	return w;
}

/* What was said since the last call. */
static const char *
said(World *w)
{
	w->said = NEW_N(w->arena, char, 1 << 16);
	fflush(w->out);
	rewind(w->out);
	w->n = fread(w->said, 1, (1 << 16) - 1, w->out);
	w->said[w->n] = '\0';
	rewind(w->out);
	if (ftruncate(fileno(w->out), 0) != 0) w->said[0] = '\0';
	w->diag = diag_new(w->arena, w->names, w->out);
	return w->said;
}

static Name
nm(World *w, const char *s)
{
	return name_of(w->names, s);
}

static Type
type_of(DType dt, int n, ...)
{
	Type t = {.dt = dt};
	va_list ap;

	va_start(ap, n);
	for (int i = 0; i < n; i++)
		type_push(&t, (AxisUse){.a = va_arg(ap, Axis)});
	va_end(ap);
	return t;
}

/* ---- a module ---- */

typedef struct Axes {
	Axis batch, seq, embed, vocab, expert, keys;
} Axes;

static Val
emit(World *w, Module *m, Body *b, OpCode code, Val x, Val y, const Attr *attrs, int nattr)
{
	Val in[2] = {x, y};
	OpArgs a = {.code = code,
		    .in = in,
		    .nin = x.i ? y.i ? 2 : 1 : 0,
		    .attrs = attrs,
		    .nattr = nattr,
		    .loc = {nm(w, "m.gdl"), 3, 4, 5}};

	return ir_emit(m, b, w->diag, &a)->out[0];
}

/* gather, dropout, an unwanted result, names like those of parameters. */
static uint32_t
embedding_body(World *w, Module *m, const Axes *x)
{
	Body b = ir_body(nm(w, "embedding"), BK_F);
	AxisList vocab = {.n = 1, .a = {x->vocab}}, embed = {.n = 1, .a = {x->embed}};
	AxisList all = {.n = 3, .a = {x->batch, x->seq, x->embed}};
	Val tokens =
	    ir_port(m, &b, PORT_arg, 0, nm(w, "tokens"), type_of(DT_i32, 2, x->batch, x->seq));
	Val wte = ir_port(m, &b, PORT_weight, 0, nm(w, "wte.weight"),
			  type_of(DT_f32, 2, x->vocab, x->embed));
	Val pos = ir_port(m, &b, PORT_const, 0, nm(w, "pos"), type_of(DT_f32, 1, x->seq));
	Attr gather = attr_make_axes(AK_axes, &vocab);
	Attr drop[] = {attr_make_axes(AK_axes, &all), attr_make_int(AK_rate, 0),
		       attr_make_int(AK_key, 7)};
	Attr norm[] = {attr_make_axes(AK_axes, &embed), attr_make_num(AK_eps, 1e-5),
		       attr_make_int(AK_center, 1)};
	Val e = emit(w, m, &b, OP_gather, wte, tokens, &gather, 1);
	Val d = emit(w, m, &b, OP_dropout, emit(w, m, &b, OP_add, e, pos, NULL, 0), NO_VAL,
		     drop, 3);
	Val in[] = {d};
	OpArgs mo = {.code = OP_moments,
		     .in = in,
		     .nin = 1,
		     .attrs = norm,
		     .nattr = 3,
		     .hint = nm(w, "mean")};

	ir_emit(m, &b, w->diag, &mo)->out[1] = NO_VAL;
	ir_out(m, &b, PORT_out, 0, d);
	return ir_add_body(m, b);
}

static uint32_t
output_body(World *w, Module *m, const Axes *x)
{
	Body b = ir_body(nm(w, "output"), BK_F);
	AxisList embed = {.n = 1, .a = {x->embed}}, rest = {.n = 2, .a = {x->batch, x->seq}};
	Val h = ir_port(m, &b, PORT_arg, 0, nm(w, "h"),
			type_of(DT_f32, 3, x->batch, x->seq, x->embed));
	Val wte = ir_port(m, &b, PORT_weight, 0, nm(w, "wte.weight"),
			  type_of(DT_f32, 2, x->vocab, x->embed));
	Val third = ir_const(m, &b, DT_f32, 1.0 / 3, (Loc){0});
	Val logits = ir_dot(m, &b, h, wte, &embed, NULL, (Loc){nm(w, "a b.gdl"), 1, 2, 3});
	Attr vocab = attr_make_axes(AK_axes, &(AxisList){.n = 1, .a = {x->vocab}});
	Val top = emit(w, m, &b, OP_rmax, logits, NO_VAL, &vocab, 1);

	ir_out(m, &b, PORT_logits, 0, logits);
	ir_out(m, &b, PORT_out, 0,
	       ir_op2(m, &b, OP_mul, ir_sum(m, &b, top, &rest, (Loc){0}), third, (Loc){0}));
	return ir_add_body(m, b);
}

static uint32_t
const_body(World *w, Module *m, const Axes *x)
{
	Body b = ir_body(nm(w, "const"), BK_const);
	Attr seq = attr_make_axis(AK_axis, x->seq), f32 = attr_make_dtype(AK_dtype, DT_f32);
	Val pos = emit(w, m, &b, OP_pos, NO_VAL, NO_VAL, &seq, 1);

	ir_out(m, &b, PORT_out, 0, emit(w, m, &b, OP_cast, pos, NO_VAL, &f32, 1));
	return ir_add_body(m, b);
}

static void
add_params(World *w, Module *m, const Axes *x)
{
	Loc at = {nm(w, "m.gdl"), 12, 7, 13};
	Param p = {.name = nm(w, "wte.weight"),
		   .type = type_of(DT_f32, 2, x->vocab, x->embed),
		   .ndims = 2,
		   .dims = {1, 1},
		   .init = INIT_normal,
		   .init_a = 0.02,
		   .decay = 1,
		   .lr = 1,
		   .loc = at};

	PUSH(m->arena, m->params, m->nparams, m->cparams, p);
	p = (Param){.name = nm(w, "experts.{expert}.w"),
		    .type = type_of(DT_f32, 3, x->expert, x->vocab, x->embed),
		    .ndims = 1,
		    .dims = {2},
		    .per = x->expert,
		    .init = INIT_uniform,
		    .init_a = -0.1,
		    .init_b = 0.1,
		    .decay = 0,
		    .lr = 0.1};
	PUSH(m->arena, m->params, m->nparams, m->cparams, p);
	p = (Param){.name = nm(w, "bias"),
		    .type = type_of(DT_f32, 1, x->seq),
		    .ndims = 1,
		    .dims = {1},
		    .init = INIT_const,
		    .init_a = 0,
		    .decay = 1,
		    .lr = 0};
	PUSH(m->arena, m->params, m->nparams, m->cparams, p);
}

static void
add_layers(World *w, Module *m, const Axes *x)
{
	static const char *const weights[] = {"wte.weight", "experts.w", "bias"};
	LayerType e = {
	    .name = nm(w, "embedding"), .nargs = 1, .nouts = 1, .nrates = 1, .nweights = 3};
	LayerType o = {.name = nm(w, "output"), .nargs = 1, .nouts = 1, .nweights = 1};
	Instance i = {
	    .name = nm(w, "embedding"), .path = nm(w, ""), .loc = {nm(w, "m.gdl"), 40, 3, 9}};
	Ref result = {REF_result, 0, 0}, input = {REF_input, 0, 0};
	uint32_t all[] = {0, 1, 2};
	double rate = 0.1;

	e.body[BK_F] = embedding_body(w, m, x);
	e.weights = NEW_N(m->arena, TypeWeight, 3);
	for (int k = 0; k < 3; k++)
		e.weights[k] = (TypeWeight){nm(w, weights[k]), m->params[k].type};
	o.body[BK_F] = output_body(w, m, x);
	o.weights = e.weights;
	PUSH(m->arena, m->types, m->ntypes, m->ctypes, e);
	PUSH(m->arena, m->types, m->ntypes, m->ctypes, o);
	i.args = arena_dup(m->arena, &input, sizeof(input));
	i.params = arena_dup(m->arena, all, sizeof(all));
	i.rates = arena_dup(m->arena, &rate, sizeof(rate));
	PUSH(m->arena, m->insts, m->ninsts, m->cinsts, i);
	i = (Instance){.name = nm(w, "output"), .path = nm(w, "head"), .type = 1};
	i.args = arena_dup(m->arena, &result, sizeof(result));
	i.params = arena_dup(m->arena, all, sizeof(all[0]));
	PUSH(m->arena, m->insts, m->ninsts, m->cinsts, i);
	PUSH(m->arena, m->reports, m->nreports, m->creports,
	     ((Report){nm(w, "loss"), {REF_result, 1, 0}}));
}

static Module *
build_graph(World *w)
{
	Module *m = ir_module(w->arena, w->names);
	Loc at = {nm(w, "m.gdl"), 4, 6, 5};
	Axes x = {.batch = ir_axis(m, nm(w, "batch"), 8, at),
		  .seq = ir_axis(m, nm(w, "seq"), 5, at),
		  .embed = ir_axis(m, nm(w, "embed"), 6, (Loc){0}),
		  .vocab = ir_axis(m, nm(w, "vocab"), 1009, at),
		  .expert = ir_axis(m, nm(w, "expert"), 2, at),
		  .keys = ir_axis(m, nm(w, "seq"), 7, at)};
	Input in = {.name = nm(w, "tokens"),
		    .type = type_of(DT_i32, 2, x.batch, x.seq),
		    .range = x.vocab,
		    .loc = at};

	m->model = nm(w, "m");
	m->source = nm(w, "m.gdl");
	m->source_hash = 0x1f2e3d4c5b6a7988;
	m->batch = x.batch;
	PUSH(m->arena, m->inputs, m->ninputs, m->cinputs, in);
	PUSH(m->arena, m->consts, m->nconsts, m->cconsts, type_of(DT_f32, 1, x.seq));
	m->const_body = const_body(w, m, &x);
	add_params(w, m, &x);
	add_layers(w, m, &x);
	m->train = (Train){.opt = OPT_adamw,
			   .rate = RATE_cosine,
			   .peak = 6e-4,
			   .warmup = 700,
			   .steps = 20000,
			   .beta1 = 0.9,
			   .beta2 = 0.95,
			   .eps = 1e-8,
			   .decay = 0.1,
			   .clip = 1,
			   .precision = DT_f32,
			   .seed = UINT64_MAX,
			   .given = true};
	return m;
}

/* A plan with two meshes and two stages on six ranks. */
static void
to_plan(World *w, Module *m)
{
	Mesh mesh[] = {
	    {.name = nm(w, "m0"), .n = 1, .ax = {{MX_mb, 0, 4}}},
	    {.name = nm(w, "m1"), .n = 2, .ax = {{MX_mb, 0, 4}, {MX_dp, 0, 2}}},
	    {.name = nm(w, "m2"), .n = 3, .ax = {{MX_mb, 0, 4}, {MX_tp, 0, 2}, {MX_tp, 1, 2}}},
	};
	Stage stage[] = {{.first = 0, .count = 1, .rank = 0, .ranks = 2, .slots = 2},
			 {.first = 1, .count = 1, .rank = 2, .ranks = 4}};
	Strategy run[] = {
	    {.first = 0, .count = 1, .mesh = 1, .zero = 2, .recompute = RC_selective},
	    {.first = 1, .count = 1, .mesh = 2, .zero = 0, .recompute = RC_full}};

	m->level = LV_plan;
	m->plan = (Plan){.ranks = 6,
			 .threads = 3,
			 .microbatches = 4,
			 .schedule = SCH_gpipe,
			 .forward_only = true,
			 .meshes = arena_dup(m->arena, mesh, sizeof(mesh)),
			 .nmeshes = 3,
			 .runs = arena_dup(m->arena, run, sizeof(run)),
			 .nruns = 2,
			 .stages = arena_dup(m->arena, stage, sizeof(stage)),
			 .nstages = 2};
}

/* Shards over every kind of mesh axis, a pending sum, kernels, saved and carried values. */
static void
to_spmd(Module *m)
{
	Body *e = &m->bodies[m->types[0].body[BK_F]], *o = &m->bodies[m->types[1].body[BK_F]];
	Type saved = type_of(DT_f32, 1, m->batch);

	m->level = LV_spmd;
	e->mesh = 1;
	e->nkernels = 2;
	e->ops[0].kernel = 2;
	for (uint32_t v = 1; v < e->nvals; v++)
		if (e->vals[v].type.n && e->vals[v].type.ax[0].a.i == m->batch.i)
			e->vals[v].type.ax[0] =
			    (AxisUse){.a = m->batch, .nshard = 2, .shard = {0, 1}};
	o->mesh = 2;
	o->vals[1].type.ax[1] =
	    (AxisUse){.a = o->vals[1].type.ax[1].a, .nshard = 1, .shard = {2}};
	o->vals[o->nvals - 1].type.partial = 1 << 0 | 1 << 1;
	saved.ax[0] = (AxisUse){.a = m->batch, .nshard = 1, .shard = {1}};
	m->types[0].saved = arena_dup(m->arena, &saved, sizeof(saved));
	m->types[0].nsaved = 1;
	m->types[1].carry = arena_dup(m->arena, &m->consts[0], sizeof(saved));
	m->types[1].ncarry = 1;
	m->types[1].flops[BK_F] = 1e15 / 3;
	m->types[1].flops[BK_W] = 12;
}

static void
to_sched(Module *m)
{
	const Action a[] = {
	    {.kind = ACT_mb, .count = 4},
	    {.kind = ACT_input},
	    {.kind = ACT_layers, .count = 2},
	    {.kind = ACT_body, .bk = BK_F, .inst = 1, .stride = -1},
	    {.kind = ACT_body, .bk = BK_W, .inst = 0, .stride = 1},
	    {.kind = ACT_end},
	    {.kind = ACT_end},
	    {.kind = ACT_body, .bk = BK_N, .inst = 1},
	    {.kind = ACT_norm},
	    {.kind = ACT_body, .bk = BK_U, .inst = 1},
	    {.kind = ACT_start, .comm = CK_lend, .inst = 1, .stride = 1, .mb = 3},
	    {.kind = ACT_wait, .comm = CK_grad, .inst = 1},
	};

	m->level = LV_sched;
	for (size_t i = 0; i < COUNTOF(a); i++)
		PUSH(m->arena, m->actions, m->nactions, m->cactions, a[i]);
	m->plan.stages[0].action = 2; /* as a pass may lay them out */
	m->plan.stages[0].nactions = 4;
	m->plan.stages[1].action = 0;
	m->plan.stages[1].nactions = 12;
}

static int64_t *
offsets(Module *m, int n, int64_t from)
{
	int64_t *at = NEW_N(m->arena, int64_t, n);

	for (int i = 0; i < n; i++)
		at[i] = from + 64 * i;
	return at;
}

static void
to_mem(Module *m)
{
	Body *e = &m->bodies[m->types[0].body[BK_F]];
	uint32_t cot_of[] = {1, 0};
	bool in_flat[] = {false, true, true};
	Cot cot[] = {{.at = 0, .alt = -64}, {.at = 128, .shared = true}};

	m->level = LV_mem;
	for (uint32_t v = 1; v < e->nvals; v++) {
		e->vals[v].space = v % 2 ? SP_scratch : SP_local;
		e->vals[v].offset = 64 * v;
	}
	e->vals[1].space = SP_port;
	e->vals[2].space = SP_alias;
	e->vals[5].over = (Val){3};
	e->scratch_bytes = 4096;
	e->live_bytes = 4000;
	m->types[0].out_at = offsets(m, 1, 64);
	m->types[0].saved_at = offsets(m, 1, -1);
	m->types[1].carry_at = offsets(m, 1, -2);
	m->types[1].slot_frame = 128;
	m->types[1].carry_frame = 64;
	m->mem = NEW_N(m->arena, Memory, 2);
	m->mem[0] = (Memory){.arena_bytes = 1 << 20,
			     .live_bytes = 99,
			     .sec = {0, 64, -1, -1},
			     .sec_bytes = {17},
			     .consts = 128,
			     .slots = 192,
			     .slot_bytes = 256,
			     .cots = 320,
			     .carry = 384,
			     .scratch = 448,
			     .ncot = 2};
	m->mem[0].param_at = offsets(m, 3, 0);
	m->mem[0].const_at = offsets(m, 1, 0);
	m->mem[0].input_at = offsets(m, 1, 64);
	m->mem[0].slot_at = offsets(m, 2, 128);
	m->mem[0].back_at = offsets(m, 2, 0);
	m->mem[0].flat_bytes = offsets(m, 2, 0);
	for (int k = 0; k < SEC_COUNT; k++)
		m->mem[0].flat_at[k] = offsets(m, 2, 64 * k);
	m->mem[0].in_flat = arena_dup(m->arena, in_flat, sizeof(in_flat));
	m->mem[0].cot_of = arena_dup(m->arena, cot_of, sizeof(cot_of));
	m->mem[0].cot = arena_dup(m->arena, cot, sizeof(cot));
}

/* The module at a level. */
static Module *
build(World *w, Level level)
{
	Module *m = build_graph(w);

	if (level >= LV_train) m->level = LV_train;
	if (level >= LV_plan) to_plan(w, m);
	if (level >= LV_spmd) to_spmd(m);
	if (level >= LV_sched) to_sched(m);
	if (level >= LV_mem) to_mem(m);
	return m;
}

/* ---- print and parse ---- */

static Buf
print(World *w, const Module *m)
{
	Buf b;

	buf_init(&b, w->arena);
	ir_print(m, &b);
	return b;
}

static bool
same_text(const Buf *a, const Buf *b)
{
	return a->n == b->n && memcmp(a->s, b->s, a->n) == 0;
}

/* The module read back, which must be the same; NULL after a failure. */
static Module *
round_trip(World *w, const Module *m, const char *what)
{
	Buf text = print(w, m), again, why;
	Module *r = ir_parse(w->arena, w->names, w->diag, nm(w, "t.gir"), text.s, text.n);

	CHECK(r, "%s:\n%s%s", what, said(w), text.s);
	if (!r) return NULL;
	buf_init(&why, w->arena);
	CHECK(ir_equal(m, r, &why), "%s: %s", what, why.s);
	again = print(w, r);
	CHECK(same_text(&text, &again), "%s prints otherwise:\n%s", what, again.s);
	CHECK(ir_hash(m) == ir_hash(r), "%s", what);
	return r;
}

static void
test_levels(void)
{
	for (int level = LV_graph; level < LV_COUNT; level++) {
		World w = world_new();
		Module *m = build(&w, (Level)level), *r = round_trip(&w, m, level_str[level]),
		       *c;

		if (level == LV_graph) {
			CHECK(ir_verify(m, w.diag, "hand"), "%s", said(&w));
			CHECK(strstr(print(&w, m).s, "# 18,167 parameters\n"), "%s",
			      print(&w, m).s);
		}
		c = ir_clone(m, w.arena);
		CHECK(ir_equal(m, c, NULL), "clone at %s", level_str[level]);
		if (r) round_trip(&w, r, "again");
		c->level = (Level)((level + 1) % LV_COUNT);
		CHECK(!ir_equal(m, c, NULL), "level %s", level_str[level]);
		fclose(w.out);
		arena_free(w.arena);
	}
}

/* ---- every field counts ---- */

typedef void Change(Module *m);

/* clang-format off */
static void ch_model(Module *m) { m->model = name_of(m->names, "other"); }
static void ch_source(Module *m) { m->source = name_of(m->names, "other.gdl"); }
static void ch_hash(Module *m) { m->source_hash ^= 1; }
static void ch_axis_name(Module *m) { m->axes[3].name = name_of(m->names, "width"); }
static void ch_axis_extent(Module *m) { m->axes[3].extent++; }
static void ch_axis_loc(Module *m) { m->axes[1].loc.col++; }
static void ch_batch(Module *m) { m->batch.i = 1 + m->batch.i; m->axes[2].extent = 8; }
static void ch_input_name(Module *m) { m->inputs[0].name = name_of(m->names, "params"); }
static void ch_input_type(Module *m) { m->inputs[0].type.n--; }
static void ch_input_range(Module *m) { m->inputs[0].range = NO_AXIS; }
static void ch_input_of(Module *m) { Input in = m->inputs[0]; in.name = name_of(m->names, "tokens.m2"); in.of = 1; PUSH(m->arena, m->inputs, m->ninputs, m->cinputs, in); m->mem[0].input_at = offsets(m, 2, 64); }
static void ch_input_mesh(Module *m) { m->inputs[0].mesh = 2; }
static void ch_input_loc(Module *m) { m->inputs[0].loc.line = 0; }
static void ch_const(Module *m) { m->consts[0].dt = DT_f64; }
static void ch_param_name(Module *m) { m->params[0].name = name_of(m->names, "a#b"); }
static void ch_param_type(Module *m) { m->params[0].type.dt = DT_f64; }
static void ch_param_dims(Module *m) { m->params[0].ndims = 1; m->params[0].dims[0] = 2; }
static void ch_param_per(Module *m) { m->params[1].per = NO_AXIS; m->params[1].dims[0] = 3; }
static void ch_param_init(Module *m) { m->params[0].init = INIT_value; }
static void ch_param_init_a(Module *m) { m->params[0].init_a = nextafter(0.02, 1); }
static void ch_param_init_b(Module *m) { m->params[1].init_b = 0.2; }
static void ch_param_decay(Module *m) { m->params[0].decay = -0.0; }
static void ch_param_lr(Module *m) { m->params[0].lr = 0; }
static void ch_param_owner(Module *m) { m->params[0].owner = 1; }
static void ch_param_borrows(Module *m) { m->params[2].borrows = 1; }
static void ch_param_pending(Module *m) { m->params[2].pending = 6; }
static void ch_param_trained(Module *m) { m->params[2].trained = true; }
static void ch_param_loc(Module *m) { m->params[0].loc.len++; }
static void ch_train_opt(Module *m) { m->train.opt = OPT_sgd; }
static void ch_train_rate(Module *m) { m->train.rate = RATE_inverse_sqrt; }
static void ch_train_peak(Module *m) { m->train.peak *= 2; }
static void ch_train_warmup(Module *m) { m->train.warmup++; }
static void ch_train_steps(Module *m) { m->train.steps = INFINITY; }
static void ch_train_floor(Module *m) { m->train.floor = 5e-324; }
static void ch_train_beta1(Module *m) { m->train.beta1 = 0; }
static void ch_train_beta2(Module *m) { m->train.beta2 = 0; }
static void ch_train_eps(Module *m) { m->train.eps = NAN; }
static void ch_train_decay(Module *m) { m->train.decay = 1e300; }
static void ch_train_momentum(Module *m) { m->train.momentum = 0.9; }
static void ch_train_clip(Module *m) { m->train.clip = 0; }
static void ch_train_precision(Module *m) { m->train.precision = DT_none; }
static void ch_train_seed(Module *m) { m->train.seed--; }
static void ch_train_given(Module *m) { m->train.given = false; }
static void ch_ranks(Module *m) { m->plan.ranks++; m->plan.stages[1].ranks++; m->plan.meshes[2].n = 2; m->plan.meshes[2].ax[1].degree = 5;
	m->bodies[3].vals[1].type.ax[1].nshard = 0; }
static void ch_threads(Module *m) { m->plan.threads = 0; }
static void ch_mb(Module *m) { m->plan.microbatches = 2; for (int i = 0; i < 3; i++) m->plan.meshes[i].ax[0].degree = 2; }
static void ch_schedule(Module *m) { m->plan.schedule = SCH_1f1b; }
static void ch_forward(Module *m) { m->plan.forward_only = false; }
static void ch_mesh_name(Module *m) { m->plan.meshes[1].name = name_of(m->names, "mesh"); }
static void ch_mesh_kind(Module *m) { m->plan.meshes[1].ax[1].kind = MX_ep; m->plan.runs[0].zero = 0; }
static void ch_mesh_sub(Module *m) { m->plan.meshes[2].ax[2].sub = 3; }
static void ch_run_mesh(Module *m) { m->plan.meshes[0].name = name_of(m->names, "one"); }
static void ch_run_zero(Module *m) { m->plan.runs[0].zero = 3; }
static void ch_run_recompute(Module *m) { m->plan.runs[0].recompute = RC_none; }
static void ch_run_sp(Module *m) { m->plan.runs[1].megatron_sp = true; }
static void ch_stage_slots(Module *m) { m->plan.stages[0].slots = 0; }
static void ch_action_kind(Module *m) { m->actions[8].kind = ACT_input; }
static void ch_action_bk(Module *m) { m->actions[9].bk = BK_F; }
static void ch_action_count(Module *m) { m->actions[0].count = 3; }
static void ch_action_inst(Module *m) { m->actions[9].inst = 0; }
static void ch_action_stride(Module *m) { m->actions[3].stride = 1; }
static void ch_action_mb(Module *m) { m->actions[3].mb = 2; }
static void ch_input_mb(Module *m) { m->actions[1].mb = 1; }
static void ch_start_kind(Module *m) { m->actions[10].kind = ACT_wait; }
static void ch_start_comm(Module *m) { m->actions[10].comm = CK_param; }
static void ch_start_inst(Module *m) { m->actions[10].inst = 0; }
static void ch_start_stride(Module *m) { m->actions[10].stride = 2; }
static void ch_start_mb(Module *m) { m->actions[10].mb = 0; }
static void ch_actions(Module *m) { m->plan.stages[0].nactions = 0; }
static void ch_const_body(Module *m) { m->bodies[m->const_body].kind = BK_N; m->const_body = 0; }
static void ch_body_name(Module *m) { m->bodies[2].name = name_of(m->names, "zero"); }
static void ch_body_kind(Module *m) { m->bodies[2].kind = BK_B; m->types[0].body[BK_B] = 2; m->types[0].body[BK_F] = 0; }
static void ch_body_mesh(Module *m) { m->bodies[1].mesh = 1; }
static void ch_body_from(Module *m) { m->bodies[3].from = 2; m->bodies[3].vals[1].type.ax[1].nshard = 0; m->bodies[3].vals[2].type.ax[0].nshard = 0; }
static void ch_kernels(Module *m) { m->bodies[2].nkernels++; }
static void ch_scratch(Module *m) { m->bodies[2].scratch_bytes++; }
static void ch_live(Module *m) { m->bodies[2].live_bytes++; }
static void ch_port_kind(Module *m) { m->bodies[2].ports[1].kind = PORT_grad; }
static void ch_port_slot(Module *m) { m->bodies[2].ports[1].slot = 9; }
static void ch_out_val(Module *m) { m->bodies[2].ports[3].v.i--; }
static void ch_port_space(Module *m) { m->bodies[2].vals[1].space = SP_none; }
static void ch_val_name(Module *m) { m->bodies[2].vals[4].name = name_of(m->names, "new"); }
static void ch_val_type(Module *m) { m->bodies[2].vals[4].type.dt = DT_bf16; }
static void ch_val_shard(Module *m) { m->bodies[2].vals[4].type.ax[0].nshard = 1; }
static void ch_val_partial(Module *m) { m->bodies[3].vals[m->bodies[3].nvals - 1].type.partial = 4; }
static void ch_val_flat(Module *m) { m->bodies[3].vals[m->bodies[3].nvals - 1].type.flat = 4; }
static void ch_val_space(Module *m) { m->bodies[2].vals[4].space = SP_port; }
static void ch_val_offset(Module *m) { m->bodies[2].vals[3].offset++; }
static void ch_val_over(Module *m) { m->bodies[2].vals[5].over.i = 4; }
static void ch_op_code(Module *m) { m->bodies[2].ops[1].code = OP_sub; }
static void ch_op_in(Module *m) { Val *in = m->bodies[2].ops[1].in; in[1] = in[0]; }
static void ch_attr_axes(Module *m) { m->bodies[3].ops[2].attrs[0].axes.n = 0; }
static void ch_op_out(Module *m) { m->bodies[2].ops[3].out[0] = NO_VAL; }
static void ch_op_kernel(Module *m) { m->bodies[2].ops[0].kernel = 0; }
static void ch_op_loc(Module *m) { m->bodies[2].ops[0].loc.file = name_of(m->names, "x:y.gdl"); }
static void ch_attr_axis(Module *m) { m->bodies[1].ops[0].attrs[0].axis.i++; }
static void ch_attr_dtype(Module *m) { m->bodies[1].ops[1].attrs[0].i = DT_bool; }
static void ch_attr_int(Module *m) { m->bodies[2].ops[2].attrs[2].i = INT64_MIN; }
static void ch_attr_num(Module *m) { m->bodies[2].ops[3].attrs[1].num = -INFINITY; }
static void ch_type_name(Module *m) { m->types[1].name = name_of(m->names, "recompute"); }
static void ch_type_body(Module *m) { m->types[1].body[BK_const] = m->const_body; }
static void ch_type_outs(Module *m) { m->types[1].nouts = 0; m->nreports = 0; m->mem[0].ncot = 0; m->mem[0].cot_of = NULL; }
static void ch_type_reshard(Module *m) { m->types[1].reshard = true; }
static void ch_type_weight(Module *m) { m->types[1].weights[0].name = name_of(m->names, ""); }
static void ch_type_weight_type(Module *m) { m->types[1].weights[0].type.n = 0; }
static void ch_type_saved(Module *m) { m->types[0].saved[0].ax[0].nshard = 0; }
static void ch_type_carry(Module *m) { m->types[1].ncarry = 0; m->types[1].carry_at = NULL; }
static void ch_type_flops(Module *m) { m->types[1].flops[BK_W] = 0; }
static void ch_type_out_at(Module *m) { m->types[0].out_at[0] = -1; }
static void ch_type_no_out_at(Module *m) { m->types[0].out_at = NULL; }
static void ch_type_saved_at(Module *m) { m->types[0].saved_at[0] = 0; }
static void ch_type_carry_at(Module *m) { m->types[1].carry_at[0] = 0; }
static void ch_type_frame(Module *m) { m->types[1].slot_frame = 0; }
static void ch_type_carry_frame(Module *m) { m->types[1].carry_frame = 0; }
static void ch_inst_name(Module *m) { m->insts[1].name = name_of(m->names, "#"); }
static void ch_inst_path(Module *m) { m->insts[1].path = 0; }
static void ch_inst_arg(Module *m) { m->insts[1].args[0] = (Ref){REF_none, 0, 0}; }
static void ch_inst_param(Module *m) { m->insts[1].params[0] = 2; }
static void ch_inst_rate(Module *m) { m->insts[0].rates[0] = 0.1 + 0.2; }
static void ch_inst_loc(Module *m) { m->insts[0].loc.len = 0; }
static void ch_report_name(Module *m) { m->reports[0].name = name_of(m->names, "cost"); }
static void ch_report_ref(Module *m) { m->reports[0].ref.i = 0; }
static void ch_mem_arena(Module *m) { m->mem[0].arena_bytes++; }
static void ch_mem_live(Module *m) { m->mem[0].live_bytes++; }
static void ch_mem_param(Module *m) { m->mem[0].sec[SEC_param]++; }
static void ch_mem_grad(Module *m) { m->mem[0].sec[SEC_grad]++; }
static void ch_mem_m(Module *m) { m->mem[0].sec[SEC_m]++; }
static void ch_mem_v(Module *m) { m->mem[0].sec[SEC_v]++; }
static void ch_mem_state(Module *m) { m->mem[0].sec_bytes[SEC_param]++; }
static void ch_mem_consts(Module *m) { m->mem[0].consts++; }
static void ch_mem_slots(Module *m) { m->mem[0].slots++; }
static void ch_mem_slot(Module *m) { m->mem[0].slot_bytes++; }
static void ch_mem_cots(Module *m) { m->mem[0].cots++; }
static void ch_mem_carry(Module *m) { m->mem[0].carry++; }
static void ch_mem_scratch(Module *m) { m->mem[0].scratch++; }
static void ch_mem_param_at(Module *m) { m->mem[0].param_at[2]++; }
static void ch_mem_const_at(Module *m) { m->mem[0].const_at[0]++; }
static void ch_mem_input_at(Module *m) { m->mem[0].input_at[0]++; }
static void ch_mem_slot_at(Module *m) { m->mem[0].slot_at[1]++; }
static void ch_mem_grad_bytes(Module *m) { m->mem[0].sec_bytes[SEC_grad]++; }
static void ch_mem_m_bytes(Module *m) { m->mem[0].sec_bytes[SEC_m]++; }
static void ch_mem_v_bytes(Module *m) { m->mem[0].sec_bytes[SEC_v]++; }
static void ch_mem_gather(Module *m) { m->mem[0].gather = 704; }
static void ch_mem_gather_bytes(Module *m) { m->mem[0].gather_bytes = 704; }
static void ch_mem_dwork(Module *m) { m->mem[0].dwork = 704; }
static void ch_mem_dwork_bytes(Module *m) { m->mem[0].dwork_bytes = 704; }
static void ch_mem_flat(Module *m) { m->mem[0].flat_bytes[1] += 64; }
static void ch_mem_no_flat(Module *m) { m->mem[0].flat_bytes = NULL; }
static void ch_mem_flat_at(Module *m) { m->mem[0].flat_at[SEC_v][1] = -1; }
static void ch_mem_in_flat(Module *m) { m->mem[0].in_flat[1] = false; }
static void ch_mem_back_at(Module *m) { m->mem[0].back_at[0]++; }
static void ch_mem_not_here(Module *m) { m->mem[0].slot_at[0] = -1; }
static void ch_mem_stage(Module *m) { m->mem[1].arena_bytes++; }
static void ch_mem_stage_at(Module *m) { m->mem[1].param_at = offsets(m, 3, 64); }
static void ch_cot_at(Module *m) { m->mem[0].cot[1].at++; }
static void ch_cot_alt(Module *m) { m->mem[0].cot[0].alt = 0; }
static void ch_cot_shared(Module *m) { m->mem[0].cot[0].shared = true; }

/* clang-format on */

static const struct {
	const char *name;
	Change *apply;
} changes[] = {
#define C(f)               \
	{                  \
#f, ch_##f \
	}
    C(model),
    C(source),
    C(hash),
    C(axis_name),
    C(axis_extent),
    C(axis_loc),
    C(batch),
    C(input_name),
    C(input_type),
    C(input_range),
    C(input_loc),
    C(const),
    C(param_name),
    C(param_type),
    C(param_dims),
    C(param_per),
    C(param_init),
    C(param_init_a),
    C(param_init_b),
    C(param_decay),
    C(param_lr),
    C(param_owner),
    C(param_loc),
    C(train_opt),
    C(train_rate),
    C(train_peak),
    C(train_warmup),
    C(train_steps),
    C(train_floor),
    C(train_beta1),
    C(train_beta2),
    C(train_eps),
    C(train_decay),
    C(train_momentum),
    C(train_clip),
    C(train_precision),
    C(train_seed),
    C(train_given),
    C(ranks),
    C(threads),
    C(mb),
    C(schedule),
    C(forward),
    C(mesh_name),
    C(mesh_kind),
    C(mesh_sub),
    C(run_mesh),
    C(run_zero),
    C(run_recompute),
    C(stage_slots),
    C(action_kind),
    C(action_bk),
    C(action_count),
    C(action_inst),
    C(action_stride),
    C(actions),
    C(const_body),
    C(body_name),
    C(body_kind),
    C(body_mesh),
    C(kernels),
    C(scratch),
    C(live),
    C(port_kind),
    C(port_slot),
    C(out_val),
    C(port_space),
    C(val_name),
    C(val_type),
    C(val_shard),
    C(val_partial),
    C(val_space),
    C(val_offset),
    C(val_over),
    C(op_code),
    C(op_in),
    C(op_out),
    C(attr_axes),
    C(op_kernel),
    C(op_loc),
    C(attr_axis),
    C(attr_dtype),
    C(attr_int),
    C(attr_num),
    C(type_name),
    C(type_body),
    C(type_outs),
    C(type_weight),
    C(type_weight_type),
    C(type_saved),
    C(type_carry),
    C(type_flops),
    C(type_out_at),
    C(type_no_out_at),
    C(type_saved_at),
    C(type_carry_at),
    C(type_frame),
    C(type_carry_frame),
    C(inst_name),
    C(inst_path),
    C(inst_arg),
    C(inst_param),
    C(inst_rate),
    C(inst_loc),
    C(report_name),
    C(report_ref),
    C(mem_arena),
    C(mem_live),
    C(mem_param),
    C(mem_grad),
    C(mem_m),
    C(mem_v),
    C(mem_state),
    C(mem_consts),
    C(mem_slots),
    C(mem_slot),
    C(mem_cots),
    C(mem_carry),
    C(mem_scratch),
    C(mem_param_at),
    C(mem_const_at),
    C(mem_input_at),
    C(mem_slot_at),
    C(cot_at),
    C(cot_alt),
    C(cot_shared),
    C(input_of),
    C(input_mesh),
    C(param_borrows),
    C(param_pending),
    C(param_trained),
    C(run_sp),
    C(action_mb),
    C(input_mb),
    C(start_kind),
    C(start_comm),
    C(start_inst),
    C(start_stride),
    C(start_mb),
    C(body_from),
    C(val_flat),
    C(type_reshard),
    C(mem_grad_bytes),
    C(mem_m_bytes),
    C(mem_v_bytes),
    C(mem_gather),
    C(mem_gather_bytes),
    C(mem_dwork),
    C(mem_dwork_bytes),
    C(mem_flat),
    C(mem_no_flat),
    C(mem_flat_at),
    C(mem_in_flat),
    C(mem_back_at),
    C(mem_not_here),
    C(mem_stage),
    C(mem_stage_at),
#undef C
};

/* A printer that forgets a field and a reader that leaves it at its default agree with each other; a change shows them. */
static void
test_changes(void)
{
	for (size_t i = 0; i < COUNTOF(changes); i++) {
		World w = world_new();
		Module *m = build(&w, LV_mem), *c = build(&w, LV_mem);
		Buf why, a, b;

		changes[i].apply(c);
		buf_init(&why, w.arena);
		CHECK(!ir_equal(m, c, &why), "%s does not count", changes[i].name);
		CHECK(why.n, "%s: no reason", changes[i].name);
		a = print(&w, m);
		b = print(&w, c);
		CHECK(!same_text(&a, &b), "%s does not show", changes[i].name);
		round_trip(&w, c, changes[i].name);
		fclose(w.out);
		arena_free(w.arena);
	}
}

/* ---- structure ---- */

static void
test_structure(void)
{
	World w = world_new();
	Module *m = build_graph(&w), *c = build_graph(&w);
	Body *b = &m->bodies[2], *d = &c->bodies[2];

	CHECK(ir_body_equal(m, b, d), "same body");
	d->vals[4].name = nm(&w, "other");
	d->ops[0].loc.line = 99;
	d->name = nm(&w, "other");
	CHECK(ir_body_equal(m, b, d), "names and places");
	d->ops[2].attrs[2].i++;
	CHECK(!ir_body_equal(m, b, d), "attributes");
	d->ops[2].attrs[2].i--;
	d->vals[4].type.dt = DT_f64;
	CHECK(!ir_body_equal(m, b, d), "types");
	CHECK(!ir_body_equal(m, b, &m->bodies[3]), "other bodies");
	fclose(w.out);
	arena_free(w.arena);
}

/* ---- plans ---- */

/* Reads a plan for the module; `want` is in what is said, or NULL for a plan that is taken. */
static void
plan(const char *text, const char *want)
{
	World w = world_new();
	Module *m = build_graph(&w);
	bool ok = plan_parse(m, w.diag, nm(&w, "t.plan"), text, strlen(text));
	Buf first, second;
	const char *s = said(&w);

	CHECK(ok == !want, "%s:\n%s", text, s);
	CHECK(!want || strstr(s, want), "'%s' is not in\n%s", want, s);
	CHECK(ok || m->plan.nmeshes == 0, "a bad plan was taken: %s", text);
	if (ok) {
		buf_init(&first, w.arena);
		buf_init(&second, w.arena);
		plan_print(m, &first);
		CHECK(plan_parse(m, w.diag, nm(&w, "u.plan"), first.s, first.n), "%s", first.s);
		plan_print(m, &second);
		CHECK(same_text(&first, &second), "%s%s", first.s, second.s);
	}
	fclose(w.out);
	arena_free(w.arena);
}

static void
test_plans(void)
{
	plan("plan 1\nranks 1\nlayers 0-1 mesh m0\n", NULL);
	plan("plan 1\nmodel m source \"m.gdl\" hash 0x1f2e3d4c5b6a7988\n"
	     "ranks 4 schedule gpipe microbatches 2 threads all # a comment\n"
	     "mesh a = dp:2 tp:2\n\nstage 0 layers 0 ranks 0-3\n",
	     "layers 0-1 are left out");
	plan("plan 1\nranks 8\nmesh a = tp.0:2 tp.1:2\nstage 0 ranks 0-3 layers 0\nstage 1 "
	     "layers 1 ranks 4-7\n"
	     "layers 0-1 embedding output mesh a recompute full\n",
	     NULL);
	plan("plan 1\nmodel other\nranks 1\nlayers 0-1 mesh m0\n",
	     "for the model 'other', not for 'm'");
	plan("plan 1\nranks 1\nlayers 0 mesh m0\nlayers 0-1 mesh m0\n", "layer 0 comes twice");
	plan("plan 1\nranks 1\nlayers 0-2 mesh m0\n", "there are only 0-1");
	plan("plan 1\nranks 1\nlayers 1 mesh m0\n", "layer 0 is left out");
	plan("plan 1\nranks 4\nmesh a = dp:3\nlayers 0-1 mesh a\n",
	     "multiply to 3, but stage 0 has 4 ranks");
	plan("plan 1\nranks 1 microbatches 3\nlayers 0-1 mesh m0\n",
	     "a batch of 8 is not divisible by 3");
	plan("plan 1\nranks 16\nmesh a = dp:16\nlayers 0-1 mesh a\n",
	     "splits a microbatch of 8 samples over dp = 16");
	plan("plan 1\nranks 1 gpus 4\nlayers 0-1 mesh m0\n",
	     "unknown key 'gpus'; known are threads, microbatches, schedule, forward");
	plan("plan 1\nranks 1\nlayers 0-1 mesh m0 sp 3\n",
	     "unknown key 'sp'; known are mesh, zero, recompute");
	plan("plan 1\nranks 1\nlayers 0-1 embedding mesh m0\n",
	     "are embedding output, not embedding");
	plan("plan 1\nranks 1\nlayers 0-1 mesh m1\n", "no mesh 'm1'");
	plan("plan 1\nranks 1\nlayers 0-1\n", "need a mesh");
	plan("plan 1\nranks 1\nlayers 1-0 mesh m0\n", "ends before it begins");
	plan("plan 1\nranks 2\nmesh a = dp:2 dp:1\nlayers 0-1 mesh a\n",
	     "occurs twice; number them: dp.0, dp.1");
	plan("plan 1\nranks 2\nmesh a = xp:2\nlayers 0-1 mesh a\n",
	     "unknown mesh axis 'xp'; known are dp, tp, cp, sp, ep");
	plan("plan 1\nmesh a = dp:2\nranks 2\nlayers 0-1 mesh a\n",
	     "begins with its 'ranks' line");
	plan("plan 1\nranks 2\nstage 1 layers 0-1 ranks 0-1\n",
	     "stages come in order: this is stage 0, not 1");
	plan("plan 1\nranks 2\nmesh a = dp:2\nstage 0 layers 0 ranks 0-1\nstage 1 layers 1 "
	     "ranks 3-4\nlayers 0-1 mesh a\n",
	     "rank 2 is left out");
	plan("plan 1\nranks 1 microbatches 2\nstage 0 layers 0-1 ranks 0 slots 3\nlayers 0-1 "
	     "mesh m0\n",
	     "3 slots, but only 2 microbatches");
	plan("plan 1\nranks 1 threads 0\nlayers 0-1 mesh m0\n", "threads");
	plan("plan 1\nranks 1\nlayers 0-1 mesh m0 zero 4\n", "zero is 4");
	plan("plan 1\nranks 1\nlayers 0-1 mesh m0 recompute some\n",
	     "known are none, selective, full");
	plan("plan 1\nranks 4\nmesh a = tp:2\nstage 0 layers 0\nstage 1 layers 1\n"
	     "layers 0-1 mesh a megatron_sp\n",
	     NULL);
	plan("plan 1\nranks 5\nmesh a = dp:2\nstage 0 layers 0\nstage 1 layers 1\n"
	     "layers 0-1 mesh a\n",
	     "5 ranks have no equal shares in 2 stages; give each stage its 'ranks', or plan "
	     "for "
	     "4 or 6");
	plan("plan 1\nranks 4\nmesh a = dp:2\nstage 0 layers 0 ranks 0-1\nstage 1 layers 1\n"
	     "layers 0-1 mesh a\n",
	     "stage 1 has no ranks, but other stages have");
	plan("plan 1\nranks 12\nmesh a = dp:4 tp:2\nlayers 0-1 mesh a\n",
	     "note: dp:6 or tp:3 would make 12");
	plan("plan 1\nranks 7\nmesh a = dp:4 tp:2\nlayers 0-1 mesh a\n",
	     "note: no one degree can be changed to make 7 of it");
	plan("plan 1\nranks 2\nlayers 0-1 mesh m0\n", "2 ranks take one like 'mesh m1 = dp:2'");
	plan("plan 1\nranks 5\nmesh a = dp:4\nstage 0 layers 0-1 ranks 0-3\n"
	     "layers 0-1 mesh a\n",
	     "rank 4 is left out: there are 5");
	plan(
	    "plan 1\nranks 5\nmesh a = dp:4\nstage 0 layers 0-1 ranks 0-3\n"
	    "layers 0-1 mesh a\n",
	    "the stages have 4 ranks together; 'ranks 4' would fit, or more ranks for a stage");
	plan("plan 1\nranks 2\nmesh a = dp:2\nlayers 0-1 mesh a megatron_sp\n",
	     "megatron_sp splits over tp, but mesh 'a' has none");
	plan("plan 1\nranks 2\nmesh a = tp:2\nlayers 0-1 mesh a zero 1\n",
	     "zero 1 splits over dp, but mesh 'a' has none; say zero 0");
	plan("plan 1\nranks 1 microbatches 5\nlayers 0-1 mesh m0\n", "; by 4 or 8 it is");
	plan("plan 1\n", "no 'ranks' line");
	plan("plan 2\n", "the version is 2, not 1");
	plan("plan 1\nspeed 3\n", "unknown key 'speed'; known are ranks, mesh, stage, layers, "
				  "nodes, model, predicted");
}

/* ---- the verifier, on what text cannot say ---- */

static void
verify(Level level, Change *apply, const char *want)
{
	World w = world_new();
	Module *m = build(&w, level);
	const char *s;
	bool ok;

	apply(m);
	ok = ir_verify(m, w.diag, "pass");
	s = said(&w);
	CHECK(!ok && strstr(s, want), "'%s' is not in\n%s", want, s);
	CHECK(!strncmp(s, "error: pass: ", 13) || strstr(s, ": error: pass: "), "%s", s);
	fclose(w.out);
	arena_free(w.arena);
}

/* clang-format off */
static void bad_use_before_def(Module *m) { Op *o = m->bodies[2].ops, x = o[0]; o[0] = o[1]; o[1] = x; }
static void bad_def(Module *m) { m->bodies[2].vals[4].def = 3; }
static void bad_operand(Module *m) { m->bodies[2].ops[0].in[0].i = 999; }
static void bad_name(Module *m) { m->bodies[2].vals[4].name = m->bodies[2].vals[5].name; }
static void bad_code(Module *m) { m->bodies[2].ops[0].code = OP_COUNT; }
static void bad_nattr(Module *m) { m->bodies[2].ops[2].nattr = 1; }
static void bad_attr_axis(Module *m) { m->bodies[2].ops[0].attrs[0].axes.a[0].i = 77; }
static void bad_nout(Module *m) { m->bodies[2].ops[0].nout = 2; }
static void bad_type(Module *m) { m->bodies[2].vals[4].type.ax[1] = m->bodies[2].vals[4].type.ax[0]; }
static void bad_shard(Module *m) { m->bodies[2].vals[4].type.ax[1].nshard = 1; }
static void bad_out(Module *m) { m->bodies[2].ports[3].v.i = 0; }
static void bad_port(Module *m) { m->bodies[2].ports[1].kind = PORT_saved; }
static void bad_mesh(Module *m) { m->bodies[2].mesh = 1; }
static void bad_body(Module *m) { m->types[1].body[BK_F] = 77; }
static void bad_no_f(Module *m) { m->types[1].body[BK_F] = 0; }
static void bad_inst_type(Module *m) { m->insts[1].type = 2; }
static void bad_ref(Module *m) { m->insts[0].args[0] = (Ref){REF_result, 0, 0}; }
static void bad_param(Module *m) { m->insts[1].params[0] = 3; }
static void bad_owner(Module *m) { m->params[0].owner = 1; }
static void bad_rate(Module *m) { m->insts[0].rates[0] = 1; }
static void bad_const_body(Module *m) { m->const_body = 0; }
static void bad_axis(Module *m) { m->axes[2].extent = 0; }
static void bad_plan(Module *m) { m->plan.runs[1].first = 0; }
static void bad_degree(Module *m) { m->plan.meshes[2].ax[0].degree = 3; }
/* clang-format on */

static void
test_verify(void)
{
	verify(LV_graph, bad_use_before_def, "is not defined above");
	verify(LV_graph, bad_def, "which says it is defined elsewhere");
	verify(LV_graph, bad_operand, "value 999) is not defined above");
	verify(LV_graph, bad_name, "has the name of another");
	verify(LV_graph, bad_code, "is of no kind");
	verify(LV_graph, bad_nattr, "has no attribute 'rate' in its place");
	verify(LV_graph, bad_attr_axis, "the value of attribute 'axes' is out of range");
	verify(LV_graph, bad_nout, "2 results; it takes 2 to 5 and makes 1");
	verify(LV_graph, bad_type, "occurs twice");
	verify(LV_graph, bad_shard, "is split 1 times at level graph");
	verify(LV_graph, bad_out, "port 3 is of kind 11 with value 0");
	verify(LV_graph, bad_port, "a port 'saved' in a body of kind F");
	verify(LV_graph, bad_mesh, "is of kind 0 on mesh 1");
	verify(LV_graph, bad_body, "its body F is 77 of 4");
	verify(LV_graph, bad_no_f, "has no forward body");
	verify(LV_graph, bad_inst_type, "layer type 2 of 2");
	verify(LV_graph, bad_ref, "refers to 0.0, which is not a result before it");
	verify(LV_graph, bad_param, "parameter 3 of 3");
	verify(LV_graph, bad_owner,
	       "belongs to instance 1, but instance 0 is the first that uses it");
	verify(LV_graph, bad_rate, "rate 0 is 1; rates are in [0, 1)");
	verify(LV_graph, bad_const_body, "but so does body 0");
	verify(LV_graph, bad_axis, "has extent 0");
	verify(LV_plan, bad_plan, "layer 0 comes twice");
	verify(LV_plan, bad_degree, "must be mb of degree 4");
}

int
main(void)
{
	test_levels();
	test_changes();
	test_structure();
	test_plans();
	test_verify();
	return checked("text");
}
