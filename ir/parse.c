/*
 * parse.c - text to module: the top level, axes, types, inputs, parameters, instances.
 *
 * Input: any bytes. Output: a module every reference of which is in range, every name unique, every count bounded; or NULL
 * after at least one diagnostic. What the numbers mean together is verify.c's business.
 * One line, one item, one error; after an error reading goes on with the next line. What an erroneous line would have
 * defined is then missing, so a table with such a hole raises no errors about things it lacks (parse_missing).
 */
#include "ir/text.h"

#include <inttypes.h>
#include <string.h>

/* ---- tables of words; ORDER as the enums ---- */
static const char *const opt_words[] = {"adamw", "sgd"};
static const char *const rate_words[] = {"const", "cosine", "linear_decay", "inverse_sqrt"};
static const char *const init_words[] = {"value", "normal", "uniform", "const"};

/* ---- references ---- */

bool
parse_missing(Parser *p, Hole hole, Scan at, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	if (p->holes & (unsigned)hole) return false;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return scan_fail(&at, "%s", text);
}

static uint32_t
axis_named(const Parser *p, Name name)
{
	return name < p->nnames_axes ? p->axes[name] : 0;
}

bool
parse_axis(Parser *p, Axis *out)
{
	Scan before = p->s;
	Name name;

	if (!scan_name(&p->s, "an axis", &name)) return false;
	out->i = (uint16_t)axis_named(p, name);
	return out->i ||
	       parse_missing(p, HOLE_axis, before, "no axis '%s'", name_str(p->m->names, name));
}

/* [mesh axes after "@" or "+"]; `used` are those the type has already. */
static bool
parse_shard(Parser *p, const Mesh *mesh, uint8_t *n, uint8_t *shard, unsigned *used)
{
	Scan before = p->s;

	if (p->m->level < LV_spmd)
		return scan_fail(&p->s,
				 "a type is sharded from level spmd on; this is level %s",
				 level_str[p->m->level]);
	if (!scan_mesh_axes(&p->s, mesh, MAX_SHARD, n, shard)) return false;
	for (int j = 0; j < *n; j++) {
		if (*used >> shard[j] & 1) {
			p->s = before;
			return scan_fail(&p->s, "mesh axis %d occurs twice in this type",
					 shard[j]);
		}
		*used |= 1u << shard[j];
	}
	return true;
}

static bool
parse_axis_use(Parser *p, const Mesh *mesh, Type *t, int64_t *elems, unsigned *used)
{
	Scan before = p->s;
	AxisUse u = {0};
	int64_t extent;

	if (!parse_axis(p, &u.a)) return false;
	extent = p->m->axes[u.a.i].extent;
	if (scan_try(&p->s, '@') && !parse_shard(p, mesh, &u.nshard, u.shard, used))
		return false;
	for (int k = 0; k < t->n; k++) {
		if (t->ax[k].a.i != u.a.i) continue;
		p->s = before;
		return scan_fail(&p->s, "axis '%s' occurs twice in this type",
				 name_str(p->m->names, p->m->axes[u.a.i].name));
	}
	if (t->n == MAX_AXES) {
		p->s = before;
		return scan_fail(&p->s, "more than %d axes", MAX_AXES);
	}
	if (extent > MAX_ELEMS / *elems) {
		p->s = before;
		return scan_fail(&p->s, "a tensor of more than %" PRId64 " elements",
				 MAX_ELEMS);
	}
	*elems *= extent;
	t->ax[t->n++] = u;
	return true;
}

/* { mark mesh axis }, as bits. */
static bool
parse_marks(Parser *p, char mark, const Mesh *mesh, unsigned *used, uint16_t *bits)
{
	while (scan_try(&p->s, mark)) {
		uint8_t n = 0, shard[MAX_SHARD];

		if (!parse_shard(p, mesh, &n, shard, used)) return false;
		for (int j = 0; j < n; j++)
			*bits |= (uint16_t)(1u << shard[j]);
	}
	return true;
}

