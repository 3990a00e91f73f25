/*
 * gvrt_int.h - what the runtime's files share and emitted programs do not see. One section per file.
 *
 * Conventions: functions return false and fill an Err on what the user or the machine did wrong; only main.c turns that
 * into a line and an exit status. Memory comes from a Pool while starting; after pool_seal() nothing allocates, so that
 * a training step never does. Files are little-endian, as every machine we emit for.
 */
#ifndef GVRT_INT_H
#define GVRT_INT_H

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "gvrt.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are read in place");

#define RT_PRINTF(a, b) __attribute__((format(printf, a, b)))
#define RT_COUNTOF(a)   (sizeof(a) / sizeof(*(a)))
#define RT_PATH         4096 /* bytes of the longest path made here */
#define RT_NAME         512  /* bytes of the longest parameter name */

/* No fused multiply-add: these results equal the interpreter's bit for bit. */
#if defined(__GNUC__) && !defined(__clang__)
#define RT_EXACT __attribute__((optimize("fp-contract=off")))
#else
#define RT_EXACT
#endif

/* OpenMP where the compiler has it; the runtime also builds without (fuzzers, analysers). */
#ifdef _OPENMP
#define OMP(x) _Pragma(#x)
#else
#define OMP(x)
#endif

/* ---- log.c: lines out, numbers for people ---- */
typedef struct Err {
	char text[1024];
} Err;

/* Fills e and returns false, so that a check reads: return rt_fail(e, "..."). */
bool rt_fail(Err *e, const char *fmt, ...) RT_PRINTF(2, 3);
/* "gvrt: error: text" and "gvrt: text" on standard error; one write a line, no stdio buffer. */
void rt_error(const char *fmt, ...) RT_PRINTF(1, 2);
void rt_note(const char *fmt, ...) RT_PRINTF(1, 2);
/* Standard output, written through at once. */
void rt_out(const char *s, size_t n);
void rt_outf(const char *fmt, ...) RT_PRINTF(1, 2);
/* Short text for people, in a buffer of the caller that is returned: "124,439,808", "1.50 GiB", "1h02m". */
typedef struct Text {
	char s[48];
} Text;
Text rt_count(int64_t n);
Text rt_bytes(int64_t n);
Text rt_duration(double seconds);
void
log_rank(int rank);  /* from here on only rank 0 has notes and output, each rank its errors */
double rt_now(void); /* seconds of a clock that never jumps */

/* ---- arena.c: the only place that asks the system for memory ---- */
typedef struct Pool {
	struct PoolBlock *blocks;
	bool sealed;
} Pool;

void *pool_alloc(
    Pool *pool,
    size_t
	bytes); /* zeroed, aligned to 64; never NULL: out of memory is one line and exit(1) */
void pool_seal(Pool *pool); /* from here on pool_alloc is an internal error */
void pool_free(Pool *pool);
#define POOL_N(pool, T, n) ((T *)pool_alloc(pool, sizeof(T) * (size_t)(n)))
/* The program's arena: zeroed, on huge pages where there are, its pages spread over the threads that first touch them.
 * together: what all ranks of this node are going to map. */
unsigned char *arena_map(int64_t bytes, int64_t together, Err *e);
/* Whether that fits the memory that is available; and zeroes what was mapped, with all threads. */
bool arena_fits(int64_t bytes, int64_t together, Err *e);
void arena_touch(unsigned char *at, int64_t bytes);

/* ---- options.c ---- */
typedef enum DataFormat { DF_AUTO, DF_BYTES, DF_LLMC, DF_U16, DF_U32, DF_TENSORS } DataFormat;

typedef struct Options {
	const char *data, *val_data, *resume, *checkpoint, *prompt, *dump_grads, *init;
	int64_t steps, seed, save_every, eval_every, eval_batches, sample, top_k, log_every,
	    threads;
	int64_t warmup, decay_steps;
	double lr, temperature;
	int64_t format; /* DataFormat */
	int64_t order;  /* 0: shuffled, 1: sequential */
	bool json, quiet, help;
	bool has_steps, has_seed; /* given, not defaulted */
} Options;

