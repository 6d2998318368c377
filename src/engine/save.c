/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/save.h"
#include "image/messages.h"
#include "resource/resource.h"

/* Ids in an inventory say which tasks share what with the dumper: 1 is ferry's own. */
static void fill_ids(TaskKobjIdsEntry *ids, uint32_t own, uint32_t files)
{
	task_kobj_ids_entry__init(ids);
	ids->vm_id = ids->fs_id = ids->sighand_id = own;
	ids->files_id = files;
	ids->has_pid_ns_id = ids->has_net_ns_id = ids->has_ipc_ns_id = ids->has_uts_ns_id = 1;
	ids->has_time_ns_id = ids->has_mnt_ns_id = ids->has_user_ns_id = ids->has_cgroup_ns_id = 1;
	ids->pid_ns_id = 1, ids->net_ns_id = 2, ids->ipc_ns_id = 3, ids->uts_ns_id = 4;
	ids->time_ns_id = 5, ids->mnt_ns_id = 6, ids->user_ns_id = 7, ids->cgroup_ns_id = 8;
}

int save_inventory(struct store *store, struct err *err)
{
	InventoryEntry e = INVENTORY_ENTRY__INIT;
	TaskKobjIdsEntry ids;

	fill_ids(&ids, 1, 1);
	e.img_version = 2;
	e.has_fdinfo_per_id = e.fdinfo_per_id = 1;
	e.has_ns_per_id = e.ns_per_id = 1;
	e.root_ids = &ids;
	e.has_lsmtype = 1;
	e.lsmtype = LSMTYPE__NO_LSM;
	return image_write_one(store, IMAGE_INVENTORY, 0, &e.base, err);
}

static int save_pstree(const struct snapshot *s, struct store *store, struct err *err)
{
	own_writer *w = NULL;
	int r = image_create(store, IMAGE_PSTREE, 0, &w, err);

	for (size_t i = 0; r == 0 && i < s->tasks.len; i++) {
		const struct task *t = &s->tasks.at[i];
		PstreeEntry *e = mem_new(sizeof(*e));

		pstree_entry__init(e);
		e->pid = (uint32_t)t->pid;
		e->ppid = (uint32_t)t->ppid;
		e->pgid = (uint32_t)t->pgid;
		e->sid = (uint32_t)t->sid;
		e->n_threads = t->threads.len;
		e->threads = mem_new(t->threads.len * sizeof(*e->threads));
		for (size_t k = 0; k < t->threads.len; k++)
			e->threads[k] = (uint32_t)t->threads.at[k].tid;
		r = image_put(w, &e->base, err);
		pstree_entry__free_unpacked(e, NULL);
	}
	return r < 0 ? r : image_finish(&w, err);
}

int save_cores(const struct task *t, struct store *store, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < t->threads.len; i++) {
		CoreEntry *core = core_save(t, &t->threads.at[i]);

		r = image_write_one(store, IMAGE_CORE, (uint64_t)t->threads.at[i].tid, &core->base, err);
		core_entry__free_unpacked(core, NULL);
	}
	return r;
}

static VmaEntry *save_vma(const struct vma *v, const struct snapshot *s)
{
	VmaEntry *e = mem_new(sizeof(*e));
	const struct file *f = v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED) ?
			       snapshot_file(s, (uint32_t)v->object) : NULL;

	vma_entry__init(e);
	e->start = v->start;
	e->end = v->end;
	e->pgoff = v->pgoff;
	e->shmid = v->object;
	e->prot = v->prot;
	e->flags = v->flags;
	e->status = v->status;
	e->fd = -1;
	e->has_madv = v->madvise != 0;
	e->madv = v->madvise;
	e->has_fdflags = f != NULL;
	e->fdflags = f ? f->flags : 0;
	e->has_account = 1;
	e->account = v->account;
	e->has_lock_on_fault = e->lock_on_fault = v->lock_on_fault;
	return e;
}

