/*
 * search_bound.c - a time that no plan of a branch is below.
 *
 * With stages i, t_i of a microbatch and o_i once a step, the slowest stage takes no less than any average of all:
 *
 *   sum t + (m - 1) max t + max o  >=  sum_i (1 + (m - 1) a_i) t_i + a_i o_i        for a_i >= 0, sum a_i = 1
 *
 * and a byte within the limits may be given any price p >= 0: what fits takes no less than with p * (bytes - limit) added.
 * So every layer takes at least its best candidate on its best stage; moves and arrivals are left out. a_i is as much as
 * stage i would get of the model if all were as fast as they can. What layers work in is a constant of a level
 * (search_pick.c): the least of all levels counts.
 *
 * Layers are whole: of n layers on k stages some stage has n / k or more, rounded up, and takes no less than the cheapest so
 * many in a row, memory priced for that stage alone. With few layers to a stage that says more than the average.
 */
#include "passes/search.h"

enum { PRICES = 12 };

typedef struct Bound {
	const Leaf *l;
	const SolveProblem *p;
	const uint32_t *count; /* [classes] layers */
	double *a;             /* [stages] */
	uint32_t *kind;        /* [stages] the first stage that is like it */
	uint32_t slots;        /* the fewest */
} Bound;

/* Of the model on one stage's table, if it were all there is. */
static double
alone(const Bound *b, uint32_t stage)
{
	const Rows *r = b->l->rows[stage];
	double sum = 0;
	for (uint32_t c = 0; c < b->p->nclasses; c++) {
		int64_t least = INT64_MAX;
		for (uint32_t k = 0; k < r->ncand[c]; k++)
			if (r->cost[c][k].time < least) least = r->cost[c][k].time;
		if (least < INT64_MAX) sum += (double)b->count[c] * (double)least;
	}
	return sum;
}

static void
weigh(Bound *b, Arena *tmp)
{
	double sum = 0;
	b->a = NEW_N(tmp, double, b->p->stages);
	b->kind = NEW_N(tmp, uint32_t, b->p->stages);
	for (uint32_t i = 0; i < b->p->stages; i++) {
		uint32_t j = 0;
		while (b->l->rows[j] != b->l->rows[i])
			j++;
		double t = j < i ? 0 : alone(b, i);
		b->a[i] = j < i ? b->a[j] : t > 0 ? 1 / t : 1;
		sum += b->a[i];
		while (j < i && b->p->slots[j] != b->p->slots[i])
			j++;
		b->kind[i] = j;
	}
	for (uint32_t i = 0; i < b->p->stages; i++)
		b->a[i] /= sum;
}

/* The least a layer of a class takes; -1: it has no candidate. */
static double
layer(const Bound *b, uint32_t class, double price, int64_t level)
{
	double least = -1;
	const SolveProblem *p = b->p;
	for (uint32_t i = 0; i < p->stages; i++) {
		const Rows *r = b->l->rows[i];
		double t = 1 + (p->microbatches - 1.0) * b->a[i], o = b->a[i],
		       saved = price * p->slots[i];
		bool seen = false; /* more slots are never better */
		for (uint32_t j = i + 1; j < p->stages && j <= i + 1 && !seen; j++)
			seen = b->l->rows[j] == r && p->slots[j] <= p->slots[i];
		if (seen) continue;
		for (uint32_t k = 0; k < r->ncand[class]; k++) {
			const SolveCost *c = &r->cost[class][k];
			if (c->work > level) continue;
			double x = t * (double)c->time + o * (double)c->once +
				   price * (double)c->state + saved * (double)c->saved;
			if (least < 0 || x < least) least = x;
		}
	}
	return least;
}

/* Below 0: some layer has no candidate. */
static double
at(const Bound *b, double price, WorkRange level)
{
	double sum = 0;
	for (uint32_t c = 0; c < b->p->nclasses; c++) {
		double x = b->count[c] ? layer(b, c, price, level.most) : 0;
		if (x < 0) return -1;
		sum += b->count[c] * x;
	}
	for (uint32_t i = 0; price > 0 && i < b->p->stages; i++)
		sum -= price * (double)(b->p->limit[i] - level.least);
	return sum;
}

