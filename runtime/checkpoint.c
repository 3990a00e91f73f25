/*
 * checkpoint.c - DIR/step-N/model.safetensors (parameters, under their names) and optimizer.safetensors ("m:name", "v:name").
 *
 * A checkpoint is written into DIR/step-N.tmp, synced, and renamed: one that has its name is complete, whatever
 * happened. All ranks write into one set of files; rank 0 makes and renames them. What else a run needs (step, seed, samples consumed) is metadata of both files. The last RT_KEEP are kept, and
 * only directories that this run, or the one it resumed, has written are ever removed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gvrt_int.h"

#define MODEL     "model.safetensors"
#define OPTIMIZER "optimizer.safetensors"

enum { NABOUT = 6, LINE = 256 };

/* DIR/step-N + suffix [+ /file]; false if it does not fit. */
static bool
make_path(char out[RT_PATH], const char *dir, uint64_t step, const char *suffix,
	  const char *file, Err *e)
{
	int n = snprintf(out, RT_PATH, "%s/step-%llu%s%s%s", dir, (unsigned long long)step,
			 suffix, *file ? "/" : "", file);
	return n < RT_PATH || rt_fail(e, "the path %.60s... is too long", dir);
}

static void
describe(StAbout about[NABOUT], const GvrtRun *r, const GvrtProgram *p, int64_t samples)
{
	about[0] = (StAbout){"format", "pt", 0};
	about[1] = (StAbout){"gvrt", NULL, GVRT_ABI};
	about[2] = (StAbout){"model", p->model, 0};
	about[3] = (StAbout){"step", NULL, r->step};
	about[4] = (StAbout){"seed", NULL, r->seed};
	about[5] = (StAbout){"samples", NULL, (uint64_t)samples};
}

static size_t
moments(const GvrtProgram *p, StSection s[2])
{
	size_t n = 0;
	if (p->m >= 0) s[n++] = (StSection){"m:", GVRT_M};
	if (p->v >= 0) s[n++] = (StSection){"v:", GVRT_V};
	return n;
}

/* mkdir -p */
static bool
make_dirs(const char *path, Err *e)
{
	char part[RT_PATH];
	size_t n = strlen(path);
	if (n >= sizeof part) return rt_fail(e, "the path %.60s... is too long", path);
	for (size_t i = 1; i <= n; i++) {
		if (path[i] != '/' && path[i] != 0) continue;
		memcpy(part, path, i);
		part[i] = 0;
		if (mkdir(part, 0777) != 0 && errno != EEXIST)
			return rt_fail(e, "cannot make the directory %s: %s", part,
				       strerror(errno));
	}
	struct stat st;
	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return true;
	return rt_fail(e, "%s is not a directory", path);
}

bool
checkpoint_start(Checkpoint *c, Pool *pool, const char *dir, const GvrtProgram *p, Err *e)
{
	StSection model = {"", GVRT_PARAM}, opt[2];
	StAbout about[NABOUT];
	GvrtRun r = {.step = UINT64_MAX, .seed = UINT64_MAX};
	if (dir && !make_dirs(dir, e)) return false;
	describe(about, &r, p, INT64_MAX);
	*c = (Checkpoint){.dir = dir, .table = params_table(p, pool)};
	size_t one = st_header_bytes(&c->table, &model, 1, about, NABOUT);
	size_t two = st_header_bytes(&c->table, opt, moments(p, opt), about, NABOUT);
	c->cap = one > two ? one : two;
	c->header = pool_alloc(pool, c->cap);
	return true;
}

/* Removes a checkpoint's files and its directory; a directory with anything else in it stays. */
static void
drop(const char *dir, uint64_t step, const char *suffix)
{
	char path[RT_PATH];
	Err e;
	if (make_path(path, dir, step, suffix, MODEL, &e)) unlink(path);
	if (make_path(path, dir, step, suffix, OPTIMIZER, &e)) unlink(path);
	if (make_path(path, dir, step, suffix, "", &e)) rmdir(path);
}

