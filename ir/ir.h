/*
 * ir.h - the one representation of the compiler: graph, train, plan, spmd, sched, mem are levels of it.
 *
 * A Module is tables of plain objects that refer to each other by index, never by pointer, so that printing, comparing,
 * hashing and copying are loops over arrays. A program is BODIES (straight-line SSA code of one layer type) plus tables
 * of INSTANCES (who is called, with what) and, from level sched on, of ACTIONS (in which order). Nothing here grows with
 * the number of microbatches, and bodies do not grow with the number of layers. ir/README.md has the text form.
 */
#ifndef GV_IR_H
#define GV_IR_H

#include "ir/base.h"

/* A field and what it means stay on one line. */
/* clang-format off */

enum {
	IR_VERSION = 1,
	MAX_AXES = 12,  /* of one tensor */
	MAX_MESH = 8,   /* mesh axes of one mesh, mesh axis 0 (mb) included */
	MAX_SHARD = 3,  /* mesh axes one tensor axis is split over */
	MAX_OUT = 4,    /* results of one op */
	MAX_SLOTS = 1 << 16,
};

/* ORDER Level: each holds what the one before holds, and more. */
typedef enum Level { LV_graph, LV_train, LV_plan, LV_spmd, LV_sched, LV_mem, LV_COUNT } Level;

/* ---- handles: index 0 is none everywhere ---- */
typedef struct Axis { uint16_t i; } Axis; /* into Module.axes */
typedef struct Val { uint32_t i; } Val;   /* into Body.vals */
#define NO_AXIS ((Axis){0})
#define NO_VAL ((Val){0})

/* ---- types ---- */
typedef enum DType { DT_none, DT_bool, DT_i32, DT_bf16, DT_f32, DT_f64, DT_COUNT } DType;

/* One axis of a tensor and the mesh axes it is split over, outermost first ("batch@mb.dp"): local extent = the global
 * one divided, rounded up, by each degree in turn. A mesh axis is its index in the body's mesh; 0 is `mb`, the
 * microbatches, which split batch in time. */
typedef struct AxisUse {
	Axis a;
	uint8_t nshard, shard[MAX_SHARD];
} AxisUse;

/* The list's order IS the physical order, last fastest; no rule of the language depends on it. */
typedef struct Type {
	DType dt;
	uint8_t n;
	uint16_t partial; /* bit k: a sum over mesh axis k is pending ("+tp") */
	uint16_t flat;    /* bit k: a range of the layer's flat axis, split over mesh axis k ("/dp", ZeRO): state of N and U only */
	AxisUse ax[MAX_AXES];
} Type;

typedef struct AxisList {
	uint8_t n;
	Axis a[MAX_AXES];
} AxisList;

/* ---- ops ---- */
typedef enum OpCode {
	OP_none,
#define OP(code, ...) OP_##code,
#include "ir/ops.def"
	OP_COUNT
} OpCode;

typedef enum AttrKey {
	AK_none,
#define ATTR(key, kind) AK_##key,
#include "ir/attrs.def"
	AK_COUNT
} AttrKey;

typedef enum AttrKind { AT_axes, AT_axis, AT_num, AT_int, AT_dtype, AT_mesh } AttrKind;

/* flags of ops.def */
enum { OF_EW = 1, OF_VIEW = 2, OF_RED = 4, OF_CONST = 8, OF_RNG = 16, OF_COMM = 32, OF_UPD = 64 };

typedef struct Attr {
	AttrKey key;
	union {
		double num;
		int64_t i; /* int; dtype; mesh: bit k = mesh axis k */
		Axis axis;
		AxisList axes;
	};
} Attr;

typedef struct OpInfo {
	const char *text;
	uint8_t min_in, max_in, nout;
	uint8_t flags;
	struct { AttrKey key; bool optional; } attrs[14]; /* in printing order; ends with AK_none */
} OpInfo;

typedef struct Op {
	OpCode code;
	uint8_t nin, nout, nattr;
	Val *in;           /* [nin] */
	Val out[MAX_OUT];  /* out[i].i == 0: that result is not wanted */
	Attr *attrs;       /* [nattr], in the order of OpInfo.attrs */
	uint32_t kernel;   /* after fuse: ops of one body with the same number are one loop nest; 0 = alone */
	Loc loc;
} Op;

/* Where a value's bytes are (level mem; SP_none before). */
typedef enum Space {
	SP_none,
	SP_port,    /* given by the port: the caller's buffer */
	SP_scratch, /* scratch + offset */
	SP_local,   /* never in memory: lives inside its fused kernel */
	SP_alias,   /* a strided view of the value its op re-indexes (ir_access) */
	SP_COUNT
} Space;

typedef struct ValDef {
	Name name;      /* source-like, unique in the body: "%name" */
	Type type;
	uint32_t def;   /* 1 + index of the defining op; 0: an in-port */
	uint8_t result; /* which result of it */
	Space space;
	int64_t offset; /* bytes, in SP_scratch */
	Val over;       /* takes over the buffer of this value (in place); none: its own */
} ValDef;

