/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/arm.h"
#include "engine/tracking.h"
#include "kernel/pagemap.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/probe.h"
#include "kernel/uffd.h"

/* ---- what is this dump made on? ---- */

static int choose_kind(struct tracking *t, struct err *err)
{
	struct kernel_features features;
	const char *why;
	bool has;

	t->kind = t->options.kind;
	if (!t->options.keep && !t->options.base_dir) {
		t->kind = TRACKER_NONE;
		return 0;
	}
	kernel_features_ask(false, &features);
	if (t->kind == TRACKER_AUTO) {
		t->kind = tracker_choose(&features, &why);
		log_info("tracker %s: %s", tracker_name(t->kind), why);
	}
	has = t->kind == TRACKER_SCAN ? features.pagemap_scan && features.uffd_wp_async && features.pidfd_getfd :
	      t->kind == TRACKER_SOFT_DIRTY ? features.soft_dirty : true;
	return has ? 0 : err_set(err, EOPNOTSUPP, "this kernel has no %s tracking: try another --tracker (see ferry check)",
				 tracker_name(t->kind));
}

static int read_boot_id(char ret_id[static 40])
{
	own_fd fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, ret_id, 36);

	ret_id[n < 0 ? 0 : n] = '\0';
	return 0;
}

static int begin_link(struct tracking *t, struct err *err)
{
	struct proc_stat stat;
	int r = proc_stat(t->options.root, 0, &stat, err);

	if (r == -ESRCH)
		return err_set(err, ESRCH, "there is no process %d", t->options.root);
	if (r == 0)
		r = link_id_new(&t->link.id, err);
	if (r < 0)
		return r;
	t->link.root = t->options.root;
	t->link.start_ticks = stat.starttime;
	t->link.memory_only = t->options.memory_only;
	if (t->kind != TRACKER_NONE)
		snprintf(t->link.tracker, sizeof(t->link.tracker), "%s", tracker_name(t->kind));
	return read_boot_id(t->link.boot_id);
}

/* Why nobody can tell what changed since the base; NULL: somebody can. */
static const char *why_not(const struct tracking *t, const struct image_link *base, bool base_has_link, bool found)
{
	if (!base_has_link)
		return "it has no link of ferry's";
	if (base->root != t->link.root || base->start_ticks != t->link.start_ticks ||
	    strcmp(base->boot_id, t->link.boot_id) != 0)
		return "it is of another program";
	if (t->kind == TRACKER_NONE)    /* all is compared */
		return NULL;
	if (!found)
		return "its keeper is gone";
	if (t->old.kind != t->kind)
		return "it was made with another tracker";
	if (!link_id_same(&t->old.since, &base->id))
		return "the keeper speaks of another dump";
	return NULL;
}

static int begin_base(struct tracking *t, bool found, struct err *err)
{
	struct image_link base = { 0 };
	const char *not;
	int r = link_open_parent(t->store, t->options.base_dir, &t->base, err);

	if (r == 0)
		r = link_read(t->base, &base, err);
	if (r < 0)
		return r;
	not = why_not(t, &base, r > 0, found);
	if (not) {
		log_warn("nothing is known of what changed since %s: %s; this is a full dump", t->options.base_dir, not);
		store_close(t->base);
		t->base = NULL;
		return 0;
	}
	t->link.has_parent_id = true;
	t->link.parent_id = base.id;
	return 0;
}

static int take_old_tasks(struct tracking *t, struct err *err)
{
	for (size_t i = 0; i < t->old.tasks.len; i++) {
		struct kept_task *k = &t->old.tasks.at[i];
		struct tracked *task = tracking_add(t, k->pid, k->start_ticks, err);

		if (!task && err->code == ESRCH)        /* it has ended meanwhile */
			continue;
		if (!task)
			return -err->code;
		task->uffd = TAKE_FD(k->uffd);
		task->frames_before = k->frames;
		k->frames = (struct frames){ 0 };
		task->unseen_before = k->unseen;
		task->since_base = t->base && task->has_known;  /* "unchanged" means nothing where nobody has it */
	}
	return 0;
}

