/*
 * eval_place.c - where the interpreter keeps things: the state of a rank, frames of instances, the arena of level mem.
 *
 * Input: a module of any level. Output: ranks with their programs, and a Place for every parameter, input, result,
 * saved value, cotangent and carry. Above level mem each is an array of its own; at level mem all are offsets in one
 * arena of bytes, as planned, so that a wrong plan gives wrong numbers. Sizes are checked before anything is allocated.
 */
#include "ir/eval.h"

#include <math.h>
#include <string.h>

static const int64_t MAX_DOUBLES = (int64_t)1 << 29; /* 4 GiB */

double *
eval_doubles(Eval *e, Arena *a, int64_t n)
{
	if (n > MAX_DOUBLES || e->cells > MAX_DOUBLES - n) {
		diag_error(e->diag, (Loc){0},
			   "the interpreter holds whole tensors: %lld elements, at most %lld",
			   (long long)n + (long long)e->cells, (long long)MAX_DOUBLES);
		return NULL;
	}
	e->cells += n;
	return NEW_N(a, double, n + 1);
}

/* ---- coordinates ---- */

/* Mixed radix over the ranks of the stage, the last mesh axis fastest; axis 0 is the microbatch. */
void
eval_coords(const Rank *r, const Mesh *mesh, uint32_t mb, uint32_t *coord)
{
	uint32_t rest = r->id - r->first;

	memset(coord, 0, MAX_MESH * sizeof *coord);
	if (!mesh) return;
	for (int a = mesh->n - 1; a > 0; a--) {
		coord[a] = rest % mesh->ax[a].degree;
		rest /= mesh->ax[a].degree;
	}
	coord[0] = mb < mesh->ax[0].degree ? mb : 0;
}

bool
eval_counts(const Mesh *mesh, const uint32_t *coord, const Type *t)
{
	bool split[MAX_MESH] = {0};

	for (int k = 0; k < t->n; k++)
		for (int s = 0; s < t->ax[k].nshard; s++)
			split[t->ax[k].shard[s]] = true;
	for (int a = 0; mesh && a < mesh->n; a++)
		if (coord[a] && !split[a] && !((t->partial | t->flat) >> a & 1)) return false;
	return true;
}

/* ---- bytes ---- */

/* Floats of two bytes hold bf16, of four float, else double. */
static double
decode(DType dt, const unsigned char *p, int64_t width)
{
	int32_t whole;
	uint32_t half = 0;
	float f;
	double d;

	if (dt == DT_bool) return *p != 0;
	if (dt == DT_i32) return memcpy(&whole, p, sizeof whole), whole;
	if (width >= 8) return memcpy(&d, p, sizeof d), d;
	if (width == 4) return memcpy(&f, p, sizeof f), f;
	half = (uint32_t)(p[0] | p[1] << 8) << 16;
	return memcpy(&f, &half, sizeof f), f;
}

static void
encode(DType dt, unsigned char *p, int64_t width, double x)
{
	int32_t whole = (int32_t)eval_round(DT_i32, false, x);
	float f = (float)x;
	uint32_t bits;

	if (dt == DT_bool)
		*p = x != 0;
	else if (dt == DT_i32)
		memcpy(p, &whole, sizeof whole);
	else if (width >= 8)
		memcpy(p, &x, sizeof x);
	else if (width == 4)
		memcpy(p, &f, sizeof f);
	else {
		memcpy(&bits, &f, sizeof bits);
		p[0] = (unsigned char)(bits >> 16), p[1] = (unsigned char)(bits >> 24);
	}
}

static bool
inside(Eval *e, const Rank *r, int64_t at, const Tensor *t)
{
	int64_t bytes = (t->hi - t->lo) * dtype_bytes(t->t.dt);

	if (bytes <= 0 || (at >= 0 && bytes <= r->nbytes && at <= r->nbytes - bytes))
		return true;
	diag_error(e->diag, (Loc){0}, "%lld bytes at %lld of an arena of %lld",
		   (long long)bytes, (long long)at, (long long)r->nbytes);
	return false;
}

