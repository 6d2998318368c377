/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/migrate_memory.h"
#include "engine/move.h"
#include "engine/plan.h"
#include "kernel/pagemap.h"
#include "kernel/proc.h"
#include "kernel/urgent.h"
#include "page/ends.h"

#define THREADS    MIGRATE_THREADS
#define MAPS_TRIES 5u

static bool is_memory(const struct vma *v)
{
	return v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE) && !(v->status & VMA_VVAR);
}

static int plan_part(const struct planning *p, const struct vma *v, taddr start, taddr end, bool gently,
		     struct page_runs *plan, struct err *err)
{
	return plan_range(p, &(struct plan_range){ .start = start, .end = end, .anon = v->status & VMA_ANON_PRIVATE,
						   .vdso = v->status & VMA_VDSO, .gently = gently }, plan, err);
}

static const struct taddr_ranges everywhere = { &(struct taddr_range){ 0, ~(taddr)(PAGE_BYTES - 1) }, 1, 1 };

/* Who has other bytes there wants to know of zeros too. */
static void send_zeros(struct page_runs *plan)
{
	for (size_t i = 0; i < plan->len; i++)
		plan->at[i].may_skip_zero = false;
}

static void add_known(struct page_map *known, const struct page_run *run)
{
	struct page_piece *last = known->pieces.len > 0 ? &known->pieces.at[known->pieces.len - 1] : NULL;

	if (last && last->start + last->pages * PAGE_BYTES == run->start)
		last->pages += run->pages;
	else
		vec_push(&known->pieces, ((struct page_piece){ .start = run->start, .pages = run->pages }));
}

/*
 * What the target has now is what the plan says that there is - where it looked.  What it has elsewhere it still has: memory
 * that was unmapped comes back empty, maybe, and then the target must be told.
 */
static void note_known(struct page_map *known, const struct taddr_ranges *where, const struct page_runs *plan)
{
	struct page_runs had = { 0 }, looked = { 0 }, rest = { 0 }, all = { 0 };

	for (size_t i = 0; i < known->pieces.len; i++)
		runs_add(&had, known->pieces.at[i].start, known->pieces.at[i].start + known->pieces.at[i].pages * PAGE_BYTES, PAGE_HERE);
	for (size_t i = 0; i < where->len; i++)
		runs_add(&looked, where->at[i].start, where->at[i].end, PAGE_HERE);
	runs_subtract(&had, &looked, &rest);
	runs_merge(&rest, plan, &all);
	known->pieces.len = 0;
	for (size_t i = 0; i < all.len; i++)
		add_known(known, &all.at[i]);
	vec_free(&had);
	vec_free(&looked);
	vec_free(&rest);
	vec_free(&all);
}

/* Pages that the target has, in start..end, and that are in no run of the plan. */
static void find_gone(const struct page_map *known, const struct taddr_ranges *where, const struct page_runs *plan,
		      struct page_runs *gone)
{
	struct page_runs had = { 0 };
	size_t k = 0;

	for (size_t i = 0; i < known->pieces.len; i++) {
		const struct page_piece *p = &known->pieces.at[i];
		taddr end = p->start + p->pages * PAGE_BYTES;

		for (; k < where->len && where->at[k].end <= p->start; k++)
			;
		for (size_t n = k; n < where->len && where->at[n].start < end; n++)
			runs_add(&had, where->at[n].start > p->start ? where->at[n].start : p->start,
				 where->at[n].end < end ? where->at[n].end : end, PAGE_HERE);
	}
	runs_subtract(&had, plan, gone);
	vec_free(&had);
}

struct moved_task *memory_task(struct migration *m, pid_t pid)
{
	for (size_t i = 0; i < m->first.tasks.len; i++)
		if (m->tasks[i].pid == pid && m->tasks[i].staged->state != TASK_ZOMBIE && !m->tasks[i].lost && !memory_has_ended(&m->tasks[i]))
			return &m->tasks[i];
	return NULL;
}

static void page_lost(void *tracker, taddr page)
{
	tracker_forget(tracker, page);
}

static void no_tracker(void *arg, taddr page)
{
	(void)arg;
	(void)page;
}

/* The list of a running task is good for a moment; while it is read it may change. */
static int maps_now(const struct moved_task *t, struct proc_maps *ret, struct err *err)
{
	int r = -EBADMSG;

	for (unsigned int i = 0; r == -EBADMSG && i < MAPS_TRIES; i++) {
		*ret = (struct proc_maps){ 0 };
		r = proc_maps(t->pid, ret, err);
		if (r < 0)
			proc_maps_free(ret);
	}
	return r < 0 ? r : 0;
}

