/*
 * pack.c - where the values of one body live.
 *
 * Input: a body whose kernels are numbered. Output: the space of every value, offsets in scratch, the height and the
 * most bytes alive at once. A kernel is one step of time. A buffer lives from the step that writes it to the last step
 * that reads it, through views as well. Invariant: no two buffers that are alive in one step overlap.
 */
#include "passes/passes.h"

enum { ALIGN = 64 };

static int64_t
aligned(int64_t bytes)
{
	return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* ---- intervals into bytes ---- */

/* Bytes by height, by area, by time: three greedy orders that fail on different inputs. Ties by index. */
static int
compare(const PackItem *x, const PackItem *y, int how)
{
	int64_t a = 0, b = 0;
	switch (how) {
	case 0: a = y->bytes, b = x->bytes; break;
	case 1: a = (int64_t)(y->last - y->first + 1), b = (int64_t)(x->last - x->first + 1); break;
	case 2: a = x->first, b = y->first; break;
	case 3: a = y->last, b = x->last; break;
	default: break;
	}
	if (a == b && how != 0) a = y->bytes, b = x->bytes;
	return a < b ? -1 : a > b;
}

static void
sort_items(const PackItem *items, uint32_t *order, uint32_t *spare, uint32_t n, int how)
{
	for (uint32_t width = 1; width < n; width *= 2) {
		for (uint32_t lo = 0; lo < n; lo += 2 * width) {
			uint32_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n;
			uint32_t i = lo, j = mid;
			for (uint32_t k = lo; k < hi; k++) {
				bool left = i < mid && (j >= hi || compare(&items[order[i]], &items[order[j]], how) <= 0);
				spare[k] = order[left ? i++ : j++];
			}
		}
		for (uint32_t k = 0; k < n; k++) order[k] = spare[k];
	}
}

/* The tightest gap between the placed items that live together with items[k]; `placed` is sorted by offset. */
static int64_t
best_gap(const PackItem *items, const int64_t *at, const uint32_t *placed, uint32_t n, uint32_t k)
{
	int64_t top = 0, best = -1, slack = INT64_MAX, bytes = aligned(items[k].bytes);
	for (uint32_t i = 0; i < n; i++) {
		const PackItem *p = &items[placed[i]];
		if (p->last < items[k].first || p->first > items[k].last) continue;
		int64_t gap = at[placed[i]] - top;
		if (gap >= bytes && gap - bytes < slack) slack = gap - bytes, best = top;
		int64_t end = at[placed[i]] + aligned(p->bytes);
		if (end > top) top = end;
	}
	return best >= 0 ? best : top;
}

static int64_t
place(const PackItem *items, const uint32_t *order, uint32_t n, int64_t *at, uint32_t *placed)
{
	int64_t height = 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = order[i], j = i;
		at[k] = best_gap(items, at, placed, i, k);
		if (at[k] + aligned(items[k].bytes) > height) height = at[k] + aligned(items[k].bytes);
		for (; j > 0 && at[placed[j - 1]] > at[k]; j--) placed[j] = placed[j - 1];
		placed[j] = k;
	}
	return height;
}

/* Most bytes alive in one step. */
static int64_t
most_live(const PackItem *items, uint32_t n)
{
	int64_t most = 0;
	for (uint32_t i = 0; i < n; i++) { /* the maximum is reached where some item begins */
		int64_t live = 0;
		for (uint32_t j = 0; j < n; j++)
			if (items[j].first <= items[i].first && items[i].first <= items[j].last)
				live += aligned(items[j].bytes);
		if (live > most) most = live;
	}
	return most;
}

/*
 * Sets `at` of every item so that items alive together do not overlap; returns the height. Greedy by several orders;
 * then an item on top of the highest stack is placed first and the rest again, as long as that helps (Sekiyama et al.,
 * "Profile-guided memory optimization for deep neural networks", 2018, argue best fit; the retry is iterated greedy).
 */
int64_t
pack_items(Arena *tmp, PackItem *items, uint32_t n)
{
	enum { ORDERS = 4, TRIES = 64 };
	int64_t *at = NEW_N(tmp, int64_t, n), best = INT64_MAX, live = most_live(items, n);
	uint32_t *order = NEW_N(tmp, uint32_t, n), *spare = NEW_N(tmp, uint32_t, n), *keep = NEW_N(tmp, uint32_t, n);
	for (int how = 0; how < ORDERS && best > live; how++) {
		for (uint32_t i = 0; i < n; i++) order[i] = i;
		sort_items(items, order, spare, n, how);
		int64_t height = place(items, order, n, at, spare);
		if (height >= best) continue;
		best = height;
		for (uint32_t i = 0; i < n; i++) keep[i] = order[i], items[i].at = at[i];
	}
	for (int t = 0; t < TRIES && best > live; t++) {
		uint32_t top = 0; /* position in the order of an item that reaches the top */
		for (uint32_t i = 0; i < n; i++)
			if (items[keep[i]].at + aligned(items[keep[i]].bytes) == best) top = i;
		if (top == 0) break;
		uint32_t first = keep[top];
		for (uint32_t i = top; i > 0; i--) keep[i] = keep[i - 1];
		keep[0] = first;
		int64_t height = place(items, keep, n, at, spare);
		if (height <= best)
			for (uint32_t i = 0; i < n; i++) items[i].at = at[i];
		if (height < best) best = height;
	}
	return n ? best : 0;
}

