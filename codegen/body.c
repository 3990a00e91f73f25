/*
 * body.c - one body -> one C function.
 *
 * Ports become parameters (only those that are used), values in scratch become pointers declared at the top, and the
 * ops are printed in order, a kernel as one loop nest. A value is stored to its sinks where it is computed: its scratch
 * buffer and every out-port that names it. Invariant: what is printed names no address of an instance; those are the
 * caller's (address.c).
 */
#include "codegen/cg.h"

#include <inttypes.h>
#include <string.h>

const Type *
bc_type(const CgBody *c, Val v)
{
	return &c->b->vals[v.i].type;
}

int64_t
bc_extent(const CgBody *c, const Type *t, int k)
{
	return type_extent(c->g->m, c->mesh, t, k);
}

void
bc_strides(const CgBody *c, const Type *t, int64_t stride[MAX_AXES])
{
	int64_t n = 1;

	for (int k = t->n - 1; k >= 0; k--) {
		stride[k] = n;
		n *= bc_extent(c, t, k);
	}
}

static bool
is_out(const Body *b, Val v)
{
	for (uint32_t p = 0; p < b->nports; p++)
		if (!port_is_in(b->ports[p].kind) && b->ports[p].v.i == v.i) return true;
	return false;
}

/* The buffer a value is read from, declared on first use; NULL if it has none. */
static const char *
buffer_of(CgBody *c, Val v)
{
	const ValDef *d = &c->b->vals[v.i];
	ValInfo *x = &c->val[v.i];

	if (!x->ptr) return NULL;
	if (d->space == SP_scratch && !x->declared) {
		const char *type = cg_ctype(d->type.dt);

		x->declared = true;
		put_line(&c->head, 1, "%s *const %s = (%s *)(scratch + %" PRId64 ");", type,
			 x->ptr, type, d->offset);
		c->uses_scratch = true;
	}
	if (d->space == SP_port && d->over.i && d->def && !x->declared && !is_out(c->b, v)) {
		const char *type = cg_ctype(d->type.dt);
		Val root = d->over;

		while (c->b->vals[root.i].over.i)
			root = c->b->vals[root.i].over;
		x->declared = true;
		put_line(&c->head, 1, "%s *const %s = (%s *)%s;", type, x->ptr, type,
			 buffer_of(c, root));
	}
	for (uint32_t p = 0; p < c->b->nports; p++)
		if (c->port_param[p] && strcmp(c->port_param[p], x->ptr) == 0)
			c->port_used[p] = true;
	return x->ptr;
}

void
bc_touch(CgBody *c, Val v)
{
	buffer_of(c, v);
}

bool
bc_access(CgBody *c, Val v, Access *out)
{
	const ValDef *d = &c->b->vals[v.i];

	if (d->space == SP_alias) {
		if (!ir_access(c->g->m, c->b, v, out)) return false;
		return buffer_of(c, out->base) != NULL;
	}
	if (!buffer_of(c, v)) return false;
	*out = (Access){.base = v};
	bc_strides(c, &d->type, out->stride);
	return true;
}

const char *
bc_pointer(CgBody *c, const Access *x)
{
	const char *p = buffer_of(c, x->base);

	if (!x->offset) return p;
	if (x->offset < 0)
		return cg_text(c->g->a, "%s - %s", p,
			       cg_stride(c->g, c->mesh, bc_type(c, x->base), -x->offset));
	return cg_text(c->g->a, "%s + %s", p,
		       cg_stride(c->g, c->mesh, bc_type(c, x->base), x->offset));
}

void
bc_line(CgBody *c, const char *fmt, ...)
{
	Buf t;
	va_list ap;

	buf_init(&t, c->g->a);
	va_start(ap, fmt);
	buf_vprintf(&t, fmt, ap);
	va_end(ap);
	put_line(&c->text, c->depth, "%s", t.s ? t.s : "");
}

void
bc_comment(CgBody *c, const uint32_t *ops, uint32_t n)
{
	const Names *names = c->g->m->names;

	buf_putc(&c->text, '\n');
	for (uint32_t k = 0; k < n; k++) {
		Op op = c->b->ops[ops[k]];
		Buf line;

		op.kernel = 0;
		buf_init(&line, c->g->a);
		ir_print_op(c->g->m, &c->plain, &op, &line);
		for (int t = 0; t < c->depth; t++)
			buf_putc(&c->text, '\t');
		buf_puts(&c->text, k ? " * " : "/* ");
		put_comment(&c->text, line.s);
		if (op.loc.line) {
			buf_puts(&c->text, "   ");
			put_comment(&c->text, name_str(names, op.loc.file));
			buf_printf(&c->text, ":%u:%u", op.loc.line, op.loc.col);
		}
		buf_puts(&c->text, k + 1 == n ? " */\n" : "\n");
	}
}