static int look_for_unseen(struct moved_task *t, struct err *err)
{
	struct proc_maps maps;
	int r = maps_now(t, &maps, err);

	if (r < 0)
		return r;
	t->unseen |= tracking_unseen(t->pid, &maps) != UNSEEN_NONE;
	proc_maps_free(&maps);
	return 0;
}

bool memory_has_ended(const struct moved_task *t)
{
	struct proc_stat stat;

	return proc_stat(t->pid, 0, &stat, &(struct err){ 0 }) < 0 || proc_is_dead(stat.state) ||
	       stat.starttime != t->start_ticks;
}

/* Of a file: in the same place, too.  Elsewhere may be no file at all, and then the target could not put a page there. */
static bool shows_same(const struct migration *m, const struct vma *v, const struct proc_map *now)
{
	const struct file *f = v->status & VMA_ANON_PRIVATE ? NULL : snapshot_file(&m->first, (uint32_t)v->object);

	if (v->status & VMA_ANON_PRIVATE)
		return now->ino == 0;
	return f && now->ino == f->ino && now->pgoff_bytes - now->start == v->pgoff - v->start;
}

/* What of a task's mappings is now as it was at the stage. */
static int common_now(const struct migration *m, const struct moved_task *t, struct taddr_ranges *out, struct err *err)
{
	struct proc_maps maps;
	int r = maps_now(t, &maps, err);

	if (r < 0)
		return r;
	for (size_t i = 0, k = 0; i < maps.len && k < t->staged->mm.vmas.len;) {
		const struct proc_map *a = &maps.at[i];
		const struct vma *v = &t->staged->mm.vmas.at[k];
		taddr start = a->start > v->start ? a->start : v->start, end = a->end < v->end ? a->end : v->end;

		if (start < end && is_memory(v) && !(v->status & VMA_VDSO) && !a->shared && shows_same(m, v, a))
			vec_push(out, ((struct taddr_range){ start, end }));
		if (a->end <= v->end)
			i++;
		if (v->end <= a->end)
			k++;
	}
	proc_maps_free(&maps);
	return 0;
}

const struct vma *memory_vma_at(const struct task *t, taddr at)
{
	for (size_t i = 0; i < t->mm.vmas.len; i++)
		if (t->mm.vmas.at[i].start <= at && at < t->mm.vmas.at[i].end)
			return &t->mm.vmas.at[i];
	return NULL;
}

static bool same_ranges(const struct taddr_ranges *a, const struct taddr_ranges *b)
{
	return a->len == b->len && (a->len == 0 || memcmp(a->at, b->at, a->len * sizeof(*a->at)) == 0);
}

/* Of a task that runs on: again where its mappings changed meanwhile. */
static int plan_running(struct migration *m, const struct moved_task *t, const struct planning *p, struct page_runs *plan,
			struct err *err)
{
	struct taddr_ranges before = { 0 }, after = { 0 };
	int r = common_now(m, t, &before, err);

	for (unsigned int i = 0; r == 0 && i < MAPS_TRIES; i++) {
		plan->len = after.len = 0;
		for (size_t k = 0; r == 0 && k < before.len; k++)
			r = plan_part(p, memory_vma_at(t->staged, before.at[k].start), before.at[k].start, before.at[k].end,
				      m->first.tasks.len > 1, plan, err);
		if (r == 0)
			r = common_now(m, t, &after, err);
		if (r < 0 || same_ranges(&before, &after))
			break;
		before.len = 0;
		for (size_t k = 0; k < after.len; k++)
			vec_push(&before, after.at[k]);
	}
	vec_free(&before);
	vec_free(&after);
	return r;
}

static int plan_stage(struct migration *m, struct moved_task *t, struct stream_item *item, struct err *err)
{
	struct tracked *tracked = tracking_of(&m->tracking, t->pid);
	own_fd pagemap = -1;
	int r = pagemap_open(t->pid, &pagemap, err);

	if (r == 0)
		r = look_for_unseen(t, err);
	if (r < 0)
		return r;
	/* soft-dirty bits are cleared in a stop only: there is none in the rounds */
	t->tracked = tracked && m->tracking.kind == TRACKER_SCAN && tracking_tracker(&m->tracking, tracked, pagemap, &t->tracker);
	r = plan_running(m, t, &(struct planning){ .pagemap = pagemap, .tracker = t->tracked ? &t->tracker : NULL, .running = true },
			 &item->plan, err);
	return r < 0 ? r : proc_open_file(t->pid, "mem", O_RDONLY, &item->fd, err);
}

