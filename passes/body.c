/*
 * body.c - what passes do to bodies: copy, append without inference, reorder.
 *
 * Ops of lowered bodies carry local types that inference on global axes does not know, so
 * passes below level plan append ops as they stand; the verifier checks them afterwards.
 */
#include <string.h>

#include "passes/passes.h"

Body
body_copy(Arena *a, const Body *b)
{
	Body r = *b;
	r.ports = arena_dup(a, b->ports, sizeof *b->ports * b->nports);
	r.vals = arena_dup(a, b->vals, sizeof *b->vals * b->nvals);
	r.ops = arena_dup(a, b->ops, sizeof *b->ops * b->nops);
	r.cports = b->nports, r.cvals = b->nvals, r.cops = b->nops;
	r.index = NULL; /* that of names is the original's, and both may grow */
	for (uint32_t i = 0; i < r.nops; i++) {
		Op *op = &r.ops[i];
		op->in = arena_dup(a, op->in, sizeof *op->in * op->nin);
		op->attrs = arena_dup(a, op->attrs, sizeof *op->attrs * op->nattr);
	}
	return r;
}

Val
body_op(Module *m, Body *b, OpCode code, const Val *in, int nin, const Attr *attrs, int nattr,
	const Type *types, Loc loc)
{
	const OpInfo *info = &op_info[code];
	Op op = {.code = code,
		 .nin = (uint8_t)nin,
		 .nout = info->nout,
		 .nattr = (uint8_t)nattr,
		 .loc = loc};
	op.in = arena_dup(m->arena, in, sizeof *in * (size_t)nin);
	op.attrs = arena_dup(m->arena, attrs, sizeof *attrs * (size_t)nattr);
	for (int r = 0; r < info->nout; r++) {
		if (types[r].dt == DT_none) continue;
		op.out[r] = ir_val(m, b, name_of(m->names, info->text), types[r]);
		b->vals[op.out[r].i].def = b->nops + 1;
		b->vals[op.out[r].i].result = (uint8_t)r;
	}
	PUSH(m->arena, b->ops, b->nops, b->cops, op);
	return op.out[0];
}

void
body_number(Body *b)
{
	for (uint32_t v = 1; v < b->nvals; v++)
		b->vals[v].def = 0, b->vals[v].result = 0;
	for (uint32_t i = 0; i < b->nops; i++)
		for (int r = 0; r < b->ops[i].nout; r++) {
			ValDef *v = &b->vals[b->ops[i].out[r].i];
			if (!b->ops[i].out[r].i) continue;
			v->def = i + 1;
			v->result = (uint8_t)r;
		}
}

void
body_move(Arena *tmp, Body *b, uint32_t from, uint32_t at)
{
	uint32_t n = b->nops - from;
	if (at >= from || n == 0) return;
	Op *tail = arena_dup(tmp, b->ops + from, sizeof *tail * n);
	memmove(b->ops + at + n, b->ops + at, sizeof *b->ops * (from - at));
	memcpy(b->ops + at, tail, sizeof *tail * n);
	body_number(b);
}

void
body_sort_ports(Body *b)
{
	for (uint32_t i = 1; i < b->nports; i++) {
		Port p = b->ports[i];
		uint32_t j = i;
		for (; j > 0; j--) {
			const Port *q = &b->ports[j - 1];
			if (q->kind < p.kind || (q->kind == p.kind && q->slot <= p.slot)) break;
			b->ports[j] = *q;
		}
		b->ports[j] = p;
	}
}

bool
body_passed(const Body *b, Val v)
{
	return b->vals[v.i].def == 0;
}

bool
body_is_out(const Body *b, Val v)
{
	for (uint32_t i = 0; i < b->nports; i++)
		if (!port_is_in(b->ports[i].kind) && b->ports[i].v.i == v.i) return true;
	return false;
}
