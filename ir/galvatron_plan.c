/*
 * galvatron_plan.c - strategies of layers as Hetu-Galvatron writes them, in and out.
 *
 *   { "pp_deg": 2, "tp_sizes_enc": "2,2,1,1", "dp_types_enc": "0,0,1,1", "checkpoint": "1,1,0,0", "world_size": 8, ... }
 *
 * Layers there are what lies between embedding and head. Here that is the span of instances from the first to the last
 * whose layer (of the GDL file) is used more than once; without any, all but the first and the last. What is before belongs
 * to the first stage and runs as the head does: vtp, vsp, vcp, embed_sdp.
 *
 * In: what the file leaves open is what its authors' programs do: sequence parallelism around tp (megatron_sp). Its places
 * are kept, so that plan_check points into the file. Out: what the file has no word for is refused, by name.
 */
#include "ir/galvatron.h"
#include "ir/text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading ---- */

typedef struct Reader {
	JsonText t;
	Names *names;
	Arena *arena;
	GalPlan *p;
	const Json *tp, *division, *vtp; /* for places */
	bool ok;
} Reader;

/* ORDER Key */
typedef enum Key {
	K_pp_deg,
	K_tp,
	K_consecutive,
	K_dp_types,
	K_use_sp,
	K_checkpoint,
	K_cp,
	K_ep,
	K_tp_of_ep,
	K_world,
	K_batch,
	K_chunks,
	K_division,
	K_pipeline,
	K_default_dp,
	K_vtp,
	K_vsp,
	K_vcp,
	K_embed_sdp,
	K_vocab_sdp,
	K_COUNT
} Key;

static const struct KeyInfo {
	const char *name;
	bool wanted;
} keys[K_COUNT] = {
    [K_pp_deg] = {"pp_deg", true},
    [K_tp] = {"tp_sizes_enc", true},
    [K_consecutive] = {"tp_consecutive_flags", false},
    [K_dp_types] = {"dp_types_enc", true},
    [K_use_sp] = {"use_sp", false},
    [K_checkpoint] = {"checkpoint", true},
    [K_cp] = {"cp_sizes_enc", false},
    [K_ep] = {"ep_sizes_enc", false},
    [K_tp_of_ep] = {"tp_of_ep_sizes_enc", false},
    [K_world] = {"world_size", false},
    [K_batch] = {"global_bsz", true},
    [K_chunks] = {"chunks", true},
    [K_division] = {"pp_division", true},
    [K_pipeline] = {"pipeline_type", true},
    [K_default_dp] = {"default_dp_type", true},
    [K_vtp] = {"vtp", true},
    [K_vsp] = {"vsp", false},
    [K_vcp] = {"vcp", false},
    [K_embed_sdp] = {"embed_sdp", false},
    [K_vocab_sdp] = {"vocab_sdp", false},
};

static const char *const pipeline_str[2] = {"gpipe", "pipedream_flush"}; /* ORDER Schedule */
static const char *const dp_type_str[2] = {"ddp", "zero2"};

/* Members by key; what is not known is said and left out. */
static void
find_members(Reader *r, const Json *root, const Json *of[K_COUNT])
{
	for (uint32_t i = 0; i < root->n; i++) {
		int k = 0;

		while (k < K_COUNT && strcmp(keys[k].name, root->item[i].key) != 0)
			k++;
		if (k < K_COUNT)
			of[k] = &root->item[i];
		else
			diag_warn(r->t.diag, json_key_loc(&r->t, &root->item[i]),
				  "not a field of a strategy that is known here; left out");
	}
	for (int k = 0; k < K_COUNT; k++) {
		if (of[k] || !keys[k].wanted) continue;
		diag_error(r->t.diag,
			   json_loc(&r->t, &(Json){.lo = root->lo, .hi = root->lo + 1}),
			   "this strategy has no '%s'", keys[k].name);
		r->ok = false;
	}
	if (!of[K_embed_sdp] && !of[K_vocab_sdp]) {
		diag_error(r->t.diag,
			   json_loc(&r->t, &(Json){.lo = root->lo, .hi = root->lo + 1}),
			   "this strategy has neither 'embed_sdp' (as it is written) nor "
			   "'vocab_sdp' (as it is read)");
		r->ok = false;
	}
}

