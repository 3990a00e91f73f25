/*
 * eval.h - private to ir/eval*.c: how the interpreter holds tensors and what a kernel is given.
 *
 *   eval.c         the interface: state, values in and out, a step, an update, one body
 *   eval_place.c   ranks and their memory: where parameters, frames and cotangents are kept
 *   eval_program.c what ranks do: action tables spelled out, and programs for levels that have none
 *   eval_run.c     ranks at work: the action table, bodies op by op, virtual scheduling
 *   eval_comm.c    communication begun and not complete: who meets whom, in which order
 *   eval_move.c    what it moves: boxes of an exchange, ranges of a flat
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
	int64_t lo, hi;         /* ZeRO: of the n elements only [lo, hi) are there; else 0, n */
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
	int64_t
	    at; /* bytes; read if x is NULL; of a range, where the first element that is kept lies */
	const Type
	    *type; /* how it is laid out; NULL: there is no such thing, it reads as zeros */
	const Mesh *mesh;
	bool ranged; /* ZeRO: of its elements only [lo, hi) are kept */
	int64_t lo, hi;
} Place;

#define EVAL_PRIVATE INT64_MIN

/* A value while its body runs. */
typedef struct Cell {
	Tensor t;   /* x: private contents; NULL: in the arena, or not made yet */
	int64_t at; /* in the arena; EVAL_PRIVATE: not there */
	bool alias; /* a view, made anew whenever it is read */
} Cell;

