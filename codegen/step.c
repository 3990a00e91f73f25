/*
 * step.c - the action functions consts(), forward(), step() and update(): the stage's action table with its loops.
 *
 * A microbatch is the turn of the loop around an action plus an offset: under 1F1B forward bodies run ahead. forward() is
 * not a part of the table but made from it: what the first microbatch meets on its way, each communication awaited where
 * it is needed, so that a stage can be asked for losses alone.
 */
#include "codegen/cg.h"

#include <inttypes.h>
#include <string.h>

typedef struct Printer {
	Cg *g;
	Buf *out;
	int depth;
	bool forward;   /* printing forward() */
	bool in_loop;   /* over microbatches */
	uint32_t lines; /* statements so far */
} Printer;

static const Action *
actions(const Cg *g)
{
	return g->m->actions + g->stage->action;
}

/* ---- one action ---- */

/* The microbatch of an action as an expression. */
static const char *
microbatch(const Printer *p, uint32_t offset)
{
	if (p->forward) return "mb";
	if (!p->in_loop) return cg_text(p->g->a, "%u", offset);
	return offset ? cg_text(p->g->a, "mb + %u", offset) : "mb";
}

/* Ordinals first, first + step, ... of the turns of a loop as an expression of its variable; a loop that runs down counts
 * from the end. */
static const char *
ordinal_text(const Printer *p, int64_t first, int64_t step, const char *loop, uint32_t turns)
{
	Buf i;

	buf_init(&i, p->g->a);
	if (step < 0)
		first += step * (int64_t)(turns - 1), step = -step; /* the loop runs down */
	if (step == 1 && first == 0)
		buf_puts(&i, loop);
	else if (step)
		buf_printf(&i, step == 1 ? "%s + %" PRId64 : "%s * %" PRId64, loop,
			   step == 1 ? first : step);
	if (step > 1 && first) buf_printf(&i, " + %" PRId64, first);
	if (!step) buf_printf(&i, "%" PRId64, first);
	return i.s;
}

static void
put_call(Printer *p, const char *function, const char *mb, const char *i)
{
	put_line(p->out, p->depth, "%s(run%s%s%s%s);", function, mb ? ", " : "", mb ? mb : "",
		 i ? ", " : "", i ? i : "");
	p->lines++;
}

/* What ran since the last mark, in programs that time themselves. */
static void
put_mark(Printer *p, const char *what)
{
	if (!p->g->shared->metered) return;
	put_line(p->out, p->depth, "%s", cg_mark(p->g, what));
	p->lines++;
}

static void
put_runtime(Printer *p, const char *function, const char *mb, const char *what)
{
	put_call(p, function, mb, NULL);
	put_mark(p, what);
}

static void
put_body(Printer *p, const Action *a, const char *loop, uint32_t turns)
{
	const Cg *g = p->g;
	const Module *m = g->m;
	uint32_t body = m->types[m->insts[a->inst].type].body[a->bk];
	int64_t first = g->ordinal[a->inst], step = 0;

	if (loop && turns > 1)
		step = (int64_t)g->ordinal[(uint32_t)((int64_t)a->inst + a->stride)] - first;
	put_call(p, g->wrapper_name[body], g->wraps_mb[body] ? microbatch(p, a->mb) : NULL,
		 g->wraps_i[body] ? ordinal_text(p, first, step, loop, turns) : NULL);
}

static void
put_comm(Printer *p, const Action *a, ActKind kind, CommKind comm, const char *loop,
	 uint32_t turns)
{
	const Cg *g = p->g;
	const uint32_t *ordinal = g->comm_ordinal[comm], *family = g->comm_family[comm];
	const Family *f;
	int64_t step = 0;
	bool start = kind == ACT_start;

	if (!family[a->inst]) return; /* one rank: nothing is sent */
	f = &g->families[family[a->inst] - 1];
	for (uint32_t t = 1; loop && t < turns; t++) {
		uint32_t before = (uint32_t)((int64_t)a->inst + (int64_t)(t - 1) * a->stride),
			 here = (uint32_t)((int64_t)a->inst + (int64_t)t * a->stride);
		int64_t d = (int64_t)ordinal[here] - (int64_t)ordinal[before];

		ENSURE(family[here] == family[a->inst] && (t == 1 || d == step),
		       "a loop over layers whose communication is not alike");
		step = d;
	}
	put_call(p, start ? f->start : f->wait,
		 (start ? f->start_mb : f->wait_mb) ? microbatch(p, a->mb) : NULL,
		 (start ? f->start_i : f->wait_i)
		     ? ordinal_text(p, ordinal[a->inst], step, loop, turns)
		     : NULL);
	put_mark(p, cg_text(g->a, "#%s %s", start ? "start" : "wait", comm_str[comm]));
}

