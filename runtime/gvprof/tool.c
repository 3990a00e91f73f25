/*
 * tool.c - files, commands, time: everything that can go wrong is one line and exit(1).
 *
 * Commands are started with an argument vector, never through a shell. Files that others may read are written aside, synced and
 * renamed, so that an interrupted gvprof leaves whole ones.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "gvprof.h"

static bool quiet;

void
fail(const char *fmt, ...)
{
	va_list ap;
	fputs("gvprof: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

void
say_nothing(void)
{
	quiet = true;
}

void
say(const char *fmt, ...)
{
	va_list ap;
	if (quiet) return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

void *
grow(void *p, size_t bytes)
{
	p = realloc(p, bytes);
	if (!p) fail("out of memory");
	return p;
}

char *
text(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	char *s = grow(NULL, (size_t)n + 1);
	va_start(ap, fmt);
	vsnprintf(s, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return s;
}

double
seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

const char *
duration(double s)
{
	int n = (int)(s + 0.5);
	return n < 60 ? text("%ds", n) : text("%dm%02ds", n / 60, n % 60);
}

/* ---- files ---- */

char *
read_text(const char *path)
{
	FILE *f = fopen(path, "rb");
	if (!f) return NULL;
	char *s = NULL;
	size_t n = 0, got;
	do {
		s = grow(s, n + 65537);
		got = fread(s + n, 1, 65536, f);
		n += got;
	} while (got);
	fclose(f);
	s[n] = 0;
	return s;
}

void
write_text(const char *path, const char *s)
{
	char *aside = text("%s.tmp", path);
	FILE *f = fopen(aside, "wb");
	bool ok = f && fputs(s, f) >= 0 && fflush(f) == 0 && fsync(fileno(f)) == 0;
	if (f) ok = fclose(f) == 0 && ok;
	if (!ok || rename(aside, path) != 0) fail("cannot write %s: %s", path, strerror(errno));
}

bool
exists(const char *path)
{
	return access(path, F_OK) == 0;
}

void
make_dir(const char *path)
{
	if (mkdir(path, 0777) != 0 && errno != EEXIST)
		fail("cannot make %s: %s", path, strerror(errno));
}

static int
remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
	(void)st, (void)flag, (void)at;
	return remove(path);
}

void
remove_tree(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void
lock(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0) fail("cannot write %s: %s", path, strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) != 0)
		fail("another gvprof is at work: %s is locked", path);
}

uint64_t
hash_bytes(uint64_t h, const void *bytes, size_t n)
{
	const unsigned char *s = bytes;
	for (size_t i = 0; i < n; i++)
		h = (h ^ s[i]) * 0x100000001B3;
	return h;
}

uint64_t
hash_file(uint64_t h, const char *path)
{
	unsigned char s[65536];
	size_t n;
	FILE *f = fopen(path, "rb");
	if (!f) fail("cannot read %s: %s", path, strerror(errno));
	while ((n = fread(s, 1, sizeof s, f)) > 0)
		h = hash_bytes(h, s, n);
	fclose(f);
	return h;
}

static int
is_source(const struct dirent *e)
{
	size_t n = strlen(e->d_name);
	return n > 2 && (!strcmp(e->d_name + n - 2, ".c") || !strcmp(e->d_name + n - 2, ".h"));
}

uint64_t
hash_dir(uint64_t h, const char *path)
{
	struct dirent **e;
	int n = scandir(path, &e, is_source, alphasort);
	if (n < 0) fail("cannot read %s: %s", path, strerror(errno));
	for (int i = 0; i < n; i++)
		h = hash_file(h, text("%s/%s", path, e[i]->d_name));
	return h;
}

char *
next_line(Lines *l)
{
	char *s = l->s;
	if (!s || !*s) return NULL;
	size_t n = strcspn(s, "\n");
	l->s = s + n + (s[n] == '\n');
	s[n] = 0;
	return s;
}

/* ---- commands ---- */

void
add(Command *c, const char *arg)
{
	if (c->n + 1 >= c->cap) {
		c->cap = c->cap ? 2 * c->cap : 16;
		c->arg = grow(c->arg, (size_t)c->cap * sizeof *c->arg);
	}
	c->arg[c->n++] = arg;
	c->arg[c->n] = NULL;
}

static void
redirect(const char *path, int to)
{
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666) : -1;
	if (path && fd < 0) _exit(126);
	if (fd >= 0) dup2(fd, to);
}

/* The last lines that a failed command wrote. */
static void
show_log(const char *path)
{
	char *s = path ? read_text(path) : NULL;
	size_t n = s ? strlen(s) : 0;
	if (n > 2000) s += n - 2000;
	if (s) fputs(s, stderr);
}

void
run(Command *c, const char *what)
{
	int status;
	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0) fail("cannot start %s: %s", c->arg[0], strerror(errno));
	if (pid == 0) {
		redirect(c->out, STDOUT_FILENO);
		redirect(c->log, STDERR_FILENO);
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		execvp(c->arg[0], (char *const *)c->arg);
		dprintf(STDERR_FILENO, "%s: %s\n", c->arg[0], strerror(errno));
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR) fail("waiting for %s: %s", c->arg[0], strerror(errno));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
	show_log(c->log);
	if (WIFSIGNALED(status)) fail("%s: ended by signal %d", what, WTERMSIG(status));
	fail("%s: exit status %d", what, WEXITSTATUS(status));
}
