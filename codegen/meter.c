/*
 * meter.c - programs that time what they run (--instrument): a mark after every kernel, and the table of what is marked.
 *
 * A mark says what ran since the one before, so that nothing a step does is left out. What a profile has a key for is
 * named by that key; what else there is (communication, waits, input, what bodies copy) has a name that begins with '#'.
 * Ordinary programs have none of it: every function here prints nothing unless it is asked for.
 */
#include "codegen/cg.h"

#include "ir/cluster.h"

#include <inttypes.h>
#include <string.h>

static uint32_t
meter_of(Cg *g, const char *what)
{
	uint32_t k = 0;

	while (k < g->nmeters && strcmp(g->meter[k], what) != 0)
		k++;
	if (k == g->nmeters) PUSH(g->a, g->meter, g->nmeters, g->cmeters, what);
	return k;
}

const char *
cg_mark(Cg *g, const char *what)
{
	return cg_text(g->a, "gvrt_mark(&gv_meters[%u]);", meter_of(g, what));
}

/* "FAMILY | 1024 768": what a profile says of it. */
static const char *
key_text(const Cg *g, const KernelKey *k)
{
	Buf b;

	buf_init(&b, g->a);
	buf_puts(&b, name_str(g->m->names, k->family));
	buf_puts(&b, " |");
	for (uint8_t i = 0; i < k->n; i++)
		buf_printf(&b, " %" PRId64, k->extent[i]);
	return b.s;
}

/* "#all_reduce 4096 2": bytes as curves have them, and ranks. */
static const char *
collective_text(const CgBody *c, const Op *op)
{
	Prim p;
	int64_t bytes;
	uint32_t ranks;

	if (!ir_op_prim(c->g->m, &c->g->shared->comms, c->g->k, c->b, op, &p)) return "#body";
	ranks = ir_comm_size(c->g->m, &c->g->shared->comms, p.comm, c->g->k);
	bytes = p.count * dtype_bytes(p.dt);
	if (p.kind == PR_all_gather) bytes *= ranks;
	return cg_text(c->g->a, "#%s %" PRId64 " %u", op_info[op->code].text, bytes, ranks);
}

void
bc_mark_begin(CgBody *c)
{
	if (c->g->shared->metered) bc_line(c, "%s", cg_mark(c->g, "#body"));
}

/* The kernels of a body as prices walk them; a group of ops that is printed belongs to one of them. */
void
bc_mark(CgBody *c, uint32_t op)
{
	KernelKey key;
	uint32_t first = 0, end = 0;
	bool runs = false;

	if (!c->g->shared->metered) return;
	if (op_info[c->b->ops[op].code].flags & OF_COMM) {
		bc_line(c, "%s", cg_mark(c->g, collective_text(c, &c->b->ops[op])));
		return;
	}
	while (runs = profile_key(c->g->m, c->b, first, &end, &key), end <= op)
		first = end;
	if (!runs) {
		bc_line(c, "%s", cg_mark(c->g, "#body"));
	} else if (c->marked == first + 1) { /* more of a kernel that was counted */
		bc_line(c, "gvrt_mark_more(&gv_meters[%u]);",
			meter_of(c->g, key_text(c->g, &key)));
	} else {
		c->marked = first + 1;
		bc_line(c, "%s", cg_mark(c->g, key_text(c->g, &key)));
	}
}

void
cg_meters(const Cg *g, Buf *out)
{
	if (!g->nmeters) return;
	buf_puts(out, "\n/* ---- what is timed ---- */\n\nstatic GvrtMeter gv_meters[] = {\n");
	for (uint32_t k = 0; k < g->nmeters; k++) {
		buf_puts(out, "\t{.what = ");
		put_cstring(out, g->meter[k]);
		buf_puts(out, "},\n");
	}
	buf_puts(out, "};\n");
}
