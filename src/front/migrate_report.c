/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "front/migrate_report.h"
#include "front/progress_report.h"
#include "front/report.h"
#include "front/words.h"

#define AGAIN_US  100000u
#define LAST_MS   1000
#define BAR       24u

static bool takes_text(int fd, int wait_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	return poll(&p, 1, wait_ms) > 0 && (p.revents & POLLOUT);
}

/* `fmt`: what stands between the event and the time. */
static void tell(struct migrate_report *r, int wait_ms, const char *event, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static void tell(struct migrate_report *r, int wait_ms, const char *event, const char *fmt, ...)
{
	char body[1400], line[1600];
	va_list args;

	if (r->fd < 0)
		return;
	va_start(args, fmt);
	vsnprintf(body, sizeof(body), fmt, args);
	va_end(args);
	snprintf(line, sizeof(line), "{\"event\": \"%s\"%s, \"spent_s\": %.3f}\n", event, body,
		 (double)(clock_us() - r->began_us) / 1e6);
	if (takes_text(r->fd, wait_ms))
		(void)!write(r->fd, line, strlen(line));
}

/* ---- a bar ---- */

static void clear(struct migrate_report *r)
{
	if (r->shown && takes_text(STDERR_FILENO, 0))
		(void)!write(STDERR_FILENO, "\r\033[K", 4);
	r->shown = false;
}

static void draw(struct migrate_report *r, uint64_t bytes, uint64_t total)
{
	char bar[BAR + 1], size[16];
	unsigned int filled = total > bytes ? (unsigned int)(bytes * BAR / total) : BAR;
	uint64_t spent_us = clock_us() - r->round_us;

	for (unsigned int i = 0; i < BAR; i++)
		bar[i] = i < filled ? '#' : '.';
	bar[BAR] = '\0';
	dprintf(STDERR_FILENO, "\rround %u  [%s] %3u%%  %s  %.2f GB/s\033[K", r->rounds + 1, bar, filled * 100 / BAR,
		size_text(bytes, size), spent_us ? (double)bytes / 1e3 / (double)spent_us : 0);
	r->shown = true;
}

static void tell_sent(void *arg, uint64_t bytes, uint64_t total)
{
	struct migrate_report *r = arg;
	uint64_t now_us = clock_us();

	if (now_us - r->told_us < AGAIN_US)
		return;
	r->told_us = now_us;
	tell(r, 0, "progress", ", \"round\": %u, \"bytes\": %" PRIu64 ", \"bytes_total\": %" PRIu64, r->rounds + 1, bytes,
	     total > bytes ? total : bytes);
	if (r->terminal && takes_text(STDERR_FILENO, 0))
		draw(r, bytes, total);
}

/* ---- the rest ---- */

static void tell_phase(void *arg, enum phase phase)
{
	struct migrate_report *r = arg;

	log_info("%s", phase_rules[phase].name);
	if (phase == PHASE_STAGE || phase == PHASE_ROUND)
		r->round_us = clock_us();
	tell(r, 0, "phase", ", \"phase\": \"%s\"", phase_rules[phase].name);
}

static double gb_per_s(uint64_t bytes, uint64_t us)
{
	return us ? (double)bytes / 1e3 / (double)us : 0;
}

static void tell_round(void *arg, const struct migrate_round *round)
{
	struct migrate_report *r = arg;
	char size[16], dirty[16], downtime[24], slowed[40] = "";

	r->rounds++;
	clear(r);
	if (round->throttle)
		snprintf(slowed, sizeof(slowed), "; it runs 1/%u of the time", 1u << round->throttle);
	report_done(r->options, "round %u: %s in %.2f s, %.2f GB/s; %s changed meanwhile; downtime would be %s%s", r->rounds,
		    size_text(round->bytes, size), (double)round->spent_us / 1e6, gb_per_s(round->bytes, round->spent_us),
		    size_text(round->dirty_bytes, dirty), time_text(round->downtime_us, downtime), slowed);
	tell(r, 0, "round",
	     ", \"round\": %u, \"bytes\": %" PRIu64 ", \"round_s\": %.3f, \"gb_per_s\": %.3f, \"dirty_bytes\": %" PRIu64
	     ", \"dirty_gb_per_s\": %.3f, \"downtime_ms\": %.3f, \"throttle\": %u",
	     r->rounds, round->bytes, (double)round->spent_us / 1e6, gb_per_s(round->bytes, round->spent_us), round->dirty_bytes,
	     gb_per_s(round->dirty_bytes, round->spent_us), (double)round->downtime_us / 1e3, round->throttle);
}

/* Every byte that JSON has other ideas of is a question mark. */
static const char *quoted(const char *text, char *buf, size_t size)
{
	size_t i = 0;

	for (; text[i] && i + 1 < size; i++)
		buf[i] = (unsigned char)text[i] < ' ' || (unsigned char)text[i] > '~' || text[i] == '"' || text[i] == '\\' ? '?' : text[i];
	buf[i] = '\0';
	return buf;
}

/* All of them, for people and for the log. */
static void tell_block(void *arg, const struct preflight_block *block)
{
	struct migrate_report *r = arg;
	char what[sizeof(block->what)], remedy[300];

	if (r->options->log_file)
		log_error("in the way: %s", block->what);
	fprintf(stderr, "in the way: %s\n            %s\n", block->what, block->remedy);
	tell(r, 0, "blocked", ", \"what\": \"%s\", \"remedy\": \"%s\"", quoted(block->what, what, sizeof(what)),
	     quoted(block->remedy, remedy, sizeof(remedy)));
}

int migrate_report_begin(struct migrate_report *r, const struct options *options, struct migrate_options *ret_options,
			 struct err *err)
{
	int done = progress_report_check(options, err);

	if (done < 0)
		return done;
	*r = (struct migrate_report){ .options = options, .fd = progress_report_fd(options), .began_us = clock_us(),
				      .terminal = isatty(STDERR_FILENO) && !options->progress && (options->log_file || !log_on(LOG_INFO)) };
	ret_options->phase = tell_phase;
	ret_options->round = tell_round;
	ret_options->blocked = tell_block;
	ret_options->sent = r->terminal || r->fd >= 0 ? tell_sent : NULL;
	ret_options->arg = r;
	return 0;
}

void migrate_report_end(struct migrate_report *r, const struct migrate_result *result)
{
	clear(r);
	if (!result)
		tell(r, LAST_MS, "failed", "%s", "");
	else
		tell(r, LAST_MS, "done",
		     ", \"tasks\": %u, \"rounds\": %u, \"bytes\": %" PRIu64 ", \"pages\": %" PRIu64 ", \"downtime_ms\": %.3f",
		     result->tasks, result->rounds, result->bytes, result->pages, (double)result->downtime_us / 1e3);
}
