/* SPDX-License-Identifier: Apache-2.0 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/see.h"
#include "engine/vdso.h"
#include "kernel/sys.h"

/* VmFlags that are an madvise(): bit n of vma.madvise is madvise(n). */
static const struct { uint64_t vmf; unsigned int advice; } advices[] = {
	{ VMF_SR, MADV_SEQUENTIAL }, { VMF_RR, MADV_RANDOM }, { VMF_DC, MADV_DONTFORK }, { VMF_WF, MADV_WIPEONFORK },
	{ VMF_DD, MADV_DONTDUMP }, { VMF_MG, MADV_MERGEABLE }, { VMF_HG, MADV_HUGEPAGE }, { VMF_NH, MADV_NOHUGEPAGE },
};

/* Kinds of mapping that nobody here can make again. */
static int check_map(const struct proc_map *m, struct err *err)
{
	static const struct { uint64_t vmf; const char *what; } flags[] = {
		{ VMF_HT, "huge page (hugetlb)" }, { VMF_IO, "device" }, { VMF_SS, "shadow stack" },
		{ VMF_UM | VMF_UI, "userfaultfd" }, { VMF_SL, "sealed" }, { VMF_GU, "guarded" }, { VMF_DP, "droppable" },
	};
	static const struct { const char *prefix, *what; } names[] = {
		{ "/SYSV", "SysV shared memory" }, { "/[aio]", "asynchronous I/O" },
		{ "anon_inode:", "kernel object" }, { "socket:", "socket" }, { "/dmabuf", "device" },
		{ "/anon_hugepage", "huge page (hugetlb)" },
	};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strncmp(m->name, names[i].prefix, strlen(names[i].prefix)) == 0)
			return err_set(err, EOPNOTSUPP, "%s mapping %s: not handled yet", names[i].what, m->name);
	for (size_t i = 0; i < ARRAY_LEN(flags); i++)
		if (m->vm_flags & flags[i].vmf)
			return err_set(err, EOPNOTSUPP, "%s mapping %s: not handled yet", flags[i].what, m->name);
	/* the kernel itself gives one to code that can't be read, and will again */
	if (m->vm_flags & VMF_KEY && m->prot != PROT_EXEC)
		return err_set(err, EOPNOTSUPP, "it is protected by a key (pkey_mprotect): not handled yet");
	return 0;
}

static bool is_vdso(const struct proc_map *m)
{
	return strcmp(m->name, "[vdso]") == 0;
}

static bool is_vvar(const struct proc_map *m)
{
	return strncmp(m->name, "[vvar", 5) == 0;
}

static uint64_t see_shmem(struct seeing *s, const struct task *t, const struct proc_map *m)
{
	struct shmem *o = snapshot_shmem(s->snapshot, m->dev, m->ino);
	uint64_t end = m->pgoff_bytes + (m->end - m->start);

	if (!o) {
		uint64_t id = snapshot_shmem_id(s->snapshot, m->ino);

		o = vec_add(&s->snapshot->shmems);
		*o = (struct shmem){ .id = id, .dev = m->dev, .ino = m->ino, .pid = t->pid };
		snprintf(o->at, sizeof(o->at), "map_files/%llx-%llx", (unsigned long long)m->start,
			 (unsigned long long)m->end);
	}
	if (end > o->size_bytes)
		o->size_bytes = end;
	return o->id;
}

static int see_file_map(struct seeing *s, const struct task *t, const struct proc_map *m, struct vma *v,
			struct err *err)
{
	bool writes = m->shared && (m->vm_flags & VMF_MW || m->prot & PROT_WRITE);
	uint32_t id;
	int r = see_mapped_file(s, t->pid, m, writes ? O_RDWR : O_RDONLY, &id, err);

	if (r < 0)
		return r;
	v->object = id;
	v->pgoff = m->pgoff_bytes;
	v->status |= m->shared ? VMA_FILE_SHARED : VMA_FILE_PRIVATE;
	v->status |= snapshot_file(s->snapshot, id)->type->record == FD_TYPES__MEMFD ? VMA_MEMFD : 0;
	return 0;
}

