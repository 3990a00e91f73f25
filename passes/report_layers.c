/*
 * report_layers.c - how each layer is split: a strip with a cell for every layer and a row for every choice, and the same as a
 * table of runs with what a layer of each takes.
 */
#include <inttypes.h>
#include <string.h>

#include "passes/report.h"

enum { RUNS = 60 }; /* rows of the table */

/* ORDER Row: of the strip. */
typedef enum Row {
	ROW_type,
	ROW_stage,
	ROW_mesh,
	ROW_sp = ROW_mesh + MX_COUNT,
	ROW_zero,
	ROW_rc,
	ROW_COUNT
} Row;

typedef struct Choice { /* of a layer */
	uint32_t value[ROW_COUNT];
} Choice;

typedef struct Segment { /* layers in a row with equal choices */
	uint32_t first, count;
	Choice of;
} Segment;

typedef struct Strip {
	const Facts *f;
	Segment *seg;
	uint32_t n, cap;
	bool used[ROW_COUNT];
} Strip;

static Choice
choice_of(const Facts *f, uint32_t layer)
{
	const uint32_t inst = f->layer[layer];
	const Strategy *r = ir_run_of(f->m, inst);
	const Mesh *mesh = &f->m->plan.meshes[r->mesh];
	Choice x = {0};
	x.value[ROW_type] = layer;
	x.value[ROW_stage] = ir_stage_of(f->m, inst);
	for (int k = MX_dp; k < MX_COUNT; k++)
		x.value[ROW_mesh + k] = 1;
	for (int k = 1; k < mesh->n; k++)
		x.value[ROW_mesh + mesh->ax[k].kind] *= mesh->ax[k].degree;
	x.value[ROW_sp] = r->megatron_sp;
	x.value[ROW_zero] = r->zero;
	x.value[ROW_rc] = r->recompute;
	return x;
}

static bool
same_value(const Facts *f, Row row, const Choice *a, const Choice *b)
{
	return row == ROW_type ? facts_same_type(f, a->value[row], b->value[row])
			       : a->value[row] == b->value[row];
}

static Strip
strip_of(const Facts *f, Arena *a)
{
	Strip s = {.f = f};
	s.used[ROW_stage] = f->m->plan.nstages > 1;
	s.used[ROW_type] = s.used[ROW_mesh + MX_dp] = s.used[ROW_mesh + MX_tp] = true;
	s.used[ROW_sp] = s.used[ROW_zero] = s.used[ROW_rc] = true;
	for (uint32_t l = 0; l < f->nlayers; l++) {
		const Choice x = choice_of(f, l);
		bool same = s.n > 0;
		for (int r = 0; r < ROW_COUNT && same; r++)
			same = same_value(f, (Row)r, &s.seg[s.n - 1].of, &x);
		for (int k = MX_dp; k < MX_COUNT; k++)
			s.used[ROW_mesh + k] |= x.value[ROW_mesh + k] > 1;
		if (same)
			s.seg[s.n - 1].count++;
		else
			PUSH(a, s.seg, s.n, s.cap, ((Segment){l, 1, x}));
	}
	return s;
}

static void
row_name(Row row, Buf *out)
{
	static const char *const name[ROW_COUNT] = {[ROW_type] = "layer",
						    [ROW_stage] = "stage",
						    [ROW_sp] = "seq",
						    [ROW_zero] = "ZeRO",
						    [ROW_rc] = "recompute"};
	buf_puts(out, name[row] ? name[row] : mesh_kind_str[row - ROW_mesh]);
}

static uint32_t
log2_up(uint32_t x)
{
	uint32_t n = 0;
	while (n < 6 && 1u << n < x)
		n++;
	return n;
}

