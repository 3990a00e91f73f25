/*
 * eval_run.c - virtual ranks at work: action tables, bodies op by op, and which rank takes the next step.
 *
 * Input: ranks with programs and places. Output: their states after the programs. A rank runs until it waits for a
 * communication that is not complete (eval_comm.c); where nobody can move on and nothing can be moved, that is reported.
 * Nothing a rank computes depends on when the others run, which the adversarial order tries to refute.
 *
 * At level mem an operand is read from the arena at every use and a result is written there at the end of its kernel
 * (the ops of one kernel are one loop nest, which reads before it writes); scratch is NaN when a body begins.
 */
#include "ir/eval.h"

#include <string.h>

/* ---- values ---- */

static bool
is_alias(const Eval *e, const Body *b, Val v)
{
	const Op *op = val_op(b, v);

	return e->placed && b->vals[v.i].space == SP_alias && op && op->nin == 1 &&
	       op_info[op->code].flags & OF_VIEW;
}

static void
call_begin(const Eval *e, const Rank *r, const Op *op, Call *c)
{
	const Frame *f = &r->f;
	const Attr *rate = attr_find(op, AK_rate), *key = attr_find(op, AK_key);

	memset(c, 0, sizeof *c);
	c->m = e->m, c->b = f->b, c->op = op, c->diag = e->diag, c->tmp = r->op;
	c->wide = e->wide;
	c->step = e->step;
	if (e->o.train && rate && f->rates && rate->i >= 0 && rate->i < (int64_t)f->nrates)
		c->rate = f->rates[rate->i];
	if (c->rate > 0) c->key = rng_key(e->o.seed ^ (uint64_t)(key ? key->i : 0), f->site);
}

static Tensor
result_tensor(const Eval *e, const Rank *r, Val v, Arena *a)
{
	const Body *b = r->f.b;
	Tensor t = eval_tensor(e->m, ir_mesh(e->m, b), r->f.coord, val_type(b, v));

	t.x = NEW_N(a, double, t.n + 1);
	return t;
}

/* Runs the kernel and rounds what it made. */
static bool
call_run(const Eval *e, Call *c)
{
	eval_kernel[c->op->code](c);
	for (int k = 0; k < MAX_OUT && !c->failed; k++)
		for (int64_t i = 0; c->out[k].x && i < c->out[k].n; i++)
			c->out[k].x[i] = eval_round(c->out[k].t.dt, e->wide, c->out[k].x[i]);
	return !c->failed;
}

/* Contents of a value: private ones, or those its bytes hold now; views are made anew from what they view. */
static bool
load(Eval *e, Rank *r, Val v, Tensor *t)
{
	const Frame *f = &r->f;
	const Body *b = f->b;
	uint32_t n = 0;
	Val *chain = NULL; /* views on the way to a value that is kept */

	for (Val u = v; f->cells[u.i].alias && !f->cells[u.i].t.x; u = val_op(b, u)->in[0])
		n++;
	chain = NEW_N(r->op, Val, n + 1);
	for (uint32_t i = 0; i < n; i++)
		chain[n - 1 - i] = v, v = val_op(b, v)->in[0];
	const Cell *cell = &f->cells[v.i];
	*t = cell->t;
	if (!t->x && cell->at == EVAL_PRIVATE)
		ICE("'%%%s' of '%s' is read before it is made", val_str(e->m, b, v),
		    name_str(e->m->names, b->name));
	if (!t->x &&
	    !eval_load(e, r, &(Place){.at = cell->at, .type = &b->vals[v.i].type}, t, r->op))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		Call c;
		call_begin(e, r, val_op(b, chain[i]), &c);
		c.nin = 1, c.in[0] = *t;
		c.out[0] = result_tensor(e, r, chain[i], r->op);
		if (!call_run(e, &c)) return false;
		*t = c.out[0];
	}
	return true;
}

/* ---- beginning a body ---- */

/* Where an op's result goes at level mem: over a dying operand, to its port's buffer or to scratch; -1: private. What is added to a buffer
 * when the body ends (dw, a shared dx, a norm) is private until then. */
