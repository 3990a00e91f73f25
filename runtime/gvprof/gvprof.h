/*
 * gvprof.h - what the files of gvprof share.
 *
 *   main.c     the command line; what is measured, in which order
 *   tool.c     files, commands, time: everything that can go wrong is one line and exit(1)
 *   points.c   times of kernels: what programs write, and .prof
 *   kernels.c  the host: programs that time their kernels
 *   machine.c  the host: what it can do, and .hw
 *   rig.c      the program machine.c builds; not a part of gvprof
 *
 * gvprof knows neither the compiler's data nor models: it asks galvatronc for plans, has it emit programs, builds and runs them.
 */
#ifndef GVPROF_H
#define GVPROF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GP_PRINTF(a, b) __attribute__((format(printf, a, b)))
#define GP_COUNTOF(a)   (sizeof(a) / sizeof(*(a)))

/* ---- tool.c ---- */
_Noreturn void fail(const char *fmt, ...) GP_PRINTF(1, 2);
void say(const char *fmt, ...) GP_PRINTF(1, 2); /* a line of progress, unless --quiet */
void say_nothing(void);
void *grow(void *p, size_t bytes);
char *text(const char *fmt, ...) GP_PRINTF(1, 2); /* never freed: gvprof is short-lived */
double seconds(void);                             /* of a clock that never jumps */
const char *duration(double s);                   /* "1m20s" */

char *read_text(const char *path);                /* NULL: there is none */
void write_text(const char *path, const char *s); /* aside, synced, renamed */
bool exists(const char *path);
void make_dir(const char *path);
void remove_tree(const char *path);
void lock(const char *path); /* a file; held until gvprof ends */
uint64_t hash_bytes(uint64_t h, const void *bytes, size_t n);
uint64_t hash_file(uint64_t h, const char *path);
uint64_t hash_dir(uint64_t h,
		  const char *path); /* its .c and .h files, in the order of their names */

typedef struct Command {
	const char **arg;
	int n, cap;
	const char *out; /* file for standard output; NULL: as gvprof's */
	const char *log; /* file for standard error */
} Command;
void add(Command *c, const char *arg);
void run(Command *c,
	 const char *what); /* a command that fails ends gvprof, with what it said */

typedef struct Lines { /* of a text, cut in place */
	char *s;
} Lines;
char *next_line(Lines *l); /* NULL: no more */

/* ---- main.c ---- */
typedef struct Options {
	const char *model, *out, *galvatronc, *mpirun, *precision, *transport;
	const char *set[64], *plan[256];
	int nset, nplan;
	const char *mpirun_program;
	int ranks, threads; /* of the measurement at hand */
	int threads_given;
	bool several;   /* counts of ranks: files are numbered */
	int nodes;      /* the launcher spreads ranks over */
	double seconds; /* of a program */
	bool keep, again, machine_only;
} Options;

typedef struct Target { /* how a kind of device is measured */
	const char *name;
	void (*kernels)(const Options *o, const char *work, uint64_t key);
	void (*machine)(const Options *o, const char *work, uint64_t key);
} Target;

char *out_path(const Options *o, const char *suffix); /* "machine.prof" */
/* gvprof's own commands. */
Command compiler(const Options *o, const char *log);
Command launcher(const Options *o); /* mpirun -np N, or nothing for one rank */
/* Makes a folder's programs, or those named; the runtime's objects are made once for all folders of `work`. */
void build(const Options *o, const char *work, const char *dir, const char *stages);
/* The programs of a folder, in order, as arguments. */
void add_programs(Command *c, const char *dir);

/* ---- points.c ---- */
typedef struct Point {
	char *family, *extents; /* "1024 768" */
	double ns, spread;
	int64_t runs;
} Point;

typedef struct Points {
	Point *p;
	size_t n, cap;
	char **provenance; /* of what was read */
	size_t nprovenance;
} Points;

/* A .prof that gvprof wrote; false: there is none, or its key is another. */
bool points_read(Points *x, const char *path, uint64_t key);
void points_write(const Points *x, const char *path, const Options *o, uint64_t key);
/* What a program wrote to FILE.0 .. FILE.(ranks - 1): the mean over ranks of a kernel's time. */
void points_merge(Points *x, const char *file, int ranks, double *step_ns, double *rest_ns);

/* ---- machine.c, kernels.c ---- */
void provenance(const Options *o, char ***line, size_t *n); /* CPU, compiler, BLAS, MPI, date */
void host_kernels(const Options *o, const char *work, uint64_t key);
void host_machine(const Options *o, const char *work, uint64_t key);
/* What measurements depend on: compiler, runtime, processor, ranks. */
uint64_t machine_key(const Options *o, const char *work);
/* Notes in the .hw what a step takes besides kernels and communication. */
void machine_step(const Options *o, double ns);
/* Emits some program of o->ranks ranks of the model into a folder: its Makefile is what is wanted. */
void program_folder(const Options *o, const char *work, const char *dir);

#endif
