/*
 * fuse.c - which ops of a body are one loop nest.
 *
 * Input: a lowered body. Output: kernel numbers, ops reordered so that a kernel's are
 * contiguous. A kernel consists of elementwise ops (EW) and reductions (sum, rmax, rmin,
 * moments); S is the union of the axes of its values. Two shapes:
 *
 *   row     every reduction takes exactly the axes C off S; every elementwise result has the
 *           axes S or S \ C. Values flow between its ops at equal rows, so rows are
 *           independent. Without reductions C is empty: a plain map.
 *   column  every reduction takes C off S, C not holding the fastest axis; the reduced results
 *           are not read inside, elementwise results have the axes S and are not needed
 *           outside.
 *
 * What comes from outside is read through alias views (ir_access), or through views that are
 * none (unslice, roll, concat, ...) inside the kernel, directly on outside buffers. Constants
 * are literals and belong to no kernel; positions and broadcasts are copied to every kernel
 * that reads them. Everything else stays alone, kernel 0.
 *
 * Method: greedy merging of producers into consumers, then of siblings that read the same
 * buffer, each merge checked for shape, for the number of operands, and for a path that leaves
 * the kernel and returns.
 */
#include <string.h>

#include "passes/passes.h"

enum {
	MAX_OPERANDS = 12,
	SIBLINGS = 64, /* how many groups ahead are looked at */
};

typedef struct Fuse {
	Ctx *c;
	Module *m;
	Body *b;
	uint32_t *of;     /* [nops] the group of an op: the index of its first member */
	bool *alias;      /* [nops] a view without code */
	uint32_t *uses;   /* [nvals] */
	uint32_t *inside; /* [nvals] how many of them are in the groups looked at */
	uint32_t *stamp;  /* [nvals] */
	bool *mark;       /* [nops] scratch of the path search */
} Fuse;

typedef enum Shape { SHAPE_none, SHAPE_row, SHAPE_column } Shape;

/* ---- classes of ops ---- */

static bool
is_red(const Op *op)
{
	return op->code == OP_sum || op->code == OP_rmax || op->code == OP_rmin ||
	       op->code == OP_moments;
}

static bool
is_leaf(const Op *op) /* an expression of the index, or of outside buffers at other indices */
{
	int flags = op_info[op->code].flags;
	return op->code == OP_pos || op->code == OP_inside ||
	       (flags & OF_VIEW && !(flags & OF_EW));
}

static bool
is_map(const Op *op)
{
	return op_info[op->code].flags & OF_EW && op->code != OP_const && op->code != OP_pos &&
	       op->code != OP_inside;
}

/* May op i be in a kernel? */
static bool
fusable(const Fuse *f, uint32_t i)
{
	const Op *op = &f->b->ops[i];
	return (is_map(op) || is_red(op) || is_leaf(op)) && !f->alias[i];
}

static const Op *
def(const Fuse *f, Val v)
{
	return val_op(f->b, v);
}

static bool
is_literal(const Fuse *f, Val v)
{
	const Op *op = def(f, v);
	return op && op->code == OP_const;
}

/* ---- sets of axes ---- */

static bool
add_axes(AxisList *l, const Type *t)
{
	for (int k = 0; k < t->n; k++)
		if (!axes_has(l, t->ax[k].a) && !axes_add(l, t->ax[k].a)) return false;
	return true;
}

static bool
type_is(const Type *t, const AxisList *all, const AxisList *without)
{
	int n = 0;
	for (int k = 0; k < all->n; k++) {
		if (without && axes_has(without, all->a[k])) continue;
		if (type_find(t, all->a[k]) < 0) return false;
		n++;
	}
	return n == t->n;
}

static bool
same_set(const AxisList *x, const AxisList *y)
{
	if (x->n != y->n) return false;
	for (int k = 0; k < x->n; k++)
		if (!axes_has(y, x->a[k])) return false;
	return true;
}

/* ---- is a group a kernel? ---- */

static bool
member(const Fuse *f, uint32_t i, uint32_t g, uint32_t h)
{
	return f->of[i] == g || f->of[i] == h;
}

static void
count_inside(Fuse *f, uint32_t g, uint32_t h)
{
	memset(f->inside, 0, sizeof *f->inside * f->b->nvals);
	for (uint32_t i = 0; i < f->b->nops; i++)
		for (int k = 0; member(f, i, g, h) && k < f->b->ops[i].nin; k++)
			f->inside[f->b->ops[i].in[k].i]++;
}

