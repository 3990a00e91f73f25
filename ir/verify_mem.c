/*
 * verify_mem.c - offsets: inside a body's scratch, and in the arena of a rank.
 *
 * A value in scratch is alive from the first operation of the kernel that makes it to the last of the kernels that read
 * it, through whatever views are taken of it; an operation outside any kernel is one of its own. No two values alive at
 * once share bytes, unless one takes over the other's buffer (`over`) where the other ends.
 */
#include "ir/text.h"

#include <inttypes.h>
#include <stdlib.h>

enum { ALIGN = 64 };

/* ---- a body ---- */

typedef struct Life {
	uint32_t v, from, to;
	int64_t at, end; /* bytes [at, end) of scratch */
} Life;

typedef struct Lives {
	const Verify *v;
	const Body *b;
	uint32_t *first,
	    *last;    /* [nops]: first and last operation of the kernel an operation is in */
	uint32_t *to; /* [nvals]: the last operation that reads it */
	Val *base;    /* [nvals]: the value whose buffer it is in */
} Lives;

static void GV_PRINTF(3, 4) val_bad(const Lives *w, uint32_t val, const char *fmt, ...)
{
	const ValDef *d = &w->b->vals[val];
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	verify_bad(w->v, d->def ? w->b->ops[d->def - 1].loc : (Loc){0}, "%s: '%%%s' %s",
		   verify_body_str(w->v, w->b), name_str(w->v->m->names, d->name), text);
}

static void
find_kernels(Lives *w)
{
	const Body *b = w->b;
	uint32_t *lo = NEW_N(w->v->tmp, uint32_t, (size_t)b->nkernels + 1);
	uint32_t *hi = NEW_N(w->v->tmp, uint32_t, (size_t)b->nkernels + 1);

	w->first = NEW_N(w->v->tmp, uint32_t, (size_t)b->nops + 1);
	w->last = NEW_N(w->v->tmp, uint32_t, (size_t)b->nops + 1);
	for (uint32_t o = 0; o < b->nops; o++) {
		uint32_t k = b->ops[o].kernel;

		if (!hi[k]) lo[k] = o;
		hi[k] = o + 1;
	}
	for (uint32_t o = 0; o < b->nops; o++) {
		uint32_t k = b->ops[o].kernel;

		w->first[o] = k ? lo[k] : o;
		w->last[o] = k ? hi[k] - 1 : o;
	}
}

/* Where each value's bytes really are: views lead back to what they re-index. */
static void
find_bases(Lives *w)
{
	const Body *b = w->b;

	w->base = NEW_N(w->v->tmp, Val, (size_t)b->nvals + 1);
	for (uint32_t i = 0; i < b->nvals; i++)
		w->base[i] = (Val){i};
	for (uint32_t o = 0; o < b->nops; o++)
		for (int r = 0; r < b->ops[o].nout; r++) {
			uint32_t i = b->ops[o].out[r].i;

			if (i && b->vals[i].space == SP_alias && b->ops[o].nin)
				w->base[i] = w->base[b->ops[o].in[0].i];
		}
}

static void
find_ends(Lives *w)
{
	const Body *b = w->b;

	w->to = NEW_N(w->v->tmp, uint32_t, (size_t)b->nvals + 1);
	for (uint32_t i = 1; i < b->nvals; i++)
		w->to[i] = b->vals[i].def ? w->last[b->vals[i].def - 1] : 0;
	for (uint32_t o = 0; o < b->nops; o++)
		for (int i = 0; i < b->ops[o].nin; i++) {
			uint32_t *to = &w->to[w->base[b->ops[o].in[i].i].i];

			if (*to < w->last[o]) *to = w->last[o];
		}
	for (uint32_t p = 0; p < b->nports; p++)
		if (!port_is_in(b->ports[p].kind)) w->to[w->base[b->ports[p].v.i].i] = b->nops;
}

