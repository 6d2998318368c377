/* SPDX-License-Identifier: Apache-2.0 */
/* TCP and UDP sockets that are not connections go through an image and are what they were. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nets.h"

struct place { struct sockaddr_in6 at; socklen_t len; };

static struct place loopback(int family, int port)
{
	struct place p = { .at = { .sin6_family = (sa_family_t)family, .sin6_port = htons((uint16_t)port) } };

	if (family == AF_INET)
		((struct sockaddr_in *)&p.at)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		p.at.sin6_addr = in6addr_loopback;
	p.len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(p.at);
	return p;
}

static int port_of(int fd)
{
	struct sockaddr_in6 a;
	socklen_t len = sizeof(a);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	return ntohs(a.sin6_port);
}

static void set(int fd, int level, int name, int value)
{
	assert_int_equal(setsockopt(fd, level, name, &value, sizeof(value)), 0);
}

static int get(int fd, int level, int name)
{
	int value;

	assert_int_equal(sock_opt_get(fd, level, name, &value), 0);
	return value;
}

static int bound(int family, int type, int port)
{
	struct place p = loopback(family, port);
	int fd = socket(family, type, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&p.at, p.len), 0);
	return fd;
}

static void serves(int listener, int family)
{
	struct place p = loopback(family, port_of(listener));
	int c = socket(family, SOCK_STREAM, 0), a;

	assert_int_equal(connect(c, (struct sockaddr *)&p.at, p.len), 0);
	nets_send(c, "served");
	a = accept(listener, NULL, NULL);
	assert_true(a >= 0);
	assert_int_equal(shutdown(c, SHUT_WR), 0);
	assert_int_equal(poll(&(struct pollfd){ .fd = a, .events = POLLIN }, 1, 5000), 1);
	nets_expect(a, "served", NULL);
	close(a);       /* first: this side has TIME_WAIT at the port */
	close(c);
}

static void tcp(int family, struct nets *n)
{
	int l = nets_add(n, bound(family, SOCK_STREAM, 0)), port = port_of(l);

	assert_int_equal(listen(l, 7), 0);
	set(l, IPPROTO_TCP, TCP_NODELAY, 1);
	set(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, 1);
	set(l, IPPROTO_TCP, TCP_KEEPIDLE, 77);
	set(l, IPPROTO_IP, IP_TOS, 16);
	set(l, SOL_SOCKET, SO_KEEPALIVE, 1);
	nets_add(n, bound(family, SOCK_STREAM, 0));
	nets_add(n, socket(family, SOCK_STREAM, 0));
	serves(l, family);
	nets_again(n);
	assert_int_equal(port_of(n->fds[0]), port);
	assert_int_equal(get(n->fds[0], IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(get(n->fds[0], IPPROTO_TCP, TCP_KEEPIDLE), 77);
	assert_int_equal(get(n->fds[0], SOL_SOCKET, SO_REUSEADDR), 0);
	serves(n->fds[0], family);
	nets_again(n);
	serves(n->fds[0], family);
}

static void tcp4(void **state)
{
	tcp(AF_INET, *state);
}

static void tcp6(void **state)
{
	tcp(AF_INET6, *state);
}

static void both_families(void **state)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	struct nets *n = *state;

	for (int only = 0; only < 2; only++) {
		int fd = nets_add(n, socket(AF_INET6, SOCK_STREAM, 0));

		set(fd, IPPROTO_IPV6, IPV6_V6ONLY, only);
		assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0);
		assert_int_equal(listen(fd, 128), 0);
	}
	nets_again(n);
	serves(n->fds[0], AF_INET);
	serves(n->fds[0], AF_INET6);
	serves(n->fds[1], AF_INET6);
}

