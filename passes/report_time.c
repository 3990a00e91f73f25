/*
 * report_time.c - the timeline: one step, a band for each stage with what its ranks compute, collectives and messages below it,
 * and the bytes alive below those.
 *
 * Of a long step the beginning and the end are drawn, with a few turns of the steady part each, and a mark between them. Where
 * layers would be finer than the picture, a bar is all a stage does for one microbatch in one direction. Shapes are in units
 * of a picture that is stretched to the width there is; text is placed in per cent, so that it is not.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "passes/report.h"

enum {
	UNITS = 24000,   /* of the picture's width */
	BREAK = 600,     /* of the mark between two windows */
	TURNS = 3,       /* of the steady part, drawn on either side of it */
	WHOLE = 40,      /* microbatches up to here are all drawn */
	FINE = 360,      /* events of a stage up to here are drawn by layers */
	BANDS = 64,      /* stages drawn */
	LABEL = 145,     /* units a bar has at least for each digit of the number in it */
	MAX_BARS = 9000, /* in all */
	COLUMN = 12,     /* units of a step of the memory curve */
	TOP = 22,        /* height of the axis */
};

/* ORDER Lane */
typedef enum Lane {
	LANE_compute,
	LANE_collective,
	LANE_exchange,
	LANE_memory,
	LANE_COUNT
} Lane;

typedef struct Bar {
	Part part;
	Lane lane;
	uint32_t mb, inst;
	int64_t from, to;
} Bar;

typedef struct Chart {
	const Facts *f;
	Arena *a;
	struct {
		int64_t from, to;
		int x, width;
	} window[2];
	int nwindows;
	bool fine;
	uint32_t every;         /* every so-many-th stage is drawn */
	int height[LANE_COUNT]; /* of lanes; 0: nothing is in it */
	int band;               /* height of a stage's lanes, with the gap below */
	uint32_t bars;          /* drawn so far */
} Chart;

/* ---- what is shown ---- */

/* When a stage begins with F or B of a microbatch. */
static int64_t
begin_of(const Facts *f, uint32_t stage, SimWhat what, uint32_t mb)
{
	const StageFacts *s = &f->stage[stage];
	int64_t at = -1;
	for (uint32_t i = 0; i < s->nevents; i++)
		if (s->event[i].what == what && s->event[i].mb == mb &&
		    (at < 0 || s->event[i].from < at))
			at = s->event[i].from;
	return at;
}

/* From the first turns of the steady part to its last ones there is only more of the same. */
static void
set_windows(Chart *c)
{
	const int64_t step = c->f->sim.step > 0 ? c->f->sim.step : 1;
	const uint32_t n = c->f->m->plan.microbatches, last = c->f->m->plan.nstages - 1;
	int64_t a = -1, b = -1;
	if (n > WHOLE) {
		a = begin_of(c->f, 0, SW_B, TURNS);
		b = begin_of(c->f, last, SW_F, n - TURNS);
		if (a < 0 ||
		    b <= a) { /* all forward, then all backward: what is left out is of both */
			a = begin_of(c->f, last, SW_F, TURNS);
			b = begin_of(c->f, last, SW_B, n - TURNS);
		}
	}
	if (a <= 0 || b <= a || b - a < step / 3) {
		c->nwindows = 1;
		c->window[0].to = step;
		c->window[0].width = UNITS;
		return;
	}
	const int64_t shown = a + step - b;
	c->nwindows = 2;
	c->window[0].to = a;
	c->window[0].width = (int)((double)(UNITS - BREAK) * (double)a / (double)shown);
	c->window[1].from = b;
	c->window[1].to = step;
	c->window[1].x = c->window[0].width + BREAK;
	c->window[1].width = UNITS - c->window[1].x;
}

static int
x_in(const Chart *c, int w, int64_t at)
{
	const int64_t from = c->window[w].from, to = c->window[w].to;
	return c->window[w].x +
	       (int)((double)c->window[w].width * (double)(at - from) / (double)(to - from) +
		     0.5);
}

