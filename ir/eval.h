/*
 * eval.h - private to ir/eval*.c: how the interpreter holds tensors and what a kernel is given.
 *
 *   eval.c         the interface: state, values in and out, a step, an update, one body
 *   eval_place.c   ranks and their memory: where parameters, frames and cotangents are kept
 *   eval_run.c     ranks at work: the action table, bodies op by op, virtual scheduling, collectives
 *   eval_ops.c     kernels: elementwise, re-indexing, communication; the table of all
 *   eval_sum.c     kernels: reductions, contractions, statistics, attention, optimizer
 *
 * Invariants: a kernel sees dense tensors of double, whole numbers and truth values included, and writes unrounded
 * results; its caller rounds them to the type of the value. A kernel never sees ranks, but for collectives.
 */
#ifndef GV_EVAL_H
#define GV_EVAL_H

#include "ir/ir.h"

/* ---- tensors ---- */

/* The part of a value one rank holds in one microbatch. Padding of uneven shards lies at `end` and beyond. */
typedef struct Tensor {
	Type t;
	int64_t n;                               /* elements held */
	int64_t ext[MAX_AXES], stride[MAX_AXES]; /* in the order of the type */
	int64_t start[MAX_AXES],
	    end[MAX_AXES];      /* global positions [start, end) along each axis */
	int64_t full[MAX_AXES]; /* global extents */
	double *x;              /* NULL: nowhere yet, or not wanted */
} Tensor;

/* The part of type t at these mesh coordinates (mesh NULL: all of it); x is left NULL. */
Tensor eval_tensor(const Module *m, const Mesh *mesh, const uint32_t *coord, const Type *t);
/* Copies, or adds, what src and dst both hold, matched by axis name and global position. Returns how many elements. */
int64_t eval_overlap(Tensor *dst, const Tensor *src, bool add);
/* Valid elements: without padding. */
int64_t eval_valid(const Tensor *t);
/* x as a value of that type; `wide`: all floats are double. */
double eval_round(DType dt, bool wide, double x);

/* ---- walking index spaces ---- */

enum { WALK_MAX = 4, WALK_AXES = 3 * MAX_AXES };

/* An index space in row-major order and, for up to WALK_MAX tensors, where each index lies. The last axis is left to
 * the caller: for (j < w.len) at w.at[k] + j * w.by[k]. */
typedef struct Walk {
	int n;
	Axis axis[WALK_AXES];
	int64_t ext[WALK_AXES], stride[WALK_AXES][WALK_MAX], idx[WALK_AXES];
	int64_t at[WALK_MAX], by[WALK_MAX], len;
	bool begun;
} Walk;

/* The axes of `t` appended, those in `skip` (or NULL) and those already there left out; no strides yet. */
void walk_axes(Walk *w, const Tensor *t, const AxisList *skip);
/* One more axis, without strides. */
void walk_push(Walk *w, Axis a, int64_t extent);
/* Operand k moves with every axis of the walk that it has, but those in `skip`. */
void walk_over(Walk *w, int k, const Tensor *t, const AxisList *skip);
/* Sets the stride of operand k along axis a. */
void walk_stride(Walk *w, int k, Axis a, int64_t stride);
/* The next row; false after the last. */
bool walk_next(Walk *w);
/* How many rows times len there are. */
int64_t walk_count(const Walk *w);

/* ---- kernels ---- */

enum { CALL_IN = 8 };

typedef struct Call {
	const Module *m;
	const Body *b;
	const Op *op;
	int nin;
	Tensor in[CALL_IN];
	Tensor out[MAX_OUT]; /* x NULL: that result is not wanted; else zeroed */
	const Tensor *peer;  /* collectives: the operand of every rank of the group, by rank */
	uint32_t npeer;
	double rate;        /* ops that draw: 0 = keep all */
	uint64_t key, step; /* "; the site's key */
	bool wide;          /* floats are double */
	Arena *tmp;
	Diag *diag;
	bool failed; /* a diagnostic was issued */
} Call;

typedef void EvalKernel(Call *c);
extern EvalKernel *const eval_kernel[OP_COUNT];

#define OP(code, ...) EvalKernel eval_##code;
#include "ir/ops.def"

void eval_fail(Call *c, const char *fmt, ...) GV_PRINTF(2, 3);
/* Keep-or-drop factor of a logical place. */
double eval_drop(const Call *c, uint64_t place);
int64_t eval_index(Call *c, const Tensor *x, Axis a,
		   double i); /* global position -> local; -1: on another rank */

/* ---- ranks ---- */

enum { MAX_LOOPS = 8 };

/* Where something is kept: an array of doubles, or (level mem) `at` in the rank's arena. */
typedef struct Place {
	double *x;
	int64_t at; /* bytes; read if x is NULL */
	const Type
	    *type; /* how it is laid out; NULL: there is no such thing, it reads as zeros */
	const Mesh *mesh;
} Place;

