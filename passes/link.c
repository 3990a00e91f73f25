/*
 * link.c - lowered types into the module, and what lies between them.
 *
 *   types     every instance calls the bodies of its strategy
 *   reshards  where a result is used under another mesh, in another layout or in another stage, an instance of a layer type
 *             that only moves it stands in front of the first such user, and serves all users there
 *   inputs    one entry for each layout an input is read in
 *   params    the layout of the instance that owns a parameter; users elsewhere borrow: a parameter of their own, whose
 *             values follow the owner's and whose gradient goes there
 *
 * Input: LV_plan. Output: LV_spmd. Instances, runs and stages are numbered anew, since reshards are instances.
 */
#include <inttypes.h>
#include <string.h>

#include "passes/passes.h"

/* A result as users of one stage and layout see it. */
typedef struct Copy {
	uint32_t from; /* instance, old number */
	uint16_t result;
	uint32_t stage, mesh;
	Type type;
	uint32_t inst; /* the reshard, new number */
} Copy;

/* A reshard's layer type: one for each pair of layouts. */
typedef struct Pair {
	uint32_t from_mesh, to_mesh;
	Type from, to;
	bool grad;
	uint32_t type;
} Pair;

typedef struct Link {
	Ctx *c;
	Module *m;
	LowerMemo *memo;
	const Instance *old;
	uint32_t nold;
	uint32_t *of;                /* [nold] which lowered object an instance calls */
	uint32_t *stage, *run;       /* [nold] */
	uint32_t *at;                /* [nold] new number */
	uint32_t *in_run, *in_stage; /* instances of each, new */
	Copy *copy;
	uint32_t ncopy, ccopy;
	Pair *pair;
	uint32_t npair, cpair;
	uint32_t *lent; /* [borrowed params] stage, in step with params from `first_lent` on */
	uint32_t nlent, clent, first_lent;
	uint32_t ninputs; /* those the model has */
	bool *read;       /* [ninputs] the entry has its layout */
} Link;

static const Lowered *
lowered(const Link *k, uint32_t i)
{
	return k->memo->l[k->of[i]];
}

static uint32_t
mesh_of(const Link *k, uint32_t i)
{
	return k->m->plan.runs[k->run[i]].mesh;
}

/* ---- layouts ---- */

static bool
same_mesh(const Module *m, uint32_t a, uint32_t b)
{
	return ir_mesh_alike(&m->plan.meshes[a], &m->plan.meshes[b]);
}

static bool
same_layout(const Module *m, uint32_t mesh_a, const Type *a, uint32_t mesh_b, const Type *b)
{
	return same_mesh(m, mesh_a, mesh_b) && type_equal(a, b);
}

/* How F of an instance takes an argument; NULL: it does not. */
static const Type *
arg_type(const Link *k, uint32_t i, uint16_t a)
{
	const Lowered *l = lowered(k, i);
	for (int bk = BK_F; bk <= BK_W; bk++) {
		const Port *p = l->has[bk] ? ir_find_port(&l->body[bk], PORT_arg, a) : NULL;
		if (p) return val_type(&l->body[bk], p->v);
	}
	return NULL;
}

static const Type *
out_type(const Link *k, uint32_t i, uint16_t r)
{
	const Body *f = &lowered(k, i)->body[BK_F];
	const Port *p = ir_find_port(f, PORT_out, r);
	return p ? val_type(f, p->v) : NULL;
}

static bool
wants_gradient(const Link *k, uint32_t i, uint16_t a)
{
	const Lowered *l = lowered(k, i);
	return l->has[BK_B] && ir_find_port(&l->body[BK_B], PORT_dx, a);
}

/* ---- types ---- */