static int64_t
result_at(const Eval *e, const Rank *r, Val v)
{
	const Body *b = r->f.b;
	const ValDef *d = &b->vals[v.i];

	if (!e->placed) return EVAL_PRIVATE;
	if (d->over.i && d->space != SP_local) return r->f.cells[d->over.i].at;
	if (d->space == SP_scratch) return r->scratch + d->offset;
	if (d->space != SP_port) return EVAL_PRIVATE;
	for (uint32_t i = 0; i < b->nports; i++) {
		const Port *p = &b->ports[i];
		bool added =
		    p->kind == PORT_dw || p->kind == PORT_norm || p->kind == PORT_logits;
		if (p->kind == PORT_dx && !r->f.global) {
			Ref ref = e->m->insts[r->f.inst].args[p->slot];
			added = ref.kind == REF_result && eval_has(e, r, ref.i) &&
				r->mem->cot[r->mem->cot_of[ref.i] + ref.result].shared;
		}
		if (port_is_in(p->kind) || p->v.i != v.i || added || !r->f.ports[i].type ||
		    r->f.ports[i].x)
			continue;
		return r->f.ports[i].at;
	}
	return EVAL_PRIVATE;
}

static bool
bind_in(Eval *e, Rank *r, uint32_t port)
{
	Frame *f = &r->f;
	const Port *p = &f->b->ports[port];
	Cell *cell = &f->cells[p->v.i];
	const Place *from = &f->ports[port];

	if (p->kind == PORT_cot && !f->global && !eval_cot(e, r, f->inst, p->slot, f->mb))
		return false;
	if (from->ranged) cell->t.lo = from->lo, cell->t.hi = from->hi;
	if (e->placed && from->type && !from->x) return cell->at = from->at, true;
	if (!eval_load(e, r, from, &cell->t, r->body)) return false;
	if (!f->global || !cell->t.t.partial) return true;
	for (int a = 0; a < MAX_MESH;
	     a++) { /* the first rank holds the whole of a pending sum */
		if (!(cell->t.t.partial >> a & 1) || !f->coord[a]) continue;
		cell->t.x = NEW_N(r->body, double, cell->t.n + 1);
		break;
	}
	return true;
}

/* A result that ZeRO splits has the range its operands have. */
static void
keep_range(Frame *f, const Op *op)
{
	for (int k = 0; k < op->nout; k++)
		for (int i = 0; op->out[k].i && i < op->nin; i++) {
			const Tensor *x = &f->cells[op->in[i].i].t;
			Tensor *y = &f->cells[op->out[k].i].t;
			if (!y->t.flat || !x->t.flat || x->n != y->n) continue;
			y->lo = x->lo, y->hi = x->hi;
			break;
		}
}

/* requires: no body runs on r; ports are in r->body or live longer. inst = ninsts: of no instance. */
bool
eval_begin(Eval *e, Rank *r, const Body *b, uint32_t inst, Place *ports, bool global)
{
	Frame *f = &r->f;
	const Module *m = e->m;
	const Mesh *mesh = ir_mesh(m, b);

	f->b = b, f->inst = inst, f->ports = ports, f->global = global;
	f->mb = r->mb;
	f->op = f->flushed = 0;
	if (inst < m->ninsts) {
		f->rates = m->insts[inst].rates,
		f->nrates = m->types[m->insts[inst].type].nrates;
		f->site = name_str(m->names, m->insts[inst].name);
	}
	eval_coords(r, mesh, f->mb, f->coord);
	f->cells = NEW_N(r->body, Cell, b->nvals);
	eval_poison(e, r, r->scratch, b->scratch_bytes);
	for (uint32_t v = 1; v < b->nvals; v++) {
		f->cells[v].t = eval_tensor(m, mesh, f->coord, &b->vals[v].type);
		f->cells[v].alias = is_alias(e, b, (Val){v});
		f->cells[v].at = EVAL_PRIVATE;
	}
	for (uint32_t i = 0; i < b->nports; i++)
		if (port_is_in(b->ports[i].kind) && !bind_in(e, r, i)) return false;
	for (uint32_t i = 0; i < b->nops;
	     i++) { /* in order: one may take over what another took over */
		for (int k = 0; k < b->ops[i].nout; k++)
			if (b->ops[i].out[k].i)
				f->cells[b->ops[i].out[k].i].at =
				    result_at(e, r, b->ops[i].out[k]);
		keep_range(f, &b->ops[i]);
	}
	return true;
}

