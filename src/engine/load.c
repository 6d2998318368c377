/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/load.h"
#include "engine/vdso.h"
#include "engine/places.h"
#include "image/messages.h"
#include "resource/resource.h"

#define IMG_VERSION_MAX 2u
#define PID_MAX         0x400000u       /* the kernel's PID_MAX_LIMIT */
#define THREADS_MAX     0x100000u
#define TASKS_MAX       0x10000u

static int load_inventory(struct store *store, InventoryEntry **ret_inventory, struct err *err)
{
	InventoryEntry *e;
	int r = IMAGE_READ_ONE(store, IMAGE_INVENTORY, 0, inventory_entry, &e, err);

	if (r < 0)
		return r;
	if (r == 0)
		return err_set(err, ENOENT, "inventory.img is missing: this is no (whole) dump");
	*ret_inventory = e;
	if (e->img_version < 1 || e->img_version > IMG_VERSION_MAX)
		return err_set(err, EOPNOTSUPP, "inventory: image version %u is not handled", e->img_version);
	if (!e->has_fdinfo_per_id || !e->fdinfo_per_id)
		return err_set(err, EOPNOTSUPP, "inventory: images older than CRIU 1.0 are not handled");
	return 0;
}

enum { IS_THREAD = 1, IS_TASK };

static bool pid_is_sane(uint32_t pid)
{
	return pid > 0 && pid <= PID_MAX;
}

/* used: by pid what it is: 0 nobody, IS_THREAD, IS_TASK. */
static int load_pstree_entry(const PstreeEntry *e, struct snapshot *s, uint8_t *used, struct err *err)
{
	struct task *t;

	if (!pid_is_sane(e->pid) || e->pgid > PID_MAX || e->sid > PID_MAX)
		return err_set(err, EBADMSG, "pstree: pid %u, group %u, session %u", e->pid, e->pgid, e->sid);
	if (s->tasks.len == TASKS_MAX)
		return err_set(err, EOPNOTSUPP, "pstree: over %u tasks", TASKS_MAX);
	if ((e->ppid == 0) != (s->tasks.len == 0) || (e->ppid != 0 && (!pid_is_sane(e->ppid) || used[e->ppid] != IS_TASK)))
		return err_set(err, EBADMSG, "pstree: task %u has the parent %u, which is no task before it", e->pid, e->ppid);
	if (e->n_threads > THREADS_MAX || (e->n_threads > 0 && e->threads[0] != e->pid))
		return err_set(err, EBADMSG, "pstree: task %u is not its own first thread", e->pid);
	t = vec_add(&s->tasks);
	t->pid = (pid_t)e->pid;
	t->ppid = (pid_t)e->ppid;
	t->pgid = (pid_t)e->pgid;
	t->sid = (pid_t)e->sid;
	for (size_t i = 0; i < e->n_threads || i == 0; i++) {
		uint32_t tid = i < e->n_threads ? e->threads[i] : e->pid;

		if (!pid_is_sane(tid) || used[tid])
			return err_set(err, EBADMSG, "pstree: thread %u is there twice or none", tid);
		used[tid] = i == 0 ? IS_TASK : IS_THREAD;
		vec_add(&t->threads)->tid = (pid_t)tid;
	}
	return 0;
}

static int load_pstree(struct store *store, struct snapshot *s, struct err *err)
{
	own_reader *reader = NULL;
	own_free uint8_t *used = mem_new(PID_MAX + 1);
	int r = image_open(store, IMAGE_PSTREE, 0, &reader, err);

	if (r == 0)
		return err_set(err, ENOENT, "pstree.img is missing: is this a pre-dump, memory alone?");
	while (r > 0) {
		own_message PstreeEntry *e = NULL;

		r = IMAGE_GET(reader, pstree_entry, &e, err);
		if (r > 0 && load_pstree_entry(e, s, used, err) < 0)
			return -err->code;
	}
	if (r == 0 && s->tasks.len == 0)
		return err_set(err, EBADMSG, "pstree.img has no task");
	return r;
}

static int load_core(struct store *store, struct task *t, struct thread *th, bool leader, struct err *err)
{
	own_message CoreEntry *core = NULL;
	int r = IMAGE_READ_ONE(store, IMAGE_CORE, (uint64_t)th->tid, core_entry, &core, err);

	LOG_SCOPE("thread %d", th->tid);
	if (r == 0)
		return err_set(err, ENOENT, "core-%d.img is missing", th->tid);
	if (r < 0)
		return r;
	r = core_load(core, t, th, leader, err);
	if (r == 0 && leader && t->state == TASK_DEAD) {        /* as CRIU calls a zombie */
		t->state = TASK_ZOMBIE;
		snprintf(th->comm, sizeof(th->comm), "%s", core->tc->comm);
	}
	return r;
}

