/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_stream: streams as a restore reads them: images into memory, a snapshot of them, the pages of every task.
 *
 * The first byte of an input says what follows: 1, a stream as it is; else frames, each a type (1 byte), a length (3) and
 * bytes, which get the checksums that they must have: so what lies behind those is tried too.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/load.h"
#include "engine/new_dir.h"
#include "engine/stream_in.h"
#include "image/link.h"
#include "kernel/sys.h"
#include "page/ends.h"

enum { RAW = 1, FRAME_HEAD = 4, THREADS = 1 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A tmpfs that nobody else sees: to mount one for each input would be most of the work. */
static int memory = -1;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct err err;

	(void)argc, (void)argv;
	log_setup(open("/dev/null", O_WRONLY | O_CLOEXEC), LOG_ERROR);
	return sys_memory_dir(&memory, &err);
}

static struct store *make_store(void)
{
	int dir;

	if (mkdirat(memory, "images", 0700) < 0 || (dir = openat(memory, "images", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		abort();
	return store_create_in(dir);
}

/* Nothing but images and what links them: else this fails. */
static void remove_store(struct store *store)
{
	struct new_dir dir = { .path = "images", .store = store };

	new_dir_remove(&dir);
	new_dir_close(&dir);
	if (unlinkat(memory, "images", AT_REMOVEDIR) < 0)
		abort();
}

/* ---- what is read ---- */

static void put_frames(int fd, const uint8_t *data, size_t size)
{
	struct frame_out out;
	struct err err;
	int r = frame_out_begin(&out, fd, &err);

	while (r == 0 && size >= FRAME_HEAD) {
		size_t len = data[1] | (size_t)data[2] << 8 | (size_t)data[3] << 16;
		struct iovec part = { (void *)(uintptr_t)(data + FRAME_HEAD), len < size - FRAME_HEAD ? len : size - FRAME_HEAD };

		r = frame_put(&out, data[0] % (FRAME_SEAL + 1), &part, 1, &err);
		data += FRAME_HEAD + part.iov_len;
		size -= FRAME_HEAD + part.iov_len;
	}
	if (r == 0)
		frame_out_seal(&out, &err);
}

static int make_stream(const uint8_t *data, size_t size)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);

	if (size > 0 && data[0] == RAW)
		(void)!write(fd, data + 1, size - 1);
	else if (size > 0)
		put_frames(fd, data + 1, size - 1);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

/* ---- who reads it ---- */

static int place(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err)
{
	(void)sink, (void)run, (void)err;
	*ret_to = 0;
	return 0;
}

static int put(struct page_sink *sink, const struct page_run *run, uint64_t to, const void *bytes, struct err *err)
{
	uint8_t page[PAGE_BYTES];

	(void)sink, (void)to, (void)err;
	for (uint64_t i = 0; i < run->pages; i++)
		memcpy(page, (const uint8_t *)bytes + i * PAGE_BYTES, PAGE_BYTES);      /* all of them are there */
	return 0;
}

static int take_pages(struct stream_in *s, const struct page_map *map, struct err *err)
{
	static const struct page_sink_ops ops = { .place = place, .put = put };
	struct page_sink nowhere = { &ops };
	struct page_count count = { 0 };
	struct source_feed from;

	source_feed_init(&from, &s->feed, map);
	return page_pump(&from.base, &nowhere, THREADS, &count, err);
}

static int take_object(struct stream_in *s, uint64_t id, struct err *err)
{
	struct page_map map = { 0 };
	int r = page_map_load(s->store, IMAGE_PAGEMAP_SHMEM, id, &map, err);

	if (r > 0)
		r = take_pages(s, &map, err);
	page_map_free(&map);
	return r;
}

static int take_task(struct stream_in *s, const struct task *t, struct err *err)
{
	struct loaded_pages pages = { 0 };
	int r = load_pages(s->store, t, &pages, err);

	if (r == 0)
		r = take_pages(s, &pages.map, err);
	if (r == 0)
		r = load_check_vdso(t, &pages, stream_read, s, err);
	loaded_pages_free(&pages);
	return r;
}

static int take_all(struct stream_in *s, const struct snapshot *tree, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < tree->shmems.len; i++)
		r = take_object(s, tree->shmems.at[i].id, err);
	for (size_t i = 0; r == 0 && i < tree->tasks.len; i++)
		r = tree->tasks.at[i].state == TASK_ZOMBIE ? 0 : take_task(s, &tree->tasks.at[i], err);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int before = dup(STDIN_FILENO), after;
	struct snapshot tree = { 0 };
	struct stream_in stream;
	struct store *store;
	struct err err;
	int fd, r;

	close(before);
	fd = make_stream(data, size);
	store = make_store();
	r = stream_in_begin(&stream, fd, store, &err);
	if (r == 0)
		r = link_check_chain(store, &err);
	if (r >= 0)
		r = load_snapshot(store, &tree, &err);
	if (r == 0)
		(void)take_all(&stream, &tree, &err);
	if (r == 0)
		(void)stream_in_end(&stream, &err);
	snapshot_free(&tree);
	stream_in_free(&stream);
	remove_store(store);
	close(fd);
	after = dup(STDIN_FILENO);
	close(after);
	if (after != before)            /* a descriptor was left open */
		abort();
	return 0;
}
