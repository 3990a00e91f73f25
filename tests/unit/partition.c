/*
 * partition.c - what F saves, what B hands to W, and what autodiff refuses, body by body.
 */
#include "passes/passes.h"

#include <string.h>

/* clang-format off */
static const struct Case {
	const char *what;
	const char *ops;   /* of a body with argument %x f32[n e], weights %w f32[f e], %u f32[e f], %g f32[e]; makes %y f32[n e] */
	const char *saved; /* names of values saved, each with a blank before it */
	const char *carry;
} cases[] = {
    {"what a weight gradient's dot reads is saved, arguments are not",
        "%h = dot %x %w {axes=[e]} : f32[n f]\n%y = dot %h %u {axes=[f]} : f32[n e]", " h", " dh"},
    {"elementwise values are computed again from what is saved",
        "%a = dot %x %w {axes=[e]} : f32[n f]\n%s = sigmoid %a : f32[n f]\n%b = mul %a %s : f32[n f]\n"
        "%h = tanh %b : f32[n f]\n%y = dot %h %u {axes=[f]} : f32[n e]", " a h", " da"},
    {"statistics are saved, what is made of them is not",
        "%m, %r = moments %x {axes=[e] eps=1e-05 center=1} : f32[n], f32[n]\n%c = sub %x %m : f32[n e]\n"
        "%d = mul %c %r : f32[n e]\n%y = mul %d %g : f32[n e]", " m r", ""},
    {"a value out of reach is saved itself, once",
        "%a = dot %x %w {axes=[e]} : f32[n f]\n%b = exp %a : f32[n f]\n%o = dot %b %u {axes=[f]} : f32[n e]\n"
        "%z = add %x %o : f32[n e]\n%s = sin %z : f32[n e]\n%y = mul %s %z : f32[n e]", " b z", " dz da"},
    {"views of what is saved are not saved",
        "%a = dot %x %w {axes=[e]} : f32[n f]\n%v = view %a {from=[f] to=[p q]} : f32[n p q]\n"
        "%q0 = slice %v {axis=p start=0 step=1} : f32[n q]\n%q1 = slice %v {axis=p start=1 step=1} : f32[n q]\n"
        "%t = mul %q0 %q1 : f32[n q]\n%y = mul %x %t : f32[n e q]", " a", " dv"},
    {"one slice of many is saved alone",
        "%a = dot %x %w {axes=[e]} : f32[n f]\n%v = slice %a {axis=f start=1 step=1} : f32[n]\n"
        "%t = sin %v : f32[n]\n%y = mul %x %t : f32[n e]", " v", " da"},
    {"nothing of a chain from the argument is saved",
        "%a = exp %x : f32[n e]\n%b = sin %a : f32[n e]\n%y = mul %b %g : f32[n e]", "", ""},
    {"what depends on positions only is computed again, even for a dot",
        "%p = pos {axis=n} : i32[n]\n%f = cast %p {dtype=f32} : f32[n]\n%c = cos %f : f32[n]\n%s = sin %c : f32[n]\n"
        "%d = dot %x %s {axes=[n]} : f32[e]\n%y = mul %x %d : f32[n e]", " d", ""},
    {"attention saves its result and its log sum exp, not the renamed keys",
        "%k = view %x {from=[n] to=[keys]} : f32[keys e]\n"
        "%y, _ = attention %x %k %k {keys=[keys] feat=[e] scale=1 cap=0 rate=-1 key=0} : f32[n e]",
        " y attention.1", ""},
};
/* clang-format on */

static int checks, failures;

static void
compare(const struct Case *c, const char *kind, const char *got, const char *want)
{
	checks++;
	if (!strcmp(got, want)) return;
	failures++;
	printf("partition: %s: %s '%s', wanted '%s'\n", c->what, kind, got, want);
}

