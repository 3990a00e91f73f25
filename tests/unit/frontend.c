/*
 * frontend.c - GDL to level graph: the published sizes of the models, what gathers and masks are lowered to, --set,
 * and that every example of the manual elaborates. Diagnostics are golden tests, in tests/frontend/bad.
 */
#include "frontend/frontend.h"

#include <stdlib.h>
#include <string.h>

static int checks, failed;

#define CHECK(cond, ...)                                                \
	do {                                                            \
		checks++;                                               \
		if (!(cond)) {                                          \
			failed++;                                       \
			fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
			fprintf(stderr, __VA_ARGS__);                   \
			fputc('\n', stderr);                            \
		}                                                       \
	} while (0)

/* One compilation: what it made, what it said. */
typedef struct Run {
	Arena *arena;
	Ctx c;
	Module *m;
	char *said;
	size_t nsaid;
	Buf printed;
} Run;

static Run
run(FeOptions o, const char *text)
{
	Run r = {.arena = arena_new()};
	FILE *out = open_memstream(&r.said, &r.nsaid);
	Names *names = names_new(r.arena);
	r.c = (Ctx){.perm = r.arena,
		    .tmp = r.arena,
		    .names = names,
		    .diag = diag_new(r.arena, names, out)};
	r.m = text ? fe_parse_text(&r.c, &o, text, strlen(text)) : fe_load(&r.c, &o);
	buf_init(&r.printed, r.arena);
	buf_puts(&r.printed, "");
	if (r.m) {
		CHECK(ir_verify(r.m, r.c.diag, o.path), "%s does not verify", o.path);
		ir_print(r.m, &r.printed);
	}
	fclose(out);
	return r;
}

static void
end(Run *r)
{
	free(r->said);
	arena_free(r->arena);
}

/* ---- models ---- */

static void
test_models(void)
{
	static const struct {
		const char *path;
		int64_t params;
		uint32_t types, insts;
	} models[] = {
	    {"models/gpt2.gdl", 124439808, 3, 14},
	    {"models/llama3.gdl", 8030261248, 3, 34},
	    {"models/bert.gdl", 109514298, 3, 14},
	    {"models/t5.gdl", 222903552, 7, 29},
	    {"models/vit.gdl", 86567656, 3, 14},
	    {"models/swin.gdl", 28288354, 12, 17},
	    {"models/mixtral.gdl", 46702792704, 4, 34},
	    {"tests/frontend/good/spec_gpt2.gdl", 124439808, 3, 14},
	};
	for (size_t i = 0; i < COUNTOF(models); i++)
		for (int host = 0; host < 2; host++) {
			Run r = run((FeOptions){.path = models[i].path, .host = host}, NULL);
			CHECK(r.m, "%s: %s", models[i].path, r.said);
			if (r.m) {
				Buf why;
				buf_init(&why, r.arena);
				CHECK(ir_param_count(r.m) == models[i].params,
				      "%s: %lld parameters", models[i].path,
				      (long long)ir_param_count(r.m));
				CHECK(r.m->ntypes == models[i].types, "%s: %u layer types",
				      models[i].path, r.m->ntypes);
				CHECK(r.m->ninsts == models[i].insts, "%s: %u instances",
				      models[i].path, r.m->ninsts);
				CHECK(!r.nsaid, "%s says: %s", models[i].path, r.said);
				Module *again = ir_parse(r.arena, r.c.names, r.c.diag,
							 name_of(r.c.names, "dump"),
							 r.printed.s, r.printed.n);
				CHECK(again && ir_equal(r.m, again, &why), "%s read back: %s",
				      models[i].path, why.s ? why.s : "");
			}
			end(&r);
		}
}

static void
test_syntax_only(void)
{
	static const char *const files[] = {"tests/frontend/good/lex.gdl",
					    "tests/frontend/good/spec_prelude.gdl",
					    "models/prelude.gdl"};
	for (size_t i = 0; i < COUNTOF(files); i++) {
		Arena *a = arena_new();
		Names *names = names_new(a);
		Ctx c = {
		    .perm = a, .tmp = a, .names = names, .diag = diag_new(a, names, stderr)};
		char *text;
		size_t n;
		FILE *out = open_memstream(&text, &n);
		CHECK(fe_dump_ast(&c, files[i], out), "%s does not parse", files[i]);
		fclose(out);
		CHECK(n > 500 && strstr(text, "def"), "%s: the tree is short", files[i]);
		free(text);
		arena_free(a);
	}
}