/* Item k of a string of comma-separated numbers: its place. Escapes would move it; numbers have none. */
static Loc
item_loc(const Reader *r, const Json *v, uint32_t k)
{
	const char *s = v->string;
	size_t at = 0, n;

	while (k && s[at])
		if (s[at++] == ',') k--;
	n = strcspn(s + at, ",");
	return diag_loc(r->t.diag, r->t.file, v->lo + 1 + at, v->lo + 1 + at + (n ? n : 1));
}

/* "1,2,4" -> numbers in lo..hi. */
static uint32_t *
numbers(Reader *r, const Json *v, uint32_t lo, uint32_t hi, uint32_t *n)
{
	uint32_t *out = NULL, cap = 0;

	*n = 0;
	if (v->kind != JS_string) {
		r->ok = json_expected(&r->t, v, "a string of numbers with commas between is");
		return NULL;
	}
	for (const char *s = v->string;; s++) {
		char *end;
		unsigned long x = strtoul(s, &end, 10);
		bool digit = *s >= '0' && *s <= '9';

		if (!digit || x < lo || x > hi || (*end && *end != ',')) {
			diag_error(r->t.diag, item_loc(r, v, *n),
				   "'%s': number %" PRIu32 " must be whole, from %" PRIu32
				   " to %" PRIu32,
				   v->key, *n, lo, hi);
			r->ok = false;
			return NULL;
		}
		if (*n == MAX_COUNT) {
			r->ok = json_expected(&r->t, v, "fewer numbers are");
			return NULL;
		}
		PUSH(r->arena, out, *n, cap, (uint32_t)x);
		s = end;
		if (!*s) return out;
	}
}

/* One number for each layer; `fallback` where the file has none. */
static uint32_t *
per_layer(Reader *r, const Json *v, uint32_t lo, uint32_t hi, uint32_t fallback)
{
	uint32_t n, *out;

	if (!v) {
		out = NEW_N(r->arena, uint32_t, r->p->nlayers);
		for (uint32_t i = 0; i < r->p->nlayers; i++)
			out[i] = fallback;
		return out;
	}
	out = numbers(r, v, lo, hi, &n);
	if (!out || n == r->p->nlayers) return out;
	diag_error(r->t.diag, json_loc(&r->t, v),
		   "'%s' has %" PRIu32 " numbers, 'tp_sizes_enc' has %" PRIu32, v->key, n,
		   r->p->nlayers);
	r->ok = false;
	return NULL;
}

static uint32_t
count_of(Reader *r, const Json *v, uint32_t lo, uint32_t hi, uint32_t fallback)
{
	int64_t x = fallback;

	if (v && !json_whole(&r->t, v, lo, hi, &x)) r->ok = false;
	return (uint32_t)x;
}

static int
word_of(Reader *r, const Json *v, const char *const word[2])
{
	for (int k = 0; k < 2; k++)
		if (v->kind == JS_string && !strcmp(v->string, word[k])) return k;
	diag_error(r->t.diag, json_loc(&r->t, v), "'%s' must be \"%s\" or \"%s\"", v->key,
		   word[0], word[1]);
	r->ok = false;
	return 0;
}

/* ORDER: whatever else is per layer has as many numbers as tp_sizes_enc. */
static void
read_layers(Reader *r, const Json *const of[K_COUNT])
{
	GalPlan *p = r->p;
	uint32_t *tp = numbers(r, of[K_tp], 1, MAX_RANKS, &p->nlayers);

	if (!tp) return;
	const uint32_t *consecutive = per_layer(r, of[K_consecutive], 0, 1, 1),
		       *zero3 = per_layer(r, of[K_dp_types], 0, 1, 0),
		       *ulysses = per_layer(r, of[K_use_sp], 0, 1, 0),
		       *checkpoint = per_layer(r, of[K_checkpoint], 0, 1, 0),
		       *cp = per_layer(r, of[K_cp], 1, MAX_RANKS, 1),
		       *ep = per_layer(r, of[K_ep], 1, MAX_RANKS, 1);

	if (of[K_tp_of_ep]) per_layer(r, of[K_tp_of_ep], 1, MAX_RANKS, 1);
	if (!r->ok) return;
	p->layer = NEW_N(r->arena, GalLayer, p->nlayers);
	for (uint32_t i = 0; i < p->nlayers; i++) {
		p->layer[i] = (GalLayer){.tp = tp[i],
					 .cp = cp[i],
					 .consecutive = consecutive[i],
					 .zero3 = zero3[i],
					 .ulysses = ulysses[i],
					 .checkpoint = checkpoint[i]};
		if (ep[i] == 1) continue;
		diag_error(r->t.diag, item_loc(r, of[K_ep], i),
			   "layer %" PRIu32 " splits its experts over %" PRIu32
			   " ranks; that is not planned for here yet",
			   i, ep[i]);
		r->ok = false;
		return;
	}
}

