/*
 * comm.c - communicators and exchanges, against brute force: groups of drawn meshes, pieces of drawn layouts; and what the
 * verifier says of schedules that hang or go wrong in known ways.
 */
#include "tests/unit/check.h"
#include "tests/unit/steps.h"

static uint64_t drawn_at;

static uint32_t
drawn(uint32_t n)
{
	return (uint32_t)(rng_uniform(7, drawn_at++) * n);
}

/* ---- exchanges ---- */

enum { MAX_EXTENT = 13, MAX_RANK = 24 };

typedef struct World {
	Module *m;
	Axis a, b;
	Stage stage[2];
	Mesh mesh[2];
} World;

static Mesh
draw_mesh(uint32_t *ranks)
{
	Mesh mesh = {.n = 1, .ax = {{MX_mb, 0, 1}}};

	*ranks = 1;
	for (int n = (int)drawn(4); n > 0; n--) {
		uint32_t degree = 1 + drawn(3);

		if (*ranks * degree > MAX_RANK / 2) break;
		mesh.ax[mesh.n].kind = MX_tp;
		mesh.ax[mesh.n].sub = (uint8_t)mesh.n;
		mesh.ax[mesh.n++].degree = degree;
		*ranks *= degree;
	}
	return mesh;
}

/* Mesh axes go to tensor axes, stay, or (pending) are summed. */
static Type
draw_type(const World *w, const Mesh *mesh, bool pending)
{
	Type t = {.dt = DT_f32, .n = 2, .ax = {{.a = w->a}, {.a = w->b}}};

	for (int k = 1; k < mesh->n; k++) {
		uint32_t to = drawn(4);

		if (to < 2 && t.ax[to].nshard < MAX_SHARD)
			t.ax[to].shard[t.ax[to].nshard++] = (uint8_t)k;
		else if (to == 2 && pending)
			t.partial |= (uint16_t)(1u << k);
	}
	return t;
}

static bool
has(const World *w, const Side *s, uint32_t rank, int64_t x, int64_t y)
{
	uint32_t coord[MAX_MESH];
	int64_t at[2] = {x, y}, lo, hi;

	ir_coords(&w->m->plan.stages[s->stage], s->mesh, rank, coord);
	for (int k = 0; k < 2; k++) {
		ir_part(w->m, s->mesh, &s->type, k, coord, &lo, &hi);
		if (at[k] < lo || at[k] >= hi) return false;
	}
	for (int k = 1; k < s->mesh->n; k++)
		if (s->type.partial >> k & 1 && coord[k]) return false;
	return true;
}

static bool
in_piece(const Piece *p, int64_t x, int64_t y)
{
	return x >= p->lo[0] && x < p->hi[0] && y >= p->lo[1] && y < p->hi[1];
}

/* Every receiver gets each of its elements once, from one who has it; what is sent is what is received. */
static void
check_exchange(World *w, const Prim *p, Arena *a)
{
	const Stage *to = &w->m->plan.stages[p->to.stage],
		    *from = &w->m->plan.stages[p->from.stage];
	uint32_t received = 0, sent = 0;

	for (uint32_t r = to->rank; r < to->rank + to->ranks; r++) {
		Piece *piece;
		uint32_t n = ir_pieces(w->m, p, r, false, a, &piece);

		received += n;
		for (int64_t x = 0; x < ir_extent(w->m, w->a); x++)
			for (int64_t y = 0; y < ir_extent(w->m, w->b); y++) {
				uint32_t times = 0;

				for (uint32_t i = 0; i < n; i++) {
					if (!in_piece(&piece[i], x, y)) continue;
					times++;
					CHECK(has(w, &p->from, piece[i].from, x, y),
					      "from one who has it not");
				}
				CHECK(times == has(w, &p->to, r, x, y), "%u times", times);
			}
	}
	for (uint32_t r = from->rank; r < from->rank + from->ranks; r++) {
		Piece *piece, *back;
		uint32_t n = ir_pieces(w->m, p, r, true, a, &piece), k;

		sent += n;
		for (uint32_t i = 0; i < n; i++) {
			uint32_t m = ir_pieces(w->m, p, piece[i].to, false, a, &back);

			for (k = 0; k < m; k++)
				if (!memcmp(&back[k], &piece[i], sizeof(*back))) break;
			CHECK(k < m && piece[i].from == r, "sent, but not received");
		}
	}
	CHECK(sent == received, "%u pieces sent, %u received", sent, received);
}