/* ---- bodies ---- */
/* ORDER PortKind. In-ports first. */
typedef enum PortKind {
	PORT_arg,    /* in: slot-th activation the layer is called with */
	PORT_weight, /* in: slot-th parameter of the layer type */
	PORT_const,  /* in: slot-th constant tensor of the module */
	PORT_saved,  /* in (B, W): slot-th value that F saved */
	PORT_cot,    /* in (B, W): cotangent of the slot-th result of F */
	PORT_carry,  /* in (W): slot-th value B hands to W */
	PORT_grad,   /* in (N, U): accumulated gradient of weight slot */
	PORT_m,      /* in (U): first moment (momentum) of weight slot */
	PORT_v,      /* in (U): second moment */
	PORT_master, /* in (U): the weight in float32, of which a weight in bf16 is the rounded copy */
	PORT_scalar, /* in (U): 0 learning rate, 1 gradient scale, 2 1-beta1^t, 3 1-beta2^t */
	PORT_out,       /* out (F; const body: constant tensor `slot`) */
	PORT_save,      /* out (F) */
	PORT_dx,        /* out (B): cotangent of arg slot; added by the caller when the value has several uses */
	PORT_carry_out, /* out (B) */
	PORT_dw,        /* out (W): added to the gradient of weight slot */
	PORT_norm,      /* out (N): f64 scalar, added to the step's sum of squares */
	PORT_w_out, PORT_m_out, PORT_v_out, PORT_master_out, /* out (U): in place */
	PORT_logits,    /* out (F): what cross_entropy reads; kept for sampling; at most one */
	PORT_COUNT
} PortKind;

typedef struct Port {
	PortKind kind;
	uint16_t slot;
	Val v; /* an in-port's value is defined by the port; several out-ports may name one value */
} Port;

/* ORDER BodyKind */
typedef enum BodyKind {
	BK_F,     /* forward */
	BK_B,     /* cotangents of the arguments */
	BK_W,     /* gradients of the weights */
	BK_N,     /* squares of the gradients */
	BK_U,     /* optimizer update */
	BK_const, /* constant tensors, once at start */
	BK_COUNT
} BodyKind;

typedef struct Body {
	Name name;     /* the layer type's name; "const" */
	BodyKind kind;
	uint32_t mesh; /* index into Plan.meshes; 0 before level spmd */
	uint32_t from; /* of a reshard: 1 + the mesh of `arg` and `dx`, the producer's; 0: no reshard */
	Port *ports;
	uint32_t nports, cports;
	ValDef *vals; /* [1..nvals) */
	uint32_t nvals, cvals;
	Op *ops; /* [0..nops), in execution order */
	uint32_t nops, cops;
	uint32_t nkernels;     /* kernel numbers run from 1 to this */
	int64_t scratch_bytes; /* level mem */
	int64_t live_bytes;    /* level mem: most bytes of scratch alive at once */
	uint32_t *index, nindex, cindex; /* private to ir_val: values by name */
} Body;

/* ---- layer types and instances ---- */
typedef struct TypeWeight {
	Name name; /* local path: "attn.q.weight" */
	Type type;
} TypeWeight;

typedef struct LayerType {
	Name name; /* the GDL layer; a second type of it is "block.2" */
	uint32_t body[BK_COUNT]; /* index into Module.bodies; 0 = none */
	bool reshard; /* F and B are one op between two meshes, run by ACT_start and ACT_wait, never by ACT_body */
	uint16_t nargs, nouts, nrates;
	TypeWeight *weights;
	uint32_t nweights;
	Type *saved; /* by save slot (level train and below; the lowering library shrinks it) */
	uint32_t nsaved;
	Type *carry;
	uint32_t ncarry;
	/* level mem: offsets inside the frames of an instance, bytes */
	int64_t *out_at;   /* [nouts] in the slot frame; -1: the result is an argument or input passed through */
	int64_t *saved_at; /* [nsaved] in the slot frame */
	int64_t *carry_at; /* [ncarry] in the carry region; -1 - k: where saved slot k was, which dies as it is made */
	int64_t slot_frame, carry_frame; /* bytes */
	double flops[BK_COUNT]; /* of one microbatch on one rank: contractions only, 2 per multiply-add */
} LayerType;

/* ORDER RefKind */
typedef enum RefKind { REF_none, REF_input, REF_result } RefKind;
typedef struct Ref {
	RefKind kind;
	uint32_t i;      /* input or instance index */
	uint16_t result; /* of the instance */
} Ref;

typedef struct Instance {
	Name name;        /* of the call, for people and errors: "block.0", "embedding" */
	Name path;        /* "h.0": the prefix of its parameters; may be empty */
	uint32_t type;    /* index into Module.types */
	Ref *args;        /* [type.nargs] */
	uint32_t *params; /* [type.nweights], index into Module.params */
	double *rates;    /* [type.nrates] */
	Loc loc;
} Instance;

/* ---- parameters, inputs ---- */
typedef enum InitKind { INIT_value, INIT_normal, INIT_uniform, INIT_const } InitKind;

