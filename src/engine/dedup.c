/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/dedup.h"
#include "image/link.h"
#include "page/puncher.h"

/* A pages file of the chain, once whatever names it has; the newest directory that names it counts as its place. */
struct pages_file {
	dev_t dev;
	ino_t ino;
	size_t link;                    /* index in links */
	uint64_t id;
	nlink_t names, known_names;     /* on the file system; in this chain */
};

struct dedup {
	VEC(struct store *) links;      /* newest first; owned by the first */
	VEC(struct pages_file) files;
	struct puncher puncher;
	struct image_link newest;
	bool has_id, consume;           /* consume: the newest as well */
	bool unnamed;                   /* the newest will have an id, but has none yet */
	struct dedup_result result;
};

/* ---- looking ---- */

/* Links are followed by whoever reads; what is punched is a file of this very directory. */
static int open_pages(const struct store *store, uint64_t id, int flags, int *ret_fd, struct err *err)
{
	char name[IMAGE_NAME_MAX];
	struct stat st;
	own_fd fd = -1;

	image_file_name(IMAGE_PAGES, id, name);
	fd = openat(store_dirfd(store), name, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 && errno == ELOOP)
		return 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "%s: open", name);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EBADMSG, "%s: not a regular file", name);
	*ret_fd = TAKE_FD(fd);
	return 1;
}

static int find_files(struct dedup *d, size_t link, struct err *err)
{
	struct store_names names = { 0 };
	int r = store_list(d->links.at[link], &names, err);

	for (size_t i = 0; r >= 0 && i < names.len; i++) {
		own_fd fd = -1;
		struct stat st;

		if (names.at[i].kind != IMAGE_PAGES)
			continue;
		r = open_pages(d->links.at[link], names.at[i].id, O_RDONLY, &fd, err);
		if (r > 0 && fstat(fd, &st) == 0)
			vec_push(&d->files, ((struct pages_file){ st.st_dev, st.st_ino, link, names.at[i].id, st.st_nlink, 1 }));
	}
	vec_free(&names);
	return r < 0 ? r : 0;
}

static int by_inode(const void *a, const void *b)
{
	const struct pages_file *x = a, *y = b;

	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x->link < y->link ? -1 : x->link > y->link;
}

static void join_names(struct dedup *d)
{
	size_t n = 0;

	if (d->files.len > 1)
		qsort(d->files.at, d->files.len, sizeof(*d->files.at), by_inode);
	for (size_t i = 0; i < d->files.len; i++) {
		struct pages_file *last = n > 0 ? &d->files.at[n - 1] : NULL;

		if (last && last->dev == d->files.at[i].dev && last->ino == d->files.at[i].ino)
			last->known_names++;
		else
			d->files.at[n++] = d->files.at[i];
	}
	d->files.len = n;
}

/* Whoever else gives up pages of a link of this chain at the same time would mark it for another. */
static int lock(const struct store *store, struct err *err)
{
	if (flock(store_dirfd(store), LOCK_EX | LOCK_NB) == 0)
		return 0;
	return errno == EWOULDBLOCK ? err_set(err, EBUSY, "somebody deduplicates this chain just now") : err_sys(err, "lock");
}

static int find_links(struct dedup *d, struct err *err)
{
	struct store *at = d->links.at[0];
	int r = lock(at, err);

	if (r == 0)
		r = link_check_chain(at, err);
	while (r == 0 && (r = store_parent(at, &at, err)) > 0) {
		vec_push(&d->links, at);
		r = lock(at, err);
	}
	if (r == 0)
		r = link_check_chain(d->links.at[0], err);
	if (r == 0)
		r = link_read(d->links.at[0], &d->newest, err);
	d->has_id = r > 0;
	d->result.links = (unsigned int)d->links.len - 1;
	return r < 0 ? r : 0;
}

static int find_needed(struct dedup *d, struct err *err)
{
	struct store_names names = { 0 };
	int r = store_list(d->links.at[0], &names, err);

	for (size_t i = 0; r >= 0 && i < names.len; i++) {
		struct page_map map = { 0 };

		if (!image_is_pagemap(names.at[i].kind))
			continue;
		LOG_SCOPE("%s %llu", names.at[i].kind == IMAGE_PAGEMAP ? "task" : "shared memory",
			  (unsigned long long)names.at[i].id);
		r = page_map_load(d->links.at[0], names.at[i].kind, names.at[i].id, &map, err);
		if (r > 0)
			puncher_need(&d->puncher, &map);
		page_map_free(&map);
	}
	vec_free(&names);
	puncher_sort(&d->puncher);
	return r < 0 ? r : 0;
}

/* ---- giving up ---- */

static bool is_shared_outside(const struct pages_file *f)
{
	if (f->names <= f->known_names)
		return false;
	log_warn("pages-%llu.img has another name outside of this chain: left as it is", (unsigned long long)f->id);
	return true;
}

