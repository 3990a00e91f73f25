/*
 * solve_price.c - lower bounds of the solver: memory is not limited but has a price, so that layers depend on each other by
 * their groups alone and the best way is found in one sweep.
 *
 * For any price >= 0 of a byte, what a span takes is at least  min (time + price * bytes) - price * limit.  The best price is
 * where the line through the cheapest way that does not fit and the cheapest that does touches nothing below it. Sums are
 * doubles: whoever compares them leaves a margin (PRICE_MARGIN).
 */
#include <math.h>
#include <string.h>

#include "passes/solve_parts.h"

enum { MAX_PRICES = 8, MAX_TRIES = 16 };
#define TABLE_STEPS 3e7 /* at most, to make the tables */
#define TABLE_BYTES 32e6

typedef struct Rate { /* what is summed */
	double t, once, bytes;
} Rate;

static double
rate_choice(Rate r, const Choice *c)
{
	return r.t * (double)c->t + r.once * (double)c->once + r.bytes * (double)c->bytes;
}

/* best[group]: of a class's choices; also[group]: what the same choice is worth by another rate. */
static void
best_choices(const View *v, Rate r, Rate other, double *best, double *also)
{
	for (uint32_t x = 0; x < v->ngroups; x++) {
		uint32_t g = v->group[x];
		best[g] = INFINITY;
		for (uint32_t c = v->begin[g]; c < v->begin[g + 1]; c++) {
			double w = rate_choice(r, &v->c[c]);
			if (w >= best[g]) continue;
			best[g] = w;
			also[g] = rate_choice(other, &v->c[c]);
		}
	}
}

/* The same with what arrives, for a stage's first layer. */
static void
best_arrivals(const View *v, Rate r, Rate other, double *best, double *also)
{
	for (uint32_t x = 0; x < v->ngroups; x++) {
		uint32_t g = v->group[x];
		best[g] = INFINITY;
		for (uint32_t i = v->begin[g]; i < v->begin[g + 1]; i++) {
			Choice c = v->c[i];
			c.t += c.enter_t;
			c.bytes += c.enter_bytes;
			double w = rate_choice(r, &c);
			if (w >= best[g]) continue;
			best[g] = w;
			also[g] = rate_choice(other, &c);
		}
	}
}

/* cost[from * n + to] of a move with the best choice behind it, and the same by the other rate. */
static void
best_moves(const Kind *k, const View *v, Rate r, Rate other, double *cost, double *also)
{
	uint32_t n = k->ngroups;
	double *best = cost + (size_t)n * n, *worth = also + (size_t)n * n;
	best_choices(v, r, other, best, worth);
	for (uint32_t g = 0; g < n; g++)
		for (uint32_t x = 0; x < v->ngroups; x++) {
			uint32_t to = v->group[x], at = g * n + to;
			double t = v->move_t ? (double)v->move_t[at] : 0;
			double b = v->move_t ? (double)v->move_bytes[at] : 0;
			cost[at] = best[to] + r.t * t + r.bytes * b;
			also[at] = worth[to] + other.t * t + other.bytes * b;
		}
}

/* What a layer makes of the sums behind it. */
static void
sweep(const Kind *k, const View *v, const double *cost, const double *also, double *rest,
      double *worth)
{
	uint32_t n = k->ngroups;
	const double *next = rest + n, *next_worth = worth + n;
	for (uint32_t g = 0; g < n; g++) {
		double least = INFINITY, its = 0;
		for (uint32_t x = 0; x < v->ngroups; x++) {
			uint32_t to = v->group[x];
			double w = cost[g * n + to] + next[to];
			if (w >= least) continue;
			least = w;
			its = also[g * n + to] + next_worth[to];
		}
		rest[g] = least;
		worth[g] = its;
	}
}

