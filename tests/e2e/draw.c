/*
 * draw.c - writes what `galvatronc eval` without --data feeds to a model, as safetensors for the emitted program. For
 * tests/e2e/zoo.sh.
 *
 * usage: draw MODEL.gdl STEPS OUT.safetensors      (inputs begin with the batch axis; f64, i64 and bool entries)
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"
#include "ir/ir.h"

/* One element of an input in one step; frontend/evaluate.c draws the same. */
static double
drawn(const Module *m, const Input *in, uint64_t key, uint64_t i)
{
	if (in->range.i) return floor(rng_uniform(key, i) * (double)ir_extent(m, in->range));
	if (in->type.dt == DT_bool) return rng_uniform(key, i) < 0.75;
	if (dtype_float(in->type.dt)) return rng_normal(key, i);
	return floor(rng_uniform(key, i) * 16);
}

static size_t
element_bytes(const Input *in)
{
	return in->type.dt == DT_bool ? 1 : 8;
}

static void
put_header(const Module *m, int64_t steps, FILE *out, Arena *a)
{
	Buf b;
	size_t at = 0;
	buf_init(&b, a);
	buf_puts(&b, "{");
	for (uint32_t k = 0; k < m->ninputs; k++) {
		const Input *in = &m->inputs[k];
		const int64_t n = type_count(m, NULL, &in->type),
			      batch = ir_extent(m, m->batch);
		const size_t bytes = (size_t)(n * steps) * element_bytes(in);
		buf_printf(&b,
			   "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld,%lld],\"data_offsets\":["
			   "%zu,%zu]}",
			   k ? "," : "", name_str(m->names, in->name),
			   in->type.dt == DT_bool     ? "BOOL"
			   : dtype_float(in->type.dt) ? "F64"
						      : "I64",
			   (long long)(batch * steps), (long long)(n / batch), at, at + bytes);
		at += bytes;
	}
	buf_puts(&b, "}");
	while (b.n % 8)
		buf_puts(&b, " ");
	const uint64_t length = b.n;
	fwrite(&length, sizeof length, 1, out);
	fwrite(b.s, 1, b.n, out);
}

static void
put_data(const Module *m, const Input *in, int64_t steps, FILE *out)
{
	const int64_t n = type_count(m, NULL, &in->type);
	for (int64_t t = 0; t < steps; t++) {
		const uint64_t key =
		    rng_key(m->train.seed + (uint64_t)t, name_str(m->names, in->name));
		for (int64_t i = 0; i < n; i++) {
			const double x = drawn(m, in, key, (uint64_t)i);
			const int64_t whole = (int64_t)x;
			const unsigned char byte = x != 0;
			if (in->type.dt == DT_bool)
				fwrite(&byte, 1, 1, out);
			else if (dtype_float(in->type.dt))
				fwrite(&x, sizeof x, 1, out);
			else
				fwrite(&whole, sizeof whole, 1, out);
		}
	}
}

int
main(int argc, char **argv)
{
	if (argc != 4) return 2;
	Ctx c = {.perm = arena_new(), .tmp = arena_new(), .precision = DT_f64};
	c.names = names_new(c.perm);
	c.diag = diag_new(c.perm, c.names, stderr);
	const FeOptions fe = {.path = argv[1], .precision = DT_f64, .host = true};
	const Module *m = fe_load(&c, &fe);
	const int64_t steps = strtoll(argv[2], NULL, 10);
	FILE *out = m ? fopen(argv[3], "wb") : NULL;
	if (!out) return 1;
	put_header(m, steps, out, c.perm);
	for (uint32_t k = 0; k < m->ninputs; k++)
		put_data(m, &m->inputs[k], steps, out);
	const int status = fclose(out) == 0 ? 0 : 1;
	arena_free(c.tmp);
	arena_free(c.perm);
	return status;
}
