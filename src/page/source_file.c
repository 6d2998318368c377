/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "page/ends.h"

static int read_at(int fd, uint64_t from, void *buf, size_t len, struct err *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t got = pread(fd, (char *)buf + done, len - done, (off_t)(from + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_sys(err, "read pages at offset %llu", (unsigned long long)from);
		if (got == 0)
			return err_set(err, EBADMSG, "the pages end at offset %llu", (unsigned long long)from + done);
		done += (size_t)got;
	}
	return 0;
}

static int file_next(struct page_source *src, struct page_run *ret_run, struct err *err)
{
	struct source_file *s = (struct source_file *)src;

	(void)err;
	if (s->next == s->plan->len)
		return 0;
	*ret_run = s->plan->at[s->next++];
	return 1;
}

/*
 * Where the file ends within a page: the whole page as a mapping shows it, which may have been written behind the end.
 * Read as another task's memory: where somebody cuts the file meanwhile, that is an error and no signal.
 */
static int read_last(int fd, uint64_t from, void *buf, struct err *err)
{
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fd, (off_t)from);
	struct iovec to = { buf, PAGE_BYTES }, there = { page, PAGE_BYTES };
	int r = 0;

	if (page == MAP_FAILED)
		return err_sys(err, "map the last page");
	if (process_vm_readv(getpid(), &to, 1, &there, 1, 0) != PAGE_BYTES)
		r = err_set(err, EBUSY, "somebody changes the size of shared memory while it is read");
	munmap(page, PAGE_BYTES);
	return r;
}

static int read_whole(const struct source_file *s, const struct page_run *run, void *buf, struct err *err)
{
	size_t len = run->pages * PAGE_BYTES;
	struct stat st;
	int r;

	if (fstat(s->fd, &st) < 0)
		return err_sys(err, "ask for the size");
	if (run->from + len <= (uint64_t)st.st_size)
		return read_at(s->fd, run->from, buf, len, err);
	r = read_at(s->fd, run->from, buf, len - PAGE_BYTES, err);
	return r < 0 ? r : read_last(s->fd, run->from + len - PAGE_BYTES, (char *)buf + len - PAGE_BYTES, err);
}

/* Of what is cut meanwhile: page by page, and zeros where there is none any more. */
static int file_read(struct page_source *src, const struct page_run *run, void *buf, struct err *err)
{
	struct source_file *s = (struct source_file *)src;
	struct page_run one = *run;
	struct err first;
	int r = read_whole(s, run, buf, s->may_shrink ? &first : err);

	if (r == 0 || !s->may_shrink)
		return r;
	one.pages = 1;
	for (uint64_t i = 0; i < run->pages; i++, one.start += PAGE_BYTES, one.from += PAGE_BYTES)
		if (read_whole(s, &one, (char *)buf + i * PAGE_BYTES, &first) < 0)
			memset((char *)buf + i * PAGE_BYTES, 0, PAGE_BYTES);
	return 0;
}

void source_file_init(struct source_file *s, int fd, const struct page_runs *plan)
{
	static const struct page_source_ops ops = { file_next, file_read };

	*s = (struct source_file){ .base = { &ops }, .fd = fd, .plan = plan };
}

static int map_next(struct page_source *src, struct page_run *ret_run, struct err *err)
{
	struct source_map *s = (struct source_map *)src;
	const struct page_piece *p;

	(void)err;
	if (s->next == (s->plan ? s->plan->len : s->map->pieces.len))
		return 0;
	if (s->plan) {
		*ret_run = s->plan->at[s->next++];
		return 1;
	}
	p = &s->map->pieces.at[s->next++];
	*ret_run = (struct page_run){ .start = p->start, .pages = p->pages, .where = PAGE_HERE,
				      .from = p->offset, .part = p->file, .may_skip_zero = p->fresh, .compare = p->compare };
	return 1;
}

static int map_read(struct page_source *src, const struct page_run *run, void *buf, struct err *err)
{
	return page_map_read(((struct source_map *)src)->map, run->part, run->from, run->pages, buf, err);
}

static bool follows(const struct page_parcel *a, const struct page_parcel *b)
{
	size_t len = a->run.pages * PAGE_BYTES;

	return b->run.where & PAGE_HERE && a->run.part == b->run.part && a->run.from + len == b->run.from && a->bytes + len == b->bytes;
}

/* What has gaps in memory has none in the file: such runs are read, and their sums, by one call. */
static int map_read_many(struct page_source *src, struct page_parcel *parcels, size_t count, struct err *err)
{
	int r = 0;

	for (size_t i = 0, end; r == 0 && i < count; i = end) {
		struct page_run all = parcels[i].run;

		end = i + 1;
		if (!(all.where & PAGE_HERE))
			continue;
		for (; end < count && follows(&parcels[end - 1], &parcels[end]); end++)
			all.pages += parcels[end].run.pages;
		r = map_read(src, &all, parcels[i].bytes, err);
	}
	return r;
}

void source_map_init(struct source_map *s, const struct page_map *map)
{
	static const struct page_source_ops ops = { map_next, map_read, map_read_many };

	*s = (struct source_map){ .base = { &ops }, .map = map };
}
