/*
 * simulate_print.c - what a step is predicted to take, for people (a line of the summary) and for scripts (--emit=cost).
 */
#include <inttypes.h>

#include "passes/simulate.h"

/* ---- what it is made of ---- */

typedef struct Share { /* of a stage's time, ns */
	int64_t compute, tp, dp, pp, update, idle;
} Share;

static Share
share_of(const SimStage *s)
{
	return (Share){.compute = s->busy[SW_F] + s->busy[SW_B] + s->busy[SW_W],
		       .tp = s->busy[SW_tp],
		       .dp = s->busy[SW_param] + s->busy[SW_grad] + s->busy[SW_norm],
		       .pp = s->busy[SW_fwd] + s->busy[SW_bwd] + s->busy[SW_borrow],
		       .update = s->busy[SW_update],
		       .idle = s->busy[SW_wait] + s->busy[SW_input]};
}

/* The stage with most to do: what the step is bound by. */
static uint32_t
busiest(const Module *m, const SimResult *r)
{
	uint32_t best = 0;
	int64_t most = -1;
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		Share x = share_of(&r->stage[k]);
		int64_t does = x.compute + x.tp + x.update;
		if (does > most) most = does, best = k;
	}
	return best;
}

int64_t
sim_rank_bytes(const Module *m, const Price *p, uint32_t stage)
{
	const Cluster *c = price_cluster(p);
	const Stage *s = &m->plan.stages[stage];
	Arena *tmp = arena_new();
	CommTable t = ir_comms(m, tmp);
	int64_t comms = m->plan.ranks > 1, most = 0;
	for (uint32_t e = 1; e < t.n; e++)
		comms += t.group[e * t.nstages + stage].n > 0;
	for (uint32_t r = s->rank; r < s->rank + s->ranks && r < c->devices; r++) {
		const Device *d = cluster_device(c, r);
		int64_t more = d->reserved + comms * d->comm_bytes;
		if (more > most) most = more;
		if (c->ndevice == 1) break;
	}
	arena_free(tmp);
	return m->mem[stage].arena_bytes + most;
}

/* ---- for scripts ---- */

void
sim_cost(const Module *m, const SimResult *r, const Price *p, Buf *out)
{
	PriceSources from = price_sources(p);
	const Cluster *c = price_cluster(p);
	buf_printf(out, "step_ns %" PRId64 "\n", r->step);
	for (uint32_t k = 0; k < m->plan.nstages; k++) {
		const SimStage *s = &r->stage[k];
		Share x = share_of(s);
		buf_printf(out,
			   "stage %" PRIu32 " ranks %" PRIu32 " classes %" PRIu32
			   " end_ns %" PRId64 " compute_ns %" PRId64 " tp_ns %" PRId64
			   " dp_ns %" PRId64 " pp_ns %" PRId64 " update_ns %" PRId64
			   " idle_ns %" PRId64,
			   k, s->ranks, s->classes, s->end, x.compute, x.tp, x.dp, x.pp,
			   x.update, x.idle);
		buf_printf(out, " arena_bytes %" PRId64 " memory_bytes %" PRId64 "\n", s->arena,
			   sim_rank_bytes(m, p, k));
	}
	buf_printf(out,
		   "kernels_exact %" PRIu64 "\nkernels_between %" PRIu64
		   "\nkernels_roofline %" PRIu64 "\nactions %" PRIu64 "\ncluster %s\n",
		   from.exact, from.between, from.roofline, r->steps,
		   c->guessed ? "roofline" : name_str(m->names, c->file));
}

/* ---- for people ---- */

static void
put_time(Buf *out, const char *what, int64_t ns)
{
	const char *unit = "ms";
	double x = (double)ns * 1e-6;
	if (x >= 10e3) x *= 1e-3, unit = "s";
	if (ns > 0)
		buf_printf(out, " %s %.*f %s,", what, x < 10 ? 2 : x < 100 ? 1 : 0, x, unit);
}

void
sim_summary(const Module *m, const SimResult *r, const Price *p, Buf *out)
{
	uint32_t k = busiest(m, r);
	Share x = share_of(&r->stage[k]);
	PriceSources from = price_sources(p);
	uint64_t measured = from.exact + from.between, all = measured + from.roofline;
	const Cluster *c = price_cluster(p);
	buf_puts(out, "step   ");
	put_time(out, "predicted", r->step);
	buf_printf(out, " by %s",
		   c->guessed ? "a roofline of this machine" : name_str(m->names, c->file));
	if (measured && all)
		buf_printf(out, ", %.0f %% of kernels measured",
			   100 * (double)measured / (double)all);
	buf_puts(out, m->plan.nstages > 1 ? "; the busiest stage is" : ":");
	if (m->plan.nstages > 1) buf_printf(out, " %" PRIu32 ":", k);
	put_time(out, "F", r->stage[k].busy[SW_F]);
	put_time(out, "B", r->stage[k].busy[SW_B] + r->stage[k].busy[SW_W]);
	put_time(out, "in tp", x.tp);
	put_time(out, "update", x.update);
	put_time(out, "dp", x.dp);
	put_time(out, "pp", x.pp);
	put_time(out, "idle", x.idle);
	out->s[--out->n] = '\0'; /* the last comma */
	buf_putc(out, '\n');
}
