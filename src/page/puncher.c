/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "page/puncher.h"

void puncher_need(struct puncher *p, const struct page_map *map)
{
	for (size_t i = 0; i < map->pieces.len; i++) {
		const struct page_piece *piece = &map->pieces.at[i];
		const struct page_file *f = &map->files.at[piece->file];

		vec_push(&p->needed, ((struct puncher_range){ f->dev, f->ino, piece->offset,
							      piece->offset + piece->pages * PAGE_BYTES }));
	}
}

static int by_file(const struct puncher_range *a, dev_t dev, ino_t ino)
{
	if (a->dev != dev)
		return a->dev < dev ? -1 : 1;
	return a->ino < ino ? -1 : a->ino > ino;
}

static int by_place(const void *a, const void *b)
{
	const struct puncher_range *x = a, *y = b;
	int order = by_file(x, y->dev, y->ino);

	return order ? order : x->start < y->start ? -1 : x->start > y->start;
}

/* What overlaps or touches becomes one. */
void puncher_sort(struct puncher *p)
{
	size_t n = 0;

	if (p->needed.len > 1)
		qsort(p->needed.at, p->needed.len, sizeof(*p->needed.at), by_place);
	for (size_t i = 0; i < p->needed.len; i++) {
		const struct puncher_range *next = &p->needed.at[i];
		struct puncher_range *last = n > 0 ? &p->needed.at[n - 1] : NULL;

		if (!last || by_file(last, next->dev, next->ino) != 0 || next->start > last->end)
			p->needed.at[n++] = *next;
		else if (next->end > last->end)
			last->end = next->end;
	}
	p->needed.len = n;
}

void puncher_free(struct puncher *p)
{
	vec_free(&p->needed);
}

/* The first range of the file that ends behind `at`, or what follows the file's. */
static size_t first_behind(const struct puncher *p, dev_t dev, ino_t ino, uint64_t at)
{
	size_t low = 0, high = p->needed.len;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int order = by_file(&p->needed.at[mid], dev, ino);

		if (order < 0 || (order == 0 && p->needed.at[mid].end <= at))
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool puncher_needs(const struct puncher *p, dev_t dev, ino_t ino, uint64_t at)
{
	size_t i = first_behind(p, dev, ino, at);

	return i < p->needed.len && by_file(&p->needed.at[i], dev, ino) == 0 && p->needed.at[i].start <= at;
}

static int punch(int fd, uint64_t start, uint64_t end, struct err *err)
{
	int r;

	do
		r = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start, (off_t)(end - start));
	while (r < 0 && errno == EINTR);
	return r < 0 ? err_sys(err, "make a hole in a pages file") : 0;
}

/* Data between two needed ranges; holes are left alone, so that nothing is said to go that is gone. */
static int walk_gap(int fd, uint64_t start, uint64_t end, bool go, uint64_t *bytes, struct err *err)
{
	int r = 0;

	while (r == 0 && start < end) {
		off_t data = lseek(fd, (off_t)start, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0 || ((uint64_t)data < end && (hole = lseek(fd, data, SEEK_HOLE)) < 0))
			return err_sys(err, "look for holes in a pages file");
		if ((uint64_t)data >= end)
			return 0;
		start = (uint64_t)hole < end ? (uint64_t)hole : end;
		*bytes += start - (uint64_t)data;
		if (go)
			r = punch(fd, (uint64_t)data, start, err);
	}
	return r;
}

static int walk(const struct puncher *p, int fd, bool go, uint64_t *ret_bytes, struct err *err)
{
	uint64_t at = 0, bytes = 0;
	struct stat st;
	int r = 0;

	if (fstat(fd, &st) < 0)
		return err_sys(err, "stat a pages file");
	for (size_t i = first_behind(p, st.st_dev, st.st_ino, 0); r == 0 && i < p->needed.len &&
	     by_file(&p->needed.at[i], st.st_dev, st.st_ino) == 0; i++) {
		r = walk_gap(fd, at, p->needed.at[i].start, go, &bytes, err);
		at = p->needed.at[i].end;
	}
	if (r == 0)
		r = walk_gap(fd, at, (uint64_t)st.st_size, go, &bytes, err);
	if (r == 0)
		*ret_bytes = bytes;
	return r;
}

int puncher_look(const struct puncher *p, int fd, uint64_t *ret_bytes, struct err *err)
{
	return walk(p, fd, false, ret_bytes, err);
}

int puncher_punch(const struct puncher *p, int fd, struct err *err)
{
	uint64_t bytes;

	return walk(p, fd, true, &bytes, err);
}

/* Behind its end there is nothing to lose. */
int puncher_try(int fd, struct err *err)
{
	struct stat st;
	uint64_t behind;

	if (fstat(fd, &st) < 0)
		return err_sys(err, "stat a pages file");
	behind = ((uint64_t)st.st_size / PAGE_BYTES + 1) * PAGE_BYTES;
	return punch(fd, behind, behind + PAGE_BYTES, err);
}
