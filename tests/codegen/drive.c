/*
 * drive.c - stands in for the runtime's main: runs one step of an emitted program on given parameters and inputs and
 * writes its loss and gradients. For tests/unit/codegen.c.
 *
 * Both files are records: length and text of a name, a count, that many doubles. The arena starts as NaN and dead
 * buffers become NaN, so whatever is read before it is written shows.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gvrt.h"

typedef struct Record {
	char name[256];
	uint64_t n;
	double *x;
} Record;

struct GvrtState {
	const GvrtProgram *p;
	Record *in;
	size_t nin;
	double sums[16];
};

bool gvrt_poison = true;

void
gvrt_fill_nan(void *p, int64_t bytes)
{
	memset(p, 0xFF, (size_t)bytes);
}

static void
die(const char *what, const char *name)
{
	fprintf(stderr, "drive: %s '%s'\n", what, name);
	exit(1);
}

static Record *
read_records(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	Record *r = calloc(4096, sizeof *r);
	uint32_t len;
	if (!f || !r) die("cannot read", path);
	for (*n = 0; *n < 4096 && fread(&len, sizeof len, 1, f) == 1; ++*n) {
		Record *x = &r[*n];
		if (len >= sizeof x->name || fread(x->name, 1, len, f) != len ||
		    fread(&x->n, sizeof x->n, 1, f) != 1)
			die("short file", path);
		x->x = malloc(x->n * sizeof *x->x + 1);
		if (!x->x || fread(x->x, sizeof *x->x, x->n, f) != x->n)
			die("short file", path);
	}
	fclose(f);
	return r;
}

static const Record *
find(const struct GvrtState *s, const char *name)
{
	for (size_t k = 0; k < s->nin; k++)
		if (strcmp(s->in[k].name, name) == 0) return &s->in[k];
	die("no record of", name);
	return NULL;
}

static void
write_record(FILE *f, const char *prefix, const char *name, const real *x, int64_t n)
{
	char full[512];
	snprintf(full, sizeof full, "%s%s", prefix, name);
	uint32_t len = (uint32_t)strlen(full);
	uint64_t count = (uint64_t)n;
	fwrite(&len, sizeof len, 1, f);
	fwrite(full, 1, len, f);
	fwrite(&count, sizeof count, 1, f);
	for (int64_t i = 0; i < n; i++) {
		double d = (double)x[i];
		fwrite(&d, sizeof d, 1, f);
	}
}

void
gvrt_input(GvrtRun *r, int64_t mb)
{
	const GvrtProgram *p = r->state->p;
	unsigned char *slot = r->arena + p->slots + mb % p->nslots * p->slot_bytes;
	for (size_t k = 0; k < p->ninputs; k++) {
		const GvrtInput *in = &p->inputs[k];
		int64_t n = in->per_sample * p->microbatch;
		const double *x = find(r->state, in->name)->x + mb * n;
		for (int64_t i = 0; i < n; i++) {
			if (in->kind == GVRT_I32)
				((int32_t *)(void *)(slot + in->at))[i] = (int32_t)x[i];
			else if (in->kind == GVRT_BOOL)
				((bool *)(void *)(slot + in->at))[i] = x[i] != 0;
			else
				((real *)(void *)(slot + in->at))[i] = (real)x[i];
		}
	}
}

void
gvrt_report(GvrtRun *r, int64_t mb)
{
	const GvrtProgram *p = r->state->p;
	const unsigned char *slot = r->arena + p->slots + mb % p->nslots * p->slot_bytes;
	for (size_t k = 0; k < p->nreports; k++)
		r->state->sums[k] +=
		    (double)*(const real *)(const void *)(slot + p->report_at[k]);
}

void
gvrt_norm(GvrtRun *r)
{
	r->norm = sqrt(r->sumsq);
}

/* Parameters in, or gradients out if f. */
static void
each_param(GvrtRun *r, FILE *f)
{
	const GvrtProgram *p = r->state->p;
	for (size_t k = 0; k < p->nparams; k++) {
		const GvrtParam *q = &p->params[k];
		for (uint32_t i = 0; i < q->repeat; i++) {
			char name[256];
			if (q->suffix)
				snprintf(name, sizeof name, "%s%u%s", q->prefix,
					 q->first + i * q->by, q->suffix);
			else
				snprintf(name, sizeof name, "%s", q->prefix);
			int64_t at = q->at + (int64_t)i * q->stride;
			if (f) {
				write_record(f, "grad:", name,
					     (const real *)(void *)(r->arena + p->grad + at),
					     q->count);
				continue;
			}
			const Record *in = find(r->state, name);
			if (in->n != (uint64_t)q->count) die("another size of", name);
			for (int64_t j = 0; j < q->count; j++)
				((real *)(void *)(r->arena + p->param + at))[j] =
				    (real)in->x[j];
		}
	}
}

int
gvrt_main(int argc, char **argv, const GvrtProgram *p)
{
	struct GvrtState s = {.p = p};
	GvrtRun r = {
	    .train = true, .seed = p->train.seed, .scale = 1, .c1 = 1, .c2 = 1, .state = &s};
	if (argc != 3) die("usage", "stage_0 IN OUT");
	s.in = read_records(argv[1], &s.nin);
	r.arena = aligned_alloc(64, (size_t)(p->arena_bytes + 63) / 64 * 64);
	if (!r.arena || p->nreports > 16) die("no memory for", p->model);
	gvrt_fill_nan(r.arena, p->arena_bytes);
	if (p->consts) p->consts(&r);
	each_param(&r, NULL);
	for (int turn = 0; turn < 2; turn++) { /* the second must not see the first */
		memset(s.sums, 0, sizeof s.sums);
		r.sumsq = 0;
		p->step(&r);
	}
	FILE *f = fopen(argv[2], "wb");
	if (!f) die("cannot write", argv[2]);
	for (size_t k = 0; k < p->nreports; k++) {
		real x = (real)s.sums[k];
		write_record(f, "", p->reports[k], &x, 1);
	}
	each_param(&r, f);
	return fclose(f) != 0;
}
