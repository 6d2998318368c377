/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kcmp_set.h - which of many tasks share an object (an address space, a descriptor table ...).
 *
 * kcmp() orders objects, so a task is found among n others with log2(n) calls
 * instead of n.  The caller owns the set, zeroed but for `what`.
 */
#pragma once
#include <sys/types.h>

#include "base/err.h"
#include "base/vec.h"
#include "kernel/sys.h"

struct kcmp_set {
	enum sys_kcmp what;             /* VM, FILES, FS ...: not FILE, not EPOLL_TFD */
	VEC(pid_t) pids;                /* one for each object, in the order of the objects */
};

/* *ret_same: who has the same object and was added before; 0: nobody, and the task is added. */
int kcmp_set_add(struct kcmp_set *set, pid_t pid, pid_t *ret_same, struct err *err);
void kcmp_set_free(struct kcmp_set *set);