/* One that has ended since the snapshot has nothing. */
int memory_stage_task(struct migration *m, struct stream_out *out, size_t index, struct err *err)
{
	const struct task *task = &m->first.tasks.at[index];
	struct moved_task *t = &m->tasks[index];
	struct stream_item item = { .kind = IMAGE_PAGEMAP, .id = (uint64_t)task->pid, .from = FROM_TASK, .fd = -1, .lost = no_tracker };
	struct tracked *tracked = tracking_of(&m->tracking, task->pid);
	struct page_count count = { 0 };
	int r;

	LOG_SCOPE("task %d", task->pid);
	*t = (struct moved_task){ .pid = task->pid, .staged = task, .start_ticks = tracked ? tracked->start_ticks : 0 };
	if (task->state == TASK_ZOMBIE)
		return 0;
	r = plan_stage(m, t, &item, err);
	t->lost = r == -ESRCH || memory_has_ended(t);  /* one on its way out has no memory before it is a zombie */
	if (t->lost) {
		item.plan.len = 0;
		r = 0;
	}
	if (r < 0) {
		own_fd_drop(&item.fd);
		vec_free(&item.plan);
		return r;
	}
	note_known(&t->known, &everywhere, &item.plan);
	if (t->tracked) {
		item.lost = page_lost;
		item.lost_arg = &t->tracker;
	}
	r = stream_out_add(out, &item, NULL, &count, err);
	m->pages += count.here;
	return r;
}

void memory_object_free(struct moved_object *o)
{
	own_fd_drop(&o->fd);
	sum_set_free(&o->sums);
	vec_free(&o->known.pieces);
}

/*
 * Of a tree that stands; what is new is opened.  Ids are of 32 bits: if another object has got this one, the target has
 * the former's pages under it (known), and nothing of this one's (sums).
 */
int memory_object(struct migration *m, const struct shmem *o, struct moved_object **ret, struct err *err)
{
	struct moved_object *found = NULL;
	own_fd fd = -1;
	int r;

	for (size_t i = 0; !found && i < m->objects.len; i++)
		if (m->objects.at[i].id == o->id)
			found = &m->objects.at[i];
	if (found && found->dev == o->dev && found->ino == o->ino) {
		found->size_bytes = o->size_bytes;
		*ret = found;
		return 0;
	}
	r = proc_open_file(o->pid, o->at, O_RDONLY, &fd, err);
	if (r < 0)
		return r;
	if (!found) {
		found = vec_add(&m->objects);
		*found = (struct moved_object){ .fd = -1 };
	}
	own_fd_drop(&found->fd);
	sum_set_free(&found->sums);
	found->id = o->id;
	found->dev = o->dev;
	found->ino = o->ino;
	found->fd = TAKE_FD(fd);
	found->size_bytes = o->size_bytes;
	*ret = found;
	return 0;
}

int memory_stage_object(struct stream_out *out, struct moved_object *o, uint64_t *pages, struct err *err)
{
	struct stream_item item = { .kind = IMAGE_PAGEMAP_SHMEM, .id = o->id, .from = FROM_FILE, .fd = -1, .lost = no_tracker };
	struct page_count count = { 0 };
	int r = plan_object(o->fd, o->size_bytes, false, &item.plan, err);

	LOG_SCOPE("shared memory %llu", (unsigned long long)o->id);
	if (r == 0)
		item.fd = fcntl(o->fd, F_DUPFD_CLOEXEC, 0);
	if (r < 0 || item.fd < 0) {
		vec_free(&item.plan);
		return r < 0 ? r : err_sys(err, "hold it");
	}
	note_known(&o->known, &everywhere, &item.plan);
	for (size_t i = 0; i < item.plan.len; i++)
		*pages += item.plan.at[i].pages;
	return stream_out_add(out, &item, NULL, &count, err);
}

