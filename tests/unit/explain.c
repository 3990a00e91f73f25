/*
 * explain.c - tests of what is said about plans: facts, `diff`, the report page.
 *
 * The page is taken apart by a reader of its own, which knows of HTML what the page uses: tags balance, attributes are well
 * written, ids are unique, nothing refers to anything outside. `explain FILE...` checks pages that are there.
 */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "passes/report.h"
#include "tests/unit/check.h"
#include "tests/unit/steps.h"

/* ---- a reader of pages ---- */

enum { DEEP = 64, IDS = 256 };

typedef struct Page {
	const char *at;
	char open[DEEP][16];
	char id[IDS][24];
	int depth, nids;
	size_t tags;
	const char *bad; /* what is wrong; NULL: nothing so far */
} Page;

static bool
among(const char *word, size_t n, const char *list)
{
	for (const char *p = list; *p; p += strcspn(p, " ") + (p[strcspn(p, " ")] == ' '))
		if (strcspn(p, " ") == n && memcmp(p, word, n) == 0) return true;
	return false;
}

static void
attribute(Page *p, const char *name, size_t len, const char *value, size_t n)
{
	if (among(name, len, "src href action background xlink:href srcset style") && len != 5)
		p->bad = "it refers to something outside";
	if (len > 2 && memcmp(name, "on", 2) == 0) p->bad = "an event attribute";
	if (memchr(value, '<', n)) p->bad = "a < in an attribute";
	if (len != 2 || memcmp(name, "id", 2) != 0) return;
	if (n >= sizeof p->id[0] || p->nids == IDS) {
		p->bad = "ids that are too long or too many";
		return;
	}
	for (int i = 0; i < p->nids; i++)
		if (strlen(p->id[i]) == n && memcmp(p->id[i], value, n) == 0)
			p->bad = "an id occurs twice";
	memcpy(p->id[p->nids], value, n);
	p->id[p->nids++][n] = '\0';
}

static void
attributes(Page *p)
{
	const char *s = p->at;
	while (!p->bad && *s && *s != '>' && *s != '/') {
		s += strspn(s, " \n");
		const size_t len = strcspn(s, "= \n>/");
		if (!len) break;
		const char *name = s, *value = s + len;
		size_t n = 0;
		s += len;
		if (*s == '=') {
			s++;
			const char quote = *s == '"' || *s == '\'' ? *s++ : 0;
			const char until[2] = {quote, 0};
			value = s;
			n = strcspn(s, quote ? until : " \n>");
			if (!quote && (!n || n != strcspn(s, " \n>\"'`=<")))
				p->bad = "a bare value";
			s += n;
			if (quote && *s != quote) p->bad = "an open quote";
			s += quote && *s == quote;
			if (*s && *s != ' ' && *s != '\n' && *s != '>' && *s != '/')
				p->bad = "text behind a quote";
		}
		attribute(p, name, len, value, n);
	}
	p->at = s;
}

static void
open_tag(Page *p)
{
	const size_t n = strcspn(p->at, " \n>/");
	const char *name = p->at;
	if (!n || n >= sizeof p->open[0] || p->depth == DEEP) {
		p->bad = "a < that begins no tag";
		return;
	}
	p->at += n;
	attributes(p);
	const bool closed = *p->at == '/';
	p->at += closed;
	if (*p->at != '>') p->bad = "a tag without an end";
	p->at += !p->bad;
	p->tags++;
	if (closed || among(name, n, "meta br hr img link input")) return;
	memcpy(p->open[p->depth], name, n);
	p->open[p->depth++][n] = '\0';
	if (among(name, n, "style script")) {
		const char *end = strstr(p->at, n == 5 ? "</style" : "</script");
		const char *out = strstr(p->at, "url("), *in = strstr(p->at, "@import");
		if (!end) p->bad = "style or script without an end";
		if (end && ((out && out < end) || (in && in < end)))
			p->bad = "its style refers to something outside";
		if (end) p->at = end;
	}
}

static void
close_tag(Page *p)
{
	const size_t n = strcspn(p->at, ">");
	if (!p->depth || strlen(p->open[p->depth - 1]) != n ||
	    memcmp(p->open[p->depth - 1], p->at, n) != 0)
		p->bad = "tags do not balance";
	else
		p->depth--;
	p->at += n + (p->at[n] == '>');
}

static void
text(Page *p)
{
	const size_t n = strcspn(p->at, "<");
	for (size_t i = 0; i < n; i++)
		if (p->at[i] == '&' && !among(p->at + i, strcspn(p->at + i, ";"),
					      "&amp &lt &gt &quot &#39 &#xfffd"))
			p->bad = "a bare &";
	p->at += n;
}

