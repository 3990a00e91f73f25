/*
 * elab.h - elaboration: from the syntax tree to a Module at level graph. Private to frontend/.
 *
 * One walk over the tree does everything: it computes numbers, unrolls loops, inlines functions and emits ops. Every
 * layer call elaborates its body anew with its arguments; bodies that come out alike become one layer type (layer.c).
 *
 * A value is a number, a tensor of the body that is being made, or a constant: a tensor computed from positions and
 * numbers only, whose ops are in the module's const body. Constants are moved into a body when an op there reads them
 * (value.c), so how they were computed can be looked at first: that is how gathers become slices and rolls (index.c)
 * and masks become bands (attention.c).
 *
 * Errors never cascade: an erroneous expression is V_poison, whatever reads poison is poison without a word, and one
 * place is complained about once.
 */
#ifndef GV_ELAB_H
#define GV_ELAB_H

#include "frontend/ast.h"
#include "frontend/frontend.h"

enum {
	FE_MAX_STEPS = 1 << 20, /* expressions and statements evaluated in one compilation */
	FE_MAX_CALLS = 64,      /* functions inside functions */
	FE_MAX_NAME = 1000,     /* characters of a parameter's name */
	FE_MAX_NEST =
	    700, /* expressions, blocks and calls inside each other: bounds the stack */
	FE_MAX_VALUES = 8, /* results of one call */
	FE_MAX_ARGS = 16,
	FE_MAX_GROUPS = 8,
	FE_MAX_TURNS = 1 << 16, /* of one loop */
	FE_MAX_AXES = 1 << 14,  /* of a module */
};
#define FE_MAX_EXTENT   2147483647.0
#define FE_MAX_ELEMENTS ((int64_t)1 << 50)

/* ---- names -> something (scope.c) ---- */
typedef struct Map {
	Name *key;
	uint32_t *val;
	uint32_t n, cap;
} Map;

uint32_t map_get(const Map *t, Name key); /* 0: not there */
void map_put(Arena *a, Map *t, Name key, uint32_t val);

/* ---- values ---- */
typedef enum VKind {
	V_poison, /* an error was reported */
	V_number, /* num; is_bool */
	V_tensor, /* v in the body being made */
	V_const,  /* v in the const body */
	V_ref,    /* in `forward`: what a layer returned, or an input; ref */
	V_init,   /* normal, uniform: init */
} VKind;

typedef struct ValueRef ValueRef;
typedef struct Value {
	VKind kind;
	bool is_bool;
	double num;
	Val v;
	Axis range;    /* of type `index range` */
	double lo, hi; /* every element lies in lo..hi, ends included */
	const ValueRef *ref;
	InitKind init;
	double init_a, init_b;
} Value;

typedef struct Values {
	int n;
	Value v[FE_MAX_VALUES];
	Name name[FE_MAX_VALUES]; /* of the variable that was returned, for reports; 0 */
} Values;

/* ---- symbols (scope.c) ---- */
typedef enum SymKind {
	SY_gone,
	SY_axis,
	SY_value,
	SY_input,
	SY_param,
	SY_def,
	SY_layer
} SymKind;

typedef struct Sym {
	Name name;
	SymKind kind;
	bool poison;      /* its declaration is in error */
	Span at;          /* of its name where it was declared or bound last */
	AxisList axes;    /* SY_axis: the group */
	Value value;      /* SY_value */
	uint32_t index;   /* SY_input: Module.inputs; SY_param: Elab.shared */
	const Node *node; /* SY_def, SY_layer */
	bool seen_call;   /* SY_def: being elaborated */
} Sym;

typedef struct Scope {
	Sym *sym; /* [1..n) */
	uint32_t n, cap;
	Map map;
} Scope;

/* What is being read: the model or the prelude. */
typedef struct Source {
	Name file;
	const char *text;
	size_t len;
	Node *items;
	Scope top;
} Source;

/* ---- where elaboration is ---- */
typedef struct Frame Frame;
struct Frame {
	Frame *caller; /* NULL: the top of a source */
	Source *src;
	Scope local;      /* unused at the top: Source.top is it */
	const Node *decl; /* the def, layer or forward */
	Loc call;  /* the user's call that led into the prelude; line 0 in the user's text */
	Name path; /* prefix of its parameters inside the instance */
	Axis per;  /* `per expert` */
	bool per_index;
	Value per_at;
	int depth;
	Axis *own; /* axes declared here: may not be in its result */
	uint32_t nown, cown;
	bool returned;
	Span return_at;
	Values result;
};

