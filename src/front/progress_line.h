/* SPDX-License-Identifier: Apache-2.0 */
/*
 * progress_line.h - how far the memory is, on a terminal, in work of over a second.
 *
 *	dumping  41%  1,048,576 of 2,560,000 pages  2.1 GB/s  3 s left
 *
 * One line of stderr, drawn again and again, gone at the end.  A terminal that
 * takes no text (Ctrl-S) is never waited for: tasks are standing still.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/progress.h"

struct progress_line {
	const char *verb;
	uint64_t began_us, drawn_us;
	bool shown;
	struct progress progress;
};

/* What the engine is to be given: NULL where stderr is no terminal, or is where the log goes. */
const struct progress *progress_line_begin(struct progress_line *line, const char *verb, bool quiet);
void progress_line_end(struct progress_line *line);
