/*
 * schedule.c - the learning rate of every step: what the schedules of a model's train block mean. Steps count from 0.
 *
 *   const           peak
 *   warmup          peak (t + 1) / warmup while t < warmup, in all of the following
 *   cosine          from peak down to floor along half a cosine, reaching it at `steps`, floor from there
 *   linear_decay    the same along a straight line
 *   inverse_sqrt    peak sqrt(warmup / (t + 1)), warmup at least 1
 */
#include <math.h>

#include "gvrt_int.h"

RT_EXACT double
rt_rate(const GvrtTrain *t, uint64_t step)
{
	double at = (double)step;
	if (t->rate == GVRT_CONST) return t->peak;
	if (at < t->warmup) return t->peak * (at + 1) / t->warmup;
	if (t->rate == GVRT_INVERSE_SQRT)
		return t->peak * sqrt((t->warmup > 1 ? t->warmup : 1) / (at + 1));
	double span = t->steps - t->warmup;
	double done = span > 0 && at < t->steps ? (at - t->warmup) / span : 1;
	double left =
	    t->rate == GVRT_COSINE ? 0.5 * (1 + cos(3.141592653589793 * done)) : 1 - done;
	return t->floor + (t->peak - t->floor) * left;
}
