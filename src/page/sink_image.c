/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <unistd.h>

#include "image/messages.h"
#include "page/ends.h"

static int put_entry(struct sink_image *s, struct err *err)
{
	PagemapEntry e = PAGEMAP_ENTRY__INIT;

	if (s->open.pages == 0)
		return 0;
	e.vaddr = s->open.start;
	e.compat_nr_pages = (uint32_t)s->open.pages;
	e.has_nr_pages = 1;
	e.nr_pages = s->open.pages;
	e.has_flags = 1;
	e.flags = s->open.where;
	s->open.pages = 0;
	return image_put(s->writer, &e.base, err);
}

static void note(struct page_runs *placed, const struct page_run *run)
{
	struct page_run *last = placed->len > 0 ? &placed->at[placed->len - 1] : NULL;

	if (last && last->start + last->pages * PAGE_BYTES == run->start)
		last->pages += run->pages;
	else
		vec_push(placed, *run);
}

static int place(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err)
{
	struct sink_image *s = (struct sink_image *)sink;
	struct page_run *open = &s->open;

	if (open->pages > 0 && open->where == run->where && open->start + open->pages * PAGE_BYTES == run->start) {
		open->pages += run->pages;
	} else {
		int r = put_entry(s, err);

		if (r < 0)
			return r;
		*open = *run;
	}
	*ret_to = s->end;
	if (run->where & PAGE_HERE) {
		s->end += run->pages * PAGE_BYTES;
		if (s->placed)
			note(s->placed, run);
	}
	return 0;
}

static int put(struct page_sink *sink, const struct page_run *run, uint64_t to, const void *bytes, struct err *err)
{
	struct sink_image *s = (struct sink_image *)sink;
	size_t len = run->pages * PAGE_BYTES, done = 0;

	while (done < len) {
		ssize_t n = pwrite(s->pages_fd, (const char *)bytes + done, len - done, (off_t)(to + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_sys(err, "write pages");
		done += (size_t)n;
	}
	return 0;
}

int sink_image_open(struct sink_image *s, struct store *store, enum image_kind kind, uint64_t id,
		    uint32_t pages_id, int reserved_fd, struct err *err)
{
	static const struct page_sink_ops ops = { place, put };
	PagemapHead head = PAGEMAP_HEAD__INIT;
	int r;

	*s = (struct sink_image){ .base = { &ops }, .pages_fd = reserved_fd };
	head.pages_id = pages_id;
	r = image_create(store, kind, id, &s->writer, err);
	if (r == 0)
		r = image_put(s->writer, &head.base, err);
	if (r == 0)
		r = reserved_fd < 0 ? store_create_file(store, IMAGE_PAGES, pages_id, &s->pages_fd, err) :
				      store_name_file(store, IMAGE_PAGES, pages_id, reserved_fd, err);
	if (r < 0)
		sink_image_close(s, &(struct err){ 0 });
	return r < 0 ? r : 0;
}

int sink_image_close(struct sink_image *s, struct err *err)
{
	int r = 0;

	if (s->writer)
		r = put_entry(s, err);
	if (r == 0 && s->writer)
		r = image_finish(&s->writer, err);
	image_drop(s->writer);
	s->writer = NULL;
	/* what was reserved and not needed */
	if (r == 0 && s->pages_fd >= 0 && ftruncate(s->pages_fd, (off_t)s->end) < 0)
		r = err_sys(err, "cut the pages file");
	/* a file system may tell of a full disk as late as this */
	if (s->pages_fd >= 0 && close(s->pages_fd) < 0 && r == 0)
		r = err_sys(err, "write pages");
	s->pages_fd = -1;
	return r;
}
