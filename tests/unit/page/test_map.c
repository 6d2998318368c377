/* SPDX-License-Identifier: Apache-2.0 */
/* Every page is traced to the file that has it, through chains; and nothing that an image says is believed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "box.h"
#include "page/ends.h"
#include "page/map.h"

#define P    4096ull
#define HERE   4u
#define LAZY   2u
#define PARENT 1u
#define AT(n)  (0x10000 + (n) * P)
#define END    0x800000000000ull

static size_t open_fds(void)
{
	own_dir *dir = opendir("/proc/self/fd");
	size_t n = 0;

	while (readdir(dir))
		n++;
	return n;
}

/* Loads and lets go: no descriptor is left, whatever came of it. */
static int load(struct box *b, const char *dir, uint64_t id, struct page_map *ret_map)
{
	size_t before = open_fds();
	struct page_map map = { 0 };
	own_store *store = box_open(b, dir);
	int r = page_map_load(store, IMAGE_PAGEMAP, id, &map, &b->err);

	if (ret_map && r > 0) {
		*ret_map = map;
		return r;
	}
	if (r > 0)
		page_map_free(&map);
	else
		assert_true(map.files.len == 0 && map.pieces.len == 0);
	store_close(TAKE_PTR(store));
	assert_int_equal(open_fds(), before);
	return r;
}

#define DIR_OF(b, name, id, pages_id, pages, ...) do {                                  \
		const PagemapEntry entries_[] = { __VA_ARGS__ };                        \
		own_store *store_ = box_create(b, name);                                \
		box_pages(b, store_, pages_id, pages, 0);                               \
		box_pagemap(b, store_, id, pages_id, entries_, ARRAY_LEN(entries_));    \
	} while (0)

/* The piece that has a page says where its bytes are. */
static void is_at(const struct page_map *map, taddr page, uint32_t pages_id, uint64_t index)
{
	for (size_t i = 0; i < map->pieces.len; i++) {
		const struct page_piece *p = &map->pieces.at[i];
		uint8_t want[4096], got[4096];

		if (page < p->start || page >= p->start + p->pages * P)
			continue;
		box_page(pages_id, index, want);
		assert_int_equal(pread(map->files.at[p->file].fd, got, P, (off_t)(p->offset + page - p->start)), P);
		assert_memory_equal(got, want, P);
		return;
	}
	fail_msg("nobody has the page at %#llx", (unsigned long long)page);
}

static void in_order(const struct page_map *map)
{
	for (size_t i = 0; i < map->pieces.len; i++) {
		const struct page_piece *p = &map->pieces.at[i];

		assert_true(p->pages > 0 && p->file < map->files.len);
		assert_true(p->offset + p->pages * P <= map->files.at[p->file].size_bytes);
		assert_true(i == 0 || p->start >= p[-1].start + p[-1].pages * P);
	}
}

static void one_directory(void **state)
{
	struct box *b = *state;
	struct page_map map;
	struct stat st;

	DIR_OF(b, "a", 7, 3, 6, RUN(AT(0), 2, HERE), RUN(AT(2), 1, HERE), RUN(AT(5), 3, HERE | LAZY));
	assert_int_equal(load(b, "a", 7, &map), 1);
	in_order(&map);
	assert_int_equal(map.files.len, 1);
	assert_int_equal(map.pieces.len, 2);    /* the first two are one */
	assert_int_equal(page_map_pages(&map), 6);
	for (uint64_t i = 0; i < 6; i++)
		is_at(&map, AT(i < 3 ? i : i + 2), 3, i);
	assert_int_equal(fstat(map.files.at[0].fd, &st), 0);
	assert_true(map.files.at[0].dev == st.st_dev && map.files.at[0].ino == st.st_ino);
	page_map_free(&map);
}

static void no_image(void **state)
{
	struct box *b = *state;

	DIR_OF(b, "a", 7, 3, 1, RUN(AT(0), 1, HERE));
	assert_int_equal(load(b, "a", 8, NULL), 0);
}