static void
test_exchanges(void)
{
	for (int turn = 0; turn < 400; turn++) {
		Arena *a = arena_new();
		World w = {.m = ir_module(a, names_new(a))};
		uint32_t ranks[2], same = drawn(2);
		Prim p = {.kind = PR_exchange, .dt = DT_f32};

		w.a = ir_axis(w.m, name_of(w.m->names, "a"), 1 + drawn(MAX_EXTENT), (Loc){0});
		w.b = ir_axis(w.m, name_of(w.m->names, "b"), 1 + drawn(MAX_EXTENT), (Loc){0});
		w.mesh[0] = draw_mesh(&ranks[0]);
		do
			w.mesh[1] = draw_mesh(&ranks[1]);
		while (same && ranks[0] != ranks[1]);
		w.stage[0] = (Stage){.rank = 0, .ranks = ranks[0]};
		w.stage[1] = (Stage){.rank = ranks[0], .ranks = ranks[1]};
		w.m->plan.stages = w.stage;
		w.m->plan.nstages = 2;
		p.from = (Side){0, &w.mesh[0], draw_type(&w, &w.mesh[0], false)};
		p.to = (Side){same ? 0 : 1, &w.mesh[1], draw_type(&w, &w.mesh[1], true)};
		check_exchange(&w, &p, a);
		arena_free(a);
	}
}

/* ---- a pipeline of four stages ---- */

static const char head[] =
    "gir 1 graph\nmodel t source \"t\" hash 0x0000000000000000\n"
    "axis batch = 8\naxis e = 4\naxis f = 6\nbatch batch\ninput x f64[batch e]\n";
static const char bodies[] =
    "body 1 mid F {\n arg 0 %x : f64[batch e]\n weight 0 %u : f64[e f]\n"
    " %h = dot %x %u {axes=[e]} : f64[batch f]\n %g = tanh %h : f64[batch f]\n"
    " %o = dot %g %u {axes=[f]} : f64[batch e]\n out 0 %o\n}\n"
    "body 2 last F {\n arg 0 %x : f64[batch e]\n %s = sum %x {axes=[batch e]} : f64[]\n"
    " out 0 %s\n}\n"
    "type mid args 1 outs 1 rates 0 {\n body F 1\n weight \"u\" : f64[e f]\n}\n"
    "type last args 1 outs 1 rates 0 {\n body F 2\n}\n";

typedef struct Test {
	Ctx c;
	FILE *said;
	Module *m;
	Steps *all;
} Test;

static char *
model(Arena *a)
{
	Buf b;

	buf_init(&b, a);
	buf_puts(&b, head);
	for (int i = 0; i < 4; i++)
		buf_printf(&b,
			   "param %d \"%d.u\" f64[e f] dims 1 1 init normal 0.5 decay 1 lr 1 "
			   "owner %d\n",
			   i, i, i);
	buf_puts(&b,
		 "train adamw rate const 0.1 0 0 0 beta1 0.9 beta2 0.95 eps 1e-08 decay 0.1 "
		 "momentum 0 clip 0.5 precision f64 seed 3\n");
	buf_puts(&b, bodies);
	for (int i = 0; i < 4; i++) {
		buf_printf(&b, "inst %d mid \"%d\" path \"\" args ", i, i);
		if (i)
			buf_printf(&b, "%d.0", i - 1);
		else
			buf_puts(&b, "x");
		buf_printf(&b, " params %d rates\n", i);
	}
	buf_puts(&b,
		 "inst 4 last \"last\" path \"\" args 3.0 params rates\nreport \"loss\" 4.0\n");
	return b.s;
}

static bool
open_test(Test *t, const char *plan)
{
	Arena *a = arena_new();
	Names *n = names_new(a);

	*t = (Test){.said = tmpfile()};
	t->c = (Ctx){.perm = a, .tmp = arena_new(), .names = n, .memory_bytes = INT64_MAX};
	t->c.diag = diag_new(a, n, t->said);
	t->m = lowered(&t->c, model(a), plan, "mem");
	if (t->m) t->all = spelled_out(t->m, a);
	return t->m && ir_verify(t->m, t->c.diag, NULL);
}

static void
close_test(Test *t)
{
	fclose(t->said);
	arena_free(t->c.tmp);
	arena_free(t->c.perm);
}

