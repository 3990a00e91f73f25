/*
 * ranks.c - a GvrtProgram of several ranks written by hand: h = x W0, y = h W1, half the mean square of y - t, SGD with momentum.
 *
 * The build chooses the plan: STAGES (W0 and W1 in one, or one each), DP0 TP0 DP1 TP1 of the meshes of the two layers, ZERO,
 * and STAGE, which of the programs this is. dp splits the batch, tp the hidden axis; neither need divide it. Two
 * microbatches of six samples.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gvrt.h"

#ifndef STAGES
#define STAGES 1
#endif
#ifndef STAGE
#define STAGE 0
#endif
#ifndef DP0
#define DP0 1
#endif
#ifndef TP0
#define TP0 1
#endif
#ifndef DP1
#define DP1 DP0
#endif
#ifndef TP1
#define TP1 TP0
#endif
#ifndef ZERO
#define ZERO 0
#endif
#ifndef PLAN
#define PLAN 1
#endif

enum { FEATURES = 5, HIDDEN = 6, CLASSES = 3, ROWS = 6, MICRO = 2 };
enum { DP = STAGE ? DP1 : DP0, TP = STAGE ? TP1 : TP0, MESH = STAGE };
enum { RANKS0 = DP0 * TP0, RANKS1 = DP1 * TP1, RANKS = STAGES == 1 ? RANKS0 : RANKS0 + RANKS1 };
enum { FIRST = STAGE == 0, LAST = STAGE == STAGES - 1 };
enum { B = (ROWS + DP - 1) / DP, H = (HIDDEN + TP - 1) / TP };

/* ---- memory: elements ---- */
enum { PAD = 64 / (int)sizeof(real) };
#define UP(n, unit) (((n) + (unit)-1) / (unit) * (unit))
enum {
	W0 = 0,
	W1 = FIRST ? UP(FEATURES * H, PAD) : 0,
	FLAT = UP(W1 + (LAST ? H * CLASSES : 0), PAD *DP),
	RANGE = FLAT / DP,
	SPLIT_P = ZERO == 3,
	SPLIT_G = ZERO >= 2,
	SPLIT_M = ZERO >= 1,
	PARAM = 0,
	GRAD = PARAM + (SPLIT_P ? RANGE : FLAT),
	M = GRAD + (SPLIT_G ? RANGE : FLAT),
	GATHER = M + (SPLIT_M ? RANGE : FLAT),
	DWORK = GATHER + FLAT,
	SLOT = DWORK + FLAT,
	X = 0, /* in the slot */
	T = X + UP(B * FEATURES, PAD),
	HID = T + UP(B * CLASSES, PAD),
	Y = HID + UP(B * H, PAD),
	LOSS = Y + UP(B * CLASSES, PAD),
	DY = LOSS + PAD,
	DH = DY + UP(B * CLASSES, PAD),
	WORK = DH + UP(B * H, PAD),
	ARENA = SLOT + WORK + UP(B * H, PAD),
};
#define BYTES(n) ((int64_t)(n) * (int64_t)sizeof(real))

enum { WORLD, OVER_DP, OVER_TP, COMMS };
enum { REQ_MAIN, REQ_BACK, REQUESTS };
enum { DP_AXIS = 1, TP_AXIS = 2 };

static real *
at(GvrtRun *r, int64_t place)
{
	return (real *)(void *)r->arena + place;
}

static real *
slot(GvrtRun *r, int64_t place)
{
	return at(r, SLOT + place);
}

/* The weights to compute with. */
static const real *
weights(GvrtRun *r)
{
	if (ZERO < 3) return at(r, PARAM);
	if (DP == 1) return memcpy(at(r, GATHER), at(r, PARAM), (size_t)BYTES(FLAT));
	gv_start_all_gather(r, REQ_MAIN, OVER_DP, at(r, PARAM), at(r, GATHER), RANGE,
			    "weights");
	gv_wait(r, REQ_MAIN);
	return at(r, GATHER);
}

/* c[m][n] (+)= a[m][k] b[k][n], by strides */
static void
product(int m, int n, int k, const real *a, int am, int ak, const real *b, int bk, int bn,
	real *c, bool add)
{
	for (int i = 0; i < m; i++)
		for (int j = 0; j < n; j++) {
			real s = add ? c[i * n + j] : 0;
			for (int l = 0; l < k; l++)
				s += a[i * am + l * ak] * b[l * bk + j * bn];
			c[i * n + j] = s;
		}
}

static int
rows_here(GvrtRun *r)
{
	int64_t n = ROWS - gv_coord(r, MESH, DP_AXIS) * B;
	return n < 0 ? 0 : n > B ? B : (int)n;
}

