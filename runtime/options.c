/*
 * options.c - the command line of a trained program, as one table, and the table of its environment variables.
 *
 * What fixes shapes is decided at compile time; these are the settings of one run. The first mistake is one line in Err.
 */
#include <stdlib.h>

#include "gvrt_int.h"

typedef enum Kind { K_FLAG, K_INT, K_NUM, K_TEXT, K_CHOICE } Kind;

typedef struct Row {
	const char *name,
	    *arg; /* without the dashes; arg NULL: a flag; of a choice: the words, of which its number is kept */
	Kind kind;
	size_t at; /* of the field in Options */
	double lo, hi;
	const char *help;
} Row;

#define AT(field) offsetof(Options, field)
#define BIG       9007199254740992.0 /* 2^53: whole numbers that a double holds */

static const Row table[] = {
    {"data", "PATH", K_TEXT, AT(data), 0, 0,
     "training data: a file, a directory of shards, or a quoted glob"},
    {"val-data", "PATH", K_TEXT, AT(val_data), 0, 0, "validation data, read in order"},
    {"data-format", "auto|bytes|llmc|u16|u32|safetensors", K_CHOICE, AT(format), 0, 0,
     "(default auto: by magic number and name)"},
    {"order", "shuffled|sequential", K_CHOICE, AT(order), 0, 0,
     "of training samples (default shuffled, anew every epoch)"},
    {"steps", "N", K_INT, AT(steps), 0, BIG,
     "train until step N, counted from the very first (default: the model's)"},
    {"seed", "N", K_INT, AT(seed), 0, BIG,
     "of initial weights, dropout, shuffling and sampling (default: the model's)"},
    {"lr", "RATE", K_NUM, AT(lr), 0, 1e30, "peak learning rate (default: the model's)"},
    {"warmup", "N", K_INT, AT(warmup), 0, BIG, "steps of warm-up (default: the model's)"},
    {"decay-steps", "N", K_INT, AT(decay_steps), 1, BIG,
     "step at which the schedule reaches its floor (default: the model's)"},
    {"init", "FILE", K_TEXT, AT(init), 0, 0, "start from the parameters in a safetensors file"},
    {"checkpoint", "DIR", K_TEXT, AT(checkpoint), 0, 0,
     "write checkpoints under DIR: at the end, on SIGTERM, and as --save-every says"},
    {"save-every", "N", K_INT, AT(save_every), 1, BIG, "steps between checkpoints"},
    {"resume", "DIR", K_TEXT, AT(resume), 0, 0,
     "go on from the newest complete checkpoint under DIR"},
    {"eval-every", "N", K_INT, AT(eval_every), 1, BIG,
     "steps between validations (default: only at the end)"},
    {"eval-batches", "N", K_INT, AT(eval_batches), 1, BIG,
     "batches of a validation (default 10)"},
    {"sample", "N", K_INT, AT(sample), 1, 1e9, "when done, continue the prompt by N tokens"},
    {"prompt", "TEXT", K_TEXT, AT(prompt), 0, 0,
     "text, or token numbers where tokens are not bytes"},
    {"temperature", "T", K_NUM, AT(temperature), 0, 1e6,
     "of sampling; 0: the most likely token (default 0.8)"},
    {"top-k", "K", K_INT, AT(top_k), 1, 1e9,
     "sample among the K most likely tokens (default: all)"},
    {"log-every", "N", K_INT, AT(log_every), 1, BIG,
     "steps between lines of progress (default 10; 1 with --json)"},
    {"json", NULL, K_FLAG, AT(json), 0, 0, "progress as one JSON object a line"},
    {"quiet", NULL, K_FLAG, AT(quiet), 0, 0, "no header and no progress"},
    {"threads", "N", K_INT, AT(threads), 1, 4096, "(default: the cores this process may use)"},
    {"dump-grads", "FILE", K_TEXT, AT(dump_grads), 0, 0,
     "write the first step's gradients, before clipping, as safetensors"},
    {"help", NULL, K_FLAG, AT(help), 0, 0, "this text"},
};

