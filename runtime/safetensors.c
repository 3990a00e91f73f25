/*
 * safetensors.c - reads safetensors files: eight bytes of length, a JSON header, data.
 *
 * The file is not trusted. The header is parsed by hand, strictly: one object of entries, no unknown keys, no duplicate names,
 * every entry's bytes equal to its shape, all entries together exactly the data without gaps. Nothing is read
 * outside the file, nothing recurses, and memory is at most a small multiple of the header.
 * Source: https://github.com/huggingface/safetensors, README "Format".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gvrt_int.h"

enum { MAX_HEADER = 100 << 20, MAX_META = 256, MIN_ENTRY = 40 };

static const struct {
	const char *name;
	int size;
} types[ST_TYPES] = {
    [ST_F64] = {"F64", 8},   [ST_F32] = {"F32", 4}, [ST_F16] = {"F16", 2},
    [ST_BF16] = {"BF16", 2}, [ST_I64] = {"I64", 8}, [ST_I32] = {"I32", 4},
    [ST_I16] = {"I16", 2},   [ST_I8] = {"I8", 1},   [ST_U64] = {"U64", 8},
    [ST_U32] = {"U32", 4},   [ST_U16] = {"U16", 2}, [ST_U8] = {"U8", 1},
    [ST_BOOL] = {"BOOL", 1},
};

/* The header being read. Strings are unescaped into `text`, which is as long as the header: they only shrink. */
typedef struct Reader {
	const char *at, *end, *begin;
	char *text;
	const char *path;
	Err *e;
} Reader;

static bool
bad(Reader *r, const char *what)
{
	return rt_fail(r->e, "%s: %s at byte %zu of the safetensors header", r->path, what,
		       (size_t)(r->at - r->begin));
}

static void
space(Reader *r)
{
	while (r->at < r->end &&
	       (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t'))
		r->at++;
}

/* The next character that is not space, consumed if it is c. */
static bool
next_is(Reader *r, char c)
{
	space(r);
	if (r->at >= r->end || *r->at != c) return false;
	r->at++;
	return true;
}

/* Four hexadecimal digits; -1: not that. */
static int
hex4(const char *s, const char *end)
{
	int x = 0;
	if (end - s < 4) return -1;
	for (int i = 0; i < 4; i++) {
		char c = s[i];
		int d = c >= '0' && c <= '9'   ? c - '0'
			: c >= 'a' && c <= 'f' ? c - 'a' + 10
			: c >= 'A' && c <= 'F' ? c - 'A' + 10
					       : -1;
		if (d < 0) return -1;
		x = x * 16 + d;
	}
	return x;
}

static char *
put_utf8(char *t, unsigned c)
{
	if (c < 0x80) {
		*t++ = (char)c;
	} else if (c < 0x800) {
		*t++ = (char)(0xC0 | c >> 6);
		*t++ = (char)(0x80 | (c & 63));
	} else {
		*t++ = (char)(0xE0 | c >> 12);
		*t++ = (char)(0x80 | (c >> 6 & 63));
		*t++ = (char)(0x80 | (c & 63));
	}
	return t;
}

/* After a backslash. Surrogates are refused: no name we know has them. */
static bool
escape(Reader *r, char **t)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	if (r->at >= r->end) return bad(r, "an unfinished string");
	char c = *r->at++;
	const char *k = c ? strchr(from, c) : NULL;
	if (k) {
		*(*t)++ = to[k - from];
		return true;
	}
	int x = c == 'u' ? hex4(r->at, r->end) : -1;
	if (x <= 0 || (x >= 0xD800 && x < 0xE000)) return bad(r, "a bad escape");
	r->at += 4;
	*t = put_utf8(*t, (unsigned)x);
	return true;
}

static bool
string(Reader *r, const char **out)
{
	char *t = r->text;
	*out = t;
	if (!next_is(r, '"')) return bad(r, "a missing string");
	for (;;) {
		if (r->at >= r->end) return bad(r, "an unfinished string");
		unsigned char c = (unsigned char)*r->at;
		if (c < 0x20) return bad(r, "a control character");
		r->at++;
		if (c == '"') break;
		if (c != '\\')
			*t++ = (char)c;
		else if (!escape(r, &t))
			return false;
	}
	*t++ = 0;
	r->text = t;
	return true;
}

/* A whole number below 2^62, so that sums of two cannot overflow. */
static bool
number(Reader *r, uint64_t *out)
{
	uint64_t x = 0;
	space(r);
	const char *from = r->at;
	for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++) {
		if (x > (UINT64_C(1) << 62) / 10 - 1) return bad(r, "a number too large");
		x = x * 10 + (uint64_t)(*r->at - '0');
	}
	if (r->at == from) return bad(r, "a missing number");
	if (r->at - from > 1 && *from == '0') return bad(r, "a number that begins with 0");
	*out = x;
	return true;
}