/* The class of a cell: a colour of its row, stronger for more. */
static void
cell_class(Row row, uint32_t value, Buf *out)
{
	if (row == ROW_type)
		buf_puts(out, "ct");
	else if (row == ROW_stage)
		buf_printf(out, "s%" PRIu32, value);
	else if (row == ROW_sp)
		buf_printf(out, "cs q%u", value ? 3u : 0u);
	else if (row == ROW_zero)
		buf_printf(out, "cz q%" PRIu32, value ? value + 1 : 0);
	else if (row == ROW_rc)
		buf_printf(out, "cr q%" PRIu32, 2 * value);
	else
		buf_printf(out, "c%d q%" PRIu32,
			   row == ROW_mesh + MX_dp   ? 1
			   : row == ROW_mesh + MX_tp ? 2
						     : 3,
			   log2_up(value));
}

static void
value_text(const Facts *f, Row row, uint32_t value, uint32_t count, Buf *out)
{
	static const char *const rc[] = {"none", "selective", "full"};
	if (row == ROW_type) {
		html_text(out, facts_type(f, value));
		if (count > 1) buf_printf(out, " ×%" PRIu32, count);
	} else if (row == ROW_sp) {
		buf_puts(out, value ? "split" : "–");
	} else if (row == ROW_rc) {
		buf_puts(out, rc[value]);
	} else {
		buf_printf(out, "%" PRIu32, value);
	}
}

static uint32_t
row_label(const Strip *s, Row row, uint32_t from, Buf *out, Arena *tmp)
{
	uint32_t to = from + 1, layers = s->seg[from].count;
	while (to < s->n && same_value(s->f, row, &s->seg[from].of, &s->seg[to].of))
		layers += s->seg[to++].count;
	Buf b;
	buf_init(&b, tmp);
	value_text(s->f, row, s->seg[from].of.value[row], layers, &b);
	buf_printf(out, "<div class=\"lb ");
	cell_class(row, s->seg[from].of.value[row], out);
	buf_printf(out,
		   "\" style=\"grid-column:%" PRIu32 "/%" PRIu32
		   "\"><span class=%s>%s</span></div>",
		   from + 1, to + 1, html_room(b.n), b.s);
	return to;
}

static void
strip_row(const Strip *s, Row row, Buf *out, Arena *tmp)
{
	buf_puts(out, "<div class=rl>");
	row_name(row, out);
	buf_puts(out, "</div><div class=row>");
	for (uint32_t i = 0; i < s->n; i++) {
		buf_puts(out, "<i class=\"");
		cell_class(row, s->seg[i].of.value[row], out);
		buf_printf(out, "\" style=\"--n:%" PRIu32 ";grid-column:%" PRIu32 "\"></i>",
			   s->seg[i].count, i + 1);
	}
	for (uint32_t i = 0; i < s->n;)
		i = row_label(s, row, i, out, tmp);
	buf_puts(out, "</div>\n");
}

/* Layer numbers under the strip, where runs begin; not where the one before is too near. */
static void
strip_axis(const Strip *s, Buf *out)
{
	uint32_t said = 0;
	buf_puts(out, "<div class=rl></div><div class=\"row axis\">");
	for (uint32_t i = 0; i < s->n; i++) {
		const uint32_t at = s->seg[i].first;
		if (i && (at - said) * 24 < s->f->nlayers && i + 1 < s->n) continue;
		said = at;
		buf_printf(out, "<span style=\"grid-column:%" PRIu32 "\">%" PRIu32 "</span>",
			   i + 1, at);
	}
	buf_puts(out, "</div>\n");
}

static void
strip(const Strip *s, Buf *out, Arena *tmp)
{
	buf_puts(out, "<div class=scroll><div class=strip style=\"--g:");
	for (uint32_t i = 0; i < s->n; i++)
		buf_printf(out, "%sminmax(%dpx,%" PRIu32 "fr)", i ? " " : "",
			   s->n <= 40 ? 9 : 5, s->seg[i].count);
	buf_puts(out, "\">\n");
	for (int r = 0; r < ROW_COUNT; r++)
		if (s->used[r]) strip_row(s, (Row)r, out, tmp);
	strip_axis(s, out);
	buf_puts(out, "</div></div>\n");
}

/* ---- the table ---- */

