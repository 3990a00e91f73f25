/*
 * price_host.c - the machine at hand as a cluster, if nobody measured it: cores, memory, a shared window inside a node, a
 * network between nodes like it.
 *
 * Constants were read off two machines once (the comments say where) and serve to compare plans, not to promise times.
 * The number of cores and the memory are asked of the machine.
 */
#include <sched.h>
#include <unistd.h>

#include "passes/price_parts.h"

/* tests/bench/RESULTS.md: OpenBLAS on one core of an AMD EPYC with AVX-512 reaches 228 to 235 GFLOP/s on 1024 x 3072 x
 * 768, and about 200 with packing, over the products of a whole step. */
static const double CORE_FLOPS = 235e9, CORE_DOT = 0.85;
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
price_cores(void)
{
	cpu_set_t set;
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
		n = CPU_COUNT(&set);
	return n > 0 ? (uint32_t)n : 1;
}

/* 80 % of the memory, shared by the ranks of a node. */
static int64_t
memory_of(uint32_t ranks)
{
	long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
	if (pages <= 0 || bytes <= 0) return INT64_MAX;
	return (int64_t)pages / 10 * 8 * (int64_t)bytes / ranks;
}

/* Ranks share the cores of a node; those that are more than it has cores are on other nodes like it. */
Cluster *
price_host(Arena *a, uint32_t ranks, uint32_t threads)
{
	Cluster *c = NEW(a, Cluster);
	Device *d = NEW(a, Device);
	NodeRun *r = NEW(a, NodeRun);
	uint32_t cores = price_cores(), here = ranks < cores ? ranks : cores;
	if (!here) here = 1;
	double used = threads ? threads : cores / here;
	if (used * here > cores) used = (double)cores / here;
	double speed = used / (used > 1 ? 1 + THREAD_LOSS * (used - 1) : 1);
	*d = (Device){.target = TG_host,
		      .cores = used > 1 ? (uint32_t)used : 1,
		      .memory = memory_of(here),
		      .bytes = CORE_BYTES * speed,
		      .loops = CORE_LOOPS * speed};
	d->flops[DT_f32] = CORE_FLOPS * speed;
	d->flops[DT_f64] = CORE_FLOPS * speed / 2;
	for (int k = 0; k < EF_COUNT; k++)
		d->eff[k] = hw_eff[k].value;
	d->eff[EF_dot] = d->eff[EF_attention] = CORE_DOT;
	d->eff[EF_bytes] = d->eff[EF_near] = d->eff[EF_far] = 1; /* as measured above */
	*r = (NodeRun){.nodes = ranks > here ? (ranks + here - 1) / here : 1,
		       .devices = here,
		       .near = {NEAR_NS, d->bytes},
		       .far = {FAR_NS, FAR_BYTES},
		       .rails = 1};
	*c = (Cluster){.device = d,
		       .ndevice = 1,
		       .run = r,
		       .nrun = 1,
		       .nodes = r->nodes,
		       .devices = r->nodes * here,
		       .guessed = true};
	return c;
}
