/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - what the program is doing, and for whom.
 *
 * LOG_SCOPE("task %d", pid) opens a scope that closes by itself at the end of
 * the block.  Every log line and every error carries the open scopes, so no
 * message repeats "pid %d fd %d".  The module name comes from the file name:
 * lines from resource/file/eventfd.c belong to module "eventfd".
 *
 * The log is the one mutable global of the program: where it goes and how much
 * of it is set once by front/.  Lines are written with one write() each, so
 * that threads don't mix theirs.  errno survives.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* CRIU's levels: 1 errors, 2 warnings, 3 information, 4 debug */
enum log_level { LOG_ERROR = 1, LOG_WARN, LOG_INFO, LOG_DEBUG };

#define log_error(...) log_at(LOG_ERROR, __FILE__, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __FILE__, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __FILE__, __VA_ARGS__)
#define log_debug(...) (log_on(LOG_DEBUG) ? log_at(LOG_DEBUG, __FILE__, __VA_ARGS__) : (void)0)

#define LOG_SCOPE(...)           LOG_SCOPE_(__COUNTER__, __VA_ARGS__)
#define LOG_SCOPE_(n, ...)       LOG_SCOPE_AS_(n, __VA_ARGS__)
#define LOG_SCOPE_AS_(n, ...)                                                 \
	__attribute__((cleanup(log_scope_leave), unused)) size_t log_scope_##n = \
		log_scope_enter(__VA_ARGS__)

/* Lines up to `level` go to `fd` (kept open by the caller); what is at most
 * LOG_WARN goes to stderr too when fd is another file. */
void log_setup(int fd, enum log_level level);
bool log_on(enum log_level level);
void log_at(enum log_level level, const char *file, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

size_t log_scope_enter(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_scope_leave(size_t *mark);
void log_scope_copy(char *buf, size_t size);