static bool
read_page(Page *p, const char *who, const char *s) /* who NULL: says nothing */
{
	*p = (Page){.at = s};
	if (strstr(s, "http:") || strstr(s, "https:") || strstr(s, "//")) p->bad = "an address";
	while (!p->bad && *p->at) {
		const char *here = p->at;
		if (memcmp(here, "<!", 2) == 0)
			p->at += strcspn(here, ">"), p->at += *p->at == '>';
		else if (memcmp(here, "</", 2) == 0)
			p->at += 2, close_tag(p);
		else if (*here == '<')
			p->at++, open_tag(p);
		else
			text(p);
		if (p->bad && who) fprintf(stderr, "%s: %s: %.60s\n", who, p->bad, here);
	}
	if (!p->bad && p->depth) p->bad = "tags are left open";
	if (p->bad && who) fprintf(stderr, "%s: %s\n", who, p->bad);
	return !p->bad && p->tags > 100;
}

/* The reader sees what is wrong. */
static void
test_reader(void)
{
	static const char *const bad[] = {
	    "<p>a<b>c</p></b>",
	    "<p>a",
	    "<i id=x></i><i id=x></i>",
	    "<img src=x>",
	    "<p>a & b</p>",
	    "<a href=\"x\">y</a>",
	    "<p onclick=\"x\">y</p>",
	    "<p class=\"a>y</p>",
	    "<p title='a'b'>y</p>",
	    "<style>a{background:url(x)}</style>",
	    "<p>https:x</p>",
	    "<p class=a\"b>x</p>",
	};
	for (size_t i = 0; i < COUNTOF(bad); i++) {
		Page p;
		read_page(&p, NULL, bad[i]);
		check(bad[i], p.bad != NULL, "the reader of pages sees nothing");
	}
}

/* ---- plans of the toy ---- */

static const char two_stages[] =
    "plan 1\nranks 4 threads 1 microbatches 3 schedule 1f1b\nmesh m1 = dp:2\nmesh m2 = tp:2\n"
    "stage 0 layers 0-1 ranks 0-1\nstage 1 layers 2-4 ranks 2-3\n"
    "layers 0-1 mesh m1 zero 1 recompute none\nlayers 2-4 mesh m2 zero 0 recompute none\n";
static const char one_stage[] =
    "plan 1\nranks 4 threads 1 microbatches 2 schedule gpipe\nmesh m1 = dp:2 tp:2\nmesh m2 = "
    "dp:4\n"
    "layers 0-2 mesh m1 zero 2 recompute full\nlayers 3-4 mesh m2 zero 0 recompute none\n";
static const char alone[] = "plan 1\nranks 1 threads 1 microbatches 1 schedule 1f1b\nmesh m0 = "
			    "mb\nlayers 0-4 mesh m0\n";

typedef struct World {
	Ctx c;
	FILE *said;
} World;

static World
world(void)
{
	World w = {.said = tmpfile()};
	w.c.perm = arena_new();
	w.c.tmp = arena_new();
	w.c.names = names_new(w.c.perm);
	w.c.diag = diag_new(w.c.perm, w.c.names, w.said);
	return w;
}

static void
world_end(World *w)
{
	fclose(w->said);
	arena_free(w->c.tmp);
	arena_free(w->c.perm);
}

static const Facts *
facts(World *w, const char *model, const char *plan)
{
	Module *m = lowered(&w->c, model, plan, NULL);
	if (m && model != toy)
		m->insts[m->ninsts - 1].name = name_of(w->c.names, "\" onload=\"x");
	return m ? facts_new(&w->c, m, NULL, NULL, w->c.perm) : NULL;
}

static void
test_facts(const char *test, const char *plan)
{
	World w = world();
	const Facts *f = facts(&w, toy, plan);
	check(test, f != NULL, "it does not lower");
	for (uint32_t k = 0; f && k < f->m->plan.nstages; k++) {
		int64_t time = 0, bytes = 0;
		bool positive = true;
		for (int i = 0; i < PT_COUNT; i++)
			time += f->stage[k].part[i], positive &= f->stage[k].part[i] >= 0;
		for (int i = 0; i < MK_COUNT; i++)
			bytes += f->stage[k].mem[i], positive &= f->stage[k].mem[i] >= 0;
		check(test, time == f->sim.step, "the parts of a stage's time are the step");
		check(test, bytes == f->stage[k].rank_bytes,
		      "the kinds of a rank's memory are all of it");
		check(test,
		      f->stage[k].mem[MK_reserved] + f->stage[k].mem[MK_comms] +
			      f->m->mem[k].arena_bytes ==
			  bytes,
		      "memory is the arena and what is beside it");
		check(test, positive, "nothing is below zero");
		check(test,
		      f->stage[k].part[PT_forward] > 0 && f->stage[k].part[PT_weights] > 0,
		      "something is computed");
	}
	if (f) check(test, f->nlayers == 5, "reshards are no layers");
	world_end(&w);
}

