/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets in every state go through an image and are what they were. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nets.h"

static void add_pair(struct nets *n, int type)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, type, 0, pair), 0);
	nets_add(n, pair[0]);
	nets_add(n, pair[1]);
}

static void pairs(void **state)
{
	struct nets *n = *state;

	add_pair(n, SOCK_STREAM);
	add_pair(n, SOCK_DGRAM);
	add_pair(n, SOCK_SEQPACKET);
	nets_send(n->fds[0], "hello ");
	nets_send(n->fds[0], "world");
	nets_send(n->fds[1], "back");
	nets_send(n->fds[2], "one");
	nets_send(n->fds[2], "");
	nets_send(n->fds[2], "three");
	nets_send(n->fds[5], "a");
	nets_send(n->fds[5], "bb");
	nets_again(n);
	nets_expect(n->fds[1], "hello world", NULL);
	nets_expect(n->fds[0], "back", NULL);
	nets_expect(n->fds[3], "one", "");
	nets_expect(n->fds[3], "", "");
	nets_expect(n->fds[3], "three", "");
	nets_expect(n->fds[4], "a", NULL);
	nets_expect(n->fds[4], "bb", NULL);
	nets_send(n->fds[4], "alive");
	nets_expect(n->fds[5], "alive", NULL);
}

static void large_queues(void **state)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
	static char big[100000], got[sizeof(big)];
	struct nets *n = *state;

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 7 / 3);
	for (int i = 0; i < 3; i++) {
		add_pair(n, types[i]);
		assert_int_equal(send(n->fds[2 * i], "x", 1, 0), 1);
		assert_int_equal(send(n->fds[2 * i], big, sizeof(big), 0), sizeof(big));
	}
	add_pair(n, SOCK_DGRAM);
	for (int i = 0; i < 200; i++)
		assert_int_equal(send(n->fds[6], &i, sizeof(i), 0), sizeof(i));
	nets_again(n);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(recv(n->fds[2 * i + 1], got, 1, 0), 1);
		assert_int_equal(recv(n->fds[2 * i + 1], got, sizeof(got), MSG_WAITALL), sizeof(big));
		assert_memory_equal(got, big, sizeof(big));
	}
	for (int i = 0, k; i < 200; i++) {
		assert_int_equal(recv(n->fds[7], &k, sizeof(k), 0), sizeof(k));
		assert_int_equal(k, i);
	}
}

static void seeing_consumes_nothing(void **state)
{
	struct nets *n = *state;
	struct snapshot s;
	struct err err;
	char buf[16];
	int off;

	add_pair(n, SOCK_DGRAM);
	nets_send(n->fds[0], "one");
	nets_send(n->fds[0], "two");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(nets_see(n, &s, &err), 0);
		assert_int_equal(s.packets.len, 2);
		snapshot_free(&s);
	}
	assert_int_equal(sock_opt_get(n->fds[1], SOL_SOCKET, SO_PEEK_OFF, &off), 0);
	assert_int_equal(off, -1);
	assert_int_equal(recv(n->fds[1], buf, sizeof(buf), MSG_PEEK), 3);
	nets_expect(n->fds[1], "one", NULL);
	nets_expect(n->fds[1], "two", NULL);
}

/* A listening socket, one accepted, one accepted with a name of its own, two that wait. */
static void listening(struct nets *n, int type, const char *name)
{
	int l = nets_add(n, nets_bound(type, name)), c;
	struct sockaddr_un a;

	assert_int_equal(listen(l, 7), 0);
	c = nets_add(n, nets_connected(type, name));
	nets_add(n, accept(l, NULL, NULL));
	nets_send(c, "to accepted");
	c = nets_add(n, nets_bound(type, "client"));
	assert_int_equal(connect(c, (struct sockaddr *)&a, nets_unix(&a, name)), 0);
	nets_add(n, accept(l, NULL, NULL));
	/* the second to be made is the first to wait */
	c = nets_add(n, socket(AF_UNIX, type, 0));
	nets_add(n, nets_connected(type, name));
	assert_int_equal(connect(c, (struct sockaddr *)&a, nets_unix(&a, name)), 0);
}

static void check_listening(struct nets *n, const char *name)
{
	int fd;

	nets_expect(n->fds[2], "to accepted", NULL);
	nets_expect_names(n->fds[1], "", name);
	nets_expect_names(n->fds[2], name, "");
	nets_expect_names(n->fds[3], "client", name);
	nets_expect_names(n->fds[4], name, "client");
	for (int i = 6; i >= 5; i--) {
		fd = accept(n->fds[0], NULL, NULL);
		nets_send(n->fds[i], i == 6 ? "first" : "second");
		nets_expect(fd, i == 6 ? "first" : "second", NULL);
		close(fd);
	}
	assert_true(fcntl(n->fds[0], F_SETFL, O_NONBLOCK) == 0 && accept(n->fds[0], NULL, NULL) < 0 && errno == EAGAIN);
}

