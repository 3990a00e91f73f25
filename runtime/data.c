/*
 * data.c - where samples come from: windows of token files, or rows of a safetensors file.
 *
 * Windows do not overlap, do not cross files, and hold seq tokens and the one that follows. All windows of all files
 * are numbered; an epoch is a permutation of the numbers, computed and not stored, so that row i of step t is a pure function of
 * (seed, t, i): nothing of the data's state needs saving. Only the rows asked for are read, from the mapped file.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gvrt_int.h"

enum { MAX_FILES = 1 << 16, FEISTEL_ROUNDS = 8 };
#define SCAN        \
	(INT64_C(1) \
	 << 24) /* tokens of a file that are checked before training, the rest when they are used */

/* Bytes of an element. */
static size_t
input_size(const GvrtInput *x)
{
	return x->kind == GVRT_I32 ? sizeof(int32_t) : x->kind == GVRT_REAL ? sizeof(real) : 1;
}

static const GvrtInput *
find_input(const GvrtProgram *p, const char *name)
{
	for (size_t i = 0; i < p->ninputs; i++)
		if (!strcmp(p->inputs[i].name, name)) return &p->inputs[i];
	return NULL;
}

/*
 * The sample at a place of an epoch: a permutation of [0, n) for every (key, epoch).
 * A Feistel network over the smallest square of a power of two that holds n, walked until it lands below n: at
 * most four steps on average. Source: J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002.
 */
static int64_t
source_permute(uint64_t key, uint64_t epoch, int64_t n, int64_t i)
{
	int half = 1;
	while (half < 31 && (INT64_C(1) << 2 * half) < n)
		half++;
	uint64_t mask = (UINT64_C(1) << half) - 1, x = (uint64_t)i;
	do {
		uint64_t left = x >> half, right = x & mask;
		for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
			uint64_t next =
			    left ^ (rt_philox(key, epoch, round << 32 | right).r[0] & mask);
			left = right;
			right = next;
		}
		x = left << half | right;
	} while (x >= (uint64_t)n);
	return (int64_t)x;
}

/* ---- opening ---- */

static bool
map_file(TokenFile *f, DataFormat format, const char *path, Err *e)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) return rt_fail(e, "%s: %s", path, strerror(errno));
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return rt_fail(e, "%s: not a file", path);
	}
	if (st.st_size == 0) {
		close(fd);
		return rt_fail(e, "%s: the file is empty", path);
	}
	void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return rt_fail(e, "%s: cannot map it: %s", path, strerror(errno));
	bool ok = tokens_parse(f, format, map, (size_t)st.st_size, path, e);
	f->map = map;
	f->map_bytes = (size_t)st.st_size;
	return ok;
}

static char *
copy_path(Pool *pool, const char *dir, const char *name)
{
	size_t n = strlen(dir) + strlen(name) + 2;
	char *s = pool_alloc(pool, n);
	snprintf(s, n, "%s%s%s", dir, *dir && dir[strlen(dir) - 1] != '/' ? "/" : "", name);
	return s;
}

static int
by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The files of a directory but hidden ones, by name. */
static bool
list_dir(const char *path, Pool *pool, const char **names, size_t *n, Err *e)
{
	DIR *d = opendir(path);
	if (!d) return rt_fail(e, "%s: %s", path, strerror(errno));
	for (struct dirent *x; (x = readdir(d)) && *n < MAX_FILES;) {
		struct stat st;
		if (x->d_name[0] == '.') continue;
		char *name = copy_path(pool, path, x->d_name);
		if (stat(name, &st) == 0 && S_ISREG(st.st_mode)) names[(*n)++] = name;
	}
	closedir(d);
	return *n > 0 || rt_fail(e, "%s: no files in this directory", path);
}

static bool
list_glob(const char *path, Pool *pool, const char **names, size_t *n, Err *e)
{
	glob_t g;
	int status = glob(path, 0, NULL, &g);
	if (status == 0)
		for (size_t i = 0; i < g.gl_pathc && *n < MAX_FILES; i++)
			names[(*n)++] = copy_path(pool, "", g.gl_pathv[i]);
	if (status != GLOB_NOSPACE) globfree(&g);
	return *n > 0 || rt_fail(e, "%s: no such file", path);
}

