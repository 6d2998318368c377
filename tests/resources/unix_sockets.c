/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix sockets: pairs of each type with what is queued in both directions,
 * halves that were shut down, listening ones (by path, by abstract name) with
 * connections that nobody accepted yet, accepted ones, datagram sockets that
 * several senders sent to, options, credentials. "rights" adds a descriptor in
 * a queue, "gone" a socket whose path was removed, "unread" data in connections
 * that nobody accepted, "names" asks accepted connections for their names.
 */
#include <linux/kcmp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "res.h"

enum { STREAM, DGRAM, SEQPACKET, TYPES };
enum { MESSAGES = 4 };

static const int types[TYPES] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
static const char *const type_names[TYPES] = { "stream pair", "dgram pair", "seqpacket pair" };

/* A listening socket, one accepted connection of it, and one that waits to be accepted with data in it. */
struct server { const char *what, *path; int type, listener, client, accepted, waiting, child_end; };

struct world {
	bool rights, gone, unread, names;
	int pair[TYPES][2];
	int half[2];		/* [0] will write no more, the other does not know */
	int orphan;		/* its peer is closed, with data left */
	int bound, sender[2];	/* a bound datagram socket, one connected to it and bound, one connected and without a name */
	int options;
	int rights_pair[2];
	int gone_server;
	pid_t child;
};

static struct server servers[] = {
	{ "stream by path", "listen-stream", SOCK_STREAM, -1, -1, -1, -1, -1 },
	{ "seqpacket by path", "listen-seqpacket", SOCK_SEQPACKET, -1, -1, -1, -1, -1 },
	{ "stream, abstract", "@ferry-res-%d", SOCK_STREAM, -1, -1, -1, -1, -1 },
};
#define SERVERS (sizeof(servers) / sizeof(servers[0]))

static socklen_t name_of(const char *path, struct sockaddr_un *addr)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	int len = snprintf(addr->sun_path, sizeof(addr->sun_path), path, getpid());

	if (path[0] != '@')
		return sizeof(*addr);
	addr->sun_path[0] = 0;
	return offsetof(struct sockaddr_un, sun_path) + len;
}

/* The messages of one direction: lengths and letters of their own. */
static size_t message(char *text, int seed, int n)
{
	size_t len = 10 + 100 * n + seed;

	memset(text, 'a' + (seed + n) % 26, len);
	return len;
}

static void messages_send(struct res *r, int fd, int seed)
{
	char text[1024];

	for (int n = 0; n < MESSAGES; n++) {
		size_t len = message(text, seed, n);

		WANT_EQ(r, send(fd, text, len, MSG_NOSIGNAL), len, "send of message %d", n);
	}
}

static void messages_take(struct res *r, int fd, int seed, const char *what)
{
	char text[1024], wanted[1024];

	for (int n = 0; n < MESSAGES; n++) {
		size_t len = message(wanted, seed, n);
		int type;

		getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){ sizeof(type) });
		/* a stream has no boundaries: ask for the length; others must have kept them */
		ssize_t got = recv(fd, text, type == SOCK_STREAM ? len : sizeof(text), MSG_DONTWAIT);
		WANT_EQ(r, got, len, "%s: length of message %d", what, n);
		WANT(r, got == (ssize_t)len && memcmp(text, wanted, len) == 0, "%s: message %d has other contents", what, n);
	}
	WANT(r, recv(fd, text, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "%s: more than was sent", what);
}

static void refill(struct res *r, struct world *w)
{
	for (int t = 0; t < TYPES; t++) {
		messages_send(r, w->pair[t][0], t);
		messages_send(r, w->pair[t][1], 10 + t);
	}
	for (int s = 0; s < 2; s++)
		messages_send(r, w->sender[s], 20 + s);
	for (size_t s = 0; s < SERVERS; s++) {
		messages_send(r, servers[s].client, 3);
		messages_send(r, servers[s].accepted, 4);
	}
}

static void server_wait(struct res *r, struct server *s, bool unread)
{
	struct sockaddr_un addr;
	socklen_t len = name_of(s->path, &addr);

	s->waiting = socket(AF_UNIX, s->type, 0);
	MUST(r, connect(s->waiting, (struct sockaddr *)&addr, len) == 0);
	if (unread)
		messages_send(r, s->waiting, 5);
}

