/*
 * diag.c - sources, places and diagnostics.
 *
 *   gpt.gdl:6:35: error: 'embed / heads' is 768 / 10, which is not whole
 *   axis embed = 768, heads = 10, head = embed / heads
 *                                        ^^^^^^^^^^^^^
 *
 * Input: byte offsets into registered sources, or places read from a dump. Output: text on one stream.
 * Invariant: what a source holds reaches the terminal without control characters.
 */
#include "ir/base.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ERRORS = 20, MAX_SHOWN = 4096 /* bytes of a source line */ };

typedef struct Source {
	Name file;
	const char *text;
	size_t n;
	size_t *line; /* offset of the first byte of each line */
	uint32_t nlines, clines;
} Source;

struct Diag {
	Arena *arena;
	Names *names;
	FILE *out;
	Source *sources;
	uint32_t nsources, csources;
	int errors;
	bool muted;        /* the last error was not printed, so its notes are not either */
	const char *first; /* text of the first error, if nothing is printed */
};

Diag *
diag_new(Arena *a, Names *names, FILE *out)
{
	Diag *d = NEW(a, Diag);

	d->arena = a;
	d->names = names;
	d->out = out;
	return d;
}

static const Source *
find_source(const Diag *d, Name file)
{
	for (uint32_t i = d->nsources; i-- > 0;)
		if (d->sources[i].file == file) return &d->sources[i];
	return NULL;
}

/* A file registered again (resume, tests) replaces the text before. */
void
diag_source(Diag *d, Name file, const char *text, size_t n)
{
	Source s = {.file = file, .text = text, .n = n};

	PUSH(d->arena, s.line, s.nlines, s.clines, 0);
	for (size_t i = 0; i < n; i++)
		if (text[i] == '\n') PUSH(d->arena, s.line, s.nlines, s.clines, i + 1);
	PUSH(d->arena, d->sources, d->nsources, d->csources, s);
}

/* Bytes of line k (from 0), without its end. */
static size_t
line_len(const Source *s, uint32_t k)
{
	size_t lo = s->line[k], hi = k + 1 < s->nlines ? s->line[k + 1] - 1 : s->n;

	if (hi > lo && s->text[hi - 1] == '\r') hi--;
	return hi - lo;
}

Loc
diag_loc(const Diag *d, Name file, size_t lo, size_t hi)
{
	const Source *s = find_source(d, file);
	uint32_t a = 0, b;
	size_t col, end;

	ENSURE(s, "no source '%s'", name_str(d->names, file));
	if (lo > s->n) lo = s->n;
	if (hi > s->n) hi = s->n;
	for (b = s->nlines; b - a > 1;) { /* line[a] <= lo < line[b] */
		uint32_t mid = a + (b - a) / 2;

		if (s->line[mid] <= lo)
			a = mid;
		else
			b = mid;
	}
	col = lo - s->line[a];
	end = s->line[a] + line_len(s, a);
	if (hi > end) hi = end;
	return (Loc){file, a + 1, (uint32_t)col + 1, hi > lo ? (uint32_t)(hi - lo) : 1};
}

/* One glyph, one column: the bytes that continue a UTF-8 sequence take no caret. */
static bool
takes_column(unsigned char c)
{
	return (c & 0xC0) != 0x80;
}

/* The line of `at` and carets below it, if its source is known and has that place. Tabs are kept in the padding, so
 * that the carets stand right however wide a tab is. */
static void
show(const Diag *d, Loc at)
{
	const Source *s = find_source(d, at.file);
	const char *p;
	size_t n, col;

	if (!s || at.line > s->nlines || at.col == 0) return;
	p = s->text + s->line[at.line - 1];
	n = line_len(s, at.line - 1);
	col = at.col - 1;
	if (col > n || n > MAX_SHOWN) return;
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];

		fputc((c < 0x20 && c != '\t') || c == 0x7F ? '?' : c, d->out);
	}
	fputc('\n', d->out);
	for (size_t i = 0; i < col; i++)
		if (takes_column((unsigned char)p[i])) fputc(p[i] == '\t' ? '\t' : ' ', d->out);
	fputc('^', d->out);
	for (size_t i = col + 1; i < n && i < col + at.len; i++)
		if (takes_column((unsigned char)p[i])) fputc('^', d->out);
	fputc('\n', d->out);
}

static void
report(Diag *d, Loc at, const char *kind, const char *fmt, va_list ap)
{
	if (!d->out) {
		Buf text;

		if (d->first || strcmp(kind, "error")) return;
		buf_init(&text, d->arena);
		buf_vprintf(&text, fmt, ap);
		d->first = text.s;
		return;
	}
	if (at.line)
		fprintf(d->out, "%s:%u:%u: ", name_str(d->names, at.file), at.line, at.col);
	else if (at.file)
		fprintf(d->out, "%s: ", name_str(d->names, at.file));
	fprintf(d->out, "%s: ", kind);
	vfprintf(d->out, fmt, ap);
	fputc('\n', d->out);
	if (at.line) show(d, at);
}

void
diag_error(Diag *d, Loc at, const char *fmt, ...)
{
	va_list ap;

	d->muted = ++d->errors > MAX_ERRORS;
	if (d->muted) return;
	va_start(ap, fmt);
	report(d, at, "error", fmt, ap);
	va_end(ap);
}

void
diag_warn(Diag *d, Loc at, const char *fmt, ...)
{
	va_list ap;

	d->muted = d->errors > MAX_ERRORS;
	if (d->muted) return;
	va_start(ap, fmt);
	report(d, at, "warning", fmt, ap);
	va_end(ap);
}

void
diag_note(Diag *d, Loc at, const char *fmt, ...)
{
	va_list ap;

	if (d->muted) return;
	va_start(ap, fmt);
	report(d, at, "note", fmt, ap);
	va_end(ap);
}

int
diag_errors(const Diag *d)
{
	return d->errors;
}

const char *
diag_first(const Diag *d)
{
	return d->first ? d->first : "";
}

bool
diag_stop(const Diag *d)
{
	return d->errors >= MAX_ERRORS;
}

/* ---- internal errors ----
 * The pass name is the one piece of static state of the compiler: it is written by the pass runner, read by a process
 * about to die, and decides nothing. */
static _Thread_local const char *current_pass;

void
ice_context(const char *pass)
{
	current_pass = pass;
}

void
ice(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fprintf(stderr, "internal error: ");
	if (current_pass) fprintf(stderr, "pass %s: ", current_pass);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, " (%s:%d)\n", file, line);
	abort();
}
