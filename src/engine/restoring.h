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
#include "engine/load.h"
#include "engine/restore.h"
#include "engine/stream_in.h"
#include "image/store.h"
#include "inject/vessel.h"
#include "model/snapshot.h"
#include "page/ends.h"
#include "page/map.h"
#include "resource/resource.h"

struct making {                         /* a task being made; the same index as in snapshot->tasks */
	struct vessel vessel;
	bool made, dead;                /* dead: a zombie that has died again */
	bool filled;                    /* its memory is complete, and `pages` say what is where */
	pid_t sid, pgid;                /* what the vessel has now */
	struct loaded_pages pages;      /* until its children are cloned; with a stream to the end: it may have to lend */
};

/* Where the pages of a map come from. */
union page_origin { struct source_map map; struct source_feed feed; };

struct restoring {
	const struct restore_options *options;
	struct store *store;
	struct stream_in *stream;       /* NULL: a directory has the pages */
	struct snapshot snapshot;
	struct maker maker;
	struct blob_place blob;
	unsigned int threads_max;       /* that the blob has room for */
	struct making *tasks;
	VEC(struct helper { struct vessel vessel; pid_t parent; }) helpers;     /* stand in for leaders that are gone */
	VEC(pid_t) threads;             /* of all tasks, without the leaders */
	struct reaper *reaper;          /* looks at them; NULL: there are none */
	struct restoring *before;       /* whose vessels and shared memory are taken over; NULL: nobody's */
	int self;                       /* pidfd of ferry, which vessels have under the same number; -1: they have none */
	bool staged;                    /* for a migration: what is made will be changed, so nothing is sealed; no files */
	struct restore_result result;
	struct progress_meter meter;
};

/* ---- restore.c ---- */
/*
 * For a migration, in parts.  Images out of frames that began before (`first`: one that was read already, or NULL) are
 * loaded; the pages follow.
 */
int restoring_take_images(struct restoring *r, struct frame_in *in, const struct frame *first, struct err *err);
int restoring_state(struct restoring *r, struct err *err);
/* One that was made and is dead before it could run; 0: they all live. */
pid_t restoring_lost(const struct restoring *r);
/* Whatever was made dies; restoring_reap() waits for all children. */
void restoring_kill(struct restoring *r);
void restoring_reap(void);
void restoring_free(struct restoring *r);
struct page_source *restoring_source(struct restoring *r, const struct page_map *map, union page_origin *ret);

/* ---- make_shmems.c ---- */
int make_shmems(struct restoring *r, struct err *err);
/* After all tasks have their mappings: whatever a seal forbids is done. */
int seal_shmems(struct restoring *r, struct err *err);

/* ---- make_files.c ---- */
int make_files(struct restoring *r, struct err *err);
/* Is used, and can be made only when the tree is there. */
bool is_late_file(const struct restoring *r, const struct file *f);
int make_late_files(struct restoring *r, struct err *err);
/* A pidfd of ferry in r->self, which is the caller's: every vessel that is cloned later can have what ferry gets later. */
int open_self(struct restoring *r, struct err *err);
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
/*
 * Takes over the vessels of a tree that was made before, of the same tasks a while ago: those that are gone end, new ones
 * are made (with no memory).  ESTALE: the tree has changed in a way that vessels can't follow.
 */
int adopt_tree(struct restoring *r, struct restoring *before, struct err *err);
struct making *making_of(struct restoring *r, pid_t pid);

/* ---- make_mm.c ---- */
/* A vessel keeps these ranges as they are, and nothing else of what it has: the rest of the task's mappings is made. */
int remap_mm(struct restoring *r, size_t index, const struct taddr_range *keep, size_t keeps, bool keep_exe, struct err *err);
/* When all pages are there: what was writable for them alone is it no more. */
int narrow_mm(struct restoring *r, size_t index, struct err *err);
/* parent: the task whose memory the vessel has inherited; NULL: whatever it has goes. */
int make_mm(struct restoring *r, size_t index, const struct task *parent, struct err *err);

/* ---- make_state.c ---- */
/* Descriptors that ferry got after a vessel was cloned: those that the task needs come into it, under their numbers. */
int bring_fds(struct restoring *r, size_t index, struct err *err);
int make_state(struct restoring *r, size_t index, struct err *err);
int let_go(struct restoring *r, struct err *err);
