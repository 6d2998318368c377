/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images that are right but for one thing: each is refused, with a text that
 * names it, before anything is made.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "engine/load.h"
#include "world.h"

struct records { ProtobufCMessage **at; size_t len, cap; };     /* a VEC */

/* Reads an image, lets `change` at its records, and writes it again. */
static void edit(struct box *b, enum image_kind kind, uint64_t id, void (*change)(struct records *))
{
	own_store *store = box_create(b, "x");
	own_reader *r = NULL;
	own_writer *w = NULL;
	struct records records = { 0 };
	ProtobufCMessage *m;

	assert_int_equal(image_open(store, kind, id, &r, &b->err), 1);
	while (image_get(r, image_types[kind].record, &m, &b->err) > 0)
		vec_push(&records, m);
	change(&records);
	OK(&b->err, image_create(store, kind, id, &w, &b->err));
	for (size_t i = 0; i < records.len; i++) {
		OK(&b->err, image_put(w, records.at[i], &b->err));
		protobuf_c_message_free_unpacked(records.at[i], NULL);
	}
	OK(&b->err, image_finish(&w, &b->err));
	vec_free(&records);
}

static int load(struct box *b)
{
	struct snapshot s = { 0 };
	own_store *store = box_open(b, "x");
	int r = load_snapshot(store, &s, &b->err);

	snapshot_free(&s);      /* also after a failure */
	return r;
}

static void make_good(struct box *b)
{
	struct snapshot s;

	random_seed(7);
	world_make(&s, 0);
	world_save(b, "x", &s);
	snapshot_free(&s);
}

/* ---- one thing is wrong ---- */

struct bad {
	const char *what, *says;        /* what the error has in its text or scope */
	int code;
	enum image_kind kind;
	uint64_t id;
	void (*change)(struct records *);
};

#define AS(type, i) ((type *)(void *)r->at[i])
#define CHANGE(name, ...) static void name(struct records *r) { __VA_ARGS__; }

static void drop(struct records *r, size_t i)
{
	protobuf_c_message_free_unpacked(r->at[i], NULL);
	memmove(&r->at[i], &r->at[i + 1], (--r->len - i) * sizeof(*r->at));
}

static void swap(struct records *r, size_t i, size_t k)
{
	ProtobufCMessage *m = r->at[i];

	r->at[i] = r->at[k];
	r->at[k] = m;
}

static void again(struct records *r, size_t i)
{
	size_t len = protobuf_c_message_get_packed_size(r->at[i]);
	own_free uint8_t *bytes = mem_new(len);

	protobuf_c_message_pack(r->at[i], bytes);
	vec_push(r, protobuf_c_message_unpack(r->at[i]->descriptor, NULL, len, bytes));
}

#define INVENTORY AS(InventoryEntry, 0)
CHANGE(version, INVENTORY->img_version = 3)
CHANGE(version_0, INVENTORY->img_version = 0)
CHANGE(old_fdinfo, INVENTORY->fdinfo_per_id = false)
CHANGE(no_fdinfo, INVENTORY->has_fdinfo_per_id = false)
CHANGE(nothing, while (r->len) drop(r, 0))
CHANGE(twice, again(r, 0))

/* pstree: root, child, grandchild, dead */
#define TASK(i) AS(PstreeEntry, i)
CHANGE(pid_twice, TASK(1)->pid = TASK(1)->threads[0] = WORLD_ROOT)
CHANGE(pid_is_thread, TASK(1)->pid = TASK(1)->threads[0] = WORLD_ROOT + 1)
CHANGE(thread_twice, TASK(0)->threads[1] = WORLD_ROOT)
CHANGE(thread_elsewhere, TASK(0)->threads[1] = WORLD_GRANDCHILD)
CHANGE(thread_zero, TASK(0)->threads[1] = 0)
CHANGE(thread_huge, TASK(0)->threads[1] = 0x400001)
CHANGE(pid_zero, TASK(1)->pid = TASK(1)->threads[0] = 0)
CHANGE(pid_huge, TASK(1)->pid = TASK(1)->threads[0] = 0x400001)
CHANGE(pid_negative, TASK(1)->pid = TASK(1)->threads[0] = UINT32_MAX)
CHANGE(group_huge, TASK(1)->pgid = UINT32_MAX)
CHANGE(session_huge, TASK(1)->sid = 0x80000000)
CHANGE(parent_later, TASK(1)->ppid = WORLD_GRANDCHILD)
CHANGE(parent_itself, TASK(1)->ppid = WORLD_CHILD)
CHANGE(parent_unknown, TASK(1)->ppid = 77)
CHANGE(parent_is_thread, TASK(1)->ppid = WORLD_ROOT + 1)
CHANGE(two_roots, TASK(1)->ppid = 0)
CHANGE(no_root, TASK(0)->ppid = 1)
CHANGE(child_first, swap(r, 1, 2))
CHANGE(leader_last, TASK(0)->threads[0] = WORLD_ROOT + 1; TASK(0)->threads[1] = WORLD_ROOT)
CHANGE(parent_dead, TASK(1)->ppid = WORLD_DEAD; swap(r, 1, 3); swap(r, 2, 3))
CHANGE(stranger, TASK(2)->sid = TASK(3)->sid = 555)

