/*
 * search_table.c - the candidates of one branch of the tree (stages, microbatches) and what every layer costs under each.
 *
 * Input: the module at LV_train. Output: a table for search_dp. For every mesh dp x tp of a stage's ranks, with and
 * without Megatron-SP, and every way to recompute, the whole model is lowered and laid out as one stage, on a copy, by
 * the functions spmd and mem use; times and bytes of a layer are read off its bodies, frames and parameters there. What
 * ZeRO changes follows from the bytes of a layer's flat parameters. A mesh that does not lower is cut, with the
 * diagnostic as reason; a candidate no better in anything than another of its mesh is cut as dominated.
 */
#include <inttypes.h>
#include <string.h>

#include "passes/search.h"

/* A lowered copy whose layers are costed. */
typedef struct Costing {
	const Search *s;
	const Module *m;
	const Mesh *mesh;
	uint32_t dp, span; /* of a dp group */
	uint8_t zero;
	bool cut; /* several stages: parameters of other layers may be elsewhere */
} Costing;

static uint32_t
body_of(const Costing *x, uint32_t i, BodyKind k)
{
	return x->m->types[x->m->insts[i].type].body[k];
}

static int64_t
body_time(const Costing *x, uint32_t i, BodyKind k)
{
	uint32_t b = body_of(x, i, k);
	return b ? roofline_body(&x->s->machine, x->m, &x->m->bodies[b]) : 0;
}

/* A rank's share of something ZeRO splits from level z on. */
static int64_t
share(const Costing *x, uint8_t z, int64_t bytes)
{
	return x->zero >= z ? (bytes + x->dp - 1) / x->dp : bytes;
}

/* Parameters, gradients and moments a layer owns; copies of those it borrows. Returns the bytes of its flat. */
static int64_t
weights_cost(const Costing *x, uint32_t i, LayerCost *c)
{
	const Instance *n = &x->m->insts[i];
	const LayerType *t = &x->m->types[n->type];
	int64_t flat = 0;
	for (uint32_t w = 0; w < t->nweights; w++) {
		const Param *p = &x->m->params[n->params[w]];
		int64_t bytes = type_bytes(x->m, x->mesh, &p->type);
		uint16_t slot = (uint16_t)w;
		bool trained = ir_inst_port(x->m, i, BK_W, PORT_dw, slot);
		if (p->owner != i) { /* in another stage: a copy, lent and returned */
			if (!x->cut) continue;
			c->state += trained ? 2 * bytes : bytes;
			c->once += roofline_message(&x->s->machine, bytes, false);
			if (trained)
				c->once +=
				    roofline_message(&x->s->machine, bytes, false) +
				    roofline_all_reduce(&x->s->machine, bytes, x->dp, x->span);
			continue;
		}
		trained = trained || ir_inst_port(x->m, i, BK_U, PORT_grad, slot);
		if (!trained) {
			c->state += bytes;
			continue;
		}
		int moments = (ir_inst_port(x->m, i, BK_U, PORT_m, slot) != NULL) +
			      (ir_inst_port(x->m, i, BK_U, PORT_v, slot) != NULL);
		flat += bytes;
		c->state +=
		    share(x, 3, bytes) + share(x, 2, bytes) + moments * share(x, 1, bytes);
		for (int k = 1; k < x->mesh->n; k++) {
			uint32_t span, size;
			if (x->mesh->ax[k].kind == MX_dp || !(p->pending >> k & 1)) continue;
			size = roofline_group(x->mesh, 1u << k, &span);
			c->once += roofline_all_reduce(&x->s->machine, bytes, size, span);
		}
	}
	return flat;
}

/* What the flat of a layer sends, by ZeRO level: gradients once or every microbatch, parameters back. */
static void
zero_cost(const Costing *x, int64_t flat, LayerCost *c)
{
	if (x->dp < 2 || !flat) return;
	const Machine *y = &x->s->machine;
	int64_t gather = roofline_gather(y, flat, x->dp, x->span);
	if (x->zero == 0) c->once += roofline_all_reduce(y, flat, x->dp, x->span);
	if (x->zero == 1) c->once += gather;
	if (x->zero >= 2) c->time += gather; /* reduce_scatter */
	if (x->zero == 1 || x->zero == 2) c->once += gather;
	if (x->zero == 3) c->time += 2 * gather; /* before F, and before B and W */
	if (x->zero >= 2) c->work += 2 * flat;
	if (x->zero == 3) c->work += 2 * flat;
}