static int64_t
val_bytes(const Lives *w, uint32_t i)
{
	return type_bytes(w->v->m, val_mesh(w->v->m, w->b, (Val){i}), &w->b->vals[i].type);
}

/* Whether a port names the value, or the one that takes over its buffer. */
static bool
out_port_value(const Body *b, uint32_t val)
{
	for (uint32_t p = 0; p < b->nports; p++)
		if (b->ports[p].v.i == val || b->vals[b->ports[p].v.i].over.i == val)
			return true;
	return false;
}

/* Arguments, weights and constants are read again by others; what was handed to the body alone is its own. */
static bool
may_overwrite(const Body *b, uint32_t val)
{
	for (uint32_t p = 0; p < b->nports; p++) {
		PortKind k = b->ports[p].kind;

		if (b->ports[p].v.i != val || !port_is_in(k)) continue;
		return k != PORT_arg && k != PORT_const &&
		       (k != PORT_weight || b->kind == BK_U);
	}
	return false;
}

/* A value takes over a buffer that is as large, and that nobody reads any more. */
static void
verify_over(const Lives *w, uint32_t i)
{
	const ValDef *d = &w->b->vals[i];
	const ValDef *x = &w->b->vals[d->over.i < w->b->nvals ? d->over.i : 0];

	if (d->over.i >= w->b->nvals || !d->def || x->def >= d->def) {
		val_bad(w, i, "takes over the buffer of nothing above it");
		return;
	}
	if (d->space != x->space || (d->space == SP_scratch && d->offset != x->offset))
		val_bad(w, i, "takes over a buffer, but is elsewhere");
	if (val_bytes(w, i) > val_bytes(w, d->over.i))
		val_bad(w, i, "takes over a buffer of %" PRId64 " bytes, but needs %" PRId64,
			val_bytes(w, d->over.i), val_bytes(w, i));
	if (w->to[d->over.i] > w->last[d->def - 1])
		val_bad(w, i,
			"takes over the buffer of '%%%s', which operation %" PRIu32
			" reads later",
			name_str(w->v->m->names, x->name), w->to[d->over.i]);
	if (!x->def && !may_overwrite(w->b, d->over.i))
		val_bad(w, i, "takes over the buffer of '%%%s', which the caller keeps",
			name_str(w->v->m->names, x->name));
}

static void
verify_space(const Lives *w, uint32_t i)
{
	const Body *b = w->b;
	const ValDef *d = &b->vals[i];
	const Op *op = d->def ? &b->ops[d->def - 1] : NULL;

	if (d->over.i) verify_over(w, i);
	switch (d->space) {
	case SP_none:
	case SP_COUNT: val_bad(w, i, "has no space"); break;
	case SP_port:
		if (op && !d->over.i && !out_port_value(b, i))
			val_bad(w, i, "is in a port's buffer, but no port's value");
		break;
	case SP_scratch:
		if (d->offset < 0 || d->offset % ALIGN)
			val_bad(w, i, "is at %" PRId64 ", which is not a multiple of %d",
				d->offset, ALIGN);
		else if (d->offset > b->scratch_bytes - val_bytes(w, i))
			val_bad(w, i,
				"is at %" PRId64 " and takes %" PRId64 " of %" PRId64
				" bytes of scratch",
				d->offset, val_bytes(w, i), b->scratch_bytes);
		break;
	case SP_local:
		if (!op) val_bad(w, i, "is local, but no operation makes it");
		break;
	case SP_alias:
		if (!op || !(op_info[op->code].flags & OF_VIEW))
			val_bad(w, i, "is an alias, but no view makes it");
		break;
	}
}