typedef struct Param {
	Name name;   /* the checkpoint entry; with `expert` set it holds "{axis}" and is one entry per index */
	Type type;   /* storage: f32 (f64 under --precision f64); axes in declared order = file order */
	uint8_t ndims, dims[MAX_AXES]; /* file dimension d groups dims[d] axes */
	Axis per;    /* `per expert`: that axis, outermost in type; dims do not count it */
	InitKind init;
	double init_a, init_b; /* value | std | low, high | index of the constant tensor */
	double decay, lr;      /* factors on the optimizer's settings; lr 0 = frozen */
	uint32_t owner;        /* the instance that declares it (the first that names a shared one); of a borrowed one: its first user */
	uint32_t borrows;      /* level spmd: 1 + the parameter this is another layout's or stage's copy of; 0: none. No moments, norm, checkpoint */
	uint16_t pending;      /* level spmd: mesh axes (of the owner's mesh, mb left out) its gradient is a pending sum over after all W */
	bool trained;          /* level spmd: some U updates it (its own, or that of the one it borrows) */
	Loc loc;
} Param;

typedef struct Input {
	Name name;
	Type type;
	Axis range; /* type `index range`; NO_AXIS otherwise */
	uint32_t of;   /* level spmd: 1 + the input this is another layout of ("labels.m2"); 0: the first layout */
	uint32_t mesh; /* level spmd: of the shards in type */
	Loc loc;
} Input;

/* ---- training ---- */
typedef enum OptKind { OPT_adamw, OPT_sgd } OptKind;
typedef enum RateKind { RATE_const, RATE_cosine, RATE_linear_decay, RATE_inverse_sqrt } RateKind;

typedef struct Train {
	OptKind opt;
	RateKind rate;
	double peak, warmup, steps, floor;
	double beta1, beta2, eps, decay, momentum;
	double clip; /* global norm; 0 = off */
	DType precision;
	uint64_t seed;
	bool given; /* the model has a train block */
} Train;

/* ---- plan (level plan and below) ---- */
typedef enum MeshKind { MX_mb, MX_dp, MX_tp, MX_cp, MX_sp, MX_ep, MX_COUNT } MeshKind;

typedef struct Mesh {
	Name name; /* "m1" */
	uint8_t n; /* axis 0 is mb */
	struct { MeshKind kind; uint8_t sub; uint32_t degree; } ax[MAX_MESH];
} Mesh;

typedef enum Recompute { RC_none, RC_selective, RC_full } Recompute;
typedef enum Schedule { SCH_gpipe, SCH_1f1b } Schedule;

typedef struct Strategy { /* of a run of consecutive instances */
	uint32_t first, count; /* instances */
	uint32_t mesh;
	uint8_t zero;
	bool megatron_sp; /* between the parts tp splits, values are split over tp along the axis attention looks along */
	Recompute recompute;
	Loc loc; /* its line in a .plan file, for diagnostics; no part of a dump */
} Strategy;

typedef struct Stage {
	uint32_t first, count; /* instances */
	uint32_t rank, ranks;  /* first rank and how many */
	uint32_t action, nactions; /* level sched: slice of Module.actions */
	uint32_t slots;            /* microbatches in flight */
} Stage;

typedef struct Plan {
	uint32_t ranks, threads; /* threads of one rank; 0 = all the machine's */
	uint32_t microbatches;
	Schedule schedule;
	Mesh *meshes; /* [0] is the trivial mesh: mb only, degree = microbatches */
	uint32_t nmeshes;
	Strategy *runs;
	uint32_t nruns;
	Stage *stages;
	uint32_t nstages;
	bool forward_only;
	uint32_t *nodes; /* [nnodes] the cluster's nodes in the order in which ranks are counted through them; none: the file's order */
	uint32_t nnodes;
	int64_t time;    /* of a step, predicted, ns; 0: not known */
	int64_t memory;  /* of the rank that needs most, predicted, bytes; 0: not known */
	int64_t least;   /* no plan takes less, by the search that made it, ns; 0: not known */
	Name cluster;    /* it was planned for; 0: the machine at hand */
} Plan;

/* ---- schedule (level sched and below): one flat list per stage, loops kept ---- */
/* ORDER ActKind */
typedef enum ActKind {
	ACT_mb,     /* begin a loop over microbatches 0 .. count */
	ACT_layers, /* begin a loop over layers: `count` turns */
	ACT_end,    /* end the innermost loop */
	ACT_input,  /* fetch the microbatch's inputs into slot mb % slots */
	ACT_body,   /* run body `bk` of instance inst + turn * stride on slot mb % slots */
	ACT_start,  /* begin communication `comm` of instance inst + turn * stride; its buffers are in use until ACT_wait */
	ACT_wait,   /* until it is complete */
	ACT_norm,   /* all N bodies are done: sums of squares and reports of all ranks are added (world) -> gradient scale */
	ACT_COUNT
} ActKind;

