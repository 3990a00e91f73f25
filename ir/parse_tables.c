/*
 * parse_tables.c - text to module: layer types, action tables, the memory plan.
 * Output: lists that are as long as what they belong to; indices in range.
 */
#include "ir/text.h"

#include <inttypes.h>
#include <string.h>

/* ---- layer types ---- */

typedef struct TypeText {
	LayerType l;
	uint32_t cweights, csaved, ccarry;
	uint32_t nsaved_at, csaved_at, ncarry_at, ccarry_at, nout_at, cout_at;
} TypeText;

/* [ "at" offset ] at the end of a line; -1 where something else keeps it, -1 - s for a carried value in the buffer of
 * saved value s. */
static bool
parse_at(Parser *p, int64_t least, int64_t **at, uint32_t *n, uint32_t *cap)
{
	Scan before = p->s;
	int64_t x;

	if (!scan_try_key(&p->s, "at")) return true;
	if (p->m->level < LV_mem)
		return scan_fail(&before, "offsets belong to level mem; this is level %s",
				 level_str[p->m->level]);
	if (!scan_int(&p->s, "the offset", least, MAX_OFFSET, &x)) return false;
	PUSH(p->m->arena, *at, *n, *cap, x);
	return true;
}

static bool
type_body(Parser *p, TypeText *t)
{
	Scan before;
	uint32_t body;
	int kind;

	if (!scan_pick_to(&p->s, &(Words){"kind of body", body_str, BK_COUNT}, &kind))
		return false;
	before = p->s;
	if (!scan_u32(&p->s, "the body", 0, MAX_COUNT, &body)) return false;
	if (body >= p->m->nbodies)
		return parse_missing(p, HOLE_body, before,
				     "no body %" PRIu32 "; there are %" PRIu32, body,
				     p->m->nbodies - 1);
	if (body && p->m->bodies[body].kind != (BodyKind)kind)
		return scan_fail(&before, "body %" PRIu32 " is of kind %s, not %s", body,
				 body_str[p->m->bodies[body].kind], body_str[kind]);
	t->l.body[kind] = body;
	return !scan_try_key(&p->s, "flops") || scan_num(&p->s, "flops", &t->l.flops[kind]);
}

static bool
type_saved(Parser *p, TypeText *t)
{
	Type type;

	if (!parse_type(p, text_type_mesh(p->m, &t->l), &type)) return false;
	if (t->l.nsaved == MAX_SLOTS)
		return scan_fail(&p->s, "more than %d saved values", MAX_SLOTS);
	PUSH(p->m->arena, t->l.saved, t->l.nsaved, t->csaved, type);
	return parse_at(p, -1, &t->l.saved_at, &t->nsaved_at, &t->csaved_at);
}

static bool
type_carry(Parser *p, TypeText *t)
{
	Type type;

	if (!parse_type(p, text_type_mesh(p->m, &t->l), &type)) return false;
	if (t->l.ncarry == MAX_SLOTS)
		return scan_fail(&p->s, "more than %d carried values", MAX_SLOTS);
	PUSH(p->m->arena, t->l.carry, t->l.ncarry, t->ccarry, type);
	return parse_at(p, -MAX_SLOTS, &t->l.carry_at, &t->ncarry_at, &t->ccarry_at);
}

static bool
type_weight(Parser *p, TypeText *t)
{
	TypeWeight w = {0};

	if (!scan_string(&p->s, "the weight's name", &w.name) || !scan_punct(&p->s, ':') ||
	    !parse_type(p, text_type_mesh(p->m, &t->l), &w.type))
		return false;
	if (t->l.nweights == MAX_SLOTS)
		return scan_fail(&p->s, "more than %d weights", MAX_SLOTS);
	PUSH(p->m->arena, t->l.weights, t->l.nweights, t->cweights, w);
	return true;
}

