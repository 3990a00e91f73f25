/*
 * kernel.c - a fused kernel, or one op alone, as a loop nest.
 *
 * A nest has the union of its ops' axes. Two shapes:
 *
 *   row     for rows in parallel { walk 0; walk 1; ... }       reductions over the inner axes; a reduction ends a walk,
 *                                                              because what follows needs the whole row
 *   column  for blocks of columns in parallel { for rows { } } reductions over the outer axes; sums in a small array, so
 *                                                              that they do not depend on the number of threads
 *
 * A nest without reductions is a row nest of one walk. Each walk prints what its stores and reductions ask for
 * (expr.c), and nothing else. What several walks need is read back from where it was stored, kept on the stack if it
 * is dear, or computed again. Neighbouring loops are merged where every address allows it.
 */
#include "codegen/nest.h"

#include <inttypes.h>
#include <string.h>

/* ---- axes ---- */

int64_t
nest_count(const Nest *n, uint32_t axes)
{
	int64_t count = 1;

	for (int k = 0; k < n->naxes; k++)
		if (axes & (1u << k)) count *= n->extent[k];
	return count;
}

static void
add_axes(Nest *n, const Type *t)
{
	for (int k = 0; k < t->n; k++) {
		if (nest_axis(n, t->ax[k].a) >= 0) continue;
		if (n->naxes == MAX_LOOPS) {
			nest_error(n, "a loop nest of more than %d axes", MAX_LOOPS);
			return;
		}
		n->use[n->naxes] = t->ax[k];
		n->extent[n->naxes++] = bc_extent(n->c, t, k);
	}
}

/* Axes in the order of the widest value that is stored or reduced; that value's memory is then walked in order. */
static void
find_axes(Nest *n)
{
	const Type *widest = NULL;
	int64_t most = -1;

	for (int pass = 0; pass < 2; pass++) {
		for (uint32_t k = 0; k < n->nstores && !pass; k++) {
			const Type *t = bc_type(n->c, n->stores[k].v);
			int64_t count = type_count(n->c->g->m, n->c->mesh, t);

			if (count > most || (count == most && t->n > widest->n))
				widest = t, most = count;
		}
		for (uint32_t k = 0; k < n->nops; k++) {
			const Op *op = &n->c->b->ops[n->ops[k]];

			if (pass && op->out[0].i) add_axes(n, bc_type(n->c, op->out[0]));
			if (!is_reduction(op)) continue;
			const Type *t = bc_type(n->c, op->in[0]);
			int64_t count = type_count(n->c->g->m, n->c->mesh, t);

			if (pass)
				add_axes(n, t);
			else if (count > most || (count == most && t->n > widest->n))
				widest = t, most = count;
		}
		if (!pass && widest) add_axes(n, widest);
	}
	for (uint32_t k = 0; k < n->nstores; k++)
		add_axes(n, bc_type(n->c, n->stores[k].v));
	for (int k = 0; k < n->naxes; k++) {
		Lin at = {.deps = 1u << k};

		at.k[k] = 1;
		env_set(&n->id, n->use[k].a, &at);
	}
}

static void
find_reduced(Nest *n)
{
	for (uint32_t k = 0; k < n->nops; k++) {
		const Op *op = &n->c->b->ops[n->ops[k]];
		uint32_t mask = 0;

		if (!is_reduction(op)) continue;
		const AxisList *axes = attr_axes(op, AK_axes);
		for (int j = 0; j < axes->n; j++)
			mask |= 1u << nest_axis(n, axes->a[j]);
		if (n->reduced && n->reduced != mask)
			nest_error(n, "a kernel reduces two sets of axes");
		n->reduced |= mask;
	}
}

/* level[v]: how many walks must be over before v can be computed. */
static void
find_levels(Nest *n)
{
	for (uint32_t k = 0; k < n->nops; k++) {
		const Op *op = &n->c->b->ops[n->ops[k]];
		int level = 0;

		for (int j = 0; j < op->nin; j++)
			if (n->inside[op->in[j].i] && n->level[op->in[j].i] > level)
				level = n->level[op->in[j].i];
		if (is_reduction(op)) level++;
		for (int j = 0; j < op->nout; j++)
			n->level[op->out[j].i] = level + (op->code == OP_moments && j == 1 &&
							  attr_int(op, AK_center));
	}
	n->level[0] = 0;
}

