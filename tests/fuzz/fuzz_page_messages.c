/* SPDX-License-Identifier: Apache-2.0 */
/* What a source may send to a page server: a whole session each time, into a directory of the working directory. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/page_server.h"
#include "fuzz.h"
#include "wire/ps_sum.h"

/* ---- good input ---- */

struct script { uint8_t *at, *end; uint64_t sum; };

static void say(struct script *s, struct ps_message m)
{
	if (s->at + PS_HEADER_BYTES > s->end)
		abort();
	m.sum = m.summed && m.command == PS_CLOSE ? s->sum : 0;
	ps_encode(&m, s->at);
	s->sum = ps_sum_message(s->sum, &m);
	s->at += PS_HEADER_BYTES;
}

static void add(struct script *s, struct ps_message m)
{
	uint64_t sum;

	m.command = PS_ADD;
	m.where = PS_HERE;
	say(s, m);
	for (uint64_t i = 0; i < m.pages; i++) {
		memset(s->at, (int)i + 1, PAGE_BYTES);
		ps_sum_pages(s->at, 1, &sum);
		s->sum = ps_sum_add(s->sum, &sum, 1);
		s->at += PAGE_BYTES;
	}
}

size_t fuzz_good_input(unsigned int n, uint8_t *buf, size_t size)
{
	struct script s = { buf, buf + size, 0 };
	bool summed = n % 2;

	if (n > 3)
		return 0;
	if (summed)
		say(&s, (struct ps_message){ .command = PS_PARENT, .type = PS_TASK, .id = 1, .summed = true });
	say(&s, (struct ps_message){ .command = n < 2 ? PS_OPEN : PS_OPEN2, .type = PS_TASK, .id = 7 });
	add(&s, (struct ps_message){ .type = PS_TASK, .id = 7, .start = 0x10000, .pages = 2 });
	say(&s, (struct ps_message){ .command = PS_ADD, .where = PS_IN_PARENT, .type = PS_TASK, .id = 7, .start = 0x20000, .pages = 1 });
	add(&s, (struct ps_message){ .type = PS_TASK, .id = 7, .start = 0x30000, .pages = 3 });
	say(&s, (struct ps_message){ .command = PS_PARENT, .type = PS_SHMEM, .id = 9 });
	say(&s, (struct ps_message){ .command = PS_OPEN, .type = PS_SHMEM, .id = 9 });
	add(&s, (struct ps_message){ .type = PS_SHMEM, .id = 9, .start = 0, .pages = 1 });
	say(&s, (struct ps_message){ .command = PS_CLOSE, .summed = summed });
	return (size_t)(s.at - buf);
}

/* ---- the target ---- */

/* `pages` continues `parent`, which the first session of all has made. */
static void serve(const uint8_t *bytes, size_t size, const char *dir, const char *parent)
{
	const struct page_server_options options = {
		.images_dir = dir, .parent_dir = parent, .address = { .timeout_ms = 5000 } };
	struct page_server_options own = options;
	struct page_server_result result;
	struct page_server server;
	struct err err = { 0 };
	int ends[2], much = 1 << 20;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		abort();
	setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &much, sizeof(much));
	if (send(ends[0], bytes, size, 0) != (ssize_t)size || shutdown(ends[0], SHUT_WR) < 0)
		abort();
	own.address.socket = ends[1];
	if (page_server_listen(&server, &own, &err) == 0 && page_server_serve(&server, &result, &err) < 0 && !err.text[0])
		abort();                /* a failure without a word */
	page_server_free(&server);
	close(ends[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const char *parent;
	static uint8_t good[64 << 10];

	log_setup(STDERR_FILENO, 0);
	if (!parent) {
		uint8_t *hole = good + PS_HEADER_BYTES + PS_HEADER_BYTES + 2 * PAGE_BYTES;
		size_t n = fuzz_good_input(0, good, sizeof(good));

		/* no parent yet: what it is said to have is left out */
		memmove(hole, hole + PS_HEADER_BYTES, n - (size_t)(hole - good) - PS_HEADER_BYTES);
		parent = "../parent-pages";
		serve(good, n - PS_HEADER_BYTES, "parent-pages", NULL);
	}
	if (size > sizeof(good))
		return 0;
	serve(bytes, size, "pages", parent);
	return 0;
}