/* Puts a lowered type in the place of its source, or beside it if that is taken by another strategy. */
static uint32_t
link_type(Module *m, const Lowered *l, bool first)
{
	LayerType t = l->layer;
	const LowerKey *key = &l->key;
	if (!first) {
		t.name = name_fmt(m->names, "%s.%s", name_str(m->names, t.name),
				  recompute_str[key->strategy.recompute]);
		if (key->pending)
			t.name = name_fmt(m->names, "%s.p%llx", name_str(m->names, t.name),
					  (unsigned long long)key->pending);
		if (key->strategy.mesh)
			t.name = name_fmt(m->names, "%s.m%u", name_str(m->names, t.name),
					  key->strategy.mesh);
		if (key->strategy.zero)
			t.name = name_fmt(m->names, "%s.z%u", name_str(m->names, t.name),
					  key->strategy.zero);
		if (key->strategy.megatron_sp)
			t.name = name_fmt(m->names, "%s.sp", name_str(m->names, t.name));
		if (key->shared)
			t.name = name_fmt(m->names, "%s.s%llx", name_str(m->names, t.name),
					  (unsigned long long)key->shared);
		for (uint32_t k = 0; k < m->ntypes;
		     k++) /* the same strategy on another mesh of one name */
			if (m->types[k].name == t.name) {
				t.name = name_fmt(m->names, "%s.%u", name_str(m->names, t.name),
						  m->ntypes);
				break;
			}
	}
	for (int k = 0; k < BK_COUNT; k++) {
		if (!l->has[k]) continue;
		Body b = l->body[k];
		b.name = t.name;
		if (first)
			m->bodies[t.body[k]] = b;
		else
			t.body[k] = ir_add_body(m, b);
	}
	if (first) {
		m->types[key->type] = t;
		return key->type;
	}
	PUSH(m->arena, m->types, m->ntypes, m->ctypes, t);
	return m->ntypes - 1;
}

/* Which arguments of an instance are sums over the batch. */
static bool
pending_args(Link *k, uint32_t i, uint64_t *pending)
{
	const Instance *n = &k->old[i];
	*pending = 0;
	for (uint16_t a = 0; a < k->m->types[n->type].nargs; a++) {
		if (n->args[a].kind != REF_result) continue;
		const Type *t = out_type(k, n->args[a].i, n->args[a].result);
		if (!t || !t->partial) continue;
		*pending |= UINT64_C(1) << (a & 63);
		if (a < 64) continue;
		if (k->c->diag)
			diag_error(
			    k->c->diag, n->loc,
			    "'%s' is given a sum over the batch behind 64 arguments: the "
			    "batch cannot be split",
			    name_str(k->m->names, n->name));
		return false;
	}
	return true;
}

/* Weights that another instance, or another slot, uses as well. */
static uint64_t
shared_weights(const Module *m, const uint32_t *uses, const Instance *n)
{
	uint64_t bits = 0;
	for (uint32_t w = 0; w < m->types[n->type].nweights && w < 64; w++)
		if (uses[n->params[w]] > 1) bits |= UINT64_C(1) << w;
	return bits;
}

/* A plan by hand may ask tp for what it cannot do: then all ranks of a group compute the same. */
static void
warn_idle_tp(const Link *k)
{
	const Module *m = k->m;
	for (uint32_t r = 0; r < m->plan.nruns; r++) {
		const Strategy *s = &m->plan.runs[r];
		const Mesh *mesh = &m->plan.meshes[s->mesh];
		uint32_t tp = 1;
		bool splits = !s->loc.line;
		for (int x = 1; x < mesh->n; x++)
			if (mesh->ax[x].kind == MX_tp) tp *= mesh->ax[x].degree;
		for (uint32_t i = 0; i < k->nold; i++) {
			const TpChoice *c = &lowered(k, i)->tp;
			if (k->run[i] != r) continue;
			splits |= c->sp || c->able;
		}
		if (tp > 1 && !splits)
			diag_warn(
			    k->c->diag, s->loc,
			    "tp = %" PRIu32
			    " can split nothing in these layers: no axis inside them is that "
			    "long, or divides where it must; all ranks of mesh '%s' that "
			    "differ in tp compute the same",
			    tp, name_str(m->names, mesh->name));
	}
}

