/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kernel/uffd.h"
#include "page/ends.h"

#define COMPARE_PAGES 16u       /* on the stack */

static int place(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err)
{
	(void)sink;
	(void)err;
	*ret_to = run->start;
	return 0;
}

/* process_vm_writev obeys the mapping's rights; text with changed pages, RELRO and the like go through /proc/PID/mem. */
static int put_bytes(const struct sink_task *s, uint64_t to, void *bytes, size_t len, struct err *err)
{
	struct iovec here = { bytes, len }, there = { (void *)(uintptr_t)to, len };
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

/* Where nothing is registered it is put in the other way. */
static bool put_fresh(const struct sink_task *s, const struct page_parcel *parcel)
{
	return s->uffd >= 0 && parcel->run.may_skip_zero &&
	       uffd_copy(s->uffd, parcel->to, parcel->bytes, parcel->run.pages * PAGE_BYTES) == 0;
}

/* Many small runs in one call; where that stops short, one by one. */
static int put_many(struct page_sink *sink, const struct page_parcel *parcels, size_t count, struct err *err)
{
	struct sink_task *s = (struct sink_task *)sink;
	struct iovec here[IOV_MAX], there[IOV_MAX];
	size_t n = 0, len = 0;
	int r = 0;

	for (size_t i = 0; i < count && n < IOV_MAX; i++) {
		if (!(parcels[i].run.where & PAGE_HERE) || put_fresh(s, &parcels[i]))
			continue;
		here[n] = (struct iovec){ parcels[i].bytes, parcels[i].run.pages * PAGE_BYTES };
		there[n] = (struct iovec){ (void *)(uintptr_t)parcels[i].to, here[n].iov_len };
		len += here[n++].iov_len;
	}
	if (n > 1 && process_vm_writev(s->pid, here, n, there, n, 0) == (ssize_t)len)
		return 0;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = put_bytes(s, (uint64_t)(uintptr_t)there[i].iov_base, here[i].iov_base, here[i].iov_len, err);
	return r;
}

/* Through /proc/PID/mem, which leaves a page shared that the task shares with its parent. */
static int compare(struct page_sink *sink, const struct page_parcel *parcel, struct err *err)
{
	struct sink_task *s = (struct sink_task *)sink;
	uint8_t buf[COMPARE_PAGES * PAGE_BYTES];

	for (uint64_t done = 0, n; done < parcel->run.pages; done += n) {
		uint64_t at = parcel->run.start + done * PAGE_BYTES;

		n = parcel->run.pages - done < COMPARE_PAGES ? parcel->run.pages - done : COMPARE_PAGES;
		if (pread(s->mem_fd, buf, n * PAGE_BYTES, (off_t)at) != (ssize_t)(n * PAGE_BYTES))
			return err_sys(err, "read what is at %#llx", (unsigned long long)at);
		for (uint64_t i = 0; i < n; i++)
			if (parcel->marks[done + i] == PAGE_MOVE &&
			    memcmp(buf + i * PAGE_BYTES, parcel->bytes + (done + i) * PAGE_BYTES, PAGE_BYTES) == 0)
				parcel->marks[done + i] = PAGE_SAME;
	}
	return 0;
}

void sink_task_init(struct sink_task *s, pid_t pid, int mem_fd)
{
	static const struct page_sink_ops ops = { .place = place, .put_many = put_many, .compare = compare };

	*s = (struct sink_task){ .base = { &ops }, .pid = pid, .uffd = -1, .mem_fd = mem_fd };
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
