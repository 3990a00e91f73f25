/*
 * grad.c - every gradient rule against central finite differences, in double, through the interpreter.
 *
 * A case is a body in the IR's text: variables, ops, a result %y. Its loss is sum(y + y^2 / 2), so that every entry has
 * a cotangent of its own. Each case runs three times: variables as weights (gradients come from W), as arguments made by
 * another layer (from B), and mixed (carry). Gradients of the differentiated module must agree with differences of the
 * loss of the module as written, which also shows that simplify and autodiff leave F's meaning alone.
 */
#include "passes/passes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Case {
	const char *name;
	const char *axes; /* "a 3 b 4" */
	const char *vars; /* "x a b, y b": name and axes; "x+": positive values */
	const char *ops;  /* lines; the last makes %y */
	const char *y;    /* axes of %y */
	double rate;      /* of dropout site 0; 0: the type has no rates */
} Case;

/* clang-format off */
#define F(axes) " : f32[" axes "]\n"
#define I(axes) " : i32[" axes "]\n"
#define B(axes) " : bool[" axes "]\n"

#define UNARY(op, x) { #op, "a 3 b 4", x " a b", "%y = " #op " %x" F("a b"), "a b", 0 }
#define BINARY(op, x, y) { #op, "a 3 b 4", x " a b, " y " b", "%y = " #op " %x %z" F("a b"), "a b", 0 }

