/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "page/feed.h"
#include "page/pages_frame.h"
#include "wire/codec.h"

#define PART_KEPT UINT32_MAX            /* of a run: its pages are in the store's file */
#define PART_LENT (UINT32_MAX - 1)      /* ... with somebody else */

/*
 * A frame is unpacked by the first who wants a page of it, and gone with the last.  So unpacking is done by all workers,
 * and reading from the stream by one at a time.
 */
struct feed_frame {
	struct frame raw;
	struct pages_frame_head head;
	struct feed_file *file;
	uint64_t left;                  /* pages that are still to be read; atomic */
	pthread_mutex_t lock;           /* over all below */
	int unpacked;                   /* 1, or -errno */
	uint8_t *pages;                 /* those that are not zeros; may lie in raw */
	uint8_t *own;                   /* what is to be freed */
	uint16_t index[PAGES_FRAME_MAX];        /* of a page that is not zeros, in `pages` */
};

/* ---- frames ---- */

static void frame_free(struct feed_frame *frame)
{
	if (!frame)
		return;
	free(frame->raw.bytes);
	free(frame->own);
	free(frame);
}

static struct feed_file *find_file(struct page_feed *f, uint32_t pages_id)
{
	for (size_t i = 0; i < f->files.len; i++)
		if (f->files.at[i].pages_id == pages_id)
			return &f->files.at[i];
	return NULL;
}

static int check_head(struct page_feed *f, struct feed_frame *frame, struct err *err)
{
	const struct pages_frame_head *h = &frame->head;

	if (frame->raw.len_bytes < sizeof(*h))
		return err_set(err, EBADMSG, "the stream has pages without a head");
	memcpy(&frame->head, frame->raw.bytes, sizeof(*h));
	frame->file = find_file(f, h->pages_id);
	if (!frame->file)
		return err_set(err, EBADMSG, "the stream has pages of a file that it did not name (%u)", h->pages_id);
	if (h->pages == 0 || h->pages > PAGES_FRAME_MAX || h->codec >= CODEC_COUNT || h->reserved)
		return err_set(err, EBADMSG, "the stream has broken pages");
	if (h->offset != frame->file->at || h->pages > (frame->file->size_bytes - h->offset) / PAGE_BYTES)
		return err_set(err, EBADMSG, "the stream has pages of pages-%u.img out of their order", h->pages_id);
	return 0;
}

static size_t put_frame(struct page_feed *f, struct feed_frame *frame)
{
	size_t place = 0;

	pthread_mutex_lock(&f->lock);
	while (place < f->frames.len && f->frames.at[place])
		place++;
	if (place == f->frames.len)
		vec_push(&f->frames, frame);
	else
		f->frames.at[place] = frame;
	pthread_mutex_unlock(&f->lock);
	return place;
}

/* 1: there is a next one; 0: this was the seal. */
static int next_frame(struct page_feed *f, struct err *err)
{
	struct feed_frame *frame = mem_new(sizeof(*frame));
	int r = frame_get(f->in, &frame->raw, err);

	if (r == 0 && (frame->raw.type == FRAME_SEAL || frame->raw.type == FRAME_ROUND)) {
		f->sealed = true;
		frame_free(frame);
		return 0;
	}
	if (r == 0 && frame->raw.type != FRAME_PAGES)
		r = err_set(err, EBADMSG, "the stream has something else among its pages");
	if (r == 0)
		r = check_head(f, frame, err);
	if (r < 0) {
		frame_free(frame);
		return r;
	}
	pthread_mutex_init(&frame->lock, NULL);
	frame->left = frame->head.pages;
	frame->file->at += frame->head.pages * PAGE_BYTES;
	f->now = frame;
	f->now_page = 0;
	f->now_place = put_frame(f, frame);
	return 1;
}

static int unpack(struct feed_frame *frame, struct err *err)
{
	const uint8_t *in = frame->raw.bytes + sizeof(frame->head);
	size_t in_bytes = frame->raw.len_bytes - sizeof(frame->head), pages = 0;
	int r = frame_check(&frame->raw, err);

	for (uint64_t i = 0; i < frame->head.pages; i++)
		if (!pages_frame_is_zero(&frame->head, i))
			frame->index[i] = (uint16_t)pages++;
	frame->pages = (uint8_t *)in;
	if (r < 0 || (frame->head.codec == CODEC_RAW && in_bytes == pages * PAGE_BYTES))
		return r;
	frame->own = malloc(pages ? pages * PAGE_BYTES : 1);
	if (!frame->own)
		mem_out();
	frame->pages = frame->own;
	return codec_unpack(frame->head.codec, in, in_bytes, frame->own, pages * PAGE_BYTES, err);
}

