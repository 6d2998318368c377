/* SPDX-License-Identifier: Apache-2.0 */
/* Connections: all bytes in order, whatever pieces they come in, and an end to all waiting. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../cm.h"
#include "wire/transport.h"

#define MUCH (8u << 20)

struct pair { struct transport a, b; struct err err; };

static int setup(void **state)
{
	static struct pair p;
	int fds[2];

	p = (struct pair){ 0 };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	OK(&p.err, transport_adopt(&p.a, fds[0], "b", &p.err));
	OK(&p.err, transport_adopt(&p.b, fds[1], "a", &p.err));
	*state = &p;
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;

	transport_close(&p->a);
	transport_close(&p->b);
	transport_close(&p->b);         /* twice harms nobody */
	return 0;
}

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 2654435761u >> 13);
}

/* Many pieces, empty ones too, more than go by one call or into the socket. */
static void *send_much(void *arg)
{
	static uint8_t bytes[MUCH];
	struct iovec iov[1000];
	struct pair *p = arg;
	size_t at = 0;

	for (size_t i = 0; i < MUCH; i++)
		bytes[i] = byte_at(i);
	for (int i = 0; i < 1000; i++) {
		size_t n = i == 999 ? MUCH - at : (size_t)(i % 7) * 1000;

		iov[i] = (struct iovec){ bytes + at, n };
		at += n;
	}
	return transport_send(&p->a, iov, 1000, &p->err) == 0 ? p : NULL;
}

static void much_in_pieces(void **state)
{
	struct pair *p = *state;
	struct err err = { 0 };
	static uint8_t got[MUCH];
	pthread_t thread;
	void *ok;

	assert_int_equal(pthread_create(&thread, NULL, send_much, p), 0);
	for (size_t at = 0, n; at < MUCH; at += n) {
		const struct iovec iov[] = { { got + at, 1 }, { NULL, 0 }, { got + at + 1, 0 }, { got + at + 1, MUCH - at < 99999 ? MUCH - at - 1 : 99998 } };

		n = 1 + iov[3].iov_len;
		assert_int_equal(transport_receive(&p->b, iov, 4, &err), 1);
	}
	pthread_join(thread, &ok);
	assert_non_null(ok);
	for (size_t i = 0; i < MUCH; i++)
		assert_int_equal(got[i], byte_at(i));
}

static void ends(void **state)
{
	struct pair *p = *state;
	uint8_t buf[4];
	const struct iovec iov = { buf, 4 }, two = { buf, 2 };

	OK(&p->err, transport_send(&p->a, &two, 1, &p->err));
	transport_close(&p->a);
	FAILS(&p->err, ECONNRESET, "a closed the connection in the middle", transport_receive(&p->b, &iov, 1, &p->err));
	assert_int_equal(transport_receive(&p->b, &iov, 1, &p->err), 0);
	FAILS(&p->err, ECONNRESET, "a closed the connection", (int)transport_receive_some(&p->b, buf, 4, &p->err));
	FAILS(&p->err, ECONNRESET, "a closed the connection", transport_send(&p->b, &two, 1, &p->err));
}

static void silence(void **state)
{
	struct pair *p = *state;
	uint8_t buf[4];
	const struct iovec iov = { buf, 4 };

	p->b.timeout_ms = 20;
	FAILS(&p->err, ETIMEDOUT, "a has sent nothing", transport_receive(&p->b, &iov, 1, &p->err));
	assert_int_equal(transport_receive_some(&p->b, buf, 4, &p->err), 0);
	assert_int_equal(write(p->a.fd, "x", 1), 1);
	assert_int_equal(transport_receive_some(&p->b, buf, 4, &p->err), 1);
	assert_int_equal(write(p->a.fd, "x", 1), 1);    /* a part is no end of waiting */
	FAILS(&p->err, ETIMEDOUT, "a has sent nothing", transport_receive(&p->b, &iov, 1, &p->err));
}

