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
#define PIECES_MAX      (PUMP_CHUNK / 2 + 1)

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

struct piece { struct page_run run; uint64_t to; const uint8_t *bytes; };

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

/* 1: a chunk and its ticket; 0: no more.  Called with the lock held. */
static int take(struct pump *p, struct page_run *ret_run, uint64_t *ret_ticket, struct err *err)
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
	pages = rest->where & PAGE_HERE && rest->pages > PUMP_CHUNK ? PUMP_CHUNK : rest->pages;
	*ret_run = *rest;
	ret_run->pages = pages;
	rest->start += pages * PAGE_BYTES;
	rest->from += pages * PAGE_BYTES;
	rest->pages -= pages;
	*ret_ticket = p->taken++;
	return 1;
}

static bool is_zero(const uint8_t *page)
{
	const uint64_t *w = (const void *)page;

	return w[0] == 0 && memcmp(page, page + 8, PAGE_BYTES - 8) == 0;
}

/* Cuts a chunk into the runs that are to be moved. */
static size_t cut_zeros(const struct page_run *run, const uint8_t *bytes, struct piece *pieces)
{
	size_t n = 0;
	bool open = false;

	if (!run->may_skip_zero) {
		pieces[0] = (struct piece){ .run = *run, .bytes = bytes };
		return 1;
	}
	for (uint64_t i = 0; i < run->pages; i++) {
		const uint8_t *page = bytes + i * PAGE_BYTES;

		if (is_zero(page)) {
			open = false;
		} else if (open) {
			pieces[n - 1].run.pages++;
		} else {
			pieces[n] = (struct piece){ .run = *run, .bytes = page };
			pieces[n].run.start += i * PAGE_BYTES;
			pieces[n].run.pages = 1;
			n++;
			open = true;
		}
	}
	return n;
}

static int place(struct pump *p, const struct page_run *run, struct piece *pieces, size_t n, struct err *err)
{
	uint64_t moved = 0;

	for (size_t i = 0; i < n; i++) {
		int r = p->sink->ops->place(p->sink, &pieces[i].run, &pieces[i].to, err);

		if (r < 0)
			return r;
		moved += pieces[i].run.pages;
	}
	progress_add(p->count.meter, run->pages);
	if (run->where & PAGE_HERE) {
		p->count.here += moved;
		p->count.zero += run->pages - moved;
	} else {
		p->count.parent += run->pages;
	}
	return 0;
}

/* 1: moved one chunk; 0: no more. */
static int move_chunk(struct pump *p, uint8_t *buf, struct err *err)
{
	struct piece pieces[PIECES_MAX];
	struct page_run run;
	uint64_t ticket;
	size_t n = 1;
	int r;

	pthread_mutex_lock(&p->lock);
	r = take(p, &run, &ticket, err);
	pthread_mutex_unlock(&p->lock);
	if (r <= 0)
		return r;
	if (run.where & PAGE_HERE) {
		r = p->src->ops->read(p->src, &run, buf, err);
		if (r < 0)
			return r;
		n = cut_zeros(&run, buf, pieces);
	} else {
		pieces[0] = (struct piece){ .run = run };
	}
	pthread_mutex_lock(&p->lock);
	while (p->placed != ticket && !p->failed)
		pthread_cond_wait(&p->turn, &p->lock);
	r = p->failed ? -ECANCELED : place(p, &run, pieces, n, err);
	if (r < 0)
		fail(p, r, err);
	p->placed++;
	pthread_cond_broadcast(&p->turn);
	pthread_mutex_unlock(&p->lock);
	for (size_t i = 0; r == 0 && i < n && run.where & PAGE_HERE; i++)
		r = p->sink->ops->put(p->sink, &pieces[i].run, pieces[i].to, pieces[i].bytes, err);
	return r < 0 ? r : 1;
}

/* Moves chunks until there are no more, or `at_most` of them.  1: stopped by that. */
static int work(struct pump *p, uint64_t at_most)
{
	own_free uint8_t *buf = aligned_alloc(PAGE_BYTES, PUMP_CHUNK * PAGE_BYTES);
	struct err err;
	int r = 1;

	if (!buf)
		mem_out();
	for (uint64_t i = 0; r > 0 && i < at_most; i++)
		r = move_chunk(p, buf, &err);
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
	return p.failed;
}
