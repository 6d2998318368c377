/* SPDX-License-Identifier: Apache-2.0 */
/* Real sockets are found by inode, with what they are. */
#include "cm.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/sock_diag.h"

static struct sock_diag collect(void)
{
	struct sock_diag diag;
	struct err err;

	if (sock_diag_collect(-1, &diag, &err) < 0)
		fail_msg("%s", err.text);
	return diag;
}

static ino_t ino_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_ino;
}

static void unix_pair(void **state)
{
	struct sock_diag diag;
	const struct sock_unix *a;
	int p[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p), 0);
	assert_int_equal(write(p[1], "hello", 5), 5);
	assert_int_equal(shutdown(p[0], SHUT_WR), 0);
	diag = collect();
	a = sock_diag_unix(&diag, ino_of(p[0]));
	assert_non_null(a);
	assert_int_equal(a->type, SOCK_SEQPACKET);
	assert_int_equal(a->state, TCP_ESTABLISHED);
	assert_int_equal(a->peer, ino_of(p[1]));
	assert_int_equal(a->shutdown, 2);
	assert_int_equal(a->name_len, 0);
	assert_int_equal(a->rqueue, 5);
	assert_int_equal(a->uid, geteuid());
	assert_false(a->has_vfs);
	assert_int_equal(sock_diag_unix(&diag, ino_of(p[1]))->peer, a->ino);
	assert_int_equal(sock_diag_unix(&diag, ino_of(p[1]))->shutdown, 1);
	assert_null(sock_diag_inet(&diag, ino_of(p[0])));
	assert_null(sock_diag_unix(&diag, ino_of(p[0]) + (1ull << 32)));
	sock_diag_free(&diag);
	close(p[0]);
	close(p[1]);
}

static void unix_names_and_waiting_clients(void **state)
{
	struct sockaddr_un path = { .sun_family = AF_UNIX }, hidden = { .sun_family = AF_UNIX };
	own_fd server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	own_fd dgram = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	const struct sock_unix *s;
	struct sock_diag diag;
	struct stat st;
	int len;

	(void)state;
	snprintf(path.sun_path, sizeof(path.sun_path), "/tmp/ferry-diag-%d", getpid());
	assert_int_equal(bind(server, (struct sockaddr *)&path, sizeof(path)), 0);
	assert_int_equal(listen(server, 7), 0);
	assert_int_equal(connect(client, (struct sockaddr *)&path, sizeof(path)), 0);
	len = 1 + snprintf(hidden.sun_path + 1, sizeof(hidden.sun_path) - 1, "ferry%cdiag%d", '\0', getpid());
	assert_int_equal(bind(dgram, (struct sockaddr *)&hidden, (socklen_t)(sizeof(sa_family_t) + (size_t)len)), 0);

	diag = collect();
	s = sock_diag_unix(&diag, ino_of(server));
	assert_non_null(s);
	assert_int_equal(s->state, TCP_LISTEN);
	assert_int_equal(s->rqueue, 1);
	assert_int_equal(s->wqueue, 7);
	assert_int_equal(s->icon_count, 1);
	assert_int_equal(s->icons[0], ino_of(client));
	assert_true(s->name_len >= strlen(path.sun_path));
	assert_memory_equal(s->name, path.sun_path, strlen(path.sun_path));
	assert_int_equal(stat(path.sun_path, &st), 0);
	assert_true(s->has_vfs && s->vfs_ino == (uint32_t)st.st_ino && s->vfs_dev == st.st_dev);
	s = sock_diag_unix(&diag, ino_of(dgram));
	assert_non_null(s);
	assert_int_equal(s->type, SOCK_DGRAM);
	assert_int_equal(s->state, TCP_CLOSE);
	assert_int_equal(s->name_len, len);
	assert_memory_equal(s->name, hidden.sun_path, (size_t)len);
	assert_false(s->has_vfs);
	sock_diag_free(&diag);
	unlink(path.sun_path);
}

static void tcp_listener_and_connection(void **state)
{
	struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
	own_fd server = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), client = -1;
	const struct sock_inet *s;
	socklen_t len = sizeof(at);
	struct sock_diag diag;
	int on = 1;

	(void)state;
	if (server < 0)
		skip();
	assert_int_equal(setsockopt(server, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)), 0);
	if (bind(server, (struct sockaddr *)&at, sizeof(at)) < 0)
		skip();         /* no ::1 in this network namespace */
	assert_int_equal(listen(server, 9), 0);
	assert_int_equal(getsockname(server, (struct sockaddr *)&at, &len), 0);
	client = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(shutdown(client, SHUT_WR), 0);

	diag = collect();
	s = sock_diag_inet(&diag, ino_of(server));
	assert_non_null(s);
	assert_true(s->family == AF_INET6 && s->type == SOCK_STREAM && s->proto == IPPROTO_TCP && s->v6only);
	assert_true(s->state == TCP_LISTEN && s->rqueue == 1 && s->wqueue == 9);
	assert_int_equal(s->src_port, ntohs(at.sin6_port));
	assert_memory_equal(s->src, &in6addr_loopback, 16);
	s = sock_diag_inet(&diag, ino_of(client));
	assert_non_null(s);
	assert_int_equal(s->dst_port, ntohs(at.sin6_port));
	assert_memory_equal(s->dst, &in6addr_loopback, 16);
	assert_int_equal(s->shutdown, 2);
	sock_diag_free(&diag);
}

static void udp_socket(void **state)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	own_fd fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	const struct sock_inet *s;
	socklen_t len = sizeof(at);
	struct sock_diag diag;

	(void)state;
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	diag = collect();
	s = sock_diag_inet(&diag, ino_of(fd));
	assert_non_null(s);
	assert_true(s->family == AF_INET && s->type == SOCK_DGRAM && s->proto == IPPROTO_UDP && s->state == TCP_CLOSE);
	assert_int_equal(s->src_port, ntohs(at.sin_port));
	assert_memory_equal(s->src, &at.sin_addr, 4);
	sock_diag_free(&diag);
}

static void of_another_namespace(void **state)
{
	own_fd ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sock_diag diag;
	struct err err;

	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(sock_diag_collect(ns, &diag, &err), 0);
	assert_non_null(sock_diag_unix(&diag, ino_of(fd)));
	sock_diag_free(&diag);
	assert_true(sock_diag_collect(fd, &diag, &err) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unix_pair), cmocka_unit_test(unix_names_and_waiting_clients),
		cmocka_unit_test(tcp_listener_and_connection), cmocka_unit_test(udp_socket), cmocka_unit_test(of_another_namespace),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