static const Case cases[] = {
    UNARY(neg, "x"), UNARY(exp, "x"), UNARY(log, "x+"), UNARY(sqrt, "x+"), UNARY(sin, "x"), UNARY(cos, "x"),
    UNARY(tanh, "x"), UNARY(erf, "x"), UNARY(sigmoid, "x"), UNARY(relu, "x"), UNARY(abs, "x"), UNARY(copy, "x"),
    BINARY(add, "x", "z"), BINARY(sub, "x", "z"), BINARY(mul, "x", "z"), BINARY(div, "x", "z+"),
    BINARY(pow, "x+", "z"), BINARY(min, "x", "z"), BINARY(max, "x", "z"), BINARY(mod, "x+", "z+"),
    {"sub, broadcast first", "a 3 b 4", "x b, z a b", "%y = sub %x %z" F("a b"), "a b", 0},
    {"mul, both broadcast", "a 3 b 4", "x b, z a", "%y = mul %x %z" F("a b"), "a b", 0},
    {"div, orders differ", "a 3 b 4", "x a b, z+ b a", "%y = div %x %z" F("a b"), "a b", 0},
    {"pow 3", "a 5", "x a", "%p = const {value=3}" F("") "%y = pow %x %p" F("a"), "a", 0},
    {"pow 2.5", "a 5", "x+ a", "%p = const {value=2.5}" F("") "%y = pow %x %p" F("a"), "a", 0},
    {"pow -0.5", "a 5", "x+ a", "%p = const {value=-0.5}" F("") "%y = pow %x %p" F("a"), "a", 0},
    {"x x", "a 5", "x a", "%y = mul %x %x" F("a"), "a", 0},
    {"where", "a 3 b 4", "x a b, z b", "%o = const {value=0.3}" F("") "%c = lt %x %o" B("a b")
        "%y = where %c %x %z" F("a b"), "a b", 0},
    {"stop", "a 5", "x a", "%o = const {value=0.5}" F("") "%f = floordiv %x %o" F("a") "%t = stop %f" F("a")
        "%y = mul %x %t" F("a"), "a", 0},
    {"broadcast", "a 3 b 4", "x b", "%y = broadcast %x {axes=[a]}" F("a b"), "a b", 0},
    {"dropout", "a 6 b 7", "x a b", "%y = dropout %x {axes=[a b] rate=0 key=3}" F("a b"), "a b", 0.4},
    {"dropout of rows", "a 6 b 7", "x a b", "%y = dropout %x {axes=[a] rate=0 key=3}" F("a b"), "a b", 0.4},
    {"rename", "a 3 b 4 c 4", "x a b", "%y = view %x {from=[b] to=[c]}" F("a c"), "a c", 0},
    {"split", "a 3 b 4 c 2 d 2", "x a b", "%y = view %x {from=[b] to=[c d]}" F("a c d"), "a c d", 0},
    {"merge", "a 3 c 2 d 2 b 4", "x a c d", "%y = view %x {from=[c d] to=[b]}" F("a b"), "a b", 0},
    {"merge of far axes", "a 3 c 2 d 2 b 4", "x c a d", "%y = view %x {from=[c d] to=[b]}" F("b a"), "b a", 0},
    {"slice one", "a 3 b 4", "x a b", "%y = slice %x {axis=a start=2 step=1}" F("b"), "b", 0},
    {"slice part", "a 7 c 3 b 2", "x a b", "%y = slice %x {axis=a to=[c] start=1 step=2}" F("c b"), "c b", 0},
    {"slice turned", "a 3 b 2", "x a b", "%y = slice %x {axis=a to=[a] start=2 step=-1}" F("a b"), "a b", 0},
    {"unslice", "a 7 c 3 b 2", "x c b", "%y = unslice %x {axis=a from=[c] start=1 step=2}" F("a b"), "a b", 0},
    {"roll", "a 5 b 2", "x a b", "%y = roll %x {axis=a shift=2}" F("a b"), "a b", 0},
    {"concat", "a 2 b 3 c 5 d 2", "x a d, z b", "%y = concat %x %z {from=[a b] to=[c]}" F("c d"), "c d", 0},
    {"gather", "v 5 e 2 n 7", "x v e", "%p = pos {axis=n}" I("n") "%f = const {value=3}" I("") "%q = mul %p %f" I("n")
        "%g = const {value=5}" I("") "%i = mod %q %g" I("n") "%y = gather %x %i {axes=[v]}" F("n e"), "n e", 0},
    {"gather of two", "u 3 v 3 e 2 n 2 k 2", "x u v e", "%p = pos {axis=n}" I("n") "%r = pos {axis=k}" I("k")
        "%i = sub %p %r" I("n k") "%o = const {value=1}" I("") "%j = add %i %o" I("n k")
        "%h = add %p %r" I("n k") "%y = gather %x %j %h {axes=[u v]}" F("n k e"), "n k e", 0},
    {"gather, matched", "b 4 s 5", "x b s", "%p = pos {axis=b}" I("b") "%y = gather %x %p {axes=[s]}" F("b"), "b", 0},
    {"scatter_add", "v 3 e 2 n 7", "x n e", "%p = pos {axis=n}" I("n") "%g = const {value=3}" I("")
        "%i = mod %p %g" I("n") "%y = scatter_add %x %i {axes=[v] along=[v e]}" F("v e"), "v e", 0},
    {"sum", "a 3 b 4 c 2", "x a b c", "%y = sum %x {axes=[a c]}" F("b"), "b", 0},
    {"rmax", "a 3 b 4", "x a b", "%y = rmax %x {axes=[b]}" F("a"), "a", 0},
    {"rmin", "a 3 b 4", "x a b", "%y = rmin %x {axes=[a]}" F("b"), "b", 0},
    {"dot", "a 3 b 4 c 2", "x a b, z c b", "%y = dot %x %z {axes=[b]}" F("a c"), "a c", 0},
    {"dot, matched", "a 3 b 4 c 2", "x a b, z c b a", "%y = dot %x %z {axes=[b]}" F("a c"), "a c", 0},
    {"dot of two", "a 3 b 4 c 2 d 2", "x a b c, z d c b", "%y = dot %x %z {axes=[b c]}" F("d a"), "d a", 0},
    {"dot with a vector", "a 3 b 4", "x a b, z b", "%y = dot %x %z {axes=[b]}" F("a"), "a", 0},
    {"dot of itself", "a 3 b 4", "x a b", "%y = dot %x %x {axes=[b]}" F("a"), "a", 0},
    {"softmax", "a 3 b 4 c 2", "x a b c", "%y = softmax %x {axes=[b c]}" F("a b c"), "a b c", 0},
    {"normalize", "a 3 b 5", "x a b", "%y = normalize %x {axes=[b] eps=0.01 center=1}" F("a b"), "a b", 0},
    {"normalize, not centred", "a 3 b 5 c 2", "x a b c", "%y = normalize %x {axes=[b c] eps=0.01 center=0}" F("a b c"), "a b c", 0},
    {"moments", "a 3 b 5", "x a b", "%m, %r = moments %x {axes=[b] eps=0.01 center=1}" " : f32[a], f32[a]\n"
        "%y = div %m %r" F("a"), "a", 0},
    {"variance alone", "a 3 b 5", "x a b", "_, %r = moments %x {axes=[b] eps=0.01 center=1}" F("a")
        "%y = exp %r" F("a"), "a", 0},
    {"topk", "a 3 b 5 k 2", "x a b", "%y, _ = topk %x {axis=b to=[k]}" F("a k"), "a k", 0},
    {"cross entropy", "n 4 v 5", "x n v", "%p = pos {axis=n}" I("n") "%y, _ = cross_entropy %x %p {axis=v}" F("n"), "n", 0},
    {"cross entropy and its lse", "n 4 v 5", "x n v", "%p = pos {axis=n}" I("n")
        "%l, %e = cross_entropy %x %p {axis=v} : f32[n], f32[n]\n" "%y = mul %l %e" F("n"), "n", 0},
#define ATTENTION "keys=[k] feat=[d] scale=0.6 "
    {"attention", "b 2 s 3 k 4 d 3 h 2", "q b h s d, kk b h k d, v b k h d",
        "%y, _ = attention %q %kk %v {" ATTENTION "cap=0 rate=-1 key=0}" F("b h s d"), "b h s d", 0},
    {"attention, grouped, causal", "b 2 s 4 k 4 d 2 h 2 g 2", "q b h g s d, kk b h k d, v b h k d",
        "%y, _ = attention %q %kk %v {" ATTENTION "cap=0 rate=-1 key=0 query=s hi=0}" F("b h g s d"), "b h g s d", 0},
    {"attention, window, cap", "s 5 k 5 d 2", "q s d, kk k d, v k d",
        "%y, _ = attention %q %kk %v {" ATTENTION "cap=2 rate=-1 key=0 query=s lo=-1 hi=1}" F("s d"), "s d", 0},
    {"attention, mask, bias", "h 2 s 3 k 4 d 2", "q h s d, kk h k d, v h k d, w h s k",
        "%p = pos {axis=s}" I("s") "%r = pos {axis=k}" I("k") "%m = ne %p %r" B("s k")
        "%y, _ = attention %q %kk %v %m %w {" ATTENTION "cap=0 rate=-1 key=0 mask=1 bias=1}" F("h s d"), "h s d", 0},
    {"attention, bias without heads", "h 2 s 3 k 4 d 2", "q h s d, kk h k d, v h k d, w k",
        "%y, _ = attention %q %kk %v %w {" ATTENTION "cap=0 rate=-1 key=0 bias=1}" F("h s d"), "h s d", 0},
    {"attention, dropout", "b 2 s 3 k 4 d 2", "q b s d, kk b k d, v b k d",
        "%y, _ = attention %q %kk %v {" ATTENTION "cap=0 rate=0 key=1}" F("b s d"), "b s d", 0.3},

    /* what models are made of */
    {"rope", "b 2 s 3 d 4 t 2 j 2", "x b s d",
        "%x2 = view %x {from=[d] to=[t j]}" F("b s t j") "%turn = slice %x2 {axis=t to=[t] start=1 step=-1}" F("b s t j")
        "%p = pos {axis=s}" I("s") "%pf = cast %p {dtype=f32}" F("s") "%i = pos {axis=j}" I("j")
        "%if = cast %i {dtype=f32}" F("j") "%one = const {value=1}" F("") "%w = add %if %one" F("j")
        "%angle = div %pf %w" F("s j") "%co = cos %angle" F("s j") "%si = sin %angle" F("s j")
        "%u = pos {axis=t}" I("t") "%uf = cast %u {dtype=f32}" F("t") "%two = const {value=2}" F("")
        "%u2 = mul %two %uf" F("t") "%sign = sub %u2 %one" F("t") "%l = mul %x2 %co" F("b s t j")
        "%r0 = mul %turn %sign" F("b s t j") "%r = mul %r0 %si" F("b s t j") "%z = add %l %r" F("b s t j")
        "%y = view %z {from=[t j] to=[d]}" F("b s d"), "b s d", 0},
    {"layer norm, linear", "b 2 s 3 e 4 o 3", "x b s e, g e, c e, w o e, d o",
        "%n = normalize %x {axes=[e] eps=1e-05 center=1}" F("b s e") "%ng = mul %n %g" F("b s e")
        "%h = add %ng %c" F("b s e") "%l = dot %h %w {axes=[e]}" F("b s o") "%y = add %l %d" F("b s o"), "b s o", 0},
    {"gelu_tanh mlp", "b 3 e 4 f 5", "x b e, w f e, c f, u e f",
        "%a0 = dot %x %w {axes=[e]}" F("b f") "%a = add %a0 %c" F("b f") "%three = const {value=3}" F("")
        "%a3 = pow %a %three" F("b f") "%k = const {value=0.044715}" F("") "%ka = mul %k %a3" F("b f")
        "%in = add %a %ka" F("b f") "%q = const {value=0.7978845608028654}" F("") "%qi = mul %q %in" F("b f")
        "%t = tanh %qi" F("b f") "%one = const {value=1}" F("") "%t1 = add %one %t" F("b f")
        "%half = const {value=0.5}" F("") "%ha = mul %half %a" F("b f") "%h = mul %ha %t1" F("b f")
        "%o = dot %h %u {axes=[f]}" F("b e") "%y = add %x %o" F("b e"), "b e", 0},
    {"swiglu", "b 3 e 4 f 5", "x b e, w f e, v f e, u e f",
        "%a = dot %x %w {axes=[e]}" F("b f") "%s = sigmoid %a" F("b f") "%si = mul %a %s" F("b f")
        "%g = dot %x %v {axes=[e]}" F("b f") "%h = mul %si %g" F("b f") "%y = dot %h %u {axes=[f]}" F("b e"), "b e", 0},
    {"packed q k v", "b 2 s 3 k 3 e 4 p 3 d 2", "x b s e, w p d e",
        "%a = dot %x %w {axes=[e]}" F("b s p d") "%q = slice %a {axis=p start=0 step=1}" F("b s d")
        "%k0 = slice %a {axis=p start=1 step=1}" F("b s d") "%v0 = slice %a {axis=p start=2 step=1}" F("b s d")
        "%k = view %k0 {from=[s] to=[k]}" F("b k d") "%v = view %v0 {from=[s] to=[k]}" F("b k d")
        "%y, _ = attention %q %k %v {" ATTENTION "cap=0 rate=-1 key=0 query=s hi=0}" F("b s d"), "b s d", 0},
    {"split and concat", "n 2 p 5 a 2 b 3", "x n p",
        "%u = slice %x {axis=p to=[a] start=0 step=1}" F("n a") "%v = slice %x {axis=p to=[b] start=2 step=1}" F("n b")
        "%e = exp %u" F("n a") "%t = tanh %v" F("n b") "%y = concat %e %t {from=[a b] to=[p]}" F("n p"), "n p", 0},
    {"tied weights", "n 4 v 5 e 3", "x v e",
        "%p = pos {axis=n}" I("n") "%h = gather %x %p {axes=[v]}" F("n e") "%t = tanh %h" F("n e")
        "%l = dot %t %x {axes=[e]}" F("n v") "%y, _ = cross_entropy %l %p {axis=v}" F("n"), "n", 0},
    {"experts", "n 4 x 3 c 2 e 3 o 2", "h n e, g x e, w x o e",
        "%r0 = dot %h %g {axes=[e]}" F("n x") "%r = softmax %r0 {axes=[x]}" F("n x")
        "%p, %i = topk %r {axis=x to=[c]} : f32[n c], i32[n c]\n" "%ps = sum %p {axes=[c]}" F("n")
        "%pn = div %p %ps" F("n c") "%we = gather %w %i {axes=[x]}" F("n c o e")
        "%t = dot %h %we {axes=[e]}" F("n c o") "%y = dot %pn %t {axes=[c]}" F("n o"), "n o", 0},
};

