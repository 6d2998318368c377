/* SPDX-License-Identifier: Apache-2.0 */
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "front/progress_line.h"
#include "front/words.h"
#include "page/page.h"

#define FIRST_US   1000000u
#define AGAIN_US    100000u

static bool takes_text(void)
{
	struct pollfd fd = { .fd = STDERR_FILENO, .events = POLLOUT };

	return poll(&fd, 1, 0) > 0 && (fd.revents & POLLOUT);
}

static void draw(struct progress_line *line, uint64_t done, uint64_t total, uint64_t spent_us)
{
	char of_text[32], done_text[32], of[64] = "", share[8] = "", left[32] = "";
	double per_us = (double)done / (double)spent_us;

	if (total > done) {             /* else nobody knows how many there will be */
		snprintf(share, sizeof(share), " %3u%%", (unsigned int)((double)done / (double)total * 100));
		snprintf(of, sizeof(of), " of %s", count_text(total, of_text));
		snprintf(left, sizeof(left), "  %.0f s left", done ? (double)(total - done) / per_us / 1e6 : 0);
	}
	dprintf(STDERR_FILENO, "\r%s%s  %s%s pages  %.1f GB/s%s\033[K", line->verb, share, count_text(done, done_text), of,
		per_us * PAGE_BYTES / 1e3, left);
	line->shown = true;
}

static void report(void *arg, uint64_t pages_done, uint64_t pages_total)
{
	struct progress_line *line = arg;
	uint64_t now_us = clock_us();

	if (now_us - line->began_us < FIRST_US || now_us - line->drawn_us < AGAIN_US || !takes_text())
		return;
	line->drawn_us = now_us;
	draw(line, pages_done, pages_total, now_us - line->began_us);
}

const struct progress *progress_line_begin(struct progress_line *line, const char *verb, bool quiet)
{
	*line = (struct progress_line){ .verb = verb, .began_us = clock_us(), .progress = { report, line } };
	return quiet || !isatty(STDERR_FILENO) ? NULL : &line->progress;
}

void progress_line_end(struct progress_line *line)
{
	if (line->shown)
		(void)!write(STDERR_FILENO, "\r\033[K", 4);
}