static void
read_division(Reader *r, const Json *v)
{
	uint32_t n, sum = 0;
	GalPlan *p = r->p;

	p->division = numbers(r, v, 1, MAX_COUNT, &n);
	if (!p->division) return;
	for (uint32_t k = 0; k < n && sum <= MAX_COUNT; k++)
		sum += p->division[k];
	if (n == p->stages && sum == p->nlayers) return;
	r->ok = false;
	if (n != p->stages)
		diag_error(r->t.diag, json_loc(&r->t, v),
			   "'pp_division' has %" PRIu32 " stages, 'pp_deg' says %" PRIu32, n,
			   p->stages);
	else
		diag_error(r->t.diag, json_loc(&r->t, v),
			   "the stages of 'pp_division' have %" PRIu32
			   " layers together, 'tp_sizes_enc' has %" PRIu32,
			   sum, p->nlayers);
}

static void
read_world(Reader *r, const Json *v, uint32_t ranks, const Json *root)
{
	GalPlan *p = r->p;
	const Json begin = {.lo = root->lo, .hi = root->lo + 1};
	const GalFrom named = gal_from(r->names, r->t.file); /* files without world_size */

	p->world = count_of(r, v, 1, MAX_RANKS, ranks ? ranks : named.nodes * named.gpus);
	if (!r->ok) return;
	if (!p->world) {
		diag_error(r->t.diag, json_loc(&r->t, &begin),
			   "this strategy has no 'world_size', and its name no "
			   "..._Nnodes_Ggpus_per_node: --ranks says for how many it is");
		r->ok = false;
	} else if (p->world % p->stages) {
		diag_error(r->t.diag, json_loc(&r->t, v ? v : &begin),
			   "%" PRIu32 " ranks have no equal shares in %" PRIu32 " stages",
			   p->world, p->stages);
		r->ok = false;
	}
}

/* The ranks of a stage are split over data, context and tensor. */
static void
check_degrees(Reader *r)
{
	const GalPlan *p = r->p;
	uint32_t share = p->world / p->stages;

	for (uint32_t i = 0; r->ok && i < p->nlayers; i++) {
		uint64_t n = (uint64_t)p->layer[i].tp * p->layer[i].cp;

		if (share % n == 0) continue;
		diag_error(r->t.diag, item_loc(r, r->tp, i),
			   "layer %" PRIu32 " splits over %" PRIu64
			   " ranks, which does not divide the %" PRIu32 " of a stage",
			   i, n, share);
		r->ok = false;
	}
	if (!r->ok || share % ((uint64_t)p->vtp * p->vcp) == 0) return;
	diag_error(r->t.diag, json_loc(&r->t, r->vtp),
		   "embedding and head split over %" PRIu64
		   " ranks, which does not divide the %" PRIu32 " of a stage",
		   (uint64_t)p->vtp * p->vcp, share);
	r->ok = false;
}

/* Written as embed_sdp, read as vocab_sdp by the programs: either, or both alike. */
static bool
read_sdp(Reader *r, const Json *embed, const Json *vocab)
{
	uint32_t a = count_of(r, embed ? embed : vocab, 0, 1, 0),
		 b = count_of(r, vocab ? vocab : embed, 0, 1, 0);

	if (r->ok && a != b) {
		diag_error(r->t.diag, json_loc(&r->t, vocab),
			   "'vocab_sdp' is %" PRIu32
			   ", and 'embed_sdp', another name for it, is "
			   "%" PRIu32,
			   b, a);
		r->ok = false;
	}
	return a;
}

