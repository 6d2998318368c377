/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_pack.c - directories become streams, and back. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/squash.h"
#include "engine/unpack.h"
#include "front/command.h"
#include "front/progress_report.h"
#include "front/report.h"
#include "front/stream.h"
#include "front/words.h"
#include "page/page.h"

int cmd_pack(const struct options *options, struct err *err)
{
	const char *dir = options->operands.len > 0 ? options->operands.at[0] : options->images_dir;
	struct squash_result result;
	struct codec_choice compress;
	struct progress_report report;
	char links[64], pages[64], size[16];
	own_fd fd = -1;
	int r;

	if (options->operands.len > 1)
		return err_set(err, EINVAL, "one directory at a time");
	r = stream_compression(options, &compress, err);
	if (r == 0)
		r = stream_take_output(&fd, err);
	if (r < 0)
		return r;
	r = squash_to_stream(dir, fd, &compress, progress_report_begin(&report, options, "packing"),
			     &result, err);
	progress_report_end(&report, r >= 0);
	if (r == 0)
		report_done(options, "packed %s of %s: %s (%s)", things_text(result.links, "link", links), dir,
			    things_text(result.pages, "page", pages), size_text(result.pages * PAGE_BYTES, size));
	return r;
}

int cmd_unpack(const struct options *options, struct err *err)
{
	struct unpack_result result;
	struct progress_report report;
	char images[64], pages[64], size[16];
	own_fd fd = -1;
	int r;

	if (options->operands.len != 2)
		return err_set(err, EINVAL, "which stream (-: standard input), and to which new directory?");
	r = stream_open_input(options->operands.at[0], &fd, err);
	if (r < 0)
		return r;
	r = unpack_stream(fd, options->operands.at[1],
			  progress_report_begin(&report, options, "unpacking"), &result, err);
	progress_report_end(&report, r >= 0);
	if (r == 0)
		report_done(options, "unpacked %s and %s (%s) into %s", things_text(result.images, "image", images),
			    things_text(result.pages, "page", pages), size_text(result.pages * PAGE_BYTES, size),
			    options->operands.at[1]);
	return r;
}
