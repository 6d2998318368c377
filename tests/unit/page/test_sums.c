/* SPDX-License-Identifier: Apache-2.0 */
/* Each page of a pages file has its checksum, whoever wrote it; and no page that is not what was written gets through. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/mem.h"
#include "base/own.h"
#include "box.h"
#include "page/ends.h"
#include "page/puncher.h"
#include "page/sums.h"

#define P     4096ull
#define PAGES 9000u             /* three blocks of sums */
#define AT(n) (0x10000 + (n) * P)

/*
 * A dump of `pages` pages, each other than all others, by several threads; in runs of all sizes, or with a gap behind
 * each page.
 */
static void dump_with(struct box *b, const char *name, uint64_t pages, bool gaps)
{
	own_store *store = box_create(b, name);
	own_fd fd = memfd_create("task", MFD_CLOEXEC);
	struct page_runs plan = { 0 };
	struct page_count count = { 0 };
	struct source_file src;
	struct sink_image sink;
	uint8_t page[4096];

	for (uint64_t i = 0, n; i < pages; i += n) {
		n = 1 + (uint64_t)rand() % (rand() % 4 ? 5 : 300);
		n = gaps ? 1 : n < pages - i ? n : pages - i;
		vec_push(&plan, ((struct page_run){ .start = AT(gaps ? 2 * i : i), .pages = n, .where = PAGE_HERE,
						    .from = i * P }));
	}
	for (uint64_t i = 0; i < pages; i++) {
		box_page(1, i, page);
		assert_int_equal(pwrite(fd, page, P, (off_t)(i * P)), P);
	}
	source_file_init(&src, fd, &plan);
	OK(&b->err, sink_image_open(&sink, store, IMAGE_PAGEMAP, 7, 1, -1, &b->err));
	OK(&b->err, page_pump(&src.base, &sink.base, 4, &count, &b->err));
	OK(&b->err, sink_image_close(&sink, &b->err));
	OK(&b->err, store_seal(store, &b->err));
	vec_free(&plan);
}

static void dump(struct box *b, const char *name, uint64_t pages)
{
	dump_with(b, name, pages, false);
}

static char *path_of(const struct box *b, const char *dir, const char *file)
{
	return mem_fmt("%s/%s/%s", b->dir, dir, file);
}

static void write_at(const char *path, uint64_t at, const void *bytes, size_t len)
{
	own_fd fd = open(path, O_WRONLY | O_CLOEXEC);

	assert_int_equal(pwrite(fd, bytes, len, (off_t)at), len);
}

static void flip(const char *path, uint64_t at)
{
	own_fd fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
	byte ^= (uint8_t)(1 << rand() % 8);
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
}

