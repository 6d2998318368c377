/* SPDX-License-Identifier: Apache-2.0 */
/* The pump between a source and a sink that watch how it calls them. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../cm.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "base/vec.h"
#include "page/page.h"

/* A test's own thread alone may leave it the way that cmocka does. */
#define MUST(what) do {                                                         \
		if (!(what)) {                                                  \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                \
		}                                                               \
	} while (0)

#define BASE 0x7f0000000000ull

enum step { NEXT, READ, PLACE, PUT, STEPS };

/* Runs whose pages hold their address; what the address says is zero, is zero. */
struct world {
	struct page_source source;
	struct page_sink sink;
	VEC(struct page_run) runs;
	size_t next;
	uint64_t calls[STEPS];          /* READ, PUT: under lock */
	uint64_t fail_at[STEPS];        /* the call that fails; 0: none */
	bool failed;
	atomic_int in_order;            /* somebody is in next or place */
	taddr placed_to;                /* up to where */
	uint64_t to;
	VEC(uint64_t) moved;            /* address of each page, by place */
	pthread_mutex_t lock;
	pthread_cond_t other;
	uint64_t wait_for_other;        /* the read that waits until a later one is done; 0: none */
	pthread_t caller;
	bool only_caller;
};

static bool zero_at(taddr at)
{
	uint64_t n = (at - BASE) / PAGE_BYTES;

	return n % 7 == 3 || (n / 64) % 5 == 2 || (n / 256) % 9 == 4;
}

static int count_call(struct world *w, enum step s, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&w->lock);
	w->calls[s]++;
	MUST(!w->failed || !w->fail_at[s] || s == READ || s == PUT);     /* never again after it failed */
	if (w->calls[s] == w->fail_at[s]) {
		w->failed = true;
		r = err_set(err, ENOLINK, "step %d broke", s);
	}
	pthread_mutex_unlock(&w->lock);
	return r;
}

static struct world *world_of_source(struct page_source *s)
{
	return (struct world *)((char *)s - offsetof(struct world, source));
}

static struct world *world_of_sink(struct page_sink *s)
{
	return (struct world *)((char *)s - offsetof(struct world, sink));
}

static int next(struct page_source *source, struct page_run *ret_run, struct err *err)
{
	struct world *w = world_of_source(source);
	int r;

	MUST(atomic_fetch_add(&w->in_order, 1) == 0);
	r = count_call(w, NEXT, err);
	if (r == 0 && w->next < w->runs.len) {
		*ret_run = w->runs.at[w->next++];
		r = 1;
	}
	atomic_fetch_sub(&w->in_order, 1);
	return r;
}

/* A read behind `wait_for_other` has to come while that one waits. */
static void wait_for_later(struct world *w, uint64_t mine)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += 20;
	pthread_mutex_lock(&w->lock);
	if (mine == w->wait_for_other)
		while (w->calls[READ] < mine + 1)
			MUST(pthread_cond_timedwait(&w->other, &w->lock, &end) == 0);   /* else nobody reads meanwhile */
	pthread_cond_broadcast(&w->other);
	pthread_mutex_unlock(&w->lock);
}

static int read_run(struct page_source *source, const struct page_run *run, void *buf, struct err *err)
{
	struct world *w = world_of_source(source);
	int r = count_call(w, READ, err);

	MUST(run->pages >= 1 && run->pages <= PUMP_CHUNK);
	MUST(run->from == (run->start ^ BASE));
	if (w->only_caller)
		MUST(pthread_equal(pthread_self(), w->caller));
	if (w->wait_for_other)
		wait_for_later(w, (run->start - BASE) / PAGE_BYTES / PUMP_CHUNK + 1);
	else if (run->start / PAGE_BYTES % 3 == 0)
		sched_yield();
	for (uint64_t i = 0; i < run->pages; i++) {
		taddr at = run->start + i * PAGE_BYTES;
		uint64_t *page = (uint64_t *)((char *)buf + i * PAGE_BYTES);

		/* the difference from zero is anywhere in a page */
		memset(page, 0, PAGE_BYTES);
		if (!zero_at(at))
			page[at / PAGE_BYTES % 512] = at;
	}
	return r;
}

static int place(struct page_sink *sink, const struct page_run *run, uint64_t *ret_to, struct err *err)
{
	struct world *w = world_of_sink(sink);
	int r;

	MUST(atomic_fetch_add(&w->in_order, 1) == 0);
	MUST(run->start >= w->placed_to);
	w->placed_to = run->start + run->pages * PAGE_BYTES;
	r = count_call(w, PLACE, err);
	*ret_to = w->to;
	pthread_mutex_lock(&w->lock);
	for (uint64_t i = 0; run->where & PAGE_HERE && i < run->pages; i++)
		vec_push(&w->moved, 0);
	pthread_mutex_unlock(&w->lock);
	if (run->where & PAGE_HERE)
		w->to += run->pages;
	atomic_fetch_sub(&w->in_order, 1);
	return r;
}