/* Fills rest for layers i .. j (see Priced); returns what the way found is worth by the other rate. */
static double
price_back(Solver *s, const Kind *k, uint32_t i, uint32_t j, Rate r, Rate other, double *rest)
{
	uint32_t n = k->ngroups, len = j - i;
	double *worth = SCRATCH(s, double, (size_t)(len + 1) * n);
	double *cost = SCRATCH(s, double, (size_t)n *(n + 1)),
	       *also = SCRATCH(s, double, (size_t)n *(n + 1));
	memset(rest + (size_t)len * n, 0, sizeof *rest * n);
	memset(worth + (size_t)len * n, 0, sizeof *worth * n);
	for (uint32_t l = j - 1; l > i; l--) {
		const View *v = &k->view[s->p->class_of[l]];
		if (l == j - 1 || s->run_end[l] == l + 1)
			best_moves(k, v, r, other, cost, also);
		sweep(k, v, cost, also, rest + (size_t)(l - i) * n,
		      worth + (size_t)(l - i) * n);
	}
	const View *v = &k->view[s->p->class_of[i]];
	best_arrivals(v, r, other, cost, also);
	double least = INFINITY, its = 0;
	for (uint32_t x = 0; x < v->ngroups; x++) {
		uint32_t g = v->group[x];
		if (cost[g] + rest[n + g] >= least) continue;
		least = cost[g] + rest[n + g];
		its = also[g] + worth[n + g];
	}
	rest[0] = least;
	s->work += (int64_t)len * n * n;
	return its;
}

double *
price_bytes(Solver *s, const Kind *k, uint32_t i, uint32_t j)
{
	double *rest = SCRATCH(s, double, (size_t)(j - i + 1) * k->ngroups);
	price_back(s, k, i, j, (Rate){.bytes = 1}, (Rate){0}, rest);
	return rest;
}

/* A weighted time that no way to run layers i .. j exceeds. */
static double
most_time(const Solver *s, const Kind *k, uint32_t i, uint32_t j, const Weights *w)
{
	double sum = 0;
	for (uint32_t l = i; l < j; l++) {
		const View *v = &k->view[s->p->class_of[l]];
		sum += w->t * (double)v->most_t + w->once * (double)v->most_once;
	}
	return sum;
}

/* requires: `least` bytes at the least are within the limit. */
void
price_span(Solver *s, const Kind *k, uint32_t i, uint32_t j, int64_t limit, double least,
	   Priced *out)
{
	size_t cells = (size_t)(j - i + 1) * k->ngroups;
	Rate r = {out->w.t, out->w.once, 0};
	double *rest = SCRATCH(s, double, cells), *spare = NULL;
	double over_bytes = price_back(s, k, i, j, r, (Rate){.bytes = 1}, rest);
	double over = rest[0], best = rest[0], fits = most_time(s, k, i, j, &out->w);
	double fits_bytes = least;
	out->price = 0;
	out->rest = rest;
	for (int tries = 0; tries < MAX_TRIES && over_bytes > (double)limit; tries++) {
		if (!(fits > over) || !(over_bytes > fits_bytes)) break;
		r.bytes = (fits - over) / (over_bytes - fits_bytes);
		if (!spare) spare = SCRATCH(s, double, cells);
		double bytes = price_back(s, k, i, j, r, (Rate){.bytes = 1}, spare);
		double bound = spare[0] - r.bytes * (double)limit;
		double line = over + r.bytes * over_bytes;
		bool done = spare[0] >= line - 1e-12 * fabs(line);
		if (bound > best) {
			double *was = out->rest;
			best = bound;
			out->price = r.bytes;
			out->rest = spare;
			spare = was;
		}
		if (done) break;
		double value = bound + r.bytes * (double)limit - r.bytes * bytes;
		if (bytes > (double)limit) {
			over = value;
			over_bytes = bytes;
		} else {
			fits = value;
			fits_bytes = bytes;
		}
	}
}

/* ---- tables ---- */

/* Adds the prices at which the best choice of a class alone changes. */
static void
add_prices(Solver *s, Kind *k, const View *v, uint32_t *cap)
{
	const Choice *at = NULL;
	for (uint32_t i = 0; i < v->n; i++)
		if (!at || v->c[i].t < at->t ||
		    (v->c[i].t == at->t && v->c[i].bytes < at->bytes))
			at = &v->c[i];
	while (at) {
		const Choice *next = NULL;
		double least = 0;
		for (uint32_t i = 0; i < v->n; i++) {
			const Choice *c = &v->c[i];
			if (c->bytes >= at->bytes) continue;
			double price =
			    (double)(c->t - at->t) / ((double)at->bytes - (double)c->bytes);
			if (next && price > least) continue;
			if (next && price == least && c->bytes >= next->bytes) continue;
			next = c;
			least = price;
		}
		if (next && least > 0) PUSH(s->a, k->price, k->nprice, *cap, least);
		at = next;
	}
}

