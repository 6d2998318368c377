/* SPDX-License-Identifier: Apache-2.0 */
#include "image/messages.h"
#include "page/entries.h"

int entries_end(struct page_entries *e, struct err *err)
{
	PagemapEntry entry = PAGEMAP_ENTRY__INIT;

	if (e->open.pages == 0)
		return 0;
	entry.vaddr = e->open.start;
	entry.compat_nr_pages = (uint32_t)e->open.pages;
	entry.has_nr_pages = 1;
	entry.nr_pages = e->open.pages;
	entry.has_flags = 1;
	entry.flags = e->open.where;
	e->open.pages = 0;
	return image_put(e->writer, &entry.base, err);
}

int entries_add(struct page_entries *e, const struct page_run *run, struct err *err)
{
	struct page_run *open = &e->open;
	int r;

	if (open->pages > 0 && open->where == run->where && open->start + open->pages * PAGE_BYTES == run->start) {
		open->pages += run->pages;
		return 0;
	}
	r = entries_end(e, err);
	if (r == 0)
		*open = *run;
	return r;
}
