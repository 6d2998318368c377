/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "../cm.h"
#include "base/vec.h"

struct thing { int a; char b[20]; void *c; };

static void grows_zeroed(void **state)
{
	VEC(struct thing) v = { 0 };

	(void)state;
	for (int i = 0; i < 1000; i++) {
		struct thing *t = vec_add(&v), zero = { 0 };

		assert_memory_equal(t, &zero, sizeof(zero));
		memset(t, 0xff, sizeof(*t));
		t->a = i;
		assert_int_equal(v.len, i + 1);
		assert_true(v.len <= v.cap);
	}
	for (int i = 0; i < 1000; i++)
		assert_int_equal(v.at[i].a, i);
	/* shortened, and used again: still zeroed */
	v.len = 3;
	assert_int_equal(vec_add(&v)->a, 0);
	vec_free(&v);
	assert_true(!v.at && v.len == 0 && v.cap == 0);
	vec_add(&v)->a = 5;
	assert_int_equal(v.at[0].a, 5);
	vec_free(&v);
}

/* The new element may be made from one that growing moves away. */
static void push_of_its_own(void **state)
{
	VEC(uint64_t) v = { 0 };

	(void)state;
	vec_push(&v, 0x1122334455667788u);
	for (int i = 0; i < 5000; i++)
		vec_push(&v, v.at[v.len - 1] + 1);
	for (int i = 0; i < 5000; i++)
		assert_int_equal(v.at[i], 0x1122334455667788u + i);
	vec_free(&v);

	VEC(struct thing) things = { 0 };

	vec_add(&things)->a = 7;
	for (int i = 0; i < 5000; i++)
		vec_push(&things, things.at[things.len - 1]);
	assert_int_equal(things.at[5000].a, 7);
	vec_free(&things);
}

static void any_type(void **state)
{
	VEC(uint8_t) bytes = { 0 };
	VEC(const char *) names = { 0 };
	VEC(struct { int x; int y; }) pairs = { 0 };

	(void)state;
	vec_push(&bytes, 7);
	vec_push(&names, "n");
	vec_add(&pairs)->y = 2;
	assert_int_equal(bytes.at[0], 7);
	assert_string_equal(names.at[0], "n");
	assert_int_equal(pairs.at[0].x * 10 + pairs.at[0].y, 2);
	vec_free(&bytes);
	vec_free(&names);
	vec_free(&pairs);
}

static void free_of_nothing(void **state)
{
	VEC(int) v = { 0 };

	(void)state;
	vec_free(&v);
	vec_free(&v);
	assert_null(v.at);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grows_zeroed),
		cmocka_unit_test(push_of_its_own),
		cmocka_unit_test(any_type),
		cmocka_unit_test(free_of_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
