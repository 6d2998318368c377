/* SPDX-License-Identifier: Apache-2.0 */
/* A directory as a link: where `parent` leads, what a chain may be, and that nothing of it is believed. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "box.h"
#include "image/link.h"

static struct link_id id_of(char letter)
{
	struct link_id id;

	memset(&id, letter, sizeof(id));
	return id;
}

/* A directory with an inventory, and an id where `id` is one; `parent_id` likewise. */
static struct store *put(struct box *b, const char *name, char id, char parent_id)
{
	struct store *store = box_create(b, name);
	struct image_link link = { .id = id_of(id), .has_parent_id = parent_id, .parent_id = id_of(parent_id) };
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;

	inventory.img_version = 2;
	OK(&b->err, image_write_one(store, IMAGE_INVENTORY, 0, &inventory.base, &b->err));
	if (id)
		OK(&b->err, link_write(store, &link, &b->err));
	return store;
}

static void make(struct box *b, const char *name, char id, char parent_id, const char *parent)
{
	own_store *store = put(b, name, id, parent_id);

	if (parent)
		box_parent(b, name, parent);
}

static int check(struct box *b, const char *name)
{
	own_store *store = box_open(b, name);

	return link_check_chain(store, &b->err);
}

static int set_parent(struct box *b, const char *name, const char *path)
{
	own_store *store = box_open(b, name);

	return link_set_parent(store, path, &b->err);
}

static void leads_to(struct box *b, const char *name, const char *wanted)
{
	own_free char *path = mem_fmt("%s/%s/" LINK_PARENT, b->dir, name);
	char target[256];
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	assert_true(n > 0);
	target[n] = 0;
	assert_string_equal(target, wanted);
	unlink(path);
}

/* ---- what is said ---- */

static void everything_comes_back(void **state)
{
	struct box *b = *state;
	const struct image_link said = { .id = id_of('x'), .has_parent_id = true, .parent_id = id_of('y'), .memory_only = true,
					 .root = 77, .start_ticks = 1ull << 40, .boot_id = "a-boot", .tracker = "soft-dirty" };
	struct image_link got;
	own_store *store = box_create(b, "a");

	assert_int_equal(link_read(store, &got, &b->err), 0);
	OK(&b->err, link_write(store, &said, &b->err));
	assert_int_equal(link_read(store, &got, &b->err), 1);
	assert_true(link_id_same(&got.id, &said.id) && link_id_same(&got.parent_id, &said.parent_id));
	assert_true(got.has_parent_id && got.memory_only && got.root == 77 && got.start_ticks == 1ull << 40);
	assert_string_equal(got.boot_id, said.boot_id);
	assert_string_equal(got.tracker, said.tracker);
}

static void ids_are_random(void **state)
{
	struct box *b = *state;
	struct link_id one, two;

	OK(&b->err, link_id_new(&one, &b->err));
	OK(&b->err, link_id_new(&two, &b->err));
	assert_false(link_id_same(&one, &two));
}

/* ---- where `parent` leads ---- */

static void relative_paths(void **state)
{
	struct box *b = *state;
	own_free char *absolute = mem_fmt("%s/a", b->dir), *deep = mem_fmt("%s/x", b->dir), *deeper = mem_fmt("%s/x/y", b->dir);

	make(b, "a", 'a', 0, NULL);
	make(b, "ab", 'b', 0, NULL);
	assert_int_equal(mkdir(deep, 0700), 0);
	make(b, "x/y", 'c', 0, NULL);
	OK(&b->err, set_parent(b, "ab", "../a"));
	leads_to(b, "ab", "../a");
	OK(&b->err, set_parent(b, "ab", "../ab/../a/"));
	leads_to(b, "ab", "../ab/../a/");
	OK(&b->err, set_parent(b, "ab", absolute));
	leads_to(b, "ab", "../a");
	OK(&b->err, set_parent(b, "x/y", absolute));
	leads_to(b, "x/y", "../../a");
	OK(&b->err, set_parent(b, "a", deeper));
	leads_to(b, "a", "../x/y");
}

/* Inside of one another, either way. */
static void nested_paths(void **state)
{
	struct box *b = *state;
	own_free char *outer = mem_fmt("%s/a", b->dir), *inner = mem_fmt("%s/a/b", b->dir);

	make(b, "a", 'a', 0, NULL);
	make(b, "a/b", 'b', 0, NULL);
	OK(&b->err, set_parent(b, "a/b", outer));
	leads_to(b, "a/b", "..");
	OK(&b->err, set_parent(b, "a", inner));
	leads_to(b, "a", "b");
}

