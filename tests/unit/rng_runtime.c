/*
 * rng_runtime.c - the compiler's and the runtime's random numbers and learning rates are the same functions, bit for bit.
 * The runtime's sources are included here: the two share no header.
 */
#include <stdio.h>

#include "ir/ir.h"

#define GVRT_F64 /* real is double: nothing of what is compared depends on it */
#include "runtime/rng.c"
#include "runtime/schedule.c"

static int checks, failures;

static void
same(const void *a, const void *b, size_t n, const char *what, uint64_t at)
{
	checks++;
	if (!memcmp(a, b, n)) return;
	failures++;
	printf("rng_runtime: FAILED: %s at %llu\n", what, (unsigned long long)at);
}

static void
numbers(uint64_t key, uint64_t index)
{
	double a = rng_normal(key, index), b = rt_normal(key, index);
	same(&a, &b, sizeof a, "normal", index);
	a = rng_uniform(key, index);
	b = rt_uniform(key, index);
	same(&a, &b, sizeof a, "uniform", index);
	uint32_t x = rng_bits(key, index * 3, index), y = gvrt_bits(key, index * 3, index);
	same(&x, &y, sizeof x, "bits", index);
	Philox p = rng_philox(key, index, ~index);
	RtPhilox q = rt_philox(key, index, ~index);
	same(p.r, q.r, sizeof p.r, "philox", index);
}

static void
rates(RateKind compiler, int runtime, double warmup, double steps)
{
	Train t = {
	    .rate = compiler, .peak = 6e-4, .warmup = warmup, .steps = steps, .floor = 3e-5};
	GvrtTrain u = {.peak = 6e-4, .warmup = warmup, .steps = steps, .floor = 3e-5};
	u.rate = (uint8_t)runtime;
	for (uint64_t step = 0; step < 200; step++) {
		double a = train_rate(&t, step), b = rt_rate(&u, step);
		same(&a, &b, sizeof a, "rate", step);
	}
}

int
main(void)
{
	static const char *const names[] = {"", "wte.weight", "h.11.attn.c_attn.weight",
					    "\xc3\xa9"};
	for (size_t i = 0; i < COUNTOF(names); i++)
		for (uint64_t seed = 0; seed < 4; seed++) {
			uint64_t s = seed * 0x123456789ABCDEF, a = rng_key(s, names[i]),
				 b = gvrt_key(s, names[i]);
			same(&a, &b, sizeof a, "key", seed);
			for (uint64_t k = 0; k < 50; k++)
				numbers(a, k < 40 ? k : k << 50 | k);
		}
	static const double lengths[][2] = {{0, 100},   {10, 100}, {100, 100},
					    {150, 100}, {1, 0},    {0, 0}};
	for (size_t i = 0; i < COUNTOF(lengths); i++) {
		rates(RATE_const, GVRT_CONST, lengths[i][0], lengths[i][1]);
		rates(RATE_cosine, GVRT_COSINE, lengths[i][0], lengths[i][1]);
		rates(RATE_linear_decay, GVRT_LINEAR_DECAY, lengths[i][0], lengths[i][1]);
		rates(RATE_inverse_sqrt, GVRT_INVERSE_SQRT, lengths[i][0], lengths[i][1]);
	}
	if (failures) return 1;
	printf("rng_runtime: %d checks ok\n", checks);
	return 0;
}
