/* SPDX-License-Identifier: Apache-2.0 */
/* Scripts as bytes, what does not fit, and what is said of an op that failed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "../cm.h"
#include "base/own.h"
#include "inject/script.h"

#define AREA 0x10001000ull
#define OPS  4u                 /* that fit */

static int setup(void **state)
{
	struct script *s = malloc(sizeof(*s));

	script_init(s, AREA, 256, sizeof(struct op_header) + OPS * sizeof(struct op) + 7);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	script_free(*state);
	free(*state);
	return 0;
}

static void encoded(void **state)
{
	struct script *s = *state;
	struct op_header h;
	struct op ops[3];
	size_t len;

	script_call(s, OP_WANT_ZERO, SYS_munmap, 0x1000, 0x2000);
	script_call_value(s, 77, SYS_mmap, "mmap", 1, 2, 3, 4, 5, 6);
	script_call_as(s, OP_WANT_ANY, SYS_madvise, "advice", 9);
	own_free char *bytes = script_encode(s, &len);
	assert_int_equal(len, sizeof(h) + sizeof(ops));
	memcpy(&h, bytes, sizeof(h));
	memcpy(ops, bytes + sizeof(h), sizeof(ops));
	assert_true(h.count == 3 && h.index == 0 && h.result == 0);
	assert_true(ops[0].nr == SYS_munmap && ops[0].want == OP_WANT_ZERO && ops[0].arg[1] == 0x2000 && ops[0].arg[2] == 0);
	assert_true(ops[1].nr == SYS_mmap && ops[1].want == OP_WANT_VALUE && ops[1].value == 77 && ops[1].arg[5] == 6);
	assert_true(ops[2].want == OP_WANT_ANY && ops[2].arg[0] == 9);
	assert_string_equal(s->names.at[0], "munmap");
	assert_string_equal(s->names.at[2], "advice");
}

static void empty(void **state)
{
	struct op_header h;
	size_t len;

	own_free void *bytes = script_encode(*state, &len);
	assert_int_equal(len, sizeof(h));
	memcpy(&h, bytes, sizeof(h));
	assert_int_equal(h.count, 0);
	assert_int_equal(script_verdict(*state, &h, NULL), 0);
}

static void data(void **state)
{
	struct script *s = *state;

	assert_int_equal(script_data(s, "abc", 3), AREA);
	assert_int_equal(script_data(s, "0123456789abcdefX", 17), AREA + 16);
	assert_int_equal(script_data(s, NULL, 0), AREA + 48);
	assert_int_equal(script_data(s, "z", 1), AREA + 48);
	assert_memory_equal(s->data.at, "abc\0\0\0\0\0\0\0\0\0\0\0\0\0" "0123456789abcdefX", 33);
	assert_int_equal(s->data.at[48], 'z');
	assert_false(s->overflow);
}

/* Whatever order ops and data come in, what was taken lies in the area. */
static void overflow(void **state)
{
	struct script *s = *state;
	char bytes[256] = { 1 };

	for (size_t len = 0; len <= 256; len++) {
		script_clear(s);
		script_data(s, "x", 1);
		bool fits = script_fits(s, 0, len);
		taddr at = script_data(s, bytes, len);

		assert_int_equal(s->overflow, !fits);
		assert_true(fits || len > 200);
		assert_true(s->data.len <= s->data_max);
		assert_true(at >= AREA && (!fits || at + len <= AREA + 256));
	}
	script_clear(s);
	for (unsigned int i = 0; i < OPS; i++) {
		assert_true(script_fits(s, OPS - i, 0));
		assert_false(script_fits(s, OPS - i + 1, 0));
		script_call(s, OP_WANT_ZERO, SYS_getpid, i);
	}
	assert_false(s->overflow);
	script_call(s, OP_WANT_ZERO, SYS_getpid, 9);
	assert_true(s->overflow);
	assert_int_equal(s->ops.len, OPS);
	assert_int_equal(s->names.len, OPS);
	script_clear(s);
	assert_false(s->overflow);
	assert_true(script_fits(s, OPS, 200));
}

/* Lengths may come from far away. */
static void huge(void **state)
{
	struct script *s = *state;

	script_data(s, "x", 1);
	script_call(s, OP_WANT_ZERO, SYS_getpid, 0);
	assert_false(script_fits(s, 0, SIZE_MAX));
	assert_false(script_fits(s, 0, SIZE_MAX - 15));
	assert_false(script_fits(s, SIZE_MAX, 0));
	assert_false(script_fits(s, SIZE_MAX / sizeof(struct op) + 1, 0));
}

static int verdict(struct script *s, uint64_t index, int64_t result, struct err *err)
{
	const struct op_header h = { .count = s->ops.len, .index = index, .result = result };

	return script_verdict(s, &h, err);
}

static void verdicts(void **state)
{
	struct script *s = *state;
	struct err err;

	script_call(s, OP_WANT_ZERO, SYS_munmap, 0xabc000, 0x2000);
	script_call_value(s, 0x7000, SYS_mmap, "map text", 0x7000, 4096, 3);
	assert_int_equal(verdict(s, 2, 0, &err), 0);
	FAILS(&err, EINVAL, "munmap (0xabc000, 0x2000, 0): Invalid argument", verdict(s, 0, -EINVAL, &err));
	FAILS(&err, EEXIST, "map text (0x7000, 0x1000, 0x3): File exists", verdict(s, 1, -EEXIST, &err));
	FAILS(&err, EIO, "map text: result 36864, wanted 28672", verdict(s, 1, 0x9000, &err));
	FAILS(&err, EIO, "munmap: result 5, wanted 0", verdict(s, 0, 5, &err));
	FAILS(&err, EIO, "munmap: result -4096, wanted 0", verdict(s, 0, -4096, &err));
	FAILS(&err, EBADMSG, "broken", verdict(s, 3, 0, &err));
	FAILS(&err, EBADMSG, "broken", verdict(s, UINT64_MAX, -1, &err));
}

#define SCRIPT_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SCRIPT_TEST(encoded),
		SCRIPT_TEST(empty),
		SCRIPT_TEST(data),
		SCRIPT_TEST(overflow),
		SCRIPT_TEST(huge),
		SCRIPT_TEST(verdicts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
