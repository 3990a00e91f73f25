/*
 * eval.c - every op of the interpreter on small cases, against loops written here from ir/README.md; collectives on two
 * to four virtual ranks in hostile orders; rounding; memory plans that are wrong on purpose; a whole training step.
 *
 * A case is a body in the IR's text with in-ports x, y, z ...; its values are drawn, or given.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/eval.h"
#include "passes/passes.h"
#include "tests/unit/check.h"

typedef struct Test {
	const char *name;
	Arena *arena, *tmp;
	Names *names;
	FILE *said; /* diagnostics */
	Diag *diag;
	Module *m;
	EvalOptions o;
	const double *in[8];
	double **out;
} Test;

static Test
open_test(const char *name)
{
	Test t = {.name = name, .arena = arena_new(), .tmp = arena_new(), .said = tmpfile()};

	t.names = names_new(t.arena);
	t.diag = diag_new(t.arena, t.names, t.said);
	t.o = (EvalOptions){.f64 = true, .seed = 3, .train = true};
	t.out = NEW_N(t.arena, double *, 8);
	return t;
}

static void
close_test(Test *t)
{
	fclose(t->said);
	arena_free(t->tmp);
	arena_free(t->arena);
}

/* `text` follows the header; body 1 is what is run. */
static bool
read_test(Test *t, const char *level, const char *text)
{
	Buf b;

	buf_init(&b, t->arena);
	buf_printf(&b, "gir 1 %s\nmodel t source \"t\" hash 0x0000000000000000\n%s", level,
		   text);
	t->m = ir_parse(t->arena, t->names, t->diag, name_of(t->names, t->name), b.s, b.n);
	if (!t->m) show_said(t->said, t->name);
	check(t->name, t->m != NULL, "the text does not read");
	return t->m != NULL;
}

static bool
run_test(Test *t)
{
	return t->m &&
	       eval_body(t->m, &t->m->bodies[1], &t->o, t->in, t->out, t->arena, t->diag);
}

/* n values in [-1, 1) + base. */
static double *
draw(Test *t, int n, double base)
{
	double *x = NEW_N(t->arena, double, n + 1);
	static const char *const names = "abcdefgh";
	uint64_t key = rng_key((uint64_t)n, names + (t->in[0] != NULL) + (t->in[1] != NULL));

	for (int i = 0; i < n; i++)
		x[i] = base + 2 * rng_uniform(key, (uint64_t)i) - 1;
	return x;
}

static bool
near(double a, double b)
{
	return (isnan(a) && isnan(b)) || a == b || fabs(a - b) <= 1e-12 * fmax(1, fabs(b));
}

static void
check_all(const Test *t, int out, const double *want, int n)
{
	for (int i = 0; i < n; i++) {
		checks++;
		if (near(t->out[out][i], want[i])) continue;
		failures++;
		printf("eval: %s: FAILED: result %d [%d] is %.17g, not %.17g\n", t->name, out,
		       i, t->out[out][i], want[i]);
		return;
	}
}

/* Reads, runs, and compares result 0. */
static void
expect(Test *t, const char *text, const double *want, int n)
{
	if (!read_test(t, "graph", text)) return;
	bool ok = run_test(t);
	if (!ok) show_said(t->said, t->name);
	check(t->name, ok, "does not run");
	if (ok) check_all(t, 0, want, n);
}

/* ---- elementwise ---- */

static double
square_root(double x)
{
	return sqrt(x);
}
static double
negative(double x)
{
	return -x;
}
static double
sigmoid(double x)
{
	return 1 / (1 + exp(-x));
}
static double
relu(double x)
{
	return x > 0 ? x : 0;
}
static double
same(double x)
{
	return x;
}

static void
test_unary(void)
{
	static const struct {
		const char *op;
		double (*f)(double);
	} ops[] = {{"neg", negative},    {"exp", exp},   {"log", log},   {"sqrt", square_root},
		   {"sin", sin},         {"cos", cos},   {"tanh", tanh}, {"erf", erf},
		   {"sigmoid", sigmoid}, {"relu", relu}, {"abs", fabs},  {"stop", same},
		   {"copy", same}};

	for (size_t k = 0; k < COUNTOF(ops); k++) {
		Test t = open_test(ops[k].op);
		Buf b;
		double want[12];
		const double *x = t.in[0] =
		    draw(&t, 12, ops[k].f == log || ops[k].f == square_root ? 1.5 : 0);
		buf_init(&b, t.arena);
		buf_printf(&b,
			   "axis a = 3\naxis b = 4\nbody 1 t F {\n arg 0 %%x : f32[a b]\n %%y "
			   "= %s %%x : f32[b a]\n out 0 %%y\n}\n",
			   ops[k].op);
		for (int i = 0; i < 3; i++)
			for (int j = 0; j < 4; j++)
				want[j * 3 + i] = ops[k].f(x[i * 4 + j]);
		expect(&t, b.s, want, 12);
		close_test(&t);
	}
}

#define F2(name, value)                        \
	static double name(double x, double y) \
	{                                      \
		return value;                  \
	}
F2(add, x + y)
F2(sub, x - y)
F2(mul, x *y)
F2(quo, x / y)
F2(least, x < y ? x : y)
F2(most, x > y ? x : y)
F2(less, x < y)
F2(at_most, x <= y)
F2(equal, x == y)
F2(differ, x != y)
F2(both, x != 0 && y != 0)
F2(any, x != 0 || y != 0)
F2(down, floor(x / y))
F2(rest, x - y * floor(x / y))

