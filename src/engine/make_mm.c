/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make_mm.c - the mappings of a vessel, and what is in them.
 *
 * A child is cloned when its parent's memory is complete, so it has the same.
 * What parent and child mapped alike stays; there only the pages that differ
 * are written, and the others remain one page for both, as before.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/fill_fresh.h"
#include "engine/load.h"
#include "engine/restoring.h"
#include "kernel/proc.h"
#include "page/ends.h"

#define FILL_THREADS  2u
#define TASK_END      0x7ffffffff000ull

static bool is_private(const struct vma *v)
{
	return v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE) && !(v->status & (VMA_VVAR | VMA_VDSO));
}

static bool same_advice(const struct vma *a, const struct vma *b)
{
	const uint64_t sticky = 1ull << MADV_HUGEPAGE | 1ull << MADV_NOHUGEPAGE;

	return (a->madvise & sticky) == (b->madvise & sticky);
}

/* The parent's mapping that a child has kept as it is; NULL: it has none. */
static const struct vma *inherited(const struct vma *v, const struct task *parent)
{
	for (size_t i = 0; parent && is_private(v) && i < parent->mm.vmas.len; i++) {
		const struct vma *p = &parent->mm.vmas.at[i];

		if (p->start == v->start)
			return p->end == v->end && p->prot == v->prot && p->flags == v->flags &&
			       p->status == v->status && p->object == v->object && p->pgoff == v->pgoff &&
			       p->account == v->account && same_advice(p, v) ? p : NULL;
	}
	return NULL;
}

/* ---- mappings ---- */

static int by_start(const void *a, const void *b)
{
	const struct taddr_range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

typedef VEC(struct taddr_range) ranges;

/* Everything goes but the blob, the vdso and what is kept (which is freed). */
static int unmap_but(struct vessel *v, ranges kept, struct err *err)
{
	ranges keep = kept;
	taddr at = 0;
	int done = 0;

	vec_push(&keep, ((struct taddr_range){ v->blob.at, v->blob.at + v->blob.len_bytes }));
	vec_push(&keep, ((struct taddr_range){ v->vdso.part[0].start, v->vdso.part[0].start + vdso_span(&v->vdso) }));
	qsort(keep.at, keep.len, sizeof(*keep.at), by_start);
	vec_push(&keep, ((struct taddr_range){ TASK_END, TASK_END }));
	for (size_t i = 0; done == 0 && i < keep.len; i++) {
		done = vessel_room(v, 1, 0, err);
		if (at < keep.at[i].start)
			script_call(&v->script, OP_WANT_ZERO, SYS_munmap, at, keep.at[i].start - at);
		at = keep.at[i].end;
	}
	vec_free(&keep);
	return done;
}

static int unmap_rest(struct vessel *v, const struct task *t, const struct task *parent, struct err *err)
{
	ranges keep = { 0 };

	for (size_t i = 0; i < t->mm.vmas.len; i++)
		if (inherited(&t->mm.vmas.at[i], parent))
			vec_push(&keep, ((struct taddr_range){ t->mm.vmas.at[i].start, t->mm.vmas.at[i].end }));
	return unmap_but(v, keep, err);
}

static int move_vdso(struct vessel *v, const struct task *t, struct err *err)
{
	taddr start = 0, end = 0, code = 0;

	for (size_t i = 0; i < t->mm.vmas.len; i++) {
		const struct vma *m = &t->mm.vmas.at[i];

		if (!(m->status & (VMA_VVAR | VMA_VDSO)))
			continue;
		start = start ? start : m->start;
		end = m->end;
		code = m->status & VMA_VDSO ? m->start : code;
	}
	return vessel_move_vdso(v, start, end - start, code - start, err);
}

static int file_behind(const struct restoring *r, const struct vma *v)
{
	if (v->status & VMA_ANON_SHARED) {
		for (size_t i = 0; i < r->snapshot.shmems.len; i++)
			if (r->snapshot.shmems.at[i].id == v->object)
				return r->maker.shmems.at[i];
		return -1;
	}
	if (v->reopened)
		return mapped_fd(r, v);
	return v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED) ? made_fd(r, (uint32_t)v->object) : -1;
}

/*
 * What was writable once counts as committed memory for ever, if it has pages of
 * its own: so it is writable here too, until they are there.
 */
static bool narrows(const struct vma *m)
{
	return m->account && is_private(m) && !(m->prot & PROT_WRITE);
}

