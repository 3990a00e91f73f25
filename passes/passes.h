/*
 * passes.h - everything that turns a module of one level into a module of the same or the next
 * level.
 *
 * A pass is a function over a Module; passes call no other pass and meet only in the IR.
 * Sections follow the files in the order the pipeline runs them. README.md has the invariants.
 */
#ifndef GV_PASSES_H
#define GV_PASSES_H

#include "ir/ir.h"

typedef struct Pass {
	const char *name;             /* flag and file name: -d NAME, NN-NAME.gir */
	const char *doc;              /* one line for --help-passes */
	Level in, out;                /* what the verifier checks before and after */
	bool (*run)(Ctx *, Module *); /* false: diagnostics were issued */
} Pass;

/* simplify.c */

/* LV_graph -> LV_graph. Expands normalize, folds, applies exact identities, merges common
 * subexpressions, drops dead code. */
bool pass_simplify(Ctx *c, Module *m);
/* The same on one body. keep_stop: `stop` stays, because the body has still to be
 * differentiated. */
void simplify_body(Module *m, Body *b, Arena *tmp, bool keep_stop);

/* simplify_rules.c */

typedef struct Simplify {
	Module *m;
	Body *b;        /* the new body */
	bool keep_stop; /* `stop` matters until the body has been differentiated */
	Name hint;      /* what the op at hand was called: what replaces it is called alike */
	Arena *tmp;
	uint32_t *head, *next; /* chains of ops with one hash: 1 + index of op */
	uint32_t mask, cnext;
} Simplify;

/* A value of type t that equals the op's result, or none. Operands are values of the new
 * body. */
Val simplify_rules(Simplify *s, const Op *op, const Type *t);
bool simplify_same_axes(const AxisList *a, const AxisList *b); /* in the same order */
/* Places an op with one result, of type t (NULL: as inferred): by a rule, as one that is there,
 * or as itself. May change op->in, which must not be the arena's. */
Val simplify_place(Simplify *s, Op *op, const Type *t, Name hint);

/* autodiff.c */

/* LV_graph -> LV_train. B and W bodies of every layer type; `saved` and `carry` lists;
 * PORT_save in F. Forward-only compilations change level, and nothing else. */
bool pass_autodiff(Ctx *c, Module *m);

/* grad.c */

/* The joint body of a layer type while it is differentiated: F's ops, unchanged and first,
 * then the gradient's. */
typedef struct Grad {
	Ctx *c;
	Module *m;
	Body *b;
	uint32_t nf, nfops; /* values below nf and ops below nfops are F's */
	const bool *active; /* [nf] the value depends on what gets a gradient */
	Val *cot;           /* [nf] cotangent so far; none: zero */
	Loc loc;            /* of the op at hand: new ops take it */
} Grad;

/* Adds the contributions of one op of F to the cotangents of its operands. False after a
 * diagnostic: no rule. */
bool grad_apply(Grad *g, const Op *op);
/* cot[x] += d: sums d over axes x lacks, broadcasts it over those d lacks, and gives it x's
 * type, order included. */
void cot_add(Grad *g, Val x, Val d);

/* partition.c */

/* Splits a differentiated joint body: dx[arg] and dw[weight] are values of it, or none. Decides
 * what F saves (recompute policy `none`: cheap values are recomputed), adds PORT_save to F, and
 * makes the bodies B and W of the type. */
typedef struct Joint {
	const Grad *g;
	uint32_t type;
	const Val *dx, *dw;
} Joint;
void partition_body(Ctx *c, Module *m, const Joint *j);

/* Appends a copy of an op of `src` to `dst`: operands through map[], results made and
 * entered in map[]. */
void copy_op(Module *m, Body *dst, const Body *src, const Op *op, Val *map);

/* optimizer.c */

/* LV_train -> LV_train. N and U bodies of every layer type that owns parameters. */
bool pass_optimizer(Ctx *c, Module *m);

/* pipeline.c */

typedef struct PassOptions {
	const char *dump;       /* -d NAME[,NAME], "all"; NULL = none */
	const char *dump_dir;   /* --dump-dir: NN-NAME.gir after every pass; NULL = none */
	const char *stop_after; /* a pass; NULL = run all */
	bool roundtrip, time, verify;
	bool unproven; /* no proof of action tables and memory: for costs, never for programs */
	bool explain;  /* the plan pass says on stdout what it tried and why it chose */
} PassOptions;

/* Runs the passes from the module's level on; *m may be another module afterwards (round
 * trip). False after diagnostics. */
bool pass_run_all(Ctx *c, Module **m, const PassOptions *o);
const Pass *pass_list(size_t *n);
void pass_print_list(FILE *out); /* --print-passes */

/* search.c */

/* LV_train -> LV_plan. Microbatches and recomputation that fit the memory, by lowering; or
 * what --plan says. */
