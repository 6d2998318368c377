/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guard.h - the memory of tasks is kept as it is at one moment, while they run on.
 *
 *	guard_arm()       frozen: each task makes a userfaultfd, in synchronous write-protect mode
 *	guard_protect()   running: all private anonymous memory is protected; who writes is let at once
 *	guard_hold()      frozen: what was written meanwhile is protected again - this is the moment;
 *	                  of large mappings by another thread, while the tasks are seen
 *	guard_held()      frozen: all is protected
 *	                  running: a page that is about to be written is put aside first (page/aside.h)
 *	guard_plan()      running: which pages there were
 *	guard_let_go()    running: nothing is protected any more
 *
 * What is protected in the page tables (and what was put aside) is what was
 * there at the moment: no list of pages is made in the stop, where 8 GiB of them would
 * take 100 ms; looking for those that are not protected takes 3 ms.
 *
 * A thread of its own serves the faults, before all other threads (SCHED_FIFO):
 * the program waits for it.  Not seen by write protection, and put aside at the
 * moment: changed pages of private file mappings.  What drops memory without
 * writing (munmap and its like) is the escort's business (escort.h).
 *
 * When ferry dies, the kernel drops the protection and lets all who wait go on.
 */
#pragma once
#include "base/err.h"
#include "engine/freeze.h"
#include "model/snapshot.h"
#include "page/aside.h"

struct guarded {
	pid_t pid;
	int uffd, pagemap;              /* owned */
	bool replaced;                  /* it has called exec: its memory is another */
	taddr brk;                      /* end of the heap at the moment; 0: not known */
	struct aside aside;
};

struct guarded_piece {
	struct guarded *task;
	taddr start, end;
};

struct guard {
	VEC(struct guarded *) tasks;    /* owned */
	int dirfd;                      /* where what is put aside gets room; the caller's */
	int events, quit;               /* epoll of all, and what ends the thread; owned */
	pthread_t thread;
	bool serves, holding;           /* thread and holder are there */
	bool has_let_go;
	pthread_t holder;               /* works off the pieces; so does who waits for it */
	pthread_mutex_t protecting;     /* nothing is protected while somebody has it; behind it: lock */
	pthread_mutex_t lock;           /* of what follows; held while faults are served */
	bool holds;                     /* the moment has come */
	uint64_t faults;
	VEC(struct guarded_piece) pieces;       /* to be protected in the stop */
	size_t taken;                   /* of them */
	int failed;
	struct err why;
};

int guard_begin(struct guard *g, int dirfd, struct err *err);
/* Those that have none yet; EOPNOTSUPP: a task can't have what is needed, and why. */
int guard_arm(struct guard *g, const struct frozen_tree *tree, struct err *err);
int guard_protect(struct guard *g, struct err *err);
int guard_hold(struct guard *g, const struct frozen_tree *tree, struct err *err);
int guard_held(struct guard *g, struct err *err);
struct guarded *guard_of(const struct guard *g, pid_t pid);

/* Before a range is dropped: what it has of the moment is put aside. */
int guard_keep(struct guarded *t, taddr start, taddr end, struct err *err);
/* The same, and it is not protected any more: what is moved elsewhere must not look as if it had been there. */
int guard_give_up(struct guarded *t, taddr start, taddr end, struct err *err);
/* Before the kernel writes a word where it does not wait for us. */
int guard_let_write(struct guard *g, struct guarded *t, taddr at, struct err *err);

/* The pages of a task at the moment, for source_past; compare: with what the last link has. */
int guard_plan(struct guarded *t, const struct task *task, bool compare, struct page_runs *plan, struct err *err);
/* A mapping that some userfaultfd write-protects: is it our doing?  g: may be NULL. */
bool guard_is_ours(const struct guard *g, pid_t pid, taddr start, taddr end);

/* Bit by bit: a task that runs waits for each.  May be called after any failure. */
void guard_let_go(struct guard *g);
void guard_free(struct guard *g);
