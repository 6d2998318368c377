/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/own.h"
#include "wire/transport.h"

#define IOV_SOME 64

/* ---- what goes at once ---- */

static ssize_t is_gone(struct transport *t, struct err *err)
{
	if (errno == ECONNRESET || errno == EPIPE)
		return err_set(err, ECONNRESET, "%s closed the connection", t->peer);
	return err_sys(err, "%s", t->peer);
}

static ssize_t plain_send(struct transport *t, const struct iovec *iov, int count, struct err *err)
{
	const struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)count };
	ssize_t n = sendmsg(t->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n >= 0)
		return n;
	t->wants = POLLOUT;
	return errno == EAGAIN || errno == EINTR ? -EAGAIN : is_gone(t, err);
}

static ssize_t plain_receive(struct transport *t, const struct iovec *iov, int count, struct err *err)
{
	struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)count };
	ssize_t n = recvmsg(t->fd, &msg, MSG_DONTWAIT);

	if (n >= 0)
		return n;
	t->wants = POLLIN;
	return errno == EAGAIN || errno == EINTR ? -EAGAIN : is_gone(t, err);
}

static const struct transport_layer plain = { plain_send, plain_receive };

/* ---- waiting ---- */

static int wait_until(const struct transport *t, int timeout_ms)
{
	struct pollfd fd = { .fd = t->fd, .events = t->wants };
	uint64_t end_us = clock_us() + (uint64_t)timeout_ms * 1000;

	for (;;) {
		int n = poll(&fd, 1, timeout_ms);

		if (n >= 0 || errno != EINTR)
			return n;
		if (timeout_ms >= 0)
			timeout_ms = clock_us() < end_us ? (int)((end_us - clock_us()) / 1000) : 0;
	}
}

int transport_wait(struct transport *t, bool sending, struct err *err)
{
	int timeout_ms = t->timeout_ms, n;

	if (t->until_us) {
		uint64_t now = clock_us(), left_ms = t->until_us > now ? (t->until_us - now) / 1000 : 0;

		if (timeout_ms < 0 || (uint64_t)timeout_ms > left_ms)
			timeout_ms = (int)left_ms;
	}
	n = wait_until(t, timeout_ms);
	if (n < 0)
		return err_sys(err, "wait for %s", t->peer);
	if (n > 0)
		return 0;
	return err_set(err, ETIMEDOUT, "%s %s for %d s", t->peer, sending ? "has taken nothing" : "has sent nothing",
		       t->timeout_ms / 1000);
}

/* Takes `done` bytes off the front of the list. */
static void advance(struct iovec **iov, int *count, size_t done)
{
	while (*count > 0 && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		(*count)--;
	}
	if (*count > 0) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
}

static int send_some(struct transport *t, struct iovec *iov, int count, struct err *err)
{
	advance(&iov, &count, 0);
	while (count > 0) {
		ssize_t n = t->layer->send(t, iov, count, err);

		if (n == -EAGAIN)
			n = transport_wait(t, true, err);
		if (n < 0)
			return (int)n;
		advance(&iov, &count, (size_t)n);
	}
	return 0;
}

int transport_send(struct transport *t, const struct iovec *iov, int count, struct err *err)
{
	struct iovec some[IOV_SOME];
	int r = 0;

	for (int done = 0, n; r == 0 && done < count; done += n) {
		n = count - done < IOV_SOME ? count - done : IOV_SOME;
		memcpy(some, iov + done, (size_t)n * sizeof(*some));
		r = send_some(t, some, n, err);
	}
	return r;
}

int transport_receive(struct transport *t, const struct iovec *iov, int count, struct err *err)
{
	struct iovec some[IOV_SOME], *at = some;
	bool began = false;

	if (count > IOV_SOME)
		return err_set(err, EINVAL, "too many pieces to receive into");
	memcpy(some, iov, (size_t)count * sizeof(*some));
	advance(&at, &count, 0);
	while (count > 0) {
		ssize_t n = t->layer->receive(t, at, count, err);

		if (n == 0)
			return began ? err_set(err, ECONNRESET, "%s closed the connection in the middle", t->peer) : 0;
		if (n == -EAGAIN) {
			n = transport_wait(t, false, err);
			if (n < 0)
				return (int)n;
			continue;
		}
		if (n < 0)
			return (int)n;
		began = true;
		advance(&at, &count, (size_t)n);
	}
	return 1;
}

ssize_t transport_receive_some(struct transport *t, void *buf, size_t len, struct err *err)
{
	const struct iovec iov = { buf, len };
	ssize_t n = t->layer->receive(t, &iov, 1, err);

	if (n == 0)
		return err_set(err, ECONNRESET, "%s closed the connection", t->peer);
	return n == -EAGAIN ? 0 : n;
}

