/*
 * attend.h - an attention while it is printed. Private to attend.c and attend_plain.c.
 */
#ifndef GV_ATTEND_H
#define GV_ATTEND_H

#include "codegen/cg.h"

enum { MAX_OUTER = 8 };

typedef struct Attend {
	CgBody *c;
	const Op *op;
	Val q, k, v, o, lse, dout, mask, bias;
	Val dq, dk, dv, dbias;
	AxisList outer, keys, feat, values;
	Axis query;       /* NO_AXIS: one query */
	Type outer_types; /* uses of the outer axes */
	bool misfit;      /* the kernel cannot take this layout */
	const char *name; /* of the descriptor, in a block of its own */
} Attend;

/* Row-major places of dropout draws among the scores of the whole model: strides of the rows' axes, and where the rows
 * of this microbatch and rank begin. */
typedef struct DropPlace {
	AxisList axes; /* of the rows, outermost first */
	int64_t stride[MAX_AXES];
	const char *base; /* NULL: at 0, or nothing is dropped */
} DropPlace;
DropPlace attend_drop_place(const Attend *t);

/* The same as plain loops. */
void attend_plain(Attend *t);
void attend_plain_grad(Attend *t);

#endif