static void listening_at_a_path(void **state)
{
	struct nets *n = *state;
	struct stat st;

	listening(n, SOCK_STREAM, "listen");
	assert_int_equal(chmod("listen", 0640), 0);
	assert_int_equal(chown("listen", 12, 34), 0);
	nets_again(n);
	check_listening(n, "listen");
	assert_int_equal(stat("listen", &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0640);
	assert_true(st.st_uid == 12 && st.st_gid == 34);
	close(nets_connected(SOCK_STREAM, "listen"));
}

static void listening_at_an_abstract_name(void **state)
{
	listening(*state, SOCK_STREAM, "@ferry-nets");
	nets_again(*state);
	check_listening(*state, "@ferry-nets");
}

static void listening_for_packets(void **state)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/seqpacket", ((struct nets *)*state)->dir);
	listening(*state, SOCK_SEQPACKET, path);
	nets_again(*state);
	check_listening(*state, path);
}

static void listener_is_gone(void **state)
{
	static const char *const names[] = { "gone", "@ferry-gone" };
	struct nets *n = *state;

	for (int i = 0; i < 2; i++) {
		int l = nets_bound(SOCK_STREAM, names[i]);

		assert_int_equal(listen(l, 1), 0);
		nets_add(n, nets_connected(SOCK_STREAM, names[i]));
		nets_add(n, accept(l, NULL, NULL));
		close(l);
	}
	nets_again(n);
	for (int i = 0; i < 2; i++) {
		nets_expect_names(n->fds[2 * i], "", names[i]);
		nets_expect_names(n->fds[2 * i + 1], names[i], "");
		nets_send(n->fds[2 * i], "x");
		nets_expect(n->fds[2 * i + 1], "x", NULL);
	}
}

static void removed_paths(void **state)
{
	struct nets *n = *state;
	int l = nets_add(n, nets_bound(SOCK_STREAM, "removed")), d = nets_add(n, nets_bound(SOCK_DGRAM, "removed-too"));
	struct stat st;

	assert_int_equal(listen(l, 3), 0);
	nets_add(n, nets_connected(SOCK_STREAM, "removed"));
	nets_add(n, nets_connected(SOCK_DGRAM, "removed-too"));
	nets_send(n->fds[3], "datagram");
	assert_int_equal(unlink("removed"), 0);
	assert_int_equal(unlink("removed-too"), 0);
	/* another one has the name now: nothing of ours may touch it */
	l = nets_bound(SOCK_STREAM, "removed");
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(stat("removed", &st), 0);
	nets_again(n);
	nets_expect_names(n->fds[2], "", "removed");
	nets_expect(n->fds[1], "datagram", "");
	nets_send(n->fds[2], "x");
	d = accept(n->fds[0], NULL, NULL);
	nets_expect(d, "x", NULL);
	close(d);
	d = nets_connected(SOCK_STREAM, "removed");
	assert_true(access("removed-too", F_OK) < 0);
	close(d);
	close(l);
}

static void datagrams_from_many(void **state)
{
	struct nets *n = *state;
	int server = nets_add(n, nets_bound(SOCK_DGRAM, "server")), gone = nets_bound(SOCK_DGRAM, "gone");
	int gone_abstract = nets_bound(SOCK_DGRAM, "@ferry-gone");

	nets_send_to(nets_add(n, nets_bound(SOCK_DGRAM, "named")), "server", "1");
	nets_send(nets_add(n, nets_connected(SOCK_DGRAM, "server")), "2");
	nets_send_to(nets_add(n, nets_bound(SOCK_DGRAM, "@ferry-abstract")), "server", "3");
	nets_send_to(gone, "server", "4");
	nets_send_to(gone_abstract, "server", "5");
	nets_send_to(n->fds[1], "server", "6");
	nets_send_to(server, "@ferry-abstract", "to abstract");
	close(gone);
	close(gone_abstract);
	nets_again(n);
	nets_expect(n->fds[0], "1", "named");
	nets_expect(n->fds[0], "2", "");
	nets_expect(n->fds[0], "3", "@ferry-abstract");
	nets_expect(n->fds[0], "4", "gone");
	nets_expect(n->fds[0], "5", "@ferry-gone");
	nets_expect(n->fds[0], "6", "named");
	nets_expect(n->fds[3], "to abstract", "server");
	nets_send(n->fds[2], "alive");
	nets_expect(n->fds[0], "alive", "");
}