static int see_vma(struct seeing *s, const struct task *t, const struct proc_map *m, struct vma *v, struct err *err)
{
	bool special = is_vdso(m) || is_vvar(m);
	int r = special ? 0 : check_map(m, err);

	if (r < 0)
		return r;
	if (m->vm_flags & VMF_UW && !tracking_is_ours(s->tracking, t->pid) &&
	    !guard_is_ours(s->guard, t->pid, m->start, m->end))
		return err_set(err, EOPNOTSUPP, "userfaultfd mapping %s: not handled yet (or another ferry is at work)", m->name);
	*v = (struct vma){
		.start = m->start, .end = m->end, .prot = (uint32_t)m->prot, .status = VMA_REGULAR,
		.flags = m->shared ? MAP_SHARED : MAP_PRIVATE, .account = m->vm_flags & VMF_AC,
	};
	for (size_t i = 0; i < ARRAY_LEN(advices) && !special; i++)
		if (m->vm_flags & advices[i].vmf)
			v->madvise |= 1ull << advices[i].advice;
	v->flags |= m->vm_flags & VMF_GD ? MAP_GROWSDOWN : 0;
	v->flags |= m->vm_flags & VMF_NR ? MAP_NORESERVE : 0;
	v->flags |= m->vm_flags & VMF_LO ? MAP_LOCKED : 0;
	v->lock_on_fault = m->vm_flags & VMF_LF;
	v->shares_pages = m->shared_bytes > 0 || s->forked_since;
	if (m->ino != 0 && m->shared && strcmp(m->name, "/dev/zero (deleted)") == 0) {
		v->flags |= MAP_ANONYMOUS;
		v->status |= VMA_ANON_SHARED;
		v->pgoff = m->pgoff_bytes;
		v->object = see_shmem(s, t, m);
		return 0;
	}
	if (m->ino != 0)
		return see_file_map(s, t, m, v, err);
	v->flags |= MAP_ANONYMOUS;
	v->status |= VMA_ANON_PRIVATE;
	v->status |= is_vvar(m) ? VMA_VVAR : 0;
	v->status |= is_vdso(m) ? VMA_VDSO : 0;
	v->status |= strcmp(m->name, "[heap]") == 0 ? VMA_HEAP : 0;
	return 0;
}

/* The parts of vvar are one mapping in the images. */
static bool joins(const struct vma *last, const struct vma *v)
{
	return (last->status & VMA_VVAR) && (v->status & VMA_VVAR) && last->end == v->start;
}

static int see_vmas(struct seeing *s, const struct proc_maps *maps, struct task *t, struct err *err)
{
	for (size_t i = 0; i < maps->len; i++) {
		const struct proc_map *m = &maps->at[i];
		size_t n = t->mm.vmas.len;
		struct vma v;
		int r;

		LOG_SCOPE("mapping %llx-%llx", (unsigned long long)m->start, (unsigned long long)m->end);
		if (strcmp(m->name, "[vsyscall]") == 0)
			continue;
		r = see_vma(s, t, m, &v, err);
		if (r == -EOPNOTSUPP && see_refused(s, r, err) == 0)
			continue;
		if (r < 0)
			return r;
		if (n > 0 && joins(&t->mm.vmas.at[n - 1], &v))
			t->mm.vmas.at[n - 1].end = v.end;
		else
			vec_push(&t->mm.vmas, v);
	}
	return 0;
}

/* A restored task gets the kernel's own: one that the program has changed, or taken apart, can't come back. */
static int check_vdso(const struct seeing *s, const struct task *t, struct err *err)
{
	const struct vma *code;
	int r = vdso_check_layout(&s->vdso, &t->mm, err);

	if (r < 0)
		return r;
	code = vdso_of(&t->mm);

	own_free uint8_t *bytes = mem_new(code->end - code->start);

	r = sys_read_memory(t->pid, code->start, bytes, code->end - code->start, err);
	return r < 0 ? r : vdso_check_bytes(&t->mm, code->start, bytes, code->end - code->start, err);
}

int see_mm(struct seeing *s, struct seen_task *seen, struct task *t, struct err *err)
{
	const struct proc_stat *st = &seen->stat;
	struct mm *mm = &t->mm;
	uint64_t words[128];
	int r;

	mm->start_code = st->start_code, mm->end_code = st->end_code;
	mm->start_data = st->start_data, mm->end_data = st->end_data;
	mm->start_stack = st->start_stack, mm->start_brk = st->start_brk;
	mm->arg_start = st->arg_start, mm->arg_end = st->arg_end;
	mm->env_start = st->env_start, mm->env_end = st->env_end;
	if (mm->brk < mm->start_brk)    /* it could not be asked: the end of [heap] is as near as can be known */
		mm->brk = mm->start_brk;
	for (size_t i = 0; i < seen->maps.len && mm->brk == mm->start_brk; i++)
		if (strcmp(seen->maps.at[i].name, "[heap]") == 0)
			mm->brk = seen->maps.at[i].end;
	r = proc_auxv(t->pid, words, sizeof(words) / sizeof(words[0]), err);
	/* without the AT_NULL at its end: the kernel adds it again, and CRIU takes 44 words at most */
	for (int i = 0; i + 1 < r && words[i] != AT_NULL; i += 2) {
		vec_push(&mm->auxv, words[i]);
		vec_push(&mm->auxv, words[i + 1]);
	}
	if (r >= 0)
		r = see_path_file(s, t->pid, "exe", &mm->exe_file, err);
	if (r >= 0)
		r = see_vmas(s, &seen->maps, t, err);
	return r < 0 ? r : check_vdso(s, t, err);
}
