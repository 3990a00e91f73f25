/*
 * plan.c - a plan as text: the section of a dump, and the .plan file that people edit.
 *
 *   plan 1
 *   model gpt2 source "gpt2.gdl" hash 0x1f2e3d4c5b6a7988
 *   predicted step_ns 1200000 memory_bytes 52428800 least_ns 1180000 cluster "two"
 *   ranks 4 threads all microbatches 8 schedule 1f1b
 *   nodes 1 0
 *   mesh m0 = mb
 *   mesh m1 = dp:2 tp:2
 *   stage 0 layers 0-13 ranks 0-3
 *   layers 0 embedding mesh m1 zero 0 recompute none
 *   layers 1-12 block mesh m1 zero 1 recompute selective
 *   layers 13 output mesh m1 zero 0 recompute none
 *
 * The first three lines are the file's; the others are the same in a dump. `predicted` is what the search said, for the reader
 * and for scripts: nothing depends on it. `nodes`: the cluster's, in the order in which ranks are counted through them. Names of layer types in a `layers` line are for
 * the reader; given, they must be right. Left out: threads are all, the schedule 1f1b, zero 0, recompute none, one stage.
 * Axis 0 of every mesh is `mb`, of degree `microbatches`: it is written only where it is alone.
 */
#include "ir/text.h"

#include <inttypes.h>
#include <string.h>

const char *const plan_lines[5] = {"ranks", "mesh", "stage", "layers", "nodes"};

/* ---- print ---- */

void
plan_layers(const Module *m, uint32_t *first, uint32_t *count)
{
	uint32_t end = *first + *count, before = 0, in = 0;

	if (m->level < LV_spmd) return;
	for (uint32_t i = 0; i < end && i < m->ninsts; i++)
		if (!ir_is_reshard(m, i)) *(i < *first ? &before : &in) += 1;
	*first = before;
	*count = in;
}

/* The types of a run's layers, each once, in order of first use. */
static uint32_t
run_types(const Module *m, uint32_t first, uint32_t count, bool file, Arena *tmp, Name **names)
{
	uint32_t n = 0, cap = 0;

	*names = NULL;
	for (uint32_t i = first; i < first + count && i < m->ninsts; i++) {
		Name name = m->types[m->insts[i].type].name;
		uint32_t k = 0;

		if (file && ir_is_reshard(m, i)) continue;
		while (k < n && (*names)[k] != name)
			k++;
		if (k == n) PUSH(tmp, *names, n, cap, name);
	}
	return n;
}

static void
print_mesh(const Module *m, const Mesh *mesh, Buf *out)
{
	buf_puts(out, "mesh ");
	text_name(out, name_str(m->names, mesh->name));
	buf_puts(out, mesh->n <= 1 ? " = mb" : " =");
	for (int k = 1; k < mesh->n; k++) {
		buf_putc(out, ' ');
		text_mesh_axis(out, mesh, k);
		buf_printf(out, ":%" PRIu32, mesh->ax[k].degree);
	}
	buf_putc(out, '\n');
}

static void
print_run(const Module *m, const Strategy *s, bool file, Arena *tmp, Buf *out)
{
	Name *names;
	uint32_t n = run_types(m, s->first, s->count, file, tmp, &names);
	uint32_t first = s->first, count = s->count;

	if (file) plan_layers(m, &first, &count);
	buf_puts(out, "layers ");
	text_range(out, first, count);
	for (uint32_t i = 0; i < n; i++) {
		buf_putc(out, ' ');
		text_name(out, name_str(m->names, names[i]));
	}
	buf_puts(out, " mesh ");
	text_name(out, name_str(m->names, m->plan.meshes[s->mesh].name));
	buf_printf(out, " zero %u recompute %s%s\n", s->zero, recompute_str[s->recompute],
		   s->megatron_sp ? " megatron_sp" : "");
}

/* Neighbours that rise by one are a range. */
static void
print_nodes(const Plan *p, Buf *out)
{
	if (!p->nnodes) return;
	buf_puts(out, "nodes");
	for (uint32_t i = 0, n; i < p->nnodes; i += n) {
		for (n = 1; i + n < p->nnodes && p->nodes[i + n] == p->nodes[i] + n; n++)
			continue;
		buf_putc(out, ' ');
		text_range(out, p->nodes[i], n);
	}
	buf_putc(out, '\n');
}

