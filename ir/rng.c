/*
 * rng.c - counter-based random numbers: what is drawn depends on a key and a place, never on who asks or in which order.
 *
 * Input: a 64-bit key (of a parameter or of a dropout site) and the logical index of an element. Output: the same bits on
 * every plan, rank count and target. runtime/rng.c holds the same functions; a test compares the two.
 * Source: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x32-10).
 */
#include <math.h>

#include "ir/ir.h"

/* The block cipher: ten rounds over a counter of four words (lo first) under a key of two (low word first). */
Philox
rng_philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo)
{
	const uint64_t m0 = 0xD2511F53, m1 = 0xCD9E8D57;
	uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
	uint32_t c0 = (uint32_t)counter_lo, c1 = (uint32_t)(counter_lo >> 32);
	uint32_t c2 = (uint32_t)counter_hi, c3 = (uint32_t)(counter_hi >> 32);

	for (int round = 0; round < 10; round++) {
		uint64_t p0 = m0 * c0, p1 = m1 * c2;
		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)p1;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p0;
		k0 += 0x9E3779B9;
		k1 += 0xBB67AE85;
	}
	return (Philox){{c0, c1, c2, c3}};
}

/* FNV-1a of the name, then the finaliser of splitmix64 over it and the seed, so that neighbouring seeds share nothing. */
uint64_t
rng_key(uint64_t seed, const char *name)
{
	uint64_t h = 0xCBF29CE484222325;

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 0x100000001B3;
	h += seed * 0x9E3779B97F4A7C15;
	h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9;
	h = (h ^ (h >> 27)) * 0x94D049BB133111EB;
	return h ^ (h >> 31);
}

/* 53 bits of the half-th pair of words of a block. */
static uint64_t
bits53(const Philox *p, int half)
{
	return ((uint64_t)p->r[2 * half + 1] << 32 | p->r[2 * half]) >> 11;
}

/* Box-Muller: one block gives elements 2k (cosine) and 2k + 1 (sine); uniforms in (0, 1], so the logarithm is finite. */
double
rng_normal(uint64_t key, uint64_t index)
{
	Philox p = rng_philox(key, 0, index / 2);
	double u = (double)(bits53(&p, 0) + 1) * 0x1p-53;
	double angle = 6.283185307179586 * ((double)(bits53(&p, 1) + 1) * 0x1p-53);
	double radius = sqrt(-2 * log(u));

	return radius * (index % 2 ? sin(angle) : cos(angle));
}

double
rng_uniform(uint64_t key, uint64_t index)
{
	Philox p = rng_philox(key, 0, index / 2);

	return (double)bits53(&p, (int)(index % 2)) * 0x1p-53;
}

uint32_t
rng_bits(uint64_t key, uint64_t step, uint64_t index)
{
	return rng_philox(key, step, index / 4).r[index % 4];
}
