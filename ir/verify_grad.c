/*
 * verify_grad.c - is there a gradient wherever there is a differentiable path.
 *
 * A path runs from a trainable parameter through float results of differentiable operations to the loss, from body to
 * body. Where one enters a body by an argument, B must make its cotangent; by a weight, W must make its gradient; and from
 * level plan on the owner of the parameter must update it.
 * The check is one-sided: more gradients than needed are no error. Programs that only run forward are left alone.
 */
#include "ir/text.h"

#include <inttypes.h>

/* Which arguments and weights each result of a layer type depends on, as bits: [nouts][words]. */
typedef struct Reach {
	uint32_t words;
	uint64_t *out;
} Reach;

static bool
bit(const uint64_t *set, uint32_t i)
{
	return set[i / 64] >> (i % 64) & 1;
}

/* Does a gradient flow through result r of this operation? */
static bool
differentiable(const Op *op, int r)
{
	switch (op->code) {
	case OP_stop:
	case OP_floordiv:
	case OP_mod: return false;
	case OP_attention:
	case OP_cross_entropy: return r == 0; /* the second is for the gradient's own use */
	default: return true;
	}
}

/* Sources are numbered arguments first, then weights. */
static Reach
reach_of(const Verify *v, const LayerType *l)
{
	const Body *f = &v->m->bodies[l->body[BK_F]];
	Reach q = {.words = (l->nargs + l->nweights + 63) / 64};
	uint64_t *set;

	q.out = NEW_N(v->tmp, uint64_t, (size_t)q.words * l->nouts + 1);
	set = NEW_N(v->tmp, uint64_t, (size_t)q.words * f->nvals + 1);
	for (uint32_t p = 0; p < f->nports; p++) {
		uint32_t i =
		    f->ports[p].slot + (f->ports[p].kind == PORT_weight ? l->nargs : 0u);

		if (f->ports[p].kind != PORT_arg && f->ports[p].kind != PORT_weight) continue;
		if (!dtype_float(f->vals[f->ports[p].v.i].type.dt)) continue;
		set[(size_t)f->ports[p].v.i * q.words + i / 64] |= (uint64_t)1 << i % 64;
	}
	for (uint32_t o = 0; o < f->nops; o++) {
		const Op *op = &f->ops[o];

		for (int r = 0; r < op->nout; r++) {
			uint64_t *to = &set[(size_t)op->out[r].i * q.words];

			if (!op->out[r].i || !differentiable(op, r) ||
			    !dtype_float(f->vals[op->out[r].i].type.dt))
				continue;
			for (int i = 0; i < op->nin; i++)
				for (uint32_t w = 0; w < q.words; w++)
					to[w] |= set[(size_t)op->in[i].i * q.words + w];
		}
	}
	for (uint32_t p = 0; p < f->nports; p++)
		for (uint32_t w = 0; f->ports[p].kind == PORT_out && w < q.words; w++)
			q.out[(size_t)f->ports[p].slot * q.words + w] =
			    set[(size_t)f->ports[p].v.i * q.words + w];
	return q;
}

typedef struct Flow {
	const Verify *v;
	const Reach *reach; /* [ntypes] */
	size_t *first;      /* [ninsts]: where the results of an instance begin below */
	bool *active;       /* depends on a trainable parameter */
	bool *needed;       /* the loss depends on it */
} Flow;

static bool
trainable(const Module *m, uint32_t param)
{
	return m->params[param].lr != 0;
}

static bool
arg_active(const Flow *w, const Instance *n, int a)
{
	return n->args[a].kind == REF_result &&
	       w->active[w->first[n->args[a].i] + n->args[a].result];
}

static void
forward(Flow *w, uint32_t index)
{
	const Module *m = w->v->m;
	const Instance *n = &m->insts[index];
	const LayerType *l = &m->types[n->type];
	const Reach *q = &w->reach[n->type];

	for (uint32_t r = 0; r < l->nouts; r++) {
		const uint64_t *set = &q->out[(size_t)r * q->words];
		bool on = false;

		for (int a = 0; a < l->nargs && !on; a++)
			on = bit(set, (uint32_t)a) && arg_active(w, n, a);
		for (uint32_t k = 0; k < l->nweights && !on; k++)
			on = bit(set, l->nargs + k) && trainable(m, n->params[k]);
		w->active[w->first[index] + r] = on;
	}
}

