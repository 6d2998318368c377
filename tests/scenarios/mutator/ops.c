/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations. Each picks a run of pages that fit, works on them, and notes
 * itself on every page it had to do with; it tells whether it did anything.
 */
#include "mutator.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)
#define MOST_RUN 96

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

struct run {
	struct window *w;
	uint32_t at, pages;
};

#define SELF(name) (me->process->name)
#define CHECK(ok) board_check(me->process->board, ok)

static uint8_t *address(const struct run *r)
{
	return r->w->base + (size_t)r->at * PAGE;
}

static size_t bytes(const struct run *r)
{
	return (size_t)r->pages * PAGE;
}

static struct page *pages(const struct run *r)
{
	return &r->w->page[r->at];
}

/* ---- which pages fit ---- */

typedef bool fits_fn(const struct page *page);

static bool is_free(const struct page *page)
{
	return page->kind == FREE;
}

/* Mapped, and to be mapped otherwise: not the heap. */
static bool is_mapped(const struct page *page)
{
	return page->kind != FREE && page->kind != HEAP && page->kind != BEYOND;
}

static bool is_writable(const struct page *page)
{
	return page->prot & PROT_WRITE;
}

static bool is_readable(const struct page *page)
{
	return page->prot & PROT_READ;
}

static bool is_heap(const struct page *page)
{
	return page->kind == HEAP;
}

static bool is_anon(const struct page *page)
{
	return page->kind == ANON;
}

static bool is_writable_anon(const struct page *page)
{
	return page->kind == ANON && page->prot == RW;
}

static bool is_private(const struct page *page)
{
	return page->kind >= ANON && page->kind <= PRIVATE_MEMFD;
}

static bool is_shared(const struct page *page)
{
	return page->kind >= SHARED_FILE && page->kind <= SHARED_ANON;
}

static bool is_writable_shared(const struct page *page)
{
	return is_shared(page) && page->prot == RW;
}

static bool is_protected(const struct page *page)
{
	return is_mapped(page) && page->prot != RW;
}

static bool is_protected_private(const struct page *page)
{
	return is_private(page) && !is_writable(page);
}

/* The second goes on where the first ends: in one object, with the same rights. */
static bool goes_on(const struct page *one, const struct page *two)
{
	const bool has_offset = one->kind != ANON && one->kind != HEAP;

	return one->kind == two->kind && one->prot == two->prot && one->object == two->object &&
	       (!has_offset || one->offset + 1 == two->offset);
}

static uint32_t some_length(struct worker *me, uint32_t most)
{
	const uint32_t pages = 1 + below(me, 1 << below(me, 8));

	return pages < most ? pages : most;
}

static struct window *some_window(struct worker *me)
{
	return &SELF(window)[me->windows[below(me, me->window_count)]];
}

/* A run of up to `most` pages in `w`, from a random one on; `whole`: of one mapping. */
static bool pick_in(struct worker *me, struct window *w, struct run *r, fits_fn *fits, uint32_t most, bool whole)
{
	const uint32_t from = below(me, w->pages);
	uint32_t i = 0;

	while (i < w->pages && !fits(&w->page[(from + i) % w->pages]))
		i++;
	if (i == w->pages)
		return false;
	*r = (struct run){ w, (from + i) % w->pages, 1 };
	while (r->pages < most && r->at + r->pages < w->pages && fits(pages(r) + r->pages) &&
	       (!whole || goes_on(pages(r) + r->pages - 1, pages(r) + r->pages)))
		r->pages++;
	return true;
}

static bool pick(struct worker *me, struct run *r, fits_fn *fits, bool whole)
{
	return pick_in(me, some_window(me), r, fits, some_length(me, MOST_RUN), whole);
}

/* Exactly as many pages, all free or of one mapping. */
static bool pick_free(struct worker *me, struct run *r, uint32_t wanted)
{
	return pick_in(me, some_window(me), r, is_free, wanted, false) && r->pages == wanted;
}

/* ---- the table ---- */

