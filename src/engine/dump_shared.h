/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dump_shared.h - pages that parent and child share by copy on write are written once.
 *
 * The image format knows one way to say "these bytes are elsewhere": a page is
 * in the parent directory, under the same task's name.  So a dump that finds
 * shared pages makes itself such a directory, DIR/cow, with DIR/parent leading
 * to it: there each child's pagemap lists the pages of the ancestor that wrote
 * them, and the pages file is a hard link to that ancestor's.  Whoever restores,
 * CRIU too, finds the bytes; ferry sees by the file's identity that they are
 * the ancestor's, and keeps them shared in memory.
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
#include "page/ends.h"

struct shared_dump {
	const struct snapshot *snapshot;
	struct store *store, *cow;              /* cow: NULL until somebody shares; owned */
	struct { uint32_t pages_id; struct page_runs placed; } *tasks;  /* as snapshot->tasks; owned */
};

int shared_init(struct shared_dump *d, const struct snapshot *s, struct store *store, struct err *err);
int shared_plan(struct shared_dump *d, size_t index, struct page_runs *plan, struct err *err);
/* Takes the runs over. */
void shared_note(struct shared_dump *d, size_t index, uint32_t pages_id, struct page_runs *placed);
int shared_finish(struct shared_dump *d, struct err *err);
void shared_free(struct shared_dump *d);
