/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unix_make.c - the unix sockets of a snapshot, all at once.
 *
 *	create   pairs without a name, sockets that are not connected
 *	away     in an empty root (aside.h): connections whose ends have names, through a listening socket that
 *	         is there for that alone, since an accepted socket has the name of the one that accepted it; names
 *	         that lead nowhere any more; names of senders that are gone
 *	bind     at their real places: all others; then whoever is connected to them connects
 *	fill     streams and pairs get what waits in them; datagrams were sent when their receiver was bound
 *	finish   options, backlogs and shutdowns, which would all be in the way before
 *
 * An end whose other end is closed gets one (`far`), that is closed when it has sent what was left.
 * Sockets don't block meanwhile: an image must not make us wait.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>

#include "base/own.h"
#include "resource/file/aside.h"
#include "resource/file/unix_net.h"

#define PACKET_OVERHEAD 1024u   /* of the kernel's, for each */

struct node *net_node(const struct net *net, uint32_t ino)
{
	for (size_t i = 0; i < net->nodes.len && ino; i++)
		if (net->nodes.at[i].u->ino == ino)
			return &net->nodes.at[i];
	return NULL;
}

/* The other end of a connection or of a pair. */
static struct node *other_end(const struct net *net, const struct node *n)
{
	struct node *peer = net_node(net, n->u->peer);

	return peer && peer != n && peer->u->peer == n->u->ino ? peer : NULL;
}

static bool is_client(const struct net *net, const struct node *n)
{
	return unix_is_connection(n->u) && n->u->peer && !other_end(net, n);
}

/* ---- create ---- */

/*
 * Room for all descriptors that may come, before the table of them is shared with a child: to grow it then costs
 * milliseconds.
 */
static void reserve(const struct net *net)
{
	int last = net->m->base_fd + 2 * (int)net->nodes.len + (int)net->m->snapshot->packets.len + 16;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int far = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, last);

	if (far >= 0)
		close(far);
	if (fd >= 0)
		close(fd);
}

