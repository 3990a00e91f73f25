/*
 * train.c - the train block: optimizer, learning rate, clipping, precision, seed.
 */
#include "frontend/elab.h"

#include <string.h>

void
default_train(Train *t)
{
	*t = (Train){.opt = OPT_adamw,
		     .rate = RATE_const,
		     .peak = 1e-3,
		     .beta1 = 0.9,
		     .beta2 = 0.999,
		     .eps = 1e-8,
		     .precision = DT_f32};
}

static const struct {
	const char *name;
	Formal formals[5];
	RateKind rate;
	OptKind opt;
	bool is_rate;
} calls[] = {
#define REQ(n)            \
	{                 \
		.name = n \
	}
#define OPT(n, x)                                       \
	{                                               \
		.name = n, .kind = F_number, .value = x \
	}
    {"adamw",
     {REQ("lr"), OPT("beta1", 0.9), OPT("beta2", 0.999), OPT("eps", 1e-8), OPT("decay", 0)},
     .opt = OPT_adamw},
    {"sgd", {REQ("lr"), OPT("momentum", 0), OPT("decay", 0)}, .opt = OPT_sgd},
    {"cosine",
     {REQ("peak"), OPT("warmup", 0), REQ("steps"), OPT("floor", 0)},
     .rate = RATE_cosine,
     .is_rate = true},
    {"linear_decay",
     {REQ("peak"), OPT("warmup", 0), REQ("steps"), OPT("floor", 0)},
     .rate = RATE_linear_decay,
     .is_rate = true},
    {"inverse_sqrt", {REQ("peak"), REQ("warmup")}, .rate = RATE_inverse_sqrt, .is_rate = true},
};

/* Arguments of one of the calls above; `lr` is left as a node in *lr. -1 after a diagnostic. */
static int
train_call(Elab *e, Frame *f, const Node *n, bool rate, double *arg, const Node **lr)
{
	Call c;
	Name names[5];
	size_t k = 0;
	int nf = 0;
	call_of(n, &c);
	while (k < COUNTOF(calls) &&
	       (calls[k].is_rate != rate || strcmp(calls[k].name, str(e, c.name))))
		k++;
	if (k == COUNTOF(calls)) {
		fe_error(e, f, c.at,
			 rate ? "'%s' is no learning rate; there are a number, cosine, "
				"linear_decay and inverse_sqrt"
			      : "'%s' is no optimizer; there are adamw and sgd",
			 str(e, c.name));
		return -1;
	}
	if (c.subs || c.tail) {
		fe_error(e, f, c.at, "'%s' takes options in parentheses only", str(e, c.name));
		return -1;
	}
	for (; nf < 5 && calls[k].formals[nf].name; nf++)
		names[nf] = name_of(e->ctx->names, calls[k].formals[nf].name);
	if (!match_args(e, f, &c, names, nf)) return -1;
	for (int i = 0; i < nf; i++) {
		const Formal *fo = &calls[k].formals[i];
		Buf what;
		if (!c.arg_node[i] && fo->kind == F_required) {
			fe_error(e, f, c.at, "'%s' lacks its argument '%s'", calls[k].name,
				 fo->name);
			return -1;
		}
		arg[i] = fo->value;
		if (!rate && i == 0) {
			*lr = c.arg_node[0];
			continue;
		}
		if (!c.arg_node[i]) continue;
		buf_init(&what, e->arena);
		buf_printf(&what, "'%s'", fo->name);
		if (!any_number(e, f, c.arg_at[i], eval(e, f, c.arg_node[i]), what.s, &arg[i]))
			return -1;
		if (arg[i] < 0 || (fo->name[0] == 'b' && arg[i] >= 1)) {
			fe_error(e, f, c.arg_at[i], "'%s' is %s, but it is to be %s", fo->name,
				 num_text(e, arg[i]),
				 fo->name[0] == 'b' ? "at least 0 and less than 1"
						    : "at least 0");
			return -1;
		}
	}
	return (int)k;
}