/* Columns if the sums run over outer axes and nothing in the nest needs them. */
static bool
is_column(const Nest *n)
{
	uint32_t kept = 0;
	int last = -1;

	for (int k = 0; k < n->naxes; k++)
		if (n->extent[k] > 1) last = k;
	if (!n->reduced || last < 0 || n->reduced & (1u << last)) return false;
	for (int k = 0; k < n->naxes; k++)
		if (!(n->reduced & (1u << k))) kept |= 1u << k;
	if (nest_count(n, kept) < 2) return false;
	for (uint32_t k = 0; k < n->nops; k++) {
		const Op *op = &n->c->b->ops[n->ops[k]];

		if (op->code == OP_moments) return false;
		for (int j = 0; j < op->nin; j++)
			if (n->inside[op->in[j].i] && n->level[op->in[j].i] > 0) return false;
	}
	return true;
}

/* Collects every address of the nest, so that loops are merged only where all agree. */
static void
probe(Nest *n)
{
	n->probe = true;
	for (uint32_t k = 0; k < n->nops; k++) {
		const Op *op = &n->c->b->ops[n->ops[k]];

		if (is_reduction(op))
			value_at(n, op->in[0], &n->id);
		else
			value_at(n, op->out[0], &n->id);
	}
	for (uint32_t k = 0; k < n->nstores; k++) {
		int64_t stride[MAX_AXES];

		value_at(n, n->stores[k].v, &n->id);
		bc_strides(n->c, bc_type(n->c, n->stores[k].v), stride);
		nest_address(n, bc_type(n->c, n->stores[k].v), stride, 0, &n->id);
	}
	n->probe = false;
	memset(n->memo, 0, sizeof *n->memo * n->c->b->nvals);
}

/* ---- loops ---- */

static bool
may_merge(const Nest *n, int axis, const Loop *into)
{
	uint32_t apart = 0;

	if (n->extent[axis] == 1 || into->extent == 1) return true;
	for (int k = 0; k < n->naxes; k++)
		if (n->extent[k] > 1) apart |= n->solo & (1u << k);
	if (apart & (into->axes | (1u << axis))) return false;
	for (uint32_t k = 0; k < n->nseen; k++)
		if (n->seen[k].k[axis] != n->seen[k].k[into->last] * into->extent) return false;
	return true;
}

/* Appends loops over the axes of `mask`, outermost first, and names them. Returns how many. */
int
nest_add_loops(Nest *n, uint32_t mask, bool outer)
{
	Loop found[MAX_LOOPS];
	int nfound = 0;
	static const char *const merged[] = {"i", "j", "r"};

	for (int a = n->naxes - 1; a >= 0; a--) {
		Loop *l = nfound ? &found[nfound - 1] : NULL;

		if (!(mask & (1u << a))) continue;
		if (!l || !may_merge(n, a, l)) {
			found[nfound++] =
			    (Loop){.axes = 1u << a, .last = a, .extent = n->extent[a]};
			continue;
		}
		if (l->extent == 1) l->last = a;
		l->axes |= 1u << a;
		l->extent *= n->extent[a];
	}
	while (nfound > 0) {
		Loop l = found[--nfound];
		Type t = {.n = 0};
		int wide = 0, names = 0;

		if (l.extent == 1) continue; /* its index is 0 everywhere */
		for (int a = 0; a < n->naxes; a++) {
			if (!(l.axes & (1u << a)) || n->extent[a] == 1) continue;
			wide++;
			t.ax[t.n++] = n->use[a];
		}
		for (int k = 0; k < n->nloops; k++)
			names += !strcmp(n->loop[k].var, "i") + !strcmp(n->loop[k].var, "j");
		l.var = wide == 1             ? n->c->g->axis_var[n->use[l.last].a.i]
			: outer && !n->nloops ? "row"
					      : merged[names < 3 ? names : 2];
		for (int k = 0; k < n->nloops; k++)
			if (!strcmp(n->loop[k].var, l.var)) l.var = scope_take(n->scope, l.var);
		l.size = cg_count(n->c->g, n->c->mesh, &t);
		n->loop[n->nloops++] = l;
	}
	return n->nloops;
}

/* ---- what each walk needs ---- */

