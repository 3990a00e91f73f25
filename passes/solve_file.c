/*
 * solve_file.c - the text form of the solver's problem (README.md has it), and the answer.
 *
 * Lines come in any order after the first, so the counts that others depend on (stages, strategies, heads) are found in a
 * first pass over the text. Numbers are doubles in the file and integers for the solver: time as fine as EXACT_BITS allow
 * for the longest plan, memory 1e-9 MB or as fine as they allow; needs are rounded up, budgets down. What is printed is
 * reckoned again from the file's own numbers.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "passes/solve_file.h"

enum { MAX_LAYERS = 512, MAX_CELLS = 1 << 14, MAX_STRATEGIES = 256, MAX_HEADS = 256 };
enum { MAX_KINDS = 64, MAX_MICROBATCHES = 1 << 20, EXACT_BITS = 52 };
#define MAX_NUMBER 1e12 /* seconds, MB */

typedef struct Type { /* of layers */
	const char *name;
	uint32_t len;
	bool used;
	double *time, *once; /* [strategies]; time < 0: not allowed */
	double **mem;        /* [strategies][stages]; NULL: not given */
	const char **timed;  /* [strategies] where time was given */
} Type;

typedef struct Reader {
	Arena *a;
	Diag *d;
	Name file;
	const char *text, *end;
	const char *at, *stop; /* what is left of the line, without its comment */
	const char *key;       /* the line's first word */
	SolveText *out;
	uint32_t stages, strategies, heads, named; /* how many there are; strategies so far */
	uint32_t microbatches, layers;
	double *budget, *move; /* move: [strategies squared] or NULL */
	bool *moved;           /* [strategies squared] given */
	Type type[MAX_KINDS];
	uint32_t ntypes;
	uint32_t *of; /* [layers] type */
	uint32_t *partition;
	const char *partition_at;
	double **head; /* [heads][2 * stages]; NULL: not given */
} Reader;

struct SolveNumbers { /* the file's, as the solver numbers things */
	double *move;
	double **time, **once; /* [classes][cand] */
	double **head;
	uint32_t **strategy; /* [classes][cand] */
	uint32_t strategies;
};

/* ---- words ---- */

static bool fail(Reader *r, const char *at, const char *fmt, ...) GV_PRINTF(3, 4);

/* At the word that begins there. Always false. */
static bool
fail(Reader *r, const char *at, const char *fmt, ...)
{
	char text[256];
	const char *end = at;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	while (end < r->end && (unsigned char)*end > ' ')
		end++;
	Loc where = diag_loc(r->d, r->file, (size_t)(at - r->text), (size_t)(end - r->text));
	diag_error(r->d, where, "%s", text);
	return false;
}

static bool
blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static void
skip_blanks(Reader *r)
{
	while (r->at < r->stop && blank(*r->at))
		r->at++;
}

/* Goes to the line that begins at `line`; returns where the next one does, NULL at the end of the text. */
static const char *
begin_line(Reader *r, const char *line)
{
	if (line >= r->end) return NULL;
	const char *eol = memchr(line, '\n', (size_t)(r->end - line));
	if (!eol) eol = r->end;
	const char *hash = memchr(line, '#', (size_t)(eol - line));
	r->at = line;
	r->stop = hash ? hash : eol;
	skip_blanks(r);
	return eol + 1;
}

static bool
line_ends(Reader *r)
{
	skip_blanks(r);
	return r->at == r->stop;
}

static bool
done(Reader *r)
{
	return line_ends(r) || fail(r, r->at, "the line should end here");
}

/* The next word, if it is there. */
static bool
word(Reader *r, const char *what, const char **w, uint32_t *len)
{
	skip_blanks(r);
	*w = r->at;
	while (r->at < r->stop && !blank(*r->at))
		r->at++;
	*len = (uint32_t)(r->at - *w);
	return *len > 0 || fail(r, *w, "expected %s", what);
}

static bool
is_word(const char *w, uint32_t len, const char *s)
{
	return strlen(s) == len && memcmp(w, s, len) == 0;
}