static int move_runs(struct migration *m, struct moved_task *t, struct page_runs *plan, const struct page_runs *gone,
		     bool running, struct err *err)
{
	struct page_count count = { 0 };
	struct source_task src;
	struct sink_runs sink;
	own_fd mem = -1;
	int r = proc_open_file(t->pid, "mem", O_RDONLY, &mem, err);

	if (r < 0)
		return r;
	send_zeros(plan);
	source_task_init(&src, t->pid, mem, plan);
	src.zero_lost = running;
	src.lost = t->tracked ? page_lost : no_tracker;
	src.lost_arg = &t->tracker;
	sink_runs_init(&sink, &m->out, RUNS_TASK, (uint64_t)t->pid, &m->options->compress, &t->sums);
	r = sink_runs_drop(&sink, gone, err);
	if (r == 0)
		r = page_pump(&src.base, &sink.base, THREADS, &count, err);
	m->pages += sink.pages;
	m->untracked += t->tracked && !t->unseen ? 0 : sink.pages;
	return r;
}

/* Of ranges that the target has from the stage: what changed since the last time. */
static int plan_common(struct migration *m, struct moved_task *t, const struct taddr_ranges *common, bool running,
		       struct page_runs *plan, struct err *err)
{
	own_fd pagemap = -1;
	int r = pagemap_open(t->pid, &pagemap, err);
	struct planning p = { .running = running, .known = &t->known };

	t->tracker.pagemap = pagemap;
	t->tracker.last = !running;
	p.pagemap = pagemap;
	p.tracker = t->tracked ? &t->tracker : NULL;
	p.believe = t->tracked && !t->unseen;
	for (size_t i = 0; r == 0 && i < common->len; i++) {
		const struct vma *v = memory_vma_at(t->staged, common->at[i].start);

		r = plan_part(&p, v, common->at[i].start, common->at[i].end, m->first.tasks.len > 1, plan, err);
	}
	return r;
}

int memory_round(struct migration *m, struct moved_task *t, struct err *err)
{
	struct taddr_ranges common = { 0 };
	struct page_runs plan = { 0 }, gone = { 0 };
	int r;

	LOG_SCOPE("task %d", t->pid);
	r = common_now(m, t, &common, err);
	if (r == 0)
		r = look_for_unseen(t, err);
	if (r == 0)
		r = plan_common(m, t, &common, true, &plan, err);
	if (r == 0) {
		find_gone(&t->known, &common, &plan, &gone);
		r = move_runs(m, t, &plan, &gone, true, err);
	}
	if (r == 0)
		note_known(&t->known, &common, &plan);
	vec_free(&common);
	vec_free(&plan);
	vec_free(&gone);
	return r;
}

/* All of it is read, and what has another sum than before is sent. */
int memory_round_object(struct migration *m, struct moved_object *o, bool running, struct err *err)
{
	struct page_count count = { 0 };
	struct page_runs plan = { 0 }, gone = { 0 };
	struct source_file src;
	struct sink_runs sink;
	int r = plan_object(o->fd, o->size_bytes, true, &plan, err);

	LOG_SCOPE("shared memory %llu", (unsigned long long)o->id);
	if (r == 0) {
		send_zeros(&plan);
		source_file_init(&src, o->fd, &plan);
		src.may_shrink = running;
		sink_runs_init(&sink, &m->out, RUNS_SHMEM, o->id, &m->options->compress, &o->sums);
		find_gone(&o->known, &everywhere, &plan, &gone);
		r = sink_runs_drop(&sink, &gone, err);
		if (r == 0)
			r = page_pump(&src.base, &sink.base, THREADS, &count, err);
		m->pages += sink.pages;
		m->untracked += sink.pages;
		note_known(&o->known, &everywhere, &plan);
	}
	vec_free(&plan);
	vec_free(&gone);
	return r;
}

/* As far as trackers tell; of the rest, what it was in the last round. */
uint64_t memory_dirty_bytes(const struct migration *m)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < m->first.tasks.len; i++) {
		const struct moved_task *t = &m->tasks[i];
		struct tracker tracker = t->tracker;
		own_fd pagemap = -1;

		if (!t->tracked || pagemap_open(t->pid, &pagemap, &(struct err){ 0 }) < 0)
			continue;
		tracker.pagemap = pagemap;
		for (size_t k = 0; k < t->staged->mm.vmas.len; k++)
			if (t->staged->mm.vmas.at[k].status & VMA_ANON_PRIVATE)
				pages += tracker_expect(&tracker, t->staged->mm.vmas.at[k].start, t->staged->mm.vmas.at[k].end, &t->known);
	}
	return (pages + m->untracked) * PAGE_BYTES;
}