static const struct {
	const char *name, *help;
} environment[] = {
    {"GVRT_HELP=1", "prints this table and exits"},
    {"GVRT_POISON=1", "fills buffers with NaN when the plan says they are dead"},
    {"GVRT_HUGE_PAGES=0", "does not ask for huge pages"},
    {"GVRT_OVERCOMMIT=1", "starts even if the arena exceeds the memory that is available"},
    {"GVRT_LAUNCH=0",
     "leaves the environment as it is: no second start with the settings below"},
    {"GVRT_PEAK=FLOPS",
     "takes this as the machine's peak instead of timing a product; 0: no utilisation"},
    {"GVRT_TRANSPORT=mpi",
     "several ranks: over MPI even where they could share memory (window)"},
    {"GVRT_TIMEOUT=SECONDS",
     "several ranks: a rank that stands still so long ends the job; 0: never (default 4)"},
    {"GVRT_TTY=1",
     "several ranks: the line of progress is rewritten in place; make run sets it"},
    {"GVRT_TRAFFIC=FILE", "several ranks: writes what each sent in the last step to FILE.RANK"},
    {"GVRT_SYNC_SEND=1", "several ranks: messages over MPI are sent synchronously, for tests"},
    {"GVRT_METERS=FILE", "made with --instrument: writes times of kernels to FILE.RANK"},
    {"GVRT_METER_SECONDS=S", "made with --instrument: as many steps as take S seconds"},
    {"OPENBLAS_CORETYPE", "kernels of OpenBLAS (default: the widest this processor runs)"},
    {"OMP_NUM_THREADS", "threads, where --threads is not given"},
    {"OMP_PROC_BIND", "pinning of threads (default: pinned if they are as many as the cores)"},
};

static bool
parse_int(const char *s, const Row *row, int64_t *out, Err *e)
{
	char *end;
	long long n = strtoll(s, &end, 10);
	if (s[0] < '0' || s[0] > '9' || *end || (double)n < row->lo || (double)n > row->hi)
		return rt_fail(e, "--%s takes a whole number from %.0f to %.0f, not \"%s\"",
			       row->name, row->lo, row->hi, s);
	*out = n;
	return true;
}

static bool
parse_num(const char *s, const Row *row, double *out, Err *e)
{
	char *end;
	double x = strtod(s, &end);
	bool plain = strspn(s, "0123456789.eE+-") == strlen(s);
	if (!*s || *end || !plain || !(x >= row->lo && x <= row->hi))
		return rt_fail(e, "--%s takes a number from %g to %g, not \"%s\"", row->name,
			       row->lo, row->hi, s);
	*out = x;
	return true;
}

/* The number of a word in "one|two|three". */
static bool
parse_choice(const char *s, const Row *row, int64_t *out, Err *e)
{
	size_t n = strlen(s), len;
	int64_t i = 0;
	for (const char *word = row->arg;; word += len + 1, i++) {
		len = strcspn(word, "|");
		if (len == n && !memcmp(word, s, n)) {
			*out = i;
			return true;
		}
		if (!word[len]) break;
	}
	return rt_fail(e, "--%s is one of %s, not \"%s\"", row->name, row->arg, s);
}

static bool
set(Options *o, const Row *row, const char *value, Err *e)
{
	void *field = (char *)o + row->at;
	switch (row->kind) {
	case K_FLAG: *(bool *)field = true; return true;
	case K_INT: return parse_int(value, row, field, e);
	case K_NUM: return parse_num(value, row, field, e);
	case K_CHOICE: return parse_choice(value, row, field, e);
	case K_TEXT: break;
	}
	if (!*value && strcmp(row->name, "prompt") != 0)
		return rt_fail(e, "--%s takes a %s, not an empty one", row->name, row->arg);
	*(const char **)field = value;
	return true;
}