/* Arguments from elsewhere arrive in a slot, their cotangents go back. */
static void
enter_cost(const Costing *x, uint32_t i, LayerCost *c)
{
	const Instance *n = &x->m->insts[i];
	const Body *f = &x->m->bodies[body_of(x, i, BK_F)];
	bool near = x->s->ranks <= x->s->machine.ranks;
	for (uint16_t a = 0; a < x->m->types[n->type].nargs; a++) {
		const Port *p = ir_find_port(f, PORT_arg, a);
		if (!p) continue;
		int64_t bytes = type_bytes(x->m, x->mesh, val_type(f, p->v));
		if (n->args[a].kind != REF_result) {
			c->saved += bytes;
			continue;
		}
		c->enter += roofline_message(&x->s->machine, bytes, near);
		c->enter_saved += bytes;
		if (!ir_inst_port(x->m, i, BK_B, PORT_dx, a)) continue;
		c->enter += roofline_message(&x->s->machine, bytes, near);
		c->work += bytes;
	}
}

static int64_t
scratch_of(const Costing *x, uint32_t i, BodyKind k)
{
	uint32_t b = body_of(x, i, k);
	return b ? x->m->bodies[b].scratch_bytes : 0;
}

/* The most a layer needs while one of its bodies runs, cotangents of its results included. */
static int64_t
work_of(const Costing *x, uint32_t i)
{
	const LayerType *t = &x->m->types[x->m->insts[i].type];
	const Body *f = &x->m->bodies[t->body[BK_F]];
	int64_t most = 0, cots = 0;
	for (int k = 0; k < BK_COUNT; k++) {
		int64_t bytes = scratch_of(x, i, (BodyKind)k) +
				(k == BK_B || k == BK_W ? t->carry_frame : 0);
		if (bytes > most) most = bytes;
	}
	for (uint16_t r = 0; r < t->nouts; r++) {
		const Port *p = ir_find_port(f, PORT_out, r);
		if (p && ir_inst_port(x->m, i, BK_B, PORT_cot, r))
			cots += type_bytes(x->m, x->mesh, val_type(f, p->v));
	}
	return most + 2 * cots;
}

static LayerCost
layer_cost(const Costing *x, uint32_t i)
{
	LayerCost c = {.saved = x->m->types[x->m->insts[i].type].slot_frame,
		       .work = work_of(x, i)};
	int64_t flat = weights_cost(x, i, &c);
	c.time = body_time(x, i, BK_F) + body_time(x, i, BK_B) + body_time(x, i, BK_W);
	c.once += share(x, 1, body_time(x, i, BK_U)) + share(x, 1, body_time(x, i, BK_N));
	zero_cost(x, flat, &c);
	enter_cost(x, i, &c);
	return c;
}

static Costing
costing(const Search *s, const Module *m, const Mesh *mesh, uint8_t zero, bool cut)
{
	unsigned dp = 0;
	Costing x = {.s = s, .m = m, .mesh = mesh, .zero = zero, .cut = cut};
	for (int k = 1; k < mesh->n; k++)
		if (mesh->ax[k].kind == MX_dp) dp |= 1u << k;
	x.dp = roofline_group(mesh, dp, &x.span);
	return x;
}

int64_t
search_time(const Search *s, const Module *m)
{
	int64_t mb = 0, once = 0;
	for (uint32_t r = 0; r < m->plan.nruns; r++) {
		const Strategy *run = &m->plan.runs[r];
		Costing x = costing(s, m, &m->plan.meshes[run->mesh], run->zero, false);
		for (uint32_t i = run->first; i < run->first + run->count; i++) {
			LayerCost c = layer_cost(&x, i);
			mb += c.time;
			once += c.once;
		}
	}
	return m->plan.microbatches * mb + once;
}

/* ---- classes ---- */

