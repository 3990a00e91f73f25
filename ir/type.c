/*
 * type.c - data types, tensor types, and what a tensor takes on one rank.
 */
#include "ir/ir.h"

#include <string.h>

static const struct {
	const char *text;
	int bytes;
} dtypes[DT_COUNT] = {
    [DT_none] = {"none", 0}, [DT_bool] = {"bool", 1}, [DT_i32] = {"i32", 4},
    [DT_bf16] = {"bf16", 2}, [DT_f32] = {"f32", 4},   [DT_f64] = {"f64", 8},
};

const char *
dtype_str(DType dt)
{
	return dtypes[dt].text;
}

DType
dtype_parse(const char *s)
{
	for (int dt = DT_none + 1; dt < DT_COUNT; dt++)
		if (strcmp(s, dtypes[dt].text) == 0) return (DType)dt;
	return DT_none;
}

int
dtype_bytes(DType dt)
{
	return dtypes[dt].bytes;
}

bool
dtype_float(DType dt)
{
	return dt == DT_bf16 || dt == DT_f32 || dt == DT_f64;
}

int
type_find(const Type *t, Axis a)
{
	for (int i = 0; i < t->n; i++)
		if (t->ax[i].a.i == a.i) return i;
	return -1;
}

static bool
use_equal(const AxisUse *a, const AxisUse *b)
{
	return a->a.i == b->a.i && a->nshard == b->nshard &&
	       memcmp(a->shard, b->shard, a->nshard) == 0;
}

bool
type_equal(const Type *a, const Type *b)
{
	if (a->dt != b->dt || a->n != b->n || a->partial != b->partial || a->flat != b->flat)
		return false;
	for (int i = 0; i < a->n; i++)
		if (!use_equal(&a->ax[i], &b->ax[i])) return false;
	return true;
}

bool
type_same_axes(const Type *a, const Type *b)
{
	if (a->n != b->n) return false;
	for (int i = 0; i < a->n; i++)
		if (type_find(b, a->ax[i].a) < 0) return false;
	return true;
}

void
type_push(Type *t, AxisUse u)
{
	ENSURE(t->n < MAX_AXES, "a tensor of more than %d axes", MAX_AXES);
	t->ax[t->n++] = u;
}

bool
type_remove(Type *t, Axis a)
{
	int k = type_find(t, a);

	if (k < 0) return false;
	t->n--;
	memmove(&t->ax[k], &t->ax[k + 1], (size_t)(t->n - k) * sizeof(t->ax[0]));
	return true;
}

int64_t
type_extent(const Module *m, const Mesh *mesh, const Type *t, int k)
{
	const AxisUse *u = &t->ax[k];
	int64_t n = ir_extent(m, u->a);

	for (int i = 0; mesh && i < u->nshard; i++) {
		int64_t degree = mesh->ax[u->shard[i]].degree;

		ENSURE(u->shard[i] < mesh->n && degree > 0, "a shard over mesh axis %u of %u",
		       u->shard[i], mesh->n);
		n = n / degree + (n % degree != 0);
	}
	return n;
}

/* Saturates: whoever allocates checks against a limit far below. */
static int64_t
times(int64_t a, int64_t b)
{
	int64_t c;

	return __builtin_mul_overflow(a, b, &c) ? INT64_MAX : c;
}

int64_t
type_count(const Module *m, const Mesh *mesh, const Type *t)
{
	int64_t n = 1;

	for (int k = 0; k < t->n; k++)
		n = times(n, type_extent(m, mesh, t, k));
	return n;
}

int64_t
type_bytes(const Module *m, const Mesh *mesh, const Type *t)
{
	return times(type_count(m, mesh, t), dtype_bytes(t->dt));
}
