/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream_out.h - a dump goes out as a stream.
 *
 *	stream_out_add_*()   for each pages file: its pagemap image is written, into a store in memory, and what will be in it
 *	                     is noted; nothing is read yet
 *	(all other images are written to the same store)
 *	stream_out_send()    the images, the pages, the seal; on a socket also what the reader says of it
 *
 * The memory that is noted must stay as it is until it was sent.  Pages of zeros are in the pagemaps, since nobody has
 * looked at them yet; on the wire they are a bit each.
 */
#pragma once
#include "base/progress.h"
#include "image/store.h"
#include "model/snapshot.h"
#include "page/map.h"
#include "page/runs.h"
#include "wire/codec.h"
#include "wire/frame.h"

/* One pages file to be sent, and where its bytes are. */
struct stream_item {
	uint32_t pages_id;
	enum image_kind kind;           /* of its pagemap, */
	uint64_t id;                    /* and whose it is */
	enum { FROM_TASK, FROM_FILE, FROM_MAP } from;
	int fd;                         /* of a task: its memory; of a file: it; owned */
	struct page_map map;            /* owned */
	struct page_runs plan;          /* owned */
	void (*lost)(void *arg, taddr page);    /* optional: of a task that runs: a page that is gone, and sent as zeros */
	void *lost_arg;
	bool sent;
};

struct stream_out {
	int fd;                         /* the caller's */
	struct codec_choice choice;
	struct store *store;            /* the caller's */
	VEC(struct stream_item) items;
	uint32_t next_pages_id;
	unsigned int threads;
	struct progress_meter meter;
	uint64_t wire_bytes;            /* set by stream_out_send() */
};

void stream_out_init(struct stream_out *s, int fd, const struct codec_choice *choice, struct store *store);

/*
 * item: kind, id, from and what that needs; taken over, whatever is returned.  placed: NULL, or gets what goes into the
 * pages file.  Adds to *count.
 */
int stream_out_add(struct stream_out *s, struct stream_item *item, struct page_runs *placed, struct page_count *count,
		   struct err *err);

/* The tree tells whose pages are wanted first; NULL: nobody knows. */
int stream_out_send(struct stream_out *s, const struct snapshot *tree, struct err *err);
/* The two parts of it, for who has a stream already that they are a part of. */
int stream_out_images(struct stream_out *s, struct frame_out *out, struct err *err);
int stream_out_pages(struct stream_out *s, struct frame_out *out, const struct snapshot *tree, struct err *err);
void stream_out_free(struct stream_out *s);
