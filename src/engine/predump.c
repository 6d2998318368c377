/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "engine/move.h"
#include "engine/plan.h"
#include "engine/predump.h"
#include "engine/save.h"
#include "engine/tracking.h"
#include "kernel/kcmp_set.h"
#include "kernel/pagemap.h"
#include "kernel/urgent.h"

#define MAPS_TRIES 5u           /* a list of mappings read while the task changes them may make no sense */

struct predumped {
	pid_t pid;
	enum unseen unseen;
	struct page_runs plan;
	bool planned, gone;
};

struct seen_object { dev_t dev; ino_t ino; };

struct predump {
	const struct dump_options *options;
	struct dump_result result;
	struct store *store;
	struct destination *to;
	struct tracking tracking;
	struct frozen_tree tree;
	struct moving moving;
	VEC(struct predumped) tasks;
	VEC(struct seen_object) objects;
	struct kcmp_set memories;
	uint64_t started_us, freeze_us;
	bool frozen, must_arm, must_stand, some_ended;
};

/* ---- look ---- */

static int read_maps(pid_t pid, struct proc_maps *maps, struct err *err)
{
	int r = -EBADMSG;

	for (unsigned int i = 0; r == -EBADMSG && i < MAPS_TRIES; i++)
		r = proc_maps(pid, maps, err);
	return r;
}

/*
 * With one that is in already (CLONE_VM)?  A second take would hide what was written after the first one from that one's
 * next.
 */
static bool shares_memory(struct predump *d, pid_t pid)
{
	pid_t same = 0;
	struct err gone;
	bool shares = false;

	if (!d->some_ended && kcmp_set_add(&d->memories, pid, &same, &gone) == 0)
		return same != 0;
	d->some_ended = true;           /* the set can't be searched any more */
	for (size_t i = 0; i < d->tasks.len && !shares; i++)
		shares = sys_kcmp(pid, d->tasks.at[i].pid, SYS_KCMP_VM, 0, 0, &gone) == 0;
	return shares;
}

static int look_at_task(struct predump *d, pid_t pid, struct err *err)
{
	struct proc_maps maps = { 0 };
	struct proc_stat stat;
	struct tracked *task;
	struct predumped *p;
	int r = proc_stat(pid, 0, &stat, err);

	if (r < 0 || proc_is_dead(stat.state))
		return r;
	if (shares_memory(d, pid))
		return 0;
	r = read_maps(pid, &maps, err);
	task = r < 0 ? NULL : tracking_add(&d->tracking, pid, stat.starttime, err);
	if (task) {
		p = vec_add(&d->tasks);
		p->pid = pid;
		p->unseen = tracking_unseen(pid, &maps);
		d->must_arm |= d->tracking.kind == TRACKER_SCAN && !tracking_watches(task);
		d->must_stand |= d->tracking.kind == TRACKER_SOFT_DIRTY || p->unseen == UNSEEN_DIRECT;
	}
	proc_maps_free(&maps);
	return task ? 0 : -err->code;
}

static int look_at_tree(struct predump *d, pid_t pid, struct err *err)
{
	struct proc_ids children = { 0 };
	struct err gone;
	int r = look_at_task(d, pid, err);

	if (r == 0 && proc_children(pid, &children, &gone) >= 0)
		for (size_t i = 0; r >= 0 && i < children.len; i++) {
			r = look_at_tree(d, children.at[i], err);
			r = r == -ESRCH ? 0 : r;
		}
	vec_free(&children);
	return r;
}

static int predump_look(struct predump *d, struct err *err)
{
	int r = store_create_dir(d->options->images_dir, &d->store, err);

	if (r == 0)
		r = dump_destination(d->options, d->store, &d->to, err);
	if (r == 0)
		r = tracking_begin(&d->tracking, &(struct tracking_options){
			.root = d->options->root, .base_dir = d->options->base_dir, .to = d->to, .kind = d->options->tracker, .keep = true,
			.memory_only = true }, d->store, err);
	if (r < 0)
		return r;
	d->moving = (struct moving){ .to = d->to, .base = d->tracking.base, .threads = d->to->in_files ? 1 : 2, .meter = { .to = d->options->progress } };
	r = look_at_tree(d, d->options->root, err);
	return r == 0 && d->tasks.len == 0 ? err_set(err, ESRCH, "process %d has ended (a zombie)", d->options->root) : r;
}

/* ---- take ---- */

static int plan_maps(const struct planning *p, const struct proc_maps *maps, bool gently, struct page_runs *plan,
		     struct err *err)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && i < maps->len; i++) {
		const struct proc_map *m = &maps->at[i];

		bool vdso = strcmp(m->name, "[vdso]") == 0;

		if (m->shared || (strncmp(m->name, "[v", 2) == 0 && !vdso))     /* [vvar...], [vsyscall] */
			continue;
		r = plan_range(p, &(struct plan_range){
			.start = m->start, .end = m->end, .anon = m->ino == 0, .vdso = vdso,
			.gently = gently,
		}, plan, err);
	}
	return r;
}

