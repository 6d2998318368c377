/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pages_frame.h - pages of a pages file as a stream carries them.
 *
 *	head     which pages file, where in it, how many pages, which of them are zeros, how the rest is compressed
 *	bytes    the pages that are not zeros, one after the other
 *
 * All numbers little-endian.  Frames of a pages file come in its order and without a gap.
 */
#pragma once
#include <stdint.h>

#include "page/page.h"

#define PAGES_FRAME_MAX PUMP_CHUNK      /* pages */

struct pages_frame_head {
	uint32_t pages_id;
	uint8_t codec;                  /* enum codec */
	uint8_t reserved;
	uint16_t pages;                 /* 1..PAGES_FRAME_MAX */
	uint64_t offset;                /* of the first page in the pages file, in bytes */
	uint64_t zeros[PAGES_FRAME_MAX / 64];
};

static inline int pages_frame_is_zero(const struct pages_frame_head *h, uint64_t page)
{
	return h->zeros[page / 64] >> page % 64 & 1;
}
