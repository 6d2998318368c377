/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page.h - memory contents on the move.
 *
 *	page_source ---> pump ---> page_sink
 *	(who has bytes)            (who wants bytes)
 *
 *	dump      task memory, shared memory object  -> image files
 *	restore   image files                        -> vessel, shared memory object
 *
 * Nobody but pump.c loops over pages, and no end knows the other.  The pump
 * works with several threads: what must be in order (next, place) is called by
 * one thread at a time, in order of addresses; what moves bytes (read, put) is
 * called by many at once.
 *
 * Sizes: a run is at most PUMP_CHUNK pages when it reaches read/place/put; one
 * that is not PAGE_HERE reaches place whole.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/progress.h"
#include "base/taddr.h"

#define PAGE_BYTES 4096u
#define PUMP_CHUNK 128u         /* pages: 512 KiB stay in a core's cache between read and put */

/* Where the bytes of a run are; values match pagemap_entry.flags on disk. */
enum page_where { PAGE_PARENT = 1 << 0, PAGE_LAZY = 1 << 1, PAGE_HERE = 1 << 2 };

struct page_run {
	taddr start;            /* address in the task, or offset in a shared memory object */
	uint64_t pages;
	enum page_where where;
	bool may_skip_zero;     /* a page of zeros need not be moved: nothing there reads as zeros too */
	bool gently;            /* read it without touching how the task shares it with others */
	uint64_t from;          /* the source's own: where it has the bytes */
	uint32_t part;          /* the source's own: in which of its files */
};

struct page_source;
struct page_source_ops {
	/* 1: *ret_run is the next run, addresses rising; 0: no more.  In order. */
	int (*next)(struct page_source *src, struct page_run *ret_run, struct err *err);
	/* The bytes of a run or of a part of it.  Many at once. */
	int (*read)(struct page_source *src, const struct page_run *run, void *buf, struct err *err);
};

struct page_sink;
struct page_sink_ops {
	/* Takes note of a run and says where its bytes will go (any number).  In order.  For PAGE_PARENT too. */
	int (*place)(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err);
	/* Puts the bytes of a placed run.  Many at once. */
	int (*put)(struct page_sink *sink, const struct page_run *run, uint64_t to, const void *bytes,
		   struct err *err);
};

struct page_source { const struct page_source_ops *ops; };
struct page_sink { const struct page_sink_ops *ops; };

struct page_count {
	uint64_t here, parent, zero;    /* in pages */
	struct progress_meter *meter;   /* optional: told of each chunk */
};

/* Moves everything; adds to *count.  `threads` at most (1..8); few pages are moved by the caller alone. */
int page_pump(struct page_source *src, struct page_sink *sink, unsigned int threads, struct page_count *count,
	      struct err *err);
