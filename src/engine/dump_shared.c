/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/dump_shared.h"
#include "image/messages.h"
#include "kernel/pagemap.h"

#define COW_DIR "cow"
#define LINK    "parent"
#define BLOCK   512u            /* pages compared at a time */

/* An earlier dump's link would lend its pages to this one. */
static int remove_old_link(int dirfd, struct err *err)
{
	char to[sizeof(COW_DIR) + 1];
	ssize_t n = readlinkat(dirfd, LINK, to, sizeof(to));

	if (n != sizeof(COW_DIR) - 1 || memcmp(to, COW_DIR, sizeof(COW_DIR) - 1) != 0)
		return 0;
	return unlinkat(dirfd, LINK, 0) < 0 ? err_sys(err, "remove the old link " LINK) : 0;
}

int shared_init(struct shared_dump *d, const struct snapshot *s, struct store *store, struct err *err)
{
	*d = (struct shared_dump){ .snapshot = s, .store = store };
	d->tasks = mem_new(s->tasks.len * sizeof(*d->tasks));
	return remove_old_link(store_dirfd(store), err);
}

/* The first of a task's line that is still there; the task itself when it is that. */
static const struct task *eldest(const struct snapshot *s, const struct task *t)
{
	for (const struct task *up; (up = snapshot_task(s, t->ppid)) && up->state != TASK_ZOMBIE; t = up)
		;
	return t;
}

static bool same_page(uint64_t a, uint64_t b)
{
	const uint64_t where = PM_ENTRY_PRESENT | PM_ENTRY_SWAPPED;

	return (a & where) && (a & where) == (b & where) && PM_ENTRY_PFN(a) == PM_ENTRY_PFN(b) && PM_ENTRY_PFN(a) != 0;
}

/* Is this page in the pages file?  Pages rise: *at goes forward. */
static bool is_placed(const struct page_runs *placed, taddr page, size_t *at)
{
	while (*at < placed->len && placed->at[*at].start + placed->at[*at].pages * PAGE_BYTES <= page)
		(*at)++;
	return *at < placed->len && placed->at[*at].start <= page;
}

static void add_page(struct page_runs *out, const struct page_run *from, taddr page, enum page_where where)
{
	struct page_run *last = out->len > 0 ? &out->at[out->len - 1] : NULL;

	if (last && last->where == where && last->start + last->pages * PAGE_BYTES == page &&
	    last->may_skip_zero == from->may_skip_zero && last->gently == from->gently) {
		last->pages++;
		return;
	}
	vec_push(out, *from);
	out->at[out->len - 1].start = page;
	out->at[out->len - 1].pages = 1;
	out->at[out->len - 1].where = where;
}

struct comparison {
	int own, theirs;                /* pagemaps */
	const struct page_runs *placed;
	size_t at;
	struct page_runs out;
	uint64_t shared;
};

static int compare_run(struct comparison *c, const struct page_run *run, struct err *err)
{
	uint64_t a[BLOCK], b[BLOCK];

	for (uint64_t done = 0; done < run->pages; done += BLOCK) {
		size_t want = run->pages - done < BLOCK ? run->pages - done : BLOCK;
		taddr start = run->start + done * PAGE_BYTES;
		int n = pagemap_read(c->own, start, want, a, err), m;

		if (n < 0)
			return n;
		m = pagemap_read(c->theirs, start, want, b, err);
		if (m < 0)
			return m;
		for (size_t i = 0; i < want; i++) {
			taddr page = start + i * PAGE_BYTES;
			bool same = (int)i < n && (int)i < m && same_page(a[i], b[i]);

			if (same && is_placed(c->placed, page, &c->at)) {
				add_page(&c->out, run, page, PAGE_PARENT);
				c->shared++;
			} else if (!same || !run->may_skip_zero) {
				add_page(&c->out, run, page, PAGE_HERE);
			}       /* else the ancestor's is a page of zeros, which nobody writes */
		}
	}
	return 0;
}

static int compare_all(struct comparison *c, const struct page_runs *plan, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < plan->len; i++) {
		if (plan->at[i].gently)
			r = compare_run(c, &plan->at[i], err);
		else
			vec_push(&c->out, plan->at[i]);
	}
	return r;
}

