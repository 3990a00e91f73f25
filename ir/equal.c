/*
 * equal.c - are two modules the same; are two bodies of one structure; hashes of both.
 *
 * Compares structures field by field and knows nothing of the printer, so that a field which printer and reader both
 * forget is found. What has no meaning is not compared: the numbering of values (they are matched by where they are
 * defined), the layout of the action array and of cotangents (they are reached through stages and instances).
 */
#include "ir/text.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

typedef struct Eq {
	const Module *a, *b;
	Arena *tmp;
	Buf *why;   /* may be NULL */
	bool named; /* names, places and spaces count */
} Eq;

/* Says what differs. Always false. */
static bool GV_PRINTF(2, 3) differ(Eq *e, const char *fmt, ...)
{
	va_list ap;

	if (!e->why) return false;
	va_start(ap, fmt);
	buf_vprintf(e->why, fmt, ap);
	va_end(ap);
	return false;
}

static bool
same_num(double x, double y)
{
	return memcmp(&x, &y, sizeof(x)) == 0 || (isnan(x) && isnan(y));
}

static bool
same_name(const Eq *e, Name x, Name y)
{
	if (e->a->names == e->b->names) return x == y;
	return !strcmp(name_str(e->a->names, x), name_str(e->b->names, y));
}

static bool
same_loc(const Eq *e, Loc x, Loc y)
{
	if (!x.line && !y.line) return true;
	return same_name(e, x.file, y.file) && x.line == y.line && x.col == y.col &&
	       x.len == y.len;
}

static bool
same_list(const AxisList *x, const AxisList *y)
{
	if (x->n != y->n) return false;
	for (int i = 0; i < x->n; i++)
		if (x->a[i].i != y->a[i].i) return false;
	return true;
}

static bool
same_ints(const int64_t *x, const int64_t *y, uint32_t n)
{
	if (!n) return true;
	if (!x || !y) return x == y;
	return memcmp(x, y, sizeof(*x) * n) == 0;
}

/* NULL: none are there. */
static bool
same_offsets(const int64_t *x, const int64_t *y, uint32_t n, int64_t none)
{
	for (uint32_t i = 0; i < n; i++)
		if ((x ? x[i] : none) != (y ? y[i] : none)) return false;
	return true;
}

static bool
same_attr(const Attr *x, const Attr *y)
{
	if (x->key != y->key) return false;
	switch (attr_info[x->key].kind) {
	case AT_num: return same_num(x->num, y->num);
	case AT_axis: return x->axis.i == y->axis.i;
	case AT_axes: return same_list(&x->axes, &y->axes);
	case AT_int:
	case AT_dtype:
	case AT_mesh: return x->i == y->i;
	}
	return false;
}

/* ---- bodies ---- */

/* order[v]: values in the order of their definition, from 1; 0 for those nothing defines. */
static uint32_t *
definition_order(const Body *b, Arena *tmp)
{
	uint32_t *order = NEW_N(tmp, uint32_t, b->nvals ? b->nvals : 1);
	uint32_t n = 0;

	for (uint32_t p = 0; p < b->nports; p++)
		if (port_is_in(b->ports[p].kind)) order[b->ports[p].v.i] = ++n;
	for (uint32_t o = 0; o < b->nops; o++)
		for (int i = 0; i < b->ops[o].nout; i++)
			if (b->ops[o].out[i].i) order[b->ops[o].out[i].i] = ++n;
	order[0] = 0;
	return order;
}

typedef struct Pair {
	const Body *a, *b;
	const uint32_t *oa, *ob;
} Pair;

static bool
same_val(const Pair *q, Val x, Val y)
{
	return q->oa[x.i] == q->ob[y.i];
}

