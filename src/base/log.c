/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

#define PATIENCE_MS 100

static struct { int fd; enum log_level level; } out = { STDERR_FILENO, LOG_WARN };
static _Thread_local char scope[200];

void log_setup(int fd, enum log_level level)
{
	out.fd = fd;
	out.level = level;
}

bool log_on(enum log_level level)
{
	return level <= out.level;
}

static size_t clamp(size_t n, size_t size)
{
	return n < size ? n : size - 1;
}

/* A terminal that was stopped (Ctrl-S), or a pager that reads no more: a program may stand still meanwhile, and a line is not worth that. */
static void put(int fd, const char *line, size_t n)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	if (poll(&p, 1, PATIENCE_MS) != 0)
		(void)!write(fd, line, n);
}

void log_at(enum log_level level, const char *file, const char *fmt, ...)
{
	static const char *const names[] = { "", "Error", "Warn", "info", "debug" };
	const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
	const int saved = errno;
	char line[1024];
	size_t n;
	va_list ap;

	if (!log_on(level))
		return;
	n = (size_t)snprintf(line, sizeof(line), "%s (%.*s) %s%s", names[level],
			     (int)strcspn(base, "."), base, scope, scope[0] ? ": " : "");
	n = clamp(n, sizeof(line));
	va_start(ap, fmt);
	n += (size_t)vsnprintf(line + n, sizeof(line) - n, fmt, ap);
	va_end(ap);
	n = clamp(n, sizeof(line) - 1);
	line[n++] = '\n';
	put(out.fd, line, n);
	if (out.fd != STDERR_FILENO && level <= LOG_WARN)
		put(STDERR_FILENO, line, n);
	errno = saved;
}

size_t log_scope_enter(const char *fmt, ...)
{
	size_t mark = strlen(scope), at = mark;
	va_list ap;

	if (mark > 0)
		at += (size_t)snprintf(scope + mark, sizeof(scope) - mark, " > ");
	if (at < sizeof(scope)) {
		va_start(ap, fmt);
		vsnprintf(scope + at, sizeof(scope) - at, fmt, ap);
		va_end(ap);
	}
	return mark;
}

void log_scope_leave(size_t *mark)
{
	scope[*mark] = '\0';
}

void log_scope_copy(char *buf, size_t size)
{
	snprintf(buf, size, "%s", scope);
}