/* clang-format on */

enum { MAX_VARS = 8, MAX_ENTRIES = 1 << 12 };

typedef struct Var {
	char name[16], axes[40];
	char kind; /* '+' or 0 */
	double x[MAX_ENTRIES];
	size_t n;
} Var;

typedef struct Run {
	Arena *perm, *tmp;
	Names *names;
	Diag *diag;
	Ctx ctx;
	Var var[MAX_VARS];
	int nvars;
} Run;

static double
random_value(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0 * 2 - 1;
}

static void
fail(const Case *c, const char *what)
{
	printf("grad: case '%s': %s\n", c->name, what);
	exit(1);
}

static int64_t
extent(const Case *c, const char *axis, size_t len)
{
	for (const char *p = c->axes; *p;) {
		size_t n = strcspn(p, " ");
		int used = 0, value = 0;

		sscanf(p + n, "%d%n", &value, &used);
		if (n == len && strncmp(p, axis, n) == 0) return value;
		p += n + (size_t)used;
		p += *p == ' ';
	}
	fail(c, "no such axis");
	return 0;
}

/* "x a b, z+ b" */
static void
read_vars(Run *r, const Case *c)
{
	uint64_t state = 17;

	for (const char *p = c->vars; *p; p += strspn(p, ", ")) {
		Var *v = &r->var[r->nvars++];
		size_t n = strcspn(p, " ,"), word;

		memcpy(v->name, p, n);
		if (v->name[n - 1] == '+') v->kind = v->name[n - 1], v->name[n - 1] = 0;
		p += n + (p[n] == ' ');
		n = strcspn(p, ",");
		memcpy(v->axes, p, n);
		v->n = 1;
		for (const char *q = v->axes; *q; q += word + (q[word] == ' ')) {
			word = strcspn(q, " ");
			v->n *= (size_t)extent(c, q, word);
		}
		for (size_t i = 0; i < v->n; i++) {
			double x = random_value(&state);

			v->x[i] = v->kind == '+' ? 1.3 + 0.8 * x : 1.7 * x;
		}
		p += n;
	}
}

