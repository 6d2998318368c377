/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inet - TCP and UDP sockets over IPv4 and IPv6 that are not connections.
 *
 * Seen in:  getsockname, getpeername, TCP_INFO, getsockopt; shutdown in inet_diag.
 * Made by:  socket, bind (make), listen (attach: of sockets that share a port, all must be bound first);
 *           a UDP socket connects in make.
 * Image:    file_entry.isk in files.img.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/sys.h"
#include "resource/file/sockopt.h"
#include "resource/resource.h"

/* TCP_ESTABLISHED (a connected UDP socket), TCP_CLOSE and TCP_LISTEN are the kernel's names, and the record's values */

struct inet {
	uint32_t ino;
	int family, type, protocol;
	uint32_t state, shutdown;
	uint32_t backlog;
	struct sockaddr_in6 src, dst;           /* a sockaddr_in where family is AF_INET; port 0: none */
	char ifname[IFNAMSIZ];                  /* of a link-local address; "": none */
	int own[8];                             /* in the order of the table below; -1: no such option */
	struct sock_opts opts;
};

/* ---- options of IP and TCP ---- */

enum { V6ONLY, FREEBIND, PKTINFO, PKTINFO6, TOS, TTL, NODELAY, CORK, OWN };

_Static_assert(OWN == ARRAY_LEN(((struct inet *)NULL)->own), "one place for each");

static const struct own {
	const char *what;
	int level, name, usual, max;
} own[OWN] = {
	[V6ONLY] = { "IPV6_V6ONLY", IPPROTO_IPV6, IPV6_V6ONLY, -1, 1 },
	[FREEBIND] = { "IP_FREEBIND", IPPROTO_IP, IP_FREEBIND, 0, 1 },
	[PKTINFO] = { "IP_PKTINFO", IPPROTO_IP, IP_PKTINFO, 0, 1 },
	[PKTINFO6] = { "IPV6_RECVPKTINFO", IPPROTO_IPV6, IPV6_RECVPKTINFO, 0, 1 },
	[TOS] = { "IP_TOS", IPPROTO_IP, IP_TOS, 0, 255 },
	[TTL] = { "IP_TTL", IPPROTO_IP, IP_TTL, 64, 255 },
	[NODELAY] = { "TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, 0, 1 },
	[CORK] = { "TCP_CORK", IPPROTO_TCP, TCP_CORK, 0, 1 },
};

static bool has_own(const struct inet *s, size_t i)
{
	return i == PKTINFO ? s->family == AF_INET :
	       own[i].level == IPPROTO_IP || (own[i].level == IPPROTO_IPV6 && s->family == AF_INET6) || own[i].level == s->protocol;
}

/* What is as usual stays unsaid, as in CRIU's records. */
static void see_own(int fd, struct inet *s)
{
	for (size_t i = 0; i < OWN; i++) {
		s->own[i] = -1;
		if (has_own(s, i) && (sock_opt_get(fd, own[i].level, own[i].name, &s->own[i]) < 0 || s->own[i] == own[i].usual))
			s->own[i] = -1;
	}
}

static int make_own(int fd, const struct inet *s, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < OWN && r == 0; i++)
		if (s->own[i] >= 0 && has_own(s, i))
			r = sock_opt_set(fd, own[i].level, own[i].name, s->own[i], own[i].what, err);
	return r;
}

/* ---- addresses ---- */

