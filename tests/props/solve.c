/*
 * solve.c - the solver against brute force: random small tables of several classes, cost tables, heads, with moves, work and
 * what arrives at a stage, fixed and free boundaries. The optimum must be equal, the plan as good as it says, the bound below
 * it. At least half of the tables must have another optimum when memory doubles, and one in twenty none at all: else they
 * would not test the limit.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "passes/solve.h"

enum { MAX_L = 6, MAX_C = 8, MAX_K = 4, MAX_H = 3, MAX_G = 4, CASES = 3000 };

static uint64_t seed;

static uint32_t
draw(uint32_t n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % n;
}

/* Two cost tables; stage s uses one of them. Both have the same groups and numbers of candidates or not. */
typedef struct Case {
	SolveProblem p;
	uint32_t class_of[MAX_L], ncand[2][MAX_L], slots[MAX_K], partition[MAX_K];
	int64_t limit[MAX_K];
	SolveCost cost[2][MAX_L][MAX_C], *rows[2][MAX_L];
	SolveMove moves[2][MAX_L][MAX_G * MAX_G];
	const SolveMove *move_rows[2][MAX_L];
	int64_t bytes[2][MAX_L][MAX_C * MAX_K];
	const int64_t *byte_rows[2][MAX_L];
	SolveTable table[2];
	const SolveTable *tables[MAX_K];
	int64_t head_time[MAX_H][MAX_K], head_bytes[MAX_H][MAX_K];
	SolveHead head[MAX_H];
} Case;

static void
draw_table(Case *x, uint32_t i, uint32_t most)
{
	SolveTable *t = &x->table[i];
	bool works = draw(2), enters = draw(2), moves = draw(3), given = draw(3) == 0;
	*t = (SolveTable){.ngroups = 1 + draw(MAX_G),
			  .ncand = x->ncand[i],
			  .cost = x->rows[i],
			  .move = moves ? x->move_rows[i] : NULL,
			  .bytes = given ? x->byte_rows[i] : NULL};
	for (uint32_t k = 0; k < x->p.nclasses; k++) {
		x->rows[i][k] = x->cost[i][k];
		x->move_rows[i][k] = x->moves[i][k];
		x->byte_rows[i][k] = x->bytes[i][k];
		x->ncand[i][k] = 1 + draw(most);
		for (uint32_t c = 0; c < x->ncand[i][k]; c++) {
			uint32_t much =
			    draw(30); /* what takes less memory takes longer, about */
			x->cost[i][k][c] = (SolveCost){.group = draw(t->ngroups),
						       .time = 1 + (30 - much) + draw(8),
						       .once = draw(40),
						       .state = much / 2 + draw(8),
						       .saved = much / 2 + draw(4),
						       .work = works ? draw(15) : 0,
						       .enter = enters ? draw(10) : 0,
						       .enter_saved = enters ? draw(5) : 0};
			for (uint32_t s = 0; s < MAX_K; s++)
				x->bytes[i][k][c * x->p.stages + s % x->p.stages] =
				    much * 2 + draw(20);
		}
		for (uint32_t m = 0; m < t->ngroups * t->ngroups; m++) {
			bool stays = m / t->ngroups == m % t->ngroups && draw(8);
			x->moves[i][k][m] =
			    stays ? (SolveMove){0} : (SolveMove){draw(8), draw(3)};
		}
	}
}

