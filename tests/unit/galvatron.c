/*
 * galvatron.c - files of Hetu-Galvatron: a strategy becomes a plan and the same strategy again, in every field; what its
 * format cannot say is refused by name. usage: galvatron [STRATEGY.json LAYERS BATCH], for a file that is not here.
 */
#include <stdlib.h>

#include "frontend/frontend.h"
#include "ir/galvatron.h"
#include "tests/unit/check.h"

/* Enough of a model to have layers: rows of a matrix, an embedding and a head around them. */
static const char model[] =
    "model rows\n"
    "layers = 3\n"
    "axis batch = 16, embed = 4\n"
    "input x[batch embed] : float\n"
    "layer first(x) { return rmsnorm[embed](x) as \"n\" }\n"
    "layer block(x) { return x + rmsnorm[embed](x) as \"n\" }\n"
    "layer last(x) { return mean[batch embed](x * x) }\n"
    "forward { h = first(x) as \"first\"; for i in 0..layers { h = block(h) as "
    "\"h.{i}\" }; return last(h) }\n"
    "train { optimizer = adamw(lr = 1e-3); precision = f32 }\n";

typedef struct World {
	Arena *arena;
	Names *names;
	FILE *said;
	Ctx c;
} World;

static World
open_world(void)
{
	World w = {.arena = arena_new(), .said = tmpfile()};

	w.names = names_new(w.arena);
	w.c = (Ctx){.perm = w.arena,
		    .tmp = w.arena,
		    .names = w.names,
		    .diag = diag_new(w.arena, w.names, w.said)};
	return w;
}

static void
close_world(World *w)
{
	fclose(w->said);
	arena_free(w->arena);
}

/* The model with so many layers. Below level plan, where a plan may hold what is not lowered yet: sp and cp. */
static Module *
module(World *w, const char *layers, const char *batch)
{
	const char *set[] = {layers, batch};
	FeOptions o = {.path = "rows.gdl", .host = true, .set = set, .nset = 2};
	Module *m = fe_parse_text(&w->c, &o, model, sizeof(model) - 1);

	CHECK(m, "the model");
	if (!m) {
		show_said(w->said, "model");
		exit(1);
	}
	m->level = LV_spmd;
	return m;
}

static bool
same_layer(const GalLayer *a, const GalLayer *b)
{
	return a->tp == b->tp && a->cp == b->cp && a->consecutive == b->consecutive &&
	       a->zero3 == b->zero3 && a->ulysses == b->ulysses &&
	       a->checkpoint == b->checkpoint;
}

static void
check_same(const GalPlan *a, const GalPlan *b)
{
	CHECK(a->stages == b->stages && a->world == b->world && a->chunks == b->chunks,
	      "counts");
	CHECK(a->batch == b->batch && a->schedule == b->schedule && a->zero2 == b->zero2,
	      "batch, schedule, default");
	CHECK(a->vtp == b->vtp && a->vcp == b->vcp && a->vsp == b->vsp &&
		  a->vzero3 == b->vzero3,
	      "embedding and head");
	CHECK(a->nlayers == b->nlayers, "layers");
	for (uint32_t i = 0; i < a->nlayers && i < b->nlayers; i++)
		CHECK(same_layer(&a->layer[i], &b->layer[i]), "layer %u", i);
	for (uint32_t k = 0; k < a->stages && a->stages == b->stages; k++)
		CHECK(a->division[k] == b->division[k], "stage %u", k);
}

/* Strategy -> plan -> strategy -> text -> strategy. */
static void
check_round(const char *name, const char *text, size_t len, const char *layers,
	    const char *batch)
{
	World w = open_world();
	Module *m = module(&w, layers, batch);
	GalPlan in, out, again;
	Buf printed, twice;
	bool ok = gal_plan_read(w.arena, w.names, w.c.diag, name_of(w.names, name), text, len,
				0, &in) &&
		  gal_plan_parse(m, w.c.diag, name_of(w.names, name), text, len, 0) &&
		  gal_plan_of(m, w.c.diag, w.arena, &out);

	CHECK(ok, "%s", name);
	if (!ok) {
		show_said(w.said, name);
		close_world(&w);
		return;
	}
	check_same(&in, &out);
	buf_init(&printed, w.arena);
	buf_init(&twice, w.arena);
	gal_plan_print(&out, &printed);
	CHECK(gal_plan_read(w.arena, w.names, w.c.diag, name_of(w.names, "again"), printed.s,
			    printed.n, 0, &again),
	      "what was printed is read");
	check_same(&in, &again);
	gal_plan_print(&again, &twice);
	CHECK(printed.n == twice.n && !memcmp(printed.s, twice.s, twice.n), "the same text");
	close_world(&w);
}

