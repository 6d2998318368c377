/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/uffd.h"

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

int uffd_unregister(int fd, uint64_t start, uint64_t len_bytes, struct err *err)
{
	struct uffdio_range range = { start, len_bytes };

	if (ioctl(fd, UFFDIO_UNREGISTER, &range) < 0)
		return err_sys(err, "stop tracking %#lx-%#lx", start, start + len_bytes);
	return 0;
}
