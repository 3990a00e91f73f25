/*
 * report.c - the report of a plan as one page: its order, its head, and writing it.
 *
 * Input: facts of a plan. Output: HTML that needs nothing else, the same bytes for the same plan. Its second line marks it as a
 * report, which is how a later one knows that it may take its place; any other file is left alone.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "passes/report.h"

static const char marker[] = "<!doctype html>\n<!-- galvatronc report 1 -->\n";

/* ---- what it comes to ---- */

static void
lead(const Facts *f, Buf *out)
{
	const Plan *p = &f->m->plan;
	Buf b;
	const StageFacts *slow = &f->stage[f->slowest], *tight = &f->stage[f->tightest];
	buf_puts(out, "<p class=lead>");
	html_plural(out, f->samples, "sample");
	buf_puts(out, " on ");
	html_plural(out, p->ranks, "rank");
	buf_puts(out, ": ");
	html_plural(out, p->nstages, "stage");
	buf_puts(out, ", ");
	html_plural(out, p->microbatches, "microbatch");
	if (p->nstages > 1) buf_printf(out, ", %s", schedule_str[p->schedule]);
	buf_puts(out, ". What takes the time is <b>");
	buf_init(&b, f->c->tmp);
	facts_binds(f, &b);
	html_text(out, b.s);
	buf_puts(out, "</b>, busy ");
	html_percent(out, f->sim.step ? (double)slow->busy / (double)f->sim.step : 0);
	buf_puts(out, " of the step. ");
	if (p->nstages > 1)
		buf_printf(out, "Memory is tightest in stage %" PRIu32 ": ", f->tightest);
	else
		buf_puts(out, "A rank takes ");
	html_bytes(out, tight->rank_bytes);
	buf_puts(out, " of ");
	html_bytes(out, tight->limit);
	buf_puts(out, p->nstages > 1 ? "" : " of memory");
	if (tight->rank_bytes > tight->limit)
		buf_puts(out, ", which is <b>more than there is</b>");
	buf_puts(out, ". ");
	if (f->log && f->log->chosen != UINT32_MAX) {
		buf_puts(out, f->log->gap > 0
				  ? "By the tables no plan can be more than <b>"
				  : "No plan is faster: the gap to the lower bound is <b>");
		html_percent(out, f->log->gap);
		buf_puts(out, f->log->gap > 0 ? "</b> faster." : "</b>.");
	} else if (f->c->plan_path) {
		buf_puts(out, "The plan was given.");
	}
	buf_puts(out, "</p>\n");
}

static void
tile(Buf *out, const char *what)
{
	buf_printf(out, "<li><span>%s</span><b>", what);
}

static void
tiles(const Facts *f, Buf *out)
{
	const StageFacts *slow = &f->stage[f->slowest], *tight = &f->stage[f->tightest];
	const double s = (double)f->sim.step * 1e-9,
		     step = f->sim.step > 0 ? (double)f->sim.step : 1;
	buf_puts(out, "<ul class=tiles>\n");
	tile(out, "step");
	html_ns(out, f->sim.step);
	buf_puts(out, "</b><em>predicted</em></li>\n");
	tile(out, "throughput");
	const double rate = s > 0 ? (double)f->samples / s : 0;
	if (rate >= 100)
		buf_count(out, (int64_t)(rate + 0.5));
	else
		buf_printf(out, "%.3g", rate);
	buf_puts(out, "/s</b><em>samples</em></li>\n");
	tile(out, "arithmetic");
	buf_printf(out, "%.3g TFLOP/s</b><em>a rank",
		   s > 0 ? f->flops / s / f->m->plan.ranks * 1e-12 : 0);
	if (f->peak > 0 && s > 0) {
		buf_puts(out, ", ");
		html_percent(out, f->flops / s / f->peak);
		buf_puts(out, " of peak");
	}
	buf_puts(out, "</em></li>\n");
	tile(out, "memory");
	html_percent(out,
		     tight->limit > 0 ? (double)tight->rank_bytes / (double)tight->limit : 0);
	buf_puts(out, "</b><em>");
	html_bytes(out, tight->rank_bytes);
	buf_puts(out, " a rank</em></li>\n");
	tile(out, "bubble");
	html_percent(out, (double)(slow->part[PT_bubble] + slow->part[PT_pp]) / step);
	buf_printf(out, "</b><em>idle or waiting, stage %" PRIu32 "</em></li>\n", f->slowest);
	if (f->log && f->log->chosen != UINT32_MAX) {
		tile(out, "gap");
		html_percent(out, f->log->gap);
		buf_puts(out, "</b><em>to the lower bound</em></li>\n");
	}
	buf_puts(out, "</ul>\n");
}