static bool
is_arg(int variant, int k)
{
	return variant == 1 || (variant == 2 && k % 2 == 0);
}

/* Axes, parameters, and the body of the case. */
static void
print_case(Buf *b, const Run *r, const Case *c, int variant)
{
	int args = 0, weights = 0, sources = 0;

	buf_puts(b, "gir 1 graph\nmodel t source \"t\" hash 0x0000000000000000\n");
	for (const char *p = c->axes; *p;) {
		int n = (int)strcspn(p, " "), value = 0, used = 0;

		sscanf(p + n, "%d%n", &value, &used);
		buf_printf(b, "axis %.*s = %d\n", n, p, value);
		p += n + used;
		p += *p == ' ';
	}
	for (int k = 0; k < r->nvars; k++)
		sources += is_arg(variant, k);
	for (int k = 0, s = 0; k < r->nvars; k++) {
		buf_printf(b, "param %d \"%s\" f32[%s] dims", k, r->var[k].name,
			   r->var[k].axes);
		for (const char *q = r->var[k].axes; *q; q += strcspn(q, " "), q += *q == ' ')
			buf_puts(b, " 1");
		buf_printf(b, " init normal 1 decay 1 lr 1 owner %d\n",
			   is_arg(variant, k) ? s++ : sources);
	}
	buf_puts(b, "body 1 case F {\n");
	for (int k = 0; k < r->nvars; k++)
		if (is_arg(variant, k))
			buf_printf(b, "  arg %d %%%s : f32[%s]\n", args++, r->var[k].name,
				   r->var[k].axes);
	for (int k = 0; k < r->nvars; k++)
		if (!is_arg(variant, k))
			buf_printf(b, "  weight %d %%%s : f32[%s]\n", weights++, r->var[k].name,
				   r->var[k].axes);
	buf_puts(b, c->ops);
	buf_printf(b, "%%y.half = const {value=0.5} : f32[]\n%%y.1 = mul %%y %%y : f32[%s]\n",
		   c->y);
	buf_printf(b, "%%y.2 = mul %%y.half %%y.1 : f32[%s]\n%%y.3 = add %%y %%y.2 : f32[%s]\n",
		   c->y, c->y);
	buf_printf(b, "%%loss = sum %%y.3 {axes=[%s]} : f32[]\n  out 0 %%loss\n}\n", c->y);
}

