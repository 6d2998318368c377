/* SPDX-License-Identifier: Apache-2.0 */
/* Where the interpreter may lie, and which mappings are the vdso's, whatever the ranges say. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "../cm.h"
#include "base/own.h"
#include "inject/vessel.h"

#define TASK_END 0x7ffffffff000ull

static void is_free(const struct blob_place *p, const struct taddr_range *ranges, size_t count)
{
	uint64_t hop_end = p->hop + 32 * 4096;

	assert_true(p->at % 4096 == 0 && p->len_bytes % 4096 == 0 && p->hop % 4096 == 0);
	assert_true(p->at >= 0x10000 && p->hop >= p->at + p->len_bytes && hop_end < TASK_END);
	for (size_t i = 0; i < count; i++)
		assert_true(ranges[i].end <= ranges[i].start || ranges[i].end <= p->at || ranges[i].start >= hop_end);
}

static void found(const struct taddr_range *ranges, size_t count, unsigned int threads)
{
	struct blob_place place;
	struct err err;

	OK(&err, blob_find_place(ranges, count, threads, &place, &err));
	is_free(&place, ranges, count);
	assert_true(place.len_bytes >= threads * 8192ull);
}

static void usual(void **state)
{
	static const struct taddr_range program[] = {
		{ 0x7ffc00000000, 0x7ffc00021000 }, { 0x400000, 0x500000 }, { 0x555555554000, 0x555555600000 },
		{ 0x7f0000000000, 0x7f0040000000 },
	}, in_the_way[] = { { 0x10000000, 0x10001000 }, { 0x11000000, 0x40000000 }, { 0x40300000, 0x40301000 } };

	(void)state;
	found(NULL, 0, 1);
	found(program, ARRAY_LEN(program), 1);
	found(program, ARRAY_LEN(program), 5000);
	found(in_the_way, ARRAY_LEN(in_the_way), 1);
	found(in_the_way, ARRAY_LEN(in_the_way), 100000);
}

/* One gap that is just large enough. */
static void narrow(void **state)
{
	struct taddr_range ranges[] = { { 0, 0x500000000000 }, { 0x500001000000, TASK_END } };
	struct blob_place place;
	struct err err;

	(void)state;
	found(ranges, 2, 1);
	FAILS(&err, ENOMEM, "no room", blob_find_place(ranges, 2, 10000, &place, &err));
}

static void hostile(void **state)
{
	static const struct taddr_range all[][2] = {
		{ { 0, TASK_END }, { 0, 0 } },
		{ { 0, UINT64_MAX }, { 0, 0 } },
		{ { 0x10000, UINT64_MAX - 4095 }, { 5, 5 } },
		{ { 0, 0x600000000000 }, { 0x600000000000, UINT64_MAX } },
		{ { 0x600000000000, UINT64_MAX }, { 0, 0x600000000000 } },
	};
	static const struct taddr_range odd[] = {
		{ 0xffffffff80000000, UINT64_MAX }, { 0x20000000, 0x10000000 }, { 0x10000001, 0x10000003 },
		{ UINT64_MAX, UINT64_MAX }, { UINT64_MAX, 0 },
	};
	struct blob_place place;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		FAILS(&err, ENOMEM, "no room", blob_find_place(all[i], 2, 1, &place, &err));
	found(odd, ARRAY_LEN(odd), 1);
	found(NULL, 0, UINT32_MAX);
}

/* ---- the vdso among mappings ---- */

static int find(struct vdso *v, struct err *err, size_t count, const struct proc_map *maps)
{
	struct proc_maps list = { .at = (struct proc_map *)maps, .len = count };

	return vdso_find(&list, v, err);
}

#define FIND(v, err, ...) \
	find(v, err, ARRAY_LEN(((struct proc_map[]){ __VA_ARGS__ })), (struct proc_map[]){ __VA_ARGS__ })
#define MAP(from, to, what) { .start = (from), .end = (to), .name = (what) }

static void vdso_parts(void **state)
{
	struct vdso v;
	struct err err;

	(void)state;
	OK(&err, FIND(&v, &err, MAP(0x1000, 0x2000, "/lib/x"), MAP(0x4000, 0x8000, "[vvar]"),
		      MAP(0x8000, 0xa000, "[vvar_vclock]"), MAP(0xa000, 0xc000, "[vdso]"), MAP(0xe000, 0xf000, "[stack]")));
	assert_int_equal(v.parts, 3);
	assert_int_equal(vdso_span(&v), 0x8000);
	assert_int_equal(vdso_code_offset(&v), 0x6000);
	OK(&err, FIND(&v, &err, MAP(0x4000, 0x6000, "[vdso]"), MAP(0x6000, 0x8000, "[vvar]")));
	assert_int_equal(vdso_span(&v), 0x4000);
	assert_int_equal(vdso_code_offset(&v), 0);
}

static void vdso_none(void **state)
{
	struct vdso v;
	struct err err;

	(void)state;
	FAILS(&err, ENOENT, "no [vdso]", FIND(&v, &err, MAP(0x1000, 0x2000, "/lib/x")));
	FAILS(&err, ENOENT, "no [vdso]", FIND(&v, &err, MAP(0x1000, 0x2000, "[vvar]")));
	FAILS(&err, ENOENT, "no [vdso]", find(&v, &err, 0, NULL));
}

static void vdso_torn(void **state)
{
	struct vdso v;
	struct err err;

	(void)state;
	FAILS(&err, EBADMSG, "vdso", FIND(&v, &err, MAP(0x4000, 0x8000, "[vvar]"), MAP(0x9000, 0xb000, "[vdso]")));
	FAILS(&err, EBADMSG, "vdso", FIND(&v, &err, MAP(0x1000, 0x2000, "[vdso]"), MAP(0x2000, 0x3000, "x"),
					  MAP(0x3000, 0x4000, "[vvar]")));
	FAILS(&err, EBADMSG, "over 6 parts",
	      FIND(&v, &err, MAP(0x1000, 0x2000, "[vvar]"), MAP(0x2000, 0x3000, "[vvar]"), MAP(0x3000, 0x4000, "[vvar]"),
		   MAP(0x4000, 0x5000, "[vvar]"), MAP(0x5000, 0x6000, "[vvar]"), MAP(0x6000, 0x7000, "[vvar]"),
		   MAP(0x7000, 0x8000, "[vdso]")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(usual),
		cmocka_unit_test(narrow),
		cmocka_unit_test(hostile),
		cmocka_unit_test(vdso_parts),
		cmocka_unit_test(vdso_none),
		cmocka_unit_test(vdso_torn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