/* ORDER CommKind: what an ACT_start begins. ir_comm() says which collectives and messages that is. */
typedef enum CommKind {
	CK_fwd,    /* reshard instance: its argument, in the producer's mesh -> its result */
	CK_bwd,    /* reshard instance: the cotangent of its result -> that of its argument */
	CK_param,  /* the flat parameters of an instance: all-gathered in place (ZeRO 1, 2) or into a gather buffer (3) */
	CK_grad,   /* the flat gradients of an instance: summed over what is pending; ZeRO 2, 3: added to this rank's range */
	CK_lend,   /* `inst` is a borrowed parameter: the owner's values -> the copy */
	CK_return, /* `inst` is a borrowed parameter: the copy's gradient -> added to the owner's */
	CK_COUNT
} CommKind;

typedef struct Action {
	ActKind kind;
	BodyKind bk;
	CommKind comm;
	uint32_t count;
	uint32_t inst;
	int32_t stride; /* instances per turn of the innermost ACT_layers; 0 outside */
	uint32_t mb;    /* microbatch = turn of the enclosing ACT_mb + mb; of ACT_mb: 0 */
} Action;

/* ---- memory (level mem): one arena per rank, the same for all ranks of a stage; every offset in bytes, 64-aligned ----
 *   param | grad | m | v | master | const | slots x (inputs, slot frames) | cotangents | gather | dwork | carry | scratch
 *
 * The trained parameters an instance owns, if their gradients are summed over ranks, lie end to end in its FLAT (ir_flat), padded
 * to a multiple of 64 bytes per rank of dp. In front of all flats lies the rest: what is updated here alone (in every section),
 * what is borrowed (param and grad), what is frozen (param; with one rank it is in every section), at one offset in each.
 * A section that ZeRO splits (param: 3; grad: 2, 3; m, v: 1, 2, 3) holds of every flat only this rank's range, of
 * flat_bytes / dp: rank c of dp has bytes [c, c + 1) * flat_bytes / dp of it. Where weights are bf16, m, v and master are float32:
 * offsets and bytes in them are twice those (ir_section_scale). */
typedef struct Cot { /* where the cotangent of result (inst, r) lives */
	int64_t at;
	int64_t alt;  /* added when the instance's index is odd: neighbours take turns; 0 = a buffer of its own */
	bool shared;  /* several uses: zeroed first, contributions are added */
} Cot;

/* ORDER Section: what is kept of each parameter. */
typedef enum Section { SEC_param, SEC_grad, SEC_m, SEC_v, SEC_master, SEC_COUNT } Section;

typedef struct Memory { /* of one stage; what belongs to other stages is -1 */
	int64_t arena_bytes, live_bytes; /* height; most bytes alive at once */
	int64_t sec[SEC_COUNT];          /* section starts; -1: the program has none */
	int64_t sec_bytes[SEC_COUNT];
	int64_t consts, slots, slot_bytes, cots, carry, scratch;
	int64_t gather, gather_bytes; /* ZeRO 3: two buffers of gather_bytes; an instance's flat is in number inst % 2 */
	int64_t dwork, dwork_bytes;   /* ZeRO 2, 3: two buffers of a flat's gradients before they are reduced; likewise */
	int64_t *flat_bytes;          /* [ninsts] of the whole flat, padded; 0: nothing in it */
	int64_t *flat_at[SEC_COUNT];  /* [ninsts] in the section: of the flat, or of this rank's range of it; -1 */
	int64_t *param_at; /* [nparams] in a flat: offset in it (then in_flat); else offset in each section that has it */
	bool *in_flat;     /* [nparams] */
	int64_t *const_at; /* [nconsts] from consts */
	int64_t *input_at; /* [ninputs] in a slot; -1: not read by this stage */
	int64_t *slot_at;  /* [ninsts] frame of the instance in a slot */
	int64_t *back_at;  /* [ninsts] of a reshard whose cotangent is added to a shared one: where it arrives, from cots; -1 */
	uint32_t *cot_of;  /* [ninsts] first index into cot[] of the instance's results */
	Cot *cot;
	uint32_t ncot;
} Memory;

/* ---- module ---- */
typedef struct AxisDef {
	Name name; /* unique; an axis of a body whose name is taken with another extent is "half.2" */
	int64_t extent;
	Loc loc;
} AxisDef;

typedef struct Report { /* values the forward block returns; [0] is the loss */
	Name name;
	Ref ref;
} Report;

typedef struct Module {
	Arena *arena;
	Names *names;
	Level level;
	Name model;
	Name source;          /* basename of the GDL file */
	uint64_t source_hash; /* of its text and --set values */
	AxisDef *axes;
	uint32_t naxes, caxes; /* [1..naxes) */
	Axis batch;            /* the samples of one step */
	Input *inputs;
	uint32_t ninputs, cinputs; /* [0..) */
	Param *params;
	uint32_t nparams, cparams;
	Type *consts; /* module constant tensors, made by bodies[const_body] */
	uint32_t nconsts, cconsts;
	uint32_t const_body;
	Body *bodies;
	uint32_t nbodies, cbodies; /* [1..) */
	LayerType *types;
	uint32_t ntypes, ctypes;
	Instance *insts;
	uint32_t ninsts, cinsts;
	Report *reports;
	uint32_t nreports, creports;
	Train train;
	Plan plan;
	Action *actions;
	uint32_t nactions, cactions;
	Memory *mem; /* [plan.nstages] level mem */
} Module;

