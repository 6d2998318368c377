/* SPDX-License-Identifier: Apache-2.0 */
/* move.h - one pagemap and its pages: from a source, or from a shared memory object. */
#pragma once
#include "engine/destination.h"

struct moving {
	struct destination *to;
	struct store *base;             /* the last link, for shared memory; NULL: none */
	unsigned int threads;
	struct progress_meter meter;
};

/* Adds to *count. */
int move_pages(struct moving *m, struct page_source *src, const struct pagemap_wish *wish, struct page_count *count,
	       struct err *err);

/*
 * What was ever touched of an object, by whatever task: the file behind it knows.  It may go on beyond `size`, the end
 * of what is mapped: images have no other size.
 */
int plan_object(int fd, uint64_t size, bool compare, struct page_runs *plan, struct err *err);

/* All that was ever touched of an object's first `size` bytes; what the last link has the same is its. */
int move_object(struct moving *m, int fd, uint64_t id, uint64_t size, struct page_count *count, struct err *err);