static bool
same_def(Eq *e, const Pair *q, Val x, Val y)
{
	const ValDef *dx = &q->a->vals[x.i], *dy = &q->b->vals[y.i];

	if (!x.i != !y.i) return differ(e, "one is wanted, the other is not");
	if (!x.i) return true;
	if (!type_equal(&dx->type, &dy->type))
		return differ(e, "types of '%%%s'", name_str(e->a->names, dx->name));
	if (!e->named) return true;
	if (!same_name(e, dx->name, dy->name))
		return differ(e, "names '%%%s' and '%%%s'", name_str(e->a->names, dx->name),
			      name_str(e->b->names, dy->name));
	if (dx->space != dy->space || (dx->space == SP_scratch && dx->offset != dy->offset) ||
	    !same_val(q, dx->over, dy->over))
		return differ(e, "spaces of '%%%s'", name_str(e->a->names, dx->name));
	return true;
}

static bool
same_op(Eq *e, const Pair *q, const Op *x, const Op *y)
{
	if (x->code != y->code)
		return differ(e, "'%s' and '%s'", op_info[x->code].text, op_info[y->code].text);
	if (x->nin != y->nin || x->nout != y->nout || x->nattr != y->nattr)
		return differ(
		    e, "'%s': %d and %d operands, %d and %d results, %d and %d attributes",
		    op_info[x->code].text, x->nin, y->nin, x->nout, y->nout, x->nattr,
		    y->nattr);
	for (int i = 0; i < x->nin; i++)
		if (!same_val(q, x->in[i], y->in[i]))
			return differ(e, "operand %d of '%s'", i, op_info[x->code].text);
	for (int i = 0; i < x->nattr; i++)
		if (!same_attr(&x->attrs[i], &y->attrs[i]))
			return differ(e, "attribute '%s' of '%s'",
				      attr_info[x->attrs[i].key].text, op_info[x->code].text);
	if (x->kernel != y->kernel)
		return differ(e, "kernels %" PRIu32 " and %" PRIu32, x->kernel, y->kernel);
	for (int i = 0; i < x->nout; i++)
		if (!same_def(e, q, x->out[i], y->out[i])) return false;
	if (e->named && !same_loc(e, x->loc, y->loc))
		return differ(e, "places of '%s'", op_info[x->code].text);
	return true;
}

/* The next port from *i on that is of the wanted direction; NULL at the end. */
static const Port *
next_port(const Body *b, uint32_t *i, bool in)
{
	while (*i < b->nports && port_is_in(b->ports[*i].kind) != in)
		++*i;
	return *i < b->nports ? &b->ports[(*i)++] : NULL;
}

static bool
same_ports(Eq *e, const Pair *q, bool in)
{
	uint32_t i = 0, j = 0;

	for (;;) {
		const Port *x = next_port(q->a, &i, in), *y = next_port(q->b, &j, in);

		if (!x && !y) return true;
		if (!x || !y) return differ(e, "numbers of ports");
		if (x->kind != y->kind || x->slot != y->slot || !same_val(q, x->v, y->v))
			return differ(e, "ports '%s %u' and '%s %u'", port_str[x->kind],
				      x->slot, port_str[y->kind], y->slot);
		if (in && !same_def(e, q, x->v, y->v)) return false;
	}
}

static bool
same_body(Eq *e, const Body *a, const Body *b)
{
	Pair q = {a, b, definition_order(a, e->tmp), definition_order(b, e->tmp)};

	if (a->kind != b->kind || a->mesh != b->mesh || a->from != b->from)
		return differ(e, "kinds or meshes");
	if (e->named && !same_name(e, a->name, b->name)) return differ(e, "names");
	if (a->nops != b->nops)
		return differ(e, "%" PRIu32 " and %" PRIu32 " operations", a->nops, b->nops);
	if (!same_ports(e, &q, true)) return false;
	for (uint32_t o = 0; o < a->nops; o++)
		if (!same_op(e, &q, &a->ops[o], &b->ops[o]))
			return differ(e, " (operation %" PRIu32 ")", o);
	if (!same_ports(e, &q, false)) return false;
	if (a->nkernels != b->nkernels) return differ(e, "numbers of kernels");
	if (!e->named) return true;
	return (a->scratch_bytes == b->scratch_bytes && a->live_bytes == b->live_bytes) ||
	       differ(e, "scratch");
}