#define CORE AS(CoreEntry, 0)
CHANGE(root_dead, CORE->tc->task_state = TASK_DEAD)
CHANGE(core_arm, CORE->mtype = CORE_ENTRY__MARCH__AARCH64)
CHANGE(core_leader, task_core_entry__free_unpacked(CORE->tc, NULL); CORE->tc = NULL)
CHANGE(core_nice, CORE->thread_core->sched_nice = 77)

CHANGE(other_pid_ns, AS(TaskKobjIdsEntry, 0)->pid_ns_id = 99)
CHANGE(other_net_ns, AS(TaskKobjIdsEntry, 0)->net_ns_id = 99)

#define FILE_(i) AS(FileEntry, i)
CHANGE(file_twice, again(r, 1))
CHANGE(file_twice_other, FILE_(2)->id = FILE_(1)->id)
CHANGE(file_gone, drop(r, 0))
CHANGE(file_kind, FILE_(2)->type = FD_TYPES__TUNF)
CHANGE(file_body, FILE_(2)->type = FD_TYPES__REG)
CHANGE(file_relative, FILE_(1)->reg->name[0] = 'x')
CHANGE(file_owner, FILE_(2)->efd->fown->pid_type = 3)
CHANGE(file_owner_signal, FILE_(2)->efd->fown->signum = 65)

#define SLOT(i) AS(FdinfoEntry, i)
CHANGE(fd_file, SLOT(0)->id = 99999999)
CHANGE(fd_twice, again(r, 1))
CHANGE(fd_huge, SLOT(1)->fd = LOAD_FD_MAX)
CHANGE(fd_negative, SLOT(1)->fd = UINT32_MAX)
CHANGE(fd_kind, SLOT(0)->type = FD_TYPES__PIPE)

#define FS AS(FsEntry, 0)
CHANGE(cwd_unknown, FS->cwd_id = 99999999)
CHANGE(root_unknown, FS->root_id = 99999999)
CHANGE(cwd_eventfd, FS->cwd_id = WORLD_EVENTFD)
CHANGE(root_eventfd, FS->root_id = WORLD_EVENTFD)

static VmaEntry *with_status(const MmEntry *mm, uint32_t status)
{
	for (size_t i = 0; i < mm->n_vmas; i++)
		if (mm->vmas[i]->status & status)
			return mm->vmas[i];
	fail_msg("no mapping has status %#x", status);
	return NULL;
}

static VmaEntry *vdso(const MmEntry *mm)
{
	return with_status(mm, VMA_VDSO);
}

static VmaEntry *vvar(const MmEntry *mm)
{
	return with_status(mm, VMA_VVAR);
}

