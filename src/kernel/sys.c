/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/sys.h"

int sys_clone3(const struct sys_clone *args, struct err *err)
{
	long pid = syscall(SYS_clone3, args, sizeof(*args));

	return pid < 0 ? err_sys(err, "clone3") : (int)pid;
}

int sys_fork_as(pid_t pid, struct err *err)
{
	const struct sys_clone args = { .exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1 };
	long r = syscall(SYS_clone3, &args, sizeof(args));

	return r < 0 ? err_sys(err, "fork as pid %d", pid) : (int)r;
}

int sys_pidfd_open(pid_t pid, unsigned int flags, int *ret_fd, struct err *err)
{
	long fd = syscall(SYS_pidfd_open, pid, flags);

	if (fd < 0 && (errno == ENOENT || errno == ESRCH))      /* the first from a zombie of which nothing is left, 6.16 */
		return err_set(err, ESRCH, "there is no process %d", pid);
	if (fd < 0)
		return err_sys(err, "pidfd of %d", pid);
	*ret_fd = (int)fd;
	return 0;
}

int sys_pidfd_getfd(int pidfd, int target_fd, int *ret_fd, struct err *err)
{
	long fd = syscall(SYS_pidfd_getfd, pidfd, target_fd, 0);

	if (fd < 0)
		return err_sys(err, "take descriptor %d", target_fd);
	*ret_fd = (int)fd;
	return 0;
}

int sys_pidfd_send_signal(int pidfd, int signal, struct err *err)
{
	return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? err_sys(err, "send signal %d", signal) : 0;
}

int sys_kcmp(pid_t pid_a, pid_t pid_b, enum sys_kcmp what, uint64_t a, uint64_t b, struct err *err)
{
	long r = syscall(SYS_kcmp, pid_a, pid_b, what, a, b);

	return r < 0 ? err_sys(err, "compare tasks %d and %d by %d", pid_a, pid_b, what) : (int)r;
}

int sys_poll_now(int fd, short events, struct err *err)
{
	struct pollfd ask = { .fd = fd, .events = events };
	int n;

	/* never restarted by the kernel, not even when it need not wait */
	do
		n = poll(&ask, 1, 0);
	while (n < 0 && errno == EINTR);
	return n < 0 ? err_sys(err, "poll descriptor %d", fd) : ask.revents;
}

int sys_get_robust_list(pid_t tid, uint64_t *ret_head_taddr, size_t *ret_len, struct err *err)
{
	void *head;
	size_t len;

	if (syscall(SYS_get_robust_list, tid, &head, &len) < 0)
		return err_sys(err, "robust list of %d", tid);
	*ret_head_taddr = (uintptr_t)head;
	*ret_len = len;
	return 0;
}

typedef ssize_t vm_call(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long, unsigned long);

/* One call moves 2 GiB at most, and stops at the first page that it can't have: go on until nothing comes. */
static int vm_all(vm_call *call, pid_t pid, uint64_t taddr, void *buf, size_t len_bytes)
{
	size_t done = 0;

	while (done < len_bytes) {
		struct iovec here = { (char *)buf + done, len_bytes - done };
		struct iovec there = { (void *)(uintptr_t)(taddr + done), len_bytes - done };
		ssize_t n = call(pid, &here, 1, &there, 1, 0);

		if (n < 0)
			return -1;
		if (n == 0) {
			errno = EFAULT;
			return -1;
		}
		done += (size_t)n;
	}
	return 0;
}

int sys_read_memory(pid_t pid, uint64_t taddr, void *buf, size_t len_bytes, struct err *err)
{
	if (vm_all(process_vm_readv, pid, taddr, buf, len_bytes) < 0)
		return err_sys(err, "read %zu bytes at %#lx of task %d", len_bytes, taddr, pid);
	return 0;
}

int sys_write_memory(pid_t pid, uint64_t taddr, const void *buf, size_t len_bytes, struct err *err)
{
	if (vm_all(process_vm_writev, pid, taddr, (void *)buf, len_bytes) < 0)
		return err_sys(err, "write %zu bytes at %#lx of task %d", len_bytes, taddr, pid);
	return 0;
}

int sys_memory_dir(int *ret_fd, struct err *err)
{
	own_fd fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
	int fd;

	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0700", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return err_sys(err, "make a directory in memory");
	fd = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (fd < 0)
		return err_sys(err, "make a directory in memory");
	*ret_fd = fd;
	return 0;
}
