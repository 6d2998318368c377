/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "page/putter.h"

static int put_all(struct page_sink *sink, const struct putter_chunk *c, struct err *err)
{
	int r = 0;

	if (sink->ops->put_many)
		return sink->ops->put_many(sink, c->parcels, c->count, err);
	for (size_t i = 0; r >= 0 && i < c->count; i++)
		r = sink->ops->put(sink, &c->parcels[i].run, c->parcels[i].to, c->parcels[i].bytes, err);
	return r;
}

/* 1: there is one to be put; 0: there will be none. */
static int wait_for_chunk(struct putter *p)
{
	int r;

	pthread_mutex_lock(&p->lock);
	while (p->put == p->given && !p->quit)
		pthread_cond_wait(&p->news, &p->lock);
	r = p->put != p->given;
	pthread_mutex_unlock(&p->lock);
	return r;
}

static void *work(void *arg)
{
	struct putter *p = arg;

	LOG_SCOPE("%s", p->scope);
	while (wait_for_chunk(p)) {
		struct putter_chunk *c = &p->chunks[p->put % PUTTER_CHUNKS];
		int r = p->failed ? p->failed : put_all(p->sink, c, &p->why);

		pthread_mutex_lock(&p->lock);
		p->failed = r < 0 ? r : 0;
		c->count = c->pages = 0;
		p->put++;
		pthread_cond_signal(&p->news);
		pthread_mutex_unlock(&p->lock);
	}
	return NULL;
}

int putter_begin(struct putter *p, struct err *err)
{
	*p = (struct putter){ .lock = PTHREAD_MUTEX_INITIALIZER, .news = PTHREAD_COND_INITIALIZER };
	for (size_t i = 0; i < PUTTER_CHUNKS; i++) {
		p->chunks[i].bytes = aligned_alloc(PAGE_BYTES, PUMP_CHUNK * PAGE_BYTES);
		if (!p->chunks[i].bytes)
			mem_out();
	}
	log_scope_copy(p->scope, sizeof(p->scope));
	errno = pthread_create(&p->thread, NULL, work, p);
	if (errno == 0)
		return 0;
	for (size_t i = 0; i < PUTTER_CHUNKS; i++)
		free(p->chunks[i].bytes);
	return err_sys(err, "start a thread");
}

/* Gives what is received, and waits until at most `left` chunks are not put yet. */
static int give(struct putter *p, uint64_t left, struct err *err)
{
	int r;

	pthread_mutex_lock(&p->lock);
	p->given += p->chunks[p->given % PUTTER_CHUNKS].count > 0;
	pthread_cond_signal(&p->news);
	while (p->given - p->put > left)
		pthread_cond_wait(&p->news, &p->lock);
	r = p->failed;
	if (r < 0)
		*err = p->why;
	pthread_mutex_unlock(&p->lock);
	return r;
}

int putter_settle(struct putter *p, struct err *err)
{
	return give(p, 0, err);
}

int putter_use(struct putter *p, struct page_sink *sink, struct err *err)
{
	int r = putter_settle(p, err);

	p->sink = sink;
	return r;
}

int putter_room(struct putter *p, const struct page_run *run, const struct page_parcel **ret_room, struct err *err)
{
	struct putter_chunk *c = &p->chunks[p->given % PUTTER_CHUNKS];
	struct page_parcel *parcel;
	int r = 0;

	if (c->count == PUTTER_PARCELS || c->pages == PUMP_CHUNK) {
		r = give(p, PUTTER_CHUNKS - 1, err);
		c = &p->chunks[p->given % PUTTER_CHUNKS];
	}
	if (r < 0)
		return r;
	parcel = &c->parcels[c->count];
	*parcel = (struct page_parcel){ .run = *run, .bytes = c->bytes + c->pages * PAGE_BYTES, .sums = c->sums + c->pages };
	if (parcel->run.pages > PUMP_CHUNK - c->pages)
		parcel->run.pages = PUMP_CHUNK - c->pages;
	r = p->sink->ops->place(p->sink, &parcel->run, &parcel->to, err);
	if (r < 0)
		return r;
	c->count++;
	c->pages += parcel->run.pages;
	*ret_room = parcel;
	return 0;
}

void putter_end(struct putter *p)
{
	pthread_mutex_lock(&p->lock);
	p->quit = true;
	pthread_cond_signal(&p->news);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	for (size_t i = 0; i < PUTTER_CHUNKS; i++)
		free(p->chunks[i].bytes);
}
