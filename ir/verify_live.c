/*
 * verify_live.c - level mem: no two buffers of the arena that are alive at once share bytes, all through a step.
 *
 * Sections may overlap (the last frames lie where earlier layers work), so buffers are judged by time, while
 * verify_sched.c walks the actions:
 *
 *   state, constants   always
 *   inputs             from the first fetch on
 *   frame of (n, slot) from its F to its last B or W
 *   cotangent          from the first B that adds to it to the last B or W of the instance whose result it is of
 *   carry of n         from its B to its W; what is written over a saved value is in the frame
 *   scratch            while the body runs
 *
 * Where B and W read arguments, the frame the argument is in must be alive. A frame nobody reads back (its instance runs
 * neither B nor W) is left out: it may go as soon as its readers are done.
 */
#include "ir/text.h"

#include <inttypes.h>
#include <stdio.h>

enum { MAX_COMPARED = 1 << 26 }; /* a step is periodic: what has been seen by then repeats */

typedef enum BufKind { BUF_fixed, BUF_input, BUF_frame, BUF_cot, BUF_carry } BufKind;

static const char *const buf_str[] = {"state or constants", "input", "the frame of",
				      "the cotangent of", "what B hands to W of"};

typedef struct Region {
	BufKind kind;
	uint32_t id, slot; /* instance, input or, for a cotangent, index into Memory.cot */
	uint32_t inst;
	Name name;
	int64_t lo, hi;
} Region;

struct Live {
	const Verify *v;
	const Stage *stage;
	uint32_t slots;
	Region *at; /* alive now */
	uint32_t n, cap;
	uint8_t *ran; /* [ninsts]: how many of B and W the table runs for each microbatch */
	uint8_t *
	    left; /* [ninsts * slots]: of them still to come; the frame is alive while there are any */
	int64_t *input_bytes;
	uint64_t compared;
	bool ok;
};

static const LayerType *
type_of(const Live *w, uint32_t n)
{
	return &w->v->m->types[w->v->m->insts[n].type];
}

static const Body *
body_of(const Live *w, uint32_t n, BodyKind k)
{
	return &w->v->m->bodies[type_of(w, n)->body[k]];
}

static const Port *
port_of(const Live *w, uint32_t n, BodyKind k, PortKind kind, uint32_t slot)
{
	return type_of(w, n)->body[k] ? ir_find_port(body_of(w, n, k), kind, (uint16_t)slot)
				      : NULL;
}

static const char *
region_str(const Live *w, const Region *r)
{
	Buf b;

	buf_init(&b, w->v->tmp);
	buf_printf(&b, "%s %s (bytes %" PRId64 " to %" PRId64 ")", buf_str[r->kind],
		   name_str(w->v->m->names, r->name), r->lo, r->hi);
	return b.s;
}

static bool
same_region(const Region *a, const Region *b)
{
	return a->kind == b->kind && a->id == b->id && a->slot == b->slot;
}

/* Nothing alive but `r` itself shares bytes with it. */
static void
check_region(Live *w, uint32_t action, const Region *r, const char *what)
{
	for (uint32_t i = 0; i < w->n && w->ok; i++) {
		const Region *x = &w->at[i];

		if (x->hi <= r->lo || r->hi <= x->lo || same_region(x, r)) continue;
		verify_bad(w->v, (Loc){0},
			   "action %" PRIu32 ": %s at bytes %" PRId64 " to %" PRId64
			   " lies over %s, which is still read",
			   action, what, r->lo, r->hi, region_str(w, x));
		w->ok = false;
	}
	w->compared += w->n;
}

static void
begin(Live *w, uint32_t action, Region r)
{
	char what[200];

	if (r.hi <= r.lo) return;
	for (uint32_t i = 0; i < w->n; i++)
		if (same_region(&w->at[i], &r) && w->at[i].lo == r.lo) return;
	snprintf(what, sizeof(what), "%s %s", buf_str[r.kind],
		 name_str(w->v->m->names, r.name));
	check_region(w, action, &r, what);
	PUSH(w->v->tmp, w->at, w->n, w->cap, r);
}

static void
end(Live *w, BufKind kind, uint32_t inst, uint32_t slot)
{
	uint32_t keep = 0;

	for (uint32_t i = 0; i < w->n; i++)
		if (w->at[i].kind != kind || w->at[i].inst != inst || w->at[i].slot != slot)
			w->at[keep++] = w->at[i];
	w->n = keep;
}

