/* SPDX-License-Identifier: Apache-2.0 */
/* test_stream.c - pages through a pipe: sink_stream at one end, a feed at the other. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../cm.h"
#include "base/mem.h"
#include "base/own.h"
#include "page/ends.h"
#include "page/feed.h"
#include "page/pages_frame.h"
#include "page/sink_stream.h"

#define FILES      2
#define SPACE      5000ull      /* pages of a memory */
#define FRAMES_CUT 77777u       /* bytes after which a stream is broken, in some tests */

/* A memory that is sent, as a pages file; and what comes of it. */
struct memory {
	int origin, copy, file;         /* memfds; file: the pages file in the store, empty */
	struct page_runs plan;
	struct page_map map;            /* as its pagemap would have it */
	uint64_t pages;
};

struct wire {
	struct memory memory[FILES];
	int ends[2];
	struct codec_choice choice;
	unsigned int send_threads;
	bool lends;
	uint64_t damage_at;             /* byte of the stream that is changed; 0: none */
	pthread_t sender;
	struct frame_in in;
	struct page_feed feed;
};

static uint64_t below(uint64_t n)
{
	return (uint64_t)random() % n;
}

/* Noise, what shrinks, and zeros, in stretches. */
static void write_pages(int fd)
{
	uint64_t page[PAGE_BYTES / 8], noise = (uint64_t)random();

	assert_int_equal(ftruncate(fd, SPACE * PAGE_BYTES), 0);
	for (uint64_t i = 0, left = 0, kind = 0; i < SPACE; i++, left--) {
		if (left == 0) {
			left = 1 + below(below(3) ? 5 : 400);
			kind = below(3);
		}
		for (size_t k = 0; k < PAGE_BYTES / 8; k++) {
			noise = noise * 6364136223846793005u + 1442695040888963407u;
			page[k] = kind == 0 ? 0 : kind == 1 ? noise ^ noise >> 29 : i;
		}
		assert_int_equal(pwrite(fd, page, sizeof(page), (off_t)(i * PAGE_BYTES)), sizeof(page));
	}
}

static void make_plan(struct memory *m, uint64_t runs)
{
	for (uint64_t i = 0, at = 0; i < runs && at < SPACE; i++) {
		uint64_t pages = 1 + below(below(4) ? 9 : 900);

		at += below(4);
		if (at + pages > SPACE)
			break;
		vec_push(&m->plan, ((struct page_run){ .start = at * PAGE_BYTES, .pages = pages, .where = PAGE_HERE,
						       .from = at * PAGE_BYTES }));
		at += pages;
		m->pages += pages;
	}
}

/* The plan again, cut in other places. */
static void make_map(struct memory *m)
{
	struct page_file file = { .fd = m->file, .sums = PAGE_SUMS_NONE, .size_bytes = m->pages * PAGE_BYTES };
	uint64_t offset = 0, n;
	struct stat st;

	assert_int_equal(ftruncate(m->file, (off_t)file.size_bytes), 0);
	assert_int_equal(fstat(m->file, &st), 0);
	file.dev = st.st_dev;
	file.ino = st.st_ino;
	vec_push(&m->map.files, file);
	for (size_t i = 0; i < m->plan.len; i++)
		for (uint64_t skip = 0; skip < m->plan.at[i].pages; skip += n, offset += n * PAGE_BYTES) {
			taddr start = m->plan.at[i].start + skip * PAGE_BYTES;

			n = 1 + below(m->plan.at[i].pages - skip);
			vec_push(&m->map.pieces, ((struct page_piece){ .start = start, .pages = n, .offset = offset }));
		}
}

static void memory_make(struct memory *m, uint64_t runs)
{
	*m = (struct memory){ .origin = memfd_create("origin", 0), .copy = memfd_create("copy", 0),
			      .file = memfd_create("file", 0) };
	write_pages(m->origin);
	assert_int_equal(ftruncate(m->copy, SPACE * PAGE_BYTES), 0);
	make_plan(m, runs);
	make_map(m);
}

static struct wire *wire_make(uint64_t runs, enum codec_wish wish)
{
	struct wire *w = mem_new(sizeof(*w));

	w->choice = (struct codec_choice){ wish, 1 };
	w->send_threads = 1 + (unsigned int)below(4);
	w->lends = below(4) > 0;
	for (int i = 0; i < FILES; i++)
		memory_make(&w->memory[i], runs);
	return w;
}

/* ---- the sender ---- */

static void *send_all(void *arg)
{
	struct wire *w = arg;
	struct frame_out out;
	struct err err;
	int r = frame_out_begin(&out, w->ends[1], &err);

	for (uint32_t i = 0; r == 0 && i < FILES; i++) {
		struct page_count count = { 0 };
		struct source_file from;
		struct sink_stream sink;

		source_file_init(&from, w->memory[i].origin, &w->memory[i].plan);
		sink_stream_init(&sink, &out, i + 1, &w->choice);
		sink.lends = w->lends;
		r = page_pump(&from.base, &sink.base, w->send_threads, &count, &err);
	}
	if (r == 0)
		frame_out_seal(&out, &err);
	close(w->ends[1]);
	return NULL;
}