/* x[a b] with y[c b], of floats, of whole numbers, of truth values. */
static void
test_binary(void)
{
	static const struct {
		const char *op, *in, *out;
		double (*f)(double, double);
	} ops[] = {{"add", "f32", "f32", add},     {"sub", "f32", "f32", sub},
		   {"mul", "f32", "f32", mul},     {"div", "f32", "f32", quo},
		   {"min", "f32", "f32", least},   {"max", "f32", "f32", most},
		   {"pow", "f32", "f32", pow},     {"floordiv", "f32", "f32", down},
		   {"mod", "f32", "f32", rest},    {"lt", "f32", "bool", less},
		   {"le", "f32", "bool", at_most}, {"add", "i32", "i32", add},
		   {"mul", "i32", "i32", mul},     {"floordiv", "i32", "i32", down},
		   {"mod", "i32", "i32", rest},    {"min", "i32", "i32", least},
		   {"eq", "i32", "bool", equal},   {"ne", "i32", "bool", differ},
		   {"and", "bool", "bool", both},  {"or", "bool", "bool", any}};

	for (size_t k = 0; k < COUNTOF(ops); k++) {
		Test t = open_test(ops[k].op);
		Buf b;
		double x[6], y[8], want[24];
		bool whole = strcmp(ops[k].in, "i32") == 0,
		     truth = strcmp(ops[k].in, "bool") == 0;
		for (int i = 0; i < 6; i++)
			x[i] = truth ? i % 2 : whole ? i * 3 - 7 : 0.3 + 0.71 * i;
		for (int i = 0; i < 8; i++)
			y[i] = truth   ? i / 4
			       : whole ? (i % 2 ? -1 : 1) * (i + 1)
				       : 2.9 - 0.31 * i;
		t.in[0] = x, t.in[1] = y;
		buf_init(&b, t.arena);
		buf_printf(&b,
			   "axis a = 3\naxis b = 2\naxis c = 4\nbody 1 t F {\n arg 0 %%x : "
			   "%s[a b]\n arg 1 %%y : %s[c b]\n"
			   " %%z = %s %%x %%y : %s[c a b]\n out 0 %%z\n}\n",
			   ops[k].in, ops[k].in, ops[k].op, ops[k].out);
		for (int c = 0; c < 4; c++)
			for (int a = 0; a < 3; a++)
				for (int e = 0; e < 2; e++)
					want[(c * 3 + a) * 2 + e] =
					    ops[k].f(x[a * 2 + e], y[c * 2 + e]);
		expect(&t, b.s, want, 24);
		close_test(&t);
	}
}

static void
test_where(void)
{
	Test t = open_test("where, cast, not, const, broadcast");
	double c[3] = {1, 0, 1}, x[2] = {1.9, -2.9}, want[6] = {1, -2, 7, 7, 1, -2};

	t.in[0] = c, t.in[1] = x;
	expect(&t,
	       "axis a = 3\naxis b = 2\nbody 1 t F {\n arg 0 %c : bool[a]\n arg 1 %x : "
	       "f32[b]\n %i = cast %x {dtype=i32} : i32[b]\n"
	       " %s = const {value=7} : i32[]\n %w = broadcast %s {axes=[b]} : i32[b]\n %n = "
	       "not %c : bool[a]\n"
	       " %y = where %n %w %i : i32[a b]\n out 0 %y\n}\n",
	       want, 6);
	close_test(&t);
}

static void
test_dropout(void)
{
	Test t = open_test("dropout");
	double x[24], want[24];
	uint64_t key = rng_key(3 ^ 5, "t.0");

	for (int i = 0; i < 24; i++)
		x[i] = i + 1;
	for (int a = 0; a < 2; a++) /* drawn for (c, a), the same for all b */
		for (int b = 0; b < 3; b++)
			for (int c = 0; c < 4; c++)
				want[(a * 3 + b) * 4 + c] =
				    rng_bits(key, 0, (uint64_t)(c * 2 + a)) < 0.4 * 4294967296.0
					? 0
					: x[(a * 3 + b) * 4 + c] / (1 - 0.4);
	t.in[0] = x;
	const char *text =
	    "axis a = 2\naxis b = 3\naxis c = 4\nbody 1 t F {\n arg 0 %x : f32[a b c]\n"
	    " %y = dropout %x {axes=[c a] rate=0 key=5} : f32[a b c]\n out 0 %y\n}\n"
	    "type t args 1 outs 1 rates 1 {\n body F 1\n}\ninst 0 t \"t.0\" path \"\" args - "
	    "params rates 0.4\n";
	expect(&t, text, want, 24);
	t.o.train = false;
	if (run_test(&t)) check_all(&t, 0, x, 24);
	close_test(&t);
}

/* ---- re-indexing ---- */

typedef struct Case {
	const char *name, *text;
	int n_in, n_out;
	int from[24]; /* result i is x[from[i]]; -1: zero */
} Case;

#define AXES "axis a = 2\naxis b = 3\naxis c = 2\naxis d = 4\naxis e = 6\n"
#define BODY(in, op, out)                                                     \
	AXES "body 1 t F {\n arg 0 %x : f32[" in "]\n %y = " op " : f32[" out \
	     "]\n out 0 %y\n}\n"

