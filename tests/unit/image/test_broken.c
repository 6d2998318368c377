/* SPDX-License-Identifier: Apache-2.0 */
/* Broken directories: with checksums each is refused, without them nothing worse than an error happens. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/own.h"
#include "cgroup.pb-c.h"
#include "fixture.h"
#include "image/walk.h"

static int open_image(const struct fixture *f, const char *name, int flags)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	fd = open(path, flags | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	return fd;
}

static void write_image(const struct fixture *f, const char *name, const void *bytes, size_t len_bytes)
{
	own_fd fd = open_image(f, name, O_WRONLY | O_CREAT | O_TRUNC);

	assert_int_equal(write(fd, bytes, len_bytes), len_bytes);
}

static void remove_image(const struct fixture *f, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	assert_int_equal(unlink(path), 0);
}

static size_t load_image(const struct fixture *f, const char *name, uint8_t *buf, size_t size)
{
	own_fd fd = open_image(f, name, O_RDONLY);
	ssize_t n = read(fd, buf, size);

	assert_true(n > 0 && (size_t)n < size);
	return (size_t)n;
}

/* `refused`: it must be, naming the image; else it may be, and only EBADMSG may be the reason. */
static void check_read(struct fixture *f, const char *name, const char *what, size_t at, bool refused)
{
	int r = fixture_read(f);

	if (r == -EBADMSG && strncmp(f->err.text, name, strlen(name)) == 0)
		return;
	if (r != 0 || refused)
		fail_msg("%s, %s at %zu: result %d, error '%s'", name, what, at, r, r ? f->err.text : "none");
}

static void break_every_way(struct fixture *f, const char *name, bool refused)
{
	static const uint8_t flips[] = { 0x01, 0x80, 0xff };
	uint8_t whole[4096], broken[4096];
	size_t len_bytes = load_image(f, name, whole, sizeof(whole));

	for (size_t len = 0; len < len_bytes; len++) {
		write_image(f, name, whole, len);
		check_read(f, name, "truncated", len, refused);
	}
	for (size_t i = 0; i < len_bytes; i++)
		for (size_t k = 0; k < ARRAY_LEN(flips); k++) {
			memcpy(broken, whole, len_bytes);
			broken[i] ^= flips[k];
			write_image(f, name, broken, len_bytes);
			check_read(f, name, "flipped", i, refused);
		}
	write_image(f, name, whole, len_bytes);
	assert_int_equal(fixture_read(f), 0);
}

static void with_checksums_all_is_refused(void **state)
{
	struct fixture *f = *state;

	fixture_fill(f, true);
	for (size_t i = 0; fixture_images[i]; i++)
		break_every_way(f, fixture_images[i], true);
}

static void without_checksums_nothing_worse_than_an_error(void **state)
{
	struct fixture *f = *state;

	fixture_fill(f, false);
	for (size_t i = 1; fixture_images[i]; i++)
		break_every_way(f, fixture_images[i], false);
}

static void missing_longer_and_strange_images_are_refused(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[4096];
	size_t n;

	fixture_fill(f, true);
	n = load_image(f, "core-12.img", bytes, sizeof(bytes));
	remove_image(f, "core-12.img");
	assert_int_equal(fixture_read(f), -EBADMSG);
	assert_string_equal(f->err.text, "core-12.img: is missing");
	write_image(f, "core-12.img", bytes, n + 1);
	assert_int_equal(fixture_read(f), -EBADMSG);
	assert_non_null(strstr(f->err.text, "core-12.img: longer than it was written"));
	write_image(f, "core-12.img", bytes, n);
	assert_int_equal(fixture_read(f), 0);

	write_image(f, "core-13.img", bytes, n);
	assert_int_equal(fixture_read(f), -EBADMSG);
	assert_string_equal(f->err.text, "core-13.img: is not from this dump (it has no checksum)");
	remove_image(f, "core-13.img");

	/* those may come from a page server, another command, or anybody */
	write_image(f, "pagemap-13.img", bytes, n);
	write_image(f, "pages-7.img", bytes, n);
	write_image(f, "stats-restore", bytes, n);
	write_image(f, "restore.log", bytes, n);
	assert_int_equal(fixture_read(f), 0);
}

