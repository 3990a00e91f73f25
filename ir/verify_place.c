/*
 * verify_place.c - where a process has what a step reads or writes, and what must be there.
 *
 * Input: the stage's Memory and the facts of verify_flow.c. A place is a range of bytes and its content; an empty one is
 * nowhere in memory. Sections of a parameter that ZeRO splits are cut to this rank's range of its flat.
 */
#include "ir/flow.h"

int64_t
slot_base(const Game *g, const Proc *p, const Step *s)
{
	uint32_t slots = g->f.m->plan.stages[p->stage].slots;
	int64_t slot = (int64_t)s->a.mb + s->slot;

	if (!slots) slots = 1;
	return p->x->slots + (slot % slots + slots) % slots * p->x->slot_bytes;
}

Place
place_at(int64_t lo, int64_t bytes, Content c)
{
	if (c.what != HOLDS_nothing) c.at = lo;
	return (Place){lo, lo + bytes, c};
}

bool
in_stage(const Game *g, const Proc *p, uint32_t n)
{
	const Stage *s = &g->f.m->plan.stages[p->stage];

	return n >= s->first && n - s->first < s->count;
}

/* What an argument is read from. */
Place
place_arg(const Game *g, const Proc *p, const Step *s, Ref ref, int64_t bytes)
{
	const Flow *f = &g->f;
	const TypeFacts *t;

	ref = flow_origin(f, ref);
	if (ref.kind == REF_input)
		return place_at(slot_base(g, p, s) + p->x->input_at[ref.i], bytes,
				(Content){HOLDS_input, ref.i, 0, s->a.mb, 0, 0});
	if (ref.kind != REF_result) return (Place){0};
	t = &f->type[f->m->insts[ref.i].type];
	return place_at(slot_base(g, p, s) + p->x->slot_at[ref.i] + t->out_at[ref.result],
			bytes,
			(Content){HOLDS_frame, ref.i, t->out_val[ref.result], s->a.mb, 0, 0});
}

static int64_t
cot_at(const Proc *p, uint32_t inst, uint32_t result)
{
	const Cot *c = &p->x->cot[p->x->cot_of[inst] + result];

	return c->at < 0 ? -1 : p->x->cots + c->at + (inst % 2 ? c->alt : 0);
}

/* Which microbatch a cotangent is taken to be of. */
static uint32_t
cot_turn(const Game *g, const Proc *p, const Step *s)
{
	return s->a.mb + (g->f.m->plan.stages[p->stage].slots > 1 ? (uint32_t)s->slot : 0);
}

Place
place_cot(const Game *g, const Proc *p, const Step *s, uint32_t inst, uint32_t result,
	  int64_t bytes)
{
	const Flow *f = &g->f;

	return place_at(cot_at(p, inst, result), bytes,
			(Content){HOLDS_cot, inst, result, cot_turn(g, p, s),
				  f->cot_sum[f->res0[inst] + result], 0});
}

Place
place_carry(const Game *g, const Proc *p, const Step *s, uint32_t slot, int64_t bytes)
{
	const TypeFacts *t = &g->f.type[g->f.m->insts[s->a.inst].type];
	int64_t frame = slot_base(g, p, s) + p->x->slot_at[s->a.inst], lo = t->carry_at[slot];

	if (lo < 0)
		lo = frame + t->saved_at[-1 - lo];
	else
		lo += p->x->carry < 0 ? frame : p->x->carry;
	return place_at(lo, bytes, (Content){HOLDS_carry, s->a.inst, slot, s->a.mb, 0, 0});
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
Place
place_state(const Game *g, const Proc *p, uint32_t param, Section s, bool range, Content c)
{
	const Param *q = &g->f.m->params[param];
	int64_t bytes = type_bytes(g->f.m, ir_param_mesh(g->f.m, param), &q->type), in, lo, hi;
	const int64_t scale = ir_section_scale(g->f.m, s);
	const Flat *flat = flat_of(&g->f, param, &in);
	Place x;

	bytes *= scale;
	if (!flat || !p->x->in_flat || !p->x->in_flat[param])
		return place_at(p->x->sec[s] + scale * p->x->param_at[param], bytes, c);
	own_range(g, p, q->owner, flat, &lo, &hi);
	lo *= scale;
	hi *= scale;
	x = place_at(scale * in, bytes, c);
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
uint32_t
param_version(const Game *g, const Proc *p, uint32_t param)
{
	const Param *q = &g->f.m->params[param];

	return q->trained && !q->borrows && p->done[BK_U][q->owner] > 0;
}

Content
param_content(const Game *g, What what, uint32_t param, uint32_t after)
{
	return (Content){what, g->f.owner[param], after, 0, 0, 0};
}

/* ZeRO 3: a parameter in its gather buffer; ZeRO 2, 3: its gradient before it is summed. */
Place
place_buffer(const Game *g, const Proc *p, uint32_t param, bool dwork, Content c)
{
	const Param *q = &g->f.m->params[param];
	int64_t in = 0, base = dwork ? p->x->dwork : p->x->gather;

	flat_of(&g->f, param, &in);
	base += q->owner % 2 * (dwork ? p->x->dwork_bytes : p->x->gather_bytes);
	return place_at(base + in, type_bytes(g->f.m, ir_param_mesh(g->f.m, param), &q->type),
			c);
}

int
param_zero(const Game *g, uint32_t param)
{
	int64_t in;
	const Flat *flat = flat_of(&g->f, param, &in);

	return flat ? flat->zero : 0;
}

Place
place_weight(const Game *g, const Proc *p, uint32_t param)
{
	Content c = param_content(g, HOLDS_param, param, 0);

	if (param_zero(g, param) == 3) return place_buffer(g, p, param, false, c);
	return place_state(g, p, param, SEC_param, false, c);
}

/* The gradient as N and U want it. */
Content
grad_content(const Game *g, uint32_t param)
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
