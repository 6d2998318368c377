/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../cm.h"
#include "base/own.h"
#include "wire/frame.h"

enum { BEGIN_BYTES = 16, HEAD_BYTES = 24 };

static struct iovec part(const void *bytes, size_t len)
{
	return (struct iovec){ (void *)(uintptr_t)bytes, len };
}

static void put(struct frame_out *out, enum frame_type type, const char *text)
{
	struct iovec p = part(text, strlen(text));
	struct err err;

	OK(&err, frame_put(out, type, &p, 1, &err));
}

/* A stream with a frame of each kind, in a file. */
static int small(void)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);
	struct iovec parts[] = { part("in ", 3), part("", 0), part("pieces", 6), part("", 0) };
	struct frame_out out;
	struct err err;

	OK(&err, frame_out_begin(&out, fd, &err));
	put(&out, FRAME_IMAGE, "a name");
	put(&out, FRAME_BYTES, "some");
	put(&out, FRAME_BYTES, "some");
	put(&out, FRAME_PAGES_FILE, "pages");
	OK(&err, frame_put(&out, FRAME_STATE_END, NULL, 0, &err));
	OK(&err, frame_put(&out, FRAME_PAGES, parts, ARRAY_LEN(parts), &err));
	OK(&err, frame_out_seal(&out, &err));
	assert_int_equal(out.bytes, lseek(fd, 0, SEEK_CUR));
	assert_int_equal(out.frames, 7);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

/* Up to the seal, and each frame is checked. */
static int read_all(int fd, struct frame_in *in, struct err *err)
{
	int r = frame_in_begin(in, fd, err);

	while (r == 0 && !in->sealed) {
		struct frame f;

		r = frame_get(in, &f, err);
		if (r < 0)
			return r;
		r = frame_check(&f, err);
		free(f.bytes);
	}
	return r;
}

static void reads_what_was_written(void **state)
{
	static const struct { enum frame_type type; const char *text; } want[] = {
		{ FRAME_IMAGE, "a name" }, { FRAME_BYTES, "some" }, { FRAME_BYTES, "some" }, { FRAME_PAGES_FILE, "pages" },
		{ FRAME_STATE_END, "" }, { FRAME_PAGES, "in pieces" },
	};
	own_fd fd = small();
	struct frame_in in;
	struct frame f;
	struct err err;

	(void)state;
	assert_true(frame_is_stream(fd));
	OK(&err, frame_in_begin(&in, fd, &err));
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		OK(&err, frame_get(&in, &f, &err));
		OK(&err, frame_check(&f, &err));
		assert_int_equal(f.type, want[i].type);
		assert_int_equal(f.len_bytes, strlen(want[i].text));
		assert_memory_equal(f.bytes, want[i].text, f.len_bytes);
		free(f.bytes);
	}
	assert_false(in.sealed);
	OK(&err, frame_get(&in, &f, &err));
	free(f.bytes);
	assert_true(in.sealed);
	assert_int_equal(in.bytes, lseek(fd, 0, SEEK_END));
	FAILS(&err, EBADMSG, "at its end", frame_get(&in, &f, &err));
}

static size_t content_of(int fd, uint8_t *buf, size_t size)
{
	ssize_t n = pread(fd, buf, size, 0);

	assert_true(n > 0 && (size_t)n < size);
	return (size_t)n;
}

static void rewrite(int fd, const uint8_t *bytes, size_t len)
{
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(pwrite(fd, bytes, len, 0), len);
	lseek(fd, 0, SEEK_SET);
}

static void cut_anywhere(void **state)
{
	own_fd fd = small();
	uint8_t bytes[1000];
	size_t len = content_of(fd, bytes, sizeof(bytes));
	struct frame_in in;
	struct err err;

	(void)state;
	for (size_t at = 0; at < len; at++) {
		char word[40];

		snprintf(word, sizeof(word), "cut after %zu bytes", at);
		rewrite(fd, bytes, at);
		FAILS(&err, EBADMSG, word, read_all(fd, &in, &err));
		assert_false(in.sealed);
	}
}

