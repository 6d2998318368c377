/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "engine/dump.h"
#include "front/command.h"
#include "front/progress_line.h"
#include "front/report.h"
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
	char tasks[64], threads[64], count[64], size[16], frozen[24];

	report_done(options, "dumped %s, %s, %s (%s) to %s; it stood still for %s%s", things_text(d->tasks, "task", tasks),
		    things_text(d->threads, "thread", threads), things_text(pages, "page", count),
		    size_text(pages * PAGE_BYTES, size), options->images_dir, time_text(d->frozen_us, frozen), then);
	if (options->display_stats)
		print_stats(d);
}

int cmd_dump(const struct options *options, struct err *err)
{
	struct progress_line line;
	struct dump_result result;
	int r;

	if (options->tree == 0)
		return err_set(err, EINVAL, "which process? (-t PID)");
	r = dump_run(&(struct dump_options){
		.root = options->tree,
		.images_dir = options->images_dir,
		.work_dir = options->work_dir,
		.then = (enum dump_then)options->then,
		.shell_job = options->shell_job,
		.timeout_s = (unsigned int)options->timeout_s,
		.progress = progress_line_begin(&line, "dumping", log_on(LOG_INFO) && !options->log_file),
	}, &result, err);
	progress_line_end(&line);
	if (r >= 0)
		tell(options, &result);
	return r < 0 ? r : 0;
}
