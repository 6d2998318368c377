/* SPDX-License-Identifier: Apache-2.0 */
/* Where there is room to ask a thread: stacks in pieces, small ones, in a heap, and of other threads. */
#include "asked.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/sys.h"

/* While a thread is open nothing but dead stack is other than it was: checked from `at` on. */
static int open_changes_nothing(struct asked *a, struct subject *all, size_t index, taddr at, size_t len)
{
	uint8_t *before = mem_new(len), *now = mem_new(len);
	int r;

	OK(&a->err, sys_read_memory(a->pid, at, before, len, &a->err));
	r = subject_open(&all[index], &a->gadgets, &a->maps, all, 2, &a->err);
	if (r == 0)
		assert_int_equal(ask(a, &all[index], SYS_gettid, 0, 0), all[index].tid);
	OK(&a->err, sys_read_memory(a->pid, at, now, len, &a->err));
	assert_memory_equal(before, now, len);
	OK(&a->err, subject_close(&all[index], &a->err));
	free(before);
	free(now);
	return r;
}

enum { SECOND = 1, IN_PIECES = 2, BACK = 4, UNTOUCHED = 8, WAYS = 16, CUT = 20 };

/* The stack pointer is moved far below what the stack has grown to, and nothing was written there yet. */
static void far_below(struct board *b)
{
	__asm__ volatile("mov %%rsp, %%rbx\n"
			 "sub $65536, %%rsp\n"
			 "1: lock incq %[beat]\n"
			 "cmpl $0, %[word]\n"
			 "je 1b\n"
			 "mov %%rbx, %%rsp\n"
			 : [beat] "+m"(*(uint64_t *)&b->beat)
			 : [word] "m"(*(uint32_t *)&b->word)
			 : "rbx", "memory", "cc");
}

static void until_word(struct board *b)
{
	while (!atomic_load(&b->word))
		atomic_fetch_add(&b->beat, 1);
}

static __attribute__((noinline)) int deep(struct board *b, int left)
{
	const unsigned long how = atomic_load(&b->go);
	volatile char frame[8192];
	int sum;

	memset((void *)frame, left, sizeof(frame));
	if (left == 0 && how & UNTOUCHED)
		far_below(b);
	else if (left == 0 && !(how & BACK))
		until_word(b);
	if (left == 0)
		return 0;
	if (left == CUT && how & IN_PIECES)
		madvise((void *)((uintptr_t)frame & -4096ul), 4096, MADV_DONTDUMP);
	sum = deep(b, left - 1) + frame[left];
	if (left == CUT + 1 && how & BACK)
		until_word(b);
	return sum;
}

static void goes_deep(void *arg)
{
	struct board *b = arg;

	if (atomic_load(&b->go) & SECOND) {
		pthread_t t;

		pthread_create(&t, NULL, second_thread, arg);
		until_more(&b->other_tid, 0);
	}
	deep(b, 60);
}

/* What the stack has grown to at and above where a thread stands: the red zone may be below it. */
static taddr grown_at(struct asked *a, taddr rsp)
{
	for (size_t i = 0; i < a->maps.len; i++)
		if (a->maps.at[i].end > rsp)
			return a->maps.at[i].start > rsp - 128 ? a->maps.at[i].start : rsp - 128;
	fail_msg("nothing above the stack pointer");
	return 0;
}

/*
 * The stack pointer of the main thread is at the very end of what its stack has ever been, or beyond it: there is no
 * room below, and what is above is alive.  So it is made to grow, alone or beside another thread, in one piece or
 * in several.  Or it is back where one of several pieces ends: the room is in the pieces below.
 */
static void no_room(void **state)
{
	struct asked *a = *state;

	for (unsigned long how = 0; how < WAYS; how++) {
		const unsigned long threads = how & SECOND ? 2 : 1;
		struct subject s[2] = { 0 };
		pid_t other;

		atomic_store(&a->board->go, how);
		atomic_store(&a->board->beat, 0);
		atomic_store(&a->board->other_tid, 0);
		start(a, goes_deep);
		until_more(&a->board->beat, 0);
		other = threads == 2 ? (pid_t)atomic_load(&a->board->other_tid) : a->pid;
		hold(a, a->pid);
		if (other != a->pid)
			hold(a, other);
		look(a);
		OK(&a->err, subject_see(a->pid, &s[0], &a->err));
		OK(&a->err, subject_see(other, &s[1], &a->err));
		struct image *before = image_of(a, a->pid);
		taddr from = grown_at(a, s[0].seen.rsp);

		OK(&a->err, open_changes_nothing(a, s, 0, from, stack_of(a)->end - from));
		struct image *after = image_of(a, a->pid);
		same_image(a, before, after);
		assert_memory_equal(&before->regs.rip, &after->regs.rip, 8);
		assert_int_equal(before->regs.rsp, after->regs.rsp);
		image_free(before);
		image_free(after);
		subject_free(&s[0]);
		subject_free(&s[1]);
		OK(&a->err, ptrace_detach(a->pid, &a->err));
		if (other != a->pid)
			OK(&a->err, ptrace_detach(other, &a->err));
		until_more(&a->board->beat, atomic_load(&a->board->beat));
		task_end(a->pid);
		a->pid = 0;
	}
}

#define HEAP (256u * 1024)

static struct board *coroutine_board;
static char *heap;

static void coroutine(void)
{
	volatile char used[8 * 1024];

	memset((void *)used, 1, sizeof(used));
	atomic_store(&coroutine_board->at, (uintptr_t)heap);
	for (;;)
		atomic_fetch_add(&coroutine_board->beat, used[0]);
}

