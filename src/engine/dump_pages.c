/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/dump_pages.h"
#include "kernel/pagemap.h"
#include "kernel/proc.h"
#include "page/ends.h"

#define THREADS 2u              /* one reads while the other writes: more do not help, the file's lock is one */
#define REGIONS 512u
#define OBJECT_END 0x800000000000ll     /* pagemap images have addresses */

static void add_run(struct page_runs *plan, taddr start, taddr end, bool may_skip_zero, bool gently)
{
	vec_push(plan, ((struct page_run){ .start = start, .pages = (end - start) / PAGE_BYTES, .where = PAGE_HERE,
					   .may_skip_zero = may_skip_zero, .gently = gently }));
}

/* Before PAGEMAP_SCAN (6.7): eight bytes a page.  The page of zeros is not told apart here; the pump sees it. */
static int plan_by_entries(int pagemap, const struct vma *v, bool may_skip_zero, struct page_runs *plan, struct err *err)
{
	uint64_t entries[REGIONS];
	taddr at = v->start;

	while (at < v->end) {
		size_t want = (v->end - at) / PAGE_BYTES < REGIONS ? (v->end - at) / PAGE_BYTES : REGIONS;
		int n = pagemap_read(pagemap, at, want, entries, err);

		if (n < 0)
			return n;
		if (n == 0)
			return 0;
		for (int i = 0; i < n; i++, at += PAGE_BYTES) {
			bool own = (entries[i] & (PM_ENTRY_PRESENT | PM_ENTRY_SWAPPED)) &&
				   !(entries[i] & (PM_ENTRY_FILE | PM_ENTRY_GUARD));
			struct page_run *last = plan->len > 0 ? &plan->at[plan->len - 1] : NULL;

			if (own && last && last->start + last->pages * PAGE_BYTES == at && at > v->start)
				last->pages++;
			else if (own)
				add_run(plan, at, at + PAGE_BYTES, may_skip_zero, v->shares_pages);
		}
	}
	return 0;
}

static int plan_vma(int pagemap, const struct vma *v, struct page_runs *plan, struct err *err)
{
	const struct pm_scan own = {
		.inverted = PM_FILE | PM_PFNZERO | PM_GUARD, .mask = PM_FILE | PM_PFNZERO | PM_GUARD,
		.anyof = PM_PRESENT | PM_SWAPPED, .ret_mask = PM_FILE,
	};
	bool may_skip_zero = v->status & VMA_ANON_PRIVATE;
	struct pm_region regions[REGIONS];
	taddr at = v->start;

	if (v->status & VMA_VDSO) {     /* whoever restores compares it with the vdso of the kernel there */
		add_run(plan, v->start, v->end, false, true);
		return 0;
	}
	while (at < v->end) {
		int n = pagemap_scan(pagemap, &own, at, v->end, regions, REGIONS, &at, err);

		if (n == -ENOTTY || n == -EINVAL)
			return plan_by_entries(pagemap, v, may_skip_zero, plan, err);
		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			add_run(plan, regions[i].start, regions[i].end, may_skip_zero, v->shares_pages);
	}
	return 0;
}

static int plan_task(const struct task *t, struct page_runs *plan, struct err *err)
{
	own_fd pagemap = -1;
	int r = pagemap_open(t->pid, &pagemap, err);

	for (size_t i = 0; r >= 0 && i < t->mm.vmas.len; i++) {
		const struct vma *v = &t->mm.vmas.at[i];

		if (v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE) && !(v->status & VMA_VVAR))
			r = plan_vma(pagemap, v, plan, err);
	}
	return r < 0 ? r : 0;
}

static uint64_t plan_pages(const struct page_runs *plan)
{
	uint64_t n = 0;

	for (size_t i = 0; i < plan->len; i++)
		n += plan->at[i].pages;
	return n;
}

/* reserved: a file for the pages, or -1.  placed: NULL, or gets what goes into the pages file. */
static int move(struct pages_dump *d, struct page_source *src, enum image_kind kind, uint64_t id, int reserved,
		struct page_runs *placed, struct page_count *count, struct err *err)
{
	struct sink_image sink;
	int r = sink_image_open(&sink, d->store, kind, id, d->next_pages_id, reserved, err), closed;