/* The best price: the bound is concave in it, so that a bracket around the best value shrinks. */
static double
best_price(const Bound *b, double scale, WorkRange level)
{
	double most = at(b, 0, level), price = scale / 4096, best = 0;
	if (most < 0) return -1;
	for (int i = 0; i < PRICES * 2; i++, price *= 2) {
		double x = at(b, price, level);
		if (x <= most && best > 0) break;
		if (x > most) most = x, best = price;
	}
	for (double step = best / 2; best > 0 && step > best / 64; step /= 2)
		for (int way = -1; way <= 1; way += 2) {
			double x = at(b, best + way * step, level);
			if (x > most) {
				most = x;
				best += way * step;
				break;
			}
		}
	return most;
}

static double
larger(double a, double b)
{
	return a > b ? a : b;
}

/* ---- whole layers ---- */

/* The least of a layer's time and bytes on any stage, a microbatch each. */
static double
one_layer(const Bound *b, uint32_t class, double price, int64_t level)
{
	double least = -1;
	for (uint32_t i = 0; i < b->p->stages; i++) {
		const Rows *r = b->l->rows[i];
		if (b->kind[i] != i) continue;
		for (uint32_t k = 0; k < r->ncand[class]; k++) {
			const SolveCost *c = &r->cost[class][k];
			if (c->work > level) continue;
			double x =
			    (double)c->time +
			    price * ((double)c->state + (double)b->slots * (double)c->saved);
			if (least < 0 || x < least) least = x;
		}
	}
	return least;
}

typedef struct Whole {
	double sum, window; /* of all layers; of the cheapest so many in a row */
} Whole;

static bool
whole_at(const Bound *b, double price, WorkRange level, uint32_t n, double *of, Whole *out)
{
	const SolveProblem *p = b->p;
	double sum = 0, now = 0, least = -1, room = 0, most = 0;
	for (uint32_t c = 0; c < p->nclasses; c++) {
		of[c] = b->count[c] ? one_layer(b, c, price, level.most) : 0;
		if (of[c] < 0) return false;
	}
	for (uint32_t i = 0; i < p->nlayers; i++) {
		sum += of[p->class_of[i]];
		now += of[p->class_of[i]];
		if (i >= n) now -= of[p->class_of[i - n]];
		if (i + 1 >= n && (least < 0 || now < least)) least = now;
	}
	for (uint32_t i = 0; i < p->stages; i++) {
		double x = (double)(p->limit[i] - level.least);
		room += x;
		if (!i || x > most) most = x;
	}
	*out = (Whole){sum - (price > 0 ? price * room : 0),
		       least - (price > 0 ? price * most : 0)};
	return true;
}

/* sum + (m - 1) * window, each at its best price; what is done once at its average. Below 0: nothing. */
static double
whole_layers(const Bound *b, double scale, WorkRange level, Arena *tmp)
{
	const SolveProblem *p = b->p;
	uint32_t n = (p->nlayers + p->stages - 1) / p->stages;
	double *of = NEW_N(tmp, double, p->nclasses), once = 0;
	Whole best = {0, 0}, x;
	for (uint32_t c = 0; c < p->nclasses; c++) {
		int64_t least = INT64_MAX;
		for (uint32_t i = 0; i < p->stages; i++)
			for (uint32_t k = 0; b->kind[i] == i && k < b->l->rows[i]->ncand[c];
			     k++)
				if (b->l->rows[i]->cost[c][k].once < least)
					least = b->l->rows[i]->cost[c][k].once;
		if (least < INT64_MAX) once += b->count[c] * (double)least;
	}
	for (int i = 0; i < 2 * PRICES; i++) {
		double price = i ? scale / 1024 * (double)(1u << (i - 1)) : 0;
		if (i && scale <= 0) break;
		if (!whole_at(b, price, level, n, of, &x)) return -1;
		if (x.sum > best.sum) best.sum = x.sum;
		if (x.window > best.window) best.window = x.window;
	}
	return best.sum + (p->microbatches - 1.0) * best.window + once / p->stages;
}

/* ---- the layers of the most frequent class, stage by stage ---- */

typedef struct Kind { /* of stages: one table, one number of slots */
	uint32_t stage, n;
	double *t,
	    *v; /* [layers + 1] the least a stage takes with so many of them: a microbatch; all but one, and once */
	double add_t, add_v; /* of them: what it takes whatever else it has */
} Kind;