/* A parameter declared at the top, before an instance reads it. */
typedef struct Shared {
	Param p;
	Name local;
	uint32_t index; /* 1 + index in Module.params */
	Sym *sym;
} Shared;

/* Tensors of `forward` live in no body: a use of them is a reference and what to do with it once it is inside one. */
struct ValueRef {
	Ref ref;
	Type type;
	Value value;          /* what is known of its range */
	const ValueRef *base; /* an indexed one: of what */
	const Node *subs;     /* and how */
	const Value *given;   /* its indices */
	Frame *frame;
	Span at;
};

typedef struct Weight {
	uint32_t param; /* Module.params */
	Name local;
	Val v; /* as read in the body */
} Weight;

/* Of a parameter: its path inside the instance that declares it, or all of its name. */
typedef struct Owned {
	Name local;
	uint32_t inst;
	bool shared;
} Owned;

typedef struct Called {
	Name layer;
	bool has_path; /* an `as` was given */
} Called;

typedef struct Made {
	Name layer;
	uint32_t inst; /* the first of the type */
} Made;

typedef struct OwnAxis {
	const Node *decl;
	int64_t extent;
	Axis a;
} OwnAxis;

typedef struct Elab {
	Ctx *ctx;
	const FeOptions *opt;
	Arena *arena;
	Module *m;
	DType model; /* precision of the model */
	DType kept;  /* of parameters: high, or bf16 under `weights = bf16` */
	DType high;  /* f32, f64 under --precision f64: parameters, constants, inputs */
	Source user, prelude;
	Frame top;
	const Node *model_item, *forward, *train;
	bool *set_used;
	uint32_t steps;
	int nest;
	bool over; /* a limit was hit: everything is poison from here */
	Loc *told; /* places complained about */
	uint32_t ntold, ctold;
	OwnAxis *own; /* axes declared in bodies */
	uint32_t nown, cown;

	Body konst;
	Map konst_ops; /* hash of an op -> 1 + its index */
	Map slots;     /* Val of the const body -> 1 + slot of the module's constant */
	Val *slot_val; /* and back */
	uint32_t nslot_val, cslot_val;

	/* the body that is being made; body_open: there is one */
	bool body_open;
	Body body;
	Map hint;     /* Val -> the variable it was bound to */
	Map local_of; /* Val of the const body -> Val of the body that stands for it */
	Map input_of; /* 1 + input -> Val */
	Weight *weights;
	uint32_t nweights, cweights;
	Ref *args;
	uint32_t nargs, cargs;
	double *rates;
	uint32_t nrates, crates;

	Shared *shared;
	uint32_t nshared, cshared;
	Owned *owned; /* by param */
	uint32_t nowned, cowned;
	Called *called; /* by instance */
	uint32_t ncalled, ccalled;
	Made *made; /* by layer type */
	uint32_t nmade, cmade;
} Elab;

/* ---- scope.c: symbols, errors ---- */
Scope *frame_scope(Frame *f);
Sym *scope_find(const Scope *s, Name name); /* NULL */
Sym *scope_add(Elab *e, Scope *s, Name name, SymKind k, Span at);
Sym *lookup(Frame *f, Name name); /* local, then the top of its source; NULL */
Loc loc_of(const Elab *e, const Frame *f,
	   Span at); /* in the user's text: a prelude place is the call that led there */
/* Marks the place; false if it was. */
bool tell_once(Elab *e, Loc at);
/* False: this place has been complained about before; then no note must follow. */
bool fe_error(Elab *e, const Frame *f, Span at, const char *fmt, ...) GV_PRINTF(4, 5);
void fe_note(Elab *e, const Frame *f, Span at, const char *fmt, ...) GV_PRINTF(4, 5);
void fe_unknown(Elab *e, const Frame *f, Span at, Name name,
		bool function); /* "no such name", "did you mean" */