/* Ulysses around the embedding, ZeRO 3 throughout, no world_size: the name has it. */
static const char one_stage[] =
    "{\"pp_deg\": 1, \"tp_sizes_enc\": \"1,1,1,1,1\", \"tp_consecutive_flags\": "
    "\"1,1,1,1,1\",\n"
    " \"dp_types_enc\": \"1,1,1,1,1\", \"use_sp\": \"0,0,0,0,0\", \"checkpoint\": "
    "\"1,1,1,0,0\",\n"
    " \"global_bsz\": 16, \"chunks\": 1, \"pp_division\": \"5\", \"pipeline_type\": "
    "\"pipedream_flush\",\n"
    " \"default_dp_type\": \"zero2\", \"vtp\": 2, \"vsp\": 1, \"embed_sdp\": 1}\n";

/* Every field away from its default: unequal stages, strided tp, Ulysses, cp, both names of embed_sdp. */
static const char every_field[] =
    "{\"pp_deg\": 2, \"tp_sizes_enc\": \"2,4,2,1,4,1\", \"tp_consecutive_flags\": "
    "\"0,1,1,1,0,1\",\n"
    " \"dp_types_enc\": \"0,1,0,1,0,0\", \"use_sp\": \"0,0,1,0,1,0\", \"checkpoint\": "
    "\"1,0,1,0,0,1\",\n"
    " \"cp_sizes_enc\": \"1,1,2,2,1,1\", \"world_size\": 16, \"global_bsz\": 48, \"chunks\": "
    "6, \n"
    " \"pp_division\": \"2,4\", \"pipeline_type\": \"gpipe\", \"default_dp_type\": \"zero2\", "
    "\"vtp\": 2,\n"
    " \"vsp\": 0, \"vcp\": 2, \"embed_sdp\": 0, \"vocab_sdp\": 0}\n";

static const char plain[] =
    "{\"pp_deg\": 3, \"tp_sizes_enc\": \"3,3,3\", \"dp_types_enc\": \"0,0,0\", \"checkpoint\": "
    "\"0,0,0\",\n"
    " \"world_size\": 18, \"global_bsz\": 12, \"chunks\": 3, \"pp_division\": \"1,1,1\",\n"
    " \"pipeline_type\": \"gpipe\", \"default_dp_type\": \"ddp\", \"vtp\": 3, \"vocab_sdp\": "
    "0}\n";

static void
test_rounds(void)
{
	check_round("plan_1nodes_8gpus_per_node_36GB.json", one_stage, sizeof(one_stage) - 1,
		    "layers=5", "batch=16");
	check_round("every.json", every_field, sizeof(every_field) - 1, "layers=6", "batch=48");
	check_round("plain.json", plain, sizeof(plain) - 1, "layers=3", "batch=12");
}

