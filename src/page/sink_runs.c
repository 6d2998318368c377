/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>
#endif

#include "base/mem.h"
#include "base/own.h"
#include "page/sink_runs.h"

/* ---- checksums ---- */

static struct sum_entry *slot_of(const struct sum_set *s, uint64_t page)
{
	size_t i = (size_t)(page / PAGE_BYTES * 0x9e3779b97f4a7c15ull >> 20) & (s->cap - 1);

	while (s->at[i].page && s->at[i].page != page + 1)
		i = (i + 1) & (s->cap - 1);
	return &s->at[i];
}

static void grow(struct sum_set *s)
{
	struct sum_set bigger = { .cap = s->cap ? s->cap * 2 : 1024, .used = s->used };

	bigger.at = mem_new(bigger.cap * sizeof(*bigger.at));
	for (size_t i = 0; i < s->cap; i++)
		if (s->at[i].page)
			*slot_of(&bigger, s->at[i].page - 1) = s->at[i];
	free(s->at);
	*s = bigger;
}

bool sum_set_same(struct sum_set *s, uint64_t page, uint64_t sum)
{
	struct sum_entry *e;
	bool same;

	sum = sum ? sum : 1;            /* 0: forgotten */
	if (s->used * 2 >= s->cap)
		grow(s);
	e = slot_of(s, page);
	same = e->page && e->sum == sum;
	s->used += !e->page;
	*e = (struct sum_entry){ page + 1, sum };       /* 0 is no page */
	return same;
}

void sum_set_forget(struct sum_set *s, uint64_t page)
{
	struct sum_entry *e = s->cap ? slot_of(s, page) : NULL;

	if (e && e->page)
		e->sum = 0;
}

void sum_set_free(struct sum_set *s)
{
	free(s->at);
	*s = (struct sum_set){ 0 };
}

/* ---- the sink ---- */

static int place(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err)
{
	(void)sink;
	(void)err;
	*ret_to = run->start;
	return 0;
}

static int compare(struct page_sink *sink, const struct page_parcel *parcel, struct err *err)
{
	struct sink_runs *s = (struct sink_runs *)sink;

	(void)err;
	for (uint64_t i = 0; s->seen && i < parcel->run.pages; i++) {
		uint64_t sum;

		if (parcel->marks[i] != PAGE_MOVE)
			continue;
		sum = XXH3_64bits(parcel->bytes + i * PAGE_BYTES, PAGE_BYTES);
		pthread_mutex_lock(&s->lock);
		if (sum_set_same(s->seen, parcel->run.start + i * PAGE_BYTES, sum))
			parcel->marks[i] = PAGE_SAME;
		pthread_mutex_unlock(&s->lock);
	}
	return 0;
}

/* Who has it has something else now, or nothing: the sum of before says nothing any more. */
static void forget(struct sink_runs *s, const struct page_run *run)
{
	pthread_mutex_lock(&s->lock);
	for (uint64_t i = 0; s->seen && s->seen->cap && i < run->pages; i++)
		sum_set_forget(s->seen, run->start + i * PAGE_BYTES);
	pthread_mutex_unlock(&s->lock);
}

struct packing {
	struct runs_frame_head head;
	struct runs_frame_run runs[RUNS_FRAME_RUNS];
	struct iovec parts[2 + RUNS_FRAME_PAGES];       /* head, runs, pages that are not zeros */
	size_t count, len_bytes;
};

static void add_page(struct packing *p, uint8_t *page)
{
	struct iovec *last = &p->parts[p->count - 1];
	uint64_t index = p->head.pages++;

	if (page_is_zero(page)) {
		p->head.zeros[index / 64] |= 1ull << index % 64;
		return;
	}
	p->len_bytes += PAGE_BYTES;
	if (p->count > 2 && (uint8_t *)last->iov_base + last->iov_len == page)
		last->iov_len += PAGE_BYTES;
	else
		p->parts[p->count++] = (struct iovec){ page, PAGE_BYTES };
}

static void compress(const struct sink_runs *s, struct packing *p, uint8_t **scratch)
{
	enum codec codec = s->choice.wish == WISH_ZSTD ? CODEC_ZSTD : CODEC_LZ4;
	size_t packed, at = 0;
	uint8_t *out;

	if (s->choice.wish == WISH_NONE || p->len_bytes == 0)
		return;
	*scratch = mem_new(2 * p->len_bytes);
	out = *scratch + p->len_bytes;
	for (size_t i = 2; i < p->count; at += p->parts[i++].iov_len)
		memcpy(*scratch + at, p->parts[i].iov_base, p->parts[i].iov_len);
	packed = codec_pack(codec, s->choice.level, *scratch, p->len_bytes, out);
	if (packed == 0)
		return;
	p->head.codec = (uint8_t)codec;
	p->parts[2] = (struct iovec){ out, packed };
	p->count = 3;
}

static int put_many(struct page_sink *sink, const struct page_parcel *parcels, size_t count, struct err *err)
{
	struct sink_runs *s = (struct sink_runs *)sink;
	struct packing p = { .head = { .id = s->id, .owner = (uint8_t)s->owner }, .count = 2 };
	own_free uint8_t *scratch = NULL;
	struct frame_place at;

	for (size_t i = 0; i < count; i++) {
		if (!(parcels[i].run.where & PAGE_HERE))
			continue;
		if (!parcels[i].run.compare)    /* else compare() has noted it */
			forget(s, &parcels[i].run);
		p.runs[p.head.runs++] = (struct runs_frame_run){ parcels[i].run.start, parcels[i].run.pages };
		for (uint64_t k = 0; k < parcels[i].run.pages; k++)
			add_page(&p, parcels[i].bytes + k * PAGE_BYTES);
	}
	if (p.head.pages == 0)
		return 0;
	compress(s, &p, &scratch);
	p.parts[0] = (struct iovec){ &p.head, sizeof(p.head) };
	p.parts[1] = (struct iovec){ p.runs, p.head.runs * sizeof(*p.runs) };
	pthread_mutex_lock(&s->lock);
	frame_reserve(s->out, &at);
	s->pages += p.head.pages;
	pthread_mutex_unlock(&s->lock);
	return frame_put_at(s->out, &at, FRAME_RUNS, p.parts, p.count, err);
}

int sink_runs_drop(struct sink_runs *s, const struct page_runs *runs, struct err *err)
{
	struct runs_frame_run out[RUNS_FRAME_RUNS];
	int r = 0;

	for (size_t i = 0, n; r == 0 && i < runs->len; i += n) {
		struct runs_frame_head head = { .id = s->id, .owner = (uint8_t)s->owner };
		struct iovec parts[2];

		for (n = 0; n < RUNS_FRAME_RUNS && i + n < runs->len; n++) {
			forget(s, &runs->at[i + n]);
			out[n] = (struct runs_frame_run){ runs->at[i + n].start, runs->at[i + n].pages };
		}
		head.runs = (uint16_t)n;
		parts[0] = (struct iovec){ &head, sizeof(head) };
		parts[1] = (struct iovec){ out, n * sizeof(*out) };
		r = frame_put(s->out, FRAME_DROP, parts, 2, err);
	}
	return r;
}

void sink_runs_init(struct sink_runs *s, struct frame_out *out, enum runs_owner owner, uint64_t id,
		    const struct codec_choice *choice, struct sum_set *seen)
{
	static const struct page_sink_ops ops = { .place = place, .put_many = put_many, .compare = compare };

	*s = (struct sink_runs){ .base = { &ops }, .out = out, .owner = owner, .id = id, .choice = *choice, .seen = seen,
				 .lock = PTHREAD_MUTEX_INITIALIZER };
}