static bool
sync_dir(const char *path, Err *e)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0 && fsync(fd) == 0;
	if (!ok) rt_fail(e, "cannot sync %s: %s", path, strerror(errno));
	if (fd >= 0) close(fd);
	return ok;
}

/* DIR/step-N.tmp -> DIR/step-N; one already there gives way. */
static bool
publish(const char *dir, uint64_t step, Err *e)
{
	char from[RT_PATH], to[RT_PATH], old[RT_PATH];
	if (!make_path(from, dir, step, ".tmp", "", e) ||
	    !make_path(to, dir, step, "", "", e) || !make_path(old, dir, step, ".old", "", e))
		return false;
	if (!sync_dir(from, e)) return false;
	if (rename(from, to) != 0) {
		bool taken = errno == ENOTEMPTY || errno == EEXIST;
		int why = errno;
		drop(dir, step, ".old");
		errno = why;
		bool moved = taken && rename(to, old) == 0 && rename(from, to) == 0;
		if (!moved)
			return rt_fail(e, "cannot rename %s to %s: %s", from, to,
				       strerror(errno));
		drop(dir, step, ".old");
	}
	return sync_dir(dir, e);
}

/* Counts a checkpoint as ours and removes the oldest when there are too many. */
static void
keep(Checkpoint *c, uint64_t step)
{
	if (c->nmade && c->made[c->nmade - 1] == step) return;
	c->made[c->nmade++] = step;
	if (c->nmade <= RT_KEEP) return;
	drop(c->dir, c->made[0], "");
	c->nmade--;
	memmove(c->made, c->made + 1, sizeof *c->made * (size_t)c->nmade);
}

/* An empty DIR/step-N.tmp. */
static bool
make_aside(const Checkpoint *c, uint64_t step, Err *e)
{
	char path[RT_PATH];
	drop(c->dir, step, ".tmp");
	if (!make_path(path, c->dir, step, ".tmp", "", e)) return false;
	return mkdir(path, 0777) == 0 ||
	       rt_fail(e, "cannot make the directory %s: %s", path, strerror(errno));
}

static bool
write_files(Checkpoint *c, const GvrtRun *r, const GvrtProgram *p, int64_t samples, Err *e)
{
	char path[RT_PATH];
	StSection model = {"", GVRT_PARAM}, opt[2];
	StAbout about[NABOUT];
	size_t nopt = moments(p, opt);
	describe(about, r, p, samples);
	if (!make_path(path, c->dir, r->step, ".tmp", MODEL, e) ||
	    !st_write(r, &c->table, path, &model, 1, about, NABOUT, c->header, c->cap, e))
		return false;
	return !nopt ||
	       (make_path(path, c->dir, r->step, ".tmp", OPTIMIZER, e) &&
		st_write(r, &c->table, path, opt, nopt, about, NABOUT, c->header, c->cap, e));
}

bool
checkpoint_save(Checkpoint *c, const GvrtRun *r, const GvrtProgram *p, int64_t samples, Err *e)
{
	Comm *comm = r->state->comm;
	bool first = r->state->at.rank == 0, ok = !first || make_aside(c, r->step, e);
	ok = comm_agree(comm, ok, e) && write_files(c, r, p, samples, e);
	if (ok && first) ok = publish(c->dir, r->step, e);
	if (!comm_agree(comm, ok, e)) {
		if (first) drop(c->dir, r->step, ".tmp");
		return false;
	}
	if (first) keep(c, r->step);
	c->current = true;
	return true;
}

/* ---- loading ---- */

static void
shape_text(char out[LINE], const int64_t *dims, int ndims)
{
	size_t n = 0;
	out[n++] = '[';
	for (int d = 0; d < ndims && n + 24 < LINE; d++)
		n += (size_t)snprintf(out + n, LINE - n, "%s%lld", d ? " " : "",
				      (long long)dims[d]);
	snprintf(out + n, LINE - n, "]");
}

typedef struct Loading {
	const StFile *f;
	const StEntry *x;
} Loading;

