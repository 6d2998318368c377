/* SPDX-License-Identifier: Apache-2.0 */
/*
 * restoring.h - a restore at work: what its parts share.
 *
 *	make_shmems.c   shared memory objects and what is in them: in ferry, before all else
 *	make_files.c    open file descriptions: in ferry, before any task
 *	make_tree.c     vessels with their pids, sessions and groups
 *	make_mm.c       mappings and memory of a vessel
 *	make_state.c    descriptors, threads, attributes; zombies die, the stopped stop
 *
 * restore.c owns it and calls them in order.
 */
#pragma once
#include "engine/reaper.h"
#include "engine/restore.h"
#include "image/store.h"
#include "inject/vessel.h"
#include "model/snapshot.h"
#include "page/map.h"
#include "resource/resource.h"

struct making {                         /* a task being made; the same index as in snapshot->tasks */
	struct vessel vessel;
	bool made, dead;                /* dead: a zombie that has died again */
	pid_t sid, pgid;                /* what the vessel has now */
	struct page_map pages;          /* of its own and its parent's time: until its children are cloned */
};

struct restoring {
	const struct restore_options *options;
	struct store *store;
	struct snapshot snapshot;
	struct maker maker;
	struct blob_place blob;
	struct making *tasks;
	VEC(struct helper { struct vessel vessel; pid_t parent; }) helpers;     /* stand in for leaders that are gone */
	VEC(pid_t) threads;             /* of all tasks, without the leaders */
	struct reaper *reaper;          /* looks at them; NULL: there are none */
	struct restore_result result;
	struct progress_meter meter;
};

/* ---- make_shmems.c ---- */
int make_shmems(struct restoring *r, struct err *err);
/* After all tasks have their mappings: whatever a seal forbids is done. */
int seal_shmems(struct restoring *r, struct err *err);

/* ---- make_files.c ---- */
int make_files(struct restoring *r, struct err *err);
/* After the tree is there: epoll targets, socket pairs, owners. */
int attach_files(struct restoring *r, struct err *err);
/* ferry's descriptor of a file. */
int made_fd(const struct restoring *r, uint32_t file);
/* The same for a mapping that has its file opened again. */
int mapped_fd(const struct restoring *r, const struct vma *v);
/* Gives a descriptor of ferry's a number that no task has. */
int lift_fd(const struct restoring *r, int *fd, struct err *err);

/* ---- make_tree.c ---- */
int make_tree(struct restoring *r, struct err *err);
int end_helpers(struct restoring *r, struct err *err);
struct making *making_of(struct restoring *r, pid_t pid);

/* ---- make_mm.c ---- */
/* parent: the task whose memory the vessel has inherited; NULL: whatever it has goes. */
int make_mm(struct restoring *r, size_t index, const struct task *parent, struct err *err);

/* ---- make_state.c ---- */
int make_state(struct restoring *r, size_t index, struct err *err);
int let_go(struct restoring *r, struct err *err);