static socklen_t address_len(const struct inet *s)
{
	return s->family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

/* The address in network order, 1 or 4 words. */
static const uint32_t *words_of(const struct sockaddr_in6 *a)
{
	return a->sin6_family == AF_INET ? &((const struct sockaddr_in *)a)->sin_addr.s_addr : a->sin6_addr.s6_addr32;
}

static bool is_any(const struct sockaddr_in6 *a)
{
	const uint32_t *w = words_of(a);

	return w[0] == 0 && (a->sin6_family == AF_INET || (w[1] | w[2] | w[3]) == 0);
}

struct shown { char text[INET6_ADDRSTRLEN + 16]; };

static struct shown show(const struct sockaddr_in6 *a)
{
	char ip[INET6_ADDRSTRLEN] = "?";
	struct shown s;

	inet_ntop(a->sin6_family, words_of(a), ip, sizeof(ip));
	/* the port is at the same place in both families */
	snprintf(s.text, sizeof(s.text), a->sin6_family == AF_INET ? "%s:%u" : "[%s]:%u", ip, ntohs(a->sin6_port));
	return s;
}

/* ---- see ---- */

static bool inet_claims(const struct fd_view *v)
{
	int domain, type, protocol;

	return S_ISSOCK(v->st.st_mode) &&
	       sock_opt_get(v->fd, SOL_SOCKET, SO_DOMAIN, &domain) == 0 &&
	       sock_opt_get(v->fd, SOL_SOCKET, SO_TYPE, &type) == 0 &&
	       sock_opt_get(v->fd, SOL_SOCKET, SO_PROTOCOL, &protocol) == 0 &&
	       (domain == AF_INET || domain == AF_INET6) &&
	       ((type == SOCK_STREAM && protocol == IPPROTO_TCP) || (type == SOCK_DGRAM && protocol == IPPROTO_UDP));
}

static int see_addresses(int fd, struct inet *s, struct err *err)
{
	socklen_t src_len = sizeof(s->src), dst_len = sizeof(s->dst);

	s->src.sin6_family = s->dst.sin6_family = (sa_family_t)s->family;
	if (getsockname(fd, (struct sockaddr *)&s->src, &src_len) < 0)
		return err_sys(err, "ask for its address");
	if (getpeername(fd, (struct sockaddr *)&s->dst, &dst_len) < 0 && errno != ENOTCONN)
		return err_sys(err, "ask for its peer");
	/* a flow label is no part of an address; a scope is told by the device's name */
	if (s->family == AF_INET6 && s->src.sin6_scope_id && !if_indextoname(s->src.sin6_scope_id, s->ifname))
		return err_sys(err, "name device %u", s->src.sin6_scope_id);
	if (s->family == AF_INET6)
		s->src.sin6_flowinfo = s->dst.sin6_flowinfo = 0;
	return 0;
}

static int see_tcp(int fd, struct inet *s, struct err *err)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);
	int events;

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return err_sys(err, "ask for TCP_INFO");
	s->state = info.tcpi_state;
	if (s->state != TCP_LISTEN && s->state != TCP_CLOSE)
		return err_set(err, EOPNOTSUPP, "TCP connection %s -> %s (state %u): not handled yet", show(&s->src).text,
			       show(&s->dst).text, s->state);
	if (s->state == TCP_LISTEN && info.tcpi_unacked > 0)
		return err_set(err, EOPNOTSUPP, "%u TCP connections to %s wait to be accepted: not handled yet",
			       info.tcpi_unacked, show(&s->src).text);
	s->backlog = s->state == TCP_LISTEN ? info.tcpi_sacked : 0;
	/* what is left of a broken connection */
	events = s->state == TCP_CLOSE ? sys_poll_now(fd, POLLRDHUP, err) : 0;
	if (events < 0)
		return events;
	if (events & POLLRDHUP)
		s->shutdown = 3;
	memset(&s->dst, 0, sizeof(s->dst));
	s->dst.sin6_family = (sa_family_t)s->family;
	return 0;
}

static int inet_see(const struct fd_view *v, void *state, struct err *err)
{
	const struct sock_inet *diag = v->socks ? sock_diag_inet(v->socks, v->st.st_ino) : NULL;
	struct inet s = { .ino = (uint32_t)v->st.st_ino };
	int r;

	if (sock_opt_get(v->fd, SOL_SOCKET, SO_DOMAIN, &s.family) < 0 || sock_opt_get(v->fd, SOL_SOCKET, SO_TYPE, &s.type) < 0)
		return err_sys(err, "ask for its family");
	s.protocol = s.type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
	r = see_addresses(v->fd, &s, err);
	if (r < 0)
		return r;
	if (s.protocol == IPPROTO_TCP) {
		r = see_tcp(v->fd, &s, err);
	} else {
		s.state = s.dst.sin6_port ? TCP_ESTABLISHED : TCP_CLOSE;
		s.shutdown = diag ? diag->shutdown & 3 : 0;
	}
	if (r < 0)
		return r;
	if (!diag && s.src.sin6_port && s.state != TCP_CLOSE)
		return err_set(err, EOPNOTSUPP, "socket at %s is in another network namespace", show(&s.src).text);
	see_own(v->fd, &s);
	r = sock_opts_see(v->fd, &s.opts, err);
	if (r == 0)
		*(struct inet *)state = s;
	return r;
}