/* The least of weight_t * time + weight_o * once with memory at a price; below 0: no candidate. */
static double
priced(const Bound *b, const Kind *k, uint32_t class, double weight_t, double weight_o,
       double price, int64_t level)
{
	const Rows *r = b->l->rows[k->stage];
	double least = -1, saved = price * b->p->slots[k->stage];
	for (uint32_t i = 0; i < r->ncand[class]; i++) {
		const SolveCost *c = &r->cost[class][i];
		if (c->work > level) continue;
		double x = weight_t * (double)c->time + weight_o * (double)c->once +
			   price * (double)c->state + saved * (double)c->saved;
		if (least < 0 || x < least) least = x;
	}
	return least;
}

/* The first layer is on the first stage and the last on the last; what is not on the first has arrived. */
static void
add_ends(const Bound *b, Kind *k, uint32_t class, int64_t level)
{
	const SolveProblem *p = b->p;
	double others = p->microbatches - 1.0;
	uint32_t end[2] = {p->class_of[0], p->class_of[p->nlayers - 1]};
	bool at[2] = {k->stage == 0, k->stage + 1 == p->stages};
	for (int i = 0; i < 2; i++) {
		if (!at[i] || end[i] == class) continue;
		k->add_t += larger(0, priced(b, k, end[i], 1, 0, 0, level));
		k->add_v += larger(0, priced(b, k, end[i], others, 1, 0, level));
	}
	if (at[0]) return;
	const Rows *r = b->l->rows[k->stage];
	int64_t least = INT64_MAX;
	for (uint32_t c = 0; c < p->nclasses; c++)
		for (uint32_t i = 0; b->count[c] && i < r->ncand[c]; i++)
			if (r->cost[c][i].enter < least) least = r->cost[c][i].enter;
	if (least == INT64_MAX) return;
	k->add_t += (double)least;
	k->add_v += others * (double)least;
}

static void
fill_kind(const Bound *b, Kind *k, uint32_t class, WorkRange level, double scale, Arena *tmp)
{
	uint32_t n = b->count[class];
	double room = (double)(b->p->limit[k->stage] - level.least),
	       others = b->p->microbatches - 1.0;
	k->t = NEW_N(tmp, double, n + 1);
	k->v = NEW_N(tmp, double, n + 1);
	add_ends(b, k, class, level.most);
	for (int i = 0; i < 2 * PRICES && (!i || scale > 0); i++) {
		double price = i ? scale / 1024 * (double)(1u << (i - 1)) : 0;
		double t = priced(b, k, class, 1, 0, price, level.most),
		       v = priced(b, k, class, others, 1, others > 1 ? price * others : price,
				  level.most),
		       vp = others > 1 ? price * others : price;
		for (uint32_t j = 1; j <= n; j++) {
			k->t[j] =
			    larger(k->t[j], t < 0 ? 1e30 : j * t - (i ? price * room : 0));
			k->v[j] = larger(k->v[j], v < 0 ? 1e30 : j * v - (i ? vp * room : 0));
		}
	}
	for (uint32_t j = 0; j <= n; j++) {
		k->t[j] += k->add_t;
		k->v[j] += k->add_v;
	}
}

static uint32_t
find_kinds(const Bound *b, Kind *kind)
{
	uint32_t n = 0, last = b->p->stages - 1;
	for (uint32_t i = 0; i <= last; i++) {
		uint32_t j = 0;
		bool end = i == 0 || i == last;
		while (j < n &&
		       (end || kind[j].stage == 0 || b->kind[kind[j].stage] != b->kind[i]))
			j++;
		if (j == n) kind[n++] = (Kind){.stage = i};
		kind[j].n++;
	}
	return n;
}