bool pass_plan(Ctx *c, Module *m);

/* lower.c: the lowering library. What the search costs is what spmd links. */

/* Which axes of a layer tp splits. */
typedef struct TpChoice {
	uint16_t *
	    inner; /* [naxes] the tp axes of the mesh that split it, all of them or some ("kv@tp.0 group@tp.1"); 0: none */
	uint32_t naxes;
	bool able;  /* some axis could be split, whether or not it pays */
	bool works; /* it was tried and lowers */
	bool sp;    /* Megatron-SP */
	Axis
	    seq; /* the axis attention looks along, where the layer's arguments or results have it; none: no sp */
} TpChoice;

/* What a layer type is lowered for: one Lowered each. */
typedef struct LowerKey {
	uint32_t type;
	uint64_t pending;  /* bit a: argument a is a sum over the batch, of one microbatch */
	uint64_t shared;   /* bit w: other instances add to the gradient of weight w */
	Strategy strategy; /* but for first and count */
} LowerKey;

/* A layer type under a strategy: its bodies sharded, with recomputation, fused, and what
 * they cost. */
typedef struct Lowered {
	LowerKey key;
	TpChoice tp;
	Body body[BK_COUNT]; /* ops == NULL and no ports: there is none */
	bool has[BK_COUNT];
	LayerType
	    layer; /* the type as spmd links it: shards in saved, carry; flops of the model */
	double flops[BK_COUNT];    /* done, recomputation included */
	int64_t moved[BK_COUNT];   /* bytes read and written by its kernels */
	int64_t sent[BK_COUNT];    /* bytes of the operands of its collectives, of one rank */
	int64_t scratch[BK_COUNT]; /* bytes, packed */
	int64_t saved_bytes, carry_bytes; /* frames */
} Lowered;

/* What tp splits does not depend on ZeRO and recomputation: chosen once, for lowerings on equal meshes. */
typedef struct TpMemo {
	Arena *a;
	struct TpChosen {
		LowerKey key; /* but for those */
		TpChoice choice;
	} * c;
	uint32_t n, cap;
} TpMemo;

/* requires: LV_plan, or LV_spmd before linking. NULL after diagnostics. Same key: the same object, from `memo`. */
typedef struct LowerMemo {
	Lowered **l;
	uint32_t n, cap;
	TpMemo *tp; /* NULL: none is kept */
} LowerMemo;
Lowered *lower_type(Ctx *c, Module *m, LowerMemo *memo, const LowerKey *key);

/* link.c: lowered types into the module */

/* Raises a module of LV_plan to LV_spmd: lowered types, reshards between meshes and stages, a copy of an input for every
 * layout, borrowed parameters. False after diagnostics. */
bool lower_link(Ctx *c, Module *m, LowerMemo *memo);
bool pass_spmd(Ctx *c, Module *m);

/* tp.c */

/* Splits the bodies of one layer type over the tp axes of a mesh. False, without a diagnostic: that choice does not work.
 * requires: shard_type. */
bool tp_type(Ctx *c, Module *m, uint32_t mesh, const TpChoice *s, uint64_t shared, LayerType *t,
	     Body *body[BK_COUNT]);

/* pad.c */

/* Puts a neutral element in front of what adds up over padding. requires: the last word on layouts. */
void pad_type(Ctx *c, Module *m, uint32_t mesh, const LayerType *t, Body *body[BK_COUNT]);

/* choose.c */

/* The axes tp splits: the set whose bodies cost least. False after a diagnostic: Megatron-SP is asked for and impossible. */
bool choose_tp(Ctx *c, Module *m, const LowerKey *key, TpChoice *out);
/* The bodies of a type, sharded under a choice (mb, dp, tp, padding), before recomputation. */
bool lower_shard(Ctx *c, Module *m, const LowerKey *key, const TpChoice *s, LayerType *t,
		 Body *body[BK_COUNT]);

/* body.c: what passes do to bodies */

Body body_copy(Arena *a, const Body *b);
/* Appends an op as it stands, no inference: result types are given (types[r].dt == DT_none:
 * not wanted). First result. */
Val body_op(Module *m, Body *b, OpCode code, const Val *in, int nin, const Attr *attrs,
	    int nattr, const Type *types, Loc loc);
/* Moves ops from..nops in front of op `at`. */
void body_move(Arena *tmp, Body *b, uint32_t from, uint32_t at);
void body_number(Body *b);              /* sets def and result of every value from the ops */
void body_sort_ports(Body *b);          /* by kind, then slot */
bool body_passed(const Body *b, Val v); /* v is an in-port's value */
bool body_is_out(const Body *b, Val v); /* an out-port names it */

/* shard.c */

/* Which axes are split over microbatches, what is pending: writes the value types of the
 * bodies of one layer type. */
bool shard_type(Ctx *c, Module *m, uint32_t mesh, uint32_t type, uint64_t pending, LayerType *t,
		Body *body[BK_COUNT]);

