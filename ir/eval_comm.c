/*
 * eval_comm.c - communication that has begun and is not complete: who meets whom, in which order.
 *
 * A start posts a request: collectives and messages, one after the other, as ir_prims says. A wait, a collective in a
 * body and the norm let the rank stand still until its request is complete. This is the weakest machine there is: every
 * message is a rendezvous, whose contents are what the sender's buffer holds when it happens; collectives of one set of
 * ranks, and the messages of one channel, complete in the order in which each rank began them; and what does not fit
 * (another collective, another length) never meets. Adversarial: by lot, what a rank begins moves at the first moment
 * it can or at the last.
 */
#include "ir/eval.h"

#include <string.h>

uint32_t
eval_draw(Eval *e, uint64_t of)
{
	return rng_bits(e->o.order_seed, of, e->choices++);
}

/* ---- beginning ---- */

static Request *
post(Eval *e, Rank *r, Meeting what)
{
	Arena *a = arena_new();
	Request *q = NEW(a, Request);

	q->arena = a, q->what = what;
	q->mb = r->mb, q->slot = r->slot;
	q->early = e->o.adversarial && eval_draw(e, 3) % 2;
	PUSH(e->arena, r->begun, r->nbegun, r->cbegun, q);
	e->moved = true;
	return q;
}

/* Past all parts that are done or have nobody to meet. */
static void
advance(Request *q)
{
	while (q->at < q->nparts) {
		Part *p = &q->part[q->at];
		uint32_t left = p->prim.kind != PR_exchange && p->ngroup > 1;
		for (uint32_t i = 0; i < p->nmsg; i++)
			left += !p->msg[i].done;
		if (left && !p->done) return;
		p->done = true;
		q->at++;
	}
	q->complete = true;
}

void
eval_forget(Rank *r)
{
	for (uint32_t i = 0; i < r->nbegun; i++)
		arena_free(r->begun[i]->arena);
	r->nbegun = 0;
	r->wait = NULL;
}

static void
drop(Rank *r, const Request *q)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < r->nbegun; i++)
		if (r->begun[i] != q) r->begun[n++] = r->begun[i];
	r->nbegun = n;
	arena_free(q->arena);
}

/* The ranks that agree with r in all coordinates but those of `over`. */
static void
group_over(const Eval *e, const Rank *r, const Mesh *mesh, int64_t over, Request *q, Part *p)
{
	uint32_t mine[MAX_MESH], coord[MAX_MESH];

	p->group = NEW_N(q->arena, uint32_t, e->nranks);
	eval_coords(r, mesh, 0, mine);
	for (uint32_t i = 0; i < e->nranks; i++) {
		bool in = e->ranks[i].first == r->first && (mesh || i == r->id);
		eval_coords(&e->ranks[i], mesh, 0, coord);
		for (int a = 1; in && mesh && a < mesh->n; a++)
			if (coord[a] != mine[a] && !(over >> a & 1)) in = false;
		if (in) p->group[p->ngroup++] = i;
	}
}

static void
add_collective(Eval *e, Rank *r, Request *q, const Prim *prim, const Step *edit)
{
	Part *p = &q->part[q->nparts++];
	uint32_t n = ir_comm_size(e->m, &e->comms, prim->comm, r->stage), as = r->id;

	p->prim = *prim;
	p->group = NEW_N(q->arena, uint32_t, n + 1);
	p->ngroup = n;
	if (edit && edit->peer)
		as = r->first + (uint32_t)(r->id - r->first + (uint32_t)edit->peer) % r->ranks;
	if (edit) p->prim.count += edit->resize;
	ir_comm_members(e->m, &e->comms, prim->comm, as, p->group);
}

/* The rank `by` further on in its stage. */
static uint32_t
moved_peer(const Eval *e, uint32_t rank, int32_t by)
{
	const Rank *p = &e->ranks[rank];

	return p->first + (uint32_t)((int64_t)(rank - p->first) + by + p->ranks) % p->ranks;
}