static const Case moves[] = {
    {"rename", BODY("a b", "view %x {from=[a] to=[c]}", "c b"), 6, 6, {0, 1, 2, 3, 4, 5}},
    {"split",
     BODY("b d", "view %x {from=[d] to=[a c]}", "a b c"),
     12,
     12,
     {0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11}},
    {"merge of far axes",
     BODY("a d b", "view %x {from=[a b] to=[e]}", "e d"),
     24,
     24,
     {0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, 12, 15, 18, 21, 13, 16, 19, 22, 14, 17, 20, 23}},
    {"slice to nothing",
     BODY("b d", "slice %x {axis=d start=2 step=1}", "b"),
     12,
     3,
     {2, 6, 10}},
    {"slice by two",
     BODY("b d", "slice %x {axis=d to=[a] start=1 step=2}", "a b"),
     12,
     6,
     {1, 5, 9, 3, 7, 11}},
    {"slice backwards",
     BODY("b a", "slice %x {axis=b to=[b] start=2 step=-1}", "b a"),
     6,
     6,
     {4, 5, 2, 3, 0, 1}},
    {"unslice",
     BODY("a", "unslice %x {axis=d from=[a] start=3 step=-2}", "d"),
     2,
     4,
     {-1, 1, -1, 0}},
    {"unslice of one",
     BODY("a", "unslice %x {axis=b start=1 step=1}", "b a"),
     2,
     6,
     {-1, -1, 0, 1, -1, -1}},
    {"roll", BODY("a d", "roll %x {axis=d shift=-1}", "a d"), 8, 8, {3, 0, 1, 2, 7, 4, 5, 6}},
};

static void
test_moves(void)
{
	for (size_t k = 0; k < COUNTOF(moves); k++) {
		Test t = open_test(moves[k].name);
		double want[24];
		t.in[0] = draw(&t, moves[k].n_in, 0);
		for (int i = 0; i < moves[k].n_out; i++)
			want[i] = moves[k].from[i] < 0 ? 0 : t.in[0][moves[k].from[i]];
		expect(&t, moves[k].text, want, moves[k].n_out);
		close_test(&t);
	}
}

static void
test_concat(void)
{
	Test t = open_test("concat");
	double x[4] = {1, 2, 3, 4}, y[4] = {5, 6, 7, 8},
	       want[12] = {1, 3, 5, 6, 7, 8, 2, 4, 5, 6, 7, 8};

	t.in[0] = x, t.in[1] = y; /* x[a c], y[d]: y goes to every c */
	expect(&t,
	       AXES "body 1 t F {\n arg 0 %x : f32[a c]\n arg 1 %y : f32[d]\n"
		    " %z = concat %x %y {from=[a d] to=[e]} : f32[c e]\n out 0 %z\n}\n",
	       want, 12);
	close_test(&t);
}

/* x[a b d] at (i[a e], j[e]) along b and d: a is matched. */
static void
test_gather(void)
{
	static const char *const head = AXES "body 1 t F {\n arg 0 %x : f32[";
	Test t = open_test("gather"), s = open_test("scatter_add"),
	     bad = open_test("gather outside");
	double i[12], j[6], want[12], sum[24] = {0};
	Buf b, c;

	for (int k = 0; k < 12; k++)
		i[k] = k * 5 % 3;
	for (int k = 0; k < 6; k++)
		j[k] = k % 2; /* repeats */
	const double *x = t.in[0] = draw(&t, 24, 0), *dy = s.in[0] = draw(&s, 12, 0);
	t.in[1] = s.in[1] = i, t.in[2] = s.in[2] = j;
	for (int a = 0; a < 2; a++)
		for (int e = 0; e < 6; e++) {
			int at = (a * 3 + (int)i[a * 6 + e]) * 4 + (int)j[e];
			want[a * 6 + e] = x[at];
			sum[at] += dy[a * 6 + e];
		}
	buf_init(&b, t.arena), buf_init(&c, t.arena);
	buf_printf(&b,
		   "%sa b d]\n arg 1 %%i : i32[a e]\n arg 2 %%j : i32[e]\n"
		   " %%y = gather %%x %%i %%j {axes=[b d]} : f32[a e]\n out 0 %%y\n}\n",
		   head);
	expect(&t, b.s, want, 12);
	buf_printf(&c,
		   "%sa e]\n arg 1 %%i : i32[a e]\n arg 2 %%j : i32[e]\n"
		   " %%y = scatter_add %%x %%i %%j {axes=[b d] along=[a b d]} : f32[a b d]\n "
		   "out 0 %%y\n}\n",
		   head);
	expect(&s, c.s, sum, 24);
	i[7] = 3;
	bad.in[0] = x, bad.in[1] = i, bad.in[2] = j;
	check(bad.name,
	      read_test(&bad, "graph", b.s) && !run_test(&bad) &&
		  has_said(bad.said, "index 3 along 'b'"),
	      "not refused");
	close_test(&s);
	close_test(&t);
	close_test(&bad);
}

/* ---- sums ---- */

static void
test_reductions(void)
{
	static const char *const ops[] = {"sum", "rmax", "rmin"};

	for (int k = 0; k < 3; k++) {
		Test t = open_test(ops[k]);
		Buf b;
		double want[3];
		const double *x = t.in[0] = draw(&t, 24, 0);
		for (int j = 0; j < 3; j++) {
			want[j] = k == 0 ? 0 : k == 1 ? -INFINITY : INFINITY;
			for (int i = 0; i < 2; i++)
				for (int l = 0; l < 4; l++) {
					double v = x[(i * 3 + j) * 4 + l];
					want[j] = k == 0   ? want[j] + v
						  : k == 1 ? fmax(want[j], v)
							   : fmin(want[j], v);
				}
		}
		buf_init(&b, t.arena);
		buf_printf(&b,
			   AXES "body 1 t F {\n arg 0 %%x : f32[a b d]\n %%y = %s %%x {axes=[d "
				"a]} : f32[b]\n out 0 %%y\n}\n",
			   ops[k]);
		expect(&t, b.s, want, 3);
		close_test(&t);
	}
}

