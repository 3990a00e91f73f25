/*
 * verify_inst.c - what instances pass each other: arguments, parameters, reports; and from level spmd on, whether all of it
 * lies in the mesh, the stage and the layout in which it is taken, or a reshard or a copy stands between.
 *
 * Input: a module whose tables, bodies and layer types were found right.
 */
#include "ir/text.h"

#include <inttypes.h>

static const char *
str(const Verify *v, Name name)
{
	return name_str(v->m->names, name);
}

static bool
verify_ref(const Verify *v, Ref ref, uint32_t before, Loc at, const char *what)
{
	const Module *m = v->m;

	if (ref.kind == REF_input && ref.i < m->ninputs) return true;
	if (ref.kind == REF_result && ref.i < before &&
	    ref.result < m->types[m->insts[ref.i].type].nouts)
		return true;
	if (ref.kind == REF_result)
		verify_bad(v, at,
			   "%s refers to %" PRIu32 ".%u, which is not a result before it", what,
			   ref.i, ref.result);
	else
		verify_bad(v, at, "%s refers to nothing (kind %d, %" PRIu32 ")", what,
			   (int)ref.kind, ref.i);
	return false;
}

static bool
same_mesh(const Module *m, uint32_t a, uint32_t b)
{
	return ir_mesh_alike(&m->plan.meshes[a], &m->plan.meshes[b]);
}

/* What an argument is given, and what the body takes. */
static void
verify_arg(const Verify *v, uint32_t index, int a)
{
	const Module *m = v->m;
	const Instance *n = &m->insts[index];
	const Body *f = &m->bodies[m->types[n->type].body[BK_F]];
	const Port *port = ir_find_port(f, PORT_arg, (uint16_t)a), *out;
	const Mesh *mesh = NULL;
	const Type *have, *want;
	bool exact = false;

	if (n->args[a].kind == REF_none && !port) return;
	if (!verify_ref(v, n->args[a], index, n->loc, str(v, n->name)) || !port) return;
	want = &f->vals[port->v.i].type;
	if (n->args[a].kind == REF_input) {
		const Input *in = &m->inputs[n->args[a].i];

		have = &in->type;
		exact = ir_split(have) != 0 || (m->level >= LV_spmd && m->plan.ranks > 1);
		if (m->level >= LV_spmd && ir_split(have) & ~1u &&
		    !same_mesh(m, in->mesh, f->mesh))
			verify_bad(v, n->loc,
				   "%s: argument %d is laid out in mesh '%s', not '%s'",
				   str(v, n->name), a, str(v, m->plan.meshes[in->mesh].name),
				   str(v, m->plan.meshes[f->mesh].name));
	} else {
		const Body *g = &m->bodies[m->types[m->insts[n->args[a].i].type].body[BK_F]];

		out = ir_find_port(g, PORT_out, n->args[a].result);
		if (!out) return; /* reported with its type */
		have = &g->vals[out->v.i].type;
		mesh = ir_mesh(m, g);
		exact = m->level >= LV_spmd;
		if (exact && !same_mesh(m, g->mesh, f->from ? f->from - 1 : f->mesh))
			verify_bad(v, n->loc,
				   "%s: argument %d is made in mesh '%s', taken in '%s'",
				   str(v, n->name), a, str(v, m->plan.meshes[g->mesh].name),
				   name_str(m->names, val_mesh(m, f, port->v)->name));
		if (exact && !f->from && ir_stage_of(m, n->args[a].i) != ir_stage_of(m, index))
			verify_bad(v, n->loc, "%s: argument %d is made in another stage",
				   str(v, n->name), a);
	}
	if (exact ? type_equal(have, want) : verify_same_layout(have, want)) return;
	verify_bad(v, n->loc, "%s: argument %d is %s, but '%s' takes %s", str(v, n->name), a,
		   verify_type_str(v, mesh, have), str(v, m->types[n->type].name),
		   verify_type_str(v, val_mesh(m, f, port->v), want));
}

/* From level spmd on a parameter lies as all who use it take it, in one stage and mesh; the sum its gradient is left
 * pending over is the same from all. */
static void
verify_use_of_param(const Verify *v, uint32_t index, uint32_t w)
{
	const Module *m = v->m;
	const Instance *n = &m->insts[index];
	const LayerType *l = &m->types[n->type];
	const Param *p = &m->params[n->params[w]];
	const Mesh *mesh = ir_inst_mesh(m, index);
	const Port *dw = l->body[BK_W]
			     ? ir_find_port(&m->bodies[l->body[BK_W]], PORT_dw, (uint16_t)w)
			     : NULL;

	if (!type_equal(&p->type, &l->weights[w].type) ||
	    !ir_mesh_alike(ir_param_mesh(m, n->params[w]), mesh) ||
	    ir_stage_of(m, p->owner) != ir_stage_of(m, index))
		verify_bad(v, n->loc,
			   "%s: parameter '%s' is %s in mesh '%s', but it is used as %s in "
			   "mesh '%s' and not copied",
			   str(v, n->name), str(v, p->name),
			   verify_type_str(v, ir_param_mesh(m, n->params[w]), &p->type),
			   str(v, ir_param_mesh(m, n->params[w])->name),
			   verify_type_str(v, mesh, &l->weights[w].type), str(v, mesh->name));
	else if (dw && p->trained && m->plan.ranks > 1) {
		unsigned have = m->bodies[l->body[BK_W]].vals[dw->v.i].type.partial & ~1u;

		if (ir_dp_mask(mesh) & ~p->pending)
			verify_bad(
			    v, p->loc,
			    "the gradient of '%s' is summed over dp, but it is not pending "
			    "over it",
			    str(v, p->name));
		if (have == p->pending) return;
		verify_bad(v, n->loc,
			   "%s: the gradient of '%s' is pending over mesh axes 0x%x, not 0x%x",
			   str(v, n->name), str(v, p->name), have, p->pending);
	}
}