static void map(struct restoring *r, struct vessel *v, const struct vma *m)
{
	int fd = file_behind(r, m);
	uint32_t prot = narrows(m) ? m->prot | PROT_WRITE : m->prot;
	uint32_t flags = (m->flags & (MAP_TYPE | MAP_GROWSDOWN | MAP_NORESERVE)) | MAP_FIXED_NOREPLACE;

	if (fd < 0)
		flags |= MAP_ANONYMOUS;
	script_call_value(&v->script, m->start, SYS_mmap, "mmap", m->start, m->end - m->start, prot, flags,
			  (uint64_t)fd, fd < 0 ? 0 : m->pgoff);
	for (unsigned int advice = MADV_HUGEPAGE; advice <= MADV_NOHUGEPAGE; advice++)
		if (m->madvise & 1ull << advice)
			script_call_as(&v->script, OP_WANT_ANY, SYS_madvise, "madvise huge pages", m->start,
				       m->end - m->start, advice);
}

/*
 * The marks of /proc/PID/stat, brk, arguments, environment, exe.  The kernel does not let go of an exe that
 * is still mapped (EBUSY): so this comes when the old one is unmapped, and a child keeps its parent's.
 */
static void set_marks(const struct restoring *r, struct vessel *v, const struct mm *mm, bool keep_exe)
{
	const struct prctl_mm_map marks = {
		.start_code = mm->start_code, .end_code = mm->end_code,
		.start_data = mm->start_data, .end_data = mm->end_data,
		.start_brk = mm->start_brk, .brk = mm->brk, .start_stack = mm->start_stack,
		.arg_start = mm->arg_start, .arg_end = mm->arg_end,
		.env_start = mm->env_start, .env_end = mm->env_end,
		.auxv = (void *)(uintptr_t)script_data(&v->script, mm->auxv.at, mm->auxv.len * sizeof(uint64_t)),
		.auxv_size = (uint32_t)(mm->auxv.len * sizeof(uint64_t)),
		.exe_fd = keep_exe ? (uint32_t)-1 : (uint32_t)made_fd(r, mm->exe_file),
	};
	taddr at = script_data(&v->script, &marks, sizeof(marks));

	script_call_as(&v->script, OP_WANT_ZERO, SYS_prctl, "prctl(PR_SET_MM_MAP)", PR_SET_MM, PR_SET_MM_MAP, at,
		       sizeof(marks), 0);
}

static int map_all(struct restoring *r, struct vessel *v, const struct task *t, const struct task *parent,
		   struct err *err)
{
	int done = unmap_rest(v, t, parent, err);

	if (done == 0)
		done = vessel_run(v, err);
	if (done == 0) {
		set_marks(r, v, &t->mm, parent && parent->mm.exe_file == t->mm.exe_file);
		done = move_vdso(v, t, err);
	}
	for (size_t i = 0; done == 0 && i < t->mm.vmas.len; i++) {
		const struct vma *m = &t->mm.vmas.at[i];

		if (m->status & (VMA_VVAR | VMA_VDSO) || inherited(m, parent))
			continue;
		done = vessel_room(v, 4, 0, err);
		if (done == 0)
			map(r, v, m);
	}
	return done < 0 ? done : vessel_run(v, err);
}

/* The part of a mapping that is not kept. */
static int map_part(struct restoring *r, struct vessel *v, const struct vma *m, taddr start, taddr end, struct err *err)
{
	struct vma part = *m;
	int done = vessel_room(v, 4, 0, err);

	part.start = start;
	part.end = end;
	part.pgoff = m->pgoff + (start - m->start);
	if (done == 0)
		map(r, v, &part);
	return done;
}

static int map_new(struct restoring *r, struct vessel *v, const struct task *t, const struct taddr_range *keep, size_t keeps,
		   struct err *err)
{
	size_t k = 0;
	int done = 0;

	for (size_t i = 0; done == 0 && i < t->mm.vmas.len; i++) {
		const struct vma *m = &t->mm.vmas.at[i];

		if (m->status & (VMA_VVAR | VMA_VDSO))
			continue;
		for (taddr at = m->start, next; done == 0 && at < m->end; at = next) {
			while (k < keeps && keep[k].end <= at)
				k++;
			if (k < keeps && keep[k].start <= at) {
				next = keep[k].end < m->end ? keep[k].end : m->end;
				continue;
			}
			next = k < keeps && keep[k].start < m->end ? keep[k].start : m->end;
			done = map_part(r, v, m, at, next, err);
		}
	}
	return done < 0 ? done : vessel_run(v, err);
}

