/*
 * comm.c - communication between bodies: a pair of functions, start and wait, for what instances of a type (or borrowed
 * parameters) send alike, and the table of exchanges.
 *
 * What a start is made of, ir_prims says; here it gets addresses. All of one start goes on one request: the runtime
 * begins each when the one before is complete. A message forward has a request for every slot, as its buffers have.
 */
#include "codegen/cg.h"

#include <inttypes.h>
#include <string.h>

static bool
of_param(CommKind k)
{
	return k == CK_lend || k == CK_return;
}

/* ---- families ---- */

static bool
same_prims(const Prim *a, const Prim *b, uint32_t n, uint32_t k)
{
	for (uint32_t i = 0; i < n; i++) {
		if (a[i].kind != b[i].kind || a[i].add != b[i].add || a[i].dt != b[i].dt)
			return false;
		if (a[i].kind == PR_exchange &&
		    ((a[i].from.stage == k) != (b[i].from.stage == k) ||
		     (a[i].to.stage == k) != (b[i].to.stage == k)))
			return false;
	}
	return true;
}

static Family *
family_of(Cg *g, CommKind kind, uint32_t type, int zero, const Prim *prims, uint32_t n)
{
	Family f = {.kind = kind, .type = type, .zero = zero, .nprims = n};

	for (uint32_t k = 0; k < g->nfamilies; k++) {
		Family *x = &g->families[k];

		if (x->kind == kind && x->type == type && x->zero == zero && x->nprims == n &&
		    same_prims(x->prims[0], prims, n, g->k))
			return x;
	}
	PUSH(g->a, g->families, g->nfamilies, g->cfamilies, f);
	return &g->families[g->nfamilies - 1];
}

static void
add_item(Cg *g, CommKind kind, uint32_t i)
{
	Prim *prims = NEW_N(g->a, Prim, MAX_PRIMS);
	uint32_t n = ir_prims(g->m, &g->shared->comms, g->k, kind, i, prims), at;
	Family *f;

	if (!n) return;
	f = of_param(kind)
		? family_of(g, kind, 0, 0, prims, n)
		: family_of(g, kind, g->m->insts[i].type, ir_zero(g->m, i), prims, n);
	at = f->n;
	PUSH(g->a, f->items, f->n, f->citems, i);
	f->prims = arena_grow(g->a, f->prims, at, at + 1, sizeof *f->prims);
	f->prims[at] = prims;
	g->comm_family[kind][i] = (uint32_t)(f - g->families) + 1;
	g->comm_ordinal[kind][i] = at;
}

/* The communications of the stage's actions, each once, in the order of what they are of. */
static void
find_items(Cg *g)
{
	const Module *m = g->m;
	const Action *act = m->actions + g->stage->action;
	bool *used[CK_COUNT];
	uint32_t turns = 1;

	for (int c = 0; c < CK_COUNT; c++) {
		uint32_t n = of_param((CommKind)c) ? m->nparams : m->ninsts;

		used[c] = NEW_N(g->a, bool, n + 1);
		g->comm_family[c] = NEW_N(g->a, uint32_t, n + 1);
		g->comm_ordinal[c] = NEW_N(g->a, uint32_t, n + 1);
	}
	for (uint32_t k = 0; k < g->stage->nactions; k++) {
		if (act[k].kind == ACT_layers) turns = act[k].count;
		if (act[k].kind == ACT_end) turns = 1;
		if (act[k].kind != ACT_start && act[k].kind != ACT_wait) continue;
		for (uint32_t t = 0; t < turns; t++)
			used[act[k].comm]
			    [(uint32_t)((int64_t)act[k].inst + (int64_t)t * act[k].stride)] =
				true;
	}
	for (int c = 0; c < CK_COUNT; c++)
		for (uint32_t i = 0; i < (of_param((CommKind)c) ? m->nparams : m->ninsts); i++)
			if (used[c][i]) add_item(g, (CommKind)c, i);
}

/* ---- what a function around communication has, gathered before it is printed ---- */

typedef struct Fn {
	Cg *g;
	const Family *f;
	Buf text;
	bool uses_i, uses_mb;
} Fn;

static const char *
number(Fn *w, const int64_t *x, const char *hint)
{
	return seq_expr(w->g, x, w->f->n, hint, &w->uses_i);
}

