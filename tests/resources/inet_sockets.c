/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP and UDP sockets that have no connection to keep: listening ones of both
 * families with their options and backlog, bound ones, fresh ones, UDP ones
 * bound and connected. Ports are the kernel's choice and have to stay.
 * "strict" adds options (and those of IPv4 on IPv6 sockets) that CRIU's images lack.
 */
#include <arpa/inet.h>
#include <linux/kcmp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "res.h"

enum which { V4, V6_ONLY, V6_BOTH, SHARED_PORT, SHARED_PORT_2, BOUND, BOUND_6, FRESH, UDP_BOUND, UDP_BOUND_6, UDP_CONNECTED, UDP_FRESH, SOCKETS };

struct option { int level, name, value; bool strict; };

static const struct option options[] = {
	{ SOL_SOCKET, SO_REUSEADDR, 1 }, { SOL_SOCKET, SO_KEEPALIVE, 1 }, { SOL_SOCKET, SO_RCVBUF, 70000 }, { SOL_SOCKET, SO_SNDBUF, 50000 },
	{ SOL_SOCKET, SO_PRIORITY, 4 }, { SOL_SOCKET, SO_MARK, 77 }, { SOL_SOCKET, SO_RCVTIMEO, 5 }, { SOL_SOCKET, SO_SNDTIMEO, 6 },
	{ SOL_SOCKET, SO_OOBINLINE, 1 }, { SOL_SOCKET, SO_DONTROUTE, 0 }, { SOL_SOCKET, SO_NO_CHECK, 0 },
	{ IPPROTO_TCP, TCP_NODELAY, 1 }, { IPPROTO_TCP, TCP_KEEPIDLE, 321 }, { IPPROTO_TCP, TCP_KEEPINTVL, 43 }, { IPPROTO_TCP, TCP_KEEPCNT, 3 },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, 3, true }, { IPPROTO_TCP, TCP_USER_TIMEOUT, 12345, true }, { IPPROTO_TCP, TCP_SYNCNT, 3, true },
	{ IPPROTO_IP, IP_TOS, 0x10 }, { IPPROTO_IP, IP_TTL, 33 }, { IPPROTO_IP, IP_FREEBIND, 1 },
};
#define OPTIONS (sizeof(options) / sizeof(options[0]))

struct world {
	bool strict;
	int fd[SOCKETS];
	pid_t child;
	char was[16384], is[16384];
};

static int family_of(enum which s)
{
	return s == V6_ONLY || s == V6_BOTH || s == BOUND_6 || s == UDP_BOUND_6 ? AF_INET6 : AF_INET;
}

static bool listens(enum which s)
{
	return s <= SHARED_PORT_2;
}

static socklen_t loopback(int family, int port, struct sockaddr_storage *ret_addr)
{
	struct sockaddr_in *in = (struct sockaddr_in *)ret_addr;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_addr;

	memset(ret_addr, 0, sizeof(*ret_addr));
	if (family == AF_INET6) {
		*in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT };
		return sizeof(*in6);
	}
	*in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	return sizeof(*in);
}

static int port_of(int fd)
{
	struct sockaddr_in6 addr = { 0 };	/* the port is at the same place in both families */

	getsockname(fd, (struct sockaddr *)&addr, &(socklen_t){ sizeof(addr) });
	return ntohs(addr.sin6_port);
}

static void bind_to(struct res *r, int fd, int family, int port, bool any)
{
	struct sockaddr_storage addr;
	socklen_t len = loopback(family, port, &addr);

	if (any)
		((struct sockaddr_in6 *)&addr)->sin6_addr = in6addr_any;
	MUST(r, bind(fd, (struct sockaddr *)&addr, len) == 0);
}

static void options_set(struct res *r, struct world *w, enum which s)
{
	for (size_t i = 0; i < OPTIONS; i++) {
		const struct option *o = &options[i];
		struct timeval time = { o->value, 250000 };
		bool is_time = o->level == SOL_SOCKET && (o->name == SO_RCVTIMEO || o->name == SO_SNDTIMEO);

		if (((o->strict || (o->level == IPPROTO_IP && family_of(s) == AF_INET6)) && !w->strict) || (o->level == IPPROTO_TCP && s >= UDP_BOUND))
			continue;
		MUST(r, setsockopt(w->fd[s], o->level, o->name, is_time ? (void *)&time : (void *)&o->value, is_time ? sizeof(time) : sizeof(int)) == 0);
	}
}