/* Results that are views, and numbers that are written where they are read, need no code. */
bool
bc_silent(const CgBody *c, const Op *op)
{
	for (int k = 0; k < op->nout; k++) {
		const ValDef *d;

		if (!op->out[k].i) continue;
		d = &c->b->vals[op->out[k].i];
		if (c->val[op->out[k].i].nsinks) return false;
		if (d->space != SP_alias && (d->space != SP_local || op->kernel)) return false;
	}
	return true;
}

const char *
sink_beta(const Sink *s)
{
	return s->mode == STORE_set ? "0" : s->mode == STORE_add ? "1" : s->flag;
}

static const Sink *
plain_sink(const ValInfo *x)
{
	for (uint32_t k = 0; k < x->nsinks; k++)
		if (x->sinks[k].mode == STORE_set && x->sinks[k].ptr) return &x->sinks[k];
	return NULL;
}

const Sink *
bc_sink(CgBody *c, Val v, uint32_t turn)
{
	const ValInfo *x = &c->val[v.i];
	const Sink *plain = plain_sink(x);

	bc_touch(c, v);
	if (plain) return turn ? NULL : plain;
	return turn < x->nsinks ? &x->sinks[turn] : NULL;
}

void
bc_copy_rest(CgBody *c, Val v)
{
	const ValInfo *x = &c->val[v.i];
	const Sink *plain = plain_sink(x);

	for (uint32_t k = 0; plain && k < x->nsinks; k++)
		if (&x->sinks[k] != plain) emit_copy(c, v, &x->sinks[k]);
}

/* ---- ports ---- */

static bool
needs_rate(const Op *op)
{
	return op_info[op->code].flags & OF_RNG;
}

/* Mesh axes over which all ranks have the same of a tensor. */
unsigned
cg_replicas(const Mesh *mesh, const Type *t)
{
	unsigned mask = 0;

	for (int k = 1; mesh && k < mesh->n; k++)
		if (mesh->ax[k].degree > 1) mask |= 1u << k;
	return mask & ~(ir_split(t) | t->flat | t->partial);
}

/* Does a rank work on a range of it only, or not at all? */
static bool
is_counted(const CgBody *c, const Port *p)
{
	const Type *t = bc_type(c, p->v);

	if (c->b->kind == BK_N)
		return p->kind == PORT_grad && (t->flat || cg_replicas(c->mesh, t));
	return c->b->kind == BK_U && p->kind == PORT_weight && t->flat;
}

/* Names the in-ports' values and their parameters; scalars of the optimizer are fields of `run`. */
static void
in_ports(CgBody *c)
{
	const Body *b = c->b;

	for (uint32_t p = 0; p < b->nports; p++) {
		const Port *port = &b->ports[p];
		ValInfo *x = &c->val[port->v.i];
		static const char *const scalars[] = {"run->lr", "run->scale", "run->c1",
						      "run->c2"};

		if (!port_is_in(port->kind)) continue;
		if (port->kind == PORT_scalar) {
			ENSURE(port->slot < COUNTOF(scalars), "scalar port %u", port->slot);
			x->name = x->elem = scalars[port->slot];
			c->scalar_port[port->v.i] = true;
			continue;
		}
		x->name =
		    scope_take(c->scope, name_str(c->g->m->names, b->vals[port->v.i].name));
		x->ptr = x->name;
		c->port_param[p] = x->name;
		if (is_counted(c, port))
			c->count[port->v.i] =
			    scope_take(c->scope, cg_text(c->g->a, "n_%s", x->name));
	}
}

static void
add_sink(CgBody *c, Val v, Sink s)
{
	ValInfo *x = &c->val[v.i];

	PUSH(c->g->a, x->sinks, x->nsinks, x->csinks, s);
}

