/*
 * shim.c - LD_PRELOAD: counts what a rank gives MPI, kind by kind and communicator by communicator, and writes it to
 * $SHIM.RANK at the end: "all_reduce COMM CALLS BYTES", "send FROM TO CHANNEL CALLS BYTES"; and "mapped BYTES" for all
 * memory that the program has mapped to write to. For tests/e2e/traffic.sh.
 *
 * Communicator 0 is the first duplicate of the world, and k what is split off k-th from 0, as in the program's table. $SHIM_STAGES
 * is the first rank of every stage, in order; the tag of a message is its channel.
 */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <dlfcn.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { COMMS = 256, STAGES = 64, CHANNELS = 8, MAPS = 4096 };
enum { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, KINDS };

typedef struct Sum {
	long long calls, bytes;
} Sum;

static struct {
	MPI_Comm comm[COMMS];
	int ncomms, dups, splits;
	int number[COMMS];
	Sum collective[COMMS][KINDS];
	Sum message[2][STAGES][CHANNELS];
	int rank, nstages, first[STAGES];
	size_t mapped[MAPS];
	int nmapped;
} shim;

static void
add(Sum *s, long long count, MPI_Datatype type, int times)
{
	int size;
	PMPI_Type_size(type, &size);
	s->calls++;
	s->bytes += count * size * times;
}

static void
name(MPI_Comm c, int number)
{
	if (c == MPI_COMM_NULL || shim.ncomms == COMMS) return;
	shim.comm[shim.ncomms] = c;
	shim.number[shim.ncomms++] = number;
}

static Sum *
collective(MPI_Comm c, int kind)
{
	for (int k = 0; k < shim.ncomms; k++)
		if (shim.comm[k] == c) return &shim.collective[shim.number[k]][kind];
	return &shim.collective[COMMS - 1][kind];
}

static int
stage_of(int rank)
{
	int s = 0;
	while (s + 1 < shim.nstages && shim.first[s + 1] <= rank)
		s++;
	return s;
}

int
MPI_Comm_dup(MPI_Comm c, MPI_Comm *out)
{
	int r = PMPI_Comm_dup(c, out);
	if (shim.dups++ == 0) name(*out, 0);
	return r;
}

int
MPI_Comm_split(MPI_Comm c, int color, int key, MPI_Comm *out)
{
	int r = PMPI_Comm_split(c, color, key, out);
	name(*out, shim.splits++);
	return r;
}

int
MPI_Iallreduce(const void *in, void *out, int n, MPI_Datatype t, MPI_Op op, MPI_Comm c,
	       MPI_Request *q)
{
	add(collective(c, ALL_REDUCE), n, t, 1);
	return PMPI_Iallreduce(in, out, n, t, op, c, q);
}

int
MPI_Allreduce(const void *in, void *out, int n, MPI_Datatype t, MPI_Op op, MPI_Comm c)
{
	add(collective(c, ALL_REDUCE), n, t, 1);
	return PMPI_Allreduce(in, out, n, t, op, c);
}

int
MPI_Ireduce_scatter_block(const void *in, void *out, int n, MPI_Datatype t, MPI_Op op,
			  MPI_Comm c, MPI_Request *q)
{
	int size;
	PMPI_Comm_size(c, &size);
	add(collective(c, REDUCE_SCATTER), n, t, size);
	return PMPI_Ireduce_scatter_block(in, out, n, t, op, c, q);
}

int
MPI_Iallgather(const void *in, int n, MPI_Datatype t, void *out, int m, MPI_Datatype u,
	       MPI_Comm c, MPI_Request *q)
{
	/* in place, what is given is the block of the result */
	add(collective(c, ALL_GATHER), in == MPI_IN_PLACE ? m : n, in == MPI_IN_PLACE ? u : t,
	    1);
	return PMPI_Iallgather(in, n, t, out, m, u, c, q);
}

static void
message(int receiving, int count, MPI_Datatype t, int peer, int tag)
{
	if (tag >= 0 && tag < CHANNELS)
		add(&shim.message[receiving][stage_of(peer)][tag], count, t, 1);
}

int
MPI_Isend(const void *x, int n, MPI_Datatype t, int peer, int tag, MPI_Comm c, MPI_Request *q)
{
	message(0, n, t, peer, tag);
	return PMPI_Isend(x, n, t, peer, tag, c, q);
}