void
eval_poison(const Eval *e, Rank *r, int64_t at, int64_t bytes)
{
	if (!e->placed || at < 0 || bytes <= 0 || bytes > r->nbytes || at > r->nbytes - bytes)
		return;
	memset(r->bytes + at * e->unit, 0xFF, (size_t)(bytes * e->unit));
}

/* Whether t is laid out like s, with the same part of the logical tensor. */
static bool
same_part(const Tensor *t, const Tensor *s)
{
	if (t->t.n != s->t.n || t->n != s->n) return false;
	for (int k = 0; k < t->t.n; k++)
		if (t->t.ax[k].a.i != s->t.ax[k].a.i || t->start[k] != s->start[k] ||
		    t->ext[k] != s->ext[k])
			return false;
	return true;
}

static bool
misfit(Eval *e, const Tensor *have, const Tensor *want)
{
	Buf b;

	buf_init(&b, e->arena);
	ir_print_type(e->m, NULL, &have->t, &b);
	buf_puts(&b, " does not hold ");
	ir_print_type(e->m, NULL, &want->t, &b);
	diag_error(e->diag, (Loc){0}, "%s", b.s);
	return false;
}

bool
eval_load(Eval *e, const Rank *r, const Place *p, Tensor *t, Arena *a)
{
	uint32_t coord[MAX_MESH];

	if (!p->type) return t->x = NEW_N(a, double, t->n + 1), true;
	if (p->ranged) t->lo = p->lo, t->hi = p->hi;
	if (!p->x) {
		int64_t width = dtype_bytes(t->t.dt) * e->unit;
		if (!inside(e, r, p->at, t)) return false;
		t->x = NEW_N(a, double, t->n + 1);
		for (int64_t i = t->lo; i < t->hi; i++)
			t->x[i] = decode(
			    t->t.dt, r->bytes + p->at * e->unit + (i - t->lo) * width, width);
		return true;
	}
	eval_coords(r, p->mesh, r->f.mb, coord);
	Tensor s = eval_tensor(e->m, p->mesh, coord, p->type);
	s.x = p->x;
	if (same_part(t, &s) && !p->ranged) return t->x = p->x, true;
	t->x = NEW_N(a, double, t->n + 1);
	if (!p->ranged) return eval_overlap(t, &s, false) == eval_valid(t) || misfit(e, &s, t);
	for (int64_t i = p->lo; i < p->hi; i++)
		t->x[i] = s.x[i];
	return same_part(t, &s) || misfit(e, &s, t);
}

bool
eval_store(Eval *e, const Rank *r, const Place *p, const Tensor *t)
{
	uint32_t coord[MAX_MESH];
	Tensor part = *t;

	if (!p->type) return true;
	if (p->ranged) part.lo = p->lo, part.hi = p->hi;
	if (!p->x) {
		int64_t width = dtype_bytes(t->t.dt) * e->unit;
		if (!inside(e, r, p->at, &part)) return false;
		for (int64_t i = part.lo; i < part.hi; i++)
			encode(t->t.dt, r->bytes + p->at * e->unit + (i - part.lo) * width,
			       width, t->x[i]);
		return true;
	}
	eval_coords(r, p->mesh, r->f.mb, coord);
	Tensor s = eval_tensor(e->m, p->mesh, coord, p->type);
	s.x = p->x;
	if (!p->ranged) return eval_overlap(&s, t, false) == eval_valid(t) || misfit(e, &s, t);
	for (int64_t i = p->lo; i < p->hi; i++)
		s.x[i] = t->x[i];
	return same_part(t, &s) || misfit(e, &s, t);
}

/* ---- ports ---- */

