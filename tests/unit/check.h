/*
 * check.h - counting checks, and what was said: shared by tests of the IR.
 */
#ifndef GV_TESTS_CHECK_H
#define GV_TESTS_CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int checks, failures;

#define CHECK(cond, ...)                                                           \
	do {                                                                       \
		checks++;                                                          \
		if (!(cond)) {                                                     \
			failures++;                                                \
			fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond); \
			fprintf(stderr, __VA_ARGS__);                              \
			fputc('\n', stderr);                                       \
		}                                                                  \
	} while (0)

/* The same for a case with a name. */
static inline void
check(const char *test, bool ok, const char *what)
{
	checks++;
	if (ok) return;
	failures++;
	printf("%s: FAILED: %s\n", test, what);
}

/* The exit status, after a line that says it. */
static inline int
checked(const char *program)
{
	if (failures)
		printf("%s: %d of %d checks failed\n", program, failures, checks);
	else
		printf("%s: %d checks ok\n", program, checks);
	return failures != 0;
}

/* ---- diagnostics, in a temporary file ---- */

static inline void
show_said(FILE *said, const char *test)
{
	char line[512];

	rewind(said);
	while (fgets(line, sizeof(line), said))
		printf("%s: %s", test, line);
	fseek(said, 0, SEEK_END);
}

static inline bool
has_said(FILE *said, const char *what)
{
	char line[2048];
	bool found = false;

	rewind(said);
	while (fgets(line, sizeof(line), said))
		found |= strstr(line, what) != NULL;
	fseek(said, 0, SEEK_END);
	return found;
}

#endif
