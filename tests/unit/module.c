/*
 * module.c - building bodies: result types of every rule, type errors, views as strides, dead code, copies, schedules.
 *
 * Types are written as text: "f32 batch@0.1 seq +2" is [batch seq], batch split over mesh axes 0 and 1, a sum pending
 * over 2. An op is given as name, operands' types, attributes ("axes=seq embed|eps=1e-5") and the result's type, or the
 * words of the type error.
 */
#include "ir/ir.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int checks;

#define CHECK(cond)                                                               \
	do {                                                                      \
		checks++;                                                         \
		if (!(cond)) {                                                    \
			printf("module: %s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1);                                                  \
		}                                                                 \
	} while (0)

static const struct {
	const char *name;
	int64_t extent;
} axes[] = {{"batch", 4}, {"seq", 6},  {"keys", 6},  {"embed", 12}, {"heads", 3},
	    {"head", 4},  {"ffn", 20}, {"vocab", 9}, {"one", 1},    {"pair", 2},
	    {"half", 2},  {"sum", 7},  {"six", 6}};

static Module *
module(Arena *a)
{
	Module *m = ir_module(a, names_new(a));

	for (size_t i = 0; i < COUNTOF(axes); i++)
		ir_axis(m, name_of(m->names, axes[i].name), axes[i].extent, (Loc){0});
	return m;
}

/* ---- text to types and attributes, and back ---- */

static Axis
axis(const Module *m, const char *name)
{
	Axis a = ir_axis_find(m, name_of(m->names, name));

	CHECK(a.i);
	return a;
}

static AxisList
list(const Module *m, const char *words)
{
	char copy[128], *rest = copy;
	AxisList l = {0};

	snprintf(copy, sizeof(copy), "%s", words);
	for (char *w; (w = strtok_r(rest, " ", &rest));)
		l.a[l.n++] = axis(m, w);
	return l;
}

static Type
type(const Module *m, const char *text)
{
	char copy[128], *rest = copy;
	Type t = {0};

	snprintf(copy, sizeof(copy), "%s", text);
	t.dt = dtype_parse(strtok_r(rest, " ", &rest));
	CHECK(t.dt != DT_none);
	for (char *w; (w = strtok_r(rest, " ", &rest));) {
		AxisUse u = {0};

		if (*w == '+') {
			t.partial |= (uint16_t)(1 << atoi(w + 1));
			continue;
		}
		for (char *at = strchr(w, '@'); at; at = strchr(at, '.')) {
			*at++ = '\0';
			u.shard[u.nshard++] = (uint8_t)strtol(at, NULL, 10);
		}
		u.a = axis(m, w);
		type_push(&t, u);
	}
	return t;
}

static const char *
type_str(const Module *m, const Type *t)
{
	Buf b;

	buf_init(&b, m->arena);
	buf_puts(&b, dtype_str(t->dt));
	for (int i = 0; i < t->n; i++) {
		buf_printf(&b, " %s", ir_axis_str(m, t->ax[i].a));
		for (int k = 0; k < t->ax[i].nshard; k++)
			buf_printf(&b, "%c%d", k ? '.' : '@', t->ax[i].shard[k]);
	}
	for (int k = 0; k < 16; k++)
		if (t->partial >> k & 1) buf_printf(&b, " +%d", k);
	return b.s;
}

static AttrKey
key_of(const char *text)
{
	for (int k = AK_none + 1; k < AK_COUNT; k++)
		if (strcmp(attr_info[k].text, text) == 0) return (AttrKey)k;
	CHECK(!"an attribute key");
	return AK_none;
}

static Attr
attr(const Module *m, char *item)
{
	char *value = strchr(item, '=');
	AxisList l;
	AttrKey k;

	*value++ = '\0';
	k = key_of(item);
	switch (attr_info[k].kind) {
	case AT_axes: l = list(m, value); return attr_make_axes(k, &l);
	case AT_axis: return attr_make_axis(k, axis(m, value));
	case AT_num: return attr_make_num(k, atof(value));
	case AT_dtype: return attr_make_dtype(k, dtype_parse(value));
	case AT_mesh: return attr_make_int(k, 1 << atoi(value));
	case AT_int: break;
	}
	return attr_make_int(k, atoll(value));
}

static OpCode
code_of(const char *text)
{
	for (int c = OP_none + 1; c < OP_COUNT; c++)
		if (strcmp(op_info[c].text, text) == 0) return (OpCode)c;
	CHECK(!"an op");
	return OP_none;
}

/* Appends the op; operands are given values, or new arguments of the types in `operands` ("f32 a, i32 b"). */
static Op *
emit(Module *m, Body *b, Diag *d, const char *op, const Val *in, int nin, const char *attrs,
     const Type *want)
{
	char copy[256], *rest = copy;
	Attr list_of[16];
	OpArgs args = {
	    .code = code_of(op), .in = in, .nin = nin, .attrs = list_of, .want = want};

	snprintf(copy, sizeof(copy), "%s", attrs);
	for (char *w; (w = strtok_r(rest, "|", &rest));)
		list_of[args.nattr++] = attr(m, w);
	return ir_emit(m, b, d, &args);
}

static int
arguments(Module *m, Body *b, const char *operands, Val *in)
{
	char copy[512], *rest = copy;
	int n = 0;

	snprintf(copy, sizeof(copy), "%s", operands);
	for (char *w; (w = strtok_r(rest, ",", &rest)); n++)
		in[n] = ir_port(m, b, PORT_arg, (uint16_t)n, 0, type(m, w));
	return n;
}

/* ---- inference ---- */

typedef struct Case {
	const char *op, *operands, *attrs, *result; /* results apart by ", " */
} Case;

static const Case good[] = {
    {"const", "", "value=2", "f32"},
    {"pos", "", "axis=seq", "i32 seq"},
    /* dtypes */
    {"add", "i32 seq,i32 seq", "", "i32 seq"},
    {"div", "i32 seq,i32 seq", "", "f32 seq"},
    {"pow", "i32 seq,i32", "", "f32 seq"},
    {"mul", "i32 seq,bf16 seq", "", "bf16 seq"},
    {"mul", "f32 seq,bf16 seq", "", "f32 seq"},
    {"mul", "f32 seq,f64 seq", "", "f64 seq"},
    {"floordiv", "i32 seq,i32", "", "i32 seq"},
    {"max", "i32 seq,i32", "", "i32 seq"},
    {"neg", "i32 seq", "", "i32 seq"},
    {"abs", "i32 seq", "", "i32 seq"},
    {"exp", "i32 seq", "", "f32 seq"},
    {"sqrt", "bf16 seq", "", "bf16 seq"},
    {"lt", "i32 seq,f32 keys", "", "bool seq keys"},
    {"eq", "bool seq,bool seq", "", "bool seq"},
    {"and", "bool seq,bool keys", "", "bool seq keys"},
    {"not", "bool seq", "", "bool seq"},
    {"cast", "bool seq", "dtype=f32", "f32 seq"},
    {"where", "bool seq,i32,i32 seq", "", "i32 seq"},
    {"where", "bool seq keys,f32 embed seq,f32", "", "f32 seq keys embed"},
    /* orders and unions */
    {"add", "f32 embed,f32 batch seq embed", "", "f32 batch seq embed"},
    {"sub", "f32 seq,f32 embed", "", "f32 seq embed"},
    {"broadcast", "f32 embed", "axes=batch seq", "f32 batch seq embed"},
    {"dropout", "f32 batch seq", "axes=batch|rate=0|key=1", "f32 batch seq"},
    {"dropout", "f32 batch@0 seq +1", "axes=batch|rate=0|key=1", "f32 batch@0 seq +1"},
    /* views */
    {"view", "f32 batch seq embed", "from=embed|to=heads head", "f32 batch seq heads head"},
    {"view", "f32 heads seq head", "from=heads head|to=embed", "f32 embed seq"},
    {"view", "f32 seq embed", "from=seq|to=keys", "f32 keys embed"},
    {"view", "f32 embed@1.2 seq", "from=embed|to=heads head", "f32 heads@1.2 head seq"},
    {"view", "f32 heads@1 head", "from=heads head|to=embed", "f32 embed@1"},
    {"slice", "f32 batch sum", "axis=sum|to=seq|start=1|step=1", "f32 batch seq"},
    {"slice", "f32 pair embed", "axis=pair|start=1|step=1", "f32 embed"},
    {"slice", "f32 pair embed", "axis=pair|to=pair|start=1|step=-1", "f32 pair embed"},
    {"unslice", "f32 embed", "axis=pair|start=1|step=1", "f32 pair embed"},
    {"unslice", "f32 batch seq +0", "axis=sum|from=seq|start=1|step=1", "f32 batch sum +0"},
    {"roll", "f32 batch@0 seq", "axis=seq|shift=-5", "f32 batch@0 seq"},
    {"concat", "f32 one embed,f32 batch seq embed", "from=one seq|to=sum",
     "f32 batch sum embed"},
    {"concat", "f32 one,f32 one", "from=one one|to=pair", "f32 pair"},
    {"gather", "f32 vocab embed,i32 batch seq", "axes=vocab", "f32 batch seq embed"},
    {"gather", "f32 vocab@1 embed,i32 seq", "axes=vocab", "f32 seq embed +1"},
    {"gather", "f32 batch@0 seq embed,i32 batch@0 pair", "axes=seq", "f32 batch@0 pair embed"},
    {"gather", "f32 seq keys heads,i32 ffn,i32 one", "axes=seq keys", "f32 ffn one heads"},
    {"gather", "f32 seq heads,i32 seq", "axes=seq", "f32 seq heads"},
    {"scatter_add", "f32 batch@0 seq embed,i32 batch@0 seq", "axes=vocab|along=vocab embed",
     "f32 vocab embed +0"},
    {"scatter_add", "f32 batch@0 pair embed,i32 batch@0 pair", "axes=seq|along=batch seq embed",
     "f32 batch@0 seq embed"},
    {"scatter_add", "f32 seq heads,i32 seq", "axes=seq|along=seq heads", "f32 seq heads"},
    /* reductions and contractions */
    {"sum", "f32 batch@0 seq embed", "axes=batch seq", "f32 embed +0"},
    {"sum", "i32 batch seq", "axes=seq", "f32 batch"},
    {"rmax", "i32 batch@0 seq", "axes=seq", "i32 batch@0"},
    {"rmax", "f32 batch seq@1", "axes=seq", "f32 batch +1"},
    {"dot", "f32 batch seq embed,f32 ffn embed", "axes=embed", "f32 batch seq ffn"},
    {"dot", "f32 batch@0 seq embed@1,f32 ffn embed@1", "axes=embed", "f32 batch@0 seq ffn +1"},
    {"dot", "f32 batch@0 seq embed,f32 batch@0 seq ffn", "axes=batch seq", "f32 embed ffn +0"},
    {"dot", "bf16 seq embed,f32 embed", "axes=embed", "bf16 seq"},
    {"dot", "f32 seq embed,f32 embed +1", "axes=embed", "f32 seq +1"},
    {"softmax", "bf16 batch keys", "axes=keys", "bf16 batch keys"},
    {"normalize", "f32 batch embed", "axes=embed|eps=1e-5|center=1", "f32 batch embed"},
    {"moments", "bf16 batch@0 embed", "axes=embed|eps=1e-5|center=1",
     "f32 batch@0, f32 batch@0"},
    {"topk", "f32 batch vocab", "axis=vocab|to=pair", "f32 batch pair, i32 batch pair"},
    {"cross_entropy", "bf16 batch@0 seq vocab,i32 batch@0 seq", "axis=vocab",
     "f32 batch@0 seq, f32 batch@0 seq"},
    {"attention", "f32 batch seq heads head,f32 batch keys head,f32 batch keys head",
     "keys=keys|feat=head|scale=0.5|cap=0|rate=-1|key=0|query=seq|hi=0",
     "f32 batch seq heads head, f32 batch seq heads"},
    {"attention", "f32 seq head,f32 keys head,f32 keys ffn,bool seq keys,f32 keys",
     "keys=keys|feat=head|scale=1|cap=0|rate=-1|key=0|mask=1|bias=1", "f32 seq ffn, f32 seq"},
    {"attention_grad",
     "f32 seq heads@1 head,f32 keys head,f32 keys head,f32 seq heads@1 head,f32 seq "
     "heads@1,f32 seq heads@1 head",
     "keys=keys|feat=head|scale=1|cap=0|rate=-1|key=0",
     "f32 seq heads@1 head, f32 keys head +1, f32 keys head +1"},
    {"attention_grad",
     "f32 seq head,f32 keys head,f32 keys head,f32 seq head,f32 seq,f32 seq head,f32 seq keys",
     "keys=keys|feat=head|scale=1|cap=0|rate=-1|key=0|bias=1",
     "f32 seq head, f32 keys head, f32 keys head, f32 seq keys"},
    /* pending sums */
    {"add", "f32 seq +1,f32 seq +1", "", "f32 seq +1"},
    {"mul", "f32 seq +1,f32 seq", "", "f32 seq +1"},
    {"div", "f32 seq +1,f32 seq", "", "f32 seq +1"},
    {"where", "bool seq,f32 seq +1,f32 seq +1", "", "f32 seq +1"},
    {"cast", "f32 seq +1", "dtype=bf16", "bf16 seq +1"},
    /* state and communication */
    {"sumsq", "f32 embed@2 ffn", "", "f64 +2"},
    {"adamw", "f32 ffn embed,f32 ffn embed,f32 ffn embed,f32 ffn embed,f64,f64,f64,f64",
     "beta1=0.9|beta2=0.95|eps=1e-8|decay=0.1|lr=1",
     "f32 ffn embed, f32 ffn embed, f32 ffn embed"},
    {"sgd", "f32 ffn,f32 ffn,f32 ffn,f64,f64", "momentum=0.9|decay=0|lr=1", "f32 ffn, f32 ffn"},
    {"all_reduce", "f32 seq +0 +1", "over=1", "f32 seq +0"},
    {"all_gather", "f32 seq@0.1", "over=1|axis=seq", "f32 seq@0"},
    {"reduce_scatter", "f32 seq@0 +1", "over=1|axis=seq", "f32 seq@0.1, f32 seq@0 +1"},
    {"all_to_all", "f32 seq@1 heads", "over=1|axis=seq|to=heads", "f32 seq heads@1"},
};

static const Case bad[] = {
    {"add", "f32 seq,bool seq", "", "operand 2 is bool; numbers are wanted"},
    {"where", "f32 seq,f32,f32", "", "operand 1 is f32; bool is wanted"},
    {"where", "bool seq,f32,bool", "", "operands are f32 and bool"},
    {"exp", "f32 seq +1", "",
     "operand 1 is a sum still pending over 1, and this is not linear in it: [seq +1]"},
    {"add", "f32 seq +1,f32 seq", "",
     "operand 1 is a sum pending over 1, operand 2 over nothing"},
    {"mul", "f32 seq +1,f32 +1", "", "operand 2 is a sum still pending over 1"},
    {"add", "f32 seq@1,f32 seq", "",
     "one operand has 'seq' (extent 6) split over 1, another over nothing"},
    {"mul", "f32 seq@1,f32 embed@1", "", "the result uses mesh axis 1 twice: [seq@1 embed@1]"},
    {"mul", "f32 seq@1,f32 +1", "", "the result uses mesh axis 1 twice: [seq@1 +1]"},
    {"broadcast", "f32 seq", "axes=seq", "the operand has the axis 'seq' already: [seq]"},
    {"view", "f32 seq embed", "from=embed|to=heads ffn",
     "[embed] has 12 entries, [heads ffn] has 60"},
    {"view", "f32 seq heads head", "from=heads head|to=half six",
     "of 2 axes as 2; one of the two must be one axis"},
    {"view", "f32 seq keys", "from=seq|to=keys", "the result has the axis 'keys' already"},
    {"view", "f32 heads head@1", "from=heads head|to=embed",
     "acts along 'head' (extent 4), which is split over 1"},
    {"slice", "f32 seq", "axis=seq|to=pair|start=5|step=1",
     "runs from 5 to 6, but 'seq' ends at 5"},
    {"slice", "f32 seq", "axis=seq|to=pair|start=0|step=-1",
     "runs from 0 to -1, but 'seq' ends at 5"},
    {"slice", "f32 seq", "axis=seq|to=pair|start=0|step=9223372036854775807",
     "runs from 0 to 9223372036854775807"},
    {"slice", "f32 seq", "axis=seq|to=half|start=9223372036854775807|step=9223372036854775807",
     "leave the axis 'seq'"},
    {"slice", "f32 seq", "axis=seq|to=pair|start=2|step=0", "a step of 0 along 'seq'"},
    {"slice", "f32 seq", "axis=embed|start=2|step=1",
     "the operand has no axis 'embed' (extent 12), only [seq]"},
    {"slice", "f32 seq@1", "axis=seq|start=2|step=1",
     "acts along 'seq' (extent 6), which is split over 1: [seq@1]"},
    {"roll", "f32 seq@1", "axis=seq|shift=1",
     "acts along 'seq' (extent 6), which is split over 1"},
    {"concat", "f32 one,f32 pair", "from=one pair|to=seq",
     "'one' and 'pair' have 1 + 2 entries, 'seq' has 6"},
    {"concat", "f32 one seq,f32 seq", "from=one seq|to=sum",
     "operand 1 has both 'one' and 'seq'"},
    {"gather", "f32 vocab,f32 seq", "axes=vocab", "operand 2 is f32; i32 is wanted"},
    {"gather", "f32 vocab,i32 seq,i32 seq", "axes=vocab", "1 axes, but 2 indices"},
    {"scatter_add", "f32 seq,i32 seq", "axes=vocab|along=embed",
     "along lacks the axis 'vocab'"},
    {"scatter_add", "f32 seq,i32 seq", "axes=vocab|along=vocab embed", "no axis 'embed'"},
    {"sum", "f32 seq", "axes=embed", "the operand has no axis 'embed' (extent 12), only [seq]"},
    {"sum", "f32 seq", "axes=seq seq", "the axis 'seq' twice"},
    {"dot", "f32 seq embed,f32 ffn", "axes=embed",
     "the second operand has no axis 'embed' (extent 12), only [ffn]"},
    {"dot", "f32 embed@1,f32 embed", "axes=embed",
     "one operand has 'embed' (extent 12) split over 1"},
    {"softmax", "f32 seq", "axes=", "over no axis"},
    {"topk", "f32 pair", "axis=pair|to=seq", "the first 6 ('seq') of 2 ('pair')"},
    {"cross_entropy", "f32 seq vocab,i32 vocab", "axis=vocab",
     "the label has the axis 'vocab' already"},
    {"attention", "f32 keys head,f32 keys head,f32 keys head",
     "keys=keys|feat=head|scale=1|cap=0|rate=-1|key=0",
     "the query has the axis 'keys' already"},
    {"attention", "f32 seq head,f32 keys head,f32 keys head",
     "keys=keys|feat=head|scale=1|cap=0|rate=-1|key=0|mask=1",
     "3 operands, but mask and bias make 4"},
    {"attention", "f32 seq head,f32 keys head,f32 keys head,f32 ffn",
     "keys=keys|feat=head|scale=1|cap=0|rate=-1|key=0|bias=1",
     "the scores: their tensor has no axis 'ffn'"},
    {"attention", "f32 seq head,f32 keys head,f32 keys head",
     "keys=keys|feat=head|scale=1|cap=0|rate=-1|key=0|hi=0",
     "bounds on positions, but no query axis"},
    {"adamw", "f32 ffn embed,f32 embed ffn,f32 ffn embed,f32 ffn embed,f64,f64,f64,f64",
     "beta1=0.9|beta2=0.95|eps=1e-8|decay=0.1|lr=1",
     "operand 2 is [embed ffn], but the weight is [ffn embed]"},
    {"all_reduce", "f32 seq +0", "over=1", "over 1, but the operand's sum is pending over 0"},
    {"all_gather", "f32 seq@1.0", "over=1|axis=seq",
     "'seq' is not split over 1 innermost: [seq@1.0]"},
    /* what ops.def says */
    {"exp", "f32 seq,f32 seq", "", "2 operands; 1 to 1 are wanted"},
    {"exp", "f32 seq", "axes=seq", "takes no axes"},
    {"sum", "f32 seq", "", "without axes"},
    {"sum", "f32 seq", "axes=seq|axes=seq", "takes no axes"},
};

static void
test_good(Arena *a)
{
	for (size_t i = 0; i < COUNTOF(good); i++) {
		Module *m = module(a);
		Body b = ir_body(name_of(m->names, "block"), BK_F);
		Diag *d = diag_new(a, m->names, stdout);
		Val in[8];
		int nin = arguments(m, &b, good[i].operands, in);
		Op *op = emit(m, &b, d, good[i].op, in, nin, good[i].attrs, NULL);
		Buf got;

		CHECK(op);
		buf_init(&got, a);
		for (int k = 0; k < op->nout; k++)
			if (op->out[k].i)
				buf_printf(&got, "%s%s", k ? ", " : "",
					   type_str(m, val_type(&b, op->out[k])));
		if (strcmp(got.s, good[i].result) != 0) printf("%s: %s\n", good[i].op, got.s);
		CHECK(strcmp(got.s, good[i].result) == 0);
		for (int k = 0; k < op->nout; k++)
			CHECK(!op->out[k].i || (val_op(&b, op->out[k]) == op &&
						b.vals[op->out[k].i].result == k));
	}
}

static void
test_bad(Arena *a)
{
	for (size_t i = 0; i < COUNTOF(bad); i++) {
		Module *m = module(a);
		Body b = ir_body(name_of(m->names, "block"), BK_F);
		char *text;
		size_t n;
		FILE *f = open_memstream(&text, &n);
		Diag *d = diag_new(a, m->names, f);
		Val in[8];
		int nin = arguments(m, &b, bad[i].operands, in);
		uint32_t nvals = b.nvals;

		CHECK(!emit(m, &b, d, bad[i].op, in, nin, bad[i].attrs, NULL));
		CHECK(b.nvals == nvals && b.nops == 0);
		fclose(f);
		if (diag_errors(d) != 1 || !strstr(text, bad[i].result))
			printf("%s: %s", bad[i].op, text);
		CHECK(diag_errors(d) == 1 && strstr(text, bad[i].result));
		free(text);
	}
}

/* What a caller may ask of a result: an order, shards of new axes, the dtype of a constant; no more. */
static void
test_want(Arena *a)
{
	Module *m = module(a);
	Body b = ir_body(name_of(m->names, "block"), BK_F);
	FILE *null = fopen("/dev/null", "w");
	Diag *d = diag_new(a, m->names, null);
	Val in[8];
	Type want = type(m, "f32 ffn seq batch"), less = type(m, "f32 ffn seq");
	Op *op;

	arguments(m, &b, "f32 batch seq embed,f32 ffn embed,f32 seq +1,f32", in);
	op = emit(m, &b, d, "dot", in, 2, "axes=embed", &want);
	CHECK(op && strcmp(type_str(m, val_type(&b, op->out[0])), "f32 ffn seq batch") == 0);
	CHECK(!emit(m, &b, d, "dot", in, 2, "axes=embed", &less));
	want = type(m, "i32 seq@1");
	op = emit(m, &b, d, "pos", NULL, 0, "axis=seq", &want);
	CHECK(op && type_equal(val_type(&b, op->out[0]), &want));
	want = type(m, "f32 batch@1 seq embed");
	CHECK(!emit(m, &b, d, "exp", in, 1, "", &want));
	want = type(m, "f32 embed vocab");
	arguments(m, &b, "f32 seq embed,i32 seq", in + 4);
	CHECK(!emit(m, &b, d, "scatter_add", in + 4, 2, "axes=vocab|along=vocab embed", &want));
	CHECK(val_type(&b, ir_const(m, &b, DT_i32, 3, (Loc){0}))->dt == DT_i32);
	CHECK(ir_sum(m, &b, in[0], &(AxisList){0}, (Loc){0}).i == in[0].i);

	/* 0 + pending is pending, also through a broadcast. */
	Val zero = ir_const(m, &b, DT_f32, 0, (Loc){0});
	Val wide = emit(m, &b, d, "broadcast", &zero, 1, "axes=seq", NULL)->out[0];
	op = emit(m, &b, d, "add", (Val[]){wide, in[2]}, 2, "", NULL);
	CHECK(op && strcmp(type_str(m, val_type(&b, op->out[0])), "f32 seq +1") == 0);
	fclose(null);
}

/* ---- views ---- */

typedef struct View {
	const char *op, *attrs, *order;
} View;

/* The strides of a chain of views of f32[batch seq embed] (4 6 12), as text; "own" where it needs a buffer. */
static void
check_views(Arena *a, const View *chain, int n, const char *want)
{
	Module *m = module(a);
	Body b = ir_body(name_of(m->names, "block"), BK_F);
	Val base = ir_port(m, &b, PORT_arg, 0, 0, type(m, "f32 batch seq embed")), v = base;
	Access x;
	Buf got;

	for (int i = 0; i < n; i++) {
		Type order = {0};

		if (chain[i].order) order = type(m, chain[i].order);
		v = emit(m, &b, NULL, chain[i].op, &v, 1, chain[i].attrs,
			 chain[i].order ? &order : NULL)
			->out[0];
	}
	buf_init(&got, a);
	if (!ir_access(m, &b, v, &x)) buf_puts(&got, "own ");
	buf_printf(&got, "%d%+d", x.base.i == base.i, (int)x.offset);
	for (int k = 0; k < val_type(&b, v)->n; k++)
		buf_printf(&got, " %d", (int)x.stride[k]);
	if (strcmp(got.s, want) != 0) printf("view: %s, not %s\n", got.s, want);
	CHECK(strcmp(got.s, want) == 0);
}

static void
test_access(Arena *a)
{
	check_views(a, NULL, 0, "1+0 72 12 1");
	check_views(a,
		    (View[]){{"view", "from=embed|to=heads head", "f32 batch heads seq head"}},
		    1, "1+0 72 4 12 1");
	check_views(a, (View[]){{"slice", "axis=seq|start=2|step=1", NULL}}, 1, "1+24 72 1");
	check_views(a, (View[]){{"slice", "axis=seq|to=pair|start=5|step=-3", NULL}}, 1,
		    "1+60 72 -36 1");
	check_views(a, (View[]){{"broadcast", "axes=keys", NULL}}, 1, "1+0 0 72 12 1");
	check_views(a,
		    (View[]){{"view", "from=embed|to=heads head", NULL},
			     {"slice", "axis=heads|start=2|step=1", NULL},
			     {"broadcast", "axes=keys", "f32 batch seq keys head"}},
		    3, "1+8 72 12 0 1");
	/* Split and merged again it is itself; with its halves exchanged it is not a stride. */
	check_views(a,
		    (View[]){{"view", "from=embed|to=heads head", "f32 batch heads seq head"},
			     {"view", "from=heads head|to=embed", "f32 batch seq embed"}},
		    2, "1+0 72 12 1");
	check_views(a,
		    (View[]){{"view", "from=embed|to=head heads", NULL},
			     {"view", "from=heads head|to=embed", "f32 batch seq embed"}},
		    2, "own 0+0 72 12 1");
	/* A view above one that needs a buffer reads that buffer. */
	check_views(a,
		    (View[]){{"view", "from=embed|to=head heads", NULL},
			     {"view", "from=heads head|to=embed", "f32 batch seq embed"},
			     {"slice", "axis=seq|start=1|step=1", NULL}},
		    3, "0+12 72 1");
	check_views(a, (View[]){{"exp", "", NULL}}, 1, "own 0+0 72 12 1");
	check_views(a, (View[]){{"roll", "axis=seq|shift=1", NULL}}, 1, "own 0+0 72 12 1");
}

/* Long chains are cut at the same places whoever asks: every base has a buffer of its own. */
static void
test_long_chain(Arena *a)
{
	Module *m = module(a);
	Body b = ir_body(name_of(m->names, "block"), BK_F);
	Val v = ir_port(m, &b, PORT_arg, 0, 0, type(m, "f32 batch seq"));
	Access x, y;

	for (int i = 0; i < 300; i++) {
		const char *attrs = i % 2 ? "from=keys|to=seq" : "from=seq|to=keys";

		v = emit(m, &b, NULL, "view", &v, 1, attrs, NULL)->out[0];
		ir_access(m, &b, v, &x);
		CHECK(x.offset == 0 && x.stride[0] == 6 && x.stride[1] == 1);
		CHECK(x.base.i == v.i || !val_op(&b, x.base) || !ir_access(m, &b, x.base, &y));
	}
}

/* ---- bodies ---- */

static void
test_dce(Arena *a)
{
	Module *m = module(a);
	Body b = ir_body(name_of(m->names, "block"), BK_F);
	Diag *d = diag_new(a, m->names, stdout);
	Val in[8], dead, mean, y;
	uint32_t *uses;
	Op *op;

	arguments(m, &b, "f32 batch embed,f32 embed,f32 batch", in);
	dead = ir_op1(m, &b, OP_exp, in[1], (Loc){0});
	ir_op2(m, &b, OP_mul, dead, in[0], (Loc){0});
	op = emit(m, &b, d, "moments", in, 1, "axes=embed|eps=1e-5|center=1", NULL);
	mean = op->out[0];
	y = ir_op2(m, &b, OP_sub, in[0], mean, (Loc){0});
	ir_out(m, &b, PORT_out, 0, y);
	ir_out(m, &b, PORT_save, 0, y);
	uses = body_uses(&b, a);
	CHECK(uses[in[0].i] == 3 && uses[y.i] == 2 && uses[op->out[1].i] == 0);

	CHECK(body_dce(m, &b) && !body_dce(m, &b));
	CHECK(b.nops == 2 && b.nvals == 4 && b.nports == 3);
	CHECK(b.ops[0].code == OP_moments && b.ops[0].out[0].i && !b.ops[0].out[1].i);
	CHECK(b.ops[1].code == OP_sub && b.ops[1].in[0].i == 1 &&
	      b.ops[1].in[1].i == b.ops[0].out[0].i);
	CHECK(b.ports[0].kind == PORT_arg && b.ports[1].kind == PORT_out &&
	      b.ports[2].v.i == b.ops[1].out[0].i);
	CHECK(val_op(&b, b.ports[1].v) == &b.ops[1]);

	/* An argument that is a result stays; a result may be an argument. */
	b = ir_body(name_of(m->names, "id"), BK_F);
	arguments(m, &b, "f32 batch,f32 batch", in);
	ir_out(m, &b, PORT_out, 0, in[1]);
	CHECK(body_dce(m, &b) && b.nports == 2 && b.nvals == 2 && b.ports[0].slot == 1);
}

static void
test_names(Arena *a)
{
	Module *m = module(a);
	Body b = ir_body(name_of(m->names, "block"), BK_F);
	Name h = name_of(m->names, "h");
	Type t = type(m, "f32 seq");

	CHECK(strcmp(val_str(m, &b, (Val){ir_val(m, &b, h, t).i}), "h") == 0);
	CHECK(strcmp(val_str(m, &b, ir_val(m, &b, name_of(m->names, "h.3"), t)), "h.3") == 0);
	for (int i = 0; i < 3000; i++) {
		Val v = ir_val(m, &b, h, t);

		for (uint32_t k = 1; k < v.i && i < 100; k++)
			CHECK(b.vals[k].name != b.vals[v.i].name);
	}
	CHECK(b.nvals == 3003);
	CHECK(strcmp(val_str(m, &b, NO_VAL), "_") == 0);
}

static void
test_axes(Arena *a)
{
	Module *m = module(a);
	Name half = name_of(m->names, "half");
	Axis two = ir_axis(m, half, 8, (Loc){0});

	CHECK(strcmp(ir_axis_str(m, two), "half.2") == 0 && ir_extent(m, two) == 8);
	CHECK(ir_axis(m, half, 8, (Loc){0}).i == two.i &&
	      ir_axis(m, half, 2, (Loc){0}).i == axis(m, "half").i);
	CHECK(strcmp(ir_axis_str(m, ir_axis(m, half, 9, (Loc){0})), "half.3") == 0);

	/* Blocks are rounded up, one mesh axis after the other. */
	Mesh mesh = {.n = 3};
	mesh.ax[0].degree = 1;
	mesh.ax[1].degree = 2;
	mesh.ax[2].degree = 3;
	Type t = type(m, "bf16 vocab@1.2 sum seq@2");
	CHECK(type_extent(m, &mesh, &t, 0) == 2 && type_extent(m, &mesh, &t, 2) == 2);
	CHECK(type_count(m, NULL, &t) == 9 * 7 * 6 &&
	      type_bytes(m, &mesh, &t) == 2 * 7 * 2 * 2);
	CHECK(type_remove(&t, axis(m, "sum")) && !type_remove(&t, axis(m, "sum")) && t.n == 2);
	CHECK(type_find(&t, axis(m, "seq")) == 1);
	for (int i = 0; i < 3; i++)
		type_push(&t, (AxisUse){.a = ir_axis(m, name_fmt(m->names, "huge%d", i),
						     INT64_C(1) << 40, (Loc){0})});
	CHECK(type_count(m, NULL, &t) == INT64_MAX && type_bytes(m, NULL, &t) == INT64_MAX);
}

static void
test_params(Arena *a)
{
	Module *m = module(a);
	Param p = {.name = name_of(m->names, "experts.{heads}.w"),
		   .ndims = 2,
		   .dims = {1, 2},
		   .per = axis(m, "heads")};
	int64_t shape[MAX_AXES];
	int n;

	p.type = type(m, "f32 heads ffn pair half");
	PUSH(a, m->params, m->nparams, m->cparams, p);
	CHECK(ir_param_count(m) == 3 * 20 * 2 * 2);
	CHECK(ir_param_entries(m, 0, shape, &n) == 3 && n == 2 && shape[0] == 20 &&
	      shape[1] == 4);
	m->params[0].name = name_of(m->names, "experts.w");
	CHECK(ir_param_entries(m, 0, shape, &n) == 1 && n == 3 && shape[0] == 3 &&
	      shape[2] == 4);
}

static void
test_clone(Arena *a)
{
	Arena *other = arena_new();
	Module *m = module(a), *c;
	Body b = ir_body(name_of(m->names, "block"), BK_F);
	Val x = ir_port(m, &b, PORT_arg, 0, 0, type(m, "f32 seq"));

	ir_out(m, &b, PORT_out, 0, ir_op1(m, &b, OP_exp, x, (Loc){0}));
	ir_add_body(m, b);
	c = ir_clone(m, other);
	CHECK(c->nbodies == 2 && c->bodies[1].ops != m->bodies[1].ops &&
	      c->bodies[1].ops[0].in != m->bodies[1].ops[0].in);
	c->bodies[1].ops[0].in[0] = NO_VAL;
	c->axes[1].extent = 99;
	CHECK(m->bodies[1].ops[0].in[0].i == x.i && m->axes[1].extent == 4);
	ir_val(c, &c->bodies[1], name_of(c->names, "exp"), type(c, "f32 seq"));
	CHECK(strcmp(val_str(c, &c->bodies[1], (Val){3}), "exp.2") == 0);
	arena_free(other);
}

static bool
near(double x, double y)
{
	return fabs(x - y) <= 1e-15;
}

static void
test_rate(void)
{
	Train t = {.rate = RATE_cosine, .peak = 0.1, .warmup = 10, .steps = 110, .floor = 0.01};

	CHECK(near(train_rate(&t, 0), 0.01) && near(train_rate(&t, 9), 0.1) &&
	      near(train_rate(&t, 10), 0.1));
	CHECK(near(train_rate(&t, 60), 0.055) && near(train_rate(&t, 110), 0.01) &&
	      near(train_rate(&t, 1000), 0.01));
	t.rate = RATE_linear_decay;
	t.floor = 0;
	CHECK(near(train_rate(&t, 4), 0.05) && near(train_rate(&t, 60), 0.05) &&
	      train_rate(&t, 110) == 0);
	t.rate = RATE_inverse_sqrt;
	CHECK(near(train_rate(&t, 0), 0.1) && near(train_rate(&t, 9), 0.1) &&
	      near(train_rate(&t, 39), 0.05));
	t.warmup = 0;
	CHECK(near(train_rate(&t, 0), 0.1) && near(train_rate(&t, 3), 0.05));
	t.rate = RATE_cosine;
	t.steps = 0;
	t.floor = 0.02;
	CHECK(train_rate(&t, 0) == 0.02);
	t.rate = RATE_const;
	CHECK(train_rate(&t, 12345) == 0.1);
}

/* Every op's table entry is complete, and no two keys or ops share a name. */
static void
test_tables(void)
{
	for (int c = OP_none + 1; c < OP_COUNT; c++) {
		const OpInfo *info = &op_info[c];

		CHECK(info->text && info->min_in <= info->max_in && info->nout >= 1 &&
		      info->nout <= MAX_OUT);
		CHECK(code_of(info->text) == (OpCode)c);
		CHECK(info->attrs[COUNTOF(info->attrs) - 1].key == AK_none);
	}
	for (int k = AK_none + 1; k < AK_COUNT; k++)
		CHECK(key_of(attr_info[k].text) == (AttrKey)k);
	for (int k = 0; k < PORT_COUNT; k++)
		CHECK(port_str[k]);
	for (int dt = DT_none + 1; dt < DT_COUNT; dt++)
		CHECK(dtype_parse(dtype_str((DType)dt)) == (DType)dt);
	CHECK(dtype_parse("f16") == DT_none && dtype_bytes(DT_bf16) == 2 &&
	      !dtype_float(DT_i32));
	CHECK(op_info[OP_slice].attrs[1].key == AK_to && op_info[OP_slice].attrs[1].optional);
}

int
main(void)
{
	Arena *a = arena_new();

	test_tables();
	test_good(a);
	test_bad(a);
	test_want(a);
	test_access(a);
	test_long_chain(a);
	test_dce(a);
	test_names(a);
	test_axes(a);
	test_params(a);
	test_clone(a);
	test_rate();
	arena_free(a);
	printf("module: %d checks ok\n", checks);
	return 0;
}
