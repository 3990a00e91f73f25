/*
 * measure.c - which programs gvprof has to run: few plans that have among them all kernels that any plan has.
 *
 * A candidate is a plan of one mesh and one strategy, or one whose layers take turns in what they recompute and which ZeRO level they
 * have; the layers of a real plan are those of candidates, so its kernels are too. Each is lowered and laid out, and the keys of its kernels are read off; then the plan with most keys that nobody has yet is
 * taken, until none is left. What differs only in how often a kernel runs costs nothing.
 */
#include <inttypes.h>
#include <string.h>

#include "passes/measure.h"
#include "passes/search.h"

enum { MIXES = RC_full + 1 }; /* layers of a class that differ in how much is recomputed */

Module *
measure_short(Ctx *c, Module *m)
{
	Classes classes;
	uint32_t *at = NEW_N(c->perm, uint32_t, m->ninsts);
	search_classes(m, c->perm, &classes);
	return search_short(m, &classes, c->perm, at, MIXES);
}

typedef struct Keys { /* of all candidates */
	KernelKey *key;
	bool *have; /* [n] measured, or taken */
	uint32_t n, ckey, chave;
} Keys;

typedef struct Try { /* a candidate */
	Plan plan;
	uint32_t *key; /* [nkeys] */
	uint32_t nkeys, ckeys;
} Try;

typedef struct Cover {
	Ctx *c;
	const Module *m;
	Arena *a;
	Keys keys;
	Try *t;
	uint32_t nt, ct;
} Cover;

static bool
same_key(const KernelKey *x, const KernelKey *y)
{
	return x->family == y->family && x->n == y->n &&
	       memcmp(x->extent, y->extent, x->n * sizeof *x->extent) == 0;
}

static uint32_t
key_number(Cover *x, const KernelKey *k)
{
	uint32_t i = 0;
	while (i < x->keys.n && !same_key(&x->keys.key[i], k))
		i++;
	if (i < x->keys.n) return i;
	bool have = x->c->profile && profile_find(x->c->profile, k);
	uint32_t n = x->keys.n;
	PUSH(x->a, x->keys.have, n, x->keys.chave, have);
	PUSH(x->a, x->keys.key, x->keys.n, x->keys.ckey, *k);
	return i;
}

static void
add_key(Cover *x, Try *t, const KernelKey *k)
{
	uint32_t n = key_number(x, k);
	for (uint32_t i = 0; i < t->nkeys; i++)
		if (t->key[i] == n) return;
	PUSH(x->a, t->key, t->nkeys, t->ckeys, n);
}

static void
read_keys(Cover *x, const Module *m, Try *t)
{
	for (uint32_t i = 0; i < m->ninsts; i++)
		for (int k = 0; k < BK_COUNT; k++) {
			const LayerType *l = &m->types[m->insts[i].type];
			const Body *b = &m->bodies[l->body[k]];
			KernelKey key;
			if (!l->body[k] || l->reshard) continue;
			for (uint32_t op = 0, end; op < b->nops; op = end) {
				end = op + 1;
				if (op_info[b->ops[op].code].flags & OF_COMM) continue;
				if (profile_key(m, b, op, &end, &key)) add_key(x, t, &key);
			}
		}
}

/* Adds the kernels of a plan, if it lowers and fits. */
static void
try_plan(Cover *x, const Plan *p)
{
	Arena *a = arena_new();
	Search s = {.c = x->c, .m = x->m, .ranks = p->ranks};
	const char *why;
	Module *m = search_lower(&s, p, a, &why);
	if (m && (x->c->memory_bytes <= 0 || layout_arena(m) <= x->c->memory_bytes)) {
		Try t = {.plan = *p};
		read_keys(x, m, &t);
		PUSH(x->a, x->t, x->nt, x->ct, t);
	}
	arena_free(a);
}

/* ---- the candidates ---- */

/* `stages` stages of equal ranks and about as many layers. */
static Plan
plan_of(const Cover *x, uint32_t stages, const Candidate *k, uint32_t mb)
{
	Search s = {.c = x->c, .m = x->m};
	Mesh mesh;
	Strategy run = {.recompute = k->rc, .megatron_sp = k->sp, .zero = k->zero};
	search_mesh(k, mb, &mesh);
	Plan p = search_uniform(&s, x->a, mb, &mesh, &run);
	uint32_t per = p.ranks, n = x->m->ninsts;
	p.ranks = per * stages;
	p.nstages = stages;
	p.stages = NEW_N(x->a, Stage, stages);
	for (uint32_t i = 0; i < stages; i++) {
		uint32_t first = (uint32_t)((uint64_t)n * i / stages);
		p.stages[i] =
		    (Stage){.first = first,
			    .count = (uint32_t)((uint64_t)n * (i + 1) / stages) - first,
			    .rank = per * i,
			    .ranks = per,
			    .slots = search_slots(p.schedule, stages, i, mb)};
	}
	return p;
}

