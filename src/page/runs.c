/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "kernel/pagemap.h"
#include "page/runs.h"

#define REGIONS 512u
#define CHUNK   (64ull << 20) /* the kernel holds the address space for a whole scan */

void runs_add(struct page_runs *runs, taddr start, taddr end, enum page_where where)
{
	struct page_run *last = runs->len > 0 ? &runs->at[runs->len - 1] : NULL;

	if (start >= end)
		return;
	if (last && run_end(last) == start && last->where == where)
		last->pages += (end - start) / PAGE_BYTES;
	else
		vec_push(runs, ((struct page_run){ .start = start, .pages = (end - start) / PAGE_BYTES, .where = where }));
}

void runs_subtract(const struct page_runs *of, const struct page_runs *without, struct page_runs *out)
{
	size_t k = 0;

	for (size_t i = 0; i < of->len; i++) {
		taddr at = of->at[i].start, end = run_end(&of->at[i]);

		while (k < without->len && run_end(&without->at[k]) <= at)
			k++;
		for (size_t m = k; m < without->len && without->at[m].start < end; m++) {
			runs_add(out, at, without->at[m].start < at ? at : without->at[m].start, PAGE_HERE);
			at = run_end(&without->at[m]);
		}
		runs_add(out, at, end, PAGE_HERE);
	}
}

void runs_in_map(const struct page_runs *of, const struct page_map *map, struct page_runs *out)
{
	size_t k = of->len > 0 ? page_map_find(map, of->at[0].start) : 0;

	for (size_t i = 0; i < of->len; i++) {
		taddr start = of->at[i].start, end = run_end(&of->at[i]);

		for (; k < map->pieces.len && map->pieces.at[k].start < end; k++) {
			taddr from = map->pieces.at[k].start, to = from + map->pieces.at[k].pages * PAGE_BYTES;

			runs_add(out, from > start ? from : start, to < end ? to : end, PAGE_PARENT);
			if (to > end)
				break;
		}
	}
}

void runs_merge(const struct page_runs *a, const struct page_runs *b, struct page_runs *out)
{
	size_t i = 0, k = 0;

	while (i < a->len || k < b->len) {
		bool first = k == b->len || (i < a->len && a->at[i].start < b->at[k].start);

		vec_push(out, first ? a->at[i] : b->at[k]);
		i += first;
		k += !first;
	}
}

uint64_t runs_pages(const struct page_runs *runs)
{
	uint64_t n = 0;

	for (size_t i = 0; i < runs->len; i++)
		n += runs->at[i].pages;
	return n;
}

static int in_use_by_entries(int pagemap, taddr start, taddr end, struct page_runs *out, struct err *err)
{
	uint64_t entries[REGIONS];

	while (start < end) {
		size_t want = (end - start) / PAGE_BYTES < REGIONS ? (end - start) / PAGE_BYTES : REGIONS;
		int n = pagemap_read(pagemap, start, want, entries, err);

		if (n <= 0)
			return n;
		for (int i = 0; i < n; i++, start += PAGE_BYTES)
			if (pagemap_entry_is_own(entries[i]))
				runs_add(out, start, start + PAGE_BYTES, PAGE_HERE);
	}
	return 0;
}

int runs_in_use(int pagemap, taddr start, taddr end, struct page_runs *out, struct err *err)
{
	const struct pm_scan own = {
		.inverted = PM_FILE | PM_PFNZERO | PM_GUARD, .mask = PM_FILE | PM_PFNZERO | PM_GUARD,
		.anyof = PM_PRESENT | PM_SWAPPED, .ret_mask = PM_FILE,
	};
	struct pm_region regions[REGIONS];

	while (start < end) {
		taddr to = end - start > CHUNK ? start + CHUNK : end;
		int n = pagemap_scan(pagemap, &own, start, to, regions, REGIONS, &start, err);

		if (n == -ENOTTY || n == -EINVAL)
			return in_use_by_entries(pagemap, start, end, out, err);
		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			runs_add(out, regions[i].start, regions[i].end, PAGE_HERE);
	}
	return 0;
}
