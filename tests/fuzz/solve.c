/*
 * solve.c - fuzzes tables for --solve: any text is refused with a diagnostic or is a problem; a small one is solved, and what
 * comes out fits, takes what it says, and is not below its own bound, nor is solve_least() above it.
 */
#include <math.h>
#include <stdlib.h>

#include "passes/solve_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void
check_answer(Arena *a, const SolveText *t)
{
	SolveAnswer x;
	Buf out;
	buf_init(&out, a);
	if (!solve(a, &t->p, &x)) {
		solve_print(t, NULL, &out);
		return;
	}
	int64_t time = x.time;
	if (!solve_evaluate(&t->p, &x) || x.time != time) abort();
	if (x.least > time || solve_least(a, &t->p) > time) abort();
	double seconds = solve_text_time(t, &x);
	if (!(fabs(seconds - (double)time / t->second) <= 1e-6 * seconds + 1e-9)) abort();
	solve_print(t, &x, &out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	Arena *a = arena_new();
	Names *names = names_new(a);
	Diag *d = diag_new(a, names, NULL);
	Name file = name_of(names, "fuzz.solve");
	char *text = arena_alloc(a, n + 1);
	for (size_t i = 0; i < n; i++)
		text[i] = (char)bytes[i];
	diag_source(d, file, text, n);
	const SolveText *t = solve_parse(a, d, file, text, n);
	if (!t != (diag_errors(d) > 0)) abort();
	if (t && t->p.nlayers <= 12 && t->p.table[0]->ngroups <= 8 && t->p.nheads <= 4)
		check_answer(a, t);
	arena_free(a);
	return 0;
}
