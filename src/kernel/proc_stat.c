/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>

#include "kernel/proc_task.h"
#include "kernel/scan.h"

/* The numbers of proc(5), which counts from 1: pid is 1, comm 2, state 3. */
enum {
	STAT_PPID = 4, STAT_PGRP = 5, STAT_SID = 6, STAT_TTY = 7, STAT_FLAGS = 9, STAT_PRIORITY = 18, STAT_NICE = 19,
	STAT_THREADS = 20, STAT_STARTTIME = 22, STAT_START_CODE = 26, STAT_END_CODE = 27, STAT_START_STACK = 28,
	STAT_EXIT_SIGNAL = 38, STAT_RT_PRIORITY = 40, STAT_POLICY = 41, STAT_START_DATA = 45, STAT_END_DATA = 46,
	STAT_START_BRK = 47, STAT_ARG_START = 48, STAT_ARG_END = 49, STAT_ENV_START = 50, STAT_ENV_END = 51,
	STAT_EXIT_CODE = 52,
};

static bool scan_numbers(struct scan *s, uint64_t value[STAT_EXIT_CODE + 1])
{
	for (int i = STAT_PPID; i <= STAT_EXIT_CODE; i++) {
		bool minus;

		if (!scan_char(s, ' '))
			return false;
		minus = scan_char(s, '-');
		if (!scan_u64(s, 10, &value[i]))
			return false;
		if (minus)
			value[i] = 0 - value[i];
	}
	return s->at == s->end || *s->at == '\n' || *s->at == ' ';
}

static void stat_from(const uint64_t v[STAT_EXIT_CODE + 1], struct proc_stat *st)
{
	st->ppid = (pid_t)v[STAT_PPID];
	st->pgrp = (pid_t)v[STAT_PGRP];
	st->sid = (pid_t)v[STAT_SID];
	st->tty_nr = (int)v[STAT_TTY];
	st->flags = (uint32_t)v[STAT_FLAGS];
	st->priority = (int)v[STAT_PRIORITY];
	st->nice = (int)v[STAT_NICE];
	st->num_threads = (uint32_t)v[STAT_THREADS];
	st->starttime = v[STAT_STARTTIME];
	st->start_code = v[STAT_START_CODE];
	st->end_code = v[STAT_END_CODE];
	st->start_stack = v[STAT_START_STACK];
	st->exit_signal = (int)v[STAT_EXIT_SIGNAL];
	st->rt_priority = (uint32_t)v[STAT_RT_PRIORITY];
	st->policy = (uint32_t)v[STAT_POLICY];
	st->start_data = v[STAT_START_DATA];
	st->end_data = v[STAT_END_DATA];
	st->start_brk = v[STAT_START_BRK];
	st->arg_start = v[STAT_ARG_START];
	st->arg_end = v[STAT_ARG_END];
	st->env_start = v[STAT_ENV_START];
	st->env_end = v[STAT_ENV_END];
	st->exit_code = (int)v[STAT_EXIT_CODE];
}

/* The name may hold ") R 1" and line ends: what follows it never holds a ')', so its end is the last one. */
static bool stat_scan(struct scan s, struct proc_stat *st)
{
	uint64_t pid, value[STAT_EXIT_CODE + 1];
	const char *close = memrchr(s.at, ')', (size_t)(s.end - s.at));
	size_t len;

	if (!close || !scan_u64(&s, 10, &pid) || pid > INT_MAX || !scan_text(&s, " (") || s.at > close)
		return false;
	len = (size_t)(close - s.at);
	*st = (struct proc_stat){ .pid = (pid_t)pid };
	memcpy(st->comm, s.at, len < 16 ? len : 16);

	s.at = close + 1;
	if (s.end - s.at < 2 || !scan_char(&s, ' '))
		return false;
	st->state = *s.at++;
	if (!scan_numbers(&s, value))
		return false;
	stat_from(value, st);
	return true;
}

int proc_stat_parse(const char *text, size_t len, struct proc_stat *ret_stat, struct err *err)
{
	struct proc_stat st;

	if (!stat_scan(scan_of(text, len), &st))
		return err_set(err, EBADMSG, "stat of a task is not understood");
	*ret_stat = st;
	return 0;
}

int proc_stat(pid_t pid, pid_t tid, struct proc_stat *ret_stat, struct err *err)
{
	char name[64], buf[2048];
	int n;

	snprintf(name, sizeof(name), tid ? "task/%d/stat" : "stat", tid);
	n = proc_read(pid, name, buf, sizeof(buf), err);
	return n < 0 ? n : proc_stat_parse(buf, (size_t)n, ret_stat, err);
}
