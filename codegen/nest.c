/*
 * nest.c - linear addresses over the axes of a loop nest, and their text.
 *
 * Addresses are kept as coefficients until they are printed, so that neighbouring loops can be merged where every
 * address agrees (kernel.c) and strides read as products of named sizes.
 */
#include "codegen/nest.h"

#include <inttypes.h>
#include <string.h>

enum { LONG_INDEX = 25 }; /* characters from which on what a row fixes gets a name */

void
nest_error(Nest *n, const char *fmt, ...)
{
	Buf b;
	va_list ap;

	if (n->c->g->failed) return;
	buf_init(&b, n->c->g->a);
	va_start(ap, fmt);
	buf_vprintf(&b, fmt, ap);
	va_end(ap);
	cg_error(n->c->g, n->nops ? n->c->b->ops[n->ops[0]].loc : (Loc){0}, "%s", b.s);
}

Lin
lin_const(int64_t c)
{
	return (Lin){.c = c};
}

void
lin_term(Lin *to, const char *text, int64_t times, uint32_t deps)
{
	if (times == 0) return;
	to->deps |= deps;
	for (int k = 0; k < to->nterms; k++)
		if (strcmp(to->term[k].text, text) == 0) {
			to->term[k].coef += times;
			return;
		}
	if (to->nterms == MAX_TERMS) {
		to->overflows = true;
		return;
	}
	to->term[to->nterms].text = text;
	to->term[to->nterms].deps = deps;
	to->term[to->nterms++].coef = times;
}

void
lin_add(Lin *to, const Lin *x, int64_t times)
{
	if (times == 0) return;
	to->c += x->c * times;
	to->mb += x->mb * times;
	to->overflows |= x->overflows;
	to->deps |= x->deps;
	for (int k = 0; k < MAX_LOOPS; k++)
		to->k[k] += x->k[k] * times;
	for (int k = 0; k < x->nterms; k++)
		lin_term(to, x->term[k].text, x->term[k].coef * times, x->term[k].deps);
}

bool
lin_is_const(const Lin *x)
{
	return x->deps == 0 && x->nterms == 0 && x->mb == 0;
}

static const char *
stride_text(Nest *n, int64_t c, const Type *t, const Type *view)
{
	return t ? cg_view_stride(n->c->g, n->c->mesh, t, view ? view : t, c)
		 : cg_text(n->c->g->a, "%" PRId64, c);
}

static void
add_product(Nest *n, Buf *b, const char *text, int64_t coef, const Type *t, const Type *view)
{
	if (coef == 0) return;
	if (b->n)
		buf_puts(b, coef < 0 ? " - " : " + ");
	else if (coef < 0)
		buf_puts(b, "-");
	if (coef < 0) coef = -coef;
	buf_puts(b, text);
	if (coef == 1) return;
	buf_printf(b, " * %s", stride_text(n, coef, t, view));
}

Ex
lin_text(Nest *n, const Lin *x, const Type *t, const Type *view)
{
	Buf b;
	int parts = x->nterms;

	buf_init(&b, n->c->g->a);
	if (x->mb) n->c->uses_mb = true;
	add_product(n, &b, "mb", x->mb, t, view);
	for (int k = 0; k < x->nterms; k++)
		add_product(n, &b, x->term[k].text, x->term[k].coef, t, view);
	for (int l = 0; l < n->nloops; l++) {
		parts += x->k[n->loop[l].last] != 0;
		add_product(n, &b, n->loop[l].var, x->k[n->loop[l].last], t, view);
	}
	if (x->c || !b.n) {
		int64_t c = x->c;

		if (b.n) buf_puts(&b, c < 0 ? " - " : " + ");
		if (b.n && c < 0) c = -c;
		buf_puts(&b, stride_text(n, c, t, view));
	}
	return (Ex){b.s, parts == 1 && !strchr(b.s, ' ') && b.s[0] != '-' ? P_atom : P_add,
		    x->deps};
}