static void note(struct worker *me, const struct run *r)
{
	for (uint32_t i = 0; i < r->pages; i++) {
		struct page *page = pages(r) + i;

		memmove(page->ops + 1, page->ops, OPS_KEPT - 1);
		page->ops[0] = me->op;
		page->step = me->step;
	}
}

static void now_is(struct worker *me, const struct run *r, enum kind kind, int prot, int object, uint32_t offset)
{
	for (uint32_t i = 0; i < r->pages; i++) {
		struct page *page = pages(r) + i;

		page->kind = kind;
		page->prot = prot;
		page->object = object;
		page->offset = offset + i;
	}
	note(me, r);
}

/* ---- making and ending mappings ---- */

static bool map_at(struct worker *me, const struct run *r, enum kind kind, int flags, int fd, int object, uint32_t offset)
{
	const int fixed = pages(r)->kind == FREE ? MAP_FIXED_NOREPLACE : MAP_FIXED;

	CHECK(mmap(address(r), bytes(r), RW, flags | fixed, fd, (off_t)offset * PAGE) == address(r));
	now_is(me, r, kind, RW, object, offset);
	return true;
}

/* Mostly where nothing is, sometimes over what is there. */
static bool pick_place(struct worker *me, struct run *r)
{
	return pick(me, r, below(me, 4) ? is_free : is_mapped, false);
}

static bool map_anon(struct worker *me)
{
	struct run r;

	return pick_place(me, &r) && map_at(me, &r, ANON, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, 0);
}

static bool map_shared_anon(struct worker *me)
{
	struct run r;

	return pick_place(me, &r) && map_at(me, &r, SHARED_ANON, MAP_SHARED | MAP_ANONYMOUS, -1, ++SELF(objects), 0);
}

static bool map_file(struct worker *me, enum kind kind, int flags, int fd, int object)
{
	struct run r;

	return pick_place(me, &r) && map_at(me, &r, kind, flags, fd, object, below(me, FILE_PAGES - r.pages));
}

static bool map_private_file(struct worker *me)
{
	return map_file(me, PRIVATE_FILE, MAP_PRIVATE, SELF(fd)[FD_PRIVATE_FILE], 0);
}

static bool map_private_memfd(struct worker *me)
{
	const int i = below(me, MEMFDS);

	return map_file(me, PRIVATE_MEMFD, MAP_PRIVATE, SELF(fd)[FD_MEMFD + i], i);
}

static bool map_shared_file(struct worker *me)
{
	return map_file(me, SHARED_FILE, MAP_SHARED, SELF(fd)[FD_SHARED_FILE], 0);
}

static bool map_shared_memfd(struct worker *me)
{
	const int i = below(me, MEMFDS);

	return map_file(me, SHARED_MEMFD, MAP_SHARED, SELF(fd)[FD_MEMFD + i], i);
}

/* Shared memory a second time: what mremap does with a length of 0. */
static bool map_twice(struct worker *me)
{
	struct run from, to;

	if (!pick(me, &from, is_shared, true) || !pick_free(me, &to, from.pages))
		return false;
	CHECK(mremap(address(&from), 0, bytes(&to), MREMAP_MAYMOVE | MREMAP_FIXED, address(&to)) == address(&to));
	now_is(me, &to, pages(&from)->kind, pages(&from)->prot, pages(&from)->object, pages(&from)->offset);
	return true;
}

static bool unmap(struct worker *me)
{
	struct run r;

	if (!pick(me, &r, is_mapped, false))
		return false;
	CHECK(munmap(address(&r), bytes(&r)) == 0);
	now_is(me, &r, FREE, 0, 0, 0);
	return true;
}

/* ---- mremap ---- */

static void pages_moved(struct worker *me, const struct run *from, const struct run *to)
{
	memmove(pages(to), pages(from), from->pages * sizeof(struct page));
	note(me, to);
	now_is(me, from, FREE, 0, 0, 0);
}

