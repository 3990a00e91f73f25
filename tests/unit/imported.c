/*
 * imported.c - plans from imported layer costs, against times and bytes worked out by hand from the files below.
 */
#include <math.h>
#include <stdlib.h>

#include "passes/imported.h"
#include "tests/unit/check.h"

#define MIB (1 << 20)

/* Forward of b samples: 2, 3, 4.5 ms; embedding and head: 1 ms a sample. */
static const char times[] =
    "{\"layertype_0_bsz1_seq2048\": 2, \"layertype_0_bsz2_seq2048\": 1.5,\n"
    " \"layertype_0_bsz3_seq2048\": 1.5,\n"
    " \"layertype_other_bsz1_seq2048\": 1, \"layertype_other_bsz2_seq2048\": 1}";
/* 16 Mi parameters a layer, 2 Mi around them; degree 1 alone, or 1 and 2. */
#define MEMORY(act, ends)                                                        \
	"{\"layertype_0_sp\": {\"2048\": {\"parameter_size\": 64, "              \
	"\"tp_activation_per_bsz_dict\": {" act ", \"checkpoint\": 10}}},\n"     \
	" \"other_memory_pp_off_sp\": {\"2048\": {\"model_states\": {" ends      \
	"}, \"activation\": {\"1\": 20, \"2\": 10}}},\n"                         \
	" \"other_memory_pp_on_first_sp\": {\"2048\": {\"model_states\": {" ends \
	"}, \"activation\": {\"1\": 20, \"2\": 10}}},\n"                         \
	" \"other_memory_pp_on_last_sp\": {\"2048\": {\"model_states\": {" ends  \
	"}, \"activation\": {\"1\": 20, \"2\": 10}}}}"
static const char memory_1[] = MEMORY("\"1\": 100", "\"1\": 32");
static const char memory_2[] = MEMORY("\"1\": 100, \"2\": 50", "\"1\": 32, \"2\": 16");
/* Four devices; 100 MB/ms between any two, 80 and 40 between stages beside each other and two apart. */
static const char rates[] =
    "{\"allreduce_size_2_consec_1\": 100, \"allreduce_size_4_consec_1\": 100,\n"
    " \"allreduce_size_2_consec_0\": 100}";
static const char messages[] = "{\"pp_size_2\": 40, \"pp_size_4\": 80}";
static const char overlap[] = "{\"overlap_coe\": 1.25}";
static const char exchanges[] =
    "{\"all2all_size_2_1MB_time\": 0.001, \"all2all_size_2_4MB_time\": 0.001,\n"
    " \"all2all_size_2_2MB_time\": 0.001}";

typedef struct Case {
	Arena *arena;
	FILE *said;
	Ctx c;
	GalFiles *files;
	ImportFound found;
} Case;

static Case
open_case(uint32_t ranks, int64_t mib)
{
	Case x = {.arena = arena_new(), .said = tmpfile()};

	x.c = (Ctx){.perm = x.arena,
		    .tmp = x.arena,
		    .names = names_new(x.arena),
		    .ranks = ranks,
		    .memory_bytes = mib * MIB};
	x.c.diag = diag_new(x.arena, x.c.names, x.said);
	x.files = gal_files(x.arena, x.c.names, x.c.diag);
	return x;
}

static void
close_case(Case *x)
{
	fclose(x->said);
	arena_free(x->arena);
}

static void
add(Case *x, const char *name, const char *text)
{
	CHECK(gal_files_add(x->files, name_of(x->c.names, name), text, strlen(text)), "%s",
	      name);
}

static void
add_all(Case *x, const char *memory)
{
	add(x, "computation.json", times);
	add(x, "memory.json", memory);
	add(x, "allreduce_bandwidth_1nodes_4gpus_per_node.json", rates);
	add(x, "p2p_bandwidth_1nodes_4gpus_per_node.json", messages);
}

static Device
device(Case *x)
{
	Device d = {
	    .name = name_of(x->c.names, "d"), .target = TG_cuda, .memory = (int64_t)1 << 40};

	for (int k = 0; k < EF_COUNT; k++)
		d.eff[k] = hw_eff[k].value;
	return d;
}

static bool
plan(Case *x, uint32_t layers, int64_t batch)
{
	Device d = device(x);
	const ImportAsk ask = {.layers = &layers, .ntypes = 1, .batch = batch, .hidden = 1024};
	const Cluster *c = gal_cluster(x->files, &d);
	bool ok = c && imported_plan(&x->c, x->files, c, &ask, &x->found);

	if (!c) show_said(x->said, "cluster");
	return ok;
}