static bool
type_out(Parser *p, TypeText *t)
{
	Scan before = p->s;
	uint32_t r;

	if (!scan_u32(&p->s, "the result", 0, MAX_PORT, &r)) return false;
	if (r != t->nout_at || r >= t->l.nouts)
		return scan_fail(
		    &before, "result %" PRIu32 " is out of order; next is %" PRIu32 " of %u", r,
		    t->nout_at, t->l.nouts);
	if (!parse_at(p, -1, &t->l.out_at, &t->nout_at, &t->cout_at)) return false;
	return t->nout_at == r + 1 || scan_key(&p->s, "at");
}

static bool
type_frame(Parser *p, TypeText *t)
{
	return scan_key(&p->s, "slot") &&
	       scan_int(&p->s, "the slot frame", 0, MAX_OFFSET, &t->l.slot_frame) &&
	       scan_key(&p->s, "carry") &&
	       scan_int(&p->s, "the carry frame", 0, MAX_OFFSET, &t->l.carry_frame);
}

static bool
type_line(Parser *p, void *into)
{
	static const char *const words[] = {"body", "weight", "saved", "carry", "out", "frame"};
	static bool (*const parse[])(Parser *, TypeText *) = {
	    type_body, type_weight, type_saved, type_carry, type_out, type_frame};
	int i;

	return scan_pick_to(&p->s, WORDS("item of a layer type", words), &i) &&
	       parse[i](p, into) && scan_done(&p->s);
}

/* Offsets are given for all of a list or for none. */
static bool
all_or_none(Parser *p, const char *what, uint32_t have, uint32_t want)
{
	if (!have || have == want || p->holes & HOLE_type) return true;
	return scan_fail(&p->s, "%" PRIu32 " of %" PRIu32 " %s have an offset", have, want,
			 what);
}

bool
parse_layer_type(Parser *p)
{
	Module *m = p->m;
	TypeText t = {0};
	Scan before = p->s;
	uint32_t nargs, nouts, nrates;

	if (!scan_name(&p->s, "the layer type's name", &t.l.name)) return false;
	for (uint32_t l = 0; l < m->ntypes; l++)
		if (m->types[l].name == t.l.name)
			return scan_fail(&before, "a second layer type '%s'",
					 name_str(m->names, t.l.name));
	if (!scan_key(&p->s, "args") || !scan_u32(&p->s, "args", 0, MAX_PORT, &nargs) ||
	    !scan_key(&p->s, "outs") || !scan_u32(&p->s, "outs", 0, MAX_PORT, &nouts) ||
	    !scan_key(&p->s, "rates") || !scan_u32(&p->s, "rates", 0, MAX_PORT, &nrates))
		return false;
	t.l.reshard = scan_try_key(&p->s, "reshard");
	if (!scan_punct(&p->s, '{') || !scan_done(&p->s)) return false;
	t.l.nargs = (uint16_t)nargs;
	t.l.nouts = (uint16_t)nouts;
	t.l.nrates = (uint16_t)nrates;
	if (!parse_block(p, type_line, &t, HOLE_type)) return false;
	if (!all_or_none(p, "saved values", t.nsaved_at, t.l.nsaved) ||
	    !all_or_none(p, "carried values", t.ncarry_at, t.l.ncarry) ||
	    !all_or_none(p, "results", t.nout_at, t.l.nouts))
		return false;
	if (m->ntypes >= MAX_TYPES)
		return scan_fail(&p->s, "more than %d layer types", MAX_TYPES);
	PUSH(m->arena, m->types, m->ntypes, m->ctypes, t.l);
	return true;
}

/* ---- schedule ---- */

static bool
push_action(Parser *p, Action a)
{
	Module *m = p->m;

	if (m->nactions >= MAX_COUNT)
		return scan_fail(&p->s, "more than %d actions", MAX_COUNT);
	PUSH(m->arena, m->actions, m->nactions, m->cactions, a);
	return true;
}