/* argv[0] and leading paths of stage programs are skipped by the caller. False: e says what is wrong. */
bool options_parse(Options *o, int argc, char *const *argv, const GvrtProgram *p, Err *e);
void options_help(const GvrtProgram *p);
void options_environment(void); /* the table of GVRT_* variables: GVRT_HELP=1 */
bool options_switch(const char *name,
		    bool otherwise); /* an environment variable that is 0 or 1 */

/* ---- launch.c: who am I, and in which environment ---- */
typedef struct Place {
	int rank, size;
	int local, locals; /* the same among the ranks of this machine */
	int threads;
	int cpus;            /* that this process may use */
	const char *command; /* that starts ranks here: "mpirun -n" */
	bool launched;       /* by such a one */
	int stage;           /* that was looked for */
	bool speaks;         /* the first of those with a mistake that rank 0 does not see */
} Place;

/* Reads rank and size from the environment. */
bool launch_rank(Place *at, Err *e);
/* Ends a rank that cannot start; those that are not to speak wait for the launcher to end them. */
int launch_refuse(const Place *at, const Err *e);

/* Checks them, finds this rank's stage among the paths, and executes it, or this program once
 * more, with the environment that OpenMP and the BLAS read when they are loaded. Returns in the program that stays. */
bool launch(Place *at, int npaths, char *const *paths, char *const *argv, const Options *o,
	    const GvrtProgram *p, Err *e);
/* How many arguments after argv[0] are paths of stages, which the shell put there. */
int launch_paths(int argc, char *const *argv);
const char *launch_better_core(
    void); /* what OPENBLAS_CORETYPE should say on this processor, if OpenBLAS chose clearly less; NULL: nothing */
const char *launch_core(void); /* the instruction set OpenBLAS chose; NULL: not an OpenBLAS */

/* ---- comm.c: all of these do nothing, or speak for this rank alone, where the Comm is NULL: a program of one rank ---- */
typedef struct Comm Comm;
Comm *comm_start(Pool *pool, const GvrtProgram *p, const Place *at, Err *e);
unsigned char *comm_arena(Comm *c, Pool *pool,
			  Err *e); /* shared with the node's other ranks if that can be */
void comm_stop(Comm *c);
_Noreturn void comm_abort(int status); /* ends the job */
void comm_sum(Comm *c, double *x,
	      int n); /* over the world, in place, the same bits on all ranks */
void comm_norm(Comm *c, double *x,
	       int n);       /* the same, as a communication of the step: it is counted */
double comm_waited(Comm *c); /* seconds that this rank stood in waits since the last call */
void comm_barrier(Comm *c);
int comm_first(Comm *c, bool mine);        /* the first rank that says yes; -1: none */
bool comm_agree(Comm *c, bool ok, Err *e); /* all ok? If not, e has a text on one rank only */
void comm_mark(Comm *c);                   /* counts traffic from here */
bool comm_traffic(const Comm *c, Err *e);  /* writes $GVRT_TRAFFIC.RANK */
bool comm_shares(const Comm *c);           /* the arenas are in each other's reach */

/* ---- exchange.c: arithmetic of meshes ---- */
void part_coords(const GvrtMesh *mesh, int64_t index, int64_t coord[GVRT_MESH]);
int64_t part_index(const GvrtMesh *mesh, unsigned axes, const int64_t *coord);
int64_t part_degree(const GvrtMesh *mesh, unsigned axes);
bool part_first(const GvrtMesh *mesh, unsigned axes, const int64_t *coord);
int64_t part_block(const GvrtAxis *a,
		   const GvrtMesh *mesh); /* local extent, padding included */
/* Positions [lo, hi) of an axis that the rank at these coordinates has. */
void part_range(const GvrtAxis *a, const GvrtMesh *mesh, const int64_t *coord, int64_t *lo,
		int64_t *hi);

/* A run of elements: its first in the whole tensor (in row `row` of axis 0, if row >= 0), its first in the local one, how many. */
typedef bool PartFn(void *arg, int64_t first, int64_t local, int64_t n);
bool part_runs(const GvrtPart *x, const GvrtMesh *mesh, const int64_t *coord, int64_t row,
	       PartFn *fn, void *arg);

