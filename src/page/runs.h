/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runs.h - lists of page runs, rising and without overlap.
 *
 * Whoever has a list frees it (vec_free).
 */
#pragma once
#include "base/vec.h"
#include "page/map.h"
#include "page/page.h"

struct page_runs { struct page_run *at; size_t len, cap; };     /* a VEC */

static inline taddr run_end(const struct page_run *run)
{
	return run->start + run->pages * PAGE_BYTES;
}

/* Adds start..end at the end of the list; joins it to the last run where that ends there and is of the same kind. */
void runs_add(struct page_runs *runs, taddr start, taddr end, enum page_where where);

/* Those parts of `of` that are not in `without`, added to `out` as PAGE_HERE. */
void runs_subtract(const struct page_runs *of, const struct page_runs *without, struct page_runs *out);

/* Those parts of `of` of which the map has pages, added to `out` as PAGE_PARENT. */
void runs_in_map(const struct page_runs *of, const struct page_map *map, struct page_runs *out);

/* Both lists, which don't overlap, added to `out` in order of addresses. */
void runs_merge(const struct page_runs *a, const struct page_runs *b, struct page_runs *out);

uint64_t runs_pages(const struct page_runs *runs);

/*
 * The pages of start..end that are a task's own, added to `out` as PAGE_HERE: touched anonymous memory, changed pages
 * of private file mappings; in memory or swapped out, no pages of zeros, no guard pages.  By PAGEMAP_SCAN, or, before
 * Linux 6.7, by the eight bytes a page (where the page of zeros is not told apart).
 */
int runs_in_use(int pagemap, taddr start, taddr end, struct page_runs *out, struct err *err);
