/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runs_frame.h - pages of a task or a shared memory object, by their addresses, as a migration sends them.
 *
 *	head     whose, how many runs and pages, which pages are zeros, how the rest is compressed
 *	runs     address and number of pages, rising
 *	bytes    the pages that are not zeros, one after the other
 *
 * A frame of runs alone (FRAME_DROP) tells what is there no more: such pages are zeros again.
 */
#pragma once
#include <stdint.h>

#include "base/vec.h"
#include "page/page.h"
#include "wire/frame.h"

#define RUNS_FRAME_PAGES PUMP_CHUNK
#define RUNS_FRAME_RUNS  192u

enum runs_owner { RUNS_TASK = 0, RUNS_SHMEM = 1 };

struct runs_frame_head {
	uint64_t id;                    /* pid, or id of the object */
	uint8_t owner;                  /* enum runs_owner */
	uint8_t codec;
	uint16_t runs, pages;           /* pages: of all runs; of a drop 0 */
	uint16_t reserved;
	uint64_t zeros[RUNS_FRAME_PAGES / 64];
};

struct runs_frame_run { uint64_t start, pages; };

/* A frame taken apart: parcels with their bytes, which lie in it or in `buf`. */
struct runs_read {
	struct runs_frame_head head;
	struct page_parcel parcels[RUNS_FRAME_RUNS];
	uint8_t *buf;                   /* owned (free) */
};

/* EBADMSG: runs out of place, or not what the head says. */
int runs_frame_read(const struct frame *f, struct runs_read *ret, struct err *err);