/* A local value never reaches memory: only its own kernel reads it. Scalars that are constant are written out. */
static void
verify_locals(const Lives *w)
{
	const Body *b = w->b;

	for (uint32_t o = 0; o < b->nops; o++)
		for (int i = 0; i < b->ops[o].nin; i++) {
			const ValDef *d = &b->vals[b->ops[o].in[i].i];
			const Op *op;

			if (d->space != SP_local || !d->def) continue;
			op = &b->ops[d->def - 1];
			if (op->code == OP_const ||
			    (op->kernel && op->kernel == b->ops[o].kernel))
				continue;
			val_bad(w, b->ops[o].in[i].i,
				"is local to a kernel, but read outside it");
		}
}

static int
by_start(const void *x, const void *y)
{
	const Life *a = x, *b = y;

	if (a->from != b->from) return a->from < b->from ? -1 : 1;
	return (a->v > b->v) - (a->v < b->v);
}

/* The first of a chain of values that took over one buffer. Operands come first, so the chain ends. */
static uint32_t
root(const Lives *w, uint32_t i)
{
	while (w->b->vals[i].over.i && w->b->vals[w->b->vals[i].over.i].def < w->b->vals[i].def)
		i = w->b->vals[i].over.i;
	return i;
}

static void
verify_overlaps(const Lives *w, Life *l, uint32_t n)
{
	uint32_t *alive = NEW_N(w->v->tmp, uint32_t, (size_t)n + 1), nalive = 0;

	qsort(l, n, sizeof(*l), by_start);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t keep = 0;

		for (uint32_t k = 0; k < nalive; k++) {
			const Life *x = &l[alive[k]];

			if (x->to < l[i].from) continue;
			alive[keep++] = alive[k];
			if (x->end <= l[i].at || l[i].end <= x->at ||
			    root(w, x->v) == root(w, l[i].v))
				continue;
			verify_bad(w->v, (Loc){0},
				   "%s: '%%%s' (bytes %" PRId64 " to %" PRId64
				   ") and '%%%s' (%" PRId64 " to %" PRId64
				   ") are alive at operation %" PRIu32,
				   verify_body_str(w->v, w->b),
				   name_str(w->v->m->names, w->b->vals[x->v].name), x->at,
				   x->end, name_str(w->v->m->names, w->b->vals[l[i].v].name),
				   l[i].at, l[i].end, l[i].from);
			return;
		}
		nalive = keep;
		alive[nalive++] = i;
	}
}

void
verify_body_memory(const Verify *v, uint32_t index)
{
	const Body *b = &v->m->bodies[index];
	Lives w = {.v = v, .b = b};
	Life *lives = NEW_N(v->tmp, Life, (size_t)b->nvals + 1);
	uint32_t n = 0;
	int errors = diag_errors(v->d);
	bool *defined = NEW_N(v->tmp, bool, (size_t)b->nvals + 1);

	if (b->scratch_bytes < 0 || b->live_bytes > b->scratch_bytes)
		verify_bad(v, (Loc){0}, "%s: %" PRId64 " bytes alive in a scratch of %" PRId64,
			   verify_body_str(v, b), b->live_bytes, b->scratch_bytes);
	find_kernels(&w);
	find_bases(&w);
	find_ends(&w);
	for (uint32_t p = 0; p < b->nports; p++)
		defined[b->ports[p].v.i] = true;
	for (uint32_t o = 0; o < b->nops; o++)
		for (int r = 0; r < b->ops[o].nout; r++)
			defined[b->ops[o].out[r].i] = true;
	for (uint32_t i = 1; i < b->nvals && !diag_stop(v->d); i++) {
		const ValDef *d = &b->vals[i];

		if (!defined[i]) continue;
		verify_space(&w, i);
		if (d->space != SP_scratch) continue;
		lives[n++] = (Life){i, d->def ? w.first[d->def - 1] : 0, w.to[i], d->offset,
				    d->offset + val_bytes(&w, i)};
	}
	verify_locals(&w);
	if (diag_errors(v->d) == errors) verify_overlaps(&w, lives, n);
}

/* ---- the arena ---- */

