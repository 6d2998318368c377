/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_stream.c - pages into frames.
 *
 * Workers look for zeros and compress side by side; on the wire it is one after the other, in the order of the file.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "page/pages_frame.h"
#include "page/sink_stream.h"

#define LENT_AT      (64u * PAGE_BYTES)        /* what is less is copied: nobody has to wait for it */
#define LENT_NAP_NS  100000

static int place(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err)
{
	struct sink_stream *s = (struct sink_stream *)sink;

	(void)err;
	*ret_to = s->end;
	if (run->where & PAGE_HERE)
		s->end += run->pages * PAGE_BYTES;
	return 0;
}

/* One frame being made. */
struct packing {
	struct pages_frame_head head;
	struct iovec parts[1 + PAGES_FRAME_MAX];        /* the head, and pages that are not zeros */
	size_t count, len_bytes;
	uint64_t pages;
};

static void add_page(struct packing *p, uint8_t *page)
{
	struct iovec *last = &p->parts[p->count - 1];

	if (page_is_zero(page)) {
		p->head.zeros[p->pages / 64] |= 1ull << p->pages % 64;
	} else if (p->count > 1 && (uint8_t *)last->iov_base + last->iov_len == page) {
		last->iov_len += PAGE_BYTES;
		p->len_bytes += PAGE_BYTES;
	} else {
		p->parts[p->count++] = (struct iovec){ page, PAGE_BYTES };
		p->len_bytes += PAGE_BYTES;
	}
	p->pages++;
}

/* Which one this block is to be tried with. */
static enum codec choose(struct sink_stream *s)
{
	bool yes;

	if (s->choice.wish != WISH_AUTO)
		return s->choice.wish == WISH_LZ4 ? CODEC_LZ4 : s->choice.wish == WISH_ZSTD ? CODEC_ZSTD : CODEC_RAW;
	pthread_mutex_lock(&s->lock);
	yes = codec_auto(&s->costs);
	pthread_mutex_unlock(&s->lock);
	return yes ? CODEC_LZ4 : CODEC_RAW;
}

/* `scratch`: twice the largest block. */
static void compress(struct sink_stream *s, struct packing *p, uint8_t *scratch)
{
	enum codec codec = p->len_bytes > 0 ? choose(s) : CODEC_RAW;
	uint8_t *in = p->count == 2 ? p->parts[1].iov_base : scratch, *out = scratch + PAGES_FRAME_MAX * PAGE_BYTES;
	uint64_t from = clock_ns();
	size_t packed;

	if (codec == CODEC_RAW)
		return;
	for (size_t i = 1, at = 0; p->count > 2 && i < p->count; at += p->parts[i++].iov_len)
		memcpy(scratch + at, p->parts[i].iov_base, p->parts[i].iov_len);
	packed = codec_pack(codec, s->choice.level, in, p->len_bytes, out);
	pthread_mutex_lock(&s->lock);
	codec_note_pack(&s->costs, p->len_bytes, packed ? packed : p->len_bytes, clock_ns() - from);
	pthread_mutex_unlock(&s->lock);
	if (packed == 0)
		return;
	p->head.codec = (uint8_t)codec;
	p->parts[1] = (struct iovec){ out, packed };
	p->count = 2;
}

static int put_frame(struct sink_stream *s, struct frame_place *at, const struct packing *p, struct err *err)
{
	bool lend = s->lends && p->head.codec == CODEC_RAW && p->len_bytes >= LENT_AT;
	int r = lend ? frame_lend_at(s->out, at, FRAME_PAGES, p->parts, p->count, err) :
		       frame_put_at(s->out, at, FRAME_PAGES, p->parts, p->count, err);

	pthread_mutex_lock(&s->lock);
	s->put = s->put > at->end ? s->put : at->end;
	assert(s->lent_len < SINK_STREAM_LENT);
	if (r > 0) {
		s->lent[s->lent_len].bytes = p->parts[1].iov_base;
		s->lent[s->lent_len++].until = at->end;
	}
	if (r >= 0)
		codec_note_wire(&s->costs, at->bytes, at->wait_ns / (s->out->lanes ? s->out->lanes : 1));
	s->failed |= r < 0;
	pthread_cond_broadcast(&s->turn);
	pthread_mutex_unlock(&s->lock);
	return r < 0 ? r : 0;
}

