/*
 * eval_move.c - what communication moves: boxes of an exchange, ranges of a flat, a copy's gradient.
 *
 * Input: requests that meet. Output: their buffers' contents, decoded from and encoded into the arena at level mem. A
 * flat is one array of elements, gaps between parameters included; above level mem each parameter is an array of its
 * own and the gaps are zeros.
 */
#include "ir/eval.h"

#include <math.h>
#include <string.h>

/* ---- exchanges ---- */

/* A rank's part of one side, as of microbatch 0: both sides have the same one. */
static Tensor
side_tensor(const Eval *e, const Rank *r, const Side *s)
{
	uint32_t coord[MAX_MESH];

	eval_coords(r, s->mesh, 0, coord);
	return eval_tensor(e->m, s->mesh, coord, &s->type);
}

static bool
load_side(Eval *e, Rank *r, const Place *p, Tensor *t, Arena *a)
{
	uint32_t keep = r->f.mb;

	r->f.mb = 0;
	bool ok = eval_load(e, r, p, t, a);
	r->f.mb = keep;
	return ok;
}

static bool
store_side(Eval *e, Rank *r, const Place *p, const Tensor *t)
{
	uint32_t keep = r->f.mb;

	r->f.mb = 0;
	bool ok = eval_store(e, r, p, t);
	r->f.mb = keep;
	return ok;
}

/* The walk over a box in the order of `order`, operand 0 moving in t. */
static Walk
box_walk(const Piece *p, const Type *order, const Tensor *t)
{
	Walk w = {0};

	for (int k = 0; k < order->n; k++) {
		int j = type_find(&t->t, order->ax[k].a);
		walk_push(&w, order->ax[k].a, p->hi[k] - p->lo[k]);
		if (j >= 0) w.at[0] += (p->lo[k] - t->start[j]) * t->stride[j];
	}
	walk_over(&w, 0, t, NULL);
	return w;
}

/* A box of which all is within t. */
static bool
box_fits(const Piece *p, const Type *order, const Tensor *t)
{
	for (int k = 0; k < order->n; k++) {
		int j = type_find(&t->t, order->ax[k].a);
		if (j < 0 || p->lo[k] < t->start[j] || p->hi[k] > t->end[j]) return false;
	}
	return true;
}

bool
eval_send(Eval *e, Rank *from, Request *fq, const Message *out, Rank *to, Request *tq)
{
	const Part *fp = &fq->part[fq->at], *tp = &tq->part[tq->at];
	const Type *order = &fp->prim.from.type;
	Tensor x = side_tensor(e, from, &fp->prim.from), y = side_tensor(e, to, &tp->prim.to);
	const Piece *take = NULL;
	Arena *tmp = arena_new();
	int64_t n = 0;
	bool ok;

	for (uint32_t i = 0; i < tp->nmsg; i++) {
		const Message *in = &tp->msg[i];
		if (!in->sending && !in->done && in->piece.from == from->id &&
		    in->piece.count == out->piece.count && !take)
			take = &in->piece;
	}
	ok = take && load_side(e, from, &fq->from, &x, tmp) &&
	     load_side(e, to, &tq->to, &y, tmp);
	ENSURE(!ok || (box_fits(&out->piece, order, &x) &&
		       box_fits(take, &tp->prim.from.type, &y)),
	       "a message is not within its buffer");
	double *payload = NEW_N(tmp, double, out->piece.count + 1);
	Walk w = box_walk(&out->piece, order, &x);
	while (ok && walk_next(&w))
		for (int64_t i = 0; i < w.len; i++)
			payload[n++] = x.x[w.at[0] + i * w.by[0]];
	if (ok && tq->to.x) { /* what was loaded may be the buffer itself */
		double *copy = arena_dup(tmp, y.x, (size_t)y.n * sizeof *y.x);
		y.x = copy;
	}
	w = ok ? box_walk(take, &tp->prim.from.type, &y) : w;
	for (n = 0; ok && walk_next(&w);)
		for (int64_t i = 0; i < w.len; i++)
			y.x[w.at[0] + i * w.by[0]] = payload[n++];
	ok = ok && store_side(e, to, &tq->to, &y);
	arena_free(tmp);
	return ok;
}

/* Only ranks with coordinate 0 on every axis of a pending sum receive anything; the others give zeros. */
bool
eval_expect(Eval *e, Rank *r, Request *q, const Prim *p)
{
	Tensor y = side_tensor(e, r, &p->to);
	Arena *tmp = arena_new();
	uint32_t coord[MAX_MESH];
	double fill = NAN;
	Walk w = {0};

	eval_coords(r, p->to.mesh, 0, coord);
	for (int a = 1; a < MAX_MESH; a++)
		if (p->to.type.partial >> a & 1 && coord[a]) fill = 0;
	y.x = NEW_N(tmp, double, y.n + 1);
	for (int k = 0; k < y.t.n; k++) {
		walk_push(&w, y.t.ax[k].a, y.end[k] - y.start[k]);
		w.stride[k][0] = y.stride[k];
	}
	while (walk_next(&w))
		for (int64_t i = 0; i < w.len; i++)
			y.x[w.at[0] + i * w.by[0]] = fill;
	bool ok = store_side(e, r, &q->to, &y);
	arena_free(tmp);
	return ok;
}

