/*
 * base.c - ir/base.h: arenas, names, text, files, diagnostics.
 */
#include "ir/base.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int checks;

#define CHECK(cond)                                                             \
	do {                                                                    \
		checks++;                                                       \
		if (!(cond)) {                                                  \
			printf("base: %s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1);                                                \
		}                                                               \
	} while (0)

static void
check_text(const char *got, const char *want)
{
	checks++;
	if (strcmp(got, want) == 0) return;
	printf("base: got\n%s\nwant\n%s\n", got, want);
	exit(1);
}

static void
test_arena(void)
{
	Arena *a = arena_new();
	int *v = NULL;
	uint32_t n = 0, cap = 0;

	for (size_t bytes = 1; bytes < 1 << 22; bytes = bytes * 3 / 2 + 1) {
		unsigned char *p = arena_alloc(a, bytes);

		CHECK((uintptr_t)p % 16 == 0);
		CHECK(p[0] == 0 && p[bytes / 2] == 0 && p[bytes - 1] == 0);
		memset(p, 0xAB, bytes);
	}
	CHECK(arena_bytes(a) > 1 << 22);
	for (int i = 0; i < 1000; i++)
		PUSH(a, v, n, cap, i * i);
	CHECK(n == 1000 && cap >= n && v[0] == 0 && v[999] == 999 * 999);
	CHECK(arena_grow(a, v, n, n * 2, sizeof(*v)) != v);
	CHECK(v[999] == 999 * 999); /* the old array stays */
	arena_reset(a);
	CHECK(arena_bytes(a) == 0);
	CHECK(strcmp(arena_dup(a, "again", 6), "again") == 0);
	arena_free(a);
	arena_free(NULL);
}

static void
test_names(Arena *a)
{
	Names *t = names_new(a);
	char long_name[1000];

	CHECK(name_of(t, "") == 0 && strcmp(name_str(t, 0), "") == 0);
	CHECK(name_of(t, "x") == 1 && name_of(t, "y") == 2 && name_of(t, "x") == 1);
	CHECK(name_of_n(t, "yx", 1) == 2);
	for (int i = 0; i < 5000; i++)
		CHECK(name_fmt(t, "h.%d", i) == (Name)(i + 3));
	for (int i = 0; i < 5000; i++)
		CHECK(name_fmt(t, "h.%d", i) == (Name)(i + 3));
	CHECK(strcmp(name_str(t, 4999 + 3), "h.4999") == 0);
	memset(long_name, 'z', sizeof(long_name));
	long_name[sizeof(long_name) - 1] = '\0';
	CHECK(strcmp(name_str(t, name_fmt(t, "%s", long_name)), long_name) == 0);
	CHECK(name_fmt(t, "%s", long_name) == name_of(t, long_name));
}

static uint64_t
next(uint64_t *state) /* xorshift64* */
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545F4914F6CDD1Du;
}

static const char *
double_str(Arena *a, double x)
{
	Buf b;

	buf_init(&b, a);
	buf_double(&b, x);
	return b.s;
}

static void
check_double(Arena *a, double x)
{
	double y = strtod(double_str(a, x), NULL);

	CHECK(memcmp(&x, &y, sizeof(x)) == 0);
}

static void
test_doubles(Arena *a)
{
	static const struct {
		double x;
		const char *text;
	} shortest[] = {
	    {0, "0"},
	    {-0.0, "-0"},
	    {1, "1"},
	    {20000, "20000"},
	    {0.1, "0.1"},
	    {1e-5, "1e-05"},
	    {1e-8, "1e-08"},
	    {6e-4, "0.0006"},
	    {1e20, "1e+20"},
	    {-1.5, "-1.5"},
	    {INFINITY, "inf"},
	    {-INFINITY, "-inf"},
	    {5e-324, "5e-324"},
	    {123456789012.0, "123456789012"},
	    {0.1 + 0.2, "0.30000000000000004"},
	};
	uint64_t state = 42;

	for (size_t i = 0; i < COUNTOF(shortest); i++)
		check_text(double_str(a, shortest[i].x), shortest[i].text);
	check_text(double_str(a, NAN), "nan");
	for (int i = 0; i < 20000; i++) {
		uint64_t bits = next(&state);
		double x;

		memcpy(&x, &bits, sizeof(x));
		if (x == x) check_double(a, x);
		check_double(a, (double)(int64_t)bits / 1e6);
		check_double(a, 1 / (double)(bits % 1000 + 1));
		if (i % 1000 == 0) arena_reset(a);
	}
	for (int e = -1074; e < 1024; e++)
		check_double(a, ldexp(1, e));
}

static void
test_buf(Arena *a)
{
	Buf b;

	buf_init(&b, a);
	for (int i = 0; i < 1000; i++)
		buf_printf(&b, "%d,", i);
	CHECK(b.n == 3890 && strlen(b.s) == b.n);
	buf_init(&b, a);
	buf_count(&b, 124439808);
	buf_putc(&b, ' ');
	buf_count(&b, -1536);
	buf_putc(&b, ' ');
	buf_count(&b, 7);
	buf_putc(&b, ' ');
	buf_count(&b, INT64_MIN);
	check_text(b.s, "124,439,808 -1,536 7 -9,223,372,036,854,775,808");
	buf_init(&b, a);
	buf_bytes(&b, 512);
	buf_puts(&b, " | ");
	buf_bytes(&b, 1536);
	buf_puts(&b, " | ");
	buf_bytes(&b, 3 * (INT64_C(1) << 29));
	check_text(b.s, "512 B | 1.50 KiB | 1.50 GiB");
	buf_init(&b, a);
	buf_printf(&b, "%0500d", 7);
	CHECK(b.n == 500 && b.s[499] == '7');
}

static void
test_files(Arena *a)
{
	char dir[] = "/tmp/gv-base-XXXXXX";
	char deep[64], path[96], aside[128];
	char *big = arena_alloc(a, 300000);
	size_t n;

	CHECK(mkdtemp(dir));
	snprintf(deep, sizeof(deep), "%s/a/b/c", dir);
	CHECK(dir_make(deep) && dir_make(deep));
	snprintf(path, sizeof(path), "%s/f", deep);
	snprintf(aside, sizeof(aside), "%s.tmp~", path);
	CHECK(file_write(path, "one\n", 4));
	CHECK(strcmp(file_read(a, path, 100, &n), "one\n") == 0 && n == 4);
	CHECK(access(aside, F_OK) < 0);

	/* A write that cannot finish leaves what was there, and nothing aside. */
	CHECK(mkdir(aside, 0777) == 0);
	CHECK(!file_write(path, "two\n", 4) && errno == EISDIR);
	CHECK(rmdir(aside) == 0);
	CHECK(strcmp(file_read(a, path, 100, &n), "one\n") == 0);
	CHECK(!file_write(deep, "x", 1)); /* rename over a directory */
	snprintf(aside, sizeof(aside), "%s.tmp~", deep);
	CHECK(access(aside, F_OK) < 0);
	CHECK(!dir_make(path) && errno == ENOTDIR);

	memset(big, 'b', 300000);
	CHECK(file_write(path, big, 300000));
	CHECK(file_read(a, path, 300000, &n) && n == 300000);
	CHECK(!file_read(a, path, 299999, &n) && errno == EFBIG);
	CHECK(!file_read(a, deep, 100, &n) && errno == EISDIR);
	CHECK(!file_read(a, "/nonexistent/f", 100, &n) && errno == ENOENT);
	CHECK(file_write(path, "", 0) && file_read(a, path, 0, &n) && n == 0);

	CHECK(unlink(path) == 0 && rmdir(deep) == 0);
	for (int up = 0; up < 2; up++) {
		*strrchr(deep, '/') = '\0';
		CHECK(rmdir(deep) == 0);
	}
	CHECK(rmdir(dir) == 0);
	CHECK(hash_bytes("abc", 3, 0) != hash_bytes("abd", 3, 0));
	CHECK(hash_bytes("abc", 3, 0) != hash_bytes("abc", 3, 1));
	CHECK(hash_bytes("abc", 3, 0) == hash_bytes("abc", 3, 0));
}

static void
test_diag(Arena *a)
{
	static const char text[] =
	    "model x\n\n  axis head = embed / heads\n\tq = \xC3\xA9(\x1B)\r\nlast";
	Names *names = names_new(a);
	Name file = name_of(names, "gpt.gdl");
	char *out;
	size_t out_n;
	FILE *f = open_memstream(&out, &out_n);
	Diag *d = diag_new(a, names, f);
	Loc at;

	diag_source(d, file, text, sizeof(text) - 1);
	at = diag_loc(d, file, 23, 36);
	CHECK(at.line == 3 && at.col == 15 && at.len == 13);
	diag_error(d, at, "'embed / heads' is %d / %d, which is not whole", 768, 10);
	diag_note(d, diag_loc(d, file, 6, 7), "axis declared here");
	diag_warn(d, diag_loc(d, file, 42, 47), "tabs and glyphs");
	at = diag_loc(d, file, 49, 100); /* over the end of the file: cut to its line */
	CHECK(at.line == 5 && at.col == 1 && at.len == 4);
	at = diag_loc(d, file, 1000, 2000);
	CHECK(at.line == 5 && at.col == 5 && at.len == 1);
	diag_error(d, at, "too short");
	diag_error(d, (Loc){file, 99, 7, 9}, "a place of a dump");
	diag_error(d, (Loc){name_of(names, "other.gir"), 2, 3, 4}, "no source");
	diag_error(d, (Loc){0}, "no place");
	fflush(f);
	check_text(out, "gpt.gdl:3:15: error: 'embed / heads' is 768 / 10, which is not whole\n"
			"  axis head = embed / heads\n"
			"              ^^^^^^^^^^^^^\n"
			"gpt.gdl:1:7: note: axis declared here\n"
			"model x\n"
			"      ^\n"
			"gpt.gdl:4:6: warning: tabs and glyphs\n"
			"\tq = \xC3\xA9(?)\n"
			"\t    ^^^^\n"
			"gpt.gdl:5:5: error: too short\n"
			"last\n"
			"    ^\n"
			"gpt.gdl:99:7: error: a place of a dump\n"
			"other.gir:2:3: error: no source\n"
			"error: no place\n");
	CHECK(diag_errors(d) == 5 && !diag_stop(d));

	/* The 21st error and its note are counted, not printed. */
	for (int i = 0; i < 15; i++)
		diag_error(d, (Loc){0}, "e");
	CHECK(diag_stop(d));
	fflush(f);
	size_t before = out_n;
	diag_error(d, (Loc){0}, "e");
	diag_note(d, (Loc){0}, "n");
	fflush(f);
	CHECK(out_n == before && diag_errors(d) == 21);
	fclose(f);
	free(out);
}

int
main(void)
{
	Arena *a = arena_new();

	test_arena();
	test_names(a);
	test_doubles(a);
	test_buf(a);
	test_files(a);
	test_diag(a);
	arena_free(a);
	printf("base: %d checks ok\n", checks);
	return 0;
}
