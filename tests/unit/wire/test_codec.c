/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../cm.h"
#include "base/own.h"
#include "wire/codec.h"

#define BLOCK (128 * 4096)

static void words(void **state)
{
	static const struct { const char *text; enum codec_wish wish; int level; } good[] = {
		{ "none", WISH_NONE, 1 }, { "lz4", WISH_LZ4, 1 }, { "zstd", WISH_ZSTD, 1 }, { "auto", WISH_AUTO, 1 },
		{ "zstd:1", WISH_ZSTD, 1 }, { "zstd:19", WISH_ZSTD, 19 }, { "zstd:22", WISH_ZSTD, 22 },
	};
	static const char *const bad[] = {
		"", "LZ4", "lz4:1", "zstd:", "zstd:0", "zstd:-1", "zstd:23", "zstd:1x", "zstd:99999999999999999999", "gzip",
	};
	struct codec_choice choice;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		OK(&err, codec_parse(good[i].text, &choice, &err));
		assert_int_equal(choice.wish, good[i].wish);
		assert_int_equal(choice.level, good[i].level);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		FAILS(&err, EINVAL, "--compress", codec_parse(bad[i], &choice, &err));
}

/* Blocks from noise to all alike. */
static void make_block(uint8_t *block, size_t len, unsigned int kinds)
{
	for (size_t i = 0; i < len; i++)
		block[i] = (uint8_t)((unsigned int)random() % kinds);
}

/* What was packed is smaller, and becomes what it was; nothing else does. */
static void there_and_back(void **state)
{
	static const unsigned int kinds[] = { 1, 2, 16, 200, 256 };
	static uint8_t block[BLOCK], packed[BLOCK], again[BLOCK];
	unsigned int seed = getenv("SEED") ? (unsigned int)strtoul(getenv("SEED"), NULL, 0) : (unsigned int)time(NULL);
	struct err err;

	(void)state;
	printf("SEED=%u\n", seed);
	srandom(seed);
	for (int i = 0; i < 200; i++) {
		size_t len = i % 4 ? 4096 * (1 + (size_t)random() % 16) : 1 + (size_t)random() % BLOCK, n;
		enum codec codec = i % 2 ? CODEC_LZ4 : CODEC_ZSTD;

		make_block(block, len, kinds[(unsigned int)random() % ARRAY_LEN(kinds)]);
		n = codec_pack(codec, 1 + i % 5, block, len, packed);
		if (n == 0)
			continue;
		assert_true(n < len);
		memset(again, 0xee, len);
		OK(&err, codec_unpack(codec, packed, n, again, len, &err));
		assert_memory_equal(again, block, len);
		FAILS(&err, EBADMSG, "broken", codec_unpack(codec, packed, n - 1, again, len, &err));
		FAILS(&err, EBADMSG, "broken", codec_unpack(codec, packed, n, again, len - 1, &err));
		if (len < BLOCK)
			FAILS(&err, EBADMSG, "broken", codec_unpack(codec, packed, n, again, len + 1, &err));
	}
}

static void noise_does_not_shrink(void **state)
{
	static uint8_t block[BLOCK], packed[BLOCK];

	(void)state;
	make_block(block, sizeof(block), 256);
	assert_int_equal(codec_pack(CODEC_RAW, 1, block, sizeof(block), packed), 0);
	assert_int_equal(codec_pack(CODEC_LZ4, 1, block, sizeof(block), packed), 0);
	assert_int_equal(codec_pack(CODEC_ZSTD, 1, block, sizeof(block), packed), 0);
}

static void as_it_is(void **state)
{
	uint8_t in[100] = "as it is", out[100];
	struct err err;

	(void)state;
	OK(&err, codec_unpack(CODEC_RAW, in, sizeof(in), out, sizeof(out), &err));
	assert_memory_equal(in, out, sizeof(in));
	FAILS(&err, EBADMSG, "broken", codec_unpack(CODEC_RAW, in, 99, out, 100, &err));
	FAILS(&err, EBADMSG, "broken", codec_unpack(CODEC_RAW, in, 100, out, 99, &err));
	FAILS(&err, EBADMSG, "broken", codec_unpack(CODEC_COUNT, in, 100, out, 100, &err));
}

/* ns for a byte, and what a byte becomes. */
static void choices(void **state)
{
	static const struct { const char *what; double wire, pack, ratio; bool want; } rows[] = {
		{ "slow wire, shrinks", 100, 2, 0.5, true },
		{ "slow wire, hardly shrinks", 100, 2, 0.97, true },
		{ "slow wire, does not shrink", 100, 2, 1, false },
		{ "100 MB/s, shrinks by half", 10, 2, 0.5, true },
		{ "wire as fast as the CPU", 2, 2, 0.5, false },
		{ "pipe", 0.3, 2, 0.1, false },
		{ "pipe, nearly all gone", 0.3, 0.1, 0.01, true },
		{ "nothing known of the wire", 0, 2, 0.5, true },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct codec_costs costs = { .wire_ns = rows[i].wire, .pack_ns = rows[i].pack, .ratio = rows[i].ratio,
					     .packed = 9, .asked = 1 };

		if (codec_auto(&costs) != rows[i].want)
			fail_msg("%s: not %d", rows[i].what, rows[i].want);
	}
}

/* A wire that becomes slow, a memory that shrinks again: seen soon. */
static void looks_again(void **state)
{
	struct codec_costs costs = { 0 };
	int tried = 0;

	(void)state;
	assert_true(codec_auto(&costs));
	codec_note_wire(&costs, 0, 1000);       /* nothing is no price */
	codec_note_pack(&costs, 1000, 1000, 2000);
	codec_note_wire(&costs, 1000, 1000);
	for (int i = 0; i < 640; i++)
		tried += codec_auto(&costs);
	assert_int_equal(tried, 10);
	for (int i = 0; i < 30; i++)
		codec_note_wire(&costs, 1000, 100000);
	for (int i = 0; i < 30; i++)
		codec_note_pack(&costs, 1000, 300, 2000);
	assert_true(codec_auto(&costs) && codec_auto(&costs));
	assert_true(costs.ratio > 0.29 && costs.ratio < 0.35);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words),        cmocka_unit_test(there_and_back), cmocka_unit_test(noise_does_not_shrink),
		cmocka_unit_test(as_it_is),     cmocka_unit_test(choices),        cmocka_unit_test(looks_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
