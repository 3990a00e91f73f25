/*
 * simulate_parts.h - what the parts of the simulator share. Private to passes/simulate*.c.
 *
 * simulate.c        a step from begin to end, its result
 * simulate_class.c  ranks that do the same are one process
 * simulate_comm.c   what every ACT_start begins: primitives, who meets whom in them, what they take, what they share
 * simulate_run.c    processes, event by event
 * simulate_flow.c   communication that moves by itself (devices): shared links, mutual slow-down
 * simulate_turn.c   communication that ranks do themselves while they wait (host)
 * simulate_trace.c  timelines as a Chrome trace; costs as text
 */
#ifndef GV_SIMULATE_PARTS_H
#define GV_SIMULATE_PARTS_H

#include "passes/simulate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NEST = 8 };

/* ---- walking a table ---- */

typedef struct Cursor { /* spells loops out, one action at a time */
	const Action *a;
	uint32_t n, at, depth, mb;
	struct CursorLoop {
		uint32_t begin, turn, count;
		ActKind kind;
	} loop[MAX_NEST];
} Cursor;
Cursor cursor_of(const Module *m, uint32_t stage);
/* The next action, with the instance and microbatch meant; an ACT_end is the end of a turn over microbatches. */
bool cursor_next(Cursor *c, Action *out);

/* ---- who exchanges with whom ---- */

/* Ranks are counted from the first of their stage. */
typedef struct Peers {
	Side from, to;
	uint32_t nfrom, nto;
	bool own;   /* both sides are one stage */
	bool alike; /* rank for rank; else: */
	bool total; /* every rank sends, and every rank receives */
	uint32_t *source,
	    *source_at; /* of target t: source[source_at[t]] .. source[source_at[t + 1] - 1] */
	uint32_t *target, *target_at; /* of source t: likewise */
} Peers;

/* ---- primitives ---- */

/* Classes that meet in a collective, or a source and a target; what goes in order between them. */
typedef struct Track {
	uint32_t n;
	uint32_t *proc;              /* [n] rising; of an exchange: source, target */
	struct Meeting *head, *last; /* begun, not complete */
} Track;

typedef struct Part { /* of a primitive: what some classes meet in */
	struct Use *use;
	Track *track;
	uint32_t workers;        /* host: how many of its members have a share of the work */
	struct Meeting **number; /* the n-th time; NULL: complete */
	uint32_t n, cap;
	struct Meeting *spare;
} Part;

typedef struct Use { /* of a primitive: by an ACT_start of one stage or two */
	SimWhat what;
	SimStream stream;
	uint32_t inst;
	int64_t ns;
	bool far, sums; /* goes over the nodes' network; a collective */
	uint32_t *res;  /* what it takes of the machine while it runs */
	uint32_t nres;
	Part *part;
	uint32_t nparts;
	uint32_t *running; /* [crunning] parts of its n-th time that run */
	uint32_t crunning;
} Use;

typedef struct Role { /* of a class in a primitive */
	uint32_t n, cap;
	struct RolePart {
		Part *part;
		uint32_t member, times;
		bool works;
	} * part;
} Role;

typedef struct Start { /* what an ACT_start of a stage begins */
	uint32_t stage, inst, n;
	CommKind kind;
	Prim *prim; /* [n] */
	const Peers *peers[MAX_PRIMS];
	Use *use[MAX_PRIMS];
	uint32_t line[MAX_PRIMS]; /* of the stage: a communicator, or a channel */
	Role *role;               /* [classes of the stage * n] */
	uint32_t most;            /* parts of a role */
	struct Open {
		struct Request *first, *last;
	} * open; /* [classes]: begun, not waited for, by age */
	struct Request *spare;
} Start;