/* Every file is opened and its windows are numbered. */
static bool
open_files(Source *s, Pool *pool, DataFormat format, int64_t extra, Err *e)
{
	struct stat st;
	size_t n = 0;
	const char **names = POOL_N(pool, const char *, MAX_FILES);
	if (stat(s->path, &st) != 0) {
		if (!list_glob(s->path, pool, names, &n, e)) return false;
	} else if (S_ISDIR(st.st_mode)) {
		if (!list_dir(s->path, pool, names, &n, e)) return false;
	} else {
		names[n++] = s->path;
	}
	if (n == MAX_FILES) return rt_fail(e, "%s: more than %d files", s->path, MAX_FILES - 1);
	qsort(names, n, sizeof *names, by_text);
	s->files = POOL_N(pool, TokenFile, n);
	s->bytes = true;
	for (; s->nfiles < n; s->nfiles++) {
		TokenFile *f = &s->files[s->nfiles];
		if (!map_file(f, format, names[s->nfiles], e)) return false;
		f->first = s->samples;
		s->samples += f->tokens > extra ? (f->tokens - extra) / s->p->seq : 0;
		s->tokens += f->tokens;
		s->bytes = s->bytes && f->width == 1;
	}
	return true;
}

static bool
bad_token(const TokenFile *f, int64_t i, uint32_t token, int64_t range, Err *e)
{
	return rt_fail(e, "%s: %s %u at position %lld, and the model takes tokens below %lld",
		       f->path, f->width == 1 ? "byte" : "token", token, (long long)i,
		       (long long)range);
}

static bool
scan_tokens(const TokenFile *f, int64_t range, Err *e)
{
	if (range <= 0 || (f->width == 1 && range >= 256)) return true;
	for (int64_t i = 0; i < f->tokens && i < SCAN; i++) {
		uint32_t x = token_at(f, i);
		if (x >= range) return bad_token(f, i, x, range, e);
	}
	return true;
}

/* Token data serves inputs named tokens and labels, of equal length. */
static bool
open_tokens(Source *s, Pool *pool, DataFormat format, Err *e)
{
	const GvrtProgram *p = s->p;
	const GvrtInput *tokens = find_input(p, "tokens"), *labels = find_input(p, "labels");
	if (!tokens || p->seq <= 0)
		return rt_fail(e, "the model has no input named tokens: give --data "
				  "FILE.safetensors with an entry for every input");
	for (size_t i = 0; i < p->ninputs; i++) {
		const GvrtInput *x = &p->inputs[i];
		if ((x != tokens && x != labels) || x->kind != GVRT_I32 ||
		    x->per_sample != p->seq)
			return rt_fail(e,
				       "the model's input %s cannot be read from tokens: give "
				       "--data FILE.safetensors "
				       "with an entry for every input",
				       x->name);
	}
	if (!open_files(s, pool, format, labels ? 1 : 0, e)) return false;
	int64_t range = tokens->range;
	if (labels && labels->range > 0 && (range <= 0 || labels->range < range))
		range = labels->range;
	/* One rank looks ahead; what it does not see is found when it is used. */
	for (size_t i = 0; i < s->nfiles && s->first; i++)
		if (!scan_tokens(&s->files[i], range, e)) return false;
	return true;
}

static bool
converts(const GvrtInput *x, StType t)
{
	switch (x->kind) {
	case GVRT_I32:
		return t == ST_I64 || t == ST_I32 || t == ST_I16 || t == ST_I8 || t == ST_U32 ||
		       t == ST_U16 || t == ST_U8;
	case GVRT_REAL: return t == ST_F64 || t == ST_F32 || t == ST_F16 || t == ST_BF16;
	default: return t == ST_BOOL || t == ST_U8;
	}
}