/* ---- lowering ---- */

#define HEAD                                                                                  \
	"axis batch = 2, seq = 6, keys = seq, embed = 8, heads = 2, head = 4, vocab = 10\n"   \
	"axis three = 3, two = 2, expert = 4, choice = 2, one = 1, more = seq + one, flat = " \
	"48, kx = 3, ky = 2\n"                                                                \
	"input tokens[batch seq] : index vocab\ninput valid[batch seq] : bool\n"              \
	"input x[batch seq embed] : float\ninput picked[batch] : index seq\n"                 \
	"layer l(x) {\n"
#define TAIL "\n}\nforward { return l(x) }\n"
#define SUM  "\nreturn sum[batch seq embed](y)"
#define QKV                                                                                  \
	"q = x[embed -> heads head]\na = attention[keys, head](q, q[seq -> keys], q[seq -> " \
	"keys]"
#define ATT ")\nreturn sum[batch seq heads head](a)"

static void
test_lowering(void)
{
	/* a body, and what its module's text holds ("!..." : does not hold) */
	static const char *const cases[][4] = {
	    /* gathers */
	    {"y = x[seq: 2]\nreturn sum[batch embed](y)", "slice %x {axis=seq start=2 step=1}",
	     "!gather"},
	    {"y = x[seq: pos[three]]\nreturn sum[batch three embed](y)",
	     "slice %x {axis=seq to=[three] start=0 step=1}"},
	    {"y = x[seq: 2 * pos[three] + 1]\nreturn sum[batch three embed](y)",
	     "to=[three] start=1 step=2"},
	    {"y = x[seq: seq - 1 - pos[seq]]" SUM,
	     "slice %x {axis=seq to=[seq] start=5 step=-1}"},
	    {"y = x[seq: pos[keys]]\nreturn sum[batch keys embed](y)",
	     "view %x {from=[seq] to=[keys]}", "!slice"},
	    {"y = x[seq: pos[seq]]" SUM, "sum %x", "!slice"},
	    {"y = x[seq: (pos[seq] + 2) % seq]" SUM, "roll %x {axis=seq shift=2}", "!gather"},
	    {"y = x[seq: (pos[seq] - 2) % seq]" SUM, "roll %x {axis=seq shift=4}"},
	    {"y = x[seq: (pos[seq] + seq) % seq]" SUM, "sum %x", "!roll"},
	    {"y = x[seq: pos[three] * pos[three]]\nreturn sum[batch three embed](y)",
	     "gather %x", "out 0 %mul"},
	    {"y = x[seq: pos[batch]]\nreturn sum[batch embed](y)",
	     "gather %x %pos {axes=[seq]}"},
	    {"y = x[seq: pos[two], embed: pos[two]]\nreturn sum[batch two](y)",
	     "gather %x %pos %pos {axes=[seq embed]}"},
	    {"y = x[seq: picked]\nreturn sum[batch embed](y)",
	     "gather %x %picked {axes=[seq]} : f32[batch embed]"},
	    {"y = x[seq: min(picked, 2)]\nreturn sum[batch embed](y)", "gather %x %min"},
	    {"y = x[seq: 5 - picked]\nreturn sum[batch embed](y)", "gather %x %sub"},
	    {"y = x[seq: picked // 2 * 2]\nreturn sum[batch embed](y)", "gather %x %mul"},
	    {"y = x[seq: where(valid, pos[seq], 0)]" SUM, "gather %x %where"},
	    /* views */
	    {"y = x[seq -> keys]\nreturn sum[batch keys embed](y)",
	     "view %x {from=[seq] to=[keys]}"},
	    {"y = x[embed -> heads head][heads head -> embed]" SUM,
	     "{from=[embed] to=[heads head]}", "{from=[heads head] to=[embed]}"},
	    {"z = x[seq embed -> flat]\nreturn sum[batch flat](z)",
	     "{from=[seq embed] to=[flat]}"},
	    {"z = x[seq -> keys] * x\ny = z[seq -> keys, keys -> seq]\nreturn sum[batch seq "
	     "embed keys](y)",
	     "to=[aside]", "to=[aside.2]"},
	    {"z = x[seq embed -> kx ky embed]\nreturn sum[batch kx ky embed](z)", "to=[flat.2]",
	     "from=[flat.2] to=[kx ky embed]"},
	    {"z = concat[seq, one -> more](x, 0 * pos[one])\nreturn sum[batch more embed](z)",
	     "concat %x", "{from=[seq one] to=[more]}"},
	    /* masks */
	    {QKV ", mask = causal[seq, keys]" ATT, "query=seq hi=0}", "!mask=1"},
	    {QKV ", mask = pos[seq] >= pos[keys]" ATT, "query=seq hi=0}", "!body const"},
	    {QKV ", mask = pos[seq] < pos[keys]" ATT, "query=seq lo=1}"},
	    {QKV ", mask = window[seq, keys](3)" ATT, "query=seq lo=-2 hi=0}", "!body const"},
	    {QKV ", mask = abs(pos[seq] - pos[keys]) < 3" ATT, "mask=1", "!query"},
	    {QKV ", mask = pos[keys] == pos[seq] - 1 or pos[keys] == 0" ATT, "mask=1",
	     "!query"},
	    {QKV ", mask = valid[seq -> keys] and causal[seq, keys]" ATT,
	     "query=seq hi=0 mask=1}", "!and"},
	    {QKV ", mask = valid[seq -> keys]" ATT, " mask=1}", "!query"},
	    {QKV ", mask = pos[keys] >= 0" ATT, "rate=-1 key=0}", "!mask"},
	    {QKV ", bias = float(pos[keys])" ATT, " bias=1}"},
	    {QKV ", bias = 3" ATT, "!bias=1"},
	    {QKV ", drop = 0" ATT, "rate=0 key=0}", "rates 0 "},
	    {QKV ", scale = 1, cap = 50" ATT, "scale=1 cap=50"},
	    {QKV ATT, "scale=0.5 cap=0"},
	    /* numbers and constants */
	    {"y = x ^ 2" SUM, "mul %x %x", "!pow"},
	    {"y = x ^ 3" SUM, "mul %mul %x", "!pow"},
	    {"y = x ^ 0.5" SUM, "sqrt %x"},
	    {"y = x ^ -1" SUM, "div %const %x"},
	    {"return mean[batch seq embed](x)", "const {value=0.010416666666666666}",
	     "sum %x {axes=[batch seq embed]}"},
	    {"y = where(x > 1, x, 0)" SUM, "lt %const %x", "where %lt %x %const"},
	    {"y = x + float(pos[seq] // 2)" SUM, "const 0 %cast : f32[seq]", "floordiv"},
	    {"y = x * float(pos[seq] + 1) + float(pos[seq] + 1)" SUM, "const 0 %cast",
	     "!const 1"},
	    {"y = x * (seq + embed * 2)" SUM, "const {value=22}"},
	    {"if seq > 3 and not false { y = x } else { y = 0 }" SUM, "sum %x"},
	    {"y = x\nfor i in 0..3 { y = y + x }" SUM, "%y.3 = add %y.2 %x"},
	    {"y = dropout[batch](x, 0.25)" SUM, "dropout %x {axes=[batch] rate=0 key=0}",
	     "rates 0.25 "},
	    {"y = dropout(x, 0.1)" SUM, "{axes=[batch seq embed] rate=0 key=0}"},
	    /* parameters */
	    {"param w[embed] = pos[embed] * 2\ny = x * w" SUM, "init const 0", "out 0 %cast"},
	    {"param w[(heads head) seq] as \"a\" = uniform(0, 1), decay = 0, lr = 0.5\nreturn "
	     "sum[batch seq heads head](x[embed -> heads head] * w)",
	     "param 0 \"l.a\" f32[heads head seq] dims 2 1 init uniform 0 1 decay 0 lr 0.5"},
	    {"for i in 0..2 { x = linear[embed -> heads head](x)[heads head -> embed] as \"f\" "
	     "}\nreturn 0",
	     ""},
	    {"r = softmax[expert](linear[embed -> expert](x) as \"gate\")\np, e = topk[expert "
	     "-> choice](r)\n"
	     "y = dot[choice](p, rmsnorm[embed](x) per expert: e as \"experts.{expert}\")" SUM,
	     "\"l.experts.{expert}.weight\" f32[expert embed] dims 1 per expert", "gather"},
	    {"y = rmsnorm[embed](x) per expert as \"many\"\nreturn sum[batch seq embed "
	     "expert](y)",
	     "\"l.many.weight\" f32[expert embed] dims 1 1 init value 1"},
	};
	for (size_t i = 0; i < COUNTOF(cases); i++) {
		char text[2048];
		if (!*cases[i][1]) continue;
		snprintf(text, sizeof text, HEAD "%s" TAIL, cases[i][0]);
		Run r = run((FeOptions){.path = "case.gdl"}, text);
		CHECK(r.m, "%s\n%s", cases[i][0], r.said);
		for (int k = 1; r.m && k < 4 && cases[i][k]; k++) {
			const char *want = cases[i][k];
			bool not = *want == '!', found = strstr(r.printed.s, want + not );
			CHECK(found != not, "%s: wants '%s' in\n%s", cases[i][0], want,
			      r.printed.s);
		}
		end(&r);
	}
}

