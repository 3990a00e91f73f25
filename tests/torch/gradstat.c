/*
 * gradstat.c - prints, for every entry of a safetensors file, "grad NAME NORM PROBE" with PROBE = sum g_i cos(i): what the
 * committed PyTorch references hold. A tool of tests/e2e/parity.sh.
 */
#include <math.h>
#include <stdlib.h>

#include "gvrt_int.h"

static bool
print_entry(const StFile *f, const StEntry *x, real *values)
{
	double norm = 0, probe = 0;
	if (!st_read_real(f, x, 0, x->count, values)) return false;
	for (int64_t i = 0; i < x->count; i++) {
		const double g = (double)values[i];
		norm += g * g;
		probe += g * cos((double)i);
	}
	printf("grad %s %.17g %.17g\n", x->name, sqrt(norm), probe);
	return true;
}

int
main(int argc, char **argv)
{
	if (argc != 2) return 2;
	Pool pool = {0};
	Err e;
	StFile f;
	bool ok = st_open(&f, &pool, argv[1], &e);
	if (!ok) rt_error("%s", e.text);
	for (size_t k = 0; ok && k < f.n; k++)
		ok = print_entry(&f, &f.entries[k], POOL_N(&pool, real, f.entries[k].count));
	if (ok) st_close(&f);
	pool_free(&pool);
	return !ok;
}
