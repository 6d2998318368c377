/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream_in.h - a stream becomes a store and the pages that follow.
 *
 *	stream_in_begin()  reads all images; from here on there is a store, whose pages files are empty but have their sizes
 *	feed               the pages, in the order of the stream
 *	stream_in_end()    up to the seal: nothing was missing
 *
 * or
 *	stream_in_store()  all of it at once: a directory of images
 *
 * Images are read into `store`, the caller's: a directory in memory for a restore, one on disk to unpack.  The names in a
 * stream are names of images, nothing else: none leads out of the directory.
 */
#pragma once
#include "image/store.h"
#include "page/cow.h"
#include "page/feed.h"
#include "wire/frame.h"

struct stream_in {
	struct frame_in own_in, *in;    /* in: own_in, or somebody else's */
	struct page_feed feed;
	struct store *store;
	struct cow_dir cow;             /* pages that tasks share */
	struct image_writer *inventory; /* until it is finished, the last of all images; owned */
	uint64_t images, pages;         /* pages: that are to come */
};

int stream_in_begin(struct stream_in *s, int fd, struct store *store, struct err *err);
/* Returns when the directory is sealed. */
int stream_in_store(struct stream_in *s, int fd, struct store *store, struct progress_meter *meter, struct err *err);
int stream_in_end(struct stream_in *s, struct err *err);
void stream_in_free(struct stream_in *s);

/* The same on frames that began before; `first` has been read already (its bytes stay the caller's). */
int stream_in_go_on(struct stream_in *s, struct frame_in *in, const struct frame *first, struct store *store, struct err *err);
/* A piece of one of its pages files, when the stream is there, or later. */
int stream_read(void *arg, const struct page_map *map, const struct page_piece *p, void *buf, struct err *err);