/* ---- diff ---- */

static bool
given(World *w, Module *m, const char *text, Plan *out)
{
	Module *x = ir_clone(m, w->c.perm);
	if (!plan_parse(x, w->c.diag, name_of(w->c.names, "plan"), text, strlen(text)))
		return false;
	*out = x->plan;
	return true;
}

static Module *
trained(World *w)
{
	Module *m = ir_parse(w->c.perm, w->c.names, w->c.diag, name_of(w->c.names, "t"), toy,
			     strlen(toy));
	return m && pass_autodiff(&w->c, m) && pass_optimizer(&w->c, m) ? m : NULL;
}

static void
test_diff(const char *test, const char *a, const char *b)
{
	World w = world();
	Module *m = trained(&w);
	Plan x, y;
	Diff d, back;
	const bool ok = m && given(&w, m, a, &x) && given(&w, m, b, &y) &&
			diff_plans(&w.c, m, &x, &y, w.c.perm, &d) &&
			diff_plans(&w.c, m, &y, &x, w.c.perm, &back);
	check(test, ok, "the plans lower");
	if (!ok) {
		show_said(w.said, test);
		world_end(&w);
		return;
	}
	const Facts *from = facts(&w, toy, a), *to = facts(&w, toy, b);
	int64_t time = d.step[0].time, memory = d.step[0].memory, sent = d.step[0].sent;
	const DiffStep *before = &d.step[0];
	for (uint32_t i = 1; i < d.n; i++) {
		const DiffStep *s = &d.step[i];
		check(test, s->what[0] != '\0', "a step says what it changes");
		if (s->why) continue;
		time += s->time - before->time;
		memory += s->memory - before->memory;
		sent += s->sent - before->sent;
		before = s;
	}
	check(test, before == &d.step[d.n - 1], "the last step lowers");
	check(test, from && d.step[0].time == from->sim.step, "the first is a");
	check(test, to && time == to->sim.step, "costs of the differences add up to b's step");
	check(test, memory == back.step[0].memory && sent == back.step[0].sent,
	      "... and to its memory and traffic");
	check(test, (d.n == 1) == (a == b), "something differs, unless they are one");
	Buf out;
	buf_init(&out, w.c.perm);
	diff_print(&d, "a", "b", &out);
	check(test, (strstr(out.s, "nothing differs") != NULL) == (a == b), "it says so");
	world_end(&w);
}

/* ---- the page ---- */

/* The toy, with names that mean harm. */
static char *
hostile(Arena *a)
{
	static const char *const with[][2] = {
	    {"\"first\"", "\"<script>alert(1)</script>\""},
	    {"\"a\"", "\"' onload=x '&lt;\""},
	    {"\"b\"", "\"</ol></title><!--\""},
	    {"model t source \"t\"", "model t source \"</title><img src=x>\""}};
	Buf b;
	buf_init(&b, a);
	for (const char *s = toy; *s;) {
		size_t k = 0;
		while (k < COUNTOF(with) && strncmp(s, with[k][0], strlen(with[k][0])) != 0)
			k++;
		if (k < COUNTOF(with)) {
			buf_puts(&b, with[k][1]);
			s += strlen(with[k][0]);
		} else {
			buf_putc(&b, *s++);
		}
	}
	return b.s;
}

static void
test_page(const char *test, const char *plan)
{
	World w = world();
	Page p;
	Buf one, two;
	const Facts *f = facts(&w, hostile(w.c.perm), plan);
	check(test, f != NULL, "it does not lower");
	if (!f) show_said(w.said, test);
	if (f) {
		buf_init(&one, w.c.perm);
		buf_init(&two, w.c.perm);
		report_html(f, &one);
		check(test, read_page(&p, test, one.s), "the page is well formed");
		check(test, !strstr(one.s, "<script>alert") && !strstr(one.s, "<img"),
		      "names are escaped");
		check(test, strstr(one.s, "&lt;/title&gt;&lt;img src=x&gt;") != NULL,
		      "... and there");
		World other = world();
		const Facts *g = facts(&other, hostile(other.c.perm), plan);
		if (g) report_html(g, &two);
		check(test, one.n == two.n && memcmp(one.s, two.s, one.n) == 0,
		      "the same plan gives the same bytes");
		world_end(&other);
	}
	world_end(&w);
}

