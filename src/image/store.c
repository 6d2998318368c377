/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "image/checksums.h"
#include "image/store_impl.h"
#include "kernel/sys.h"

struct store *store_create_in(int dirfd)
{
	struct store *store = mem_new(sizeof(*store));

	store->dirfd = dirfd;
	return store;
}

int store_create_in_memory(struct store **ret, struct err *err)
{
	int fd, r = sys_memory_dir(&fd, err);

	if (r == 0)
		*ret = store_create_in(fd);
	return r;
}

static int open_dir(int at, const char *path, struct store **ret, struct err *err)
{
	own_fd fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, "%s: open directory", path);
	*ret = store_create_in(TAKE_FD(fd));
	return 0;
}

static int open_read(int at, const char *path, bool unchecked, struct store **ret, struct err *err)
{
	own_store *store = NULL;
	int r;

	r = open_dir(at, path, &store, err);
	if (r == 0 && !unchecked)
		r = checksums_verify(store, NULL, &(unsigned int){ 0 }, err);
	if (r < 0)
		return r;
	store->unchecked = unchecked;
	*ret = TAKE_PTR(store);
	return 0;
}

int store_create_dir(const char *path, struct store **ret, struct err *err)
{
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_sys(err, "%s: make directory", path);
	return open_dir(AT_FDCWD, path, ret, err);
}

void store_set_pages_follow(struct store *store)
{
	store->pages_follow = true;
}

bool store_pages_follow(const struct store *store)
{
	return store->pages_follow;
}

int store_open_dir(const char *path, struct store **ret, struct err *err)
{
	return open_read(AT_FDCWD, path, false, ret, err);
}

int store_open_unchecked(const char *path, struct store **ret, struct err *err)
{
	return open_read(AT_FDCWD, path, true, ret, err);
}

bool store_is_checked(const struct store *store)
{
	return !store->unchecked;
}

int store_open_beside(const struct store *store, const char *path, struct store **ret, struct err *err)
{
	return open_read(store->dirfd, path, store->unchecked, ret, err);
}

int store_open_parent(const struct store *store, struct store **ret, struct err *err)
{
	struct stat st;
	int r;

	if (fstatat(store->dirfd, "parent", &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(err, "parent: stat");
	r = open_read(store->dirfd, "parent", store->unchecked, ret, err);
	return r < 0 ? r : 1;
}

int store_parent(struct store *store, struct store **ret_parent, struct err *err)
{
	int r = store->parent ? 1 : store_open_parent(store, &store->parent, err);

	if (r > 0)
		*ret_parent = store->parent;
	return r;
}

int store_dirfd(const struct store *store)
{
	return store->dirfd;
}

static int by_kind_and_id(const void *a, const void *b)
{
	const struct store_name *x = a, *y = b;

	return x->kind != y->kind ? (x->kind < y->kind ? -1 : 1) : x->id < y->id ? -1 : x->id > y->id;
}

int store_list(const struct store *store, struct store_names *ret_names, struct err *err)
{
	own_fd fd = openat(store->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	own_dir *dir = fd < 0 ? NULL : fdopendir(fd);
	struct store_names names = { 0 };
	const struct dirent *entry;
	struct store_name n;

	if (!dir)
		return err_sys(err, "list the images");
	TAKE_FD(fd);
	while ((entry = readdir(dir)))
		if (image_parse_name(entry->d_name, &n.kind, &n.id))
			vec_push(&names, n);
	if (names.len > 1)
		qsort(names.at, names.len, sizeof(*names.at), by_kind_and_id);
	*ret_names = names;
	return 0;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	store_close(store->parent);
	own_fd_drop(&store->dirfd);
	vec_free(&store->sums);
	free(store);
}

int store_verify(const struct store *store, void (*broken)(void *arg, const struct err *why), void *arg,
		 unsigned int *ret_images, struct err *err)
{
	const struct checksums_report report = { broken, arg };

	return checksums_verify(store, &report, ret_images, err);
}

int store_seal(struct store *store, struct err *err)
{
	return checksums_write(store, err);
}

int store_create_file(struct store *store, enum image_kind kind, uint64_t id, int *ret_fd, struct err *err)
{
	char name[IMAGE_NAME_MAX];
	int fd;

	image_file_name(kind, id, name);
	fd = image_file_create(store->dirfd, name, err);
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return 0;
}

int store_name_file(struct store *store, enum image_kind kind, uint64_t id, int fd, struct err *err)
{
	char name[IMAGE_NAME_MAX], path[48];

	image_file_name(kind, id, name);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (unlinkat(store->dirfd, name, 0) < 0 && errno != ENOENT)
		return err_sys(err, "%s: replace", name);
	if (linkat(AT_FDCWD, path, store->dirfd, name, AT_SYMLINK_FOLLOW) < 0)
		return err_sys(err, "%s: create", name);
	return 0;
}

int store_open_file(const struct store *store, enum image_kind kind, uint64_t id, int *ret_fd, struct err *err)
{
	char name[IMAGE_NAME_MAX];
	uint64_t len_bytes;

	image_file_name(kind, id, name);
	return image_file_open(store->dirfd, name, ret_fd, &len_bytes, err);
}
