/*
 * explain_layer.c - --explain=LAYER: what the plan would cost with one thing changed, by running the search again.
 *
 *   block.3                            the other strategies of that layer
 *   block.3:tp=4,zero=3,recompute=full what this one would cost, the rest of the plan chosen anew around it
 *
 * A layer is named as the model names it, or by its number. Nothing here has a cost of its own.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "passes/explain.h"

enum { FORCED = 12 }; /* candidates solved again without being asked for all */

/* ---- one thing changed ---- */

/* Time of the best plan by the tables, with that changed. False: there is none, or nothing was searched; *again says why. */
static bool
ask(const Facts *f, const SearchChange *x, Arena *a, SearchAgain *again)
{
	*again = (SearchAgain){.why = "the plan was given, not searched for"};
	if (!f->log || !f->log->state) return false;
	return search_again(f->c, f->log, x, a, again) && again->fits;
}

/* What asking with x saves; -1: not known. */
static int64_t
saves(const Facts *f, const SearchChange *x, int64_t now)
{
	Arena *a = arena_new();
	SearchAgain again;
	int64_t saved = -1;
	if (ask(f, x, a, &again)) saved = again.time < now ? now - again.time : 0;
	arena_free(a);
	return saved;
}

Worth
explain_worth(const Facts *f)
{
	Worth w = {-1, -1, -1};
	const int64_t now = facts_chosen_time(f);
	if (now < 0) return w;
	const SearchChange memory = {.layer = UINT32_MAX, .more_memory = (int64_t)1 << 30},
			   near = {.layer = UINT32_MAX, .more_near = 1e9},
			   far = {.layer = UINT32_MAX, .more_far = 1e9};
	w.memory = saves(f, &memory, now);
	w.near = saves(f, &near, now);
	if (f->cluster->nodes > 1) w.far = saves(f, &far, now);
	return w;
}

/* ---- a layer ---- */

/* "block.3" or "4"; nlayers: there is none. */
static uint32_t
find_layer(const Facts *f, const char *s, size_t len)
{
	for (uint32_t l = 0; l < f->nlayers; l++) {
		const char *name = facts_layer(f, l);
		if (strlen(name) == len && memcmp(name, s, len) == 0) return l;
	}
	uint64_t l = 0;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9' || l > f->nlayers) return f->nlayers;
		l = 10 * l + (uint64_t)(s[i] - '0');
	}
	return len && l < f->nlayers ? (uint32_t)l : f->nlayers;
}

typedef struct Wanted {
	LogCandidate c;
	bool dp, tp; /* said */
} Wanted;

/* One of "dp=4", "tp=2", "zero=3", "recompute=full", "sp", "sp=0". */
static bool
read_key(const char *s, size_t len, Wanted *w)
{
	const char *eq = memchr(s, '=', len), *v = eq ? eq + 1 : s + len;
	const size_t k = (size_t)(eq ? eq - s : (ptrdiff_t)len), n = len - (size_t)(v - s);
	const bool number = n > 0 && n < 9 && strspn(v, "0123456789") >= n;
	const uint32_t x = number ? (uint32_t)strtoul(v, NULL, 10) : 0;
	if (k == 2 && memcmp(s, "sp", 2) == 0 && (!eq || (number && x <= 1))) {
		w->c.sp = !eq || x;
		return true;
	}
	if (k == 9 && memcmp(s, "recompute", 9) == 0)
		for (int i = 0; i < 3; i++)
			if (strlen(recompute_str[i]) == n &&
			    memcmp(recompute_str[i], v, n) == 0) {
				w->c.rc = (Recompute)i;
				return true;
			}
	if (!number) return false;
	if (k == 4 && memcmp(s, "zero", 4) == 0 && x <= 3) {
		w->c.zero = (uint8_t)x;
		return true;
	}
	if (!x || k != 2 || (memcmp(s, "dp", 2) != 0 && memcmp(s, "tp", 2) != 0)) return false;
	if (s[0] == 'd')
		w->c.dp = x, w->dp = true;
	else
		w->c.tp = x, w->tp = true;
	return true;
}

/* What is not said stays as it is; of dp and tp, the other one follows, so that all ranks of the stage are used. */
static bool
read_wanted(const Facts *f, const char *s, uint32_t ranks, Wanted *w)
{
	for (const char *end; *s; s = *end ? end + 1 : end) {
		end = s + strcspn(s, ",");
		if (read_key(s, (size_t)(end - s), w)) continue;
		diag_error(f->c->diag, (Loc){0},
			   "--explain: '%.*s' is no dp=N, tp=N, zero=0..3, "
			   "recompute=none|selective|full or sp=0|1",
			   (int)(end - s), s);
		return false;
	}
	if (w->dp && !w->tp && ranks % w->c.dp == 0) w->c.tp = ranks / w->c.dp;
	if (w->tp && !w->dp && ranks % w->c.tp == 0) w->c.dp = ranks / w->c.tp;
	if (w->c.tp == 1 && w->tp) w->c.sp = false;
	return true;
}

