/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/own.h"
#include "image/messages.h"
#include "page/ends.h"

#define COMPARE_PAGES 16u       /* on the stack */

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
	int r = entries_add(&s->entries, run, err);

	if (r < 0)
		return r;
	*ret_to = s->end;
	if (run->where & PAGE_HERE) {
		s->end += run->pages * PAGE_BYTES;
		if (!store_pages_follow(s->store))
			page_sums_grow(&s->sums, s->end / PAGE_BYTES);
		if (s->placed)
			note(s->placed, run);
	}
	return 0;
}

static int write_pages(const struct sink_image *s, uint64_t to, const void *bytes, uint64_t pages, struct err *err)
{
	size_t len = pages * PAGE_BYTES, done = 0;

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

/* Sums are taken while the bytes are in this core's cache. */
static int put(struct page_sink *sink, const struct page_run *run, uint64_t to, const void *bytes, struct err *err)
{
	struct sink_image *s = (struct sink_image *)sink;

	page_sums_set(&s->sums, to / PAGE_BYTES, bytes, run->pages);
	return write_pages(s, to, bytes, run->pages, err);
}

/* What is neighbours in the file goes by one call. */
static int put_many(struct page_sink *sink, const struct page_parcel *parcels, size_t count, struct err *err)
{
	struct sink_image *s = (struct sink_image *)sink;
	struct iovec from[IOV_MAX];
	size_t n = 0, len = 0, first = 0;
	int r = 0;

	for (size_t i = 0; i < count && n < IOV_MAX; i++) {
		if (!(parcels[i].run.where & PAGE_HERE))
			continue;
		if (n == 0)
			first = i;
		if (parcels[i].sums)
			page_sums_take(&s->sums, parcels[i].to / PAGE_BYTES, parcels[i].sums, parcels[i].run.pages);
		else
			page_sums_set(&s->sums, parcels[i].to / PAGE_BYTES, parcels[i].bytes, parcels[i].run.pages);
		from[n] = (struct iovec){ parcels[i].bytes, parcels[i].run.pages * PAGE_BYTES };
		len += from[n++].iov_len;
	}
	if (n > 1 && pwritev(s->pages_fd, from, (int)n, (off_t)parcels[first].to) == (ssize_t)len)
		return 0;
	for (size_t i = first; r == 0 && n > 0 && i < count; i++)       /* a part may fit: the next write says why */
		if (parcels[i].run.where & PAGE_HERE)
			r = write_pages(s, parcels[i].to, parcels[i].bytes, parcels[i].run.pages, err);
	return r;
}

/* The parent's sums don't matter here: what its file has not, or not any more, is written anew. */
static int compare_piece(const struct page_map *map, const struct page_piece *p, const struct page_parcel *parcel,
			 uint64_t page, uint64_t pages, struct err *err)
{
	uint8_t buf[COMPARE_PAGES * PAGE_BYTES];

	for (uint64_t done = 0, n; done < pages; done += n) {
		uint64_t at = p->offset + parcel->run.start + (page + done) * PAGE_BYTES - p->start;

		n = pages - done < COMPARE_PAGES ? pages - done : COMPARE_PAGES;
		if (pread(map->files.at[p->file].fd, buf, n * PAGE_BYTES, (off_t)at) != (ssize_t)(n * PAGE_BYTES))
			return err_sys(err, "read pages of the parent directory");
		for (uint64_t i = 0; i < n; i++) {
			uint64_t k = page + done + i;

			if (parcel->marks[k] == PAGE_MOVE &&
			    memcmp(buf + i * PAGE_BYTES, parcel->bytes + k * PAGE_BYTES, PAGE_BYTES) == 0)
				parcel->marks[k] = PAGE_SAME;
		}
	}
	return 0;
}

static int compare(struct page_sink *sink, const struct page_parcel *parcel, struct err *err)
{
	const struct page_map *map = ((struct sink_image *)sink)->parent;
	taddr start = parcel->run.start, end = start + parcel->run.pages * PAGE_BYTES;
	int r = 0;

	if (!map)
		return 0;
	for (size_t i = page_map_find(map, start); r == 0 && i < map->pieces.len && map->pieces.at[i].start < end; i++) {
		const struct page_piece *p = &map->pieces.at[i];
		taddr from = p->start > start ? p->start : start, to = p->start + p->pages * PAGE_BYTES;

		to = to < end ? to : end;
		r = compare_piece(map, p, parcel, (from - start) / PAGE_BYTES, (to - from) / PAGE_BYTES, err);
	}
	return r;
}

int sink_image_open(struct sink_image *s, struct store *store, enum image_kind kind, uint64_t id,
		    uint32_t pages_id, int reserved_fd, struct err *err)
{
	static const struct page_sink_ops ops = { place, put, put_many, compare };
	PagemapHead head = PAGEMAP_HEAD__INIT;
	int r;

	*s = (struct sink_image){ .base = { &ops }, .store = store, .pages_id = pages_id, .pages_fd = reserved_fd };
	head.pages_id = pages_id;
	r = image_create(store, kind, id, &s->entries.writer, err);
	if (r == 0)
		r = image_put(s->entries.writer, &head.base, err);
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

	if (s->entries.writer)
		r = entries_end(&s->entries, err);
	if (r == 0 && s->entries.writer && !store_pages_follow(s->store))
		r = page_sums_write(&s->sums, s->end / PAGE_BYTES, s->store, s->pages_id, err);
	if (r == 0 && s->entries.writer)
		r = image_finish(&s->entries.writer, err);
	image_drop(TAKE_PTR(s->entries.writer));
	page_sums_free(&s->sums);
	/* what was reserved and not needed */
	if (r == 0 && s->pages_fd >= 0 && ftruncate(s->pages_fd, (off_t)s->end) < 0)
		r = err_sys(err, "cut the pages file");
	/* a file system may tell of a full disk as late as this */
	if (s->pages_fd >= 0 && close(s->pages_fd) < 0 && r == 0)
		r = err_sys(err, "write pages");
	s->pages_fd = -1;
	return r;
}
