/*
 * prof.c - fuzzes the reader of profiles.
 *
 * Any text may be refused, with a diagnostic. What is accepted prints as text that reads back and prints the same; every
 * time is found under its key and among its family, and nothing is found twice.
 */
#include <stdlib.h>
#include <string.h>

#include "ir/cluster.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void
look_up(const Profile *p)
{
	for (uint32_t i = 0; i < p->n; i++) {
		const KernelTime *t = profile_find(p, &p->time[i].key);
		uint32_t n;
		const KernelTime *family = profile_family(p, p->time[i].key.family, &n);
		if (t != &p->time[i] || !family || t < family || t >= family + n) abort();
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	Arena *a = arena_new();
	Names *names = names_new(a);
	Diag *d = diag_new(a, names, NULL);
	Buf first, second;
	buf_init(&first, a);
	buf_init(&second, a);
	Profile *p =
	    profile_parse(a, names, d, name_of(names, "fuzz.prof"), (const char *)bytes, n);
	if (!p && !diag_errors(d)) abort();
	if (p) {
		look_up(p);
		profile_print(p, names, &first);
		Profile *again =
		    profile_parse(a, names, d, name_of(names, "again.prof"), first.s, first.n);
		if (!again || again->n != p->n) abort();
		look_up(again);
		profile_print(again, names, &second);
		if (first.n != second.n || memcmp(first.s, second.s, first.n) != 0) abort();
	}
	arena_free(a);
	return 0;
}
