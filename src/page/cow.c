/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "image/link.h"
#include "image/messages.h"
#include "page/cow.h"

int cow_open(struct cow_dir *d, struct err *err)
{
	char path[64];

	if (d->cow)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d/" COW_DIR, store_dirfd(d->store));
	return store_create_dir(path, &d->cow, err);
}

static int put_map(struct cow_dir *d, uint64_t borrower, uint32_t pages_id, const struct page_runs *pages, struct err *err)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	own_writer *w = NULL;
	int r;

	head.pages_id = pages_id;
	r = image_create(d->cow, IMAGE_PAGEMAP, borrower, &w, err);
	if (r == 0)
		r = image_put(w, &head.base, err);
	for (size_t i = 0; r == 0 && i < pages->len; i++) {
		PagemapEntry e = PAGEMAP_ENTRY__INIT;

		e.vaddr = pages->at[i].start;
		e.compat_nr_pages = (uint32_t)pages->at[i].pages;
		e.has_nr_pages = e.has_flags = 1;
		e.nr_pages = pages->at[i].pages;
		e.flags = PAGE_HERE;
		r = image_put(w, &e.base, err);
	}
	return r < 0 ? r : image_finish(&w, err);
}

/* An earlier dump's link of that name would be taken for this one's. */
static int link_image(struct cow_dir *d, enum image_kind kind, uint32_t id, struct err *err)
{
	char name[IMAGE_NAME_MAX], target[IMAGE_NAME_MAX + 3];

	image_file_name(kind, id, name);
	if (unlinkat(store_dirfd(d->cow), name, 0) < 0 && errno != ENOENT)
		return err_sys(err, "remove the old " COW_DIR "/%s", name);
	if (linkat(store_dirfd(d->store), name, store_dirfd(d->cow), name, 0) == 0)
		return 0;
	snprintf(target, sizeof(target), "../%s", name);        /* a file system without hard links */
	return symlinkat(target, store_dirfd(d->cow), name) < 0 ? err_sys(err, "link %s into " COW_DIR, name) : 0;
}

int cow_lend(struct cow_dir *d, uint64_t borrower, uint32_t lender_pages_id, const struct page_runs *pages, struct err *err)
{
	int r = cow_open(d, err);

	if (r == 0)
		r = put_map(d, borrower, lender_pages_id, pages, err);
	if (r == 0)
		r = link_image(d, IMAGE_PAGES, lender_pages_id, err);
	if (r == 0 && !store_pages_follow(d->store))
		r = link_image(d, IMAGE_FERRY_PAGESUMS, lender_pages_id, err);
	return r;
}

int cow_lend_file(struct cow_dir *d, enum image_kind kind, uint32_t pages_id, struct err *err)
{
	int r = cow_open(d, err);

	return r < 0 ? r : link_image(d, kind, pages_id, err);
}

int cow_finish(struct cow_dir *d, struct err *err)
{
	int r;

	if (!d->cow)
		return 0;
	r = store_seal(d->cow, err);
	if (r == 0 && symlinkat(COW_DIR, store_dirfd(d->store), LINK_PARENT) < 0)
		r = err_sys(err, "link " LINK_PARENT " to " COW_DIR);
	return r;
}

void cow_free(struct cow_dir *d)
{
	store_close(d->cow);
	d->cow = NULL;
}
