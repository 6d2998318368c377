/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tracker_scan.c - PAGEMAP_SCAN over ranges that a userfaultfd holds.
 *
 * Two forms of scan.  The fast one asks for "written" alone (0.4 ms a GiB), but
 * leaves a marker in every hole that it passes (page tables for empty ranges).  The slow
 * one asks for pages that are there too, 8 ms a GiB, and leaves holes alone.
 * So: fast where the last link has the most of the pages, slow elsewhere.
 *
 *	fast   says of holes as well that they were written: what is dropped (MADV_DONTNEED) is found.
 *	       What it does not report is as it was.
 *	slow   does not tell of what is gone: the rest must be looked for.
 *
 * Protecting costs more than looking: the kernel flushes the TLB once for every 2 MiB in which it protects something, and a guest
 * may have to ask its hypervisor for that (2000 pages all over 4 GiB: 50 ms, without protection 2 ms).  So the last take of
 * a task that stands only looks.
 *
 * Never two mappings in one call: EPERM at the second comes after the first was protected.  EPERM means that the
 * range was mapped anew meanwhile: all of it has changed.
 *
 * A mapping may lose its registration and keep its marks: when mremap() moves pages to the end of another mapping, both
 * become one, and the kernel (6.18) drops the registration of both. A write then leaves the page's mark in place, and
 * registered again it would count as unchanged. So what is not registered is registered and then
 * freed of all marks, and what is registered is not registered again.
 *
 * A call walks at most CHUNK: it holds the task's mmap_lock, for which the task's own mmap() would have to wait.
 */
#include <errno.h>

#include "kernel/pagemap.h"
#include "kernel/uffd.h"
#include "page/tracker.h"

#define REGIONS       512u
#define CHUNK         (64ull << 20)
#define BLOCK         (2ull << 20)              /* what one page of a page table covers: dense or sparse is decided by it */
#define BLOCK_IS_DENSE (BLOCK / PAGE_BYTES / 4) /* pages that the last link has */

static const struct pm_scan written = {
	.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, .mask = PM_WRITTEN, .ret_mask = PM_WRITTEN,
};

static const struct pm_scan written_and_there = {
	.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
	.inverted = PM_FILE | PM_PFNZERO | PM_GUARD, .mask = PM_FILE | PM_PFNZERO | PM_GUARD | PM_WRITTEN,
	.anyof = PM_PRESENT | PM_SWAPPED, .ret_mask = PM_WRITTEN,
};

/* Lists, and protects unless it is for the last time.  1: it was mapped anew meanwhile. */
static int scan(const struct tracker *t, struct pm_scan what, taddr start, taddr end, struct page_runs *out, struct err *err)
{
	struct pm_region regions[REGIONS];

	if (t->last)
		what.flags &= ~(uint64_t)PM_SCAN_WP_MATCHING;
	while (start < end) {
		taddr to = end - start > CHUNK ? start + CHUNK : end;
		int n = pagemap_scan(t->pagemap, &what, start, to, regions, REGIONS, &start, err);

		if (n == -EPERM)
			return 1;
		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			runs_add(out, regions[i].start, regions[i].end, PAGE_HERE);
	}
	return 0;
}

static void whole(struct page_runs *runs, taddr start, taddr end)
{
	runs->len = 0;
	runs_add(runs, start, end, PAGE_HERE);
}

static int take_dense(const struct tracker *t, taddr start, taddr end, const struct page_map *known, struct page_runs *out,
		      struct err *err)
{
	struct page_runs changed = { 0 }, here = { 0 }, rest = { 0 }, kept = { 0 }, all = { 0 };
	int r = scan(t, written, start, end, &changed, err);

	whole(&all, start, end);
	if (r > 0)
		whole(&changed, start, end);
	for (size_t i = 0; r >= 0 && i < changed.len; i++)
		r = runs_in_use(t->pagemap, changed.at[i].start, run_end(&changed.at[i]), &here, err);
	if (r >= 0) {
		runs_subtract(&all, &changed, &rest);
		runs_in_map(&rest, known, &kept);
		runs_merge(&here, &kept, out);
	}
	vec_free(&changed);
	vec_free(&here);
	vec_free(&rest);
	vec_free(&kept);
	vec_free(&all);
	return r < 0 ? r : 0;
}

