/*
 * partition.c - splits a differentiated joint body into F, B and W, and decides what F saves for the other two.
 *
 * Input: a joint body (F's ops, then the gradient's) with the cotangents of arguments (dx) and of weights (dw). Output:
 * B has what dx needs, W what only dw needs; what W needs of B is handed over as `carry`. A value of F that B or W read is
 *   a port   an argument, weight or constant: its buffer is kept anyway;
 *   again    computed again where it is needed, because that is cheap: constants, views, casts, and elementwise ops whose
 *            operands are at hand, unless something that wants a whole tensor in memory reads it (dot, attention, gather);
 *   saved    everything else: results of dots, attention, statistics, log-sum-exps.
 * Never saved: a view of what is saved or of an argument; what depends on constants only.
 *
 * Invariants: B and W compute nothing that no out-port needs; slots are numbered in the order of F and of B.
 */
#include "passes/passes.h"

#include <string.h>

enum { HOW_none, HOW_port, HOW_again, HOW_saved }; /* how B and W come by a value of F */
enum { NEED_none, NEED_light, NEED_whole }; /* read elementwise; read as a tensor in memory */

typedef struct Partition {
	Module *m;
	Arena *tmp;
	const Body *b; /* the joint body */
	uint32_t nf, nfops;
	bool *in[2];     /* [nops] op of the gradient is in B, in W */
	bool *reads[2];  /* [nvals] B, W read the value (or give it out) */
	uint8_t *need;   /* [nvals] strongest reading by the gradient */
	uint8_t *how;    /* [nf] */
	bool *fixed;     /* [nf] depends on constants and positions only */
	int64_t *sliced; /* [nf] entries of slices of it that are needed */
} Partition;

static bool
is_copyable(OpCode code)
{
	return code == OP_const || code == OP_pos || code == OP_view || code == OP_slice ||
	       code == OP_broadcast;
}

/* ---- which op is B's, which W's ---- */

/* Marks what `out` depends on within the gradient's ops; W leaves to B what B has, but for ops that cost nothing. */
static void
mark_slice(Partition *p, int w)
{
	for (uint32_t i = p->b->nops; i-- > p->nfops;) {
		const Op *op = &p->b->ops[i];
		bool read = false;

		for (int r = 0; r < op->nout; r++)
			read |= op->out[r].i && p->reads[w][op->out[r].i];
		if (!read || (w && p->in[0][i] && !is_copyable(op->code))) continue;
		p->in[w][i] = true;
		for (int k = 0; k < op->nin; k++)
			p->reads[w][op->in[k].i] = true;
	}
}

/* ---- what becomes of F's values ---- */

static int
op_need(const Partition *p, const Op *op)
{
	int flags = op_info[op->code].flags, need = NEED_light;

	if ((flags & OF_VIEW) && op->code != OP_broadcast) {
		for (int r = 0; r < op->nout; r++)
			if (op->out[r].i && p->need[op->out[r].i] > need)
				need = p->need[op->out[r].i];
		return need;
	}
	return op->code != OP_dot && (flags & (OF_EW | OF_RED)) ? NEED_light : NEED_whole;
}

static void
raise_need(Partition *p, Val v, int need)
{
	if (p->need[v.i] < need) p->need[v.i] = (uint8_t)need;
}

/* Backwards over all ops: who reads what, and how; a need for a view of F is a need for what it views. */
static void
find_needs(Partition *p)
{
	for (uint32_t i = p->b->nops; i-- > p->nfops;) {
		const Op *op = &p->b->ops[i];

		if (!p->in[0][i] && !p->in[1][i]) continue;
		for (int k = 0; k < op->nin; k++)
			raise_need(p, op->in[k], op_need(p, op));
	}
	for (uint32_t i = p->nfops; i-- > 0;) {
		const Op *op = &p->b->ops[i];
		Val v = op->out[0];

		for (int r = 0; r < op->nout; r++) {
			Val x = op->out[r];

			/* slices that make up the whole of x cost as much as x */
			if (x.i && p->sliced[x.i] >= type_count(p->m, NULL, val_type(p->b, x)))
				raise_need(p, x, NEED_light);
		}
		if (!v.i || !p->need[v.i]) continue;
		if (op->code == OP_view) raise_need(p, op->in[0], p->need[v.i]);
		if (op->code == OP_cast || op->code == OP_broadcast)
			raise_need(p, op->in[0], NEED_light);
		if (op->code == OP_slice)
			p->sliced[op->in[0].i] += type_count(p->m, NULL, val_type(p->b, v));
	}
}

