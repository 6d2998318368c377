/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/fill_fresh.h"
#include "kernel/sys.h"
#include "kernel/uffd.h"

#define WORTH_PAGES 4096u       /* of a task; what it costs is some 0.1 ms */
#define WORTH_BYTES (1u << 20)  /* of a mapping */

static bool is_worth_it(const struct vma *v)
{
	return v->status & VMA_ANON_PRIVATE && !(v->madvise & 1ull << MADV_HUGEPAGE) && v->end - v->start >= WORTH_BYTES;
}

/* Only the task itself can make it. */
static int open_in(struct vessel *v, int *ret_fd, struct err *err)
{
	const uint64_t make[6] = { O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */ };
	int64_t there, closed;
	own_fd pidfd = -1;
	int r = vessel_call(v, SYS_userfaultfd, make, &there, err);

	if (r == 0 && there < 0)
		r = err_set(err, (int)-there, "userfaultfd");
	if (r < 0)
		return r;
	r = sys_pidfd_open(v->pid, 0, &pidfd, err);
	if (r == 0)
		r = sys_pidfd_getfd(pidfd, (int)there, ret_fd, err);
	return vessel_call(v, SYS_close, (const uint64_t[6]){ (uint64_t)there }, &closed, err) < 0 ? -err->code : r;
}

void fill_fresh_begin(struct fill_fresh *f, struct vessel *v, const struct task *t, const struct page_map *map)
{
	struct err err;
	int r = 0;

	*f = (struct fill_fresh){ .uffd = -1, .task = t };
	if (page_map_pages(map) < WORTH_PAGES)
		return;
	r = open_in(v, &f->uffd, &err);
	if (r == 0)
		r = uffd_enable(f->uffd, 0, &err);
	for (size_t i = 0; r == 0 && i < t->mm.vmas.len; i++)
		if (is_worth_it(&t->mm.vmas.at[i]))
			r = uffd_register_missing(f->uffd, t->mm.vmas.at[i].start, t->mm.vmas.at[i].end - t->mm.vmas.at[i].start, &err);
	if (r < 0) {
		log_debug("its memory is filled by writing: %s", err.text);
		fill_fresh_end(f);
	}
}

void fill_fresh_end(struct fill_fresh *f)
{
	struct err err;

	for (size_t i = 0; f->uffd >= 0 && i < f->task->mm.vmas.len; i++)
		if (is_worth_it(&f->task->mm.vmas.at[i]))
			uffd_unregister(f->uffd, f->task->mm.vmas.at[i].start, f->task->mm.vmas.at[i].end - f->task->mm.vmas.at[i].start, &err);
	own_fd_drop(&f->uffd);
	f->uffd = -1;
}
