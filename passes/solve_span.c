/*
 * solve_span.c - all that is worth doing with layers i .. j of one stage: label setting.
 *
 * A label is a way to run the first layers of the span: time, once, bytes, the most work of a layer. It grows by one layer at
 * a time and is dropped when
 *   - what follows cannot fit behind it,
 *   - what follows takes so much, memory priced (solve_price.c), that a weighted sum is over its limit, or
 *   - another label of its group is as good in everything.
 * Three things keep labels few. Equal layers of one group in a row take their candidates in rising order: any other order
 * is the same plan. Where all that may follow fits, bytes and work no longer matter, nor once where it stays below what is
 * `enough`. And where there are still too many, of labels nearly as fast only the smallest is kept; how much that may lose
 * is known and taken off the times of what comes out, so that these are lower bounds of what is possible.
 */
#include <math.h>
#include <string.h>

#include "passes/solve_parts.h"

enum { FEW_LABELS = 64, MOST_LEVELS = 16, MOST_LABELS = 1 << 19 };

typedef struct Label {
	int64_t t, once, bytes, work;
	uint32_t prev; /* of the layer before */
	uint32_t choice;
} Label;

typedef struct Layer {
	Label *l;
	uint32_t *begin; /* [ngroups + 1] */
} Layer;

typedef struct Labels { /* lists sorted by t, one behind another */
	Label *l;
	uint32_t n, cap;
	uint32_t *run; /* where each begins */
	uint32_t nruns, cruns;
} Labels;

typedef struct
    Step { /* of at most so many weighted sums: what a label has, and what a choice adds */
	double sum[MAX_WEIGHTS];
} Step;

typedef struct Grow { /* one span */
	Solver *s;
	const Kind *k;
	uint32_t i, j, ngroups, nw;
	int64_t limit, enough;
	Priced priced[MAX_WEIGHTS];
	double over[MAX_WEIGHTS];                    /* a sum above this is of no use */
	const double *bytes;                         /* rest of them */
	int64_t *most_bytes, *most_once, *most_work; /* [len + 1] of layers l .. */
	int64_t loss_t, loss_once;
	Layer *layer;
	Step *has; /* of the labels of the layer before, parallel to them */
	Labels made, spare;
} Grow;

/* ---- growing arrays in scratch memory ---- */

static void *
regrow(Solver *s, const void *old, uint32_t n, uint32_t *cap, size_t each)
{
	uint32_t now = *cap ? *cap * 2 : 256;
	void *p = scratch_alloc(s, now * each);
	if (n) memcpy(p, old, n * each);
	*cap = now;
	return p;
}

/* Room for n labels more. */
static void
make_room(Solver *s, Labels *x, uint32_t n)
{
	while (x->cap - x->n < n)
		x->l = regrow(s, x->l, x->n, &x->cap, sizeof *x->l);
}

static void
begin_run(Solver *s, Labels *x)
{
	if (x->nruns && x->run[x->nruns - 1] == x->n) return; /* the last one is empty */
	if (x->nruns == x->cruns)
		x->run = regrow(s, x->run, x->nruns, &x->cruns, sizeof *x->run);
	x->run[x->nruns++] = x->n;
}

/* ---- sorting: merges neighbouring runs until there is one ---- */

static uint32_t
merge_two(const Label *a, uint32_t na, const Label *b, uint32_t nb, Label *out)
{
	uint32_t x = 0, y = 0, n = 0;
	while (x < na && y < nb)
		if (b[y].t < a[x].t)
			out[n++] = b[y++];
		else
			out[n++] = a[x++];
	memcpy(out + n, a + x, (na - x) * sizeof *a);
	memcpy(out + n + (na - x), b + y, (nb - y) * sizeof *b);
	return na + nb;
}

static void
merge_runs(Grow *g)
{
	Labels *x = &g->made, *y = &g->spare;
	if (x->nruns && x->run[x->nruns - 1] == x->n) x->nruns--;
	while (x->nruns > 1) {
		uint32_t out = 0, n = 0;
		y->n = 0;
		make_room(g->s, y, x->n);
		for (uint32_t r = 0; r < x->nruns; r += 2) {
			uint32_t from = x->run[r];
			uint32_t mid = r + 1 < x->nruns ? x->run[r + 1] : x->n;
			uint32_t to = r + 2 < x->nruns ? x->run[r + 2] : x->n;
			x->run[n++] =
			    from; /* runs keep their places: nothing is lost on the way */
			out += merge_two(x->l + from, mid - from, x->l + mid, to - mid,
					 y->l + out);
		}
		x->nruns = n;
		Label *l = x->l;
		uint32_t cap = x->cap;
		x->l = y->l;
		x->cap = y->cap;
		y->l = l;
		y->cap = cap;
	}
}

