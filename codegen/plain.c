/*
 * plain.c - loops and addresses over named axes: what is printed where no call takes the layout.
 */
#include "codegen/cg.h"

#include <inttypes.h>

const char *
plain_element(CgBody *c, Val v, const Access *x, const Place *places, int nplaces)
{
	const Type *t = bc_type(c, v), *base = bc_type(c, x->base);
	const char *p = bc_pointer(c, &(Access){.base = x->base});
	Buf b;

	buf_init(&b, c->g->a);
	for (int k = 0; k < t->n; k++) {
		const char *at = c->g->axis_var[t->ax[k].a.i];
		int64_t s = x->stride[k];
		bool placed =
		    false; /* then it is read, or what it is read from would be unused */

		for (int j = 0; j < nplaces; j++)
			if (places[j].a.i == t->ax[k].a.i) at = places[j].at, placed = true;
		if (s == 0 || (bc_extent(c, t, k) == 1 && !placed)) continue;
		buf_printf(&b, "%s%s", b.n ? (s < 0 ? " - " : " + ") : s < 0 ? "-" : "", at);
		if (s != 1 && s != -1)
			buf_printf(&b, " * %s",
				   cg_view_stride(c->g, c->mesh, base, t, s < 0 ? -s : s));
	}
	if (x->offset || !b.n)
		buf_printf(&b, "%s%s", b.n ? " + " : "",
			   cg_view_stride(c->g, c->mesh, base, t, x->offset));
	return cg_text(c->g->a, "%s[%s]", p, b.s);
}

/* An element of a result at a sink. */
const char *
plain_target(CgBody *c, Val v, const Sink *to, const Place *places, int nplaces)
{
	Access x = {.base = v};
	const ValInfo keep = c->val[v.i];
	const char *s;

	bc_strides(c, bc_type(c, v), x.stride);
	c->val[v.i].ptr = to->ptr;
	c->val[v.i].declared = true;
	s = plain_element(c, v, &x, places, nplaces);
	c->val[v.i] = keep;
	return s;
}

/* Opens loops over the axes of t that are not in `skip`; returns how many. */
int
plain_open(CgBody *c, const Type *t, const AxisList *skip, int depth, bool parallel)
{
	int n = 0, opened = 0;
	int64_t turns = 1;

	for (int k = 0; k < t->n; k++) {
		if (skip && axes_has(skip, t->ax[k].a)) continue;
		n++;
		turns *= bc_extent(c, t, k);
	}
	if (parallel && n && turns > 1) {
		if (n > 1)
			put_line(&c->text, 0,
				 "#pragma omp parallel for collapse(%d) schedule(static)", n);
		else
			put_line(&c->text, 0, "#pragma omp parallel for schedule(static)");
	}
	for (int k = 0; k < t->n; k++) {
		const char *v = c->g->axis_var[t->ax[k].a.i];

		if (skip && axes_has(skip, t->ax[k].a)) continue;
		put_line(&c->text, depth + opened++, "for (int64_t %s = 0; %s < %s; %s++) {", v,
			 v, cg_size(c->g, c->mesh, t->ax[k]), v);
	}
	return opened;
}

void
plain_close(CgBody *c, int depth, int n)
{
	while (n-- > 0)
		put_line(&c->text, depth + n, "}");
}

AxisList
axes_except(const Type *t, const AxisList *acted)
{
	AxisList l = {0};

	for (int k = 0; k < t->n; k++)
		if (!axes_has(acted, t->ax[k].a)) axes_add(&l, t->ax[k].a);
	return l;
}

void
plain_zero(CgBody *c, Val v, const Sink *to)
{
	const char *bytes =
	    cg_text(c->g->a, "(size_t)%s * sizeof(%s)", cg_count(c->g, c->mesh, bc_type(c, v)),
		    cg_ctype(bc_type(c, v)->dt));

	if (to->mode == STORE_set)
		bc_line(c, "memset(%s, 0, %s);", to->ptr, bytes);
	else if (to->mode == STORE_flag)
		bc_line(c, "if (!%s) memset(%s, 0, %s);", to->flag, to->ptr, bytes);
}
