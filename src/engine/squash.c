/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/load.h"
#include "engine/new_dir.h"
#include "engine/squash.h"
#include "engine/squash_pages.h"
#include "engine/stream_out.h"
#include "image/link.h"

#define COPY_BYTES     65536u
#define STREAM_THREADS 2u

struct squash {
	const char *dir;
	struct store *from, *to;        /* to: somebody else's */
	struct squash_pages pages;
	struct squash_result result;
};

/* ---- images ---- */

static int copy_image(struct squash *s, const struct store_name *name, struct err *err)
{
	own_free uint8_t *buf = malloc(COPY_BYTES);
	own_reader *reader = NULL;
	own_writer *w = NULL;
	uint64_t left;
	int r = image_open(s->from, name->kind, name->id, &reader, err);

	if (r <= 0 || !buf)
		return r < 0 ? r : err_set(err, ENOENT, "%s: is gone", image_types[name->kind].file);
	r = image_create(s->to, name->kind, name->id, &w, err);
	while (r == 0 && (left = image_left(reader)) > 0) {
		size_t n = left < COPY_BYTES ? (size_t)left : COPY_BYTES;

		r = image_get_raw(reader, buf, n, err);
		if (r == 0)
			r = image_put_raw(w, buf, n, err);
	}
	return r < 0 ? r : image_finish(&w, err);
}

static bool is_copied(enum image_kind kind)
{
	return !image_is_pagemap(kind) && kind != IMAGE_PAGES && kind != IMAGE_STATS_RESTORE &&
	       kind != IMAGE_FERRY_CHECKSUMS && kind != IMAGE_FERRY_LINK && kind != IMAGE_FERRY_REPLACED &&
	       kind != IMAGE_FERRY_PAGESUMS;
}

/* The inventory comes last: without it this is no dump. */
static int copy_images(struct squash *s, struct err *err)
{
	struct store_names names = { 0 };
	int r = store_list(s->from, &names, err);

	for (size_t i = names.len; r == 0 && i-- > 0;)
		if (is_copied(names.at[i].kind))
			r = copy_image(s, &names.at[i], err);
	vec_free(&names);
	return r;
}

/* The same program at the same moment, but no changes were found against this directory: nobody tracks them from it. */
static int put_link(struct squash *s, struct err *err)
{
	struct image_link link = { 0 };
	int r = link_read(s->from, &link, err);

	if (r < 0)
		return r;
	if (link.has_parent_id || r == 0)
		r = link_id_new(&link.id, err);
	link.has_parent_id = false;
	link.tracker[0] = 0;
	return r < 0 ? r : link_write(s->to, &link, err);
}

/* ---- all of it ---- */

static int count_links(struct store *from, unsigned int *ret_links, struct err *err)
{
	unsigned int links = 0;
	struct store *at = from;
	int r;

	do {
		own_fd fd = -1;

		/* pages that the tasks of one directory share are a directory of their own, and no link */
		r = store_open_file(at, IMAGE_INVENTORY, 0, &fd, err);
		if (r == 0 && at == from)
			return err_set(err, ENOENT, "inventory.img is missing: there is no (whole) dump to squash");
		links += r > 0;
	} while (r >= 0 && (r = store_parent(at, &at, err)) > 0);
	*ret_links = links;
	return r;
}

static int write_out(struct squash *s, struct err *err)
{
	int r = squash_pages_move(&s->pages, err);

	if (r == 0)
		r = put_link(s, err);
	if (r == 0)
		r = copy_images(s, err);
	if (r == 0)
		r = store_seal(s->to, err);
	return r < 0 ? r : squash_pages_stopped(&s->pages, err);
}

static int begin(struct squash *s, struct err *err)
{
	int r = store_open_dir(s->dir, &s->from, err);

	if (r == 0)
		r = link_check_chain(s->from, err);
	if (r == 0)
		r = count_links(s->from, &s->result.links, err);
	s->pages.from = s->from;
	return r < 0 ? r : squash_pages_begin(&s->pages, err);
}

static int end(struct squash *s, int r, struct squash_result *ret)
{
	s->result.pages = s->pages.pages;
	s->result.shared_pages = s->pages.shared_pages;
	squash_pages_free(&s->pages);
	store_close(s->from);
	if (r == 0)
		*ret = s->result;
	return r;
}

static int into_dir(struct squash *s, const char *out, struct err *err)
{
	struct new_dir dir;
	int r = new_dir_make(&dir, out, err);

	if (r < 0)
		return r;
	s->to = s->pages.cow.store = dir.store;
	r = write_out(s, err);
	if (r < 0)
		new_dir_remove(&dir);
	new_dir_close(&dir);
	return r;
}

int squash_chain(const char *dir, const char *out, const struct progress *progress, struct squash_result *ret,
		 struct err *err)
{
	struct squash s = { .dir = dir, .pages.meter.to = progress };
	static const int stops[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	sigset_t before;
	int r;

	sigemptyset(&s.pages.stop_on);
	for (size_t i = 0; i < ARRAY_LEN(stops); i++)
		sigaddset(&s.pages.stop_on, stops[i]);
	pthread_sigmask(SIG_BLOCK, &s.pages.stop_on, &before);
	r = begin(&s, err);
	if (r == 0)
		r = into_dir(&s, out, err);
	end(&s, r, ret);
	pthread_sigmask(SIG_SETMASK, &before, NULL);    /* one that came ends us here, and nothing is left behind */
	return r;
}

/* ---- into a stream ---- */

/* What is wanted first can be told of dumps that ferry can restore; others are sent as they are, and are restored as well. */
static int send_all(struct squash *s, struct stream_out *stream, struct err *err)
{
	struct snapshot tree = { 0 };
	struct err unknown;
	int known, r;

	known = load_snapshot(s->to, &tree, &unknown);
	if (known < 0)
		log_debug("the order of tasks is not known: %s", unknown.text);
	r = stream_out_send(stream, known < 0 ? NULL : &tree, err);
	snapshot_free(&tree);
	return r;
}

static int into_stream(struct squash *s, int fd, const struct codec_choice *compress, const struct progress *progress,
		       struct err *err)
{
	struct stream_out stream;
	own_store *store = NULL;
	int r = store_create_in_memory(&store, err);

	if (r < 0)
		return r;
	store_set_pages_follow(store);
	stream_out_init(&stream, fd, compress, store);
	stream.threads = STREAM_THREADS;
	s->to = s->pages.cow.store = store;
	s->pages.stream = &stream;
	r = write_out(s, err);
	stream.meter = (struct progress_meter){ .to = progress, .total = s->pages.pages };
	if (r == 0)
		r = send_all(s, &stream, err);
	stream_out_free(&stream);
	return r;
}

int squash_to_stream(const char *dir, int fd, const struct codec_choice *compress, const struct progress *progress,
		     struct squash_result *ret, struct err *err)
{
	struct squash s = { .dir = dir };
	int r;

	sigemptyset(&s.pages.stop_on);
	r = begin(&s, err);
	if (r == 0)
		r = into_stream(&s, fd, compress, progress, err);
	return end(&s, r, ret);
}