/* type = dtype "[" { axis [ "@" mesh axes ] } { "+" mesh axis } { "/" mesh axis } "]" */
bool
parse_type(Parser *p, const Mesh *mesh, Type *out)
{
	Scan before = p->s;
	const char *word;
	char text[8] = "";
	unsigned used = 0;
	int64_t elems = 1;
	int len;

	*out = (Type){0};
	if (!scan_word(&p->s, "a type", &word, &len)) return false;
	if (len < (int)sizeof(text)) memcpy(text, word, (size_t)len);
	out->dt = dtype_parse(text);
	if (out->dt == DT_none) {
		p->s = before;
		return scan_fail(&p->s,
				 "no element type '%.*s'; known are bool, i32, bf16, f32, f64",
				 len > 60 ? 60 : len, word);
	}
	if (!scan_punct(&p->s, '[')) return false;
	while (scan_peek(&p->s) != ']' && scan_peek(&p->s) != '+' && scan_peek(&p->s) != '/')
		if (!parse_axis_use(p, mesh, out, &elems, &used)) return false;
	return parse_marks(p, '+', mesh, &used, &out->partial) &&
	       parse_marks(p, '/', mesh, &used, &out->flat) && scan_punct(&p->s, ']');
}

/* "-" | input | instance "." result */
static bool
parse_ref(Parser *p, Ref *out)
{
	Module *m = p->m;
	Scan before = p->s;
	uint32_t nouts, result;
	Name name;

	*out = (Ref){0};
	if (scan_try(&p->s, '-')) return true;
	if (scan_peek(&p->s) < '0' || scan_peek(&p->s) > '9') {
		if (!scan_name(&p->s, "a reference", &name)) return false;
		for (uint32_t i = 0; i < m->ninputs; i++)
			if (m->inputs[i].name == name) {
				*out = (Ref){REF_input, i, 0};
				return true;
			}
		return parse_missing(p, HOLE_input, before, "no input '%s'",
				     name_str(m->names, name));
	}
	/* "1.0" is one word to the scanner, so it is taken apart here. */
	{
		const char *word;
		int len, k = 0;
		uint64_t i = 0, r = 0;

		if (!scan_word(&p->s, "a reference", &word, &len)) return false;
		for (; k < len && word[k] >= '0' && word[k] <= '9' && k < 9; k++)
			i = i * 10 + (unsigned)(word[k] - '0');
		if (k < len - 1 && word[k] == '.')
			for (k++; k < len && word[k] >= '0' && word[k] <= '9' && r < 100000;
			     k++)
				r = r * 10 + (unsigned)(word[k] - '0');
		else
			k = 0;
		if (k != len) {
			p->s = before;
			return scan_fail(&p->s,
					 "'%.*s' is no reference; they look like 4.0, result 0 "
					 "of instance 4",
					 len > 60 ? 60 : len, word);
		}
		if (i >= m->ninsts)
			return parse_missing(
			    p, HOLE_inst, before,
			    "no instance %" PRIu64 " above; a reference points backwards", i);
		nouts = m->types[m->insts[i].type].nouts;
		result = (uint32_t)r;
		if (result >= nouts)
			return parse_missing(p, HOLE_type, before,
					     "instance %" PRIu64 " has %" PRIu32
					     " results, no result %" PRIu32,
					     i, nouts, result);
		*out = (Ref){REF_result, (uint32_t)i, (uint16_t)result};
	}
	return true;
}

/* An optional number before an item: where it stands in its table, for the reader's sake. */
static bool
parse_number(Parser *p, const char *what, Hole hole, uint32_t next)
{
	Scan before = p->s;
	uint32_t i;

	if (scan_peek(&p->s) < '0' || scan_peek(&p->s) > '9') return true;
	if (!scan_u32(&p->s, what, 0, MAX_COUNT, &i)) return false;
	return i == next ||
	       parse_missing(p, hole, before, "this is %s %" PRIu32 ", not %" PRIu32, what,
			     next, i);
}

/* ---- items ---- */