Name closest(Elab *e, Name name, const Name *candidates, uint32_t n); /* 0: none is near */
const char *text_of(const Elab *e, const Frame *f, Span at); /* of the source, on one line */
const char *str(const Elab *e, Name n);
const char *axes_text(const Elab *e, const AxisList *l);  /* "batch seq" */
const char *type_axes_text(const Elab *e, const Type *t); /* "[batch seq]" */
const char *num_text(const Elab *e, double x);
/* A declaration of `name` here: may it be? Reports if not. */
bool may_declare(Elab *e, Frame *f, Name name, Span at, SymKind k);
/* Goes one level deeper; false when that is too deep. */
bool nest(Elab *e, const Frame *f, Span at);
/* Counts one step of work; false when the compilation is to stop. */
bool step(Elab *e, const Frame *f, Span at);

/* ---- number.c ---- */
Value number(double x);
Value boolean(bool x);
Value poison(void);
bool is_whole(double x);
Value number_binary(Elab *e, Frame *f, const Node *n, Value x, Value y);
/* Elementwise function of a number; `name` for messages. */
Value number_function(Elab *e, Frame *f, Span at, OpCode code, double x);
/* A whole number in lo..hi, for extents, bounds and the like: *out. Reports what it is instead. */
bool whole_number(Elab *e, Frame *f, const Node *n, Value v, const char *what, double lo,
		  double hi, double *out);
bool any_number(Elab *e, Frame *f, Span at, Value v, const char *what, double *out);

/* ---- value.c: tensors ---- */
const Body *body_of(const Elab *e, Value v);
Type type_of(const Elab *e, Value v); /* V_tensor, V_const; a number's: no axes */
bool is_tensor(Value v);              /* V_tensor or V_const */
bool in_body(Elab *e, Frame *f, Span at,
	     Value *v); /* a V_ref cannot be computed with: reports */
Value tensor_value(const Elab *e, Val v,
		   bool konst); /* with what is known of its range from its type only */

typedef struct EmitArgs {
	OpCode code;
	const Value *in; /* tensors (and numbers, made constants of `dt`) */
	int nin;
	const Attr *attrs;
	int nattr;
	DType dt; /* cast operands in[0..ncast) to it; DT_none: leave */
	int ncast;
	const Type *want; /* order of axes of the first result; NULL */
	bool here;        /* never in the const body */
} EmitArgs;
/* Appends an op to the body, or to the const body if all operands are constants. False after a diagnostic. */
bool emit(Elab *e, Frame *f, Span at, const EmitArgs *a, Value *out, int nout);
Value emit1(Elab *e, Frame *f, Span at, OpCode code, Value x);
Value emit2(Elab *e, Frame *f, Span at, OpCode code, Value x, Value y, DType dt);
Value cast(Elab *e, Frame *f, Span at, Value x, DType dt);
Value constant(Elab *e, double x, DType dt);            /* a number as V_const without axes */
Val localise(Elab *e, Value v, Loc at);                 /* a V_const as a value of the body */
uint32_t const_slot(Elab *e, Val v);                    /* slot of the module's constant */
DType float_type(const Elab *e, const Value *v, int n); /* in which operands meet */
void set_bounds(Value *v, double lo, double hi);
void forget_bounds(Value *v);
Axis own_axis(Elab *e, const Node *decl, const char *name, int64_t extent, Loc at);

/* ---- index.c ---- */
typedef struct Affine { /* sum of c[i] * pos[a[i]] + c0 */
	int n;
	Axis a[4];
	double c[4], c0;
} Affine;
bool affine_of(const Elab *e, Val konst, Affine *out);
/* `given`: the indices, evaluated before; NULL: evaluate them. */
Value index_tensor(Elab *e, Frame *f, const Node *subs, Span at, Value x, const Value *given);
/* Gathers along axes[k] at idx[k], as slices and rolls where it can be. */
Value index_at(Elab *e, Frame *f, Span at, Value x, const AxisList *axes, const Value *idx,
	       const Span *idx_at);
Value rename_axis(Elab *e, Frame *f, Span at, Value x, Axis from, Axis to);
bool names_axes(Elab *e, Frame *f, const Node *names,
		AxisList *out); /* groups expanded; reports what is no axis */

/* ---- call.c ---- */
typedef struct Call {
	const Node *node; /* N_call, or N_index for a call without arguments */
	Name name;
	Span at; /* of the name */
	const Node *subs, *args, *tail;
	AxisList group[FE_MAX_GROUPS];
	int ngroups;
	Value arg[FE_MAX_ARGS];
	Span arg_at[FE_MAX_ARGS];
	const Node *arg_node[FE_MAX_ARGS]; /* NULL: the default */
	int nargs;
} Call;

