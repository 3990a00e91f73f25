/*
 * print.c - a module as text: what every level shares. README.md has the grammar, parse.c reads it back.
 *
 * Input: any module. Output: text that depends on the module alone: no pointers, no clocks.
 * Invariant: ir_parse of the text gives a module that is ir_equal, and prints as the same text. What is zero or absent
 * by default is left out; attributes of operations come from the table op_info, so that an op costs no line here.
 */
#include "ir/text.h"

#include <inttypes.h>
#include <string.h>

/* ---- names, numbers, places ---- */

/* Words that may follow a list of names; a name spelled like one is quoted. */
static const char *const reserved[] = {"params", "rates",     "mesh",
				       "zero",   "recompute", "megatron_sp"};

static bool
is_bare(const char *s)
{
	size_t n =
	    strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.0123456789");

	if (s[0] == '\0' || s[n] != '\0' || s[0] == '.' || (s[0] >= '0' && s[0] <= '9'))
		return false;
	for (size_t i = 0; i < COUNTOF(reserved); i++)
		if (!strcmp(s, reserved[i])) return false;
	return true;
}

/* There are no escapes: what a name may not hold (a quote, control characters) prints as '?'. */
void
text_quoted(Buf *b, const char *name)
{
	buf_putc(b, '"');
	for (const char *p = name; *p; p++) {
		unsigned char c = (unsigned char)*p;

		buf_putc(b, c < 0x20 || c == 0x7F || c == '"' ? '?' : *p);
	}
	buf_putc(b, '"');
}

void
text_name(Buf *b, const char *name)
{
	if (is_bare(name))
		buf_puts(b, name);
	else
		text_quoted(b, name);
}

void
text_range(Buf *b, uint32_t first, uint32_t count)
{
	buf_printf(b, "%" PRIu32, first);
	if (count != 1) buf_printf(b, "-%" PRIu32, first + count - 1);
}

void
text_place(Buf *b, const Module *m, Loc at)
{
	const char *file;

	if (!at.line) return;
	file = name_str(m->names, at.file);
	buf_puts(b, " !");
	if (file[0] && file[strspn(file, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
					 "0123456789_./+-")] == '\0')
		buf_puts(b, file);
	else
		text_quoted(b, file);
	buf_printf(b, ":%" PRIu32 ":%" PRIu32 "+%" PRIu32, at.line, at.col, at.len);
}

static void
num(Buf *b, const char *key, double x)
{
	buf_printf(b, " %s ", key);
	buf_double(b, x);
}

static const char *
str(const Module *m, Name name)
{
	return name_str(m->names, name);
}

/* ---- types ---- */

void
text_mesh_axis(Buf *b, const Mesh *mesh, int k)
{
	int same = 0;

	if (!mesh || k >= mesh->n) {
		buf_printf(b, "%d", k);
		return;
	}
	for (int i = 0; i < mesh->n; i++)
		same += mesh->ax[i].kind == mesh->ax[k].kind;
	buf_puts(b, mesh_kind_str[mesh->ax[k].kind]);
	if (same > 1 || mesh->ax[k].sub) buf_printf(b, ".%d", mesh->ax[k].sub);
}

void
ir_print_type(const Module *m, const Mesh *mesh, const Type *t, Buf *out)
{
	const char *gap = "";

	buf_printf(out, "%s[", dtype_str(t->dt));
	for (int i = 0; i < t->n; i++, gap = " ") {
		buf_puts(out, gap);
		text_name(out, ir_axis_str(m, t->ax[i].a));
		for (int j = 0; j < t->ax[i].nshard; j++) {
			buf_putc(out, j ? '.' : '@');
			text_mesh_axis(out, mesh, t->ax[i].shard[j]);
		}
	}
	for (int k = 0; k < 16; k++) {
		if (!(t->partial >> k & 1)) continue;
		buf_printf(out, "%s+", gap);
		text_mesh_axis(out, mesh, k);
		gap = " ";
	}
	for (int k = 0; k < 16; k++) {
		if (!(t->flat >> k & 1)) continue;
		buf_printf(out, "%s/", gap);
		text_mesh_axis(out, mesh, k);
		gap = " ";
	}
	buf_putc(out, ']');
}

