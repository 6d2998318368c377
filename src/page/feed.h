/* SPDX-License-Identifier: Apache-2.0 */
/*
 * feed.h - pages files that come as a stream, read by who expects files.
 *
 *	stream ---> frames ---> source_feed ---> pump       what is wanted next comes next: nothing is stored
 *	                \-----> the file in the store       pages that come before others are wanted: kept for later
 *
 * A store that was filled by a stream has pages files of the right size and no contents.  Maps (page/map.h) of it are
 * read through a feed: in the order of the stream, or, of what has gone by, from what was kept, or from the lender: who
 * was filled with it.
 *
 * The feed owns frames and descriptors; the stream and the store are the caller's.  One source at a time.
 */
#pragma once
#include <pthread.h>

#include "page/map.h"
#include "page/page.h"
#include "page/runs.h"
#include "page/sums.h"
#include "wire/frame.h"

struct feed_file {
	uint32_t pages_id;
	dev_t dev;
	ino_t ino;
	int fd;                         /* the file in the store: kept pages */
	uint64_t size_bytes, at;        /* at: how far the stream is */
	struct page_runs kept;          /* `start` is an offset */
	struct page_sum_list sums;      /* of feed_keep_all() */
};

struct feed_frame;

struct page_feed {
	struct frame_in *in;
	VEC(struct feed_file) files;
	VEC(struct feed_frame *) frames;        /* in use; NULL: free places */
	pthread_mutex_t lock;                   /* over the list of frames */
	struct feed_frame *now;                 /* the one that is being handed out */
	size_t now_place;
	uint64_t now_page;                      /* the next one in it */
	bool sealed, summing;
	uint64_t kept_pages;
	/* Reads pages of a file that went by and were not kept, from who got them. */
	int (*lend)(void *arg, const struct feed_file *file, uint64_t offset, uint64_t pages, void *buf, struct err *err);
	void *lend_arg;
};

void feed_init(struct page_feed *f, struct frame_in *in);
/* A pages file of the store: fd is taken over. */
int feed_add(struct page_feed *f, uint32_t pages_id, int fd, struct err *err);
/* Reads on to the seal.  What nobody wanted is checked and dropped. */
int feed_end(struct page_feed *f, struct err *err);
/* The same, and all that comes is kept, and has its sum. */
int feed_keep_all(struct page_feed *f, struct progress_meter *meter, struct err *err);
void feed_free(struct page_feed *f);

/* Pages of a piece, at once: of files that went by, or that come next. */
int feed_read(struct page_feed *f, const struct page_map *map, const struct page_piece *p, void *buf, struct err *err);

struct source_feed {
	struct page_source base;
	struct page_feed *feed;
	const struct page_map *map;
	size_t next;                    /* piece */
	uint64_t skip;                  /* pages of it that are handed out */
};
void source_feed_init(struct source_feed *s, struct page_feed *feed, const struct page_map *map);
