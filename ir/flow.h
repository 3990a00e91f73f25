/*
 * flow.h - what the proof of a schedule is made of. Private to ir/.
 *
 * verify_flow.c   facts about a module: where its values are, what must have been added to a gradient
 * verify_shadow.c what every byte of an arena holds
 * verify_place.c  where a process has what, and what must be there
 * verify_step.c   a step of one process: bodies, inputs, norm; its begin and end
 * verify_start.c  ... what a communication reads and leaves
 * verify_comm.c   processes meet: messages, collectives, who waits for whom
 * verify_sched.c  tables and lists of steps are run through these
 *
 * A PROCESS is a stage, whose ranks all run one table, so that nothing here grows with dp or tp; or, for lists of steps
 * that differ between ranks, a rank. Its SHADOW says of every byte of the arena what it holds. A step looks whether what
 * it reads is there, and says what it leaves behind. So whatever is too early, too late, missing, or in the way shows
 * where it does harm, and only there.
 */
#ifndef GV_FLOW_H
#define GV_FLOW_H

#include "ir/text.h"

/* ORDER What; see content_str */
typedef enum What {
	HOLDS_nothing,
	HOLDS_input, /* i: of microbatch mb */
	HOLDS_frame, /* i: instance; k: a value of F that is a result or saved */
	HOLDS_carry, /* i: instance; k: slot */
	HOLDS_cot,   /* i: instance; k: result; sum: contributions so far */
	HOLDS_param, /* i: parameter (of copies, the one borrowed); k: 1 after the update */
	HOLDS_m,     /* likewise */
	HOLDS_v,
	HOLDS_master,
	HOLDS_grad,    /* i: parameter; sum: contributions so far */
	HOLDS_part,    /* i: parameter; of microbatch mb alone (ZeRO 2, 3) */
	HOLDS_reduced, /* i: parameter; summed over ranks */
	HOLDS_const,
	HOLDS_scratch,
	HOLDS_flight, /* being sent, received or summed; i: number of the request */
	HOLDS_spent,  /* was overwritten in place, or is what a sum left behind */
	HOLDS_COUNT
} What;

typedef struct Content {
	What what;
	uint32_t i, k, mb;
	uint64_t sum;
	int64_t
	    at; /* where its first byte would be: what lies a little further on is something else */
} Content;

typedef struct Extent {
	int64_t lo, hi;
	Content c;
	uint32_t step; /* that left it there; 0: from the start */
} Extent;

typedef struct Shadow {
	Arena *arena;
	Extent *e; /* in order, without gaps */
	uint32_t n, cap;
} Shadow;

/* ---- facts ---- */

typedef struct TypeFacts { /* of a layer type */
	const int64_t *out_at, *saved_at, *carry_at;
	uint32_t *out_val, *saved_val; /* the value of F whose bytes these are */
	int *passes; /* [nouts]: the argument that is handed on as this result; -1 */
	int64_t *bytes[BK_COUNT]; /* of the body's ports */
	bool *spent[BK_COUNT];    /* in-port whose buffer the body takes over */
} TypeFacts;

typedef struct Flow {
	const Verify *v;
	const Module *m;
	CommTable comms;
	const Memory *mem; /* [nstages]; above level mem one where nothing shares bytes */
	TypeFacts *type;
	Flat **flat;        /* [ninsts]; NULL: its parameters are in no flat */
	uint32_t *owner;    /* [nparams]: the parameter itself, or the one it is a copy of */
	uint32_t *res0;     /* [ninsts]: first of its results below */
	uint64_t *cot_sum;  /* all contributions to the cotangent of a result */
	uint32_t *cot_uses; /* how many */
	uint32_t *user0;    /* [nparams + 1]: who adds to its gradient: */
	struct User {
		uint32_t inst, slot;
	} * users;
	int64_t *input_bytes; /* [ninputs] of one microbatch */
} Flow;

void flow_facts(Flow *f, const Verify *v);
uint64_t flow_hash(uint64_t what, uint64_t i, uint64_t k, uint64_t mb);
enum { CONTRIB_dx = 1, CONTRIB_dw, CONTRIB_return, CONTRIB_reduced };
/* What one microbatch adds to a gradient, returns left out; all of the step's; what copies give back. */
uint64_t flow_part_sum(const Flow *f, uint32_t param, uint32_t mb);
uint64_t flow_grad_sum(const Flow *f, uint32_t param);
uint64_t flow_returns(const Flow *f, uint32_t param);
Ref flow_origin(const Flow *f, Ref r); /* of an argument handed on */