/* Memory of the kind that libraries take, right below the thread's own data if it can be: they become one mapping. */
static char *heap_below_tls(void)
{
	struct proc_maps maps = { 0 };
	struct err err;
	char *at = MAP_FAILED;

	if (proc_maps(getpid(), &maps, &err) == 0) {
		const struct proc_map *m = proc_maps_find(&maps, (uintptr_t)__builtin_thread_pointer());

		at = mmap((void *)(m->start - HEAP), HEAP, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	}
	proc_maps_free(&maps);
	return at != MAP_FAILED ? at : mmap(NULL, HEAP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void on_a_heap_stack(void *arg)
{
	ucontext_t here, there;

	coroutine_board = arg;
	getcontext(&there);
	there.uc_stack.ss_sp = heap + HEAP / 2;
	there.uc_stack.ss_size = 12 * 1024;
	there.uc_link = &here;
	makecontext(&there, coroutine, 0);
	swapcontext(&here, &there);
}

/* A stack that was cut out of a heap may have anything below it. */
static void stack_in_a_heap(void **state)
{
	struct asked *a = *state;
	struct subject s[2];

	heap = heap_below_tls();        /* before the fork: pages of two forks don't become one mapping */
	memset(heap, 0x5a, HEAP);
	start(a, on_a_heap_stack);
	until_more(&a->board->beat, 0);
	hold(a, a->pid);
	look(a);
	OK(&a->err, subject_see(a->pid, &s[0], &a->err));
	assert_true(s[0].seen.rsp - atomic_load(&a->board->at) < HEAP);
	s[1] = s[0];
	OK(&a->err, open_changes_nothing(a, s, 0, atomic_load(&a->board->at), HEAP));
	OK(&a->err, ptrace_detach(a->pid, &a->err));
	until_more(&a->board->beat, atomic_load(&a->board->beat));
	subject_free(&s[0]);
}

#define CROWD       40
#define CROWD_STACK (64u * 1024)

static void crowd(void *arg)
{
	struct board *b = arg;
	char *stacks = mmap(NULL, CROWD * CROWD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (int i = 0; i < CROWD; i++) {       /* one mapping, no guards: nobody can tell whose is what */
		pthread_attr_t attr;
		pthread_t t;

		pthread_attr_init(&attr);
		pthread_attr_setstack(&attr, stacks + (size_t)i * CROWD_STACK, CROWD_STACK);
		pthread_create(&t, &attr, second_thread, arg);
	}
	atomic_store(&b->at, (uintptr_t)stacks);
	for (;;)
		pause();
}

/* Many borrow at once: each its own piece, far from whoever lends it; who comes too late comes again. */
static void many_borrow(void **state)
{
	struct asked *a = *state;
	struct subject s[CROWD + 1];
	struct proc_ids tids;
	size_t opened = 0, len = CROWD * CROWD_STACK;
	uint8_t *before = mem_new(len), *now = mem_new(len);

	start(a, crowd);
	until_more(&a->board->at, 0);
	OK(&a->err, proc_threads(a->pid, &tids, &a->err));
	assert_int_equal(tids.len, CROWD + 1);
	for (size_t i = 0; i <= CROWD; i++) {
		until_in_call(tids.at[i], SYS_pause);
		hold(a, tids.at[i]);
		OK(&a->err, subject_see(tids.at[i], &s[i], &a->err));
	}
	look(a);
	OK(&a->err, sys_read_memory(a->pid, atomic_load(&a->board->at), before, len, &a->err));
	for (size_t i = 0; i <= CROWD; i++) {
		int r = subject_open(&s[i], &a->gadgets, &a->maps, s, CROWD + 1, &a->err);

		if (r < 0)
			FAILS(&a->err, ENOSPC, "no room", r);
		else
			opened++;
		for (size_t k = 0; r == 0 && k < i; k++)
			assert_true(!s[k].open || s[k].saved_at >= s[i].saved_at + s[i].saved_len ||
				    s[i].saved_at >= s[k].saved_at + s[k].saved_len);
	}
	assert_in_range(opened, 8, CROWD);
	for (size_t i = 0; i <= CROWD; i++)
		if (s[i].open)
			assert_int_equal(ask(a, &s[i], SYS_gettid, 0, 0), s[i].tid);
	OK(&a->err, sys_read_memory(a->pid, atomic_load(&a->board->at), now, len, &a->err));
	for (size_t i = 0; i < CROWD; i++)      /* at the top lies what is the thread's own, where the kernel writes too */
		assert_memory_equal(before + i * CROWD_STACK, now + i * CROWD_STACK, CROWD_STACK - 5 * 1024);
	for (size_t i = 0; i <= CROWD; i++) {
		bool late = !s[i].open;

		if (late)
			OK(&a->err, subject_open(&s[i], &a->gadgets, &a->maps, s, CROWD + 1, &a->err));
		assert_int_equal(ask(a, &s[i], SYS_gettid, 0, 0), s[i].tid);
		OK(&a->err, subject_close(&s[i], &a->err));
	}
	for (size_t i = 0; i <= CROWD; i++) {
		OK(&a->err, ptrace_detach(s[i].tid, &a->err));
		until_in_call(s[i].tid, SYS_pause);
		subject_free(&s[i]);
	}
	vec_free(&tids);
	free(before);
	free(now);
}

int main(void)
{
#define ASK_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = { ASK_TEST(no_room), ASK_TEST(stack_in_a_heap), ASK_TEST(many_borrow) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
