/* SPDX-License-Identifier: Apache-2.0 */
/* A page server as its source sees it: what it says at the wrong time, or instead of an answer, is told in its words. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../cm.h"
#include "wire/ps_client.h"

struct world { struct transport transport; struct ps_client client; int server; struct err err; };

static int setup(void **state)
{
	static struct world w;
	int fds[2];

	w = (struct world){ 0 };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	OK(&w.err, transport_adopt(&w.transport, fds[0], "the server", &w.err));
	w.transport.timeout_ms = 2000;
	w.server = fds[1];
	w.client.transport = &w.transport;
	*state = &w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	transport_close(&w->transport);
	close(w->server);
	return 0;
}

/* Answers wait in the socket: the server needs no thread. */
static void answers(struct world *w, const void *bytes, size_t size)
{
	assert_int_equal(write(w->server, bytes, size), size);
}

static void says(struct world *w, int32_t status)
{
	answers(w, &status, sizeof(status));
}

/* What was sent so far. */
static struct ps_message sent(struct world *w)
{
	uint8_t bytes[PS_HEADER_BYTES];
	struct ps_message m;

	assert_int_equal(recv(w->server, bytes, sizeof(bytes), MSG_WAITALL), sizeof(bytes));
	OK(&w->err, ps_decode(bytes, &m, &w->err));
	return m;
}

/* The questions look before they speak: an answer that is there already is none. */
static void an_early_answer_is_none(void **state)
{
	struct world *w = *state;

	says(w, 1);
	FAILS(&w->err, EBADMSG, "answers what is no answer (1)", ps_client_has_parent(&w->client, PS_TASK, 7, &w->err));
}

static void a_reason_is_told(void **state)
{
	struct world *w = *state;
	static uint8_t page[PS_PAGE_BYTES];
	const struct ps_run run = { 0x1000, 1, page };

	says(w, -ENOSPC);
	FAILS(&w->err, EREMOTEIO, "the server failed: No space left on device", ps_client_add(&w->client, &run, 1, &(uint64_t){ 0 }, &w->err));
}

/* It said why, and was gone before anything was sent: the words are found all the same. */
static void a_reason_behind_a_broken_connection(void **state)
{
	struct world *w = *state;

	says(w, -EROFS);
	close(w->server);
	w->server = -1;
	FAILS(&w->err, EREMOTEIO, "Read-only file system", ps_client_close(&w->client, &w->err));
}

static void runs_are_messages(void **state)
{
	struct world *w = *state;
	static uint8_t pages[2 * PS_PAGE_BYTES], got[2 * PS_PAGE_BYTES];
	const struct ps_run runs[] = { { 0x1000, 2, pages }, { 0x8000, 5, NULL } };
	const uint64_t sums[] = { 11, 22 };
	struct ps_message m;

	memset(pages, 'p', sizeof(pages));
	w->client.type = PS_SHMEM;
	w->client.id = 77;
	OK(&w->err, ps_client_add(&w->client, runs, 2, sums, &w->err));
	m = sent(w);
	assert_true(m.command == PS_ADD && m.where == PS_HERE && m.type == PS_SHMEM && m.id == 77 && m.start == 0x1000 && m.pages == 2);
	assert_int_equal(recv(w->server, got, sizeof(got), MSG_WAITALL), sizeof(got));
	assert_memory_equal(got, pages, sizeof(got));
	m = sent(w);
	assert_true(m.command == PS_ADD && m.where == PS_IN_PARENT && m.start == 0x8000 && m.pages == 5);
	assert_true(w->client.sum != 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_early_answer_is_none, setup, teardown),
		cmocka_unit_test_setup_teardown(a_reason_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(a_reason_behind_a_broken_connection, setup, teardown),
		cmocka_unit_test_setup_teardown(runs_are_messages, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
