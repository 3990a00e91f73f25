/*
 * cg.h - private to codegen/: names, expressions, and what is known of a body and of the program while they are printed.
 */
#ifndef GV_CG_H
#define GV_CG_H

#include "codegen/codegen.h"

enum {
	MAX_LOOPS = 24,        /* axes of one loop nest */
	LINE = 96,             /* columns; longer statements are wrapped */
	PARALLEL_MIN = 4096,   /* loops with fewer elements stay on one thread */
	ROW_BUFFER_MAX = 16384 /* elements of a row kept on the stack between passes */
};

/* ==== names.c ==== */
typedef struct Scope
    Scope; /* a set of taken identifiers; a name taken in a parent is taken here */

Scope *scope_new(Arena *a, const Scope *parent);
/* A C identifier that reads like `text`, not taken before in this scope or above; kept. */
const char *scope_take(Scope *s, const char *text);
/* The same in capitals, for named sizes. */
const char *scope_take_upper(Scope *s, const char *text);
/* Remembers what `text` would be called, without taking it; whether it was remembered or taken in this very scope. */
void scope_mark(Scope *s, const char *text);
bool scope_has(const Scope *s, const char *text);
/* `text` as a C string literal with its quotes: any bytes. */
void put_cstring(Buf *b, const char *text);
/* `text` inside a comment: cannot end it, no line breaks, no control characters. */
void put_comment(Buf *b, const char *text);

/* ==== text: emit.c ==== */
/* One line at a depth of tabs; broken at spaces where it is longer than LINE. */
void put_line(Buf *b, int depth, const char *fmt, ...) GV_PRINTF(3, 4);
char *cg_text(Arena *a, const char *fmt, ...) GV_PRINTF(2, 3);

/* ==== the program ==== */
/* How an out-port's value meets its buffer. */
typedef enum StoreMode {
	STORE_set,
	STORE_add,  /* always added */
	STORE_flag, /* added if a parameter of the body says so */
	STORE_none  /* another port or buffer already holds it */
} StoreMode;

typedef struct PortMode {
	StoreMode mode;
	bool own_flag; /* STORE_flag: `add_NAME` instead of the common `add` */
} PortMode;

typedef struct CgBody CgBody;

typedef struct Size { /* a named extent */
	Axis a;
	int64_t extent;
	const char *name;
} Size;

/* One call of a body in the order of the schedule, for the first microbatch. */
typedef struct Call {
	ActKind kind; /* a body, or what a communication brought */
	CommKind comm;
	BodyKind bk;
	uint32_t inst;
} Call;

enum { PREPARE_nothing, PREPARE_zero, PREPARE_one };

/* Communications that one pair of functions begins and awaits: of the same kind and make, of instances of a type or of
 * borrowed parameters. */
typedef struct Family {
	CommKind kind;
	uint32_t type; /* of the instances */
	int zero;
	uint32_t *items; /* [n] instances; CK_lend, CK_return: parameters */
	uint32_t n, citems;
	uint32_t nprims;
	Prim **prims;                            /* [n][nprims] */
	int64_t request, exchange;               /* of the first item */
	uint32_t per_request;                    /* requests of one item */
	const char *label, *start, *wait;        /* functions */
	bool start_i, start_mb, wait_i, wait_mb; /* what they are passed */
} Family;

typedef struct Shared { /* by the programs of all stages */
	CommTable comms;
	uint64_t hash;     /* of the plan */
	uint32_t *by_name; /* [nparams] parameters in the order of their names */
	bool metered;      /* programs time their kernels */
} Shared;