static void no_pages(void **state)
{
	struct box *b = *state;
	struct page_map map;

	own_store *store = box_create(b, "a");
	box_pages(b, store, 1, 0, 0);
	box_pagemap(b, store, 7, 1, NULL, 0);
	assert_int_equal(load(b, "a", 7, &map), 1);
	assert_int_equal(page_map_pages(&map), 0);
	page_map_free(&map);
}

/* c -> b -> a: newer pages hide older ones; a run may come from many. */
static void chain(void **state)
{
	struct box *b = *state;
	struct page_map map;
	/* a has 0..7, b has 2, 3 and 6, c has 3 */
	static const struct { uint32_t file; uint64_t index; } want[] = {
		{ 1, 0 }, { 1, 1 }, { 2, 0 }, { 3, 0 }, { 1, 4 }, { 1, 5 }, { 2, 2 }, { 1, 7 },
	};

	DIR_OF(b, "a", 7, 1, 8, RUN(AT(0), 8, HERE));
	DIR_OF(b, "b", 7, 2, 3, RUN(AT(0), 2, PARENT), RUN(AT(2), 2, HERE), RUN(AT(4), 2, PARENT), RUN(AT(6), 1, HERE),
	       RUN(AT(7), 1, PARENT));
	DIR_OF(b, "c", 7, 3, 1, RUN(AT(0), 3, PARENT), RUN(AT(3), 1, HERE), RUN(AT(4), 4, PARENT));
	box_parent(b, "b", "../a");
	box_parent(b, "c", "../b");
	assert_int_equal(load(b, "c", 7, &map), 1);
	in_order(&map);
	assert_int_equal(map.files.len, 3);
	assert_int_equal(page_map_pages(&map), 8);
	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		is_at(&map, AT(i), want[i].file, want[i].index);
	page_map_free(&map);
}

/* What a parent has more of, or a task of its own, is nobody's business. */
static void parent_has_more(void **state)
{
	struct box *b = *state;
	struct page_map map;

	DIR_OF(b, "a", 7, 1, 9, RUN(AT(0), 3, HERE), RUN(AT(10), 6, HERE));
	DIR_OF(b, "b", 7, 2, 0, RUN(AT(2), 1, PARENT), RUN(AT(12), 2, PARENT));
	box_parent(b, "b", "../a");
	assert_int_equal(load(b, "b", 7, &map), 1);
	assert_int_equal(page_map_pages(&map), 3);
	is_at(&map, AT(2), 1, 2);
	is_at(&map, AT(12), 1, 5);
	is_at(&map, AT(13), 1, 6);
	page_map_free(&map);
}

/* Forms of older versions: no flags, in_parent, the count in compat_nr_pages alone. */
static void older_forms(void **state)
{
	struct box *b = *state;
	struct page_map map;

	DIR_OF(b, "a", 7, 1, 4, ENTRY(.vaddr = AT(0), .compat_nr_pages = 4));
	DIR_OF(b, "b", 7, 2, 1, ENTRY(.vaddr = AT(0), .compat_nr_pages = 2, .has_in_parent = true, .in_parent = true),
	       ENTRY(.vaddr = AT(2), .compat_nr_pages = 1, .has_in_parent = true, .in_parent = false),
	       ENTRY(.vaddr = AT(3), .compat_nr_pages = 1, .has_in_parent = true, .in_parent = true, .has_flags = true));
	box_parent(b, "b", "../a");
	assert_int_equal(load(b, "b", 7, &map), 1);
	assert_int_equal(page_map_pages(&map), 4);
	is_at(&map, AT(0), 1, 0);
	is_at(&map, AT(1), 1, 1);
	is_at(&map, AT(2), 2, 0);
	is_at(&map, AT(3), 1, 3);
	page_map_free(&map);
}