/* y[c b a] = sum over d, e of x[a d b e] z[e b d c] */
static void
test_dot(void)
{
	Test t = open_test("dot");
	double want[12];
	const double *x = t.in[0] = draw(&t, 144, 0), *z = t.in[1] = draw(&t, 144, 0);

	for (int c = 0; c < 2; c++)
		for (int b = 0; b < 3; b++)
			for (int a = 0; a < 2; a++) {
				double s = 0;
				for (int d = 0; d < 4; d++)
					for (int e = 0; e < 6; e++)
						s += x[((a * 4 + d) * 3 + b) * 6 + e] *
						     z[((e * 3 + b) * 4 + d) * 2 + c];
				want[(c * 3 + b) * 2 + a] = s;
			}
	expect(&t,
	       AXES "body 1 t F {\n arg 0 %x : f32[a d b e]\n arg 1 %z : f32[e b d c]\n"
		    " %y = dot %x %z {axes=[d e]} : f32[c b a]\n out 0 %y\n}\n",
	       want, 12);
	close_test(&t);
}

/* Over a and d jointly, for each b; the outer loop of all three. */
static void
test_rows(void)
{
	Test s = open_test("softmax"), n = open_test("normalize"), m = open_test("moments");
	const double *x = s.in[0] = n.in[0] = m.in[0] = draw(&s, 24, 0);
	double p[24], y[24], mean[3], rstd[3];

	for (int b = 0; b < 3; b++) {
		double sum = 0, total = 0, squares = 0;
		for (int k = 0; k < 8; k++) {
			double v = x[((k / 4) * 3 + b) * 4 + k % 4];
			sum += exp(v), total += v, squares += v * v;
		}
		mean[b] = total / 8;
		rstd[b] = 1 / sqrt(squares / 8 - mean[b] * mean[b] + 0.01);
		for (int k = 0; k < 8; k++) {
			int at = ((k / 4) * 3 + b) * 4 + k % 4;
			p[at] = exp(x[at]) / sum;
			y[at] = x[at] / sqrt(squares / 8 + 0.01);
		}
	}
	expect(&s, BODY("a b d", "softmax %x {axes=[a d]}", "a b d"), p, 24);
	expect(&n, BODY("a b d", "normalize %x {axes=[a d] eps=0.01 center=0}", "a b d"), y,
	       24);
	expect(&m,
	       AXES "body 1 t F {\n arg 0 %x : f32[a b d]\n %m, %r = moments %x {axes=[a d] "
		    "eps=0.01 center=1} : f32[b], f32[b]\n"
		    " out 0 %m\n out 1 %r\n}\n",
	       mean, 3);
	check_all(&m, 1, rstd, 3);
	close_test(&s), close_test(&n), close_test(&m);
}

static void
test_topk(void)
{
	Test t = open_test("topk");
	double x[12] = {1, 5, 5, 2, 7, 0, 7, 7, -1, -3, -2, -1},
	       v[9] = {5, 5, 2, 7, 7, 7, -1, -1, -2}, i[9] = {1, 2, 3, 0, 2, 3, 0, 3, 2};

	t.in[0] = x; /* x[3 4] */
	expect(
	    &t,
	    "axis a = 3\naxis d = 4\naxis k = 3\nbody 1 t F {\n arg 0 %x : f32[a d]\n"
	    " %v, %i = topk %x {axis=d to=[k]} : f32[a k], i32[a k]\n out 0 %v\n out 1 %i\n}\n",
	    v, 9);
	if (t.m) check_all(&t, 1, i, 9);
	close_test(&t);
}

static void
test_cross_entropy(void)
{
	Test t = open_test("cross_entropy");
	double label[6] = {0, 3, 2, 1, 1, 2}, loss[6], lse[6];
	const double *x = t.in[0] = draw(&t, 24, 0);

	t.in[1] = label; /* x[a d b], label[b a] */
	for (int a = 0; a < 2; a++)
		for (int b = 0; b < 3; b++) {
			double s = 0;
			for (int d = 0; d < 4; d++)
				s += exp(x[(a * 4 + d) * 3 + b]);
			lse[a * 3 + b] = log(s);
			loss[a * 3 + b] = log(s) - x[(a * 4 + (int)label[b * 2 + a]) * 3 + b];
		}
	expect(&t,
	       AXES "body 1 t F {\n arg 0 %x : f32[a d b]\n arg 1 %l : i32[b a]\n"
		    " %y, %e = cross_entropy %x %l {axis=d} : f32[a b], f32[a b]\n out 0 %y\n "
		    "out 1 %e\n}\n",
	       loss, 6);
	if (t.m) check_all(&t, 1, lse, 6);
	close_test(&t);
}

/* ---- attention ---- */

enum { G = 2, S = 4, K = 4, D = 3 };