/* Segments that differ in their stage only are one row. Returns one past the last. */
static uint32_t
fold(const Strip *s, uint32_t from, uint32_t *layers)
{
	uint32_t to = from;
	*layers = 0;
	for (bool same = true; same;) {
		*layers += s->seg[to++].count;
		same = to < s->n;
		for (int r = 0; r < ROW_COUNT && same; r++)
			same = r == ROW_stage ||
			       same_value(s->f, (Row)r, &s->seg[from].of, &s->seg[to].of);
	}
	return to;
}

/* What bodies lo..hi of a layer take, computing, and in collectives. */
static BodyPrice
bodies_price(const Facts *f, uint32_t inst, int lo, int hi)
{
	BodyPrice sum = {0};
	const LayerType *t = &f->m->types[f->m->insts[inst].type];
	const uint32_t stage = ir_stage_of(f->m, inst);
	for (int k = lo; k <= hi; k++) {
		if (!t->body[k]) continue;
		const BodyPrice x = price_body(f->price, f->m, &f->m->bodies[t->body[k]],
					       f->m->plan.stages[stage].rank);
		sum.compute += x.compute;
		sum.comm += x.comm;
	}
	return sum;
}

static void
run_row(const Strip *s, uint32_t from, uint32_t to, uint32_t layers, Buf *out)
{
	const Facts *f = s->f;
	const Segment *g = &s->seg[from];
	const uint32_t inst = f->layer[g->first];
	const BodyPrice forward = bodies_price(f, inst, BK_F, BK_F),
			back = bodies_price(f, inst, BK_B, BK_W);
	buf_puts(out, "<tr><td class=l>");
	html_range(out, g->first, layers);
	buf_puts(out, "</td><td class=l>");
	html_text(out, facts_type(f, g->first));
	buf_puts(out, "</td><td>");
	html_range(out, g->of.value[ROW_stage],
		   s->seg[to - 1].of.value[ROW_stage] - g->of.value[ROW_stage] + 1);
	for (int r = ROW_mesh; r < ROW_COUNT; r++) {
		if (!s->used[r]) continue;
		buf_puts(out, "</td><td>");
		value_text(f, (Row)r, g->of.value[r], 1, out);
	}
	buf_puts(out, "</td><td>");
	html_ns(out, forward.compute);
	buf_puts(out, "</td><td>");
	html_ns(out, back.compute);
	buf_puts(out, "</td><td>");
	html_ns(out, forward.comm + back.comm);
	buf_puts(out, "</td><td>");
	html_bytes(out, f->m->types[f->m->insts[inst].type].slot_frame);
	buf_puts(out, "</td></tr>\n");
}

static void
run_table(const Strip *s, Buf *out)
{
	buf_puts(out, "<div class=scroll><table>\n<caption>One layer of each run, one "
		      "microbatch, on one rank</caption>\n<thead><tr><th "
		      "class=l>layers</th><th class=l>type</th><th>stages</th>");
	for (int r = ROW_mesh; r < ROW_COUNT; r++)
		if (s->used[r]) {
			buf_puts(out, "<th>");
			row_name((Row)r, out);
			buf_puts(out, "</th>");
		}
	buf_puts(out, "<th>forward</th><th>backward</th><th>collectives</th><th>kept</th></"
		      "tr></thead>\n<tbody>\n");
	uint32_t rows = 0, layers, from = 0;
	for (uint32_t to; from < s->n && rows < RUNS; from = to, rows++) {
		to = fold(s, from, &layers);
		run_row(s, from, to, layers, out);
	}
	buf_puts(out, "</tbody></table></div>\n");
	if (from < s->n)
		buf_printf(out,
			   "<p class=note>and %" PRIu32
			   " more runs; the plan at the end has all</p>\n",
			   s->n - from);
}

void
report_layers(const Facts *f, Buf *out)
{
	Arena *tmp = arena_new();
	const Strip s = strip_of(f, tmp);
	html_section(out, "layers", "Layers", "");
	strip(&s, out, tmp);
	run_table(&s, out);
	buf_puts(out, "</section>\n");
	arena_free(tmp);
}
