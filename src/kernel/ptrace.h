/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ptrace.h - ptrace(2), typed, with errors that name the thread.
 *
 * A thread is seized (never attached: no SIGSTOP is sent) and interrupted; it
 * then stands in a trap that the kernel reports once through waitpid.  Nothing
 * here remembers anything: who holds what is the caller's business.
 *
 * All functions return 0 or -errno with *err set.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>

#include "base/err.h"

#define PTRACE_XSAVE_MAX 16384u         /* more than any x86 state to date; AMX needs 11 KiB */

struct ptrace_rseq {                    /* PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13 */
	uint64_t pointer;               /* 0: not registered */
	uint32_t size, signature, flags, pad;
};

/* A stop as waitpid tells it. */
struct ptrace_stop {
	int signal;                     /* 0..64; SIGTRAP|0x80 at a system call */
	int event;                      /* PTRACE_EVENT_*, 0: none */
};

#define PTRACE_SYSCALL_STOP (5 /* SIGTRAP */ | 0x80)

int ptrace_seize(pid_t tid, unsigned long options, struct err *err);
int ptrace_set_options(pid_t tid, unsigned long options, struct err *err);
int ptrace_interrupt(pid_t tid, struct err *err);

/* Waits for the next stop.  ESRCH when the thread died instead, with
 * *ret_status (may be NULL) as waitpid gave it. */
int ptrace_wait(pid_t tid, struct ptrace_stop *ret_stop, int *ret_status, struct err *err);

int ptrace_get_regs(pid_t tid, struct user_regs_struct *regs, struct err *err);
int ptrace_set_regs(pid_t tid, const struct user_regs_struct *regs, struct err *err);
/* XSAVE area in the standard (not compacted) form; ret_len in bytes. */
int ptrace_get_xsave(pid_t tid, void *buf, size_t size, size_t *ret_len, struct err *err);
int ptrace_set_xsave(pid_t tid, const void *buf, size_t len_bytes, struct err *err);
int ptrace_get_sigmask(pid_t tid, uint64_t *ret_mask, struct err *err);
int ptrace_set_sigmask(pid_t tid, uint64_t mask, struct err *err);
int ptrace_get_rseq(pid_t tid, struct ptrace_rseq *ret_rseq, struct err *err);
/* Resumes: request is PTRACE_CONT or PTRACE_SYSCALL. */
int ptrace_go(int request, pid_t tid, int signal, struct err *err);
/* Lets go.  A thread that died meanwhile is no error. */
int ptrace_detach(pid_t tid, struct err *err);
