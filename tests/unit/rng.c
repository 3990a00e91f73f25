/*
 * rng.c - the generator against the known answers of the Random123 distribution (kat_vectors), and the moments of what
 * is drawn from it.
 */
#include <math.h>
#include <stdio.h>

#include "ir/ir.h"

static int checks, failures;

static void
check(bool ok, const char *what)
{
	checks++;
	if (!ok) {
		failures++;
		printf("rng: FAILED: %s\n", what);
	}
}

static bool
block_is(Philox p, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
	return p.r[0] == a && p.r[1] == b && p.r[2] == c && p.r[3] == d;
}

static void
known_answers(void)
{
	const uint64_t ones = UINT64_MAX;

	check(block_is(rng_philox(0, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8),
	      "zeros");
	check(block_is(rng_philox(ones, ones, ones), 0x408f276d, 0x41c83b0e, 0xa20bc7c6,
		       0x6d5451fd),
	      "ones");
	/* the digits of pi: counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0 */
	check(block_is(rng_philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
		       0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1),
	      "pi");
	for (uint64_t i = 0; i < 8; i++)
		check(rng_bits(7, 3, i) == rng_philox(7, 3, i / 4).r[i % 4],
		      "bits are lanes of blocks");
}

static void
keys(void)
{
	check(rng_key(1, "a") == rng_key(1, "a"), "a key is a function");
	check(rng_key(1, "a") != rng_key(1, "b"), "names differ");
	check(rng_key(1, "a") != rng_key(2, "a"), "seeds differ");
	check(rng_key(0, "") != 0, "the empty name is mixed too");
}

/* Mean, variance, third and fourth moment within five standard errors; no correlation within a pair. */
static void
moments(void)
{
	enum { N = 200000 };
	double m1 = 0, m2 = 0, m3 = 0, m4 = 0, pair = 0, u1 = 0, u2 = 0, lo = 1, hi = 0;
	double root = sqrt((double)N);
	uint64_t key = rng_key(1234, "h.0.attn.q.weight");

	for (uint64_t i = 0; i < N; i++) {
		double x = rng_normal(key, i), u = rng_uniform(key, i);
		m1 += x;
		m2 += x * x;
		m3 += x * x * x;
		m4 += x * x * x * x;
		if (i % 2) pair += x * rng_normal(key, i - 1);
		u1 += u;
		u2 += u * u;
		lo = u < lo ? u : lo;
		hi = u > hi ? u : hi;
	}
	check(fabs(m1 / N) < 5 / root, "normal: mean 0");
	check(fabs(m2 / N - 1) < 5 * sqrt(2) / root, "normal: variance 1");
	check(fabs(m3 / N) < 5 * sqrt(15) / root, "normal: symmetric");
	check(fabs(m4 / N - 3) < 5 * sqrt(96) / root, "normal: fourth moment 3");
	check(fabs(2 * pair / N) < 5 * sqrt(2) / root,
	      "normal: the two of a pair are independent");
	check(fabs(u1 / N - 0.5) < 5 * sqrt(1.0 / 12) / root, "uniform: mean 1/2");
	check(fabs(u2 / N - 1.0 / 3) < 5 * sqrt(4.0 / 45) / root, "uniform: second moment 1/3");
	check(lo >= 0 && hi < 1 && lo < 1e-3 && hi > 1 - 1e-3,
	      "uniform: in [0, 1), and all of it");
}

static void
dropout_rate(void)
{
	enum { N = 100000 };
	const double rate = 0.1;
	int dropped = 0;
	uint64_t key = rng_key(5, "block.0");

	for (uint64_t i = 0; i < N; i++)
		dropped += rng_bits(key, 17, i) < rate * 4294967296.0;
	check(fabs(dropped - rate * N) < 5 * sqrt(N * rate * (1 - rate)),
	      "dropped as often as asked");
}

int
main(void)
{
	known_answers();
	keys();
	moments();
	dropout_rate();
	if (failures) return 1;
	printf("rng: %d checks ok\n", checks);
	return 0;
}