/* q[g s d], k[k d], v[k d], mask[k], bias[g k]; a band, a cap, and dropout; the sum of o * o as a loss. */
static double
attention_by_hand(const double *const *in, double *o, double *lse)
{
	double total = 0;
	uint64_t key = rng_key(3 ^ 9, "t.0");

	for (int g = 0; g < G; g++)
		for (int s = 0; s < S; s++) {
			double p[K], sum = 0;
			for (int k = 0; k < K; k++) {
				double x = 0;
				for (int d = 0; d < D; d++)
					x += in[0][(g * S + s) * D + d] * in[1][k * D + d];
				x = 2 * tanh(x * 0.6 / 2) + in[4][g * K + k];
				p[k] = in[3][k] != 0 && k - s >= -2 && k - s <= 0 ? exp(x) : 0;
				sum += p[k];
			}
			lse[g * S + s] = sum > 0 ? log(sum) : -INFINITY;
			for (int d = 0; d < D; d++) {
				double y = 0;
				for (int k = 0; k < K; k++) {
					bool drop =
					    rng_bits(key, 0, (uint64_t)((g * S + s) * K + k)) <
					    0.25 * 4294967296.0;
					if (sum > 0 && !drop)
						y += p[k] / sum / 0.75 * in[2][k * D + d];
				}
				o[(g * S + s) * D + d] = y;
				total += y * y;
			}
		}
	return total;
}

#define ATTENTION \
	"{keys=[k] feat=[d] scale=0.6 cap=2 rate=0 key=9 query=s lo=-2 hi=0 mask=1 bias=1}"
static const char attention_text[] =
    "axis g = 2\naxis s = 4\naxis k = 4\naxis d = 3\nbody 1 t F {\n arg 0 %q : f32[g s d]\n"
    " arg 1 %k : f32[k d]\n arg 2 %v : f32[k d]\n arg 3 %m : bool[k]\n arg 4 %b : f32[g k]\n"
    " %o, %l = attention %q %k %v %m %b " ATTENTION " : f32[g s d], f32[g s]\n"
    " %two = const {value=2} : f32[]\n %do = mul %o %two : f32[g s d]\n"
    " %dq, %dk, %dv, %db = attention_grad %q %k %v %o %l %do %m %b " ATTENTION
    " : f32[g s d], f32[k d], f32[k d], f32[g k]\n"
    " out 0 %o\n out 1 %l\n out 2 %dq\n out 3 %dk\n out 4 %dv\n out 5 %db\n}\n"
    "type t args 5 outs 6 rates 1 {\n body F 1\n}\ninst 0 t \"t.0\" path \"\" args - - - - - "
    "params rates 0.25\n";

static void
test_attention(void)
{
	static const int n[5] = {G * S * D, K * D, K * D, K, G * K}, grad[5] = {2, 3, 4, -1, 5};
	Test t = open_test("attention");
	double o[G * S * D], lse[G * S],
	    mask[K] = {0, 1, 1, 1}; /* the first query sees nothing */

	for (int k = 0; k < 5; k++)
		t.in[k] = draw(&t, n[k] + k, 0);
	t.in[3] = mask;
	attention_by_hand(t.in, o, lse);
	expect(&t, attention_text, o, G * S * D);
	if (!t.m) return;
	check_all(&t, 1, lse, G * S);
	for (int k = 0; k < 5; k++)
		for (int i = 0; grad[k] >= 0 && i < n[k]; i++) {
			double *x = (double *)(uintptr_t)&t.in[k][i], keep = *x, h = 1e-5,
			       o2[G * S * D], l2[G * S];
			*x = keep + h;
			double up = attention_by_hand(t.in, o2, l2);
			*x = keep - h;
			double dn = attention_by_hand(t.in, o2, l2);
			*x = keep;
			double want = (up - dn) / (2 * h), have = t.out[grad[k]][i];
			check(t.name, fabs(have - want) <= 1e-8 * fmax(1, fabs(want)),
			      "gradient by differences");
		}
	close_test(&t);
}

/* ---- the optimizer ---- */

static void
test_updates(void)
{
	Test a = open_test("adamw"), s = open_test("sgd"), q = open_test("sumsq");
	double rate = 0.1, scale = 0.5, c1 = 0.19, c2 = 0.0975, w[6], m[6], v[6], sw[6],
	       sum = 0;
	const double *x[4];

	for (int k = 0; k < 4; k++)
		x[k] = a.in[k] = draw(&a, 6 + k, k == 3 ? 1.5 : 0);
	for (int i = 0; i < 6; i++) {
		double g = x[1][i] * scale, step = 0.9 * x[2][i] + g + 0.2 * x[0][i];
		m[i] = 0.9 * x[2][i] + 0.1 * g;
		v[i] = 0.95 * x[3][i] + 0.05 * g * g;
		w[i] = x[0][i] -
		       rate * 0.5 * (m[i] / c1 / (sqrt(v[i] / c2) + 1e-8) + 0.2 * x[0][i]);
		sw[i] = x[0][i] - rate * 0.5 * step;
		sum += x[0][i] * x[0][i];
	}
	a.in[4] = s.in[3] = &rate, a.in[5] = s.in[4] = &scale, a.in[6] = &c1, a.in[7] = &c2;
	s.in[0] = x[0], s.in[1] = x[1], s.in[2] = x[2], q.in[0] = x[0];
	expect(&a,
	       AXES
	       "body 1 t U {\n weight 0 %w : f32[a b]\n grad 0 %g : f32[a b]\n m 0 %m : f32[a "
	       "b]\n v 0 %v : f32[a b]\n"
	       " scalar 0 %r : f64[]\n scalar 1 %s : f64[]\n scalar 2 %c : f64[]\n scalar 3 %d "
	       ": f64[]\n"
	       " %x, %y, %z = adamw %w %g %m %v %r %s %c %d {beta1=0.9 beta2=0.95 eps=1e-08 "
	       "decay=0.2 lr=0.5}"
	       " : f32[a b], f32[a b], f32[a b]\n w_out 0 %x\n m_out 0 %y\n v_out 0 %z\n}\n",
	       w, 6);
	if (a.m) check_all(&a, 1, m, 6), check_all(&a, 2, v, 6);
	expect(
	    &s,
	    AXES
	    "body 1 t U {\n weight 0 %w : f32[a b]\n grad 0 %g : f32[a b]\n m 0 %m : f32[a b]\n"
	    " scalar 0 %r : f64[]\n scalar 1 %s : f64[]\n"
	    " %x, %y = sgd %w %g %m %r %s {momentum=0.9 decay=0.2 lr=0.5} : f32[a b], f32[a "
	    "b]\n w_out 0 %x\n m_out 0 %y\n}\n",
	    sw, 6);
	expect(&q,
	       AXES
	       "body 1 t N {\n grad 0 %g : f32[a b]\n %n = sumsq %g : f64[]\n norm 0 %n\n}\n",
	       &sum, 1);
	close_test(&a), close_test(&s), close_test(&q);
}