/* Forwards over F: how each value would be had. A scalar counts as at hand: it is saved if it comes to that. */
static int
decide(const Partition *p, const Op *op, Val v)
{
	int flags = op_info[op->code].flags;
	bool again = flags & (OF_EW | OF_VIEW),
	     cheap = is_copyable(op->code) || op->code == OP_cast;

	for (int k = 0; k < op->nin && again; k++)
		again = p->how[op->in[k].i] != HOW_none || val_type(p->b, op->in[k])->n == 0;
	if (again && (cheap || p->fixed[v.i] || p->need[v.i] != NEED_whole)) return HOW_again;
	return p->need[v.i] ? HOW_saved : HOW_none;
}

static void
decide_all(Partition *p)
{
	for (uint32_t i = 0; i < p->b->nports; i++) {
		const Port *port = &p->b->ports[i];

		if (!port_is_in(port->kind) || port->v.i >= p->nf) continue;
		p->how[port->v.i] = HOW_port;
		p->fixed[port->v.i] = port->kind == PORT_const;
	}
	for (uint32_t i = 0; i < p->nfops; i++) {
		const Op *op = &p->b->ops[i];
		bool fixed = true;

		for (int k = 0; k < op->nin; k++)
			fixed &= p->fixed[op->in[k].i];
		for (int r = 0; r < op->nout; r++) {
			if (!op->out[r].i) continue;
			p->fixed[op->out[r].i] = fixed;
			p->how[op->out[r].i] = (uint8_t)decide(p, op, op->out[r]);
		}
	}
}

/* Follows values that are computed again to what they are computed from. */
static void
close_reads(Partition *p)
{
	for (uint32_t i = p->nfops; i-- > 0;) {
		const Op *op = &p->b->ops[i];

		for (int r = 0; r < op->nout; r++) {
			Val v = op->out[r];

			if (!v.i || (!p->reads[0][v.i] && !p->reads[1][v.i])) continue;
			if (p->how[v.i] == HOW_none) p->how[v.i] = HOW_saved; /* a scalar */
			if (p->how[v.i] != HOW_again) continue;
			for (int w = 0; w < 2; w++)
				for (int k = 0; k < op->nin && p->reads[w][v.i]; k++)
					p->reads[w][op->in[k].i] = true;
		}
	}
}

/* ---- building the bodies ---- */

void
copy_op(Module *m, Body *dst, const Body *src, const Op *op, Val *map)
{
	Op made = *op;

	made.in = arena_dup(m->arena, op->in, op->nin * sizeof *op->in);
	made.attrs = arena_dup(m->arena, op->attrs, op->nattr * sizeof *op->attrs);
	made.kernel = 0;
	for (int k = 0; k < op->nin; k++)
		made.in[k] = map[op->in[k].i];
	for (int r = 0; r < op->nout; r++) {
		if (!op->out[r].i) continue;
		made.out[r] =
		    ir_val(m, dst, src->vals[op->out[r].i].name, src->vals[op->out[r].i].type);
		dst->vals[made.out[r].i].def = dst->nops + 1;
		dst->vals[made.out[r].i].result = (uint8_t)r;
		map[op->out[r].i] = made.out[r];
	}
	PUSH(m->arena, dst->ops, dst->nops, dst->cops, made);
}

