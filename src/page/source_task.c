/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "page/ends.h"

static int next_run(struct page_source *src, struct page_run *ret_run, struct err *err)
{
	struct source_task *s = (struct source_task *)src;

	(void)err;
	if (s->next == s->plan->len)
		return 0;
	*ret_run = s->plan->at[s->next++];
	return 1;
}

/*
 * process_vm_readv is twice as fast, but obeys the mapping's rights and, since Linux 5.19, gives the task a copy of
 * each page that it shares by copy on write (it pins pages, and only exclusive ones may be).  /proc/PID/mem does neither.
 */
static int read_run(struct page_source *src, const struct page_run *run, void *buf, struct err *err)
{
	struct source_task *s = (struct source_task *)src;
	size_t len = run->pages * PAGE_BYTES;
	struct iovec here = { buf, len }, there = { (void *)(uintptr_t)run->start, len };
	ssize_t got = run->gently ? -1 : process_vm_readv(s->pid, &here, 1, &there, 1, 0);

	if (got == (ssize_t)len)
		return 0;
	got = pread(s->mem_fd, buf, len, (off_t)run->start);
	if (got == (ssize_t)len)
		return 0;
	if (got >= 0)
		errno = EFAULT;
	return err_sys(err, "read %zu bytes at %#llx", len, (unsigned long long)run->start);
}

void source_task_init(struct source_task *s, pid_t pid, int mem_fd, const struct page_runs *plan)
{
	static const struct page_source_ops ops = { next_run, read_run };

	*s = (struct source_task){ .base = { &ops }, .pid = pid, .mem_fd = mem_fd, .plan = plan };
}
