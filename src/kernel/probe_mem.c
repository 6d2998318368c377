/* SPDX-License-Identifier: Apache-2.0 */
/* probe_mem.c - the doors to memory. */
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/pagemap.h"
#include "kernel/probe_doors.h"
#include "kernel/proc.h"
#include "kernel/proc_map.h"
#include "kernel/sys.h"
#include "kernel/uffd.h"

#define PAGE_BYTES 4096u

/* A page of anonymous memory that has been written to. */
static char *new_page(struct err *err)
{
	char *at = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		err_sys(err, "map a page");
		return NULL;
	}
	*(volatile char *)at = 1;
	return at;
}

static int scan_page(uint64_t categories, uint64_t want, struct err *err)
{
	const struct pm_scan what = { .anyof = categories, .ret_mask = categories };
	struct pm_region region = { 0 };
	char *at = new_page(err);
	own_fd fd = -1;
	uint64_t walk_end;
	int r;

	if (!at)
		return -ENOMEM;
	r = pagemap_open(getpid(), &fd, err);
	if (r == 0)
		r = pagemap_scan(fd, &what, (uintptr_t)at, (uintptr_t)at + PAGE_BYTES, &region, 1, &walk_end, err);
	munmap(at, PAGE_BYTES);
	if (r >= 0 && (region.categories & want) != want)
		r = err_set(err, EOPNOTSUPP, "the scan does not see a page that was written");
	return r < 0 ? r : 0;
}

int probe_pagemap_scan(struct err *err)
{
	return scan_page(PM_PRESENT | PM_WRITTEN, PM_PRESENT | PM_WRITTEN, err);
}

int probe_pagemap_scan_guard(struct err *err)
{
	return scan_page(PM_PRESENT | PM_GUARD, PM_PRESENT, err);
}

/* Memory that is new since the last clear counts as soft-dirty: no need to clear anything. */
int probe_soft_dirty(struct err *err)
{
	char *at = new_page(err);
	uint64_t entry = 0;
	own_fd fd = -1;
	int r;

	if (!at)
		return -ENOMEM;
	r = pagemap_open(getpid(), &fd, err);
	if (r == 0)
		r = pagemap_read(fd, (uintptr_t)at, 1, &entry, err);
	munmap(at, PAGE_BYTES);
	if (r >= 0 && !(entry & PM_ENTRY_SOFT_DIRTY))
		r = err_set(err, EOPNOTSUPP, "no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)");
	return r < 0 ? r : 0;
}

int probe_dirty_track(struct err *err)
{
	struct err other;

	if (probe_soft_dirty(&other) == 0)
		return 0;
	return probe_pagemap_scan(&other) == 0 ? probe_uffd_wp_async(err) :
		err_set(err, EOPNOTSUPP, "neither soft-dirty bits nor PAGEMAP_SCAN");
}

static int uffd_with(uint64_t features, struct err *err)
{
	own_fd fd = -1;
	int r = uffd_open(&fd, err);

	return r < 0 ? r : uffd_enable(fd, features, err);
}

int probe_uffd(struct err *err)
{
	return uffd_with(0, err);
}

int probe_uffd_wp_async(struct err *err)
{
	return uffd_with(UFFD_WP_ASYNC | UFFD_WP_UNPOPULATED, err);
}

int probe_uffd_noncoop(struct err *err)
{
	return uffd_with(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
			 UFFD_FEATURE_EVENT_UNMAP, err);
}

/* As linux/fs.h of 6.11 has it. */
struct procmap_query {
	uint64_t size, flags, addr, start, end, vma_flags, page_size, offset, inode;
	uint32_t dev_major, dev_minor, name_size, build_id_size;
	uint64_t name_addr, build_id_addr;
};

int probe_procmap_query(struct err *err)
{
	struct procmap_query query = { .size = sizeof(query), .addr = (uintptr_t)&query };
	own_fd fd = -1;
	int r = proc_open_file(getpid(), "maps", O_RDONLY, &fd, err);

	if (r < 0)
		return r;
	if (ioctl(fd, _IOWR('f', 17, struct procmap_query), &query) < 0)
		return err_sys(err, "PROCMAP_QUERY");
	return 0;
}

