/*
 * names.c - IR names -> C identifiers, and text of the user's inside literals and comments.
 *
 * Nothing the user wrote reaches C unescaped. Identifiers keep letters and digits and turn the rest into '_'; a clash,
 * a word of C, or a name the emitted text uses itself gets a number: "h", "h_2". Invariant: an identifier of a scope is
 * none of its parents'.
 */
#include "codegen/cg.h"

#include <string.h>

enum { IDENT_MAX = 40 };

struct Scope {
	Arena *arena;
	const Scope *parent;
	const char **taken; /* open addressing, a power of two */
	uint32_t n, slots;
};

/* Words of C and of the headers the emitted text includes, and names it uses itself. Prefixes are refused by rule. */
static const char *const reserved[] = {
    "auto",     "break",       "case",      "char",    "const",    "continue", "default",
    "do",       "double",      "else",      "enum",    "extern",   "float",    "for",
    "goto",     "if",          "inline",    "int",     "long",     "register", "restrict",
    "return",   "short",       "signed",    "sizeof",  "static",   "struct",   "switch",
    "typedef",  "union",       "unsigned",  "void",    "volatile", "while",    "asm",
    "typeof",   "bool",        "true",      "false",   "real",     "run",      "mb",
    "name",     "rate",        "scratch",   "add",     "program",  "main",     "step",
    "forward",  "update",      "consts",    "row",     "i",        "j",        "r",
    "argc",     "argv",        "slot",      "turn",    "NULL",     "EOF",      "INFINITY",
    "NAN",      "linux",       "unix",      "I",       "signbit",  "isnan",    "isinf",
    "fabs",     "fabsf",       "sqrt",      "sqrtf",   "floor",    "memset",   "memcpy",
    "snprintf", "min",         "max",       "exp",     "log",      "pow",      "sin",
    "cos",      "tanh",        "erf",       "abs",     "gamma",    "j0",       "j1",
    "jn",       "y0",          "y1",        "yn",      "index",    "AT",       "NAME_MAX",
    "drem",     "significand", "scalb",     "signgam", "stdin",    "stdout",   "stderr",
    "remove",   "rename",      "printf",    "puts",    "round",    "trunc",    "ceil",
    "OVERFLOW", "UNDERFLOW",   "DOMAIN",    "SING",    "PLOSS",    "TLOSS",    "HUGE",
    "params",   "inputs",      "reports",   "FILE",    "BUFSIZ",   "SEEK_SET", "AT",
    "SLOT",     "memory",      "report_at", "rates",   "parts",    "meshes",   "comms",
    "share",    "exchanges",   "report_on",
};

/* Prefixes of the runtime, the emitted text itself, and the headers it includes: no number makes such a name free. */
static bool
has_reserved_prefix(const char *s)
{
	static const char *const prefixes[] = {"gv",   "GV",  "M_",   "FP_", "MATH_",
					       "omp_", "INT", "UINT", "PRI", "SCN"};

	for (size_t k = 0; k < COUNTOF(prefixes); k++)
		if (strncmp(s, prefixes[k], strlen(prefixes[k])) == 0) return true;
	return false;
}

static bool
is_reserved(const char *s)
{
	size_t n = strlen(s);

	if (n > 2 && strcmp(s + n - 2, "_t") == 0) return true;
	for (size_t k = 0; k < COUNTOF(reserved); k++)
		if (strcmp(reserved[k], s) == 0) return true;
	return false;
}

Scope *
scope_new(Arena *a, const Scope *parent)
{
	Scope *s = NEW(a, Scope);

	s->arena = a;
	s->parent = parent;
	s->slots = 64;
	s->taken = NEW_N(a, const char *, s->slots);
	return s;
}

static const char **
find(const Scope *s, const char *name)
{
	uint32_t k = (uint32_t)hash_bytes(name, strlen(name), 0) & (s->slots - 1);

	while (s->taken[k] && strcmp(s->taken[k], name) != 0)
		k = (k + 1) & (s->slots - 1);
	return &s->taken[k];
}

static bool
is_taken(const Scope *s, const char *name)
{
	for (; s; s = s->parent)
		if (*find(s, name)) return true;
	return is_reserved(name);
}

static const char *
keep(Scope *s, const char *name)
{
	if (2 * ++s->n > s->slots) {
		const char **old = s->taken;
		uint32_t slots = s->slots;

		s->slots *= 2;
		s->taken = NEW_N(s->arena, const char *, s->slots);
		for (uint32_t k = 0; k < slots; k++)
			if (old[k]) *find(s, old[k]) = old[k];
	}
	return *find(s, name) = name;
}

static bool
is_word(unsigned char ch)
{
	return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');
}

/* Letters and digits, single '_' between; starts with a letter. */
static void
sanitise(const char *text, bool upper, char out[IDENT_MAX + 1])
{
	size_t n = 0;

	for (; *text && n < IDENT_MAX; text++) {
		unsigned char ch = (unsigned char)*text;

		if (!is_word(ch)) {
			if (n && out[n - 1] != '_') out[n++] = '_';
			continue;
		}
		if (n == 0 && ch >= '0' && ch <= '9') out[n++] = upper ? 'N' : 'n';
		if (upper && ch >= 'a' && ch <= 'z') ch = (unsigned char)(ch - 'a' + 'A');
		out[n++] = (char)ch;
	}
	while (n && out[n - 1] == '_')
		n--;
	if (n > IDENT_MAX) n = IDENT_MAX;
	if (n == 0) out[n++] = upper ? 'N' : 'v';
	out[n] = '\0';
}

static const char *
take(Scope *s, const char *text, bool upper)
{
	char base[IDENT_MAX + 3];
	const char *name;

	sanitise(text, upper, base);
	if (has_reserved_prefix(base))
		memmove(base + 2, base, strlen(base) + 1), memcpy(base, upper ? "N_" : "v_", 2);
	name = cg_text(s->arena, "%s", base);
	for (unsigned k = 2; is_taken(s, name); k++)
		name = cg_text(s->arena, "%s_%u", base, k);
	return keep(s, name);
}

const char *
scope_take(Scope *s, const char *text)
{
	return take(s, text, false);
}

const char *
scope_take_upper(Scope *s, const char *text)
{
	return take(s, text, true);
}

void
scope_mark(Scope *s, const char *text)
{
	char base[IDENT_MAX + 1];

	sanitise(text, false, base);
	if (!*find(s, base)) keep(s, arena_dup(s->arena, base, strlen(base) + 1));
}

bool
scope_has(const Scope *s, const char *text)
{
	char base[IDENT_MAX + 1];

	sanitise(text, false, base);
	return *find(s, base) != NULL;
}

void
put_cstring(Buf *b, const char *text)
{
	buf_putc(b, '"');
	for (; *text; text++) {
		unsigned char ch = (unsigned char)*text;

		if (ch == '"' || ch == '\\')
			buf_printf(b, "\\%c", ch);
		else if (ch >= ' ' && ch < 0x7f && ch != '?') /* '?' could begin a trigraph */
			buf_putc(b, (char)ch);
		else
			buf_printf(b, "\\%03o", ch);
	}
	buf_putc(b, '"');
}

void
put_comment(Buf *b, const char *text)
{
	char last = ' ';

	for (; *text; text++) {
		char ch = *text;

		if ((unsigned char)ch < ' ' || ch == '\\' || ch == 0x7f) ch = '?';
		if ((last == '*' && ch == '/') || (last == '/' && ch == '*')) buf_putc(b, ' ');
		buf_putc(b, ch);
		last = ch;
	}
	if (last == '*' || last == '/') buf_putc(b, ' ');
}
