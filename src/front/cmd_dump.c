/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/dedup.h"
#include "engine/predump.h"
#include "front/command.h"
#include "front/progress_report.h"
#include "front/report.h"
#include "front/stream.h"
#include "front/wire.h"
#include "front/words.h"
#include "page/page.h"

static void print_stats(const struct dump_result *d)
{
	printf("Dump:\n"
	       "  tasks              %u\n"
	       "  threads            %u\n"
	       "  freezing           %" PRIu64 " us\n"
	       "  frozen             %" PRIu64 " us\n"
	       "  memory             %" PRIu64 " us\n"
	       "  all                %" PRIu64 " us\n"
	       "  pages looked at    %" PRIu64 "\n"
	       "  pages written      %" PRIu64 "\n"
	       "  of shared memory   %" PRIu64 "\n"
	       "  pages of zeroes    %" PRIu64 "\n",
	       d->tasks, d->threads, d->freezing_us, d->frozen_us, d->memory_us, d->total_us, d->pages_scanned,
	       d->pages_written, d->shared_pages_written, d->zero_pages);
}

static void tell(const struct options *options, const struct dump_result *d)
{
	uint64_t pages = d->pages_written + d->shared_pages_written;
	const char *then = options->then == DUMP_THEN_STOP ? ", and stays stopped" : "";
	char tasks[64], threads[64], count[64], size[16], frozen[24], parent[64] = "";

	if (options->prev_images_dir)
		snprintf(parent, sizeof(parent), " on top of %" PRIu64, d->pages_in_parent);
	report_done(options, "dumped %s, %s, %s (%s)%s to %s; it stood still for %s%s", things_text(d->tasks, "task", tasks),
		    things_text(d->threads, "thread", threads), things_text(pages, "page", count),
		    size_text(pages * PAGE_BYTES, size), parent, options->stream ? "a stream" : options->images_dir, time_text(d->frozen_us, frozen), then);
	if (options->display_stats)
		print_stats(d);
}

static void tell_predump(const struct options *options, const struct dump_result *d)
{
	uint64_t pages = d->pages_written + d->shared_pages_written;
	char tasks[64], count[64], size[16], frozen[24];

	report_done(options, "pre-dumped %s, %s (%s) to %s; it stood still for %s", things_text(d->tasks, "task", tasks),
		    things_text(pages, "page", count), size_text(pages * PAGE_BYTES, size), options->images_dir,
		    time_text(d->frozen_us, frozen));
	if (options->display_stats)
		print_stats(d);
}

static int parse_tracker(const struct options *options, enum tracker_kind *ret_kind, struct err *err)
{
	*ret_kind = TRACKER_AUTO;
	if (!options->tracker || tracker_named(options->tracker, ret_kind))
		return 0;
	return err_set(err, EINVAL, "--tracker %s: there are scan, soft-dirty and none", options->tracker);
}

static int check_server(const struct options *options, struct err *err)
{
	if (options->page_server && options->stream)
		return err_set(err, EINVAL, "--page-server: a stream has its pages in it");
	if (!options->page_server || options->ps_socket >= 0 || (options->port > 0 && options->port <= 65535))
		return 0;
	return err_set(err, EINVAL, "--page-server: on which port? (--port PORT)");
}

static void give_up_older(const struct options *options)
{
	struct dedup_result given_up;
	struct err lost;

	if (dedup_chain(options->images_dir, &given_up, &lost) < 0)
		log_warn("--auto-dedup: %s", lost.text);
}

typedef int dump_engine(const struct dump_options *options, struct dump_result *ret_result, struct err *err);

static int run(const struct options *options, dump_engine *engine, struct dump_result *ret_result, struct err *err)
{
	struct wire_options wire;
	struct progress_report report;
	enum tracker_kind tracker;
	struct codec_choice compress;
	own_fd stream = -1;
	int r;

	if (options->tree == 0)
		return err_set(err, EINVAL, "which process? (-t PID)");
	r = parse_tracker(options, &tracker, err);
	if (r == 0)
		r = check_server(options, err);
	if (r == 0)
		r = stream_compression(options, &compress, err);
	if (r == 0 && options->compress && !options->stream)
		return err_set(err, EINVAL, "--compress is for streams: images and pages of a page server are as CRIU has them");
	if (r == 0 && options->stream && engine != dump_run)
		return err_set(err, EINVAL, "a stream is a whole dump, not a pre-dump");
	if (r == 0 && options->stream && options->auto_dedup)
		return err_set(err, EINVAL, "--auto-dedup: a stream is on top of no other dump");
	if (r == 0 && options->stream)
		r = stream_take_output(&stream, err);
	if (r < 0)
		return r;
	wire_options(options, &wire);
	wire.address.host = wire.address.host ? wire.address.host : "127.0.0.1";
	r = engine(&(struct dump_options){
		.root = options->tree,
		.images_dir = options->stream ? NULL : options->images_dir,
		.stream_fd = stream,
		.compress = compress,
		.work_dir = stream_work_dir(options),
		.then = (enum dump_then)options->then,
		.background = (enum dump_background)options->background,
		.track = options->track_mem,
		.base_dir = options->prev_images_dir,
		.tracker = tracker,
		.shell_job = options->shell_job,
		.timeout_s = (unsigned int)options->timeout_s,
		.server = options->page_server ? &wire.address : NULL,
		.progress = progress_report_begin(&report, options, "dumping"),
	}, ret_result, err);
	progress_report_end(&report, r >= 0);
	if (r >= 0 && options->auto_dedup && !options->page_server)     /* else the server does, if it is told to */
		give_up_older(options);
	return r;
}

int cmd_dump(const struct options *options, struct err *err)
{
	struct dump_result result;
	int r = run(options, dump_run, &result, err);

	if (r >= 0)
		tell(options, &result);
	return r < 0 ? r : 0;
}

int cmd_predump(const struct options *options, struct err *err)
{
	struct dump_result result;
	int r = run(options, predump_run, &result, err);

	if (r >= 0)
		tell_predump(options, &result);
	return r < 0 ? r : 0;
}