bool
ir_body_equal(const Module *m, const Body *a, const Body *b)
{
	Eq e = {.a = m, .b = m, .tmp = arena_new()};
	bool same = same_body(&e, a, b);

	arena_free(e.tmp);
	return same;
}

/* ---- tables ---- */

static bool
same_axes(Eq *e)
{
	if (e->a->naxes != e->b->naxes)
		return differ(e, "%" PRIu32 " and %" PRIu32 " axes", e->a->naxes, e->b->naxes);
	for (uint32_t i = 1; i < e->a->naxes; i++) {
		const AxisDef *x = &e->a->axes[i], *y = &e->b->axes[i];

		if (!same_name(e, x->name, y->name) || x->extent != y->extent ||
		    !same_loc(e, x->loc, y->loc))
			return differ(e, "axis '%s'", name_str(e->a->names, x->name));
	}
	return e->a->batch.i == e->b->batch.i || differ(e, "batch axes");
}

static bool
same_inputs(Eq *e)
{
	if (e->a->ninputs != e->b->ninputs) return differ(e, "numbers of inputs");
	for (uint32_t i = 0; i < e->a->ninputs; i++) {
		const Input *x = &e->a->inputs[i], *y = &e->b->inputs[i];

		if (!same_name(e, x->name, y->name) || !type_equal(&x->type, &y->type) ||
		    x->range.i != y->range.i || x->of != y->of || x->mesh != y->mesh ||
		    !same_loc(e, x->loc, y->loc))
			return differ(e, "input '%s'", name_str(e->a->names, x->name));
	}
	if (e->a->nconsts != e->b->nconsts) return differ(e, "numbers of constants");
	for (uint32_t i = 0; i < e->a->nconsts; i++)
		if (!type_equal(&e->a->consts[i], &e->b->consts[i]))
			return differ(e, "constant %" PRIu32, i);
	return true;
}

static bool
same_param(const Eq *e, const Param *x, const Param *y)
{
	if (!same_name(e, x->name, y->name) || !type_equal(&x->type, &y->type)) return false;
	if (x->ndims != y->ndims || memcmp(x->dims, y->dims, x->ndims) != 0) return false;
	if (x->per.i != y->per.i || x->init != y->init || !same_num(x->init_a, y->init_a))
		return false;
	if (x->init == INIT_uniform && !same_num(x->init_b, y->init_b)) return false;
	if (x->borrows != y->borrows || x->pending != y->pending || x->trained != y->trained)
		return false;
	return same_num(x->decay, y->decay) && same_num(x->lr, y->lr) && x->owner == y->owner &&
	       same_loc(e, x->loc, y->loc);
}

static bool
same_params(Eq *e)
{
	if (e->a->nparams != e->b->nparams)
		return differ(e, "%" PRIu32 " and %" PRIu32 " parameters", e->a->nparams,
			      e->b->nparams);
	for (uint32_t i = 0; i < e->a->nparams; i++)
		if (!same_param(e, &e->a->params[i], &e->b->params[i]))
			return differ(e, "parameter %" PRIu32 " '%s'", i,
				      name_str(e->a->names, e->a->params[i].name));
	return true;
}

static bool
same_types(const Type *x, uint32_t nx, const Type *y, uint32_t ny)
{
	if (nx != ny) return false;
	for (uint32_t i = 0; i < nx; i++)
		if (!type_equal(&x[i], &y[i])) return false;
	return true;
}

