/* SPDX-License-Identifier: Apache-2.0 */
/*
 * escort.h - tasks run, and ferry has a word before some of their system calls.
 *
 *	freeze_tree() ---> escort_go() ---> escort_while(work) ... ---> escort_freeze(), or escort_end()
 *
 * While memory is guarded (guard.h), three things must not happen behind our back:
 *
 *	memory is dropped without a write   munmap, mremap, madvise, brk, MAP_FIXED: what they take is put aside first
 *	all memory goes                     exec, exit, a deadly signal, kill(SIGKILL): they wait until the copy is done
 *	the kernel writes and can't wait    futexes with owners, what a thread leaves at its end (EFAULT from a protected
 *	                                    page, or nothing at all): the page is let go first
 *
 * So every thread runs under PTRACE_SYSCALL, which costs it two stops (some 10 us)
 * a call.  Threads and processes that come are met by the way: threads join, and
 * so do children that borrow the memory (vfork); others are let go.  SIGKILL alone is stronger: then the
 * work is in vain, and escort_while() says so.
 *
 * The tracer is one thread; so the work is done by another, and this one serves stops until that has ended.
 */
#pragma once
#include <signal.h>

#include "engine/guard.h"

struct escorted {
	pid_t tid;
	struct guarded *memory;
	taddr clear_at;                 /* where the kernel writes when it ends (clear_child_tid); 0: not known */
	uint64_t call;                  /* the last system call that it began; restart_syscall: not known */
	bool member;                    /* of a task of the tree; else it borrows the memory */
	bool held;                      /* at the door to where its memory would go */
};

struct escort {
	struct guard *guard;
	VEC(struct escorted) threads;
	int signals;                    /* owned: SIGCHLD */
	sigset_t mask;                  /* of this thread, before */
	bool on_its_way;                /* threads run, traced */
	pid_t lost;                     /* a task that was killed */
};

int escort_begin(struct escort *e, struct guard *guard, struct err *err);

/* The tree runs; its reaper ends. */
int escort_go(struct escort *e, struct frozen_tree *tree, struct err *err);

typedef int escort_work(void *arg, struct err *err);
int escort_while(struct escort *e, escort_work *work, void *arg, struct err *err);

/* They stand again; as freeze_tree(). */
int escort_freeze(struct escort *e, pid_t root, unsigned int timeout_s, struct frozen_tree *ret_tree, struct err *err);
/* Nobody is traced any more. */
void escort_end(struct escort *e);
void escort_free(struct escort *e);
