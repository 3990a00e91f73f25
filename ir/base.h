/*
 * base.h - what every part of the compiler stands on: memory, names, text, diagnostics.
 * Knows nothing of the IR. Errors that are the user's are diagnostics; errors that are ours are ICE().
 */
#ifndef GV_BASE_H
#define GV_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#if defined(__GNUC__)
#define GV_PRINTF(a, b) __attribute__((format(printf, a, b)))
#define GV_NORETURN     __attribute__((noreturn))
#else
#define GV_PRINTF(a, b)
#define GV_NORETURN
#endif

#define COUNTOF(a) (sizeof(a) / sizeof(*(a)))

/* ---- arena.c: bump arenas, the only place of the compiler that calls malloc ----
 * Memory is zeroed, aligned to 16 bytes, and freed all at once. Out of memory is one line and the end.
 * With -DGV_HARD every object is its own malloc, so that address sanitisers see each one. */
typedef struct Arena Arena;

Arena *arena_new(void);
void arena_reset(Arena *a); /* frees the contents, keeps the arena */
void arena_free(Arena *a);
void *arena_alloc(Arena *a, size_t bytes);
void *arena_dup(Arena *a, const void *src, size_t bytes);
/* Grows an arena array: copies old_n elements; returns the new one. Old memory stays valid until reset. */
void *arena_grow(Arena *a, const void *old, size_t old_n, size_t new_n, size_t elem_bytes);
size_t arena_bytes(const Arena *a); /* bytes in use, for --time */

#define NEW(arena, T)      ((T *)arena_alloc(arena, sizeof(T)))
#define NEW_N(arena, T, n) ((T *)arena_alloc(arena, sizeof(T) * (size_t)(n)))
/* Appends to an arena array kept as pointer p, count n, capacity cap. */
#define PUSH(arena, p, n, cap, value)                                    \
	do {                                                             \
		if ((n) == (cap)) {                                      \
			(cap) = (cap) ? (cap)*2 : 8;                     \
			(p) = arena_grow(arena, p, n, cap, sizeof *(p)); \
		}                                                        \
		(p)[(n)++] = (value);                                    \
	} while (0)

/* ---- intern.c: strings <-> Name; equality is ==; 0 is no name; numbered in order of first use ---- */
typedef uint32_t Name;
typedef struct Names Names;

Names *names_new(Arena *a);
Name name_of(Names *n, const char *s);
Name name_of_n(Names *n, const char *s, size_t len);
Name name_fmt(Names *n, const char *fmt, ...) GV_PRINTF(2, 3);
const char *name_str(const Names *n,
		     Name name); /* "" for 0; NUL-terminated, lives as long as the table */

/* ---- buf.c: growing text ---- */
typedef struct Buf {
	Arena *arena;
	char *s; /* always NUL-terminated once anything was written */
	size_t n, cap;
} Buf;

void buf_init(Buf *b, Arena *a);
void buf_printf(Buf *b, const char *fmt, ...) GV_PRINTF(2, 3);
void buf_vprintf(Buf *b, const char *fmt, va_list ap);
void buf_puts(Buf *b, const char *s);
void buf_putc(Buf *b, char c);
/* Shortest decimal that reads back bit-equal ("0.1", "1e-05", "inf"); integers without a point. */
void buf_double(Buf *b, double x);
/* "1,536", "124,439,808" */
void buf_count(Buf *b, int64_t n);
/* "1.50 GiB", "512 B" */
void buf_bytes(Buf *b, int64_t bytes);

/* Whole file into the arena, NUL-terminated, *n its length; NULL with errno set. At most max_bytes (EFBIG). */
char *file_read(Arena *a, const char *path, size_t max_bytes, size_t *n);
/* Writes aside (path + ".tmp~"), syncs, renames. False with errno set; nothing half-written is left under path. */
bool file_write(const char *path, const char *text, size_t n);
/* mkdir -p; false with errno set. */
bool dir_make(const char *path);
/* 64-bit content hash (FNV-1a folded with a finaliser); stable across machines and releases of format 1. */
uint64_t hash_bytes(const void *p, size_t n, uint64_t seed);

/* ---- diag.c: sources and diagnostics ----
 * A place is (file, line, col, len), all that a dump keeps of it ("!gpt.gdl:12:7+9"); when the source text of
 * `file` has been registered, the line is shown with carets. line 0 = no place. Columns and len count bytes, from 1. */
typedef struct Loc {
	Name file;
	uint32_t line, col, len;
} Loc;

typedef struct Diag Diag;

Diag *diag_new(Arena *a, Names *names,
	       FILE *out); /* out NULL: nothing is printed, the first error is kept */
/* Registers a source text under its display name (basename or path as typed). The text must outlive the Diag. */
void diag_source(Diag *d, Name file, const char *text, size_t n);
/* Byte offsets [lo, hi) of a registered source -> Loc (len is cut at the end of the line, at least 1). */
Loc diag_loc(const Diag *d, Name file, size_t lo, size_t hi);
/* "file:line:col: error: text", the source line, carets. Errors past the 20th are counted, not printed;
 * diag_stop() tells when to give up. A note belongs to the diagnostic before it. Text is lower case, no full stop. */
void diag_error(Diag *d, Loc at, const char *fmt, ...) GV_PRINTF(3, 4);
void diag_warn(Diag *d, Loc at, const char *fmt, ...) GV_PRINTF(3, 4);
void diag_note(Diag *d, Loc at, const char *fmt, ...) GV_PRINTF(3, 4);
int diag_errors(const Diag *d); /* how many errors so far */
const char *
diag_first(const Diag *d);     /* of a Diag that prints nothing: the first error's text, "" */
bool diag_stop(const Diag *d); /* 20 errors: stop */

/* Internal error: prints "internal error: pass P: text" with the current pass, then abort(). */
void ice_context(const char *pass); /* set by the pass runner; a static string */
GV_NORETURN void ice(const char *file, int line, const char *fmt, ...) GV_PRINTF(3, 4);
#define ICE(...) ice(__FILE__, __LINE__, __VA_ARGS__)
#define ENSURE(cond, ...)                      \
	do {                                   \
		if (!(cond)) ICE(__VA_ARGS__); \
	} while (0)

#endif
