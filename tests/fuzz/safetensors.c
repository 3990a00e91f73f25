/*
 * safetensors.c - fuzzes the runtime's safetensors reader: whatever the bytes are, it accepts or refuses them with a
 * reason, and every element of an accepted file can be read.
 */
#include "runtime/arena.c"
#include "runtime/log.c"
#include "runtime/safetensors.c"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

bool
options_switch(const char *name, bool otherwise)
{
	(void)name;
	return otherwise;
}

/* The first and the last elements of an entry, as every kind of number. */
static void
read_some(const StFile *f, const StEntry *x)
{
	real r[8];
	int32_t i[8];
	unsigned char b[8];
	int64_t n = x->count < 8 ? x->count : 8;
	for (int end = 0; end < 2; end++) {
		int64_t first = end ? x->count - n : 0;
		st_read_real(f, x, first, n, r);
		st_read_i32(f, x, first, n, i);
		st_read_bool(f, x, first, n, b);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	Pool pool = {0};
	StFile f;
	Err e = {""};
	if (!st_parse(&f, &pool, bytes, n, "fuzz", &e)) {
		if (!e.text[0]) abort();
	} else {
		for (size_t i = 0; i < f.n; i++) {
			if (st_find(&f, f.entries[i].name) != &f.entries[i]) abort();
			read_some(&f, &f.entries[i]);
		}
		st_meta(&f, "step");
	}
	pool_free(&pool);
	return 0;
}