/* ---- precision ---- */

static void
test_precision(void)
{
	static const char text[] =
	    HEAD "param w[embed] = 1\ny = f32(x * w) * float(pos[embed])" SUM TAIL
		 "train { precision = bf16 }\n";
	Run r = run((FeOptions){.path = "p.gdl"}, text);
	CHECK(r.m && strstr(r.printed.s, "cast %w {dtype=bf16}"),
	      "a parameter is read in bf16");
	CHECK(r.m && strstr(r.printed.s, "cast %x {dtype=bf16}"), "an input is read in bf16");
	CHECK(r.m && strstr(r.printed.s, "input x f32[batch seq embed]"),
	      "an input is stored in f32");
	CHECK(r.m && strstr(r.printed.s, "param 0 \"l.w\" f32[embed]"),
	      "a parameter is stored in f32");
	end(&r);
	r = run((FeOptions){.path = "p.gdl", .host = true}, text);
	CHECK(r.m && !strstr(r.printed.s, "bf16"), "no bf16 on the host");
	end(&r);
	r = run((FeOptions){.path = "p.gdl", .host = true, .precision = DT_f64}, text);
	CHECK(r.m && !strstr(r.printed.s, "f32[") && strstr(r.printed.s, "precision f64"),
	      "f64 everywhere");
	end(&r);
}