/* ---- the last time ---- */

void memory_task_free(struct moved_task *t)
{
	vec_free(&t->known.pieces);
	vec_free(&t->ahead);
	vec_free(&t->ahead_plan);
	sum_set_free(&t->sums);
}

static void *plan_ahead(void *arg)
{
	struct migration *m = arg;
	struct urgent urgent;

	urgent_begin(&urgent);
	for (size_t i = 0; i < m->first.tasks.len; i++) {
		struct moved_task *t = &m->tasks[i];
		struct err err;

		t->ahead.len = t->ahead_plan.len = 0;
		if (t->staged->state == TASK_ZOMBIE || t->lost || memory_has_ended(t))
			continue;
		if (common_now(m, t, &t->ahead, &err) < 0 || look_for_unseen(t, &err) < 0 ||
		    plan_common(m, t, &t->ahead, false, &t->ahead_plan, &err) < 0)
			t->ahead.len = 0;
	}
	return NULL;
}

void memory_ahead_begin(struct migration *m)
{
	m->plans_ahead = pthread_create(&m->ahead, NULL, plan_ahead, m) == 0;
}

void memory_ahead_end(struct migration *m)
{
	if (m->plans_ahead)
		pthread_join(m->ahead, NULL);
	m->plans_ahead = false;
}

static bool was_ahead(const struct moved_task *t, const struct taddr_range *range)
{
	for (size_t i = 0; i < t->ahead.len; i++)
		if (t->ahead.at[i].start == range->start && t->ahead.at[i].end == range->end)
			return true;
	return false;
}

/* The mappings that the snapshot has are most often those that the other thread saw. */
static int plan_last(struct migration *m, struct moved_task *t, const struct taddr_ranges *common, struct page_runs *plan,
		     struct err *err)
{
	size_t at = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < common->len; i++) {
		struct taddr_ranges one = { &common->at[i], 1, 1 };

		if (!was_ahead(t, &common->at[i]))
			r = plan_common(m, t, &one, false, plan, err);
		else
			for (; at < t->ahead_plan.len && t->ahead_plan.at[at].start < common->at[i].end; at++)
				if (t->ahead_plan.at[at].start >= common->at[i].start)
					vec_push(plan, t->ahead_plan.at[at]);
	}
	return r;
}

static int plan_new(struct migration *m, const struct task *now, const struct taddr_ranges *common, struct page_runs *plan,
		    struct err *err)
{
	struct planning p = { 0 };
	own_fd pagemap = -1;
	int r = pagemap_open(now->pid, &pagemap, err);

	p.pagemap = pagemap;
	for (size_t i = 0, k = 0; r == 0 && i < now->mm.vmas.len; i++) {
		const struct vma *v = &now->mm.vmas.at[i];

		if (!is_memory(v) || v->status & VMA_VDSO)
			continue;
		for (taddr at = v->start, next; r == 0 && at < v->end; at = next) {
			for (; k < common->len && common->at[k].end <= at; k++)
				;
			if (k < common->len && common->at[k].start <= at) {
				next = common->at[k].end;
				continue;
			}
			next = k < common->len && common->at[k].start < v->end ? common->at[k].start : v->end;
			r = plan_part(&p, v, at, next, m->first.tasks.len > 1, plan, err);
		}
	}
	return r;
}

int memory_last(struct migration *m, const struct task *now, const struct taddr_ranges *common, struct err *err)
{
	struct moved_task *t = memory_task(m, now->pid), fresh = { .pid = now->pid };
	struct page_runs plan = { 0 }, more = { 0 }, all = { 0 }, gone = { 0 };
	int r = 0;

	LOG_SCOPE("task %d", now->pid);
	if (t) {
		r = look_for_unseen(t, err);
		if (r == 0)
			r = plan_last(m, t, common, &plan, err);
		if (r == 0)
			find_gone(&t->known, common, &plan, &gone);
	}
	if (r == 0)
		r = plan_new(m, now, common, &more, err);
	runs_merge(&plan, &more, &all);
	if (r == 0)
		r = move_runs(m, t ? t : &fresh, &all, &gone, false, err);
	sum_set_free(&fresh.sums);
	vec_free(&plan);
	vec_free(&more);
	vec_free(&all);
	vec_free(&gone);
	return r;
}
