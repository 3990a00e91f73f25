/*
 * gdl.c - fuzzes the front end: any text gives a module that verifies, or diagnostics; never a crash, never a long wait.
 */
#include <stdlib.h>

#include "frontend/frontend.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	static FILE *nowhere;
	if (!nowhere) nowhere = fopen("/dev/null", "w");
	Arena *perm = arena_new(), *tmp = arena_new();
	Names *names = names_new(perm);
	Ctx c = {
	    .perm = perm, .tmp = tmp, .names = names, .diag = diag_new(perm, names, nowhere)};
	static const char *const sets[] = {"seq=7", "layers=1"};
	FeOptions o = {.path = "fuzz.gdl", .host = n % 2, .set = sets, .nset = n % 5 ? 0 : 2};
	const char *text = arena_dup(perm, bytes, n);
	Module *m = fe_parse_text(&c, &o, text, n);
	if (!m && !diag_errors(c.diag)) abort();
	if (m && !ir_verify(m, c.diag, "front end")) abort();
	if (m) { /* what it prints can be read back */
		Buf b;
		buf_init(&b, perm);
		ir_print(m, &b);
		if (!ir_parse(perm, names, c.diag, name_of(names, "dump"), b.s, b.n)) abort();
	}
	arena_free(tmp);
	arena_free(perm);
	return 0;
}
