/*
 * st_write.c - writes the program's state sections as safetensors, straight from the arenas of all ranks.
 *
 * Tensors lie in the order of their names, section by section, without gaps; the header is padded with spaces to
 * a multiple of eight bytes, as readers expect. The same state gives the same bytes, under every plan: rank 0 makes the file and its
 * header, then every rank writes the elements it answers for where they belong.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "gvrt_int.h"

/* Text into a bounded buffer; n goes on counting past the end, which is how the size is found. */
typedef struct Out {
	char *s;
	size_t n, cap;
} Out;

static void
put(Out *o, const char *s, size_t n)
{
	if (o->n + n <= o->cap) memcpy(o->s + o->n, s, n);
	o->n += n;
}

static void
put_text(Out *o, const char *s)
{
	put(o, s, strlen(s));
}

static void
put_number(Out *o, uint64_t x)
{
	char digits[24];
	put(o, digits, (size_t)snprintf(digits, sizeof digits, "%llu", (unsigned long long)x));
}

/* A JSON string of two parts. */
static void
put_string(Out *o, const char *head, const char *tail)
{
	put_text(o, "\"");
	for (int part = 0; part < 2; part++)
		for (const char *s = part ? tail : head; *s; s++) {
			char code[8];
			unsigned char c = (unsigned char)*s;
			if (c == '"' || c == '\\')
				put(o, "\\", 1), put(o, s, 1);
			else if (c < 0x20)
				put(o, code, (size_t)snprintf(code, sizeof code, "\\u%04x", c));
			else
				put(o, s, 1);
		}
	put_text(o, "\"");
}

static uint64_t
put_entry(Out *o, const char *prefix, const ParamEntry *x, uint64_t at)
{
	const GvrtParam *q = x->q;
	uint64_t bytes = (uint64_t)q->count * sizeof(real);
	put_string(o, prefix, x->name);
	put_text(o, sizeof(real) == 8 ? ":{\"dtype\":\"F64\",\"shape\":["
				      : ":{\"dtype\":\"F32\",\"shape\":[");
	for (int d = 0; d < q->ndims; d++) {
		if (d) put_text(o, ",");
		put_number(o, (uint64_t)q->dims[d]);
	}
	put_text(o, "],\"data_offsets\":[");
	put_number(o, at);
	put_text(o, ",");
	put_number(o, at + bytes);
	put_text(o, "]}");
	return at + bytes;
}

/* The eight bytes of length are left for the caller. Returns the bytes of data. */
static uint64_t
put_header(Out *o, const ParamTable *t, const StSection *s, size_t ns, const StAbout *about,
	   size_t nabout)
{
	uint64_t at = 0;
	put_text(o, "{\"__metadata__\":{");
	for (size_t i = 0; i < nabout; i++) {
		char digits[24];
		if (i) put_text(o, ",");
		put_string(o, about[i].key, "");
		put_text(o, ":");
		snprintf(digits, sizeof digits, "%llu", (unsigned long long)about[i].number);
		put_string(o, about[i].text ? about[i].text : digits, "");
	}
	put_text(o, "}");
	for (size_t j = 0; j < ns; j++)
		for (size_t k = 0; k < t->n; k++) {
			put_text(o, ",\n");
			at = put_entry(o, s[j].prefix, &t->entry[k], at);
		}
	put_text(o, "}");
	while (o->n % 8)
		put_text(o, " ");
	return at;
}

size_t
st_header_bytes(const ParamTable *t, const StSection *s, size_t ns, const StAbout *about,
		size_t nabout)
{
	Out o = {.n = 0};
	put_header(&o, t, s, ns, about, nabout);
	return 8 + o.n + 24 * nabout; /* numbers in `about` may grow */
}

static bool
write_all(int fd, const void *bytes, uint64_t n, uint64_t at)
{
	const char *s = bytes;
	while (n > 0) {
		/* Linux writes at most 2 GiB at a time. */
		ssize_t k = pwrite(fd, s, n < 1 << 30 ? (size_t)n : 1 << 30, (off_t)at);
		if (k < 0 && errno == EINTR) continue;
		if (k <= 0) {
			if (k == 0) errno = ENOSPC;
			return false;
		}
		s += k;
		at += (uint64_t)k;
		n -= (uint64_t)k;
	}
	return true;
}

typedef struct EntryPlace { /* of an entry */
	int fd;
	uint64_t at;
} EntryPlace;

static bool
write_run(void *arg, int64_t first, int64_t n, real *x)
{
	const EntryPlace *w = arg;
	return write_all(w->fd, x, (uint64_t)n * sizeof(real),
			 w->at + (uint64_t)first * sizeof(real));
}

static bool
write_state(int fd, const GvrtRun *r, const ParamTable *t, const StSection *s, size_t ns,
	    uint64_t at)
{
	for (size_t j = 0; j < ns; j++)
		for (size_t k = 0; k < t->n; k++) {
			const ParamEntry *x = &t->entry[k];
			EntryPlace w = {fd, at};
			if (!param_runs(r, x->q, x->i, s[j].section, true, write_run, &w))
				return false;
			at += (uint64_t)x->q->count * sizeof(real);
		}
	return true;
}

/* The file with its header and its size; what nobody has (a gradient of what is not trained) reads as zero. */
static bool
create(const char *path, const char *header, uint64_t n, uint64_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0) return false;
	bool ok = write_all(fd, header, n, 0) && ftruncate(fd, (off_t)(n + bytes)) == 0;
	int why = errno;
	if (close(fd) != 0 && ok) return false;
	errno = why;
	return ok;
}

bool
st_write(const GvrtRun *r, const ParamTable *t, const char *path, const StSection *s, size_t ns,
	 const StAbout *about, size_t nabout, char *header, size_t cap, Err *e)
{
	Comm *comm = r->state->comm;
	Out o = {.s = header + 8, .cap = cap - 8};
	uint64_t bytes = put_header(&o, t, s, ns, about, nabout), length = o.n;
	int why = 0, fd = -1;
	if (o.n > o.cap)
		return rt_fail(e, "internal error: a header of %zu bytes in a buffer of %zu",
			       o.n, o.cap);
	memcpy(header, &length, sizeof length);
	bool first = r->state->at.rank == 0;
	bool ok = !first || create(path, header, 8 + length, bytes) ||
		  rt_fail(e, "cannot write %s: %s", path, strerror(errno));
	if (comm_agree(comm, ok, e)) {
		fd = open(path, O_WRONLY | O_CLOEXEC);
		ok = fd >= 0 && write_state(fd, r, t, s, ns, 8 + length) && fsync(fd) == 0;
		why = errno;
		if (fd >= 0 && close(fd) != 0 && ok) ok = false, why = errno;
		if (!ok) rt_fail(e, "cannot write %s: %s", path, strerror(why));
		if (comm_agree(comm, ok, e)) return true;
	}
	if (first) unlink(path);
	return false;
}