/* Out-ports: where values go. The first plain one of a value is also where it is read back from. */
static void
out_ports(CgBody *c)
{
	const Body *b = c->b;

	for (uint32_t p = 0; p < b->nports; p++) {
		const Port *port = &b->ports[p];
		const PortMode *mode = &c->g->modes[c->index][p];
		ValInfo *x = &c->val[port->v.i];
		const char *name = name_str(c->g->m->names, b->vals[port->v.i].name);
		Sink s = {.mode = mode->mode, .in_place = b->vals[port->v.i].over.i != 0};

		if (port_is_in(port->kind) || mode->mode == STORE_none) continue;
		if (port->kind == PORT_norm) {
			add_sink(c, port->v, (Sink){.mode = STORE_add});
			continue;
		}
		s.ptr = x->name && !x->ptr && !x->nsinks ? x->name : scope_take(c->scope, name);
		if (s.mode == STORE_flag)
			s.flag = c->port_flag[p] =
			    mode->own_flag
				? scope_take(c->scope, cg_text(c->g->a, "add_%s", s.ptr))
				: "add";
		c->port_param[p] = s.ptr;
		if (!x->name) x->name = s.ptr;
		if (s.mode == STORE_set && !x->ptr && b->vals[port->v.i].space == SP_port)
			x->ptr = s.ptr;
		add_sink(c, port->v, s);
	}
}

/* Names for all values: a buffer's, and one element's. */
static void
name_values(CgBody *c)
{
	const Body *b = c->b;

	for (uint32_t v = 1; v < b->nvals; v++) {
		const ValDef *d = &b->vals[v];
		ValInfo *x = &c->val[v];
		const char *name = name_str(c->g->m->names, d->name);

		if (x->name) continue;
		if (d->space == SP_port && d->over.i && d->def && !is_out(b, (Val){v})) {
			x->name = x->ptr = scope_take(c->scope, name);
			add_sink(c, (Val){v},
				 (Sink){.ptr = x->ptr, .mode = STORE_set, .in_place = true});
		}
		if (d->space == SP_scratch) {
			x->name = x->ptr = scope_take(c->scope, name);
			add_sink(c, (Val){v},
				 (Sink){.ptr = x->ptr,
					.mode = STORE_set,
					.in_place = d->over.i != 0});
		}
	}
}

/* Values that are made in the buffer of the out-port whose value takes them over: a product before its bias is added. */
static void
made_in_ports(CgBody *c)
{
	const Body *b = c->b;

	for (uint32_t y = 1; y < b->nvals; y++) {
		Val v = b->vals[y].over;
		ValInfo *x = &c->val[v.i];

		if (!v.i || b->vals[v.i].space != SP_port || !b->vals[v.i].def || x->ptr ||
		    !c->val[y].ptr)
			continue;
		x->name = x->ptr = c->val[y].ptr;
		add_sink(c, v, (Sink){.ptr = x->ptr, .mode = STORE_set});
	}
}

const char *
bc_elem(CgBody *c, Val v)
{
	ValInfo *x = &c->val[v.i];

	if (!x->elem) {
		const char *name = name_str(c->g->m->names, c->b->vals[v.i].name);

		x->elem = scope_take(c->scope, x->name ? cg_text(c->g->a, "%s_i", name) : name);
	}
	return x->elem;
}

/* last[v]: 1 + the last op whose code reads v's buffer, views included. */
static void
find_last(CgBody *c)
{
	const Body *b = c->b;

	for (uint32_t v = 1; v < b->nvals; v++)
		c->val[v].last = b->vals[v].def;
	for (uint32_t p = 0; p < b->nports; p++) {
		const ValDef *d = &b->vals[b->ports[p].v.i];

		if (b->ports[p].kind != PORT_logits || d->space != SP_scratch) continue;
		c->val[b->ports[p].v.i].last =
		    UINT32_MAX; /* sampling reads it after the body */
		c->keeps_scratch = true;
	}
	for (uint32_t k = 0; k < b->nops; k++)
		for (int j = 0; j < b->ops[k].nin; j++) {
			Val v = b->ops[k].in[j];
			Access x = {.base = v};

			if (b->vals[v.i].space == SP_alias) ir_access(c->g->m, b, v, &x);
			if (x.base.i && c->val[x.base.i].last < k + 1)
				c->val[x.base.i].last = k + 1;
		}
}

/* Marks scratch that ended with ops (from, to] as dead. */
static void
put_dead(CgBody *c, uint32_t from, uint32_t to)
{
	const Body *b = c->b;

	for (uint32_t v = 1; v < b->nvals; v++) {
		const ValDef *d = &b->vals[v];
		bool taken = false;

		if (d->space != SP_scratch || c->val[v].last <= from || c->val[v].last > to)
			continue;
		for (uint32_t w = 1; w < b->nvals && !taken; w++)
			taken = b->vals[w].over.i == v;
		if (!taken && c->val[v].declared)
			bc_line(c, "GV_DEAD(%s, %" PRId64 ");", c->val[v].ptr,
				type_bytes(c->g->m, c->mesh, &d->type));
	}
}

