/*
 * nest.h - a loop nest while it is printed: its axes and loops, linear addresses over them, and the expression of one
 * element. Private to kernel.c, nest.c and expr.c.
 */
#ifndef GV_NEST_H
#define GV_NEST_H

#include "codegen/cg.h"

enum {
	MAX_TERMS = 12,
	MAX_ENV = 2 * MAX_LOOPS,
	MAX_WORK = 1 << 20, /* elements looked at in one nest */
	MAX_DEPTH = 4000    /* ops between an element and memory; the C stack holds as many */
};

/* An integer over the nest's axes: c + mb * (the microbatch) + sum k[a] * index a + sum coef * term. */
typedef struct Lin {
	int64_t c, mb;
	int64_t k[MAX_LOOPS];
	struct {
		const char *text;
		int64_t coef;
		uint32_t deps;
	} term[MAX_TERMS];
	int nterms;
	bool overflows; /* more terms than fit */
	uint32_t deps;  /* axes of the nest it depends on, terms included */
} Lin;

/* Where along each axis of a value an element is wanted. */
typedef struct Env {
	int n;
	Axis a[MAX_ENV];
	Lin at[MAX_ENV];
} Env;

/* Precedence of C operators, for parentheses where they are needed. */
enum {
	P_cond = 1,
	P_logic = 3,
	P_compare = 8,
	P_add = 11,
	P_mul = 12,
	P_unary = 13,
	P_atom = 15
};

typedef struct Ex {
	const char *s;
	int prec;
	uint32_t deps;
} Ex;

typedef struct Loop {
	uint32_t axes; /* mask */
	int last; /* the axis whose coefficient counts: innermost with more than one index */
	int64_t extent;
	const char *var, *size;
} Loop;

typedef struct Nest {
	CgBody *c;
	const uint32_t *ops;
	uint32_t nops;
	bool *inside; /* [nvals] computed by an op of this nest */

	int naxes;
	AxisUse use[MAX_LOOPS];
	int64_t extent[MAX_LOOPS];
	uint32_t reduced; /* axes the reductions of the nest sum over */
	Env id;           /* every axis at its own index */

	bool probe; /* collecting addresses, printing nothing */
	Lin *seen;  /* addresses that must stay linear when loops are merged */
	uint32_t nseen, cseen;
	uint32_t solo; /* axes whose index is used apart: their loops are not merged */

	Loop loop[MAX_LOOPS];
	int nloops;
	uint32_t inner;       /* axes of the loops inside the row */
	uint32_t work, depth; /* of value_at() so far; of the call at hand */
	uint32_t direct;      /* the value that is being stored: no name of its own */
	int cond; /* inside a condition: nothing may be hoisted out of the expression */

	struct {
		Val v;
		const Sink *to;
	} * stores;
	uint32_t nstores;
	bool column; /* sums go down the columns: rows are walked inside a block of columns */

	struct {
		const char *text, *name;
	} * offsets; /* parts of indices that a row fixes */
	uint32_t noffsets;
	const char *first_column, *column_index; /* of a block; an index inside it */
	Buf *columns;                            /* statements before the rows of a block */
	int column_rows;                         /* loops over rows */
	bool rows_done;                          /* of a block: sums are complete */
	const char *(*acc)[2]; /* [nops][results] what a reduction gathers in */
	const char **mean;     /* [nops] */

	int pass; /* number of the walk over the row that is printed */
	int npasses;
	int *level;      /* [nvals] the first walk in which a value can be had */
	uint16_t **uses; /* [npasses][nvals] */
	int *first;      /* [nvals] 1 + the walk that computes it */
	const char **memo,
	    **row_memo; /* [nvals] what an element is called here; kept through the row */
	bool *stored;   /* [nvals] can be read back from its buffer */
	const char **row_buffer; /* [nvals] kept on the stack from walk to walk */
	Buf row, body;           /* statements of the row; of the innermost loop */
	int row_depth, body_depth;
	Scope *scope; /* names of loads that are hoisted */
} Nest;

/* ==== nest.c ==== */
/* One diagnostic at the nest's first op; the rest of the body is given up. */
void nest_error(Nest *n, const char *fmt, ...) GV_PRINTF(2, 3);
Lin lin_const(int64_t c);
void lin_add(Lin *to, const Lin *x, int64_t times);
/* Adds times * text, where text is an atom that depends on `deps`. */
void lin_term(Lin *to, const char *text, int64_t times, uint32_t deps);
bool lin_is_const(const Lin *x);
/* The C expression; strides are named after the sizes of t (NULL: numbers), else
 * of the view. */
Ex lin_text(Nest *n, const Lin *x, const Type *t, const Type *view);
/* The same as an index; what a row fixes is named once a row if it is long. */
const char *index_text(Nest *n, const Lin *x, const Type *t, const Type *view);
/* The text of x as an atom, where it stands alone: its axes are not merged. */
const char *lin_alone(Nest *n, const Lin *x);
const Lin *env_at(const Env *e, Axis a); /* NULL: absent */
void env_set(Env *e, Axis a, const Lin *at);
void env_drop(Env *e, Axis a);
int nest_axis(const Nest *n, Axis a); /* -1 */
uint32_t nest_mask(const Nest *n, const Type *t);
/* Address of an element of a buffer; in a probe, remembers it. */
Lin nest_address(Nest *n, const Type *t, const int64_t *stride, int64_t offset, const Env *e);

/* ==== kernel.c ==== */
enum { MAX_PASSES = 16, COLUMNS = 128 };
int64_t nest_count(const Nest *n, uint32_t axes);
/* Appends loops over the axes of `mask`, outermost first, merged where all addresses agree. Returns how many there are. */
int nest_add_loops(Nest *n, uint32_t mask, bool outer);
/* requires: loops and `inner`. Which walk computes, stores or keeps what. */
void nest_find_needs(Nest *n);
bool nest_in_row(const Nest *n, Val v);         /* it does not change in the inner loops */
bool nest_is_kept(const Nest *n, Val v);        /* later walks can read it back from memory */
int nest_store_walk(const Nest *n, uint32_t k); /* the walk that makes a store */
bool nest_is_careful(const Nest *n,
		     int pass); /* all values of a walk are computed before any is stored */

/* ==== walk.c ==== */
void put_rows(Nest *n);
void put_columns(Nest *n);
/* The text of a store of x to one place. */
void put_store(Nest *n, Val v, const Sink *to, Ex x);

/* ==== reduce.c ==== */
bool is_reduction(const Op *op);
/* Walks an op's reductions need: declares what they gather in, adds an element, ends a walk. */
void reduce_begin(Nest *n);
void reduce_add(Nest *n, Buf *clause);
void reduce_end(Nest *n);

/* ==== expr.c ==== */
Ex value_at(Nest *n, Val v, const Env *e);
Ex ex_binary(Nest *n, Ex x, const char *op, int prec, Ex y);

#endif