static const char *
address(Fn *w, DType dt, const Where *where, const char *hint)
{
	const char *s = address_text(w->g, cg_ctype(dt), where, w->f->n, hint, &w->uses_i);

	if (strstr(s, "SLOT(mb)") && w->g->stage->slots > 1) w->uses_mb = true;
	return s;
}

/* Requests are numbered through; messages forward have one for every slot. */
static const char *
request(Fn *w)
{
	uint32_t per = w->f->per_request;
	int64_t *x = NEW_N(w->g->a, int64_t, w->f->n);
	const char *s;

	for (uint32_t k = 0; k < w->f->n; k++)
		x[k] = w->f->request + (int64_t)k * per;
	s = number(w, x, "request");
	if (per == 1) return s;
	w->uses_mb = true;
	return cg_text(w->g->a,
		       strcmp(s, "0") == 0 ? "%.0smb %% GV_NSLOTS" : "%s + mb %% GV_NSLOTS", s);
}

/* Numbers of the items' communicators. */
static const char *
comm_text(Fn *w, uint32_t p)
{
	int64_t *x = NEW_N(w->g->a, int64_t, w->f->n);

	for (uint32_t k = 0; k < w->f->n; k++)
		x[k] = w->f->prims[k][p].comm;
	return number(w, x, "communicator");
}

static const char *
label(const Fn *w)
{
	Buf b;

	buf_init(&b, w->g->a);
	put_cstring(&b, w->f->label);
	return b.s;
}

/* ---- flats ---- */

/* Where the whole flat of every item is: what is summed, or gathered into. */
static const char *
whole_flat(Fn *w, uint32_t p, Section sec)
{
	const Cg *g = w->g;
	Where *at = NEW_N(g->a, Where, w->f->n);

	for (uint32_t k = 0; k < w->f->n; k++) {
		uint32_t inst = w->f->items[k];
		bool split = ir_flat_split(w->f->zero, sec);
		int64_t turn = inst % 2;

		if (!split)
			at[k] = where_flat(g, inst, sec);
		else if (sec == SEC_param)
			at[k] = (Where){IN_gather, turn * g->mem->gather_bytes};
		else
			at[k] = (Where){IN_dwork, turn * g->mem->dwork_bytes};
		at[k].at += w->f->prims[k][p].at;
	}
	return address(w, w->f->prims[0][p].dt, at, "flat_at");
}

/* This rank's range of the flat: a section of its own, or within the whole. */
static const char *
own_range(Fn *w, uint32_t p, Section sec, const char *n)
{
	const Cg *g = w->g;
	const Mesh *mesh = ir_inst_mesh(g->m, w->f->items[0]);
	Where *at = NEW_N(g->a, Where, w->f->n);
	const char *s;
	bool split = ir_flat_split(w->f->zero, sec);

	for (uint32_t k = 0; k < w->f->n; k++)
		at[k] = where_flat(g, w->f->items[k], sec);
	s = address(w, w->f->prims[0][p].dt, at, "range_at");
	if (split) return s;
	return cg_text(w->g->a, "%s + gv_index(run, %u, %u) * %s", s,
		       (uint32_t)(mesh - g->m->plan.meshes), ir_dp_mask(mesh), n);
}

/* Elements of one rank's range: what an all-gather gives, and a reduce-scatter leaves. */
static const char *
range_count(Fn *w, uint32_t p)
{
	int64_t *x = NEW_N(w->g->a, int64_t, w->f->n);

	for (uint32_t k = 0; k < w->f->n; k++) {
		const Prim *q = &w->f->prims[k][p];

		x[k] = q->count;
		if (q->kind == PR_reduce_scatter)
			x[k] /= ir_dp_degree(ir_inst_mesh(w->g->m, w->f->items[k]));
	}
	return number(w, x, "range_count");
}

