/* SPDX-License-Identifier: Apache-2.0 */
/*
 * see.h - a frozen tree becomes a snapshot.
 *
 *	look_at()     before the freeze: VmFlags, which cost a walk over all page tables
 *	see_tree()    after it: see_task() for each, which sees
 *	                see_mm.c     mappings, the marks of the address space
 *	                see_files.c  descriptors, mapped files, cwd, root
 *	                the kinds    everything else (resource/)
 *
 * Nothing is changed in the tasks.  What is not handled yet is an error here
 * that names the task, the descriptor or the mapping: EOPNOTSUPP.
 */
#pragma once
#include "engine/freeze.h"
#include "engine/guard.h"
#include "engine/tracking.h"
#include "inject/question.h"
#include "kernel/kcmp_set.h"
#include "kernel/proc_map.h"
#include "kernel/sock_diag.h"
#include "model/snapshot.h"
#include "resource/resource.h"

/* What was read of the mappings while the tasks still ran. */
struct look { VEC(struct look_task { pid_t pid; struct proc_maps maps; }) tasks; };

/* As far as the tree can be seen: who comes or goes meanwhile is looked at after the freeze. */
void look_at(pid_t root, struct look *ret_look);
/* How many pages the tasks had of their own: about what a dump has to move. */
uint64_t look_pages(const struct look *look);
/* Is something write-protected by a userfaultfd, as trackers do? */
bool look_protected(const struct look *look);
void look_free(struct look *look);

/* What is known of a task beside the snapshot: raw, from /proc. */
struct seen_task {
	struct proc_stat stat;
	struct proc_status status;
	struct proc_maps maps;
	VEC(struct subject) subjects;   /* as task->threads */
	struct gadgets gadgets;         /* all 0: it has no code for questions */
};

struct ns_id { dev_t dev; ino_t ino; };
#define OWN_NS_COUNT 10                 /* links looked at, see_ns.c */

/* Where the code for questions is in a libc that was looked through before: most tasks of a tree have the same. */
struct known_libc { dev_t dev; ino_t ino; taddr start; uint64_t pgoff; struct gadgets gadgets; };

struct seeing {
	struct snapshot *snapshot;
	const struct frozen_tree *tree;
	const struct look *look;
	const struct tracking *tracking;
	const struct guard *guard;
	struct seen_task *tasks;        /* one for each in tree->tasks; owned */
	VEC(size_t) by_order;           /* descriptors' files in the snapshot, in an order in which they are found */
	struct kcmp_set memories, tables, dirs; /* tasks by address space, descriptor table, working directory */
	struct vdso vdso;               /* ferry's own */
	struct sock_diag socks;
	bool have_socks, shell_job;
	/* optional; told when all tasks are listed, and of each when it is complete and its threads stand as found */
	struct { int (*listed)(void *arg, struct err *err); void (*ready)(void *arg, size_t index); void *arg; } tell;
	/* optional; what is not handled is told and passed over: the snapshot is none then, but all that is in its way is known */
	struct { void (*tell)(void *arg, const struct err *why); void *arg; unsigned int count; } refused;
	struct ns_id own_ns[OWN_NS_COUNT];
	bool own_ns_known;
	struct known_libc libc;
	bool forked_since;              /* a task is new since the look: what it shares with others is not known */
};

int see_tree(struct seeing *s, struct err *err);
void seeing_free(struct seeing *s);

/* What may be passed over is 0 then. */
int see_refused(struct seeing *s, int r, const struct err *err);

/* Parts of see_task, each in its file. */
int see_namespaces(struct seeing *s, pid_t tid, bool is_thread, struct err *err);
int see_mm(struct seeing *s, struct seen_task *seen, struct task *t, struct err *err);
int see_files(struct seeing *s, size_t index, struct task *t, struct err *err);
/* exe, cwd, root ("exe" ... of /proc/PID) and mappings: the id of a file by path. */
int see_path_file(struct seeing *s, pid_t pid, const char *link, uint32_t *ret_id, struct err *err);
int see_mapped_file(struct seeing *s, pid_t pid, const struct proc_map *m, unsigned int flags, uint32_t *ret_id,
		    struct err *err);
