/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "front/progress_report.h"
#include "page/page.h"

#define AGAIN_US   100000u
#define LAST_MS    1000

/* The descriptor that --progress names; -1: it is not understood. */
static int fd_of(const char *text)
{
	char *end;
	long fd;

	if (strcmp(text, "json") == 0)
		return STDERR_FILENO;
	if (strncmp(text, "json:", 5) != 0 || text[5] < '0' || text[5] > '9')
		return -1;
	fd = strtol(text + 5, &end, 10);
	return *end || fd > 1 << 20 ? -1 : (int)fd;
}

int progress_report_check(const struct options *options, struct err *err)
{
	int fd = options->progress ? fd_of(options->progress) : STDERR_FILENO;

	if (fd < 0)
		return err_set(err, EINVAL, "--progress %s: there are json and json:FD", options->progress);
	return options->progress && fcntl(fd, F_GETFD) < 0 ? err_sys(err, "--progress %s", options->progress) : 0;
}

int progress_report_fd(const struct options *options)
{
	return options->progress ? fd_of(options->progress) : -1;
}

static void tell(struct progress_report *r, const char *event, int wait_ms)
{
	struct pollfd fd = { .fd = r->fd, .events = POLLOUT };
	double spent_s = (double)(clock_us() - r->line.began_us) / 1e6, per_s = (double)r->pages / spent_s;
	char line[400], total[80] = "";

	if (r->total > r->pages && r->pages > 0)
		snprintf(total, sizeof(total), ", \"pages_total\": %" PRIu64 ", \"left_s\": %.1f", r->total,
			 (double)(r->total - r->pages) / per_s);
	snprintf(line, sizeof(line),
		 "{\"event\": \"%s\", \"verb\": \"%s\", \"pages\": %" PRIu64 ", \"bytes\": %" PRIu64
		 "%s, \"gb_per_s\": %.3f, \"spent_s\": %.3f}\n",
		 event, r->line.verb, r->pages, r->pages * PAGE_BYTES, total, per_s * PAGE_BYTES / 1e9, spent_s);
	if (poll(&fd, 1, wait_ms) > 0 && (fd.revents & POLLOUT))
		(void)!write(r->fd, line, strlen(line));
}

static void report(void *arg, uint64_t pages_done, uint64_t pages_total)
{
	struct progress_report *r = arg;
	uint64_t now_us = clock_us();

	r->pages = pages_done;
	r->total = pages_total;
	if (now_us - r->told_us < AGAIN_US)
		return;
	r->told_us = now_us;
	tell(r, "progress", 0);
}

const struct progress *progress_report_begin(struct progress_report *r, const struct options *options, const char *verb)
{
	const struct progress *line = progress_line_begin(&r->line, verb, options->progress || (log_on(LOG_INFO) && !options->log_file));

	r->fd = progress_report_fd(options);
	r->told_us = r->pages = r->total = 0;
	r->events = (struct progress){ report, r };
	return options->progress ? &r->events : line;
}

void progress_report_end(struct progress_report *r, bool done)
{
	progress_line_end(&r->line);
	if (r->fd >= 0)
		tell(r, done ? "done" : "failed", LAST_MS);
}
