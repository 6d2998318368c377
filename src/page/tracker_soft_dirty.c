/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tracker_soft_dirty.c - the soft-dirty bit of each page.
 *
 * Reading the bits and clearing them (soft_dirty_clear(), the whole task at
 * once) are two steps: the task stands still from the first to the second.
 * The kernel shows the bit for every page of a mapping that is new since; but not always of one that mremap() moved: whole
 * tables of pages move without (seen on 6.1).  So what the last link does not have is never "unchanged", nor is
 * what lies in another table than then (page/frames.h).
 */
#include "kernel/pagemap.h"
#include "page/tracker.h"

/*
 * A page that was dropped and then read is the page of zeros: there, without the bit, and not what the last link has.
 * In these entries it can't be told from a page shared by copy on write (or a swapped one): such are compared.
 */
static bool is_doubtful(uint64_t entry)
{
	return !(entry & PM_ENTRY_EXCLUSIVE);
}

struct lists { struct page_runs changed, doubtful, rest; };

/* Those of start..end, all in the one table that these entries are of. */
static void sort_table(const uint64_t *entries, taddr table, taddr start, taddr end, bool same, struct lists *l)
{
	for (taddr at = start; at < end; at += PAGE_BYTES) {
		uint64_t entry = entries[(at - table) / PAGE_BYTES];
		bool doubtful = !same || is_doubtful(entry);

		if (pagemap_entry_is_own(entry))
			runs_add(entry & PM_ENTRY_SOFT_DIRTY ? &l->changed : doubtful ? &l->doubtful : &l->rest, at, at + PAGE_BYTES, PAGE_HERE);
	}
}

static int sort_pages(const struct tracker *t, taddr start, taddr end, struct lists *l, struct err *err)
{
	uint64_t entries[TABLE_PAGES];

	for (taddr to; start < end; start = to) {
		taddr table = start / TABLE_BYTES * TABLE_BYTES;
		int n = pagemap_read(t->pagemap, table, TABLE_PAGES, entries, err);

		if (n < 0)
			return n;
		for (size_t i = (size_t)n; i < TABLE_PAGES; i++)        /* past the end of user space */
			entries[i] = 0;
		to = table + TABLE_BYTES < end ? table + TABLE_BYTES : end;
		sort_table(entries, table, start, to, t->before && frames_same_table(t->before, table, entries), l);
		if (t->now)
			frames_note(t->now, table, entries);
	}
	return 0;
}

int tracker_soft_dirty_take(const struct tracker *t, taddr start, taddr end, const struct page_map *known,
			    struct page_runs *out, struct err *err)
{
	struct lists l = { 0 };
	struct page_runs kept = { 0 }, unknown = { 0 }, changed = { 0 }, here = { 0 };
	int r = sort_pages(t, start, end, &l, err);

	if (r == 0) {
		for (size_t i = 0; i < l.doubtful.len; i++)
			l.doubtful.at[i].compare = true;
		if (known)
			runs_in_map(&l.rest, known, &kept);
		runs_subtract(&l.rest, &kept, &unknown);
		runs_merge(&l.changed, &unknown, &changed);
		runs_merge(&changed, &l.doubtful, &here);
		runs_merge(&here, &kept, out);
	}
	vec_free(&l.changed);
	vec_free(&l.doubtful);
	vec_free(&l.rest);
	vec_free(&kept);
	vec_free(&unknown);
	vec_free(&changed);
	vec_free(&here);
	return r;
}