/* remat.c */

/* Takes saved values out of F and recomputes them in B; W gets them as carry. Updates t's
 * saved and carry. */
void remat_type(Ctx *c, Module *m, Recompute mode, LayerType *t, Body *body[BK_COUNT]);

/* fuse.c */

/* Gives ops kernel numbers and puts them in an order where kernels are contiguous. */
void fuse_body(Ctx *c, Module *m, Body *b);

/* pack.c */

typedef struct PackItem { /* alive in steps first..last */
	uint32_t first, last;
	int64_t bytes, at;
} PackItem;
/* Sets `at` so that items alive together do not overlap, 64-aligned; returns the height. */
int64_t pack_items(Arena *tmp, PackItem *items, uint32_t n);
int64_t pack_live(const PackItem *items, uint32_t n); /* most bytes alive in one step */

/* place.c */

/* Gives every value its space and offset; scratch_bytes and live_bytes. spare[v]: an in-port
 * that may be overwritten. */
void pack_body(Ctx *c, const Module *m, Body *b, const bool *spare);
/* All bodies of one layer type (NULL: none), each told what the others still read. */
void pack_bodies(Ctx *c, const Module *m, Body *const body[BK_COUNT]);

/* cost.c */

typedef struct Cost {
	double flops; /* contractions only, 2 per multiply-add */
	double loops; /* elementwise operations */
	double moved; /* bytes of operands and results, each once a kernel; collectives apart */
} Cost;
Cost cost_body(const Module *m, const Body *b);
/* Of the kernel that op `first` begins, *end one past its last op. touched[b->nvals] holds no value >= stamp but of calls
 * with a lower one; it is written. at[axis]: extents other than the body's; NULL. */
Cost cost_kernel(const Module *m, const Body *b, uint32_t first, uint32_t *end,
		 uint32_t *touched, uint32_t stamp, const int64_t *at);

/* layout.c: frames and sections, read by sched (is a loop affine?) and written by mem */

/* Packs every body and lays out the arena: types' offsets, Module.mem but for live_bytes.
 * requires: LV_spmd or below. */
void layout_module(Ctx *c, Module *m);
/* The first half of that: bodies, and the frames of types. */
void layout_types(Ctx *c, Module *m);
int64_t layout_arena(const Module *m);                        /* of the stage that needs most */
int64_t layout_inputs_bytes(const Module *m, uint32_t stage); /* of one slot */

/* roll.c: loops over layers */

typedef struct ActList {
	Action *a;
	uint32_t n, cap;
} ActList;

typedef struct Roll Roll; /* one stage of a module that is laid out as mem will do it */
Roll *roll_new(Ctx *c, const Module *laid, uint32_t stage);
/* Appends the actions to m's, turns of like ones as loops; from_end: a turn left over is the first, not the last. */
void roll_actions(Roll *r, Module *m, const ActList *l, bool from_end);

/* moves.c: what a stage sends and receives, read by sched */

/* A reshard with an end in this stage, or a borrowed parameter. */
typedef struct Move {
	uint32_t id;       /* instance or parameter */
	uint32_t from, to; /* stages */
	uint32_t producer; /* the instance whose result moves; of a parameter, its owner */
	uint16_t result;
	bool back; /* a cotangent, or a gradient, goes back */
	uint32_t
	    low; /* who makes the last contribution to that: the first reader; without any, the reshard itself */
	uint32_t high; /* who makes the first */
	bool late;     /* lent when all U are through */
} Move;

typedef struct Moves {
	Move *v;
	uint32_t n, cap;
} Moves;

typedef struct StageMoves {
	Moves made;     /* reshards, in the order in which their values are made */
	Moves back;     /* reshards with a cotangent, in the order in which that is made */
	Moves lent;     /* borrowed parameters in the order in which they are lent */
	Moves returned; /* ... in which their gradients return */
} StageMoves;

StageMoves moves_of_stage(const Module *m, uint32_t stage, Arena *tmp);

/* schedule.c */

/* The least microbatches in flight that the schedule of a stage needs. */
uint32_t sched_slots(const Module *m, uint32_t stage);
/* LV_spmd -> LV_sched: a stage's action table. */
bool pass_sched(Ctx *c, Module *m);

/* memplan.c */

/* LV_sched -> LV_mem. */
bool pass_mem(Ctx *c, Module *m);

/* How many bytes are alive while a stage's table runs, one action after the other, loops spelled out. requires: LV_mem */
typedef struct MemWalk MemWalk;
MemWalk *mem_walk(const Module *m, uint32_t stage, Arena *tmp);
/* Bytes alive after an action (ACT_end: of a turn over microbatches); *during: at most, while it runs. */
int64_t mem_walk_action(MemWalk *w, const Action *a, int64_t *during);

#endif
