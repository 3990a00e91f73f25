/*
 * traffic.c - the manifest of communication: what every rank sends in a step, to be compared with what is counted.
 *
 * One line for each run of ranks of a stage that do the same, kind and communicator:
 *
 *   stage 1 ranks 2-3 all_reduce comm 2 calls 8 bytes 65536
 *
 * Bytes are those of the operand, as an MPI call is given them: all_reduce the buffer, reduce_scatter the whole input,
 * all_gather this rank's part. Messages are listed as `send` and `recv`, without a communicator; what a rank keeps is no
 * message. Everything is read off the action table with its loops multiplied, never expanded over microbatches.
 */
#include "codegen/cg.h"

#include <inttypes.h>
#include <string.h>

typedef enum Kind {
	KIND_all_reduce,
	KIND_reduce_scatter,
	KIND_all_gather,
	KIND_all_to_all,
	KIND_send,
	KIND_recv,
	KIND_COUNT
} Kind;

static const char *const kind_name[KIND_COUNT] = {"all_reduce", "reduce_scatter", "all_gather",
						  "all_to_all", "send",           "recv"};

typedef struct Sum {
	int64_t calls, bytes;
} Sum;

typedef struct Traffic {
	Ctx *c;
	const Module *m;
	const CommTable *comms;
	uint32_t stage;
	Sum *sum;      /* [comms.n][KIND_COUNT] collectives: of every rank of the stage */
	Sum *messages; /* [ranks of the stage][2] send, recv */
} Traffic;

static void
count(Traffic *t, const Prim *p, int64_t times)
{
	static const Kind kind[] = {[PR_all_reduce] = KIND_all_reduce,
				    [PR_reduce_scatter] = KIND_reduce_scatter,
				    [PR_all_gather] = KIND_all_gather,
				    [PR_all_to_all] = KIND_all_to_all};
	Sum *s;

	if (p->kind != PR_exchange) {
		s = &t->sum[(uint32_t)p->comm * KIND_COUNT + kind[p->kind]];
		s->calls += times;
		s->bytes += times * p->count * dtype_bytes(p->dt);
		return;
	}
	for (uint32_t r = 0; r < t->m->plan.stages[t->stage].ranks; r++)
		for (int receiving = 0; receiving < 2; receiving++) {
			uint32_t rank = t->m->plan.stages[t->stage].rank + r;
			const Side *side = receiving ? &p->to : &p->from;
			Arena *tmp;
			Piece *piece;
			uint32_t n;

			if (side->stage != t->stage) continue;
			tmp = arena_new();
			n = ir_pieces(t->m, p, rank, !receiving, tmp, &piece);
			for (uint32_t k = 0; k < n; k++) {
				if (piece[k].from == piece[k].to) continue;
				t->messages[r * 2 + (uint32_t)receiving].calls += times;
				t->messages[r * 2 + (uint32_t)receiving].bytes +=
				    times * piece[k].count * dtype_bytes(p->dt);
			}
			arena_free(tmp);
		}
}

static void
count_body(Traffic *t, const Body *b, int64_t times)
{
	for (uint32_t k = 0; k < b->nops; k++) {
		Prim p;

		if (ir_op_prim(t->m, t->comms, t->stage, b, &b->ops[k], &p))
			count(t, &p, times);
	}
}

static void
count_action(Traffic *t, const Action *a, uint32_t inst, int64_t times)
{
	const Module *m = t->m;
	Prim prims[MAX_PRIMS];
	uint32_t n = 0;

	if (a->kind == ACT_body)
		count_body(t, &m->bodies[m->types[m->insts[inst].type].body[a->bk]], times);
	if (a->kind == ACT_norm) n = ir_norm_prim(m, prims);
	if (a->kind == ACT_start) n = ir_prims(m, t->comms, t->stage, a->comm, inst, prims);
	for (uint32_t k = 0; k < n; k++)
		count(t, &prims[k], times);
}

static void
count_stage(Traffic *t)
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

static void
put_line_of(Buf *out, uint32_t stage, uint32_t first, uint32_t last, const char *kind,
	    const Sum *s)
{
	buf_printf(out, "stage %u ranks %u-%u %s calls %" PRId64 " bytes %" PRId64 "\n", stage,
		   first, last, kind, s->calls, s->bytes);
}

static void
put_stage(const Traffic *t, Buf *out)
{
	const Stage *s = &t->m->plan.stages[t->stage];

	for (uint32_t e = 0; e < t->comms->n; e++)
		for (int k = 0; k <= KIND_all_to_all; k++) {
			const Sum *x = &t->sum[e * KIND_COUNT + (uint32_t)k];

			if (x->calls)
				put_line_of(out, t->stage, s->rank, s->rank + s->ranks - 1,
					    cg_text(t->c->perm, "%s comm %u", kind_name[k], e),
					    x);
		}
	for (uint32_t r = 0, end; r < s->ranks; r = end) {
		const Sum *x = &t->messages[r * 2];

		for (end = r + 1; end < s->ranks; end++)
			if (memcmp(x, &t->messages[end * 2], 2 * sizeof(*x)) != 0) break;
		for (int k = 0; k < 2; k++)
			if (x[k].calls)
				put_line_of(out, t->stage, s->rank + r, s->rank + end - 1,
					    kind_name[KIND_send + k], &x[k]);
	}
}

void
cg_traffic(Ctx *c, const Module *m, const CommTable *comms, Buf *out)
{
	buf_puts(out, "galvatronc traffic 1\n");
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		Traffic t = {.c = c, .m = m, .comms = comms, .stage = k};

		t.sum = NEW_N(c->tmp ? c->tmp : c->perm, Sum, (size_t)comms->n * KIND_COUNT);
		t.messages =
		    NEW_N(c->tmp ? c->tmp : c->perm, Sum, (size_t)m->plan.stages[k].ranks * 2);
		count_stage(&t);
		put_stage(&t, out);
	}
}