/* ---- flats ---- */

/* ORDER Area: where a flat, or a range of it, is. */
typedef enum Area { AREA_param, AREA_gather, AREA_grad, AREA_work } Area;

/* Elements [lo, hi) of the flat of `inst` in an area, read into or written from x[0 ..]. */
typedef struct Range {
	uint32_t inst;
	Area area;
	int64_t lo, hi;
	int64_t shift; /* bytes */
} Range;

static const Place *
area_place(const Rank *r, Area a, uint32_t param)
{
	switch (a) {
	case AREA_param: return &r->state[SEC_param][param];
	case AREA_gather: return &r->weight[param];
	case AREA_grad: return &r->state[SEC_grad][param];
	case AREA_work: break;
	}
	return &r->grad[param];
}

/* Level mem: the byte of the arena where element 0 of the flat is, or would be. */
static int64_t
area_at(const Eval *e, const Rank *r, const Range *x)
{
	const Flat *f = &e->flats[x->inst];
	const Memory *mem = r->mem;
	const Mesh *mesh = ir_inst_mesh(e->m, x->inst);
	Section s = x->area == AREA_param || x->area == AREA_gather ? SEC_param : SEC_grad;
	uint32_t coord[MAX_MESH], odd = x->inst % 2;
	int64_t at = mem->sec[s] + mem->flat_at[s][x->inst] + x->shift;

	if (x->area == AREA_gather && f->zero == 3)
		return mem->gather + odd * mem->gather_bytes + x->shift;
	if (x->area == AREA_work && f->zero >= 2)
		return mem->dwork + odd * mem->dwork_bytes + x->shift;
	eval_coords(r, mesh, 0, coord);
	if (ir_flat_split(f->zero, s))
		at -= f->bytes / f->dp * ir_group_index(mesh, f->dp_mask, coord);
	return at;
}

/* The place of `n` elements of the flat, as if they were a tensor. */
static Tensor
flat_tensor(const Eval *e, const Range *x, double *data)
{
	Tensor t = {.t = {.dt = e->flats[x->inst].dt}, .n = x->hi - x->lo, .x = data};

	t.hi = t.n;
	return t;
}

static bool
flat_read(Eval *e, const Rank *r, const Range *x, double *out, Arena *tmp)
{
	const Flat *f = &e->flats[x->inst];
	int64_t width = dtype_bytes(f->dt);

	if (e->placed) {
		Tensor t = flat_tensor(e, x, NULL);
		Place p = {.at = area_at(e, r, x) + x->lo * width, .type = &t.t};
		if (!eval_load(e, r, &p, &t, tmp)) return false;
		memcpy(out, t.x, (size_t)t.n * sizeof *out);
		return true;
	}
	memset(out, 0, (size_t)(x->hi - x->lo) * sizeof *out);
	for (uint32_t i = 0; i < f->n; i++) {
		const double *data = area_place(r, x->area, f->param[i])->x;
		int64_t at = f->at[i] / width, n = f->size[i] / width;
		for (int64_t k = 0; k < n; k++)
			if (at + k >= x->lo && at + k < x->hi) out[at + k - x->lo] = data[k];
	}
	return true;
}

static bool
flat_write(Eval *e, const Rank *r, const Range *x, double *in)
{
	const Flat *f = &e->flats[x->inst];
	int64_t width = dtype_bytes(f->dt);

	for (int64_t k = 0; k < x->hi - x->lo; k++)
		in[k] = eval_round(f->dt, e->wide, in[k]);
	if (e->placed) {
		Tensor t = flat_tensor(e, x, in);
		Place p = {.at = area_at(e, r, x) + x->lo * width, .type = &t.t};
		return eval_store(e, r, &p, &t);
	}
	for (uint32_t i = 0; i < f->n; i++) {
		double *data = area_place(r, x->area, f->param[i])->x;
		int64_t at = f->at[i] / width, n = f->size[i] / width;
		for (int64_t k = 0; k < n; k++)
			if (at + k >= x->lo && at + k < x->hi) data[k] = in[at + k - x->lo];
	}
	return true;
}

/* Collective k of CK_grad: its sum over the group, and what of it each rank keeps. ZeRO 1: in place, all but this rank's
 * range being lost; ZeRO 2, 3: the range is added to the gradient. */
static bool
keep_sum(Eval *e, const Rank *r, const Request *q, const Range *whole, const double *sum,
	 uint32_t c, Arena *tmp)
{
	const Part *p = &q->part[q->at];
	const Flat *f = &e->flats[q->i];
	int64_t all = whole->hi - whole->lo, each = all / f->dp;
	double *x = NEW_N(tmp, double, all + 1);
	Range mine = *whole;

	memcpy(x, sum, (size_t)all * sizeof *x);
	if (p->prim.kind == PR_all_reduce) return flat_write(e, r, whole, x);
	mine.lo = each * c, mine.hi = each * (c + 1);
	if (!p->prim.add) {
		for (int64_t k = 0; k < all; k++)
			if (k < mine.lo || k >= mine.hi) x[k] = NAN;
		return flat_write(e, r, whole, x);
	}
	mine.area = AREA_grad;
	if (!flat_read(e, r, &mine, x, tmp)) return false;
	for (int64_t k = 0; k < each; k++)
		x[k] += sum[mine.lo + k];
	return flat_write(e, r, &mine, x);
}