/* The image as its header comment tells, by the plain hash of libxxhash. */
static void written(void **state)
{
	struct box *b = *state;
	struct stat st;

	dump(b, "d", PAGES);
	own_store *store = box_open(b, "d");
	own_reader *reader = NULL;
	own_message PageSumsHead *head = NULL;
	assert_int_equal(image_open(store, IMAGE_FERRY_PAGESUMS, 1, &reader, &b->err), 1);
	assert_int_equal(IMAGE_GET(reader, page_sums_head, &head, &b->err), 1);
	assert_int_equal(head->pages, PAGES);
	for (uint64_t i = 0; i < PAGES; i++) {
		uint8_t page[4096];
		uint64_t sum;

		box_page(1, i, page);
		OK(&b->err, image_get_raw(reader, &sum, sizeof(sum), &b->err));
		assert_true(sum == XXH3_64bits(page, P));
	}
	assert_int_equal(image_left(reader), 0);
	own_free char *path = path_of(b, "d", "ferry-pages-1.img");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

/* Any byte of any page: found where it is, and nowhere else. */
static void flipped(void **state)
{
	struct box *b = *state;
	own_free char *path = path_of(b, "d", "pages-1.img");
	own_free uint8_t *all = malloc(PAGES * P);
	struct page_map map;

	dump(b, "d", PAGES);
	own_store *store = box_open(b, "d");
	assert_int_equal(page_map_load(store, IMAGE_PAGEMAP, 7, &map, &b->err), 1);
	OK(&b->err, page_map_read(&map, 0, 0, PAGES, all, &b->err));
	for (uint64_t i = 0; i < PAGES; i += i % 4095 < 3 ? 1 : 1 + (uint64_t)rand() % 50) {
		own_free char *offset = mem_fmt("pages-1.img: the page at offset %llu for %#llx ", (unsigned long long)(i * P),
						(unsigned long long)AT(i));
		uint8_t page[4096];

		flip(path, i * P + (uint64_t)rand() % P);
		FAILS(&b->err, EBADMSG, offset, page_map_read(&map, 0, i * P, 1, page, &b->err));
		if (i % 16 == 0)
			FAILS(&b->err, EBADMSG, offset, page_map_read(&map, 0, 0, PAGES, all, &b->err));
		if (i > 0)
			OK(&b->err, page_map_read(&map, 0, (i - 1) * P, 1, page, &b->err));
		box_page(1, i, page);
		write_at(path, i * P, page, P);
	}
	OK(&b->err, page_map_read(&map, 0, 0, PAGES, all, &b->err));
	page_map_free(&map);
}

/* The pump moves nothing of a broken page on. */
static void pumped(void **state)
{
	struct box *b = *state;
	own_free char *path = path_of(b, "d", "pages-1.img");
	own_fd fd = memfd_create("back", MFD_CLOEXEC);
	struct page_count count = { 0 };
	struct source_map src;
	struct sink_file sink;
	struct page_map map;
	uint8_t byte;

	dump(b, "d", 100);
	flip(path, 50 * P + 8);
	own_store *store = box_open(b, "d");
	assert_int_equal(page_map_load(store, IMAGE_PAGEMAP, 7, &map, &b->err), 1);
	source_map_init(&src, &map);
	sink_file_init(&sink, fd);
	FAILS(&b->err, EBADMSG, "204800", page_pump(&src.base, &sink.base, 2, &count, &b->err));
	assert_int_equal(pread(fd, &byte, 1, (off_t)AT(50)), 0);
	page_map_free(&map);

	/* for those who must */
	own_free char *dir = path_of(b, "d", "");
	own_store *unchecked = NULL;
	OK(&b->err, store_open_unchecked(dir, &unchecked, &b->err));
	assert_int_equal(page_map_load(unchecked, IMAGE_PAGEMAP, 7, &map, &b->err), 1);
	source_map_init(&src, &map);
	OK(&b->err, page_pump(&src.base, &sink.base, 2, &count, &b->err));
	assert_int_equal(pread(fd, &byte, 1, (off_t)AT(50)), 1);
	page_map_free(&map);
}

/* Many small pieces are read together: each page comes to its place, and a broken one is still named. */
static void in_pieces(void **state)
{
	const uint64_t pages = 1500;
	struct box *b = *state;
	own_free char *path = path_of(b, "d", "pages-1.img");
	own_fd fd = memfd_create("back", MFD_CLOEXEC);
	struct page_count count = { 0 };
	struct source_map src;
	struct sink_file sink;
	struct page_map map;

	dump_with(b, "d", pages, true);
	own_store *store = box_open(b, "d");
	assert_int_equal(page_map_load(store, IMAGE_PAGEMAP, 7, &map, &b->err), 1);
	assert_int_equal(map.pieces.len, pages);
	sink_file_init(&sink, fd);
	source_map_init(&src, &map);
	OK(&b->err, page_pump(&src.base, &sink.base, 3, &count, &b->err));
	for (uint64_t i = 0; i < pages; i++) {
		uint8_t want[4096], got[4096];

		box_page(1, i, want);
		assert_int_equal(pread(fd, got, P, (off_t)AT(2 * i)), P);
		assert_memory_equal(got, want, P);
	}
	for (uint64_t i = 0; i < pages; i += 1 + (uint64_t)rand() % 100) {
		own_free char *where = mem_fmt("offset %llu for %#llx ", (unsigned long long)(i * P),
					       (unsigned long long)AT(2 * i));

		flip(path, i * P + 4095);
		source_map_init(&src, &map);
		FAILS(&b->err, EBADMSG, where, page_pump(&src.base, &sink.base, 3, &count, &b->err));
		uint8_t page[4096];
		box_page(1, i, page);
		write_at(path, i * P, page, P);
	}
	page_map_free(&map);
}

/* In a chain the message tells which link. */
static void in_a_parent(void **state)
{
	const PagemapEntry entries[] = { RUN(AT(0), 3, PAGE_PARENT), RUN(AT(3), 1, PAGE_HERE) };
	struct box *b = *state;
	own_free char *path = path_of(b, "a", "pages-1.img");
	struct page_map map;
	uint8_t pages[3 * 4096];

	dump(b, "a", 4);
	own_store *child = box_create(b, "b");
	box_pages(b, child, 2, 1, 0);           /* it has no sums itself */
	box_pagemap(b, child, 7, 2, entries, ARRAY_LEN(entries));
	box_parent(b, "b", "../a");
	own_store *store = box_open(b, "b");
	assert_int_equal(page_map_load(store, IMAGE_PAGEMAP, 7, &map, &b->err), 1);
	OK(&b->err, page_map_read(&map, 1, 0, 3, pages, &b->err));
	OK(&b->err, page_map_read(&map, 0, 0, 1, pages, &b->err));
	flip(path, P);
	FAILS(&b->err, EBADMSG, "pages-1.img (link 1 of the chain): the page at offset 4096 for 0x11000 ",
	      page_map_read(&map, 1, 0, 3, pages, &b->err));
	page_map_free(&map);
}

struct lie { const char *what; uint64_t at; const char *bytes; size_t len; int64_t cut; const char *says; };

/* Sums that are no sums of that file, in a directory whose images nobody vouches for. */
static void hostile(void **state)
{
	/* header 8, size of the record 4, the record: 08 64 (100 pages), the sums */
	static const struct lie lies[] = {
		{ "magic", 4, "\0", 1, -1, "magic" },
		{ "record beyond the file", 8, "\xff\xff\xff\x7f", 4, -1, "the record at byte 8" },
		{ "no record", 0, "", 0, 8, "has no record" },
		{ "another message", 12, "\x0a\x01", 2, -1, "the record at byte 8" },
		{ "fewer pages", 13, "\x63", 1, -1, "99 checksums" },
		{ "more pages", 13, "\x65", 1, -1, "101 checksums" },
		{ "one sum less", 0, "", 0, 14 + 99 * 8, "100 checksums" },
		{ "cut in a sum", 0, "", 0, 14 + 99 * 8 + 3, "100 checksums" },
		{ "2^60 pages", 8, "\x0a\0\0\0\x08\x80\x80\x80\x80\x80\x80\x80\x80\x10", 14, -1, "1152921504606846976 checksums" },
	};
	struct box *b = *state;
	struct page_map map;

	for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
		const struct lie *l = &lies[i];
		own_free char *sums = path_of(b, "d", "ferry-pages-1.img"), *list = path_of(b, "d", "ferry-checksums.img");

		print_message("  %s\n", l->what);
		dump(b, "d", 100);
		write_at(sums, l->at, l->bytes, l->len);
		assert_int_equal(l->cut < 0 ? 0 : truncate(sums, l->cut), 0);
		assert_int_equal(unlink(list), 0);
		own_store *store = box_open(b, "d");
		FAILS(&b->err, EBADMSG, l->says, page_map_load(store, IMAGE_PAGEMAP, 7, &map, &b->err));
	}
}