/* How many pages from the start of a run, where nothing was, are there now. */
static uint32_t there_now(const struct run *r)
{
	unsigned char in_memory;
	uint32_t n = 0;

	while (n < r->pages && mincore((char *)address(r) + (size_t)n * PAGE, PAGE, &in_memory) == 0)
		n++;
	return n;
}

/*
 * Pages that look like one mapping may be several to the kernel, which then refuses (EFAULT). Since Linux 6.17 it moves
 * several; but none behind the first where a userfaultfd watches (a tracker's does): then a part has moved.
 */
static bool moved(struct worker *me, struct run *from, struct run *to, int flags)
{
	void *got = mremap(address(from), bytes(from), bytes(to), MREMAP_MAYMOVE | MREMAP_FIXED | flags, address(to));

	CHECK(got == address(to) || (got == MAP_FAILED && (errno == EFAULT || errno == EINVAL)));
	if (got == MAP_FAILED)
		from->pages = to->pages = there_now(to);
	return to->pages > 0;
}

static bool move(struct worker *me)
{
	struct run from, to;

	if (!pick(me, &from, is_mapped, true) || !pick_free(me, &to, from.pages) || !moved(me, &from, &to, 0))
		return false;
	pages_moved(me, &from, &to);
	return true;
}

static bool move_and_grow(struct worker *me)
{
	struct run from, to, grown;

	if (!pick(me, &from, is_anon, true) || !pick_free(me, &to, from.pages + some_length(me, 32)) || !moved(me, &from, &to, 0))
		return false;
	grown = (struct run){ to.w, to.at + from.pages, to.pages - from.pages };
	now_is(me, &grown, ANON, pages(&from)->prot, 0, 0);
	pages_moved(me, &from, &to);
	return true;
}

static bool move_leaving(struct worker *me)
{
	struct run from, to;

	if (!pick(me, &from, is_anon, true) || !pick_free(me, &to, from.pages) || !moved(me, &from, &to, MREMAP_DONTUNMAP))
		return false;
	memcpy(pages(&to), pages(&from), from.pages * sizeof(struct page));
	note(me, &from);
	note(me, &to);
	return true;
}

static bool grow_in_place(struct worker *me)
{
	const uint32_t most = some_length(me, 32);
	struct run r, more;

	if (!pick(me, &r, is_anon, true))
		return false;
	more = (struct run){ r.w, r.at + r.pages, 0 };
	while (more.pages < most && more.at + more.pages < r.w->pages && is_free(pages(&more) + more.pages))
		more.pages++;
	if (more.pages == 0 || mremap(address(&r), bytes(&r), bytes(&r) + bytes(&more), 0) == MAP_FAILED)
		return false;
	now_is(me, &more, ANON, pages(&r)->prot, 0, 0);
	return true;
}

static bool shrink(struct worker *me)
{
	struct run r, less;

	if (!pick(me, &r, is_mapped, true) || r.pages < 2)
		return false;
	less = (struct run){ r.w, r.at + 1 + below(me, r.pages - 1), 0 };
	less.pages = r.at + r.pages - less.at;
	if (mremap(address(&r), bytes(&r), bytes(&r) - bytes(&less), 0) == MAP_FAILED)
		return false;
	now_is(me, &less, FREE, 0, 0, 0);
	return true;
}

/* ---- protection and advice ---- */

static bool protect_to(struct worker *me, fits_fn *fits, int prot)
{
	struct run r;

	if (!pick(me, &r, fits, false))
		return false;
	CHECK(mprotect(address(&r), bytes(&r), prot) == 0);
	for (uint32_t i = 0; i < r.pages; i++)
		pages(&r)[i].prot = prot;
	note(me, &r);
	return true;
}

static bool protect(struct worker *me)
{
	static const int prots[] = { PROT_READ, PROT_NONE, PROT_READ };

	return protect_to(me, is_mapped, prots[below(me, 3)]);
}

static bool unprotect(struct worker *me)
{
	return protect_to(me, is_protected, RW);
}