static void
print_predicted(const Module *m, Buf *out)
{
	const Plan *p = &m->plan;
	if (!p->time) return;
	buf_printf(out, "predicted step_ns %" PRId64, p->time);
	if (p->memory) buf_printf(out, " memory_bytes %" PRId64, p->memory);
	if (p->least) buf_printf(out, " least_ns %" PRId64, p->least);
	if (p->cluster) {
		buf_puts(out, " cluster ");
		text_quoted(out, name_str(m->names, p->cluster));
	}
	buf_putc(out, '\n');
}

/* In a dump layers are counted as the module has them; in a file, as the model. */
static void
print_lines(const Module *m, bool file, Buf *out)
{
	const Plan *p = &m->plan;
	Arena *tmp = arena_new();

	buf_printf(out, "ranks %" PRIu32 " threads ", p->ranks);
	if (p->threads)
		buf_printf(out, "%" PRIu32, p->threads);
	else
		buf_puts(out, "all");
	buf_printf(out, " microbatches %" PRIu32 " schedule %s%s\n", p->microbatches,
		   schedule_str[p->schedule], p->forward_only ? " forward" : "");
	print_nodes(p, out);
	for (uint32_t i = 0; i < p->nmeshes; i++)
		print_mesh(m, &p->meshes[i], out);
	for (uint32_t k = 0; k < p->nstages; k++) {
		const Stage *s = &p->stages[k];
		uint32_t first = s->first, count = s->count;

		if (file) plan_layers(m, &first, &count);
		buf_printf(out, "stage %" PRIu32 " layers ", k);
		text_range(out, first, count);
		buf_puts(out, " ranks ");
		text_range(out, s->rank, s->ranks);
		if (s->slots) buf_printf(out, " slots %" PRIu32, s->slots);
		buf_putc(out, '\n');
	}
	for (uint32_t i = 0; i < p->nruns; i++)
		print_run(m, &p->runs[i], file, tmp, out);
	arena_free(tmp);
}

void
plan_body_print(const Module *m, Buf *out)
{
	print_lines(m, false, out);
}

void
plan_print(const Module *m, Buf *out)
{
	buf_printf(out, "plan %d\nmodel ", IR_VERSION);
	text_name(out, name_str(m->names, m->model));
	buf_puts(out, " source ");
	text_quoted(out, name_str(m->names, m->source));
	buf_printf(out, " hash 0x%016" PRIx64 "\n", m->source_hash);
	print_predicted(m, out);
	print_lines(m, true, out);
}

/* ---- parse: lines ---- */

/* threads all | threads N */
static bool
plan_threads(Scan *s, Plan *p)
{
	p->threads = 0;
	return scan_try_key(s, "all") ||
	       scan_u32(s, "threads ('all', or how many)", 1, 4096, &p->threads);
}

/* ranks N { key value } */
static bool
line_ranks(PlanText *t, Scan *s)
{
	static const char *const keys[] = {"threads", "microbatches", "schedule", "forward"};
	Plan *p = &t->plan;
	int schedule, key;
	Loc at = scan_loc(s);

	if (t->head.line) return scan_fail(s, "a second 'ranks' line");
	t->head = at;
	p->microbatches = 1;
	p->schedule = SCH_1f1b;
	if (!scan_u32(s, "ranks", 1, MAX_RANKS, &p->ranks)) return false;
	while (!scan_at_end(s)) {
		bool ok = scan_pick_to(s, WORDS("key", keys), &key);

		if (!ok) return false;
		switch (key) {
		case 0: ok = plan_threads(s, p); break;
		case 1: ok = scan_u32(s, "microbatches", 1, MAX_MB, &p->microbatches); break;
		case 2:
			ok = scan_pick_to(s, &(Words){"schedule", schedule_str, 2}, &schedule);
			p->schedule = ok ? (Schedule)schedule : SCH_1f1b;
			break;
		default: p->forward_only = true; break;
		}
		if (!ok) return false;
	}
	PUSH(t->arena, p->meshes, p->nmeshes, t->cmeshes,
	     ((Mesh){.name = name_of(s->names, "m0"),
		     .n = 1,
		     .ax = {{MX_mb, 0, p->microbatches}}}));
	PUSH(t->arena, t->mesh_at, t->nmesh_at, t->cmesh_at, ((Loc){0}));
	return true;
}

