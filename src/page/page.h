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
 * that is not PAGE_HERE reaches place whole.  Small runs travel together: what
 * a kernel call costs is paid once for many.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/progress.h"
#include "base/taddr.h"

#define PAGE_BYTES 4096u
#define PUMP_CHUNK 128u         /* pages: 512 KiB stay in a core's cache between read and put */
#define PUMP_BUFS  3u           /* of a chunk, that a worker fills in turn for a sink that keeps them for a while */
#define PUMP_RUNS  64u          /* that travel together */
#define PUMP_PARCELS (PUMP_CHUNK + PUMP_RUNS)   /* at most, to put_many() */

/* Where the bytes of a run are; values match pagemap_entry.flags on disk. */
enum page_where { PAGE_PARENT = 1 << 0, PAGE_LAZY = 1 << 1, PAGE_HERE = 1 << 2 };

struct page_run {
	taddr start;            /* address in the task, or offset in a shared memory object */
	uint64_t pages;
	enum page_where where;
	bool may_skip_zero;     /* a page of zeros need not be moved: nothing there reads as zeros too */
	bool gently;            /* read it without touching how the task shares it with others */
	bool compare;           /* the sink may have the same bytes already: let it look */
	bool may_vanish;        /* the task runs: what can't be read is no longer there */
	uint64_t from;          /* the source's own: where it has the bytes */
	uint32_t part;          /* the source's own: in which of its files */
};

/* What became of a page that was read; all begin as PAGE_MOVE. */
enum page_mark { PAGE_MOVE, PAGE_ZERO, PAGE_SAME, PAGE_LOST };

/* A run and its bytes, on the way through the pump. */
struct page_parcel {
	struct page_run run;
	uint8_t *bytes;
	uint8_t *marks;         /* enum page_mark, one a page; after the read */
	uint64_t to;            /* where the sink wants it; after place() */
	uint64_t *sums;         /* optional: of each page (sums.h), where they are known */
};

static inline bool page_is_zero(const uint8_t *page)
{
	uint64_t first;

	__builtin_memcpy(&first, page, sizeof(first));
	return first == 0 && __builtin_memcmp(page, page + sizeof(first), PAGE_BYTES - sizeof(first)) == 0;
}

struct page_source;
struct page_source_ops {
	/* 1: *ret_run is the next run, addresses rising; 0: no more.  In order. */
	int (*next)(struct page_source *src, struct page_run *ret_run, struct err *err);
	/* The bytes of a run or of a part of it.  Many at once. */
	int (*read)(struct page_source *src, const struct page_run *run, void *buf, struct err *err);
	/*
	 * Optional: several runs in one go, and pages that may vanish: marked PAGE_LOST when they did.  May say that the
	 * bytes are elsewhere (parcel.bytes); then they stay there until done().
	 */
	int (*read_many)(struct page_source *src, struct page_parcel *parcels, size_t count, struct err *err);
	/* Optional: what read_many() gave (or failed to give) is not needed any more.  Many at once. */
	void (*done)(struct page_source *src, struct page_parcel *parcels, size_t count);
};

struct page_sink;
struct page_sink_ops {
	/* Takes note of a run and says where its bytes will go (any number).  In order.  For PAGE_PARENT too. */
	int (*place)(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err);
	/* Puts the bytes of a placed run.  Many at once. */
	int (*put)(struct page_sink *sink, const struct page_run *run, uint64_t to, const void *bytes,
		   struct err *err);
	/* Optional: several runs in one go. */
	int (*put_many)(struct page_sink *sink, const struct page_parcel *parcels, size_t count, struct err *err);
	/* Optional: marks PAGE_SAME what the sink has already; it is placed as PAGE_PARENT.  Many at once. */
	int (*compare)(struct page_sink *sink, const struct page_parcel *parcel, struct err *err);
	/*
	 * Optional: waits until the sink has no more use for what it was given of a buffer of PUMP_CHUNK pages.  Many at
	 * once.  A sink without it has none when put() has returned.
	 */
	void (*settle)(struct page_sink *sink, const uint8_t *buf);
};

struct page_source { const struct page_source_ops *ops; };
struct page_sink { const struct page_sink_ops *ops; };

struct page_count {
	uint64_t here, parent, zero, lost;      /* in pages */
	struct progress_meter *meter;   /* optional: told of each chunk */
};

/* All runs are placed and nothing is moved: where the bytes will go, when they come another way.  Adds to *count. */
int page_place(struct page_source *src, struct page_sink *sink, struct page_count *count, struct err *err);

/* Moves everything; adds to *count.  `threads` at most (1..8); few pages are moved by the caller alone. */
int page_pump(struct page_source *src, struct page_sink *sink, unsigned int threads, struct page_count *count,
	      struct err *err);
