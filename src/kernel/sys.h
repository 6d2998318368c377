/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sys.h - system calls that glibc 2.36 has no (good) wrapper for.
 *
 * Thin: one call each, errors as everywhere.  Constants of newer kernels than
 * the headers are defined here too, so that nobody else needs a number.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77          /* 6.15 and later */
#define PR_TIMER_CREATE_RESTORE_IDS_OFF 0
#define PR_TIMER_CREATE_RESTORE_IDS_ON 1
#define PR_TIMER_CREATE_RESTORE_IDS_GET 2
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif

/* clone3's argument; zero what is not wanted. */
struct sys_clone {
	uint64_t flags;                 /* CLONE_* */
	uint64_t pidfd, child_tid, parent_tid;
	uint64_t exit_signal, stack, stack_size, tls;
	uint64_t set_tid, set_tid_size; /* array of pid_t, innermost pid namespace first, and its length */
	uint64_t cgroup;
};

/*
 * 0 in the child, its pid in the parent.  Without CLONE_VM it is a fork that no atfork handler
 * sees: the child of a program with threads may only do what a signal handler may.
 */
int sys_clone3(const struct sys_clone *args, struct err *err);

/* A fork whose child gets exactly `pid` in this pid namespace; -EEXIST while anything has it. */
int sys_fork_as(pid_t pid, struct err *err);

int sys_pidfd_open(pid_t pid, unsigned int flags, int *ret_fd, struct err *err);
int sys_pidfd_getfd(int pidfd, int target_fd, int *ret_fd, struct err *err);    /* close-on-exec */
int sys_pidfd_send_signal(int pidfd, int signal, struct err *err);

enum sys_kcmp {
	SYS_KCMP_FILE, SYS_KCMP_VM, SYS_KCMP_FILES, SYS_KCMP_FS, SYS_KCMP_SIGHAND, SYS_KCMP_IO, SYS_KCMP_SYSVSEM,
	SYS_KCMP_EPOLL_TFD,
};

/* A descriptor among the targets of an epoll: the toff'th of those that have number tfd. */
struct sys_kcmp_epoll { uint32_t efd, tfd, toff; };

/*
 * Are the two tasks' objects the same?  0 yes, 1 the first sorts before the second, 2 after.
 * FILE: a and b are descriptors; EPOLL_TFD: a is a descriptor, b the address of a sys_kcmp_epoll of pid_b;
 * otherwise both are 0.
 */
int sys_kcmp(pid_t pid_a, pid_t pid_b, enum sys_kcmp what, uint64_t a, uint64_t b, struct err *err);

/* POLL* of what is true of the descriptor now: of `events`, and POLLERR and POLLHUP. Signals don't disturb it. */
int sys_poll_now(int fd, short events, struct err *err);

/* A directory on a tmpfs of its own (mode 0700) that is mounted nowhere: it goes with its last descriptor.  Linux 5.2. */
int sys_memory_dir(int *ret_fd, struct err *err);

int sys_get_robust_list(pid_t tid, uint64_t *ret_head_taddr, size_t *ret_len, struct err *err);

/* The whole range or an error; -EFAULT also where it is mapped but not readable (writable): that needs /proc/PID/mem. */
int sys_read_memory(pid_t pid, uint64_t taddr, void *buf, size_t len_bytes, struct err *err);
int sys_write_memory(pid_t pid, uint64_t taddr, const void *buf, size_t len_bytes, struct err *err);
