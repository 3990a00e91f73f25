/*
 * collective.c - communication inside a body, as calls of the runtime, and where a rank's part of an axis begins.
 *
 * Every rank of a stage runs the same program; what differs is its coordinates in the mesh, which the runtime knows.
 * A part of an axis begins at a sum of coordinate times local extent, a constant of the call: `vocab_start`.
 */
#include "codegen/cg.h"

#include <inttypes.h>
#include <string.h>

/* ---- parts of an axis ---- */

static bool
same_use(const AxisUse *a, const AxisUse *b)
{
	return a->a.i == b->a.i && a->nshard == b->nshard &&
	       memcmp(a->shard, b->shard, a->nshard) == 0;
}

/* c1 * (extent after that split) + ..., over the splits `from`.. but for the microbatches. */
static const char *
start_sum(CgBody *c, AxisUse u, int from)
{
	Buf b;

	buf_init(&b, c->g->a);
	for (int k = from; k < u.nshard; k++) {
		AxisUse part = u;

		part.nshard = (uint8_t)(k + 1);
		if (u.shard[k] == 0 || c->mesh->ax[u.shard[k]].degree == 1) continue;
		buf_printf(&b, "%sgv_coord(run, %u, %u) * %s", b.n ? " + " : "", c->b->mesh,
			   u.shard[k], cg_size(c->g, c->mesh, part));
	}
	return b.n ? b.s : NULL;
}

const char *
bc_start(CgBody *c, AxisUse u, int from)
{
	const char *sum, *axis = name_str(c->g->m->names, c->g->m->axes[u.a.i].name);
	Start s = {.use = u, .from = from};

	if (!c->mesh || u.nshard <= from) return NULL;
	for (uint32_t k = 0; k < c->nstarts; k++)
		if (same_use(&c->starts[k].use, &u) && c->starts[k].from == from)
			return c->starts[k].name;
	sum = start_sum(c, u, from);
	if (!sum) return NULL;
	s.name = scope_take(c->scope, cg_text(c->g->a, "%s_start", axis));
	put_line(&c->head, 1, "const int64_t %s = %s;", s.name, sum);
	PUSH(c->g->a, c->starts, c->nstarts, c->cstarts, s);
	c->uses_run = true;
	return s.name;
}

int64_t
bc_by_mb(const CgBody *c, AxisUse u)
{
	Type t = {.dt = DT_f32, .n = 1, .ax = {u}};

	for (int k = 0; c->mesh && c->mesh->ax[0].degree > 1 && k < u.nshard; k++) {
		if (u.shard[k] != 0) continue;
		t.ax[0].nshard = (uint8_t)(k + 1);
		return bc_extent(c, &t, 0);
	}
	return 0;
}

/* ---- collectives ---- */

/* "block F %h": the place in the model, for errors and traces. */
static const char *
label(CgBody *c, const Op *op)
{
	Buf b;

	buf_init(&b, c->g->a);
	put_cstring(&b, cg_text(c->g->a, "%s %s %s", name_str(c->g->m->names, c->b->name),
				body_str[c->b->kind],
				name_str(c->g->m->names, c->b->vals[op->out[0].i].name)));
	return b.s;
}

/* The operand as one run of elements. */
static const char *
operand(CgBody *c, const Op *op)
{
	const Type *t = bc_type(c, op->in[0]);
	int64_t stride[MAX_AXES];
	Access x;
	bool packed = bc_access(c, op->in[0], &x);

	bc_strides(c, t, stride);
	for (int k = 0; packed && k < t->n; k++)
		packed = bc_extent(c, t, k) == 1 || x.stride[k] == stride[k];
	if (packed && (dtype_float(t->dt) || op->code == OP_all_gather))
		return bc_pointer(c, &x);
	cg_error(c->g, op->loc, "the operand of '%s' is not one run of %s in memory",
		 op_info[op->code].text, op->code == OP_all_gather ? "elements" : "reals");
	return "NULL";
}

static const Sink *
target(CgBody *c, const Op *op)
{
	const Sink *to = bc_sink(c, op->out[0], 0);

	c->uses_run = true;
	if (to && to->mode != STORE_set)
		cg_error(c->g, op->loc,
			 "the result of '%s' is added to a buffer directly; the host target "
			 "cannot do that yet",
			 op_info[op->code].text);
	return to;
}

static int
comm_of(CgBody *c, const Op *op)
{
	return ir_comm_find(c->g->m, &c->g->shared->comms, c->g->k, c->mesh,
			    (unsigned)attr_int(op, AK_over));
}