/* ---- ending a body ---- */

bool
eval_add_to(Eval *e, Rank *r, const Place *p, const Tensor *t)
{
	Tensor sum = *t;
	uint32_t coord[MAX_MESH];

	if (!p->type) return true;
	if (p->ranged) sum.lo = p->lo, sum.hi = p->hi;
	eval_coords(r, p->mesh, r->f.mb, coord);
	if (p->x) sum = eval_tensor(e->m, p->mesh, coord, p->type);
	Tensor old = sum;
	if (!eval_load(e, r, p, &old, r->body)) return false;
	sum.x = NEW_N(r->body, double, sum.n + 1);
	memcpy(sum.x, old.x, (size_t)sum.n * sizeof *sum.x);
	eval_overlap(&sum, t, true);
	for (int64_t i = 0; i < sum.n; i++)
		sum.x[i] = eval_round(p->type->dt, e->wide, sum.x[i]);
	return eval_store(e, r, p, &sum);
}

/* The report contributions of a result. */
static void
add_reports(const Eval *e, Rank *r, uint16_t result, const Tensor *t)
{
	for (uint32_t k = 0; k < e->m->nreports; k++) {
		Ref ref = e->m->reports[k].ref;
		bool mine =
		    ref.kind == REF_result && ref.i == r->f.inst && ref.result == result;
		Type over = t->t;
		over.partial |= 1; /* microbatches are added by definition */
		if (mine && t->n == 1 && eval_counts(ir_mesh(e->m, r->f.b), r->f.coord, &over))
			r->report[k] += t->x[0];
	}
}

/* A norm counts once, however many ranks hold the gradient. */
static bool
norm_counts(const Eval *e, const Rank *r, const Port *p)
{
	const Body *b = r->f.b;
	const Port *grad = ir_find_port(b, PORT_grad, p->slot);

	return !grad || eval_counts(ir_mesh(e->m, b), r->f.coord, val_type(b, grad->v));
}

/* The loss's own 1 comes first; then what comes first is stored. */
bool
eval_give_cot(Eval *e, Rank *r, Ref ref, uint32_t mb, const Place *to, const Tensor *t)
{
	bool *made = &r->cot_made[mb * e->nres + e->res0[ref.i] + ref.result];
	Ref loss = e->m->reports[0].ref;

	if (!*made && loss.kind == REF_result && loss.i == ref.i && loss.result == ref.result &&
	    !eval_cot(e, r, ref.i, ref.result, mb))
		return false;
	if (*made) return eval_add_to(e, r, to, t);
	*made = true;
	return eval_store(e, r, to, t);
}

bool
eval_give_grad(Eval *e, Rank *r, uint32_t param, const Tensor *t)
{
	const Place *to = &r->grad[param];
	bool per_mb = e->staged && e->flats[e->m->params[param].owner].zero >= 2,
	     first = per_mb && !r->grad_made[param];

	r->grad_made[param] = true;
	return first ? eval_store(e, r, to, t) : eval_add_to(e, r, to, t);
}

static bool
deliver(Eval *e, Rank *r, uint32_t port)
{
	Frame *f = &r->f;
	const Port *p = &f->b->ports[port];
	const Place *to = &f->ports[port];
	const Cell *cell = &f->cells[p->v.i];
	Tensor t;

	if (!load(e, r, p->v, &t)) return false;
	if (f->global) {
		if (t.t.partial) return eval_add_to(e, r, to, &t);
		return eval_store(e, r, to, &t);
	}
	switch (p->kind) {
	case PORT_out:
		if (f->inst < e->m->ninsts) add_reports(e, r, p->slot, &t);
		break;
	case PORT_dx: {
		Ref ref = e->m->insts[f->inst].args[p->slot];
		if (ref.kind != REF_result || !to->type) return true;
		if (e->placed && !to->x && cell->at == to->at &&
		    !cell->t.x) { /* made in place */
			r->cot_made[f->mb * e->nres + e->res0[ref.i] + ref.result] = true;
			return true;
		}
		return eval_give_cot(e, r, ref, f->mb, to, &t);
	}
	case PORT_dw: return eval_give_grad(e, r, e->m->insts[f->inst].params[p->slot], &t);
	case PORT_norm:
		if (norm_counts(e, r, p)) r->sumsq += t.x[0];
		return true;
	default: break;
	}
	if (e->placed && !to->x && cell->at == to->at && !cell->t.x)
		return true; /* made in place */
	return eval_store(e, r, to, &t);
}

