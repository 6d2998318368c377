/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gadgets.h - code that a program has anyway, by which calls are made in it.
 *
 * Found by its bytes in executable mappings, libc's first.  Where two tasks
 * have the same libc it is looked through once (gadgets_moved).  Plain
 * addresses; nothing is owned.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/taddr.h"
#include "inject/chain.h"
#include "kernel/proc_map.h"

/* Two pieces of code that every program has, by which calls are made in it. */
struct gadgets {
	taddr syscall;          /* 0f 05 */
	taddr sigreturn;        /* mov $15, %eax (or %rax); syscall */
	struct chain_gadgets chain;
	int signal;             /* which no handler of the program waits for, for chains; 0: none, questions go one by one */
};

/* ENOENT: the task has no such code (a static program without handlers).  Those for chains may be missing, and
 * `signal` is the caller's to choose: gadgets_choose_signal(). */
int gadgets_find(pid_t pid, const struct proc_maps *maps, struct gadgets *ret_gadgets, struct err *err);

/* caught, pending: signal sets of the task.  0: none is free, or the program has no code for chains. */
int gadgets_choose_signal(const struct gadgets *g, uint64_t caught, uint64_t pending);

/* The same code in another task, where it lies `shift` bytes higher; false: other bytes are there. */
bool gadgets_moved(pid_t pid, const struct gadgets *from, uint64_t shift, struct gadgets *ret_gadgets);
