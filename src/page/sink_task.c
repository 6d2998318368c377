/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "page/ends.h"

static int place(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err)
{
	(void)sink;
	(void)err;
	*ret_to = run->start;
	return 0;
}

/* process_vm_writev obeys the mapping's rights; text with changed pages, RELRO and the like go through /proc/PID/mem. */
static int put(struct page_sink *sink, const struct page_run *run, uint64_t to, const void *bytes, struct err *err)
{
	struct sink_task *s = (struct sink_task *)sink;
	size_t len = run->pages * PAGE_BYTES;
	struct iovec here = { (void *)(uintptr_t)bytes, len }, there = { (void *)(uintptr_t)to, len };
	ssize_t n = process_vm_writev(s->pid, &here, 1, &there, 1, 0);

	if (n == (ssize_t)len)
		return 0;
	n = pwrite(s->mem_fd, bytes, len, (off_t)to);
	if (n == (ssize_t)len)
		return 0;
	if (n >= 0)
		errno = EFAULT;
	return err_sys(err, "fill %zu bytes at %#llx", len, (unsigned long long)to);
}

void sink_task_init(struct sink_task *s, pid_t pid, int mem_fd)
{
	static const struct page_sink_ops ops = { place, put };

	*s = (struct sink_task){ .base = { &ops }, .pid = pid, .mem_fd = mem_fd };
}

static int put_file(struct page_sink *sink, const struct page_run *run, uint64_t to, const void *bytes, struct err *err)
{
	struct sink_file *s = (struct sink_file *)sink;
	size_t len = run->pages * PAGE_BYTES, done = 0;

	while (done < len) {    /* a part may fit (a limit, a full file system): the next write says why */
		ssize_t n = pwrite(s->fd, (const char *)bytes + done, len - done, (off_t)(to + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_sys(err, "fill %zu bytes at offset %#llx", len, (unsigned long long)to);
		done += (size_t)n;
	}
	return 0;
}

void sink_file_init(struct sink_file *s, int fd)
{
	static const struct page_sink_ops ops = { place, put_file };

	*s = (struct sink_file){ .base = { &ops }, .fd = fd };
}