static bool
parse_loop(Parser *p, ActKind kind)
{
	Action a = {.kind = kind};

	return scan_u32(&p->s, "the count", 1, MAX_COUNT, &a.count) && scan_punct(&p->s, '{') &&
	       scan_done(&p->s) && push_action(p, a);
}

/* [("+" | "-") stride] ["mb" offset] */
static bool
parse_turn(Parser *p, Action *a)
{
	int64_t stride = 0;

	if ((scan_peek(&p->s) == '+' || scan_peek(&p->s) == '-') &&
	    !scan_int(&p->s, "the stride", -MAX_COUNT, MAX_COUNT, &stride))
		return false;
	a->stride = (int32_t)stride;
	return !scan_try_key(&p->s, "mb") ||
	       scan_u32(&p->s, "the microbatch", 1, MAX_MB - 1, &a->mb);
}

/* What a body is run of, or a communication begun of: a parameter for lend and return. */
static bool
parse_subject(Parser *p, Action *a, bool param)
{
	Scan before = p->s;
	uint32_t n = param ? p->m->nparams : p->m->ninsts;
	const char *what = param ? "parameter" : "instance";

	if (!scan_u32(&p->s, what, 0, MAX_COUNT, &a->inst)) return false;
	return a->inst < n ||
	       parse_missing(p, param ? HOLE_param : HOLE_inst, before,
			     "no %s %" PRIu32 "; there are %" PRIu32, what, a->inst, n);
}

/* F 1 [+1] [mb 2] */
static bool
parse_run(Parser *p, BodyKind bk)
{
	Action a = {.kind = ACT_body, .bk = bk};

	return parse_subject(p, &a, false) && parse_turn(p, &a) && scan_done(&p->s) &&
	       push_action(p, a);
}

/* start fwd 5 [+1] [mb 2] */
static bool
parse_comm(Parser *p, ActKind kind)
{
	Action a = {.kind = kind};
	int comm;

	if (!scan_pick_to(&p->s, &(Words){"communication", comm_str, CK_COUNT}, &comm))
		return false;
	a.comm = (CommKind)comm;
	return parse_subject(p, &a, comm == CK_lend || comm == CK_return) &&
	       parse_turn(p, &a) && scan_done(&p->s) && push_action(p, a);
}

static bool
parse_input(Parser *p)
{
	Action a = {.kind = ACT_input};

	return parse_turn(p, &a) && scan_done(&p->s) && push_action(p, a);
}

static bool
parse_action(Parser *p, int *depth)
{
	enum { MB = BK_COUNT, LAYERS, INPUT, NORM, START, WAIT, NWORDS };
	const char *words[NWORDS];
	int i;

	if (scan_try(&p->s, '}')) {
		--*depth;
		return scan_done(&p->s) &&
		       (*depth == 0 || push_action(p, (Action){.kind = ACT_end}));
	}
	for (int k = 0; k < BK_COUNT; k++)
		words[k] = body_str[k];
	words[MB] = "mb";
	words[LAYERS] = "layers";
	words[INPUT] = "input";
	words[NORM] = "norm";
	words[START] = "start";
	words[WAIT] = "wait";
	if (!scan_pick_to(&p->s, WORDS("action", words), &i)) return false;
	switch (i) {
	case MB:
	case LAYERS: ++*depth; return parse_loop(p, i == MB ? ACT_mb : ACT_layers);
	case INPUT: return parse_input(p);
	case NORM: return scan_done(&p->s) && push_action(p, (Action){.kind = ACT_norm});
	case START:
	case WAIT: return parse_comm(p, i == START ? ACT_start : ACT_wait);
	default: return parse_run(p, (BodyKind)i);
	}
}