static void
head(const Facts *f, Buf *out)
{
	buf_puts(out, "<header>\n<p class=eyebrow>Plan of a training step · ");
	html_text(out, name_str(f->m->names, f->m->source));
	buf_puts(out, " · ");
	buf_count(out, f->params);
	buf_puts(out, " parameters</p>\n<h1>");
	html_text(out, name_str(f->m->names, f->m->model));
	buf_puts(out, ": ");
	html_ns(out, f->sim.step);
	buf_puts(out, " a step</h1>\n");
	lead(f, out);
	buf_puts(out, "</header>\n");
	tiles(f, out);
}

static void
plan_text(const Facts *f, Buf *out)
{
	Buf b;
	buf_init(&b, f->c->tmp);
	plan_print(f->model, &b);
	html_section(out, "plan", "The plan", "A file for --plan, which may be edited.");
	buf_puts(out, "<details open><summary>As text</summary>\n<pre>");
	for (char *line = b.s, *end; *line; line = end + 1) {
		end = strchr(line, '\n');
		*end = '\0';
		html_text(out, line);
		buf_putc(out, '\n');
	}
	buf_puts(out, "</pre></details>\n</section>\n");
}

void
report_html(const Facts *f, Buf *out)
{
	buf_puts(out, marker);
	buf_puts(out, "<html lang=en>\n<head>\n<meta charset=utf-8>\n<meta name=viewport "
		      "content=\"width=device-width,initial-scale=1\">\n<title>");
	html_text(out, name_str(f->m->names, f->m->model));
	buf_puts(out, ": plan</title>\n<style>\n");
	for (size_t i = 0; report_style[i]; i++)
		buf_printf(out, "%s\n", report_style[i]);
	html_stage_colours(out, f->m->plan.nstages);
	buf_puts(out, "</style>\n</head>\n<body>\n<main>\n");
	head(f, out);
	report_machine(f, out);
	report_layers(f, out);
	buf_puts(out, "<div class=two>\n");
	report_memory(f, out);
	report_parts(f, out);
	buf_puts(out, "</div>\n");
	report_timeline(f, out);
	report_worth(f, out);
	report_tried(f, out);
	report_sources(f, out);
	plan_text(f, out);
	buf_puts(out, "<footer>Written by galvatronc. Times are predicted by a simulation of "
		      "the program that the plan lowers to; memory and traffic are that "
		      "program's own.</footer>\n</main>\n<script>\n");
	for (size_t i = 0; report_script[i]; i++)
		buf_printf(out, "%s\n", report_script[i]);
	buf_puts(out, "</script>\n</body>\n</html>\n");
}

/* ---- writing it ---- */

/* Why a path must not be written to; NULL: it may. */
static const char *
refusal(const char *path, Arena *tmp)
{
	struct stat st;
	size_t n;
	if (lstat(path, &st) != 0) return errno == ENOENT ? NULL : strerror(errno);
	if (!S_ISREG(st.st_mode)) return "it is no regular file";
	if (st.st_size == 0) return NULL;
	const char *old = file_read(tmp, path, (size_t)1 << 30, &n);
	if (!old) return strerror(errno);
	if (n >= sizeof marker - 1 && memcmp(old, marker, sizeof marker - 1) == 0) return NULL;
	return "there is a file that is no report of galvatronc";
}

bool
report_write(const Facts *f, const char *path)
{
	Buf b;
	const char *why = refusal(path, f->c->tmp);
	if (why) {
		diag_error(f->c->diag, (Loc){0}, "the report is not written to '%s': %s", path,
			   why);
		return false;
	}
	buf_init(&b, f->c->tmp);
	report_html(f, &b);
	if (file_write(path, b.s, b.n)) return true;
	diag_error(f->c->diag, (Loc){0}, "cannot write '%s': %s", path, strerror(errno));
	return false;
}
