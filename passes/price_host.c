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

/* requires: what is in d holds for all of its cores. */
void
price_threads(Device *d, double threads)
{
	double loss = d->eff[EF_threads], n = d->cores;
	double speed = (threads / (threads > 1 ? 1 + loss * (threads - 1) : 1)) /
		       (n / (n > 1 ? 1 + loss * (n - 1) : 1));
	for (int k = 0; k < DT_COUNT; k++)
		d->flops[k] *= speed;
	d->bytes *= speed;
	d->loops *= speed;
	d->cores = threads > 1 ? (uint32_t)threads : 1;
}

/* Threads each of `here` ranks has on a node of `cores` cores, if it wants that many (0: all). */
static double
threads_of(uint32_t cores, uint32_t here, uint32_t wanted)
{
	double most = (double)cores / here;
	double n = wanted ? wanted : most > 1 ? (double)(uint32_t)most : most;
	return n < most ? n : most;
}

Cluster *
price_share(Arena *a, const Cluster *c, uint32_t ranks, uint32_t threads)
{
	Cluster *x = arena_dup(a, c, sizeof *c);
	x->device = arena_dup(a, c->device, sizeof *c->device * c->ndevice);
	for (uint32_t i = 0; i < c->ndevice; i++) {
		Device *d = &x->device[i];
		uint32_t n = 0;
		for (uint32_t r = 0; r < c->nrun && !n; r++)
			if (c->run[r].device == i) n = c->run[r].devices;
		if (d->target != TG_host || !n) continue;
		uint32_t here = ranks && ranks < n ? ranks : n;
		d->memory = d->memory / here * n;
		price_threads(d, threads_of(n * d->cores, here, threads));
	}
	return x;
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
	*d = (Device){.target = TG_host,
		      .cores = 1,
		      .memory = memory_of(here),
		      .bytes = CORE_BYTES,
		      .loops = CORE_LOOPS};
	d->flops[DT_f32] = CORE_FLOPS;
	d->flops[DT_f64] = CORE_FLOPS / 2;
	for (int k = 0; k < EF_COUNT; k++)
		d->eff[k] = hw_eff[k].value;
	d->eff[EF_dot] = d->eff[EF_attention] = CORE_DOT;
	d->eff[EF_bytes] = d->eff[EF_near] = d->eff[EF_far] = 1; /* as measured above */
	price_threads(d, threads_of(cores, here, threads));
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
