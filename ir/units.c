/*
 * units.c - quantities of our text forms: bytes, times, rates, with the units people write.
 *
 * What is printed reads back as exactly what it was: a unit is used only where the number in front of it says it all.
 */
#include "ir/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Unit {
	const char *text;
	double factor;
} Unit;

/* Printers take the first that fits. */
static const Unit bytes_units[] = {{"TiB", 0x1p40}, {"GiB", 0x1p30}, {"MiB", 0x1p20},
				   {"KiB", 0x1p10}, {"TB", 1e12},    {"GB", 1e9},
				   {"MB", 1e6},     {"kB", 1e3},     {"KB", 1e3},
				   {"B", 1},        {"", 1}};
static const Unit time_units[] = {{"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"ns", 1}};
static const Unit prefixes[] = {{"P", 1e15}, {"T", 1e12}, {"G", 1e9},
				{"M", 1e6},  {"k", 1e3},  {"", 1}};

/* The number and the unit at the cursor: NUM UNIT, without a blank. False after an error. */
static bool
quantity(Scan *s, const char *what, const char *like, double *num, const char **unit, int *len)
{
	char digits[48], *rest = digits;
	const char *p, *e;
	size_t n = 0;

	if (scan_at_end(s))
		return scan_fail(s, "expected %s, like %s, not the end of the line", what,
				 like);
	for (p = s->at; p < s->stop && n + 3 < sizeof digits; p++) {
		bool exponent = (*p == 'e' || *p == 'E') && n && p + 1 < s->stop &&
				(p[1] == '-' || p[1] == '+' || (p[1] >= '0' && p[1] <= '9'));

		if (exponent)
			digits[n++] = *p++;
		else if (!((*p >= '0' && *p <= '9') || *p == '.'))
			break;
		digits[n++] = *p;
	}
	digits[n] = '\0';
	for (e = p; e < s->stop && *e != ' ' && *e != '\t' && *e != ':' && *e != ',';)
		e++;
	*num = strtod(digits, &rest);
	if (!n || *rest || e - p > 8 || !isfinite(*num))
		return scan_fail(s, "expected %s, a number and a unit like %s", what, like);
	*unit = p;
	*len = (int)(e - p);
	s->at = e;
	return true;
}

/* A rate below that without a unit has lost it. */
static const double PLAIN = 1e6;

static bool
is_unit(const char *unit, int len, const char *text)
{
	return (int)strlen(text) == len && memcmp(text, unit, (size_t)len) == 0;
}

bool
scan_bytes(Scan *s, const char *what, int64_t *out)
{
	Scan before = *s;
	const char *unit;
	double x;
	int len;

	if (!quantity(s, what, "80GB", &x, &unit, &len)) return false;
	for (size_t i = 0; i < COUNTOF(bytes_units); i++) {
		if (!is_unit(unit, len, bytes_units[i].text)) continue;
		x = nearbyint(x * bytes_units[i].factor);
		if (x <= 0x1p53) {
			*out = (int64_t)x;
			return true;
		}
		*s = before;
		return scan_fail(s, "%s is more than 8 PiB", what);
	}
	*s = before;
	return scan_fail(s, "expected %s in B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, like 80GB",
			 what);
}

bool
scan_time(Scan *s, const char *what, double *ns)
{
	Scan before = *s;
	const char *unit;
	double x;
	int len;

	if (!quantity(s, what, "92us", &x, &unit, &len)) return false;
	if (!len && x == 0) return *ns = 0, true;
	for (size_t i = 0; i < COUNTOF(time_units); i++) {
		if (!is_unit(unit, len, time_units[i].text)) continue;
		*ns = x * time_units[i].factor;
		if (*ns <= 0x1p53) return true;
		*s = before;
		return scan_fail(s, "%s is more than 100 days", what);
	}
	*s = before;
	return scan_fail(s, "expected %s in ns, us, ms or s, like 92us", what);
}

bool
scan_rate(Scan *s, const char *what, const char *of, double *out)
{
	Scan before = *s;
	const char *unit;
	double x;
	int len;

	if (!quantity(s, what, "300G", &x, &unit, &len)) return false;
	for (size_t i = 0; i < COUNTOF(prefixes); i++) {
		char text[24];

		snprintf(text, sizeof text, "%s%s/s", prefixes[i].text, of);
		if (!is_unit(unit, len, prefixes[i].text) && !is_unit(unit, len, text))
			continue;
		if (!len && x < PLAIN) break;
		*out = x * prefixes[i].factor;
		if (*out > 0 && *out <= 1e24) return true;
		*s = before;
		return scan_fail(s, "%s must be more than 0 and at most 1e24", what);
	}
	*s = before;
	return scan_fail(s, "expected %s in %s/s, with k, M, G, T or P in front, like 300G%s/s",
			 what, of, of);
}

/* x in that unit, if it reads back as x and is no longer than plain. */
static bool
put_in(Buf *b, double x, const Unit *u, const char *rest)
{
	if (fabs(x) < u->factor || x / u->factor * u->factor != x) return false;
	buf_double(b, x / u->factor);
	buf_printf(b, "%s%s", u->text, rest);
	return true;
}

/* In the unit that leaves the smallest number. */
void
text_bytes(Buf *b, int64_t bytes)
{
	const Unit *best = &(const Unit){"", 1};

	for (size_t i = 0; i < COUNTOF(bytes_units); i++) {
		const Unit *u = &bytes_units[i];

		if (bytes && bytes % (int64_t)u->factor == 0 && u->factor > best->factor)
			best = u;
	}
	buf_printf(b, "%" PRId64 "%s", bytes / (int64_t)best->factor, best->text);
}

void
text_time(Buf *b, double ns)
{
	for (size_t i = 0; i < COUNTOF(time_units); i++)
		if (put_in(b, ns, &time_units[i], "")) return;
	buf_double(b, ns);
	buf_puts(b, "ns");
}

void
text_rate(Buf *b, double rate, const char *of)
{
	char rest[24];

	snprintf(rest, sizeof rest, "%s/s", of);
	for (size_t i = 0; i < COUNTOF(prefixes); i++)
		if (put_in(b, rate, &prefixes[i], rest)) return;
	buf_double(b, rate);
	buf_puts(b, rest);
}
