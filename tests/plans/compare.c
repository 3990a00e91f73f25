/*
 * compare.c - how far apart two checkpoints are: the norm of the difference of all parameters over the norm of the first.
 *
 * usage: compare A/model.safetensors B/model.safetensors TOLERANCE      0: within it
 */
#include <math.h>
#include <stdlib.h>

#include "gvrt_int.h"

int
main(int argc, char **argv)
{
	Pool pool = {0};
	StFile a, b;
	Err e;
	double diff = 0, norm = 0;
	if (argc != 4) return 2;
	if (!st_open(&a, &pool, argv[1], &e) || !st_open(&b, &pool, argv[2], &e)) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	if (a.n != b.n) {
		fprintf(stderr, "%zu entries, and %zu\n", a.n, b.n);
		return 1;
	}
	for (size_t i = 0; i < a.n; i++) {
		const StEntry *x = &a.entries[i], *y = st_find(&b, x->name);
		if (!y || y->count != x->count) {
			fprintf(stderr, "entry %s differs in shape or is missing\n", x->name);
			return 1;
		}
		real *u = malloc(sizeof *u * (size_t)x->count),
		     *v = malloc(sizeof *v * (size_t)x->count);
		bool ok = u && v && st_read_real(&a, x, 0, x->count, u) &&
			  st_read_real(&b, y, 0, y->count, v);
		for (int64_t k = 0; ok && k < x->count; k++) {
			diff += ((double)u[k] - (double)v[k]) * ((double)u[k] - (double)v[k]);
			norm += (double)u[k] * (double)u[k];
		}
		free(u);
		free(v);
		if (!ok) return 1;
	}
	const double off = sqrt(diff / norm), most = atof(argv[3]);
	printf("parameters differ by %.2e, at most %.0e\n", off, most);
	return off <= most ? 0 : 1;
}
