/*
 * infer.h - what the inference rules share; private to ir/infer*.c.
 *
 * A rule reads operands and attributes from an Infer and fills out[]; it returns false after inf_fail(). The helpers that
 * return bool have failed with a diagnostic when they return false, so that a rule is a chain of &&.
 */
#ifndef GV_INFER_H
#define GV_INFER_H

#include "ir/ir.h"

typedef struct Infer {
	const Module *m;
	const Body *b;
	const Op *op;
	Diag *d; /* NULL: a type error is an internal error */
	const Type *in[UINT8_MAX];
	Type *out;
} Infer;

/* One diagnostic at the op, "'dot': text"; false. */
bool inf_fail(const Infer *x, const char *fmt, ...) GV_PRINTF(2, 3);
const char *inf_axis_str(const Infer *x, Axis a);
const char *inf_axes_str(const Infer *x, const Type *t); /* "[batch@dp seq +tp]" */
const char *inf_mesh_str(const Infer *x, unsigned bits); /* "dp tp" */
unsigned inf_use_shards(const AxisUse *u);               /* mesh axes as bits */

/* ---- axes ---- */
bool inf_has_axis(const Infer *x, const Type *t, Axis a, const char *what);
bool inf_has_axes(const Infer *x, const Type *t, const AxisList *l, const char *what);
bool inf_lacks_axis(const Infer *x, const Type *t, Axis a, const char *what);
bool inf_distinct(const Infer *x, const AxisList *l);
bool inf_whole_axis(const Infer *x, const Type *t, Axis a); /* not split over a mesh axis */
bool inf_whole_axes(const Infer *x, const Type *t, const AxisList *l);
/* Adds a use to a type, or checks that the type has that axis split alike. */
bool inf_join(const Infer *x, Type *t, const AxisUse *u);
bool inf_join_all(const Infer *x, Type *t, const Type *with);
/* Union of axes, in the order of the operand with most axes, then the rest; dtype and partial are left alone. */
bool inf_unite(const Infer *x, const Type *const *in, int n, Type *t);
/* t with the axes of `from` gone and `to` standing where the first of them stood (at the end if there is none). */
bool inf_replace_axes(const Infer *x, Type *t, const AxisList *from, const AxisUse *to,
		      int nto);
AxisList inf_one_axis(Axis a);

/* ---- data types ---- */
DType inf_model_float(
    const Module *m); /* of arithmetic on whole numbers that leaves them: f64 or f32 */
DType inf_to_float(const Infer *x, DType dt);   /* whole numbers become model_float */
DType inf_stat_float(const Infer *x, DType dt); /* of statistics: at least f32 */
bool inf_number(const Infer *x, int k);         /* operand k is not bool */
bool inf_boolean(const Infer *x, int k);
bool inf_whole_number(const Infer *x, int k); /* i32 */
bool inf_promote(const Infer *x, int first, int n, DType *dt);
DType inf_product_dtype(const Infer *x, DType a,
			DType b); /* of dot and attention: bf16 where either is */

/* ---- pending sums ---- */
bool inf_settled(const Infer *x, int first,
		 int n); /* operands first .. first + n - 1 are not pending */
bool inf_like_terms(const Infer *x, int first, int n,
		    uint16_t *partial); /* all pending alike, or zero */

/* The rules, one per op of ops.def. */
#define OP(code, ...) bool infer_##code(Infer *x);
#include "ir/ops.def"

#endif