const Mesh *
text_type_mesh(const Module *m, const LayerType *l)
{
	for (int k = 0; k < BK_COUNT; k++)
		if (l->body[k]) return ir_mesh(m, &m->bodies[l->body[k]]);
	return NULL;
}

/* ---- bodies ---- */

static void
print_val(const Module *m, const Body *b, Val v, Buf *out)
{
	buf_putc(out, v.i ? '%' : '_');
	if (v.i) text_name(out, str(m, b->vals[v.i].name));
}

/* The type of a value and, from level mem on, where its bytes are. */
static void
print_def(const Module *m, const Body *b, Val v, Buf *out)
{
	static const char *const space_str[SP_COUNT] = {"", "port", "scratch", "local",
							"alias"};
	const ValDef *d = &b->vals[v.i];

	ir_print_type(m, val_mesh(m, b, v), &d->type, out);
	if (d->space != SP_none) buf_printf(out, " @%s", space_str[d->space]);
	if (d->space == SP_scratch) buf_printf(out, "+%" PRId64, d->offset);
	if (!d->over.i) return;
	buf_puts(out, " over ");
	print_val(m, b, d->over, out);
}

static void
print_attr(const Module *m, const Mesh *mesh, const Attr *a, Buf *out)
{
	const char *gap = "";

	buf_printf(out, "%s=", attr_info[a->key].text);
	switch (attr_info[a->key].kind) {
	case AT_num: buf_double(out, a->num); break;
	case AT_int: buf_printf(out, "%" PRId64, a->i); break;
	case AT_dtype: buf_puts(out, dtype_str((DType)a->i)); break;
	case AT_axis: text_name(out, ir_axis_str(m, a->axis)); break;
	case AT_axes:
		buf_putc(out, '[');
		for (int i = 0; i < a->axes.n; i++) {
			if (i) buf_putc(out, ' ');
			text_name(out, ir_axis_str(m, a->axes.a[i]));
		}
		buf_putc(out, ']');
		break;
	case AT_mesh:
		buf_putc(out, '[');
		for (int k = 0; k < MAX_MESH; k++) {
			if (!(a->i >> k & 1)) continue;
			buf_puts(out, gap);
			text_mesh_axis(out, mesh, k);
			gap = " ";
		}
		buf_putc(out, ']');
		break;
	}
}

void
ir_print_op(const Module *m, const Body *b, const Op *op, Buf *out)
{
	const char *gap = " : ";

	for (int i = 0; i < op->nout; i++) {
		if (i) buf_puts(out, ", ");
		print_val(m, b, op->out[i], out);
	}
	buf_printf(out, " = %s", op_info[op->code].text);
	for (int i = 0; i < op->nin; i++) {
		buf_putc(out, ' ');
		print_val(m, b, op->in[i], out);
	}
	for (int i = 0; i < op->nattr; i++) {
		buf_puts(out, i ? " " : " {");
		print_attr(m, ir_mesh(m, b), &op->attrs[i], out);
	}
	if (op->kernel)
		buf_printf(out, "%skernel=%" PRIu32, op->nattr ? " " : " {", op->kernel);
	if (op->nattr || op->kernel) buf_putc(out, '}');
	for (int i = 0; i < op->nout; i++) {
		if (!op->out[i].i) continue;
		buf_puts(out, gap);
		print_def(m, b, op->out[i], out);
		gap = ", ";
	}
}

static void
print_body(const Module *m, uint32_t index, Buf *out)
{
	const Body *b = &m->bodies[index];

	buf_printf(out, "\nbody %" PRIu32 " ", index);
	text_name(out, str(m, b->name));
	buf_printf(out, " %s", body_str[b->kind]);
	if (ir_mesh(m, b)) {
		buf_puts(out, " mesh ");
		text_name(out, str(m, ir_mesh(m, b)->name));
	}
	if (ir_mesh(m, b) && b->from && b->from <= m->plan.nmeshes) {
		buf_puts(out, " from ");
		text_name(out, str(m, m->plan.meshes[b->from - 1].name));
	}
	if (b->nkernels) buf_printf(out, " kernels %" PRIu32, b->nkernels);
	if (b->scratch_bytes || b->live_bytes)
		buf_printf(out, " scratch %" PRId64 " live %" PRId64, b->scratch_bytes,
			   b->live_bytes);
	buf_puts(out, " {\n");
	for (uint32_t p = 0; p < b->nports; p++) {
		if (!port_is_in(b->ports[p].kind)) continue;
		buf_printf(out, "  %s %u ", port_str[b->ports[p].kind], b->ports[p].slot);
		print_val(m, b, b->ports[p].v, out);
		buf_puts(out, " : ");
		print_def(m, b, b->ports[p].v, out);
		buf_putc(out, '\n');
	}
	for (uint32_t o = 0; o < b->nops; o++) {
		buf_puts(out, "  ");
		ir_print_op(m, b, &b->ops[o], out);
		text_place(out, m, b->ops[o].loc);
		buf_putc(out, '\n');
	}
	for (uint32_t p = 0; p < b->nports; p++) {
		if (port_is_in(b->ports[p].kind)) continue;
		buf_printf(out, "  %s %u ", port_str[b->ports[p].kind], b->ports[p].slot);
		print_val(m, b, b->ports[p].v, out);
		buf_putc(out, '\n');
	}
	buf_puts(out, "}\n");
}

