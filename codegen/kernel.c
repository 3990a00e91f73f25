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
		ENSURE(n->naxes < MAX_LOOPS, "a loop nest of more than %d axes", MAX_LOOPS);
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
		ENSURE(!n->reduced || n->reduced == mask, "a kernel reduces two sets of axes");
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
static int
add_loops(Nest *n, uint32_t mask, bool outer)
{
	Loop found[MAX_LOOPS];
	int nfound = 0;
	static const char *const merged[] = {"i", "j", "k"};

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

static void
open_loop(Nest *n, Buf *b, int depth, const Loop *l)
{
	(void)n;
	put_line(b, depth, "for (int64_t %s = 0; %s < %s; %s++) {", l->var, l->var, l->size,
		 l->var);
}

static void
close_loops(Buf *b, int depth, int count)
{
	while (count-- > 0)
		put_line(b, depth + count, "}");
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

static bool
in_row_only(const Nest *n, Val v)
{
	return (nest_mask(n, bc_type(n->c, v)) & n->inner) == 0;
}

/* Whether later walks can read v back from where an earlier one stored it. */
static bool
kept_in_memory(const Nest *n, Val v)
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

static void
need(Nest *n, Val v, int pass)
{
	const Op *op = val_op(n->c->b, v);
	bool computed = n->inside[v.i] ||
			(op && !n->c->val[v.i].ptr && n->c->b->vals[v.i].space != SP_alias);

	if (n->uses[pass][v.i] < UINT16_MAX) n->uses[pass][v.i]++;
	if (!computed || n->uses[pass][v.i] > 1 || n->c->scalar_port[v.i]) return;
	if (n->inside[v.i] && is_reduction(op)) return;
	if (n->inside[v.i] && in_row_only(n, v)) {
		if (n->first[v.i]) return;
		n->first[v.i] = pass + 1;
	} else if (n->inside[v.i]) {
		if (n->first[v.i] && n->first[v.i] <= pass) {
			if (kept_in_memory(n, v) && n->level[v.i] < pass) return;
			if (is_dear(op->code) && (n->row_buffer[v.i] || fits_on_stack(n))) {
				if (!n->row_buffer[v.i])
					n->row_buffer[v.i] =
					    scope_take(n->scope, cg_text(n->c->g->a, "%s_row",
									 bc_elem(n->c, v)));
				return;
			}
		}
		if (!n->first[v.i]) n->first[v.i] = pass + 1;
	}
	for (int j = 0; j < op->nin; j++)
		need(n, op->in[j], pass);
}

static int
last_walk(const Nest *n)
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
		if (!in_row_only(n, n->stores[k].v) && n->level[n->stores[k].v.i] > last)
			last = n->level[n->stores[k].v.i];
	ENSURE(last < MAX_PASSES, "a kernel walks its row %d times", last + 1);
	return last;
}

/* The walk that stores a value: as soon as it is known, or in the last if it overwrites what others read. */
static int
store_walk(const Nest *n, uint32_t k)
{
	return n->stores[k].to->in_place ? n->npasses - 1 : n->level[n->stores[k].v.i];
}

static bool
has_in_place(const Nest *n, int pass)
{
	for (uint32_t k = 0; k < n->nstores; k++)
		if (n->stores[k].to->in_place &&
		    (in_row_only(n, n->stores[k].v) || store_walk(n, k) == pass))
			return true;
	return false;
}

static void
find_needs(Nest *n)
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
			if (in_row_only(n, n->stores[k].v) || store_walk(n, k) != p) continue;
			need(n, n->stores[k].v, p);
			if (has_in_place(n, p))
				need(n, n->stores[k].v,
				     p); /* named before anything is overwritten */
		}
	}
	for (uint32_t k = 0; k < n->nstores; k++)
		if (in_row_only(n, n->stores[k].v)) need(n, n->stores[k].v, n->npasses - 1);
}

/* ---- printing ---- */