/* One entry [N, ...] for every input. */
static bool
open_tensors(Source *s, Pool *pool, Err *e)
{
	const GvrtProgram *p = s->p;
	if (!st_open(&s->tensors, pool, s->path, e)) return false;
	s->entries = POOL_N(pool, const StEntry *, p->ninputs + 1);
	for (size_t i = 0; i < p->ninputs; i++) {
		const GvrtInput *x = &p->inputs[i];
		const StEntry *t = st_find(&s->tensors, x->name);
		if (!t)
			return rt_fail(e, "%s: no entry for the model's input %s", s->path,
				       x->name);
		int64_t n = t->ndims > 0 ? t->dims[0] : 0;
		if (n == 0 || t->count / n != x->per_sample)
			return rt_fail(e,
				       "%s: entry %s holds %lld elements in %lld samples, and "
				       "a sample of the model takes %lld",
				       s->path, x->name, (long long)t->count, (long long)n,
				       (long long)x->per_sample);
		if (!converts(x, t->type))
			return rt_fail(e, "%s: entry %s is %s, and the model takes %s", s->path,
				       x->name, st_type_name(t->type),
				       x->kind == GVRT_I32    ? "whole numbers"
				       : x->kind == GVRT_REAL ? "floating-point numbers"
							      : "BOOL or U8");
		if (i > 0 && n != s->samples)
			return rt_fail(e, "%s: %lld samples of %s and %lld of %s", s->path,
				       (long long)s->samples, p->inputs[0].name, (long long)n,
				       x->name);
		s->entries[i] = t;
		s->samples = n;
	}
	return true;
}

/* Whether a file is a safetensors file, by its name. */
static bool
named_tensors(const char *path)
{
	size_t n = strlen(path);
	return n > 12 && !strcmp(path + n - 12, ".safetensors");
}

bool
source_open(Source *s, Pool *pool, const GvrtProgram *p, const char *path, DataFormat format,
	    bool shuffled, uint64_t seed, int rank, Err *e)
{
	int64_t batch = p->microbatch * p->microbatches;
	*s =
	    (Source){.p = p, .path = path, .shuffled = shuffled, .key = gvrt_key(seed, "data")};
	s->local = p->stage_ranks ? rank - p->stage_ranks[p->stage].rank : 0;
	s->first = rank == 0;
	bool tensors = format == DF_TENSORS || (format == DF_AUTO && named_tensors(path));
	if (!(tensors ? open_tensors(s, pool, e) : open_tokens(s, pool, format, e)))
		return false;
	if (s->samples >= batch) return true;
	if (tensors)
		return rt_fail(e, "%s: %lld samples, and a step takes %lld", path,
			       (long long)s->samples, (long long)batch);
	return rt_fail(e, "%s: %s tokens make %lld samples of %lld, and a step takes %lld",
		       path, rt_count(s->tokens).s, (long long)s->samples, (long long)p->seq,
		       (long long)batch);
}

/* ---- reading ---- */

/* What is being read of one input of one sample, and where to. */
typedef struct Reading {
	const Source *s;
	size_t input;
	unsigned char *out; /* of the local row */
	int64_t sample;     /* or window */
	Err *e;
} Reading;

static const TokenFile *
file_of(const Source *s, int64_t window)
{
	size_t lo = 0, hi = s->nfiles;
	while (hi - lo > 1) { /* the last file whose first window is not after this one */
		size_t mid = lo + (hi - lo) / 2;
		if (s->files[mid].first <= window)
			lo = mid;
		else
			hi = mid;
	}
	return &s->files[lo];
}

static bool
read_tokens(void *arg, int64_t first, int64_t local, int64_t n)
{
	const Reading *r = arg;
	const GvrtInput *x = &r->s->p->inputs[r->input];
	const TokenFile *f = file_of(r->s, r->sample);
	int32_t *out = (int32_t *)(void *)r->out + local;
	int64_t at =
	    (r->sample - f->first) * r->s->p->seq + first + (strcmp(x->name, "labels") == 0);
	int64_t range = x->range > 0 ? x->range : INT32_MAX;
	for (int64_t i = 0; i < n; i++) {
		uint32_t token = token_at(f, at + i);
		if (token >= range) return bad_token(f, at + i, token, range, r->e);
		out[i] = (int32_t)token;
	}
	return true;
}