bool
eval_cot(Eval *e, Rank *r, uint32_t inst, uint16_t result, uint32_t mb)
{
	uint32_t k = e->res0[inst] + result, coord[MAX_MESH];
	bool *made = &r->cot_made[mb * e->nres + k];
	const Place *p = &r->cots[k];
	Ref loss = e->m->nreports ? e->m->reports[0].ref : (Ref){0};

	if (*made || !p->type) return true;
	*made = true;
	eval_coords(r, p->mesh, r->f.mb, coord);
	Tensor t = eval_tensor(e->m, p->mesh, coord, p->type);
	t.x = NEW_N(r->body, double, t.n + 1);
	if (loss.kind == REF_result && loss.i == inst && loss.result == result)
		for (int64_t i = 0; i < t.n; i++)
			t.x[i] = 1;
	return eval_store(e, r, p, &t);
}

static Place
ref_place(const Eval *e, const Rank *r, Ref ref, uint32_t slot)
{
	if (ref.kind == REF_input) return r->inputs[slot * e->m->ninputs + ref.i];
	if (ref.kind == REF_result)
		return r->results[slot * e->nres + e->res0[ref.i] + ref.result];
	return (Place){0};
}

/* What an update reads and writes: of a parameter that another instance owns it reads zeros, and its writes are dropped. */
static Place
owned_place(const Eval *e, const Rank *r, uint32_t inst, const Port *p, Section s)
{
	uint32_t k = e->m->insts[inst].params[p->slot];

	return e->m->params[k].owner == inst ? r->state[s][k] : (Place){0};
}

/* What B hands to W: in a buffer of its own, or (level mem) over what F saved in slot -1 - carry_at. */
static Place
carry_place(const Eval *e, const Rank *r, uint32_t inst, uint32_t slot, uint16_t carry)
{
	const LayerType *l = &e->m->types[e->m->insts[inst].type];
	int64_t at = e->placed ? l->carry_at[carry] : 0;
	Place p = r->carry[e->carry0[inst] + carry];

	if (at < 0 && -1 - at < (int64_t)l->nsaved)
		p.at = r->saved[slot * e->nsave + e->save0[inst] + (uint32_t)(-1 - at)].at;
	return p;
}

Place
eval_port(Eval *e, Rank *r, uint32_t inst, uint32_t slot, BodyKind bk, const Port *p)
{
	static const Type scalar = {.dt = DT_f64};
	const Instance *n = &e->m->insts[inst];
	Ref ref;

	switch (p->kind) {
	case PORT_arg: return ref_place(e, r, n->args[p->slot], slot);
	case PORT_weight:
		return bk == BK_U ? r->state[SEC_param][n->params[p->slot]]
				  : r->weight[n->params[p->slot]];
	case PORT_const: return r->consts[p->slot];
	case PORT_saved:
	case PORT_save: return r->saved[slot * e->nsave + e->save0[inst] + p->slot];
	case PORT_cot: return r->cots[e->res0[inst] + p->slot];
	case PORT_carry:
	case PORT_carry_out: return carry_place(e, r, inst, slot, p->slot);
	case PORT_grad: return owned_place(e, r, inst, p, SEC_grad);
	case PORT_m: return r->state[SEC_m][n->params[p->slot]];
	case PORT_v: return r->state[SEC_v][n->params[p->slot]];
	case PORT_master: return r->state[SEC_master][n->params[p->slot]];
	case PORT_scalar: return (Place){.x = &e->scalars[p->slot & 3], .type = &scalar};
	case PORT_out: return r->results[slot * e->nres + e->res0[inst] + p->slot];
	case PORT_dx:
		ref = n->args[p->slot];
		return ref.kind == REF_result ? r->cots[e->res0[ref.i] + ref.result]
					      : (Place){0};
	case PORT_dw: return r->grad[n->params[p->slot]];
	case PORT_norm: return (Place){.x = &r->sumsq, .type = &scalar};
	case PORT_w_out: return owned_place(e, r, inst, p, SEC_param);
	case PORT_m_out: return owned_place(e, r, inst, p, SEC_m);
	case PORT_v_out: return owned_place(e, r, inst, p, SEC_v);
	case PORT_master_out: return owned_place(e, r, inst, p, SEC_master);
	case PORT_logits:
		return (Place){.x = e->logits.x, .type = e->logits.x ? &e->logits_type : NULL};
	case PORT_COUNT: break;
	}
	return (Place){0};
}