/* Parameters nothing in this stage contributes to have a gradient all the same. */
static void
zero_idle(Fn *w)
{
	const Cg *g = w->g;

	for (uint32_t p = 0; p < g->m->nparams; p++) {
		const Param *x = &g->m->params[p];
		const char *at;
		Where where;

		if (!cg_in_flat(g, p) || !cg_in_dwork(g, p) || g->contributes[p]) continue;
		for (uint32_t k = 0; k < w->f->n; k++) {
			bool varies;

			if (w->f->items[k] != x->owner) continue;
			where = where_param(g, p, SEC_grad);
			at = address_text(w->g, "real", &where, 1, "idle_at", &varies);
			if (w->f->n > 1) w->uses_i = true;
			put_line(&w->text, 1, "%smemset(%s, 0, %" PRId64 ");",
				 w->f->n > 1 ? cg_text(g->a, "if (i == %u) ", k) : "", at,
				 type_bytes(g->m, ir_param_mesh(g->m, p), &x->type));
		}
	}
}

static void
put_flat(Fn *w, uint32_t p)
{
	const Prim *q = &w->f->prims[0][p];
	Section sec = w->f->kind == CK_param ? SEC_param : SEC_grad;
	const char *whole = whole_flat(w, p, sec), *n, *own;

	if (q->kind == PR_all_reduce) {
		int64_t *x = NEW_N(w->g->a, int64_t, w->f->n);

		for (uint32_t k = 0; k < w->f->n; k++)
			x[k] = w->f->prims[k][p].count;
		put_line(&w->text, 1, "gv_start_all_reduce(run, %s, %s, %s, %s, %s);",
			 request(w), comm_text(w, p), whole, number(w, x, "flat_count"),
			 label(w));
		return;
	}
	n = range_count(w, p);
	own = own_range(w, p, sec, n);
	if (q->kind == PR_all_gather) {
		put_line(&w->text, 1, "gv_start_all_gather(run, %s, %s, %s, %s, %s, %s);",
			 request(w), comm_text(w, p), own, whole, n, label(w));
		return;
	}
	if (q->add && w->g->m->plan.microbatches > 1) w->uses_mb = true;
	put_line(&w->text, 1, "gv_start_reduce_scatter(run, %s, %s, %s, %s, %s, %s, %s);",
		 request(w), comm_text(w, p), whole, own, n,
		 q->add && w->g->m->plan.microbatches > 1 ? "mb > 0" : "false", label(w));
}

/* ---- exchanges ---- */

/* One end of an exchange: a tensor of this stage. */
static Where
end_of(const Cg *g, CommKind kind, uint32_t i, bool source)
{
	const Module *m = g->m;

	switch (kind) {
	case CK_fwd:
		return where_ref(g, source ? m->insts[i].args[0] : (Ref){REF_result, i, 0});
	case CK_bwd:
		return where_cot(g, source ? (Ref){REF_result, i, 0} : m->insts[i].args[0]);
	case CK_lend: return where_param(g, source ? m->params[i].borrows - 1 : i, SEC_param);
	case CK_return: return where_param(g, source ? i : m->params[i].borrows - 1, SEC_grad);
	default: ICE("no exchange");
	}
}

static const char *
end_text(Fn *w, uint32_t p, bool source)
{
	const Prim *q = &w->f->prims[0][p];
	Where *at = NEW_N(w->g->a, Where, w->f->n);

	if ((source ? q->from.stage : q->to.stage) != w->g->k) return "NULL";
	for (uint32_t k = 0; k < w->f->n; k++)
		at[k] = end_of(w->g, w->f->kind, w->f->items[k], source);
	return address(w, q->dt, at, source ? "send_at" : "receive_at");
}

/* Where what is added arrives. */
static const char *
landing(Fn *w, uint32_t p)
{
	const Prim *q = &w->f->prims[0][p];
	Where *at = NEW_N(w->g->a, Where, w->f->n);

	if (!q->add || q->to.stage != w->g->k) return "NULL";
	for (uint32_t k = 0; k < w->f->n; k++)
		at[k] = w->f->kind == CK_bwd
			    ? (Where){IN_cots, w->g->mem->back_at[w->f->items[k]]}
			    : (Where){IN_work, 0};
	return address(w, q->dt, at, "back_at");
}