/* ---- save and load ---- */

static void save_address(const struct sockaddr_in6 *a, size_t *ret_count, uint32_t **ret_words)
{
	*ret_count = a->sin6_family == AF_INET ? 1 : 4;
	*ret_words = mem_dup(words_of(a), *ret_count * sizeof(uint32_t));
}

static bool is_told(const struct inet *s, size_t i)
{
	return s->own[i] >= 0;
}

static void save_own(const struct inet *s, InetSkEntry *e)
{
	IpOptsEntry *ip = e->ip_opts = mem_new(sizeof(*ip));
	size_t pktinfo = s->family == AF_INET ? PKTINFO : PKTINFO6;

	ip_opts_entry__init(ip);
	if ((e->has_v6only = is_told(s, V6ONLY)))
		e->v6only = s->own[V6ONLY];
	if ((ip->has_freebind = is_told(s, FREEBIND)))
		ip->freebind = s->own[FREEBIND];
	if ((ip->has_pktinfo = is_told(s, pktinfo)))
		ip->pktinfo = s->own[pktinfo];
	if ((ip->has_tos = is_told(s, TOS)))
		ip->tos = (uint32_t)s->own[TOS];
	if ((ip->has_ttl = is_told(s, TTL)))
		ip->ttl = (uint32_t)s->own[TTL];
	if (!is_told(s, NODELAY) && !is_told(s, CORK))
		return;
	e->tcp_opts = mem_new(sizeof(*e->tcp_opts));
	tcp_opts_entry__init(e->tcp_opts);
	if ((e->tcp_opts->has_nodelay = is_told(s, NODELAY)))
		e->tcp_opts->nodelay = s->own[NODELAY];
	if ((e->tcp_opts->has_cork = is_told(s, CORK)))
		e->tcp_opts->cork = s->own[CORK];
}

static void inet_save(const struct file *f, FileEntry *rec)
{
	const struct inet *s = f->state;
	InetSkEntry *e = mem_new(sizeof(*e));

	inet_sk_entry__init(e);
	e->id = f->id;
	e->ino = s->ino;
	e->family = (uint32_t)s->family;
	e->type = (uint32_t)s->type;
	e->proto = (uint32_t)s->protocol;
	e->state = s->state;
	e->src_port = ntohs(s->src.sin6_port);
	e->dst_port = ntohs(s->dst.sin6_port);
	e->flags = f->flags;
	e->backlog = s->backlog;
	save_address(&s->src, &e->n_src_addr, &e->src_addr);
	save_address(&s->dst, &e->n_dst_addr, &e->dst_addr);
	e->fown = fown_save(&f->fown);
	e->opts = sock_opts_save(&s->opts);
	e->ifname = s->ifname[0] ? mem_str(s->ifname) : NULL;
	e->has_shutdown = s->shutdown != 0;
	e->shutdown = (SkShutdown)s->shutdown;
	save_own(s, e);
	rec->type = FD_TYPES__INETSK;
	rec->id = f->id;
	rec->isk = e;
}

static int load_address(uint32_t port, size_t count, const uint32_t *words, int family, struct sockaddr_in6 *ret_address,
			struct err *err)
{
	if (port > 65535 || count != (family == AF_INET ? 1 : 4))
		return err_set(err, EBADMSG, "socket address of %zu words and port %u", count, port);
	*ret_address = (struct sockaddr_in6){ .sin6_family = (sa_family_t)family, .sin6_port = htons((uint16_t)port) };
	memcpy((uint32_t *)words_of(ret_address), words, count * sizeof(*words));
	return 0;
}

static int load_one(struct inet *s, size_t i, bool has, uint32_t value, struct err *err)
{
	s->own[i] = has ? (int)value : -1;
	return has && value > (uint32_t)own[i].max ? err_set(err, EBADMSG, "%s is %u", own[i].what, value) : 0;
}