static bool
item_model(Parser *p)
{
	Module *m = p->m;

	if (p->seen_model) return scan_fail(&p->s, "a second model line");
	p->seen_model = true;
	if (scan_peek(&p->s) == '"' ? !scan_string(&p->s, "the model's name", &m->model)
				    : !scan_name(&p->s, "the model's name", &m->model))
		return false;
	return scan_key(&p->s, "source") && scan_string(&p->s, "the source", &m->source) &&
	       scan_key(&p->s, "hash") && scan_hash(&p->s, &m->source_hash) && scan_done(&p->s);
}

static bool
item_axis(Parser *p)
{
	Module *m = p->m;
	Scan before = p->s;
	AxisDef a = {0};

	if (!scan_name(&p->s, "the axis's name", &a.name)) return false;
	if (axis_named(p, a.name)) {
		p->s = before;
		return scan_fail(&p->s, "a second axis '%s'", name_str(m->names, a.name));
	}
	if (!scan_punct(&p->s, '=') ||
	    !scan_int(&p->s, "the extent", 1, MAX_EXTENT, &a.extent) ||
	    !scan_place(&p->s, &a.loc) || !scan_done(&p->s))
		return false;
	if (m->naxes == MAX_TEXT_AXES)
		return scan_fail(&p->s, "more than %d axes", MAX_TEXT_AXES - 1);
	if (a.name >= p->nnames_axes) {
		uint32_t n = a.name * 2 + 64;

		p->axes = arena_grow(p->tmp, p->axes, p->nnames_axes, n, sizeof(*p->axes));
		p->nnames_axes = n;
	}
	p->axes[a.name] = m->naxes;
	PUSH(m->arena, m->axes, m->naxes, m->caxes, a);
	return true;
}

static bool
item_batch(Parser *p)
{
	if (p->m->batch.i) return scan_fail(&p->s, "a second batch line");
	return parse_axis(p, &p->m->batch) && scan_done(&p->s);
}

/* ["of" input] ["mesh" number]: another layout of an input above. */
static bool
parse_input_layout(Parser *p, Input *in)
{
	Module *m = p->m;
	Scan before = p->s;
	uint32_t of;

	if (scan_try_key(&p->s, "of")) {
		if (!scan_u32(&p->s, "the input", 0, MAX_PORT, &of)) return false;
		if (of >= m->ninputs)
			return parse_missing(p, HOLE_input, before,
					     "no input %" PRIu32 " above; there are %" PRIu32,
					     of, m->ninputs);
		in->of = of + 1;
	}
	if (scan_try_key(&p->s, "mesh") &&
	    !scan_u32(&p->s, "the mesh", 1, MAX_MESHES - 1, &in->mesh))
		return false;
	if (m->level < LV_spmd && (in->of || in->mesh))
		return scan_fail(&before,
				 "an input has layouts from level spmd on; this is level %s",
				 level_str[m->level]);
	return true;
}

static bool
item_input(Parser *p)
{
	Module *m = p->m;
	Scan before = p->s;
	Input in = {0};

	if (!scan_name(&p->s, "the input's name", &in.name)) return false;
	for (uint32_t i = 0; i < m->ninputs; i++)
		if (m->inputs[i].name == in.name)
			return scan_fail(&before, "a second input '%s'",
					 name_str(m->names, in.name));
	if (!parse_type(p, NULL, &in.type)) return false;
	if (scan_try_key(&p->s, "range") && !parse_axis(p, &in.range)) return false;
	if (!parse_input_layout(p, &in)) return false;
	if (!scan_place(&p->s, &in.loc) || !scan_done(&p->s)) return false;
	if (m->ninputs == MAX_PORT) return scan_fail(&p->s, "more than %d inputs", MAX_PORT);
	PUSH(m->arena, m->inputs, m->ninputs, m->cinputs, in);
	return true;
}

static bool
item_const(Parser *p)
{
	Module *m = p->m;
	Type t;

	if (!parse_number(p, "const", HOLE_const, m->nconsts)) return false;
	if (!parse_type(p, NULL, &t) || !scan_done(&p->s)) return false;
	if (m->nconsts == MAX_SLOTS)
		return scan_fail(&p->s, "more than %d constants", MAX_SLOTS);
	PUSH(m->arena, m->consts, m->nconsts, m->cconsts, t);
	return true;
}

