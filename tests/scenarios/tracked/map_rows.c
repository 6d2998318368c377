/* SPDX-License-Identifier: Apache-2.0 */
/* What a program does to its own mappings. */
#include "tracked.h"

#include <alloca.h>
#include <sys/prctl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#define HUGE (2ul << 20)
#define FIXED ((void *)0x200000000000ul)

static void plain_writes(void)
{
	char *m = anon(1000), *holes = anon(1000);

	fill(m, 0, 1000, 1);
	fill(holes, 300, 301, 1);
	next();
	fill(m, 10, 20, 2);
	fill(m, 30, 31, 0);
	fill(holes, 900, 910, 2);
	CHECK(has(holes, 500, 510, 0));         /* zero pages that were read */
	next();
	CHECK(has(m, 0, 10, 1) && has(m, 10, 20, 2) && has(m, 20, 30, 1) && has(m, 30, 31, 0) && has(m, 31, 1000, 1));
	CHECK(has(holes, 0, 300, 0) && has(holes, 300, 301, 1) && has(holes, 301, 900, 0) && has(holes, 900, 910, 2));
}

static void move(void)
{
	char *m = anon(200), *to = anon(400);

	fill(m, 0, 200, 1);
	next();
	CHECK(mremap(m, 200 * PAGE, 200 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	fill(to, 5, 6, 2);
	anon_at(m, 200);
	fill(m, 100, 101, 3);
	next();
	CHECK(has(to, 0, 5, 1) && has(to, 5, 6, 2) && has(to, 6, 200, 1) && has(to, 200, 400, 0));
	CHECK(has(m, 0, 100, 0) && has(m, 100, 101, 3) && has(m, 101, 200, 0));
}

/* Pages and what is known of them go another way: the place keeps its name. */
static void swap_places(void)
{
	char *a = anon(100), *b = anon(100), *aside = anon(100);

	fill(a, 0, 100, 1);
	fill(b, 0, 100, 2);
	next();
	CHECK(mremap(a, 100 * PAGE, 100 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, aside) == aside);
	CHECK(mremap(b, 100 * PAGE, 100 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, a) == a);
	CHECK(mremap(aside, 100 * PAGE, 100 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, b) == b);
	next();
	CHECK(has(a, 0, 100, 2) && has(b, 0, 100, 1));
}

/* As they lie alike in their 2 MiB, the kernel moves page tables, not pages. */
static void move_tables(void)
{
	const size_t pages = 3 * HUGE / PAGE;
	char *raw = anon(3 * pages + HUGE / PAGE), *a = (char *)(((uintptr_t)raw + HUGE - 1) & -HUGE), *b = a + 2 * pages * PAGE;

	CHECK(madvise(a, pages * PAGE, MADV_NOHUGEPAGE) == 0 && madvise(b, pages * PAGE, MADV_NOHUGEPAGE) == 0);
	fill(a, 0, pages, 1);
	fill(b, 0, 512, 2);
	fill(b, 600, pages, 2);
	next();
	CHECK(mremap(a, pages * PAGE, pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, b) == b);
	CHECK(munmap(b + 700 * PAGE, PAGE) == 0);
	anon_at(a, pages);
	fill(a, 5, 6, 3);
	next();
	CHECK(has(b, 0, 700, 1) && has(b, 701, pages, 1));
	CHECK(has(a, 0, 5, 0) && has(a, 5, 6, 3) && has(a, 6, pages, 0));
}

static void move_and_leave(void)
{
	char *m = anon(100), *to;

	fill(m, 0, 100, 1);
	next();
	to = mremap(m, 100 * PAGE, 100 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	if (to == MAP_FAILED)
		skip("MREMAP_DONTUNMAP");
	fill(m, 50, 51, 2);
	next();
	CHECK(has(to, 0, 100, 1) && has(m, 0, 50, 0) && has(m, 50, 51, 2) && has(m, 51, 100, 0));
}

static void grow(void)
{
	char *m = anon(400);

	CHECK(munmap(m + 200 * PAGE, 200 * PAGE) == 0);
	fill(m, 0, 200, 1);
	next();
	CHECK(mremap(m, 200 * PAGE, 400 * PAGE, 0) == m);
	fill(m, 300, 310, 2);
	fill(m, 1, 2, 2);
	next();
	CHECK(has(m, 0, 1, 1) && has(m, 1, 2, 2) && has(m, 2, 200, 1) && has(m, 200, 300, 0) && has(m, 300, 310, 2) && has(m, 310, 400, 0));
}

static void shrink_and_grow(void)
{
	char *m = anon(200);

	fill(m, 0, 200, 1);
	next();
	CHECK(mremap(m, 200 * PAGE, 100 * PAGE, 0) == m && mremap(m, 100 * PAGE, 200 * PAGE, 0) == m);
	next();
	CHECK(has(m, 0, 100, 1) && has(m, 100, 200, 0));
}

static void map_again(void)
{
	char *m = anon(200);

	fill(m, 0, 200, 1);
	next();
	CHECK(munmap(m + 50 * PAGE, 100 * PAGE) == 0);
	anon_at(m + 50 * PAGE, 100);
	fill(m, 60, 61, 2);
	next();
	CHECK(has(m, 0, 50, 1) && has(m, 50, 60, 0) && has(m, 60, 61, 2) && has(m, 61, 150, 0) && has(m, 150, 200, 1));
}

static void dontneed(void)
{
	char *m = anon(2000);

	fill(m, 0, 2000, 1);
	next();
	CHECK(madvise(m + 100 * PAGE, 1000 * PAGE, MADV_DONTNEED) == 0);
	fill(m, 500, 501, 2);
	CHECK(has(m, 200, 201, 0));
	next();
	CHECK(has(m, 0, 100, 1) && has(m, 100, 500, 0) && has(m, 500, 501, 2) && has(m, 501, 1100, 0) && has(m, 1100, 2000, 1));
}

static void lazy_free(void)
{
	char *m = anon(1000);

	fill(m, 0, 1000, 1);
	next();
	CHECK(madvise(m, 900 * PAGE, MADV_FREE) == 0);
	fill(m, 100, 200, 2);
	next();
	for (size_t i = 0; i < 900; i++)
		if (i < 100 || i >= 200)
			CHECK(page_has(m + i * PAGE, i, 1) || page_has(m + i * PAGE, i, 0));
	CHECK(has(m, 100, 200, 2) && has(m, 900, 1000, 1));
}

static void private_file(void)
{
	int fd = memfd_of(100, 1), real = open("private", O_RDWR | O_CREAT, 0600);
	char *m, *n, page[PAGE];

	CHECK(ftruncate(real, 100 * PAGE) == 0);
	m = mmap(NULL, 100 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	n = mmap(NULL, 100 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, real, 0);
	fill(m, 10, 50, 2);
	fill(n, 10, 50, 2);
	next();
	CHECK(madvise(m + 20 * PAGE, 10 * PAGE, MADV_DONTNEED) == 0 && madvise(n + 20 * PAGE, 10 * PAGE, MADV_FREE) < 0);
	CHECK(madvise(n + 20 * PAGE, 10 * PAGE, MADV_DONTNEED) == 0);
	fill(m, 60, 65, 3);
	fill(n, 60, 65, 3);
	fill(n, 11, 12, 3);
	memset(page, 0, PAGE);
	CHECK(pwrite(fd, page, PAGE, 70 * PAGE) == PAGE);       /* below: seen where the program has no own page */
	CHECK(pwrite(fd, page, PAGE, 15 * PAGE) == PAGE);
	next();
	CHECK(has(m, 0, 10, 1) && has(m, 10, 20, 2) && has(m, 20, 30, 1) && has(m, 30, 50, 2) && has(m, 60, 65, 3));
	CHECK(has(m, 70, 71, 0) && has(m, 71, 100, 1));
	CHECK(has(n, 0, 10, 0) && has(n, 10, 11, 2) && has(n, 11, 12, 3) && has(n, 12, 20, 2) && has(n, 20, 30, 0));
	CHECK(has(n, 30, 50, 2) && has(n, 60, 65, 3));
}

static void huge_pages(void)
{
	char *raw = anon(6 * HUGE / PAGE), *m = (char *)(((uintptr_t)raw + HUGE - 1) & -HUGE);

	CHECK(madvise(m, 5 * HUGE, MADV_HUGEPAGE) == 0);
	fill(m, 0, 5 * HUGE / PAGE, 1);
	next();
	fill(m, 100, 101, 2);
	CHECK(madvise(m + HUGE + 10 * PAGE, 10 * PAGE, MADV_DONTNEED) == 0);
	CHECK(madvise(m + 2 * HUGE, HUGE, MADV_DONTNEED) == 0);
	fill(m, 2 * 512 + 7, 2 * 512 + 8, 2);   /* a new huge page */
	CHECK(mprotect(m + 3 * HUGE, 100 * PAGE, PROT_READ) == 0);
	next();
	CHECK(has(m, 0, 100, 1) && has(m, 100, 101, 2) && has(m, 101, 512 + 10, 1) && has(m, 512 + 10, 512 + 20, 0));
	CHECK(has(m, 512 + 20, 1024, 1) && has(m, 1024, 1031, 0) && has(m, 1031, 1032, 2) && has(m, 1032, 1536, 0));
	CHECK(has(m, 1536, 5 * 512, 1));
}

static void rights(void)
{
	char *a = anon(100), *b = anon(100), *c = anon(100);

	fill(a, 0, 100, 1);
	fill(b, 0, 100, 1);
	fill(c, 0, 100, 1);
	CHECK(mprotect(b, 100 * PAGE, PROT_NONE) == 0);
	next();
	fill(a, 7, 8, 2);
	CHECK(mprotect(a, 100 * PAGE, PROT_NONE) == 0);
	CHECK(mprotect(b, 100 * PAGE, PROT_READ | PROT_WRITE) == 0);
	fill(b, 8, 9, 2);
	CHECK(mprotect(c, 100 * PAGE, PROT_NONE) == 0 && mprotect(c, 100 * PAGE, PROT_READ | PROT_WRITE) == 0);
	fill(c, 9, 10, 2);
	next();
	CHECK(mprotect(a, 100 * PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK(has(a, 0, 7, 1) && has(a, 7, 8, 2) && has(a, 8, 100, 1));
	CHECK(has(b, 0, 8, 1) && has(b, 8, 9, 2) && has(b, 9, 100, 1));
	CHECK(has(c, 0, 9, 1) && has(c, 9, 10, 2) && has(c, 10, 100, 1));
}

static void arena(void)         /* as mallocs make them: rights come in pieces, and go again */
{
	char *m = mmap(NULL, 16384 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(mprotect(m, 100 * PAGE, PROT_READ | PROT_WRITE) == 0);
	fill(m, 0, 100, 1);
	next();
	CHECK(mprotect(m + 100 * PAGE, 100 * PAGE, PROT_READ | PROT_WRITE) == 0);
	fill(m, 150, 160, 2);
	CHECK(madvise(m, 50 * PAGE, MADV_DONTNEED) == 0 && mprotect(m, 50 * PAGE, PROT_NONE) == 0);
	next();
	CHECK(mprotect(m, 50 * PAGE, PROT_READ) == 0);
	CHECK(has(m, 0, 50, 0) && has(m, 50, 100, 1) && has(m, 100, 150, 0) && has(m, 150, 160, 2) && has(m, 160, 200, 0));
}

static void stack_grows(void)
{
	char *deep;

	next();
	deep = alloca(301 * PAGE);
	fill(deep, 0, 300, 1);
	next();
	CHECK(has(deep, 0, 300, 1));
}

static void heap(void)
{
	char *m;

	(void)!sbrk((intptr_t)(PAGE - (uintptr_t)sbrk(0) % PAGE));
	m = sbrk(200 * PAGE);
	fill(m, 0, 200, 1);
	next();
	CHECK(brk(m + 100 * PAGE) == 0 && brk(m + 400 * PAGE) == 0);
	fill(m, 300, 310, 2);
	fill(m, 3, 4, 2);
	next();
	CHECK(has(m, 0, 3, 1) && has(m, 3, 4, 2) && has(m, 4, 100, 1) && has(m, 100, 300, 0) && has(m, 300, 310, 2) && has(m, 310, 400, 0));
}

/* There at a pre-dump; gone before the dump, which has no place for them. */
static void guards(void)
{
	char *m = anon_at(FIXED, 100);          /* with no neighbours: a mapping that had some tells so for ever */

	fill(m, 0, 100, 1);
	if (madvise(m + 10 * PAGE, 10 * PAGE, MADV_GUARD_INSTALL) < 0)
		skip("MADV_GUARD_INSTALL");
	next();
	CHECK(madvise(m, 100 * PAGE, MADV_GUARD_REMOVE) == 0 && has(m, 10, 20, 0) && has(m, 20, 100, 1));
	CHECK(munmap(m, 100 * PAGE) == 0);
	anon_at(m, 100);
	fill(m, 15, 16, 2);
	next();
	CHECK(has(m, 0, 15, 0) && has(m, 15, 16, 2) && has(m, 16, 100, 0));
}

static void after_exec(void)
{
	char *m = anon_at(FIXED, 200);

	fill(m, 20, 30, 2);
	stage = 1;
	next();
	CHECK(has(m, 0, 20, 0) && has(m, 20, 30, 2) && has(m, 30, 200, 0));
}

/* The same process and the same places, another memory. */
static void exec_between(void)
{
	fill(anon_at(FIXED, 200), 0, 200, 1);
	next();
	execl("/proc/self/exe", "tracked", "after-exec", NULL);
	CHECK(false);
}

static int own_uffd(char *m, size_t pages, uint64_t mode)
{
	struct uffdio_register reg = { .range = { (uintptr_t)m, pages * PAGE }, .mode = mode };
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		skip("userfaultfd");
	return fd;
}

static void own_userfaultfd(void)
{
	char *missing = anon(100), *wp = anon(100), *page = anon(1);
	int a, b;

	fill(missing, 0, 50, 1);
	fill(wp, 0, 100, 1);
	fill(page, 0, 1, 5);
	a = own_uffd(missing, 100, UFFDIO_REGISTER_MODE_MISSING);
	b = own_uffd(wp, 100, UFFDIO_REGISTER_MODE_WP);
	CHECK(ioctl(b, UFFDIO_WRITEPROTECT, &(struct uffdio_writeprotect){ { (uintptr_t)wp, 50 * PAGE }, UFFDIO_WRITEPROTECT_MODE_WP }) == 0);
	next();
	CHECK(ioctl(a, UFFDIO_COPY, &(struct uffdio_copy){ (uintptr_t)missing + 60 * PAGE, (uintptr_t)page, PAGE, 0, 0 }) == 0);
	close(a);
	close(b);
	fill(wp, 20, 30, 2);
	fill(missing, 70, 80, 2);
	next();
	CHECK(has(missing, 0, 50, 1) && has(missing, 50, 60, 0) && page_has(missing + 60 * PAGE, 0, 5) && has(missing, 61, 70, 0));
	CHECK(has(missing, 70, 80, 2) && has(wp, 0, 20, 1) && has(wp, 20, 30, 2) && has(wp, 30, 100, 1));
}

static void paged_out(void)
{
	char *m = anon(1000);

	fill(m, 0, 1000, 1);
	madvise(m, 500 * PAGE, MADV_PAGEOUT);
	next();
	madvise(m + 500 * PAGE, 500 * PAGE, MADV_PAGEOUT);
	fill(m, 100, 110, 2);
	fill(m, 600, 610, 2);
	madvise(m, 200 * PAGE, MADV_PAGEOUT);
	next();
	CHECK(has(m, 0, 100, 1) && has(m, 100, 110, 2) && has(m, 110, 600, 1) && has(m, 600, 610, 2) && has(m, 610, 1000, 1));
}

static void sparse(void)
{
	enum { EVERY = 16384 };         /* pages: 64 MiB */
	const size_t pages = 32ul << 30 >> 12;
	char *m = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	for (size_t i = 0; i < pages; i += EVERY)
		fill(m, i, i + 1, 1);
	next();
	for (size_t i = 0; i < pages; i += 10 * EVERY)
		fill(m, i + 7, i + 8, 2);
	next();
	for (size_t i = 0; i < pages; i += EVERY)
		CHECK(has(m, i, i + 1, 1));
	for (size_t i = 0; i < pages; i += 10 * EVERY)
		CHECK(has(m, i + 7, i + 8, 2) && has(m, i + 8, i + 9, 0));
}

const struct row map_rows[] = {
	{ "writes", plain_writes }, { "move", move }, { "swap-places", swap_places }, { "move-tables", move_tables },
	{ "move-and-leave", move_and_leave },
	{ "grow", grow }, { "shrink-and-grow", shrink_and_grow }, { "map-again", map_again }, { "dontneed", dontneed },
	{ "lazy-free", lazy_free }, { "private-file", private_file }, { "huge", huge_pages }, { "rights", rights },
	{ "arena", arena }, { "stack", stack_grows }, { "heap", heap }, { "guards", guards }, { "exec", exec_between },
	{ "after-exec", after_exec }, { "own-uffd", own_userfaultfd }, { "paged-out", paged_out }, { "sparse", sparse }, { 0 },
};