static bool
whole_of(Reader *r, const char *w, uint32_t len, const char *what, uint32_t lo, uint32_t hi,
	 uint32_t *out)
{
	uint64_t n = 0;
	for (uint32_t i = 0; i < len; i++) {
		if (w[i] < '0' || w[i] > '9' || n > UINT32_MAX)
			return fail(r, w, "expected %s, a whole number", what);
		n = n * 10 + (uint64_t)(w[i] - '0');
	}
	if (!len) return fail(r, w, "expected %s, a whole number", what);
	if (n < lo || n > hi)
		return fail(r, w, "%s %" PRIu64 " is not in %" PRIu32 " .. %" PRIu32, what, n,
			    lo, hi);
	*out = (uint32_t)n;
	return true;
}

static bool
whole(Reader *r, const char *what, uint32_t lo, uint32_t hi, uint32_t *out)
{
	const char *w;
	uint32_t len;
	return word(r, what, &w, &len) && whole_of(r, w, len, what, lo, hi, out);
}

/* A decimal >= 0. */
static bool
number(Reader *r, const char *what, double *out)
{
	const char *w;
	char *end;
	uint32_t len;
	if (!word(r, what, &w, &len)) return false;
	for (uint32_t i = 0; i < len; i++)
		if (!strchr("0123456789+-.eE", w[i]))
			return fail(r, w, "expected %s, a number", what);
	*out = strtod(w, &end);
	if (end != w + len) return fail(r, w, "expected %s, a number", what);
	if (!(*out >= 0 && *out <= MAX_NUMBER))
		return fail(r, w, "%s is not in 0 .. %g", what, MAX_NUMBER);
	return true;
}

/* As many as there are stages. */
static bool
numbers(Reader *r, const char *what, double *out)
{
	if (!r->stages) return fail(r, r->key, "'stages' is missing or wrong");
	for (uint32_t s = 0; s < r->stages; s++) {
		if (line_ends(r))
			return fail(r, r->key, "%s: %" PRIu32 " of %" PRIu32 " stages", what, s,
				    r->stages);
		if (!number(r, what, &out[s])) return false;
	}
	return true;
}

/* ---- lines ---- */

/* The type of that name; made if it is new. NULL after an error. */
static Type *
type_named(Reader *r, const char *w, uint32_t len)
{
	for (uint32_t i = 0; i < r->ntypes; i++)
		if (r->type[i].len == len && memcmp(r->type[i].name, w, len) == 0)
			return &r->type[i];
	if (r->ntypes == MAX_KINDS) {
		fail(r, w, "more than %d types of layers", MAX_KINDS);
		return NULL;
	}
	Type *t = &r->type[r->ntypes++];
	*t = (Type){.name = w, .len = len};
	t->time = NEW_N(r->a, double, r->strategies + 1);
	t->once = NEW_N(r->a, double, r->strategies + 1);
	t->mem = NEW_N(r->a, double *, r->strategies + 1);
	t->timed = NEW_N(r->a, const char *, r->strategies + 1);
	for (uint32_t k = 0; k < r->strategies; k++)
		t->time[k] = -1;
	return t;
}

static bool
strategy_number(Reader *r, uint32_t *k)
{
	const char *w;
	uint32_t len;
	if (!word(r, "a strategy", &w, &len) ||
	    !whole_of(r, w, len, "strategy", 0, MAX_STRATEGIES - 1, k))
		return false;
	return *k < r->strategies || fail(r, w, "no strategy %" PRIu32, *k);
}

static bool
read_version(Reader *r)
{
	uint32_t version;
	skip_blanks(r);
	const char *at = r->at;
	if (!whole(r, "a version", 0, UINT32_MAX, &version)) return false;
	return version == 1 || fail(r, at, "version %" PRIu32 ", expected 1", version);
}

static bool
read_name(Reader *r)
{
	const char *w;
	uint32_t len;
	while (!line_ends(r))
		if (!word(r, "a name", &w, &len)) return false;
	return true;
}

static bool
read_stages(Reader *r)
{
	uint32_t again;
	return whole(r, "stages", 1, MAX_LAYERS, &again);
}