/* Where on the picture from .. to is. False: nowhere. */
static bool
place(const Chart *c, int64_t from, int64_t to, int *x, int *width)
{
	for (int w = 0; w < c->nwindows; w++) {
		const int64_t lo = from > c->window[w].from ? from : c->window[w].from,
			      hi = to < c->window[w].to ? to : c->window[w].to;
		if (hi <= lo) continue;
		*x = x_in(c, w, lo);
		*width = x_in(c, w, hi) - *x;
		return true;
	}
	return false;
}

/* ---- bars ---- */

static Part
part_of(SimWhat what)
{
	static const Part part[SW_COUNT] = {
	    [SW_F] = PT_forward,     [SW_B] = PT_backward,  [SW_W] = PT_weights,
	    [SW_update] = PT_update, [SW_tp] = PT_tp,       [SW_fwd] = PT_pp,
	    [SW_bwd] = PT_pp,        [SW_param] = PT_dp,    [SW_grad] = PT_dp,
	    [SW_borrow] = PT_tied,   [SW_norm] = PT_update, [SW_wait] = PT_bubble};
	return part[what];
}

static bool
drawn(const Chart *c, const SimEvent *e)
{
	int x, width;
	return e->what != SW_wait && place(c, e->from, e->to, &x, &width);
}

/* Coarsely, backward and weights are one, and collectives belong to what they are inside of. */
static bool
joins(const Chart *c, Bar *last, const Bar *x)
{
	const int64_t close = c->f->sim.step / 2000;
	if (c->fine || last->lane != x->lane || x->from - last->to > close) return false;
	if (x->lane != LANE_compute)
		return last->part == x->part && x->from - last->to <= close / 4;
	if (last->mb != x->mb || (last->part == PT_update) != (x->part == PT_update))
		return false;
	if (x->part == PT_tp || x->part == last->part) return true;
	if (last->part == PT_tp) {
		last->part = x->part == PT_weights ? PT_backward : x->part;
		return true;
	}
	return last->part != PT_forward && x->part != PT_forward;
}

static Bar *
bars_of(Chart *c, uint32_t stage, uint32_t *n)
{
	const StageFacts *s = &c->f->stage[stage];
	Bar *bar = NULL;
	uint32_t cap = 0, last[LANE_COUNT];
	bool any[LANE_COUNT] = {false};
	*n = 0;
	for (uint32_t i = 0; i < s->nevents; i++) {
		const SimEvent *e = &s->event[i];
		if (!drawn(c, e)) continue;
		const Bar x = {part_of(e->what), (Lane)e->stream, e->mb,
			       e->inst,          e->from,         e->to};
		if (any[x.lane] && joins(c, &bar[last[x.lane]], &x)) {
			if (x.to > bar[last[x.lane]].to) bar[last[x.lane]].to = x.to;
			continue;
		}
		any[x.lane] = true;
		last[x.lane] = *n;
		PUSH(c->a, bar, *n, cap, x);
		if (!c->fine && x.part == PT_weights) bar[*n - 1].part = PT_backward;
	}
	return bar;
}

static void
set_shape(Chart *c)
{
	static const int height[][LANE_COUNT] = {
	    {40, 8, 8, 40}, {26, 6, 6, 22}, {20, 5, 5, 16}, {14, 4, 4, 10}, {8, 2, 2, 0}};
	const Facts *f = c->f;
	const uint32_t n = f->m->plan.nstages, size = n <= 2    ? 0
						      : n <= 4  ? 1
						      : n <= 8  ? 2
						      : n <= 16 ? 3
								: 4;
	bool used[LANE_COUNT] = {[LANE_compute] = true};
	uint32_t most = 0;
	c->every = (n + BANDS - 1) / BANDS;
	for (uint32_t k = 0; k < n; k++) {
		uint32_t count = 0;
		for (uint32_t i = 0; i < f->stage[k].nevents; i++) {
			const SimEvent *e = &f->stage[k].event[i];
			if (!drawn(c, e)) continue;
			used[e->stream] = true;
			count++;
		}
		if (count > most) most = count;
	}
	for (uint32_t k = 0; k < n; k++)
		used[LANE_memory] |= f->sim.stage[k].npoints > 1;
	c->fine = most <= FINE;
	for (int i = 0; i < LANE_COUNT; i++) {
		c->height[i] = used[i] ? height[size][i] : 0;
		c->band += c->height[i] ? c->height[i] + (i + 1 < LANE_COUNT) : 0;
	}
	c->band += n > 16 ? 3 : 9;
}

