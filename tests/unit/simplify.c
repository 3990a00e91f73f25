/*
 * simplify.c - what each rule of passes/simplify.c leaves of a body, what it must leave alone, and that a second run
 * changes nothing.
 */
#include "passes/passes.h"

#include <stdlib.h>
#include <string.h>

/* clang-format off */
static const struct Case {
	const char *ops;  /* of a body with arguments %x f32[a b], %z f32[a b], %w f32[b], %i i32[a], %p bool[a]; makes %y */
	const char *want; /* ops left, one a line, then the name of what is given out */
} cases[] = {
    /* folding */
    {"%c = const {value=2} : f32[]\n%d = const {value=3} : f32[]\n%e = mul %c %d : f32[]\n%y = mul %x %e : f32[a b]",
        "%const = const {value=6} : f32[]\n%y = mul %x %const : f32[a b]\ny"},
    {"%c = const {value=7} : i32[]\n%d = const {value=-2} : i32[]\n%e = floordiv %c %d : i32[]\n%y = add %i %e : i32[a]",
        "%const = const {value=-4} : i32[]\n%y = add %i %const : i32[a]\ny"},
    {"%c = const {value=0} : f32[]\n%d = log %c : f32[]\n%y = mul %x %d : f32[a b]", /* not finite: stays */
        "%c = const {value=0} : f32[]\n%d = log %c : f32[]\n%y = mul %x %d : f32[a b]\ny"},
    {"%c = const {value=2147483647} : i32[]\n%e = add %c %c : i32[]\n%y = add %i %e : i32[a]", /* out of range: stays */
        "%c = const {value=2147483647} : i32[]\n%e = add %c %c : i32[]\n%y = add %i %e : i32[a]\ny"},
    /* identities */
    {"%c = const {value=0} : f32[]\n%y = add %c %x : f32[a b]", "x"},
    {"%c = const {value=0} : f32[]\n%y = sub %c %x : f32[a b]", "%y = neg %x : f32[a b]\ny"},
    {"%c = const {value=1} : f32[]\n%d = mul %x %c : f32[a b]\n%y = div %d %c : f32[a b]", "x"},
    {"%c = const {value=0} : f32[]\n%y = mul %x %c : f32[a b]", /* may be NaN: stays */
        "%c = const {value=0} : f32[]\n%y = mul %x %c : f32[a b]\ny"},
    {"%c = const {value=8} : f32[]\n%y = div %x %c : f32[a b]",
        "%const = const {value=0.125} : f32[]\n%y = mul %x %const : f32[a b]\ny"},
    {"%c = const {value=3} : f32[]\n%y = div %x %c : f32[a b]",
        "%c = const {value=3} : f32[]\n%y = div %x %c : f32[a b]\ny"},
    {"%n = neg %x : f32[a b]\n%m = neg %n : f32[a b]\n%y = exp %m : f32[a b]", "%y = exp %x : f32[a b]\ny"},
    {"%n = neg %x : f32[a b]\n%y = add %z %n : f32[a b]", "%y = sub %z %x : f32[a b]\ny"},
    {"%c = const {value=3} : f32[]\n%y = pow %x %c : f32[a b]",
        "%y = mul %x %x : f32[a b]\n%y.2 = mul %y %x : f32[a b]\ny.2"},
    {"%c = const {value=0.5} : f32[]\n%y = pow %x %c : f32[a b]", "%y = sqrt %x : f32[a b]\ny"},
    {"%c = const {value=1} : bool[]\n%q = and %p %c : bool[a]\n%y = where %q %x %x : f32[a b]", "x"},
    {"%y = where %p %x %z : f32[a b]", "%y = where %p %x %z : f32[a b]\ny"},
    {"%c = cast %x {dtype=f64} : f64[a b]\n%y = cast %c {dtype=f32} : f32[a b]", "x"},
    {"%c = cast %x {dtype=bf16} : bf16[a b]\n%y = cast %c {dtype=f32} : f32[a b]", /* rounds: stays */
        "%c = cast %x {dtype=bf16} : bf16[a b]\n%y = cast %c {dtype=f32} : f32[a b]\ny"},
    /* a result of another order of axes is another value */
    {"%c = const {value=1} : f32[]\n%y = mul %x %c : f32[b a]",
        "%c = const {value=1} : f32[]\n%y = mul %x %c : f32[b a]\ny"},
    /* re-indexing */
    {"%v = view %x {from=[b] to=[c d]} : f32[a c d]\n%y = view %v {from=[c d] to=[b]} : f32[a b]", "x"},
    {"%v = view %x {from=[b] to=[e]} : f32[a e]\n%y = view %v {from=[e] to=[g]} : f32[a g]",
        "%y = view %x {from=[b] to=[g]} : f32[a g]\ny"},
    {"%v = unslice %x {axis=b from=[b] start=3 step=-1} : f32[a b]\n%y = exp %v : f32[a b]",
        "%v = slice %x {axis=b to=[b] start=3 step=-1} : f32[a b]\n%y = exp %v : f32[a b]\ny"},
    {"%v = roll %x {axis=b shift=3} : f32[a b]\n%y = roll %v {axis=b shift=1} : f32[a b]", "x"},
    {"%s = slice %x {axis=b to=[c] start=0 step=1} : f32[a c]\n%t = slice %z {axis=b to=[d] start=2 step=1} : f32[a d]\n"
     "%u = unslice %t {axis=b from=[d] start=2 step=1} : f32[a b]\n%v = unslice %s {axis=b from=[c] start=0 step=1} : f32[a b]\n"
     "%y = add %u %v : f32[a b]",
        "%s = slice %x {axis=b to=[c] start=0 step=1} : f32[a c]\n%t = slice %z {axis=b to=[d] start=2 step=1} : f32[a d]\n"
        "%y = concat %s %t {from=[c d] to=[b]} : f32[a b]\ny"},
    {"%v = broadcast %w {axes=[a]} : f32[a b]\n%y = mul %x %v : f32[a b]", "%y = mul %x %w : f32[a b]\ny"},
    {"%v = broadcast %w {axes=[a]} : f32[a b]\n%y = exp %v : f32[a b]",
        "%v = broadcast %w {axes=[a]} : f32[a b]\n%y = exp %v : f32[a b]\ny"},
    {"%v = broadcast %w {axes=[a]} : f32[a b]\n%y = sum %v {axes=[a]} : f32[b]",
        "%const = const {value=3} : f32[]\n%y = mul %w %const : f32[b]\ny"},
    {"%v = broadcast %w {axes=[a]} : f32[a b]\n%y = dot %x %v {axes=[b]} : f32[a]",
        "%y = dot %x %w {axes=[b]} : f32[a]\ny"},
    {"%v = broadcast %w {axes=[a]} : f32[a b]\n%y = dot %x %v {axes=[a]} : f32[b]",
        "%v = broadcast %w {axes=[a]} : f32[a b]\n%y = dot %x %v {axes=[a]} : f32[b]\ny"},
    /* common subexpressions, dead code */
    {"%c = mul %x %w : f32[a b]\n%d = mul %w %x : f32[a b]\n%y = add %c %d : f32[a b]",
        "%c = mul %x %w : f32[a b]\n%y = add %c %c : f32[a b]\ny"},
    {"%c = sub %x %w : f32[a b]\n%d = sub %w %x : f32[a b]\n%y = add %c %d : f32[a b]",
        "%c = sub %x %w : f32[a b]\n%d = sub %w %x : f32[a b]\n%y = add %c %d : f32[a b]\ny"},
    {"%c = sum %x {axes=[a]} : f32[b]\n%d = sum %x {axes=[b]} : f32[a]\n%y = add %c %d : f32[b a]",
        "%c = sum %x {axes=[a]} : f32[b]\n%d = sum %x {axes=[b]} : f32[a]\n%y = add %c %d : f32[b a]\ny"},
    {"%m, _ = moments %x {axes=[b] eps=1e-05 center=1} : f32[a]\n"
     "_, %r = moments %x {axes=[b] eps=1e-05 center=1} : f32[a]\n%y = mul %m %r : f32[a]",
        "%m, %r = moments %x {axes=[b] eps=1e-05 center=1} : f32[a], f32[a]\n%y = mul %m %r : f32[a]\ny"},
    {"%d = exp %x : f32[a b]\n%y = neg %x : f32[a b]", "%y = neg %x : f32[a b]\ny"},
    {"%y = stop %x : f32[a b]", "%y = stop %x : f32[a b]\ny"},
    /* normalize */
    {"%y = normalize %x {axes=[b] eps=1e-05 center=1} : f32[a b]",
        "%mean, %rstd = moments %x {axes=[b] eps=1e-05 center=1} : f32[a], f32[a]\n"
        "%centered = sub %x %mean : f32[a b]\n%y = mul %centered %rstd : f32[a b]\ny"},
    {"%y = normalize %x {axes=[b] eps=1e-05 center=0} : f32[a b]",
        "_, %rstd = moments %x {axes=[b] eps=1e-05 center=0} : f32[a]\n%y = mul %x %rstd : f32[a b]\ny"},
};
/* clang-format on */

