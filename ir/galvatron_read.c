/*
 * galvatron_read.c - what Hetu-Galvatron measured of machines and models. The keys of a file say what it holds:
 *
 *   allreduce_size_8_consec_1: 154.2        bus bandwidth, MB/ms      pp_size_4: 138.6      MB/ms between stages
 *   allreduce_size_8_16MB_time: 0.294       ms, also all2all          overlap_coe: 1.126
 *   layertype_0_bsz8_seq2048: 3.94          ms a sample, forward      layertype_other_bsz8_seq2048
 *   layertype_0_sp: { "2048": { parameter_size, tp_activation_per_bsz_dict: { "1": ..., "checkpoint": ... } } }
 *   other_memory_pp_off_sp: { "2048": { model_states: { "1": ... }, activation: { "1": ... } } }
 *
 * MB = 2^20 bytes. Raw measurements that stand beside them (layernum[..., 1_2_4_sp) are left out: the others come from them.
 */
#include "ir/galvatron.h"
#include "ir/text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MB_SIZE = 1 << 20, MAX_SEQ = 1 << 24 };
/* Of everything measured, MB, ms, MB/ms: beyond them nothing is, and products stay in 63 bits. */
#define LEAST 1e-6
#define MOST  1e9

typedef struct Reading {
	GalFiles *f;
	JsonText t;
	GalFrom from;
	bool known, ok; /* some key was understood */
} Reading;

GalFiles *
gal_files(Arena *a, Names *n, Diag *d)
{
	GalFiles *f = NEW(a, GalFiles);

	f->arena = a;
	f->names = n;
	f->diag = d;
	return f;
}

/* ---- keys ---- */

/* Does a key look like the pattern, where # stands for a number and a last * for the rest? The numbers, in order; each at
 * most UINT32_MAX - 1. */
static bool
matches(const char *key, const char *pattern, uint32_t *number)
{
	for (; *pattern; pattern++) {
		if (*pattern == '*') return true;
		if (*pattern != '#') {
			if (*key++ != *pattern) return false;
			continue;
		}
		uint64_t x = 0;

		if (*key < '0' || *key > '9') return false;
		for (; *key >= '0' && *key <= '9'; key++)
			if ((x = 10 * x + (uint64_t)(*key - '0')) >= UINT32_MAX) return false;
		*number++ = (uint32_t)x;
	}
	return !*key;
}

/* Numbers of a key in their range. */
static bool
in_range(Reading *r, const Json *v, const char *what, uint32_t x, uint32_t lo, uint32_t hi)
{
	if (x >= lo && x <= hi) return true;
	diag_error(r->t.diag, json_key_loc(&r->t, v),
		   "%s of %" PRIu32 "; there may be %" PRIu32 " to %" PRIu32, what, x, lo, hi);
	return r->ok = false;
}

static bool
positive(Reading *r, const Json *v, double *out)
{
	if (!json_between(&r->t, v, LEAST, MOST, out)) return r->ok = false;
	return true;
}

/* ---- of a machine ---- */

static void
read_rate(Reading *r, const Json *v, uint32_t ranks, uint32_t consecutive, bool p2p)
{
	GalFiles *f = r->f;
	GalRate x = {.from = r->from, .ranks = ranks, .consecutive = consecutive};

	if (!in_range(r, v, p2p ? "stages" : "a group", ranks, 2, MAX_RANKS) ||
	    !in_range(r, v, "consec", consecutive, 0, 1) || !positive(r, v, &x.rate))
		return;
	if (p2p)
		PUSH(f->arena, f->p2p, f->np2p, f->cp2p, x);
	else
		PUSH(f->arena, f->all_reduce, f->nall_reduce, f->call_reduce, x);
}

static GalTable *
table_of(Reading *r, PrimKind kind, uint32_t ranks)
{
	GalFiles *f = r->f;

	for (uint32_t i = 0; i < f->ntable; i++)
		if (f->table[i].kind == kind && f->table[i].ranks == ranks &&
		    f->table[i].from.file == r->from.file)
			return &f->table[i];
	PUSH(f->arena, f->table, f->ntable, f->ctable,
	     ((GalTable){.from = r->from, .kind = kind, .ranks = ranks}));
	return &f->table[f->ntable - 1];
}

