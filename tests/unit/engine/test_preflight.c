/* SPDX-License-Identifier: Apache-2.0 */
/* What a source wants and a target has: what is in the way, and that lists come through the wire or are refused. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "engine/preflight.h"

#include "../cm.h"

struct two { struct need wanted, have; const char *block; };     /* block: NULL: nothing is in the way */

#define TWO(kind, a1, b1, a2, b2, ...) { .wanted = { kind, 0, a1, b1, { 0 }, NULL }, .have = { kind, 0, a2, b2, { 0 }, NULL }, __VA_ARGS__ }

static void compare(const struct two *c, struct preflight_blocks *blocks)
{
	struct need wanted = c->wanted, have = c->have;
	struct need_list ours = { { &wanted, 1, 1 }, 0 }, theirs = { { &have, 1, 1 }, 0 };
	struct err err = { 0 };

	assert_int_equal(preflight_compare(&ours, &theirs, blocks, &err), 0);
}

static void check(const struct two *c)
{
	struct preflight_blocks blocks = { 0 };

	compare(c, &blocks);
	assert_int_equal(blocks.blocks.len, c->block ? 1 : 0);
	if (c->block) {
		if (!strstr(blocks.blocks.at[0].what, c->block))
			fail_msg("'%s' is not '%s'", blocks.blocks.at[0].what, c->block);
		assert_true(strlen(blocks.blocks.at[0].remedy) > 10);
	}
	vec_free(&blocks.blocks);
}

