/*
 * remat.c - recomputation: what F does not save, B computes again and hands to W.
 *
 *   none       what autodiff left: everything but cheap elementwise chains is saved
 *   selective  saved are results of contractions and statistics (dot, attention, reductions,
 *              ...); the elementwise rest is computed again from them, by B, or by W if only W
 *              wants it
 *   full       only the layer's arguments are kept (the caller does that); F runs again in B,
 *              which carries to W
 *
 * Input: sharded bodies of one type, with the slots autodiff gave. Output: the same with fewer
 * saved slots, numbered anew in the order of F. Random draws depend on their place only, so
 * what is computed again is the same to the bit. Computed again as late as possible, so that
 * buffers live briefly (Chen et al., "Training deep nets with sublinear memory cost", 2016;
 * Korthikanti et al., "Reducing activation recomputation in large transformer models", 2022,
 * for selective).
 */
#include <string.h>

#include "passes/passes.h"

typedef struct Remat {
	Ctx *c;
	Module *m;
	Recompute mode;
	LayerType *t;
	Body *f;
	Val *saved;     /* [t->nsaved] the value of F behind a slot */
	bool *keep;     /* [F's nvals] saved from now on */
	uint16_t *slot; /* [F's nvals] new slot of what is kept */
} Remat;

/* ---- what is kept ---- */

static bool
is_heavy(const Op *op)
{
	int flags = op_info[op->code].flags;
	return !(flags & (OF_EW | OF_VIEW | OF_CONST)) && op->code != OP_gather;
}

/* Marks what `v` is recomputed from: adds to keep in selective mode. seen: [F's nvals]. */
static void
trace_back(Remat *r, Val v, bool *seen)
{
	const Body *f = r->f;
	for (uint32_t i = 0; i < f->nvals; i++)
		seen[i] = false;
	seen[v.i] = true;
	for (uint32_t i = f->nops; i-- > 0;) {
		const Op *op = &f->ops[i];
		bool wanted = false, heavy = r->mode == RC_selective && is_heavy(op);
		for (int k = 0; k < op->nout; k++) {
			if (!op->out[k].i || !seen[op->out[k].i]) continue;
			wanted = true;
			if (heavy) r->keep[op->out[k].i] = true;
		}
		for (int k = 0; wanted && !heavy && k < op->nin; k++)
			seen[op->in[k].i] = true;
	}
}

static int64_t
bytes_of(const Remat *r, Val v)
{
	return type_bytes(r->m, ir_mesh(r->m, r->f), val_type(r->f, v));
}

/* Decides keep[]; false if that would save no memory. */
static bool
choose(Remat *r)
{
	bool *seen = NEW_N(r->c->tmp, bool, r->f->nvals);
	int64_t before = 0, after = 0;
	for (uint32_t s = 0; s < r->t->nsaved; s++) {
		trace_back(r, r->saved[s], seen);
		before += bytes_of(r, r->saved[s]);
	}
	for (uint32_t v = 1; v < r->f->nvals; v++)
		if (r->keep[v]) after += bytes_of(r, (Val){v});
	return after < before;
}

/* ---- bodies ---- */

static void
drop_ports(Body *b, PortKind kind)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < b->nports; i++)
		if (b->ports[i].kind != kind) b->ports[n++] = b->ports[i];
	b->nports = n;
}

/* The value of in-port (kind, slot) of dst, added if it is not there. */
static Val
port_value(Remat *r, Body *dst, PortKind kind, uint16_t slot, Val v)
{
	const Port *p = ir_find_port(dst, kind, slot);
	if (p) return p->v;
	return ir_port(r->m, dst, kind, slot, r->f->vals[v.i].name, *val_type(r->f, v));
}

/* Moves each of the first n ops to just before its first reader. */
static void
sink(Remat *r, Body *b, uint32_t n)
{
	for (uint32_t i = n; i-- > 0;) {
		uint32_t first = b->nops;
		for (uint32_t j = b->nops; j-- > i + 1;)
			for (int k = 0; k < b->ops[j].nin; k++)
				if (b->vals[b->ops[j].in[k].i].def == i + 1) first = j;
		if (first == b->nops || first == i + 1) continue;
		Op op = b->ops[i];
		memmove(b->ops + i, b->ops + i + 1, sizeof op * (first - 1 - i));
		b->ops[first - 1] = op;
		body_number(b);
	}
	(void)r;
}

