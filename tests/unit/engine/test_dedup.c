/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whatever is deduplicated in whatever order: a link of a chain reads as it was written, or it is refused; and the one
 * that was the newest is never refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "box.h"
#include "engine/dedup.h"
#include "image/link.h"
#include "page/map.h"

#define P       4096ull
#define HERE    4u
#define PARENT  1u
#define AT(n)   (0x10000 + (n) * P)
#define PAGES   24
#define LINKS   5
#define TASKS   2

struct where { uint32_t pages_id; uint64_t index; };    /* pages_id 0: no page */

/* links[0] is the oldest */
struct model { struct where page[LINKS][TASKS][PAGES]; };

static char *name_of(int link)
{
	return mem_fmt("%c", 'a' + link);
}

static struct link_id id_of(int link)
{
	struct link_id id;

	memset(&id, 'a' + link, sizeof(id));
	return id;
}

static void put_link(struct box *b, struct store *store, int link)
{
	struct image_link l = { .id = id_of(link) };

	if (link > 0) {
		l.has_parent_id = true;
		l.parent_id = id_of(link - 1);
	}
	OK(&b->err, link_write(store, &l, &b->err));
}

static void put_task(struct box *b, struct store *store, struct model *m, int link, int task)
{
	uint32_t pages_id = (uint32_t)(link * TASKS + task + 1);
	PagemapEntry entries[PAGES];
	uint64_t own = 0;
	size_t n = 0;

	for (int i = 0; i < PAGES; i++) {
		struct where *to = &m->page[link][task][i], *from = link > 0 ? &m->page[link - 1][task][i] : NULL;
		int what = rand() % 4;

		if (what == 0 || (what > 1 && (!from || from->pages_id == 0)))
			continue;
		*to = what == 1 ? (struct where){ pages_id, own++ } : *from;
		entries[n++] = (PagemapEntry)RUN(AT(i), 1, what == 1 ? HERE : PARENT);
	}
	box_pages(b, store, pages_id, own, 0);
	box_pagemap(b, store, (uint64_t)(10 + task), pages_id, entries, n);
}

static void put_chain(struct box *b, struct model *m, bool with_ids)
{
	for (int i = 0; i < LINKS; i++) {
		own_free char *name = name_of(i);
		own_free char *up = mem_fmt("../%c", 'a' + i - 1);
		own_store *store = box_create(b, name);

		for (int k = 0; k < TASKS; k++)
			put_task(b, store, m, i, k);
		if (with_ids)
			put_link(b, store, i);
		OK(&b->err, store_seal(store, &b->err));
		if (i > 0)
			box_parent(b, name, up);
	}
}

static void reads_right(const struct page_map *map, const struct where *want)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < map->pieces.len; i++) {
		for (uint64_t k = 0; k < map->pieces.at[i].pages; k++) {
			const struct page_piece *p = &map->pieces.at[i];
			const struct where *w = &want[(p->start - AT(0)) / P + k];
			uint8_t expected[4096], got[4096];

			box_page(w->pages_id, w->index, expected);
			assert_int_equal(pread(map->files.at[p->file].fd, got, P, (off_t)(p->offset + k * P)), P);
			assert_memory_equal(got, expected, P);
			pages++;
		}
	}
	for (int i = 0; i < PAGES; i++)
		pages -= want[i].pages_id != 0;
	assert_int_equal(pages, 0);
}

/* Is this link readable?  Then it is right. */
static bool check_link(struct box *b, const struct model *m, int link)
{
	own_free char *name = name_of(link);
	own_store *store = box_open(b, name);

	if (link_check_chain(store, &b->err) < 0)
		return false;
	for (int k = 0; k < TASKS; k++) {
		struct page_map map;

		assert_int_equal(page_map_load(store, IMAGE_PAGEMAP, (uint64_t)(10 + k), &map, &b->err), 1);
		reads_right(&map, m->page[link][k]);
		page_map_free(&map);
	}
	return true;
}

static int dedup(struct box *b, int link, struct dedup_result *ret)
{
	own_free char *path = mem_fmt("%s/%c", b->dir, 'a' + link);

	return dedup_chain(path, ret, &b->err);
}

static uint64_t blocks_of(struct box *b, int link, int task)
{
	own_free char *path = mem_fmt("%s/%c/pages-%d.img", b->dir, 'a' + link, link * TASKS + task + 1);
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks / 8;
}

/* What the older links still have on disk is what the newest reads of them, page by page. */
static void nothing_too_much(struct box *b, const struct model *m, int newest)
{
	for (int link = 0; link < newest; link++) {
		for (int k = 0; k < TASKS; k++) {
			uint64_t wanted = 0;

			for (int i = 0; i < PAGES; i++)
				wanted += m->page[newest][k][i].pages_id == (uint32_t)(link * TASKS + k + 1);
			assert_int_equal(blocks_of(b, link, k), wanted);
		}
	}
}