static void
print_module(Buf *b, const Run *r, const Case *c, int variant)
{
	int body = 2, args = 0, sources = 0;

	print_case(b, r, c, variant);
	for (int k = 0; k < r->nvars; k++) {
		if (!is_arg(variant, k)) continue;
		buf_printf(b, "body %d src%d F {\n  weight 0 %%w : f32[%s]\n", body++, k,
			   r->var[k].axes);
		buf_printf(b,
			   "  %%c = const {value=1.25} : f32[]\n  %%y = mul %%w %%c : "
			   "f32[%s]\n  out 0 %%y\n}\n",
			   r->var[k].axes);
		args++;
	}
	buf_printf(b, "type case args %d outs 1 rates %d {\n  body F 1\n", args, c->rate > 0);
	for (int k = 0; k < r->nvars; k++)
		if (!is_arg(variant, k))
			buf_printf(b, "  weight \"%s\" : f32[%s]\n", r->var[k].name,
				   r->var[k].axes);
	buf_puts(b, "}\n");
	body = 2;
	for (int k = 0; k < r->nvars; k++) {
		if (!is_arg(variant, k)) continue;
		buf_printf(b,
			   "type src%d args 0 outs 1 rates 0 {\n  body F %d\n  weight \"w\" : "
			   "f32[%s]\n}\n",
			   k, body++, r->var[k].axes);
	}
	for (int k = 0; k < r->nvars; k++)
		if (is_arg(variant, k))
			buf_printf(
			    b,
			    "inst %d src%d \"src.%d\" path \"src.%d\" args params %d rates\n",
			    sources, k, k, k, k),
			    sources++;
	buf_printf(b, "inst %d case \"case\" path \"\" args", sources);
	for (int k = 0; k < args; k++)
		buf_printf(b, " %d.0", k);
	buf_puts(b, " params");
	for (int k = 0; k < r->nvars; k++)
		if (!is_arg(variant, k)) buf_printf(b, " %d", k);
	buf_puts(b, " rates");
	if (c->rate > 0) buf_printf(b, " %g", c->rate);
	buf_printf(b, "\nreport \"loss\" %d.0\n", sources);
}

