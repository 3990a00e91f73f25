/*
 * mem.c - properties of lowering and of the memory plan, over models, microbatches and kinds of
 * recomputation:
 *
 *   no two buffers that are alive at one time overlap: in a body's scratch, and in the arena
 *   over the whole step the arena is at most 1.02 x the most bytes alive (models at shapes
 *   where tensors are not dust) the action table does not grow with layers or microbatches
 *   what level mem computes, at its planned bytes, is what level train computes: loss and every
 *   gradient, in double
 */
#include "frontend/frontend.h"
#include "passes/passes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int checks;

static void GV_PRINTF(2, 3) check(bool ok, const char *fmt, ...)
{
	va_list ap;
	checks++;
	if (ok) return;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

enum { MAX_SET = 12 };

typedef struct Case {
	const char *path;
	const char *set[MAX_SET];
	uint32_t mb;
	Recompute rc;
} Case;

/* ---- compiling ---- */

typedef struct Job {
	Ctx c;
	Module *train, *mem;
} Job;

static Job
compile(const Case *k)
{
	Job j = {{.perm = arena_new(), .tmp = arena_new()}, NULL, NULL};
	FeOptions fe = {.path = k->path, .set = k->set, .host = true};
	PassOptions train = {.verify = true, .stop_after = "optimizer"},
		    all = {.verify = true, .roundtrip = true};
	while (fe.nset < MAX_SET && k->set[fe.nset])
		fe.nset++;
	j.c.names = names_new(j.c.perm);
	j.c.diag = diag_new(j.c.perm, j.c.names, stderr);
	j.c.microbatches = k->mb;
	j.c.recompute = k->rc;
	j.c.recompute_given = true;
	j.c.memory_bytes = INT64_MAX;
	j.mem = fe_load(&j.c, &fe);
	check(j.mem && pass_run_all(&j.c, &j.mem, &train), "%s does not reach level train",
	      k->path);
	j.train = ir_clone(j.mem, j.c.perm);
	check(pass_run_all(&j.c, &j.mem, &all), "%s does not reach level mem", k->path);
	return j;
}

static void
drop(Job *j)
{
	arena_free(j->c.tmp);
	arena_free(j->c.perm);
}

/* ---- bytes at one time ---- */

typedef struct Span {
	int64_t at, end;
	const char *what;
	uint32_t i;
} Span;

typedef struct Bytes {
	const Module *m;
	Span s[4096];
	uint32_t n;
} Bytes;

static void
add(Bytes *b, const char *what, uint32_t i, int64_t at, int64_t bytes)
{
	if (bytes > 0 && b->n < COUNTOF(b->s)) b->s[b->n++] = (Span){at, at + bytes, what, i};
}

static void
disjoint(const Bytes *b, const char *when)
{
	for (uint32_t i = 0; i < b->n; i++)
		for (uint32_t j = 0; j < i; j++)
			check(b->s[i].end <= b->s[j].at || b->s[j].end <= b->s[i].at,
			      "%s: %s %u and %s %u overlap", when, b->s[i].what, b->s[i].i,
			      b->s[j].what, b->s[j].i);
}

static int64_t
port_bytes(const Module *m, uint32_t inst, BodyKind bk, PortKind kind, uint16_t slot)
{
	uint32_t body = m->types[m->insts[inst].type].body[bk];
	const Port *p = body ? ir_find_port(&m->bodies[body], kind, slot) : NULL;
	return p ? type_bytes(m, ir_mesh(m, &m->bodies[body]), val_type(&m->bodies[body], p->v))
		 : 0;
}

/* Sections that live as long as the program, and every instance's frame between its F and
 * its last body. */
static void
add_lasting(Bytes *b, const bool *frame)
{
	const Module *m = b->m;
	const Memory *x = &m->mem[0];
	const int64_t at[] = {x->sec[SEC_param], x->sec[SEC_grad], x->sec[SEC_m],
			      x->sec[SEC_v]};
	b->n = 0;
	for (uint32_t k = 0; k < COUNTOF(at); k++)
		if (at[k] >= 0) add(b, "state", k, at[k], x->sec_bytes[SEC_param]);
	for (uint32_t i = 0; i < m->nconsts; i++)
		add(b, "const", i, x->consts + x->const_at[i],
		    type_bytes(m, NULL, &m->consts[i]));
	for (uint32_t i = 0; i < m->ninputs; i++)
		add(b, "input", i, x->slots + x->input_at[i],
		    type_bytes(m, NULL, &m->inputs[i].type) / m->plan.microbatches);
	for (uint32_t i = 0; i < m->ninsts; i++)
		if (frame[i])
			add(b, "frame", i, x->slots + x->slot_at[i],
			    m->types[m->insts[i].type].slot_frame);
}

/* The cotangents alive, the scratch and the carries of the running body. */
static void
add_running(Bytes *b, uint32_t inst, BodyKind bk, const bool *cot)
{
	const Module *m = b->m;
	const LayerType *t = &m->types[m->insts[inst].type];
	add(b, "scratch", inst, m->mem[0].scratch, m->bodies[t->body[bk]].scratch_bytes);
	for (uint32_t i = 0; i < m->ninsts; i++)
		for (uint16_t r = 0; r < m->types[m->insts[i].type].nouts; r++) {
			const Cot *x = &m->mem[0].cot[m->mem[0].cot_of[i] + r];
			if (cot[m->mem[0].cot_of[i] + r])
				add(b, "cot", i, m->mem[0].cots + x->at + (i & 1 ? x->alt : 0),
				    port_bytes(m, i, BK_F, PORT_out, r));
		}
	for (uint32_t i = 0; (bk == BK_B || bk == BK_W) && i < t->ncarry; i++)
		if (t->carry_at[i] >= 0)
			add(b, "carry", i, m->mem[0].carry + t->carry_at[i],
			    type_bytes(m, ir_mesh(m, &m->bodies[t->body[bk]]), &t->carry[i]));
}

static void
mark_cots(const Module *m, uint32_t inst, BodyKind bk, bool *cot)
{
	const LayerType *t = &m->types[m->insts[inst].type];
	for (uint16_t r = 0; r < t->nouts; r++)
		if (port_bytes(m, inst, bk, PORT_cot, r))
			cot[m->mem[0].cot_of[inst] + r] = true;
	for (uint16_t a = 0; a < t->nargs; a++) {
		Ref ref = m->insts[inst].args[a];
		if (ref.kind == REF_result && port_bytes(m, inst, bk, PORT_dx, a))
			cot[m->mem[0].cot_of[ref.i] + ref.result] = true;
	}
}

/* One body in the order of the table. */
static void
step(Bytes *b, uint32_t inst, BodyKind bk, bool *frame, bool *cot)
{
	const Module *m = b->m;
	const LayerType *t = &m->types[m->insts[inst].type];
	char when[80];
	snprintf(when, sizeof when, "%s of %u", body_str[bk], inst);
	if (bk == BK_F) frame[inst] = true;
	if (bk == BK_B || bk == BK_W) mark_cots(m, inst, bk, cot);
	add_lasting(b, frame);
	add_running(b, inst, bk, cot);
	for (uint32_t i = 0; i < b->n; i++)
		check(b->s[i].at >= 0 && b->s[i].end <= m->mem[0].arena_bytes,
		      "%s: %s %u lies outside the arena", when, b->s[i].what, b->s[i].i);
	disjoint(b, when);
	if (bk == BK_W || (bk == BK_B && !t->body[BK_W])) {
		frame[inst] = false;
		for (uint16_t r = 0; r < t->nouts; r++)
			cot[m->mem[0].cot_of[inst] + r] = false;
	}
}

static void
check_step(const Module *m)
{
	Bytes *b = calloc(1, sizeof *b);
	bool *frame = calloc(m->ninsts + 1, 1), *cot = calloc(m->mem[0].ncot + 1, 1);
	const Action *a = m->actions + m->plan.stages[0].action;
	b->m = m;
	for (uint32_t i = 0; i < m->plan.stages[0].nactions; i++) {
		if (a[i].kind == ACT_body) step(b, a[i].inst, a[i].bk, frame, cot);
		if (a[i].kind != ACT_layers) continue;
		uint32_t end = i;
		while (a[end].kind != ACT_end)
			end++;
		for (uint32_t turn = 0; turn < a[i].count; turn++)
			for (uint32_t j = i + 1; j < end; j++)
				step(b,
				     (uint32_t)((int64_t)a[j].inst +
						(int64_t)turn * a[j].stride),
				     a[j].bk, frame, cot);
		i = end;
	}
	free(b);
	free(frame);
	free(cot);
}

/* ---- a body's scratch: alive from the kernel that writes it to the last that reads it,
 * views and take-overs followed ---- */

static uint32_t
owner_of(const Module *m, const Body *b, Val v)
{
	Access a;
	while (b->vals[v.i].space == SP_alias && ir_access(m, b, v, &a) && a.base.i != v.i)
		v = a.base;
	while (b->vals[v.i].over.i) {
		v = b->vals[v.i].over;
		while (b->vals[v.i].space == SP_alias && ir_access(m, b, v, &a) &&
		       a.base.i != v.i)
			v = a.base;
	}
	return v.i;
}

static void
check_body(const Module *m, const Body *b)
{
	uint32_t *first = calloc(b->nvals + 1, sizeof *first),
		 *last = calloc(b->nvals + 1, sizeof *last);
	uint32_t *step_of = calloc(b->nops + 1, sizeof *step_of), n = 1;
	for (uint32_t i = 0; i < b->nops; i++) {
		n += i && !(b->ops[i].kernel && b->ops[i].kernel == b->ops[i - 1].kernel);
		step_of[i] = n;
	}
	for (uint32_t i = 0; i < b->nops; i++) {
		for (int k = 0; k < b->ops[i].nin; k++)
			last[owner_of(m, b, b->ops[i].in[k])] = step_of[i];
		for (int k = 0; k < b->ops[i].nout; k++) {
			uint32_t v = b->ops[i].out[k].i, o = v ? owner_of(m, b, (Val){v}) : 0;
			if (!v || b->vals[v].space != SP_scratch) continue;
			if (!first[o]) first[o] = step_of[i];
			if (last[o] < step_of[i]) last[o] = step_of[i];
		}
	}
	for (uint32_t i = 1; i < b->nvals; i++) {
		const ValDef *x = &b->vals[i];
		if (x->space != SP_scratch || !first[i]) continue;
		int64_t xe = x->offset + type_bytes(m, ir_mesh(m, b), &x->type);
		check(x->offset % 64 == 0 && xe <= b->scratch_bytes, "%s lies outside scratch",
		      val_str(m, b, (Val){i}));
		for (uint32_t j = 1; j < i; j++) {
			const ValDef *y = &b->vals[j];
			if (y->space != SP_scratch || !first[j] || last[i] < first[j] ||
			    last[j] < first[i])
				continue;
			int64_t ye = y->offset + type_bytes(m, ir_mesh(m, b), &y->type);
			check(xe <= y->offset || ye <= x->offset,
			      "%s of %s: %%%s and %%%s overlap", body_str[b->kind],
			      name_str(m->names, b->name), val_str(m, b, (Val){i}),
			      val_str(m, b, (Val){j}));
		}
	}
	free(first);
	free(last);
	free(step_of);
}

/* ---- values ---- */

static double
random_at(uint64_t key, uint64_t i)
{
	return rng_uniform(key, i);
}

static Eval *
evaluate(const Module *m, Diag *d, double *loss)
{
	EvalOptions o = {.f64 = true, .seed = 7, .train = true, .ranks = 1};
	Eval *e = eval_new(m, &o, d);
	check(e, "no interpreter");
	for (uint32_t i = 0; i < m->ninputs; i++) {
		const Input *in = &m->inputs[i];
		int64_t n = type_count(m, NULL, &in->type);
		double *x = calloc((size_t)n, sizeof *x),
		       range = in->range.i ? (double)ir_extent(m, in->range) : 2;
		for (int64_t k = 0; k < n; k++) {
			x[k] =
			    random_at(rng_key(1, name_str(m->names, in->name)), (uint64_t)k) *
			    range;
			if (in->type.dt == DT_i32 || in->type.dt == DT_bool) x[k] = floor(x[k]);
		}
		check(eval_set(e, name_str(m->names, in->name), x, (size_t)n), "input %s",
		      name_str(m->names, in->name));
		free(x);
	}
	check(eval_run(e, loss), "the interpreter gave up");
	return e;
}

static void
check_values(Job *j, const Case *k)
{
	double want, have;
	Eval *a = evaluate(j->train, j->c.diag, &want), *b = evaluate(j->mem, j->c.diag, &have);
	check(fabs(want - have) <= 1e-12 * fabs(want), "%s mb %u rc %d: loss %.17g, not %.17g",
	      k->path, k->mb, (int)k->rc, have, want);
	for (uint32_t p = 0; p < j->train->nparams; p++) {
		char name[512];
		const double *x, *y;
		double d = 0, n = 0;
		snprintf(name, sizeof name, "grad:%s",
			 name_str(j->c.names, j->train->params[p].name));
		size_t nx = eval_get(a, name, &x), ny = eval_get(b, name, &y);
		check(nx == ny && nx > 0, "%s: %zu and %zu entries", name, nx, ny);
		for (size_t i = 0; i < nx; i++)
			d += (x[i] - y[i]) * (x[i] - y[i]), n += x[i] * x[i];
		check(sqrt(d) <= 1e-12 * (sqrt(n) + 1e-6),
		      "%s mb %u rc %d: %s differs by %g of %g", k->path, k->mb, (int)k->rc,
		      name, sqrt(d), sqrt(n));
	}
	eval_free(a);
	eval_free(b);
}

/* ---- all of it ---- */

static void
run(const Case *k, bool values, bool tight)
{
	Job j = compile(k);
	const Module *m = j.mem;
	for (uint32_t b = 1; b < m->nbodies; b++)
		check_body(m, &m->bodies[b]);
	check_step(m);
	double ratio = (double)m->mem[0].arena_bytes / (double)m->mem[0].live_bytes;
	check(ratio >= 1 && (!tight || ratio <= 1.02),
	      "%s mb %u rc %d: arena %.4f x what is alive", k->path, k->mb, (int)k->rc, ratio);
	if (values) check_values(&j, k);
	drop(&j);
}

static uint32_t
actions_with(const char *layers, uint32_t mb)
{
	Case k = {"models/gpt2.gdl", {"batch=8", "seq=16", layers}, mb, RC_none};
	Job j = compile(&k);
	uint32_t n = j.mem->nactions;
	drop(&j);
	return n;
}

int
main(void)
{
	static const char *const tiny[] = {"tests/models/gpt.gdl", "tests/models/llama.gdl"};
	static const char *const shipped[] = {"models/gpt2.gdl", "models/llama3.gdl",
					      "models/demo.gdl"};
	static const uint32_t split[] = {1, 2, 4};
	/* every shipped model in small; mb: up to how many microbatches it can be split */
	static const Case small[] = {
	    {"models/gpt2.gdl",
	     {"batch=4", "seq=5", "embed=12", "heads=3", "vocab=29", "layers=2"},
	     2,
	     RC_none},
	    {"models/bert.gdl",
	     {"batch=2", "seq=8", "vocab=31", "embed=12", "heads=3", "layers=2", "pick=3"},
	     1,
	     RC_none},
	    {"models/vit.gdl",
	     {"batch=2", "height=8", "width=8", "py=4", "px=4", "class=10", "embed=12",
	      "heads=3", "layers=2"},
	     2,
	     RC_none},
	    {"models/swin.gdl",
	     {"batch=2", "height=32", "width=32", "py=2", "px=2", "class=10", "c1=8", "n1=1",
	      "n2=2", "n3=2", "n4=4", "window_size=2"},
	     2,
	     RC_none},
	    {"models/mixtral.gdl",
	     {"batch=2", "seq=6", "vocab=23", "embed=16", "kv=2", "group=2", "head=4", "ffn=24",
	      "expert=4", "layers=2"},
	     1,
	     RC_none},
	    {"models/t5.gdl",
	     {"batch=2", "seq=6", "source=7", "vocab=23", "embed=12", "heads=3", "head=4",
	      "ffn=20", "bucket=8", "layers=2"},
	     1,
	     RC_none},
	};
	for (size_t i = 0; i < COUNTOF(tiny); i++)
		for (uint32_t mb = 1; mb <= 6; mb++)
			for (int rc = RC_none; rc <= RC_full && 6 % mb == 0; rc++)
				run(&(Case){tiny[i], {0}, mb, (Recompute)rc}, true, false);
	for (size_t i = 0; i < COUNTOF(small);
	     i++) /* with dropout, which draws the same again */
		for (uint32_t mb = 1; mb <= small[i].mb; mb++)
			for (int rc = RC_none; rc <= RC_full; rc++) {
				Case k = small[i];
				k.mb = mb, k.rc = (Recompute)rc;
				run(&k, true, false);
			}
	for (size_t i = 0; i < COUNTOF(shipped); i++)
		for (size_t n = 0; n < COUNTOF(split); n++)
			for (int rc = RC_none; rc <= RC_full; rc++)
				run(&(Case){shipped[i], {"batch=8"}, split[n], (Recompute)rc},
				    false, true);
	check(actions_with("layers=2", 1) == actions_with("layers=48", 8),
	      "the action table grows");
	printf("mem: %d checks ok\n", checks);
	return 0;
}