static bool
end_body(Eval *e, Rank *r)
{
	for (uint32_t i = 0; i < r->f.b->nports; i++)
		if (!port_is_in(r->f.b->ports[i].kind) && !deliver(e, r, i)) return false;
	r->f = (Frame){0};
	arena_reset(r->op);
	arena_reset(r->body);
	return true;
}

/* ---- ops ---- */

static bool
prepare(Eval *e, Rank *r, const Op *op, Call *c)
{
	call_begin(e, r, op, c);
	c->nin = op->nin;
	ENSURE(op->nin <= CALL_IN, "'%s' has %d operands", op_info[op->code].text, op->nin);
	for (int k = 0; k < op->nin; k++)
		if (!load(e, r, op->in[k], &c->in[k])) return false;
	for (int k = 0; k < op->nout; k++) {
		if (!op->out[k].i) continue;
		bool kept = r->f.cells[op->out[k].i].at == EVAL_PRIVATE;
		c->out[k] = result_tensor(e, r, op->out[k], kept ? r->body : r->op);
	}
	return true;
}

/* After an op: results become visible where they belong as soon as their kernel is through. */
static bool
finish(Eval *e, Rank *r, const Call *c)
{
	Frame *f = &r->f;
	const Body *b = f->b;

	for (int k = 0; c && k < c->op->nout; k++)
		if (c->op->out[k].i) f->cells[c->op->out[k].i].t.x = c->out[k].x;
	uint32_t kernel = b->ops[f->op++].kernel;
	if (e->placed && kernel && f->op < b->nops && b->ops[f->op].kernel == kernel)
		return true;
	for (; f->flushed < f->op; f->flushed++)
		for (int k = 0; k < b->ops[f->flushed].nout; k++) {
			Val v = b->ops[f->flushed].out[k];
			Cell *cell = &f->cells[v.i];
			if (!v.i || cell->at == EVAL_PRIVATE) continue;
			if (!eval_store(e, r, &(Place){.at = cell->at, .type = &cell->t.t},
					&cell->t))
				return false;
			cell->t.x = NULL;
		}
	arena_reset(r->op);
	return true;
}

static bool
is_collective(const Op *op)
{
	return op_info[op->code].flags & OF_COMM;
}

/* One op, or the end of the body. A collective waits for the group. */
static bool
step_op(Eval *e, Rank *r)
{
	Frame *f = &r->f;
	Call c;

	if (f->op == f->b->nops) return end_body(e, r);
	const Op *op = &f->b->ops[f->op];
	if (is_collective(op)) return eval_meet(e, r, MEET_op);
	if (op->nout == 1 && f->cells[op->out[0].i].alias) return finish(e, r, NULL);
	return prepare(e, r, op, &c) && call_run(e, &c) && finish(e, r, &c);
}

/* ---- actions ---- */

static bool
bad_action(Eval *e, const Rank *r, const char *what)
{
	diag_error(e->diag, (Loc){0}, "action %u: %s", r->pc - 1, what);
	return false;
}

