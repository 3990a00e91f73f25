/*
 * parser.y - the grammar of GDL. LALR(1), no conflicts. Every action is one ast_* call; elaboration gives the meaning.
 * After a syntax error the parser goes on at the next end of a statement.
 */
%code requires {
#include "frontend/ast.h"
#include <string.h>
#ifndef YY_TYPEDEF_YY_SCANNER_T
#define YY_TYPEDEF_YY_SCANNER_T
typedef void *yyscan_t;
#endif
}
%define api.pure full
%define api.prefix {gv_yy}
%define api.location.type {Span}
%define api.token.prefix {T_}
%define parse.error custom
%define parse.lac full
%locations
%expect 0
%param {yyscan_t scanner}
%parse-param {Parse *p}
%union {
	Token tok;
	Node *n;
}
%code {
/* The stack is as deep as it may get from the start: nesting beyond it is a diagnostic. */
#define YYINITDEPTH 2000
#define YYMAXDEPTH 2000
#define YYLLOC_DEFAULT(Cur, Rhs, N)                                                                \
	do {                                                                                       \
		(Cur).lo = (N) ? YYRHSLOC(Rhs, 1).lo : YYRHSLOC(Rhs, 0).hi;                        \
		(Cur).hi = (N) ? YYRHSLOC(Rhs, N).hi : YYRHSLOC(Rhs, 0).hi;                        \
	} while (0)

int gv_yylex(YYSTYPE *value, Span *at, yyscan_t scanner);
int gv_yylex_init_extra(Parse *p, yyscan_t *scanner);
int gv_yylex_destroy(yyscan_t scanner);
struct yy_buffer_state *gv_yy_scan_bytes(const char *bytes, int len, yyscan_t scanner);

static void
yyerror(const Span *at, yyscan_t scanner, Parse *p, const char *text)
{
	(void)scanner;
	ast_error(p, *at, "%s", strcmp(text, "memory exhausted") ? text : "too deeply nested");
}
}

%token <tok> NAME "name" NUMBER "number" STRING "string" BOOL "true or false"
%token SEP "end of line" MODEL "'model'" AXIS "'axis'" INPUT "'input'" PARAM "'param'" DEF "'def'"
%token LAYER "'layer'" FORWARD "'forward'" TRAIN "'train'" RETURN "'return'" IF "'if'" ELSE "'else'"
%token FOR "'for'" IN "'in'" PER "'per'" AS "'as'" AND "'and'" OR "'or'" NOT "'not'" ARROW "'->'"
%token RANGE "'..'" FLOORDIV "'//'" LE "'<='" GE "'>='" EQ "'=='" NE "'!='"
%token END 0 "end of file"
%type <n> items item stmts line stmt body block else axes bind1 attrs as tail names name dims dim
%type <n> subs sub sig formals formallist formal args arglist arg expr value indexed exprs opt_dims

%left OR
%left AND
%precedence NOT
%nonassoc '<' '>' LE GE EQ NE
%left '+' '-'
%left '*' '/' '%' FLOORDIV
%precedence NEG
%right '^'
%%
program : opt_sep                               { p->items = NULL; }
        | opt_sep items                         { p->items = $2; }
        ;
items   : item SEP                              { $$ = $1; yyerrok; }
        | items item SEP                        { $$ = ast_list($1, $2); yyerrok; }
        ;
item    : MODEL NAME                            { $$ = ast_named(p, N_model, @$, $2, @2, NULL, NULL, NULL); }
        | INPUT NAME '[' names ']' ':' name     { $$ = ast_named(p, N_input, @$, $2, @2, $4, $7, NULL); }
        | INPUT NAME '[' names ']' ':' name name { $$ = ast_named(p, N_input, @$, $2, @2, $4, $7, $8); }
        | DEF NAME sig formals '=' expr         { $$ = ast_def(p, @$, $2, @2, $3, $4, $6); }
        | DEF NAME sig formals block            { $$ = ast_named(p, N_def, @$, $2, @2, $3, $4, $5); }
        | LAYER NAME sig formals block          { $$ = ast_named(p, N_layer, @$, $2, @2, $3, $4, $5); }
        | FORWARD block                         { $$ = ast_node(p, N_forward, @1, NULL, NULL, $2); }
        | TRAIN block                           { $$ = ast_node(p, N_train, @1, NULL, NULL, $2); }
        | stmt
        | error                                 { $$ = NULL; }
        ;
sig     : %empty                                { $$ = NULL; }
        | '[' subs ']'                          { $$ = $2; }
        ;