static void clear(struct box *b)
{
	own_free char *command = mem_fmt("rm -rf %s/*", b->dir);

	assert_int_equal(system(command), 0);
}

static void any_order(void **state)
{
	struct box *b = *state;

	srand(getenv("FERRY_SEED") ? (unsigned int)atoi(getenv("FERRY_SEED")) : 1);
	for (int round = 0; round < 150; round++) {
		struct model m = { 0 };

		put_chain(b, &m, true);
		for (int step = 0; step < 4; step++) {
			struct dedup_result done;
			int link = rand() % LINKS;
			bool whole = check_link(b, &m, link);

			assert_int_equal(dedup(b, link, &done) == 0, whole);
			assert_int_equal(check_link(b, &m, link), whole);
			for (int i = 0; i < LINKS; i++)
				check_link(b, &m, i);
			if (whole)
				nothing_too_much(b, &m, link);
			assert_true(check_link(b, &m, LINKS - 1));
		}
		clear(b);
	}
}

/* Without ids nobody can be marked: the newest link is right all the same. */
static void without_ids(void **state)
{
	struct box *b = *state;
	struct model m = { 0 };
	struct dedup_result done;

	put_chain(b, &m, false);
	OK(&b->err, dedup(b, LINKS - 1, &done));
	assert_int_equal(done.links, LINKS - 1);
	assert_true(done.pages > 0);
	assert_true(check_link(b, &m, LINKS - 1));
	nothing_too_much(b, &m, LINKS - 1);
	OK(&b->err, dedup(b, LINKS - 1, &done));
	assert_int_equal(done.pages, 0);
}

#define DIR_OF(b, name, letter, pages_id, pages, ...) do {                              \
		const PagemapEntry entries_[] = { __VA_ARGS__ };                        \
		own_store *store_ = box_create(b, name);                                \
		box_pages(b, store_, pages_id, pages, 0);                               \
		box_pagemap(b, store_, 7, pages_id, entries_, ARRAY_LEN(entries_));     \
		put_link(b, store_, (letter) - 'a');                                    \
	} while (0)

static int mark_of(struct box *b, const char *name)
{
	own_store *store = box_open(b, name);
	struct link_id by;
	int r = link_replaced_by(store, &by, &b->err);

	assert_true(r >= 0);
	return r ? by.bytes[0] : 0;
}

/* a <- b <- c: b gives up a page of a, then c another one, then c nothing more. */
static void marks(void **state)
{
	struct box *b = *state;
	struct dedup_result done;

	DIR_OF(b, "a", 'a', 1, 4, RUN(AT(0), 4, HERE));
	DIR_OF(b, "b", 'b', 2, 1, RUN(AT(0), 1, HERE), RUN(AT(1), 3, PARENT));
	DIR_OF(b, "c", 'c', 3, 1, RUN(AT(0), 1, PARENT), RUN(AT(1), 1, HERE), RUN(AT(2), 2, PARENT));
	box_parent(b, "b", "../a");
	box_parent(b, "c", "../b");
	OK(&b->err, dedup(b, 1, &done));
	assert_int_equal(done.pages, 1);
	assert_true(mark_of(b, "a") == 'b' && mark_of(b, "b") == 0 && mark_of(b, "c") == 0);
	OK(&b->err, dedup(b, 1, &done));
	assert_true(done.pages == 0 && done.marked == 0);
	OK(&b->err, dedup(b, 2, &done));
	assert_true(done.pages == 1 && done.marked == 2);
	assert_true(mark_of(b, "a") == 'c' && mark_of(b, "b") == 'c' && mark_of(b, "c") == 0);
	FAILS(&b->err, EBADMSG, "given up for a newer dump", dedup(b, 1, &done));
	OK(&b->err, dedup(b, 2, &done));
	assert_true(done.pages == 0 && done.marked == 0);
}

/* The newest says of a page that nobody has: nothing of it is believed, nothing is punched. */
static void broken_chain(void **state)
{
	struct box *b = *state;
	struct dedup_result done;
	own_free char *parent = mem_fmt("%s/b/parent", b->dir);

	DIR_OF(b, "a", 'a', 1, 2, RUN(AT(0), 2, HERE));
	DIR_OF(b, "b", 'b', 2, 1, RUN(AT(0), 1, HERE), RUN(AT(9), 1, PARENT));
	box_parent(b, "b", "../a");
	FAILS(&b->err, EBADMSG, "not in the parent directory", dedup(b, 1, &done));
	assert_int_equal(mark_of(b, "a"), 0);
	assert_int_equal(unlink(parent), 0);
	FAILS(&b->err, ENOENT, "parent directory is missing", dedup(b, 1, &done));
}