/* ---- rounding ---- */

static void
test_rounding(void)
{
	Test t = open_test("f32"), h = open_test("bf16");
	double x[2] = {0.1, 16777217}, y[2] = {0.2, 1},
	       want[2] = {(double)(0.1f + 0.2f), 16777216};
	double z[4] = {1.00390625, 1.01171875, -3.14159, 1e-3},
	       half[4] = {1, 1.015625, -3.140625, 0.00099945068359375};

	t.o.f64 = h.o.f64 = false;
	t.in[0] = x, t.in[1] = y, h.in[0] = z;
	want[1] = (double)(16777216.0f + 1.0f);
	expect(&t,
	       AXES "body 1 t F {\n arg 0 %x : f32[a]\n arg 1 %y : f32[a]\n %z = add %x %y : "
		    "f32[a]\n out 0 %z\n}\n",
	       want, 2);
	expect(&h,
	       AXES "body 1 t F {\n arg 0 %x : f32[d]\n %z = cast %x {dtype=bf16} : bf16[d]\n "
		    "out 0 %z\n}\n",
	       half, 4);
	close_test(&t), close_test(&h);
}

/* ---- ranks ---- */

#define PLAN(ranks, mesh) \
	"ranks " ranks    \
	" threads all microbatches 1 schedule 1f1b\nmesh m0 = mb\nmesh m1 = " mesh "\n"

/* Every order of ranks gives the same. */
static void
expect_ranks(const char *name, const char *text, const double *x, const double *want, int n)
{
	Test t = open_test(name);

	t.in[0] = x;
	if (read_test(&t, "spmd", text))
		for (uint32_t k = 0; k < 6; k++) {
			t.o.adversarial = k > 0, t.o.order_seed = k;
			bool ok = run_test(&t);
			if (!ok) show_said(t.said, t.name);
			check(name, ok, "does not run");
			if (ok) check_all(&t, 0, want, n);
		}
	close_test(&t);
}

static void
test_collectives(void)
{
	double x[40], sum[8] = {0}, swap[40], twice[40];

	for (int i = 0; i < 40; i++)
		x[i] = sqrt(i + 1), twice[i] = 2 * x[i];
	for (int i = 0; i < 5; i++)
		for (int j = 0; j < 8; j++)
			sum[j] += x[i * 8 + j], swap[j * 5 + i] = x[i * 8 + j];
#define RANKED(ranks, mesh, body) \
	"axis a = 5\naxis b = 8\n" PLAN(ranks, mesh) "body 1 t F mesh m1 {\n" body "}\n"
	expect_ranks("all_reduce on 3, uneven",
		     RANKED("3", "dp:3",
			    " arg 0 %x : f32[a@dp b]\n"
			    " %s = sum %x {axes=[a]} : f32[b +dp]\n %y = all_reduce %s "
			    "{over=[dp]} : f32[b]\n out 0 %y\n"),
		     x, sum, 8);
	expect_ranks("pending sum given out",
		     RANKED("3", "dp:3",
			    " arg 0 %x : f32[a@dp b]\n"
			    " %s = sum %x {axes=[a]} : f32[b +dp]\n out 0 %s\n"),
		     x, sum, 8);
	expect_ranks("reduce_scatter on 4",
		     RANKED("4", "dp:4",
			    " arg 0 %x : f32[a@dp b]\n"
			    " %s = sum %x {axes=[a]} : f32[b +dp]\n %y, _ = reduce_scatter %s "
			    "{over=[dp] axis=b} : f32[b@dp]\n out 0 %y\n"),
		     x, sum, 8);
	expect_ranks("all_gather on 2, uneven",
		     RANKED("2", "tp:2",
			    " arg 0 %x : f32[a@tp b]\n"
			    " %y = all_gather %x {over=[tp] axis=a} : f32[a b]\n %z = add %y "
			    "%y : f32[a b]\n out 0 %z\n"),
		     x, twice, 40);
	expect_ranks("all_to_all on 2",
		     RANKED("2", "sp:2",
			    " arg 0 %x : f32[a@sp b]\n"
			    " %y = all_to_all %x {over=[sp] axis=a to=[b]} : f32[a b@sp]\n %z "
			    "= copy %y : f32[b@sp a]\n out 0 %z\n"),
		     x, swap, 40);
	expect_ranks("two groups of two",
		     RANKED("4", "dp:2 tp:2",
			    " arg 0 %x : f32[a@dp b@tp]\n"
			    " %s = sum %x {axes=[a]} : f32[b@tp +dp]\n %y = all_reduce %s "
			    "{over=[dp]} : f32[b@tp]\n"
			    " %z = all_gather %y {over=[tp] axis=b} : f32[b]\n out 0 %z\n"),
		     x, sum, 8);
	expect_ranks("an axis over two mesh axes",
		     RANKED("4", "dp:2 tp:2",
			    " arg 0 %x : f32[a b@dp.tp]\n"
			    " %y = all_gather %x {over=[tp] axis=b} : f32[a b@dp]\n %z = "
			    "all_gather %y {over=[dp] axis=b} : f32[a b]\n"
			    " %w = add %z %z : f32[a b]\n out 0 %w\n"),
		     x, twice, 40);
}

