/*
 * eval_program.c - what the virtual ranks do: a stage's action table spelled out, and programs for levels that have none.
 *
 * Above level sched a rank does what a simple schedule would say: one microbatch after the other where there is one
 * stage, else all forward and then all backward. Every communication is waited for at once, but that all stages which
 * send to others begin what they send before they wait. All ranks of a stage have one program.
 */
#include "ir/eval.h"

/* ---- spelling out ---- */

typedef struct Expansion {
	Arena *arena;
	const Action *a;
	uint32_t n;
	Step *s;
	uint32_t ns, cs;
} Expansion;

/* Actions from `at` to the end of the loop they are in; returns the one after. */
static uint32_t
spell(Expansion *x, uint32_t at, uint32_t mb, uint32_t turn)
{
	while (at < x->n && x->a[at].kind != ACT_end) {
		const Action *a = &x->a[at++];
		if (a->kind == ACT_mb || a->kind == ACT_layers) {
			uint32_t end = at;
			for (uint32_t t = 0; t < a->count; t++)
				end = a->kind == ACT_mb ? spell(x, at, t, turn)
							: spell(x, at, mb, t);
			for (uint32_t depth = 1; !a->count && depth && end < x->n; end++) {
				ActKind k = x->a[end].kind;
				depth += (k == ACT_mb || k == ACT_layers) - (k == ACT_end);
			}
			at = end;
			continue;
		}
		Step s = {.a = *a};
		s.a.mb += mb;
		s.a.inst = (uint32_t)((int64_t)s.a.inst + (int64_t)turn * s.a.stride);
		s.a.stride = 0;
		PUSH(x->arena, x->s, x->ns, x->cs, s);
	}
	return at + (at < x->n);
}

Steps
ir_expand(const Module *m, uint32_t stage, Arena *a)
{
	const Stage *s = &m->plan.stages[stage];
	Expansion x = {.arena = a, .a = m->actions + s->action, .n = s->nactions};

	spell(&x, 0, 0, 0);
	return (Steps){.s = x.s, .n = x.ns};
}

/* ---- a program of our own ---- */

typedef struct Own {
	Eval *e;
	const Module *m;
	uint32_t stage;
	Action *a;
	uint32_t n, cap;
} Own;

static void
act(Own *o, Action a)
{
	PUSH(o->e->arena, o->a, o->n, o->cap, a);
}

static void
act_body(Own *o, BodyKind bk, uint32_t inst, uint32_t mb)
{
	const Module *m = o->m;

	if (m->types[m->insts[inst].type].body[bk])
		act(o, (Action){.kind = ACT_body, .bk = bk, .inst = inst, .mb = mb});
}

static void
act_comm(Own *o, ActKind kind, CommKind comm, uint32_t i, uint32_t mb)
{
	act(o, (Action){.kind = kind, .comm = comm, .inst = i, .mb = mb});
}

/* Begun and waited for, if there is anything to do for this stage. */
static void
act_move(Own *o, CommKind comm, uint32_t i, uint32_t mb)
{
	Prim prim[MAX_PRIMS];

	if (!o->e->staged || !ir_prims(o->m, &o->e->comms, o->stage, comm, i, prim)) return;
	act_comm(o, ACT_start, comm, i, mb);
	act_comm(o, ACT_wait, comm, i, mb);
}

static bool
mine(const Own *o, uint32_t inst)
{
	return !o->e->staged || ir_stage_of(o->m, inst) == o->stage;
}

/* Does the argument of reshard instance i come from an instance of this stage? */
static bool
made_here(const Own *o, uint32_t i)
{
	const Ref *ref = o->m->insts[i].args;

	return ref->kind == REF_result && mine(o, ref->i);
}

/* Reshards between this stage and others: those it receives (forward: whose result is wanted here), or those it sends. */
static void
act_edges(Own *o, CommKind comm, bool sends, uint32_t mb)
{
	const Module *m = o->m;

	for (int wait = 0; wait < 2; wait++)
		for (uint32_t i = 0; i < m->ninsts; i++) {
			const LayerType *l = &m->types[m->insts[i].type];
			if (!l->reshard || mine(o, i) == made_here(o, i)) continue;
			if (comm == CK_bwd && !l->body[BK_B]) continue;
			if ((comm == CK_fwd ? made_here(o, i) : mine(o, i)) != sends) continue;
			if (!sends && !wait) act_move(o, comm, i, mb);
			if (sends) act_comm(o, wait ? ACT_wait : ACT_start, comm, i, mb);
		}
}

