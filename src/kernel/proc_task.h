/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proc_task.h - what /proc says of a process or of one of its threads.
 *
 * `tid` 0 asks for the process, else for that thread of it.  The *_parse
 * functions work on a text of `len` bytes, for tests and for texts that came
 * another way.  Plain data; only proc_status owns something (groups).
 */
#pragma once
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/vec.h"
#include "kernel/proc.h"

struct proc_stat {
	pid_t pid;
	char comm[16 + 1];              /* cut to 16 bytes; proc_comm() is exact on every kernel */
	char state;                     /* R S D T t Z X I */
	pid_t ppid, pgrp, sid;
	int tty_nr;
	uint32_t flags;                 /* PF_* */
	int priority, nice;
	uint32_t num_threads;
	uint64_t starttime;             /* clock ticks since boot */
	uint64_t start_code, end_code, start_stack;
	int exit_signal;
	uint32_t rt_priority, policy;
	uint64_t start_data, end_data, start_brk;
	uint64_t arg_start, arg_end, env_start, env_end;
	int exit_code;                  /* as wait() gives it */
};

/* Of stat or status: it has ended, and is waited for at the most. */
static inline bool proc_is_dead(char state)
{
	return state == 'Z' || state == 'X';
}

/* The addresses and exit_code are 0 where ptrace access is refused. */
int proc_stat(pid_t pid, pid_t tid, struct proc_stat *ret_stat, struct err *err);
int proc_stat_parse(const char *text, size_t len, struct proc_stat *ret_stat, struct err *err);

struct proc_status {
	uint32_t uid[4], gid[4];        /* real, effective, saved, file system */
	VEC(uint32_t) groups;
	uint64_t cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
	uint32_t no_new_privs, seccomp, seccomp_filters, umask;
	pid_t tgid, pid, ppid, tracer_pid;
	pid_t ns_pid;                   /* in the innermost pid namespace */
	uint32_t ns_levels;             /* numbers in NSpid: 1 in the namespace of this /proc */
	uint32_t threads;
	uint64_t sig_pnd, shd_pnd, sig_blk, sig_ign, sig_cgt;   /* bit 0: signal 1 */
	bool thp_enabled, kthread;
	char state;
};

/* What this kernel does not print stays 0 (thp_enabled: true). */
int proc_status(pid_t pid, pid_t tid, struct proc_status *ret_status, struct err *err);
int proc_status_parse(const char *text, size_t len, struct proc_status *ret_status, struct err *err);
void proc_status_free(struct proc_status *status);

#define PROC_LIMITS 16u                 /* RLIMIT_CPU to RLIMIT_RTTIME */

int proc_limits(pid_t pid, struct rlimit64 ret_limits[PROC_LIMITS], struct err *err);
int proc_limits_parse(const char *text, size_t len, struct rlimit64 ret_limits[PROC_LIMITS], struct err *err);

/* A POSIX timer: what it does when it fires; when that is, only the task can ask. */
struct proc_timer {
	int id, clock;                  /* clock: CLOCK_* */
	int signal;
	uint64_t sigval;                /* the whole pointer */
	int notify;                     /* SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, or SIGEV_THREAD_ID */
	pid_t target;                   /* the thread for SIGEV_THREAD_ID, else the process */
};

struct proc_timers { struct proc_timer *at; size_t len, cap; };        /* a VEC, ids ascending */

int proc_timers(pid_t pid, struct proc_timers *ret_timers, struct err *err);
int proc_timers_parse(const char *text, size_t len, struct proc_timers *ret_timers, struct err *err);
