/* SPDX-License-Identifier: Apache-2.0 */
/* A directory on one page; and nothing that is wrong with its images does worse than an error. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/own.h"
#include "fixture.h"
#include "front/json.h"
#include "front/summary.h"
#include "image/messages.h"

static void must(struct fixture *f, int r)
{
	if (r < 0)
		fail_msg("%s", f->err.text);
}

static void put_task(struct fixture *f, struct store *store, struct image_writer *tree, uint32_t pid, uint32_t ppid,
		     const char *comm, uint32_t state)
{
	uint32_t threads[] = { pid, pid + 100 };
	PstreeEntry task = PSTREE_ENTRY__INIT;
	CoreEntry core = CORE_ENTRY__INIT;
	TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;

	task.pid = pid;
	task.ppid = ppid;
	task.pgid = task.sid = 10;
	task.threads = threads;
	task.n_threads = state == 6 ? 1 : 2;
	must(f, image_put(tree, &task.base, &f->err));
	tc.task_state = state;
	tc.exit_code = 0x100;
	tc.comm = (char *)comm;
	core.tc = &tc;
	must(f, image_write_one(store, IMAGE_CORE, pid, &core.base, &f->err));
	ids.files_id = 2;
	if (state != 6)
		must(f, image_write_one(store, IMAGE_IDS, pid, &ids.base, &f->err));
}

static void put_tree(struct fixture *f, struct store *store)
{
	own_writer *tree = NULL;

	must(f, image_create(store, IMAGE_PSTREE, 0, &tree, &f->err));
	put_task(f, store, tree, 10, 1, "bash", 1);
	put_task(f, store, tree, 30, 10, "gone", 6);
	put_task(f, store, tree, 20, 10, "evil\033[2J", 3);
	put_task(f, store, tree, 40, 20, "leaf", 1);
	must(f, image_finish(&tree, &f->err));
}

static void put_memory(struct fixture *f, struct store *store)
{
	static const struct { uint32_t flags; uint64_t pages; } runs[] = { { 4, 2 }, { 1, 7 }, { 2, 3 }, { 4, 1 } };
	own_writer *w = NULL;
	own_fd pages = -1;
	PagemapHead head = PAGEMAP_HEAD__INIT;
	MmEntry mm = MM_ENTRY__INIT;
	VmaEntry vma = VMA_ENTRY__INIT, *vmas[] = { &vma };

	vma.start = 0x10000;
	vma.end = 0x20000;
	mm.vmas = vmas;
	mm.n_vmas = 1;
	must(f, image_write_one(store, IMAGE_MM, 10, &mm.base, &f->err));
	head.pages_id = 1;
	must(f, image_create(store, IMAGE_PAGEMAP, 10, &w, &f->err));
	must(f, image_put(w, &head.base, &f->err));
	for (size_t i = 0; i < ARRAY_LEN(runs); i++) {
		PagemapEntry run = PAGEMAP_ENTRY__INIT;

		run.has_flags = run.has_nr_pages = true;
		run.flags = runs[i].flags;
		run.nr_pages = runs[i].pages;
		must(f, image_put(w, &run.base, &f->err));
	}
	must(f, image_finish(&w, &f->err));
	must(f, store_create_file(store, IMAGE_PAGES, 1, &pages, &f->err));
	for (int i = 0; i < 3 * 4096; i += 16)
		assert_int_equal(write(pages, "0123456789abcdef", 16), 16);
}

static void put_file(struct fixture *f, struct image_writer *fds, struct image_writer *files, uint32_t n, FileEntry *file)
{
	FdinfoEntry fd = FDINFO_ENTRY__INIT;

	fd.id = file->id = n + 1;
	fd.fd = n;
	fd.type = file->type;
	fd.flags = n % 2 ? FD_CLOEXEC : 0;
	must(f, image_put(fds, &fd.base, &f->err));
	must(f, image_put(files, &file->base, &f->err));
}

static void put_files(struct fixture *f, struct store *store)
{
	own_writer *fds = NULL, *files = NULL;
	FownEntry fown = FOWN_ENTRY__INIT;
	SkOptsEntry opts = SK_OPTS_ENTRY__INIT;
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	PipeEntry pipe = PIPE_ENTRY__INIT;
	UnixSkEntry usk = UNIX_SK_ENTRY__INIT;
	InetSkEntry isk = INET_SK_ENTRY__INIT;
	EventpollFileEntry epoll = EVENTPOLL_FILE_ENTRY__INIT;
	EventpollTfdEntry target = EVENTPOLL_TFD_ENTRY__INIT, *targets[] = { &target, &target };
	FileEntry all[] = { FILE_ENTRY__INIT, FILE_ENTRY__INIT, FILE_ENTRY__INIT, FILE_ENTRY__INIT, FILE_ENTRY__INIT };
	uint32_t loopback[] = { htonl(0x7f000001) };

	reg.fown = pipe.fown = usk.fown = isk.fown = epoll.fown = &fown;
	usk.opts = isk.opts = &opts;
	reg.name = (char *)"/var/log/x\n";
	reg.flags = O_WRONLY | O_APPEND;
	reg.pos = 120;
	pipe.pipe_id = 7;
	usk.ino = 5;
	usk.type = SOCK_SEQPACKET;
	usk.state = 10;
	usk.name = (ProtobufCBinaryData){ 4, (uint8_t *)(uintptr_t)"\0abc" };
	isk.family = AF_INET;
	isk.proto = 6;
	isk.state = 10;
	isk.src_port = 80;
	isk.src_addr = loopback;
	isk.n_src_addr = 1;
	target.tfd = 3;
	epoll.tfd = targets;
	epoll.n_tfd = 2;
	all[0].type = FD_TYPES__REG, all[0].reg = &reg;
	all[1].type = FD_TYPES__PIPE, all[1].pipe = &pipe;
	all[2].type = FD_TYPES__UNIXSK, all[2].usk = &usk;
	all[3].type = FD_TYPES__INETSK, all[3].isk = &isk;
	all[4].type = FD_TYPES__EVENTPOLL, all[4].epfd = &epoll;
	must(f, image_create(store, IMAGE_FDINFO, 2, &fds, &f->err));
	must(f, image_create(store, IMAGE_FILES, 0, &files, &f->err));
	for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
		put_file(f, fds, files, i, &all[i]);
	must(f, image_finish(&fds, &f->err));
	must(f, image_finish(&files, &f->err));
}

static int summarize(struct fixture *f, FILE *out)
{
	own_store *store = NULL;
	int r = store_open_dir(f->dir, &store, &f->err);

	return r < 0 ? r : summary_print(store, out, &f->err);
}

static void a_directory_on_one_page(void **state)
{
	static const char wanted[] =
		"Images: 15, format 2, all match their checksums\n"
		"Tasks: 4, threads: 7\n"
		"  10 bash  alive, 2 threads, group 10, session 10\n"
		"    20 evil\\x1b[2J  stopped, 2 threads, group 10, session 10\n"
		"      40 leaf  alive, 2 threads, group 10, session 10\n"
		"    30 gone  zombie (status 0x100), 1 thread, group 10, session 10\n"
		"Memory\n"
		"  10 bash: 1 mapping of 64.0 KiB; 3 pages here (12.0 KiB), 7 in the parent, 3 lazy; pages-1.img\n"
		"Files: 5\n"
		"  table 2 of 10 20 40\n"
		"       0  reg        /var/log/x\\x0a, write, append, at 120\n"
		"       1  pipe       pipe 7, read, cloexec\n"
		"       2  unixsk     seqpacket, listening, inode 5, @abc\n"
		"       3  inetsk     tcp, listening, 127.0.0.1:80, cloexec\n"
		"       4  eventpoll  watches 2: 3, 3\n"
		"Chain: 1 link, 12.0 KiB on disk\n"
		"  this directory: dump; 3 pages here, 12.0 KiB on disk\n"
		"  /nowhere/at/all is MISSING\n"
		"Total: 3 pages here, 7 in the parent, 3 lazy; pages files 12.0 KiB, other images ";
	struct fixture *f = *state;
	own_store *store = NULL;
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	char *text = NULL;
	size_t size;

	must(f, store_create_dir(f->dir, &store, &f->err));
	put_tree(f, store);
	put_memory(f, store);
	put_files(f, store);
	inventory.img_version = 2;
	must(f, image_write_one(store, IMAGE_INVENTORY, 0, &inventory.base, &f->err));
	must(f, store_seal(store, &f->err));
	assert_int_equal(symlinkat("/nowhere/at/all", store_dirfd(store), "parent"), 0);

	FILE *out = open_memstream(&text, &size);
	must(f, summarize(f, out));
	fclose(out);
	if (strncmp(text, wanted, strlen(wanted)) != 0)
		fail_msg("the summary is\n%sand should be\n%s...", text, wanted);
	free(text);
}

/* Where both end: each byte of each image set to each of a few values. */
static void broken_images_are_told(void **state)
{
	static const uint8_t values[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
	struct fixture *f = *state;
	FILE *out = fopen("/dev/null", "w");

	fixture_fill(f, false);
	for (size_t i = 1; fixture_images[i]; i++) {
		char path[128];
		uint8_t byte;
		int r;

		snprintf(path, sizeof(path), "%s/%s", f->dir, fixture_images[i]);
		own_fd fd = open(path, O_RDWR | O_CLOEXEC);
		for (off_t at = 0; pread(fd, &byte, 1, at) == 1; at++) {
			for (size_t k = 0; k < ARRAY_LEN(values); k++) {
				assert_int_equal(pwrite(fd, &values[k], 1, at), 1);
				r = summarize(f, out);
				if (r == 0)
					r = image_print_json(path, out, &f->err);
				if (r != 0 && r != -EBADMSG)
					fail_msg("%s, byte %lld: %d, %s", path, (long long)at, r, f->err.text);
			}
			assert_int_equal(pwrite(fd, &byte, 1, at), 1);
		}
	}
	fclose(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_directory_on_one_page, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(broken_images_are_told, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests_name("summary", tests, NULL, NULL);
}