/* Sorted, without those that are all but equal, at most `most`: the first is 0. */
static void
order_prices(Kind *k, uint32_t most)
{
	uint32_t n = 0;
	for (uint32_t i = 1; i < k->nprice; i++)
		for (uint32_t j = i; j && k->price[j - 1] > k->price[j]; j--) {
			double x = k->price[j];
			k->price[j] = k->price[j - 1];
			k->price[j - 1] = x;
		}
	for (uint32_t i = 0; i < k->nprice; i++)
		if (!n || k->price[i] > k->price[n - 1] * (1 + 1e-6))
			k->price[n++] = k->price[i];
	k->nprice = n;
	if (n <= most) return;
	for (uint32_t i = 0; i < most; i++)
		k->price[i] = k->price[most > 1 ? (uint64_t)i * (n - 1) / (most - 1) : 0];
	k->nprice = most;
}

/* What a rate makes of every class: what comes first in a stage, and behind each group. */
typedef struct Rated {
	Rate r;
	double *arrive; /* [nclasses][ngroups] */
	double *behind; /* [nclasses][ngroups * (ngroups + 1)] */
	double *run;    /* [widest + 1][ngroups] of the run at hand, by length */
	double *row;    /* [2][ngroups] */
} Rated;

/* Which spans there are. */
typedef struct Reach {
	uint32_t *across; /* [n] where the longest that leaves its run ends; 0: none does */
	uint32_t *need;   /* [n] of the run that begins there: the longest part of any */
} Reach;

static void
rate_classes(Solver *s, const Kind *k, Rated *x)
{
	uint32_t n = k->ngroups, classes = s->p->nclasses;
	double *also = SCRATCH(s, double, (size_t)n *(n + 1));
	x->arrive = SCRATCH(s, double, (size_t)classes *n);
	x->behind = SCRATCH(s, double, (size_t)classes *n *(n + 1));
	x->run = SCRATCH(s, double, (size_t)(s->widest + 1) * n);
	x->row = SCRATCH(s, double, 2 * n);
	for (uint32_t c = 0; c < classes; c++) {
		best_arrivals(&k->view[c], x->r, x->r, x->arrive + (size_t)c * n, also);
		best_moves(k, &k->view[c], x->r, x->r, x->behind + (size_t)c * n * (n + 1),
			   also);
	}
}

/* One layer more: `next` from `now`. Returns the least of next. */
static double
forward(const Kind *k, const View *before, const View *v, const double *cost, const double *now,
	double *next)
{
	uint32_t n = k->ngroups;
	double least = INFINITY;
	for (uint32_t x = 0; x < v->ngroups; x++) {
		uint32_t to = v->group[x];
		next[to] = INFINITY;
		for (uint32_t y = 0; y < before->ngroups; y++) {
			uint32_t from = before->group[y];
			double w = now[from] + cost[from * n + to];
			if (w < next[to]) next[to] = w;
		}
		if (next[to] < least) least = next[to];
	}
	return least;
}

/* All spans inside the run that begins at layer i, and x->run for those that leave it. */
static void
price_run(Solver *s, const Kind *k, uint32_t i, uint32_t longest, Rated *x, double *out)
{
	uint32_t n = k->ngroups, class = s->p->class_of[i];
	const View *v = &k->view[class];
	const double *cost = x->behind + (size_t) class * n * (n + 1);
	double least = INFINITY;
	memcpy(x->run + n, x->arrive + (size_t) class * n, n * sizeof *x->run);
	for (uint32_t y = 0; y < v->ngroups; y++)
		if (x->run[n + v->group[y]] < least) least = x->run[n + v->group[y]];
	for (uint32_t len = 1; len <= longest; len++) {
		double *now = x->run + (size_t)len * n;
		if (len > 1) least = forward(k, v, v, cost, now - n, now);
		uint32_t pair = pair_of(s, i, i + len);
		if (pair != NO_PAIR) out[pair] = least;
	}
	s->work += (int64_t)longest * n * n;
}

