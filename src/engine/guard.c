/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/arm.h"
#include "engine/guard.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"

#define REGIONS       512u
#define FAULTS_MAX    16u               /* served in one go */
#define SCAN_STEP     (1ull << 30)      /* a scan holds the task's mmap_lock, for which brk() waits: 0.4 ms */
#define STEP          (4ull << 20)      /* so does protecting: 0.1 ms; a multiple of a huge page, which is not split */
#define LARGE         (256ull << 20)    /* pieces that two threads share in the stop: 0.1 ms */
#define TADDR_END     0x7ffffffff000ull
#define ROUNDS_MAX    8u
#define FEW_FAULTS    32u               /* in a round: the rest is protected in the stop */
#define MAPS_TRIES    5u

/* ---- the thread that lets writers go on ---- */

static void serve(struct guard *g, struct guarded *t)
{
	uint64_t pages[FAULTS_MAX];
	size_t n;

	pthread_mutex_lock(&g->lock);
	n = uffd_read_writes(t->uffd, pages, FAULTS_MAX);
	for (size_t i = 0; i < n; i++) {
		if (g->holds)
			aside_put(&t->aside, pages[i], 1);
		if (uffd_unprotect(t->uffd, pages[i], PAGE_BYTES) < 0)
			uffd_wake(t->uffd, pages[i], PAGE_BYTES);       /* it was unmapped meanwhile */
	}
	g->faults += n;
	pthread_mutex_unlock(&g->lock);
}

static void *serve_all(void *arg)
{
	struct guard *g = arg;
	struct epoll_event events[FAULTS_MAX];

	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &(struct sched_param){ .sched_priority = 2 });        /* or do without */
	for (;;) {
		int n = epoll_wait(g->events, events, FAULTS_MAX, -1);

		for (int i = 0; i < n; i++) {
			if (!events[i].data.ptr)
				return NULL;
			serve(g, events[i].data.ptr);
		}
	}
}

static int watch(struct guard *g, int fd, void *what, struct err *err)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = what };

	return epoll_ctl(g->events, EPOLL_CTL_ADD, fd, &event) < 0 ? err_sys(err, "watch for writes") : 0;
}

int guard_begin(struct guard *g, int dirfd, struct err *err)
{
	int r;

	*g = (struct guard){ .dirfd = dirfd, .quit = eventfd(0, EFD_CLOEXEC), .events = epoll_create1(EPOLL_CLOEXEC) };
	pthread_mutex_init(&g->lock, NULL);
	pthread_mutex_init(&g->protecting, NULL);
	if (g->quit < 0 || g->events < 0)
		return err_sys(err, "watch for writes");
	r = watch(g, g->quit, NULL, err);
	if (r < 0)
		return r;
	r = pthread_create(&g->thread, NULL, serve_all, g);
	g->serves = r == 0;
	return r > 0 ? err_set(err, r, "start a thread that serves faults: %s", strerror(r)) : 0;
}

/* ---- tasks ---- */

struct guarded *guard_of(const struct guard *g, pid_t pid)
{
	for (size_t i = 0; i < g->tasks.len; i++)
		if (g->tasks.at[i]->pid == pid && !g->tasks.at[i]->replaced)
			return g->tasks.at[i];
	return NULL;
}

static void free_task(struct guarded *t)
{
	own_fd_drop(&t->uffd);
	own_fd_drop(&t->pagemap);
	aside_free(&t->aside);
	free(t);
}

static int arm(struct guard *g, const struct frozen_task *frozen, struct err *err)
{
	pid_t pid = frozen->pid;
	struct proc_maps maps = { 0 };
	struct guarded *t = mem_new(sizeof(*t));
	int r;

	LOG_SCOPE("task %d", pid);
	t->pid = pid;
	t->uffd = t->pagemap = -1;
	r = aside_init(&t->aside, pid, g->dirfd, err);
	if (r == 0)
		r = pagemap_open(pid, &t->pagemap, err);
	if (r == 0)
		r = proc_maps(pid, &maps, err);
	if (r >= 0)
		r = arm_task(frozen, &maps, ARM_WAIT, &t->uffd, err);
	proc_maps_free(&maps);
	if (r == 0)
		r = watch(g, t->uffd, t, err);
	if (r < 0)
		free_task(t);
	else
		vec_push(&g->tasks, t);
	return r;
}

