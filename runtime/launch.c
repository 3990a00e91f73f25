/*
 * launch.c - who this process is among the ranks, and the environment it must have before OpenMP and the BLAS start.
 *
 * Both read the environment when they are loaded, which is before main(): so where a setting is missing the program sets
 * it and executes itself once more. The same execution brings a rank to its own stage: the shell hands every rank the paths
 * of all stages ("mpirun build/stage_*"), and a rank picks its own by number, never by order (10 sorts before 2).
 *
 * What is wrong is said once. All ranks see the same mistake, so rank 0 speaks and the others wait for the launcher to end
 * them; a mistake that only some see is said by the first of them that gets to it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "gvrt_int.h"

/* Set by the execution before: "plan hash/stage/first rank" that this program must be. */
#define GUARD "GVRT_LAUNCHED"

/* Rank and size as launchers say it, in order of preference: an inner launcher before an outer one. */
static const struct {
	const char *rank, *size, *local, *locals, *command;
} launchers[] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE", "mpirun -n"},
    {"PMIX_RANK", "PMIX_SIZE", "PMIX_LOCAL_RANK", "PMIX_LOCAL_SIZE", "mpirun -n"},
    {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "mpirun -n"},
    {"PMIX_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE",
     "srun -n"},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE",
     "srun -n"},
    {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_TASKS_PER_NODE", "srun -n"},
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

/* The number an environment variable begins with: Slurm says "4(x2)" for two machines of four; -1. */
static int
env_first_int(const char *name)
{
	const char *s = getenv(name);
	return s && *s >= '0' && *s <= '9' ? atoi(s) : -1;
}

bool
launch_rank(Place *at, Err *e)
{
	*at = (Place){.size = 1, .locals = 1, .command = "mpirun -n"};
	for (size_t i = 0; i < RT_COUNTOF(launchers); i++) {
		int rank = env_int(launchers[i].rank), size = env_int(launchers[i].size);
		int local = env_int(launchers[i].local);
		int locals = env_first_int(launchers[i].locals);
		if (rank < 0 || size < 1) continue;
		if (rank >= size)
			return rt_fail(
			    e, "%s is %d and %s is %d: a rank is below the number of ranks",
			    launchers[i].rank, rank, launchers[i].size, size);
		at->rank = rank;
		at->size = size;
		at->locals = locals < 1 || locals > size ? size : locals;
		at->local = local < 0 || local >= at->locals ? rank % at->locals : local;
		at->command = launchers[i].command;
		at->launched = true;
		break;
	}
	return true;
}

int
launch_refuse(const Place *at, const Err *e)
{
	/* Time for who speaks first, and for the launcher to end the others. */
	if (at->rank > 0) {
		int ms = at->speaks ? 150 * (at->stage < 10 ? at->stage : 10) : 3000;
		struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
		nanosleep(&t, NULL);
	}
	if (e->text[0]) rt_error("%s", e->text);
	return 2;
}

/* Cores of a process (0: this one): its affinity, and the quota of its control group. */
static int
count_cpus(pid_t pid)
{
	cpu_set_t set;
	int n = sched_getaffinity(pid, sizeof set, &set) == 0
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

static bool
check_size(const Place *at, const char *self, const GvrtProgram *p, Err *e)
{
	int dir = 0;
	/* What Open MPI wants of root, and of more ranks than cores, if it was not given already. */
	bool root = !at->launched && geteuid() == 0 && p->ranks > 1;
	bool many = !at->launched && p->ranks > count_cpus(0);
	if (at->size == p->ranks) return true;
	for (int i = 0; self[i]; i++)
		if (self[i] == '/') dir = i + 1;
	return rt_fail(
	    e, "%s is compiled for %d rank%s, and %d %s started; run: %s%s%s %d %.*sstage_%s",
	    p->model, p->ranks, p->ranks == 1 ? "" : "s", at->size,
	    at->size == 1 ? "was" : "were", root ? "mpirun --allow-run-as-root" : at->command,
	    many ? " --oversubscribe" : "", root ? " -n" : "", p->ranks, dir, self,
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

/*
 * The cores this rank shares with nobody: cores [local * n, ...) of those of the launcher, whose own binding (Open MPI binds each of
 * two ranks to one core) would leave threads on top of each other. False: there are not as many.
 */
static bool
own_cores(const Place *at, int n)
{
	cpu_set_t all, own;
	int skip = at->local * n, have = 0;
	CPU_ZERO(&own);
	if (sched_getaffinity(getppid(), sizeof all, &all) != 0 ||
	    CPU_COUNT(&all) < n * at->locals)
		return false;
	for (int i = 0; i < CPU_SETSIZE && have < n; i++) {
		if (!CPU_ISSET(i, &all) || skip-- > 0) continue;
		CPU_SET(i, &own);
		have++;
	}
	return sched_setaffinity(0, sizeof own, &own) == 0;
}

/* Several ranks on this machine: each gets its share of the cores. Returns the threads of one if nobody says otherwise. */
static int
share_cores(Place *at)
{
	int mine = count_cpus(0), all = count_cpus(getppid());
	if (all < mine) all = mine;
	/* Fewer than the launcher has: it has bound this rank, to a share already. */
	return mine < all && mine * at->locals >= all ? mine
	       : all / at->locals > 0                 ? all / at->locals
						      : 1;
}

/* Open MPI's own waits, while starting and ending, give way too; it takes 4 MiB a rank of /dev/shm for messages. */
static void
prepare_mpi(const Place *at)
{
	struct statvfs shm;
	set_default("OMPI_MCA_mpi_yield_when_idle", "1");
	if (statvfs("/dev/shm", &shm) != 0 ||
	    (int64_t)shm.f_bavail * (int64_t)shm.f_frsize >= (int64_t)at->locals * (6 << 20))
		return;
	if (set_default("OMPI_MCA_btl", "self,tcp") && at->rank == 0)
		rt_note("/dev/shm is too small or full: messages of MPI go over TCP");
}

/* The environment of the compute libraries; true if it is not the one this process was started with. */
static bool
prepare(Place *at, const Options *o, const GvrtProgram *p)
{
	char n[16];
	bool changed = false, alone = at->size == 1,
	     again = options_switch("GVRT_LAUNCH", true);
	int user = env_int("OMP_NUM_THREADS");
	at->cpus = alone ? count_cpus(0) : share_cores(at);
	at->threads = o->threads       ? (int)o->threads
		      : user > 0       ? user
		      : p->threads > 0 ? p->threads
				       : at->cpus;
	if (user != at->threads) {
		snprintf(n, sizeof n, "%d", at->threads);
		changed |= setenv("OMP_NUM_THREADS", n, 1) == 0;
	}
	bool own = !alone && again && own_cores(at, at->threads);
	/* Pinning fewer threads than cores would put two programs on the same ones; spinning on more steals from the rest. */
	if (at->threads > 1 && (alone ? at->threads == at->cpus : own))
		changed |= set_default("OMP_PROC_BIND", "close");
	if (alone ? at->threads > at->cpus : !own)
		changed |= set_default("OMP_WAIT_POLICY", "passive");
	if (!alone) prepare_mpi(at);
	changed |= set_default("OPENBLAS_CORETYPE", core_type());
	return changed;
}

/* Replaces this process; returns only if that failed. */
static bool
execute(const char *path, const char *name, int npaths, char *const *argv, int stage,
	const GvrtProgram *p, Err *e)
{
	char guard[96];
	snprintf(guard, sizeof guard, "%016llx/%d/%d", (unsigned long long)p->plan_hash, stage,
		 p->stage_ranks ? p->stage_ranks[stage].rank : 0);
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

/* The stage that a rank belongs to. */
static int
stage_of(const GvrtProgram *p, int rank)
{
	int stage = 0;
	if (!p->stage_ranks) return p->stage;
	while (stage + 1 < p->stages && p->stage_ranks[stage + 1].rank <= rank)
		stage++;
	return stage;
}

/* The path of a stage: one of those given, or beside this program. False: there is none. */
static bool
find_stage(char path[RT_PATH], int stage, int npaths, char *const *paths, const char *self)
{
	const char *slash = strrchr(self, '/');
	int dir = slash ? (int)(slash + 1 - self) : 0;
	for (int i = 0; i < npaths; i++)
		if (stage_number(paths[i]) == stage &&
		    snprintf(path, RT_PATH, "%s", paths[i]) < RT_PATH)
			return access(path, X_OK) == 0;
	return stage_number(self) >= 0 &&
	       snprintf(path, RT_PATH, "%.*sstage_%d", dir, self, stage) < RT_PATH &&
	       access(path, X_OK) == 0;
}

/* Rank 0 looks for all stages, the others for their own. */
static bool
check_stages(const Place *at, int own, int npaths, char *const *paths, const char *self,
	     const GvrtProgram *p, Err *e)
{
	char path[RT_PATH];
	for (int k = 0; k < p->stages; k++) {
		if (k == p->stage || (at->rank != 0 && k != own)) continue;
		if (find_stage(path, k, npaths, paths, self)) continue;
		int first = p->stage_ranks[k].rank, last = first + p->stage_ranks[k].ranks - 1;
		char ranks[48];
		snprintf(ranks, sizeof ranks,
			 first == last ? "rank %d runs" : "ranks %d-%d run", first, last);
		return rt_fail(e,
			       "%s stage %d of %s, and there is no program stage_%d among "
			       "those given here or beside %s",
			       ranks, k, p->model, k, self);
	}
	return true;
}

/* Whether this program is what the execution before was looking for. Of a stage that is not, the first rank says so. */
static bool
is_expected(Place *at, const char *guard, const char *path, const GvrtProgram *p, Err *e)
{
	unsigned long long hash = 0;
	int first = 0;
	if (sscanf(guard, "%llx/%d/%d", &hash, &at->stage, &first) == 3 &&
	    hash == p->plan_hash && at->stage == p->stage)
		return true;
	at->speaks = at->rank == first;
	return rt_fail(e,
		       "%s is stage %d of plan %016llx, and stage %d of plan %016llx was "
		       "expected: build all stages again",
		       path, p->stage, (unsigned long long)p->plan_hash, at->stage, hash);
}

bool
launch(Place *at, int npaths, char *const *paths, char *const *argv, const Options *o,
       const GvrtProgram *p, Err *e)
{
	char path[RT_PATH];
	const char *guard = getenv(GUARD);
	if (guard && !is_expected(at, guard, argv[0], p, e)) return false;
	if (!check_size(at, argv[0], p, e)) return false;
	bool changed = prepare(at, o, p);
	if (guard) { /* the second start: whatever is still different stays so */
		unsetenv(GUARD);
		return true;
	}
	int stage = stage_of(p, at->rank);
	if (!check_stages(at, stage, npaths, paths, argv[0], p, e)) return false;
	if (stage != p->stage)
		return find_stage(path, stage, npaths, paths, argv[0]) &&
		       execute(path, path, npaths, argv, stage, p, e);
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