static bool
load_run(void *arg, int64_t first, int64_t n, real *out)
{
	const Loading *l = arg;
	return st_read_real(l->f, l->x, first, n, out);
}

/* What this rank has of a parameter; the entry's shape is compared by all. */
static bool
load_one(const StFile *f, const char *name, const GvrtRun *r, const GvrtParam *q, uint32_t i,
	 GvrtSection s, Err *e)
{
	Loading l = {f, st_find(f, name)};
	const StEntry *x = l.x;
	if (!x) return rt_fail(e, "%s: no entry \"%s\"", f->path, name);
	bool same = x->ndims == q->ndims;
	for (int d = 0; same && d < x->ndims; d++)
		same = x->dims[d] == q->dims[d];
	if (!same || x->count != q->count) {
		char has[LINE], wants[LINE];
		shape_text(has, x->dims, x->ndims);
		shape_text(wants, q->dims, q->ndims);
		return rt_fail(
		    e, "%s: entry \"%s\" has shape %s, and the program's parameter has %s",
		    f->path, name, has, wants);
	}
	return param_runs(r, q, i, s, false, load_run, &l) ||
	       rt_fail(e, "%s: entry \"%s\" is %s, and parameters are floating-point", f->path,
		       name, st_type_name(x->type));
}

/* A section's parameters from the entries prefix + name. Adds the entries to *found. */
static bool
load_section(const StFile *f, GvrtRun *r, const GvrtProgram *p, StSection s, size_t *found,
	     Err *e)
{
	size_t np = strlen(s.prefix);
	for (size_t k = 0; k < p->nparams; k++) {
		const GvrtParam *q = &p->params[k];
		if (q->borrowed && s.section != GVRT_PARAM) continue;
		for (uint32_t i = 0; i < param_repeat(q); i++) {
			char name[8 + RT_NAME];
			memcpy(name, s.prefix, np);
			param_name(q, i, name + np);
			if (!load_one(f, name, r, q, i, s.section, e)) return false;
			*found += !q->borrowed;
		}
	}
	return true;
}

/* Whether the program has a parameter of this name. */
static bool
is_param(const GvrtProgram *p, const char *name)
{
	for (size_t k = 0; k < p->nparams; k++)
		for (uint32_t i = 0; i < param_repeat(&p->params[k]); i++) {
			char own[RT_NAME];
			param_name(&p->params[k], i, own);
			if (!strcmp(own, name)) return true;
		}
	return false;
}

/* More entries than the program has parameters: name one. */
static bool
extra_entry(const StFile *f, const GvrtProgram *p, size_t skip, Err *e)
{
	for (size_t i = 0; i < f->n; i++) {
		const char *name = f->entries[i].name;
		if (strlen(name) < skip || !is_param(p, name + skip))
			return rt_fail(
			    e, "%s: entry \"%.200s\" is none of the program's parameters",
			    f->path, name);
	}
	return rt_fail(e, "%s: more entries than the program has parameters", f->path);
}

static bool
meta_number(const StFile *f, const char *key, uint64_t *out, Err *e)
{
	const char *s = st_meta(f, key);
	char *end = NULL;
	errno = 0;
	*out = s && *s >= '0' && *s <= '9' ? strtoull(s, &end, 10) : 0;
	return (end && !*end && !errno) ||
	       rt_fail(e, "%s: not a checkpoint of a training run: its metadata has no %s",
		       f->path, key);
}

