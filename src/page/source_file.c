/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
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

static int file_read(struct page_source *src, const struct page_run *run, void *buf, struct err *err)
{
	struct source_file *s = (struct source_file *)src;
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
	if (s->next == s->map->pieces.len)
		return 0;
	p = &s->map->pieces.at[s->next++];
	*ret_run = (struct page_run){ .start = p->start, .pages = p->pages, .where = PAGE_HERE,
				      .from = p->offset, .part = p->file };
	return 1;
}

static int map_read(struct page_source *src, const struct page_run *run, void *buf, struct err *err)
{
	struct source_map *s = (struct source_map *)src;

	return read_at(s->map->files.at[run->part].fd, run->from, buf, run->pages * PAGE_BYTES, err);
}

void source_map_init(struct source_map *s, const struct page_map *map)
{
	static const struct page_source_ops ops = { map_next, map_read };

	*s = (struct source_map){ .base = { &ops }, .map = map };
}
