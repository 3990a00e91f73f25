/*
 * contract.c - dot as GEMM.
 *
 * An axis of a contraction is of one of four kinds: batch (both operands and the result), M (first and result), N
 * (second and result), K (both operands). Axes of one kind that are neighbours in every tensor are collapsed. One group
 * of each kind becomes a dimension of the GEMM, such that each matrix has unit stride along one of its sides; the
 * choice with the most work a call wins. What is left over becomes loops around the call; a loop over K adds to the
 * result from its second turn on. Where no matrix has such strides, plain loops are printed: right for any layout.
 */
#include "codegen/cg.h"

#include <inttypes.h>

typedef enum Kind { K_batch, K_m, K_n, K_k, K_COUNT } Kind;

typedef struct Group { /* collapsed axes; strides of the innermost */
	Kind kind;
	AxisUse use[MAX_AXES]; /* outermost first */
	int nuse;
	int64_t extent, x, y, out;
	const char *var; /* where it is a loop */
} Group;

typedef struct Dot {
	CgBody *c;
	const Op *op;
	Access x, y;
	const Type *tx, *ty, *tout;
	const Sink *to;
	Group group[2 * MAX_AXES];
	int ngroups;
	int m, n, k;  /* the groups of the call; -1: extent 1 */
	bool swapped; /* the result is [n m]: computed as its transpose */
} Dot;

static int64_t
stride_along(const Type *t, const int64_t *stride, Axis a)
{
	int k = type_find(t, a);

	return k < 0 ? 0 : stride[k];
}

/* Every axis as a group, those of the result in its order, then those summed over in the order of the first operand. */
static void
classify(Dot *d)
{
	int64_t out[MAX_AXES];

	bc_strides(d->c, d->tout, out);
	for (int pass = 0; pass < 2; pass++) {
		const Type *t = pass ? d->tx : d->tout;

		for (int k = 0; k < t->n; k++) {
			Axis a = t->ax[k].a;
			bool in_x = type_find(d->tx, a) >= 0, in_y = type_find(d->ty, a) >= 0;
			Group *g = &d->group[d->ngroups];

			if (pass && type_find(d->tout, a) >= 0) continue;
			*g = (Group){
			    .use = {t->ax[k]}, .nuse = 1, .extent = bc_extent(d->c, t, k)};
			g->kind = pass ? K_k : in_x && in_y ? K_batch : in_x ? K_m : K_n;
			g->x = stride_along(d->tx, d->x.stride, a);
			g->y = stride_along(d->ty, d->y.stride, a);
			g->out = pass ? 0 : out[k];
			if (g->extent > 1) d->ngroups++;
		}
	}
}

static void
collapse(Dot *d)
{
	for (int k = 0; k + 1 < d->ngroups;) {
		Group *a = &d->group[k], *b = a + 1;

		if (a->kind != b->kind || a->x != b->x * b->extent ||
		    a->y != b->y * b->extent || a->out != b->out * b->extent) {
			k++;
			continue;
		}
		for (int j = 0; j < b->nuse; j++)
			a->use[a->nuse++] = b->use[j];
		a->extent *= b->extent;
		a->x = b->x, a->y = b->y, a->out = b->out;
		d->ngroups--;
		for (int j = k + 1; j < d->ngroups; j++)
			d->group[j] = d->group[j + 1];
		k = k ? k - 1 : 0;
	}
}

/* A matrix [rows cols] with these strides as BLAS takes it: transposed or not, and its leading dimension. */
static bool
as_matrix(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride, bool *t,
	  int64_t *ld)
{
	if (cols == 1) col_stride = 1;
	if (col_stride == 1 && (rows == 1 || row_stride >= cols)) {
		*t = false;
		*ld = rows == 1 ? cols : row_stride;
		return true;
	}
	if (rows == 1) row_stride = 1;
	if (row_stride == 1 && (cols == 1 || col_stride >= rows)) {
		*t = true;
		*ld = cols == 1 ? rows : col_stride;
		return true;
	}
	return false;
}

typedef struct Call3 { /* the matrices of a candidate */
	bool ta, tb, tc;
	int64_t m, n, k, lda, ldb, ldc;
} Call3;

static int64_t
extent_of(const Dot *d, int group)
{
	return group < 0 ? 1 : d->group[group].extent;
}