/* ---- setting up ---- */

static const Body *
forward_of(const Module *m, uint32_t inst)
{
	return &m->bodies[m->types[m->insts[inst].type].body[BK_F]];
}

/* A place of that type: an array of its own, or the given offset. */
static bool
place_new(Eval *e, Place *p, const Type *t, const Mesh *mesh, int64_t at)
{
	*p = (Place){.at = at, .type = t, .mesh = mesh};
	if (e->placed) return true;
	p->x = eval_doubles(e, e->arena, type_count(e->m, mesh, t));
	return p->x != NULL;
}

bool
eval_has(const Eval *e, const Rank *r, uint32_t inst)
{
	const Stage *s = e->staged ? &e->m->plan.stages[r->stage] : NULL;

	return inst < e->m->ninsts && (!s || (inst >= s->first && inst - s->first < s->count));
}

/* Is there a gradient of this parameter: does some W add to it, or a copy of it give one back? */
static bool
has_grad(const Module *m, uint32_t param)
{
	if (m->level < LV_spmd || m->params[param].trained) return true;
	for (uint32_t i = 0; i < m->ninsts; i++) {
		const LayerType *l = &m->types[m->insts[i].type];
		for (uint32_t k = 0; k < l->nweights && l->body[BK_W]; k++)
			if (m->insts[i].params[k] == param &&
			    ir_find_port(&m->bodies[l->body[BK_W]], PORT_dw, (uint16_t)k))
				return true;
	}
	return false;
}

/* Where parameter `param` is in the flat of its owner. */
typedef struct InFlat {
	const Flat *flat;       /* NULL: in none */
	int64_t at, begin, end; /* bytes of the flat: its first, and this rank's range */
} InFlat;

static InFlat
in_flat(const Eval *e, const Rank *r, uint32_t param)
{
	const Param *p = &e->m->params[param];
	const Flat *f = e->staged ? &e->flats[p->owner] : NULL;
	uint32_t coord[MAX_MESH], c;

	for (uint32_t i = 0; f && i < f->n; i++) {
		if (f->param[i] != param) continue;
		eval_coords(r, ir_param_mesh(e->m, param), 0, coord);
		c = ir_group_index(ir_param_mesh(e->m, param), f->dp_mask, coord);
		return (InFlat){f, f->at[i], f->bytes / f->dp * c, f->bytes / f->dp * (c + 1)};
	}
	return (InFlat){0};
}

/* The elements of a parameter that lie in this rank's range. */
static void
set_range(const Eval *e, const InFlat *f, DType weight, Place *p)
{
	int64_t n = type_count(e->m, p->mesh, p->type), width = dtype_bytes(weight);

	p->ranged = true;
	p->lo = (f->begin - f->at) / width, p->hi = (f->end - f->at) / width;
	p->lo = p->lo < 0 ? 0 : p->lo > n ? n : p->lo;
	p->hi = p->hi < p->lo ? p->lo : p->hi > n ? n : p->hi;
	if (e->placed) p->at = p->hi > p->lo ? p->at + p->lo * dtype_bytes(p->type->dt) : 0;
}

/* Level mem: where a parameter's section begins for it; of one that keeps a range, as if all of the flat were there. */
static int64_t
state_at(const Eval *e, const Rank *r, uint32_t param, Section s, const InFlat *f)
{
	const Memory *mem = r->mem;
	const int64_t scale = ir_section_scale(e->m, s);
	uint32_t owner = e->m->params[param].owner;

	if (!mem) return -1;
	if (!f->flat || !mem->in_flat || !mem->in_flat[param])
		return mem->sec[s] + scale * mem->param_at[param];
	return mem->sec[s] + mem->flat_at[s][owner] + scale * mem->param_at[param] -
	       (ir_flat_split(f->flat->zero, s) ? scale * f->begin : 0);
}