/* Its pages that are not zeros, one after the other; never NULL but when that fails. */
static uint8_t *frame_pages(struct feed_frame *frame, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&frame->lock);
	if (frame->unpacked == 0) {
		r = unpack(frame, err);
		frame->unpacked = r < 0 ? r : 1;
	} else if (frame->unpacked < 0) {
		r = err_set(err, -frame->unpacked, "the stream is damaged");
	}
	pthread_mutex_unlock(&frame->lock);
	return r < 0 ? NULL : frame->pages;
}

static int copy_out(struct feed_frame *frame, uint64_t first, uint64_t pages, uint8_t *buf, struct err *err)
{
	const uint8_t *from = frame_pages(frame, err);

	for (uint64_t i = 0; from && i < pages; i++) {
		if (pages_frame_is_zero(&frame->head, first + i))
			memset(buf + i * PAGE_BYTES, 0, PAGE_BYTES);
		else
			memcpy(buf + i * PAGE_BYTES, from + frame->index[first + i] * (size_t)PAGE_BYTES, PAGE_BYTES);
	}
	return from ? 0 : -err->code;
}

static void done_with(struct page_feed *f, size_t place, uint64_t pages)
{
	struct feed_frame *frame = NULL;

	pthread_mutex_lock(&f->lock);
	if ((f->frames.at[place]->left -= pages) == 0) {
		frame = f->frames.at[place];
		f->frames.at[place] = NULL;
	}
	pthread_mutex_unlock(&f->lock);
	frame_free(frame);
}

/* Hands out the next `pages` of the current frame; what is in it stays until done_with(). */
static void step(struct page_feed *f, uint64_t pages)
{
	f->now_page += pages;
	if (f->now_page == f->now->head.pages)
		f->now = NULL;
}

static int drop(struct page_feed *f, uint64_t pages, struct err *err)
{
	struct feed_frame *frame = f->now;
	size_t place = f->now_place;
	uint8_t page[PAGE_BYTES];
	int r = copy_out(frame, f->now_page, 1, page, err);     /* checks all of it */

	step(f, pages);
	done_with(f, place, pages);
	return r;
}

/* Those that are not zeros: the file has holes where nothing was written. */
static int store_pages(const struct feed_file *file, uint64_t offset, const uint8_t *bytes, uint64_t pages, struct err *err)
{
	uint64_t n;

	for (uint64_t i = 0; i < pages; i += n ? n : 1) {
		size_t len;

		for (n = 0; i + n < pages && !page_is_zero(bytes + (i + n) * PAGE_BYTES); n++)
			;
		len = n * PAGE_BYTES;
		for (size_t done = 0; done < len;) {
			ssize_t got = pwrite(file->fd, bytes + i * PAGE_BYTES + done, len - done,
					     (off_t)(offset + i * PAGE_BYTES + done));

			if (got < 0 && errno == EINTR)
				continue;
			if (got <= 0)
				return err_sys(err, "pages-%u.img: write", file->pages_id);
			done += (size_t)got;
		}
	}
	return 0;
}

/* Somebody may want them later. */
static int keep(struct page_feed *f, uint64_t pages, struct err *err)
{
	own_free uint8_t *bytes = malloc(pages * PAGE_BYTES);
	struct feed_file *file = f->now->file;
	size_t place = f->now_place;
	uint64_t offset = f->now->head.offset + f->now_page * PAGE_BYTES;
	int r;

	if (!bytes)
		mem_out();
	r = copy_out(f->now, f->now_page, pages, bytes, err);
	if (r == 0)
		r = store_pages(file, offset, bytes, pages, err);
	if (r == 0 && f->summing) {
		page_sums_grow(&file->sums, offset / PAGE_BYTES + pages);
		page_sums_set(&file->sums, offset / PAGE_BYTES, bytes, pages);
	}
	runs_add(&file->kept, offset, offset + pages * PAGE_BYTES, PAGE_HERE);
	f->kept_pages += pages;
	log_debug("pages-%u.img: %llu pages at %#llx are kept for later", file->pages_id, (unsigned long long)pages,
		  (unsigned long long)offset);
	step(f, pages);
	done_with(f, place, pages);
	return r;
}

/* ---- what is wanted ---- */

static struct feed_file *file_of(struct page_feed *f, const struct page_file *file)
{
	for (size_t i = 0; i < f->files.len; i++)
		if (f->files.at[i].dev == file->dev && f->files.at[i].ino == file->ino)
			return &f->files.at[i];
	return NULL;
}