/* The answer to "what if this layer had that": how much more a step takes, or what is violated. */
static void
put_forced(const Facts *f, uint32_t layer, const LogCandidate *x, Buf *out)
{
	Arena *a = arena_new();
	SearchAgain again;
	const int64_t now = facts_chosen_time(f);
	if (ask(f, &(SearchChange){.layer = layer, .cand = *x}, a, &again)) {
		if (again.time > now) {
			buf_putc(out, '+');
			facts_ns(out, again.time - now);
			buf_printf(out, " a step (%.2f %%)",
				   100 * (double)(again.time - now) / (double)now);
		} else {
			buf_puts(out, "as fast");
		}
	} else if (again.over > 0) {
		buf_printf(out, "does not fit: stage %" PRIu32 " is over by ", again.tight);
		buf_bytes(out, again.over);
	} else {
		buf_puts(out, again.why && *again.why ? again.why : "cannot be");
	}
	buf_putc(out, '\n');
	arena_free(a);
}

typedef struct Ranked {
	int64_t time;
	uint32_t cand;
} Ranked;

static int
by_time(const void *a, const void *b)
{
	const Ranked *x = a, *y = b;
	if (x->time != y->time) return x->time < y->time ? -1 : 1;
	return x->cand < y->cand ? -1 : x->cand > y->cand;
}

static void
put_alternatives(const Facts *f, uint32_t layer, const LogTable *t, bool all, Buf *out)
{
	const uint32_t class = f->log->class_of[layer];
	Ranked *r = NEW_N(f->c->tmp, Ranked, t->ncand + 1);
	const LogCandidate *now = facts_chosen(f, layer, NULL);
	uint32_t said = 0;
	for (uint32_t k = 0; k < t->ncand; k++)
		r[k] = (Ranked){t->cost[class][k].cost.time, k};
	qsort(r, t->ncand, sizeof *r, by_time);
	for (uint32_t i = 0; i < t->ncand && (all || said < FORCED); i++) {
		const LogCost *c = &t->cost[class][r[i].cand];
		const LogCandidate *x = &t->cand[r[i].cand];
		Buf b, time, keeps;
		if (x == now) continue;
		buf_init(&b, f->c->tmp);
		buf_init(&time, f->c->tmp);
		buf_init(&keeps, f->c->tmp);
		facts_candidate(x, &b);
		facts_ns(&time, c->cost.time);
		buf_bytes(&keeps, c->cost.state + c->cost.saved);
		buf_printf(out, "        %-44s %9s %11s  ", b.s, time.s, keeps.s);
		put_forced(f, layer, x, out);
		said++;
	}
	if (said + 1 < t->ncand)
		buf_printf(out,
			   "        and %" PRIu32
			   " more, slower by themselves (--explain=%s:all)\n",
			   t->ncand - said - 1, facts_layer(f, layer));
	for (uint32_t i = 0; i < t->ncut; i++) {
		Buf b;
		buf_init(&b, f->c->tmp);
		facts_candidate(&t->cut[i].cand, &b);
		buf_printf(out, "        %-44s cut: %s\n", b.s, t->cut[i].why);
	}
}

bool
explain_layer(const Facts *f, const char *what, Buf *out)
{
	/* a name may hold a colon: the longest that is a layer's */
	size_t len = strlen(what);
	uint32_t layer = find_layer(f, what, len);
	while (layer == f->nlayers && len) {
		while (len && what[--len] != ':')
			continue;
		if (len) layer = find_layer(f, what, len);
	}
	if (layer == f->nlayers) {
		diag_error(f->c->diag, (Loc){0},
			   "--explain=%s: there is no such layer; the first is '%s', the last "
			   "'%s' or %" PRIu32 "",
			   what, facts_layer(f, 0), facts_layer(f, f->nlayers - 1),
			   f->nlayers - 1);
		return false;
	}
	const char *wanted = what[len] == ':' ? what + len + 1 : NULL;
	const LogTable *t = NULL;
	const LogCandidate *now = facts_chosen(f, layer, &t);
	if (!now) {
		diag_error(f->c->diag, (Loc){0},
			   "--explain=%s: the plan was given, not searched for, so there are "
			   "no alternatives to ask about",
			   what);
		return false;
	}
	buf_printf(out, "layer   %" PRIu32 " '%s', a %s: ", layer, facts_layer(f, layer),
		   facts_type(f, layer));
	facts_candidate(now, out);
	buf_putc(out, '\n');
	if (wanted && strcmp(wanted, "all") != 0) {
		Wanted w = {.c = *now};
		if (!read_wanted(f, wanted, now->dp * now->tp, &w)) return false;
		Buf b;
		buf_init(&b, f->c->tmp);
		facts_candidate(&w.c, &b);
		buf_printf(out, "        %s: ", b.s);
		put_forced(f, layer, &w.c, out);
		return true;
	}
	buf_printf(out, "        %-44s %9s %11s  %s\n", "instead", "microbatch", "keeps",
		   "the plan chosen anew around it");
	put_alternatives(f, layer, t, wanted != NULL, out);
	return true;
}