/* What the fields become. */
static void
test_meaning(void)
{
	World w = open_world();
	Module *m = module(&w, "layers=6", "batch=48");
	bool ok = gal_plan_parse(m, w.c.diag, name_of(w.names, "every.json"), every_field,
				 sizeof(every_field) - 1, 0);

	CHECK(ok && m->plan.nstages == 2 && m->plan.ranks == 16, "two stages");
	if (ok) {
		const Strategy *s = ir_run_of(m, 1), *z = ir_run_of(m, 2), *u = ir_run_of(m, 3);
		const Mesh *mesh = &m->plan.meshes[s->mesh],
			   *ulysses = &m->plan.meshes[u->mesh];

		CHECK(m->plan.stages[0].count == 3 && m->plan.stages[1].count == 5,
		      "the embedding is in the first stage, the head in the last");
		CHECK(mesh->n == 3 && mesh->ax[1].kind == MX_tp && mesh->ax[2].kind == MX_dp,
		      "not consecutive: tp outermost");
		CHECK(s->zero == 2 && s->recompute == RC_full && s->megatron_sp, "layer 0");
		CHECK(z->zero == 3 && z->recompute == RC_none, "layer 1");
		CHECK(ulysses->n == 4 && ulysses->ax[1].kind == MX_dp &&
			  ulysses->ax[2].kind == MX_cp && ulysses->ax[3].kind == MX_sp &&
			  !u->megatron_sp,
		      "layer 2: dp, cp, Ulysses");
	}
	close_world(&w);
}

/* A .plan that is refused, and why. */
static void
check_refused(const char *plan, const char *why)
{
	World w = open_world();
	Module *m = module(&w, "layers=3", "batch=16");
	GalPlan out;
	bool read = plan_parse(m, w.c.diag, name_of(w.names, "x.plan"), plan, strlen(plan));

	CHECK(read, "plan for '%s'", why);
	CHECK(!read || !gal_plan_of(m, w.c.diag, w.arena, &out), "not refused: %s", why);
	CHECK(has_said(w.said, why), "said '%s'", why);
	if (!has_said(w.said, why)) show_said(w.said, why);
	close_world(&w);
}

static void
test_refused(void)
{
	check_refused("plan 1\nranks 4\nmesh m1 = dp:4\nlayers 0-4 mesh m1 zero 1\n", "zero 1");
	check_refused(
	    "plan 1\nranks 4\nmesh m1 = dp:4\nlayers 0 mesh m1\nlayers 1-2 mesh m1 zero 2\n"
	    "layers 3-4 mesh m1\n",
	    "others zero 0");
	check_refused("plan 1\nranks 4\nmesh m1 = dp:4\nlayers 0-1 mesh m1\nlayers 2-4 mesh m1 "
		      "recompute selective\n",
		      "recomputes selectively");
	check_refused(
	    "plan 1\nranks 4\nmesh m1 = dp:4\nmesh m2 = dp:2 tp:2\nlayers 0 mesh m2\nlayers "
	    "1-4 mesh m1\n",
	    "embedding and head are alike");
	check_refused(
	    "plan 1\nranks 3\nmesh m1 = dp:2\nstage 0 layers 0-1 ranks 0-1\nstage 1 layers 2-4 "
	    "ranks 2\nlayers 0-1 mesh m1\nlayers 2-4 mesh m0\n",
	    "equally many");
	check_refused(
	    "plan 1\nranks 2\nstage 0 layers 0 ranks 0\nstage 1 layers 1-4 ranks 1\nlayers 0-4 "
	    "mesh m0\n",
	    "every stage has one");
	check_refused("plan 1\nranks 8\nmesh m1 = dp.0:2 tp:2 dp.1:2\nlayers 0-4 mesh m1\n",
		      "lies on mesh m1");
	check_refused(
	    "plan 1\nranks 4\nmesh m1 = dp:4\nlayers 0 mesh m1 recompute full\nlayers 1-4 mesh "
	    "m1\n",
	    "is recomputed");
	check_refused(
	    "plan 1\nranks 4\nmesh m1 = dp:2 tp:2\nlayers 0-1 mesh m1 megatron_sp\nlayers 2-4 "
	    "mesh m1\n",
	    "one switch for all");
}

static int
check_file(const char *path, const char *layers, const char *batch)
{
	Arena *a = arena_new();
	size_t n;
	char *text = file_read(a, path, MAX_JSON_BYTES, &n);

	CHECK(text, "%s", path);
	if (text) check_round(path, text, n, layers, batch);
	arena_free(a);
	return checked("galvatron");
}

int
main(int argc, char **argv)
{
	if (argc == 4) return check_file(argv[1], argv[2], argv[3]);
	test_rounds();
	test_meaning();
	test_refused();
	return checked("galvatron");
}
