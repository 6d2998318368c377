/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper.h - the process that holds the tracking of a tree between two commands.
 *
 *	dump --track-mem        arms, takes, copies ... and starts a keeper ("changed since link X")
 *	the program runs        the kernel notes what it writes; the keeper sleeps
 *	next dump               finds the keeper, takes its descriptors, ends it, takes what changed since X
 *
 * It holds a table of tasks and, for the scan tracker, a userfaultfd of each.
 * What it says is true as long as it lives: whoever takes changes from the
 * kernel ends it first, and a dump that finishes starts a new one.  So a ferry that
 * dies half way leaves none, and the next dump is a full one.  Two at once: task_lock.h.
 *
 * Nobody talks with it: its table and descriptors are taken by pidfd_getfd().
 * It ends when all its tasks have ended.
 */
#pragma once
#include <sys/types.h>

#include "image/link.h"
#include "page/tracker.h"

#define KEEPER_NAME "ferry-keeper"

/* A task, and what watches it. */
struct kept_task {
	pid_t pid;
	uint64_t start_ticks;           /* with the pid: this very process */
	int uffd;                       /* -1: none; owned by who has the list */
	bool unseen;                    /* it had ways to write that no tracker sees: compare, don't believe */
	struct frames frames;           /* soft-dirty: of the last take; owned by who has the list */
};

struct kept_tasks { struct kept_task *at; size_t len, cap; };   /* a VEC */

struct keeper {
	pid_t pid;
	int pidfd;                      /* owned; -1: there is none */
	enum tracker_kind kind;
	struct link_id since;
	struct kept_tasks tasks;        /* owned, with own descriptors */
};

/* Starts one that holds copies of these descriptors; returns when it is ready. */
int keeper_start(enum tracker_kind kind, const struct link_id *since, const struct kept_tasks *tasks, struct err *err);

/* The one that holds this task.  1: found; 0: there is none. */
int keeper_find(pid_t pid, struct keeper *ret_keeper, struct err *err);

bool keeper_lives(const struct keeper *keeper);
/* Ends it, and waits until it has let go; may be called for one that was not found. */
int keeper_end(struct keeper *keeper, struct err *err);
/* The same for all that hold one of these tasks. */
int keeper_end_all(const pid_t *pids, size_t count, struct err *err);
void keeper_free(struct keeper *keeper);
void kept_tasks_free(struct kept_tasks *tasks);

/* What a process of that name does: front/main.c calls it. */
int keeper_main(void);