/* ---- dominance ---- */

/* Of labels that were seen, all with at most so much work: the least bytes for any once. */
typedef struct Stairs {
	int64_t work;
	uint32_t n;
	struct Stair {
		int64_t once, bytes;
	} * at; /* rising once, falling bytes */
} Stairs;

/* How many steps have no more once. */
static inline uint32_t
steps_below(const Stairs *s, int64_t once)
{
	uint32_t lo = 0, hi = s->n;
	if (hi && s->at[hi - 1].once <= once) return hi;
	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;
		if (s->at[mid].once <= once)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static inline bool
below_stairs(const Stairs *s, const Label *x)
{
	uint32_t n = steps_below(s, x->once);
	return n && s->at[n - 1].bytes <= x->bytes;
}

static void
add_step(Stairs *s, const Label *x)
{
	uint32_t at = steps_below(s, x->once);
	if (at && s->at[at - 1].once == x->once) at--;
	uint32_t end = at;
	while (end < s->n && s->at[end].bytes >= x->bytes)
		end++;
	memmove(s->at + at + 1, s->at + end, (s->n - end) * sizeof *s->at);
	s->n = s->n - end + at + 1;
	s->at[at] = (struct Stair){x->once, x->bytes};
}

/* Stairs for every amount of work there is, rising; beyond MOST_LEVELS the rest is one, of the most. Returns how many. */
static uint32_t
find_levels(Solver *s, const Label *l, uint32_t n, Stairs *stairs)
{
	uint32_t levels = 0, count[MOST_LEVELS] = {0};
	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = 0;
		while (k < levels && stairs[k].work < l[i].work)
			k++;
		if (k == levels || stairs[k].work != l[i].work) {
			if (levels == MOST_LEVELS) {
				stairs[levels - 1].work =
				    larger(stairs[levels - 1].work, l[i].work);
				k = k < levels ? k : levels - 1;
			} else {
				memmove(stairs + k + 1, stairs + k,
					(levels - k) * sizeof *stairs);
				memmove(count + k + 1, count + k, (levels - k) * sizeof *count);
				stairs[k] = (Stairs){.work = l[i].work};
				count[k] = 0;
				levels++;
			}
		}
		count[k]++;
	}
	for (uint32_t k = 0; k < levels; k++)
		stairs[k].at = SCRATCH(s, struct Stair, count[k]);
	return levels;
}

/* Of labels in order of t leaves those that no other is as good as. Where there are too many amounts of work some may stay
 * that could go. */
static uint32_t
frontier(Solver *s, Label *l, uint32_t n)
{
	Stairs stairs[MOST_LEVELS];
	uint32_t levels = find_levels(s, l, n, stairs), kept = 0;
	for (uint32_t i = 0; i < n; i++) {
		bool beaten = false;
		uint32_t own = 0;
		while (own + 1 < levels && stairs[own].work < l[i].work)
			own++;
		for (uint32_t k = 0; k <= own && !beaten; k++)
			beaten = stairs[k].work <= l[i].work && below_stairs(&stairs[k], &l[i]);
		if (beaten) continue;
		if (stairs[own].work == l[i].work || !below_stairs(&stairs[own], &l[i]))
			add_step(&stairs[own], &l[i]);
		l[kept++] = l[i];
	}
	return kept;
}

/* ---- thinning ---- */

/* Cells by t, once and work, each with the label of least bytes. */
typedef struct Cells {
	uint32_t *slot; /* [size] label + 1; 0: free */
	uint32_t size;  /* a power of two */
	int64_t first, t, once;
} Cells;

/* Where the label of x's cell is, or would be. */
static uint32_t
cell_of(const Cells *c, const Label *l, const Label *x)
{
	int64_t t = (x->t - c->first) / c->t, once = x->once / c->once;
	uint64_t h = (uint64_t)t * 0x9e3779b97f4a7c15u + (uint64_t)once * 0xbf58476d1ce4e5b9u +
		     (uint64_t)x->work * 0x94d049bb133111ebu;
	for (uint32_t at = (uint32_t)(h >> 32) & (c->size - 1);;
	     at = (at + 1) & (c->size - 1)) {
		if (!c->slot[at]) return at;
		const Label *y = &l[c->slot[at] - 1];
		if ((y->t - c->first) / c->t == t && y->once / c->once == once &&
		    y->work == x->work)
			return at;
	}
}