/* Values that ports hand through: nothing computes them, so they are copied first. */
static void
put_copies(CgBody *c)
{
	for (uint32_t v = 1; v < c->b->nvals; v++)
		if (!c->b->vals[v].def)
			for (uint32_t k = 0; k < c->val[v].nsinks; k++)
				emit_copy(c, (Val){v}, &c->val[v].sinks[k]);
}

/* The ops of one kernel from `first` on; ops without code may lie between. Returns the index after the last. */
static uint32_t
gather_kernel(const CgBody *c, uint32_t first, uint32_t *ops, uint32_t *n)
{
	const Body *b = c->b;
	uint32_t end = first + 1;

	*n = 0;
	ops[(*n)++] = first;
	if (!b->ops[first].kernel) return end;
	for (uint32_t k = first + 1; k < b->nops; k++) {
		if (b->ops[k].kernel == b->ops[first].kernel) {
			ops[(*n)++] = k;
			end = k + 1;
		} else if (!bc_silent(c, &b->ops[k])) {
			break;
		}
	}
	return end;
}

static void
put_ops(CgBody *c)
{
	const Body *b = c->b;
	uint32_t *ops = NEW_N(c->g->a, uint32_t, b->nops + 1), n;

	for (uint32_t k = 0, end; k < b->nops; k = end) {
		const Op *op = &b->ops[k];

		end = k + 1;
		if (bc_silent(c, op)) {
			put_dead(c, k, end);
			continue;
		}
		if (op->nout == 1 && b->vals[op->out[0].i].space == SP_alias) {
			for (uint32_t s = 0; s < c->val[op->out[0].i].nsinks; s++)
				emit_copy(c, op->out[0], &c->val[op->out[0].i].sinks[s]);
			put_dead(c, k, end);
			continue;
		}
		end = gather_kernel(c, k, ops, &n);
		bc_comment(c, ops, n);
		if (op->kernel)
			emit_kernel(c, ops, n);
		else
			emit_host[op->code](c, k);
		if (c->g->failed) return;
		bc_mark(c, k);
		put_dead(c, k, end);
	}
}

/* ---- the function around it ---- */

static const char *
param_decl(CgBody *c, uint32_t p)
{
	const Port *port = &c->b->ports[p];
	bool in = port_is_in(port->kind), kept = true;
	const char *type = cg_ctype(bc_type(c, port->v)->dt);

	if (!in) return cg_text(c->g->a, "%s *%s", type, c->port_param[p]);
	for (uint32_t v = 1; v < c->b->nvals; v++)
		if (c->b->vals[v].over.i == port->v.i)
			kept = false; /* something takes over its buffer */
	if (c->b->kind == BK_U &&
	    (port->kind == PORT_weight || port->kind == PORT_m || port->kind == PORT_v))
		kept = false;
	if (kept) return cg_text(c->g->a, "const %s *restrict %s", type, c->port_param[p]);
	return cg_text(c->g->a, "%s *%s", type, c->port_param[p]);
}

static void
put_function(CgBody *c)
{
	Cg *g = c->g;
	Buf sig;
	const char *sep = "";

	buf_init(&sig, g->a);
	buf_printf(&sig, "%s(", g->body_name[c->index]);
#define PARAM(...) (buf_printf(&sig, "%s", sep), buf_printf(&sig, __VA_ARGS__), sep = ", ")
	if (c->uses_run) PARAM("GvrtRun *run");
	if (c->uses_mb) PARAM("int64_t mb");
	if (c->uses_rng) PARAM("const char *name, const double *rate");
	if (c->uses_add) PARAM("bool add");
	for (uint32_t p = 0; p < c->b->nports; p++) {
		if (!c->port_used[p]) continue;
		PARAM("%s", param_decl(c, p));
		if (port_is_in(c->b->ports[p].kind) && c->count[c->b->ports[p].v.i])
			PARAM("int64_t %s", c->count[c->b->ports[p].v.i]);
		if (c->port_flag[p] && g->modes[c->index][p].own_flag)
			PARAM("bool %s", c->port_flag[p]);
	}
	if (c->uses_scratch) PARAM("unsigned char *scratch");
#undef PARAM
	if (!*sep) buf_puts(&sig, "void");
	buf_puts(&sig, ")");
	buf_putc(&g->bodies, '\n');
	buf_puts(&g->bodies, "static void\n");
	put_line(&g->bodies, 0, "%s", sig.s);
	buf_puts(&g->bodies, "{\n");
	if (c->head.n) buf_puts(&g->bodies, c->head.s);
	if (c->text.n)
		buf_puts(&g->bodies, c->text.s + (c->head.n == 0 && c->text.s[0] == '\n'));
	if (c->uses_scratch && !c->keeps_scratch)
		put_line(&g->bodies, 1, "GV_DEAD(scratch, %" PRId64 ");", c->b->scratch_bytes);
	buf_puts(&g->bodies, "}\n");
}

