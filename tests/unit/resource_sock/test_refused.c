/* SPDX-License-Identifier: Apache-2.0 */
/* What can't be saved is found by looking, and looking changes nothing. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nets.h"

static void refused(struct nets *n, int code, const char *want)
{
	struct snapshot s;
	struct err err = { 0 };
	int before = dup(0), after;

	close(before);
	assert_int_equal(nets_see(n, &s, &err), -code);
	if (!strstr(err.text, want))
		fail_msg("'%s' does not tell of '%s'", err.text, want);
	snapshot_free(&s);
	after = dup(0);
	close(after);
	assert_int_equal(before, after);        /* no descriptor is left open */
}

static void send_descriptor(int fd, const char *text)
{
	union { char buf[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = { 0 };
	struct iovec iov = { (char *)text, strlen(text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memset(CMSG_DATA(c), 0, sizeof(int));
	assert_int_equal(sendmsg(fd, &msg, 0), strlen(text));
}

static void descriptors_on_their_way(void **state)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct nets n = { 0 };
		int pair[2];

		assert_int_equal(socketpair(AF_UNIX, types[i], 0, pair), 0);
		nets_add(&n, pair[0]);
		nets_add(&n, pair[1]);
		nets_send(pair[0], "plain");
		send_descriptor(pair[0], "carries");
		refused(&n, EOPNOTSUPP, "on their way");
		close(pair[0]);
		close(pair[1]);
	}
}

static void credentials_on_their_way(void **state)
{
	struct nets *n = *state;
	int pair[2], on = 1;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	nets_add(n, pair[0]);
	nets_add(n, pair[1]);
	assert_int_equal(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
	nets_send(pair[0], "x");
	refused(n, EOPNOTSUPP, "credentials");
	nets_expect(pair[1], "x", NULL);
}

static void peer_is_elsewhere(void **state)
{
	struct nets *n = *state;
	int pair[2], server;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	nets_add(n, pair[0]);
	refused(n, EOPNOTSUPP, "which no task of the tree has");
	close(pair[1]);
	server = nets_bound(SOCK_DGRAM, "server");
	nets_add(n, nets_connected(SOCK_DGRAM, "server"));
	refused(n, EOPNOTSUPP, "which no task of the tree has");
	close(server);
}

static void client_is_elsewhere(void **state)
{
	struct nets *n = *state;
	int l = nets_add(n, nets_bound(SOCK_STREAM, "listen")), c;

	assert_int_equal(listen(l, 5), 0);
	c = nets_connected(SOCK_STREAM, "listen");
	refused(n, EOPNOTSUPP, "waits to be accepted");
	close(c);
	refused(n, EOPNOTSUPP, "waits to be accepted");
}

static void server_is_elsewhere(void **state)
{
	struct nets *n = *state;
	int l = nets_bound(SOCK_STREAM, "listen");

	assert_int_equal(listen(l, 5), 0);
	nets_add(n, nets_connected(SOCK_STREAM, "listen"));
	refused(n, EOPNOTSUPP, "waits to be accepted");
	close(l);
}

static void data_before_accept(void **state)
{
	struct nets *n = *state;
	int l = nets_add(n, nets_bound(SOCK_STREAM, "listen"));

	assert_int_equal(listen(l, 5), 0);
	nets_send(nets_add(n, nets_connected(SOCK_STREAM, "listen")), "early");
	refused(n, EOPNOTSUPP, "data to read before it accepts");
}

static void renamed(void **state)
{
	struct nets *n = *state;

	nets_add(n, nets_bound(SOCK_STREAM, "one"));
	assert_int_equal(rename("one", "other"), 0);
	refused(n, EOPNOTSUPP, "/other now");
}

static void path_is_in_use(void **state)
{
	struct nets *n = *state;
	struct snapshot s;
	struct err err = { 0 };
	int fds[NETS_MAX];

	nets_add(n, nets_bound(SOCK_STREAM, "used"));
	assert_int_equal(nets_see(n, &s, &err), 0);
	assert_int_equal(nets_make(&s, fds, &err), -EADDRINUSE);
	assert_int_equal(access("used", F_OK), 0);
	assert_non_null(strstr(err.text, "in use by unix socket"));
	snapshot_free(&s);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, nets_set_up, nets_tear_down)
	const struct CMUnitTest tests[] = {
		TEST(descriptors_on_their_way), TEST(credentials_on_their_way), TEST(peer_is_elsewhere), TEST(client_is_elsewhere),
		TEST(server_is_elsewhere), TEST(data_before_accept), TEST(renamed), TEST(path_is_in_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