/* ---- what there is from the start ---- */

static void
fixed(Live *w, int64_t at, int64_t bytes, uint32_t id)
{
	if (at >= 0) begin(w, 0, (Region){BUF_fixed, id, 0, UINT32_MAX, 0, at, at + bytes});
}

/* How many of B and W run for each instance: the table without its loop over microbatches. */
static void
count_runs(Live *w)
{
	const Module *m = w->v->m;
	uint32_t turns[64] = {1}, depth = 0;

	for (uint32_t i = 0; i < w->stage->nactions; i++) {
		const Action *a = &m->actions[w->stage->action + i];

		if ((a->kind == ACT_mb || a->kind == ACT_layers) &&
		    depth + 1 < COUNTOF(turns)) {
			turns[depth + 1] = a->kind == ACT_layers ? a->count : turns[depth];
			depth++;
		} else if (a->kind == ACT_end && depth) {
			depth--;
		}
		if (a->kind != ACT_body || (a->bk != BK_B && a->bk != BK_W)) continue;
		for (uint32_t k = 0; k < turns[depth] && k <= m->ninsts; k++) {
			int64_t n = a->inst + (int64_t)k * a->stride;

			if (n >= 0 && n < m->ninsts && w->ran[n] < 2) w->ran[n]++;
		}
	}
}

/* An input's bytes on this rank, as the bodies that read it are sharded. */
static void
find_inputs(Live *w)
{
	const Module *m = w->v->m;

	for (uint32_t n = 0; n < m->ninsts; n++)
		for (uint32_t a = 0; a < type_of(w, n)->nargs; a++) {
			Ref ref = m->insts[n].args[a];
			const Port *p = port_of(w, n, BK_F, PORT_arg, a);
			const Body *f = body_of(w, n, BK_F);
			int64_t bytes;

			if (ref.kind != REF_input || !p) continue;
			bytes = type_bytes(m, ir_mesh(m, f), &f->vals[p->v.i].type);
			if (bytes > w->input_bytes[ref.i]) w->input_bytes[ref.i] = bytes;
		}
}

Live *
live_new(const Verify *v, const Stage *stage)
{
	const Module *m = v->m;
	const Memory *x = &m->mem[0];
	const int64_t state[] = {x->sec[SEC_param], x->sec[SEC_grad], x->sec[SEC_m],
				 x->sec[SEC_v]};
	Live *w = NEW(v->tmp, Live);

	*w = (Live){
	    .v = v, .stage = stage, .slots = stage->slots ? stage->slots : 1, .ok = true};
	w->ran = NEW_N(v->tmp, uint8_t, (size_t)m->ninsts + 1);
	w->left = NEW_N(v->tmp, uint8_t, (size_t)m->ninsts * w->slots + 1);
	w->input_bytes = NEW_N(v->tmp, int64_t, (size_t)m->ninputs + 1);
	count_runs(w);
	find_inputs(w);
	for (uint32_t i = 0; i < COUNTOF(state); i++)
		fixed(w, state[i], x->sec_bytes[SEC_param], i);
	for (uint32_t i = 0; i < m->nconsts; i++)
		fixed(w, x->consts + x->const_at[i], type_bytes(m, NULL, &m->consts[i]), 4 + i);
	return w;
}

/* ---- actions ---- */

static int64_t
slot_at(const Live *w, uint32_t t)
{
	return w->v->m->mem[0].slots + (int64_t)(t % w->slots) * w->v->m->mem[0].slot_bytes;
}

bool
live_input(Live *w, uint32_t action, uint32_t t)
{
	const Module *m = w->v->m;

	for (uint32_t i = 0; i < m->ninputs && w->ok; i++) {
		int64_t at = slot_at(w, t) + m->mem[0].input_at[i];

		begin(w, action,
		      (Region){BUF_input, i, t % w->slots, UINT32_MAX, m->inputs[i].name, at,
			       at + w->input_bytes[i]});
	}
	return w->ok;
}

static void
scratch(Live *w, uint32_t action, BodyKind k, uint32_t n)
{
	const Body *b = body_of(w, n, k);
	int64_t at = w->v->m->mem[0].scratch;
	char what[200];

	snprintf(what, sizeof(what), "the scratch of %s of %s", body_str[k],
		 name_str(w->v->m->names, w->v->m->insts[n].name));
	if (at >= 0 && b->scratch_bytes)
		check_region(
		    w, action,
		    &(Region){BUF_fixed, UINT32_MAX, 0, 0, 0, at, at + b->scratch_bytes}, what);
}