static bool
read_microbatches(Reader *r)
{
	if (r->microbatches) return fail(r, r->key, "'microbatches' given twice");
	return whole(r, "microbatches", 1, MAX_MICROBATCHES, &r->microbatches);
}

static bool
read_budget(Reader *r)
{
	if (r->budget) return fail(r, r->key, "'budget' given twice");
	r->budget = NEW_N(r->a, double, r->stages + 1);
	return numbers(r, "budget", r->budget);
}

/* TYPE:COUNT */
static bool
read_run(Reader *r)
{
	const char *w;
	uint32_t len, name, count = 0;
	if (!word(r, "TYPE:COUNT", &w, &len)) return false;
	for (name = len; name && w[name] != ':';)
		name--;
	if (!name) return fail(r, w, "expected TYPE:COUNT");
	if (!whole_of(r, w + name + 1, len - name - 1, "layers", 1, MAX_LAYERS, &count))
		return false;
	if (r->layers + count > MAX_LAYERS)
		return fail(r, w, "more than %d layers", MAX_LAYERS);
	Type *t = type_named(r, w, name);
	if (!t) return false;
	t->used = true;
	while (count--)
		r->of[r->layers++] = (uint32_t)(t - r->type);
	return true;
}

static bool
read_layers(Reader *r)
{
	if (r->of) return fail(r, r->key, "'layers' given twice");
	r->of = NEW_N(r->a, uint32_t, MAX_LAYERS);
	do
		if (!read_run(r)) return false;
	while (!line_ends(r));
	return true;
}

static bool
read_partition(Reader *r)
{
	if (r->partition) return fail(r, r->key, "'partition' given twice");
	if (!r->stages) return fail(r, r->key, "'stages' is missing or wrong");
	r->partition = NEW_N(r->a, uint32_t, r->stages);
	r->partition_at = r->key;
	for (uint32_t s = 0; s < r->stages; s++)
		if (!whole(r, "layers of a stage", 1, MAX_LAYERS, &r->partition[s]))
			return false;
	return true;
}

static bool
read_strategy(Reader *r)
{
	const char *w;
	uint32_t len, k;
	if (!strategy_number(r, &k)) return false;
	if (k != r->named)
		return fail(r, r->key, "strategies are numbered in order: expected %" PRIu32,
			    r->named);
	r->named++;
	return word(r, "the strategy's name", &w, &len);
}

static bool
read_time(Reader *r)
{
	const char *w;
	uint32_t len, k;
	double t, once;
	if (!word(r, "a type", &w, &len) || !strategy_number(r, &k) || !number(r, "time", &t) ||
	    !number(r, "time of gradient sync", &once))
		return false;
	Type *type = type_named(r, w, len);
	if (!type) return false;
	if (type->time[k] >= 0) return fail(r, w, "time given twice");
	type->time[k] = t;
	type->timed[k] = r->key;
	type->once[k] = once;
	return true;
}

static bool
read_mem(Reader *r)
{
	const char *w;
	uint32_t len, k;
	if (!word(r, "a type", &w, &len) || !strategy_number(r, &k)) return false;
	Type *type = type_named(r, w, len);
	if (!type) return false;
	if (type->mem[k]) return fail(r, w, "memory given twice");
	type->mem[k] = NEW_N(r->a, double, r->stages + 1);
	return numbers(r, "memory", type->mem[k]);
}

static bool
read_move(Reader *r)
{
	uint32_t from, to, n = r->strategies;
	if (!strategy_number(r, &from) || !strategy_number(r, &to)) return false;
	if (!r->move) {
		r->move = NEW_N(r->a, double, n *n);
		r->moved = NEW_N(r->a, bool, n *n);
	}
	if (r->moved[from * n + to]) return fail(r, r->key, "move given twice");
	r->moved[from * n + to] = true;
	return number(r, "time of the move", &r->move[from * n + to]);
}