static bool
is_dear(OpCode code)
{
	switch (code) {
	case OP_exp:
	case OP_log:
	case OP_sqrt:
	case OP_sin:
	case OP_cos:
	case OP_tanh:
	case OP_erf:
	case OP_sigmoid:
	case OP_pow:
	case OP_div:
	case OP_floordiv:
	case OP_mod:
	case OP_dropout: return true;
	default: return false;
	}
}

bool
nest_in_row(const Nest *n, Val v)
{
	return (nest_mask(n, bc_type(n->c, v)) & n->inner) == 0;
}

/* Whether later walks can read v back from where an earlier one stored it. */
bool
nest_is_kept(const Nest *n, Val v)
{
	const ValInfo *x = &n->c->val[v.i];

	if (!n->inside[v.i] || !x->ptr || n->column) return false;
	for (uint32_t k = 0; k < x->nsinks; k++)
		if (x->sinks[k].in_place) return false;
	return true;
}

static bool
fits_on_stack(const Nest *n)
{
	int64_t held = 0, row = nest_count(n, n->inner);

	for (uint32_t v = 1; v < n->c->b->nvals; v++)
		if (n->row_buffer[v]) held += row;
	return !n->column && row + held <= ROW_BUFFER_MAX * 4 && row <= ROW_BUFFER_MAX;
}

/* A value is wanted once more in a walk. */
static void
need(Nest *n, Val v, int pass)
{
	if (n->uses[pass][v.i] < UINT16_MAX) n->uses[pass][v.i]++;
}

/* Whether a walk that needs v computes it, and so needs its operands; else it is read back. Notes what is kept on the stack. */
static bool
computes(Nest *n, Val v, const Op *op, int pass)
{
	if (!n->inside[v.i]) return !n->c->val[v.i].ptr && n->c->b->vals[v.i].space != SP_alias;
	if (is_reduction(op)) return false;
	if (nest_in_row(n, v)) {
		if (n->first[v.i]) return false;
	} else if (n->first[v.i] && n->first[v.i] <= pass) {
		if (nest_is_kept(n, v) && n->level[v.i] < pass) return false;
		if (is_dear(op->code) && (n->row_buffer[v.i] || fits_on_stack(n))) {
			if (!n->row_buffer[v.i])
				n->row_buffer[v.i] = scope_take(
				    n->scope, cg_text(n->c->g->a, "%s_row", bc_elem(n->c, v)));
			return false;
		}
	}
	if (!n->first[v.i]) n->first[v.i] = pass + 1;
	return true;
}

/* From what a walk stores and reduces down to memory. Uses come after definitions, so one sweep backwards does. */
static void
sweep_needs(Nest *n, int pass)
{
	for (uint32_t k = n->c->b->nops; k-- > 0;) {
		const Op *op = &n->c->b->ops[k];
		bool computed = false;

		for (int j = 0; j < op->nout; j++)
			if (op->out[j].i && n->uses[pass][op->out[j].i])
				computed |= computes(n, op->out[j], op, pass);
		for (int j = 0; computed && j < op->nin; j++)
			need(n, op->in[j], pass);
	}
}

static int
last_walk(Nest *n)
{
	int last = 0;

	for (uint32_t k = 0; k < n->nops; k++) {
		const Op *op = &n->c->b->ops[n->ops[k]];
		int walk = 0;

		if (is_reduction(op))
			for (int j = 0; j < op->nout; j++)
				if (n->level[op->out[j].i] - 1 > walk)
					walk = n->level[op->out[j].i] - 1;
		if (walk > last) last = walk;
	}
	for (uint32_t k = 0; k < n->nstores; k++)
		if (!nest_in_row(n, n->stores[k].v) && n->level[n->stores[k].v.i] > last)
			last = n->level[n->stores[k].v.i];
	if (last >= MAX_PASSES) {
		nest_error(n, "a kernel walks its row %d times; at most %d are possible",
			   last + 1, MAX_PASSES);
		return 0;
	}
	return last;
}

/* The walk that stores a value: as soon as it is known, or in the last if it overwrites what others read. Down columns
 * there is one walk. */
int
nest_store_walk(const Nest *n, uint32_t k)
{
	return n->stores[k].to->in_place && !n->column ? n->npasses - 1
						       : n->level[n->stores[k].v.i];
}