/* ---- what a compilation carries around ---- */
typedef struct Options Options; /* frontend/main.c's; passes see what they need through Ctx */

typedef struct Ctx {
	Arena *perm; /* lives as long as the compilation */
	Arena *tmp;  /* reset by the pass runner after every pass */
	Names *names;
	Diag *diag;
	DType precision;       /* 0: as the model says */
	Recompute recompute;   /* asked for on the command line */
	bool recompute_given;  /* ... at all; otherwise the plan pass chooses the least that fits */
	uint32_t microbatches; /* asked for; 0 = choose */
	uint32_t threads;      /* 0 = all */
	uint32_t ranks;        /* asked for; 0 = one, or as many as --plan says */
	bool ranks_auto;       /* the best of 1 .. the cores this process may use */
	Schedule schedule;     /* asked for */
	bool schedule_given;   /* ... at all */
	int64_t memory_bytes;  /* limit of one rank's arena; 0 = 80 % of this machine's memory */
	bool forward_only;
	bool bf16_as_f32; /* set by the front end: the model says bf16, which the host computes in f32 */
	const char *plan_path; /* --plan; NULL = search */
	bool explain;          /* the plan pass says on stdout what it tried */
	const struct Cluster *cluster; /* --cluster (ir/cluster.h); NULL: the machine at hand */
	const struct Profile *profile; /* --profile; NULL: the roofline */
	uint32_t max_tp;               /* --max-tp; 0: any */
	uint32_t stages;               /* --stages; 0: choose */
	uint32_t max_zero;             /* 1 + --max-zero; 0: any */
	const char *why;       /* set by the plan pass where it chose the number of ranks: what it compared */
	struct SearchLog *log; /* set by the plan pass: what it saw (passes/search_log.h) */
} Ctx;

/* ==== axis.c / type.c ==== */
Axis ir_axis(Module *m, Name name, int64_t extent, Loc loc); /* the axis of that name and extent; makes it, "x.2" on a clash */
Axis ir_axis_find(const Module *m, Name name);               /* by unique name; NO_AXIS */
int64_t ir_extent(const Module *m, Axis a);
const char *ir_axis_str(const Module *m, Axis a);

bool axes_has(const AxisList *l, Axis a);
bool axes_add(AxisList *l, Axis a); /* false: full; no duplicate is added */
AxisList axes_of(const Type *t);

const char *dtype_str(DType dt);
DType dtype_parse(const char *s); /* DT_none if unknown */
int dtype_bytes(DType dt);        /* bool 1, bf16 2, i32 f32 4, f64 8 */
bool dtype_float(DType dt);

int type_find(const Type *t, Axis a); /* position of axis a, -1 */
bool type_equal(const Type *a, const Type *b);          /* the same in every field, order too */
bool type_same_axes(const Type *a, const Type *b);      /* as sets */
void type_push(Type *t, AxisUse u);
bool type_remove(Type *t, Axis a); /* false: not there */
/* Local extents under a mesh (NULL: global). Bytes are of the local tensor. */
int64_t type_extent(const Module *m, const Mesh *mesh, const Type *t, int k);
int64_t type_count(const Module *m, const Mesh *mesh, const Type *t);
int64_t type_bytes(const Module *m, const Mesh *mesh, const Type *t);

/* ==== module.c: building and walking ==== */
extern const OpInfo op_info[OP_COUNT];
extern const struct AttrInfo { const char *text; AttrKind kind; } attr_info[AK_COUNT];
extern const char *const level_str[LV_COUNT], *const port_str[PORT_COUNT], *const body_str[BK_COUNT],
    *const mesh_kind_str[MX_COUNT], *const recompute_str[3], *const schedule_str[2],
    *const comm_str[CK_COUNT];
bool port_is_in(PortKind k);

Module *ir_module(Arena *a, Names *n);
Module *ir_clone(const Module *m, Arena *a);
Body ir_body(Name name, BodyKind kind);
uint32_t ir_add_body(Module *m, Body b);
const Mesh *ir_mesh(const Module *m, const Body *b); /* NULL above level spmd */
/* A new value; `hint` is made unique ("h", "h.2"). */
Val ir_val(Module *m, Body *b, Name hint, Type t);
Val ir_port(Module *m, Body *b, PortKind kind, uint16_t slot, Name hint, Type t); /* in-port with a new value */
void ir_out(Module *m, Body *b, PortKind kind, uint16_t slot, Val v);
/* First port of that kind and slot; NULL. */
Port *ir_find_port(const Body *b, PortKind kind, uint16_t slot);
/* ... of a body of a layer type, or of an instance's; NULL also if there is no such body. */
Port *ir_type_port(const Module *m, const LayerType *l, BodyKind k, PortKind kind, uint32_t slot);
Port *ir_inst_port(const Module *m, uint32_t inst, BodyKind k, PortKind kind, uint32_t slot);
bool ir_is_reshard(const Module *m, uint32_t inst);

/* Appends an op; result types come from infer. Attributes are given by ATTR_ makers. On a type error returns none
 * after one diagnostic through `d` (ICE if d is NULL: a pass made an ill-typed op). */