/* Of labels within c->t and c->once of each other, in cells of that size, the smallest. Returns how many are left, in order. */
static uint32_t
thin_cells(Cells *c, const Label *l, uint32_t n, Label *out)
{
	uint32_t kept = 0;
	memset(c->slot, 0, c->size * sizeof *c->slot);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t *slot = &c->slot[cell_of(c, l, &l[i])];
		if (!*slot || l[i].bytes < l[*slot - 1].bytes) *slot = i + 1;
	}
	for (uint32_t i = 0; i < n; i++)
		if (c->slot[cell_of(c, l, &l[i])] == i + 1) out[kept++] = l[i];
	return kept;
}

/* Cells as large as it takes, as long in t as they are in once by what they cost a plan. */
static uint32_t
thin(Grow *g, Label *l, uint32_t n, uint32_t most, int64_t *loss_t, int64_t *loss_once)
{
	int64_t least = INT64_MAX, top = 0, weight = (int64_t)g->priced[0].w.t;
	for (uint32_t i = 0; i < n; i++) {
		if (l[i].once < least) least = l[i].once;
		top = larger(top, l[i].once);
	}
	int64_t range = larger(top - least, (l[n - 1].t - l[0].t) * weight);
	int64_t cell = range / 8 / most + 1;
	uint32_t kept = n;
	Label *out = SCRATCH(g->s, Label, n);
	Cells c = {.size = 64, .first = l[0].t};
	while (c.size < 2 * n)
		c.size *= 2;
	c.slot = SCRATCH(g->s, uint32_t, c.size);
	for (bool all = false; kept > most && !all; cell += cell / 2 + 1) {
		all = cell > range;
		c.t = cell / weight + 1;
		c.once = cell;
		kept = thin_cells(&c, l, n, out);
	}
	*loss_t = larger(*loss_t, c.t - 1);
	*loss_once = larger(*loss_once, c.once - 1);
	memcpy(l, out, kept * sizeof *l);
	return kept;
}

/* ---- looking for something good ---- */

/* The value that `nth` of them are below or at. Changes their order. */
static double
nth_of(double *x, uint32_t n, uint32_t nth)
{
	uint32_t lo = 0, hi = n - 1;
	while (lo < hi) {
		double pivot = x[lo + (hi - lo) / 2];
		uint32_t i = lo, j = hi;
		for (;;) {
			while (x[i] < pivot)
				i++;
			while (x[j] > pivot)
				j--;
			if (i >= j) break;
			double swap = x[i];
			x[i++] = x[j];
			x[j--] = swap;
		}
		if (nth <= j)
			hi = j;
		else
			lo = j + 1;
	}
	return x[lo];
}

/* Leaves `most` of the labels, those with the least weighted time with memory priced. */
static uint32_t
best_labels(Grow *g, Label *l, uint32_t n, uint32_t most)
{
	double *value = SCRATCH(g->s, double, 2 * n), *order = value + n;
	const Priced *p = &g->priced[0];
	for (uint32_t i = 0; i < n; i++)
		order[i] = value[i] = p->w.t * (double)l[i].t + p->w.once * (double)l[i].once +
				      p->price * (double)l[i].bytes;
	double worst = nth_of(order, n, most - 1);
	uint32_t kept = 0;
	for (uint32_t i = 0; i < n && kept < most; i++)
		if (value[i] <= worst) l[kept++] = l[i];
	return kept;
}

/* ---- growing ---- */

static Step
step_of(const Grow *g, int64_t t, int64_t once, int64_t bytes)
{
	Step x = {{0}};
	for (uint32_t f = 0; f < g->nw; f++)
		x.sum[f] = g->priced[f].w.t * (double)t + g->priced[f].w.once * (double)once +
			   g->priced[f].price * (double)bytes;
	return x;
}

/* Whether all that may follow fits behind a label, of which then bytes and work do not matter; and once likewise. */
static void
relax(const Grow *g, uint32_t l, Label *x)
{
	int64_t bytes = g->limit - g->most_bytes[l], work = g->most_work[l];
	if (x->bytes + larger(x->work, work) <= bytes) {
		x->bytes = bytes - work;
		x->work = 0;
	}
	if (x->once + g->most_once[l] <= g->enough) x->once = g->enough - g->most_once[l];
}

