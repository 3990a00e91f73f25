/*
 * json.h - JSON texts of other tools as trees in an arena, with the place of every value. Knows no format.
 *
 * Jansson parses; what it made is copied with byte offsets, so that whoever finds a value wrong can point at it.
 * Bounded: MAX_JSON_DEPTH levels, the file's size by who reads it. Keys of one object are unique.
 */
#ifndef GV_JSON_H
#define GV_JSON_H

#include "ir/base.h"

enum { MAX_JSON_DEPTH = 32, MAX_JSON_BYTES = 16 << 20 };

/* ORDER JsonKind */
typedef enum JsonKind { JS_null, JS_bool, JS_number, JS_string, JS_list, JS_object } JsonKind;

typedef struct Json {
	JsonKind kind;
	bool yes;           /* bool */
	bool whole;         /* number: written without point and exponent; then `integer` too */
	int64_t integer;    /* number */
	double number;      /* number: finite */
	const char *string; /* string, NUL-terminated, without NUL bytes in it */
	const char *key;    /* of a member of an object */
	struct Json *item;  /* [n] of a list or object, in the text's order */
	uint32_t n;
	size_t lo, hi; /* bytes of the text */
	size_t key_lo, key_hi;
} Json;

typedef struct JsonText {
	Diag *diag;
	Name file;
	const Json *root;
} JsonText;

/* NULL after one diagnostic. The text must outlive the Diag. */
const Json *json_parse(Arena *a, Diag *d, Name file, const char *text, size_t len);

const Json *json_member(const Json *object, const char *key); /* NULL: none of that name */
const char *json_kind_str(JsonKind k);                        /* "a number" */
Loc json_loc(const JsonText *t, const Json *v);               /* of a value */
Loc json_key_loc(const JsonText *t, const Json *v); /* of its key; without one, of the value */

/* A number in lo..hi; false after a diagnostic. */
bool json_between(const JsonText *t, const Json *v, double lo, double hi, double *out);
bool json_whole(const JsonText *t, const Json *v, int64_t lo, int64_t hi, int64_t *out);
/* Something else was expected: says so at the value. Always false. */
bool json_expected(const JsonText *t, const Json *v, const char *what);

#endif
