/* SPDX-License-Identifier: Apache-2.0 */
#include "world.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "base/own.h"
#include "engine/save.h"
#include "engine/vdso.h"
#include "resource/resource.h"

#define PAGE   4096ull
#define ADVICE (1ull << MADV_RANDOM | 1ull << MADV_SEQUENTIAL | 1ull << MADV_DONTFORK | 1ull << MADV_MERGEABLE | \
		1ull << MADV_HUGEPAGE | 1ull << MADV_NOHUGEPAGE | 1ull << MADV_DONTDUMP | 1ull << MADV_WIPEONFORK)

static void add_file(struct snapshot *s, uint32_t id, FileEntry *rec)
{
	struct file f = { .id = id, .fd = -1, .type = file_type_of_record(rec->type) };
	struct err err;

	f.state = mem_new(f.type->state_size);
	f.drop = f.type->drop;
	OK(&err, f.type->load(rec, &f, s, &err));
	vec_push(&s->files, f);
}

static FownEntry random_owner(void)
{
	FownEntry o = FOWN_ENTRY__INIT;

	o.uid = (uint32_t)random_below(1000), o.euid = (uint32_t)random_below(1000);
	o.signum = (uint32_t)random_below(SIGNALS + 1);
	o.pid_type = (uint32_t)random_below(3);
	o.pid = (uint32_t)random_below(30000);
	return o;
}

static void add_path(struct snapshot *s, uint32_t id, const char *path, uint32_t flags)
{
	FileEntry rec = FILE_ENTRY__INIT;
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	FownEntry owner = random_owner();

	rec.type = FD_TYPES__REG;
	rec.id = reg.id = id;
	rec.reg = &reg;
	reg.fown = &owner;
	reg.flags = flags;
	reg.name = (char *)path;
	reg.pos = random_below(1 << 30);
	reg.has_size = random_below(2);
	reg.size = reg.has_size ? random_below(1 << 30) : 0;
	reg.has_mode = random_below(2);
	reg.mode = reg.has_mode ? 0100644 : 0;
	add_file(s, id, &rec);
}

static void add_eventfd(struct snapshot *s, uint32_t id)
{
	FileEntry rec = FILE_ENTRY__INIT;
	EventfdFileEntry efd = EVENTFD_FILE_ENTRY__INIT;
	FownEntry owner = random_owner();

	rec.type = FD_TYPES__EVENTFD;
	rec.id = efd.id = id;
	rec.efd = &efd;
	efd.fown = &owner;
	efd.flags = O_RDWR | (random_below(2) ? O_NONBLOCK : 0);
	efd.counter = random_below(UINT64_MAX);
	efd.has_semaphore = true;
	efd.semaphore = random_below(2);
	add_file(s, id, &rec);
}

static void make_files(struct snapshot *s)
{
	uint32_t id = WORLD_EVENTFD;

	add_path(s, WORLD_PROGRAM, "/usr/bin/program", O_RDONLY);
	add_path(s, WORLD_DIRECTORY, "/", O_RDONLY | O_DIRECTORY);
	add_eventfd(s, WORLD_EVENTFD);
	for (int i = 0; i < 20; i++) {
		own_free char *path = mem_fmt("/tmp/file %d\n%c", i, (int)random_below(100) + 33);

		id += 1 + (uint32_t)random_below(i == 10 ? 1u << 20 : 3);
		if (random_below(2))
			add_path(s, id, path, random_below(2) ? O_RDWR : O_WRONLY | O_APPEND);
		else
			add_eventfd(s, id);
	}
}

static uint32_t any_file(const struct snapshot *s)
{
	return s->files.at[random_below(s->files.len)].id;
}

static taddr add_vma(struct task *t, taddr at, uint32_t status, uint32_t flags, uint64_t object)
{
	struct vma *v = vec_add(&t->mm.vmas);
	taddr start = at + random_below(50) * PAGE;

	*v = (struct vma){
		.start = start, .end = start + (1 + random_below(1000)) * PAGE, .prot = (uint32_t)random_below(8),
		.flags = flags, .status = VMA_REGULAR | status, .object = object, .account = random_below(2),
		.pgoff = status & VMA_ANON_PRIVATE ? 0 : random_below(1 << 20) * PAGE,
		.madvise = random_below(3) ? 0 : random_below(0) & ADVICE,
	};
	if (random_below(4) == 0 && status & VMA_ANON_PRIVATE) {
		v->flags |= MAP_LOCKED;
		v->lock_on_fault = random_below(2);
	}
	return v->end;
}

/* As this kernel lays it out: any other is refused. */
static taddr add_vdso(struct task *t, taddr at)
{
	struct vdso own;
	struct err err;

	OK(&err, vdso_own(&own, &err));
	for (unsigned int i = 0; i < own.parts; i++) {
		taddr start = at + own.part[i].start - own.part[0].start;

		vec_push(&t->mm.vmas, ((struct vma){
			.start = start, .end = start + own.part[i].len_bytes, .prot = PROT_READ, .flags = MAP_PRIVATE | MAP_ANONYMOUS,
			.status = VMA_REGULAR | VMA_ANON_PRIVATE | (own.part[i].code ? VMA_VDSO : VMA_VVAR) }));
	}
	return at + vdso_span(&own);
}