/* Two tasks' images with one pages file show the same bytes. */
static void shared_pages_file(void **state)
{
	struct box *b = *state;
	const PagemapEntry other[] = { RUN(AT(20), 2, HERE) };
	struct page_map map, twin;

	DIR_OF(b, "a", 7, 1, 4, RUN(AT(0), 4, HERE));
	own_store *store = box_open(b, "a");
	box_pagemap(b, store, 8, 1, other, 1);
	assert_int_equal(load(b, "a", 7, &map), 1);
	assert_int_equal(load(b, "a", 8, &twin), 1);
	assert_true(map.files.at[0].dev == twin.files.at[0].dev && map.files.at[0].ino == twin.files.at[0].ino);
	page_map_free(&map);
	page_map_free(&twin);
}

static const struct bad { const char *name, *says; int code; uint64_t pages; PagemapEntry entries[3]; } bads[] = {
	{ "unaligned", "out of place", EBADMSG, 8, { RUN(AT(0) + 8, 1, HERE) } },
	{ "overlap", "out of place", EBADMSG, 8, { RUN(AT(0), 3, HERE), RUN(AT(2), 1, HERE) } },
	{ "the same twice", "out of place", EBADMSG, 8, { RUN(AT(0), 1, HERE), RUN(AT(0), 1, HERE) } },
	{ "falling", "out of place", EBADMSG, 8, { RUN(AT(5), 1, HERE), RUN(AT(1), 1, HERE) } },
	{ "no page", "out of place", EBADMSG, 8, { RUN(AT(0), 0, HERE) } },
	{ "kernel", "out of place", EBADMSG, 8, { RUN(0xffffffff80000000, 1, HERE) } },
	{ "end of user space", "out of place", EBADMSG, 8, { RUN(END, 1, HERE) } },
	{ "over the end", "out of place", EBADMSG, 8, { RUN(END - P, 2, HERE) } },
	{ "length wraps", "out of place", EBADMSG, 8, { RUN(AT(0), (1ull << 52) + 1, HERE) } },
	{ "end wraps", "out of place", EBADMSG, 8, { RUN(AT(0), UINT64_MAX, HERE) } },
	{ "nr_pages counts", "out of place", EBADMSG, 8, { ENTRY(.vaddr = AT(0), .compat_nr_pages = 1, .has_nr_pages = true,
							      .nr_pages = 1ull << 40) } },
	{ "pages file too short", "ends before", EBADMSG, 2, { RUN(AT(0), 3, HERE) } },
	{ "too short, later", "ends before", EBADMSG, 2, { RUN(AT(0), 2, HERE), RUN(AT(9), 1, HERE) } },
	{ "2^40 pages", "ends before", EBADMSG, 2, { RUN(AT(0), 1ull << 34, HERE) } },
	{ "nowhere", "no place", EBADMSG, 8, { RUN(AT(0), 1, 0) } },
	{ "lazy alone", "no place", EBADMSG, 8, { RUN(AT(0), 1, LAZY) } },
	{ "unknown flags", "no place", EBADMSG, 8, { RUN(AT(0), 1, 0x100) } },
	{ "no parent", "there is none", EBADMSG, 8, { RUN(AT(0), 1, PARENT) } },
};

static void hostile(void **state)
{
	struct box *b = *state;

	for (size_t i = 0; i < ARRAY_LEN(bads); i++) {
		const struct bad *bad = &bads[i];
		size_t n = 0;

		print_message("  %s\n", bad->name);
		while (n < 3 && bad->entries[n].base.descriptor)
			n++;
		own_store *store = box_create(b, "a");
		box_pages(b, store, 1, bad->pages, 0);
		box_pagemap(b, store, 7, 1, bad->entries, n);
		FAILS(&b->err, bad->code, bad->says, load(b, "a", 7, NULL));
	}
}

