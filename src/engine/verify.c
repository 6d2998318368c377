/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/own.h"
#include "engine/verify.h"
#include "image/link.h"
#include "page/ends.h"
#include "page/puncher.h"

#define THREADS 2u

struct verified_dir {
	struct store *store;            /* of the first; the others are its parents */
	char path[PATH_MAX];
	bool may_have_given_up;
};

struct verified_file { dev_t dev; ino_t ino; };

struct verify {
	const struct verify_report *report;
	struct verify_result result;
	struct progress_meter meter;
	VEC(struct verified_dir) dirs;          /* newest first */
	VEC(struct verified_file) files;        /* a file has names in several of them */
	size_t now;                             /* index in dirs */
	struct puncher needs;                   /* of the newest */
};

static void broken(struct verify *v, const char *what)
{
	v->result.broken++;
	v->report->broken(v->report->arg, v->dirs.at[v->now].path, what);
}

static void unchecked(struct verify *v, const char *what)
{
	v->result.unchecked++;
	v->report->unchecked(v->report->arg, v->dirs.at[v->now].path, what);
}

/* ---- directories ---- */

static bool is_known(const struct verify *v, const struct store *store)
{
	struct stat a, b;

	for (size_t i = 0; i < v->dirs.len; i++)
		if (fstat(store_dirfd(store), &a) < 0 || fstat(store_dirfd(v->dirs.at[i].store), &b) < 0 ||
		    (a.st_dev == b.st_dev && a.st_ino == b.st_ino))
			return true;
	return false;
}

static bool has(const struct store *store, enum image_kind kind)
{
	struct stat st;

	return fstatat(store_dirfd(store), image_types[kind].file, &st, 0) == 0;
}

/*
 * By its mark.  A directory of pages that tasks share has its owner's, and under a newest link without an id (CRIU's)
 * nobody is marked.
 */
static bool may_have_given_up(const struct verify *v, const struct store *store)
{
	struct link_id by;

	if (link_replaced_by(store, &by, &(struct err){ 0 }) > 0)
		return true;
	if (!has(store, IMAGE_INVENTORY) && !has(store, IMAGE_FERRY_LINK))
		return v->dirs.at[v->dirs.len - 1].may_have_given_up;
	return !has(v->dirs.at[0].store, IMAGE_FERRY_LINK);
}

static void add_dir(struct verify *v, struct store *store, const char *path)
{
	struct verified_dir *d;
	bool given_up = v->dirs.len > 0 && may_have_given_up(v, store);
	char fd_path[48];

	d = vec_add(&v->dirs);
	d->store = store;
	d->may_have_given_up = given_up;
	snprintf(fd_path, sizeof(fd_path), "/proc/self/fd/%d", store_dirfd(store));
	if (path)
		snprintf(d->path, sizeof(d->path), "%s", path);
	else if (readlink(fd_path, d->path, sizeof(d->path) - 1) < 0)
		snprintf(d->path, sizeof(d->path), LINK_PARENT);
	v->result.links += has(store, IMAGE_INVENTORY);
}

/* As far as they lead; why no further is told. */
static void find_dirs(struct verify *v, struct store *store, const char *path)
{
	struct store *up = NULL;
	struct err err;
	bool whole;
	int r;

	add_dir(v, store, path);
	whole = link_check_chain(store, &err) == 0;
	if (!whole)
		broken(v, err.text);
	while ((r = store_parent(v->dirs.at[v->dirs.len - 1].store, &up, &err)) > 0 && !is_known(v, up))
		add_dir(v, up, NULL);
	if (r < 0 && whole)
		broken(v, err.text);
}

/* ---- images ---- */

static void broken_image(void *arg, const struct err *why)
{
	broken(arg, why->text);
}

static void verify_images(struct verify *v)
{
	const struct verified_dir *d = &v->dirs.at[v->now];
	struct err err;
	unsigned int images = 0;
	int r = store_verify(d->store, broken_image, v, &images, &err);

	v->result.images += images;
	if (r < 0)
		broken(v, err.text);
	if (r == 0)
		unchecked(v, "its images have no checksums");
}

/* ---- pages ---- */