static void nobody_reads(void **state)
{
	struct pair *p = *state;
	static uint8_t bytes[MUCH];

	p->a.timeout_ms = 20;
	FAILS(&p->err, ETIMEDOUT, "b has taken nothing", transport_send(&p->a, &(struct iovec){ bytes, MUCH }, 1, &p->err));
}

static void a_drain_ends(void **state)
{
	struct pair *p = *state;

	assert_int_equal(write(p->a.fd, "words", 5), 5);
	transport_drain(&p->b, 20);     /* nobody closes */
	transport_close(&p->a);
	transport_drain(&p->b, 20000);  /* somebody has */
}

static void no_socket(void **state)
{
	struct transport t;
	struct err err = { 0 };
	int pipe_fds[2], datagrams[2];

	(void)state;
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams), 0);
	FAILS(&err, ENOTSOCK, "as a socket", transport_adopt(&t, pipe_fds[0], "x", &err));
	FAILS(&err, EPROTOTYPE, "no stream socket", transport_adopt(&t, datagrams[0], "x", &err));
	FAILS(&err, EBADF, "descriptor 999", transport_adopt(&t, 999, "x", &err));
	for (int i = 0; i < 2; i++) {
		close(pipe_fds[i]);
		close(datagrams[i]);
	}
}

static void tcp(void **state)
{
	struct transport a, b;
	struct err err = { 0 };
	unsigned int port;
	char text[12], word[5] = "";
	int listener;

	(void)state;
	OK(&err, transport_listen(NULL, "0", &listener, &port, &err));
	snprintf(text, sizeof(text), "%u", port);
	FAILS(&err, EADDRINUSE, text, transport_listen("127.0.0.1", text, &(int){ 0 }, &port, &err));
	OK(&err, transport_connect(&a, "127.0.0.1", text, "the other", &err));
	OK(&err, transport_accept(listener, &b, "somebody", &err));
	assert_non_null(strstr(a.peer, "the other at 127.0.0.1:"));
	assert_non_null(strstr(b.peer, "somebody at 127.0.0.1:"));
	OK(&err, transport_send(&b, &(struct iovec){ "word", 5 }, 1, &err));
	assert_int_equal(transport_receive(&a, &(struct iovec){ word, 5 }, 1, &err), 1);
	assert_string_equal(word, "word");
	close(listener);
	transport_close(&a);
	transport_close(&b);
	FAILS(&err, ECONNREFUSED, "connect to the other at 127.0.0.1:", transport_connect(&a, "127.0.0.1", text, "the other", &err));
	FAILS(&err, EADDRNOTAVAIL, "no.such.host.invalid", transport_connect(&a, "no.such.host.invalid", "1", "x", &err));
}

static void unix_socket(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct transport t;
	struct err err = { 0 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/test-transport.%d", getpid());
	unlink(address.sun_path);
	FAILS(&err, ENOENT, "connect to", transport_connect_unix(&t, address.sun_path, "x", &err));
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	OK(&err, transport_connect_unix(&t, address.sun_path, "x", &err));
	transport_close(&t);
	unlink(address.sun_path);
	close(fd);
}

static void who_is_near(void **state)
{
	(void)state;
	assert_true(transport_is_local(NULL) && transport_is_local("127.0.0.1") && transport_is_local("127.9.9.9") && transport_is_local("::1"));
	assert_false(transport_is_local("0.0.0.0") || transport_is_local("::") || transport_is_local("192.0.2.1"));
	assert_false(transport_is_local("no.such.host.invalid"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(much_in_pieces, setup, teardown), cmocka_unit_test_setup_teardown(ends, setup, teardown),
		cmocka_unit_test_setup_teardown(silence, setup, teardown), cmocka_unit_test_setup_teardown(nobody_reads, setup, teardown),
		cmocka_unit_test_setup_teardown(a_drain_ends, setup, teardown), cmocka_unit_test(no_socket), cmocka_unit_test(tcp),
		cmocka_unit_test(unix_socket), cmocka_unit_test(who_is_near),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
