/*
 * roofline.c - how long things take on this machine, if nobody measured it: a core's arithmetic and memory, and what a
 * collective costs in a shared window or over a network.
 *
 * Input: lowered bodies and byte counts. Output: nanoseconds, integers. Constants were read off two machines once (the
 * comments say where) and serve to compare plans, not to promise times. The number of cores is asked of the machine.
 */
#include <sched.h>
#include <unistd.h>

#include "passes/passes.h"

/* tests/bench/RESULTS.md: OpenBLAS on one core of an AMD EPYC with AVX-512 reaches 228 to 235 GFLOP/s on 1024 x 3072 x
 * 768, and about 200 with packing, over the products of a whole step. */
static const double CORE_FLOPS = 200e9;
/* STREAM triad on the same machine, 192 MiB a vector, both cores at once: 12.7 and 14.6 GB/s, operands and result
 * counted once as cost.c does. */
static const double CORE_BYTES = 14e9;
/* An elementwise operation on 16 lanes at 3 GHz is 48e9 elements a second; loops with loads reach under half. */
static const double CORE_LOOPS = 20e9;
/* The same table: 2 threads in one rank do a step in 0.53 to 0.55 of one thread's time, which is 6 % lost. */
static const double THREAD_LOSS = 0.06;
/* A barrier of a few ranks in a shared window, waiting with yields. */
static const double NEAR_NS = 5e3;
/* 10 Gbit Ethernet: 1.25 GB/s, and 30 us for an MPI message over TCP. */
static const double FAR_NS = 30e3, FAR_BYTES = 1.25e9;

uint32_t
roofline_cores(void)
{
	cpu_set_t set;
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
		n = CPU_COUNT(&set);
	return n > 0 ? (uint32_t)n : 1;
}

/* Ranks share the cores of a node; those that are more than it has cores are on other nodes like it. */
Machine
roofline_machine(uint32_t ranks, uint32_t threads)
{
	Machine x = {.cores = roofline_cores()};
	x.ranks = ranks < x.cores ? ranks : x.cores;
	x.threads = threads ? threads : x.cores / x.ranks;
	double used = x.threads;
	if (used * x.ranks > x.cores) used = (double)x.cores / x.ranks;
	double loss = used > 1 ? 1 + THREAD_LOSS * (used - 1) : 1;
	x.flops = CORE_FLOPS * used / loss;
	x.bytes = CORE_BYTES * used / loss;
	x.loops = CORE_LOOPS * used / loss;
	return x;
}

static int64_t
ns(double seconds)
{
	return (int64_t)(seconds * 1e9 + 0.5);
}

/* In place, in a shared window each of n ranks adds up its part of n buffers, then reads the other parts: three passes.
 * Over a network a ring sends every byte twice. `span`: from the first to the last rank of the group. */
int64_t
roofline_all_reduce(const Machine *x, int64_t bytes, uint32_t n, uint32_t span)
{
	if (n < 2) return 0;
	double b = (double)bytes, part = (double)(n - 1) / n;
	if (span <= x->ranks) return ns(3 * b / x->bytes + 2 * NEAR_NS * 1e-9);
	return ns(2 * b * part / FAR_BYTES + 2 * b / x->bytes + 2 * (n - 1) * FAR_NS * 1e-9);
}

/* all_gather and reduce_scatter; bytes: of the whole. */
int64_t
roofline_gather(const Machine *x, int64_t bytes, uint32_t n, uint32_t span)
{
	if (n < 2) return 0;
	double b = (double)bytes, part = (double)(n - 1) / n;
	if (span <= x->ranks) return ns(2 * b / x->bytes + 2 * NEAR_NS * 1e-9);
	return ns(b * part / FAR_BYTES + b / x->bytes + (n - 1) * FAR_NS * 1e-9);
}

/* A message that a rank receives. */
int64_t
roofline_message(const Machine *x, int64_t bytes, bool near)
{
	if (near) return ns(2 * (double)bytes / x->bytes + NEAR_NS * 1e-9);
	return ns((double)bytes / FAR_BYTES + FAR_NS * 1e-9);
}

/* Ranks in a group over mesh axes `over`, and how far it reaches: the last axis is the fastest. */
uint32_t
roofline_group(const Mesh *mesh, unsigned over, uint32_t *span)
{
	uint32_t n = 1, stride = 1, last = 0;
	for (int k = mesh->n; k-- > 1;) {
		if (over >> k & 1) {
			n *= mesh->ax[k].degree;
			last += (mesh->ax[k].degree - 1) * stride;
		}
		stride *= mesh->ax[k].degree;
	}
	*span = last + 1;
	return n;
}

static int64_t
op_traffic(const Machine *x, const Module *m, const Body *b, const Op *op)
{
	const Mesh *mesh = ir_mesh(m, b);
	const Attr *over = attr_find(op, AK_over);
	if (!mesh || !over || op->code == OP_part) return 0;
	uint32_t span, n = roofline_group(mesh, (unsigned)over->i, &span);
	int64_t bytes = type_bytes(m, mesh, val_type(b, op->in[0]));
	if (op->code == OP_all_reduce) return roofline_all_reduce(x, bytes, n, span);
	return roofline_gather(x, op->code == OP_all_gather ? bytes * n : bytes, n, span);
}

/* Contractions and memory-bound loops take turns, so that their times add up. requires: packed, so that what stays
 * inside a kernel is known. */
int64_t
roofline_body(const Machine *x, const Module *m, const Body *b)
{
	Cost c = cost_body(m, b);
	int64_t traffic = 0;
	for (uint32_t i = 0; i < b->nops; i++)
		if (op_info[b->ops[i].code].flags & OF_COMM)
			traffic += op_traffic(x, m, b, &b->ops[i]);
	return ns(c.flops / x->flops + (double)c.moved / x->bytes + c.loops / x->loops) +
	       traffic;
}