/* A body in progress. */
typedef struct Frame {
	const Body *b; /* NULL: none */
	uint32_t inst; /* ninsts: of no instance */
	uint32_t mb;
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

/* ---- communication ---- */

/* One end of a message of an exchange. */
typedef struct Message {
	Piece piece;
	bool sending, done;
} Message;

/* A collective, or one rank's messages of an exchange. */
typedef struct Part {
	Prim prim;
	uint32_t *group, ngroup; /* collectives: the ranks, ascending */
	Message *msg;            /* exchange */
	uint32_t nmsg;
	bool done;
} Part;

/* ORDER Meeting: what began it. */
typedef enum Meeting { MEET_action, MEET_op, MEET_norm } Meeting;

/* What one rank has begun: parts that are done one after the other. */
typedef struct Request {
	Arena *arena;
	Meeting what;
	CommKind comm; /* MEET_action: of an instance or a parameter */
	uint32_t i;
	const Body *b; /* MEET_op */
	uint32_t inst, op;
	uint32_t mb, slot;
	bool early,
	    complete; /* early: it moves as soon as it can, else as late as it can (adversarial) */
	uint32_t at, nparts; /* the part it is at */
	Part part[MAX_PRIMS];
	Place from, to,
	    owner; /* exchange: read from, written to; `to` is then added to, or stored in, `owner` */
	bool sends, receives; /* exchange: on which side this rank is */
	int64_t shift;        /* of an edited program: bytes `to` is off */
} Request;

/* One virtual rank. */
typedef struct Rank {
	uint32_t id, first, ranks; /* number; its stage's ranks */
	uint32_t stage, slots;
	const Memory *mem;  /* level mem */
	const Action *acts; /* its program */
	const Step *steps;  /* or this, an edited one */
	uint32_t pc, end;
	Loop loops[MAX_LOOPS];
	uint32_t nloops, turn, mb, slot; /* mb and slot: of the action, turn + its offset */
	Frame f;
	Request **begun; /* in the order they were begun, until they are waited for */
	uint32_t nbegun, cbegun;
	Request *wait;    /* it stands still until this is complete */
	Arena *body, *op; /* memory for as long as a body, an op (level mem: a kernel) runs */
	unsigned char *bytes;    /* level mem: the arena, of `nbytes` of the plan's bytes */
	int64_t nbytes, scratch; /* where scratch begins */
	Place *state[SEC_COUNT]; /* [nparams] what it owns: ranged where ZeRO splits it */
	Place *weight;           /* [nparams] what F, B and W read */
	Place *grad;             /* [nparams] where dw is added up */
	bool *grad_made;         /* [nparams] ZeRO 2, 3: this microbatch has given something */
	Place *consts;           /* [nconsts] */
	Place *inputs;           /* [slots * ninputs] */
	Place *results;          /* [slots * nres] */
	Place *saved;            /* [slots * nsave] */
	bool *cot_made;          /* [microbatches * nres] */
	uint32_t *
	    came; /* [slots * ninsts] of a reshard: 1 + the microbatch whose result came before the inputs */
	Place *cots;    /* [nres] */
	Place *carry;   /* [ncarry] */
	double *report; /* [nreports] */
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
	uint32_t nranks, nmb;
	Rank *ranks;
	bool staged; /* the plan says which instance is on which ranks */
	CommTable comms;
	Flat *flats;  /* [ninsts]; staged */
	Action **own; /* [nstages] programs of levels that have none */
	uint32_t *nown;
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
	bool moved; /* something was begun or completed: a transfer may have become possible */
};

/* eval_place.c */
bool eval_setup(Eval *e); /* ranks, program, places; false after a diagnostic */
void eval_reset(Eval *e); /* the start of a step: gradients, reports, sums */
double *eval_doubles(Eval *e, Arena *a,
		     int64_t n); /* zeros; NULL after a diagnostic if that is too much */
bool eval_add_rank(Eval *e, Rank *r, uint32_t id, int64_t arena_bytes);
/* Is the instance one of the stage of r? */
bool eval_has(const Eval *e, const Rank *r, uint32_t inst);
/* What port p of a body of instance `inst` is bound to. */
Place eval_port(Eval *e, Rank *r, uint32_t inst, uint32_t slot, BodyKind bk, const Port *p);
void eval_coords(const Rank *r, const Mesh *mesh, uint32_t mb, uint32_t *coord);
/* Contents of type t at a place: the doubles themselves, or decoded into `a`. False after a diagnostic. */
bool eval_load(Eval *e, const Rank *r, const Place *p, Tensor *t, Arena *a);
bool eval_store(Eval *e, const Rank *r, const Place *p, const Tensor *t);
/* Of several ranks that hold the same, one counts; a pending sum counts everywhere. */
bool eval_counts(const Mesh *mesh, const uint32_t *coord, const Type *t);
/* The place of a result's cotangent, made: 1 for the loss, else 0, unless a contribution has come. */
bool eval_cot(Eval *e, Rank *r, uint32_t inst, uint16_t result, uint32_t mb);

/* NaN in `bytes` of the plan's bytes. */
void eval_poison(const Eval *e, Rank *r, int64_t at, int64_t bytes);

/* eval_program.c */
void eval_own(Eval *e); /* programs for levels that have none */

/* eval_run.c */
bool eval_ranks(Eval *e); /* all ranks to the end of their programs */
bool eval_begin(Eval *e, Rank *r, const Body *b, uint32_t inst, Place *ports, bool global);
/* Adds t to what is at p. */
bool eval_add_to(Eval *e, Rank *r, const Place *p, const Tensor *t);
/* A contribution to the cotangent of a result, or to the gradient of a parameter: stored or added. */
bool eval_give_cot(Eval *e, Rank *r, Ref ref, uint32_t mb, const Place *to, const Tensor *t);
bool eval_give_grad(Eval *e, Rank *r, uint32_t param, const Tensor *t);
/* The collective a rank's body stands in front of, for all ranks of the group: all have come. */
bool eval_collective(Eval *e, const uint32_t *group, uint32_t n);

/* eval_comm.c */
bool eval_start(Eval *e, Rank *r, CommKind comm, uint32_t i, const Step *edit);
bool eval_wait(Eval *e, Rank *r, CommKind comm,
	       uint32_t i);                     /* r stands still until it is complete */
bool eval_meet(Eval *e, Rank *r, Meeting what); /* a body's collective; the norm */
bool eval_passed(Eval *e, Rank *r);             /* what r waited for is complete: r goes on */
/* Lets one transfer happen that can, only of early ones if asked; false with *ok true if there is none. */
bool eval_transfer(Eval *e, bool early, bool *ok);
void eval_forget(Rank *r);                /* all it has begun */
bool eval_left(const Eval *e);            /* nothing begun is left; false after a diagnostic */
bool eval_deadlock(const Eval *e);        /* says who waits for whom; false */
uint32_t eval_draw(Eval *e, uint64_t of); /* a choice of the adversarial scheduler */

/* eval_move.c */
bool eval_reduce(Eval *e, Request **q, const uint32_t *group,
		 uint32_t n); /* all_reduce, reduce_scatter */
bool eval_gather_flat(Eval *e, Request **q, const uint32_t *group, uint32_t n); /* all_gather */
bool eval_send(Eval *e, Rank *from, Request *fq, const Message *out, Rank *to, Request *tq);
bool eval_expect(Eval *e, Rank *r, Request *q,
		 const Prim *p); /* NaN where messages will come, zeros elsewhere */
bool eval_expect_flat(Eval *e, Rank *r, uint32_t inst,
		      int64_t shift); /* the same for CK_param */

#endif
