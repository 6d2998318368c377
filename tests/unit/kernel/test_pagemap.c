/* SPDX-License-Identifier: Apache-2.0 */
/* Written pages of this very process, found by each of the two doors. */
#include "cm.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"

#define PAGE 4096u
#define PAGES 64u

static char *area(void)
{
	char *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(at, MAP_FAILED);
	madvise(at, PAGES * PAGE, MADV_NOHUGEPAGE);
	at[3 * PAGE] = at[4 * PAGE] = at[10 * PAGE] = 1;
	return at;
}

static void classic_entries(void **state)
{
	uint64_t entries[PAGES];
	char *at = area();
	own_fd fd = -1;
	struct err err;

	(void)state;
	assert_int_equal(pagemap_open(getpid(), &fd, &err), 0);
	assert_int_equal(pagemap_read(fd, (uint64_t)at, PAGES, entries, &err), PAGES);
	for (unsigned int i = 0; i < PAGES; i++)
		assert_int_equal(!!(entries[i] & (PM_ENTRY_PRESENT | PM_ENTRY_SWAPPED)), i == 3 || i == 4 || i == 10);
	munmap(at, PAGES * PAGE);
}

static void scan_regions(void **state)
{
	const struct pm_scan what = { .anyof = PM_PRESENT | PM_SWAPPED, .ret_mask = PM_PRESENT | PM_SWAPPED | PM_FILE };
	struct pm_region regions[8];
	char *at = area();
	uint64_t start = (uint64_t)at, walk_end;
	own_fd fd = -1;
	struct err err;
	int n;

	(void)state;
	assert_int_equal(pagemap_open(getpid(), &fd, &err), 0);
	n = pagemap_scan(fd, &what, start, start + PAGES * PAGE, regions, 8, &walk_end, &err);
	if (n == -ENOTTY)
		skip();
	assert_int_equal(n, 2);
	assert_true(regions[0].start == start + 3 * PAGE && regions[0].end == start + 5 * PAGE);
	assert_true(regions[1].start == start + 10 * PAGE && regions[1].end == start + 11 * PAGE);
	assert_true(walk_end == start + PAGES * PAGE);
	n = pagemap_scan(fd, &what, start, start + PAGES * PAGE, regions, 1, &walk_end, &err);
	assert_int_equal(n, 1);
	assert_true(walk_end >= start + 5 * PAGE && walk_end <= start + 10 * PAGE);
	munmap(at, PAGES * PAGE);
}

static void writes_are_noted(void **state)
{
	const struct pm_scan what = { .flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, .mask = PM_WRITTEN, .ret_mask = PM_WRITTEN };
	struct pm_region regions[8];
	char *at = area();
	uint64_t start = (uint64_t)at, end = start + PAGES * PAGE, walk_end;
	own_fd fd = -1, uffd = -1;
	struct err err;

	(void)state;
	if (uffd_open(&uffd, &err) < 0 || uffd_enable(uffd, UFFD_WP_ASYNC | UFFD_WP_UNPOPULATED, &err) < 0)
		skip();
	assert_int_equal(pagemap_open(getpid(), &fd, &err), 0);
	assert_int_equal(pagemap_scan(fd, &what, start, end, regions, 8, &walk_end, &err), -EPERM);
	assert_int_equal(uffd_register_wp(uffd, start, PAGES * PAGE, &err), 0);
	assert_int_equal(pagemap_scan(fd, &what, start, end, regions, 8, &walk_end, &err), 1);
	assert_true(regions[0].start == start && regions[0].end == end);
	assert_int_equal(pagemap_scan(fd, &what, start, end, regions, 8, &walk_end, &err), 0);
	at[7 * PAGE] = 1;
	assert_int_equal(pagemap_scan(fd, &what, start, end, regions, 8, &walk_end, &err), 1);
	assert_true(regions[0].start == start + 7 * PAGE && regions[0].end == start + 8 * PAGE);
	assert_int_equal(uffd_unregister(uffd, start, PAGES * PAGE, &err), 0);
	munmap(at, PAGES * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(classic_entries), cmocka_unit_test(scan_regions), cmocka_unit_test(writes_are_noted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