static bool
read_plan(Reader *r, const Json *root, uint32_t ranks)
{
	const Json *of[K_COUNT] = {NULL};
	GalPlan *p = r->p;

	if (root->kind != JS_object) return json_expected(&r->t, root, "a strategy is");
	find_members(r, root, of);
	if (!r->ok) return false;
	r->tp = of[K_tp];
	r->division = of[K_division];
	r->vtp = of[K_vtp];
	p->stages = count_of(r, of[K_pp_deg], 1, MAX_RANKS, 1);
	p->chunks = count_of(r, of[K_chunks], 1, MAX_MB, 1);
	if (!json_whole(&r->t, of[K_batch], 1, MAX_EXTENT, &p->batch)) r->ok = false;
	p->schedule = (Schedule)word_of(r, of[K_pipeline], pipeline_str);
	p->zero2 = word_of(r, of[K_default_dp], dp_type_str);
	p->vtp = count_of(r, of[K_vtp], 1, MAX_RANKS, 1);
	p->vcp = count_of(r, of[K_vcp], 1, MAX_RANKS, 1);
	p->vsp = count_of(r, of[K_vsp], 0, 1, 0);
	p->vzero3 = read_sdp(r, of[K_embed_sdp], of[K_vocab_sdp]);
	read_layers(r, of);
	if (r->ok) read_division(r, of[K_division]);
	if (r->ok) read_world(r, of[K_world], ranks, root);
	if (r->ok) check_degrees(r);
	return r->ok;
}

static bool
reader_run(Reader *r, const char *text, size_t len, uint32_t ranks)
{
	const Json *root = json_parse(r->arena, r->t.diag, r->t.file, text, len);

	*r->p = (GalPlan){0};
	r->t.root = root;
	r->ok = true;
	return root && read_plan(r, root, ranks);
}

bool
gal_plan_read(Arena *a, Names *n, Diag *d, Name file, const char *text, size_t len,
	      uint32_t ranks, GalPlan *out)
{
	Reader r = {.t = {.diag = d, .file = file}, .names = n, .arena = a, .p = out};

	return reader_run(&r, text, len, ranks);
}

/* ---- which instances are layers ---- */

/* "block" of "block.2": the layer of the GDL file. */
static size_t
layer_name_len(const char *s)
{
	const char *dot = strrchr(s, '.');

	return dot && dot[1] && strspn(dot + 1, "0123456789") == strlen(dot + 1)
		   ? (size_t)(dot - s)
		   : strlen(s);
}

static bool
same_layer(const Module *m, uint32_t i, uint32_t k)
{
	const char *a = name_str(m->names, m->types[m->insts[i].type].name),
		   *b = name_str(m->names, m->types[m->insts[k].type].name);
	size_t n = layer_name_len(a);

	return n == layer_name_len(b) && !memcmp(a, b, n);
}

static bool
used_again(const Module *m, uint32_t i)
{
	for (uint32_t k = 0; k < m->ninsts; k++)
		if (k != i && same_layer(m, i, k)) return true;
	return false;
}

/* [*first, *end): what lies between embedding and head. */
static void
layer_span(const Module *m, uint32_t *first, uint32_t *end)
{
	for (*first = 0; *first < m->ninsts && !used_again(m, *first); ++*first)
		continue;
	for (*end = m->ninsts; *end > *first && !used_again(m, *end - 1); --*end)
		continue;
	if (*first < *end) return;
	*first = m->ninsts > 2 ? 1 : 0;
	*end = m->ninsts > 2 ? m->ninsts - 1 : m->ninsts;
}

/* ---- to a plan ---- */

static void
mesh_push(Mesh *mesh, MeshKind kind, uint32_t degree)
{
	if (degree <= 1) return;
	mesh->ax[mesh->n].kind = kind;
	mesh->ax[mesh->n].sub = 0;
	mesh->ax[mesh->n++].degree = degree;
}

/* The mesh of `share` ranks under a layer's degrees: data, context, tensor from the outside in, or tensor outermost. */
static Mesh
layer_mesh(const GalLayer *l, uint32_t share, uint32_t chunks)
{
	Mesh mesh = {.n = 1};
	MeshKind inner = l->ulysses ? MX_sp : MX_tp;

	mesh.ax[0].kind = MX_mb;
	mesh.ax[0].degree = chunks;
	if (!l->consecutive) mesh_push(&mesh, inner, l->tp);
	mesh_push(&mesh, MX_dp, share / (l->tp * l->cp));
	mesh_push(&mesh, MX_cp, l->cp);
	if (l->consecutive) mesh_push(&mesh, inner, l->tp);
	return mesh;
}

