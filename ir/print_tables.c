/*
 * print_tables.c - layer types, action tables and the memory plan as text.
 * Input: any module. Output: text that parse_tables.c reads back. Offsets are shown only where there are any.
 */
#include "ir/text.h"

#include <inttypes.h>

static const char *const section_str[SEC_COUNT] = {"param", "grad", "m", "v", "master"};

/* Only weights in bf16 have a master copy. */
static bool
shows(const Memory *x, int s)
{
	return s != SEC_master || x->sec[s] >= 0;
}

static void
print_at(const int64_t *at, uint32_t k, Buf *out)
{
	if (at) buf_printf(out, " at %" PRId64, at[k]);
	buf_putc(out, '\n');
}

void
print_layer_type(const Module *m, const LayerType *l, Buf *out)
{
	const Mesh *mesh = text_type_mesh(m, l);

	buf_puts(out, "\ntype ");
	text_name(out, name_str(m->names, l->name));
	buf_printf(out, " args %u outs %u rates %u%s {\n", l->nargs, l->nouts, l->nrates,
		   l->reshard ? " reshard" : "");
	for (int k = 0; k < BK_COUNT; k++) {
		if (!l->body[k] && l->flops[k] == 0) continue;
		buf_printf(out, "  body %s %" PRIu32, body_str[k], l->body[k]);
		if (l->flops[k] != 0) {
			buf_puts(out, " flops ");
			buf_double(out, l->flops[k]);
		}
		buf_putc(out, '\n');
	}
	for (uint32_t w = 0; w < l->nweights; w++) {
		buf_puts(out, "  weight ");
		text_quoted(out, name_str(m->names, l->weights[w].name));
		buf_puts(out, " : ");
		ir_print_type(m, mesh, &l->weights[w].type, out);
		buf_putc(out, '\n');
	}
	for (uint32_t s = 0; s < l->nsaved; s++) {
		buf_puts(out, "  saved ");
		ir_print_type(m, mesh, &l->saved[s], out);
		print_at(l->saved_at, s, out);
	}
	for (uint32_t c = 0; c < l->ncarry; c++) {
		buf_puts(out, "  carry ");
		ir_print_type(m, mesh, &l->carry[c], out);
		print_at(l->carry_at, c, out);
	}
	for (uint32_t r = 0; l->out_at && r < l->nouts; r++) {
		buf_printf(out, "  out %" PRIu32, r);
		print_at(l->out_at, r, out);
	}
	if (l->slot_frame || l->carry_frame)
		buf_printf(out, "  frame slot %" PRId64 " carry %" PRId64 "\n", l->slot_frame,
			   l->carry_frame);
	buf_puts(out, "}\n");
}

/* ---- schedule ---- */

static void
print_action(const Action *a, int *depth, Buf *out)
{
	if (a->kind == ACT_end && *depth > 0) --*depth;
	for (int i = 0; i <= *depth; i++)
		buf_puts(out, "  ");
	switch (a->kind) {
	case ACT_mb: buf_printf(out, "mb %" PRIu32 " {", a->count); break;
	case ACT_layers: buf_printf(out, "layers %" PRIu32 " {", a->count); break;
	case ACT_end: buf_putc(out, '}'); break;
	case ACT_input: buf_puts(out, "input"); break;
	case ACT_norm: buf_puts(out, "norm"); break;
	case ACT_body:
		buf_printf(out, "%s %" PRIu32, body_str[a->bk], a->inst);
		if (a->stride) buf_printf(out, " %+" PRId32, a->stride);
		break;
	case ACT_start:
	case ACT_wait:
		buf_printf(out, "%s %s %" PRIu32, a->kind == ACT_start ? "start" : "wait",
			   comm_str[a->comm], a->inst);
		if (a->stride) buf_printf(out, " %+" PRId32, a->stride);
		break;
	case ACT_COUNT: break;
	}
	if (a->mb) buf_printf(out, " mb %" PRIu32, a->mb);
	if (a->kind == ACT_mb || a->kind == ACT_layers) ++*depth;
	buf_putc(out, '\n');
}