/* dims = { count }: how many axes each dimension of the file groups; together all but `per`. */
static bool
parse_dims(Parser *p, Param *q)
{
	Scan before = p->s;
	int sum = 0;

	while (scan_peek(&p->s) >= '0' && scan_peek(&p->s) <= '9') {
		uint32_t k;

		if (q->ndims == MAX_AXES)
			return scan_fail(&p->s, "more than %d dimensions", MAX_AXES);
		if (!scan_u32(&p->s, "the axes of a dimension", 1, MAX_AXES, &k)) return false;
		q->dims[q->ndims++] = (uint8_t)k;
		sum += (int)k;
	}
	if (scan_try_key(&p->s, "per") && !parse_axis(p, &q->per)) return false;
	if (sum + (q->per.i != 0) == q->type.n) return true;
	p->s = before;
	return scan_fail(&p->s, "the dimensions group %d axes, but the type has %d%s", sum,
			 q->type.n - (q->per.i != 0),
			 q->per.i ? " besides the 'per' axis" : "");
}

static bool
parse_init(Parser *p, Param *q)
{
	Scan before;
	uint32_t index;
	int init;

	if (!scan_key(&p->s, "init") ||
	    !scan_pick_to(&p->s, WORDS("initial value", init_words), &init))
		return false;
	q->init = (InitKind)init;
	if (q->init != INIT_const)
		return scan_num(&p->s, "the initial value", &q->init_a) &&
		       (q->init != INIT_uniform ||
			scan_num(&p->s, "the upper bound", &q->init_b));
	before = p->s;
	if (!scan_u32(&p->s, "the constant", 0, MAX_SLOTS, &index)) return false;
	if (index >= p->m->nconsts)
		return parse_missing(p, HOLE_const, before,
				     "no constant %" PRIu32 "; there are %" PRIu32, index,
				     p->m->nconsts);
	q->init_a = index;
	return true;
}

/* ["borrows" param] ["pending" { "+" mesh axis }] ["trained"]; mesh axes by number. */
static bool
parse_param_layout(Parser *p, Param *q)
{
	Module *m = p->m;
	Scan before = p->s;
	uint32_t of;
	unsigned used = 0;

	if (scan_try_key(&p->s, "borrows")) {
		if (!scan_u32(&p->s, "the parameter", 0, MAX_COUNT, &of)) return false;
		if (of >= m->nparams)
			return parse_missing(p, HOLE_param, before,
					     "no parameter %" PRIu32
					     " above; there are %" PRIu32,
					     of, m->nparams);
		q->borrows = of + 1;
	}
	if (scan_try_key(&p->s, "pending") &&
	    (scan_peek(&p->s) != '+' ? !scan_punct(&p->s, '+')
				     : !parse_marks(p, '+', NULL, &used, &q->pending)))
		return false;
	q->trained = scan_try_key(&p->s, "trained");
	if (m->level < LV_spmd && (q->borrows || q->pending || q->trained))
		return scan_fail(
		    &before,
		    "what a parameter borrows and is pending over is known from level "
		    "spmd on; this is level %s",
		    level_str[m->level]);
	return true;
}

static bool
item_param(Parser *p)
{
	Module *m = p->m;
	Param q = {0};
	Loc at;

	if (!parse_number(p, "param", HOLE_param, m->nparams)) return false;
	at = scan_loc(&p->s);
	if (!scan_string(&p->s, "the parameter's name", &q.name) ||
	    !parse_type(p, NULL, &q.type) || !scan_key(&p->s, "dims") || !parse_dims(p, &q) ||
	    !parse_init(p, &q) || !scan_key(&p->s, "decay") ||
	    !scan_num(&p->s, "decay", &q.decay) || !scan_key(&p->s, "lr") ||
	    !scan_num(&p->s, "lr", &q.lr) || !scan_key(&p->s, "owner") ||
	    !scan_u32(&p->s, "the owner", 0, MAX_COUNT - 1, &q.owner) ||
	    !parse_param_layout(p, &q) || !scan_place(&p->s, &q.loc) || !scan_done(&p->s))
		return false;
	if (m->nparams == MAX_COUNT)
		return scan_fail(&p->s, "more than %d parameters", MAX_COUNT);
	PUSH(m->arena, m->params, m->nparams, m->cparams, q);
	PUSH(p->tmp, p->param_at, p->nparam_at, p->cparam_at, at);
	return true;
}