static uint32_t
add_mesh(PlanText *t, Names *names, Mesh mesh, Loc at)
{
	Plan *p = &t->plan;

	for (uint32_t i = 0; i < p->nmeshes; i++)
		if (ir_mesh_alike(&p->meshes[i], &mesh)) return i;
	mesh.name = name_fmt(names, "m%" PRIu32, p->nmeshes);
	PUSH(t->arena, p->meshes, p->nmeshes, t->cmeshes, mesh);
	PUSH(t->arena, t->mesh_at, t->nmesh_at, t->cmesh_at, at);
	return p->nmeshes - 1;
}

static void
add_run(PlanText *t, Strategy s)
{
	Plan *p = &t->plan;
	Strategy *last = p->nruns ? &p->runs[p->nruns - 1] : NULL;

	if (last && last->mesh == s.mesh && last->zero == s.zero &&
	    last->recompute == s.recompute && last->megatron_sp == s.megatron_sp) {
		last->count += s.count;
		return;
	}
	PUSH(t->arena, p->runs, p->nruns, t->cruns, s);
	PUSH(t->arena, t->run_at, t->nrun_at, t->crun_at, s.loc);
}

/* Instance i runs as the file says of `l`. */
static void
add_layer(const Reader *r, PlanText *t, uint32_t i, const GalLayer *l, Loc at)
{
	const GalPlan *p = r->p;
	const Mesh mesh = layer_mesh(l, p->world / p->stages, p->chunks);
	Strategy s = {
	    .first = i, .count = 1, .mesh = add_mesh(t, r->names, mesh, at), .loc = at};

	if (ir_dp_degree(&mesh) > 1) s.zero = l->zero3 ? 3 : p->zero2 ? 2 : 0;
	s.recompute = l->checkpoint ? RC_full : RC_none;
	s.megatron_sp = l->tp > 1 && !l->ulysses;
	add_run(t, s);
}

static void
add_stages(const Reader *r, PlanText *t, const Module *m, uint32_t first)
{
	const GalPlan *p = r->p;
	uint32_t share = p->world / p->stages, end = 0;

	for (uint32_t k = 0, layer = first; k < p->stages; k++) {
		Stage s = {.first = end, .rank = k * share, .ranks = share};

		layer += p->division[k];
		end = k + 1 == p->stages ? m->ninsts : layer;
		s.count = end - s.first;
		PUSH(t->arena, t->plan.stages, t->plan.nstages, t->cstages, s);
		PUSH(t->arena, t->stage_at, t->nstage_at, t->cstage_at,
		     item_loc(r, r->division, k));
	}
}

static bool
fits_model(const Reader *r, const Module *m, uint32_t first, uint32_t end)
{
	const GalPlan *p = r->p;
	int64_t batch = m->batch.i ? ir_extent(m, m->batch) : 1;

	if (p->nlayers != end - first) {
		diag_error(r->t.diag, json_loc(&r->t, r->tp),
			   "this strategy is for %" PRIu32 " layers; %s has %" PRIu32
			   " between embedding and head (%" PRIu32 "-%" PRIu32 ")",
			   p->nlayers, name_str(m->names, m->model), end - first, first,
			   end - 1);
		return false;
	}
	if (p->batch == batch) return true;
	diag_error(r->t.diag, json_loc(&r->t, json_member(r->t.root, keys[K_batch].name)),
		   "this strategy is for a batch of %" PRId64 "; the model's is %" PRId64
		   ": --set batch=%" PRId64 " changes it",
		   p->batch, batch, p->batch);
	return false;
}

