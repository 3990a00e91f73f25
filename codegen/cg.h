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
	uint32_t inst;
	BodyKind bk;
} Call;

enum { PREPARE_nothing, PREPARE_zero, PREPARE_one };

typedef struct Cg {
	Ctx *ctx;
	const Module *m;
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
	bool *called;              /* [nbodies] */
	bool *wraps_i, *wraps_mb;  /* [nbodies] what the function around a body is passed */
	const char **wrapper_name; /* [nbodies] */
	const char **rates_name;   /* [ntypes] the table of dropout rates; NULL: none yet */
	uint32_t *ordinal;         /* [ninsts] number of the instance within its type */
	uint32_t *type_insts;      /* [ntypes] */
	uint32_t **insts_of;       /* [ntypes][type_insts] */
	Call *calls; /* the schedule of one microbatch, then what comes once a step */
	uint32_t ncalls, ccalls;
	struct CgBody *body; /* [nbodies] what became of each */
	Buf bodies, tables, actions;
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
	bool *port_used;         /* [nports] parameters of the C function */
	bool uses_mb, uses_rng, uses_run, uses_add, uses_scratch;
	bool keeps_scratch; /* something in it is read after the body */
	const char **drop;  /* [nops] the GvDrop of a site; NULL: nothing is dropped */
	Buf head, text;     /* declarations; statements */
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
    emit_topk, emit_scatter, emit_sumsq, emit_adamw, emit_sgd, emit_alone, emit_refused;
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
	IN_carry
} Area;

typedef struct Where { /* bytes in a section; of the current slot for IN_slot */
	Area in;
	int64_t at;
} Where;

Where where_ref(const Cg *g, Ref r);
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

/* ==== schedule.c, host.c, params.c ==== */
void cg_schedule(Cg *g); /* calls, modes of ports */
void cg_actions(Cg *g);
void cg_tables(Cg *g, Buf *out); /* parameters, inputs, reports, GvrtProgram and main */

/* ==== makefile.c ==== */
bool cg_write(Ctx *c, const Module *m, const CgOptions *o, const Buf *program);

#endif