/* ---- --set ---- */

static void
test_set(void)
{
	static const struct {
		const char *set, *said; /* NULL: goes well */
	} cases[] = {
	    {"seq=2048", NULL},
	    {"layers=3", NULL},
	    {"heads=10", "'embed / heads' is 768 / 10, which is not whole"},
	    {"sek=4", "has no axis or number 'sek' at its top; did you mean 'seq'?"},
	    {"seq", "write --set name=value"},
	    {"seq=many", "'many' is no number"},
	    {"seq=0", "an extent lies in 1..2147483647"},
	    {"seq=1.5", "an extent is whole, but this is 1.5"},
	    {"layers=2.5", "'layers' is 2.5, which is not whole"},
	};
	uint64_t hash = 0;
	for (size_t i = 0; i < COUNTOF(cases); i++) {
		Run r = run((FeOptions){.path = "models/gpt2.gdl",
					.set = &cases[i].set,
					.nset = 1,
					.host = true},
			    NULL);
		CHECK(!r.m == !!cases[i].said, "--set %s: %s", cases[i].set, r.said);
		if (cases[i].said)
			CHECK(strstr(r.said, cases[i].said), "--set %s says: %s", cases[i].set,
			      r.said);
		if (r.m) CHECK(r.m->source_hash != hash, "the settings are part of the hash");
		if (r.m) hash = r.m->source_hash;
		end(&r);
	}
}

/* ---- warnings, sharing ---- */

