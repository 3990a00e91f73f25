/*
 * intern.c - strings <-> Name. Open addressing over a table of numbers, at most half full.
 * Invariant: names are numbered in order of first use, so nothing depends on hash order.
 */
#include "ir/base.h"

#include <string.h>

typedef struct Entry {
	const char *s; /* NUL-terminated */
	size_t n;
	uint64_t hash;
} Entry;

struct Names {
	Arena *arena;
	Entry *entries; /* [1..n) */
	uint32_t n, cap;
	Name *slots; /* [nslots], a power of two; 0 = free */
	uint32_t nslots;
};

enum { FIRST_SLOTS = 256 };

Names *
names_new(Arena *a)
{
	Names *t = NEW(a, Names);

	t->arena = a;
	t->nslots = FIRST_SLOTS;
	t->slots = NEW_N(a, Name, t->nslots);
	PUSH(a, t->entries, t->n, t->cap, ((Entry){.s = ""})); /* name 0 */
	return t;
}

/* The slot that holds the string, or the free one where it belongs. */
static Name *
find_slot(const Names *t, const char *s, size_t n, uint64_t hash)
{
	uint32_t mask = t->nslots - 1;

	for (uint32_t i = (uint32_t)hash & mask;; i = (i + 1) & mask) {
		const Entry *e = &t->entries[t->slots[i]];

		if (!t->slots[i]) return &t->slots[i];
		if (e->hash == hash && e->n == n && memcmp(e->s, s, n) == 0)
			return &t->slots[i];
	}
}

static void
grow_slots(Names *t)
{
	t->nslots *= 2;
	t->slots = NEW_N(t->arena, Name, t->nslots);
	for (Name k = 1; k < t->n; k++) {
		const Entry *e = &t->entries[k];

		*find_slot(t, e->s, e->n, e->hash) = k;
	}
}

Name
name_of_n(Names *t, const char *s, size_t n)
{
	uint64_t hash = hash_bytes(s, n, 0);
	Name *slot;
	char *copy;

	if (n == 0) return 0;
	slot = find_slot(t, s, n, hash);
	if (*slot) return *slot;
	if (t->n >= t->nslots / 2) {
		grow_slots(t);
		slot = find_slot(t, s, n, hash);
	}
	copy = arena_alloc(t->arena, n + 1);
	memcpy(copy, s, n);
	*slot = t->n;
	PUSH(t->arena, t->entries, t->n, t->cap, ((Entry){copy, n, hash}));
	return t->n - 1;
}

Name
name_of(Names *t, const char *s)
{
	return name_of_n(t, s, strlen(s));
}

Name
name_fmt(Names *t, const char *fmt, ...)
{
	char small[256], *s = small;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(small, sizeof(small), fmt, ap);
	va_end(ap);
	ENSURE(n >= 0, "name_fmt: bad format");
	if ((size_t)n >= sizeof(small)) {
		s = arena_alloc(t->arena, (size_t)n + 1);
		va_start(ap, fmt);
		vsnprintf(s, (size_t)n + 1, fmt, ap);
		va_end(ap);
	}
	return name_of_n(t, s, (size_t)n);
}

const char *
name_str(const Names *t, Name name)
{
	ENSURE(name < t->n, "name %u of %u", name, t->n);
	return t->entries[name].s;
}