/* ---- spaces ---- */

/* Ops that read scalars as literals: loops of ours, not library calls. */
static bool
reads_literals(const Op *op)
{
	int flags = op_info[op->code].flags;
	return flags & (OF_EW | OF_VIEW) || op->code == OP_sum || op->code == OP_rmax || op->code == OP_rmin;
}

/* Is `v` read only inside kernel `k`? */
static bool
only_in_kernel(const Body *b, Val v, uint32_t k)
{
	for (uint32_t i = 0; i < b->nops; i++)
		for (int j = 0; b->ops[i].kernel != k && j < b->ops[i].nin; j++)
			if (b->ops[i].in[j].i == v.i) return false;
	return true;
}

/* A scalar that only loops read, through views or not. */
static bool
is_literal(const Module *m, const Body *b, Val v)
{
	if (b->ops[b->vals[v.i].def - 1].code != OP_const) return false;
	for (uint32_t i = 0; i < b->nops; i++) {
		const Op *op = &b->ops[i];
		for (int j = 0; !reads_literals(op) && j < op->nin; j++) {
			Access a;
			if (op->in[j].i == v.i) return false;
			if (ir_access(m, b, op->in[j], &a) && a.base.i == v.i) return false;
		}
	}
	return true;
}

static Space
space_of(const Module *m, const Body *b, Val v)
{
	const ValDef *d = &b->vals[v.i];
	if (!d->def || body_is_out(b, v)) return SP_port;
	const Op *op = &b->ops[d->def - 1];
	if (op->code == OP_const && is_literal(m, b, v)) return SP_local;
	Access a;
	if (op_info[op->code].flags & OF_VIEW && ir_access(m, b, v, &a) && a.base.i != v.i) return SP_alias;
	if (op->kernel && only_in_kernel(b, v, op->kernel)) return SP_local;
	return SP_scratch;
}

/* ---- one body ---- */

/* steps[i] of op i: ops of one kernel share a step. */
static uint32_t *
steps_of(Arena *tmp, const Body *b)
{
	uint32_t *step = NEW_N(tmp, uint32_t, b->nops + 1), n = 0;
	for (uint32_t i = 0; i < b->nops; i++) {
		if (i && !(b->ops[i].kernel && b->ops[i].kernel == b->ops[i - 1].kernel)) n++;
		step[i] = n;
	}
	return step;
}

/* The value whose buffer a read of v touches. */
static Val
buffer_of(const Module *m, const Body *b, Val v)
{
	Access a;
	for (int depth = 0; b->vals[v.i].space == SP_alias && depth < 64; depth++) {
		if (!ir_access(m, b, v, &a) || a.base.i == v.i) break;
		v = a.base;
	}
	return v;
}

void
pack_body(Ctx *c, const Module *m, Body *b)
{
	const Mesh *mesh = ir_mesh(m, b);
	uint32_t *item = NEW_N(c->tmp, uint32_t, b->nvals), *step = steps_of(c->tmp, b), n = 0;
	PackItem *items = NEW_N(c->tmp, PackItem, b->nvals);
	for (uint32_t v = 1; v < b->nvals; v++) {
		ValDef *d = &b->vals[v];
		d->space = SP_none, d->offset = 0, d->over = NO_VAL;
	}
	for (uint32_t v = 1; v < b->nvals; v++) b->vals[v].space = space_of(m, b, (Val){v});
	for (uint32_t v = 1; v < b->nvals; v++) {
		ValDef *d = &b->vals[v];
		if (d->space != SP_scratch) continue;
		uint32_t at = step[d->def - 1];
		items[n] = (PackItem){at, at, type_bytes(m, mesh, &d->type), 0};
		item[v] = ++n;
	}
	for (uint32_t i = 0; i < b->nops; i++)
		for (int j = 0; j < b->ops[i].nin; j++) {
			uint32_t k = item[buffer_of(m, b, b->ops[i].in[j]).i];
			if (k && items[k - 1].last < step[i]) items[k - 1].last = step[i];
		}
	b->scratch_bytes = pack_items(c->tmp, items, n);
	b->live_bytes = most_live(items, n);
	for (uint32_t v = 1; v < b->nvals; v++)
		if (item[v]) b->vals[v].offset = items[item[v] - 1].at;
}
