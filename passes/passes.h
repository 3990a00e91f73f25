/*
 * passes.h - everything that turns a module of one level into a module of the same or the next level.
 *
 * A pass is a function over a Module; passes call no other pass and meet only in the IR. Sections follow the files in
 * the order the pipeline runs them. README.md has the invariants.
 */
#ifndef GV_PASSES_H
#define GV_PASSES_H

#include "ir/ir.h"

typedef struct Pass {
	const char *name; /* flag and file name: -d NAME, NN-NAME.gir */
	const char *doc;  /* one line for --help-passes */
	Level in, out;    /* what the verifier checks before and after */
	bool (*run)(Ctx *, Module *); /* false: diagnostics were issued */
} Pass;

/* simplify.c */

/* LV_graph -> LV_graph. Expands normalize, folds, applies exact identities, merges common subexpressions, drops dead code. */
bool pass_simplify(Ctx *c, Module *m);

/* autodiff.c */

/* LV_graph -> LV_train. B and W bodies of every layer type; `saved` and `carry` lists; PORT_save in F. */
bool pass_autodiff(Ctx *c, Module *m);

/* grad.c */

/* optimizer.c */

/* LV_train -> LV_train. N and U bodies of every layer type that owns parameters. */
bool pass_optimizer(Ctx *c, Module *m);

#endif
