/*
 * watch.c - the ranks of a node watch each other: each has a page in shared memory with its process number and a counter that a
 * helper thread moves on ten times a second. A process that is gone, or a counter that stands still, is a line that names
 * the rank, and the end of the job. Ranks that die of a signal of their own say so themselves.
 *
 * Shared memory is a memfd, which no size of /dev/shm limits: a process of the same user maps it by /proc/PID/fd/N.
 * Time is counted in wake-ups of the watcher, so a node that was stopped as a whole does not accuse anyone.
 */
#ifdef GVRT_MPI
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create */
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "comm.h"

enum { TICK_MS = 100, DEFAULT_TIMEOUT_S = 4, LABEL = 128, PAGE = 4096 };

typedef struct Page {
	uint64_t magic;
	int32_t pid, rank, stage;
	_Atomic uint32_t beat;
	_Atomic uint32_t done;     /* leaves in order: no longer watched */
	_Atomic uint32_t reported; /* someone says it already */
	_Atomic uint32_t dying;    /* a signal, which it reports itself */
	char label[LABEL];         /* what it is doing */
} Page;

typedef struct Watch {
	Comm *c;
	Page *own, **page; /* of the node's ranks */
	uint32_t *beat;    /* last seen */
	int *still;        /* ticks since */
	int timeout;       /* ticks; 0: off */
	pthread_t thread;
	_Atomic bool stop;
	bool running;
} Watch;

static Watch *the_watch; /* for signal handlers */
static const char *volatile doing;

void
watch_label(const char *label)
{
	doing = label;
}

/* ---- shared memory ---- */

int
share_make(const char *name, int64_t bytes, Err *e)
{
	int fd = memfd_create(name, MFD_CLOEXEC);
	if (fd >= 0 && ftruncate(fd, bytes) == 0) return fd;
	rt_fail(e, "cannot make shared memory: %s", strerror(errno));
	if (fd >= 0) close(fd);
	return -1;
}

void *
share_map(int pid, int fd, int64_t bytes, Err *e)
{
	char path[64];
	struct stat st;
	void *at = MAP_FAILED;
	snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
	int f = open(path, O_RDWR | O_CLOEXEC);
	if (f >= 0 && fstat(f, &st) == 0 && st.st_size == bytes)
		at = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
	if (at == MAP_FAILED)
		rt_fail(e, "cannot map the memory of process %d: %s", pid,
			f >= 0 && !errno ? "it is another process" : strerror(errno));
	if (f >= 0) close(f);
	return at == MAP_FAILED ? NULL : at;
}

/* ---- the helper thread ---- */

/* Only the first to find out speaks. */
static bool
first_to_say(Page *p)
{
	uint32_t none = 0;
	return atomic_compare_exchange_strong(&p->reported, &none, 1);
}

static void
look_at(Watch *w, int i)
{
	Page *p = w->page[i];
	uint32_t beat = atomic_load(&p->beat);
	if (p == w->own || atomic_load(&p->done)) return;
	bool gone = kill(p->pid, 0) != 0 && errno == ESRCH;
	if (gone && !atomic_load(&p->done) && first_to_say(p)) {
		if (!atomic_load(&p->dying))
			rt_error("rank %d (stage %d) is gone: it was killed, or left without a "
				 "word; the job ends",
				 p->rank, p->stage);
		comm_abort(1);
	}
	w->still[i] = beat == w->beat[i] ? w->still[i] + 1 : 0;
	w->beat[i] = beat;
	if (!w->timeout || w->still[i] < w->timeout || gone) return;
	if (!first_to_say(p)) return;
	rt_error("rank %d (stage %d, process %d) has not moved for %d seconds: it is stopped, "
		 "or its machine is; the job ends",
		 p->rank, p->stage, p->pid, w->timeout * TICK_MS / 1000);
	kill(p->pid, SIGKILL); /* a stopped process would not hear anything else */
	comm_abort(1);
}