static void
add_exchange(Eval *e, Rank *r, Request *q, const Prim *prim, const Step *edit)
{
	Part *p = &q->part[q->nparts++];
	Piece *piece[2];
	uint32_t n[2];

	p->prim = *prim;
	for (int s = 0; s < 2; s++)
		n[s] = ir_pieces(e->m, prim, r->id, s == 1, q->arena, &piece[s]);
	p->msg = NEW_N(q->arena, Message, n[0] + n[1]);
	for (int s = 0; s < 2; s++)
		for (uint32_t i = 0; i < n[s]; i++) {
			Message *x = &p->msg[p->nmsg++];
			*x = (Message){.piece = piece[s][i], .sending = s == 1};
			if (!edit || piece[s][i].from == piece[s][i].to) continue;
			x->piece.count += edit->resize;
			if (edit->peer && s == 1)
				x->piece.to = moved_peer(e, x->piece.to, edit->peer);
			if (edit->peer && s == 0)
				x->piece.from = moved_peer(e, x->piece.from, edit->peer);
		}
}

/* Where a cotangent that is added to another comes in: (level mem) where the plan says, else by itself. */
static Place
cot_arrival(const Eval *e, const Rank *r, const Request *q, const Prim *prim)
{
	Place p = {.type = &prim->to.type, .mesh = prim->to.mesh};

	if (e->placed)
		p.at = r->mem->cots + r->mem->back_at[q->i];
	else
		p.x = NEW_N(q->arena, double, type_count(e->m, p.mesh, p.type) + 1);
	return p;
}

/* What an exchange reads and writes on this rank, by what it is for. */
static bool
bind_exchange(Eval *e, Rank *r, Request *q, const Prim *prim)
{
	const Module *m = e->m;
	const Param *copy = q->comm >= CK_lend ? &m->params[q->i] : NULL;
	Ref ref = copy ? (Ref){0} : m->insts[q->i].args[0];
	bool shared = true;

	q->sends = r->stage == prim->from.stage, q->receives = r->stage == prim->to.stage;
	switch (q->comm) {
	case CK_fwd:
		q->from = r->results[q->slot * e->nres + e->res0[ref.i] + ref.result];
		q->to = r->results[q->slot * e->nres + e->res0[q->i]];
		if (q->receives) r->came[q->slot * m->ninsts + q->i] = q->mb + 1;
		break;
	case CK_bwd:
		q->from = r->cots[e->res0[q->i]];
		q->owner = r->cots[e->res0[ref.i] + ref.result];
		if (q->sends && !eval_cot(e, r, q->i, 0, q->mb)) return false;
		if (!q->receives) break;
		if (e->placed) shared = r->mem->cot[r->mem->cot_of[ref.i] + ref.result].shared;
		q->to = shared ? cot_arrival(e, r, q, prim) : q->owner;
		break;
	case CK_lend:
		q->from = r->weight[copy->borrows - 1];
		q->to = r->weight[q->i];
		break;
	case CK_return:
		q->from = r->grad[q->i];
		q->owner = r->grad[copy->borrows - 1];
		q->to =
		    (Place){.at = r->scratch, .type = &prim->to.type, .mesh = prim->to.mesh};
		if (!e->placed)
			q->to.x =
			    NEW_N(q->arena, double, type_count(m, q->to.mesh, q->to.type) + 1);
		break;
	default: return true;
	}
	q->to.at += q->shift;
	return !q->receives || eval_expect(e, r, q, prim);
}

/* ZeRO 2, 3: what this microbatch gave no gradient of is zero; the next one begins anew. */
static bool
close_grads(Eval *e, Rank *r, uint32_t inst)
{
	const Flat *f = &e->flats[inst];

	for (uint32_t i = 0; f->zero >= 2 && i < f->n; i++) {
		const Place *p = &r->grad[f->param[i]];
		if (!r->grad_made[f->param[i]] && p->type) {
			Tensor t = eval_tensor(e->m, p->mesh, (uint32_t[MAX_MESH]){0}, p->type);
			uint32_t coord[MAX_MESH];
			eval_coords(r, p->mesh, 0, coord);
			t = eval_tensor(e->m, p->mesh, coord, p->type);
			t.x = NEW_N(r->op, double, t.n + 1);
			if (!eval_store(e, r, p, &t)) return false;
		}
		r->grad_made[f->param[i]] = false;
	}
	return true;
}

