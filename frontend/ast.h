/*
 * ast.h - the syntax tree of a GDL file. Private to frontend/.
 *
 * One node type for everything: a list is nodes linked by `next`, its head is the list. Nodes are written by the
 * parser's actions, one ast_* call each, and never changed after; they live in the compilation's arena.
 */
#ifndef GV_AST_H
#define GV_AST_H

#include "ir/base.h"

enum {
	FE_MAX_TEXT = 1 << 20, /* bytes of a GDL file */
	FE_MAX_DEPTH = 500,    /* of an expression: bounds the recursion of every walk */
	FE_MAX_OPEN = 255,     /* brackets open at once */
};

/* Byte offsets [lo, hi) into the text that is being parsed. */
typedef struct Span {
	uint32_t lo, hi;
} Span;

/* What `name`, `num`, `text` and the children a, b, c of each kind are. */
typedef enum NodeKind {
	N_error, /* something that did not parse; elaborates to poison */
	/* expressions */
	N_number, /* num */
	N_bool,   /* num: 0, 1 */
	N_name,   /* name */
	N_neg,    /* a */
	N_not,    /* a */
	/* ORDER binary */
	N_add,
	N_sub,
	N_mul,
	N_div,
	N_floordiv,
	N_mod,
	N_pow, /* a, b */
	N_lt,
	N_gt,
	N_le,
	N_ge,
	N_eq,
	N_ne,
	N_and,
	N_or,
	N_index, /* a [ b: subs ]; a call without arguments if `a` names a function */
	N_call,  /* name [ a: subs ] ( b: args ); c: N_tail or NULL */
	N_tail,  /* per name : a (N_name or NULL); text: as */
	N_arg,   /* name = a; name 0: by position */
	/* what stands in brackets */
	N_axes, /* a: names */
	N_to,   /* a: names -> b: names */
	N_at,   /* name : a */
	/* statements */
	N_axis,   /* a: list of N_bind1 */
	N_bind1,  /* name = a */
	N_param,  /* name [ a: list of N_dim ] text: as, = b, c: list of N_bind1 */
	N_dim,    /* a: names */
	N_bind,   /* a: names = b */
	N_return, /* a: expressions */
	N_if,     /* a, b: then, c: else */
	N_for,    /* name in a .. b, c: body */
	/* items */
	N_model,   /* name */
	N_input,   /* name [ a: names ] : b (N_name) [ c (N_name) ] */
	N_def,     /* name [ a: subs ] ( b: list of N_bind1, a NULL: no default ) c: body */
	N_layer,   /* as N_def */
	N_forward, /* c: body */
	N_train,   /* c: body */
	N_KINDS
} NodeKind;

typedef struct Node Node;
struct Node {
	NodeKind kind;
	uint16_t depth;  /* of an expression */
	bool has_text;   /* `as` was written, be it "" */
	Span at;         /* all of it */
	Span name_at;    /* of `name` */
	Name name, text; /* text: contents of a string */
	double num;
	Node *a, *b, *c;
	Node *next; /* in a list */
	Node *last; /* of a list's head: its last node */
};

/* What the lexer makes of a name, number or string. */
typedef struct Token {
	Name text; /* of a string: without the quotes */
	double num;
} Token;

/* State of one parse; the lexer's extra and the parser's parameter. */
typedef struct Parse {
	Arena *arena;
	Names *names;
	Diag *diag;
	Name file;
	const char *text;
	size_t len;
	uint32_t pos; /* of the next character */
	int depth;    /* open ( and [ */
	struct {
		char close;
		Span at;
	} open[FE_MAX_OPEN + 1];
	enum {
		LEX_blank,
		LEX_ends,
		LEX_closed
	} last; /* may the last token end a statement; was it made up */
	bool quiet,
	    quiet_ends; /* the statement has an error of the lexer: no syntax error on top */
	Node *items;
} Parse;

/* Parses p->text into p->items. False after diagnostics. */
bool ast_parse(Parse *p);
void ast_error(Parse *p, Span at, const char *fmt, ...) GV_PRINTF(3, 4);
void ast_lex_error(Parse *p, Span at, const char *fmt, ...) GV_PRINTF(3, 4);

/* ---- constructors, one per action ---- */
Node *ast_node(Parse *p, NodeKind k, Span at, Node *a, Node *b, Node *c);
Node *ast_named(Parse *p, NodeKind k, Span at, Token name, Span name_at, Node *a, Node *b,
		Node *c);
Node *ast_number(Parse *p, NodeKind k, Span at, Token t);
Node *ast_as(Parse *p, Span at, Token text);
Node *ast_tail(Parse *p, Span at, const Token *per, Span per_at, Node *index, Node *as);
Node *ast_param(Parse *p, Span at, Token name, Span name_at, Node *dims, Node *as, Node *init,
		Node *attrs);
Node *ast_index(Parse *p, Span at, Token name, Span name_at, Node *subs);
Node *ast_list(Node *head, Node *item); /* appends; either may be NULL */
Node *ast_def(Parse *p, Span at, Token name, Span name_at, Node *sig, Node *formals,
	      Node *value);

/* An indented form, for --emit=ast. */
void ast_dump(const Names *names, const Node *list, int indent, Buf *out);

/* "+" of N_add; NULL if it is no operator. */
const char *ast_operator(NodeKind k);

#endif