/* A cotangent that must be zero, or one, before it is sent or added to. */
static void
put_prepare(Fn *w, const uint8_t *prepare, bool source)
{
	const Module *m = w->g->m;
	uint32_t p = w->f->nprims - 1;

	for (int what = PREPARE_zero; what <= PREPARE_one; what++) {
		bool *x = NEW_N(w->g->a, bool, w->f->n), any = false;
		const char *condition, *at;
		const Side *s;
		int depth = 1;

		for (uint32_t k = 0; k < w->f->n; k++)
			any |= x[k] = prepare[w->f->items[k]] == what;
		if (!any) continue;
		condition = seq_condition(w->g, x, w->f->n, "prepare", &w->uses_i);
		at = end_text(w, p, source);
		if (strcmp(condition, "true") != 0)
			put_line(&w->text, depth++, "if (%s)", condition);
		s = source ? &w->f->prims[0][p].from : &w->f->prims[0][p].to;
		if (what == PREPARE_one)
			put_line(&w->text, depth, "*%s = 1;", at);
		else
			put_line(&w->text, depth, "memset(%s, 0, %" PRId64 ");", at,
				 type_bytes(m, s->mesh, &s->type));
	}
}

static void
put_exchange(Fn *w, uint32_t p)
{
	int64_t *x = NEW_N(w->g->a, int64_t, w->f->n);
	const Prim *q = &w->f->prims[0][p];

	for (uint32_t k = 0; k < w->f->n; k++)
		x[k] = w->f->exchange + k;
	if (w->f->kind == CK_bwd && q->from.stage == w->g->k)
		put_prepare(w, w->g->prepare_bwd, true);
	put_line(&w->text, 1, "gv_start_exchange(run, %s, %s, %s, %s, %s);", request(w),
		 number(w, x, "exchange"), end_text(w, p, true), end_text(w, p, false),
		 landing(w, p));
}

/* The sum over what a copy's gradient is pending over, before it goes to the owner. */
static void
put_return_sum(Fn *w, uint32_t p)
{
	int64_t *x = NEW_N(w->g->a, int64_t, w->f->n);
	Where *at = NEW_N(w->g->a, Where, w->f->n);

	for (uint32_t k = 0; k < w->f->n; k++) {
		x[k] = w->f->prims[k][p].count;
		at[k] = end_of(w->g, CK_return, w->f->items[k], true);
	}
	put_line(&w->text, 1, "gv_start_all_reduce(run, %s, %s, %s, %s, %s);", request(w),
		 comm_text(w, p), address(w, w->f->prims[0][p].dt, at, "copy_at"),
		 number(w, x, "copy_count"), label(w));
}

/* ---- the functions ---- */

static const char *const doc[CK_COUNT] = {
    "its argument to its mesh",
    "the gradient of its argument to where that came from",
    "its parameters from all ranks that have some",
    "its gradients, summed over the ranks",
    "values of a parameter to where it is used too",
    "the gradient of a borrowed parameter to its owner",
};

static const char *const label_of[CK_COUNT] = {
    "forward", "backward", "parameters", "gradients", "lent parameter", "returned gradient"};

static const char *
item_name(const Cg *g, const Family *f)
{
	const Module *m = g->m;

	if (of_param(f->kind)) return name_str(m->names, m->params[f->items[0]].name);
	return name_str(m->names, m->types[f->type].name);
}

static const char *
put_fn(Fn *w, Buf *out, const char *verb, bool *uses_i, bool *uses_mb)
{
	Cg *g = w->g;
	const char *name =
	    scope_take(g->file, cg_text(g->a, "%s_%s_%s", verb, comm_str[w->f->kind],
					of_param(w->f->kind) ? "copy" : item_name(g, w->f)));

	*uses_i = w->uses_i;
	*uses_mb = w->uses_mb;
	buf_printf(out, "\n/* ");
	put_comment(out, item_name(g, w->f));
	buf_printf(out, "%s: %s%s */\nstatic void\n", w->f->n > 1 ? " i" : "",
		   strcmp(verb, "wait") == 0 ? "wait for " : "", doc[w->f->kind]);
	put_line(out, 0, "%s(GvrtRun *run%s%s)", name, w->uses_mb ? ", int64_t mb" : "",
		 w->uses_i ? ", int64_t i" : "");
	buf_printf(out, "{\n%s}\n", w->text.s);
	return name;
}

