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
#include <sys/stat.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "resource/file/aside.h"
#include "resource/file/unix.h"

#define PACKET_OVERHEAD 1024u   /* of the kernel's, for each */

struct node {
	const struct unix_sock *u;
	uint32_t id;            /* of the file */
	int *fd;                /* in m->fds */
	int far;                /* -1: none */
	bool connected;         /* to what it shall be connected to */
	bool accepted;          /* has its name from the socket that accepted it */
	bool settled;           /* bound, its clients connected, its datagrams sent */
};

/* A socket that has the name of one that has sent a packet and is gone. */
struct sender { size_t packet; int fd; };

struct net {
	struct maker *m;
	VEC(struct node) nodes;
	VEC(struct sender) senders;
	size_t room_bytes;              /* enough to send all that waits anywhere */
	bool away;                      /* in the empty root */
	struct err *err;
};

struct address { struct sockaddr_un un; socklen_t len; };

static struct address address_of(const char *name, size_t name_len)
{
	struct address a = { .un.sun_family = AF_UNIX, .len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name_len) };

	memcpy(a.un.sun_path, name, name_len);
	return a;
}

/* As people write them: @ for the zero byte of abstract names. */
static const char *show(const char *name, size_t name_len, char buf[static UNIX_NAME_MAX + 1])
{
	memcpy(buf, name, name_len);
	buf[name_len] = '\0';
	for (size_t i = 0; i + 1 < name_len; i++)
		if (buf[i] == '\0')
			buf[i] = '@';
	return buf;
}

#define SHOW(u) show((u)->name, (u)->name_len, (char[UNIX_NAME_MAX + 1]){ 0 })

static struct node *node_by_ino(const struct net *net, uint32_t ino)
{
	for (size_t i = 0; i < net->nodes.len && ino; i++)
		if (net->nodes.at[i].u->ino == ino)
			return &net->nodes.at[i];
	return NULL;
}

/* The other end of a connection or of a pair. */
static struct node *other_end(const struct net *net, const struct node *n)
{
	struct node *peer = node_by_ino(net, n->u->peer);

	return peer && peer != n && peer->u->peer == n->u->ino ? peer : NULL;
}

static bool is_client(const struct net *net, const struct node *n)
{
	return unix_is_connection(n->u) && n->u->peer && !other_end(net, n);
}

/* ---- create ---- */

/* Takes `fd` and gives it a number that no task has. */
static int keep(struct net *net, int fd, int *ret_fd)
{
	own_fd low = fd;

	if (fd < net->m->base_fd) {
		int high = fcntl(fd, F_DUPFD_CLOEXEC, net->m->base_fd);

		if (high < 0)
			return err_sys(net->err, "move descriptor %d", fd);
		*ret_fd = high;
		return 0;
	}
	*ret_fd = TAKE_FD(low);
	return 0;
}

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