typedef struct Formal {
	const char *name;
	enum { F_required, F_number, F_bool, F_computed } kind;
	double value;
} Formal;

void call_of(const Node *n, Call *c);
/* Brackets against a signature such as "K,D" or "a,b>c" ("?A": may be left out). False after a diagnostic. */
bool match_groups(Elab *e, Frame *f, Call *c, const char *sig, const char *shown);
/* Arguments by place and by name; arg_node[] filled. names[n] of the formals. */
bool match_args(Elab *e, Frame *f, Call *c, const Name *names, int n);
/* The same against a table, evaluated; defaults are put in. */
bool bind_formals(Elab *e, Frame *f, Call *c, const Formal *formals, int n);
/* A call of a def or layer: first its brackets and arguments, in the caller; then they are bound in the callee. */
bool call_prepare(Elab *e, Frame *f, Call *c, Sym *sym);
bool call_bind(Elab *e, Frame *caller, Frame *callee, Call *c, Sym *sym);
void call_def(Elab *e, Frame *f, Call *c, Sym *sym, Name bound_to, Values *out);
/* "swiglu[D, F]" */
const char *signature_text(Elab *e, const Node *decl);
/* `as` text with numbers in braces put in. False after a diagnostic. */
bool expand_name(Elab *e, Frame *f, Span at, Name text, Name *out);
Name join_path(Elab *e, Name prefix, Name part);

/* ---- arith.c ---- */
typedef enum Class { C_bool, C_int, C_float } Class;
Class class_of(const Elab *e, Value v);
const char *class_text(const Elab *e, Value v);
void bound_corners(Value *r, double a, double b, double c,
		   double d); /* the least and the greatest */
Value check_int(Elab *e, Frame *f, Span at, Value r);
bool needs_numbers(Elab *e, Frame *f, Span at, const char *op, Value x); /* reports a bool */
Value elementwise1(Elab *e, Frame *f, Span at, OpCode op, Value x);
Value elementwise2(Elab *e, Frame *f, Span at, const char *text, OpCode op, Value x, Value y);
Value unary(Elab *e, Frame *f, const Node *n, Value x);
Value binary(Elab *e, Frame *f, const Node *n, Value x, Value y);
Value arithmetic(Elab *e, Frame *f, Span at, NodeKind k, Value x, Value y);

/* ---- ops.c, attention.c ---- */
typedef struct Builtin Builtin;
const Builtin *builtin_find(const char *name);
uint32_t builtin_names(const char **names, uint32_t max);
void builtin_call(Elab *e, Frame *f, Call *c, const Builtin *b, Values *out);
void op_attention(Elab *e, Frame *f, Call *c, Values *out);
uint32_t rate_slot(Elab *e, double rate);
bool rate_number(Elab *e, Frame *f, Span at, Value v, double *out);
bool need_axes(Elab *e, Frame *f, const Call *c, int arg, const char *verb,
	       const AxisList *axes);

/* ---- stmt.c ---- */
Value eval(Elab *e, Frame *f, const Node *n);
void eval_many(Elab *e, Frame *f, const Node *n, Name bound_to, Values *out);
void exec_block(Elab *e, Frame *f, const Node *stmts);
void declare_axis(Elab *e, Frame *f, const Node *n);
/* A top-level name's value from --set. */
bool set_value(Elab *e, Name name, Value *out);
/* Reports results that have an axis of the body. */
void check_results(Elab *e, Frame *f);

/* ---- param.c ---- */
void declare_param(Elab *e, Frame *f, const Node *n);
Value read_shared(Elab *e, Frame *f, Span at, uint32_t shared);
void finish_params(Elab *e,
		   const uint32_t *user); /* user: 1 + first instance that reads it, by param */
Value make_init(InitKind k, double a, double b);

/* ---- layer.c ---- */
void call_layer(Elab *e, Frame *f, Call *c, Sym *sym, Values *out);
Value read_input(Elab *e, Frame *f, Span at, uint32_t input);
Value read_ref(Elab *e, Span at, const ValueRef *r); /* inside the layer that receives it */
void finish_module(Elab *e);

/* ---- train.c ---- */
void elab_train(Elab *e, Frame *f, const Node *block);
void default_train(Train *t);
DType train_dtype(Elab *e, const Node *block,
		  const char *option); /* looked up before anything else */

#endif