static void
forward(GvrtRun *r)
{
	const real *w = weights(r);
	real *y = slot(r, Y), *t = slot(r, T), loss = 0;
	if (FIRST)
		product(B, H, FEATURES, slot(r, X), FEATURES, 1, w + W0, H, 1, slot(r, HID),
			false);
	if (STAGES == 2) {
		gv_start_exchange(r, REQ_MAIN, 0, FIRST ? slot(r, HID) : NULL,
				  LAST ? slot(r, HID) : NULL, NULL);
		gv_wait(r, REQ_MAIN);
	}
	if (!LAST) return;
	product(B, CLASSES, H, slot(r, HID), H, 1, w + W1, CLASSES, 1, y, false);
	if (TP > 1) gv_all_reduce(r, OVER_TP, y, B * CLASSES, false, "y");
	for (int i = 0; i < B * CLASSES; i++) {
		real d = i < rows_here(r) * CLASSES ? y[i] - t[i] : 0;
		loss += d * d / (2 * ROWS * MICRO);
		slot(r, DY)[i] = d / (ROWS * MICRO);
	}
	*slot(r, LOSS) = loss;
}

static void
backward(GvrtRun *r, int64_t mb)
{
	const real *w = ZERO < 3 ? at(r, PARAM) : at(r, GATHER);
	real *g = at(r, SPLIT_G ? DWORK : GRAD);
	bool add = !SPLIT_G && mb > 0;
	if (!add) memset(g, 0, (size_t)BYTES(FLAT));
	if (LAST) {
		product(H, CLASSES, B, slot(r, HID), 1, H, slot(r, DY), CLASSES, 1, g + W1,
			add);
		product(B, H, CLASSES, slot(r, DY), CLASSES, 1, w + W1, 1, CLASSES, slot(r, DH),
			false);
	}
	if (STAGES == 2) { /* added to zeros: what comes back could have other contributions */
		if (FIRST) memset(slot(r, DH), 0, (size_t)BYTES(B * H));
		gv_start_exchange(r, REQ_BACK, 1, LAST ? slot(r, DH) : NULL,
				  FIRST ? slot(r, DH) : NULL, FIRST ? slot(r, WORK) : NULL);
		gv_wait(r, REQ_BACK);
	}
	if (FIRST)
		product(FEATURES, H, B, slot(r, X), 1, FEATURES, slot(r, DH), H, 1, g + W0,
			add);
	if (!SPLIT_G) return;
	if (DP > 1)
		gv_start_reduce_scatter(r, REQ_MAIN, OVER_DP, g, at(r, GRAD), RANGE, mb > 0,
					"gradients");
	for (int i = 0; DP == 1 && i < FLAT; i++)
		at(r, GRAD)[i] = mb > 0 ? at(r, GRAD)[i] + g[i] : g[i];
	gv_wait(r, REQ_MAIN);
}

static void
step(GvrtRun *r)
{
	real *g = at(r, GRAD);
	int64_t c = gv_index(r, MESH, 1 << DP_AXIS);
	for (int64_t mb = 0; mb < MICRO; mb++) {
		gvrt_input(r, mb);
		forward(r);
		gvrt_report(r, mb);
		backward(r, mb);
	}
	if (DP > 1 && ZERO == 0)
		gv_start_all_reduce(r, REQ_MAIN, OVER_DP, g, FLAT, "gradients");
	if (DP > 1 && ZERO == 1)
		gv_start_reduce_scatter(r, REQ_MAIN, OVER_DP, g, g + c * RANGE, RANGE, false,
					"gradients");
	gv_wait(r, REQ_MAIN);
	if (ZERO == 1) g += c * RANGE;
	if (ZERO || gv_first(r, MESH, 1 << DP_AXIS))
		for (int i = 0; i < (ZERO ? RANGE : FLAT); i++)
			r->sumsq += (double)g[i] * (double)g[i];
	gvrt_norm(r);
	if (getenv("TOY_CRAWL")) {
		struct timespec t = {0, 10000000};
		nanosleep(&t, NULL);
	}
}

static void
update(GvrtRun *r)
{
	int64_t c = gv_index(r, MESH, 1 << DP_AXIS) * RANGE;
	real *w = at(r, PARAM) + (ZERO == 1 || ZERO == 2 ? c : 0), *m = at(r, M),
	     *g = at(r, GRAD) + (ZERO == 1 ? c : 0);
	for (int i = 0; i < (ZERO ? RANGE : FLAT); i++) {
		m[i] = (real)(0.9 * (double)m[i] + r->scale * (double)g[i]);
		w[i] = (real)((double)w[i] - r->lr * (double)m[i]);
	}
	if (DP > 1 && (ZERO == 1 || ZERO == 2)) {
		gv_start_all_gather(r, REQ_MAIN, OVER_DP, w, at(r, PARAM), RANGE, "weights");
		gv_wait(r, REQ_MAIN);
	}
}

/* ---- tables ---- */

static const GvrtStage stages[] = {{0, RANKS0}, {RANKS0, RANKS1}};
static const GvrtMesh meshes[] = {{3, {1, DP0, TP0}}, {3, {1, DP1, TP1}}};
static const GvrtComm comms[COMMS] = {
    {0, {{0, 0}}},
    {DP > 1, {{TP, DP}}},
    {TP > 1, {{1, TP}}},
};
#define AT(flat)                                                      \
	{                                                             \
		BYTES(SPLIT_P ? 0 : flat), BYTES(SPLIT_G ? 0 : flat), \
		    BYTES(SPLIT_M ? 0 : flat), -1                     \
	}