/* actions STAGE "{" { action } "}" */
bool
parse_actions(Parser *p)
{
	Module *m = p->m;
	Scan before = p->s;
	uint32_t stage, line, first = m->nactions;
	int depth = 1;

	plan_text_finish(p->plan, m);
	m->plan = p->plan->plan;
	if (!scan_u32(&p->s, "the stage", 0, MAX_COUNT, &stage)) return false;
	if (stage >= m->plan.nstages)
		return scan_fail(&before, "no stage %" PRIu32 "; there are %" PRIu32, stage,
				 m->plan.nstages);
	if (m->plan.stages[stage].nactions)
		return scan_fail(&before, "the actions of stage %" PRIu32 " a second time",
				 stage);
	line = p->s.lineno;
	if (!scan_punct(&p->s, '{') || !scan_done(&p->s)) return false;
	while (depth > 0) {
		if (diag_stop(p->s.diag)) return false;
		if (!scan_line(&p->s))
			return scan_fail(
			    &p->s, "the block that begins in line %" PRIu32 " is never closed",
			    line);
		parse_action(p, &depth);
	}
	m->plan.stages[stage].action = first;
	m->plan.stages[stage].nactions = m->nactions - first;
	return true;
}

/* ---- memory ----
 * What is not there is at -1: not the stage's. Lines of one kind come in ascending order. */

typedef struct MemoryText {
	Memory *x;
	bool arena, sections, sizes;
	uint32_t next[6]; /* of each kind of list, and of cotangents */
} MemoryText;

typedef struct Field {
	const char *key;
	int64_t *to;
} Field;

static bool
memory_fields(Parser *p, const Field *field, size_t n, int64_t least)
{
	for (size_t i = 0; i < n; i++)
		if (!scan_key(&p->s, field[i].key) ||
		    !scan_int(&p->s, field[i].key, least, MAX_OFFSET, field[i].to))
			return false;
	return true;
}

static bool
memory_arena(Parser *p, MemoryText *t)
{
	Memory *x = t->x;
	const Field field[] = {{"live", &x->live_bytes}, {"slot", &x->slot_bytes}};

	t->arena = true;
	return scan_int(&p->s, "the arena", 0, MAX_OFFSET, &x->arena_bytes) &&
	       memory_fields(p, field, COUNTOF(field), 0);
}

static bool
memory_sections(Parser *p, MemoryText *t)
{
	Memory *x = t->x;
	const Field field[] = {
	    {"param", &x->sec[SEC_param]},
	    {"grad", &x->sec[SEC_grad]},
	    {"m", &x->sec[SEC_m]},
	    {"v", &x->sec[SEC_v]},
	    {"const", &x->consts},
	    {"slots", &x->slots},
	    {"cots", &x->cots},
	    {"gather", &x->gather},
	    {"dwork", &x->dwork},
	    {"carry", &x->carry},
	    {"scratch", &x->scratch},
	};

	t->sections = true;
	return memory_fields(p, field, 4, -1) &&
	       (!scan_try_key(&p->s, "master") ||
		scan_int(&p->s, "master", -1, MAX_OFFSET, &x->sec[SEC_master])) &&
	       memory_fields(p, field + 4, COUNTOF(field) - 4, -1);
}

static bool
memory_sizes(Parser *p, MemoryText *t)
{
	Memory *x = t->x;
	const Field field[] = {
	    {"param", &x->sec_bytes[SEC_param]}, {"grad", &x->sec_bytes[SEC_grad]},
	    {"m", &x->sec_bytes[SEC_m]},         {"v", &x->sec_bytes[SEC_v]},
	    {"gather", &x->gather_bytes},        {"dwork", &x->dwork_bytes},
	};

	t->sizes = true;
	return memory_fields(p, field, 4, 0) &&
	       (!scan_try_key(&p->s, "master") ||
		scan_int(&p->s, "master", 0, MAX_OFFSET, &x->sec_bytes[SEC_master])) &&
	       memory_fields(p, field + 4, COUNTOF(field) - 4, 0);
}

/* The number an item begins with; of n, and after those of its kind above. */
static bool
memory_number(Parser *p, const char *what, uint32_t n, uint32_t *next, uint32_t *out)
{
	Scan before = p->s;

	if (!scan_u32(&p->s, what, 0, MAX_COUNT, out)) return false;
	if (*out >= n) return scan_fail(&before, "%s %" PRIu32 " of %" PRIu32, what, *out, n);
	if (*out < *next)
		return scan_fail(&before, "%s %" PRIu32 " is out of order; next is %" PRIu32,
				 what, *out, *next);
	*next = *out + 1;
	return true;
}