/* A sink that compares. */
struct comparer {
	struct page_sink base;
	struct verify *verify;
	const struct page_sums *sums;
	struct stat file;
	pthread_mutex_t lock;           /* what follows, and the counts of the result */
	uint64_t bad, first_bad;        /* pages */
};

static int place(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err)
{
	(void)sink, (void)err;
	*ret_to = run->start;
	return 0;
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, PAGE_BYTES - 1) == 0;
}

static void found_other(struct comparer *c, uint64_t page, const uint8_t *bytes)
{
	struct verify *v = c->verify;
	bool given_up = v->dirs.at[v->now].may_have_given_up && is_zero(bytes) &&
			!puncher_needs(&v->needs, c->file.st_dev, c->file.st_ino, page * PAGE_BYTES);

	pthread_mutex_lock(&c->lock);
	if (given_up)
		v->result.given_up++;
	else if (c->bad++ == 0 || page < c->first_bad)
		c->first_bad = page;
	pthread_mutex_unlock(&c->lock);
}

static int put(struct page_sink *sink, const struct page_run *run, uint64_t to, const void *bytes, struct err *err)
{
	struct comparer *c = (struct comparer *)sink;
	uint64_t first = to / PAGE_BYTES, bad;

	for (uint64_t done = 0; done < run->pages; done += bad + 1) {
		const uint8_t *at = (const uint8_t *)bytes + done * PAGE_BYTES;
		int r = page_sums_check(c->sums, first + done, at, run->pages - done, &bad, err);

		if (r != 0)
			return r < 0 ? r : 0;
		found_other(c, first + done + bad, at + bad * PAGE_BYTES);
	}
	return 0;
}

static void tell_pages(const struct comparer *c, uint64_t id)
{
	char what[200], more[64] = "";

	if (c->bad == 0)
		return;
	if (c->bad > 1)
		snprintf(more, sizeof(more), ", nor do %llu more", (unsigned long long)c->bad - 1);
	snprintf(what, sizeof(what), "pages-%llu.img: the page at offset %llu does not match its checksum%s",
		 (unsigned long long)id, (unsigned long long)c->first_bad * PAGE_BYTES, more);
	broken(c->verify, what);
}

static void compare_pages(struct verify *v, int fd, uint64_t id, const struct stat *st, const struct page_sums *sums)
{
	static const struct page_sink_ops ops = { .place = place, .put = put };
	struct comparer sink = { .base = { &ops }, .verify = v, .sums = sums, .file = *st, .lock = PTHREAD_MUTEX_INITIALIZER };
	struct page_count count = { .meter = &v->meter };
	struct page_runs plan = { 0 };
	struct source_file src;
	struct err err;

	if (sums->pages == 0)
		return;
	vec_push(&plan, ((struct page_run){ .pages = sums->pages, .where = PAGE_HERE }));
	source_file_init(&src, fd, &plan);
	if (page_pump(&src.base, &sink.base, THREADS, &count, &err) < 0) {
		char what[sizeof(err.text) + 40];

		snprintf(what, sizeof(what), "pages-%llu.img: %s", (unsigned long long)id, err.text);
		broken(v, what);
	}
	tell_pages(&sink, id);
	v->result.pages += count.here;
	vec_free(&plan);
}

static bool is_new(struct verify *v, const struct stat *st)
{
	for (size_t i = 0; i < v->files.len; i++)
		if (v->files.at[i].dev == st->st_dev && v->files.at[i].ino == st->st_ino)
			return false;
	vec_push(&v->files, ((struct verified_file){ st->st_dev, st->st_ino }));
	return true;
}