static const GvrtPart parts[] = {
    {.mesh = MESH,
     .naxes = 2,
     .axis = {{FEATURES, 0, {0}}, {HIDDEN, 1, {TP_AXIS}}},
     .at = AT(W0),
     .split = SPLIT_P | SPLIT_G << 1 | SPLIT_M << 2,
     .over = 1 << DP_AXIS,
     .flat_at = BYTES(W0),
     .flat_bytes = BYTES(FLAT)},
    {.mesh = MESH,
     .naxes = 2,
     .axis = {{HIDDEN, 1, {TP_AXIS}}, {CLASSES, 0, {0}}},
     .at = AT(W1),
     .split = SPLIT_P | SPLIT_G << 1 | SPLIT_M << 2,
     .over = 1 << DP_AXIS,
     .flat_at = BYTES(W1),
     .flat_bytes = BYTES(FLAT)},
};
static const GvrtParam params[] = {
    {.prefix = "w1",
     .count = HIDDEN * CLASSES,
     .ndims = 2,
     .dims = {HIDDEN, CLASSES},
     .init = GVRT_NORMAL,
     .a = 0.5,
     .lr = 1,
     .part = LAST ? &parts[1] : NULL,
     .elsewhere = !LAST},
    {.prefix = "w0",
     .count = FEATURES * HIDDEN,
     .ndims = 2,
     .dims = {FEATURES, HIDDEN},
     .init = GVRT_UNIFORM,
     .a = -1,
     .b = 1,
     .lr = 1,
     .part = FIRST ? &parts[0] : NULL,
     .elsewhere = !FIRST},
};
static const GvrtPart input_parts[] = {
    {.mesh = MESH, .naxes = 2, .axis = {{ROWS, 1, {DP_AXIS}}, {FEATURES, 0, {0}}}},
    {.mesh = MESH, .naxes = 2, .axis = {{ROWS, 1, {DP_AXIS}}, {CLASSES, 0, {0}}}},
};
static const GvrtInput inputs[] = {
    {"x", FEATURES, FIRST ? BYTES(X) : -1, GVRT_REAL, 0, &input_parts[0]},
    {"t", CLASSES, LAST ? BYTES(T) : -1, GVRT_REAL, 0, &input_parts[1]},
};
static const GvrtExchange exchanges[] = {
    {.label = "h",
     .from = {0, 0, 0},
     .to = {1, 1, 0},
     .naxes = 2,
     .axis = {{ROWS, 1, {DP_AXIS}, 1, {DP_AXIS}, 0}, {HIDDEN, 1, {TP_AXIS}, 1, {TP_AXIS}, 1}},
     .elem = sizeof(real),
     .channel = 0},
    {.label = "dh",
     .from = {1, 1, 0},
     .to = {0, 0, 0},
     .naxes = 2,
     .axis = {{ROWS, 1, {DP_AXIS}, 1, {DP_AXIS}, 0}, {HIDDEN, 1, {TP_AXIS}, 1, {TP_AXIS}, 1}},
     .elem = sizeof(real),
     .channel = 1},
};
static const char *const reports[] = {"loss"};
static const int64_t report_at[] = {LAST ? BYTES(LOSS) : -1};
static const GvrtReport report_on[] = {{MESH, 1 << TP_AXIS}};

static const GvrtProgram program = {
    .abi = GVRT_ABI,
    .model = "ranks",
    .source = "ranks.gdl",
    .plan_hash = PLAN,
    .ranks = RANKS,
    .stage = STAGE,
    .stages = STAGES,
    .threads = 1,
    .arena_bytes = BYTES(ARENA),
    .param = BYTES(PARAM),
    .grad = BYTES(GRAD),
    .m = BYTES(M),
    .v = -1,
    .microbatch = ROWS,
    .microbatches = MICRO,
    .params = params,
    .nparams = 2,
    .inputs = inputs,
    .ninputs = 2,
    .slots = BYTES(SLOT),
    .slot_bytes = BYTES(WORK + UP(B * H, PAD)),
    .nslots = 1,
    .reports = reports,
    .report_at = report_at,
    .nreports = 1,
    .logits_at = -1,
    .train = {.opt = GVRT_SGD,
	      .rate = GVRT_CONST,
	      .peak = 0.05,
	      .steps = 10,
	      .clip = 0.4,
	      .seed = 3},
    .flops = 100,
    .forward = forward,
    .step = step,
    .update = update,
    .stage_ranks = stages,
    .meshes = meshes,
    .nmeshes = 2,
    .comms = comms,
    .ncomms = COMMS,
    .exchanges = exchanges,
    .nexchanges = STAGES == 2 ? 2 : 0,
    .nrequests = REQUESTS,
    .report_on = report_on,
};

int
main(int argc, char **argv)
{
	return gvrt_main(argc, argv, &program);
}
