/*
 * report.h - what the files of the report page share. Private to passes/report*.c, but for the first two.
 *
 *   report.c         the page, in order; writing it
 *   report_text.c    escaping, numbers, colours
 *   report_style.c   its style sheet and script
 *   report_machine.c nodes and devices, by stage
 *   report_layers.c  the strip of layers, the table of runs
 *   report_bars.c    memory and time of every stage
 *   report_time.c    the timeline
 *   report_tried.c   branches, finalists, candidates
 *
 * The page is one file: nothing is fetched, the script only adds tooltips, sorting and zoom. The same plan gives the same bytes.
 */
#ifndef GV_REPORT_H
#define GV_REPORT_H

#include "passes/explain.h"

/* Writes the page, aside and renamed. A file that is there and is neither empty nor a report is left alone. False after
 * a diagnostic. */
bool report_write(const Facts *f, const char *path);
void report_html(const Facts *f, Buf *out);

/* ---- report_text.c ---- */

/* Text of a user: markup escaped, control characters and bytes that are no UTF-8 replaced. */
void html_text(Buf *out, const char *s);
void html_ns(Buf *out, int64_t ns);
void html_bytes(Buf *out, int64_t bytes);
void html_percent(Buf *out, double part); /* of 1: "12.3%", "0.04%" */
/* A length as CSS takes it, per cent with three decimals at most. */
void html_width(Buf *out, int64_t part, int64_t whole);
void html_range(Buf *out, uint32_t first, uint32_t count); /* "3", "3–7" */
void html_plural(Buf *out, int64_t n, const char *what);   /* "1 rank", "1,024 ranks" */
/* Begins a section; `note` may be "". */
void html_section(Buf *out, const char *id, const char *title, const char *note);
/* Class of a label that is hidden where there is no room for it. */
const char *html_room(size_t chars);
/* The rules of the colours of n stages, along the pipeline from blue to red. */
void html_stage_colours(Buf *out, uint32_t n);

/* ---- report_style.c ---- */
extern const char *const report_style[], *const report_script[]; /* end with NULL */

/* ---- the sections ---- */
void report_machine(const Facts *f, Buf *out);
void report_layers(const Facts *f, Buf *out);
void report_memory(const Facts *f, Buf *out);
void report_parts(const Facts *f, Buf *out);
void report_timeline(const Facts *f, Buf *out);
void report_worth(const Facts *f, Buf *out);
void report_tried(const Facts *f, Buf *out);
void report_sources(const Facts *f, Buf *out);

#endif
