/*
 * optimizer.c - who updates what: shared, frozen, unused and differently scaled parameters; AdamW and SGD.
 */
#include "passes/passes.h"

#include <string.h>

static int checks, failures;

static void
check(bool ok, const char *what)
{
	checks++;
	failures += !ok;
	if (!ok) printf("optimizer: FAILED: %s\n", what);
}

/* Four blocks share parameter 1 (owned by the first, instance 1), the last has a decay of its own; parameter 6 is frozen;
 * parameter 7 is read by nothing that reaches the loss. */
static const char text[] =
    "gir 1 graph\nmodel t source \"t\" hash 0x0000000000000000\naxis a = 3\n"
    "param 0 \"first\" f32[a] dims 1 init normal 1 decay 1 lr 1 owner 0\n"
    "param 1 \"shared\" f32[a] dims 1 init normal 1 decay 0 lr 1 owner 1\n"
    "param 2 \"b0\" f32[a] dims 1 init normal 1 decay 1 lr 1 owner 1\n"
    "param 3 \"b1\" f32[a] dims 1 init normal 1 decay 1 lr 1 owner 2\n"
    "param 4 \"b2\" f32[a] dims 1 init normal 1 decay 1 lr 1 owner 3\n"
    "param 5 \"b3\" f32[a] dims 1 init normal 1 decay 0.5 lr 1 owner 4\n"
    "param 6 \"frozen\" f32[a] dims 1 init normal 1 decay 1 lr 0 owner 5\n"
    "param 7 \"unused\" f32[a] dims 1 init normal 1 decay 1 lr 1 owner 5\n"
    "param 8 \"last\" f32[a] dims 1 init normal 1 decay 1 lr 2 owner 5\n"
    "train %s rate const 0.001 0 0 0 beta1 0.9 beta2 0.99 eps 1e-08 decay 0.1 momentum 0.5 "
    "clip 1 "
    "precision f32 seed 0\n"
    "body 1 start F {\n weight 0 %%w : f32[a]\n %%y = exp %%w : f32[a]\n out 0 %%y\n}\n"
    "body 2 block F {\n arg 0 %%x : f32[a]\n weight 0 %%t : f32[a]\n weight 1 %%w : f32[a]\n"
    " %%u = mul %%x %%t : f32[a]\n %%y = add %%u %%w : f32[a]\n out 0 %%y\n}\n"
    "body 3 end F {\n arg 0 %%x : f32[a]\n weight 0 %%f : f32[a]\n weight 1 %%n : f32[a]\n"
    " weight 2 %%w : f32[a]\n %%s = stop %%n : f32[a]\n %%u = mul %%x %%f : f32[a]\n"
    " %%v = mul %%u %%w : f32[a]\n %%z = add %%v %%s : f32[a]\n %%y = sum %%z {axes=[a]} : "
    "f32[]\n out 0 %%y\n}\n"
    "type start args 0 outs 1 rates 0 {\n body F 1\n weight \"w\" : f32[a]\n}\n"
    "type block args 1 outs 1 rates 0 {\n body F 2\n weight \"t\" : f32[a]\n weight \"w\" : "
    "f32[a]\n}\n"
    "type end args 1 outs 1 rates 0 {\n body F 3\n weight \"f\" : f32[a]\n weight \"n\" : "
    "f32[a]\n"
    " weight \"w\" : f32[a]\n}\n"
    "inst 0 start \"start\" path \"\" args params 0 rates\n"
    "inst 1 block \"block.0\" path \"b\" args 0.0 params 1 2 rates\n"
    "inst 2 block \"block.1\" path \"b\" args 1.0 params 1 3 rates\n"
    "inst 3 block \"block.2\" path \"b\" args 2.0 params 1 4 rates\n"
    "inst 4 block \"block.3\" path \"b\" args 3.0 params 1 5 rates\n"
    "inst 5 end \"end\" path \"\" args 4.0 params 6 7 8 rates\nreport \"loss\" 5.0\n";

static const Body *
body_of(const Module *m, uint32_t inst, BodyKind k)
{
	uint32_t b = m->types[m->insts[inst].type].body[k];

	return b ? &m->bodies[b] : NULL;
}

static bool
updates(const Module *m, uint32_t inst, uint16_t slot)
{
	const Body *u = body_of(m, inst, BK_U), *n = body_of(m, inst, BK_N);
	bool has = u && ir_find_port(u, PORT_w_out, slot);

	check(has == (n && ir_find_port(n, PORT_norm, slot)), "N and U agree");
	return has;
}

static double
decay_of(const Module *m, uint32_t inst, uint16_t slot)
{
	const Body *u = body_of(m, inst, BK_U);

	return attr_num(val_op(u, ir_find_port(u, PORT_w_out, slot)->v), AK_decay);
}

static void
run(const char *opt)
{
	Arena *perm = arena_new(), *tmp = arena_new();
	Names *names = names_new(perm);
	Ctx c = {
	    .perm = perm, .tmp = tmp, .names = names, .diag = diag_new(perm, names, stdout)};
	Buf b, before, after;

	buf_init(&b, perm);
	buf_init(&before, perm);
	buf_init(&after, perm);
	buf_printf(&b, text, opt);
	Module *m = ir_parse(perm, names, c.diag, name_of(names, "test"), b.s, b.n);
	check(m != NULL, "reads");
	if (!m) return;
	check(pass_simplify(&c, m) && pass_autodiff(&c, m) && pass_optimizer(&c, m), "passes");
	check(ir_verify(m, c.diag, "optimizer"), "verifies");

	check(m->ntypes == 5, "block is three types");
	check(m->insts[2].type == m->insts[3].type, "blocks 1 and 2 are one type");
	check(!strcmp(name_str(m->names, m->types[m->insts[1].type].name), "block"),
	      "the first keeps its name");
	check(updates(m, 1, 0) && updates(m, 1, 1), "block 0 owns");
	check(!updates(m, 2, 0) && updates(m, 2, 1), "block 1 borrows");
	check(!updates(m, 4, 0) && updates(m, 4, 1), "block 3 borrows");
	check(decay_of(m, 1, 0) == 0 && decay_of(m, 2, 1) == 0.1 && decay_of(m, 4, 1) == 0.05,
	      "factors of decay");
	check(!updates(m, 5, 0) && !updates(m, 5, 1) && updates(m, 5, 2),
	      "frozen, without a gradient, trained");
	check(!ir_find_port(body_of(m, 5, BK_W), PORT_dw, 0),
	      "no gradient for a frozen weight");

	const Body *u = body_of(m, 5, BK_U);
	const Op *op = val_op(u, ir_find_port(u, PORT_w_out, 2)->v);
	check(op->code == (strcmp(opt, "sgd") ? OP_adamw : OP_sgd) && attr_num(op, AK_lr) == 2,
	      "the op");

	ir_print(m, &before);
	check(pass_optimizer(&c, m), "again");
	ir_print(m, &after);
	check(!strcmp(before.s, after.s), "a second run changes nothing");
	arena_free(tmp);
	arena_free(perm);
}

int
main(void)
{
	run("adamw");
	run("sgd");
	if (failures) return 1;
	printf("optimizer: %d checks ok\n", checks);
	return 0;
}
