/*
 * verify_step.c - one step of a process: is what it reads there; what does it leave behind.
 *
 * A body's scratch is spoilt first, so that what it reads may not lie there; then its in-ports are looked at, then its
 * out-ports are written: nothing of those lies over what is read, unless a value takes over that very buffer. Between
 * start and wait what is sent must stay, and what is received, or summed in place, is nobody's.
 */
#include "ir/flow.h"

#include <inttypes.h>
#include <string.h>

/* ---- shadow memory ---- */

static bool
same_content(const Content *a, const Content *b)
{
	return a->what == b->what && a->i == b->i && a->k == b->k && a->mb == b->mb &&
	       a->sum == b->sum && a->at == b->at;
}

/* The extent that holds byte `at`. */
static uint32_t
find(const Shadow *s, int64_t at)
{
	uint32_t lo = 0, hi = s->n;

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (s->e[mid].lo <= at)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static void
set(Shadow *s, int64_t lo, int64_t hi, Content c, uint32_t step)
{
	Extent new[3];
	uint32_t i, j, n = 0;

	if (hi <= lo) return;
	i = find(s, lo);
	if (s->e[i].lo == lo && s->e[i].hi == hi) {
		s->e[i].c = c;
		s->e[i].step = step;
		return;
	}
	for (j = i; s->e[j].hi < hi; j++)
		continue;
	if (s->e[i].lo < lo) new[n++] = (Extent){s->e[i].lo, lo, s->e[i].c, s->e[i].step};
	new[n++] = (Extent){lo, hi, c, step};
	if (s->e[j].hi > hi) new[n++] = (Extent){hi, s->e[j].hi, s->e[j].c, s->e[j].step};
	while (s->n + n > s->cap) {
		s->e = arena_grow(s->arena, s->e, s->n, (size_t)s->cap * 2 + 16, sizeof(*s->e));
		s->cap = s->cap * 2 + 16;
	}
	memmove(&s->e[i + n], &s->e[j + 1], (size_t)(s->n - j - 1) * sizeof(*s->e));
	memcpy(&s->e[i], new, n * sizeof(*new));
	s->n += n - (j - i + 1);
}

static const char *
content_str(const Game *g, const Content *c)
{
	const Module *m = g->f.m;
	const char *inst = "", *param = "";
	Buf b;

	if (c->what == HOLDS_frame || c->what == HOLDS_carry || c->what == HOLDS_cot)
		inst = name_str(m->names, m->insts[c->i].name);
	if (c->what >= HOLDS_param && c->what <= HOLDS_reduced)
		param = name_str(m->names, m->params[c->i].name);
	buf_init(&b, g->f.v->tmp);
	switch (c->what) {
	case HOLDS_nothing: buf_puts(&b, "nothing yet"); return b.s;
	case HOLDS_input:
		buf_printf(&b, "input %s", name_str(m->names, m->inputs[c->i].name));
		break;
	case HOLDS_frame: {
		const Body *f = &m->bodies[m->types[m->insts[c->i].type].body[BK_F]];

		buf_printf(&b, "'%%%s' of F of %s", val_str(m, f, (Val){c->k}), inst);
		break;
	}
	case HOLDS_carry: buf_printf(&b, "what B hands to W of %s", inst); break;
	case HOLDS_cot:
		buf_printf(&b, "%sthe cotangent of result %" PRIu32 " of %s",
			   c->sum == g->f.cot_sum[g->f.res0[c->i] + c->k] ? "" : "a part of ",
			   c->k, inst);
		break;
	case HOLDS_param:
		buf_printf(&b, "parameter '%s'%s", param, c->k ? " after its update" : "");
		return b.s;
	case HOLDS_m:
	case HOLDS_v:
		buf_printf(&b, "the moments of '%s'%s", param, c->k ? " after its update" : "");
		return b.s;
	case HOLDS_grad:
		buf_printf(&b, "%sthe gradient of '%s'",
			   c->sum == flow_grad_sum(&g->f, c->i) ? "" : "a part of ", param);
		return b.s;
	case HOLDS_part:
		buf_printf(&b, "%sthe gradient of '%s'",
			   c->sum == flow_part_sum(&g->f, c->i, c->mb) ? "" : "a part of ",
			   param);
		break;
	case HOLDS_reduced:
		buf_printf(&b, "a sum over ranks of the gradient of '%s'", param);
		return b.s;
	case HOLDS_const: buf_printf(&b, "constant %" PRIu32, c->i); return b.s;
	case HOLDS_scratch: buf_puts(&b, "scratch"); return b.s;
	case HOLDS_flight: buf_puts(&b, "what is on its way"); return b.s;
	case HOLDS_spent: buf_puts(&b, "what is spent"); return b.s;
	case HOLDS_COUNT: break;
	}
	buf_printf(&b, " (microbatch %" PRIu32 ")", c->mb);
	return b.s;
}

/* Bytes [lo, hi) hold `want`. */
static bool
holds(Game *g, Proc *p, int64_t lo, int64_t hi, const Content *want, const char *verb)
{
	if (hi <= lo) return true;
	if (lo < 0 || hi > p->x->arena_bytes)
		return game_wrong(
		    g, p, "%s %s at bytes %" PRId64 " to %" PRId64 " of an arena of %" PRId64,
		    verb, content_str(g, want), lo, hi, p->x->arena_bytes);
	for (uint32_t i = find(&p->shadow, lo); i < p->shadow.n && p->shadow.e[i].lo < hi;
	     i++) {
		const Extent *e = &p->shadow.e[i];

		if (same_content(&e->c, want)) continue;
		return game_wrong(
		    g, p, "%s %s, but bytes %" PRId64 " to %" PRId64 " hold %s%s%s", verb,
		    content_str(g, want), e->lo > lo ? e->lo : lo, e->hi < hi ? e->hi : hi,
		    content_str(g, &e->c), e->step ? ", left there by " : "",
		    e->step ? step_str(g, p, e->step - 1) : "");
	}
	return true;
}

static bool
leave(Game *g, Proc *p, int64_t lo, int64_t hi, Content c)
{
	if (hi <= lo) return true;
	if (lo < 0 || hi > p->x->arena_bytes)
		return game_wrong(g, p,
				  "writes %s at bytes %" PRId64 " to %" PRId64
				  " of an arena of %" PRId64,
				  content_str(g, &c), lo, hi, p->x->arena_bytes);
	set(&p->shadow, lo, hi, c, p->pc + 1);
	return true;
}

/* Adds a contribution; over anything else it is the first, and stored. */
static bool
contribute(Game *g, Proc *p, int64_t lo, int64_t hi, Content to, uint64_t sum, bool store)
{
	const Extent *e;
	Content old = to;

	if (hi <= lo) return true;
	if (lo < 0 || hi > p->x->arena_bytes) return leave(g, p, lo, hi, to);
	e = &p->shadow.e[find(&p->shadow, lo)];
	old.sum = e->c.sum;
	if (!same_content(&e->c, &old)) {
		if (!store) {
			to.sum = 0;
			return holds(g, p, lo, hi, &to, "adds to");
		}
		to.sum = sum;
		return leave(g, p, lo, hi, to);
	}
	if (!holds(g, p, lo, hi, &old, "adds to")) return false;
	to.sum = old.sum + sum;
	return leave(g, p, lo, hi, to);
}

/* ---- places ---- */

typedef struct Place {
	int64_t lo, hi; /* empty: nothing in memory */
	Content c;
} Place;

static int64_t
slot_base(const Game *g, const Proc *p, const Step *s)
{
	uint32_t slots = g->f.m->plan.stages[p->stage].slots;
	int64_t slot = (int64_t)s->a.mb + s->slot;

	if (!slots) slots = 1;
	return p->x->slots + (slot % slots + slots) % slots * p->x->slot_bytes;
}

static Place
at(int64_t lo, int64_t bytes, Content c)
{
	if (c.what != HOLDS_nothing) c.at = lo;
	return (Place){lo, lo + bytes, c};
}

static bool
here(const Game *g, const Proc *p, uint32_t n)
{
	const Stage *s = &g->f.m->plan.stages[p->stage];

	return n >= s->first && n - s->first < s->count;
}

/* What an argument is read from. */
static Place
arg_place(const Game *g, const Proc *p, const Step *s, Ref ref, int64_t bytes)
{
	const Flow *f = &g->f;
	const TypeFacts *t;

	ref = flow_origin(f, ref);
	if (ref.kind == REF_input)
		return at(slot_base(g, p, s) + p->x->input_at[ref.i], bytes,
			  (Content){HOLDS_input, ref.i, 0, s->a.mb, 0, 0});
	if (ref.kind != REF_result) return (Place){0};
	t = &f->type[f->m->insts[ref.i].type];
	return at(slot_base(g, p, s) + p->x->slot_at[ref.i] + t->out_at[ref.result], bytes,
		  (Content){HOLDS_frame, ref.i, t->out_val[ref.result], s->a.mb, 0, 0});
}

static int64_t
cot_at(const Proc *p, const Flow *f, uint32_t inst, uint32_t result)
{
	const Cot *c = &p->x->cot[p->x->cot_of[inst] + result];

	(void)f;
	return c->at < 0 ? -1 : p->x->cots + c->at + (inst % 2 ? c->alt : 0);
}

/* Which microbatch a cotangent is taken to be of. */
static uint32_t
cot_turn(const Game *g, const Proc *p, const Step *s)
{
	return s->a.mb + (g->f.m->plan.stages[p->stage].slots > 1 ? (uint32_t)s->slot : 0);
}

static Place
cot_place(const Game *g, const Proc *p, const Step *s, uint32_t inst, uint32_t result,
	  int64_t bytes)
{
	const Flow *f = &g->f;

	return at(cot_at(p, f, inst, result), bytes,
		  (Content){HOLDS_cot, inst, result, cot_turn(g, p, s),
			    f->cot_sum[f->res0[inst] + result], 0});
}

static Place
carry_place(const Game *g, const Proc *p, const Step *s, uint32_t slot, int64_t bytes)
{
	const TypeFacts *t = &g->f.type[g->f.m->insts[s->a.inst].type];
	int64_t frame = slot_base(g, p, s) + p->x->slot_at[s->a.inst], lo = t->carry_at[slot];

	if (lo < 0)
		lo = frame + t->saved_at[-1 - lo];
	else
		lo += p->x->carry < 0 ? frame : p->x->carry;
	return at(lo, bytes, (Content){HOLDS_carry, s->a.inst, slot, s->a.mb, 0, 0});
}

/* Where a parameter is in its owner's flat; NULL: in none. */
static const Flat *
flat_of(const Flow *f, uint32_t param, int64_t *in)
{
	const Flat *flat = f->flat[f->m->params[param].owner];

	for (uint32_t k = 0; flat && k < flat->n; k++)
		if (flat->param[k] == param) {
			*in = flat->at[k];
			return flat;
		}
	return NULL;
}

/* This rank's range of a flat. */
static void
own_range(const Game *g, const Proc *p, uint32_t inst, const Flat *flat, int64_t *lo,
	  int64_t *hi)
{
	uint32_t coord[MAX_MESH], c;
	const Mesh *mesh = ir_inst_mesh(g->f.m, inst);

	ir_coords(&g->f.m->plan.stages[p->stage], mesh, p->rank, coord);
	c = ir_group_index(mesh, flat->dp_mask, coord);
	*lo = flat->bytes / flat->dp * c;
	*hi = flat->bytes / flat->dp * (c + 1);
}

/* A parameter in a section: all of it, or only what is in this rank's range. */
static Place
state_place(const Game *g, const Proc *p, uint32_t param, Section s, bool range, Content c)
{
	const Param *q = &g->f.m->params[param];
	int64_t bytes = type_bytes(g->f.m, ir_param_mesh(g->f.m, param), &q->type), in, lo, hi;
	const Flat *flat = flat_of(&g->f, param, &in);
	Place x;

	if (!flat || !p->x->in_flat || !p->x->in_flat[param])
		return at(p->x->sec[s] + p->x->param_at[param], bytes, c);
	own_range(g, p, q->owner, flat, &lo, &hi);
	x = at(in, bytes, c);
	if (range || ir_flat_split(flat->zero, s)) {
		if (x.lo < lo) x.lo = lo;
		if (x.hi > hi) x.hi = hi;
		if (x.hi <= x.lo) return (Place){0};
	}
	in =
	    p->x->sec[s] + p->x->flat_at[s][q->owner] - (ir_flat_split(flat->zero, s) ? lo : 0);
	x.lo += in;
	x.hi += in;
	x.c.at += in;
	return x;
}

/* Was the parameter's owner here updated already? */
static uint32_t
version(const Game *g, const Proc *p, uint32_t param)
{
	const Param *q = &g->f.m->params[param];

	return q->trained && !q->borrows && p->done[BK_U][q->owner] > 0;
}

static Content
value_of(const Game *g, What what, uint32_t param, uint32_t after)
{
	return (Content){what, g->f.owner[param], after, 0, 0, 0};
}

/* ZeRO 3: a parameter in its gather buffer; ZeRO 2, 3: its gradient before it is summed. */
static Place
buffer_place(const Proc *p, const Game *g, uint32_t param, bool dwork, Content c)
{
	const Param *q = &g->f.m->params[param];
	int64_t in = 0, base = dwork ? p->x->dwork : p->x->gather;

	flat_of(&g->f, param, &in);
	base += q->owner % 2 * (dwork ? p->x->dwork_bytes : p->x->gather_bytes);
	return at(base + in, type_bytes(g->f.m, ir_param_mesh(g->f.m, param), &q->type), c);
}

static int
zero_of(const Game *g, uint32_t param)
{
	int64_t in;
	const Flat *flat = flat_of(&g->f, param, &in);

	return flat ? flat->zero : 0;
}

static Place
weight_place(const Game *g, const Proc *p, uint32_t param)
{
	Content c = value_of(g, HOLDS_param, param, 0);

	if (zero_of(g, param) == 3) return buffer_place(p, g, param, false, c);
	return state_place(g, p, param, SEC_param, false, c);
}

/* The gradient as N and U want it. */
static Content
grad_done(const Game *g, uint32_t param)
{
	int64_t in;
	const Flat *flat = flat_of(&g->f, param, &in);
	Content c = {flat ? HOLDS_reduced : HOLDS_grad, param, 0, 0, 0, 0};
	uint32_t last = g->f.m->plan.microbatches;

	if (!flat || flat->zero < 2) {
		c.sum = flow_grad_sum(&g->f, param);
		return c;
	}
	for (uint32_t t = 0; t < last; t++)
		c.sum += flow_hash(CONTRIB_reduced, flow_part_sum(&g->f, param, t), t, 0);
	return c;
}

/* ---- bodies ---- */

/* What an in-port reads. */
static Place
in_place(const Game *g, const Proc *p, const Step *s, uint32_t port)
{
	const Flow *f = &g->f;
	const Instance *n = &f->m->insts[s->a.inst];
	const LayerType *l = &f->m->types[n->type];
	const TypeFacts *t = &f->type[n->type];
	const Port *q = &f->m->bodies[l->body[s->a.bk]].ports[port];
	int64_t bytes = t->bytes[s->a.bk][port];
	bool mine = q->kind >= PORT_weight && q->slot < l->nweights &&
		    f->m->params[n->params[q->slot]].owner == s->a.inst;

	switch (q->kind) {
	case PORT_arg: return arg_place(g, p, s, n->args[q->slot], bytes);
	case PORT_const:
		return at(p->x->consts + p->x->const_at[q->slot], bytes,
			  (Content){HOLDS_const, q->slot, 0, 0, 0, 0});
	case PORT_saved:
		if (t->saved_at[q->slot] < 0) break;
		return at(
		    slot_base(g, p, s) + p->x->slot_at[s->a.inst] + t->saved_at[q->slot], bytes,
		    (Content){HOLDS_frame, s->a.inst, t->saved_val[q->slot], s->a.mb, 0, 0});
	case PORT_cot: return cot_place(g, p, s, s->a.inst, q->slot, bytes);
	case PORT_carry: return carry_place(g, p, s, q->slot, bytes);
	case PORT_weight:
		if (s->a.bk != BK_U) return weight_place(g, p, n->params[q->slot]);
		if (!mine) break;
		return state_place(g, p, n->params[q->slot], SEC_param,
				   zero_of(g, n->params[q->slot]) > 0,
				   value_of(g, HOLDS_param, n->params[q->slot], 0));
	case PORT_grad:
		if (!mine) break;
		return state_place(g, p, n->params[q->slot], SEC_grad,
				   zero_of(g, n->params[q->slot]) > 0,
				   grad_done(g, n->params[q->slot]));
	case PORT_m:
	case PORT_v:
		if (!mine) break;
		return state_place(
		    g, p, n->params[q->slot], q->kind == PORT_m ? SEC_m : SEC_v,
		    zero_of(g, n->params[q->slot]) > 0,
		    value_of(g, q->kind == PORT_m ? HOLDS_m : HOLDS_v, n->params[q->slot], 0));
	default: break;
	}
	return (Place){0};
}

/* A cotangent that nobody contributes to is zeros, or the loss's one: whoever reads it puts it there. */
static bool
made_by_reader(Game *g, Proc *p, const Step *s, const Port *q, const Place *x)
{
	if (q->kind != PORT_cot || x->lo < 0 || g->f.cot_uses[g->f.res0[s->a.inst] + q->slot])
		return true;
	return leave(g, p, x->lo, x->hi, x->c);
}

static bool
read_ports(Game *g, Proc *p, const Step *s, const Body *b)
{
	for (uint32_t i = 0; i < b->nports && g->ok; i++) {
		Place x;

		p->in[i].lo = p->in[i].hi = 0;
		if (!port_is_in(b->ports[i].kind)) continue;
		x = in_place(g, p, s, i);
		if (x.hi <= x.lo) continue;
		if (!made_by_reader(g, p, s, &b->ports[i], &x) ||
		    !holds(g, p, x.lo, x.hi, &x.c, "reads"))
			return false;
		p->in[i].lo = x.lo;
		p->in[i].hi = x.hi;
		p->in[i].val = b->ports[i].v.i;
	}
	return g->ok;
}

/* What a body makes lies over nothing it reads, unless it takes over that buffer; nor in its scratch. */
static bool
clear_of(Game *g, Proc *p, const Step *s, const Body *b, uint32_t port, const Place *x)
{
	uint32_t root = b->ports[port].v.i;
	int64_t scratch = p->x->scratch;

	while (b->vals[root].over.i)
		root = b->vals[root].over.i;
	for (uint32_t i = 0; i < b->nports; i++) {
		if (p->in[i].hi <= x->lo || x->hi <= p->in[i].lo || p->in[i].val == root)
			continue;
		if (s->a.bk == BK_U && p->in[i].lo == x->lo && p->in[i].hi == x->hi) continue;
		return game_wrong(g, p, "makes %s over '%%%s', which it reads",
				  content_str(g, &x->c), val_str(g->f.m, b, b->ports[i].v));
	}
	if (g->f.m->level >= LV_mem && x->lo < scratch + b->scratch_bytes && x->hi > scratch)
		return game_wrong(g, p, "makes %s in its scratch", content_str(g, &x->c));
	return true;
}

static bool
write_dx(Game *g, Proc *p, const Step *s, const Body *b, uint32_t port, int64_t bytes)
{
	uint32_t a = b->ports[port].slot;
	Ref ref = g->f.m->insts[s->a.inst].args[a];
	Place x;

	if (ref.kind != REF_result || !here(g, p, ref.i)) return true;
	x = cot_place(g, p, s, ref.i, ref.result, bytes);
	if (x.lo < 0) return true; /* nobody wants it */
	return clear_of(g, p, s, b, port, &x) &&
	       contribute(g, p, x.lo, x.hi, x.c, flow_hash(CONTRIB_dx, s->a.inst, a, 0), true);
}

static bool
write_dw(Game *g, Proc *p, const Step *s, const Body *b, uint32_t port)
{
	uint32_t slot = b->ports[port].slot, param = g->f.m->insts[s->a.inst].params[slot];
	uint64_t sum = flow_hash(CONTRIB_dw, s->a.inst, slot, s->a.mb);
	Content c = {HOLDS_grad, param, 0, 0, 0, 0};
	bool part = zero_of(g, param) >= 2;
	Place x;

	if (part) {
		c = (Content){HOLDS_part, param, 0, s->a.mb, 0, 0};
		x = buffer_place(p, g, param, true, c);
	} else {
		x = state_place(g, p, param, SEC_grad, false, c);
	}
	return clear_of(g, p, s, b, port, &x) && contribute(g, p, x.lo, x.hi, x.c, sum, part);
}

static bool
write_port(Game *g, Proc *p, const Step *s, const Body *b, uint32_t port)
{
	const Flow *f = &g->f;
	const Instance *n = &f->m->insts[s->a.inst];
	const TypeFacts *t = &f->type[n->type];
	const Port *q = &b->ports[port];
	int64_t bytes = t->bytes[s->a.bk][port];
	int64_t frame = slot_base(g, p, s) + p->x->slot_at[s->a.inst];
	Place x = {0};

	switch (q->kind) {
	case PORT_out:
		if (t->out_at[q->slot] < 0) return true;
		x = at(frame + t->out_at[q->slot], bytes,
		       (Content){HOLDS_frame, s->a.inst, t->out_val[q->slot], s->a.mb, 0, 0});
		break;
	case PORT_save:
		if (t->saved_at[q->slot] < 0) return true;
		x = at(frame + t->saved_at[q->slot], bytes,
		       (Content){HOLDS_frame, s->a.inst, t->saved_val[q->slot], s->a.mb, 0, 0});
		break;
	case PORT_carry_out: x = carry_place(g, p, s, q->slot, bytes); break;
	case PORT_dx: return write_dx(g, p, s, b, port, bytes);
	case PORT_dw: return write_dw(g, p, s, b, port);
	case PORT_w_out:
	case PORT_m_out:
	case PORT_v_out: {
		Section sec = q->kind == PORT_w_out   ? SEC_param
			      : q->kind == PORT_m_out ? SEC_m
						      : SEC_v;
		What what = q->kind == PORT_w_out   ? HOLDS_param
			    : q->kind == PORT_m_out ? HOLDS_m
						    : HOLDS_v;
		uint32_t param = n->params[q->slot];

		if (f->m->params[param].owner != s->a.inst) return true;
		x = state_place(g, p, param, sec, zero_of(g, param) > 0,
				value_of(g, what, param, 1));
		break;
	}
	default: return true;
	}
	return clear_of(g, p, s, b, port, &x) && leave(g, p, x.lo, x.hi, x.c);
}

/* In its turn, and in its stage. */
static bool
in_turn(Game *g, Proc *p, const Step *s)
{
	const Module *m = g->f.m;
	BodyKind k = s->a.bk;
	uint32_t n = s->a.inst, *done, t = k == BK_N || k == BK_U ? 0 : s->a.mb;

	if (!here(g, p, n))
		return game_wrong(g, p, "instance %" PRIu32 " is not in this stage", n);
	if ((unsigned)k >= BK_const || !m->types[m->insts[n].type].body[k])
		return game_wrong(g, p, "%s has no body %s",
				  name_str(m->names, m->insts[n].name),
				  (unsigned)k < BK_COUNT ? body_str[k] : "?");
	if (m->types[m->insts[n].type].reshard)
		return game_wrong(g, p,
				  "a body between two meshes is run by 'start' and 'wait'");
	done = &p->done[k][n];
	if (t >= m->plan.microbatches || *done != t)
		return game_wrong(g, p,
				  "runs for microbatch %" PRIu32 ", but its next is %" PRIu32,
				  t, *done);
	if (k == BK_U && m->types[m->insts[n].type].body[BK_N] && !p->norms)
		return game_wrong(g, p, "runs before 'norm'");
	++*done;
	return true;
}

bool
proc_body(Game *g, Proc *p, const Step *s)
{
	const Module *m = g->f.m;
	const TypeFacts *t;
	const Body *b;

	if (!in_turn(g, p, s)) return false;
	t = &g->f.type[m->insts[s->a.inst].type];
	b = &m->bodies[m->types[m->insts[s->a.inst].type].body[s->a.bk]];
	if (m->level >= LV_mem && !leave(g, p, p->x->scratch, p->x->scratch + b->scratch_bytes,
					 (Content){.what = HOLDS_scratch}))
		return false;
	if (!read_ports(g, p, s, b)) return false;
	for (uint32_t i = 0; i < b->nports; i++)
		if (t->spent[s->a.bk][i])
			leave(g, p, p->in[i].lo, p->in[i].hi, (Content){.what = HOLDS_spent});
	for (uint32_t i = 0; i < b->nports && g->ok; i++)
		if (!port_is_in(b->ports[i].kind)) write_port(g, p, s, b, i);
	return g->ok;
}

/* ---- inputs, norm ---- */

/* A slot begins another microbatch: all that is left of the one before is gone, what has come for this one stays. */
static void
spoil_slot(Game *g, Proc *p, const Step *s)
{
	const Module *m = g->f.m;
	int64_t lo = slot_base(g, p, s), hi = lo + p->x->slot_bytes;

	while (lo < hi && g->ok) {
		const Extent *e = &p->shadow.e[find(&p->shadow, lo)];
		int64_t end = e->hi < hi ? e->hi : hi;
		bool comes = e->c.what == HOLDS_flight ||
			     (e->c.what == HOLDS_frame && e->c.mb == s->a.mb &&
			      m->types[m->insts[e->c.i].type].reshard);

		if (!comes && e->c.what != HOLDS_nothing)
			leave(g, p, lo, end, (Content){.what = HOLDS_nothing});
		lo = end;
	}
}

static bool
is_held(const Proc *p, const Extent *e)
{
	for (uint32_t i = 0; i < p->nopen; i++)
		for (uint32_t k = 0; k < p->open[i].nheld; k++)
			if (p->open[i].held[k].lo <= e->lo && e->hi <= p->open[i].held[k].hi)
				return true;
	return false;
}

/* ... its cotangents too, but for those that are being sent. */
static void
spoil_cots(Game *g, Proc *p, const Step *s)
{
	uint32_t slots = g->f.m->plan.stages[p->stage].slots, n = slots ? slots : 1;

	for (uint32_t i = 0; i < p->shadow.n; i++) {
		Extent *e = &p->shadow.e[i];

		if (e->c.what == HOLDS_cot && e->c.mb != s->a.mb &&
		    e->c.mb % n == s->a.mb % n && !is_held(p, e))
			e->c = (Content){.what = HOLDS_nothing};
	}
}

bool
proc_input(Game *g, Proc *p, const Step *s)
{
	const Module *m = g->f.m;

	if (p->inputs != s->a.mb || p->inputs >= m->plan.microbatches)
		return game_wrong(g, p, "of microbatch %" PRIu32 " after %" PRIu32 " of them",
				  s->a.mb, p->inputs);
	p->inputs++;
	spoil_slot(g, p, s);
	spoil_cots(g, p, s);
	for (uint32_t i = 0; i < m->ninputs && g->ok; i++) {
		Place x = at(slot_base(g, p, s) + p->x->input_at[i], g->f.input_bytes[i],
			     (Content){HOLDS_input, i, 0, s->a.mb, 0, 0});

		if (p->x->input_at[i] >= 0) leave(g, p, x.lo, x.hi, x.c);
	}
	return g->ok;
}

bool
proc_norm(Game *g, Proc *p)
{
	const Module *m = g->f.m;

	const Stage *s = &m->plan.stages[p->stage];

	if (p->norms++) return game_wrong(g, p, "comes a second time");
	for (uint32_t n = s->first; n < s->first + s->count; n++)
		for (int k = BK_F; k <= BK_W; k++)
			if (p->done[k][n] && p->done[k][n] != m->plan.microbatches)
				return game_wrong(
				    g, p, "comes before %s of %s (microbatch %" PRIu32 ")",
				    body_str[k], name_str(m->names, m->insts[n].name),
				    p->done[k][n]);
	for (uint32_t i = 0; i < m->nparams; i++) {
		const Param *q = &m->params[i];

		if (q->borrows || !here(g, p, q->owner) || p->done[BK_N][q->owner] ||
		    !m->types[m->insts[q->owner].type].body[BK_N])
			continue;
		return game_wrong(g, p, "comes before N of %s",
				  name_str(m->names, m->insts[q->owner].name));
	}
	return true;
}

/* ---- communication ---- */

/* Holds what it must until the wait; `then` is there after it. */
static bool
hold(Game *g, Proc *p, Request *q, Place x, Content then)
{
	Content flight = {HOLDS_flight, q->id, 0, 0, 0, 0};

	if (x.hi <= x.lo) return true;
	if (x.c.what != HOLDS_nothing && !holds(g, p, x.lo, x.hi, &x.c, "sends")) return false;
	PUSH(g->f.v->tmp, q->held, q->nheld, q->cheld,
	     ((Held){.lo = x.lo, .hi = x.hi, .c = x.c, .then = then}));
	if (then.what == HOLDS_nothing) return true;
	q->held[q->nheld - 1].c = flight;
	return leave(g, p, x.lo, x.hi, flight);
}

static const Content stays = {.what = HOLDS_nothing}, spent = {.what = HOLDS_spent};

static Place
into(Place x, int64_t shift)
{
	x.c = (Content){.what = HOLDS_nothing};
	x.lo += shift;
	x.hi += shift;
	return x;
}

static int64_t
port_bytes(const Game *g, uint32_t inst, BodyKind k, PortKind kind)
{
	uint32_t type = g->f.m->insts[inst].type;
	const Body *b = &g->f.m->bodies[g->f.m->types[type].body[k]];

	for (uint32_t i = 0; i < b->nports; i++)
		if (b->ports[i].kind == kind) return g->f.type[type].bytes[k][i];
	return 0;
}

static bool
start_fwd(Game *g, Proc *p, const Step *s, Request *q, const Prim *prim)
{
	const Instance *n = &g->f.m->insts[s->a.inst];
	const TypeFacts *t = &g->f.type[n->type];
	Place x;

	if (p->stage == prim->from.stage) {
		uint32_t from = n->args[0].i;

		x = arg_place(g, p, s, n->args[0], port_bytes(g, s->a.inst, BK_F, PORT_arg));
		if (!here(g, p, from) || !hold(g, p, q, x, stays)) return false;
	}
	if (p->stage != prim->to.stage) return true;
	x = at(slot_base(g, p, s) + p->x->slot_at[s->a.inst] + t->out_at[0],
	       port_bytes(g, s->a.inst, BK_F, PORT_out), stays);
	p->done[BK_F][s->a.inst]++;
	return hold(
	    g, p, q, into(x, s->shift),
	    (Content){HOLDS_frame, s->a.inst, t->out_val[0], s->a.mb, 0, x.lo + s->shift});
}

static bool
start_bwd(Game *g, Proc *p, const Step *s, Request *q, const Prim *prim)
{
	Ref ref = g->f.m->insts[s->a.inst].args[0];
	uint64_t sum = flow_hash(CONTRIB_dx, s->a.inst, 0, 0);
	Place x;
	Content then;

	if (p->stage == prim->from.stage) {
		x = cot_place(g, p, s, s->a.inst, 0, port_bytes(g, s->a.inst, BK_B, PORT_cot));
		if (!hold(g, p, q, x, stays)) return false;
	}
	if (p->stage != prim->to.stage) return true;
	p->done[BK_B][s->a.inst]++;
	x = cot_place(g, p, s, ref.i, ref.result, port_bytes(g, s->a.inst, BK_B, PORT_dx));
	then = x.c;
	then.sum = sum;
	if (x.lo < 0) return game_wrong(g, p, "brings a cotangent that has no place");
	if (!p->x->cot[p->x->cot_of[ref.i] + ref.result].shared) {
		then.at += s->shift;
		return hold(g, p, q, into(x, s->shift), then);
	}
	if (p->x->back_at[s->a.inst] < 0)
		return game_wrong(g, p, "brings a part of a cotangent that has no place");
	then.sum = sum;
	{
		int64_t to = x.lo, bytes = x.hi - x.lo;

		x = at(p->x->cots + p->x->back_at[s->a.inst], bytes, stays);
		if (!hold(g, p, q, into(x, s->shift), then)) return false;
		q->held[q->nheld - 1].add = true;
		q->held[q->nheld - 1].to_lo = to;
	}
	return true;
}

/* All that is between the first and the last byte of a flat, or a range of it, is on its way. */
static bool
hold_flat(Game *g, Proc *p, Request *q, int64_t lo, int64_t bytes)
{
	return hold(g, p, q, at(lo, bytes, stays), spent);
}

static bool
start_param(Game *g, Proc *p, const Step *s, Request *q)
{
	const Flat *f = g->f.flat[s->a.inst];
	uint32_t parity = s->a.inst % 2;
	int64_t lo;

	if (!f || !here(g, p, s->a.inst)) return game_wrong(g, p, "there is no flat to gather");
	if (s->shift) return game_wrong(g, p, "gathers %" PRId64 " bytes off", s->shift);
	for (uint32_t i = 0; i < f->n; i++) {
		Content c = value_of(g, HOLDS_param, f->param[i], version(g, p, f->param[i]));
		Place x = state_place(g, p, f->param[i], SEC_param, true, c);

		if (f->zero == 3 ? !hold(g, p, q, x, stays)
				 : !holds(g, p, x.lo, x.hi, &x.c, "gathers"))
			return false;
	}
	lo = f->zero == 3 ? p->x->gather + parity * p->x->gather_bytes
			  : p->x->sec[SEC_param] + p->x->flat_at[SEC_param][s->a.inst];
	if (!hold_flat(g, p, q, lo, f->bytes)) return false;
	for (uint32_t i = 0; i < f->n; i++) {
		Content c = value_of(g, HOLDS_param, f->param[i], version(g, p, f->param[i]));

		c.at = lo + f->at[i];
		PUSH(g->f.v->tmp, q->held, q->nheld, q->cheld,
		     ((Held){.lo = lo + f->at[i],
			     .hi = lo + f->at[i] + f->size[i],
			     .c = {HOLDS_spent, 0, 0, 0, 0, 0},
			     .then = c}));
	}
	return true;
}

/* ZeRO 0, 1: in place, after the last microbatch. */
static bool
start_grad_once(Game *g, Proc *p, const Step *s, Request *q, const Flat *f)
{
	int64_t lo = p->x->sec[SEC_grad] + p->x->flat_at[SEC_grad][s->a.inst];

	for (uint32_t i = 0; i < f->n; i++) {
		Content c = {HOLDS_grad, f->param[i], 0, 0, flow_grad_sum(&g->f, f->param[i]),
			     0};
		Place x = state_place(g, p, f->param[i], SEC_grad, false, c);

		if (!holds(g, p, x.lo, x.hi, &x.c, "sums")) return false;
	}
	if (!hold_flat(g, p, q, lo, f->bytes)) return false;
	for (uint32_t i = 0; i < f->n; i++) {
		Content c = grad_done(g, f->param[i]);
		Place x = state_place(g, p, f->param[i], SEC_grad, f->zero > 0, c);

		if (x.hi <= x.lo) continue;
		PUSH(g->f.v->tmp, q->held, q->nheld, q->cheld,
		     ((Held){.lo = x.lo, .hi = x.hi, .c = spent, .then = x.c}));
	}
	return true;
}

/* ZeRO 2, 3: of every microbatch, added to this rank's range. */
static bool
start_grad_each(Game *g, Proc *p, const Step *s, Request *q, const Flat *f)
{
	int64_t lo = p->x->dwork + s->a.inst % 2 * p->x->dwork_bytes;

	for (uint32_t i = 0; i < f->n; i++) {
		uint32_t w = f->param[i];
		Content c = {HOLDS_part, w, 0, s->a.mb, flow_part_sum(&g->f, w, s->a.mb), 0};
		Place x;

		if (s->a.mb + 1 == g->f.m->plan.microbatches) c.sum += flow_returns(&g->f, w);
		x = buffer_place(p, g, w, true, c);
		if (g->f.user0[w] == g->f.user0[w + 1] && !flow_returns(&g->f, w)) continue;
		if (!holds(g, p, x.lo, x.hi, &x.c, "sums")) return false;
	}
	if (!hold_flat(g, p, q, lo, f->bytes)) return false;
	for (uint32_t i = 0; i < f->n; i++) {
		uint32_t w = f->param[i];
		Content c = {HOLDS_reduced, w, 0, 0, 0, 0};
		Place x = state_place(g, p, w, SEC_grad, true, c);

		if (x.hi <= x.lo) continue;
		c = p->shadow.e[find(&p->shadow, x.lo)].c;
		x.c.sum = c.sum;
		if (!same_content(&x.c, &c)) x.c.sum = 0;
		c = x.c;
		c.sum +=
		    flow_hash(CONTRIB_reduced, flow_part_sum(&g->f, w, s->a.mb), s->a.mb, 0);
		if (!hold(g, p, q, x, c)) return false;
	}
	return true;
}

static bool
start_grad(Game *g, Proc *p, const Step *s, Request *q)
{
	const Flat *f = g->f.flat[s->a.inst];

	if (!f || !here(g, p, s->a.inst)) return game_wrong(g, p, "there is no flat to sum");
	if (s->shift) return game_wrong(g, p, "sums %" PRId64 " bytes off", s->shift);
	return f->zero >= 2 ? start_grad_each(g, p, s, q, f) : start_grad_once(g, p, s, q, f);
}

static bool
start_lend(Game *g, Proc *p, const Step *s, Request *q, const Prim *prim)
{
	uint32_t owner = g->f.owner[s->a.inst];
	Content c = value_of(g, HOLDS_param, owner, 1);

	if (p->stage == prim->from.stage) {
		Place x = zero_of(g, owner) == 3
			      ? buffer_place(p, g, owner, false, c)
			      : state_place(g, p, owner, SEC_param, false, c);

		if (!hold(g, p, q, x, stays)) return false;
	}
	if (p->stage != prim->to.stage) return true;
	{
		Place x = state_place(g, p, s->a.inst, SEC_param, false, c);

		c = x.c;
		c.at += s->shift;
		return hold(g, p, q, into(x, s->shift), c);
	}
}

static bool
start_return(Game *g, Proc *p, const Step *s, Request *q, const Prim *prim)
{
	uint32_t owner = g->f.owner[s->a.inst];

	if (p->stage == prim->from.stage) {
		Content c = {HOLDS_grad, s->a.inst, 0, 0, flow_grad_sum(&g->f, s->a.inst), 0};
		Place x = state_place(g, p, s->a.inst, SEC_grad, false, c);

		if (!hold(g, p, q, x, spent)) return false;
	}
	if (p->stage == prim->to.stage) {
		bool part = zero_of(g, owner) >= 2;
		Content c = {part ? HOLDS_part : HOLDS_grad,
			     owner,
			     0,
			     part ? s->a.mb : 0,
			     flow_hash(CONTRIB_return, s->a.inst, 0, 0),
			     0};
		Place to = part ? buffer_place(p, g, owner, true, c)
				: state_place(g, p, owner, SEC_grad, false, c);
		Place x = at(p->x->scratch, to.hi - to.lo, stays);

		if (!hold(g, p, q, into(x, s->shift), to.c)) return false;
		q->held[q->nheld - 1].add = true;
		q->held[q->nheld - 1].to_lo = to.lo;
	}
	return true;
}

bool
proc_start(Game *g, Proc *p, const Step *s, Request *q)
{
	Prim prim[MAX_PRIMS];
	uint32_t n = ir_prims(g->f.m, &g->f.comms, p->stage, s->a.comm, s->a.inst, prim);

	if (!n) return game_wrong(g, p, "has nothing to do in this stage");
	switch (s->a.comm) {
	case CK_fwd: return start_fwd(g, p, s, q, &prim[0]);
	case CK_bwd: return start_bwd(g, p, s, q, &prim[0]);
	case CK_param: return start_param(g, p, s, q);
	case CK_grad: return start_grad(g, p, s, q);
	case CK_lend: return start_lend(g, p, s, q, &prim[n - 1]);
	case CK_return: return start_return(g, p, s, q, &prim[n - 1]);
	case CK_COUNT: break;
	}
	return false;
}

/* All has been sent and received: what was held is free, what was on its way is there. */
bool
proc_finish(Game *g, Proc *p, Request *q)
{
	for (uint32_t i = 0; i < q->nheld && g->ok; i++) {
		const Held *h = &q->held[i];

		if (!holds(g, p, h->lo, h->hi, &h->c,
			   h->c.what == HOLDS_flight ? "was to find" : "sent"))
			return false;
		if (h->then.what == HOLDS_nothing) continue;
		if (h->add) {
			Content to = h->then;

			to.sum = 0;
			leave(g, p, h->lo, h->hi, spent);
			contribute(g, p, h->to_lo, h->to_lo + (h->hi - h->lo), to, h->then.sum,
				   h->then.what != HOLDS_grad);
		} else {
			leave(g, p, h->lo, h->hi, h->then);
		}
	}
	return g->ok;
}

/* ---- begin and end ---- */

static void
begin_params(Game *g, Proc *p)
{
	const Module *m = g->f.m;

	for (uint32_t i = 0; i < m->nparams && g->ok; i++) {
		const Param *q = &m->params[i];
		const What what[SEC_COUNT] = {HOLDS_param, HOLDS_grad, HOLDS_m, HOLDS_v};
		bool each = zero_of(g, i) >= 2;

		if (!here(g, p, q->owner)) continue;
		for (int s = 0; s < SEC_COUNT; s++) {
			Content c =
			    s == SEC_grad
				? (Content){each ? HOLDS_reduced : HOLDS_grad, i, 0, 0, 0, 0}
				: value_of(g, what[s], i, 0);
			Place x;

			if (p->x->sec[s] < 0 || (s >= SEC_m && (q->borrows || !q->trained)) ||
			    (s == SEC_grad && g->f.user0[i] == g->f.user0[i + 1] &&
			     !q->trained))
				continue;
			x = state_place(g, p, i, (Section)s, false, c);
			leave(g, p, x.lo, x.hi, x.c);
		}
	}
}

void
proc_begin(Game *g, Proc *p)
{
	const Module *m = g->f.m;
	uint32_t most = 0;

	p->shadow = (Shadow){.arena = g->f.v->tmp};
	PUSH(g->f.v->tmp, p->shadow.e, p->shadow.n, p->shadow.cap,
	     ((Extent){.lo = INT64_MIN, .hi = INT64_MAX}));
	for (int k = 0; k < BK_COUNT; k++)
		p->done[k] = NEW_N(g->f.v->tmp, uint32_t, (size_t)m->ninsts + 1);
	for (uint32_t b = 1; b < m->nbodies; b++)
		if (m->bodies[b].nports > most) most = m->bodies[b].nports;
	p->in = arena_alloc(g->f.v->tmp, sizeof(*p->in) * ((size_t)most + 1));
	begin_params(g, p);
	for (uint32_t i = 0; i < m->nconsts && g->ok; i++) {
		Place x =
		    at(p->x->consts + p->x->const_at[i], type_bytes(m, NULL, &m->consts[i]),
		       (Content){HOLDS_const, i, 0, 0, 0, 0});

		if (p->x->const_at[i] >= 0) leave(g, p, x.lo, x.hi, x.c);
	}
}

/* All microbatches of all bodies. */
static bool
end_bodies(Game *g, Proc *p)
{
	const Module *m = g->f.m;
	const Stage *s = &m->plan.stages[p->stage];
	bool *owns = NEW_N(g->f.v->tmp, bool, (size_t)m->ninsts + 1);

	for (uint32_t i = 0; i < m->nparams; i++)
		owns[m->params[i].owner] |=
		    !m->params[i].borrows &&
		    (m->level >= LV_spmd && m->plan.ranks > 1 ? m->params[i].trained
							      : m->params[i].lr != 0);
	for (uint32_t n = s->first; n < s->first + s->count; n++) {
		const LayerType *l = &m->types[m->insts[n].type];

		for (int k = BK_F; k <= BK_U; k++) {
			uint32_t want = k == BK_U   ? owns[n]
					: k == BK_N ? p->done[k][n]
						    : m->plan.microbatches;

			if (!l->body[k] || (l->reshard && k > BK_F) ||
			    (m->plan.forward_only && k != BK_F) || p->done[k][n] == want ||
			    (k != BK_F && k != BK_U && !p->done[k][n]))
				continue;
			return game_wrong(g, p, "%s of %s ran for %" PRIu32 " of %" PRIu32 "%s",
					  body_str[k], name_str(m->names, m->insts[n].name),
					  p->done[k][n], want,
					  k == BK_U ? "" : " microbatches");
		}
	}
	return true;
}

/* The next step finds the new values everywhere. */
static bool
end_params(Game *g, Proc *p)
{
	const Module *m = g->f.m;

	for (uint32_t i = 0; i < m->nparams; i++) {
		Place x;

		if (!here(g, p, m->params[i].owner)) continue;
		x = state_place(g, p, i, SEC_param, false,
				value_of(g, HOLDS_param, i, m->params[i].trained));
		if (!holds(g, p, x.lo, x.hi, &x.c, "should end with")) return false;
	}
	return true;
}

bool
proc_end(Game *g, Proc *p)
{
	const Module *m = g->f.m;

	if (p->nopen)
		return game_wrong(g, p, "%s is never waited for",
				  step_str(g, p, p->open[0].step));
	if (!end_bodies(g, p)) return false;
	return m->plan.forward_only || end_params(g, p);
}