static bool
read_head(Reader *r)
{
	const char *at;
	uint32_t e;
	skip_blanks(r);
	at = r->at;
	if (!whole(r, "head", 0, r->heads - 1, &e)) return false;
	if (r->head[e]) return fail(r, at, "head %" PRIu32 " given twice", e);
	r->head[e] = NEW_N(r->a, double, 2 * r->stages + 1);
	return numbers(r, "the head's times", r->head[e]) &&
	       numbers(r, "the head's memory", r->head[e] + r->stages);
}

static const struct Line {
	const char *key;
	bool (*read)(Reader *r);
} lines[] = {{"solve", read_version},       {"name", read_name},
	     {"stages", read_stages},       {"microbatches", read_microbatches},
	     {"budget", read_budget},       {"layers", read_layers},
	     {"partition", read_partition}, {"strategy", read_strategy},
	     {"time", read_time},           {"mem", read_mem},
	     {"move", read_move},           {"head", read_head}};

/* False after an error: the rest of the line is skipped. */
static bool
read_line(Reader *r)
{
	const char *w;
	uint32_t len;
	if (!word(r, "a key", &w, &len)) return false;
	r->key = w;
	for (size_t i = 0; i < COUNTOF(lines); i++)
		if (is_word(w, len, lines[i].key)) return lines[i].read(r) && done(r);
	return fail(r, w, "unknown key");
}

/* What the size of other things depends on. */
static bool
count_lines(Reader *r)
{
	const char *w, *extra = NULL;
	uint32_t len;
	for (const char *line = r->text; (line = begin_line(r, line));) {
		if (line_ends(r)) continue;
		word(r, "a key", &w, &len);
		if (is_word(w, len, "strategy") && ++r->strategies > MAX_STRATEGIES)
			return fail(r, w, "more than %d strategies", MAX_STRATEGIES);
		if (is_word(w, len, "head") && ++r->heads > MAX_HEADS)
			return fail(r, w, "more than %d heads", MAX_HEADS);
		if (!is_word(w, len, "stages")) continue;
		if (r->stages) extra = w;
		if (!r->stages && !whole(r, "stages", 1, MAX_LAYERS, &r->stages)) return false;
	}
	return !extra || fail(r, extra, "'stages' given twice");
}

static bool
read_lines(Reader *r)
{
	bool first = true, ok = true;
	for (const char *line = r->text; (line = begin_line(r, line));) {
		if (line_ends(r)) continue;
		const char *at = r->at;
		if (first && !(r->stop - at > 5 && memcmp(at, "solve", 5) == 0 && blank(at[5])))
			return fail(r, at, "expected 'solve 1'");
		if (!first && r->stop - at >= 5 && memcmp(at, "solve", 5) == 0 &&
		    (at + 5 == r->stop || blank(at[5])))
			return fail(r, at, "'solve' is the first line");
		ok &= read_line(r);
		if ((first && !ok) || diag_stop(r->d)) return false;
		first = false;
	}
	if (first)
		diag_error(r->d, (Loc){.file = r->file, .line = 1, .col = 1},
			   "expected 'solve 1'");
	return ok && !first;
}

/* ---- what must be there ---- */

static bool missing(Reader *r, const char *fmt, ...) GV_PRINTF(2, 3);