static bool advise(struct worker *me, fits_fn *fits, int advice)
{
	struct run r;

	if (!pick(me, &r, fits, false))
		return false;
	CHECK(madvise(address(&r), bytes(&r), advice) == 0);
	note(me, &r);
	return true;
}

static bool is_mapped_or_heap(const struct page *page)
{
	return is_mapped(page) || is_heap(page);
}

static bool dont_need(struct worker *me)
{
	return advise(me, is_mapped_or_heap, MADV_DONTNEED);
}

static bool populate_read(struct worker *me)
{
	return advise(me, is_readable, MADV_POPULATE_READ);
}

static bool populate_write(struct worker *me)
{
	return advise(me, is_writable, MADV_POPULATE_WRITE);
}

static void scribble(struct worker *me, uint8_t *at, size_t len);

/* What was freed is either still there or zero: so it ends as something else. */
static bool free_lazily(struct worker *me)
{
	struct run r;

	if (!pick(me, &r, is_writable_anon, false))
		return false;
	CHECK(madvise(address(&r), bytes(&r), MADV_FREE) == 0);
	if (below(me, 2))
		scribble(me, address(&r), bytes(&r));
	else
		CHECK(madvise(address(&r), bytes(&r), MADV_DONTNEED) == 0);
	note(me, &r);
	return true;
}

/* Out of the object itself. */
static bool remove_shared(struct worker *me)
{
	struct run r;

	if (!pick(me, &r, is_writable_shared, true))
		return false;
	CHECK(madvise(address(&r), bytes(&r), MADV_REMOVE) == 0);
	note(me, &r);
	return true;
}

/* ---- huge pages ---- */

static bool huge_place(struct worker *me, struct run *r)
{
	struct window *w = &SELF(window)[me->windows[0]];

	if (w->pages < HUGE_PAGES)
		return false;
	*r = (struct run){ w, below(me, w->pages / HUGE_PAGES) * HUGE_PAGES, HUGE_PAGES };
	return true;
}