static void wrong_paths(void **state)
{
	struct box *b = *state;
	own_free char *nowhere = mem_fmt("%s/nowhere", b->dir), *self = mem_fmt("%s/b", b->dir), *before = realpath(".", NULL);
	struct store *empty = box_create(b, "empty");

	store_close(empty);
	make(b, "a", 'a', 0, NULL);
	make(b, "b", 'b', 0, NULL);
	FAILS(&b->err, ENOENT, "no images in ../nowhere", set_parent(b, "b", "../nowhere"));
	FAILS(&b->err, ENOENT, "no images in ../empty", set_parent(b, "b", "../empty"));
	FAILS(&b->err, ENOENT, "nowhere", set_parent(b, "b", nowhere));
	FAILS(&b->err, EINVAL, "its own parent", set_parent(b, "b", "../b"));
	FAILS(&b->err, EINVAL, "its own parent", set_parent(b, "b", self));
	make(b, "b/cow", 'c', 0, NULL);
	FAILS(&b->err, EINVAL, "another name", set_parent(b, "b", "./cow"));
	/* from where the user stands it would be right */
	assert_int_equal(chdir(b->dir), 0);
	FAILS(&b->err, ENOENT, "is it ../a?", set_parent(b, "b", "a"));
	assert_int_equal(chdir(before), 0);
}

static void cleared(void **state)
{
	struct box *b = *state;
	struct link_id by = id_of('b');
	own_free char *in_the_way = mem_fmt("%s/b/" LINK_PARENT, b->dir);

	make(b, "a", 'a', 0, NULL);
	make(b, "b", 'b', 'a', "../a");
	own_store *store = box_open(b, "b");
	OK(&b->err, link_clear(store, &b->err));
	OK(&b->err, link_clear(store, &b->err));
	OK(&b->err, link_set_parent(store, "../a", &b->err));
	OK(&b->err, link_set_replaced(store, &by, &b->err));
	OK(&b->err, link_clear(store, &b->err));
	assert_int_equal(link_replaced_by(store, &by, &b->err), 0);
	assert_int_equal(link_read(store, &(struct image_link){ 0 }, &b->err), 0);
	FAILS(&b->err, ENOENT, "no images", set_parent(b, "a", "../b"));
	assert_int_equal(mkdir(in_the_way, 0700), 0);
	FAILS(&b->err, EEXIST, "not a link", link_clear(store, &b->err));
}

/* A link is never its own ancestor; who tries it finds all as it was. */
static void no_parent_of_itself(void **state)
{
	struct box *b = *state;
	struct store *parent = NULL;

	make(b, "a", 'a', 0, NULL);
	make(b, "b", 'b', 'a', "../a");
	make(b, "c", 'c', 'b', "../b");
	own_store *first = box_open(b, "a");
	FAILS(&b->err, ELOOP, "does not end", link_open_parent(first, "../c", &parent, &b->err));
	own_store *other = box_create(b, "d");
	OK(&b->err, link_open_parent(other, "../c", &parent, &b->err));
	store_close(parent);
	OK(&b->err, check(b, "c"));
}

/* ---- chains ---- */

static void right_chains(void **state)
{
	struct box *b = *state;

	make(b, "a", 'a', 0, NULL);
	make(b, "b", 'b', 'a', "../a");
	make(b, "c", 'c', 'b', "../b");
	make(b, "criu1", 0, 0, NULL);
	make(b, "criu2", 0, 0, "../criu1");
	make(b, "criu3", 0, 0, "../b");
	make(b, "ours", 'o', 0, "../criu2");
	for (const char *const *name = (const char *const[]){ "a", "b", "c", "criu1", "criu2", "criu3", "ours", NULL }; *name; name++)
		OK(&b->err, check(b, *name));
}