#define MM AS(MmEntry, 0)
#define VMA(i) MM->vmas[i]
CHANGE(exe_unknown, MM->exe_file_id = 99999999)
CHANGE(exe_eventfd, MM->exe_file_id = WORLD_EVENTFD)
CHANGE(overlap, VMA(MAP_DATA)->start = VMA(MAP_TEXT)->end - 4096)
CHANGE(falling, VMA(MAP_DATA)->start = 4096; VMA(MAP_DATA)->end = 8192)
CHANGE(unaligned_start, VMA(MAP_DATA)->start += 8)
CHANGE(unaligned_end, VMA(MAP_DATA)->end -= 8)
CHANGE(unaligned_offset, VMA(MAP_TEXT)->pgoff += 512)
CHANGE(empty, VMA(MAP_DATA)->end = VMA(MAP_DATA)->start)
CHANGE(backwards, VMA(MAP_DATA)->end = VMA(MAP_DATA)->start - 4096)
CHANGE(above, VMA(MM->n_vmas - 1)->end = 0x800000000000)
CHANGE(kernel, VMA(MM->n_vmas - 1)->start = 0xffffffff80000000; VMA(MM->n_vmas - 1)->end = 0xffffffff80001000)
CHANGE(wraps, VMA(MM->n_vmas - 1)->end = 0)
CHANGE(two_kinds, VMA(MAP_DATA)->status |= VMA_FILE_PRIVATE)
CHANGE(no_kind, VMA(MAP_DATA)->status = VMA_REGULAR)
CHANGE(vdso_of_file, vdso(MM)->status |= VMA_FILE_SHARED)
CHANGE(vvar_shared, vvar(MM)->status |= VMA_ANON_SHARED)
CHANGE(shared_flags, VMA(MAP_DATA)->flags = MAP_SHARED | MAP_ANONYMOUS)
CHANGE(private_flags, VMA(MAP_SHM)->flags = MAP_PRIVATE | MAP_ANONYMOUS)
CHANGE(neither_flags, VMA(MAP_DATA)->flags &= ~(uint32_t)MAP_TYPE)
CHANGE(strange_flags, VMA(MAP_DATA)->flags |= MAP_HUGETLB)
CHANGE(strange_prot, VMA(MAP_DATA)->prot |= 0x1000000)
CHANGE(advice, VMA(MAP_DATA)->has_madv = true; VMA(MAP_DATA)->madv = 1ull << 40)
CHANGE(map_unknown, VMA(MAP_TEXT)->shmid = 99999999)
CHANGE(map_over_32, VMA(MAP_TEXT)->shmid |= 1ull << 32)
CHANGE(map_eventfd, VMA(MAP_TEXT)->shmid = WORLD_EVENTFD)
CHANGE(memfd_path, VMA(MAP_FILE_SHARED)->status |= VMA_MEMFD)
CHANGE(memfd_anon, VMA(MAP_SHM)->status |= VMA_MEMFD)
CHANGE(shm_offset, VMA(MAP_SHM)->pgoff = 1ull << 63)
CHANGE(sysv, VMA(MAP_SHM)->status |= VMA_SYSV)
CHANGE(aio, VMA(MAP_DATA)->status |= VMA_AIO)
CHANGE(no_vdso, vdso(MM)->status &= ~(uint32_t)VMA_VDSO)
CHANGE(two_vdsos, vvar(MM)->status |= VMA_VDSO)
CHANGE(torn_vdso, vdso(MM)->start += 4096; vdso(MM)->end += 4096)

static void long_auxv(struct records *r)
{
	free(MM->mm_saved_auxv);
	MM->mm_saved_auxv = mem_new(1000 * sizeof(uint64_t));
	MM->n_mm_saved_auxv = 1000;
}

#define BAD(image, id_, change_, code_, says_) { #change_, says_, code_, IMAGE_##image, id_, change_ }
#define GONE(image, id_, says_) { "no " says_, says_, ENOENT, IMAGE_##image, id_, NULL }