bool
eval_start(Eval *e, Rank *r, CommKind comm, uint32_t i, const Step *edit)
{
	Prim prim[MAX_PRIMS];
	uint32_t n = ir_prims(e->m, &e->comms, r->stage, comm, i, prim);
	Request *q = post(e, r, MEET_action);
	bool ok = true;

	q->comm = comm, q->i = i;
	q->shift = edit ? edit->shift : 0;
	if (comm == CK_grad) ok = close_grads(e, r, i);
	if (comm == CK_param && n) ok = eval_expect_flat(e, r, i, q->shift);
	for (uint32_t k = 0; ok && k < n; k++) {
		if (prim[k].kind != PR_exchange) {
			add_collective(e, r, q, &prim[k], edit);
			continue;
		}
		add_exchange(e, r, q, &prim[k], edit);
		ok = bind_exchange(e, r, q, &q->part[q->nparts - 1].prim);
	}
	advance(q);
	arena_reset(r->op);
	return ok;
}

bool
eval_meet(Eval *e, Rank *r, Meeting what)
{
	Request *q = post(e, r, what);
	Part *p = &q->part[q->nparts++];

	p->prim.kind = PR_all_reduce;
	if (what == MEET_op) {
		const Op *op = &r->f.b->ops[r->f.op];
		q->b = r->f.b, q->inst = r->f.inst, q->op = r->f.op, q->mb = r->f.mb;
		group_over(e, r, ir_mesh(e->m, q->b), attr_int_or(op, AK_over, 0), q, p);
	} else {
		p->group = NEW_N(q->arena, uint32_t, e->nranks);
		for (uint32_t i = 0; i < e->nranks; i++)
			p->group[p->ngroup++] = i;
	}
	r->wait = q;
	if (p->ngroup > 1) return true;
	if (what == MEET_op && !eval_collective(e, p->group, 1)) return false;
	advance(q);
	return true;
}

/* ---- waiting ---- */

static bool
unmatched_wait(Eval *e, const Rank *r, CommKind comm, uint32_t i)
{
	diag_error(
	    e->diag, (Loc){0},
	    "action %u of rank %u waits for '%s %u' of microbatch %u, which has not been "
	    "started",
	    r->pc - 1, r->id, comm_str[comm], i, r->mb);
	return false;
}

bool
eval_wait(Eval *e, Rank *r, CommKind comm, uint32_t i)
{
	for (uint32_t k = 0; k < r->nbegun; k++) {
		Request *q = r->begun[k];
		if (q->what != MEET_action || q->comm != comm || q->i != i || q->mb != r->mb)
			continue;
		r->wait = q;
		return true;
	}
	return unmatched_wait(e, r, comm, i);
}

/* What came in by itself goes where it belongs. */
static bool
take(Eval *e, Rank *r, const Request *q)
{
	Ref ref = q->comm == CK_bwd ? e->m->insts[q->i].args[0] : (Ref){0};
	uint32_t keep = r->f.mb, coord[MAX_MESH];
	bool ok, *made;

	if (!q->receives || !q->to.type || (q->comm != CK_bwd && q->comm != CK_return))
		return true;
	made = &r->cot_made[q->mb * e->nres +
			    (q->comm == CK_bwd ? e->res0[ref.i] + ref.result : 0)];
	if (q->comm == CK_bwd && !q->to.x && q->to.at == q->owner.at) return *made = true;
	r->f.mb = 0;
	eval_coords(r, q->to.mesh, 0, coord);
	Tensor t = eval_tensor(e->m, q->to.mesh, coord, q->to.type);
	ok = eval_load(e, r, &q->to, &t, r->op);
	if (ok && q->comm == CK_bwd) ok = eval_give_cot(e, r, ref, q->mb, &q->owner, &t);
	if (ok && q->comm == CK_return) /* who is not to receive it has zeros */
		ok = eval_give_grad(e, r, e->m->params[q->i].borrows - 1, &t);
	r->f.mb = keep;
	arena_reset(r->op);
	return ok;
}

