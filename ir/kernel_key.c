/*
 * kernel_key.c - what a kernel of a lowered body is to a profile: a family and its extents.
 *
 * A family is text that says everything but extents: the ops, how values flow between them, data types, the axes of every
 * operand in the order they lie in memory, numbered in order of first appearance. So a kernel of a model whose axes have
 * other names is the same kernel, and one that reads its operand transposed is not. Axes that lie one behind the other
 * wherever either is met, and that nothing tells apart, are one: the rows of a product are batch times sequence. Left out
 * is what takes no time: constants' values, rates, scales. What is read through a view says how: `|` and its axes from the
 * narrowest stride to the widest, `+` on an axis before which there is a gap, `=` on one that is only repeated.
 *
 *   dot f32[0 1] f32[1 2] -> f32[0 2]
 *   attention f32[0 1 2|2 1+ 0] ... keys=3 feat=2 query=0 hi=0 -> f32[0 1 2] f32[0 1]
 *   loop moments sub mul*2 add : 3 in, 2 out #5b1f9c20e66d3a71      several ops: the text is hashed
 *   adamw f32                                                       state: one extent, its elements
 *
 * requires: packed (pack_bodies), so that it is known what stays inside a kernel and what is a view.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ir/cluster.h"

enum { MAX_FAMILY = 2048, MAX_OUTSIDE = 64 };

enum { FREE = -1, NONE = -2 }; /* of Ax.next, Ax.before: not seen yet; not always the same */

typedef struct Ax { /* an axis of the kernel */
	Axis a;
	int64_t extent; /* local */
	int next, before;
} Ax;

typedef struct Keyer {
	const Module *m;
	const Body *b;
	const Mesh *mesh;
	uint32_t first, end; /* ops */
	KernelKey *key;
	Ax ax[MAX_KERNEL_AXES];
	int nax;
	int number[MAX_KERNEL_AXES]; /* of an axis in the key; -1: none yet */
	uint32_t outside[MAX_OUTSIDE], noutside;
	char text[MAX_FAMILY];
	size_t n;
	uint64_t hash; /* of what text had no more room for */
} Keyer;

static void
put(Keyer *x, const char *s)
{
	size_t n = strlen(s);
	if (x->n + n >= sizeof x->text) {
		x->hash = hash_bytes(x->text, x->n, x->hash + 1);
		x->n = 0;
	}
	memcpy(x->text + x->n, s, n + 1);
	x->n += n;
}

static void
put_number(Keyer *x, const char *before, int64_t n)
{
	char s[48];
	snprintf(s, sizeof s, "%s%" PRId64, before, n);
	put(x, s);
}

/* ---- which axes are one ---- */

static int
ax_of(const Keyer *x, Axis a, int64_t extent)
{
	for (int i = 0; i < x->nax; i++)
		if (x->ax[i].a.i == a.i && x->ax[i].extent == extent) return i;
	return -1;
}

/* An axis with another extent is another axis. Those there is no room for are left alone. */
static int
ax_add(Keyer *x, Axis a, int64_t extent)
{
	int i = ax_of(x, a, extent);
	if (i >= 0 || x->nax == MAX_KERNEL_AXES) return i;
	x->number[x->nax] = -1;
	x->ax[x->nax] = (Ax){a, extent, FREE, FREE};
	return x->nax++;
}

static void
agree(int *was, int now)
{
	*was = *was == FREE || *was == now ? now : NONE;
}

/* One appearance of a tensor: who follows whom in it. */
static void
meet_value(Keyer *x, Val v)
{
	const Type *t = val_type(x->b, v);
	Access at;
	bool view = x->b->vals[v.i].space == SP_alias && ir_access(x->m, x->b, v, &at);
	int last = NONE;
	for (int k = 0; k < t->n; k++) {
		int64_t extent = type_extent(x->m, x->mesh, t, k);
		int i = ax_add(x, t->ax[k].a, extent);
		if (last >= 0 && i >= 0 && view && at.stride[k - 1] != at.stride[k] * extent) {
			x->ax[last].next = NONE;
			last = NONE;
		}
		if (last >= 0) agree(&x->ax[last].next, i < 0 ? NONE : i);
		if (i >= 0) agree(&x->ax[i].before, last);
		last = i;
	}
	if (last >= 0) x->ax[last].next = NONE;
}

