/*
 * rng.c - counter-based random numbers: what is drawn depends on a key and a place, never on who asks or in which order.
 *
 * Input: a 64-bit key (of a parameter, a dropout site, the data) and the logical index of an element. Output: the same
 * bits on every plan, rank count and thread count; ir/rng.c of the compiler is the same function, by test.
 * Source: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x32-10).
 */
#include <math.h>

#include "gvrt_int.h"

/* Ten rounds over a counter of four words (lo first) under a key of two (low word first). */
RtPhilox
rt_philox(uint64_t key, uint64_t hi, uint64_t lo)
{
	const uint64_t m0 = 0xD2511F53, m1 = 0xCD9E8D57;
	uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
	uint32_t c0 = (uint32_t)lo, c1 = (uint32_t)(lo >> 32);
	uint32_t c2 = (uint32_t)hi, c3 = (uint32_t)(hi >> 32);
	for (int round = 0; round < 10; round++) {
		uint64_t p0 = m0 * c0, p1 = m1 * c2;
		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)p1;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p0;
		k0 += 0x9E3779B9;
		k1 += 0xBB67AE85;
	}
	return (RtPhilox){{c0, c1, c2, c3}};
}

/* FNV-1a of the name, then the finaliser of splitmix64 over it and the seed: neighbouring seeds share nothing. */
uint64_t
gvrt_key(uint64_t seed, const char *name)
{
	uint64_t h = 0xCBF29CE484222325;
	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 0x100000001B3;
	h += seed * 0x9E3779B97F4A7C15;
	h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9;
	h = (h ^ (h >> 27)) * 0x94D049BB133111EB;
	return h ^ (h >> 31);
}

uint32_t
gvrt_bits(uint64_t key, uint64_t step, uint64_t index)
{
	return rt_philox(key, step, index / 4).r[index % 4];
}

/* 53 bits of the half-th pair of words of a block. */
static uint64_t
bits53(const RtPhilox *p, int half)
{
	return ((uint64_t)p->r[2 * half + 1] << 32 | p->r[2 * half]) >> 11;
}

double
rt_uniform(uint64_t key, uint64_t index)
{
	RtPhilox p = rt_philox(key, 0, index / 2);
	return (double)bits53(&p, (int)(index % 2)) * 0x1p-53;
}

/* Box-Muller: one block gives elements 2k (cosine) and 2k + 1 (sine); uniforms in (0, 1], so the logarithm is finite. */
void
rt_normal_pair(uint64_t key, uint64_t pair, double out[2])
{
	RtPhilox p = rt_philox(key, 0, pair);
	double u = (double)(bits53(&p, 0) + 1) * 0x1p-53;
	double angle = 6.283185307179586 * ((double)(bits53(&p, 1) + 1) * 0x1p-53);
	double radius = sqrt(-2 * log(u));
	out[0] = radius * cos(angle);
	out[1] = radius * sin(angle);
}

double
rt_normal(uint64_t key, uint64_t index)
{
	double pair[2];
	rt_normal_pair(key, index / 2, pair);
	return pair[index % 2];
}