static bool
read_type(Reader *r, StEntry *x)
{
	const char *name;
	if (!string(r, &name)) return false;
	for (int t = 0; t < ST_TYPES; t++)
		if (!strcmp(name, types[t].name)) {
			x->type = (StType)t;
			return true;
		}
	return rt_fail(r->e, "%s: tensor \"%.200s\" has the unknown type \"%.20s\"", r->path,
		       x->name, name);
}

static bool
read_shape(Reader *r, StEntry *x)
{
	x->ndims = 0;
	x->count = 1;
	if (!next_is(r, '[')) return bad(r, "a missing [");
	if (next_is(r, ']')) return true;
	do {
		uint64_t n;
		if (!number(r, &n)) return false;
		if (x->ndims == 12) return bad(r, "more than 12 dimensions");
		if (__builtin_mul_overflow(x->count, (int64_t)n, &x->count))
			return bad(r, "a shape too large");
		x->dims[x->ndims++] = (int64_t)n;
	} while (next_is(r, ','));
	return next_is(r, ']') || bad(r, "a missing ]");
}

static bool
read_offsets(Reader *r, StEntry *x)
{
	if (!next_is(r, '[')) return bad(r, "a missing [");
	if (!number(r, &x->lo)) return false;
	if (!next_is(r, ',')) return bad(r, "a missing ,");
	if (!number(r, &x->hi)) return false;
	return next_is(r, ']') || bad(r, "a missing ]");
}

/* {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, keys in any order, each once. */
static bool
read_entry(Reader *r, StEntry *x, uint64_t data_bytes)
{
	unsigned seen = 0;
	if (!next_is(r, '{')) return bad(r, "a missing {");
	do {
		const char *key;
		if (!string(r, &key)) return false;
		if (!next_is(r, ':')) return bad(r, "a missing :");
		unsigned bit = !strcmp(key, "dtype")          ? 1
			       : !strcmp(key, "shape")        ? 2
			       : !strcmp(key, "data_offsets") ? 4
							      : 0;
		if (!bit || (seen & bit))
			return bad(r, bit ? "a repeated key" : "an unknown key");
		seen |= bit;
		if (!(bit == 1   ? read_type(r, x)
		      : bit == 2 ? read_shape(r, x)
				 : read_offsets(r, x)))
			return false;
	} while (next_is(r, ','));
	if (!next_is(r, '}')) return bad(r, "a missing }");
	if (seen != 7) return bad(r, "an entry without dtype, shape or data_offsets");
	int64_t bytes;
	if (x->lo > x->hi || x->hi > data_bytes)
		return rt_fail(r->e,
			       "%s: tensor \"%.200s\" lies at bytes %llu to %llu, and the file "
			       "holds %llu of data",
			       r->path, x->name, (unsigned long long)x->lo,
			       (unsigned long long)x->hi, (unsigned long long)data_bytes);
	if (__builtin_mul_overflow(x->count, (int64_t)types[x->type].size, &bytes) ||
	    (uint64_t)bytes != x->hi - x->lo)
		return rt_fail(r->e,
			       "%s: tensor \"%.200s\" has %lld elements of %s in %llu bytes",
			       r->path, x->name, (long long)x->count, types[x->type].name,
			       (unsigned long long)(x->hi - x->lo));
	return true;
}