/* Keys and rates of the dropout sites, once per call. A slot whose rate is zero in all instances draws nothing. */
static void
put_drops(CgBody *c)
{
	const Cg *g = c->g;

	for (uint32_t k = 0; k < c->b->nops; k++) {
		const Op *op = &c->b->ops[k];
		int64_t slot = needs_rate(op) ? attr_int_or(op, AK_rate, -1) : -1;
		bool any = false;

		if (slot < 0 || !c->l || slot >= c->l->nrates) continue;
		for (uint32_t n = 0; n < g->m->ninsts && !any; n++)
			any = &g->m->types[g->m->insts[n].type] == c->l &&
			      g->m->insts[n].rates[slot] > 0;
		if (!any) continue;
		for (uint32_t j = 0; j < k && !c->drop[k]; j++)
			if (c->drop[j] && attr_int(&c->b->ops[j], AK_rate) == slot &&
			    attr_int(&c->b->ops[j], AK_key) == attr_int(op, AK_key))
				c->drop[k] = c->drop[j];
		if (c->drop[k]) continue;
		c->drop[k] = scope_take(
		    c->scope, cg_text(g->a, "drop_%s", val_str(g->m, c->b, op->out[0])));
		put_line(&c->head, 1,
			 "const GvDrop %s = gv_drop_site(run, %" PRId64 ", name, rate[%" PRId64
			 "]);",
			 c->drop[k], attr_int(op, AK_key), slot);
		c->uses_run = c->uses_rng = true;
	}
}

static const LayerType *
type_of_body(const Module *m, uint32_t body)
{
	for (uint32_t l = 0; l < m->ntypes; l++)
		for (int k = 0; k < BK_COUNT; k++)
			if (m->types[l].body[k] == body) return &m->types[l];
	return NULL;
}

void
cg_body(Cg *g, uint32_t body)
{
	const Body *b = &g->m->bodies[body];
	CgBody *c = &g->body[body];

	*c = (CgBody){.g = g,
		      .b = b,
		      .index = body,
		      .mesh = ir_mesh(g->m, b),
		      .l = type_of_body(g->m, body),
		      .depth = 1};
	c->scope = scope_new(g->a, g->file);
	c->val = NEW_N(g->a, ValInfo, b->nvals);
	c->port_param = NEW_N(g->a, const char *, b->nports);
	c->port_flag = NEW_N(g->a, const char *, b->nports);
	c->port_used = NEW_N(g->a, bool, b->nports);
	c->scalar_port = NEW_N(g->a, bool, b->nvals);
	c->count = NEW_N(g->a, const char *, b->nvals);
	c->drop = NEW_N(g->a, const char *, b->nops);
	buf_init(&c->head, g->a);
	buf_init(&c->text, g->a);
	c->plain = *b;
	c->plain.vals = arena_dup(g->a, b->vals, sizeof *b->vals * b->nvals);
	for (uint32_t v = 1; v < b->nvals; v++)
		c->plain.vals[v].space = SP_none, c->plain.vals[v].over = NO_VAL;
	in_ports(c);
	name_values(c);
	out_ports(c);
	made_in_ports(c);
	for (uint32_t v = 1; v < b->nvals; v++)
		bc_elem(c,
			(Val){v}); /* all at once: what a loop nest names clashes with none */
	find_last(c);
	put_drops(c);
	put_copies(c);
	bc_mark_begin(c);
	put_ops(c);
	if (g->failed) return;
	for (uint32_t p = 0; p < b->nports; p++)
		if (c->port_param[p] && !port_is_in(b->ports[p].kind)) {
			c->port_used[p] = true;
			if (c->port_flag[p] && !g->modes[body][p].own_flag) c->uses_add = true;
		}
	put_function(c);
}