/* kind [ "." sub ] ":" degree */
static bool
mesh_axis_text(Scan *s, Mesh *mesh)
{
	static const char *const kinds[MX_COUNT] = {NULL, "dp", "tp", "cp", "sp", "ep"};
	Scan before = *s;
	const char *word;
	uint32_t degree, sub = 0;
	int len, k, klen;

	if (!scan_word(s, "a mesh axis", &word, &len)) return false;
	for (klen = 0; klen < len && word[klen] != '.'; klen++)
		continue;
	for (k = MX_COUNT - 1; k > MX_mb; k--)
		if ((int)strlen(kinds[k]) == klen && !memcmp(kinds[k], word, (size_t)klen))
			break;
	if (klen + 2 == len && word[klen + 1] >= '0' && word[klen + 1] <= '9')
		sub = (uint32_t)(word[klen + 1] - '0');
	else if (klen != len)
		k = MX_mb;
	if (k == MX_mb) {
		*s = before;
		if (len == 2 && !memcmp(word, "pp", 2))
			return scan_fail(s, "a pipeline is no axis of a mesh: its stages are "
					    "lines, 'stage 0 layers 0-3 ranks 0-1'");
		return scan_fail(s, "unknown mesh axis '%.*s'; known are dp, tp, cp, sp, ep",
				 len > 60 ? 60 : len, word);
	}
	if (!scan_punct(s, ':') || !scan_u32(s, "the degree", 1, MAX_RANKS, &degree))
		return false;
	for (int i = 1; i < mesh->n; i++)
		if ((int)mesh->ax[i].kind == k && mesh->ax[i].sub == sub)
			return scan_fail(
			    &before, "mesh axis '%.*s' occurs twice; number them: %s.0, %s.1",
			    len, word, kinds[k], kinds[k]);
	if (mesh->n == MAX_MESH)
		return scan_fail(&before, "more than %d mesh axes", MAX_MESH - 1);
	mesh->ax[mesh->n].kind = (MeshKind)k;
	mesh->ax[mesh->n].sub = (uint8_t)sub;
	mesh->ax[mesh->n++].degree = degree;
	return true;
}

/* mesh NAME "=" ( "mb" | axis { axis } ) */
static bool
line_mesh(PlanText *t, Scan *s)
{
	Plan *p = &t->plan;
	Loc at = scan_loc(s);
	Scan before = *s;
	Mesh mesh = {.n = 1, .ax = {{MX_mb, 0, p->microbatches}}};
	bool first = p->nmeshes == 1 && !t->mesh_at[0].line;

	if (!scan_name(s, "the mesh's name", &mesh.name) || !scan_punct(s, '=')) return false;
	if (!scan_try_key(s, "mb")) {
		do {
			if (!mesh_axis_text(s, &mesh)) return false;
		} while (!scan_at_end(s));
	} else if (first) {
		p->meshes[0].name = mesh.name;
		t->mesh_at[0] = at;
		return true;
	}
	for (uint32_t i = 0; i < p->nmeshes; i++)
		if (p->meshes[i].name == mesh.name)
			return scan_fail(
			    &before, "a second mesh '%s'%s", name_str(s->names, mesh.name),
			    t->mesh_at[i].line ? "" : ": that is the one of a single rank");
	if (p->nmeshes == MAX_MESHES)
		return scan_fail(&before, "more than %d meshes", MAX_MESHES);
	PUSH(t->arena, p->meshes, p->nmeshes, t->cmeshes, mesh);
	PUSH(t->arena, t->mesh_at, t->nmesh_at, t->cmesh_at, at);
	return true;
}