static void broken_chains(void **state)
{
	struct box *b = *state;

	make(b, "a", 'a', 0, NULL);
	make(b, "b", 'b', 'a', NULL);
	FAILS(&b->err, ENOENT, "parent directory is missing", check(b, "b"));
	box_parent(b, "b", "../gone");
	FAILS(&b->err, ENOENT, "parent", check(b, "b"));
	make(b, "other", 'z', 0, NULL);
	box_parent(b, "b", "../other");
	FAILS(&b->err, EBADMSG, "not the one that it was made on", check(b, "b"));
	make(b, "criu", 0, 0, NULL);
	box_parent(b, "b", "../criu");
	FAILS(&b->err, EBADMSG, "not the one that it was made on", check(b, "b"));
	/* further up is no better */
	make(b, "c", 'c', 'b', "../b");
	FAILS(&b->err, EBADMSG, "not the one that it was made on", check(b, "c"));
}

struct writing { struct store *store; atomic_bool ends; };

static void *writes_again(void *arg)
{
	struct writing *w = arg;

	for (unsigned int i = 0; !atomic_load(&w->ends); i++) {
		struct image_link link = { .id = id_of(i % 2 ? 'a' : 'b') };
		struct err err;

		if (link_write(w->store, &link, &err) < 0)
			break;
	}
	return NULL;
}

/* A page server and a source that share a directory: one reads it while the other writes. */
static void read_while_written(void **state)
{
	struct box *b = *state;
	own_store *store = put(b, "one", 'a', 0), *reader = box_open(b, "one");
	struct writing w = { store, false };
	pthread_t writer;

	assert_int_equal(pthread_create(&writer, NULL, writes_again, &w), 0);
	for (unsigned int i = 0; i < 2000; i++) {
		struct image_link link;

		assert_int_equal(link_read(reader, &link, &b->err), 1);
		assert_true(link.id.bytes[0] == 'a' || link.id.bytes[0] == 'b');
	}
	atomic_store(&w.ends, true);
	pthread_join(writer, NULL);
}

/* b/cow, where b's tasks share pages, stands between b and a. */
static void own_pages_between(void **state)
{
	struct box *b = *state;
	own_free char *from = mem_fmt("%s/b/cow", b->dir), *to = mem_fmt("%s/b/pages", b->dir);

	make(b, "a", 'a', 0, NULL);
	make(b, "b", 'b', 'a', "cow");
	store_close(box_create(b, "b/cow"));
	FAILS(&b->err, ENOENT, "parent directory is missing", check(b, "b"));
	box_parent(b, "b/cow", "../../a");
	OK(&b->err, check(b, "b"));
	make(b, "other", 'o', 0, NULL);
	box_parent(b, "b/cow", "../../other");
	FAILS(&b->err, EBADMSG, "not the one that it was made on", check(b, "b"));
	box_parent(b, "b/cow", "../../a");
	assert_int_equal(rename(from, to), 0);
	box_parent(b, "b", "pages");
	FAILS(&b->err, EBADMSG, "not the one that it was made on", check(b, "b"));
	make(b, "c", 'c', 0, "cow");
	store_close(box_create(b, "c/cow"));
	OK(&b->err, check(b, "c"));
}

static void loops(void **state)
{
	struct box *b = *state;

	make(b, "a", 'a', 0, ".");
	FAILS(&b->err, ELOOP, "does not end", check(b, "a"));
	make(b, "a", 'a', 'b', "../b");
	make(b, "b", 'b', 'a', "../a");
	make(b, "c", 'c', 'b', "../b");
	FAILS(&b->err, ELOOP, "does not end", check(b, "a"));
	FAILS(&b->err, ELOOP, "does not end", check(b, "c"));
	make(b, "d", 0, 0, "parent");
	FAILS(&b->err, ELOOP, "parent", check(b, "d"));
}

/* ---- what was given up ---- */

static void replaced(void **state)
{
	struct box *b = *state;
	struct link_id by;

	make(b, "a", 'a', 0, NULL);
	make(b, "b", 'b', 'a', "../a");
	make(b, "c", 'c', 'b', "../b");
	make(b, "other", 'o', 'a', "../a");
	own_store *a = box_open(b, "a");
	assert_int_equal(link_replaced_by(a, &by, &b->err), 0);
	by = id_of('b');
	OK(&b->err, link_set_replaced(a, &by, &b->err));
	FAILS(&b->err, EBADMSG, "given up", check(b, "a"));
	FAILS(&b->err, EBADMSG, "given up", check(b, "other"));
	OK(&b->err, check(b, "b"));
	OK(&b->err, check(b, "c"));
	by = id_of('c');
	OK(&b->err, link_set_replaced(a, &by, &b->err));
	assert_int_equal(link_replaced_by(a, &by, &b->err), 1);
	assert_int_equal(by.bytes[0], 'c');
	FAILS(&b->err, EBADMSG, "given up", check(b, "b"));
	OK(&b->err, check(b, "c"));
	OK(&b->err, link_set_consumed(a, &b->err));
	FAILS(&b->err, EBADMSG, "when it was restored", check(b, "c"));
}

