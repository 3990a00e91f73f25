/*
 * reduce.c - sum, rmax, rmin and moments inside a loop nest.
 *
 * In a row a reduction gathers in a scalar; long float sums in double, so that they are at least as accurate as
 * pairwise ones. Down columns it gathers in an array of one number per column, in double. Moments take two walks, the
 * mean and then the squares about it: one walk would cancel.
 */
#include "codegen/nest.h"

#include <inttypes.h>
#include <string.h>

enum { LONG_SUM = 4096 };

bool
is_reduction(const Op *op)
{
	return op->code == OP_sum || op->code == OP_rmax || op->code == OP_rmin ||
	       op->code == OP_moments;
}

static const Op *
op_at(const Nest *n, uint32_t k)
{
	return &n->c->b->ops[n->ops[k]];
}

/* Result j of op is gathered in the walk that is printed. An unwanted mean is gathered all the same. */
static bool
gathers(const Nest *n, const Op *op, int j)
{
	int level;

	if (!is_reduction(op)) return false;
	if (op->code == OP_moments && !attr_int(op, AK_center)) {
		level = n->level[op->out[1].i ? op->out[1].i : op->out[0].i];
		return j == 1 && level - 1 == n->pass;
	}
	if (op->code == OP_moments) {
		level = op->out[0].i ? n->level[op->out[0].i] : n->level[op->out[1].i] - 1;
		return level + j - 1 == n->pass && (j == 0 || op->out[1].i);
	}
	return j == 0 && n->level[op->out[0].i] - 1 == n->pass;
}

static bool
is_extreme(const Op *op)
{
	return op->code == OP_rmax || op->code == OP_rmin;
}

static const char *
gather_type(const Nest *n, const Op *op)
{
	DType dt = bc_type(n->c, op->in[0])->dt;

	if (!dtype_float(dt)) return "int32_t";
	if (is_extreme(op)) return cg_ctype(dt);
	if (dt == DT_f64 || n->column || nest_count(n, n->reduced) > LONG_SUM) return "double";
	return "real";
}

static const char *
start_of(const Nest *n, const Op *op)
{
	bool real = dtype_float(bc_type(n->c, op->in[0])->dt);

	if (op->code == OP_rmax) return real ? "-(real)INFINITY" : "INT32_MIN";
	if (op->code == OP_rmin) return real ? "(real)INFINITY" : "INT32_MAX";
	return "0";
}

/* Something to call a result by, wanted or not. */
static const char *
hint(const Nest *n, const Op *op, int j)
{
	Val v = op->out[j].i ? op->out[j] : op->out[!j];

	return name_str(n->c->g->m->names, n->c->b->vals[v.i].name);
}

void
reduce_begin(Nest *n)
{
	for (uint32_t k = 0; k < n->nops; k++)
		for (int j = 0; j < op_at(n, k)->nout; j++) {
			const Op *op = op_at(n, k);
			const char *type;

			if (!gathers(n, op, j)) continue;
			type = gather_type(n, op);
			n->acc[k][j] =
			    scope_take(n->scope, cg_text(n->c->g->a, "%s_%s", hint(n, op, j),
							 is_extreme(op) ? "top" : "sum"));
			if (!n->column) {
				put_line(&n->row, n->row_depth, "%s %s = %s;", type,
					 n->acc[k][j], start_of(n, op));
				continue;
			}
			put_line(n->columns, n->row_depth - n->column_rows, "%s %s[%d]%s;",
				 type, n->acc[k][j], COLUMNS, is_extreme(op) ? "" : " = {0}");
			if (is_extreme(op)) {
				put_line(n->columns, n->row_depth - n->column_rows,
					 "for (int t = 0; t < %d; t++)", COLUMNS);
				put_line(n->columns, n->row_depth - n->column_rows + 1,
					 "%s[t] = %s;", n->acc[k][j], start_of(n, op));
			}
		}
}