/* Something the whole file lacks. Always false. */
static bool
missing(Reader *r, const char *fmt, ...)
{
	char text[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	diag_error(r->d, (Loc){.file = r->file, .line = 1, .col = 1}, "%s", text);
	return false;
}

static bool
check_types(Reader *r)
{
	for (uint32_t i = 0; i < r->ntypes; i++) {
		const Type *t = &r->type[i];
		uint32_t allowed = 0;
		for (uint32_t k = 0; t->used && k < r->strategies; k++) {
			if (t->time[k] < 0) continue;
			allowed++;
			if (!t->mem[k])
				return fail(r, t->timed[k],
					    "a time, but no 'mem %.*s %" PRIu32 "'",
					    (int)t->len, t->name, k);
		}
		if (t->used && !allowed)
			return fail(r, t->name, "no 'time' for layers of type '%.*s'",
				    (int)t->len, t->name);
	}
	return true;
}

static bool
check_all(Reader *r)
{
	uint32_t sum = 0;
	if (!r->stages) return missing(r, "no 'stages'");
	if (!r->microbatches) return missing(r, "no 'microbatches'");
	if (!r->budget) return missing(r, "no 'budget'");
	if (!r->layers) return missing(r, "no 'layers'");
	if (!r->strategies) return missing(r, "no 'strategy'");
	if (r->stages > r->layers)
		return missing(r, "%" PRIu32 " stages for %" PRIu32 " layers", r->stages,
			       r->layers);
	if (r->layers * r->stages > MAX_CELLS)
		return missing(r, "more than %d for layers times stages", MAX_CELLS);
	for (uint32_t s = 0; r->partition && s < r->stages; s++)
		sum += r->partition[s];
	if (r->partition && sum != r->layers)
		return fail(r, r->partition_at,
			    "the partition has %" PRIu32 " layers, the model %" PRIu32, sum,
			    r->layers);
	if (!r->heads) return missing(r, "no 'head'");
	return check_types(r);
}

/* ---- integers ---- */

static int64_t
round_time(const SolveText *t, double x)
{
	return (int64_t)llrint(x * t->second);
}

/* What is a whole number but for the error of a product is that. */
static int64_t
round_bytes(const SolveText *t, double x, bool up)
{
	double y = x * t->megabyte, near = rint(y);
	if (fabs(y - near) <= 1e-12 * y) return (int64_t)near;
	return (int64_t)(up ? ceil(y) : floor(y));
}

static double
larger_of(double a, double b)
{
	return a > b ? a : b;
}

/* Units: as fine as the longest plan allows, and the largest memory. */
static void
find_units(Reader *r)
{
	double time = 0, once = 0, head = 0, move = 0, mem = 1, most[MAX_KINDS] = {0},
	       top_once[MAX_KINDS] = {0};
	for (uint32_t i = 0; r->move && i < r->strategies * r->strategies; i++)
		move = larger_of(move, r->move[i]);
	for (uint32_t i = 0; i < r->ntypes; i++)
		for (uint32_t k = 0; k < r->strategies; k++) {
			const Type *t = &r->type[i];
			if (t->time[k] < 0) continue;
			most[i] = larger_of(most[i], t->time[k]);
			top_once[i] = larger_of(top_once[i], t->once[k]);
		}
	for (uint32_t l = 0; l < r->layers; l++) {
		time += most[r->of[l]] + move;
		once += top_once[r->of[l]];
	}
	for (uint32_t e = 0; e < r->heads; e++) {
		double sum = 0;
		for (uint32_t s = 0; s < r->stages; s++)
			sum += r->head[e][s];
		head = larger_of(head, sum);
	}
	time = (time + head) * (double)r->microbatches + once;
	for (uint32_t s = 0; s < r->stages; s++)
		mem = larger_of(mem, r->budget[s]);
	int bits;
	frexp(time > 0 ? time : 1, &bits);
	r->out->second = ldexp(1, EXACT_BITS - bits);
	r->out->megabyte = 1e9;
	while (mem * r->out->megabyte > ldexp(1, EXACT_BITS - 2))
		r->out->megabyte /= 10;
}

/* Bytes no budget holds need not be told apart. */
static int64_t
need(const Reader *r, double mem)
{
	double most = ldexp(1, EXACT_BITS) / r->out->megabyte;
	return round_bytes(r->out, mem < most ? mem : most, true);
}

static void
fill_class(Reader *r, SolveTable *t, uint32_t class, const Type *type, uint32_t *ncand)
{
	struct SolveNumbers *x = r->out->numbers;
	uint32_t n = 0;
	for (uint32_t k = 0; k < r->strategies; k++)
		n += type->time[k] >= 0;
	SolveCost *cost = NEW_N(r->a, SolveCost, n);
	int64_t *bytes = NEW_N(r->a, int64_t, (size_t)n * r->stages);
	x->time[class] = NEW_N(r->a, double, n);
	x->once[class] = NEW_N(r->a, double, n);
	x->strategy[class] = NEW_N(r->a, uint32_t, n);
	n = 0;
	for (uint32_t k = 0; k < r->strategies; k++) {
		if (type->time[k] < 0) continue;
		cost[n] = (SolveCost){.group = k,
				      .time = round_time(r->out, type->time[k]),
				      .once = round_time(r->out, type->once[k])};
		for (uint32_t s = 0; s < r->stages; s++)
			bytes[n * r->stages + s] = need(r, type->mem[k][s]);
		x->time[class][n] = type->time[k];
		x->once[class][n] = type->once[k];
		x->strategy[class][n++] = k;
	}
	((SolveCost **)t->cost)[class] = cost;
	((const int64_t **)t->bytes)[class] = bytes;
	ncand[class] = n;
}

static const SolveTable *
fill_table(Reader *r)
{
	SolveTable *t = NEW(r->a, SolveTable);
	uint32_t n = r->strategies, classes = 0;
	uint32_t *ncand = NEW_N(r->a, uint32_t, r->ntypes);
	const SolveMove **rows = NEW_N(r->a, const SolveMove *, r->ntypes);
	SolveMove *move = r->move ? NEW_N(r->a, SolveMove, n * n) : NULL;
	for (uint32_t i = 0; move && i < n * n; i++)
		move[i].time = round_time(r->out, r->move[i]);
	t->ngroups = n;
	t->ncand = ncand;
	t->cost = NEW_N(r->a, SolveCost *, r->ntypes);
	t->bytes = NEW_N(r->a, const int64_t *, r->ntypes);
	for (uint32_t i = 0; i < r->ntypes; i++) {
		if (!r->type[i].used) continue;
		fill_class(r, t, classes, &r->type[i], ncand);
		rows[classes] = move;
		for (uint32_t l = 0; l < r->layers; l++)
			if (r->of[l] == i) ((uint32_t *)r->out->p.class_of)[l] = classes;
		classes++;
	}
	t->move = move ? rows : NULL;
	r->out->p.nclasses = classes;
	return t;
}

static void
fill_heads(Reader *r)
{
	SolveHead *head = NEW_N(r->a, SolveHead, r->heads);
	for (uint32_t e = 0; e < r->heads; e++) {
		int64_t *time = NEW_N(r->a, int64_t, 2 * r->stages), *bytes = time + r->stages;
		for (uint32_t s = 0; s < r->stages; s++) {
			time[s] = round_time(r->out, r->head[e][s]);
			bytes[s] = need(r, r->head[e][r->stages + s]);
		}
		head[e] = (SolveHead){time, bytes};
	}
	r->out->p.head = head;
	r->out->p.nheads = r->heads;
	r->out->numbers->head = r->head;
}

static void
fill_problem(Reader *r)
{
	SolveProblem *p = &r->out->p;
	struct SolveNumbers *x = NEW(r->a, struct SolveNumbers);
	int64_t *limit = NEW_N(r->a, int64_t, r->stages);
	uint32_t *slots = NEW_N(r->a, uint32_t, r->stages);
	const SolveTable **table = NEW_N(r->a, const SolveTable *, r->stages);
	r->out->numbers = x;
	x->move = r->move;
	x->strategies = r->strategies;
	x->time = NEW_N(r->a, double *, r->ntypes);
	x->once = NEW_N(r->a, double *, r->ntypes);
	x->strategy = NEW_N(r->a, uint32_t *, r->ntypes);
	find_units(r);
	*p = (SolveProblem){.nlayers = r->layers,
			    .stages = r->stages,
			    .microbatches = r->microbatches,
			    .class_of = NEW_N(r->a, uint32_t, r->layers),
			    .table = table,
			    .slots = slots,
			    .limit = limit,
			    .partition = r->partition,
			    .bound = INT64_MAX};
	table[0] = fill_table(r);
	for (uint32_t s = 0; s < r->stages; s++) {
		table[s] = table[0];
		slots[s] = 1;
		limit[s] = round_bytes(r->out, r->budget[s], false);
	}
	fill_heads(r);
}

SolveText *
solve_parse(Arena *a, Diag *d, Name file, const char *text, size_t n)
{
	Reader *r = NEW(a, Reader);
	*r = (Reader){.a = a, .d = d, .file = file, .text = text, .end = text + n};
	r->out = NEW(a, SolveText);
	if (!count_lines(r)) return NULL;
	r->head = NEW_N(a, double *, r->heads + 1);
	if (!read_lines(r) || !check_all(r)) return NULL;
	fill_problem(r);
	return r->out;
}

/* ---- the answer ---- */

double
solve_text_time(const SolveText *t, const SolveAnswer *x)
{
	const SolveProblem *p = &t->p;
	const struct SolveNumbers *y = t->numbers;
	double sum = 0, max = 0, once = 0;
	for (uint32_t s = 0, l = 0; s < p->stages; s++) {
		uint32_t end = s + 1 < p->stages ? x->first[s + 1] : p->nlayers, last = 0;
		double time = y->head[x->head][s], sync = 0;
		for (; l < end; l++) {
			uint32_t class = p->class_of[l], k = y->strategy[class][x->cand[l]];
			time += y->time[class][x->cand[l]];
			sync += y->once[class][x->cand[l]];
			if (l > x->first[s] && y->move)
				time += y->move[last * y->strategies + k];
			last = k;
		}
		sum += time;
		max = larger_of(max, time);
		once = larger_of(once, sync);
	}
	return sum + (p->microbatches - 1) * max + once;
}

/* No plan takes less; seconds. Every number was rounded by at most half a unit. */
static double
least_seconds(const SolveText *t, const SolveAnswer *x)
{
	double rounded = (2.0 * t->p.nlayers + t->p.stages) * (t->p.microbatches + 1.0) / 2;
	double least = ((double)x->least - rounded) / t->second;
	return least > 0 ? least : 0;
}

static void
print_plan(const SolveText *t, const SolveAnswer *x, Buf *out)
{
	const SolveProblem *p = &t->p;
	buf_puts(out, "plan");
	for (uint32_t l = 0, n; l < p->nlayers; l += n) {
		uint32_t k = t->numbers->strategy[p->class_of[l]][x->cand[l]];
		for (n = 1; l + n < p->nlayers; n++)
			if (t->numbers->strategy[p->class_of[l + n]][x->cand[l + n]] != k)
				break;
		buf_printf(out, " %" PRIu32 "x%" PRIu32, k, n);
	}
	buf_putc(out, '\n');
}

void
solve_print(const SolveText *t, const SolveAnswer *x, Buf *out)
{
	const SolveProblem *p = &t->p;
	if (!x) {
		buf_puts(out, "infeasible\n");
		return;
	}
	double time = solve_text_time(t, x), least = least_seconds(t, x);
	buf_printf(out, "objective %.17g\npartition", time);
	for (uint32_t s = 0; s < p->stages; s++)
		buf_printf(out, " %" PRIu32,
			   (s + 1 < p->stages ? x->first[s + 1] : p->nlayers) - x->first[s]);
	buf_putc(out, '\n');
	print_plan(t, x, out);
	buf_printf(out, "head %" PRIu32 "\nbound %.17g\n", x->head,
		   least < time ? least : time);
}

int
solve_file(const char *path)
{
	Arena *a = arena_new();
	Names *names = names_new(a);
	Diag *d = diag_new(a, names, stderr);
	const char *slash = strrchr(path, '/');
	Name file = name_of(names, slash ? slash + 1 : path);
	size_t n;
	int status = 1;
	const char *text = file_read(a, path, (size_t)1 << 26, &n);
	if (!text) {
		diag_error(d, (Loc){0}, "cannot read '%s': %s", path, strerror(errno));
	} else {
		diag_source(d, file, text, n);
		SolveText *t = solve_parse(a, d, file, text, n);
		SolveAnswer x;
		Buf out;
		buf_init(&out, a);
		if (t) {
			bool found = solve(a, &t->p, &x);
			solve_print(t, found ? &x : NULL, &out);
			status = found ? 0 : SOLVE_NONE;
			if (fwrite(out.s, 1, out.n, stdout) != out.n || fflush(stdout) != 0) {
				diag_error(d, (Loc){0}, "writing the output: %s",
					   strerror(errno));
				status = 1;
			}
		}
	}
	arena_free(a);
	return status;
}
