/* SPDX-License-Identifier: Apache-2.0 */
/* Memory goes from one real task into another, whatever the rights of its mappings are. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../cm.h"
#include "base/own.h"
#include "kernel/pagemap.h"
#include "kernel/proc.h"
#include "page/ends.h"

#define PAGES 24u               /* a mapping; between two of them one page is missing */
#define SHARED_ALONE (1ull << 56)

static const int rights[] = { PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE, PROT_EXEC, PROT_READ | PROT_EXEC, PROT_WRITE };
#define MAPS ARRAY_LEN(rights)
#define SPAN ((PAGES + 1) * PAGE_BYTES)

struct pair {
	uint8_t *at;            /* the mappings, at the same place here and in both */
	pid_t from, to;
	int from_mem, to_mem;
	struct page_runs plan;
	struct err err;
};

static pid_t sleeper(void)
{
	pid_t parent = getpid(), pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			pause();
		_exit(0);
	}
	assert_true(pid > 0);
	return pid;
}

static uint8_t byte_of(size_t page)
{
	return page % 5 == 4 ? 0 : (uint8_t)(page * 7) | 1;
}

static void fill(struct pair *p, bool pattern)
{
	for (size_t m = 0; m < MAPS; m++) {
		uint8_t *at = p->at + m * SPAN;

		assert_int_equal(mprotect(at, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE), 0);
		for (size_t i = 0; i < PAGES; i++)
			memset(at + i * PAGE_BYTES, pattern ? byte_of(m * PAGES + i) : 0xee, PAGE_BYTES);
		assert_int_equal(mprotect(at, PAGES * PAGE_BYTES, rights[m]), 0);
	}
}

static int setup(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));

	p->at = mmap(NULL, MAPS * SPAN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(p->at, MAP_FAILED);
	for (size_t m = 0; m < MAPS; m++) {
		taddr start = (uintptr_t)p->at + m * SPAN;

		munmap(p->at + m * SPAN + PAGES * PAGE_BYTES, PAGE_BYTES);
		vec_push(&p->plan, ((struct page_run){ .start = start, .pages = PAGES, .where = PAGE_HERE }));
	}
	fill(p, true);
	p->from = sleeper();
	fill(p, false);
	p->to = sleeper();
	OK(&p->err, proc_open_file(p->from, "mem", O_RDONLY, &p->from_mem, &p->err));
	OK(&p->err, proc_open_file(p->to, "mem", O_RDWR, &p->to_mem, &p->err));
	*state = p;
	return 0;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static int teardown(void **state)
{
	struct pair *p = *state;

	end(p->from);
	end(p->to);
	close(p->from_mem);
	close(p->to_mem);
	munmap(p->at, MAPS * SPAN);
	vec_free(&p->plan);
	free(p);
	return 0;
}

static int move(struct pair *p, struct page_count *count)
{
	struct source_task src;
	struct sink_task sink;

	source_task_init(&src, p->from, p->from_mem, &p->plan);
	sink_task_init(&sink, p->to, p->to_mem);
	return page_pump(&src.base, &sink.base, 2, count, &p->err);
}

/* What task `pid` has now, told by /proc/PID/mem alone. */
static void is_like(int mem, taddr start, size_t page, bool moved)
{
	uint8_t got[PAGE_BYTES], want[PAGE_BYTES];

	memset(want, moved ? byte_of(page) : 0xee, PAGE_BYTES);
	assert_int_equal(pread(mem, got, PAGE_BYTES, (off_t)start), PAGE_BYTES);
	assert_memory_equal(got, want, PAGE_BYTES);
}

static void all_rights(void **state)
{
	struct pair *p = *state;
	struct page_count count = { 0 };

	OK(&p->err, move(p, &count));
	assert_int_equal(count.here, MAPS * PAGES);
	assert_int_equal(count.zero, 0);
	for (size_t i = 0; i < MAPS * PAGES; i++)
		is_like(p->to_mem, p->plan.at[i / PAGES].start + i % PAGES * PAGE_BYTES, i, true);
	/* nothing else was touched */
	fill(p, true);
}

/* Pages of zeros are not read as such and left alone where the plan allows it. */
static void zeros_stay(void **state)
{
	struct pair *p = *state;
	struct page_count count = { 0 };

	for (size_t i = 0; i < p->plan.len; i++)
		p->plan.at[i].may_skip_zero = true;
	OK(&p->err, move(p, &count));
	for (size_t i = 0; i < MAPS * PAGES; i++)
		is_like(p->to_mem, p->plan.at[i / PAGES].start + i % PAGES * PAGE_BYTES, i, byte_of(i) != 0);
	assert_int_equal(count.here + count.zero, MAPS * PAGES);
	assert_int_equal(count.zero, (MAPS * PAGES) / 5);
}

static uint64_t entry(pid_t pid, taddr at)
{
	own_fd fd = -1;
	uint64_t e;
	struct err err;

	OK(&err, pagemap_open(pid, &fd, &err));
	assert_int_equal(pagemap_read(fd, at, 1, &e, &err), 1);
	return e;
}

/* A gentle read leaves pages that are shared by copy on write as they are. */
static void gently(void **state)
{
	struct pair *p = *state;
	uint8_t buf[2 * PAGE_BYTES];
	struct source_task src;
	struct page_run run = { .pages = 2, .where = PAGE_HERE, .gently = true };

	run.start = p->plan.at[0].start;
	source_task_init(&src, p->to, p->to_mem, &p->plan);     /* shares all its pages with us */
	assert_false(entry(p->to, run.start) & SHARED_ALONE);
	OK(&p->err, src.base.ops->read(&src.base, &run, buf, &p->err));
	assert_int_equal(buf[PAGE_BYTES], 0xee);
	assert_false(entry(p->to, run.start) & SHARED_ALONE);
}

static void holes(void **state)
{
	struct pair *p = *state;
	struct page_count count = { 0 };

	for (size_t m = 0; m < MAPS; m++) {     /* the last page of the run is not mapped */
		p->plan.at[0] = (struct page_run){ .start = (uintptr_t)p->at + m * SPAN, .pages = PAGES + 1, .where = PAGE_HERE };
		p->plan.len = 1;
		FAILS(&p->err, EFAULT, "read 102400 bytes", move(p, &count));
	}
}

static void nowhere_to_put(void **state)
{
	struct pair *p = *state;
	uint8_t bytes[2 * PAGE_BYTES] = { 0 };
	struct sink_task sink;

	sink_task_init(&sink, p->to, p->to_mem);
	for (size_t m = 0; m < MAPS; m++) {
		struct page_run run = { .start = (uintptr_t)p->at + m * SPAN + (PAGES - 1) * PAGE_BYTES, .pages = 2, .where = PAGE_HERE };

		FAILS(&p->err, EFAULT, "fill 8192 bytes", sink.base.ops->put_many(&sink.base, &(struct page_parcel){
			.run = run, .bytes = bytes, .to = run.start }, 1, &p->err));
	}
}

static void dead_task(void **state)
{
	struct pair *p = *state;
	struct page_count count = { 0 };
	pid_t gone = p->from;

	end(gone);
	assert_true(move(p, &count) < 0);
	assert_true(p->err.code > 0);
	p->from = sleeper();
}

#define TASK_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(all_rights),
		TASK_TEST(zeros_stay),
		TASK_TEST(gently),
		TASK_TEST(holes),
		TASK_TEST(nowhere_to_put),
		TASK_TEST(dead_task),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