static bool
parse_key_num(Parser *p, const char *key, double *out)
{
	return scan_key(&p->s, key) && scan_num(&p->s, key, out);
}

/* A whole number of 64 bits: seeds use all of them. */
static bool
parse_seed(Parser *p, uint64_t *out)
{
	Scan before = p->s;
	const char *word;
	int len;

	*out = 0;
	if (!scan_word(&p->s, "the seed, a whole number", &word, &len)) return false;
	for (int k = 0; k < len; k++) {
		unsigned digit = (unsigned)(word[k] - '0');

		if (digit > 9 || *out > (UINT64_MAX - digit) / 10)
			return scan_fail(&before, "the seed is no whole number of 64 bits");
		*out = *out * 10 + digit;
	}
	return true;
}

static bool
item_train(Parser *p)
{
	Train *t = &p->m->train;
	Scan before;
	const char *word;
	char text[8] = "";
	int opt, rate, len;

	if (p->seen_train) return scan_fail(&p->s, "a second train line");
	p->seen_train = true;
	t->given = !scan_try_key(&p->s, "assumed");
	if (!scan_pick_to(&p->s, WORDS("optimizer", opt_words), &opt) ||
	    !scan_key(&p->s, "rate") || !scan_pick_to(&p->s, WORDS("rate", rate_words), &rate))
		return false;
	t->opt = (OptKind)opt;
	t->rate = (RateKind)rate;
	if (!scan_num(&p->s, "the peak", &t->peak) ||
	    !scan_num(&p->s, "the warmup", &t->warmup) ||
	    !scan_num(&p->s, "the steps", &t->steps) ||
	    !scan_num(&p->s, "the floor", &t->floor) || !parse_key_num(p, "beta1", &t->beta1) ||
	    !parse_key_num(p, "beta2", &t->beta2) || !parse_key_num(p, "eps", &t->eps) ||
	    !parse_key_num(p, "decay", &t->decay) ||
	    !parse_key_num(p, "momentum", &t->momentum) ||
	    !parse_key_num(p, "clip", &t->clip) || !scan_key(&p->s, "precision"))
		return false;
	before = p->s;
	if (!scan_word(&p->s, "the precision", &word, &len)) return false;
	if (len < (int)sizeof(text)) memcpy(text, word, (size_t)len);
	t->precision = dtype_parse(text);
	if (!dtype_float(t->precision) && strcmp(text, "none") != 0)
		return scan_fail(&before, "no precision '%.*s'; known are bf16, f32, f64",
				 len > 60 ? 60 : len, word);
	return scan_key(&p->s, "seed") && parse_seed(p, &t->seed) && scan_done(&p->s);
}

static bool
type_named(const Module *m, Name name, uint32_t *out)
{
	for (uint32_t l = m->ntypes; l-- > 0;) {
		if (m->types[l].name != name) continue;
		*out = l;
		return true;
	}
	return false;
}

static bool
parse_inst_lists(Parser *p, Instance *n)
{
	const Module *m = p->m;
	const LayerType *l = &m->types[n->type];

	n->args = NEW_N(m->arena, Ref, l->nargs);
	n->params = NEW_N(m->arena, uint32_t, l->nweights);
	n->rates = NEW_N(m->arena, double, l->nrates);
	if (!scan_key(&p->s, "args")) return false;
	for (int a = 0; a < l->nargs; a++) {
		Scan before = p->s;

		if (scan_try_key(&p->s, "params"))
			return scan_fail(&before, "'%s' takes %u arguments, not %d",
					 name_str(m->names, l->name), l->nargs, a);
		if (!parse_ref(p, &n->args[a])) return false;
	}
	if (!scan_key(&p->s, "params")) return false;
	for (uint32_t w = 0; w < l->nweights; w++) {
		Scan before = p->s;

		if (!scan_u32(&p->s, "the parameter", 0, MAX_COUNT, &n->params[w]))
			return false;
		if (n->params[w] >= m->nparams)
			return parse_missing(p, HOLE_param, before,
					     "no parameter %" PRIu32 "; there are %" PRIu32,
					     n->params[w], m->nparams);
	}
	if (!scan_key(&p->s, "rates")) return false;
	for (int r = 0; r < l->nrates; r++)
		if (!scan_num(&p->s, "the rate", &n->rates[r])) return false;
	return true;
}

