/*
 * codegen.h - module at level mem -> the sources of a program.
 *
 * One target today, `host`: C with OpenMP and a BLAS. What is emitted links against runtime/ and includes nothing of
 * the compiler. The same module gives the same bytes, whatever the machine and the folder.
 */
#ifndef GV_CODEGEN_H
#define GV_CODEGEN_H

#include "ir/ir.h"

typedef struct CgOptions {
	const char *dir; /* where to emit; made if it is not there */
	const char *
	    runtime_dir; /* the runtime's sources; the one path in the output, as a variable of the Makefile */
	bool metered; /* programs time their kernels, for profiles */
} CgOptions;

/* Emits DIR/Makefile, a DIR/src/stage_K.c for every stage, DIR/src/traffic and DIR/src/manifest. Files of an earlier
 * emission go, by its manifest; a folder that holds anything else of unknown origin is refused. False after diagnostics;
 * then nothing was written. */
bool cg_emit(Ctx *c, const Module *m, const CgOptions *o);

/* The program text of a stage alone. False after diagnostics. */
bool cg_program(Ctx *c, const Module *m, uint32_t stage, Buf *out);

#endif