/* Layers of a class take turns in recomputation and ZeRO, from `turn` on. */
static void
mix(const Cover *x, Plan *p, uint32_t turn, bool zero)
{
	Strategy one = p->runs[0];
	const Module *m = x->m;
	p->runs = NEW_N(x->a, Strategy, m->ninsts);
	p->nruns = m->ninsts;
	for (uint32_t i = 0, n = 0; i < m->ninsts; i++) {
		n = i && m->insts[i - 1].type == m->insts[i].type ? n + 1 : turn;
		p->runs[i] = one;
		p->runs[i].first = i;
		p->runs[i].count = 1;
		p->runs[i].recompute = (Recompute)(n % MIXES);
		p->runs[i].zero = zero ? (uint8_t)(n % 2) : 0;
	}
}

static void
try_mixed(Cover *x, uint32_t stages, uint32_t dp, uint32_t tp, uint32_t mb)
{
	for (uint8_t sp = 0; sp < (tp > 1 ? 2 : 1); sp++)
		for (uint32_t turn = 0; turn < MIXES; turn++) {
			Plan p =
			    plan_of(x, stages, &(Candidate){.dp = dp, .tp = tp, .sp = sp}, mb);
			mix(x, &p, turn, dp > 1);
			try_plan(x, &p);
		}
}

static void
try_strategies(Cover *x, uint32_t stages, uint32_t dp, uint32_t tp, uint32_t mb)
{
	uint8_t zeros = dp > 1 ? 4 : 1, sps = tp > 1 ? 2 : 1;
	for (int rc = RC_none; rc <= RC_full; rc++)
		for (uint8_t sp = 0; sp < sps; sp++)
			for (uint8_t zero = 0; zero < zeros; zero++) {
				Candidate k = {.dp = dp,
					       .tp = tp,
					       .sp = sp,
					       .zero = zero,
					       .rc = (Recompute)rc};
				Plan p = plan_of(x, stages, &k, mb);
				if (x->c->recompute_given && x->c->recompute != k.rc) continue;
				try_plan(x, &p);
			}
}

static void
try_all(Cover *x)
{
	uint32_t ranks = x->c->ranks ? x->c->ranks : 1;
	int64_t batch = x->m->batch.i ? ir_extent(x->m, x->m->batch) : 1;
	for (uint32_t stages = 1; stages <= ranks && stages <= x->m->ninsts; stages++) {
		if (ranks % stages) continue;
		for (uint32_t tp = 1; tp <= ranks / stages; tp++) {
			uint32_t dp = ranks / stages / tp;
			if (ranks / stages % tp || (x->c->max_tp && tp > x->c->max_tp))
				continue;
			for (int64_t mb = 1; mb <= batch; mb++)
				if (batch % mb == 0 && batch / mb % dp == 0 &&
				    (!x->c->microbatches || mb == x->c->microbatches)) {
					if (!x->c->recompute_given)
						try_mixed(x, stages, dp, tp, (uint32_t)mb);
					try_strategies(x, stages, dp, tp, (uint32_t)mb);
				}
		}
	}
}

/* ---- the choice ---- */

static uint32_t
gain(const Cover *x, const Try *t)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < t->nkeys; i++)
		n += !x->keys.have[t->key[i]];
	return n;
}

static void
print_plan(const Cover *x, const Plan *p, Buf *out)
{
	Module *m = ir_clone(x->m, x->a);
	m->plan = *p;
	plan_print(m, out);
}

static void
print_cover(Cover *x, Buf *out)
{
	for (uint32_t number = 0;; number++) {
		uint32_t best = 0, most = 0;
		for (uint32_t i = 0; i < x->nt; i++)
			if (gain(x, &x->t[i]) > most) best = i, most = gain(x, &x->t[i]);
		if (!most) return;
		buf_printf(out, "program %" PRIu32 " kernels %" PRIu32 "\n", number, most);
		print_plan(x, &x->t[best].plan, out);
		buf_puts(out, "end\n");
		for (uint32_t i = 0; i < x->t[best].nkeys; i++)
			x->keys.have[x->t[best].key[i]] = true;
	}
}

bool
measure_print(Ctx *c, const Module *m, Buf *out)
{
	Cover x = {.c = c, .m = m, .a = arena_new()};
	uint32_t missing = 0;
	if (m->level >= LV_plan)
		try_plan(&x, &m->plan);
	else
		try_all(&x);
	if (!x.nt)
		diag_error(c->diag, (Loc){0}, "no plan for %" PRIu32 " rank%s lowers and fits",
			   c->ranks ? c->ranks : 1, c->ranks > 1 ? "s" : "");
	for (uint32_t i = 0; i < x.keys.n; i++)
		missing += !x.keys.have[i];
	buf_printf(out, "kernels %" PRIu32 " missing %" PRIu32 "\n", x.keys.n, missing);
	print_cover(&x, out);
	bool any = x.nt > 0;
	arena_free(x.a);
	return any;
}
