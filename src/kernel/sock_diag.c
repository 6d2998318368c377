/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "kernel/proc.h"
#include "kernel/sock_diag.h"

#define ALL_STATES UINT32_MAX
#define NO_STATES 0u
#define REPLY_BYTES 32768u

static void drop_socket(struct mnl_socket **nl)
{
	int saved = errno;

	if (*nl)
		mnl_socket_close(*nl);
	errno = saved;
}

#define own_socket __attribute__((cleanup(drop_socket))) struct mnl_socket

/* The fixed part of an attribute, or NULL if it is shorter than that. */
static const void *attr_of(const struct nlattr *attr, size_t size)
{
	return mnl_attr_get_payload_len(attr) >= size ? mnl_attr_get_payload(attr) : NULL;
}

static void unix_name(struct sock_unix *sock, const struct nlattr *attr)
{
	size_t len = mnl_attr_get_payload_len(attr);

	sock->name_len = (uint8_t)(len < sizeof(sock->name) ? len : sizeof(sock->name));
	memcpy(sock->name, mnl_attr_get_payload(attr), sock->name_len);
}

static void unix_icons(struct sock_unix *sock, const struct nlattr *attr)
{
	size_t count = mnl_attr_get_payload_len(attr) / sizeof(*sock->icons);

	if (count == 0 || sock->icons)
		return;
	sock->icons = mem_dup(mnl_attr_get_payload(attr), count * sizeof(*sock->icons));
	sock->icon_count = count;
}

static int unix_attr(const struct nlattr *attr, void *data)
{
	struct sock_unix *sock = data;
	const void *body;

	switch (mnl_attr_get_type(attr)) {
	case UNIX_DIAG_NAME:
		unix_name(sock, attr);
		break;
	case UNIX_DIAG_ICONS:
		unix_icons(sock, attr);
		break;
	case UNIX_DIAG_VFS:
		if ((body = attr_of(attr, sizeof(struct unix_diag_vfs)))) {
			const struct unix_diag_vfs *vfs = body;

			sock->has_vfs = true;
			sock->vfs_ino = vfs->udiag_vfs_ino;
			sock->vfs_dev = proc_kdev(vfs->udiag_vfs_dev);
		}
		break;
	case UNIX_DIAG_PEER:
		if ((body = attr_of(attr, sizeof(uint32_t))))
			memcpy(&sock->peer, body, sizeof(sock->peer));
		break;
	case UNIX_DIAG_RQLEN:
		if ((body = attr_of(attr, sizeof(struct unix_diag_rqlen)))) {
			const struct unix_diag_rqlen *queue = body;

			sock->rqueue = queue->udiag_rqueue;
			sock->wqueue = queue->udiag_wqueue;
		}
		break;
	case UNIX_DIAG_SHUTDOWN:
		if ((body = attr_of(attr, 1)))
			sock->shutdown = *(const uint8_t *)body;
		break;
	case UNIX_DIAG_UID:
		if ((body = attr_of(attr, sizeof(uint32_t))))
			memcpy(&sock->uid, body, sizeof(sock->uid));
		break;
	}
	return MNL_CB_OK;
}

static int unix_message(const struct nlmsghdr *nlh, void *data)
{
	const struct unix_diag_msg *msg = mnl_nlmsg_get_payload(nlh);
	struct sock_diag *diag = data;
	struct sock_unix *sock;

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*msg) || msg->udiag_ino == 0)
		return MNL_CB_OK;
	sock = vec_add(&diag->unix_socks);
	sock->ino = msg->udiag_ino;
	sock->type = msg->udiag_type;
	sock->state = msg->udiag_state;
	return mnl_attr_parse(nlh, sizeof(*msg), unix_attr, sock);
}

static int inet_attr(const struct nlattr *attr, void *data)
{
	struct sock_inet *sock = data;
	const uint8_t *body = attr_of(attr, 1);

	if (body && mnl_attr_get_type(attr) == INET_DIAG_SHUTDOWN)
		sock->shutdown = *body;
	if (body && mnl_attr_get_type(attr) == INET_DIAG_SKV6ONLY)
		sock->v6only = *body != 0;
	return MNL_CB_OK;
}

struct inet_dump { struct sock_diag *diag; uint8_t proto; };

static int inet_message(const struct nlmsghdr *nlh, void *data)
{
	const struct inet_diag_msg *msg = mnl_nlmsg_get_payload(nlh);
	const struct inet_dump *dump = data;
	struct sock_inet *sock;

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*msg) || msg->idiag_inode == 0)
		return MNL_CB_OK;
	sock = vec_add(&dump->diag->inet_socks);
	*sock = (struct sock_inet){
		.ino = msg->idiag_inode,
		.family = msg->idiag_family,
		.type = dump->proto == IPPROTO_TCP ? SOCK_STREAM : SOCK_DGRAM,
		.proto = dump->proto,
		.state = msg->idiag_state,
		.src_port = ntohs(msg->id.idiag_sport),
		.dst_port = ntohs(msg->id.idiag_dport),
		.ifindex = msg->id.idiag_if,
		.uid = msg->idiag_uid,
		.rqueue = msg->idiag_rqueue,
		.wqueue = msg->idiag_wqueue,
	};
	memcpy(sock->src, msg->id.idiag_src, sizeof(sock->src));
	memcpy(sock->dst, msg->id.idiag_dst, sizeof(sock->dst));
	return mnl_attr_parse(nlh, sizeof(*msg), inet_attr, sock);
}