static bool
same_layer_type(const Eq *e, const LayerType *x, const LayerType *y)
{
	if (!same_name(e, x->name, y->name) || memcmp(x->body, y->body, sizeof(x->body)) != 0 ||
	    x->nargs != y->nargs || x->nouts != y->nouts || x->nrates != y->nrates ||
	    x->nweights != y->nweights || x->reshard != y->reshard)
		return false;
	for (uint32_t w = 0; w < x->nweights; w++)
		if (!same_name(e, x->weights[w].name, y->weights[w].name) ||
		    !type_equal(&x->weights[w].type, &y->weights[w].type))
			return false;
	if (!same_types(x->saved, x->nsaved, y->saved, y->nsaved) ||
	    !same_types(x->carry, x->ncarry, y->carry, y->ncarry))
		return false;
	for (int k = 0; k < BK_COUNT; k++)
		if (!same_num(x->flops[k], y->flops[k])) return false;
	return same_ints(x->out_at, y->out_at, x->nouts) &&
	       same_ints(x->saved_at, y->saved_at, x->nsaved) &&
	       same_ints(x->carry_at, y->carry_at, x->ncarry) &&
	       x->slot_frame == y->slot_frame && x->carry_frame == y->carry_frame;
}

static bool
same_ref(Ref x, Ref y)
{
	if (x.kind != y.kind) return false;
	return x.kind == REF_none ||
	       (x.i == y.i && (x.kind == REF_input || x.result == y.result));
}

static bool
same_instance(const Eq *e, const Instance *x, const Instance *y)
{
	const LayerType *l;

	if (!same_name(e, x->name, y->name) || !same_name(e, x->path, y->path) ||
	    x->type != y->type || !same_loc(e, x->loc, y->loc))
		return false;
	l = &e->a->types[x->type];
	for (int i = 0; i < l->nargs; i++)
		if (!same_ref(x->args[i], y->args[i])) return false;
	for (uint32_t i = 0; i < l->nweights; i++)
		if (x->params[i] != y->params[i]) return false;
	for (int i = 0; i < l->nrates; i++)
		if (!same_num(x->rates[i], y->rates[i])) return false;
	return true;
}

static bool
same_layers(Eq *e)
{
	const Module *a = e->a, *b = e->b;

	if (a->ntypes != b->ntypes || a->ninsts != b->ninsts || a->nreports != b->nreports)
		return differ(e, "numbers of layer types, instances or reports");
	for (uint32_t l = 0; l < a->ntypes; l++)
		if (!same_layer_type(e, &a->types[l], &b->types[l]))
			return differ(e, "layer type '%s'",
				      name_str(a->names, a->types[l].name));
	for (uint32_t n = 0; n < a->ninsts; n++)
		if (!same_instance(e, &a->insts[n], &b->insts[n]))
			return differ(e, "instance %" PRIu32 " '%s'", n,
				      name_str(a->names, a->insts[n].name));
	for (uint32_t r = 0; r < a->nreports; r++)
		if (!same_name(e, a->reports[r].name, b->reports[r].name) ||
		    !same_ref(a->reports[r].ref, b->reports[r].ref))
			return differ(e, "report %" PRIu32, r);
	return true;
}

static bool
same_train(Eq *e)
{
	const Train *x = &e->a->train, *y = &e->b->train;
	bool same = x->opt == y->opt && x->rate == y->rate && x->precision == y->precision &&
		    x->seed == y->seed && x->given == y->given;
	const double nx[] = {x->peak,  x->warmup, x->steps, x->floor,    x->beta1,
			     x->beta2, x->eps,    x->decay, x->momentum, x->clip};
	const double ny[] = {y->peak,  y->warmup, y->steps, y->floor,    y->beta1,
			     y->beta2, y->eps,    y->decay, y->momentum, y->clip};

	for (size_t i = 0; i < COUNTOF(nx); i++)
		same = same && same_num(nx[i], ny[i]);
	return same || differ(e, "training");
}

/* ---- plan, schedule, memory ---- */

static bool
same_mesh(const Eq *e, const Mesh *x, const Mesh *y)
{
	if (!same_name(e, x->name, y->name) || x->n != y->n) return false;
	for (int k = 0; k < x->n; k++)
		if (x->ax[k].kind != y->ax[k].kind || x->ax[k].sub != y->ax[k].sub ||
		    x->ax[k].degree != y->ax[k].degree)
			return false;
	return true;
}