typedef struct Cg {
	Ctx *ctx;
	const Module *m;
	const Shared *shared;
	uint32_t k; /* the stage that is printed */
	const Stage *stage;
	const Memory *mem; /* of the stage */
	Arena *a;
	bool f64, failed;
	Scope *file;
	Size *sizes;
	uint32_t nsizes, csizes;
	const char **axis_var;  /* [naxes] loop variable of an axis */
	const char **type_name; /* [ntypes] */
	const char **body_name; /* [nbodies] the C function; NULL: not emitted */
	PortMode **modes;       /* [nbodies][nports] */
	bool *
	    *late; /* [ninsts * BK_COUNT][nports] another call added to that gradient before */
	uint8_t **
	    prepare; /* [ninsts * BK_COUNT][nports] PREPARE_: what the port's cotangent needs before the call */
	uint8_t *
	    prepare_bwd; /* [ninsts] of a reshard: what its result's cotangent needs before it is sent back */
	uint8_t *
	    prepare_back; /* [ninsts] of a reshard: what its argument's cotangent needs before what arrives is added */
	bool *contributes;         /* [nparams] some body gives a part of its gradient */
	bool *called;              /* [nbodies] */
	bool *wraps_i, *wraps_mb;  /* [nbodies] what the function around a body is passed */
	const char **wrapper_name; /* [nbodies] */
	const char **rates_name;   /* [ntypes] the table of dropout rates; NULL: none yet */
	uint32_t *ordinal; /* [ninsts] number of the instance within its type, in this stage */
	uint32_t *type_insts; /* [ntypes] of this stage */
	uint32_t **insts_of;  /* [ntypes][type_insts] */
	Call *calls; /* what happens to the first microbatch, then what comes once a step */
	uint32_t ncalls, ccalls;
	Family *families;
	uint32_t nfamilies, cfamilies;
	uint32_t *comm_family
	    [CK_COUNT]; /* [instances or parameters] 1 + the family; 0: nothing is sent */
	uint32_t *comm_ordinal[CK_COUNT]; /* number in it */
	int64_t nrequests;
	struct CgBody *body; /* [nbodies] what became of each */
	const char **meter;  /* [nmeters] what is timed */
	uint32_t nmeters, cmeters;
	Buf bodies, tables, actions, parts;
	uint32_t nparts;
} Cg;

/* The name of an axis' local extent ("BATCH_MB"); makes it on first use. */
const char *cg_size(Cg *g, const Mesh *mesh, AxisUse u);
/* n as a product of named sizes where it is one: "2 * HEADS * HEAD"; type gives the candidates. */
const char *cg_stride(Cg *g, const Mesh *mesh, const Type *t, int64_t n);
/* The same for a view of the buffer: by the sizes of either, whichever says it without a number. */
const char *cg_view_stride(Cg *g, const Mesh *mesh, const Type *base, const Type *view,
			   int64_t n);
/* Elements of a type as a product of sizes; "1" for a scalar. */
const char *cg_count(Cg *g, const Mesh *mesh, const Type *t);
const char *cg_ctype(DType dt); /* "real", "double", "int32_t", "bool" */
void cg_error(Cg *g, Loc at, const char *fmt, ...) GV_PRINTF(3, 4);

/* ==== one body ==== */
typedef struct Sink {    /* one place a value is stored */
	const char *ptr; /* NULL: run->sumsq */
	StoreMode mode;
	const char *flag; /* STORE_flag */
	bool in_place;    /* takes over a buffer that the same loop nest may still read */
} Sink;

typedef struct ValInfo {
	const char *name; /* C identifier: of the buffer if it has one, else of the scalar */
	const char *elem; /* C identifier of one element inside a loop nest */
	const char *ptr;  /* the buffer it can be read from; NULL: none */
	Sink *sinks;
	uint32_t nsinks, csinks;
	bool declared; /* the pointer into scratch is */
	uint32_t last; /* 1 + last op that reads the value or a view of it */
} ValInfo;

typedef struct Start { /* where a rank's part of an axis begins */
	AxisUse use;
	int from;
	const char *name;
} Start;

struct CgBody {
	Cg *g;
	const Body *b;
	Body plain;     /* the same without places in memory, for comments */
	uint32_t index; /* in Module.bodies */
	const Mesh *mesh;
	const LayerType *l; /* NULL: the const body */
	Scope *scope;
	ValInfo *val;            /* [nvals] */
	bool *scalar_port;       /* [nvals] a field of `run` */
	const char **port_param; /* [nports]; NULL: not a parameter */
	const char **port_flag;  /* [nports]; NULL */
	const char *
	    *count; /* [nvals] a parameter: elements of a range of state; NULL: all there are */
	bool *port_used; /* [nports] parameters of the C function */
	bool uses_mb, uses_rng, uses_run, uses_add, uses_scratch;
	bool keeps_scratch; /* something in it is read after the body */
	const char **drop;  /* [nops] the GvDrop of a site; NULL: nothing is dropped */
	Start *starts;
	uint32_t nstarts, cstarts;
	uint32_t marked; /* 1 + the first op of the kernel that was marked last */
	Buf head, text;  /* declarations; statements */
	int depth;
};

