/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pagemap.h - which pages of a task are there, and which were written.
 *
 * Two doors on one descriptor of /proc/PID/pagemap: the PAGEMAP_SCAN ioctl
 * (Linux 6.7 and later) that answers in regions, and the classic read of eight
 * bytes a page.  What may be asked safely of which range (one mapping a scan,
 * EPERM means "all changed") is the tracker's business, not this file's.
 *
 * The names are ours: newer linux/fs.h has the same things as PAGE_IS_* and
 * struct page_region.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

enum pm_category {
	PM_WPALLOWED = 1 << 0,          /* registered with a userfaultfd in WP_ASYNC mode */
	PM_WRITTEN = 1 << 1,            /* not write-protected: written since, or never protected */
	PM_FILE = 1 << 2,
	PM_PRESENT = 1 << 3,
	PM_SWAPPED = 1 << 4,
	PM_PFNZERO = 1 << 5,
	PM_HUGE = 1 << 6,
	PM_SOFT_DIRTY = 1 << 7,
	PM_GUARD = 1 << 8,              /* 6.15 and later (asked of older ones it is left out): reading it is a fault */
};

enum pm_flag {
	PM_SCAN_WP_MATCHING = 1 << 0,   /* write-protect what is reported, in one step */
	PM_SCAN_CHECK_WPASYNC = 1 << 1, /* -EPERM at a mapping that lacks PM_WPALLOWED */
};

struct pm_region { uint64_t start, end, categories; };  /* taddr, and PM_* of ret_mask */

/* A page matches when it has all of `mask` and, unless that is 0, one of `anyof`, after flipping `inverted`. */
struct pm_scan { uint64_t flags, inverted, mask, anyof, ret_mask; };

int pagemap_open(pid_t pid, int *ret_fd, struct err *err);

/*
 * Up to `max` regions of start..end (taddr, page-aligned), ascending, neighbours of equal categories
 * merged.  Returns how many; *ret_walk_end is where to go on: `end` when all was walked.
 */
int pagemap_scan(int fd, const struct pm_scan *what, uint64_t start, uint64_t end, struct pm_region *regions, size_t max,
		 uint64_t *ret_walk_end, struct err *err);

#define PM_ENTRY_PRESENT    (1ull << 63)
#define PM_ENTRY_SWAPPED    (1ull << 62)
#define PM_ENTRY_FILE       (1ull << 61)        /* of a file or shared anonymous */
#define PM_ENTRY_GUARD      (1ull << 58)
#define PM_ENTRY_UFFD_WP    (1ull << 57)
#define PM_ENTRY_EXCLUSIVE  (1ull << 56)        /* mapped once */
#define PM_ENTRY_SOFT_DIRTY (1ull << 55)
#define PM_ENTRY_PFN(entry) ((entry) & ((1ull << 55) - 1))      /* 0 without CAP_SYS_ADMIN; no PFN when swapped */

/* The task's own page: anonymous, in memory or swapped out, and not a guard. */
static inline bool pagemap_entry_is_own(uint64_t entry)
{
	return entry & (PM_ENTRY_PRESENT | PM_ENTRY_SWAPPED) && !(entry & (PM_ENTRY_FILE | PM_ENTRY_GUARD));
}

/* The entries of `pages` pages from `start` on; returns how many there were (fewer only past the end of user space). */
int pagemap_read(int fd, uint64_t start, size_t pages, uint64_t *entries, struct err *err);

/* Starts soft-dirty tracking anew for the whole task.  Without CONFIG_MEM_SOFT_DIRTY it succeeds and does nothing. */
int soft_dirty_clear(pid_t pid, struct err *err);