static bool map_huge(struct worker *me)
{
	const bool shared = below(me, 4) == 0;
	struct run r;

	if (!huge_place(me, &r))
		return false;
	CHECK(mmap(address(&r), bytes(&r), RW, (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == address(&r));
	now_is(me, &r, shared ? SHARED_ANON : ANON, RW, shared ? ++SELF(objects) : 0, 0);
	CHECK(below(me, 2) || madvise(address(&r), bytes(&r), MADV_HUGEPAGE) == 0);	/* or it is for collapse() */
	for (int i = below(me, 4); i >= 0; i--)
		scribble(me, address(&r) + below(me, bytes(&r) - 8 * PAGE), 1 + below(me, 8 * PAGE));
	return true;
}

/* Small pages become a huge one where the kernel agrees. */
static bool collapse(struct worker *me)
{
	struct run r;

	if (!huge_place(me, &r) || madvise(address(&r), bytes(&r), MADV_COLLAPSE) < 0)
		return false;
	note(me, &r);
	return true;
}

/* ---- writing ---- */

static void scribble(struct worker *me, uint8_t *at, size_t len)
{
	uint64_t word;

	for (; len >= sizeof(word); at += sizeof(word), len -= sizeof(word)) {
		word = chance(me);
		memcpy(at, &word, sizeof(word));
	}
	while (len--)
		*at++ = chance(me);
}

static bool write_bytes(struct worker *me)
{
	struct run r;
	uint32_t from;

	if (!pick(me, &r, is_writable, false))
		return false;
	from = below(me, bytes(&r));
	scribble(me, address(&r) + from, 1 + below(me, bytes(&r) - from));
	note(me, &r);
	return true;
}

/* A byte here and there: pages far from one another. */
static bool write_scattered(struct worker *me)
{
	struct window *w = some_window(me);
	struct run r;

	for (int i = 2 + below(me, 30); i > 0; i--) {
		if (!pick_in(me, w, &r, is_writable, 1, false))
			return false;
		address(&r)[below(me, PAGE)] ^= 1 + below(me, 255);
		note(me, &r);
	}
	return true;
}

static bool write_zeros(struct worker *me)
{
	struct run r;

	if (!pick(me, &r, is_writable, false))
		return false;
	memset(address(&r), 0, bytes(&r));
	note(me, &r);
	return true;
}

/* Written, and as before. */
static bool write_same(struct worker *me)
{
	struct run r;

	if (!pick(me, &r, is_writable, false))
		return false;
	for (size_t i = 0; i < bytes(&r); i += PAGE)
		((volatile uint8_t *)address(&r))[i] = ((volatile uint8_t *)address(&r))[i];
	note(me, &r);
	return true;
}

static bool copy(struct worker *me)
{
	struct run from, to;

	if (!pick(me, &from, is_readable, false) || !pick(me, &to, is_writable, false))
		return false;
	memmove(address(&to), address(&from), (from.pages < to.pages ? from.pages : to.pages) * PAGE);
	note(me, &to);
	return true;
}

/* ---- writing by the kernel's hands ---- */

static bool read_file(struct worker *me)
{
	struct run r;

	if (!pick(me, &r, is_writable, false))
		return false;
	CHECK(pread(SELF(fd)[FD_PRIVATE_FILE], address(&r) + below(me, PAGE), bytes(&r) - PAGE + 1, below(me, PAGE)) >= 0);
	note(me, &r);
	return true;
}

/* Past the page cache, into the pages themselves. */
static bool read_direct(struct worker *me)
{
	struct run r;

	if (SELF(fd)[FD_DIRECT] < 0 || !pick(me, &r, is_writable, false))
		return false;
	CHECK(pread(SELF(fd)[FD_DIRECT], address(&r), bytes(&r), (off_t)below(me, FILE_PAGES - r.pages) * PAGE) == (ssize_t)bytes(&r));
	note(me, &r);
	return true;
}

/* Relatives have the same pipe: it may be full or empty. */
static bool read_pipe(struct worker *me)
{
	struct run from, to;

	if (!pick(me, &from, is_readable, false) || !pick(me, &to, is_writable, false))
		return false;
	CHECK(write(SELF(fd)[FD_PIPE + 1], address(&from), 1 + below(me, bytes(&from))) > 0 || errno == EAGAIN);
	CHECK(read(SELF(fd)[FD_PIPE], address(&to), 1 + below(me, bytes(&to))) > 0 || errno == EAGAIN);
	note(me, &to);
	return true;
}

/* As a debugger writes: into pages that are protected. Where the kernel's policy forbids it nothing happens. */
static bool write_by_force(struct worker *me)
{
	uint64_t word = chance(me);
	struct run r;
	int mem;

	if (!pick(me, &r, is_protected_private, false))
		return false;
	mem = open("/proc/self/mem", O_WRONLY | O_CLOEXEC);
	for (uint32_t i = 0; i < r.pages; i++)
		if (pwrite(mem, &word, sizeof(word), (off_t)(uintptr_t)address(&r) + i * PAGE) < 0)
			break;
	close(mem);
	note(me, &r);
	return true;
}

static bool write_memfd(struct worker *me)
{
	uint8_t some[3 * PAGE];

	scribble(me, some, sizeof(some));
	CHECK(pwrite(SELF(fd)[FD_MEMFD + below(me, MEMFDS)], some, 1 + below(me, sizeof(some)), below(me, (FILE_PAGES - 3) * PAGE)) > 0);
	return true;
}

static bool punch(struct worker *me)
{
	const int fd = below(me, 3) ? SELF(fd)[FD_MEMFD + below(me, MEMFDS)] : SELF(fd)[FD_SHARED_FILE];
	const uint32_t pages = some_length(me, MOST_RUN);
	const off_t from = (off_t)below(me, FILE_PAGES - pages) * PAGE;

	CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, (off_t)pages * PAGE) == 0);
	return true;
}

/* ---- the heap and the stack ---- */

static uint32_t heap_end(const struct window *heap)
{
	uint32_t end = 0;

	while (end < heap->pages && heap->page[end].kind == HEAP)
		end++;
	return end;
}