int remap_mm(struct restoring *r, size_t index, const struct taddr_range *keep, size_t keeps, bool keep_exe, struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[index];
	struct vessel *v = &r->tasks[index].vessel;
	ranges kept = { 0 };
	int done;

	LOG_SCOPE("task %d > mappings", t->pid);
	for (size_t i = 0; i < keeps; i++)
		vec_push(&kept, keep[i]);
	done = unmap_but(v, kept, err);
	if (done == 0)
		done = vessel_run(v, err);
	if (done == 0) {
		set_marks(r, v, &t->mm, keep_exe);
		done = move_vdso(v, t, err);
	}
	return done < 0 ? done : map_new(r, v, t, keep, keeps, err);
}

/* ---- pages ---- */

static void push_piece(struct page_map *map, const struct page_piece *from, uint64_t skip, uint64_t pages)
{
	vec_push(&map->pieces, ((struct page_piece){ .start = from->start + skip * PAGE_BYTES, .pages = pages,
						    .file = from->file, .offset = from->offset + skip * PAGE_BYTES }));
}

static bool same_place(const struct page_map *a, const struct page_piece *p, uint64_t pskip, const struct page_map *b,
		       const struct page_piece *q, uint64_t qskip)
{
	const struct page_file *f = &a->files.at[p->file], *g = &b->files.at[q->file];

	return f->dev == g->dev && f->ino == g->ino && p->offset + pskip * PAGE_BYTES == q->offset + qskip * PAGE_BYTES;
}

struct comparing {
	struct restoring *r;
	const struct task *task, *parent;
	const struct page_map *own, *theirs;
	struct page_map differ;         /* pieces only: what is to be written, or compared with what is there */
	struct vessel *vessel;
	size_t vma;                     /* forward only */
};

/* A stretch that both have: what is not known to be the same is compared with what is there, the parent's. */
static void compare(struct comparing *c, const struct page_piece *p, uint64_t pskip, const struct page_piece *q,
		    uint64_t qskip, uint64_t pages)
{
	if (same_place(c->own, p, pskip, c->theirs, q, qskip)) {
		c->r->result.pages_shared += pages;
		return;
	}
	push_piece(&c->differ, p, pskip, pages);
	c->differ.pieces.at[c->differ.pieces.len - 1].compare = true;
	c->r->result.pages_compared += pages;
}

/* Pages that the parent has and the child has not: out of the child again. */
static int drop(struct comparing *c, taddr start, taddr end, struct err *err)
{
	int done = 0;

	for (size_t i = 0; done == 0 && i < c->task->mm.vmas.len; i++) {
		const struct vma *v = &c->task->mm.vmas.at[i];
		taddr from = start > v->start ? start : v->start, to = end < v->end ? end : v->end;

		if (from >= to || !inherited(v, c->parent))
			continue;
		done = vessel_room(c->vessel, 1, 0, err);
		if (done == 0)
			script_call(&c->vessel->script, OP_WANT_ZERO, SYS_madvise, from, to - from, MADV_DONTNEED);
	}
	return done;
}

/* Walks both maps in step. */
static int compare_all(struct comparing *c, struct err *err)
{
	size_t i = 0, k = 0;
	uint64_t iskip = 0, kskip = 0;
	int done = 0;

	while (done == 0 && (i < c->own->pieces.len || k < c->theirs->pieces.len)) {
		const struct page_piece *p = i < c->own->pieces.len ? &c->own->pieces.at[i] : NULL;
		const struct page_piece *q = k < c->theirs->pieces.len ? &c->theirs->pieces.at[k] : NULL;
		taddr pa = p ? p->start + iskip * PAGE_BYTES : UINT64_MAX;
		taddr qa = q ? q->start + kskip * PAGE_BYTES : UINT64_MAX;
		uint64_t pages;

		if (pa < qa) {                  /* the child's alone */
			pages = p->pages - iskip;
			if (pages > (qa - pa) / PAGE_BYTES)
				pages = (qa - pa) / PAGE_BYTES;
			push_piece(&c->differ, p, iskip, pages);
			iskip += pages;
		} else if (qa < pa) {           /* the parent's alone */
			pages = q->pages - kskip;
			if (pages > (pa - qa) / PAGE_BYTES)
				pages = (pa - qa) / PAGE_BYTES;
			done = drop(c, qa, qa + pages * PAGE_BYTES, err);
			kskip += pages;
		} else {
			const struct vma *v = load_vma_at(c->task, pa, &c->vma);

			assert(p && q);
			pages = p->pages - iskip < q->pages - kskip ? p->pages - iskip : q->pages - kskip;
			if (inherited(v, c->parent))
				compare(c, p, iskip, q, kskip, pages);
			else
				push_piece(&c->differ, p, iskip, pages);
			iskip += pages;
			kskip += pages;
		}
		if (p && iskip == p->pages)
			i++, iskip = 0;
		if (q && kskip == q->pages)
			k++, kskip = 0;
	}
	return done;
}