static void
forward(Own *o, uint32_t mb)
{
	const Module *m = o->m;

	act(o, (Action){.kind = ACT_input, .mb = mb});
	act_edges(o, CK_fwd, false, mb);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		if (!mine(o, i)) continue;
		if (!ir_is_reshard(m, i)) {
			if (o->e->flats[i].zero == 3) act_move(o, CK_param, i, mb);
			act_body(o, BK_F, i, mb);
		} else if (made_here(o, i)) {
			act_move(o, CK_fwd, i, mb);
		}
	}
	act_edges(o, CK_fwd, true, mb);
}

/* Gradients of copies of what instance `owner` owns go back to it. */
static void
act_returns(Own *o, uint32_t owner, uint32_t mb)
{
	const Module *m = o->m;

	for (uint32_t p = 0; p < m->nparams; p++)
		if (m->params[p].borrows && m->params[p].trained &&
		    m->params[m->params[p].borrows - 1].owner == owner)
			act_move(o, CK_return, p, mb);
}

/* A stage without the owner gives back when it is through; the owner takes when its own gradient is there. */
static void
backward(Own *o, uint32_t mb, bool last)
{
	const Module *m = o->m;

	act_edges(o, CK_bwd, false, mb);
	for (uint32_t i = m->ninsts; i-- > 0;) {
		const LayerType *l = &m->types[m->insts[i].type];
		if (!mine(o, i)) continue;
		if (l->reshard) {
			if (made_here(o, i) && l->body[BK_B]) act_move(o, CK_bwd, i, mb);
			continue;
		}
		if (o->e->flats[i].zero == 3 && (l->body[BK_B] || l->body[BK_W]))
			act_move(o, CK_param, i, mb);
		act_body(o, BK_B, i, mb);
		act_body(o, BK_W, i, mb);
		if (last) act_returns(o, i, mb);
		if (o->e->flats[i].zero >= 2) act_move(o, CK_grad, i, mb);
	}
	act_edges(o, CK_bwd, true, mb);
	for (uint32_t i = m->ninsts; last && i-- > 0;)
		if (!mine(o, i)) act_returns(o, i, mb);
}

static void
update(Own *o)
{
	const Module *m = o->m;

	for (uint32_t i = 0; i < m->ninsts; i++)
		if (mine(o, i) && o->e->flats[i].zero < 2) act_move(o, CK_grad, i, 0);
	for (uint32_t i = 0; i < m->ninsts; i++)
		if (mine(o, i)) act_body(o, BK_N, i, 0);
	act(o, (Action){.kind = ACT_norm});
	for (uint32_t i = 0; i < m->ninsts; i++)
		if (mine(o, i)) act_body(o, BK_U, i, 0);
	for (uint32_t i = 0; i < m->ninsts; i++)
		if (mine(o, i) && o->e->flats[i].zero && o->e->flats[i].zero < 3)
			act_move(o, CK_param, i, 0);
	for (uint32_t p = 0; p < m->nparams; p++) {
		if (!m->params[p].borrows || !m->params[p].trained) continue;
		uint32_t owner = m->params[m->params[p].borrows - 1].owner;
		if (mine(o, owner) && o->e->flats[owner].zero == 3)
			act_move(o, CK_param, owner, 0);
		act_move(o, CK_lend, p, 0);
	}
}

/* requires: flats and communicators, where the plan has stages. */
void
eval_own(Eval *e)
{
	const Module *m = e->m;
	uint32_t stages = e->staged ? m->plan.nstages : 1;
	bool train = m->level >= LV_train && !m->plan.forward_only;

	e->own = NEW_N(e->arena, Action *, stages);
	e->nown = NEW_N(e->arena, uint32_t, stages);
	for (uint32_t k = 0; k < stages; k++) {
		Own o = {.e = e, .m = m, .stage = k};
		for (uint32_t mb = 0; mb < e->nmb; mb++) {
			forward(&o, mb);
			if (train && stages == 1) backward(&o, mb, mb + 1 == e->nmb);
		}
		for (uint32_t mb = 0; train && stages > 1 && mb < e->nmb; mb++)
			backward(&o, mb, mb + 1 == e->nmb);
		if (train) update(&o);
		e->own[k] = o.a, e->nown[k] = o.n;
	}
}
