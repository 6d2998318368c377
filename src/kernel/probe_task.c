/* SPDX-License-Identifier: Apache-2.0 */
/* probe_task.c - the doors to tasks, their timers and their descriptors. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/user.h>
#include <time.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/probe_doors.h"
#include "kernel/proc.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/proc_task.h"
#include "kernel/ptrace.h"
#include "kernel/sys.h"

/* Our own pid is taken: EEXIST means that the kernel would have given it.  As vfork: no memory is copied first. */
int probe_clone3_set_tid(struct err *err)
{
	pid_t taken = getpid();
	const struct sys_clone args = {
		.flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD, .set_tid = (uintptr_t)&taken, .set_tid_size = 1,
	};
	int r = sys_clone3(&args, err);

	if (r == 0)
		_exit(1);
	return r == -EEXIST ? 0 : r;
}

int probe_pidfd_getfd(struct err *err)
{
	own_fd pidfd = -1, fd = -1;
	int r = sys_pidfd_open(getpid(), 0, &pidfd, err);

	return r < 0 ? r : sys_pidfd_getfd(pidfd, pidfd, &fd, err);
}

int probe_kcmp(struct err *err)
{
	int r = sys_kcmp(getpid(), getpid(), SYS_KCMP_VM, 0, 0, err);

	return r > 0 ? err_set(err, EOPNOTSUPP, "kcmp says that we are not ourselves") : r;
}

int probe_kcmp_epoll(struct err *err)
{
	own_fd ep = epoll_create1(EPOLL_CLOEXEC), target = eventfd(0, EFD_CLOEXEC);
	struct sys_kcmp_epoll in = { .efd = (uint32_t)ep, .tfd = (uint32_t)target };
	struct epoll_event ev = { .events = EPOLLIN };
	int r;

	if (ep < 0 || target < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, target, &ev) < 0)
		return err_sys(err, "make an epoll with a target");
	r = sys_kcmp(getpid(), getpid(), SYS_KCMP_EPOLL_TFD, (uint64_t)target, (uintptr_t)&in, err);
	return r > 0 ? err_set(err, EOPNOTSUPP, "kcmp does not know an epoll's target") : r;
}

int probe_children(struct err *err)
{
	char name[64];
	own_fd fd = -1;

	snprintf(name, sizeof(name), "task/%d/children", getpid());
	return proc_open_file(getpid(), name, O_RDONLY, &fd, err);
}

int probe_ns_pid(struct err *err)
{
	struct proc_status status;
	int r = proc_status(getpid(), 0, &status, err);

	if (r < 0)
		return r;
	proc_status_free(&status);
	return status.ns_levels ? 0 : err_set(err, EOPNOTSUPP, "no NSpid in /proc/PID/status");
}

/* Writing what is there changes nothing and needs what writing another needs. */
static int write_loginuid(void)
{
	char buf[32];
	struct err err;
	int n = proc_read(getpid(), "loginuid", buf, sizeof(buf), &err);
	own_fd fd = open("/proc/self/loginuid", O_WRONLY | O_CLOEXEC);

	if (n < 0)
		return n;
	return fd < 0 || write(fd, buf, (size_t)n) != n ? -errno : 0;
}

int probe_loginuid(struct err *err)
{
	return probe_in_child(write_loginuid, "/proc/PID/loginuid", err);
}

static int timer_with_id(int id, struct err *err)
{
	struct sigevent ev = { .sigev_notify = SIGEV_NONE };
	int made = id;

	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &ev, &made) < 0)
		return err_sys(err, "timer_create with an id");
	syscall(SYS_timer_delete, made);
	return made == id ? 0 : err_set(err, EOPNOTSUPP, "asked for timer %d, got %d", id, made);
}

int probe_timer_restore_ids(struct err *err)
{
	int r;

	if (prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_ON, 0, 0, 0) < 0)
		return err_sys(err, "PR_TIMER_CREATE_RESTORE_IDS");
	r = timer_with_id(1234567, err);
	prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_OFF, 0, 0, 0);
	return r;
}

static int own_fdinfo_has(int fd, const char *key, struct err *err)
{
	char text[1024];
	int r = proc_fdinfo_text(getpid(), fd, text, sizeof(text), err);

	if (r < 0)
		return r;
	return fdinfo_has(text, key) ? 0 : err_set(err, EOPNOTSUPP, "no '%s' in fdinfo", key);
}

int probe_timerfd(struct err *err)
{
	own_fd fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	uint64_t ticks = 5;

	if (fd < 0)
		return err_sys(err, "timerfd_create");
	if (ioctl(fd, _IOW('T', 0, uint64_t), &ticks) < 0)
		return err_sys(err, "TFD_IOC_SET_TICKS");
	return own_fdinfo_has(fd, "ticks", err);
}

int probe_mnt_id(struct err *err)
{
	own_fd fd = eventfd(0, EFD_CLOEXEC);

	return fd < 0 ? err_sys(err, "eventfd") : own_fdinfo_has(fd, "mnt_id", err);
}

int probe_fdinfo_lock(struct err *err)
{
	own_fd fd = memfd_create("ferry-probe", MFD_CLOEXEC);

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return err_sys(err, "lock a memfd");
	return own_fdinfo_has(fd, "lock", err);
}

static int read_registers(pid_t pid, struct err *err)
{
	struct user_regs_struct regs;

	return ptrace_get_regs(pid, &regs, err);
}

int probe_ptrace(struct err *err)
{
	return probe_tracee(NULL, read_registers, err);
}

static int read_rseq(pid_t pid, struct err *err)
{
	struct ptrace_rseq rseq;

	return ptrace_get_rseq(pid, &rseq, err);
}

int probe_get_rseq(struct err *err)
{
	return probe_tracee(NULL, read_rseq, err);
}

/* Address first, then "on execution, in this thread": nothing runs in the child, so it never fires. */
static int set_breakpoint(pid_t pid, struct err *err)
{
	if (ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[0]), (void *)set_breakpoint) < 0 ||
	    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[7]), (void *)1) < 0)
		return err_sys(err, "debug registers");
	return 0;
}

int probe_breakpoints(struct err *err)
{
	return probe_tracee(NULL, set_breakpoint, err);
}

static int set_suspend(pid_t pid, struct err *err)
{
	if (ptrace(PTRACE_SETOPTIONS, pid, 0, (void *)(unsigned long)PTRACE_O_SUSPEND_SECCOMP) < 0)
		return err_sys(err, "PTRACE_O_SUSPEND_SECCOMP");
	return 0;
}

int probe_seccomp_suspend(struct err *err)
{
	return probe_tracee(NULL, set_suspend, err);
}

static int allow_all_by_filter(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog prog = { .len = 1, .filter = &allow };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) < 0)
		return -errno;
	return 0;
}

static int read_filter(pid_t pid, struct err *err)
{
	struct sock_filter code[4];
	long n = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, 0, NULL);

	if (n < 0)
		return err_sys(err, "PTRACE_SECCOMP_GET_FILTER");
	if (n != 1 || ptrace(PTRACE_SECCOMP_GET_FILTER, pid, 0, code) != 1)
		return err_set(err, EOPNOTSUPP, "the filter read back has %ld instructions, not 1", n);
	return 0;
}

int probe_seccomp_filters(struct err *err)
{
	return probe_tracee(allow_all_by_filter, read_filter, err);
}
