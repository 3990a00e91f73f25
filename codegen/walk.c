/*
 * walk.c - prints a loop nest that kernel.c has laid out: rows and the walks inside them, or blocks of columns.
 */
#include "codegen/nest.h"

#include <inttypes.h>
#include <string.h>

static void
open_loop(Buf *b, int depth, const Loop *l)
{
	put_line(b, depth, "for (int64_t %s = 0; %s < %s; %s++) {", l->var, l->var, l->size,
		 l->var);
}

static void
close_loops(Buf *b, int depth, int count)
{
	while (count-- > 0)
		put_line(b, depth + count, "}");
}

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
	place = cg_text(n->c->g->a, "%s[%s]", to->ptr, index_text(n, &at, t, NULL));
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
	bool careful = nest_is_careful(n, pass);

	for (int turn = careful ? -1 : 0; turn <= careful; turn++)
		for (uint32_t k = 0; k < n->nstores; k++) {
			Val v = n->stores[k].v;

			if (nest_in_row(n, v) || nest_store_walk(n, k) != pass ||
			    (n->inside[v.i] && is_reduction(val_op(n->c->b, v))))
				continue;
			n->direct = careful ? 0 : v.i;
			Ex x = value_at(n, v, &n->id);
			n->direct = 0;
			if (!careful || turn == n->stores[k].to->in_place)
				put_store(n, v, n->stores[k].to, x);
		}
}

/* Names what several expressions of a walk share, in the order of the ops. */
static void
name_shared(Nest *n, int pass)
{
	for (uint32_t k = 0; k < n->nops; k++) {
		const Op *op = &n->c->b->ops[n->ops[k]];

		if (!is_reduction(op) && n->uses[pass][op->out[0].i] > 1 &&
		    n->level[op->out[0].i] <= pass)
			value_at(n, op->out[0], &n->id);
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
	name_shared(n, pass);
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
			open_loop(&n->row, depth + k - 1, &n->loop[l]);
		}
		buf_puts(&n->row, n->body.s);
		close_loops(&n->row, depth, loops);
	}
	reduce_end(n);
	for (uint32_t k = 0; k < n->nstores; k++)
		if (!nest_in_row(n, n->stores[k].v) && nest_store_walk(n, k) == pass &&
		    nest_is_kept(n, n->stores[k].v))
			n->stored[n->stores[k].v.i] = true;
}

static void
put_row_stores(Nest *n)
{
	for (uint32_t k = 0; k < n->nstores; k++)
		if (nest_in_row(n, n->stores[k].v)) value_at(n, n->stores[k].v, &n->id);
	for (uint32_t k = 0; k < n->nstores; k++)
		if (nest_in_row(n, n->stores[k].v))
			put_store(n, n->stores[k].v, n->stores[k].to,
				  value_at(n, n->stores[k].v, &n->id));
}

/* Chooses which loops are rows and which lie inside; returns the number of rows' loops. */
static int
lay_rows(Nest *n)
{
	uint32_t all = (1u << n->naxes) - 1;
	int rows, loops;

	if (n->reduced) {
		rows = nest_add_loops(n, all & ~n->reduced, true);
		nest_add_loops(n, n->reduced, false);
		n->inner = n->reduced;
		return rows;
	}
	loops = nest_add_loops(n, all, true);
	if (loops == 1 && !strcmp(n->loop[0].var, "row")) n->loop[0].var = "i";
	n->inner = loops ? n->loop[loops - 1].axes : 0;
	return loops ? loops - 1 : 0;
}

/* Few rows that are long: threads share the row instead. Not where it is reduced: sums have one order. */
static bool
shares_row(const Nest *n, int rows)
{
	int64_t outer = 1;

	if (n->reduced || !n->nloops) return false;
	for (int l = 0; l < rows; l++)
		outer *= n->loop[l].extent;
	return outer < 32 && n->loop[n->nloops - 1].extent >= 1024;
}