static int
lane_y(const Chart *c, uint32_t row, int lane)
{
	int y = TOP + (int)row * c->band;
	for (int i = 0; i < lane; i++)
		y += c->height[i] ? c->height[i] + 1 : 0;
	return y;
}

/* All bars of one part in one lane are one shape; its data say which microbatch and layer each is. */
static void
draw_part(Chart *c, const Bar *bar, uint32_t n, uint32_t row, Lane lane, Part part, Buf *out)
{
	const int y = lane_y(c, row, lane), h = c->height[lane];
	bool any = false;
	for (uint32_t i = 0; i < n; i++) {
		if (bar[i].lane != lane || bar[i].part != part) continue;
		buf_printf(out,
			   any ? " %" PRIu32
			       : "<path class=p%d data-s=%" PRIu32 " data-e=\"%" PRIu32,
			   any ? bar[i].mb : (uint32_t)part, row * c->every, bar[i].mb);
		if (c->fine) buf_printf(out, ".%" PRIu32, bar[i].inst);
		any = true;
	}
	if (!any) return;
	buf_puts(out, "\" d=\"");
	for (uint32_t i = 0; i < n && c->bars < MAX_BARS; i++) {
		int x, w;
		if (bar[i].lane != lane || bar[i].part != part ||
		    !place(c, bar[i].from, bar[i].to, &x, &w))
			continue;
		w = w > 30 ? w - 12 : w > 8 ? w - 3 : 5; /* a gap to the next */
		buf_printf(out, "M%d %dh%dv%dh-%dz", x, y, w, h, w);
		c->bars++;
	}
	buf_puts(out, "\"/>\n");
}

/* The most bytes alive in every column of a window, as heights. */
static int *
columns(const Chart *c, const SimStage *s, int w, int n, int64_t least, int64_t range)
{
	int *high = NEW_N(c->a, int, n);
	for (uint32_t i = 0; i < s->npoints; i++) {
		const int64_t next = i + 1 < s->npoints ? s->when[i + 1] : c->f->sim.step,
			      from = s->when[i] > c->window[w].from ? s->when[i]
								    : c->window[w].from,
			      to = next < c->window[w].to ? next : c->window[w].to;
		if (to <= from) continue;
		const int now = (int)((double)c->height[LANE_memory] *
					  (double)(s->bytes[i] - least) / (double)range +
				      0.5);
		for (int k = (x_in(c, w, from) - c->window[w].x) / COLUMN;
		     k < n && k * COLUMN + c->window[w].x < x_in(c, w, to); k++)
			if (now > high[k]) high[k] = now;
	}
	return high;
}

/* The least and the most bytes alive. */
static void
extremes(const SimStage *s, int64_t *least, int64_t *most)
{
	*least = *most = s->npoints ? s->bytes[0] : 0;
	for (uint32_t i = 0; i < s->npoints; i++) {
		if (s->bytes[i] < *least) *least = s->bytes[i];
		if (s->bytes[i] > *most) *most = s->bytes[i];
	}
}

/* What comes and goes: above the least there ever is, on one scale for all stages. */
static void
draw_memory(const Chart *c, uint32_t stage, uint32_t row, Buf *out)
{
	const SimStage *s = &c->f->sim.stage[stage];
	const int base = lane_y(c, row, LANE_memory) + c->height[LANE_memory];
	int64_t range = 1, least, most;
	if (!c->height[LANE_memory] || s->npoints < 2) return;
	for (uint32_t k = 0; k < c->f->m->plan.nstages; k++) {
		extremes(&c->f->sim.stage[k], &least, &most);
		if (most - least > range) range = most - least;
	}
	extremes(s, &least, &most);
	for (int w = 0; w < c->nwindows; w++) {
		const int x = c->window[w].x, n = (c->window[w].width + COLUMN - 1) / COLUMN;
		const int *high = columns(c, s, w, n, least, range);
		buf_printf(out, "<path class=mem d=\"M%d %d", x, base);
		for (int k = 0; k < n; k++)
			if (!k || high[k] != high[k - 1])
				buf_printf(out, "H%dV%d", x + k * COLUMN, base - high[k]);
		buf_printf(out, "H%dV%dz\"/>\n", x + c->window[w].width, base);
	}
}