typedef struct OpArgs {
	OpCode code;
	const Val *in;
	int nin;
	const Attr *attrs;
	int nattr;
	Name hint; /* of the first result */
	Loc loc;
	const Type *want; /* result type where the order of axes is free (dot, broadcast, elementwise, view...): checked, then used; or NULL */
} OpArgs;
Op *ir_emit(Module *m, Body *b, Diag *d, const OpArgs *args); /* valid until the next ir_emit on b */
/* Shorthands that return the first result; loc and hint are taken from `like` ops by passes that rewrite. */
Val ir_op1(Module *m, Body *b, OpCode code, Val x, Loc loc);
Val ir_op2(Module *m, Body *b, OpCode code, Val x, Val y, Loc loc);
Val ir_const(Module *m, Body *b, DType dt, double value, Loc loc);
Val ir_sum(Module *m, Body *b, Val x, const AxisList *axes, Loc loc);
Val ir_dot(Module *m, Body *b, Val x, Val y, const AxisList *axes, const Type *want, Loc loc);

Attr attr_make_num(AttrKey k, double v);
Attr attr_make_int(AttrKey k, int64_t v);
Attr attr_make_axis(AttrKey k, Axis a);
Attr attr_make_axes(AttrKey k, const AxisList *l);
Attr attr_make_dtype(AttrKey k, DType dt);
const Attr *attr_find(const Op *op, AttrKey k); /* NULL */
double attr_num(const Op *op, AttrKey k);       /* ICE if absent, as below */
int64_t attr_int(const Op *op, AttrKey k);
int64_t attr_int_or(const Op *op, AttrKey k, int64_t fallback);
Axis attr_axis(const Op *op, AttrKey k);
const AxisList *attr_axes(const Op *op, AttrKey k);

const Type *val_type(const Body *b, Val v);
const char *val_str(const Module *m, const Body *b, Val v);
const Op *val_op(const Body *b, Val v); /* NULL for ports */
/* uses[v] = how often v is read by ops and out-ports; array of nvals in arena. */
uint32_t *body_uses(const Body *b, Arena *a);
/* Deletes ops no out-port depends on, and the values and in-ports nobody reads; renumbers. True if anything went. */
bool body_dce(Module *m, Body *b);

int64_t ir_param_count(const Module *m);                                     /* elements of all parameters, copies not counted */
int64_t ir_param_entries(const Module *m, uint32_t param, int64_t *shape, int *ndims); /* file entries and their shape */

/* ==== access.c: views as strides ====
 * A value as base + offset + sum(index * stride), in elements, along its axes in type order; base has a buffer. False
 * where it cannot be expressed (merge of far axes, roll, gather, arithmetic): then it needs a buffer of its own. */
typedef struct Access {
	Val base;
	int64_t offset;
	int64_t stride[MAX_AXES];
} Access;
bool ir_access(const Module *m, const Body *b, Val v, Access *out);

/* ==== ranks.c: which rank has what ==== */
const Strategy *ir_run_of(const Module *m, uint32_t inst);  /* NULL: in no run */
uint32_t ir_stage_of(const Module *m, uint32_t inst);       /* plan.nstages: in none */
unsigned ir_dp_mask(const Mesh *mesh);                      /* bit k: mesh axis k is dp, of degree > 1 */
uint32_t ir_dp_degree(const Mesh *mesh);                    /* of all dp axes together; 1 without */
uint32_t ir_degree(const Mesh *mesh, unsigned axes);        /* product over bits 1.. of `axes` (mb left out) */
unsigned ir_split(const Type *t);                           /* bit k: some axis of t is split over mesh axis k */
int ir_zero(const Module *m, uint32_t inst);                /* of its run; 0 where dp has degree 1 */
/* Coordinates of rank `rank` of a stage (ranks of all stages are counted through): [0] = 0, the microbatch; the last axis runs fastest. */
void ir_coords(const Stage *s, const Mesh *mesh, uint32_t rank, uint32_t coord[MAX_MESH]);
uint32_t ir_rank_at(const Stage *s, const Mesh *mesh, const uint32_t coord[MAX_MESH]);
/* Its place among the group of `axes` it is in: mixed radix over those, the last fastest. */
uint32_t ir_group_index(const Mesh *mesh, unsigned axes, const uint32_t coord[MAX_MESH]);
/* Global positions [lo, hi) a rank has of axis k of t; hi <= lo where all of it is padding. */
void ir_part(const Module *m, const Mesh *mesh, const Type *t, int k, const uint32_t coord[MAX_MESH], int64_t *lo, int64_t *hi);
const Mesh *ir_inst_mesh(const Module *m, uint32_t inst);   /* of its bodies; NULL above level spmd */
const Mesh *ir_param_mesh(const Module *m, uint32_t param); /* its type's: the mesh of the instance that owns it (of a copy: its first user) */
bool ir_mesh_alike(const Mesh *x, const Mesh *y); /* of one shape: kinds and degrees */
const Mesh *val_mesh(const Module *m, const Body *b, Val v); /* a value's type's: ir_mesh but for what of a reshard is the producer's */