static void
test_text(void)
{
	static const char *const cases[][2] = {
	    {"a<b>&\"'c", "a&lt;b&gt;&amp;&quot;&#39;c"},
	    {"\x01\x7f\n", "&#xfffd;&#xfffd; "},
	    {"µ–\xff", "µ–&#xfffd;"},
	    {"\xed\xa0\x80", "&#xfffd;&#xfffd;&#xfffd;"},
	    {"\xf0\x9f\x98\x80\xc3", "\xf0\x9f\x98\x80&#xfffd;"},
	    {"\xc0\xaf", "&#xfffd;&#xfffd;"}};
	Arena *a = arena_new();
	for (size_t i = 0; i < COUNTOF(cases); i++) {
		Buf b;
		buf_init(&b, a);
		html_text(&b, cases[i][0]);
		CHECK(strcmp(b.s, cases[i][1]) == 0, "case %zu: %s", i, b.s);
	}
	static const struct {
		int64_t ns;
		const char *text;
	} times[] = {{0, "0"},
		     {999, "999\xc2\xa0"
			   "ns"},
		     {1000, "1.00\xc2\xa0"
			    "µs"},
		     {999499, "999\xc2\xa0"
			      "µs"},
		     {999600, "1.00\xc2\xa0"
			      "ms"},
		     {12345678, "12.3\xc2\xa0"
				"ms"},
		     {-2500000, "-2.50\xc2\xa0"
				"ms"},
		     {123456789012, "123\xc2\xa0"
				    "s"}};
	for (size_t i = 0; i < COUNTOF(times); i++) {
		Buf b;
		buf_init(&b, a);
		html_ns(&b, times[i].ns);
		CHECK(strcmp(b.s, times[i].text) == 0, "%s", b.s);
	}
	static const struct {
		int64_t part, whole;
		const char *text;
	} widths[] = {{0, 7, "0%"},
		      {1, 3, "33.333%"},
		      {1, 1, "100%"},
		      {1, 200, "0.5%"},
		      {INT64_MAX / 2, INT64_MAX, "50%"},
		      {5, 0, "0%"}};
	for (size_t i = 0; i < COUNTOF(widths); i++) {
		Buf b;
		buf_init(&b, a);
		html_width(&b, widths[i].part, widths[i].whole);
		CHECK(strcmp(b.s, widths[i].text) == 0, "%s", b.s);
	}
	arena_free(a);
}

/* Its own file may be replaced, no other. */
static void
test_write(void)
{
	World w = world();
	char dir[] = "/tmp/gv-explain-XXXXXX", path[64];
	struct stat st;
	const Facts *f = facts(&w, toy, alone);
	CHECK(f && mkdtemp(dir), "a folder for the test");
	if (!f) return;
	snprintf(path, sizeof path, "%s/r.html", dir);
	CHECK(report_write(f, path) && stat(path, &st) == 0 && st.st_size > 10000,
	      "a new file");
	CHECK(report_write(f, path), "a report is replaced");
	CHECK(file_write(path, "", 0) && report_write(f, path), "an empty file is replaced");
	CHECK(file_write(path, "<!doctype html>\n<p>mine\n", 24) && !report_write(f, path),
	      "another page is kept");
	CHECK(has_said(w.said, "there is a file that is no report of galvatronc"),
	      "it says why");
	CHECK(stat(path, &st) == 0 && st.st_size == 24, "as it was");
	CHECK(!report_write(f, dir), "a folder is refused");
	unlink(path);
	rmdir(dir);
	CHECK(!report_write(f, path), "a folder that is not there");
	world_end(&w);
}

static int
check_files(int n, char **file)
{
	for (int i = 0; i < n; i++) {
		Arena *a = arena_new();
		Page p;
		size_t len;
		const char *s = file_read(a, file[i], (size_t)1 << 30, &len);
		check(file[i], s && read_page(&p, file[i], s), "not well formed");
		check(file[i], s && len <= 1000000, "more than 1 MB");
		arena_free(a);
	}
	return checked("explain");
}

int
main(int argc, char **argv)
{
	if (argc > 1) return check_files(argc - 1, argv + 1);
	test_reader();
	test_text();
	test_facts("two stages", two_stages);
	test_facts("one stage", one_stage);
	test_facts("one rank", alone);
	test_diff("itself", two_stages, two_stages);
	test_diff("two to one", two_stages, one_stage);
	test_diff("one to two", one_stage, two_stages);
	test_diff("to one rank", two_stages, alone);
	test_page("page of two stages", two_stages);
	test_page("page of one stage", one_stage);
	test_page("page of one rank", alone);
	test_write();
	return checked("explain");
}
