/*
 * frontend.h - GDL text to a Module at level graph.
 *
 * lexer.l parser.y ast.c: text -> tree (ast.h). scope.c number.c value.c index.c arith.c ops.c attention.c call.c stmt.c
 * param.c layer.c train.c load.c: tree -> Module (elab.h), in one walk that computes numbers, emits ops for tensors,
 * and unrolls what is decided when compiled.
 *
 * The language is described in models/README.md. Nothing here knows a model: the one axis name known is `batch`.
 */
#ifndef GV_FRONTEND_H
#define GV_FRONTEND_H

#include "ir/ir.h"

typedef struct FeOptions {
	const char *path;       /* the GDL file; messages call it by its basename */
	const char *const *set; /* "name=value", top-level axes and numbers */
	int nset;
	DType precision; /* --precision: DT_bf16, DT_f32, DT_f64; DT_none: the model's */
	bool host;       /* the target has no bf16: it is replaced by f32 */
} FeOptions;

/* The whole front end. NULL after diagnostics. The module lives in c->perm. */
Module *fe_load(Ctx *c, const FeOptions *o);
/* The same for a text in memory, which must outlive the Ctx; `o->path` is only its name. */
Module *fe_parse_text(Ctx *c, const FeOptions *o, const char *text, size_t n);
/* The top-level axes and numbers that the file gives as whole literals above 1, --set first: what a smaller copy of the
 * model may change. In c->perm. False after diagnostics. */
typedef struct FeNumber {
	Name name;
	int64_t value;
} FeNumber;
bool fe_numbers(Ctx *c, const FeOptions *o, FeNumber **out, uint32_t *n);
/* Prints the syntax tree, for --emit=ast. False after diagnostics. */
bool fe_dump_ast(Ctx *c, const char *path, FILE *out);

#endif