const Type *bc_type(const CgBody *c, Val v);
int64_t bc_extent(const CgBody *c, const Type *t, int k);
/* Strides of a value in memory; false if it has no buffer to be read from. */
bool bc_access(CgBody *c, Val v, Access *out);
/* Strides of a contiguous value of this type. */
void bc_strides(const CgBody *c, const Type *t, int64_t stride[MAX_AXES]);
/* Pointer expression of a view: "p + 2 * HEADS * HEAD". */
const char *bc_pointer(CgBody *c, const Access *x);
/* Declares the buffer of a value that is about to be stored. */
void bc_touch(CgBody *c, Val v);
/* Mesh axes along which all ranks have the same of a tensor. */
unsigned cg_replicas(const Mesh *mesh, const Type *t);
void bc_line(CgBody *c, const char *fmt, ...) GV_PRINTF(2, 3);
/* IR lines and places of ops, as a comment. */
void bc_comment(CgBody *c, const uint32_t *ops, uint32_t n);
/* The identifier of one element of a value inside a loop nest. */
const char *bc_elem(CgBody *c, Val v);
/* Whether all results of an op are views or unused: no code. */
bool bc_silent(const CgBody *c, const Op *op);
/* Where a call writes its result: the plain sink if there is one, to which bc_copy_rest() adds the others; else each
 * in turn. NULL after the last. */
const Sink *bc_sink(CgBody *c, Val v, uint32_t turn);
void bc_copy_rest(CgBody *c, Val v);
/* "add" expression of a sink: "0", "1" or the flag. */
const char *sink_beta(const Sink *s);

/* ==== collective.c ==== */
/* A constant of the body: where this rank's part along the splits `from`.. of an axis begins, microbatches left out; NULL: at 0. */
const char *bc_start(CgBody *c, AxisUse u, int from);
/* Positions from one microbatch to the next; 0: it is not split into them. */
int64_t bc_by_mb(const CgBody *c, AxisUse u);

/* ==== expr.c ==== */
/* The literal of a number in an arithmetic. */
const char *literal(const Cg *g, DType dt, double x);

/* ==== body.c ==== */
void cg_body(Cg *g, uint32_t body);

/* ==== kernel.c: a fused loop nest, or any elementwise, re-indexing or reducing op alone ==== */
void emit_kernel(CgBody *c, const uint32_t *ops, uint32_t n);
/* Copies (or adds) a value that can be read to one more place. */
void emit_copy(CgBody *c, Val v, const Sink *to);

/* ==== plain.c: loops and addresses over named axes, for any layout ==== */
typedef struct Place { /* an index that is not the axis' own loop variable */
	Axis a;
	const char *at;
} Place;

/* "p[...]": the element of a value in memory at the current loops, or at `places`. */
const char *plain_element(CgBody *c, Val v, const Access *x, const Place *places, int nplaces);
/* An element of a result at a sink. */
const char *plain_target(CgBody *c, Val v, const Sink *to, const Place *places, int nplaces);
/* Opens loops over the axes of t that are not in `skip`; returns how many. */
int plain_open(CgBody *c, const Type *t, const AxisList *skip, int depth, bool parallel);
void plain_close(CgBody *c, int depth, int n);
/* Zeroes a sink that is about to be added to, unless it adds anyway. */
void plain_zero(CgBody *c, Val v, const Sink *to);
AxisList axes_except(const Type *t, const AxisList *acted);

/* ==== contract.c, calls.c: one op alone ==== */
typedef void EmitOp(CgBody *c, uint32_t op);
EmitOp emit_dot, emit_attention, emit_attention_grad, emit_cross_entropy, emit_softmax,
    emit_topk, emit_scatter, emit_sumsq, emit_adamw, emit_sgd, emit_all_reduce, emit_all_gather,
    emit_reduce_scatter, emit_alone, emit_refused;
extern EmitOp *const emit_host[OP_COUNT]; /* calls.c; filled from ops.def */

