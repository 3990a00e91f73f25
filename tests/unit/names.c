/*
 * names.c - text of the user's on its way into C: identifiers, string literals, comments; and numbers per instance as
 * expressions.
 */
#include <stdio.h>
#include <string.h>

#include "codegen/cg.h"

static int checks, failures;

static void
same(const char *got, const char *want)
{
	checks++;
	if (strcmp(got, want) == 0) return;
	failures++;
	printf("names: FAILED: '%s', expected '%s'\n", got, want);
}

static void
identifiers(Arena *a)
{
	Scope *file = scope_new(a, NULL), *body = scope_new(a, file);
	same(scope_take(file, "h.2"), "h_2");
	same(scope_take(file, "h 2"), "h_2_2");
	same(scope_take(body, "h.2"), "h_2_3");
	same(scope_take(file, "attn.c_proj.weight"), "attn_c_proj_weight");
	same(scope_take(file, "int"), "int_2");
	same(scope_take(file, "real"), "real_2");
	same(scope_take(file, "gv_exp"), "v_gv_exp");
	same(scope_take(file, "size_t"), "size_t_2");
	same(scope_take(file, ""), "v");
	same(scope_take(file, "0.x"), "n0_x");
	same(scope_take(file, "__FILE__"), "FILE_2");
	same(scope_take(file, "a\"); system(\"x\n"), "a_system_x");
	same(scope_take(file, "\xc3\xa9t\xc3\xa9"), "t");
	same(scope_take_upper(file, "ffn.2"), "FFN_2");
	same(scope_take_upper(file, "2d"), "N2D");
	same(scope_take_upper(file, "GV_MAX"), "N_GV_MAX");
	const char *longest =
	    scope_take(file, "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz");
	checks++;
	if (strlen(longest) > 40)
		failures++, printf("names: FAILED: a name of %zu letters\n", strlen(longest));
	/* every name of a large scope is taken once */
	for (int k = 0; k < 500; k++) {
		const char *s = scope_take(body, "x");
		char want[16];
		snprintf(want, sizeof want, k ? "x_%d" : "x", k + 1);
		same(s, want);
	}
	checks++;
	if (!scope_has(body, "x") || scope_has(body, "y"))
		failures++, printf("names: FAILED: scope_has\n");
}

static const char *
literal_of(Arena *a, const char *s)
{
	Buf b;
	buf_init(&b, a);
	put_cstring(&b, s);
	return b.s;
}

static const char *
comment_of(Arena *a, const char *s)
{
	Buf b;
	buf_init(&b, a);
	buf_puts(&b, "");
	put_comment(&b, s);
	return b.s;
}

static void
text(Arena *a)
{
	same(literal_of(a, "h.0.weight"), "\"h.0.weight\"");
	same(literal_of(a, "a\"b\\c"), "\"a\\\"b\\\\c\"");
	same(literal_of(a, "\n\x7f\xff"), "\"\\012\\177\\377\"");
	same(literal_of(a, "\?\?/"), "\"\\077\\077/\"");
	same(literal_of(a, "%s"), "\"%s\"");
	same(comment_of(a, "a */ b"), "a * / b");
	same(comment_of(a, "/**/"), "/ ** / ");
	same(comment_of(a, "x\ny\\"), "x?y?");
	same(comment_of(a, "ends in *"), "ends in * ");
}

static const char *
expression(Cg *g, uint32_t n, const int64_t *x, bool *varies)
{
	*varies = false;
	return seq_expr(g, x, n, "table", varies);
}

static void
sequences(Arena *a)
{
	Cg g = {.a = a, .file = scope_new(a, NULL)};
	bool v;
	buf_init(&g.tables, a);
	same(expression(&g, 3, (int64_t[]){7, 7, 7}, &v), "7");
	same(v ? "varies" : "fixed", "fixed");
	same(expression(&g, 4, (int64_t[]){5, 8, 11, 14}, &v), "5 + i * 3");
	same(v ? "varies" : "fixed", "varies");
	same(expression(&g, 4, (int64_t[]){0, 1, 2, 3}, &v), "i");
	same(expression(&g, 4, (int64_t[]){0, 64, 0, 64}, &v), "(i & 1) * 64");
	same(expression(&g, 3, (int64_t[]){64, 0, 64}, &v), "64 - (i & 1) * 64");
	same(expression(&g, 5, (int64_t[]){4, 110, 24, 130, 44}, &v),
	     "4 + i * 10 + (i & 1) * 96");
	same(expression(&g, 5, (int64_t[]){900, 10, 20, 30, 40}, &v),
	     "(i == 0 ? 900 : i * 10)");
	same(expression(&g, 5, (int64_t[]){10, 20, 30, 40, 7}, &v),
	     "(i == 4 ? 7 : 10 + i * 10)");
	same(expression(&g, 5, (int64_t[]){30, 20, 10, 0, -10}, &v), "30 - i * 10");
	same(expression(&g, 6, (int64_t[]){3, 1, 4, 1, 5, 9}, &v), "table[i]");
	same(seq_condition(&g, (bool[]){false, false, true}, 3, "c", &v), "i == 2");
	same(seq_condition(&g, (bool[]){true, false, true}, 3, "c", &v), "i != 1");
	same(seq_condition(&g, (bool[]){true, true}, 2, "c", &v), "true");
	same(g.tables.s, "static const int64_t table[6] = {\n\t3, 1, 4, 1, 5, 9,\n};\n");
}

int
main(void)
{
	Arena *a = arena_new();
	identifiers(a);
	text(a);
	sequences(a);
	arena_free(a);
	printf("names: %d checks %s\n", checks, failures ? "FAILED" : "ok");
	return failures != 0;
}