/* ---- text, in per cent of the width ---- */

static void
numbers_of(const Chart *c, const Bar *bar, uint32_t n, uint32_t row, Buf *out)
{
	const int y = lane_y(c, row, LANE_compute) + c->height[LANE_compute] / 2 + 4;
	if (c->fine || c->height[LANE_compute] < 12) return;
	for (uint32_t i = 0; i < n; i++) {
		int x, w;
		if (bar[i].lane != LANE_compute || bar[i].part > PT_weights ||
		    !place(c, bar[i].from, bar[i].to, &x, &w) ||
		    w < LABEL * (bar[i].mb > 99 ? 3 : 2))
			continue;
		buf_puts(out, "<text x=");
		html_width(out, x + w / 2, UNITS);
		buf_printf(out, " y=%d>%" PRIu32 "</text>\n", y, bar[i].mb);
	}
}

/* A round number of ns, at least `least`. */
static int64_t
round_step(int64_t least)
{
	static const int mul[] = {1, 2, 5};
	for (int64_t p = 1;; p *= 10)
		for (size_t i = 0; i < COUNTOF(mul); i++)
			if (p * mul[i] >= least || p > INT64_MAX / 100) return p * mul[i];
}

static void
axis(const Chart *c, int height, Buf *out)
{
	int64_t shown = 0;
	for (int w = 0; w < c->nwindows; w++)
		shown += c->window[w].to - c->window[w].from;
	const int64_t tick = round_step(shown / 9);
	for (int w = 0; w < c->nwindows; w++)
		for (int64_t t = (c->window[w].from + tick - 1) / tick * tick;
		     t <= c->window[w].to; t += tick) {
			const int x = x_in(c, w, t);
			buf_puts(out, "<line class=tick x1=");
			html_width(out, x, UNITS);
			buf_puts(out, " x2=");
			html_width(out, x, UNITS);
			buf_printf(out, " y1=%d y2=%d />", TOP - 5, height);
			buf_printf(out,
				   "<text class=\"time%s%s\" x=", t / tick % 2 ? " odd" : "",
				   x < 300           ? " first"
				   : x > UNITS - 900 ? " last"
						     : "");
			html_width(out, x, UNITS);
			buf_puts(out, " y=12>");
			html_ns(out, t);
			buf_puts(out, "</text>\n");
		}
}

static void
labels(const Chart *c, Buf *out)
{
	const Plan *p = &c->f->m->plan;
	buf_printf(out, "<div class=tll style=\"padding-top:%dpx\">", TOP);
	for (uint32_t k = 0; k < p->nstages; k += c->every) {
		const int h = c->height[LANE_compute];
		buf_printf(out,
			   "<div style=\"height:%dpx\"><i class=s%" PRIu32
			   " style=\"height:%dpx;line-height:%dpx\">%" PRIu32 "</i></div>",
			   c->band, k, h, h, k);
	}
	buf_puts(out, "</div>");
}

static void
names(const Facts *f, Buf *out)
{
	buf_puts(out, "<ol id=names hidden>");
	for (uint32_t i = 0; i < f->m->ninsts; i++) {
		buf_puts(out, "<li>");
		html_text(out, name_str(f->m->names, f->m->insts[i].name));
		buf_puts(out, "</li>");
	}
	buf_puts(out, "</ol>\n");
}