/* The body as text: its ops, then what it gives out. */
static void
show(const Module *m, Buf *out)
{
	const Body *b = &m->bodies[1];

	for (uint32_t i = 0; i < b->nops; i++) {
		ir_print_op(m, b, &b->ops[i], out);
		buf_putc(out, '\n');
	}
	buf_puts(out, name_str(m->names, b->vals[ir_find_port(b, PORT_out, 0)->v.i].name));
}

static bool
run(const struct Case *c)
{
	Arena *perm = arena_new(), *tmp = arena_new();
	Names *names = names_new(perm);
	Ctx ctx = {
	    .perm = perm, .tmp = tmp, .names = names, .diag = diag_new(perm, names, stdout)};
	Buf text, got, again;

	buf_init(&text, perm);
	buf_init(&got, perm);
	buf_init(&again, perm);
	buf_printf(&text,
		   "gir 1 graph\nmodel t source \"t\" hash 0x0000000000000000\naxis a = "
		   "3\naxis b = 4\naxis c = 2\naxis d = 2\n"
		   "axis e = 4\naxis g = 4\nbody 1 t F {\narg 0 %%x : f32[a b]\narg 1 %%z : "
		   "f32[a b]\narg 2 %%w : f32[b]\n"
		   "arg 3 %%i : i32[a]\narg 4 %%p : bool[a]\n%s\nout 0 %%y\n}\n",
		   c->ops);
	Module *m = ir_parse(perm, names, ctx.diag, name_of(names, "case"), text.s, text.n);
	bool ok = m && pass_simplify(&ctx, m);

	if (ok) {
		show(m, &got);
		ok = strcmp(got.s, c->want) == 0 && pass_simplify(&ctx, m);
		if (!ok) printf("simplify: got\n%s\nwanted\n%s\n", got.s, c->want);
	}
	if (ok) {
		show(m, &again);
		ok = strcmp(got.s, again.s) == 0;
		if (!ok) printf("simplify: again\n%s\nat first\n%s\n", again.s, got.s);
	}
	if (!ok) printf("simplify: of\n%s\n", c->ops);
	arena_free(tmp);
	arena_free(perm);
	return ok;
}

int
main(void)
{
	int bad = 0;

	for (size_t i = 0; i < COUNTOF(cases); i++)
		bad += !run(&cases[i]);
	if (bad) return 1;
	printf("simplify: %zu checks ok\n", COUNTOF(cases));
	return 0;
}