/* Is the buffer of the result that of the operand, under another name? */
static bool
takes_over(CgBody *c, const Op *op)
{
	Access x;
	Val over = c->b->vals[op->out[0].i].over;

	return over.i && bc_access(c, op->in[0], &x) && over.i == x.base.i;
}

/* In place where the result takes over the operand, or may as well; else on a copy. */
void
emit_all_reduce(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];
	const Sink *to = bc_sink(c, op->out[0], 0);
	const char *x = operand(c, op), *y = x;
	int comm = comm_of(c, op);
	bool adds = to && to->mode != STORE_set;

	if (c->g->failed || !to) return;
	if (!adds && strcmp(to->ptr, x) != 0 && !takes_over(c, op)) {
		emit_copy(c, op->in[0], to);
		y = to->ptr;
	}
	if (adds && c->val[op->in[0].i].last > k + 1)
		cg_error(
		    c->g, op->loc,
		    "the operand of 'all_reduce' is read again, and its result is added to "
		    "a buffer; the host target cannot do that yet");
	c->uses_run |= comm >= 0;
	if (comm >= 0)
		bc_line(c, "gv_all_reduce(run, %d, %s, %s, %s, %s);", comm, y,
			cg_count(c->g, c->mesh, bc_type(c, op->in[0])),
			attr_int_or(op, AK_max, 0) ? "true" : "false", label(c, op));
	for (uint32_t turn = 0; adds && (to = bc_sink(c, op->out[0], turn)); turn++)
		emit_copy(c, op->in[0], to);
	if (!adds) bc_copy_rest(c, op->out[0]);
}

/* Elements of t before the axis, and from it on, of which `n` are along it. */
static void
around(CgBody *c, const Type *t, Axis axis, const char **outer, const char **inner)
{
	int at = type_find(t, axis);
	Type before = *t, after = {.dt = t->dt};

	before.n = (uint8_t)at;
	for (int k = at; k < t->n; k++)
		after.ax[after.n++] = t->ax[k];
	*outer = cg_count(c->g, c->mesh, &before);
	*inner = cg_count(c->g, c->mesh, &after);
}

/* Equal parts: a shorter last one would leave a hole in the middle of the whole. */
static void
check_parts(CgBody *c, const Op *op, const Type *whole, const Type *part)
{
	Axis axis = attr_axis(op, AK_axis);
	int64_t n = bc_extent(c, whole, type_find(whole, axis)),
		of = bc_extent(c, part, type_find(part, axis)),
		ranks = ir_degree(c->mesh, (unsigned)attr_int(op, AK_over));

	if (of * ranks == n) return;
	cg_error(c->g, op->loc,
		 "'%s' of %" PRId64 " along '%s' over %" PRId64 " ranks: it does not divide",
		 op_info[op->code].text, n, ir_axis_str(c->g->m, axis), ranks);
}

void
emit_all_gather(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];
	const Type *part = bc_type(c, op->in[0]), *whole = bc_type(c, op->out[0]);
	const char *x = operand(c, op), *outer, *inner;
	const Sink *to = target(c, op);
	int comm = comm_of(c, op);

	check_parts(c, op, whole, part);
	if (c->g->failed || !to) return;
	around(c, part, attr_axis(op, AK_axis), &outer, &inner);
	if (comm < 0)
		emit_copy(c, op->in[0], to);
	else
		bc_line(c, "gv_all_gather(run, %d, %s, %s, %s, %s, sizeof(%s), %s);", comm, x,
			to->ptr, outer, inner, cg_ctype(part->dt), label(c, op));
	bc_copy_rest(c, op->out[0]);
}

void
emit_reduce_scatter(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];
	const Type *whole = bc_type(c, op->in[0]), *part = bc_type(c, op->out[0]);
	const char *x = operand(c, op), *outer, *inner;
	const Sink *to = target(c, op), *work = op->out[1].i ? bc_sink(c, op->out[1], 0) : NULL;
	int comm = comm_of(c, op);

	check_parts(c, op, whole, part);
	if (!work) cg_error(c->g, op->loc, "'reduce_scatter' has no room to work in");
	if (c->g->failed || !to) return;
	around(c, part, attr_axis(op, AK_axis), &outer, &inner);
	if (comm < 0)
		emit_copy(c, op->in[0], to);
	else
		bc_line(c, "gv_reduce_scatter(run, %d, %s, %s, %s, %s, %s, %s);", comm, x,
			to->ptr, work->ptr, outer, inner, label(c, op));
	bc_copy_rest(c, op->out[0]);
}