static bool
item_inst(Parser *p)
{
	Module *m = p->m;
	Instance n = {0};
	Scan before;
	Name type;

	if (!parse_number(p, "inst", HOLE_inst, m->ninsts)) return false;
	before = p->s;
	if (!scan_name(&p->s, "a layer type", &type)) return false;
	if (!type_named(m, type, &n.type))
		return parse_missing(p, HOLE_type, before, "no layer type '%s'",
				     name_str(m->names, type));
	if (!scan_string(&p->s, "the instance's name", &n.name) || !scan_key(&p->s, "path") ||
	    !scan_string(&p->s, "the path", &n.path) || !parse_inst_lists(p, &n) ||
	    !scan_place(&p->s, &n.loc) || !scan_done(&p->s))
		return false;
	if (m->ninsts == MAX_COUNT)
		return scan_fail(&p->s, "more than %d instances", MAX_COUNT);
	PUSH(m->arena, m->insts, m->ninsts, m->cinsts, n);
	return true;
}

static bool
item_report(Parser *p)
{
	Module *m = p->m;
	Report r = {0};

	if (!scan_string(&p->s, "the report's name", &r.name) || !parse_ref(p, &r.ref) ||
	    !scan_done(&p->s))
		return false;
	if (m->nreports == MAX_PORT) return scan_fail(&p->s, "more than %d reports", MAX_PORT);
	PUSH(m->arena, m->reports, m->nreports, m->creports, r);
	return true;
}

static bool
item_plan(Parser *p, int line)
{
	bool ok = plan_text_line(p->plan, &p->s, line);

	p->m->plan = p->plan->plan; /* bodies below name its meshes */
	return ok;
}

static bool
item_ranks(Parser *p)
{
	return item_plan(p, 0);
}

static bool
item_mesh(Parser *p)
{
	return item_plan(p, 1);
}

static bool
item_stage(Parser *p)
{
	return item_plan(p, 2);
}

static bool
item_nodes(Parser *p)
{
	return item_plan(p, 4);
}

static bool
item_layers(Parser *p)
{
	return item_plan(p, 3);
}

/* ---- the file ---- */

static const struct Item {
	const char *word;
	bool (*parse)(Parser *p);
	unsigned hole; /* what an erroneous line leaves unsaid */
	Level since;
} items[] = {
    {"model", item_model, 0, LV_graph},
    {"axis", item_axis, HOLE_axis, LV_graph},
    {"batch", item_batch, 0, LV_graph},
    {"input", item_input, HOLE_input, LV_graph},
    {"const", item_const, HOLE_const, LV_graph},
    {"param", item_param, HOLE_param, LV_graph},
    {"train", item_train, 0, LV_graph},
    {"ranks", item_ranks, HOLE_mesh, LV_plan},
    {"mesh", item_mesh, HOLE_mesh, LV_plan},
    {"stage", item_stage, 0, LV_plan},
    {"layers", item_layers, 0, LV_plan},
    {"nodes", item_nodes, 0, LV_plan},
    {"body", parse_body, HOLE_body, LV_graph},
    {"type", parse_layer_type, HOLE_type, LV_graph},
    {"inst", item_inst, HOLE_inst, LV_graph},
    {"report", item_report, 0, LV_graph},
    {"actions", parse_actions, 0, LV_sched},
    {"memory", parse_memory, 0, LV_mem},
};

/* The lines of a block whose first line was in error. */
static void
skip_block(Parser *p)
{
	if (p->s.stop[-1] != '{') return;
	for (int depth = 1; depth > 0 && scan_line(&p->s);) {
		depth += p->s.stop[-1] == '{';
		depth -= *p->s.at == '}';
	}
}

