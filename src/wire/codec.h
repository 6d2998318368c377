/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec.h - bytes made smaller for a wire, and back.
 *
 * What does not shrink goes as it is.  With `auto` so does what the wire takes as fast as it can be compressed: the
 * choice is made anew for each block, from what the last ones cost.  It never waits for the CPU longer than for the wire.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Numbers are the format's. */
enum codec { CODEC_RAW = 0, CODEC_LZ4 = 1, CODEC_ZSTD = 2, CODEC_COUNT };
enum codec_wish { WISH_NONE, WISH_LZ4, WISH_ZSTD, WISH_AUTO };

struct codec_choice {
	enum codec_wish wish;
	int level;              /* of zstd */
};

/* "none", "lz4", "zstd", "zstd:LEVEL", "auto".  EINVAL. */
int codec_parse(const char *text, struct codec_choice *ret, struct err *err);

/* What sending costs, as it was lately (moving averages). */
struct codec_costs {
	double wire_ns;         /* a byte on the wire */
	double pack_ns;         /* a byte compressed */
	double ratio;           /* bytes afterwards, of one before */
	unsigned int asked, packed;
};

/* Is the next block to be compressed, by lz4?  Every now and then one is, to know. */
bool codec_auto(struct codec_costs *costs);
void codec_note_pack(struct codec_costs *costs, size_t in_bytes, size_t out_bytes, uint64_t ns);
void codec_note_wire(struct codec_costs *costs, size_t bytes, uint64_t ns);

/* At most len - 1 bytes into `out` (of len bytes): how many; 0: it does not shrink. */
size_t codec_pack(enum codec codec, int level, const void *in, size_t len_bytes, void *out);
/* Exactly out_bytes, or EBADMSG. */
int codec_unpack(enum codec codec, const void *in, size_t in_bytes, void *out, size_t out_bytes, struct err *err);
