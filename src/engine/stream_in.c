/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/stream.h"
#include "engine/stream_in.h"
#include "image/link.h"

/* ---- images ---- */

struct taking {
	struct stream_in *s;
	struct image_writer *writer;    /* of the image that is coming; NULL: none; owned */
	enum image_kind kind;
};

/* The inventory is empty until all else is there: without it this is no dump, whoever ends us when. */
static int finish(struct taking *t, struct err *err)
{
	if (t->writer && t->kind == IMAGE_INVENTORY)
		t->s->inventory = TAKE_PTR(t->writer);
	return t->writer ? image_finish(&t->writer, err) : 0;
}

static int must_be_new(const struct store *store, enum image_kind kind, uint64_t id, struct err *err)
{
	own_fd fd = -1;
	int r = store_open_file(store, kind, id, &fd, err);

	return r > 0 ? err_set(err, EBADMSG, "the stream has an image twice") : r;
}

/* "core-12.img", "cow/pagemap-13.img": the directory, and what it is to be in there. */
static int parse_name(struct stream_in *s, const struct frame *f, struct store **ret_store, enum image_kind *ret_kind,
		      uint64_t *ret_id, struct err *err)
{
	char name[IMAGE_NAME_MAX + sizeof(COW_DIR)];
	bool in_cow;
	int r = 0;

	if (f->len_bytes == 0 || f->len_bytes >= sizeof(name))
		return err_set(err, EBADMSG, "the stream has an image with a name that none has");
	memcpy(name, f->bytes, f->len_bytes);
	name[f->len_bytes] = '\0';
	in_cow = strncmp(name, COW_DIR "/", sizeof(COW_DIR)) == 0;
	if (strlen(name) != f->len_bytes || !image_parse_name(name + (in_cow ? sizeof(COW_DIR) : 0), ret_kind, ret_id) ||
	    !stream_carries(*ret_kind) || (in_cow && *ret_kind == IMAGE_INVENTORY))
		return err_set(err, EBADMSG, "the stream has an image with a name that none has");
	if (in_cow)
		r = cow_open(&s->cow, err);
	*ret_store = in_cow ? s->cow.cow : s->store;
	return r;
}

static int take_image(struct taking *t, const struct frame *f, struct err *err)
{
	struct store *store;
	uint64_t id;
	int r = finish(t, err);

	if (r == 0)
		r = parse_name(t->s, f, &store, &t->kind, &id, err);
	if (r == 0)
		r = must_be_new(store, t->kind, id, err);
	if (r == 0)
		r = image_create(store, t->kind, id, &t->writer, err);
	t->s->images++;
	return r;
}

/* ---- pages files ---- */

/* The file, empty but of that size, and its second name where tasks share its pages. */
static int take_pages_file(struct taking *t, const struct frame *f, struct err *err)
{
	struct stream_in *s = t->s;
	struct stream_pages_file said;
	own_fd fd = -1;
	int r = finish(t, err);

	if (r < 0)
		return r;
	if (f->len_bytes != sizeof(said))
		return err_set(err, EBADMSG, "the stream has a broken pages file");
	memcpy(&said, f->bytes, sizeof(said));
	if (said.size_bytes % PAGE_BYTES || said.size_bytes > INT64_MAX - PAGE_BYTES || said.lent > 1)
		return err_set(err, EBADMSG, "the stream has a broken pages file");
	r = must_be_new(s->store, IMAGE_PAGES, said.pages_id, err);
	if (r == 0)
		r = store_create_file(s->store, IMAGE_PAGES, said.pages_id, &fd, err);
	if (r == 0 && ftruncate(fd, (off_t)said.size_bytes) < 0)
		r = err_sys(err, "pages-%u.img", said.pages_id);
	if (r == 0 && said.lent)
		r = cow_lend_file(&s->cow, IMAGE_PAGES, said.pages_id, err);
	s->pages += said.size_bytes / PAGE_BYTES;
	return r < 0 ? r : feed_add(&s->feed, said.pages_id, TAKE_FD(fd), err);
}

/* ---- all of it ---- */