static void
train_rate_of(Elab *e, Frame *f, const Node *n, Train *t)
{
	double arg[5] = {0};
	if (n->kind != N_call) {
		if (!any_number(e, f, n->at, eval(e, f, n), "a learning rate", &t->peak))
			return;
		t->rate = RATE_const;
		if (t->peak < 0)
			fe_error(e, f, n->at, "a learning rate of %s", num_text(e, t->peak));
		return;
	}
	int k = train_call(e, f, n, true, arg, NULL);
	if (k < 0) return;
	t->rate = calls[k].rate;
	t->peak = arg[0];
	t->warmup = arg[1];
	t->steps = t->rate == RATE_inverse_sqrt ? 0 : arg[2];
	t->floor = t->rate == RATE_inverse_sqrt ? 0 : arg[3];
	if (t->rate == RATE_inverse_sqrt ? t->warmup <= 0 : t->steps <= t->warmup)
		fe_error(e, f, n->at,
			 t->rate == RATE_inverse_sqrt
			     ? "'warmup' is at least 1"
			     : "the rate falls from step %s to %s, which is no time",
			 num_text(e, t->warmup), num_text(e, t->steps));
}

static void
train_optimizer(Elab *e, Frame *f, const Node *n, Train *t)
{
	double arg[5] = {0};
	const Node *lr = NULL;
	if (n->kind != N_call) {
		fe_error(e, f, n->at, "an optimizer is adamw(lr = ...) or sgd(lr = ...)");
		return;
	}
	int k = train_call(e, f, n, false, arg, &lr);
	if (k < 0) return;
	t->opt = calls[k].opt;
	if (t->opt == OPT_adamw) {
		t->beta1 = arg[1];
		t->beta2 = arg[2];
		t->eps = arg[3];
		t->decay = arg[4];
	} else {
		t->momentum = arg[1];
		t->decay = arg[2];
	}
	train_rate_of(e, f, lr, t);
}

static void
train_option(Elab *e, Frame *f, const Node *n)
{
	static const char *const options[] = {"optimizer", "clip", "precision", "weights",
					      "seed"};
	Train *t = &e->m->train;
	Name names[COUNTOF(options)];
	const char *name = str(e, n->a->name);
	double x;
	if (!strcmp(name, "optimizer")) {
		train_optimizer(e, f, n->b, t);
	} else if (!strcmp(name, "clip")) {
		if (!any_number(e, f, n->b->at, eval(e, f, n->b), "'clip'", &t->clip)) return;
		if (t->clip < 0)
			fe_error(e, f, n->b->at, "'clip' is a norm, at least 0, but this is %s",
				 num_text(e, t->clip));
	} else if (!strcmp(name, "seed")) {
		if (whole_number(e, f, n->b, eval(e, f, n->b), "a seed", 0, 9007199254740991.0,
				 &x))
			t->seed = (uint64_t)x;
	} else if (!strcmp(name, "precision") || !strcmp(name, "weights")) {
		DType dt = n->b->kind == N_name ? dtype_parse(str(e, n->b->name)) : DT_none;
		if (dt != DT_f32 && dt != DT_bf16)
			fe_error(e, f, n->b->at, "%s f32 or bf16",
				 *name == 'p' ? "a precision is" : "weights are");
	} else {
		for (size_t i = 0; i < COUNTOF(options); i++)
			names[i] = name_of(e->ctx->names, options[i]);
		Name best = closest(e, n->a->name, names, COUNTOF(options));
		if (best)
			fe_error(e, f, n->a->at,
				 "'train' has no option '%s'; did you mean '%s'?", name,
				 str(e, best));
		else
			fe_error(e, f, n->a->at,
				 "'train' has no option '%s'; there are optimizer, clip, "
				 "precision, weights and seed",
				 name);
	}
}

void
elab_train(Elab *e, Frame *f, const Node *block)
{
	Map seen = {0};
	e->m->train.given = true;
	for (const Node *n = block; n; n = n->next) {
		if (n->kind != N_bind || n->a->next) {
			fe_error(e, f, n->at,
				 "'train' holds options: optimizer, clip, precision, weights "
				 "and seed");
			continue;
		}
		if (map_get(&seen, n->a->name)) {
			fe_error(e, f, n->a->at, "'%s' is given twice", str(e, n->a->name));
			continue;
		}
		map_put(e->arena, &seen, n->a->name, 1);
		train_option(e, f, n);
	}
}

DType
train_dtype(Elab *e, const Node *block, const char *option)
{
	for (const Node *n = block; n; n = n->next) {
		if (n->kind != N_bind || n->a->next || n->b->kind != N_name) continue;
		if (strcmp(str(e, n->a->name), option)) continue;
		DType dt = dtype_parse(str(e, n->b->name));
		if (dt == DT_bf16) return dt;
	}
	return DT_f32;
}
