/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/uffd.h"

#define EVENTS_MAX 16u          /* at a time */

int uffd_open(int *ret_fd, struct err *err)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return err_sys(err, "userfaultfd");
	*ret_fd = fd;
	return 0;
}

int uffd_enable(int fd, uint64_t features, struct err *err)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return err_sys(err, "enable userfaultfd with features %#lx", features);
	return 0;
}

int uffd_register_wp(int fd, uint64_t start, uint64_t len_bytes, struct err *err)
{
	struct uffdio_register reg = { .range = { start, len_bytes }, .mode = UFFDIO_REGISTER_MODE_WP };

	if (ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		return err_sys(err, "track writes to %#lx-%#lx", start, start + len_bytes);
	return 0;
}

int uffd_register_missing(int fd, uint64_t start, uint64_t len_bytes, struct err *err)
{
	struct uffdio_register reg = { .range = { start, len_bytes }, .mode = UFFDIO_REGISTER_MODE_MISSING };

	if (ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		return err_sys(err, "fill %#lx-%#lx", start, start + len_bytes);
	return 0;
}

int uffd_copy(int fd, uint64_t to, const void *bytes, uint64_t len_bytes)
{
	uint64_t done = 0;

	while (done < len_bytes) {
		struct uffdio_copy copy = { .dst = to + done, .src = (uintptr_t)bytes + done, .len = len_bytes - done,
					    .mode = UFFDIO_COPY_MODE_DONTWAKE };

		if (ioctl(fd, UFFDIO_COPY, &copy) < 0 && errno != EAGAIN)
			return -errno;
		if (copy.copy < 0 && copy.copy != -EAGAIN)
			return (int)copy.copy;
		done += copy.copy > 0 ? (uint64_t)copy.copy : 0;
	}
	return 0;
}

int uffd_unregister(int fd, uint64_t start, uint64_t len_bytes, struct err *err)
{
	struct uffdio_range range = { start, len_bytes };

	if (ioctl(fd, UFFDIO_UNREGISTER, &range) < 0)
		return err_sys(err, "stop tracking %#lx-%#lx", start, start + len_bytes);
	return 0;
}

int uffd_unprotect(int fd, uint64_t start, uint64_t len_bytes)
{
	struct uffdio_writeprotect wp = { .range = { start, len_bytes } };

	return ioctl(fd, UFFDIO_WRITEPROTECT, &wp) < 0 ? -errno : 0;
}

bool uffd_is_of_living_memory(int fd)
{
	int r = uffd_unprotect(fd, 0x7fffffffe000, 4096);

	return r == 0 || r == -ENOENT || r == -EAGAIN;  /* ESRCH: of none; all else: it is no userfaultfd */
}

int uffd_protect(int fd, uint64_t start, uint64_t len_bytes)
{
	struct uffdio_writeprotect wp = { .range = { start, len_bytes }, .mode = UFFDIO_WRITEPROTECT_MODE_WP };

	return ioctl(fd, UFFDIO_WRITEPROTECT, &wp) < 0 ? -errno : 0;
}

void uffd_wake(int fd, uint64_t start, uint64_t len_bytes)
{
	struct uffdio_range range = { start, len_bytes };

	ioctl(fd, UFFDIO_WAKE, &range);
}

size_t uffd_read_writes(int fd, uint64_t *ret_pages, size_t max)
{
	struct uffd_msg msgs[EVENTS_MAX];
	ssize_t got = read(fd, msgs, (max < EVENTS_MAX ? max : EVENTS_MAX) * sizeof(msgs[0]));
	size_t n = 0;

	for (size_t i = 0; got > 0 && i < (size_t)got / sizeof(msgs[0]); i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			ret_pages[n++] = msgs[i].arg.pagefault.address & ~4095ull;
	return n;
}