void
put_store(Nest *n, Val v, const Sink *to, Ex x)
{
	const Type *t = bc_type(n->c, v);
	uint32_t mask = nest_mask(n, t);
	bool inner = (mask & n->inner) != 0;
	Buf *b = inner ? &n->body : &n->row, guard;
	int depth = inner ? n->body_depth : n->row_depth;
	int64_t stride[MAX_AXES];
	const char *place;
	Lin at;

	buf_init(&guard, n->c->g->a);
	for (int l = 0; l < n->nloops; l++) {
		bool outside = !(n->loop[l].axes & n->inner);

		if (n->loop[l].axes & mask || (!inner && !outside)) continue;
		if (n->rows_done && n->loop[l].axes & n->reduced) continue;
		if (n->column && (n->loop[l].axes & n->reduced) == 0 && !outside) continue;
		buf_printf(&guard, "%s%s == 0", guard.n ? " && " : "", n->loop[l].var);
	}
	if (n->column && !inner)
		buf_printf(&guard, "%s%s == 0", guard.n ? " && " : "", n->first_column);
	if (!to->ptr) {
		n->c->uses_run = true;
		put_line(b, depth, "%s%s%srun->sumsq += %s;", guard.n ? "if (" : "",
			 guard.n ? guard.s : "", guard.n ? ") " : "", x.s);
		return;
	}
	bc_strides(n->c, t, stride);
	at = nest_address(n, t, stride, 0, &n->id);
	place = cg_text(n->c->g->a, "%s[%s]", to->ptr, lin_text(n, &at, t).s);
	if (guard.n) put_line(b, depth++, "if (%s)", guard.s);
	if (to->mode == STORE_set)
		put_line(b, depth, "%s = %s;", place, x.s);
	else if (to->mode == STORE_add)
		put_line(b, depth, "%s += %s;", place, x.s);
	else
		put_line(b, depth, "%s = (%s ? %s : 0) + %s;", place, to->flag, place,
			 x.prec < P_add ? cg_text(n->c->g->a, "(%s)", x.s) : x.s);
}

/* Flat index of the row, for what is kept on the stack. */
static const char *
row_index(Nest *n)
{
	Buf b;
	int64_t stride = 1;

	buf_init(&b, n->c->g->a);
	for (int l = n->nloops - 1; l >= 0; l--) {
		if (!(n->loop[l].axes & n->inner)) continue;
		if (b.n) buf_puts(&b, " + ");
		buf_puts(&b, n->loop[l].var);
		if (stride > 1) buf_printf(&b, " * %" PRId64, stride);
		stride *= n->loop[l].extent;
	}
	return b.n ? b.s : "0";
}

/* Values of earlier walks that are kept on the stack are read there; this walk's are written there. */
static void
keep_rows(Nest *n, int pass, bool before)
{
	for (uint32_t v = 1; v < n->c->b->nvals; v++) {
		if (!n->row_buffer[v]) continue;
		if (before && n->first[v] <= pass)
			n->memo[v] =
			    cg_text(n->c->g->a, "%s[%s]", n->row_buffer[v], row_index(n));
		if (!before && n->first[v] == pass + 1)
			put_line(&n->body, n->body_depth, "%s[%s] = %s;", n->row_buffer[v],
				 row_index(n), value_at(n, (Val){v}, &n->id).s);
	}
}

static void
declare_rows(Nest *n)
{
	for (uint32_t v = 1; v < n->c->b->nvals; v++)
		if (n->row_buffer[v])
			put_line(&n->row, n->row_depth, "_Alignas(64) %s %s[%" PRId64 "];",
				 cg_ctype(n->c->b->vals[v].type.dt), n->row_buffer[v],
				 nest_count(n, n->inner));
}

/* Stores of one walk. Where one overwrites an operand all values are computed first, and it comes last. */
static void
put_stores(Nest *n, int pass)
{
	bool careful = has_in_place(n, pass);

	for (int turn = careful ? -1 : 0; turn <= careful; turn++)
		for (uint32_t k = 0; k < n->nstores; k++) {
			Val v = n->stores[k].v;

			if (in_row_only(n, v) || store_walk(n, k) != pass ||
			    (n->inside[v.i] && is_reduction(val_op(n->c->b, v))))
				continue;
			n->direct = careful ? 0 : v.i;
			Ex x = value_at(n, v, &n->id);
			n->direct = 0;
			if (turn == n->stores[k].to->in_place)
				put_store(n, v, n->stores[k].to, x);
		}
}

