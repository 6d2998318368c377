/* SPDX-License-Identifier: Apache-2.0 */
/*
 * freeze.h - a whole process tree stands still.
 *
 * Every thread of the root and of all its descendants is seized and
 * interrupted, again and again until nobody new is found.  The kernel lets go
 * of all of them when ferry dies, at whatever instant; freeze_release() does
 * the same in order.  Zombies are listed, but can't be (and need not be) held.
 */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/vec.h"
#include "engine/reaper.h"
#include "kernel/proc_task.h"

struct frozen_task {
	pid_t pid, parent;              /* parent: 0 for the root */
	bool zombie;
	int stop_signal;                /* by which it was stopped (job control) before we came; 0: it ran */
	struct proc_ids tids;           /* held threads, the leader first */
	bool stands, has_children;      /* while freezing: no thread of it runs; it was seen as a parent */
};

/* The system call that a thread was seen to begin, which its registers do not tell any more (restart_syscall). */
struct seen_call {
	pid_t tid;
	uint64_t nr;
};

struct frozen_tree {
	VEC(struct frozen_task) tasks;  /* parents before children */
	VEC(pid_t) threads;             /* all but the leaders: at them the reaper looks */
	VEC(struct seen_call) calls;    /* of some, by who traced them before */
	struct reaper *reaper;          /* works until freeze_free(): a tree that is killed meanwhile ends, and is an error */
};

/*
 * ETIMEDOUT: a thread did not stop in time (uninterruptible sleep, vfork); ESRCH: no such process;
 * EBUSY: somebody else traces it.  On failure all are let go.
 */
int freeze_tree(pid_t root, unsigned int timeout_s, struct frozen_tree *ret_tree, struct err *err);
int freeze_tree_within(pid_t root, uint64_t timeout_us, struct frozen_tree *ret_tree, struct err *err);

/* The same, of threads that are traced already; `ends` is told of one that stands at its end, before it goes on. */
int freeze_traced(pid_t root, uint64_t timeout_us, void (*ends)(void *arg, pid_t tid), void *arg,
		  struct frozen_tree *ret_tree, struct err *err);

/* Lets all go.  stopped: they get a SIGSTOP first and stay stopped. */
int freeze_release(struct frozen_tree *tree, bool stopped, struct err *err);

/* Kills all, children first. */
void freeze_kill(struct frozen_tree *tree);

void freeze_free(struct frozen_tree *tree);
