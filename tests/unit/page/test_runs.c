/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of a migration: what is put comes out, what was seen is not sent twice, and what lies is refused. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../cm.h"
#include "base/mem.h"
#include "base/own.h"
#include "page/sink_runs.h"

#define AT 0x10000ull

struct wire { struct frame_out out; struct frame_in in; int fd; };

static void wire_begin(struct wire *w)
{
	struct err err = { 0 };

	*w = (struct wire){ .fd = memfd_create("wire", 0) };
	assert_true(w->fd >= 0);
	OK(&err, frame_out_begin(&w->out, w->fd, &err));
}

/* From here on it is read. */
static void wire_turn(struct wire *w)
{
	struct err err = { 0 };

	assert_int_equal(lseek(w->fd, 0, SEEK_SET), 0);
	OK(&err, frame_in_begin(&w->in, w->fd, &err));
}

static struct page_parcel parcel(taddr start, uint64_t pages, uint8_t *bytes, uint8_t *marks, bool compare)
{
	memset(marks, PAGE_MOVE, pages);
	return (struct page_parcel){ .run = { .start = start, .pages = pages, .where = PAGE_HERE, .compare = compare }, .to = start,
				     .bytes = bytes, .marks = marks };
}

/* ---- what was seen ---- */

/* How many of a page's visits send it. */
static uint64_t visit(struct sink_runs *s, uint8_t fill, bool compare)
{
	static uint8_t page[PAGE_BYTES];
	uint8_t mark;
	struct page_parcel p = parcel(AT, 1, page, &mark, compare);
	uint64_t before = s->pages;
	struct err err = { 0 };

	memset(page, fill, sizeof(page));
	if (compare)
		OK(&err, s->base.ops->compare(&s->base, &p, &err));
	if (mark == PAGE_MOVE)
		OK(&err, s->base.ops->put_many(&s->base, &p, 1, &err));
	return s->pages - before;
}

static void seen_pages(void **state)
{
	struct page_run run = { .start = AT, .pages = 1, .where = PAGE_HERE };
	struct page_runs gone = { &run, 1, 1 };
	struct sum_set seen = { 0 };
	struct err err = { 0 };
	struct sink_runs s;
	struct wire w;

	(void)state;
	wire_begin(&w);
	sink_runs_init(&s, &w.out, RUNS_TASK, 7, &(struct codec_choice){ .wish = WISH_NONE }, &seen);
	assert_int_equal(visit(&s, 1, true), 1);
	assert_int_equal(visit(&s, 1, true), 0);
	assert_int_equal(visit(&s, 2, true), 1);
	assert_int_equal(visit(&s, 1, true), 1);
	/* sent because a tracker told: what was seen before is not what the target has */
	assert_int_equal(visit(&s, 3, false), 1);
	assert_int_equal(visit(&s, 1, true), 1);
	assert_int_equal(visit(&s, 1, true), 0);
	/* dropped: the target has zeros */
	OK(&err, sink_runs_drop(&s, &gone, &err));
	assert_int_equal(visit(&s, 1, true), 1);
	sum_set_free(&seen);
	close(w.fd);
}

static void many_sums(void **state)
{
	struct sum_set seen = { 0 };

	(void)state;
	for (uint64_t i = 0; i < 10000; i++)
		assert_false(sum_set_same(&seen, i * i * PAGE_BYTES, i));
	for (uint64_t i = 0; i < 10000; i += 3)
		sum_set_forget(&seen, i * i * PAGE_BYTES);
	for (uint64_t i = 0; i < 10000; i++)
		assert_int_equal(sum_set_same(&seen, i * i * PAGE_BYTES, i), i % 3 != 0);
	sum_set_free(&seen);
}

/* ---- there and back ---- */

static void round_trip(enum codec_wish wish, unsigned int seed)
{
	uint8_t *bytes = mem_new(RUNS_FRAME_PAGES * PAGE_BYTES), marks[RUNS_FRAME_PAGES];
	struct page_parcel in[16];
	size_t count = 0, pages = 0;
	struct runs_read back;
	struct err err = { 0 };
	struct sink_runs s;
	struct frame f;
	struct wire w;

	srandom(seed);
	for (taddr at = AT; count < 16 && pages < RUNS_FRAME_PAGES - 8; count++) {
		uint64_t n = 1 + (uint64_t)random() % 8;

		in[count] = parcel(at, n, bytes + pages * PAGE_BYTES, marks + pages, false);
		for (uint64_t i = 0; i < n; i++)
			memset(bytes + (pages + i) * PAGE_BYTES, (int)(random() % 3), PAGE_BYTES);      /* a third are zeros */
		pages += n;
		at += (n + (uint64_t)random() % 3) * PAGE_BYTES;
	}
	wire_begin(&w);
	sink_runs_init(&s, &w.out, RUNS_SHMEM, 7, &(struct codec_choice){ .wish = wish, .level = 1 }, NULL);
	OK(&err, s.base.ops->put_many(&s.base, in, count, &err));
	wire_turn(&w);
	OK(&err, frame_get(&w.in, &f, &err));
	OK(&err, runs_frame_read(&f, &back, &err));
	assert_true(f.type == FRAME_RUNS && back.head.owner == RUNS_SHMEM && back.head.id == 7);
	assert_int_equal(back.head.runs, count);
	assert_int_equal(back.head.pages, pages);
	for (size_t i = 0; i < count; i++) {
		assert_true(back.parcels[i].run.start == in[i].run.start && back.parcels[i].run.pages == in[i].run.pages);
		assert_memory_equal(back.parcels[i].bytes, in[i].bytes, in[i].run.pages * PAGE_BYTES);
	}
	/* whatever is changed in it, it is taken or refused, and reads no byte that is not there */
	for (unsigned int n = 0; n < 300; n++) {
		struct frame lie = f;
		struct runs_read other;

		lie.len_bytes = n % 3 ? f.len_bytes : (uint32_t)((unsigned long)random() % f.len_bytes);
		lie.bytes = mem_dup(f.bytes, lie.len_bytes);
		for (unsigned int k = 0; lie.len_bytes && k < 1 + n % 4; k++)
			lie.bytes[(unsigned long)random() % (n % 2 && lie.len_bytes > 300 ? 300 : lie.len_bytes)] = (uint8_t)random();
		lie.type = n % 5 ? FRAME_RUNS : FRAME_DROP;
		if (runs_frame_read(&lie, &other, &err) == 0)
			free(other.buf);
		else
			assert_true(err.code == EBADMSG && err.text[0]);
		free(lie.bytes);
	}
	free(f.bytes);
	free(back.buf);
	free(bytes);
	close(w.fd);
}

static void round_trips(void **state)
{
	(void)state;
	for (unsigned int seed = 0; seed < 30; seed++)
		round_trip(seed % 3 == 0 ? WISH_NONE : seed % 3 == 1 ? WISH_LZ4 : WISH_ZSTD, seed);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(seen_pages), cmocka_unit_test(many_sums), cmocka_unit_test(round_trips) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