static void shared_ports(void **state)
{
	struct nets *n = *state;
	struct place p = loopback(AF_INET, 0);

	for (int i = 0; i < 4; i++) {
		int fd = nets_add(n, socket(AF_INET, SOCK_STREAM, 0));

		/* two that share by SO_REUSEPORT; one that listens at a port where another is bound */
		set(fd, SOL_SOCKET, i < 2 ? SO_REUSEPORT : SO_REUSEADDR, 1);
		if (i % 2 == 0)
			p = loopback(AF_INET, 0);
		assert_int_equal(bind(fd, (struct sockaddr *)&p.at, p.len), 0);
		p = loopback(AF_INET, port_of(fd));
	}
	for (int i = 0; i < 3; i++)
		assert_int_equal(listen(n->fds[i], 5), 0);
	nets_again(n);
	assert_int_equal(port_of(n->fds[2]), port_of(n->fds[3]));
	serves(n->fds[2], AF_INET);
}

static void udp(void **state)
{
	struct nets *n = *state;
	int server = nets_add(n, bound(AF_INET, SOCK_DGRAM, 0)), client = nets_add(n, socket(AF_INET, SOCK_DGRAM, 0));
	struct place p = loopback(AF_INET, port_of(server));
	int port;

	assert_int_equal(connect(client, (struct sockaddr *)&p.at, p.len), 0);
	port = port_of(client);
	set(server, IPPROTO_IP, IP_PKTINFO, 1);
	nets_add(n, socket(AF_INET6, SOCK_DGRAM, 0));
	nets_add(n, bound(AF_INET6, SOCK_DGRAM, 0));
	set(n->fds[3], IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	nets_again(n);
	assert_int_equal(port_of(n->fds[1]), port);
	nets_send(n->fds[1], "x");
	assert_int_equal(poll(&(struct pollfd){ .fd = n->fds[0], .events = POLLIN }, 1, 5000), 1);
	nets_expect(n->fds[0], "x", NULL);
	assert_int_equal(get(n->fds[3], IPPROTO_IPV6, IPV6_RECVPKTINFO), 1);
}

static void refused(struct nets *n, int code, const char *want)
{
	struct snapshot s;
	struct err err = { 0 };

	assert_int_equal(nets_see(n, &s, &err), -code);
	if (!strstr(err.text, want))
		fail_msg("'%s' does not tell of '%s'", err.text, want);
	snapshot_free(&s);
}

static void connections(void **state)
{
	struct nets *n = *state;
	int l = bound(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0), a;
	struct place p = loopback(AF_INET, port_of(l));
	char want[64];

	assert_int_equal(listen(l, 5), 0);
	assert_int_equal(connect(c, (struct sockaddr *)&p.at, p.len), 0);
	nets_add(n, l);
	refused(n, EOPNOTSUPP, "1 TCP connections to 127.0.0.1:");
	a = accept(l, NULL, NULL);
	nets_add(n, c);
	snprintf(want, sizeof(want), "127.0.0.1:%d -> 127.0.0.1:%d", port_of(c), port_of(l));
	refused(n, EOPNOTSUPP, want);
	close(a);
}

static void port_is_taken(void **state)
{
	struct nets *n = *state;
	struct snapshot s;
	struct err err = { 0 };
	int fds[NETS_MAX], l = nets_add(n, bound(AF_INET, SOCK_STREAM, 0));
	char want[64];

	assert_int_equal(listen(l, 5), 0);
	assert_int_equal(nets_see(n, &s, &err), 0);
	assert_int_equal(nets_make(&s, fds, &err), -EADDRINUSE);
	snprintf(want, sizeof(want), "127.0.0.1:%d: Address already in use", port_of(l));
	if (!strstr(err.text, want))
		fail_msg("'%s' does not tell of '%s'", err.text, want);
	snapshot_free(&s);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, nets_set_up, nets_tear_down)
	const struct CMUnitTest tests[] = {
		TEST(tcp4), TEST(tcp6), TEST(both_families), TEST(shared_ports), TEST(udp), TEST(connections), TEST(port_is_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
