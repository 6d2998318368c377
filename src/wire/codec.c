/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "wire/codec.h"

#define ZSTD_LEVEL      1
#define AVERAGE_OVER    8.0
#define LOOK_EVERY      64u     /* blocks */

int codec_parse(const char *text, struct codec_choice *ret, struct err *err)
{
	static const struct { const char *name; enum codec_wish wish; } names[] = {
		{ "none", WISH_NONE }, { "lz4", WISH_LZ4 }, { "zstd", WISH_ZSTD }, { "auto", WISH_AUTO },
	};
	char *end;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (strcmp(text, names[i].name) == 0) {
			*ret = (struct codec_choice){ names[i].wish, ZSTD_LEVEL };
			return 0;
		}
	if (strncmp(text, "zstd:", 5) == 0) {
		long level = strtol(text + 5, &end, 10);

		if (text[5] && !*end && level >= 1 && level <= ZSTD_maxCLevel()) {
			*ret = (struct codec_choice){ WISH_ZSTD, (int)level };
			return 0;
		}
	}
	return err_set(err, EINVAL, "--compress %s: there are none, lz4, zstd, zstd:1 to zstd:%d, and auto", text,
		       ZSTD_maxCLevel());
}

static void average(double *value, double now, unsigned int seen)
{
	*value = seen == 0 ? now : *value + (now - *value) / AVERAGE_OVER;
}

void codec_note_pack(struct codec_costs *costs, size_t in_bytes, size_t out_bytes, uint64_t ns)
{
	average(&costs->pack_ns, (double)ns / (double)in_bytes, costs->packed);
	average(&costs->ratio, (double)out_bytes / (double)in_bytes, costs->packed);
	costs->packed++;
}

void codec_note_wire(struct codec_costs *costs, size_t bytes, uint64_t ns)
{
	if (bytes == 0)
		return;
	average(&costs->wire_ns, (double)ns / (double)bytes, costs->wire_ns == 0 ? 0 : 1);
}

/* A block is compressed while another thread's is on the wire; in doubt it goes as it is. */
bool codec_auto(struct codec_costs *costs)
{
	if (costs->asked++ % LOOK_EVERY == 0 || costs->wire_ns == 0)
		return true;
	return costs->pack_ns + costs->wire_ns * costs->ratio < costs->wire_ns;
}

size_t codec_pack(enum codec codec, int level, const void *in, size_t len_bytes, void *out)
{
	if (codec == CODEC_LZ4)
		return (size_t)LZ4_compress_default(in, out, (int)len_bytes, (int)len_bytes - 1);
	if (codec == CODEC_ZSTD) {
		size_t n = ZSTD_compress(out, len_bytes - 1, in, len_bytes, level);

		return ZSTD_isError(n) ? 0 : n;
	}
	return 0;
}

int codec_unpack(enum codec codec, const void *in, size_t in_bytes, void *out, size_t out_bytes, struct err *err)
{
	size_t n = SIZE_MAX;

	if (codec == CODEC_RAW && in_bytes == out_bytes) {
		memcpy(out, in, in_bytes);
		n = out_bytes;
	} else if (codec == CODEC_LZ4) {
		int got = LZ4_decompress_safe(in, out, (int)in_bytes, (int)out_bytes);

		n = got < 0 ? SIZE_MAX : (size_t)got;
	} else if (codec == CODEC_ZSTD) {
		n = ZSTD_decompress(out, out_bytes, in, in_bytes);
	}
	return n == out_bytes ? 0 : err_set(err, EBADMSG, "compressed pages are broken");
}