/* ---- processes ---- */

typedef struct Held {
	int64_t lo, hi;
	Content c;    /* must be there until the wait */
	Content then; /* HOLDS_nothing: it stays; else what is there after the wait */
	bool add;     /* `then` is added to what is in to_lo */
	int64_t to_lo;
} Held;

typedef struct Request {
	CommKind kind;
	uint32_t i, mb, id, step;
	Held *held;
	uint32_t nheld, cheld;
	struct Part *part;
	uint32_t nparts, cparts;
} Request;

typedef struct Proc {
	uint32_t index, stage, rank; /* rank: itself, or the first of the stage */
	const Memory *x;
	Steps steps;
	uint32_t pc, op; /* next step; in it, next operation that is a collective */
	bool posted;     /* the collective at hand is posted */
	Shadow shadow;
	uint32_t *done[BK_COUNT]; /* [ninsts]: microbatches done; N, U: times run */
	uint32_t inputs, norms, requests;
	Request *open;
	uint32_t nopen, copen;
	Request now; /* a collective of a body, or the norm */
	struct Range {
		int64_t lo, hi;
		uint32_t val;
	} * in; /* what the body at hand reads */
} Proc;

struct Meet;
typedef struct Game {
	Flow f;
	Proc *proc;
	uint32_t n;
	bool ranks; /* a process is a rank, not a stage */
	struct Meet *meet;
	bool ok;
} Game;

/* Says what is wrong with a process's step at hand; the game is over. Always false. */
bool game_wrong(Game *g, const Proc *p, const char *fmt, ...) GV_PRINTF(3, 4);
const char *step_str(const Game *g, const Proc *p, uint32_t step);

/* verify_shadow.c. Bytes [lo, hi); `verb` is what the step does there, for the diagnostic. False: the game is over. */
uint32_t shadow_find(const Shadow *s, int64_t at); /* the extent that holds a byte */
bool shadow_holds(Game *g, Proc *p, int64_t lo, int64_t hi, const Content *want,
		  const char *verb);
bool shadow_leave(Game *g, Proc *p, int64_t lo, int64_t hi, Content c);
/* Adds a contribution; over anything else it is the first: stored, or if not `store` wrong. */
bool shadow_add(Game *g, Proc *p, int64_t lo, int64_t hi, Content to, uint64_t sum, bool store);
bool content_equal(const Content *a, const Content *b);
const char *content_str(const Game *g, const Content *c);

/* verify_place.c */
typedef struct Place {
	int64_t lo, hi; /* empty: nothing in memory */
	Content c;
} Place;

Place place_at(int64_t lo, int64_t bytes, Content c);
Place place_arg(const Game *g, const Proc *p, const Step *s, Ref ref, int64_t bytes);
Place place_cot(const Game *g, const Proc *p, const Step *s, uint32_t inst, uint32_t result,
		int64_t bytes);
Place place_carry(const Game *g, const Proc *p, const Step *s, uint32_t slot, int64_t bytes);
/* A parameter in a section: all of it, or only what is in this rank's range. */
Place place_state(const Game *g, const Proc *p, uint32_t param, Section s, bool range,
		  Content c);
/* ZeRO 3: a parameter in its gather buffer; ZeRO 2, 3: its gradient before it is summed (dwork). */
Place place_buffer(const Game *g, const Proc *p, uint32_t param, bool dwork, Content c);
Place place_weight(const Game *g, const Proc *p, uint32_t param); /* as F, B and W read it */
int64_t slot_base(const Game *g, const Proc *p, const Step *s);
bool in_stage(const Game *g, const Proc *p, uint32_t inst);
int param_zero(const Game *g, uint32_t param);
/* 1: its owner, here, has updated it. */
uint32_t param_version(const Game *g, const Proc *p, uint32_t param);
Content param_content(const Game *g, What what, uint32_t param, uint32_t after);
Content grad_content(const Game *g, uint32_t param); /* the gradient as N and U want it */

/* verify_step.c */
void proc_begin(Game *g, Proc *p);
bool proc_input(Game *g, Proc *p, const Step *s);
bool proc_body(Game *g, Proc *p, const Step *s);
bool proc_norm(Game *g, Proc *p);
bool proc_end(Game *g, Proc *p);

/* verify_start.c */
bool proc_start(Game *g, Proc *p, const Step *s, Request *q);
bool proc_finish(Game *g, Proc *p, Request *q);

/* verify_comm.c */
bool meet_run(Game *g);

#endif