static void any_bit_turned(void **state)
{
	own_fd fd = small();
	uint8_t bytes[1000];
	size_t len = content_of(fd, bytes, sizeof(bytes));
	struct frame_in in;
	struct err err;

	(void)state;
	for (size_t bit = 0; bit < len * 8; bit++) {
		bytes[bit / 8] ^= 1 << bit % 8;
		rewrite(fd, bytes, len);
		FAILS(&err, EBADMSG, "stream", read_all(fd, &in, &err));
		bytes[bit / 8] ^= 1 << bit % 8;
	}
}

/* A frame that says that it is longer than it is: nobody waits for the rest, while the writer waits for an answer. */
static void any_bit_of_a_head_turned(void **state)
{
	own_fd fd = small();
	uint8_t bytes[1000];
	size_t len = content_of(fd, bytes, sizeof(bytes)), last = len - HEAD_BYTES - 16;
	struct frame_in in;
	struct err err;

	(void)state;
	for (size_t bit = last * 8; bit < (last + HEAD_BYTES) * 8; bit++) {
		int ends[2];

		bytes[bit / 8] ^= 1 << bit % 8;
		assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
		assert_int_equal(write(ends[1], bytes, len), len);
		FAILS(&err, EBADMSG, "damaged at byte", read_all(ends[0], &in, &err));
		close(ends[0]);
		close(ends[1]);
		bytes[bit / 8] ^= 1 << bit % 8;
	}
}

/* Each frame's place counts, and the seal is this stream's alone. */
static void frames_in_other_places(void **state)
{
	own_fd fd = small();
	uint8_t bytes[1000], other[1000];
	size_t len = content_of(fd, bytes, sizeof(bytes)), at[8] = { BEGIN_BYTES };
	struct frame_in in;
	struct err err;

	(void)state;
	for (size_t i = 0; i < 7; i++) {
		uint32_t size;

		memcpy(&size, bytes + at[i] + 4, 4);
		at[i + 1] = at[i] + HEAD_BYTES + size;
	}
	assert_int_equal(at[7], len);
	for (size_t i = 0; i < 7; i++)
		for (size_t k = 0; k < 7; k++) {
			size_t n = at[i + 1] - at[i];           /* frame i once more, before frame k */

			if (k == i || k == i + 1)
				continue;
			memcpy(other, bytes, at[k]);
			memcpy(other + at[k], bytes + at[i], n);
			memcpy(other + at[k] + n, bytes + at[k], len - at[k]);
			rewrite(fd, other, len + n);
			FAILS(&err, EBADMSG, "stream", read_all(fd, &in, &err));
		}
	for (size_t i = 0; i < 7; i++) {                        /* frame i left out */
		memcpy(other, bytes, at[i]);
		memcpy(other + at[i], bytes + at[i + 1], len - at[i + 1]);
		rewrite(fd, other, len - (at[i + 1] - at[i]));
		FAILS(&err, EBADMSG, "stream", read_all(fd, &in, &err));
	}
}

static void too_long(void **state)
{
	own_fd fd = small();
	struct iovec parts[FRAME_PARTS_MAX + 1];
	own_free uint8_t *large = calloc(1, FRAME_BYTES_MAX + 1);
	struct frame_out out;
	struct frame_in in;
	struct frame f;
	uint32_t claim[HEAD_BYTES / 4] = { FRAME_BYTES, FRAME_BYTES_MAX + 1 };
	struct err err;

	(void)state;
	OK(&err, frame_out_begin(&out, fd, &err));
	parts[0] = part(large, FRAME_BYTES_MAX + 1);
	FAILS(&err, EMSGSIZE, "1048577", frame_put(&out, FRAME_BYTES, parts, 1, &err));
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		parts[i] = part(large, 1);
	FAILS(&err, EMSGSIZE, "161", frame_put(&out, FRAME_BYTES, parts, FRAME_PARTS_MAX + 1, &err));
	assert_int_equal(out.frames, 0);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), BEGIN_BYTES);   /* and nothing was written */

	parts[0] = part(large, FRAME_BYTES_MAX - FRAME_PARTS_MAX + 1);
	OK(&err, frame_put(&out, FRAME_BYTES, parts, FRAME_PARTS_MAX, &err));
	lseek(fd, 0, SEEK_SET);
	OK(&err, frame_in_begin(&in, fd, &err));
	OK(&err, frame_get(&in, &f, &err));
	assert_int_equal(f.len_bytes, FRAME_BYTES_MAX);
	free(f.bytes);

	assert_int_equal(pwrite(fd, claim, sizeof(claim), BEGIN_BYTES), sizeof(claim));
	lseek(fd, 0, SEEK_SET);
	OK(&err, frame_in_begin(&in, fd, &err));
	FAILS(&err, EBADMSG, "damaged at byte 16", frame_get(&in, &f, &err));
}