/* ---- rng.c ---- */
typedef struct RtPhilox {
	uint32_t r[4];
} RtPhilox;
RtPhilox rt_philox(uint64_t key, uint64_t hi, uint64_t lo);
double rt_uniform(uint64_t key, uint64_t index); /* [0, 1) */
double rt_normal(uint64_t key, uint64_t index);
void rt_normal_pair(uint64_t key, uint64_t pair,
		    double out[2]); /* elements 2 pair and 2 pair + 1 */

/* ---- schedule.c ---- */
double rt_rate(const GvrtTrain *t, uint64_t step); /* the learning rate of a step (from 0) */

/* ---- params.c: the parameter table ---- */
static inline uint32_t
param_repeat(const GvrtParam *q)
{
	return q->suffix && q->repeat ? q->repeat : 1;
}
void param_name(const GvrtParam *q, uint32_t i, char name[RT_NAME]);
int64_t params_count(const GvrtProgram *p); /* elements of all */
/* Elements of parameter i of a row that this rank has in a section, run by run: the first in the checkpoint entry, how many, where.
 * owned: only those that this rank answers for, so that all ranks together name each once. */
typedef bool RunFn(void *arg, int64_t first, int64_t n, real *at);
bool param_runs(const GvrtRun *r, const GvrtParam *q, uint32_t i, GvrtSection s, bool owned,
		RunFn *fn, void *arg);
/* First values, from (seed, name, element) alone: the same under every plan and number of threads. */
void params_init(GvrtRun *r, const GvrtProgram *p);

/* Checkpoint entries by name, so that files do not depend on the plan. */
typedef struct ParamEntry {
	const char *name;
	const GvrtParam *q;
	uint32_t i;
} ParamEntry;
typedef struct ParamTable {
	ParamEntry *entry;
	size_t n;
} ParamTable;
ParamTable params_table(const GvrtProgram *p, Pool *pool);

/* ---- safetensors.c: reading; st_write.c: writing ---- */
typedef enum StType {
	ST_F64,
	ST_F32,
	ST_F16,
	ST_BF16,
	ST_I64,
	ST_I32,
	ST_I16,
	ST_I8,
	ST_U64,
	ST_U32,
	ST_U16,
	ST_U8,
	ST_BOOL,
	ST_TYPES
} StType;

typedef struct StEntry {
	const char *name;
	StType type;
	int ndims;
	int64_t dims[12];
	int64_t count;   /* elements */
	uint64_t lo, hi; /* bytes within the data */
} StEntry;

typedef struct StFile {
	const char *path;
	const unsigned char *map; /* the whole file; NULL if the bytes are the caller's */
	size_t map_bytes;
	const unsigned char *data;
	StEntry *entries; /* by name */
	size_t n;
	const char **meta; /* key, value, key, value */
	size_t nmeta;
} StFile;

bool st_open(StFile *f, Pool *pool, const char *path, Err *e);
bool st_parse(StFile *f, Pool *pool, const unsigned char *bytes, size_t n, const char *path,
	      Err *e);
void st_close(StFile *f);
const StEntry *st_find(const StFile *f, const char *name);
const char *st_meta(const StFile *f, const char *key); /* NULL: none */
const char *st_type_name(StType t);
/* Elements first .. first + n of an entry, converted. False: the stored type does not convert to what is wanted. */
bool st_read_real(const StFile *f, const StEntry *x, int64_t first, int64_t n, real *out);
bool st_read_i32(const StFile *f, const StEntry *x, int64_t first, int64_t n, int32_t *out);
bool st_read_bool(const StFile *f, const StEntry *x, int64_t first, int64_t n,
		  unsigned char *out);

typedef struct StSection {
	const char *prefix; /* of the entries' names */
	GvrtSection section;
} StSection;

/* What a file says about itself besides tensors. */
typedef struct StAbout {
	const char *key, *text; /* text NULL: the number */
	uint64_t number;
} StAbout;