bool
eval_passed(Eval *e, Rank *r)
{
	Request *q = r->wait;
	bool ok = q->what != MEET_action || take(e, r, q);

	r->wait = NULL;
	drop(r, q);
	return ok;
}

/* ---- meeting ---- */

static bool
same_group(const Part *a, const Part *b)
{
	return a->ngroup == b->ngroup &&
	       !memcmp(a->group, b->group, a->ngroup * sizeof *a->group);
}

/* Do two parts of one rank keep their order? */
static bool
same_line(const Part *a, const Part *b)
{
	if ((a->prim.kind == PR_exchange) != (b->prim.kind == PR_exchange)) return false;
	if (a->prim.kind != PR_exchange) return same_group(a, b);
	return a->prim.channel == b->prim.channel && a->prim.from.stage == b->prim.from.stage &&
	       a->prim.to.stage == b->prim.to.stage;
}

/* The part request q of r is at, if nothing that r began before stands in its way; NULL. */
static Part *
in_turn(const Rank *r, const Request *q)
{
	const Part *p = q->complete ? NULL : &q->part[q->at];

	for (uint32_t i = 0; p && i < r->nbegun && r->begun[i] != q; i++)
		for (uint32_t k = r->begun[i]->at; k < r->begun[i]->nparts; k++)
			if (same_line(&r->begun[i]->part[k], p)) return NULL;
	return p ? (Part *)&q->part[q->at] : NULL;
}

/* Is it one collective? */
static bool
same_meeting(const Request *a, const Part *x, const Request *b, const Part *y)
{
	if (a->what != b->what || !same_group(x, y)) return false;
	if (a->what == MEET_op)
		return a->b == b->b && a->op == b->op && a->inst == b->inst && a->mb == b->mb;
	return a->comm == b->comm && a->i == b->i && a->at == b->at &&
	       x->prim.count == y->prim.count;
}

/* What rank p has begun that meets part x of q; NULL: nothing yet. */
static Request *
counterpart(const Rank *p, const Request *q, const Part *x)
{
	for (uint32_t i = 0; i < p->nbegun; i++) {
		Part *y = in_turn(p, p->begun[i]);
		if (y && y->prim.kind != PR_exchange && same_meeting(q, x, p->begun[i], y))
			return p->begun[i];
	}
	return NULL;
}

/* requires: part x of q is in turn. False, with nothing done, if not all have come; *ok false: it failed. */
static bool
meet(Eval *e, Request *q, const Part *x, bool *ok)
{
	Request **all = NEW_N(q->arena, Request *, x->ngroup);
	uint32_t n = x->ngroup;

	for (uint32_t i = 0; i < n; i++)
		if (!(all[i] = counterpart(&e->ranks[x->group[i]], q, x))) return false;
	if (q->what == MEET_op)
		*ok = eval_collective(e, x->group, n);
	else if (q->what == MEET_action)
		*ok = x->prim.kind == PR_all_gather ? eval_gather_flat(e, all, x->group, n)
						    : eval_reduce(e, all, x->group, n);
	for (uint32_t i = 0; i < n; i++) {
		all[i]->part[all[i]->at].done = true;
		advance(all[i]);
	}
	return true;
}

/* The message of p that takes what r sends in `out`; NULL: not begun, or not of that length. */
static Message *
other_end(const Rank *r, const Part *x, const Message *out, const Rank *p, Request **q)
{
	for (uint32_t i = 0; i < p->nbegun; i++) {
		Part *y = in_turn(p, p->begun[i]);
		if (!y || !same_line(x, y)) continue;
		for (uint32_t k = 0; k < y->nmsg; k++) {
			Message *in = &y->msg[k];
			if (in->sending || in->done || in->piece.from != r->id ||
			    in->piece.count != out->piece.count)
				continue;
			*q = p->begun[i];
			return in;
		}
	}
	return NULL;
}