static void no_stream(void **state)
{
	static const struct { uint8_t head[16]; const char *word; } heads[] = {
		{ "ferrySTX\1", "no stream" }, { "", "no stream" },
		{ "ferrySTR\2", "version 2" }, { "ferrySTR\1\0\0\0\1", "newer" },
	};
	own_fd fd = small();
	int ends[2];
	struct frame_in in;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
		rewrite(fd, heads[i].head, 16);
		FAILS(&err, EBADMSG, heads[i].word, frame_in_begin(&in, fd, &err));
	}
	rewrite(fd, (const uint8_t *)"ferryST", 7);
	assert_false(frame_is_stream(fd));
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(write(ends[1], "ferrySTR", 8), 8);
	assert_false(frame_is_stream(ends[0]));
	close(ends[0]);
	close(ends[1]);
}

/* ---- both ends at once ---- */

enum how { ALL, A_PART, ANSWER, REFUSE, REFUSE_EARLY, SAY_GARBAGE };

struct reader {
	int fd;
	enum how how;
	pthread_t thread;
	uint64_t bytes;
};

static void *read_in_thread(void *arg)
{
	struct reader *r = arg;
	struct frame_in in = { 0 };
	char some[5000];
	struct err err;

	if (r->how == A_PART || r->how == REFUSE_EARLY)
		(void)!read(r->fd, some, sizeof(some));
	else if (read_all(r->fd, &in, &err) < 0)
		fprintf(stderr, "the reader: %s\n", err.text), abort();
	r->bytes = in.bytes;
	if (r->how == ANSWER)
		frame_answer(r->fd, NULL);
	if (r->how == REFUSE || r->how == REFUSE_EARLY)
		frame_answer(r->fd, "no room\x1b[2J for it");
	if (r->how == SAY_GARBAGE)
		(void)!send(r->fd, "garbage", 7, MSG_NOSIGNAL);
	close(r->fd);
	return NULL;
}

/* Sends `frames` of 100,000 bytes, as who dumps does. */
static int send_frames(int fd, unsigned int frames, struct err *err)
{
	static uint8_t bytes[100000];
	struct iovec halves[] = { part(bytes, 33333), part(bytes, 66667) };
	struct frame_out out;
	int r = frame_out_begin(&out, fd, err);

	for (unsigned int i = 0; r == 0 && i < frames; i++)
		r = frame_put(&out, FRAME_PAGES, halves, 2, err);
	if (r == 0)
		r = frame_out_seal(&out, err);
	return r < 0 ? frame_failed(fd, err) : frame_wait_answer(fd, err);
}

static int through(int ends[2], enum how how, unsigned int frames, struct err *err)
{
	struct reader reader = { .fd = ends[0], .how = how };
	int r;

	pthread_create(&reader.thread, NULL, read_in_thread, &reader);
	r = send_frames(ends[1], frames, err);
	pthread_join(reader.thread, NULL);
	if (how != A_PART && how != REFUSE_EARLY)
		assert_int_equal(reader.bytes, BEGIN_BYTES + frames * (HEAD_BYTES + 100000ull) + HEAD_BYTES + 16);
	close(ends[1]);
	return r;
}

static int pipe_through(enum how how, unsigned int frames, int flags, struct err *err)
{
	int ends[2];

	assert_int_equal(pipe2(ends, O_CLOEXEC | flags), 0);
	return through(ends, how, frames, err);
}

static int socket_through(enum how how, unsigned int frames, int flags, struct err *err)
{
	int ends[2], few = 4096;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, ends), 0);
	setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &few, sizeof(few));
	return through(ends, how, frames, err);
}

static void through_a_pipe(void **state)
{
	struct err err = { 0 };

	(void)state;
	OK(&err, pipe_through(ALL, 0, 0, &err));
	OK(&err, pipe_through(ALL, 50, 0, &err));
	OK(&err, pipe_through(ALL, 50, O_NONBLOCK, &err));
	OK(&err, pipe_through(REFUSE, 1, 0, &err));     /* a pipe has no way back */
	FAILS(&err, EPIPE, "reader has gone", pipe_through(A_PART, 50, 0, &err));
	FAILS(&err, EPIPE, "reader has gone", pipe_through(A_PART, 50, O_NONBLOCK, &err));
	FAILS(&err, EPIPE, "reader has gone", pipe_through(A_PART, 1, 0, &err));
}

