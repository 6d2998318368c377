/* SPDX-License-Identifier: Apache-2.0 */
/* probe_ns.c - the doors to namespaces and mounts. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/probe_doors.h"
#include "kernel/proc_map.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef MOVE_MOUNT_SET_GROUP
#define MOVE_MOUNT_SET_GROUP 0x100
#endif

static int new_userns(void)
{
	return unshare(CLONE_NEWUSER) < 0 ? -errno : 0;
}

static int new_timens(void)
{
	return unshare(CLONE_NEWTIME) < 0 ? -errno : 0;
}

static int new_cgroupns(void)
{
	return unshare(CLONE_NEWCGROUP) < 0 ? -errno : 0;
}

static int enter_netns(void)
{
	own_fd ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	return ns < 0 || setns(ns, CLONE_NEWNET) < 0 ? -errno : 0;
}

int probe_userns(struct err *err)
{
	return probe_in_child(new_userns, "a user namespace", err);
}

int probe_timens(struct err *err)
{
	return probe_in_child(new_timens, "a time namespace", err);
}

int probe_cgroupns(struct err *err)
{
	return probe_in_child(new_cgroupns, "a cgroup namespace", err);
}

int probe_external_net_ns(struct err *err)
{
	return probe_in_child(enter_netns, "enter a network namespace", err);
}

int probe_openat2(struct err *err)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
	own_fd fd = (int)syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof(how));

	return fd < 0 ? err_sys(err, "openat2") : 0;
}

int probe_autofs(struct err *err)
{
	own_fd fd = (int)syscall(SYS_fsopen, "autofs", 1 /* FSOPEN_CLOEXEC */);

	return fd < 0 ? err_sys(err, "autofs") : 0;
}

int probe_apparmor_stacking(struct err *err)
{
	own_fd fd = open("/sys/kernel/security/apparmor/features/domain/stack", O_RDONLY | O_CLOEXEC);
	char yes[4] = "";

	if (fd < 0 || read(fd, yes, 3) != 3)
		return err_sys(err, "AppArmor's stacking");
	return strcmp(yes, "yes") == 0 ? 0 : err_set(err, EOPNOTSUPP, "AppArmor does not stack");
}

/* A tmpfs over /tmp that only this child sees, with these directories in it. */
static int private_tmp(const char *const dirs[], size_t count)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("ferry-probe", "/tmp", "tmpfs", 0, NULL) < 0)
		return -errno;
	for (size_t i = 0; i < count; i++)
		if (mkdir(dirs[i], 0700) < 0)
			return -errno;
	return 0;
}

static int copy_mount_group(void)
{
	static const char *const dirs[] = { "/tmp/from", "/tmp/to" };
	int r = private_tmp(dirs, ARRAY_LEN(dirs));

	if (r < 0)
		return r;
	if (mount("/tmp/from", "/tmp/from", NULL, MS_BIND, NULL) < 0 || mount("/tmp/from", "/tmp/to", NULL, MS_BIND, NULL) < 0 ||
	    mount(NULL, "/tmp/from", NULL, MS_SHARED, NULL) < 0)
		return -errno;
	return syscall(SYS_move_mount, AT_FDCWD, "/tmp/from", AT_FDCWD, "/tmp/to", MOVE_MOUNT_SET_GROUP) < 0 ? -errno : 0;
}

int probe_mount_set_group(struct err *err)
{
	return probe_in_child(copy_mount_group, "MOVE_MOUNT_SET_GROUP", err);
}

/* maps has to name a file of an overlay by the device and inode that stat gives. */
static int map_overlay_file(void)
{
	static const char *const dirs[] = { "/tmp/lower", "/tmp/upper", "/tmp/work", "/tmp/all" };
	struct proc_maps maps = { 0 };
	const struct proc_map *map;
	struct stat st;
	struct err err;
	int r = private_tmp(dirs, ARRAY_LEN(dirs));
	own_fd fd = -1;
	void *at;

	if (r < 0)
		return r;
	if (mount("ferry-probe", "/tmp/all", "overlay", 0, "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work") < 0)
		return -errno;
	fd = open("/tmp/all/file", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, 4096) < 0 || fstat(fd, &st) < 0)
		return -errno;
	at = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	r = proc_maps(getpid(), &maps, &err);
	map = r < 0 ? NULL : proc_maps_find(&maps, (uintptr_t)at);
	if (!map)
		return -ENODATA;
	return map->dev == st.st_dev && map->ino == st.st_ino ? 0 : -EOPNOTSUPP;
}

int probe_overlayfs_maps(struct err *err)
{
	return probe_in_child(map_overlay_file, "maps of an overlay file", err);
}