static bool
same_plan(Eq *e)
{
	const Plan *x = &e->a->plan, *y = &e->b->plan;

	if (x->ranks != y->ranks || x->threads != y->threads ||
	    x->microbatches != y->microbatches || x->schedule != y->schedule ||
	    x->forward_only != y->forward_only || x->nmeshes != y->nmeshes ||
	    x->nruns != y->nruns || x->nstages != y->nstages || x->nnodes != y->nnodes ||
	    (x->nnodes && memcmp(x->nodes, y->nodes, sizeof *x->nodes * x->nnodes) != 0))
		return differ(e, "plans");
	for (uint32_t i = 0; i < x->nmeshes; i++)
		if (!same_mesh(e, &x->meshes[i], &y->meshes[i]))
			return differ(e, "mesh %" PRIu32, i);
	for (uint32_t i = 0; i < x->nruns; i++) {
		const Strategy *r = &x->runs[i], *q = &y->runs[i];

		if (r->first != q->first || r->count != q->count || r->mesh != q->mesh ||
		    r->zero != q->zero || r->megatron_sp != q->megatron_sp ||
		    r->recompute != q->recompute)
			return differ(e, "run %" PRIu32 " of layers", i);
	}
	for (uint32_t i = 0; i < x->nstages; i++) {
		const Stage *r = &x->stages[i], *q = &y->stages[i];

		if (r->first != q->first || r->count != q->count || r->rank != q->rank ||
		    r->ranks != q->ranks || r->slots != q->slots)
			return differ(e, "stage %" PRIu32, i);
	}
	return true;
}

static bool
same_action(const Action *x, const Action *y)
{
	if (x->kind != y->kind) return false;
	switch (x->kind) {
	case ACT_mb:
	case ACT_layers: return x->count == y->count;
	case ACT_input: return x->mb == y->mb;
	case ACT_body:
	case ACT_start:
	case ACT_wait:
		return (x->kind == ACT_body ? x->bk == y->bk : x->comm == y->comm) &&
		       x->inst == y->inst && x->stride == y->stride && x->mb == y->mb;
	case ACT_end:
	case ACT_norm:
	case ACT_COUNT: break;
	}
	return true;
}

static bool
same_actions(Eq *e)
{
	for (uint32_t k = 0; k < e->a->plan.nstages; k++) {
		const Stage *x = &e->a->plan.stages[k], *y = &e->b->plan.stages[k];

		if (x->nactions != y->nactions)
			return differ(e,
				      "stage %" PRIu32 ": %" PRIu32 " and %" PRIu32 " actions",
				      k, x->nactions, y->nactions);
		for (uint32_t i = 0; i < x->nactions; i++)
			if (!same_action(&e->a->actions[x->action + i],
					 &e->b->actions[y->action + i]))
				return differ(e, "stage %" PRIu32 ": action %" PRIu32, k, i);
	}
	return true;
}

static Cot
cot_of(const Memory *x, uint32_t n, uint32_t r)
{
	return x->cot_of && x->cot ? x->cot[x->cot_of[n] + r] : (Cot){.at = -1};
}

static bool
same_cots(Eq *e, const Memory *x, const Memory *y)
{
	for (uint32_t n = 0; n < e->a->ninsts; n++) {
		for (uint32_t r = 0; r < e->a->types[e->a->insts[n].type].nouts; r++) {
			Cot c = cot_of(x, n, r), d = cot_of(y, n, r);

			if (c.at == -1 && d.at == -1) continue; /* nobody's */
			if (c.at != d.at || c.alt != d.alt || c.shared != d.shared)
				return differ(e, "cotangent of %" PRIu32 ".%" PRIu32, n, r);
		}
	}
	return true;
}

