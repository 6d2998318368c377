/* SPDX-License-Identifier: Apache-2.0 */
/* The two pieces of code are found in every program, wherever in a mapping they lie. */
#include "tasks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/own.h"
#include "inject/question.h"
#include "kernel/sys.h"

static const uint8_t LONG_FORM[] = { 0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05 };
static const uint8_t SHORT_FORM[] = { 0xb8, 15, 0, 0, 0, 0x0f, 0x05 };

static void are_right(pid_t pid, const struct gadgets *g)
{
	uint8_t code[9], insn[2];
	struct err err;

	OK(&err, sys_read_memory(pid, g->syscall, insn, sizeof(insn), &err));
	assert_memory_equal(insn, LONG_FORM + 7, 2);
	OK(&err, sys_read_memory(pid, g->sigreturn, code, sizeof(SHORT_FORM), &err));
	if (code[0] == SHORT_FORM[0]) {
		assert_memory_equal(code, SHORT_FORM, sizeof(SHORT_FORM));
		return;
	}
	OK(&err, sys_read_memory(pid, g->sigreturn, code, sizeof(LONG_FORM), &err));
	assert_memory_equal(code, LONG_FORM, sizeof(LONG_FORM));
}

static void programs(void **state)
{
	const char *const all[][4] = {
		{ getenv("STILL") ? getenv("STILL") : "still-static" },
		{ "bash", "-c", "echo; read" },
		{ "sh", "-c", "echo; read x" },
		{ "python3", "-c", "import sys; print(flush=True); sys.stdin.read()" },
		{ "busybox", "sh", "-c", "echo; read x" },
		{ "node", "-e", "console.log(); process.stdin.resume()" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		struct proc_maps maps = { 0 };
		struct gadgets g;
		struct err err;
		own_fd input = -1;
		pid_t pid = task_exec(all[i], &input);

		print_message("  %s%s\n", all[i][0], pid < 0 ? ": not here" : "");
		if (pid < 0)
			continue;
		OK(&err, proc_maps(pid, &maps, &err));
		OK(&err, gadgets_find(pid, &maps, &g, &err));
		are_right(pid, &g);
		proc_maps_free(&maps);
		task_end(pid);
	}
}

/* ---- in mappings of our own ---- */

#define PIECE  (256u * 1024)
#define LENGTH (3 * PIECE + 4096)

static uint8_t *area(void)
{
	uint8_t *at = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(at, MAP_FAILED);
	return at;
}

static int find_in(const uint8_t *at, size_t len, int prot, const char *name, struct gadgets *g, struct err *err)
{
	struct proc_map map = { .start = (uintptr_t)at, .end = (uintptr_t)at + len, .prot = prot, .name = name };
	struct proc_maps maps = { .at = &map, .len = 1 };

	return gadgets_find(getpid(), &maps, g, err);
}

/* At every offset around the borders of whatever pieces it is read in, and at both ends. */
static void anywhere(void **state)
{
	static const struct { const uint8_t *code; size_t len; } forms[] = {
		{ LONG_FORM, sizeof(LONG_FORM) }, { SHORT_FORM, sizeof(SHORT_FORM) },
	};
	static const size_t borders[] = { 16, PIECE, 2 * PIECE, LENGTH - 16 };
	uint8_t *at = area();
	struct gadgets g;
	struct err err;

	(void)state;
	for (size_t f = 0; f < ARRAY_LEN(forms); f++)
		for (size_t b = 0; b < ARRAY_LEN(borders); b++)
			for (size_t k = borders[b] - 16; k <= borders[b] + 16 - forms[f].len; k++) {
				memcpy(at + k, forms[f].code, forms[f].len);
				if (find_in(at, LENGTH, PROT_READ | PROT_EXEC, "", &g, &err) < 0)
					fail_msg("form %zu at %#zx: %s", f, k, err.text);
				assert_int_equal(g.sigreturn, (uintptr_t)at + k);
				assert_int_equal(g.syscall, (uintptr_t)at + k + forms[f].len - 2);
				memset(at + k, 0, forms[f].len);
			}
	munmap(at, LENGTH);
}

static void not_all_there(void **state)
{
	uint8_t *at = area();
	struct gadgets g;
	struct err err;

	(void)state;
	FAILS(&err, ENOENT, "rt_sigreturn", find_in(at, LENGTH, PROT_READ | PROT_EXEC, "", &g, &err));
	memcpy(at + 100, "\x0f\x05", 2);        /* a call, but no sigreturn */
	memcpy(at + 200, "\xb8\x0e\0\0\0\x0f\x05", 7);
	FAILS(&err, ENOENT, "rt_sigreturn", find_in(at, LENGTH, PROT_READ | PROT_EXEC, "", &g, &err));
	memcpy(at + 300, SHORT_FORM, sizeof(SHORT_FORM));
	FAILS(&err, ENOENT, "rt_sigreturn", find_in(at, LENGTH, PROT_READ | PROT_WRITE, "", &g, &err));
	FAILS(&err, ENOENT, "rt_sigreturn", find_in(at, LENGTH, PROT_READ | PROT_EXEC, "[vsyscall]", &g, &err));
	OK(&err, find_in(at, LENGTH, PROT_READ | PROT_EXEC, "", &g, &err));
	/* a mapping that can't be read to its end */
	munmap(at + PIECE, PIECE);
	OK(&err, find_in(at, LENGTH, PROT_READ | PROT_EXEC, "", &g, &err));
	munmap(at, LENGTH);
	FAILS(&err, ENOENT, "rt_sigreturn", find_in(at, LENGTH, PROT_READ | PROT_EXEC, "", &g, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(programs),
		cmocka_unit_test(anywhere),
		cmocka_unit_test(not_all_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