/* Is value v, made in the groups counted, read outside of them or handed out? */
static bool
escapes(const Fuse *f, Val v)
{
	return f->inside[v.i] < f->uses[v.i];
}

static bool
made_inside(const Fuse *f, Val v, uint32_t g, uint32_t h)
{
	uint32_t d = f->b->vals[v.i].def;
	return d && member(f, d - 1, g, h);
}

/* The fastest axis of a tensor that has more than one entry. */
static Axis
fastest(const Fuse *f, const Type *t)
{
	for (int k = t->n; k-- > 0;)
		if (type_extent(f->m, ir_mesh(f->m, f->b), t, k) > 1) return t->ax[k].a;
	return NO_AXIS;
}

/* S and C of the groups g and h together; false if reductions differ or axes are too many. */
static bool
space_of_groups(const Fuse *f, uint32_t g, uint32_t h, AxisList *s, AxisList *c, bool *red,
		bool *column)
{
	*s = *c = (AxisList){0};
	*red = *column = false;
	for (uint32_t i = 0; i < f->b->nops; i++) {
		const Op *op = &f->b->ops[i];
		if (!member(f, i, g, h)) continue;
		for (int r = 0; r < op->nout; r++)
			if (op->out[r].i && !add_axes(s, val_type(f->b, op->out[r])))
				return false;
		if (!is_red(op)) continue;
		const AxisList *axes = attr_axes(op, AK_axes);
		if (!add_axes(s, val_type(f->b, op->in[0]))) return false;
		if (*red && !same_set(c, axes)) return false;
		bool col = !axes_has(axes, fastest(f, val_type(f->b, op->in[0])));
		if (*red && col != *column) return false;
		*column = col;
		*red = true;
		*c = *axes;
	}
	return true;
}

static bool
fits_row(const Fuse *f, const Op *op, const AxisList *s, const AxisList *c)
{
	if (is_leaf(op)) return true;
	if (is_red(op))
		return type_is(val_type(f->b, op->in[0]), s,
			       NULL); /* a result may be unwanted */
	const Type *t = val_type(f->b, op->out[0]);
	return type_is(t, s, NULL) || type_is(t, s, c);
}

static bool
fits_column(const Fuse *f, const Op *op, const AxisList *s)
{
	if (is_leaf(op)) return true;
	if (!is_red(op))
		return type_is(val_type(f->b, op->out[0]), s, NULL) && !escapes(f, op->out[0]);
	for (int r = 0; r < op->nout; r++)
		if (op->out[r].i && f->inside[op->out[r].i]) return false;
	return type_is(val_type(f->b, op->in[0]), s, NULL);
}

/* Distinct values from outside; a leaf's operands are all outside and its result stays
 * inside. */
static bool
operands_ok(const Fuse *f, uint32_t g, uint32_t h)
{
	Val seen[MAX_OPERANDS];
	int n = 0;
	for (uint32_t i = 0; i < f->b->nops; i++) {
		const Op *op = &f->b->ops[i];
		if (!member(f, i, g, h)) continue;
		if (is_leaf(op) && escapes(f, op->out[0])) return false;
		for (int k = 0; k < op->nin; k++) {
			if (is_literal(f, op->in[k])) continue;
			if (made_inside(f, op->in[k], g, h)) {
				if (is_leaf(op)) return false;
				continue;
			}
			int j = 0;
			while (j < n && seen[j].i != op->in[k].i)
				j++;
			if (j < n) continue;
			if (n == MAX_OPERANDS) return false;
			seen[n++] = op->in[k];
		}
	}
	return true;
}

static Shape
shape_of(Fuse *f, uint32_t g, uint32_t h)
{
	AxisList s, c;
	bool red, column;
	count_inside(f, g, h);
	if (!space_of_groups(f, g, h, &s, &c, &red, &column) || !operands_ok(f, g, h))
		return SHAPE_none;
	for (uint32_t i = 0; i < f->b->nops; i++) {
		const Op *op = &f->b->ops[i];
		if (!member(f, i, g, h)) continue;
		if (column ? !fits_column(f, op, &s) : !fits_row(f, op, &s, &c))
			return SHAPE_none;
	}
	return column ? SHAPE_column : SHAPE_row;
}

/* ---- paths ---- */

/* Does something outside g and h depend on one of them and feed one of them? Ops are in a
 * valid order, groups contracted. */