/* Whether a walk stores several values and one of them over an operand: all are computed before any is stored. */
bool
nest_is_careful(const Nest *n, int pass)
{
	uint32_t stores = 0;
	bool over = false;

	for (uint32_t k = 0; k < n->nstores; k++) {
		if (!nest_in_row(n, n->stores[k].v) && nest_store_walk(n, k) != pass) continue;
		stores++;
		over |= n->stores[k].to->in_place;
	}
	return over && stores > 1;
}

void
nest_find_needs(Nest *n)
{
	n->npasses = last_walk(n) + 1;
	n->uses = NEW_N(n->c->g->a, uint16_t *, n->npasses);
	for (int p = 0; p < n->npasses; p++)
		n->uses[p] = NEW_N(n->c->g->a, uint16_t, n->c->b->nvals);
	for (int p = 0; p < n->npasses; p++) {
		for (uint32_t k = 0; k < n->nops; k++) {
			const Op *op = &n->c->b->ops[n->ops[k]];

			for (int j = 0; is_reduction(op) && j < op->nout; j++)
				if ((op->out[j].i || j == 0) && n->level[op->out[j].i] - 1 == p)
					need(n, op->in[0], p);
		}
		for (uint32_t k = 0; k < n->nstores; k++) {
			if (nest_in_row(n, n->stores[k].v) || nest_store_walk(n, k) != p)
				continue;
			need(n, n->stores[k].v, p);
			if (nest_is_careful(n, p))
				need(n, n->stores[k].v,
				     p); /* named before anything is overwritten */
		}
		for (uint32_t k = 0; p == n->npasses - 1 && k < n->nstores; k++)
			if (nest_in_row(n, n->stores[k].v)) need(n, n->stores[k].v, p);
		sweep_needs(n, p);
	}
}

/* ---- the nest ---- */

static void
put_nest(Nest *n)
{
	CgBody *c = n->c;
	uint32_t nvals = c->b->nvals;

	n->scope = scope_new(c->g->a, c->scope); /* its names end with it */
	n->level = NEW_N(c->g->a, int, nvals);
	n->first = NEW_N(c->g->a, int, nvals);
	n->memo = NEW_N(c->g->a, const char *, nvals);
	n->row_memo = NEW_N(c->g->a, const char *, nvals);
	n->row_buffer = NEW_N(c->g->a, const char *, nvals);
	n->stored = NEW_N(c->g->a, bool, nvals);
	n->acc = arena_alloc(c->g->a, sizeof *n->acc * (n->nops + 1));
	n->mean = NEW_N(c->g->a, const char *, n->nops + 1);
	buf_init(&n->row, c->g->a);
	buf_init(&n->body, c->g->a);
	find_axes(n);
	find_reduced(n);
	find_levels(n);
	n->column = is_column(n);
	if (!c->g->failed) probe(n);
	if (c->g->failed) return;
	if (n->column)
		put_columns(n);
	else
		put_rows(n);
}

void
emit_kernel(CgBody *c, const uint32_t *ops, uint32_t nops)
{
	Nest *n = NEW(c->g->a, Nest);

	n->c = c, n->ops = ops, n->nops = nops;
	n->inside = NEW_N(c->g->a, bool, c->b->nvals);
	for (uint32_t k = 0; k < nops; k++) {
		const Op *op = &c->b->ops[ops[k]];

		for (int j = 0; j < op->nout; j++) {
			const ValInfo *x = &c->val[op->out[j].i];

			if (!op->out[j].i) continue;
			n->inside[op->out[j].i] = true;
			for (uint32_t s = 0; s < x->nsinks; s++) {
				n->stores = arena_grow(c->g->a, n->stores, n->nstores,
						       n->nstores + 1, sizeof *n->stores);
				n->stores[n->nstores].v = op->out[j];
				n->stores[n->nstores++].to = &x->sinks[s];
				if (x->sinks[s].ptr) bc_touch(c, op->out[j]);
			}
		}
	}
	put_nest(n);
}

void
emit_copy(CgBody *c, Val v, const Sink *to)
{
	Nest *n = NEW(c->g->a, Nest);

	n->c = c;
	n->inside = NEW_N(c->g->a, bool, c->b->nvals);
	n->stores = arena_grow(c->g->a, NULL, 0, 1, sizeof *n->stores);
	n->stores[0].v = v;
	n->stores[0].to = to;
	n->nstores = 1;
	put_nest(n);
}