/* 0: nothing in the buffer is lent.  It is forgotten then. */
static uint64_t take_lent(struct sink_stream *s, const uint8_t *buf)
{
	uint64_t until = 0;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->lent_len && until == 0; i++) {
		if (s->lent[i].bytes < buf || s->lent[i].bytes >= buf + PUMP_CHUNK * PAGE_BYTES)
			continue;
		until = s->lent[i].until;
		s->lent[i] = s->lent[--s->lent_len];
	}
	pthread_mutex_unlock(&s->lock);
	return until;
}

/* By then so much was put behind it that the pipe can't have it any more; but for pages of zeros, and at the end. */
static void settle(struct page_sink *sink, const uint8_t *buf)
{
	struct sink_stream *s = (struct sink_stream *)sink;
	const struct timespec nap = { .tv_nsec = LENT_NAP_NS };
	uint64_t until = take_lent(s, buf), put;

	while (until > 0) {
		pthread_mutex_lock(&s->lock);
		put = s->put;
		pthread_mutex_unlock(&s->lock);
		if (frame_was_read(s->out, put, until))
			return;
		nanosleep(&nap, NULL);
	}
}

/* In the order of the file; then the next one may send, where it has a lane of its own. */
static int send_in_turn(struct sink_stream *s, struct packing *p, struct err *err)
{
	struct frame_place at;
	int r;

	pthread_mutex_lock(&s->lock);
	while (s->sent != p->head.offset && !s->failed)
		pthread_cond_wait(&s->turn, &s->lock);
	r = s->failed ? -ECANCELED : 0;
	pthread_mutex_unlock(&s->lock);
	if (r < 0)                      /* the first failure is the one that is told */
		return err_set(err, ECANCELED, "the stream has failed");
	frame_reserve(s->out, &at);     /* the turn is ours: nobody else is here */
	pthread_mutex_lock(&s->lock);
	s->sent += p->pages * PAGE_BYTES;
	pthread_cond_broadcast(&s->turn);
	pthread_mutex_unlock(&s->lock);
	return put_frame(s, &at, p, err);
}

static int put_many(struct page_sink *sink, const struct page_parcel *parcels, size_t count, struct err *err)
{
	struct sink_stream *s = (struct sink_stream *)sink;
	struct packing p = { .count = 1 };
	own_free uint8_t *scratch = NULL;

	p.parts[0] = (struct iovec){ &p.head, sizeof(p.head) };
	for (size_t i = 0; i < count; i++) {
		if (!(parcels[i].run.where & PAGE_HERE))
			continue;
		if (p.pages == 0)
			p.head.offset = parcels[i].to;
		for (uint64_t k = 0; k < parcels[i].run.pages; k++)
			add_page(&p, parcels[i].bytes + k * PAGE_BYTES);
	}
	if (p.pages == 0)
		return 0;
	if (s->choice.wish != WISH_NONE) {
		scratch = malloc(2 * PAGES_FRAME_MAX * PAGE_BYTES);
		if (!scratch)
			mem_out();
		compress(s, &p, scratch);
	}
	p.head.pages_id = s->pages_id;
	p.head.pages = (uint16_t)p.pages;
	return send_in_turn(s, &p, err);
}

void sink_stream_init(struct sink_stream *s, struct frame_out *out, uint32_t pages_id, const struct codec_choice *choice)
{
	static const struct page_sink_ops ops = { .place = place, .put_many = put_many, .settle = settle };

	*s = (struct sink_stream){ .base = { &ops }, .out = out, .pages_id = pages_id, .choice = *choice,
				   .lock = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_COND_INITIALIZER };
}
