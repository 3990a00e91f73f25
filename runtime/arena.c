/*
 * arena.c - the only place of the runtime that asks the system for memory: the program's arena, of the size the
 * compiler computed, and a pool for what the runtime itself keeps (file tables, names, buffers), sealed before the first step.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "gvrt_int.h"

enum { POOL_BLOCK = 1 << 20, POOL_ALIGN = 64, HUGE_PAGE = 2 << 20 };

typedef struct PoolBlock {
	struct PoolBlock *next;
	size_t bytes, used;
} PoolBlock;

static void *
map(size_t bytes)
{
	void *at =
	    mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return at == MAP_FAILED ? NULL : at;
}

void *
pool_alloc(Pool *pool, size_t bytes)
{
	if (pool->sealed) {
		rt_error("internal error: %zu bytes asked for after the first step began",
			 bytes);
		abort();
	}
	size_t want = bytes + POOL_ALIGN < bytes
			  ? SIZE_MAX
			  : (bytes + POOL_ALIGN) / POOL_ALIGN * POOL_ALIGN;
	PoolBlock *b = pool->blocks;
	if (!b || b->bytes - b->used < want) {
		size_t size = want > POOL_BLOCK / 2 ? want + POOL_ALIGN : POOL_BLOCK;
		b = size < want ? NULL : map(size);
		if (!b) {
			rt_error("out of memory: cannot allocate %zu bytes: %s", bytes,
				 strerror(ENOMEM));
			exit(1);
		}
		b->bytes = size;
		b->used = POOL_ALIGN;
		b->next = pool->blocks;
		pool->blocks = b;
	}
	void *at = (unsigned char *)b + b->used;
	b->used += want;
	return at;
}

void
pool_seal(Pool *pool)
{
	pool->sealed = true;
}

void
pool_free(Pool *pool)
{
	while (pool->blocks) {
		PoolBlock *b = pool->blocks;
		pool->blocks = b->next;
		munmap(b, b->bytes);
	}
	pool->sealed = false;
}

/* A number in a file of /proc or /sys: the one after `key`, or the first; -1: none. */
static int64_t
read_number(const char *path, const char *key)
{
	char line[256];
	int64_t n = -1;
	FILE *f = fopen(path, "r");
	if (!f) return -1;
	while (n < 0 && fgets(line, sizeof line, f)) {
		size_t k = strlen(key);
		if (strncmp(line, key, k) != 0) continue;
		char *end;
		long long x = strtoll(line + k, &end, 10);
		if (end != line + k && x >= 0) n = x;
	}
	fclose(f);
	return n;
}

/* Bytes this process could still touch before the machine, or its control group, kills it; -1: cannot tell. */
static int64_t
available(void)
{
	int64_t free_kib = read_number("/proc/meminfo", "MemAvailable:");
	int64_t swap_kib = read_number("/proc/meminfo", "SwapFree:");
	int64_t bytes = free_kib < 0 ? -1 : (free_kib + (swap_kib > 0 ? swap_kib : 0)) * 1024;
	int64_t limit = read_number("/sys/fs/cgroup/memory.max", "");
	int64_t used = read_number("/sys/fs/cgroup/memory.current", "");
	int64_t cache = read_number("/sys/fs/cgroup/memory.stat", "inactive_file ");
	if (limit >= 0 && used >= 0) {
		int64_t rest = limit - used + (cache > 0 ? cache : 0);
		if (rest < 0) rest = 0;
		if (bytes < 0 || rest < bytes) bytes = rest;
	}
	return bytes;
}

/*
 * A system that overcommits grants any mapping and kills the process later, at the first touch that fails: so the need is
 * compared with what is available first. GVRT_OVERCOMMIT=1 leaves it to the system.
 */
bool
arena_fits(int64_t bytes, int64_t together, Err *e)
{
	int64_t have = available();
	if (bytes < 0 || (uint64_t)bytes > SIZE_MAX - HUGE_PAGE)
		return rt_fail(
		    e, "the program's arena of %lld bytes does not fit an address space",
		    (long long)bytes);
	if (have < 0 || together <= have || options_switch("GVRT_OVERCOMMIT", false))
		return true;
	if (together > bytes)
		return rt_fail(e,
			       "the ranks of this node need arenas of %s together, and %s of "
			       "memory are available; GVRT_OVERCOMMIT=1 tries all the same",
			       rt_bytes(together).s, rt_bytes(have).s);
	return rt_fail(e,
		       "the program needs an arena of %s (%s bytes), and %s of memory are "
		       "available; GVRT_OVERCOMMIT=1 tries all the same",
		       rt_bytes(bytes).s, rt_count(bytes).s, rt_bytes(have).s);
}

void
arena_touch(unsigned char *at, int64_t bytes)
{
	if (options_switch("GVRT_HUGE_PAGES", true) && bytes >= HUGE_PAGE)
		madvise(at, (size_t)bytes, MADV_HUGEPAGE);
	OMP(omp parallel for schedule(static))
	for (int64_t i = 0; i < bytes; i += 4096)
		at[i] = 0;
}

unsigned char *
arena_map(int64_t bytes, int64_t together, Err *e)
{
	if (!arena_fits(bytes, together, e)) return NULL;
	/* Room to start at a huge page: the arena is the program's whole working set. */
	size_t size =
	    bytes >= HUGE_PAGE ? (size_t)bytes + HUGE_PAGE : (size_t)bytes + POOL_ALIGN;
	unsigned char *at = map(size);
	if (!at) {
		rt_fail(e, "cannot allocate the program's arena of %s (%s bytes): %s",
			rt_bytes(bytes).s, rt_count(bytes).s, strerror(errno));
		return NULL;
	}
	if (bytes >= HUGE_PAGE)
		at = (unsigned char *)(((uintptr_t)at + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
	arena_touch(at, bytes);
	return at;
}
