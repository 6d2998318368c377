/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "base/own.h"
#include "page/ends.h"
#include "wire/ps_sum.h"

static int place(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err)
{
	struct sink_server *s = (struct sink_server *)sink;
	int r = entries_add(&s->sent, run, err);

	if (r == 0)
		*ret_to = s->placed++;
	return r;
}

/* What need not be done in turn. */
static void prepare(const struct page_parcel *parcels, size_t count, struct ps_run *runs, uint64_t *sums)
{
	for (size_t i = 0; i < count; i++) {
		const struct page_run *run = &parcels[i].run;
		bool here = run->where & PAGE_HERE;

		runs[i] = (struct ps_run){ run->start, run->pages, here ? parcels[i].bytes : NULL };
		if (!here)
			continue;
		ps_sum_pages(parcels[i].bytes, run->pages, sums);
		sums += run->pages;
	}
}

/* After all that was placed before.  Nothing is sent behind what could not be. */
static int put_many(struct page_sink *sink, const struct page_parcel *parcels, size_t count, struct err *err)
{
	struct sink_server *s = (struct sink_server *)sink;
	struct ps_run runs[PUMP_PARCELS];
	uint64_t sums[PUMP_CHUNK];
	int r;

	if (count == 0)
		return 0;
	prepare(parcels, count, runs, sums);
	pthread_mutex_lock(&s->lock);
	while (s->put != parcels[0].to && !s->failed)
		pthread_cond_wait(&s->turn, &s->lock);
	r = s->failed;
	pthread_mutex_unlock(&s->lock);
	if (r == 0)
		r = ps_client_add(s->client, runs, count, sums, &s->why);
	pthread_mutex_lock(&s->lock);
	s->put += count;
	s->failed = r;
	pthread_cond_broadcast(&s->turn);
	pthread_mutex_unlock(&s->lock);
	if (r < 0)
		*err = s->why;
	return r;
}

/* The pump hands over several at once. */
static int put(struct page_sink *sink, const struct page_run *run, uint64_t to, const void *bytes, struct err *err)
{
	return put_many(sink, &(struct page_parcel){ .run = *run, .bytes = (uint8_t *)(uintptr_t)bytes, .to = to }, 1, err);
}

int sink_server_open(struct sink_server *s, struct ps_client *client, struct store *store, enum image_kind kind, uint64_t id,
		     bool on_parent, struct err *err)
{
	static const struct page_sink_ops ops = { place, put, put_many };
	bool task = kind == IMAGE_PAGEMAP;
	int r;

	*s = (struct sink_server){ .base = { &ops }, .client = client, .type = task ? PS_TASK : PS_SHMEM, .id = id,
				   .lock = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_COND_INITIALIZER };
	r = ps_client_open(client, s->type, id, on_parent, err);
	return r < 0 ? r : image_create(store, task ? IMAGE_FERRY_SENT : IMAGE_FERRY_SENT_SHMEM, id, &s->sent.writer, err);
}

int sink_server_close(struct sink_server *s, struct err *err)
{
	int r = entries_end(&s->sent, err);

	if (r == 0)
		r = image_finish(&s->sent.writer, err);
	image_drop(TAKE_PTR(s->sent.writer));
	return r;
}