/* NaN into the slot, but for what has been received into it ahead of the inputs. */
static void
clear_slot(Eval *e, Rank *r, uint32_t slot)
{
	const Module *m = e->m;
	size_t bytes = (size_t)(r->mem->slot_bytes * e->unit);
	int64_t begin = r->mem->slots + slot * r->mem->slot_bytes;
	unsigned char *copy = NULL;

	for (uint32_t i = 0; i < m->ninsts; i++)
		if (r->came[slot * m->ninsts + i] == r->mb + 1 && !copy)
			copy = arena_dup(r->op, r->bytes + begin * e->unit, bytes);
	eval_poison(e, r, begin, r->mem->slot_bytes);
	for (uint32_t i = 0; copy && i < m->ninsts; i++) {
		const Place *p = &r->results[slot * e->nres + e->res0[i]];
		int64_t at = p->at - begin, n;
		if (r->came[slot * m->ninsts + i] != r->mb + 1 || !p->type) continue;
		n = type_bytes(m, p->mesh, p->type);
		if (at >= 0 && at <= r->mem->slot_bytes - n)
			memcpy(r->bytes + p->at * e->unit, copy + at * e->unit,
			       (size_t)(n * e->unit));
	}
}

/* Global contents -> this rank's part of this microbatch. */
static bool
fetch_inputs(Eval *e, Rank *r)
{
	const Module *m = e->m;
	uint32_t slot = r->slot, coord[MAX_MESH];

	r->f.mb = r->mb;
	if (e->placed) clear_slot(e, r, slot);
	for (uint32_t i = 0; i < m->ninputs; i++) {
		const Place *p = &r->inputs[slot * m->ninputs + i];
		uint32_t base = m->inputs[i].of ? m->inputs[i].of - 1 : i;
		Tensor all = eval_tensor(m, NULL, NULL, &m->inputs[base].type);
		all.x = e->input[base];
		if (!p->type) continue;
		if (!all.x) {
			diag_error(e->diag, m->inputs[i].loc, "input '%s' has not been given",
				   name_str(m->names, m->inputs[base].name));
			return false;
		}
		eval_coords(r, p->mesh, r->mb, coord);
		Tensor part = eval_tensor(m, p->mesh, coord, p->type);
		part.x = NEW_N(r->op, double, part.n + 1);
		eval_overlap(&part, &all, false);
		if (!eval_store(e, r, p, &part)) return false;
		arena_reset(r->op);
	}
	return true;
}

static bool
begin_action(Eval *e, Rank *r, const Action *a, uint32_t inst)
{
	const Module *m = e->m;

	if (inst >= m->ninsts || a->bk >= BK_COUNT)
		return bad_action(e, r, "no such instance or body");
	if (e->staged && !eval_has(e, r, inst))
		return bad_action(e, r, "the instance is not one of this stage");
	uint32_t k = m->types[m->insts[inst].type].body[a->bk];
	if (!k) return bad_action(e, r, "this layer type has no such body");
	const Body *b = &m->bodies[k];
	Place *ports = NEW_N(r->body, Place, b->nports);
	for (uint32_t p = 0; p < b->nports; p++)
		ports[p] = eval_port(e, r, inst, r->slot, a->bk, &b->ports[p]);
	return eval_begin(e, r, b, inst, ports, false);
}

static bool
begin_loop(Eval *e, Rank *r, const Action *a)
{
	if (r->nloops == MAX_LOOPS) return bad_action(e, r, "loops are nested too deeply");
	r->loops[r->nloops++] = (Loop){.begin = r->pc, .count = a->count, .kind = a->kind};
	if (a->kind == ACT_mb) r->turn = 0;
	if (a->count) return true;
	for (uint32_t depth = 1; depth; r->pc++) {
		if (r->pc == r->end) return bad_action(e, r, "a loop without an end");
		ActKind k = r->acts[r->pc].kind;
		depth += (k == ACT_mb || k == ACT_layers) - (k == ACT_end);
	}
	r->nloops--;
	return true;
}

static void
end_loop(Rank *r)
{
	Loop *l = &r->loops[r->nloops - 1];

	if (++l->turn >= l->count) r->nloops--;
	if (l->kind == ACT_mb) r->turn = l->turn < l->count ? l->turn : 0;
	if (l->turn < l->count) r->pc = l->begin;
}

/* The instance (or parameter) an action means in this turn. */
static uint32_t
action_inst(const Rank *r, const Action *a)
{
	int64_t inst = a->inst;

	for (uint32_t k = r->nloops; k-- > 0;)
		if (r->loops[k].kind == ACT_layers) {
			inst += (int64_t)r->loops[k].turn * a->stride;
			break;
		}
	return inst < 0 || inst > UINT32_MAX ? UINT32_MAX : (uint32_t)inst;
}