static bool
try(const Dot *d, int m, int n, int k, Call3 *c)
{
	static const Group none = {.extent = 1};
	const Group *gm = m < 0 ? &none : &d->group[m], *gn = n < 0 ? &none : &d->group[n],
		    *gk = k < 0 ? &none : &d->group[k];

	c->m = gm->extent, c->n = gn->extent, c->k = gk->extent;
	if (c->m > INT32_MAX || c->n > INT32_MAX || c->k > INT32_MAX) return false;
	return as_matrix(c->m, c->k, gm->x, gk->x, &c->ta, &c->lda) &&
	       as_matrix(c->k, c->n, gk->y, gn->y, &c->tb, &c->ldb) &&
	       as_matrix(c->m, c->n, gm->out, gn->out, &c->tc, &c->ldc);
}

/* The groups that give the largest call; ties by position. False: none is worth a call. */
static bool
choose(Dot *d, Call3 *best)
{
	int64_t most = 0;

	for (int m = -1; m < d->ngroups; m++)
		for (int n = -1; n < d->ngroups; n++)
			for (int k = -1; k < d->ngroups; k++) {
				Call3 c;
				int64_t work =
				    extent_of(d, m) * extent_of(d, n) * extent_of(d, k);

				if ((m >= 0 && d->group[m].kind != K_m) ||
				    (n >= 0 && d->group[n].kind != K_n))
					continue;
				if ((k >= 0 && d->group[k].kind != K_k) || work <= most ||
				    !try(d, m, n, k, &c))
					continue;
				most = work;
				d->m = m, d->n = n, d->k = k;
				*best = c;
			}
	return most >= 64;
}

/* ---- text ---- */

static const char *
size_of(const Dot *d, const Group *g)
{
	Type t = {.n = 0};

	for (int k = 0; k < g->nuse; k++)
		t.ax[t.n++] = g->use[k];
	return cg_count(d->c->g, d->c->mesh, &t);
}

static const char *
stride_text(const Dot *d, Val v, int64_t n)
{
	return cg_stride(d->c->g, d->c->mesh, bc_type(d->c, v), n);
}

/* pointer + the loops' indices times their strides; which: 0 x, 1 y, 2 the result. */
static const char *
place(const Dot *d, const char *p, Val base, int which)
{
	Buf b;

	buf_init(&b, d->c->g->a);
	buf_puts(&b, p);
	for (int k = 0; k < d->ngroups; k++) {
		const Group *g = &d->group[k];
		int64_t s = which == 0 ? g->x : which == 1 ? g->y : g->out;

		if (!g->var || s == 0) continue;
		buf_printf(&b, " %c %s", s < 0 ? '-' : '+', g->var);
		if (s != 1 && s != -1)
			buf_printf(&b, " * %s", stride_text(d, base, s < 0 ? -s : s));
	}
	return b.s;
}

/* A leading dimension in names: the stride of some axis of the tensor, or the extent of a side. */
static const char *
leading(const Dot *d, Val base, int64_t ld)
{
	return stride_text(d, base, ld);
}

/* Beta of a call: the sink's, but from the second turn of a loop over K on it is 1. */
static const char *
beta(const Dot *d)
{
	Buf first;

	buf_init(&first, d->c->g->a);
	for (int k = 0; k < d->ngroups; k++)
		if (d->group[k].var && d->group[k].kind == K_k)
			buf_printf(&first, "%s%s > 0", first.n ? " || " : "", d->group[k].var);
	if (!first.n) return sink_beta(d->to);
	if (d->to->mode == STORE_set) return first.s;
	if (d->to->mode == STORE_add) return "1";
	return cg_text(d->c->g->a, "%s || %s", sink_beta(d->to), first.s);
}

/* Loops over the groups that are not in the call; those over K innermost. Returns how many were opened. */
static int
open_loops(Dot *d, bool call)
{
	CgBody *c = d->c;
	static const char *const names[] = {"i", "j", "r"};
	int opened = 0, merged = 0, outer = 0;
	int64_t turns = 1;

	for (int k = 0; k < d->ngroups; k++) {
		Group *g = &d->group[k];

		if (call && (k == d->m || k == d->n || k == d->k)) continue;
		g->var = g->nuse == 1 ? c->g->axis_var[g->use[0].a.i]
			 : merged < 3 ? names[merged++]
				      : scope_take(c->scope, "i");
		if (g->kind == K_k) continue;
		outer++;
		turns *= g->extent;
	}
	if (outer && turns >= (call ? 16 : 64)) {
		if (outer > 1)
			put_line(&c->text, 0,
				 "#pragma omp parallel for collapse(%d) schedule(static)",
				 outer);
		else
			put_line(&c->text, 0, "#pragma omp parallel for schedule(static)");
	}
	for (int pass = 0; pass < 2; pass++) {
		if (pass && !call) break;
		for (int k = 0; k < d->ngroups; k++) {
			const Group *g = &d->group[k];

			if (!g->var || (g->kind == K_k) != pass) continue;
			put_line(&c->text, c->depth + opened,
				 "for (int64_t %s = 0; %s < %s; %s++)%s", g->var, g->var,
				 size_of(d, g), g->var, call ? "" : " {");
			opened++;
		}
	}
	return opened;
}

