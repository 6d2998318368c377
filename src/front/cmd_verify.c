/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "engine/verify.h"
#include "front/command.h"
#include "front/progress_report.h"
#include "front/words.h"

enum { STATUS_GOOD, STATUS_BROKEN, STATUS_UNKNOWN };

static void print_broken(void *line, const char *dir, const char *what)
{
	progress_line_end(line);
	printf("%s: BROKEN: %s\n", dir, what);
}

static void print_unchecked(void *line, const char *dir, const char *what)
{
	progress_line_end(line);
	printf("%s: %s\n", dir, what);
}

static void print_summary(const struct verify_result *r)
{
	char links[64], images[64], pages[64], given_up[64] = "", count[64];

	if (r->given_up > 0)
		snprintf(given_up, sizeof(given_up), " (%s given up, and not needed)", things_text(r->given_up, "page", count));
	printf("%s, %s, %s%s: %s\n", things_text(r->links, "link", links), things_text(r->images, "image", images),
	       things_text(r->pages, "page", pages), given_up,
	       r->broken ? "BROKEN" : r->unchecked ? "good, as far as there are checksums" : "good");
}

int cmd_verify(const struct options *options, struct err *err)
{
	const char *dir = options->operands.len > 0 ? options->operands.at[0] : options->images_dir;
	struct progress_report progress;
	const struct verify_report report = { print_broken, print_unchecked, &progress.line };
	struct verify_result result;
	int r;

	if (options->operands.len > 1)
		return err_set(err, EINVAL, "one directory at a time");
	r = verify_dir(dir, &report, progress_report_begin(&progress, options, "verifying"), &result, err);
	progress_report_end(&progress, r >= 0);
	if (r < 0)
		return r;
	print_summary(&result);
	return result.broken ? STATUS_BROKEN : result.unchecked ? STATUS_UNKNOWN : STATUS_GOOD;
}
