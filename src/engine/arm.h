/* SPDX-License-Identifier: Apache-2.0 */
/* arm.h - a userfaultfd of a frozen task, taken out of it. */
#pragma once
#include "base/err.h"
#include "engine/freeze.h"
#include "kernel/proc_map.h"

enum arm_for {
	ARM_TRACK,      /* the kernel notes writes: UFFD_WP_ASYNC */
	/*
	 * Who writes waits for us, in the kernel too: EOPNOTSUPP for a task that may not have that.  So does mremap():
	 * else what it moves would take the mapping that it is joined with out of our hands.
	 */
	ARM_WAIT,
};

/*
 * The task makes it (only the task can), ferry takes it by pidfd_getfd(), the
 * task closes it.  Its threads are held and stand.  The descriptor has no range yet.
 */
int arm_task(const struct frozen_task *task, const struct proc_maps *maps, enum arm_for what, int *ret_uffd,
	     struct err *err);

/*
 * Ends its watch over a task that may run.  The last close would do the same, but hold the task's address space all
 * the while, 10 ms a GiB; here it waits for a millisecond at most.  Nothing where it watches no more.
 */
void disarm_task(pid_t pid, int uffd);