/* Flats that hold nothing are nowhere. */
static bool
same_flats(const Eq *e, const Memory *x, const Memory *y)
{
	if (!same_offsets(x->flat_bytes, y->flat_bytes, e->a->ninsts, 0)) return false;
	for (uint32_t i = 0; x->flat_bytes && i < e->a->ninsts; i++)
		for (int k = 0; x->flat_bytes[i] && k < SEC_COUNT; k++)
			if ((x->flat_at[k] ? x->flat_at[k][i] : -1) !=
			    (y->flat_at[k] ? y->flat_at[k][i] : -1))
				return false;
	for (uint32_t i = 0; i < e->a->nparams; i++)
		if ((x->in_flat && x->in_flat[i]) != (y->in_flat && y->in_flat[i]))
			return false;
	return true;
}

static bool
same_stage_memory(Eq *e, const Memory *x, const Memory *y)
{
	const Module *m = e->a;
	const int64_t sx[] = {x->arena_bytes, x->live_bytes,   x->consts, x->slots,
			      x->slot_bytes,  x->cots,         x->carry,  x->scratch,
			      x->gather,      x->gather_bytes, x->dwork,  x->dwork_bytes};
	const int64_t sy[] = {y->arena_bytes, y->live_bytes,   y->consts, y->slots,
			      y->slot_bytes,  y->cots,         y->carry,  y->scratch,
			      y->gather,      y->gather_bytes, y->dwork,  y->dwork_bytes};

	if (memcmp(sx, sy, sizeof(sx)) != 0 || memcmp(x->sec, y->sec, sizeof(x->sec)) != 0 ||
	    memcmp(x->sec_bytes, y->sec_bytes, sizeof(x->sec_bytes)) != 0)
		return differ(e, "sections of the arena");
	if (!same_offsets(x->param_at, y->param_at, m->nparams, -1) ||
	    !same_offsets(x->const_at, y->const_at, m->nconsts, -1) ||
	    !same_offsets(x->input_at, y->input_at, m->ninputs, -1) ||
	    !same_offsets(x->slot_at, y->slot_at, m->ninsts, -1) ||
	    !same_offsets(x->back_at, y->back_at, m->ninsts, -1))
		return differ(e, "offsets in the arena");
	if (!same_flats(e, x, y)) return differ(e, "flats in the arena");
	return same_cots(e, x, y);
}

static bool
same_memory(Eq *e)
{
	for (uint32_t k = 0; k < e->a->plan.nstages; k++)
		if (!same_stage_memory(e, &e->a->mem[k], &e->b->mem[k]))
			return differ(e, " (stage %" PRIu32 ")", k);
	return true;
}

static bool
same_bodies(Eq *e)
{
	if (e->a->nbodies != e->b->nbodies || e->a->const_body != e->b->const_body)
		return differ(e, "%" PRIu32 " and %" PRIu32 " bodies", e->a->nbodies,
			      e->b->nbodies);
	for (uint32_t i = 1; i < e->a->nbodies; i++)
		if (!same_body(e, &e->a->bodies[i], &e->b->bodies[i]))
			return differ(e, " (body %" PRIu32 " '%s')", i,
				      name_str(e->a->names, e->a->bodies[i].name));
	return true;
}

static bool
same_module(Eq *e)
{
	if (e->a->level != e->b->level) return differ(e, "levels");
	if (!same_name(e, e->a->model, e->b->model) ||
	    !same_name(e, e->a->source, e->b->source) || e->a->source_hash != e->b->source_hash)
		return differ(e, "model lines");
	return same_axes(e) && same_inputs(e) && same_params(e) && same_train(e) &&
	       (e->a->level < LV_plan || same_plan(e)) && same_bodies(e) && same_layers(e) &&
	       (e->a->level < LV_sched || same_actions(e)) &&
	       (e->a->level < LV_mem || same_memory(e));
}

bool
ir_equal(const Module *a, const Module *b, Buf *why)
{
	Eq e = {a, b, arena_new(), why, true};
	bool same = same_module(&e);

	arena_free(e.tmp);
	return same;
}

uint64_t
ir_hash(const Module *m)
{
	Arena *tmp = arena_new();
	Buf text;
	uint64_t h;

	buf_init(&text, tmp);
	ir_print(m, &text);
	h = hash_bytes(text.s, text.n, 0);
	arena_free(tmp);
	return h;
}