/* Brings v into dst: recomputed values of F with all they need, as late as possible. Depth is bounded by a stack of ours. */
static void
bring(Partition *p, Body *dst, Val *map, Val v, Val *stack)
{
	uint32_t n = 0;

	for (stack[n++] = v; n;) {
		Val top = stack[n - 1];
		const Op *op = val_op(p->b, top);
		uint32_t before = n;

		if (map[top.i].i) {
			n--;
			continue;
		}
		ENSURE(op && top.i < p->nf && p->how[top.i] == HOW_again,
		       "%s of '%s' is not at hand in the gradient", val_str(p->m, p->b, top),
		       name_str(p->m->names, p->b->name));
		for (int k = op->nin; k-- > 0;)
			if (!map[op->in[k].i].i) stack[n++] = op->in[k];
		if (n > before) continue;
		copy_op(p->m, dst, p->b, op, map);
		n--;
	}
}

static void
give_port(Partition *p, Body *dst, Val *map, PortKind kind, uint16_t slot, Val v)
{
	map[v.i] = ir_port(p->m, dst, kind, slot, p->b->vals[v.i].name, p->b->vals[v.i].type);
}

/* The in-ports a body reads: F's own, what F saved, cotangents; and into W what B carries. */
static void
give_ports(Partition *p, Body *dst, int w, Val *map)
{
	uint16_t slot = 0;

	for (int pass = 0; pass < 2;
	     pass++) { /* F's ports, then, after what is saved, the cotangents */
		for (uint32_t i = 0; i < p->b->nports; i++) {
			const Port *port = &p->b->ports[i];

			if (!port_is_in(port->kind) || !p->reads[w][port->v.i] ||
			    (port->v.i >= p->nf) != pass)
				continue;
			give_port(p, dst, map, port->kind, port->slot, port->v);
		}
		for (uint32_t v = 1; v < p->nf && !pass; v++) {
			if (p->how[v] != HOW_saved || (!p->reads[0][v] && !p->reads[1][v]))
				continue;
			if (p->reads[w][v]) give_port(p, dst, map, PORT_saved, slot, (Val){v});
			slot++;
		}
	}
}

/* Whether B hands the value to W. */
static bool
is_carried(const Partition *p, uint32_t v)
{
	uint32_t def = p->b->vals[v].def;

	return v >= p->nf && def && p->reads[1][v] && p->in[0][def - 1] && !p->in[1][def - 1];
}

static Body
build(Partition *p, int w, PortKind out, const Val *grads, uint32_t ngrads)
{
	Body made = ir_body(p->b->name, w ? BK_W : BK_B);
	Val *map = NEW_N(p->tmp, Val, p->b->nvals);
	Val *stack = NEW_N(p->tmp, Val,
			   8 * ((size_t)p->nfops + 1)); /* operands waiting: at most 5 an op */
	uint16_t slot = 0;

	give_ports(p, &made, w, map);
	for (uint32_t v = p->nf; v < p->b->nvals && w; v++)
		if (is_carried(p, v)) give_port(p, &made, map, PORT_carry, slot++, (Val){v});
	for (uint32_t i = p->nfops; i < p->b->nops; i++) {
		const Op *op = &p->b->ops[i];

		if (!p->in[w][i]) continue;
		for (int k = 0; k < op->nin; k++)
			bring(p, &made, map, op->in[k], stack);
		copy_op(p->m, &made, p->b, op, map);
	}
	for (uint32_t k = 0; k < ngrads; k++)
		if (grads[k].i) ir_out(p->m, &made, out, (uint16_t)k, map[grads[k].i]);
	for (uint32_t v = p->nf; v < p->b->nvals && !w; v++)
		if (is_carried(p, v)) ir_out(p->m, &made, PORT_carry_out, slot++, map[v]);
	return made;
}

/* ---- slots ---- */

static bool
has_port(const Body *b, PortKind kind, uint16_t slot)
{
	return ir_find_port(b, kind, slot) != NULL;
}

static void
move_slot(Body *b, PortKind kind, uint16_t from, uint16_t to)
{
	for (uint32_t i = 0; i < b->nports; i++)
		if (b->ports[i].kind == kind && b->ports[i].slot == from) b->ports[i].slot = to;
}

static void
drop_port(Body *b, PortKind kind, uint16_t slot)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->nports; i++)
		if (b->ports[i].kind != kind || b->ports[i].slot != slot)
			b->ports[n++] = b->ports[i];
	b->nports = n;
}

