/*
 * traffic.c - the manifest of communication: what every rank sends and receives in a step, to be compared with what is
 * counted. One line for each stage, run of its ranks that do the same, kind, and communicator or channel:
 *
 *   stage 1 ranks 2-3 all_reduce 2 calls 8 bytes 65536
 *   stage 0 ranks 0-0 send 0 1 0 calls 4 bytes 8192              from stage 0 to stage 1, channel 0
 *
 * Bytes are those of the operand, as an MPI call is given them: all_reduce the buffer, reduce_scatter the whole input,
 * all_gather this rank's part. What a rank keeps in an exchange is no message. Everything is read off the action table
 * with its loops multiplied, never expanded over microbatches.
 */
#include "codegen/cg.h"

#include <inttypes.h>
#include <string.h>

typedef struct Sum {
	int64_t calls, bytes;
} Sum;

typedef struct Traffic {
	const Module *m;
	const CommTable *comms;
	Arena *tmp;
	uint32_t stage, ranks, nstages;
	Sum *collectives;         /* [comms.n][PR_exchange] of every rank of the stage */
	int64_t *times[CK_COUNT]; /* [instances or parameters] how often each is begun */
	Sum *
	    messages; /* [2][nstages][CK_COUNT][ranks] sent, received: of the other stage and the channel */
} Traffic;

static Sum *
messages(const Traffic *t, bool receiving, uint32_t other, CommKind channel)
{
	uint32_t row = (receiving * t->nstages + other) * CK_COUNT + channel;

	return t->messages + (size_t)row * t->ranks;
}

static void
add(Sum *s, int64_t times, int64_t bytes)
{
	s->calls += times;
	s->bytes += times * bytes;
}

static void
count_collective(Traffic *t, const Prim *p, int64_t times)
{
	add(&t->collectives[(uint32_t)p->comm * PR_exchange + p->kind], times,
	    p->count * dtype_bytes(p->dt));
}

/* The messages of every rank of the stage, which is one side of the exchange or both. */
static void
count_exchange(Traffic *t, const Prim *p, int64_t times)
{
	for (int receiving = 0; receiving < 2; receiving++) {
		const Side *here = receiving ? &p->to : &p->from,
			   *there = receiving ? &p->from : &p->to;
		Sum *sum = messages(t, receiving, there->stage, p->channel);

		for (uint32_t r = 0; here->stage == t->stage && r < t->ranks; r++) {
			Piece *piece;
			uint32_t n = ir_pieces(t->m, p, t->m->plan.stages[t->stage].rank + r,
					       !receiving, t->tmp, &piece);

			for (uint32_t k = 0; k < n; k++)
				if (piece[k].from != piece[k].to)
					add(&sum[r], times,
					    piece[k].count * dtype_bytes(p->dt));
			arena_reset(t->tmp);
		}
	}
}

static void
count_body(Traffic *t, const Body *b, int64_t times)
{
	for (uint32_t k = 0; k < b->nops; k++) {
		Prim p;

		if (ir_op_prim(t->m, t->comms, t->stage, b, &b->ops[k], &p))
			count_collective(t, &p, times);
	}
}

static void
count_action(Traffic *t, const Action *a, uint32_t inst, int64_t times)
{
	const Module *m = t->m;
	Prim norm;

	if (a->kind == ACT_body)
		count_body(t, &m->bodies[m->types[m->insts[inst].type].body[a->bk]], times);
	if (a->kind == ACT_norm && ir_norm_prim(m, &norm)) count_collective(t, &norm, times);
	if (a->kind == ACT_start) t->times[a->comm][inst] += times;
}