/* param const input inst back: number "at" offset; parameters: ["flat"] */
static bool
memory_list(Parser *p, MemoryText *t, int kind)
{
	static const char *const what[] = {"param", "const", "input", "inst", "back"};
	Module *m = p->m;
	const uint32_t n[] = {m->nparams, m->nconsts, m->ninputs, m->ninsts, m->ninsts};
	int64_t *const to[] = {t->x->param_at, t->x->const_at, t->x->input_at, t->x->slot_at,
			       t->x->back_at};
	uint32_t i;

	if (!memory_number(p, what[kind], n[kind], &t->next[kind], &i) ||
	    !scan_key(&p->s, "at") ||
	    !scan_int(&p->s, "the offset", 0, MAX_OFFSET, &to[kind][i]))
		return false;
	if (kind == 0) t->x->in_flat[i] = scan_try_key(&p->s, "flat");
	return true;
}

/* flat instance "bytes" N "at" param grad m v ["master" offset] */
static bool
memory_flat(Parser *p, MemoryText *t)
{
	uint32_t i, next = 0;

	if (!memory_number(p, "flat", p->m->ninsts, &next, &i) || !scan_key(&p->s, "bytes") ||
	    !scan_int(&p->s, "the bytes", 1, MAX_OFFSET, &t->x->flat_bytes[i]) ||
	    !scan_key(&p->s, "at"))
		return false;
	for (int k = 0; k < SEC_master; k++)
		if (!scan_int(&p->s, "the offset", -1, MAX_OFFSET, &t->x->flat_at[k][i]))
			return false;
	return !scan_try_key(&p->s, "master") ||
	       scan_int(&p->s, "the offset", -1, MAX_OFFSET, &t->x->flat_at[SEC_master][i]);
}

/* The digits up to a dot or the end. */
static bool
number_in(const char **p, const char *end, uint32_t *out)
{
	const char *start = *p;

	for (*out = 0; *p < end && **p >= '0' && **p <= '9' && *out < MAX_COUNT; ++*p)
		*out = *out * 10 + (uint32_t)(**p - '0');
	return *p > start;
}

static void
cots_empty(const Module *m, Memory *x)
{
	Arena *a = m->arena;

	x->cot_of = NEW_N(a, uint32_t, m->ninsts + 1);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		x->cot_of[i] = x->ncot;
		x->ncot += m->types[m->insts[i].type].nouts;
	}
	x->cot = NEW_N(a, Cot, x->ncot + 1);
	for (uint32_t i = 0; i < x->ncot; i++)
		x->cot[i].at = -1;
}

/* cot instance "." result "at" offset ["alt" offset] ["shared"] */
static bool
memory_cot(Parser *p, MemoryText *t)
{
	Module *m = p->m;
	Scan before = p->s;
	Cot c = {0};
	const char *word, *at;
	uint32_t i, r;
	int len;

	if (!scan_word(&p->s, "a result", &word, &len)) return false;
	at = word;
	if (!number_in(&at, word + len, &i) || at == word + len || *at++ != '.' ||
	    !number_in(&at, word + len, &r) || at != word + len)
		return scan_fail(&before, "'%.*s' is no result; they look like 4.0",
				 len > 40 ? 40 : len, word);
	if (!t->x->cot)
		cots_empty(m, t->x); /* a program that only runs forward may have them */
	if (i >= m->ninsts || r >= m->types[m->insts[i].type].nouts)
		return scan_fail(&before, "no cotangent %" PRIu32 ".%" PRIu32 " here", i, r);
	if (!scan_key(&p->s, "at") || !scan_int(&p->s, "the offset", 0, MAX_OFFSET, &c.at))
		return false;
	if (scan_try_key(&p->s, "alt") &&
	    !scan_int(&p->s, "the alternation", -MAX_OFFSET, MAX_OFFSET, &c.alt))
		return false;
	c.shared = scan_try_key(&p->s, "shared");
	t->x->cot[t->x->cot_of[i] + r] = c;
	return true;
}

