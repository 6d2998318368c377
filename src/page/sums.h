/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sums.h - a checksum (XXH3-64) for each page of a pages file.
 *
 *	dump     bytes on their way into pages-N.img --page_sums_set--> list --page_sums_write--> ferry-pages-N.img
 *	restore  ferry-pages-N.img --page_sums_open--> page_sums_check on what was read of pages-N.img
 *
 * They are in an image of our own, so that pages files stay plain, as CRIU wants them; ferry-checksums.img covers
 * that image like any other, and by it the pages too.  One a page, for pages are read in any order, through chains,
 * from files with holes: 0.2 % of the memory.
 *
 * A directory that CRIU wrote has none; its pages are taken as they are.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "image/store.h"

/* ---- writing ---- */

/*
 * Grows in blocks that never move: who sets is not in the way of who grows.  Blocks that are full go to a file without a
 * name, so that little of a large memory's sums is in ours.
 */
struct page_sum_list {
	struct page_sum_block **blocks; /* owned; atomic: a longer list takes the place of this one */
	struct page_sum_block **old[32];        /* owned: lists that somebody may still look at */
	size_t next, cap, olds, spilled;        /* blocks: that were begun, that fit; lists; blocks that are in the file */
	int spill_fd;                   /* owned; 0: none */
	bool stays;                     /* there can be no such file */
};

/* Room for the first `pages`.  By one thread at a time, before they are set, each once. */
void page_sums_grow(struct page_sum_list *list, uint64_t pages);
/* Of the bytes of `pages` pages, the first of which is page `first` of the file.  By many threads, for different pages. */
void page_sums_set(struct page_sum_list *list, uint64_t first, const void *bytes, uint64_t pages);
/* Where they are known. */
void page_sums_take(struct page_sum_list *list, uint64_t first, const uint64_t *sums, uint64_t pages);
int page_sums_write(const struct page_sum_list *list, uint64_t pages, struct store *store, uint64_t pages_id, struct err *err);
void page_sums_free(struct page_sum_list *list);

/* ---- reading ---- */

/*
 * Few are in memory, for trees of many tasks have many such files; many stay in their file, so that little is in memory
 * however much there is to check.
 */
struct page_sums {
	uint64_t pages;
	uint64_t *few;                  /* owned; NULL: in the file */
	int fd;                         /* owned, -1: none */
	uint64_t start;                 /* byte in that file */
};
#define PAGE_SUMS_NONE ((struct page_sums){ .fd = -1 })

/*
 * 1: *ret_sums are those of pages-ID.img, which has size_bytes; 0: it has none.  EBADMSG: they are not of a file of
 * that size.
 */
int page_sums_open(const struct store *store, uint64_t pages_id, uint64_t size_bytes, struct page_sums *ret_sums,
		   struct err *err);
void page_sums_close(struct page_sums *sums);
static inline bool page_sums_any(const struct page_sums *sums)
{
	return sums->few || sums->fd >= 0;
}

/* 1: all match; 0: *ret_bad (0..pages-1) is the first that does not.  By many threads. */
int page_sums_check(const struct page_sums *sums, uint64_t first, const void *bytes, uint64_t pages, uint64_t *ret_bad,
		    struct err *err);
