/* SPDX-License-Identifier: Apache-2.0 */
/* What goes into a pagemap image comes out of it again; and files as ends. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "box.h"
#include "page/ends.h"

#define P ((uint64_t)PAGE_BYTES)
#define PAGES 3000u

/* A memory object; every third page or so is zeros. */
static int object(unsigned int seed)
{
	int fd = memfd_create("object", MFD_CLOEXEC);
	uint64_t page[512];

	srandom(seed);
	assert_true(fd >= 0);
	for (uint64_t i = 0; i < PAGES; i++) {
		memset(page, 0, sizeof(page));
		if (random() % 3)
			page[random() % 512] = i + 1;
		assert_int_equal(pwrite(fd, page, P, (off_t)(i * P)), P);
	}
	return fd;
}

/* Runs in rising order over it, some of them next to one another, with gaps. */
static void random_plan(struct page_runs *plan, bool skip_zero)
{
	for (uint64_t at = 0; at < PAGES;) {
		uint64_t pages = 1 + (uint64_t)random() % (random() % 4 ? 9 : 700);

		pages = at + pages > PAGES ? PAGES - at : pages;
		vec_push(plan, ((struct page_run){ .start = at * P, .pages = pages, .where = PAGE_HERE, .from = at * P,
						   .may_skip_zero = skip_zero }));
		at += pages + (uint64_t)random() % 3;
	}
}

static void dump(struct box *b, int fd, const struct page_runs *plan, struct page_count *count)
{
	own_store *store = box_create(b, "d");
	struct source_file src;
	struct sink_image sink;

	source_file_init(&src, fd, plan);
	OK(&b->err, sink_image_open(&sink, store, IMAGE_PAGEMAP_SHMEM, 44, 9, -1, &b->err));
	OK(&b->err, page_pump(&src.base, &sink.base, 3, count, &b->err));
	OK(&b->err, sink_image_close(&sink, &b->err));
	OK(&b->err, store_seal(store, &b->err));
}

static bool in_plan(const struct page_runs *plan, uint64_t page)
{
	for (size_t i = 0; i < plan->len; i++)
		if (page * P >= plan->at[i].start && page * P < plan->at[i].start + plan->at[i].pages * P)
			return true;
	return false;
}

static void there_and_back(void **state)
{
	unsigned int seed = getenv("SEED") ? (unsigned int)atoi(getenv("SEED")) : (unsigned int)time(NULL);
	struct box *b = *state;

	printf("SEED=%u\n", seed);
	for (int skip = 0; skip <= 1; skip++) {
		own_fd fd = object(seed), back = memfd_create("back", MFD_CLOEXEC);
		struct page_runs plan = { 0 };
		struct page_count out = { 0 }, in = { 0 };
		struct page_map map;
		struct source_map src;
		struct sink_file sink;

		random_plan(&plan, skip);
		dump(b, fd, &plan, &out);
		own_store *store = box_open(b, "d");
		assert_int_equal(page_map_load(store, IMAGE_PAGEMAP_SHMEM, 44, &map, &b->err), 1);
		assert_int_equal(page_map_pages(&map), out.here);
		assert_int_equal(map.files.at[0].size_bytes, out.here * P);     /* nothing between */
		source_map_init(&src, &map);
		sink_file_init(&sink, back);
		OK(&b->err, page_pump(&src.base, &sink.base, 3, &in, &b->err));
		assert_int_equal(in.here, out.here);
		for (uint64_t i = 0; i < PAGES; i++) {
			uint8_t x[P], y[P] = { 0 };

			assert_int_equal(pread(fd, x, P, (off_t)(i * P)), P);
			(void)!pread(back, y, P, (off_t)(i * P));
			if (!in_plan(&plan, i))
				memset(x, 0, P);
			assert_memory_equal(x, y, P);
		}
		page_map_free(&map);
		vec_free(&plan);
	}
}