static void test_values(void **state)
{
	static const struct two cases[] = {
		TWO(NEED_PID, 7, 0, 7, PID_FREE, NULL),
		TWO(NEED_PID, 7, 0, 7, PID_TAKEN, "pid 7 is taken"),
		TWO(NEED_PID, 7, 0, 7, PID_TOO_LARGE, "process id 7 is above"),
		TWO(NEED_CPU, 1, 3, 3, 7, NULL),
		TWO(NEED_CPU, 3, 3, 1, 3, "the processor has no pclmulqdq"),
		TWO(NEED_CPU, 1, 7, 1, 3, "no components 0x4"),
		TWO(NEED_VDSO, 9, 4096, 9, 4096, NULL),
		TWO(NEED_VDSO, 9, 4096, 9, 8192, "another vdso"),
		TWO(NEED_VDSO, 9, 4096, 8, 4096, "another vdso"),
		TWO(NEED_FEATURE, 1, 0, 1, 0, NULL),
		TWO(NEED_FEATURE, 1, 0, 0, 0, "does not offer"),
		TWO(NEED_MEMORY, 1 << 20, 0, 1 << 20, 0, NULL),
		TWO(NEED_MEMORY, 2 << 20, 0, (2 << 20) - 1, 0, "1 MiB of memory are available, 2 are needed"),
		TWO(NEED_ADDRESS, 0, 0, 0, 0, NULL),
		TWO(NEED_ADDRESS, 0, 0, 0, EADDRINUSE, "is in use"),
		TWO(NEED_ADDRESS, 0, 0, 0, EADDRNOTAVAIL, "Cannot assign"),
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		check(&cases[i]);
}

static void test_files(void **state)
{
	char path[] = "/lib/x";
	struct two c = { .wanted = { NEED_FILE, NEED_MAPPED, 100, S_IFREG, { 1, 2 }, path },
			 .have = { NEED_FILE, NEED_MAPPED, 100, S_IFREG, { 1, 2 }, path } };

	(void)state;
	check(&c);
	c.have.a = 101;
	c.block = "has another size: 101 bytes, here 100";
	check(&c);
	c.have.id[1] = 3;
	c.block = "/lib/x is another build";
	check(&c);
	c.wanted.flags = 0;             /* of what is not mapped a name and a kind are enough */
	c.block = NULL;
	check(&c);
	c.have.b = S_IFDIR;
	c.block = "another kind of file";
	check(&c);
	c.have.b = 0;
	c.block = "/lib/x is missing";
	check(&c);
}

static void test_another_list(void **state)
{
	struct need one = { .kind = NEED_PID, .a = 1 }, other = { .kind = NEED_MEMORY };
	struct need_list ours = { { &one, 1, 1 }, 0 }, theirs = { { &other, 1, 1 }, 0 }, none = { 0 };
	struct preflight_blocks blocks = { 0 };
	struct err err = { 0 };

	(void)state;
	assert_int_equal(preflight_compare(&ours, &theirs, &blocks, &err), -EBADMSG);
	assert_int_equal(preflight_compare(&ours, &none, &blocks, &err), -EBADMSG);
}

static void test_refusals(void **state)
{
	struct preflight_blocks blocks = { 0 };
	struct err err = { .scope = "task 4 > fd 3", .text = "it holds a file lock: not handled yet" };

	(void)state;
	preflight_refusal(&blocks, &err);
	assert_string_equal(blocks.blocks.at[0].what, "task 4 > fd 3: it holds a file lock: not handled yet");
	assert_non_null(strstr(blocks.blocks.at[0].remedy, "release the lock"));
	vec_free(&blocks.blocks);
}

/* ---- over the wire ---- */

/* One frame of these bytes, the empty one behind it, taken. */
static int take(const void *bytes, size_t len, struct need_list *ret)
{
	own_fd fd = memfd_create("frames", MFD_CLOEXEC);
	struct iovec part = { (void *)(uintptr_t)bytes, len };
	struct frame_out out;
	struct frame_in in;
	struct err err = { 0 };

	assert_int_equal(frame_out_begin(&out, fd, &err), 0);
	assert_int_equal(frame_put(&out, FRAME_CHECK, &part, 1, &err), 0);
	assert_int_equal(frame_put(&out, FRAME_CHECK, NULL, 0, &err), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(frame_in_begin(&in, fd, &err), 0);
	return need_list_take(ret, &in, NULL, &err);
}

static void test_round_trip(void **state)
{
	struct need_list list = { 0 }, same = { 0 };
	own_fd fd = memfd_create("frames", MFD_CLOEXEC);
	struct frame_out out;
	struct frame_in in;
	struct err err = { 0 };

	(void)state;
	for (uint64_t i = 0; i < 600; i++)      /* of which there are more than one frame has room for */
		vec_push(&list.needs, ((struct need){ .kind = NEED_FILE, .a = i, .b = S_IFREG, .text = mem_fmt("/%03d%04000d", (int)i, 0) }));
	assert_int_equal(frame_out_begin(&out, fd, &err), 0);
	assert_int_equal(need_list_send(&list, &out, &err), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(frame_in_begin(&in, fd, &err), 0);
	assert_int_equal(need_list_take(&same, &in, NULL, &err), 0);
	assert_int_equal(same.needs.len, list.needs.len);
	for (size_t i = 0; i < list.needs.len; i++) {
		assert_string_equal(same.needs.at[i].text, list.needs.at[i].text);
		assert_int_equal(same.needs.at[i].a, i);
	}
	need_list_free(&list);
	need_list_free(&same);
}

/* As preflight.c lays them: 24 bytes of numbers, 20 of id, the text's length. */
struct raw { uint32_t kind, flags; uint64_t a, b; uint8_t id[20]; uint32_t text_len; char text[8]; };

static void test_broken(void **state)
{
	static const struct { struct raw raw; size_t len; int result; } cases[] = {
		{ { .kind = NEED_PID, .a = 5 }, 48, 0 },
		{ { .kind = NEED_FILE, .text_len = 2, .text = "/x" }, 50, 0 },
		{ { .kind = NEED_PID, .a = 5 }, 47, -EBADMSG },
		{ { .kind = 0 }, 48, -EBADMSG },
		{ { .kind = NEED_KINDS }, 48, -EBADMSG },
		{ { .kind = NEED_PID, .a = 0 }, 48, -EBADMSG },
		{ { .kind = NEED_PID, .a = 1ull << 32 }, 48, -EBADMSG },
		{ { .kind = NEED_FILE, .text_len = 0 }, 48, -EBADMSG },
		{ { .kind = NEED_FILE, .text_len = 1, .text = "x" }, 49, -EBADMSG },
		{ { .kind = NEED_FILE, .text_len = 3, .text = "/x" }, 51, -EBADMSG },           /* a zero in it */
		{ { .kind = NEED_FILE, .text_len = 3, .text = "/\033" }, 50, -EBADMSG },        /* longer than the frame */
		{ { .kind = NEED_FILE, .text_len = 2, .text = "/\033" }, 50, -EBADMSG },
		{ { .kind = NEED_FILE, .text_len = UINT32_MAX, .text = "/x" }, 50, -EBADMSG },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct need_list list = { 0 };
		int r = take(&cases[i].raw, cases[i].len, &list);

		if (r != cases[i].result)
			fail_msg("case %zu: %d", i, r);
		need_list_free(&list);
	}
}

static void test_own_machine(void **state)
{
	struct need_list list = { 0 };
	struct err err = { 0 };

	(void)state;
	vec_push(&list.needs, ((struct need){ .kind = NEED_PID, .a = (uint64_t)getpid() }));
	vec_push(&list.needs, ((struct need){ .kind = NEED_FILE, .flags = NEED_MAPPED, .text = mem_str("/proc/self/exe") }));
	vec_push(&list.needs, ((struct need){ .kind = NEED_FILE, .text = mem_str("/nonexistent/file") }));
	vec_push(&list.needs, ((struct need){ .kind = NEED_ADDRESS, .a = 255 }));
	assert_int_equal(preflight_look(&list, &err), 0);
	assert_int_equal(list.needs.at[0].b, PID_TAKEN);
	assert_int_equal(list.needs.at[1].b, S_IFREG);
	assert_true(list.needs.at[1].a > 0);
	assert_int_equal(list.needs.at[2].b, 0);
	assert_int_equal(list.needs.at[3].b, EAFNOSUPPORT);
	need_list_free(&list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),     cmocka_unit_test(test_files),  cmocka_unit_test(test_another_list),
		cmocka_unit_test(test_refusals),   cmocka_unit_test(test_round_trip), cmocka_unit_test(test_broken),
		cmocka_unit_test(test_own_machine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
