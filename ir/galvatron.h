/*
 * galvatron.h - Hetu-Galvatron's files: strategies of layers, in and out; what it measured of machines and models, in.
 *
 * What a file says is held in a struct with a field for every field of the file; nothing is assumed that is not written.
 * Units of the files: MB = 2^20 bytes, ms.
 */
#ifndef GV_GALVATRON_H
#define GV_GALVATRON_H

#include "ir/cluster.h"
#include "ir/json.h"

/* A field and what it means stay on one line. */
/* clang-format off */

typedef struct GalFrom { /* a file */
	Name file;
	uint32_t nodes, gpus; /* that its name says; 0: it says none */
} GalFrom;

/* Of "..._2nodes_8gpus_per_node...". */
GalFrom gal_from(const Names *names, Name file);

/* ---- galvatron_plan.c: a strategy for every layer ---- */

/* Of a layer: its ranks are split (data parallel, context parallel, tp) from the outside in; strided: tp outermost. */
typedef struct GalLayer {
	uint32_t tp, cp;
	bool consecutive; /* tp_consecutive_flags */
	bool zero3;       /* dp_types_enc */
	bool ulysses;     /* use_sp: the tp ranks split the sequence, not the weights */
	bool checkpoint;  /* recompute all of it */
} GalLayer;

typedef struct GalPlan {
	uint32_t stages, world, chunks;
	int64_t batch;
	uint32_t nlayers; /* without embedding and head */
	GalLayer *layer;
	uint32_t *division; /* [stages] layers of each */
	Schedule schedule;
	bool zero2; /* default_dp_type; else ddp */
	uint32_t vtp, vcp; /* of embedding and head */
	bool vsp, vzero3;
} GalPlan;

/* Reads a strategy file. `ranks`: what --ranks says, 0: nothing; where the file has no world_size. False after diagnostics. */
bool gal_plan_read(Arena *a, Names *n, Diag *d, Name file, const char *text, size_t len, uint32_t ranks, GalPlan *out);
void gal_plan_print(const GalPlan *p, Buf *out);
/* The strategy file as the plan of a module, checked like a .plan. False after diagnostics. */
bool gal_plan_parse(Module *m, Diag *d, Name file, const char *text, size_t len, uint32_t ranks);
/* The plan of a module as a strategy file says it. False after diagnostics: what it cannot say. */
bool gal_plan_of(const Module *m, Diag *d, Arena *a, GalPlan *out);

/* ---- galvatron_read.c: what was measured ---- */

typedef struct GalRate { /* MB per ms */
	GalFrom from;
	uint32_t ranks;   /* of a group; of p2p: stages */
	bool consecutive; /* all_reduce: members side by side; else as far apart as they can be */
	double rate;      /* all_reduce: bus bandwidth */
} GalRate;

typedef struct GalTable { /* of consecutive ranks: time by message */
	GalFrom from;
	PrimKind kind; /* PR_all_reduce, PR_all_to_all */
	uint32_t ranks, n, cap;
	struct GalPoint { uint32_t mb; double ms; } *point; /* [n] rising */
} GalTable;

typedef struct GalTime { /* forward of a layer, ms a sample */
	uint32_t type; /* GAL_OTHER: embedding and head together */
	uint32_t batch, seq;
	double ms;
} GalTime;
enum { GAL_OTHER = UINT32_MAX };

typedef struct GalDegrees { /* a quantity in MB by tensor-parallel degree */
	uint32_t n, cap;
	struct GalByDegree { uint32_t degree; double mb; } *of;
} GalDegrees;

typedef struct GalMemory { /* of a layer */
	uint32_t type, seq;
	bool sp;             /* measured with sequence parallelism around tp */
	double parameters;   /* MB, 4 bytes each */
	GalDegrees activation; /* a sample */
	double checkpoint;   /* MB a sample, recomputed; 0: not measured */
} GalMemory;

/* ORDER GalWhere */
typedef enum GalWhere { GAL_off, GAL_first, GAL_last, GAL_PLACES } GalWhere; /* one stage; the first of several, the last */

typedef struct GalOther { /* embedding and head */
	GalWhere where;
	uint32_t seq;
	bool sp;
	GalDegrees states, activation; /* 16 bytes a parameter; a sample */
} GalOther;

typedef struct GalFiles {
	Arena *arena;
	Names *names;
	Diag *diag;
	GalRate *all_reduce, *p2p;
	uint32_t nall_reduce, call_reduce, np2p, cp2p;
	GalTable *table;
	uint32_t ntable, ctable;
	double overlap; /* 0: not measured */
	GalTime *time;
	uint32_t ntime, ctime;
	GalMemory *memory;
	uint32_t nmemory, cmemory;
	GalOther *other;
	uint32_t nother, cother;
	Name *file;
	uint32_t nfile, cfile;
} GalFiles;

GalFiles *gal_files(Arena *a, Names *n, Diag *d);
/* One more file, whose keys say what it is. False after diagnostics. */
bool gal_files_add(GalFiles *f, Name file, const char *text, size_t len);

/* The sequence length asked for, or (0) the only one whose layers were timed. False after a diagnostic. */
bool gal_seq(const GalFiles *f, uint32_t asked, uint32_t *out);
/* Times of a layer type; false: none at that length. */
bool gal_layer_time(const GalFiles *f, uint32_t type, uint32_t seq, LayerTime *out);
/* "layertype_3", "layertype_other". */
bool gal_type_parse(const char *s, size_t len, uint32_t *out);

/* ---- galvatron_hw.c: a machine ---- */

/* What the files say of the machine, with devices like `kind`; NULL after diagnostics. Warns of what is missing. */
Cluster *gal_cluster(const GalFiles *f, const Device *kind);

#endif
