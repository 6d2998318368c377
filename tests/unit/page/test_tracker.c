/* SPDX-License-Identifier: Apache-2.0 */
/* What the scan tracker makes of one's own memory. Skipped where the kernel has no asynchronous write protection. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/own.h"
#include "box.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"
#include "page/tracker.h"

#define PAGES 64u

struct field {
	struct err err;
	struct tracker tracker;
	uint8_t *at;                    /* a window of PAGES that nobody else maps into */
	struct page_map known;
};

static int setup(void **state)
{
	struct field *f = calloc(1, sizeof(*f));

	*state = f;
	f->tracker = (struct tracker){ TRACKER_SCAN, -1, -1 };
	f->at = mmap(NULL, PAGES * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (uffd_open(&f->tracker.uffd, &f->err) < 0 ||
	    uffd_enable(f->tracker.uffd, UFFD_WP_UNPOPULATED | UFFD_WP_ASYNC, &f->err) < 0)
		f->tracker.uffd = -1;
	return pagemap_open(getpid(), &f->tracker.pagemap, &f->err);
}

static int teardown(void **state)
{
	struct field *f = *state;

	own_fd_drop(&f->tracker.uffd);
	close(f->tracker.pagemap);
	munmap(f->at, PAGES * PAGE_BYTES);
	vec_free(&f->known.pieces);
	free(f);
	return 0;
}

static uint8_t *map(struct field *f, unsigned int page, unsigned int pages)
{
	uint8_t *at = mmap(f->at + page * PAGE_BYTES, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	assert_ptr_not_equal(at, MAP_FAILED);
	return at;
}

/* "##..=" for changed, absent and unchanged pages; what is used becomes what the last link has. */
static const char *take(struct field *f, unsigned int page, unsigned int pages)
{
	static char text[PAGES + 1];
	taddr start = (taddr)(uintptr_t)f->at + page * PAGE_BYTES;
	struct page_runs runs = { 0 };

	OK(&f->err, tracker_take(&f->tracker, start, start + pages * PAGE_BYTES, &f->known, &runs, &f->err));
	memset(text, '.', pages);
	text[pages] = '\0';
	f->known.pieces.len = 0;
	for (size_t i = 0; i < runs.len; i++) {
		memset(text + (runs.at[i].start - start) / PAGE_BYTES, runs.at[i].where == PAGE_HERE ? '#' : '=', runs.at[i].pages);
		vec_push(&f->known.pieces, ((struct page_piece){ .start = runs.at[i].start, .pages = runs.at[i].pages }));
	}
	vec_free(&runs);
	return text;
}

#define NEEDS_UFFD(f)                    \
	do {                             \
		if ((f)->tracker.uffd < 0) \
			skip();          \
	} while (0)

static void written_pages(void **state)
{
	struct field *f = *state;
	uint8_t *at;

	NEEDS_UFFD(f);
	at = map(f, 0, 8);
	memset(at, 1, 4 * PAGE_BYTES);
	assert_string_equal(take(f, 0, 8), "####....");
	assert_string_equal(take(f, 0, 8), "====....");
	at[PAGE_BYTES] = 2;
	at[5 * PAGE_BYTES] = 2;
	assert_string_equal(take(f, 0, 8), "=#==.#..");
}

static void dropped_pages(void **state)
{
	struct field *f = *state;
	uint8_t *at;

	NEEDS_UFFD(f);
	at = map(f, 0, 8);
	memset(at, 1, 8 * PAGE_BYTES);
	take(f, 0, 8);
	madvise(at + 2 * PAGE_BYTES, 2 * PAGE_BYTES, MADV_DONTNEED);
	assert_string_equal(take(f, 0, 8), "==..====");
	at[3 * PAGE_BYTES] = 1;
	assert_string_equal(take(f, 0, 8), "==.#====");
	map(f, 4, 2)[0] = 1;            /* over what was there; two mappings now, so three takes */
	assert_string_equal(take(f, 4, 2), "#.");
}

/* Sees the same, and leaves all marks as they are: who would take once more sees it again. */
static void last_take(void **state)
{
	struct field *f = *state;
	uint8_t *at;

	NEEDS_UFFD(f);
	at = map(f, 0, 8);
	memset(at, 1, 6 * PAGE_BYTES);
	take(f, 0, 8);
	at[PAGE_BYTES] = 2;
	madvise(at + 3 * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED);
	f->tracker.last = true;
	assert_string_equal(take(f, 0, 8), "=#=.==..");
	at[4 * PAGE_BYTES] = 2;
	assert_string_equal(take(f, 0, 8), "=#=.#=..");
	f->tracker.last = false;
	assert_string_equal(take(f, 0, 8), "=#=.#=..");
	assert_string_equal(take(f, 0, 8), "===.==..");
}

/* What is expected is what a take finds, whether the most of the pages is known or none. */
static void expected_pages(void **state)
{
	struct field *f = *state;
	taddr start = (taddr)(uintptr_t)f->at, end = start + 8 * PAGE_BYTES;
	uint8_t *at;

	NEEDS_UFFD(f);
	at = map(f, 0, 8);
	memset(at, 1, 8 * PAGE_BYTES);
	take(f, 0, 8);
	assert_int_equal(tracker_expect(&f->tracker, start, end, &f->known), 0);
	at[PAGE_BYTES] = at[6 * PAGE_BYTES] = 2;
	assert_int_equal(tracker_expect(&f->tracker, start, end, &f->known), 2);
	assert_int_equal(tracker_expect(&f->tracker, start, end, NULL), 2);
	assert_string_equal(take(f, 0, 8), "=#====#=");
}

static void forgotten_pages(void **state)
{
	struct field *f = *state;

	NEEDS_UFFD(f);
	memset(map(f, 0, 4), 1, 4 * PAGE_BYTES);
	take(f, 0, 4);
	tracker_forget(&f->tracker, (taddr)(uintptr_t)f->at + PAGE_BYTES);
	assert_string_equal(take(f, 0, 4), "=#==");
}

/* mremap() to the end of another mapping drops the registration of both, and no mark: the kernel then notes nothing. */
static void merged_by_mremap(void **state)
{
	struct field *f = *state;
	uint8_t *a, *b;

	NEEDS_UFFD(f);
	a = map(f, 0, 4);
	b = map(f, 20, 4);              /* never touched: it joins whatever it comes to lie beside */
	memset(a, 1, 4 * PAGE_BYTES);
	take(f, 20, 4);
	take(f, 0, 4);
	assert_ptr_equal(mremap(b, 4 * PAGE_BYTES, 4 * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, a + 4 * PAGE_BYTES), a + 4 * PAGE_BYTES);
	a[PAGE_BYTES] = 9;
	assert_int_equal(take(f, 0, 8)[1], '#');
}

/* mremap() may move whole tables of pages, and sets no soft-dirty bits in them. */
static void moved_tables(void **state)
{
	const size_t table = 2 << 20, room = 4 * table;
	struct field *f = *state;
	struct tracker soft = { TRACKER_SOFT_DIRTY, f->tracker.pagemap, -1 };
	struct page_map nothing = { 0 };
	struct page_runs runs = { 0 };
	uint8_t *all = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *from = (uint8_t *)(((uintptr_t)all + table - 1) / table * table), *to = from + table;
	uint64_t entry;

	assert_ptr_equal(mmap(from, table, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), from);
	madvise(from, table, MADV_NOHUGEPAGE);
	memset(from, 1, table);
	assert_int_equal(pagemap_read(f->tracker.pagemap, (uintptr_t)from, 1, &entry, &f->err), 1);
	OK(&f->err, soft_dirty_clear(getpid(), &f->err));
	assert_ptr_equal(mremap(from, table, table, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	if (entry & PM_ENTRY_SOFT_DIRTY) {      /* this kernel has them */
		OK(&f->err, tracker_take(&soft, (uintptr_t)to, (uintptr_t)to + table, &nothing, &runs, &f->err));
		assert_int_equal(runs_pages(&runs), table / PAGE_BYTES);
	}
	vec_free(&runs);
	munmap(all, room);
}

static uint64_t entry_of(uint64_t number, bool dirty)
{
	return PM_ENTRY_PRESENT | PM_ENTRY_EXCLUSIVE | number | (dirty ? PM_ENTRY_SOFT_DIRTY : 0);
}

/* A table is known by any noted page that has its frame, and was not written. */
static void frames_of_tables(void **state)
{
	const taddr first = 0x7f0000000000, second = first + TABLE_BYTES;
	uint64_t a[TABLE_PAGES] = { 0 }, b[TABLE_PAGES], none[TABLE_PAGES] = { 0 };
	struct frames frames = { 0 };

	(void)state;
	a[3] = entry_of(30, true);
	a[4] = entry_of(31, false);
	a[300] = entry_of(32, true);
	for (size_t i = 0; i < TABLE_PAGES; i++)
		b[i] = entry_of(1000 + i, false);
	frames_note(&frames, first, a);
	frames_note(&frames, first, a);         /* a second mapping in the same table */
	frames_note(&frames, second, b);
	assert_int_equal(frames.len, 2 + 4);
	a[3] = entry_of(30, false);
	a[300] = entry_of(77, true);
	assert_true(frames_same_table(&frames, first, a));
	assert_true(frames_same_table(&frames, second, b));
	assert_false(frames_same_table(&frames, second, a));
	assert_false(frames_same_table(&frames, first, b));
	assert_false(frames_same_table(&frames, first + 2 * TABLE_BYTES, b));
	assert_false(frames_same_table(&frames, first, none));
	a[3] = entry_of(30, true);              /* written: it may have been moved here alone */
	assert_false(frames_same_table(&frames, first, a));
	a[3] = entry_of(0, false);              /* not shown */
	assert_false(frames_same_table(&frames, first, a));
	vec_free(&frames);
	frames_note(&frames, first, none);
	assert_int_equal(frames.len, 0);
}

#define TRACKER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TRACKER_TEST(written_pages), TRACKER_TEST(dropped_pages), TRACKER_TEST(last_take), TRACKER_TEST(expected_pages),
		TRACKER_TEST(forgotten_pages),
		TRACKER_TEST(merged_by_mremap), TRACKER_TEST(moved_tables), cmocka_unit_test(frames_of_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