static void
put_family(Cg *g, Family *f, Buf *out)
{
	Fn start = {.g = g, .f = f}, wait = {.g = g, .f = f};

	f->label = cg_text(g->a, "%s: %s", item_name(g, f), label_of[f->kind]);
	buf_init(&start.text, g->a);
	buf_init(&wait.text, g->a);
	if (f->kind == CK_grad) zero_idle(&start);
	for (uint32_t p = 0; p < f->nprims; p++) {
		if (f->prims[0][p].kind == PR_exchange)
			put_exchange(&start, p);
		else if (f->kind == CK_return)
			put_return_sum(&start, p);
		else
			put_flat(&start, p);
	}
	if (f->kind == CK_bwd && f->prims[0][f->nprims - 1].to.stage == g->k)
		put_prepare(&wait, g->prepare_back, false);
	put_line(&wait.text, 1, "gv_wait(run, %s);", request(&wait));
	f->start = put_fn(&start, out, "start", &f->start_i, &f->start_mb);
	f->wait = put_fn(&wait, out, "wait", &f->wait_i, &f->wait_mb);
}

void
cg_comms(Cg *g, Buf *out)
{
	int64_t requests = 0, exchanges = 0;

	find_items(g);
	if (!g->nfamilies) return;
	buf_puts(out, "\n/* ---- communication: each start has its wait ---- */\n");
	for (uint32_t k = 0; k < g->nfamilies; k++) {
		Family *f = &g->families[k];

		f->request = requests;
		f->per_request = f->kind == CK_fwd && g->stage->slots > 1 ? g->stage->slots : 1;
		requests += (int64_t)f->n * f->per_request;
		f->exchange = exchanges;
		if (f->prims[0][f->nprims - 1].kind == PR_exchange) exchanges += f->n;
		put_family(g, f, out);
	}
	g->nrequests = requests;
}

/* ---- the table ---- */

static void
put_shards(Buf *out, const char *what, const AxisUse *u)
{
	int n = 0;

	for (int k = 0; k < u->nshard; k++) {
		if (u->shard[k] == 0) continue;
		if (n++)
			buf_printf(out, ", %u", u->shard[k]);
		else
			buf_printf(out, ", .%s = {%u", what, u->shard[k]);
	}
	if (n) buf_printf(out, "}, .n%s = %d", what, n);
}

int64_t
cg_microbatch_extent(const Module *m, AxisUse u)
{
	int64_t n = m->axes[u.a.i].extent,
		mbs = m->plan.microbatches ? m->plan.microbatches : 1;

	for (int k = 0; k < u.nshard; k++)
		if (u.shard[k] == 0) return (n + mbs - 1) / mbs;
	return n;
}

static void
put_row(const Cg *g, Buf *out, const Family *f, const Prim *q)
{
	const Module *m = g->m;

	buf_puts(out, "\t{.label = ");
	put_cstring(out, f->label);
	buf_printf(out, ", .from = {%u, %u, %u}, .to = {%u, %u, %u}, .elem = %d, .channel = %d",
		   q->from.stage, (uint32_t)(q->from.mesh - m->plan.meshes),
		   q->from.type.partial & ~1u, q->to.stage,
		   (uint32_t)(q->to.mesh - m->plan.meshes), q->to.type.partial & ~1u,
		   dtype_bytes(q->dt), (int)q->channel);
	buf_printf(out, ",\n\t .naxes = %u, .axis = {", q->from.type.n);
	for (int k = 0; k < q->from.type.n; k++) {
		AxisUse u = q->from.type.ax[k];
		int place = type_find(&q->to.type, u.a);

		ENSURE(place >= 0, "an exchange of tensors that differ in their axes");
		buf_printf(out, "%s\n\t\t{.extent = %" PRId64 ", .place = %d", k ? "," : "",
			   cg_microbatch_extent(m, u), place);
		put_shards(out, "from", &u);
		put_shards(out, "to", &q->to.type.ax[place]);
		buf_puts(out, "}");
	}
	buf_puts(out, q->from.type.n ? "}},\n" : "{0}}},\n");
}

bool
cg_exchanges(const Cg *g, Buf *out)
{
	bool any = false;

	for (uint32_t k = 0; k < g->nfamilies; k++) {
		const Family *f = &g->families[k];

		if (f->prims[0][f->nprims - 1].kind != PR_exchange) continue;
		if (!any) buf_puts(out, "\nstatic const GvrtExchange exchanges[] = {\n");
		any = true;
		for (uint32_t i = 0; i < f->n; i++)
			put_row(g, out, f, &f->prims[i][f->nprims - 1]);
	}
	if (any) buf_puts(out, "};\n");
	return any;
}
