/*
 * options.h - the command line of galvatronc as one table. Private to frontend/main.c and options.c.
 */
#ifndef GV_OPTIONS_H
#define GV_OPTIONS_H

#include "ir/ir.h"

typedef enum Command { CMD_compile, CMD_eval, CMD_check, CMD_import, CMD_diff } Command;

struct Options {
	Command command;
	const char *file;      /* .gdl, or a dump of any level (.gir) */
	const char *files[64]; /* import: all of them; diff: the plans */
	int nfiles;
	const char *out;    /* -o DIR; import: a file */
	const char *target; /* "host" */
	const char *trace;  /* --trace FILE */
	const char *emit;   /* ast, a level, plan (its text) or plan-ir; NULL: programs */
	const char *stop_after, *dump, *dump_dir;
	const char *plan, *cluster, *profile, *solve;
	const char *recompute, *precision, *memory;
	const char *microbatches, *threads, *ranks, *schedule, *max_tp, *max_zero, *stages;
	const char *set[64];
	int nset;
	bool instrument, shorten;
	const char *explain; /* "": the summary; all; LAYER[:STRATEGY] */
	const char *report;  /* a page in HTML */
	bool forward, roundtrip, time, print_passes, help, version, quiet;
	const char *sweep; /* NAME=A..B[:STEP] */
	/* eval */
	const char *data, *steps, *seed, *order;
	/* import */
	const char *device, *layers, *hidden, *seq, *batch, *map;
};

/* Fills *o from the arguments. Returns -1 to go on, else the exit status after one line on stderr (2: usage). */
int options_parse(Options *o, int argc, char **argv);
void options_help(FILE *f);
/* "3", "512M", "2.5GiB", "80GB" -> bytes; false if it is not a size. */
bool parse_bytes(const char *s, int64_t *bytes);
/* A whole number in lo..hi; false otherwise. */
bool parse_whole(const char *s, int64_t lo, int64_t hi, int64_t *value);
/* What follows the last slash of a path, and whether a text ends so. */
const char *base_name(const char *path);
bool ends_with(const char *s, const char *end);

#endif
