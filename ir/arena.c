/*
 * arena.c - bump arenas: the only place of the compiler that allocates.
 *
 * An arena is a list of blocks, newest first; objects are handed out from the newest. Every byte is zero when handed
 * out. Invariant: block.used is a multiple of ALIGN, so every object is aligned. With -DGV_HARD each object is a block
 * of its own, so that address sanitisers see its bounds (after lcc's PURIFY build).
 */
#include "ir/base.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16, FIRST_BYTES = 16 << 10, BLOCK_BYTES = 1 << 20 };

typedef struct Block Block;
struct Block {
	Block *next;
	size_t used, cap; /* bytes of the payload, which follows the header */
};

/* The header is padded so that the payload keeps the alignment of malloc. */
#define HEAD_BYTES ((sizeof(Block) + ALIGN - 1) / ALIGN * ALIGN)

struct Arena {
	Block *blocks;
	size_t bytes;
};

static void *
must(void *p)
{
	if (!p) {
		fprintf(stderr, "galvatronc: out of memory\n");
		exit(1);
	}
	return p;
}

Arena *
arena_new(void)
{
	return must(calloc(1, sizeof(Arena)));
}

void
arena_reset(Arena *a)
{
	Block *next;

	for (Block *b = a->blocks; b; b = next) {
		next = b->next;
		free(b);
	}
	a->blocks = NULL;
	a->bytes = 0;
}

void
arena_free(Arena *a)
{
	if (!a) return;
	arena_reset(a);
	free(a);
}

/* Opens a block of at least `bytes`. An object too big for the usual block (it would take a quarter of it) gets one of its own BEHIND the current
 * block, whose free rest stays in use. */
static Block *
add_block(Arena *a, size_t bytes)
{
	/* as much again as there is: what is used for a moment is not cleared by the megabyte */
	size_t usual = a->bytes < FIRST_BYTES   ? FIRST_BYTES
		       : a->bytes < BLOCK_BYTES ? a->bytes
						: BLOCK_BYTES;
	bool own = a->blocks && bytes > usual / 4;
#ifdef GV_HARD
	size_t cap = bytes;
#else
	size_t cap = own || bytes > usual ? bytes : usual;
#endif
	Block *b;

	if (cap > SIZE_MAX - HEAD_BYTES) must(NULL);
	b = must(calloc(1, HEAD_BYTES + cap));
	b->cap = cap;
	if (own) {
		b->next = a->blocks->next;
		a->blocks->next = b;
	} else {
		b->next = a->blocks;
		a->blocks = b;
	}
	return b;
}

void *
arena_alloc(Arena *a, size_t bytes)
{
	Block *b = a->blocks;
	void *p;

	if (bytes > SIZE_MAX / 2) must(NULL);
#ifdef GV_HARD
	b = NULL; /* and no rounding: the byte after the object is out of bounds */
#else
	bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
#endif
	if (!b || b->cap - b->used < bytes) b = add_block(a, bytes);
	p = (char *)b + HEAD_BYTES + b->used;
	b->used += bytes;
	a->bytes += bytes;
	return p;
}

void *
arena_dup(Arena *a, const void *src, size_t bytes)
{
	void *p = arena_alloc(a, bytes);

	if (bytes) memcpy(p, src, bytes);
	return p;
}

/* Always moves, even where the array could grow in place: two copies of one vector (a Body copied by value) must
 * never come to share what either appends. */
void *
arena_grow(Arena *a, const void *old, size_t old_n, size_t new_n, size_t elem_bytes)
{
	void *p;

	if (elem_bytes && new_n > SIZE_MAX / elem_bytes) must(NULL);
	p = arena_alloc(a, new_n * elem_bytes);
	if (old_n) memcpy(p, old, old_n * elem_bytes);
	return p;
}

size_t
arena_bytes(const Arena *a)
{
	return a->bytes;
}