/* Bytes of header that st_write needs at most for these sections. */
size_t st_header_bytes(const ParamTable *t, const StSection *s, size_t ns, const StAbout *about,
		       size_t nabout);
/* Writes every parameter of every section into a new file under path, synced: all ranks together, each its own part; they
 * fail together. header: scratch of cap bytes. */
bool st_write(const GvrtRun *r, const ParamTable *t, const char *path, const StSection *s,
	      size_t ns, const StAbout *about, size_t nabout, char *header, size_t cap, Err *e);

/* ---- data.c: where samples come from; tokens.c: files of tokens ---- */
typedef struct TokenFile {
	const char *path;
	const unsigned char *map; /* the file */
	size_t map_bytes;
	const unsigned char *at; /* the first token */
	int width;               /* bytes of one: 1, 2, 4 */
	int64_t tokens;
	int64_t first; /* number of its first window in the whole data */
} TokenFile;

/* A view of bytes as tokens, whatever the format says they are. */
bool tokens_parse(TokenFile *f, DataFormat format, const unsigned char *bytes, size_t n,
		  const char *path, Err *e);
uint32_t token_at(const TokenFile *f, int64_t i);

typedef struct Source {
	const GvrtProgram *p;
	const char *path;
	TokenFile *files;
	size_t nfiles;
	int64_t tokens;
	StFile tensors;          /* where the data is not tokens */
	const StEntry **entries; /* of the program's inputs */
	int64_t samples;         /* windows of seq + 1 tokens, or rows */
	bool bytes;              /* tokens are bytes of text */
	bool shuffled;
	uint64_t key;
	int64_t local; /* this rank, counted from its stage's first */
	bool first;    /* rank 0 */
} Source;

bool source_open(Source *s, Pool *pool, const GvrtProgram *p, const char *path,
		 DataFormat format, bool shuffled, uint64_t seed, int rank, Err *e);
/* Samples first, first + 1, ... of the endless sequence of epochs -> the rows of a microbatch, as far as this rank has them. */
bool source_rows(const Source *s, unsigned char *slot, int64_t first, Err *e);
/* Zeroes an input: all of it that this rank has. */
void input_blank(const GvrtProgram *p, const GvrtInput *x, unsigned char *slot);

/* Anything that is in range, where there is no source: programs that are only timed. */
void input_draw(const GvrtProgram *p, unsigned char *slot, uint64_t first);

/* ---- checkpoint.c ---- */
enum { RT_KEEP = 3 }; /* checkpoints kept */

typedef struct Checkpoint {
	const char *dir;
	ParamTable table;
	char *header;
	size_t cap;
	uint64_t made[RT_KEEP + 1]; /* steps of checkpoints that are ours, oldest first */
	int nmade;
	bool current; /* the newest of them holds the present state */
} Checkpoint;

typedef struct Resumed {
	uint64_t step, seed;
	int64_t samples; /* consumed */
} Resumed;

bool checkpoint_start(Checkpoint *c, Pool *pool, const char *dir, const GvrtProgram *p, Err *e);
bool checkpoint_save(Checkpoint *c, const GvrtRun *r, const GvrtProgram *p, int64_t samples,
		     Err *e);
/* The newest complete checkpoint under dir (or dir itself, if it is one) -> parameters and moments. Those under the
 * same dir that c writes to become c's own: they count among the ones kept. */
bool checkpoint_load(Checkpoint *c, Pool *pool, GvrtRun *r, const GvrtProgram *p,
		     const char *dir, Resumed *out, Err *e);
/* Parameters only, from any safetensors file. */
bool checkpoint_init(Pool *pool, GvrtRun *r, const GvrtProgram *p, const char *path, Err *e);

/* ---- progress.c ---- */
typedef struct Progress {
	bool json, quiet, tty, open; /* open: a line is being rewritten in place */
	int64_t every;
	uint64_t first, last; /* steps of this run */
	double begun, shown;  /* times */
	uint64_t shown_step;
	double waited;        /* since then, of a rank on average */
	double tokens, flops; /* of one step */
	const char *unit;     /* "tok" or "samples" */
	double peak;          /* FLOP/s of a product; 0: not measured */
} Progress;

