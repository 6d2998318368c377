/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/own.h"
#include "base/vec.h"
#include "engine/task_lock.h"
#include "kernel/sys.h"

#define PIDFS_MAGIC 0x50494446
#define TRIES       200                 /* a child of a ferry that was killed may have it for a moment more */
#define PAUSE_NS    5000000

static int open_lockable(pid_t pid, int *ret_fd, struct err *err)
{
	struct statfs fs;
	own_fd fd = -1;
	char path[32];
	int r = sys_pidfd_open(pid, 0, &fd, err);

	if (r < 0)
		return r;
	if (fstatfs(fd, &fs) < 0 || fs.f_type != PIDFS_MAGIC) {         /* all pidfds are one inode */
		close(fd);
		snprintf(path, sizeof(path), "/proc/%d", pid);
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			return err_set(err, errno == ENOENT ? ESRCH : errno, "open %s: %s", path, strerror(errno));
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Who has locked it; 0: that can't be seen from here. */
static pid_t holder_of(int fd)
{
	char line[128], wanted[64] = "?";
	struct stat st;
	pid_t holder = 0;
	FILE *f = fopen("/proc/locks", "re");

	if (!f)
		return 0;
	if (fstat(fd, &st) == 0)
		snprintf(wanted, sizeof(wanted), " %02x:%02x:%llu ", major(st.st_dev), minor(st.st_dev),
			 (unsigned long long)st.st_ino);
	while (holder == 0 && fgets(line, sizeof(line), f))
		if (strstr(line, wanted))
			sscanf(line, "%*s FLOCK ADVISORY WRITE %d", &holder);
	fclose(f);
	return holder > 0 ? holder : 0;
}

static int take(int fd, pid_t pid, struct err *err)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	pid_t holder;

	for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (errno != EWOULDBLOCK)
			return err_sys(err, "lock process %d", pid);
		if (i == TRIES) {
			holder = holder_of(fd);
			return holder ? err_set(err, EBUSY, "another ferry (process %d) is at work on process %d", holder, pid) :
					err_set(err, EBUSY, "another ferry is at work on process %d", pid);
		}
		nanosleep(&pause, NULL);
	}
	return 0;
}

static bool is_had(const struct task_locks *locks, int fd)
{
	struct stat a, b;

	for (size_t i = 0; i < locks->len; i++)
		if (fstat(locks->at[i], &a) == 0 && fstat(fd, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
			return true;
	return false;
}

int task_lock(struct task_locks *locks, pid_t pid, struct err *err)
{
	own_fd fd = -1;
	int r = open_lockable(pid, &fd, err);

	if (r < 0 || is_had(locks, fd))
		return r;
	r = take(fd, pid, err);
	if (r == 0)
		vec_push(locks, TAKE_FD(fd));
	return r;
}

void task_locks_free(struct task_locks *locks)
{
	for (size_t i = 0; i < locks->len; i++)
		own_fd_drop(&locks->at[i]);
	vec_free(locks);
}