/* One walk over the inner loops, appended to the row. */
static void
put_walk(Nest *n, int pass, bool parallel)
{
	int loops = 0, depth = n->row_depth;
	Buf clause;

	n->pass = pass;
	buf_init(&clause, n->c->g->a);
	memset(n->memo, 0, sizeof *n->memo * n->c->b->nvals);
	for (int l = 0; l < n->nloops; l++)
		loops += (n->loop[l].axes & n->inner) != 0;
	n->body_depth = n->row_depth + loops;
	n->body.n = 0;
	keep_rows(n, pass, true);
	reduce_begin(n);
	reduce_add(n, &clause);
	put_stores(n, pass);
	keep_rows(n, pass, false);
	if (n->body.n) {
		for (int l = 0, k = 0; l < n->nloops; l++) {
			if (!(n->loop[l].axes & n->inner)) continue;
			if (++k == loops)
				put_line(&n->row, 0, "#pragma omp %ssimd%s%s",
					 parallel && loops == 1 ? "parallel for " : "",
					 clause.n ? clause.s : "",
					 parallel && loops == 1 ? " schedule(static)" : "");
			open_loop(n, &n->row, depth + k - 1, &n->loop[l]);
		}
		buf_puts(&n->row, n->body.s);
		close_loops(&n->row, depth, loops);
	}
	reduce_end(n);
	for (uint32_t k = 0; k < n->nstores; k++)
		if (!in_row_only(n, n->stores[k].v) && store_walk(n, k) == pass &&
		    kept_in_memory(n, n->stores[k].v))
			n->stored[n->stores[k].v.i] = true;
}

static void
put_row_stores(Nest *n)
{
	for (uint32_t k = 0; k < n->nstores; k++)
		if (in_row_only(n, n->stores[k].v)) value_at(n, n->stores[k].v, &n->id);
	for (uint32_t k = 0; k < n->nstores; k++)
		if (in_row_only(n, n->stores[k].v))
			put_store(n, n->stores[k].v, n->stores[k].to,
				  value_at(n, n->stores[k].v, &n->id));
}

/* for rows { walks } */
static void
put_rows(Nest *n)
{
	uint32_t all = (1u << n->naxes) - 1;
	int rows;
	bool small = nest_count(n, all) < PARALLEL_MIN, parallel_inner = false;

	if (n->reduced) {
		rows = add_loops(n, all & ~n->reduced, true);
		add_loops(n, n->reduced, false);
		n->inner = n->reduced;
	} else {
		int loops = add_loops(n, all, true);

		rows = loops ? loops - 1 : 0;
		if (loops == 1 && !strcmp(n->loop[0].var, "row")) n->loop[0].var = "i";
		n->inner = loops ? n->loop[loops - 1].axes : 0;
	}
	if (!n->reduced && !small && n->nloops) {
		int64_t outer = 1;

		for (int l = 0; l < rows; l++)
			outer *= n->loop[l].extent;
		parallel_inner = outer < 32 && n->loop[n->nloops - 1].extent >= 1024;
	}
	n->row_depth = n->c->depth + rows;
	find_needs(n);
	declare_rows(n);
	for (int p = 0; p < n->npasses; p++)
		put_walk(n, p, parallel_inner);
	n->pass = n->npasses - 1;
	put_row_stores(n);
	if (rows && !small && !parallel_inner) {
		if (rows > 1)
			put_line(&n->c->text, 0,
				 "#pragma omp parallel for collapse(%d) schedule(static)",
				 rows);
		else
			put_line(&n->c->text, 0, "#pragma omp parallel for schedule(static)");
	}
	for (int l = 0; l < rows; l++)
		open_loop(n, &n->c->text, n->c->depth + l, &n->loop[l]);
	const char *first = n->row.n ? n->row.s + strspn(n->row.s, "\t") : "";
	bool block = !rows && strncmp(first, "#pragma", 7) !=
				  0; /* constants of this nest stay in a block of their own */

	if (block) put_line(&n->c->text, n->c->depth, "{");
	if (block) {
		Buf shifted;

		buf_init(&shifted, n->c->g->a);
		for (const char *s = n->row.n ? n->row.s : ""; *s;) {
			const char *end = strchr(s, '\n');

			if (*s != '#') buf_putc(&shifted, '\t');
			buf_puts(&shifted, cg_text(n->c->g->a, "%.*s\n", (int)(end - s), s));
			s = end + 1;
		}
		n->row = shifted;
	}
	if (n->row.n) buf_puts(&n->c->text, n->row.s);
	close_loops(&n->c->text, n->c->depth, block ? 1 : rows);
}