/* Prints the addition of one element into the innermost loop; names the accumulators for `reduction(...)`. */
void
reduce_add(Nest *n, Buf *clause)
{
	for (uint32_t k = 0; k < n->nops; k++)
		for (int j = 0; j < op_at(n, k)->nout; j++) {
			const Op *op = op_at(n, k);
			const char *acc;
			Ex x;

			if (!gathers(n, op, j)) continue;
			acc = n->column
				  ? cg_text(n->c->g->a, "%s[%s]", n->acc[k][j], n->column_index)
				  : n->acc[k][j];
			x = value_at(n, op->in[0], &n->id);
			if (op->code == OP_moments && j == 1 && attr_int(op, AK_center))
				x = ex_binary(n, x, "-", P_add, (Ex){n->mean[k], P_atom, 0});
			if ((is_extreme(op) || (op->code == OP_moments && j == 1)) &&
			    strpbrk(x.s, " [(")) {
				const char *t = scope_take(n->scope, "t");

				put_line(&n->body, n->body_depth, "const %s %s = %s;",
					 cg_ctype(bc_type(n->c, op->in[0])->dt), t, x.s);
				x.s = t;
			}
			if (is_extreme(op))
				put_line(&n->body, n->body_depth, "%s = %s %c %s ? %s : %s;",
					 acc, x.s, op->code == OP_rmax ? '>' : '<', acc, x.s,
					 acc);
			else if (op->code == OP_moments && j == 1)
				put_line(&n->body, n->body_depth, "%s += %s * %s;", acc, x.s,
					 x.s);
			else
				put_line(&n->body, n->body_depth, "%s += %s;", acc, x.s);
			if (clause)
				buf_printf(clause, " reduction(%s : %s)",
					   op->code == OP_rmax   ? "max"
					   : op->code == OP_rmin ? "min"
								 : "+",
					   acc);
		}
}

/* The number of elements reduced, as the divisor of a mean. */
static const char *
divisor(const Nest *n)
{
	Type t = {.n = 0};

	for (int k = 0; k < n->naxes; k++)
		if (n->reduced & (1u << k)) t.ax[t.n++] = n->use[k];
	return cg_text(n->c->g->a, t.n == 1 ? "%s" : "(%s)", cg_count(n->c->g, n->c->mesh, &t));
}

static const char *
result_text(Nest *n, uint32_t k, int j)
{
	const Op *op = op_at(n, k);
	const char *acc = n->column
			      ? cg_text(n->c->g->a, "%s[%s]", n->acc[k][j], n->column_index)
			      : n->acc[k][j];

	if (op->code != OP_moments) return acc;
	if (j == 0) return cg_text(n->c->g->a, "%s / %s", acc, divisor(n));
	return cg_text(n->c->g->a, "1 / gv_sqrt(%s%s / %s%s + %s)",
		       gather_type(n, op)[0] == 'd' ? "(real)(" : "", acc, divisor(n),
		       gather_type(n, op)[0] == 'd' ? ")" : "",
		       literal(n->c->g, DT_f32, attr_num(op, AK_eps)));
}

/* Row: results get their names. Columns: they are stored, in the loop over the block that is open in n->body. */
void
reduce_end(Nest *n)
{
	for (uint32_t k = 0; k < n->nops; k++)
		for (int j = 0; j < op_at(n, k)->nout; j++) {
			const Op *op = op_at(n, k);
			Val v = op->out[j];
			const char *x, *type;

			if (!gathers(n, op, j)) {
				if (op->code == OP_moments && j == 0 && v.i &&
				    !attr_int(op, AK_center))
					n->row_memo[v.i] = "0";
				continue;
			}
			x = result_text(n, k, j);
			if (n->column) {
				for (uint32_t s = 0; s < n->nstores; s++)
					if (n->stores[s].v.i == v.i)
						put_store(n, v, n->stores[s].to,
							  (Ex){x, P_atom, n->inner});
				continue;
			}
			type = v.i ? cg_ctype(bc_type(n->c, v)->dt) : "real";
			if (x == n->acc[k][j] && gather_type(n, op)[0] == type[0]) {
				n->row_memo[v.i] = x;
				continue;
			}
			if (gather_type(n, op)[0] == 'd' && type[0] == 'r' && j == 0)
				x = cg_text(n->c->g->a, "(real)(%s)", x);
			n->mean[k] = v.i ? bc_elem(n->c, v) : scope_take(n->scope, "mean");
			put_line(&n->row, n->row_depth, "const %s %s = %s;", type, n->mean[k],
				 x);
			if (v.i) n->row_memo[v.i] = n->mean[k];
		}
}