/* Does a needed result of the instance depend on this source? */
static bool
source_needed(const Flow *w, uint32_t index, uint32_t source)
{
	const LayerType *l = &w->v->m->types[w->v->m->insts[index].type];
	const Reach *q = &w->reach[w->v->m->insts[index].type];

	for (uint32_t r = 0; r < l->nouts; r++)
		if (w->needed[w->first[index] + r] &&
		    bit(&q->out[(size_t)r * q->words], source))
			return true;
	return false;
}

static void
backward(Flow *w, uint32_t index)
{
	const Module *m = w->v->m;
	const Instance *n = &m->insts[index];
	const LayerType *l = &m->types[n->type];

	for (uint32_t a = 0; a < l->nargs; a++) {
		if (!arg_active(w, n, (int)a) || !source_needed(w, index, a)) continue;
		w->needed[w->first[n->args[a].i] + n->args[a].result] = true;
		if (!ir_type_port(m, l, BK_B, PORT_dx, a))
			verify_bad(w->v, n->loc,
				   "%s: the loss depends on argument %" PRIu32
				   ", but no body B of '%s' makes its cotangent",
				   name_str(m->names, n->name), a, name_str(m->names, l->name));
	}
	for (uint32_t k = 0; k < l->nweights; k++) {
		const Param *p = &m->params[n->params[k]];
		uint32_t own = p->borrows ? p->borrows - 1 : n->params[k];
		uint32_t owner = m->params[own].owner, slot = 0;
		const LayerType *o = &m->types[m->insts[owner].type];

		if (!trainable(m, n->params[k]) || !source_needed(w, index, l->nargs + k))
			continue;
		if (!ir_type_port(m, l, BK_W, PORT_dw, k)) {
			verify_bad(w->v, n->loc,
				   "%s: the loss depends on '%s', but no body W of '%s' makes "
				   "its gradient",
				   name_str(m->names, n->name), name_str(m->names, p->name),
				   name_str(m->names, l->name));
			continue;
		}
		while (slot < o->nweights && m->insts[owner].params[slot] != own)
			slot++;
		if (m->level >= LV_plan && !ir_type_port(m, o, BK_U, PORT_w_out, slot))
			verify_bad(w->v, p->loc, "no body U of '%s' updates the parameter '%s'",
				   name_str(m->names, o->name), name_str(m->names, p->name));
	}
}

/* Has anyone differentiated this module? From level plan on it says so itself. */
static bool
has_gradients(const Module *m)
{
	if (m->level >= LV_plan) return !m->plan.forward_only;
	for (uint32_t b = 1; b < m->nbodies; b++)
		if (m->bodies[b].kind == BK_B || m->bodies[b].kind == BK_W) return true;
	return false;
}

void
verify_gradients(const Verify *v)
{
	const Module *m = v->m;
	Reach *reach = NEW_N(v->tmp, Reach, m->ntypes + 1);
	Flow w = {.v = v, .reach = reach, .first = NEW_N(v->tmp, size_t, m->ninsts + 1)};
	size_t n = 0;

	if (!has_gradients(m) || !m->nreports || m->reports[0].ref.kind != REF_result) return;
	for (uint32_t l = 0; l < m->ntypes; l++)
		reach[l] = reach_of(v, &m->types[l]);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		w.first[i] = n;
		n += m->types[m->insts[i].type].nouts;
	}
	w.active = NEW_N(v->tmp, bool, n + 1);
	w.needed = NEW_N(v->tmp, bool, n + 1);
	for (uint32_t i = 0; i < m->ninsts; i++)
		forward(&w, i);
	w.needed[w.first[m->reports[0].ref.i] + m->reports[0].ref.result] = true;
	for (uint32_t i = m->ninsts; i-- > 0 && !diag_stop(v->d);)
		backward(&w, i);
}