int probe_guard_pages(struct err *err)
{
	char *at = new_page(err);
	int r = 0;

	if (!at)
		return -ENOMEM;
	if (madvise(at, PAGE_BYTES, MADV_GUARD_INSTALL) < 0)
		r = err_sys(err, "MADV_GUARD_INSTALL");
	munmap(at, PAGE_BYTES);
	return r;
}

int probe_map_files(struct err *err)
{
	own_fd mem = memfd_create("ferry-probe", MFD_CLOEXEC), there = -1;
	char name[64];
	char *at;
	int r;

	if (mem < 0 || ftruncate(mem, PAGE_BYTES) < 0)
		return err_sys(err, "memfd");
	at = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, mem, 0);
	if (at == MAP_FAILED)
		return err_sys(err, "map a memfd");
	snprintf(name, sizeof(name), "map_files/%lx-%lx", (uintptr_t)at, (uintptr_t)at + PAGE_BYTES);
	r = proc_open_file(getpid(), name, O_RDONLY, &there, err);
	munmap(at, PAGE_BYTES);
	return r;
}

int probe_set_mm_map(struct err *err)
{
	unsigned int size = 0;

	if (prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) < 0)
		return err_sys(err, "PR_SET_MM_MAP_SIZE");
	return size == sizeof(struct prctl_mm_map) ? 0 :
		err_set(err, EOPNOTSUPP, "PR_SET_MM_MAP takes %u bytes, not %zu", size, sizeof(struct prctl_mm_map));
}

int probe_memfd(struct err *err)
{
	own_fd fd = memfd_create("ferry-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	return fd < 0 ? err_sys(err, "memfd_create") : 0;
}

int probe_memfd_hugetlb(struct err *err)
{
	own_fd fd = memfd_create("ferry-probe", MFD_CLOEXEC | MFD_HUGETLB);

	return fd < 0 ? err_sys(err, "memfd_create with MFD_HUGETLB") : 0;
}

/* The ring of an asynchronous I/O context has to go on under its new address. */
static int move_aio_ring(void)
{
	struct proc_maps maps = { 0 };
	const struct proc_map *ring;
	struct io_event event;
	struct timespec now = { 0 };
	aio_context_t ctx = 0;
	struct err err;
	char *to;

	if (syscall(SYS_io_setup, 1, &ctx) < 0)
		return -errno;
	if (proc_maps(getpid(), &maps, &err) < 0)
		return -err.code;
	ring = proc_maps_find(&maps, ctx);
	if (!ring)
		return -EFAULT;
	to = mmap(NULL, ring->end - ring->start, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (to == MAP_FAILED || mremap((void *)ctx, ring->end - ring->start, ring->end - ring->start,
				       MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
		return -errno;
	return syscall(SYS_io_getevents, (aio_context_t)(uintptr_t)to, 0, 1, &event, &now) < 0 ? -errno : 0;
}

int probe_aio_remap(struct err *err)
{
	return probe_in_child(move_aio_ring, "move an AIO ring", err);
}

/* Every task has a vdso already, so that the right answer is EEXIST: the door knows what it was asked for. */
static int map_vdso(int which)
{
	return syscall(SYS_arch_prctl, which, 0x10000000ul) < 0 && errno != EEXIST ? -errno : 0;
}

static int map_vdso_64(void)
{
	return map_vdso(ARCH_MAP_VDSO_64);
}

static int map_vdso_32(void)
{
	return map_vdso(ARCH_MAP_VDSO_32);
}

int probe_map_vdso(struct err *err)
{
	return probe_in_child(map_vdso_64, "ARCH_MAP_VDSO_64", err);
}

int probe_map_vdso_32(struct err *err)
{
	return probe_in_child(map_vdso_32, "ARCH_MAP_VDSO_32", err);
}
