/* SPDX-License-Identifier: Apache-2.0 */
/* probe_net.c - the doors to sockets. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/probe_doors.h"
#include "kernel/sock_diag.h"

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#define IOCTL_UNIX_FILE 0x89e0          /* SIOCUNIXFILE */
#define GET_IPTABLES_INFO 64            /* IPT_SO_GET_INFO */

static int try_option(int family, int type, int level, int name, const char *what, struct err *err)
{
	own_fd fd = socket(family, type | SOCK_CLOEXEC, 0);
	int on = 1;

	if (fd < 0)
		return err_sys(err, "socket");
	return setsockopt(fd, level, name, &on, sizeof(on)) < 0 ? err_sys(err, "%s", what) : 0;
}

int probe_tcp_repair(struct err *err)
{
	return try_option(AF_INET, SOCK_STREAM, IPPROTO_TCP, TCP_REPAIR, "TCP_REPAIR", err);
}

int probe_ipv6_freebind(struct err *err)
{
	return try_option(AF_INET6, SOCK_STREAM, IPPROTO_IPV6, IPV6_FREEBIND, "IPV6_FREEBIND", err);
}

int probe_buf_lock(struct err *err)
{
	return try_option(AF_INET, SOCK_STREAM, SOL_SOCKET, SO_BUF_LOCK, "SO_BUF_LOCK", err);
}

/* A network namespace of its own in which 127.0.0.1 works. */
static int private_loopback(void)
{
	struct ifreq req = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	own_fd fd = unshare(CLONE_NEWNET) < 0 ? -1 : socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &req) < 0 ? -errno : 0;
}

static int repair_half_closed(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	own_fd server = -1, client = -1;
	int on = 1, r = private_loopback();

	if (r < 0)
		return r;
	server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server < 0 || client < 0 || bind(server, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(server, 1) < 0 ||
	    getsockname(server, (struct sockaddr *)&at, &len) < 0 ||
	    connect(client, (struct sockaddr *)&at, sizeof(at)) < 0 || shutdown(client, SHUT_WR) < 0)
		return -errno;
	return setsockopt(client, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0 ? -errno : 0;
}

int probe_tcp_half_closed(struct err *err)
{
	return probe_in_child(repair_half_closed, "TCP_REPAIR of a half-closed connection", err);
}

int probe_sk_ns(struct err *err)
{
	own_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), ns = -1;

	if (fd < 0)
		return err_sys(err, "socket");
	ns = ioctl(fd, SIOCGSKNS);
	return ns < 0 ? err_sys(err, "SIOCGSKNS") : 0;
}

/* A socket without a name has no file: ENOENT from a kernel that would have given it. */
int probe_sk_unix_file(struct err *err)
{
	own_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), file = -1;

	if (fd < 0)
		return err_sys(err, "socket");
	file = ioctl(fd, IOCTL_UNIX_FILE);
	return file < 0 && errno != ENOENT ? err_sys(err, "SIOCUNIXFILE") : 0;
}

int probe_unix_diag(struct err *err)
{
	return sock_diag_try(AF_UNIX, 0, err);
}

int probe_inet_diag(struct err *err)
{
	int r = sock_diag_try(AF_INET, IPPROTO_TCP, err);

	return r < 0 ? r : sock_diag_try(AF_INET, IPPROTO_UDP, err);
}

int probe_raw_diag(struct err *err)
{
	return sock_diag_try(AF_INET, IPPROTO_RAW, err);
}

int probe_tun(struct err *err)
{
	own_fd fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	unsigned int features;

	if (fd < 0)
		return err_sys(err, "/dev/net/tun");
	return ioctl(fd, TUNGETFEATURES, &features) < 0 ? err_sys(err, "TUNGETFEATURES") : 0;
}

int probe_tun_ns(struct err *err)
{
	own_fd fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC), ns = -1;

	if (fd < 0)
		return err_sys(err, "/dev/net/tun");
	ns = ioctl(fd, SIOCGSKNS);
	return ns < 0 ? err_sys(err, "SIOCGSKNS of a tun device") : 0;
}

/* Asking for a table makes it: in a namespace that goes away. */
static int ask_iptables(void)
{
	char info[84] = "filter";               /* struct ipt_getinfo: the table's name, then numbers */
	socklen_t len = sizeof(info);
	own_fd fd = unshare(CLONE_NEWNET) < 0 ? -1 : socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

	return fd < 0 || getsockopt(fd, IPPROTO_IP, GET_IPTABLES_INFO, info, &len) < 0 ? -errno : 0;
}

int probe_ipt_legacy(struct err *err)
{
	return probe_in_child(ask_iptables, "iptables' filter table", err);
}