int guard_arm(struct guard *g, const struct frozen_tree *tree, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < tree->tasks.len; i++)
		if (!tree->tasks.at[i].zombie && !guard_of(g, tree->tasks.at[i].pid))
			r = arm(g, &tree->tasks.at[i], err);
	return r;
}

bool guard_is_ours(const struct guard *g, pid_t pid, taddr start, taddr end)
{
	const struct guarded *t = g ? guard_of(g, pid) : NULL;

	return t && uffd_register_wp(t->uffd, start, end - start, &(struct err){ 0 }) == 0;
}

/* ---- protecting ---- */

static bool is_anon(const struct proc_map *m)
{
	return m->ino == 0 && !m->shared && strncmp(m->name, "[v", 2) != 0;     /* [vdso], [vvar], [vsyscall] */
}

/* In steps: one that is gone by now needs nothing. */
static void protect_range(struct guard *g, const struct guarded *t, taddr start, taddr end)
{
	for (taddr to; start < end; start = to) {
		to = (start / STEP + 1) * STEP;
		to = to < end ? to : end;
		pthread_mutex_lock(&g->protecting);
		uffd_protect(t->uffd, start, to - start);
		pthread_mutex_unlock(&g->protecting);
	}
}

/* What is there and not protected; a page of a table that is there counts as there. */
static int protect_piece(struct guard *g, const struct guarded *t, taddr start, taddr end, struct err *err)
{
	const struct pm_scan open = { .mask = PM_WRITTEN, .ret_mask = PM_WRITTEN };
	struct pm_region regions[REGIONS];
	int n = 0;

	while (n >= 0 && start < end) {
		taddr to = end - start > SCAN_STEP ? start + SCAN_STEP : end;

		n = pagemap_scan(t->pagemap, &open, start, to, regions, REGIONS, &start, err);
		for (int i = 0; i < n; i++)
			protect_range(g, t, regions[i].start, regions[i].end);
	}
	return n < 0 ? n : 0;
}

/* In the stop, what is large is left for later, in pieces. */
static int protect_map(struct guard *g, struct guarded *t, const struct proc_map *m, bool running, struct err *err)
{
	int r = uffd_register_wp(t->uffd, m->start, m->end - m->start, err);

	if (r == -EBUSY)
		return err_set(err, EOPNOTSUPP, "its memory is watched by another userfaultfd (of its own, or of a chain of dumps)");
	if (r < 0 || running || m->end - m->start < LARGE)
		return r < 0 ? r : protect_piece(g, t, m->start, m->end, err);
	for (taddr at = m->start; at < m->end; at += LARGE)
		vec_push(&g->pieces, ((struct guarded_piece){ t, at, m->end - at > LARGE ? at + LARGE : m->end }));
	return 0;
}

static int protect_task(struct guard *g, struct guarded *t, bool running, struct err *err)
{
	struct proc_maps maps = { 0 };
	int r = -EBADMSG;

	LOG_SCOPE("task %d", t->pid);
	for (unsigned int i = 0; r == -EBADMSG && i < MAPS_TRIES; i++)  /* a list that changes while it is read may make no sense */
		r = proc_maps(t->pid, &maps, err);
	for (size_t i = 0; r >= 0 && i < maps.len; i++) {
		if (is_anon(&maps.at[i]))
			r = protect_map(g, t, &maps.at[i], running, err);
		if (r < 0 && r != -EOPNOTSUPP && running)
			r = 0;          /* unmapped meanwhile */
	}
	proc_maps_free(&maps);
	return r == -ESRCH && running ? 0 : r < 0 ? r : 0;
}

static uint64_t take_faults(struct guard *g)
{
	uint64_t n;

	pthread_mutex_lock(&g->lock);
	n = g->faults;
	g->faults = 0;
	pthread_mutex_unlock(&g->lock);
	return n;
}