static bool
path_returns(const Fuse *f, uint32_t g, uint32_t h)
{
	bool *mark = f->mark, more = true; /* outside, and depends on the group */
	memset(mark, 0, sizeof *mark * f->b->nops);
	while (more) { /* a second round only where a group's members are apart */
		more = false;
		for (uint32_t i = 0; i < f->b->nops; i++) {
			const Op *op = &f->b->ops[i];
			bool on = false;
			for (int k = 0; k < op->nin; k++) {
				uint32_t d = f->b->vals[op->in[k].i].def;
				if (!d) continue;
				if (member(f, i, g, h)) {
					if (!member(f, d - 1, g, h) && mark[f->of[d - 1]])
						return true;
				} else {
					on |= member(f, d - 1, g, h) || mark[f->of[d - 1]];
				}
			}
			if (on && !mark[f->of[i]]) mark[f->of[i]] = more = true;
		}
	}
	return false;
}

/* ---- merging ---- */

static bool
merge(Fuse *f, uint32_t g, uint32_t h)
{
	if (g == h || shape_of(f, g, h) == SHAPE_none || path_returns(f, g, h)) return false;
	uint32_t to = g < h ? g : h, from = g < h ? h : g;
	for (uint32_t i = 0; i < f->b->nops; i++)
		if (f->of[i] == from) f->of[i] = to;
	return true;
}

/* Takes the producers of op i into its group, the latest first; a broadcast taken in brings
 * its own. */
static void
pull(Fuse *f, uint32_t i)
{
	const Op *op = &f->b->ops[i];
	for (uint32_t last = UINT32_MAX, d = 1; d; last = d) {
		d = 0;
		for (int k = 0; k < op->nin; k++) {
			uint32_t at = f->b->vals[op->in[k].i].def;
			if (at < last && at > d) d = at;
		}
		if (!d || !fusable(f, d - 1)) continue;
		if (merge(f, f->of[d - 1], f->of[i]) && f->b->ops[d - 1].code == OP_broadcast)
			pull(f, d - 1);
	}
}

static void
merge_producers(Fuse *f)
{
	for (uint32_t i = 0; i < f->b->nops; i++)
		if (fusable(f, i) && !is_leaf(&f->b->ops[i]) &&
		    f->b->ops[i].code != OP_broadcast)
			pull(f, i);
}

/* Elements of the largest value that both groups read from outside. */
static int64_t
shared_read(const Fuse *f, uint32_t g, uint32_t h)
{
	int64_t most = 0;
	memset(f->stamp, 0, sizeof *f->stamp * f->b->nvals);
	for (uint32_t i = 0; i < f->b->nops; i++)
		for (int k = 0; f->of[i] == g && k < f->b->ops[i].nin; k++)
			f->stamp[f->b->ops[i].in[k].i] = 1;
	for (uint32_t i = 0; i < f->b->nops; i++)
		for (int k = 0; f->of[i] == h && k < f->b->ops[i].nin; k++) {
			Val v = f->b->ops[i].in[k];
			if (!f->stamp[v.i]) continue;
			int64_t n = type_count(f->m, ir_mesh(f->m, f->b), val_type(f->b, v));
			if (n > most) most = n;
		}
	return most;
}

static bool
heads_kernel(const Fuse *f, uint32_t i)
{
	return f->of[i] == i && fusable(f, i);
}

/* Groups of equal S that read the same large buffer read it once. */
static void
merge_siblings(Fuse *f)
{
	for (uint32_t i = 0; i < f->b->nops; i++) {
		if (!heads_kernel(f, i)) continue;
		for (uint32_t j = i + 1, tried = 0; j < f->b->nops && tried < SIBLINGS; j++) {
			if (!heads_kernel(f, j)) continue;
			tried++;
			AxisList si, ci, sj, cj;
			bool red, col, redj, colj;
			if (!space_of_groups(f, i, i, &si, &ci, &red, &col)) continue;
			if (!space_of_groups(f, j, j, &sj, &cj, &redj, &colj) ||
			    !same_set(&si, &sj))
				continue;
			if (shared_read(f, i, j) > 1) merge(f, i, j);
		}
	}
}

/* ---- copies for every reader ---- */

/* Positions and broadcasts cost nothing to make again: every op of a kernel that reads one
 * gets its own. */
