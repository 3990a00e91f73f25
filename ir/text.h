/*
 * text.h - what the readers and writers of our text forms (dumps and plans) share. Private to ir/.
 *
 * Text is read line by line and byte by byte with no look-ahead beyond the next byte or word; every reader is a chain of
 * scan_ calls that stops at the first that fails, and a failing scan_ call has said why. So a line has one error.
 */
#ifndef GV_TEXT_H
#define GV_TEXT_H

#include "ir/ir.h"

enum {
	MAX_TEXT_AXES = 1 << 16, /* Axis.i is 16 bits */
	MAX_COUNT = 1 << 20,     /* values of a body, actions, layers, parameters ... */
	MAX_PORT = 1 << 10,      /* arguments, results, rates of one layer type */
	MAX_MB = 1 << 16,        /* microbatches */
	MAX_RANKS = 1 << 20,
	MAX_TYPES = 1 << 12, /* layer types */
	MAX_MESHES = 1 << 10,
};
#define MAX_EXTENT ((int64_t)1 << 40)
#define MAX_ELEMS \
	((int64_t)1 << 52) /* of one tensor: every product of bytes stays in 63 bits */
#define MAX_OFFSET ((int64_t)1 << 60)

/* ---- scan.c ---- */
typedef struct Scan {
	Names *names;
	Diag *diag;
	Name file;
	const char *next, *end; /* the text that follows the line */
	const char *line;       /* where the line starts */
	const char *at, *stop;  /* what is left of the line, without its comment */
	uint32_t lineno;
} Scan;

/* A list of words; the index of one is its meaning. */
typedef struct Words {
	const char *what; /* "schedule", for messages */
	const char *const *w;
	int n;
} Words;
#define WORDS(what, table) (&(const Words){what, table, (int)COUNTOF(table)})

void scan_init(Scan *s, Names *names, Diag *d, Name file, const char *text, size_t len);
bool scan_line(Scan *s); /* goes to the next line that holds something; false at the end */
Loc scan_loc(Scan *s);   /* of the next word */
/* Reports an error at the next word. Always false. */
bool scan_fail(Scan *s, const char *fmt, ...) GV_PRINTF(2, 3);
bool scan_done(Scan *s);          /* the line must end here */
bool scan_at_end(Scan *s);        /* does it? */
char scan_peek(Scan *s);          /* the next byte after blanks; 0 at the end of the line */
bool scan_punct(Scan *s, char c); /* takes c, which must come */
bool scan_try(Scan *s, char c);   /* takes c if it comes */
bool scan_key(Scan *s, const char *w); /* takes the word, which must come */
bool scan_try_key(Scan *s, const char *w);
bool scan_word(Scan *s, const char *what, const char **word,
	       int *len);                   /* bare, not taken apart */
int scan_pick(Scan *s, const Words *words); /* -1 after an error */
bool scan_pick_to(Scan *s, const Words *words, int *out);
bool scan_name(Scan *s, const char *what, Name *out);   /* an identifier with dots, or quoted */
bool scan_string(Scan *s, const char *what, Name *out); /* quoted; may be empty */
bool scan_int(Scan *s, const char *what, int64_t lo, int64_t hi, int64_t *out);
bool scan_u32(Scan *s, const char *what, uint32_t lo, uint32_t hi, uint32_t *out);
bool scan_num(Scan *s, const char *what, double *out);
bool scan_hash(Scan *s, uint64_t *out);
/* "3" or "3-7" as first and count. */
bool scan_range(Scan *s, const char *what, uint32_t max, uint32_t *first, uint32_t *count);
bool scan_place(Scan *s, Loc *out); /* [ "!" file ":" line ":" col "+" len ] */
/* Mesh axes split by dots: "dp.mb", "tp.0"; by number where mesh is NULL. */
bool scan_mesh_axes(Scan *s, const Mesh *mesh, int max, uint8_t *n, uint8_t *out);

/* ---- units.c ---- */
bool scan_bytes(Scan *s, const char *what, int64_t *out); /* "80GB", "1.5GiB", "4096" */
bool scan_time(Scan *s, const char *what, double *ns);    /* "92us" */
/* "300GB/s", "300G", "3e11": of: "B", "FLOP" */
bool scan_rate(Scan *s, const char *what, const char *of, double *out);
void text_bytes(Buf *b, int64_t bytes);
void text_time(Buf *b, double ns);
void text_rate(Buf *b, double rate, const char *of);

/* ---- print.c ---- */
void text_name(Buf *b, const char *name);   /* bare where it reads back as that, else quoted */
void text_quoted(Buf *b, const char *name); /* always quoted */
void text_range(Buf *b, uint32_t first, uint32_t count);
void text_place(Buf *b, const Module *m,
		Loc at); /* " !file:line:col+len", nothing for no place */