/* ---- the module's tables ---- */

static void
print_head(const Module *m, Buf *out)
{
	buf_printf(out, "gir %d %s\n# ", IR_VERSION, level_str[m->level]);
	buf_count(out, ir_param_count(m));
	buf_puts(out, " parameters\nmodel ");
	text_name(out, str(m, m->model));
	buf_puts(out, " source ");
	text_quoted(out, str(m, m->source));
	buf_printf(out, " hash 0x%016" PRIx64 "\n", m->source_hash);
	for (uint32_t a = 1; a < m->naxes; a++) {
		buf_puts(out, "axis ");
		text_name(out, str(m, m->axes[a].name));
		buf_printf(out, " = %" PRId64, m->axes[a].extent);
		text_place(out, m, m->axes[a].loc);
		buf_putc(out, '\n');
	}
	if (!m->batch.i) return;
	buf_puts(out, "batch ");
	text_name(out, ir_axis_str(m, m->batch));
	buf_putc(out, '\n');
}

static void
print_input(const Module *m, const Input *in, Buf *out)
{
	buf_puts(out, "input ");
	text_name(out, str(m, in->name));
	buf_putc(out, ' ');
	ir_print_type(m, NULL, &in->type, out);
	if (in->range.i) {
		buf_puts(out, " range ");
		text_name(out, ir_axis_str(m, in->range));
	}
	if (in->of) buf_printf(out, " of %" PRIu32, in->of - 1);
	if (in->mesh) buf_printf(out, " mesh %" PRIu32, in->mesh);
	text_place(out, m, in->loc);
	buf_putc(out, '\n');
}

static void
print_param(const Module *m, uint32_t index, Buf *out)
{
	const Param *p = &m->params[index];

	buf_printf(out, "param %" PRIu32 " ", index);
	text_quoted(out, str(m, p->name));
	buf_putc(out, ' ');
	ir_print_type(m, NULL, &p->type, out);
	buf_puts(out, " dims");
	for (int k = 0; k < p->ndims; k++)
		buf_printf(out, " %u", p->dims[k]);
	if (p->per.i) {
		buf_puts(out, " per ");
		text_name(out, ir_axis_str(m, p->per));
	}
	buf_puts(out, " init");
	switch (p->init) {
	case INIT_value: num(out, "value", p->init_a); break;
	case INIT_normal: num(out, "normal", p->init_a); break;
	case INIT_const: num(out, "const", p->init_a); break;
	case INIT_uniform:
		num(out, "uniform", p->init_a);
		buf_putc(out, ' ');
		buf_double(out, p->init_b);
		break;
	}
	num(out, "decay", p->decay);
	num(out, "lr", p->lr);
	buf_printf(out, " owner %" PRIu32, p->owner);
	if (p->borrows) buf_printf(out, " borrows %" PRIu32, p->borrows - 1);
	if (p->pending) buf_puts(out, " pending");
	for (int k = 0; k < 16; k++)
		if (p->pending >> k & 1) buf_printf(out, " +%d", k);
	if (p->trained) buf_puts(out, " trained");
	text_place(out, m, p->loc);
	buf_putc(out, '\n');
}

