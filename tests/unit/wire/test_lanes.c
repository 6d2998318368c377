/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../cm.h"
#include "wire/lanes.h"

#define FRAMES  600u
#define WRITERS 4u
#define COUNT   3u
#define BEFORE  5u              /* frames that went over the first connection */

/* Both ends of a stream that began on one connection and goes on over lanes. */
struct both {
	struct transport one, other;
	struct frame_out out;
	struct frame_in in;
	struct lanes from, to;
	pthread_mutex_t order;
	uint32_t next;
	int failed;
};

static void connect_both(struct transport *a, struct transport *b)
{
	struct err err;
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	OK(&err, transport_adopt(a, ends[0], "the reader", &err));
	OK(&err, transport_adopt(b, ends[1], "the writer", &err));
}

static void get(struct both *b, uint32_t wanted)
{
	struct frame f;
	struct err err;

	OK(&err, frame_get(&b->in, &f, &err));
	assert_true(f.len_bytes >= sizeof(wanted));
	assert_memory_equal(f.bytes, &wanted, sizeof(wanted));
	free(f.bytes);
}

/* turned: the reader has the connections in another order. */
static void begin(struct both *b, unsigned int turned)
{
	struct iovec part = { &b->next, sizeof(b->next) };
	struct err err;

	*b = (struct both){ .order = PTHREAD_MUTEX_INITIALIZER };
	connect_both(&b->one, &b->other);
	OK(&err, frame_out_begin_on(&b->out, &b->one, &err));
	OK(&err, frame_in_begin_on(&b->in, &b->other, &err));
	for (; b->next < BEFORE; b->next++) {
		OK(&err, frame_put(&b->out, FRAME_BYTES, &part, 1, &err));
		get(b, b->next);
	}
	for (unsigned int i = 0; i < COUNT; i++)
		connect_both(&b->from.transport[i], &b->to.transport[(i + turned) % COUNT]);
	b->from.count = b->to.count = COUNT;
	lanes_begin_out(&b->from, &b->out);
	lanes_begin_in(&b->to, &b->in);
}

static void end(struct both *b)
{
	lanes_close(&b->to);
	lanes_close(&b->from);
	transport_close(&b->one);
	transport_close(&b->other);
}

/* Frames of all sizes: the number, and so many of its bytes. */
static void *writes(void *arg)
{
	struct both *b = arg;
	uint8_t *bytes = calloc(1, 70000);

	for (;;) {
		struct frame_place place;
		struct iovec parts[2];
		struct err err;
		uint32_t n;

		pthread_mutex_lock(&b->order);
		n = b->next;
		if (n < FRAMES) {
			b->next++;
			frame_reserve(&b->out, &place);
		}
		pthread_mutex_unlock(&b->order);
		if (n >= FRAMES)
			break;
		parts[0] = (struct iovec){ &n, sizeof(n) };
		parts[1] = (struct iovec){ bytes, n * 7919 % 70000 };
		if (frame_put_at(&b->out, &place, FRAME_BYTES, parts, 2, &err) < 0)
			b->failed = 1;
	}
	free(bytes);
	return NULL;
}

static void in_order(void **state)
{
	pthread_t writer[WRITERS];
	struct both b;

	(void)state;
	begin(&b, 0);
	for (unsigned int i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&writer[i], NULL, writes, &b), 0);
	for (uint32_t n = BEFORE; n < FRAMES; n++)
		get(&b, n);
	for (unsigned int i = 0; i < WRITERS; i++)
		pthread_join(writer[i], NULL);
	assert_int_equal(b.failed, 0);
	assert_int_equal(b.in.bytes, b.out.bytes);
	end(&b);
}