static void
inside(const Verify *v, const char *what, int64_t at, int64_t bytes, int64_t room)
{
	if (at == -1)
		verify_bad(v, (Loc){0}, "%s has no place", what);
	else if (at < 0 || at % ALIGN)
		verify_bad(v, (Loc){0}, "%s is at %" PRId64 ", which is not a multiple of 64",
			   what, at);
	else if (bytes > room || at > room - bytes)
		verify_bad(v, (Loc){0},
			   "%s at %" PRId64 " takes %" PRId64 " bytes, but there are %" PRId64,
			   what, at, bytes, room);
}

/* ---- of a stage ---- */

typedef struct Arena1 { /* one stage's */
	const Verify *v;
	const Stage *stage;
	const Memory *x;
	uint32_t index;
} Arena1;

static bool
here(const Arena1 *w, uint32_t inst)
{
	return inst >= w->stage->first && inst - w->stage->first < w->stage->count;
}

static bool
arrays_there(const Arena1 *w)
{
	const Module *m = w->v->m;
	const Memory *x = w->x;
	bool flats = x->flat_bytes && x->in_flat;

	for (int s = 0; s < SEC_COUNT; s++)
		flats = flats && x->flat_at[s];
	if ((m->nparams && !x->param_at) || (m->nconsts && !x->const_at) ||
	    (m->ninputs && !x->input_at) || (m->ninsts && (!x->slot_at || !x->back_at)) ||
	    !flats || (!m->plan.forward_only && (!x->cot_of || !x->cot))) {
		verify_bad(w->v, (Loc){0},
			   "the memory plan of stage %" PRIu32 " lacks a list of offsets",
			   w->index);
		return false;
	}
	return true;
}

static int
by_at(const void *x, const void *y)
{
	const Life *a = x, *b = y;

	if (a->at != b->at) return a->at < b->at ? -1 : 1;
	return (a->v > b->v) - (a->v < b->v);
}

/* Does the section keep this parameter, which is in no flat? */
static bool
keeps(const Arena1 *w, Section s, const Param *q)
{
	if (s == SEC_param || w->v->m->plan.ranks == 1) return true;
	return q->trained && (s == SEC_grad || !q->borrows);
}

/* Parameters of the flat of an instance are where ir_flat says. */
static void
verify_flat(const Arena1 *w, uint32_t inst, const Flat *f)
{
	const char *name = name_str(w->v->m->names, w->v->m->insts[inst].name);

	if (w->x->flat_bytes[inst] != f->bytes)
		verify_bad(w->v, (Loc){0},
			   "the flat of %s takes %" PRId64 " bytes, but %" PRId64
			   " are planned",
			   name, f->bytes, w->x->flat_bytes[inst]);
	for (uint32_t i = 0; i < f->n; i++)
		if (!w->x->in_flat[f->param[i]] || w->x->param_at[f->param[i]] != f->at[i])
			verify_bad(w->v, (Loc){0},
				   "parameter '%s' is at %" PRId64
				   " of the flat of %s, not at %" PRId64,
				   name_str(w->v->m->names, w->v->m->params[f->param[i]].name),
				   f->at[i], name, w->x->param_at[f->param[i]]);
	if (f->zero == 3)
		inside(w->v, name, 0, f->bytes, w->x->gather < 0 ? 0 : w->x->gather_bytes);
	if (f->zero >= 2)
		inside(w->v, name, 0, f->bytes, w->x->dwork < 0 ? 0 : w->x->dwork_bytes);
}