static void
count_actions(Traffic *t)
{
	const Stage *s = &t->m->plan.stages[t->stage];
	const Action *act = t->m->actions + s->action;
	int64_t mbs = 1;
	uint32_t turns = 1;
	bool in_layers = false;

	for (uint32_t k = 0; k < s->nactions; k++) {
		if (act[k].kind == ACT_mb) mbs = act[k].count;
		if (act[k].kind == ACT_layers) turns = act[k].count, in_layers = true;
		if (act[k].kind == ACT_end && !in_layers) mbs = 1;
		if (act[k].kind == ACT_end && in_layers) turns = 1, in_layers = false;
		for (uint32_t j = 0; j < turns; j++)
			count_action(
			    t, &act[k],
			    (uint32_t)((int64_t)act[k].inst + (int64_t)j * act[k].stride), mbs);
	}
}

static uint32_t
things(const Module *m, int kind)
{
	return kind == CK_lend || kind == CK_return ? m->nparams : m->ninsts;
}

/* Each communication once, however often it is begun. */
static void
count_starts(Traffic *t)
{
	for (int c = 0; c < CK_COUNT; c++)
		for (uint32_t i = 0; i < things(t->m, c); i++) {
			Prim prims[MAX_PRIMS];
			uint32_t n = !t->times[c][i] ? 0
						     : ir_prims(t->m, t->comms, t->stage,
								(CommKind)c, i, prims);

			for (uint32_t k = 0; k < n; k++)
				if (prims[k].kind == PR_exchange)
					count_exchange(t, &prims[k], t->times[c][i]);
				else
					count_collective(t, &prims[k], t->times[c][i]);
		}
}

static void
put_sum(const Traffic *t, Buf *out, uint32_t first, uint32_t last, const char *what,
	const Sum *s)
{
	const Stage *stage = &t->m->plan.stages[t->stage];

	buf_printf(out, "stage %u ranks %u-%u %s calls %" PRId64 " bytes %" PRId64 "\n",
		   t->stage, stage->rank + first, stage->rank + last, what, s->calls, s->bytes);
}

static void
put_stage(const Traffic *t, Buf *out)
{
	static const char *const kind[] = {"all_reduce", "reduce_scatter", "all_gather",
					   "all_to_all"};

	for (uint32_t e = 0; e < t->comms->n; e++)
		for (uint32_t k = 0; k < PR_exchange; k++) {
			const Sum *x = &t->collectives[e * PR_exchange + k];

			if (x->calls)
				put_sum(t, out, 0, t->ranks - 1,
					cg_text(t->tmp, "%s %u", kind[k], e), x);
		}
	for (int receiving = 0; receiving < 2; receiving++)
		for (uint32_t k = 0; k < t->nstages * CK_COUNT; k++) {
			uint32_t other = k / CK_COUNT, channel = k % CK_COUNT;
			const Sum *x = messages(t, receiving, other, (CommKind)channel);
			const char *what =
			    cg_text(t->tmp, "%s %u %u %u", receiving ? "recv" : "send",
				    receiving ? other : t->stage, receiving ? t->stage : other,
				    channel);

			for (uint32_t r = 0, end; r < t->ranks; r = end) {
				for (end = r + 1; end < t->ranks; end++)
					if (memcmp(&x[r], &x[end], sizeof *x) != 0) break;
				if (x[r].calls) put_sum(t, out, r, end - 1, what, &x[r]);
			}
		}
	arena_reset(t->tmp);
}

void
cg_traffic(Ctx *c, const Module *m, const CommTable *comms, Buf *out)
{
	Arena *tmp = arena_new();

	buf_puts(out, "galvatronc traffic 1\n");
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		Traffic t = {.m = m,
			     .comms = comms,
			     .tmp = tmp,
			     .stage = k,
			     .ranks = m->plan.stages[k].ranks,
			     .nstages = m->plan.nstages};

		t.collectives = NEW_N(c->perm, Sum, (size_t)comms->n * PR_exchange);
		t.messages = NEW_N(c->perm, Sum, (size_t)2 * t.nstages * CK_COUNT * t.ranks);
		for (int kind = 0; kind < CK_COUNT; kind++)
			t.times[kind] = NEW_N(c->perm, int64_t, things(m, kind) + 1);
		count_actions(&t);
		count_starts(&t);
		put_stage(&t, out);
	}
	arena_free(tmp);
}