/* How far the stream is handed out. */
static uint64_t handed_out(const struct page_feed *f, const struct feed_file *file)
{
	return f->now && f->now->file == file ? f->now->head.offset + f->now_page * PAGE_BYTES : file->at;
}

/* Which of `pages` from offset on were kept, or not: the first ones that are alike. */
static uint64_t kept(const struct feed_file *file, uint64_t offset, uint64_t pages, bool *ret_kept)
{
	*ret_kept = false;
	for (size_t i = 0; i < file->kept.len; i++) {
		const struct page_run *run = &file->kept.at[i];
		uint64_t end = run_end(run), left;

		if (end <= offset)
			continue;
		*ret_kept = run->start <= offset;
		left = ((*ret_kept ? end : run->start) - offset) / PAGE_BYTES;
		return left < pages ? left : pages;
	}
	return pages;
}

/* The stream goes on to this page of this file, and what is before it is kept. */
static int go_to(struct page_feed *f, const struct feed_file *file, uint64_t offset, struct err *err)
{
	int r = 1;

	while (r > 0 && !(f->now && handed_out(f, file) == offset && f->now->file == file)) {
		if (f->now) {
			uint64_t left = f->now->head.pages - f->now_page, until = left;

			if (f->now->file == file && handed_out(f, file) < offset)
				until = (offset - handed_out(f, file)) / PAGE_BYTES;
			r = keep(f, until < left ? until : left, err);
			r = r < 0 ? r : 1;
		} else {
			r = f->sealed ? 0 : next_frame(f, err);
		}
	}
	return r == 0 ? err_set(err, EBADMSG, "the stream ends without all pages of pages-%u.img", file->pages_id) : r;
}

/* Pages of a piece from `skip` on, as many as come from one place: fills `from`, `part` and `pages` of the run. */
static int locate(struct page_feed *f, const struct page_map *map, const struct page_piece *p, uint64_t skip,
		  struct page_run *run, struct err *err)
{
	const struct feed_file *file = file_of(f, &map->files.at[p->file]);
	uint64_t offset = p->offset + skip * PAGE_BYTES, pages = p->pages - skip;
	bool was_kept;
	int r;

	if (!file)
		return err_set(err, EBADMSG, "pages of a file that the stream has not");
	*run = (struct page_run){ .start = p->start + skip * PAGE_BYTES, .where = PAGE_HERE, .may_skip_zero = p->fresh };
	if (offset < handed_out(f, file)) {
		uint64_t left = (handed_out(f, file) - offset) / PAGE_BYTES;

		run->pages = kept(file, offset, left < pages ? left : pages, &was_kept);
		run->part = was_kept ? PART_KEPT : PART_LENT;
		run->from = offset;
		return 0;
	}
	r = go_to(f, file, offset, err);
	if (r < 0)
		return r;
	run->pages = f->now->head.pages - f->now_page;
	run->pages = run->pages < pages ? run->pages : pages;
	run->part = (uint32_t)f->now_place;
	run->from = offset;
	step(f, run->pages);
	return 0;
}

static struct feed_frame *frame_at(struct page_feed *f, uint32_t place)
{
	struct feed_frame *frame;

	pthread_mutex_lock(&f->lock);
	frame = f->frames.at[place];
	pthread_mutex_unlock(&f->lock);
	return frame;
}

static bool in_a_frame(const struct page_run *run)
{
	return run->part != PART_LENT && run->part != PART_KEPT;
}

/* Of a run that is not in a frame; `file`: where it is from. */
static int read_elsewhere(struct page_feed *f, const struct feed_file *file, const struct page_run *run, void *buf,
			  struct err *err)
{
	size_t len = run->pages * PAGE_BYTES;

	if (run->part == PART_KEPT)
		return pread(file->fd, buf, len, (off_t)run->from) == (ssize_t)len ? 0 :
				err_sys(err, "read pages that were kept");
	return f->lend ? f->lend(f->lend_arg, file, run->from, run->pages, buf, err) :
			 err_set(err, EBADMSG, "the stream has pages before they can be used");
}

int feed_read(struct page_feed *f, const struct page_map *map, const struct page_piece *p, void *buf, struct err *err)
{
	const struct feed_file *file = file_of(f, &map->files.at[p->file]);
	struct page_run run = { 0 };
	int r = 0;

	for (uint64_t skip = 0; r == 0 && skip < p->pages; skip += run.pages) {
		uint8_t *to = (uint8_t *)buf + skip * PAGE_BYTES;

		r = locate(f, map, p, skip, &run, err);
		if (r == 0 && in_a_frame(&run)) {
			struct feed_frame *frame = frame_at(f, run.part);

			r = copy_out(frame, (run.from - frame->head.offset) / PAGE_BYTES, run.pages, to, err);
			done_with(f, run.part, run.pages);
		} else if (r == 0) {
			r = read_elsewhere(f, file, &run, to, err);
		}
	}
	return r;
}

