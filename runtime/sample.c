/*
 * sample.c - continues a prompt token by token through the program's forward pass, dropout off.
 *
 * The prompt stands at the beginning of row 0 of a microbatch, zeros after it; a causal model does not see them. The next token is
 * drawn from the logits at its last position, at most top-k of them, at a temperature. Draws come from (seed, token
 * number): the same text every time. Several ranks all go forward and put the logits together; each draws the same.
 */
#include <math.h>
#include <stdlib.h>

#include "gvrt_int.h"

typedef struct Window { /* on its way into an input */
	const Sampler *s;
	int32_t *tokens;
} Window;

typedef struct Logits { /* on their way out of row 0 */
	Sampler *s;
	const real *at;
	int64_t row, cols;
} Logits;

static const GvrtInput *
tokens_input(const GvrtProgram *p)
{
	for (size_t i = 0; i < p->ninputs; i++)
		if (!strcmp(p->inputs[i].name, "tokens")) return &p->inputs[i];
	return NULL;
}

/* Of all ranks together. */
static int64_t
logits_cols(const GvrtProgram *p)
{
	return p->logits_all > 0 ? p->logits_all : p->logits_cols;
}

/* Appends to the window; the oldest token leaves a full one. */
static void
push(Sampler *s, int64_t seq, int32_t token)
{
	if (s->n == seq) {
		for (int64_t i = 1; i < seq; i++)
			s->window[i - 1] = s->window[i];
		s->n--;
	}
	s->window[s->n++] = token;
}

static bool
push_prompt(Sampler *s, int64_t seq, const char *text, Err *e)
{
	while (*text) {
		char *end = (char *)(uintptr_t)text + 1;
		long long token = (unsigned char)*text;
		if (!s->bytes) {
			token = strtoll(text, &end, 10);
			if (end == text || (*end && *end != ' ' && *end != ','))
				return rt_fail(e, "--prompt: tokens are not bytes here: give "
						  "their numbers, separated by spaces");
			while (*end == ' ' || *end == ',')
				end++;
		}
		if (token < 0 || token >= s->cols)
			return rt_fail(e, "--prompt: token %lld, and the model takes 0 to %lld",
				       token, (long long)s->cols - 1);
		push(s, seq, (int32_t)token);
		text = end;
	}
	return true;
}

bool
sample_start(Sampler *s, Pool *pool, const GvrtProgram *p, const Options *o, bool bytes, Err *e)
{
	const GvrtInput *x = tokens_input(p);
	if (!x || x->kind != GVRT_I32 || x->per_sample != p->seq || logits_cols(p) < 1)
		return rt_fail(
		    e, "--sample needs a model that reports logits over an input named tokens");
	*s = (Sampler){.bytes = bytes || x->range == 256, .cols = logits_cols(p)};
	if (x->range > 0 && x->range < s->cols) s->cols = x->range; /* padding is no token */
	s->window = POOL_N(pool, int32_t, p->seq);
	s->logits = POOL_N(pool, real, s->cols);
	s->heap = POOL_N(pool, real, s->cols);
	s->sum = POOL_N(pool, double, s->cols);
	if (o->prompt && !push_prompt(s, p->seq, o->prompt, e)) return false;
	if (s->n == 0) push(s, p->seq, s->bytes && s->cols > '\n' ? '\n' : 0);
	return true;
}

/* The k-th largest of x[0..n), by a heap of the k largest so far whose root is the least of them. */
static real
kth_largest(const real *x, int64_t n, int64_t k, real *heap)
{
	int64_t size = 0;
	for (int64_t i = 0; i < n; i++) {
		int64_t at;
		if (size < k) {
			for (at = size++; at > 0 && heap[(at - 1) / 2] > x[i];
			     at = (at - 1) / 2)
				heap[at] = heap[(at - 1) / 2];
		} else {
			if (!(x[i] > heap[0])) continue;
			for (at = 0;;) {
				int64_t child = 2 * at + 1;
				if (child + 1 < k && heap[child + 1] < heap[child]) child++;
				if (child >= k || heap[child] >= x[i]) break;
				heap[at] = heap[child];
				at = child;
			}
		}
		heap[at] = x[i];
	}
	return heap[0];
}

/* Draws from softmax(x / temperature) over the k largest; ties of the k-th all take part. */
static int32_t
draw(Sampler *s, const Options *o, double u)
{
	const real *x = s->logits;
	int64_t best = 0;
	double least = -INFINITY, sum = 0;
	for (int64_t i = 1; i < s->cols; i++)
		if (x[i] > x[best]) best = i;
	if (o->temperature <= 0 || o->top_k == 1) return (int32_t)best;
	if (o->top_k > 0 && o->top_k < s->cols)
		least = (double)kth_largest(x, s->cols, o->top_k, s->heap);
	for (int pass = 0; pass < 2; pass++) {
		double total = sum;
		sum = 0;
		for (int64_t i = 0; i < s->cols; i++) {
			if (!((double)x[i] >= least)) continue;
			sum += exp(((double)x[i] - (double)x[best]) / o->temperature);
			if (pass == 1 && sum > u * total) return (int32_t)i;
		}
	}
	return (int32_t)best;
}

/* The window as row 0 of an input, as far as this rank has it. */
static bool
put_run(void *arg, int64_t first, int64_t local, int64_t n)
{
	const Window *w = arg;
	for (int64_t i = 0; i < n && first + i < w->s->n; i++)
		w->tokens[local + i] = w->s->window[first + i];
	return true;
}