/* A vessel that has inherited nothing: where its own memory is anonymous, a page of zeros is there already. */
static void mark_fresh(const struct task *t, struct page_map *map)
{
	size_t at = 0;

	for (size_t i = 0; i < map->pieces.len; i++) {
		const struct vma *v = load_vma_at(t, map->pieces.at[i].start, &at);

		map->pieces.at[i].fresh = v && v->status & VMA_ANON_PRIVATE;
	}
}

/* fresh: NULL, or the task whose mappings have nothing yet. */
static int fill(struct restoring *r, struct vessel *v, const struct page_map *map, const struct task *fresh, struct err *err)
{
	struct page_count count = { .meter = &r->meter };
	struct fill_fresh direct = { .uffd = -1 };
	union page_origin src;
	struct sink_task sink;
	own_fd mem = -1;
	int done = proc_open_file(v->pid, "mem", O_RDWR, &mem, err);

	if (done < 0)
		return done;
	sink_task_init(&sink, v->pid, mem);
	if (fresh)
		fill_fresh_begin(&direct, v, fresh, map);
	sink.uffd = direct.uffd;
	done = page_pump(restoring_source(r, map, &src), &sink.base, FILL_THREADS, &count, err);
	fill_fresh_end(&direct);
	r->result.pages_restored += count.here;
	r->result.pages_shared += count.parent;
	return done;
}

static int fill_child(struct restoring *r, size_t index, const struct task *parent, struct err *err)
{
	struct making *m = &r->tasks[index];
	struct comparing c = {
		.r = r, .task = &r->snapshot.tasks.at[index], .parent = parent, .own = &m->pages.map,
		.theirs = &making_of(r, parent->pid)->pages.map, .vessel = &m->vessel,
	};
	int done = compare_all(&c, err);

	if (done == 0)
		done = vessel_run(&m->vessel, err);
	if (done == 0) {
		c.differ.files.at = m->pages.map.files.at;
		c.differ.files.len = m->pages.map.files.len;
		done = fill(r, &m->vessel, &c.differ, NULL, err);
	}
	vec_free(&c.differ.pieces);
	return done;
}

static int narrow_all(struct vessel *v, const struct task *t, const struct task *parent, struct err *err)
{
	int done = 0;

	for (size_t i = 0; done == 0 && i < t->mm.vmas.len; i++) {
		const struct vma *m = &t->mm.vmas.at[i];

		if (!narrows(m) || inherited(m, parent))
			continue;
		done = vessel_room(v, 1, 0, err);
		script_call(&v->script, OP_WANT_ZERO, SYS_mprotect, m->start, m->end - m->start, m->prot);
	}
	return done < 0 ? done : vessel_run(v, err);
}

int make_mm(struct restoring *r, size_t index, const struct task *parent, struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[index];
	struct making *m = &r->tasks[index];
	int done = load_pages(r->store, t, &m->pages, err);

	if (done == 0 && !parent)
		mark_fresh(t, &m->pages.map);

	LOG_SCOPE("task %d > memory", t->pid);
	if (done == 0)
		done = map_all(r, &m->vessel, t, parent, err);
	if (done == 0)
		done = parent ? fill_child(r, index, parent, err) : fill(r, &m->vessel, &m->pages.map, t, err);
	if (done == 0 && r->stream)             /* else it was done before there was any task */
		done = load_check_vdso(t, &m->pages, stream_read, r->stream, err);
	m->filled = done == 0;
	return done < 0 ? done : narrow_all(&m->vessel, t, parent, err);
}

int narrow_mm(struct restoring *r, size_t index, struct err *err)
{
	return narrow_all(&r->tasks[index].vessel, &r->snapshot.tasks.at[index], NULL, err);
}