	if (r < 0)
		return r;
	d->next_pages_id++;
	sink.placed = placed;
	r = page_pump(src, &sink.base, THREADS, count, err);
	closed = sink_image_close(&sink, r < 0 ? &(struct err){ 0 } : err);
	return r < 0 ? r : closed;
}

int pages_task(struct pages_dump *d, size_t index, struct err *err)
{
	const struct task *t = &d->shared.snapshot->tasks.at[index];
	struct page_runs plan = { 0 }, placed = { 0 };
	struct page_count count = { .meter = &d->meter };
	struct source_task src;
	own_fd mem = -1;
	int r = proc_open_file(t->pid, "mem", O_RDONLY, &mem, err);

	LOG_SCOPE("task %d", t->pid);
	if (r == 0)
		r = plan_task(t, &plan, err);
	if (r == 0)
		r = shared_plan(&d->shared, index, &plan, err);
	if (r == 0) {
		source_task_init(&src, t->pid, mem, &plan);
		r = move(d, &src.base, IMAGE_PAGEMAP, (uint64_t)t->pid,
			 reserve_take(d->reserve, t->pid), &placed, &count, err);
	}
	shared_note(&d->shared, index, d->next_pages_id - 1, &placed);
	d->result->pages_scanned += plan_pages(&plan);
	d->result->pages_written += count.here;
	d->result->pages_in_parent += count.parent;
	d->result->zero_pages += count.zero;
	vec_free(&plan);
	return r;
}

/* What was ever touched of an object, by whatever task: the file behind it knows. */
static int plan_object(int fd, uint64_t size, struct page_runs *plan, struct err *err)
{
	off_t at = 0;

	while ((uint64_t)at < size && (at = lseek(fd, at, SEEK_DATA)) >= 0 && (uint64_t)at < size) {
		off_t end = lseek(fd, at, SEEK_HOLE);

		if (end < 0)
			return err_sys(err, "look for holes");
		end = (end + (off_t)PAGE_BYTES - 1) / (off_t)PAGE_BYTES * (off_t)PAGE_BYTES;
		if ((uint64_t)end > OBJECT_END)
			return err_set(err, EOPNOTSUPP, "it has data at offset %#llx: too far for the images", (long long)at);
		add_run(plan, (taddr)at, (taddr)end, true, false);
		plan->at[plan->len - 1].from = (uint64_t)at;
		at = end;
	}
	return at < 0 && errno != ENXIO ? err_sys(err, "look for data") : 0;
}

static int dump_shmem(struct pages_dump *d, const struct shmem *o, struct err *err)
{
	struct page_runs plan = { 0 };
	struct page_count count = { .meter = &d->meter };
	struct source_file src;
	own_fd fd = -1;
	int r;

	LOG_SCOPE("shared memory %llu (%s) of task %d", (unsigned long long)o->id, o->name ? o->name : o->at, o->pid);
	r = proc_open_file(o->pid, o->at, O_RDONLY, &fd, err);
	if (r == 0)
		r = plan_object(fd, o->size_bytes, &plan, err);
	if (r == 0) {
		source_file_init(&src, fd, &plan);
		r = move(d, &src.base, IMAGE_PAGEMAP_SHMEM, o->id, -1, NULL, &count, err);
	}
	d->result->shared_pages_written += count.here;
	d->result->zero_pages += count.zero;
	vec_free(&plan);
	return r;
}

int pages_begin(struct pages_dump *d, const struct snapshot *s, struct store *store, struct reserve *reserve,
		struct progress_meter meter, struct dump_result *result, struct err *err)
{
	*d = (struct pages_dump){ .store = store, .reserve = reserve, .meter = meter, .result = result,
				  .next_pages_id = 1 };
	return shared_init(&d->shared, s, store, err);
}

int pages_end(struct pages_dump *d, bool abandon, struct err *err)
{
	const struct snapshot *s = d->shared.snapshot;
	int r = abandon ? 0 : shared_finish(&d->shared, err);

	shared_free(&d->shared);
	for (size_t i = 0; r == 0 && !abandon && i < s->shmems.len; i++)
		r = dump_shmem(d, &s->shmems.at[i], err);
	return r;
}
