/*
 * search_move.c - what a layer's arguments take to come from the mesh of the layer before to its own, within a stage, and their
 * cotangents to go back: the exchange that link.c would put there, its boxes counted on some ranks of either side.
 */
#include "passes/search.h"

static bool
same_mesh(const Candidate *a, const Candidate *b)
{
	return a->dp == b->dp && a->tp == b->tp && a->sp == b->sp && a->tp_outer == b->tp_outer;
}

static const Type *
port_type(const Layout *l, uint32_t inst, PortKind kind, uint32_t slot)
{
	const LayerType *t = &l->m->types[l->m->insts[inst].type];
	const Body *f = &l->m->bodies[t->body[BK_F]];
	const Port *p = ir_find_port(f, kind, (uint16_t)slot);
	return p ? val_type(f, p->v) : NULL;
}

/* Two layouts of the short model, on two stages or in one. */
typedef struct Crossing {
	const Layout *from, *to;
	Mesh from_mesh, to_mesh; /* as they are now: a layout's own is set at will */
	Module m;
	Stage stage[2];
	uint32_t to_stage;
	Price *price;
} Crossing;

/* One argument of instance `inst` of the short model: there, and its cotangent back. */
static void
move_arg(const Crossing *x, uint32_t inst, uint16_t a, SolveMove *out)
{
	Ref r = x->to->m->insts[inst].args[a];
	if (r.kind != REF_result) return;
	r = search_source(x->to, x->from, r);
	const Type *y = port_type(x->to, inst, PORT_arg, a),
		   *from = port_type(x->from, r.i, PORT_out, r.result);
	if (!from || !y) return;
	Prim p = {.kind = PR_exchange,
		  .dt = y->dt,
		  .from = {0, &x->from_mesh, *from},
		  .to = {x->to_stage, &x->to_mesh, *y}};
	p.from.type.partial &= 1;
	out->time += price_prim(x->price, &x->m, NULL, x->to_stage, &p);
	out->saved += (type_bytes(&x->m, &x->to_mesh, y) + 63) / 64 * 64;
	if (!ir_inst_port(x->to->m, inst, BK_B, PORT_dx, a)) return;
	Prim back = p;
	back.from = p.to;
	back.to = p.from;
	out->time += price_prim(x->price, &x->m, NULL, 0, &back);
}

/* `before`: ranks of the stage that `from` is on, in front of the spot; 0: one stage. */
static SolveMove
move(const Search *s, const Spot *spot, uint32_t class, uint32_t before, const Candidate *from,
     const Candidate *to, uint32_t mb)
{
	const char *why;
	SolveMove out = {0};
	Layout *x = search_layout(s, from, mb, &why), *y = search_layout(s, to, mb, &why);
	if (!x || !y) return (SolveMove){.time = -1};
	Crossing k = {.from = x, .to = y, .price = s->order[spot->order].price};
	search_layout_set(s, x, from->dp, mb);
	k.from_mesh = *x->mesh;
	search_layout_set(s, y, to->dp, mb);
	k.to_mesh = *y->mesh;
	k.m = *y->m;
	k.to_stage = before > 0;
	k.stage[0].rank = spot->first - before;
	k.stage[0].ranks = before ? before : spot->ranks;
	k.stage[1].rank = spot->first;
	k.stage[1].ranks = spot->ranks;
	k.m.plan.stages = k.stage;
	k.m.plan.nstages = 1 + k.to_stage;
	uint32_t inst = search_first(s->memo, y, class);
	for (uint16_t a = 0; a < y->m->types[y->m->insts[inst].type].nargs; a++)
		move_arg(&k, inst, a, &out);
	return out;
}

SolveMove
search_move(const Search *s, const Spot *spot, uint32_t class, const Candidate *from,
	    const Candidate *to, uint32_t mb)
{
	return same_mesh(from, to) ? (SolveMove){0} : move(s, spot, class, 0, from, to, mb);
}

int64_t
search_arrival(const Search *s, const Spot *spot, uint32_t class, const Candidate *to,
	       uint32_t mb)
{
	Candidate from = *to;
	if (spot->before % from.tp) from.tp = 1, from.sp = false;
	from.dp = spot->before / from.tp;
	from.tp_outer &= from.tp > 1 && from.dp > 1;
	if (from.dp > s->batch / mb || !search_all_have(s->batch / mb, from.dp)) return -1;
	return move(s, spot, class, spot->before, &from, to, mb).time;
}