/* Adds choice c behind the labels from .. to of the layer before; NULL: behind nothing. */
static void
grow_by(Grow *g, uint32_t l, uint32_t group, const Choice *c, uint32_t choice,
	const Label *from, const Step *has, uint32_t n, uint32_t first, bool rising, Label add)
{
	Labels *x = &g->made;
	const double rest = g->bytes[(size_t)(l + 1 - g->i) * g->ngroups + group];
	Step step = step_of(g, add.t, add.once, add.bytes);
	double room[MAX_WEIGHTS];
	for (uint32_t f = 0; f < g->nw; f++)
		room[f] = g->over[f] - step.sum[f] -
			  g->priced[f].rest[(size_t)(l + 1 - g->i) * g->ngroups + group];
	int64_t most_bytes = g->limit - (int64_t)rest - add.bytes;
	begin_run(g->s, x);
	make_room(g->s, x, n);
	g->s->work += n;
	for (uint32_t i = 0; i < n; i++) {
		if (rising && from[i].choice > choice) continue;
		if (has[i].sum[0] > room[0]) continue;
		if (g->nw > 1 && has[i].sum[1] > room[1]) continue;
		if (g->nw > 2 && has[i].sum[2] > room[2]) continue;
		int64_t work = larger(from[i].work, c->work);
		if (from[i].bytes + work > most_bytes) continue;
		Label *q = &x->l[x->n++];
		*q = (Label){.t = from[i].t + add.t,
			     .once = from[i].once + add.once,
			     .bytes = from[i].bytes + add.bytes,
			     .work = work,
			     .prev = first + i,
			     .choice = choice};
		relax(g, l + 1 - g->i, q);
	}
}

/* Everything layer l makes in a group, sorted. */
static void
grow_group(Grow *g, uint32_t l, uint32_t group)
{
	const View *v = &g->k->view[g->s->p->class_of[l]];
	static const Label none = {0};
	static const Step nothing = {{0}};
	g->made.n = g->made.nruns = 0;
	const Layer *before = l > g->i ? &g->layer[l - 1 - g->i] : NULL;
	bool alike = l > g->i && g->s->p->class_of[l] == g->s->p->class_of[l - 1] &&
		     !g->loss_t && !g->loss_once && (l > g->i + 1 || !g->k->enters);
	for (uint32_t from = 0; from < (before ? g->ngroups : 1); from++) {
		uint32_t first = before ? before->begin[from] : 0;
		uint32_t n = before ? before->begin[from + 1] - first : 1,
			 at = from * g->ngroups;
		if (!n) continue;
		for (uint32_t c = v->begin[group]; c < v->begin[group + 1]; c++) {
			Label add = {
			    .t = v->c[c].t, .once = v->c[c].once, .bytes = v->c[c].bytes};
			if (!before) {
				add.t += v->c[c].enter_t;
				add.bytes += v->c[c].enter_bytes;
			} else if (v->move_t) {
				add.t += v->move_t[at + group];
				add.bytes += v->move_bytes[at + group];
			}
			grow_by(g, l, group, &v->c[c], c, before ? before->l + first : &none,
				before ? g->has + first : &nothing, n, first,
				alike && from == group, add);
		}
	}
	g->s->work += 16 * (int64_t)g->made.n; /* they are made, sorted, compared */
	merge_runs(g);
}

static void
grow_layer(Grow *g, uint32_t l)
{
	Layer *to = &g->layer[l - g->i];
	const View *v = &g->k->view[g->s->p->class_of[l]];
	Labels all = {0};
	int64_t loss_t = 0, loss_once = 0;
	uint32_t most = g->s->work > g->s->most_work ? FEW_LABELS : g->s->labels;
	if (most > MOST_LABELS / (g->j - g->i)) most = MOST_LABELS / (g->j - g->i);
	most = most / (v->ngroups ? v->ngroups : 1) + 1;
	uint32_t beam = g->s->beam / (v->ngroups ? v->ngroups : 1) + 4;
	to->begin = SCRATCH(g->s, uint32_t, g->ngroups + 1);
	for (uint32_t group = 0; group < g->ngroups; group++) {
		to->begin[group] = all.n;
		if (v->begin[group] == v->begin[group + 1]) continue;
		grow_group(g, l, group);
		Mark mark = scratch_mark(g->s);
		uint32_t n = frontier(g->s, g->made.l, g->made.n);
		if (g->s->beam && n > beam)
			n = best_labels(g, g->made.l, n, beam);
		else if (n > most)
			n = thin(g, g->made.l, n, most, &loss_t, &loss_once);
		scratch_release(g->s, mark);
		make_room(g->s, &all, n);
		if (n) memcpy(all.l + all.n, g->made.l, n * sizeof *all.l);
		all.n += n;
	}
	to->begin[g->ngroups] = all.n;
	to->l = all.l;
	g->loss_t += loss_t;
	g->loss_once += loss_once;
	for (uint32_t f = 0; f < g->nw; f++)
		g->over[f] +=
		    g->priced[f].w.t * (double)loss_t + g->priced[f].w.once * (double)loss_once;
	g->has = SCRATCH(g->s, Step, all.n);
	for (uint32_t i = 0; i < all.n; i++)
		g->has[i] = step_of(g, all.l[i].t, all.l[i].once, all.l[i].bytes);
}