/* A reduction takes both or neither of two axes that are one; what else names an axis tells it from all others. */
static void
meet_attr(Keyer *x, const Op *op, const Attr *a)
{
	AttrKind kind = attr_info[a->key].kind;
	if (kind != AT_axes && kind != AT_axis) return;
	bool sum = op->code == OP_dot || op->code == OP_dropout ||
		   (op_info[op->code].flags & OF_RED && kind == AT_axes);
	for (int i = 0; i < x->nax; i++) {
		Ax *y = &x->ax[i];
		bool in = kind == AT_axis ? a->axis.i == y->a.i : axes_has(&a->axes, y->a);
		if (!sum && in) y->next = y->before = NONE;
		if (!sum || y->next < 0) continue;
		if (in != axes_has(&a->axes, x->ax[y->next].a)) y->next = NONE;
	}
}

static void
meet_all(Keyer *x)
{
	for (uint32_t i = x->first; i < x->end; i++) {
		const Op *op = &x->b->ops[i];
		for (int j = 0; j < op->nin; j++)
			meet_value(x, op->in[j]);
		for (int r = 0; r < op->nout; r++)
			if (op->out[r].i) meet_value(x, op->out[r]);
	}
	for (uint32_t i = x->first; i < x->end; i++)
		for (int k = 0; k < x->b->ops[i].nattr; k++)
			meet_attr(x, &x->b->ops[i], &x->b->ops[i].attrs[k]);
}

/* Is axis i one with the axis in front of it, and with the one behind? */
static bool
has_head(const Keyer *x, int i)
{
	int p = x->ax[i].before;
	return p >= 0 && x->ax[p].next == i;
}

static bool
has_tail(const Keyer *x, int i)
{
	int n = x->ax[i].next;
	return n >= 0 && x->ax[n].before == i;
}

/* ---- types ---- */

/* The number of the axes that are one with i, in the order in which they are first met. */
static int
number_of(Keyer *x, int i)
{
	int64_t extent = 1;
	int head = i;
	for (int n = 0; has_head(x, head) && n < x->nax; n++)
		head = x->ax[head].before;
	if (x->number[head] >= 0) return x->number[head];
	if (x->key->n == COUNTOF(x->key->extent)) return -1;
	for (int k = head, n = 0; n < x->nax; k = x->ax[k].next, n++) {
		if (__builtin_mul_overflow(extent, x->ax[k].extent, &extent))
			extent = INT64_MAX;
		x->number[k] = x->key->n;
		if (!has_tail(x, k)) break;
	}
	x->key->extent[x->key->n] = extent;
	return x->key->n++;
}

/* Axes a key has no room for stand with their extent. */
static void
put_axis(Keyer *x, const char *before, int i, int64_t extent)
{
	int number = i < 0 ? -1 : number_of(x, i);
	if (number < 0) {
		put(x, before);
		put_number(x, "extent ", extent);
		return;
	}
	put_number(x, before, number);
}

static void
put_axes_of(Keyer *x, const Type *t)
{
	const char *before = "";
	put(x, dtype_str(t->dt));
	put(x, "[");
	for (int k = 0; k < t->n; k++) {
		int64_t extent = type_extent(x->m, x->mesh, t, k);
		int i = ax_of(x, t->ax[k].a, extent);
		if (i >= 0 && has_head(x, i)) continue;
		put_axis(x, before, i, extent);
		before = " ";
	}
}

