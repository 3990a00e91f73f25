/*
 * buf.c - growing text, the numbers we print, whole files, and the content hash.
 * Everything printed reads back: doubles bit for bit.
 */
#include "ir/base.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- text ---- */

void
buf_init(Buf *b, Arena *a)
{
	*b = (Buf){.arena = a};
}

/* Room for `more` bytes and the NUL. */
static void
reserve(Buf *b, size_t more)
{
	size_t cap = b->cap ? b->cap : 64;

	ENSURE(more < SIZE_MAX / 4 && b->n < SIZE_MAX / 4, "text of %zu + %zu bytes", b->n,
	       more);
	if (b->n + more + 1 <= b->cap) return;
	while (cap < b->n + more + 1)
		cap *= 2;
	b->s = arena_grow(b->arena, b->s, b->n, cap, 1);
	b->cap = cap;
}

static void
append(Buf *b, const char *s, size_t n)
{
	reserve(b, n);
	memcpy(b->s + b->n, s, n);
	b->n += n;
	b->s[b->n] = '\0';
}

void
buf_puts(Buf *b, const char *s)
{
	append(b, s, strlen(s));
}

void
buf_putc(Buf *b, char c)
{
	append(b, &c, 1);
}

void
buf_vprintf(Buf *b, const char *fmt, va_list ap)
{
	va_list again;
	int n;

	va_copy(again, ap);
	reserve(b, 64);
	n = vsnprintf(b->s + b->n, b->cap - b->n, fmt, ap);
	ENSURE(n >= 0, "buf_vprintf: bad format");
	if ((size_t)n >= b->cap - b->n) {
		reserve(b, (size_t)n);
		vsnprintf(b->s + b->n, b->cap - b->n, fmt, again);
	}
	va_end(again);
	b->n += (size_t)n;
}

void
buf_printf(Buf *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	buf_vprintf(b, fmt, ap);
	va_end(ap);
}

static bool
same_bits(double x, double y)
{
	return memcmp(&x, &y, sizeof(x)) == 0;
}

/* A normal double that has a decimal of at most 15 digits is printed as that one by %.15g, so only subnormals need
 * the search from one digit on. */
void
buf_double(Buf *b, double x)
{
	char s[64];

	if (isnan(x)) {
		buf_puts(b, "nan");
		return;
	}
	if (isinf(x)) {
		buf_puts(b, x < 0 ? "-inf" : "inf");
		return;
	}
	for (int digits = fabs(x) < DBL_MIN ? 1 : 15; digits <= 17; digits++) {
		snprintf(s, sizeof(s), "%.*g", digits, x);
		if (same_bits(strtod(s, NULL), x)) break;
	}
	buf_puts(b, s);
}

void
buf_count(Buf *b, int64_t n)
{
	char digits[32];
	uint64_t u = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
	int len = snprintf(digits, sizeof(digits), "%" PRIu64, u);

	if (n < 0) buf_putc(b, '-');
	for (int i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0) buf_putc(b, ',');
		buf_putc(b, digits[i]);
	}
}

void
buf_bytes(Buf *b, int64_t bytes)
{
	static const char *const unit[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double x = (double)bytes;
	size_t k = 0;

	if (bytes > -1024 && bytes < 1024) {
		buf_printf(b, "%" PRId64 " B", bytes);
		return;
	}
	for (x /= 1024; fabs(x) >= 1024 && k + 1 < COUNTOF(unit); k++)
		x /= 1024;
	buf_printf(b, "%.2f %s", x, unit[k]);
}

/* ---- files ---- */

/* Reads to the end, whatever the size said before: the file may be a pipe, or growing. */
static char *
read_all(Arena *a, FILE *f, size_t max_bytes, size_t *n)
{
	size_t cap = 1 << 16, got;
	char *s = arena_alloc(a, cap);

	*n = 0;
	while ((got = fread(s + *n, 1, cap - 1 - *n, f)) > 0) {
		*n += got;
		if (*n > max_bytes) {
			errno = EFBIG;
			return NULL;
		}
		if (*n == cap - 1) {
			s = arena_grow(a, s, *n, cap * 2, 1);
			cap *= 2;
		}
	}
	if (ferror(f)) return NULL;
	s[*n] = '\0';
	return s;
}

char *
file_read(Arena *a, const char *path, size_t max_bytes, size_t *n)
{
	FILE *f = fopen(path, "rb");
	char *s;
	int err;

	if (!f) return NULL;
	s = read_all(a, f, max_bytes, n);
	err = errno;
	fclose(f);
	errno = err;
	return s;
}

static bool
write_all(int fd, const char *text, size_t n)
{
	while (n) {
		ssize_t put = write(fd, text, n);

		if (put < 0 && errno == EINTR) continue;
		if (put < 0) return false;
		text += put;
		n -= (size_t)put;
	}
	return true;
}

bool
file_write(const char *path, const char *text, size_t n)
{
	char aside[PATH_MAX];
	int fd, err;
	bool ok;

	if (snprintf(aside, sizeof(aside), "%s.tmp~", path) >= (int)sizeof(aside)) {
		errno = ENAMETOOLONG;
		return false;
	}
	fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0) return false;
	ok = write_all(fd, text, n) && fsync(fd) == 0;
	err = errno;
	if (close(fd) < 0 && ok) {
		ok = false;
		err = errno;
	}
	if (ok && rename(aside, path) == 0) return true;
	if (ok) err = errno;
	unlink(aside);
	errno = err;
	return false;
}

bool
dir_make(const char *path)
{
	char part[PATH_MAX];
	size_t n = strlen(path);
	struct stat st;

	if (n == 0 || n >= sizeof(part)) {
		errno = n ? ENAMETOOLONG : ENOENT;
		return false;
	}
	memcpy(part, path, n + 1);
	for (size_t i = 1; i <= n; i++) {
		char c = part[i];

		if (c != '/' && c != '\0') continue;
		part[i] = '\0';
		if (mkdir(part, 0777) < 0 && errno != EEXIST) return false;
		part[i] = c;
	}
	if (stat(path, &st) < 0) return false;
	if (S_ISDIR(st.st_mode)) return true;
	errno = ENOTDIR;
	return false;
}

/* ---- hash ---- */

/* FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/), then MurmurHash3's fmix64, because the low bits of FNV alone
 * are poor table indices. */
uint64_t
hash_bytes(const void *p, size_t n, uint64_t seed)
{
	const unsigned char *s = p;
	uint64_t h = 0xcbf29ce484222325u ^ seed;

	for (size_t i = 0; i < n; i++)
		h = (h ^ s[i]) * 0x100000001b3u;
	h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
	h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
	return h ^ h >> 33;
}
