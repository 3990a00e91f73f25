/*
 * pack.c - intervals into bytes: items that are alive in one step get disjoint ranges, in as
 * few bytes as possible.
 *
 * Dynamic storage allocation is NP-hard; greedy best fit by a few orders, then retries, comes
 * within a percent or two on our bodies, and tests hold it to 1.02 x the most bytes alive.
 * Deterministic: ties go to the lower index.
 */
#include "passes/passes.h"

enum { ALIGN = 64 };

static int64_t
aligned(int64_t bytes)
{
	return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Bytes by height, by area, by time: three greedy orders that fail on different inputs. Ties
 * by index. */
static int
compare(const PackItem *x, const PackItem *y, int how)
{
	int64_t a = 0, b = 0;
	switch (how) {
	case 0: a = y->bytes, b = x->bytes; break;
	case 1:
		a = (int64_t)(y->last - y->first + 1), b = (int64_t)(x->last - x->first + 1);
		break;
	case 2: a = x->first, b = y->first; break;
	case 3: a = y->last, b = x->last; break;
	default: break;
	}
	if (a == b && how != 0) a = y->bytes, b = x->bytes;
	return a < b ? -1 : a > b;
}

static void
sort_items(const PackItem *items, uint32_t *order, uint32_t *spare, uint32_t n, int how)
{
	for (uint32_t width = 1; width < n; width *= 2) {
		for (uint32_t lo = 0; lo < n; lo += 2 * width) {
			uint32_t mid = lo + width < n ? lo + width : n,
				 hi = lo + 2 * width < n ? lo + 2 * width : n;
			uint32_t i = lo, j = mid;
			for (uint32_t k = lo; k < hi; k++) {
				bool left =
				    i < mid && (j >= hi || compare(&items[order[i]],
								   &items[order[j]], how) <= 0);
				spare[k] = order[left ? i++ : j++];
			}
		}
		for (uint32_t k = 0; k < n; k++)
			order[k] = spare[k];
	}
}

/* The tightest gap between the placed items that live together with items[k]; `placed` is
 * sorted by offset. */
static int64_t
best_gap(const PackItem *items, const int64_t *at, const uint32_t *placed, uint32_t n,
	 uint32_t k)
{
	int64_t top = 0, best = -1, slack = INT64_MAX, bytes = aligned(items[k].bytes);
	for (uint32_t i = 0; i < n; i++) {
		const PackItem *p = &items[placed[i]];
		if (p->last < items[k].first || p->first > items[k].last) continue;
		int64_t gap = at[placed[i]] - top;
		if (gap >= bytes && gap - bytes < slack) slack = gap - bytes, best = top;
		int64_t end = at[placed[i]] + aligned(p->bytes);
		if (end > top) top = end;
	}
	return best >= 0 ? best : top;
}

static int64_t
place(const PackItem *items, const uint32_t *order, uint32_t n, int64_t *at, uint32_t *placed)
{
	int64_t height = 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = order[i], j = i;
		at[k] = best_gap(items, at, placed, i, k);
		if (at[k] + aligned(items[k].bytes) > height)
			height = at[k] + aligned(items[k].bytes);
		for (; j > 0 && at[placed[j - 1]] > at[k]; j--)
			placed[j] = placed[j - 1];
		placed[j] = k;
	}
	return height;
}

/* Most bytes alive in one step. */
int64_t
pack_live(const PackItem *items, uint32_t n)
{
	int64_t most = 0;
	for (uint32_t i = 0; i < n; i++) { /* the maximum is reached where some item begins */
		int64_t live = 0;
		for (uint32_t j = 0; j < n; j++)
			if (items[j].first <= items[i].first && items[i].first <= items[j].last)
				live += aligned(items[j].bytes);
		if (live > most) most = live;
	}
	return most;
}

/*
 * Sets `at` of every item so that items alive together do not overlap; returns the height.
 * Greedy by several orders; then an item on top of the highest stack is placed first and the
 * rest again, as long as that helps (Sekiyama et al., "Profile-guided memory optimization for
 * deep neural networks", 2018, argue best fit; the retry is iterated greedy).
 */
int64_t
pack_items(Arena *tmp, PackItem *items, uint32_t n)
{
	enum { ORDERS = 4, TRIES = 64 };
	int64_t *at = NEW_N(tmp, int64_t, n), best = INT64_MAX, live = pack_live(items, n);
	uint32_t *order = NEW_N(tmp, uint32_t, n), *spare = NEW_N(tmp, uint32_t, n),
		 *keep = NEW_N(tmp, uint32_t, n);
	for (int how = 0; how < ORDERS && best > live; how++) {
		for (uint32_t i = 0; i < n; i++)
			order[i] = i;
		sort_items(items, order, spare, n, how);
		int64_t height = place(items, order, n, at, spare);
		if (height >= best) continue;
		best = height;
		for (uint32_t i = 0; i < n; i++)
			keep[i] = order[i], items[i].at = at[i];
	}
	for (int t = 0; t < TRIES && best > live; t++) {
		uint32_t top = 0; /* position in the order of an item that reaches the top */
		for (uint32_t i = 0; i < n; i++)
			if (items[keep[i]].at + aligned(items[keep[i]].bytes) == best) top = i;
		if (top == 0) break;
		uint32_t first = keep[top];
		for (uint32_t i = top; i > 0; i--)
			keep[i] = keep[i - 1];
		keep[0] = first;
		int64_t height = place(items, keep, n, at, spare);
		if (height <= best)
			for (uint32_t i = 0; i < n; i++)
				items[i].at = at[i];
		if (height < best) best = height;
	}
	return n ? best : 0;
}