/* ==== address.c: where things of an instance are ==== */
typedef enum Area {
	IN_none,
	IN_param,
	IN_grad,
	IN_m,
	IN_v,
	IN_consts,
	IN_slot,
	IN_cots,
	IN_gather,
	IN_dwork,
	IN_carry,
	IN_work,
	IN_COUNT
} Area;

typedef struct Where { /* bytes in a section; of the current slot for IN_slot */
	Area in;
	int64_t at;
} Where;

bool cg_is_here(const Cg *g, uint32_t inst);  /* in the stage that is printed */
bool cg_in_flat(const Cg *g, uint32_t param); /* it lies in its owner's flat */
bool cg_in_dwork(const Cg *g,
		 uint32_t param); /* its gradient is of one microbatch: ZeRO 2, 3 */
/* A parameter, or its gradient or moments, where a rank has all of it. */
Where where_param(const Cg *g, uint32_t param, Section sec);
/* What a rank has of an instance's flat in a section: all, or a range. */
Where where_flat(const Cg *g, uint32_t inst, Section sec);
Where where_ref(const Cg *g, Ref r);
Where where_cot(const Cg *g, Ref r);
int64_t cg_section_bytes(const Cg *g, Section sec);
/* inst: ignored by the const body. */
Where where_port(const Cg *g, uint32_t inst, const Body *b, const Port *p);
/* The cotangent of a result, as an index into Memory.cot. */
uint32_t cot_index(const Cg *g, Ref r);
/* The result whose cotangent takes turns in a pair of buffers, among those that instances of a type take as an argument. */
Ref spare_cot(const Cg *g, uint32_t type, uint16_t slot);
/* Bytes in a slot of what F of an instance gives cross_entropy, its type and mesh; -1: there is none. */
int64_t where_logits(const Cg *g, const Type **type, const Mesh **mesh);
/* An address as an argument: ordinals 0..n of a type, `where` of each. *varies: it depends on `i`. */
const char *address_text(Cg *g, const char *ctype, const Where *where, uint32_t n,
			 const char *hint, bool *varies);

/* ==== seq.c: a number per instance as an expression ==== */
/* values[0..n) as a C expression of `i`: a constant, base + i * stride, one with alternating parts, or with an odd one
 * out at an end; else a static table in g->tables named after `hint`. *varies: it depends on i. */
const char *seq_expr(Cg *g, const int64_t *values, uint32_t n, const char *hint, bool *varies);
/* The same for conditions. */
const char *seq_condition(Cg *g, const bool *values, uint32_t n, const char *hint,
			  bool *varies);

/* ==== schedule.c, host.c, comm.c, step.c, params.c ==== */
void cg_ordinals(Cg *g); /* instances of the stage by type */
void cg_schedule(Cg *g); /* calls, modes of ports */
void cg_wrapper(Cg *g, uint32_t body, Buf *out);
void cg_comms(Cg *g, Buf *out);           /* functions that start and await communication */
bool cg_exchanges(const Cg *g, Buf *out); /* their table; false: there is none */
/* Elements along an axis in one microbatch, over all ranks. */
int64_t cg_microbatch_extent(const Module *m, AxisUse u);
void cg_actions(Cg *g);
bool cg_has_consts(const Cg *g); /* the function consts() */
void cg_tables(Cg *g, Buf *out); /* parameters, inputs, reports, GvrtProgram and main */

/* ==== meter.c: programs that time what they run ==== */
/* The statement that says what ran since the last mark. */
const char *cg_mark(Cg *g, const char *what);
void bc_mark_begin(CgBody *c);         /* what was done on the way into a body */
void bc_mark(CgBody *c, uint32_t op);  /* the kernel that op is of, or its collective */
void cg_meters(const Cg *g, Buf *out); /* their table */

/* ==== makefile.c ==== */
/* programs: [nstages]; traffic: empty for one rank. */
bool cg_write(Ctx *c, const Module *m, const CgOptions *o, const Buf *programs,
	      const Buf *traffic);

/* ==== traffic.c ==== */
/* What every rank sends in a step, as text. */
void cg_traffic(Ctx *c, const Module *m, const CommTable *comms, Buf *out);

#endif