void transport_drain(struct transport *t, int at_most_ms)
{
	uint64_t end_us = clock_us() + (uint64_t)at_most_ms * 1000;
	char rest[4096];
	const struct iovec iov = { rest, sizeof(rest) };

	shutdown(t->fd, SHUT_WR);
	for (;;) {
		ssize_t n = plain_receive(t, &iov, 1, &(struct err){ 0 });
		uint64_t now_us = clock_us();

		if (now_us >= end_us || n == 0 || (n < 0 && n != -EAGAIN))
			return;
		if (n == -EAGAIN && wait_until(t, (int)((end_us - now_us) / 1000)) <= 0)
			return;
	}
}

void transport_close(struct transport *t)
{
	if (t->layer && t->layer->close)
		t->layer->close(t);
	if (t->layer)
		own_fd_drop(&t->fd);
	*t = (struct transport){ .fd = -1 };
}

/* ---- beginnings ---- */

static bool same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	const struct sockaddr_in6 *a6 = (const void *)a, *b6 = (const void *)b;
	const struct sockaddr_in *a4 = (const void *)a, *b4 = (const void *)b;

	if (a->ss_family != b->ss_family)
		return false;
	return a->ss_family == AF_INET ? a4->sin_addr.s_addr == b4->sin_addr.s_addr :
	       a->ss_family == AF_INET6 && memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof(a6->sin6_addr)) == 0;
}

/*
 * Within a machine there is no path to be found out about: BBR, where that is the system's choice, takes our pauses for the
 * path's, and paces (2 GiB over loopback: 2.1 s, by reno 1.2 s).
 */
static void tune(int fd)
{
	struct sockaddr_storage here = { 0 }, there = { 0 };
	socklen_t size = sizeof(here), there_size = sizeof(there);
	int one = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)    /* it is no TCP */
		return;
	if (getsockname(fd, (struct sockaddr *)&here, &size) == 0 && getpeername(fd, (struct sockaddr *)&there, &there_size) == 0 &&
	    same_host(&here, &there))
		(void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

static void begin(struct transport *t, int fd, const char *peer)
{
	*t = (struct transport){ .fd = fd, .timeout_ms = TRANSPORT_TIMEOUT_MS, .layer = &plain };
	snprintf(t->peer, sizeof(t->peer), "%s", peer);
}

static int find_host(const char *host, const char *port, bool passive, struct addrinfo **ret, struct err *err)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0 };
	int r = getaddrinfo(host, port, &hints, ret);

	return r == 0 ? 0 : err_set(err, EADDRNOTAVAIL, "%s, port %s: %s", host, port,
				    r == EAI_SYSTEM ? strerror(errno) : gai_strerror(r));
}

/* Waits for a connection that has begun.  0, or an errno. */
static int finish_connect(int fd, int timeout_ms)
{
	struct transport t = { .fd = fd, .wants = POLLOUT };
	int n = wait_until(&t, timeout_ms), code = 0;
	socklen_t size = sizeof(code);

	if (n <= 0)
		return n < 0 ? errno : ETIMEDOUT;
	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0 ? errno : code;
}

static int connect_one(const struct sockaddr *address, socklen_t size, int *ret_fd)
{
	own_fd fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int code = 0;

	if (fd < 0)
		return errno;
	if (connect(fd, address, size) < 0)
		code = errno == EINPROGRESS || errno == EINTR ? finish_connect(fd, TRANSPORT_TIMEOUT_MS) : errno;
	if (code == 0)
		*ret_fd = TAKE_FD(fd);
	return code;
}

int transport_connect(struct transport *t, const char *host, const char *port, const char *what, struct err *err)
{
	struct addrinfo *list = NULL;
	char peer[sizeof(t->peer)];
	int fd = -1, code = 0;
	int r = find_host(host, port, false, &list, err);

	if (r < 0)
		return r;
	snprintf(peer, sizeof(peer), "%s at %s:%s", what, host, port);
	for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		code = connect_one(a->ai_addr, a->ai_addrlen, &fd);
	freeaddrinfo(list);
	if (fd < 0)
		return err_set(err, code, "connect to %s: %s", peer, strerror(code));
	tune(fd);
	begin(t, fd, peer);
	return 0;
}

int transport_connect_unix(struct transport *t, const char *path, const char *what, struct err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char peer[sizeof(t->peer)];
	int fd = -1, code;

	if (strlen(path) >= sizeof(address.sun_path))
		return err_set(err, ENAMETOOLONG, "%s: too long for a socket's path", path);
	strcpy(address.sun_path, path);
	snprintf(peer, sizeof(peer), "%.15s at %.43s", what, path);
	code = connect_one((const struct sockaddr *)&address, sizeof(address), &fd);
	if (code)
		return err_set(err, code, "connect to %s: %s", peer, strerror(code));
	begin(t, fd, peer);
	return 0;
}