bool
parse_block(Parser *p, ParseItem *item, void *into, Hole hole)
{
	uint32_t first = p->s.lineno;

	while (!diag_stop(p->s.diag) && scan_line(&p->s)) {
		uint32_t line = p->s.lineno;

		if (scan_try(&p->s, '}')) return scan_done(&p->s);
		if (item(p, into)) continue;
		p->holes |= (unsigned)hole;
		if (p->s.lineno == line) skip_block(p);
	}
	if (diag_stop(p->s.diag)) return false;
	return scan_fail(&p->s, "the block that begins in line %" PRIu32 " is never closed",
			 first);
}

static bool
parse_item(Parser *p)
{
	const char *words[COUNTOF(items)];
	Scan before = p->s;
	int i;

	for (size_t k = 0; k < COUNTOF(items); k++)
		words[k] = items[k].word;
	i = scan_pick(&p->s, WORDS("item", words));
	if (i < 0) {
		p->holes = ~0u; /* it may have been anything */
	} else if (items[i].since > p->m->level) {
		scan_fail(&before, "'%s' belongs to level %s and below; this is level %s",
			  items[i].word, level_str[items[i].since], level_str[p->m->level]);
		p->holes |= items[i].hole;
	} else {
		if (items[i].parse(p)) return true;
		p->holes |= items[i].hole;
	}
	if (p->s.lineno == before.lineno) skip_block(p);
	return false;
}

/* gir 1 LEVEL */
static bool
parse_head(Parser *p)
{
	uint32_t version;
	int level;

	if (!scan_line(&p->s))
		return scan_fail(&p->s, "this file is empty; a dump begins 'gir %d LEVEL'",
				 IR_VERSION);
	if (!scan_key(&p->s, "gir")) return false;
	if (!scan_u32(&p->s, "the version", IR_VERSION, IR_VERSION, &version) ||
	    !scan_pick_to(&p->s, &(Words){"level", level_str, LV_COUNT}, &level) ||
	    !scan_done(&p->s))
		return false;
	p->m->level = (Level)level;
	return true;
}

/* What only shows when all is read. */
static void
finish(Parser *p)
{
	Module *m = p->m;

	if (!p->seen_model) scan_fail(&p->s, "no model line");
	for (uint32_t i = 0; i < m->nparams; i++)
		if (m->params[i].owner >= m->ninsts)
			diag_error(p->s.diag, p->param_at[i],
				   "the owner is instance %" PRIu32 "; there are %" PRIu32,
				   m->params[i].owner, m->ninsts);
	for (uint32_t b = 1; b < m->nbodies; b++)
		if (m->bodies[b].kind == BK_const && !m->const_body) m->const_body = b;
	if (m->level >= LV_plan) {
		plan_text_finish(p->plan, m);
		m->plan = p->plan->plan;
		if (plan_text_layers(p->plan, m, p->s.diag))
			plan_check(m, &m->plan, p->plan, p->s.diag, "");
	}
	for (uint32_t i = 0; i < m->ninputs; i++)
		if (m->inputs[i].mesh && m->inputs[i].mesh >= m->plan.nmeshes)
			scan_fail(&p->s,
				  "input '%s' is in terms of mesh %" PRIu32 " of %" PRIu32,
				  name_str(m->names, m->inputs[i].name), m->inputs[i].mesh,
				  m->plan.nmeshes);
	if (m->level >= LV_mem) parse_memory_done(p);
}

Module *
ir_parse(Arena *a, Names *names, Diag *d, Name file, const char *text, size_t len)
{
	Parser *p;
	Arena *tmp = arena_new();
	int errors = diag_errors(d);
	Module *m = ir_module(a, names);

	p = NEW(tmp, Parser);
	p->m = m;
	p->tmp = tmp;
	p->plan = NEW(tmp, PlanText);
	p->plan->arena = a;
	diag_source(d, file, text, len);
	scan_init(&p->s, names, d, file, text, len);
	if (parse_head(p)) {
		while (!diag_stop(d) && scan_line(&p->s))
			parse_item(p);
		if (diag_errors(d) == errors) finish(p);
	}
	arena_free(tmp);
	return diag_errors(d) == errors ? m : NULL;
}
