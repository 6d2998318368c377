/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "core.pb-c.h"
#include "fdinfo.pb-c.h"
#include "fixture.h"
#include "ghost-file.pb-c.h"
#include "image/walk.h"
#include "inventory.pb-c.h"
#include "ipc-msg.pb-c.h"
#include "pagemap.pb-c.h"
#include "pipe-data.pb-c.h"
#include "pstree.pb-c.h"

const char *const fixture_images[] = {
	"ferry-checksums.img", "core-12.img", "fdinfo-2.img", "files.img", "ghost-file-1a.img", "ghost-file-1b.img",
	"ids-12.img", "inventory.img", "ipcns-msg-9.img", "pagemap-12.img", "pipes-data.img", "pstree.img", NULL,
};

int fixture_setup(void **state)
{
	struct fixture *f = mem_new(sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "%s/ferry-image-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(f->dir));
	*state = f;
	return 0;
}

int fixture_teardown(void **state)
{
	struct fixture *f = *state;
	own_dir *dir = opendir(f->dir);
	const struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(dir), entry->d_name, 0);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void must(struct fixture *f, int r)
{
	if (r < 0)
		fail_msg("%s", f->err.text);
}

static void put_core(struct fixture *f, struct store *store)
{
	CoreEntry core = CORE_ENTRY__INIT;
	TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;

	ids.vm_id = ids.files_id = 2;
	must(f, image_write_one(store, IMAGE_IDS, 12, &ids.base, &f->err));
	tc.task_state = 1;
	tc.comm = (char *)"sleeper";
	core.mtype = CORE_ENTRY__MARCH__X86_64;
	core.tc = &tc;
	core.ids = &ids;
	must(f, image_write_one(store, IMAGE_CORE, 12, &core.base, &f->err));
}

static void put_files(struct fixture *f, struct store *store)
{
	own_writer *fds = NULL, *files = NULL;

	must(f, image_create(store, IMAGE_FDINFO, 2, &fds, &f->err));
	must(f, image_create(store, IMAGE_FILES, 0, &files, &f->err));
	for (uint32_t i = 0; i < 3; i++) {
		FdinfoEntry fd = FDINFO_ENTRY__INIT;
		FileEntry file = FILE_ENTRY__INIT;
		FownEntry fown = FOWN_ENTRY__INIT;
		EventfdFileEntry efd = EVENTFD_FILE_ENTRY__INIT;

		fd.id = file.id = efd.id = i + 1;
		fd.fd = i;
		fd.type = file.type = FD_TYPES__EVENTFD;
		efd.counter = UINT64_MAX - 1 - i;
		efd.fown = &fown;
		efd.has_semaphore = efd.semaphore = true;
		file.efd = &efd;
		must(f, image_put(fds, &fd.base, &f->err));
		must(f, image_put(files, &file.base, &f->err));
	}
	must(f, image_finish(&fds, &f->err));
	must(f, image_finish(&files, &f->err));
}

static void put_pipes(struct fixture *f, struct store *store)
{
	own_writer *w = NULL;

	must(f, image_create(store, IMAGE_PIPES_DATA, 0, &w, &f->err));
	for (uint32_t i = 0; i < 3; i++) {
		PipeDataEntry pipe = PIPE_DATA_ENTRY__INIT;

		pipe.pipe_id = 70 + i;
		pipe.bytes = i * 5;
		must(f, image_put(w, &pipe.base, &f->err));
		must(f, image_put_raw(w, "0123456789", pipe.bytes, &f->err));
	}
	must(f, image_finish(&w, &f->err));
}

static void put_messages(struct fixture *f, struct store *store)
{
	own_writer *w = NULL;
	IpcMsgEntry queue = IPC_MSG_ENTRY__INIT;
	IpcDescEntry desc = IPC_DESC_ENTRY__INIT;
	IpcMsg msg = IPC_MSG__INIT;

	must(f, image_create(store, IMAGE_IPCNS_MSG, 9, &w, &f->err));
	queue.desc = &desc;
	queue.qnum = 2;
	msg.msize = 3;
	must(f, image_put(w, &queue.base, &f->err));
	for (int i = 0; i < 2; i++) {
		must(f, image_put(w, &msg.base, &f->err));
		must(f, image_put_raw(w, "abc\0\0\0\0", 8, &f->err));
	}
	must(f, image_finish(&w, &f->err));
}

/* a whole file, and one in chunks */
static void put_ghosts(struct fixture *f, struct store *store)
{
	own_writer *w = NULL;
	GhostFileEntry ghost = GHOST_FILE_ENTRY__INIT;
	GhostChunkEntry chunk = GHOST_CHUNK_ENTRY__INIT;

	must(f, image_create(store, IMAGE_GHOST_FILE, 0x1a, &w, &f->err));
	must(f, image_put(w, &ghost.base, &f->err));
	must(f, image_put_raw(w, "gone but not forgotten", 22, &f->err));
	must(f, image_finish(&w, &f->err));

	ghost.has_chunks = ghost.chunks = true;
	chunk.len = 4;
	chunk.off = 1 << 20;
	must(f, image_create(store, IMAGE_GHOST_FILE, 0x1b, &w, &f->err));
	must(f, image_put(w, &ghost.base, &f->err));
	must(f, image_put(w, &chunk.base, &f->err));
	must(f, image_put_raw(w, "gone", 4, &f->err));
	must(f, image_finish(&w, &f->err));
}

static void put_pagemap(struct fixture *f, struct store *store)
{
	own_writer *w = NULL;
	PagemapHead head = PAGEMAP_HEAD__INIT;
	PagemapEntry run = PAGEMAP_ENTRY__INIT;
	own_fd pages = -1;

	must(f, image_create(store, IMAGE_PAGEMAP, 12, &w, &f->err));
	head.pages_id = 1;
	run.vaddr = 0x7fff00000000;
	run.compat_nr_pages = 1;
	must(f, image_put(w, &head.base, &f->err));
	must(f, image_put(w, &run.base, &f->err));
	must(f, image_finish(&w, &f->err));
	must(f, store_create_file(store, IMAGE_PAGES, 1, &pages, &f->err));
	assert_int_equal(ftruncate(pages, 4096), 0);
}

void fixture_fill(struct fixture *f, bool sealed)
{
	own_store *store = NULL;
	own_writer *tree = NULL;
	uint32_t threads[] = { 12 };
	PstreeEntry task = PSTREE_ENTRY__INIT;
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;

	must(f, store_create_dir(f->dir, &store, &f->err));
	put_core(f, store);
	put_files(f, store);
	put_pipes(f, store);
	put_messages(f, store);
	put_ghosts(f, store);
	put_pagemap(f, store);
	task.pid = task.pgid = task.sid = 12;
	task.n_threads = 1;
	task.threads = threads;
	must(f, image_create(store, IMAGE_PSTREE, 0, &tree, &f->err));
	must(f, image_put(tree, &task.base, &f->err));
	must(f, image_finish(&tree, &f->err));
	inventory.img_version = 2;
	must(f, image_write_one(store, IMAGE_INVENTORY, 0, &inventory.base, &f->err));
	if (sealed)
		must(f, store_seal(store, &f->err));
}

static int pass_over(void *context, const ProtobufCMessage *record, bool child, uint64_t raw_bytes, struct err *err)
{
	(void)context, (void)record, (void)child, (void)raw_bytes, (void)err;
	return 0;
}

int fixture_read(struct fixture *f)
{
	own_store *store = NULL;
	enum image_kind kind;
	uint64_t id;
	int r = store_open_dir(f->dir, &store, &f->err);

	for (size_t i = 1; r >= 0 && fixture_images[i]; i++) {
		own_reader *reader = NULL;

		assert_true(image_parse_name(fixture_images[i], &kind, &id));
		r = image_open(store, kind, id, &reader, &f->err);
		if (r > 0)
			r = image_walk(reader, pass_over, NULL, &f->err);
	}
	return r;
}