static bool
lower_all(Link *k)
{
	Module *m = k->m;
	uint32_t ntypes = m->ntypes, nbodies = m->nbodies;
	uint32_t *uses = NEW_N(k->c->tmp, uint32_t, m->nparams);
	for (uint32_t i = 0; i < m->ninsts; i++)
		for (uint32_t w = 0; w < m->types[m->insts[i].type].nweights; w++)
			uses[m->insts[i].params[w]]++;
	for (uint32_t i = 0; i < k->nold; i++) {
		LowerKey key = {.type = m->insts[i].type, .strategy = m->plan.runs[k->run[i]]};
		key.strategy.first = key.strategy.count = 0;
		key.shared = shared_weights(m, uses, &m->insts[i]);
		if (!pending_args(k, i, &key.pending)) return false;
		const Lowered *l = lower_type(k->c, m, k->memo, &key);
		if (!l) return false;
		while (k->memo->l[k->of[i]] != l)
			k->of[i]++;
	}
	ENSURE(m->ntypes == ntypes && m->nbodies == nbodies, "lowering added bodies");
	warn_idle_tp(k);
	uint32_t *linked = NEW_N(k->c->tmp, uint32_t, k->memo->n + 1); /* 1 + type it became */
	bool *taken = NEW_N(k->c->tmp, bool, ntypes + 1);
	for (uint32_t i = 0; i < k->nold; i++) {
		const Lowered *l = lowered(k, i);
		if (!linked[k->of[i]])
			linked[k->of[i]] = 1 + link_type(m, l, !taken[l->key.type]);
		taken[l->key.type] = true;
		m->insts[i].type = linked[k->of[i]] - 1;
	}
	return true;
}

/* ---- reshards ---- */

static uint32_t
reshard_body(Link *k, const Pair *p, Name name, BodyKind bk)
{
	Module *m = k->m;
	Body b = ir_body(name, bk);
	bool f = bk == BK_F;
	const Type *in = f ? &p->from : &p->to, *out = f ? &p->to : &p->from;
	b.mesh = p->to_mesh;
	b.from = 1 + p->from_mesh;
	Val x =
	    ir_port(m, &b, f ? PORT_arg : PORT_cot, 0, name_of(m->names, f ? "x" : "dy"), *in);
	Val y = body_op(m, &b, OP_reshard, &x, 1, NULL, 0, out, (Loc){0});
	ir_out(m, &b, f ? PORT_out : PORT_dx, 0, y);
	return ir_add_body(m, b);
}

static uint32_t
reshard_type(Link *k, const Pair *want)
{
	Module *m = k->m;
	for (uint32_t i = 0; i < k->npair; i++) {
		const Pair *p = &k->pair[i];
		if (p->from_mesh == want->from_mesh && p->to_mesh == want->to_mesh &&
		    p->grad == want->grad && type_equal(&p->from, &want->from) &&
		    type_equal(&p->to, &want->to))
			return p->type;
	}
	Pair p = *want;
	LayerType t = {.reshard = true, .nargs = 1, .nouts = 1};
	t.name = name_of(m->names, "reshard");
	for (uint32_t i = 0, n = 2; i < m->ntypes; i++)
		if (m->types[i].name == t.name) {
			t.name = name_fmt(m->names, "reshard.%u", n++);
			i = UINT32_MAX; /* look again from the start */
		}
	t.body[BK_F] = reshard_body(k, &p, t.name, BK_F);
	if (p.grad) t.body[BK_B] = reshard_body(k, &p, t.name, BK_B);
	p.type = m->ntypes;
	PUSH(m->arena, m->types, m->ntypes, m->ctypes, t);
	PUSH(k->c->tmp, k->pair, k->npair, k->cpair, p);
	return p.type;
}

static uint32_t
add_inst(Link *k, Instance n, uint32_t stage, uint32_t run)
{
	Module *m = k->m;
	PUSH(m->arena, m->insts, m->ninsts, m->cinsts, n);
	k->in_stage[stage]++;
	k->in_run[run]++;
	return m->ninsts - 1;
}

static bool
has_dp(const Mesh *mesh)
{
	for (int i = 1; i < mesh->n; i++)
		if (mesh->ax[i].kind == MX_dp && mesh->ax[i].degree > 1) return true;
	return false;
}