static int create_pair(struct net *net, struct node *n, int *ret_other)
{
	int pair[2], r;

	if (socketpair(AF_UNIX, (int)n->u->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return err_sys(net->err, "create a pair of unix sockets");
	r = net_keep(net, pair[0], n->fd);
	if (r < 0)
		close(pair[1]);
	return r < 0 ? r : net_keep(net, pair[1], ret_other);
}

/* Whatever can be made where no name matters; connections with names are left to `away`. */
static int create_node(struct net *net, struct node *n)
{
	struct node *other = other_end(net, n);
	bool dgram = n->u->type == SOCK_DGRAM;
	int r;

	if (*n->fd >= 0)
		return 0;
	if (other && (dgram || n->u->name_len + other->u->name_len == 0)) {
		r = create_pair(net, n, other->fd);
		n->connected = other->connected = r == 0;
		return r;
	}
	if (n->u->state == UNIX_CONNECTED && !n->u->peer && n->u->name_len == 0)
		return create_pair(net, n, &n->far);
	if (unix_is_connection(n->u) && !is_client(net, n))
		return 0;
	return net_create(net, n->u->type, n->fd);
}

/* ---- bind ---- */

static int connect_to(struct net *net, struct node *client, const struct unix_sock *to)
{
	int r = client && !client->connected ? net_connect(net, *client->fd, to) : 0;

	if (client && r == 0)
		client->connected = true;
	return r;
}

/* Binds a socket that has a name of its own; then its clients connect, first come first. */
static int settle(struct net *net, struct node *n)
{
	const struct unix_sock *u = n->u;
	int r = net_enter(net, u->dir, u->name, u->name_len);

	if (r == 0 && unix_is_path(u) && !net->away)
		r = net_remove_stale(net, u);
	if (r < 0 || (r = net_bind(net, *n->fd, u)) < 0)
		return r;
	n->settled = true;
	if (u->state == UNIX_LISTENING && listen(*n->fd, INT_MAX) < 0)
		return err_sys(net->err, "listen at %s", NET_SHOW(u));
	for (size_t i = 0; i < u->waiting.len && r == 0; i++)
		r = connect_to(net, net_node(net, u->waiting.at[i]), u);
	for (size_t i = 0; i < net->nodes.len && r == 0; i++)
		if (net->nodes.at[i].u->peer == u->ino)
			r = connect_to(net, &net->nodes.at[i], u);
	if (r == 0 && u->type == SOCK_DGRAM)
		r = net_fill(net, n);
	if (net->away)
		net_remove_name(u->name, u->name_len);
	return r;
}

/* ---- away ---- */

static bool has_listener(const struct net *net, const struct unix_sock *u)
{
	for (size_t i = 0; i < net->nodes.len; i++) {
		const struct unix_sock *l = net->nodes.at[i].u;

		if (l->state == UNIX_LISTENING && l->type == u->type && unix_same_name(l, u->name, u->name_len))
			return true;
	}
	return false;
}

/* Of two ends, was `a` accepted?  It has the name of a listening socket, and is younger. */
static bool was_accepted(const struct net *net, const struct unix_sock *a, const struct unix_sock *b)
{
	bool listens;

	if (a->name_len == 0 || b->name_len == 0)
		return a->name_len > 0;
	listens = has_listener(net, a);
	return listens != has_listener(net, b) ? listens : a->ino > b->ino;
}

/* Somebody else may have connected to an abstract name: take the one that is ours. */
static int accept_own(struct net *net, int listener, int *ret_fd)
{
	for (;;) {
		own_fd fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		struct ucred peer;
		socklen_t len = sizeof(peer);

		if (fd < 0)
			return err_sys(net->err, "accept our own connection");
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid == getpid())
			return net_keep(net, TAKE_FD(fd), ret_fd);
	}
}

/* A connection whose end n has a name; its other end goes to *ret_client. */
static int accept_node(struct net *net, struct node *n, int *ret_client)
{
	const struct unix_sock *u = n->u;
	int fd = -1, r = net_enter(net, u->dir, u->name, u->name_len);

	if (r < 0 || (r = net_create(net, u->type, ret_client)) < 0 || (r = net_create(net, u->type, &fd)) < 0)
		return r;
	own_fd listener = fd;
	if ((r = net_bind(net, listener, u)) < 0)
		return r;
	if (listen(listener, INT_MAX) < 0)
		return err_sys(net->err, "listen at %s", NET_SHOW(u));
	r = net_connect(net, *ret_client, u);
	if (r == 0)
		r = accept_own(net, listener, n->fd);
	net_remove_name(u->name, u->name_len);
	n->accepted = n->connected = true;
	return r;
}

static int make_connection(struct net *net, struct node *n)
{
	struct node *other = other_end(net, n);

	if (!other)
		return accept_node(net, n, &n->far);
	other->connected = true;
	return was_accepted(net, n->u, other->u) ? accept_node(net, n, other->fd) : 0;
}

static bool is_gone_sender(const struct net *net, const struct packet *p)
{
	return p->from_len > 0 && p->from[0] && !net_node_by_name(net, p->from, p->from_len);
}

static bool goes_away(const struct node *n)
{
	return *n->fd < 0 || (unix_is_path(n->u) && n->u->deleted);
}

static int work_away(void *data)
{
	struct net *net = data;
	const struct snapshot *s = net->m->snapshot;
	int fd, r = aside_empty_root(net->err);

	net->away = true;
	for (size_t i = 0; i < net->nodes.len && r == 0; i++)
		if (*net->nodes.at[i].fd < 0)
			r = make_connection(net, &net->nodes.at[i]);
	for (size_t i = 0; i < s->packets.len && r == 0; i++)
		if (is_gone_sender(net, &s->packets.at[i]))
			r = net_new_sender(net, i, &fd);
	for (size_t i = 0; i < net->nodes.len && r == 0; i++)
		if (goes_away(&net->nodes.at[i]) && !net->nodes.at[i].accepted)
			r = settle(net, &net->nodes.at[i]);
	net->away = false;
	return r;
}

static int work_in_place(void *data)
{
	struct net *net = data;
	int r = 0;

	for (size_t i = 0; i < net->nodes.len && r == 0; i++) {
		struct node *n = &net->nodes.at[i];

		if (n->u->name_len > 0 && !n->settled && !n->accepted)
			r = settle(net, n);
	}
	return r;
}

/* ---- finish ---- */

static int finish(struct net *net, const struct node *n)
{
	const struct unix_sock *u = n->u;
	int r = sock_opts_make(*n->fd, &u->opts, net->err);

	if (r < 0)
		return r;
	if (u->state == UNIX_LISTENING && listen(*n->fd, (int)u->backlog) < 0)
		return err_sys(net->err, "set the backlog of unix socket %u", u->ino);
	if (u->shutdown && shutdown(*n->fd, (int)u->shutdown - 1) < 0)
		return err_sys(net->err, "shut down unix socket %u", u->ino);
	return fcntl(*n->fd, F_SETFL, 0) < 0 ? err_sys(net->err, "make unix socket %u block", u->ino) : 0;
}

static void let_go(struct net *net)
{
	for (size_t i = 0; i < net->nodes.len; i++)
		if (net->nodes.at[i].far >= 0)
			close(net->nodes.at[i].far);
	for (size_t i = 0; i < net->senders.len; i++)
		close(net->senders.at[i].fd);
	vec_free(&net->nodes);
	vec_free(&net->senders);
}

static int gather(struct net *net)
{
	const struct snapshot *s = net->m->snapshot;
	int r = 0;

	for (size_t i = 0; i < s->packets.len; i++) {
		if (!unix_by_id(s, s->packets.at[i].file))
			return err_set(net->err, EBADMSG, "packet for file %#x, which is no unix socket", s->packets.at[i].file);
		net->room_bytes += s->packets.at[i].len_bytes + PACKET_OVERHEAD;
	}
	for (size_t i = 0; i < s->files.len && r == 0; i++) {
		const struct file *f = &s->files.at[i];

		if (f->type != &unix_type)
			continue;
		r = unix_check(f, s, net->err);
		*vec_add(&net->nodes) = (struct node){ .u = f->state, .id = f->id, .fd = &net->m->fds.at[i], .far = -1 };
	}
	return r;
}

static int make_net(struct net *net)
{
	const struct snapshot *s = net->m->snapshot;
	bool away = false, named = false;
	int r = gather(net);

	reserve(net);
	for (size_t i = 0; i < net->nodes.len && r == 0; i++)
		r = create_node(net, &net->nodes.at[i]);
	for (size_t i = 0; i < net->nodes.len; i++) {
		away |= goes_away(&net->nodes.at[i]);
		named |= net->nodes.at[i].u->name_len > 0;
	}
	for (size_t i = 0; i < s->packets.len; i++)
		away |= is_gone_sender(net, &s->packets.at[i]);
	if (r == 0 && away)
		r = aside(work_away, net, net->err);
	if (r == 0 && named)
		r = aside(work_in_place, net, net->err);
	for (size_t i = 0; i < net->nodes.len && r == 0; i++)
		if (net->nodes.at[i].u->type != SOCK_DGRAM || !net->nodes.at[i].settled)
			r = net_fill(net, &net->nodes.at[i]);
	return r;
}

int unix_make_all(struct maker *m, struct err *err)
{
	struct net net = { .m = m, .err = err };
	int r = make_net(&net);

	for (size_t i = 0; i < net.nodes.len && r == 0; i++) {
		if (net.nodes.at[i].far >= 0)
			close(own_fd_take(&net.nodes.at[i].far));
		r = finish(&net, &net.nodes.at[i]);
	}
	let_go(&net);
	return r;
}