static const struct bad bads[] = {
	GONE(INVENTORY, 0, "inventory.img"), GONE(PSTREE, 0, "pstree.img"), GONE(FILES, 0, "files.img"),
	GONE(CORE, WORLD_ROOT, "core-1000.img"), GONE(CORE, WORLD_ROOT + 1, "core-1001.img"),
	GONE(CORE, WORLD_DEAD, "core-1030.img"), GONE(IDS, WORLD_CHILD, "ids-1010.img"), GONE(FS, WORLD_CHILD, "fs-1010.img"),
	GONE(MM, WORLD_GRANDCHILD, "mm-1020.img"),
	BAD(INVENTORY, 0, version, EOPNOTSUPP, "version 3"), BAD(INVENTORY, 0, version_0, EOPNOTSUPP, "version 0"),
	BAD(INVENTORY, 0, old_fdinfo, EOPNOTSUPP, "inventory"), BAD(INVENTORY, 0, no_fdinfo, EOPNOTSUPP, "inventory"),
	BAD(INVENTORY, 0, nothing, EBADMSG, "inventory.img"), BAD(INVENTORY, 0, twice, EBADMSG, "inventory.img"),
	BAD(PSTREE, 0, nothing, EBADMSG, "pstree.img"),
	BAD(PSTREE, 0, pid_twice, EBADMSG, "1000"), BAD(PSTREE, 0, pid_is_thread, EBADMSG, "1001"),
	BAD(PSTREE, 0, thread_twice, EBADMSG, "1000"), BAD(PSTREE, 0, thread_elsewhere, EBADMSG, "1020"),
	BAD(PSTREE, 0, thread_zero, EBADMSG, "thread 0"), BAD(PSTREE, 0, thread_huge, EBADMSG, "4194305"),
	BAD(PSTREE, 0, pid_zero, EBADMSG, "pid 0"), BAD(PSTREE, 0, pid_huge, EBADMSG, "4194305"),
	BAD(PSTREE, 0, pid_negative, EBADMSG, "4294967295"), BAD(PSTREE, 0, group_huge, EBADMSG, "4294967295"),
	BAD(PSTREE, 0, session_huge, EBADMSG, "2147483648"), BAD(PSTREE, 0, parent_later, EBADMSG, "1020"),
	BAD(PSTREE, 0, parent_itself, EBADMSG, "1010"), BAD(PSTREE, 0, parent_unknown, EBADMSG, "parent 77"),
	BAD(PSTREE, 0, parent_is_thread, EBADMSG, "1001"), BAD(PSTREE, 0, two_roots, EBADMSG, "1010"),
	BAD(PSTREE, 0, no_root, EBADMSG, "1000"), BAD(PSTREE, 0, child_first, EBADMSG, "1010"),
	BAD(PSTREE, 0, leader_last, EBADMSG, "1000"), BAD(PSTREE, 0, parent_dead, EBADMSG, "1010"),
	BAD(CORE, WORLD_ROOT, root_dead, EBADMSG, "thread"), BAD(CORE, WORLD_CHILD, root_dead, EBADMSG, "1020"),
	BAD(CORE, WORLD_CHILD, core_arm, EOPNOTSUPP, "1010"), BAD(CORE, WORLD_CHILD, core_leader, EBADMSG, "1010"),
	BAD(CORE, WORLD_ROOT + 1, core_nice, EBADMSG, "thread 1001"), BAD(CORE, WORLD_CHILD, twice, EBADMSG, "core-1010.img"),
	BAD(IDS, WORLD_CHILD, other_pid_ns, EOPNOTSUPP, "task 1010"), BAD(IDS, WORLD_CHILD, other_net_ns, EOPNOTSUPP, "namespaces"),
	BAD(FILES, 0, file_twice, EBADMSG, "file 2 is there twice"), BAD(FILES, 0, file_twice_other, EBADMSG, "file 2"),
	BAD(FILES, 0, file_gone, EBADMSG, "file 1 is not"), BAD(FILES, 0, file_kind, EOPNOTSUPP, "file 3"),
	BAD(FILES, 0, file_body, EBADMSG, "no body"), BAD(FILES, 0, file_relative, EBADMSG, "absolute"),
	BAD(FILES, 0, file_owner, EBADMSG, "type 3"), BAD(FILES, 0, file_owner_signal, EBADMSG, "signal 65"),
	BAD(FDINFO, 1, fd_file, EBADMSG, "file 99999999"), BAD(FDINFO, 1, fd_twice, EBADMSG, "fdinfo-1.img"),
	BAD(FDINFO, 1, fd_huge, EBADMSG, "1048576"), BAD(FDINFO, 1, fd_negative, EBADMSG, "4294967295"),
	BAD(FDINFO, 1, fd_kind, EBADMSG, "fdinfo-1.img"),
	BAD(FS, WORLD_CHILD, cwd_unknown, EBADMSG, "working directory: file 99999999"),
	BAD(FS, WORLD_CHILD, root_unknown, EBADMSG, "root directory: file 99999999"),
	BAD(FS, WORLD_CHILD, cwd_eventfd, EBADMSG, "working directory"), BAD(FS, WORLD_CHILD, root_eventfd, EBADMSG, "root directory"),
	BAD(MM, WORLD_CHILD, exe_unknown, EBADMSG, "program: file 99999999"), BAD(MM, WORLD_CHILD, exe_eventfd, EBADMSG, "program"),
	BAD(MM, WORLD_CHILD, overlap, EBADMSG, "out of order"), BAD(MM, WORLD_CHILD, falling, EBADMSG, "mapping 1000-2000"),
	BAD(MM, WORLD_CHILD, unaligned_start, EBADMSG, "mapping"), BAD(MM, WORLD_CHILD, unaligned_end, EBADMSG, "mapping"),
	BAD(MM, WORLD_CHILD, unaligned_offset, EBADMSG, "offset"), BAD(MM, WORLD_CHILD, empty, EBADMSG, "mapping"),
	BAD(MM, WORLD_CHILD, backwards, EBADMSG, "mapping"), BAD(MM, WORLD_CHILD, above, EBADMSG, "-800000000000"),
	BAD(MM, WORLD_CHILD, kernel, EBADMSG, "ffffffff80000000"), BAD(MM, WORLD_CHILD, wraps, EBADMSG, "-0"),
	BAD(MM, WORLD_CHILD, two_kinds, EBADMSG, "two"), BAD(MM, WORLD_CHILD, no_kind, EBADMSG, "no kind"),
	BAD(MM, WORLD_CHILD, vdso_of_file, EBADMSG, "mapping"), BAD(MM, WORLD_CHILD, vvar_shared, EBADMSG, "mapping"),
	BAD(MM, WORLD_CHILD, shared_flags, EBADMSG, "agree"), BAD(MM, WORLD_CHILD, private_flags, EBADMSG, "agree"),
	BAD(MM, WORLD_CHILD, neither_flags, EBADMSG, "agree"), BAD(MM, WORLD_CHILD, strange_flags, EBADMSG, "flags"),
	BAD(MM, WORLD_CHILD, strange_prot, EBADMSG, "protection"), BAD(MM, WORLD_CHILD, advice, EBADMSG, "mapping"),
	BAD(MM, WORLD_CHILD, map_unknown, EBADMSG, "mapped file: file 99999999"), BAD(MM, WORLD_CHILD, map_over_32, EBADMSG, "0x100000001"),
	BAD(MM, WORLD_CHILD, map_eventfd, EBADMSG, "file 3"), BAD(MM, WORLD_CHILD, memfd_path, EBADMSG, "file 1"),
	BAD(MM, WORLD_CHILD, memfd_anon, EBADMSG, "mapping"), BAD(MM, WORLD_CHILD, shm_offset, EBADMSG, "offset"),
	BAD(MM, WORLD_CHILD, sysv, EOPNOTSUPP, "mapping"), BAD(MM, WORLD_CHILD, aio, EOPNOTSUPP, "mapping"),
	BAD(MM, WORLD_CHILD, no_vdso, EOPNOTSUPP, "0 vdso"), BAD(MM, WORLD_CHILD, two_vdsos, EOPNOTSUPP, "2 vdso"),
	BAD(MM, WORLD_CHILD, torn_vdso, EOPNOTSUPP, "vdso"), BAD(MM, WORLD_CHILD, long_auxv, EBADMSG, "auxv"),
	BAD(PSTREE, 0, stranger, EOPNOTSUPP, "session 555"),
};