static void verify_file(struct verify *v, uint64_t id)
{
	const struct store *store = v->dirs.at[v->now].store;
	struct page_sums sums = PAGE_SUMS_NONE;
	own_fd fd = -1;
	struct stat st;
	struct err err;
	char what[64];
	int r = store_open_file(store, IMAGE_PAGES, id, &fd, &err);

	if (r == 0)
		r = err_set(&err, ENOENT, "pages-%llu.img: is missing", (unsigned long long)id);
	if (r > 0 && fstat(fd, &st) < 0)
		r = err_sys(&err, "pages-%llu.img: stat", (unsigned long long)id);
	if (r > 0 && !is_new(v, &st))
		return;
	if (r > 0)
		r = page_sums_open(store, id, (uint64_t)st.st_size, &sums, &err);
	if (r < 0)
		broken(v, err.text);
	snprintf(what, sizeof(what), "pages-%llu.img: has no checksums", (unsigned long long)id);
	if (r == 0 && st.st_size > 0)
		unchecked(v, what);
	if (r > 0)
		compare_pages(v, fd, id, &st, &sums);
	page_sums_close(&sums);
}

static bool has_pages(const struct store_names *names, uint64_t id)
{
	for (size_t i = 0; i < names->len; i++)
		if (names->at[i].kind == IMAGE_PAGES && names->at[i].id == id)
			return true;
	return false;
}

static void verify_pages(struct verify *v)
{
	struct store_names names = { 0 };
	struct err err;

	if (store_list(v->dirs.at[v->now].store, &names, &err) < 0)
		broken(v, err.text);
	for (size_t i = 0; i < names.len; i++)
		if (names.at[i].kind == IMAGE_PAGES ||
		    (names.at[i].kind == IMAGE_FERRY_PAGESUMS && !has_pages(&names, names.at[i].id)))
			verify_file(v, names.at[i].id);
	vec_free(&names);
}

/* ---- all of it ---- */

static void broken_map(struct verify *v, const struct store_name *name, const struct err *why)
{
	char what[sizeof(why->text) + 64];

	snprintf(what, sizeof(what), "%s %llu: %s", name->kind == IMAGE_PAGEMAP ? "task" : "shared memory",
		 (unsigned long long)name->id, why->text);
	broken(v, what);
}

/* What the newest reads of whom: all pages are there. */
static int find_needs(struct verify *v, struct err *err)
{
	struct store *newest = v->dirs.at[0].store;
	struct store_names names = { 0 };
	int r = store_list(newest, &names, err);

	if (r == 0 && names.len == 0)
		r = err_set(err, ENOENT, "no images in %s", v->dirs.at[0].path);
	for (size_t i = 0; r == 0 && i < names.len; i++) {
		struct page_map map = { 0 };
		struct err why;

		if (!image_is_pagemap(names.at[i].kind))
			continue;
		if (page_map_load(newest, names.at[i].kind, names.at[i].id, &map, &why) < 0)
			broken_map(v, &names.at[i], &why);
		puncher_need(&v->needs, &map);
		page_map_free(&map);
	}
	vec_free(&names);
	puncher_sort(&v->needs);
	return r;
}

/* For the progress alone: files with several names count for each. */
static uint64_t count_pages(const struct verify *v)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < v->dirs.len; i++) {
		struct store_names names = { 0 };
		char name[IMAGE_NAME_MAX];
		struct stat st;

		(void)store_list(v->dirs.at[i].store, &names, &(struct err){ 0 });
		for (size_t k = 0; k < names.len; k++) {
			image_file_name(names.at[k].kind, names.at[k].id, name);
			if (names.at[k].kind == IMAGE_PAGES && fstatat(store_dirfd(v->dirs.at[i].store), name, &st, 0) == 0)
				pages += (uint64_t)st.st_size / PAGE_BYTES;
		}
		vec_free(&names);
	}
	return pages;
}

int verify_dir(const char *dir, const struct verify_report *report, const struct progress *progress,
	       struct verify_result *ret_result, struct err *err)
{
	struct verify v = { .report = report, .meter.to = progress };
	own_store *store = NULL;
	int r = store_open_unchecked(dir, &store, err);

	if (r < 0)
		return r;
	find_dirs(&v, store, dir);
	r = find_needs(&v, err);
	v.meter.total = r == 0 && progress ? count_pages(&v) : 0;
	for (v.now = 0; r == 0 && v.now < v.dirs.len; v.now++) {
		verify_images(&v);
		verify_pages(&v);
	}
	vec_free(&v.dirs);
	vec_free(&v.files);
	puncher_free(&v.needs);
	*ret_result = v.result;
	return r;
}
