/*
 * verify_shadow.c - what every byte of a process's arena holds: looked at, written, added to.
 *
 * Extents are in order and without gaps, from the lowest number to the highest, and know the step that left them there. What a
 * step asks for must be there to the byte; what is another thing is named in the diagnostic, and who left it.
 */
#include "ir/flow.h"

#include <inttypes.h>
#include <string.h>

bool
content_equal(const Content *a, const Content *b)
{
	return a->what == b->what && a->i == b->i && a->k == b->k && a->mb == b->mb &&
	       a->sum == b->sum && a->at == b->at;
}

/* The extent that holds byte `at`. */
uint32_t
shadow_find(const Shadow *s, int64_t at)
{
	uint32_t lo = 0, hi = s->n;

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (s->e[mid].lo <= at)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static void
set(Shadow *s, int64_t lo, int64_t hi, Content c, uint32_t step)
{
	Extent new[3];
	uint32_t i, j, n = 0;

	if (hi <= lo) return;
	i = shadow_find(s, lo);
	if (s->e[i].lo == lo && s->e[i].hi == hi) {
		s->e[i].c = c;
		s->e[i].step = step;
		return;
	}
	for (j = i; s->e[j].hi < hi; j++)
		continue;
	if (s->e[i].lo < lo) new[n++] = (Extent){s->e[i].lo, lo, s->e[i].c, s->e[i].step};
	new[n++] = (Extent){lo, hi, c, step};
	if (s->e[j].hi > hi) new[n++] = (Extent){hi, s->e[j].hi, s->e[j].c, s->e[j].step};
	while (s->n + n > s->cap) {
		s->e = arena_grow(s->arena, s->e, s->n, (size_t)s->cap * 2 + 16, sizeof(*s->e));
		s->cap = s->cap * 2 + 16;
	}
	memmove(&s->e[i + n], &s->e[j + 1], (size_t)(s->n - j - 1) * sizeof(*s->e));
	memcpy(&s->e[i], new, n * sizeof(*new));
	s->n += n - (j - i + 1);
}

const char *
content_str(const Game *g, const Content *c)
{
	const Module *m = g->f.m;
	const char *inst = "", *param = "";
	Buf b;

	if (c->what == HOLDS_frame || c->what == HOLDS_carry || c->what == HOLDS_cot)
		inst = name_str(m->names, m->insts[c->i].name);
	if (c->what >= HOLDS_param && c->what <= HOLDS_reduced)
		param = name_str(m->names, m->params[c->i].name);
	buf_init(&b, g->f.v->tmp);
	switch (c->what) {
	case HOLDS_nothing: buf_puts(&b, "nothing yet"); return b.s;
	case HOLDS_input:
		buf_printf(&b, "input %s", name_str(m->names, m->inputs[c->i].name));
		break;
	case HOLDS_frame: {
		const Body *f = &m->bodies[m->types[m->insts[c->i].type].body[BK_F]];

		buf_printf(&b, "'%%%s' of F of %s", val_str(m, f, (Val){c->k}), inst);
		break;
	}
	case HOLDS_carry: buf_printf(&b, "what B hands to W of %s", inst); break;
	case HOLDS_cot:
		buf_printf(&b, "%sthe cotangent of result %" PRIu32 " of %s",
			   c->sum == g->f.cot_sum[g->f.res0[c->i] + c->k] ? "" : "a part of ",
			   c->k, inst);
		break;
	case HOLDS_param:
		buf_printf(&b, "parameter '%s'%s", param, c->k ? " after its update" : "");
		return b.s;
	case HOLDS_m:
	case HOLDS_v:
		buf_printf(&b, "the moments of '%s'%s", param, c->k ? " after its update" : "");
		return b.s;
	case HOLDS_master:
		buf_printf(&b, "the master copy of '%s'%s", param,
			   c->k ? " after its update" : "");
		return b.s;
	case HOLDS_grad:
		buf_printf(&b, "%sthe gradient of '%s'",
			   c->sum == flow_grad_sum(&g->f, c->i) ? "" : "a part of ", param);
		return b.s;
	case HOLDS_part:
		buf_printf(&b, "%sthe gradient of '%s'",
			   c->sum == flow_part_sum(&g->f, c->i, c->mb) ? "" : "a part of ",
			   param);
		break;
	case HOLDS_reduced:
		buf_printf(&b, "a sum over ranks of the gradient of '%s'", param);
		return b.s;
	case HOLDS_const: buf_printf(&b, "constant %" PRIu32, c->i); return b.s;
	case HOLDS_scratch: buf_puts(&b, "scratch"); return b.s;
	case HOLDS_flight: buf_puts(&b, "what is on its way"); return b.s;
	case HOLDS_spent: buf_puts(&b, "what is spent"); return b.s;
	case HOLDS_COUNT: break;
	}
	buf_printf(&b, " (microbatch %" PRIu32 ")", c->mb);
	return b.s;
}

/* Bytes [lo, hi) hold `want`. */
bool
shadow_holds(Game *g, Proc *p, int64_t lo, int64_t hi, const Content *want, const char *verb)
{
	if (hi <= lo) return true;
	if (lo < 0 || hi > p->x->arena_bytes)
		return game_wrong(
		    g, p, "%s %s at bytes %" PRId64 " to %" PRId64 " of an arena of %" PRId64,
		    verb, content_str(g, want), lo, hi, p->x->arena_bytes);
	for (uint32_t i = shadow_find(&p->shadow, lo);
	     i < p->shadow.n && p->shadow.e[i].lo < hi; i++) {
		const Extent *e = &p->shadow.e[i];

		if (content_equal(&e->c, want)) continue;
		return game_wrong(
		    g, p, "%s %s, but bytes %" PRId64 " to %" PRId64 " hold %s%s%s", verb,
		    content_str(g, want), e->lo > lo ? e->lo : lo, e->hi < hi ? e->hi : hi,
		    content_str(g, &e->c), e->step ? ", left there by " : "",
		    e->step ? step_str(g, p, e->step - 1) : "");
	}
	return true;
}

bool
shadow_leave(Game *g, Proc *p, int64_t lo, int64_t hi, Content c)
{
	if (hi <= lo) return true;
	if (lo < 0 || hi > p->x->arena_bytes)
		return game_wrong(g, p,
				  "writes %s at bytes %" PRId64 " to %" PRId64
				  " of an arena of %" PRId64,
				  content_str(g, &c), lo, hi, p->x->arena_bytes);
	set(&p->shadow, lo, hi, c, p->pc + 1);
	return true;
}

/* Adds a contribution; over anything else it is the first, and stored. */
bool
shadow_add(Game *g, Proc *p, int64_t lo, int64_t hi, Content to, uint64_t sum, bool store)
{
	const Extent *e;
	Content old = to;

	if (hi <= lo) return true;
	if (lo < 0 || hi > p->x->arena_bytes) return shadow_leave(g, p, lo, hi, to);
	e = &p->shadow.e[shadow_find(&p->shadow, lo)];
	old.sum = e->c.sum;
	if (!content_equal(&e->c, &old)) {
		if (!store) {
			to.sum = 0;
			return shadow_holds(g, p, lo, hi, &to, "adds to");
		}
		to.sum = sum;
		return shadow_leave(g, p, lo, hi, to);
	}
	if (!shadow_holds(g, p, lo, hi, &old, "adds to")) return false;
	to.sum = old.sum + sum;
	return shadow_leave(g, p, lo, hi, to);
}