static void through_a_socket(void **state)
{
	struct err err = { 0 };

	(void)state;
	for (int flags = 0; flags <= SOCK_NONBLOCK; flags += SOCK_NONBLOCK) {
		OK(&err, socket_through(ANSWER, 0, flags, &err));
		OK(&err, socket_through(ANSWER, 20, flags, &err));
		FAILS(&err, EREMOTEIO, "the stream's reader: no room?[2J for it", socket_through(REFUSE, 3, flags, &err));
		FAILS(&err, EREMOTEIO, "no room?[2J for it", socket_through(REFUSE_EARLY, 50, flags, &err));
		FAILS(&err, EPIPE, "did not say", socket_through(ALL, 3, flags, &err));
		FAILS(&err, EPIPE, "did not say", socket_through(SAY_GARBAGE, 3, flags, &err));
		FAILS(&err, EPIPE, "reader has gone", socket_through(A_PART, 50, flags, &err));
	}
}

/* Nobody can say anything any more: as if it had gone. */
static void half_closed(void **state)
{
	struct err err = { 0 };
	int ends[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(shutdown(ends[0], SHUT_WR), 0);
	FAILS(&err, EPIPE, "did not say", through(ends, ANSWER, 3, &err));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(shutdown(ends[0], SHUT_RD), 0);
	FAILS(&err, EPIPE, "reader has gone", through(ends, A_PART, 3, &err));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(shutdown(ends[0], SHUT_WR), 0);
	FAILS(&err, EPIPE, "did not say", send_frames(ends[1], 1, &err));       /* it is there, and never reads */
	close(ends[0]);
	close(ends[1]);
}

static void must_be(struct frame_in *in, const void *bytes, size_t len)
{
	struct frame f;
	struct err err;

	OK(&err, frame_get(in, &f, &err));
	OK(&err, frame_check(&f, &err));
	assert_int_equal(f.len_bytes, len);
	assert_memory_equal(f.bytes, bytes, len);
	free(f.bytes);
}

static int lend(struct frame_out *out, const struct iovec *all, struct err *err)
{
	struct frame_place place;

	frame_reserve(out, &place);
	return frame_lend_at(out, &place, FRAME_PAGES, all, 1, err);
}

/* Whoever else reads may splice: what was put may change at once then. */
static void lends_to_who_copies(void **state)
{
	static _Alignas(4096) uint8_t pages[2 * 4096], ones[2 * 4096];
	const struct iovec all = part(pages, sizeof(pages));
	struct frame_out out;
	struct frame_in in;
	struct err err;
	int ends[2];

	(void)state;
	memset(ones, 1, sizeof(ones));
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	OK(&err, frame_out_begin(&out, ends[1], &err));
	memset(pages, 1, sizeof(pages));
	assert_int_equal(lend(&out, &all, &err), 0);
	memset(pages, 2, sizeof(pages));
	OK(&err, frame_in_begin(&in, ends[0], &err));
	must_be(&in, ones, sizeof(ones));
	memset(pages, 1, sizeof(pages));
	assert_int_equal(lend(&out, &all, &err), 1);
	assert_false(frame_was_read(&out, out.bytes, out.bytes));
	must_be(&in, ones, sizeof(ones));
	assert_true(frame_was_read(&out, out.bytes, out.bytes));
	assert_int_equal(lend(&out, &all, &err), 1);
	close(ends[0]);
	assert_true(frame_was_read(&out, out.bytes, out.bytes));
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_what_was_written), cmocka_unit_test(cut_anywhere), cmocka_unit_test(any_bit_turned),
		cmocka_unit_test(any_bit_of_a_head_turned),
		cmocka_unit_test(frames_in_other_places), cmocka_unit_test(too_long), cmocka_unit_test(no_stream),
		cmocka_unit_test(through_a_pipe), cmocka_unit_test(through_a_socket), cmocka_unit_test(half_closed),
		cmocka_unit_test(lends_to_who_copies),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