int guard_protect(struct guard *g, struct err *err)
{
	int r = 0;

	for (unsigned int round = 0; r == 0 && round < ROUNDS_MAX && (round < 2 || take_faults(g) > FEW_FAULTS); round++) {
		take_faults(g);
		for (size_t i = 0; r == 0 && i < g->tasks.len; i++)
			r = protect_task(g, g->tasks.at[i], true, err);
	}
	return r;
}

/* ---- the moment ---- */

static void put_aside(struct guarded *t, const struct page_runs *runs)
{
	for (size_t i = 0; i < runs->len; i++)
		aside_put(&t->aside, runs->at[i].start, runs->at[i].pages);
}

/* Write protection is for anonymous mappings. */
static int put_file_pages_aside(struct guarded *t, struct err *err)
{
	struct proc_maps maps = { 0 };
	struct page_runs runs = { 0 };
	int r = proc_maps(t->pid, &maps, err);

	for (size_t i = 0; r >= 0 && i < maps.len; i++)
		if (!maps.at[i].shared && maps.at[i].ino != 0)
			r = runs_in_use(t->pagemap, maps.at[i].start, maps.at[i].end, &runs, err);
	if (r >= 0)
		put_aside(t, &runs);
	vec_free(&runs);
	proc_maps_free(&maps);
	return r < 0 ? r : aside_failed(&t->aside, err);
}

static void protect_pieces(struct guard *g)
{
	pthread_mutex_lock(&g->lock);
	while (g->taken < g->pieces.len && g->failed == 0) {
		struct guarded_piece p = g->pieces.at[g->taken++];
		struct err err;
		int r;

		pthread_mutex_unlock(&g->lock);
		r = protect_piece(g, p.task, p.start, p.end, &err);
		pthread_mutex_lock(&g->lock);
		if (r < 0) {
			g->failed = r;
			g->why = err;
		}
	}
	pthread_mutex_unlock(&g->lock);
}

static void *hold_large(void *guard)
{
	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &(struct sched_param){ .sched_priority = 1 });
	protect_pieces(guard);
	return NULL;
}

int guard_held(struct guard *g, struct err *err)
{
	protect_pieces(g);
	if (g->holding)
		pthread_join(g->holder, NULL);
	g->holding = false;
	if (g->failed < 0)
		*err = g->why;
	return g->failed;
}

int guard_hold(struct guard *g, const struct frozen_tree *tree, struct err *err)
{
	int r = guard_arm(g, tree, err);

	pthread_mutex_lock(&g->lock);
	g->holds = true;
	pthread_mutex_unlock(&g->lock);
	for (size_t i = 0; r == 0 && i < tree->tasks.len; i++) {
		struct guarded *t = guard_of(g, tree->tasks.at[i].pid);

		if (tree->tasks.at[i].zombie)
			continue;
		r = protect_task(g, t, false, err);
		if (r == 0)
			r = put_file_pages_aside(t, err);
	}
	if (r == 0 && g->pieces.len > 0)
		g->holding = pthread_create(&g->holder, NULL, hold_large, g) == 0;
	return r;
}

/* Pages that are there and protected, in start..end. */
static int list_held(const struct guarded *t, taddr start, taddr end, struct page_runs *out, struct err *err)
{
	const struct pm_scan held = {
		.inverted = PM_WRITTEN, .mask = PM_WRITTEN, .anyof = PM_PRESENT | PM_SWAPPED, .ret_mask = PM_WRITTEN,
	};
	struct pm_region regions[REGIONS];

	while (start < end) {
		taddr to = end - start > SCAN_STEP / 4 ? start + SCAN_STEP / 4 : end;
		int n = pagemap_scan(t->pagemap, &held, start, to, regions, REGIONS, &start, err);

		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			runs_add(out, regions[i].start, regions[i].end, PAGE_HERE);
	}
	return 0;
}

