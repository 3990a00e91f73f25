/*
 * report_bars.c - two pictures with a bar for each stage: what a rank's memory holds, and where its step goes. Stages in a row
 * with equal numbers share a bar.
 */
#include <inttypes.h>
#include <string.h>

#include "passes/report.h"

enum { BARS = 64 };

typedef struct Bars {
	const Facts *f;
	int n;                   /* kinds */
	const char *const *name; /* [n] */
	char letter;             /* classes of colours: letter, number */
	size_t at;               /* of the numbers in StageFacts */
	int64_t whole;           /* that is as wide as the picture */
	void (*say)(Buf *out, int64_t x);
} Bars;

static const int64_t *
numbers(const Bars *b, uint32_t stage)
{
	return (const int64_t *)((const char *)&b->f->stage[stage] + b->at);
}

static bool
alike(const Bars *b, uint32_t x, uint32_t y)
{
	return memcmp(numbers(b, x), numbers(b, y), sizeof(int64_t) * (size_t)b->n) == 0 &&
	       b->f->stage[x].limit == b->f->stage[y].limit;
}

static void
bar(const Bars *b, uint32_t stage, uint32_t count, const char *line, Buf *out)
{
	const int64_t *x = numbers(b, stage);
	buf_puts(out, "<div class=bl>");
	if (b->f->m->plan.nstages > 1) {
		buf_printf(out, "<i class=s%" PRIu32 ">", stage);
		html_range(out, stage, count);
		buf_puts(out, "</i>");
	} else {
		buf_puts(out, "all ranks");
	}
	buf_puts(out, "</div><div class=bar>");
	for (int i = 0; i < b->n; i++) {
		if (!x[i]) continue;
		buf_printf(out, "<i class=%c%d style=\"width:", b->letter, i);
		html_width(out, x[i], b->whole);
		buf_printf(out, "\" title=\"%s ", b->name[i]);
		b->say(out, x[i]);
		buf_puts(out, "\"></i>");
	}
	buf_printf(out, "%s</div>", line);
}

/* The legend: what each kind comes to in one stage. */
static void
legend(const Bars *b, uint32_t stage, Buf *out)
{
	buf_puts(out, "<ul class=legend>\n");
	for (int i = 0; i < b->n; i++) {
		bool used = false;
		for (uint32_t k = 0; k < b->f->m->plan.nstages; k++)
			used |= numbers(b, k)[i] != 0;
		if (!used) continue;
		buf_printf(out, "<li><i class=%c%d></i>%s <b>", b->letter, i, b->name[i]);
		b->say(out, numbers(b, stage)[i]);
		buf_puts(out, "</b></li>\n");
	}
	buf_puts(out, "</ul>\n");
}

static void
legend_title(const Facts *f, uint32_t stage, const char *what, Buf *out)
{
	if (f->m->plan.nstages > 1)
		buf_printf(out, "<p class=note>In stage %" PRIu32 ", %s:</p>\n", stage, what);
}

void
report_memory(const Facts *f, Buf *out)
{
	int64_t most = 0, limit = 0;
	for (uint32_t k = 0; k < f->m->plan.nstages; k++) {
		if (f->stage[k].rank_bytes > most) most = f->stage[k].rank_bytes;
		if (f->stage[k].limit > limit) limit = f->stage[k].limit;
	}
	/* a limit far away is left out of the picture rather than making it too small to read */
	const bool far = limit / 4 > most;
	const Bars b = {f,
			MK_COUNT,
			mem_kind_str,
			'm',
			offsetof(StageFacts, mem),
			far || most > limit ? most : limit,
			html_bytes};
	html_section(out, "memory", "Memory of a rank", "");
	buf_printf(out, "<div class=\"bars%s\">\n", f->m->plan.nstages > 16 ? " dense" : "");
	uint32_t drawn = 0;
	for (uint32_t k = 0, n; k < f->m->plan.nstages && drawn < BARS; k += n, drawn++) {
		char line[64] = "";
		Buf x;
		for (n = 1; k + n < f->m->plan.nstages && alike(&b, k, k + n); n++)
			continue;
		if (!far) {
			buf_init(&x, f->c->tmp);
			html_width(&x, f->stage[k].limit, b.whole);
			snprintf(line, sizeof line, "<u style=\"left:%s\"></u>", x.s);
		}
		bar(&b, k, n, line, out);
		buf_puts(out, "<div class=bv>");
		html_bytes(out, f->stage[k].rank_bytes);
		buf_puts(out, "</div>\n");
	}
	buf_puts(out, "</div>\n<p class=note>The limit is ");
	html_bytes(out, f->stage[f->tightest].limit);
	buf_puts(out, far ? ", far to the right. " : ", the line. ");
	buf_puts(out, "</p>\n");
	legend_title(f, f->tightest, "which has the least room", out);
	legend(&b, f->tightest, out);
	buf_puts(out, "</section>\n");
}

void
report_parts(const Facts *f, Buf *out)
{
	const Bars b = {f,           PT_COUNT, part_str, 'p', offsetof(StageFacts, part),
			f->sim.step, html_ns};
	html_section(out, "parts", "Where the time goes", "");
	buf_printf(out, "<div class=\"bars%s\">\n", f->m->plan.nstages > 16 ? " dense" : "");
	uint32_t drawn = 0;
	for (uint32_t k = 0, n; k < f->m->plan.nstages && drawn < BARS; k += n, drawn++) {
		for (n = 1; k + n < f->m->plan.nstages && alike(&b, k, k + n); n++)
			continue;
		bar(&b, k, n, "", out);
		buf_puts(out, "<div class=bv>");
		html_percent(out,
			     f->sim.step ? (double)f->stage[k].busy / (double)f->sim.step : 0);
		buf_puts(out, " busy</div>\n");
	}
	buf_puts(
	    out,
	    "</div>\n<p class=note>Traffic counts where nothing is computed beside it.</p>\n");
	legend_title(f, f->slowest, "which has the most to do", out);
	legend(&b, f->slowest, out);
	buf_puts(out, "</section>\n");
}