formals : %empty                                { $$ = NULL; }
        | '(' ')'                               { $$ = NULL; }
        | '(' formallist ')'                    { $$ = $2; }
        ;
formallist : formal
        | formallist ',' formal                 { $$ = ast_list($1, $3); }
        ;
formal  : NAME                                  { $$ = ast_named(p, N_bind1, @$, $1, @1, NULL, NULL, NULL); }
        | NAME '=' expr                         { $$ = ast_named(p, N_bind1, @$, $1, @1, $3, NULL, NULL); }
        ;
block   : '{' opt_sep body '}'                  { $$ = $3; }
        ;
body    : %empty                                { $$ = NULL; }
        | stmts opt_sep
        ;
stmts   : line
        | stmts SEP { yyerrok; } line           { $$ = ast_list($1, $4); }
        ;
line    : stmt
        | error                                 { $$ = NULL; }
        ;
opt_sep : %empty | SEP
        ;
stmt    : AXIS axes                             { $$ = ast_node(p, N_axis, @$, $2, NULL, NULL); }
        | PARAM NAME opt_dims as '=' expr attrs { $$ = ast_param(p, @$, $2, @2, $3, $4, $6, $7); }
        | names2 '=' expr                       { $$ = ast_node(p, N_bind, @$, $1, $3, NULL); }
        | RETURN exprs                          { $$ = ast_node(p, N_return, @$, $2, NULL, NULL); }
        | IF expr block else                    { $$ = ast_node(p, N_if, @$, $2, $3, $4); }
        | FOR NAME IN expr RANGE expr block     { $$ = ast_named(p, N_for, @$, $2, @2, $4, $6, $7); }
        ;
%type <n> names2;
names2  : name
        | names2 ',' name                       { $$ = ast_list($1, $3); }
        ;
else    : %empty                                { $$ = NULL; }
        | ELSE block                            { $$ = $2; }
        | ELSE IF expr block else               { $$ = ast_node(p, N_if, @$, $3, $4, $5); }
        ;
axes    : bind1
        | axes ',' bind1                        { $$ = ast_list($1, $3); }
        ;
bind1   : NAME '=' expr                         { $$ = ast_named(p, N_bind1, @$, $1, @1, $3, NULL, NULL); }
        ;
attrs   : %empty                                { $$ = NULL; }
        | attrs ',' bind1                       { $$ = ast_list($1, $3); }
        ;
as      : %empty                                { $$ = NULL; }
        | AS STRING                             { $$ = ast_as(p, @2, $2); }
        ;
exprs   : expr
        | exprs ',' expr                        { $$ = ast_list($1, $3); }
        ;
opt_dims: %empty                                { $$ = NULL; }
        | '[' dims ']'                          { $$ = $2; }
        ;
dims    : dim
        | dims dim                              { $$ = ast_list($1, $2); }
        ;
dim     : name                                  { $$ = ast_node(p, N_dim, @$, $1, NULL, NULL); }
        | '(' names ')'                         { $$ = ast_node(p, N_dim, @$, $2, NULL, NULL); }
        ;
names   : name
        | names name                            { $$ = ast_list($1, $2); }
        ;
name    : NAME                                  { $$ = ast_named(p, N_name, @$, $1, @1, NULL, NULL, NULL); }
        ;
subs    : sub
        | subs ',' sub                          { $$ = ast_list($1, $3); }
        ;
sub     : names                                 { $$ = ast_node(p, N_axes, @$, $1, NULL, NULL); }
        | names ARROW names                     { $$ = ast_node(p, N_to, @$, $1, $3, NULL); }
        | NAME ':' expr                         { $$ = ast_named(p, N_at, @$, $1, @1, $3, NULL, NULL); }
        ;