static int save_mm(const struct task *t, const struct snapshot *s, struct store *store, struct err *err)
{
	const struct mm *mm = &t->mm;
	MmEntry *e = mem_new(sizeof(*e));
	int r;

	mm_entry__init(e);
	e->mm_start_code = mm->start_code, e->mm_end_code = mm->end_code;
	e->mm_start_data = mm->start_data, e->mm_end_data = mm->end_data;
	e->mm_start_stack = mm->start_stack, e->mm_start_brk = mm->start_brk, e->mm_brk = mm->brk;
	e->mm_arg_start = mm->arg_start, e->mm_arg_end = mm->arg_end;
	e->mm_env_start = mm->env_start, e->mm_env_end = mm->env_end;
	e->exe_file_id = mm->exe_file;
	e->has_dumpable = 1;
	e->dumpable = mm->dumpable;
	e->has_thp_disabled = mm->thp_disabled;
	e->thp_disabled = mm->thp_disabled;
	e->n_mm_saved_auxv = mm->auxv.len;
	e->mm_saved_auxv = mem_dup(mm->auxv.at, mm->auxv.len * sizeof(uint64_t));
	e->n_vmas = mm->vmas.len;
	e->vmas = mem_new(mm->vmas.len * sizeof(*e->vmas));
	for (size_t i = 0; i < mm->vmas.len; i++)
		e->vmas[i] = save_vma(&mm->vmas.at[i], s);
	r = image_write_one(store, IMAGE_MM, (uint64_t)t->pid, &e->base, err);
	mm_entry__free_unpacked(e, NULL);
	return r;
}

static int save_fdinfo(const struct task *t, const struct snapshot *s, struct store *store, struct err *err)
{
	own_writer *w = NULL;
	int r = image_create(store, IMAGE_FDINFO, t->files_id, &w, err);

	for (size_t i = 0; r == 0 && i < t->fds.len; i++) {
		const struct fd_slot *slot = &t->fds.at[i];
		FdinfoEntry e = FDINFO_ENTRY__INIT;

		e.id = slot->file;
		e.flags = slot->cloexec;        /* FD_CLOEXEC */
		e.type = (FdTypes)snapshot_file(s, slot->file)->type->record;
		e.fd = (uint32_t)slot->fd;
		r = image_put(w, &e.base, err);
	}
	return r < 0 ? r : image_finish(&w, err);
}

static bool first_with_table(const struct snapshot *s, const struct task *t)
{
	for (size_t i = 0; &s->tasks.at[i] != t; i++)
		if (s->tasks.at[i].state != TASK_ZOMBIE && s->tasks.at[i].files_id == t->files_id)
			return false;
	return true;
}

static int save_task(const struct task *t, const struct snapshot *s, struct store *store, struct err *err)
{
	uint32_t own = (uint32_t)(t - s->tasks.at) + 2;
	TaskKobjIdsEntry ids;
	FsEntry fs = FS_ENTRY__INIT;
	int r;

	if (t->state == TASK_ZOMBIE)
		return 0;
	fill_ids(&ids, own, t->files_id);
	fs.cwd_id = t->cwd_file;
	fs.root_id = t->root_file;
	fs.has_umask = 1;
	fs.umask = t->umask;
	r = image_write_one(store, IMAGE_IDS, (uint64_t)t->pid, &ids.base, err);
	if (r == 0)
		r = image_write_one(store, IMAGE_FS, (uint64_t)t->pid, &fs.base, err);
	if (r == 0)
		r = save_mm(t, s, store, err);
	if (r == 0 && first_with_table(s, t))
		r = save_fdinfo(t, s, store, err);
	return r;
}

static int put_file(struct image_writer *w, const struct file *f, void (*save)(const struct file *, FileEntry *),
		    struct err *err)
{
	FileEntry *e = mem_new(sizeof(*e));
	int r;

	file_entry__init(e);
	e->type = (FdTypes)f->type->record;
	e->id = f->id;
	save(f, e);
	r = image_put(w, &e->base, err);
	file_entry__free_unpacked(e, NULL);
	return r;
}

static int save_files(const struct snapshot *s, struct store *store, struct err *err)
{
	own_writer *w = NULL;
	int r = image_create(store, IMAGE_FILES, 0, &w, err);

	for (size_t i = 0; r == 0 && i < s->files.len; i++) {
		const struct file *f = &s->files.at[i];

		if (f->type->save_also)
			r = put_file(w, f, f->type->save_also, err);
		if (r == 0)
			r = put_file(w, f, f->type->save, err);
	}
	if (r == 0)
		r = image_finish(&w, err);
	for (size_t i = 0; r == 0 && file_types[i]; i++)
		if (file_types[i]->save_side)
			r = file_types[i]->save_side(s, store, err);
	return r;
}

int save_snapshot(const struct snapshot *s, struct store *store, struct err *err)
{
	int r = save_pstree(s, store, err);

	for (size_t i = 0; r == 0 && i < s->tasks.len; i++) {
		LOG_SCOPE("task %d", s->tasks.at[i].pid);
		r = save_task(&s->tasks.at[i], s, store, err);
	}
	if (r == 0)
		r = save_files(s, store, err);
	return r < 0 ? r : save_inventory(store, err);
}