static void
test_positions(void)
{
	double x[5] = {0}, want[5] = {0, 1, 2, 3, 4};

	expect_ranks(
	    "positions are global",
	    "axis a = 5\n" PLAN(
		"2", "dp:2") "body 1 t F mesh m1 {\n arg 0 %x : f32[a@dp]\n"
			     " %p = pos {axis=a} : i32[a@dp]\n %f = cast %p {dtype=f32} : "
			     "f32[a@dp]\n %y = add %f %x : f32[a@dp]\n out 0 %y\n}\n",
	    x, want, 5);
}

/* Ranks in front of different collectives never meet: that is said, with who waits where. */
static void
test_deadlock(void)
{
	Test t = open_test("deadlock");
	double x[2] = {1, 2}, *y;

	if (!read_test(
		&t, "spmd",
		"axis a = 2\n" PLAN(
		    "2",
		    "dp:2") "body 1 t F mesh m1 {\n arg 0 %x : f32[a@dp]\n"
			    " %y = all_gather %x {over=[dp] axis=a} : f32[a]\n out 0 %y\n}\n"
			    "body 2 u F mesh m1 {\n arg 0 %x : f32[a@dp]\n %other = all_gather "
			    "%x {over=[dp] axis=a} : f32[a]\n out 0 %other\n}\n"))
		return;
	Rank ranks[2] = {{.ranks = 2}, {.ranks = 2}};
	Eval e = {.arena = t.arena,
		  .m = t.m,
		  .o = t.o,
		  .diag = t.diag,
		  .wide = true,
		  .nranks = 2,
		  .ranks = ranks};
	y = NEW_N(t.arena, double, 2);
	for (uint32_t i = 0; i < 2; i++) {
		const Body *b = &t.m->bodies[1 + i];
		Place *ports = NEW_N(t.arena, Place, 2);
		ports[0] = (Place){.x = x, .type = val_type(b, b->ports[0].v)};
		ports[1] = (Place){.x = y, .type = val_type(b, b->ports[1].v)};
		check(t.name,
		      eval_add_rank(&e, &ranks[i], i, 0) &&
			  eval_begin(&e, &ranks[i], b, t.m->ninsts, ports, true),
		      "does not start");
	}
	check(t.name, !eval_ranks(&e), "not found");
	check(t.name, has_said(t.said, "deadlock: rank 0 waits in '%y'"),
	      "rank 0 is not named");
	check(t.name, has_said(t.said, "rank 1 waits in '%other'"), "rank 1 is not named");
	for (int i = 0; i < 2; i++) {
		eval_forget(&ranks[i]);
		arena_free(ranks[i].body);
		arena_free(ranks[i].op);
	}
	close_test(&t);
}

/* ---- memory ---- */

/* exp, then sin, then their sum: right with two buffers, wrong with one. */
static void
test_memory(void)
{
	for (int overlap = 0; overlap < 2; overlap++)
		for (int wide = 0; wide < 2; wide++) {
			Test t = open_test("offsets");
			double want[6];
			const double *x = t.in[0] = draw(&t, 6, 0);
			t.o.f64 = wide;
			if (!read_test(
				&t, "graph",
				AXES
				"body 1 t F {\n arg 0 %x : f32[a b]\n %e = exp %x : f32[a b]\n"
				" %s = sin %x : f32[a b]\n %y = add %e %s : f32[a b]\n out 0 "
				"%y\n}\n"))
				return;
			t.m->level = LV_mem;
			Body *b = &t.m->bodies[1];
			b->scratch_bytes = 128;
			for (uint32_t v = 1; v < b->nvals; v++)
				b->vals[v].space = SP_port;
			for (int k = 0; k < 2; k++) {
				b->vals[b->ops[k].out[0].i].space = SP_scratch;
				b->vals[b->ops[k].out[0].i].offset = overlap ? 0 : 64 * k;
			}
			check(t.name, run_test(&t), "does not run");
			for (int i = 0; i < 6; i++) {
				double xi = wide ? x[i] : (double)(float)x[i];
				want[i] = overlap ? 2 * sin(xi) : exp(xi) + sin(xi);
				checks++;
				if (fabs(t.out[0][i] - want[i]) > (wide ? 1e-14 : 1e-6))
					failures++, printf("eval: offsets: FAILED\n");
			}
			close_test(&t);
		}
}