/* Passes the stream on, but for one byte. */
static void *damage(void *arg)
{
	struct wire *w = arg;
	int from = w->ends[0], to = w->ends[1];
	uint8_t bytes[3000];
	uint64_t at = 0;
	ssize_t n;

	while ((n = read(from, bytes, sizeof(bytes))) > 0) {
		if (w->damage_at >= at && w->damage_at < at + (uint64_t)n)
			bytes[w->damage_at - at] ^= 0x40;
		at += (uint64_t)n;
		for (ssize_t done = 0, put; done < n; done += put)
			if ((put = write(to, bytes + done, (size_t)(n - done))) < 0)
				n = -1, put = 0;
		if (n < 0)
			break;
	}
	close(from);
	close(to);
	return NULL;
}

static void wire_begin(struct wire *w, struct wire *damaged)
{
	struct err err;

	assert_int_equal(pipe2(w->ends, O_CLOEXEC), 0);
	pthread_create(&w->sender, NULL, send_all, w);
	if (damaged) {
		int ends[2];

		assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
		*damaged = (struct wire){ .ends = { w->ends[0], ends[1] }, .damage_at = w->damage_at };
		pthread_create(&damaged->sender, NULL, damage, damaged);
		w->ends[0] = ends[0];
	}
	OK(&err, frame_in_begin(&w->in, w->ends[0], &err));
	feed_init(&w->feed, &w->in);
	for (uint32_t i = 0; i < FILES; i++)
		OK(&err, feed_add(&w->feed, i + 1, dup(w->memory[i].file), &err));
}

static void wire_end(struct wire *w)
{
	close(w->ends[0]);
	pthread_join(w->sender, NULL);
	feed_free(&w->feed);
	for (int i = 0; i < FILES; i++) {
		close(w->memory[i].origin);
		close(w->memory[i].copy);
		page_map_free(&w->memory[i].map);
		vec_free(&w->memory[i].plan);
	}
	free(w);
}

/* ---- the reader ---- */

static int take(struct wire *w, struct memory *m, const struct page_map *map, unsigned int threads, struct err *err)
{
	struct page_count count = { 0 };
	struct source_feed from;
	struct sink_file sink;
	int r;

	source_feed_init(&from, &w->feed, map);
	sink_file_init(&sink, m->copy);
	r = page_pump(&from.base, &sink.base, threads, &count, err);
	if (r == 0)
		assert_int_equal(count.here, page_map_pages(map));
	return r;
}

static void must_be_same(const struct memory *m, taddr origin, taddr copy, uint64_t pages)
{
	size_t len = pages * PAGE_BYTES;
	own_free uint8_t *want = malloc(len), *got = malloc(len);

	assert_int_equal(pread(m->origin, want, len, (off_t)origin), len);
	assert_int_equal(pread(m->copy, got, len, (off_t)copy), len);
	assert_memory_equal(want, got, len);
}

static void must_be_alike(const struct memory *m, const struct page_map *map)
{
	for (size_t i = 0; i < map->pieces.len; i++)
		must_be_same(m, map->pieces.at[i].start, map->pieces.at[i].start, map->pieces.at[i].pages);
}

static void wanted_as_sent(void **state)
{
	(void)state;
	for (int i = 0; i < 16; i++) {
		struct wire *w = wire_make(i % 5 ? 200 : 3, (enum codec_wish)(i % 4));
		struct err err;

		wire_begin(w, NULL);
		for (int k = 0; k < FILES; k++) {
			OK(&err, take(w, &w->memory[k], &w->memory[k].map, 1 + (unsigned int)i % 8, &err));
			must_be_alike(&w->memory[k], &w->memory[k].map);
		}
		OK(&err, feed_end(&w->feed, &err));
		assert_int_equal(w->feed.kept_pages, 0);
		wire_end(w);
	}
}

/* Backwards, or rotated. */
static const struct page_piece *other_piece(const struct memory *m, size_t n, bool backwards)
{
	size_t len = m->map.pieces.len;

	return &m->map.pieces.at[backwards ? len - 1 - n : (n + len / 3) % len];
}

/* Pieces whose contents changed places, and the last file first: what goes by is kept. */
static void wanted_in_any_order(void **state)
{
	(void)state;
	for (int i = 0; i < 8; i++) {
		struct wire *w = wire_make(100, (enum codec_wish)(i % 4));
		struct err err;

		wire_begin(w, NULL);
		for (int k = FILES; k-- > 0;) {
			struct memory *m = &w->memory[k];
			struct page_map map = { 0 };
			uint64_t at = 0;

			vec_push(&map.files, m->map.files.at[0]);
			for (size_t n = 0; n < m->map.pieces.len; n++) {        /* starts rise all the same */
				struct page_piece p = *other_piece(m, n, i % 2);

				p.start = at;
				at += p.pages * PAGE_BYTES;
				vec_push(&map.pieces, p);
			}
			OK(&err, take(w, m, &map, 1 + (unsigned int)i, &err));
			for (size_t n = 0; n < map.pieces.len; n++)
				must_be_same(m, other_piece(m, n, i % 2)->start, map.pieces.at[n].start, map.pieces.at[n].pages);
			vec_free(&map.files);
			vec_free(&map.pieces);
		}
		assert_true(w->feed.kept_pages > 0);
		OK(&err, feed_end(&w->feed, &err));
		wire_end(w);
	}
}