/* A link can't vouch for itself: its own id in its mark is no newer link. */
static void replaced_by_itself(void **state)
{
	struct box *b = *state;
	struct link_id by = id_of('a');

	make(b, "a", 'a', 0, NULL);
	own_store *a = box_open(b, "a");
	OK(&b->err, link_set_replaced(a, &by, &b->err));
	FAILS(&b->err, EBADMSG, "given up", check(b, "a"));
}

/* What was there stays where the new one can't be written, and nothing else is left. */
static void mark_is_whole_or_old(void **state)
{
	struct box *b = *state;
	struct link_id by = id_of('b');
	own_free char *in_the_way = mem_fmt("%s/a/ferry-replaced.img.new", b->dir);

	make(b, "a", 'a', 0, NULL);
	own_store *a = box_open(b, "a");
	OK(&b->err, link_set_replaced(a, &by, &b->err));
	assert_int_equal(mkdir(in_the_way, 0700), 0);
	by = id_of('c');
	assert_true(link_set_replaced(a, &by, &b->err) < 0);
	assert_int_equal(rmdir(in_the_way), 0);
	assert_int_equal(link_replaced_by(a, &by, &b->err), 1);
	assert_int_equal(by.bytes[0], 'b');
	/* one that was left half written is in nobody's way */
	own_fd fd = open(in_the_way, O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, "half", 4), 4);
	by = id_of('d');
	OK(&b->err, link_set_replaced(a, &by, &b->err));
	assert_int_equal(access(in_the_way, F_OK), -1);
	assert_int_equal(link_replaced_by(a, &by, &b->err), 1);
	assert_int_equal(by.bytes[0], 'd');
}

/* ---- hostile bytes ---- */

/* Each byte of an image set to each of a few values, and the image cut at each length: an error, or it is taken. */
static void spoil(struct box *b, const char *file)
{
	static const uint8_t values[] = { 0x00, 0x01, 0x0f, 0x11, 0x7f, 0x80, 0xff };
	own_free char *path = mem_fmt("%s/b/%s", b->dir, file);
	own_fd fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t byte, whole[256];
	ssize_t len = pread(fd, whole, sizeof(whole), 0);

	assert_true(len > 0);
	for (off_t at = 0; at < len; at++) {
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		for (size_t k = 0; k < ARRAY_LEN(values); k++) {
			int r;

			assert_int_equal(pwrite(fd, &values[k], 1, at), 1);
			r = check(b, "b");
			if (r != 0 && r != -EBADMSG && r != -ENOENT)
				fail_msg("%s, byte %lld: %d, %s", file, (long long)at, r, b->err.text);
		}
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	for (off_t at = 0; at < len; at++) {
		assert_int_equal(ftruncate(fd, at), 0);
		assert_int_equal(check(b, "b"), -EBADMSG);
	}
	assert_int_equal(pwrite(fd, whole, (size_t)len, 0), len);
	OK(&b->err, check(b, "b"));
}

static void hostile_bytes(void **state)
{
	struct box *b = *state;
	struct link_id by = id_of('c');

	make(b, "a", 'a', 0, NULL);
	make(b, "b", 'b', 'a', "../a");
	spoil(b, "ferry-link.img");
	own_store *store = box_open(b, "b");
	OK(&b->err, link_set_replaced(store, &by, &b->err));
	FAILS(&b->err, EBADMSG, "given up", check(b, "b"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOX_TEST(everything_comes_back), BOX_TEST(ids_are_random), BOX_TEST(relative_paths), BOX_TEST(nested_paths),
		BOX_TEST(wrong_paths), BOX_TEST(cleared), BOX_TEST(no_parent_of_itself), BOX_TEST(right_chains),
		BOX_TEST(broken_chains), BOX_TEST(read_while_written), BOX_TEST(own_pages_between), BOX_TEST(loops),
		BOX_TEST(replaced), BOX_TEST(replaced_by_itself), BOX_TEST(mark_is_whole_or_old), BOX_TEST(hostile_bytes),
	};

	return cmocka_run_group_tests_name("link", tests, NULL, NULL);
}