/* A value while its body runs. */
typedef struct Cell {
	Tensor t;   /* x: private contents; NULL: in the arena, or not made yet */
	int64_t at; /* in the arena; -1: private */
	bool alias; /* a view, made anew whenever it is read */
} Cell;

/* A body in progress. */
typedef struct Frame {
	const Body *b; /* NULL: none */
	uint32_t inst; /* ninsts: of no instance */
	uint32_t mb, slot;
	uint32_t op; /* the next one */
	uint32_t
	    flushed; /* results of ops below are where they belong, those above still private to their kernel */
	Place *ports;        /* [b->nports] */
	bool global;         /* ports are whole tensors, shared by all ranks and microbatches */
	Cell *cells;         /* [b->nvals] */
	const double *rates; /* [nrates], or NULL */
	uint32_t nrates;
	const char *site; /* the name dropout draws under */
	uint32_t coord[MAX_MESH];
} Frame;

typedef struct Loop {
	uint32_t begin, turn, count; /* action after the opening one */
	ActKind kind;
} Loop;

/* One virtual rank. */
typedef struct Rank {
	uint32_t id, first, ranks; /* number; its stage's ranks */
	const Action *acts;        /* its program */
	uint32_t pc, end;
	Loop loops[MAX_LOOPS];
	uint32_t nloops, mb;
	Frame f;
	bool waiting;     /* in front of the collective f.op */
	Arena *body, *op; /* memory for as long as a body, an op (level mem: a kernel) runs */
	unsigned char *bytes;    /* level mem: the arena, of `nbytes` of the plan's bytes */
	int64_t nbytes, scratch; /* where scratch begins */
	Place *state[SEC_COUNT]; /* [nparams] */
	Place *consts;           /* [nconsts] */
	Place *inputs;           /* [slots * ninputs] */
	Place *results;          /* [slots * nres] */
	Place *saved;            /* [slots * nsave] */
	bool *cot_made;          /* [slots * nres] */
	Place *cots;             /* [nres] */
	Place *carry;            /* [ncarry] */
	double *report;          /* [nreports] */
	double sumsq;
} Rank;

struct Eval {
	Arena *arena;
	const Module *m;
	EvalOptions o;
	Diag *diag;
	bool wide;     /* floats are double */
	bool placed;   /* level mem: values live at their offsets */
	int64_t unit;  /* bytes of the interpreter's arena for one of the plan's */
	int64_t cells; /* doubles in use, against a limit */
	uint32_t nranks, slots, nmb;
	Rank *ranks;
	Action *own; /* the program of levels that have none */
	uint32_t nown, cown;
	uint32_t *res0, *save0, *carry0; /* [ninsts] first result, save, carry of an instance */
	uint32_t nres, nsave, ncarry;
	double **input; /* [ninputs] global contents; NULL: not given yet */
	Type logits_type;
	Tensor logits;  /* global; x NULL: no body has them */
	double **fetch; /* [SEC_COUNT * nparams] what eval_get hands out */
	double *report; /* [nreports] of the last run */
	uint64_t step;
	double scalars[4]; /* of U: learning rate, gradient scale, 1 - beta1^t, 1 - beta2^t */
	double norm;
	uint64_t choices; /* made by the adversarial scheduler */
};

/* eval_place.c */
bool eval_setup(Eval *e); /* ranks, program, places; false after a diagnostic */
void eval_reset(Eval *e); /* the start of a step: gradients, reports, sums */
double *eval_doubles(Eval *e, Arena *a,
		     int64_t n); /* zeros; NULL after a diagnostic if that is too much */
bool eval_add_rank(Eval *e, Rank *r, uint32_t id, int64_t arena_bytes);
/* What port p of a body of instance `inst` is bound to. */
Place eval_port(Eval *e, Rank *r, uint32_t inst, uint32_t slot, const Port *p);
void eval_coords(const Rank *r, const Mesh *mesh, uint32_t mb, uint32_t *coord);
/* Contents of type t at a place: the doubles themselves, or decoded into `a`. False after a diagnostic. */
bool eval_load(Eval *e, const Rank *r, const Place *p, Tensor *t, Arena *a);
bool eval_store(Eval *e, const Rank *r, const Place *p, const Tensor *t);
/* Of several ranks that hold the same, one counts; a pending sum counts everywhere. */
bool eval_counts(const Mesh *mesh, const uint32_t *coord, const Type *t);
/* The place of a result's cotangent, made: 1 for the loss, else 0, unless a contribution has come. */
bool eval_cot(Eval *e, Rank *r, uint32_t inst, uint16_t result, uint32_t slot);

/* eval_run.c */
bool eval_ranks(Eval *e); /* all ranks to the end of their programs */
bool eval_begin(Eval *e, Rank *r, const Body *b, uint32_t inst, Place *ports, bool global);

#endif