/* Layers of one type that own the same of their weights and take arguments of the same kind cost the same. */
static bool
same_class(const Module *m, uint32_t i, uint32_t j)
{
	const Instance *a = &m->insts[i], *b = &m->insts[j];
	if (a->type != b->type) return false;
	for (uint16_t k = 0; k < m->types[a->type].nargs; k++)
		if (a->args[k].kind != b->args[k].kind) return false;
	for (uint32_t w = 0; w < m->types[a->type].nweights; w++)
		if ((m->params[a->params[w]].owner == i) !=
		    (m->params[b->params[w]].owner == j))
			return false;
	return true;
}

static void
find_classes(const Module *m, Arena *a, Table *t)
{
	t->class_of = NEW_N(a, uint32_t, m->ninsts);
	t->rep = NEW_N(a, uint32_t, m->ninsts);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		uint32_t k = 0;
		while (k < t->nclasses && !same_class(m, i, t->rep[k]))
			k++;
		if (k == t->nclasses) t->rep[t->nclasses++] = i;
		t->class_of[i] = k;
	}
}

/* ---- candidates ---- */

void
search_mesh(const Candidate *c, Mesh *out)
{
	*out = (Mesh){.n = 1};
	out->ax[0].kind = MX_mb;
	if (c->dp > 1) {
		out->ax[out->n].kind = MX_dp;
		out->ax[out->n++].degree = c->dp;
	}
	if (c->tp > 1) {
		out->ax[out->n].kind = MX_tp;
		out->ax[out->n++].degree = c->tp;
	}
}

static void
say(const Search *s, const Candidate *c, const char *rest)
{
	if (!s->explain) return;
	printf("plan:     dp %" PRIu32 " tp %" PRIu32 "%s: %s\n", c->dp, c->tp,
	       c->sp ? " sp" : "", rest);
}

/* No better than `b`, a candidate of its group, in anything. */
static bool
dominated(const LayerCost *a, const LayerCost *b)
{
	return a->group == b->group && b->time <= a->time && b->enter <= a->enter &&
	       b->once <= a->once && b->state <= a->state && b->saved <= a->saved &&
	       b->enter_saved <= a->enter_saved && b->work <= a->work;
}

static void
add_cost(Table *t, uint32_t class, LayerCost c, uint32_t cand)
{
	uint32_t *n = &t->count[class], kept = 0;
	LayerCost *row = t->cost[class];
	for (uint32_t k = 0; k < *n; k++)
		if (dominated(&c, &row[k])) return;
	for (uint32_t k = 0; k < *n; k++) {
		if (dominated(&row[k], &c)) continue;
		t->of[class][kept] = t->of[class][k];
		row[kept++] = row[k];
	}
	row[kept] = c;
	t->of[class][kept++] = cand;
	*n = kept;
}

static void
explain_cost(const Search *s, const Table *t, uint32_t class, const LayerCost *c,
	     const Candidate *k)
{
	Buf b;
	if (!s->explain) return;
	buf_init(&b, s->c->tmp);
	const char *name =
	    name_str(s->m->names, s->m->types[s->m->insts[t->rep[class]].type].name);
	buf_printf(&b, "%s zero %u recompute %s: %.3f ms a microbatch, %.3f ms once, ", name,
		   k->zero, recompute_str[k->rc], (double)c->time * 1e-6,
		   (double)c->once * 1e-6);
	buf_bytes(&b, c->state);
	buf_puts(&b, " of state, ");
	buf_bytes(&b, c->saved);
	buf_puts(&b, " a slot, ");
	buf_bytes(&b, c->work);
	buf_puts(&b, " of work");
	say(s, k, b.s);
}

/* One lowering, all levels of ZeRO. */
static void
add_lowered(const Search *s, Table *t, const Module *m, Candidate c, bool cut)
{
	uint8_t top = c.dp > 1 && !m->plan.forward_only ? 3 : 0;
	for (uint8_t zero = 0; zero <= top; zero++) {
		Costing x = costing(s, m, &m->plan.meshes[m->plan.runs[0].mesh], zero, cut);
		c.zero = zero;
		t->cand[t->ncand] = c;
		for (uint32_t k = 0; k < t->nclasses; k++) {
			LayerCost cost = layer_cost(&x, t->rep[k]);
			cost.group = c.group;
			explain_cost(s, t, k, &cost, &c);
			add_cost(t, k, cost, t->ncand);
		}
		t->ncand++;
	}
}

