/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that more than one thread, process or mapping writes to. */
#include "tracked.h"

#include <pthread.h>
#include <sys/uio.h>

enum { THREADS = 8 };

static char *of_threads;

static void *write_own(void *arg)
{
	size_t k = (uintptr_t)arg;

	wait_stage(1);
	fill(of_threads, k * 64 + 7, k * 64 + 9, 2);
	atomic_fetch_add(&board[KID + k], 1);
	for (;;)
		pause();
	return NULL;
}

static void threads(void)
{
	pthread_t t;

	of_threads = anon(THREADS * 64);
	fill(of_threads, 0, THREADS * 64, 1);
	for (uintptr_t k = 0; k < THREADS; k++)
		CHECK(pthread_create(&t, NULL, write_own, (void *)k) == 0);
	next();
	for (size_t k = 0; k < THREADS; k++)
		while (atomic_load(&board[KID + k]) == 0)
			sched_yield();
	next();
	for (size_t k = 0; k < THREADS * 64; k++)
		CHECK(has(of_threads, k, k + 1, k % 64 == 7 || k % 64 == 8 ? 2 : 1));
}

/* In a child: tells that stage n is reached, and waits until it may go on. */
static void kid_next(uint64_t n)
{
	atomic_store(&board[KID], n);
	wait_stage(n);
}

static _Noreturn void kid_stays(uint64_t n)
{
	kid_next(n);
	for (;;)
		pause();
}

static void wait_kid(uint64_t n)
{
	while (atomic_load(&board[KID]) < n)
		sched_yield();
}

/* It stays as it is. */
static _Noreturn void kid_is_done(void)
{
	atomic_store(&board[KID], 3);
	for (;;)
		pause();
}

static void fork_between(void)
{
	char *m = anon(500), *wiped = anon(10), *dropped = anon(10);

	fill(m, 0, 500, 1);
	fill(wiped, 0, 10, 1);
	CHECK(madvise(wiped, 10 * PAGE, MADV_WIPEONFORK) == 0 && madvise(dropped, 10 * PAGE, MADV_DONTFORK) == 0);
	next();
	if (fork() == 0) {
		fill(m, 100, 110, 3);
		kid_next(2);
		CHECK(has(m, 0, 100, 1) && has(m, 100, 110, 3) && has(m, 110, 500, 1) && has(wiped, 0, 10, 0));
		kid_is_done();
	}
	fill(m, 200, 210, 2);
	wait_kid(2);
	next();
	CHECK(has(m, 0, 200, 1) && has(m, 200, 210, 2) && has(m, 210, 500, 1) && has(wiped, 0, 10, 1));
	wait_kid(3);
}

/* Both there from the start; each breaks the sharing of other pages between the links. */
static void forked_before(void)
{
	char *m = anon(500);

	fill(m, 0, 500, 1);
	if (fork() == 0) {
		fill(m, 50, 60, 2);
		atomic_store(&board[KID], 1);
		wait_stage(1);
		fill(m, 100, 110, 3);
		CHECK(madvise(m + 300 * PAGE, 10 * PAGE, MADV_DONTNEED) == 0);
		kid_next(2);
		CHECK(has(m, 0, 50, 1) && has(m, 50, 60, 2) && has(m, 60, 100, 1) && has(m, 100, 110, 3) && has(m, 110, 300, 1));
		CHECK(has(m, 300, 310, 0) && has(m, 310, 500, 1));
		kid_is_done();
	}
	wait_kid(1);
	next();
	fill(m, 200, 210, 4);
	wait_kid(2);
	next();
	CHECK(has(m, 0, 200, 1) && has(m, 200, 210, 4) && has(m, 210, 500, 1));
	wait_kid(3);
}