static int load_own(const InetSkEntry *e, struct inet *s, struct err *err)
{
	const IpOptsEntry none = IP_OPTS_ENTRY__INIT, *ip = e->ip_opts ? e->ip_opts : &none;
	const TcpOptsEntry silent = TCP_OPTS_ENTRY__INIT, *tcp = e->tcp_opts ? e->tcp_opts : &silent;
	bool v6 = s->family == AF_INET6;
	int r;

	(void)((r = load_one(s, V6ONLY, e->has_v6only && v6, e->v6only != 0, err)) < 0 ||
	       (r = load_one(s, FREEBIND, ip->has_freebind, ip->freebind != 0, err)) < 0 ||
	       (r = load_one(s, PKTINFO, ip->has_pktinfo && !v6, ip->pktinfo != 0, err)) < 0 ||
	       (r = load_one(s, PKTINFO6, ip->has_pktinfo && v6, ip->pktinfo != 0, err)) < 0 ||
	       (r = load_one(s, TOS, ip->has_tos, ip->tos, err)) < 0 ||
	       (r = load_one(s, TTL, ip->has_ttl && ip->ttl, ip->ttl, err)) < 0 ||
	       (r = load_one(s, NODELAY, tcp->has_nodelay, tcp->nodelay != 0, err)) < 0 ||
	       (r = load_one(s, CORK, tcp->has_cork, tcp->cork != 0, err)) < 0);
	return r;
}

static int check_kind(const InetSkEntry *e, struct err *err)
{
	bool tcp = e->type == SOCK_STREAM;

	if (e->family != AF_INET && e->family != AF_INET6)
		return err_set(err, EBADMSG, "internet socket of family %u", e->family);
	if (e->proto != IPPROTO_TCP && e->proto != IPPROTO_UDP)
		return err_set(err, EOPNOTSUPP, "internet socket of protocol %u: not handled yet", e->proto);
	if ((!tcp && e->type != SOCK_DGRAM) || tcp != (e->proto == IPPROTO_TCP))
		return err_set(err, EBADMSG, "internet socket of type %u, protocol %u", e->type, e->proto);
	if (e->state < TCP_ESTABLISHED || e->state > TCP_CLOSING + 1 || e->shutdown > 3)
		return err_set(err, EBADMSG, "internet socket of state %u, shut down %#x", e->state, e->shutdown);
	if (!tcp && e->state != TCP_ESTABLISHED && e->state != TCP_CLOSE)
		return err_set(err, EBADMSG, "UDP socket of state %u", e->state);
	if (e->state == TCP_LISTEN && e->src_port == 0)
		return err_set(err, EBADMSG, "TCP socket that is listening has no port");
	if (e->ifname && strlen(e->ifname) >= IFNAMSIZ)
		return err_set(err, EBADMSG, "device '%.40s'", e->ifname);
	return 0;
}

static int inet_load(const FileEntry *rec, struct file *f, struct snapshot *snapshot, struct err *err)
{
	const InetSkEntry *e = rec->isk;
	struct inet s = { 0 };
	int r;

	(void)snapshot;
	if (!e)
		return err_set(err, EBADMSG, "internet socket record has no body");
	r = check_kind(e, err);
	if (r < 0)
		return r;
	s = (struct inet){
		.ino = e->ino, .family = (int)e->family, .type = (int)e->type, .protocol = (int)e->proto, .state = e->state,
		.shutdown = e->shutdown, .backlog = e->backlog,
	};
	if ((r = load_address(e->src_port, e->n_src_addr, e->src_addr, s.family, &s.src, err)) < 0 ||
	    (r = load_address(e->dst_port, e->n_dst_addr, e->dst_addr, s.family, &s.dst, err)) < 0 ||
	    (r = load_own(e, &s, err)) < 0 || (r = fown_load(e->fown, &f->fown, err)) < 0)
		return r;
	if (s.protocol == IPPROTO_TCP && s.state != TCP_LISTEN && s.state != TCP_CLOSE)
		return err_set(err, EOPNOTSUPP, "TCP connection %s -> %s (state %u): not handled yet", show(&s.src).text,
			       show(&s.dst).text, s.state);
	if (e->ifname)
		strcpy(s.ifname, e->ifname);
	r = sock_opts_load(e->opts, &s.opts, err);
	if (r < 0)
		return r;
	f->flags = e->flags;
	*(struct inet *)f->state = s;
	return 0;
}

