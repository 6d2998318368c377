/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/proc.h"
#include "kernel/uffd.h"
#include "page/aside.h"

#define BATCH     32u           /* pages, on the stack */
#define ROOM      (32ull << 20)         /* bytes in memory: a file may keep us waiting, and with us the program */
#define SPILL_AT  (8ull << 20)  /* from there on what is older goes into the file */
#define SPILL     (1ull << 20)  /* bytes at a time; ROOM is a multiple */
#define CAP_FIRST 256u          /* blocks; always a power of two */
#define BLOCK_BYTES (PAGE_BYTES * ARRAY_LEN(((struct aside_block *)0)->at))

/* ---- the table ---- */

static size_t hash(taddr base, size_t cap)
{
	return (size_t)((base / BLOCK_BYTES) * 0x9e3779b97f4a7c15ull >> 32) & (cap - 1);
}

/* Where a block is, or would be. */
static struct aside_block **block_of(const struct aside *a, taddr page)
{
	taddr base = page / BLOCK_BYTES * BLOCK_BYTES;
	size_t i = hash(base, a->cap);

	while (a->blocks[i] && a->blocks[i]->base != base)
		i = (i + 1) & (a->cap - 1);
	return &a->blocks[i];
}

static void grow(struct aside *a)
{
	struct aside_block **old = a->blocks;
	size_t cap = a->cap;

	a->cap = cap ? cap * 2 : CAP_FIRST;
	a->blocks = mem_new(a->cap * sizeof(*a->blocks));
	for (size_t i = 0; i < cap; i++)
		if (old[i])
			*block_of(a, old[i]->base) = old[i];
	free(old);
}

/* Where a page's offset (and one) is kept; NULL: nowhere yet. */
static uint64_t *slot_of(const struct aside *a, taddr page)
{
	struct aside_block *b = *block_of(a, page);

	return b ? &b->at[page % BLOCK_BYTES / PAGE_BYTES] : NULL;
}

static uint64_t *new_slot(struct aside *a, taddr page)
{
	struct aside_block **b = block_of(a, page);

	if (!*b) {
		if (a->len++ >= a->cap / 2) {
			grow(a);
			b = block_of(a, page);
		}
		*b = mem_new(sizeof(**b));
		(*b)->base = page / BLOCK_BYTES * BLOCK_BYTES;
	}
	return &(*b)->at[page % BLOCK_BYTES / PAGE_BYTES];
}

static bool has(struct aside *a, taddr page)
{
	const uint64_t *slot;
	bool found;

	pthread_mutex_lock(&a->lock);
	slot = slot_of(a, page);
	found = slot && *slot;
	pthread_mutex_unlock(&a->lock);
	return found;
}

/* ---- memory, and what is older in the file ---- */

static uint8_t *room_of(const struct aside *a, uint64_t at)
{
	return a->room + at % ROOM;
}

static void fail(struct aside *a, int r, const struct err *err)
{
	pthread_mutex_lock(&a->lock);
	if (!a->failed) {
		a->failed = r;
		a->why = *err;
	}
	pthread_cond_broadcast(&a->news);
	pthread_mutex_unlock(&a->lock);
}

static int spill_some(struct aside *a, uint64_t from, struct err *err)
{
	for (uint64_t done = 0; done < SPILL;) {
		ssize_t n = pwrite(a->file, room_of(a, from) + done, SPILL - done, (off_t)(from + done));

		if (n <= 0)
			return err_sys(err, "put pages aside");
		done += (uint64_t)n;
	}
	return 0;
}