void
print_actions(const Module *m, Buf *out)
{
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		const Stage *s = &m->plan.stages[k];
		int depth = 0;

		buf_printf(out, "\nactions %" PRIu32 " {\n", k);
		for (uint32_t i = 0; i < s->nactions; i++)
			print_action(&m->actions[s->action + i], &depth, out);
		buf_puts(out, "}\n");
	}
}

/* ---- memory ---- */

/* Items that are not the stage's are at -1 and left out. */
static void
print_list(const char *what, const int64_t *at, uint32_t n, Buf *out)
{
	for (uint32_t i = 0; at && i < n; i++)
		if (at[i] != -1)
			buf_printf(out, "  %s %" PRIu32 " at %" PRId64 "\n", what, i, at[i]);
}

static void
print_params(const Memory *x, uint32_t n, Buf *out)
{
	for (uint32_t i = 0; x->param_at && i < n; i++)
		if (x->param_at[i] != -1)
			buf_printf(out, "  param %" PRIu32 " at %" PRId64 "%s\n", i,
				   x->param_at[i], x->in_flat && x->in_flat[i] ? " flat" : "");
}

static void
print_flats(const Memory *x, uint32_t n, Buf *out)
{
	for (uint32_t i = 0; x->flat_bytes && i < n; i++) {
		if (!x->flat_bytes[i]) continue;
		buf_printf(out, "  flat %" PRIu32 " bytes %" PRId64 " at", i, x->flat_bytes[i]);
		for (int k = 0; k < SEC_master; k++)
			buf_printf(out, " %" PRId64, x->flat_at[k] ? x->flat_at[k][i] : -1);
		if (shows(x, SEC_master) && x->flat_at[SEC_master])
			buf_printf(out, " master %" PRId64, x->flat_at[SEC_master][i]);
		buf_putc(out, '\n');
	}
}

static void
print_cots(const Module *m, const Memory *x, Buf *out)
{
	for (uint32_t n = 0; x->cot_of && n < m->ninsts; n++) {
		for (uint32_t r = 0; r < m->types[m->insts[n].type].nouts; r++) {
			const Cot *c = &x->cot[x->cot_of[n] + r];

			if (c->at == -1) continue;
			buf_printf(out, "  cot %" PRIu32 ".%" PRIu32 " at %" PRId64, n, r,
				   c->at);
			if (c->alt) buf_printf(out, " alt %" PRId64, c->alt);
			buf_printf(out, "%s\n", c->shared ? " shared" : "");
		}
	}
}

static void
print_stage_memory(const Module *m, const Memory *x, Buf *out)
{
	buf_printf(out, "  arena %" PRId64 " live %" PRId64 " slot %" PRId64 "\n",
		   x->arena_bytes, x->live_bytes, x->slot_bytes);
	buf_puts(out, "  sections");
	for (int k = 0; k < SEC_COUNT; k++)
		if (shows(x, k)) buf_printf(out, " %s %" PRId64, section_str[k], x->sec[k]);
	buf_printf(out, " const %" PRId64 " slots %" PRId64 " cots %" PRId64, x->consts,
		   x->slots, x->cots);
	buf_printf(out, " gather %" PRId64 " dwork %" PRId64, x->gather, x->dwork);
	buf_printf(out, " carry %" PRId64 " scratch %" PRId64 "\n  sizes", x->carry,
		   x->scratch);
	for (int k = 0; k < SEC_COUNT; k++)
		if (shows(x, k))
			buf_printf(out, " %s %" PRId64, section_str[k], x->sec_bytes[k]);
	buf_printf(out, " gather %" PRId64 " dwork %" PRId64 "\n", x->gather_bytes,
		   x->dwork_bytes);
	print_params(x, m->nparams, out);
	print_flats(x, m->ninsts, out);
	print_list("const", x->const_at, m->nconsts, out);
	print_list("input", x->input_at, m->ninputs, out);
	print_list("inst", x->slot_at, m->ninsts, out);
	print_list("back", x->back_at, m->ninsts, out);
	print_cots(m, x, out);
}

void
print_memory(const Module *m, Buf *out)
{
	for (uint32_t k = 0; m->mem && k < m->plan.nstages; k++) {
		buf_printf(out, "\nmemory %" PRIu32 " {\n", k);
		print_stage_memory(m, &m->mem[k], out);
		buf_puts(out, "}\n");
	}
}
