/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pump.c - the one loop that moves pages.
 *
 * Each worker takes the next chunk with a ticket, reads it, waits until the
 * tickets before its own have been placed, places it without its pages of
 * zeros, and puts the bytes.  One slow read therefore never reorders an image.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "page/page.h"

#define MORE_WORKERS_AT 16u     /* chunks: below that a thread costs more than it brings */
#define WORKERS_MAX     8u

/* What one worker has in hands. */
struct chunk {
	struct page_parcel in[PUMP_RUNS], out[PUMP_PARCELS];
	size_t in_len, out_len;
	uint64_t pages, ticket;         /* pages: of which bytes are read */
	uint8_t marks[PUMP_CHUNK];
	uint8_t *buf;                   /* PUMP_CHUNK pages */
};

struct pump {
	struct page_source *src;
	struct page_sink *sink;
	pthread_mutex_t lock;
	pthread_cond_t turn;
	struct page_run rest;           /* what is left of the run that next() gave last */
	uint64_t taken, placed;         /* tickets */
	bool end;
	int failed;
	struct err *err;                /* of the first failure */
	char scope[200];                /* the caller's: errors of all workers have it */
	struct page_count count;
};

/* With the lock held: nobody begins anything after a failure. */
static int fail(struct pump *p, int r, const struct err *err)
{
	if (!p->failed) {
		p->failed = r;
		*p->err = *err;
	}
	p->end = true;
	pthread_cond_broadcast(&p->turn);
	return r;
}

/* 1: *ret_run is what of the next run goes into `room` pages; 0: there is no run, or no room. */
static int cut_run(struct pump *p, uint64_t room, struct page_run *ret_run, struct err *err)
{
	struct page_run *rest = &p->rest;
	uint64_t pages;

	if (!p->end && rest->pages == 0) {
		int r = p->src->ops->next(p->src, rest, err);

		if (r < 0)
			return fail(p, r, err);
		p->end = r == 0;
	}
	if (p->end)
		return 0;
	pages = rest->where & PAGE_HERE && rest->pages > room ? room : rest->pages;
	*ret_run = *rest;
	ret_run->pages = pages;
	rest->start += pages * PAGE_BYTES;
	rest->from += pages * PAGE_BYTES;
	rest->pages -= pages;
	return pages > 0;
}

/* 1: a chunk and its ticket; 0: no more.  Called with the lock held. */
static int take(struct pump *p, struct chunk *c, struct err *err)
{
	struct page_run run;
	int r = 0;

	c->in_len = c->pages = 0;
	while (c->in_len < PUMP_RUNS && c->pages < PUMP_CHUNK &&
	       (r = cut_run(p, PUMP_CHUNK - c->pages, &run, err)) > 0) {
		c->in[c->in_len++] = (struct page_parcel){ .run = run, .bytes = c->buf + c->pages * PAGE_BYTES,
							   .marks = c->marks + c->pages };
		c->pages += run.where & PAGE_HERE ? run.pages : 0;
	}
	if (r < 0 || c->in_len == 0)
		return r;
	c->ticket = p->taken++;
	return 1;
}

static int read_chunk(struct pump *p, struct chunk *c, struct err *err)
{
	int r = 0;

	memset(c->marks, PAGE_MOVE, c->pages);
	if (p->src->ops->read_many)
		return p->src->ops->read_many(p->src, c->in, c->in_len, err);
	for (size_t i = 0; r >= 0 && i < c->in_len; i++)
		if (c->in[i].run.where & PAGE_HERE)
			r = p->src->ops->read(p->src, &c->in[i].run, c->in[i].bytes, err);
	return r;
}

static void mark_zeros(const struct page_parcel *in)
{
	for (uint64_t i = 0; i < in->run.pages; i++)
		if (in->marks[i] == PAGE_MOVE && page_is_zero(in->bytes + i * PAGE_BYTES))
			in->marks[i] = PAGE_ZERO;
}

static void add_out(struct chunk *c, const struct page_parcel *in, uint64_t page)
{
	struct page_parcel *out = &c->out[c->out_len++];

	*out = (struct page_parcel){ .run = in->run, .bytes = in->bytes + page * PAGE_BYTES };
	out->run.start += page * PAGE_BYTES;
	out->run.from += page * PAGE_BYTES;
	out->run.pages = 1;
	out->run.where = in->marks[page] == PAGE_SAME ? PAGE_PARENT : PAGE_HERE;
}

/* Cuts what was read into the runs that the sink is to know of. */
static void cut_marks(struct chunk *c, const struct page_parcel *in)
{
	uint8_t before = PAGE_ZERO;

	for (uint64_t i = 0; i < in->run.pages; i++) {
		uint8_t mark = in->marks[i];

		if ((mark == PAGE_MOVE || mark == PAGE_SAME) && mark == before)
			c->out[c->out_len - 1].run.pages++;
		else if (mark == PAGE_MOVE || mark == PAGE_SAME)
			add_out(c, in, i);
		before = mark;
	}
}

/* From what was read to what is to be moved. */
static int sort_out(struct pump *p, struct chunk *c, struct err *err)
{
	int r = 0;

	c->out_len = 0;
	for (size_t i = 0; r >= 0 && i < c->in_len; i++) {
		const struct page_parcel *in = &c->in[i];

		if (!(in->run.where & PAGE_HERE)) {
			c->out[c->out_len++] = *in;
			continue;
		}
		if (in->run.may_skip_zero)
			mark_zeros(in);
		if (in->run.compare && p->sink->ops->compare)
			r = p->sink->ops->compare(p->sink, in, err);
		cut_marks(c, in);
	}
	return r;
}