/* forward() gathers what ZeRO 3 has split just before it is needed, and awaits what it receives at once. */
static void
put_forward(Printer *p, const Action *a, const char *loop, uint32_t turns)
{
	const Cg *g = p->g;

	if (a->mb) return;
	if (a->kind == ACT_body && a->bk == BK_F) {
		if (g->comm_family[CK_param][a->inst] && ir_zero(g->m, a->inst) == 3) {
			put_comm(p, a, ACT_start, CK_param, loop, turns);
			put_comm(p, a, ACT_wait, CK_param, loop, turns);
		}
		put_body(p, a, loop, turns);
	}
	if (a->comm != CK_fwd || (a->kind != ACT_start && a->kind != ACT_wait)) return;
	if (!cg_is_here(g, a->inst)) {
		if (a->kind == ACT_start) put_comm(p, a, ACT_start, CK_fwd, loop, turns);
	} else if (a->kind == ACT_wait) {
		put_comm(p, a, ACT_start, CK_fwd, loop, turns);
		put_comm(p, a, ACT_wait, CK_fwd, loop, turns);
	}
}

static void
put_action(Printer *p, const Action *a, const char *loop, uint32_t turns)
{
	if (p->forward)
		put_forward(p, a, loop, turns);
	else if (a->kind == ACT_body)
		put_body(p, a, loop, turns);
	else if (a->kind == ACT_input)
		put_runtime(p, "gvrt_input", microbatch(p, a->mb), "#input");
	else if (a->kind == ACT_norm)
		put_runtime(p, "gvrt_norm", NULL, "#norm");
	else if (a->kind == ACT_start || a->kind == ACT_wait)
		put_comm(p, a, a->kind, a->comm, loop, turns);
}

/* ---- loops ---- */

/* A loop over layers, [k, end]; around nothing it is left out. */
static void
put_layers(Printer *p, uint32_t k, uint32_t end)
{
	const Action *act = actions(p->g);
	bool down = act[k + 1].stride < 0;
	Buf body, *out = p->out;
	uint32_t before = p->lines, lines;

	buf_init(&body, p->g->a);
	p->out = &body;
	p->depth++;
	for (uint32_t j = k + 1; j < end; j++)
		put_action(p, &act[j], "i", act[k].count);
	p->depth--;
	p->out = out;
	lines = p->lines - before;
	if (!lines) return;
	if (down)
		put_line(out, p->depth, "for (int64_t i = %u; i >= 0; i--)%s", act[k].count - 1,
			 lines > 1 ? " {" : "");
	else
		put_line(out, p->depth, "for (int64_t i = 0; i < %u; i++)%s", act[k].count,
			 lines > 1 ? " {" : "");
	buf_puts(out, body.s);
	if (lines > 1) put_line(out, p->depth, "}");
}

static uint32_t
end_of_loop(const Action *act, uint32_t k)
{
	uint32_t end = k;

	for (int open = 1; open;) {
		end++;
		open += act[end].kind == ACT_layers || act[end].kind == ACT_mb;
		open -= act[end].kind == ACT_end;
	}
	return end;
}

static bool
has_reports(const Cg *g)
{
	for (uint32_t k = 0; k < g->m->nreports; k++)
		if (g->m->reports[k].ref.kind == REF_result &&
		    cg_is_here(g, g->m->reports[k].ref.i))
			return true;
	return false;
}

/* Whether action k in [from, to) is the last forward body of its microbatch, or the loop that ends with it. */
static bool
ends_forward(const Cg *g, uint32_t k, uint32_t to, uint32_t *mb)
{
	const Action *act = actions(g);
	uint32_t end = act[k].kind == ACT_layers ? end_of_loop(act, k) : k;
	bool any = false;

	for (uint32_t j = k; j <= end; j++)
		if (act[j].kind == ACT_body && act[j].bk == BK_F) any = true, *mb = act[j].mb;
	for (uint32_t j = end + 1; any && j < to; j++) {
		if (act[j].kind == ACT_mb) j = end_of_loop(act, j);
		if (act[j].kind == ACT_body && act[j].bk == BK_F && act[j].mb == *mb)
			return false;
	}
	return any;
}

/* Actions [from, to) of one depth of microbatches, with their loops over layers; reports follow a forward pass. */
static void
put_actions(Printer *p, uint32_t from, uint32_t to)
{
	const Action *act = actions(p->g);
	bool reports = !p->forward && has_reports(p->g);

	for (uint32_t k = from; k < to; k++) {
		uint32_t end = k, mb = 0;
		bool last = reports && ends_forward(p->g, k, to, &mb);

		if (act[k].kind == ACT_mb) {
			end = end_of_loop(act, k);
			if (!act[k].count) {
				k = end;
				continue;
			}
			if (p->forward) {
				put_actions(p, k + 1, end);
			} else {
				put_line(p->out, p->depth,
					 "for (int64_t mb = 0; mb < %s; mb++) {",
					 act[k].count == p->g->m->plan.microbatches
					     ? "GV_MICROBATCHES"
					     : cg_text(p->g->a, "%u", act[k].count));
				p->depth++;
				p->in_loop = true;
				put_actions(p, k + 1, end);
				p->in_loop = false;
				p->depth--;
				put_line(p->out, p->depth, "}");
				p->lines++;
			}
		} else if (act[k].kind == ACT_layers) {
			end = end_of_loop(act, k);
			put_layers(p, k, end);
		} else {
			put_action(p, &act[k], NULL, 1);
		}
		if (last) put_runtime(p, "gvrt_report", microbatch(p, mb), "#report");
		k = end;
	}
}