/* Parameter, gradient and moments of one parameter, and the buffers ZeRO 2 and 3 work in. */
static bool
place_param(Eval *e, Rank *r, uint32_t param, bool train)
{
	const Module *m = e->m;
	const Param *p = &m->params[param];
	const Mesh *mesh = p->owner < m->ninsts ? ir_param_mesh(m, param) : NULL;
	InFlat f = in_flat(e, r, param);
	int zero = f.flat ? f.flat->zero : 0;
	uint32_t odd = p->owner % 2;
	Type *wide = arena_dup(e->arena, &p->type, sizeof *wide);
	*wide = ir_state_type(&p->type);

	for (int s = 0; s < SEC_COUNT; s++) {
		Place *at = &r->state[s][param];
		if (s != SEC_param && (!train || !has_grad(m, param))) continue;
		if (s > SEC_grad && p->borrows) continue;
		if (e->placed && r->mem->sec[s] < 0) continue;
		if (s == SEC_master && p->type.dt == wide->dt) continue;
		if (!place_new(e, at, s >= SEC_m ? wide : &p->type, mesh,
			       state_at(e, r, param, (Section)s, &f)))
			return false;
		if (s == SEC_param) r->weight[param] = *at;
		if (s == SEC_grad) r->grad[param] = *at;
		if (zero) set_range(e, &f, p->type.dt, at);
	}
	if (zero == 3 &&
	    !place_new(e, &r->weight[param], &p->type, mesh,
		       r->mem ? r->mem->gather + odd * r->mem->gather_bytes + f.at : -1))
		return false;
	return zero < 2 || !train ||
	       place_new(e, &r->grad[param], &p->type, mesh,
			 r->mem ? r->mem->dwork + odd * r->mem->dwork_bytes + f.at : -1);
}

static bool
place_state(Eval *e, Rank *r)
{
	const Module *m = e->m;
	bool train = m->level > LV_graph && !m->plan.forward_only;

	for (int s = 0; s < SEC_COUNT; s++)
		r->state[s] = NEW_N(e->arena, Place, m->nparams);
	r->weight = NEW_N(e->arena, Place, m->nparams);
	r->grad = NEW_N(e->arena, Place, m->nparams);
	r->grad_made = NEW_N(e->arena, bool, m->nparams);
	for (uint32_t i = 0; i < m->nparams; i++)
		if ((!e->staged || eval_has(e, r, m->params[i].owner)) &&
		    !place_param(e, r, i, train))
			return false;
	r->consts = NEW_N(e->arena, Place, m->nconsts);
	for (uint32_t i = 0; i < m->nconsts; i++) {
		const Mesh *mesh = m->const_body ? ir_mesh(m, &m->bodies[m->const_body]) : NULL;
		if (e->placed && r->mem->const_at[i] < 0) continue;
		if (!place_new(e, &r->consts[i], &m->consts[i], mesh,
			       e->placed ? r->mem->consts + r->mem->const_at[i] : -1))
			return false;
	}
	return true;
}

/* An input is kept as its first reader in the stage wants it: one microbatch of it. False: nobody reads it. */
static bool
input_type(const Eval *e, const Rank *r, uint32_t input, const Type **t, const Mesh **mesh)
{
	const Module *m = e->m;

	*t = &m->inputs[input].type, *mesh = NULL;
	for (uint32_t i = 0; i < m->ninsts; i++)
		for (uint16_t a = 0; a < m->types[m->insts[i].type].nargs; a++) {
			Ref ref = m->insts[i].args[a];
			const Body *f = forward_of(m, i);
			const Port *p = ir_find_port(f, PORT_arg, a);
			if (ref.kind != REF_input || ref.i != input || !p || !eval_has(e, r, i))
				continue;
			*t = val_type(f, p->v), *mesh = ir_mesh(m, f);
			return true;
		}
	return !e->staged;
}