static bool
step_action(Eval *e, Rank *r)
{
	const Step *edit = r->steps ? &r->steps[r->pc] : NULL;
	const Action *a = edit ? &edit->a : &r->acts[r->pc];
	uint32_t inst = action_inst(r, a);

	r->pc++;
	r->mb = r->turn + a->mb;
	if (r->mb >= e->nmb) return bad_action(e, r, "no such microbatch");
	r->slot = (r->mb + (edit ? (uint32_t)edit->slot : 0)) % r->slots;
	switch (a->kind) {
	case ACT_mb:
	case ACT_layers: return begin_loop(e, r, a);
	case ACT_end:
		if (!r->nloops) return bad_action(e, r, "the end of no loop");
		end_loop(r);
		return true;
	case ACT_input: return fetch_inputs(e, r);
	case ACT_body: return begin_action(e, r, a, inst);
	case ACT_start:
	case ACT_wait:
		if (!e->staged || a->comm >= CK_COUNT ||
		    inst >= (a->comm >= CK_lend ? e->m->nparams : e->m->ninsts))
			return bad_action(e, r, "no such communication");
		return a->kind == ACT_start ? eval_start(e, r, a->comm, inst, edit)
					    : eval_wait(e, r, a->comm, inst);
	case ACT_norm: return eval_meet(e, r, MEET_norm);
	case ACT_COUNT: break;
	}
	return bad_action(e, r, "no such action");
}

static bool
is_done(const Rank *r)
{
	return !r->f.b && r->pc >= r->end;
}

static bool
step(Eval *e, Rank *r)
{
	if (r->wait && !eval_passed(e, r)) return false;
	if (is_done(r)) return true;
	return r->f.b ? step_op(e, r) : step_action(e, r);
}

/* ---- collectives ---- */

bool
eval_collective(Eval *e, const uint32_t *group, uint32_t n)
{
	const Frame *f = &e->ranks[group[0]].f;
	const Op *op = &f->b->ops[f->op];
	Arena *tmp = arena_new();
	Tensor *peer = NEW_N(tmp, Tensor, n);
	Call *call = NEW_N(tmp, Call, n);
	bool ok = true;

	for (uint32_t i = 0; ok && i < n; i++)
		ok = load(e, &e->ranks[group[i]], op->in[0], &peer[i]);
	for (uint32_t i = 0; ok && i < n; i++) {
		ok = prepare(e, &e->ranks[group[i]], op, &call[i]);
		call[i].peer = peer, call[i].npeer = n;
		ok = ok && call_run(e, &call[i]);
	}
	for (uint32_t i = 0; ok && i < n; i++) /* only now may operands be overwritten */
		ok = finish(e, &e->ranks[group[i]], &call[i]);
	arena_free(tmp);
	return ok;
}

/* ---- all ranks ---- */

/* The next rank to take a step: in turn, or any. NULL: none can. */
static Rank *
choose(Eval *e, uint32_t last)
{
	uint32_t start = e->o.adversarial ? eval_draw(e, 1) : last + 1;

	for (uint32_t i = 0; i < e->nranks; i++) {
		Rank *r = &e->ranks[(start % e->nranks + i) % e->nranks];
		if (r->wait ? r->wait->complete : !is_done(r)) return r;
	}
	return NULL;
}

/* Runs every rank to the end of its program and of its body. */
bool
eval_ranks(Eval *e)
{
	uint32_t last = e->nranks - 1;
	bool ok = true;

	for (;;) {
		while (e->o.adversarial && e->moved && ok && eval_transfer(e, true, &ok))
			;
		e->moved = false;
		if (!ok) return false;
		Rank *r = choose(e, last);
		if (r) {
			last = r->id;
			if (!step(e, r)) return false;
			continue;
		}
		if (eval_transfer(e, false, &ok)) continue;
		for (uint32_t i = 0; ok && i < e->nranks; i++)
			if (e->ranks[i].wait) return eval_deadlock(e);
		return ok;
	}
}
