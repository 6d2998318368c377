/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/own.h"
#include "front/pidfile.h"

int pidfile_check(const char *path, struct err *err)
{
	char dir[PATH_MAX];
	size_t dir_bytes = (size_t)(strrchr(path, '/') - path);
	struct stat st;

	if (lstat(path, &st) == 0)
		return err_set(err, EEXIST, "pidfile %s: exists already", path);
	snprintf(dir, sizeof(dir), "%.*s/", (int)dir_bytes, path);
	return access(dir, W_OK | X_OK) < 0 ? err_sys(err, "pidfile in %s", dir) : 0;
}

int pidfile_write(const char *path, pid_t pid, struct err *err)
{
	own_fd fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	int n = fd < 0 ? -1 : dprintf(fd, "%d", pid);

	return n < 0 ? err_sys(err, "pidfile %s", path) : 0;
}