static void
read_point(Reading *r, const Json *v, PrimKind kind, uint32_t ranks, uint32_t mb)
{
	struct GalPoint x = {.mb = mb}, p;
	GalTable *t;

	if (!in_range(r, v, "a group", ranks, 2, MAX_RANKS) ||
	    !in_range(r, v, "a message of MB", mb, 1, MAX_MB_SIZE) || !positive(r, v, &x.ms))
		return;
	t = table_of(r, kind, ranks);
	PUSH(r->f->arena, t->point, t->n, t->cap, x);
	for (uint32_t i = t->n; --i && t->point[i - 1].mb > mb;) {
		p = t->point[i];
		t->point[i] = t->point[i - 1];
		t->point[i - 1] = p;
	}
}

static void
read_overlap(Reading *r, const Json *v)
{
	double x;

	if (!positive(r, v, &x)) return;
	if (x >= 1 && x <= 1000) {
		r->f->overlap = x;
		return;
	}
	diag_error(
	    r->t.diag, json_loc(&r->t, v),
	    "overlap_coe is how many times as long computing takes beside communication: "
	    "1 to 1000");
	r->ok = false;
}

/* ---- of a model ---- */

static void
read_time(Reading *r, const Json *v, uint32_t type, uint32_t batch, uint32_t seq)
{
	GalFiles *f = r->f;
	GalTime x = {.type = type, .batch = batch, .seq = seq};

	if (!in_range(r, v, "a batch", batch, 1, MAX_RANKS) ||
	    !in_range(r, v, "a sequence", seq, 1, MAX_SEQ))
		return;
	/* what is left for embedding and head its authors cut at 0 */
	if (!json_between(&r->t, v, type == GAL_OTHER ? 0 : LEAST, MOST, &x.ms)) {
		r->ok = false;
		return;
	}
	PUSH(f->arena, f->time, f->ntime, f->ctime, x);
}

/* { "1": MB, "2": MB, ... }; *checkpoint may be NULL. */
static bool
read_degrees(Reading *r, const Json *v, GalDegrees *out, double *checkpoint)
{
	if (v->kind != JS_object || !v->n) {
		json_expected(&r->t, v, "MB by tensor degree are");
		return r->ok = false;
	}
	for (uint32_t i = 0; i < v->n; i++) {
		const Json *x = &v->item[i];
		struct GalByDegree d = {0};

		if (checkpoint && !strcmp(x->key, "checkpoint")) {
			if (!positive(r, x, checkpoint)) return false;
			continue;
		}
		if (!matches(x->key, "#", &d.degree)) {
			diag_error(r->t.diag, json_key_loc(&r->t, x),
				   "this is no tensor degree%s",
				   checkpoint ? " and not 'checkpoint'" : "");
			return r->ok = false;
		}
		if (!in_range(r, x, "a degree", d.degree, 1, MAX_RANKS) ||
		    !positive(r, x, &d.mb))
			return false;
		PUSH(r->f->arena, out->of, out->n, out->cap, d);
	}
	return true;
}

/* A member that must be there. */
static const Json *
wanted(Reading *r, const Json *v, const char *key)
{
	const Json *x = json_member(v, key);

	if (x) return x;
	diag_error(r->t.diag, json_key_loc(&r->t, v), "no '%s' in here", key);
	r->ok = false;
	return NULL;
}