/* The last page below the end, and a pages file with half a page too much, are right. */
static void not_hostile(void **state)
{
	struct box *b = *state;
	const PagemapEntry entries[] = { RUN(0, 1, HERE), RUN(END - P, 1, HERE) };
	struct page_map map;

	own_store *store = box_create(b, "a");
	box_pages(b, store, 1, 2, 2048);
	box_pagemap(b, store, 7, 1, entries, 2);
	assert_int_equal(load(b, "a", 7, &map), 1);
	is_at(&map, END - P, 1, 1);
	page_map_free(&map);
}

static void half_a_page(void **state)
{
	struct box *b = *state;
	const PagemapEntry entries[] = { RUN(AT(0), 2, HERE) };

	own_store *store = box_create(b, "a");
	box_pages(b, store, 1, 1, 4095);
	box_pagemap(b, store, 7, 1, entries, 1);
	FAILS(&b->err, EBADMSG, "ends before", load(b, "a", 7, NULL));
}

static void no_head(void **state)
{
	struct box *b = *state;
	own_writer *w = NULL;
	own_store *store = box_create(b, "a");

	OK(&b->err, image_create(store, IMAGE_PAGEMAP, 7, &w, &b->err));
	OK(&b->err, image_finish(&w, &b->err));
	FAILS(&b->err, EBADMSG, "pagemap-7.img", load(b, "a", 7, NULL));
}

static void no_pages_file(void **state)
{
	struct box *b = *state;
	const PagemapEntry entries[] = { RUN(AT(0), 1, HERE) };
	own_store *store = box_create(b, "a");

	box_pagemap(b, store, 7, 5, entries, 1);
	FAILS(&b->err, ENOENT, "pages-5.img", load(b, "a", 7, NULL));
}

static void parent_lacks(void **state)
{
	struct box *b = *state;

	DIR_OF(b, "a", 7, 1, 5, RUN(AT(0), 2, HERE), RUN(AT(3), 3, HERE));
	box_parent(b, "a", "../gone");
	DIR_OF(b, "b", 7, 2, 0, RUN(AT(1), 3, PARENT));
	box_parent(b, "b", "../a");
	FAILS(&b->err, EBADMSG, "0x12000", load(b, "b", 7, NULL));
	DIR_OF(b, "b", 7, 2, 0, RUN(AT(5), 2, PARENT));
	FAILS(&b->err, EBADMSG, "0x16000", load(b, "b", 7, NULL));
	/* no such task there */
	DIR_OF(b, "b", 8, 2, 0, RUN(AT(0), 1, PARENT));
	FAILS(&b->err, EBADMSG, "0x10000", load(b, "b", 8, NULL));
	/* nor such a directory */
	box_parent(b, "b", "../gone");
	FAILS(&b->err, ENOENT, "parent", load(b, "b", 7, NULL));
	/* a parent that is wrong itself */
	DIR_OF(b, "a", 7, 1, 2, RUN(AT(0), 3, HERE));
	box_parent(b, "b", "../a");
	FAILS(&b->err, EBADMSG, "ends before", load(b, "b", 7, NULL));
}

/* A parent that nothing is asked of is not even opened. */
static void parent_not_needed(void **state)
{
	struct box *b = *state;

	DIR_OF(b, "a", 7, 1, 1, RUN(AT(0), 1, HERE));
	box_parent(b, "a", "../gone");
	assert_int_equal(load(b, "a", 7, NULL), 1);
}

static void loops(void **state)
{
	struct rlimit was, limit;
	struct box *b = *state;

	/* found by what it is, not because something runs out */
	getrlimit(RLIMIT_NOFILE, &was);
	limit = was;
	limit.rlim_cur = 64;
	setrlimit(RLIMIT_NOFILE, &limit);
	DIR_OF(b, "a", 7, 1, 1, RUN(AT(0), 1, HERE), RUN(AT(1), 1, PARENT));
	DIR_OF(b, "b", 7, 1, 0, RUN(AT(0), 2, PARENT));
	box_parent(b, "a", ".");
	FAILS(&b->err, ELOOP, "parent", load(b, "a", 7, NULL));
	box_parent(b, "a", "../b");
	box_parent(b, "b", "../a");
	FAILS(&b->err, ELOOP, "parent", load(b, "a", 7, NULL));
	FAILS(&b->err, ELOOP, "parent", load(b, "b", 7, NULL));
	box_parent(b, "a", "parent");
	FAILS(&b->err, ELOOP, "parent", load(b, "a", 7, NULL));
	setrlimit(RLIMIT_NOFILE, &was);
}

