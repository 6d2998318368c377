/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_resume.c - what becomes of a tree that a dump left stopped: resume and kill. */
#include <errno.h>

#include "engine/dump.h"
#include "front/command.h"
#include "front/report.h"
#include "front/words.h"

static int run(const struct options *options, int (*tree)(pid_t, struct err *), const char *done, struct err *err)
{
	char tasks[64];
	int r;

	if (options->tree == 0)
		return err_set(err, EINVAL, "which process? (-t PID)");
	r = tree(options->tree, err);
	if (r < 0)
		return r;
	report_done(options, "%s %s", done, things_text((uint64_t)r, "task", tasks));
	return 0;
}

int cmd_resume(const struct options *options, struct err *err)
{
	return run(options, tree_resume, "resumed", err);
}

int cmd_kill(const struct options *options, struct err *err)
{
	return run(options, tree_kill, "killed", err);
}