/* A section: parameters that are in no flat, and flats, or a rank's ranges of them. */
static void
verify_section(const Arena1 *w, Section s)
{
	const Module *m = w->v->m;
	Life *l = NEW_N(w->v->tmp, Life, (size_t)m->nparams + m->ninsts + 1);
	const int64_t scale = ir_section_scale(m, s);
	uint32_t n = 0;

	for (uint32_t p = 0; p < m->nparams; p++) {
		const Param *q = &m->params[p];

		if (!here(w, q->owner) || w->x->in_flat[p] || !keeps(w, s, q)) continue;
		l[n++] = (Life){.v = p,
				.at = scale * w->x->param_at[p],
				.end = scale * (w->x->param_at[p] +
						type_bytes(m, ir_param_mesh(m, p), &q->type))};
	}
	for (uint32_t i = w->stage->first; i < w->stage->first + w->stage->count; i++) {
		Flat f = ir_flat(m, w->v->tmp, i);

		if (!f.n || (!w->x->flat_bytes[i] && f.dp == 1 && !f.nspans)) continue;
		if (s == SEC_param) verify_flat(w, i, &f);
		l[n++] = (Life){.v = f.param[0],
				.at = w->x->flat_at[s][i],
				.end = w->x->flat_at[s][i] +
				       scale * f.bytes /
					   (ir_flat_split(f.zero, s) ? (int64_t)f.dp : 1)};
	}
	qsort(l, n, sizeof(*l), by_at);
	for (uint32_t i = 0; i < n; i++) {
		inside(w->v, name_str(m->names, m->params[l[i].v].name), l[i].at,
		       l[i].end - l[i].at, w->x->sec_bytes[s]);
		if (i && l[i].at < l[i - 1].end)
			verify_bad(
			    w->v, (Loc){0},
			    "parameters '%s' and '%s' share bytes %" PRId64 " to %" PRId64,
			    name_str(m->names, m->params[l[i - 1].v].name),
			    name_str(m->names, m->params[l[i].v].name), l[i].at, l[i - 1].end);
	}
}

static void
verify_cots(const Arena1 *w)
{
	const Module *m = w->v->m;

	for (uint32_t i = w->stage->first; i < w->stage->first + w->stage->count; i++) {
		const Body *f = &m->bodies[m->types[m->insts[i].type].body[BK_F]];

		for (uint32_t p = 0; p < f->nports; p++) {
			const Cot *c;

			if (f->ports[p].kind != PORT_out) continue;
			c = &w->x->cot[w->x->cot_of[i] + f->ports[p].slot];
			if (c->at >= 0)
				inside(w->v, name_str(m->names, m->insts[i].name),
				       c->at + (i % 2 ? c->alt : 0), 0,
				       w->x->arena_bytes - w->x->cots);
		}
	}
}

/* What a frame holds: saved values and results of F. Ports that name one value, or views of it, may share its bytes. */
static void
verify_frame(const Verify *v, const LayerType *t)
{
	const Body *f = &v->m->bodies[t->body[BK_F]];
	Lives w = {.v = v, .b = f};
	Life *l = NEW_N(v->tmp, Life, (size_t)f->nports + 1);
	uint32_t n = 0;

	if ((t->nouts && !t->out_at) || (t->nsaved && !t->saved_at) ||
	    (t->ncarry && !t->carry_at)) {
		verify_bad(v, (Loc){0}, "layer type '%s' lacks a list of offsets",
			   name_str(v->m->names, t->name));
		return;
	}
	for (uint32_t c = 0; c < t->ncarry; c++)
		if (t->carry_at[c] < -(int64_t)t->nsaved)
			verify_bad(v, (Loc){0},
				   "layer type '%s': carried value %" PRIu32
				   " is over saved value %" PRId64 " of %" PRIu32,
				   name_str(v->m->names, t->name), c, -1 - t->carry_at[c],
				   t->nsaved);
	find_bases(&w);
	for (uint32_t p = 0; p < f->nports; p++) {
		const Port *port = &f->ports[p];
		const int64_t *at = port->kind == PORT_out    ? t->out_at
				    : port->kind == PORT_save ? t->saved_at
							      : NULL;

		if (!at || at[port->slot] < 0) continue;
		l[n] = (Life){.v = w.base[port->v.i].i, .at = at[port->slot]};
		l[n].end = l[n].at + val_bytes(&w, port->v.i);
		inside(v, name_str(v->m->names, f->vals[port->v.i].name), l[n].at,
		       l[n].end - l[n].at, t->slot_frame);
		n++;
	}
	qsort(l, n, sizeof(*l), by_at);
	for (uint32_t i = 1; i < n; i++)
		if (l[i].at < l[i - 1].end && l[i].v != l[i - 1].v)
			verify_bad(v, (Loc){0},
				   "layer type '%s': '%%%s' and '%%%s' share bytes %" PRId64
				   " to %" PRId64 " of its frame",
				   name_str(v->m->names, t->name),
				   name_str(v->m->names, f->vals[l[i - 1].v].name),
				   name_str(v->m->names, f->vals[l[i].v].name), l[i].at,
				   l[i - 1].end);
}