/* Floating-point operations per second of one float product, timed for 50 ms in the given scratch; 0: cannot tell. */
double progress_peak(unsigned char *scratch, int64_t bytes);
void progress_open(Progress *g, const GvrtProgram *p, const Options *o);
void progress_header(const Progress *g, const GvrtProgram *p, const Place *at,
		     const Source *data, const Comm *comm);
void progress_start(Progress *g, uint64_t first, uint64_t last);
/* After the update of r->step. */
void progress_step(Progress *g, const GvrtRun *r, const double *reports, const GvrtProgram *p);
void progress_eval(Progress *g, uint64_t step, const double *reports, int64_t batches,
		   const GvrtProgram *p);
void progress_event(Progress *g, const char *event, uint64_t step, const char *path);
void progress_break(Progress *g); /* ends the line that is rewritten in place, if one is */

/* ---- meter.c: programs that time what they run ---- */
enum {
	METER_STEPS = 64,
	METER_WARM = 2, /* steps that are not counted */
	METER_LEAST = 4 /* steps besides the first counted one, however short the time */
};

typedef struct Meters {
	double *mean;   /* [nmeters][METER_STEPS] ns of a call, of the last steps */
	double *step;   /* [METER_STEPS] ns of each whole */
	int64_t *calls; /* [nmeters] of a step */
	uint64_t steps; /* counted */
	int64_t begun;  /* of the step at hand */
} Meters;

void meters_start(Meters *x, Pool *pool, const GvrtProgram *p);
void meters_begin(Meters *x, const GvrtProgram *p); /* a step */
void meters_end(Meters *x, const GvrtProgram *p,
		uint64_t done); /* steps of this run, this one included */
/* The step to end with, so that $GVRT_METER_SECONDS are filled; known once the warm-up is over. */
uint64_t meters_last(const Meters *x, Comm *comm, const GvrtProgram *p, uint64_t step,
		     uint64_t last);
/* To $GVRT_METERS.RANK; without it, the dearest to standard output, for people. */
bool meters_write(const Meters *x, const GvrtProgram *p, const Place *at, bool people, Err *e);

/* ---- train.c ---- */
struct GvrtState {
	const GvrtProgram *p;
	const Options *o;
	Place at;
	Comm *comm; /* NULL: one rank */
	Pool pool;
	Source train, val;
	int64_t
	    shift; /* samples consumed at step 0, as if: nonzero after a resume with another batch size */
	double *sums; /* of the reports, this step */
	double *eval; /* and of a validation, with one more for whether a rank failed */
	double *norm; /* what gvrt_norm sums over the ranks */
	int stop;     /* the signal that ends the run: all ranks agree on the step */
	Checkpoint checkpoint;
	Progress progress;
	Meters meters;
	bool failed; /* a callback could not do its work: err says why */
	Err err;
};

/* Steps r->step .. last, then returns the exit status; r->step is where it stopped. */
int train_loop(GvrtRun *r, uint64_t last);
void train_signals(int ranks);            /* SIGTERM and SIGINT end the loop after the step */
void train_complain(struct GvrtState *s); /* the error, once for all ranks */
void train_blank(unsigned char *slot, const GvrtProgram *p); /* zeroes the inputs */
unsigned char *train_slot(const GvrtRun *r, const GvrtProgram *p, int64_t mb);

/* ---- sample.c ---- */
typedef struct Sampler {
	int32_t *window; /* the last n tokens, at most seq */
	int64_t n;
	real *logits, *heap;
	double *sum; /* of what each rank has of the logits */
	int64_t cols;
	bool bytes; /* tokens are bytes of text */
} Sampler;

/* Takes the prompt apart and sets the buffers up. */
bool sample_start(Sampler *s, Pool *pool, const GvrtProgram *p, const Options *o, bool bytes,
		  Err *e);
/* Continues the prompt by o->sample tokens on standard output. */
void sample_run(Sampler *s, GvrtRun *r, const GvrtProgram *p, const Options *o);

#endif