/* requires: the file fits the module. */
static void
to_plan(const Reader *r, const Module *m, uint32_t first, uint32_t end, PlanText *t)
{
	const GalPlan *p = r->p;
	const GalLayer ends = {.tp = p->vtp,
			       .cp = p->vcp,
			       .consecutive = true,
			       .zero3 = p->vzero3,
			       .ulysses = p->vsp};
	const Json *root = r->t.root;
	Mesh one = {.name = name_of(r->names, "m0"), .n = 1};

	t->head = json_loc(&r->t, &(Json){.lo = root->lo, .hi = root->lo + 1});
	t->plan = (Plan){.ranks = p->world, .microbatches = p->chunks, .schedule = p->schedule};
	one.ax[0].degree = p->chunks;
	PUSH(t->arena, t->plan.meshes, t->plan.nmeshes, t->cmeshes, one);
	PUSH(t->arena, t->mesh_at, t->nmesh_at, t->cmesh_at, ((Loc){0}));
	for (uint32_t i = 0; i < m->ninsts; i++) {
		bool layer = i >= first && i < end;

		add_layer(r, t, i, layer ? &p->layer[i - first] : &ends,
			  layer ? item_loc(r, r->tp, i - first) : json_loc(&r->t, r->vtp));
	}
	add_stages(r, t, m, first);
}

bool
gal_plan_parse(Module *m, Diag *d, Name file, const char *text, size_t len, uint32_t ranks)
{
	GalPlan p;
	Reader r = {
	    .t = {.diag = d, .file = file}, .names = m->names, .arena = m->arena, .p = &p};
	PlanText t = {.arena = m->arena};
	uint32_t first, end;

	if (!reader_run(&r, text, len, ranks)) return false;
	layer_span(m, &first, &end);
	if (!fits_model(&r, m, first, end)) return false;
	to_plan(&r, m, first, end, &t);
	if (!plan_check(m, &t.plan, &t, d, "")) return false;
	m->plan = t.plan;
	return true;
}

/* ---- from a plan ---- */

typedef struct Writer {
	const Module *m;
	Diag *d;
	GalPlan *p;
	int zero;     /* of all layers that are not ZeRO 3: 0 or 2; -1: none so far */
	int sequence; /* sequence parallelism around tp: 0, 1; -1: no tp so far */
	uint32_t first, end;
	bool ok;
} Writer;

static void GV_PRINTF(3, 4) cannot(Writer *w, Loc at, const char *fmt, ...)
{
	Buf b;
	va_list ap;
	Arena *a = arena_new();

	buf_init(&b, a);
	va_start(ap, fmt);
	buf_vprintf(&b, fmt, ap);
	va_end(ap);
	diag_error(w->d, at, "a strategy of Galvatron's cannot say this: %s", b.s);
	arena_free(a);
	w->ok = false;
}

/* Degrees of a mesh, if its axes lie as a strategy's do: dp, cp, and tp or sp innermost or outermost. */
static bool
mesh_degrees(const Mesh *mesh, GalLayer *l)
{
	int first_in = MAX_MESH, last_in = 0, first_out = MAX_MESH, last_out = 0;
	bool tp = false, sp = false;

	*l = (GalLayer){.tp = 1, .cp = 1};
	for (int k = 1; k < mesh->n; k++) {
		MeshKind kind = mesh->ax[k].kind;
		uint32_t degree = mesh->ax[k].degree;

		if (degree == 1) continue;
		if (kind == MX_ep || (kind == MX_dp && l->cp > 1)) return false;
		tp |= kind == MX_tp;
		sp |= kind == MX_sp;
		if (kind == MX_cp) l->cp *= degree;
		if (kind == MX_tp || kind == MX_sp) {
			l->tp *= degree;
			if (k < first_in) first_in = k;
			last_in = k;
		} else {
			if (k < first_out) first_out = k;
			last_out = k;
		}
	}
	l->ulysses = sp;
	l->consecutive = last_out < first_in;
	return !(tp && sp) && (l->consecutive || last_in < first_out);
}