static bool
reduce_flat(Eval *e, Request **q, const uint32_t *group, uint32_t n)
{
	const Prim *p = &q[0]->part[q[0]->at].prim;
	int64_t first = p->at / dtype_bytes(p->dt);
	Range whole = {q[0]->i, AREA_work, first, first + p->count, 0};
	Arena *tmp = arena_new();
	double *sum = NEW_N(tmp, double, p->count + 1), *x = NEW_N(tmp, double, p->count + 1);
	bool ok = true;

	for (uint32_t i = 0; ok && i < n; i++) {
		ok = flat_read(e, &e->ranks[group[i]], &whole, x, tmp);
		for (int64_t k = 0; k < p->count; k++)
			sum[k] += x[k];
	}
	for (uint32_t i = 0; ok && i < n; i++) {
		whole.shift = q[i]->shift;
		ok = keep_sum(e, &e->ranks[group[i]], q[i], &whole, sum, i, tmp);
	}
	arena_free(tmp);
	return ok;
}

/* The gradient of a borrowed parameter, over what it is pending over among those who borrow. */
static bool
reduce_copy(Eval *e, Request **q, const uint32_t *group, uint32_t n)
{
	Arena *tmp = arena_new();
	Tensor sum = {0}, t;
	bool ok = true;

	for (uint32_t i = 0; ok && i < n; i++) {
		Rank *r = &e->ranks[group[i]];
		const Place *p = &r->grad[q[i]->i];
		uint32_t coord[MAX_MESH];
		eval_coords(r, p->mesh, 0, coord);
		t = eval_tensor(e->m, p->mesh, coord, p->type);
		ok = load_side(e, r, p, &t, tmp);
		if (i == 0) sum = t, sum.x = NEW_N(tmp, double, t.n + 1);
		for (int64_t k = 0; ok && k < t.n; k++)
			sum.x[k] += t.x[k];
	}
	for (int64_t k = 0; ok && k < sum.n; k++)
		sum.x[k] = eval_round(sum.t.dt, e->wide, sum.x[k]);
	for (uint32_t i = 0; ok && i < n; i++)
		ok =
		    store_side(e, &e->ranks[group[i]], &e->ranks[group[i]].grad[q[i]->i], &sum);
	arena_free(tmp);
	return ok;
}

bool
eval_reduce(Eval *e, Request **q, const uint32_t *group, uint32_t n)
{
	return q[0]->comm == CK_return ? reduce_copy(e, q, group, n)
				       : reduce_flat(e, q, group, n);
}

/* NaN where CK_param will bring what other ranks have; what this rank gives is in the way only of ZeRO 1 and 2. */
bool
eval_expect_flat(Eval *e, Rank *r, uint32_t inst, int64_t shift)
{
	const Flat *f = &e->flats[inst];
	const Mesh *mesh = ir_inst_mesh(e->m, inst);
	int64_t all = f->bytes / dtype_bytes(f->dt), each = all / f->dp;
	Range x = {inst, AREA_gather, 0, all, shift};
	Arena *tmp = arena_new();
	double *nan = NEW_N(tmp, double, all + 1);
	uint32_t coord[MAX_MESH];
	bool ok = true;

	for (int64_t k = 0; k < all; k++)
		nan[k] = NAN;
	eval_coords(r, mesh, 0, coord);
	if (f->zero < 3) {
		x.hi = each * ir_group_index(mesh, f->dp_mask, coord);
		ok = flat_write(e, r, &x, nan);
		x.lo = x.hi + each, x.hi = all;
	}
	ok = ok && flat_write(e, r, &x, nan);
	arena_free(tmp);
	return ok;
}

/* ZeRO 1, 2: in place; ZeRO 3: into the gather buffer. */
bool
eval_gather_flat(Eval *e, Request **q, const uint32_t *group, uint32_t n)
{
	int64_t each = q[0]->part[q[0]->at].prim.count;
	Arena *tmp = arena_new();
	double *all = NEW_N(tmp, double, each *n + 1);
	Range x = {q[0]->i, AREA_param, 0, 0, 0};
	bool ok = true;

	for (uint32_t i = 0; ok && i < n; i++) {
		x.lo = each * i, x.hi = each * (i + 1);
		ok = flat_read(e, &e->ranks[group[i]], &x, all + each * i, tmp);
	}
	x.lo = 0, x.hi = each * n;
	x.area = AREA_gather;
	for (uint32_t i = 0; ok && i < n; i++) {
		x.shift = q[i]->shift;
		ok = flat_write(e, &e->ranks[group[i]], &x, all);
	}
	arena_free(tmp);
	return ok;
}
