/*
 * scan.c - reading lines of our text forms: words, names, numbers, ranges, places.
 *
 * Input: any bytes. Output: parts of lines, or one diagnostic at the first that is not what it must be.
 * Invariants: never reads past the text; a number is in the range it was asked for; a name holds no quote, newline or
 * control character, so that it prints as it was read.
 */
#include "ir/text.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void
scan_init(Scan *s, Names *names, Diag *d, Name file, const char *text, size_t len)
{
	*s = (Scan){.names = names, .diag = d, .file = file, .next = text, .end = text + len};
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool
is_word(char c)
{
	return is_letter(c) || is_digit(c) || c == '.';
}

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static void
skip_blanks(Scan *s)
{
	while (s->at < s->stop && is_blank(*s->at))
		s->at++;
}

bool
scan_line(Scan *s)
{
	while (s->next < s->end) {
		bool quoted = false;
		const char *eol = memchr(s->next, '\n', (size_t)(s->end - s->next));

		if (!eol) eol = s->end;
		s->line = s->at = s->next;
		s->next = eol < s->end ? eol + 1 : eol;
		s->lineno++;
		for (s->stop = s->at; s->stop < eol; s->stop++) {
			if (*s->stop == '"') quoted = !quoted;
			if (*s->stop == '#' && !quoted) break;
		}
		while (s->stop > s->at && is_blank(s->stop[-1]))
			s->stop--;
		skip_blanks(s);
		if (s->at < s->stop) return true;
	}
	return false;
}

/* The end of the word at the cursor: a run of word characters, a quoted string, or one other byte. */
static const char *
word_end(const Scan *s)
{
	const char *e = s->at;

	if (e == s->stop) return e;
	if (*e == '"') {
		for (e++; e < s->stop && *e != '"'; e++)
			continue;
		return e < s->stop ? e + 1 : e;
	}
	while (e < s->stop && is_word(*e))
		e++;
	return e == s->at ? e + 1 : e;
}

Loc
scan_loc(Scan *s)
{
	const char *e;

	skip_blanks(s);
	e = word_end(s);
	if (!s->lineno) return (Loc){s->file, 1, 1, 1};
	return (Loc){s->file, s->lineno, (uint32_t)(s->at - s->line) + 1,
		     e > s->at ? (uint32_t)(e - s->at) : 1};
}

bool
scan_fail(Scan *s, const char *fmt, ...)
{
	char text[1024];
	Loc at = scan_loc(s);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	diag_error(s->diag, at, "%s", text);
	return false;
}

/* "expected WHAT, not 'word'" */
static bool
expected(Scan *s, const char *what)
{
	const char *e, *p;

	skip_blanks(s);
	e = word_end(s);
	if (e == s->at) return scan_fail(s, "expected %s, not the end of the line", what);
	for (p = s->at; p < e; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7F) {
			return scan_fail(s, "expected %s, not byte 0x%02x", what,
					 (unsigned char)*p);
		}
	return scan_fail(s, "expected %s, not '%.*s'", what,
			 (int)(e - s->at > 60 ? 60 : e - s->at), s->at);
}

bool
scan_at_end(Scan *s)
{
	skip_blanks(s);
	return s->at == s->stop;
}

bool
scan_done(Scan *s)
{
	return scan_at_end(s) || expected(s, "the end of the line");
}

char
scan_peek(Scan *s)
{
	return scan_at_end(s) ? '\0' : *s->at;
}

bool
scan_try(Scan *s, char c)
{
	if (scan_peek(s) != c || s->at == s->stop) return false;
	s->at++;
	return true;
}

bool
scan_punct(Scan *s, char c)
{
	char what[4] = {'\'', c, '\'', '\0'};

	return scan_try(s, c) || expected(s, what);
}

bool
scan_try_key(Scan *s, const char *w)
{
	size_t n = strlen(w);

	skip_blanks(s);
	if ((size_t)(word_end(s) - s->at) != n || memcmp(s->at, w, n) != 0) return false;
	s->at += n;
	return true;
}

bool
scan_key(Scan *s, const char *w)
{
	char what[40];

	if (scan_try_key(s, w)) return true;
	snprintf(what, sizeof(what), "'%s'", w);
	return expected(s, what);
}

bool
scan_word(Scan *s, const char *what, const char **word, int *len)
{
	skip_blanks(s);
	if (s->at == s->stop || !is_word(*s->at)) return expected(s, what);
	*word = s->at;
	s->at = word_end(s);
	*len = (int)(s->at - *word);
	return true;
}

int
scan_pick(Scan *s, const Words *words)
{
	char known[800];
	size_t n = 0;

	for (int i = 0; i < words->n; i++)
		if (words->w[i] && scan_try_key(s, words->w[i])) return i;
	known[0] = '\0';
	for (int i = 0; i < words->n; i++) {
		int more;

		if (!words->w[i]) continue;
		more =
		    snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", words->w[i]);
		if (more < 0 || (size_t)more >= sizeof(known) - n) break;
		n += (size_t)more;
	}
	if (scan_at_end(s)) {
		scan_fail(s, "expected a %s; known are %s", words->what, known);
	} else {
		const char *e = word_end(s);
		int len = (int)(e - s->at > 60 ? 60 : e - s->at);
		bool plain = true;

		for (int i = 0; i < len; i++)
			if ((unsigned char)s->at[i] < 0x20 || (unsigned char)s->at[i] >= 0x7F)
				plain = false;
		if (plain)
			scan_fail(s, "unknown %s '%.*s'; known are %s", words->what, len, s->at,
				  known);
		else
			scan_fail(s, "expected a %s, not byte 0x%02x", words->what,
				  (unsigned char)*s->at);
	}
	return -1;
}

bool
scan_pick_to(Scan *s, const Words *words, int *out)
{
	return (*out = scan_pick(s, words)) >= 0;
}

bool
scan_string(Scan *s, const char *what, Name *out)
{
	const char *e;

	if (scan_peek(s) != '"') return expected(s, what);
	for (e = s->at + 1; e < s->stop && *e != '"'; e++)
		if ((unsigned char)*e < 0x20 || (unsigned char)*e == 0x7F)
			return scan_fail(s, "this string holds byte 0x%02x", (unsigned char)*e);
	if (e == s->stop) return scan_fail(s, "this string is never closed");
	*out = name_of_n(s->names, s->at + 1, (size_t)(e - s->at - 1));
	s->at = e + 1;
	return true;
}

bool
scan_name(Scan *s, const char *what, Name *out)
{
	const char *word;
	int len;

	if (scan_peek(s) == '"') {
		Scan before = *s;

		if (!scan_string(s, what, out)) return false;
		return *out ||
		       (*s = before, scan_fail(s, "expected %s, which is never empty", what));
	}
	if (scan_at_end(s) || !is_letter(*s->at)) return expected(s, what);
	if (!scan_word(s, what, &word, &len)) return false;
	*out = name_of_n(s->names, word, (size_t)len);
	return true;
}

/* Copies the number at the cursor, sign and exponent with it, to text; its end, or NULL. */
static const char *
number_end(Scan *s, char *text, size_t cap)
{
	const char *e;

	skip_blanks(s);
	e = s->at;
	if (e < s->stop && (*e == '-' || *e == '+')) e++;
	if (e == s->stop || !is_word(*e)) return NULL;
	for (; e < s->stop; e++) {
		bool sign = (*e == '-' || *e == '+') && (e[-1] == 'e' || e[-1] == 'E');

		if (!is_word(*e) && !sign) break;
	}
	if ((size_t)(e - s->at) >= cap) return NULL;
	memcpy(text, s->at, (size_t)(e - s->at));
	text[e - s->at] = '\0';
	return e;
}

bool
scan_int(Scan *s, const char *what, int64_t lo, int64_t hi, int64_t *out)
{
	const char *e;
	char digits[32], want[80];
	bool neg;
	int n = 0;

	snprintf(want, sizeof(want), "%s, a whole number", what);
	skip_blanks(s);
	e = s->at;
	neg = e < s->stop && *e == '-';
	if (e < s->stop && (*e == '-' || *e == '+')) e++;
	if (neg) digits[n++] = '-';
	if (e == s->stop || !is_digit(*e)) return expected(s, want);
	for (; e < s->stop && is_digit(*e); e++)
		if (n < 24) digits[n++] = *e;
	if (e < s->stop && is_word(*e)) return expected(s, want);
	digits[n] = '\0';
	errno = 0;
	*out = strtoll(digits, NULL, 10);
	if (lo == hi && *out != lo)
		return scan_fail(s, "%s is %s, not %" PRId64, what, digits, lo);
	if (errno || n >= 24 || *out < lo || *out > hi)
		return scan_fail(s, "%s is %s, which is not in %" PRId64 " .. %" PRId64, what,
				 digits, lo, hi);
	s->at = e;
	return true;
}

bool
scan_u32(Scan *s, const char *what, uint32_t lo, uint32_t hi, uint32_t *out)
{
	int64_t x;

	if (!scan_int(s, what, lo, hi, &x)) return false;
	*out = (uint32_t)x;
	return true;
}

bool
scan_num(Scan *s, const char *what, double *out)
{
	char text[64], want[80], *rest;
	const char *e = number_end(s, text, sizeof(text));

	snprintf(want, sizeof(want), "%s, a number", what);
	if (!e) return expected(s, want);
	if (!strcmp(text, "inf") || !strcmp(text, "-inf") || !strcmp(text, "nan")) {
		*out = text[0] == 'n' ? (double)NAN : text[0] == '-' ? -HUGE_VAL : HUGE_VAL;
		s->at = e;
		return true;
	}
	if (strspn(text, "+-.0123456789eE") != strlen(text)) return expected(s, want);
	*out = strtod(text, &rest);
	if (*rest || rest == text) return expected(s, want);
	if (isinf(*out))
		return scan_fail(s, "%s is %s, more than a number can hold", what, text);
	s->at = e;
	return true;
}

bool
scan_hash(Scan *s, uint64_t *out)
{
	const char *e;

	skip_blanks(s);
	e = word_end(s);
	if (e - s->at < 3 || e - s->at > 18 || s->at[0] != '0' || s->at[1] != 'x')
		return expected(s, "a hash like 0x1f2e");
	*out = 0;
	for (const char *p = s->at + 2; p < e; p++) {
		int digit = is_digit(*p)             ? *p - '0'
			    : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10
						     : -1;

		if (digit < 0) return expected(s, "a hash like 0x1f2e");
		*out = *out << 4 | (unsigned)digit;
	}
	s->at = e;
	return true;
}

bool
scan_range(Scan *s, const char *what, uint32_t max, uint32_t *first, uint32_t *count)
{
	Scan before = *s;
	uint32_t last;

	if (!scan_u32(s, what, 0, max - 1, first)) return false;
	*count = 1;
	if (s->at == s->stop || *s->at != '-') return true;
	s->at++;
	if (!scan_u32(s, what, 0, max - 1, &last)) return false;
	if (last < *first) {
		*s = before;
		return scan_fail(s, "the range %u-%u ends before it begins", *first, last);
	}
	*count = last - *first + 1;
	return true;
}

bool
scan_place(Scan *s, Loc *out)
{
	const char *e;

	*out = (Loc){0};
	if (!scan_try(s, '!')) return true;
	if (scan_peek(s) == '"') {
		if (!scan_string(s, "a file name", &out->file)) return false;
	} else {
		for (e = s->at; e < s->stop && *e != ':' && *e != '"' &&
				(unsigned char)*e > 0x20 && (unsigned char)*e < 0x7F;
		     e++)
			continue;
		out->file = name_of_n(s->names, s->at, (size_t)(e - s->at));
		s->at = e;
	}
	if (!out->file) return expected(s, "a file name");
	return scan_punct(s, ':') && scan_u32(s, "the line", 1, 1 << 30, &out->line) &&
	       scan_punct(s, ':') && scan_u32(s, "the column", 1, 1 << 30, &out->col) &&
	       scan_punct(s, '+') && scan_u32(s, "the length", 0, 1 << 30, &out->len);
}

/* ---- mesh axes ---- */

/* Takes one part of a word: letters and digits up to a dot. */
static bool
mesh_part(const char **p, const char *e, const char **part, int *len)
{
	*part = *p;
	while (*p < e && **p != '.')
		++*p;
	*len = (int)(*p - *part);
	return *len > 0;
}

/* The axis of a mesh by kind and, where the word goes on with a number, sub; -1. */
static int
mesh_axis(const Mesh *mesh, const char *kind, int len, const char **p, const char *e)
{
	int found = -1, sub = -1;

	if (*p + 1 < e && **p == '.' && is_digit((*p)[1]))
		for (sub = 0, ++*p; *p < e && is_digit(**p); ++*p)
			sub = sub > 255 ? sub : sub * 10 + (**p - '0');
	for (int k = 0; k < mesh->n; k++) {
		const char *s = mesh_kind_str[mesh->ax[k].kind];

		if ((int)strlen(s) != len || memcmp(s, kind, (size_t)len) != 0) continue;
		if (sub >= 0 && mesh->ax[k].sub != sub) continue;
		if (found >= 0) return -1; /* several: it takes a number to tell which */
		found = k;
	}
	return found;
}

bool
scan_mesh_axes(Scan *s, const Mesh *mesh, int max, uint8_t *n, uint8_t *out)
{
	Scan before = *s;
	const char *word, *p, *part;
	int len, plen;

	if (!scan_word(s, "a mesh axis", &word, &len)) return false;
	p = word;
	while (p < word + len) {
		int k = -1;

		if (!mesh_part(&p, word + len, &part, &plen)) break;
		if (mesh)
			k = mesh_axis(mesh, part, plen, &p, word + len);
		else if (plen == 1 && *part >= '0' && *part < '0' + MAX_MESH)
			k = *part - '0';
		if (k < 0) {
			*s = before;
			return scan_fail(s, "no mesh axis '%.*s' in mesh %s",
					 len > 60 ? 60 : len, word,
					 mesh ? name_str(s->names, mesh->name)
					      : "0 .. 7 (it goes by number here)");
		}
		if (*n == max) {
			*s = before;
			return scan_fail(s, "more than %d mesh axes", max);
		}
		out[(*n)++] = (uint8_t)k;
		if (p == word + len) return true;
		p++; /* the dot */
	}
	*s = before;
	return scan_fail(s, "'%.*s' is no list of mesh axes", len > 60 ? 60 : len, word);
}
