/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_stream.h - the pages of one pages file go into a stream (page/pages_frame.h).
 *
 * What costs are known (codec_costs) may be handed from one to the next.
 */
#pragma once
#include <pthread.h>

#include "page/page.h"
#include "wire/codec.h"
#include "wire/frame.h"

#define SINK_STREAM_LENT 32u     /* more than the pump has buffers */

struct sink_stream {
	struct page_sink base;
	struct frame_out *out;          /* the caller's */
	uint32_t pages_id;
	struct codec_choice choice;
	struct codec_costs costs;
	bool lends;                     /* the caller may set it: all bytes come in the pump's own buffers (frame_lend) */
	uint64_t end;                   /* bytes placed */
	pthread_mutex_t lock;           /* over all below, and costs */
	pthread_cond_t turn;
	uint64_t sent;
	bool failed;
	struct { const uint8_t *bytes; uint64_t until; } lent[SINK_STREAM_LENT];        /* until: bytes of the stream */
	size_t lent_len;
	uint64_t put;                   /* bytes of the stream */
};

void sink_stream_init(struct sink_stream *s, struct frame_out *out, uint32_t pages_id, const struct codec_choice *choice);