/* They go in turn like all others, and nobody sees them. */
static void signs_of_life(void **state)
{
	struct iovec part = { "x", 1 };
	struct frame f;
	struct err err;
	struct both b;

	(void)state;
	begin(&b, 0);
	for (unsigned int i = 0; i < 3 * COUNT; i++) {
		OK(&err, frame_put(&b.out, FRAME_ALIVE, NULL, 0, &err));
		OK(&err, frame_put(&b.out, FRAME_BYTES, &part, 1, &err));
	}
	for (unsigned int i = 0; i < 3 * COUNT; i++) {
		OK(&err, frame_get(&b.in, &f, &err));
		assert_int_equal(f.type, FRAME_BYTES);
		free(f.bytes);
	}
	assert_int_equal(b.in.bytes, b.out.bytes);
	end(&b);
}

/* A frame that comes on another lane than its number says is found. */
static void other_lane(void **state)
{
	struct iovec part = { "x", 1 };
	struct frame f;
	struct err err;
	struct both b;

	(void)state;
	begin(&b, 1);
	for (unsigned int i = 0; i < COUNT; i++)
		OK(&err, frame_put(&b.out, FRAME_BYTES, &part, 1, &err));
	FAILS(&err, EBADMSG, "damaged", frame_get(&b.in, &f, &err));
	end(&b);
}

/* What came before is there still; then the reason; and nobody hangs. */
static void one_closes(void **state)
{
	struct frame f;
	struct err err;
	struct both b;

	(void)state;
	begin(&b, 0);
	for (; b.next < BEFORE + COUNT; b.next++)
		OK(&err, frame_put(&b.out, FRAME_BYTES, &(struct iovec){ &b.next, sizeof(b.next) }, 1, &err));
	assert_int_equal(shutdown(b.from.transport[(BEFORE + COUNT) % COUNT].fd, SHUT_WR), 0);
	for (uint32_t n = BEFORE; n < BEFORE + COUNT; n++)
		get(&b, n);
	FAILS(&err, ECONNRESET, "the writer closed", frame_get(&b.in, &f, &err));
	end(&b);
}

/* The one who waits for frame n waits on its lane. */
static void nothing_comes(void **state)
{
	struct frame f;
	struct err err;
	struct both b;

	(void)state;
	begin(&b, 0);
	b.to.transport[BEFORE % COUNT].timeout_ms = 20;
	FAILS(&err, ETIMEDOUT, "has sent nothing", frame_get(&b.in, &f, &err));
	end(&b);
}

/* The reader's end of one has gone: who writes to another, which nobody will read, does not wait for ever. */
static void one_fails(void **state)
{
	static uint8_t much[FRAME_BYTES_MAX];
	struct iovec part = { much, sizeof(much) };
	pthread_t writer[WRITERS];
	struct err err = { 0 };
	struct both b;
	int r = 0;

	(void)state;
	begin(&b, 0);
	transport_close(&b.to.transport[0]);
	for (unsigned int i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&writer[i], NULL, writes, &b), 0);
	for (unsigned int i = 0; i < WRITERS; i++)
		pthread_join(writer[i], NULL);
	assert_int_equal(b.failed, 1);
	for (unsigned int i = 0; r == 0 && i < COUNT; i++)
		r = frame_put(&b.out, FRAME_BYTES, &part, 1, &err);
	assert_true(r == -EPIPE || r == -ECONNRESET);
	end(&b);
}

/* What must not depend on the lanes goes beside them. */
static void beside(void **state)
{
	struct frame f;
	struct err err;
	struct both b;

	(void)state;
	begin(&b, 0);
	for (unsigned int i = 0; i < COUNT; i++)
		transport_close(&b.from.transport[i]);
	OK(&err, frame_put(&b.from.first_out, FRAME_COMMIT, NULL, 0, &err));
	OK(&err, frame_get(&b.to.first_in, &f, &err));
	assert_int_equal(f.type, FRAME_COMMIT);
	free(f.bytes);
	end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_order), cmocka_unit_test(signs_of_life), cmocka_unit_test(other_lane), cmocka_unit_test(one_closes), cmocka_unit_test(nothing_comes),
		cmocka_unit_test(one_fails), cmocka_unit_test(beside),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