static void
put_gemm(Dot *d, const Call3 *q)
{
	CgBody *c = d->c;
	int loops = open_loops(d, true);
	const char *a = place(d, bc_pointer(c, &d->x), d->x.base, 0),
		   *b = place(d, bc_pointer(c, &d->y), d->y.base, 1);
	const char *out = place(d, d->to->ptr, d->op->out[0], 2), *one = "1";
	const char *m = d->m < 0 ? one : size_of(d, &d->group[d->m]),
		   *n = d->n < 0 ? one : size_of(d, &d->group[d->n]);
	const char *k = d->k < 0 ? one : size_of(d, &d->group[d->k]);
	const char *lda = leading(d, d->x.base, q->lda), *ldb = leading(d, d->y.base, q->ldb),
		   *ldc = leading(d, d->op->out[0], q->ldc);

	if (!q->tc)
		put_line(&c->text, c->depth + loops,
			 "gv_gemm(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s);",
			 q->ta ? "true" : "false", q->tb ? "true" : "false", m, n, k, a, lda, b,
			 ldb, beta(d), out, ldc);
	else /* out^T [n m] = y^T x^T */
		put_line(&c->text, c->depth + loops,
			 "gv_gemm(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s);",
			 q->tb ? "false" : "true", q->ta ? "false" : "true", n, m, k, b, ldb, a,
			 lda, beta(d), out, ldc);
}

/* Any layout: one sum per element of the result. */
static void
put_plain(Dot *d)
{
	CgBody *c = d->c;
	int loops = open_loops(d, false), depth = c->depth + loops, inner = 0;
	const char *out = place(d, "0", d->op->out[0], 2), *last = NULL,
		   *sum = scope_take(c->scope, "sum");

	put_line(&c->text, depth, "%s %s = 0;", "double", sum);
	for (int k = 0; k < d->ngroups; k++)
		if (d->group[k].kind == K_k) last = d->group[k].var;
	for (int k = 0; k < d->ngroups; k++) {
		const Group *g = &d->group[k];

		if (g->kind != K_k) continue;
		if (g->var == last)
			put_line(&c->text, 0, "#pragma omp simd reduction(+ : %s)", sum);
		put_line(&c->text, depth + inner++, "for (int64_t %s = 0; %s < %s; %s++)",
			 g->var, g->var, size_of(d, g), g->var);
	}
	put_line(&c->text, depth + inner, "%s += %s[%s] * %s[%s];", sum,
		 bc_pointer(c, &(Access){.base = d->x.base}),
		 place(d, stride_text(d, d->x.base, d->x.offset), d->x.base, 0),
		 bc_pointer(c, &(Access){.base = d->y.base}),
		 place(d, stride_text(d, d->y.base, d->y.offset), d->y.base, 1));
	if (d->to->mode == STORE_set)
		put_line(&c->text, depth, "%s[%s] = (real)%s;", d->to->ptr, out, sum);
	else if (d->to->mode == STORE_add)
		put_line(&c->text, depth, "%s[%s] += (real)%s;", d->to->ptr, out, sum);
	else
		put_line(&c->text, depth, "%s[%s] = (%s ? %s[%s] : 0) + (real)%s;", d->to->ptr,
			 out, d->to->flag, d->to->ptr, out, sum);
	while (loops-- > 0)
		put_line(&c->text, c->depth + loops, "}");
}

/* requires: operands that are in memory or views of it. keeps: the sink's mode. */
void
emit_dot(CgBody *c, uint32_t k)
{
	const Op *op = &c->b->ops[k];
	Dot d = {.c = c,
		 .op = op,
		 .tx = bc_type(c, op->in[0]),
		 .ty = bc_type(c, op->in[1]),
		 .tout = bc_type(c, op->out[0])};
	Call3 call;

	if (!bc_access(c, op->in[0], &d.x) || !bc_access(c, op->in[1], &d.y)) {
		cg_error(c->g, op->loc, "an operand of 'dot' has no place in memory");
		return;
	}
	classify(&d);
	collapse(&d);
	for (uint32_t turn = 0; (d.to = bc_sink(c, op->out[0], turn)); turn++) {
		for (int j = 0; j < d.ngroups; j++)
			d.group[j].var = NULL;
		if (choose(&d, &call))
			put_gemm(&d, &call);
		else
			put_plain(&d);
	}
	bc_copy_rest(c, op->out[0]);
}