/* ---- the source ---- */

static int feed_next(struct page_source *src, struct page_run *ret_run, struct err *err)
{
	struct source_feed *s = (struct source_feed *)src;
	const struct page_piece *p;
	int r;

	if (s->next == s->map->pieces.len)
		return 0;
	p = &s->map->pieces.at[s->next];
	r = locate(s->feed, s->map, p, s->skip, ret_run, err);
	if (r < 0)
		return r;
	ret_run->compare = p->compare;
	s->skip += ret_run->pages;
	if (s->skip == p->pages) {
		s->next++;
		s->skip = 0;
	}
	return 1;
}

static int read_parcel(struct source_feed *s, struct page_parcel *parcel, struct err *err)
{
	const struct page_run *run = &parcel->run;
	struct feed_frame *frame;
	uint64_t first;

	if (!in_a_frame(run)) {
		size_t at = page_map_find(s->map, run->start);

		return read_elsewhere(s->feed, file_of(s->feed, &s->map->files.at[s->map->pieces.at[at].file]), run,
				      parcel->bytes, err);
	}
	frame = frame_at(s->feed, run->part);
	first = (run->from - frame->head.offset) / PAGE_BYTES;
	if (frame->head.zeros[0] || frame->head.zeros[1])
		return copy_out(frame, first, run->pages, parcel->bytes, err);
	parcel->bytes = frame_pages(frame, err);
	if (!parcel->bytes)
		return -err->code;
	parcel->bytes += first * PAGE_BYTES;
	return 0;
}

static int source_read(struct page_source *src, struct page_parcel *parcels, size_t count, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++)
		r = read_parcel((struct source_feed *)src, &parcels[i], err);
	return r;
}

static void source_done(struct page_source *src, struct page_parcel *parcels, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (in_a_frame(&parcels[i].run))
			done_with(((struct source_feed *)src)->feed, parcels[i].run.part, parcels[i].run.pages);
}

void source_feed_init(struct source_feed *s, struct page_feed *feed, const struct page_map *map)
{
	static const struct page_source_ops ops = { .next = feed_next, .read_many = source_read, .done = source_done };

	*s = (struct source_feed){ .base = { &ops }, .feed = feed, .map = map };
}

/* ---- the feed ---- */

void feed_init(struct page_feed *f, struct frame_in *in)
{
	*f = (struct page_feed){ .in = in, .lock = PTHREAD_MUTEX_INITIALIZER };
}

int feed_add(struct page_feed *f, uint32_t pages_id, int fd, struct err *err)
{
	struct feed_file file = { .pages_id = pages_id, .fd = fd };
	struct stat st;

	if (fstat(fd, &st) < 0) {
		close(fd);
		return err_sys(err, "stat pages-%u.img", pages_id);
	}
	file.dev = st.st_dev;
	file.ino = st.st_ino;
	file.size_bytes = (uint64_t)st.st_size;
	vec_push(&f->files, file);
	return 0;
}

static int check_all_came(const struct page_feed *f, struct err *err)
{
	for (size_t i = 0; i < f->files.len; i++)
		if (f->files.at[i].at != f->files.at[i].size_bytes)
			return err_set(err, EBADMSG, "the stream ends without all pages of pages-%u.img", f->files.at[i].pages_id);
	return 0;
}

int feed_keep_all(struct page_feed *f, struct progress_meter *meter, struct err *err)
{
	int r = 1;

	f->summing = true;
	while (r > 0 && (r = next_frame(f, err)) > 0) {
		progress_add(meter, f->now->head.pages);
		r = keep(f, f->now->head.pages, err) < 0 ? -err->code : 1;
	}
	return r < 0 ? r : check_all_came(f, err);
}

int feed_end(struct page_feed *f, struct err *err)
{
	int r = 1;

	while (r > 0 && !f->sealed) {
		if (!f->now)
			r = next_frame(f, err);
		else
			r = drop(f, f->now->head.pages - f->now_page, err) < 0 ? -err->code : 1;
	}
	return r < 0 ? r : check_all_came(f, err);
}

void feed_free(struct page_feed *f)
{
	for (size_t i = 0; i < f->frames.len; i++)
		frame_free(f->frames.at[i]);
	for (size_t i = 0; i < f->files.len; i++) {
		close(f->files.at[i].fd);
		vec_free(&f->files.at[i].kept);
		page_sums_free(&f->files.at[i].sums);
	}
	vec_free(&f->frames);
	vec_free(&f->files);
}