static void datagrams_to_and_fro(void **state)
{
	struct nets *n = *state;
	int a = nets_add(n, nets_bound(SOCK_DGRAM, "a")), b = nets_add(n, nets_bound(SOCK_DGRAM, "b")), self;
	struct sockaddr_un addr;

	assert_int_equal(connect(a, (struct sockaddr *)&addr, nets_unix(&addr, "b")), 0);
	assert_int_equal(connect(b, (struct sockaddr *)&addr, nets_unix(&addr, "a")), 0);
	nets_send(a, "from a");
	nets_send(b, "from b");
	self = nets_add(n, nets_bound(SOCK_DGRAM, "@ferry-self"));
	assert_int_equal(connect(self, (struct sockaddr *)&addr, nets_unix(&addr, "@ferry-self")), 0);
	nets_send(self, "to myself");
	nets_again(n);
	nets_expect(n->fds[1], "from a", "a");
	nets_expect(n->fds[0], "from b", "b");
	nets_expect(n->fds[2], "to myself", "@ferry-self");
}

static void other_end_is_closed(void **state)
{
	static const int types[] = { SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM };
	struct nets *n = *state;
	int l, c;

	for (int i = 0; i < 3; i++) {
		add_pair(n, types[i]);
		nets_send(n->fds[i + 1], "last words");
		close(n->fds[i + 1]);
		n->count--;
	}
	l = nets_bound(SOCK_STREAM, "left");
	assert_int_equal(listen(l, 1), 0);
	c = nets_connected(SOCK_STREAM, "left");
	nets_add(n, accept(l, NULL, NULL));
	close(c);
	close(l);
	nets_again(n);
	for (int i = 0; i < 3; i++)
		nets_expect(n->fds[i], "last words", NULL);
	nets_expect(n->fds[0], "", NULL);
	nets_expect(n->fds[1], "", NULL);
	assert_true(send(n->fds[2], "x", 1, MSG_NOSIGNAL) < 0 && errno == ECONNREFUSED);
	assert_true(send(n->fds[3], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
}

static void half_closed(void **state)
{
	struct nets *n = *state;

	add_pair(n, SOCK_STREAM);
	add_pair(n, SOCK_STREAM);
	nets_send(n->fds[0], "before");
	assert_int_equal(shutdown(n->fds[0], SHUT_WR), 0);
	assert_int_equal(shutdown(n->fds[2], SHUT_RD), 0);
	nets_again(n);
	nets_expect(n->fds[1], "before", NULL);
	nets_expect(n->fds[1], "", NULL);
	nets_send(n->fds[1], "answer");
	nets_expect(n->fds[0], "answer", NULL);
	assert_true(send(n->fds[3], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
}

static void alone(void **state)
{
	struct nets *n = *state;

	nets_add(n, socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
	nets_add(n, socket(AF_UNIX, SOCK_DGRAM, 0));
	nets_add(n, nets_bound(SOCK_STREAM, "bound"));
	nets_add(n, nets_bound(SOCK_SEQPACKET, "@ferry-bound"));
	nets_again(n);
	assert_true(fcntl(n->fds[0], F_GETFL) & O_NONBLOCK);
	assert_false(fcntl(n->fds[1], F_GETFL) & O_NONBLOCK);
}

static void options(void **state)
{
	const struct timeval timeout = { 1, 500000 };
	const struct linger linger = { 1, 9 };
	struct sock_filter code[] = { { 0x06, 0, 0, 0xffffffff } };
	const struct sock_fprog filter = { 1, code };
	struct nets *n = *state;
	int size = 50000, on = 1, mark = 77, off = 3;

	add_pair(n, SOCK_STREAM);
	add_pair(n, SOCK_DGRAM);
	nets_send(n->fds[1], "kept");
	assert_int_equal(setsockopt(n->fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
	assert_int_equal(setsockopt(n->fds[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), -0);
	assert_int_equal(setsockopt(n->fds[1], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)), 0);
	assert_int_equal(setsockopt(n->fds[1], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	assert_int_equal(setsockopt(n->fds[1], SOL_SOCKET, SO_MARK, &mark, sizeof(mark)), 0);
	assert_int_equal(setsockopt(n->fds[2], SOL_SOCKET, SO_PEEK_OFF, &off, sizeof(off)), 0);
	assert_int_equal(setsockopt(n->fds[3], SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)), 0);
	nets_expect(n->fds[0], "kept", NULL);
	nets_again(n);
	assert_int_equal(sock_opt_get(n->fds[0], SOL_SOCKET, SO_SNDBUF, &size), 0);
	assert_int_equal(size, 100000);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, nets_set_up, nets_tear_down)
	const struct CMUnitTest tests[] = {
		TEST(pairs), TEST(large_queues), TEST(seeing_consumes_nothing), TEST(listening_at_a_path),
		TEST(listening_at_an_abstract_name), TEST(listening_for_packets), TEST(listener_is_gone), TEST(removed_paths),
		TEST(datagrams_from_many), TEST(datagrams_to_and_fro), TEST(other_end_is_closed), TEST(half_closed), TEST(alone),
		TEST(options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