/* In order; called with the lock held. */
static int place(struct pump *p, struct chunk *c, struct err *err)
{
	uint64_t lost = 0, here = 0, same = 0;

	for (size_t i = 0; i < c->out_len; i++) {
		struct page_parcel *out = &c->out[i];
		int r = p->sink->ops->place(p->sink, &out->run, &out->to, err);

		if (r < 0)
			return r;
		here += out->run.where & PAGE_HERE ? out->run.pages : 0;
		p->count.parent += out->run.where & PAGE_HERE ? 0 : out->run.pages;
	}
	for (uint64_t i = 0; i < c->pages; i++) {
		lost += c->marks[i] == PAGE_LOST;
		same += c->marks[i] == PAGE_SAME;
	}
	p->count.here += here;
	p->count.lost += lost;
	p->count.zero += c->pages - here - lost - same;
	for (size_t i = 0; i < c->in_len; i++)
		progress_add(p->count.meter, c->in[i].run.pages);
	return 0;
}

static int put_chunk(struct pump *p, struct chunk *c, struct err *err)
{
	int r = 0;

	if (p->sink->ops->put_many)
		return p->sink->ops->put_many(p->sink, c->out, c->out_len, err);
	for (size_t i = 0; r >= 0 && i < c->out_len; i++)
		if (c->out[i].run.where & PAGE_HERE)
			r = p->sink->ops->put(p->sink, &c->out[i].run, c->out[i].to, c->out[i].bytes, err);
	return r;
}

/* From the source into the sink. */
static int carry(struct pump *p, struct chunk *c, struct err *err)
{
	int r = read_chunk(p, c, err);

	if (r >= 0)
		r = sort_out(p, c, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&p->lock);
	while (p->placed != c->ticket && !p->failed)
		pthread_cond_wait(&p->turn, &p->lock);
	r = p->failed ? -ECANCELED : place(p, c, err);
	if (r < 0)
		fail(p, r, err);
	p->placed++;
	pthread_cond_broadcast(&p->turn);
	pthread_mutex_unlock(&p->lock);
	return r < 0 ? r : put_chunk(p, c, err);
}

/* 1: moved one chunk; 0: no more. */
static int move_chunk(struct pump *p, struct chunk *c, struct err *err)
{
	int r;

	pthread_mutex_lock(&p->lock);
	r = take(p, c, err);
	pthread_mutex_unlock(&p->lock);
	if (r <= 0)
		return r;
	r = carry(p, c, err);
	if (p->src->ops->done)
		p->src->ops->done(p->src, c->in, c->in_len);
	return r < 0 ? r : 1;
}

/* Moves chunks until there are no more, or `at_most` of them.  1: stopped by that. */
static int work(struct pump *p, uint64_t at_most)
{
	void (*settle)(struct page_sink *, const uint8_t *) = p->sink->ops->settle;
	uint64_t bufs = settle ? PUMP_BUFS : 1;
	own_free uint8_t *buf = aligned_alloc(PAGE_BYTES, bufs * PUMP_CHUNK * PAGE_BYTES);
	struct chunk c = { 0 };
	struct err err;
	int r = 1;

	if (!buf)
		mem_out();
	for (uint64_t i = 0; r > 0 && i < at_most; i++) {
		c.buf = buf + i % bufs * PUMP_CHUNK * PAGE_BYTES;
		if (settle && i >= bufs)
			settle(p->sink, c.buf);
		r = move_chunk(p, &c, &err);
	}
	/* after a failure nobody believes what came before it: the sink's reader may do as it likes */
	for (uint64_t i = 0; settle && r >= 0 && i < bufs; i++)
		settle(p->sink, buf + i * PUMP_CHUNK * PAGE_BYTES);
	if (r < 0) {
		pthread_mutex_lock(&p->lock);
		fail(p, r, &err);
		pthread_mutex_unlock(&p->lock);
	}
	return r;
}

static void *worker(void *p)
{
	LOG_SCOPE("%s", ((struct pump *)p)->scope);
	work(p, UINT64_MAX);
	return NULL;
}

int page_pump(struct page_source *src, struct page_sink *sink, unsigned int threads, struct page_count *count,
	      struct err *err)
{
	struct pump p = { .src = src, .sink = sink, .err = err, .lock = PTHREAD_MUTEX_INITIALIZER,
			  .turn = PTHREAD_COND_INITIALIZER, .count = { .meter = count->meter } };
	pthread_t more[WORKERS_MAX];
	unsigned int started = 0;

	log_scope_copy(p.scope, sizeof(p.scope));
	if (work(&p, MORE_WORKERS_AT) > 0) {
		while (started + 1 < threads && started < WORKERS_MAX &&
		       pthread_create(&more[started], NULL, worker, &p) == 0)
			started++;
		work(&p, UINT64_MAX);
	}
	for (unsigned int i = 0; i < started; i++)
		pthread_join(more[i], NULL);
	count->here += p.count.here;
	count->parent += p.count.parent;
	count->zero += p.count.zero;
	count->lost += p.count.lost;
	return p.failed;
}

int page_place(struct page_source *src, struct page_sink *sink, struct page_count *count, struct err *err)
{
	struct page_run run;
	uint64_t to;
	int r;

	while ((r = src->ops->next(src, &run, err)) > 0) {
		r = sink->ops->place(sink, &run, &to, err);
		if (r < 0)
			return r;
		count->here += run.where & PAGE_HERE ? run.pages : 0;
		count->parent += run.where & PAGE_HERE ? 0 : run.pages;
	}
	return r;
}
