/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h - what a stream of images is made of: for both of its ends.
 *
 *	image, bytes...           each image, but pages files and what one directory says of another
 *	pages file                its number, its size
 *	end of state
 *	pages...                  file by file, in the order in which a restore wants them
 *	seal
 *
 * Everything small comes first: who restores knows all of the tree, and has made the tasks, before their memory comes.
 * A stream is one whole dump: a chain is made one directory on its way.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "image/catalog.h"

struct stream_pages_file {
	uint32_t pages_id;
	uint32_t lent;                  /* 1: tasks share its pages (page/cow.h) */
	uint64_t size_bytes;
};

/* Pages come as pages; checksums are the stream's own; statistics are not of the dump. */
static inline bool stream_carries(enum image_kind kind)
{
	return kind != IMAGE_PAGES && kind != IMAGE_FERRY_CHECKSUMS && kind != IMAGE_FERRY_PAGESUMS && kind != IMAGE_FERRY_REPLACED &&
	       kind != IMAGE_STATS_DUMP && kind != IMAGE_STATS_RESTORE;
}