/* The flat of an instance (level spmd on): the trained parameters it owns, end to end. One definition for all. */
typedef struct FlatSpan { /* of the flat, with a gradient that is also pending over mesh axes that are not dp */
	unsigned over;
	int64_t at, bytes;
} FlatSpan;
typedef struct Flat {
	uint32_t n;
	uint32_t *param; /* [n] */
	int64_t *at;     /* [n] bytes, in the flat; multiples of 64 */
	int64_t *size;   /* [n] bytes of this rank's part of the parameter */
	int64_t bytes;   /* of the whole flat, a multiple of 64 * dp; 0: nothing in it */
	uint32_t dp;     /* its degree */
	unsigned dp_mask;
	int zero;
	uint32_t nspans;
	FlatSpan *span; /* first in the flat, one for each different `over` */
	DType dt;
} Flat;
Flat ir_flat(const Module *m, Arena *a, uint32_t inst);
bool ir_flat_split(int zero, Section s); /* does a rank keep only its range of the section? */
/* What the optimizer keeps of a weight is float32 at least. Of a module's weights all are bf16 or none: sections of state are then
 * twice as long, and so are the offsets of parameters and flats in them. */
Type ir_state_type(const Type *weight);
int64_t ir_section_scale(const Module *m, Section s);

/* ==== comm.c: what is sent to whom ==== (level spmd on)
 * One description for interpreter, verifier, codegen and manifest. Every communication is a list of PRIMS: collectives of
 * a communicator, and exchanges of boxes between the ranks of two meshes. */
typedef enum PrimKind { PR_all_reduce, PR_reduce_scatter, PR_all_gather, PR_all_to_all, PR_exchange, PR_COUNT } PrimKind;

/* A group of ranks within a stage, as digits of (rank - stage.rank): its members are where all other digits agree. */
typedef struct Digit { uint32_t stride, degree; } Digit; /* outermost first; adjacent ones merged, degree > 1 */
typedef struct CommGroup {
	uint8_t n;
	Digit d[MAX_MESH];
} CommGroup;

/* The communicators of a program, made in this order by all ranks: entry 0 is the world; entry e splits the ranks of
 * every stage that has it by group[e * nstages + stage]. Equal sets of ranks are one entry; the j-th of one stage and of
 * another are one entry. Ranks of a stage without it (n = 0) take no part. */
typedef struct CommTable {
	uint32_t n, nstages;
	CommGroup *group;
} CommTable;
CommTable ir_comms(const Module *m, Arena *a);
/* The entry of the group over mesh axes `over`; -1: the group is one rank, nothing is sent. */
int ir_comm_find(const Module *m, const CommTable *t, uint32_t stage, const Mesh *mesh, unsigned over);
uint32_t ir_comm_size(const Module *m, const CommTable *t, int comm, uint32_t stage);
/* Ranks of the group that `rank` is in, ascending: member[ir_comm_size]. Returns which of them `rank` is. */
uint32_t ir_comm_members(const Module *m, const CommTable *t, int comm, uint32_t rank, uint32_t *member);

typedef struct Side { /* of an exchange */
	uint32_t stage;
	const Mesh *mesh;
	Type type; /* pending sums: `from` has none but mb; of `to`, only ranks with coordinate 0 there receive */
} Side;

typedef struct Prim {
	PrimKind kind;
	int comm;       /* collectives */
	bool max;       /* all_reduce: the greatest, not the sum */
	bool add;       /* the result is added to what is there (exchange: into a gradient; reduce_scatter: ZeRO 2, 3) */
	DType dt;
	int64_t count;  /* collectives: elements of one rank: all_reduce and reduce_scatter of the operand, all_gather of the part a rank gives, all_to_all of all it gives */
	int64_t at;     /* CK_grad, CK_param: bytes, where in the flat */
	Side from, to;  /* exchange */
	CommKind channel; /* exchange: messages of (from.stage, to.stage, channel) keep their order */
} Prim;
enum { MAX_PRIMS = 8 };
/* What an ACT_start of a stage begins, in order; `i` is an instance or, for CK_lend and CK_return, a parameter. 0: nothing, for this stage. */
uint32_t ir_prims(const Module *m, const CommTable *t, uint32_t stage, CommKind kind, uint32_t i, Prim out[MAX_PRIMS]);
bool ir_op_prim(const Module *m, const CommTable *t, uint32_t stage, const Body *b, const Op *op, Prim *out); /* false: nothing is sent */
bool ir_norm_prim(const Module *m, Prim *out); /* of ACT_norm: sum of squares, whether to stop, time waited, and reports; doubles, over the world */

/* What one rank sends (or receives, from == to included: a copy) in an exchange: boxes of global positions within a microbatch,
 * along the axes of Side.type of `from` in order; elements in row-major order. At most one for each pair of ranks. */
typedef struct Piece {
	uint32_t from, to;
	int64_t lo[MAX_AXES], hi[MAX_AXES];
	int64_t count;
} Piece;
bool ir_sides_alike(const Prim *p); /* both sides of an exchange lie alike: it goes rank for rank, whatever is pending */
uint32_t ir_pieces(const Module *m, const Prim *p, uint32_t rank, bool sending, Arena *a, Piece **out);

