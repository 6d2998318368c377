/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers as people read them, at the edges. */
#include "fixture.h"
#include "front/words.h"

static void test_sizes(void **state)
{
	char buf[16];

	(void)state;
	assert_string_equal(size_text(0, buf), "0 B");
	assert_string_equal(size_text(1023, buf), "1023 B");
	assert_string_equal(size_text(1024, buf), "1.0 KiB");
	assert_string_equal(size_text(64u << 20, buf), "64.0 MiB");
	assert_string_equal(size_text(UINT64_MAX, buf), "16.0 EiB");
}

static void test_counts(void **state)
{
	char buf[32], things[64];

	(void)state;
	assert_string_equal(count_text(0, buf), "0");
	assert_string_equal(count_text(999, buf), "999");
	assert_string_equal(count_text(1000, buf), "1,000");
	assert_string_equal(count_text(UINT64_MAX, buf), "18,446,744,073,709,551,615");
	assert_string_equal(things_text(1, "task", things), "1 task");
	assert_string_equal(things_text(16384, "page", things), "16,384 pages");
}

static void test_times(void **state)
{
	char buf[24];

	(void)state;
	assert_string_equal(time_text(999, buf), "999 us");
	assert_string_equal(time_text(12345, buf), "12.3 ms");
	assert_string_equal(time_text(4210000, buf), "4.21 s");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_times),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