static bool
memory_line(Parser *p, void *into)
{
	static const char *const words[] = {"param", "const", "input",    "inst",  "back",
					    "flat",  "arena", "sections", "sizes", "cot"};
	MemoryText *t = into;
	bool ok;
	int i;

	if (!scan_pick_to(&p->s, WORDS("item of the memory", words), &i)) return false;
	switch (i) {
	case 5: ok = memory_flat(p, t); break;
	case 6: ok = memory_arena(p, t); break;
	case 7: ok = memory_sections(p, t); break;
	case 8: ok = memory_sizes(p, t); break;
	case 9: ok = memory_cot(p, t); break;
	default: ok = memory_list(p, t, i); break;
	}
	return ok && scan_done(&p->s);
}

static int64_t *
none_of(Arena *a, uint32_t n)
{
	int64_t *at = NEW_N(a, int64_t, n + 1);

	for (uint32_t i = 0; i < n; i++)
		at[i] = -1;
	return at;
}

/* A stage that has nothing. */
static void
memory_empty(const Module *m, Memory *x)
{
	Arena *a = m->arena;

	*x = (Memory){.sec[SEC_master] = -1,
		      .flat_bytes = NEW_N(a, int64_t, m->ninsts + 1),
		      .param_at = none_of(a, m->nparams),
		      .in_flat = NEW_N(a, bool, m->nparams + 1),
		      .const_at = none_of(a, m->nconsts),
		      .input_at = none_of(a, m->ninputs),
		      .slot_at = none_of(a, m->ninsts),
		      .back_at = none_of(a, m->ninsts)};
	for (int k = 0; k < SEC_COUNT; k++)
		x->flat_at[k] = none_of(a, m->ninsts);
	if (!m->plan.forward_only) cots_empty(m, x);
}

/* memory STAGE "{" ... "}" */
bool
parse_memory(Parser *p)
{
	Module *m = p->m;
	Scan before = p->s;
	MemoryText t = {0};
	uint32_t stage;

	plan_text_finish(p->plan, m);
	m->plan = p->plan->plan;
	if (!scan_u32(&p->s, "the stage", 0, MAX_COUNT, &stage)) return false;
	if (stage >= m->plan.nstages)
		return scan_fail(&before, "no stage %" PRIu32 "; there are %" PRIu32, stage,
				 m->plan.nstages);
	if (!m->mem) {
		m->mem = NEW_N(m->arena, Memory, m->plan.nstages);
		p->seen_memory = NEW_N(p->tmp, bool, m->plan.nstages);
	}
	if (p->seen_memory[stage])
		return scan_fail(&before, "the memory of stage %" PRIu32 " a second time",
				 stage);
	p->seen_memory[stage] = true;
	t.x = &m->mem[stage];
	memory_empty(m, t.x);
	if (!scan_punct(&p->s, '{') || !scan_done(&p->s) ||
	    !parse_block(p, memory_line, &t, HOLE_none))
		return false;
	if (!t.arena || !t.sections || !t.sizes)
		return scan_fail(&p->s, "no %s line in the memory section",
				 !t.arena      ? "arena"
				 : !t.sections ? "sections"
					       : "sizes");
	return true;
}

/* Level mem: every stage has its memory. */
bool
parse_memory_done(Parser *p)
{
	const Module *m = p->m;

	if (!m->mem) return scan_fail(&p->s, "no memory section, but this is level mem");
	for (uint32_t k = 0; k < m->plan.nstages; k++)
		if (!p->seen_memory[k])
			return scan_fail(&p->s, "no memory section of stage %" PRIu32, k);
	return true;
}