/* How it lies, if not as its type says. */
static void
put_strides(Keyer *x, const Type *t, const Access *at)
{
	int order[MAX_AXES];
	int64_t want = 1;
	bool plain = true;
	for (int k = t->n - 1; k >= 0; k--) {
		plain =
		    plain && (at->stride[k] == want || type_extent(x->m, x->mesh, t, k) == 1);
		want *= type_extent(x->m, x->mesh, t, k);
	}
	if (plain) return;
	for (int k = 0; k < t->n; k++) { /* widest first */
		int i = k;
		for (; i && at->stride[order[i - 1]] < at->stride[k]; i--)
			order[i] = order[i - 1];
		order[i] = k;
	}
	want = 1;
	for (int n = t->n - 1; n >= 0; n--) { /* narrowest first, so that gaps are seen */
		int k = order[n];
		int64_t extent = type_extent(x->m, x->mesh, t, k), stride = at->stride[k];
		int i = ax_of(x, t->ax[k].a, extent);
		if (i < 0 || !has_tail(x, i)) {
			put_axis(x, n == t->n - 1 ? "|" : " ", i, extent);
			if (!stride)
				put(x, "=");
			else if (stride < 0)
				put(x, "-");
			else if (stride != want && extent > 1)
				put(x, "+");
		}
		if (stride > 0) want = stride * extent;
	}
}

/* An operand: what an op of this kernel made, by its number; what comes from outside, by its type and how it lies. */
static void
put_operand(Keyer *x, Val v)
{
	const ValDef *d = &x->b->vals[v.i];
	Access at;
	uint32_t i = 0;
	put(x, " ");
	if (d->def > x->first && d->def <= x->end) {
		put_number(x, "%", d->def - 1 - x->first);
		if (d->result) put_number(x, ".", d->result);
		return;
	}
	while (i < x->noutside && x->outside[i] != v.i)
		i++;
	if (x->end > x->first + 1) put_number(x, "$", i);
	if (i < x->noutside) return;
	if (i < MAX_OUTSIDE) x->outside[x->noutside++] = v.i;
	if (d->space == SP_local) { /* a literal */
		put(x, "c");
		return;
	}
	put_axes_of(x, &d->type);
	if (d->space == SP_alias && ir_access(x->m, x->b, v, &at))
		put_strides(x, &d->type, &at);
	put(x, "]");
}

/* What of an attribute decides what is done: axes and how indices move; no constants. */
static void
put_attr(Keyer *x, const Attr *a)
{
	char before[24];
	snprintf(before, sizeof before, " %s=", attr_info[a->key].text);
	switch (a->key) {
	case AK_lo:
	case AK_hi:
	case AK_step:
	case AK_center:
	case AK_mask:
	case AK_bias:
	case AK_max: put_number(x, before, a->i); return;
	case AK_cap:
		if (a->num != 0) put(x, " cap");
		return;
	case AK_rate:
		if (a->i >= 0) put(x, " drop");
		return;
	default: break;
	}
	if (attr_info[a->key].kind != AT_axes && attr_info[a->key].kind != AT_axis) return;
	AxisList one = {1, {a->axis}};
	const AxisList *l = attr_info[a->key].kind == AT_axis ? &one : &a->axes;
	for (int k = 0, i, n = 0; k < l->n; k++) {
		for (i = 0; i < x->nax && x->ax[i].a.i != l->a[k].i;)
			i++;
		if (i < x->nax && has_head(x, i)) continue;
		put_axis(x, n++ ? "," : before, i < x->nax ? i : -1, ir_extent(x->m, l->a[k]));
	}
}

static void
put_op(Keyer *x, const Op *op)
{
	put(x, op_info[op->code].text);
	for (int i = 0; i < op->nin; i++)
		put_operand(x, op->in[i]);
	for (int i = 0; op->code != OP_dot && i < op->nattr; i++)
		put_attr(x, &op->attrs[i]);
	put(x, " ->");
	for (int r = 0; r < op->nout; r++) {
		const ValDef *v = &x->b->vals[op->out[r].i];
		put(x, op->out[r].i ? " " : " -");
		if (!op->out[r].i) continue;
		put_axes_of(x, &v->type);
		put(x, v->space == SP_local ? "]." : "]"); /* stays inside */
	}
}