static void
copy_leaves(Fuse *f)
{
	Body *b = f->b;
	for (uint32_t i = 0; i < b->nops; i++) {
		if (!is_map(&b->ops[i]) && !is_red(&b->ops[i])) continue;
		for (int k = 0; k < b->ops[i].nin; k++) {
			Val v = b->ops[i].in[k];
			const Op *from = val_op(b, v);
			if (!from || (from->code != OP_pos && from->code != OP_inside &&
				      from->code != OP_broadcast))
				continue;
			if (body_uses(b, f->c->tmp)[v.i] < 2) continue;
			Op op = *from;
			uint32_t at = b->nops;
			Val y = body_op(f->m, b, op.code, op.in, op.nin, op.attrs, op.nattr,
					&b->vals[v.i].type, op.loc);
			b->ops[i].in[k] = y;
			body_move(f->c->tmp, b, at, i);
			i++;
		}
	}
}

/* ---- order ---- */

/* Groups in an order that respects dependences, each as late as its last member wants to be. */
static void
reorder(Fuse *f)
{
	Body *b = f->b;
	uint32_t n = b->nops, done = 0;
	uint32_t *last = NEW_N(f->c->tmp, uint32_t, n);
	bool *placed = NEW_N(f->c->tmp, bool, n);
	Op *out = NEW_N(f->c->tmp, Op, n);
	for (uint32_t i = 0; i < n; i++)
		last[f->of[i]] = i;
	while (done < n) {
		uint32_t best = UINT32_MAX;
		for (uint32_t g = 0; g < n; g++) {
			bool ready = f->of[g] == g && !placed[g] &&
				     (best == UINT32_MAX || last[g] < last[best]);
			for (uint32_t i = g; ready && i <= last[g]; i++)
				for (int k = 0; f->of[i] == g && k < b->ops[i].nin; k++) {
					uint32_t d = b->vals[b->ops[i].in[k].i].def;
					if (d && f->of[d - 1] != g && !placed[f->of[d - 1]])
						ready = false;
				}
			if (ready) best = g;
		}
		ENSURE(best != UINT32_MAX, "kernels of '%s' depend on each other",
		       name_str(f->m->names, b->name));
		placed[best] = true;
		for (uint32_t i = best; i <= last[best]; i++)
			if (f->of[i] == best) out[done++] = b->ops[i];
	}
	memcpy(b->ops, out, sizeof *out * n);
	body_number(b);
}

/* Numbers the groups of more than one op, in order. */
static void
number(Fuse *f)
{
	Body *b = f->b;
	uint32_t *size = NEW_N(f->c->tmp, uint32_t, b->nops),
		 *kernel = NEW_N(f->c->tmp, uint32_t, b->nops);
	for (uint32_t i = 0; i < b->nops; i++)
		size[f->of[i]]++;
	for (uint32_t i = 0; i < b->nops; i++)
		kernel[i] = size[f->of[i]] > 1 ? 1 + f->of[i] : 0;
	for (uint32_t i = 0; i < b->nops; i++)
		b->ops[i].kernel = kernel[i];
}

void
fuse_body(Ctx *c, Module *m, Body *b)
{
	Fuse f = {.c = c, .m = m, .b = b};
	if (b->kind == BK_N || b->kind == BK_U) return;
	for (uint32_t i = 0; i < b->nops; i++)
		b->ops[i].kernel = 0;
	copy_leaves(&f);
	f.of = NEW_N(c->tmp, uint32_t, b->nops + 1);
	f.alias = NEW_N(c->tmp, bool, b->nops + 1);
	f.mark = NEW_N(c->tmp, bool, b->nops + 1);
	f.uses = body_uses(b, c->tmp);
	f.inside = NEW_N(c->tmp, uint32_t, b->nvals);
	f.stamp = NEW_N(c->tmp, uint32_t, b->nvals);
	for (uint32_t i = 0; i < b->nops; i++) {
		const Op *op = &b->ops[i];
		Access a;
		f.of[i] = i;
		f.alias[i] = op_info[op->code].flags & OF_VIEW && op->code != OP_broadcast &&
			     !body_is_out(b, op->out[0]) && ir_access(m, b, op->out[0], &a) &&
			     a.base.i != op->out[0].i;
	}
	merge_producers(&f);
	merge_siblings(&f);
	merge_producers(&f);
	number(&f);
	reorder(&f);
	uint32_t last = 0;
	b->nkernels = 0;
	for (uint32_t i = 0; i < b->nops; i++) { /* from 1, in order */
		uint32_t k = b->ops[i].kernel;
		if (k && (i == 0 || k != last)) b->nkernels++;
		last = k;
		b->ops[i].kernel = k ? b->nkernels : 0;
	}
}