/* 1: there may be more; 0: all images are here. */
static int take_frame(struct taking *t, const struct frame *f, struct err *err)
{
	int r;

	switch (f->type) {
	case FRAME_IMAGE:
		r = take_image(t, f, err);
		break;
	case FRAME_BYTES:
		r = t->writer ? image_put_raw(t->writer, f->bytes, f->len_bytes, err) :
				err_set(err, EBADMSG, "the stream has bytes of no image");
		break;
	case FRAME_PAGES_FILE:
		r = take_pages_file(t, f, err);
		break;
	case FRAME_STATE_END:
		r = finish(t, err);
		break;
	default:
		r = err_set(err, EBADMSG, "the stream has pages before all images are there");
	}
	return r < 0 ? r : f->type != FRAME_STATE_END;
}

static int take_next(struct taking *t, struct err *err)
{
	own_free uint8_t *bytes = NULL;
	struct frame f;
	int r = frame_get(t->s->in, &f, err);

	if (r < 0)
		return r;
	bytes = f.bytes;
	return take_frame(t, &f, err);
}

/* first: a frame that was read already; NULL: none. */
static int take_images(struct stream_in *s, const struct frame *first, struct err *err)
{
	struct taking t = { .s = s };
	int r = first ? take_frame(&t, first, err) : 1;

	while (r > 0)
		r = take_next(&t, err);
	image_drop(t.writer);
	return r;
}

static int begin(struct stream_in *s, int fd, struct store *store, struct err *err)
{
	int r;

	*s = (struct stream_in){ .store = store, .cow.store = store };
	s->in = &s->own_in;
	feed_init(&s->feed, s->in);
	r = frame_in_begin(s->in, fd, err);
	return r < 0 ? r : take_images(s, NULL, err);
}

static int finish_inventory(struct stream_in *s, struct err *err)
{
	return s->inventory ? image_finish(&s->inventory, err) : err_set(err, EBADMSG, "the stream has no inventory.img");
}

int stream_in_begin(struct stream_in *s, int fd, struct store *store, struct err *err)
{
	int r;

	store_set_pages_follow(store);
	r = begin(s, fd, store, err);
	if (r == 0)
		r = finish_inventory(s, err);
	return r < 0 ? r : cow_finish(&s->cow, err);
}

/* ---- to disk ---- */

static int put_sums(struct stream_in *s, const struct feed_file *file, struct err *err)
{
	own_fd lent = -1;
	int r = page_sums_write(&file->sums, file->size_bytes / PAGE_BYTES, s->store, file->pages_id, err);

	if (r == 0 && s->cow.cow)
		r = store_open_file(s->cow.cow, IMAGE_PAGES, file->pages_id, &lent, err);
	return r > 0 ? cow_lend_file(&s->cow, IMAGE_FERRY_PAGESUMS, file->pages_id, err) : r;
}

int stream_in_store(struct stream_in *s, int fd, struct store *store, struct progress_meter *meter, struct err *err)
{
	int r = begin(s, fd, store, err);

	meter->total = s->pages;
	if (r == 0)
		r = feed_keep_all(&s->feed, meter, err);
	for (size_t i = 0; r == 0 && i < s->feed.files.len; i++)
		r = put_sums(s, &s->feed.files.at[i], err);
	if (r == 0)
		r = cow_finish(&s->cow, err);
	if (r == 0)
		r = finish_inventory(s, err);
	return r < 0 ? r : store_seal(store, err);
}

int stream_in_go_on(struct stream_in *s, struct frame_in *in, const struct frame *first, struct store *store, struct err *err)
{
	int r;

	store_set_pages_follow(store);
	*s = (struct stream_in){ .store = store, .cow.store = store, .in = in };
	feed_init(&s->feed, in);
	r = take_images(s, first, err);
	if (r == 0)
		r = finish_inventory(s, err);
	return r < 0 ? r : cow_finish(&s->cow, err);
}

int stream_in_end(struct stream_in *s, struct err *err)
{
	int r = feed_end(&s->feed, err);

	if (r == 0 && s->feed.kept_pages > 0)
		log_info("%llu pages came before they were wanted", (unsigned long long)s->feed.kept_pages);
	return r;
}

void stream_in_free(struct stream_in *s)
{
	image_drop(s->inventory);
	feed_free(&s->feed);
	cow_free(&s->cow);
}

int stream_read(void *arg, const struct page_map *map, const struct page_piece *p, void *buf, struct err *err)
{
	return feed_read(&((struct stream_in *)arg)->feed, map, p, buf, err);
}