/* How the run of instance i splits and what it keeps; false after a diagnostic. */
static bool
instance_layer(Writer *w, uint32_t i, GalLayer *l)
{
	const Module *m = w->m;
	const Strategy *s = ir_run_of(m, i);
	const Mesh *mesh = &m->plan.meshes[s->mesh];
	const char *name = name_str(m->names, m->insts[i].name);

	if (!mesh_degrees(mesh, l)) {
		cannot(w, s->loc,
		       "layer %" PRIu32
		       " (%s) lies on mesh %s; there it is dp, cp, then tp or sp, "
		       "or tp or sp outermost",
		       i, name, name_str(m->names, mesh->name));
		return false;
	}
	if (s->recompute == RC_selective) {
		cannot(w, s->loc,
		       "layer %" PRIu32 " (%s) recomputes selectively; there all or "
		       "nothing of a layer is recomputed",
		       i, name);
		return false;
	}
	l->checkpoint = s->recompute == RC_full;
	l->zero3 = s->zero == 3;
	if (l->tp > 1 && !l->ulysses) {
		if (w->sequence >= 0 && w->sequence != s->megatron_sp) {
			cannot(w, s->loc,
			       "layer %" PRIu32
			       " (%s) is split over tp %s sequence parallelism, "
			       "others are %s it; there it is one switch for all",
			       i, name, s->megatron_sp ? "with" : "without",
			       s->megatron_sp ? "without" : "with");
			return false;
		}
		w->sequence = s->megatron_sp;
	}
	if (s->zero == 3 || ir_dp_degree(mesh) == 1) return true;
	if (s->zero == 1) {
		cannot(w, s->loc,
		       "layer %" PRIu32 " (%s) has zero 1; there are ddp, zero 2 and "
		       "zero 3",
		       i, name);
		return false;
	}
	if (w->zero >= 0 && w->zero != s->zero) {
		cannot(w, s->loc,
		       "layer %" PRIu32 " (%s) has zero %d, others zero %d; there all that "
		       "are not zero 3 are one of the two",
		       i, name, s->zero, w->zero);
		return false;
	}
	w->zero = s->zero;
	return true;
}

/* What lies outside the layers runs in one way, without recomputation. */
static bool
write_ends(Writer *w)
{
	const Module *m = w->m;
	GalLayer ends = {.tp = 1, .cp = 1, .consecutive = true}, l;
	bool seen = false;

	for (uint32_t i = 0; i < m->ninsts; i++) {
		const Strategy *s = ir_run_of(m, i);
		const char *name = name_str(m->names, m->insts[i].name);

		if (i >= w->first && i < w->end) continue;
		if (!instance_layer(w, i, &l)) return false;
		if (l.checkpoint || !l.consecutive) {
			cannot(w, s->loc, "%s %s; there embedding and head cannot", name,
			       l.checkpoint ? "is recomputed" : "has tp outermost");
			return false;
		}
		if (seen && (l.tp != ends.tp || l.cp != ends.cp || l.ulysses != ends.ulysses ||
			     l.zero3 != ends.zero3)) {
			cannot(w, s->loc,
			       "%s does not run as %s does (mesh %s, zero %u); there "
			       "embedding and head are alike",
			       name, name_str(m->names, m->insts[0].name),
			       name_str(m->names, m->plan.meshes[s->mesh].name), s->zero);
			return false;
		}
		ends = l;
		seen = true;
	}
	w->p->vtp = ends.tp;
	w->p->vcp = ends.cp;
	w->p->vsp = ends.ulysses;
	w->p->vzero3 = ends.zero3;
	return true;
}

static bool
write_stages(Writer *w, Arena *a)
{
	const Plan *p = &w->m->plan;

	w->p->division = NEW_N(a, uint32_t, p->nstages);
	for (uint32_t k = 0; k < p->nstages; k++) {
		const Stage *s = &p->stages[k];
		uint32_t lo = s->first > w->first ? s->first : w->first,
			 hi = s->first + s->count < w->end ? s->first + s->count : w->end;

		if (s->ranks != p->stages[0].ranks) {
			cannot(w, (Loc){0},
			       "stage %" PRIu32 " has %" PRIu32 " ranks, stage 0 has "
			       "%" PRIu32 "; there all have equally many",
			       k, s->ranks, p->stages[0].ranks);
			return false;
		}
		if (lo >= hi) {
			cannot(w, (Loc){0},
			       "stage %" PRIu32 " has no layer between embedding and "
			       "head; there every stage has one",
			       k);
			return false;
		}
		w->p->division[k] = hi - lo;
	}
	return true;
}

static bool
node_order(Writer *w)
{
	for (uint32_t i = 0; i < w->m->plan.nnodes; i++)
		if (w->m->plan.nodes[i] != i) {
			cannot(w, (Loc){0},
			       "its ranks are counted through the nodes in another "
			       "order than the cluster's");
			return false;
		}
	return true;
}