int
MPI_Issend(const void *x, int n, MPI_Datatype t, int peer, int tag, MPI_Comm c, MPI_Request *q)
{
	message(0, n, t, peer, tag);
	return PMPI_Issend(x, n, t, peer, tag, c, q);
}

int
MPI_Irecv(void *x, int n, MPI_Datatype t, int peer, int tag, MPI_Comm c, MPI_Request *q)
{
	message(1, n, t, peer, tag);
	return PMPI_Irecv(x, n, t, peer, tag, c, q);
}

/* What steps have no use for, and what would be missed if they had. */
#define OTHER(NAME, PARAMS, ARGS)                                             \
	int NAME PARAMS                                                       \
	{                                                                     \
		add(&shim.collective[COMMS - 1][ALL_REDUCE], 0, MPI_BYTE, 1); \
		return P##NAME ARGS;                                          \
	}
OTHER(MPI_Send, (const void *x, int n, MPI_Datatype t, int peer, int tag, MPI_Comm c),
      (x, n, t, peer, tag, c))
OTHER(MPI_Recv, (void *x, int n, MPI_Datatype t, int peer, int tag, MPI_Comm c, MPI_Status *s),
      (x, n, t, peer, tag, c, s))
OTHER(MPI_Bcast, (void *x, int n, MPI_Datatype t, int root, MPI_Comm c), (x, n, t, root, c))
OTHER(MPI_Ibcast, (void *x, int n, MPI_Datatype t, int root, MPI_Comm c, MPI_Request *q),
      (x, n, t, root, c, q))
OTHER(MPI_Ialltoall,
      (const void *x, int n, MPI_Datatype t, void *y, int m, MPI_Datatype u, MPI_Comm c,
       MPI_Request *q),
      (x, n, t, y, m, u, c, q))
OTHER(MPI_Barrier, (MPI_Comm c), (c))
OTHER(MPI_Ibarrier, (MPI_Comm c, MPI_Request *q), (c, q))

void *
mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	static void *(*next)(void *, size_t, int, int, int, off_t);
	if (!next) *(void **)&next = dlsym(RTLD_NEXT, "mmap");
	if (shim.nmapped < MAPS && prot & PROT_WRITE) shim.mapped[shim.nmapped++] = bytes;
	return next(at, bytes, prot, flags, fd, offset);
}

static void
start(void)
{
	const char *s = getenv("SHIM_STAGES");
	PMPI_Comm_rank(MPI_COMM_WORLD, &shim.rank);
	for (char *end; s && *s && shim.nstages < STAGES; s = *end ? end + 1 : end)
		shim.first[shim.nstages++] = (int)strtol(s, &end, 10);
}

int
MPI_Init(int *argc, char ***argv)
{
	int r = PMPI_Init(argc, argv);
	start();
	return r;
}

int
MPI_Init_thread(int *argc, char ***argv, int required, int *provided)
{
	int r = PMPI_Init_thread(argc, argv, required, provided);
	start();
	return r;
}

int
MPI_Finalize(void)
{
	static const char *const kinds[] = {"all_reduce", "reduce_scatter", "all_gather"};
	char path[4096];
	snprintf(path, sizeof path, "%s.%d", getenv("SHIM"), shim.rank);
	FILE *f = fopen(path, "w");
	for (int k = 0; f && k < COMMS; k++)
		for (int i = 0; i < KINDS; i++)
			if (shim.collective[k][i].calls)
				fprintf(f, "%s %d %lld %lld\n", kinds[i], k,
					shim.collective[k][i].calls,
					shim.collective[k][i].bytes);
	for (int way = 0; f && way < 2; way++)
		for (int s = 0; s < STAGES; s++)
			for (int c = 0; c < CHANNELS; c++) {
				const Sum *x = &shim.message[way][s][c];
				int here = stage_of(shim.rank);
				if (x->calls)
					fprintf(f, "%s %d %d %d %lld %lld\n",
						way ? "recv" : "send", way ? s : here,
						way ? here : s, c, x->calls, x->bytes);
			}
	for (int i = 0; f && i < shim.nmapped; i++)
		fprintf(f, "mapped %zu\n", shim.mapped[i]);
	if (f) fclose(f);
	return PMPI_Finalize();
}