/* Locks what is known to be in the tree, then looks for its keeper.  1: found. */
static int find_keeper(struct tracking *t, struct err *err)
{
	int r = task_lock(&t->locks, t->options.root, err), found;

	if (r < 0)
		return r;
	found = keeper_find(t->options.root, &t->old, err);
	for (size_t i = 0; found > 0 && i < t->old.tasks.len; i++) {
		r = task_lock(&t->locks, t->old.tasks.at[i].pid, err);
		if (r < 0 && r != -ESRCH)
			return r;
	}
	if (found > 0 && !keeper_lives(&t->old)) {      /* who had locked one of them before us ended it */
		keeper_free(&t->old);
		return 0;
	}
	return found;
}

int tracking_begin(struct tracking *t, const struct tracking_options *options, struct store *store, struct err *err)
{
	bool chain = options->keep || options->base_dir;
	int r, found = 0;

	*t = (struct tracking){ .options = *options, .store = store, .old = { .pidfd = -1 } };
	r = choose_kind(t, err);
	if (r == 0)
		r = begin_link(t, err);
	if (r == 0 && (chain || options->protected))
		r = found = find_keeper(t, err);
	if (r >= 0 && options->base_dir)
		r = begin_base(t, found > 0, err);
	if (r >= 0 && options->guarded && chain) {
		r = keeper_end(&t->old, err);
		keeper_free(&t->old);
		return r;
	}
	if (r < 0)
		return r;
	/*
	 * A plain dump beside a chain leaves the chain alone, and knows whose write protection it sees.  A new chain
	 * believes nothing of the old one, but goes on with what watches: a new watch would cost another stop.
	 */
	if (found > 0 && chain && !t->base)
		log_info("the keeper of an earlier chain (process %d) ends: a new chain begins", t->old.pid);
	if (t->base || !chain || t->old.kind == t->kind)
		return take_old_tasks(t, err);
	r = keeper_end(&t->old, err);
	keeper_free(&t->old);
	return r;
}

/* ---- tasks ---- */

struct tracked *tracking_of(const struct tracking *t, pid_t pid)
{
	for (size_t i = 0; i < t->tasks.len; i++)
		if (t->tasks.at[i].pid == pid)
			return &t->tasks.at[i];
	return NULL;
}

static void free_tracked(struct tracked *task)
{
	own_fd_drop(&task->uffd);
	vec_free(&task->frames_before);
	vec_free(&task->frames_now);
	page_map_free(&task->known);
}

struct tracked *tracking_add(struct tracking *t, pid_t pid, uint64_t start_ticks, struct err *err)
{
	struct tracked *task = tracking_of(t, pid);
	int r = 0;

	if (task && task->start_ticks == start_ticks)
		return task;
	if (task_lock(&t->locks, pid, err) < 0)
		return NULL;
	if (task) {                     /* its pid is another's now */
		free_tracked(task);
	} else {
		task = vec_add(&t->tasks);
	}
	*task = (struct tracked){ .pid = pid, .start_ticks = start_ticks, .uffd = -1 };
	if (t->base)
		r = t->options.to->ops->known(t->options.to, t->base, IMAGE_PAGEMAP, (uint64_t)pid, &task->known, err);
	task->has_known = r > 0;
	return r < 0 ? NULL : task;
}

bool tracking_has_keeper(const struct tracking *t)
{
	return t->old.pidfd >= 0;
}

bool tracking_watches(const struct tracked *task)
{
	return task->uffd >= 0 && uffd_is_of_living_memory(task->uffd);
}

bool tracking_is_ours(const struct tracking *t, pid_t pid)
{
	const struct tracked *task = tracking_of(t, pid);

	return task && tracking_watches(task);
}

