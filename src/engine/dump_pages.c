/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/dump_pages.h"
#include "engine/plan.h"
#include "kernel/pagemap.h"
#include "kernel/proc.h"
#include "page/ends.h"

#define THREADS 2u              /* one reads while the other writes: more do not help, the file's lock is one */

static int plan_task(struct pages_dump *d, const struct task *t, int pagemap, struct page_runs *plan, struct err *err)
{
	struct tracked *task = tracking_of(d->tracking, t->pid);
	struct tracker tracker;
	struct planning p = { .pagemap = pagemap };
	int r = 0;

	if (task)
		task->taken = true;
	if (d->guard)
		return guard_plan(guard_of(d->guard, t->pid), t, task && task->has_known, plan, err);
	if (task) {
		p.tracker = tracking_tracker(d->tracking, task, pagemap, &tracker) ? &tracker : NULL;
		p.known = task->has_known ? &task->known : NULL;
		p.believe = task->since_base && !task->unseen_before;
	}
	for (size_t i = 0; r >= 0 && i < t->mm.vmas.len; i++) {
		const struct vma *v = &t->mm.vmas.at[i];

		if (v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE) && !(v->status & VMA_VVAR))
			r = plan_range(&p, &(struct plan_range){
				.start = v->start, .end = v->end, .anon = v->status & VMA_ANON_PRIVATE,
				.vdso = v->status & VMA_VDSO, .gently = v->shares_pages,
			}, plan, err);
	}
	return r;
}

static int move_task(struct pages_dump *d, const struct task *t, int mem, const struct page_runs *plan,
		     struct page_runs *placed, struct page_count *count, struct err *err)
{
	struct tracked *task = tracking_of(d->tracking, t->pid);
	struct guarded *guarded = d->guard ? guard_of(d->guard, t->pid) : NULL;
	struct source_task now;
	struct source_past past;
	struct page_source *src = guarded ? &past.base : &now.base;

	/* several tasks: who shares pages with whom is known as long as they are protected */
	if (guarded)
		source_past_init(&past, &guarded->aside, plan, d->shared.snapshot->tasks.len > 1 ? -1 : guarded->uffd);
	else
		source_task_init(&now, t->pid, mem, plan);
	return move_pages(&d->moving, src, &(struct pagemap_wish){
		.kind = IMAGE_PAGEMAP, .id = (uint64_t)t->pid, .reserved = reserve_take(d->reserve, t->pid), .placed = placed,
		.known = task && task->has_known ? &task->known : NULL }, count, err);
}

/* The plan and the descriptor are the stream's then. */
static int note_task(struct pages_dump *d, const struct task *t, int *mem, struct page_runs *plan, struct page_runs *placed,
		     struct page_count *count, struct err *err)
{
	struct stream_item item = { .kind = IMAGE_PAGEMAP, .id = (uint64_t)t->pid, .from = FROM_TASK, .fd = TAKE_FD(*mem),
				    .plan = *plan };

	*plan = (struct page_runs){ 0 };
	return stream_out_add(d->stream, &item, placed, count, err);
}

int pages_task(struct pages_dump *d, size_t index, struct err *err)
{
	const struct task *t = &d->shared.snapshot->tasks.at[index];
	struct page_runs plan = { 0 }, placed = { 0 };
	struct page_count count = { 0 };
	own_fd mem = -1, pagemap = -1;
	int r = proc_open_file(t->pid, "mem", O_RDONLY, &mem, err);

	LOG_SCOPE("task %d", t->pid);
	if (r == 0)
		r = pagemap_open(t->pid, &pagemap, err);
	if (r == 0)
		r = plan_task(d, t, pagemap, &plan, err);
	/* where an earlier dump is the `parent`, and on a server, what tasks share is written for each */
	if (r == 0 && !d->tracking->base && d->moving.to->in_files)
		r = shared_plan(&d->shared, index, &plan, err);
	d->result->pages_scanned += runs_pages(&plan);
	if (r == 0)
		r = d->stream ? note_task(d, t, &mem, &plan, &placed, &count, err) :
				move_task(d, t, mem, &plan, &placed, &count, err);
	if (r == 0 && d->tracking->kind == TRACKER_SOFT_DIRTY && d->tracking->options.keep)
		r = soft_dirty_clear(t->pid, err);
	shared_note(&d->shared, index, d->stream ? d->stream->next_pages_id - 1 : d->moving.to->pages_id, &placed);
	d->result->pages_written += count.here;
	d->result->pages_in_parent += count.parent;
	d->result->zero_pages += count.zero;
	vec_free(&plan);
	return r;
}

static int note_object(struct pages_dump *d, int *fd, const struct shmem *o, struct page_count *count, struct err *err)
{
	struct stream_item item = { .kind = IMAGE_PAGEMAP_SHMEM, .id = o->id, .from = FROM_FILE };
	int r = plan_object(*fd, o->size_bytes, false, &item.plan, err);

	item.fd = TAKE_FD(*fd);
	if (r == 0)
		return stream_out_add(d->stream, &item, NULL, count, err);
	close(item.fd);
	vec_free(&item.plan);
	return r;
}

static int dump_shmem(struct pages_dump *d, const struct shmem *o, struct err *err)
{
	struct page_count count = { 0 };
	own_fd fd = -1;
	int r;

	LOG_SCOPE("shared memory %llu (%s) of task %d", (unsigned long long)o->id, o->name ? o->name : o->at, o->pid);
	r = proc_open_file(o->pid, o->at, O_RDONLY, &fd, err);
	if (r == 0)
		r = d->stream ? note_object(d, &fd, o, &count, err) : move_object(&d->moving, fd, o->id, o->size_bytes, &count, err);
	d->result->shared_pages_written += count.here;
	d->result->pages_in_parent += count.parent;
	d->result->zero_pages += count.zero;
	return r;
}

void pages_begin(struct pages_dump *d, const struct snapshot *s, const struct tracking *tracking, struct store *store,
		struct reserve *reserve, struct guard *guard, struct progress_meter meter, struct dump_result *result)
{
	*d = (struct pages_dump){
		.tracking = tracking, .reserve = reserve, .guard = guard, .result = result,
		.moving = { .to = tracking->options.to, .base = tracking->base, .meter = meter, .threads = guard ? 1 : THREADS },
	};
	shared_init(&d->shared, s, store);
	d->shared.running = guard != NULL;
}

int pages_shared(struct pages_dump *d, struct err *err)
{
	const struct snapshot *s = d->shared.snapshot;
	int r = 0;

	for (size_t i = 0; r == 0 && !d->shared_done && i < s->shmems.len; i++)
		r = dump_shmem(d, &s->shmems.at[i], err);
	d->shared_done = true;
	return r;
}

int pages_end(struct pages_dump *d, bool abandon, struct err *err)
{
	int r = abandon ? 0 : shared_finish(&d->shared, err);

	shared_free(&d->shared);
	if (r == 0 && !abandon)
		r = pages_shared(d, err);
	return r < 0 || abandon ? r : d->moving.to->ops->end(d->moving.to, err);
}