static void
takes(const char *what, const Case *x, double ms)
{
	CHECK(fabs((double)x->found.time - ms * 1e6) < 20, "%s: %.6f ms, by hand %.6f", what,
	      (double)x->found.time * 1e-6, ms);
}

/* Three layers of 3 x 3 ms, ends 3 x 2 ms. */
static void
test_one(void)
{
	Case x = open_case(1, 100000);

	add_all(&x, memory_1);
	CHECK(plan(&x, 3, 2), "plan");
	takes("one rank", &x, 3 * 9 + 6);
	/* 16 bytes a parameter; two samples of activations */
	CHECK(x.found.stage_bytes[0] == (int64_t)(3 * 256 + 32 + 3 * 200 + 40) * MIB,
	      "%ld bytes", (long)(x.found.stage_bytes[0] / MIB));
	close_case(&x);
}

/* 1440 MiB do not fit: recomputing three layers takes 1100 (what one needs while it runs included), and 9 ms. */
static void
test_recompute(void)
{
	Case x = open_case(1, 1110);

	add_all(&x, memory_1);
	x.c.microbatches = 1;
	CHECK(plan(&x, 3, 2), "plan");
	takes("recomputed", &x, 33 + 9);
	CHECK(x.found.stage_bytes[0] == (int64_t)(3 * 256 + 32 + 3 * 20 + 40 + 200) * MIB,
	      "%ld bytes", (long)(x.found.stage_bytes[0] / MIB));
	for (int i = 0; i < 3; i++)
		CHECK(x.found.plan.layer[i].checkpoint, "layer %d", i);
	close_case(&x);
	x = open_case(1, 1000);
	add_all(&x, memory_1);
	x.c.microbatches = 1;
	CHECK(!plan(&x, 3, 2), "does not fit");
	CHECK(has_said(x.said, "no plan for 1 rank and a batch of 2 fits"), "said");
	close_case(&x);
}

/* Each rank two samples; gradients of 32 MB a layer and 4 MB around: a ring of two sends each once. */
static void
test_data(void)
{
	Case x = open_case(2, 100000);

	add_all(&x, memory_1);
	CHECK(plan(&x, 3, 4), "plan");
	takes("data parallel", &x, 33 + 3 * 0.32 + 0.04);
	CHECK(x.found.plan.stages == 1 && x.found.plan.vtp == 1 && x.found.plan.zero2,
	      "one stage");
	close_case(&x);
	x = open_case(2, 100000);
	add_all(&x, memory_1);
	add(&x, "overlap_coefficient.json", overlap);
	CHECK(plan(&x, 3, 4), "plan");
	takes("beside the last backward", &x, 33 + 3 * 0.25 * 0.32 + 0.25 * 0.04);
	close_case(&x);
}

/* Under ZeRO 3 a layer's weights, 32 MB, are gathered (half a ring) forward and backward, and its gradients scattered. */
static void
test_zero3(void)
{
	/* of 256 + 200 a layer and 32 + 40 ZeRO 2 keeps 32 + 224 / 2, ZeRO 3 the half and 2 x 32 of weights at work */
	Case x = open_case(2, 8 * (128 + 200) + 16 + 40 + 64);

	add_all(&x, memory_1);
	x.c.recompute_given = true;
	x.c.microbatches = 1;
	CHECK(plan(&x, 8, 4), "plan");
	takes("zero 3", &x, 8 * 9 + 6 + 8 * (0.32 + 0.16) + 0.04 + 0.02);
	for (int i = 0; i < 8; i++)
		CHECK(x.found.plan.layer[i].zero3, "layer %d", i);
	close_case(&x);
}

/* One sample on two ranks: half of it would take 1 ms, but the line of the measurements says 1.5. Four all-reduces of 4 MB a
 * layer, two around; those take what they measured. */
static void
test_tensor(void)
{
	Case x = open_case(2, 100000);

	add_all(&x, memory_2);
	CHECK(plan(&x, 3, 1), "plan");
	takes("tensor parallel", &x, 3 * (4.5 + 4 * 0.04) + 1.5 + 2 * 0.04);
	CHECK(x.found.plan.layer[0].tp == 2 && !x.found.plan.layer[0].ulysses &&
		  x.found.plan.vtp == 2,
	      "tp 2");
	close_case(&x);
	/* eight all-to-alls of 2 MB instead; gradients are alike on both ranks then, and summed beside the backward */
	x = open_case(2, 100000);
	add_all(&x, memory_2);
	add(&x, "overlap_coefficient.json", overlap);
	add(&x, "sp_time_1nodes_4gpus_per_node.json", exchanges);
	CHECK(plan(&x, 3, 1), "plan");
	takes("Ulysses", &x, 3 * (4.5 + 8 * 0.001) + 1.5 + 0.25 * (3 * 0.32 + 0.04));
	CHECK(x.found.plan.layer[1].ulysses && x.found.plan.vsp, "use_sp, vsp");
	close_case(&x);
}

