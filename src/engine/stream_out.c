/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/order.h"
#include "engine/stream.h"
#include "engine/stream_out.h"
#include "image/link.h"
#include "page/ends.h"
#include "page/sink_stream.h"

#define PIECE_BYTES 65536u      /* of an image that travel at once */

/* Where the bytes of an item are. */
union origin { struct source_task task; struct source_file file; struct source_map map; };

static struct page_source *source_of(const struct stream_item *item, union origin *ret)
{
	switch (item->from) {
	case FROM_TASK:
		source_task_init(&ret->task, (pid_t)item->id, item->fd, &item->plan);
		ret->task.zero_lost = item->lost;
		ret->task.lost = item->lost;
		ret->task.lost_arg = item->lost_arg;
		return &ret->task.base;
	case FROM_FILE:
		source_file_init(&ret->file, item->fd, &item->plan);
		ret->file.may_shrink = item->lost;
		return &ret->file.base;
	default:
		source_map_init(&ret->map, &item->map);
		ret->map.plan = &item->plan;
		return &ret->map.base;
	}
}

/* ---- what will be sent ---- */

void stream_out_init(struct stream_out *s, int fd, const struct codec_choice *choice, struct store *store)
{
	*s = (struct stream_out){ .fd = fd, .choice = *choice, .store = store, .next_pages_id = 1, .threads = 1 };
}

static void free_item(struct stream_item *item)
{
	own_fd_drop(&item->fd);
	page_map_free(&item->map);
	vec_free(&item->plan);
}

int stream_out_add(struct stream_out *s, struct stream_item *item, struct page_runs *placed, struct page_count *count,
		   struct err *err)
{
	struct sink_image sink;
	union origin from;
	int r, closed;

	item->pages_id = s->next_pages_id++;
	vec_push(&s->items, *item);
	item = &s->items.at[s->items.len - 1];
	for (size_t i = 0; i < item->plan.len; i++)     /* where each page will be is said before its bytes are looked at */
		item->plan.at[i].may_skip_zero = false;
	r = sink_image_open(&sink, s->store, item->kind, item->id, item->pages_id, -1, err);
	if (r < 0)
		return r;
	sink.placed = placed;
	r = page_place(source_of(item, &from), &sink.base, count, err);
	closed = sink_image_close(&sink, r < 0 ? &(struct err){ 0 } : err);
	return r < 0 ? r : closed;
}

/* ---- images ---- */

static int send_image(struct frame_out *out, const struct store *store, const char *prefix, const struct store_name *n,
		      struct err *err)
{
	own_free uint8_t *bytes = mem_new(PIECE_BYTES);
	char name[IMAGE_NAME_MAX + sizeof(COW_DIR)];
	own_reader *reader = NULL;
	struct iovec part = { name, 0 };
	uint64_t left;
	int r = image_open(store, n->kind, n->id, &reader, err);

	if (r <= 0)
		return r < 0 ? r : err_set(err, ENOENT, "%s: is gone", image_types[n->kind].file);
	part.iov_len = (size_t)snprintf(name, sizeof(name), "%s%s", prefix, image_name_of(reader));
	r = frame_put(out, FRAME_IMAGE, &part, 1, err);
	while (r == 0 && (left = image_left(reader)) > 0) {
		part = (struct iovec){ bytes, left < PIECE_BYTES ? (size_t)left : PIECE_BYTES };
		r = image_get_raw(reader, bytes, part.iov_len, err);
		if (r == 0)
			r = frame_put(out, FRAME_BYTES, &part, 1, err);
	}
	return r;
}

static int send_pages_file(struct frame_out *out, const struct store *store, const struct store *cow, uint64_t id,
			   struct err *err)
{
	struct stream_pages_file say = { .pages_id = (uint32_t)id };
	struct iovec part = { &say, sizeof(say) };
	own_fd fd = -1, lent = -1;
	struct stat st;
	int r = store_open_file(store, IMAGE_PAGES, id, &fd, err);

	if (r == 0)
		return err_set(err, ENOENT, "pages-%llu.img: is gone", (unsigned long long)id);
	if (r > 0 && fstat(fd, &st) < 0)
		r = err_sys(err, "pages-%llu.img: stat", (unsigned long long)id);
	if (r > 0 && cow)
		r = store_open_file(cow, IMAGE_PAGES, id, &lent, err);
	if (r < 0)
		return r;
	say.size_bytes = (uint64_t)st.st_size;
	say.lent = lent >= 0;
	return frame_put(out, FRAME_PAGES_FILE, &part, 1, err);
}