/* Calls `one` for every sequence length of { "2048": { ... }, ... }. */
static void
each_seq(Reading *r, const Json *v, uint32_t what, bool sp,
	 void (*one)(Reading *, const Json *, uint32_t, bool, uint32_t))
{
	if (v->kind != JS_object) {
		r->ok = json_expected(&r->t, v, "an object by sequence length is");
		return;
	}
	for (uint32_t i = 0; i < v->n; i++) {
		uint32_t seq;

		if (!matches(v->item[i].key, "#", &seq)) {
			diag_error(r->t.diag, json_key_loc(&r->t, &v->item[i]),
				   "this is no sequence length");
			r->ok = false;
		} else if (v->item[i].kind != JS_object) {
			r->ok = json_expected(&r->t, &v->item[i], "an object is");
		} else if (in_range(r, &v->item[i], "a sequence", seq, 1, MAX_SEQ)) {
			one(r, &v->item[i], what, sp, seq);
		}
	}
}

static void
read_layer(Reading *r, const Json *v, uint32_t type, bool sp, uint32_t seq)
{
	GalMemory x = {.type = type, .seq = seq, .sp = sp};
	const Json *size = wanted(r, v, "parameter_size"),
		   *act = wanted(r, v, "tp_activation_per_bsz_dict");

	if (!size || !act || !positive(r, size, &x.parameters) ||
	    !read_degrees(r, act, &x.activation, &x.checkpoint))
		return;
	PUSH(r->f->arena, r->f->memory, r->f->nmemory, r->f->cmemory, x);
}

static void
read_other(Reading *r, const Json *v, uint32_t where, bool sp, uint32_t seq)
{
	GalOther x = {.where = (GalWhere)where, .seq = seq, .sp = sp};
	const Json *states = wanted(r, v, "model_states"), *act = wanted(r, v, "activation");

	if (!states || !act || !read_degrees(r, states, &x.states, NULL) ||
	    !read_degrees(r, act, &x.activation, NULL))
		return;
	PUSH(r->f->arena, r->f->other, r->f->nother, r->f->cother, x);
}

/* ---- a file ---- */

/* Raw measurements: what the other keys were made of. */
static bool
is_raw(const char *key)
{
	return !strncmp(key, "layernum[", 9) || (*key >= '0' && *key <= '9');
}

static bool
read_key(Reading *r, const Json *v)
{
	static const char *const other[GAL_PLACES][2] = {
	    {"other_memory_pp_off", "other_memory_pp_off_sp"},
	    {"other_memory_pp_on_first", "other_memory_pp_on_first_sp"},
	    {"other_memory_pp_on_last", "other_memory_pp_on_last_sp"}};
	const char *k = v->key;
	uint32_t n[3];

	if (matches(k, "allreduce_size_#_consec_#", n))
		read_rate(r, v, n[0], n[1], false);
	else if (matches(k, "pp_size_#", n))
		read_rate(r, v, n[0], 0, true);
	else if (matches(k, "allreduce_size_#_#MB_time", n))
		read_point(r, v, PR_all_reduce, n[0], n[1]);
	else if (matches(k, "all2all_size_#_#MB_time", n))
		read_point(r, v, PR_all_to_all, n[0], n[1]);
	else if (!strcmp(k, "overlap_coe"))
		read_overlap(r, v);
	else if (matches(k, "layertype_#_bsz#_seq#", n))
		read_time(r, v, n[0], n[1], n[2]);
	else if (matches(k, "layertype_other_bsz#_seq#", n))
		read_time(r, v, GAL_OTHER, n[0], n[1]);
	else if (matches(k, "layertype_#", n))
		each_seq(r, v, n[0], false, read_layer);
	else if (matches(k, "layertype_#_sp", n))
		each_seq(r, v, n[0], true, read_layer);
	else {
		for (uint32_t w = 0; w < GAL_PLACES; w++)
			for (int sp = 0; sp < 2; sp++)
				if (!strcmp(k, other[w][sp])) {
					each_seq(r, v, w, sp, read_other);
					return true;
				}
		return false;
	}
	return true;
}

GalFrom
gal_from(const Names *names, Name file)
{
	GalFrom from = {.file = file};
	uint32_t n[2];

	for (const char *s = strchr(name_str(names, file), '_'); s; s = strchr(s + 1, '_'))
		if (matches(s, "_#nodes_#gpus_per_node*", n) && n[0] - 1 < MAX_RANKS &&
		    n[1] - 1 < MAX_RANKS && (uint64_t)n[0] * n[1] <= MAX_RANKS) {
			from.nodes = n[0];
			from.gpus = n[1];
		}
	return from;
}

