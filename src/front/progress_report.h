/* SPDX-License-Identifier: Apache-2.0 */
/*
 * progress_report.h - how far a command is: a line on a terminal, or events (--progress json[:FD]).
 *
 *	{"event": "progress", "verb": "dumping", "pages": 1048576, "bytes": 4294967296, "pages_total": 2560000,
 *	 "gb_per_s": 2.100, "left_s": 2.9, "spent_s": 2.045}
 *	{"event": "done", ...}		or "failed": the last one
 *
 * The total may be a guess.  It and the time that is left are missing where
 * nobody knows them.  A reader that does not read is not waited for, but for
 * the last event a moment.
 */
#pragma once
#include "front/options.h"
#include "front/progress_line.h"

struct progress_report {
	struct progress_line line;
	int fd;                         /* of the events; -1: none */
	uint64_t told_us, pages, total;
	struct progress events;
};

/* Is what --progress says understood, and its descriptor open?  EINVAL, EBADF. */
int progress_report_check(const struct options *options, struct err *err);
/* The descriptor that it names; -1: none. */
int progress_report_fd(const struct options *options);
/* What the engine is to be given: NULL where nobody listens. */
const struct progress *progress_report_begin(struct progress_report *r, const struct options *options, const char *verb);
void progress_report_end(struct progress_report *r, bool done);