/* What the format wants in the parent directory: a pagemap of the child's name over the ancestor's pages. */
static int put_cow(struct shared_dump *d, pid_t child, uint32_t pages_id, const struct page_runs *placed, struct err *err)
{
	char name[IMAGE_NAME_MAX], target[IMAGE_NAME_MAX + 3];
	own_writer *w = NULL;
	PagemapHead head = PAGEMAP_HEAD__INIT;
	int r;

	head.pages_id = pages_id;
	r = image_create(d->cow, IMAGE_PAGEMAP, (uint64_t)child, &w, err);
	if (r == 0)
		r = image_put(w, &head.base, err);
	for (size_t i = 0; r == 0 && i < placed->len; i++) {
		PagemapEntry e = PAGEMAP_ENTRY__INIT;

		e.vaddr = placed->at[i].start;
		e.compat_nr_pages = (uint32_t)placed->at[i].pages;
		e.has_nr_pages = e.has_flags = 1;
		e.nr_pages = placed->at[i].pages;
		e.flags = PAGE_HERE;
		r = image_put(w, &e.base, err);
	}
	if (r == 0)
		r = image_finish(&w, err);
	if (r < 0)
		return r;
	image_file_name(IMAGE_PAGES, pages_id, name);
	if (linkat(store_dirfd(d->store), name, store_dirfd(d->cow), name, 0) == 0 || errno == EEXIST)
		return 0;
	snprintf(target, sizeof(target), "../%s", name);        /* a file system without hard links */
	if (symlinkat(target, store_dirfd(d->cow), name) < 0)
		return err_sys(err, "link %s into " COW_DIR, name);
	return 0;
}

static int open_cow(struct shared_dump *d, struct err *err)
{
	char path[64];

	if (d->cow)
		return 0;
	/* links of an earlier dump's would be taken for this one's */
	snprintf(path, sizeof(path), "/proc/self/fd/%d/" COW_DIR, store_dirfd(d->store));
	return store_create_dir(path, &d->cow, err);
}

static int remove_old_pages(struct shared_dump *d, uint32_t pages_id, struct err *err)
{
	char name[IMAGE_NAME_MAX];

	image_file_name(IMAGE_PAGES, pages_id, name);
	if (unlinkat(store_dirfd(d->cow), name, 0) < 0 && errno != ENOENT)
		return err_sys(err, "remove the old " COW_DIR "/%s", name);
	return 0;
}

int shared_plan(struct shared_dump *d, size_t index, struct page_runs *plan, struct err *err)
{
	const struct task *t = &d->snapshot->tasks.at[index], *up = eldest(d->snapshot, t);
	size_t from = (size_t)(up - d->snapshot->tasks.at);
	struct comparison c = { .placed = &d->tasks[from].placed };
	own_fd own = -1, theirs = -1;
	int r;

	if (up == t || c.placed->len == 0)
		return 0;
	r = pagemap_open(t->pid, &own, err);
	if (r == 0)
		r = pagemap_open(up->pid, &theirs, err);
	c.own = own;
	c.theirs = theirs;
	if (r == 0)
		r = compare_all(&c, plan, err);
	if (r == 0 && c.shared > 0)
		r = open_cow(d, err);
	if (r == 0 && c.shared > 0)
		r = remove_old_pages(d, d->tasks[from].pages_id, err);
	if (r == 0 && c.shared > 0)
		r = put_cow(d, t->pid, d->tasks[from].pages_id, c.placed, err);
	if (r < 0) {
		vec_free(&c.out);
		return r;
	}
	vec_free(plan);
	*plan = c.out;
	return 0;
}

void shared_note(struct shared_dump *d, size_t index, uint32_t pages_id, struct page_runs *placed)
{
	d->tasks[index].pages_id = pages_id;
	d->tasks[index].placed = *placed;
	*placed = (struct page_runs){ 0 };
}

int shared_finish(struct shared_dump *d, struct err *err)
{
	int r;

	if (!d->cow)
		return 0;
	r = store_seal(d->cow, err);
	if (r == 0 && symlinkat(COW_DIR, store_dirfd(d->store), LINK) < 0)
		r = err_sys(err, "link " LINK " to " COW_DIR);
	return r;
}

void shared_free(struct shared_dump *d)
{
	for (size_t i = 0; d->tasks && i < d->snapshot->tasks.len; i++)
		vec_free(&d->tasks[i].placed);
	free(d->tasks);
	store_close(d->cow);
}