static void *
watch_thread(void *arg)
{
	Watch *w = arg;
	const struct timespec tick = {0, TICK_MS * 1000000L};
	while (!atomic_load(&w->stop)) {
		atomic_fetch_add(&w->own->beat, 1);
		for (int i = 0; i < w->c->node_size; i++)
			look_at(w, i);
		nanosleep(&tick, NULL);
	}
	return NULL;
}

/* ---- the last words of this rank ---- */

static void
on_fatal(int sig)
{
	const Watch *w = the_watch;
	const char *label = doing;
	if (w && w->own) atomic_store(&w->own->dying, (uint32_t)sig);
	if (w && (!w->own || first_to_say(w->own)))
		rt_error("rank %d (stage %d) died of signal %d (%s)%s%s", w->c->rank,
			 w->c->stage, sig, sigdescr_np(sig) ? sigdescr_np(sig) : "unknown",
			 label ? ", waiting in " : "", label ? label : "");
	raise(sig); /* the handler is off by now */
}

static void
catch_fatal(void)
{
	static const int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
	struct sigaction a = {.sa_handler = on_fatal, .sa_flags = (int)SA_RESETHAND};
	for (size_t i = 0; i < RT_COUNTOF(sigs); i++)
		sigaction(sigs[i], &a, NULL);
}

/* ---- start and stop ---- */

static int
timeout_ticks(void)
{
	const char *s = getenv("GVRT_TIMEOUT");
	double seconds = s && *s ? strtod(s, NULL) : DEFAULT_TIMEOUT_S;
	if (seconds <= 0) return 0;
	return seconds < 1e6 ? (int)(seconds * 1000 / TICK_MS) + 1 : 0;
}

typedef struct Card { /* what the ranks of a node tell each other */
	int32_t pid, fd;
	uint64_t magic;
} Card;

bool
watch_start(Comm *c, Pool *pool, Err *e)
{
	Watch *w = POOL_N(pool, Watch, 1);
	Card mine = {(int32_t)getpid(), -1, 0}, *all = POOL_N(pool, Card, c->node_size);
	sigset_t every, old;
	bool ok = true;
	w->c = c;
	w->timeout = timeout_ticks();
	w->page = POOL_N(pool, Page *, c->node_size);
	w->beat = POOL_N(pool, uint32_t, c->node_size);
	w->still = POOL_N(pool, int, c->node_size);
	c->watch = the_watch = w;
	catch_fatal();
	mine.fd = share_make("gvrt-watch", PAGE, e);
	Page *own = mine.fd >= 0 ? share_map(mine.pid, mine.fd, PAGE, e) : NULL;
	if (own) {
		mine.magic = gvrt_key((uint64_t)mine.pid, "watch") ^ (uint64_t)(rt_now() * 1e9);
		*own = (Page){
		    .magic = mine.magic, .pid = mine.pid, .rank = c->rank, .stage = c->stage};
	}
	mpi_node_gather(c, &mine, sizeof mine, all);
	for (int i = 0; i < c->node_size && ok; i++) {
		w->page[i] =
		    c->node[i] == c->rank ? own : share_map(all[i].pid, all[i].fd, PAGE, e);
		ok = w->page[i] &&
		     (w->page[i]->magic == all[i].magic || rt_fail(e, "not one machine"));
	}
	bool same = mpi_same(c, ok) && ok;
	if (mine.fd >= 0) close(mine.fd); /* all have mapped it */
	if (!same) return false;
	w->own = own;
	sigfillset(&every);
	pthread_sigmask(SIG_BLOCK, &every, &old);
	w->running = pthread_create(&w->thread, NULL, watch_thread, w) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return w->running || rt_fail(e, "cannot start a thread");
}

void
watch_stop(Comm *c)
{
	Watch *w = c->watch;
	if (!w || !w->running) return;
	atomic_store(&w->own->done, 1);
	atomic_store(&w->stop, true);
	pthread_join(w->thread, NULL);
}
#else
typedef int watch_is_not_built;
#endif