/* Where a result lies in its slot: an argument handed on has no place of its own (out_at -1). */
static int64_t
result_at(const Module *m, const Memory *mem, uint32_t inst, uint16_t result)
{
	for (uint32_t hops = 0; hops <= m->ninsts; hops++) {
		const LayerType *l = &m->types[m->insts[inst].type];
		const Body *f = forward_of(m, inst);
		const Port *out = ir_find_port(f, PORT_out, result), *from = NULL;
		if (l->out_at[result] >= 0) return mem->slot_at[inst] + l->out_at[result];
		for (uint32_t i = 0; out && i < f->nports; i++)
			if (f->ports[i].kind == PORT_arg && f->ports[i].v.i == out->v.i)
				from = &f->ports[i];
		if (!from) return -1;
		Ref ref = m->insts[inst].args[from->slot];
		if (ref.kind != REF_result)
			return ref.kind == REF_input ? mem->input_at[ref.i] : -1;
		inst = ref.i, result = ref.result;
	}
	return -1;
}

/* Inputs, results and saved values of one slot. */
static bool
place_slot(Eval *e, Rank *r, uint32_t slot)
{
	const Module *m = e->m;
	int64_t begin = e->placed ? r->mem->slots + slot * r->mem->slot_bytes : 0;

	for (uint32_t i = 0; i < m->ninputs; i++) {
		const Type *t;
		const Mesh *mesh;
		if (!input_type(e, r, i, &t, &mesh)) continue;
		int64_t at = e->placed ? begin + r->mem->input_at[i] : -1;
		if (!place_new(e, &r->inputs[slot * m->ninputs + i], t, mesh, at)) return false;
	}
	for (uint32_t i = 0; i < m->ninsts; i++) {
		const LayerType *l = &m->types[m->insts[i].type];
		const Body *f = forward_of(m, i);
		if (!eval_has(e, r, i)) continue;
		for (uint16_t k = 0; k < l->nouts; k++) {
			const Port *out = ir_find_port(f, PORT_out, k);
			Place *p = &r->results[slot * e->nres + e->res0[i] + k];
			if (!out) continue;
			int64_t at = e->placed ? begin + result_at(m, r->mem, i, k) : -1;
			if (!place_new(e, p, val_type(f, out->v), ir_mesh(m, f), at))
				return false;
		}
		for (uint32_t k = 0; k < l->nsaved; k++) {
			int64_t at =
			    e->placed ? begin + r->mem->slot_at[i] + l->saved_at[k] : -1;
			if (!place_new(e, &r->saved[slot * e->nsave + e->save0[i] + k],
				       &l->saved[k], ir_mesh(m, f), at))
				return false;
		}
	}
	return true;
}

static bool
place_backward(Eval *e, Rank *r)
{
	const Module *m = e->m;

	for (uint32_t i = 0; i < m->ninsts; i++) {
		const LayerType *l = &m->types[m->insts[i].type];
		const Body *f = forward_of(m, i);
		if (!eval_has(e, r, i)) continue;
		for (uint16_t k = 0; k < l->nouts; k++) {
			const Port *out = ir_find_port(f, PORT_out, k);
			int64_t at = -1;
			if (!out || !dtype_float(val_type(f, out->v)->dt)) continue;
			if (e->placed) {
				const Cot *cot = &r->mem->cot[r->mem->cot_of[i] + k];
				at = r->mem->cots + cot->at + (i % 2 ? cot->alt : 0);
			}
			if (!place_new(e, &r->cots[e->res0[i] + k], val_type(f, out->v),
				       ir_mesh(m, f), at))
				return false;
		}
		for (uint32_t k = 0; k < l->ncarry; k++) {
			int64_t at = e->placed ? r->mem->carry + l->carry_at[k] : -1;
			if (!place_new(e, &r->carry[e->carry0[i] + k], &l->carry[k],
				       ir_mesh(m, f), at))
				return false;
		}
	}
	return true;
}

