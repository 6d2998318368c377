/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tracker.h - which pages of a task changed since somebody looked last?
 *
 *	scan         userfaultfd in asynchronous write-protect mode and PAGEMAP_SCAN (Linux 6.7): a page is found and
 *	             protected in one step, while the task runs
 *	soft-dirty   a bit a page that the kernel sets (CONFIG_MEM_SOFT_DIRTY), cleared for the whole task at once: the task
 *	             has to stand still from the first take to the clearing
 *	none         neither: everything counts as changed
 *
 * The order that loses nothing: take (find and protect), then copy.  What is
 * written after the take is found by the next one, whatever the copy got of it.
 *
 * Only private anonymous memory is asked of a tracker.  All else (changed pages
 * of private file mappings, shared memory) is compared with what the last link has: its pages can
 * change or go without any mark that this task's page tables keep.
 *
 * Not seen by any tracker: what was pinned before the take and is written after
 * it (O_DIRECT reads in flight, libaio, io_uring).  Who takes has to know.
 */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "page/frames.h"
#include "page/runs.h"

enum tracker_kind { TRACKER_AUTO, TRACKER_NONE, TRACKER_SCAN, TRACKER_SOFT_DIRTY };

const char *tracker_name(enum tracker_kind kind);       /* "scan", as options and images have it */
bool tracker_named(const char *name, enum tracker_kind *ret_kind);

struct kernel_features;
/* The best that this kernel has; *ret_why: one sentence, why that one. */
enum tracker_kind tracker_choose(const struct kernel_features *features, const char **ret_why);

struct tracker {
	enum tracker_kind kind;         /* SCAN or SOFT_DIRTY */
	int pagemap;                    /* /proc/PID/pagemap; the caller's */
	int uffd;                       /* scan: registered ranges stay so while anybody has it open; the caller's */
	const struct frames *before;    /* soft-dirty: of the last take; NULL: nothing is known */
	struct frames *now;             /* soft-dirty: added to by this take, in order of addresses; NULL: none is wanted */
	bool last;                      /* scan: of a task that stands, and nobody takes after this: nothing is protected */
};

/*
 * A range of one private anonymous mapping.  known: what the last link has of this task, NULL for a task that is new.
 * Adds to `out`, rising: PAGE_HERE for what changed since the last take, PAGE_PARENT for the rest of what `known` has
 * and the task still uses.  1: this range can't be tracked (nothing is added); a range that was never taken has changed.
 */
int tracker_take(const struct tracker *t, taddr start, taddr end, const struct page_map *known, struct page_runs *out,
		 struct err *err);

/* About how many pages a take would find changed, without taking any; 0 where only a take can tell.  known: may be NULL. */
uint64_t tracker_expect(const struct tracker *t, taddr start, taddr end, const struct page_map *known);

/* Is the mapping at this address watched by somebody's asynchronous userfaultfd?  Whose it is can't be told. */
bool tracker_is_registered(int pagemap, taddr at);

/* A page that was taken and then could not be copied counts as changed again. */
void tracker_forget(const struct tracker *t, taddr page);

/* The ends of tracker_take(), a file each. */
int tracker_scan_take(const struct tracker *t, taddr start, taddr end, const struct page_map *known,
		      struct page_runs *out, struct err *err);
int tracker_soft_dirty_take(const struct tracker *t, taddr start, taddr end, const struct page_map *known,
			    struct page_runs *out, struct err *err);