static void
verify_stage_memory(const Arena1 *w)
{
	const Verify *v = w->v;
	const Module *m = v->m;
	const Memory *x = w->x;
	uint32_t slots = w->stage->slots ? w->stage->slots : 1;
	const struct {
		const char *what;
		int64_t at, bytes;
	} section[] = {
	    {"section param", x->sec[SEC_param], x->sec_bytes[SEC_param]},
	    {"section grad", x->sec[SEC_grad], x->sec_bytes[SEC_grad]},
	    {"section m", x->sec[SEC_m], x->sec_bytes[SEC_m]},
	    {"section v", x->sec[SEC_v], x->sec_bytes[SEC_v]},
	    {"section master", x->sec[SEC_master], x->sec_bytes[SEC_master]},
	    {"section const", x->consts, 0},
	    {"section slots", x->slots, x->slot_bytes * slots},
	    {"section cots", x->cots, 0},
	    {"section gather", x->gather, 2 * x->gather_bytes},
	    {"section dwork", x->dwork, 2 * x->dwork_bytes},
	    {"section carry", x->carry, 0},
	    {"section scratch", x->scratch, 0},
	};

	if (x->live_bytes > x->arena_bytes)
		verify_bad(v, (Loc){0}, "%" PRId64 " bytes alive in an arena of %" PRId64,
			   x->live_bytes, x->arena_bytes);
	for (size_t i = 0; i < COUNTOF(section); i++)
		if (section[i].at != -1) /* -1: the program has no such section */
			inside(v, section[i].what, section[i].at, section[i].bytes,
			       x->arena_bytes);
	if (!arrays_there(w)) return;
	for (int s = 0; s < SEC_COUNT; s++)
		if (x->sec[s] != -1) verify_section(w, (Section)s);
	for (uint32_t i = 0; i < m->nconsts; i++)
		inside(v, "a constant", x->const_at[i], type_bytes(m, NULL, &m->consts[i]),
		       x->arena_bytes - x->consts);
	for (uint32_t n = w->stage->first; n < w->stage->first + w->stage->count; n++) {
		const LayerType *l = &m->types[m->insts[n].type];

		inside(v, name_str(m->names, m->insts[n].name), x->slot_at[n], l->slot_frame,
		       x->arena_bytes - x->slots);
		for (int k = 0; k < BK_COUNT; k++)
			if (l->body[k])
				inside(v, verify_body_str(v, &m->bodies[l->body[k]]),
				       x->scratch, m->bodies[l->body[k]].scratch_bytes,
				       x->arena_bytes);
	}
	if (!m->plan.forward_only) verify_cots(w);
}

void
verify_memory(const Verify *v)
{
	const Module *m = v->m;
	int errors = diag_errors(v->d);

	for (uint32_t l = 0; l < m->ntypes && !diag_stop(v->d); l++)
		verify_frame(v, &m->types[l]);
	for (uint32_t k = 0; k < m->plan.nstages && diag_errors(v->d) == errors; k++)
		verify_stage_memory(&(Arena1){v, &m->plan.stages[k], &m->mem[k], k});
}