bool
eval_add_rank(Eval *e, Rank *r, uint32_t id, int64_t arena_bytes)
{
	r->id = id;
	r->body = arena_new(), r->op = arena_new();
	if (!e->placed) return true;
	r->nbytes = arena_bytes;
	r->bytes = (unsigned char *)eval_doubles(e, e->arena, arena_bytes / 8 * e->unit + 8);
	return r->bytes != NULL;
}

/* The program of a rank, and how many slots it needs. */
static void
set_program(Eval *e, Rank *r)
{
	const Module *m = e->m;
	const Stage *s = e->staged ? &m->plan.stages[r->stage] : NULL;

	r->slots = 1;
	if (m->level >= LV_sched && s) {
		r->acts = m->actions + s->action, r->end = s->nactions;
		if (s->slots) r->slots = s->slots;
	} else {
		r->acts = e->own[r->stage], r->end = e->nown[r->stage];
		if (e->staged && m->plan.nstages > 1) r->slots = e->nmb;
	}
	if (e->o.program) {
		r->steps = e->o.program[r->id].s;
		r->end = e->o.program[r->id].n;
	}
}

static bool
setup_rank(Eval *e, Rank *r, uint32_t id)
{
	const Module *m = e->m;
	const Stage *s = NULL;

	for (uint32_t k = 0; e->staged && k < m->plan.nstages; k++)
		if (id >= m->plan.stages[k].rank &&
		    id < m->plan.stages[k].rank + m->plan.stages[k].ranks)
			s = &m->plan.stages[k], r->stage = k;
	r->first = s ? s->rank : 0, r->ranks = s ? s->ranks : e->nranks;
	r->mem = e->placed ? &m->mem[r->stage] : NULL;
	if (!eval_add_rank(e, r, id, e->placed ? r->mem->arena_bytes : 0)) return false;
	r->scratch = e->placed ? r->mem->scratch : 0;
	set_program(e, r);
	r->inputs = NEW_N(e->arena, Place, r->slots * m->ninputs);
	r->results = NEW_N(e->arena, Place, r->slots * e->nres);
	r->saved = NEW_N(e->arena, Place, r->slots * e->nsave);
	r->cot_made = NEW_N(e->arena, bool, e->nmb * e->nres);
	r->came = NEW_N(e->arena, uint32_t, r->slots * m->ninsts);
	r->cots = NEW_N(e->arena, Place, e->nres);
	r->carry = NEW_N(e->arena, Place, e->ncarry);
	r->report = NEW_N(e->arena, double, m->nreports);
	if (!place_state(e, r)) return false;
	for (uint32_t k = 0; k < r->slots; k++)
		if (!place_slot(e, r, k)) return false;
	return m->level == LV_graph || m->plan.forward_only || place_backward(e, r);
}

/* Sizes that a body's run would take, and meshes that do not cover a stage. */
static bool
check_bodies(Eval *e)
{
	const Module *m = e->m;

	for (uint32_t i = 1; i < m->nbodies; i++) {
		const Body *b = &m->bodies[i];
		const Mesh *mesh = ir_mesh(m, b);
		int64_t total = 0, degree = 1;
		for (uint32_t v = 1; v < b->nvals && total <= MAX_DOUBLES; v++) {
			int64_t n = type_count(m, val_mesh(m, b, (Val){v}), &b->vals[v].type);
			total = n > MAX_DOUBLES ? n : total + n;
		}
		if (total > MAX_DOUBLES) {
			diag_error(e->diag, (Loc){0},
				   "body '%s' has values of more than %lld elements, too many "
				   "to interpret",
				   name_str(m->names, b->name), (long long)MAX_DOUBLES);
			return false;
		}
		for (int a = 1; mesh && a < mesh->n; a++)
			degree *= mesh->ax[a].degree;
		for (uint32_t k = 0; degree > 1 && k < m->ninsts; k++) {
			uint32_t stage = e->staged ? ir_stage_of(m, k) : 0,
				 ranks = e->staged && stage < m->plan.nstages
					     ? m->plan.stages[stage].ranks
					     : e->nranks;
			bool runs = false;
			for (int bk = 0; bk < BK_COUNT; bk++)
				runs |= m->types[m->insts[k].type].body[bk] == i;
			if (!runs || degree == (int64_t)ranks) continue;
			diag_error(
			    e->diag, (Loc){0},
			    "body '%s' runs on a mesh of %lld ranks, but its stage has %u",
			    name_str(m->names, b->name), (long long)degree, ranks);
			return false;
		}
	}
	return true;
}