static void
draw_case(Case *x, uint32_t number)
{
	memset(x, 0, sizeof *x);
	seed = number * 2654435761u + 12345;
	SolveProblem *p = &x->p;
	uint32_t most = draw(8) ? 5 : MAX_C;
	*p = (SolveProblem){.nlayers = 1 + draw(MAX_L),
			    .microbatches = 1 + draw(6),
			    .class_of = x->class_of,
			    .table = x->tables,
			    .slots = x->slots,
			    .limit = x->limit,
			    .head = x->head,
			    .nheads = draw(MAX_H + 1),
			    .bound = INT64_MAX};
	p->nclasses = 1 + draw(3);
	p->stages = 1 + draw(p->nlayers < MAX_K ? p->nlayers : MAX_K);
	for (uint32_t i = 0; i < p->nlayers; i++)
		x->class_of[i] = i && draw(3) ? x->class_of[i - 1] : draw(p->nclasses);
	for (uint32_t i = 0; i < 2; i++)
		draw_table(x, i, most);
	bool equal = draw(2), gpipe = draw(2);
	uint32_t each = 15 + draw(35);
	for (uint32_t s = 0; s < p->stages; s++) {
		x->tables[s] = &x->table[equal ? 0 : draw(2)];
		x->slots[s] = gpipe ? 2 : 1 + (p->stages - s) / 2;
		x->limit[s] = each * (p->nlayers + p->stages - 1) / p->stages;
		if (!equal) x->limit[s] += draw(20);
	}
	for (uint32_t h = 0; h < p->nheads; h++) {
		x->head[h] = (SolveHead){x->head_time[h], x->head_bytes[h]};
		for (uint32_t s = 0; s < p->stages; s++) {
			x->head_time[h][s] = draw(20);
			x->head_bytes[h][s] = draw(20);
		}
	}
	if (draw(3) == 0) {
		for (uint32_t s = 0; s < p->stages; s++)
			x->partition[s] = 1;
		for (uint32_t i = p->stages; i < p->nlayers; i++)
			x->partition[draw(p->stages)]++;
		p->partition = x->partition;
	}
}

/* ---- brute force: every plan, layer by layer ---- */

typedef struct Brute {
	const SolveProblem *p;
	uint32_t head;
	int64_t best;
} Brute;

typedef struct So { /* far; of the stage at hand t .. work */
	uint32_t stage, layers, group;
	int64_t sum, max, all_once;
	int64_t t, once, bytes, work;
} So;