static void *spill(void *arg)
{
	struct aside *a = arg;

	pthread_mutex_lock(&a->lock);
	while (!a->quit && !a->failed) {
		uint64_t from = a->spilled;
		struct err err;
		int r;

		if (a->end - from < SPILL_AT) {
			pthread_cond_wait(&a->news, &a->lock);
			continue;
		}
		pthread_mutex_unlock(&a->lock);
		r = spill_some(a, from, &err);
		if (r < 0)
			fail(a, r, &err);
		pthread_mutex_lock(&a->lock);
		a->spilled += SPILL;
		pthread_cond_broadcast(&a->news);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

/* Until there is room for so many bytes in one piece; they count when they are there. */
static uint64_t find_room(struct aside *a, size_t len_bytes)
{
	uint64_t at;

	pthread_mutex_lock(&a->lock);
	at = a->end;
	if (at % ROOM + len_bytes > ROOM)
		at += ROOM - at % ROOM;
	while (at + len_bytes - a->spilled > ROOM && !a->failed)
		pthread_cond_wait(&a->news, &a->lock);
	pthread_mutex_unlock(&a->lock);
	return at;
}

static int take(struct aside *a, uint64_t at, uint8_t *page, struct err *err)
{
	bool here;

	pthread_mutex_lock(&a->lock);
	here = at >= a->spilled;
	if (here)
		memcpy(page, room_of(a, at), PAGE_BYTES);
	pthread_mutex_unlock(&a->lock);
	if (!here && pread(a->file, page, PAGE_BYTES, (off_t)at) != (ssize_t)PAGE_BYTES)
		return err_sys(err, "read a page that was put aside");
	return 0;
}

/* ---- putting ---- */

static void note(struct aside *a, taddr start, uint64_t pages, uint64_t at)
{
	pthread_mutex_lock(&a->lock);
	for (uint64_t i = 0; i < pages; i++) {
		uint64_t *slot = new_slot(a, start + i * PAGE_BYTES);

		if (*slot == 0)         /* else somebody was faster, and it may have changed since */
			*slot = at + i * PAGE_BYTES + 1;
	}
	a->end = at + pages * PAGE_BYTES;
	if (a->end - a->spilled >= SPILL_AT) {
		a->spills = a->spills || pthread_create(&a->spiller, NULL, spill, a) == 0;
		if (!a->spills && a->failed == 0)       /* else who waits for room would wait for nobody */
			a->failed = EAGAIN;
		pthread_cond_broadcast(&a->news);
	}
	pthread_mutex_unlock(&a->lock);
}

static int copy(struct aside *a, taddr start, uint64_t pages, uint64_t at, struct err *err)
{
	size_t len = pages * PAGE_BYTES;
	struct iovec here = { room_of(a, at), len }, there = { (void *)(uintptr_t)start, len };

	if (process_vm_readv(a->pid, &here, 1, &there, 1, 0) != (ssize_t)len &&
	    pread(a->mem_fd, here.iov_base, len, (off_t)start) != (ssize_t)len)
		return err_sys(err, "read %zu bytes at %#llx", len, (unsigned long long)start);
	return 0;
}

void aside_put(struct aside *a, taddr start, uint64_t pages)
{
	pthread_mutex_lock(&a->putting);
	for (uint64_t i = 0, n; i < pages; i += n) {
		taddr from = start + i * PAGE_BYTES;
		struct err err;
		uint64_t at;
		int r;

		n = pages - i < BATCH ? pages - i : BATCH;
		if (n == 1 && has(a, from))
			continue;
		at = find_room(a, n * PAGE_BYTES);
		r = copy(a, from, n, at, &err);
		if (r < 0)
			fail(a, r, &err);
		else
			note(a, from, n, at);
	}
	pthread_mutex_unlock(&a->putting);
}

/* ---- taking ---- */

static int compare_blocks(const void *a, const void *b)
{
	taddr x = (*(struct aside_block *const *)a)->base, y = (*(struct aside_block *const *)b)->base;

	return x < y ? -1 : x > y;
}

static void list_block(const struct aside_block *b, struct page_runs *out)
{
	for (size_t i = 0; i < ARRAY_LEN(b->at); i++)
		if (b->at[i])
			runs_add(out, b->base + i * PAGE_BYTES, b->base + (i + 1) * PAGE_BYTES, PAGE_HERE);
}

void aside_list(struct aside *a, struct page_runs *out)
{
	own_free struct aside_block **sorted = NULL;
	size_t n = 0;

	pthread_mutex_lock(&a->lock);
	sorted = mem_new((a->len + 1) * sizeof(*sorted));
	for (size_t i = 0; i < a->cap; i++)
		if (a->blocks[i])
			sorted[n++] = a->blocks[i];
	pthread_mutex_unlock(&a->lock);
	qsort(sorted, n, sizeof(*sorted), compare_blocks);
	for (size_t i = 0; i < n; i++) {
		pthread_mutex_lock(&a->lock);
		list_block(sorted[i], out);
		pthread_mutex_unlock(&a->lock);
	}
}

int aside_failed(struct aside *a, struct err *err)
{
	int r;

	pthread_mutex_lock(&a->lock);
	r = a->failed;
	if (r < 0)
		*err = a->why;
	pthread_mutex_unlock(&a->lock);
	return r;
}

/* After the read: what was put aside by now is what it was. */
static int mend(struct aside *a, struct page_parcel *parcel, struct err *err)
{
	uint64_t at[PUMP_CHUNK];
	int r;

	pthread_mutex_lock(&a->lock);
	for (uint64_t i = 0; i < parcel->run.pages; i++) {
		const uint64_t *slot = slot_of(a, parcel->run.start + i * PAGE_BYTES);

		at[i] = slot && *slot ? *slot - 1 : UINT64_MAX;
	}
	pthread_mutex_unlock(&a->lock);
	for (uint64_t i = 0; i < parcel->run.pages; i++) {
		if (at[i] == UINT64_MAX && parcel->marks[i] == PAGE_LOST)
			return err_set(err, EIO, "the page at %#llx is gone before it was copied",
				       (unsigned long long)parcel->run.start + i * PAGE_BYTES);
		if (at[i] == UINT64_MAX)
			continue;
		r = take(a, at[i], parcel->bytes + i * PAGE_BYTES, err);
		if (r < 0)
			return r;
		parcel->marks[i] = PAGE_MOVE;
	}
	return 0;
}

/* ---- the source ---- */

static int next_run(struct page_source *src, struct page_run *ret_run, struct err *err)
{
	struct source_past *s = (struct source_past *)src;

	return s->task.base.ops->next(&s->task.base, ret_run, err);
}

static int read_many(struct page_source *src, struct page_parcel *parcels, size_t count, struct err *err)
{
	struct source_past *s = (struct source_past *)src;
	int r = s->task.base.ops->read_many(&s->task.base, parcels, count, err);

	for (size_t i = 0; r == 0 && i < count; i++) {
		const struct page_run *run = &parcels[i].run;

		if (!(run->where & PAGE_HERE))
			continue;
		r = mend(s->aside, &parcels[i], err);
		if (r == 0 && s->uffd >= 0)
			uffd_unprotect(s->uffd, run->start, run->pages * PAGE_BYTES);
	}
	return r < 0 ? r : aside_failed(s->aside, err);
}

void source_past_init(struct source_past *s, struct aside *a, const struct page_runs *plan, int uffd)
{
	static const struct page_source_ops ops = { .next = next_run, .read_many = read_many };

	*s = (struct source_past){ .base = { &ops }, .aside = a, .uffd = uffd };
	source_task_init(&s->task, a->pid, a->mem_fd, plan);
}

/* ---- life ---- */

/* The one who waits for the lock may have a program waiting: whoever has it then runs as soon as he would. */
static void init_lock(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
}

int aside_init(struct aside *a, pid_t pid, int dirfd, struct err *err)
{
	int r;

	*a = (struct aside){ .pid = pid, .mem_fd = -1, .file = -1, .room = MAP_FAILED };
	init_lock(&a->lock);
	init_lock(&a->putting);
	pthread_cond_init(&a->news, NULL);
	grow(a);
	r = proc_open_file(pid, "mem", O_RDONLY, &a->mem_fd, err);
	if (r < 0)
		return r;
	a->file = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (a->file < 0)        /* not every file system has it */
		a->file = memfd_create("aside", MFD_CLOEXEC);
	a->room = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (a->file < 0 || a->room == MAP_FAILED)
		return err_sys(err, "make room for pages put aside");
	return 0;
}

void aside_free(struct aside *a)
{
	if (a->spills) {
		pthread_mutex_lock(&a->lock);
		a->quit = true;
		pthread_cond_broadcast(&a->news);
		pthread_mutex_unlock(&a->lock);
		pthread_join(a->spiller, NULL);
	}
	own_fd_drop(&a->mem_fd);
	own_fd_drop(&a->file);
	if (a->room != MAP_FAILED)
		munmap(a->room, ROOM);
	for (size_t i = 0; i < a->cap; i++)
		free(a->blocks[i]);
	free(TAKE_PTR(a->blocks));
	a->cap = a->len = 0;
	pthread_mutex_destroy(&a->lock);
	pthread_mutex_destroy(&a->putting);
	pthread_cond_destroy(&a->news);
}