/* All stages below v: the least sum of t for all layers. Layers go where one more costs least; t is convex. Below 0: no room. */
static double
spread(const Kind *kind, uint32_t nkinds, uint32_t layers, double v, uint32_t *used,
       uint32_t *at)
{
	double sum = 0;
	uint32_t left = layers;
	/* at[i]: layers on each stage of a kind; used[i]: stages of it with one more */
	for (uint32_t i = 0; i < nkinds; i++) {
		at[i] = used[i] = 0;
		sum += kind[i].n * kind[i].t[0];
		if (kind[i].v[0] > v) return -1;
	}
	while (left) {
		uint32_t best = UINT32_MAX;
		double least = 0;
		for (uint32_t i = 0; i < nkinds; i++) {
			if (at[i] + 1 > layers || kind[i].v[at[i] + 1] > v) continue;
			double x = kind[i].t[at[i] + 1] - kind[i].t[at[i]];
			if (best == UINT32_MAX || x < least) best = i, least = x;
		}
		if (best == UINT32_MAX) return -1;
		uint32_t n = kind[best].n - used[best];
		if (n > left) n = left;
		sum += n * least;
		left -= n;
		used[best] += n;
		if (used[best] == kind[best].n) at[best]++, used[best] = 0;
	}
	return sum;
}

/* sum of t + max of v over all ways to give the stages those layers; the others take what they do at least, anywhere. */
static double
by_stages(const Bound *b, WorkRange level, double scale, Arena *tmp)
{
	const SolveProblem *p = b->p;
	uint32_t class = 0;
	for (uint32_t c = 1; c < p->nclasses; c++)
		if (b->count[c] > b->count[class]) class = c;
	uint32_t n = b->count[class];
	Kind *kind = NEW_N(tmp, Kind, p->stages);
	uint32_t nkinds = find_kinds(b, kind);
	uint32_t *used = NEW_N(tmp, uint32_t, nkinds), *at = NEW_N(tmp, uint32_t, nkinds);
	double rest = 0, least = -1;
	for (uint32_t i = 0; i < nkinds; i++)
		fill_kind(b, &kind[i], class, level, scale, tmp);
	for (uint32_t c = 0; c < p->nclasses; c++) {
		uint32_t layers = b->count[c];
		if (c == class || !layers) continue;
		double x = one_layer(b, c, 0, level.most);
		if (x < 0) return -1;
		layers -= p->class_of[0] == c; /* those are in a stage's own */
		layers -= p->nlayers > 1 && p->class_of[p->nlayers - 1] == c;
		rest += layers * x;
	}
	for (uint32_t i = 0; i < nkinds; i++)
		for (uint32_t j = 0; j <= n; j++) {
			double v = kind[i].v[j];
			if (v >= 1e29 || (least >= 0 && v + rest >= least)) break;
			double sum = spread(kind, nkinds, n, v, used, at);
			if (sum >= 0 && (least < 0 || sum + v + rest < least))
				least = sum + v + rest;
		}
	return least;
}

int64_t
search_bound(const Leaf *l, const SolveProblem *p, const WorkRange *level, uint32_t nlevels)
{
	static const WorkRange any = {0, INT64_MAX};
	Arena *tmp = arena_new();
	uint32_t *count = NEW_N(tmp, uint32_t, p->nclasses);
	double room = 0, least = -1;
	for (uint32_t i = 0; i < p->nlayers; i++)
		count[p->class_of[i]]++;
	Bound b = {.l = l, .p = p, .count = count, .slots = UINT32_MAX};
	weigh(&b, tmp);
	for (uint32_t i = 0; i < p->stages; i++) {
		room += (double)p->limit[i];
		if (p->slots[i] < b.slots) b.slots = p->slots[i];
	}
	double free_of_charge = at(&b, 0, any);
	if (!level) {
		least = larger(free_of_charge, whole_layers(&b, 0, any, tmp));
		if (p->stages > 1 && least >= 0)
			least = larger(least, by_stages(&b, any, 0, tmp));
	}
	for (uint32_t i = 0; i < nlevels && room > 0 && free_of_charge >= 0; i++) {
		double scale = free_of_charge / room, x = best_price(&b, scale, level[i]);
		if (x < 0) continue;
		if (p->stages > 1) {
			double y = by_stages(&b, level[i], scale, tmp);
			if (y < 0) continue; /* no room for its layers */
			x = larger(x, larger(y, whole_layers(&b, scale, level[i], tmp)));
		}
		if (least < 0 || x < least) least = x;
	}
	arena_free(tmp);
	return least < 0 ? INT64_MAX : (int64_t)(least * (1 - 1e-9));
}