bool tracking_tracker(const struct tracking *t, struct tracked *task, int pagemap, struct tracker *ret_tracker)
{
	*ret_tracker = (struct tracker){ .kind = t->kind, .pagemap = pagemap, .uffd = task->uffd,
					 .before = &task->frames_before, .now = &task->frames_now, .last = !t->options.keep };
	return t->kind == TRACKER_SOFT_DIRTY || (t->kind == TRACKER_SCAN && task->uffd >= 0);
}

static int end_other_keepers(const struct tracking *t, struct err *err)
{
	VEC(pid_t) pids = { 0 };
	int r;

	for (size_t i = 0; i < t->tasks.len; i++)
		vec_push(&pids, t->tasks.at[i].pid);
	r = keeper_end_all(pids.at, pids.len, err);
	vec_free(&pids);
	return r;
}

static bool is_watched(pid_t pid, const struct proc_maps *maps)
{
	own_fd pagemap = -1;

	if (pagemap_open(pid, &pagemap, &(struct err){ 0 }) < 0)
		return false;
	for (size_t i = 0; i < maps->len; i++)
		if (!maps->at[i].shared && tracker_is_registered(pagemap, maps->at[i].start))
			return true;
	return false;
}

/*
 * Of a task that we don't watch: does anybody else?  To take changes would be to take them away from him. Other keepers
 * end for us; then it is the program itself, or another user.  1: somebody does.
 */
static int is_watched_by_others(struct tracking *t, pid_t pid, const struct proc_maps *maps, struct err *err)
{
	int r;

	if (!is_watched(pid, maps))
		return 0;
	r = keeper_end(&t->old, err);
	if (r == 0)
		r = end_other_keepers(t, err);
	return r < 0 ? r : is_watched(pid, maps);
}

static int arm_one(struct tracking *t, const struct frozen_task *frozen, struct err *err)
{
	pid_t pid = frozen->pid;
	struct proc_maps maps = { 0 };
	struct tracked *task;
	struct proc_stat stat;
	int r = proc_stat(pid, 0, &stat, err);

	LOG_SCOPE("task %d", pid);
	if (r < 0)
		return r;
	task = tracking_add(t, pid, stat.starttime, err);
	if (!task)
		return -err->code;
	if (t->kind != TRACKER_SCAN)
		return 0;
	if (tracking_watches(task))
		return 0;
	own_fd_drop(&task->uffd);
	task->uffd = -1;
	task->since_base = false;
	r = proc_maps(pid, &maps, err);
	if (r == 0)
		r = is_watched_by_others(t, pid, &maps, err);
	if (r > 0)
		log_warn("somebody else watches its memory: its changes can't be tracked, all of it is compared");
	else if (r == 0 && arm_task(frozen, &maps, ARM_TRACK, &task->uffd, err) < 0)
		log_warn("%s: its changes can't be tracked, all of it is compared", err->text);
	proc_maps_free(&maps);
	return r < 0 ? r : 0;
}

int tracking_list(struct tracking *t, const struct frozen_tree *tree, struct err *err)
{
	for (size_t i = 0; i < tree->tasks.len; i++) {
		struct proc_stat stat;

		if (!tree->tasks.at[i].zombie && (proc_stat(tree->tasks.at[i].pid, 0, &stat, err) < 0 ||
						  !tracking_add(t, stat.pid, stat.starttime, err)))
			return -err->code;
	}
	return 0;
}

int tracking_arm(struct tracking *t, const struct frozen_tree *tree, struct err *err)
{
	int r = 0;

	if (t->options.guarded)
		return tracking_list(t, tree, err);
	for (size_t i = 0; r >= 0 && i < tree->tasks.len; i++)
		if (!tree->tasks.at[i].zombie)
			r = arm_one(t, &tree->tasks.at[i], err);
	return r;
}

/* ---- what no tracker sees ---- */

static enum unseen unseen_by_fd(pid_t pid, int fd)
{
	char name[32], target[64], text[2048];
	struct err err;
	uint64_t flags;
	int r;