static void make(struct res *r, struct world *w)
{
	for (int s = 0; s < SOCKETS; s++) {
		w->fd[s] = socket(family_of(s), (s >= UDP_BOUND ? SOCK_DGRAM : SOCK_STREAM) | (s & 1 ? SOCK_CLOEXEC | SOCK_NONBLOCK : 0), 0);
		MUST(r, w->fd[s] >= 0);
	}
	options_set(r, w, V4);
	options_set(r, w, V6_ONLY);
	options_set(r, w, UDP_BOUND);
	const int both[] = { SHARED_PORT, SHARED_PORT_2 };
	for (int i = 0; i < 2; i++)
		MUST(r, setsockopt(w->fd[both[i]], SOL_SOCKET, SO_REUSEPORT, &(int){ 1 }, sizeof(int)) == 0);
	MUST(r, setsockopt(w->fd[V6_ONLY], IPPROTO_IPV6, IPV6_V6ONLY, &(int){ 1 }, sizeof(int)) == 0);
	MUST(r, setsockopt(w->fd[V6_BOTH], IPPROTO_IPV6, IPV6_V6ONLY, &(int){ 0 }, sizeof(int)) == 0);
	bind_to(r, w->fd[V4], AF_INET, 0, false);
	bind_to(r, w->fd[V6_ONLY], AF_INET6, 0, false);
	bind_to(r, w->fd[V6_BOTH], AF_INET6, 0, true);
	bind_to(r, w->fd[SHARED_PORT], AF_INET, 0, false);
	bind_to(r, w->fd[SHARED_PORT_2], AF_INET, port_of(w->fd[SHARED_PORT]), false);
	bind_to(r, w->fd[BOUND], AF_INET, 0, false);
	bind_to(r, w->fd[BOUND_6], AF_INET6, 0, false);
	bind_to(r, w->fd[UDP_BOUND], AF_INET, 0, false);
	bind_to(r, w->fd[UDP_BOUND_6], AF_INET6, 0, false);
	for (int s = 0; s < SOCKETS; s++)
		MUST(r, !listens(s) || listen(w->fd[s], 5 + s) == 0);
	struct sockaddr_storage to;
	socklen_t len = loopback(AF_INET, port_of(w->fd[UDP_BOUND]), &to);
	MUST(r, connect(w->fd[UDP_CONNECTED], (struct sockaddr *)&to, len) == 0);
}

static char *see_address(char *out, const struct sockaddr_storage *addr)
{
	const struct sockaddr_in6 *in6 = (const void *)addr;
	char text[64] = "none";

	if (addr->ss_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *)addr)->sin_addr, text, sizeof(text));
	else if (addr->ss_family == AF_INET6)
		inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof(text));
	return out + sprintf(out, " %s:%d", text, ntohs(in6->sin6_port));
}

/* Of each socket: addresses, flags, backlog, every option that can be asked for. */
static void see(struct world *w, char *out)
{
	static const struct option more[] = {
		{ SOL_SOCKET, SO_TYPE, 0 }, { SOL_SOCKET, SO_ACCEPTCONN, 0 }, { SOL_SOCKET, SO_REUSEPORT, 0 }, { SOL_SOCKET, SO_BROADCAST, 0 },
		{ IPPROTO_IPV6, IPV6_V6ONLY, 0 },
	};

	for (int s = 0; s < SOCKETS; s++) {
		struct sockaddr_storage own = { 0 }, peer = { 0 };

		getsockname(w->fd[s], (struct sockaddr *)&own, &(socklen_t){ sizeof(own) });
		getpeername(w->fd[s], (struct sockaddr *)&peer, &(socklen_t){ sizeof(peer) });
		out += sprintf(out, "socket %d: flags %o cloexec %d", s, fcntl(w->fd[s], F_GETFL), fcntl(w->fd[s], F_GETFD));
		out = see_address(see_address(out, &own), &peer);
		for (size_t i = 0; i < OPTIONS + sizeof(more) / sizeof(more[0]); i++) {
			const struct option *o = i < OPTIONS ? &options[i] : &more[i - OPTIONS];
			int value[2] = { 0 };

			if (getsockopt(w->fd[s], o->level, o->name, value, &(socklen_t){ sizeof(value) }) == 0)
				out += sprintf(out, "\nsocket %d: option %d/%d: %d", s, o->level, o->name, value[0]);
		}
		struct tcp_info info = { 0 };
		if (s < UDP_BOUND && getsockopt(w->fd[s], IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){ sizeof(info) }) == 0)
			out += sprintf(out, "\nsocket %d: state %d backlog %u", s, info.tcpi_state, listens(s) ? info.tcpi_sacked : 0);
		out += sprintf(out, "\n");
	}
}

