/* SPDX-License-Identifier: Apache-2.0 */
#include "base/vec.h"
#include "kernel/pagemap.h"
#include "page/frames.h"

#define PAGE_SIZE_BYTES (TABLE_BYTES / TABLE_PAGES)
#define APART           (TABLE_PAGES / 4)       /* pages: four of a full table are noted */

/* 0: it has none of its own, or it is not shown. */
static uint64_t frame_of(uint64_t entry)
{
	const bool own = entry & PM_ENTRY_PRESENT && entry & PM_ENTRY_EXCLUSIVE && pagemap_entry_is_own(entry);

	return own ? PM_ENTRY_PFN(entry) : 0;
}

void frames_note(struct frames *frames, taddr start, const uint64_t *entries)
{
	if (frames->len > 0 && frames->at[frames->len - 1].page >= start)
		return;
	for (size_t i = 0; i < TABLE_PAGES; i++) {
		const uint64_t number = frame_of(entries[i]);

		if (number == 0)
			continue;
		vec_push(frames, ((struct page_frame){ start + i * PAGE_SIZE_BYTES, number }));
		i += APART - 1;
	}
}

static size_t first_from(const struct frames *frames, taddr start)
{
	size_t low = 0, high = frames->len;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (frames->at[mid].page < start)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool frames_same_table(const struct frames *before, taddr start, const uint64_t *entries)
{
	for (size_t i = first_from(before, start); i < before->len && before->at[i].page < start + TABLE_BYTES; i++) {
		uint64_t entry = entries[(before->at[i].page - start) / PAGE_SIZE_BYTES];

		if (!(entry & PM_ENTRY_SOFT_DIRTY) && frame_of(entry) != 0 && frame_of(entry) == before->at[i].number)
			return true;
	}
	return false;
}
