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

/* One argument of instance `inst` of the short model. */
static void
move_arg(const Search *s, const Spot *spot, const Layout *from, const Layout *to, uint32_t inst,
	 uint16_t a, SolveMove *out)
{
	Price *price = s->order[spot->order].price;
	Ref r = to->m->insts[inst].args[a];
	if (r.kind != REF_result) return;
	r = search_source(to, from, r);
	const Type *y = port_type(to, inst, PORT_arg, a),
		   *x = port_type(from, r.i, PORT_out, r.result);
	if (!x || !y) return;
	Prim p = {.kind = PR_exchange,
		  .dt = y->dt,
		  .from = {0, from->mesh, *x},
		  .to = {0, to->mesh, *y}};
	p.from.type.partial &= 1;
	out->time += price_prim(price, to->m, NULL, 0, &p);
	out->saved += (type_bytes(to->m, to->mesh, y) + 63) / 64 * 64;
	if (!ir_inst_port(to->m, inst, BK_B, PORT_dx, a)) return;
	Prim back = p;
	back.from = p.to;
	back.to = p.from;
	out->time += price_prim(price, to->m, NULL, 0, &back);
}

static SolveMove
move(const Search *s, const Spot *spot, uint32_t class, const Candidate *from,
     const Candidate *to, uint32_t mb)
{
	const char *why;
	SolveMove out = {0};
	Layout *x = search_layout(s, from, mb, &why), *y = search_layout(s, to, mb, &why);
	if (!x || !y) return out;
	uint32_t inst = search_first(s->memo, y, class);
	search_layout_set(s, x, from->dp, mb);
	search_layout_set(s, y, to->dp, mb);
	y->m->plan.stages[0].rank = spot->first;
	for (uint16_t a = 0; a < y->m->types[y->m->insts[inst].type].nargs; a++)
		move_arg(s, spot, x, y, inst, a, &out);
	y->m->plan.stages[0].rank = 0;
	return out;
}

SolveMove
search_move(const Search *s, const Spot *spot, uint32_t class, const Candidate *from,
	    const Candidate *to, uint32_t mb)
{
	return same_mesh(from, to) ? (SolveMove){0} : move(s, spot, class, from, to, mb);
}