/* Sends a dump request with this body and hands every answer to `on_message`; 0 or -errno. */
static int dump_table(struct mnl_socket *nl, const void *body, size_t len, mnl_cb_t on_message, void *data)
{
	own_free char *buf = mem_new(REPLY_BYTES);
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	ssize_t n;
	int r = MNL_CB_OK;

	nlh->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	memcpy(mnl_nlmsg_put_extra_header(nlh, len), body, len);
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	while (r > MNL_CB_STOP) {
		n = mnl_socket_recvfrom(nl, buf, REPLY_BYTES);
		if (n < 0)
			return -errno;
		r = mnl_cb_run(buf, (size_t)n, 0, 0, on_message, data);
	}
	return r < 0 ? -errno : 0;
}

static int dump_unix(struct mnl_socket *nl, uint32_t states, struct sock_diag *diag)
{
	const struct unix_diag_req req = {
		.sdiag_family = AF_UNIX,
		.udiag_states = states,
		.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN |
			      UDIAG_SHOW_UID,
	};

	return dump_table(nl, &req, sizeof(req), unix_message, diag);
}

static int dump_inet(struct mnl_socket *nl, uint8_t family, uint8_t proto, uint32_t states, struct sock_diag *diag)
{
	const struct inet_diag_req_v2 req = {
		.sdiag_family = family,
		.sdiag_protocol = proto,
		.idiag_ext = 1 << (INET_DIAG_SHUTDOWN - 1),
		.idiag_states = states,
	};
	struct inet_dump dump = { diag, proto };

	return dump_table(nl, &req, sizeof(req), inet_message, &dump);
}

static int dump_family(struct mnl_socket *nl, uint8_t family, uint8_t proto, uint32_t states, struct sock_diag *diag)
{
	return family == AF_UNIX ? dump_unix(nl, states, diag) : dump_inet(nl, family, proto, states, diag);
}

/* The netlink socket stays in the namespace that it was opened in. */
static int open_here(struct mnl_socket **ret_nl, struct err *err)
{
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);

	if (!nl)
		return err_sys(err, "open netlink");
	*ret_nl = nl;
	return 0;
}

static int open_in(int netns_fd, struct mnl_socket **ret_nl, struct err *err)
{
	own_fd home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	struct mnl_socket *nl;
	int r;

	if (home < 0 || setns(netns_fd, CLONE_NEWNET) < 0)
		return err_sys(err, "enter the network namespace");
	r = open_here(&nl, err);
	if (setns(home, CLONE_NEWNET) < 0)
		abort();        /* never go on in somebody else's namespace */
	if (r == 0)
		*ret_nl = nl;
	return r;
}

static const struct { const char *name; uint8_t family, proto; } tables[] = {
	{ "unix", AF_UNIX, 0 },
	{ "TCP", AF_INET, IPPROTO_TCP },
	{ "TCP6", AF_INET6, IPPROTO_TCP },
	{ "UDP", AF_INET, IPPROTO_UDP },
	{ "UDP6", AF_INET6, IPPROTO_UDP },
};

static int by_ino(const void *a, const void *b)
{
	/* ino is the first member of both kinds */
	return (*(const uint32_t *)a > *(const uint32_t *)b) - (*(const uint32_t *)a < *(const uint32_t *)b);
}

#define sort_by_ino(vec) ((vec)->len > 1 ? qsort((vec)->at, (vec)->len, sizeof(*(vec)->at), by_ino) : (void)0)

int sock_diag_collect(int netns_fd, struct sock_diag *ret_diag, struct err *err)
{
	struct sock_diag diag = { 0 };
	own_socket *nl = NULL;
	int r = netns_fd < 0 ? open_here(&nl, err) : open_in(netns_fd, &nl, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
		r = dump_family(nl, tables[i].family, tables[i].proto, ALL_STATES, &diag);
		if (r == -ENOENT) {
			log_info("this kernel lists no %s sockets", tables[i].name);
		} else if (r < 0) {
			sock_diag_free(&diag);
			return err_set(err, -r, "list %s sockets: %s", tables[i].name, strerror(-r));
		}
	}
	sort_by_ino(&diag.unix_socks);
	sort_by_ino(&diag.inet_socks);
	*ret_diag = diag;
	return 0;
}

void sock_diag_free(struct sock_diag *diag)
{
	for (size_t i = 0; i < diag->unix_socks.len; i++)
		free(diag->unix_socks.at[i].icons);
	vec_free(&diag->unix_socks);
	vec_free(&diag->inet_socks);
}

static const void *find(const void *at, size_t len, size_t size, ino_t ino)
{
	uint32_t key = (uint32_t)ino;

	return len && key == ino ? bsearch(&key, at, len, size, by_ino) : NULL;
}

const struct sock_unix *sock_diag_unix(const struct sock_diag *diag, ino_t ino)
{
	return find(diag->unix_socks.at, diag->unix_socks.len, sizeof(*diag->unix_socks.at), ino);
}

const struct sock_inet *sock_diag_inet(const struct sock_diag *diag, ino_t ino)
{
	return find(diag->inet_socks.at, diag->inet_socks.len, sizeof(*diag->inet_socks.at), ino);
}

int sock_diag_try(uint8_t family, uint8_t proto, struct err *err)
{
	struct sock_diag diag = { 0 };
	own_socket *nl = NULL;
	int r = open_here(&nl, err);

	if (r < 0)
		return r;
	r = dump_family(nl, family, proto, NO_STATES, &diag);
	sock_diag_free(&diag);
	return r < 0 ? err_set(err, -r, "list sockets of family %u: %s", family, strerror(-r)) : 0;
}
