/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task_lock.h - at most one ferry is at work on what changed in a task.
 *
 * To take changes from the kernel is to make it forget them.  Two ferrys that
 * take at once would each miss what the other one took, and both would
 * leave links behind that are wrong without a word.  So whoever looks for a keeper, or takes
 * changes, has locked the task before, until his own link is whole and has its keeper.  Then this
 * holds: a keeper that lives while its task is locked tells the truth.
 *
 * The lock is flock() on a pidfd.  Since Linux 6.9 a process has one inode for
 * all its pidfds, whichever pid namespace and whichever /proc they come from; the
 * kernel drops the lock with the death of ferry; nothing is left in the task or in a file
 * system.  Before 6.9 it is flock() on /proc/PID, which those see that have the same /proc.
 *
 * Everybody may lock what he can see: a program that does so on purpose is named in
 * the error.
 */
#pragma once
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

struct task_locks { int *at; size_t len, cap; };        /* a VEC of descriptors */

/* 0 also where it is had already.  EBUSY: another ferry has it; ESRCH: it has ended. */
int task_lock(struct task_locks *locks, pid_t pid, struct err *err);
void task_locks_free(struct task_locks *locks);