/* One message of part x of q that can move. */
static bool
send_one(Eval *e, Rank *r, Request *q, Part *x, bool early, bool *ok)
{
	for (uint32_t i = 0; i < x->nmsg; i++) {
		Message *out = &x->msg[i], *in;
		Rank *p = &e->ranks[out->piece.to];
		Request *to = NULL;
		if (!out->sending || out->done) continue;
		in = other_end(r, x, out, p, &to);
		if (!in || (early && !q->early && !to->early)) continue;
		*ok = eval_send(e, r, q, out, p, to);
		in->done = out->done = true;
		advance(q);
		advance(to);
		return true;
	}
	return false;
}

bool
eval_transfer(Eval *e, bool early, bool *ok)
{
	uint32_t start = e->o.adversarial ? eval_draw(e, 2) : 0;

	for (uint32_t i = 0; i < e->nranks; i++) {
		Rank *r = &e->ranks[(start % e->nranks + i) % e->nranks];
		for (uint32_t k = 0; k < r->nbegun; k++) {
			Request *q = r->begun[k];
			Part *x = in_turn(r, q);
			if (!x) continue;
			bool exchange = x->prim.kind == PR_exchange;
			if (!exchange && early && !q->early) continue;
			if (!(exchange ? send_one(e, r, q, x, early, ok) : meet(e, q, x, ok)))
				continue;
			return e->moved = true;
		}
	}
	return false;
}

/* ---- nobody moves ---- */

/* Whom part x of q is still without. */
static void
say_missing(const Eval *e, const Request *q, const Part *x, uint32_t self, Buf *b)
{
	for (uint32_t i = 0; i < x->ngroup; i++)
		if (x->group[i] != self && !counterpart(&e->ranks[x->group[i]], q, x))
			buf_printf(b, " %u", x->group[i]);
	for (uint32_t i = 0; i < x->nmsg; i++)
		if (!x->msg[i].done)
			buf_printf(b, " %u",
				   x->msg[i].sending ? x->msg[i].piece.to
						     : x->msg[i].piece.from);
}

static void
say_wait(const Eval *e, const Rank *r, const Request *q, Buf *b)
{
	const Module *m = e->m;

	buf_printf(b, "rank %u waits ", r->id);
	if (q->what == MEET_norm) {
		buf_puts(b, "in the norm");
	} else if (q->what == MEET_op) {
		buf_printf(b, "in '%%%s' of '%s', microbatch %u",
			   val_str(m, q->b, q->b->ops[q->op].out[0]),
			   name_str(m->names,
				    q->inst < m->ninsts ? m->insts[q->inst].name : q->b->name),
			   q->mb);
	} else {
		Name of = q->comm >= CK_lend ? m->params[q->i].name : m->insts[q->i].name;
		buf_printf(b, "for '%s %u' of '%s', microbatch %u", comm_str[q->comm], q->i,
			   name_str(m->names, of), q->mb);
	}
	buf_puts(b, ", for the ranks");
	say_missing(e, q, &q->part[q->at], r->id, b);
}

bool
eval_deadlock(const Eval *e)
{
	bool first = true;

	for (uint32_t i = 0; i < e->nranks && i < 16; i++) {
		const Rank *r = &e->ranks[i];
		const Request *q = r->wait;
		Buf b;
		buf_init(&b, e->arena);
		if (q)
			say_wait(e, r, q, &b);
		else
			buf_printf(&b, "rank %u has ended", i);
		Loc at = q && q->what == MEET_op ? q->b->ops[q->op].loc : (Loc){0};
		if (first)
			diag_error(e->diag, at, "deadlock: %s", b.s);
		else
			diag_note(e->diag, at, "%s", b.s);
		first = false;
	}
	return false;
}

bool
eval_left(const Eval *e)
{
	for (uint32_t i = 0; i < e->nranks; i++) {
		const Rank *r = &e->ranks[i];
		if (!r->nbegun) continue;
		const Request *q = r->begun[0];
		diag_error(e->diag, (Loc){0}, "rank %u ends without having waited for '%s %u'",
			   i, comm_str[q->comm], q->i);
		return false;
	}
	return true;
}