static bool
has_batch(const Type *t)
{
	for (int i = 0; i < t->n; i++)
		for (int j = 0; j < t->ax[i].nshard; j++)
			if (t->ax[i].shard[j] == 0) return true;
	return false;
}

/* What a reshard cannot move is said where the value is used. */
static bool
movable(Link *k, uint32_t user, Ref r, const Type *from, bool grad)
{
	const Module *m = k->m;
	const Mesh *a = &m->plan.meshes[mesh_of(k, r.i)],
		   *b = &m->plan.meshes[mesh_of(k, user)];
	const char *what = NULL;
	const Type *to = NULL;
	for (uint16_t i = 0; i < lowered(k, user)->layer.nargs; i++) {
		Ref arg = k->old[user].args[i];
		if (arg.kind == REF_result && arg.i == r.i && arg.result == r.result)
			to = arg_type(k, user, i);
	}
	/* rank for rank, pending sums stay what they are */
	if (to && same_layout(m, mesh_of(k, r.i), from, mesh_of(k, user), to)) return true;
	bool split = type_find(from, m->batch) >= 0 || has_batch(from);
	if (from->partial)
		what = "a sum over the batch";
	else if (grad && !split && (has_dp(a) || has_dp(b)))
		what =
		    "a value without the axis of the batch, whose gradient is a sum over it,";
	if (!what) return true;
	if (k->c->diag)
		diag_error(
		    k->c->diag, k->old[user].loc,
		    "%s goes from '%s' (layer %u) to '%s' (layer %u) across meshes or stages: "
		    "give both layers one mesh and one stage, or no dp",
		    what, name_str(m->names, k->old[r.i].name), r.i,
		    name_str(m->names, k->old[user].name), user);
	return false;
}

/* Does any user of that stage and layout want the gradient? */
static bool
any_gradient(const Link *k, const Copy *c)
{
	for (uint32_t i = c->from + 1; i < k->nold; i++)
		for (uint16_t a = 0; k->stage[i] == c->stage && a < lowered(k, i)->layer.nargs;
		     a++) {
			Ref r = k->old[i].args[a];
			const Type *t = arg_type(k, i, a);
			if (r.kind == REF_result && r.i == c->from && r.result == c->result &&
			    t && same_layout(k->m, mesh_of(k, i), t, c->mesh, &c->type) &&
			    wants_gradient(k, i, a))
				return true;
		}
	return false;
}

/* The new number of whoever gives argument a of old instance i; adds a reshard if need be. */
static bool
connect(Link *k, uint32_t i, uint16_t a, Ref *ref)
{
	Module *m = k->m;
	Ref r = k->old[i].args[a];
	const Type *to = arg_type(k, i, a), *from;
	Copy c = {r.i, r.result, k->stage[i], mesh_of(k, i), {0}, 0};
	*ref = r;
	ref->i = k->at[r.i];
	if (!to) return true;
	c.type = *to;
	from = out_type(k, r.i, r.result);
	if (k->stage[r.i] == c.stage && same_layout(m, mesh_of(k, r.i), from, c.mesh, to))
		return true;
	for (uint32_t j = 0; j < k->ncopy; j++) {
		const Copy *x = &k->copy[j];
		if (x->from != c.from || x->result != c.result || x->stage != c.stage ||
		    !same_layout(m, x->mesh, &x->type, c.mesh, to))
			continue;
		*ref = (Ref){REF_result, x->inst, 0};
		return true;
	}
	Pair p = {mesh_of(k, r.i), c.mesh, *from, *to, any_gradient(k, &c), 0};
	if (!movable(k, i, r, from, p.grad)) return false;
	Instance n = {.type = reshard_type(k, &p), .loc = k->old[i].loc};
	n.name = name_fmt(m->names, "%s.%u.s%u.m%u", name_str(m->names, k->old[r.i].name),
			  r.result, c.stage, c.mesh);
	n.path = name_of(m->names, "");
	n.args = NEW(m->arena, Ref);
	n.args[0] = *ref;
	n.params = NEW_N(m->arena, uint32_t, 0);
	n.rates = NEW_N(m->arena, double, 0);
	c.inst = add_inst(k, n, c.stage, k->run[i]);
	PUSH(k->c->tmp, k->copy, k->ncopy, k->ccopy, c);
	*ref = (Ref){REF_result, c.inst, 0};
	return true;
}

