/*
 * search_given.c - the plan that --plan says, instead of a search.
 *
 * Input: LV_train and a .plan file. Output: LV_plan. ir/plan.c reads and checks it against the module; here it is held
 * against the command line.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "passes/search.h"

enum { MAX_PLAN_BYTES = 16 << 20 };

/* The command line may ask for what the plan says, not for something else. */
static bool
check_options(Ctx *c, const Plan *p, Name file)
{
	Loc at = {.file = file, .line = 1, .col = 1, .len = 1};
	int before = diag_errors(c->diag);
	if (c->ranks && c->ranks != p->ranks)
		diag_error(c->diag, at,
			   "this plan is for %" PRIu32 " ranks, --ranks says %" PRIu32,
			   p->ranks, c->ranks);
	if (c->microbatches && c->microbatches != p->microbatches)
		diag_error(c->diag, at,
			   "this plan has %" PRIu32
			   " microbatches, --microbatches says %" PRIu32,
			   p->microbatches, c->microbatches);
	if (c->schedule_given && c->schedule != p->schedule)
		diag_error(c->diag, at, "the schedule of this plan is %s, --schedule says %s",
			   schedule_str[p->schedule], schedule_str[c->schedule]);
	return diag_errors(c->diag) == before;
}

bool
search_given(Ctx *c, Module *m)
{
	size_t n;
	Name file = name_of(c->names, c->plan_path);
	char *text = file_read(m->arena, c->plan_path, MAX_PLAN_BYTES, &n);
	if (!text) {
		diag_error(c->diag, (Loc){0}, "cannot read the plan %s: %s", c->plan_path,
			   strerror(errno));
		return false;
	}
	if (!plan_parse(m, c->diag, file, text, n) || !check_options(c, &m->plan, file))
		return false;
	m->plan.forward_only |= c->forward_only;
	m->level = LV_plan;
	return true;
}
