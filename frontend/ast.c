/*
 * ast.c - building and printing the syntax tree. Input: the parser's calls. Invariant: an expression is at most
 * FE_MAX_DEPTH deep (a deeper one becomes N_error, after one diagnostic), so walks may recurse.
 */
#include "frontend/ast.h"

static const struct {
	const char *text;     /* in dumps */
	const char *operator; /* of a binary operator */
} kinds[N_KINDS] = {
    [N_error] = {"error", 0},
    [N_number] = {"number", 0},
    [N_bool] = {"bool", 0},
    [N_name] = {"name", 0},
    [N_neg] = {"neg", 0},
    [N_not] = {"not", 0},
    [N_add] = {"add", "+"},
    [N_sub] = {"sub", "-"},
    [N_mul] = {"mul", "*"},
    [N_div] = {"div", "/"},
    [N_floordiv] = {"floordiv", "//"},
    [N_mod] = {"mod", "%"},
    [N_pow] = {"pow", "^"},
    [N_lt] = {"lt", "<"},
    [N_gt] = {"gt", ">"},
    [N_le] = {"le", "<="},
    [N_ge] = {"ge", ">="},
    [N_eq] = {"eq", "=="},
    [N_ne] = {"ne", "!="},
    [N_and] = {"and", "and"},
    [N_or] = {"or", "or"},
    [N_index] = {"index", 0},
    [N_call] = {"call", 0},
    [N_tail] = {"tail", 0},
    [N_arg] = {"arg", 0},
    [N_axes] = {"axes", 0},
    [N_to] = {"to", 0},
    [N_at] = {"at", 0},
    [N_axis] = {"axis", 0},
    [N_bind1] = {"=", 0},
    [N_param] = {"param", 0},
    [N_dim] = {"dim", 0},
    [N_bind] = {"bind", 0},
    [N_return] = {"return", 0},
    [N_if] = {"if", 0},
    [N_for] = {"for", 0},
    [N_model] = {"model", 0},
    [N_input] = {"input", 0},
    [N_def] = {"def", 0},
    [N_layer] = {"layer", 0},
    [N_forward] = {"forward", 0},
    [N_train] = {"train", 0},
};

const char *
ast_operator(NodeKind k)
{
	return kinds[k].operator;
}

static void
ast_verror(Parse *p, Span at, const char *fmt, va_list ap)
{
	Buf b;
	buf_init(&b, p->arena);
	buf_vprintf(&b, fmt, ap);
	diag_error(p->diag, diag_loc(p->diag, p->file, at.lo, at.hi), "%s", b.s);
}

void
ast_error(Parse *p, Span at, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	ast_verror(p, at, fmt, ap);
	va_end(ap);
}

/* From the lexer: it repairs what it can, and the parser keeps quiet about the rest of the statement. */
void
ast_lex_error(Parse *p, Span at, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	ast_verror(p, at, fmt, ap);
	va_end(ap);
	p->quiet = true;
	p->quiet_ends = false;
}

static uint16_t
list_depth(const Node *n)
{
	uint16_t d = 0;
	for (; n; n = n->next)
		if (n->depth > d) d = n->depth;
	return d;
}

Node *
ast_node(Parse *p, NodeKind k, Span at, Node *a, Node *b, Node *c)
{
	Node *n = NEW(p->arena, Node);
	uint16_t d = list_depth(a), db = list_depth(b), dc = list_depth(c);
	if (db > d) d = db;
	if (dc > d) d = dc;
	*n = (Node){.kind = k, .at = at, .name_at = at, .a = a, .b = b, .c = c, .last = n};
	n->depth = (uint16_t)(d + 1);
	if (k > N_tail) {
		n->depth = k < N_axis ? d : 0; /* only expressions count */
	} else if (n->depth > FE_MAX_DEPTH) {
		ast_error(p, at, "the expression is more than %d levels deep", FE_MAX_DEPTH);
		*n = (Node){.kind = N_error, .at = at, .name_at = at, .last = n};
	}
	return n;
}

Node *
ast_named(Parse *p, NodeKind k, Span at, Token name, Span name_at, Node *a, Node *b, Node *c)
{
	Node *n = ast_node(p, k, at, a, b, c);
	n->name = name.text;
	n->name_at = name_at;
	return n;
}

Node *
ast_number(Parse *p, NodeKind k, Span at, Token t)
{
	Node *n = ast_node(p, k, at, NULL, NULL, NULL);
	n->num = t.num;
	return n;
}

Node *
ast_as(Parse *p, Span at, Token text)
{
	Node *n = ast_node(p, N_tail, at, NULL, NULL, NULL);
	n->text = text.text;
	n->has_text = true;
	return n;
}

Node *
ast_tail(Parse *p, Span at, const Token *per, Span per_at, Node *index, Node *as)
{
	Node *n = ast_node(p, N_tail, as ? as->at : at, index, NULL, NULL);
	n->name = per->text;
	n->name_at = per_at;
	if (as) {
		n->text = as->text;
		n->has_text = true;
	}
	return n;
}

Node *
ast_param(Parse *p, Span at, Token name, Span name_at, Node *dims, Node *as, Node *init,
	  Node *attrs)
{
	Node *n = ast_named(p, N_param, at, name, name_at, dims, init, attrs);
	if (as) {
		n->text = as->text;
		n->has_text = true;
	}
	return n;
}

Node *
ast_def(Parse *p, Span at, Token name, Span name_at, Node *sig, Node *formals, Node *value)
{
	Node *ret = ast_node(p, N_return, value->at, value, NULL, NULL);
	return ast_named(p, N_def, at, name, name_at, sig, formals, ret);
}

Node *
ast_list(Node *head, Node *item)
{
	if (!head) return item;
	if (item) {
		head->last->next = item;
		head->last = item;
	}
	return head;
}

/* name [ subs ]: the name becomes a node of its own, as it does where an expression is indexed. */
Node *
ast_index(Parse *p, Span at, Token name, Span name_at, Node *subs)
{
	Node *base = ast_named(p, N_name, name_at, name, name_at, NULL, NULL, NULL);
	return ast_node(p, N_index, at, base, subs, NULL);
}

static void
dump_child(const Names *names, const char *tag, const Node *n, int indent, Buf *out)
{
	if (!n) return;
	buf_printf(out, "%*s%s:\n", indent, "", tag);
	ast_dump(names, n, indent + 2, out);
}

void
ast_dump(const Names *names, const Node *n, int indent, Buf *out)
{
	for (; n; n = n->next) {
		buf_printf(out, "%*s%s", indent, "", kinds[n->kind].text);
		if (n->name) buf_printf(out, " %s", name_str(names, n->name));
		if (n->kind == N_bool) buf_puts(out, n->num != 0 ? " true" : " false");
		if (n->kind == N_number) {
			buf_putc(out, ' ');
			buf_double(out, n->num);
		}
		if (n->has_text) buf_printf(out, " as \"%s\"", name_str(names, n->text));
		buf_putc(out, '\n');
		dump_child(names, "a", n->a, indent + 2, out);
		dump_child(names, "b", n->b, indent + 2, out);
		dump_child(names, "c", n->c, indent + 2, out);
	}
}