/* Neither of them was measured: two stages, one sample after the other; 4 MB there and back at 80 MB/ms. */
static void
test_pipeline(void)
{
	Case x = open_case(2, 100000);

	add_all(&x, memory_1);
	CHECK(plan(&x, 3, 1), "plan");
	takes("pipeline", &x, 3 * 6 + 3 + 2 * 0.05);
	CHECK(x.found.plan.stages == 2, "two stages");
	close_case(&x);
	/* three samples: the second stage has two layers, the head and what arrives */
	x = open_case(2, 100000);
	add_all(&x, memory_1);
	x.c.microbatches = 3;
	CHECK(plan(&x, 3, 3), "plan");
	takes("three microbatches", &x, 3 * 6 + 3 + 0.1 + 2 * (2 * 6 + 1.5));
	CHECK(x.found.plan.division[0] == 2 && x.found.plan.division[1] == 1,
	      "whoever receives has fewer layers");
	close_case(&x);
}

/* Four ranks, three samples: no degree of data gives whole samples, tensor degrees up to 2 are known: two stages. */
static void
test_degrees(void)
{
	Case x = open_case(4, 100000);

	add_all(&x, memory_2);
	x.c.microbatches = 3;
	CHECK(plan(&x, 4, 3), "plan");
	CHECK(x.found.plan.stages >= 2, "%u stages", x.found.plan.stages);
	for (uint32_t i = 0; i < 4; i++)
		CHECK(x.found.plan.layer[i].tp * x.found.plan.stages == 4, "layer %u", i);
	close_case(&x);
}

/* Everything that is not there is asked for. */
static void
test_missing(void)
{
	Case x = open_case(2, 0);

	add(&x, "allreduce_bandwidth_1nodes_4gpus_per_node.json", rates);
	add(&x, "computation.json",
	    "{\"layertype_0_bsz1_seq2048\": 2, \"layertype_0_bsz1_seq512\": 1}");
	CHECK(!plan(&x, 3, 2), "which sequence?");
	CHECK(has_said(x.said, "2048, 512"), "said both");
	CHECK(has_said(x.said, "p2p_bandwidth_1nodes_4gpus_per_node.json"),
	      "said what file is missing");
	CHECK(has_said(x.said, "sp_time_1nodes_4gpus_per_node.json"),
	      "said what file is missing");
	CHECK(has_said(x.said, "overlap_coefficient.json"), "said what file is missing");
	close_case(&x);
	x = open_case(2, 0);
	add(&x, "allreduce_bandwidth_1nodes_4gpus_per_node.json", rates);
	add(&x, "computation.json", "{\"layertype_0_bsz1_seq2048\": 2}");
	CHECK(!plan(&x, 3, 2), "no memory");
	CHECK(has_said(x.said, "layer type 0 has no memory"), "said");
	CHECK(has_said(x.said, "embedding and head have no time"), "said");
	close_case(&x);
}

/* Two types of layers, in the order given. */
static void
test_types(void)
{
	Case x = open_case(1, 100000);
	Device d = device(&x);
	const uint32_t layers[] = {2, 1};
	const ImportAsk ask = {.layers = layers, .ntypes = 2, .batch = 2};

	add_all(&x, memory_1);
	add(&x, "computation_1.json", "{\"layertype_1_bsz2_seq2048\": 5}");
	add(&x, "memory_1.json",
	    "{\"layertype_1\": {\"2048\": {\"parameter_size\": 4, "
	    "\"tp_activation_per_bsz_dict\": "
	    "{\"1\": 7}}}}");
	const Cluster *c = gal_cluster(x.files, &d);

	CHECK(c && imported_plan(&x.c, x.files, c, &ask, &x.found), "plan");
	takes("two types", &x, 2 * 9 + 30 + 6);
	CHECK(x.found.plan.nlayers == 3, "three layers");
	close_case(&x);
}

int
main(void)
{
	test_one();
	test_recompute();
	test_data();
	test_zero3();
	test_tensor();
	test_pipeline();
	test_degrees();
	test_missing();
	test_types();
	return checked("imported");
}