/* Scratch is NaN until it is written, and no op hides that. */
static void
test_poison(void)
{
	Test t = open_test("poison");

	t.in[0] = draw(&t, 2, 0);
	if (!read_test(&t, "graph",
		       AXES "body 1 t F {\n arg 0 %x : f32[a]\n %e = exp %x : f32[a]\n"
			    " %y = relu %e : f32[a]\n out 0 %y\n}\n"))
		return;
	t.m->level = LV_mem;
	Body *b = &t.m->bodies[1];
	ValDef *e = &b->vals[b->ops[0].out[0].i], *y = &b->vals[b->ops[1].out[0].i];
	b->scratch_bytes = 128;
	e->space = SP_scratch, e->offset = 0;
	y->space = SP_port;
	check(t.name, run_test(&t) && t.out[0][1] == fmax(0, exp(t.in[0][1])), "as planned");
	b->ops[1].in[0] = b->ops[1].out[0]; /* reads its own result before it is made */
	y->space = SP_scratch, y->offset = 64;
	check(t.name, run_test(&t) && isnan(t.out[0][0]) && isnan(t.out[0][1]),
	      "stale bytes were read as numbers");
	close_test(&t);
}

/* ---- a step ---- */

static const char step_text[] =
    "axis batch = 4\naxis a = 3\nbatch batch\ninput t i32[batch] range a\n"
    "param 0 \"w\" f32[a] dims 1 init normal 0.5 decay 1 lr 1 owner 0\n"
    "train adamw rate const 0.1 0 0 0 beta1 0.9 beta2 0.95 eps 1e-08 decay 0.1 momentum 0 clip "
    "0.5 precision f64 seed 3\n"
    "body 1 t F {\n arg 0 %t : i32[batch]\n weight 0 %w : f32[a]\n %g = gather %w %t "
    "{axes=[a]} : f32[batch]\n"
    " %s = mul %g %g : f32[batch]\n %y = sum %s {axes=[batch]} : f32[]\n out 0 %y\n}\n"
    "type t args 1 outs 1 rates 0 {\n body F 1\n weight \"w\" : f32[a]\n}\n"
    "inst 0 t \"t\" path \"\" args t params 0 rates\nreport \"loss\" 0.0\n";

/* loss = sum over samples of w[t]^2, three steps of AdamW with clipping, against the loop. */
static void
test_step(void)
{
	static const double tokens[4] = {0, 2, 2, 1}, bad[4] = {0, 3, 0, 0};
	Test t = open_test("a training step");
	double w[3], m[3] = {0}, v[3] = {0};
	const double *x, *g;

	if (!read_test(&t, "graph", step_text)) return;
	Ctx c = {.perm = t.arena, .tmp = t.tmp, .names = t.names, .diag = t.diag};
	check(t.name, pass_autodiff(&c, t.m) && pass_optimizer(&c, t.m), "no gradient");
	Eval *e = eval_new(t.m, &t.o, t.diag);
	check(t.name, e != NULL, "eval_new");
	if (!e) return;
	check(t.name, eval_get(e, "w", &x) == 3, "the parameter");
	for (uint64_t i = 0; i < 3; i++)
		check(t.name, x[i] == (w[i] = 0.5 * rng_normal(rng_key(3, "w"), i)),
		      "its first value");
	check(t.name, !eval_set(e, "t", tokens, 3) && !eval_set(e, "nobody", tokens, 4),
	      "wrong name or count taken");
	double loss, norm;
	check(t.name, !eval_run(e, &loss) && has_said(t.said, "input 't' has not been given"),
	      "a missing input");
	check(t.name, !eval_set(e, "t", bad, 4) && has_said(t.said, "input 't' holds 3 at 1"),
	      "an index out of range");
	check(t.name, eval_set(e, "t", tokens, 4), "eval_set");
	for (uint64_t step = 0; step < 3; step++) {
		double want = 0, squares = 0, scale;
		static const double count[3] = {1, 1, 2};
		for (int i = 0; i < 3; i++)
			want += count[i] * w[i] * w[i], squares += pow(2 * count[i] * w[i], 2);
		check(t.name, eval_run(e, &loss) && near(loss, want), "loss");
		check(t.name, eval_get(e, "grad:w", &g) == 3 && near(g[2], 4 * w[2]),
		      "gradient");
		check(t.name, eval_get(e, "loss", &x) == 1 && near(x[0], want), "report");
		check(t.name, eval_update(e, step, &norm) && near(norm, sqrt(squares)), "norm");
		scale = fmin(1, 0.5 / (sqrt(squares) + 1e-6));
		for (int i = 0; i < 3; i++) {
			double gi = 2 * count[i] * w[i] * scale;
			m[i] = 0.9 * m[i] + 0.1 * gi, v[i] = 0.95 * v[i] + 0.05 * gi * gi;
			w[i] -=
			    0.1 * (m[i] / (1 - pow(0.9, (double)step + 1)) /
				       (sqrt(v[i] / (1 - pow(0.95, (double)step + 1))) + 1e-8) +
				   0.1 * w[i]);
		}
		check(t.name,
		      eval_get(e, "w", &x) == 3 && near(x[0], w[0]) && near(x[1], w[1]) &&
			  near(x[2], w[2]),
		      "update");
		check(t.name, eval_get(e, "m:w", &x) == 3 && near(x[1], m[1]), "first moment");
		check(t.name, eval_get(e, "v:w", &x) == 3 && near(x[1], v[1]), "second moment");
	}
	eval_free(e);
	close_test(&t);
}

int
main(void)
{
	test_unary();
	test_binary();
	test_where();
	test_dropout();
	test_moves();
	test_concat();
	test_gather();
	test_reductions();
	test_dot();
	test_rows();
	test_topk();
	test_cross_entropy();
	test_attention();
	test_updates();
	test_rounding();
	test_collectives();
	test_positions();
	test_deadlock();
	test_memory();
	test_poison();
	test_step();
	return checked("eval");
}