/* A child that is there at the first link only, and another one at the second. */
static void child_replaced(void)
{
	char *m = anon(100);
	pid_t first;

	fill(m, 0, 100, 1);
	first = fork();
	if (first == 0)
		for (;;)
			pause();
	next();
	kill(first, SIGKILL);
	CHECK(waitpid(first, NULL, 0) == first);
	fill(m, 0, 10, 2);
	if (fork() == 0) {
		fill(m, 20, 30, 3);
		kid_next(2);
		CHECK(has(m, 0, 10, 2) && has(m, 10, 20, 1) && has(m, 20, 30, 3) && has(m, 30, 100, 1));
		kid_is_done();
	}
	wait_kid(2);
	next();
	CHECK(has(m, 0, 10, 2) && has(m, 10, 100, 1));
	wait_kid(3);
}

static void shared_by_other(void)
{
	char *m = mmap(NULL, 300 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	fill(m, 0, 300, 1);
	if (fork() == 0) {
		wait_stage(1);
		fill(m, 100, 110, 2);
		fill(m, 110, 111, 0);
		kid_stays(2);
	}
	next();
	wait_kid(2);
	next();
	CHECK(has(m, 0, 100, 1) && has(m, 100, 110, 2) && has(m, 110, 111, 0) && has(m, 111, 300, 1));
}

/* A child pokes into private memory: not by the page tables of who owns it. */
static void poked(void)
{
	char *m = anon(100), *mine = anon(1);
	pid_t owner = getpid();

	fill(m, 0, 100, 1);
	if (fork() == 0) {
		struct iovec here = { mine, PAGE }, there = { m + 40 * PAGE, PAGE };

		wait_stage(1);
		fill(mine, 0, 1, 6);
		CHECK(process_vm_writev(owner, &here, 1, &there, 1, 0) == PAGE);
		kid_stays(2);
	}
	next();
	wait_kid(2);
	next();
	CHECK(has(m, 0, 40, 1) && page_has(m + 40 * PAGE, 0, 6) && has(m, 41, 100, 1));
}

static void memfd(void)
{
	int fd = memfd_of(200, 1);
	char *a = mmap(NULL, 200 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *b = mmap(NULL, 100 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 100 * PAGE), page[PAGE];

	memset(page, 0, PAGE);
	next();
	fill(a, 10, 11, 2);
	fill(b - 100 * PAGE, 150, 151, 2);              /* what `a` has there */
	CHECK(pwrite(fd, page, PAGE, 50 * PAGE) == PAGE);
	CHECK(madvise(a + 60 * PAGE, 10 * PAGE, MADV_REMOVE) == 0);
	CHECK(ftruncate(fd, 180 * PAGE) == 0 && ftruncate(fd, 200 * PAGE) == 0);
	next();
	CHECK(has(a, 0, 10, 1) && has(a, 10, 11, 2) && has(a, 11, 50, 1) && has(a, 50, 51, 0) && has(a, 51, 60, 1));
	CHECK(has(a, 60, 70, 0) && has(a, 70, 150, 1) && has(a, 150, 151, 2) && has(a, 151, 180, 1) && has(a, 180, 200, 0));
}

/* Never mapped: what is in it is in no task's page tables. */
static void memfd_alone(void)
{
	int fd = memfd_of(100, 1), other = memfd_of(100, 3);
	char page[PAGE], *m;

	memset(page, 0, PAGE);
	next();
	CHECK(pwrite(fd, page, PAGE, 50 * PAGE) == PAGE);
	CHECK(fallocate(other, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 10 * PAGE) == 0);
	next();
	m = mmap(NULL, 100 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(has(m, 0, 50, 1) && has(m, 50, 51, 0) && has(m, 51, 100, 1));
	m = mmap(NULL, 100 * PAGE, PROT_READ, MAP_SHARED, other, 0);
	CHECK(has(m, 0, 10, 0) && has(m, 10, 100, 3));
}

const struct row share_rows[] = {
	{ "threads", threads }, { "fork", fork_between }, { "forked-before", forked_before }, { "child-replaced", child_replaced },
	{ "shared", shared_by_other }, { "poked", poked }, { "memfd", memfd }, { "memfd-alone", memfd_alone }, { 0 },
};
