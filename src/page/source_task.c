/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <string.h>
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

/* Page by page, of a task that runs: what can't be read is gone. */
static int read_what_is_there(struct source_task *s, struct page_parcel *parcel, struct err *err)
{
	struct page_run one = parcel->run;
	struct err gone;

	one.pages = 1;
	for (uint64_t i = 0; i < parcel->run.pages; i++, one.start += PAGE_BYTES) {
		int r = read_run(&s->base, &one, parcel->bytes + i * PAGE_BYTES, &gone);

		if (r == 0)
			continue;
		if (r == -ESRCH) {
			*err = gone;
			return r;
		}
		if (s->zero_lost)
			memset(parcel->bytes + i * PAGE_BYTES, 0, PAGE_BYTES);
		else
			parcel->marks[i] = PAGE_LOST;
		if (s->lost)
			s->lost(s->lost_arg, one.start);
	}
	return 0;
}

static int read_parcel(struct source_task *s, struct page_parcel *parcel, struct err *err)
{
	struct err first;
	int r;

	if (!parcel->run.may_vanish)
		return read_run(&s->base, &parcel->run, parcel->bytes, err);
	r = read_run(&s->base, &parcel->run, parcel->bytes, &first);
	return r == 0 ? 0 : read_what_is_there(s, parcel, err);
}

/* Many small runs in one call; where that stops short, one by one. */
static int read_many(struct page_source *src, struct page_parcel *parcels, size_t count, struct err *err)
{
	struct source_task *s = (struct source_task *)src;
	struct iovec here[IOV_MAX], there[IOV_MAX];
	size_t n = 0, len = 0;
	int r = 0;

	for (size_t i = 0; i < count; i++) {
		struct page_parcel *p = &parcels[i];

		if (!(p->run.where & PAGE_HERE) || p->run.gently || n == IOV_MAX)
			continue;
		here[n] = (struct iovec){ p->bytes, p->run.pages * PAGE_BYTES };
		there[n] = (struct iovec){ (void *)(uintptr_t)p->run.start, here[n].iov_len };
		len += here[n++].iov_len;
	}
	if (n > 1 && process_vm_readv(s->pid, here, n, there, n, 0) == (ssize_t)len)
		len = 0;
	for (size_t i = 0; r == 0 && i < count; i++)
		if (parcels[i].run.where & PAGE_HERE && (parcels[i].run.gently || n == 1 || len > 0))
			r = read_parcel(s, &parcels[i], err);
	return r;
}

void source_task_init(struct source_task *s, pid_t pid, int mem_fd, const struct page_runs *plan)
{
	static const struct page_source_ops ops = { next_run, read_run, read_many };

	*s = (struct source_task){ .base = { &ops }, .pid = pid, .mem_fd = mem_fd, .plan = plan };
}
