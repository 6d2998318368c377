/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "base/log.h"
#include "engine/squash.h"
#include "front/command.h"
#include "front/progress_report.h"
#include "front/report.h"
#include "front/words.h"
#include "page/page.h"

int cmd_squash(const struct options *options, struct err *err)
{
	struct progress_report report;
	struct squash_result result;
	char links[64], pages[64], size[16];
	const struct progress *progress;
	int r;

	if (!options->output)
		return err_set(err, EINVAL, "to which new directory? (-o OUT)");
	progress = progress_report_begin(&report, options, "squashing");
	r = squash_chain(options->images_dir, options->output, progress, &result, err);
	progress_report_end(&report, r >= 0);
	if (r < 0)
		return r;
	report_done(options, "squashed %s into %s: %s (%s)", things_text(result.links, "link", links), options->output,
		    things_text(result.pages, "page", pages), size_text(result.pages * PAGE_BYTES, size));
	return 0;
}