/* ---- inputs ---- */

/* The entry of an input in the layout that instance i takes it in. */
static uint32_t
input_layout(Link *k, uint32_t i, uint16_t a, uint32_t input)
{
	Module *m = k->m;
	const Type *t = arg_type(k, i, a);
	uint32_t mesh = mesh_of(k, i);
	if (!t) return input;
	if (!k->read[input]) {
		k->read[input] = true;
		m->inputs[input].type = *t;
		m->inputs[input].mesh = mesh;
		return input;
	}
	for (uint32_t j = 0; j < m->ninputs; j++)
		if ((j == input || m->inputs[j].of == 1 + input) &&
		    same_layout(m, m->inputs[j].mesh, &m->inputs[j].type, mesh, t))
			return j;
	Input x = m->inputs[input];
	x.name = name_fmt(m->names, "%s.%u", name_str(m->names, x.name), m->ninputs);
	x.type = *t;
	x.mesh = mesh;
	x.of = 1 + input;
	PUSH(m->arena, m->inputs, m->ninputs, m->cinputs, x);
	return m->ninputs - 1;
}

static bool
connect_all(Link *k)
{
	Module *m = k->m;
	m->insts = NULL;
	m->ninsts = m->cinsts = 0;
	k->read = NEW_N(k->c->tmp, bool, m->ninputs);
	for (uint32_t i = 0; i < k->nold; i++) {
		Instance n = k->old[i];
		uint16_t nargs = m->types[n.type].nargs;
		n.args = NEW_N(m->arena, Ref, nargs);
		for (uint16_t a = 0; a < nargs; a++) {
			n.args[a] = k->old[i].args[a];
			if (n.args[a].kind == REF_input)
				n.args[a].i = input_layout(k, i, a, n.args[a].i);
			if (n.args[a].kind == REF_result && !connect(k, i, a, &n.args[a]))
				return false;
		}
		k->at[i] = add_inst(k, n, k->stage[i], k->run[i]);
	}
	for (uint32_t r = 0; r < m->nreports; r++)
		if (m->reports[r].ref.kind == REF_result)
			m->reports[r].ref.i = k->at[m->reports[r].ref.i];
	return true;
}

static void
renumber_plan(Link *k)
{
	Plan *p = &k->m->plan;
	for (uint32_t r = 0, first = 0; r < p->nruns; first += p->runs[r++].count)
		p->runs[r].first = first, p->runs[r].count = k->in_run[r];
	for (uint32_t s = 0, first = 0; s < p->nstages; first += p->stages[s++].count)
		p->stages[s].first = first, p->stages[s].count = k->in_stage[s];
}

/* ---- parameters ---- */

/* Mesh axes a gradient is left pending over, but for mb. */
static uint16_t
pending_gradient(const Lowered *l, uint32_t slot)
{
	const Port *p =
	    l->has[BK_W] ? ir_find_port(&l->body[BK_W], PORT_dw, (uint16_t)slot) : NULL;
	return p ? (uint16_t)(val_type(&l->body[BK_W], p->v)->partial & ~1u) : 0;
}

static bool
is_updated(const Lowered *l, uint32_t slot)
{
	return l->has[BK_U] && ir_find_port(&l->body[BK_U], PORT_w_out, (uint16_t)slot);
}

/* The copy of parameter p that instance i (old) uses; makes it. */
static uint32_t
borrow(Link *k, uint32_t p, uint32_t i, const Type *t)
{
	Module *m = k->m;
	for (uint32_t j = 0; j < k->nlent; j++) {
		const Param *q = &m->params[k->first_lent + j];
		uint32_t first = q->owner; /* still an old number */
		if (q->borrows == 1 + p && k->lent[j] == k->stage[i] &&
		    same_layout(m, mesh_of(k, first), &q->type, mesh_of(k, i), t))
			return k->first_lent + j;
	}
	Param q = m->params[p];
	q.borrows = 1 + p;
	q.owner = i;
	q.type = *t;
	q.pending = 0;
	q.name = name_fmt(m->names, "%s~%u", name_str(m->names, q.name), k->nlent + 1);
	PUSH(k->c->tmp, k->lent, k->nlent, k->clent, k->stage[i]);
	PUSH(m->arena, m->params, m->nparams, m->cparams, q);
	return m->nparams - 1;
}