static bool
train_unset(const Train *t)
{
	const double x[] = {t->peak,  t->warmup, t->steps, t->floor,    t->beta1,
			    t->beta2, t->eps,    t->decay, t->momentum, t->clip};
	bool unset = !t->given && t->precision == DT_none && t->opt == OPT_adamw &&
		     t->rate == RATE_const && t->seed == 0;

	for (size_t i = 0; i < COUNTOF(x); i++)
		unset = unset && x[i] == 0;
	return unset;
}

/* Nothing for a module of which nothing was said about training. */
static void
print_train(const Module *m, Buf *out)
{
	static const char *const opt_str[] = {"adamw", "sgd"};
	static const char *const rate_str[] = {"const", "cosine", "linear_decay",
					       "inverse_sqrt"};
	const Train *t = &m->train;

	if (train_unset(t)) return;
	buf_printf(out, "\ntrain %s%s rate", t->given ? "" : "assumed ", opt_str[t->opt]);
	num(out, rate_str[t->rate], t->peak);
	for (int k = 0; k < 3; k++) {
		buf_putc(out, ' ');
		buf_double(out, k == 0 ? t->warmup : k == 1 ? t->steps : t->floor);
	}
	num(out, "beta1", t->beta1);
	num(out, "beta2", t->beta2);
	num(out, "eps", t->eps);
	num(out, "decay", t->decay);
	num(out, "momentum", t->momentum);
	num(out, "clip", t->clip);
	buf_printf(out, " precision %s seed %" PRIu64 "\n",
		   t->precision == DT_none ? "none" : dtype_str(t->precision), t->seed);
}

static void
print_ref(const Module *m, Ref ref, Buf *out)
{
	switch (ref.kind) {
	case REF_none: buf_putc(out, '-'); break;
	case REF_input: text_name(out, str(m, m->inputs[ref.i].name)); break;
	case REF_result: buf_printf(out, "%" PRIu32 ".%u", ref.i, ref.result); break;
	}
}

static void
print_instance(const Module *m, uint32_t index, Buf *out)
{
	const Instance *n = &m->insts[index];
	const LayerType *l = &m->types[n->type];

	buf_printf(out, "inst %" PRIu32 " ", index);
	text_name(out, str(m, l->name));
	buf_putc(out, ' ');
	text_quoted(out, str(m, n->name));
	buf_puts(out, " path ");
	text_quoted(out, str(m, n->path));
	buf_puts(out, " args");
	for (int a = 0; a < l->nargs; a++) {
		buf_putc(out, ' ');
		print_ref(m, n->args[a], out);
	}
	buf_puts(out, " params");
	for (uint32_t w = 0; w < l->nweights; w++)
		buf_printf(out, " %" PRIu32, n->params[w]);
	buf_puts(out, " rates");
	for (int r = 0; r < l->nrates; r++) {
		buf_putc(out, ' ');
		buf_double(out, n->rates[r]);
	}
	text_place(out, m, n->loc);
	buf_putc(out, '\n');
}

void
ir_print(const Module *m, Buf *out)
{
	print_head(m, out);
	for (uint32_t i = 0; i < m->ninputs; i++)
		print_input(m, &m->inputs[i], out);
	for (uint32_t i = 0; i < m->nconsts; i++) {
		buf_printf(out, "const %" PRIu32 " ", i);
		ir_print_type(m, NULL, &m->consts[i], out);
		buf_putc(out, '\n');
	}
	if (m->nparams) buf_putc(out, '\n');
	for (uint32_t i = 0; i < m->nparams; i++)
		print_param(m, i, out);
	print_train(m, out);
	if (m->level >= LV_plan) {
		buf_putc(out, '\n');
		plan_body_print(m, out);
	}
	for (uint32_t b = 1; b < m->nbodies; b++)
		print_body(m, b, out);
	for (uint32_t l = 0; l < m->ntypes; l++)
		print_layer_type(m, &m->types[l], out);
	if (m->ninsts) buf_putc(out, '\n');
	for (uint32_t n = 0; n < m->ninsts; n++)
		print_instance(m, n, out);
	for (uint32_t r = 0; r < m->nreports; r++) {
		buf_puts(out, "report ");
		text_quoted(out, str(m, m->reports[r].name));
		buf_putc(out, ' ');
		print_ref(m, m->reports[r].ref, out);
		buf_putc(out, '\n');
	}
	if (m->level >= LV_sched) print_actions(m, out);
	if (m->level >= LV_mem) print_memory(m, out);
}