expr    : value
        | '-' expr %prec NEG                    { $$ = ast_node(p, N_neg, @$, $2, NULL, NULL); }
        | NOT expr                              { $$ = ast_node(p, N_not, @$, $2, NULL, NULL); }
        | expr '^' expr                         { $$ = ast_node(p, N_pow, @$, $1, $3, NULL); }
        | expr '*' expr                         { $$ = ast_node(p, N_mul, @$, $1, $3, NULL); }
        | expr '/' expr                         { $$ = ast_node(p, N_div, @$, $1, $3, NULL); }
        | expr FLOORDIV expr                    { $$ = ast_node(p, N_floordiv, @$, $1, $3, NULL); }
        | expr '%' expr                         { $$ = ast_node(p, N_mod, @$, $1, $3, NULL); }
        | expr '+' expr                         { $$ = ast_node(p, N_add, @$, $1, $3, NULL); }
        | expr '-' expr                         { $$ = ast_node(p, N_sub, @$, $1, $3, NULL); }
        | expr '<' expr                         { $$ = ast_node(p, N_lt, @$, $1, $3, NULL); }
        | expr '>' expr                         { $$ = ast_node(p, N_gt, @$, $1, $3, NULL); }
        | expr LE expr                          { $$ = ast_node(p, N_le, @$, $1, $3, NULL); }
        | expr GE expr                          { $$ = ast_node(p, N_ge, @$, $1, $3, NULL); }
        | expr EQ expr                          { $$ = ast_node(p, N_eq, @$, $1, $3, NULL); }
        | expr NE expr                          { $$ = ast_node(p, N_ne, @$, $1, $3, NULL); }
        | expr AND expr                         { $$ = ast_node(p, N_and, @$, $1, $3, NULL); }
        | expr OR expr                          { $$ = ast_node(p, N_or, @$, $1, $3, NULL); }
        ;
value   : NUMBER                                { $$ = ast_number(p, N_number, @$, $1); }
        | BOOL                                  { $$ = ast_number(p, N_bool, @$, $1); }
        | name
        | indexed
        ;
indexed : NAME '[' subs ']'                     { $$ = ast_index(p, @$, $1, @1, $3); }
        | NAME '(' args ')' tail                { $$ = ast_named(p, N_call, @$, $1, @1, NULL, $3, $5); }
        | NAME '[' subs ']' '(' args ')' tail   { $$ = ast_named(p, N_call, @$, $1, @1, $3, $6, $8); }
        | '(' expr ')'                          { $$ = $2; }
        | indexed '[' subs ']'                  { $$ = ast_node(p, N_index, @$, $1, $3, NULL); }
        ;
tail    : as                                    { $$ = $1; }
        | PER NAME as                           { $$ = ast_tail(p, @$, &$2, @2, NULL, $3); }
        | PER NAME ':' name as                  { $$ = ast_tail(p, @$, &$2, @2, $4, $5); }
        ;
args    : %empty                                { $$ = NULL; }
        | arglist
        ;
arglist : arg
        | arglist ',' arg                       { $$ = ast_list($1, $3); }
        ;
arg     : expr                                  { $$ = ast_node(p, N_arg, @$, $1, NULL, NULL); }
        | NAME '=' expr                         { $$ = ast_named(p, N_arg, @$, $1, @1, $3, NULL, NULL); }
        ;
%%
/* Says what came, and what could stand there when few things could. */
static int
yyreport_syntax_error(const yypcontext_t *c, yyscan_t scanner, Parse *p)
{
	enum { WANTED = 6 };
	yysymbol_kind_t want[WANTED], got = yypcontext_token(c);
	Span at = *yypcontext_location(c);
	Buf b;
	(void)scanner;
	if (p->quiet) return 0;
	buf_init(&b, p->arena);
	buf_printf(&b, "unexpected %s", got == YYSYMBOL_YYEMPTY ? "text" : yysymbol_name(got));
	if (got == YYSYMBOL_NAME && at.hi <= p->len)
		buf_printf(&b, " '%.*s'", (int)(at.hi - at.lo), p->text + at.lo);
	int n = yypcontext_expected_tokens(c, want, WANTED);
	for (int i = 0; i < n; i++)
		buf_printf(&b, "%s%s", i == 0 ? "; expected " : i == n - 1 ? " or " : ", ",
		    yysymbol_name(want[i]));
	if (got == YYSYMBOL_AS)
		buf_puts(&b, "; it follows the arguments of a call: (f(x) as \"name\")[a -> b]");
	ast_error(p, at, "%s", b.s);
	return 0;
}

bool
ast_parse(Parse *p)
{
	int before = diag_errors(p->diag);
	yyscan_t scanner;
	if (p->len > FE_MAX_TEXT) {
		ast_error(p, (Span){0, 0}, "the file has %zu bytes, more than %d", p->len, FE_MAX_TEXT);
		return false;
	}
	if (gv_yylex_init_extra(p, &scanner)) ICE("no memory for the scanner");
	gv_yy_scan_bytes(p->text, (int)p->len, scanner);
	yyparse(scanner, p);
	gv_yylex_destroy(scanner);
	return diag_errors(p->diag) == before;
}