static bool
load_files(Pool *pool, GvrtRun *r, const GvrtProgram *p, const char *at, bool *unreadable,
	   Resumed *out, Err *e)
{
	char *path = pool_alloc(pool, RT_PATH), *path2 = pool_alloc(pool, RT_PATH);
	StFile f, g;
	StSection opt[2];
	uint64_t samples, step2;
	size_t found = 0, nopt = moments(p, opt);
	snprintf(path, RT_PATH, "%s/" MODEL, at);
	snprintf(path2, RT_PATH, "%s/" OPTIMIZER, at);
	*unreadable = true;
	if (!st_open(&f, pool, path, e) || (nopt && !st_open(&g, pool, path2, e))) return false;
	*unreadable = false;
	if (!meta_number(&f, "step", &out->step, e) ||
	    !meta_number(&f, "seed", &out->seed, e) || !meta_number(&f, "samples", &samples, e))
		return false;
	out->samples = (int64_t)(samples & INT64_MAX);
	if (!load_section(&f, r, p, (StSection){"", GVRT_PARAM}, &found, e)) return false;
	if (found != f.n) return extra_entry(&f, p, 0, e);
	st_close(&f);
	if (!nopt) return true;
	if (!meta_number(&g, "step", &step2, e)) return false;
	if (step2 != out->step)
		return rt_fail(e, "%s is of step %llu, and %s of step %llu", path,
			       (unsigned long long)out->step, path2, (unsigned long long)step2);
	found = 0;
	for (size_t i = 0; i < nopt; i++)
		if (!load_section(&g, r, p, opt[i], &found, e)) return false;
	if (found != g.n) return extra_entry(&g, p, 2, e);
	st_close(&g);
	return true;
}

/* The newest step-N under dir with N < below -> *step. */
static bool
newest(const char *dir, uint64_t below, uint64_t *step)
{
	bool any = false;
	DIR *d = opendir(dir);
	for (struct dirent *x; d && (x = readdir(d));) {
		char *end;
		if (strncmp(x->d_name, "step-", 5) != 0 || x->d_name[5] < '0' ||
		    x->d_name[5] > '9')
			continue;
		uint64_t n = strtoull(x->d_name + 5, &end, 10);
		if (*end || n >= below || (any && n < *step)) continue;
		*step = n;
		any = true;
	}
	if (d) closedir(d);
	return any;
}

/* Checkpoints that were there before, up to the one resumed, count among those kept. */
static void
inherit(Checkpoint *c, const char *dir, uint64_t step)
{
	uint64_t n, below = step + 1;
	struct stat a, b;
	if (!c->dir || stat(c->dir, &a) != 0 || stat(dir, &b) != 0 || a.st_ino != b.st_ino ||
	    a.st_dev != b.st_dev)
		return;
	for (; c->nmade < RT_KEEP && newest(dir, below, &n); below = n) {
		memmove(c->made + 1, c->made, sizeof *c->made * (size_t)c->nmade);
		c->made[0] = n;
		c->nmade++;
	}
	c->current = true;
}

bool
checkpoint_load(Checkpoint *c, Pool *pool, GvrtRun *r, const GvrtProgram *p, const char *dir,
		Resumed *out, Err *e)
{
	char path[RT_PATH];
	struct stat st;
	bool unreadable;
	uint64_t step, below = UINT64_MAX;
	if (stat(dir, &st) != 0) return rt_fail(e, "%s: %s", dir, strerror(errno));
	if (snprintf(path, sizeof path, "%s/" MODEL, dir) >= RT_PATH)
		return rt_fail(e, "the path %.60s... is too long", dir);
	if (access(path, F_OK) == 0) return load_files(pool, r, p, dir, &unreadable, out, e);
	for (; newest(dir, below, &step); below = step) {
		if (!make_path(path, dir, step, "", "", e)) return false;
		if (load_files(pool, r, p, path, &unreadable, out, e)) {
			inherit(c, dir, step);
			return true;
		}
		if (!unreadable) return false;
		rt_note("passing over an incomplete checkpoint: %s", e->text);
	}
	return rt_fail(e, "%s: no checkpoint to resume from", dir);
}

bool
checkpoint_init(Pool *pool, GvrtRun *r, const GvrtProgram *p, const char *path, Err *e)
{
	StFile f;
	size_t found = 0;
	if (!st_open(&f, pool, path, e)) return false;
	bool ok = load_section(&f, r, p, (StSection){"", GVRT_PARAM}, &found, e);
	if (ok && found < f.n)
		rt_note("%s: %zu entries that the program has no parameter for", path,
			f.n - found);
	st_close(&f);
	return ok;
}