static Module *
differentiated(Ctx *c, const char *ops, bool *ok)
{
	Buf t;

	buf_init(&t, c->perm);
	buf_printf(&t,
		   "gir 1 graph\nmodel t source \"t\" hash 0x0000000000000000\naxis n = "
		   "3\naxis e = 4\naxis f = 6\n"
		   "axis p = 2\naxis q = 3\naxis keys = 3\n"
		   "param 0 \"x\" f32[n e] dims 1 1 init normal 1 decay 1 lr 1 owner 0\n"
		   "param 1 \"w\" f32[f e] dims 1 1 init normal 1 decay 1 lr 1 owner 1\n"
		   "param 2 \"u\" f32[e f] dims 1 1 init normal 1 decay 1 lr 1 owner 1\n"
		   "param 3 \"g\" f32[e] dims 1 init normal 1 decay 1 lr 1 owner 1\n"
		   "body 1 start F {\nweight 0 %%x : f32[n e]\n%%y = exp %%x : f32[n e]\nout 0 "
		   "%%y\n}\n"
		   "body 2 case F {\narg 0 %%x : f32[n e]\nweight 0 %%w : f32[f e]\nweight 1 "
		   "%%u : f32[e f]\n"
		   "weight 2 %%g : f32[e]\n%s\n",
		   ops);
	buf_printf(
	    &t,
	    "%%loss = sum %%y {axes=[n e%s]} : f32[]\nout 0 %%loss\n}\n"
	    "type start args 0 outs 1 rates 0 {\nbody F 1\nweight \"x\" : f32[n e]\n}\n"
	    "type case args 1 outs 1 rates 0 {\nbody F 2\nweight \"w\" : f32[f e]\nweight "
	    "\"u\" : f32[e f]\n"
	    "weight \"g\" : f32[e]\n}\n"
	    "inst 0 start \"start\" path \"\" args params 0 rates\n"
	    "inst 1 case \"case\" path \"\" args 0.0 params 1 2 3 rates\nreport \"loss\" 1.0\n",
	    strstr(ops, "[n e q]") ? " q" : "");
	Module *m = ir_parse(c->perm, c->names, c->diag, name_of(c->names, "case"), t.s, t.n);
	*ok = m && pass_simplify(c, m) && pass_autodiff(c, m);
	return m;
}

/* Names of the values that go out by ports of a kind. */
static char *
names_out(Ctx *c, const Module *m, uint32_t body, PortKind kind)
{
	const Body *b = &m->bodies[body];
	Buf out;

	buf_init(&out, c->perm);
	buf_puts(&out, "");
	for (uint32_t i = 0; i < b->nports && body; i++)
		if (b->ports[i].kind == kind)
			buf_printf(&out, " %s",
				   name_str(m->names, b->vals[b->ports[i].v.i].name));
	return out.s;
}

static void
run(const struct Case *k)
{
	Arena *perm = arena_new(), *tmp = arena_new();
	Names *names = names_new(perm);
	Ctx c = {
	    .perm = perm, .tmp = tmp, .names = names, .diag = diag_new(perm, names, stdout)};
	bool ok;
	Module *m = differentiated(&c, k->ops, &ok);

	compare(k, "diagnostics", ok && ir_verify(m, c.diag, "autodiff") ? "" : "some", "");
	if (ok) {
		const LayerType *l = &m->types[m->insts[1].type];

		compare(k, "saved", names_out(&c, m, l->body[BK_F], PORT_save), k->saved);
		compare(k, "carry", names_out(&c, m, l->body[BK_B], PORT_carry_out), k->carry);
	}
	arena_free(tmp);
	arena_free(perm);
}

/* An op without a rule is refused at its place, unless no gradient is asked of it. */
static void
refuse(const char *ops, const char *want)
{
	static const struct Case c = {.what = "refusal"};
	Arena *perm = arena_new(), *tmp = arena_new();
	Names *names = names_new(perm);
	char text[512] = "";
	FILE *out = tmpfile();
	Ctx ctx = {
	    .perm = perm, .tmp = tmp, .names = names, .diag = diag_new(perm, names, out)};
	bool ok;

	differentiated(&ctx, ops, &ok);
	rewind(out);
	size_t n = fread(text, 1, sizeof text - 1, out);
	text[n] = '\0';
	fclose(out);
	compare(&c, "diagnostic", text, want);
	compare(&c, "answer", ok ? "yes" : "no", *want ? "no" : "yes");
	arena_free(tmp);
	arena_free(perm);
}

int
main(void)
{
	for (size_t i = 0; i < COUNTOF(cases); i++)
		run(&cases[i]);
	refuse("%y = floordiv %x %g : f32[n e] !m.gdl:7:3+2",
	       "m.gdl:7:3: error: 'floordiv' cannot be differentiated yet: it is constant "
	       "between its jumps; stop() says so\n");
	refuse("%s = floordiv %x %g : f32[n e] !m.gdl:7:3+2\n%t = stop %s : f32[n e]\n%y = mul "
	       "%t %x : f32[n e]",
	       "");
	if (failures) return 1;
	printf("partition: %d checks ok\n", checks);
	return 0;
}
