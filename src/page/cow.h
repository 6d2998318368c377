/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cow.h - pages of one pagemap image that another one has written.
 *
 * The image format knows one way to say "these bytes are elsewhere": a page is
 * in the parent directory, under the same task's name.  So a directory in which
 * tasks share pages makes itself such a directory, COW_DIR, with its `parent`
 * leading there: in it each borrower has a pagemap that lists what the lender
 * wrote, and the pages file (its sums too) is a hard link to the lender's.  Whoever restores,
 * CRIU too, finds the bytes; ferry sees by the file's identity whose they are,
 * and keeps them shared in memory.
 *
 *	cow_lend()      once for each borrower
 *	cow_finish()    the directory is sealed and linked; nothing where nobody lends
 */
#pragma once
#include "image/store.h"
#include "page/page.h"
#include "page/runs.h"

struct cow_dir {
	struct store *store;            /* the caller's: the directory that shares */
	struct store *cow;              /* NULL until somebody lends; owned */
};

/* Makes the directory, where it is not there yet. */
int cow_open(struct cow_dir *d, struct err *err);
/* `pages`: what the lender has in its pages file, from the file's start. */
int cow_lend(struct cow_dir *d, uint64_t borrower, uint32_t lender_pages_id, const struct page_runs *pages, struct err *err);
/* The same where the pagemaps come from elsewhere: a pages file alone, or its sums. */
int cow_lend_file(struct cow_dir *d, enum image_kind kind, uint32_t pages_id, struct err *err);
int cow_finish(struct cow_dir *d, struct err *err);
void cow_free(struct cow_dir *d);
