/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "kernel/proc_task.h"
#include "kernel/scan.h"

/* In the order of RLIMIT_*, which is the order of the lines too. */
static const char *const limit_names[PROC_LIMITS] = {
	[RLIMIT_CPU] = "Max cpu time ",           [RLIMIT_FSIZE] = "Max file size ",
	[RLIMIT_DATA] = "Max data size ",         [RLIMIT_STACK] = "Max stack size ",
	[RLIMIT_CORE] = "Max core file size ",    [RLIMIT_RSS] = "Max resident set ",
	[RLIMIT_NPROC] = "Max processes ",        [RLIMIT_NOFILE] = "Max open files ",
	[RLIMIT_MEMLOCK] = "Max locked memory ",  [RLIMIT_AS] = "Max address space ",
	[RLIMIT_LOCKS] = "Max file locks ",       [RLIMIT_SIGPENDING] = "Max pending signals ",
	[RLIMIT_MSGQUEUE] = "Max msgqueue size ", [RLIMIT_NICE] = "Max nice priority ",
	[RLIMIT_RTPRIO] = "Max realtime priority ", [RLIMIT_RTTIME] = "Max realtime timeout ",
};

static bool scan_limit(struct scan *s, rlim64_t *ret_value)
{
	uint64_t v = RLIM64_INFINITY;

	scan_blanks(s);
	if (!scan_text(s, "unlimited") && !scan_u64(s, 10, &v))
		return false;
	*ret_value = v;
	return true;
}

int proc_limits_parse(const char *text, size_t len, struct rlimit64 ret_limits[PROC_LIMITS], struct err *err)
{
	struct scan s = scan_of(text, len), line;
	struct rlimit64 limits[PROC_LIMITS];

	if (!scan_line(&s, &line) || !scan_text(&line, "Limit "))
		return err_set(err, EBADMSG, "limits has no head");
	for (size_t i = 0; i < PROC_LIMITS; i++)
		if (!scan_line(&s, &line) || !scan_text(&line, limit_names[i]) ||
		    !scan_limit(&line, &limits[i].rlim_cur) || !scan_limit(&line, &limits[i].rlim_max))
			return err_set(err, EBADMSG, "limits: '%s' is not understood", limit_names[i]);
	memcpy(ret_limits, limits, sizeof(limits));
	return 0;
}

int proc_limits(pid_t pid, struct rlimit64 ret_limits[PROC_LIMITS], struct err *err)
{
	char buf[4096];
	int n = proc_read(pid, "limits", buf, sizeof(buf), err);

	return n < 0 ? n : proc_limits_parse(buf, (size_t)n, ret_limits, err);
}