static bool heap_to(struct worker *me, uint32_t from, uint32_t to, enum kind kind, int prot)
{
	struct window *heap = &SELF(window)[WINDOW_HEAP];
	const struct run r = { heap, from < to ? from : to, from < to ? to - from : from - to };

	CHECK(brk(heap->base + (size_t)to * PAGE) == 0);
	now_is(me, &r, kind, prot, 0, 0);
	return r.pages > 0;
}

static bool grow_heap(struct worker *me)
{
	const struct window *heap = &SELF(window)[WINDOW_HEAP];
	const uint32_t from = heap_end(heap), room = heap->pages - from;

	return me->is_main && room && heap_to(me, from, from + some_length(me, room), HEAP, RW);
}

static bool shrink_heap(struct worker *me)
{
	const uint32_t from = heap_end(&SELF(window)[WINDOW_HEAP]);

	return me->is_main && from && heap_to(me, from, from - some_length(me, from), BEYOND, 0);
}

static __attribute__((noinline)) bool go_deep(struct worker *me, int levels)
{
	uint8_t buffer[4 * PAGE];
	const uint64_t random = me->random;
	struct worker again = { .random = random };
	uint64_t wanted;

	scribble(me, buffer, sizeof(buffer));
	me->frames[me->frame_count++] = (struct frame){ buffer, sizeof(buffer) / PAGE };
	if (levels)
		go_deep(me, levels - 1);
	else
		live(me, 1 + below(me, 100));
	me->frame_count--;
	for (size_t i = 0; i < sizeof(buffer); i += sizeof(wanted)) {
		wanted = chance(&again);
		if (memcmp(buffer + i, &wanted, sizeof(wanted)) != 0) {
			CHECK(!"a frame of the stack is as it was");
			break;
		}
	}
	return true;
}

/* The steps on its ground are ordinary ones, with barriers. */
static bool deep(struct worker *me)
{
	if (!me->is_main || me->frame_count)
		return false;
	return go_deep(me, below(me, FRAMES));
}

/* ---- children ---- */

static int free_id(const struct process *p, int kid)
{
	return p->id == 0 ? 1 + kid : p->id <= KIDS && kid == 0 ? p->id + KIDS : 0;
}

/* With a number that was another's before, where it is free: it is another process. As fork() does it, but for that. */
static pid_t fork_as(pid_t wanted)
{
	uint64_t tid_at = 0;
	struct clone_args args = { .flags = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID, .exit_signal = SIGCHLD,
				   .set_tid = (uintptr_t)&wanted, .set_tid_size = 1 };
	pid_t pid = -1;

	if (wanted && prctl(PR_GET_TID_ADDRESS, &tid_at) == 0 && tid_at) {
		args.child_tid = tid_at;
		pid = syscall(SYS_clone3, &args, sizeof(args));
	}
	return pid < 0 ? fork() : pid;
}

static bool have_kid(struct worker *me)
{
	struct process *p = me->process;
	const int kid = below(me, KIDS), id = free_id(p, kid);
	pid_t pid;

	if (!me->is_main || !id || p->kid[kid].id)
		return false;
	step_lock(p);
	pid = fork_as(below(me, 2) ? p->kid[kid].pid : 0);
	if (pid == 0)
		live_as_kid(p, id);
	step_unlock(p);
	CHECK(pid > 0);
	p->kid[kid].id = id;
	p->kid[kid].pid = pid;
	return true;
}

static bool bury_kid(struct worker *me)
{
	const int kid = below(me, KIDS);
	int status;

	if (!me->is_main || !SELF(kid)[kid].id || waitpid(SELF(kid)[kid].pid, &status, WNOHANG) == 0)
		return false;
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == SELF(kid)[kid].id);
	SELF(kid)[kid].id = 0;
	return true;
}

