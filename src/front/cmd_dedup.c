/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/dedup.h"
#include "front/command.h"
#include "front/report.h"
#include "front/words.h"
#include "page/page.h"

int cmd_dedup(const struct options *options, struct err *err)
{
	struct dedup_result result;
	char pages[64], size[16], links[64];
	int r = dedup_chain(options->images_dir, &result, err);

	if (r < 0)
		return r;
	report_done(options, "%s (%s) given up in %s", things_text(result.pages, "page", pages),
		    size_text(result.pages * PAGE_BYTES, size), things_text(result.marked, "older link", links));
	return 0;
}