static taddr page_end(taddr end)
{
	return end > TADDR_END ? TADDR_END : (end + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

int guard_keep(struct guarded *t, taddr start, taddr end, struct err *err)
{
	struct page_runs held = { 0 };
	int r;

	start = start / PAGE_BYTES * PAGE_BYTES;
	end = page_end(end);
	r = start < end ? list_held(t, start, end, &held, err) : 0;
	put_aside(t, &held);
	vec_free(&held);
	return r;
}

/* While another thread is in mremap() the kernel says "later". */
static void unprotect(const struct guarded *t, taddr start, taddr end)
{
	while (uffd_unprotect(t->uffd, start, end - start) == -EAGAIN)
		nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
}

int guard_give_up(struct guarded *t, taddr start, taddr end, struct err *err)
{
	int r = guard_keep(t, start, end, err);
	struct page_runs gone = { 0 };

	if (r == 0)
		r = list_held(t, start / PAGE_BYTES * PAGE_BYTES, page_end(end), &gone, err);
	for (size_t i = 0; i < gone.len; i++)
		unprotect(t, gone.at[i].start, run_end(&gone.at[i]));
	vec_free(&gone);
	return r;
}

int guard_let_write(struct guard *g, struct guarded *t, taddr at, struct err *err)
{
	taddr page = at / PAGE_BYTES * PAGE_BYTES;
	int r = g->holds ? guard_keep(t, page, page + PAGE_BYTES, err) : 0;

	unprotect(t, page, page + PAGE_BYTES);
	return r;
}

/* ---- which pages there were ---- */

static void cut(const struct page_runs *all, size_t *at, const struct vma *v, bool compare, struct page_runs *plan)
{
	for (; *at < all->len && all->at[*at].start < v->end; (*at)++) {
		struct page_run run = all->at[*at];
		taddr start = run.start > v->start ? run.start : v->start, end = run_end(&run) < v->end ? run_end(&run) : v->end;

		if (start < end) {
			run.start = start;
			run.pages = (end - start) / PAGE_BYTES;
			run.may_skip_zero = v->status & VMA_ANON_PRIVATE && !(v->status & VMA_VDSO);
			run.gently = v->shares_pages || v->status & VMA_VDSO;
			run.compare = compare;
			run.may_vanish = true;
			vec_push(plan, run);
		}
		if (run_end(&all->at[*at]) > v->end)
			return;
	}
}

/* In this order: a page that is put aside between the two steps is in one of them, if not in both. */
static int list_pages(struct guarded *t, const struct task *task, struct page_runs *all, struct err *err)
{
	struct page_runs held = { 0 }, kept = { 0 }, rest = { 0 };
	int r = 0;

	for (size_t i = 0; r == 0 && i < task->mm.vmas.len; i++) {
		const struct vma *v = &task->mm.vmas.at[i];

		if (v->status & VMA_VDSO)
			runs_add(&held, v->start, v->end, PAGE_HERE);
		else if (v->status & VMA_ANON_PRIVATE && !(v->status & VMA_VVAR))
			r = list_held(t, v->start, v->end, &held, err);
	}
	aside_list(&t->aside, &kept);
	runs_subtract(&held, &kept, &rest);
	runs_merge(&rest, &kept, all);
	vec_free(&held);
	vec_free(&kept);
	vec_free(&rest);
	return r;
}

int guard_plan(struct guarded *t, const struct task *task, bool compare, struct page_runs *plan, struct err *err)
{
	struct page_runs all = { 0 };
	size_t at = 0;
	int r = list_pages(t, task, &all, err);

	for (size_t i = 0; r == 0 && i < task->mm.vmas.len; i++)
		cut(&all, &at, &task->mm.vmas.at[i], compare, plan);
	vec_free(&all);
	return r;
}

/* ---- the end ---- */

void guard_let_go(struct guard *g)
{
	g->has_let_go = true;
	for (size_t i = 0; i < g->tasks.len; i++)
		disarm_task(g->tasks.at[i]->pid, g->tasks.at[i]->uffd);
}

void guard_free(struct guard *g)
{
	if (g->holding)
		pthread_join(g->holder, NULL);
	g->holding = false;
	if (!g->has_let_go)             /* while somebody still serves them */
		guard_let_go(g);
	if (g->serves) {
		eventfd_write(g->quit, 1);
		pthread_join(g->thread, NULL);
		g->serves = false;
	}
	for (size_t i = 0; i < g->tasks.len; i++)
		free_task(g->tasks.at[i]);
	vec_free(&g->tasks);
	vec_free(&g->pieces);
	own_fd_drop(&g->events);
	own_fd_drop(&g->quit);
	g->events = g->quit = -1;
}