static void an_earlier_dump_is_replaced(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	char path[128];

	fixture_fill(f, true);
	write_image(f, "core-13.img", "left", 4);
	write_image(f, "seccomp.img", "left", 4);
	write_image(f, "pages-13.img", "left", 4);
	write_image(f, "notes.txt", "left", 4);
	fixture_fill(f, true);
	assert_int_equal(fixture_read(f), 0);
	snprintf(path, sizeof(path), "%s/core-13.img", f->dir);
	assert_int_equal(stat(path, &st), -1);
	snprintf(path, sizeof(path), "%s/notes.txt", f->dir);
	assert_int_equal(stat(path, &st), 0);
	snprintf(path, sizeof(path), "%s/pages-13.img", f->dir);
	assert_int_equal(stat(path, &st), 0);
}

/* Sizes that a file does not have, and the bytes that come with them. */
static void sizes_are_not_believed(void **state)
{
	static const uint8_t header[] = { 0x19, 0x43, 0x56, 0x54, 0x09, 0x37, 0x45, 0x56 };
	static const struct { uint8_t bytes[20]; size_t n; const char *text; } cases[] = {
		{ { 0xff, 0xff, 0xff, 0xff }, 4, "says that it has 4294967295 bytes, the file has 0 left" },
		{ { 0, 0, 0, 0x80, 1, 2 }, 6, "says that it has 2147483648 bytes, the file has 2 left" },
		{ { 1, 0 }, 2, "4 bytes are wanted at byte 8, the file has 2 left" },
		{ { 4, 0, 0, 0, 1, 2, 3, 4 }, 8, "(4 bytes) is no pipe_data_entry" },
		{ { 8, 0, 0, 0, 8, 1, 0x10, 0xff, 0xff, 0xff, 0xff, 0x0f, 'x' }, 13,
		  "4294967295 bytes should follow byte 20, the file has 1 left" },
	};
	struct fixture *f = *state;

	fixture_fill(f, false);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint8_t image[64];

		memcpy(image, header, sizeof(header));
		memcpy(image + sizeof(header), cases[i].bytes, cases[i].n);
		write_image(f, "pipes-data.img", image, sizeof(header) + cases[i].n);
		assert_int_equal(fixture_read(f), -EBADMSG);
		if (!strstr(f->err.text, cases[i].text))
			fail_msg("case %zu: '%s'", i, f->err.text);
	}
}

/* A directory within a directory within ...: the decoder recurses, we don't let it. */
static void deep_nesting_is_refused(void **state)
{
	enum { DEPTH = 200000 };
	own_free uint8_t *bytes = malloc(DEPTH * 6);
	uint8_t *at = bytes + DEPTH * 6;
	ProtobufCMessage *m;

	(void)state;
	for (int i = 0; i < DEPTH; i++) {
		size_t inner = (size_t)(bytes + DEPTH * 6 - at);
		uint8_t varint[5];
		size_t n = 0;

		do {
			varint[n++] = (uint8_t)((inner & 0x7f) | (inner > 0x7f ? 0x80 : 0));
			inner >>= 7;
		} while (inner);
		at -= n;
		memcpy(at, varint, n);
		*--at = 0x12;   /* cgroup_dir_entry.children */
	}
	m = record_unpack(&cgroup_dir_entry__descriptor, at, (size_t)(bytes + DEPTH * 6 - at));
	assert_null(m);
}

/* 4 MiB of empty controllers would be 300 MiB of messages, were they let in; a few are a legal message. */
static void a_record_can_not_ask_for_all_memory(void **state)
{
	enum { COUNT = 2 << 20 };
	own_free uint8_t *bytes = malloc(COUNT * 2);

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		bytes[i * 2] = 0x12;    /* cgroup_entry.controllers */
		bytes[i * 2 + 1] = 0;
	}
	own_message ProtobufCMessage *few = record_unpack(&cgroup_entry__descriptor, bytes, 20);
	assert_non_null(few);
	assert_null(record_unpack(&cgroup_entry__descriptor, bytes, COUNT * 2));
}

static void what_is_no_file_is_refused(void **state)
{
	struct fixture *f = *state;
	char path[128];

	fixture_fill(f, false);
	remove_image(f, "pipes-data.img");
	snprintf(path, sizeof(path), "%s/pipes-data.img", f->dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(fixture_read(f), -EBADMSG);
	assert_string_equal(f->err.text, "pipes-data.img: not a regular file");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(with_checksums_all_is_refused, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(without_checksums_nothing_worse_than_an_error, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(missing_longer_and_strange_images_are_refused, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(an_earlier_dump_is_replaced, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(sizes_are_not_believed, fixture_setup, fixture_teardown),
		cmocka_unit_test(deep_nesting_is_refused),
		cmocka_unit_test(a_record_can_not_ask_for_all_memory),
		cmocka_unit_test_setup_teardown(what_is_no_file_is_refused, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests_name("broken", tests, NULL, NULL);
}