/* What is said contains `want`; NULL: nothing is. */
static void
says(Test *t, const char *want)
{
	bool ok = ir_verify_expanded(t->m, t->all, t->m->plan.ranks, t->c.diag);
	char text[2000];
	size_t n;

	fflush(t->said);
	rewind(t->said);
	n = fread(text, 1, sizeof(text) - 1, t->said);
	text[n] = '\0';
	CHECK(ok == !want && (!want || strstr(text, want)), "wanted '%s', not\n%s",
	      want ? want : "nothing", text);
}

#define PIPE                                                                         \
	"plan 1\nranks 8 microbatches 4 schedule 1f1b\nmesh a = dp:2\n"              \
	"stage 0 layers 0\nstage 1 layers 1\nstage 2 layers 2\nstage 3 layers 3-4\n" \
	"layers 0-4 mesh a zero 1\n"

/* Sends are waited for at once, and what comes back is received after: stage k sends values while stage k + 1 sends
 * cotangents. */
static void
test_fixed_order(void)
{
	Test t;

	CHECK(open_test(&t, PIPE), "does not lower");
	says(&t, NULL);
	for (uint32_t r = 0; r < 8; r++) {
		Steps *s = &t.all[r];

		for (uint32_t i = 0; i < s->n; i++) { /* the wait follows its start */
			const Action a = s->s[i].a;
			uint32_t k = 0;

			if (a.kind != ACT_wait || (a.comm != CK_fwd && a.comm != CK_bwd))
				continue;
			while (s->s[k].a.kind != ACT_start || s->s[k].a.comm != a.comm ||
			       s->s[k].a.inst != a.inst || s->s[k].a.mb != a.mb)
				k++;
			if (ir_stage_of(t.m, a.inst) == r / 2 ? a.comm == CK_bwd
							      : a.comm == CK_fwd)
				move(s, i, k + 1);
			else /* ... or the start its wait, where it is received */
				move(s, k, i - 1);
		}
	}
	says(&t, "waits for ever");
	close_test(&t);
}

static void
test_lazy_communicators(void)
{
	static const uint32_t order[] = {2, 1};
	Test t;

	CHECK(open_test(&t, "plan 1\nranks 4 microbatches 2\nmesh a = dp:2 tp:2\n"
			    "layers 0-4 mesh a zero 1\n"),
	      "does not lower");
	says(&t, NULL);
	t.all[3].comms = order;
	t.all[3].ncomms = 2;
	says(&t, "rank 3 makes communicator 2 where all others make 1");
	close_test(&t);
}

/* One rank of a group leaves a collective out. */
static void
test_skipped_collective(void)
{
	Test t;
	Steps *s;

	CHECK(open_test(&t, PIPE), "does not lower");
	s = &t.all[3];
	cut(s, find(s, ACT_start, CK_grad, 0));
	cut(s, find(s, ACT_wait, CK_grad, 0));
	says(&t, "gradient");
	close_test(&t);
	CHECK(open_test(&t, PIPE), "does not lower");
	s = &t.all[3];
	cut(s, find(s, ACT_norm, CK_fwd, 0));
	says(&t, "");
	close_test(&t);
}

/* Of two ranks that run one table, one swaps two sums. */
static void
test_swapped(void)
{
	Test t;
	Steps *s;
	uint32_t i;

	CHECK(open_test(&t, "plan 1\nranks 2 microbatches 2\nmesh a = dp:2\n"
			    "layers 0-4 mesh a zero 0\n"),
	      "does not lower");
	s = &t.all[1];
	i = find(s, ACT_start, CK_grad, 0);
	move(s, find(s, ACT_start, CK_grad, 1), i);
	says(&t, "a part of the gradient");
	close_test(&t);
}

static void
test_peers(void)
{
	Test t;
	Steps *s;

	CHECK(open_test(&t, PIPE), "does not lower");
	s = &t.all[2];
	s->s[find(s, ACT_start, CK_fwd, 0)].resize = 1;
	says(&t, "bytes, but rank");
	close_test(&t);
	CHECK(open_test(&t, PIPE), "does not lower");
	s = &t.all[2];
	s->s[find(s, ACT_start, CK_fwd, 0)].shift = 64;
	says(&t, "reads '%");
	close_test(&t);
	CHECK(open_test(&t, PIPE), "does not lower");
	s = &t.all[4];
	cut(s, find(s, ACT_wait, CK_fwd, 0));
	says(&t, "");
	close_test(&t);
}

int
main(void)
{
	test_exchanges();
	test_fixed_order();
	test_lazy_communicators();
	test_skipped_collective();
	test_swapped();
	test_peers();
	return checked("comm");
}
