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
 */
#include "passes/search.h"

enum { PRICES = 12 };

typedef struct Bound {
	const Leaf *l;
	const SolveProblem *p;
	const uint32_t *count; /* [classes] layers */
	double *a;             /* [stages] */
	uint32_t *kind;        /* [stages] the first stage that is like it */
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

int64_t
search_bound(const Leaf *l, const SolveProblem *p, const WorkRange *level, uint32_t nlevels)
{
	Arena *tmp = arena_new();
	uint32_t *count = NEW_N(tmp, uint32_t, p->nclasses);
	double room = 0, least = -1;
	for (uint32_t i = 0; i < p->nlayers; i++)
		count[p->class_of[i]]++;
	Bound b = {.l = l, .p = p, .count = count};
	weigh(&b, tmp);
	for (uint32_t i = 0; i < p->stages; i++)
		room += (double)p->limit[i];
	double free_of_charge = at(&b, 0, (WorkRange){0, INT64_MAX});
	if (!level) least = free_of_charge;
	for (uint32_t i = 0; i < nlevels && room > 0 && free_of_charge >= 0; i++) {
		double x = best_price(&b, free_of_charge / room, level[i]);
		if (x >= 0 && (least < 0 || x < least)) least = x;
	}
	arena_free(tmp);
	return least < 0 ? INT64_MAX : (int64_t)(least * (1 - 1e-9));
}