static int put(struct page_sink *sink, const struct page_run *run, uint64_t to, const void *bytes, struct err *err)
{
	struct world *w = world_of_sink(sink);
	int r = count_call(w, PUT, err);

	MUST(run->where & PAGE_HERE);
	MUST(run->pages >= 1 && run->pages <= PUMP_CHUNK);
	if (w->only_caller)
		MUST(pthread_equal(pthread_self(), w->caller));
	for (uint64_t i = 0; i < run->pages; i++) {
		taddr at = run->start + i * PAGE_BYTES;
		const uint64_t *page = (const void *)((const char *)bytes + i * PAGE_BYTES);

		MUST(page[at / PAGE_BYTES % 512] == (zero_at(at) ? 0 : at));
		pthread_mutex_lock(&w->lock);
		MUST(to + i < w->moved.len);
		MUST(w->moved.at[to + i] == 0);
		w->moved.at[to + i] = at;
		pthread_mutex_unlock(&w->lock);
	}
	return r;
}

static int setup(void **state)
{
	static const struct page_source_ops source = { next, read_run };
	static const struct page_sink_ops sink = { place, put };
	struct world *w = mem_new(sizeof(*w));

	w->source.ops = &source;
	w->sink.ops = &sink;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->other, NULL);
	w->caller = pthread_self();
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	vec_free(&w->runs);
	vec_free(&w->moved);
	free(w);
	return 0;
}

static void again(struct world *w)
{
	w->next = 0;
	w->to = w->placed_to = 0;
	w->moved.len = 0;
	w->failed = false;
	memset(w->calls, 0, sizeof(w->calls));
}

static void add(struct world *w, uint64_t first, uint64_t pages, enum page_where where, bool may_skip_zero)
{
	taddr start = BASE + first * PAGE_BYTES;

	vec_push(&w->runs, ((struct page_run){ .start = start, .pages = pages, .where = where, .from = start ^ BASE,
					       .may_skip_zero = may_skip_zero }));
}

/* What the runs say is what was moved, each page once, in order. */
static void check(struct world *w, const struct page_count *count)
{
	struct page_count want = { 0 };

	for (size_t i = 0; i < w->runs.len; i++) {
		const struct page_run *run = &w->runs.at[i];

		if (!(run->where & PAGE_HERE)) {
			want.parent += run->pages;
			continue;
		}
		for (uint64_t k = 0; k < run->pages; k++) {
			taddr at = run->start + k * PAGE_BYTES;

			if (run->may_skip_zero && zero_at(at)) {
				want.zero++;
				continue;
			}
			assert_true(want.here < w->moved.len);
			assert_int_equal(w->moved.at[want.here++], at);
		}
	}
	assert_int_equal(w->moved.len, want.here);
	assert_int_equal(count->here, want.here);
	assert_int_equal(count->zero, want.zero);
	assert_int_equal(count->parent, want.parent);
}

static void pump(struct world *w, unsigned int threads)
{
	struct page_count count = { 0 };
	struct err err;

	again(w);
	OK(&err, page_pump(&w->source, &w->sink, threads, &count, &err));
	check(w, &count);
}

static void all_kinds_of_runs(struct world *w, uint64_t seed)
{
	uint64_t at = 0;

	srandom((unsigned int)seed);
	for (int i = 0; i < 300; i++) {
		uint64_t pages = 1 + (uint64_t)random() % (random() % 4 ? 20 : 600);

		at += (uint64_t)random() % 3;
		add(w, at, pages, random() % 5 ? PAGE_HERE : PAGE_PARENT, random() % 2);
		at += pages;
	}
}

static void any_number_of_threads(void **state)
{
	struct world *w = *state;
	uint64_t seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 0) : (uint64_t)time(NULL);

	printf("SEED=%llu\n", (unsigned long long)seed);
	all_kinds_of_runs(w, seed);
	for (unsigned int threads = 1; threads <= 8; threads++)
		pump(w, threads);
}

static void nothing(void **state)
{
	pump(*state, 4);
}

static void one_page(void **state)
{
	add(*state, 1, 1, PAGE_HERE, true);
	pump(*state, 4);
}

static void zeros_only(void **state)
{
	struct world *w = *state;

	add(w, 4 * 256, 200, PAGE_HERE, true);
	add(w, 13 * 256, 200, PAGE_HERE, false);
	pump(w, 2);
	assert_int_equal(w->calls[PLACE], 3);         /* 56 pages share a chunk with zeros, then 128, then 16 */
	assert_int_equal(w->moved.len, 200);
}