static void remove_image(struct box *b, const struct bad *bad)
{
	char name[IMAGE_NAME_MAX];

	image_file_name(bad->kind, bad->id, name);
	own_free char *path = mem_fmt("%s/x/%s", b->dir, name);
	assert_int_equal(unlink(path), 0);
}

static void refused(void **state)
{
	const char *only = getenv("ONLY");
	unsigned int wrong = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bads); i++) {
		const struct bad *bad = &bads[i];
		struct box *b;
		char told[sizeof(b->err.scope) + sizeof(b->err.text) + 2];
		int r;

		if (only && strcmp(only, bad->what) != 0)
			continue;
		box_setup((void **)&b);
		make_good(b);
		OK(&b->err, load(b));
		if (bad->change)
			edit(b, bad->kind, bad->id, bad->change);
		else
			remove_image(b, bad);
		r = load(b);
		snprintf(told, sizeof(told), "%s: %s", b->err.scope, r < 0 ? b->err.text : "taken");
		if (r != -bad->code || !strstr(told, bad->says)) {
			print_error("%s in image %s-%llu: %d instead of %d, %s (wanted: %s); again: ONLY=%s\n", bad->what,
				    image_types[bad->kind].file, (unsigned long long)bad->id, r, -bad->code, told, bad->says,
				    bad->what);
			wrong++;
		}
		box_teardown((void **)&b);
	}
	assert_int_equal(wrong, 0);
}