/* Some classes in one primitive, once. */
typedef struct Meeting {
	Part *part;
	uint32_t number, begun, worked, mb;
	struct Request **request; /* [members] */
	/* devices */
	bool only;          /* for now its members do not compute */
	double left, alone; /* ns of work; of them: while `only` */
	double slow;        /* each takes so long */
	int64_t since;
	uint32_t version;
	struct Meeting *next;
} Meeting;

typedef struct Request { /* of a process */
	Start *start;
	const Role *role; /* [start->n] */
	uint32_t mb, at;  /* the primitive in hand */
	bool begun;       /* ... is */
	uint32_t left;    /* parts of it that are not complete */
	uint32_t ready;   /* host: parts with a share of the work that all members have begun */
	uint32_t shares;  /* ... that there are */
	Meeting **meet;   /* [role[at].n] */
	uint32_t running; /* device: of them, that move */
	int64_t since;    /* ... one does */
	uint64_t age, ticket[MAX_PRIMS];
	struct Request *next, *before; /* of the process, by age */
	struct Request *also;          /* of the same start */
} Request;

/* ---- processes ---- */

typedef enum ProcState {
	PS_runs,
	PS_body,  /* computes */
	PS_waits, /* for a request */
	PS_gate,  /* until others are there too */
	PS_works, /* host: a share of a communication */
	PS_done
} ProcState;

typedef struct Line { /* tickets of a communicator or channel */
	uint64_t tickets, begun;
} Line;

typedef struct Gate { /* all come before any goes on */
	uint32_t n, here;
	uint32_t *proc;
	int64_t compute, comm; /* what follows */
} Gate;

typedef struct Proc {                       /* a class of ranks */
	uint32_t stage, class, rank, ranks; /* rank: its first */
	uint32_t device;                    /* kind */
	const Device *d;
	Cursor cursor;
	ProcState state;
	Action now; /* the action at hand */
	Line *line;
	Request *first, *last; /* open */
	uint32_t behind;       /* primitives of those that are not begun */
	/* computing */
	double left, slow; /* ns of work; each takes so long; 0: it stands still */
	int64_t compute, comm, since, from;
	uint32_t version;
	Gate *gate;
	/* waiting */
	Request *waits;
	int64_t idle; /* since when */
	bool blocked; /* nothing to do until it is woken */
	bool free;    /* the gate is open */
	/* ... on the host */
	Request **ready; /* [cready] with a share to do, in any order */
	uint32_t nready, cready;
	uint64_t requests, look; /* made so far; looks at what is as old or younger than that */
	Request *works;
	bool partly; /* has not looked at all since it worked */
	/* communication that moves by itself */
	Meeting **running;
	uint32_t nrunning, crunning, alone;
	/* result */
	int64_t busy[SW_COUNT], end;
} Proc;

typedef struct StageInfo {
	uint32_t proc, nprocs; /* its classes */
	uint32_t nlines;
	uint32_t node, nodes; /* first and number */
	uint32_t atom, atoms; /* of the nodes */
	struct Groups {
		Track **track; /* NULL: not looked for */
		uint32_t n;
		bool far; /* some group is on several nodes */
	} * groups;       /* [comms.n] */
	BodyPrice *price; /* [nbodies * kinds] compute < 0: not known */
	Gate **gate;      /* [nbodies * classes] */
} StageInfo;

typedef struct Resource { /* a direction of a stage's links, or of the network of some nodes */
	uint32_t uses;    /* that run */
	Meeting **running;
	uint32_t n, cap;
} Resource;

typedef struct SimTimer {
	int64_t at;
	uint64_t
	    round; /* 3 k: what has come to its end; 3 k + 1: processes go on; 3 k + 2: waiting ones look around */
	enum { TM_meeting, TM_body, TM_work, TM_begin } what;
	uint32_t proc, version;
	Meeting *meeting;
	uint64_t seq;
} SimTimer;

