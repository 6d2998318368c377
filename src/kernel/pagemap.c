/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/pagemap.h"
#include "kernel/proc.h"

#define PAGE_SHIFT 12

/* The argument of PAGEMAP_SCAN as the kernel has it; Debian 12's headers do not. */
struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define IOCTL_PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)

int pagemap_open(pid_t pid, int *ret_fd, struct err *err)
{
	return proc_open_file(pid, "pagemap", O_RDONLY, ret_fd, err);
}

static int scan(int fd, struct pm_scan_arg *arg)
{
	int n = ioctl(fd, IOCTL_PAGEMAP_SCAN, arg);

	if (n >= 0 || errno != EINVAL || !(arg->category_mask & PM_GUARD))
		return n;
	arg->category_mask &= ~(uint64_t)PM_GUARD;      /* before 6.15: there is no telling */
	arg->category_inverted &= ~(uint64_t)PM_GUARD;
	return ioctl(fd, IOCTL_PAGEMAP_SCAN, arg);
}

int pagemap_scan(int fd, const struct pm_scan *what, uint64_t start, uint64_t end, struct pm_region *regions, size_t max,
		 uint64_t *ret_walk_end, struct err *err)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = what->flags,
		.start = start,
		.end = end,
		.vec = (uintptr_t)regions,
		.vec_len = max,
		.category_inverted = what->inverted,
		.category_mask = what->mask,
		.category_anyof_mask = what->anyof,
		.return_mask = what->ret_mask,
	};
	int n = scan(fd, &arg);

	if (n < 0)
		return err_sys(err, "scan pages %#lx-%#lx", start, end);
	*ret_walk_end = arg.walk_end;
	return n;
}

int pagemap_read(int fd, uint64_t start, size_t pages, uint64_t *entries, struct err *err)
{
	size_t done = 0, len = pages * sizeof(*entries);
	off_t at = (off_t)((start >> PAGE_SHIFT) * sizeof(*entries));
	ssize_t n;

	while (done < len) {
		n = pread(fd, (char *)entries + done, len - done, at + (off_t)done);
		if (n < 0)
			return err_sys(err, "read pagemap of %zu pages at %#lx", pages, start);
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (int)(done / sizeof(*entries));
}

int soft_dirty_clear(pid_t pid, struct err *err)
{
	own_fd fd = -1;
	int r = proc_open_file(pid, "clear_refs", O_WRONLY, &fd, err);

	if (r < 0)
		return r;
	return write(fd, "4", 1) == 1 ? 0 : err_sys(err, "/proc/%d/clear_refs", pid);
}
