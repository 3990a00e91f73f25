/*
 * comm.h - between comm.c and what it stands on: two transports (comm_mpi.c, comm_window.c), exchange plans (exchange.c),
 * and the page of memory by which the ranks of a node watch each other (watch.c). Only programs of several ranks have a Comm.
 *
 * An operation is begun and then tested until it is complete; whoever waits for one moves all along. Operations of one
 * communicator, and messages of one channel, begin in the order in which they were started: tickets see to that, also
 * where an operation waits for the one before it on its request.
 */
#ifndef GVRT_COMM_H
#define GVRT_COMM_H

#include "gvrt_int.h"

enum { OPS_OF_REQUEST = 8, SUM_MAX = 1024 /* doubles of one comm_sum */ };

typedef enum OpKind {
	CO_all_reduce,
	CO_reduce_scatter,
	CO_all_gather,
	CO_exchange,
	CO_KINDS
} OpKind;
extern const char *const op_kind_text[CO_KINDS];

/* What goes in order: a communicator, or a channel of messages. */
typedef struct Line {
	uint64_t tickets; /* given out */
	uint64_t begun;   /* the ticket whose turn it is */
} Line;

typedef struct Traffic {
	uint64_t calls, bytes;
} Traffic;

typedef struct Group {
	int size, me;
	int *rank; /* [size] of the members in the world, ascending */
	Line line;
	uint64_t worked; /* window: collectives whose share of the work is done */
	Traffic sent[CO_exchange];
	void *mpi; /* where comm_mpi.c keeps its communicator */
} Group;

/* A box that one rank sends another: extents and strides in elements, both sides', axes that are one in memory merged. */
typedef struct Piece {
	int peer;      /* world rank; the own one: a copy */
	int64_t count; /* elements */
	int naxes;
	int64_t n[GVRT_AXES], src[GVRT_AXES], dst[GVRT_AXES];
	int64_t src_at, dst_at;
	int box;   /* window: its mailbox, outgoing or incoming */
	void *mpi; /* where comm_mpi.c keeps its data type */
} Piece;

typedef struct Exchange {
	const GvrtExchange *x;
	int line; /* into Comm.lines */
	Piece *send, *recv;
	int nsend, nrecv;
	int64_t dst_count; /* elements of the target's local tensor */
	bool receives;     /* this rank is of the target, and first along `partial` */
	bool zero;         /* some of the local tensor is not received */
	Traffic sent;
} Exchange;

typedef struct Op {
	OpKind kind;
	enum { OP_QUEUED, OP_BEGUN, OP_DONE } state;
	int comm; /* into Comm.groups; exchanges: into Comm.exchanges */
	bool max, add;
	const real *in; /* all_gather: of elements of `elem` bytes, like out */
	real *out, *work;
	int64_t outer, inner; /* all_reduce: inner elements */
	int elem;             /* all_gather: bytes of an element */
	const void *src;
	void *dst, *arrive; /* exchanges: arrive is work, or dst */
	const char *label;
	uint64_t ticket;
	int phase, reached; /* window */
	uint64_t
	    *seq;  /* window: [pieces received, then sent]: numbers of the messages; 0: taken */
	int nmpi;  /* requests of MPI in hand */
	void *mpi; /* room for them */
} Op;

/* A started communication: operations one after the other. */
typedef struct Request {
	int n, at; /* at < n: op[at] is in hand */
	Op op[OPS_OF_REQUEST];
} Request;

struct Watch;
struct Window;

typedef struct Comm {
	const GvrtProgram *p;
	int rank, size, stage;
	unsigned char *arena;
	int node_size, *node; /* ranks of this node, ascending */
	int64_t node_bytes;   /* of all their arenas */
	Group *groups;
	Line *lines;
	int nlines;
	Exchange *exchanges;
	Request *requests; /* [p->nrequests + 1]: the last for what blocks */
	int *active;       /* requests in hand, in the order of their start */
	int nactive;
	const struct Transport *via;
	bool sync_send;
	uint64_t sums; /* comm_sum calls so far */
	double waited; /* seconds, in steps */
	struct Watch *watch;
	struct Window *window;
	struct Mpi *mpi;
} Comm;

typedef struct Transport {
	bool shares; /* the arenas are one memory */
	void (*begin)(Comm *c, Op *o);
	bool (*test)(Comm *c, Op *o); /* true: complete, data in place */
	void (*sum)(Comm *c, double *x, int n,
		    bool step); /* step: it is counted with the step's */
} Transport;

/* ---- comm.c ---- */
void comm_move(Comm *c); /* everything in hand, as far as it goes without waiting */
_Noreturn void comm_die(const Comm *c, const char *fmt, ...)
    RT_PRINTF(2, 3); /* one line; ends the job */

/* ---- exchange.c ---- */
void exchange_plan(Exchange *e, Pool *pool, const GvrtProgram *p, int rank);
void exchange_copy(const Piece *q, int64_t elem, const void *src, void *dst);
int64_t part_block(const GvrtAxis *a,
		   const GvrtMesh *mesh); /* local extent, padding included */

/* ---- comm_mpi.c ---- */
extern const Transport comm_via_mpi;
bool mpi_start(Comm *c, Pool *pool, Err *e);
bool mpi_lines(Comm *c, Pool *pool, Err *e); /* communicators, data types: after the plans */
void mpi_stop(Comm *c);
_Noreturn void mpi_abort(int status);
/* Among all, or the ranks of this node, while starting. */
void mpi_sum(Comm *c, double *x, int n, bool step);
bool mpi_same(Comm *c, int64_t x); /* whether all have the same: one MIN of [x, -x] */
void mpi_node_gather(Comm *c, const void *mine, size_t bytes, void *all);

/* ---- watch.c ---- */
/* A memory file of this process that other processes of the node can map: its number, -1. */
int share_make(const char *name, int64_t bytes, Err *e);
void *share_map(int pid, int fd, int64_t bytes, Err *e);
bool watch_start(Comm *c, Pool *pool, Err *e);
void watch_stop(Comm *c);
void watch_label(const char *label); /* what this rank is doing, for its last words */

/* ---- comm_window.c ---- */
extern const Transport comm_via_window;
/* Decides whether the arenas can be shared, and maps them: NULL with the reason in e, on all ranks alike. */
unsigned char *window_start(Comm *c, Pool *pool, Err *e);

#endif