/* Has the owner, old number, room for the gradients of one instance at a time (ZeRO 2, 3)? Then others work on a copy. */
static bool
is_split(const Link *k, uint32_t p, uint32_t owner)
{
	const Strategy *s = &k->m->plan.runs[k->run[owner]];
	return k->m->params[p].trained && s->zero >= 2 &&
	       ir_dp_degree(&k->m->plan.meshes[s->mesh]) > 1;
}

static void
link_params(Link *k)
{
	Module *m = k->m;
	k->first_lent = m->nparams;
	for (uint32_t i = 0; i < k->nold; i++) {
		const Lowered *l = lowered(k, i);
		for (uint32_t w = 0; w < l->layer.nweights; w++) {
			Param *p = &m->params[k->old[i].params[w]];
			if (p->owner != i) continue;
			p->type = l->layer.weights[w].type;
			p->trained |= is_updated(l, w);
		}
	}
	for (uint32_t i = 0; i < k->nold; i++) {
		const Lowered *l = lowered(k, i);
		Instance *n = &m->insts[k->at[i]];
		n->params = NEW_N(m->arena, uint32_t, l->layer.nweights);
		for (uint32_t w = 0; w < l->layer.nweights; w++) {
			uint32_t p = k->old[i].params[w], owner = m->params[p].owner;
			const Type *t = &l->layer.weights[w].type;
			bool own = owner == i ||
				   (k->stage[owner] == k->stage[i] && !is_split(k, p, owner) &&
				    same_layout(m, mesh_of(k, owner), &m->params[p].type,
						mesh_of(k, i), t));
			n->params[w] = own ? p : borrow(k, p, i, t);
			m->params[n->params[w]].pending |= pending_gradient(l, w);
		}
	}
	for (uint32_t p = 0; p < m->nparams; p++)
		if (m->params[p].owner < k->nold)
			m->params[p].owner = k->at[m->params[p].owner];
}

/* ---- all of it ---- */

static void
find_places(Link *k)
{
	const Plan *p = &k->m->plan;
	k->stage = NEW_N(k->c->tmp, uint32_t, k->nold);
	k->run = NEW_N(k->c->tmp, uint32_t, k->nold);
	for (uint32_t s = 0; s < p->nstages; s++)
		for (uint32_t i = 0; i < p->stages[s].count; i++)
			k->stage[p->stages[s].first + i] = s;
	for (uint32_t r = 0; r < p->nruns; r++)
		for (uint32_t i = 0; i < p->runs[r].count; i++)
			k->run[p->runs[r].first + i] = r;
}

bool
lower_link(Ctx *c, Module *m, LowerMemo *memo)
{
	Link k = {.c = c, .m = m, .memo = memo, .nold = m->ninsts, .old = m->insts};
	k.of = NEW_N(c->tmp, uint32_t, m->ninsts);
	k.at = NEW_N(c->tmp, uint32_t, m->ninsts);
	k.in_run = NEW_N(c->tmp, uint32_t, m->plan.nruns);
	k.in_stage = NEW_N(c->tmp, uint32_t, m->plan.nstages);
	k.ninputs = m->ninputs;
	m->level = LV_spmd;
	find_places(&k);
	if (!lower_all(&k) || !connect_all(&k)) return false;
	link_params(&k);
	renumber_plan(&k);
	if (m->const_body) fuse_body(c, m, &m->bodies[m->const_body]);
	return true;
}

/* requires: LV_plan. */
bool
pass_spmd(Ctx *c, Module *m)
{
	LowerMemo memo = {0};
	return lower_link(c, m, &memo);
}