/* stage N "layers" range ["ranks" range] ["slots" N] */
static bool
line_stage(PlanText *t, Scan *s)
{
	static const char *const keys[] = {"layers", "ranks", "slots"};
	Plan *p = &t->plan;
	Loc at = scan_loc(s);
	Stage k = {0};
	uint32_t index;
	int key;

	if (!scan_u32(s, "the stage", 0, MAX_RANKS, &index)) return false;
	if (index != p->nstages)
		return t->bad ? false
			      : (diag_error(s->diag, at,
					    "stages come in order: this is stage %" PRIu32
					    ", not %" PRIu32,
					    p->nstages, index),
				 false);
	while (!scan_at_end(s)) {
		bool ok = scan_pick_to(s, WORDS("key", keys), &key) &&
			  (key == 0   ? scan_range(s, "a layer", MAX_COUNT, &k.first, &k.count)
			   : key == 1 ? scan_range(s, "a rank", MAX_RANKS, &k.rank, &k.ranks)
				      : scan_u32(s, "slots", 1, MAX_MB, &k.slots));

		if (!ok) return false;
	}
	if (!k.count) return scan_fail(s, "a stage needs 'layers'");
	PUSH(t->arena, p->stages, p->nstages, t->cstages, k);
	PUSH(t->arena, t->stage_at, t->nstage_at, t->cstage_at, at);
	return true;
}

static bool
run_mesh(PlanText *t, Scan *s, Strategy *r)
{
	Scan before = *s;
	Name name;
	Buf have;

	if (!scan_name(s, "a mesh", &name)) return false;
	for (uint32_t i = 0; i < t->plan.nmeshes; i++)
		if (t->plan.meshes[i].name == name) {
			r->mesh = i;
			return true;
		}
	if (t->bad) return false;
	buf_init(&have, t->arena);
	for (uint32_t i = 0; i < t->plan.nmeshes && i < 8; i++)
		buf_printf(&have, "%s%s", i ? ", " : "",
			   name_str(s->names, t->plan.meshes[i].name));
	return scan_fail(&before, "no mesh '%s' above this line; there %s %s%s",
			 name_str(s->names, name), t->plan.nmeshes == 1 ? "is" : "are", have.s,
			 t->plan.nmeshes > 8 ? " ..." : "");
}

static bool
run_key(PlanText *t, Scan *s, Strategy *r, bool *mesh)
{
	static const char *const keys[] = {"mesh", "zero", "recompute", "megatron_sp"};
	uint32_t zero;
	int key, rc;

	if (!scan_pick_to(s, WORDS("key", keys), &key)) return false;
	switch (key) {
	case 0: *mesh = true; return run_mesh(t, s, r);
	case 1:
		if (!scan_u32(s, "zero", 0, 3, &zero)) return false;
		r->zero = (uint8_t)zero;
		return true;
	case 3: r->megatron_sp = true; return true;
	default:
		if (!scan_pick_to(s, &(Words){"recompute", recompute_str, 3}, &rc))
			return false;
		r->recompute = (Recompute)rc;
		return true;
	}
}

/* layers range { layer type } "mesh" NAME ["zero" N] ["recompute" HOW] ["megatron_sp"] */
static bool
line_layers(PlanText *t, Scan *s)
{
	Plan *p = &t->plan;
	Loc at = scan_loc(s);
	Strategy r = {.loc = at};
	Name *names = NULL, name;
	uint32_t n = 0, cap = 0;
	bool mesh = false;

	if (!scan_range(s, "a layer", MAX_COUNT, &r.first, &r.count)) return false;
	for (;;) {
		Scan here = *s;
		bool key = scan_try_key(s, "mesh") || scan_try_key(s, "zero") ||
			   scan_try_key(s, "recompute") || scan_try_key(s, "megatron_sp");

		*s = here;
		if (key || scan_at_end(s)) break;
		if (!scan_name(s, "a layer type or a key (mesh, zero, recompute, megatron_sp)",
			       &name))
			return false;
		PUSH(t->arena, names, n, cap, name);
	}
	PUSH(t->arena, names, n, cap, 0);
	while (!scan_at_end(s))
		if (!run_key(t, s, &r, &mesh)) return false;
	if (!mesh) return scan_fail(s, "these layers need a mesh");
	PUSH(t->arena, p->runs, p->nruns, t->cruns, r);
	PUSH(t->arena, t->run_at, t->nrun_at, t->crun_at, at);
	PUSH(t->arena, t->layers, t->nlayers, t->clayers, names);
	return true;
}

