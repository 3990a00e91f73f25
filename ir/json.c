/*
 * json.c - JSON into a tree with places. The one file that knows Jansson.
 *
 * Jansson checks and decodes but keeps no places. It does keep the order of members, so a walk over the text beside the
 * tree, in step with it, finds the bytes of each value: the text is known to be right by then.
 */
#include "ir/json.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

typedef struct Walk {
	Arena *arena;
	const char *text;
	size_t at;
} Walk;

static void
skip_blanks(Walk *w)
{
	w->at += strspn(w->text + w->at, " \t\r\n");
}

static void
skip_string(Walk *w)
{
	for (w->at++; w->text[w->at] != '"'; w->at++)
		if (w->text[w->at] == '\\') w->at++;
	w->at++;
}

static void copy_value(Walk *w, const json_t *v, Json *out);

static void
copy_list(Walk *w, const json_t *v, Json *out)
{
	out->n = (uint32_t)json_array_size(v);
	out->item = NEW_N(w->arena, Json, out->n + 1);
	for (uint32_t i = 0; i < out->n; i++) {
		w->at++; /* [ or , */
		copy_value(w, json_array_get(v, i), &out->item[i]);
		skip_blanks(w);
	}
	if (!out->n) {
		w->at++;
		skip_blanks(w);
	}
	w->at++;
}

static void
copy_object(Walk *w, json_t *v, Json *out)
{
	const char *key;
	json_t *item;

	out->item = NEW_N(w->arena, Json, json_object_size(v) + 1);
	json_object_foreach(v, key, item)
	{
		Json *j = &out->item[out->n++];

		w->at++; /* { or , */
		skip_blanks(w);
		j->key_lo = w->at;
		skip_string(w);
		j->key_hi = w->at;
		j->key = arena_dup(w->arena, key, strlen(key) + 1);
		skip_blanks(w);
		w->at++; /* : */
		copy_value(w, item, j);
		skip_blanks(w);
	}
	if (!out->n) {
		w->at++;
		skip_blanks(w);
	}
	w->at++;
}

static void
copy_value(Walk *w, const json_t *v, Json *out)
{
	skip_blanks(w);
	out->lo = w->at;
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		out->kind = JS_object;
		copy_object(w, (json_t *)(uintptr_t)v, out);
		break;
	case JSON_ARRAY:
		out->kind = JS_list;
		copy_list(w, v, out);
		break;
	case JSON_STRING:
		out->kind = JS_string;
		out->string =
		    arena_dup(w->arena, json_string_value(v), json_string_length(v) + 1);
		skip_string(w);
		break;
	case JSON_INTEGER:
		out->whole = true;
		out->integer = json_integer_value(v);
		/* fall through */
	case JSON_REAL:
		out->kind = JS_number;
		out->number = json_number_value(v);
		w->at += strspn(w->text + w->at, "0123456789.eE+-");
		break;
	default:
		out->kind = json_is_null(v) ? JS_null : JS_bool;
		out->yes = json_is_true(v);
		w->at += strspn(w->text + w->at, "abcdefghijklmnopqrstuvwxyz");
	}
	out->hi = w->at;
}

/* The byte at which brackets are nested too deep; len: nowhere. */
static size_t
too_deep(const char *text, size_t len)
{
	int depth = 0;

	for (size_t i = 0; i < len; i++) {
		if (text[i] == '"') {
			for (i++; i < len && text[i] != '"'; i++)
				if (text[i] == '\\') i++;
		} else if (text[i] == '{' || text[i] == '[') {
			if (++depth > MAX_JSON_DEPTH) return i;
		} else if (text[i] == '}' || text[i] == ']') {
			depth--;
		}
	}
	return len;
}

/* What Jansson says, without what a terminal would obey. */
static const char *
clean(Arena *a, const char *s)
{
	char *out = arena_dup(a, s, strlen(s) + 1);

	for (char *p = out; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7F) *p = '?';
	return out;
}

const Json *
json_parse(Arena *a, Diag *d, Name file, const char *text, size_t len)
{
	json_error_t e;
	size_t deep = too_deep(text, len);

	diag_source(d, file, text, len);
	if (deep < len) {
		diag_error(d, diag_loc(d, file, deep, deep + 1),
			   "brackets are nested more than %d deep", MAX_JSON_DEPTH);
		return NULL;
	}
	json_t *v = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);

	if (!v) {
		size_t at = e.position > 0 ? (size_t)e.position - 1 : 0;

		if (at >= len) at = len ? len - 1 : 0;
		diag_error(d, diag_loc(d, file, at, at + 1), "this is no JSON: %s",
			   clean(a, e.text));
		return NULL;
	}
	char *copy = NEW_N(a, char, len + 1); /* ends with NUL, whatever the text does */
	Json *root = NEW(a, Json);

	memcpy(copy, text, len);
	copy_value(&(Walk){.arena = a, .text = copy}, v, root);
	json_decref(v);
	return root;
}

/* ---- reading a tree ---- */

const Json *
json_member(const Json *object, const char *key)
{
	for (uint32_t i = 0; object->kind == JS_object && i < object->n; i++)
		if (!strcmp(object->item[i].key, key)) return &object->item[i];
	return NULL;
}

const char *
json_kind_str(JsonKind k)
{
	static const char *const str[] = {"null",     "true or false", "a number",
					  "a string", "a list",        "an object"};

	return str[k];
}

Loc
json_loc(const JsonText *t, const Json *v)
{
	return diag_loc(t->diag, t->file, v->lo, v->hi);
}

Loc
json_key_loc(const JsonText *t, const Json *v)
{
	return v->key ? diag_loc(t->diag, t->file, v->key_lo, v->key_hi) : json_loc(t, v);
}

bool
json_expected(const JsonText *t, const Json *v, const char *what)
{
	diag_error(t->diag, json_loc(t, v), "%s%s%s %s expected, not %s", v->key ? "'" : "",
		   v->key ? v->key : "here", v->key ? "':" : "", what, json_kind_str(v->kind));
	return false;
}

bool
json_between(const JsonText *t, const Json *v, double lo, double hi, double *out)
{
	if (v->kind != JS_number) return json_expected(t, v, "a number is");
	if (!(v->number >= lo && v->number <= hi)) {
		diag_error(t->diag, json_loc(t, v), "%s must be from %g to %g",
			   v->key ? v->key : "this number", lo, hi);
		return false;
	}
	*out = v->number;
	return true;
}

bool
json_whole(const JsonText *t, const Json *v, int64_t lo, int64_t hi, int64_t *out)
{
	if (v->kind != JS_number) return json_expected(t, v, "a whole number is");
	if (!v->whole || v->integer < lo || v->integer > hi) {
		diag_error(t->diag, json_loc(t, v),
			   "%s must be a whole number from %" PRId64 " to %" PRId64,
			   v->key ? v->key : "this", lo, hi);
		return false;
	}
	*out = v->integer;
	return true;
}