static void
test_parameters(void)
{
	Run r = run((FeOptions){.path = "w.gdl"},
		    "param u[embed] = 0\n" HEAD "return sum[batch seq embed](x)" TAIL);
	CHECK(!r.m, "axes are declared before use");
	end(&r);
	r = run((FeOptions){.path = "w.gdl"}, HEAD "k = linear[embed -> heads head](x)"
						   "\nreturn sum[batch seq embed](x)" TAIL);
	CHECK(r.m && r.m->nparams == 0 &&
		  strstr(r.said, "warning: parameter 'l.k.weight' is never read"),
	      "%s", r.said);
	end(&r);
	r = run((FeOptions){.path = "w.gdl"},
		"axis batch = 2, embed = 4\ninput x[batch embed] : float\nparam w[embed] = 1\n"
		"layer a(x, drop) { return dropout(x * w, drop) }\nlayer b(x) { return "
		"sum[batch embed](x) }\n"
		"forward { x = a(x, 0.1); y = a(x, 0.2); for i in 0..2 { y = a(y[batch -> "
		"batch], 0) as \"n.{i}\" }; return b(y), b(x) }\n");
	CHECK(r.m && r.m->ntypes == 2 && r.m->ninsts == 6 && r.m->nparams == 1, "%s", r.said);
	CHECK(r.m && strstr(r.printed.s, "\"a.3\" path \"n.1\"") &&
		  strstr(r.printed.s, "report \"loss\" 4.0"),
	      "%s", r.printed.s);
	end(&r);
	/* an index in forward is applied in the layer; also in a function that is gone by then */
	r = run((FeOptions){.path = "w.gdl"},
		"axis batch = 2, seq = 3, part = 2, embed = 4\ninput x[batch seq embed] : "
		"float\ninput i[batch] : index seq\n"
		"def some(y, n) = y[seq: pos[part] + n]\n"
		"layer a(x) { return 2 * x }\nlayer b(x, y) { return sum[batch part embed](x) "
		"+ sum[batch embed](y) }\n"
		"forward { x = a(x); return b(some(x, 1), x[seq: i]) }\n");
	CHECK(r.m && r.m->ninsts == 2, "%s", r.said);
	CHECK(r.m && strstr(r.printed.s, "{axis=seq to=[part] start=1 step=1}") &&
		  strstr(r.printed.s, "gather %"),
	      "%s", r.printed.s);
	CHECK(r.m && strstr(r.printed.s, "args 0.0 0.0 i"), "%s", r.printed.s);
	end(&r);
}

/* ---- the manual ---- */

/* Every ```gdl block of models/README.md is a program, or becomes one with the start that the manual states. */
static void
test_manual(void)
{
	Arena *a = arena_new();
	size_t n;
	char *text = file_read(a, "models/README.md", 1 << 20, &n), *p = text;
	char *prefix = NULL;
	int blocks = 0;
	CHECK(text, "no models/README.md");
	while (p && (p = strstr(p, "\n```gdl")) != NULL) {
		char *start = strchr(p + 1, '\n') + 1, *stop = strstr(start, "\n```");
		bool whole = !strncmp(p + 7, " program", 8),
		     first = !strncmp(p + 7, " start", 6);
		bool body = !strncmp(p + 7, " body", 5), top = !strncmp(p + 7, " top", 4);
		CHECK(stop && (whole || first || body || top),
		      "a block of the manual without a kind");
		if (!stop) break;
		char *block = arena_alloc(a, (size_t)(stop - start) + 1);
		memcpy(block, start, (size_t)(stop - start));
		if (first) prefix = block;
		Buf b;
		buf_init(&b, a);
		if (whole)
			buf_puts(&b, block);
		else if (first || top)
			buf_printf(&b,
				   "%s\n%s\nlayer nothing(x) { return sum[batch seq embed](x) "
				   "}\nforward { return nothing(x) }\n",
				   first ? "" : prefix, block);
		else
			buf_printf(&b,
				   "%s\nlayer example(x) {\n%s\n  return sum[batch seq "
				   "embed](x)\n}\nforward { return example(x) }\n",
				   prefix ? prefix : "", block);
		Run r = run((FeOptions){.path = "README.gdl"}, b.s);
		CHECK(r.m, "an example of the manual fails:\n%s\n%s", block, r.said);
		end(&r);
		blocks++;
		p = stop;
	}
	CHECK(blocks >= 20, "the manual has %d examples", blocks);
	arena_free(a);
}

int
main(void)
{
	test_models();
	test_syntax_only();
	test_lowering();
	test_precision();
	test_set();
	test_parameters();
	test_manual();
	printf("frontend: %d checks %s\n", checks, failed ? "FAILED" : "ok");
	return failed != 0;
}