/* Into the child's copy, which may be mapped otherwise by now. */
static bool write_to_kid(struct worker *me)
{
	const int kid = below(me, KIDS);
	struct run r;

	if (!me->is_main || !SELF(kid)[kid].id || !pick(me, &r, is_readable, false))
		return false;
	return process_vm_writev(SELF(kid)[kid].pid, &(struct iovec){ address(&r), bytes(&r) }, 1,
				 &(struct iovec){ address(&r), bytes(&r) }, 1, 0) > 0;
}

/* Seldom: nothing of what was there is left. */
static bool begin_anew(struct worker *me)
{
	if (!me->is_main || SELF(kid)[0].id || SELF(kid)[1].id || (SELF(id) == 0 && below(me, 8)))
		return false;
	atomic_fetch_add(&SELF(board)[BOARD_OPS + me->op], 1);
	live_anew(me);
	CHECK(!"it can be executed");
	return false;
}

/* ---- which ---- */

static struct op {
	const char *name;
	bool (*run)(struct worker *me);
	uint32_t weight;
} ops[] = {
	{ "nothing", NULL, 0 },
	{ "map_anon", map_anon, 40 },
	{ "map_shared_anon", map_shared_anon, 8 },
	{ "map_private_file", map_private_file, 15 },
	{ "map_private_memfd", map_private_memfd, 6 },
	{ "map_shared_file", map_shared_file, 6 },
	{ "map_shared_memfd", map_shared_memfd, 12 },
	{ "map_twice", map_twice, 8 },
	{ "unmap", unmap, 40 },
	{ "move", move, 20 },
	{ "move_and_grow", move_and_grow, 10 },
	{ "move_leaving", move_leaving, 10 },
	{ "grow_in_place", grow_in_place, 10 },
	{ "shrink", shrink, 10 },
	{ "protect", protect, 15 },
	{ "unprotect", unprotect, 25 },
	{ "dont_need", dont_need, 25 },
	{ "populate_read", populate_read, 8 },
	{ "populate_write", populate_write, 8 },
	{ "free_lazily", free_lazily, 10 },
	{ "remove_shared", remove_shared, 8 },
	{ "map_huge", map_huge, 3 },
	{ "collapse", collapse, 6 },
	{ "write_bytes", write_bytes, 80 },
	{ "write_scattered", write_scattered, 40 },
	{ "write_zeros", write_zeros, 15 },
	{ "write_same", write_same, 10 },
	{ "copy", copy, 20 },
	{ "read_file", read_file, 15 },
	{ "read_direct", read_direct, 6 },
	{ "read_pipe", read_pipe, 10 },
	{ "write_by_force", write_by_force, 10 },
	{ "write_memfd", write_memfd, 10 },
	{ "punch", punch, 6 },
	{ "grow_heap", grow_heap, 10 },
	{ "shrink_heap", shrink_heap, 8 },
	{ "deep", deep, 8 },
	{ "have_kid", have_kid, 6 },
	{ "bury_kid", bury_kid, 20 },
	{ "write_to_kid", write_to_kid, 10 },
	{ "begin_anew", begin_anew, 2 },
};
enum { OPS = sizeof(ops) / sizeof(ops[0]) };

void ops_weigh(uint64_t seed)
{
	static const int times[] = { 0, 1, 1, 1, 1, 1, 1, 4 };
	struct worker dice = { .random = ~seed };

	for (int i = 1; i < OPS; i++)
		ops[i].weight *= times[below(&dice, 8)];
	for (int i = 1; i < OPS; i++)
		if (ops[i].run == map_anon || ops[i].run == write_bytes)
			ops[i].weight += 10;
}

void ops_step(struct worker *me)
{
	uint32_t sum = 0, drawn;
	int i = 0;

	for (int j = 0; j < OPS; j++)
		sum += ops[j].weight;
	for (drawn = below(me, sum); drawn >= ops[i].weight; i++)
		drawn -= ops[i].weight;
	me->step++;
	me->op = i;
	if (ops[i].run(me))
		atomic_fetch_add(&SELF(board)[BOARD_OPS + i], 1);
}

void ops_print_names(void)
{
	for (int i = 0; i < OPS; i++)
		puts(ops[i].name);
}