static int load_cores(struct store *store, struct task *t, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < t->threads.len; i++)
		r = load_core(store, t, &t->threads.at[i], i == 0, err);
	if (r == 0 && t->state == TASK_ZOMBIE && t->threads.len > 1)
		return err_set(err, EBADMSG, "a dead task has threads");
	return r;
}

static int load_ids(struct store *store, const TaskKobjIdsEntry *own, struct task *t, struct err *err)
{
	own_message TaskKobjIdsEntry *e = NULL;
	int r = IMAGE_READ_ONE(store, IMAGE_IDS, (uint64_t)t->pid, task_kobj_ids_entry, &e, err);

	if (r == 0)
		return err_set(err, ENOENT, "ids-%d.img is missing", t->pid);
	if (r < 0)
		return r;
	t->files_id = e->files_id;
	if (own && (e->pid_ns_id != own->pid_ns_id || e->net_ns_id != own->net_ns_id ||
		    e->mnt_ns_id != own->mnt_ns_id || e->ipc_ns_id != own->ipc_ns_id ||
		    e->uts_ns_id != own->uts_ns_id || e->user_ns_id != own->user_ns_id))
		return err_set(err, EOPNOTSUPP, "it lived in namespaces of its own: not handled yet");
	return 0;
}

static int load_fs(struct store *store, struct snapshot *s, struct task *t, struct err *err)
{
	own_message FsEntry *e = NULL;
	int r = IMAGE_READ_ONE(store, IMAGE_FS, (uint64_t)t->pid, fs_entry, &e, err);

	if (r == 0)
		return err_set(err, ENOENT, "fs-%d.img is missing", t->pid);
	if (r < 0)
		return r;
	t->cwd_file = e->cwd_id;
	t->root_file = e->root_id;
	t->umask = e->umask & 0777;
	r = load_need_path(s, t->cwd_file, "working directory", err);
	return r < 0 ? r : load_need_path(s, t->root_file, "root directory", err);
}

static int load_read_file(void *arg, const struct page_map *map, const struct page_piece *p, void *buf, struct err *err)
{
	(void)arg;
	return page_map_read(map, p->file, p->offset, p->pages, buf, err);
}

/* Only looked at: they are loaded again when the task is made, for all at once may be much. */
static int check_pages(struct store *store, const struct task *t, struct err *err)
{
	struct loaded_pages pages;
	int r = load_pages(store, t, &pages, err);

	if (r < 0)
		return r;
	if (!store_pages_follow(store))
		r = load_check_vdso(t, &pages, load_read_file, NULL, err);
	loaded_pages_free(&pages);
	return r;
}

static int load_task(struct store *store, struct snapshot *s, const TaskKobjIdsEntry *own, const struct vdso *vdso,
		     struct task *t, struct err *err)
{
	int r = load_cores(store, t, err);

	if (r < 0 || t->state == TASK_ZOMBIE)
		return r;
	r = load_ids(store, own, t, err);
	if (r == 0)
		r = load_fdinfo(store, s, t, err);
	if (r == 0)
		r = load_fs(store, s, t, err);
	if (r == 0)
		r = load_mm(store, s, t, err);
	if (r == 0)
		r = vdso_check_layout(vdso, &t->mm, err);
	return r < 0 ? r : check_pages(store, t, err);
}

static int check_tree(const struct snapshot *s, struct err *err)
{
	if (s->tasks.at[0].state == TASK_ZOMBIE)
		return err_set(err, EBADMSG, "the root task is dead");
	for (size_t i = 1; i < s->tasks.len; i++)
		if (snapshot_task(s, s->tasks.at[i].ppid)->state == TASK_ZOMBIE)
			return err_set(err, EBADMSG, "task %d is the child of a dead one", s->tasks.at[i].pid);
	return check_places(s, err);
}

int load_snapshot(struct store *store, struct snapshot *s, struct err *err)
{
	own_message InventoryEntry *inventory = NULL;
	struct vdso vdso;
	int r = load_inventory(store, &inventory, err);

	if (r == 0)
		r = load_pstree(store, s, err);
	if (r == 0)
		r = load_files(store, s, err);
	if (r == 0)
		r = vdso_own(&vdso, err);
	for (size_t i = 0; r == 0 && i < s->tasks.len; i++) {
		LOG_SCOPE("task %d", s->tasks.at[i].pid);
		r = load_task(store, s, inventory->root_ids, &vdso, &s->tasks.at[i], err);
	}
	return r < 0 ? r : check_tree(s, err);
}