/* Copies into dst what makes the values wanted[F value]; map gives their values there. */
static void
recompute(Remat *r, Body *dst, const bool *wanted, Val *map)
{
	const Body *f = r->f;
	bool *need = NEW_N(r->c->tmp, bool, f->nvals);
	memcpy(need, wanted, sizeof *need * f->nvals);
	for (uint32_t i = f->nops; i-- > 0;) {
		const Op *op = &f->ops[i];
		bool any = false;
		for (int k = 0; k < op->nout; k++)
			any |= op->out[k].i && need[op->out[k].i] && !r->keep[op->out[k].i];
		for (int k = 0; any && k < op->nin; k++)
			need[op->in[k].i] = true;
	}
	for (uint32_t i = 0; i < f->nports; i++) {
		const Port *p = &f->ports[i];
		if (port_is_in(p->kind) && need[p->v.i])
			map[p->v.i] = port_value(r, dst, p->kind, p->slot, p->v);
	}
	uint32_t from = dst->nops;
	for (uint32_t i = 0; i < f->nops; i++) {
		const Op *op = &f->ops[i];
		bool any = false;
		for (int k = 0; k < op->nout; k++) {
			Val v = op->out[k];
			if (!v.i || !need[v.i]) continue;
			if (r->keep[v.i])
				map[v.i] = port_value(r, dst, PORT_saved, r->slot[v.i], v);
			else
				any = true;
		}
		if (!any) continue;
		copy_op(r->m, dst, f, op, map);
	}
	uint32_t n = dst->nops - from;
	body_move(r->c->tmp, dst, from, 0);
	sink(r, dst, n);
}

/* Reads of `from` become reads of `to`, by ops and out-ports. */
static void
replace(Body *b, Val from, Val to)
{
	for (uint32_t i = 0; i < b->nops; i++)
		for (int k = 0; k < b->ops[i].nin; k++)
			if (b->ops[i].in[k].i == from.i) b->ops[i].in[k] = to;
	for (uint32_t i = 0; i < b->nports; i++)
		if (!port_is_in(b->ports[i].kind) && b->ports[i].v.i == from.i)
			b->ports[i].v = to;
}

/*
 * Takes the saved ports off a body and gives them back as they are now: kept under a new slot,
 * recomputed, or (W) carried. carry: [F's nvals] 1 + carry slot of what B hands over; NULL:
 * none.
 */
static void
rewire(Remat *r, Body *b, const bool *extra, const uint16_t *carry, Val *map)
{
	const Body *f = r->f;
	Port *old = arena_dup(r->c->tmp, b->ports, sizeof *old * b->nports);
	uint32_t nold = b->nports;
	bool *wanted = NEW_N(r->c->tmp, bool, f->nvals);
	if (extra) memcpy(wanted, extra, sizeof *wanted * f->nvals);
	drop_ports(b, PORT_saved);
	for (uint32_t i = 0; i < nold; i++) { /* kept ones keep their value */
		if (old[i].kind != PORT_saved) continue;
		Val v = r->saved[old[i].slot];
		if (r->keep[v.i] || (carry && carry[v.i])) {
			Port p = {r->keep[v.i] ? PORT_saved : PORT_carry, r->slot[v.i],
				  old[i].v};
			if (!r->keep[v.i]) p.slot = (uint16_t)(carry[v.i] - 1);
			PUSH(r->m->arena, b->ports, b->nports, b->cports, p);
		} else {
			wanted[v.i] = true;
		}
	}
	recompute(r, b, wanted, map);
	for (uint32_t i = 0; i < nold; i++) {
		if (old[i].kind != PORT_saved) continue;
		Val v = r->saved[old[i].slot];
		if (!r->keep[v.i] && !(carry && carry[v.i])) replace(b, old[i].v, map[v.i]);
	}
}

