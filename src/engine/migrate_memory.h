/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_memory.h - the source of a migration at work, and the memory of its tasks on its way.
 *
 *	migrate_source.c   the phases; owns struct migration
 *	migrate_memory.c   which pages the target has, which it must get, and which it has no more
 *
 * What was sent of each task is in `tasks`: its mappings at the stage, which pages the target has, and sums of those that
 * no tracker watches.  A page that the target has and the task has no more is told as well.
 */
#pragma once
#include <pthread.h>

#include "engine/common_mm.h"
#include "engine/converge.h"
#include "engine/migrate.h"
#include "engine/preflight.h"
#include "engine/see.h"
#include "engine/stream_out.h"
#include "engine/throttle.h"
#include "page/sink_runs.h"
#include "wire/frame.h"
#include "wire/lanes.h"

#define MIGRATE_THREADS 2u

/* A task as the target knows it. */
struct moved_task {
	pid_t pid;
	const struct task *staged;      /* in the first snapshot */
	struct page_map known;          /* pieces only: pages that the target has */
	struct sum_set sums;
	struct tracker tracker;
	uint64_t start_ticks;           /* its pid may be another's one day */
	bool tracked, unseen;           /* unseen: it was written to behind the tracker's back, or may have been */
	bool lost;                      /* it has ended */
	struct taddr_ranges ahead;      /* looked at already when it stood, and */
	struct page_runs ahead_plan;    /* what has to be sent of them */
};

/* Shared memory, held from the first snapshot that had it. */
struct moved_object {
	uint64_t id;
	dev_t dev;
	ino_t ino;
	int fd;                         /* owned */
	uint64_t size_bytes;
	struct page_map known;
	struct sum_set sums;
};

/* A call that a stop has interrupted, ready to be made again. */
struct held_call { pid_t tid; struct user_regs_struct regs; };

struct migration {
	const struct migrate_options *options;
	struct transport *transport;
	struct frame_out out;
	struct frame_in in;
	struct lanes lanes;             /* that `out` goes over; none: the transport */
	enum phase phase;
	struct store *store;            /* in memory: images of the snapshot at hand */
	struct destination *to;         /* tracking wants one */
	struct tracking tracking;
	struct look look;
	struct snapshot first, last;
	struct preflight_blocks blocks;
	struct frozen_tree tree;
	bool frozen, braked;
	bool still;                     /* the stage is of a tree that stands, and goes on to */
	uint64_t untracked;             /* pages that the last round found changed without a tracker */
	struct moved_task *tasks;       /* as first.tasks; owned */
	VEC(struct moved_object) objects;
	VEC(struct converge_round) rounds;
	VEC(struct held_call) calls;    /* of all stops so far */
	pthread_t ahead;                /* plans while the tree is seen */
	bool plans_ahead;
	struct throttle throttle;
	unsigned int throttle_level;
	size_t throttled_at;            /* the round from which on it is */
	uint64_t began_us, round_us, round_bytes, round_total, freeze_us, pages;
	struct migrate_result result;
};

/* The task of the first snapshot that has this pid; NULL: none that the target knows. */
struct moved_task *memory_task(struct migration *m, pid_t pid);
bool memory_has_ended(const struct moved_task *t);
/* The mapping that has this address; NULL: none. */
const struct vma *memory_vma_at(const struct task *t, taddr at);
/* A task of the first snapshot, before the images are sent: its pagemap, and what will be sent of it. */
int memory_stage_task(struct migration *m, struct stream_out *out, size_t index, struct err *err);
/* Shared memory of a snapshot, held from the first time that it is asked for. */
int memory_object(struct migration *m, const struct shmem *o, struct moved_object **ret, struct err *err);
void memory_object_free(struct moved_object *o);
/* The same of shared memory.  Adds to *pages. */
int memory_stage_object(struct stream_out *out, struct moved_object *o, uint64_t *pages, struct err *err);
/* What changed since the last time goes out, and what is gone is said.  ESRCH: it has ended. */
int memory_round(struct migration *m, struct moved_task *t, struct err *err);
/* Of shared memory: what has another sum than before. */
int memory_round_object(struct migration *m, struct moved_object *o, bool running, struct err *err);
/* About what a round would have to send now. */
uint64_t memory_dirty_bytes(const struct migration *m);
/*
 * The tree stands: another thread looks for what changed since the last round, while its state is seen.  Whatever it could
 * not find out memory_last() does.  memory_ahead_end() may be called twice.
 */
void memory_ahead_begin(struct migration *m);
void memory_ahead_end(struct migration *m);
void memory_task_free(struct moved_task *t);
/* What changed of a task that stands, and all of what is not in `common`. */
int memory_last(struct migration *m, const struct task *now, const struct taddr_ranges *common, struct err *err);