static void make_mm(const struct snapshot *s, struct task *t)
{
	struct mm *mm = &t->mm;
	taddr at = add_vma(t, 0x400000, VMA_FILE_PRIVATE, MAP_PRIVATE, WORLD_PROGRAM);
	uint64_t *marks[] = { &mm->start_code, &mm->end_code, &mm->start_data, &mm->end_data, &mm->start_stack, &mm->start_brk,
			      &mm->brk, &mm->arg_start, &mm->arg_end, &mm->env_start, &mm->env_end };

	(void)s;
	at = add_vma(t, at, VMA_ANON_PRIVATE, MAP_PRIVATE | MAP_ANONYMOUS, 0);
	at = add_vma(t, at, VMA_ANON_PRIVATE | VMA_HEAP, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, 0);
	at = add_vma(t, at, VMA_ANON_SHARED, MAP_SHARED | MAP_ANONYMOUS, 70 + random_below(5));
	at = add_vma(t, at, VMA_FILE_SHARED, MAP_SHARED, WORLD_PROGRAM);
	at = add_vma(t, at + (1ull << 40), VMA_ANON_PRIVATE | VMA_STACK, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, 0);
	at = add_vdso(t, at + PAGE);
	for (uint64_t n = random_below(100); n > 0; n--)
		at = add_vma(t, at, VMA_ANON_PRIVATE, MAP_PRIVATE | MAP_ANONYMOUS, 0);
	for (size_t i = 0; i < ARRAY_LEN(marks); i++)
		*marks[i] = random_below(1ull << 47);
	for (uint64_t n = random_below(50); n > 0; n--)
		vec_push(&mm->auxv, random_below(0));
	mm->exe_file = WORLD_PROGRAM;
	mm->dumpable = (int)random_below(3);
	mm->thp_disabled = random_below(2);
}

static void make_fds(const struct snapshot *s, struct task *t)
{
	int fd = -1;

	for (uint64_t n = random_below(40); n > 0; n--) {
		fd += 1 + (int)random_below(n == 20 ? 100000 : 3);
		vec_push(&t->fds, ((struct fd_slot){ .fd = fd, .file = any_file(s), .cloexec = random_below(2) }));
	}
}

static struct task *add_task(struct snapshot *s, pid_t pid, pid_t ppid, unsigned int threads)
{
	struct task *t = vec_add(&s->tasks);

	random_task(t, threads);
	for (size_t i = 0; i < t->threads.len; i++)
		t->threads.at[i].tid += pid - t->pid;
	for (size_t i = 0; i < t->timers.len; i++)
		if (t->timers.at[i].thread)
			t->timers.at[i].thread += pid - t->pid;
	t->pid = pid;
	t->ppid = ppid;
	t->sid = WORLD_ROOT;
	t->pgid = random_below(2) ? pid : WORLD_ROOT;
	t->umask = (uint32_t)random_below(01000);
	t->cwd_file = t->root_file = WORLD_DIRECTORY;
	t->files_id = (uint32_t)s->tasks.len;
	make_mm(s, t);
	make_fds(s, t);
	return t;
}

static void add_dead(struct snapshot *s, pid_t pid, pid_t ppid)
{
	struct task *t = vec_add(&s->tasks);

	*t = (struct task){ .pid = pid, .ppid = ppid, .pgid = WORLD_ROOT, .sid = WORLD_ROOT, .state = TASK_ZOMBIE,
			    .exit_code = (int)random_below(0x10000) };
	*vec_add(&t->threads) = (struct thread){ .tid = pid, .comm = "gone" };
}

void world_make(struct snapshot *s, unsigned int more)
{
	struct task *t;

	*s = (struct snapshot){ 0 };
	make_files(s);
	add_task(s, WORLD_ROOT, 0, 2);
	add_task(s, WORLD_CHILD, WORLD_ROOT, 1);
	t = add_task(s, WORLD_GRANDCHILD, WORLD_CHILD, 1);
	t->files_id = s->tasks.at[1].files_id;
	vec_free(&t->fds);
	add_dead(s, WORLD_DEAD, WORLD_ROOT);
	for (unsigned int i = 0; i < more; i++) {
		size_t parent = random_below(s->tasks.len);
		pid_t pid = 2000 + 10 * (pid_t)i;

		if (s->tasks.at[parent].state == TASK_ZOMBIE)
			parent = 0;
		if (random_below(8) == 0)
			add_dead(s, pid, s->tasks.at[parent].pid);
		else
			add_task(s, pid, s->tasks.at[parent].pid, 1 + (unsigned int)random_below(4));
	}
}

void world_save(struct box *b, const char *name, const struct snapshot *s)
{
	own_store *store = box_create(b, name);

	for (size_t i = 0; i < s->tasks.len; i++)
		OK(&b->err, save_cores(&s->tasks.at[i], store, &b->err));
	OK(&b->err, save_snapshot(s, store, &b->err));
}
