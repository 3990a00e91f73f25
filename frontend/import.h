/*
 * import.h - galvatronc import: files that Hetu-Galvatron measured. Private to frontend/main.c and import.c.
 */
#ifndef GV_IMPORT_H
#define GV_IMPORT_H

#include "frontend/options.h"
#include "ir/galvatron.h"

typedef struct Imported {
	GalFiles *files;
	const Cluster *
	    cluster; /* with no device given, of devices of which nothing is known but --memory */
	const Profile *profile; /* a .prof is asked for: nothing else then */
	bool plans;             /* a plan is asked for, not a .hw */
	uint32_t *layers, ntypes, hidden, seq;
	int64_t batch;
} Imported;

/* Reads what the options name. Returns -1 to go on, else the exit status. */
int import_read(Ctx *c, const Options *o, Imported *out);
/* Writes a text to -o, or stdout. Returns the exit status. */
int import_write(const Options *o, const Buf *text);

#endif