/* nodes range { range } */
static bool
line_nodes(PlanText *t, Scan *s)
{
	enum { MOST_NODES = 1 << 17 };
	Plan *p = &t->plan;
	uint32_t first, n;
	Arena *tmp = arena_new();
	bool *seen = NEW_N(tmp, bool, MOST_NODES), ok = true;

	if (p->nnodes) ok = scan_fail(s, "a second 'nodes' line");
	while (ok && (!p->nnodes || !scan_at_end(s))) {
		Scan before = *s;

		ok = scan_range(s, "a node", MOST_NODES, &first, &n);
		for (uint32_t i = first; ok && i < first + n; i++) {
			if (seen[i]) ok = scan_fail(&before, "node %" PRIu32 " twice", i);
			seen[i] = true;
			if (ok) PUSH(t->arena, p->nodes, p->nnodes, t->cnodes, i);
		}
	}
	arena_free(tmp);
	return ok;
}

bool
plan_text_line(PlanText *t, Scan *s, int which)
{
	static bool (*const line[])(PlanText *, Scan *) = {line_ranks, line_mesh, line_stage,
							   line_layers, line_nodes};
	bool ok;

	if (which > 0 && !t->head.line) {
		if (t->bad) return false;
		t->bad = true;
		return scan_fail(s, "a plan begins with its 'ranks' line");
	}
	ok = line[which](t, s) && scan_done(s);
	if (!ok) t->bad = true;
	return ok;
}

void
plan_text_finish(PlanText *t, const Module *m)
{
	Plan *p = &t->plan;
	Stage all = {.count = m->ninsts, .ranks = p->ranks};
	uint32_t without = 0;

	for (uint32_t k = 0; k < p->nstages; k++)
		without += !p->stages[k].ranks;
	if (without && without == p->nstages && p->ranks % without == 0)
		for (uint32_t k = 0; k < p->nstages; k++) {
			p->stages[k].ranks = p->ranks / without;
			p->stages[k].rank = k * p->stages[k].ranks;
		}
	if (p->nstages || !m->ninsts || !t->head.line) return;
	PUSH(t->arena, p->stages, p->nstages, t->cstages, all);
	PUSH(t->arena, t->stage_at, t->nstage_at, t->cstage_at, ((Loc){0}));
}

/* ---- parse: the names in the lines, the file ---- */

static bool
same_names(const Name *given, const Name *have, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (given[i] != have[i]) return false;
	return !given[n];
}

/* Which layer is of which type, in a line. */
static void
note_types(const Module *m, Loc at, Diag *d, Arena *tmp)
{
	Buf list;

	buf_init(&list, tmp);
	for (uint32_t i = 0, n; i < m->ninsts && list.n < 200; i += n) {
		for (n = 1; i + n < m->ninsts && m->insts[i + n].type == m->insts[i].type; n++)
			continue;
		buf_puts(&list, i ? ", " : "");
		text_range(&list, i, n);
		buf_printf(&list, " %s", name_str(m->names, m->types[m->insts[i].type].name));
		if (list.n >= 200 && i + n < m->ninsts) buf_puts(&list, " ...");
	}
	diag_note(d, at, "the model's layers are %s", list.s);
}

bool
plan_text_layers(const PlanText *t, const Module *m, Diag *d)
{
	Arena *tmp = arena_new();
	bool ok = true;

	for (uint32_t i = 0; i < t->plan.nruns; i++) {
		const Strategy *r = &t->plan.runs[i];
		Name *have;
		uint32_t n;
		Buf list;

		if (!t->layers[i][0] || (uint64_t)r->first + r->count > m->ninsts) continue;
		n = run_types(m, r->first, r->count, false, tmp, &have);
		if (same_names(t->layers[i], have, n)) continue;
		buf_init(&list, tmp);
		for (uint32_t k = 0; k < n; k++)
			buf_printf(&list, "%s%s", k ? " " : "", name_str(m->names, have[k]));
		buf_puts(&list, ", not");
		for (uint32_t k = 0; t->layers[i][k]; k++)
			buf_printf(&list, " %s", name_str(m->names, t->layers[i][k]));
		diag_error(d, t->run_at[i], "the types of these layers are %s", list.s);
		note_types(m, t->run_at[i], d, tmp);
		ok = false;
	}
	arena_free(tmp);
	return ok;
}