/* Whether a body reads saved slot s. */
static bool
reads(const Body *b, uint16_t slot)
{
	return b && ir_find_port(b, PORT_saved, slot);
}

/* What B makes again and W wants too; in full mode all that W wants. Gives carry slots after
 * those there are. */
static uint16_t *
choose_carry(Remat *r, const Body *b, const Body *w)
{
	uint16_t *carry = NEW_N(r->c->tmp, uint16_t, r->f->nvals), n = (uint16_t)r->t->ncarry;
	for (uint16_t s = 0; b && w && s < r->t->nsaved; s++) {
		Val v = r->saved[s];
		if (r->keep[v.i] || !reads(w, s) || carry[v.i]) continue;
		if (r->mode == RC_full || reads(b, s)) carry[v.i] = ++n;
	}
	return carry;
}

static void
carry_out(Remat *r, Body *b, const uint16_t *carry, const Val *map)
{
	LayerType *t = r->t;
	uint32_t cap = t->ncarry;
	for (uint32_t v = 1; v < r->f->nvals; v++)
		cap += carry[v] != 0;
	Type *types = NEW_N(r->m->arena, Type, cap);
	for (uint32_t i = 0; i < t->ncarry; i++)
		types[i] = t->carry[i];
	for (uint32_t v = 1; v < r->f->nvals; v++) {
		if (!carry[v]) continue;
		types[carry[v] - 1] = *val_type(r->f, (Val){v});
		ir_out(r->m, b, PORT_carry_out, (uint16_t)(carry[v] - 1), map[v]);
	}
	t->carry = types;
	t->ncarry = cap;
}

static void
save_anew(Remat *r)
{
	LayerType *t = r->t;
	uint16_t n = 0;
	for (uint32_t v = 1; v < r->f->nvals; v++)
		n = (uint16_t)(n + r->keep[v]);
	t->saved = NEW_N(r->m->arena, Type, n);
	drop_ports(r->f, PORT_save);
	for (uint32_t v = 1; v < r->f->nvals; v++) {
		if (!r->keep[v]) continue;
		t->saved[r->slot[v]] = *val_type(r->f, (Val){v});
		ir_out(r->m, r->f, PORT_save, r->slot[v], (Val){v});
	}
	t->nsaved = n;
}

/* requires: sharded bodies; body[k] may be NULL. Slots of saved and carry are numbered anew,
 * in F, B and W alike. */
void
remat_type(Ctx *c, Module *m, Recompute mode, LayerType *t, Body *body[BK_COUNT])
{
	Body *b = body[BK_B], *w = body[BK_W];
	Remat r = {.c = c, .m = m, .mode = mode, .t = t, .f = body[BK_F]};
	if (mode == RC_none || !t->nsaved || (!b && !w)) return;
	r.saved = NEW_N(c->tmp, Val, t->nsaved);
	r.keep = NEW_N(c->tmp, bool, r.f->nvals);
	r.slot = NEW_N(c->tmp, uint16_t, r.f->nvals);
	for (uint16_t s = 0; s < t->nsaved; s++)
		r.saved[s] = ir_find_port(r.f, PORT_save, s)->v;
	if (!choose(&r)) return;
	for (uint32_t v = 1, n = 0; v < r.f->nvals; v++)
		if (r.keep[v]) r.slot[v] = (uint16_t)n++;
	uint16_t *carry = choose_carry(&r, b, w);
	Val *map = NEW_N(c->tmp, Val, r.f->nvals);
	if (b) {
		bool *extra = NEW_N(c->tmp, bool, r.f->nvals);
		for (uint32_t v = 1; v < r.f->nvals; v++)
			extra[v] = carry[v];
		rewire(&r, b, extra, NULL, map);
		carry_out(&r, b, carry, map);
		body_sort_ports(b);
	}
	if (w) {
		memset(map, 0, sizeof *map * r.f->nvals);
		rewire(&r, w, NULL, b ? carry : NULL, map);
		body_sort_ports(w);
	}
	save_anew(&r);
	body_sort_ports(r.f);
	for (int k = BK_F; k <= BK_W; k++)
		if (body[k]) body_dce(m, body[k]);
}
