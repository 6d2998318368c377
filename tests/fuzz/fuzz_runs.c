/* SPDX-License-Identifier: Apache-2.0 */
/* What a source may send to a receiver as pages, and what it may say of pages that are gone. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fuzz.h"
#include "page/runs.h"
#include "page/runs_frame.h"
#include "wire/codec.h"

/* ---- good input: the type, then what is in the frame ---- */

size_t fuzz_good_input(unsigned int n, uint8_t *buf, size_t size)
{
	const struct runs_frame_run runs[] = { { 0x10000, 2 }, { 0x20000, 1 } };
	struct runs_frame_head head = { .id = 7, .owner = RUNS_TASK, .runs = 2, .pages = n ? 3 : 0, .zeros = { n ? 2 : 0 } };
	size_t pages = n ? 2 : 0, len = 1 + sizeof(head) + sizeof(runs) + pages * PAGE_BYTES, packed;
	uint8_t bytes[2 * PAGE_BYTES];

	if (n > 2 || len > size)
		return 0;
	memset(bytes, 3, sizeof(bytes));
	buf[0] = n ? FRAME_RUNS : FRAME_DROP;
	memcpy(buf + 1 + sizeof(head), runs, sizeof(runs));
	memcpy(buf + 1 + sizeof(head) + sizeof(runs), bytes, pages * PAGE_BYTES);
	if (n == 2) {
		head.codec = CODEC_LZ4;
		packed = codec_pack(CODEC_LZ4, 0, bytes, sizeof(bytes), buf + 1 + sizeof(head) + sizeof(runs));
		len = packed ? 1 + sizeof(head) + sizeof(runs) + packed : 0;
	}
	memcpy(buf + 1, &head, sizeof(head));
	return len;
}

/* ---- the target ---- */

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct frame f = { .type = size && bytes[0] % 2 ? FRAME_DROP : FRAME_RUNS, .len_bytes = size ? (uint32_t)size - 1 : 0 };
	struct err err = { 0 };
	struct runs_read runs;
	uint64_t sum = 0;

	if (size == 0)
		return 0;
	log_setup(2, 0);
	f.bytes = malloc(f.len_bytes + 1);
	memcpy(f.bytes, bytes + 1, f.len_bytes);
	if (runs_frame_read(&f, &runs, &err) < 0) {
		if (!err.text[0])
			abort();        /* a failure without a word */
		free(f.bytes);
		return 0;
	}
	for (size_t i = 0; i < runs.head.runs; i++) {
		if (i > 0 && runs.parcels[i].run.start < run_end(&runs.parcels[i - 1].run))
			abort();
		for (uint64_t k = 0; f.type == FRAME_RUNS && k < runs.parcels[i].run.pages * PAGE_BYTES; k++)
			sum += runs.parcels[i].bytes[k];
	}
	free(runs.buf);
	free(f.bytes);
	return sum == 1 ? 1 : 0;
}