/* {"key": "value", ...} */
static bool
read_meta(Reader *r, StFile *f)
{
	if (f->nmeta) return bad(r, "a second __metadata__");
	if (!next_is(r, '{')) return bad(r, "a missing {");
	if (next_is(r, '}')) return true;
	do {
		if (f->nmeta == MAX_META) return bad(r, "too much metadata");
		if (!string(r, &f->meta[2 * f->nmeta])) return false;
		if (!next_is(r, ':')) return bad(r, "a missing :");
		if (!string(r, &f->meta[2 * f->nmeta + 1])) return false;
		f->nmeta++;
	} while (next_is(r, ','));
	return next_is(r, '}') || bad(r, "a missing }");
}

static bool
read_header(Reader *r, StFile *f, uint64_t data_bytes)
{
	if (!next_is(r, '{')) return bad(r, "a missing {");
	if (!next_is(r, '}')) {
		do {
			const char *name;
			if (!string(r, &name)) return false;
			if (!next_is(r, ':')) return bad(r, "a missing :");
			if (!strcmp(name, "__metadata__")) {
				if (!read_meta(r, f)) return false;
				continue;
			}
			f->entries[f->n].name = name;
			if (!read_entry(r, &f->entries[f->n], data_bytes)) return false;
			f->n++;
		} while (next_is(r, ','));
		if (!next_is(r, '}')) return bad(r, "a missing }");
	}
	space(r);
	return r->at == r->end || bad(r, "something after the end");
}

static int
by_place(const void *a, const void *b)
{
	const StEntry *x = a, *y = b;
	if (x->lo != y->lo) return x->lo < y->lo ? -1 : 1;
	return x->hi < y->hi ? -1 : x->hi > y->hi;
}

static int
by_name(const void *a, const void *b)
{
	return strcmp(((const StEntry *)a)->name, ((const StEntry *)b)->name);
}

/* No gaps and no overlap in the data, no name twice. Leaves the entries in order of name. */
static bool
check_all(StFile *f, uint64_t data_bytes, Err *e)
{
	uint64_t at = 0;
	qsort(f->entries, f->n, sizeof *f->entries, by_place);
	for (size_t i = 0; i < f->n; i++) {
		const StEntry *x = &f->entries[i];
		if (x->lo != at)
			return rt_fail(e,
				       "%s: tensor \"%.200s\" begins at byte %llu of the data, "
				       "and the one before ends at %llu",
				       f->path, x->name, (unsigned long long)x->lo,
				       (unsigned long long)at);
		at = x->hi;
	}
	if (at != data_bytes)
		return rt_fail(
		    e, "%s: the tensors take %llu bytes, and the file holds %llu of data",
		    f->path, (unsigned long long)at, (unsigned long long)data_bytes);
	qsort(f->entries, f->n, sizeof *f->entries, by_name);
	for (size_t i = 1; i < f->n; i++)
		if (!by_name(&f->entries[i - 1], &f->entries[i]))
			return rt_fail(e, "%s: two tensors are named \"%.200s\"", f->path,
				       f->entries[i].name);
	return true;
}

bool
st_parse(StFile *f, Pool *pool, const unsigned char *bytes, size_t n, const char *path, Err *e)
{
	uint64_t length;
	*f = (StFile){.path = path};
	if (n < sizeof length)
		return rt_fail(e, "%s: %zu bytes are too few for a safetensors file", path, n);
	memcpy(&length, bytes, sizeof length);
	if (length > n - sizeof length)
		return rt_fail(e,
			       "%s: not a safetensors file, or cut off: a header of %llu bytes "
			       "in a file of %zu",
			       path, (unsigned long long)length, n);
	if (length > MAX_HEADER)
		return rt_fail(e, "%s: a safetensors header of %llu bytes exceeds %d", path,
			       (unsigned long long)length, MAX_HEADER);
	const char *head = (const char *)bytes + sizeof length;
	uint64_t data_bytes = n - sizeof length - length;
	f->data = bytes + sizeof length + length;
	f->entries = POOL_N(pool, StEntry, length / MIN_ENTRY + 1);
	f->meta = POOL_N(pool, const char *, 2 * MAX_META);
	Reader r = {.at = head, .begin = head, .end = head + length, .path = path, .e = e};
	r.text = pool_alloc(pool, length + 1);
	return read_header(&r, f, data_bytes) && check_all(f, data_bytes, e);
}