static Module *
read_module(Run *r, const Case *c, const Buf *text)
{
	Name file = name_of(r->names, c->name);

	diag_source(r->diag, file, text->s, text->n);
	Module *m = ir_parse(r->perm, r->names, r->diag, file, text->s, text->n);
	if (!m || !ir_verify(m, r->diag, "test")) fail(c, "does not read");
	return m;
}

static void
set_all(const Run *r, const Case *c, Eval *e)
{
	for (int k = 0; k < r->nvars; k++)
		if (!eval_set(e, r->var[k].name, r->var[k].x, r->var[k].n)) fail(c, "eval_set");
}

static double
loss_at(Run *r, const Case *c, Eval *e, Var *v, size_t i, double x)
{
	double keep = v->x[i], loss;

	v->x[i] = x;
	if (!eval_set(e, v->name, v->x, v->n) || !eval_run(e, &loss)) fail(c, "eval_run");
	v->x[i] = keep;
	(void)r;
	return loss;
}

/* All gradients of one module against differences of another's loss; returns how many entries. */
static int
compare(Run *r, const Case *c, Eval *whole, Eval *trained)
{
	double loss, again;
	int checked = 0;

	set_all(r, c, whole);
	set_all(r, c, trained);
	if (!eval_run(trained, &loss) || !eval_run(whole, &again)) fail(c, "eval_run");
	if (!(fabs(loss - again) <= 1e-12 * fabs(again))) {
		printf("grad: case '%s': loss %.17g, after autodiff %.17g\n", c->name, again,
		       loss);
		exit(1);
	}
	for (int k = 0; k < r->nvars; k++) {
		Var *v = &r->var[k];
		const double *g;
		char name[32];
		double d[MAX_ENTRIES], top = 0;

		snprintf(name, sizeof name, "grad:%s", v->name);
		if (eval_get(trained, name, &g) != v->n) fail(c, "no gradient");
		for (size_t i = 0; i < v->n; i++) {
			double h = 1e-5;

			d[i] = (loss_at(r, c, whole, v, i, v->x[i] + h) -
				loss_at(r, c, whole, v, i, v->x[i] - h)) /
			       (2 * h);
			top = fmax(top, fabs(d[i]));
		}
		set_all(r, c, whole);
		for (size_t i = 0; i < v->n; i++, checked++) {
			if (fabs(g[i] - d[i]) <= 1e-6 * fmax(fabs(d[i]), 1e-2 * top) + 1e-9)
				continue;
			printf("grad: case '%s': d%s[%zu] is %.12g, by differences %.12g\n",
			       c->name, v->name, i, g[i], d[i]);
			exit(1);
		}
	}
	return checked;
}

static Run *
open_case(const Case *c)
{
	Run *r = calloc(1, sizeof *r);

	r->perm = arena_new();
	r->tmp = arena_new();
	r->names = names_new(r->perm);
	r->diag = diag_new(r->perm, r->names, stdout);
	r->ctx = (Ctx){.perm = r->perm, .tmp = r->tmp, .names = r->names, .diag = r->diag};
	read_vars(r, c);
	return r;
}

static void
close_case(Run *r)
{
	arena_free(r->tmp);
	arena_free(r->perm);
	free(r);
}