static void
caption(const Chart *c, Buf *out)
{
	buf_puts(out, "<div class=cap><p class=note>One step. ");
	buf_puts(out,
		 c->fine ? "Each bar is a layer" : "Each bar is a microbatch, by its number");
	buf_puts(out, c->height[LANE_collective] || c->height[LANE_exchange]
			  ? "; thin lines below are collectives and messages"
			  : "");
	buf_puts(out,
		 c->height[LANE_memory] ? ", the grey area memory above the least in use" : "");
	if (c->every > 1) buf_printf(out, "; every %" PRIu32 "th stage is drawn", c->every);
	buf_puts(out, ". ");
	if (c->nwindows > 1) {
		buf_puts(out, "Left out at the mark: ");
		html_ns(out, c->window[1].from - c->window[0].to);
		buf_puts(out, " like what is around it. ");
	}
	buf_puts(out, "</p><p class=zoom hidden>Zoom <button type=button "
		      "data-z=1>1×</button><button type=button data-z=4>4×</button><button "
		      "type=button data-z=16>16×</button></p></div>\n");
}

static void
legend(const Chart *c, const bool used[PT_COUNT], Buf *out)
{
	buf_puts(out, "<ul class=legend>\n");
	for (int p = 0; p < PT_bubble; p++) {
		if (!used[p]) continue;
		const char *name =
		    !c->fine && p == PT_backward ? "backward, weight gradients" : part_str[p];
		buf_printf(out, "<li><i class=p%d></i>%s</li>\n", p, name);
	}
	buf_puts(out, "</ul>\n");
}

void
report_timeline(const Facts *f, Buf *out)
{
	Chart c = {.f = f, .a = arena_new()};
	bool used[PT_COUNT] = {false};
	Buf text;
	buf_init(&text, c.a);
	set_windows(&c);
	set_shape(&c);
	const uint32_t rows = (f->m->plan.nstages + c.every - 1) / c.every;
	const int height = TOP + (int)rows * c.band;
	html_section(out, "timeline", "Timeline", "");
	caption(&c, out);
	buf_puts(out, "<div class=tl>");
	labels(&c, out);
	buf_printf(out,
		   "<div class=tls><svg class=gantt height=%d role=img aria-label=\"timeline "
		   "of a step\">\n",
		   height);
	axis(&c, height, out);
	buf_printf(out,
		   "<svg id=gantt viewBox=\"0 0 %d %d\" preserveAspectRatio=none "
		   "width=\"100%%\" height=%d data-w=\"",
		   UNITS, height, height);
	for (int w = 0; w < c.nwindows; w++)
		buf_printf(out, "%s%" PRId64 " %" PRId64 " %d %d", w ? " " : "",
			   c.window[w].from, c.window[w].to, c.window[w].x, c.window[w].width);
	buf_puts(out, "\">\n");
	for (uint32_t row = 0; row < rows; row++) {
		uint32_t n;
		const Bar *bar = bars_of(&c, row * c.every, &n);
		for (int w = 0; w < c.nwindows; w++)
			buf_printf(out, "<path class=track d=\"M%d %dh%dv%dh-%dz\"/>\n",
				   c.window[w].x, lane_y(&c, row, 0), c.window[w].width,
				   c.height[0], c.window[w].width);
		for (int lane = 0; lane < LANE_memory; lane++)
			for (int p = 0; p < PT_bubble; p++)
				draw_part(&c, bar, n, row, (Lane)lane, (Part)p, out);
		for (uint32_t i = 0; i < n; i++)
			used[bar[i].part] = true;
		draw_memory(&c, row * c.every, row, out);
		numbers_of(&c, bar, n, row, &text);
	}
	buf_puts(out, "</svg>\n<g class=mbs>\n");
	if (text.n) buf_puts(out, text.s);
	buf_puts(out, "</g>\n");
	if (c.nwindows > 1) {
		buf_puts(out, "<text class=gap x=");
		html_width(out, c.window[0].width + BREAK / 2, UNITS);
		buf_printf(out, " y=%d>⋯</text>\n", TOP + c.height[0] / 2 + 6);
	}
	buf_puts(out, "</svg></div></div>\n");
	if (c.fine) names(f, out);
	legend(&c, used, out);
	buf_puts(out, "</section>\n");
	arena_free(c.a);
}