/* A client connects, is accepted by one of `servers`, and both hear one another. */
static void serve_check(struct res *r, int family, int port, const int *servers, int count, const char *what)
{
	struct sockaddr_storage addr;
	socklen_t len = loopback(family, port, &addr);
	int client = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), got = -1;
	struct linger reset = { 1, 0 };	/* nothing stays behind in TIME_WAIT */
	struct pollfd p[2];
	char text[4];

	setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	WANT(r, connect(client, (struct sockaddr *)&addr, len) == 0, "%s: connect: %s", what, strerror(errno));
	WANT(r, send(client, "hi", 2, MSG_NOSIGNAL) == 2, "%s: send: %s", what, strerror(errno));	/* TCP_DEFER_ACCEPT waits for it */
	for (int i = 0; i < count; i++)
		p[i] = (struct pollfd){ servers[i], POLLIN, 0 };
	WANT(r, poll(p, count, 20000) == 1, "%s: nobody can accept", what);
	for (int i = 0; i < count; i++)
		if (p[i].revents & POLLIN)
			got = accept4(servers[i], NULL, NULL, SOCK_CLOEXEC);
	WANT(r, got >= 0 && recv(got, text, 2, MSG_WAITALL) == 2 && send(got, "ho", 2, MSG_NOSIGNAL) == 2, "%s: server", what);
	WANT(r, recv(client, text, 2, MSG_WAITALL) == 2 && memcmp(text, "ho", 2) == 0, "%s: client", what);
	close(client);
	close(got);
}

static void udp_check(struct res *r, struct world *w)
{
	struct sockaddr_storage from, to;
	socklen_t from_len = sizeof(from);
	char text[4] = "";

	WANT(r, send(w->fd[UDP_CONNECTED], "dg", 2, 0) == 2, "UDP: send: %s", strerror(errno));
	struct pollfd p = { w->fd[UDP_BOUND], POLLIN, 0 };
	WANT(r, poll(&p, 1, 20000) == 1 && recvfrom(w->fd[UDP_BOUND], text, 4, 0, (struct sockaddr *)&from, &from_len) == 2, "UDP: receive");
	WANT(r, sendto(w->fd[UDP_BOUND], "an", 2, 0, (struct sockaddr *)&from, from_len) == 2, "UDP: answer: %s", strerror(errno));
	p.fd = w->fd[UDP_CONNECTED];
	WANT(r, poll(&p, 1, 20000) == 1 && recv(w->fd[UDP_CONNECTED], text, 4, 0) == 2 && memcmp(text, "an", 2) == 0, "UDP: answer");
	socklen_t len = loopback(AF_INET6, port_of(w->fd[UDP_BOUND_6]), &to);
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	p.fd = w->fd[UDP_BOUND_6];
	WANT(r, sendto(fd, "v6", 2, 0, (struct sockaddr *)&to, len) == 2 && poll(&p, 1, 20000) == 1 && recv(p.fd, text, 4, 0) == 2, "UDP over IPv6");
	close(fd);
}

static void child_check(struct res *r, void *arg)
{
	struct world *w = arg;

	for (int s = 0; s < SOCKETS; s++)
		WANT_EQ(r, syscall(SYS_kcmp, getpid(), getppid(), KCMP_FILE, w->fd[s], w->fd[s]), 0, "socket %d is shared with the parent", s);
	serve_check(r, AF_INET, port_of(w->fd[V4]), &w->fd[V4], 1, "v4, in the child");
}

static void check(struct res *r, struct world *w)
{
	see(w, w->is);
	res_same_text(r, "socket", w->was, w->is);
	serve_check(r, AF_INET, port_of(w->fd[V4]), &w->fd[V4], 1, "v4");
	serve_check(r, AF_INET6, port_of(w->fd[V6_ONLY]), &w->fd[V6_ONLY], 1, "v6 only");
	serve_check(r, AF_INET6, port_of(w->fd[V6_BOTH]), &w->fd[V6_BOTH], 1, "v6");
	serve_check(r, AF_INET, port_of(w->fd[V6_BOTH]), &w->fd[V6_BOTH], 1, "v4 to a v6 socket");
	serve_check(r, AF_INET, port_of(w->fd[SHARED_PORT]), &w->fd[SHARED_PORT], 2, "shared port");
	udp_check(r, w);
	res_ask(r, w->child);
	/* a bound one may still listen, and its port is nobody else's */
	struct sockaddr_storage addr;
	socklen_t len = loopback(AF_INET, port_of(w->fd[BOUND]), &addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	WANT(r, bind(fd, (struct sockaddr *)&addr, len) == -1 && errno == EADDRINUSE, "port of the bound socket is free");
	close(fd);
}

int main(int argc, char **argv)
{
	static struct world w;
	struct res r = res_start(argc, argv);

	w.strict = argc > 2 && strcmp(argv[2], "strict") == 0;
	make(&r, &w);
	w.child = fork();
	if (w.child == 0)
		res_serve(&r, child_check, &w);
	see(&w, w.was);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		check(&r, &w);
		res_done(&r);
	}
}