static Module *
train_module(Run *r, const Case *c, const Buf *text)
{
	Module *m = read_module(r, c, text);

	if (!pass_simplify(&r->ctx, m) || !ir_verify(m, r->diag, "simplify"))
		fail(c, "simplify");
	if (!pass_autodiff(&r->ctx, m) || !ir_verify(m, r->diag, "autodiff"))
		fail(c, "autodiff");
	return m;
}

static int
run_case(const Case *c, int variant, bool show)
{
	Run *r = open_case(c);
	Buf text, after;
	EvalOptions o = {.f64 = true, .seed = 5, .train = c->rate > 0, .ranks = 1};

	buf_init(&text, r->perm);
	buf_init(&after, r->perm);
	print_module(&text, r, c, variant);
	if (show) fputs(text.s, stdout);

	Module *whole = read_module(r, c, &text), *m = train_module(r, c, &text);
	ir_print(m, &after);
	if (show) fputs(after.s, stdout);
	Eval *a = eval_new(whole, &o, r->diag), *b = eval_new(m, &o, r->diag);
	if (!a || !b) fail(c, "eval_new");
	int checked = compare(r, c, a, b);

	eval_free(a);
	eval_free(b);
	close_case(r);
	return checked;
}

/* At a tie or a kink: all entries of all variables are `at`; the loss is sum(y + y^2 / 2), so a share of the cotangent
 * 1 + y is expected. PyTorch gives the same. */
static int
run_kink(const Case *c, double at, double want)
{
	Run *r = open_case(c);
	Buf text;
	EvalOptions o = {.f64 = true, .ranks = 1};
	int checked = 0;
	double loss;

	buf_init(&text, r->perm);
	print_module(&text, r, c, 0);
	Eval *e = eval_new(train_module(r, c, &text), &o, r->diag);
	for (int k = 0; k < r->nvars; k++)
		for (size_t i = 0; i < r->var[k].n; i++)
			r->var[k].x[i] = at;
	if (!e) fail(c, "eval_new");
	set_all(r, c, e);
	if (!eval_run(e, &loss)) fail(c, "eval_run");
	for (int k = 0; k < r->nvars; k++) {
		char name[32];
		const double *g;

		snprintf(name, sizeof name, "grad:%s", r->var[k].name);
		if (eval_get(e, name, &g) != r->var[k].n) fail(c, "no gradient");
		for (size_t i = 0; i < r->var[k].n; i++, checked++) {
			if (fabs(g[i] - want) <= 1e-12) continue;
			printf("grad: '%s' at a tie: d%s[%zu] is %g, not %g\n", c->name,
			       r->var[k].name, i, g[i], want);
			exit(1);
		}
	}
	eval_free(e);
	close_case(r);
	return checked;
}

static int
run_kinks(void)
{
	static const Case max = {"max", "a 5", "x a, z a", "%y = max %x %z" F("a"), "a", 0};
	static const Case min = {"min", "a 5", "x a, z a", "%y = min %x %z" F("a"), "a", 0};
	static const Case rmax = {"rmax", "a 2 b 4", "x a b", "%y = rmax %x {axes=[b]}" F("a"),
				  "a",    0};
	static const Case rmin = {"rmin", "a 2 b 4", "x a b", "%y = rmin %x {axes=[b]}" F("a"),
				  "a",    0};
	static const Case absolute = {"abs", "a 5", "x a", "%y = abs %x" F("a"), "a", 0};
	static const Case relu = {"relu", "a 5", "x a", "%y = relu %x" F("a"), "a", 0};

	return run_kink(&max, 1, 1) + run_kink(&min, 1, 1) + run_kink(&rmax, 1, 0.5) +
	       run_kink(&rmin, 1, 0.5) + run_kink(&absolute, 0, 0) + run_kink(&relu, 0, 0);
}

/* No arguments: all cases. One: the case of that name, with its modules printed. */
int
main(int argc, char **argv)
{
	int checked = 0;

	for (size_t i = 0; i < COUNTOF(cases); i++)
		for (int variant = 0; variant < 3; variant++) {
			if (argc > 1 && strcmp(argv[1], cases[i].name)) continue;
			checked += run_case(&cases[i], variant, argc > 1);
		}
	if (argc == 1) checked += run_kinks();
	printf("grad: %d checks ok\n", checked);
	return 0;
}
