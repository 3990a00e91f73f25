/*
 * gir.c - fuzzes the readers of dumps and plans, and the verifier: text -> module -> text -> module must be one module.
 *
 * Input: a dump; or, if the first byte is 'p', a plan for a small module made here. Any text may be refused, with a diagnostic.
 * What is accepted must print as text that reads back to an equal module and prints the same again.
 */
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static const char small[] = "gir 1 graph\n"
			    "model m source \"m.gdl\" hash 0x1\n"
			    "axis batch = 8\n"
			    "batch batch\n"
			    "input x f32[batch]\n"
			    "body a F {\n"
			    "  arg 0 %x : f32[batch]\n"
			    "  out 0 %x\n"
			    "}\n"
			    "body b F {\n"
			    "  arg 0 %x : f32[batch]\n"
			    "  %y = sum %x {axes=[batch]} : f32[]\n"
			    "  out 0 %y\n"
			    "}\n"
			    "type a args 1 outs 1 rates 0 {\n"
			    "  body F 1\n"
			    "}\n"
			    "type b args 1 outs 1 rates 0 {\n"
			    "  body F 2\n"
			    "}\n"
			    "inst 0 a \"a\" path \"\" args x params rates\n"
			    "inst 1 a \"a.1\" path \"\" args 0.0 params rates\n"
			    "inst 2 b \"b\" path \"\" args 1.0 params rates\n"
			    "report \"loss\" 2.0\n";

typedef struct World {
	Arena *arena;
	Names *names;
	Diag *diag;
} World;

static bool
same_text(const Buf *a, const Buf *b)
{
	return a->n == b->n && memcmp(a->s, b->s, a->n) == 0;
}

static void
print_and_read(World *w, const Module *m)
{
	Buf text, again, why;
	buf_init(&text, w->arena);
	buf_init(&again, w->arena);
	buf_init(&why, w->arena);
	ir_print(m, &text);
	Module *r = ir_parse(w->arena, w->names, w->diag, name_of(w->names, "again.gir"),
			     text.s, text.n);
	if (!r || !ir_equal(m, r, &why)) abort();
	ir_print(r, &again);
	if (!same_text(&text, &again)) abort();
}

static void
fuzz_module(World *w, const char *text, size_t n)
{
	Module *m =
	    ir_parse(w->arena, w->names, w->diag, name_of(w->names, "fuzz.gir"), text, n);
	if (!m) {
		if (!diag_errors(w->diag)) abort();
		return;
	}
	bool ok = ir_verify(m, w->diag, "fuzz");
	if (ok == (diag_errors(w->diag) != 0)) abort();
	print_and_read(w, m);
}

static void
fuzz_plan(World *w, const char *text, size_t n)
{
	Module *m = ir_parse(w->arena, w->names, w->diag, name_of(w->names, "small.gir"), small,
			     sizeof(small) - 1);
	if (!m) abort();
	if (!plan_parse(m, w->diag, name_of(w->names, "fuzz.plan"), text, n)) {
		if (!diag_errors(w->diag)) abort();
		return;
	}
	Buf first, second;
	buf_init(&first, w->arena);
	buf_init(&second, w->arena);
	plan_print(m, &first);
	if (!plan_parse(m, w->diag, name_of(w->names, "again.plan"), first.s, first.n)) abort();
	plan_print(m, &second);
	if (!same_text(&first, &second)) abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	static FILE *null;
	if (!null) null = fopen("/dev/null", "w");
	World w = {.arena = arena_new()};
	w.names = names_new(w.arena);
	w.diag = diag_new(w.arena, w.names, null);
	if (n && bytes[0] == 'p')
		fuzz_plan(&w, (const char *)bytes, n);
	else
		fuzz_module(&w, (const char *)bytes, n);
	arena_free(w.arena);
	return 0;
}