static void long_chain(void **state)
{
	enum { LINKS = 200 };
	struct box *b = *state;
	struct page_map map;

	for (int i = 0; i <= LINKS; i++) {
		own_free char *name = mem_fmt("%d", i), *parent = mem_fmt("../%d", i - 1);
		uint64_t own = (uint64_t)i;     /* each has its own page, and all older ones are the parents' */

		if (i == 0)
			DIR_OF(b, name, 7, 1, 1, RUN(AT(0), 1, HERE));
		else
			DIR_OF(b, name, 7, (uint32_t)i + 1, 1, RUN(AT(0), own, PARENT), RUN(AT(own), 1, HERE));
		box_parent(b, name, parent);
	}
	assert_int_equal(load(b, "200", 7, &map), 1);
	in_order(&map);
	assert_int_equal(page_map_pages(&map), LINKS + 1);
	for (uint64_t i = 0; i <= LINKS; i++)
		is_at(&map, AT(i), (uint32_t)i + 1, 0);
	page_map_free(&map);
}

/* A source that gives what the map says, page by page. */
static void source(void **state)
{
	struct box *b = *state;
	struct page_map map;
	struct source_map src;
	struct page_run run;
	uint64_t pages = 0;

	DIR_OF(b, "a", 7, 1, 8, RUN(AT(0), 8, HERE));
	DIR_OF(b, "b", 7, 2, 2, RUN(AT(0), 3, PARENT), RUN(AT(3), 2, HERE), RUN(AT(5), 3, PARENT));
	box_parent(b, "b", "../a");
	assert_int_equal(load(b, "b", 7, &map), 1);
	source_map_init(&src, &map);
	while (src.base.ops->next(&src.base, &run, &b->err) > 0)
		for (uint64_t i = 0; i < run.pages; i++, pages++) {
			struct page_run one = run;
			uint8_t got[4096], want[4096];
			bool own = pages == 3 || pages == 4;

			one.start += i * P, one.from += i * P, one.pages = 1;
			assert_int_equal(one.start, AT(pages));
			OK(&b->err, src.base.ops->read(&src.base, &one, got, &b->err));
			box_page(own ? 2 : 1, own ? pages - 3 : pages, want);
			assert_memory_equal(got, want, P);
		}
	assert_int_equal(pages, 8);
	/* cut since it was loaded */
	own_free char *path = mem_fmt("%s/b/pages-2.img", b->dir);
	assert_int_equal(truncate(path, 4097), 0);
	run = (struct page_run){ .start = AT(3), .pages = 2, .from = 0, .part = map.pieces.at[1].file };
	uint8_t two[2 * 4096];
	FAILS(&b->err, EBADMSG, "4097", src.base.ops->read(&src.base, &run, two, &b->err));
	page_map_free(&map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOX_TEST(one_directory),
		BOX_TEST(no_image),
		BOX_TEST(no_pages),
		BOX_TEST(chain),
		BOX_TEST(parent_has_more),
		BOX_TEST(older_forms),
		BOX_TEST(shared_pages_file),
		BOX_TEST(hostile),
		BOX_TEST(not_hostile),
		BOX_TEST(half_a_page),
		BOX_TEST(no_head),
		BOX_TEST(no_pages_file),
		BOX_TEST(parent_lacks),
		BOX_TEST(parent_not_needed),
		BOX_TEST(loops),
		BOX_TEST(long_chain),
		BOX_TEST(source),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