static void
verify_instance(const Verify *v, uint32_t index, bool *owned)
{
	const Module *m = v->m;
	const Instance *n = &m->insts[index];
	const LayerType *l = &m->types[n->type];

	for (int a = 0; a < l->nargs; a++)
		verify_arg(v, index, a);
	for (uint32_t w = 0; w < l->nweights; w++) {
		uint32_t p = n->params[w];

		if (p >= m->nparams) {
			verify_bad(v, n->loc, "%s: parameter %" PRIu32 " of %" PRIu32,
				   str(v, n->name), p, m->nparams);
			continue;
		}
		if (!verify_same_layout(&m->params[p].type, &l->weights[w].type))
			verify_bad(v, n->loc, "%s: parameter '%s' is %s, but weight '%s' is %s",
				   str(v, n->name), str(v, m->params[p].name),
				   verify_type_str(v, NULL, &m->params[p].type),
				   str(v, l->weights[w].name),
				   verify_type_str(v, NULL, &l->weights[w].type));
		else if (m->level >= LV_spmd && m->params[p].owner < m->ninsts)
			verify_use_of_param(v, index, w);
		if (!owned[p] && m->params[p].owner != index)
			verify_bad(v, m->params[p].loc,
				   "parameter '%s' belongs to instance %" PRIu32
				   ", but instance %" PRIu32 " is the first that uses it",
				   str(v, m->params[p].name), m->params[p].owner, index);
		owned[p] = true;
	}
	for (int r = 0; r < l->nrates; r++)
		if (!(n->rates[r] >= 0 && n->rates[r] < 1))
			verify_bad(v, n->loc, "%s: rate %d is %g; rates are in [0, 1)",
				   str(v, n->name), r, n->rates[r]);
}

/* N and U see of what ZeRO splits this rank's range of the flat. */
static void
verify_state_ports(const Verify *v, uint32_t inst, const Strategy *s)
{
	const Module *m = v->m;
	const LayerType *l = &m->types[m->insts[inst].type];
	unsigned dp = ir_dp_mask(&m->plan.meshes[s->mesh]);

	for (int k = BK_N; k <= BK_U; k++) {
		const Body *b = &m->bodies[l->body[k]];

		for (uint32_t p = 0; l->body[k] && p < b->nports; p++) {
			PortKind kind = b->ports[p].kind;
			unsigned want =
			    kind == PORT_scalar || kind == PORT_norm || !s->zero ? 0 : dp;

			if (b->vals[b->ports[p].v.i].type.flat == want) continue;
			verify_bad(v, m->insts[inst].loc,
				   "%s: '%s %u' of its body %s is split over mesh axes 0x%x; "
				   "zero %u says 0x%x",
				   str(v, m->insts[inst].name), port_str[kind],
				   b->ports[p].slot, body_str[k],
				   b->vals[b->ports[p].v.i].type.flat, s->zero, want);
			return;
		}
	}
}

/* From level spmd on, bodies are lowered for the mesh of the run their instances are in. */
static void
verify_meshes(const Verify *v)
{
	const Module *m = v->m;

	for (uint32_t i = 0; i < m->plan.nruns; i++) {
		const Strategy *s = &m->plan.runs[i];

		for (uint32_t n = s->first; n < s->first + s->count && n < m->ninsts; n++) {
			const LayerType *l = &m->types[m->insts[n].type];

			for (int k = 0; k < BK_COUNT; k++) {
				const Body *b = &m->bodies[l->body[k]];

				if (!l->body[k] || b->mesh == s->mesh) continue;
				verify_bad(v, m->insts[n].loc,
					   "%s: its plan says mesh '%s', its body %s '%s'",
					   str(v, m->insts[n].name),
					   str(v, m->plan.meshes[s->mesh].name), body_str[k],
					   str(v, m->plan.meshes[b->mesh].name));
			}
			verify_state_ports(v, n, s);
		}
	}
}

void
verify_instances(const Verify *v)
{
	const Module *m = v->m;
	bool *owned = NEW_N(v->tmp, bool, m->nparams + 1);
	int errors = diag_errors(v->d);

	for (uint32_t n = 0; n < m->ninsts; n++)
		if (m->insts[n].type >= m->ntypes) {
			verify_bad(v, m->insts[n].loc, "%s: layer type %" PRIu32 " of %" PRIu32,
				   str(v, m->insts[n].name), m->insts[n].type, m->ntypes);
			return;
		}
	for (uint32_t n = 0; n < m->ninsts && !diag_stop(v->d); n++)
		verify_instance(v, n, owned);
	for (uint32_t p = 0; p < m->nparams; p++)
		if (!owned[p])
			verify_bad(v, m->params[p].loc, "parameter '%s' is used by no instance",
				   str(v, m->params[p].name));
	for (uint32_t r = 0; r < m->nreports; r++)
		verify_ref(v, m->reports[r].ref, m->ninsts, (Loc){0},
			   str(v, m->reports[r].name));
	if (m->ninsts && !m->nreports) verify_bad(v, (Loc){0}, "the module reports no loss");
	if (diag_errors(v->d) == errors && m->level >= LV_spmd) verify_meshes(v);
}
