/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "base/log.h"
#include "engine/load.h"
#include "image/messages.h"
#include "page/page.h"
#include "resource/resource.h"

#define USER_END   0x7ffffffff000ull
#define AUXV_MAX   128u
#define VMAS_MAX   0x100000u
#define SHMEMS_MAX 0x8000u
#define KNOWN_PROT (PROT_READ | PROT_WRITE | PROT_EXEC)
#define KNOWN_FLAGS (MAP_SHARED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_NORESERVE | MAP_LOCKED | \
		     MAP_STACK | MAP_DENYWRITE | MAP_EXECUTABLE | MAP_FIXED)
/* what stays with a mapping; other advice would throw away what is in it, or in its file */
#define KNOWN_ADVICE (1ull << MADV_NORMAL | 1ull << MADV_RANDOM | 1ull << MADV_SEQUENTIAL | 1ull << MADV_WILLNEED | \
		      1ull << MADV_DONTFORK | 1ull << MADV_DOFORK | 1ull << MADV_MERGEABLE | 1ull << MADV_UNMERGEABLE |  \
		      1ull << MADV_HUGEPAGE | 1ull << MADV_NOHUGEPAGE | 1ull << MADV_DONTDUMP | 1ull << MADV_DODUMP |    \
		      1ull << MADV_WIPEONFORK | 1ull << MADV_KEEPONFORK)
#define UNHANDLED  (VMA_SYSV | VMA_SOCKET | VMA_AIO | 0x8000 /* shadow stack */ | 0x10000 /* guard */)

/* Exactly one kind; the kernel's own mappings (vdso) may be called private and anonymous beside. */
static bool is_one_kind(uint32_t status)
{
	const uint32_t files = VMA_FILE_PRIVATE | VMA_FILE_SHARED, own = VMA_VVAR | VMA_VDSO;
	uint32_t kind = status & (files | VMA_ANON_SHARED | VMA_ANON_PRIVATE);

	if (status & VMA_MEMFD && !(kind & files))
		return false;
	if (status & own)
		return !(kind & ~(uint32_t)VMA_ANON_PRIVATE);
	return kind != 0 && !(kind & (kind - 1));
}

static int check_kind(const struct vma *v, struct err *err)
{
	bool shared = v->status & (VMA_FILE_SHARED | VMA_ANON_SHARED);

	if (v->status & UNHANDLED)
		return err_set(err, EOPNOTSUPP, "of a kind that is not handled yet (status %#x)", v->status);
	if (!is_one_kind(v->status))
		return err_set(err, EBADMSG, "of no kind, or of two (status %#x)", v->status);
	if (v->status & (VMA_VVAR | VMA_VDSO))
		return 0;
	if (shared != ((v->flags & MAP_TYPE) == MAP_SHARED) || (!shared && (v->flags & MAP_TYPE) != MAP_PRIVATE))
		return err_set(err, EBADMSG, "status %#x and flags %#x don't agree", v->status, v->flags);
	return 0;
}

/*
 * CRIU notes with the mapping what its file was open for, and names any file of that inode: another mapping's, or a
 * descriptor.  A private mapping only reads.
 */
static void load_rights(const VmaEntry *e, struct vma *v, struct file *f)
{
	unsigned int is = f->flags & (O_ACCMODE | O_PATH);
	bool shared = v->status & VMA_FILE_SHARED;

	v->writes = shared && (e->has_fdflags ? (e->fdflags & O_ACCMODE) == O_RDWR : is == O_RDWR);
	v->reopened = v->writes ? is != O_RDWR : is != O_RDONLY && (shared || is != O_RDWR);
	f->written |= v->reopened && v->writes;
}

static int load_file_map(const VmaEntry *e, struct snapshot *s, struct vma *v, struct err *err)
{
	struct file *f;
	int r;

	if (v->object > UINT32_MAX)
		return err_set(err, EBADMSG, "file %#llx", (unsigned long long)v->object);
	r = load_need_file(s, (uint32_t)v->object, "mapped file", &f, err);
	if (r == 0 && f->type->record != (v->status & VMA_MEMFD ? FD_TYPES__MEMFD : FD_TYPES__REG))
		return err_set(err, EBADMSG, "file %u can't be mapped", f->id);
	if (r < 0)
		return r;
	f->mapped = true;
	load_rights(e, v, f);
	return 0;
}