/* --name, --name value, --name=value at argv[*i]; moves *i to the last argument used. */
static bool
parse_one(Options *o, int argc, char *const *argv, int *i, Err *e)
{
	const char *arg = argv[*i];
	if (strncmp(arg, "--", 2) != 0) {
		if (!strcmp(arg, "-h")) return o->help = true;
		return rt_fail(e, "unexpected argument \"%s\"; --help lists the options", arg);
	}
	const char *name = arg + 2;
	size_t n = strcspn(name, "=");
	for (size_t k = 0; k < RT_COUNTOF(table); k++) {
		const Row *row = &table[k];
		if (strlen(row->name) != n || memcmp(row->name, name, n) != 0) continue;
		if (row->kind == K_FLAG)
			return name[n] ? rt_fail(e, "--%s takes no value", row->name)
				       : set(o, row, "", e);
		if (name[n]) return set(o, row, name + n + 1, e);
		if (*i + 1 >= argc)
			return rt_fail(e, "--%s needs a value: %s", row->name, row->arg);
		return set(o, row, argv[++*i], e);
	}
	return rt_fail(e, "unknown option \"%s\"; --help lists them", arg);
}

/* Options that need each other, or that this program cannot serve. */
static bool
check(Options *o, const GvrtProgram *p, Err *e)
{
	bool trains = p->step && p->grad >= 0;
	if (!trains && o->has_steps && o->steps > 0)
		return rt_fail(e, "this program was compiled with --forward: it has no "
				  "training step, leave --steps out");
	if (!trains) o->steps = 0;
	if (!trains && o->dump_grads)
		return rt_fail(
		    e, "this program was compiled with --forward: it makes no gradients");
	if (!trains && o->data && !o->val_data) o->val_data = o->data, o->data = NULL;
	if (o->resume && o->init)
		return rt_fail(e,
			       "--resume and --init both name the first parameters: give one");
	if (o->save_every && !o->checkpoint)
		return rt_fail(e, "--save-every needs --checkpoint DIR");
	if (o->eval_every && !o->val_data)
		return rt_fail(e, "--eval-every needs --val-data PATH");
	if (o->steps > 0 && !o->data && p->ninputs > 0 && !p->nmeters)
		return rt_fail(e, "no training data: give --data PATH");
	if (o->sample && (p->logits_at == -1 || p->seq <= 0))
		return rt_fail(
		    e, "--sample needs a model that reports logits over an input named tokens");
	return true;
}

bool
options_parse(Options *o, int argc, char *const *argv, const GvrtProgram *p, Err *e)
{
	const GvrtTrain *t = &p->train;
	*o = (Options){.steps = -1,
		       .seed = -1,
		       .lr = -1,
		       .warmup = -1,
		       .eval_batches = 10,
		       .temperature = 0.8};
	for (int i = 0; i < argc; i++)
		if (!parse_one(o, argc, argv, &i, e)) return false;
	o->has_steps = o->steps >= 0;
	o->has_seed = o->seed >= 0;
	if (!o->has_steps) o->steps = t->steps > 0 && t->steps < BIG ? (int64_t)t->steps : 0;
	if (!o->has_seed) o->seed = (int64_t)t->seed;
	if (!o->log_every) o->log_every = o->json ? 1 : 10;
	return o->help || check(o, p, e);
}

void
options_help(const GvrtProgram *p)
{
	rt_outf("%s: a program that galvatronc made from %s\n\noptions:\n", p->model,
		p->source);
	for (size_t k = 0; k < RT_COUNTOF(table); k++) {
		char left[64];
		snprintf(left, sizeof left, "--%s%s%s", table[k].name, table[k].arg ? " " : "",
			 table[k].arg ? table[k].arg : "");
		rt_outf("  %-22s%s %s\n", left,
			strlen(left) > 22 ? "\n                        " : "", table[k].help);
	}
	rt_outf("\nSIGTERM and SIGINT end the run after the current step, with a checkpoint if "
		"--checkpoint was given.\n"
		"GVRT_HELP=1 lists the environment variables.\n");
}

void
options_environment(void)
{
	rt_outf("environment:\n");
	for (size_t k = 0; k < RT_COUNTOF(environment); k++)
		rt_outf("  %-22s %s\n", environment[k].name, environment[k].help);
}

bool
options_switch(const char *name, bool otherwise)
{
	const char *s = getenv(name);
	return s && *s ? strcmp(s, "0") != 0 : otherwise;
}
