/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proc_fdinfo.h - what the kernel says of one open descriptor.
 *
 *	proc_fdinfo_text(pid, fd, buf, sizeof(buf), err)
 *	fdinfo_u64(buf, "eventfd-count", 16, &count, err)
 *	for (at = buf; fdinfo_next(&at, "tfd:", &line);)        epoll: one line a target
 *		fdinfo_line_u64(&line, "events", 16, &events, err)
 *
 * Keys count only at the start of a line, and the first one wins: some lines
 * end in text that a task chose, none begins with it.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct fdinfo_line { const char *at; size_t len; };     /* points into the text, no NUL */

/* NUL-terminated; returns the length, -E2BIG if it does not fit: then proc_read_all(pid, "fdinfo/N"). */
int proc_fdinfo_text(pid_t pid, int fd, char *buf, size_t size, struct err *err);

/* The number after "KEY:" at the start of a line; -ENODATA when there is none. */
int fdinfo_u64(const char *text, const char *key, unsigned int base, uint64_t *ret_value, struct err *err);
bool fdinfo_has(const char *text, const char *key);

/* The next line at or after *at that begins with `prefix` ("tfd:", "inotify "): what follows the prefix. */
bool fdinfo_next(const char **at, const char *prefix, struct fdinfo_line *ret_line);

/* The number after "KEY:" as a word of the line; an empty key takes the first number of the line. */
int fdinfo_line_u64(const struct fdinfo_line *line, const char *key, unsigned int base, uint64_t *ret_value,
		    struct err *err);