static int load_shared(struct snapshot *s, const struct vma *v, struct err *err)
{
	uint64_t size = v->pgoff + (v->end - v->start);
	struct shmem *o = NULL;

	if (v->pgoff > USER_END)
		return err_set(err, EBADMSG, "offset %#llx", (unsigned long long)v->pgoff);
	for (size_t i = 0; i < s->shmems.len && !o; i++)
		if (s->shmems.at[i].id == v->object)
			o = &s->shmems.at[i];
	if (o && o->inode_id)
		return err_set(err, EBADMSG, "shared memory %#llx is a memfd", (unsigned long long)o->id);
	if (!o && s->shmems.len == SHMEMS_MAX)
		return err_set(err, EOPNOTSUPP, "over %u shared memory objects", SHMEMS_MAX);
	if (!o) {
		o = vec_add(&s->shmems);
		o->id = v->object;
	}
	if (size > o->size_bytes)
		o->size_bytes = size;
	return 0;
}

static int load_vma(const VmaEntry *e, struct snapshot *s, struct task *t, struct err *err)
{
	const struct vma *last = t->mm.vmas.len > 0 ? &t->mm.vmas.at[t->mm.vmas.len - 1] : NULL;
	struct vma v = {
		.start = e->start, .end = e->end, .pgoff = e->pgoff, .prot = e->prot, .flags = e->flags,
		.status = e->status, .object = e->shmid, .madvise = e->madv, .account = e->has_account && e->account,
		.lock_on_fault = e->has_lock_on_fault && e->lock_on_fault,
	};
	int r;

	LOG_SCOPE("mapping %llx-%llx", (unsigned long long)v.start, (unsigned long long)v.end);
	if (v.status & VMA_VSYSCALL)
		return 0;
	if (v.start >= v.end || v.start % PAGE_BYTES || v.end % PAGE_BYTES || v.end > USER_END ||
	    (last && v.start < last->end))
		return err_set(err, EBADMSG, "out of order or outside of user memory");
	if (v.prot & ~(uint32_t)KNOWN_PROT || v.flags & ~(uint32_t)KNOWN_FLAGS || v.pgoff % PAGE_BYTES || v.madvise & ~KNOWN_ADVICE)
		return err_set(err, EBADMSG, "protection %#x, flags %#x, offset %#llx, advice %#llx", v.prot, v.flags,
			       (unsigned long long)v.pgoff, (unsigned long long)v.madvise);
	r = check_kind(&v, err);
	if (r == 0 && v.status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED))
		r = load_file_map(e, s, &v, err);
	if (r == 0 && v.status & VMA_ANON_SHARED)
		r = load_shared(s, &v, err);
	if (r == 0)
		vec_push(&t->mm.vmas, v);
	return r;
}

static void load_marks(const MmEntry *e, struct mm *mm)
{
	mm->start_code = e->mm_start_code, mm->end_code = e->mm_end_code;
	mm->start_data = e->mm_start_data, mm->end_data = e->mm_end_data;
	mm->start_stack = e->mm_start_stack, mm->start_brk = e->mm_start_brk, mm->brk = e->mm_brk;
	mm->arg_start = e->mm_arg_start, mm->arg_end = e->mm_arg_end;
	mm->env_start = e->mm_env_start, mm->env_end = e->mm_env_end;
	mm->dumpable = e->has_dumpable ? e->dumpable : 1;
	mm->thp_disabled = e->has_thp_disabled && e->thp_disabled;
}

int load_mm(struct store *store, struct snapshot *s, struct task *t, struct err *err)
{
	own_message MmEntry *e = NULL;
	struct file *exe;
	int r = IMAGE_READ_ONE(store, IMAGE_MM, (uint64_t)t->pid, mm_entry, &e, err);

	if (r == 0)
		return err_set(err, ENOENT, "mm-%d.img is missing", t->pid);
	if (r < 0)
		return r;
	if (e->n_mm_saved_auxv > AUXV_MAX || e->n_vmas > VMAS_MAX || e->n_aios > 0)
		return err_set(err, e->n_aios ? EOPNOTSUPP : EBADMSG, "mm-%d.img: %zu words of auxv, %zu mappings, %zu aio rings",
			       t->pid, e->n_mm_saved_auxv, e->n_vmas, e->n_aios);
	load_marks(e, &t->mm);
	for (size_t i = 0; i < e->n_mm_saved_auxv; i++)
		vec_push(&t->mm.auxv, e->mm_saved_auxv[i]);
	t->mm.exe_file = e->exe_file_id;
	r = load_need_file(s, t->mm.exe_file, "program", &exe, err);
	if (r == 0 && exe->type->record != FD_TYPES__REG && exe->type->record != FD_TYPES__MEMFD)
		return err_set(err, EBADMSG, "program: file %u can't be run (type %d)", exe->id, exe->type->record);
	for (size_t i = 0; r == 0 && i < e->n_vmas; i++)
		r = load_vma(e->vmas[i], s, t, err);
	return r;
}