static int plan_task(struct predump *d, struct predumped *p, struct err *err)
{
	struct tracked *task = tracking_of(&d->tracking, p->pid);
	struct planning planning = { .running = true };
	struct proc_maps maps = { 0 };
	struct tracker tracker;
	enum unseen after;
	own_fd pagemap = -1;
	int r = pagemap_open(p->pid, &pagemap, err);

	LOG_SCOPE("task %d", p->pid);
	if (r == 0)
		r = read_maps(p->pid, &maps, err);
	if (r < 0)
		return r;
	if (!d->frozen && p->unseen != UNSEEN_WATCHED)
		p->unseen = tracking_unseen(p->pid, &maps);
	planning.pagemap = pagemap;
	if (p->unseen != UNSEEN_WATCHED && tracking_tracker(&d->tracking, task, pagemap, &tracker))
		planning.tracker = &tracker;
	planning.known = task->has_known ? &task->known : NULL;
	planning.believe = planning.tracker && task->since_base && !task->unseen_before;
	task->taken = true;
	r = plan_maps(&planning, &maps, d->tasks.len > 1, &p->plan, err);     /* what they share stays shared */
	after = tracking_unseen(p->pid, &maps);
	task->unseen_now = p->unseen >= UNSEEN_ASYNC || after >= UNSEEN_ASYNC || (after == UNSEEN_DIRECT && !d->frozen);
	proc_maps_free(&maps);
	if (r >= 0 && d->tracking.kind == TRACKER_SOFT_DIRTY)
		r = soft_dirty_clear(p->pid, err);
	p->planned = true;
	return r;
}

/* A task that is gone is none of ours any more; without the root there is nothing. */
static int forgive(struct predump *d, struct predumped *p, int r, const struct err *err)
{
	if (r != -ESRCH || p->pid == d->options->root)
		return r;
	log_info("%s: it has ended, and is left out", err->text);
	p->gone = true;
	return 0;
}

static int plan_frozen(struct predump *d, struct err *err)
{
	int r = tracking_arm(&d->tracking, &d->tree, err);

	if (r == 0)
		r = tracking_take_over(&d->tracking, err);
	for (size_t i = 0; r == 0 && d->must_stand && i < d->tasks.len; i++)
		r = forgive(d, &d->tasks.at[i], plan_task(d, &d->tasks.at[i], err), err);
	return r;
}

static int predump_arm(struct predump *d, struct err *err)
{
	struct urgent urgent;
	int r, released;

	if (!d->must_arm && !d->must_stand)
		return tracking_take_over(&d->tracking, err);
	urgent_begin(&urgent);
	d->freeze_us = clock_us();
	r = freeze_tree(d->options->root, d->options->timeout_s, &d->tree, err);
	if (r < 0) {
		urgent_end(&urgent);
		return r;
	}
	d->frozen = true;
	d->result.freezing_us = clock_us() - d->freeze_us;
	r = plan_frozen(d, err);
	released = freeze_release(&d->tree, false, r < 0 ? &(struct err){ 0 } : err);
	d->result.frozen_us = clock_us() - d->freeze_us;
	d->frozen = false;
	urgent_end(&urgent);
	return r < 0 ? r : released;
}

/* ---- copy ---- */

static void page_lost(void *tracker, taddr page)
{
	tracker_forget(tracker, page);
}

static int copy_task(struct predump *d, struct predumped *p, struct err *err)
{
	struct tracked *task = tracking_of(&d->tracking, p->pid);
	struct page_count count = { 0 };
	struct source_task src;
	struct tracker tracker;
	own_fd mem = -1;
	int r = proc_open_file(p->pid, "mem", O_RDONLY, &mem, err);

	LOG_SCOPE("task %d", p->pid);
	if (r < 0)
		return r;
	source_task_init(&src, p->pid, mem, &p->plan);
	if (tracking_tracker(&d->tracking, task, -1, &tracker)) {
		src.lost = page_lost;
		src.lost_arg = &tracker;
	}
	r = move_pages(&d->moving, &src.base, &(struct pagemap_wish){
		.kind = IMAGE_PAGEMAP, .id = (uint64_t)p->pid, .reserved = -1,
		.known = task->has_known ? &task->known : NULL }, &count, err);
	if (count.lost > 0 && d->tracking.kind == TRACKER_SOFT_DIRTY)   /* there is no bit that could be set */
		task->unseen_now = true;
	d->result.pages_scanned += runs_pages(&p->plan);
	d->result.pages_written += count.here;
	d->result.pages_in_parent += count.parent;
	d->result.zero_pages += count.zero;
	vec_free(&p->plan);
	return r;
}

static bool is_new_object(struct predump *d, const struct proc_map *m)
{
	bool is_object = m->shared && (strcmp(m->name, "/dev/zero (deleted)") == 0 || strncmp(m->name, "/memfd:", 7) == 0);

	for (size_t i = 0; is_object && i < d->objects.len; i++)
		if (d->objects.at[i].dev == m->dev && d->objects.at[i].ino == m->ino)
			return false;
	return is_object;
}