static void other_size(void **state)
{
	struct box *b = *state;
	own_free char *path = path_of(b, "d", "pages-1.img");
	const off_t sizes[] = { 0, 99 * P, 100 * P - 1, 100 * P + 1, 101 * P };
	struct page_map map;

	dump(b, "d", 100);
	own_store *store = box_open(b, "d");
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		assert_int_equal(truncate(path, sizes[i]), 0);
		FAILS(&b->err, EBADMSG, sizes[i] < (off_t)(100 * P) ? "shorter" : "longer",
		      page_map_load(store, IMAGE_PAGEMAP, 7, &map, &b->err));
	}
}

/* The sums are cut while they are in use: an error, and no signal. */
static void cut_meanwhile(void **state)
{
	struct box *b = *state;
	own_free char *path = path_of(b, "d", "ferry-pages-1.img");
	struct page_map map;
	uint8_t page[4096];

	for (uint64_t pages = 100; pages <= PAGES; pages *= 90) {
		dump(b, "d", pages);
		own_store *store = box_open(b, "d");
		assert_int_equal(page_map_load(store, IMAGE_PAGEMAP, 7, &map, &b->err), 1);
		assert_int_equal(truncate(path, 15 + 50 * 8 + 3), 0);
		OK(&b->err, page_map_read(&map, 0, 49 * P, 1, page, &b->err));
		if (pages == 100)       /* so few were read before */
			OK(&b->err, page_map_read(&map, 0, 50 * P, 1, page, &b->err));
		else
			FAILS(&b->err, EBADMSG, "fewer", page_map_read(&map, 0, 50 * P, 1, page, &b->err));
		page_map_free(&map);
	}
}

static void needs(void **state)
{
	struct puncher p = { 0 };

	(void)state;
	vec_push(&p.needed, ((struct puncher_range){ 1, 2, 8 * P, 9 * P }));
	vec_push(&p.needed, ((struct puncher_range){ 1, 2, 2 * P, 4 * P }));
	vec_push(&p.needed, ((struct puncher_range){ 1, 3, 0, P }));
	vec_push(&p.needed, ((struct puncher_range){ 2, 2, 5 * P, 6 * P }));
	puncher_sort(&p);
	for (uint64_t i = 0; i < 12; i++) {
		assert_int_equal(puncher_needs(&p, 1, 2, i * P), i == 2 || i == 3 || i == 8);
		assert_int_equal(puncher_needs(&p, 1, 3, i * P), i == 0);
		assert_int_equal(puncher_needs(&p, 2, 2, i * P), i == 5);
		assert_false(puncher_needs(&p, 1, 1, i * P) || puncher_needs(&p, 3, 2, i * P) || puncher_needs(&p, 2, 9, i * P));
	}
	puncher_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOX_TEST(written),
		BOX_TEST(flipped),
		BOX_TEST(pumped),
		BOX_TEST(in_pieces),
		BOX_TEST(in_a_parent),
		BOX_TEST(hostile),
		BOX_TEST(other_size),
		BOX_TEST(cut_meanwhile),
		cmocka_unit_test(needs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