/* Data in the files of one link that goes; those that stay as they are get out of the list. */
static int look(struct dedup *d, size_t link, uint64_t *ret_bytes, struct err *err)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < d->files.len; i++) {
		struct pages_file *f = &d->files.at[i];
		own_fd fd = -1;
		uint64_t n = 0;
		int r;

		if (f->link != link)
			continue;
		r = open_pages(d->links.at[link], f->id, O_RDWR, &fd, err);
		if (r > 0)
			r = puncher_look(&d->puncher, fd, &n, err);
		if (r == 0 && n > 0 && is_shared_outside(f))
			n = 0;
		if (r == 0 && n > 0)
			r = puncher_try(fd, err);
		if (r < 0)
			return r;
		if (n == 0)
			f->link = SIZE_MAX;
		bytes += n;
	}
	*ret_bytes = bytes;
	return 0;
}

static int punch(struct dedup *d, size_t link, struct err *err)
{
	for (size_t i = 0; i < d->files.len; i++) {
		const struct pages_file *f = &d->files.at[i];
		own_fd fd = -1;
		int r;

		if (f->link != link)
			continue;
		r = open_pages(d->links.at[link], f->id, O_RDWR, &fd, err);
		if (r > 0)
			r = puncher_punch(&d->puncher, fd, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int mark(struct dedup *d, size_t link, bool has_data, struct err *err)
{
	struct store *store = d->links.at[link];
	struct image_link own;
	struct link_id by;
	bool named = !d->unnamed && !has_data;
	int r = named ? link_read(store, &own, err) : link > 0 && link_leads_to_own_pages(d->links.at[link - 1]) ? has_data : 1;

	/* a directory of pages that its owner shares (COW_DIR) is no link, and a mark in it would outlive the owner's */
	if (r <= 0)
		return r;
	r = 0;
	if (d->consume) {
		r = link_set_consumed(store, err);
	} else if (d->unnamed) {
		r = link_set_replaced_by_next(store, err);
	} else if (d->has_id) {
		r = link_replaced_by(store, &by, err);
		if (r == 0 || (r > 0 && !link_id_same(&by, &d->newest.id)))
			r = link_set_replaced(store, &d->newest.id, err);
	}
	d->result.marked++;
	return r < 0 ? r : 0;
}

/* Pages that nobody has any more must not be in the memory of this machine alone where their successors are. */
static int settle(const struct dedup *d, struct err *err)
{
	for (size_t i = 0; i < d->links.len; i++)
		if (syncfs(store_dirfd(d->links.at[i])) < 0)
			return err_sys(err, "write out the images");
	return 0;
}

/* From the oldest link on: whoever is read through one that gave up something is marked with it. */
static int give_up(struct dedup *d, size_t newest, struct err *err)
{
	bool lost = false;
	int r = 0;

	for (size_t i = d->links.len; r == 0 && i-- > newest;) {
		uint64_t bytes = 0;

		LOG_SCOPE("link %zu of the chain", i);
		r = look(d, i, &bytes, err);
		if (r == 0 && bytes > 0 && !lost) {
			lost = true;
			r = settle(d, err);
			if (r == 0 && !d->has_id && !d->consume && !d->unnamed && newest > 0)
				log_warn("no id in the newest directory (it is CRIU's): the older ones can't be restored any more, "
					 "and nothing will say so");
		}
		if (r == 0 && lost)
			r = mark(d, i, bytes > 0, err);
		if (r == 0)
			r = punch(d, i, err);
		d->result.pages += bytes / PAGE_BYTES;
	}
	return r;
}

static int run(struct dedup *d, struct err *err)
{
	int r = find_links(d, err);

	for (size_t i = 0; r == 0 && i < d->links.len; i++)
		r = find_files(d, i, err);
	join_names(d);
	if (r == 0 && !d->consume)
		r = find_needed(d, err);
	return r < 0 ? r : give_up(d, d->consume ? 0 : 1, err);
}

static int dedup(struct dedup *d, struct store *newest, struct dedup_result *ret, struct err *err)
{
	int r;

	vec_push(&d->links, newest);
	r = run(d, err);
	vec_free(&d->links);
	vec_free(&d->files);
	puncher_free(&d->puncher);
	if (r == 0)
		*ret = d->result;
	return r;
}

static int dedup_dir(struct dedup *d, const char *dir, struct dedup_result *ret, struct err *err)
{
	own_store *store = NULL;
	int r = store_open_dir(dir, &store, err);

	return r < 0 ? r : dedup(d, store, ret, err);
}

int dedup_chain(const char *dir, struct dedup_result *ret, struct err *err)
{
	LOG_SCOPE("dedup");
	return dedup_dir(&(struct dedup){ 0 }, dir, ret, err);
}

int dedup_consume(const char *dir, struct dedup_result *ret, struct err *err)
{
	LOG_SCOPE("auto-dedup");
	return dedup_dir(&(struct dedup){ .consume = true }, dir, ret, err);
}

int dedup_pages(struct store *newest, struct dedup_result *ret, struct err *err)
{
	LOG_SCOPE("auto-dedup");
	return dedup(&(struct dedup){ .unnamed = true }, newest, ret, err);
}