void text_mesh_axis(Buf *b, const Mesh *mesh, int k);
/* The mesh of a layer type's bodies; NULL above level spmd. */
const Mesh *text_type_mesh(const Module *m, const LayerType *l);

/* ---- print_tables.c ---- */
void print_layer_type(const Module *m, const LayerType *l, Buf *out);
void print_actions(const Module *m, Buf *out);
void print_memory(const Module *m, Buf *out);

/* ---- parse.c, parse_body.c, parse_tables.c ---- */
/* What a reference found nothing in: once an error left a hole in a table, what is missing there is no new error. */
typedef enum Hole {
	HOLE_none = 0,
	HOLE_axis = 1,
	HOLE_val = 2,
	HOLE_mesh = 4,
	HOLE_input = 8,
	HOLE_type = 16,
	HOLE_body = 32,
	HOLE_inst = 64,
	HOLE_param = 128,
	HOLE_const = 256,
} Hole;

typedef struct PlanText PlanText;

typedef struct Parser {
	Scan s;
	Module *m;
	Arena *tmp;
	unsigned holes;
	PlanText *plan;
	struct Found {
		uint32_t body;
		uint32_t v;
	} * vals; /* [names]: the value of that name in `body` */
	uint32_t nfound;
	uint32_t *axes; /* [names]: the axis of that name */
	uint32_t nnames_axes;
	bool seen_model, seen_train;
	bool *seen_memory; /* [nstages] */
	Loc *param_at;     /* [nparams]: places in the dump, for checks at the end */
	uint32_t nparam_at, cparam_at;
} Parser;

bool parse_type(Parser *p, const Mesh *mesh, Type *out);
bool parse_axis(Parser *p, Axis *out);
bool parse_body(Parser *p);       /* after "body"; reads through the closing brace */
bool parse_layer_type(Parser *p); /* after "type"; likewise */
bool parse_actions(Parser *p);    /* after "actions" */
bool parse_memory(Parser *p);     /* after "memory" */
bool parse_memory_done(Parser *p);
/* A hole in a table excuses what is missing; otherwise says "no WHAT ...". Always false. */
bool parse_missing(Parser *p, Hole hole, Scan at, const char *fmt, ...) GV_PRINTF(4, 5);
/* Reads lines up to "}" and gives each to `item`; false if there was no "}". A bad line makes hole. */
typedef bool ParseItem(Parser *p, void *into);
bool parse_block(Parser *p, ParseItem *item, void *into, Hole hole);

/* ---- plan.c, plan_check.c ---- */
/* Places of a plan's lines, parallel to its arrays; what has none is at line 0. */
struct PlanText {
	Plan plan;
	Arena *arena;
	Loc head, *mesh_at, *run_at, *stage_at;
	uint32_t cmesh_at, crun_at, cstage_at, nmesh_at, nrun_at, nstage_at;
	uint32_t cmeshes, cruns, cstages, cnodes;
	Name **layers; /* [nruns]: the layer types a run's line names, ends with 0 */
	uint32_t nlayers, clayers;
	bool bad; /* a line had an error: what does not fit the rest is not reported */
};

extern const char *const plan_lines[5]; /* what a line of a plan begins with */
bool plan_text_line(PlanText *t, Scan *s, int which);
void plan_text_finish(PlanText *t, const Module *m); /* what may be left out is put in */
/* Do the names of layers stand for the module's? */
bool plan_text_layers(const PlanText *t, const Module *m, Diag *d);
void plan_body_print(const Module *m, Buf *out);
/* Instances of the module -> layers of the model: reshards are not counted (level spmd on). */
void plan_layers(const Module *m, uint32_t *first, uint32_t *count);
/* Does the plan fit the module: every layer in one run and one stage, counts multiply, batch divides. `places` may be
 * NULL; `who` is put before every message, "" for none. */
bool plan_check(const Module *m, const Plan *plan, const PlanText *places, Diag *d,
		const char *who);

/* ---- verify*.c ---- */
typedef struct Verify {
	const Module *m;
	Diag *d;
	const char *who;
	Arena *tmp;
} Verify;

void verify_bad(const Verify *v, Loc at, const char *fmt, ...) GV_PRINTF(3, 4);
bool verify_type(const Verify *v, const Type *t, const Mesh *mesh, Loc at, const char *what);
/* Same data type and axes in the same order; how they are split is not looked at. */
bool verify_same_layout(const Type *a, const Type *b);
void verify_body(const Verify *v, uint32_t body);
void verify_instances(const Verify *v);
void verify_gradients(const Verify *v);
void verify_actions(const Verify *v);
void verify_body_memory(const Verify *v, uint32_t body);
void verify_memory(const Verify *v);
const char *verify_type_str(const Verify *v, const Mesh *mesh,
			    const Type *t); /* for messages */
/* "body 3 (F of block)" */
const char *verify_body_str(const Verify *v, const Body *b);

#endif