/* The entries are as few as can be, and as older readers want them. */
static void entries(void **state)
{
	static const struct { uint64_t start, pages; enum page_where where; } runs[] = {
		{ 0, 2, PAGE_HERE }, { 2, 3, PAGE_HERE }, { 5, 1, PAGE_PARENT }, { 6, 1, PAGE_PARENT }, { 8, 1, PAGE_HERE },
	}, want[] = { { 0, 5, PAGE_HERE }, { 5, 2, PAGE_PARENT }, { 8, 1, PAGE_HERE } };
	struct box *b = *state;
	struct sink_image sink;
	own_store *store = box_create(b, "d");
	uint64_t to;

	OK(&b->err, sink_image_open(&sink, store, IMAGE_PAGEMAP, 12, 2, -1, &b->err));
	for (size_t i = 0; i < ARRAY_LEN(runs); i++) {
		struct page_run run = { .start = runs[i].start * P, .pages = runs[i].pages, .where = runs[i].where };

		OK(&b->err, sink.base.ops->place(&sink.base, &run, &to, &b->err));
	}
	assert_int_equal(to, 5 * P);
	OK(&b->err, sink_image_close(&sink, &b->err));

	own_reader *r = NULL;
	own_message PagemapHead *head = NULL;
	assert_int_equal(image_open(store, IMAGE_PAGEMAP, 12, &r, &b->err), 1);
	assert_int_equal(IMAGE_GET(r, pagemap_head, &head, &b->err), 1);
	assert_int_equal(head->pages_id, 2);
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		own_message PagemapEntry *e = NULL;

		assert_int_equal(IMAGE_GET(r, pagemap_entry, &e, &b->err), 1);
		assert_int_equal(e->vaddr, want[i].start * P);
		assert_true(e->has_nr_pages && e->nr_pages == want[i].pages && e->compat_nr_pages == want[i].pages);
		assert_true(e->has_flags && e->flags == (uint32_t)want[i].where);
	}
	own_message PagemapEntry *none = NULL;
	assert_int_equal(IMAGE_GET(r, pagemap_entry, &none, &b->err), 0);
}

static void no_pages(void **state)
{
	struct box *b = *state;
	struct page_runs plan = { 0 };
	struct page_count count = { 0 };
	struct page_map map;

	dump(b, -1, &plan, &count);
	own_store *store = box_open(b, "d");
	assert_int_equal(page_map_load(store, IMAGE_PAGEMAP_SHMEM, 44, &map, &b->err), 1);
	assert_int_equal(page_map_pages(&map), 0);
	page_map_free(&map);
}

static void cannot_be_made(void **state)
{
	struct box *b = *state;
	struct sink_image sink;
	own_store *store = box_create(b, "d");
	own_free char *pages = mem_fmt("%s/d/pages-1.img", b->dir), *pagemap = mem_fmt("%s/d/pagemap-12.img", b->dir);

	assert_int_equal(mkdir(pages, 0700), 0);
	FAILS(&b->err, EISDIR, "pages-1.img", sink_image_open(&sink, store, IMAGE_PAGEMAP, 12, 1, -1, &b->err));
	assert_true(sink.pages_fd == -1 && !sink.entries.writer);
	assert_int_equal(unlink(pagemap), 0);
	assert_int_equal(mkdir(pagemap, 0700), 0);
	FAILS(&b->err, EISDIR, "pagemap-12.img", sink_image_open(&sink, store, IMAGE_PAGEMAP, 12, 2, -1, &b->err));
}

/* A file that takes a part and no more (a full disk, a limit) is a failure. */
static void only_a_part_fits(void **state)
{
	uint8_t bytes[2 * PAGE_BYTES] = { 1 };
	struct box *b = *state;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		const struct rlimit limit = { PAGE_BYTES, PAGE_BYTES };
		struct page_run run = { .pages = 2, .where = PAGE_HERE };
		struct sink_file sink;
		struct sink_image image;
		own_store *store = box_create(b, "d");
		int to_file, to_image;
		uint64_t to;

		OK(&b->err, sink_image_open(&image, store, IMAGE_PAGEMAP, 12, 1, -1, &b->err));
		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &limit);
		sink_file_init(&sink, memfd_create("small", MFD_CLOEXEC));
		errno = 0;
		to_file = sink.base.ops->put(&sink.base, &run, 0, bytes, &b->err);
		OK(&b->err, image.base.ops->place(&image.base, &run, &to, &b->err));
		errno = 0;
		to_image = image.base.ops->put(&image.base, &run, to, bytes, &b->err);
		_exit(to_image != -EFBIG ? 2 : to_file != -EFBIG ? 3 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void file_ends_early(void **state)
{
	struct box *b = *state;
	own_fd fd = memfd_create("short", MFD_CLOEXEC);
	struct page_runs plan = { 0 };
	struct page_run run = { .start = P, .from = P, .pages = 2, .where = PAGE_HERE };
	struct source_file src;
	uint8_t buf[2 * PAGE_BYTES];

	assert_int_equal(ftruncate(fd, 2 * P + 100), 0);
	source_file_init(&src, fd, &plan);
	OK(&b->err, src.base.ops->read(&src.base, &run, buf, &b->err));	/* the last page is whole, as a mapping shows it */
	run.from = 2 * P;
	FAILS(&b->err, EBADMSG, "8292", src.base.ops->read(&src.base, &run, buf, &b->err));
	run.from = 0;
	OK(&b->err, src.base.ops->read(&src.base, &run, buf, &b->err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOX_TEST(there_and_back),
		BOX_TEST(entries),
		BOX_TEST(no_pages),
		BOX_TEST(cannot_be_made),
		BOX_TEST(only_a_part_fits),
		BOX_TEST(file_ends_early),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