static void server_make(struct res *r, struct server *s, bool unread)
{
	struct sockaddr_un addr;
	socklen_t len = name_of(s->path, &addr);

	s->listener = socket(AF_UNIX, s->type | SOCK_CLOEXEC, 0);
	MUST(r, bind(s->listener, (struct sockaddr *)&addr, len) == 0 && listen(s->listener, 7) == 0);
	s->client = socket(AF_UNIX, s->type | SOCK_NONBLOCK, 0);
	MUST(r, connect(s->client, (struct sockaddr *)&addr, len) == 0);
	s->accepted = accept(s->listener, NULL, NULL);
	MUST(r, s->accepted >= 0);
	server_wait(r, s, unread);
}

static void datagrams_make(struct res *r, struct world *w)
{
	struct sockaddr_un to, from;
	socklen_t len = name_of("bound-dgram", &to), from_len = name_of("sender-dgram", &from);

	w->bound = socket(AF_UNIX, SOCK_DGRAM, 0);
	MUST(r, bind(w->bound, (struct sockaddr *)&to, len) == 0);
	for (int s = 0; s < 2; s++) {
		w->sender[s] = socket(AF_UNIX, SOCK_DGRAM, 0);
		MUST(r, s == 1 || bind(w->sender[s], (struct sockaddr *)&from, from_len) == 0);
		MUST(r, connect(w->sender[s], (struct sockaddr *)&to, len) == 0);
	}
}

static void rights_send(struct res *r, int fd, int payload)
{
	char space[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 'r';
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	*c = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(c), &payload, sizeof(payload));
	MUST(r, sendmsg(fd, &msg, 0) == 1);
}

static void options_make(struct res *r, struct world *w)
{
	const struct timeval some = { 3, 0 };
	int one = 1, size = 50000, pair[2];

	MUST(r, socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	w->options = pair[0];
	MUST(r, setsockopt(w->options, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) == 0);
	MUST(r, setsockopt(w->options, SOL_SOCKET, SO_PASSSEC, &one, sizeof(one)) == 0);
	MUST(r, setsockopt(w->options, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)) == 0);
	MUST(r, setsockopt(w->options, SOL_SOCKET, SO_SNDBUF, &(int){ 30000 }, sizeof(int)) == 0);
	MUST(r, setsockopt(w->options, SOL_SOCKET, SO_RCVTIMEO, &some, sizeof(some)) == 0);
	MUST(r, setsockopt(w->options, SOL_SOCKET, SO_PRIORITY, &(int){ 5 }, sizeof(int)) == 0);
	MUST(r, setsockopt(w->options, SOL_SOCKET, SO_RCVLOWAT, &(int){ 17 }, sizeof(int)) == 0);
}

