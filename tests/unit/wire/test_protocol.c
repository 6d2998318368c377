/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of the page server's protocol: bytes as CRIU has them, and what is refused. */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "../cm.h"
#include "wire/ps_protocol.h"
#include "wire/ps_sum.h"

#define USER_END 0x800000000000ull
#define SUMMED   0x4d55532d59525246ull

struct raw { uint32_t command, anything; uint64_t pages, start, id_type; };

static int decode(struct raw raw, struct ps_message *ret, struct err *err)
{
	uint8_t bytes[PS_HEADER_BYTES];

	memcpy(bytes, &raw, sizeof(bytes));
	return ps_decode(bytes, ret, err);
}

static void bytes_are_as_they_are_on_the_wire(void **state)
{
	static const uint8_t wanted[PS_HEADER_BYTES] = {
		6, 0, 4, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 1, 0x39, 0x30, 0, 0, 0, 0, 0 };
	uint8_t bytes[PS_HEADER_BYTES];

	(void)state;
	ps_encode(&(struct ps_message){ .command = PS_ADD, .where = PS_HERE, .type = PS_TASK, .id = 12345, .start = 0x400000, .pages = 3 },
		  bytes);
	assert_memory_equal(bytes, wanted, sizeof(wanted));
}

static void all_come_back(void **state)
{
	static const struct ps_message all[] = {
		{ .command = PS_OPEN, .type = PS_TASK, .id = 1 },
		{ .command = PS_OPEN2, .type = PS_SHMEM, .id = 0 },
		{ .command = PS_OPEN2, .type = PS_SHMEM, .id = (1ull << 56) - 1 },
		{ .command = PS_PARENT, .type = PS_TASK, .id = INT_MAX },
		{ .command = PS_PARENT, .type = PS_TASK, .id = 1, .summed = true },
		{ .command = PS_ADD, .type = PS_TASK, .id = 7, .where = PS_HERE, .start = 0, .pages = USER_END / PS_PAGE_BYTES },
		{ .command = PS_ADD, .type = PS_SHMEM, .id = 7, .where = PS_IN_PARENT, .start = USER_END - 4096, .pages = 1 },
		{ .command = PS_CLOSE },
		{ .command = PS_CLOSE, .summed = true, .sum = 0xfedcba9876543210 },
		{ .command = PS_FORCE_CLOSE, .summed = true, .sum = 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct ps_message back;
		struct err err = { 0 };
		uint8_t bytes[PS_HEADER_BYTES];

		ps_encode(&all[i], bytes);
		OK(&err, ps_decode(bytes, &back, &err));
		assert_memory_equal(&back, &all[i], sizeof(back));
	}
}

static void older_forms_and_what_means_nothing(void **state)
{
	struct ps_message m;
	struct err err = { 0 };

	(void)state;
	OK(&err, decode((struct raw){ 1, 77, 2, 0x10000, 7 << 8 | 1 }, &m, &err));
	assert_true(m.command == PS_ADD && m.where == PS_HERE && m.pages == 2 && m.id == 7);
	OK(&err, decode((struct raw){ 2, 77, 2, 0x10000, 7 << 8 | 1 }, &m, &err));
	assert_true(m.command == PS_ADD && m.where == PS_IN_PARENT);
	OK(&err, decode((struct raw){ 6 | 6 << 16, 0, 1, 0x10000, 7 << 8 | 1 }, &m, &err));     /* present, and could be lazy */
	assert_true(m.where == PS_HERE);
	OK(&err, decode((struct raw){ 0x1023, ~0u, 1, 3, ~0ull }, &m, &err));
	assert_true(m.command == PS_CLOSE && !m.summed && m.sum == 0);
	OK(&err, decode((struct raw){ 4, ~0u, 1, 3, 7 << 8 | 1 }, &m, &err));
	assert_true(m.command == PS_OPEN2 && m.pages == 0 && m.start == 0);
}

static void what_is_refused(void **state)
{
	static const struct { const char *word; struct raw raw; } bad[] = {
		{ "none of a page server's", { 0, 0, 1, 0, 0x101 } },
		{ "none of a page server's", { 8, 0, 1, 0, 0x101 } },
		{ "none of a page server's", { 0x1025, 0, 1, 0, 0x101 } },
		{ "asks for pages", { 7, 0, 1, 0, 0x101 } },
		{ "out of place", { 6 | 4 << 16, 0, 0, 0, 0x101 } },
		{ "out of place", { 6 | 4 << 16, 0, 1, 1, 0x101 } },
		{ "out of place", { 6 | 4 << 16, 0, 1, USER_END, 0x101 } },
		{ "out of place", { 6 | 4 << 16, 0, 1, USER_END + 4096, 0x101 } },
		{ "out of place", { 6 | 4 << 16, 0, USER_END / 4096, 4096, 0x101 } },
		{ "out of place", { 6 | 4 << 16, 0, 1ull << 60, 0, 0x101 } },
		{ "out of place", { 6 | 4 << 16, 0, ~0ull, 0x1000, 0x101 } },
		{ "out of place", { 6 | 4 << 16, 0, SUMMED, 0x1000, 0x101 } },
		{ "nowhere", { 6, 0, 1, 0, 0x101 } },
		{ "nowhere", { 6 | 2 << 16, 0, 1, 0, 0x101 } },
		{ "nowhere", { 6 | 5 << 16, 0, 1, 0, 0x101 } },
		{ "nowhere", { 6u | 0x8004u << 16, 0, 1, 0, 0x101 } },
		{ "there is not", { 3, 0, 0, 0, 0x001 } },
		{ "there is not", { 3, 0, 0, 0, 0x100 } },
		{ "there is not", { 4, 0, 0, 0, 0x103 } },
		{ "there is not", { 5, 0, 0, 0, 1ull << 39 | 1 } },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct ps_message m = { .id = 99 };
		struct err err = { 0 };

		FAILS(&err, EBADMSG, bad[i].word, decode(bad[i].raw, &m, &err));
		assert_int_equal(m.id, 99);
	}
}

/* The sum is of what was sent, however the receiver cuts it; and of all of it. */
static void sums(void **state)
{
	const struct ps_message m = { .command = PS_ADD, .where = PS_HERE, .type = PS_TASK, .id = 7, .start = 0x1000, .pages = 4 };
	struct ps_message other = m;
	static uint8_t pages[4 * PS_PAGE_BYTES];
	uint64_t all[4], one[4], sum;

	(void)state;
	for (size_t i = 0; i < sizeof(pages); i++)
		pages[i] = (uint8_t)(i * 31 >> 3 ^ i / PS_PAGE_BYTES);
	ps_sum_pages(pages, 4, all);
	for (size_t i = 0; i < 4; i++)
		ps_sum_pages(pages + i * PS_PAGE_BYTES, 1, &one[i]);
	assert_memory_equal(all, one, sizeof(all));
	sum = ps_sum_add(ps_sum_message(0, &m), all, 4);
	assert_true(sum == ps_sum_add(ps_sum_add(ps_sum_message(0, &m), all, 1), all + 1, 3));
	other.start += 0x1000;
	assert_true(sum != ps_sum_add(ps_sum_message(0, &other), all, 4));
	pages[2 * PS_PAGE_BYTES + 5] ^= 1;
	ps_sum_pages(pages, 4, all);
	assert_true(sum != ps_sum_add(ps_sum_message(0, &m), all, 4));
	all[2] = one[3];
	all[3] = one[2];
	assert_true(sum != ps_sum_add(ps_sum_message(0, &m), all, 4));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_are_as_they_are_on_the_wire), cmocka_unit_test(all_come_back),
		cmocka_unit_test(older_forms_and_what_means_nothing), cmocka_unit_test(what_is_refused), cmocka_unit_test(sums),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