static int take_sparse(const struct tracker *t, taddr start, taddr end, const struct page_map *known,
		       struct page_runs *out, struct err *err)
{
	struct page_runs here = { 0 }, there = { 0 }, rest = { 0 }, kept = { 0 };
	int r = scan(t, written_and_there, start, end, &here, err);

	if (r > 0) {
		here.len = 0;
		r = runs_in_use(t->pagemap, start, end, &here, err);
	} else if (r == 0 && known) {
		r = runs_in_use(t->pagemap, start, end, &there, err);
		runs_subtract(&there, &here, &rest);
		runs_in_map(&rest, known, &kept);
	}
	if (r >= 0)
		runs_merge(&here, &kept, out);
	vec_free(&here);
	vec_free(&there);
	vec_free(&rest);
	vec_free(&kept);
	return r < 0 ? r : 0;
}

/* Where the last link has a quarter or more of a block; *ret_end: up to where that is so of all. */
static bool is_dense(const struct page_map *known, taddr start, taddr end, taddr *ret_end)
{
	bool dense = false;
	taddr at = start;

	for (bool first = true; at < end; first = false) {
		taddr to = (at / BLOCK + 1) * BLOCK;
		uint64_t pages = 0;

		to = to < end ? to : end;
		for (size_t i = page_map_find(known, at); i < known->pieces.len && known->pieces.at[i].start < to; i++) {
			taddr from = known->pieces.at[i].start, until = from + known->pieces.at[i].pages * PAGE_BYTES;

			pages += ((until < to ? until : to) - (from > at ? from : at)) / PAGE_BYTES;
		}
		if (first)
			dense = pages >= BLOCK_IS_DENSE;
		else if (dense != (pages >= BLOCK_IS_DENSE))
			break;
		at = to;
	}
	*ret_end = at;
	return dense;
}

bool tracker_is_registered(int pagemap, taddr at)
{
	const struct pm_scan what = { .flags = PM_SCAN_CHECK_WPASYNC, .mask = PM_WRITTEN, .ret_mask = PM_WRITTEN };
	struct pm_region region;
	uint64_t end;

	return pagemap_scan(pagemap, &what, at, at + PAGE_BYTES, &region, 1, &end, &(struct err){ 0 }) >= 0;
}

/* 1: another userfaultfd has it, or it is gone, or the program has called exec. */
static int watch(const struct tracker *t, taddr start, taddr end)
{
	struct err err;
	int r = 0;

	if (tracker_is_registered(t->pagemap, start))
		return 0;
	if (uffd_register_wp(t->uffd, start, end - start, &err) < 0)
		return 1;
	for (taddr at = start, to; r == 0 && at < end; at = to) {
		to = end - at > CHUNK ? at + CHUNK : end;
		r = uffd_unprotect(t->uffd, at, to - at);
	}
	if (r < 0)      /* it was mapped anew meanwhile: the next time will do */
		uffd_unregister(t->uffd, start, end - start, &err);
	return r < 0;
}

int tracker_scan_take(const struct tracker *t, taddr start, taddr end, const struct page_map *known,
		      struct page_runs *out, struct err *err)
{
	int r = watch(t, start, end);

	if (r > 0)
		return 1;
	if (!known)
		return take_sparse(t, start, end, NULL, out, err);
	for (taddr to; r == 0 && start < end; start = to)
		r = is_dense(known, start, end, &to) ? take_dense(t, start, to, known, out, err) :
						       take_sparse(t, start, to, known, out, err);
	return r;
}

uint64_t tracker_expect(const struct tracker *t, taddr start, taddr end, const struct page_map *known)
{
	struct tracker looks = *t;
	struct page_runs runs = { 0 };
	uint64_t pages;

	looks.last = true;
	for (taddr to = end; t->kind == TRACKER_SCAN && start < end; start = to) {
		bool dense = known && is_dense(known, start, end, &to);

		(void)scan(&looks, dense ? written : written_and_there, start, to, &runs, &(struct err){ 0 });  /* as far as it goes */
	}
	pages = runs_pages(&runs);
	vec_free(&runs);
	return pages;
}
