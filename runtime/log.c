/*
 * log.c - lines out, and numbers for people. Every line is formatted on the stack and written with one write(2): no
 * stdio buffer is ever allocated, and lines of several ranks do not mix.
 */
#include <errno.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#include "gvrt_int.h"

/* All of s, whatever the kernel takes at a time; a reader that went away is not our failure. */
static void
write_all(int fd, const char *s, size_t n)
{
	while (n > 0) {
		ssize_t k = write(fd, s, n);
		if (k < 0 && errno == EINTR) continue;
		if (k <= 0) return;
		s += k;
		n -= (size_t)k;
	}
}

static void
write_line(int fd, const char *head, const char *fmt, va_list ap)
{
	char line[2048];
	int n = snprintf(line, sizeof line, "%s", head);
	int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	size_t end = (size_t)n + (m > 0 ? (size_t)m : 0);
	if (end > sizeof line - 2) end = sizeof line - 2;
	line[end++] = '\n';
	write_all(fd, line, end);
}

bool
rt_fail(Err *e, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(e->text, sizeof e->text, fmt, ap);
	va_end(ap);
	return false;
}

void
rt_error(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	write_line(STDERR_FILENO, "gvrt: error: ", fmt, ap);
	va_end(ap);
}

static bool silent;

void
log_rank(int rank)
{
	silent = rank != 0;
}

void
rt_note(const char *fmt, ...)
{
	va_list ap;
	if (silent) return;
	va_start(ap, fmt);
	write_line(STDERR_FILENO, "gvrt: ", fmt, ap);
	va_end(ap);
}

void
rt_out(const char *s, size_t n)
{
	if (!silent) write_all(STDOUT_FILENO, s, n);
}

void
rt_outf(const char *fmt, ...)
{
	char text[4096];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (n > 0) rt_out(text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

Text
rt_count(int64_t n)
{
	char digits[24];
	int len = snprintf(digits, sizeof digits, "%llu",
			   n < 0 ? -(unsigned long long)n : (unsigned long long)n);
	Text t;
	size_t k = 0;
	if (n < 0) t.s[k++] = '-';
	for (int i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0) t.s[k++] = ',';
		t.s[k++] = digits[i];
	}
	t.s[k] = 0;
	return t;
}

Text
rt_bytes(int64_t n)
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	Text t;
	double x = (double)n;
	size_t u = 0;
	while (x >= 1024 && u + 1 < RT_COUNTOF(unit))
		x /= 1024, u++;
	snprintf(t.s, sizeof t.s, u ? "%.2f %s" : "%.0f %s", x, unit[u]);
	return t;
}

Text
rt_duration(double seconds)
{
	Text t;
	long long s = seconds > 0 && seconds < 1e12 ? (long long)(seconds + 0.5) : 0;
	if (s >= 86400)
		snprintf(t.s, sizeof t.s, "%lldd%02lldh", s / 86400, s / 3600 % 24);
	else if (s >= 3600)
		snprintf(t.s, sizeof t.s, "%lldh%02lldm", s / 3600, s / 60 % 60);
	else if (s >= 60)
		snprintf(t.s, sizeof t.s, "%lldm%02llds", s / 60, s % 60);
	else
		snprintf(t.s, sizeof t.s, "%llds", s);
	return t;
}

double
rt_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