int transport_adopt(struct transport *t, int fd, const char *what, struct err *err)
{
	int type = 0;
	socklen_t size = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
		return err_sys(err, "descriptor %d as a socket", fd);
	if (type != SOCK_STREAM)
		return err_set(err, EPROTOTYPE, "descriptor %d is no stream socket", fd);
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, "descriptor %d", fd);
	tune(fd);
	begin(t, fd, what);
	return 0;
}

/* ---- two descriptors ---- */

static ssize_t pair_send(struct transport *t, const struct iovec *iov, int count, struct err *err)
{
	ssize_t n = writev((int)(intptr_t)t->layer_data, iov, count);           /* waits by itself */

	if (n >= 0)
		return n;
	return errno == EINTR ? 0 : is_gone(t, err);
}

static ssize_t pair_receive(struct transport *t, const struct iovec *iov, int count, struct err *err)
{
	struct pollfd p = { .fd = t->fd, .events = POLLIN };
	ssize_t n;

	t->wants = POLLIN;
	if (poll(&p, 1, 0) <= 0)
		return -EAGAIN;
	n = readv(t->fd, iov, count);
	return n >= 0 ? n : errno == EINTR || errno == EAGAIN ? -EAGAIN : is_gone(t, err);
}

static void pair_close(struct transport *t)
{
	close((int)(intptr_t)t->layer_data);
}

int transport_adopt_pair(struct transport *t, int in_fd, int out_fd, const char *what, struct err *err)
{
	static const struct transport_layer pair = { pair_send, pair_receive, pair_close };

	if (fcntl(in_fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(out_fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, "descriptors %d and %d", in_fd, out_fd);
	begin(t, in_fd, what);
	t->layer = &pair;
	t->layer_data = (void *)(intptr_t)out_fd;
	return 0;
}

static int listen_one(const struct addrinfo *a, int *ret_fd)
{
	own_fd fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;

	if (fd < 0)
		return errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, 16) < 0)
		return errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int transport_listen(const char *host, const char *port, int *ret_fd, unsigned int *ret_port, struct err *err)
{
	const char *where = host ? host : "127.0.0.1";
	union { struct sockaddr any; struct sockaddr_in in; struct sockaddr_in6 in6; } bound = { 0 };
	socklen_t size = sizeof(bound);
	struct addrinfo *list = NULL;
	own_fd fd = -1;
	int code = 0, r = find_host(where, port, true, &list, err);

	if (r < 0)
		return r;
	for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		code = listen_one(a, &fd);
	freeaddrinfo(list);
	if (fd < 0)
		return err_set(err, code, "listen on %s, port %s: %s", where, port, strerror(code));
	if (getsockname(fd, &bound.any, &size) < 0)
		return err_sys(err, "ask for the port");
	*ret_port = ntohs(bound.any.sa_family == AF_INET6 ? bound.in6.sin6_port : bound.in.sin_port);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int transport_accept(int listen_fd, struct transport *t, const char *what, struct err *err)
{
	struct sockaddr_storage from = { 0 };
	socklen_t size = sizeof(from);
	char host[NI_MAXHOST], port[NI_MAXSERV], peer[sizeof(t->peer)];
	int fd;

	while ((fd = accept4(listen_fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC)) < 0)
		if (errno != EINTR && errno != ECONNABORTED)
			return err_sys(err, "wait for a connection");
	tune(fd);
	if (getnameinfo((struct sockaddr *)&from, size, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		snprintf(peer, sizeof(peer), "%s at %.40s:%.8s", what, host, port);
	else
		snprintf(peer, sizeof(peer), "%s", what);
	begin(t, fd, peer);
	return 0;
}

static bool is_loopback(const struct sockaddr *a)
{
	const struct sockaddr_in *in = (const void *)a;
	const struct sockaddr_in6 *in6 = (const void *)a;

	if (a->sa_family == AF_INET)
		return ntohl(in->sin_addr.s_addr) >> 24 == 127;
	return a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

bool transport_is_local(const char *host)
{
	struct addrinfo *list = NULL;
	bool local;

	if (!host)
		return true;
	if (find_host(host, NULL, true, &list, &(struct err){ 0 }) < 0)
		return false;
	local = true;
	for (const struct addrinfo *a = list; a; a = a->ai_next)
		local &= is_loopback(a->ai_addr);
	freeaddrinfo(list);
	return local;
}