/* prefix: of the names; cow: what `store` lends from, where it is the directory itself. */
static int send_store(struct frame_out *out, const struct store *store, const char *prefix, const struct store *cow,
		      struct err *err)
{
	struct store_names names = { 0 };
	int r = store_list(store, &names, err);

	for (size_t i = 0; r == 0 && i < names.len; i++) {
		if (names.at[i].kind == IMAGE_PAGES && !*prefix)
			r = send_pages_file(out, store, cow, names.at[i].id, err);
		else if (stream_carries(names.at[i].kind))
			r = send_image(out, store, prefix, &names.at[i], err);
	}
	vec_free(&names);
	return r;
}

int stream_out_images(struct stream_out *s, struct frame_out *out, struct err *err)
{
	own_store *cow = NULL;
	int r = store_open_parent(s->store, &cow, err);         /* in memory it is nothing else */

	if (r >= 0)
		r = send_store(out, s->store, "", cow, err);
	if (r == 0 && cow)
		r = send_store(out, cow, COW_DIR "/", NULL, err);
	return r < 0 ? r : frame_put(out, FRAME_STATE_END, NULL, 0, err);
}

/* ---- pages ---- */

struct sending {
	struct stream_out *s;
	struct frame_out *out;
	struct codec_costs costs;
};

static int send_item(struct sending *g, struct stream_item *item, struct err *err)
{
	struct page_count count = { .meter = &g->s->meter };
	struct sink_stream sink;
	union origin from;
	int r;

	LOG_SCOPE("%s %llu", item->kind == IMAGE_PAGEMAP ? "task" : "shared memory", (unsigned long long)item->id);
	item->sent = true;
	sink_stream_init(&sink, g->out, item->pages_id, &g->s->choice);
	sink.costs = g->costs;
	sink.lends = item->from == FROM_TASK;
	r = page_pump(source_of(item, &from), &sink.base, g->s->threads, &count, err);
	g->costs = sink.costs;
	return r;
}

/* The one of shared memory with the lowest id that was not sent yet; NULL: none is left. */
static struct stream_item *next_object(const struct stream_out *s)
{
	struct stream_item *next = NULL;

	for (size_t i = 0; i < s->items.len; i++) {
		struct stream_item *item = &s->items.at[i];

		if (item->kind == IMAGE_PAGEMAP_SHMEM && !item->sent && (!next || item->id < next->id))
			next = item;
	}
	return next;
}

static struct stream_item *item_of_task(const struct stream_out *s, pid_t pid)
{
	for (size_t i = 0; i < s->items.len; i++)
		if (s->items.at[i].kind == IMAGE_PAGEMAP && s->items.at[i].id == (uint64_t)pid)
			return &s->items.at[i];
	return NULL;
}

/* Shared memory by ids (make_shmems.c), then the tasks as they are made; what nobody knows of comes last. */
static int send_pages(struct sending *g, const struct snapshot *tree, struct err *err)
{
	struct stream_item *item;
	struct task_order order = { 0 };
	int r = 0;

	while (r == 0 && (item = next_object(g->s)))
		r = send_item(g, item, err);
	if (tree)
		tree_order(tree, &order);
	for (size_t i = 0; r == 0 && i < order.len; i++)
		if ((item = item_of_task(g->s, tree->tasks.at[order.at[i]].pid)))
			r = send_item(g, item, err);
	for (size_t i = 0; r == 0 && i < g->s->items.len; i++)
		if (!g->s->items.at[i].sent)
			r = send_item(g, &g->s->items.at[i], err);
	vec_free(&order);
	return r;
}

int stream_out_pages(struct stream_out *s, struct frame_out *out, const struct snapshot *tree, struct err *err)
{
	return send_pages(&(struct sending){ .s = s, .out = out }, tree, err);
}

int stream_out_send(struct stream_out *s, const struct snapshot *tree, struct err *err)
{
	struct frame_out out;
	int r = frame_out_begin(&out, s->fd, err);

	if (r == 0)
		r = stream_out_images(s, &out, err);
	if (r == 0)
		r = send_pages(&(struct sending){ .s = s, .out = &out }, tree, err);
	if (r == 0)
		r = frame_out_seal(&out, err);
	s->wire_bytes = out.bytes;
	return r < 0 ? frame_failed(s->fd, err) : frame_wait_answer(s->fd, err);
}

void stream_out_free(struct stream_out *s)
{
	for (size_t i = 0; i < s->items.len; i++)
		free_item(&s->items.at[i]);
	vec_free(&s->items);
}