	snprintf(name, sizeof(name), "fd/%d", fd);
	r = proc_link(pid, name, target, sizeof(target), &err);
	if (r > 0 && strcmp(target, "anon_inode:[userfaultfd]") == 0)
		return UNSEEN_WATCHED;
	if (r > 0 && strcmp(target, "anon_inode:[io_uring]") == 0)
		return UNSEEN_ASYNC;
	if (r > 0 && (strncmp(target, "pipe:", 5) == 0 || strncmp(target, "socket:", 7) == 0))
		return UNSEEN_NONE;             /* O_DIRECT means something else there */
	r = proc_fdinfo_text(pid, fd, text, sizeof(text), &err);
	if (r == -ENOENT || r == -ESRCH)        /* closed meanwhile */
		return UNSEEN_NONE;
	/* many locks, say, make it too long to be read here */
	return r < 0 || fdinfo_u64(text, "flags", 8, &flags, &err) < 0 || flags & O_DIRECT ? UNSEEN_DIRECT : UNSEEN_NONE;
}

enum unseen tracking_unseen(pid_t pid, const struct proc_maps *maps)
{
	struct proc_ids fds = { 0 };
	enum unseen worst = UNSEEN_NONE;

	for (size_t i = 0; i < maps->len; i++)
		if (strncmp(maps->at[i].name, "/[aio]", 6) == 0 || strstr(maps->at[i].name, "[io_uring]"))
			worst = UNSEEN_ASYNC;
	if (proc_fds(pid, &fds, &(struct err){ 0 }) < 0)
		return UNSEEN_ASYNC;            /* who knows? */
	for (size_t i = 0; i < fds.len && worst != UNSEEN_WATCHED; i++) {
		enum unseen how = unseen_by_fd(pid, fds.at[i]);

		worst = how > worst ? how : worst;
	}
	vec_free(&fds);
	return worst;
}

/* ---- the keeper ---- */

int tracking_take_over(struct tracking *t, struct err *err)
{
	int r = link_clear(t->store, err);

	if (r == 0 && t->base)
		r = link_set_parent(t->store, t->options.base_dir, err);
	if (r < 0)
		return r;
	if (!t->options.keep && !t->options.base_dir)
		return 0;
	r = keeper_end(&t->old, err);
	t->alone = r == 0;
	/*
	 * Keepers of a part of this tree, or of a tree that this one is a part of.  The soft-dirty bits that they
	 * speak of are cleared now.  What a userfaultfd of theirs watches is not taken by ours (arm_one()).
	 */
	if (r == 0 && (t->kind == TRACKER_SOFT_DIRTY || !t->base))
		r = end_other_keepers(t, err);
	return r;
}

int tracking_save(struct tracking *t, struct err *err)
{
	return link_write(t->store, &t->link, err);
}

void tracking_keep(struct tracking *t)
{
	struct kept_tasks tasks = { 0 };
	struct err err;

	if (!t->options.keep || t->kind == TRACKER_NONE)
		return;
	for (size_t i = 0; i < t->tasks.len; i++) {
		const struct tracked *k = &t->tasks.at[i];

		if (k->taken)
			vec_push(&tasks, ((struct kept_task){ k->pid, k->start_ticks, k->uffd, k->unseen_now || t->options.guarded,
							      k->frames_now }));
	}
	if (tasks.len > 0 && keeper_start(t->kind, &t->link.id, &tasks, &err) < 0)
		log_warn("%s: the next dump will be a full one", err.text);
	else
		t->alone = false;
	vec_free(&tasks);
}

void tracking_free(struct tracking *t)
{
	for (size_t i = 0; i < t->tasks.len; i++) {
		if (t->alone && tracking_watches(&t->tasks.at[i]))
			disarm_task(t->tasks.at[i].pid, t->tasks.at[i].uffd);
		free_tracked(&t->tasks.at[i]);
	}
	vec_free(&t->tasks);
	store_close(t->base);
	keeper_free(&t->old);
	task_locks_free(&t->locks);
}