static bool
read_tensor(void *arg, int64_t first, int64_t local, int64_t n)
{
	const Reading *r = arg;
	const Source *s = r->s;
	const GvrtInput *x = &s->p->inputs[r->input];
	const StEntry *entry = s->entries[r->input];
	unsigned char *out = r->out + (size_t)local * input_size(x);
	int64_t at = r->sample * x->per_sample + first;
	bool ok = x->kind == GVRT_I32
		      ? st_read_i32(&s->tensors, entry, at, n, (int32_t *)(void *)out)
		  : x->kind == GVRT_REAL
		      ? st_read_real(&s->tensors, entry, at, n, (real *)(void *)out)
		      : st_read_bool(&s->tensors, entry, at, n, out);
	if (!ok) return rt_fail(r->e, "%s: entry %s cannot be read", s->path, x->name);
	const int32_t *v = (const int32_t *)(const void *)out;
	for (int64_t i = 0; x->kind == GVRT_I32 && x->range > 0 && i < n; i++)
		if (v[i] < 0 || v[i] >= x->range)
			return rt_fail(
			    r->e, "%s: %s %d in sample %lld, and the model takes 0 to %lld",
			    s->path, x->name, v[i], (long long)r->sample,
			    (long long)x->range - 1);
	return true;
}

/* Elements of an input that this rank has, padding included. */
static int64_t
local_count(const GvrtProgram *p, const GvrtInput *x)
{
	int64_t n = 1;
	if (!x->part) return p->microbatch * x->per_sample;
	for (int k = 0; k < x->part->naxes; k++)
		n *= part_block(&x->part->axis[k], &p->meshes[x->part->mesh]);
	return n;
}

void
input_blank(const GvrtProgram *p, const GvrtInput *x, unsigned char *slot)
{
	if (x->at >= 0) memset(slot + x->at, 0, (size_t)local_count(p, x) * input_size(x));
}

/* Rows of one input; `first` is the number of the microbatch's first sample. */
static bool
read_input(const Source *s, size_t k, unsigned char *slot, int64_t first, Err *e)
{
	const GvrtProgram *p = s->p;
	const GvrtInput *x = &p->inputs[k];
	const GvrtPart *part = x->part;
	PartFn *fn = s->entries ? read_tensor : read_tokens;
	int64_t lo = 0, hi = p->microbatch, row_elems = x->per_sample, coord[GVRT_MESH];
	Reading r = {.s = s, .input = k, .e = e};
	if (x->at < 0) return true;
	if (part) {
		input_blank(p, x, slot); /* padding is zero */
		part_coords(&p->meshes[part->mesh], s->local, coord);
		part_range(&part->axis[0], &p->meshes[part->mesh], coord, &lo, &hi);
		row_elems =
		    local_count(p, x) / part_block(&part->axis[0], &p->meshes[part->mesh]);
	}
	for (int64_t row = lo; row < hi; row++) {
		int64_t i = (first + row) % s->samples;
		uint64_t epoch = (uint64_t)((first + row) / s->samples);
		if (s->shuffled) i = source_permute(s->key, epoch, s->samples, i);
		r.sample = i;
		r.out = slot + x->at;
		if (!part) {
			r.out += (size_t)(row * row_elems) * input_size(x);
			if (!fn(&r, 0, 0, row_elems)) return false;
		} else if (!part_runs(part, &p->meshes[part->mesh], coord, row, fn, &r)) {
			return false;
		}
	}
	return true;
}

void
input_draw(const GvrtProgram *p, unsigned char *slot, uint64_t first)
{
	for (size_t k = 0; k < p->ninputs; k++) {
		const GvrtInput *x = &p->inputs[k];
		uint32_t range = x->range > 0 && x->range < INT32_MAX ? (uint32_t)x->range : 2;
		int64_t n = x->at >= 0 ? local_count(p, x) : 0;
		unsigned char *to = slot + x->at;
		for (int64_t i = 0; i < n; i++) {
			uint32_t bits = gvrt_bits(k + 1, first, (uint64_t)i);
			if (x->kind == GVRT_I32)
				((int32_t *)(void *)to)[i] = (int32_t)(bits % range);
			else if (x->kind == GVRT_BOOL)
				to[i] = bits & 1;
			else
				((real *)(void *)to)[i] = (real)(bits * 0x1p-32 - 0.5);
		}
	}
}

bool
source_rows(const Source *s, unsigned char *slot, int64_t first, Err *e)
{
	for (size_t k = 0; k < s->p->ninputs; k++)
		if (!read_input(s, k, slot, first, e)) return false;
	return true;
}
