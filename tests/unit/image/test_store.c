/* SPDX-License-Identifier: Apache-2.0 */
/* What is written is read again; every name leads to its kind and back; failures are told with the image's name. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/own.h"
#include "core.pb-c.h"
#include "fdinfo.pb-c.h"
#include "fixture.h"
#include "image/walk.h"
#include "pagemap.pb-c.h"
#include "pipe-data.pb-c.h"
#include "stats.pb-c.h"

static void names_lead_to_kinds_and_back(void **state)
{
	const uint64_t ids[] = { 0, 1, 10, 0xdeadbeef, UINT64_MAX };
	static const char *const strangers[] = {
		"core-.img", "core-01.img", "core-1", "core-1.img.old", "core-+1.img", "core- 1.img", "core--1.img", "core-0x1.img",
		"core-99999999999999999999.img", "ghost-file-1A.img", "pages-x.img", ".img", "", "parent", "dump.log",
	};
	char name[IMAGE_NAME_MAX];
	enum image_kind kind;
	uint64_t id;

	(void)state;
	for (enum image_kind k = 0; k < IMAGE_KIND_COUNT; k++)
		for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
			image_file_name(k, ids[i], name);
			assert_true(image_parse_name(name, &kind, &id));
			assert_int_equal(kind, k);
			assert_true(id == (strchr(image_types[k].file, '*') ? ids[i] : 0));
		}
	for (size_t i = 0; i < ARRAY_LEN(strangers); i++)
		if (image_parse_name(strangers[i], &kind, &id))
			fail_msg("'%s' was taken for an image of kind %s", strangers[i], image_types[kind].name);
}

static void what_is_written_is_read(void **state)
{
	struct fixture *f = *state;
	own_store *store = NULL;
	own_message CoreEntry *core = NULL;
	own_reader *pipes = NULL, *files = NULL;
	char text[16];

	fixture_fill(f, true);
	assert_int_equal(fixture_read(f), 0);
	assert_int_equal(store_open_dir(f->dir, &store, &f->err), 0);
	assert_int_equal(IMAGE_READ_ONE(store, IMAGE_CORE, 12, core_entry, &core, &f->err), 1);
	assert_string_equal(core->tc->comm, "sleeper");
	assert_int_equal(core->ids->files_id, 2);
	assert_int_equal(IMAGE_READ_ONE(store, IMAGE_CORE, 13, core_entry, &core, &f->err), 0);

	assert_int_equal(image_open(store, IMAGE_PIPES_DATA, 0, &pipes, &f->err), 1);
	for (uint32_t i = 0; i < 3; i++) {
		own_message PipeDataEntry *pipe = NULL;

		assert_int_equal(IMAGE_GET(pipes, pipe_data_entry, &pipe, &f->err), 1);
		assert_int_equal(pipe->bytes, i * 5);
		assert_int_equal(image_get_raw(pipes, text, pipe->bytes, &f->err), 0);
		assert_memory_equal(text, "0123456789", pipe->bytes);
	}
	assert_int_equal(image_left(pipes), 0);

	assert_int_equal(image_open(store, IMAGE_FILES, 0, &files, &f->err), 1);
	for (uint32_t i = 0; i < 3; i++) {
		own_message FileEntry *file = NULL;

		assert_int_equal(IMAGE_GET(files, file_entry, &file, &f->err), 1);
		assert_true(file->efd->counter == UINT64_MAX - 1 - i);
		assert_true(file->efd->has_semaphore && file->efd->semaphore);
	}
}

/* Records and raw bytes around the size of the buffers, so that all paths meet. */
static void large_images_come_back(void **state)
{
	const size_t sizes[] = { 1, 60000, 65535, 65536, 65537, 5, 300000, 7, 65000, 1000 };
	struct fixture *f = *state;
	own_store *store = NULL;
	own_writer *w = NULL;
	own_reader *r = NULL;
	own_free uint8_t *bytes = malloc(300000), *back = malloc(300000);

	for (size_t i = 0; i < 300000; i++)
		bytes[i] = (uint8_t)(i * 7 + i / 251);
	assert_int_equal(store_create_dir(f->dir, &store, &f->err), 0);
	assert_int_equal(image_create(store, IMAGE_TTY_DATA, 0, &w, &f->err), 0);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		SiginfoEntry record = SIGINFO_ENTRY__INIT;

		record.siginfo = (ProtobufCBinaryData){ sizes[i], bytes };
		assert_int_equal(image_put(w, &record.base, &f->err), 0);
		assert_int_equal(image_put_raw(w, bytes, sizes[i], &f->err), 0);
	}
	assert_int_equal(image_finish(&w, &f->err), 0);
	assert_null(w);
	assert_int_equal(store_seal(store, &f->err), 0);
	store_close(TAKE_PTR(store));

	assert_int_equal(store_open_dir(f->dir, &store, &f->err), 0);
	assert_int_equal(image_open(store, IMAGE_TTY_DATA, 0, &r, &f->err), 1);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		own_message SiginfoEntry *record = NULL;

		assert_int_equal(IMAGE_GET(r, siginfo_entry, &record, &f->err), 1);
		assert_int_equal(record->siginfo.len, sizes[i]);
		assert_memory_equal(record->siginfo.data, bytes, sizes[i]);
		if (i % 2) {
			assert_int_equal(image_get_raw(r, back, sizes[i], &f->err), 0);
			assert_memory_equal(back, bytes, sizes[i]);
		} else {
			assert_int_equal(image_skip(r, sizes[i], &f->err), 0);
		}
	}
	assert_int_equal(image_left(r), 0);
}