/* ---- make ---- */

static int bind_to(int fd, const struct inet *s, struct err *err)
{
	struct sockaddr_in6 src = s->src;
	int on = 1;

	if (src.sin6_port == 0 && is_any(&src))
		return 0;
	if (s->ifname[0]) {
		src.sin6_scope_id = if_nametoindex(s->ifname);
		if (src.sin6_scope_id == 0)
			return err_sys(err, "find device %s", s->ifname);
	}
	/* old connections that have not died down must not be in the way; attach puts the true value back */
	if (s->protocol == IPPROTO_TCP && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return err_sys(err, "set SO_REUSEADDR");
	if (bind(fd, (struct sockaddr *)&src, address_len(s)) < 0)
		return err_sys(err, "bind %s socket to %s", s->protocol == IPPROTO_TCP ? "TCP" : "UDP", show(&src).text);
	return 0;
}

static int connect_udp(int fd, const struct inet *s, struct err *err)
{
	struct sockaddr_in6 dst = s->dst;

	if (s->protocol != IPPROTO_UDP || s->state != TCP_ESTABLISHED)
		return 0;
	if (s->ifname[0])
		dst.sin6_scope_id = if_nametoindex(s->ifname);
	if (connect(fd, (struct sockaddr *)&dst, address_len(s)) < 0)
		return err_sys(err, "connect UDP socket to %s", show(&dst).text);
	return 0;
}

static int inet_make(const struct file *f, struct maker *m, int *ret_fd, struct err *err)
{
	const struct inet *s = f->state;
	own_fd fd = socket(s->family, s->type | SOCK_CLOEXEC, s->protocol);
	int r;

	(void)m;
	if (fd < 0)
		return err_sys(err, "create %s socket", s->protocol == IPPROTO_TCP ? "TCP" : "UDP");
	if ((r = make_own(fd, s, err)) < 0 || (r = sock_opts_make(fd, &s->opts, err)) < 0 ||
	    (r = bind_to(fd, s, err)) < 0 || (r = connect_udp(fd, s, err)) < 0)
		return r;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int inet_attach(const struct file *f, struct maker *m, struct err *err)
{
	const struct inet *s = f->state;
	int fd = m->fds.at[f - m->snapshot->files.at], reuse = sock_opts_reuse(&s->opts);

	if (s->state == TCP_LISTEN && listen(fd, s->backlog > INT_MAX ? INT_MAX : (int)s->backlog) < 0)
		return err_sys(err, "listen at %s", show(&s->src).text);
	if (s->protocol == IPPROTO_TCP && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)) < 0)
		return err_sys(err, "set SO_REUSEADDR");
	/* it says ENOTCONN, and has done it */
	if (s->shutdown && shutdown(fd, (int)s->shutdown - 1) < 0 && errno != ENOTCONN)
		return err_sys(err, "shut down socket at %s", show(&s->src).text);
	return 0;
}

static void inet_drop(void *state)
{
	sock_opts_drop(&((struct inet *)state)->opts);
}

extern const struct file_type inet_type;

bool file_address(const struct file *f, struct file_address *ret)
{
	const struct inet *s = f->state;

	if (f->type != &inet_type || s->src.sin6_port == 0 || s->own[FREEBIND] > 0)
		return false;
	*ret = (struct file_address){ .family = s->family, .type = s->type, .port = ntohs(s->src.sin6_port) };
	memcpy(ret->bytes, words_of(&s->src), s->family == AF_INET ? 4 : 16);
	snprintf(ret->text, sizeof(ret->text), "%s", show(&s->src).text);
	return true;
}

const struct file_type inet_type = {
	.name = "TCP sockets that listen or are not connected, UDP sockets",
	.lost = "datagrams that a UDP socket has not received; congestion control and fast open keys of TCP",
	.record = FD_TYPES__INETSK,
	.state_size = sizeof(struct inet),
	.claims = inet_claims,
	.see = inet_see,
	.save = inet_save,
	.load = inet_load,
	.make = inet_make,
	.attach = inet_attach,
	.drop = inet_drop,
};