/* 64 pieces: no chunk can be cut into more. */
static void every_other_page_is_zero(void **state)
{
	struct world *w = *state;

	for (uint64_t i = 0; i < 60; i++)
		add(w, 3 + 7 * i, 1 + i % 2, PAGE_HERE, true);
	pump(w, 3);
}

static void big_run(void **state)
{
	add(*state, 0, 20000, PAGE_HERE, true);
	pump(*state, 1);
	pump(*state, 2);
	pump(*state, 8);
}

static void many_runs(void **state)
{
	for (uint64_t i = 0; i < 30000; i++)
		add(*state, 3 * i, 1, PAGE_HERE, i % 2);
	pump(*state, 2);
	pump(*state, 8);
}

/* Pages of a parent are neither read nor cut. */
static void parent_runs(void **state)
{
	struct world *w = *state;

	add(w, 0, 1ull << 30, PAGE_PARENT, false);
	add(w, 1ull << 30, 5, PAGE_HERE, false);
	add(w, (1ull << 30) + 5, 12345, PAGE_PARENT, true);
	pump(w, 2);
	assert_int_equal(w->calls[READ], 1);
	assert_int_equal(w->calls[PUT], 1);
	assert_int_equal(w->calls[PLACE], 3);
}

static void counts_are_added(void **state)
{
	struct world *w = *state;
	struct page_count count = { .here = 100, .parent = 200, .zero = 300 };
	struct err err;

	add(w, 3, 2, PAGE_HERE, true);
	add(w, 5, 7, PAGE_PARENT, true);
	OK(&err, page_pump(&w->source, &w->sink, 2, &count, &err));
	assert_int_equal(count.here, 101);
	assert_int_equal(count.zero, 301);
	assert_int_equal(count.parent, 207);
}

/* A slow read holds nobody up in reading, and still its pages are placed first. */
static void slow_read(void **state)
{
	struct world *w = *state;

	add(w, 0, 64 * PUMP_CHUNK, PAGE_HERE, false);
	w->wait_for_other = 40;
	pump(w, 2);
	pump(w, 5);
}

static void few_by_the_caller_alone(void **state)
{
	struct world *w = *state;

	add(w, 0, 16 * PUMP_CHUNK - 1, PAGE_HERE, false);
	w->only_caller = true;
	pump(w, 8);
}

static void one_thread_is_the_caller(void **state)
{
	struct world *w = *state;

	add(w, 0, 100 * PUMP_CHUNK, PAGE_HERE, false);
	w->only_caller = true;
	pump(w, 1);
}

/* Whatever fails, wherever: that error comes back, with the scope of who pumps, and all workers end. */
static void failures(void **state)
{
	static const uint64_t at[] = { 1, 2, 20, 57 };
	struct world *w = *state;

	all_kinds_of_runs(w, 5);
	for (int i = 0; i < STEPS * (int)ARRAY_LEN(at) * 6; i++) {
		struct page_count count = { 0 };
		struct err err = { 0 };

		LOG_SCOPE("restore");
		again(w);
		memset(w->fail_at, 0, sizeof(w->fail_at));
		w->fail_at[i % STEPS] = at[i / STEPS % ARRAY_LEN(at)];
		FAILS(&err, ENOLINK, "broke", page_pump(&w->source, &w->sink, 1 + (unsigned int)i % 8, &count, &err));
		assert_string_equal(err.scope, "restore");
	}
}

static void first_error_wins(void **state)
{
	struct world *w = *state;
	struct page_count count = { 0 };
	struct err err = { 0 };

	add(w, 0, 64 * PUMP_CHUNK, PAGE_HERE, false);
	w->fail_at[READ] = 3;
	w->fail_at[PUT] = 3;
	FAILS(&err, ENOLINK, "step 1 broke", page_pump(&w->source, &w->sink, 1, &count, &err));
}

#define PUMP_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PUMP_TEST(any_number_of_threads),
		PUMP_TEST(nothing),
		PUMP_TEST(one_page),
		PUMP_TEST(zeros_only),
		PUMP_TEST(every_other_page_is_zero),
		PUMP_TEST(big_run),
		PUMP_TEST(many_runs),
		PUMP_TEST(parent_runs),
		PUMP_TEST(counts_are_added),
		PUMP_TEST(slow_read),
		PUMP_TEST(few_by_the_caller_alone),
		PUMP_TEST(one_thread_is_the_caller),
		PUMP_TEST(failures),
		PUMP_TEST(first_error_wins),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