/* In double, each float of the plan is given the room of a double. */
static int64_t
arena_unit(const Module *m, bool wide)
{
	int least = 8;

	for (uint32_t i = 1; wide && i < m->nbodies; i++)
		for (uint32_t v = 1; v < m->bodies[i].nvals; v++) {
			DType dt = m->bodies[i].vals[v].type.dt;
			if (dtype_float(dt) && dtype_bytes(dt) < least) least = dtype_bytes(dt);
		}
	return 8 / least;
}

bool
eval_setup(Eval *e)
{
	const Module *m = e->m;
	bool planned = m->level >= LV_spmd;

	e->unit = arena_unit(m, e->wide);
	if (e->nranks == 0) return true; /* one body: its caller brings the ranks */
	e->staged = planned && m->plan.nstages > 0;
	e->nmb = planned && m->plan.microbatches ? m->plan.microbatches : 1;
	if (!check_bodies(e)) return false;
	e->res0 = NEW_N(e->arena, uint32_t, m->ninsts);
	e->save0 = NEW_N(e->arena, uint32_t, m->ninsts);
	e->carry0 = NEW_N(e->arena, uint32_t, m->ninsts);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		const LayerType *l = &m->types[m->insts[i].type];
		e->res0[i] = e->nres, e->save0[i] = e->nsave, e->carry0[i] = e->ncarry;
		e->nres += l->nouts, e->nsave += l->nsaved, e->ncarry += l->ncarry;
	}
	if (e->staged) e->comms = ir_comms(m, e->arena);
	e->flats = NEW_N(e->arena, Flat, m->ninsts);
	for (uint32_t i = 0; e->staged && i < m->ninsts; i++)
		e->flats[i] = ir_flat(m, e->arena, i);
	if (m->level < LV_sched || !e->staged) eval_own(e);
	e->ranks = NEW_N(e->arena, Rank, e->nranks);
	for (uint32_t i = 0; i < e->nranks; i++)
		if (!setup_rank(e, &e->ranks[i], i)) return false;
	return true;
}

/* ---- a step ---- */

static void
zero_place(const Eval *e, Rank *r, const Place *p)
{
	int64_t n, width;

	if (!p->type) return;
	n = type_count(e->m, p->mesh, p->type), width = dtype_bytes(p->type->dt);
	if (p->x) {
		memset(p->x, 0, (size_t)n * sizeof *p->x);
		return;
	}
	int64_t from = p->at, to = p->at + (p->ranged ? p->hi - p->lo : n) * width;
	if (from >= 0 && to > from && to <= r->nbytes)
		memset(r->bytes + from * e->unit, 0, (size_t)((to - from) * e->unit));
}

void
eval_reset(Eval *e)
{
	const Module *m = e->m;

	for (uint32_t i = 0; i < e->nranks; i++) {
		Rank *r = &e->ranks[i];
		r->sumsq = 0;
		r->f = (Frame){0};
		memset(r->report, 0, m->nreports * sizeof *r->report);
		memset(r->grad_made, 0, m->nparams * sizeof *r->grad_made);
		memset(r->cot_made, 0, e->nmb * e->nres * sizeof *r->cot_made);
		memset(r->came, 0, r->slots * m->ninsts * sizeof *r->came);
		for (uint32_t k = 0; k < m->nparams; k++) {
			zero_place(e, r, &r->grad[k]);
			zero_place(e, r, &r->state[SEC_grad][k]);
		}
	}
	if (e->logits.x) memset(e->logits.x, 0, (size_t)e->logits.n * sizeof *e->logits.x);
}