static void
put_parallel(Nest *n, int loops)
{
	if (loops > 1)
		put_line(&n->c->text, 0,
			 "#pragma omp parallel for collapse(%d) schedule(static)", loops);
	else
		put_line(&n->c->text, 0, "#pragma omp parallel for schedule(static)");
}

/* The statements of a row without loops around it, in a block of their own if they declare anything. */
static void
put_single_row(Nest *n)
{
	const char *s = n->row.n ? n->row.s : "";
	bool block = strncmp(s + strspn(s, "\t"), "#pragma", 7) != 0;

	if (block) put_line(&n->c->text, n->c->depth, "{");
	while (*s) {
		size_t len = strcspn(s, "\n");

		if (block && *s != '#') buf_putc(&n->c->text, '\t');
		buf_printf(&n->c->text, "%.*s\n", (int)len, s);
		s += len + 1;
	}
	if (block) put_line(&n->c->text, n->c->depth, "}");
}

/* for rows { walks } */
void
put_rows(Nest *n)
{
	bool small = nest_count(n, (1u << n->naxes) - 1) < PARALLEL_MIN, shared;
	int rows = lay_rows(n);

	shared = !small && shares_row(n, rows);
	n->row_depth = n->c->depth + rows;
	nest_find_needs(n);
	declare_rows(n);
	for (int p = 0; p < n->npasses; p++)
		put_walk(n, p, shared);
	n->pass = n->npasses - 1;
	put_row_stores(n);
	if (!rows) {
		put_single_row(n);
		return;
	}
	if (!small && !shared) put_parallel(n, rows);
	for (int l = 0; l < rows; l++)
		open_loop(&n->c->text, n->c->depth + l, &n->loop[l]);
	if (n->row.n) buf_puts(&n->c->text, n->row.s);
	close_loops(&n->c->text, n->c->depth, rows);
}

/* for blocks of columns { for rows { for columns } } */
void
put_columns(Nest *n)
{
	uint32_t all = (1u << n->naxes) - 1;
	int outer = nest_add_loops(n, all & ~n->reduced, false) - 1, rows, depth = n->c->depth;
	const char *e, *e0, *e1;
	Loop column = n->loop[outer];
	Buf head;

	rows = nest_add_loops(n, n->reduced, true) - outer - 1;
	e = column.var;
	e0 = n->first_column = scope_take(n->scope, cg_text(n->c->g->a, "%s_first", e));
	e1 = scope_take(n->scope, cg_text(n->c->g->a, "%s_end", e));
	n->inner = column.axes;
	n->row_depth = depth + outer + 1 + rows;
	n->body_depth = n->row_depth + 1;
	buf_init(&head, n->c->g->a);
	nest_find_needs(n);
	n->pass = 0;
	n->columns = &head;
	n->column_rows = rows;
	n->column_index = cg_text(n->c->g->a, "%s - %s", e, e0);
	name_shared(n, 0);
	reduce_begin(n);
	reduce_add(n, NULL);
	put_stores(n, 0);
	for (uint32_t k = 0; k < n->nstores; k++)
		if (nest_in_row(n, n->stores[k].v))
			put_store(n, n->stores[k].v, n->stores[k].to,
				  value_at(n, n->stores[k].v, &n->id));

	if (nest_count(n, all) >= PARALLEL_MIN) put_parallel(n, outer + 1);
	for (int l = 0; l < outer; l++)
		open_loop(&n->c->text, depth + l, &n->loop[l]);
	put_line(&n->c->text, depth + outer, "for (int64_t %s = 0; %s < %s; %s += %d) {", e0,
		 e0, column.size, e0, COLUMNS);
	put_line(&n->c->text, depth + outer + 1,
		 "const int64_t %s = %s + %d < %s ? %s + %d : %s;", e1, e0, COLUMNS,
		 column.size, e0, COLUMNS, column.size);
	if (head.n) buf_puts(&n->c->text, head.s);
	for (int l = 0; l < rows; l++)
		open_loop(&n->c->text, depth + outer + 1 + l, &n->loop[outer + 1 + l]);
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