/* Does anything run? Literals and views do not. */
static bool
runs(const Keyer *x)
{
	for (uint32_t i = x->first; i < x->end; i++) {
		const Op *op = &x->b->ops[i];
		if (op_info[op->code].flags & OF_COMM) return false;
		for (int r = 0; r < op->nout; r++) {
			const ValDef *v = &x->b->vals[op->out[r].i];
			if (op->out[r].i && v->space != SP_alias && v->space != SP_local)
				return true;
		}
	}
	return false;
}

/* "mul*2 add", then how many buffers: for people. */
static void
head_text(const Keyer *x, char *out, size_t cap)
{
	size_t n = (size_t)snprintf(out, cap, "loop");
	uint32_t made = 0, same;
	for (uint32_t i = x->first; i < x->end; i += same) {
		const Op *op = &x->b->ops[i];
		for (same = 1; i + same < x->end && x->b->ops[i + same].code == op->code;)
			same++;
		if (n < 60)
			n += (size_t)snprintf(out + n, cap - n,
					      same > 1 ? " %s*%" PRIu32 : " %s",
					      op_info[op->code].text, same);
		else if (out[n - 1] != '.')
			n += (size_t)snprintf(out + n, cap - n, " ..");
	}
	for (uint32_t i = x->first; i < x->end; i++)
		for (int r = 0; r < x->b->ops[i].nout; r++) {
			uint32_t v = x->b->ops[i].out[r].i;
			made += v && x->b->vals[v].space != SP_local;
		}
	snprintf(out + n, cap - n, " : %" PRIu32 " in, %" PRIu32 " out #", x->noutside, made);
}

/* Element by element over all this rank has of a parameter's state. */
static void
key_of_state(Keyer *x, const Op *op)
{
	const Type *t = val_type(x->b, op->in[op->nin > 1]);
	int64_t dp = ir_degree(x->mesh, t->flat);
	put(x, op_info[op->code].text);
	put(x, " ");
	put(x, dtype_str(t->dt));
	x->key->n = 1;
	x->key->extent[0] = (type_count(x->m, x->mesh, t) + dp - 1) / dp;
}

/* Of every axis, whose number it has. */
static void
give_axes(const Keyer *x, KeyAxes *out)
{
	*out = (KeyAxes){0};
	for (int i = 0; i < x->nax; i++) {
		for (int j = 0; j < i; j++)
			if (x->ax[j].a.i == x->ax[i].a.i) out->mixed = true;
		if (x->number[i] < 0) out->mixed = true;
		out->axis[out->n] = x->ax[i].a;
		out->first[out->n] = !has_head(x, i);
		out->number[out->n++] = (uint8_t)x->number[i];
	}
	if (x->nax == MAX_KERNEL_AXES || x->key->n == COUNTOF(x->key->extent))
		out->mixed = true;
}

bool
profile_key(const Module *m, const Body *b, uint32_t first, uint32_t *end, KernelKey *out)
{
	return profile_key_axes(m, b, first, end, out, NULL);
}

bool
profile_key_axes(const Module *m, const Body *b, uint32_t first, uint32_t *end, KernelKey *out,
		 KeyAxes *axes)
{
	Keyer x = {.m = m, .b = b, .mesh = ir_mesh(m, b), .first = first, .key = out};
	const Op *op = &b->ops[first];
	*out = (KernelKey){0};
	x.end = first + 1;
	while (op->kernel && x.end < b->nops && b->ops[x.end].kernel == op->kernel)
		x.end++;
	*end = x.end;
	if (!runs(&x)) return false;
	if (op_info[op->code].flags & OF_UPD && x.end == first + 1) {
		key_of_state(&x, op);
	} else {
		meet_all(&x);
		for (uint32_t i = first; i < x.end; i++) {
			if (i > first) put(&x, "; ");
			put_op(&x, &b->ops[i]);
		}
	}
	if (x.end > first + 1 || x.hash) {
		char head[128], text[160];
		head_text(&x, head, sizeof head);
		snprintf(text, sizeof text, "%s%016" PRIx64, head,
			 hash_bytes(x.text, x.n, x.hash));
		out->family = name_of(m->names, text);
	} else {
		out->family = name_of_n(m->names, x.text, x.n);
	}
	if (axes) give_axes(&x, axes);
	return true;
}
