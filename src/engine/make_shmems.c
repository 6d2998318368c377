/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/restoring.h"
#include "page/ends.h"
#include "resource/shmem.h"

#define FILL_THREADS 2u

static uint64_t whole_pages(uint64_t size_bytes)
{
	return (size_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static uint64_t end_of(const struct page_map *map)
{
	const struct page_piece *last = map->pieces.len > 0 ? &map->pieces.at[map->pieces.len - 1] : NULL;

	return last ? last->start + last->pages * PAGE_BYTES : 0;
}

/*
 * Whole pages were written, which made it longer.  To cut it clears the rest of
 * its last page, which mappings show too: that comes back through a mapping.
 */
static int cut(const struct shmem *o, int fd, struct err *err)
{
	size_t len = o->size_bytes % PAGE_BYTES;
	uint8_t rest[PAGE_BYTES];
	uint8_t *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(o->size_bytes - len));
	int done = 0;

	if (page == MAP_FAILED)
		return err_sys(err, "map its last page");
	memcpy(rest, page + len, PAGE_BYTES - len);
	if (ftruncate(fd, (off_t)o->size_bytes) < 0)
		done = err_sys(err, "cut it to %llu bytes", (unsigned long long)o->size_bytes);
	else
		memcpy(page + len, rest, PAGE_BYTES - len);
	munmap(page, PAGE_BYTES);
	return done;
}

static int fill(struct restoring *r, const struct shmem *o, const struct page_map *map, int fd, struct err *err)
{
	struct page_count count = { .meter = &r->meter };
	union page_origin src;
	struct sink_file sink;
	int done;

	if (end_of(map) > whole_pages(o->size_bytes))
		return err_set(err, EBADMSG, "pages beyond its end");
	sink_file_init(&sink, fd);
	done = page_pump(restoring_source(r, map, &src), &sink.base, FILL_THREADS, &count, err);
	r->result.pages_restored += count.here;
	return done == 0 && end_of(map) > o->size_bytes ? cut(o, fd, err) : done;
}

static bool is_written(const struct snapshot *s, const struct shmem *o)
{
	for (size_t i = 0; i < s->files.len; i++) {
		const struct file *f = &s->files.at[i];

		if (f->used && memfd_inode_of(f) == o->inode_id && ((f->flags & O_ACCMODE) != O_RDONLY || f->written))
			return true;
	}
	return false;
}

/* Nobody writes to it any more, nor does ferry: what is open for writing can't be the program of a task. */
static int finish_early(const struct shmem *o, int *fd, struct err *err)
{
	own_fd again = -1;
	int done = shmem_seal(o, *fd, err);

	if (done == 0)
		done = shmem_open(*fd, O_RDONLY, &again, err);
	if (done == 0) {
		close(*fd);
		*fd = TAKE_FD(again);
	}
	return done;
}

/* 1: *ret_fd is what was made of it before, and has its size now; 0: nothing was. */
static int take_over(struct restoring *r, const struct shmem *o, int *ret_fd, struct err *err)
{
	struct restoring *b = r->before;

	for (size_t i = 0; b && i < b->snapshot.shmems.len; i++) {
		const struct shmem *was = &b->snapshot.shmems.at[i];

		if (was->id != o->id || b->maker.shmems.at[i] < 0)
			continue;
		*ret_fd = TAKE_FD(b->maker.shmems.at[i]);
		if (was->size_bytes != o->size_bytes && ftruncate(*ret_fd, (off_t)o->size_bytes) < 0)
			return err_sys(err, "change its size");
		return 1;
	}
	return 0;
}

static int make_one(struct restoring *r, size_t index, struct err *err)
{
	const struct shmem *o = &r->snapshot.shmems.at[index];
	struct page_map map = { 0 };
	own_fd fd = -1;
	int done;

	LOG_SCOPE("shared memory %llu", (unsigned long long)o->id);
	done = take_over(r, o, &fd, err);
	if (done == 0)
		done = shmem_make(o, &fd, err);
	if (done >= 0)
		done = page_map_load(r->store, IMAGE_PAGEMAP_SHMEM, o->id, &map, err);
	if (done >= 0)
		done = fill(r, o, &map, fd, err);
	page_map_free(&map);
	if (done == 0 && o->name && !r->staged && !is_written(&r->snapshot, o))
		done = finish_early(o, &fd, err);
	if (done == 0)
		done = lift_fd(r, &fd, err);
	if (done == 0)
		r->maker.shmems.at[index] = TAKE_FD(fd);
	return done;
}

int make_shmems(struct restoring *r, struct err *err)
{
	const struct snapshot *s = &r->snapshot;
	int done = 0;

	for (size_t i = 0; i < s->shmems.len; i++)
		vec_push(&r->maker.shmems, -1);
	for (size_t i = 0, next; done == 0 && i < s->shmems.len; i++) {
		next = SIZE_MAX;        /* by their ids: a stream has them in that order */
		for (size_t k = 0; k < s->shmems.len; k++)
			if (r->maker.shmems.at[k] < 0 && (next == SIZE_MAX || s->shmems.at[k].id < s->shmems.at[next].id))
				next = k;
		done = make_one(r, next, err);
	}
	return done;
}

/* Pages that came one by one, whole, have made it longer. */
static int settle(const struct shmem *o, int fd, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, "ask for its size");
	if ((uint64_t)st.st_size <= o->size_bytes)
		return 0;
	if (o->size_bytes % PAGE_BYTES)
		return cut(o, fd, err);
	return ftruncate(fd, (off_t)o->size_bytes) < 0 ? err_sys(err, "cut it") : 0;
}

int seal_shmems(struct restoring *r, struct err *err)
{
	int done = 0;

	for (size_t i = 0; done == 0 && i < r->snapshot.shmems.len; i++) {
		const struct shmem *o = &r->snapshot.shmems.at[i];

		LOG_SCOPE("shared memory %llu", (unsigned long long)o->id);
		if (r->staged)
			done = settle(o, r->maker.shmems.at[i], err);
		if (done == 0 && o->name && (r->staged || is_written(&r->snapshot, o)))
			done = shmem_seal(o, r->maker.shmems.at[i], err);
	}
	return done;
}