/* for blocks of columns { for rows { for columns } } */
static void
put_columns(Nest *n)
{
	uint32_t all = (1u << n->naxes) - 1;
	int outer = add_loops(n, all & ~n->reduced, false) - 1, rows, depth = n->c->depth;
	const char *e, *e0, *e1;
	Loop column = n->loop[outer];
	Buf head;

	rows = add_loops(n, n->reduced, true) - outer - 1;
	e = column.var;
	e0 = n->first_column = scope_take(n->scope, cg_text(n->c->g->a, "%s_first", e));
	e1 = scope_take(n->scope, cg_text(n->c->g->a, "%s_end", e));
	n->inner = column.axes;
	n->row_depth = depth + outer + 1 + rows;
	n->body_depth = n->row_depth + 1;
	buf_init(&head, n->c->g->a);
	find_needs(n);
	n->pass = 0;
	n->columns = &head;
	n->column_rows = rows;
	n->column_index = cg_text(n->c->g->a, "%s - %s", e, e0);
	reduce_begin(n);
	reduce_add(n, NULL);
	put_stores(n, 0);
	for (uint32_t k = 0; k < n->nstores; k++)
		if (in_row_only(n, n->stores[k].v))
			put_store(n, n->stores[k].v, n->stores[k].to,
				  value_at(n, n->stores[k].v, &n->id));

	if (nest_count(n, all) >= PARALLEL_MIN && outer)
		put_line(&n->c->text, 0,
			 "#pragma omp parallel for collapse(%d) schedule(static)", outer + 1);
	else if (nest_count(n, all) >= PARALLEL_MIN)
		put_line(&n->c->text, 0, "#pragma omp parallel for schedule(static)");
	for (int l = 0; l < outer; l++)
		open_loop(n, &n->c->text, depth + l, &n->loop[l]);
	put_line(&n->c->text, depth + outer, "for (int64_t %s = 0; %s < %s; %s += %d) {", e0,
		 e0, column.size, e0, COLUMNS);
	put_line(&n->c->text, depth + outer + 1,
		 "const int64_t %s = %s + %d < %s ? %s + %d : %s;", e1, e0, COLUMNS,
		 column.size, e0, COLUMNS, column.size);
	if (head.n) buf_puts(&n->c->text, head.s);
	for (int l = 0; l < rows; l++)
		open_loop(n, &n->c->text, depth + outer + 1 + l, &n->loop[outer + 1 + l]);
	if (n->row.n) buf_puts(&n->c->text, n->row.s);
	if (n->body.n) {
		put_line(&n->c->text, 0, "#pragma omp simd");
		put_line(&n->c->text, n->row_depth, "for (int64_t %s = %s; %s < %s; %s++) {", e,
			 e0, e, e1, e);
		buf_puts(&n->c->text, n->body.s);
		put_line(&n->c->text, n->row_depth, "}");
	}
	close_loops(&n->c->text, depth + outer + 1, rows);
	n->body.n = 0;
	n->body_depth = depth + outer + 2;
	n->rows_done = true;
	reduce_end(n);
	put_line(&n->c->text, depth + outer + 1, "for (int64_t %s = %s; %s < %s; %s++) {", e,
		 e0, e, e1, e);
	if (n->body.n) buf_puts(&n->c->text, n->body.s);
	put_line(&n->c->text, depth + outer + 1, "}");
	close_loops(&n->c->text, depth, outer + 1);
}

static void
put_nest(Nest *n)
{
	CgBody *c = n->c;
	uint32_t nvals = c->b->nvals;

	n->scope = c->scope;
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
	probe(n);
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