const char *
index_text(Nest *n, const Lin *x, const Type *t, const Type *view)
{
	Lin row = *x, rest = {.deps = x->deps};
	Ex fixed;

	if (n->inner == 0 || (x->deps & n->inner) == 0 || n->rows_done)
		return lin_text(n, x, t, view).s;
	row.deps = 0;
	row.nterms = 0;
	for (int k = 0; k < n->naxes; k++) {
		if (!(n->inner & (1u << k))) continue;
		rest.k[k] = row.k[k];
		row.k[k] = 0;
	}
	for (int k = 0; k < x->nterms; k++) {
		bool moves = (x->term[k].deps & n->inner) != 0;

		lin_term(moves ? &rest : &row, x->term[k].text, x->term[k].coef,
			 x->term[k].deps);
	}
	fixed = lin_text(n, &row, t, view);
	if (strlen(fixed.s) < LONG_INDEX) return lin_text(n, x, t, view).s;
	for (uint32_t k = 0; k < n->noffsets; k++)
		if (strcmp(n->offsets[k].text, fixed.s) == 0) fixed.s = n->offsets[k].name;
	if (strchr(fixed.s, ' ')) {
		const char *name = scope_take(n->scope, "at");

		put_line(&n->row, n->row_depth, "const int64_t %s = %s;", name, fixed.s);
		n->offsets = arena_grow(n->c->g->a, n->offsets, n->noffsets, n->noffsets + 1,
					sizeof *n->offsets);
		n->offsets[n->noffsets].text = fixed.s;
		n->offsets[n->noffsets++].name = name;
		fixed.s = name;
	}
	return cg_text(n->c->g->a, "%s + %s", fixed.s, lin_text(n, &rest, t, view).s);
}

const char *
lin_alone(Nest *n, const Lin *x)
{
	Ex e;

	for (int k = 0; k < n->naxes; k++)
		if (x->k[k]) n->solo |= 1u << k;
	if (n->probe) return "?";
	e = lin_text(n, x, NULL, NULL);
	return e.prec == P_atom ? e.s : cg_text(n->c->g->a, "(%s)", e.s);
}

const Lin *
env_at(const Env *e, Axis a)
{
	for (int k = 0; k < e->n; k++)
		if (e->a[k].i == a.i) return &e->at[k];
	return NULL;
}

void
env_drop(Env *e, Axis a)
{
	for (int k = 0; k < e->n; k++)
		if (e->a[k].i == a.i) {
			e->n--;
			e->a[k] = e->a[e->n];
			e->at[k] = e->at[e->n];
			return;
		}
}

void
env_set(Env *e, Axis a, const Lin *at)
{
	Lin copy = *at;

	env_drop(e, a);
	ENSURE(e->n < MAX_ENV, "more than %d axes in reach of a loop nest", MAX_ENV);
	e->a[e->n] = a;
	e->at[e->n++] = copy;
}

int
nest_axis(const Nest *n, Axis a)
{
	for (int k = 0; k < n->naxes; k++)
		if (n->use[k].a.i == a.i) return k;
	return -1;
}

uint32_t
nest_mask(const Nest *n, const Type *t)
{
	uint32_t mask = 0;

	for (int k = 0; k < t->n; k++) {
		int a = nest_axis(n, t->ax[k].a);

		if (a >= 0) mask |= 1u << a;
	}
	return mask;
}

Lin
nest_address(Nest *n, const Type *t, const int64_t *stride, int64_t offset, const Env *e)
{
	Lin x = lin_const(offset);

	for (int k = 0; k < t->n; k++) {
		const Lin *at = env_at(e, t->ax[k].a);

		if (!at) {
			nest_error(
			    n, "axis '%s' has no index in this loop nest",
			    name_str(n->c->g->m->names, n->c->g->m->axes[t->ax[k].a.i].name));
			return lin_const(0);
		}
		lin_add(&x, at, stride[k]);
	}
	if (x.overflows)
		nest_error(n, "an address has more than %d parts that are no stride",
			   MAX_TERMS);
	for (int k = 0; k < n->naxes; k++)
		if (n->extent[k] == 1) x.k[k] = 0;
	if (n->probe) PUSH(n->c->g->a, n->seen, n->nseen, n->cseen, x);
	return x;
}