bool
gal_files_add(GalFiles *f, Name file, const char *text, size_t len)
{
	const Json *root = json_parse(f->arena, f->diag, file, text, len);
	Reading r = {.f = f,
		     .t = {.diag = f->diag, .file = file, .root = root},
		     .from = gal_from(f->names, file),
		     .ok = true};

	if (!root) return false;
	if (root->kind != JS_object) return json_expected(&r.t, root, "an object is");
	if (json_member(root, "pp_deg")) {
		diag_error(f->diag, json_key_loc(&r.t, json_member(root, "pp_deg")),
			   "this is a strategy, a plan: MODEL.gdl --plan takes it");
		return false;
	}
	for (uint32_t i = 0; i < root->n && !diag_stop(f->diag); i++) {
		if (read_key(&r, &root->item[i]))
			r.known = true;
		else if (!is_raw(root->item[i].key))
			diag_warn(f->diag, json_key_loc(&r.t, &root->item[i]),
				  "not a measurement that is known here; left out");
	}
	if (!r.known && r.ok) {
		diag_error(f->diag, diag_loc(f->diag, file, root->lo, root->lo + 1),
			   "nothing in here is known: bandwidths (allreduce_size_8_consec_1, "
			   "pp_size_2), times (allreduce_size_8_16MB_time), overlap_coe, or a "
			   "model's (layertype_0_bsz8_seq2048, layertype_0_sp)");
		return false;
	}
	PUSH(f->arena, f->file, f->nfile, f->cfile, file);
	return r.ok;
}

/* ---- layers ---- */

bool
gal_type_parse(const char *s, size_t len, uint32_t *out)
{
	char text[32];

	if (len >= sizeof text) return false;
	memcpy(text, s, len);
	text[len] = '\0';
	*out = GAL_OTHER;
	return !strcmp(text, "layertype_other") || matches(text, "layertype_#", out);
}

bool
gal_seq(const GalFiles *f, uint32_t asked, uint32_t *out)
{
	uint32_t n = 0, seen[16];
	bool there = false;
	Buf list;

	buf_init(&list, f->arena);
	for (uint32_t i = 0; i < f->ntime; i++) {
		uint32_t k = 0, seq = f->time[i].seq;

		there |= seq == asked;
		while (k < n && seen[k] != seq)
			k++;
		if (k < n || n == COUNTOF(seen)) continue;
		buf_printf(&list, "%s%" PRIu32, n ? ", " : "", seq);
		seen[n++] = seq;
	}
	*out = asked ? asked : n ? seen[0] : 0;
	if (there || (!asked && n == 1)) return true;
	if (!n)
		diag_error(f->diag, (Loc){0},
			   "no times of layers: computation_profiling_* has them");
	else
		diag_error(f->diag, (Loc){0}, "%s: measured were sequences of %s",
			   asked ? "--seq" : "which sequence length? --seq says", list.s);
	return false;
}

bool
gal_layer_time(const GalFiles *f, uint32_t type, uint32_t seq, LayerTime *out)
{
	*out = (LayerTime){.samples = NEW_N(f->arena, int64_t, f->ntime + 1),
			   .ns = NEW_N(f->arena, int64_t, f->ntime + 1)};
	for (;;) { /* the next larger batch; of equal ones the first */
		const GalTime *next = NULL;
		int64_t after = out->n ? out->samples[out->n - 1] : 0;

		for (uint32_t i = 0; i < f->ntime; i++) {
			const GalTime *t = &f->time[i];

			if (t->type == type && t->seq == seq && t->batch > after &&
			    (!next || t->batch < next->batch))
				next = t;
		}
		if (!next) return out->n > 0;
		out->samples[out->n] = next->batch;
		out->ns[out->n++] = (int64_t)(next->ms * next->batch * 1e6 + 0.5);
	}
}