static int64_t
larger(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static So
close_stage(So f)
{
	f.sum += f.t;
	f.max = larger(f.max, f.t);
	f.all_once = larger(f.all_once, f.once);
	return f;
}

static So
open_stage(const Brute *b, So f, uint32_t stage)
{
	f.stage = stage;
	f.layers = 0;
	f.once = f.work = 0;
	f.t = b->p->nheads ? b->p->head[b->head].time[stage] : 0;
	f.bytes = b->p->nheads ? b->p->head[b->head].bytes[stage] : 0;
	return f;
}

static void try_from(Brute *b, uint32_t layer, So f);

/* The layer in the stage at hand. */
static void
try_candidates(Brute *b, uint32_t layer, So f)
{
	const SolveProblem *p = b->p;
	const SolveTable *t = p->table[f.stage];
	uint32_t class = p->class_of[layer];
	if (p->partition && f.layers == p->partition[f.stage]) return;
	for (uint32_t k = 0; k < t->ncand[class]; k++) {
		const SolveCost *c = &t->cost[class][k];
		int64_t slots = p->slots[f.stage];
		So g = f;
		g.t += c->time;
		g.once += c->once;
		g.bytes += t->bytes ? t->bytes[class][k * p->stages + f.stage]
				    : c->state + slots * c->saved;
		g.work = larger(g.work, c->work);
		if (f.layers && t->move) {
			const SolveMove *m = &t->move[class][f.group * t->ngroups + c->group];
			g.t += m->time;
			g.bytes += slots * m->saved;
		}
		if (!f.layers && f.stage) {
			g.t += c->enter;
			g.bytes += slots * c->enter_saved;
		}
		g.group = c->group;
		g.layers++;
		if (g.bytes + g.work <= p->limit[f.stage]) try_from(b, layer + 1, g);
	}
}

static void
try_from(Brute *b, uint32_t layer, So f)
{
	const SolveProblem *p = b->p;
	if (layer == p->nlayers) {
		if (f.stage + 1 != p->stages) return;
		f = close_stage(f);
		int64_t now = f.sum + ((int64_t)p->microbatches - 1) * f.max + f.all_once;
		if (now < b->best) b->best = now;
		return;
	}
	if (layer) try_candidates(b, layer, f);
	if (layer && f.stage + 1 == p->stages) return;
	if (p->partition && layer && f.layers != p->partition[f.stage]) return;
	So g = layer ? open_stage(b, close_stage(f), f.stage + 1) : open_stage(b, f, 0);
	try_candidates(b, layer, g);
}

static int64_t
brute(const SolveProblem *p)
{
	Brute b = {.p = p, .best = INT64_MAX};
	for (b.head = 0; b.head < p->nheads || b.head == 0; b.head++)
		try_from(&b, 0, (So){0});
	return b.best;
}

/* ---- comparing ---- */

static int
wrong(uint32_t number, const char *what, int64_t is, int64_t best)
{
	printf("case %" PRIu32 ": %s: %" PRId64 ", brute force %" PRId64 "\n", number, what, is,
	       best);
	return 1;
}

/* What `got` says is so. */
static int
check_plan(uint32_t number, const SolveProblem *p, SolveAnswer *got)
{
	SolveAnswer again = *got;
	int64_t time = got->time;
	for (uint32_t s = 0; s < p->stages; s++) {
		uint32_t end = s + 1 < p->stages ? got->first[s + 1] : p->nlayers;
		if (end <= got->first[s] ||
		    (p->partition && end - got->first[s] != p->partition[s]))
			return wrong(number, "stage without its layers", s, end);
	}
	if (!solve_evaluate(p, &again)) return wrong(number, "over a limit", time, 0);
	if (again.time != time) return wrong(number, "says another time", time, again.time);
	return 0;
}

static int
check_case(uint32_t number, Case *x, int64_t best)
{
	Arena *a = arena_new();
	SolveProblem *p = &x->p;
	SolveAnswer got;
	int bad = 0;
	bool found = solve(a, p, &got);
	if (found != (best != INT64_MAX)) bad += wrong(number, "found", found, best);
	int64_t least = solve_least(a, p);
	if (least > best) bad += wrong(number, "solve_least", least, best);
	if (found && !bad) {
		bad += check_plan(number, p, &got);
		if (got.time != best) bad += wrong(number, "time", got.time, best);
		if (got.least != best) bad += wrong(number, "least", got.least, best);
		p->bound = best;
		if (solve(a, p, &got)) bad += wrong(number, "beats the best", got.time, best);
		p->bound = best + 1;
		if (!solve(a, p, &got) || got.time != best)
			bad += wrong(number, "just below the bound", got.time, best);
		p->bound = INT64_MAX;
		p->gap = 0.1;
		if (!solve(a, p, &got) || got.time < best || got.least > best ||
		    (double)(got.time - got.least) > 0.1 * (double)got.time)
			bad += wrong(number, "within a tenth", got.time, best);
		else
			bad += check_plan(number, p, &got);
		p->gap = 0;
	}
	arena_free(a);
	return bad;
}

int
main(int argc, char **argv)
{
	static Case x;
	uint32_t cases = argc > 1 ? (uint32_t)atoi(argv[1]) : CASES;
	uint32_t infeasible = 0, changed = 0;
	int bad = 0;
	for (uint32_t i = 0; i < cases && bad < 10; i++) {
		draw_case(&x, i);
		int64_t best = brute(&x.p);
		bad += check_case(i, &x, best);
		infeasible += best == INT64_MAX;
		for (uint32_t s = 0; s < x.p.stages; s++)
			x.limit[s] *= 2;
		changed += brute(&x.p) != best;
	}
	printf("%" PRIu32 " tables: %.1f %% have no plan, %.1f %% another optimum in twice the "
	       "memory; %d wrong\n",
	       cases, 100.0 * infeasible / cases, 100.0 * changed / cases, bad);
	if (2 * changed < cases || 20 * infeasible < cases) {
		puts("the tables hardly test the limit");
		return 1;
	}
	return bad != 0;
}
