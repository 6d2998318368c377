/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dump_shared.h - pages that parent and child share by copy on write are written once.
 *
 * A dump that finds such pages lends the ancestor's to the child (page/cow.h).
 *
 *	shared_plan()    before a task is dumped: runs that an ancestor has become PAGE_PARENT
 *	shared_note()    after it: what went into its pages file
 *	shared_finish()  the directory is sealed and linked
 *
 * A child is compared with the first of its line whose memory it can share; what
 * it shares with a later one alone is written again (and found equal on restore).
 */
#pragma once
#include "image/store.h"
#include "model/snapshot.h"
#include "page/cow.h"
#include "page/ends.h"

struct shared_dump {
	const struct snapshot *snapshot;
	struct cow_dir cow;
	bool running;                           /* the tasks run, and what has not changed since is still protected */
	struct { uint32_t pages_id; struct page_runs placed; } *tasks;  /* as snapshot->tasks; owned */
};

void shared_init(struct shared_dump *d, const struct snapshot *s, struct store *store);
int shared_plan(struct shared_dump *d, size_t index, struct page_runs *plan, struct err *err);
/* Takes the runs over. */
void shared_note(struct shared_dump *d, size_t index, uint32_t pages_id, struct page_runs *placed);
int shared_finish(struct shared_dump *d, struct err *err);
void shared_free(struct shared_dump *d);