static void
put_window(const Sampler *s, GvrtRun *r, const GvrtInput *x)
{
	const GvrtProgram *p = r->state->p;
	Window w = {s, (int32_t *)(void *)(train_slot(r, p, 0) + x->at)};
	int64_t coord[GVRT_MESH];
	if (x->at < 0) return;
	if (!x->part) {
		put_run(&w, 0, 0, p->seq);
		return;
	}
	const GvrtMesh *mesh = &p->meshes[x->part->mesh];
	part_coords(mesh, r->state->at.rank - p->stage_ranks[p->stage].rank, coord);
	part_runs(x->part, mesh, coord, 0, put_run, &w);
}

/* Logits of the last position, where this rank has them. */
static bool
take_run(void *arg, int64_t first, int64_t local, int64_t n)
{
	const Logits *l = arg;
	for (int64_t i = 0; i < n; i++) {
		int64_t row = (first + i) / l->cols, col = (first + i) % l->cols;
		if (row == l->row && col < l->s->cols)
			l->s->sum[col] = (double)l->at[local + i];
	}
	return true;
}

static void
take_own(Sampler *s, GvrtRun *r)
{
	const GvrtProgram *p = r->state->p;
	const GvrtPart *x = p->logits_part;
	if (p->logits_at < 0) return;
	const real *at = (const real *)(const void *)(train_slot(r, p, 0) + p->logits_at);
	if (!x) {
		if (p->stage_ranks && r->state->at.rank != p->stage_ranks[p->stage].rank)
			return;
		for (int64_t i = 0; i < s->cols; i++)
			s->sum[i] = (double)at[(s->n - 1) * p->logits_ld + i];
		return;
	}
	const GvrtMesh *mesh = &p->meshes[x->mesh];
	unsigned split = 0;
	Logits l = {s, at, s->n - 1, logits_cols(p)};
	int64_t coord[GVRT_MESH];
	for (int k = 0; k < x->naxes; k++)
		for (int i = 0; i < x->axis[k].nshard; i++)
			split |= 1u << x->axis[k].shard[i];
	part_coords(mesh, r->state->at.rank - p->stage_ranks[p->stage].rank, coord);
	if (part_first(mesh, ~split, coord)) part_runs(x, mesh, coord, 0, take_run, &l);
}

static void
take_logits(Sampler *s, GvrtRun *r)
{
	memset(s->sum, 0, (size_t)s->cols * sizeof *s->sum);
	take_own(s, r);
	comm_sum(r->state->comm, s->sum, (int)s->cols);
	for (int64_t i = 0; i < s->cols; i++)
		s->logits[i] = (real)s->sum[i];
}

static int32_t
next_token(Sampler *s, GvrtRun *r, const GvrtProgram *p, const Options *o, uint64_t key,
	   int64_t i)
{
	/* Every input anew: the forward pass may use its slot again. */
	train_blank(train_slot(r, p, 0), p);
	for (size_t k = 0; k < p->ninputs; k++)
		if (!strcmp(p->inputs[k].name, "tokens")) put_window(s, r, &p->inputs[k]);
	p->forward(r);
	take_logits(s, r);
	return draw(s, o, rt_uniform(key, (uint64_t)i));
}

/* ---- text ---- */

/* Length of the UTF-8 sequence that c begins; 0: none. */
static int
utf8_length(unsigned char c)
{
	return c < 0x80                ? 1
	       : c >= 0xC2 && c < 0xE0 ? 2
	       : c >= 0xE0 && c < 0xF0 ? 3
	       : c >= 0xF0 && c < 0xF5 ? 4
				       : 0;
}

/* Bytes that wait for the rest of their character. */
typedef struct Pending {
	unsigned char s[4];
	int n;
} Pending;

static void
escape_byte(unsigned char c)
{
	if ((c >= 0x20 && c < 0x7F) || c == '\n' || c == '\t')
		rt_out((const char *)&c, 1);
	else
		rt_outf("\\x%02x", c);
}

static void
put_byte(Pending *q, unsigned char c)
{
	if (q->n && (c & 0xC0) != 0x80) { /* the character never came to its end */
		for (int i = 0; i < q->n; i++)
			escape_byte(q->s[i]);
		q->n = 0;
	}
	if (q->n == 0 && utf8_length(c) < 2) {
		escape_byte(c);
		return;
	}
	q->s[q->n++] = c;
	if (q->n < utf8_length(q->s[0])) return;
	rt_out((const char *)q->s, (size_t)q->n);
	q->n = 0;
}

void
sample_run(Sampler *s, GvrtRun *r, const GvrtProgram *p, const Options *o)
{
	Pending q = {.n = 0};
	uint64_t key = gvrt_key(r->seed, "sample");
	bool text = s->bytes && !o->json;
	r->train = false;
	rt_outf("%s", o->json ? "{\"event\":\"sample\",\"tokens\":[" : "");
	for (int64_t i = 0; text && o->prompt && i < s->n; i++)
		put_byte(&q, (unsigned char)s->window[i]);
	for (int64_t i = 0; i < o->sample; i++) {
		int32_t token = next_token(s, r, p, o, key, i);
		if (text && token < 256)
			put_byte(&q, (unsigned char)token);
		else
			rt_outf(i ? "%s%d" : "%.0s%d", o->json ? "," : " ", token);
		push(s, p->seq, token);
	}
	for (int i = 0; i < q.n; i++)
		escape_byte(q.s[i]);
	rt_outf("%s\n", o->json ? "]}" : "");
	r->train = true;
}