/* What forward() has sent may be overwritten by the next. */
static void
put_forward_waits(Printer *p)
{
	const Cg *g = p->g;
	const Module *m = g->m;

	for (uint32_t i = 0; i < m->ninsts; i++) {
		const Action a = {.kind = ACT_wait, .comm = CK_fwd, .inst = i};

		if (g->comm_family[CK_fwd][i] && !cg_is_here(g, i))
			put_comm(p, &a, ACT_wait, CK_fwd, NULL, 1);
	}
}

/* ---- the functions ---- */

static void
begin(Buf *b, const char *comment, const char *name)
{
	buf_printf(b, "\n/* %s */\nstatic void\n%s(GvrtRun *run)\n{\n", comment, name);
}

static void
end(Printer *p)
{
	if (!p->lines) put_line(p->out, 1, "(void)run;");
	buf_puts(p->out, "}\n");
	p->lines = 0;
}

/* Gaps between parameters are summed with them: they must hold numbers. */
static void
put_blank(Printer *p)
{
	const Cg *g = p->g;

	if (g->m->plan.ranks == 1 || g->mem->sec[SEC_grad] < 0) return;
	put_line(p->out, 1, "memset(AT(char, GV_GRADS), 0, %" PRId64 ");",
		 cg_section_bytes(g, SEC_grad));
	if (g->mem->dwork_bytes)
		put_line(p->out, 1, "memset(AT(char, GV_DWORK), 0, %" PRId64 ");",
			 2 * g->mem->dwork_bytes);
	p->lines++;
}

/* Gradients that nothing contributes to in this stage, but that are summed or added to. */
static void
put_idle(Printer *p)
{
	Cg *g = p->g;

	for (uint32_t k = 0; g->m->plan.ranks > 1 && k < g->m->nparams; k++) {
		const Param *x = &g->m->params[k];
		bool varies;
		Where at;

		if (!x->trained || g->contributes[k] || !cg_is_here(g, x->owner) ||
		    cg_in_dwork(g, k))
			continue;
		at = where_param(g, k, SEC_grad);
		put_line(p->out, 1, "memset(%s, 0, %" PRId64 ");",
			 address_text(g, "real", &at, 1, "idle_at", &varies),
			 type_bytes(g->m, ir_param_mesh(g->m, k), &x->type));
		p->lines++;
	}
}

void
cg_actions(Cg *g)
{
	const Module *m = g->m;
	const Stage *s = g->stage;
	const Action *act = actions(g);
	Printer p = {.g = g, .out = &g->actions, .depth = 1};
	uint32_t norm = s->nactions;

	g->wraps_i = NEW_N(g->a, bool, m->nbodies);
	g->wraps_mb = NEW_N(g->a, bool, m->nbodies);
	g->wrapper_name = NEW_N(g->a, const char *, m->nbodies);
	g->rates_name = NEW_N(g->a, const char *, m->ntypes);
	buf_puts(p.out, "\n/* ---- bodies at the addresses of their instances ---- */\n");
	for (uint32_t k = 1; k < m->nbodies; k++)
		if (g->body_name[k]) cg_wrapper(g, k, p.out);
	cg_comms(g, p.out);
	for (uint32_t k = 0; k < s->nactions; k++)
		if (act[k].kind == ACT_norm) norm = k;

	buf_puts(p.out, "\n/* ---- actions ---- */\n");
	if (cg_has_consts(g)) {
		begin(p.out, "Makes the constant tensors, once.", "consts");
		if (m->const_body) put_call(&p, g->wrapper_name[m->const_body], NULL, NULL);
		put_blank(&p);
		end(&p);
	}
	begin(p.out, "One microbatch forward: its inputs are in slot 0.", "forward");
	put_line(p.out, 1, "const int64_t mb = 0;");
	put_line(p.out, 1, "(void)mb;");
	p.forward = true;
	put_actions(&p, 0, s->nactions);
	put_forward_waits(&p);
	p.forward = false;
	end(&p);
	if (m->plan.forward_only) return;
	begin(p.out,
	      "Forward and backward of all microbatches; then the norm of the gradients.",
	      "step");
	put_idle(&p);
	put_actions(&p, 0, norm < s->nactions ? norm + 1 : norm);
	if (norm == s->nactions) put_runtime(&p, "gvrt_norm", NULL, "#norm");
	end(&p);
	begin(p.out, "The optimizer.", "update");
	put_actions(&p, norm < s->nactions ? norm + 1 : norm, s->nactions);
	end(&p);
}

bool
cg_has_consts(const Cg *g)
{
	return g->m->const_body || (g->m->plan.ranks > 1 && g->mem->sec[SEC_grad] >= 0);
}