bool
st_open(StFile *f, Pool *pool, const char *path, Err *e)
{
	struct stat st;
	*f = (StFile){.path = path};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0) {
		rt_fail(e, "%s: %s", path, strerror(errno));
		if (fd >= 0) close(fd);
		return false;
	}
	if (!S_ISREG(st.st_mode) || st.st_size == 0) {
		close(fd);
		return rt_fail(e, "%s: %s", path,
			       S_ISREG(st.st_mode) ? "the file is empty" : "not a file");
	}
	void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return rt_fail(e, "%s: cannot map it: %s", path, strerror(errno));
	bool ok = st_parse(f, pool, map, (size_t)st.st_size, path, e);
	f->map = map;
	f->map_bytes = (size_t)st.st_size;
	if (!ok) st_close(f);
	return ok;
}

void
st_close(StFile *f)
{
	if (f->map) munmap((void *)(uintptr_t)f->map, f->map_bytes);
	f->map = NULL;
	f->n = 0;
}

const StEntry *
st_find(const StFile *f, const char *name)
{
	StEntry key = {.name = name};
	return f->n ? bsearch(&key, f->entries, f->n, sizeof key, by_name) : NULL;
}

const char *
st_meta(const StFile *f, const char *key)
{
	for (size_t i = 0; i < f->nmeta; i++)
		if (!strcmp(f->meta[2 * i], key)) return f->meta[2 * i + 1];
	return NULL;
}

const char *
st_type_name(StType t)
{
	return types[t].name;
}

static double
half(uint16_t h)
{
	int exponent = h >> 10 & 31, fraction = h & 1023;
	double sign = h >> 15 ? -1 : 1;
	if (exponent == 31) return fraction ? __builtin_nan("") : sign * __builtin_inf();
	return sign * (exponent ? __builtin_ldexp(1024 + fraction, exponent - 25)
				: __builtin_ldexp(fraction, -24));
}

/* Reads element i of packed, perhaps unaligned values of type T. */
#define LOAD(T, at, i)                                                  \
	({                                                              \
		T x_;                                                   \
		memcpy(&x_, (at) + (size_t)(i) * sizeof x_, sizeof x_); \
		x_;                                                     \
	})
#define CONVERT(T, out, expression)       \
	for (int64_t i = 0; i < n; i++) { \
		T y = LOAD(T, at, i);     \
		(out)[i] = (expression);  \
	}                                 \
	return true

bool
st_read_real(const StFile *f, const StEntry *x, int64_t first, int64_t n, real *out)
{
	const unsigned char *at =
	    f->data + x->lo + (uint64_t)first * (uint64_t)types[x->type].size;
	switch (x->type) {
	case ST_F64: CONVERT(double, out, (real)y);
	case ST_F32: CONVERT(float, out, (real)y);
	case ST_F16: CONVERT(uint16_t, out, (real)half(y));
	case ST_BF16:
		for (int64_t i = 0; i < n; i++) {
			uint32_t bits = (uint32_t)LOAD(uint16_t, at, i) << 16;
			out[i] = (real)LOAD(float, (const unsigned char *)&bits, 0);
		}
		return true;
	default: return false;
	}
}

/* Numbers that do not fit become -1, which no range admits. */
bool
st_read_i32(const StFile *f, const StEntry *x, int64_t first, int64_t n, int32_t *out)
{
	const unsigned char *at =
	    f->data + x->lo + (uint64_t)first * (uint64_t)types[x->type].size;
	switch (x->type) {
	case ST_I64: CONVERT(int64_t, out, y < INT32_MIN || y > INT32_MAX ? -1 : (int32_t)y);
	case ST_I32: CONVERT(int32_t, out, y);
	case ST_I16: CONVERT(int16_t, out, y);
	case ST_I8: CONVERT(int8_t, out, y);
	case ST_U32: CONVERT(uint32_t, out, y > INT32_MAX ? -1 : (int32_t)y);
	case ST_U16: CONVERT(uint16_t, out, y);
	case ST_U8: CONVERT(uint8_t, out, y);
	default: return false;
	}
}

bool
st_read_bool(const StFile *f, const StEntry *x, int64_t first, int64_t n, unsigned char *out)
{
	const unsigned char *at = f->data + x->lo + (uint64_t)first;
	if (x->type != ST_BOOL && x->type != ST_U8) return false;
	CONVERT(uint8_t, out, y != 0);
}
