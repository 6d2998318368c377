/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/own.h"
#include "engine/new_dir.h"
#include "image/link.h"

static int must_be_empty(const char *path, struct err *err)
{
	own_dir *dir = opendir(path);
	const struct dirent *entry;

	if (!dir)
		return err_sys(err, "%s", path);
	while ((entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			return err_set(err, ENOTEMPTY, "%s is not empty", path);
	return 0;
}

int new_dir_make(struct new_dir *d, const char *path, struct err *err)
{
	int r = 0;

	*d = (struct new_dir){ .path = path };
	if (mkdir(path, 0700) == 0)
		d->made = true;
	else if (errno != EEXIST)
		return err_sys(err, "%s: make directory", path);
	else
		r = must_be_empty(path, err);
	if (r == 0)
		r = store_create_dir(path, &d->store, err);
	if (r < 0 && d->made)
		rmdir(path);
	return r;
}

/* Images and links to them: nobody else has anything here. */
static void clear(int dirfd)
{
	own_fd fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	own_dir *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	enum image_kind kind;
	uint64_t id;

	if (!dir)
		return;
	TAKE_FD(fd);
	while ((entry = readdir(dir)))
		if (image_parse_name(entry->d_name, &kind, &id) || strcmp(entry->d_name, LINK_PARENT) == 0)
			unlinkat(dirfd, entry->d_name, 0);
}

void new_dir_remove(struct new_dir *d)
{
	int dirfd = store_dirfd(d->store);
	own_fd cow = openat(dirfd, COW_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (cow >= 0) {
		clear(cow);
		unlinkat(dirfd, COW_DIR, AT_REMOVEDIR);
	}
	clear(dirfd);
	if (d->made)
		rmdir(d->path);
}

void new_dir_close(struct new_dir *d)
{
	store_close(d->store);
	d->store = NULL;
}