/* Shared memory is what its file says: nobody's page tables know all who write to it.  The last dump reads it again. */
static int copy_object(struct predump *d, pid_t pid, const struct proc_map *m, struct err *err)
{
	char at[64];
	struct page_count count = { 0 };
	struct stat st;
	own_fd fd = -1;
	int r;

	snprintf(at, sizeof(at), "map_files/%llx-%llx", (unsigned long long)m->start, (unsigned long long)m->end);
	vec_push(&d->objects, ((struct seen_object){ m->dev, m->ino }));
	if (proc_open_file(pid, at, O_RDONLY, &fd, err) < 0 || fstat(fd, &st) < 0 || st.st_ino != m->ino)
		return 0;               /* it was unmapped meanwhile */
	r = move_object(&d->moving, fd, (uint32_t)m->ino, (uint64_t)st.st_size, &count, err);
	if (r == -EBUSY || r == -EBADMSG) {     /* cut meanwhile: what was got is compared next time, as everything is */
		log_info("%s: shared memory %#lx is left for later", err->text, (unsigned long)m->ino);
		r = 0;
	}
	d->result.shared_pages_written += count.here;
	d->result.pages_in_parent += count.parent;
	d->result.zero_pages += count.zero;
	return r;
}

static int copy_objects(struct predump *d, pid_t pid, struct err *err)
{
	struct proc_maps maps = { 0 };
	int r = read_maps(pid, &maps, err);

	for (size_t i = 0; r >= 0 && i < maps.len; i++)
		if (is_new_object(d, &maps.at[i]))
			r = copy_object(d, pid, &maps.at[i], err);
	proc_maps_free(&maps);
	return r;
}

static bool has_ended(const struct predump *d, const struct predumped *p)
{
	const struct tracked *task = tracking_of(&d->tracking, p->pid);
	struct proc_stat stat;

	return proc_stat(p->pid, 0, &stat, &(struct err){ 0 }) < 0 || proc_is_dead(stat.state) || !task ||
	       stat.starttime != task->start_ticks;
}

/* One that calls exec while it is looked at has another memory then: nobody watches that, and all of it is new. */
static int plan_running(struct predump *d, struct predumped *p, struct err *err)
{
	int r = -ESRCH;

	for (unsigned int i = 0; r == -ESRCH && i < MAPS_TRIES; i++) {
		vec_free(&p->plan);
		r = plan_task(d, p, err);
		if (r == -ESRCH && has_ended(d, p))
			return r;
	}
	return r;
}

static int predump_copy(struct predump *d, struct err *err)
{
	int r = 0;

	not_urgent();
	for (size_t i = 0; r >= 0 && i < d->tasks.len; i++) {
		struct predumped *p = &d->tasks.at[i];

		if (!p->planned)
			r = plan_running(d, p, err);
		if (r >= 0 && !p->gone)
			r = copy_task(d, p, err);
		if (r >= 0 && !p->gone)
			r = copy_objects(d, p->pid, err);
		r = forgive(d, p, r, err);
	}
	d->result.tasks = (unsigned int)d->tasks.len;
	return r < 0 ? r : d->to->ops->end(d->to, err);
}

/* ---- keep ---- */

static int predump_keep(struct predump *d, struct err *err)
{
	int r = save_inventory(d->store, err);

	if (r == 0)
		r = tracking_save(&d->tracking, err);
	if (r == 0)
		r = store_seal(d->store, err);
	if (r < 0)
		return r;
	tracking_keep(&d->tracking);
	d->result.total_us = clock_us() - d->started_us;
	d->result.memory_us = d->result.total_us - d->result.frozen_us;
	dump_save_stats(d->options, &d->result);
	return 0;
}

static void predump_free(struct predump *d)
{
	for (size_t i = 0; i < d->tasks.len; i++)
		vec_free(&d->tasks.at[i].plan);
	vec_free(&d->tasks);
	vec_free(&d->objects);
	kcmp_set_free(&d->memories);
	freeze_free(&d->tree);
	tracking_free(&d->tracking);
	destination_free(d->to);
	store_close(d->store);
}

int predump_run(const struct dump_options *options, struct dump_result *ret_result, struct err *err)
{
	static const struct { const char *name; int (*step)(struct predump *, struct err *); } steps[] = {
		{ "look", predump_look }, { "arm", predump_arm }, { "copy", predump_copy }, { "keep", predump_keep },
	};
	struct predump d = { .options = options, .memories.what = SYS_KCMP_VM, .started_us = clock_us() };
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_LEN(steps); i++) {
		uint64_t from = clock_us();

		r = steps[i].step(&d, err);
		log_debug("%s: %llu us", steps[i].name, (unsigned long long)(clock_us() - from));
	}
	predump_free(&d);
	if (r == 0)
		*ret_result = d.result;
	return r;
}
