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
	    !scan_key(&p->s, "rates") || !scan_u32(&p->s, "rates", 0, MAX_PORT, &nrates) ||
	    !scan_punct(&p->s, '{') || !scan_done(&p->s))
		return false;
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

/* F 1 [+1] */
static bool
parse_run(Parser *p, BodyKind bk)
{
	Action a = {.kind = ACT_body, .bk = bk};
	Scan before = p->s;
	int64_t stride = 0;

	if (!scan_u32(&p->s, "the instance", 0, MAX_COUNT, &a.inst)) return false;
	if (a.inst >= p->m->ninsts)
		return parse_missing(p, HOLE_inst, before,
				     "no instance %" PRIu32 "; there are %" PRIu32, a.inst,
				     p->m->ninsts);
	if (!scan_at_end(&p->s) &&
	    !scan_int(&p->s, "the stride", -MAX_COUNT, MAX_COUNT, &stride))
		return false;
	a.stride = (int32_t)stride;
	return scan_done(&p->s) && push_action(p, a);
}

static bool
parse_action(Parser *p, int *depth)
{
	enum { MB = BK_COUNT, LAYERS, INPUT, NORM, NWORDS };
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
	if (!scan_pick_to(&p->s, WORDS("action", words), &i)) return false;
	switch (i) {
	case MB:
	case LAYERS: ++*depth; return parse_loop(p, i == MB ? ACT_mb : ACT_layers);
	case INPUT: return scan_done(&p->s) && push_action(p, (Action){.kind = ACT_input});
	case NORM: return scan_done(&p->s) && push_action(p, (Action){.kind = ACT_norm});
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

/* ---- memory ---- */

typedef struct Offsets {
	const char *what;
	int64_t *at;
	uint32_t n, cap;
} Offsets;

typedef struct MemoryText {
	Offsets list[4];                /* param const input inst */
	uint32_t ccot, ncots, cot_inst; /* next cotangent: result ncots of cot_inst */
	bool arena, sections;
} MemoryText;

static bool
memory_arena(Parser *p, MemoryText *t)
{
	Memory *x = &p->m->mem[0];

	t->arena = true;
	return scan_int(&p->s, "the arena", 0, MAX_OFFSET, &x->arena_bytes) &&
	       scan_key(&p->s, "live") &&
	       scan_int(&p->s, "the live bytes", 0, MAX_OFFSET, &x->live_bytes) &&
	       scan_key(&p->s, "state") &&
	       scan_int(&p->s, "state", 0, MAX_OFFSET, &x->sec_bytes[SEC_param]) &&
	       scan_key(&p->s, "slot") &&
	       scan_int(&p->s, "slot", 0, MAX_OFFSET, &x->slot_bytes);
}

static bool
memory_sections(Parser *p, MemoryText *t)
{
	Memory *x = &p->m->mem[0];
	const struct {
		const char *key;
		int64_t *at;
	} section[] = {
	    {"param", &x->sec[SEC_param]},
	    {"grad", &x->sec[SEC_grad]},
	    {"m", &x->sec[SEC_m]},
	    {"v", &x->sec[SEC_v]},
	    {"const", &x->consts},
	    {"slots", &x->slots},
	    {"cots", &x->cots},
	    {"carry", &x->carry},
	    {"scratch", &x->scratch},
	};

	t->sections = true;
	for (size_t i = 0; i < COUNTOF(section); i++)
		if (!scan_key(&p->s, section[i].key) ||
		    !scan_int(&p->s, section[i].key, -1, MAX_OFFSET, section[i].at))
			return false;
	return true;
}

static bool
memory_list(Parser *p, Offsets *l)
{
	Scan before = p->s;
	uint32_t i;
	int64_t x;

	if (!scan_u32(&p->s, l->what, 0, MAX_COUNT, &i)) return false;
	if (i != l->n)
		return parse_missing(p, HOLE_none, before,
				     "%s %" PRIu32 " is out of order; next is %" PRIu32,
				     l->what, i, l->n);
	if (!scan_key(&p->s, "at") || !scan_int(&p->s, "the offset", -1, MAX_OFFSET, &x))
		return false;
	PUSH(p->m->arena, l->at, l->n, l->cap, x);
	return true;
}

/* cot instance "." result at offset [alt offset] [shared]; every result of every instance, in order */
static bool
memory_cot(Parser *p, MemoryText *t)
{
	Module *m = p->m;
	Scan before = p->s;
	Cot c = {0};
	const char *word;
	char want[40];
	int len, wlen;

	while (t->cot_inst < m->ninsts &&
	       t->ncots >= m->types[m->insts[t->cot_inst].type].nouts) {
		t->cot_inst++;
		t->ncots = 0;
	}
	wlen = snprintf(want, sizeof(want), "%" PRIu32 ".%" PRIu32, t->cot_inst, t->ncots);
	if (!scan_word(&p->s, "a result", &word, &len)) return false;
	if (t->cot_inst >= m->ninsts || len != wlen || memcmp(word, want, (size_t)len) != 0)
		return scan_fail(&before, "cotangent %.*s is out of order; next is %s",
				 len > 40 ? 40 : len, word,
				 t->cot_inst < m->ninsts ? want : "none");
	if (!scan_key(&p->s, "at") || !scan_int(&p->s, "the offset", -1, MAX_OFFSET, &c.at))
		return false;
	if (scan_try_key(&p->s, "alt") &&
	    !scan_int(&p->s, "the alternation", -MAX_OFFSET, MAX_OFFSET, &c.alt))
		return false;
	c.shared = scan_try_key(&p->s, "shared");
	t->ncots++;
	PUSH(m->arena, m->mem[0].cot, m->mem[0].ncot, t->ccot, c);
	return true;
}

static bool
memory_line(Parser *p, void *into)
{
	static const char *const words[] = {"param", "const",    "input", "inst",
					    "arena", "sections", "cot"};
	MemoryText *t = into;
	int i;

	if (!scan_pick_to(&p->s, WORDS("item of the memory", words), &i)) return false;
	if (!(i < 4    ? memory_list(p, &t->list[i])
	      : i == 4 ? memory_arena(p, t)
	      : i == 5 ? memory_sections(p, t)
		       : memory_cot(p, t)))
		return false;
	return scan_done(&p->s);
}

/* cot_of follows from the numbers of results. */
static bool
finish_cots(Parser *p)
{
	Module *m = p->m;
	uint64_t n = 0;

	if (!m->mem[0].ncot) return true;
	m->mem[0].cot_of = NEW_N(m->arena, uint32_t, m->ninsts);
	for (uint32_t i = 0; i < m->ninsts; i++) {
		m->mem[0].cot_of[i] = (uint32_t)n;
		n += m->types[m->insts[i].type].nouts;
	}
	return n == m->mem[0].ncot ||
	       scan_fail(&p->s, "cotangents of %" PRIu32 " of %" PRIu64 " results",
			 m->mem[0].ncot, n);
}

/* memory "{" ... "}" */
bool
parse_memory(Parser *p)
{
	Module *m = p->m;
	MemoryText t = {
	    .list = {
		{.what = "param"}, {.what = "const"}, {.what = "input"}, {.what = "inst"}}};
	const uint32_t want[4] = {m->nparams, m->nconsts, m->ninputs, m->ninsts};
	int errors = diag_errors(p->s.diag);

	if (p->seen_memory) return scan_fail(&p->s, "a second memory section");
	p->seen_memory = true;
	m->mem = NEW(m->arena, Memory);
	if (!scan_punct(&p->s, '{') || !scan_done(&p->s) ||
	    !parse_block(p, memory_line, &t, HOLE_none))
		return false;
	if (diag_errors(p->s.diag) != errors) return false;
	for (int i = 0; i < 4; i++)
		if (t.list[i].n != want[i])
			return scan_fail(
			    &p->s, "offsets of %" PRIu32 " of %" PRIu32 " items of kind %s",
			    t.list[i].n, want[i], t.list[i].what);
	if (!t.arena) return scan_fail(&p->s, "no arena line in the memory section");
	if (!t.sections) return scan_fail(&p->s, "no sections line in the memory section");
	m->mem[0].param_at = t.list[0].at;
	m->mem[0].const_at = t.list[1].at;
	m->mem[0].input_at = t.list[2].at;
	m->mem[0].slot_at = t.list[3].at;
	return finish_cots(p);
}
