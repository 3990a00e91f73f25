/*
 * launch.c - who this process is among the ranks, and the environment it must have before OpenMP and the BLAS start.
 *
 * Both read the environment when they are loaded, which is before main(): so where a setting is missing the program sets
 * it and executes itself once more. The same execution brings a rank to its own stage: the shell hands every rank the paths
 * of all stages ("mpirun build/stage_*"), and a rank picks its own by number, never by order (10 sorts before 2).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#include "gvrt_int.h"

/* Set by the execution before: "plan hash/stage" that this program must be. */
#define GUARD "GVRT_LAUNCHED"

/* Rank and size as launchers say it, in order of preference: an inner launcher before an outer one. */
static const struct {
	const char *rank, *size, *command;
} launchers[] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "mpirun -n"},
    {"PMI_RANK", "PMI_SIZE", "mpirun -n"},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "srun -n"},
    {"SLURM_PROCID", "SLURM_NTASKS", "srun -n"},
};

/* A whole number in an environment variable; -1: unset or something else. */
static int
env_int(const char *name)
{
	const char *s = getenv(name);
	char *end;
	if (!s || *s < '0' || *s > '9') return -1;
	long n = strtol(s, &end, 10);
	return *end || n > 1 << 24 ? -1 : (int)n;
}

static bool
find_rank(Place *at, const char *self, const GvrtProgram *p, Err *e)
{
	const char *command = "mpirun -n";
	at->rank = 0;
	at->size = 1;
	for (size_t i = 0; i < RT_COUNTOF(launchers); i++) {
		int rank = env_int(launchers[i].rank), size = env_int(launchers[i].size);
		if (rank < 0 || size < 1) continue;
		if (rank >= size)
			return rt_fail(
			    e, "%s is %d and %s is %d: a rank is below the number of ranks",
			    launchers[i].rank, rank, launchers[i].size, size);
		at->rank = rank;
		at->size = size;
		command = launchers[i].command;
		break;
	}
	if (at->size == p->ranks) return true;
	int dir = 0;
	for (int i = 0; self[i]; i++)
		if (self[i] == '/') dir = i + 1;
	return rt_fail(
	    e, "%s is compiled for %d rank%s, and %d %s started; run: %s %d %.*sstage_%s",
	    p->model, p->ranks, p->ranks == 1 ? "" : "s", at->size,
	    at->size == 1 ? "was" : "were", command, p->ranks, dir, self,
	    p->stages == 1 ? "0" : "*");
}

/* "…/stage_12" -> 12; -1: not the path of a stage. */
static int
stage_number(const char *path)
{
	const char *base = strrchr(path, '/');
	base = base ? base + 1 : path;
	if (strncmp(base, "stage_", 6) != 0 || base[6] < '0' || base[6] > '9') return -1;
	char *end;
	long n = strtol(base + 6, &end, 10);
	return *end || n > 1 << 20 ? -1 : (int)n;
}

int
launch_paths(int argc, char *const *argv)
{
	int n = 0;
	while (n + 1 < argc && argv[n + 1][0] != '-' && stage_number(argv[n + 1]) >= 0)
		n++;
	return n;
}

/* Cores of this process: its affinity, and the quota of its control group. */
static int
count_cpus(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof set, &set) == 0
		    ? CPU_COUNT(&set)
		    : (int)sysconf(_SC_NPROCESSORS_ONLN);
	FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
	if (f) {
		long long quota, period;
		if (fscanf(f, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0) {
			long long cores = (quota + period - 1) / period;
			if (cores < n) n = cores < 1 ? 1 : (int)cores;
		}
		fclose(f);
	}
	return n < 1 ? 1 : n;
}

/* Debian's OpenBLAS 0.3.21 falls back to SSE3 on processors it does not know by name: say what this one can do. */
static const char *
core_type(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
	    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
		return "SKYLAKEX";
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return __builtin_cpu_is("amd") ? "ZEN" : "HASWELL";
#endif
	return NULL; /* OpenBLAS knows better */
}

