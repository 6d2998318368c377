/* SPDX-License-Identifier: Apache-2.0 */
/* A putter between somebody who receives and a sink: all is put, where it was placed, and a failure comes back. */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "../cm.h"
#include "base/err.h"
#include "page/putter.h"

#define PAGES_MAX 4096u

struct place_sink {
	struct page_sink base;
	uint64_t placed, parcels, fail_at;      /* fail_at: the page whose put fails; 0: none */
	pthread_mutex_t lock;
	uint8_t got[PAGES_MAX];                 /* first byte of each page, by place */
	uint64_t put;
};

static int place(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err)
{
	struct place_sink *s = (struct place_sink *)sink;

	(void)err;
	*ret_to = s->placed;
	s->placed += run->pages;
	s->parcels++;
	return 0;
}

static int put(struct page_sink *sink, const struct page_run *run, uint64_t to, const void *bytes, struct err *err)
{
	struct place_sink *s = (struct place_sink *)sink;

	pthread_mutex_lock(&s->lock);
	for (uint64_t i = 0; i < run->pages; i++)
		s->got[to + i] = ((const uint8_t *)bytes)[i * PAGE_BYTES];
	s->put += run->pages;
	pthread_mutex_unlock(&s->lock);
	if (s->fail_at && to <= s->fail_at && s->fail_at < to + run->pages)
		return err_set(err, ENOSPC, "no room for page %llu", (unsigned long long)s->fail_at);
	return 0;
}

static uint8_t byte_of(uint64_t page)
{
	return (uint8_t)(page * 7 + page / 256 + 1);
}

/* What came with the pages is with them. */
static int put_many(struct page_sink *sink, const struct page_parcel *parcels, size_t count, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++) {
		for (uint64_t k = 0; k < parcels[i].run.pages; k++)
			assert_int_equal(byte_of(parcels[i].sums[k]), parcels[i].bytes[k * PAGE_BYTES]);
		r = put(sink, &parcels[i].run, parcels[i].to, parcels[i].bytes, err);
	}
	return r;
}

static const struct page_sink_ops ops = { .place = place, .put_many = put_many };

static struct place_sink new_sink(void)
{
	return (struct place_sink){ .base = { &ops }, .lock = PTHREAD_MUTEX_INITIALIZER };
}

/* Receives so many pages in one run. */
static int receive(struct putter *p, uint64_t *at, uint64_t pages, struct err *err)
{
	struct page_run run = { .start = *at * PAGE_BYTES, .pages = pages, .where = PAGE_HERE };

	while (run.pages > 0) {
		const struct page_parcel *room;
		uint64_t n;
		int r = putter_room(p, &run, &room, err);

		if (r < 0)
			return r;
		n = room->run.pages;
		assert_true(n > 0 && n <= run.pages && (uintptr_t)room->bytes % PAGE_BYTES == 0);
		for (uint64_t i = 0; i < n; i++) {
			memset(room->bytes + i * PAGE_BYTES, byte_of(*at), PAGE_BYTES);
			room->sums[i] = (*at)++;
		}
		run.start += n * PAGE_BYTES;
		run.pages -= n;
	}
	return 0;
}

static void check_all(const struct place_sink *s, uint64_t from, uint64_t pages)
{
	assert_int_equal(s->put, pages);
	for (uint64_t i = 0; i < pages; i++)
		assert_int_equal(s->got[i], byte_of(from + i));
}

/* Runs of one page and of many, more than all chunks hold, into one sink and then another one. */
static void all_is_put(void **state)
{
	struct place_sink one = new_sink(), other = new_sink();
	struct putter p;
	struct err err = { 0 };
	uint64_t at = 0, before;

	(void)state;
	OK(&err, putter_begin(&p, &err));
	OK(&err, putter_use(&p, &one.base, &err));
	for (uint64_t i = 0; i < 300; i++)
		OK(&err, receive(&p, &at, 1 + i % 3, &err));
	OK(&err, receive(&p, &at, 1000, &err));
	OK(&err, putter_use(&p, &other.base, &err));
	check_all(&one, 0, at);
	before = at;
	OK(&err, receive(&p, &at, 3, &err));
	OK(&err, putter_settle(&p, &err));
	check_all(&other, before, 3);
	OK(&err, putter_settle(&p, &err));      /* nothing new */
	putter_end(&p);
}

static void what_is_not_settled_may_be_left(void **state)
{
	struct place_sink one = new_sink();
	struct putter p;
	struct err err = { 0 };
	uint64_t at = 0;

	(void)state;
	OK(&err, putter_begin(&p, &err));
	putter_end(&p);
	OK(&err, putter_begin(&p, &err));
	OK(&err, putter_use(&p, &one.base, &err));
	OK(&err, receive(&p, &at, 5, &err));
	putter_end(&p);
	assert_int_equal(one.put, 0);
}

static void a_failure_comes_back(void **state)
{
	struct place_sink one = new_sink();
	struct putter p;
	struct err err = { 0 };
	uint64_t at = 0;
	int r = 0;

	(void)state;
	one.fail_at = 200;
	OK(&err, putter_begin(&p, &err));
	OK(&err, putter_use(&p, &one.base, &err));
	while (r == 0 && at < PAGES_MAX - 200)
		r = receive(&p, &at, 150, &err);
	assert_int_equal(r, -ENOSPC);
	assert_string_equal(err.text, "no room for page 200");
	FAILS(&err, ENOSPC, "page 200", putter_settle(&p, &err));
	putter_end(&p);
	assert_true(one.put < at);      /* nothing behind it */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_is_put), cmocka_unit_test(what_is_not_settled_may_be_left), cmocka_unit_test(a_failure_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
