/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/own.h"
#include "kernel/proc_task.h"
#include "kernel/scan.h"

/* "signal/pid.2634": how, whom it goes to, and that one's pid. */
static bool scan_notify(struct scan *s, struct proc_timer *t)
{
	static const struct { const char *word; int notify; } ways[] = {
		{ "signal/", SIGEV_SIGNAL }, { "none/", SIGEV_NONE }, { "thread/", SIGEV_THREAD },
	};
	size_t way = 0;
	uint64_t pid;

	while (way < ARRAY_LEN(ways) && !scan_text(s, ways[way].word))
		way++;
	if (way == ARRAY_LEN(ways))
		return false;
	t->notify = ways[way].notify;
	if (scan_text(s, "tid.") && t->notify == SIGEV_SIGNAL)
		t->notify = SIGEV_THREAD_ID;
	else if (!scan_text(s, "pid."))
		return false;
	if (!scan_u64(s, 10, &pid) || pid > INT_MAX)
		return false;
	t->target = (pid_t)pid;
	return true;
}

static bool scan_int(struct scan *s, int *ret_value)
{
	int64_t v;

	if (!scan_i64(s, &v) || v < INT_MIN || v > INT_MAX)
		return false;
	*ret_value = (int)v;
	return true;
}

/* "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n" */
static bool scan_timer(struct scan *s, struct proc_timer *t)
{
	return scan_text(s, "ID: ") && scan_int(s, &t->id) && t->id >= 0 &&
	       scan_text(s, "\nsignal: ") && scan_int(s, &t->signal) &&
	       scan_char(s, '/') && scan_u64(s, 16, &t->sigval) &&
	       scan_text(s, "\nnotify: ") && scan_notify(s, t) &&
	       scan_text(s, "\nClockID: ") && scan_int(s, &t->clock) && scan_char(s, '\n');
}

static int by_id(const void *a, const void *b)
{
	const struct proc_timer *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

int proc_timers_parse(const char *text, size_t len, struct proc_timers *ret_timers, struct err *err)
{
	struct proc_timers timers = { 0 };
	struct scan s = scan_of(text, len);

	while (s.at < s.end) {
		if (!scan_timer(&s, vec_add(&timers))) {
			size_t which = timers.len;

			vec_free(&timers);
			return err_set(err, EBADMSG, "timers: entry %zu is not understood", which);
		}
	}
	if (timers.len > 1)
		qsort(timers.at, timers.len, sizeof(*timers.at), by_id);     /* the kernel's order is newest first */
	*ret_timers = timers;
	return 0;
}

int proc_timers(pid_t pid, struct proc_timers *ret_timers, struct err *err)
{
	struct proc_text text = { 0 };
	int r = proc_read_all(pid, "timers", &text, err);

	if (r == 0)
		r = proc_timers_parse(text.at, text.len, ret_timers, err);
	vec_free(&text);
	return r;
}
