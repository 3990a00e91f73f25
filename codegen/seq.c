/*
 * seq.c - a number per instance as an expression of the instance's ordinal, so that text does not grow with layers.
 */
#include "codegen/cg.h"

#include <inttypes.h>

/* values[lo + k] = a + k d + (k & 1) p for all k; three values are always met by some p and are no evidence. */
static bool
is_regular(const int64_t *x, uint32_t n, int64_t *d, int64_t *p)
{
	*p = 0;
	*d = n > 1 ? x[1] - x[0] : 0;
	if (n == 3 && x[0] == x[2]) {
		*d = 0;
		*p = x[1] - x[0];
	} else if (n > 3) {
		*d = (x[2] - x[0]) / 2;
		*p = x[1] - x[0] - *d;
	}
	for (uint32_t k = 0; k < n; k++)
		if (x[k] != x[0] + (int64_t)k * *d + (k & 1) * *p) return false;
	return true;
}

/* a + i d + (i & 1) p, where the run of values begins at i = first. */
static const char *
regular(Cg *g, int64_t a, int64_t d, int64_t p, uint32_t first)
{
	Buf b;

	buf_init(&b, g->a);
	a -= (int64_t)first * d;
	if (first & 1) a += p, p = -p;
	if (a || (!d && !p)) buf_printf(&b, "%" PRId64, a);
	if (d) buf_printf(&b, "%si", b.n ? (d < 0 ? " - " : " + ") : d < 0 ? "-" : "");
	if (d && d != 1 && d != -1) buf_printf(&b, " * %" PRId64, d < 0 ? -d : d);
	if (p)
		buf_printf(&b, "%s(i & 1) * %" PRId64,
			   b.n     ? (p < 0 ? " - " : " + ")
			   : p < 0 ? "-"
				   : "",
			   p < 0 ? -p : p);
	return b.s;
}

const char *
seq_expr(Cg *g, const int64_t *x, uint32_t n, const char *hint, bool *varies)
{
	const char *name;
	int64_t d, p;
	bool same = true;

	ENSURE(n > 0, "a sequence of nothing");
	for (uint32_t k = 1; k < n; k++)
		same &= x[k] == x[0];
	if (same) return cg_text(g->a, "%" PRId64, x[0]);
	*varies = true;
	if (is_regular(x, n, &d, &p)) return regular(g, x[0], d, p, 0);
	if (is_regular(x + 1, n - 1, &d, &p))
		return cg_text(g->a, "(i == 0 ? %" PRId64 " : %s)", x[0],
			       regular(g, x[1], d, p, 1));
	if (is_regular(x, n - 1, &d, &p))
		return cg_text(g->a, "(i == %u ? %" PRId64 " : %s)", n - 1, x[n - 1],
			       regular(g, x[0], d, p, 0));
	name = scope_take(g->file, hint);
	buf_printf(&g->tables, "static const int64_t %s[%u] = {", name, n);
	for (uint32_t k = 0; k < n; k++)
		buf_printf(&g->tables, "%s%" PRId64 ",", k % 8 ? " " : "\n\t", x[k]);
	buf_puts(&g->tables, "\n};\n");
	return cg_text(g->a, "%s[i]", name);
}

const char *
seq_condition(Cg *g, const bool *x, uint32_t n, const char *hint, bool *varies)
{
	uint32_t on = 0, last = 0, last_off = 0;
	int64_t *values;

	for (uint32_t k = 0; k < n; k++) {
		on += x[k];
		if (x[k])
			last = k;
		else
			last_off = k;
	}
	if (on == 0) return "false";
	if (on == n) return "true";
	*varies = true;
	if (on == 1) return cg_text(g->a, "i == %u", last);
	if (on == n - 1) return cg_text(g->a, "i != %u", last_off);
	values = NEW_N(g->a, int64_t, n);
	for (uint32_t k = 0; k < n; k++)
		values[k] = x[k];
	return seq_expr(g, values, n, hint, varies);
}
