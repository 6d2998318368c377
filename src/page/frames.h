/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frames.h - is a page table still the one that was there at the last take?
 *
 * mremap() may move whole page tables (2 MiB), and no soft-dirty bit tells of it: what lies at
 * the target then looks like what lay there before. But it lies in other frames of the machine's memory.  So
 * a take notes the frames of a few pages of each table.  One that has its frame still, and no bit, has not moved,
 * for single pages move with a bit; and then its table has not moved either.
 *
 * Nothing is taken for granted: without the right to see frames (CAP_SYS_ADMIN), or when none of the noted pages is left (they
 * were written, or moved by the kernel), the answer is "another table", and the pages are compared.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/taddr.h"

#define TABLE_PAGES 512u
#define TABLE_BYTES (TABLE_PAGES * 4096ull)

struct page_frame { taddr page; uint64_t number; };
struct frames { struct page_frame *at; size_t len, cap; };   /* a VEC, rising */

/* Of the table at `start`, whose TABLE_PAGES entries of pagemap these are; again: nothing. */
void frames_note(struct frames *frames, taddr start, const uint64_t *entries);
bool frames_same_table(const struct frames *before, taddr start, const uint64_t *entries);