/* model NAME "source" STRING "hash" HEX: was the plan made for this module? */
static bool
file_model(const Module *m, Scan *s)
{
	Loc at = scan_loc(s);
	Name model, source;
	uint64_t hash;

	if (scan_peek(s) == '"' ? !scan_string(s, "the model's name", &model)
				: !scan_name(s, "the model's name", &model))
		return false;
	if (model != m->model) {
		diag_error(s->diag, at, "this plan is for the model '%s', not for '%s'",
			   name_str(s->names, model), name_str(m->names, m->model));
		return false;
	}
	if (scan_at_end(s)) return true;
	if (!scan_key(s, "source") || !scan_string(s, "the source", &source) ||
	    !scan_key(s, "hash"))
		return false;
	at = scan_loc(s);
	if (!scan_hash(s, &hash)) return false;
	if (hash != m->source_hash)
		diag_warn(s->diag, at,
			  "this plan was made for another version of '%s' (hash 0x%016" PRIx64
			  "; the model's is 0x%016" PRIx64 ")",
			  name_str(m->names, m->model), hash, m->source_hash);
	return scan_done(s);
}

/* "predicted" { "step_ns" INT | "memory_bytes" INT | "least_ns" INT | "cluster" STRING } */
static bool
file_predicted(Plan *p, Scan *s)
{
	static const char *const keys[] = {"step_ns", "memory_bytes", "least_ns", "cluster"};
	int64_t *const to[] = {&p->time, &p->memory, &p->least};
	int key;

	while (!scan_at_end(s)) {
		if (!scan_pick_to(s, WORDS("key", keys), &key)) return false;
		if (key == 3 ? !scan_string(s, "the cluster's name", &p->cluster)
			     : !scan_int(s, keys[key], 0, INT64_MAX, to[key]))
			return false;
	}
	return scan_done(s);
}

static void
parse_file(const Module *m, PlanText *t, Scan *s)
{
	static const char *const words[] = {"ranks", "mesh",  "stage",    "layers",
					    "nodes", "model", "predicted"};
	uint32_t version;
	int which;

	if (!scan_line(s)) {
		scan_fail(s, "this file is empty; a plan begins 'plan %d'", IR_VERSION);
		return;
	}
	if (!scan_try_key(s, "plan")) {
		scan_fail(s, "a plan begins with the line 'plan %d'", IR_VERSION);
		return;
	}
	if (!scan_u32(s, "the version", IR_VERSION, IR_VERSION, &version) || !scan_done(s))
		return;
	while (!diag_stop(s->diag) && scan_line(s)) {
		if (!scan_pick_to(s, WORDS("key", words), &which))
			t->bad = true;
		else if (which == 5)
			file_model(m, s);
		else if (which == 6)
			t->bad |= !file_predicted(&t->plan, s);
		else
			plan_text_line(t, s, which);
	}
	if (!t->bad && !t->head.line) scan_fail(s, "no 'ranks' line");
}

/* Kinds of axes that a dump may have and no plan can be lowered with. */
static bool
kinds_lowered(const Module *m, const PlanText *t, Diag *d)
{
	bool ok = true;

	for (uint32_t i = 0; i < t->plan.nmeshes; i++)
		for (int k = 1; k < t->plan.meshes[i].n; k++) {
			MeshKind kind = t->plan.meshes[i].ax[k].kind;

			if (kind == MX_dp || kind == MX_tp ||
			    t->plan.meshes[i].ax[k].degree <= 1)
				continue;
			diag_error(d, t->mesh_at[i],
				   "mesh '%s' splits over %s:%" PRIu32
				   "; layers are split over dp and tp so far",
				   name_str(m->names, t->plan.meshes[i].name),
				   mesh_kind_str[kind], t->plan.meshes[i].ax[k].degree);
			ok = false;
		}
	return ok;
}

bool
plan_parse(Module *m, Diag *d, Name file, const char *text, size_t len)
{
	int errors = diag_errors(d);
	PlanText t = {.arena = m->arena};
	Scan s;

	diag_source(d, file, text, len);
	scan_init(&s, m->names, d, file, text, len);
	parse_file(m, &t, &s);
	if (diag_errors(d) != errors) return false;
	plan_text_finish(&t, m);
	if (!plan_text_layers(&t, m, d) || !plan_check(m, &t.plan, &t, d, "")) return false;
	if (!kinds_lowered(m, &t, d)) return false;
	m->plan = t.plan;
	return true;
}