/* What looks strange, but is right. */
CHANGE(other_order, swap(r, 0, r->len - 1); swap(r, 1, r->len / 2))
CHANGE(vsyscall, VMA(MM->n_vmas - 1)->status = VMA_VSYSCALL; VMA(MM->n_vmas - 1)->start = 0xffffffffff600000)
CHANGE(same_session, TASK(1)->pgid = 0)
CHANGE(no_threads, TASK(1)->n_threads = 0)

static void taken(void **state)
{
	static const struct bad good[] = {
		BAD(FILES, 0, other_order, 0, ""), BAD(FDINFO, 1, other_order, 0, ""), BAD(MM, WORLD_CHILD, vsyscall, 0, ""),
		BAD(PSTREE, 0, same_session, 0, ""), BAD(PSTREE, 0, no_threads, 0, ""), BAD(FDINFO, 1, nothing, 0, ""),
		{ "no fdinfo", "", 0, IMAGE_FDINFO, 1, NULL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct box *b;

		print_message("  %s\n", good[i].what);
		box_setup((void **)&b);
		make_good(b);
		if (good[i].change)
			edit(b, good[i].kind, good[i].id, good[i].change);
		else
			remove_image(b, &good[i]);
		OK(&b->err, load(b));
		box_teardown((void **)&b);
	}
}

/* ---- so much that a slow look at it would last for ever ---- */

#define SECONDS 5u

static void many_threads(struct records *r)
{
	size_t n = 400000;

	TASK(0)->threads = realloc(TASK(0)->threads, n * sizeof(uint32_t));
	for (size_t i = 2; i < n; i++)
		TASK(0)->threads[i] = 2000 + (uint32_t)i;
	TASK(0)->n_threads = n;
}

/* The grandchild's child has a child, which has a child ... */
static void many_tasks(struct records *r)
{
	for (uint32_t i = 0; i < 60000; i++) {
		again(r, 2);
		TASK(r->len - 1)->pid = TASK(r->len - 1)->threads[0] = 2000 + i;
		TASK(r->len - 1)->ppid = i ? 1999 + i : WORLD_GRANDCHILD;
	}
}

static void many_objects(struct records *r)
{
	size_t n = 300000, old = MM->n_vmas;

	MM->vmas = realloc(MM->vmas, n * sizeof(*MM->vmas));
	MM->n_vmas = n;
	for (size_t i = old; i < n; i++) {
		VmaEntry *v = MM->vmas[i] = mem_new(sizeof(*v));

		vma_entry__init(v);
		v->start = MM->vmas[i - 1]->end;
		v->end = v->start + 4096;
		v->status = VMA_REGULAR | VMA_ANON_SHARED;
		v->flags = MAP_SHARED | MAP_ANONYMOUS;
		v->shmid = 1000 + i;
	}
}

static void quickly(void **state)
{
	static const struct bad much[] = {
		BAD(PSTREE, 0, many_threads, 0, ""), BAD(PSTREE, 0, many_tasks, 0, ""), BAD(MM, WORLD_ROOT, many_objects, 0, ""),
	};
	struct box *b = *state;

	for (size_t i = 0; i < ARRAY_LEN(much); i++) {
		clock_t start;

		print_message("  %s\n", much[i].what);
		make_good(b);
		edit(b, much[i].kind, much[i].id, much[i].change);
		start = clock();        /* of the processor: others may keep it busy */
		load(b);        /* refused or not, but not in an hour */
		assert_in_range((clock() - start) / CLOCKS_PER_SEC, 0, SECONDS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refused),
		cmocka_unit_test(taken),
		BOX_TEST(quickly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
