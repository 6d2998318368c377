/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "ferry-link.pb-c.h"
#include "image/link.h"
#include "image/store_impl.h"

#define CHAIN_MAX 1024u

int link_id_new(struct link_id *ret_id, struct err *err)
{
	return getrandom(ret_id->bytes, sizeof(ret_id->bytes), 0) == sizeof(ret_id->bytes) ? 0 : err_sys(err, "getrandom");
}

bool link_id_same(const struct link_id *a, const struct link_id *b)
{
	return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

static int take_id(const ProtobufCBinaryData *bytes, enum image_kind kind, struct link_id *ret_id, struct err *err)
{
	if (bytes->len != sizeof(ret_id->bytes))
		return err_set(err, EBADMSG, "%s: an id has %zu bytes", image_types[kind].file, bytes->len);
	memcpy(ret_id->bytes, bytes->data, sizeof(ret_id->bytes));
	return 0;
}

int link_read(const struct store *store, struct image_link *ret_link, struct err *err)
{
	own_message LinkEntry *e = NULL;
	struct image_link link = { 0 };
	int r = IMAGE_READ_ONE(store, IMAGE_FERRY_LINK, 0, link_entry, &e, err);

	if (r <= 0)
		return r;
	r = take_id(&e->id, IMAGE_FERRY_LINK, &link.id, err);
	if (r == 0 && e->has_parent_id)
		r = take_id(&e->parent_id, IMAGE_FERRY_LINK, &link.parent_id, err);
	if (r < 0)
		return r;
	link.has_parent_id = e->has_parent_id;
	link.memory_only = e->memory_only;
	link.root = e->root <= INT_MAX ? (pid_t)e->root : 0;
	link.start_ticks = e->start_ticks;
	snprintf(link.boot_id, sizeof(link.boot_id), "%s", e->boot_id ? e->boot_id : "");
	snprintf(link.tracker, sizeof(link.tracker), "%s", e->tracker ? e->tracker : "");
	*ret_link = link;
	return 1;
}

int link_write(struct store *store, const struct image_link *link, struct err *err)
{
	struct image_link copy = *link;         /* messages want what they could write to */
	LinkEntry e = LINK_ENTRY__INIT;

	e.id = (ProtobufCBinaryData){ sizeof(copy.id.bytes), copy.id.bytes };
	e.has_parent_id = copy.has_parent_id;
	e.parent_id = (ProtobufCBinaryData){ sizeof(copy.parent_id.bytes), copy.parent_id.bytes };
	e.has_memory_only = e.memory_only = copy.memory_only;
	e.has_root = e.has_start_ticks = copy.root != 0;
	e.root = (uint32_t)copy.root;
	e.start_ticks = copy.start_ticks;
	e.boot_id = copy.boot_id[0] ? copy.boot_id : NULL;
	e.tracker = copy.tracker[0] ? copy.tracker : NULL;
	return image_write_whole(store, IMAGE_FERRY_LINK, &e.base, err);
}

static int remove_one(struct store *store, const char *name, struct err *err)
{
	return unlinkat(store->dirfd, name, 0) < 0 && errno != ENOENT ? err_sys(err, "%s: remove", name) : 0;
}

/* Else the memory of a task that is no more would be taken for that of a new one with its pid. */
static int remove_memory(struct store *store, struct err *err)
{
	struct store_names names = { 0 };
	int r = store_list(store, &names, err);

	for (size_t i = 0; r == 0 && i < names.len; i++) {
		const struct store_name *n = &names.at[i];
		char name[IMAGE_NAME_MAX];

		image_file_name(n->kind, n->id, name);
		if (image_is_pagemap(n->kind) || n->kind == IMAGE_PAGES ||
		    n->kind == IMAGE_FERRY_PAGESUMS || n->kind == IMAGE_FERRY_SENT || n->kind == IMAGE_FERRY_SENT_SHMEM)
			r = remove_one(store, name, err);
	}
	vec_free(&names);
	return r;
}

int link_clear(struct store *store, struct err *err)
{
	/* without the first nobody restores it, without the second nobody reads through it: they go before all else */
	const char *const names[] = {
		image_types[IMAGE_INVENTORY].file, image_types[IMAGE_FERRY_LINK].file, LINK_PARENT,
		image_types[IMAGE_FERRY_REPLACED].file, image_types[IMAGE_FERRY_CHECKSUMS].file,
	};
	struct stat st;
	int r = 0;

	if (fstatat(store->dirfd, LINK_PARENT, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISLNK(st.st_mode))
		return err_set(err, EEXIST, LINK_PARENT ": is not a link, and in the way of one");
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(names); i++)
		r = remove_one(store, names[i], err);
	return r < 0 ? r : remove_memory(store, err);
}

static bool has_images(int at, const char *path)
{
	own_fd dir = openat(at, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	return dir >= 0 && fstatat(dir, image_types[IMAGE_INVENTORY].file, &st, 0) == 0;
}

/* From the directory `from` to the directory `to`, both absolute and without links: "../b". */
static void relative_path(const char *from, const char *to, char *ret, size_t size)
{
	size_t same = 0, n = 0;

	for (size_t i = 0;; i++) {
		bool end_from = from[i] == '/' || from[i] == 0, end_to = to[i] == '/' || to[i] == 0;

		if (end_from && end_to)
			same = i;
		if (from[i] != to[i] || from[i] == 0)
			break;
	}
	for (const char *p = from + same; *p; p++)
		if (p[0] == '/' && p[1] && n + 4 < size)
			n += (size_t)snprintf(ret + n, size - n, "../");
	while (to[same] == '/')
		same++;
	if (to[same] || n == 0)
		snprintf(ret + n, size - n, "%s", to[same] ? to + same : ".");
	else
		ret[n - 1] = 0;
}

/* The relative form of what the user named from where he stands. */
static int path_from_here(const struct store *store, const char *path, char *ret, size_t size)
{
	own_free char *to = realpath(path, NULL);
	own_free char *from = NULL;
	char self[48];

	if (!to)
		return -errno;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", store->dirfd);
	from = realpath(self, NULL);
	if (!from)
		return -errno;
	relative_path(from, to, ret, size);
	return 0;
}

static int refuse_path(const struct store *store, const char *path, struct err *err)
{
	char better[PATH_MAX];

	if (path_from_here(store, path, better, sizeof(better)) == 0 && has_images(store->dirfd, better))
		return err_set(err, ENOENT, "no images in %s, which is relative to the images' directory: is it %s?", path, better);
	return err_set(err, ENOENT, "no images in %s (it is relative to the images' directory)", path);
}

static bool is_same_dir(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* *ret_relative (PATH_MAX bytes): what `parent` has to say. */
static int find_parent(const struct store *store, const char *path, bool pages_alone, char *ret_relative, struct err *err)
{
	struct stat own, up, cow;

	snprintf(ret_relative, PATH_MAX, "%s", path);
	if (path[0] == '/' && path_from_here(store, path, ret_relative, PATH_MAX) < 0)
		return err_sys(err, "%s", path);
	if (!pages_alone && !has_images(store->dirfd, ret_relative))
		return refuse_path(store, path, err);
	if (fstat(store->dirfd, &own) < 0 || fstatat(store->dirfd, ret_relative, &up, 0) < 0)
		return err_sys(err, "%s", path);
	if (is_same_dir(&own, &up))
		return err_set(err, EINVAL, "%s is the images' directory itself: a dump can't be its own parent", path);
	if (fstatat(store->dirfd, COW_DIR, &cow, 0) == 0 && is_same_dir(&cow, &up))
		return err_set(err, EINVAL, "%s is where ferry puts the pages that tasks share: give it another name", path);
	return 0;
}

static int set_parent(struct store *store, const char *path, bool pages_alone, struct err *err)
{
	char relative[PATH_MAX];
	int r = find_parent(store, path, pages_alone, relative, err);

	if (r < 0)
		return r;
	if (symlinkat(relative, store->dirfd, LINK_PARENT) < 0)
		return err_sys(err, "link " LINK_PARENT " to %s", relative);
	return 0;
}

int link_set_parent(struct store *store, const char *path, struct err *err)
{
	return set_parent(store, path, false, err);
}

int link_set_parent_of_pages(struct store *store, const char *path, struct err *err)
{
	return set_parent(store, path, true, err);
}

/* Nobody: an id of no link. */
static int set_replaced(struct store *store, const struct link_id *by, bool consumed, struct err *err)
{
	ReplacedEntry e = REPLACED_ENTRY__INIT;
	struct link_id id;
	int r = 0;

	if (by)
		id = *by;
	else
		r = link_id_new(&id, err);
	if (r < 0)
		return r;
	e.by_id = (ProtobufCBinaryData){ sizeof(id.bytes), id.bytes };
	e.has_consumed = e.consumed = consumed;
	e.has_by_next = e.by_next = !by && !consumed;
	return image_replace_one(store->dirfd, IMAGE_FERRY_REPLACED, &e.base, err);
}

int link_set_replaced(struct store *store, const struct link_id *by, struct err *err)
{
	return set_replaced(store, by, false, err);
}

int link_set_replaced_by_next(struct store *store, struct err *err)
{
	return set_replaced(store, NULL, false, err);
}

int link_set_consumed(struct store *store, struct err *err)
{
	return set_replaced(store, NULL, true, err);
}

struct replaced { struct link_id by; bool consumed, by_next; };

static int read_replaced(const struct store *store, struct replaced *ret, struct err *err)
{
	own_message ReplacedEntry *e = NULL;
	int r = IMAGE_READ_ONE(store, IMAGE_FERRY_REPLACED, 0, replaced_entry, &e, err);

	if (r <= 0)
		return r;
	ret->consumed = e->has_consumed && e->consumed;
	ret->by_next = e->has_by_next && e->by_next;
	r = take_id(&e->by_id, IMAGE_FERRY_REPLACED, &ret->by, err);
	return r < 0 ? r : 1;
}

int link_replaced_by(const struct store *store, struct link_id *ret_by, struct err *err)
{
	struct replaced replaced;
	int r = read_replaced(store, &replaced, err);

	if (r > 0)
		*ret_by = replaced.by;
	return r;
}

struct chain {
	const struct chain *newer;
	struct store *store;
	struct image_link link;
	bool has_link;
	const struct link_id *wanted;           /* the parent's id; NULL: anybody's */
};

bool link_leads_to_own_pages(const struct store *store)
{
	char to[sizeof(COW_DIR) + 1];
	ssize_t n = readlinkat(store->dirfd, LINK_PARENT, to, sizeof(to));

	return n == sizeof(COW_DIR) - 1 && memcmp(to, COW_DIR, sizeof(COW_DIR) - 1) == 0;
}

/* A directory that gave up pages is read through the link that has them. */
static int check_replaced(const struct chain *c, struct err *err)
{
	struct replaced replaced;
	int r = read_replaced(c->store, &replaced, err);

	if (r <= 0 || (replaced.by_next && c->newer))
		return r < 0 ? r : 0;
	if (replaced.consumed)
		return err_set(err, EBADMSG, "its pages were given up when it was restored (--auto-dedup): they are nowhere else");
	for (const struct chain *n = c->newer; n; n = n->newer)
		if (n->has_link && link_id_same(&n->link.id, &replaced.by))
			return 0;
	return err_set(err, EBADMSG, "its older pages were given up for a newer dump (deduplication): restore that one");
}

static int check_parent(const struct chain *c, const struct chain *up, struct err *err)
{
	unsigned int links = 0;
	struct stat a, b;

	if (fstat(up->store->dirfd, &a) < 0)
		return err_sys(err, LINK_PARENT ": stat");
	for (const struct chain *n = c; n; n = n->newer) {
		if (fstat(n->store->dirfd, &b) < 0)
			return err_sys(err, LINK_PARENT ": stat");
		if ((a.st_dev == b.st_dev && a.st_ino == b.st_ino) || ++links > CHAIN_MAX)
			return err_set(err, ELOOP, "the chain of parent directories does not end");
	}
	if (c->wanted && !up->wanted && (!up->has_link || !link_id_same(&up->link.id, c->wanted)))
		return err_set(err, EBADMSG, "the chain is broken: its parent directory is not the one that it was made on");
	return 0;
}

static int check_from(struct chain *c, struct err *err)
{
	struct chain up = { .newer = c };
	int r = check_replaced(c, err);

	if (r < 0)
		return r;
	if (c->has_link && c->link.has_parent_id)
		c->wanted = &c->link.parent_id;
	r = store_parent(c->store, &up.store, err);
	if (r == 0 && c->wanted)
		return err_set(err, ENOENT, "the chain is broken: its parent directory is missing");
	if (r <= 0)
		return r;
	r = link_read(up.store, &up.link, err);
	up.has_link = r > 0;
	if (r == 0 && link_leads_to_own_pages(c->store))
		up.wanted = c->wanted;
	if (r >= 0)
		r = check_parent(c, &up, err);
	return r < 0 ? r : check_from(&up, err);
}

int link_open_parent(struct store *store, const char *path, struct store **ret_parent, struct err *err)
{
	struct chain c = { .store = store }, up = { .newer = &c };
	own_store *parent = NULL;
	char relative[PATH_MAX];
	int r = find_parent(store, path, false, relative, err);

	if (r == 0)
		r = store_open_beside(store, relative, &parent, err);
	if (r < 0)
		return r;
	up.store = parent;
	r = link_read(parent, &up.link, err);
	up.has_link = r > 0;
	if (r >= 0)
		r = check_from(&up, err);
	if (r < 0)
		return r;
	*ret_parent = TAKE_PTR(parent);
	return 0;
}

/* Images without pages are restored as programs without memory. */
static int check_pages_are_here(const struct store *store, struct err *err)
{
	struct store_names names = { 0 };
	int r = store_list(store, &names, err);

	for (size_t i = 0; r == 0 && i < names.len; i++) {
		bool task = names.at[i].kind == IMAGE_FERRY_SENT;
		char name[IMAGE_NAME_MAX];

		if (!task && names.at[i].kind != IMAGE_FERRY_SENT_SHMEM)
			continue;
		image_file_name(task ? IMAGE_PAGEMAP : IMAGE_PAGEMAP_SHMEM, names.at[i].id, name);
		if (faccessat(store->dirfd, name, F_OK, 0) < 0)
			r = err_set(err, ENOENT, "%s: its pages went to a page server: put these images beside them", name);
	}
	vec_free(&names);
	return r;
}

int link_check_chain(struct store *store, struct err *err)
{
	struct chain c = { .store = store };
	int r = link_read(store, &c.link, err);

	if (r < 0)
		return r;
	c.has_link = r > 0;
	r = check_pages_are_here(store, err);
	return r < 0 ? r : check_from(&c, err);
}