/* Carried values W still reads after simplification, numbered anew; returns how many. */
static uint16_t
settle_carry(Module *m, LayerType *l, Body *b, Body *w, uint16_t n)
{
	uint16_t kept = 0;

	l->carry = NEW_N(m->arena, Type, n + 1u);
	for (uint16_t s = 0; s < n; s++) {
		const Port *p = ir_find_port(b, PORT_carry_out, s);

		if (!has_port(w, PORT_carry, s)) {
			drop_port(b, PORT_carry_out, s);
			continue;
		}
		l->carry[kept] = *val_type(b, p->v);
		move_slot(b, PORT_carry_out, s, kept);
		move_slot(w, PORT_carry, s, kept++);
	}
	l->ncarry = kept;
	return kept;
}

/* Values of F that B or W read, in the order of F: out-ports of F and the type's list. */
static void
settle_saved(Partition *p, LayerType *l, Body *f, Body *b, Body *w)
{
	uint16_t slot = 0, kept = 0;

	l->saved = NEW_N(p->m->arena, Type, p->nf);
	for (uint32_t v = 1; v < p->nf; v++) {
		if (p->how[v] != HOW_saved || (!p->reads[0][v] && !p->reads[1][v])) continue;
		if (has_port(b, PORT_saved, slot) || has_port(w, PORT_saved, slot)) {
			ir_out(p->m, f, PORT_save, kept, (Val){v});
			l->saved[kept] = p->b->vals[v].type;
			move_slot(b, PORT_saved, slot, kept);
			move_slot(w, PORT_saved, slot, kept++);
		}
		slot++;
	}
	l->nsaved = kept;
}

static uint32_t
add_body(Module *m, Body b)
{
	for (uint32_t i = 0; i < b.nports; i++)
		if (!port_is_in(b.ports[i].kind)) return ir_add_body(m, b);
	return 0;
}

void
partition_body(Ctx *c, Module *m, const Joint *j)
{
	const Body *b = j->g->b;
	LayerType *l = &m->types[j->type];
	Partition p = {
	    .m = m,
	    .tmp = c->tmp,
	    .b = b,
	    .nf = j->g->nf,
	    .nfops = j->g->nfops,
	    .in = {NEW_N(c->tmp, bool, b->nops + 1), NEW_N(c->tmp, bool, b->nops + 1)},
	    .reads = {NEW_N(c->tmp, bool, b->nvals), NEW_N(c->tmp, bool, b->nvals)},
	    .need = NEW_N(c->tmp, uint8_t, b->nvals),
	    .how = NEW_N(c->tmp, uint8_t, b->nvals),
	    .fixed = NEW_N(c->tmp, bool, b->nvals),
	    .sliced = NEW_N(c->tmp, int64_t, b->nvals),
	};
	uint16_t ncarry = 0;

	for (uint32_t k = 0; k < l->nargs; k++)
		p.reads[0][j->dx[k].i] = true;
	for (uint32_t k = 0; k < l->nweights; k++)
		p.reads[1][j->dw[k].i] = true;
	p.reads[0][0] = p.reads[1][0] = false;
	mark_slice(&p, 0);
	mark_slice(&p, 1);
	find_needs(&p);
	decide_all(&p);
	close_reads(&p);

	Body bb = build(&p, 0, PORT_dx, j->dx, l->nargs),
	     bw = build(&p, 1, PORT_dw, j->dw, l->nweights);
	for (uint32_t v = p.nf; v < b->nvals; v++)
		ncarry = (uint16_t)(ncarry + is_carried(&p, v));
	simplify_body(m, &bw, c->tmp, false);
	settle_carry(m, l, &bb, &bw, ncarry);
	simplify_body(m, &bb, c->tmp, false);

	Body *f = &m->bodies[l->body[BK_F]];
	settle_saved(&p, l, f, &bb, &bw);
	body_dce(m, f);
	uint32_t made_b = add_body(m, bb), made_w = add_body(m, bw);
	m->types[j->type].body[BK_B] = made_b;
	m->types[j->type].body[BK_W] = made_w;
}