static void lend_page(const struct memory *m, uint64_t offset, uint8_t *buf)
{
	for (size_t k = 0; k < m->map.pieces.len; k++) {
		const struct page_piece *p = &m->map.pieces.at[k];
		taddr at = p->start + (offset - p->offset);

		if (p->offset <= offset && offset - p->offset < p->pages * PAGE_BYTES)
			assert_int_equal(pread(m->copy, buf, PAGE_BYTES, (off_t)at), PAGE_BYTES);
	}
}

static int lend(void *arg, const struct feed_file *file, uint64_t offset, uint64_t pages, void *buf, struct err *err)
{
	struct wire *w = arg;

	(void)err;
	for (uint64_t i = 0; i < pages; i++)
		lend_page(&w->memory[file->pages_id - 1], offset + i * PAGE_BYTES, (uint8_t *)buf + i * PAGE_BYTES);
	return 0;
}

/* What was handed out and is wanted again comes from who got it; without such a one it is refused. */
static void wanted_twice(void **state)
{
	struct wire *w = wire_make(60, WISH_LZ4);
	struct memory *m = &w->memory[0];
	uint8_t buf[PAGE_BYTES], want[PAGE_BYTES];
	struct page_piece one;
	struct err err;

	(void)state;
	wire_begin(w, NULL);
	OK(&err, take(w, m, &m->map, 3, &err));
	FAILS(&err, EBADMSG, "before they can be used", take(w, m, &m->map, 3, &err));
	w->feed.lend = lend;
	w->feed.lend_arg = w;
	OK(&err, take(w, m, &m->map, 1, &err));
	must_be_alike(m, &m->map);
	one = m->map.pieces.at[m->map.pieces.len / 2];
	one.pages = 1;
	OK(&err, feed_read(&w->feed, &m->map, &one, buf, &err));
	assert_int_equal(pread(m->origin, want, PAGE_BYTES, (off_t)one.start), PAGE_BYTES);
	assert_memory_equal(buf, want, PAGE_BYTES);
	OK(&err, feed_end(&w->feed, &err));             /* the other file was never wanted */
	wire_end(w);
}

static void all_are_kept(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++) {
		struct wire *w = wire_make(100, (enum codec_wish)i);
		struct progress_meter meter = { 0 };
		struct err err;

		wire_begin(w, NULL);
		OK(&err, feed_keep_all(&w->feed, &meter, &err));
		assert_int_equal(w->feed.kept_pages, w->memory[0].pages + w->memory[1].pages);
		for (int k = 0; k < FILES; k++) {
			OK(&err, take(w, &w->memory[k], &w->memory[k].map, 4, &err));
			must_be_alike(&w->memory[k], &w->memory[k].map);
		}
		wire_end(w);
	}
}

static void nothing_at_all(void **state)
{
	struct wire *w = wire_make(0, WISH_AUTO);
	struct err err;

	(void)state;
	wire_begin(w, NULL);
	OK(&err, take(w, &w->memory[0], &w->memory[0].map, 8, &err));
	OK(&err, feed_end(&w->feed, &err));
	wire_end(w);
}

/* Wherever it is broken, and however many read: an error, and nobody waits for ever; the writer hears that nobody reads. */
static void broken_on_the_way(void **state)
{
	(void)state;
	for (int i = 0; i < 24; i++) {
		struct wire *w = wire_make(200, (enum codec_wish)(i % 4)), damaged;
		struct err err;
		int r = 0;

		w->damage_at = 20 + below(i % 3 ? FRAMES_CUT : 40);
		wire_begin(w, &damaged);
		for (int k = 0; r == 0 && k < FILES; k++)
			r = take(w, &w->memory[k], &w->memory[k].map, 1 + (unsigned int)i % 8, &err);
		if (r == 0)
			r = feed_end(&w->feed, &err);
		FAILS(&err, EBADMSG, "stream", r);
		close(w->ends[0]);
		pthread_join(damaged.sender, NULL);
		w->ends[0] = -1;
		wire_end(w);
	}
}

static int setup(void **state)
{
	unsigned int seed = getenv("SEED") ? (unsigned int)strtoul(getenv("SEED"), NULL, 0) : (unsigned int)time(NULL);

	(void)state;
	printf("SEED=%u\n", seed);
	srandom(seed);
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wanted_as_sent), cmocka_unit_test(wanted_in_any_order), cmocka_unit_test(wanted_twice),
		cmocka_unit_test(all_are_kept),   cmocka_unit_test(nothing_at_all),      cmocka_unit_test(broken_on_the_way),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
