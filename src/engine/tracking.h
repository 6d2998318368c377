/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tracking.h - what a dump knows of the one before: which pages changed since, and what that one has.
 *
 *	tracking_begin()     locks the tasks, and looks for the last link and its keeper; what is dumped on top of what
 *	tracking_arm()       tasks that nobody watches yet get a userfaultfd; they stand still for it
 *	tracking_take_over() the old keeper ends: from here on a failure makes the next dump a full one; and what the
 *	                     directory had before goes: from here on it is this dump's
 *	tracking_keep()      the dump is whole: a new keeper, "changed since this link"
 *	tracking_free()      unlocks the tasks
 *
 * A dump on top of another one (`base`) compares what no tracker tells with
 * what the base has.  The base is given up - a full dump, and no `parent` - when its keeper is gone
 * or speaks of another link: nobody knows what changed meanwhile.
 */
#pragma once
#include "engine/destination.h"
#include "engine/freeze.h"
#include "engine/keeper.h"
#include "engine/task_lock.h"
#include "kernel/proc_map.h"
#include "page/map.h"

struct tracking_options {
	pid_t root;
	const char *base_dir;           /* relative to the images' directory; NULL: none */
	struct destination *to;         /* of the pages: it knows what it has by the base */
	enum tracker_kind kind;
	bool keep;                      /* for a next dump */
	bool protected;                 /* some mapping of the tree is write-protected by a userfaultfd: maybe a keeper's */
	bool memory_only;
	bool guarded;                   /* somebody else protects the memory (guard.h): nothing is tracked, all is compared */
};

struct tracked {
	pid_t pid;
	uint64_t start_ticks;
	int uffd;                       /* owned; -1: none (yet) */
	bool unseen_before, unseen_now; /* ways to write that no tracker sees, at the last dump and at this one */
	bool taken;                     /* its memory is in this link; else (it is new, or left the tree) no keeper has it */
	bool since_base;                /* the tracker tells what changed since the base, which has the rest */
	struct frames frames_before, frames_now;        /* soft-dirty: page tables at the last take, and at this one; owned */
	bool has_known;
	struct page_map known;          /* what the base has of it */
};

struct tracking {
	struct tracking_options options;
	enum tracker_kind kind;         /* NONE: neither wanted nor had */
	struct image_link link;         /* this dump's */
	struct store *store, *base;     /* base: NULL, or the last link; owned */
	bool alone;                     /* the old keeper has ended, and no new one holds what watches */
	struct keeper old;
	struct task_locks locks;                /* all of `tasks`, and the root */
	VEC(struct tracked) tasks;
};

int tracking_begin(struct tracking *t, const struct tracking_options *options, struct store *store, struct err *err);
int tracking_arm(struct tracking *t, const struct frozen_tree *tree, struct err *err);
/* The same without watching: what the base has of each. */
int tracking_list(struct tracking *t, const struct frozen_tree *tree, struct err *err);
int tracking_take_over(struct tracking *t, struct err *err);
int tracking_save(struct tracking *t, struct err *err);         /* the link's image */
void tracking_keep(struct tracking *t);                         /* a failure is a warning: the next dump will be full */
void tracking_free(struct tracking *t);

/* NULL: it is not tracked.  begin: also makes an entry for a task that is new. */
struct tracked *tracking_of(const struct tracking *t, pid_t pid);
struct tracked *tracking_add(struct tracking *t, pid_t pid, uint64_t start_ticks, struct err *err);

/* A keeper was found, and lives or has been taken over. */
bool tracking_has_keeper(const struct tracking *t);
/* Is it watched, and by a userfaultfd of the memory that the task has now (not of one before exec)? */
bool tracking_watches(const struct tracked *task);

/* Mappings that a userfaultfd write-protects: is it our own doing?  (One of the program's own is seen as a descriptor.) */
bool tracking_is_ours(const struct tracking *t, pid_t pid);

/* The task's tracker with this pagemap, for tracker_take(); false: it has none. */
bool tracking_tracker(const struct tracking *t, struct tracked *task, int pagemap, struct tracker *ret_tracker);

/* How a task may write to its memory without a trace in its page tables. */
enum unseen {
	UNSEEN_NONE,
	UNSEEN_DIRECT,          /* O_DIRECT: in flight at most while it runs */
	UNSEEN_ASYNC,           /* libaio, io_uring */
	UNSEEN_WATCHED,         /* it has a userfaultfd, and may need the traces itself: we leave them alone */
};
enum unseen tracking_unseen(pid_t pid, const struct proc_maps *maps);