static void
find_most(Grow *g)
{
	uint32_t len = g->j - g->i;
	g->most_bytes = SCRATCH(g->s, int64_t, len + 1);
	g->most_once = SCRATCH(g->s, int64_t, len + 1);
	g->most_work = SCRATCH(g->s, int64_t, len + 1);
	g->most_bytes[len] = g->most_once[len] = g->most_work[len] = 0;
	for (uint32_t x = len; x-- > 0;) {
		const View *v = &g->k->view[g->s->p->class_of[g->i + x]];
		g->most_bytes[x] = g->most_bytes[x + 1] + v->most_bytes;
		g->most_once[x] = g->most_once[x + 1] + v->most_once;
		g->most_work[x] = larger(g->most_work[x + 1], v->most_work);
	}
}

/* The last layer's labels of all groups: the frontier of t and once, and how each came about. */
static void
read_points(Grow *g, Arena *a, Span *out)
{
	Layer *last = &g->layer[g->j - 1 - g->i];
	uint32_t len = g->j - g->i;
	g->made.n = g->made.nruns = 0;
	for (uint32_t group = 0; group < g->ngroups; group++) {
		uint32_t n = last->begin[group + 1] - last->begin[group];
		begin_run(g->s, &g->made);
		make_room(g->s, &g->made, n);
		for (uint32_t i = 0; i < n; i++) {
			Label *q = &g->made.l[g->made.n++];
			*q = last->l[last->begin[group] + i];
			q->bytes = q->work = 0;
			q->prev = last->begin[group] + i;
		}
	}
	merge_runs(g);
	uint32_t n = frontier(g->s, g->made.l, g->made.n);
	if (n > MAX_POINTS) n = thin(g, g->made.l, n, MAX_POINTS, &g->loss_t, &g->loss_once);
	out->n = n;
	out->layers = len;
	out->p = NEW_N(a, Point, n ? n : 1);
	out->cand = NEW_N(a, uint16_t, (size_t)n * len + 1);
	for (uint32_t i = 0; i < n; i++) {
		out->p[i] = (Point){larger(0, g->made.l[i].t - g->loss_t),
				    larger(0, g->made.l[i].once - g->loss_once)};
		uint32_t at = g->made.l[i].prev;
		for (uint32_t l = len; l-- > 0;) {
			const Label *x = &g->layer[l].l[at];
			const View *v = &g->k->view[g->s->p->class_of[g->i + l]];
			out->cand[(size_t)i * len + l] = (uint16_t)v->c[x->choice].cand;
			at = x->prev;
		}
	}
}

void
span_solve(Solver *s, const Kind *k, uint32_t i, uint32_t j, int64_t limit, const Weights *w,
	   uint32_t nw, int64_t enough, Arena *a, Span *out)
{
	scratch_reset(s);
	Grow g = {.s = s,
		  .k = k,
		  .i = i,
		  .j = j,
		  .ngroups = k->ngroups,
		  .nw = nw,
		  .limit = limit,
		  .enough = enough,
		  .bytes = price_bytes(s, k, i, j)};
	out->done = true;
	out->n = 0;
	if (!(g.bytes[0] <= (double)limit)) return;
	for (uint32_t f = 0; f < nw; f++) {
		g.priced[f].w = w[f];
		price_span(s, k, i, j, limit, g.bytes[0], &g.priced[f]);
		g.over[f] = w[f].most + g.priced[f].price * (double)limit;
		g.over[f] += 1e-11 * fabs(g.over[f]) + 1e-6;
		if (g.priced[f].rest[0] > g.over[f]) return;
	}
	find_most(&g);
	g.layer = SCRATCH(s, Layer, j - i);
	for (uint32_t l = i; l < j; l++) {
		grow_layer(&g, l);
		if (!g.layer[l - i].begin[g.ngroups]) return;
	}
	read_points(&g, a, out);
}