static int create(struct net *net, uint32_t type, int *ret_fd)
{
	int fd = socket(AF_UNIX, (int)type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? err_sys(net->err, "create unix socket") : keep(net, fd, ret_fd);
}

static int create_pair(struct net *net, struct node *n, int *ret_other)
{
	int pair[2], r;

	if (socketpair(AF_UNIX, (int)n->u->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return err_sys(net->err, "create a pair of unix sockets");
	r = keep(net, pair[0], n->fd);
	if (r < 0)
		close(pair[1]);
	return r < 0 ? r : keep(net, pair[1], ret_other);
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
	return create(net, n->u->type, n->fd);
}

/* ---- places and names ---- */

/* In the empty root, the directories of the path. */
static int make_dirs(struct net *net, char *path)
{
	for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = '\0';
		if (mkdir(path, 0700) < 0 && errno != EEXIST)
			return err_sys(net->err, "make directory %s", path);
		*at = '/';
	}
	return 0;
}

/* Goes where a relative name begins; what is missing on the way there is made in the empty root. */
static int enter(struct net *net, const char *dir, const char *name, size_t name_len)
{
	char path[UNIX_NAME_MAX + 1] = { 0 };
	int r = 0;

	if (name_len == 0 || name[0] == '\0')
		return 0;
	if (net->away) {
		own_free char *slashed = mem_fmt("%s/", dir ? dir : "");

		r = make_dirs(net, slashed);
	}
	if (r == 0 && dir && chdir(dir) < 0)
		return err_sys(net->err, "enter %s", dir);
	if (r == 0 && net->away) {
		memcpy(path, name, name_len);
		r = make_dirs(net, path);
	}
	return r;
}

static int bind_name(struct net *net, int fd, const char *name, size_t name_len)
{
	struct address a = address_of(name, name_len);
	char buf[UNIX_NAME_MAX + 1];

	if (bind(fd, (struct sockaddr *)&a.un, a.len) < 0)
		return err_sys(net->err, "bind unix socket to %s", show(name, name_len, buf));
	return 0;
}

static int connect_name(struct net *net, int fd, const struct unix_sock *to)
{
	struct address a = address_of(to->name, to->name_len);

	if (connect(fd, (struct sockaddr *)&a.un, a.len) < 0)
		return err_sys(net->err, "connect unix socket to %s", SHOW(to));
	return 0;
}

static void remove_name(const char *name, size_t name_len)
{
	char path[UNIX_NAME_MAX + 1] = { 0 };

	memcpy(path, name, name_len);
	if (name_len > 0 && name[0])
		(void)unlink(path);
}

/*
 * A socket file of that name is what the dumped program has left, unless somebody has it bound: a datagram socket
 * can try to connect to it, and no server takes notice.
 */
static int remove_stale(struct net *net, const struct unix_sock *u)
{
	struct address a = address_of(u->name, u->name_len);
	own_fd probe = -1;
	struct stat st;

	if (lstat(SHOW(u), &st) < 0 || !S_ISSOCK(st.st_mode))
		return 0;
	probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (probe < 0)
		return err_sys(net->err, "create unix socket");
	if (connect(probe, (struct sockaddr *)&a.un, a.len) == 0 || errno != ECONNREFUSED)
		return err_set(net->err, EADDRINUSE, "%s is in use by another socket", SHOW(u));
	remove_name(u->name, u->name_len);
	return 0;
}

static int set_perms(struct net *net, const struct unix_sock *u)
{
	const char *path = SHOW(u);

	if (!unix_is_path(u) || !u->has_perms)
		return 0;
	if (lchown(path, u->uid, u->gid) < 0)
		return err_sys(net->err, "give %s to %u:%u", path, u->uid, u->gid);
	return chmod(path, u->mode & 07777) < 0 ? err_sys(net->err, "set the mode of %s", path) : 0;
}

/* ---- what waits ---- */

static struct node *node_by_name(const struct net *net, const char *name, size_t name_len)
{
	for (size_t i = 0; i < net->nodes.len; i++)
		if (net->nodes.at[i].u->type == SOCK_DGRAM && unix_same_name(net->nodes.at[i].u, name, name_len))
			return &net->nodes.at[i];
	return NULL;
}

/* A socket with the name of one that has sent and is gone. */
static int new_sender(struct net *net, size_t packet, int *ret_fd)
{
	const struct packet *p = &net->m->snapshot->packets.at[packet];
	struct address a = address_of(p->from, p->from_len);
	int fd, r = create(net, SOCK_DGRAM, &fd);

	if (r < 0)
		return r;
	vec_push(&net->senders, ((struct sender){ packet, fd }));
	*ret_fd = fd;
	if (p->from_len == 0)
		return 0;
	r = enter(net, p->from[0] ? "/" : NULL, p->from, p->from_len);
	if (r == 0 && bind(fd, (struct sockaddr *)&a.un, a.len) < 0)
		log_warn("a message in file %#x loses the name of its sender: %s", p->file, strerror(errno));
	remove_name(p->from, net->away ? p->from_len : 0);
	return r;
}

/* Who sends packet number `packet` to n, and whether it must say where to. */
static int pick_sender(struct net *net, const struct node *n, size_t packet, int *ret_fd, bool *ret_by_name)
{
	const struct packet *p = &net->m->snapshot->packets.at[packet];
	const struct node *peer = node_by_ino(net, n->u->peer);

	if (!peer && p->from_len > 0 && n->u->type == SOCK_DGRAM && n->far < 0)
		peer = node_by_name(net, p->from, p->from_len);
	*ret_by_name = false;
	*ret_fd = n->far;
	if (n->far >= 0)
		return 0;
	if (peer) {
		*ret_fd = *peer->fd;
		*ret_by_name = peer->u->peer != n->u->ino || !peer->connected;
		return 0;
	}
	*ret_by_name = true;
	for (size_t i = 0; i < net->senders.len; i++)
		if (net->senders.at[i].packet == packet) {
			*ret_fd = net->senders.at[i].fd;
			return 0;
		}
	return new_sender(net, packet, ret_fd);
}

static int send_packet(struct net *net, const struct node *n, size_t packet)
{
	const struct packet *p = &net->m->snapshot->packets.at[packet];
	struct address to = address_of(n->u->name, n->u->name_len);
	size_t done = 0;
	bool by_name;
	int fd, r = pick_sender(net, n, packet, &fd, &by_name);

	if (r == 0 && by_name && n->u->name_len == 0)
		return err_set(net->err, EBADMSG, "nobody can send to unix socket %u what waits in it", n->u->ino);
	if (r == 0)
		r = sock_room(fd, net->room_bytes, net->err);
	while (r == 0) {
		ssize_t n_sent = sendto(fd, p->bytes + done, p->len_bytes - done, MSG_DONTWAIT | MSG_NOSIGNAL,
					by_name ? (struct sockaddr *)&to.un : NULL, by_name ? to.len : 0);

		if (n_sent < 0)
			return err_sys(net->err, "send what waits in unix socket %u (packet of %zu bytes)", n->u->ino, p->len_bytes);
		done += (size_t)n_sent;
		if (done >= p->len_bytes)
			break;
	}
	return r;
}

static int fill(struct net *net, const struct node *n)
{
	const struct snapshot *s = net->m->snapshot;
	int r = 0;

	for (size_t i = 0; i < s->packets.len && r == 0; i++)
		if (s->packets.at[i].file == n->id)
			r = send_packet(net, n, i);
	return r;
}

/* ---- bind ---- */

static int connect_to(struct net *net, struct node *client, const struct unix_sock *to)
{
	int r = client && !client->connected ? connect_name(net, *client->fd, to) : 0;

	if (client && r == 0)
		client->connected = true;
	return r;
}

/* Binds a socket that has a name of its own; then its clients connect, first come first. */
static int settle(struct net *net, struct node *n)
{
	const struct unix_sock *u = n->u;
	int r = enter(net, u->dir, u->name, u->name_len);

	if (r == 0 && unix_is_path(u) && !net->away)
		r = remove_stale(net, u);
	if (r < 0 || (r = bind_name(net, *n->fd, u->name, u->name_len)) < 0 || (r = set_perms(net, u)) < 0)
		return r;
	n->settled = true;
	if (u->state == UNIX_LISTENING && listen(*n->fd, INT_MAX) < 0)
		return err_sys(net->err, "listen at %s", SHOW(u));
	for (size_t i = 0; i < u->waiting.len && r == 0; i++)
		r = connect_to(net, node_by_ino(net, u->waiting.at[i]), u);
	for (size_t i = 0; i < net->nodes.len && r == 0; i++)
		if (net->nodes.at[i].u->peer == u->ino)
			r = connect_to(net, &net->nodes.at[i], u);
	if (r == 0 && u->type == SOCK_DGRAM)
		r = fill(net, n);
	if (net->away)
		remove_name(u->name, u->name_len);
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
			return keep(net, TAKE_FD(fd), ret_fd);
	}
}

/* A connection whose end n has a name; its other end goes to *ret_client. */
static int accept_node(struct net *net, struct node *n, int *ret_client)
{
	const struct unix_sock *u = n->u;
	int fd = -1, r = enter(net, u->dir, u->name, u->name_len);

	if (r < 0 || (r = create(net, u->type, ret_client)) < 0 || (r = create(net, u->type, &fd)) < 0)
		return r;
	own_fd listener = fd;
	if ((r = bind_name(net, listener, u->name, u->name_len)) < 0 || (r = set_perms(net, u)) < 0)
		return r;
	if (listen(listener, INT_MAX) < 0)
		return err_sys(net->err, "listen at %s", SHOW(u));
	r = connect_name(net, *ret_client, u);
	if (r == 0)
		r = accept_own(net, listener, n->fd);
	remove_name(u->name, u->name_len);
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
	return p->from_len > 0 && p->from[0] && !node_by_name(net, p->from, p->from_len);
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
			r = new_sender(net, i, &fd);
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
			r = fill(net, &net->nodes.at[i]);
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