/* Sets a variable the user has not; true if that changed anything. */
static bool
set_default(const char *name, const char *value)
{
	const char *old = getenv(name);
	return !(old && *old) && value && setenv(name, value, 1) == 0;
}

/* The environment of the compute libraries; true if it is not the one this process was started with. */
static bool
prepare(Place *at, const Options *o, const GvrtProgram *p)
{
	char n[16];
	bool changed = false;
	int user = env_int("OMP_NUM_THREADS");
	at->cpus = count_cpus();
	at->threads = o->threads       ? (int)o->threads
		      : user > 0       ? user
		      : p->threads > 0 ? p->threads
				       : at->cpus;
	if (user != at->threads) {
		snprintf(n, sizeof n, "%d", at->threads);
		changed |= setenv("OMP_NUM_THREADS", n, 1) == 0;
	}
	/* Pinning fewer threads than cores would put two programs on the same ones; spinning on more steals from the rest. */
	if (at->threads == at->cpus && at->threads > 1)
		changed |= set_default("OMP_PROC_BIND", "close");
	if (at->threads > at->cpus) changed |= set_default("OMP_WAIT_POLICY", "passive");
	changed |= set_default("OPENBLAS_CORETYPE", core_type());
	return changed;
}

/* Replaces this process; returns only if that failed. */
static bool
execute(const char *path, const char *name, int npaths, char *const *argv, int stage,
	const GvrtProgram *p, Err *e)
{
	char guard[64];
	snprintf(guard, sizeof guard, "%016llx/%d", (unsigned long long)p->plan_hash, stage);
	setenv(GUARD, guard, 1);
	/* argv without the other stages' paths: shifted in place, it ends with NULL. */
	char **args = (char **)(uintptr_t)argv;
	for (int i = 1;; i++) {
		args[i] = args[i + npaths];
		if (!args[i]) break;
	}
	args[0] = (char *)(uintptr_t)name;
	execv(path, args);
	return rt_fail(e, "cannot execute %s: %s", path, strerror(errno));
}

bool
launch(Place *at, int npaths, char *const *paths, char *const *argv, const Options *o,
       const GvrtProgram *p, Err *e)
{
	char self[64];
	const char *guard = getenv(GUARD);
	if (!find_rank(at, argv[0], p, e)) return false;
	snprintf(self, sizeof self, "%016llx/%d", (unsigned long long)p->plan_hash, p->stage);
	bool changed = prepare(at, o, p);
	if (guard) {
		/* The second start: whatever is still different stays so. */
		bool same = !strcmp(guard, self);
		rt_fail(e,
			"%s is stage and plan %s, and %s was expected: build all stages again",
			argv[0], self, guard);
		unsetenv(GUARD);
		return same;
	}
	/* Stages hold equal numbers of ranks, in order of rank. */
	int stage = p->stages > 1 ? (int)((int64_t)at->rank * p->stages / p->ranks) : p->stage;
	if (stage != p->stage) {
		for (int i = 0; i < npaths; i++)
			if (stage_number(paths[i]) == stage)
				return execute(paths[i], paths[i], npaths, argv, stage, p, e);
		return rt_fail(e,
			       "rank %d runs stage %d, and no path given here ends in stage_%d",
			       at->rank, stage, stage);
	}
	if (!changed || !options_switch("GVRT_LAUNCH", true)) return true;
	return execute("/proc/self/exe", argv[0], npaths, argv, stage, p, e);
}

extern char *openblas_get_corename(void) __attribute__((weak));

const char *
launch_core(void)
{
	return openblas_get_corename ? openblas_get_corename() : NULL;
}

const char *
launch_better_core(void)
{
	const char *core = launch_core(), *best = core_type();
	if (!core || !best || strcmp(best, "SKYLAKEX") != 0) return NULL;
	return strcasecmp(core, "Haswell") == 0 || strcasecmp(core, "Zen") == 0 ||
		       strcasecmp(core, "Prescott") == 0
		   ? best
		   : NULL;
}
