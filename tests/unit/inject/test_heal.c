/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tracer that dies with the frame laid leaves a task that goes on as if
 * nothing had been: vector registers too, also where the processor has state
 * (AMX) that the task was never allowed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "inject/question.h"
#include "kernel/ptrace.h"

enum { START, READY, GO, KEPT, LOST };

/* Keeps a pattern in a register, without a single call, until it is told to look. */
static void victim(volatile int *state)
{
	char pattern[32], seen[32];

	memset(pattern, 0x5a, sizeof(pattern));
	__asm__ volatile("vmovdqu %2, %%ymm7\n"
			 "movl %3, %1\n"
			 "1: cmpl %4, %1\n"
			 "jne 1b\n"
			 "vmovdqu %%ymm7, %0\n"
			 : "=m"(seen), "+m"(*state) : "m"(pattern), "i"(READY), "i"(GO) : "xmm7");
	*state = memcmp(pattern, seen, sizeof(seen)) == 0 ? KEPT : LOST;
	_exit(0);
}

/* Returns 0 when the frame is laid; the caller ends at once. */
static int lay(pid_t pid)
{
	struct proc_maps maps = { 0 };
	struct ptrace_stop stop;
	struct gadgets gadgets;
	struct subject s;
	struct err err;

	return ptrace_seize(pid, 0, &err) < 0 || ptrace_interrupt(pid, &err) < 0 ||
	       ptrace_wait(pid, &stop, NULL, &err) < 0 || proc_maps(pid, &maps, &err) < 0 ||
	       gadgets_find(pid, &maps, &gadgets, &err) < 0 || subject_see(pid, &s, &err) < 0 ||
	       subject_open(&s, &gadgets, &maps, &s, 1, &err) < 0;
}

static void keeps_vector_registers(void **unused)
{
	volatile int *state = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid, tracer;
	int status;

	(void)unused;
	if (!__builtin_cpu_supports("avx"))
		skip();
	pid = fork();
	if (pid == 0)
		victim(state);
	while (*state != READY)
		usleep(100);
	tracer = fork();
	if (tracer == 0)
		_exit(lay(pid));
	assert_int_equal(waitpid(tracer, &status, 0), tracer);
	assert_int_equal(status, 0);
	*state = GO;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(*state, KEPT);
	munmap((void *)state, 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(keeps_vector_registers) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