/* ==== infer.c ==== */
/* Result types of an op from its operands and attributes. False after one diagnostic (NULL diag: ICE). */
bool ir_infer(const Module *m, const Body *b, const Op *op, Diag *d, Type out[MAX_OUT]);
/* Whether the first result, inferred as t, may be typed `have`: the same but for what the op leaves open: the order of
 * axes, shards of axes it makes (pos, broadcast), the dtype of a constant, a share (x / degree) read as a pending sum. */
bool ir_fits(const Op *op, const Type *t, const Type *have);

/* ==== print.c, parse.c, equal.c ==== */
void ir_print(const Module *m, Buf *out);
void ir_print_type(const Module *m, const Mesh *mesh, const Type *t, Buf *out);
void ir_print_op(const Module *m, const Body *b, const Op *op, Buf *out); /* one line, no newline, no place */
Module *ir_parse(Arena *a, Names *n, Diag *d, Name file, const char *text, size_t len); /* NULL after diagnostics */
bool ir_equal(const Module *a, const Module *b, Buf *why);
uint64_t ir_hash(const Module *m); /* of the printed text */
bool ir_body_equal(const Module *m, const Body *a, const Body *b); /* structure only */

/* ==== plan.c ==== */
void plan_print(const Module *m, Buf *out);
/* For people, a few lines: stages, microbatches, recompute, memory by section. */
void plan_summary(const Module *m, Buf *out);
/* Reads a .plan text against the module's instances; false after diagnostics. */
bool plan_parse(Module *m, Diag *d, Name file, const char *text, size_t len);

/* ==== verify.c ==== */
/* Invariants of a level; ICE-free: problems are diagnostics at the op's place, prefixed by `who` (the pass or file). */
bool ir_verify(const Module *m, Diag *d, const char *who);

/* ==== rng.c: counter-based random numbers, the same as runtime/rng.c by test ==== */
typedef struct Philox { uint32_t r[4]; } Philox;
Philox rng_philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo);
uint64_t rng_key(uint64_t seed, const char *name); /* of a parameter or dropout site */
double rng_normal(uint64_t key, uint64_t index);   /* element index of a parameter */
double rng_uniform(uint64_t key, uint64_t index);  /* [0, 1) */
uint32_t rng_bits(uint64_t key, uint64_t step, uint64_t index); /* dropout: keep if bits >= rate * 2^32 */

/* ==== eval.c: the interpreter ==== */
typedef struct Eval Eval;

/* An action of one rank, loops spelled out, and what tests of safety do to it. */
typedef struct Step {
	Action a;       /* no loop; `inst` and `mb` are the ones meant */
	int32_t peer;   /* ACT_start: its peers are this many ranks further on in their stage */
	int32_t resize; /* ACT_start: its messages are this many elements longer */
	int32_t slot;   /* it works in the slot this many further on */
	int64_t shift;  /* level mem, ACT_start: what it receives into lies this many bytes further on */
} Step;
typedef struct Steps {
	Step *s;
	uint32_t n;
	const uint32_t *comms; /* NULL: communicators are made in the table's order; else in this one: [ncomms] entries */
	uint32_t ncomms;
} Steps;
Steps ir_expand(const Module *m, uint32_t stage, Arena *a); /* a stage's table, spelled out (level sched on) */
/* Steps of every rank, which may differ within a stage: are communicators made by all in one order; does all that runs find
 * what it reads; does it end? */
bool ir_verify_expanded(const Module *m, const Steps *ranks, uint32_t n, Diag *d);

typedef struct EvalOptions {
	bool f64;          /* arithmetic in double, else float rounded at every op */
	uint64_t seed;     /* of initial weights and dropout */
	bool train;        /* dropout on */
	uint32_t ranks;    /* virtual ranks; checked against the plan from level spmd on */
	bool adversarial;  /* ranks and messages in the least convenient order */
	uint32_t order_seed;
	const Steps *program; /* [ranks] run instead of the stages' tables; NULL: those */
} EvalOptions;

Eval *eval_new(const Module *m, const EvalOptions *o, Diag *d);
void eval_free(Eval *e);
/* Global (logical, row-major in declared axis order) contents. Names are parameters' or inputs'. False: no such name or wrong count. */
bool eval_set(Eval *e, const char *name, const double *x, size_t n);
size_t eval_get(const Eval *e, const char *name, const double **x); /* parameter, "grad:NAME", "m:NAME", report name */
/* One forward pass (level graph), or forward and backward of all microbatches (train and below); loss of the whole batch. */
bool eval_run(Eval *e, double *loss);
/* The update after eval_run: clipping, learning rate of step t (from 0). Returns the gradient norm before clipping. */
bool eval_update(Eval *e, uint64_t t, double *norm);
/* One body on given values, for op tests: in[p] for in-ports in order, out[p] for out-ports in order, arena-owned. */
bool eval_body(const Module *m, const Body *b, const EvalOptions *o, const double *const *in, double **out, Arena *a, Diag *d);

double train_rate(const Train *t, uint64_t step); /* learning rate of step (from 0): the meaning of every schedule */

#endif
