/*
 * schedule.c - the learning rate of every step (from 0): ir/rate.c of the compiler is the same function, by test.
 *
 *   const           peak
 *   cosine          peak (t + 1) / warmup while t < warmup; then half a cosine down to floor at `steps`, floor from there
 *   linear_decay    the same along a straight line
 *   inverse_sqrt    peak sqrt(w) / sqrt(max(t + 1, w)), w = max(warmup, 1)
 */
#include <math.h>

#include "gvrt_int.h"

RT_EXACT double
rt_rate(const GvrtTrain *t, uint64_t step)
{
	double at = (double)step, fall = t->peak - t->floor, w = fmax(t->warmup, 1);
	if (t->rate == GVRT_CONST) return t->peak;
	if (t->rate == GVRT_INVERSE_SQRT) return t->peak * sqrt(w) / sqrt(fmax(at + 1, w));
	if (at < t->warmup) return t->peak * (at + 1) / t->warmup;
	double done = at >= t->steps ? 1 : (at - t->warmup) / (t->steps - t->warmup);
	if (t->rate == GVRT_LINEAR_DECAY) return t->floor + fall * (1 - done);
	return t->floor + fall * 0.5 * (1 + cos(3.14159265358979323846 * done));
}