static void
run_forward(Live *w, uint32_t action, uint32_t n, uint32_t t)
{
	const Module *m = w->v->m;
	int64_t at = slot_at(w, t) + m->mem[0].slot_at[n];

	if (!w->ran[n]) return;
	w->left[(size_t)n * w->slots + t % w->slots] = w->ran[n];
	begin(w, action,
	      (Region){BUF_frame, n, t % w->slots, n, m->insts[n].name, at,
		       at + type_of(w, n)->slot_frame});
}

/* B adds to the cotangents of what it was given. */
static void
begin_cots(Live *w, uint32_t action, uint32_t n)
{
	const Module *m = w->v->m;

	for (uint32_t a = 0; a < type_of(w, n)->nargs; a++) {
		Ref ref = m->insts[n].args[a];
		const Port *out, *dx = port_of(w, n, BK_B, PORT_dx, a);
		const Body *f;
		uint32_t k;
		int64_t at;

		if (ref.kind != REF_result || !dx || !m->mem[0].cot_of) continue;
		if (!port_of(w, ref.i, BK_B, PORT_cot, ref.result) &&
		    !port_of(w, ref.i, BK_W, PORT_cot, ref.result))
			continue; /* nobody wants it */
		f = body_of(w, ref.i, BK_F);
		out = port_of(w, ref.i, BK_F, PORT_out, ref.result);
		k = m->mem[0].cot_of[ref.i] + ref.result;
		at = m->mem[0].cots + m->mem[0].cot[k].at +
		     (ref.i % 2 ? m->mem[0].cot[k].alt : 0);
		if (out && w->ran[ref.i])
			begin(w, action,
			      (Region){
				  BUF_cot, k, 0, ref.i, m->insts[ref.i].name, at,
				  at + type_bytes(m, ir_mesh(m, f), &f->vals[out->v.i].type)});
	}
}

static void
begin_carry(Live *w, uint32_t action, uint32_t n)
{
	const Module *m = w->v->m;
	const LayerType *l = type_of(w, n);

	for (uint32_t c = 0; l->carry_at && c < l->ncarry; c++) {
		int64_t at = m->mem[0].carry + l->carry_at[c];

		if (l->carry_at[c] < 0) continue;
		begin(w, action,
		      (Region){BUF_carry, c, 0, n, m->insts[n].name, at,
			       at + type_bytes(m, text_type_mesh(m, l), &l->carry[c])});
	}
}

/* The frames B and W read arguments from. */
static void
check_args(Live *w, uint32_t action, BodyKind k, uint32_t n, uint32_t t)
{
	const Module *m = w->v->m;

	for (uint32_t a = 0; a < type_of(w, n)->nargs; a++) {
		Ref ref = m->insts[n].args[a];
		const int64_t *out_at;

		if (ref.kind != REF_result || !port_of(w, n, k, PORT_arg, a)) continue;
		out_at = type_of(w, ref.i)->out_at;
		if (!w->ran[ref.i] || !out_at || out_at[ref.result] < 0) continue;
		if (ref.i < w->stage->first || ref.i - w->stage->first >= w->stage->count)
			continue;
		if (w->left[(size_t)ref.i * w->slots + t % w->slots]) continue;
		verify_bad(w->v, (Loc){0},
			   "action %" PRIu32
			   ": %s of %s reads a result of %s, whose frame is gone",
			   action, body_str[k], name_str(m->names, m->insts[n].name),
			   name_str(m->names, m->insts[ref.i].name));
		w->ok = false;
		return;
	}
}

bool
live_body(Live *w, uint32_t action, BodyKind k, uint32_t n, uint32_t t)
{
	uint8_t *left = &w->left[(size_t)n * w->slots + t % w->slots];

	if (w->compared > MAX_COMPARED) return true;
	if (k == BK_F) run_forward(w, action, n, t);
	if (k == BK_B) {
		begin_carry(w, action, n);
		begin_cots(w, action, n);
	}
	if (w->ok) scratch(w, action, k, n);
	if (!w->ok || (k != BK_B && k != BK_W)) return w->ok;
	check_args(w, action, k, n, t);
	if (k == BK_W) end(w, BUF_carry, n, 0);
	if (!*left || --*left) return w->ok;
	end(w, BUF_frame, n, t % w->slots);
	end(w, BUF_cot, n, 0);
	end(w, BUF_carry, n, 0);
	return w->ok;
}