bool
gal_plan_of(const Module *m, Diag *d, Arena *a, GalPlan *out)
{
	Writer w = {.m = m, .d = d, .p = out, .zero = -1, .sequence = -1, .ok = true};
	const Plan *p = &m->plan;
	bool zero3 = false;

	layer_span(m, &w.first, &w.end);
	*out = (GalPlan){.stages = p->nstages,
			 .world = p->ranks,
			 .chunks = p->microbatches,
			 .batch = m->batch.i ? ir_extent(m, m->batch) : 1,
			 .nlayers = w.end - w.first,
			 .schedule = p->schedule};
	if (!node_order(&w) || !write_stages(&w, a) || !write_ends(&w)) return false;
	out->layer = NEW_N(a, GalLayer, out->nlayers);
	zero3 = out->vzero3;
	for (uint32_t i = w.first; i < w.end; i++) {
		if (!instance_layer(&w, i, &out->layer[i - w.first])) return false;
		zero3 |= out->layer[i - w.first].zero3;
	}
	/* where nobody is of the default type, the one nearer to the others */
	out->zero2 = w.zero == 2 || (w.zero < 0 && zero3);
	if (w.sequence == 0)
		diag_warn(d, (Loc){0},
			  "this plan splits over tp without sequence parallelism, which a "
			  "strategy leaves to the program: set sequence_parallel to false");
	return w.ok;
}

/* ---- writing ---- */

/* ORDER Encoded */
typedef enum Encoded {
	EN_tp,
	EN_consecutive,
	EN_zero3,
	EN_ulysses,
	EN_checkpoint,
	EN_cp
} Encoded;

static uint32_t
encoded(const GalLayer *l, Encoded what)
{
	switch (what) {
	case EN_tp: return l->tp;
	case EN_consecutive: return l->consecutive;
	case EN_zero3: return l->zero3;
	case EN_ulysses: return l->ulysses;
	case EN_checkpoint: return l->checkpoint;
	default: return l->cp;
	}
}

static void
print_layers(const GalPlan *p, Key key, Encoded what, Buf *out)
{
	buf_printf(out, "    \"%s\": \"", keys[key].name);
	for (uint32_t i = 0; i < p->nlayers; i++)
		buf_printf(out, "%s%" PRIu32, i ? "," : "", encoded(&p->layer[i], what));
	buf_puts(out, "\",\n");
}

static void
print_whole(Key key, int64_t x, Buf *out)
{
	buf_printf(out, "    \"%s\": %" PRId64 ",\n", keys[key].name, x);
}

void
gal_plan_print(const GalPlan *p, Buf *out)
{
	bool cp = p->vcp > 1;

	for (uint32_t i = 0; i < p->nlayers; i++)
		cp |= p->layer[i].cp > 1;
	buf_puts(out, "{\n");
	print_whole(K_pp_deg, p->stages, out);
	print_layers(p, K_tp, EN_tp, out);
	print_layers(p, K_consecutive, EN_consecutive, out);
	print_layers(p, K_dp_types, EN_zero3, out);
	print_layers(p, K_use_sp, EN_ulysses, out);
	print_layers(p, K_checkpoint, EN_checkpoint, out);
	if (cp) print_layers(p, K_cp, EN_cp, out);
	print_whole(K_world, p->world, out);
	print_whole(K_batch, p->batch, out);
	print_whole(K_chunks, p->chunks, out);
	buf_printf(out, "    \"%s\": \"", keys[K_division].name);
	for (uint32_t k = 0; k < p->stages; k++)
		buf_printf(out, "%s%" PRIu32, k ? "," : "", p->division[k]);
	buf_printf(out, "\",\n    \"%s\": \"%s\",\n    \"%s\": \"%s\",\n",
		   keys[K_pipeline].name, pipeline_str[p->schedule], keys[K_default_dp].name,
		   dp_type_str[p->zero2]);
	print_whole(K_vtp, p->vtp, out);
	print_whole(K_vsp, p->vsp, out);
	if (cp) print_whole(K_vcp, p->vcp, out);
	print_whole(K_embed_sdp, p->vzero3, out);
	/* its programs read the name that its search does not write */
	buf_printf(out, "    \"%s\": %d\n}\n", keys[K_vocab_sdp].name, p->vzero3);
}