static void stats_lie_outside_of_the_store(void **state)
{
	struct fixture *f = *state;
	own_writer *w = NULL;
	own_reader *r = NULL;
	own_message StatsEntry *back = NULL;
	own_store *store = NULL;
	StatsEntry stats = STATS_ENTRY__INIT;
	RestoreStatsEntry restore = RESTORE_STATS_ENTRY__INIT;

	restore.restore_time = 1234;
	stats.restore = &restore;
	fixture_fill(f, true);
	own_fd dir = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(image_create_at(dir, IMAGE_STATS_RESTORE, 0, &w, &f->err), 0);
	assert_int_equal(image_put(w, &stats.base, &f->err), 0);
	assert_int_equal(image_finish(&w, &f->err), 0);
	assert_int_equal(store_open_dir(f->dir, &store, &f->err), 0);
	assert_int_equal(image_open(store, IMAGE_STATS_RESTORE, 0, &r, &f->err), 1);
	assert_int_equal(IMAGE_GET(r, stats_entry, &back, &f->err), 1);
	assert_int_equal(back->restore->restore_time, 1234);
}

static void files_are_private_and_links_not_followed(void **state)
{
	struct fixture *f = *state;
	own_store *store = NULL;
	char path[128], target[128];
	struct stat st;

	snprintf(path, sizeof(path), "%s/pstree.img", f->dir);
	snprintf(target, sizeof(target), "%s/precious", f->dir);
	close(open(target, O_CREAT | O_WRONLY, 0644));
	assert_int_equal(truncate(target, 5), 0);
	assert_int_equal(symlink(target, path), 0);
	fixture_fill(f, true);
	assert_int_equal(stat(target, &st), 0);
	assert_int_equal(st.st_size, 5);
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(store_open_dir(f->dir, &store, &f->err), 0);
}

static void failures_name_the_image(void **state)
{
	struct fixture *f = *state;
	own_store *store = NULL;
	own_writer *w = NULL;
	char path[128];

	snprintf(path, sizeof(path), "%s/mm-1.img", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(store_create_dir(f->dir, &store, &f->err), 0);
	assert_int_equal(image_create(store, IMAGE_MM, 1, &w, &f->err), -EISDIR);
	assert_string_equal(f->err.text, "mm-1.img: replace: Is a directory");
	assert_int_equal(rmdir(path), 0);

	store_close(TAKE_PTR(store));
	snprintf(path, sizeof(path), "%s/none/here", f->dir);
	assert_int_equal(store_create_dir(path, &store, &f->err), -ENOENT);
	assert_int_equal(store_open_dir(path, &store, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.text, "none/here: open directory: No such file"));
}

static void a_full_disk_is_told(void **state)
{
	struct fixture *f = *state;
	own_store *store = NULL;
	own_writer *w = NULL;
	char path[128];
	int r;

	assert_int_equal(store_create_dir(f->dir, &store, &f->err), 0);
	assert_int_equal(image_create(store, IMAGE_TTY_DATA, 0, &w, &f->err), 0);
	snprintf(path, sizeof(path), "%s/tty-data.img", f->dir);
	/* what was opened becomes a disk without room */
	own_fd image = open(path, O_WRONLY | O_CLOEXEC), full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	for (int fd = 3; fd < 64; fd++) {
		struct stat a, b;

		if (fd != image && fstat(fd, &a) == 0 && fstat(image, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev)
			assert_true(dup3(full, fd, O_CLOEXEC) >= 0);
	}
	r = image_finish(&w, &f->err);
	assert_int_equal(r, -ENOSPC);
	assert_string_equal(f->err.text, "tty-data.img: write at byte 0: No space left on device");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_lead_to_kinds_and_back),
		cmocka_unit_test_setup_teardown(what_is_written_is_read, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(large_images_come_back, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(stats_lie_outside_of_the_store, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(files_are_private_and_links_not_followed, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(failures_name_the_image, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(a_full_disk_is_told, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