/* All spans that begin at layer i and leave its run. */
static void
price_across(Solver *s, const Kind *k, uint32_t i, uint32_t end, Rated *x, double *out)
{
	uint32_t n = k->ngroups;
	const double *now = x->run + (size_t)(s->run_end[i] - i) * n;
	for (uint32_t l = s->run_end[i]; l < end; l++) {
		uint32_t class = s->p->class_of[l];
		double *next = x->row + (l & 1) * n;
		double least = forward(k, &k->view[s->p->class_of[l - 1]], &k->view[class],
				       x->behind + (size_t) class * n * (n + 1), now, next);
		uint32_t pair = pair_of(s, i, l + 1);
		if (pair != NO_PAIR) out[pair] = least;
		now = next;
	}
	s->work += (int64_t)(end - s->run_end[i]) * n * n;
}

static void
fill_table(Solver *s, const Kind *k, const Reach *reach, Rate r, double *out)
{
	Rated x = {.r = r};
	scratch_reset(s);
	rate_classes(s, k, &x);
	for (uint32_t run = 0; run < s->n; run = s->run_end[run]) {
		if (!reach->need[run]) continue;
		price_run(s, k, run, reach->need[run], &x, out);
		for (uint32_t i = run; i < s->run_end[run]; i++)
			if (reach->across[i]) price_across(s, k, i, reach->across[i], &x, out);
	}
}

static void
find_reach(Solver *s, Reach *r)
{
	r->across = NEW_N(s->a, uint32_t, s->n);
	r->need = NEW_N(s->a, uint32_t, s->n);
	for (uint32_t x = 0; x < s->npairs; x++) {
		uint32_t i = s->pairs[x].i, j = s->pairs[x].j, run = s->run_first[i];
		uint32_t part = (j < s->run_end[i] ? j : s->run_end[i]) - i;
		if (part > r->need[run]) r->need[run] = part;
		if (j > s->run_end[i] && j > r->across[i]) r->across[i] = j;
	}
}

/* Steps to make one table. */
static double
table_steps(const Solver *s, const Kind *k, const Reach *r)
{
	double layers = 0;
	for (uint32_t i = 0; i < s->n; i++) {
		layers += r->need[i];
		if (r->across[i]) layers += r->across[i] - s->run_end[i];
	}
	return layers * k->ngroups * k->ngroups;
}

static void
fill_sums(Solver *s, Kind *k)
{
	int64_t *once = SCRATCH(s, int64_t, s->n + 1); /* of layers 0 .. */
	once[0] = 0;
	for (uint32_t l = 0; l < s->n; l++)
		once[l + 1] = once[l] + k->view[s->p->class_of[l]].least_once;
	k->least_once = NEW_N(s->a, int64_t, s->npairs);
	k->least_work = NEW_N(s->a, int64_t, s->npairs);
	for (uint32_t x = 0; x < s->npairs; x++) {
		uint32_t i = s->pairs[x].i, j = s->pairs[x].j;
		k->least_once[x] = once[j] - once[i];
		for (uint32_t l = i; l < j; l = s->run_end[l])
			k->least_work[x] =
			    larger(k->least_work[x], k->view[s->p->class_of[l]].least_work);
	}
}

void
price_tables(Solver *s)
{
	Reach reach = {0};
	find_reach(s, &reach);
	double steps = 0, cells = (double)s->npairs * s->nkinds;
	for (uint32_t x = 0; x < s->nkinds; x++)
		steps += table_steps(s, &s->kind[x], &reach);
	double most = fmin(MAX_PRICES, fmin(TABLE_STEPS / steps, TABLE_BYTES / (8 * cells)));
	for (uint32_t x = 0; x < s->nkinds; x++) {
		Kind *k = &s->kind[x];
		uint32_t cap = 0;
		PUSH(s->a, k->price, k->nprice, cap, 0.0);
		for (uint32_t class = 0; class < s->p->nclasses; class ++)
			add_prices(s, k, &k->view[class], &cap);
		order_prices(k, most < 2 ? 2 : (uint32_t)most);
		k->least = NEW_N(s->a, double, (size_t)s->npairs * k->nprice);
		for (uint32_t i = 0; i < k->nprice; i++)
			fill_table(s, k, &reach, (Rate){.t = 1, .bytes = k->price[i]},
				   k->least + (size_t)i * s->npairs);
		k->least_bytes = NEW_N(s->a, double, s->npairs);
		fill_table(s, k, &reach, (Rate){.bytes = 1}, k->least_bytes);
		fill_sums(s, k);
	}
}