static void make(struct res *r, struct world *w)
{
	int pair[2];

	for (int t = 0; t < TYPES; t++)
		MUST(r, socketpair(AF_UNIX, types[t], 0, w->pair[t]) == 0);
	MUST(r, socketpair(AF_UNIX, SOCK_STREAM, 0, w->half) == 0);
	messages_send(r, w->half[0], 6);
	MUST(r, shutdown(w->half[0], SHUT_WR) == 0);
	MUST(r, socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	w->orphan = pair[0];
	messages_send(r, pair[1], 7);
	close(pair[1]);
	datagrams_make(r, w);
	options_make(r, w);
	for (size_t s = 0; s < SERVERS; s++)
		server_make(r, &servers[s], w->unread);
	if (w->rights) {
		MUST(r, socketpair(AF_UNIX, SOCK_STREAM, 0, w->rights_pair) == 0);
		rights_send(r, w->rights_pair[0], w->bound);
	}
	if (w->gone) {
		struct sockaddr_un addr;
		socklen_t len = name_of("gone", &addr);

		w->gone_server = socket(AF_UNIX, SOCK_STREAM, 0);
		MUST(r, bind(w->gone_server, (struct sockaddr *)&addr, len) == 0 && listen(w->gone_server, 1) == 0 && unlink("gone") == 0);
	}
}

static long option(int fd, int what)
{
	int value = -1;

	getsockopt(fd, SOL_SOCKET, what, &value, &(socklen_t){ sizeof(value) });
	return value;
}

static void options_check(struct res *r, struct world *w)
{
	static const struct { int what; long wanted; } wanted[] = {
		{ SO_PASSCRED, 1 }, { SO_PASSSEC, 1 }, { SO_RCVBUF, 100000 }, { SO_SNDBUF, 60000 }, { SO_RCVTIMEO, 3 }, { SO_PRIORITY, 5 },
		{ SO_RCVLOWAT, 17 }, { SO_TYPE, SOCK_STREAM }, { SO_DOMAIN, AF_UNIX }, { SO_ACCEPTCONN, 0 },
	};
	struct ucred cred = { 0 };

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		WANT_EQ(r, option(w->options, wanted[i].what), wanted[i].wanted, "socket option %d", wanted[i].what);
	getsockopt(w->pair[STREAM][0], SOL_SOCKET, SO_PEERCRED, &cred, &(socklen_t){ sizeof(cred) });
	WANT_EQ(r, cred.uid, getuid(), "SO_PEERCRED: uid");
	WANT_EQ(r, cred.gid, getgid(), "SO_PEERCRED: gid");
}

static void halves_check(struct res *r, struct world *w)
{
	char text[8];
	struct pollfd p = { w->half[1], POLLIN | POLLRDHUP, 0 };

	poll(&p, 1, 0);
	WANT_EQ(r, p.revents & POLLRDHUP, POLLRDHUP, "half closed pair: POLLRDHUP");
	WANT(r, send(w->half[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "end that was shut down writes");
	WANT(r, send(w->half[1], "y", 1, 0) == 1 && recv(w->half[0], text, 1, MSG_DONTWAIT) == 1 && text[0] == 'y', "other half does not work");
	WANT(r, send(w->orphan, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "write to a closed peer works");
	if (r->round > 1)
		return;
	messages_send(r, w->pair[STREAM][0], 0);	/* other sockets' queues don't leak into these */
	for (int fd = 0; fd < 2; fd++) {
		const char *what = fd ? "half closed pair" : "orphan";
		char buf[4096];
		size_t len = 0, wanted = 0;

		for (ssize_t n; (n = recv(fd ? w->half[1] : w->orphan, buf + len, sizeof(buf) - len, MSG_DONTWAIT)) > 0;)
			len += n;
		for (int n = 0; n < MESSAGES; n++)
			wanted += message(buf, fd ? 6 : 7, n);
		WANT_EQ(r, len, wanted, "%s: bytes before its end", what);
	}
}

static void server_check(struct res *r, struct server *s, const struct world *w)
{
	struct sockaddr_un addr, found = { 0 };
	socklen_t len = name_of(s->path, &addr), found_len = sizeof(found);
	const char *what = s->what;

	messages_take(r, s->accepted, 3, what);
	messages_take(r, s->client, 4, what);
	WANT_EQ(r, fcntl(s->client, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "%s: O_NONBLOCK of the client", what);
	WANT_EQ(r, option(s->listener, SO_ACCEPTCONN), 1, "%s: listens", what);
	if (w->names) {
		getpeername(s->client, (struct sockaddr *)&found, &found_len);
		WANT(r, memcmp(found.sun_path, addr.sun_path, 13) == 0, "%s: name of the client's peer", what);
		getsockname(s->accepted, (struct sockaddr *)&found, &found_len);
		WANT(r, memcmp(found.sun_path, addr.sun_path, 13) == 0, "%s: name of the accepted one", what);
	}
	int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	WANT(r, fd >= 0, "%s: the waiting connection can't be accepted: %s", what, strerror(errno));
	if (w->unread)
		messages_take(r, fd, 5, "connection that waited");
	WANT(r, send(s->waiting, "y", 1, MSG_NOSIGNAL) == 1 && recv(fd, &found, 1, MSG_DONTWAIT) == 1, "%s: word from who waited", what);
	WANT(r, send(fd, "z", 1, MSG_NOSIGNAL) == 1 && recv(s->waiting, &found, 1, MSG_DONTWAIT) == 1, "%s: answer to who waited", what);
	close(fd);
	close(s->waiting);
	server_wait(r, s, w->unread);
	/* the backlog is 7 and one waits: seven more fit, since the kernel lets one more than it says */
	int fds[7];
	for (int i = 0; i < 7; i++) {
		fds[i] = socket(AF_UNIX, s->type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		WANT_EQ(r, connect(fds[i], (struct sockaddr *)&addr, len), 0, "%s: connection %d of the backlog", what, i);
	}
	fd = socket(AF_UNIX, s->type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	WANT(r, connect(fd, (struct sockaddr *)&addr, len) == -1 && errno == EAGAIN, "%s: backlog is larger than it was", what);
	close(fd);
	for (int i = 0; i < 7; i++)
		close(fds[i]);
	for (int i = 0; i < 8; i++)
		close(accept4(s->listener, NULL, NULL, SOCK_CLOEXEC));
	close(s->waiting);
	server_wait(r, s, w->unread);
}

static void datagrams_check(struct res *r, struct world *w)
{
	char text[1024], wanted[1024];

	for (int s = 0; s < 2; s++)
		for (int n = 0; n < MESSAGES; n++) {
			struct sockaddr_un from = { 0 };
			socklen_t from_len = sizeof(from);
			size_t len = message(wanted, 20 + s, n);
			ssize_t got = recvfrom(w->bound, text, sizeof(text), MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);

			WANT(r, got == (ssize_t)len && memcmp(text, wanted, len) == 0, "sender %d, datagram %d: %zd bytes instead of %zu", s, n, got, len);
			WANT(r, strcmp(s == 0 ? from.sun_path : "", s == 0 ? "sender-dgram" : "") == 0, "datagram %d: sender is '%s'", n, from.sun_path);
		}
	struct sockaddr_un to;
	socklen_t len = name_of("bound-dgram", &to);
	WANT(r, sendto(w->pair[DGRAM][0], "n", 1, 0, (struct sockaddr *)&to, len) == 1 && recv(w->bound, text, 9, MSG_DONTWAIT) == 1, "by path");
}

static void rights_check(struct res *r, struct world *w)
{
	char space[CMSG_SPACE(sizeof(int))], byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space) };
	int fd = -1;

	WANT(r, recvmsg(w->rights_pair[1], &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) == 1 && byte == 'r' && CMSG_FIRSTHDR(&msg), "no descriptor in the queue");
	if (CMSG_FIRSTHDR(&msg))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	WANT_EQ(r, syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, fd, w->bound), 0, "descriptor in the queue is another file");
	close(fd);
	rights_send(r, w->rights_pair[0], w->bound);
}

/* The child shares one end of a pair and reads what was queued for it. */
static void child_check(struct res *r, void *arg)
{
	struct world *w = arg;

	WANT_EQ(r, syscall(SYS_kcmp, getpid(), getppid(), KCMP_FILE, w->pair[STREAM][0], w->pair[STREAM][0]), 0, "socket is shared with the parent");
	messages_take(r, w->pair[SEQPACKET][1], SEQPACKET, "seqpacket pair, in the child");
}

static void check(struct res *r, struct world *w)
{
	for (int t = 0; t < TYPES; t++) {
		messages_take(r, w->pair[t][0], 10 + t, type_names[t]);
		if (t != SEQPACKET)
			messages_take(r, w->pair[t][1], t, type_names[t]);
	}
	datagrams_check(r, w);
	res_ask(r, w->child);
	options_check(r, w);
	halves_check(r, w);
	if (r->round == 1)
		messages_take(r, w->pair[STREAM][1], 0, "stream pair once more");
	for (size_t s = 0; s < SERVERS; s++)
		server_check(r, &servers[s], w);
	if (w->rights)
		rights_check(r, w);
	if (w->gone)
		WANT(r, option(w->gone_server, SO_ACCEPTCONN) == 1 && access("gone", F_OK) != 0, "socket with a removed path");
}

int main(int argc, char **argv)
{
	static struct world w;
	struct res r = res_start(argc, argv);

	w.rights = argc > 2 && strcmp(argv[2], "rights") == 0;
	w.gone = argc > 2 && strcmp(argv[2], "gone") == 0;
	w.names = argc > 2 && strcmp(argv[2], "names") == 0;
	w.unread = argc > 2 && strcmp(argv[2], "unread") == 0;
	make(&r, &w);
	w.child = fork();
	if (w.child == 0)
		res_serve(&r, child_check, &w);
	refill(&r, &w);
	MUST(&r, r.failures == 0);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		check(&r, &w);
		refill(&r, &w);
		res_done(&r);
	}
}
