/*
 * rate.c - the learning rate of a step: the one meaning of every schedule.
 *
 * cosine and linear_decay rise from peak / warmup to peak, then fall to floor at `steps` and stay there.
 * inverse_sqrt is T5's (Raffel et al. 2020, section 3.1.2), scaled so that it starts at peak.
 */
#include "ir/ir.h"

#include <math.h>

/* How far step t is from the end of the warmup (0) to the last step (1). */
static double
progress(const Train *t, double step)
{
	if (step >= t->steps) return 1; /* also where there is nothing after the warmup */
	return (step - t->warmup) / (t->steps - t->warmup);
}

double
train_rate(const Train *t, uint64_t step_number)
{
	static const double pi = 3.14159265358979323846;
	double step = (double)step_number, fall = t->peak - t->floor, w;

	switch (t->rate) {
	case RATE_cosine:
		if (step < t->warmup) return t->peak * (step + 1) / t->warmup;
		return t->floor + fall * 0.5 * (1 + cos(pi * progress(t, step)));
	case RATE_linear_decay:
		if (step < t->warmup) return t->peak * (step + 1) / t->warmup;
		return t->floor + fall * (1 - progress(t, step));
	case RATE_inverse_sqrt:
		w = fmax(t->warmup, 1);
		return t->peak * sqrt(w) / sqrt(fmax(step + 1, w));
	case RATE_const: break;
	}
	return t->peak;
}