/* n elements in blocks of ranks, rounded up: does the last rank have any? */
static bool
all_have(int64_t n, int64_t ranks)
{
	return (n + ranks - 1) / ranks * (ranks - 1) < n;
}

/* Does every rank of tp have a part of something, in some layer? If not, ranks are left over. */
static bool
tp_used(const Module *m, uint32_t tp)
{
	if (tp == 1) return true;
	for (uint32_t b = 1; b < m->nbodies; b++)
		for (uint32_t v = 1; v < m->bodies[b].nvals; v++) {
			const Mesh *mesh = ir_mesh(m, &m->bodies[b]);
			const Type *t = &m->bodies[b].vals[v].type;
			for (int k = 0; mesh && k < t->n; k++)
				for (int j = 0; j < t->ax[k].nshard; j++)
					if (mesh->ax[t->ax[k].shard[j]].kind == MX_tp &&
					    all_have(ir_extent(m, t->ax[k].a), tp))
						return true;
		}
	return false;
}

/* Why a mesh is not even tried; NULL: it is. */
static const char *
cut_early(const Search *s, const Candidate *c, uint32_t mb)
{
	Buf b;
	int64_t samples = (s->m->batch.i ? ir_extent(s->m, s->m->batch) : 1) / mb, longest = 0;
	buf_init(&b, s->c->tmp);
	for (uint32_t i = 1; i < s->m->naxes; i++)
		if (s->m->axes[i].extent > longest) longest = s->m->axes[i].extent;
	if (c->dp > samples)
		buf_printf(&b, "cut: a microbatch has %" PRId64 " samples", samples);
	else if (!all_have(samples, c->dp))
		buf_printf(&b,
			   "cut: of %" PRId64 " samples in a microbatch the last rank has none",
			   samples);
	else if (c->tp > longest)
		buf_printf(&b, "cut: no axis has more than %" PRId64 " elements", longest);
	else
		return NULL;
	return b.s;
}

static void
add_mesh(const Search *s, Table *t, Candidate c, uint32_t stages, uint32_t mb, Recompute top)
{
	Recompute from = s->c->recompute_given ? s->c->recompute : RC_none;
	const char *early = cut_early(s, &c, mb);
	if (early) {
		say(s, &c, early);
		return;
	}
	for (Recompute rc = from; rc <= (s->c->recompute_given ? from : top); rc++) {
		Arena *a = arena_new();
		const char *why = NULL;
		Mesh mesh;
		c.rc = rc;
		search_mesh(&c, &mesh);
		Strategy run = {.recompute = rc, .megatron_sp = c.sp};
		Plan p = search_uniform(s, a, mb, &mesh, &run);
		Module *m = search_lower(s, &p, a, &why);
		if (m && !tp_used(m, c.tp)) {
			m = NULL;
			why = "tp splits no axis so that every rank has a part";
		}
		if (m) add_lowered(s, t, m, c, stages > 1);
		if (!m) {
			Buf b;
			buf_init(&b, s->c->tmp);
			buf_printf(&b, "cut: %s", why);
			say(s, &c, b.s);
		}
		arena_free(a);
		if (!m) return;
	}
}

void
search_table(const Search *s, Arena *a, uint32_t stages, uint32_t mb, Recompute top, Table *t)
{
	uint32_t ranks = s->ranks / stages, most = 0;
	*t = (Table){0};
	find_classes(s->m, a, t);
	for (uint32_t tp = 1; tp <= ranks; tp++)
		if (ranks % tp == 0) most += 2 * 3 * 4;
	t->cand = NEW_N(a, Candidate, most);
	t->count = NEW_N(a, uint32_t, t->nclasses);
	t->cost = NEW_N(a, LayerCost *, t->nclasses);
	t->of = NEW_N(a, uint32_t *, t->nclasses);
	for (uint32_t k = 0; k < t->nclasses; k++) {
		t->cost[k] = NEW_N(a, LayerCost, most);
		t->of[k] = NEW_N(a, uint32_t, most);
	}
	uint32_t group = 0;
	for (uint32_t tp = 1; tp <= ranks; tp++)
		for (int sp = 0; sp <= (tp > 1) && ranks % tp == 0; sp++)
			add_mesh(
			    s, t,
			    (Candidate){.dp = ranks / tp, .tp = tp, .sp = sp, .group = group++},
			    stages, mb, top);
}
