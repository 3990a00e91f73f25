/*
 * pipeline.c - the one array of passes, in order, and the one runner.
 *
 * Input: a module of any level. Output: a module of level mem, or of the level --stop-after
 * leaves. For every pass: level check -> run -> verify -> dump -> optional round trip through
 * the text -> reset the scratch arena -> time. A module resumes at the first pass that takes
 * its level; passes that keep the level find their own work done and change nothing, so no dump
 * needs to remember which pass wrote it.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "passes/passes.h"

static const Pass passes[] = {
    {"simplify", "fold, expand normalize, merge equal expressions, drop dead code", LV_graph,
     LV_graph, pass_simplify},
    {"autodiff", "derive B and W bodies from F", LV_graph, LV_train, pass_autodiff},
    {"optimizer", "add the gradient norm and the update", LV_train, LV_train, pass_optimizer},
    {"plan", "choose stages, meshes, microbatches and strategies, or read --plan", LV_train,
     LV_plan, pass_plan},
    {"spmd", "lower every body under its strategy: shard, recompute, fuse", LV_plan, LV_spmd,
     pass_spmd},
    {"sched", "order the bodies of a step in one table of actions", LV_spmd, LV_sched,
     pass_sched},
    {"mem", "give every buffer its offset", LV_sched, LV_mem, pass_mem},
};

/* Is `name` one of the comma-separated names of `list`, or is the list "all"? */
static bool
listed(const char *list, const char *name)
{
	if (!list) return false;
	if (strcmp(list, "all") == 0) return true;
	size_t n = strlen(name);
	for (const char *p = list; *p;) {
		size_t len = strcspn(p, ",");
		if (len == n && strncmp(p, name, n) == 0) return true;
		p += len + (p[len] == ',');
	}
	return false;
}

static bool
is_pass(const char *name, size_t n)
{
	for (size_t i = 0; i < COUNTOF(passes); i++)
		if (strlen(passes[i].name) == n && strncmp(passes[i].name, name, n) == 0)
			return true;
	return false;
}

/* Every name the user gave is a pass. */
static bool
check_names(Ctx *c, const char *flag, const char *list)
{
	if (!list || strcmp(list, "all") == 0) return true;
	for (const char *p = list; *p;) {
		size_t len = strcspn(p, ",");
		if (!is_pass(p, len)) {
			diag_error(c->diag, (Loc){0},
				   "%s: there is no pass '%.*s'; --print-passes lists them",
				   flag, (int)(len < 80 ? len : 80), p);
			return false;
		}
		p += len + (p[len] == ',');
	}
	return true;
}

static bool
dump(Ctx *c, const Pass *p, size_t number, const char *text, size_t n, const PassOptions *o)
{
	if (listed(o->dump, p->name)) fwrite(text, 1, n, stdout);
	if (!o->dump_dir) return true;
	Buf path;
	buf_init(&path, c->tmp);
	buf_printf(&path, "%s/%02zu-%s.gir", o->dump_dir, number, p->name);
	if (dir_make(o->dump_dir) && file_write(path.s, text, n)) return true;
	diag_error(c->diag, (Loc){0}, "cannot write %s: %s", path.s, strerror(errno));
	return false;
}

/* print, parse, compare; goes on with the module that was read. */
static void
round_trip(Ctx *c, const Pass *p, Module **m, const Buf *text)
{
	Module *r =
	    ir_parse(c->perm, c->names, c->diag, name_of(c->names, p->name), text->s, text->n);
	ENSURE(r, "the text of the module does not read back");
	Buf why, again;
	buf_init(&why, c->tmp);
	buf_init(&again, c->tmp);
	ENSURE(ir_equal(*m, r, &why), "the module read back differs: %s", why.s ? why.s : "?");
	ir_print(r, &again);
	ENSURE(again.n == text->n && memcmp(again.s, text->s, text->n) == 0,
	       "the module read back prints otherwise");
	*m = r;
}

static double
now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static bool
run_one(Ctx *c, size_t i, Module **m, const PassOptions *o)
{
	const Pass *p = &passes[i];
	ice_context(p->name);
	ENSURE((*m)->level == p->in, "a module of level %s where %s is wanted",
	       level_str[(*m)->level], level_str[p->in]);
	double start = o->time ? now() : 0;
	if (!p->run(c, *m) || diag_errors(c->diag)) return false;
	ENSURE((*m)->level == p->out, "left level %s, not %s", level_str[(*m)->level],
	       level_str[p->out]);
	double ran = o->time ? now() : 0;
	bool proven = o->verify && !(o->unproven && p->out >= LV_sched);
	if (proven && !ir_verify(*m, c->diag, p->name)) return false;
	if (o->dump || o->dump_dir || o->roundtrip) {
		Buf text;
		buf_init(&text, c->tmp);
		ir_print(*m, &text);
		if (!dump(c, p, i + 1, text.s, text.n, o)) return false;
		if (o->roundtrip) round_trip(c, p, m, &text);
	}
	if (o->time)
		fprintf(stderr, "%-10s %8.2f ms, with checks %8.2f ms, %8zu KiB\n", p->name,
			ran - start, now() - start,
			(arena_bytes(c->perm) + arena_bytes(c->tmp)) / 1024);
	arena_reset(c->tmp);
	return true;
}

/* Runs the passes from the module's level on. *m may be another module afterwards (round
 * trip). False after diagnostics. */
bool
pass_run_all(Ctx *c, Module **m, const PassOptions *o)
{
	if (!check_names(c, "-d", o->dump) || !check_names(c, "--stop-after", o->stop_after))
		return false;
	size_t first = COUNTOF(passes);
	for (size_t i = COUNTOF(passes); i-- > 0;)
		if (passes[i].in == (*m)->level) first = i;
	bool ok = true;
	c->explain = o->explain;
	for (size_t i = first; ok && i < COUNTOF(passes); i++) {
		ok = run_one(c, i, m, o);
		if (o->stop_after && strcmp(o->stop_after, passes[i].name) == 0) break;
	}
	ice_context("");
	return ok;
}

const Pass *
pass_list(size_t *n)
{
	*n = COUNTOF(passes);
	return passes;
}

/* --print-passes: number, name, levels, what it does. */
void
pass_print_list(FILE *out)
{
	for (size_t i = 0; i < COUNTOF(passes); i++) {
		const Pass *p = &passes[i];
		fprintf(out, "%02zu %-10s %-5s -> %-5s  %s\n", i + 1, p->name, level_str[p->in],
			level_str[p->out], p->doc);
	}
}