/* Names that lead out of the chain: a link to some file is not followed, a file with another name is left alone. */
static void not_ours(void **state)
{
	struct box *b = *state;
	struct dedup_result done;
	own_free char *outside = mem_fmt("%s/precious", b->dir), *trap = mem_fmt("%s/a/pages-9.img", b->dir);
	own_free char *own = mem_fmt("%s/a/pages-1.img", b->dir), *backup = mem_fmt("%s/backup", b->dir);
	uint8_t page[4096] = { 1 };
	struct stat st;

	DIR_OF(b, "a", 'a', 1, 2, RUN(AT(0), 2, HERE));
	DIR_OF(b, "b", 'b', 2, 2, RUN(AT(0), 2, HERE));
	box_parent(b, "b", "../a");
	own_fd fd = open(outside, O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, page, sizeof(page)), sizeof(page));
	assert_int_equal(symlink(outside, trap), 0);
	assert_int_equal(link(own, backup), 0);
	OK(&b->err, dedup(b, 1, &done));
	assert_true(done.pages == 0 && mark_of(b, "a") == 0);
	assert_true(fstat(fd, &st) == 0 && st.st_blocks == 8);
	assert_int_equal(unlink(backup), 0);
	OK(&b->err, dedup(b, 1, &done));
	assert_true(done.pages == 2 && mark_of(b, "a") == 'b');
	assert_true(fstat(fd, &st) == 0 && st.st_blocks == 8);
}

/* a's child reads a's own pages through a/cow, a hard link: what b needs of them stays, by whatever name. */
static void shared_by_cow(void **state)
{
	struct box *b = *state;
	struct dedup_result done;
	const PagemapEntry lender[] = { RUN(AT(0), 4, HERE) };
	const PagemapEntry borrower[] = { RUN(AT(2), 2, PARENT) };
	struct page_map map;

	DIR_OF(b, "a", 'a', 1, 4, RUN(AT(0), 4, HERE));
	own_store *a = box_open(b, "a"), *cow = box_create(b, "a/cow");
	box_pages(b, a, 2, 0, 0);
	box_pagemap(b, a, 8, 2, borrower, 1);
	box_pagemap(b, cow, 8, 1, lender, 1);
	assert_int_equal(linkat(store_dirfd(a), "pages-1.img", store_dirfd(cow), "pages-1.img", 0), 0);
	box_parent(b, "a", "cow");
	DIR_OF(b, "b", 'b', 3, 4, RUN(AT(0), 4, HERE));
	own_store *newest = box_open(b, "b");
	box_pages(b, newest, 4, 0, 0);
	box_pagemap(b, newest, 8, 4, borrower, 1);
	box_parent(b, "b", "../a");
	OK(&b->err, dedup(b, 1, &done));
	assert_int_equal(done.pages, 2);
	assert_true(mark_of(b, "a") == 'b' && mark_of(b, "a/cow") == 0);
	assert_int_equal(page_map_load(newest, IMAGE_PAGEMAP, 8, &map, &b->err), 1);
	const struct where want[PAGES] = { [2] = { 1, 2 }, [3] = { 1, 3 } };
	reads_right(&map, want);
	page_map_free(&map);
}

static void consumed(void **state)
{
	struct box *b = *state;
	struct model m = { 0 };
	struct dedup_result done;
	own_free char *newest = mem_fmt("%s/%c", b->dir, 'a' + LINKS - 1);

	put_chain(b, &m, true);
	OK(&b->err, dedup_consume(newest, &done, &b->err));
	for (int i = 0; i < LINKS; i++) {
		own_free char *name = name_of(i);
		own_store *store = box_open(b, name);

		FAILS(&b->err, EBADMSG, "given up when it was restored", link_check_chain(store, &b->err));
		for (int k = 0; k < TASKS; k++)
			assert_int_equal(blocks_of(b, i, k), 0);
	}
	FAILS(&b->err, EBADMSG, "given up when it was restored", dedup_consume(newest, &done, &b->err));
}

static void one_at_a_time(void **state)
{
	struct box *b = *state;
	struct model m = { 0 };
	struct dedup_result done;

	put_chain(b, &m, true);
	own_store *other = box_open(b, "b");
	assert_int_equal(flock(store_dirfd(other), LOCK_EX), 0);
	FAILS(&b->err, EBUSY, "just now", dedup(b, LINKS - 1, &done));
	assert_int_equal(mark_of(b, "a"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOX_TEST(any_order), BOX_TEST(without_ids), BOX_TEST(marks), BOX_TEST(broken_chain), BOX_TEST(not_ours),
		BOX_TEST(shared_by_cow), BOX_TEST(consumed), BOX_TEST(one_at_a_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
