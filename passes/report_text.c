/*
 * report_text.c - what every section of the report page is written with: escaped text, numbers, colours.
 */
#include <inttypes.h>
#include <string.h>

#include "passes/report.h"

/* Bytes of the UTF-8 character at s; 0: none is there. */
static size_t
utf8_length(const unsigned char *s)
{
	const size_t n = s[0] < 0x80   ? 1
			 : s[0] < 0xc2 ? 0
			 : s[0] < 0xe0 ? 2
			 : s[0] < 0xf0 ? 3
			 : s[0] < 0xf5 ? 4
				       : 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80) return 0;
	if (n == 3 && ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)))
		return 0;
	if (n == 4 && ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)))
		return 0;
	return n;
}

void
html_text(Buf *out, const char *s)
{
	for (size_t n; *s; s += n ? n : 1) {
		n = utf8_length((const unsigned char *)s);
		if (*s == '&')
			buf_puts(out, "&amp;");
		else if (*s == '<')
			buf_puts(out, "&lt;");
		else if (*s == '>')
			buf_puts(out, "&gt;");
		else if (*s == '"')
			buf_puts(out, "&quot;");
		else if (*s == '\'')
			buf_puts(out, "&#39;");
		else if (!n || (unsigned char)*s < ' ' || *s == 0x7f)
			buf_puts(out, *s == '\n' || *s == '\t' ? " " : "&#xfffd;");
		else
			buf_printf(out, "%.*s", (int)n, s);
	}
}

/* A number and its unit stay on one line. */
static void
bind(Buf *out, size_t from)
{
	char *space = strchr(out->s + from, ' ');
	if (!space) return;
	char unit[16];
	snprintf(unit, sizeof unit, "%s", space + 1);
	out->n = (size_t)(space - out->s);
	buf_printf(out,
		   "\xc2\xa0"
		   "%s",
		   strcmp(unit, "us") == 0 ? "µs" : unit);
}

void
html_ns(Buf *out, int64_t ns)
{
	const size_t from = out->n;
	if (!ns) {
		buf_puts(out, "0");
		return;
	}
	facts_ns(out, ns);
	bind(out, from);
}

void
html_bytes(Buf *out, int64_t bytes)
{
	const size_t from = out->n;
	buf_bytes(out, bytes);
	bind(out, from);
}

void
html_percent(Buf *out, double part)
{
	const double x = 100 * part, size = x < 0 ? -x : x;
	buf_printf(out, "%.*f%%", size >= 9.95 || size == 0 ? 0 : size >= 0.095 ? 1 : 2, x);
}

void
html_width(Buf *out, int64_t part, int64_t whole)
{
	/* thousandths of a per cent: times and bytes times that stay far below 2^63 only if they are made smaller first */
	while (whole > INT64_MAX / 200000 || part > INT64_MAX / 200000) {
		whole /= 2;
		part /= 2;
	}
	const int64_t x = whole > 0 ? (part * 100000 + whole / 2) / whole : 0;
	buf_printf(out, "%" PRId64, x / 1000);
	if (x % 1000) {
		char digits[8];
		snprintf(digits, sizeof digits, ".%03d", (int)(x % 1000));
		for (size_t n = strlen(digits); digits[n - 1] == '0'; n--)
			digits[n - 1] = '\0';
		buf_puts(out, digits);
	}
	buf_putc(out, '%');
}

void
html_range(Buf *out, uint32_t first, uint32_t count)
{
	buf_printf(out, "%" PRIu32, first);
	if (count > 1) buf_printf(out, "–%" PRIu32, first + count - 1);
}

void
html_plural(Buf *out, int64_t n, const char *what)
{
	const size_t len = strlen(what);
	buf_count(out, n);
	if (n != 1 && what[len - 1] == 'y')
		buf_printf(out, " %.*sies", (int)len - 1, what);
	else
		buf_printf(out, " %s%s", what, n == 1 ? "" : what[len - 1] == 'h' ? "es" : "s");
}

void
html_section(Buf *out, const char *id, const char *title, const char *note)
{
	buf_printf(out, "<section id=%s>\n<h2>%s</h2>\n", id, title);
	if (*note) buf_printf(out, "<p class=note>%s</p>\n", note);
}

const char *
html_room(size_t chars)
{
	return chars <= 2    ? "w1"
	       : chars <= 5  ? "w2"
	       : chars <= 9  ? "w3"
	       : chars <= 14 ? "w4"
			     : "w5";
}

void
html_stage_colours(Buf *out, uint32_t n)
{
	static const uint8_t stop[][3] = {
	    {0x3b, 0x6f, 0xd4}, {0x2c, 0x9c, 0xc4}, {0x2a, 0xa1, 0x86}, {0x7c, 0xad, 0x3a},
	    {0xdb, 0xa9, 0x2a}, {0xe8, 0x7f, 0x3c}, {0xdb, 0x54, 0x5f}, {0xb1, 0x54, 0xb0}};
	const uint32_t last = (uint32_t)COUNTOF(stop) - 1;
	for (uint32_t k = 0; k < n; k++) {
		/* few stages are a colour apart; many go along the whole scale */
		const uint32_t steps = n <= 4 ? 4 : n - 1, at = k * last * 256 / steps,
			       i = at / 256 < last ? at / 256 : last - 1, f = at - i * 256;
		int rgb[3];
		for (int j = 0; j < 3; j++)
			rgb[j] = (int)((stop[i][j] * (256 - f) + stop[i + 1][j] * f) / 256);
		const int light = (299 * rgb[0] + 587 * rgb[1] + 114 * rgb[2]) / 1000;
		buf_printf(out, ".s%" PRIu32 "{--c:#%02x%02x%02x;--t:#%s}\n", k, rgb[0], rgb[1],
			   rgb[2], light > 140 ? "111" : "fff");
	}
}