typedef struct Sim {
	Ctx *c;
	const Module *m;
	Price *p;
	SimOptions o;
	const Cluster *cluster;
	Arena *a;   /* the result's */
	Arena *tmp; /* this run's */
	CommTable comms;
	StageInfo *stage;
	Proc *proc;
	uint32_t nprocs;
	uint32_t *class_of; /* [ranks] process */
	bool coarse;        /* classes are stages and kinds of devices, alike or not */
	bool turns;         /* ranks communicate while they wait, and not else */
	Start **
	    start; /* [CK_COUNT * most * 2] by kind, instance or parameter, first or other stage */
	uint32_t most;
	Start **starts;
	uint32_t nstarts, cstarts;
	struct Channel {
		uint32_t from, to;
		CommKind kind;
		Track **track;
		uint32_t n, cap;
		uint32_t line[2]; /* of the source's stage, the target's */
	} * channel;
	uint32_t nchannels, cchannels;
	Peers **peers;
	uint32_t npeers, cpeers;
	Gate norm;
	Resource *res;
	uint32_t nres;
	/* running */
	int64_t now;
	uint64_t round, seq;
	SimTimer *timer; /* a heap: the earliest first */
	uint32_t ntimers, ctimers;
	struct
	    Soon { /* at this instant, in one round: processes that go on; that look around */
		uint64_t round;
		uint32_t *proc, n, at, cap;
	} soon[2];
	SimResult r;
	uint32_t *node;       /* [ranks] */
	uint32_t *seen, sets; /* [nprocs] the last set a class was put in */
	MemWalk **walk;       /* [nstages] */
	uint32_t *cpoints;    /* [nstages] */
	int64_t *after;       /* [nstages] bytes when the body at hand is through */
} Sim;

/* simulate.c */
int64_t sim_price_prim(Sim *s, uint32_t stage, const Prim *prim);
BodyPrice sim_price_body(Sim *s, const Proc *p, uint32_t body); /* on a device of p's kind */
void sim_memory(Sim *s, const Proc *p, const Action *a, bool begins);
/* simulate_class.c: fills proc, class_of, stage[].proc; requires starts */
void sim_classes(Sim *s);
/* simulate_comm.c */
void sim_starts(Sim *s); /* finds what is begun, and who exchanges */
void sim_tracks(Sim *s); /* requires classes: who meets, what it takes */
Gate *sim_gate(Sim *s, const Proc *p, uint32_t body); /* of a body with collectives */
Start *sim_start_of(const Sim *s, uint32_t stage, CommKind k, uint32_t inst);
/* simulate_run.c */
void sim_run(Sim *s);
void sim_timer(Sim *s, int64_t at, SimTimer t);
void sim_soon(Sim *s, const Proc *p, int phase); /* 1: goes on; 2: looks around */
void sim_event(Sim *s, const Proc *p, SimStream stream, SimWhat what, uint32_t inst,
	       uint32_t mb, int64_t from, int64_t to);
void sim_idled(Sim *s, Proc *p);       /* it waited until now */
void sim_complete(Sim *s, Meeting *x); /* all its members go on */
void sim_begin(Sim *s, Proc *p);       /* primitives whose turn has come */
bool sim_may_begin(const Proc *p);
void sim_speed(Sim *s, Proc *p); /* of what it computes, after something around it changed */
void sim_compute(Sim *s, Proc *p, int64_t compute, int64_t comm);
bool sim_waited(Sim *s, Proc *p); /* ends the wait at hand, if it may */
int64_t sim_ns(double work, double slow);
/* simulate_flow.c */
void flow_begin(Sim *s, Meeting *x);
void flow_timer(Sim *s, Meeting *x);
void flow_computes(Sim *s, Proc *p); /* it has begun or stopped to */
/* simulate_turn.c */
void turn_look(Sim *s, Proc *p); /* at all that is open, once others have moved too */
void turn_wake(Sim *s, Proc *p);
void turn_pass(Sim *s, Proc *p);
void turn_worked(Sim *s, Proc *p);

#endif
