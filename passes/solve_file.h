/*
 * solve_file.h - the solver by itself: `galvatronc --solve FILE`.
 */
#ifndef GV_SOLVE_FILE_H
#define GV_SOLVE_FILE_H

#include "passes/solve.h"

enum { SOLVE_NONE = 3 }; /* exit status where no plan fits */

/* A problem as text; see README.md. Times are counted in `second`ths, memory in `megabyte`ths. */
typedef struct SolveText {
	SolveProblem p;
	double second, megabyte;      /* units in one */
	struct SolveNumbers *numbers; /* the file's own */
} SolveText;

/* NULL after diagnostics. Everything lives in a. */
SolveText *solve_parse(Arena *a, Diag *d, Name file, const char *text, size_t n);
/* Of a plan, by the numbers in the file. */
double solve_text_time(const SolveText *t, const SolveAnswer *x);
/* objective, partition, plan, head and bound; NULL: infeasible. */
void solve_print(const SolveText *t, const SolveAnswer *x, Buf *out);
/* Reads, solves, prints on stdout. The exit status. */
int solve_file(const char *path);

#endif
