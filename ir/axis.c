/*
 * axis.c - named axes and lists of them.
 * Invariant: an axis is its name and one extent; two axes of one module never share a name.
 */
#include "ir/ir.h"

Axis
ir_axis_find(const Module *m, Name name)
{
	for (uint32_t i = 1; i < m->naxes; i++)
		if (m->axes[i].name == name) return (Axis){(uint16_t)i};
	return NO_AXIS;
}

/* The first of name, name.2, name.3, ... that has this extent or is free. NO_AXIS when the table is full. */
Axis
ir_axis(Module *m, Name name, int64_t extent, Loc loc)
{
	Name unique = name;
	Axis a = ir_axis_find(m, unique);

	ENSURE(name && extent >= 0, "axis '%s' of %lld", name_str(m->names, name),
	       (long long)extent);
	for (int k = 2; a.i && m->axes[a.i].extent != extent; k++) {
		unique = name_fmt(m->names, "%s.%d", name_str(m->names, name), k);
		a = ir_axis_find(m, unique);
	}
	if (a.i) return a;
	if (m->naxes > UINT16_MAX) return NO_AXIS;
	PUSH(m->arena, m->axes, m->naxes, m->caxes, ((AxisDef){unique, extent, loc}));
	return (Axis){(uint16_t)(m->naxes - 1)};
}

int64_t
ir_extent(const Module *m, Axis a)
{
	ENSURE(a.i && a.i < m->naxes, "axis %u of %u", a.i, m->naxes);
	return m->axes[a.i].extent;
}

const char *
ir_axis_str(const Module *m, Axis a)
{
	ENSURE(a.i < m->naxes, "axis %u of %u", a.i, m->naxes);
	return a.i ? name_str(m->names, m->axes[a.i].name) : "";
}

bool
axes_has(const AxisList *l, Axis a)
{
	for (int i = 0; i < l->n; i++)
		if (l->a[i].i == a.i) return true;
	return false;
}

bool
axes_add(AxisList *l, Axis a)
{
	if (axes_has(l, a)) return true;
	if (l->n == MAX_AXES) return false;
	l->a[l->n++] = a;
	return true;
}

AxisList
axes_of(const Type *t)
{
	AxisList l = {.n = t->n};

	for (int i = 0; i < t->n; i++)
		l.a[i] = t->ax[i].a;
	return l;
}
