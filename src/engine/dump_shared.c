/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/dump_shared.h"
#include "image/messages.h"
#include "kernel/pagemap.h"

#define BLOCK 512u              /* pages compared at a time */

void shared_init(struct shared_dump *d, const struct snapshot *s, struct store *store)
{
	*d = (struct shared_dump){ .snapshot = s, .cow = { .store = store } };
	d->tasks = mem_new(s->tasks.len * sizeof(*d->tasks));
}

/* The first of a task's line that is still there; the task itself when it is that. */
static const struct task *eldest(const struct snapshot *s, const struct task *t)
{
	for (const struct task *up; (up = snapshot_task(s, t->ppid)) && up->state != TASK_ZOMBIE; t = up)
		;
	return t;
}

static bool same_page(uint64_t a, uint64_t b, bool protected)
{
	const uint64_t need = protected ? PM_ENTRY_UFFD_WP : 0;
	const uint64_t where = PM_ENTRY_PRESENT | PM_ENTRY_SWAPPED;

	return (a & b & need) == need && (a & where) && (a & where) == (b & where) && PM_ENTRY_PFN(a) == PM_ENTRY_PFN(b) && PM_ENTRY_PFN(a) != 0;
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
	bool running;
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
			bool same = (int)i < n && (int)i < m && same_page(a[i], b[i], c->running);

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

int shared_plan(struct shared_dump *d, size_t index, struct page_runs *plan, struct err *err)
{
	const struct task *t = &d->snapshot->tasks.at[index], *up = eldest(d->snapshot, t);
	size_t from = (size_t)(up - d->snapshot->tasks.at);
	struct comparison c = { .placed = &d->tasks[from].placed, .running = d->running };
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
		r = cow_lend(&d->cow, (uint64_t)t->pid, d->tasks[from].pages_id, c.placed, err);
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
	return cow_finish(&d->cow, err);
}

void shared_free(struct shared_dump *d)
{
	for (size_t i = 0; d->tasks && i < d->snapshot->tasks.len; i++)
		vec_free(&d->tasks[i].placed);
	free(d->tasks);
	cow_free(&d->cow);
}
